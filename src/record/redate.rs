//! Recordings of a board without clock chip that were made before it knew the time: file and row get their true date.
//!
//! In here: one recording after the other, blocking, for a disk thread. The dates in the file's head are overwritten,
//! then it is renamed, then the row follows; each may be the last step before a power cut, and the next look goes on
//! from there, for the row says the true date until it has it. Not in here: by how much (`ledger/clock_core`), when
//! (`attached`). No file is ever overwritten.

use std::io::ErrorKind;
use std::path::Path;

use super::RecordError;
use super::disk::{self, Access, Disk, Opener, dir_of};
use super::recovery::{is_gone, split_path};
use super::repair::{self, Found};
use crate::ledger::clock_core::Redate;
use crate::media::fmp4;
use crate::store::row::RecordingRow;
use crate::store::{Change, Store};

/// Recordings of one look.
const ROWS_MAX: usize = 8;

/// What is left to do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Left {
    /// Recordings that were dated anew.
    pub done: u32,
    /// There are more, or some that can't be now.
    pub has_more: bool,
}

/// Dates some recordings anew; one that is elsewhere, or can't be, waits. `boot` is the present run of the machine: of
/// earlier ones nothing more will come.
pub fn step(
    store: &Store,
    disk: &dyn Disk,
    open: &Opener,
    root: &Path,
    boot: u64,
) -> Result<Left, RecordError> {
    let reader = store.reader();
    let mut left = Left::default();
    for redate in reader.redates().map_err(RecordError::Store)? {
        let rows = reader.wrongly_dated(&redate, ROWS_MAX).map_err(RecordError::Store)?;
        if rows.is_empty() && redate.boot != boot {
            let done = [Change::RemoveRedate(redate.boot)];
            store.commit(&done).map_err(RecordError::Store)?;
        }
        left.has_more |= rows.len() == ROWS_MAX;
        for row in rows {
            let Some((place, name)) = split_path(&row.path) else { continue };
            let elsewhere = if place == root { None } else { open(place).ok() };
            let done = match &elsewhere {
                None if place != root => continue,
                None => redate_one(store, disk, place, name, &row, &redate),
                Some(elsewhere) => {
                    redate_one(store, elsewhere.as_ref(), place, name, &row, &redate)
                }
            };
            match done {
                Ok(()) => left.done += 1,
                Err(error) => {
                    log::warn!("recording {} keeps its wrong date for now: {error}", row.id);
                    left.has_more = true;
                }
            }
        }
    }
    Ok(left)
}

fn redate_one(
    store: &Store,
    disk: &dyn Disk,
    place: &Path,
    name: &str,
    row: &RecordingRow,
    redate: &Redate,
) -> Result<(), RecordError> {
    let start_ms = redate.dated(row.start_ms);
    let moved = if is_gone(disk, name) {
        // The power went behind the renaming, or nobody knows where it is: then its row goes when files are compared.
        find_moved(disk, name, row.stream_id, start_ms)?
    } else {
        patch(disk, name, start_ms)?;
        Some(move_to_date(disk, name, start_ms)?)
    };
    let Some(moved) = moved else { return Ok(()) };
    let new = RecordingRow {
        start_ms,
        end_ms: row.end_ms.saturating_add(redate.by_ms),
        path: place.join(&moved).to_string_lossy().into_owned(),
        boot: 0,
        ..row.clone()
    };
    let change = Change::ReplaceRecording { old: row.clone(), new };
    store.commit(&[change]).map_err(RecordError::Store)?;
    if store.reader().recording(row.id).map_err(RecordError::Store)?.is_none() {
        // Deleted meanwhile, under its old name.
        return disk::remove(disk, &moved);
    }
    Ok(())
}

/// Makes the true date permanent in the file.
fn patch(disk: &dyn Disk, name: &str, start_ms: i64) -> Result<(), RecordError> {
    let failed = |error: &std::io::Error| RecordError::disk(Path::new(name), error);
    let Found::Recording(scan) = repair::scan(disk, name)? else { return Ok(()) };
    let file = disk.open(name, Access::Mend).map_err(|error| failed(&error))?;
    for (at, bytes) in fmp4::dating_patches(&scan, start_ms) {
        file.write_at(&bytes, at).map_err(|error| failed(&error))?;
    }
    file.sync().map_err(|error| failed(&error))
}

/// Renames the file after its date; answers its new name.
fn move_to_date(disk: &dyn Disk, name: &str, start_ms: i64) -> Result<String, RecordError> {
    let failed = |error: &std::io::Error| RecordError::disk(Path::new(name), error);
    for new in disk::names(dir_of(name), start_ms) {
        if new == name {
            return Ok(new);
        }
        match disk.rename(name, &new) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
            renamed => {
                renamed.map_err(|error| failed(&error))?;
                disk.sync_dir(dir_of(name)).map_err(|error| failed(&error))?;
                return Ok(new);
            }
        }
    }
    Err(failed(&ErrorKind::AlreadyExists.into()))
}

/// The file of this stream and start under one of the names that it can have been given.
fn find_moved(
    disk: &dyn Disk,
    name: &str,
    stream_id: u32,
    start_ms: i64,
) -> Result<Option<String>, RecordError> {
    for new in disk::names(dir_of(name), start_ms) {
        if is_gone(disk, &new) {
            return Ok(None);
        }
        if let Found::Recording(scan) = repair::scan(disk, &new)?
            && scan.tag.is_some_and(|tag| tag.stream_id == stream_id && tag.start_ms == start_ms)
        {
            return Ok(Some(new));
        }
    }
    Ok(None)
}
