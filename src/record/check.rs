//! `lightnvr check`: holds store and files against each other and changes nothing.

use std::collections::HashSet;
use std::path::Path;

use super::RecordError;
use super::disk::Opener;
use super::recovery::{self, split_path};
use super::repair::{self, Found};
use super::storage;
use crate::store::Store;
use crate::store::row::RecordingRow;

/// Lists what does not agree, one sentence each; empty when all is well.
pub fn check(store: &Store, open: &Opener, root: &Path) -> Result<Vec<String>, RecordError> {
    let disk = match storage::look(open, store, root)? {
        Ok(disk) => disk,
        // Every recording would be reported as missing.
        Err(fault) => return Ok(vec![format!("{}: {}", root.display(), fault.for_check())]),
    };
    let mut findings = Vec::new();
    let files = match &disk {
        Some(disk) => recovery::files_of(disk.as_ref())?,
        None => Vec::new(),
    };
    let absolute = |name: &String| root.join(name).to_string_lossy().into_owned();
    let mut unknown: HashSet<String> = files.iter().map(absolute).collect();
    let mut paths: HashSet<String> = HashSet::new();
    let visited = store.reader().visit_behind(0, |row| {
        unknown.remove(&row.path);
        if !paths.insert(row.path.clone()) {
            findings.push(format!("recording {}: another row names {} too", row.id, row.path));
        }
        findings.extend(check_row(&row, open));
        true
    });
    visited.map_err(RecordError::Store)?;
    // Deletions that were begun; the next start finishes them.
    for (_, path) in store.reader().garbage(usize::MAX).map_err(RecordError::Store)? {
        unknown.remove(&path);
    }
    let mut files: Vec<_> = unknown.into_iter().collect();
    files.sort();
    for path in files {
        let name = split_path(&path).map(|(_, name)| name);
        let found = disk.as_ref().zip(name).map(|(disk, name)| repair::scan(disk.as_ref(), name));
        findings.push(match found {
            Some(Ok(Found::Foreign(why))) => format!("{path}: no row, left alone: {why}"),
            _ => format!("{path}: no row"),
        });
    }
    Ok(findings)
}

fn check_row(row: &RecordingRow, open: &Opener) -> Option<String> {
    let finding = |what: String| Some(format!("recording {}: {what} ({})", row.id, row.path));
    if row.in_progress {
        return finding("still marked as being written".into());
    }
    let Some((root, name)) = split_path(&row.path) else {
        return finding("not a path of a recording".into());
    };
    let disk = match open(root) {
        Ok(disk) => disk,
        Err(error) => return finding(format!("can't be read: {error}")),
    };
    let scan = match repair::scan(disk.as_ref(), name) {
        Err(error) => return finding(format!("can't be read: {error}")),
        Ok(Found::Foreign(why)) => return finding(format!("not a whole recording: {why}")),
        Ok(Found::Empty) => return finding("holds no whole fragment".into()),
        Ok(Found::Recording(scan)) => scan,
    };
    if scan.has_torn_tail {
        return finding("ends in the middle of a fragment".into());
    }
    if scan.media_end != row.size {
        return finding(format!("{} bytes, the row says {}", scan.media_end, row.size));
    }
    let end_ms = repair::end_ms(&scan, row.start_ms);
    if end_ms != row.end_ms {
        return finding(format!("ends at {end_ms} ms, the row says {}", row.end_ms));
    }
    match &scan.tag {
        Some(tag) if tag.stream_id != row.stream_id || tag.start_ms != row.start_ms => {
            finding("stream or start time differ from those in the file".into())
        }
        _ => None,
    }
}
