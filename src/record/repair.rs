//! Reads a recording's file from the outside, and mends what a crash left: a torn tail, a missing index.
//!
//! In here: driving the pure scanner with reads, cutting and patching, and which file without media is ours to remove.
//! Not in here: which files are looked at (`recovery`).

use std::path::Path;

use super::RecordError;
use super::disk::{self, Access, Disk, DiskFile, dir_of};
use crate::media::fmp4;
use crate::media::fmp4_scan::{Scan, ScanError, Scanner, Want};

/// What is in a file.
#[derive(Debug)]
pub enum Found {
    /// A recording of ours with at least one whole fragment.
    Recording(Scan),
    /// A recording of ours that never got a whole fragment: by its name, its kind and its first bytes.
    Empty,
    /// Not a file of ours; why.
    Foreign(String),
}

/// Scans the file; changes nothing.
pub fn scan(disk: &dyn Disk, name: &str) -> Result<Found, RecordError> {
    let failed = |error: std::io::Error| RecordError::disk(Path::new(name), &error);
    match disk.open(name, Access::Read) {
        Err(error) if disk::is_no_file(&error) => Ok(Found::Foreign(error.to_string())),
        opened => scan_file(opened.map_err(failed)?.as_ref(), name).map_err(failed),
    }
}

/// Nothing whole is in the file. Only what can be nothing else than ours is `Empty`, for that is removed.
fn without_media(file: &dyn DiskFile, name: &str) -> std::io::Result<Found> {
    let mut head = [0; fmp4::OWN_HEAD_BYTES];
    let len = file.size()?.min(head.len() as u64) as usize; // <= OWN_HEAD_BYTES
    file.read_at(&mut head[..len], 0)?;
    if disk::is_recording_name(name) && fmp4::is_own_head(&head[..len]) {
        return Ok(Found::Empty);
    }
    Ok(Found::Foreign("ends within its head, and is not a file of this program".into()))
}

fn scan_file(file: &dyn DiskFile, name: &str) -> std::io::Result<Found> {
    let len = file.size()?;
    let mut scanner = Scanner::new(len);
    let mut buffer = Vec::new();
    loop {
        match scanner.next() {
            Want::Read { at, len } => {
                buffer.resize(len, 0);
                file.read_at(&mut buffer, at)?;
                scanner.feed(&buffer);
            }
            Want::Done(Err(ScanError::TornHead)) => return without_media(file, name),
            Want::Done(Err(ScanError::NotRecording { what })) => return Ok(Found::Foreign(what)),
            Want::Done(Ok(scan)) if scan.tag.is_none() => {
                return Ok(Found::Foreign("no recording of this program".into()));
            }
            Want::Done(Ok(scan)) if scan.fragments.is_empty() => return without_media(file, name),
            Want::Done(Ok(scan)) => return Ok(Found::Recording(scan)),
        }
    }
}

/// Scans the file, cuts off what is not whole, writes the index, and makes all of it permanent, the name included.
pub fn repair(disk: &dyn Disk, name: &str) -> Result<Found, RecordError> {
    let failed = |error: std::io::Error| RecordError::disk(Path::new(name), &error);
    let file = match disk.open(name, Access::Mend) {
        Err(error) if disk::is_no_file(&error) => return Ok(Found::Foreign(error.to_string())),
        opened => opened.map_err(failed)?,
    };
    let found = scan_file(file.as_ref(), name).map_err(failed)?;
    if let Found::Recording(scan) = &found {
        mend(file.as_ref(), scan).map_err(failed)?;
        disk.sync_dir(dir_of(name)).map_err(failed)?;
    }
    Ok(found)
}

fn mend(file: &dyn DiskFile, scan: &Scan) -> std::io::Result<()> {
    if scan.has_torn_tail {
        file.set_len(scan.media_end)?;
    }
    for (at, bytes) in fmp4::finishing_patches(scan) {
        file.write_at(&bytes, at)?;
    }
    file.sync()
}

/// The end of a scanned recording, Unix milliseconds.
pub fn end_ms(scan: &Scan, start_ms: i64) -> i64 {
    start_ms.saturating_add(i64::try_from(scan.duration_ticks / 90).unwrap_or(i64::MAX))
}
