//! Tests of `update_core`: what comes back, what is well, and the power going at every step.

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
    for torn in ["", "\0\0\0", "active=c\nleft=0\ntry=-\nwhole=y\n", &whole[..whole.len() - 3]] {
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
        let steps = if is_good { confirm(&note, 2) } else { give_up(&note, "it is bad".into(), 2) };
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
    assert_eq!(watch.saw(t0 + s(85), Err("disk".into()), true), Some("disk"));
    assert_eq!(watch.saw(t0 + s(86), Err("disk".into()), true), None, "said once");
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
