//! `lightnvr check --rebuild`: the rows made anew from the files alone, which say stream, name and true start.
//!
//! In here: every file of the storage is read and mended; a row that is known keeps its id and what only a row knows.
//! Not in here: streams and settings, which no file holds. Blocking, while no recorder runs.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use super::RecordError;
use super::disk::{Disk, Opener};
use super::recovery::files_of;
use super::repair::{self, Found};
use super::storage::{self, Consent, StorageFault};
use crate::store::row::RecordingRow;
use crate::store::{Change, Store};

/// Changes in one transaction.
const BATCH_MAX: usize = 512;

/// Does it; answers what was done, in a sentence.
pub fn rebuild(
    store: &Store,
    open: &Opener,
    root: &Path,
    mut next_id: u64,
) -> Result<String, RecordError> {
    let disk = match storage::attach(open, store, root, Consent::No) {
        // A store that was lost does not know its storage any more. One that is missing stays missing.
        Err(RecordError::Storage(StorageFault::Foreign)) => {
            storage::attach(open, store, root, Consent::Adopt)?
        }
        attached => attached?,
    };
    let mut known = rows_below(store, root)?;
    let (mut rows, mut left_alone) = (Vec::new(), 0_u32);
    // Deletions that were begun; the next start finishes them.
    let garbage = store.reader().garbage(usize::MAX).map_err(RecordError::Store)?;
    let garbage: HashSet<String> = garbage.into_iter().map(|(_, path)| path).collect();
    for name in files_of(disk.as_ref())? {
        let path = root.join(&name).to_string_lossy().into_owned();
        if garbage.contains(&path) {
            continue;
        }
        match row_of(disk.as_ref(), &name, path, &mut known) {
            Ok(Some(row)) => rows.push(row),
            Ok(None) => left_alone += 1,
            Err(error) => {
                log::warn!("{error}");
                left_alone += 1;
            }
        }
    }
    // Ids rise with time, as they would have.
    rows.sort_by_key(|row| (row.start_ms, row.stream_id));
    for row in rows.iter_mut().filter(|row| row.id == 0) {
        row.id = next_id;
        next_id += 1;
    }
    let (kept, gone) = (rows.len(), known.len());
    let mut changes: Vec<Change> = rows.into_iter().map(Change::PutRecording).collect();
    changes.extend(known.into_values().map(|row| Change::RemoveRecording(row.id)));
    for batch in changes.chunks(BATCH_MAX) {
        store.commit(batch).map_err(RecordError::Store)?;
    }
    Ok(format!(
        "{kept} recordings; {gone} rows without a file are gone, {left_alone} files without a recording are left alone"
    ))
}

fn rows_below(store: &Store, root: &Path) -> Result<HashMap<String, RecordingRow>, RecordError> {
    let mut rows = HashMap::new();
    let visited = store.reader().visit_behind(0, |row| {
        if Path::new(&row.path).starts_with(root) {
            rows.insert(row.path.clone(), row);
        }
        true
    });
    visited.map_err(RecordError::Store)?;
    Ok(rows)
}

/// The row of a file, with id 0 if it is new; `None` for a file that holds no recording.
fn row_of(
    disk: &dyn Disk,
    name: &str,
    path: String,
    known: &mut HashMap<String, RecordingRow>,
) -> Result<Option<RecordingRow>, RecordError> {
    let Found::Recording(scan) = repair::repair(disk, name)? else { return Ok(None) };
    let Some(tag) = &scan.tag else { return Ok(None) };
    let of_file = RecordingRow {
        is_protected: false,
        boot: 0,
        id: 0,
        stream_id: tag.stream_id,
        stream_name: tag.stream_name.clone(),
        start_ms: tag.start_ms,
        end_ms: repair::end_ms(&scan, tag.start_ms),
        size: scan.media_end,
        path,
        in_progress: false,
    };
    Ok(Some(match known.remove(&of_file.path) {
        None => of_file,
        Some(row) => RecordingRow {
            stream_id: of_file.stream_id,
            start_ms: of_file.start_ms,
            end_ms: of_file.end_ms,
            size: of_file.size,
            in_progress: false,
            ..row
        },
    }))
}
