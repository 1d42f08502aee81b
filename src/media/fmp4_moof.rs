//! Reads the head of a fragment: times and key of its video, as far as an index needs them.
//!
//! In here: `moof` (ISO/IEC 14496-12 section 8.8), any version and flags that a writer may choose.
//! Not in here: where it stands in the file (`fmp4_scan.rs`). Damage ends in "no video", never in a
//! panic.

use super::fmp4::VIDEO_TRACK_ID;
use super::fmp4_fragment::{
    TFHD_DURATION, TFHD_FLAGS, TRUN_CTS, TRUN_DURATION, TRUN_FIRST_FLAGS, TRUN_FLAGS, TRUN_OFFSET,
    TRUN_SIZE,
};
use super::mp4_box::{Cursor, boxes};

/// `tfhd` flags that this writer does not use (section 8.8.7.1).
const TFHD_BASE_OFFSET: u32 = 0x01;
const TFHD_DESCRIPTION: u32 = 0x02;
const TFHD_SIZE: u32 = 0x10;
/// `sample_is_non_sync_sample` (section 8.8.3.1).
const FLAG_NON_SYNC: u32 = 0x0001_0000;

/// What a `moof` says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fragment {
    pub sequence: u32,
    /// `None`: no video in it, or not understood.
    pub video: Option<VideoRun>,
}

/// The video of a fragment, in ticks of its track.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VideoRun {
    pub base_dts: u64,
    pub duration: u64,
    /// The smallest presentation time, 0 where it would be negative.
    pub earliest_pts: u64,
    pub starts_with_key: bool,
}

/// Defaults of a track fragment, 0 where `tfhd` has none.
#[derive(Default)]
struct Defaults {
    duration: u32,
    flags: u32,
}

/// Sums over the samples of a track fragment.
#[derive(Default)]
struct Totals {
    samples: u64,
    duration: u64,
    /// Relative to the base.
    pts_min: i64,
    starts_with_key: bool,
}

/// Parses the body of a `moof` box.
pub fn parse_moof(body: &[u8]) -> Fragment {
    let mut fragment = Fragment::default();
    for (kind, _, child) in boxes(body) {
        if kind == *b"mfhd" {
            let sequence = child.get(4..).and_then(|rest| rest.first_chunk());
            fragment.sequence = sequence.map_or(0, |bytes| u32::from_be_bytes(*bytes));
        } else if kind == *b"traf" && fragment.video.is_none() {
            fragment.video = parse_video(child);
        }
    }
    fragment
}

/// `traf` of the video track. `None`: another track, or damaged.
fn parse_video(body: &[u8]) -> Option<VideoRun> {
    let (_, _, header) = boxes(body).find(|(kind, ..)| kind == b"tfhd")?;
    let defaults = parse_track_header(header)?;
    let (_, _, time) = boxes(body).find(|(kind, ..)| kind == b"tfdt")?;
    let mut cursor = Cursor::new(time);
    let base_dts =
        if cursor.u32()? >> 24 == 0 { u64::from(cursor.u32()?) } else { cursor.u64()? };
    let mut totals = Totals::default();
    for (_, _, run) in boxes(body).filter(|(kind, ..)| kind == b"trun") {
        add_run(&mut totals, run, &defaults)?;
    }
    Some(VideoRun {
        base_dts,
        duration: totals.duration,
        earliest_pts: base_dts.saturating_add_signed(totals.pts_min),
        starts_with_key: totals.starts_with_key,
    })
}

/// `tfhd`; `None` when it is not that of the video track.
fn parse_track_header(body: &[u8]) -> Option<Defaults> {
    let mut cursor = Cursor::new(body);
    let flags = cursor.u32()? & 0x00FF_FFFF;
    if cursor.u32()? != VIDEO_TRACK_ID {
        return None;
    }
    let unused = [(TFHD_BASE_OFFSET, 8), (TFHD_DESCRIPTION, 4)];
    for (_, bytes) in unused.into_iter().filter(|(flag, _)| flags & flag != 0) {
        cursor.take(bytes)?;
    }
    let duration = take_if(&mut cursor, flags & TFHD_DURATION)?.unwrap_or(0);
    take_if(&mut cursor, flags & TFHD_SIZE)?;
    let sample_flags = take_if(&mut cursor, flags & TFHD_FLAGS)?.unwrap_or(0);
    Some(Defaults { duration, flags: sample_flags })
}

/// A field that is only there when its flag is set; the outer `None` is the end of the bytes.
fn take_if(cursor: &mut Cursor, flag: u32) -> Option<Option<u32>> {
    if flag == 0 { Some(None) } else { cursor.u32().map(Some) }
}

/// Adds the samples of one `trun`.
fn add_run(totals: &mut Totals, body: &[u8], defaults: &Defaults) -> Option<()> {
    let mut cursor = Cursor::new(body);
    let flags = cursor.u32()? & 0x00FF_FFFF;
    let count = cursor.u32()?;
    take_if(&mut cursor, flags & TRUN_OFFSET)?;
    let first_flags = take_if(&mut cursor, flags & TRUN_FIRST_FLAGS)?;
    if flags & (TRUN_DURATION | TRUN_SIZE | TRUN_FLAGS | TRUN_CTS) == 0 {
        // Nothing per sample: the count is not bounded by the bytes, so it must not be counted out.
        let key = first_flags.unwrap_or(defaults.flags) & FLAG_NON_SYNC == 0;
        totals.starts_with_key |= totals.samples == 0 && count > 0 && key;
        totals.samples += u64::from(count);
        totals.duration += u64::from(count) * u64::from(defaults.duration);
        return Some(());
    }
    for at in 0..count {
        let duration = take_if(&mut cursor, flags & TRUN_DURATION)?.unwrap_or(defaults.duration);
        take_if(&mut cursor, flags & TRUN_SIZE)?;
        let sample_flags = take_if(&mut cursor, flags & TRUN_FLAGS)?.unwrap_or(defaults.flags);
        let cts = take_if(&mut cursor, flags & TRUN_CTS)?.unwrap_or(0) as i32;
        let pts = (totals.duration as i64).saturating_add(i64::from(cts)); // < 2^18 * 2^32
        if totals.samples == 0 {
            let first = first_flags.filter(|_| at == 0).unwrap_or(sample_flags);
            totals.starts_with_key = first & FLAG_NON_SYNC == 0;
            totals.pts_min = pts;
        }
        totals.pts_min = totals.pts_min.min(pts);
        totals.samples += 1;
        totals.duration += u64::from(duration);
    }
    Some(())
}
