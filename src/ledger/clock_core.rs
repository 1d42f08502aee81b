//! Finds steps of the wall clock by comparing it with the monotonic one. Keeps PURE-CORE.

/// A difference above this within one tick is a step; slewing by NTP is at most 0.5 ms a second.
const STEP_MS_MIN: i64 = 2000;
/// 2024-01-01: a clock that shows less was never set (boards without a battery start in 1970).
pub const SET_SINCE_MS: i64 = 1_704_067_200_000;

/// The wall clock went from one time to another at once; Unix milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Step {
    /// What it would show without the step.
    pub from_ms: i64,
    pub to_ms: i64,
}

impl Step {
    /// Whether the time became known with this step.
    pub fn is_first_sync(&self) -> bool {
        !is_set(self.from_ms) && is_set(self.to_ms)
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
}

impl ClockWatch {
    /// Looks at both clocks; ticks should come at least every few seconds.
    pub fn tick(&mut self, wall_ms: i64, mono_ms: u64) -> Option<Step> {
        let last = self.last.replace((wall_ms, mono_ms));
        let (last_wall_ms, last_mono_ms) = last?;
        let passed_ms = i64::try_from(mono_ms.saturating_sub(last_mono_ms)).unwrap_or(i64::MAX);
        let from_ms = last_wall_ms.saturating_add(passed_ms);
        let is_step = from_ms.abs_diff(wall_ms) > STEP_MS_MIN.unsigned_abs();
        is_step.then_some(Step { from_ms, to_ms: wall_ms })
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
        let forward = Step { from_ms: at + 1000, to_ms: at + 1000 + hour };
        assert_eq!(watch.tick(at + 1000 + hour, 1_000_000), Some(forward));
        let back = Step { from_ms: at + 2000 + hour, to_ms: at + 2000 };
        assert_eq!(watch.tick(at + 2000, 1_001_000), Some(back));
        assert_eq!(watch.tick(at + 3000, 1_002_000), None);
        assert!(!forward.is_first_sync());
        assert!(Step { from_ms: 5000, to_ms: SET_SINCE_MS }.is_first_sync());
    }
}
