//! Fragments of MP4: `moof` and the head of `mdat` (ISO/IEC 14496-12 section 8.8).
//!
//! In here: the head of a fragment, from sizes and times of its samples. Not in here: the samples
//! themselves, which the caller writes behind the head without copying them.

use super::fmp4::{FLAGS_DELTA, FLAGS_KEY};
use super::mp4_box::{push_u32, push_u64, write_box, write_full_box};

/// `tfhd` flags (section 8.8.7.1).
pub(super) const TFHD_DURATION: u32 = 0x08;
pub(super) const TFHD_FLAGS: u32 = 0x20;
const TFHD_BASE_IS_MOOF: u32 = 0x02_0000;
/// `trun` flags (section 8.8.8.1).
pub(super) const TRUN_OFFSET: u32 = 0x001;
pub(super) const TRUN_FIRST_FLAGS: u32 = 0x004;
pub(super) const TRUN_DURATION: u32 = 0x100;
pub(super) const TRUN_SIZE: u32 = 0x200;
pub(super) const TRUN_FLAGS: u32 = 0x400;
pub(super) const TRUN_CTS: u32 = 0x800;
const MDAT_HEAD_BYTES: usize = 8;

/// One sample of a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SampleInfo {
    /// In bytes.
    pub size: u32,
    /// Until the next sample is decoded, in ticks of the track.
    pub duration: u32,
    /// `pts - dts` in ticks of the track. Better not negative: ffmpeg then shifts the whole track
    /// against the other one. So let the axis of a file begin at the first `dts` of the video.
    pub cts_offset: i32,
    pub is_key: bool,
}

impl SampleInfo {
    fn flags(&self) -> u32 {
        if self.is_key { FLAGS_KEY } else { FLAGS_DELTA }
    }
}

/// The samples of one track in a fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TrackFragment<'a> {
    pub track_id: u32,
    /// Decoding time of the first sample since the file began, in ticks of the track.
    pub base_dts: u64,
    pub samples: &'a [SampleInfo],
}

/// `moof` and the head of `mdat`. Behind it the caller writes the samples, track by track.
///
/// A track without samples is left out. All samples together are under 2 GiB (`PACKET_BYTES_MAX`
/// and the one second of a fragment see to it). What is the same for all samples is written once.
pub fn encode_fragment_head(sequence: u32, tracks: &[TrackFragment]) -> Vec<u8> {
    let samples: usize = tracks.iter().map(|track| track.samples.len()).sum();
    let mut out = Vec::with_capacity(128 + 96 * tracks.len() + 16 * samples);
    let mut offsets_at = heapless::Vec::<(usize, u64), 4>::new();
    let mut data_bytes = 0u64;
    write_box(&mut out, b"moof", |out| {
        write_full_box(out, b"mfhd", 0, 0, |out| push_u32(out, sequence));
        for track in tracks.iter().filter(|track| !track.samples.is_empty()) {
            let offset_at = write_track_fragment(out, track);
            let kept = offsets_at.push((offset_at, data_bytes));
            debug_assert!(kept.is_ok(), "a file has two tracks");
            data_bytes += track.samples.iter().map(|sample| u64::from(sample.size)).sum::<u64>();
        }
    });
    debug_assert!(data_bytes < 1 << 31, "a fragment of {data_bytes} bytes");
    let data_at = out.len() + MDAT_HEAD_BYTES;
    for (offset_at, before) in offsets_at {
        let offset = (data_at as u64 + before) as u32; // relative to moof, the start of `out`
        out[offset_at..offset_at + 4].copy_from_slice(&offset.to_be_bytes());
    }
    push_u32(&mut out, (data_bytes + MDAT_HEAD_BYTES as u64) as u32);
    out.extend_from_slice(b"mdat");
    out
}

/// Writes a `traf`; returns where its data offset has to be filled in.
fn write_track_fragment(out: &mut Vec<u8>, track: &TrackFragment) -> usize {
    let samples = track.samples;
    let (first, rest) = (samples[0], &samples[1..]);
    let usual = rest.first().unwrap_or(&first);
    let is_even = samples.iter().all(|sample| sample.duration == first.duration);
    let has_usual_flags = rest.iter().all(|sample| sample.is_key == usual.is_key);
    let is_first_other = has_usual_flags && first.is_key != usual.is_key;
    let has_offsets = samples.iter().any(|sample| sample.cts_offset != 0);
    let when = |condition: bool, flag: u32| if condition { flag } else { 0 };
    let track_flags =
        TFHD_BASE_IS_MOOF | when(is_even, TFHD_DURATION) | when(has_usual_flags, TFHD_FLAGS);
    let run_flags = TRUN_OFFSET
        | TRUN_SIZE
        | when(!is_even, TRUN_DURATION)
        | when(!has_usual_flags, TRUN_FLAGS)
        | when(is_first_other, TRUN_FIRST_FLAGS)
        | when(has_offsets, TRUN_CTS);
    let mut offset_at = 0;
    write_box(out, b"traf", |out| {
        write_full_box(out, b"tfhd", 0, track_flags, |out| {
            push_u32(out, track.track_id);
            push_if(out, track_flags & TFHD_DURATION, first.duration);
            push_if(out, track_flags & TFHD_FLAGS, usual.flags());
        });
        write_full_box(out, b"tfdt", 1, 0, |out| push_u64(out, track.base_dts));
        write_full_box(out, b"trun", 1, run_flags, |out| {
            push_u32(out, samples.len() as u32); // an access unit has bytes: far below 2^32
            offset_at = out.len();
            push_u32(out, 0);
            push_if(out, run_flags & TRUN_FIRST_FLAGS, first.flags());
            for sample in samples {
                push_if(out, run_flags & TRUN_DURATION, sample.duration);
                push_u32(out, sample.size);
                push_if(out, run_flags & TRUN_FLAGS, sample.flags());
                push_if(out, run_flags & TRUN_CTS, sample.cts_offset as u32);
            }
        });
    });
    offset_at
}

/// Appends a field that is only there when its flag is set.
fn push_if(out: &mut Vec<u8>, flag: u32, value: u32) {
    if flag != 0 {
        push_u32(out, value);
    }
}
