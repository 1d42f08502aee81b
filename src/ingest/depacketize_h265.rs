//! H.265 from RTP (RFC 7798): single NAL units, aggregation packets, fragmentation units.
//!
//! Not in here: where a picture ends (`access_unit.rs`), what parameter sets say (`media/h265.rs`).
//! Decoding order numbers (`sprop-max-don-diff` above 0) are left out: no camera sends them.

use std::sync::Arc;
use std::time::Instant;

use crate::media::format::VideoFormat;
use crate::media::{h264, h265, nal};

use super::access_unit::{AccessUnit, Assembler, HEAD_BYTES, NalClass, NalCodec, ParameterSets};
use super::rtp::RtpPacket;
use super::sdp::Format;

/// `nal_unit_type` values (ITU-T H.265 table 7-1) and payload structures (RFC 7798 section 4.4).
const NAL_VPS: u8 = 32;
const NAL_PPS: u8 = 34;
const NAL_PREFIX_SEI: u8 = 39;
const AGGREGATE: u8 = 48;
const FRAGMENT: u8 = 49;
const PACI: u8 = 50;

/// The H.265 side of an `Assembler`.
#[derive(Default)]
pub struct H265 {
    pub sets: ParameterSets<3>,
}

impl NalCodec for H265 {
    fn classify(&self, head: &[u8]) -> NalClass {
        if head.len() < 2 {
            return NalClass::Other;
        }
        match h265::nal_type(head) {
            0..=31 => NalClass::Slice {
                begins_picture: h265::first_slice_segment_in_pic(head) == Some(true),
                is_key: h265::is_irap(head),
            },
            NAL_PREFIX_SEI => NalClass::Before { is_key: is_recovery_point_sei(head) },
            // Parameter sets, delimiter, and what section 7.4.2.4.4 puts in front of a picture.
            NAL_VPS..=35 | 41..=44 | 48..=55 => NalClass::Before { is_key: false },
            _ => NalClass::Other,
        }
    }

    fn remember(&mut self, nal: &[u8]) {
        let kind @ NAL_VPS..=NAL_PPS = h265::nal_type(nal) else { return };
        self.sets.set(usize::from(kind - NAL_VPS), nal);
    }

    fn format(&mut self) -> Option<Arc<VideoFormat>> {
        self.sets.format(|[vps, sps, pps]| h265::video_format(vps, sps, pps))
    }
}

/// The messages are coded as in H.264 (H.265 section 7.3.5), only the header has one byte more.
fn is_recovery_point_sei(head: &[u8]) -> bool {
    let mut as_h264 = [0; HEAD_BYTES];
    let len = head.len().min(HEAD_BYTES) - 1;
    as_h264[..len].copy_from_slice(&head[1..=len]);
    as_h264[0] = 6;
    h264::is_recovery_point_sei(&as_h264[..len])
}

/// A depacketizer that knows the parameter sets of the SDP; missing ones may come in band (quirk 21).
pub fn from_sdp(format: &Format) -> Assembler<H265> {
    let mut codec = H265::default();
    for name in ["sprop-vps", "sprop-sps", "sprop-pps"] {
        for set in format.param(name).unwrap_or("").split(',') {
            let bytes = super::sdp::decode_base64(set);
            nal::split_annex_b(&bytes).for_each(|nal| codec.remember(nal));
        }
    }
    Assembler::new(codec)
}

/// Takes one packet in.
pub fn push(
    units: &mut Assembler<H265>,
    packet: &RtpPacket<'_>,
    is_gap: bool,
    now: Instant,
    out: &mut impl FnMut(AccessUnit),
) {
    units.begin_packet(packet, is_gap, now, out);
    let payload = packet.payload;
    match h265::nal_type(payload) {
        _ if payload.len() < 2 => {}
        FRAGMENT => fragment(units, payload, out),
        AGGREGATE => {
            if !aggregate(units, &payload[2..], out) {
                units.mark_damaged();
            }
        }
        PACI => units.mark_damaged(),
        _ => units.whole_nal(payload, out),
    }
    units.end_packet(packet, out);
}

/// RFC 7798 section 4.4.2. False: a size reaches past the end.
fn aggregate(
    units: &mut Assembler<H265>,
    mut rest: &[u8],
    out: &mut impl FnMut(AccessUnit),
) -> bool {
    while let Some((size, after)) = rest.split_first_chunk::<2>() {
        let Some((nal, after)) = after.split_at_checked(u16::from_be_bytes(*size).into()) else {
            return false;
        };
        if nal.len() >= 2 {
            units.whole_nal(nal, out);
        }
        rest = after;
    }
    true
}

/// RFC 7798 section 4.4.3. Start and end together are forbidden, and yet sent as one whole unit by
/// OpenIPC cameras (quirk 38).
fn fragment(units: &mut Assembler<H265>, payload: &[u8], out: &mut impl FnMut(AccessUnit)) {
    let [first, second, header, body @ ..] = payload else { return units.mark_damaged() };
    if header & 0x80 != 0 {
        units.begin_nal(&[first & 0x81 | (header & 0x3f) << 1, *second], body, out);
    } else {
        units.append(body);
    }
    if header & 0x40 != 0 {
        units.end_nal();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::nal::length_prefixed_nals;
    use proptest::prelude::*;

    // 640x360, as x265 writes them.
    const VPS: &[u8] = b"\x40\x01\x0c\x01\xff\xff\x01\x60\x00\x00\x03\x00\x90\x00\x00\x03\x00\x00\x03\x00\x3f\x95\x90\x09";
    const SPS: &[u8] = b"\x42\x01\x01\x01\x60\x00\x00\x03\x00\x90\x00\x00\x03\x00\x00\x03\x00\x3f\xa0\x05\x02\x01\x69\x65\x95\x92\x49\x32\xbc\x05\xa0\x20\x00\x00\x03\x00\x20\x00\x00\x03\x03\x21";
    const PPS: &[u8] = b"\x44\x01\xc1\x72\xb4\x62\x40";
    const IDR: &[u8] = b"\x28\x01\xaf\x1d\x30\xc6";
    const TRAIL: &[u8] = b"\x02\x01\xd0\x11\x57";
    /// `first_slice_segment_in_pic_flag` is 0.
    const REST: &[u8] = b"\x02\x01\x50\x11\x57";
    const SUFFIX_SEI: &[u8] = b"\x50\x01\x84\x01\xaa\x80";
    const RECOVERY: &[u8] = b"\x4e\x01\x06\x01\xc4\x80";

    fn run(packets: &[(u32, bool, &[u8])]) -> Vec<AccessUnit> {
        let mut units = Assembler::new(H265::default());
        let mut out = Vec::new();
        for &(timestamp, has_marker, payload) in packets {
            let packet = RtpPacket {
                payload_type: 96,
                has_marker,
                sequence: 0,
                timestamp,
                ssrc: 0,
                extension: None,
                payload,
            };
            push(&mut units, &packet, false, Instant::now(), &mut |unit| out.push(unit));
        }
        out
    }

    fn nals(unit: &AccessUnit) -> Vec<&[u8]> {
        length_prefixed_nals(&unit.data).collect()
    }

    #[test]
    fn all_payload_structures_give_nal_units() {
        let sized = [VPS, SPS, PPS].iter().flat_map(|n| [&[0, n.len() as u8][..], n].concat());
        let aggregate: Vec<u8> = [0x60, 1].into_iter().chain(sized).collect();
        let begin = [&[0x62, 1, 0x80 | 20][..], &IDR[2..4]].concat();
        let end = [&[0x62, 1, 0x40 | 20][..], &IDR[4..]].concat();
        // OpenIPC: start and end in one fragment.
        let whole = [&[0x62, 1, 0xc0 | 1][..], &TRAIL[2..]].concat();
        let got = run(&[
            (1, false, &aggregate),
            (1, false, &begin),
            (1, true, &end),
            (2, false, &whole),
            (2, true, REST),
            (2, true, SUFFIX_SEI),
            (3, false, RECOVERY),
            (3, true, TRAIL),
            (4, true, TRAIL),
        ]);
        assert_eq!(nals(&got[0]), [VPS, SPS, PPS, IDR]);
        assert_eq!(nals(&got[1]), [TRAIL, REST, SUFFIX_SEI]);
        assert_eq!(nals(&got[2]), [RECOVERY, TRAIL]);
        let keys: Vec<bool> = got.iter().map(|unit| unit.is_key).collect();
        assert_eq!(keys, [true, false, true]);
        let format = got[0].format.as_ref().unwrap();
        assert_eq!((format.width, format.height), (640, 360));
        assert!(Arc::ptr_eq(format, got[2].format.as_ref().unwrap()));
    }

    #[test]
    fn partial_sets_of_the_sdp_wait_for_the_rest() {
        let text =
            "m=video 0 RTP/AVP 96\na=rtpmap:96 H265/90000\na=fmtp:96 sprop-pps=RAHBcrRiQA==\n";
        let media = crate::ingest::sdp::parse(text.as_bytes()).media;
        let mut units = from_sdp(&media[0].formats[0]);
        assert_eq!(units.codec.sets.get(2), PPS);
        assert!(units.codec.format().is_none());
        [VPS, SPS].iter().for_each(|set| units.codec.remember(set));
        assert_eq!(units.codec.format().map(|f| f.width), Some(640));
    }

    proptest! {
        #[test]
        fn any_packets_are_survived(
            packets in proptest::collection::vec(
                (0u32..3, any::<bool>(), proptest::collection::vec(any::<u8>(), 0..30)), 0..60),
        ) {
            let rows: Vec<_> = packets.iter().map(|(ts, m, p)| (*ts, *m, p.as_slice())).collect();
            run(&rows);
        }
    }
}
