//! What other threads see of the state: an immutable picture, replaced as a whole.

use std::sync::{Arc, Mutex};

use crate::config::settings::Settings;
use crate::config::stream::StreamConfig;
use crate::ledger::journal_core::Entry;
use crate::store::row::RecordingRow;

/// State of a stream's connection, as the API names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StreamStatus {
    Connecting,
    Connected,
    Reconnecting,
    Error,
    Disabled,
}

impl StreamStatus {
    /// The word in the API's `status`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Connected => "connected",
            Self::Reconnecting => "reconnecting",
            Self::Error => "error",
            Self::Disabled => "disabled",
        }
    }
}

/// What a stream delivers, measured.
#[derive(Clone, Debug, PartialEq)]
pub struct Actual {
    pub codec: &'static str,
    pub width: u16,
    pub height: u16,
    /// Frames per second over the last seconds.
    pub fps: f64,
    /// Bits per second over the last seconds, both tracks.
    pub bitrate: u64,
    /// Seconds between the last two keyframes, 0 before the second one.
    pub keyframe_interval: f64,
    /// `aac`, `opus`, `pcma`, `pcmu`; `None` without audio.
    pub audio: Option<&'static str>,
    /// Why there is no sound though the camera has some, or what it is turned into; in words.
    pub audio_note: Option<String>,
}

/// One stream: configuration and state.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamView {
    pub config: StreamConfig,
    pub status: StreamStatus,
    /// Why, in words; never holds a secret. Empty when there is nothing to say.
    pub status_detail: String,
    pub actual: Option<Actual>,
    /// What the owner could change on the camera, in words.
    pub advice: Vec<String>,
    /// What waits for the disk; `None` while the stream does not run.
    pub buffer: Option<StreamBuffer>,
}

/// What waits between a stream and its recordings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamBuffer {
    pub ram_bytes: u64,
    pub spilled_bytes: u64,
    /// Bytes of RAM of its own that are free.
    pub own_free: u64,
    /// Recorder's clock between the oldest and the newest packet.
    pub held_ms: u64,
    /// For how long the disk may stall from now on at the present bitrate; `None` without one.
    pub headroom_ms: Option<u64>,
    /// `ram`, `swap`, `borrowed`, `none`.
    pub protection: &'static str,
    /// Packets lost since the stream was started.
    pub dropped: u64,
}

/// What is synced of a recording that is being written: overrides its row, or stands in for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunningRecording {
    pub id: u64,
    pub stream_id: u32,
    pub stream_name: String,
    pub start_ms: i64,
    /// `start_ms` + synced media.
    pub end_ms: i64,
    /// Synced bytes.
    pub size: u64,
    /// Absolute path.
    pub path: String,
    pub is_protected: bool,
}

impl RunningRecording {
    /// The same in the form of a row.
    pub fn row(&self) -> RecordingRow {
        RecordingRow {
            id: self.id,
            stream_id: self.stream_id,
            stream_name: self.stream_name.clone(),
            start_ms: self.start_ms,
            end_ms: self.end_ms,
            size: self.size,
            path: self.path.clone(),
            in_progress: true,
            is_protected: self.is_protected,
            boot: 0,
        }
    }
}

/// How long recordings of one stream will be kept if all goes on as it does now.
#[derive(Clone, Debug, PartialEq)]
pub struct Forecast {
    pub stream_id: u32,
    /// `None`: without end, or nothing is being received.
    pub days_kept: Option<f64>,
    /// How much of it the disk and the limits in bytes have room for, whatever its age: more than is kept if days are
    /// what limits. `None` as `days_kept`.
    pub days_fit: Option<f64>,
    /// `retention_days` that hold for it; `None`: until space is needed.
    pub days_wished: Option<u32>,
    /// From when on the wish can't be met, Unix milliseconds; `None` if it can.
    pub short_from_ms: Option<i64>,
}

/// Why `/healthz` is not 200; empty when all is well.
pub type Ailments = Vec<String>;

/// The whole state at one moment.
#[derive(Clone, Debug, PartialEq)]
pub struct Snapshot {
    /// By rising id.
    pub streams: Vec<StreamView>,
    pub settings: Settings,
    /// By rising id.
    pub running: Vec<RunningRecording>,
    pub ailments: Ailments,
    /// Spans of the ledger that are not over or not yet in the store.
    pub ledger: Vec<Entry>,
    /// By rising id of the stream.
    pub forecast: Vec<Forecast>,
    /// The password is still the one that was made and printed at the first start.
    pub is_initial_password: bool,
    /// When the executor published it, milliseconds of the monotonic clock since the program began.
    pub at_ms: u64,
}

/// The place where the executor puts the newest snapshot. The lock is held only to clone or swap.
#[derive(Clone, Debug)]
pub struct SnapshotCell(Arc<Mutex<Arc<Snapshot>>>);

impl SnapshotCell {
    pub fn new(first: Snapshot) -> Self {
        Self(Arc::new(Mutex::new(Arc::new(first))))
    }

    /// The newest snapshot.
    pub fn load(&self) -> Arc<Snapshot> {
        Arc::clone(&self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner))
    }

    /// Puts a new one in its place.
    pub fn publish(&self, snapshot: Snapshot) {
        let snapshot = Arc::new(snapshot);
        *self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = snapshot;
    }
}
