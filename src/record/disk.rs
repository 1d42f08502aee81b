//! What runs on a disk thread: create, append, patch, sync, remove. Blocking, one file at a time.
//!
//! In here: system calls and the name of a recording's file. Not in here: order of sync and rows
//! (`record/open.rs`). One thread per storage device, so that a stalled card delays nothing else.

use std::cell::RefCell;
use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, IoSlice, Write};
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

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
/// Slices in one `writev` (Linux takes at most 1024, `IOV_MAX`).
const SLICES_MAX: usize = 1024;

/// The disk threads, by device number.
#[derive(Debug, Default)]
pub struct Disks(RefCell<Vec<(u64, Pool)>>);

impl Disks {
    /// The thread for the device that holds `path`, or its nearest ancestor that exists.
    pub fn pool_for(&self, path: &Path) -> std::io::Result<Pool> {
        let metadata = path.ancestors().find_map(|place| std::fs::metadata(place).ok());
        let device = metadata.ok_or_else(|| std::io::Error::from(ErrorKind::NotFound))?.dev();
        let mut pools = self.0.borrow_mut();
        if let Some((_, pool)) = pools.iter().find(|(known, _)| *known == device) {
            return Ok(pool.clone());
        }
        if pools.len() >= DISKS_MAX
            && let Some((_, last)) = pools.last()
        {
            return Ok(last.clone());
        }
        let pool = Pool::start_from("disk", pools.len(), 1, DISK_JOBS_MAX)?;
        pools.push((device, pool.clone()));
        Ok(pool)
    }
}

/// A file that was just made.
#[derive(Debug)]
pub struct Created {
    pub file: Arc<File>,
    pub path: PathBuf,
}

/// Makes `<root>/<stream_id>/YYYYMMDD_HHMMSS.mp4` (`_2` and so on where that name is taken) and never
/// touches a file that is there.
pub fn create(root: &Path, stream_id: u32, start_ms: i64) -> Result<Created, RecordError> {
    let dir = root.join(stream_id.to_string());
    if !dir.is_dir() {
        DirBuilder::new()
            .recursive(true)
            .mode(0o750)
            .create(&dir)
            .map_err(|error| RecordError::disk(&dir, &error))?;
        sync_dir(root)?;
    }
    let stem = clock::file_stem(start_ms);
    for n in 1..=COLLISIONS_MAX {
        let name = if n == 1 { format!("{stem}.mp4") } else { format!("{stem}_{n}.mp4") };
        let path = dir.join(name);
        match OpenOptions::new().write(true).read(true).create_new(true).mode(0o640).open(&path) {
            Ok(file) => return Ok(Created { file: Arc::new(file), path }),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            Err(error) => return Err(RecordError::disk(&path, &error)),
        }
    }
    Err(RecordError::Disk {
        what: format!("{}: {COLLISIONS_MAX} files of one second", dir.join(stem).display()),
        kind: ErrorKind::AlreadyExists,
    })
}

/// Appends `heads` and then the packets' data, without copying them. On an error the file is cut back to
/// `len`, as far as the disk lets us.
pub fn append(
    created: &Created,
    len: u64,
    heads: &[&[u8]],
    packets: &[Arc<Packet>],
) -> Result<(), RecordError> {
    let mut slices: Vec<IoSlice<'_>> = heads
        .iter()
        .copied()
        .chain(packets.iter().map(|packet| packet.data.as_slice()))
        .filter(|slice| !slice.is_empty())
        .map(IoSlice::new)
        .collect();
    let written = write_all_vectored(&created.file, &mut slices);
    written.map_err(|error| {
        if let Err(error) = created.file.set_len(len) {
            log::warn!("{}: cutting back after a failed write: {error}", created.path.display());
        }
        RecordError::disk(&created.path, &error)
    })
}

fn write_all_vectored(mut file: &File, mut slices: &mut [IoSlice<'_>]) -> std::io::Result<()> {
    while !slices.is_empty() {
        let count = slices.len().min(SLICES_MAX);
        match file.write_vectored(&slices[..count]) {
            Ok(0) => return Err(ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(&mut slices, written),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Overwrites small ranges in the head of a file.
pub fn patch(file: &File, path: &Path, patches: &[(u64, Vec<u8>)]) -> Result<(), RecordError> {
    for (at, bytes) in patches {
        file.write_all_at(bytes, *at).map_err(|error| RecordError::disk(path, &error))?;
    }
    Ok(())
}

/// Makes a file's bytes and size permanent.
pub fn sync_file(file: &File, path: &Path) -> Result<(), RecordError> {
    file.sync_data().map_err(|error| RecordError::disk(path, &error))
}

/// Makes the names in a directory permanent.
pub fn sync_dir(dir: &Path) -> Result<(), RecordError> {
    let synced = File::open(dir).and_then(|opened| opened.sync_all());
    synced.map_err(|error| RecordError::disk(dir, &error))
}

/// Removes a file and makes that permanent. A file that is not there is as good as removed.
pub fn remove(path: &Path) -> Result<(), RecordError> {
    match std::fs::remove_file(path) {
        Ok(()) => path.parent().map_or(Ok(()), sync_dir),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        Err(error) => Err(RecordError::disk(path, &error)),
    }
}

/// Makes sure that `root` exists and takes files.
pub fn probe(root: &Path) -> Result<(), RecordError> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o750)
        .create(root)
        .map_err(|error| RecordError::disk(root, &error))?;
    let trial = root.join(".lightnvr-write-test");
    let written = File::create(&trial).and_then(|mut file| file.write_all(b"write test"));
    let removed = std::fs::remove_file(&trial);
    written.and(removed).map_err(|error| RecordError::disk(&trial, &error))
}
