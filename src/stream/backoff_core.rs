//! When to try a camera again: at once after a run with pictures, jittered 1 s to 30 s for what passes,
//! up to 5 minutes for what only the owner can mend.
//!
//! Keeps PURE-CORE: the random number comes in.

use std::time::Duration;

/// First pause, and each one after a run that worked.
pub const PAUSE_MIN: Duration = Duration::from_secs(1);
/// Longest pause while the camera is only away.
pub const PAUSE_MAX: Duration = Duration::from_secs(30);
/// Pause after an answer that trying again will not change: wrong password, no such path.
pub const PAUSE_REFUSED: Duration = Duration::from_secs(300);

/// The pauses of one stream.
#[derive(Clone, Debug, Default)]
pub struct Backoff {
    failures: u32,
}

/// Pause while a camera of this machine is not plugged in: to look costs nothing, and each second of a longer one would
/// not be recorded.
pub const PAUSE_UNPLUGGED: Duration = Duration::from_secs(2);

/// Why a run ended, as far as the pause goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// It passes by itself: the camera is away.
    Passing,
    /// A camera of this machine is not there.
    Unplugged,
    /// Trying again will not change it, unless the camera was still starting: some have no path, or one
    /// without a codec, in their first minute.
    Refused,
    /// User name or password: a camera locks out who tries too often.
    Unauthorized,
}

impl Backoff {
    /// The pause after a run. `is_good`: it delivered a keyframe, so what ended it passes, whatever the
    /// camera says: some end each session after a group of pictures, and each second of pause is a
    /// second that is not recorded. How long a run lasted says nothing: a camera without power makes
    /// one of 10 s, too. `random` is any number: the
    /// pause is 75 to 125 % of its nominal length, so that sixteen cameras behind one switch don't
    /// come back in the same instant.
    pub fn next(&mut self, is_good: bool, cause: Cause, random: u32) -> Duration {
        if is_good || cause == Cause::Unplugged {
            self.failures = 0;
        }
        let longest = match cause {
            Cause::Passing | Cause::Unplugged => PAUSE_MAX,
            Cause::Refused | Cause::Unauthorized => PAUSE_REFUSED,
        };
        let nominal = match cause {
            Cause::Unauthorized if !is_good => PAUSE_REFUSED,
            // What follows begins anew: right after it was plugged in, a device file has not its rights yet.
            Cause::Unplugged => return jittered(PAUSE_UNPLUGGED, random),
            _ => PAUSE_MIN.saturating_mul(1 << self.failures.min(9)).min(longest),
        };
        self.failures = self.failures.saturating_add(1);
        jittered(nominal, random)
    }
}

fn jittered(nominal: Duration, random: u32) -> Duration {
    nominal * (768 + random % 512) / 1024
}

#[cfg(test)]
mod tests {
    use super::*;

    fn near(pause: Duration, nominal_s: u64) {
        let (low, high) = (nominal_s * 750, nominal_s * 1250);
        let ms = pause.as_millis() as u64;
        assert!((low..=high).contains(&ms), "{ms} ms is not near {nominal_s} s");
    }

    #[test]
    fn pauses_double_up_to_thirty_seconds_and_start_over_after_a_good_run() {
        let mut backoff = Backoff::default();
        for (random, nominal_s) in [(0, 1), (511, 2), (7, 4), (99, 8), (3, 16), (1, 30), (2, 30)] {
            near(backoff.next(false, Cause::Passing, random), nominal_s);
        }
        near(backoff.next(true, Cause::Passing, 5), 1);
    }

    #[test]
    fn a_local_camera_is_looked_for_every_two_seconds() {
        let mut backoff = Backoff::default();
        (0..20).for_each(|random| near(backoff.next(false, Cause::Unplugged, random), 2));
        near(backoff.next(false, Cause::Refused, 256), 1);
        near(backoff.next(false, Cause::Refused, 256), 2);
    }

    #[test]
    fn a_camera_that_ends_each_session_after_a_keyframe_is_asked_again_at_once() {
        let mut backoff = Backoff::default();
        (0..20).for_each(|random| near(backoff.next(true, Cause::Passing, random), 1));
        near(backoff.next(true, Cause::Unauthorized, 7), 1);
    }

    #[test]
    fn what_only_the_owner_can_mend_is_tried_every_five_minutes() {
        near(Backoff::default().next(false, Cause::Unauthorized, 300), 300);
        let mut backoff = Backoff::default();
        for nominal_s in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300] {
            near(backoff.next(false, Cause::Refused, 300), nominal_s);
        }
    }
}
