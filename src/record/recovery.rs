//! What happens before anything is recorded: files and rows are brought to agree.
//!
//! A row that was in progress gets the true length of its file; a file without a row is adopted, or removed if
//! nothing was recorded in it; a row without a file goes. Files that are not ours are left alone.
//! Blocking; runs before the executor serves anybody.

use std::collections::HashSet;
use std::path::{Path, PathBuf};

use super::RecordError;
use super::repair::{self, Found};
use crate::store::row::RecordingRow;
use crate::store::{Change, RecordingQuery, Store};

/// Changes in one transaction.
const BATCH_MAX: usize = 512;

/// What recovery did, for the log.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    pub settled: u32,
    pub adopted: u32,
    pub removed_rows: u32,
    pub removed_files: u32,
}

/// All recordings' files below `root`: `<root>/<number>/*.mp4`.
pub fn files_below(root: &Path) -> Result<Vec<PathBuf>, RecordError> {
    let mut files = Vec::new();
    for dir in entries(root)? {
        let is_stream = dir
            .file_name()
            .is_some_and(|name| name.to_str().is_some_and(|name| name.parse::<u32>().is_ok()));
        if is_stream && dir.is_dir() {
            files.extend(
                entries(&dir)?.into_iter().filter(|f| f.extension().is_some_and(|e| e == "mp4")),
            );
        }
    }
    files.sort();
    Ok(files)
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, RecordError> {
    match std::fs::read_dir(dir) {
        Ok(entries) => entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<Result<_, _>>()
            .map_err(|error| RecordError::disk(dir, &error)),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(RecordError::disk(dir, &error)),
    }
}

/// Brings `store` and the files below `root` to agree. `next_id` is the first id for an adopted file; answers
/// the first that is free afterwards.
pub fn recover(
    store: &Store,
    root: &Path,
    mut next_id: u64,
) -> Result<(u64, Recovered), RecordError> {
    let mut recovered = Recovered::default();
    let mut unknown: HashSet<PathBuf> = files_below(root)?.into_iter().collect();
    let (mut open_rows, mut lost_rows) = (Vec::new(), Vec::new());
    let everything = RecordingQuery::default();
    let visited = store.reader().visit(&everything, |row| {
        let is_there = unknown.remove(Path::new(&row.path));
        if row.in_progress {
            open_rows.push(row);
        } else if !is_there && Path::new(&row.path).starts_with(root) {
            lost_rows.push(row.id);
        }
        true
    });
    visited.map_err(RecordError::Store)?;
    let mut changes = Vec::new();
    for row in open_rows {
        changes.push(settle(row, &mut recovered)?);
    }
    for id in lost_rows {
        log::warn!("recording {id} has no file any more; its row is removed");
        recovered.removed_rows += 1;
        changes.push(Change::RemoveRecording(id));
    }
    let mut files: Vec<_> = unknown.into_iter().collect();
    files.sort();
    for path in files {
        if let Some(row) = adopt(&path, next_id, &mut recovered)? {
            next_id += 1;
            changes.push(Change::PutRecording(row));
        }
    }
    for batch in changes.chunks(BATCH_MAX) {
        store.commit(batch).map_err(RecordError::Store)?;
    }
    Ok((next_id, recovered))
}

/// The row of a recording that was being written when the program ended.
fn settle(row: RecordingRow, recovered: &mut Recovered) -> Result<Change, RecordError> {
    let path = PathBuf::from(&row.path);
    let found =
        if path.exists() { repair::repair(&path)? } else { Found::Foreign("no file".into()) };
    match found {
        Found::Recording(scan) => {
            recovered.settled += 1;
            let end_ms = repair::end_ms(&scan, row.start_ms);
            Ok(Change::PutRecording(RecordingRow {
                end_ms,
                size: scan.media_end,
                in_progress: false,
                ..row
            }))
        }
        Found::Empty => {
            recovered.removed_files += 1;
            super::disk::remove(&path)?;
            Ok(Change::RemoveRecording(row.id))
        }
        Found::Foreign(why) => {
            log::warn!("recording {} can't be read ({why}); its row is removed", row.id);
            recovered.removed_rows += 1;
            Ok(Change::RemoveRecording(row.id))
        }
    }
}

/// The row of a file that has none.
fn adopt(
    path: &Path,
    id: u64,
    recovered: &mut Recovered,
) -> Result<Option<RecordingRow>, RecordError> {
    match repair::repair(path)? {
        Found::Recording(scan) => {
            let Some(tag) = &scan.tag else { return Ok(None) };
            recovered.adopted += 1;
            Ok(Some(RecordingRow {
                id,
                stream_id: tag.stream_id,
                stream_name: tag.stream_name.clone(),
                start_ms: tag.start_ms,
                end_ms: repair::end_ms(&scan, tag.start_ms),
                size: scan.media_end,
                path: path.to_string_lossy().into_owned(),
                in_progress: false,
            }))
        }
        // A file of ours always begins with its head and first fragment in one write: this one was torn in it.
        Found::Empty => {
            recovered.removed_files += 1;
            super::disk::remove(path)?;
            Ok(None)
        }
        Found::Foreign(why) => {
            log::warn!("{} is left alone: {why}", path.display());
            Ok(None)
        }
    }
}
