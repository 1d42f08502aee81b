//! Spans of time and what they cover: the algebra of the ledger. Keeps PURE-CORE.
//!
//! Sources of different strength speak about the same time. They are painted in the order of `Layer` and then of
//! what is assumed: a stronger one is never painted over. What nobody spoke about takes the reason of its
//! neighbours, so that the answer has no hole.

/// What was the matter with a stream at a time. The numbers are in the store: they never change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum State {
    Recorded = 0,
    Deleted = 1,
    RecordOff = 2,
    Disabled = 3,
    SourceDown = 4,
    SourceLoss = 5,
    DiskFull = 6,
    DiskReadonly = 7,
    DiskError = 8,
    DiskMissing = 9,
    DiskStalled = 10,
    Overload = 11,
    Restart = 12,
    PowerOff = 13,
    ClockStep = 14,
    NotConfigured = 15,
}

impl State {
    /// All of them, in the order of their numbers.
    pub const ALL: [Self; 16] = [
        Self::Recorded,
        Self::Deleted,
        Self::RecordOff,
        Self::Disabled,
        Self::SourceDown,
        Self::SourceLoss,
        Self::DiskFull,
        Self::DiskReadonly,
        Self::DiskError,
        Self::DiskMissing,
        Self::DiskStalled,
        Self::Overload,
        Self::Restart,
        Self::PowerOff,
        Self::ClockStep,
        Self::NotConfigured,
    ];

    /// The word in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Recorded => "recorded",
            Self::Deleted => "deleted",
            Self::RecordOff => "record_off",
            Self::Disabled => "disabled",
            Self::SourceDown => "source_down",
            Self::SourceLoss => "source_loss",
            Self::DiskFull => "disk_full",
            Self::DiskReadonly => "disk_readonly",
            Self::DiskError => "disk_error",
            Self::DiskMissing => "disk_missing",
            Self::DiskStalled => "disk_stalled",
            Self::Overload => "overload",
            Self::Restart => "restart",
            Self::PowerOff => "power_off",
            Self::ClockStep => "clock_step",
            Self::NotConfigured => "not_configured",
        }
    }

    /// The number in the store.
    pub fn code(self) -> u8 {
        self as u8
    }

    /// The state with this number.
    pub fn from_code(code: u8) -> Option<Self> {
        Self::ALL.get(usize::from(code)).copied()
    }
}

/// The strength of what is stored, strongest first. What the recordings themselves say comes between `Exact` and
/// `Deleted`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Layer {
    /// Known from the packets themselves: a loss within a recording.
    Exact = 0,
    Deleted = 1,
    /// Seen of the stream's state.
    Reason = 2,
}

impl Layer {
    /// The number in the store.
    pub fn code(self) -> u8 {
        self as u8
    }
}

/// A state from `start_ms` to `end_ms`, exclusive; Unix milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    pub start_ms: i64,
    pub end_ms: i64,
    pub state: State,
}

/// `end_ms` of a span that is not over.
pub const OPEN_MS: i64 = i64::MAX;
/// Recordings that follow on each other within this count as one: what lies between is rounding.
pub const GAP_MS_MAX: i64 = 1000;
/// What nobody spoke about is blamed on a neighbour up to this length; beyond, it is a loss of the source.
const NEIGHBOUR_MS_MAX: i64 = 60_000;

impl Span {
    /// Whether it is not over.
    pub fn is_open(&self) -> bool {
        self.end_ms == OPEN_MS
    }

    /// What of it lies in this range.
    pub fn clipped(self, start_ms: i64, end_ms: i64) -> Option<Self> {
        let clipped =
            Self { start_ms: self.start_ms.max(start_ms), end_ms: self.end_ms.min(end_ms), ..self };
        (clipped.start_ms < clipped.end_ms).then_some(clipped)
    }
}

/// A range of time that is being painted. Invariant C1: spans are sorted, not empty, within the range and apart.
#[derive(Clone, Debug)]
pub struct Cover {
    start_ms: i64,
    end_ms: i64,
    spans: Vec<Span>,
}

impl Cover {
    /// An unpainted range.
    pub fn new(start_ms: i64, end_ms: i64) -> Self {
        Self { start_ms, end_ms: end_ms.max(start_ms), spans: Vec::new() }
    }

    /// Paints spans in any order where nothing is painted yet; of two that overlap, the one that starts first wins.
    pub fn paint(&mut self, layer: impl IntoIterator<Item = Span>) {
        let is_here = |span: &Span| span.clipped(self.start_ms, self.end_ms).is_some();
        let mut layer: Vec<Span> = layer.into_iter().filter(is_here).collect();
        layer.sort_by_key(|span| (span.start_ms, span.end_ms));
        let mut out = Vec::with_capacity(self.spans.len() + layer.len());
        let mut layer = layer.into_iter().peekable();
        let mut at = self.start_ms;
        let end = Span { start_ms: self.end_ms, end_ms: self.end_ms, state: State::Recorded };
        for painted in self.spans.iter().copied().chain([end]) {
            // The hole from `at` to the next painted span.
            while let Some(span) = layer.peek().copied() {
                if span.start_ms >= painted.start_ms {
                    break;
                }
                if let Some(piece) = span.clipped(at, painted.start_ms) {
                    at = piece.end_ms;
                    out.push(piece);
                }
                if span.end_ms > painted.start_ms {
                    break; // it may go on behind what is painted
                }
                layer.next();
            }
            at = at.max(painted.end_ms);
            if painted.start_ms < painted.end_ms {
                out.push(painted);
            }
        }
        self.spans = out;
    }

    /// Holes, in order.
    pub fn holes(&self) -> Vec<(i64, i64)> {
        let mut holes = Vec::new();
        let mut at = self.start_ms;
        for span in &self.spans {
            if at < span.start_ms {
                holes.push((at, span.start_ms));
            }
            at = span.end_ms;
        }
        if at < self.end_ms {
            holes.push((at, self.end_ms));
        }
        holes
    }

    /// Paints what is left after its neighbours, and answers all of it; neighbours that are alike are one.
    pub fn finish(mut self) -> Vec<Span> {
        let mut fill = Vec::new();
        for (start_ms, end_ms) in self.holes() {
            let before = self.spans.iter().rev().find(|span| span.end_ms <= start_ms);
            let after = self.spans.iter().find(|span| span.start_ms >= end_ms);
            let state = blame(before.map(|s| s.state), after.map(|s| s.state), end_ms - start_ms);
            fill.push(Span { start_ms, end_ms, state });
        }
        self.paint(fill);
        let mut whole: Vec<Span> = Vec::with_capacity(self.spans.len());
        for span in self.spans {
            match whole.last_mut() {
                Some(last) if last.state == span.state => last.end_ms = span.end_ms,
                _ => whole.push(span),
            }
        }
        whole
    }
}

/// The reason for a hole of `length_ms` between two states.
fn blame(before: Option<State>, after: Option<State>, length_ms: i64) -> State {
    use State::{Deleted, NotConfigured, Recorded, SourceDown, SourceLoss};
    // A stream that was just added and has not sent anything yet.
    let is_reason = |state: &State| !matches!(state, Recorded | Deleted | NotConfigured);
    let is_media = |state: Option<State>| matches!(state, Some(Recorded | Deleted));
    match (before, after) {
        (Some(state), Some(_))
            if is_media(before) && is_media(after) && length_ms <= GAP_MS_MAX =>
        {
            state
        }
        _ if length_ms > NEIGHBOUR_MS_MAX => SourceLoss,
        (Some(NotConfigured), _) => SourceDown,
        _ => before.filter(is_reason).or(after.filter(is_reason)).unwrap_or(SourceLoss),
    }
}

/// Joins spans that come in by rising start, and of which there may be very many: only what is not continued takes
/// memory.
#[derive(Clone, Debug, Default)]
pub struct Joiner {
    spans: Vec<Span>,
}

impl Joiner {
    /// Adds one; answers how many there are now.
    pub fn push(&mut self, span: Span) -> usize {
        match self.spans.last_mut() {
            Some(last)
                if last.state == span.state
                    && span.start_ms <= last.end_ms.saturating_add(GAP_MS_MAX) =>
            {
                last.end_ms = last.end_ms.max(span.end_ms);
            }
            _ => self.spans.push(span),
        }
        self.spans.len()
    }

    /// All of them.
    pub fn done(self) -> Vec<Span> {
        self.spans
    }
}

/// The part of the time of `spans` that is `recorded`, from 0 to 1.
pub fn recorded_share(spans: &[Span]) -> f64 {
    let length = |spans: &mut dyn Iterator<Item = &Span>| -> i64 {
        spans.map(|span| span.end_ms - span.start_ms).sum()
    };
    let all = length(&mut spans.iter());
    let recorded = length(&mut spans.iter().filter(|span| span.state == State::Recorded));
    if all == 0 { 0.0 } else { recorded as f64 / all as f64 }
}

/// Panics unless `spans` cover the range without overlap and neighbours differ.
#[cfg(test)]
pub fn check_whole(spans: &[Span], start_ms: i64, end_ms: i64) {
    let mut at = start_ms;
    for (n, span) in spans.iter().enumerate() {
        assert_eq!(span.start_ms, at, "no hole and no overlap: {spans:?}");
        assert!(span.end_ms > span.start_ms, "not empty: {spans:?}");
        assert!(n == 0 || spans[n - 1].state != span.state, "neighbours differ: {spans:?}");
        at = span.end_ms;
    }
    assert_eq!(at, end_ms.max(start_ms), "to the end: {spans:?}");
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn span(start_ms: i64, end_ms: i64, state: State) -> Span {
        Span { start_ms, end_ms, state }
    }

    /// What a second of `layers` is, by looking at each of them: strongest first, earliest start first.
    fn slow(layers: &[Vec<Span>], at: i64) -> Option<State> {
        layers.iter().find_map(|layer| {
            let mut here: Vec<&Span> =
                layer.iter().filter(|s| s.start_ms <= at && at < s.end_ms).collect();
            here.sort_by_key(|s| (s.start_ms, s.end_ms));
            here.first().map(|s| s.state)
        })
    }

    #[test]
    fn codes_and_names_are_unique_and_come_back() {
        for (n, state) in State::ALL.into_iter().enumerate() {
            assert_eq!(usize::from(state.code()), n);
            assert_eq!(State::from_code(state.code()), Some(state));
            assert_eq!(State::ALL.iter().filter(|s| s.name() == state.name()).count(), 1);
        }
        assert_eq!(State::from_code(16), None);
    }

    #[test]
    fn a_stronger_layer_stays_and_a_weaker_one_fills_around_it() {
        let mut cover = Cover::new(0, 100);
        cover.paint([span(40, 50, State::SourceLoss)]);
        cover.paint([span(10, 90, State::Recorded)]);
        cover.paint([span(-5, 200, State::RecordOff)]);
        let want = [
            span(0, 10, State::RecordOff),
            span(10, 40, State::Recorded),
            span(40, 50, State::SourceLoss),
            span(50, 90, State::Recorded),
            span(90, 100, State::RecordOff),
        ];
        assert_eq!(cover.finish(), want);
    }

    #[track_caller]
    fn check_blame(before: State, length_ms: i64, after: State, want: State) {
        let mut cover = Cover::new(0, 20_000 + length_ms);
        cover.paint([span(0, 10_000, before), span(10_000 + length_ms, 20_000 + length_ms, after)]);
        let spans = cover.finish();
        let at = spans.iter().find(|s| s.end_ms > 10_000).expect("covered");
        assert_eq!(at.state, want, "{before:?} {length_ms} {after:?}");
    }

    #[test]
    fn what_nobody_spoke_about_takes_the_reason_of_its_neighbours() {
        use State::*;
        check_blame(Recorded, 900, Recorded, Recorded);
        check_blame(Recorded, 1900, Recorded, SourceLoss);
        check_blame(Recorded, 5000, SourceDown, SourceDown);
        check_blame(Restart, 2000, Recorded, Restart);
        check_blame(RecordOff, 500, SourceDown, RecordOff);
        check_blame(NotConfigured, 3000, Recorded, SourceDown);
        check_blame(Deleted, 900, Recorded, Deleted);
        check_blame(Restart, 61_000, Recorded, SourceLoss);
    }

    #[test]
    fn an_empty_range_has_no_spans() {
        let mut cover = Cover::new(5, 5);
        cover.paint([span(0, 10, State::Recorded)]);
        assert_eq!(cover.finish(), []);
        assert_eq!(recorded_share(&[]), 0.0);
    }

    fn any_layer() -> impl Strategy<Value = Vec<Span>> {
        let one = (0_i64..120, 0_i64..40, 0_u8..16).prop_map(|(start, length, code)| {
            span(start, start + length, State::from_code(code).expect("in range"))
        });
        proptest::collection::vec(one, 0..8)
    }

    proptest! {
        #[test]
        fn every_moment_has_the_strongest_state(
            layers in proptest::collection::vec(any_layer(), 1..4), start in 0_i64..60, length in 0_i64..80,
        ) {
            let mut cover = Cover::new(start, start + length);
            for layer in &layers {
                cover.paint(layer.clone());
            }
            let holes = cover.holes();
            let spans = cover.finish();
            check_whole(&spans, start, start + length);
            for at in start..start + length {
                let got = spans.iter().find(|s| s.start_ms <= at && at < s.end_ms).map(|s| s.state);
                match slow(&layers, at) {
                    Some(want) => prop_assert_eq!(got, Some(want), "at {}", at),
                    None => prop_assert!(holes.iter().any(|(a, b)| *a <= at && at < *b)),
                }
            }
            let share = recorded_share(&spans);
            prop_assert!((0.0..=1.0).contains(&share));
        }

        #[test]
        fn joined_spans_cover_the_same_but_for_small_gaps(lengths in proptest::collection::vec((0_i64..5000, 0_i64..3000), 0..20)) {
            let (mut joiner, mut at, mut covered, mut gaps) = (Joiner::default(), 0, 0, 0);
            for (length, gap) in lengths {
                joiner.push(span(at, at + length, State::Recorded));
                at += length + gap;
                covered += length;
                gaps += gap;
            }
            let joined: i64 = joiner.done().iter().map(|s| s.end_ms - s.start_ms).sum();
            prop_assert!(joined >= covered && joined <= covered + gaps);
        }
    }
}
