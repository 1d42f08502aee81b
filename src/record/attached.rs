//! The storage that new recordings go to: attached, or why not; looked at for ever.
//!
//! In here: asking `storage` at the start, when the path leads elsewhere and every few seconds until it is there; then
//! settling what failed meanwhile and comparing files with rows, a bounded step at a time. Not in here: the files that
//! are being written (`open`). Lives on the executor; the disk threads get jobs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::RecordError;
use super::disk::{self, Created, Disk};
use super::open::OpenRecordings;
use super::recovery::{self, Comparison, Recovered, split_path};
use super::redate;
use super::storage::{self, Consent, StorageFault};
use crate::ledger::clock_core::Redate;
use crate::ledger::span_core::State as LedgerState;
use crate::store::Change;
use crate::store::row::RecordingRow;
use crate::system::pool::Pool;
use crate::system::wait;

/// Between two looks at the storage: one `stat` while all is well.
const LOOK_EVERY: Duration = Duration::from_secs(2);
/// Between two looks whether files and rows are to be compared.
const COMPARE_PAUSE: Duration = Duration::from_millis(100);
/// The same where nothing is to be compared yet.
const COMPARE_LOOK: Duration = Duration::from_secs(1);
/// Between two looks whether something came late with a date from before the time was known.
const REDATE_PAUSE: Duration = Duration::from_secs(60);
/// When files could not be read or mended, everything is compared again after this time.
const COMPARE_AGAIN: Duration = Duration::from_secs(300);
/// Files of a failed disk that wait to be settled; more than that wait for the next start.
const LEFT_MAX: usize = 1024;

/// A storage that takes recordings, and the thread of its device.
#[derive(Clone, Debug)]
pub struct Attached {
    pub disk: Arc<dyn Disk>,
    pub pool: Pool,
    /// Streams below this id have directories here.
    pub stream_id_floor: u32,
}

/// A recording that ended when its disk or the store failed.
#[derive(Debug)]
pub struct Left {
    pub row: RecordingRow,
    pub created: Arc<Created>,
    /// Bytes that are on the medium for sure.
    pub sure: u64,
}

/// Recordings that were made before the time was known.
#[derive(Debug)]
pub struct Redating {
    /// Of this life, and whether the store knows.
    redate: Option<(Redate, bool)>,
    /// Some may still have a wrong date.
    is_pending: bool,
    look_at: Instant,
}

impl Default for Redating {
    fn default() -> Self {
        Self { redate: None, is_pending: false, look_at: Instant::now() }
    }
}

/// Where recordings go.
#[derive(Debug)]
pub struct State {
    root: PathBuf,
    attached: Result<Attached, RecordError>,
    left: Vec<Left>,
    compare_at: Option<Instant>,
}

impl State {
    /// Nothing is known of `root` yet.
    pub fn new(root: PathBuf) -> Self {
        let attached = Err(RecordError::Storage(StorageFault::Silent));
        Self { root, attached, left: Vec::new(), compare_at: None }
    }
}

impl OpenRecordings {
    /// The storage for a new recording.
    pub(super) fn attached(&self) -> Result<(PathBuf, Attached), RecordError> {
        let state = self.state.borrow();
        state.attached.clone().map(|attached| (state.root.clone(), attached))
    }

    /// Ids of streams below this one may belong to recordings that are there.
    pub fn stream_id_floor(&self) -> u32 {
        self.attached().map_or(0, |(_, attached)| attached.stream_id_floor)
    }

    /// Why no recording can begin, in the owner's words.
    pub fn storage_fault(&self) -> Option<&'static str> {
        self.state.borrow().attached.as_ref().err().map(RecordError::for_owner)
    }

    /// The same for the ledger.
    pub fn storage_state(&self) -> Option<LedgerState> {
        self.state.borrow().attached.as_ref().err().map(RecordError::state)
    }

    /// Whether files below `path` may be taken for removed when they are not there.
    pub fn may_remove(&self, path: &Path) -> Result<(), RecordError> {
        let state = self.state.borrow();
        match &state.attached {
            Err(error) if path.starts_with(&state.root) => Err(error.clone()),
            _ => Ok(()),
        }
    }

    /// The path has turned out to lead elsewhere: nothing is written until it was looked at.
    pub(super) fn look_again(&self) {
        let fault = StorageFault::Missing;
        let was = self.state.borrow_mut().replace(Err(RecordError::Storage(fault)));
        if let Ok(was) = was {
            log::error!("{}: {}", self.state.borrow().root.display(), fault.for_owner());
            self.close_to_appends(&was, fault);
        }
    }

    pub(super) fn leave(&self, left: Left) {
        let mut state = self.state.borrow_mut();
        if state.left.len() < LEFT_MAX {
            state.left.push(left);
        } else {
            log::warn!("recording {} is left for the next start", left.row.id);
        }
    }

    /// This path is no longer of a file that is being written.
    pub(super) fn disown(&self, path: &str) {
        // While files are compared with rows, a row may be younger than what was seen of them.
        if self.state.borrow().compare_at.is_none() {
            self.own.remove(path);
        }
    }

    /// Puts new recordings below `root`; those that are being written end where they are.
    pub async fn move_to(&self, root: PathBuf) -> Result<(), RecordError> {
        let attached = self.attach(&root, Consent::No).await;
        let mut state = self.state.borrow_mut();
        state.root = root;
        state.compare_at = Some(Instant::now());
        let done = attached.as_ref().map(|_| ()).map_err(Clone::clone);
        state.attached = attached;
        done
    }

    /// Takes on what is at the storage path now. Without effect while all is well.
    pub async fn adopt(&self) -> Result<(), RecordError> {
        self.look_at_storage().await;
        if self.attached().is_ok() {
            return Ok(());
        }
        let root = self.state.borrow().root.clone();
        let attached = self.attach(&root, Consent::Adopt).await?;
        self.put(&root, Ok(attached));
        Ok(())
    }

    async fn attach(&self, root: &Path, consent: Consent) -> Result<Attached, RecordError> {
        let pool =
            self.disks.pool_for(root).await.map_err(|error| RecordError::disk(root, &error))?;
        let (opener, store, root) = (Arc::clone(&self.opener), self.store.clone(), root.to_owned());
        let job = move || {
            let disk = storage::attach(&opener, &store, &root, consent)?;
            let floor = recovery::stream_id_floor(disk.as_ref())?;
            Ok::<_, RecordError>((disk, floor))
        };
        let (disk, stream_id_floor) = pool.run(job).await.map_err(RecordError::Pool)??;
        // A disk that was unmounted is on another device than the directory that it left behind.
        Ok(Attached { disk, pool, stream_id_floor })
    }

    fn put(&self, root: &Path, attached: Result<Attached, RecordError>) {
        let mut state = self.state.borrow_mut();
        if state.root != root {
            return; // moved meanwhile
        }
        let (was, is) = (state.words(), attached.as_ref().err().map(RecordError::for_owner));
        match (was, is, &attached) {
            (Some(_), None, _) => {
                log::info!("{}: storage attached", root.display());
                state.compare_at = Some(Instant::now());
            }
            (was, Some(is), Err(error)) if was != Some(is) => {
                log::error!("{}: {error}", root.display());
            }
            _ => {}
        }
        let was = state.replace(attached);
        drop(state);
        if let Ok(was) = was {
            self.close_to_appends(&was, StorageFault::Missing);
        }
    }

    /// Looks at the storage once: one that is not there is tried again.
    pub async fn look_at_storage(&self) {
        let root = self.state.borrow().root.clone();
        if let Ok((_, Attached { disk, pool, .. })) = self.attached()
            && pool.run(move || disk.is_at_path()).await != Ok(false)
        {
            return;
        }
        let attached = self.attach(&root, Consent::No).await;
        self.put(&root, attached);
    }

    /// Looks after the storage for ever.
    pub async fn keep_storage(&self) {
        let look = async {
            loop {
                self.look_at_storage().await;
                self.settle_left().await;
                wait::beat(LOOK_EVERY).await;
            }
        };
        let compare = async {
            loop {
                self.redate_some().await;
                self.compare().await;
                if self.wants_compare() {
                    wait::pause(COMPARE_PAUSE).await;
                } else {
                    wait::beat(COMPARE_LOOK).await;
                }
            }
        };
        let ((), ()) = smol::future::zip(look, compare).await;
    }

    /// Makes sure that `root` could be the storage. One that is not there, or not ours, is not touched.
    pub async fn probe(&self, root: PathBuf) -> Result<(), RecordError> {
        let pool =
            self.disks.pool_for(&root).await.map_err(|error| RecordError::disk(&root, &error))?;
        let (opener, store) = (Arc::clone(&self.opener), self.store.clone());
        let job = move || match storage::look(&opener, &store, &root)? {
            Ok(_) => disk::probe(&root),
            Err(_) => Ok(()),
        };
        pool.run(job).await.map_err(RecordError::Pool)?
    }

    /// Makes sure that a swap file in `dir` lands on the disk that it was meant for: a directory on another device than
    /// the data directory is marked as a storage is, and one that is known must have its marker.
    pub async fn may_hold_swap(&self, dir: PathBuf) -> Result<(), RecordError> {
        let pool =
            self.disks.pool_for(&dir).await.map_err(|error| RecordError::disk(&dir, &error))?;
        let (opener, store) = (Arc::clone(&self.opener), self.store.clone());
        let is_elsewhere = !pool.is_same(&self.store_pool);
        let job = move || {
            let known =
                store.reader().storage(&dir.to_string_lossy()).map_err(RecordError::Store)?;
            if known.is_none() && !is_elsewhere {
                return Ok(());
            }
            storage::attach(&opener, &store, &dir, Consent::No).map(drop)
        };
        pool.run(job).await.map_err(RecordError::Pool)?
    }

    /// Ends what could not be ended when the disk or the store failed.
    async fn settle_left(&self) {
        if self.attached().is_err() {
            return;
        }
        let waiting = std::mem::take(&mut self.state.borrow_mut().left);
        for left in waiting {
            if let Err(error) = self.settle(&left).await {
                log::debug!("recording {}: still waits: {error}", left.row.id);
                self.leave(left);
            } else {
                self.disown(&left.row.path);
            }
        }
    }

    async fn settle(&self, left: &Left) -> Result<(), RecordError> {
        let (root, attached) = self.attached()?;
        let Some((place, name)) = split_path(&left.row.path) else { return Ok(()) };
        let (name, row, sure) = (name.to_owned(), left.row.clone(), left.sure);
        // Through the storage as it is mounted now, if it is the same one.
        let disk = if place == root { attached.disk } else { Arc::clone(&left.created.disk) };
        let job = move || {
            cut_to(disk.as_ref(), &name, sure)?;
            let mut recovered = Recovered::default();
            let change = recovery::settle(row, disk.as_ref(), &name, &mut recovered);
            change.ok_or_else(|| RecordError::Disk {
                what: format!("{name}: not settled"),
                kind: std::io::ErrorKind::Other,
            })
        };
        let change = attached.pool.run(job).await.map_err(RecordError::Pool)??;
        self.commit(vec![change]).await?;
        log::info!("recording {}: settled", left.row.id);
        Ok(())
    }

    /// Whether files and rows are to be compared, now or later.
    fn wants_compare(&self) -> bool {
        let state = self.state.borrow();
        state.attached.is_ok() && state.compare_at.is_some()
    }

    /// Compares files and rows if that is due, in steps between which the streams' writes get their turn.
    async fn compare(&self) {
        let Some(due) = self.state.borrow().compare_at.filter(|at| *at <= Instant::now()) else {
            return;
        };
        let Ok((root, Attached { disk, pool, .. })) = self.attached() else { return };
        let mut comparison = Comparison::new(root, self.own.clone(), Arc::clone(&self.next_id));
        let done = loop {
            let (store, disk, opener) =
                (self.store.clone(), Arc::clone(&disk), Arc::clone(&self.opener));
            let step = pool.run(move || {
                let done = comparison.step(&store, disk.as_ref(), &opener);
                (comparison, done)
            });
            match step.await.map_err(RecordError::Pool) {
                Ok((_, Ok(Some(recovered)))) => break Ok(recovered),
                Ok((_, Err(error))) | Err(error) => break Err(error),
                Ok((rest, Ok(None))) => comparison = rest,
            }
        };
        match &done {
            Ok(recovered) if *recovered == Recovered::default() => {}
            Ok(recovered) => log::info!("recovery: {recovered:?}"),
            Err(error) => log::warn!("recovery: {error}"),
        }
        let mut state = self.state.borrow_mut();
        if state.compare_at == Some(due) {
            let is_whole = done.is_ok_and(|recovered| recovered.failed == 0);
            state.compare_at = (!is_whole).then(|| Instant::now() + COMPARE_AGAIN);
        }
        let waiting: Vec<String> = state.left.iter().map(|left| left.row.path.clone()).collect();
        let open = self.open_paths();
        drop(state);
        let is_ours = |path: &str| open.iter().chain(&waiting).any(|ours| ours == path);
        self.own.retain(is_ours);
    }

    /// From now on what was dated so is wrong.
    pub fn redate(&self, redate: Redate) {
        let redate = Some((redate, false));
        *self.redating.borrow_mut() =
            Redating { redate, is_pending: true, look_at: Instant::now() };
    }

    /// What this life has learnt about its dates.
    pub fn redated(&self) -> Option<Redate> {
        self.redating.borrow().redate.map(|(redate, _)| redate)
    }

    /// Whether recordings may still have a date from before the time was known.
    pub fn is_redating(&self) -> bool {
        self.redating.borrow().is_pending
    }

    /// Dates recordings anew, while there are any; those that are being written, or wait for the disk, come later.
    pub(super) async fn redate_some(&self) {
        let (Some((redate, is_stored)), true) = ({
            let redating = self.redating.borrow();
            (redating.redate, redating.look_at <= Instant::now())
        }) else {
            return;
        };
        let Ok((root, Attached { disk, pool, .. })) = self.attached() else { return };
        if !is_stored {
            if let Err(error) = self.commit(vec![Change::PutRedate(redate)]).await {
                log::debug!("dating anew: {error}");
                return;
            }
            self.redating.borrow_mut().redate = Some((redate, true));
        }
        let (store, opener, boot) = (self.store.clone(), Arc::clone(&self.opener), self.boot);
        let job = move || redate::step(&store, disk.as_ref(), &opener, &root, boot);
        let left = pool.run(job).await.map_err(RecordError::Pool).and_then(|left| left);
        let is_writing = self.has_begun(|at_ms| redate.holds(at_ms));
        let mut redating = self.redating.borrow_mut();
        if let Ok(left) = &left {
            redating.is_pending = left.has_more || left.done > 0 || is_writing;
        }
        // What waited for the disk all the time comes with its old date, however late.
        let pause = if redating.is_pending { LOOK_EVERY / 2 } else { REDATE_PAUSE };
        redating.look_at = Instant::now() + pause;
    }

    /// Whether files and rows were compared since the storage was attached; one that is not there has nothing to compare.
    pub fn is_compared(&self) -> bool {
        let state = self.state.borrow();
        match &state.attached {
            Ok(_) => state.compare_at.is_none_or(|at| at > Instant::now()),
            Err(error) => !matches!(error, RecordError::Storage(StorageFault::Silent)),
        }
    }
}

impl State {
    fn words(&self) -> Option<&'static str> {
        self.attached.as_ref().err().map(RecordError::for_owner)
    }

    fn replace(
        &mut self,
        attached: Result<Attached, RecordError>,
    ) -> Result<Attached, RecordError> {
        std::mem::replace(&mut self.attached, attached)
    }
}

fn cut_to(disk: &dyn Disk, name: &str, sure: u64) -> Result<(), RecordError> {
    let failed = |error: &std::io::Error| RecordError::disk(Path::new(name), error);
    let file = match disk.open(name, super::disk::Access::Mend) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        opened => opened.map_err(|error| failed(&error))?,
    };
    let len = file.size().map_err(|error| failed(&error))?;
    if len > sure { file.set_len(sure).map_err(|error| failed(&error)) } else { Ok(()) }
}
