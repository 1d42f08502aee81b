//! Figures of the machine for `GET /system`, taken where waiting for them hurts nobody.
//!
//! `/proc` answers at once. The recordings' filesystem may not (a stalled card), so it is asked on its disk
//! thread every few seconds and the API reads the newest answer.

use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::state::Nvr;
use crate::api::MachineStats;
use crate::system::stats::{self, Machine, Storage};
use crate::system::wait;

/// How old the figures of the filesystem may be while its disk answers.
const STORAGE_EVERY: Duration = Duration::from_secs(2);

/// The newest figures.
pub struct Gauges {
    machine: Machine,
    storage: Mutex<Storage>,
}

impl Gauges {
    /// Measures `root`'s filesystem once; it may not exist yet.
    pub fn new(root: &Path) -> Self {
        Self { machine: Machine::new(), storage: Mutex::new(storage_of(root)) }
    }

    /// What `GET /system` shows of the machine. Does not block.
    pub fn stats(&self) -> MachineStats {
        let storage = *self.storage.lock().unwrap_or_else(PoisonError::into_inner);
        MachineStats {
            cpu_usage: self.machine.cpu_usage(),
            memory_usage: self.machine.memory_usage().unwrap_or(0.0),
            storage_total: storage.total,
            storage_free: storage.free,
            bytes_written: stats::bytes_written(),
        }
    }

    /// Measures for ever.
    pub async fn keep_measured(self: Arc<Self>, nvr: Rc<Nvr>) {
        loop {
            wait::pause(STORAGE_EVERY).await;
            let root = PathBuf::from(nvr.settings().storage_path);
            let Ok(pool) = nvr.parts.recordings.disks.pool_for(&root) else { continue };
            if let Ok(storage) = pool.run(move || storage_of(&root)).await {
                *self.storage.lock().unwrap_or_else(PoisonError::into_inner) = storage;
            }
        }
    }
}

/// The filesystem that holds `path`, or its nearest ancestor that exists; all zero when nobody answers.
fn storage_of(path: &Path) -> Storage {
    let measured = path.ancestors().find_map(|place| stats::storage(place).ok());
    measured.unwrap_or(Storage { total: 0, free: 0, used: 0 })
}
