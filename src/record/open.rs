//! The recordings that are being written: what is on the disk, what is synced, what has a row.
//!
//! In here: the order of file, name and row (FILE-BEFORE-ROW), the batched sync round, and what becomes of a file whose
//! disk failed. Not in here: what is in the files (`cut_core`), whether the disk is ours and there (`attached`), the
//! calls themselves (`disk`). Lives on the executor; the disk threads get jobs.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use super::RecordError;
use super::attached::{Attached, Left, Redating, State};
use super::cut_core::{Fragment, Opening};
use super::disk::{self, Created, Disks, Opener};
use super::recovery::OwnFiles;
use super::repair;
use super::storage::StorageFault;
use crate::ledger::journal_core::Journal;
use crate::nvr::snapshot::RunningRecording;
use crate::store::row::RecordingRow;
use crate::store::{Change, Store};
use crate::system::pool::Pool;
use crate::system::{clock, stats};

/// Files synced in one job of the disk's thread: what is to be written meanwhile gets its turn in between.
const SYNCED_AT_ONCE: usize = 16;

/// One file that is being written.
struct Open {
    created: Arc<Created>,
    pool: Pool,
    /// What a power cut can't take back: `size` and `end_ms` are synced.
    row: RecordingRow,
    /// Its name is permanent.
    is_named: bool,
    has_row: bool,
    /// Its last row is on its way: rounds leave it alone.
    is_finishing: bool,
    /// Why no more may be appended, if so.
    fault: Option<RecordError>,
    /// What was written since the last round may never reach the medium.
    is_torn: bool,
}

impl Open {
    fn wants_sync(&self) -> bool {
        let is_synced = self.has_row && self.created.progress().0 == self.row.size;
        !self.is_finishing && !self.is_torn && !is_synced
    }
}

/// All of them, shared by the writers of all streams.
pub struct OpenRecordings {
    pub store: Store,
    pub store_pool: Pool,
    pub disks: Disks,
    /// Spans of the ledger ride on every commit.
    pub journal: RefCell<Journal>,
    /// When the last commit was made.
    pub committed: Cell<Instant>,
    pub(super) opener: Opener,
    /// Where new recordings go, and whether they may.
    pub(super) state: RefCell<State>,
    pub(super) own: OwnFiles,
    pub(super) next_id: Arc<AtomicU64>,
    open: RefCell<BTreeMap<u64, Open>>,
    /// Writes that are under way, by number.
    writes: RefCell<BTreeMap<u64, Write>>,
    next_write: Cell<u64>,
    /// Goes into every row.
    pub boot: u64,
    /// What this life has to date anew, and whether that is done.
    pub(super) redating: RefCell<Redating>,
}

/// Ends with the write, also where nobody waits for it any more.
struct UnderWay<'a> {
    writes: &'a RefCell<BTreeMap<u64, Write>>,
    number: u64,
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.writes.borrow_mut().remove(&self.number);
    }
}

/// A write, and whether the disk has answered: whoever asked for it may look much later.
#[derive(Debug)]
struct Write {
    since: Instant,
    is_over: Arc<AtomicBool>,
}

/// What a round syncs of one file.
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
        opener: Opener,
        root: PathBuf,
        next_id: u64,
    ) -> Rc<Self> {
        Rc::new(Self {
            store,
            store_pool,
            disks,
            journal: RefCell::default(),
            committed: Cell::new(Instant::now()),
            opener,
            state: RefCell::new(State::new(root)),
            own: OwnFiles::default(),
            next_id: Arc::new(AtomicU64::new(next_id)),
            open: RefCell::default(),
            writes: RefCell::default(),
            next_write: Cell::new(0),
            boot: stats::boot_number(),
            redating: RefCell::default(),
        })
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
            is_protected: open.row.is_protected,
        });
        running.collect()
    }

    /// Whether one that is being written began at such a time.
    pub(super) fn has_begun(&self, is_asked: impl Fn(i64) -> bool) -> bool {
        self.open.borrow().values().any(|open| is_asked(open.row.start_ms))
    }

    /// Whether this recording is being written.
    pub fn is_open(&self, id: u64) -> bool {
        self.open.borrow().contains_key(&id)
    }

    /// The files of a storage that is lost or was exchanged take no more.
    pub(super) fn close_to_appends(&self, attached: &Attached, fault: StorageFault) {
        for open in self.open.borrow_mut().values_mut() {
            if Arc::ptr_eq(&open.created.disk, &attached.disk) {
                open.fault = Some(RecordError::Storage(fault));
            }
        }
    }

    /// Paths of all files that are being written.
    pub(super) fn open_paths(&self) -> Vec<String> {
        self.open.borrow().values().map(|open| open.row.path.clone()).collect()
    }

    /// Since when the oldest write that is under way waits for its disk.
    pub fn writes_since(&self) -> Option<Instant> {
        let writes = self.writes.borrow();
        let waiting = writes.values().filter(|write| !write.is_over.load(Ordering::Relaxed));
        waiting.map(|write| write.since).min()
    }

    /// A write on the disk's thread; for as long as this lives, it counts as under way.
    async fn write<T: Send + 'static>(
        &self,
        pool: &Pool,
        job: impl FnOnce() -> Result<T, RecordError> + Send + 'static,
    ) -> Result<T, RecordError> {
        let number = self.next_write.replace(self.next_write.get() + 1);
        let is_over = Arc::new(AtomicBool::new(false));
        let write = Write { since: Instant::now(), is_over: Arc::clone(&is_over) };
        self.writes.borrow_mut().insert(number, write);
        let _under_way = UnderWay { writes: &self.writes, number };
        let job = move || {
            let done = job();
            is_over.store(true, Ordering::Relaxed);
            done
        };
        pool.run(job).await.map_err(RecordError::Pool).and_then(|done| done)
    }

    /// Makes a file with its first fragment; answers the recording's id.
    pub async fn create(
        &self,
        stream_id: u32,
        stream_name: &str,
        opening: Opening,
        fragment: Fragment,
    ) -> Result<u64, RecordError> {
        let (root, Attached { disk, pool, .. }) = self.attached()?;
        let start_ms = opening.start_ms;
        let own = self.own.clone();
        let (at_root, to_look_at) = (root.clone(), Arc::clone(&disk));
        let job = move || {
            if !to_look_at.is_at_path() {
                return Err(RecordError::Storage(StorageFault::Missing));
            }
            let created = disk::create(&disk, stream_id, start_ms)?;
            own.insert(path_of(&at_root, &created));
            let heads: [&[u8]; 2] = [&opening.init, &fragment.head];
            if let Err(error) = created.append(&heads, &fragment.packets, fragment.end_ms) {
                created.discard();
                own.remove(&path_of(&at_root, &created));
                return Err(error);
            }
            Ok(created)
        };
        let created = self.write(&pool, job).await;
        if let Err(RecordError::Storage(_)) = &created {
            self.look_again();
        }
        let created = created?;
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let row = RecordingRow {
            id,
            stream_id,
            stream_name: stream_name.to_owned(),
            start_ms,
            end_ms: start_ms,
            size: 0,
            path: path_of(&root, &created),
            in_progress: true,
            is_protected: false,
            boot: self.boot,
        };
        let open = Open {
            created: Arc::new(created),
            pool,
            row,
            is_named: false,
            has_row: false,
            is_finishing: false,
            fault: None,
            is_torn: false,
        };
        self.open.borrow_mut().insert(id, open);
        Ok(id)
    }

    /// Appends a fragment to recording `id`. To be called again only when this has ended.
    pub async fn append(&self, id: u64, fragment: Fragment) -> Result<(), RecordError> {
        let Some((created, pool, fault)) = self
            .open
            .borrow()
            .get(&id)
            .map(|open| (Arc::clone(&open.created), open.pool.clone(), open.fault.clone()))
        else {
            return Ok(());
        };
        if let Some(fault) = fault {
            return Err(fault);
        }
        let job = move || created.append(&[&fragment.head], &fragment.packets, fragment.end_ms);
        self.write(&pool, job).await
    }

    /// Ends recording `id`: patches its head, syncs it, writes its last row. Also called with no patches after
    /// an append failed: what was written before is kept. What can't be done now is done once the disk answers.
    pub async fn finish(&self, id: u64, patches: Vec<(u64, Vec<u8>)>) -> Result<(), RecordError> {
        let Some((created, pool, row, sure, is_torn, is_new)) =
            self.open.borrow_mut().get_mut(&id).map(|open| {
                open.is_finishing = true;
                let (size, end_ms) = open.created.progress();
                let row = RecordingRow { end_ms, size, in_progress: false, ..open.row.clone() };
                let created = Arc::clone(&open.created);
                (created, open.pool.clone(), row, open.row.size, open.is_torn, !open.is_named)
            })
        else {
            return Ok(());
        };
        if is_torn {
            self.leave(Left { row, created, sure });
            self.open.borrow_mut().remove(&id);
            return Ok(());
        }
        let (last, size) = (Arc::clone(&created), row.size);
        let job = move || {
            if patches.is_empty() {
                // The cutter's index went with the fragment that failed.
                repair::repair(last.disk.as_ref(), &last.name)?;
            }
            last.patch(&patches)?;
            last.sync(is_new)
        };
        let mut done = self.write(&pool, job).await;
        let sure = if done.is_ok() { size } else { sure };
        if done.is_ok() {
            done = self.commit(vec![Change::PutRecording(row.clone())]).await;
        }
        if done.is_ok() {
            self.disown(&row.path);
        } else {
            self.leave(Left { row, created, sure });
        }
        self.open.borrow_mut().remove(&id);
        done
    }

    /// The disks on which something is to be made permanent.
    pub fn disks_to_sync(&self) -> Vec<Pool> {
        let mut pools: Vec<Pool> = Vec::new();
        for open in self.open.borrow().values().filter(|open| open.wants_sync()) {
            if !pools.iter().any(|pool| pool.is_same(&open.pool)) {
                pools.push(open.pool.clone());
            }
        }
        pools
    }

    /// Makes what was appended since the last round permanent, for all open files of one disk at once; then the rows of
    /// new files, in one transaction. Answers the first error; the other files are synced all the same.
    pub async fn sync_disk(&self, pool: &Pool) -> Result<(), RecordError> {
        let mut batch = Vec::new();
        for (id, open) in self.open.borrow().iter() {
            if open.wants_sync() && open.pool.is_same(pool) {
                let (size, end_ms) = open.created.progress();
                let (created, is_new) = (Arc::clone(&open.created), !open.is_named);
                batch.push(Appended { id: *id, created, size, end_ms, is_new });
            }
        }
        let (mut result, mut synced) = (Ok(()), Vec::with_capacity(batch.len()));
        while !batch.is_empty() {
            let rest = batch.split_off(batch.len().min(SYNCED_AT_ONCE));
            let part = std::mem::replace(&mut batch, rest);
            match pool.run(move || sync_batch(part)).await {
                Ok((part, torn)) => {
                    let first = torn.first().map(|(_, error)| error.clone());
                    self.note_torn(torn);
                    synced.extend(part);
                    result = result.and(first.map_or(Ok(()), Err));
                }
                Err(error) => {
                    result = result.and(Err(RecordError::Pool(error)));
                    break;
                }
            }
        }
        result.and(self.note_synced(synced).await)
    }

    /// A failed sync is never tried again: the second would answer `Ok` for pages that the kernel has given up. The
    /// file ends where the last good round was, and its writer begins another.
    fn note_torn(&self, torn: Vec<(u64, RecordError)>) {
        for (id, error) in torn {
            if let Some(open) = self.open.borrow_mut().get_mut(&id) {
                open.is_torn = true;
                open.fault = Some(error);
            }
        }
    }

    async fn note_synced(&self, batch: Vec<Appended>) -> Result<(), RecordError> {
        let mut changes = Vec::new();
        for appended in &batch {
            if let Some(open) = self.open.borrow_mut().get_mut(&appended.id)
                && !open.is_finishing
            {
                open.row.size = appended.size;
                open.row.end_ms = appended.end_ms;
                open.is_named = true;
                if !open.has_row {
                    changes.push(Change::PutRecording(open.row.clone()));
                }
            }
        }
        if changes.is_empty() {
            return Ok(());
        }
        // A recording that finishes meanwhile commits after this: the store's thread keeps the order.
        self.commit(changes).await?;
        for appended in batch {
            if let Some(open) = self.open.borrow_mut().get_mut(&appended.id) {
                open.has_row = true;
            }
        }
        Ok(())
    }

    /// One durable transaction on the store's disk thread, with what waits for the ledger.
    pub async fn commit(&self, mut changes: Vec<Change>) -> Result<(), RecordError> {
        let store = self.store.clone();
        let pending = self.journal.borrow_mut().take_pending();
        let removed =
            pending.removed.iter().map(|&(id, layer, at)| Change::RemoveSpan(id, layer, at));
        let spans = pending.entries.iter().map(|e| Change::PutSpan(e.stream_id, e.layer, e.span));
        changes.extend(removed.chain(spans));
        changes.push(Change::Alive(clock::wall_ms()));
        self.committed.set(Instant::now());
        let done = self.store_pool.run(move || store.commit(&changes)).await;
        let done = done.map_err(RecordError::Pool).and_then(|d| d.map_err(RecordError::Store));
        if done.is_err() {
            self.journal.borrow_mut().put_back(pending);
        }
        done
    }

    /// Keeps a recording from automatic deletion, or no longer; false if it is not being written.
    pub async fn protect_open(&self, id: u64, is_protected: bool) -> Result<bool, RecordError> {
        let row = {
            let mut open = self.open.borrow_mut();
            let Some(open) = open.get_mut(&id).filter(|open| !open.is_finishing) else {
                return Ok(false);
            };
            open.row.is_protected = is_protected;
            open.has_row.then(|| open.row.clone())
        };
        if let Some(row) = row {
            self.commit(vec![Change::PutRecording(row)]).await?;
        }
        Ok(true)
    }
}

fn path_of(root: &Path, created: &Created) -> String {
    root.join(&created.name).to_string_lossy().into_owned()
}

/// On the disk thread: bytes first, then names. Answers what is permanent now, and what may be lost.
fn sync_batch(batch: Vec<Appended>) -> (Vec<Appended>, Vec<(u64, RecordError)>) {
    let (mut synced, mut torn) = (Vec::with_capacity(batch.len()), Vec::new());
    for mut appended in batch {
        // What came while this waited for its turn is in it, too.
        (appended.size, appended.end_ms) = appended.created.progress();
        match appended.created.sync(appended.is_new) {
            Ok(()) => synced.push(appended),
            Err(error) => torn.push((appended.id, error)),
        }
    }
    (synced, torn)
}
