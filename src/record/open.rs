//! The recordings that are being written: what is on the disk, what is synced, what has a row.
//!
//! In here: the order of file, name and row (FILE-BEFORE-ROW) and the batched sync round. Not in here: what is in
//! the files (`cut_core`), the calls themselves (`disk`). Lives on the executor; the disk threads get jobs.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;

use super::RecordError;
use super::cut_core::{Fragment, Opening};
use super::disk::{self, Created, Disks};
use crate::nvr::snapshot::RunningRecording;
use crate::store::row::RecordingRow;
use crate::store::{Change, Store};
use crate::system::pool::Pool;

/// One file that is being written.
struct Open {
    created: Arc<Created>,
    pool: Pool,
    /// What a power cut can't take back: `size` and `end_ms` are synced.
    row: RecordingRow,
    written: u64,
    written_end_ms: i64,
    has_row: bool,
    /// Its last row is on its way: rounds leave it alone.
    is_finishing: bool,
}

/// All of them, shared by the writers of all streams.
pub struct OpenRecordings {
    pub store: Store,
    pub store_pool: Pool,
    pub disks: Disks,
    /// Where new recordings go.
    root: RefCell<PathBuf>,
    next_id: Cell<u64>,
    open: RefCell<BTreeMap<u64, Open>>,
}

/// What a round found of one file, before it was synced.
struct Appended {
    id: u64,
    created: Arc<Created>,
    size: u64,
    end_ms: i64,
    is_new: bool,
}

impl OpenRecordings {
    pub fn new(
        store: Store,
        store_pool: Pool,
        disks: Disks,
        root: PathBuf,
        next_id: u64,
    ) -> Rc<Self> {
        Rc::new(Self {
            store,
            store_pool,
            disks,
            root: RefCell::new(root),
            next_id: Cell::new(next_id),
            open: RefCell::default(),
        })
    }

    /// Recordings that begin from now on go below `root`.
    pub fn set_root(&self, root: PathBuf) {
        *self.root.borrow_mut() = root;
    }

    /// What is being written, as far as it is synced, by rising id.
    pub fn running(&self) -> Vec<RunningRecording> {
        let open = self.open.borrow();
        let running = open.values().map(|open| RunningRecording {
            id: open.row.id,
            stream_id: open.row.stream_id,
            stream_name: open.row.stream_name.clone(),
            start_ms: open.row.start_ms,
            end_ms: open.row.end_ms,
            size: open.row.size,
            path: open.row.path.clone(),
        });
        running.collect()
    }

    /// Whether this recording is being written.
    pub fn is_open(&self, id: u64) -> bool {
        self.open.borrow().contains_key(&id)
    }

    /// Makes a file with its first fragment; answers the recording's id.
    pub async fn create(
        &self,
        stream_id: u32,
        stream_name: &str,
        opening: Opening,
        fragment: Fragment,
    ) -> Result<u64, RecordError> {
        let root = self.root.borrow().clone();
        let pool = self.disks.pool_for(&root).map_err(|error| RecordError::disk(&root, &error))?;
        let start_ms = opening.start_ms;
        let (end_ms, written) = (fragment.end_ms, opening.init.len() as u64 + fragment.len);
        let job = move || {
            let created = disk::create(&root, stream_id, start_ms)?;
            let heads: [&[u8]; 2] = [&opening.init, &fragment.head];
            if let Err(error) = disk::append(&created, 0, &heads, &fragment.packets) {
                // Nothing of it is worth keeping.
                let _ = std::fs::remove_file(&created.path);
                return Err(error);
            }
            Ok(created)
        };
        let created = pool.run(job).await.map_err(RecordError::Pool)??;
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        let row = RecordingRow {
            id,
            stream_id,
            stream_name: stream_name.to_owned(),
            start_ms,
            end_ms: start_ms,
            size: 0,
            path: created.path.to_string_lossy().into_owned(),
            in_progress: true,
        };
        let open = Open {
            created: Arc::new(created),
            pool,
            row,
            written,
            written_end_ms: end_ms,
            has_row: false,
            is_finishing: false,
        };
        self.open.borrow_mut().insert(id, open);
        Ok(id)
    }

    /// Appends a fragment to recording `id`.
    pub async fn append(&self, id: u64, fragment: Fragment) -> Result<(), RecordError> {
        let Some((created, pool, len)) = self
            .open
            .borrow()
            .get(&id)
            .map(|open| (Arc::clone(&open.created), open.pool.clone(), open.written))
        else {
            return Ok(());
        };
        let (more, end_ms) = (fragment.len, fragment.end_ms);
        let job = move || disk::append(&created, len, &[&fragment.head], &fragment.packets);
        pool.run(job).await.map_err(RecordError::Pool)??;
        if let Some(open) = self.open.borrow_mut().get_mut(&id) {
            open.written += more;
            open.written_end_ms = end_ms;
        }
        Ok(())
    }

    /// Ends recording `id`: patches its head, syncs it, writes its last row. Also called with no patches after
    /// an append failed: what was written before is kept.
    pub async fn finish(&self, id: u64, patches: Vec<(u64, Vec<u8>)>) -> Result<(), RecordError> {
        let Some((created, pool, row)) = self.open.borrow_mut().get_mut(&id).map(|open| {
            open.is_finishing = true;
            let row = RecordingRow {
                end_ms: open.written_end_ms,
                size: open.written,
                in_progress: false,
                ..open.row.clone()
            };
            (Arc::clone(&open.created), open.pool.clone(), row)
        }) else {
            return Ok(());
        };
        let job = move || {
            disk::patch(&created.file, &created.path, &patches)?;
            disk::sync_file(&created.file, &created.path)?;
            created.path.parent().map_or(Ok(()), disk::sync_dir)
        };
        let synced = pool.run(job).await.map_err(RecordError::Pool).and_then(|done| done);
        let done = match synced {
            Ok(()) => self.commit(vec![Change::PutRecording(row)]).await,
            Err(error) => Err(error),
        };
        self.open.borrow_mut().remove(&id);
        done
    }

    /// Makes what was appended since the last round permanent, for all open files at once, one batch per disk;
    /// then the rows of new files, in one transaction. Answers the first error; the other files are synced all the same.
    pub async fn sync_round(&self) -> Result<(), RecordError> {
        let mut batches: Vec<(Pool, Vec<Appended>)> = Vec::new();
        for (id, open) in self.open.borrow().iter() {
            if open.is_finishing || (open.has_row && open.written == open.row.size) {
                continue;
            }
            let appended = Appended {
                id: *id,
                created: Arc::clone(&open.created),
                size: open.written,
                end_ms: open.written_end_ms,
                is_new: !open.has_row,
            };
            match batches.iter_mut().find(|(pool, _)| pool.is_same(&open.pool)) {
                Some((_, batch)) => batch.push(appended),
                None => batches.push((open.pool.clone(), vec![appended])),
            }
        }
        let mut result = Ok(());
        for (pool, batch) in batches {
            let synced = pool.run(move || sync_batch(batch)).await.map_err(RecordError::Pool);
            let done = match synced {
                Ok((batch, None)) => self.note_synced(batch).await,
                Ok((batch, Some(error))) => self.note_synced(batch).await.and(Err(error)),
                Err(error) => Err(error),
            };
            result = result.and(done);
        }
        result
    }

    async fn note_synced(&self, batch: Vec<Appended>) -> Result<(), RecordError> {
        let mut changes = Vec::new();
        for appended in &batch {
            if let Some(open) = self.open.borrow_mut().get_mut(&appended.id)
                && !open.is_finishing
            {
                open.row.size = appended.size;
                open.row.end_ms = appended.end_ms;
                if !open.has_row {
                    open.has_row = true;
                    changes.push(Change::PutRecording(open.row.clone()));
                }
            }
        }
        if changes.is_empty() {
            return Ok(());
        }
        // A recording that finishes meanwhile commits after this: the store's thread keeps the order.
        self.commit(changes).await
    }

    /// One durable transaction on the store's disk thread.
    pub async fn commit(&self, changes: Vec<Change>) -> Result<(), RecordError> {
        let store = self.store.clone();
        let done = self.store_pool.run(move || store.commit(&changes)).await;
        done.map_err(RecordError::Pool)?.map_err(RecordError::Store)
    }
}

/// On the disk thread: bytes first, then names. Answers what is permanent now, and the first error.
fn sync_batch(batch: Vec<Appended>) -> (Vec<Appended>, Option<RecordError>) {
    let mut error = None;
    let mut synced = Vec::with_capacity(batch.len());
    for appended in batch {
        let mut done = disk::sync_file(&appended.created.file, &appended.created.path);
        if done.is_ok()
            && appended.is_new
            && let Some(dir) = appended.created.path.parent()
        {
            done = disk::sync_dir(dir);
        }
        match done {
            Ok(()) => synced.push(appended),
            Err(failed) => error = error.or(Some(failed)),
        }
    }
    (synced, error)
}
