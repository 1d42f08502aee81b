//! When the recorder is started again, and when the hardware watchdog is kicked.
//!
//! In here: decisions from what was seen and `now`. Pure. The recorder says every few seconds that its executor turns
//! and its disk threads answer (`system/notify.rs`). While it says so, and while it is down and waits to be started,
//! the watchdog is kicked; a recorder that runs and says nothing is hung, and only a restart of the board helps
//! against every cause of that. A full, read-only or missing disk is no hang: the recorder goes on saying that it lives.

use std::time::{Duration, Instant};

/// Longest silence of a running recorder. It says something every 5 s.
pub const SILENCE_MAX: Duration = Duration::from_secs(30);
/// The same from its start to its first word: opening a large store on a slow card takes a while.
pub const START_MAX: Duration = Duration::from_secs(120);
const BACKOFF_MIN: Duration = Duration::from_secs(1);
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// A recorder that ran this long has not been failing in a row.
const GOOD_RUN: Duration = Duration::from_secs(60);

/// What the recorder is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Down { start_at: Instant },
    Running { since: Instant, silent_at: Instant },
}

/// The watch over the recorder.
#[derive(Debug)]
pub struct Watch {
    state: State,
    backoff: Duration,
}

impl Watch {
    /// The recorder is to be started at once.
    pub fn new(now: Instant) -> Self {
        Self { state: State::Down { start_at: now }, backoff: BACKOFF_MIN }
    }

    /// Whether the recorder is to be started now.
    pub fn is_due(&self, now: Instant) -> bool {
        matches!(self.state, State::Down { start_at } if now >= start_at)
    }

    /// It was started.
    pub fn started(&mut self, now: Instant) {
        self.state = State::Running { since: now, silent_at: now + START_MAX };
    }

    /// It said that it lives.
    pub fn heard(&mut self, now: Instant) {
        if let State::Running { silent_at, .. } = &mut self.state {
            *silent_at = now + SILENCE_MAX;
        }
    }

    /// It ended, or could not be started. Answers how long it is left alone: 1 s, and twice as long each time that it
    /// ended early, up to a minute.
    pub fn ended(&mut self, now: Instant) -> Duration {
        if let State::Running { since, .. } = self.state
            && now.saturating_duration_since(since) >= GOOD_RUN
        {
            self.backoff = BACKOFF_MIN;
        }
        let wait = self.backoff;
        self.backoff = (wait * 2).min(BACKOFF_MAX);
        self.state = State::Down { start_at: now + wait };
        wait
    }

    /// Whether a running recorder has been silent for too long. Then the watchdog is not kicked.
    pub fn is_hung(&self, now: Instant) -> bool {
        matches!(self.state, State::Running { silent_at, .. } if now >= silent_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn s(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_recorder_that_keeps_ending_is_started_more_and_more_rarely() {
        let mut now = Instant::now();
        let mut watch = Watch::new(now);
        let mut waits = Vec::new();
        for _ in 0..8 {
            assert!(watch.is_due(now));
            watch.started(now);
            assert!(!watch.is_due(now));
            now += s(3);
            let wait = watch.ended(now);
            assert!(
                !watch.is_due(now) && !watch.is_hung(now + s(1000)),
                "a recorder that is down is no hang"
            );
            waits.push(wait.as_secs());
            now += wait;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        watch.started(now);
        assert_eq!(watch.ended(now + GOOD_RUN), s(1), "it ran well in between");
    }

    #[test]
    fn silence_is_a_hang_and_a_word_ends_the_time_for_starting() {
        let t0 = Instant::now();
        let mut watch = Watch::new(t0);
        watch.started(t0);
        assert!(!watch.is_hung(t0 + START_MAX - s(1)));
        assert!(watch.is_hung(t0 + START_MAX), "it never said anything");
        watch.heard(t0 + s(5));
        assert!(!watch.is_hung(t0 + s(5) + SILENCE_MAX - s(1)));
        assert!(watch.is_hung(t0 + s(5) + SILENCE_MAX));
        watch.heard(t0 + s(300));
        assert!(!watch.is_hung(t0 + s(301)), "it came back before the watchdog did");
    }

    #[test]
    fn a_late_word_of_one_that_ended_means_nothing() {
        let t0 = Instant::now();
        let mut watch = Watch::new(t0);
        watch.started(t0);
        watch.ended(t0);
        watch.heard(t0);
        assert!(watch.is_due(t0 + s(1)));
    }
}
