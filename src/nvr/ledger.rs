//! Drives the ledger: looks at the streams and at the clock, and sees to it that what was seen is stored.
//!
//! In here: which state a stream is in, the time before this start, steps of the clock. Not in here: how states
//! become spans (`ledger/`), what is answered (`api/ledger`).

use std::cell::{Cell, RefCell};
use std::path::Path;
use std::rc::Rc;
use std::time::{Duration, Instant, UNIX_EPOCH};

use super::state::Nvr;
use crate::config::stream::StreamConfig;
use crate::ledger::clock_core::{self, ClockWatch, Redate, Step};
use crate::ledger::span_core::{Layer, Span, State};
use crate::store::spans::Life;
use crate::store::{Change, Store, StoreError};
use crate::system::{clock, stats, wait};

/// How often the two clocks are compared.
const CLOCK_EVERY: Duration = Duration::from_secs(1);
/// A commit for the ledger alone, when no other takes its spans along.
const COMMIT_EVERY: Duration = Duration::from_secs(5);
/// Without any recording this is the only sign of life; 288 small commits a day.
const ALIVE_EVERY: Duration = Duration::from_secs(300);
/// After a step of the clock nothing is deleted for its age: a wrong time is often put right soon.
const CLOCK_TRUST_AFTER: Duration = Duration::from_secs(600);

/// What the ledger's driver remembers.
#[derive(Default)]
pub struct Ledger {
    watch: RefCell<ClockWatch>,
    stepped: Cell<Option<Instant>>,
    /// The program was not running since then, until it was started: when that was may be learnt late.
    down: Cell<Option<(i64, State)>>,
}

/// The time since the last sign of life, once the clock knows how long that was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Down {
    pub since_ms: i64,
    pub state: State,
}

/// Finds out when the program was last alive. Before recovery: it changes the files that tell it.
pub fn last_alive(store: &Store, streams: &[StreamConfig]) -> Result<Option<Down>, StoreError> {
    let reader = store.reader();
    let (mut last_ms, boot) = reader.last_alive()?;
    for config in streams {
        // What was being written was written to until the end.
        let newest = reader.newest(config.id)?.filter(|newest| newest.in_progress);
        let row = newest.map(|newest| reader.recording(newest.id)).transpose()?.flatten();
        let written_ms = row.and_then(|row| modified_ms(Path::new(&row.path)));
        last_ms = last_ms.max(written_ms);
    }
    let state = if boot == stats::boot_id() { State::Restart } else { State::PowerOff };
    Ok(last_ms.map(|since_ms| Down { since_ms, state }))
}

fn modified_ms(path: &Path) -> Option<i64> {
    let modified = std::fs::metadata(path).and_then(|metadata| metadata.modified()).ok()?;
    i64::try_from(modified.duration_since(UNIX_EPOCH).ok()?.as_millis()).ok()
}

/// The span in which the program did not run.
fn down_span(down: Down, started_ms: i64) -> Option<Span> {
    let span = Span { start_ms: down.since_ms, end_ms: started_ms, state: down.state };
    let is_known = clock_core::is_set(down.since_ms) && clock_core::is_set(started_ms);
    (span.start_ms < span.end_ms && is_known).then_some(span)
}

/// Notes a start: closes what an earlier life left open, says since when the program was down, and gives streams of
/// older stores a beginning. Answers the down time again: if the clock turns out to be wrong, its end changes.
pub fn begin(
    store: &Store,
    streams: &[StreamConfig],
    down: Option<Down>,
) -> Result<Option<Down>, StoreError> {
    let now_ms = clock::wall_ms();
    let alive_ms = down.map_or(now_ms, |down| down.since_ms);
    let mut changes = vec![Change::Boot(stats::boot_id().unwrap_or_default(), alive_ms)];
    for config in streams {
        let span = down.and_then(|down| down_span(down, now_ms));
        changes.extend(span.map(|span| Change::PutSpan(config.id, Layer::Reason, span)));
        if store.reader().life(config.id)?.is_none() {
            let mut created_ms = now_ms;
            store.reader().visit_time(config.id, (i64::MIN, i64::MAX), |first| {
                created_ms = first.start_ms.min(now_ms);
                false
            })?;
            let life = Life { stream_id: config.id, created_ms, removed_ms: None };
            changes.push(Change::PutLife(life));
        }
    }
    changes.push(Change::Alive(now_ms));
    store.commit(&changes)?;
    Ok(down)
}

impl Nvr {
    /// Tells the driver of a down time whose end is not known yet.
    pub fn set_down(&self, down: Option<Down>) {
        self.ledger.down.set(down.map(|down| (down.since_ms, down.state)));
    }

    /// Whether the clock was set and has not stepped lately, and all dates are by it.
    pub fn is_clock_trusted(&self) -> bool {
        // A step since the last look would make everything seem old.
        self.watch_clock();
        clock_core::is_set(clock::wall_ms())
            && !self.parts.recordings.is_redating()
            && self.ledger.stepped.get().is_none_or(|at| at.elapsed() >= CLOCK_TRUST_AFTER)
    }

    /// Looks at every stream and notes the state that it is in.
    pub(super) fn observe(&self) {
        self.watch_clock();
        let now_ms = clock::wall_ms();
        // What was lost before the time was known, and is told only now.
        let redated = self.parts.recordings.redated();
        let dated = |at_ms: i64| redated.map_or(at_ms, |redate| redate.dated(at_ms));
        let mut journal = self.parts.recordings.journal.borrow_mut();
        self.each_stream(|config, hub| {
            let state = match hub {
                None => Some(State::Disabled),
                Some(_) if !config.record => Some(State::RecordOff),
                Some(hub) => hub.ledger_state(),
            };
            journal.observe(config.id, state, now_ms);
            let losses = hub.map(|hub| hub.take_losses()).unwrap_or_default();
            for span in losses {
                let (start_ms, end_ms) = (dated(span.start_ms), dated(span.end_ms));
                journal.lose(config.id, Span { start_ms, end_ms, ..span });
            }
        });
        // What the rings had to give up, because the disk stood still or was too slow for all of it.
        let state = if self.is_round_late() { State::DiskStalled } else { State::Overload };
        for loss in self.parts.buffers.take_losses() {
            let span = Span { start_ms: dated(loss.from_ms), end_ms: dated(loss.to_ms), state };
            journal.lose(loss.stream_id, span);
        }
    }

    /// A stream is not there any more.
    pub(super) fn forget(&self, stream_id: u32) {
        self.parts.recordings.journal.borrow_mut().forget(stream_id, clock::wall_ms());
    }

    /// Stores what waits, if no other commit did for a while.
    pub(super) async fn commit_ledger(&self) {
        let recordings = &self.parts.recordings;
        let age = recordings.committed.get().elapsed();
        let is_pending = recordings.journal.borrow().has_pending();
        // While something is recorded, its file tells when the program was last alive.
        let is_idle = recordings.running().is_empty();
        if (is_pending && age >= COMMIT_EVERY) || (is_idle && age >= ALIVE_EVERY) {
            self.flush_ledger().await;
        }
    }

    /// Stores what waits, and that the program is alive now.
    pub async fn flush_ledger(&self) {
        if let Err(error) = self.parts.recordings.commit(Vec::new()).await {
            log::warn!("the ledger could not be stored: {error}");
        }
    }

    /// Watches the clock for ever.
    pub async fn keep_clock(self: Rc<Self>) {
        loop {
            wait::pause(CLOCK_EVERY).await;
            self.watch_clock();
        }
    }

    fn watch_clock(&self) {
        let mono_ms = u64::try_from(self.parts.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        let step = self.ledger.watch.borrow_mut().tick(clock::wall_ms(), mono_ms);
        if let Some(step) = step {
            self.note_step(step, mono_ms);
        }
    }

    /// The time is known: this run of the machine is dated anew, from its beginning on.
    fn note_first_sync(&self, step: Step, mono_ms: u64) {
        let recordings = &self.parts.recordings;
        let from_ms = step.from_ms.saturating_sub(stats::uptime_ms().unwrap_or(0).max(0));
        let started_ms = step.from_ms.saturating_sub_unsigned(mono_ms);
        let (until_ms, by_ms) = (step.from_ms, step.by_ms());
        let redate =
            Redate { boot: recordings.boot, from_ms: from_ms.min(started_ms), until_ms, by_ms };
        log::info!("recordings since {} are dated anew", clock::iso_seconds(redate.from_ms));
        let mut journal = recordings.journal.borrow_mut();
        journal.redate(&redate);
        self.ledger.stepped.set(None);
        recordings.redate(redate);
        let Some((since_ms, state)) = self.ledger.down.take() else { return };
        if let Some(span) = down_span(Down { since_ms, state }, started_ms.saturating_add(by_ms)) {
            self.each_stream(|config, _| journal.put_reason(config.id, span));
        }
    }

    fn note_step(&self, step: Step, mono_ms: u64) {
        let (from, to) = (clock::iso_seconds(step.from_ms), clock::iso_seconds(step.to_ms));
        log::warn!("the clock stepped from {from} to {to}");
        if step.is_first_sync {
            self.note_first_sync(step, mono_ms);
        } else {
            self.ledger.stepped.set(Some(Instant::now()));
            self.parts.recordings.journal.borrow_mut().step(step);
        }
        self.each_stream(|_, hub| {
            if let Some(hub) = hub {
                hub.note_clock_step();
            }
        });
    }
}
