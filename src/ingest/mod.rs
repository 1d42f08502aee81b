//! Ingest: what delivers packets. RTSP cameras, local cameras and the test pattern, each a pure core under a thin shell.

pub mod access_unit;
pub mod advice;
pub mod auth;
pub mod depacketize_aac;
pub mod depacketize_g711;
pub mod depacketize_h264;
pub mod depacketize_h265;
pub mod depacketize_mjpeg;
pub mod depacketize_opus;
pub mod encoder;
pub mod gather;
pub mod habits_core;
pub mod jpeg_decoder;
pub mod jpeg_header;
pub mod offset;
pub mod pattern_core;
pub mod picture_core;
pub mod quota_core;
pub mod reorder_core;
pub mod report_core;
pub mod rtp;
pub mod rtsp;
pub mod rtsp_message;
pub mod sdp;
pub mod session_core;
pub mod session_setup;
pub mod session_tracks;
pub mod testpattern;
pub mod timeline;
pub mod tls;
pub mod track;
pub mod udp;
pub mod udp_core;
pub mod url;
pub mod v4l2;
pub mod v4l2_core;
pub mod v4l2_devices;
pub mod v4l2_frame_core;
pub mod v4l2_sys;

use std::sync::Arc;
use std::time::Duration;

use crate::media::format::{AudioFormat, VideoFormat};

/// One access unit as a source delivers it; the hub turns it into a `Packet` (sequence number, run,
/// wall clock). Fields as in `media::packet::Packet`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unit {
    pub track: crate::media::packet::Track,
    pub pts: i64,
    pub dts: i64,
    pub is_key: bool,
    pub is_damaged: bool,
    pub data: Vec<u8>,
}

/// What a source tells its stream while a run lasts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourceEvent {
    /// The session stands and the tracks are known; comes once, before the first unit. The video format is
    /// `None` while the parameter sets are not known yet (they may come in band).
    Started {
        video: Option<Arc<VideoFormat>>,
        audio: Option<Arc<AudioFormat>>,
    },
    /// The audio format became known, or changed, after `Started`.
    AudioChanged(Arc<AudioFormat>),
    Unit(Unit),
    /// Something the owner may want to know, in words, without any secret.
    Advice(String),
    /// Why the camera's sound is left out; in words, as `Advice`.
    NoSound(String),
}

/// Why a source ended, and so what happens next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum IngestError {
    /// The camera refused the user name or password: shown as `error`, tried again every 5 minutes.
    Unauthorized,
    /// Trying again hardly helps (no such path, no codec that we take): `error`, with longer and longer
    /// pauses, up to 5 minutes.
    Refused { what: String },
    /// Nothing came for this long: reconnect with back-off.
    Silent { timeout: Duration },
    /// A camera on this machine is not there: looked for again every 2 s, for that costs nothing.
    Unplugged { what: String },
    /// Connection refused, reset, ended: reconnect with back-off.
    Connection { what: String },
    /// The camera broke the protocol at this byte of the connection: reconnect with back-off.
    Protocol { what: String, at: u64 },
}

impl std::fmt::Display for IngestError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Unauthorized => write!(f, "camera refused the user name or password"),
            Self::Refused { what } | Self::Unplugged { what } | Self::Connection { what } => {
                write!(f, "{what}")
            }
            Self::Silent { timeout } => {
                write!(f, "no data from camera for {} s", timeout.as_secs())
            }
            Self::Protocol { what, at } => write!(f, "{what}, at byte {at}"),
        }
    }
}

impl std::error::Error for IngestError {}
