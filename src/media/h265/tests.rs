//! Parameter sets of real encoders, and of nobody.

use super::*;
use crate::media::bits::BitWriter;
use crate::media::media_tool::{TempDir, run_tolerant};
use proptest::prelude::*;

/// libx265, Main, 320x180 at 15 fps, scaling lists of its own, 2 frames of reordering.
const VPS: &str = "40010c01ffff01600000030090000003000003003c959809";
const SPS: &str =
    "42010101600000030090000003000003003ca00a080b9f796566924e5780b4040000030004000003003c20";
const PPS: &str = "4401c172b46240";
/// libx265, Main 10 in the high tier, 1920x1080 at 25 fps, HRD in the VUI.
const SPS_MAIN10: &str = "420101022000000300900000030000030078a003c08010e4d96566924caf016808000003000800000300cb04e4b2f0007a12000f4264";

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn main_profile_is_parsed() {
    let sps = Sps::parse(&bytes(SPS)).unwrap();
    assert_eq!((sps.width, sps.height, sps.fps_milli), (320, 180, 15_000));
    assert_eq!((sps.reorder_frames, sps.temporal_layers), (2, 1));
    assert_eq!((sps.chroma_format_idc, sps.bit_depth_luma, sps.bit_depth_chroma), (1, 8, 8));
    assert_eq!((sps.profile.idc, sps.profile.level_idc), (1, 60));
    assert_eq!(sps.profile.compatibility, 0x6000_0000);
}

#[test]
fn main10_is_parsed() {
    let sps = Sps::parse(&bytes(SPS_MAIN10)).unwrap();
    assert_eq!((sps.width, sps.height, sps.fps_milli), (1920, 1080, 25_000));
    assert_eq!((sps.profile.idc, sps.bit_depth_luma), (2, 10));
}

#[test]
fn cut_behind_the_reorder_depth_leaves_the_size() {
    let sps = bytes(SPS);
    let known = (1..sps.len()).filter_map(|len| Sps::parse(&sps[..len]).ok()).collect::<Vec<_>>();
    assert!(known.len() > 10, "most cuts lie in the VUI");
    assert!(known.iter().all(|sps| (sps.width, sps.height) == (320, 180)));
    assert_eq!(known[0].fps_milli, 0);
}

#[test]
fn format_has_hvcc_and_codecs_parameter() {
    let (vps, sps, pps) = (bytes(VPS), bytes(SPS), bytes(PPS));
    let format = video_format(&vps, &sps, &pps).unwrap();
    assert_eq!(format.rfc6381, "hvc1.1.6.L60.90");
    assert_eq!(format.reorder_frames, Some(2));
    let mut want = bytes("0101600000009000000000003cf000fcfdf8f800000f03");
    want.extend_from_slice(&bytes("2000010018"));
    want.extend_from_slice(&vps);
    want.extend_from_slice(&bytes("210001002b"));
    want.extend_from_slice(&sps);
    want.extend_from_slice(&bytes("2200010007"));
    want.extend_from_slice(&pps);
    assert_eq!(format.decoder_config, want);

    assert!(video_format(&sps, &vps, &pps).is_err());
    assert!(video_format(&vps, &sps, &vps).is_err());
    assert!(video_format(&vps, &sps, &[0x44, 1]).is_err());
    assert!(video_format(&[], &[], &[]).is_err());
}

#[test]
fn rate_comes_from_the_vps_when_the_sps_has_none() {
    let (vps, sps, pps) = (bytes(VPS), bytes(SPS), bytes(PPS));
    assert_eq!(vps_fps_milli(&vps), 0, "libx265 does not repeat the timing there");
    assert_eq!(video_format(&vps, &sps[..26], &pps).unwrap().fps_milli, 0);
    assert_eq!(vps_fps_milli(&timed_vps()), 12_500);
    assert_eq!(video_format(&timed_vps(), &sps[..26], &pps).unwrap().fps_milli, 12_500);
    assert_eq!(video_format(&timed_vps(), &sps, &pps).unwrap().fps_milli, 15_000, "the SPS first");
}

/// `profile_tier_level` of Main at level 4 with three sub-layers, of which the first has a profile
/// and a level and the second a level.
fn write_profile(bits: &mut BitWriter) {
    bits.all(&[(8, 1), (32, 0x6000_0000), (32, 0x9000_0000), (16, 0), (8, 120)]);
    bits.all(&[(2, 3), (2, 1), (12, 0)]);
    bits.all(&[(32, 0x0160_0000), (32, 0x0090_0000), (24, 0), (8, 60), (8, 90)]);
}

/// Three sub-layers, info for each, two layer sets, 12.5 frames per second.
fn timed_vps() -> Vec<u8> {
    let mut bits = BitWriter::new(vec![0x40, 1]);
    bits.all(&[(4, 0), (2, 3), (6, 0), (3, 2), (1, 1), (16, 0xFFFF)]);
    write_profile(&mut bits);
    bits.u(1, 1);
    (0..9).for_each(|_| bits.ue(1));
    bits.u(6, 1);
    bits.ue(1);
    bits.all(&[(2, 3), (1, 1), (32, 2), (32, 25), (1, 0)]);
    bits.ue(0); // vps_num_hrd_parameters
    bits.all(&[(1, 0), (1, 1)]);
    escape(&bits.finish())
}

/// Puts emulation prevention in (H.265 section 7.4.2).
fn escape(plain: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    for &byte in plain {
        if byte <= 3 && out.ends_with(&[0, 0]) {
            out.push(3);
        }
        out.push(byte);
    }
    out
}

/// Everything that stands between the size and the frame rate: scaling lists of its own, PCM,
/// predicted reference sets, long-term references. No encoder at hand writes them all; some cameras
/// do (camera-quirks row 21).
fn crowded_sps() -> Vec<u8> {
    let mut bits = BitWriter::new(vec![0x42, 1]);
    bits.all(&[(4, 0), (3, 2), (1, 1)]);
    write_profile(&mut bits);
    bits.ue(0);
    bits.ue(2); // 4:2:2
    bits.ue(1928);
    bits.ue(1096);
    bits.u(1, 1);
    bits.all_ue(&[1, 3, 4, 12]);
    bits.ue(2);
    bits.ue(2); // 10 bits
    bits.ue(4); // slice_pic_order_cnt_lsb of 8 bits
    bits.u(1, 1);
    bits.all_ue(&[4, 0, 0, 4, 2, 0, 4, 3, 0]);
    bits.all_ue(&[0, 3, 0, 3, 1, 1]); // block sizes, transform depths
    bits.all(&[(1, 1), (1, 1)]);
    write_scaling_lists(&mut bits);
    bits.all(&[(2, 3), (1, 1), (8, 0x77)]);
    bits.all_ue(&[0, 1]);
    bits.u(1, 0);
    write_reference_sets(&mut bits);
    bits.u(1, 1);
    bits.ue(2);
    bits.all(&[(9, 0x155), (9, 0xAA), (2, 3)]);
    bits.all(&[(1, 1), (1, 1), (8, 255), (16, 4), (16, 3), (1, 1), (1, 0)]);
    bits.all(&[(1, 1), (4, 5), (1, 1), (24, 0x01_0101), (1, 1)]);
    bits.all_ue(&[0, 0]);
    bits.all(&[(3, 0), (1, 1)]);
    (0..4).for_each(|_| bits.ue(7));
    bits.all(&[(1, 1), (32, 1001), (32, 30_000), (3, 0), (1, 0), (1, 1)]);
    escape(&bits.finish())
}

/// Every other matrix is predicted, the rest written out.
fn write_scaling_lists(bits: &mut BitWriter) {
    for (size, count) in [(0, 6), (1, 6), (2, 6), (3, 2)] {
        for matrix in 0..count {
            bits.u(1, matrix % 2);
            if matrix % 2 == 0 {
                bits.ue(0);
                continue;
            }
            if size > 1 {
                bits.se(-3);
            }
            (0..if size == 0 { 16 } else { 64 }).for_each(|at| bits.se(at % 5 - 2));
        }
    }
}

/// Three sets: two pictures before and one after; predicted, of which three of four are kept, one
/// of these being the picture itself; predicted from the two that are left.
fn write_reference_sets(bits: &mut BitWriter) {
    bits.ue(3);
    bits.all_ue(&[2, 1]);
    for _ in 0..3 {
        bits.ue(0);
        bits.u(1, 1);
    }
    bits.all(&[(1, 1), (1, 0)]);
    bits.ue(1);
    bits.all(&[(1, 1), (2, 0b01), (2, 0b00), (1, 1)]);
    bits.all(&[(1, 1), (1, 1)]);
    bits.ue(0);
    bits.all(&[(1, 1), (1, 1), (2, 0b01)]);
}

#[test]
fn crowded_sps_is_followed_to_the_frame_rate() {
    let sps = Sps::parse(&crowded_sps()).unwrap();
    assert_eq!((sps.width, sps.height), (1920, 1080));
    assert_eq!((sps.bit_depth_luma, sps.bit_depth_chroma, sps.chroma_format_idc), (10, 10, 2));
    assert_eq!((sps.temporal_layers, sps.reorder_frames, sps.profile.level_idc), (3, 3, 120));
    assert_eq!(sps.fps_milli, 29_970);
}

/// The hand-made sets are only worth something when another parser takes them for the same.
#[test]
fn crowded_sets_are_understood_by_ffmpeg() {
    let mut stream = Vec::new();
    for nal in [timed_vps(), crowded_sps(), bytes(PPS)] {
        stream.extend_from_slice(&[0, 0, 0, 1]);
        stream.extend_from_slice(&nal);
    }
    let dir = TempDir::new();
    let path = dir.write("sets.h265", &stream);
    let input = ["-v", "trace", "-f", "hevc", "-i", &path];
    let filter = ["-c", "copy", "-bsf:v", "trace_headers", "-f", "null", "-"];
    // There is no picture, so ffmpeg fails in the end, but not before it has shown the sets.
    let (_, trace) = run_tolerant("ffmpeg", &[&input[..], &filter[..]].concat());
    assert!(!trace.contains("Failed to read unit"), "a set is malformed");
    for (field, value) in [("vps_time_scale", "25"), ("vui_time_scale", "30000")] {
        let line = trace.lines().find(|line| line.contains(field)).expect(field);
        assert!(line.ends_with(&format!(" = {value}")), "{line}");
    }
    assert!(trace.contains("num_long_term_ref_pics_sps"));
    assert!(trace.contains("scaling_list_delta_coeff"));
}

#[test]
fn nal_units_are_recognised() {
    assert!(is_irap(&[0x28, 1]) && is_irap(&[0x26, 1]) && is_irap(&[0x2A, 1]) && !is_irap(&[2, 1]));
    assert!(is_vcl(&[2, 1]) && !is_vcl(&[0x40, 1]) && !is_vcl(&[]));
    assert_eq!(first_slice_segment_in_pic(&[0x28, 1, 0xAF]), Some(true));
    assert_eq!(first_slice_segment_in_pic(&[0x28, 1, 0x2F]), Some(false));
    assert_eq!(first_slice_segment_in_pic(&[0x28, 1]), None);
    assert_eq!(first_slice_segment_in_pic(&[0x40, 1, 0xFF]), None);
    assert_eq!(nal_type(&[0x4E, 1]), NAL_SEI_PREFIX);
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(header in 0u8..128, mut data: Vec<u8>) {
        data.insert(0, header);
        let _ = video_format(&data, &data, &data);
        let _ = Sps::parse(&data);
        vps_fps_milli(&data);
        first_slice_segment_in_pic(&data);
    }

    #[test]
    fn damaged_sets_never_panic_and_stay_bounded(
        main10: bool, flips in prop::collection::vec((2usize..60, any::<u8>()), 1..6), cut in 3usize..60,
    ) {
        let (mut vps, mut sps) = (bytes(VPS), bytes(if main10 { SPS_MAIN10 } else { SPS }));
        for (at, value) in flips {
            for set in [&mut vps, &mut sps] {
                if let Some(byte) = set.get_mut(at) {
                    *byte = value;
                }
            }
        }
        sps.truncate(cut);
        if let Ok(format) = video_format(&vps, &sps, &bytes(PPS)) {
            prop_assert!((1..=8192).contains(&format.width) && (1..=8192).contains(&format.height));
            prop_assert!(format.reorder_frames.is_some_and(|frames| frames <= 16));
        }
    }
}
