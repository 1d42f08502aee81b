//! H.264 from RTP (RFC 6184): single NAL units, STAP-A, FU-A.
//!
//! Not in here: where a picture ends (`access_unit.rs`), what parameter sets say (`media/h264.rs`).
//! The interleaved mode (STAP-B, MTAP, FU-B) is left out: no camera sends it.

use std::sync::Arc;
use std::time::Instant;

use crate::media::bits::BitReader;
use crate::media::format::VideoFormat;
use crate::media::{h264, nal};

use super::access_unit::{AccessUnit, Assembler, NalClass, NalCodec, ParameterSets};
use super::rtp::RtpPacket;
use super::sdp::Format;

/// `nal_unit_type` values (ITU-T H.264 table 7-1) and payload structures (RFC 6184 table 1).
const NAL_SEI: u8 = 6;
const NAL_SPS: u8 = 7;
const NAL_PPS: u8 = 8;
const STAP_A: u8 = 24;
const FU_A: u8 = 28;

const SPS: usize = 0;
const PPS: usize = 1;

/// The H.264 side of an `Assembler`.
#[derive(Default)]
pub struct H264 {
    pub sets: ParameterSets<2>,
    /// The SPS changed and no PPS came since.
    is_pps_due: bool,
}

impl NalCodec for H264 {
    fn classify(&self, head: &[u8]) -> NalClass {
        match h264::nal_type(head) {
            1..=5 => NalClass::Slice {
                begins_picture: h264::first_mb_in_slice(head) == Some(0),
                is_key: h264::is_idr(head),
            },
            NAL_SEI => NalClass::Before { is_key: h264::is_recovery_point_sei(head) },
            // Delimiter, parameter sets, and what section 7.4.1.2.3 puts in front of a picture.
            NAL_SPS | NAL_PPS | 9 | 14..=18 => NalClass::Before { is_key: false },
            _ => NalClass::Other,
        }
    }

    fn remember(&mut self, nal: &[u8]) {
        match h264::nal_type(nal) {
            NAL_SPS => self.is_pps_due |= self.sets.set(SPS, nal),
            NAL_PPS => {
                // Of several PPS the one with the lowest number counts, so that the format stays the
                // same from one GOP to the next. All of them are in the data.
                let id = |nal: &[u8]| BitReader::new(nal.get(1..)?).ue();
                if self.is_pps_due || id(nal) <= id(self.sets.get(PPS)) {
                    self.sets.set(PPS, nal);
                    self.is_pps_due = false;
                }
            }
            _ => {}
        }
    }

    fn format(&mut self) -> Option<Arc<VideoFormat>> {
        self.sets.format(|[sps, pps]| h264::video_format(sps, pps))
    }
}

/// A depacketizer that knows the parameter sets of the SDP, as far as they are of use (quirk 19).
pub fn from_sdp(format: &Format) -> Assembler<H264> {
    let mut codec = H264 { is_pps_due: true, ..H264::default() };
    for set in format.param("sprop-parameter-sets").unwrap_or("").split(',') {
        let bytes = super::sdp::decode_base64(set);
        nal::split_annex_b(&bytes).for_each(|nal| codec.remember(nal));
    }
    Assembler::new(codec)
}

/// Takes one packet in.
pub fn push(
    units: &mut Assembler<H264>,
    packet: &RtpPacket<'_>,
    is_gap: bool,
    now: Instant,
    out: &mut impl FnMut(AccessUnit),
) {
    units.begin_packet(packet, is_gap, now, out);
    let payload = packet.payload;
    match h264::nal_type(payload) {
        FU_A => fragment(units, payload, out),
        STAP_A => {
            if !aggregate(units, &payload[1..], out) {
                units.mark_damaged();
            }
        }
        25..=27 | 29..=31 => units.mark_damaged(),
        _ if payload.is_empty() => {}
        // Type 0 is no NAL unit, unless it is the first zero of a start code.
        0 if !payload.starts_with(&[0, 0]) => units.mark_damaged(),
        _ => units.whole_nal(payload, out),
    }
    units.end_packet(packet, out);
}

/// RFC 6184 section 5.7.1. False: a size reaches past the end.
fn aggregate(
    units: &mut Assembler<H264>,
    mut rest: &[u8],
    out: &mut impl FnMut(AccessUnit),
) -> bool {
    while let Some((size, after)) = rest.split_first_chunk::<2>() {
        let Some((nal, after)) = after.split_at_checked(u16::from_be_bytes(*size).into()) else {
            return false;
        };
        if !nal.is_empty() {
            units.whole_nal(nal, out);
        }
        rest = after;
    }
    true
}

/// RFC 6184 section 5.8. Start and end together are forbidden, and yet sent: one whole unit.
fn fragment(units: &mut Assembler<H264>, payload: &[u8], out: &mut impl FnMut(AccessUnit)) {
    let [indicator, header, body @ ..] = payload else { return units.mark_damaged() };
    if header & 0x80 != 0 {
        units.begin_nal(&[indicator & 0xe0 | header & 0x1f], body, out);
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
    use crate::ingest::sdp;
    use crate::media::nal::length_prefixed_nals;
    use proptest::prelude::*;

    // 640x360 and 1280x720, as x264 writes them.
    const SPS_A: &[u8] = b"\x67\x64\x00\x1e\xac\xb2\x01\x40\x5f\xf2\xe0\x22\x00\x00\x03\x00\x02\x00\x00\x03\x00\x64\x1e\x2c\x5c\x90";
    const PPS_A: &[u8] = b"\x68\xeb\xc3\xcb\x22\xc0";
    const SPS_B: &[u8] =
        b"\x67\x42\xc0\x1f\xd9\x00\x50\x05\xbb\x01\x10\x00\x00\x03\x00\x10\x00\x00\x03\x03\x20\xf1\x83\x24\x80";
    const PPS_B: &[u8] = b"\x68\xcb\x83\xcb\x20";
    /// The first slice of a picture has `first_mb_in_slice` 0: a 1 bit.
    const IDR: &[u8] = b"\x65\x88\x84\x27\xd9";
    const SLICE: &[u8] = b"\x41\x9a\x02\x03\x04";
    /// `first_mb_in_slice` is 1.
    const REST: &[u8] = b"\x41\x4a\x05\x06";
    const SEI: &[u8] = b"\x06\x05\x01\xaa\x80";
    const RECOVERY: &[u8] = b"\x06\x06\x01\xc4\x80";
    const AUD: &[u8] = b"\x09\x10";

    /// One packet: timestamp, marker, payload.
    type Packet = (u32, bool, Vec<u8>);

    struct Feed {
        units: Assembler<H264>,
        out: Vec<AccessUnit>,
    }

    impl Feed {
        fn new() -> Self {
            Self { units: Assembler::new(H264::default()), out: Vec::new() }
        }

        fn with_sets() -> Self {
            let mut feed = Self::new();
            [SPS_A, PPS_A].iter().for_each(|set| feed.units.codec.remember(set));
            feed
        }

        fn push(&mut self, (timestamp, has_marker, payload): &Packet, is_gap: bool) {
            let packet = RtpPacket {
                payload_type: 96,
                has_marker: *has_marker,
                sequence: 0,
                timestamp: *timestamp,
                ssrc: 0,
                extension: None,
                payload,
            };
            push(&mut self.units, &packet, is_gap, Instant::now(), &mut |unit| self.out.push(unit));
        }

        fn push_all(&mut self, packets: &[(u32, bool, &[u8])]) {
            for &(timestamp, marker, payload) in packets {
                self.push(&(timestamp, marker, payload.to_vec()), false);
            }
        }

        /// Timestamp and NAL units of what came out so far.
        fn nals(&self) -> Vec<(u32, Vec<&[u8]>)> {
            let units = self.out.iter();
            units.map(|u| (u.timestamp, length_prefixed_nals(&u.data).collect())).collect()
        }
    }

    /// FU-A fragments of `nal`, each with `size` bytes at most.
    fn fragments(nal: &[u8], size: usize) -> Vec<Vec<u8>> {
        let bodies: Vec<&[u8]> = nal[1..].chunks(size).collect();
        let last = bodies.len() - 1;
        let fragment = |(n, body): (usize, &&[u8])| {
            let flags = u8::from(n == 0) << 7 | u8::from(n == last) << 6;
            [&[nal[0] & 0xe0 | FU_A, flags | nal[0] & 0x1f][..], body].concat()
        };
        bodies.iter().enumerate().map(fragment).collect()
    }

    fn stap(nals: &[&[u8]]) -> Vec<u8> {
        let sized =
            nals.iter().flat_map(|nal| [&(nal.len() as u16).to_be_bytes()[..], nal].concat());
        std::iter::once(STAP_A).chain(sized).collect()
    }

    /// Checks the pictures that a row of packets makes; a last packet pushes the last one out.
    #[track_caller]
    fn check(packets: &[(u32, bool, &[u8])], want: &[(u32, &[&[u8]])]) {
        let mut feed = Feed::with_sets();
        feed.push_all(packets);
        feed.push_all(&[(u32::MAX, false, AUD)]);
        let want: Vec<_> = want.iter().map(|(ts, nals)| (*ts, nals.to_vec())).collect();
        assert_eq!(feed.nals(), want);
        assert!(feed.out.iter().all(|unit| !unit.is_damaged));
    }

    #[test]
    fn pictures_end_where_they_should() {
        let stap = stap(&[SPS_A, PPS_A, SEI, IDR]);
        check(
            &[(1, true, &stap), (2, true, SLICE)],
            &[(1, &[SPS_A, PPS_A, SEI, IDR]), (2, &[SLICE])],
        );
        // A marker on every slice, or never (FLIR M400).
        check(
            &[(1, true, IDR), (1, true, REST), (2, true, SLICE)],
            &[(1, &[IDR, REST]), (2, &[SLICE])],
        );
        check(
            &[(1, false, IDR), (1, false, REST), (2, false, SLICE)],
            &[(1, &[IDR, REST]), (2, &[SLICE])],
        );
        // A marker on the parameter sets, with the time of the picture before (Reolink, Tapo TC70).
        check(
            &[(1, true, SLICE), (1, true, SPS_A), (1, true, PPS_A), (2, true, SEI), (2, true, IDR)],
            &[(1, &[SLICE]), (2, &[SPS_A, PPS_A, SEI, IDR])],
        );
        // Parameter sets in front of every slice (GStreamer's payloader with several slices a picture).
        check(
            &[
                (1, false, SPS_A),
                (1, false, IDR),
                (1, false, SPS_A),
                (1, true, REST),
                (2, true, SLICE),
            ],
            &[(1, &[SPS_A, IDR, SPS_A, REST]), (2, &[SLICE])],
        );
        // Two pictures with one time.
        check(&[(1, true, SLICE), (1, true, SLICE)], &[(1, &[SLICE]), (1, &[SLICE])]);
        check(
            &[(1, false, AUD), (1, false, SLICE), (1, false, AUD), (1, false, SLICE)],
            &[(1, &[AUD, SLICE]), (1, &[AUD, SLICE])],
        );
    }

    #[test]
    fn true_markers_are_trusted_and_one_lie_ends_that() {
        let mut feed = Feed::with_sets();
        for ts in 1..=5 {
            feed.push_all(&[(ts, true, SLICE)]);
        }
        // The first four wait for the next timestamp, the fifth does not any more.
        assert_eq!(feed.out.len(), 5);
        feed.push_all(&[(6, true, SLICE), (6, true, REST), (7, true, SLICE), (8, true, SLICE)]);
        let got = feed.nals();
        assert_eq!(&got[5..], [(6, vec![SLICE]), (6, vec![REST]), (7, vec![SLICE])]);
        assert_eq!(feed.out.iter().filter(|unit| unit.is_damaged).count(), 1);
    }

    #[test]
    fn fragments_are_joined_whatever_their_size() {
        let nal: Vec<u8> = [IDR, &[7; 90]].concat();
        for size in [1, 10, 94] {
            let packets = fragments(&nal, size);
            let rows: Vec<_> = packets.iter().map(|p| (1, false, p.as_slice())).collect();
            check(&rows, &[(1, &[&nal])]);
        }
        // The end is missing: the marker, the next NAL unit or the next time ends it.
        let first = &fragments(&nal, 1000)[0];
        let open = [&[first[0], first[1] & !0x40][..], &first[2..]].concat();
        check(&[(1, true, &open), (2, true, SLICE)], &[(1, &[&nal]), (2, &[SLICE])]);
        check(&[(1, false, &open), (1, true, REST)], &[(1, &[&nal, REST])]);
    }

    #[test]
    fn start_codes_inside_a_payload_split_it() {
        let joined = [SPS_A, b"\0\0\0\x01", PPS_A, b"\0\0\x01", IDR].concat();
        let want: &[(u32, &[&[u8]])] = &[(1, &[SPS_A, PPS_A, IDR])];
        check(&[(1, true, &joined)], want);
        check(&[(1, true, &[b"\0\0\0\x01", &joined[..]].concat())], want);
        for size in 1..joined.len() {
            let packets = fragments(&joined, size);
            let rows: Vec<_> = packets.iter().map(|p| (1, false, p.as_slice())).collect();
            check(&rows, want);
        }
        let mut feed = Feed::with_sets();
        feed.push_all(&[(1, true, &joined), (2, true, SLICE)]);
        assert!(feed.out[0].is_key);
    }

    #[test]
    fn keys_are_idr_pictures_and_recovery_points() {
        let mut feed = Feed::with_sets();
        feed.push_all(&[(1, true, IDR), (2, true, SLICE), (3, false, RECOVERY), (3, true, SLICE)]);
        feed.push_all(&[(4, false, SEI), (4, true, SLICE), (5, true, AUD)]);
        let keys: Vec<bool> = feed.out.iter().map(|unit| unit.is_key).collect();
        assert_eq!(keys, [true, false, true, false]);
    }

    #[test]
    fn a_lost_packet_damages_what_it_touches_and_nothing_else() {
        let nal: Vec<u8> = [IDR, &[7; 90]].concat();
        let parts = fragments(&nal, 40);
        let mut feed = Feed::with_sets();
        feed.push(&(1, false, parts[0].clone()), false);
        feed.push(&(1, true, parts[2].clone()), true); // the middle is missing
        feed.push(&(2, true, SLICE.to_vec()), false);
        feed.push(&(3, true, SLICE.to_vec()), true); // between two pictures
        feed.push(&(4, true, SLICE.to_vec()), false);
        feed.push(&(5, true, SLICE.to_vec()), false);
        let got: Vec<_> = feed.out.iter().map(|u| (u.timestamp, u.is_damaged)).collect();
        // What is left of the first picture is nothing: the next one carries the mark.
        assert_eq!(got, [(2, true), (3, true), (4, false)]);
    }

    #[test]
    fn parameter_sets_make_formats_and_the_same_bytes_the_same_one() {
        let mut feed = Feed::new();
        let a = stap(&[SPS_A, PPS_A, IDR]);
        let b = stap(&[SPS_B, PPS_B, IDR]);
        feed.push_all(&[
            (1, true, IDR),
            (2, true, &a),
            (3, true, &b),
            (4, true, &a),
            (5, true, IDR),
        ]);
        feed.push_all(&[(6, true, IDR)]);
        let widths: Vec<_> = feed.out.iter().map(|u| u.format.as_ref().map(|f| f.width)).collect();
        assert_eq!(widths[..5], [None, Some(640), Some(1280), Some(640), Some(640)]);
        let same = |a: usize, b: usize| {
            Arc::ptr_eq(feed.out[a].format.as_ref().unwrap(), feed.out[b].format.as_ref().unwrap())
        };
        assert!(same(1, 3) && same(3, 4));
    }

    #[test]
    fn sets_of_the_sdp_are_used_as_far_as_they_are_any() {
        let sets_of = |fmtp: &str| {
            let text = format!("m=video 0 RTP/AVP 96\na=rtpmap:96 H264/90000\na=fmtp:96 {fmtp}\n");
            let media = sdp::parse(text.as_bytes()).media;
            from_sdp(&media[0].formats[0]).codec.format().map(|f| (f.width, f.height))
        };
        let (sps, pps) = ("Z2QAHqyyAUBf8uAiAAADAAIAAAMAZB4sXJA=", "aOvDyyLA");
        assert_eq!(sets_of(&format!("sprop-parameter-sets={sps},{pps}")), Some((640, 360)));
        let annex_b = "AAAAAWdkAB6ssgFAX/LgIgAAAwACAAADAGQeLFyQAAAAAWjrw8siwA==";
        assert_eq!(sets_of(&format!("sprop-parameter-sets={annex_b}")), Some((640, 360)));
        // Only an SPS with a comma behind it (Hikvision), empty, none, nonsense.
        for broken in
            [&format!("sprop-parameter-sets={sps},"), "sprop-parameter-sets=", "", "x;=;==!"]
        {
            assert_eq!(sets_of(broken), None, "{broken}");
        }
    }

    #[test]
    fn a_picture_without_end_is_given_up() {
        let mut feed = Feed::with_sets();
        let big = vec![0x41; 60_000];
        for _ in 0..(9 << 20) / big.len() {
            feed.push(&(1, false, big.clone()), false);
        }
        feed.push_all(&[(2, true, SLICE), (3, true, SLICE)]);
        assert_eq!((feed.out.len(), feed.out[0].is_damaged, feed.units.overflows), (1, true, 1));
        let sei = vec![6; 60_000];
        (0..9).for_each(|n| feed.push(&(4 + n, true, sei.clone()), false));
        assert_eq!(feed.units.overflows, 2);
    }

    /// A stream of pictures of one to three slices, and how a camera might put them into packets.
    fn stream() -> impl Strategy<Value = (Vec<Vec<u8>>, Vec<Packet>)> {
        let picture = (1usize..4, any::<bool>(), 0usize..4, 1usize..60, any::<bool>());
        proptest::collection::vec(picture, 1..20).prop_map(|pictures| {
            let (mut nals, mut packets) = (Vec::new(), Vec::new());
            for (n, (slices, has_aud, extra, size, is_marked)) in pictures.into_iter().enumerate() {
                let mut own: Vec<Vec<u8>> = vec![AUD.to_vec(); usize::from(has_aud)];
                own.extend([SPS_A, PPS_A, SEI].iter().take(extra).map(|nal| nal.to_vec()));
                own.push([IDR, &[9; 50][..]].concat());
                own.extend((1..slices).map(|_| REST.to_vec()));
                for nal in &own {
                    if nal.len() > size {
                        packets
                            .extend(fragments(nal, size).into_iter().map(|p| (n as u32, false, p)));
                    } else {
                        packets.push((n as u32, false, nal.clone()));
                    }
                }
                packets.last_mut().expect("at least a slice").1 = is_marked;
                nals.extend(own);
            }
            packets.push((u32::MAX, true, AUD.to_vec()));
            (nals, packets)
        })
    }

    proptest! {
        #[test]
        fn every_nal_unit_comes_out_once_and_in_order((nals, packets) in stream()) {
            let mut feed = Feed::new();
            packets.iter().for_each(|packet| feed.push(packet, false));
            let got: Vec<&[u8]> = feed.nals().into_iter().flat_map(|(_, nals)| nals).collect();
            prop_assert_eq!(got, nals);
            prop_assert!(feed.out.iter().all(|unit| !unit.is_damaged));
        }

        #[test]
        fn any_packets_are_survived(
            packets in proptest::collection::vec(
                (0u32..3, any::<bool>(), proptest::collection::vec(any::<u8>(), 0..30), any::<bool>()), 0..60),
        ) {
            let mut feed = Feed::new();
            for (ts, marker, payload, is_gap) in packets {
                feed.push(&(ts, marker, payload), is_gap);
            }
            feed.units.finish(&mut |unit| feed.out.push(unit));
            for unit in &feed.out {
                // The length prefixes lead exactly to the end.
                let sum: usize = length_prefixed_nals(&unit.data).map(|nal| 4 + nal.len()).sum();
                prop_assert!(sum <= unit.data.len());
            }
        }
    }
}
