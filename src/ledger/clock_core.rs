//! Finds steps of the wall clock by comparing it with the monotonic one. Keeps PURE-CORE.

/// A difference above this within one tick is a step; slewing by NTP is at most 0.5 ms a second.
const STEP_MS_MIN: i64 = 2000;
/// The first step of a life that goes forward by so much, a day, is no correction: the board has no clock chip, began with
/// the time of its last shutdown or of its image, and has now learnt the true time.
const FIRST_SYNC_MS_MIN: i64 = 86_400_000;
/// 2024-01-01: a clock that shows less was never set (boards without a battery start in 1970).
pub const SET_SINCE_MS: i64 = 1_704_067_200_000;

/// The wall clock went from one time to another at once; Unix milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// What it would show without the step.
    pub from_ms: i64,
    pub to_ms: i64,
    /// The time became known with this step: what was dated before is to be dated anew.
    pub is_first_sync: bool,
}

impl Step {
    /// How far it went.
    pub fn by_ms(&self) -> i64 {
        self.to_ms.saturating_sub(self.from_ms)
    }
}

/// What one run of the machine dated before it knew the time, and by how much that was wrong; Unix milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redate {
    /// Number of that run.
    pub boot: u64,
    /// Dates from the first to the second, both included, are wrong.
    pub from_ms: i64,
    pub until_ms: i64,
    pub by_ms: i64,
}

impl Redate {
    /// Whether this was dated while the time was not known.
    pub fn holds(&self, at_ms: i64) -> bool {
        (self.from_ms..=self.until_ms).contains(&at_ms)
    }

    /// The true date of something that was dated in this run.
    pub fn dated(&self, at_ms: i64) -> i64 {
        if self.holds(at_ms) { at_ms.saturating_add(self.by_ms) } else { at_ms }
    }
}

/// Whether a clock that shows this was ever set.
pub fn is_set(wall_ms: i64) -> bool {
    wall_ms >= SET_SINCE_MS
}

/// Both clocks at the last tick.
#[derive(Clone, Debug, Default)]
pub struct ClockWatch {
    last: Option<(i64, u64)>,
    has_stepped: bool,
}

impl ClockWatch {
    /// Looks at both clocks; ticks should come at least every few seconds.
    pub fn tick(&mut self, wall_ms: i64, mono_ms: u64) -> Option<Step> {
        let last = self.last.replace((wall_ms, mono_ms));
        let (last_wall_ms, last_mono_ms) = last?;
        let passed_ms = i64::try_from(mono_ms.saturating_sub(last_mono_ms)).unwrap_or(i64::MAX);
        let from_ms = last_wall_ms.saturating_add(passed_ms);
        if from_ms.abs_diff(wall_ms) <= STEP_MS_MIN.unsigned_abs() {
            return None;
        }
        let was_first = !std::mem::replace(&mut self.has_stepped, true);
        let is_far = was_first && wall_ms.saturating_sub(from_ms) >= FIRST_SYNC_MS_MIN;
        let is_first_sync = is_set(wall_ms) && (is_far || !is_set(from_ms));
        Some(Step { from_ms, to_ms: wall_ms, is_first_sync })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_told_and_slewing_is_not() {
        let mut watch = ClockWatch::default();
        assert_eq!(watch.tick(1_000_000, 0), None);
        for n in 1..1000 {
            // The wall clock gains 1 ms a second.
            assert_eq!(watch.tick(1_000_000 + n * 1001, n.unsigned_abs() * 1000), None);
        }
        let at = 1_000_000 + 999 * 1001;
        let hour = 3_600_000;
        let step = |from_ms, to_ms| Some(Step { from_ms, to_ms, is_first_sync: false });
        assert_eq!(watch.tick(at + 1000 + hour, 1_000_000), step(at + 1000, at + 1000 + hour));
        assert_eq!(watch.tick(at + 2000, 1_001_000), step(at + 2000 + hour, at + 2000));
        assert_eq!(watch.tick(at + 3000, 1_002_000), None);
    }

    /// The steps of a clock that starts at the first of these times and then shows the others, a second apart.
    fn first_syncs(walls_ms: &[i64]) -> Vec<bool> {
        let mut watch = ClockWatch::default();
        let ticks = walls_ms.iter().zip(0..).map(|(wall_ms, n)| watch.tick(*wall_ms, n * 1000));
        ticks.flatten().map(|step| step.is_first_sync).collect()
    }

    #[test]
    fn the_time_is_learnt_once() {
        let (day, set) = (86_400_000, SET_SINCE_MS);
        assert_eq!(first_syncs(&[5000, set]), [true], "from 1970");
        assert_eq!(first_syncs(&[5000, 3_600_000, set]), [false, true], "from 1970, in two steps");
        assert_eq!(first_syncs(&[set, set + 90 * day]), [true], "months");
        assert_eq!(first_syncs(&[set, set + day / 24]), [false], "an hour");
        assert_eq!(first_syncs(&[set, set + day / 24, set + 90 * day]), [false, false]);
        assert_eq!(first_syncs(&[set + 90 * day, set]), [false], "back");
        let redate = Redate { boot: 1, from_ms: 10, until_ms: 20, by_ms: 1000 };
        assert_eq!([9, 10, 20, 21].map(|at| redate.dated(at)), [9, 1010, 1020, 21]);
    }
}
