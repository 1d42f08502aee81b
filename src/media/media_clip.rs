//! Tests only: clips that ffmpeg encodes, and a recorder in miniature that packages them.

use super::fmp4::{
    AUDIO_TRACK_ID, IndexEntry, Init, RecordingTag, SampleInfo, TrackFragment, VIDEO_TRACK_ID,
    encode_fragment_head, encode_index, encode_init,
};
use super::format::{AudioFormat, VideoCodec, VideoFormat};
use super::media_tool::{TempDir, run, run_text};
use super::nal::{push_length_prefixed, split_annex_b};
use super::reorder::DtsMaker;
use super::{h264, h265};

/// One access unit with the presentation time that the encoder gave it.
pub struct Unit {
    pub pts: i64,
    pub is_key: bool,
    pub data: Vec<u8>,
}

/// An encoded clip: what a camera would have sent.
pub struct Clip {
    pub format: VideoFormat,
    pub units: Vec<Unit>,
    /// The MP4 file of ffmpeg, for comparison.
    pub reference: String,
}

/// Encodes a test picture of 160x96 at 15 frames per second with these encoder arguments.
pub fn encode_clip(dir: &TempDir, seconds: u32, codec: &[&str]) -> Clip {
    let reference = dir.path("reference.mp4");
    let source = format!("testsrc2=s=160x96:r=15:d={seconds}");
    let input = ["-v", "error", "-f", "lavfi", "-i", &source, "-pix_fmt", "yuv420p"];
    let output = ["-video_track_timescale", "90000", "-y", &reference];
    run("ffmpeg", &[&input[..], codec, &output[..]].concat());
    let packets = probe_packets(&reference, "v");
    let is_h265 = codec.contains(&"libx265");
    let filter = if is_h265 { "hevc_mp4toannexb" } else { "h264_mp4toannexb" };
    let kind = if is_h265 { "hevc" } else { "h264" };
    let copy = ["-v", "error", "-i", &reference, "-c", "copy", "-bsf:v", filter, "-f", kind, "-"];
    let stream = run("ffmpeg", &copy);
    let (format, data) = if is_h265 { split_h265(&stream) } else { split_h264(&stream) };
    assert_eq!(data.len(), packets.len(), "access units found");
    let units = packets.iter().zip(data);
    let units = units.map(|(packet, data)| Unit { pts: packet.pts, is_key: packet.is_key, data });
    Clip { format, units: units.collect(), reference }
}

/// Groups NAL units into length-prefixed access units; a slice that `starts` opens one, and what
/// stands in front of it belongs to it.
fn group(stream: &[u8], is_vcl: fn(&[u8]) -> bool, starts: fn(&[u8]) -> bool) -> Vec<Vec<u8>> {
    let mut units: Vec<Vec<u8>> = Vec::new();
    let mut held = Vec::new();
    for nal in split_annex_b(stream) {
        push_length_prefixed(&mut held, nal);
        if is_vcl(nal) {
            let data = std::mem::take(&mut held);
            match units.last_mut().filter(|_| !starts(nal)) {
                Some(unit) => unit.extend_from_slice(&data),
                None => units.push(data),
            }
        }
    }
    units
}

fn split_h264(stream: &[u8]) -> (VideoFormat, Vec<Vec<u8>>) {
    let find = |kind| split_annex_b(stream).find(|nal| h264::nal_type(nal) == kind).unwrap();
    let format = h264::video_format(find(h264::NAL_SPS), find(h264::NAL_PPS)).unwrap();
    (format, group(stream, h264::is_vcl, |nal| h264::first_mb_in_slice(nal) == Some(0)))
}

fn split_h265(stream: &[u8]) -> (VideoFormat, Vec<Vec<u8>>) {
    let find = |kind| split_annex_b(stream).find(|nal| h265::nal_type(nal) == kind).unwrap();
    let sets = (find(h265::NAL_VPS), find(h265::NAL_SPS), find(h265::NAL_PPS));
    let format = h265::video_format(sets.0, sets.1, sets.2).unwrap();
    (format, group(stream, h265::is_vcl, |nal| h265::first_slice_segment_in_pic(nal) == Some(true)))
}

/// Motion JPEG: one JFIF image per frame.
pub fn encode_mjpeg_clip(dir: &TempDir, seconds: u32) -> Clip {
    let reference = dir.path("reference.mov");
    let source = format!("testsrc2=s=160x96:r=15:d={seconds}");
    let input = ["-v", "error", "-f", "lavfi", "-i", &source, "-pix_fmt", "yuvj420p"];
    let output = ["-c:v", "mjpeg", "-video_track_timescale", "90000", "-y", &reference];
    run("ffmpeg", &[&input[..], &output[..]].concat());
    let stream =
        run("ffmpeg", &["-v", "error", "-i", &reference, "-c", "copy", "-f", "mjpeg", "-"]);
    let mut at = 0;
    let units = probe_packets(&reference, "v").into_iter().map(|packet| {
        let data = stream[at..at + packet.size as usize].to_vec();
        at += data.len();
        Unit { pts: packet.pts, is_key: true, data }
    });
    let format = VideoFormat {
        codec: VideoCodec::Mjpeg,
        width: 160,
        height: 96,
        fps_milli: 0,
        decoder_config: Vec::new(),
        rfc6381: "mp4v.6C".to_owned(),
        reorder_frames: Some(0),
    };
    Clip { format, units: units.collect(), reference }
}

/// A packet as ffprobe lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probed {
    pub pts: i64,
    pub dts: i64,
    pub size: u32,
    pub is_key: bool,
}

/// The packets of one kind of stream (`v`, `a`) in file order.
pub fn probe_packets(path: &str, stream: &str) -> Vec<Probed> {
    probe_packets_with(path, stream, &[])
}

/// The same with options for the reader.
pub fn probe_packets_with(path: &str, stream: &str, options: &[&str]) -> Vec<Probed> {
    let entries = ["-show_entries", "packet=pts,dts,size,flags", "-of", "compact=p=0:nk=1"];
    let select = ["-v", "error", "-select_streams", stream];
    let text = run_text("ffprobe", &[&select[..], &entries[..], options, &[path][..]].concat());
    let parse = |line: &str| {
        let fields: Vec<_> = line.split('|').collect();
        let number = |at: usize| fields[at].parse::<i64>().unwrap_or_else(|_| panic!("{line}"));
        let is_key = fields[3].starts_with('K');
        Probed { pts: number(0), dts: number(1), size: number(2) as u32, is_key }
    };
    text.lines().filter(|line| !line.is_empty()).map(parse).collect()
}

/// Audio frames of equal length.
pub struct Audio {
    pub format: AudioFormat,
    pub frames: Vec<Vec<u8>>,
    pub frame_samples: u32,
}

/// A file as the recorder would leave it behind.
pub struct Recording {
    pub init: Init,
    pub bytes: Vec<u8>,
    pub entries: Vec<IndexEntry>,
    pub slots: usize,
    /// As written: pts and dts on the time axis of the file, size, key.
    pub samples: Vec<Probed>,
}

pub fn tag() -> RecordingTag {
    RecordingTag {
        stream_id: 7,
        stream_name: "Einfahrt \u{1F697}".to_owned(),
        start_ms: 1_795_000_000_123,
    }
}

/// Packages a clip, at most `fragment_units` pictures to a fragment and a new one at each key.
pub fn package(
    clip: &Clip,
    audio: Option<&Audio>,
    fragment_units: usize,
    slots: usize,
) -> Recording {
    let init = encode_init(&clip.format, audio.map(|audio| &audio.format), &tag(), slots);
    let mut bytes = init.bytes.clone();
    let samples = stamp(clip);
    let mut entries = Vec::new();
    let mut from = 0;
    while from < samples.len() {
        let limit = (from + fragment_units).min(samples.len());
        let next_key = (from + 1..limit).find(|&at| samples[at].is_key);
        let to = next_key.unwrap_or(limit);
        let infos: Vec<_> = (from..to).map(|at| info(&samples, at)).collect();
        let duration: u32 = infos.iter().map(|info| info.duration).sum();
        let base_dts = samples[from].dts as u64;
        let video = TrackFragment { track_id: VIDEO_TRACK_ID, base_dts, samples: &infos };
        let start = bytes.len();
        let heard = audio.map(|audio| audio_range(audio, base_dts, duration));
        let (audio_base, audio_infos, audio_data) = heard.unwrap_or_default();
        let sound =
            TrackFragment { track_id: AUDIO_TRACK_ID, base_dts: audio_base, samples: &audio_infos };
        bytes.extend_from_slice(&encode_fragment_head(entries.len() as u32 + 1, &[video, sound]));
        clip.units[from..to].iter().for_each(|unit| bytes.extend_from_slice(&unit.data));
        bytes.extend_from_slice(&audio_data);
        let starts_with_key = samples[from].is_key;
        entries.push(IndexEntry { bytes: (bytes.len() - start) as u32, duration, starts_with_key });
        from = to;
    }
    Recording { init, bytes, entries, slots, samples }
}

/// Times on the axis of the file, which begins when the first picture is decoded.
fn stamp(clip: &Clip) -> Vec<Probed> {
    let mut maker = DtsMaker::new(clip.format.reorder_frames).with_interval(6000);
    let stamps: Vec<_> = clip.units.iter().map(|unit| maker.push(unit.pts)).collect();
    let origin = stamps[0].dts;
    let units = clip.units.iter().zip(&stamps);
    let sample = |(unit, stamp): (&Unit, &super::reorder::Stamp)| Probed {
        pts: stamp.pts - origin,
        dts: stamp.dts - origin,
        size: unit.data.len() as u32,
        is_key: unit.is_key,
    };
    units.map(sample).collect()
}

fn info(samples: &[Probed], at: usize) -> SampleInfo {
    let sample = &samples[at];
    let duration = samples.get(at + 1).map_or(6000, |next| next.dts - sample.dts);
    SampleInfo {
        size: sample.size,
        duration: duration as u32,
        cts_offset: (sample.pts - sample.dts) as i32,
        is_key: sample.is_key,
    }
}

/// The frames that begin within a stretch of the video.
fn audio_range(audio: &Audio, base_dts: u64, duration: u32) -> (u64, Vec<SampleInfo>, Vec<u8>) {
    let frame = u64::from(audio.frame_samples);
    let first_at = |ticks: u64| {
        let samples = ticks * u64::from(audio.format.sample_rate) / 90_000;
        (samples.div_ceil(frame) as usize).min(audio.frames.len())
    };
    let (from, to) = (first_at(base_dts), first_at(base_dts + u64::from(duration)));
    let frames = &audio.frames[from..to];
    let info = |data: &Vec<u8>| SampleInfo {
        size: data.len() as u32,
        duration: audio.frame_samples,
        cts_offset: 0,
        is_key: true,
    };
    (from as u64 * frame, frames.iter().map(info).collect(), frames.concat())
}

impl Recording {
    /// The video's length in ticks.
    pub fn duration(&self) -> u64 {
        self.entries.iter().map(|entry| u64::from(entry.duration)).sum()
    }

    /// The bytes after the two patches that finish a recording.
    pub fn finished(&self, earliest_pts: u64) -> Vec<u8> {
        let mut bytes = self.bytes.clone();
        let index = encode_index(&self.entries, self.slots, earliest_pts);
        let at = self.init.index_at as usize;
        bytes[at..at + index.len()].copy_from_slice(&index);
        let at = self.init.duration_at as usize;
        bytes[at..at + 8].copy_from_slice(&self.duration().to_be_bytes());
        bytes
    }
}
