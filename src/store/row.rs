//! One recording as the store keeps it.

use super::Place;

/// A recording: one MP4 file and its row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RecordingRow {
    /// Counts from 1, never used again.
    pub id: u64,
    pub stream_id: u32,
    /// The stream's name when the recording was made.
    pub stream_name: String,
    /// Unix milliseconds.
    pub start_ms: i64,
    pub end_ms: i64,
    /// Bytes of the file.
    pub size: u64,
    /// Absolute path.
    pub path: String,
    /// Still being written, as far as the store knows; recovery settles it at the next start.
    pub in_progress: bool,
    /// Never deleted by the program, only by hand.
    pub is_protected: bool,
    /// Which run of the machine it was made in, so that it can be dated anew when that learns the time; 0: not known.
    pub boot: u64,
}

impl RecordingRow {
    /// Where it is in the list.
    pub fn place(&self) -> Place {
        (self.start_ms, self.id)
    }
}

/// What the store knows of the storage at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StorageRow {
    /// In the storage's marker file.
    pub uuid: String,
    /// The marker was written and synced; until then its absence means nothing.
    pub is_marked: bool,
}
