//! What is seen of streams becomes spans for the store: opened when a state begins, closed when it ends.
//! Keeps PURE-CORE.
//!
//! An open span is stored as such, so that a crash leaves its beginning; the next start closes it at the last sign
//! of life. What is not stored yet is answered by `live`, so that the API misses nothing.

use std::collections::BTreeMap;

use super::clock_core::{Redate, Step};
use super::span_core::{Layer, OPEN_MS, Span, State};

/// Spans that wait for the next commit, which comes within seconds. Beyond it losses are counted, no longer dated.
const PENDING_MAX: usize = 4096;
/// Stored spans that can be dated anew when the time becomes known; later ones keep their date.
const EARLY_MAX: usize = 1024;
/// A state that comes back within this has not ended.
const FLICKER_MS_MAX: i64 = 1000;
/// Losses that follow on each other within this are one.
const LOSS_GAP_MS_MAX: i64 = 1500;
/// How long a step backwards is to be seen in the ledger; the time itself is recorded twice.
const STEP_BACK_MS: i64 = 1000;

/// A span of one stream, as the store takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub stream_id: u32,
    pub layer: Layer,
    pub span: Span,
}

#[derive(Clone, Copy, Debug, Default)]
struct Stream {
    open: Option<Span>,
    closed: Option<Span>,
}

/// Where a stored span is found: stream, layer, start.
pub type Key = (u32, Layer, i64);

fn key(entry: &Entry) -> Key {
    (entry.stream_id, entry.layer, entry.span.start_ms)
}

/// What is to be stored.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// These go, before the others come.
    pub removed: Vec<Key>,
    pub entries: Vec<Entry>,
}

/// What is known of all streams and not yet stored.
#[derive(Clone, Debug, Default)]
pub struct Journal {
    streams: BTreeMap<u32, Stream>,
    pending: Vec<Entry>,
    removed: Vec<Key>,
    /// What was given to the store before the time was known.
    early: BTreeMap<Key, Entry>,
    is_time_known: bool,
    undated: u64,
}

impl Journal {
    /// A stream is in this state now, or in none that needs a reason.
    pub fn observe(&mut self, stream_id: u32, state: Option<State>, now_ms: i64) {
        let mut stream = self.streams.get(&stream_id).copied().unwrap_or_default();
        if stream.open.map(|open| open.state) == state {
            self.streams.insert(stream_id, stream);
            return;
        }
        if let Some(open) = stream.open.take() {
            // A clock that went back a little must not leave the span open.
            let closed = Span { end_ms: now_ms.max(open.start_ms + 1), ..open };
            self.put(Entry { stream_id, layer: Layer::Reason, span: closed });
            stream.closed = Some(closed);
        }
        if let Some(state) = state {
            let again = stream.closed.filter(|closed| {
                closed.state == state && (0..=FLICKER_MS_MAX).contains(&(now_ms - closed.end_ms))
            });
            let start_ms = again.map_or(now_ms, |closed| closed.start_ms);
            let open = Span { start_ms, end_ms: OPEN_MS, state };
            self.put(Entry { stream_id, layer: Layer::Reason, span: open });
            stream.open = Some(open);
        }
        self.streams.insert(stream_id, stream);
    }

    /// Something of a stream between these two times is lost for certain, whatever its files seem to cover.
    pub fn lose(&mut self, stream_id: u32, span: Span) {
        let layer = Layer::Exact;
        let is_same = |entry: &&mut Entry| {
            entry.stream_id == stream_id
                && entry.layer == layer
                && entry.span.state == span.state
                && entry.span.start_ms <= span.start_ms
                && span.start_ms <= entry.span.end_ms + LOSS_GAP_MS_MAX
        };
        match self.pending.iter_mut().rev().find(is_same) {
            Some(entry) => entry.span.end_ms = entry.span.end_ms.max(span.end_ms),
            None => self.put(Entry { stream_id, layer, span }),
        }
    }

    /// A reason for a time that is over.
    pub fn put_reason(&mut self, stream_id: u32, span: Span) {
        self.put(Entry { stream_id, layer: Layer::Reason, span });
    }

    /// A stream is not there any more.
    pub fn forget(&mut self, stream_id: u32, now_ms: i64) {
        self.observe(stream_id, None, now_ms);
        self.streams.remove(&stream_id);
    }

    /// The time became known: everything that this life saw so far is dated anew, and what it was taken for is named.
    pub fn redate(&mut self, redate: &Redate) {
        let dated = |span: Span| {
            let end_ms = if span.is_open() { OPEN_MS } else { redate.dated(span.end_ms) };
            Span { start_ms: redate.dated(span.start_ms), end_ms, ..span }
        };
        let early = std::mem::take(&mut self.early);
        self.removed.extend(early.keys().filter(|key| redate.holds(key.2)));
        // What waits knows the end of what was stored open.
        let waiting = std::mem::take(&mut self.pending);
        for entry in early.into_values().chain(waiting) {
            self.put(Entry { span: dated(entry.span), ..entry });
        }
        for (&stream_id, stream) in &mut self.streams {
            stream.open = stream.open.map(dated);
            stream.closed = stream.closed.map(dated);
            let (start_ms, end_ms) = (redate.from_ms, redate.until_ms);
            let span = Span { start_ms, end_ms, state: State::ClockStep };
            self.pending.push(Entry { stream_id, layer: Layer::Reason, span });
        }
        self.is_time_known = true;
    }

    /// The wall clock stepped: what is open ends by the old time and goes on by the new.
    pub fn step(&mut self, step: Step) {
        let ids: Vec<u32> = self.streams.keys().copied().collect();
        for stream_id in ids {
            let state = self.streams.get(&stream_id).and_then(|s| s.open).map(|open| open.state);
            self.observe(stream_id, None, step.from_ms);
            if let Some(stream) = self.streams.get_mut(&stream_id) {
                stream.closed = None;
            }
            let (layer, start_ms, end_ms) = if step.to_ms > step.from_ms {
                (Layer::Reason, step.from_ms, step.to_ms)
            } else {
                (Layer::Exact, step.to_ms, step.to_ms + STEP_BACK_MS)
            };
            let span = Span { start_ms, end_ms, state: State::ClockStep };
            self.put(Entry { stream_id, layer, span });
            self.observe(stream_id, state, step.to_ms);
        }
    }

    fn put(&mut self, entry: Entry) {
        match self.pending.iter().position(|other| key(other) == key(&entry)) {
            Some(at) => self.pending[at] = entry,
            None if self.pending.len() >= PENDING_MAX => self.undated += 1,
            None => self.pending.push(entry),
        }
    }

    /// What is to be stored; the caller gives it back with `put_back` if that did not work.
    pub fn take_pending(&mut self) -> Pending {
        let entries = std::mem::take(&mut self.pending);
        if !self.is_time_known {
            for entry in &entries {
                if self.early.len() < EARLY_MAX || self.early.contains_key(&key(entry)) {
                    self.early.insert(key(entry), *entry);
                }
            }
        }
        Pending { removed: std::mem::take(&mut self.removed), entries }
    }

    /// What could not be stored waits again.
    pub fn put_back(&mut self, pending: Pending) {
        self.removed.extend(pending.removed);
        let newer = std::mem::replace(&mut self.pending, pending.entries);
        for entry in newer {
            self.put(entry);
        }
    }

    /// Whether something is to be stored.
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty() || !self.removed.is_empty()
    }

    /// Spans that may not be in the store yet, and those that are still open.
    pub fn live(&self) -> Vec<Entry> {
        let open = self.streams.iter().filter_map(|(&stream_id, stream)| {
            let span = stream.open?;
            Some(Entry { stream_id, layer: Layer::Reason, span })
        });
        self.pending.iter().copied().chain(open).collect()
    }

    /// Spans that were not kept because too many waited.
    pub fn undated(&self) -> u64 {
        self.undated
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn reason(start_ms: i64, end_ms: i64, state: State) -> Entry {
        Entry { stream_id: 1, layer: Layer::Reason, span: Span { start_ms, end_ms, state } }
    }

    #[test]
    fn a_state_is_stored_when_it_begins_and_again_when_it_ends() {
        let mut journal = Journal::default();
        journal.observe(1, None, 0);
        assert!(!journal.has_pending());
        journal.observe(1, Some(State::SourceDown), 100);
        journal.observe(1, Some(State::SourceDown), 200);
        assert_eq!(journal.take_pending().entries, [reason(100, OPEN_MS, State::SourceDown)]);
        assert_eq!(journal.live(), [reason(100, OPEN_MS, State::SourceDown)]);
        journal.observe(1, Some(State::Disabled), 300);
        let want = [reason(100, 300, State::SourceDown), reason(300, OPEN_MS, State::Disabled)];
        assert_eq!(journal.take_pending().entries, want);
        journal.forget(1, 400);
        assert_eq!(journal.take_pending().entries, [reason(300, 400, State::Disabled)]);
        assert_eq!(journal.live(), []);
    }

    #[test]
    fn a_flicker_does_not_make_a_second_span() {
        let mut journal = Journal::default();
        journal.observe(1, Some(State::SourceDown), 100);
        journal.observe(1, None, 5000);
        journal.observe(1, Some(State::SourceDown), 5900);
        journal.observe(1, None, 9000);
        assert_eq!(journal.take_pending().entries, [reason(100, 9000, State::SourceDown)]);
        journal.observe(1, Some(State::SourceDown), 10_500);
        assert_eq!(journal.take_pending().entries, [reason(10_500, OPEN_MS, State::SourceDown)]);
    }

    #[test]
    fn losses_that_follow_on_each_other_are_one() {
        let mut journal = Journal::default();
        for n in 0..10 {
            let span = Span { start_ms: n * 1000, end_ms: n * 1000 + 900, state: State::Overload };
            journal.lose(1, span);
        }
        let pending = journal.take_pending().entries;
        assert_eq!(pending.len(), 1);
        assert_eq!((pending[0].span.start_ms, pending[0].span.end_ms), (0, 9900));
    }

    #[test]
    fn a_step_of_the_clock_is_named_in_both_directions() {
        let mut journal = Journal::default();
        journal.observe(1, Some(State::RecordOff), 1000);
        journal.step(Step { from_ms: 5000, to_ms: 90_000, is_first_sync: false });
        let want = [
            reason(1000, 5000, State::RecordOff),
            reason(5000, 90_000, State::ClockStep),
            reason(90_000, OPEN_MS, State::RecordOff),
        ];
        assert_eq!(journal.take_pending().entries, want);
        journal.step(Step { from_ms: 95_000, to_ms: 3000, is_first_sync: false });
        let pending = journal.take_pending().entries;
        assert_eq!(pending[0], reason(90_000, 95_000, State::RecordOff));
        assert_eq!((pending[1].layer, pending[1].span.state), (Layer::Exact, State::ClockStep));
        assert_eq!(pending[2], reason(3000, OPEN_MS, State::RecordOff));
    }

    #[test]
    fn what_was_seen_before_the_time_was_known_gets_its_true_date() {
        let mut journal = Journal::default();
        journal.observe(1, Some(State::SourceDown), 100);
        journal.observe(1, Some(State::RecordOff), 300);
        journal.take_pending();
        journal.observe(1, Some(State::DiskFull), 500);
        journal.take_pending();
        journal.observe(1, None, 700);
        journal.observe(1, Some(State::SourceDown), 900);
        let redate = Redate { boot: 7, from_ms: 0, until_ms: 1000, by_ms: 1_000_000 };
        journal.redate(&redate);
        let pending = journal.take_pending();
        let mut removed = pending.removed;
        removed.sort_unstable();
        assert_eq!(removed, [100, 300, 500].map(|at| (1, Layer::Reason, at)));
        let mut got = pending.entries;
        got.sort_by_key(|entry| entry.span.start_ms);
        let want = [
            reason(0, 1000, State::ClockStep),
            reason(1_000_100, 1_000_300, State::SourceDown),
            reason(1_000_300, 1_000_500, State::RecordOff),
            reason(1_000_500, 1_000_700, State::DiskFull),
            reason(1_000_900, OPEN_MS, State::SourceDown),
        ];
        assert_eq!(got, want);
        journal.observe(1, None, 1_002_000);
        let end = [reason(1_000_900, 1_002_000, State::SourceDown)];
        assert_eq!(journal.take_pending(), Pending { removed: vec![], entries: end.to_vec() });
    }

    #[test]
    fn what_could_not_be_stored_waits_and_newer_wins() {
        let mut journal = Journal::default();
        journal.observe(1, Some(State::DiskFull), 100);
        let taken = journal.take_pending();
        journal.observe(1, None, 700);
        journal.put_back(taken);
        assert_eq!(journal.take_pending().entries, [reason(100, 700, State::DiskFull)]);
    }

    proptest! {
        #[test]
        fn stored_spans_say_what_was_seen(
            seen in proptest::collection::vec((0_u8..4, 1_i64..5000, any::<bool>()), 1..60),
        ) {
            let mut journal = Journal::default();
            let mut stored: BTreeMap<i64, Span> = BTreeMap::new();
            let mut history: Vec<(i64, Option<State>)> = Vec::new();
            let mut now = 0;
            for (code, passes, is_commit) in seen {
                let state = (code > 0).then(|| State::from_code(code + 1).expect("in range"));
                journal.observe(1, state, now);
                history.push((now, state));
                now += passes;
                if is_commit {
                    stored.extend(journal.take_pending().entries.iter().map(|e| (e.span.start_ms, e.span)));
                }
            }
            stored.extend(journal.take_pending().entries.iter().map(|e| (e.span.start_ms, e.span)));
            for (at, state) in history {
                let here = stored.values().filter(|s| s.start_ms <= at && at < s.end_ms);
                let here: Vec<State> = here.map(|s| s.state).collect();
                prop_assert!(here.len() <= 1);
                // None may be covered: a flicker.
                if let Some(state) = state {
                    prop_assert_eq!(&here, &[state]);
                }
            }
            prop_assert!(stored.values().filter(|s| s.is_open()).count() <= 1);
        }
    }
}
