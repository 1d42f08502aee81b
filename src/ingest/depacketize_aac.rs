//! AAC from RTP: RFC 3640 (`MPEG4-GENERIC`) and RFC 6416 (`MP4A-LATM` with its configuration in the SDP).
//!
//! In here: frames out of payloads, and the configuration, which cameras leave out or get wrong
//! (quirk 44). Not in here: time (`track.rs`), what a configuration says (`media/aac.rs`).

use std::sync::Arc;

use crate::media::aac;
use crate::media::bits::BitReader;
use crate::media::format::AudioFormat;

use super::rtp::RtpPacket;
use super::sdp::Format;
use super::track::{AUDIO_FRAMES_MAX, AudioFrame};

/// Largest frame: `SizeLength` is at most 16 bits.
const FRAME_BYTES_MAX: usize = 1 << 16;
/// Largest `config=` in bytes.
const CONFIG_BYTES_MAX: usize = 64;
/// Samples of a frame that no configuration describes.
const SAMPLES_PER_FRAME: u32 = 1024;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    /// RFC 3640: bits of an AU header for size and index.
    Headers { size: u32, index: u32 },
    /// RFC 6416 with `cpresent=0`.
    Latm,
}

/// Depacketizer of one AAC track.
pub struct Aac {
    framing: Framing,
    format: Option<Arc<AudioFormat>>,
    samples_per_frame: u32,
    /// A frame that is larger than a packet, as far as it is here.
    fragment: Vec<u8>,
    /// Frames or packets that could not be used.
    pub dropped: u64,
}

impl Aac {
    /// `None`: a kind of AAC in RTP that is not supported.
    pub fn from_sdp(format: &Format) -> Option<Self> {
        let mut config = decode_hex(format.param("config").unwrap_or(""));
        let framing = if format.encoding == "MP4A-LATM" {
            if format.param("cpresent").is_some_and(|value| value != "0") {
                return None;
            }
            config = config_of_mux(&config)?;
            Framing::Latm
        } else {
            let is_low_rate =
                format.param("mode").is_some_and(|mode| mode.eq_ignore_ascii_case("AAC-lbr"));
            let bits = |name, default| {
                let value = format.param(name).and_then(|value| value.parse().ok());
                value.filter(|&bits: &u32| bits <= 16).unwrap_or(default)
            };
            let (size, index) = if is_low_rate { (6, 2) } else { (13, 3) };
            Framing::Headers { size: bits("SizeLength", size), index: bits("IndexLength", index) }
        };
        let mut new = Self {
            framing,
            format: None,
            samples_per_frame: SAMPLES_PER_FRAME,
            fragment: Vec::new(),
            dropped: 0,
        };
        if !new.configure(&config) {
            new.configure(&plain_config(format.clock_rate, format.channels));
        }
        Some(new)
    }

    pub fn format(&self) -> Option<&Arc<AudioFormat>> {
        self.format.as_ref()
    }

    /// Takes one packet in.
    pub fn push(&mut self, packet: &RtpPacket<'_>, is_gap: bool, out: &mut impl FnMut(AudioFrame)) {
        if is_gap {
            self.fragment.clear();
        }
        let is_used = match self.framing {
            Framing::Latm => self.push_latm(packet.payload, out),
            // ADTS instead of AU headers: their length would be 65521 bits.
            Framing::Headers { size, index } => {
                self.push_adts(packet.payload, out) || self.push_headers(packet, (size, index), out)
            }
        };
        self.dropped += u64::from(!is_used);
    }

    /// RFC 3640 section 3.2.1.
    fn push_headers(
        &mut self,
        packet: &RtpPacket<'_>,
        (size_bits, index_bits): (u32, u32),
        out: &mut impl FnMut(AudioFrame),
    ) -> bool {
        let Some((length, rest)) = packet.payload.split_first_chunk::<2>() else { return false };
        let header_bits = usize::from(u16::from_be_bytes(*length));
        let Some((headers, mut data)) = rest.split_at_checked(header_bits.div_ceil(8)) else {
            return false;
        };
        let bits_each = (size_bits + index_bits) as usize;
        if size_bits == 0 || header_bits < bits_each {
            return false;
        }
        let announced = header_bits / bits_each;
        let count = announced.min(AUDIO_FRAMES_MAX);
        self.dropped += (announced - count) as u64;
        let mut headers = BitReader::new(headers);
        for n in 0..count as u32 {
            let Some(size) = headers.u(size_bits) else { return false };
            headers.u(index_bits);
            let size = size as usize;
            if count == 1 && size > data.len() {
                return self.push_fragment(data, size, packet.has_marker, out);
            }
            let Some((frame, after)) = data.split_at_checked(size) else { return false };
            self.fragment.clear();
            self.push_frame(frame, n, out);
            data = after;
        }
        true
    }

    /// RFC 3640 section 3.2.3: each fragment comes with the size of the whole frame.
    fn push_fragment(
        &mut self,
        data: &[u8],
        size: usize,
        is_last: bool,
        out: &mut impl FnMut(AudioFrame),
    ) -> bool {
        if self.fragment.len() + data.len() > FRAME_BYTES_MAX {
            self.fragment.clear();
            return false;
        }
        self.fragment.extend_from_slice(data);
        if self.fragment.len() < size {
            // The last one came, and yet the frame is not whole.
            if is_last {
                self.fragment.clear();
            }
            return !is_last;
        }
        let frame = std::mem::take(&mut self.fragment);
        if frame.len() == size {
            self.push_frame(&frame, 0, out);
        }
        frame.len() == size
    }

    /// Whole ADTS frames one after the other. False: it is none.
    fn push_adts(&mut self, mut rest: &[u8], out: &mut impl FnMut(AudioFrame)) -> bool {
        for n in 0..AUDIO_FRAMES_MAX as u32 {
            let Some((_, length, _)) = aac::parse_adts(rest) else { return n > 0 };
            let Some((frame, after)) = rest.split_at_checked(length) else { return n > 0 };
            self.push_frame(frame, n, out);
            rest = after;
        }
        self.dropped += u64::from(!rest.is_empty()); // how many these are is not looked into
        true
    }

    /// RFC 6416 section 6.3 with one program, one layer: `PayloadLengthInfo` and the frame.
    fn push_latm(&mut self, mut rest: &[u8], out: &mut impl FnMut(AudioFrame)) -> bool {
        for n in 0..AUDIO_FRAMES_MAX as u32 {
            let mut size = 0;
            loop {
                let Some((&byte, after)) = rest.split_first() else { return n > 0 };
                size += usize::from(byte);
                rest = after;
                if byte != 0xff {
                    break;
                }
            }
            let Some((frame, after)) = rest.split_at_checked(size) else { return false };
            self.push_frame(frame, n, out);
            rest = after;
        }
        self.dropped += u64::from(!rest.is_empty()); // how many these are is not looked into
        true
    }

    fn push_frame(&mut self, frame: &[u8], n: u32, out: &mut impl FnMut(AudioFrame)) {
        let mut data = frame;
        if let Some((header, length, config)) = aac::parse_adts(frame)
            && length == frame.len()
        {
            data = &frame[header..];
            self.adopt(&config);
        }
        if data.is_empty() {
            self.dropped += 1;
            return;
        }
        let samples = self.samples_per_frame;
        out(AudioFrame { offset: i64::from(n * samples), samples, data: data.to_vec() });
    }

    /// An ADTS header is nearer to the truth than the SDP, but says less (no SBR): it counts only
    /// where the two cannot both be right.
    fn adopt(&mut self, config: &[u8]) {
        let Ok(format) = aac::audio_format(config) else { return };
        let same = |old: &Arc<AudioFormat>| {
            (old.sample_rate, old.channels) == (format.sample_rate, format.channels)
        };
        if !self.format.as_ref().is_some_and(same) {
            self.configure(config);
        }
    }

    fn configure(&mut self, config: &[u8]) -> bool {
        let Ok(parsed) = aac::AudioSpecificConfig::parse(config) else { return false };
        let Ok(format) = aac::audio_format(config) else { return false };
        self.samples_per_frame = parsed.samples_per_frame.into();
        self.format = Some(Arc::new(format));
        true
    }
}

/// AAC-LC at this rate, for an SDP without a usable `config=`. Empty if no index stands for the rate
/// (ISO/IEC 14496-3 table 1.18).
fn plain_config(rate: u32, channels: u8) -> Vec<u8> {
    const RATES: [u32; 13] = [
        96_000, 88_200, 64_000, 48_000, 44_100, 32_000, 24_000, 22_050, 16_000, 12_000, 11_025,
        8000, 7350,
    ];
    let Some(index) = RATES.iter().position(|&r| r == rate) else { return Vec::new() };
    let bits = 2 << 11 | (index as u16) << 7 | u16::from(channels.clamp(1, 2)) << 3;
    bits.to_be_bytes().to_vec()
}

/// The AudioSpecificConfig inside a StreamMuxConfig (ISO/IEC 14496-3 section 1.7.3) of version 0 with one
/// program and one layer, where it begins at bit 15. What follows it stays behind it as padding.
fn config_of_mux(mux: &[u8]) -> Option<Vec<u8>> {
    let head = u16::from_be_bytes([*mux.first()?, *mux.get(1)?]);
    // audioMuxVersion, allStreamsSameTimeFraming, numSubFrames (any), numProgram, numLayer.
    if head >> 14 != 1 || head & 0x00fe != 0 {
        return None;
    }
    let shifted: Vec<u8> = mux
        .windows(2)
        .skip(1)
        .map(|w| w[0] << 7 | w[1] >> 1)
        .chain([mux[mux.len() - 1] << 7])
        .collect();
    // 5 bits of object type, 4 of rate, 4 of channels, 3 of flags; explicit SBR needs 9 more.
    let is_extended = matches!(shifted.first()? >> 3, 5 | 29);
    let bytes = if is_extended { 4 } else { 2 };
    Some(shifted.get(..bytes)?.to_vec())
}

fn decode_hex(text: &str) -> Vec<u8> {
    let digits: Vec<u32> = text.trim_matches('"').chars().map_while(|c| c.to_digit(16)).collect();
    digits.chunks_exact(2).take(CONFIG_BYTES_MAX).map(|d| (d[0] * 16 + d[1]) as u8).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ingest::sdp;
    use proptest::prelude::*;

    fn track(rtpmap: &str, fmtp: &str) -> Option<Aac> {
        let text = format!("m=audio 0 RTP/AVP 97\na=rtpmap:97 {rtpmap}\na=fmtp:97 {fmtp}\n");
        Aac::from_sdp(&sdp::parse(text.as_bytes()).media[0].formats[0])
    }

    fn hbr(config: &str) -> Aac {
        let fmtp = format!("mode=AAC-hbr;config={config};SizeLength=13;IndexLength=3");
        track("mpeg4-generic/16000/1", &fmtp).unwrap()
    }

    fn frames(aac: &mut Aac, payload: &[u8], has_marker: bool) -> Vec<(i64, Vec<u8>)> {
        let packet = RtpPacket {
            payload_type: 97,
            has_marker,
            sequence: 0,
            timestamp: 0,
            ssrc: 0,
            extension: None,
            payload,
        };
        let mut out = Vec::new();
        aac.push(&packet, false, &mut |frame| out.push((frame.offset, frame.data)));
        out
    }

    /// An ADTS frame of AAC-LC, 8 kHz (index 11), mono.
    fn adts(body: &[u8]) -> Vec<u8> {
        let length = 7 + body.len();
        let head =
            [0xff, 0xf1, 0x40 | 11 << 2, 0x40, (length >> 3) as u8, (length << 5) as u8, 0xfc];
        [&head[..], body].concat()
    }

    #[test]
    fn several_frames_of_a_packet_follow_each_other() {
        let mut aac = hbr("1408");
        assert_eq!(aac.format().unwrap().sample_rate, 16_000);
        let got = frames(&mut aac, &[0, 32, 0, 2 << 3, 0, 3 << 3, 1, 2, 3, 4, 5], true);
        assert_eq!(got, [(0, vec![1, 2]), (1024, vec![3, 4, 5])]);
    }

    #[test]
    fn a_frame_may_come_in_fragments() {
        let mut aac = hbr("1408");
        assert_eq!(frames(&mut aac, &[0, 16, 0, 4 << 3, 1, 2], false), []);
        assert_eq!(frames(&mut aac, &[0, 16, 0, 4 << 3, 3, 4], true), [(0, vec![1, 2, 3, 4])]);
    }

    #[test]
    fn bad_frames_are_dropped_alone() {
        let mut aac = hbr("1408");
        assert_eq!(frames(&mut aac, &[0, 32, 0, 0, 0, 8, 7], true), [(1024, vec![7])]);
        assert_eq!(frames(&mut aac, &[0, 32, 0, 8, 0, 80, 7], true), [(0, vec![7])]);
        assert_eq!(frames(&mut aac, &[0xff, 0, 0], true), []);
        assert_eq!(aac.dropped, 3);
    }

    #[test]
    fn adts_is_stripped_and_corrects_the_configuration() {
        let mut aac = hbr("1408");
        let inner = adts(&[9, 9]);
        let payload = [&[0, 16, 0, (inner.len() as u8) << 3][..], &inner].concat();
        assert_eq!(frames(&mut aac, &payload, true), [(0, vec![9, 9])]);
        assert_eq!(aac.format().unwrap().sample_rate, 8000);
        let bare = [adts(&[1]), adts(&[2, 2])].concat();
        assert_eq!(frames(&mut aac, &bare, true), [(0, vec![1]), (1024, vec![2, 2])]);
    }

    #[test]
    fn a_missing_configuration_is_made_from_the_rtpmap() {
        let aac = track("MPEG4-GENERIC/16000/1", "").unwrap();
        assert_eq!(aac.format().unwrap().decoder_config, [0x14, 0x08]);
        assert!(track("MPEG4-GENERIC/12345", "config=zz").unwrap().format().is_none());
    }

    #[test]
    fn latm_is_read_with_its_configuration_in_the_sdp() {
        // StreamMuxConfig of AAC-LC, 44.1 kHz, stereo, as FFmpeg and GStreamer write it.
        let mut aac = track("MP4A-LATM/44100/2", "cpresent=0;config=40002420adca00").unwrap();
        let format = aac.format().unwrap();
        assert_eq!((format.sample_rate, format.channels), (44_100, 2));
        let payload = [&[0xff, 1][..], &[5; 256]].concat();
        assert_eq!(frames(&mut aac, &payload, true), [(0, vec![5; 256])]);
        assert!(track("MP4A-LATM/44100", "cpresent=1").is_none());
    }

    proptest! {
        #[test]
        fn any_payload_is_survived(
            payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..60), 0..20),
            size in 0u32..20, index in 0u32..20, latm: bool,
        ) {
            let fmtp = format!("SizeLength={size};IndexLength={index};config=40002420adca00;cpresent=0");
            let name = if latm { "MP4A-LATM/44100" } else { "MPEG4-GENERIC/44100" };
            let mut aac = track(name, &fmtp).unwrap();
            for (n, payload) in payloads.iter().enumerate() {
                frames(&mut aac, payload, n % 3 == 0);
            }
        }
    }
}
