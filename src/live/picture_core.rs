//! Pictures as planes: what can be decoded, what a decoder is fed, how a picture gets smaller.
//!
//! In here: the decision whether our decoder can show a stream, Annex B out of length-prefixed units, sizes,
//! the box filter, the range of values. Not in here: the codecs themselves (`picture_codec.rs`), which
//! picture is made when (`mjpeg_core.rs`). Keeps PURE-CORE.

use crate::media::format::{VideoCodec, VideoFormat};
use crate::media::h264::{self, NAL_PPS, NAL_SPS, Sps};
use crate::media::nal;

/// Pixels of the largest picture that is decoded. 4096x2304 is what H.264 level 5.2 allows and openh264
/// takes; as planes that are 14 MB, and a camera's JPEG of this size is 28 MB between its decoding and its
/// scaling.
pub const PIXELS_MAX: u32 = 4096 * 2304;
/// Memory of one decoder: 3840x2160 with four reference pictures, 1080p with sixteen.
pub const DECODER_BYTES_MAX: usize = 96 << 20;
/// What openh264 holds besides the reference pictures: the present one, one to be given out, and what it knows of
/// their macroblocks.
const PICTURES_MORE: usize = 3;

/// What a stream is answered that is not decoded here: each says why, and what can show it.
pub const H265: &str = "H.265 is not decoded here; use HLS: hls/playlist.m3u8 of this stream";
const INTERLACED: &str =
    "interlaced H.264 is not decoded here; use HLS: hls/playlist.m3u8 of this stream";
const MONOCHROME: &str =
    "monochrome H.264 is not decoded here; use HLS: hls/playlist.m3u8 of this stream";
const CHROMA_422: &str =
    "H.264 with 4:2:2 chroma is not decoded here; use HLS: hls/playlist.m3u8 of this stream";
const CHROMA_444: &str =
    "H.264 with 4:4:4 chroma is not decoded here; use HLS: hls/playlist.m3u8 of this stream";
const DEEP: &str =
    "H.264 with more than 8 bits is not decoded here; use HLS: hls/playlist.m3u8 of this stream";
const ODD_SETS: &str = "the parameter sets of this H.264 are not understood; use HLS: \
                        hls/playlist.m3u8 of this stream";
const LARGE: &str = "pictures this large are not decoded here; use HLS: hls/playlist.m3u8 of this \
                     stream";
/// When the decoder itself has said so.
pub const BROKEN: &str = "the decoder makes no picture of this stream; use HLS: hls/playlist.m3u8 of \
                          this stream";

/// Why our decoder can't show this stream, in words that name what can; `None` if it can.
pub fn why_undecodable(format: &VideoFormat) -> Option<&'static str> {
    let why = match format.codec {
        VideoCodec::H265 => Some(H265),
        VideoCodec::Mjpeg => None,
        VideoCodec::H264 => why_undecodable_h264(format),
    };
    let is_large = u32::from(format.width) * u32::from(format.height) > PIXELS_MAX
        || decoder_bytes(format) > DECODER_BYTES_MAX;
    why.or(is_large.then_some(LARGE))
}

/// Memory that a decoder of this stream takes, in bytes, roughly. JPEG needs none between two pictures.
pub fn decoder_bytes(format: &VideoFormat) -> usize {
    let Some(sps) = sps_of(format) else { return 0 };
    let picture = usize::from(format.width) * usize::from(format.height) * 3 / 2;
    picture * (usize::from(sps.ref_frames) + PICTURES_MORE)
}

fn sps_of(format: &VideoFormat) -> Option<Sps> {
    let (sps, _) = h264::parameter_sets(&format.decoder_config)?;
    Sps::parse(sps).ok()
}

fn why_undecodable_h264(format: &VideoFormat) -> Option<&'static str> {
    let Some(sps) = sps_of(format) else { return Some(ODD_SETS) };
    if sps.is_interlaced {
        return Some(INTERLACED);
    }
    if sps.bit_depth_luma.max(sps.bit_depth_chroma) > 8 {
        return Some(DEEP);
    }
    match sps.chroma_format_idc {
        0 => Some(MONOCHROME),
        1 => None,
        2 => Some(CHROMA_422),
        _ => Some(CHROMA_444),
    }
}

/// Whether the stream uses all values from 0 to 255, as JPEG does; cameras' H.264 mostly does not.
pub fn is_full_range(format: &VideoFormat) -> bool {
    sps_of(format).is_some_and(|sps| sps.is_full_range)
}

/// The access unit `data` as a decoder takes it: Annex B, nothing but slices and parameter sets (layers of
/// SVC would only confuse it), and in front of a keyframe the format's sets of each kind that is not in band.
pub fn encode_annex_b(format: &VideoFormat, data: &[u8], is_key: bool) -> Vec<u8> {
    let mut out = Vec::with_capacity(data.len() + format.decoder_config.len() + 64);
    let mut put = |unit: &[u8]| {
        out.extend_from_slice(&[0, 0, 0, 1]);
        out.extend_from_slice(unit);
    };
    if is_key && let Some((sps, pps)) = h264::parameter_sets(&format.decoder_config) {
        let has = |kind| nal::length_prefixed_nals(data).any(|unit| h264::nal_type(unit) == kind);
        if !has(NAL_SPS) {
            put(sps);
        }
        if !has(NAL_PPS) {
            put(pps);
        }
    }
    let is_wanted =
        |unit: &&[u8]| h264::is_vcl(unit) || matches!(h264::nal_type(unit), NAL_SPS | NAL_PPS);
    nal::length_prefixed_nals(data).filter(is_wanted).for_each(put);
    out
}

/// Whether no other picture needs this H.264 access unit (`nal_ref_idc` is 0, H.264 section 7.4.1).
pub fn is_disposable(data: &[u8]) -> bool {
    let mut slices = nal::length_prefixed_nals(data).filter(|unit| h264::is_vcl(unit));
    slices.next().is_some_and(|slice| slice[0] & 0x60 == 0)
}

/// The size of a picture of `size` that is asked for at `width`: never enlarged, aspect kept.
pub fn scaled_size(size: (usize, usize), width: Option<u16>) -> (usize, usize) {
    match width.map(usize::from) {
        Some(width) if width < size.0 => {
            (width, ((size.1 * width + size.0 / 2) / size.0).clamp(1, size.1))
        }
        _ => size,
    }
}

/// A plane of samples that somebody else owns.
#[derive(Clone, Copy, Debug)]
pub struct Plane<'a> {
    /// From the first sample of the first row.
    pub data: &'a [u8],
    pub width: usize,
    pub height: usize,
    /// Bytes from row to row.
    pub stride: usize,
    /// Bytes from sample to sample: 1, or 3 where three planes are interleaved.
    pub step: usize,
}

impl Plane<'_> {
    /// Whether all samples are there.
    fn is_whole(&self) -> bool {
        let row = self.width.saturating_sub(1) * self.step + 1;
        let before = self.height.saturating_sub(1).saturating_mul(self.stride);
        self.width > 0 && self.height > 0 && before.saturating_add(row) <= self.data.len()
    }
}

/// A picture in YCbCr 4:2:0, rows without padding. Odd sides have a chroma sample of their own at the edge.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Picture {
    pub width: usize,
    pub height: usize,
    /// Luma.
    pub y: Vec<u8>,
    pub cb: Vec<u8>,
    pub cr: Vec<u8>,
}

impl Picture {
    /// The picture of these planes (Y, Cb, Cr), made smaller to `size`. `None` if a plane lacks samples, or is
    /// smaller than what is to be made of it.
    pub fn shrink(planes: &[Plane<'_>; 3], size: (usize, usize)) -> Option<Self> {
        let chroma = (size.0.div_ceil(2), size.1.div_ceil(2));
        let [y, cb, cr] = planes;
        Some(Self {
            width: size.0,
            height: size.1,
            y: shrink(y, size)?,
            cb: shrink(cb, chroma)?,
            cr: shrink(cr, chroma)?,
        })
    }

    /// From the limited range of video (ITU-R BT.601: 16 to 235, chroma 16 to 240) to that of JFIF.
    pub fn widen_range(&mut self) {
        // From `span` values around `zero_in` to 255 around `zero_out`, rounded.
        let table = |zero_in: i32, span: i32, zero_out: i32| {
            std::array::from_fn::<u8, 256, _>(|n| {
                let wide = (n as i32 - zero_in) * 255;
                let rounded = (wide + (span / 2) * wide.signum()) / span;
                (rounded + zero_out).clamp(0, 255) as u8
            })
        };
        let apply = |samples: &mut [u8], table: &[u8; 256]| {
            samples.iter_mut().for_each(|sample| *sample = table[usize::from(*sample)]);
        };
        apply(&mut self.y, &table(16, 219, 0));
        let chroma = table(128, 224, 128);
        apply(&mut self.cb, &chroma);
        apply(&mut self.cr, &chroma);
    }
}

/// Box filter: each new sample is the mean of the area that it covers, exact but for rounding. Sums fit 32 bits
/// for sides up to 8192 (255 * 256 * 8192 < 2^30).
fn shrink(plane: &Plane<'_>, (width, height): (usize, usize)) -> Option<Vec<u8>> {
    let fits = (1..=plane.width).contains(&width) && (1..=plane.height).contains(&height);
    if !fits || !plane.is_whole() {
        return None;
    }
    let rows = (0..plane.height).map(|y| &plane.data[y * plane.stride..]);
    if plane.step == 1 && (width, height) == (plane.width, plane.height) {
        return Some(rows.flat_map(|row| &row[..width]).copied().collect());
    }
    let columns = Columns::new(plane.width, width);
    let mut out = Vec::with_capacity(width * height);
    // In units of 1 / plane.height of a row of the new picture, row n of the old one covers
    // [n * height, (n + 1) * height), and a new row is full at multiples of plane.height.
    let (mut sums, mut line, mut filled) = (vec![0u32; width], vec![0u16; width], 0);
    let mut samples = Vec::with_capacity(plane.width);
    for row in rows {
        let row = if plane.step == 1 {
            &row[..plane.width]
        } else {
            samples.clear();
            samples.extend(row.iter().step_by(plane.step).take(plane.width));
            &samples[..]
        };
        columns.shrink(row, &mut line);
        let here = height.min(plane.height - filled);
        add(&mut sums, &line, here);
        filled += here;
        if filled == plane.height {
            let unit = plane.height as u32 * 256;
            out.extend(sums.iter().map(|sum| ((sum + unit / 2) / unit) as u8));
            sums.fill(0);
            filled = height - here;
            add(&mut sums, &line, filled);
        }
    }
    Some(out)
}

fn add(sums: &mut [u32], line: &[u16], weight: usize) {
    let weight = weight as u32; // at most 8192
    for (sum, sample) in sums.iter_mut().zip(line) {
        *sum += u32::from(*sample) * weight;
    }
}

/// Which samples of a row go into which of the shorter one.
struct Columns {
    old: usize,
    new: usize,
    spans: Vec<Span>,
}

/// In units of 1 / old of a new sample: the first and the last sample count in part, those between count `new`.
struct Span {
    first: usize,
    first_weight: u32,
    last: usize,
    last_weight: u32,
}

impl Columns {
    fn new(old: usize, new: usize) -> Self {
        let span = |x: usize| {
            let (start, end) = (x * old, (x + 1) * old);
            let (first, last) = (start / new, (end - 1) / new);
            let first_weight = (end.min((first + 1) * new) - start) as u32;
            let last_weight = if last > first { (end - last * new) as u32 } else { 0 };
            Span { first, first_weight, last, last_weight }
        };
        Self { old, new, spans: (0..new).map(span).collect() }
    }

    /// Means in 256ths.
    fn shrink(&self, row: &[u8], line: &mut [u16]) {
        for (out, span) in line.iter_mut().zip(&self.spans) {
            let between = row.get(span.first + 1..span.last).unwrap_or(&[]);
            let mut sum = between.iter().map(|&sample| u32::from(sample)).sum::<u32>();
            sum *= self.new as u32;
            sum += u32::from(row[span.first]) * span.first_weight;
            sum += u32::from(row[span.last]) * span.last_weight;
            *out = (sum * 256 / self.old as u32) as u16;
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// libx264, High, 320x180; and High 4:2:2 10 bit, interlaced.
    const SPS_HIGH: &str = "6764000cacd941419f9f0110000003001000000301e0f1429960";
    const SPS_INTERLACED: &str =
        "677a0028b6cd94078044fcb8088000000300800000193130007a12000f427261807c58b658";
    /// libx264, 64x64: High 4:2:2, High 10, High without chroma, High 4:4:4.
    const SPS_422: &str = "677a000abcd94426c044000003000400000300283c489658";
    const SPS_10_BIT: &str = "676e000aa6cd94426c044000000300400000030283c4896580";
    const SPS_GRAY: &str = "6764000af365109b016c800000030080000005078912cb";
    const SPS_444: &str = "67f4000a919b2884d808800000030080000005078912cb";
    const PPS: &str = "68ebe3cb22c0";

    fn bytes(hex: &str) -> Vec<u8> {
        let byte = |at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
        (0..hex.len()).step_by(2).map(byte).collect()
    }

    fn format(sps: &str) -> VideoFormat {
        h264::video_format(&bytes(sps), &bytes(PPS)).unwrap()
    }

    #[test]
    fn what_is_not_decoded_is_said_with_a_way_out() {
        assert_eq!(why_undecodable(&format(SPS_HIGH)), None);
        let words = why_undecodable(&format(SPS_INTERLACED)).unwrap();
        assert!(words.contains("interlaced") && words.contains("HLS"), "{words}");
        for (sps, word) in [
            (SPS_422, "4:2:2"),
            (SPS_10_BIT, "8 bits"),
            (SPS_GRAY, "monochrome"),
            (SPS_444, "4:4:4"),
        ] {
            let words = why_undecodable(&format(sps)).unwrap();
            assert!(words.contains(word) && words.contains("HLS"), "{words}");
        }
        let h265 = VideoFormat { codec: VideoCodec::H265, ..format(SPS_HIGH) };
        let words = why_undecodable(&h265).unwrap();
        assert!(words.contains("H.265") && words.contains("HLS"), "{words}");
        let large = VideoFormat { width: 8192, height: 4320, ..format(SPS_HIGH) };
        assert!(why_undecodable(&large).unwrap().contains("this large"));
        let torn = VideoFormat { decoder_config: vec![1, 2, 3], ..format(SPS_HIGH) };
        assert!(why_undecodable(&torn).unwrap().contains("parameter sets"));
    }

    fn prefixed(units: &[&[u8]]) -> Vec<u8> {
        let mut out = Vec::new();
        units.iter().for_each(|unit| nal::push_length_prefixed(&mut out, unit));
        out
    }

    #[test]
    fn a_keyframe_gets_the_sets_that_it_lacks_and_nothing_else() {
        let format = format(SPS_HIGH);
        let (sps, pps) = (bytes(SPS_HIGH), bytes(PPS));
        let units = |data: &[u8], is_key| {
            let out = encode_annex_b(&format, data, is_key);
            nal::split_annex_b(&out).map(<[u8]>::to_vec).collect::<Vec<_>>()
        };
        let idr = [0x65, 0x88, 1];
        let bare = prefixed(&[&[9, 0x10], &[6, 5, 1], &idr, &[0x6e, 1, 2]]);
        assert_eq!(units(&bare, true), [&sps[..], &pps, &idr]);
        assert_eq!(units(&bare, false), [&idr[..]]);
        let whole = prefixed(&[&sps, &pps, &idr]);
        assert_eq!(units(&whole, true), [&sps[..], &pps, &idr]);
        let other_pps = [0x68, 0xce, 0x3c, 0x80];
        assert_eq!(units(&prefixed(&[&other_pps, &idr]), true), [&sps[..], &other_pps, &idr]);
        assert!(is_disposable(&prefixed(&[&[6, 1], &[0x01, 0x9e]])));
        assert!(!is_disposable(&bare) && !is_disposable(&[]));
    }

    #[test]
    fn sizes_keep_their_aspect_and_never_grow() {
        assert_eq!(scaled_size((1920, 1080), Some(640)), (640, 360));
        assert_eq!(scaled_size((1920, 1080), Some(16)), (16, 9));
        assert_eq!(scaled_size((1920, 1080), Some(1921)), (1920, 1080));
        assert_eq!(scaled_size((1920, 1080), None), (1920, 1080));
        assert_eq!(scaled_size((8192, 16), Some(16)), (16, 1));
    }

    fn plane(data: &[u8], width: usize, height: usize) -> Plane<'_> {
        Plane { data, width, height, stride: width, step: 1 }
    }

    #[test]
    fn the_box_filter_takes_means() {
        let data = [0, 100, 200, 50, 100, 200, 100, 150];
        assert_eq!(shrink(&plane(&data, 4, 2), (4, 2)).unwrap(), data);
        assert_eq!(shrink(&plane(&data, 4, 2), (2, 1)).unwrap(), [100, 125]);
        assert_eq!(shrink(&plane(&[0, 90, 180], 3, 1), (2, 1)).unwrap(), [30, 150]);
        assert_eq!(shrink(&plane(&[0, 90, 180], 1, 3), (1, 2)).unwrap(), [30, 150]);
        assert_eq!(shrink(&plane(&data, 4, 2), (5, 1)), None);
        assert_eq!(shrink(&plane(&data[1..], 4, 2), (1, 1)), None);
        assert_eq!(shrink(&plane(&data, 4, 2), (0, 1)), None);
        let interleaved = Plane { data: &data[1..], width: 2, height: 1, stride: 6, step: 3 };
        assert_eq!(shrink(&interleaved, (1, 1)).unwrap(), [100]);
    }

    #[test]
    fn the_range_is_widened_at_its_ends_and_keeps_its_middle() {
        let mut picture = Picture {
            width: 6,
            height: 1,
            y: vec![0, 16, 17, 126, 235, 255],
            cb: vec![16, 128, 240],
            cr: vec![0, 129, 255],
        };
        picture.widen_range();
        assert_eq!(picture.y, [0, 0, 1, 128, 255, 255]);
        assert_eq!((picture.cb, picture.cr), (vec![0, 128, 255], vec![0, 129, 255]));
    }

    proptest! {
        #[test]
        fn a_smaller_plane_has_the_same_mean(
            (width, height) in (1usize..40, 1usize..40),
            (to_x, to_y) in (1usize..40, 1usize..40),
            seed in any::<u32>(),
        ) {
            let (to_x, to_y) = (to_x.min(width), to_y.min(height));
            let sample = |n: usize| (seed.wrapping_mul(n as u32 | 1) >> 13) as u8;
            let data: Vec<u8> = (0..width * height).map(sample).collect();
            let out = shrink(&plane(&data, width, height), (to_x, to_y)).unwrap();
            prop_assert_eq!(out.len(), to_x * to_y);
            let mean = |data: &[u8]| data.iter().map(|&n| f64::from(n)).sum::<f64>() / data.len() as f64;
            prop_assert!((mean(&data) - mean(&out)).abs() <= 1.0);
            let flat = vec![seed as u8; width * height];
            let out = shrink(&plane(&flat, width, height), (to_x, to_y)).unwrap();
            prop_assert!(out.iter().all(|&n| n == seed as u8));
        }

        #[test]
        fn any_bytes_are_turned_into_annex_b(data: Vec<u8>, config: Vec<u8>, is_key: bool) {
            let format = VideoFormat { decoder_config: config, ..format(SPS_HIGH) };
            drop(encode_annex_b(&format, &data, is_key));
            let _ = (is_disposable(&data), is_full_range(&format), why_undecodable(&format));
        }
    }
}
