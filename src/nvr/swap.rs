//! The swap file as the settings want it, memory that runs short, and what the API shows of the buffers.
//!
//! In here: when the file is made, changed and removed. Not in here: what goes into it (`buffer/`).

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;

use smol::future::{FutureExt, poll_once};

use super::snapshot::{StreamBuffer, StreamView};
use super::state::Nvr;
use crate::buffer::board_core::BufferView;
use crate::buffer::pressure_core::{Pressure, Sample};
use crate::buffer::spill::SwapFile;
use crate::config::settings::Settings;
use crate::record::RecordError;
use crate::system::pool::Pool;
use crate::system::{stats, wait};

/// A smaller file is not worth its name: `swap_size` below this is as good as none.
const SWAP_BYTES_MIN: u64 = 1 << 20;
/// How often a file that could not be made is tried again.
const RETRY_EVERY: Duration = Duration::from_secs(30);
/// How often the kernel is asked about memory. It is short for seconds before swapping hurts.
const MEMORY_EVERY: Duration = Duration::from_secs(1);
/// A disk that takes longer to say which one it is will be asked again.
const DISKS_WITHIN: Duration = Duration::from_millis(500);
/// A recorder that is so far behind has a disk that does not keep up.
const BEHIND_MS_MAX: u64 = 5000;

/// Why a swap file can't be as the settings want it; the words are for the owner.
#[derive(Debug)]
pub enum SwapError {
    /// Another path may do.
    File(String),
    /// A smaller one may do.
    Size(String),
    /// Later.
    Busy,
}

/// What a change of settings means for the swap file.
pub enum SwapChange {
    Keep,
    Remove,
    Use(SwapFile, Pool),
}

/// The swap file in force.
#[derive(Default)]
pub struct Swap {
    path: RefCell<Option<PathBuf>>,
    error: RefCell<Option<String>>,
}

impl Swap {
    /// Why there is no swap file though there should be one.
    pub fn ailment(&self) -> Option<String> {
        self.error.borrow().as_ref().map(|error| format!("swap file: {error}"))
    }
}

/// Path and size, if there is to be one.
fn wanted(settings: &Settings) -> Option<(&Path, u64)> {
    let is_wanted = settings.use_swap && settings.swap_size >= SWAP_BYTES_MIN;
    is_wanted.then_some((Path::new(&settings.swap_path), settings.swap_size))
}

impl Nvr {
    /// Makes the file that `is` wants, if that is another one than `was` wanted.
    pub async fn prepare_swap(
        &self,
        was: &Settings,
        is: &Settings,
    ) -> Result<SwapChange, SwapError> {
        if wanted(was) == wanted(is) {
            return Ok(SwapChange::Keep);
        }
        let Some((path, bytes)) = wanted(is) else { return Ok(SwapChange::Remove) };
        if !self.parts.buffers.can_use_file() {
            return Err(SwapError::Busy);
        }
        let path = path.to_owned();
        let not_there = |error: RecordError| {
            log::warn!("swap file: {error}");
            SwapError::File(match error {
                RecordError::Storage(fault) => fault.for_check().to_owned(),
                _ => "its directory can't be read; it must be in a writable directory".to_owned(),
            })
        };
        let at_path = |error: std::io::Error| match error.kind() {
            std::io::ErrorKind::StorageFull | std::io::ErrorKind::FileTooLarge => {
                SwapError::Size(format!("there is no room for {bytes} bytes at swap_path"))
            }
            std::io::ErrorKind::AlreadyExists => {
                SwapError::File(format!("{error}; it must be a path where no other file is"))
            }
            kind => SwapError::File(format!(
                "can't be made ({kind}); it must be an absolute path in a writable directory"
            )),
        };
        let pool = self.parts.recordings.disks.pool_for(&path).await.map_err(at_path)?;
        let dir = path.parent().unwrap_or(&path).to_owned();
        self.parts.recordings.may_hold_swap(dir).await.map_err(not_there)?;
        let made = pool.run(move || SwapFile::make(&path, bytes)).await;
        let swap = made.map_err(|_| SwapError::Busy)?.map_err(at_path)?;
        Ok(SwapChange::Use(swap, pool))
    }

    /// Puts a prepared change into force. Waits for no disk.
    pub async fn use_swap(&self, change: SwapChange) {
        let buffers = &self.parts.buffers;
        let old = self.swap.path.borrow().clone();
        let new = match change {
            SwapChange::Keep => return self.note_disks(old.as_deref()).await,
            SwapChange::Remove => {
                buffers.use_none();
                None
            }
            SwapChange::Use(swap, pool) => {
                buffers.use_file(&swap, pool);
                Some(swap.path().to_owned())
            }
        };
        *self.swap.error.borrow_mut() = None;
        self.note_disks(new.as_deref()).await;
        *self.swap.path.borrow_mut() = new.clone();
        if old != new
            && let Some(old) = old
        {
            self.remove_swap(old).await;
        }
    }

    /// A name that is not needed any more; what is behind it goes when it has been read.
    async fn remove_swap(&self, path: PathBuf) {
        let Ok(pool) = self.parts.recordings.disks.pool_for(&path).await else { return };
        let job = move || {
            if let Err(error) = SwapFile::remove(&path) {
                log::warn!("an old swap file could not be removed: {error}");
            }
        };
        // Queued is enough: the disk may be the one that stalls.
        let _ = poll_once(pool.run(job)).await;
    }

    /// Finds out whether swap file and recordings share a disk. One that does not answer is waited for in the
    /// background alone: nothing changes until then.
    async fn note_disks(&self, swap: Option<&Path>) {
        let disks = &self.parts.recordings.disks;
        let storage = PathBuf::from(self.settings().storage_path);
        let is_same = async {
            let Some(swap) = swap else { return Some(false) };
            let (swap, storage) = (disks.pool_for(swap).await, disks.pool_for(&storage).await);
            Some(swap.ok()?.is_same(&storage.ok()?))
        };
        let too_long = async {
            wait::pause(DISKS_WITHIN).await;
            None
        };
        if let Some(is_same) = is_same.or(too_long).await {
            self.parts.buffers.set_same_disk(is_same);
        }
    }

    /// Makes the swap file after the start, and tries again for ever where that fails.
    pub async fn keep_swap_file(self: Rc<Self>) {
        loop {
            let is = self.settings();
            if self.swap.path.borrow().is_none() && wanted(&is).is_some() {
                let none = Settings { use_swap: false, ..is.clone() };
                let made = self.prepare_swap(&none, &is).await;
                // The settings may have changed meanwhile, with a file of their own.
                let is_still_wanted =
                    self.swap.path.borrow().is_none() && wanted(&self.settings()) == wanted(&is);
                match made {
                    Ok(change) if is_still_wanted => self.use_swap(change).await,
                    Err(SwapError::File(what) | SwapError::Size(what)) if is_still_wanted => {
                        let was = self.swap.error.replace(Some(what.clone()));
                        if was.as_ref() != Some(&what) {
                            log::warn!("no swap file, RAM alone: {what}");
                        }
                    }
                    _ => {}
                }
            }
            wait::pause(RETRY_EVERY).await;
            // A disk may have been mounted where there was none.
            let path = self.swap.path.borrow().clone();
            self.note_disks(path.as_deref()).await;
        }
    }

    /// Asks the kernel about memory for ever.
    pub async fn keep_memory_watched(self: Rc<Self>) {
        let mut pressure = Pressure::default();
        let mut was_pressed = false;
        loop {
            let (memory, swap_free_kib) = stats::memory_and_swap();
            let sample = Sample {
                total_kib: memory.as_ref().map_or(0, |memory| memory.total_kib),
                available_kib: memory.as_ref().map_or(0, |memory| memory.available_kib),
                swap_free_kib,
                waiting_percent: stats::memory_waiting_percent(),
            };
            let now_ms = self.parts.started.elapsed().as_millis();
            let is_pressed = pressure.note(&sample, u64::try_from(now_ms).unwrap_or(u64::MAX));
            if is_pressed != was_pressed {
                log::info!("memory is {}", if is_pressed { "short" } else { "no longer short" });
                self.parts.buffers.set_pressed(is_pressed);
                was_pressed = is_pressed;
            }
            wait::beat(MEMORY_EVERY).await;
        }
    }
}

/// What the API shows of one ring; the headroom comes from all of them together.
pub fn stream_buffer(view: BufferView) -> StreamBuffer {
    StreamBuffer {
        ram_bytes: view.ram_bytes,
        spilled_bytes: view.spilled_bytes,
        held_ms: u64::try_from(view.held_ms).unwrap_or(0),
        own_free: view.own_free,
        headroom_ms: None,
        protection: view.protection.name(),
        dropped: view.dropped,
    }
}

/// Turns the bytes that each stream has left of its own, and what all share, into time at the present bitrates.
/// What is shared goes to each stream in proportion to what it needs.
pub fn fill_headroom(streams: &mut [StreamView], shared_free: u64) {
    let bitrate = |view: &StreamView| view.actual.as_ref().map_or(0, |actual| actual.bitrate);
    let all_bits: u64 = streams.iter().filter(|view| view.config.record).map(bitrate).sum();
    let ms = |bytes: u64, bits: u64| bytes.saturating_mul(8000).checked_div(bits);
    for view in streams {
        let bits = bitrate(view);
        if let Some(buffer) = &mut view.buffer {
            let own = ms(buffer.own_free, bits);
            let shared = ms(shared_free, all_bits.max(bits));
            buffer.headroom_ms = own.zip(shared).map(|(own, shared)| own.saturating_add(shared));
        }
    }
}

/// What the buffers say about the disk.
pub fn ailments(streams: &[StreamView]) -> Vec<String> {
    let late = streams.iter().filter_map(|view| {
        let buffer = view.buffer.as_ref().filter(|buffer| buffer.held_ms > BEHIND_MS_MAX)?;
        let seconds = buffer.held_ms / 1000;
        let what = format!("the disk is not keeping up, {seconds} s wait for it");
        Some(ailment_of(view.config.id, &what))
    });
    late.collect()
}

/// An ailment of one stream. `/healthz` needs no password: it names no stream, for a name says what
/// somebody films.
pub fn ailment_of(stream_id: u32, what: &str) -> String {
    format!("stream {stream_id}: {what}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::stream::{StreamConfig, StreamPatch};
    use crate::nvr::snapshot::StreamStatus;

    #[test]
    fn a_late_disk_is_told_without_the_name_of_the_stream() {
        let patch = StreamPatch {
            name: Some("Bedroom".into()),
            url: Some("testpattern://".into()),
            ..StreamPatch::default()
        };
        let view = StreamView {
            config: StreamConfig::from_patch(7, &patch).unwrap(),
            status: StreamStatus::Connected,
            status_detail: String::new(),
            actual: None,
            advice: Vec::new(),
            buffer: Some(StreamBuffer {
                ram_bytes: 0,
                spilled_bytes: 0,
                own_free: 0,
                held_ms: 90_000,
                headroom_ms: None,
                protection: "ram",
                dropped: 0,
            }),
        };
        assert_eq!(ailments(&[view]), ["stream 7: the disk is not keeping up, 90 s wait for it"]);
        assert_eq!(ailment_of(7, "not recording"), "stream 7: not recording");
    }
}
