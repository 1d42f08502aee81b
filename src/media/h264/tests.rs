//! Parameter sets of real encoders, and of nobody.

use super::*;
use crate::media::bits::BitWriter;
use proptest::prelude::*;

/// libx264, High, 320x180 at 15 fps, B-frame pyramid.
const SPS_HIGH: &str = "6764000cacd941419f9f0110000003001000000301e0f1429960";
const PPS_HIGH: &str = "68ebe3cb22c0";
/// libx264, constrained baseline, 1920x1080 at 25 fps.
const SPS_BASELINE: &str = "6742c028d900780227e5c044000003000400000300c83c60c920";
/// libx264, High 4:2:2 10 bit, interlaced 1080i25, JVT scaling matrices, HRD.
const SPS_INTERLACED: &str =
    "677a0028b6cd94078044fcb8088000000300800000193130007a12000f427261807c58b658";

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect()
}

#[test]
fn high_profile_is_parsed() {
    let want = Sps {
        profile_idc: 100,
        constraints: 0,
        level_idc: 12,
        chroma_format_idc: 1,
        bit_depth_luma: 8,
        bit_depth_chroma: 8,
        width: 320,
        height: 180,
        ref_frames: 4,
        is_interlaced: false,
        is_full_range: false,
        fps_milli: 15_000,
        reorder_frames: Some(2),
    };
    assert_eq!(Sps::parse(&bytes(SPS_HIGH)), Ok(want));
}

#[test]
fn baseline_never_reorders() {
    let sps = Sps::parse(&bytes(SPS_BASELINE)).unwrap();
    assert_eq!((sps.width, sps.height, sps.fps_milli), (1920, 1080, 25_000));
    assert_eq!((sps.profile_idc, sps.reorder_frames), (66, Some(0)));
}

#[test]
fn interlace_scaling_matrices_and_hrd_are_survived() {
    let sps = Sps::parse(&bytes(SPS_INTERLACED)).unwrap();
    assert_eq!((sps.width, sps.height, sps.fps_milli), (1920, 1080, 25_000));
    assert!(sps.is_interlaced);
    assert_eq!((sps.chroma_format_idc, sps.bit_depth_luma, sps.bit_depth_chroma), (2, 10, 10));
    assert_eq!(sps.reorder_frames, Some(2));
}

/// An SPS of Main profile with this size in macroblocks and this cropping.
fn main_sps(order_type: u32, width_mbs: u32, height_mbs: u32, crop: Option<[u32; 4]>) -> Vec<u8> {
    let mut bits = BitWriter::new(vec![0x67, 77, 0, 40]);
    bits.ue(0); // seq_parameter_set_id
    bits.ue(0); // log2_max_frame_num_minus4
    bits.ue(order_type);
    if order_type == 0 {
        bits.ue(0); // log2_max_pic_order_cnt_lsb_minus4
    }
    bits.ue(1); // max_num_ref_frames
    bits.u(1, 0);
    bits.ue(width_mbs - 1);
    bits.ue(height_mbs - 1);
    bits.all(&[(1, 1), (1, 1), (1, u32::from(crop.is_some()))]);
    for side in crop.unwrap_or_default().into_iter().filter(|_| crop.is_some()) {
        bits.ue(side);
    }
    bits.all(&[(1, 0), (1, 1)]); // no VUI, stop bit
    bits.finish()
}

#[test]
fn size_is_cropped_and_bounded() {
    let sps = Sps::parse(&main_sps(0, 120, 68, Some([0, 0, 0, 4]))).unwrap();
    assert_eq!((sps.width, sps.height), (1920, 1080));
    assert_eq!((sps.fps_milli, sps.reorder_frames), (0, None));
    assert_eq!(Sps::parse(&main_sps(0, 512, 512, None)).unwrap().width, 8192);
    for (width, height, crop) in [
        (513, 1, None),
        (1024, 1024, None),
        (u32::MAX - 1, u32::MAX - 1, None),
        (1, 1, Some([8, 0, 0, 0])),
        (1, 1, Some([u32::MAX - 1; 4])),
    ] {
        let sps = main_sps(0, width, height, crop);
        assert!(Sps::parse(&sps).is_err(), "{width}x{height} {crop:?}");
    }
}

#[test]
fn order_type_2_never_reorders() {
    assert_eq!(Sps::parse(&main_sps(2, 40, 30, None)).unwrap().reorder_frames, Some(0));
}

#[test]
fn broken_vui_leaves_the_picture_size() {
    let sps = bytes(SPS_HIGH);
    let cut = &sps[..14]; // in the middle of the VUI
    let parsed = Sps::parse(cut).unwrap();
    assert_eq!((parsed.width, parsed.height, parsed.fps_milli), (320, 180, 0));
}

#[test]
fn format_has_avcc_and_codecs_parameter() {
    let (sps, pps) = (bytes(SPS_HIGH), bytes(PPS_HIGH));
    let format = video_format(&sps, &pps).unwrap();
    assert_eq!(format.rfc6381, "avc1.64000C");
    assert_eq!((format.width, format.height, format.reorder_frames), (320, 180, Some(2)));
    let mut want = bytes("0164000cffe1001a");
    want.extend_from_slice(&sps);
    want.extend_from_slice(&bytes("010006"));
    want.extend_from_slice(&pps);
    want.extend_from_slice(&bytes("fdf8f800"));
    assert_eq!(format.decoder_config, want);

    let padded = [&sps[..], &[0, 0]].concat();
    assert_eq!(video_format(&padded, &pps).unwrap(), format, "zeros behind a set say nothing");
    let baseline = video_format(&bytes(SPS_BASELINE), &pps).unwrap();
    assert_eq!(baseline.rfc6381, "avc1.42C028");
    assert!(video_format(&pps, &sps).is_err());
    assert!(video_format(&sps, &sps).is_err());
    assert!(video_format(&sps, &[0x68]).is_err());
    assert!(video_format(&[], &[]).is_err());
}

#[test]
fn slices_are_recognised() {
    assert_eq!(first_mb_in_slice(&[0x65, 0x88, 0x84]), Some(0));
    assert_eq!(first_mb_in_slice(&[0x41, 0x42]), Some(1));
    assert_eq!(first_mb_in_slice(&[0x41, 0, 0, 3, 1]), None);
    assert_eq!(first_mb_in_slice(&[0x67, 0x88]), None);
    assert_eq!(first_mb_in_slice(&[]), None);
    assert!(is_idr(&[0x25]) && !is_idr(&[0x41]) && !is_idr(&[]));
    assert!(is_vcl(&[0x41]) && !is_vcl(&[0x67]));
}

#[test]
fn recovery_point_is_found_among_other_messages() {
    // libx264: a recovery point after a picture timing message; and one of user data alone.
    assert!(is_recovery_point_sei(&bytes("06010400001000060184c080")));
    assert!(is_recovery_point_sei(&bytes("06060184c080")));
    assert!(!is_recovery_point_sei(&bytes("0601040000108080")));
    assert!(!is_recovery_point_sei(&bytes("0605ffff06060606")));
    assert!(!is_recovery_point_sei(&bytes("06")));
    assert!(!is_recovery_point_sei(&[]));
}

proptest! {
    #[test]
    fn arbitrary_bytes_never_panic(header in 0u8..32, mut data: Vec<u8>) {
        data.insert(0, header);
        let _ = video_format(&data, &data);
        first_mb_in_slice(&data);
        is_recovery_point_sei(&data);
    }

    #[test]
    fn damaged_sps_never_panics_and_stays_bounded(
        which in 0usize..3, flips in prop::collection::vec((0usize..40, any::<u8>()), 1..6), cut in 1usize..40,
    ) {
        let mut sps = bytes([SPS_HIGH, SPS_BASELINE, SPS_INTERLACED][which]);
        for (at, value) in flips {
            if let Some(byte) = sps.get_mut(at) {
                *byte = value;
            }
        }
        sps.truncate(cut);
        if let Ok(sps) = Sps::parse(&sps) {
            prop_assert!((1..=8192).contains(&sps.width) && (1..=8192).contains(&sps.height));
            prop_assert!(sps.reorder_frames.is_none_or(|frames| frames <= 16));
        }
    }

    #[test]
    fn sei_search_never_panics(mut data: Vec<u8>) {
        data.insert(0, NAL_SEI);
        is_recovery_point_sei(&data);
    }
}
