//! H.264: what the recorder has to know of a NAL unit, and the decoder configuration (`avcC`).
//!
//! In here: parameter sets (ITU-T H.264 section 7.3.2.1), the head of a slice, SEI as far as it
//! marks a place where decoding can start. Not in here: framing (`nal.rs`), access units (ingest).
//! Outside bytes: every field is range-checked, and what cannot be is refused, never a panic.

use super::bits::BitReader;
use super::format::{VideoCodec, VideoFormat};
use super::nal::{trim_zeros, unescape, unescape_head};

/// `nal_unit_type` values (ITU-T H.264 table 7-1).
pub const NAL_SLICE: u8 = 1;
pub const NAL_IDR: u8 = 5;
pub const NAL_SEI: u8 = 6;
pub const NAL_SPS: u8 = 7;
pub const NAL_PPS: u8 = 8;
pub const NAL_AUD: u8 = 9;

/// Larger pictures are refused: no camera sends them, and hostile sets claim 2^32 macroblocks.
pub const SIDE_PIXELS_MAX: u32 = 8192;
/// Real parameter sets stay under 100 bytes, with scaling lists and VUI under 400.
pub const SET_BYTES_MAX: usize = 4096;
/// SEI messages that matter here (H.264 section D.1.8) stand first; signatures of signed video
/// follow.
const SEI_BYTES_READ: usize = 512;
/// SEI payload type of a recovery point (H.264 section D.1.1).
const SEI_RECOVERY_POINT: u32 = 6;

/// `nal_unit_type`, 0 for an empty unit.
pub fn nal_type(nal: &[u8]) -> u8 {
    nal.first().map_or(0, |byte| byte & 0x1F)
}

/// Whether the unit carries a slice, whole or partitioned (types 1 to 5).
pub fn is_vcl(nal: &[u8]) -> bool {
    (1..=5).contains(&nal_type(nal))
}

/// Whether the unit is a slice of an IDR picture.
pub fn is_idr(nal: &[u8]) -> bool {
    nal_type(nal) == NAL_IDR
}

/// `first_mb_in_slice`: 0 begins a picture, unless slices arrive out of order (ASO, baseline only).
/// `None` for units that are no slice, and for data partitions B and C, which don't carry it first.
pub fn first_mb_in_slice(nal: &[u8]) -> Option<u32> {
    if !matches!(nal_type(nal), 1 | 2 | 5) {
        return None;
    }
    let (head, len) = unescape_head::<12>(nal);
    BitReader::new(head.get(1..len)?).ue()
}

/// Whether an SEI unit says that decoding can start here (H.264 section D.2.8): streams with intra
/// refresh have no IDR at all.
pub fn is_recovery_point_sei(nal: &[u8]) -> bool {
    if nal_type(nal) != NAL_SEI {
        return false;
    }
    let (head, len) = unescape_head::<SEI_BYTES_READ>(nal);
    let mut rest = &head[1..len.max(1)];
    while rest.len() > 2 {
        let Some(kind) = take_sei_number(&mut rest) else { return false };
        let Some(size) = take_sei_number(&mut rest) else { return false };
        if kind == SEI_RECOVERY_POINT {
            return size > 0;
        }
        rest = rest.get(size as usize..).unwrap_or(&[]);
    }
    false
}

/// A number in the `ff_byte` coding of H.264 section 7.3.2.3.1.
fn take_sei_number(rest: &mut &[u8]) -> Option<u32> {
    let mut value = 0u32;
    loop {
        let (&byte, tail) = rest.split_first()?;
        *rest = tail;
        value += u32::from(byte); // at most SEI_BYTES_READ * 255
        if byte != 0xFF {
            return Some(value);
        }
    }
}

/// A sequence parameter set, as far as the recorder needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sps {
    pub profile_idc: u8,
    /// The constraint flags, as they stand in the second byte.
    pub constraints: u8,
    pub level_idc: u8,
    /// 0 monochrome, 1 4:2:0, 2 4:2:2, 3 4:4:4.
    pub chroma_format_idc: u8,
    pub bit_depth_luma: u8,
    pub bit_depth_chroma: u8,
    /// Size in luma samples after cropping.
    pub width: u16,
    pub height: u16,
    /// `max_num_ref_frames`, 0 to 16.
    pub ref_frames: u8,
    pub is_interlaced: bool,
    /// Luma goes from 0 to 255 and not from 16 to 235 (`video_full_range_flag`).
    pub is_full_range: bool,
    /// Frames per second times 1000, 0 when not declared or not believable.
    pub fps_milli: u32,
    /// `max_num_reorder_frames`, or what the profile implies; `None` where the set is silent.
    pub reorder_frames: Option<u8>,
}

/// The profiles whose SPS has the chroma and bit depth fields (H.264 section 7.3.2.1.1).
const HIGH_PROFILES: [u8; 13] = [100, 110, 122, 244, 44, 83, 86, 118, 128, 138, 139, 134, 135];

impl Sps {
    /// Parses a sequence parameter set, header byte included.
    ///
    /// Errors: not an SPS, cut off, or values outside of the standard or of `SIDE_PIXELS_MAX`. A
    /// VUI that is broken counts as absent: cameras get it wrong, and the picture does not depend
    /// on it.
    pub fn parse(nal: &[u8]) -> Result<Sps, String> {
        if nal_type(nal) != NAL_SPS {
            return Err(format!("NAL unit of type {} is no H.264 SPS", nal_type(nal)));
        }
        if nal.len() > SET_BYTES_MAX {
            return Err(format!("H.264 SPS of {} bytes, at most {SET_BYTES_MAX}", nal.len()));
        }
        let plain = unescape(nal);
        let mut bits = BitReader::new(&plain[1..]);
        parse_sps(&mut bits).ok_or_else(|| format!("H.264 SPS {} is malformed", hex(nal)))?
    }
}

/// The first bytes in hex, for an error that shows what the camera sent.
pub(super) fn hex(bytes: &[u8]) -> String {
    bytes.iter().take(32).map(|byte| format!("{byte:02x}")).collect()
}

/// The fields in front of the picture size that only some profiles have.
struct Chroma {
    format_idc: u8,
    is_planar: bool,
    depth_luma: u8,
    depth_chroma: u8,
}

fn parse_sps(bits: &mut BitReader) -> Option<Result<Sps, String>> {
    let profile_idc = bits.u(8)? as u8;
    let constraints = bits.u(8)? as u8;
    let level_idc = bits.u(8)? as u8;
    bits.ue_max(31)?; // seq_parameter_set_id
    let chroma = if HIGH_PROFILES.contains(&profile_idc) {
        parse_chroma(bits)?
    } else {
        Chroma { format_idc: 1, is_planar: false, depth_luma: 8, depth_chroma: 8 }
    };
    bits.ue_max(12)?; // log2_max_frame_num_minus4
    let order_type = parse_order_count(bits)?;
    let ref_frames = bits.ue_max(16)? as u8; // max_num_ref_frames
    bits.flag()?; // gaps_in_frame_num_value_allowed_flag
    let width_mbs = u64::from(bits.ue()?) + 1;
    let height_units = u64::from(bits.ue()?) + 1;
    let is_interlaced = !bits.flag()?;
    if is_interlaced {
        bits.flag()?; // mb_adaptive_frame_field_flag
    }
    bits.flag()?; // direct_8x8_inference_flag
    let crop = if bits.flag()? { [bits.ue()?, bits.ue()?, bits.ue()?, bits.ue()?] } else { [0; 4] };
    let size = cropped_size(
        width_mbs,
        height_units,
        is_interlaced,
        crop,
        crop_unit(&chroma, is_interlaced),
    );
    let (width, height) = match size {
        Ok(size) => size,
        Err(error) => return Some(Err(error)),
    };
    let has_vui = bits.flag()?;
    let vui = if has_vui { parse_vui(bits).unwrap_or_default() } else { Vui::default() };
    // Intra profiles and all-intra constraint: H.264 section E.2.1, max_num_reorder_frames
    // inferred.
    let is_intra =
        matches!(profile_idc, 44 | 86 | 100 | 110 | 122 | 244) && constraints & 0x10 != 0;
    let is_ordered = profile_idc == 66 || order_type == 2 || is_intra;
    Some(Ok(Sps {
        profile_idc,
        constraints,
        level_idc,
        chroma_format_idc: chroma.format_idc,
        bit_depth_luma: chroma.depth_luma,
        bit_depth_chroma: chroma.depth_chroma,
        width,
        height,
        ref_frames,
        is_interlaced,
        is_full_range: vui.is_full_range,
        fps_milli: vui.fps_milli,
        reorder_frames: if is_ordered { Some(0) } else { vui.reorder_frames },
    }))
}

fn parse_chroma(bits: &mut BitReader) -> Option<Chroma> {
    let format_idc = bits.ue_max(3)? as u8;
    let is_planar = format_idc == 3 && bits.flag()?;
    let depth_luma = 8 + bits.ue_max(6)? as u8;
    let depth_chroma = 8 + bits.ue_max(6)? as u8;
    bits.flag()?; // qpprime_y_zero_transform_bypass_flag
    if bits.flag()? {
        for list in 0..if format_idc == 3 { 12 } else { 8 } {
            if bits.flag()? {
                skip_scaling_list(bits, if list < 6 { 16 } else { 64 })?;
            }
        }
    }
    Some(Chroma { format_idc, is_planar, depth_luma, depth_chroma })
}

/// H.264 section 7.3.2.1.1.1.
fn skip_scaling_list(bits: &mut BitReader, size: u32) -> Option<()> {
    let (mut last, mut next) = (8i32, 8i32);
    for _ in 0..size {
        if next != 0 {
            let delta = bits.se().filter(|delta| (-128..128).contains(delta))?;
            next = (last + delta + 256) % 256;
        }
        last = if next == 0 { last } else { next };
    }
    Some(())
}

/// Reads the picture order count fields; returns `pic_order_cnt_type`.
fn parse_order_count(bits: &mut BitReader) -> Option<u32> {
    let order_type = bits.ue_max(2)?;
    if order_type == 0 {
        bits.ue_max(12)?; // log2_max_pic_order_cnt_lsb_minus4
    } else if order_type == 1 {
        bits.flag()?; // delta_pic_order_always_zero_flag
        bits.se()?; // offset_for_non_ref_pic
        bits.se()?; // offset_for_top_to_bottom_field
        for _ in 0..bits.ue_max(255)? {
            bits.se()?; // offset_for_ref_frame
        }
    }
    Some(order_type)
}

/// Luma samples per cropping unit, horizontally and vertically (H.264 equations 7-19 to 7-22).
fn crop_unit(chroma: &Chroma, is_interlaced: bool) -> (u64, u64) {
    let (x, y) = match chroma.format_idc {
        1 => (2, 2),
        2 => (2, 1),
        _ => (1, 1), // monochrome and 4:4:4, planar or not
    };
    let (x, y) = if chroma.is_planar { (1, 1) } else { (x, y) };
    (x, if is_interlaced { y * 2 } else { y })
}

/// The size after cropping (left, right, top, bottom); never 0 and never above `SIDE_PIXELS_MAX`.
fn cropped_size(
    width_mbs: u64,
    height_units: u64,
    is_interlaced: bool,
    crop: [u32; 4],
    unit: (u64, u64),
) -> Result<(u16, u16), String> {
    let [left, right, top, bottom] = crop.map(u64::from);
    let coded_height = height_units * if is_interlaced { 32 } else { 16 };
    let width = (width_mbs * 16).saturating_sub((left + right) * unit.0);
    let height = coded_height.saturating_sub((top + bottom) * unit.1);
    check_size(width, height)
}

/// A picture size within 1 to `SIDE_PIXELS_MAX`, as the formats store it.
pub(super) fn check_size(width: u64, height: u64) -> Result<(u16, u16), String> {
    let range = 1..=u64::from(SIDE_PIXELS_MAX);
    if !range.contains(&width) || !range.contains(&height) {
        return Err(format!("picture of {width}x{height}, want 1 to {SIDE_PIXELS_MAX} per side"));
    }
    Ok((width as u16, height as u16))
}

/// What is used of the video usability information.
#[derive(Default)]
struct Vui {
    is_full_range: bool,
    fps_milli: u32,
    reorder_frames: Option<u8>,
}

/// H.264 section E.1.1. `None`: cut off or out of range.
fn parse_vui(bits: &mut BitReader) -> Option<Vui> {
    let mut vui = Vui { is_full_range: parse_vui_picture(bits)?, ..Vui::default() };
    if bits.flag()? {
        let (tick, scale) = (bits.u(32)?, bits.u(32)?);
        bits.flag()?; // fixed_frame_rate_flag
        vui.fps_milli = fps_milli(scale, u64::from(tick) * 2); // a tick is a field: section E.2.1
    }
    // From here on a broken VUI must not take the frame rate away.
    vui.reorder_frames = parse_vui_reorder(bits);
    Some(vui)
}

/// Aspect ratio, overscan, video signal type and chroma location: all but the range of values, which is
/// returned (`video_full_range_flag`), is passed over.
fn parse_vui_picture(bits: &mut BitReader) -> Option<bool> {
    if bits.flag()? && bits.u(8)? == 255 {
        bits.skip(32)?; // sar_width, sar_height
    }
    if bits.flag()? {
        bits.flag()?; // overscan_appropriate_flag
    }
    let mut is_full_range = false;
    if bits.flag()? {
        bits.skip(3)?; // video_format
        is_full_range = bits.flag()?;
        if bits.flag()? {
            bits.skip(24)?; // colour_primaries, transfer_characteristics, matrix_coefficients
        }
    }
    if bits.flag()? {
        bits.ue()?; // chroma_sample_loc_type_top_field
        bits.ue()?; // chroma_sample_loc_type_bottom_field
    }
    Some(is_full_range)
}

fn parse_vui_reorder(bits: &mut BitReader) -> Option<u8> {
    let has_nal_hrd = bits.flag()?;
    if has_nal_hrd {
        skip_hrd(bits)?;
    }
    let has_vcl_hrd = bits.flag()?;
    if has_vcl_hrd {
        skip_hrd(bits)?;
    }
    if has_nal_hrd || has_vcl_hrd {
        bits.flag()?; // low_delay_hrd_flag
    }
    bits.flag()?; // pic_struct_present_flag
    if !bits.flag()? {
        return None; // no bitstream_restriction
    }
    bits.flag()?; // motion_vectors_over_pic_boundaries_flag
    for _ in 0..4 {
        bits.ue()?; // max_bytes_per_pic_denom .. log2_max_mv_length_vertical
    }
    bits.ue_max(16).map(|frames| frames as u8)
}

/// H.264 section E.1.2.
fn skip_hrd(bits: &mut BitReader) -> Option<()> {
    let count = bits.ue_max(31)? + 1;
    bits.skip(8)?; // bit_rate_scale, cpb_size_scale
    for _ in 0..count {
        bits.ue()?; // bit_rate_value_minus1
        bits.ue()?; // cpb_size_value_minus1
        bits.flag()?; // cbr_flag
    }
    bits.skip(20) // four lengths of 5 bits
}

/// Frames per second times 1000, 0 unless it lies within 0.1 and 1000 frames per second.
pub(super) fn fps_milli(scale: u32, ticks_per_frame: u64) -> u32 {
    let Some(fps) = (u64::from(scale) * 1000).checked_div(ticks_per_frame) else { return 0 };
    u32::try_from(fps).ok().filter(|fps| (100..=1_000_000).contains(fps)).unwrap_or(0)
}

/// The video format of a stream with these parameter sets (NAL units with header, no start codes).
///
/// Errors: an SPS that `Sps::parse` refuses, a PPS that is none or too long.
pub fn video_format(sps: &[u8], pps: &[u8]) -> Result<VideoFormat, String> {
    let (sps, pps) = (trim_zeros(sps), trim_zeros(pps));
    let parsed = Sps::parse(sps)?;
    if nal_type(pps) != NAL_PPS || !(2..=SET_BYTES_MAX).contains(&pps.len()) {
        return Err(format!("{} bytes of NAL type {} are no PPS", pps.len(), nal_type(pps)));
    }
    Ok(VideoFormat {
        codec: VideoCodec::H264,
        width: parsed.width,
        height: parsed.height,
        fps_milli: parsed.fps_milli,
        decoder_config: encode_avcc(&parsed, sps, pps),
        rfc6381: format!(
            "avc1.{:02X}{:02X}{:02X}",
            parsed.profile_idc, parsed.constraints, parsed.level_idc
        ),
        reorder_frames: parsed.reorder_frames,
    })
}

/// AVCDecoderConfigurationRecord (ISO/IEC 14496-15 section 5.3.3.1.2) with one set of each kind.
fn encode_avcc(parsed: &Sps, sps: &[u8], pps: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(15 + sps.len() + pps.len());
    out.extend_from_slice(&[1, parsed.profile_idc, parsed.constraints, parsed.level_idc]);
    out.push(0xFC | 3); // lengthSizeMinusOne
    out.push(0xE0 | 1); // numOfSequenceParameterSets
    out.extend_from_slice(&(sps.len() as u16).to_be_bytes()); // <= SET_BYTES_MAX
    out.extend_from_slice(sps);
    out.push(1);
    out.extend_from_slice(&(pps.len() as u16).to_be_bytes());
    out.extend_from_slice(pps);
    if HIGH_PROFILES.contains(&parsed.profile_idc) {
        out.push(0xFC | parsed.chroma_format_idc);
        out.push(0xF8 | (parsed.bit_depth_luma - 8));
        out.push(0xF8 | (parsed.bit_depth_chroma - 8));
        out.push(0); // numOfSequenceParameterSetExt
    }
    out
}

/// The sequence and the picture parameter set of an `avcC` as `video_format` makes it; `None` for anything
/// else.
pub fn parameter_sets(avcc: &[u8]) -> Option<(&[u8], &[u8])> {
    let (sps, rest) = take_set(avcc.get(6..)?)?;
    let (pps, _) = take_set(rest.get(1..)?)?;
    (nal_type(sps) == NAL_SPS && nal_type(pps) == NAL_PPS).then_some((sps, pps))
}

/// What stands behind a 2-byte length, and what follows it.
fn take_set(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = bytes.split_first_chunk::<2>()?;
    rest.split_at_checked(usize::from(u16::from_be_bytes(*len)))
}

#[cfg(test)]
mod tests;
