//! Files against ffmpeg and ffprobe: what was put in is what they see.

use super::*;
use crate::media::flac::{FlacEncoder, audio_format_g711};
use crate::media::format::AudioCodec;
use crate::media::media_clip::{
    Audio, Clip, Probed, Recording, encode_clip, encode_mjpeg_clip, package, probe_packets,
    probe_packets_with, tag,
};
use crate::media::media_tool::{TempDir, run, run_text};
use crate::media::{aac, mp4_box};

const X264: [&str; 8] = ["-c:v", "libx264", "-preset", "fast", "-g", "30", "-bf", "0"];
const X264_B: [&str; 8] = ["-c:v", "libx264", "-preset", "fast", "-g", "30", "-bf", "3"];
const X265_B: [&str; 8] =
    ["-c:v", "libx265", "-preset", "fast", "-g", "30", "-x265-params", "log-level=error"];

/// ffmpeg must read the file without a word, and show the very pictures that were encoded.
#[track_caller]
fn check_plays(path: &str, want: &str) {
    let strict = ["-v", "error", "-xerror", "-err_detect", "explode"];
    let pictures =
        run_text("ffmpeg", &[&strict[..], &["-i", path, "-map", "v", "-f", "md5", "-"]].concat());
    assert_eq!(pictures, want, "{path}: other pictures");
}

/// The duration that ffprobe shows, in milliseconds.
fn probe_duration_ms(path: &str) -> i64 {
    let args = ["-v", "error", "-show_entries", "format=duration", "-of", "csv=p=0", path];
    let seconds: f64 = run_text("ffprobe", &args).trim().parse().unwrap();
    (seconds * 1000.0).round() as i64
}

/// Unfinished and finished, the file has every sample where it was put.
#[track_caller]
fn check_recording(dir: &TempDir, clip: &Clip, recording: &Recording) {
    let earliest_pts = recording.samples.iter().map(|sample| sample.pts).min().unwrap();
    let finished = recording.finished(earliest_pts as u64);
    assert_eq!(finished.len(), recording.bytes.len(), "finishing patches in place");
    let decode = ["-v", "error", "-i", &clip.reference, "-map", "v", "-f", "md5", "-"];
    let pictures = run_text("ffmpeg", &decode);
    for (name, bytes) in [("unfinished.mp4", &recording.bytes), ("finished.mp4", &finished)] {
        let path = dir.write(name, bytes);
        assert_eq!(probe_packets(&path, "v"), recording.samples, "{name}");
        check_plays(&path, &pictures);
        let want_ms = recording.duration() as i64 / 90;
        let is_near = |got_ms: i64| (got_ms - want_ms).abs() <= 65 + earliest_pts / 90; // a frame of AAC
        assert!(is_near(probe_duration_ms(&path)), "{name}: {} ms", probe_duration_ms(&path));
    }
}

/// The picture that is shown when a player jumps to a time.
fn picture_at(path: &str, seconds: &str) -> String {
    run_text(
        "ffmpeg",
        &["-v", "error", "-ss", seconds, "-i", path, "-frames:v", "1", "-f", "md5", "-"],
    )
}

#[track_caller]
fn check_seeking(dir: &TempDir, clip: &Clip) {
    for seconds in ["3.2", "4.01"] {
        let want = picture_at(&clip.reference, seconds);
        for name in ["unfinished.mp4", "finished.mp4"] {
            assert_eq!(picture_at(&dir.path(name), seconds), want, "{name} at {seconds}");
        }
    }
}

#[test]
fn h264_is_recorded_whole_and_seeks() {
    let dir = TempDir::new();
    let clip = encode_clip(&dir, 6, &X264);
    let recording = package(&clip, None, 15, 20);
    assert_eq!(recording.entries.len(), 6);
    check_recording(&dir, &clip, &recording);
    check_seeking(&dir, &clip);
}

#[test]
fn h264_with_b_frames_is_recorded_whole_and_seeks() {
    let dir = TempDir::new();
    let clip = encode_clip(&dir, 6, &X264_B);
    let recording = package(&clip, None, 15, 20);
    assert!(recording.samples.iter().any(|sample| sample.pts > sample.dts), "there are B-frames");
    check_recording(&dir, &clip, &recording);
    check_seeking(&dir, &clip);
}

#[test]
fn h265_with_b_frames_is_recorded_whole_and_seeks() {
    let dir = TempDir::new();
    let clip = encode_clip(&dir, 6, &X265_B);
    let recording = package(&clip, None, 15, 20);
    check_recording(&dir, &clip, &recording);
    check_seeking(&dir, &clip);
}

#[test]
fn motion_jpeg_is_recorded_whole() {
    let dir = TempDir::new();
    let clip = encode_mjpeg_clip(&dir, 2);
    check_recording(&dir, &clip, &package(&clip, None, 15, 20));
}

#[test]
fn undeclared_b_frames_play_without_complaint() {
    let dir = TempDir::new();
    let mut clip = encode_clip(&dir, 4, &X264_B);
    clip.format.reorder_frames = None;
    let recording = package(&clip, None, 15, 20);
    let path = dir.write("undeclared.mp4", &recording.bytes);
    assert_eq!(probe_packets(&path, "v"), recording.samples);
    // The pictures that came before the depth was known stand a tick apart.
    let fine = ["-vsync", "passthrough", "-enc_time_base", "1:90000", "-f", "null", "-"];
    run("ffmpeg", &[&["-v", "error", "-xerror", "-i", &path][..], &fine[..]].concat());
}

#[test]
fn index_with_too_few_slots_still_seeks() {
    let dir = TempDir::new();
    let clip = encode_clip(&dir, 6, &["-c:v", "libx264", "-g", "5", "-bf", "0"]);
    let recording = package(&clip, None, 5, 4);
    assert_eq!(recording.entries.len(), 18);
    check_recording(&dir, &clip, &recording);
    check_seeking(&dir, &clip);
}

/// Frames of a raw ADTS stream with their configuration.
fn encode_aac(seconds: u32) -> Audio {
    let source = format!("sine=440:r=16000:d={seconds}");
    let adts = run(
        "ffmpeg",
        &["-v", "error", "-f", "lavfi", "-i", &source, "-c:a", "aac", "-f", "adts", "-"],
    );
    let mut frames = Vec::new();
    let mut rest = &adts[..];
    let mut config = [0; 2];
    while let Some((header_len, frame_len, asc)) = aac::parse_adts(rest) {
        config = asc;
        frames.push(rest[header_len..frame_len].to_vec());
        rest = &rest[frame_len..];
    }
    assert_eq!(rest, [0; 0], "the stream is frames and nothing else");
    Audio { format: aac::audio_format(&config).unwrap(), frames, frame_samples: 1024 }
}

fn encode_flac(seconds: usize) -> (Audio, Vec<u8>) {
    let wave = |at: usize| ((at as f64 / 20.0).sin() * 9000.0) as i16 & !7;
    let samples: Vec<i16> = (0..8000 * seconds).map(wave).collect();
    let mut encoder = FlacEncoder::new(8000, 1);
    let frames = samples.chunks(320).map(|block| encoder.encode(block).unwrap()).collect();
    let bytes = samples.iter().flat_map(|sample| sample.to_le_bytes()).collect();
    (Audio { format: audio_format_g711("pcma", 8000, 1), frames, frame_samples: 320 }, bytes)
}

#[track_caller]
fn check_audio(dir: &TempDir, clip: &Clip, audio: &Audio) {
    let recording = package(clip, Some(audio), 15, 20);
    check_recording(dir, clip, &recording);
    let frame = i64::from(audio.frame_samples);
    let packet = |(n, data): (i64, &Vec<u8>)| {
        let size = data.len() as u32;
        Probed { pts: n * frame, dts: n * frame, size, is_key: true }
    };
    let packets = probe_packets(&dir.path("finished.mp4"), "a");
    let want: Vec<_> = (0..).zip(&audio.frames).map(packet).take(packets.len()).collect();
    assert_eq!(packets, want);
    assert!(packets.len() + 2 >= audio.frames.len(), "all but what begins after the video");
}

#[test]
fn aac_is_recorded_whole() {
    let dir = TempDir::new();
    check_audio(&dir, &encode_clip(&dir, 3, &X264), &encode_aac(3));
}

#[test]
fn g711_as_flac_is_recorded_whole() {
    let dir = TempDir::new();
    let (audio, want) = encode_flac(3);
    check_audio(&dir, &encode_clip(&dir, 3, &X264), &audio);
    let path = dir.path("finished.mp4");
    let got = run("ffmpeg", &["-v", "error", "-i", &path, "-map", "a", "-f", "s16le", "-"]);
    assert!(got == want, "every sample comes back");
}

#[test]
fn opus_is_recorded_whole() {
    let dir = TempDir::new();
    // Each frame in an Ogg page of its own, so that the page header (RFC 3533 section 6) gives its
    // length.
    let ogg = ["-page_duration", "1", "-f", "ogg", "-"];
    let input = ["-v", "error", "-f", "lavfi", "-i", "sine=440:r=48000:d=3", "-c:a", "libopus"];
    let stream = run("ffmpeg", &[&input[..], &ogg[..]].concat());
    let mut frames = Vec::new();
    let mut rest = &stream[..];
    while rest.len() > 27 {
        let lacing = &rest[27..27 + usize::from(rest[26])];
        let (head, len) =
            (27 + lacing.len(), lacing.iter().map(|&n| usize::from(n)).sum::<usize>());
        frames.push(rest[head..head + len].to_vec());
        rest = &rest[head + len..];
    }
    frames.drain(..2); // OpusHead, OpusTags
    let format = AudioFormat {
        codec: AudioCodec::Opus,
        source_codec: "opus",
        sample_rate: 48_000,
        channels: 1,
        decoder_config: Vec::new(),
        rfc6381: "opus".to_owned(),
    };
    let audio = Audio { format, frames, frame_samples: 960 };
    check_audio(&dir, &encode_clip(&dir, 3, &X264), &audio);
}

#[test]
fn head_says_when_the_recording_began() {
    let dir = TempDir::new();
    let clip = encode_clip(&dir, 1, &X264);
    let path = dir.write("a.mp4", &package(&clip, None, 15, 4).bytes);
    let args =
        ["-v", "error", "-show_entries", "format_tags=creation_time", "-of", "csv=p=0", &path];
    assert_eq!(run_text("ffprobe", &args).trim(), "2026-11-18T11:06:40.000000Z");
    assert_eq!(mp4_time_s(i64::MIN), 0);
}

fn small_format() -> VideoFormat {
    VideoFormat {
        codec: crate::media::format::VideoCodec::Mjpeg,
        width: 16,
        height: 16,
        fps_milli: 0,
        decoder_config: Vec::new(),
        rfc6381: "mp4v.6C".to_owned(),
        reorder_frames: Some(0),
    }
}

#[test]
fn head_has_room_where_it_says() {
    for slots in [0, 1, 900] {
        let init = encode_init(&small_format(), None, &tag(), slots);
        let room = &init.bytes[init.index_at as usize..];
        assert_eq!(room.len(), index_bytes(slots));
        let head = mp4_box::BoxHead::parse(room).unwrap();
        assert_eq!((head.kind, head.size), (*b"free", room.len() as u64));
        let at = init.duration_at as usize;
        assert_eq!(&init.bytes[at - 8..at + 8], b"mehd\x01\0\0\0\0\0\0\0\0\0\0\0");
        let live = encode_live_init(&small_format(), None);
        assert!(live.len() < init.index_at as usize);
        assert_eq!(
            mp4_box::boxes(&live).map(|(kind, ..)| kind).collect::<Vec<_>>(),
            [*b"ftyp", *b"moov"]
        );
    }
}

#[test]
fn tag_comes_back_and_long_names_are_cut() {
    let mut tag = tag();
    for (name, want_len) in [
        ("", 0),
        ("Küche", 6),
        (&"\u{1F697}".repeat(300)[..], 1024),
        (&format!("x{}", "é".repeat(600))[..], 1023),
    ] {
        tag.stream_name = name.to_owned();
        let mut bytes = Vec::new();
        tag.write(&mut bytes, 900);
        let (parsed, slots) = RecordingTag::parse(&bytes[8..]).unwrap();
        assert_eq!(slots, 900);
        assert_eq!(parsed.stream_name.len(), want_len);
        assert!(name.starts_with(&parsed.stream_name));
        assert_eq!((parsed.stream_id, parsed.start_ms), (tag.stream_id, tag.start_ms));
        for cut in 8..bytes.len() {
            assert_eq!(RecordingTag::parse(&bytes[8..cut]), None);
        }
    }
}

#[test]
fn samples_of_one_kind_cost_four_bytes_each() {
    let sample = SampleInfo { size: 100, duration: 960, cts_offset: 0, is_key: true };
    let head = |samples: &[SampleInfo]| {
        encode_fragment_head(1, &[TrackFragment { track_id: 2, base_dts: 0, samples }])
    };
    assert_eq!(head(&[sample; 51]).len() - head(&[sample; 50]).len(), 4);
    let empty = head(&[]);
    assert_eq!(empty.len(), 8 + 16 + 8, "moof with mfhd alone, and mdat");
}

#[test]
fn sample_flags_stay_with_their_samples() {
    let dir = TempDir::new();
    let clip = encode_clip(&dir, 2, &X264);
    // Keys at odd places: flags for each sample, for the first alone, and for none.
    for keys in [&[0, 7, 8][..], &[0], &[], &[1, 2]] {
        let init = encode_init(&clip.format, None, &tag(), 0);
        let infos: Vec<_> = (0..clip.units.len())
            .map(|at| SampleInfo {
                size: clip.units[at].data.len() as u32,
                duration: 3000 + at as u32 % 2,
                cts_offset: 0,
                is_key: keys.contains(&at),
            })
            .collect();
        let video = TrackFragment { track_id: VIDEO_TRACK_ID, base_dts: 0, samples: &infos };
        let mut bytes = init.bytes;
        bytes.extend_from_slice(&encode_fragment_head(1, &[video]));
        clip.units.iter().for_each(|unit| bytes.extend_from_slice(&unit.data));
        let path = dir.write("flags.mp4", &bytes);
        // Without these flags ffmpeg looks into the picture and not at our flags.
        let packets = probe_packets_with(&path, "v", &["-fflags", "nofillin+noparse"]);
        let got = packets.iter().enumerate().filter(|(_, packet)| packet.is_key);
        assert_eq!(got.map(|(at, _)| at).collect::<Vec<_>>(), keys);
        let last: u32 = infos[..infos.len() - 1].iter().map(|info| info.duration).sum();
        assert_eq!(packets.last().unwrap().dts, i64::from(last));
    }
}
