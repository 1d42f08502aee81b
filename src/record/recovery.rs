//! What happens at the start and when a storage returns: files and rows are brought to agree.
//!
//! A row that was in progress gets the true length of its file; a file without a row is adopted, or removed if
//! nothing was recorded in it; a row without a file goes. Files that are not ours are left alone, and so is everything
//! that this life of the program writes. In here: one bounded step after the other (`Comparison::step`), blocking, for
//! a disk thread: streams record meanwhile. Not in here: when (`open`), and whether the storage is the right one
//! (`storage`): of one that is not there nothing is compared, for no row lost its file then.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use super::RecordError;
use super::disk::{Access, Disk, Opener};
use super::redate;
use super::repair::{self, Found};
use crate::store::row::RecordingRow;
use crate::store::{Change, STREAM_ID_BELIEVED_MAX, Store};
use crate::system::stats;

/// Newest rows that are looked through first for those that a crash left in progress.
const RECENT_ROWS_MAX: usize = 1024;
/// Rows of one step.
const ROWS_IN_A_STEP_MAX: usize = 512;
/// Garbage rows that are looked at: deletions go in rounds of some tens.
const GARBAGE_MAX: usize = 1024;
/// Files that one step opens. One without an index takes a read for each of its fragments.
const FILES_IN_A_STEP_MAX: usize = 4;

/// What recovery did, for the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Recovered {
    pub settled: u32,
    pub adopted: u32,
    pub removed_rows: u32,
    pub removed_files: u32,
    /// Files that the disk did not let us read or mend; they are left as they are.
    pub failed: u32,
}

/// Names of files that this life of the program makes: nobody else's business. The lock is held only to look.
#[derive(Clone, Debug, Default)]
pub struct OwnFiles(Arc<Mutex<HashSet<String>>>);

impl OwnFiles {
    pub fn insert(&self, path: String) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(path);
    }

    pub fn remove(&self, path: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(path);
    }

    pub fn contains(&self, path: &str) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).contains(path)
    }

    pub fn retain(&self, keep: impl Fn(&str) -> bool) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|path| keep(path));
    }
}

/// All recordings' files of a storage, `<number>/*.mp4`, by name.
pub fn files_of(disk: &dyn Disk) -> Result<Vec<String>, RecordError> {
    let mut files = Vec::new();
    for dir in stream_dirs(disk)? {
        files.extend(files_in(disk, &dir)?);
    }
    Ok(files)
}

/// One more than the highest id of a stream that has a directory here.
pub fn stream_id_floor(disk: &dyn Disk) -> Result<u32, RecordError> {
    let ids = stream_dirs(disk)?.into_iter().filter_map(|dir| dir.parse::<u32>().ok());
    let believed = ids.filter(|id| *id < STREAM_ID_BELIEVED_MAX);
    Ok(believed.max().map_or(0, |id| id + 1))
}

fn stream_dirs(disk: &dyn Disk) -> Result<Vec<String>, RecordError> {
    let mut names = disk.list("").map_err(|error| RecordError::disk(Path::new("."), &error))?;
    names.retain(|name| name.parse::<u32>().is_ok());
    names.sort();
    Ok(names)
}

fn files_in(disk: &dyn Disk, dir: &str) -> Result<Vec<String>, RecordError> {
    let names = match disk.list(dir) {
        Err(error) if matches!(error.kind(), ErrorKind::NotADirectory | ErrorKind::NotFound) => {
            return Ok(Vec::new());
        }
        names => names.map_err(|error| RecordError::disk(Path::new(dir), &error))?,
    };
    let videos = names.into_iter().filter(|name| name.ends_with(".mp4"));
    let mut files: Vec<String> = videos.map(|name| format!("{dir}/{name}")).collect();
    files.sort();
    Ok(files)
}

/// The storage and the name in it that an absolute path of a recording consists of.
pub fn split_path(path: &str) -> Option<(&Path, &str)> {
    let (dir, file) = path.rsplit_once('/')?;
    let (root, stream) = dir.rsplit_once('/')?;
    Some((Path::new(root), &path[path.len() - stream.len() - 1 - file.len()..]))
}

enum Stage {
    /// Recordings of which the true date was learnt late.
    Redate,
    /// The newest rows, because a crash left some of them in progress.
    Recent,
    /// Directories that are to be listed.
    List(Vec<String>),
    Rows {
        after: u64,
    },
    /// Directories that are to come, and files of the one that is at hand.
    Files {
        dirs: Vec<String>,
        files: Vec<String>,
    },
    Done,
}

/// Brings a store and the files of a storage to agree, step by step.
pub struct Comparison {
    root: PathBuf,
    own: OwnFiles,
    next_id: Arc<AtomicU64>,
    stage: Stage,
    hasher: RandomState,
    /// Sorted hashes of what is in the storage, and of what has a row: 8 bytes a recording.
    files: Vec<u64>,
    rows: Vec<u64>,
    recovered: Recovered,
}

impl Comparison {
    /// `next_id` gives adopted files their ids.
    pub fn new(root: PathBuf, own: OwnFiles, next_id: Arc<AtomicU64>) -> Self {
        Self {
            root,
            own,
            next_id,
            stage: Stage::Redate,
            hasher: RandomState::new(),
            files: Vec::new(),
            rows: Vec::new(),
            recovered: Recovered::default(),
        }
    }

    /// Does the next bit of work; answers what was done in all once nothing is left.
    pub fn step(
        &mut self,
        store: &Store,
        disk: &dyn Disk,
        open: &Opener,
    ) -> Result<Option<Recovered>, RecordError> {
        match std::mem::replace(&mut self.stage, Stage::Done) {
            Stage::Redate => {
                let left = redate::step(store, disk, open, &self.root, stats::boot_number())?;
                self.stage =
                    if left.has_more && left.done > 0 { Stage::Redate } else { Stage::Recent };
            }
            Stage::Recent => {
                self.finish_deletions(store, disk)?;
                self.settle_recent(store, disk, open)?;
                self.stage = Stage::List(stream_dirs(disk)?);
            }
            Stage::List(mut dirs) => {
                self.stage = match dirs.pop() {
                    Some(dir) => {
                        let files = files_in(disk, &dir)?;
                        let hashes: Vec<u64> = files.iter().map(|file| self.hash(file)).collect();
                        self.files.extend(hashes);
                        Stage::List(dirs)
                    }
                    None => {
                        self.files.sort_unstable();
                        Stage::Rows { after: 0 }
                    }
                };
            }
            Stage::Rows { after } => self.compare_rows(after, store, disk, open)?,
            Stage::Files { dirs, files } => self.compare_files(dirs, files, store, disk)?,
            Stage::Done => return Ok(Some(self.recovered)),
        }
        Ok(None)
    }

    fn hash(&self, name: &str) -> u64 {
        self.hasher.hash_one(name)
    }

    fn settle_recent(
        &mut self,
        store: &Store,
        disk: &dyn Disk,
        open: &Opener,
    ) -> Result<(), RecordError> {
        let mut changes = Vec::new();
        for row in store.reader().made_last(RECENT_ROWS_MAX).map_err(RecordError::Store)? {
            if self.is_left_open(&row) {
                changes.extend(self.settle(row, disk, open));
            }
        }
        commit(store, &changes)
    }

    /// Deletions that were begun; what is not done here is done by the next sweep.
    fn finish_deletions(&self, store: &Store, disk: &dyn Disk) -> Result<(), RecordError> {
        let mut changes = Vec::new();
        for (id, path) in store.reader().garbage(FILES_IN_A_STEP_MAX).map_err(RecordError::Store)? {
            let name = split_path(&path).filter(|(place, _)| *place == self.root);
            if name.is_some_and(|(_, name)| super::disk::remove(disk, name).is_ok()) {
                changes.push(Change::ForgetGarbage(id));
            }
        }
        commit(store, &changes)
    }

    fn is_left_open(&self, row: &RecordingRow) -> bool {
        row.in_progress && !self.own.contains(&row.path)
    }

    fn compare_rows(
        &mut self,
        after: u64,
        store: &Store,
        disk: &dyn Disk,
        open: &Opener,
    ) -> Result<(), RecordError> {
        let mut rows = Vec::new();
        let visited = store.reader().visit_behind(after, |row| {
            rows.push(row);
            rows.len() < ROWS_IN_A_STEP_MAX
        });
        visited.map_err(RecordError::Store)?;
        self.stage = match rows.last() {
            Some(last) => Stage::Rows { after: last.id },
            None => {
                self.rows.sort_unstable();
                Stage::Files { dirs: stream_dirs(disk)?, files: Vec::new() }
            }
        };
        let mut changes = Vec::new();
        for row in rows {
            let root = self.root.clone();
            let name = split_path(&row.path).filter(|(place, _)| *place == root);
            let Some(name) = name.map(|(_, name)| name.to_owned()) else {
                if self.is_left_open(&row) {
                    changes.extend(self.settle(row, disk, open));
                }
                continue;
            };
            let hash = self.hash(&name);
            self.rows.push(hash);
            if self.is_left_open(&row) {
                changes.extend(self.settle(row, disk, open));
            } else if self.files.binary_search(&hash).is_err()
                && !self.own.contains(&row.path)
                && is_gone(disk, &name)
            {
                log::warn!("recording {} has no file any more; its row is removed", row.id);
                self.recovered.removed_rows += 1;
                changes.push(Change::RemoveRecording(row.id));
            }
        }
        commit(store, &changes)
    }

    fn compare_files(
        &mut self,
        mut dirs: Vec<String>,
        mut files: Vec<String>,
        store: &Store,
        disk: &dyn Disk,
    ) -> Result<(), RecordError> {
        let mut changes = Vec::new();
        // A deletion that was begun is finished, not taken back.
        let garbage = store.reader().garbage(GARBAGE_MAX).map_err(RecordError::Store)?;
        let is_garbage = |path: &str| garbage.iter().any(|(_, garbage)| garbage == path);
        let mut left = FILES_IN_A_STEP_MAX;
        while left > 0
            && let Some(name) = files.pop()
        {
            let path = self.root.join(&name).to_string_lossy().into_owned();
            if self.rows.binary_search(&self.hash(&name)).is_err()
                && !self.own.contains(&path)
                && !is_garbage(&path)
            {
                left -= 1;
                changes.extend(self.adopt(disk, &name, path));
            }
        }
        commit(store, &changes)?;
        if files.is_empty() {
            let Some(dir) = dirs.pop() else { return Ok(()) };
            files = files_in(disk, &dir)?;
            files.reverse();
        }
        self.stage = Stage::Files { dirs, files };
        Ok(())
    }

    /// Settles `row` on its own storage, which need not be the one that is compared.
    fn settle(&mut self, row: RecordingRow, disk: &dyn Disk, open: &Opener) -> Option<Change> {
        let place = split_path(&row.path).map(|(root, name)| (root.to_owned(), name.to_owned()));
        let (root, name) = place?;
        if root == self.root {
            return settle(row, disk, &name, &mut self.recovered);
        }
        // A storage of earlier that is not there now: its rows wait for it.
        let elsewhere = open(&root).ok()?;
        settle(row, elsewhere.as_ref(), &name, &mut self.recovered)
    }

    /// The row of a file that has none.
    fn adopt(&mut self, disk: &dyn Disk, name: &str, path: String) -> Option<Change> {
        match repair::repair(disk, name) {
            Ok(Found::Recording(scan)) => {
                let tag = scan.tag.as_ref()?;
                self.recovered.adopted += 1;
                Some(Change::PutRecording(RecordingRow {
                    id: self.next_id.fetch_add(1, Ordering::Relaxed),
                    stream_id: tag.stream_id,
                    stream_name: tag.stream_name.clone(),
                    start_ms: tag.start_ms,
                    end_ms: repair::end_ms(&scan, tag.start_ms),
                    size: scan.media_end,
                    path,
                    in_progress: false,
                    is_protected: false,
                    boot: 0,
                }))
            }
            // A file of ours always begins with its head and first fragment in one write: this one was torn in it.
            Ok(Found::Empty) => {
                remove(disk, name, &mut self.recovered);
                None
            }
            Ok(Found::Foreign(why)) => {
                log::warn!("{name} is left alone: {why}");
                None
            }
            Err(_) if is_gone(disk, name) => None,
            Err(error) => {
                log::warn!("left as it is: {error}");
                self.recovered.failed += 1;
                None
            }
        }
    }
}

/// The row of a recording that was being written when the program ended or its disk failed.
pub fn settle(
    row: RecordingRow,
    disk: &dyn Disk,
    name: &str,
    recovered: &mut Recovered,
) -> Option<Change> {
    match repair::repair(disk, name) {
        Ok(Found::Recording(scan)) => {
            recovered.settled += 1;
            let end_ms = repair::end_ms(&scan, row.start_ms);
            let size = scan.media_end;
            Some(Change::PutRecording(RecordingRow { end_ms, size, in_progress: false, ..row }))
        }
        Ok(Found::Empty) => {
            remove(disk, name, recovered).then_some(Change::RemoveRecording(row.id))
        }
        Ok(Found::Foreign(why)) => {
            log::warn!("recording {} can't be read ({why}); its row is removed", row.id);
            recovered.removed_rows += 1;
            Some(Change::RemoveRecording(row.id))
        }
        Err(_) if is_gone(disk, name) => {
            log::warn!("recording {} has no file any more; its row is removed", row.id);
            recovered.removed_rows += 1;
            Some(Change::RemoveRecording(row.id))
        }
        Err(error) => {
            log::warn!("recording {} is left as it is: {error}", row.id);
            recovered.failed += 1;
            None
        }
    }
}

/// Removes a file in which nothing was recorded.
fn remove(disk: &dyn Disk, name: &str, recovered: &mut Recovered) -> bool {
    let removed = super::disk::remove(disk, name);
    match &removed {
        Ok(()) => recovered.removed_files += 1,
        Err(error) => {
            log::warn!("left as it is: {error}");
            recovered.failed += 1;
        }
    }
    removed.is_ok()
}

/// Whether the storage is there and the file is not.
pub fn is_gone(disk: &dyn Disk, name: &str) -> bool {
    let opened = disk.open(name, Access::Read);
    opened.is_err_and(|error| error.kind() == ErrorKind::NotFound) && disk.is_at_path()
}

fn commit(store: &Store, changes: &[Change]) -> Result<(), RecordError> {
    if changes.is_empty() {
        return Ok(());
    }
    store.commit(changes).map_err(RecordError::Store)
}

/// All steps at once.
pub fn recover(
    store: &Store,
    disk: &dyn Disk,
    open: &Opener,
    root: &Path,
    next_id: Arc<AtomicU64>,
) -> Result<Recovered, RecordError> {
    let mut comparison = Comparison::new(root.to_owned(), OwnFiles::default(), next_id);
    loop {
        if let Some(recovered) = comparison.step(store, disk, open)? {
            return Ok(recovered);
        }
    }
}
