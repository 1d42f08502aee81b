//! Opus from RTP (RFC 7587): one packet is one frame.

use std::sync::Arc;

use crate::media::format::{AudioCodec, AudioFormat};

use super::sdp::Format;

/// The rate of every Opus track (RFC 7587 section 4.1).
const SAMPLE_RATE: u32 = 48_000;

/// The format of an Opus track. Its `rtpmap` always says 2 channels; a decoder makes two of one.
pub fn audio_format(format: &Format) -> Arc<AudioFormat> {
    Arc::new(AudioFormat {
        codec: AudioCodec::Opus,
        source_codec: "opus",
        sample_rate: SAMPLE_RATE,
        channels: format.channels.clamp(1, 2),
        decoder_config: Vec::new(),
        rfc6381: "opus".to_owned(),
    })
}

/// How many samples at 48 kHz a packet holds (RFC 6716 section 3.1), 0 if it is none.
pub fn samples(packet: &[u8]) -> u32 {
    let Some(&toc) = packet.first() else { return 0 };
    let frame = match toc >> 3 {
        config @ 0..=11 => [480, 960, 1920, 2880][usize::from(config & 3)],
        config @ 12..=15 => [480, 960][usize::from(config & 1)],
        config => [120, 240, 480, 960][usize::from(config & 3)],
    };
    match toc & 3 {
        0 => frame,
        1 | 2 => 2 * frame,
        _ => frame * packet.get(1).map_or(0, |count| u32::from(count & 0x3f)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_follow_from_the_first_bytes() {
        assert_eq!(samples(&[0x78, 0]), 960); // CELT, 20 ms, one frame
        assert_eq!(samples(&[0x79]), 1920);
        assert_eq!(samples(&[0xe3, 3]), 360); // 2.5 ms, three frames
        assert_eq!(samples(&[0x18]), 2880); // SILK, 60 ms
        assert_eq!(samples(&[0x68]), 960); // hybrid, 20 ms
        assert_eq!((samples(&[]), samples(&[0x03])), (0, 0));
    }
}
