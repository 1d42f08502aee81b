//! G.711 from RTP (RFC 3551 section 4.5.14), stored as FLAC: the same samples, and browsers play it.

use std::sync::Arc;

use crate::media::flac::{self, BLOCK_SAMPLES_MAX, BLOCK_SAMPLES_MIN, FlacEncoder};
use crate::media::format::AudioFormat;
use crate::media::g711::Law;

use super::rtp::RtpPacket;
use super::sdp::Format;
use super::track::AudioFrame;

/// Depacketizer and encoder of one G.711 track: one FLAC frame per packet.
pub struct G711 {
    law: Law,
    channels: u8,
    format: Arc<AudioFormat>,
    encoder: FlacEncoder,
    /// Samples of packets too short for a frame, channels interleaved.
    waiting: Vec<i16>,
    pub dropped: u64,
}

impl G711 {
    /// `None`: more channels than are stored.
    pub fn from_sdp(law: Law, format: &Format) -> Option<Self> {
        let channels = format.channels;
        if channels > 2 {
            return None;
        }
        let encoder = FlacEncoder::new(format.clock_rate, channels);
        let described = flac::audio_format_g711(law.name(), format.clock_rate, channels);
        Some(Self {
            law,
            channels,
            format: Arc::new(described),
            encoder,
            waiting: Vec::new(),
            dropped: 0,
        })
    }

    pub fn format(&self) -> &Arc<AudioFormat> {
        &self.format
    }

    /// Takes one packet in. Its timestamp is that of its first sample.
    pub fn push(&mut self, packet: &RtpPacket<'_>, is_gap: bool, out: &mut impl FnMut(AudioFrame)) {
        if is_gap {
            self.waiting.clear();
        }
        let channels = usize::from(self.channels);
        // Samples of the packets before stand in front: they are earlier by so much.
        let mut offset = -((self.waiting.len() / channels) as i64);
        self.waiting.extend(packet.payload.iter().map(|&code| self.law.decode(code)));
        let whole = self.waiting.len() / channels * channels;
        let mut rest = &self.waiting[..whole];
        while rest.len() >= BLOCK_SAMPLES_MIN * channels {
            let (block, after) = rest.split_at(rest.len().min(BLOCK_SAMPLES_MAX * channels));
            let samples = (block.len() / channels) as u32;
            match self.encoder.encode(block) {
                Some(data) => out(AudioFrame { offset, samples, data }),
                None => self.dropped += 1,
            }
            offset += i64::from(samples);
            rest = after;
        }
        let used = whole - rest.len();
        self.waiting.drain(..used);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::sdp;

    fn frames(g711: &mut G711, bytes: usize) -> Vec<(i64, u32)> {
        let payload = vec![0xd5; bytes];
        let packet = RtpPacket {
            payload_type: 8,
            has_marker: false,
            sequence: 0,
            timestamp: 0,
            ssrc: 0,
            extension: None,
            payload: &payload,
        };
        let mut out = Vec::new();
        g711.push(&packet, false, &mut |frame| out.push((frame.offset, frame.samples)));
        out
    }

    #[test]
    fn a_packet_is_a_frame_whatever_its_length() {
        let sdp = sdp::parse(b"m=audio 0 RTP/AVP 8\n");
        let mut g711 = G711::from_sdp(Law::A, &sdp.media[0].formats[0]).unwrap();
        assert_eq!((g711.format().sample_rate, g711.format().source_codec), (8000, "pcma"));
        assert_eq!(frames(&mut g711, 160), [(0, 160)]);
        assert_eq!(frames(&mut g711, 10), []);
        assert_eq!(frames(&mut g711, 10), [(-10, 20)]);
        assert_eq!(frames(&mut g711, 5000), [(0, 4608), (4608, 392)]);
        assert_eq!(frames(&mut g711, 0), []);
        assert_eq!(g711.dropped, 0);
    }
}
