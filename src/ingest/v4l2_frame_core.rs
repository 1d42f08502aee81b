//! What a local camera encodes itself, buffer by buffer, as access units.
//!
//! In here: H.264 in Annex B, one access unit a buffer, and JPEG. Not in here: pictures that are encoded by this
//! program (`v4l2.rs`). Keeps PURE-CORE. The bytes are a camera's: what is no picture is left out.

use std::sync::Arc;

use super::Unit;
use super::depacketize_mjpeg::video_format;
use super::jpeg_header;
use super::v4l2_core::Kind;
use crate::media::format::VideoFormat;
use crate::media::packet::{PACKET_BYTES_MAX, Track};
use crate::media::{h264, nal};

/// Turns buffers into access units.
#[derive(Debug)]
pub struct Framer {
    kind: Kind,
    /// Known from the first parameter sets or the first JPEG on.
    format: Option<Arc<VideoFormat>>,
    /// Something was lost since the last unit.
    is_gap: bool,
    /// Buffers that held no picture.
    pub dropped: u64,
}

impl Framer {
    /// For what comes as `kind`, which is H.264 or JPEG.
    pub fn new(kind: Kind) -> Self {
        Self { kind, format: None, is_gap: false, dropped: 0 }
    }

    /// Pictures before the next one are missing.
    pub fn note_gap(&mut self) {
        self.is_gap = true;
    }

    /// The access unit in `data`, taken at this time in 90 kHz ticks. `None`: there is none, or nothing is known yet
    /// to decode it with.
    pub fn unit(&mut self, data: Vec<u8>, ticks: i64, is_broken: bool) -> Option<Unit> {
        let (data, is_key, is_cut) = match self.kind {
            _ if data.len() > PACKET_BYTES_MAX => None,
            Kind::Mjpeg => self.jpeg(data).map(|(data, is_cut)| (data, true, is_cut)),
            _ => self.h264(&data).map(|(data, is_key)| (data, is_key, false)),
        }
        .or_else(|| {
            self.dropped += 1;
            self.is_gap = true;
            None
        })?;
        let track = Track::Video(Arc::clone(self.format.as_ref()?));
        // A JPEG stands alone.
        let is_gap = std::mem::take(&mut self.is_gap) && self.kind != Kind::Mjpeg;
        let is_damaged = is_broken || is_cut || is_gap;
        Some(Unit { track, pts: ticks, dts: ticks, is_key, is_damaged, data })
    }

    fn jpeg(&mut self, data: Vec<u8>) -> Option<(Vec<u8>, bool)> {
        let whole = jpeg_header::whole(data)?;
        let (width, height) = (whole.width, whole.height);
        if self.format.as_ref().is_none_or(|f| (f.width, f.height) != (width, height)) {
            self.format = Some(Arc::new(video_format(width, height)));
        }
        Some((whole.data, whole.is_cut))
    }

    fn h264(&mut self, annex_b: &[u8]) -> Option<(Vec<u8>, bool)> {
        let mut data = Vec::with_capacity(annex_b.len() + 16);
        let (mut sps, mut pps) = (None, None);
        let (mut is_key, mut has_slice) = (false, false);
        for unit in nal::split_annex_b(annex_b) {
            match h264::nal_type(unit) {
                h264::NAL_SPS => sps = Some(unit),
                h264::NAL_PPS => pps = Some(unit),
                _ => {}
            }
            is_key |= h264::is_idr(unit) || h264::is_recovery_point_sei(unit);
            has_slice |= h264::is_vcl(unit);
            nal::push_length_prefixed(&mut data, unit);
        }
        if let (Some(sps), Some(pps)) = (sps, pps)
            && let Ok(format) = h264::video_format(sps, pps)
            && self.format.as_deref() != Some(&format)
        {
            self.format = Some(Arc::new(format));
        }
        has_slice.then_some((data, is_key))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ingest::encoder::H264Encoder;
    use crate::ingest::picture_core::Picture;
    use crate::media::format::VideoCodec;

    /// What a camera's encoder sends: a keyframe with its parameter sets, and what follows.
    fn annex_b(frames: usize) -> Vec<Vec<u8>> {
        let mut encoder = H264Encoder::open(10).expect("encoder");
        let frame = |n: usize| {
            let picture = Picture::grey(64, 64, 50 + n as u8);
            let encoded = encoder.encode(&picture, n as i64 * 9000, n == 0);
            let data = encoded.expect("encodes").expect("a picture").data;
            let nals = nal::length_prefixed_nals(&data);
            nals.flat_map(|unit| [&[0, 0, 0, 1], unit].concat()).collect()
        };
        (0..frames).map(frame).collect()
    }

    #[test]
    fn h264_is_taken_as_it_is() {
        let frames = annex_b(3);
        let mut framer = Framer::new(Kind::H264);
        assert_eq!(framer.unit(frames[1].clone(), 0, false), None, "no parameter sets yet");
        for (n, frame) in frames.iter().enumerate() {
            let unit = framer.unit(frame.clone(), n as i64, false).expect("a picture");
            let Track::Video(format) = &unit.track else { panic!("{unit:?}") };
            assert_eq!((format.codec, format.width, format.height), (VideoCodec::H264, 64, 64));
            assert_eq!((unit.is_key, unit.pts, unit.is_damaged), (n == 0, n as i64, false));
            let nals: Vec<_> = nal::length_prefixed_nals(&unit.data).collect();
            assert_eq!(nals, nal::split_annex_b(frame).collect::<Vec<_>>());
        }
        framer.note_gap();
        assert!(framer.unit(frames[2].clone(), 4, false).expect("a picture").is_damaged);
        assert_eq!(framer.unit(vec![0; 9], 5, false), None);
        assert_eq!(framer.dropped, 1);
        assert!(framer.unit(frames[2].clone(), 6, false).expect("a picture").is_damaged);
        assert!(!framer.unit(frames[2].clone(), 7, false).expect("a picture").is_damaged);
        assert!(framer.unit(frames[2].clone(), 8, true).expect("a picture").is_damaged);
    }

    #[test]
    fn a_jpeg_is_a_keyframe_of_its_own_size() {
        let mut framer = Framer::new(Kind::Mjpeg);
        let mut data = Vec::new();
        let quantizers = jpeg_header::quantizers(50);
        let mut picture = jpeg_header::Picture {
            width: 320,
            height: 240,
            is_420: true,
            restart_interval: 0,
            quantizers: &quantizers,
            precision: 0,
        };
        jpeg_header::push_headers(&mut data, &picture);
        data.extend_from_slice(&[7, 0xff, 0xd9]);
        framer.note_gap();
        let unit = framer.unit(data.clone(), 9, false).expect("a picture");
        assert!(unit.is_key && !unit.is_damaged);
        assert_eq!(unit.data, data);
        let first = unit.track;
        data.clear();
        picture.width = 640;
        jpeg_header::push_headers(&mut data, &picture);
        let unit = framer.unit(data, 10, false).expect("a picture");
        assert!(unit.is_damaged, "its end is missing");
        assert_ne!(unit.track, first);
        assert_eq!(framer.unit(vec![0; 4], 11, false), None);
        assert_eq!(framer.unit(vec![0xff; PACKET_BYTES_MAX + 1], 12, false), None);
        assert_eq!(framer.dropped, 2);
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(
            buffers in proptest::collection::vec(proptest::collection::vec(0u8..9, 0..80), 0..8),
        ) {
            for kind in [Kind::H264, Kind::Mjpeg] {
                let mut framer = Framer::new(kind);
                for (n, data) in buffers.iter().enumerate() {
                    let _ = framer.unit(data.clone(), n as i64, false);
                }
            }
        }
    }
}
