//! How an update gets from one slot to the other: every step, in an order in which the power may go at any of them.
//!
//! In here: what the boot loader reads (`slot.txt`), the note that says what became of an update, the steps of
//! installing, confirming and going back, and when a version on trial is well. Pure: state and `now` come in, steps come
//! out. Not in here: carrying them out (`appliance/update`), what a bundle is (`bundle_core`).
//!
//! Invariant U1: the slot that the boot loader starts is whole. Invariant U2: a version that was never found well is left
//! after at most `TRIES` starts. Both are tried below with a cut at every step.

use std::time::{Duration, Instant};

use super::bundle_core::{PART_KINDS, PartKind};

/// How often the boot loader starts a version on trial.
pub const TRIES: u8 = 3;
/// A version that has not been found well by then is left.
pub const TRIAL_MAX: Duration = Duration::from_secs(600);
/// So long a stream must record, if one did in the hour before the update.
pub const RECORDING_FOR: Duration = Duration::from_secs(60);
/// So long API and disk must be well where nothing was recorded.
pub const WELL_FOR: Duration = Duration::from_secs(300);
/// What was recorded so long before an update must be recorded after it.
pub const RECORDED_BEFORE: Duration = Duration::from_secs(3600);
/// A recorder that ends so often during a trial is not well.
pub const ENDS_MAX: u32 = 3;

/// One of the two roots.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Slot {
    A,
    B,
}

impl Slot {
    /// As the boot loader has it.
    pub fn name(self) -> &'static str {
        if self == Self::A { "a" } else { "b" }
    }

    pub fn parse(text: &str) -> Option<Self> {
        match text {
            "a" => Some(Self::A),
            "b" => Some(Self::B),
            _ => None,
        }
    }

    pub fn other(self) -> Self {
        if self == Self::A { Self::B } else { Self::A }
    }

    /// Number of the partition with its root.
    pub fn partition(self) -> usize {
        if self == Self::A { 2 } else { 3 }
    }
}

/// What the boot loader is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BootState {
    /// The slot that is known to be good.
    pub active: Slot,
    /// The slot on trial, and how often it may still be started.
    pub trial: Option<(Slot, u8)>,
}

impl BootState {
    /// As `env import -t` of U-Boot reads it, and in the order in which `env export -t` writes it. All texts have one
    /// length, so that each is one sector that takes another's place.
    pub fn encode(&self) -> String {
        let (slot, left) = self.trial.map_or(("-", 0), |(slot, left)| (slot.name(), left.min(9)));
        format!("active={}\nleft={left}\ntry={slot}\nwhole=y\n", self.active.name())
    }

    /// Reads what U-Boot or `encode` wrote; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let text = text.split('\0').next().unwrap_or_default();
        let value =
            |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        if value("whole") != Some("y") {
            return None;
        }
        let active = Slot::parse(value("active")?)?;
        let left = value("left")?.parse().ok()?;
        let trial = value("try").and_then(Slot::parse).map(|slot| (slot, left));
        Some(Self { active, trial })
    }
}

/// What became of an update.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// The other slot is being written.
    Writing,
    /// It is to be tried, or is.
    Trial,
    Confirmed,
    /// It was tried and left, for this reason.
    RolledBack(String),
    /// It was never tried, for this reason.
    Failed(String),
    /// It was not even written.
    Refused(String),
}

impl Outcome {
    /// The word in the API.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Writing => "writing",
            Self::Trial => "trial",
            Self::Confirmed => "confirmed",
            Self::RolledBack(_) => "rolled_back",
            Self::Failed(_) => "failed",
            Self::Refused(_) => "refused",
        }
    }

    /// Why, in words; empty where there is nothing to say.
    pub fn reason(&self) -> &str {
        match self {
            Self::RolledBack(why) | Self::Failed(why) | Self::Refused(why) => why,
            _ => "",
        }
    }
}

/// The last update, as it is remembered on the data partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Note {
    /// Empty where it is not known.
    pub version: String,
    /// The slot that it was for.
    pub slot: Slot,
    /// A stream recorded in the hour before.
    pub was_recording: bool,
    pub outcome: Outcome,
    /// Unix milliseconds.
    pub at_ms: i64,
}

impl Note {
    pub fn encode(&self) -> String {
        format!(
            "version={}\nslot={}\nwas_recording={}\noutcome={}\nat_ms={}\nreason={}\n",
            self.version,
            self.slot.name(),
            self.was_recording,
            self.outcome.name(),
            self.at_ms,
            self.outcome.reason().replace(['\n', '\r'], " "),
        )
    }

    /// Reverses `encode`; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let mut value = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix('=');
        let version = value("version")?.to_owned();
        let slot = Slot::parse(value("slot")?)?;
        let was_recording = value("was_recording")? == "true";
        let outcome = value("outcome")?;
        let at_ms = value("at_ms")?.parse().ok()?;
        let reason = value("reason")?.to_owned();
        let outcome = match outcome {
            "writing" => Outcome::Writing,
            "trial" => Outcome::Trial,
            "confirmed" => Outcome::Confirmed,
            "rolled_back" => Outcome::RolledBack(reason),
            "failed" => Outcome::Failed(reason),
            "refused" => Outcome::Refused(reason),
            _ => return None,
        };
        Some(Self { version, slot, was_recording, outcome, at_ms })
    }

    fn with(&self, outcome: Outcome, now_ms: i64) -> Self {
        Self { outcome, at_ms: now_ms, ..self.clone() }
    }
}

/// One thing to be done, durable before the next one begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    Note(Note),
    /// A part into this slot.
    Write(Slot, PartKind),
    /// All parts are read back from this slot and compared with what was signed.
    Compare(Slot),
    Boot(BootState),
    Restart,
}

/// The steps of an update whose bundle was verified. `active` is the slot that runs and is not on trial.
pub fn install(active: Slot, version: String, was_recording: bool, now_ms: i64) -> Vec<Step> {
    let slot = active.other();
    let note = Note { version, slot, was_recording, outcome: Outcome::Writing, at_ms: now_ms };
    let on_trial = note.with(Outcome::Trial, now_ms);
    let mut steps = vec![Step::Note(note)];
    steps.extend(PART_KINDS.map(|kind| Step::Write(slot, kind)));
    steps.push(Step::Compare(slot));
    steps.push(Step::Note(on_trial));
    steps.push(Step::Boot(BootState { active, trial: Some((slot, TRIES)) }));
    steps.push(Step::Restart);
    steps
}

/// The steps by which the version on trial, which runs, becomes the one that is started from now on.
pub fn confirm(note: &Note, now_ms: i64) -> Vec<Step> {
    vec![
        Step::Boot(BootState { active: note.slot, trial: None }),
        Step::Note(note.with(Outcome::Confirmed, now_ms)),
    ]
}

/// The steps by which the version on trial, which runs, is left.
pub fn give_up(note: &Note, reason: String, now_ms: i64) -> Vec<Step> {
    vec![
        Step::Note(note.with(Outcome::RolledBack(reason), now_ms)),
        Step::Boot(BootState { active: note.slot.other(), trial: None }),
        Step::Restart,
    ]
}

/// What to do at a start of the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    pub steps: Vec<Step>,
    /// The version that runs is on trial.
    pub trial: Option<Note>,
}

/// Decides from what the boot loader was told, the slot that it started, and what is remembered of the last update.
pub fn at_start(boot: Option<BootState>, running: Slot, note: Option<&Note>, now_ms: i64) -> Start {
    let unknown = Note {
        version: String::new(),
        slot: running,
        was_recording: false,
        outcome: Outcome::Trial,
        at_ms: now_ms,
    };
    match boot.and_then(|boot| Some((boot.active, boot.trial?))) {
        Some((_, (slot, _))) if slot == running => {
            let note = note.filter(|note| note.slot == slot).unwrap_or(&unknown);
            if matches!(note.outcome, Outcome::RolledBack(_)) {
                // The power went while it was being left.
                let boot = BootState { active: slot.other(), trial: None };
                return Start { steps: vec![Step::Boot(boot), Step::Restart], trial: None };
            }
            Start { steps: Vec::new(), trial: Some(note.with(Outcome::Trial, now_ms)) }
        }
        Some((active, (slot, left))) => {
            let boot = Step::Boot(BootState { active, trial: None });
            let of_slot = Note { slot, ..unknown };
            let note = note.filter(|note| note.slot == slot).unwrap_or(&of_slot);
            let mut steps = Vec::new();
            if !matches!(note.outcome, Outcome::RolledBack(_)) {
                let why = if left == 0 {
                    format!("it was started {TRIES} times and never found well")
                } else {
                    "the boot loader did not start it".to_owned()
                };
                steps.push(Step::Note(note.with(Outcome::RolledBack(why), now_ms)));
            }
            steps.push(boot);
            Start { steps, trial: None }
        }
        None => at_start_without_trial(boot, running, note, now_ms),
    }
}

fn at_start_without_trial(
    boot: Option<BootState>,
    running: Slot,
    note: Option<&Note>,
    now_ms: i64,
) -> Start {
    let only = |note: Note| Start { steps: vec![Step::Note(note)], trial: None };
    let failed = |note: &Note, why: &str| only(note.with(Outcome::Failed(why.to_owned()), now_ms));
    match note {
        Some(note) if note.outcome == Outcome::Writing => failed(
            note,
            "the power went, or the device restarted, while it was written; nothing has changed",
        ),
        Some(note) if note.outcome == Outcome::Trial && note.slot != running => {
            failed(note, "the power went before it was tried; nothing has changed")
        }
        Some(note) if note.outcome == Outcome::Trial && boot.is_some() => {
            only(note.with(Outcome::Confirmed, now_ms))
        }
        // What the boot loader was told is lost, and it chose the slot on trial by itself.
        Some(note) if note.outcome == Outcome::Trial => {
            let boot = BootState { active: running.other(), trial: Some((running, TRIES)) };
            Start { steps: vec![Step::Boot(boot)], trial: Some(note.clone()) }
        }
        _ => Start { steps: Vec::new(), trial: None },
    }
}

/// What is said of a version on trial.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    Wait,
    Confirm,
    GiveUp(String),
}

/// The look at a version on trial.
#[derive(Debug)]
pub struct TrialWatch {
    began: Instant,
    was_recording: bool,
    well_since: Option<Instant>,
    recording_since: Option<Instant>,
    unwell: String,
    ends: u32,
}

impl TrialWatch {
    pub fn new(now: Instant, was_recording: bool) -> Self {
        Self {
            began: now,
            was_recording,
            well_since: None,
            recording_since: None,
            unwell: "the API has not answered".to_owned(),
            ends: 0,
        }
    }

    /// API and disk are well, or why not; and whether a stream records now. Asked every few seconds.
    pub fn saw(&mut self, now: Instant, health: Result<(), String>, is_recording: bool) {
        match health {
            Ok(()) => {
                self.well_since.get_or_insert(now);
                if is_recording {
                    self.recording_since.get_or_insert(now);
                } else {
                    self.recording_since = None;
                }
            }
            Err(why) => {
                (self.well_since, self.recording_since) = (None, None);
                self.unwell = why;
            }
        }
    }

    /// The recorder ended by itself.
    pub fn recorder_ended(&mut self) {
        self.ends += 1;
        (self.well_since, self.recording_since) = (None, None);
    }

    pub fn poll(&self, now: Instant) -> Verdict {
        let for_at_least = |since: Option<Instant>, min: Duration| {
            since.is_some_and(|since| now.saturating_duration_since(since) >= min)
        };
        let is_well = if self.was_recording {
            for_at_least(self.recording_since, RECORDING_FOR)
        } else {
            for_at_least(self.well_since, WELL_FOR)
        };
        if is_well {
            return Verdict::Confirm;
        }
        if self.ends >= ENDS_MAX {
            return Verdict::GiveUp(format!("its recorder ended {} times", self.ends));
        }
        if now.saturating_duration_since(self.began) < TRIAL_MAX {
            return Verdict::Wait;
        }
        let minutes = TRIAL_MAX.as_secs() / 60;
        Verdict::GiveUp(if self.well_since.is_none() {
            format!("it was not well within {minutes} minutes: {}", self.unwell)
        } else {
            format!("no stream recorded for {} s within {minutes} minutes", RECORDING_FOR.as_secs())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_boot_loader_reads_has_one_length_and_comes_back() {
        let mut lengths = Vec::new();
        for active in [Slot::A, Slot::B] {
            for trial in [None, Some((active.other(), 0)), Some((active.other(), TRIES))] {
                let state = BootState { active, trial };
                assert_eq!(BootState::parse(&state.encode()), Some(state));
                // U-Boot ends what it writes with a zero byte.
                assert_eq!(BootState::parse(&format!("{}\0rest", state.encode())), Some(state));
                lengths.push(state.encode().len());
            }
        }
        assert!(lengths.iter().all(|length| *length == lengths[0]), "{lengths:?}");
        let whole = BootState { active: Slot::B, trial: None }.encode();
        for torn in ["", "\0\0\0", "active=c\nleft=0\ntry=-\nwhole=y\n", &whole[..whole.len() - 3]]
        {
            assert_eq!(BootState::parse(torn), None, "{torn:?}");
        }
    }

    fn note(outcome: Outcome) -> Note {
        Note { version: "0.6.0".into(), slot: Slot::B, was_recording: true, outcome, at_ms: 5 }
    }

    #[test]
    fn a_note_comes_back() {
        for outcome in [
            Outcome::Writing,
            Outcome::Trial,
            Outcome::Confirmed,
            Outcome::RolledBack("why=so".into()),
            Outcome::Failed("why".into()),
            Outcome::Refused(String::new()),
        ] {
            let note = note(outcome);
            assert_eq!(Note::parse(&note.encode()), Some(note));
        }
        assert_eq!(Note::parse("version=1\nslot=x\n"), None);
    }

    /// What is in a slot, and whether that version would be found well.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum Content {
        Old,
        Torn,
        New { is_good: bool },
    }

    /// A device without power: what its card holds.
    #[derive(Clone, Debug)]
    struct Card {
        slots: [Content; 2],
        /// `slot.txt` and its copy.
        boot: [Option<BootState>; 2],
        note: Option<Note>,
    }

    /// How a run of the device ended.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    enum End {
        Cut,
        Restart,
        Rest(Slot),
    }

    impl Card {
        fn content(&mut self, slot: Slot) -> &mut Content {
            &mut self.slots[slot as usize]
        }

        fn told(&self) -> Option<BootState> {
            self.boot[0].or(self.boot[1])
        }

        /// What `board/common/boot.cmd` does.
        fn boot_loader(&mut self) -> Slot {
            let mut state = self.told().unwrap_or(BootState { active: Slot::A, trial: None });
            match state.trial {
                Some((slot, left)) if left > 0 => {
                    state.trial = Some((slot, left - 1));
                    self.boot[0] = Some(state);
                    slot
                }
                _ => state.active,
            }
        }

        /// Carries out a step; with `is_cut` the power goes in the middle of it.
        fn carry_out(&mut self, step: &Step, is_good: bool, is_cut: bool) {
            match step {
                Step::Note(note) if !is_cut => self.note = Some(note.clone()),
                Step::Write(slot, kind) => {
                    let is_last = *kind == PartKind::Root && !is_cut;
                    *self.content(*slot) =
                        if is_last { Content::New { is_good } } else { Content::Torn };
                }
                // The copy comes first. A torn sector is neither the old nor the new one.
                Step::Boot(state) => {
                    self.boot[1] = Some(*state);
                    self.boot[0] = if is_cut { None } else { Some(*state) };
                }
                Step::Note(_) | Step::Compare(_) | Step::Restart => {}
            }
        }

        fn run(&mut self, steps: &[Step], is_good: bool, cuts: &mut Cuts) -> Option<End> {
            for step in steps {
                let is_cut = cuts.next();
                self.carry_out(step, is_good, is_cut);
                match step {
                    _ if is_cut => return Some(End::Cut),
                    Step::Restart => return Some(End::Restart),
                    _ => {}
                }
            }
            None
        }

        /// One start of the device, up to its end or its rest.
        fn start(&mut self, cuts: &mut Cuts) -> End {
            let running = self.boot_loader();
            let is_good = match *self.content(running) {
                Content::Torn => panic!("U1: a torn slot was started: {self:?}"),
                Content::Old => true,
                Content::New { is_good } => is_good,
            };
            let start = at_start(self.told(), running, self.note.as_ref(), 1);
            if let Some(end) = self.run(&start.steps, is_good, cuts) {
                return end;
            }
            let Some(note) = start.trial else { return End::Rest(running) };
            let steps =
                if is_good { confirm(&note, 2) } else { give_up(&note, "it is bad".into(), 2) };
            self.run(&steps, is_good, cuts).unwrap_or(End::Rest(running))
        }
    }

    /// The power goes at these steps, counted over all starts.
    struct Cuts {
        at: [usize; 2],
        done: usize,
    }

    impl Cuts {
        fn next(&mut self) -> bool {
            self.done += 1;
            self.at.contains(&self.done)
        }
    }

    /// An update from `active`, with the power going at two steps; 0 is never.
    fn update_with_cuts(active: Slot, is_good: bool, at: [usize; 2]) -> usize {
        let mut card = Card { slots: [Content::Old; 2], boot: [None; 2], note: None };
        if active == Slot::B {
            card.boot = [Some(BootState { active, trial: None }); 2];
        }
        let mut cuts = Cuts { at, done: 0 };
        let steps = install(active, "0.6.0".into(), true, 0);
        let mut end = card.run(&steps, is_good, &mut cuts).expect("it ends with a restart");
        let mut starts = 0;
        let running = loop {
            if let End::Rest(running) = end {
                break running;
            }
            starts += 1;
            assert!(starts < 12, "it never comes to rest: {card:?}");
            end = card.start(&mut cuts);
        };
        let note = card.note.clone();
        let outcome = note.map(|note| note.outcome);
        assert_eq!(card.told().and_then(|told| told.trial), None, "{at:?}");
        if running == active {
            let is_said = match &outcome {
                None => at.contains(&1), // the power went before anything was noted
                Some(Outcome::Failed(_)) => true,
                Some(Outcome::RolledBack(_)) => true,
                _ => false,
            };
            assert!(is_said, "{at:?}: {outcome:?}");
            assert!(!is_good || at != [0, 0], "nothing went wrong");
        } else {
            assert!(is_good, "U2: {at:?}");
            assert_eq!(outcome, Some(Outcome::Confirmed), "{at:?}");
        }
        // And so it stays.
        let mut no_cuts = Cuts { at: [0, 0], done: 0 };
        assert_eq!(card.start(&mut no_cuts), End::Rest(running), "{at:?}");
        cuts.done
    }

    #[test]
    fn the_power_may_go_at_any_step_and_at_any_two() {
        for active in [Slot::A, Slot::B] {
            for is_good in [true, false] {
                let steps = update_with_cuts(active, is_good, [0, 0]);
                assert!(steps >= 10, "{steps}");
                for first in 1..=steps {
                    for second in 0..=2 * steps {
                        update_with_cuts(active, is_good, [first, second]);
                    }
                }
            }
        }
    }

    #[test]
    fn a_version_that_never_comes_up_is_left_after_its_tries() {
        let mut card = Card { slots: [Content::Old; 2], boot: [None; 2], note: None };
        let mut cuts = Cuts { at: [0, 0], done: 0 };
        card.run(&install(Slot::A, "0.6.0".into(), false, 0), true, &mut cuts);
        for _ in 0..TRIES {
            assert_eq!(card.boot_loader(), Slot::B);
        }
        let running = card.boot_loader();
        assert_eq!(running, Slot::A);
        let start = at_start(card.told(), running, card.note.as_ref(), 9);
        card.run(&start.steps, true, &mut cuts);
        let note = card.note.expect("it is remembered");
        assert_eq!((note.outcome.name(), note.version.as_str()), ("rolled_back", "0.6.0"));
        assert!(note.outcome.reason().contains("started 3 times"), "{note:?}");
        assert_eq!(card.boot[0], Some(BootState { active: Slot::A, trial: None }));
    }

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn what_recorded_before_must_record_for_a_minute() {
        let t0 = Instant::now();
        let mut watch = TrialWatch::new(t0, true);
        watch.saw(t0 + s(10), Ok(()), false);
        watch.saw(t0 + s(20), Ok(()), true);
        assert_eq!(watch.poll(t0 + s(79)), Verdict::Wait);
        assert_eq!(watch.poll(t0 + s(80)), Verdict::Confirm);
        watch.saw(t0 + s(85), Err("disk".into()), true);
        watch.saw(t0 + s(90), Ok(()), true);
        assert_eq!(watch.poll(t0 + s(149)), Verdict::Wait, "the minute begins anew");
        watch.saw(t0 + s(150), Ok(()), false);
        let Verdict::GiveUp(why) = watch.poll(t0 + TRIAL_MAX) else { panic!("it has an end") };
        assert!(why.contains("no stream recorded for 60 s"), "{why}");
    }

    #[test]
    fn without_a_stream_five_minutes_of_health_are_enough() {
        let t0 = Instant::now();
        let mut watch = TrialWatch::new(t0, false);
        watch.saw(t0 + s(10), Ok(()), false);
        assert_eq!(watch.poll(t0 + s(309)), Verdict::Wait);
        assert_eq!(watch.poll(t0 + s(310)), Verdict::Confirm);
        watch.recorder_ended();
        assert_eq!(watch.poll(t0 + s(310)), Verdict::Wait);
        watch.saw(t0 + s(311), Err("a disk has not answered for 9 s".into()), false);
        let Verdict::GiveUp(why) = watch.poll(t0 + TRIAL_MAX) else { panic!("it has an end") };
        assert!(why.contains("a disk has not answered"), "{why}");
    }

    #[test]
    fn a_recorder_that_keeps_ending_is_left_at_once() {
        let t0 = Instant::now();
        let mut watch = TrialWatch::new(t0, false);
        for _ in 0..ENDS_MAX {
            assert_eq!(watch.poll(t0 + s(9)), Verdict::Wait);
            watch.recorder_ended();
        }
        assert!(matches!(watch.poll(t0 + s(9)), Verdict::GiveUp(_)));
    }
}
