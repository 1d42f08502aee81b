//! H.265 sequence parameter set, and the frame rate of the video parameter set.
//!
//! In here: ITU-T H.265 sections 7.3.2.1, 7.3.2.2, 7.3.3, 7.3.4, 7.3.7 and E.2.1, as far as they
//! stand in front of what the recorder needs. What lies behind the picture size is only read to
//! reach the frame rate in the VUI: when it cannot be followed, the rate is unknown and the set
//! still good.

use super::bits::BitReader;
use super::h264::{SET_BYTES_MAX, check_size, fps_milli, hex};
use super::h265::{NAL_SPS, NAL_VPS, nal_type};
use super::nal::unescape;

/// `sps_max_dec_pic_buffering_minus1` is at most 15 (section A.4.2); one more is let pass.
const REFERENCES_MAX: usize = 16;
/// `delta_poc_minus1` and `abs_delta_rps_minus1` are below 2^15 (section 7.4.8).
const DELTA_MAX: u32 = (1 << 15) - 1;

/// General part of `profile_tier_level` (H.265 section 7.3.3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProfileTierLevel {
    /// `general_profile_space`, 0 to 3.
    pub space: u8,
    pub is_high_tier: bool,
    /// `general_profile_idc`, 0 to 31.
    pub idc: u8,
    /// The 32 compatibility flags, flag 0 in the highest bit.
    pub compatibility: u32,
    /// The 48 bits of constraint flags.
    pub constraints: [u8; 6],
    /// 30 times the level.
    pub level_idc: u8,
}

/// A sequence parameter set, as far as the recorder needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sps {
    pub profile: ProfileTierLevel,
    /// 1 to 7.
    pub temporal_layers: u8,
    pub is_temporal_id_nested: bool,
    /// 0 monochrome, 1 4:2:0, 2 4:2:2, 3 4:4:4.
    pub chroma_format_idc: u8,
    pub bit_depth_luma: u8,
    pub bit_depth_chroma: u8,
    /// Size in luma samples inside the conformance window.
    pub width: u16,
    pub height: u16,
    /// Frames per second times 1000, 0 when not declared, not believable, or not reachable.
    pub fps_milli: u32,
    /// `sps_max_num_reorder_pics` of the highest sub-layer, at most 16.
    pub reorder_frames: u8,
}

impl Sps {
    /// Parses a sequence parameter set, both header bytes included.
    ///
    /// Errors: not an SPS, cut off in front of the reorder depth, or out of the standard's ranges.
    pub fn parse(nal: &[u8]) -> Result<Sps, String> {
        if nal_type(nal) != NAL_SPS || !(3..=SET_BYTES_MAX).contains(&nal.len()) {
            return Err(format!(
                "{} bytes of NAL type {} are no H.265 SPS",
                nal.len(),
                nal_type(nal)
            ));
        }
        let plain = unescape(nal);
        let mut bits = BitReader::new(plain.get(2..).unwrap_or(&[]));
        let malformed = || format!("H.265 SPS {} is malformed", hex(nal));
        let (mut sps, lsb_bits) = parse_head(&mut bits).ok_or_else(malformed)??;
        sps.fps_milli = parse_fps(&mut bits, lsb_bits).unwrap_or(0);
        Ok(sps)
    }
}

/// From the beginning to the sub-layer ordering info. Also returns the bits of
/// `slice_pic_order_cnt_lsb`.
fn parse_head(bits: &mut BitReader) -> Option<Result<(Sps, u32), String>> {
    bits.u(4)?; // sps_video_parameter_set_id
    let sub_layers = bits.u(3)?; // sps_max_sub_layers_minus1
    if sub_layers > 6 {
        return None;
    }
    let is_temporal_id_nested = bits.flag()?;
    let profile = parse_profile_tier_level(bits, sub_layers)?;
    bits.ue_max(15)?; // sps_seq_parameter_set_id
    let chroma_format_idc = bits.ue_max(3)? as u8;
    let is_planar = chroma_format_idc == 3 && bits.flag()?;
    let (width, height) = (bits.ue()?, bits.ue()?);
    let window =
        if bits.flag()? { [bits.ue()?, bits.ue()?, bits.ue()?, bits.ue()?] } else { [0; 4] };
    let bit_depth_luma = 8 + bits.ue_max(7)? as u8; // 16 would not fit into hvcC
    let bit_depth_chroma = 8 + bits.ue_max(7)? as u8;
    let lsb_bits = bits.ue_max(12)? + 4;
    let has_info_per_layer = bits.flag()?;
    let mut reorder_frames = 0;
    for _ in if has_info_per_layer { 0 } else { sub_layers }..=sub_layers {
        bits.ue()?; // sps_max_dec_pic_buffering_minus1
        reorder_frames = bits.ue_max(16)? as u8; // the last one, the highest layer, stays
        bits.ue()?; // sps_max_latency_increase_plus1
    }
    let unit = match chroma_format_idc {
        1 => (2, 2),
        2 => (2, 1),
        _ => (1, 1), // monochrome and 4:4:4, planar or not
    };
    let unit = if is_planar { (1, 1) } else { unit };
    let (width, height) = match windowed_size(width, height, window, unit) {
        Ok(size) => size,
        Err(error) => return Some(Err(error)),
    };
    let sps = Sps {
        profile,
        temporal_layers: sub_layers as u8 + 1,
        is_temporal_id_nested,
        chroma_format_idc,
        bit_depth_luma,
        bit_depth_chroma,
        width,
        height,
        fps_milli: 0,
        reorder_frames,
    };
    Some(Ok((sps, lsb_bits)))
}

/// The size inside the conformance window (left, right, top, bottom).
fn windowed_size(
    width: u32,
    height: u32,
    window: [u32; 4],
    unit: (u64, u64),
) -> Result<(u16, u16), String> {
    let [left, right, top, bottom] = window.map(u64::from);
    check_size(
        u64::from(width).saturating_sub((left + right) * unit.0),
        u64::from(height).saturating_sub((top + bottom) * unit.1),
    )
}

/// H.265 section 7.3.3, with `profilePresentFlag` 1.
fn parse_profile_tier_level(bits: &mut BitReader, sub_layers: u32) -> Option<ProfileTierLevel> {
    let space = bits.u(2)? as u8;
    let is_high_tier = bits.flag()?;
    let idc = bits.u(5)? as u8;
    let compatibility = bits.u(32)?;
    let mut constraints = [0; 6];
    for byte in &mut constraints {
        *byte = bits.u(8)? as u8;
    }
    let level_idc = bits.u(8)? as u8;
    let mut present = [(false, false); 8];
    if sub_layers > 0 {
        for entry in &mut present {
            *entry = (bits.flag()?, bits.flag()?); // from sub_layers on: reserved_zero_2bits
        }
    }
    for &(has_profile, has_level) in present.iter().take(sub_layers as usize) {
        bits.skip(88 * usize::from(has_profile) + 8 * usize::from(has_level))?;
    }
    Some(ProfileTierLevel { space, is_high_tier, idc, compatibility, constraints, level_idc })
}

/// From behind the sub-layer ordering info to the frame rate in the VUI.
fn parse_fps(bits: &mut BitReader, lsb_bits: u32) -> Option<u32> {
    for _ in 0..6 {
        bits.ue()?; // block sizes and transform hierarchy depths
    }
    if bits.flag()? && bits.flag()? {
        skip_scaling_lists(bits)?;
    }
    bits.skip(2)?; // amp_enabled_flag, sample_adaptive_offset_enabled_flag
    if bits.flag()? {
        bits.skip(8)?; // pcm bit depths
        bits.ue()?;
        bits.ue()?;
        bits.flag()?;
    }
    skip_reference_sets(bits)?;
    if bits.flag()? {
        for _ in 0..bits.ue_max(32)? {
            bits.skip(lsb_bits as usize + 1)?; // lt_ref_pic_poc_lsb_sps, used_by_curr_pic_lt_sps_flag
        }
    }
    bits.skip(2)?; // sps_temporal_mvp_enabled_flag, strong_intra_smoothing_enabled_flag
    if bits.flag()? { parse_vui_fps(bits) } else { Some(0) }
}

/// H.265 section 7.3.4. Size 32x32 has two matrices, whatever the chroma format.
fn skip_scaling_lists(bits: &mut BitReader) -> Option<()> {
    for size in 0..4u32 {
        for _ in 0..if size == 3 { 2 } else { 6 } {
            if !bits.flag()? {
                bits.ue()?; // scaling_list_pred_matrix_id_delta
                continue;
            }
            if size > 1 {
                bits.se()?; // scaling_list_dc_coef_minus8
            }
            for _ in 0..64.min(1 << (4 + (size << 1))) {
                bits.se()?; // scaling_list_delta_coef
            }
        }
    }
    Some(())
}

/// Distances of reference pictures in display order: past ones first, nearest first.
type Deltas = heapless::Vec<i32, REFERENCES_MAX>;

/// All short-term reference picture sets of the SPS (H.265 section 7.3.7). The distances matter,
/// because a set that is predicted from its predecessor has flags for each of them.
fn skip_reference_sets(bits: &mut BitReader) -> Option<()> {
    let mut deltas = Deltas::new();
    for index in 0..bits.ue_max(64)? {
        let is_predicted = index > 0 && bits.flag()?;
        deltas = if is_predicted { predict_deltas(bits, &deltas)? } else { read_deltas(bits)? };
    }
    Some(())
}

/// A set that is written out.
fn read_deltas(bits: &mut BitReader) -> Option<Deltas> {
    let counts = [bits.ue_max(16)?, bits.ue_max(16)?];
    let mut deltas = Deltas::new();
    for (count, sign) in counts.into_iter().zip([-1, 1]) {
        let mut distance = 0;
        for _ in 0..count {
            distance += bits.ue_max(DELTA_MAX)? as i32 + 1; // delta_poc_minus1
            bits.flag()?; // used_by_curr_pic_flag
            deltas.push(sign * distance).ok()?;
        }
    }
    Some(deltas)
}

/// A set that says which pictures of its predecessor it keeps (equations 7-61 and 7-62): all
/// distances are shifted, and the one that becomes 0 is the picture itself.
fn predict_deltas(bits: &mut BitReader, predecessor: &Deltas) -> Option<Deltas> {
    let is_past = bits.flag()?; // delta_rps_sign
    let shift = bits.ue_max(DELTA_MAX)? as i32 + 1; // abs_delta_rps_minus1
    let shift = if is_past { -shift } else { shift };
    let mut deltas = Deltas::new();
    for delta in predecessor.iter().copied().chain([0]) {
        let is_used = bits.flag()?;
        let is_kept = is_used || bits.flag()?; // use_delta_flag, 1 when absent
        if is_kept && delta + shift != 0 {
            deltas.push(delta + shift).ok()?;
        }
    }
    deltas.sort_unstable_by_key(|&delta| (delta > 0, delta.abs()));
    Some(deltas)
}

/// H.265 section E.2.1, up to the timing info.
fn parse_vui_fps(bits: &mut BitReader) -> Option<u32> {
    if bits.flag()? && bits.u(8)? == 255 {
        bits.skip(32)?; // sar_width, sar_height
    }
    if bits.flag()? {
        bits.flag()?; // overscan_appropriate_flag
    }
    if bits.flag()? {
        bits.skip(4)?; // video_format, video_full_range_flag
        if bits.flag()? {
            bits.skip(24)?; // colour_primaries, transfer_characteristics, matrix_coeffs
        }
    }
    if bits.flag()? {
        bits.ue()?; // chroma_sample_loc_type_top_field
        bits.ue()?; // chroma_sample_loc_type_bottom_field
    }
    bits.skip(3)?; // neutral_chroma_indication_flag, field_seq_flag, frame_field_info_present_flag
    if bits.flag()? {
        for _ in 0..4 {
            bits.ue()?; // default display window
        }
    }
    if bits.flag()? { parse_timing(bits) } else { Some(0) }
}

/// `num_units_in_tick` and `time_scale`; a tick is a picture (H.265 section E.3.1).
fn parse_timing(bits: &mut BitReader) -> Option<u32> {
    let (tick, scale) = (bits.u(32)?, bits.u(32)?);
    Some(fps_milli(scale, u64::from(tick)))
}

/// Frames per second times 1000 as a video parameter set declares it, 0 when it does not.
pub fn vps_fps_milli(nal: &[u8]) -> u32 {
    if nal_type(nal) != NAL_VPS || nal.len() > SET_BYTES_MAX {
        return 0;
    }
    let plain = unescape(nal);
    parse_vps_fps(&mut BitReader::new(plain.get(2..).unwrap_or(&[]))).unwrap_or(0)
}

/// H.265 section 7.3.2.1, up to the timing info.
fn parse_vps_fps(bits: &mut BitReader) -> Option<u32> {
    bits.skip(12)?; // vps_video_parameter_set_id .. vps_max_layers_minus1
    let sub_layers = bits.u(3)?;
    if sub_layers > 6 {
        return None;
    }
    bits.skip(17)?; // vps_temporal_id_nesting_flag, vps_reserved_0xffff_16bits
    parse_profile_tier_level(bits, sub_layers)?;
    let has_info_per_layer = bits.flag()?;
    for _ in if has_info_per_layer { 0 } else { sub_layers }..=sub_layers {
        for _ in 0..3 {
            bits.ue()?; // buffering, reordering, latency
        }
    }
    let layer_flags = bits.u(6)? as usize + 1; // vps_max_layer_id
    let sets = bits.ue_max(1023)? as usize; // vps_num_layer_sets_minus1
    bits.skip(sets * layer_flags)?;
    if bits.flag()? { parse_timing(bits) } else { Some(0) }
}
