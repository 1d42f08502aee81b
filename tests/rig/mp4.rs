//! What is in a media file, as ffmpeg and ffprobe see it: the judge is never the code under test.

use std::path::Path;
use std::process::Command;

use super::clips::Video;
use super::process::run_silently;

/// Decodes every track of `file` to its end; panics if ffmpeg has anything to say.
#[track_caller]
pub fn check_plays(file: &Path) {
    run_silently(
        ffmpeg().arg("-xerror").arg("-i").arg(file).args(["-map", "0", "-f", "null", "-"]),
    );
}

/// The same for a video whose frames come as they can: an encoder in an emulated machine. ffmpeg would complain that
/// two of them round to one place of the frame rate, so its places are counted, and the file's times looked at.
#[track_caller]
pub fn check_plays_unevenly(file: &Path) {
    let counted = ["-vf", "settb=1/25,setpts=N", "-r", "25", "-f", "null", "-"];
    run_silently(ffmpeg().arg("-xerror").arg("-i").arg(file).args(counted));
    let packets = packets(file, "v");
    assert!(!packets.is_empty(), "{}: no frame", file.display());
    assert!(packets.is_sorted_by(|a, b| a.dts_s < b.dts_s), "{}: times fall", file.display());
}

/// The NAL units of the video track in decoding order, without start codes or lengths.
#[track_caller]
pub fn nal_units(file: &Path, video: Video) -> Vec<Vec<u8>> {
    let (filter, format) = match video {
        Video::H264 => ("h264_mp4toannexb", "h264"),
        Video::H265 => ("hevc_mp4toannexb", "hevc"),
        Video::Vp8 | Video::Mjpeg => panic!("no NAL units"),
    };
    let mut ffmpeg = ffmpeg();
    // An edit list only says what is shown; here every stored access unit counts.
    ffmpeg.args(["-ignore_editlist", "1", "-i"]).arg(file);
    ffmpeg.args(["-map", "0:v", "-c", "copy", "-bsf:v", filter, "-f", format, "-"]);
    split_annex_b(&run_silently(&mut ffmpeg))
}

/// `nal_units` without parameter sets: what must be the same in a recording as it was sent.
#[track_caller]
pub fn media_units(file: &Path, video: Video) -> Vec<Vec<u8>> {
    let units = nal_units(file, video).into_iter();
    units.filter(|unit| !is_parameter_set(unit, video)).collect()
}

/// The pictures of a track of JPEGs, byte by byte; `dir` takes them meanwhile.
#[track_caller]
pub fn jpegs(file: &Path, dir: &Path) -> Vec<Vec<u8>> {
    let mut ffmpeg = ffmpeg();
    ffmpeg.args(["-ignore_editlist", "1", "-i"]).arg(file).args(["-map", "0:v", "-c", "copy"]);
    run_silently(ffmpeg.args(["-f", "image2"]).arg(dir.join("jpeg-%05d")));
    let names = (1..).map(|n| dir.join(format!("jpeg-{n:05}")));
    names.map_while(|name| std::fs::read(name).ok()).collect()
}

/// NAL units between start codes (H.264 annex B). The zeros before a start code belong to no unit: one
/// never ends with a zero byte.
pub fn split_annex_b(stream: &[u8]) -> Vec<Vec<u8>> {
    let mut units = Vec::new();
    let mut from = 0;
    let mut at = 0;
    while at <= stream.len() {
        if at == stream.len() || stream[at..].starts_with(&[0, 0, 1]) {
            let unit = &stream[from..at];
            let end = unit.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
            if end > 0 {
                units.push(unit[..end].to_vec());
            }
            from = (at + 3).min(stream.len());
            at += 3;
        } else {
            at += 1;
        }
    }
    units
}

/// Whether this is a parameter set (SPS, PPS; VPS of H.265): a file has them in its header, a stream
/// in its SDP or as often as it likes.
pub fn is_parameter_set(unit: &[u8], video: Video) -> bool {
    match video {
        Video::H264 => matches!(unit[0] & 0x1f, 7 | 8), // H.264 table 7-1
        Video::H265 => matches!(unit[0] >> 1 & 0x3f, 32..=34), // H.265 table 7-1
        Video::Vp8 | Video::Mjpeg => false,
    }
}

/// One packet of a track.
#[derive(Clone, Debug, PartialEq)]
pub struct Packet {
    pub pts_s: f64,
    pub dts_s: f64,
    /// SHA-256 of its bytes, as ffprobe prints it.
    pub hash: String,
    pub is_key: bool,
}

/// The packets of one track (`v` or `a`) in file order.
#[track_caller]
pub fn packets(file: &Path, track: &str) -> Vec<Packet> {
    let mut ffprobe = Command::new("ffprobe");
    ffprobe.args(["-v", "error", "-ignore_editlist", "1", "-select_streams", track]);
    ffprobe.args(["-show_packets", "-show_data_hash", "sha256", "-of", "compact=p=0"]);
    ffprobe.args(["-show_entries", "packet=pts_time,dts_time,flags,data_hash"]).arg(file);
    let text = String::from_utf8(run_silently(&mut ffprobe)).expect("ffprobe prints text");
    let field = |line: &str, name: &str| -> String {
        let value = line.split('|').find_map(|f| f.strip_prefix(name)?.strip_prefix('='));
        value.unwrap_or_else(|| panic!("no {name} in {line:?}")).to_owned()
    };
    let packet = |line: &str| Packet {
        pts_s: field(line, "pts_time").parse().expect("a number"),
        dts_s: field(line, "dts_time").parse().expect("a number"),
        hash: field(line, "data_hash"),
        is_key: field(line, "flags").starts_with('K'),
    };
    text.lines().filter(|line| line.contains("data_hash")).map(packet).collect()
}

/// Bytes of media in all tracks together.
#[track_caller]
pub fn media_bytes(file: &Path) -> u64 {
    let mut ffprobe = Command::new("ffprobe");
    ffprobe.args(["-v", "error", "-show_entries", "packet=size", "-of", "csv=p=0"]).arg(file);
    let text = String::from_utf8(run_silently(&mut ffprobe)).expect("ffprobe prints text");
    text.lines().map(|line| line.trim_matches(',').parse::<u64>().expect("a size")).sum()
}

/// The sound as 16-bit little-endian samples, as the file's decoder gives it.
#[track_caller]
pub fn samples(file: &Path) -> Vec<i16> {
    let mut ffmpeg = ffmpeg();
    ffmpeg.arg("-i").arg(file).args(["-map", "0:a", "-f", "s16le", "-"]);
    let bytes = run_silently(&mut ffmpeg);
    bytes.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect()
}

/// Duration in seconds that ffprobe gives for the whole file.
#[track_caller]
pub fn duration_s(file: &Path) -> f64 {
    probe(file, "format=duration", None).parse().expect("a number of seconds")
}

/// Codec of a track (`v` or `a`) by ffprobe's name; empty without such a track.
#[track_caller]
pub fn codec(file: &Path, track: &str) -> String {
    probe(file, "stream=codec_name", Some(track))
}

fn probe(file: &Path, entry: &str, track: Option<&str>) -> String {
    let mut ffprobe = Command::new("ffprobe");
    ffprobe.args(["-v", "error", "-show_entries", entry, "-of", "csv=p=0"]);
    if let Some(track) = track {
        ffprobe.args(["-select_streams", track]);
    }
    let text = run_silently(ffprobe.arg(file));
    String::from_utf8(text).expect("ffprobe prints text").trim().to_owned()
}

fn ffmpeg() -> Command {
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-v", "error", "-nostdin"]);
    ffmpeg
}
