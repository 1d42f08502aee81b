//! Cameras on this machine without files, clock or threads: what is asked of a driver, what its answer is worth, and
//! when its pictures were taken.
//!
//! In here: the choice among formats and sizes, the layout that was agreed, times, rates. Not in here: ioctls
//! (`v4l2_sys.rs`), what becomes of the bytes (`v4l2_frame_core.rs`, `picture_core.rs`). Keeps PURE-CORE. A driver's
//! numbers may be anything: every one is put in its range or refused.

use crate::config::device::LocalSize;
use crate::media::format::{VIDEO_TIMESCALE, VideoCodec};

/// Formats of a device that are looked at; UVC cameras have two to five, vivid has some 60.
pub const FORMATS_MAX: usize = 128;
/// Sizes of one format.
pub const SIZES_MAX: usize = 32;
/// Frame intervals of one size.
pub const INTERVALS_MAX: usize = 32;
/// Largest buffer that a driver may want for a picture: UVC cameras with 4K ask for 16.6 MB for any JPEG.
pub const BUFFER_BYTES_MAX: u32 = 32 << 20;

/// Sides of a picture, in pixels.
const SIDE_MIN: u32 = 16;
const SIDE_MAX: u32 = 8192;
/// Sides of a picture that is encoded here, or decoded for it: what a board's processor can do at all.
const ENCODED_SIDE_MIN: u32 = 64;
const ENCODED_WIDTH_MAX: u32 = 1920;
const ENCODED_HEIGHT_MAX: u32 = 1088;
/// Bytes from one row to the next.
const STRIDE_MAX: u32 = 64 << 10;
/// What is looked for where a stream has no size: H.264 of the camera costs nothing, all else does.
const H264_SIZE_DEFAULT: (u32, u32) = (1920, 1080);
const SIZE_DEFAULT: (u32, u32) = (1280, 720);
/// Pictures per second where a stream that is encoded here has no `fps`.
const FPS_DEFAULT: u16 = 15;
/// Most that is encoded here.
const ENCODED_FPS_MAX: u16 = 30;
/// Sizes that are tried where a driver takes any of a range.
const COMMON_SIZES: [(u32, u32); 6] =
    [(320, 240), (640, 360), (640, 480), (1280, 720), (1920, 1080), (3840, 2160)];
/// Formats that an error names.
const NAMED_MAX: usize = 12;
/// A driver's time of capture is believed if it lies so far back at most.
const AGE_US_MAX: i64 = 10_000_000;

const fn fourcc(code: [u8; 4]) -> u32 {
    u32::from_le_bytes(code)
}

/// What a driver can deliver and we can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    H264,
    Mjpeg,
    Nv12,
    Yuyv,
}

/// Names of linux/videodev2.h. Drivers use both of JPEG's for the same.
const KINDS: [(u32, Kind); 5] = [
    (fourcc(*b"H264"), Kind::H264),
    (fourcc(*b"MJPG"), Kind::Mjpeg),
    (fourcc(*b"JPEG"), Kind::Mjpeg),
    (fourcc(*b"NV12"), Kind::Nv12),
    (fourcc(*b"YUYV"), Kind::Yuyv),
];

impl Kind {
    /// Of a driver's code; `None` for what can't be used.
    pub fn of(code: u32) -> Option<Self> {
        KINDS.iter().find(|(known, _)| *known == code).map(|(_, kind)| *kind)
    }

    /// Whether it is recorded as it comes.
    fn is_as_is(self, codec: VideoCodec) -> bool {
        matches!((self, codec), (Self::H264, VideoCodec::H264) | (Self::Mjpeg, VideoCodec::Mjpeg))
    }

    /// Bytes of one row; `None` for what has none.
    fn row_bytes(self, width: u32) -> Option<u32> {
        match self {
            Self::H264 | Self::Mjpeg => None,
            Self::Nv12 => Some(width),
            Self::Yuyv => Some(width * 2),
        }
    }

    /// How much work it is to encode, beside the encoder itself.
    fn cost(self) -> u8 {
        match self {
            Self::H264 | Self::Nv12 => 0,
            Self::Yuyv => 1,
            Self::Mjpeg => 2,
        }
    }
}

/// What a stream's `codec` may be with this format.
pub fn codecs(code: u32) -> Vec<&'static str> {
    let (h264, mjpeg) = (VideoCodec::H264.name(), VideoCodec::Mjpeg.name());
    match Kind::of(code) {
        Some(Kind::Mjpeg) => vec![mjpeg, h264],
        Some(_) => vec![h264],
        None => Vec::new(),
    }
}

/// The four characters of a driver's code, for people.
pub fn fourcc_text(code: u32) -> String {
    // The highest bit says big-endian (linux/videodev2.h).
    let chars = (code & !(1 << 31)).to_le_bytes().map(|byte| {
        let is_shown = byte.is_ascii_graphic() || byte == b' ';
        char::from(if is_shown { byte } else { b'.' })
    });
    chars.iter().collect::<String>().trim_end().to_owned()
}

/// What a stream wants; 0 for "choose".
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wish {
    pub codec: VideoCodec,
    pub width: u16,
    pub height: u16,
    pub fps: u16,
}

impl Wish {
    /// The size that is looked for among those of `kind`.
    fn size(&self, kind: Kind) -> (u32, u32) {
        match (u32::from(self.width), u32::from(self.height)) {
            (0, 0) if kind == Kind::H264 => H264_SIZE_DEFAULT,
            (0, 0) => SIZE_DEFAULT,
            (width, 0) => (width, width * 9 / 16),
            (0, height) => (height * 16 / 9, height),
            both => both,
        }
    }
}

/// Sizes as a driver names them (VIDIOC_ENUM_FRAMESIZES).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sizes {
    One {
        width: u32,
        height: u32,
    },
    /// Smallest, largest and step of width and height.
    Range {
        width: (u32, u32, u32),
        height: (u32, u32, u32),
    },
}

/// The sizes to be looked at, without doubles; of a range the one that is wished and common ones.
pub fn sizes(named: &[Sizes], wish: Option<&Wish>, kind: Kind) -> Vec<(u16, u16)> {
    let mut found: Vec<(u16, u16)> = Vec::new();
    let mut add = |width: u32, height: u32| {
        let is_sane = [width, height].iter().all(|side| (SIDE_MIN..=SIDE_MAX).contains(side));
        let size = (width as u16, height as u16); // at most 8192, else left out
        if is_sane && found.len() < SIZES_MAX && !found.contains(&size) {
            found.push(size);
        }
    };
    for sizes in named {
        match *sizes {
            Sizes::One { width, height } => add(width, height),
            Sizes::Range { width, height } => {
                let wished = wish.map(|wish| wish.size(kind));
                for (w, h) in wished.into_iter().chain(COMMON_SIZES) {
                    if let (Some(w), Some(h)) = (snap(w, width), snap(h, height)) {
                        add(w, h);
                    }
                }
            }
        }
    }
    found
}

/// The side of a range that is nearest to `side`, or the next smaller one; `None` for a range without any.
fn snap(side: u32, (min, max, step): (u32, u32, u32)) -> Option<u32> {
    let max = max.min(SIDE_MAX);
    if min > max {
        return None;
    }
    let above = side.clamp(min, max) - min;
    Some(min + above - above % step.max(1))
}

/// Pictures per second of an interval in seconds, rounded down but to 1 at least; 0 for one that means nothing.
pub fn fps_of(numerator: u32, denominator: u32) -> u16 {
    if numerator == 0 || denominator == 0 {
        return 0;
    }
    u16::try_from((denominator / numerator).max(1)).unwrap_or(u16::MAX)
}

/// A format that a driver offers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offer {
    pub code: u32,
    pub sizes: Vec<LocalSize>,
}

/// What is asked of the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    pub kind: Kind,
    pub code: u32,
    pub width: u16,
    pub height: u16,
    /// Pictures per second; `None` leaves it to the camera.
    pub fps: Option<u16>,
    /// Whether it is recorded as it comes; else it is encoded.
    pub is_as_is: bool,
}

/// The offer that serves the wish best: what the camera encodes itself before all else; then a size that is large
/// enough, at the rate, and the nearest of these; then what costs less. An error names what there is.
pub fn choose(offers: &[Offer], wish: &Wish) -> Result<Choice, String> {
    let mut best = None;
    for offer in offers {
        let Some(kind) = Kind::of(offer.code) else { continue };
        let is_as_is = kind.is_as_is(wish.codec);
        if !is_as_is && (wish.codec != VideoCodec::H264 || kind == Kind::H264) {
            continue;
        }
        let fps = match (wish.fps, is_as_is) {
            (0, true) => None,
            (0, false) => Some(FPS_DEFAULT),
            (fps, true) => Some(fps),
            (fps, false) => Some(fps.min(ENCODED_FPS_MAX)),
        };
        let (want_w, want_h) = wish.size(kind);
        for size in &offer.sizes {
            let (width, height) = (u32::from(size.width), u32::from(size.height));
            if !is_as_is && !can_be_encoded(width, height) {
                continue;
            }
            let is_small = width < want_w || height < want_h;
            let is_slow = size.fps != 0 && fps.is_some_and(|fps| size.fps < fps);
            let distance = (width * height).abs_diff(want_w * want_h);
            let rank = (!is_as_is, is_small, is_slow, distance, kind.cost());
            if best.as_ref().is_none_or(|(least, _)| rank < *least) {
                let (code, width, height) = (offer.code, size.width, size.height);
                best = Some((rank, Choice { kind, code, width, height, fps, is_as_is }));
            }
        }
    }
    best.map(|(_, choice)| choice).ok_or_else(|| nothing_fits(offers, wish.codec))
}

fn can_be_encoded(width: u32, height: u32) -> bool {
    width <= ENCODED_WIDTH_MAX && height <= ENCODED_HEIGHT_MAX
}

fn nothing_fits(offers: &[Offer], codec: VideoCodec) -> String {
    let mut names: Vec<String> = offers.iter().map(|offer| fourcc_text(offer.code)).collect();
    names.truncate(NAMED_MAX);
    let more = if offers.len() > names.len() { " and others" } else { "" };
    let there = if names.is_empty() { "no format".to_owned() } else { names.join(", ") + more };
    let name = codec.name();
    let want = match codec {
        VideoCodec::Mjpeg => "MJPG",
        _ => "H264, MJPG, NV12 or YUYV",
    };
    format!(
        "camera offers no video format for codec {name}: it has {there}, and {name} needs {want}"
    )
}

/// A format as a driver has set it (VIDIOC_S_FMT).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Set {
    pub code: u32,
    pub width: u32,
    pub height: u32,
    pub stride: u32,
    pub image_bytes: u32,
    /// Separate pieces of memory for one picture.
    pub planes: u8,
}

/// How pictures lie in a buffer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    pub kind: Kind,
    /// In pixels.
    pub width: usize,
    pub height: usize,
    /// Bytes from one row to the next; 0 for what has no rows.
    pub stride: usize,
}

/// What was agreed on, or why that is nothing to work with.
pub fn agree(choice: &Choice, set: &Set) -> Result<Layout, String> {
    let Set { code, width, height, stride, image_bytes, planes } = *set;
    if Kind::of(code) != Some(choice.kind) {
        let (want, got) = (fourcc_text(choice.code), fourcc_text(code));
        return Err(format!("driver offers {want} and sets {got}"));
    }
    let is_sane = [width, height].iter().all(|side| (SIDE_MIN..=SIDE_MAX).contains(side));
    if !is_sane || (!choice.is_as_is && !can_be_encoded(width, height)) {
        let most = if choice.is_as_is { "8192x8192" } else { "1920x1088" };
        return Err(format!("driver sets pictures of {width}x{height}, at most are {most}"));
    }
    if planes != 1 {
        return Err(format!("driver splits pictures into {planes} planes, want 1"));
    }
    if image_bytes > BUFFER_BYTES_MAX {
        let most = BUFFER_BYTES_MAX;
        return Err(format!("driver wants {image_bytes} bytes for a picture, at most are {most}"));
    }
    let stride = match choice.kind.row_bytes(width) {
        None => 0,
        Some(row) if stride == 0 => row,
        Some(row) if (row..=STRIDE_MAX).contains(&stride) => stride,
        Some(row) => return Err(format!("driver sets rows of {stride} bytes, want {row}")),
    };
    let (width, height, stride) = (width as usize, height as usize, stride as usize);
    Ok(Layout { kind: choice.kind, width, height, stride })
}

/// The size in which pictures of this layout are encoded: as wished, else as they are. Even.
pub fn encoded_size(wish: &Wish, layout: &Layout) -> (usize, usize) {
    let (width, height) = (layout.width as u32, layout.height as u32);
    let wished = match (u32::from(wish.width), u32::from(wish.height)) {
        (0, 0) => (width, height),
        (w, 0) => (w, w * height / width.max(1)),
        (0, h) => (h * width / height.max(1), h),
        both => both,
    };
    let even = |side: u32, max| (side.clamp(ENCODED_SIDE_MIN, max) & !1) as usize;
    (even(wished.0, ENCODED_WIDTH_MAX), even(wished.1, ENCODED_HEIGHT_MAX))
}

/// What an owner should know who wished another size than comes.
pub fn size_advice(wish: &Wish, width: usize, height: usize) -> Option<String> {
    let is_other = |wished: u16, side| wished != 0 && usize::from(wished) != side;
    (is_other(wish.width, width) || is_other(wish.height, height)).then(|| {
        let (w, h) = (wish.width, wish.height);
        format!("the stream's width and height are {w}x{h}, the nearest that can be had is {width}x{height}")
    })
}

/// Times of capture in ticks since the first picture: they rise, whatever a driver says.
#[derive(Clone, Copy, Debug, Default)]
pub struct CaptureClock {
    origin_us: Option<i64>,
    last: Option<i64>,
}

impl CaptureClock {
    /// The time of the next picture in 90 kHz ticks. `stamp_us` is the driver's, by the clock of `arrived_us`, or
    /// `None` where it has another one; it is believed if it lies in the last ten seconds.
    pub fn ticks(&mut self, stamp_us: Option<i64>, arrived_us: i64) -> i64 {
        let age_us = stamp_us.map(|stamp| arrived_us.saturating_sub(stamp));
        let is_credible = age_us.is_some_and(|age| (0..=AGE_US_MAX).contains(&age));
        let at_us = stamp_us.filter(|_| is_credible).unwrap_or(arrived_us);
        let since_us = at_us.saturating_sub(*self.origin_us.get_or_insert(at_us));
        let ticks = i128::from(since_us) * i128::from(VIDEO_TIMESCALE) / 1_000_000;
        let ticks = i64::try_from(ticks).unwrap_or(0).max(self.last.map_or(0, |last| last + 1));
        self.last = Some(ticks);
        ticks
    }
}

/// Whether pictures are missing between these two counts of a driver. One that does not count says always the same.
pub fn is_gap(last: u32, now: u32) -> bool {
    (2..1 << 31).contains(&now.wrapping_sub(last))
}

/// Leaves out pictures where a camera sends more of them than are wished.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// 90 kHz; 0 takes all.
    interval: i64,
    due: i64,
}

impl Pace {
    /// `None` takes all.
    pub fn new(fps: Option<u16>) -> Self {
        let interval = fps.map_or(0, |fps| i64::from(VIDEO_TIMESCALE) / i64::from(fps.max(1)));
        Self { interval, due: 0 }
    }

    /// Whether the picture of this time is taken. Times jitter, so a quarter of an interval is not early.
    pub fn takes(&mut self, ticks: i64) -> bool {
        if ticks + self.interval / 4 < self.due {
            return false;
        }
        let next = self.due + self.interval;
        self.due = if next <= ticks { ticks + self.interval } else { next };
        true
    }
}

#[cfg(test)]
#[path = "v4l2_core_tests.rs"]
mod tests;
