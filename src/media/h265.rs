//! H.265: what the recorder has to know of a NAL unit, and the decoder configuration (`hvcC`).
//!
//! In here: parameter sets (ITU-T H.265 section 7.3.2), the head of a slice. The fields in front of
//! the VUI are in `h265_sps.rs`. Not in here: framing (`nal.rs`), access units (ingest). Outside
//! bytes: every field is range-checked, and what cannot be is refused, never a panic.

use super::format::{VideoCodec, VideoFormat};
use super::h264::SET_BYTES_MAX;
pub use super::h265_sps::{ProfileTierLevel, Sps, vps_fps_milli};
use super::nal::trim_zeros;

/// `nal_unit_type` values (ITU-T H.265 table 7-1).
pub const NAL_VPS: u8 = 32;
pub const NAL_SPS: u8 = 33;
pub const NAL_PPS: u8 = 34;
pub const NAL_AUD: u8 = 35;
pub const NAL_SEI_PREFIX: u8 = 39;
pub const NAL_SEI_SUFFIX: u8 = 40;

/// `nal_unit_type`, 63 (unspecified, nobody sends it) for an empty unit.
pub fn nal_type(nal: &[u8]) -> u8 {
    nal.first().map_or(63, |byte| byte >> 1 & 0x3F)
}

/// Whether the unit carries a slice segment.
pub fn is_vcl(nal: &[u8]) -> bool {
    nal_type(nal) < 32
}

/// Whether the unit belongs to a picture at which decoding can start (BLA, IDR, CRA; types 16 to
/// 23).
pub fn is_irap(nal: &[u8]) -> bool {
    (16..=23).contains(&nal_type(nal))
}

/// `first_slice_segment_in_pic_flag` of a slice segment; `None` for other units. It is the first
/// bit behind the header, so emulation prevention cannot have moved it.
pub fn first_slice_segment_in_pic(nal: &[u8]) -> Option<bool> {
    if !is_vcl(nal) {
        return None;
    }
    nal.get(2).map(|byte| byte & 0x80 != 0)
}

/// The video format of a stream with these parameter sets (NAL units with header, no start codes).
///
/// Errors: an SPS that `Sps::parse` refuses; a VPS or PPS that is none or too long. A VPS that is
/// damaged inside is accepted: decoders do not need it for a single layer.
pub fn video_format(vps: &[u8], sps: &[u8], pps: &[u8]) -> Result<VideoFormat, String> {
    let (vps, sps, pps) = (trim_zeros(vps), trim_zeros(sps), trim_zeros(pps));
    let parsed = Sps::parse(sps)?;
    for (set, kind, name) in [(vps, NAL_VPS, "VPS"), (pps, NAL_PPS, "PPS")] {
        if nal_type(set) != kind || !(3..=SET_BYTES_MAX).contains(&set.len()) {
            return Err(format!("{} bytes of NAL type {} are no {name}", set.len(), nal_type(set)));
        }
    }
    // Some cameras declare the rate in the VPS alone.
    let fps_milli = if parsed.fps_milli > 0 { parsed.fps_milli } else { vps_fps_milli(vps) };
    Ok(VideoFormat {
        codec: VideoCodec::H265,
        width: parsed.width,
        height: parsed.height,
        fps_milli,
        decoder_config: encode_hvcc(&parsed, vps, sps, pps),
        rfc6381: codecs_parameter(&parsed.profile),
        reorder_frames: Some(parsed.reorder_frames),
    })
}

/// HEVCDecoderConfigurationRecord (ISO/IEC 14496-15 section 8.3.3.1.2).
fn encode_hvcc(parsed: &Sps, vps: &[u8], sps: &[u8], pps: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(38 + vps.len() + sps.len() + pps.len());
    let profile = &parsed.profile;
    out.push(1);
    out.push(profile.space << 6 | u8::from(profile.is_high_tier) << 5 | profile.idc);
    out.extend_from_slice(&profile.compatibility.to_be_bytes());
    out.extend_from_slice(&profile.constraints);
    out.push(profile.level_idc);
    out.extend_from_slice(&[0xF0, 0]); // min_spatial_segmentation_idc: 0, not known
    out.push(0xFC); // parallelismType: 0, not known
    out.push(0xFC | parsed.chroma_format_idc);
    out.push(0xF8 | (parsed.bit_depth_luma - 8));
    out.push(0xF8 | (parsed.bit_depth_chroma - 8));
    out.extend_from_slice(&[0, 0]); // avgFrameRate: not known
    let layers = parsed.temporal_layers << 3 | u8::from(parsed.is_temporal_id_nested) << 2;
    out.push(layers | 3); // constantFrameRate 0, lengthSizeMinusOne 3
    out.push(3); // numOfArrays
    for (kind, set) in [(NAL_VPS, vps), (NAL_SPS, sps), (NAL_PPS, pps)] {
        out.push(kind); // array_completeness 0: the sets stay in band too
        out.extend_from_slice(&[0, 1]);
        out.extend_from_slice(&(set.len() as u16).to_be_bytes()); // <= SET_BYTES_MAX
        out.extend_from_slice(set);
    }
    out
}

/// The `codecs` parameter of ISO/IEC 14496-15 annex E.3: profile, compatibility flags in reverse
/// bit order, tier and level, constraint bytes without the zeros at their end.
fn codecs_parameter(profile: &ProfileTierLevel) -> String {
    let space = ["", "A", "B", "C"][usize::from(profile.space & 3)];
    let tier = if profile.is_high_tier { 'H' } else { 'L' };
    let compatibility = profile.compatibility.reverse_bits();
    let mut text =
        format!("hvc1.{space}{}.{compatibility:X}.{tier}{}", profile.idc, profile.level_idc);
    for byte in trim_zeros(&profile.constraints) {
        text.push_str(&format!(".{byte:X}"));
    }
    text
}

#[cfg(test)]
mod tests;
