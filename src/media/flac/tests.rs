//! The encoder against the decoders of others: every sample comes back.

use super::*;
use crate::media::g711::Law;
use crate::media::media_tool::{TempDir, run};
use proptest::prelude::*;

/// A FLAC file (section 8): marker, STREAMINFO as the last metadata block, frames.
fn flac_file(encoder: &FlacEncoder, frames: &[Vec<u8>]) -> Vec<u8> {
    let mut file = b"fLaC\x80\x00\x00\x22".to_vec();
    file.extend_from_slice(&encoder.stream_info());
    frames.iter().for_each(|frame| file.extend_from_slice(frame));
    file
}

/// Encodes `blocks` and lets ffmpeg decode them; every sample must come back, without a complaint.
#[track_caller]
fn check_lossless(sample_rate: u32, channels: u8, blocks: &[Vec<i16>]) -> usize {
    let mut encoder = FlacEncoder::new(sample_rate, channels);
    let frames: Vec<_> = blocks.iter().map(|block| encoder.encode(block).unwrap()).collect();
    let dir = TempDir::new();
    let path = dir.write("audio.flac", &flac_file(&encoder, &frames));
    let check = ["-v", "error", "-xerror", "-err_detect", "crccheck+bitstream+buffer+explode"];
    let decode = ["-i", &path, "-f", "s16le", "-c:a", "pcm_s16le", "-"];
    let got = run("ffmpeg", &[&check[..], &decode[..]].concat());
    let got: Vec<i16> =
        got.chunks_exact(2).map(|pair| i16::from_le_bytes([pair[0], pair[1]])).collect();
    assert!(got == blocks.concat(), "{sample_rate} Hz, {channels} channels: samples differ");
    frames.iter().map(Vec::len).sum()
}

/// A repeatable stream of numbers (Knuth's MMIX generator, upper bits).
fn noise(seed: u64) -> impl Iterator<Item = i16> {
    let step = |state: &u64| {
        Some(state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407))
    };
    std::iter::successors(Some(seed), step).skip(1).map(|state| (state >> 48) as i16)
}

fn sine(samples: usize, amplitude: f64, period: f64) -> Vec<i16> {
    let angle = |at: usize| at as f64 / period * std::f64::consts::TAU;
    (0..samples).map(|at| (angle(at).sin() * amplitude) as i16).collect()
}

#[test]
fn every_kind_of_block_is_lossless() {
    let extremes = [i16::MIN, i16::MAX];
    let blocks = [
        vec![0; 160],
        vec![-12_345; 4608],
        sine(160, 30_000.0, 17.3),
        sine(4608, 32_767.0, 400.0),
        sine(1024, 3.0, 50.0),
        noise(1).take(160).collect(),
        noise(2).take(4608).map(|sample| sample >> 9).collect(),
        noise(3).take(16).collect(),
        noise(4).take(17).map(|sample| sample << 5).collect(),
        noise(5).take(256).map(|sample| sample & !7).collect(),
        extremes.iter().copied().cycle().take(257).collect(),
        (0..640).map(|at| at as i16 * 51 - 16_000).collect(),
        vec![i16::MIN; 16],
        std::iter::once(1).chain(std::iter::repeat_n(0, 159)).collect(),
        std::iter::repeat_n(0, 159).chain([i16::MIN]).collect(),
        sine(16, 1000.0, 9.0),
    ];
    check_lossless(8000, 1, &blocks);
}

#[test]
fn two_channels_are_lossless() {
    let interleave = |left: Vec<i16>, right: Vec<i16>| -> Vec<i16> {
        left.into_iter().zip(right).flat_map(|(left, right)| [left, right]).collect()
    };
    let blocks = [
        interleave(sine(320, 20_000.0, 30.0), vec![0; 320]),
        interleave(noise(7).take(999).collect(), sine(999, 900.0, 77.0)),
    ];
    check_lossless(48_000, 2, &blocks);
}

#[test]
fn every_way_to_write_the_sample_rate_is_understood() {
    for rate in [8000, 16_000, 44_100, 12_000, 11_025, 7999, 123_450, 96_001] {
        check_lossless(rate, 1, &[sine(200, 5000.0, 20.0), sine(333, 5000.0, 20.0)]);
    }
}

#[test]
fn g711_speech_gets_no_larger_than_it_was() {
    // A level like speech: short bursts, room noise in between, as a camera's microphone gives.
    let hum = sine(16_000, 600.0, 61.0);
    let speech = hum.iter().zip(noise(11)).map(|(hum, noise)| hum / 2 + (noise >> 10));
    let codes: Vec<u8> = speech.map(|sample| Law::A.encode(sample)).collect();
    let blocks: Vec<_> = codes.chunks(320).map(|payload| Law::A.decode_all(payload)).collect();
    let bytes = check_lossless(8000, 1, &blocks);
    assert!(bytes < codes.len(), "{bytes} bytes of FLAC for {} of G.711", codes.len());
    for block in blocks {
        assert!(block.iter().all(|&sample| Law::A.decode(Law::A.encode(sample)) == sample));
    }
}

#[test]
fn sample_numbers_of_all_lengths_are_understood() {
    for number in [0x7F, 0x80, 0x7FF, 0x800, 0xFFFF, 0x1_0000, 0x1F_FFFF, 0x20_0000, 0x3FF_FFFF] {
        check_number(number);
    }
    for number in [0x400_0000, 0x7FFF_FFFF, 0x8000_0000, SAMPLE_NUMBER_MASK] {
        check_number(number);
    }
}

/// Against the UTF-8 of the standard library as far as that goes, then by decoding.
#[track_caller]
fn check_number(number: u64) {
    let mut coded = Vec::new();
    push_coded_number(&mut coded, number);
    if let Some(text) = u32::try_from(number).ok().and_then(char::from_u32) {
        assert_eq!(coded, text.to_string().as_bytes(), "{number:#x}");
    }
    let extra = coded[0].leading_ones().saturating_sub(1);
    assert_eq!(coded.len(), extra as usize + 1, "{number:#x}");
    let lead = u64::from(coded[0] & (0x7F >> coded[0].leading_ones()));
    let value = coded[1..].iter().fold(lead, |value, byte| value << 6 | u64::from(byte & 0x3F));
    assert_eq!(value, number);
}

#[test]
fn numbering_goes_on_past_36_bits() {
    let mut encoder = FlacEncoder::new(8000, 1);
    encoder.sample_number = SAMPLE_NUMBER_MASK - 10;
    encoder.encode(&[1; 160]).unwrap();
    assert_eq!(encoder.sample_number, 149);
}

#[test]
fn blocks_out_of_range_are_refused() {
    let mut mono = FlacEncoder::new(8000, 1);
    assert_eq!(mono.encode(&[]), None);
    assert_eq!(mono.encode(&[0; 15]), None);
    assert_eq!(mono.encode(&[0; 4609]), None);
    let mut stereo = FlacEncoder::new(8000, 2);
    assert_eq!(stereo.encode(&[0; 33]), None);
    assert_eq!(stereo.encode(&[0; 30]), None);
    assert!(stereo.encode(&[0; 32]).is_some());
}

#[test]
fn format_holds_the_stream_info() {
    let format = audio_format_g711("pcma", 8000, 1);
    let mut want = vec![0x00, 0x10, 0x12, 0x00, 0, 0, 0, 0, 0, 0, 0x01, 0xF4, 0x00, 0xF0];
    want.resize(34, 0);
    assert_eq!(format.decoder_config, want);
    assert_eq!((format.sample_rate, format.channels), (8000, 1));
    assert_eq!((format.source_codec, format.rfc6381.as_str()), ("pcma", "flac"));
}

#[test]
fn checksums_agree_with_the_published_check_values() {
    // "123456789": CRC-8/SMBUS is 0xF4, CRC-16/UMTS is 0xFEE8.
    assert_eq!(crc8(b"123456789"), 0xF4);
    assert_eq!(crc16(b"123456789"), 0xFEE8);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(8))]
    #[test]
    fn any_samples_are_lossless(
        blocks in prop::collection::vec(prop::collection::vec(any::<i16>(), 16..300), 1..8),
        shift in 0u32..16,
    ) {
        let blocks: Vec<Vec<i16>> = blocks.iter()
            .map(|block| block.iter().map(|sample| sample >> shift).collect()).collect();
        check_lossless(8000, 1, &blocks);
    }
}
