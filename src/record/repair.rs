//! Reads a recording's file from the outside, and mends what a crash left: a torn tail, a missing index.
//!
//! In here: driving the pure scanner with reads, cutting and patching. Not in here: which files (`recovery`).

use std::path::Path;

use super::RecordError;
use super::disk::{Access, Disk, DiskFile, dir_of};
use crate::media::fmp4;
use crate::media::fmp4_scan::{Scan, ScanError, Scanner, Want};

/// What is in a file.
#[derive(Debug)]
pub enum Found {
    /// A recording of ours with at least one whole fragment.
    Recording(Scan),
    /// A recording of ours that never got a whole fragment.
    Empty,
    /// Not a file of ours; why.
    Foreign(String),
}

/// Scans the file; changes nothing.
pub fn scan(disk: &dyn Disk, name: &str) -> Result<Found, RecordError> {
    let failed = |error: std::io::Error| RecordError::disk(Path::new(name), &error);
    let file = disk.open(name, Access::Read).map_err(failed)?;
    scan_file(file.as_ref()).map_err(failed)
}

fn scan_file(file: &dyn DiskFile) -> std::io::Result<Found> {
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
            Want::Done(Err(ScanError::TornHead)) => return Ok(Found::Empty),
            Want::Done(Err(ScanError::NotRecording { what })) => return Ok(Found::Foreign(what)),
            Want::Done(Ok(scan)) if scan.tag.is_none() => {
                return Ok(Found::Foreign("no recording of this program".into()));
            }
            Want::Done(Ok(scan)) if scan.fragments.is_empty() => return Ok(Found::Empty),
            Want::Done(Ok(scan)) => return Ok(Found::Recording(scan)),
        }
    }
}

/// Scans the file, cuts off what is not whole, writes the index, and makes all of it permanent, the name included.
pub fn repair(disk: &dyn Disk, name: &str) -> Result<Found, RecordError> {
    let failed = |error: std::io::Error| RecordError::disk(Path::new(name), &error);
    let file = disk.open(name, Access::Mend).map_err(failed)?;
    let found = scan_file(file.as_ref()).map_err(failed)?;
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
    for (at, bytes) in finishing_patches(scan) {
        file.write_at(&bytes, at)?;
    }
    file.sync()
}

/// The end of a scanned recording, Unix milliseconds.
pub fn end_ms(scan: &Scan, start_ms: i64) -> i64 {
    start_ms.saturating_add(i64::try_from(scan.duration_ticks / 90).unwrap_or(i64::MAX))
}

/// What finishing would have written into the head.
fn finishing_patches(scan: &Scan) -> Vec<(u64, Vec<u8>)> {
    let mut patches = Vec::new();
    if !scan.is_indexed {
        let index = fmp4::encode_index(&scan.fragments, scan.index_slots, scan.earliest_pts);
        patches.extend(scan.index_at.map(|at| (at, index)));
        patches.extend(scan.duration_at.map(|at| (at, scan.duration_ticks.to_be_bytes().to_vec())));
    }
    patches
}
