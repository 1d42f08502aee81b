//! Runs retention: every few seconds, and at once when settings or recordings change.
//!
//! In here: gathering the facts and carrying out the decisions. Not in here: the decisions
//! (`record/retention_core`), how a recording is deleted (`record/retention`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::{Duration, Instant};

use smol::future::FutureExt;

use super::state::Nvr;
use crate::record::RecordError;
use crate::record::retention::{self, Round};
use crate::record::retention_core::{Facts, Override, Policy};
use crate::store::Change;
use crate::system::{clock, stats, wait};

/// How old the decisions may be.
const EVERY: Duration = Duration::from_secs(2);
/// Files that could not be removed are tried again this often.
const SWEEP_EVERY: Duration = Duration::from_secs(60);
/// Spans of the ledger are kept this long: a year, and a month to look at it.
const LEDGER_KEPT_MS: i64 = 400 * 86_400_000;
const PRUNE_EVERY: Duration = Duration::from_secs(86_400);

impl Nvr {
    /// Asks retention to look now.
    pub fn wake_retention(&self) {
        let _ = self.retention_wake.try_send(());
    }

    /// Runs for ever.
    pub async fn keep_retained(self: Rc<Self>) {
        let (mut sweep_at, mut prune_at) = (Instant::now(), Instant::now());
        let mut held = BTreeSet::new();
        let mut told = None;
        loop {
            let asked = async {
                let _ = self.retention_asked.recv().await;
            };
            wait::pause(EVERY).or(asked).await;
            let done = self.retention_round(&mut held).await;
            if Instant::now() >= sweep_at {
                sweep_at = Instant::now() + SWEEP_EVERY;
                if let Err(error) = retention::sweep(&self.parts.recordings).await {
                    log::warn!("removing deleted files: {error}");
                }
            }
            if Instant::now() >= prune_at && self.is_clock_trusted() {
                prune_at = Instant::now() + PRUNE_EVERY;
                let prune = Change::PruneSpans(clock::wall_ms(), LEDGER_KEPT_MS);
                if let Err(error) = self.parts.recordings.commit(vec![prune]).await {
                    log::warn!("pruning the ledger: {error}");
                }
            }
            // A disk that stays broken is told once, not every round.
            let error = done.err().map(|error| error.to_string());
            if error != told {
                error.iter().for_each(|error| log::error!("retention: {error}"));
                told = error;
            }
        }
    }

    async fn retention_round(&self, held: &mut BTreeSet<u32>) -> Result<(), RecordError> {
        loop {
            // Of a disk that is not there nobody knows what it holds.
            if self.parts.recordings.storage_fault().is_some() {
                return Ok(());
            }
            let (policy, facts) = (self.policy(), self.facts().await);
            let reader = self.parts.recordings.store.reader();
            let was_held = held.clone();
            let root = PathBuf::from(self.settings().storage_path);
            let plan = move || retention::plan(&reader, &policy, facts, &root, &was_held);
            let round = self.parts.recordings.store_pool.run(plan).await;
            let Round { doomed, holds, forecast } =
                round.map_err(RecordError::Pool)?.map_err(RecordError::Store)?;
            let is_full = doomed.len() == retention::DOOMED_MAX;
            // Space that is about to be freed needs nobody to be held.
            if !is_full {
                *held = holds.keys().copied().collect();
                self.each_stream(|config, hub| {
                    if let Some(hub) = hub {
                        hub.set_hold(holds.get(&config.id).map(|hold| hold.text()));
                    }
                });
            }
            *self.forecast.borrow_mut() = forecast;
            if doomed.is_empty() {
                return Ok(());
            }
            log::info!("retention: {} recordings go, first {}", doomed.len(), doomed[0].path);
            retention::delete(&self.parts.recordings, doomed).await?;
            if !is_full {
                return Ok(());
            }
        }
    }

    fn policy(&self) -> Policy {
        let settings = self.settings();
        let mut overrides = BTreeMap::new();
        self.each_stream(|config, _| {
            let (retention_days, max_storage_size) =
                (config.retention_days, config.max_storage_size);
            if retention_days.is_some() || max_storage_size.is_some() {
                overrides.insert(config.id, Override { retention_days, max_storage_size });
            }
        });
        Policy {
            retention_days: settings.retention_days,
            max_storage_size: settings.max_storage_size,
            auto_delete_oldest: settings.auto_delete_oldest,
            overrides,
        }
    }

    /// What there is, but for finished recordings. A filesystem that does not answer has no size.
    async fn facts(&self) -> Facts {
        let root = PathBuf::from(self.settings().storage_path);
        let disk = match self.parts.recordings.disks.pool_for(&root) {
            Ok(pool) => pool.run(move || free_of(&root)).await.ok().flatten(),
            Err(_) => None,
        };
        let mut facts = Facts {
            now_ms: clock::wall_ms(),
            is_clock_trusted: self.is_clock_trusted(),
            disk,
            streams: BTreeMap::new(),
        };
        self.each_stream(|config, hub| {
            let stream = facts.streams.entry(config.id).or_default();
            stream.bytes_per_s = hub.filter(|_| config.record).map_or(0, |hub| hub.bytes_per_s());
        });
        for running in self.parts.recordings.running() {
            facts.streams.entry(running.stream_id).or_default().bytes += running.size;
        }
        facts
    }
}

/// Size and free bytes of the filesystem that holds the recordings; `None` while their directory is not there.
fn free_of(root: &Path) -> Option<(u64, u64)> {
    let storage = stats::storage(root).ok()?;
    (storage.total > 0).then_some((storage.total, storage.free))
}
