//! Fragmented MP4 (ISO/IEC 14496-12) as recordings and live view use it: the head of a file.
//!
//! A recording is `ftyp moov free (moof mdat)*`: written once, front to back. When it is finished,
//! two places are patched: the duration in `mehd`, and the `free` box becomes a `sidx` with which a
//! browser seeks at once. A file that never was finished plays all the same.
//!
//! In here: `encode_init` and the recording tag. Fragments: `fmp4_fragment.rs`; the index:
//! `fmp4_index.rs`; sample descriptions: `fmp4_entry.rs`; reading it back: `fmp4_scan.rs`.

use super::fmp4_entry::{write_audio_entry, write_video_entry};
pub use super::fmp4_fragment::{SampleInfo, TrackFragment, encode_fragment_head};
pub use super::fmp4_index::{INDEX_SLOTS_MAX, IndexEntry, encode_index, index_bytes};
use super::fmp4_scan::Scan;
use super::format::{AudioFormat, VIDEO_TIMESCALE, VideoFormat};
use super::mp4_box::{Cursor, push_u16, push_u32, push_u64, write_box, write_full_box};

/// Track numbers within a file.
pub const VIDEO_TRACK_ID: u32 = 1;
pub const AUDIO_TRACK_ID: u32 = 2;

/// Sample flags (section 8.8.3.1): a sync sample that depends on no other; one that does.
pub(super) const FLAGS_KEY: u32 = 0x0200_0000;
pub(super) const FLAGS_DELTA: u32 = 0x0101_0000;

/// The `uuid` box that holds the tag: random, fixed for all time.
const TAG_UUID: [u8; 16] = [
    0x6C, 0x69, 0x67, 0x68, 0x74, 0x6E, 0x76, 0x72, 0x9E, 0x1D, 0x4B, 0x52, 0xA3, 0x07, 0xC8, 0x51,
];
const TAG_VERSION: u8 = 1;
/// Where the start is in the tag: behind the type, the version and the stream's id.
pub(super) const TAG_START_AT: usize = 16 + 1 + 4;
/// Longer names are cut. The API allows less.
const TAG_NAME_BYTES_MAX: usize = 1024;
/// From 1904-01-01, where MP4 counts from, to 1970-01-01.
const MP4_EPOCH_S: i64 = 2_082_844_800;
/// The first box of every file of ours: `ftyp` with the brands, always the same.
const FILE_TYPE: [u8; 28] = *b"\0\0\0\x1Cftypiso6\0\0\0\0iso6iso5mp41";
/// `und`, undetermined, in the 5-bit letters of section 8.4.2.3.
const LANGUAGE_UND: u16 = 0x55C4;
/// Unity matrix (section 8.2.2.2), rows of 16.16, 16.16, 2.30 numbers.
const MATRIX: [u32; 9] = [0x0001_0000, 0, 0, 0, 0x0001_0000, 0, 0, 0, 0x4000_0000];

/// What a file says about the recording it is, so that the store can be rebuilt from files alone.
///
/// In the file: a `uuid` box at the end of `moov` with the 16 bytes of its type, then version (u8,
/// 1), stream id (u32), start in Unix milliseconds (i64), slots of the index (u32), length of the
/// name (u16), name in UTF-8. The slots are there because a power cut can tear the index, whose
/// size then nobody else knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordingTag {
    pub stream_id: u32,
    pub stream_name: String,
    /// Wall clock of the first sample, Unix milliseconds.
    pub start_ms: i64,
}

impl RecordingTag {
    fn write(&self, out: &mut Vec<u8>, index_slots: usize) {
        let mut len = self.stream_name.len().min(TAG_NAME_BYTES_MAX);
        while !self.stream_name.is_char_boundary(len) {
            len -= 1;
        }
        let name = &self.stream_name[..len];
        write_box(out, b"uuid", |out| {
            out.extend_from_slice(&TAG_UUID);
            out.push(TAG_VERSION);
            push_u32(out, self.stream_id);
            push_u64(out, self.start_ms as u64);
            push_u32(out, index_slots.min(INDEX_SLOTS_MAX) as u32);
            push_u16(out, name.len() as u16); // <= TAG_NAME_BYTES_MAX
            out.extend_from_slice(name.as_bytes());
        });
    }

    /// Parses the body of a `uuid` box; also returns the slots of the index. `None`: another type,
    /// a later version, or damaged.
    pub(super) fn parse(body: &[u8]) -> Option<(RecordingTag, usize)> {
        let mut cursor = Cursor::new(body);
        if cursor.take(16)? != TAG_UUID || cursor.u8()? != TAG_VERSION {
            return None;
        }
        let stream_id = cursor.u32()?;
        let start_ms = cursor.u64()? as i64;
        let slots = cursor.u32().map(|slots| slots as usize)?;
        let len = usize::from(cursor.u16()?);
        let name = std::str::from_utf8(cursor.take(len)?).ok()?;
        let tag = RecordingTag { stream_id, stream_name: name.to_owned(), start_ms };
        (slots <= INDEX_SLOTS_MAX).then_some((tag, slots))
    }
}

/// The head of a file, and where it is patched when the recording is finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Init {
    pub bytes: Vec<u8>,
    /// Offset of the `free` box that `encode_index` replaces; as many bytes as
    /// `index_bytes(slots)`.
    pub index_at: u64,
    /// Offset of the 64-bit big-endian duration in `mehd`, in ticks of `VIDEO_TIMESCALE`.
    pub duration_at: u64,
}

/// The head of a recording with room for an index of `index_slots` entries, at most
/// `INDEX_SLOTS_MAX`. The scanner takes the recording for finished when the duration in `mehd` is the
/// sum of the durations in the index.
pub fn encode_init(
    video: &VideoFormat,
    audio: Option<&AudioFormat>,
    tag: &RecordingTag,
    index_slots: usize,
) -> Init {
    let (mut bytes, duration_at) = encode_head(video, audio, Some((tag, index_slots)));
    let index_at = bytes.len() as u64;
    bytes.extend_from_slice(&encode_index(&[], index_slots, 0));
    Init { bytes, index_at, duration_at: duration_at as u64 }
}

/// The initialization segment of live view: `ftyp` and `moov`, without a tag, a start and an index.
pub fn encode_live_init(video: &VideoFormat, audio: Option<&AudioFormat>) -> Vec<u8> {
    encode_head(video, audio, None).0
}

/// How many bytes `is_own_head` wants to see, if the file has as many.
pub const OWN_HEAD_BYTES: usize = FILE_TYPE.len();

/// Whether a file that begins like this can be one of ours whose head a power cut tore: it begins as all of ours do, as
/// far as it goes, or where its bytes never came to the medium there are zeros or nothing.
pub fn is_own_head(bytes: &[u8]) -> bool {
    let len = bytes.len().min(OWN_HEAD_BYTES);
    bytes[..len] == FILE_TYPE[..len] || bytes[..len].iter().all(|&byte| byte == 0)
}

/// `ftyp` and `moov`; also where the duration in `mehd` stands.
fn encode_head(
    video: &VideoFormat,
    audio: Option<&AudioFormat>,
    tag: Option<(&RecordingTag, usize)>,
) -> (Vec<u8>, usize) {
    let mut out = Vec::with_capacity(2048);
    out.extend_from_slice(&FILE_TYPE);
    let created_s = tag.map_or(0, |(tag, _)| mp4_time_s(tag.start_ms));
    let mut duration_at = 0;
    write_box(&mut out, b"moov", |out| {
        write_movie_header(out, created_s);
        write_box(out, b"mvex", |out| {
            write_full_box(out, b"mehd", 1, 0, |out| {
                duration_at = out.len();
                push_u64(out, 0); // not known yet
            });
            write_track_extends(out, VIDEO_TRACK_ID, FLAGS_DELTA);
            if audio.is_some() {
                write_track_extends(out, AUDIO_TRACK_ID, FLAGS_KEY);
            }
        });
        write_video_track(out, video, created_s);
        if let Some(audio) = audio {
            write_audio_track(out, audio, created_s);
        }
        if let Some((tag, index_slots)) = tag {
            tag.write(out, index_slots);
        }
    });
    (out, duration_at)
}

/// What finishing would have written into the head of a recording that a crash ended, where it ends at `media_end`.
pub fn finishing_patches(scan: &Scan) -> Vec<(u64, Vec<u8>)> {
    let mut patches = Vec::new();
    if !scan.is_indexed {
        let index = encode_index(&scan.fragments, scan.index_slots, scan.earliest_pts);
        patches.extend(scan.index_at.map(|at| (at, index)));
        patches.extend(scan.duration_at.map(|at| (at, scan.duration_ticks.to_be_bytes().to_vec())));
    }
    patches
}

/// What is written over the places of a recording's head that tell its start, to date it anew.
pub fn dating_patches(scan: &Scan, start_ms: i64) -> Vec<(u64, Vec<u8>)> {
    let created = mp4_time_s(start_ms).to_be_bytes();
    let times = scan.created_at.iter().map(|&at| (at, [created, created].concat()));
    let start = scan.start_at.map(|at| (at, start_ms.to_be_bytes().to_vec()));
    times.chain(start).collect()
}

/// Seconds since 1904, as `mvhd` counts; 0 for times before.
fn mp4_time_s(unix_ms: i64) -> u64 {
    u64::try_from(unix_ms.div_euclid(1000) + MP4_EPOCH_S).unwrap_or(0)
}

/// `mvhd`, version 1: 32-bit times end in 2040.
fn write_movie_header(out: &mut Vec<u8>, created_s: u64) {
    write_full_box(out, b"mvhd", 1, 0, |out| {
        push_u64(out, created_s);
        push_u64(out, created_s);
        push_u32(out, VIDEO_TIMESCALE); // so that mehd counts video ticks
        push_u64(out, 0); // duration: all of it is in fragments
        push_u32(out, 0x0001_0000); // rate
        push_u16(out, 0x0100); // volume
        out.extend_from_slice(&[0; 10]);
        MATRIX.iter().for_each(|&value| push_u32(out, value));
        out.extend_from_slice(&[0; 24]);
        push_u32(out, AUDIO_TRACK_ID + 1); // next_track_ID
    });
}

fn write_track_extends(out: &mut Vec<u8>, track_id: u32, flags: u32) {
    write_full_box(out, b"trex", 0, 0, |out| {
        push_u32(out, track_id);
        push_u32(out, 1); // default_sample_description_index
        push_u32(out, 0); // default_sample_duration
        push_u32(out, 0); // default_sample_size
        push_u32(out, flags);
    });
}

fn write_video_track(out: &mut Vec<u8>, video: &VideoFormat, created_s: u64) {
    write_box(out, b"trak", |out| {
        write_track_header(out, VIDEO_TRACK_ID, created_s, 0, (video.width, video.height));
        write_box(out, b"mdia", |out| {
            write_media_header(out, VIDEO_TIMESCALE, created_s);
            write_handler(out, b"vide", b"LightNVR video\0");
            write_box(out, b"minf", |out| {
                write_full_box(out, b"vmhd", 0, 1, |out| out.extend_from_slice(&[0; 8]));
                write_data_information(out);
                write_sample_table(out, |out| write_video_entry(out, video));
            });
        });
    });
}

fn write_audio_track(out: &mut Vec<u8>, audio: &AudioFormat, created_s: u64) {
    write_box(out, b"trak", |out| {
        write_track_header(out, AUDIO_TRACK_ID, created_s, 0x0100, (0, 0));
        write_box(out, b"mdia", |out| {
            write_media_header(out, audio.sample_rate, created_s);
            write_handler(out, b"soun", b"LightNVR audio\0");
            write_box(out, b"minf", |out| {
                write_full_box(out, b"smhd", 0, 0, |out| out.extend_from_slice(&[0; 4]));
                write_data_information(out);
                write_sample_table(out, |out| write_audio_entry(out, audio));
            });
        });
    });
}

/// `tkhd`: enabled, in the movie, in the preview.
fn write_track_header(
    out: &mut Vec<u8>,
    track_id: u32,
    created_s: u64,
    volume: u16,
    size: (u16, u16),
) {
    write_full_box(out, b"tkhd", 1, 7, |out| {
        push_u64(out, created_s);
        push_u64(out, created_s);
        push_u32(out, track_id);
        push_u32(out, 0);
        push_u64(out, 0); // duration
        out.extend_from_slice(&[0; 8]);
        push_u16(out, 0); // layer
        push_u16(out, 0); // alternate_group
        push_u16(out, volume);
        push_u16(out, 0);
        MATRIX.iter().for_each(|&value| push_u32(out, value));
        push_u32(out, u32::from(size.0) << 16);
        push_u32(out, u32::from(size.1) << 16);
    });
}

fn write_media_header(out: &mut Vec<u8>, timescale: u32, created_s: u64) {
    write_full_box(out, b"mdhd", 1, 0, |out| {
        push_u64(out, created_s);
        push_u64(out, created_s);
        push_u32(out, timescale);
        push_u64(out, 0); // duration
        push_u16(out, LANGUAGE_UND);
        push_u16(out, 0);
    });
}

fn write_handler(out: &mut Vec<u8>, kind: &[u8; 4], name: &[u8]) {
    write_full_box(out, b"hdlr", 0, 0, |out| {
        push_u32(out, 0);
        out.extend_from_slice(kind);
        out.extend_from_slice(&[0; 12]);
        out.extend_from_slice(name);
    });
}

/// `dinf`: the samples are in this very file.
fn write_data_information(out: &mut Vec<u8>) {
    write_box(out, b"dinf", |out| {
        write_full_box(out, b"dref", 0, 0, |out| {
            push_u32(out, 1);
            write_full_box(out, b"url ", 0, 1, |_| ());
        });
    });
}

/// `stbl` with one sample description and no samples: these are in the fragments.
fn write_sample_table(out: &mut Vec<u8>, write_entry: impl FnOnce(&mut Vec<u8>)) {
    write_box(out, b"stbl", |out| {
        write_full_box(out, b"stsd", 0, 0, |out| {
            push_u32(out, 1);
            write_entry(out);
        });
        write_full_box(out, b"stts", 0, 0, |out| push_u32(out, 0));
        write_full_box(out, b"stsc", 0, 0, |out| push_u32(out, 0));
        write_full_box(out, b"stsz", 0, 0, |out| push_u64(out, 0));
        write_full_box(out, b"stco", 0, 0, |out| push_u32(out, 0));
    });
}

#[cfg(test)]
mod tests;
