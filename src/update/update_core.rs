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

    /// API and disk are well, or why not; and whether a stream records now. Asked every few seconds. Answers why it
    /// is unwell if that is news: the time for which it must be well begins anew.
    pub fn saw(
        &mut self,
        now: Instant,
        health: Result<(), String>,
        is_recording: bool,
    ) -> Option<&str> {
        let Err(why) = health else {
            self.well_since.get_or_insert(now);
            let since = self.recording_since.unwrap_or(now);
            self.recording_since = is_recording.then_some(since);
            return None;
        };
        let is_news = self.well_since.is_some() || why != self.unwell;
        (self.well_since, self.recording_since) = (None, None);
        self.unwell = why;
        is_news.then_some(&self.unwell)
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
#[path = "update_core_tests.rs"]
mod tests;
