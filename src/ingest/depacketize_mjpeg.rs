//! Motion JPEG from RTP (RFC 2435), each frame a whole JFIF image again.
//!
//! In here: fragments, tables cached by quality, pictures over 2040 pixels (quirk 43). Not in here: the
//! headers themselves (`jpeg_header.rs`).

use std::sync::Arc;
use std::time::Instant;

use crate::media::format::{VideoCodec, VideoFormat};
use crate::media::packet::PACKET_BYTES_MAX;

use super::access_unit::AccessUnit;
use super::jpeg_header::{self, Picture};
use super::rtp::RtpPacket;

/// Qualities of 128 to 254 stand for tables that the camera sent once; so many are kept.
const TABLES_MAX: usize = 16;
/// Two tables of 16 bits.
const TABLE_BYTES_MAX: usize = 256;
/// Profile of the header extension with JPEG segments (ONVIF Streaming Specification section 5.1.3).
const ONVIF_JPEG: u16 = 0xffd8;

/// Depacketizer of one MJPEG track.
pub struct Mjpeg {
    /// Size by the SDP: the payload header ends at 2040 pixels.
    sdp_size: Option<(u16, u16)>,
    format: Option<Arc<VideoFormat>>,
    tables: Vec<(u8, u8, Vec<u8>)>,
    data: Vec<u8>,
    /// Where the entropy-coded data begins, in a frame that is under way.
    scan_at: Option<usize>,
    timestamp: u32,
    arrived: Option<Instant>,
    is_damaged: bool,
    /// Frames that could not be used.
    pub dropped: u64,
}

/// The head of a payload (RFC 2435 section 3.1) and what follows it.
struct Head<'a> {
    offset: usize,
    kind: u8,
    quality: u8,
    size: (u16, u16),
    restart_interval: u16,
    rest: &'a [u8],
}

impl Mjpeg {
    pub fn new(sdp_size: Option<(u16, u16)>) -> Self {
        Self {
            sdp_size,
            format: None,
            tables: Vec::new(),
            data: Vec::new(),
            scan_at: None,
            timestamp: 0,
            arrived: None,
            is_damaged: false,
            dropped: 0,
        }
    }

    pub fn format(&self) -> Option<Arc<VideoFormat>> {
        self.format.clone()
    }

    /// Takes one packet in.
    pub fn push(
        &mut self,
        packet: &RtpPacket<'_>,
        is_gap: bool,
        now: Instant,
        out: &mut impl FnMut(AccessUnit),
    ) {
        let is_next = self.scan_at.is_some() && self.timestamp != packet.timestamp;
        if is_gap {
            self.drop_frame();
        } else if is_next {
            self.end_frame(out);
        }
        let Some(head) = parse_head(packet.payload) else { return self.drop_frame() };
        if head.offset == 0 {
            if self.scan_at.is_some() {
                self.end_frame(out);
            }
            (self.timestamp, self.arrived) = (packet.timestamp, Some(now));
            if self.begin_frame(&head, packet.extension).is_none() {
                return self.drop_frame();
            }
        } else {
            let Some(scan_at) = self.scan_at else { return };
            let is_wrong = self.data.len() - scan_at != head.offset;
            if is_wrong || self.data.len() + head.rest.len() > PACKET_BYTES_MAX {
                return self.drop_frame();
            }
            self.data.extend_from_slice(head.rest);
        }
        if packet.has_marker {
            self.end_frame(out);
        }
    }

    /// `None`: tables, size or type are missing or not supported.
    fn begin_frame(&mut self, head: &Head<'_>, extension: Option<(u16, &[u8])>) -> Option<()> {
        let mut scan = head.rest;
        let computed = jpeg_header::quantizers(head.quality);
        if head.quality >= 128 {
            let ([_, precision, l0, l1], after) = head.rest.split_first_chunk()?;
            let (tables, after) =
                after.split_at_checked(usize::from(u16::from_be_bytes([*l0, *l1])))?;
            scan = after;
            self.keep_tables(head.quality, *precision, tables);
        } else if head.quality == 0 || head.quality > 99 {
            return None;
        }
        let is_420 = match head.kind & 0x3f {
            0 => false,
            1 => true,
            _ => return None,
        };
        let by_extension = extension
            .filter(|(profile, _)| *profile == ONVIF_JPEG)
            .and_then(|(_, segments)| jpeg_header::frame_size(segments));
        let by_head = Some(head.size).filter(|&(width, height)| width != 0 && height != 0);
        let (width, height) = by_extension.or(by_head).or(self.sdp_size)?;
        let kept = self.tables.iter().find(|(quality, ..)| *quality == head.quality);
        let (precision, quantizers) = match kept {
            Some((_, precision, tables)) => (*precision, tables.as_slice()),
            None if head.quality >= 128 => return None,
            None => (0, &computed[..]),
        };
        let restart_interval = head.restart_interval;
        let picture = Picture { width, height, is_420, restart_interval, quantizers, precision };
        self.data.clear();
        jpeg_header::push_headers(&mut self.data, &picture);
        self.scan_at = Some(self.data.len());
        self.data.extend_from_slice(scan);
        if self.format.as_ref().is_none_or(|f| (f.width, f.height) != (width, height)) {
            self.format = Some(Arc::new(video_format(width, height)));
        }
        Some(())
    }

    /// RFC 2435 section 3.1.8: an empty table means the one sent before; 255 is never kept, which
    /// makes no difference here, because it always brings its own.
    fn keep_tables(&mut self, quality: u8, precision: u8, tables: &[u8]) {
        if tables.is_empty() || tables.len() > TABLE_BYTES_MAX {
            return;
        }
        self.tables.retain(|(q, ..)| *q != quality);
        if self.tables.len() >= TABLES_MAX {
            self.tables.remove(0);
        }
        self.tables.push((quality, precision, tables.to_vec()));
    }

    fn drop_frame(&mut self) {
        self.data.clear();
        self.scan_at = None;
        self.is_damaged = true;
        self.dropped += 1;
    }

    fn end_frame(&mut self, out: &mut impl FnMut(AccessUnit)) {
        if self.scan_at.take().is_none() {
            return;
        }
        // RFC 2435 section 3.1.9 lets the end marker out; some decoders insist.
        if !self.data.ends_with(&[0xff, 0xd9]) {
            self.data.extend_from_slice(&[0xff, 0xd9]);
        }
        let capacity = self.data.len();
        let mut data = std::mem::replace(&mut self.data, Vec::with_capacity(capacity));
        data.shrink_to_fit();
        out(AccessUnit {
            format: self.format.clone(),
            timestamp: self.timestamp,
            arrived: self.arrived.expect("set with the first packet"),
            is_key: true,
            is_damaged: std::mem::take(&mut self.is_damaged),
            data,
        });
    }
}

fn parse_head(payload: &[u8]) -> Option<Head<'_>> {
    let ([_, o0, o1, o2, kind, quality, width, height], mut rest) =
        payload.split_first_chunk::<8>()?;
    let mut restart_interval = 0;
    if kind & 0x40 != 0 {
        let ([i0, i1, _, _], after) = rest.split_first_chunk::<4>()?;
        restart_interval = u16::from_be_bytes([*i0, *i1]);
        rest = after;
    }
    Some(Head {
        offset: u32::from_be_bytes([0, *o0, *o1, *o2]) as usize,
        kind: *kind,
        quality: *quality,
        size: (u16::from(*width) * 8, u16::from(*height) * 8),
        restart_interval,
        rest,
    })
}

/// The format of pictures of this size.
pub(super) fn video_format(width: u16, height: u16) -> VideoFormat {
    VideoFormat {
        codec: VideoCodec::Mjpeg,
        width,
        height,
        fps_milli: 0,
        decoder_config: Vec::new(),
        // Object type 0x6C: ISO/IEC 10918-1, as registered at mp4ra.org.
        rfc6381: "mp4v.6C".to_owned(),
        reorder_frames: Some(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn push(mjpeg: &mut Mjpeg, ts: u32, marker: bool, payload: &[u8]) -> Vec<AccessUnit> {
        let packet = RtpPacket {
            payload_type: 26,
            has_marker: marker,
            sequence: 0,
            timestamp: ts,
            ssrc: 0,
            extension: None,
            payload,
        };
        let mut out = Vec::new();
        mjpeg.push(&packet, false, Instant::now(), &mut |unit| out.push(unit));
        out
    }

    #[test]
    fn a_frame_in_two_fragments_is_one_image() {
        let mut mjpeg = Mjpeg::new(None);
        assert_eq!(push(&mut mjpeg, 1, false, &[0, 0, 0, 0, 1, 75, 8, 6, 1, 2, 3]), []);
        let got = push(&mut mjpeg, 1, true, &[0, 0, 0, 3, 1, 75, 8, 6, 4]);
        let [unit] = got.as_slice() else { panic!("{got:?}") };
        let format = unit.format.as_ref().unwrap();
        assert_eq!((format.width, format.height), (64, 48));
        assert!(
            unit.data.starts_with(&[0xff, 0xd8]) && unit.data.ends_with(&[1, 2, 3, 4, 0xff, 0xd9])
        );
        assert_eq!(jpeg_header::frame_size(&unit.data), Some((64, 48)));
        // Table of quality 75 as libjpeg writes it.
        assert!(unit.data.windows(6).any(|w| w == [0xdb, 0, 67, 0, 8, 6]));
    }

    #[test]
    fn tables_are_kept_by_quality_and_a_timestamp_ends_a_frame() {
        let mut mjpeg = Mjpeg::new(Some((4000, 3000)));
        let missing = push(&mut mjpeg, 0, true, &[0, 0, 0, 0, 0, 200, 0, 0, 0, 0, 0, 0, 9]);
        assert_eq!(missing, []);
        let tables = [7; 64];
        let first =
            [&[0, 0, 0, 0, 0x40, 200, 0, 0, 0, 4, 0xff, 0xff, 0, 0, 0, 64][..], &tables, &[9]];
        assert_eq!(push(&mut mjpeg, 1, false, &first.concat()), []);
        let second = [0, 0, 0, 0, 0, 200, 0, 0, 0, 0, 0, 0, 9];
        let got = push(&mut mjpeg, 2, true, &second);
        assert_eq!(got.len(), 2);
        assert!(got[0].data.windows(6).any(|w| w == [0xff, 0xdd, 0, 4, 0, 4]), "restart interval");
        assert_eq!(got[0].format.as_ref().unwrap().width, 4000);
        assert!(got[0].is_damaged && !got[1].is_damaged);
        assert!(got[1].data.windows(64).any(|w| w == tables));
    }

    #[test]
    fn a_missing_fragment_drops_the_frame() {
        let mut mjpeg = Mjpeg::new(None);
        push(&mut mjpeg, 1, false, &[0, 0, 0, 0, 1, 75, 8, 6, 1, 2, 3]);
        assert_eq!(push(&mut mjpeg, 1, true, &[0, 0, 0, 9, 1, 75, 8, 6, 4]), []);
        let got = push(&mut mjpeg, 2, true, &[0, 0, 0, 0, 1, 75, 8, 6, 1]);
        assert!(got[0].is_damaged);
    }

    proptest! {
        #[test]
        fn any_payload_is_survived(
            payloads in proptest::collection::vec((0u32..3, any::<bool>(), proptest::collection::vec(0u8..200, 0..160)), 0..20),
        ) {
            let mut mjpeg = Mjpeg::new(None);
            for (ts, marker, payload) in payloads {
                push(&mut mjpeg, ts, marker, &payload);
                jpeg_header::frame_size(&payload);
            }
        }
    }
}
