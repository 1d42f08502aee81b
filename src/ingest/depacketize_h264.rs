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
