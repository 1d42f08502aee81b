//! What runs on a disk thread: create, append, patch, sync, remove. Blocking, one file at a time.
//!
//! In here: what a recorder asks of a storage (`Disk`, two users: `real_disk` and the tests' faults and crashes), and
//! the name of a recording's file. Not in here: order of sync and rows (`open`), whether the storage is the right one
//! (`storage`). One thread per storage device, so that a stalled card delays nothing else.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::fs::{DirBuilder, File};
use std::io::{self, ErrorKind, IoSlice, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};

use super::RecordError;
use crate::media::packet::Packet;
use crate::system::clock;
use crate::system::pool::Pool;

/// Jobs that wait for one disk. A stream has at most two under way, a round and a command one each.
const DISK_JOBS_MAX: usize = 2048;
/// Storage devices with a thread of their own; a further one shares the last.
const DISKS_MAX: usize = 4;
/// Files of the same second and stream before the recorder gives up naming one.
const COLLISIONS_MAX: u32 = 100;
/// `YYYYMMDD_HHMMSS`, and where its underscore is.
const STEM_BYTES: usize = 15;
const STEM_SEPARATOR_AT: usize = 8;

/// One storage: a directory that was opened and what is below it. Names are relative to it, so that nothing lands on
/// another disk that was mounted, or laid bare, at the same path meanwhile.
pub trait Disk: Send + Sync + Debug {
    /// Makes a directory; one that is there is as good. Answers whether it is new.
    fn create_dir(&self, name: &str) -> io::Result<bool>;
    /// Makes a file; `AlreadyExists` if the name is taken.
    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>>;
    /// Opens a file that is there. What is no regular file is not opened (`not_a_file`), not even through a link.
    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn DiskFile>>;
    fn remove(&self, name: &str) -> io::Result<()>;
    /// Gives a file another name in its directory; `AlreadyExists` if that is taken.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// The names in a directory, in no order; `""` is the storage itself.
    fn list(&self, dir: &str) -> io::Result<Vec<String>>;
    /// Makes the names in a directory permanent.
    fn sync_dir(&self, dir: &str) -> io::Result<()>;
    /// Whether the storage's path still leads here: not after an unmount, a mount over it, or a renaming.
    fn is_at_path(&self) -> bool;
}

/// An open file of a storage.
pub trait DiskFile: Send + Sync + Debug {
    /// Writes all slices at `end`, where the file ends, without copying them.
    fn append(&self, end: u64, slices: &mut [IoSlice<'_>]) -> io::Result<()>;
    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()>;
    /// Fills `out`, or fails.
    fn read_at(&self, out: &mut [u8], at: u64) -> io::Result<()>;
    fn size(&self) -> io::Result<u64>;
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Makes bytes and size permanent. After an error nobody knows what is on the medium of what was written since the
    /// last success: Linux forgets the failed pages, and a second try would succeed without them.
    fn sync(&self) -> io::Result<()>;
}

/// What a file is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    Read,
    Mend,
}

/// Opens the storage at a path.
pub type Opener = Arc<dyn Fn(&Path) -> io::Result<Arc<dyn Disk>> + Send + Sync>;

/// The disk threads, by device number.
#[derive(Debug, Default)]
pub struct Disks {
    pools: RefCell<Vec<(u64, Pool)>>,
    /// Which thread looked after a path last: it is asked first where the path leads, for only it may have to wait.
    paths: RefCell<BTreeMap<PathBuf, Pool>>,
    /// Threads that wait for the first answer of a path.
    asking: Arc<AtomicUsize>,
}

/// Paths that are remembered; then all are asked anew.
const PATHS_MAX: usize = 32;
/// Paths that do not answer, such as those of a server that is gone; a further one is refused.
const ASKING_MAX: usize = 4;

/// A path that is asked for the first time; counted until its thread has an answer, even if nobody waits for it any
/// more.
struct Asking(Arc<AtomicUsize>);

impl Drop for Asking {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Disks {
    /// All threads that there are.
    pub fn pools(&self) -> Vec<Pool> {
        self.pools.borrow().iter().map(|(_, pool)| pool.clone()).collect()
    }

    /// The thread for the device that holds `path`, or its nearest ancestor that exists. A path that does not answer
    /// holds up whoever asks for it, and nobody else.
    pub async fn pool_for(&self, path: &Path) -> io::Result<Pool> {
        let known = self.paths.borrow().get(path).cloned();
        let (asked, asking) = match known {
            Some(pool) => (pool, None),
            None => {
                if self.asking.load(Ordering::Relaxed) >= ASKING_MAX {
                    return Err(ErrorKind::WouldBlock.into());
                }
                self.asking.fetch_add(1, Ordering::Relaxed);
                let asking = Asking(Arc::clone(&self.asking));
                let first = self.pools.borrow().len();
                (Pool::start_from("disk", first, 1, DISK_JOBS_MAX)?, Some(asking))
            }
        };
        let place = path.to_owned();
        let job = move || {
            let _asking = asking;
            device_of(&place)
        };
        let device = asked.run(job).await;
        let device = device.map_err(|_| io::Error::from(ErrorKind::WouldBlock))??;
        let pool = self.pool_of(device, asked);
        let mut paths = self.paths.borrow_mut();
        if paths.len() >= PATHS_MAX {
            paths.clear();
        }
        paths.insert(path.to_owned(), pool.clone());
        Ok(pool)
    }

    /// The thread of a device; `asked` becomes it if it has none yet and belongs to no other.
    fn pool_of(&self, device: u64, asked: Pool) -> Pool {
        let mut pools = self.pools.borrow_mut();
        if let Some((_, pool)) = pools.iter().find(|(known, _)| *known == device) {
            return pool.clone();
        }
        if pools.len() >= DISKS_MAX
            && let Some((_, last)) = pools.last()
        {
            return last.clone();
        }
        let is_taken = pools.iter().any(|(_, pool)| pool.is_same(&asked));
        let own = if is_taken {
            Pool::start_from("disk", pools.len(), 1, DISK_JOBS_MAX).unwrap_or(asked)
        } else {
            asked
        };
        pools.push((device, own.clone()));
        own
    }
}

fn device_of(path: &Path) -> io::Result<u64> {
    let metadata = path.ancestors().find_map(|place| std::fs::metadata(place).ok());
    Ok(metadata.ok_or_else(|| io::Error::from(ErrorKind::NotFound))?.dev())
}

/// The error of opening something that is no regular file: a link, a pipe, a device, a directory.
pub fn not_a_file() -> io::Error {
    io::Error::new(ErrorKind::Unsupported, "not a regular file")
}

/// Whether it is that error.
pub fn is_no_file(error: &io::Error) -> bool {
    error.kind() == ErrorKind::Unsupported
}

/// Whether a name below the storage is one that `create` gives: `<stream_id>/YYYYMMDD_HHMMSS.mp4`, with `_2` and so on.
pub fn is_recording_name(name: &str) -> bool {
    let Some((dir, file)) = name.split_once('/') else { return false };
    let is_dir = dir.parse::<u32>().is_ok_and(|id| id.to_string() == dir);
    let Some((stem, number)) =
        file.strip_suffix(".mp4").and_then(|s| s.split_at_checked(STEM_BYTES))
    else {
        return false;
    };
    let is_stem = stem.bytes().enumerate().all(|(at, byte)| match at {
        STEM_SEPARATOR_AT => byte == b'_',
        _ => byte.is_ascii_digit(),
    });
    let is_number = match number.strip_prefix('_') {
        None => number.is_empty(),
        Some(digits) => digits
            .parse()
            .is_ok_and(|n: u32| (2..=COLLISIONS_MAX).contains(&n) && n.to_string() == digits),
    };
    is_dir && is_stem && is_number
}

/// A file that was just made.
#[derive(Debug)]
pub struct Created {
    pub disk: Arc<dyn Disk>,
    pub file: Arc<dyn DiskFile>,
    /// Below the storage: `<stream_id>/YYYYMMDD_HHMMSS.mp4`.
    pub name: String,
    /// A sync of it failed. Kept here, because the kernel tells each descriptor only once.
    is_torn: AtomicBool,
    /// Bytes that are written, and the wall clock of their end in Unix milliseconds. Only jobs of the disk's thread
    /// change them, so that a round knows what it syncs.
    written: AtomicU64,
    end_ms: AtomicI64,
}

/// Makes `<stream_id>/YYYYMMDD_HHMMSS.mp4` (`_2` and so on where that name is taken) and never touches a file that is
/// there.
pub fn create(disk: &Arc<dyn Disk>, stream_id: u32, start_ms: i64) -> Result<Created, RecordError> {
    let dir = stream_id.to_string();
    let failed = |name: &str, error: &io::Error| RecordError::disk(Path::new(name), error);
    if disk.create_dir(&dir).map_err(|error| failed(&dir, &error))? {
        disk.sync_dir("").map_err(|error| failed(&dir, &error))?;
    }
    for name in names(&dir, start_ms) {
        match disk.create(&name) {
            Ok(file) => return Ok(Created::new(disk, file, name)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(failed(&name, &error)),
        }
    }
    Err(RecordError::Disk {
        what: format!("{dir}/{}: {COLLISIONS_MAX} files of one second", clock::file_stem(start_ms)),
        kind: ErrorKind::AlreadyExists,
    })
}

/// The names that a recording of this start can have, the first choice first.
pub fn names(dir: &str, start_ms: i64) -> impl Iterator<Item = String> {
    let stem = format!("{dir}/{}", clock::file_stem(start_ms));
    (1..=COLLISIONS_MAX).map(
        move |n| {
            if n == 1 { format!("{stem}.mp4") } else { format!("{stem}_{n}.mp4") }
        },
    )
}

impl Created {
    fn new(disk: &Arc<dyn Disk>, file: Arc<dyn DiskFile>, name: String) -> Self {
        Self {
            disk: Arc::clone(disk),
            file,
            name,
            is_torn: AtomicBool::new(false),
            written: AtomicU64::new(0),
            end_ms: AtomicI64::new(0),
        }
    }

    /// An error at this file.
    pub fn failed(&self, error: &io::Error) -> RecordError {
        RecordError::disk(Path::new(&self.name), error)
    }

    /// Bytes that are written, and the wall clock of their end in Unix milliseconds.
    pub fn progress(&self) -> (u64, i64) {
        (self.written.load(Ordering::Relaxed), self.end_ms.load(Ordering::Relaxed))
    }

    /// Appends `heads` and then the packets' data, without copying them; what is written then ends at `end_ms`. On an
    /// error the file is cut back to where it ended, as far as the disk lets us.
    pub fn append(
        &self,
        heads: &[&[u8]],
        packets: &[Arc<Packet>],
        end_ms: i64,
    ) -> Result<(), RecordError> {
        let (len, _) = self.progress();
        let mut slices: Vec<IoSlice<'_>> = heads
            .iter()
            .copied()
            .chain(packets.iter().map(|packet| packet.data.as_slice()))
            .filter(|slice| !slice.is_empty())
            .map(IoSlice::new)
            .collect();
        let more: usize = slices.iter().map(|slice| slice.len()).sum();
        self.file.append(len, &mut slices).map_err(|error| {
            if let Err(error) = self.file.set_len(len) {
                log::warn!("{}: cutting back after a failed write: {error}", self.name);
            }
            self.failed(&error)
        })?;
        self.written.store(len + more as u64, Ordering::Relaxed);
        self.end_ms.store(end_ms, Ordering::Relaxed);
        Ok(())
    }

    /// Overwrites small ranges in the head of the file.
    pub fn patch(&self, patches: &[(u64, Vec<u8>)]) -> Result<(), RecordError> {
        for (at, bytes) in patches {
            self.file.write_at(bytes, *at).map_err(|error| self.failed(&error))?;
        }
        Ok(())
    }

    /// Makes the file's bytes permanent, and its name if that `is_new`. Never again succeeds after it failed once.
    pub fn sync(&self, is_new: bool) -> Result<(), RecordError> {
        if self.is_torn.load(Ordering::Relaxed) {
            return Err(self.failed(&io::Error::other("an earlier sync failed")));
        }
        self.file.sync().map_err(|error| {
            self.is_torn.store(true, Ordering::Relaxed);
            self.failed(&error)
        })?;
        if !is_new {
            return Ok(());
        }
        self.disk.sync_dir(dir_of(&self.name)).map_err(|error| self.failed(&error))
    }

    /// Takes the file away, as far as the disk lets us: nothing of it is worth keeping.
    pub fn discard(&self) {
        if let Err(error) = self.disk.remove(&self.name) {
            log::warn!("{}: can't be removed: {error}", self.name);
        }
    }
}

/// The directory of a name in a storage.
pub fn dir_of(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(dir, _)| dir)
}

/// Removes a file and makes that permanent. One that is not there is as good as removed, unless the whole storage is
/// somewhere else.
pub fn remove(disk: &dyn Disk, name: &str) -> Result<(), RecordError> {
    let removed = match disk.remove(name) {
        Ok(()) => disk.sync_dir(dir_of(name)),
        Err(error) if error.kind() == ErrorKind::NotFound && disk.is_at_path() => Ok(()),
        Err(error) => Err(error),
    };
    removed.map_err(|error| RecordError::disk(Path::new(name), &error))
}

/// Makes sure that `root` exists and takes files. The storage of another recorder is not written to.
pub fn probe(root: &Path) -> Result<(), RecordError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o750)
        .create(root)
        .map_err(|error| RecordError::disk(root, &error))?;
    if root.join(super::storage::MARKER).exists() {
        return Ok(());
    }
    let trial = root.join(".lightnvr-write-test");
    let written = File::create(&trial).and_then(|mut file| file.write_all(b"write test"));
    let removed = std::fs::remove_file(&trial);
    written.and(removed).map_err(|error| RecordError::disk(&trial, &error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_that_a_recorder_gives_are_its_own() {
        for name in [
            "0/20250309_100000.mp4",
            "4294967295/20250309_100000_2.mp4",
            "7/19700101_000000_100.mp4",
        ] {
            assert!(is_recording_name(name), "{name}");
        }
        for name in [
            "20250309_100000.mp4",
            "00/20250309_100000.mp4",
            "+1/20250309_100000.mp4",
            "0/20250309_100000.MP4",
            "0/20250309-100000.mp4",
            "0/20250309_10000.mp4",
            "0/20250309_1000000.mp4",
            "0/20250309_100000_1.mp4",
            "0/20250309_100000_02.mp4",
            "0/20250309_100000_101.mp4",
            "0/20250309_100000_.mp4",
            "0/2025030é_10000.mp4",
            "0/holiday.mp4",
            "0/0/20250309_100000.mp4",
        ] {
            assert!(!is_recording_name(name), "{name}");
        }
        assert!(is_recording_name(&format!("0/{}.mp4", clock::file_stem(0))));
    }
}
