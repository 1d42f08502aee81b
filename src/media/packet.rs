//! The packet: one access unit on its way from a source to recorder and live view.
//!
//! A packet is made once, wrapped in an `Arc` and never changed; every reader shares it.

use std::sync::Arc;

use super::format::{AudioFormat, VideoFormat};

/// Largest access unit that is accepted. 4K H.265 keyframes stay under 2 MiB; a camera that claims
/// more is broken or hostile.
pub const PACKET_BYTES_MAX: usize = 8 << 20;

/// One unbroken session of a source: all packets of a run share one time axis.
#[derive(Debug, PartialEq, Eq)]
pub struct Run {
    /// Rises with every run of a stream since the program started.
    pub id: u32,
    /// The audio track that goes with the video, known before the first packet.
    pub audio: Option<Arc<AudioFormat>>,
}

/// Which track a packet belongs to, with the decoder configuration that holds from this packet on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Track {
    Video(Arc<VideoFormat>),
    Audio(Arc<AudioFormat>),
}

/// One access unit, encoded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Rises by one per packet of a stream, over all runs and both tracks. Given by the ring.
    pub seq: u64,
    pub run: Arc<Run>,
    pub track: Track,
    /// Presentation time in units of the track's timescale since the run began: 90 kHz for video,
    /// the sample rate for audio. Both tracks of a run share the zero. May be negative.
    pub pts: i64,
    /// Decoding time on the same axis: rises strictly within a track, never later than `pts`.
    pub dts: i64,
    /// A decoder can start here (IDR, IRAP, a recovery point). Every audio packet is one.
    pub is_key: bool,
    /// Something of this access unit, or before it, was lost on the way.
    pub is_damaged: bool,
    /// When it was captured by the recorder's clock, Unix milliseconds; rises within a run.
    pub wall_ms: i64,
    /// Video: NAL units in decoding order, each behind a 4-byte big-endian length (ISO/IEC 14496-15);
    /// MJPEG: one JFIF image. Audio: one raw frame (AAC without ADTS, one Opus packet, one FLAC frame).
    pub data: Vec<u8>,
}

impl Packet {
    /// Whether this is video.
    pub fn is_video(&self) -> bool {
        matches!(self.track, Track::Video(_))
    }

    /// Whether this is a video packet at which a decoder, and so a recording, can start.
    pub fn is_video_key(&self) -> bool {
        self.is_video() && self.is_key
    }

    /// Units per second of `pts` and `dts`.
    pub fn timescale(&self) -> u32 {
        match &self.track {
            Track::Video(_) => super::format::VIDEO_TIMESCALE,
            Track::Audio(format) => format.sample_rate,
        }
    }

    /// Memory that this packet is counted with, in bytes.
    pub fn cost_bytes(&self) -> usize {
        self.data.len() + size_of::<Self>()
    }
}
