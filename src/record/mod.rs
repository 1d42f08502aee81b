//! Recording: packets become fragments of MP4 files, files become rows.
//!
//! `cut_core` decides (pure), `writer` drives it for one stream, `open` knows what is being written and
//! syncs it in rounds, `attached` looks after the storage, `storage` says whether it is ours, `retention` deletes
//! by the policy of `retention_core`, `disk` is what runs on a disk thread (`real_disk` does it), `recovery`,
//! `check` and `rebuild` compare files and rows, `redate` gives them their true date. Keeps FILE-BEFORE-ROW.

pub mod attached;
pub mod check;
#[cfg(test)]
mod crash_disk;
#[cfg(test)]
mod crash_tests;
pub mod cut_core;
pub mod disk;
pub mod export;
pub mod open;
pub mod real_disk;
pub mod rebuild;
pub mod recovery;
pub mod redate;
pub mod repair;
pub mod retention;
pub mod retention_core;
pub mod storage;
pub mod writer;

use crate::ledger::span_core::State;

/// Why a recording could not be written or read.
#[derive(Clone, Debug)]
pub enum RecordError {
    /// The storage did not take or give bytes. The text names the path, for the log.
    Disk { what: String, kind: std::io::ErrorKind },
    /// What is at the storage path must not be written to.
    Storage(storage::StorageFault),
    /// The store did not take a row.
    Store(crate::store::StoreError),
    /// The disk thread is overloaded or its job panicked.
    Pool(crate::system::pool::PoolError),
}

impl RecordError {
    /// An I/O error with the path that it happened at.
    pub fn disk(path: &std::path::Path, error: &std::io::Error) -> Self {
        Self::Disk { what: format!("{}: {error}", path.display()), kind: error.kind() }
    }

    /// What the ledger says of the time in which nothing could be written.
    pub fn state(&self) -> State {
        use std::io::ErrorKind;
        match self {
            Self::Disk { kind: ErrorKind::StorageFull | ErrorKind::QuotaExceeded, .. } => {
                State::DiskFull
            }
            Self::Disk { kind: ErrorKind::ReadOnlyFilesystem, .. } => State::DiskReadonly,
            Self::Disk { kind: ErrorKind::NotFound, .. } => State::DiskMissing,
            Self::Disk { .. } | Self::Store(_) => State::DiskError,
            Self::Storage(storage::StorageFault::Silent) | Self::Pool(_) => State::DiskStalled,
            Self::Storage(_) => State::DiskMissing,
        }
    }

    /// What an owner may read: no path, no cause of ours.
    pub fn for_owner(&self) -> &'static str {
        use std::io::ErrorKind;
        match self {
            Self::Disk { kind: ErrorKind::StorageFull | ErrorKind::QuotaExceeded, .. } => {
                "not recording: the disk is full"
            }
            Self::Disk { kind: ErrorKind::ReadOnlyFilesystem, .. } => {
                "not recording: the disk is read-only"
            }
            Self::Disk { kind: ErrorKind::PermissionDenied, .. } => {
                "not recording: no permission to write to the storage path"
            }
            Self::Disk { kind: ErrorKind::NotFound, .. } => {
                "not recording: the storage path is missing"
            }
            Self::Disk { .. } => "not recording: the disk reports errors",
            Self::Storage(fault) => fault.for_owner(),
            Self::Store(_) => "not recording: the store can't be written",
            Self::Pool(_) => "not recording: the disk is not keeping up",
        }
    }
}

impl std::fmt::Display for RecordError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Disk { what, .. } => write!(f, "{what}"),
            Self::Storage(fault) => write!(f, "{}", fault.for_owner()),
            Self::Store(error) => write!(f, "{error}"),
            Self::Pool(error) => write!(f, "disk thread: {error:?}"),
        }
    }
}

impl std::error::Error for RecordError {}
