//! What is fuzzed: one function for each place where bytes of others come in. It must not panic, and what it
//! checks must hold. `tests/fuzz.rs` calls these on a corpus and on new inputs, `cargo fuzz` does with coverage
//! (`tests/fuzz/fuzz_targets/`).

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use lightnvr::api::json::Fields;
use lightnvr::api::{settings, streams};
use lightnvr::buffer::ring::{Chunk, Ring, Take};
use lightnvr::buffer::spill_core::{self, Blocks};
use lightnvr::config::transport::Transport;
use lightnvr::http::head_core;
use lightnvr::ingest::auth::Auth;
use lightnvr::ingest::rtp::RtpPacket;
use lightnvr::ingest::rtsp_message::{Parser, Signature};
use lightnvr::ingest::session_core::{Memory, OUTPUT_BYTES_MAX, SessionCore};
use lightnvr::ingest::timeline::Origin;
use lightnvr::ingest::track::{AudioTrack, VideoTrack};
use lightnvr::ingest::url::RtspUrl;
use lightnvr::ingest::{SourceEvent, sdp, session_setup};
use lightnvr::media::fmp4_scan::{Scanner, Want};
use lightnvr::media::format::{VideoCodec, VideoFormat};
use lightnvr::media::nal;
use lightnvr::media::packet::{PACKET_BYTES_MAX, Packet, Run, Track};

/// A target and its name, which is also its corpus's.
pub type Target = (&'static str, fn(&[u8]));

pub static TARGETS: [Target; 10] = [
    ("rtsp_message", rtsp_message),
    ("sdp", any_sdp),
    ("rtp_h264", rtp_h264),
    ("rtp_h265", rtp_h265),
    ("aac", aac),
    ("session", session),
    ("fmp4", fmp4),
    ("http_head", http_head),
    ("settings_json", settings_json),
    ("ring", ring),
];

/// How the stream is cut into reads must not matter.
pub fn rtsp_message(data: &[u8]) {
    let known = [Signature { channel: 0, payload_type: Some(96), ssrc: None }];
    let parse = |step: usize| {
        let (mut parser, mut items, mut start, mut end) = (Parser::default(), 0, 0, 0);
        while end < data.len() {
            end = (end + step).min(data.len());
            loop {
                match parser.parse(&data[start..end], &known) {
                    Ok(Some((item, used))) => {
                        assert!(used > 0 && used <= end - start);
                        let is_junk = matches!(item, lightnvr::ingest::rtsp_message::Item::Junk);
                        items += usize::from(!is_junk);
                        start += used;
                    }
                    Ok(None) => break,
                    Err(bad) => return (items, start, Some(bad.what)),
                }
            }
        }
        (items, start, None)
    };
    assert_eq!(parse(1), parse(data.len().max(1)));
}

/// A description, and what would be set up from it.
pub fn any_sdp(data: &[u8]) {
    let description = sdp::parse(data);
    assert!(description.media.len() <= sdp::MEDIA_MAX);
    for media in &description.media {
        assert!(media.formats.len() <= sdp::FORMATS_MAX);
        assert!(media.formats.iter().all(|format| format.clock_rate > 0));
    }
    let base = sdp::base_url(std::str::from_utf8(data).ok(), "rtsp://camera/1");
    if let Ok(chosen) = session_setup::choose(&description, &base) {
        assert!(!chosen.video.1.contains(char::is_control));
    }
}

/// Packets of one track: a byte of length, a byte that says what changes, the payload.
fn packets(mut data: &[u8], mut each: impl FnMut(&RtpPacket<'_>, Instant)) {
    let t0 = Instant::now();
    let (mut sequence, mut timestamp) = (0_u16, 0_u32);
    for n in 0.. {
        let Some((&[length, how], rest)) = data.split_first_chunk::<2>() else { return };
        let (payload, rest) = rest.split_at(usize::from(length).min(rest.len()));
        data = rest;
        sequence = sequence.wrapping_add(1 + u16::from(how & 0x40 != 0));
        timestamp = match how >> 1 & 7 {
            0 | 1 => timestamp,
            2..=5 => timestamp.wrapping_add(3600),
            6 => timestamp.wrapping_sub(1_234_567),
            _ => timestamp.wrapping_add(1 << 30),
        };
        let packet = RtpPacket {
            payload_type: 96,
            has_marker: how & 1 != 0,
            sequence,
            timestamp,
            ssrc: u32::from(how & 0x80 != 0),
            extension: None,
            payload,
        };
        each(&packet, t0 + Duration::from_millis(40) * n);
    }
}

fn rtp_video(data: &[u8], encoding: &str) {
    let text = format!("m=video 0 RTP/AVP 96\na=rtpmap:96 {encoding}/90000\n");
    let description = sdp::parse(text.as_bytes());
    let media = &description.media[0];
    let mut track = VideoTrack::new(media, &media.formats[0]).expect("a codec that is known");
    let mut origin = Origin::default();
    let mut last_dts = i64::MIN;
    let mut check = |event| {
        if let SourceEvent::Unit(unit) = event {
            assert!(unit.dts > last_dts && unit.pts >= unit.dts, "T1");
            last_dts = unit.dts;
            assert!(unit.data.len() <= PACKET_BYTES_MAX);
            let whole: usize = nal::length_prefixed_nals(&unit.data).map(|nal| nal.len() + 4).sum();
            assert_eq!(whole, unit.data.len(), "lengths and NAL units fill the data");
        }
    };
    packets(data, |packet, now| track.push(packet, false, now, &mut origin, &mut check));
    track.finish(&mut origin, &mut check);
}

pub fn rtp_h264(data: &[u8]) {
    rtp_video(data, "H264");
}

pub fn rtp_h265(data: &[u8]) {
    rtp_video(data, "H265");
}

/// AAC with headers of its own or without, by the first byte.
pub fn aac(data: &[u8]) {
    let Some((&how, data)) = data.split_first() else { return };
    let fmtp = [
        "mode=AAC-hbr;sizelength=13;indexlength=3;indexdeltalength=3;config=1408",
        "mode=AAC-hbr;sizelength=13;indexlength=3;indexdeltalength=3",
        "mode=AAC-lbr;sizelength=6;indexlength=2;indexdeltalength=2;config=1408",
        "config=zz",
    ];
    let fmtp = fmtp[usize::from(how) % fmtp.len()];
    let text =
        format!("m=audio 0 RTP/AVP 96\na=rtpmap:96 MPEG4-GENERIC/16000/1\na=fmtp:96 {fmtp}\n");
    let description = sdp::parse(text.as_bytes());
    let Some(mut track) = AudioTrack::new(&description.media[0].formats[0]) else { return };
    let mut origin = Origin::default();
    let mut last_pts = i64::MIN;
    packets(data, |packet, now| {
        track.push(packet, false, now, &mut origin, &mut |event| {
            if let SourceEvent::Unit(unit) = event {
                assert!(unit.pts > last_pts, "times rise");
                last_pts = unit.pts;
            }
        });
    });
}

/// A session: each event is a byte that says what, two bytes of length or time, and bytes.
pub fn session(mut data: &[u8]) {
    let url = RtspUrl::parse("rtsp://user:geheim@camera/1").expect("a good URL");
    let auth = Auth::new(url.credentials.clone(), 1);
    let memory = Memory {
        auth,
        skips_audio: false,
        needs_get_parameter: false,
        transport: Transport::Auto,
        refuses_tcp: false,
    };
    let mut now = Instant::now();
    let mut core = SessionCore::new(url, memory, now);
    let mut unparsed: Vec<u8> = Vec::new();
    let mut sink = |event| match event {
        SourceEvent::Advice(text) => assert!(!text.contains("geheim")),
        SourceEvent::Unit(unit) => assert!(unit.data.len() <= PACKET_BYTES_MAX),
        _ => {}
    };
    while let Some((&[what, high, low], rest)) = data.split_first_chunk::<3>() {
        let number = u16::from_be_bytes([high, low]);
        data = rest;
        let (bytes, rest) = rest.split_at(usize::from(number).min(rest.len()));
        let ended = match what % 8 {
            0..=3 => {
                data = rest;
                unparsed.extend_from_slice(bytes);
                core.receive(&unparsed, now, &mut sink).map(|used| drop(unparsed.drain(..used)))
            }
            4 | 5 => {
                data = rest;
                core.datagram(usize::from(what & 1), what & 16 != 0, bytes, now, &mut sink)
            }
            6 if core.wants_ports() => {
                core.set_ports([28_000, 28_002], 7, now);
                Ok(())
            }
            _ => {
                now += Duration::from_millis(number.into());
                core.reports(now);
                core.poll(now, &mut sink).map(drop)
            }
        };
        let sent = String::from_utf8_lossy(core.output()).into_owned();
        assert!(!sent.contains("geheim"), "S1: no password on the wire");
        assert!(sent.len() <= 2 * OUTPUT_BYTES_MAX, "S1: bounded");
        if let Err(end) = ended {
            assert!(!format!("{end:?}").contains("geheim"));
            break;
        }
        if what & 32 != 0 {
            core.output().clear();
        }
    }
    core.finish(&mut sink);
}

/// A file after a crash.
pub fn fmp4(data: &[u8]) {
    let mut scanner = Scanner::new(data.len() as u64);
    // A step reads something or ends.
    for _ in 0..data.len() + 16 {
        match scanner.next() {
            Want::Read { at, len } => {
                let from = usize::try_from(at).expect("within the file").min(data.len());
                scanner.feed(&data[from..(from + len).min(data.len())]);
            }
            Want::Done(_) => return,
        }
    }
    panic!("the scan goes on for ever");
}

/// The head of a request.
pub fn http_head(data: &[u8]) {
    let skipped = head_core::leading_empty_lines(data);
    assert!(skipped <= data.len());
    let data = &data[skipped..];
    let found = head_core::find_end(data, 0);
    for cut in [data.len() / 2, data.len().saturating_sub(1)] {
        // Looking again from where nothing was found must find the same.
        if head_core::find_end(&data[..cut], 0) == Ok(None) {
            let again = head_core::find_end(data, cut);
            assert_eq!(again.is_ok(), found.is_ok());
            assert_eq!(again.ok(), found.ok());
        }
    }
    if let Ok(Some(end)) = found {
        assert!(end <= data.len());
        if let Ok(request) = head_core::parse(&data[..end]) {
            assert!(request.path().starts_with('/') || request.path() == "*");
        }
    }
}

/// The body of a PUT.
pub fn settings_json(data: &[u8]) {
    let Ok(fields) = Fields::parse(data) else { return };
    // Each value that is taken is in its range, which the readers check.
    let _ = settings::read_patch(&fields);
    let Ok(fields) = Fields::parse(data) else { return };
    let _ = streams::read_patch(&fields);
}

fn video(key: bool, data: Vec<u8>) -> Packet {
    let format = VideoFormat {
        codec: VideoCodec::H264,
        width: 16,
        height: 16,
        fps_milli: 0,
        decoder_config: Vec::new(),
        rfc6381: String::new(),
        reorder_frames: None,
    };
    Packet {
        seq: 0,
        run: Arc::new(Run { id: 1, audio: None }),
        track: Track::Video(Arc::new(format)),
        pts: 0,
        dts: 0,
        is_key: key,
        is_damaged: false,
        wall_ms: 0,
        data,
    }
}

/// A ring and its part of a swap file against a queue: what comes out is what went in, in order, and where
/// something is missing it begins again at a keyframe.
pub fn ring(data: &[u8]) {
    let mut ring = Ring::new(1, 5, 1 << 20);
    let mut blocks = Blocks::new(64 << 20).expect("room for blocks");
    let mut model: VecDeque<(u64, Vec<u8>)> = VecDeque::new();
    let mut file: Vec<(u16, Vec<u8>)> = Vec::new();
    let mut was_lost = false;
    for pair in data.chunks_exact(2) {
        let (what, size) = (pair[0] % 8, usize::from(pair[1]));
        match what {
            0..=2 => {
                let mut packet = video(what == 0, vec![pair[1]; size * 40]);
                if ring.admit(&mut packet) {
                    model.push_back((packet.seq, packet.data.clone()));
                    ring.append(Arc::new(packet));
                }
            }
            3 | 4 => match ring.take() {
                Take::Packet(packet) => {
                    while model.front().is_some_and(|(seq, _)| *seq < packet.seq) {
                        assert!(was_lost, "nothing is left out without a loss");
                        model.pop_front();
                    }
                    let (seq, sent) = model.pop_front().expect("only what went in comes out");
                    assert_eq!((seq, &sent), (packet.seq, &packet.data));
                }
                Take::Loading => {
                    let chunk = ring.wanted().expect("what is waited for").clone();
                    let at = file.iter().position(|(first, _)| *first == chunk.first_block);
                    let (_, bytes) = file.remove(at.expect("it was written"));
                    let is_broken = size == 255;
                    was_lost |= is_broken;
                    let packets = spill_core::decode(&bytes, &chunk.table).filter(|_| !is_broken);
                    ring.end_load(packets);
                    blocks.release(chunk.first_block);
                }
                Take::Empty => {}
            },
            5 | 6 => spill(&mut ring, &mut blocks, &mut file, what == 6 && size > 200),
            _ => {
                if size > 128 && ring.can_drop() {
                    was_lost |= ring.drop_group();
                } else if size > 64 {
                    for chunk in ring.drop_spilled() {
                        was_lost = true;
                        file.retain(|(first, _)| *first != chunk.first_block);
                        blocks.release(chunk.first_block);
                    }
                }
            }
        }
        ring.check();
    }
}

fn spill(ring: &mut Ring, blocks: &mut Blocks, file: &mut Vec<(u16, Vec<u8>)>, fails: bool) {
    let Some((packets, table)) = ring.begin_write() else { return };
    let bytes = spill_core::encode(&packets, &table);
    let block = if fails { None } else { blocks.allocate(bytes.len()) };
    let chunk = block.map(|first_block| Chunk {
        file: 0,
        first_block,
        bytes: bytes.len(),
        crc: spill_core::crc32(&bytes),
        table,
        packets: packets.len() as u64,
        first_seq: packets[0].seq,
        from_ms: packets[0].wall_ms,
        to_ms: packets[packets.len() - 1].wall_ms,
        starts_with_key: packets[0].is_video_key(),
    });
    if let Some(chunk) = &chunk {
        file.push((chunk.first_block, bytes));
    }
    assert!(ring.end_write(chunk).is_none(), "nothing was taken in between");
}
