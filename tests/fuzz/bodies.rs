//! What is fuzzed: one function for each place where bytes of others come in. It must not panic, and what it
//! checks must hold. `tests/fuzz.rs` calls these on a corpus and on new inputs, `cargo fuzz` does with coverage
//! (`tests/fuzz/fuzz_targets/`).

#[path = "ring_body.rs"]
mod ring_body;

use std::time::{Duration, Instant};

use lightnvr::api::json::Fields;
use lightnvr::api::{settings, streams};
use lightnvr::config::transport::Transport;
use lightnvr::http::head_core;
use lightnvr::ingest::auth::Auth;
use lightnvr::ingest::rtp::RtpPacket;
use lightnvr::ingest::rtsp_message::{ITEM_BYTES_MAX, Parser, Signature};
use lightnvr::ingest::session_core::{ADVICE_MAX, End, Memory, OUTPUT_BYTES_MAX, SessionCore};
use lightnvr::ingest::timeline::Origin;
use lightnvr::ingest::track::{AudioTrack, VideoTrack};
use lightnvr::ingest::url::RtspUrl;
use lightnvr::ingest::{SourceEvent, sdp, session_setup};
use lightnvr::media::fmp4::{dating_patches, finishing_patches};
use lightnvr::media::fmp4_join::{JoinHead, earliest_ticks, move_fragment, track_times};
use lightnvr::media::fmp4_scan::{ENTRIES_MAX, Scan, Scanner, Want};
use lightnvr::media::mp4_box::BoxHead;
use lightnvr::media::nal;
use lightnvr::media::packet::{PACKET_BYTES_MAX, Track};

pub use ring_body::ring;

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

/// A camera with the address of the stream, and all that it sent.
struct Camera {
    core: SessionCore,
    now: Instant,
    unparsed: Vec<u8>,
    heard: Vec<u8>,
    /// Times of the last units: video, sound.
    last: (i64, i64),
    advice: u32,
}

fn no_memory(how: u8) -> (RtspUrl, Memory) {
    let url = RtspUrl::parse("rtsp://user:geheim@camera/1").expect("a good URL");
    let auth = Auth::new(url.credentials.clone(), 1);
    let transport = [Transport::Auto, Transport::Tcp, Transport::Udp][usize::from(how) % 3];
    let memory = Memory {
        auth,
        skips_audio: how & 16 != 0,
        needs_get_parameter: how & 32 != 0,
        transport,
        refuses_tcp: how & 64 != 0,
    };
    (url, memory)
}

impl Camera {
    fn new((url, memory): (RtspUrl, Memory), now: Instant) -> Self {
        let core = SessionCore::new(url, memory, now);
        let (unparsed, heard) = (Vec::new(), Vec::new());
        Self { core, now, unparsed, heard, last: (i64::MIN, i64::MIN), advice: 0 }
    }

    /// One input; what the core makes of it is checked.
    fn with(
        &mut self,
        input: impl FnOnce(&mut SessionCore, &[u8], &mut dyn FnMut(SourceEvent)) -> Result<usize, End>,
    ) -> Result<(), End> {
        let Self { core, unparsed, heard, last, advice, .. } = self;
        // What the camera itself says comes back in answers.
        let knows = heard.windows(6).any(|bytes| bytes == b"geheim");
        let mut sink = |event| match event {
            SourceEvent::Advice(text) => {
                *advice += 1;
                assert!(knows || !text.contains("geheim"));
            }
            SourceEvent::NoSound(text) => assert!(knows || !text.contains("geheim")),
            SourceEvent::Unit(unit) => {
                assert!(unit.data.len() <= PACKET_BYTES_MAX);
                let is_video = matches!(unit.track, Track::Video(_));
                assert!(unit.pts >= unit.dts, "T1");
                let before = if is_video { &mut last.0 } else { &mut last.1 };
                assert!(unit.dts > *before, "T1: times rise");
                *before = unit.dts;
            }
            _ => {}
        };
        let used = input(core, unparsed, &mut sink)?;
        assert!(*advice <= ADVICE_MAX + 4, "S1: bounded");
        unparsed.drain(..used);
        assert!(unparsed.len() <= ITEM_BYTES_MAX + 4, "what is not understood is not kept");
        let sent = String::from_utf8_lossy(core.output()).into_owned();
        assert!(knows || !sent.contains("geheim"), "S1: no password on the wire");
        assert!(sent.len() <= 2 * OUTPUT_BYTES_MAX, "S1: bounded");
        Ok(())
    }

    fn finish(&mut self) {
        let finish = |core: &mut SessionCore, _: &[u8], out: &mut dyn FnMut(SourceEvent)| {
            core.finish(out);
            Ok(0)
        };
        self.with(finish).expect("no end");
    }

    /// As the shell does it: until there is something to wait for.
    fn poll(&mut self) -> Result<(), End> {
        let now = self.now;
        for _ in 0..4 {
            let mut until = now;
            self.with(|core, _, out| {
                core.reports(now);
                until = core.poll(now, out)?;
                Ok(0)
            })?;
            if until > now {
                return Ok(());
            }
        }
        panic!("polled for ever");
    }

    fn event(&mut self, what: u8, number: u16, bytes: &[u8]) -> Result<(), End> {
        let now = self.now;
        match what % 8 {
            0..=2 => {
                self.heard.extend_from_slice(bytes);
                self.unparsed.extend_from_slice(bytes);
                self.with(|core, unparsed, out| core.receive(unparsed, now, out))?;
            }
            3 if number == 0 => return Err(self.core.closed("end of the connection")),
            3 if number == 1 => self.core.teardown(now),
            3 => self.core.set_wall(now, i64::from(number) * 100_000_000),
            4 | 5 => {
                self.heard.extend_from_slice(bytes);
                let (track, is_control) = (usize::from(what & 1), what & 16 != 0);
                self.with(|core, _, out| {
                    core.datagram(track, is_control, bytes, now, out).map(|()| 0)
                })?;
            }
            6 if self.core.wants_ports() => self.core.set_ports([28_000, 28_002], 7, now),
            _ => self.now += Duration::from_millis(number.into()),
        }
        self.poll()
    }
}

/// A session and those that follow: a byte of settings, then events: a byte that says what, two bytes of length or
/// time, and bytes.
pub fn session(data: &[u8]) {
    let Some((&how, mut data)) = data.split_first() else { return };
    let mut camera = Camera::new(no_memory(how), Instant::now());
    let mut connections = 1;
    while let Some((&[what, high, low], rest)) = data.split_first_chunk::<3>() {
        let number = u16::from_be_bytes([high, low]);
        let has_bytes = matches!(what % 8, 0..=2 | 4 | 5);
        let length = if has_bytes { usize::from(number).min(rest.len()) } else { 0 };
        let (bytes, rest) = rest.split_at(length);
        data = rest;
        if let Err(end) = camera.event(what, number, bytes) {
            let knows = camera.heard.windows(6).any(|bytes| bytes == b"geheim");
            camera.finish();
            connections += 1;
            let next = match end {
                _ if connections > 8 => return,
                End::Again => (no_memory(how).0, camera.core.into_memory()),
                End::Redirect(url) => (url, no_memory(how).1),
                End::Failed(error) => {
                    assert!(knows || !format!("{error} {error:?}").contains("geheim"));
                    return;
                }
            };
            let heard = std::mem::take(&mut camera.heard);
            camera = Camera { heard, ..Camera::new(next, camera.now) };
        }
        if what & 128 == 0 {
            camera.core.output().clear();
        }
    }
    camera.finish();
}

/// Walks over a file; a step reads something or ends.
fn scan(data: &[u8]) -> Option<Scan> {
    let mut scanner = Scanner::new(data.len() as u64);
    for _ in 0..data.len() / 8 + 4 {
        match scanner.next() {
            Want::Read { at, len } => {
                let from = usize::try_from(at).expect("within the file").min(data.len());
                scanner.feed(&data[from..(from + len).min(data.len())]);
            }
            Want::Done(scan) => return scan.ok(),
        }
    }
    panic!("S1: the scan goes on for ever");
}

fn patch(file: &mut [u8], patches: &[(u64, Vec<u8>)]) {
    for (at, bytes) in patches {
        let at = usize::try_from(*at).expect("within the file");
        file[at..at + bytes.len()].copy_from_slice(bytes);
    }
}

/// A file after a crash: it is mended, and that once and for all; dated anew; and exported.
pub fn fmp4(data: &[u8]) {
    export(data);
    let Some(found) = scan(data) else { return };
    assert!(found.media_end <= data.len() as u64 && found.fragments.len() <= ENTRIES_MAX, "S1");
    if found.fragments.is_empty() {
        return;
    }
    let mut file = data.to_vec();
    if found.has_torn_tail {
        file.truncate(usize::try_from(found.media_end).expect("within the file"));
    }
    patch(&mut file, &finishing_patches(&found));
    let mended = scan(&file).expect("still a recording");
    assert!(!mended.has_torn_tail, "cut at a fragment");
    assert_eq!(mended.media_end, found.media_end);
    assert_eq!(mended.duration_ticks, found.duration_ticks);
    assert_eq!(mended.tag, found.tag);
    let before = file.clone();
    patch(&mut file, &finishing_patches(&mended));
    assert_eq!(file, before, "nothing is left to mend");
    patch(&mut file, &dating_patches(&mended, 1_790_000_000_000));
    let dated = scan(&file).expect("still a recording");
    assert_eq!(dated.duration_ticks, mended.duration_ticks);
    if let Some(tag) = dated.tag {
        assert_eq!(tag.start_ms, 1_790_000_000_000);
    }
    export(&file);
}

/// Head and fragments as an export takes them over.
fn export(file: &[u8]) {
    let Some(head) = JoinHead::parse(file) else { return };
    assert_eq!(head.difference(&head), None);
    let whole = head.encode(90_000);
    assert!(whole.len() <= file.len() + 256, "nothing is made up");
    let rate = head.sample_rate().unwrap_or(48_000);
    let mut at = usize::try_from(head.media_at).map_or(file.len(), |at| at.min(file.len()));
    while let Some(found) = BoxHead::parse(&file[at..]) {
        let Some(end) = usize::try_from(found.size).ok().and_then(|size| at.checked_add(size))
        else {
            return;
        };
        let Some(bytes) = file.get(at..end) else { return };
        if let Some(times) = track_times(bytes) {
            earliest_ticks(&times, rate);
            for shift in [-90_000, 0, 90_000, i64::MAX / 2] {
                let mut moved = bytes.to_vec();
                move_fragment(&mut moved, &times, 7, shift, rate);
                let again = track_times(&moved).expect("the same boxes");
                assert_eq!(again.len(), times.len());
            }
        }
        at = end;
    }
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
