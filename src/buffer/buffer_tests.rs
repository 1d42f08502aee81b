//! What the tests of this part share.

use std::sync::Arc;

use crate::media::format::{VideoCodec, VideoFormat};
use crate::media::packet::{Packet, Run, Track};

/// A video packet of `len` bytes.
pub fn packet(is_key: bool, len: usize) -> Packet {
    let format = VideoFormat::sample(VideoCodec::H264, 16, 16);
    Packet {
        seq: 0,
        run: Arc::new(Run { id: 1, audio: None }),
        track: Track::Video(Arc::new(format)),
        pts: 0,
        dts: 0,
        is_key,
        is_damaged: false,
        wall_ms: 0,
        data: vec![0; len],
    }
}
