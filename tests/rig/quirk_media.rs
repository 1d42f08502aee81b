//! What a scripted camera films: clips as pictures, pictures as RTP payloads.

use std::collections::HashMap;
use std::process::Command;
use std::sync::{Arc, Mutex, OnceLock};

use base64::prelude::{BASE64_STANDARD, Engine};

use super::rig::clips::{self, Audio, Clip, Video};
use super::rig::mp4;
use super::rig::process::run_silently;

/// Most bytes of a payload.
const PAYLOAD_BYTES_MAX: usize = 1400;

/// One access unit.
pub struct Picture {
    /// Without parameter sets and delimiters.
    pub nals: Vec<Vec<u8>>,
    pub is_key: bool,
    /// When it is shown, in 90 kHz ticks from the first one on.
    pub ticks: i64,
}

/// A clip, taken apart.
pub struct Film {
    pub video: Video,
    pub sets: Vec<Vec<u8>>,
    pub pictures: Vec<Picture>,
    /// ADTS frames.
    pub aac: Vec<Vec<u8>>,
}

/// The clip with this name, taken apart once.
pub fn film(name: &str) -> Arc<Film> {
    static FILMS: OnceLock<Mutex<HashMap<String, Arc<Film>>>> = OnceLock::new();
    let mut films = FILMS.get_or_init(Mutex::default).lock().expect("no clip is missing");
    let made = films.entry(name.to_owned()).or_insert_with(|| Arc::new(take_apart(clip(name))));
    Arc::clone(made)
}

fn clip(name: &str) -> &'static Clip {
    let clips = [
        &clips::H264,
        &clips::H264_B,
        &clips::H264_RICH,
        &clips::H264_FAST,
        &clips::H264_AAC,
        &clips::H264_SMALL,
        &clips::H264_OTHER_QP,
        &clips::H264_REFRESH,
        &clips::H264_LONG_GROUP,
        &clips::H265,
        &clips::MJPEG,
    ];
    clips.into_iter().find(|clip| clip.name == name).unwrap_or_else(|| panic!("no clip {name}"))
}

fn take_apart(clip: &Clip) -> Film {
    let file = clip.file();
    let copy = |args: &str| {
        let mut ffmpeg = Command::new("ffmpeg");
        ffmpeg.args(["-v", "error", "-nostdin", "-ignore_editlist", "1", "-i"]).arg(&file);
        run_silently(ffmpeg.args(args.split(' ')).arg("-"))
    };
    let times: Vec<f64> = mp4::packets(&file, "v").iter().map(|packet| packet.pts_s).collect();
    let first_s = times.iter().copied().fold(f64::MAX, f64::min);
    let ticks = times.iter().map(|time| ((time - first_s) * 90_000.0).round() as i64);
    let mut sets: Vec<Vec<u8>> = Vec::new();
    let units: Vec<Vec<Vec<u8>>> = match clip.video {
        Video::H264 | Video::H265 => {
            let (filters, format, delimiter) = match clip.video {
                Video::H265 => ("hevc_mp4toannexb,hevc_metadata=aud=insert", "hevc", 35),
                _ => ("h264_mp4toannexb,h264_metadata=aud=insert", "h264", 9),
            };
            let stream = copy(&format!("-map 0:v -c copy -bsf:v {filters} -f {format}"));
            let mut units: Vec<Vec<Vec<u8>>> = Vec::new();
            for nal in mp4::split_annex_b(&stream) {
                let has_slice =
                    |unit: &Vec<Vec<u8>>| unit.iter().any(|nal| is_slice(nal, clip.video));
                if kind(&nal, clip.video) == delimiter {
                    // Where a clip has delimiters of its own there are two.
                    if units.last().is_none_or(has_slice) {
                        units.push(Vec::new());
                    }
                } else if mp4::is_parameter_set(&nal, clip.video) {
                    if !sets.contains(&nal) {
                        sets.push(nal);
                    }
                } else {
                    units.last_mut().expect("a delimiter comes first").push(nal);
                }
            }
            units
        }
        _ => split_jpegs(&copy("-map 0:v -c copy -f mjpeg")).map(|jpeg| vec![jpeg]).collect(),
    };
    assert_eq!(units.len(), times.len(), "{}: a time for each picture", clip.name);
    let pictures = units.into_iter().zip(ticks).map(|(nals, ticks)| Picture {
        is_key: nals.iter().any(|nal| is_key(nal, clip.video)),
        nals,
        ticks,
    });
    let pictures = pictures.collect();
    let aac = match clip.audio {
        Audio::Aac => split_adts(&copy("-map 0:a -c copy -f adts")),
        _ => Vec::new(),
    };
    Film { video: clip.video, sets, pictures, aac }
}

/// `nal_unit_type`.
fn kind(nal: &[u8], video: Video) -> u8 {
    if video == Video::H265 { nal[0] >> 1 & 0x3f } else { nal[0] & 0x1f }
}

fn is_slice(nal: &[u8], video: Video) -> bool {
    match video {
        Video::H265 => kind(nal, video) < 32,
        _ => (1..=5).contains(&kind(nal, video)),
    }
}

fn is_key(nal: &[u8], video: Video) -> bool {
    match video {
        Video::H264 => kind(nal, video) == 5,
        Video::H265 => (16..=21).contains(&kind(nal, video)),
        _ => true,
    }
}

fn split_jpegs(stream: &[u8]) -> impl Iterator<Item = Vec<u8>> {
    let mut begins: Vec<usize> = Vec::new();
    begins.extend((0..stream.len()).filter(|&at| stream[at..].starts_with(&[0xff, 0xd8, 0xff])));
    let ends = begins.iter().copied().skip(1).chain([stream.len()]);
    let spans: Vec<_> = begins.iter().copied().zip(ends).collect();
    spans.into_iter().map(|(from, to)| stream[from..to].to_vec())
}

fn split_adts(mut stream: &[u8]) -> Vec<Vec<u8>> {
    let mut frames = Vec::new();
    while let Some(head) = stream.first_chunk::<7>() {
        // 13 bits of length, the header with it (ISO/IEC 13818-7 section 6.2.1).
        let length = u32::from_be_bytes([0, head[3] & 3, head[4], head[5]]) as usize >> 5;
        let (frame, rest) = stream.split_at(length);
        frames.push(frame.to_vec());
        stream = rest;
    }
    frames
}

impl Film {
    /// The description of a camera that behaves, up to the tracks' controls.
    pub fn sdp(&self, has_sets: bool) -> String {
        let (head, format) = match self.video {
            Video::H264 => ("96", "a=rtpmap:96 H264/90000\r\n".to_owned() + &self.fmtp(has_sets)),
            Video::H265 => ("96", "a=rtpmap:96 H265/90000\r\n".to_owned() + &self.fmtp(has_sets)),
            _ => ("26", String::new()),
        };
        format!("v=0\r\na=control:*\r\nm=video 0 RTP/AVP {head}\r\n{format}a=control:trackID=0\r\n")
    }

    fn fmtp(&self, has_sets: bool) -> String {
        if !has_sets {
            return String::new();
        }
        let sets: Vec<String> = self.sets.iter().map(|set| BASE64_STANDARD.encode(set)).collect();
        match (self.video, sets.as_slice()) {
            (Video::H265, [vps, sps, pps]) => {
                format!("a=fmtp:96 sprop-vps={vps};sprop-sps={sps};sprop-pps={pps}\r\n")
            }
            _ => format!(
                "a=fmtp:96 packetization-mode=1;sprop-parameter-sets={}\r\n",
                sets.join(",")
            ),
        }
    }

    /// What `$SETS`, `$SPS`, `$PPS`, `$VPS` and `$ANNEXB` stand for.
    pub fn fill(&self, text: &str) -> String {
        let encode = |nal: &[u8]| BASE64_STANDARD.encode(nal);
        let sets: Vec<String> = self.sets.iter().map(|set| encode(set)).collect();
        let annexb = |set: &Vec<u8>| encode(&[&[0, 0, 0, 1][..], set].concat());
        let with_codes: Vec<String> = self.sets.iter().map(annexb).collect();
        let mut text = text.replace("$SETS", &sets.join(","));
        text = text.replace("$ANNEXB", &with_codes.join(","));
        let names: &[&str] = match self.video {
            Video::H265 => &["$VPS", "$SPS", "$PPS"],
            _ => &["$SPS", "$PPS"],
        };
        for (name, set) in names.iter().zip(&sets) {
            text = text.replace(name, set);
        }
        text
    }

    /// The AudioSpecificConfig of its sound, as `config=` has it.
    pub fn aac_config(&self) -> String {
        let head = &self.aac[0];
        let (object, rate) = ((head[2] >> 6) + 1, head[2] >> 2 & 15);
        let channels = (head[2] & 1) << 2 | head[3] >> 6;
        format!("{:02x}{:02x}", object << 3 | rate >> 1, (rate & 1) << 7 | channels << 3)
    }
}

/// Payloads of a NAL unit (RFC 6184 section 5.6 and 5.8, RFC 7798 section 4.4). `is_always_fragment`: one that
/// would fit is a fragment that begins and ends.
pub fn nal_payloads(nal: &[u8], video: Video, is_always_fragment: bool) -> Vec<Vec<u8>> {
    if nal.len() <= PAYLOAD_BYTES_MAX && !is_always_fragment {
        return vec![nal.to_vec()];
    }
    let head_bytes = if video == Video::H265 { 2 } else { 1 };
    let bodies: Vec<&[u8]> = nal[head_bytes..].chunks(PAYLOAD_BYTES_MAX).collect();
    let last = bodies.len() - 1;
    let payload = |(n, body): (usize, &&[u8])| {
        let flags = match n {
            0 if last == 0 => 0xc0,
            0 => 0x80,
            n if n == last => 0x40,
            _ => 0,
        };
        let head = match video {
            Video::H265 => {
                vec![nal[0] & 0x81 | 49 << 1, nal[1], flags | kind(nal, video)]
            }
            _ => vec![nal[0] & 0xe0 | 28, flags | kind(nal, video)],
        };
        [&head[..], body].concat()
    };
    bodies.iter().enumerate().map(payload).collect()
}

/// Payloads of a JPEG picture (RFC 2435 section 3.1) with its own tables, and so without EOI.
pub fn jpeg_payloads(jpeg: &[u8]) -> Vec<Vec<u8>> {
    let mut tables = Vec::new();
    let (mut at, mut size, mut kind) = (2, (0, 0), 0);
    let scan = loop {
        let marker = jpeg[at + 1];
        let length = usize::from(u16::from_be_bytes([jpeg[at + 2], jpeg[at + 3]]));
        let body = &jpeg[at + 4..at + 2 + length];
        at += 2 + length;
        match marker {
            0xdb => body.chunks_exact(65).for_each(|table| tables.extend(&table[1..])),
            0xc0 => {
                let side = |n: usize| u16::from_be_bytes([body[n], body[n + 1]]);
                size = (side(3), side(1));
                kind = u8::from(body[7] == 0x22);
            }
            0xda => break &jpeg[at..jpeg.len() - 2],
            _ => {}
        }
    };
    let mut offset = 0;
    let payload = |body: &[u8]| {
        let offset_bytes = (offset as u32).to_be_bytes();
        let mut head = [&[0], &offset_bytes[1..], &[kind, 255]].concat();
        head.extend([(size.0 / 8) as u8, (size.1 / 8) as u8]);
        if offset == 0 {
            head.extend([0, 0]);
            head.extend((tables.len() as u16).to_be_bytes());
            head.extend(&tables);
        }
        offset += body.len();
        [&head[..], body].concat()
    };
    scan.chunks(PAYLOAD_BYTES_MAX).map(payload).collect()
}

/// FU-A fragments of `size` bytes.
pub fn fragments(nal: &[u8], size: usize) -> Vec<Vec<u8>> {
    let bodies: Vec<&[u8]> = nal[1..].chunks(size).collect();
    let flags = |n| u8::from(n == 0) << 7 | u8::from(n + 1 == bodies.len()) << 6;
    let payload = |(n, body): (usize, &&[u8])| {
        [&[nal[0] & 0xe0 | 28, flags(n) | nal[0] & 0x1f][..], body].concat()
    };
    bodies.iter().enumerate().map(payload).collect()
}
