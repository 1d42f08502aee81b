//! The test pattern without clock, encoder or threads: its schedule, its pictures, and the code in them.
//!
//! A picture shows the stream's name, date and time in UTC, colour bars, a block that moves, the frame's
//! number, and the same number and time for machines: 4 rows of 24 blocks, dark for 0 and light for 1,
//! row by row, the highest bit first. 32 bits frame number, 48 bits Unix milliseconds, 16 bits CRC. The
//! code is large enough to survive H.264, JPEG and half size, so that tests and benches can say which
//! frame they see and how old it is (`read_code`).
//! Keeps PURE-CORE. What does not change between frames is not drawn again. Over 600 lines with the font
//! and the tests: drawing and reading the code belong together.

use std::time::Duration;

use super::picture_core::Picture;
use crate::media::format::VIDEO_TIMESCALE;
use crate::system::clock;

/// Picture sizes that are made, in pixels; asked-for sizes are clamped to these and made even.
pub const SIDE_MIN: u16 = 64;
pub const WIDTH_MAX: u16 = 1920;
pub const HEIGHT_MAX: u16 = 1088;
/// Most frames per second.
pub const FPS_MAX: u16 = 30;
/// A keyframe comes at every multiple of this many seconds.
pub const KEY_SECONDS: u64 = 2;

const SIZE_DEFAULT: (u16, u16) = (1280, 720);
const FPS_DEFAULT: u16 = 15;

/// What is asked of the test pattern: a stream's name and its wishes, 0 for "choose".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PatternRequest {
    pub label: String,
    pub width: u16,
    pub height: u16,
    pub fps: u16,
}

/// What is made: every field in its range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    pub label: String,
    /// Even, in pixels.
    pub width: u16,
    pub height: u16,
    pub fps: u16,
}

impl Plan {
    /// Fills in what was left open (one side alone makes a 16:9 picture) and clamps the rest.
    pub fn new(request: &PatternRequest) -> Self {
        let (width, height) = match (u32::from(request.width), u32::from(request.height)) {
            (0, 0) => (u32::from(SIZE_DEFAULT.0), u32::from(SIZE_DEFAULT.1)),
            (width, 0) => (width, width * 9 / 16),
            (0, height) => (height * 16 / 9, height),
            both => both,
        };
        let even = |side: u32, max: u16| {
            let side = u16::try_from(side).unwrap_or(max).clamp(SIDE_MIN, max);
            side - side % 2
        };
        let (width, height) = (even(width, WIDTH_MAX), even(height, HEIGHT_MAX));
        let fps = if request.fps == 0 { FPS_DEFAULT } else { request.fps.min(FPS_MAX) };
        Self { label: request.label.clone(), width, height, fps }
    }
}

/// When frames are made. Frame n is due n / fps seconds after the start, whatever happened to those
/// before it, so nothing drifts.
#[derive(Clone, Debug)]
pub struct Schedule {
    fps: u64,
    next: u64,
    key_group: Option<u64>,
}

impl Schedule {
    /// `fps` is at least 1.
    pub fn new(fps: u16) -> Self {
        Self { fps: u64::from(fps.max(1)), next: 0, key_group: None }
    }

    /// When the next frame is due, counted from the start; rounded down to the nanosecond.
    pub fn due(&self) -> Duration {
        let nanos = (self.next % self.fps) * 1_000_000_000 / self.fps;
        Duration::from_secs(self.next / self.fps) + Duration::from_nanos(nanos)
    }

    /// The frame to make now, `elapsed` after the start, and how many before it are left out because
    /// their time is over.
    pub fn take(&mut self, elapsed: Duration) -> (u64, u64) {
        let nanos = u64::from(elapsed.subsec_nanos());
        let current = elapsed.as_secs() * self.fps + nanos * self.fps / 1_000_000_000;
        let frame = current.max(self.next);
        let late = frame - self.next;
        self.next = frame + 1;
        (frame, late)
    }

    /// Whether `frame` must be a keyframe: none was made yet since the last multiple of `KEY_SECONDS`.
    pub fn wants_key(&self, frame: u64) -> bool {
        self.key_group != Some(frame / (self.fps * KEY_SECONDS))
    }

    /// Takes note that `frame` became a keyframe.
    pub fn key_made(&mut self, frame: u64) {
        self.key_group = Some(frame / (self.fps * KEY_SECONDS));
    }

    /// The time of `frame` in 90 kHz ticks, rounded down.
    pub fn ticks(&self, frame: u64) -> i64 {
        i64::try_from(frame * u64::from(VIDEO_TIMESCALE) / self.fps).unwrap_or(i64::MAX)
    }
}

/// Counts frames that were left out, and finds words for it once a minute if they were many.
#[derive(Clone, Debug)]
pub struct LeftOut {
    /// Whose frames.
    whose: &'static str,
    fps: u64,
    minute: u64,
    frames: u64,
}

impl LeftOut {
    /// `fps` is at least 1.
    pub fn new(whose: &'static str, fps: u16) -> Self {
        Self { whose, fps: u64::from(fps.max(1)), minute: 0, frames: 0 }
    }

    /// Counts `more` frames up to `frame`. Says so at the end of a minute in which more than one second's
    /// worth of frames is missing: less than that is a busy moment, or the start of the encoder.
    pub fn poll(&mut self, frame: u64, more: u64) -> Option<String> {
        self.frames += more;
        let minute = frame / (self.fps * 60);
        if minute == self.minute {
            return None;
        }
        self.minute = minute;
        let frames = std::mem::take(&mut self.frames);
        let whose = self.whose;
        let words = || format!("{frames} frames of the {whose} left out: processor too busy");
        (frames > self.fps).then(words)
    }
}

/// Frame number and time of capture, as a picture carries them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Code {
    /// Of the schedule: frames that were left out leave a gap. Wraps after 4.5 years at 30 fps.
    pub frame: u32,
    /// 0 to 2^48 - 1, which lasts beyond the year 10000.
    pub unix_ms: i64,
}

const CODE_ROWS: usize = 4;
const CODE_COLUMNS: usize = 24;
const CODE_BYTES: usize = 12;
const _: () = assert!(CODE_ROWS * CODE_COLUMNS == CODE_BYTES * 8);
const CODE_MS_MAX: i64 = (1 << 48) - 1;
/// Light and dark blocks must differ by this much luma, else there is no code in the picture.
const CODE_CONTRAST_MIN: u32 = 60;

impl Code {
    fn to_bytes(self) -> [u8; CODE_BYTES] {
        let mut bytes = [0; CODE_BYTES];
        bytes[..4].copy_from_slice(&self.frame.to_be_bytes());
        bytes[4..10].copy_from_slice(&self.unix_ms.clamp(0, CODE_MS_MAX).to_be_bytes()[2..]);
        let crc = crc16(&bytes[..10]);
        bytes[10..].copy_from_slice(&crc.to_be_bytes());
        bytes
    }

    fn from_bytes(bytes: [u8; CODE_BYTES]) -> Option<Self> {
        let [f0, f1, f2, f3, t0, t1, t2, t3, t4, t5, c0, c1] = bytes;
        let is_whole = crc16(&bytes[..10]) == u16::from_be_bytes([c0, c1]);
        is_whole.then(|| Self {
            frame: u32::from_be_bytes([f0, f1, f2, f3]),
            unix_ms: i64::from_be_bytes([0, 0, t0, t1, t2, t3, t4, t5]),
        })
    }
}

/// CRC-16/IBM-3740 (polynomial 0x1021, initial value 0xffff), also known as CCITT-FALSE: a picture of one
/// colour does not pass.
fn crc16(bytes: &[u8]) -> u16 {
    bytes.iter().fold(0xffff, |crc, &byte| {
        (0..8).fold(crc ^ (u16::from(byte) << 8), |crc: u16, _| {
            if crc & 0x8000 == 0 { crc << 1 } else { (crc << 1) ^ 0x1021 }
        })
    })
}

/// Reads the code out of a luma plane, decoded at whatever size (from about 60x48 up), uncropped. `None`
/// if there is none or it is damaged; one in 65536 pictures of noise passes.
pub fn read_code(luma: &[u8], width: usize, height: usize, stride: usize) -> Option<Code> {
    let is_sane = width >= 52 && height >= 40 && width <= stride && height <= 1 << 16;
    if !is_sane || luma.len() < stride.checked_mul(height - 1)?.checked_add(width)? {
        return None;
    }
    let mut means = [0; CODE_BYTES * 8];
    for (bit, mean) in means.iter_mut().enumerate() {
        // The middle half of a block: scaling and compression blur its edges.
        let block = code_block(bit, width, height);
        let (inset_x, inset_y) = (block.width / 4, block.height / 4);
        let mut sum = 0;
        for y in block.y + inset_y..block.y + block.height - inset_y {
            let x = y * stride + block.x;
            let middle = &luma[x + inset_x..x + block.width - inset_x];
            sum += middle.iter().map(|&pixel| u32::from(pixel)).sum::<u32>();
        }
        let area = (block.width - 2 * inset_x) * (block.height - 2 * inset_y);
        *mean = sum / u32::try_from(area).ok()?;
    }
    let (darkest, lightest) = (*means.iter().min()?, *means.iter().max()?);
    if lightest - darkest < CODE_CONTRAST_MIN {
        return None;
    }
    let middle = (darkest + lightest) / 2;
    let mut bytes = [0; CODE_BYTES];
    for (bit, mean) in means.iter().enumerate() {
        bytes[bit / 8] |= u8::from(*mean > middle) << (7 - bit % 8);
    }
    Code::from_bytes(bytes)
}

/// A rectangle inside a picture, in pixels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Rect {
    x: usize,
    y: usize,
    width: usize,
    height: usize,
}

/// The picture is laid out in 20 rows and 26 columns, so that a scaled picture is read the same way.
const ROWS: usize = 20;
const COLUMNS: usize = CODE_COLUMNS + 2;

fn grid(columns: (usize, usize), rows: (usize, usize), width: usize, height: usize) -> Rect {
    let (x, y) = (width * columns.0 / COLUMNS, height * rows.0 / ROWS);
    Rect { x, y, width: width * columns.1 / COLUMNS - x, height: height * rows.1 / ROWS - y }
}

/// Columns and rows in which the block moves.
const TRACK: ((usize, usize), (usize, usize)) = ((1, 25), (12, 13));

fn code_block(bit: usize, width: usize, height: usize) -> Rect {
    let (row, column) = (bit / CODE_COLUMNS, bit % CODE_COLUMNS);
    grid((1 + column, 2 + column), (14 + row, 15 + row), width, height)
}

// Luma in the limited range of BT.601 (16 to 235), short of its ends: what rings at sharp edges costs bits.
const LUMA_BACK: u8 = 48;
const LUMA_DARK: u8 = 28;
const LUMA_LIGHT: u8 = 212;
/// Colour bars at 75 % (BT.601): white, yellow, cyan, green, magenta, red, blue, black as Y, Cb, Cr.
const BARS: [(u8, u8, u8); 8] = [
    (180, 128, 128),
    (162, 44, 142),
    (131, 156, 44),
    (112, 72, 58),
    (84, 184, 198),
    (65, 100, 212),
    (35, 212, 114),
    (16, 128, 128),
];
/// The block goes from left to right and back in this time.
const SWEEP_MS: i64 = 4000;
/// Brightest snow is this much lighter than the darkest. Of all that moves the snow takes most of the bits:
/// it is what makes about 1 Mbit/s of a 720p15 stream, as a camera of that size would send.
const SNOW_LUMA: u32 = 64;
/// Grains of snow across a whole picture.
const SNOW_GRAINS: usize = 320;

impl Picture {
    fn fill(&mut self, rect: Rect, luma: u8) {
        fill_plane(&mut self.y, self.width, rect, luma);
    }
}

fn fill_plane(plane: &mut [u8], stride: usize, rect: Rect, value: u8) {
    for row in plane.chunks_exact_mut(stride).skip(rect.y).take(rect.height) {
        row[rect.x..rect.x + rect.width].fill(value);
    }
}

/// Draws one frame after the other into one picture.
#[derive(Debug)]
pub struct Painter {
    picture: Picture,
    date: Line,
    time: Line,
    number: Line,
    /// Code on the picture; `None` before the first frame.
    code: Option<[u8; CODE_BYTES]>,
}

impl Painter {
    /// Draws all that stays.
    pub fn new(plan: &Plan) -> Self {
        let (width, height) = (usize::from(plan.width), usize::from(plan.height));
        let mut picture = Picture::grey(width, height, LUMA_BACK);
        for (n, (y, u, v)) in BARS.into_iter().enumerate() {
            let rect = grid((1 + n * 3, 4 + n * 3), (9, 11), width, height);
            picture.fill(rect, y);
            let Rect { x, y, width: w, height: h } = rect;
            let half = Rect { x: x / 2, y: y / 2, width: w / 2, height: h / 2 };
            fill_plane(&mut picture.u, width / 2, half, u);
            fill_plane(&mut picture.v, width / 2, half, v);
        }
        let line = |rows, chars| Line::new(grid((1, 25), rows, width, height), chars);
        let label: String = plan.label.chars().take(LABEL_CHARS_MAX).collect();
        line((0, 2), label.chars().count()).draw(&mut picture, &label);
        Self {
            date: line((2, 4), "2025-03-09 UTC".len()),
            time: line((4, 8), "10:00:00.000".len()),
            number: line((18, 20), "FRAME 4294967295".len()),
            picture,
            code: None,
        }
    }

    /// Draws frame `code.frame`, captured at `code.unix_ms`.
    pub fn paint(&mut self, code: Code) -> &Picture {
        let picture = &mut self.picture;
        let iso = clock::iso_seconds(code.unix_ms);
        let (date, time) = iso.trim_end_matches('Z').split_once('T').unwrap_or_default();
        let ms = code.unix_ms.rem_euclid(1000);
        self.date.draw(picture, &format!("{date} UTC"));
        self.time.draw(picture, &format!("{time}.{ms:03}"));
        self.number.draw(picture, &format!("FRAME {}", code.frame));
        self.draw_snow(code.frame);
        self.draw_block(code.unix_ms);
        self.draw_code(code);
        &self.picture
    }

    /// Fills the track of the moving block with grains that only depend on the frame's number.
    fn draw_snow(&mut self, frame: u32) {
        let picture = &mut self.picture;
        let track = grid(TRACK.0, TRACK.1, picture.width, picture.height);
        let side = (picture.width / SNOW_GRAINS).max(1);
        // xorshift32 (Marsaglia 2003): never 0, and cheap.
        let mut random = frame.wrapping_mul(0x9e37_79b9) | 1;
        for y in (0..track.height).step_by(side) {
            let start = (track.y + y) * picture.width + track.x;
            for grain in picture.y[start..start + track.width].chunks_mut(side) {
                random ^= random << 13;
                random ^= random >> 17;
                random ^= random << 5;
                grain.fill(LUMA_DARK + ((random >> 8) % SNOW_LUMA) as u8);
            }
            for below in 1..side.min(track.height - y) {
                picture.y.copy_within(start..start + track.width, start + below * picture.width);
            }
        }
    }

    fn draw_block(&mut self, unix_ms: i64) {
        let picture = &mut self.picture;
        let track = grid(TRACK.0, TRACK.1, picture.width, picture.height);
        let phase_ms = unix_ms.rem_euclid(SWEEP_MS);
        let way_ms = usize::try_from(phase_ms.min(SWEEP_MS - phase_ms)).unwrap_or(0);
        let width = track.width / 16;
        let x = track.x + (track.width - width) * way_ms / (SWEEP_MS as usize / 2);
        picture.fill(Rect { x, width, ..track }, LUMA_LIGHT);
    }

    fn draw_code(&mut self, code: Code) {
        let (width, height) = (self.picture.width, self.picture.height);
        let bytes = code.to_bytes();
        let old = self.code.replace(bytes);
        for bit in 0..CODE_BYTES * 8 {
            let of = |bytes: [u8; CODE_BYTES]| bytes[bit / 8] >> (7 - bit % 8) & 1 == 1;
            if old.map(of) != Some(of(bytes)) {
                let luma = if of(bytes) { LUMA_LIGHT } else { LUMA_DARK };
                self.picture.fill(code_block(bit, width, height), luma);
            }
        }
    }
}

/// Longer names of streams are cut in the picture.
const LABEL_CHARS_MAX: usize = 40;
/// A character with the space to its right and below, in dots.
const CELL: (usize, usize) = (6, 8);

/// One line of text that remembers what it shows.
#[derive(Debug)]
struct Line {
    x: usize,
    y: usize,
    /// Pixels per dot; 0 where the picture is too small for the text, which is then left out.
    scale: usize,
    chars_max: usize,
    shown: Vec<char>,
}

impl Line {
    /// The largest text of `chars_max` characters that fits into `area`, in its middle.
    fn new(area: Rect, chars_max: usize) -> Self {
        let chars_max = chars_max.max(1);
        let scale = (area.width / (chars_max * CELL.0)).min(area.height / (CELL.1 + 1));
        let x = area.x + (area.width - chars_max * CELL.0 * scale) / 2;
        // The dots are centred; the space below them, of one dot, stays inside as there are 9 of height.
        let y = area.y + (area.height - (CELL.1 - 1) * scale) / 2;
        Self { x, y, scale, chars_max, shown: Vec::new() }
    }

    fn draw(&mut self, picture: &mut Picture, text: &str) {
        let wanted = text.chars().chain(std::iter::repeat(' ')).take(self.chars_max);
        self.shown.resize(self.chars_max, ' ');
        for (n, c) in wanted.enumerate() {
            if std::mem::replace(&mut self.shown[n], c) != c {
                let x = self.x + n * CELL.0 * self.scale;
                draw_char(picture, (x, self.y), self.scale, c);
            }
        }
    }
}

fn draw_char(picture: &mut Picture, (x, y): (usize, usize), scale: usize, c: char) {
    let cell = Rect { x, y, width: CELL.0 * scale, height: CELL.1 * scale };
    picture.fill(cell, LUMA_BACK);
    for (row, dots) in glyph(c).into_iter().enumerate() {
        for column in (0..5).filter(|column| dots >> (4 - column) & 1 == 1) {
            let (x, y) = (x + column * scale, y + row * scale);
            picture.fill(Rect { x, y, width: scale, height: scale }, LUMA_LIGHT);
        }
    }
}

/// Seven rows of five dots, the left one in bit 4. Small letters are shown as capitals, what is not here
/// as a frame.
fn glyph(c: char) -> [u8; 7] {
    let upper = c.to_ascii_uppercase();
    let known = FONT.iter().find(|(name, _)| *name == upper);
    known.map_or([0x1f, 0x11, 0x11, 0x11, 0x11, 0x11, 0x1f], |(_, dots)| *dots)
}

#[rustfmt::skip]
const FONT: [(char, [u8; 7]); 52] = [
    (' ', [0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00]),
    ('0', [0x0e, 0x11, 0x13, 0x15, 0x19, 0x11, 0x0e]),
    ('1', [0x04, 0x0c, 0x04, 0x04, 0x04, 0x04, 0x0e]),
    ('2', [0x0e, 0x11, 0x01, 0x06, 0x08, 0x10, 0x1f]),
    ('3', [0x0e, 0x11, 0x01, 0x06, 0x01, 0x11, 0x0e]),
    ('4', [0x02, 0x06, 0x0a, 0x12, 0x1f, 0x02, 0x02]),
    ('5', [0x1f, 0x10, 0x1e, 0x01, 0x01, 0x11, 0x0e]),
    ('6', [0x06, 0x08, 0x10, 0x1e, 0x11, 0x11, 0x0e]),
    ('7', [0x1f, 0x01, 0x02, 0x04, 0x08, 0x08, 0x08]),
    ('8', [0x0e, 0x11, 0x11, 0x0e, 0x11, 0x11, 0x0e]),
    ('9', [0x0e, 0x11, 0x11, 0x0f, 0x01, 0x02, 0x0c]),
    ('A', [0x0e, 0x11, 0x11, 0x1f, 0x11, 0x11, 0x11]),
    ('B', [0x1e, 0x11, 0x11, 0x1e, 0x11, 0x11, 0x1e]),
    ('C', [0x0e, 0x11, 0x10, 0x10, 0x10, 0x11, 0x0e]),
    ('D', [0x1e, 0x11, 0x11, 0x11, 0x11, 0x11, 0x1e]),
    ('E', [0x1f, 0x10, 0x10, 0x1e, 0x10, 0x10, 0x1f]),
    ('F', [0x1f, 0x10, 0x10, 0x1e, 0x10, 0x10, 0x10]),
    ('G', [0x0e, 0x11, 0x10, 0x17, 0x11, 0x11, 0x0f]),
    ('H', [0x11, 0x11, 0x11, 0x1f, 0x11, 0x11, 0x11]),
    ('I', [0x0e, 0x04, 0x04, 0x04, 0x04, 0x04, 0x0e]),
    ('J', [0x07, 0x02, 0x02, 0x02, 0x02, 0x12, 0x0c]),
    ('K', [0x11, 0x12, 0x14, 0x18, 0x14, 0x12, 0x11]),
    ('L', [0x10, 0x10, 0x10, 0x10, 0x10, 0x10, 0x1f]),
    ('M', [0x11, 0x1b, 0x15, 0x15, 0x11, 0x11, 0x11]),
    ('N', [0x11, 0x19, 0x15, 0x13, 0x11, 0x11, 0x11]),
    ('O', [0x0e, 0x11, 0x11, 0x11, 0x11, 0x11, 0x0e]),
    ('P', [0x1e, 0x11, 0x11, 0x1e, 0x10, 0x10, 0x10]),
    ('Q', [0x0e, 0x11, 0x11, 0x11, 0x15, 0x12, 0x0d]),
    ('R', [0x1e, 0x11, 0x11, 0x1e, 0x14, 0x12, 0x11]),
    ('S', [0x0f, 0x10, 0x10, 0x0e, 0x01, 0x01, 0x1e]),
    ('T', [0x1f, 0x04, 0x04, 0x04, 0x04, 0x04, 0x04]),
    ('U', [0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x0e]),
    ('V', [0x11, 0x11, 0x11, 0x11, 0x11, 0x0a, 0x04]),
    ('W', [0x11, 0x11, 0x11, 0x15, 0x15, 0x1b, 0x11]),
    ('X', [0x11, 0x11, 0x0a, 0x04, 0x0a, 0x11, 0x11]),
    ('Y', [0x11, 0x11, 0x0a, 0x04, 0x04, 0x04, 0x04]),
    ('Z', [0x1f, 0x01, 0x02, 0x04, 0x08, 0x10, 0x1f]),
    ('-', [0x00, 0x00, 0x00, 0x1f, 0x00, 0x00, 0x00]),
    (':', [0x00, 0x04, 0x04, 0x00, 0x04, 0x04, 0x00]),
    ('.', [0x00, 0x00, 0x00, 0x00, 0x00, 0x0c, 0x0c]),
    (',', [0x00, 0x00, 0x00, 0x00, 0x0c, 0x04, 0x08]),
    ('/', [0x01, 0x01, 0x02, 0x04, 0x08, 0x10, 0x10]),
    ('_', [0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x1f]),
    ('+', [0x00, 0x04, 0x04, 0x1f, 0x04, 0x04, 0x00]),
    ('#', [0x0a, 0x0a, 0x1f, 0x0a, 0x1f, 0x0a, 0x0a]),
    ('(', [0x02, 0x04, 0x08, 0x08, 0x08, 0x04, 0x02]),
    (')', [0x08, 0x04, 0x02, 0x02, 0x02, 0x04, 0x08]),
    ('\'', [0x04, 0x04, 0x08, 0x00, 0x00, 0x00, 0x00]),
    ('&', [0x08, 0x14, 0x14, 0x08, 0x15, 0x12, 0x0d]),
    ('!', [0x04, 0x04, 0x04, 0x04, 0x04, 0x00, 0x04]),
    ('?', [0x0e, 0x11, 0x01, 0x02, 0x04, 0x00, 0x04]),
    ('@', [0x0e, 0x11, 0x17, 0x15, 0x17, 0x10, 0x0e]),
];

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn plan(width: u16, height: u16, fps: u16) -> Plan {
        Plan::new(&PatternRequest { label: "Front door".to_owned(), width, height, fps })
    }

    #[track_caller]
    fn check_plan(asked: (u16, u16, u16), want: (u16, u16, u16)) {
        let got = plan(asked.0, asked.1, asked.2);
        assert_eq!((got.width, got.height, got.fps), want, "{asked:?}");
    }

    #[test]
    fn wishes_are_completed_and_clamped() {
        check_plan((0, 0, 0), (1280, 720, 15));
        check_plan((640, 480, 10), (640, 480, 10));
        check_plan((640, 0, 0), (640, 360, 15));
        check_plan((0, 1080, 25), (1920, 1080, 25));
        check_plan((641, 481, 1), (640, 480, 1));
        check_plan((1, 1, 120), (64, 64, 30));
        check_plan((8192, 8192, 30), (1920, 1088, 30));
        check_plan((0, 65535, 65535), (1920, 1088, 30));
    }

    #[test]
    fn frames_come_on_time_without_drift() {
        let mut schedule = Schedule::new(7);
        for n in 0..7 * 3600 {
            assert_eq!(schedule.due().as_nanos(), u128::from(n) * 1_000_000_000 / 7);
            assert_eq!(schedule.take(schedule.due()), (n, 0));
            assert_eq!(schedule.ticks(n), i64::try_from(n * 90_000 / 7).unwrap());
        }
        assert_eq!(schedule.due(), Duration::from_secs(3600));
    }

    #[test]
    fn a_late_frame_is_made_and_those_before_it_are_left_out() {
        let mut schedule = Schedule::new(10);
        let ms = Duration::from_millis;
        assert_eq!(schedule.take(ms(0)), (0, 0));
        assert_eq!(schedule.take(ms(199)), (1, 0)); // late by less than a frame
        assert_eq!(schedule.take(ms(200)), (2, 0));
        assert_eq!(schedule.take(ms(655)), (6, 3));
        assert_eq!(schedule.due(), ms(700));
        assert_eq!(schedule.take(ms(600)), (7, 0), "never twice, never back");
        assert_eq!(schedule.take(Duration::from_secs(1 << 31)).0, 10 << 31);
    }

    #[test]
    fn keyframes_fall_on_the_grid_or_right_after() {
        let mut schedule = Schedule::new(15);
        assert!(schedule.wants_key(0));
        schedule.key_made(0);
        assert!(!schedule.wants_key(29));
        assert!(schedule.wants_key(31), "30 was left out");
        schedule.key_made(31);
        assert!(!schedule.wants_key(59) && schedule.wants_key(60));
    }

    #[test]
    fn many_missing_frames_are_told_once_a_minute() {
        let mut left_out = LeftOut::new("test pattern", 10);
        assert_eq!(left_out.poll(599, 10), None);
        assert_eq!(left_out.poll(600, 0), None, "no more than a second's worth");
        assert_eq!(left_out.poll(700, 20), None);
        let words = left_out.poll(1200, 1).expect("a minute is over");
        assert!(words.starts_with("21 frames"), "{words}");
        assert_eq!(left_out.poll(1800, 0), None);
    }

    #[test]
    fn the_crc_is_the_catalogued_one() {
        assert_eq!(crc16(b"123456789"), 0x29b1); // check value of CRC-16/IBM-3740
    }

    fn halve(luma: &[u8], width: usize, height: usize) -> Vec<u8> {
        let mean = |x: usize, y: usize| {
            let at = |x, y| u32::from(luma[y * width + x]);
            ((at(x, y) + at(x + 1, y) + at(x, y + 1) + at(x + 1, y + 1)) / 4) as u8
        };
        (0..height / 2).flat_map(|y| (0..width / 2).map(move |x| mean(2 * x, 2 * y))).collect()
    }

    #[test]
    fn every_size_carries_the_code_also_at_half_of_it() {
        for (w, h) in [(64, 64), (64, 1088), (320, 240), (322, 242), (1280, 720), (1920, 1088)] {
            let mut painter = Painter::new(&plan(w, h, 15));
            let (w, h) = (usize::from(w), usize::from(h));
            for n in 0..50 {
                let code = Code {
                    frame: n * 0x0123_4567 % 99_991,
                    unix_ms: 1_741_514_400_000 + 67 * i64::from(n),
                };
                let picture = painter.paint(code);
                assert_eq!(read_code(&picture.y, w, h, w), Some(code), "{w}x{h}");
                let small = halve(&picture.y, w, h);
                if w >= 128 {
                    assert_eq!(
                        read_code(&small, w / 2, h / 2, w / 2),
                        Some(code),
                        "half of {w}x{h}"
                    );
                }
            }
        }
    }

    #[test]
    fn drawing_what_changes_gives_the_same_picture_as_drawing_all() {
        let plan = plan(640, 360, 15);
        let mut painter = Painter::new(&plan);
        for n in 0..40u32 {
            let code = Code { frame: n * 777, unix_ms: 1_741_514_399_000 + 66 * i64::from(n) };
            let (by_steps, whole) = (painter.paint(code), &mut Painter::new(&plan));
            assert!(by_steps.y == whole.paint(code).y, "frame {n}");
        }
    }

    #[test]
    fn the_clock_can_be_read_by_people() {
        let mut painter = Painter::new(&plan(1280, 720, 15));
        let code = Code { frame: 12, unix_ms: 1_741_514_400_005 };
        painter.paint(code);
        let shown = |line: &Line| line.shown.iter().collect::<String>();
        assert_eq!(shown(&painter.date), "2025-03-09 UTC");
        assert_eq!(shown(&painter.time), "10:00:00.005");
        assert_eq!(shown(&painter.number).trim_end(), "FRAME 12");
        assert!(painter.time.scale >= 10 && painter.date.scale >= 5);
    }

    #[test]
    fn no_code_is_read_where_there_is_none() {
        for luma in [0, 16, 128, 255] {
            assert_eq!(read_code(&vec![luma; 640 * 360], 640, 360, 640), None);
        }
        let mut painter = Painter::new(&plan(640, 360, 15));
        let mut luma = painter.paint(Code { frame: 1, unix_ms: 2 }).y.clone();
        assert_eq!(read_code(&luma[..640 * 359], 640, 360, 640), None, "too short");
        assert_eq!(read_code(&luma, 640, 360, 639), None, "stride under width");
        assert_eq!(read_code(&luma, 0, 0, 0), None);
        assert_eq!(read_code(&luma, usize::MAX, usize::MAX, usize::MAX), None);
        let rect = code_block(5, 640, 360);
        fill_plane(&mut luma, 640, rect, LUMA_LIGHT);
        assert_eq!(read_code(&luma, 640, 360, 640), None, "a bit was turned");
    }

    #[test]
    fn a_row_longer_than_the_picture_is_skipped_over() {
        let mut painter = Painter::new(&plan(640, 360, 15));
        let code = Code { frame: 7, unix_ms: 1_741_514_400_005 };
        let rows = painter.paint(code).y.chunks(640);
        let padded: Vec<u8> = rows.flat_map(|row| [row, &[99; 32]].concat()).collect();
        assert_eq!(read_code(&padded, 640, 360, 672), Some(code));
    }

    proptest! {
        #[test]
        fn codes_come_back(frame in any::<u32>(), unix_ms in 0..=CODE_MS_MAX) {
            let code = Code { frame, unix_ms };
            prop_assert_eq!(Code::from_bytes(code.to_bytes()), Some(code));
        }

        #[test]
        fn any_frame_of_any_plan_is_painted(
            label in any::<String>(), width in any::<u16>(), height in any::<u16>(),
            frame in any::<u32>(), unix_ms in any::<i64>()
        ) {
            let request = PatternRequest { label, width: width % 400, height: height % 400, fps: 1 };
            let plan = Plan::new(&request);
            let mut painter = Painter::new(&plan);
            let picture = painter.paint(Code { frame, unix_ms });
            let code = read_code(&picture.y, picture.width, picture.height, picture.width);
            prop_assert_eq!(code.map(|code| code.frame), Some(frame));
        }

        #[test]
        fn reading_never_panics(
            luma in prop::collection::vec(any::<u8>(), 0..5000),
            width in 0usize..100, height in 0usize..100, stride in 0usize..100
        ) {
            let _ = read_code(&luma, width, height, stride);
        }
    }
}
