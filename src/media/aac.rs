//! AAC: AudioSpecificConfig and ADTS headers.
//!
//! In here: ISO/IEC 14496-3 sections 1.6.2 and 1.A.2, as far as a track description needs them. Not
//! in here: RTP (ingest). Outside bytes: what is out of range is refused, never a panic.

use super::bits::BitReader;
use super::format::{AudioCodec, AudioFormat};

/// An AudioSpecificConfig is 2 to 5 bytes, with a program config element under 64.
pub const ASC_BYTES_MAX: usize = 256;

/// `samplingFrequencyIndex` (ISO/IEC 14496-3 table 1.18).
const SAMPLE_RATES: [u32; 13] =
    [96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350];
/// `channelConfiguration` 0 to 7 (table 1.19); 0 means that a program config element says it.
const CHANNELS: [u8; 8] = [0, 1, 2, 3, 4, 5, 6, 8];
/// Audio object types (table 1.17).
const OBJECT_SBR: u8 = 5;
const OBJECT_PS: u8 = 29;
const OBJECT_ESCAPE: u32 = 31;

/// What an AudioSpecificConfig says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AudioSpecificConfig {
    /// Audio object type of the core coder: 2 is AAC-LC.
    pub object_type: u8,
    /// Of the core coder, Hz: the timescale in which a frame lasts `samples_per_frame`.
    pub sample_rate: u32,
    /// Of the core coder; parametric stereo makes two of one.
    pub channels: u8,
    /// 1024 or 960, at `sample_rate`.
    pub samples_per_frame: u16,
    /// Spectral band replication is signalled explicitly: the output has twice the rate.
    pub has_sbr: bool,
    /// Parametric stereo is signalled explicitly.
    pub has_ps: bool,
}

impl AudioSpecificConfig {
    /// Parses the configuration as `config=` of an SDP carries it.
    ///
    /// Errors: cut off, a reserved sample rate or channel configuration, an object type that is no
    /// general audio coder (camera microphones use AAC-LC; xHE-AAC and ELD are not recorded).
    pub fn parse(asc: &[u8]) -> Result<AudioSpecificConfig, String> {
        if asc.len() > ASC_BYTES_MAX {
            return Err(format!(
                "AudioSpecificConfig of {} bytes, at most {ASC_BYTES_MAX}",
                asc.len()
            ));
        }
        let bad = || format!("AudioSpecificConfig {} is malformed", super::h264::hex(asc));
        parse_config(&mut BitReader::new(asc)).ok_or_else(bad)
    }
}

fn parse_config(bits: &mut BitReader) -> Option<AudioSpecificConfig> {
    let signalled = parse_object_type(bits)?;
    let sample_rate = parse_sample_rate(bits)?;
    let layout = bits.u(4)?;
    let mut has_sbr = matches!(signalled, OBJECT_SBR | OBJECT_PS);
    let mut has_ps = signalled == OBJECT_PS;
    let mut object_type = signalled;
    if has_sbr {
        parse_sample_rate(bits)?; // extensionSamplingFrequency, of the output
        object_type = parse_object_type(bits)?;
    }
    // General audio coders: main, LC, SSR, LTP, scalable, and their error resilient relatives.
    if !matches!(object_type, 1..=4 | 6 | 7 | 17 | 19..=23) {
        return None;
    }
    let is_short = bits.flag()?; // frameLengthFlag
    if bits.flag()? {
        bits.skip(14)?; // coreCoderDelay
    }
    let has_extension = bits.flag()?;
    let channels = match layout {
        0 => parse_program_channels(bits)?,
        _ => *CHANNELS.get(layout as usize)?,
    };
    if !has_sbr && !has_extension {
        (has_sbr, has_ps) = parse_sync_extension(bits).unwrap_or((false, false));
    }
    let samples_per_frame = if is_short { 960 } else { 1024 };
    Some(AudioSpecificConfig {
        object_type,
        sample_rate,
        channels,
        samples_per_frame,
        has_sbr,
        has_ps,
    })
}

/// `GetAudioObjectType` of section 1.6.2.1.
fn parse_object_type(bits: &mut BitReader) -> Option<u8> {
    match bits.u(5)? {
        OBJECT_ESCAPE => Some(32 + bits.u(6)? as u8),
        object_type => Some(object_type as u8),
    }
}

/// A rate by index, or 24 bits of Hz; 0 and what no sound card does are refused.
fn parse_sample_rate(bits: &mut BitReader) -> Option<u32> {
    match bits.u(4)? {
        15 => bits.u(24).filter(|rate| (1000..=192_000).contains(rate)),
        index => SAMPLE_RATES.get(index as usize).copied(),
    }
}

/// Channels of a `program_config_element` (section 4.4.1.1): front, side, back, and low frequency
/// ones.
fn parse_program_channels(bits: &mut BitReader) -> Option<u8> {
    bits.skip(10)?; // element_instance_tag, object_type, sampling_frequency_index
    let (front, side, back) = (bits.u(4)?, bits.u(4)?, bits.u(4)?);
    let lfe = bits.u(2)?;
    bits.skip(7)?; // numbers of data and coupling elements
    for mixdown_bits in [4, 4, 3] {
        if bits.flag()? {
            bits.skip(mixdown_bits)?; // mono, stereo, matrix
        }
    }
    let mut channels = lfe;
    for _ in 0..front + side + back {
        channels += if bits.flag()? { 2 } else { 1 };
        bits.skip(4)?; // element_tag_select
    }
    u8::try_from(channels).ok().filter(|&count| count > 0)
}

/// The backward compatible signalling behind the configuration (section 1.6.2.1): SBR, then PS.
fn parse_sync_extension(bits: &mut BitReader) -> Option<(bool, bool)> {
    if bits.u(11)? != 0x2B7 || parse_object_type(bits)? != OBJECT_SBR || !bits.flag()? {
        return None;
    }
    parse_sample_rate(bits)?;
    let has_ps = bits.u(11) == Some(0x548) && bits.flag() == Some(true);
    Some((true, has_ps))
}

/// The audio format of a stream with this AudioSpecificConfig.
///
/// The timescale is the rate of the core coder, so that a frame always lasts 1024 (or 960) ticks.
/// Errors as in `AudioSpecificConfig::parse`.
pub fn audio_format(asc: &[u8]) -> Result<AudioFormat, String> {
    let parsed = AudioSpecificConfig::parse(asc)?;
    let object_type = match (parsed.has_sbr, parsed.has_ps) {
        (_, true) => OBJECT_PS,
        (true, false) => OBJECT_SBR,
        _ => parsed.object_type,
    };
    Ok(AudioFormat {
        codec: AudioCodec::Aac,
        source_codec: "aac",
        sample_rate: parsed.sample_rate,
        channels: parsed.channels,
        decoder_config: asc.to_vec(),
        rfc6381: format!("mp4a.40.{object_type}"),
    })
}

/// Parses the ADTS header at the start of `data` (section 1.A.2.2): length of the header, length of
/// the frame with its header, and the AudioSpecificConfig that says the same.
///
/// `None`: no header, cut off, a reserved rate, or a frame shorter than its header. The frame may
/// reach past `data`.
pub fn parse_adts(data: &[u8]) -> Option<(usize, usize, [u8; 2])> {
    let head: &[u8; 7] = data.first_chunk()?;
    let is_sync = head[0] == 0xFF && head[1] & 0xF6 == 0xF0; // syncword, layer 0
    let rate_index = head[2] >> 2 & 0x0F;
    if !is_sync || usize::from(rate_index) >= SAMPLE_RATES.len() {
        return None;
    }
    let header_len = if head[1] & 1 == 1 { 7 } else { 9 }; // protection_absent, else a CRC
    let frame_len =
        usize::from(head[3] & 3) << 11 | usize::from(head[4]) << 3 | usize::from(head[5] >> 5);
    if frame_len < header_len {
        return None;
    }
    let object_type = (head[2] >> 6) + 1;
    let layout = (head[2] & 1) << 2 | head[3] >> 6;
    let asc = [object_type << 3 | rate_index >> 1, rate_index << 7 | layout << 3];
    Some((header_len, frame_len, asc))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check_config(asc: &[u8], rate: u32, channels: u8, samples: u16, codecs: &str) {
        let parsed = AudioSpecificConfig::parse(asc).unwrap();
        let got = (parsed.sample_rate, parsed.channels, parsed.samples_per_frame);
        assert_eq!(got, (rate, channels, samples), "{asc:02x?}");
        let format = audio_format(asc).unwrap();
        assert_eq!(format.rfc6381, codecs, "{asc:02x?}");
        assert_eq!((format.sample_rate, format.channels), (rate, channels));
        assert_eq!(format.decoder_config, asc);
    }

    #[test]
    fn configurations() {
        check_config(&[0x14, 0x08], 16000, 1, 1024, "mp4a.40.2");
        check_config(&[0x11, 0x90], 48000, 2, 1024, "mp4a.40.2");
        check_config(&[0x11, 0x94], 48000, 2, 960, "mp4a.40.2");
        check_config(&[0x15, 0x88], 8000, 1, 1024, "mp4a.40.2");
        // Explicit 24-bit rate: 2, 15, 12345, 1.
        check_config(&[0x17, 0x80, 0x18, 0x1C, 0x88], 12345, 1, 1024, "mp4a.40.2");
        // HE-AAC as libfdk_aac signals it: hierarchically, backward compatibly; v2 with PS.
        check_config(&[0x2B, 0x11, 0x88, 0x00], 24000, 2, 1024, "mp4a.40.5");
        check_config(&[0x13, 0x10, 0x56, 0xE5, 0x98], 24000, 2, 1024, "mp4a.40.5");
        check_config(&[0xEB, 0x09, 0x88, 0x00], 24000, 1, 1024, "mp4a.40.29");
    }

    #[test]
    fn bad_configurations_are_refused() {
        for asc in [&[][..], &[0x14], &[0x16, 0x90, 0], &[0x11, 0xC8], &[0x40, 0x08], &[0; 300]] {
            assert!(AudioSpecificConfig::parse(asc).is_err(), "{asc:02x?}");
        }
    }

    #[test]
    fn adts_header_becomes_a_configuration() {
        // ffmpeg -f adts, AAC-LC 16 kHz mono; frame of 0x175 bytes.
        let head = [0xFF, 0xF1, 0x60, 0x40, 0x2E, 0xBF, 0xFC, 0xDE];
        assert_eq!(parse_adts(&head), Some((7, 0x175, [0x14, 0x08])));
        let with_crc = [0xFF, 0xF0, 0x60, 0x40, 0x2E, 0xBF, 0xFC];
        assert_eq!(parse_adts(&with_crc), Some((9, 0x175, [0x14, 0x08])));
        assert_eq!(parse_adts(&head[..6]), None);
        assert_eq!(parse_adts(&[0xFF, 0xF1, 0x60, 0x40, 0x00, 0xBF, 0xFC]), None); // 5 bytes
        assert_eq!(parse_adts(&[0xFF, 0xF1, 0x74, 0x40, 0x2E, 0xBF, 0xFC]), None); // rate 13
        assert_eq!(parse_adts(&[0xFF, 0xE3, 0x60, 0x40, 0x2E, 0xBF, 0xFC]), None); // MP3
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(data: Vec<u8>) {
            if let Ok(format) = audio_format(&data) {
                prop_assert!(format.sample_rate >= 1000 && format.channels > 0);
            }
            if let Some((header_len, frame_len, asc)) = parse_adts(&data) {
                prop_assert!(header_len <= frame_len && frame_len < 1 << 13);
                let _ = audio_format(&asc);
            }
        }
    }
}
