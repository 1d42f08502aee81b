//! When a packet was captured by the recorder's clock.
//!
//! Media time comes from the source and is steady; arrival is not, and the wall clock may step. So
//! the wall time of a run is its media time plus an offset that follows arrival slowly and never lets time run backwards.
//! Keeps PURE-CORE.

/// Largest correction per packet: 1 ms at 15 fps follows a camera that is off by 1.5 %.
const SLEW_MS_MAX: i64 = 1;
/// A difference above this is a step of a clock or of the media, not drift: the offset stays.
const STEP_MS: i64 = 5000;

/// The relation of media time and wall time in one run.
#[derive(Clone, Debug)]
pub struct RunClock {
    offset_ms: i64,
    last_ms: i64,
}

impl RunClock {
    /// A run whose first packet, of media time `media_ms`, arrived at `arrived_ms` (Unix).
    pub fn new(media_ms: i64, arrived_ms: i64) -> Self {
        Self { offset_ms: arrived_ms - media_ms, last_ms: i64::MIN }
    }

    /// Wall time of a packet in Unix milliseconds; never lower than the one before.
    pub fn wall_ms(&mut self, media_ms: i64, arrived_ms: i64) -> i64 {
        let error = arrived_ms - (media_ms + self.offset_ms);
        if error.abs() < STEP_MS {
            self.offset_ms += error.clamp(-SLEW_MS_MAX, SLEW_MS_MAX);
        }
        self.last_ms = self.last_ms.max(media_ms + self.offset_ms);
        self.last_ms
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn jitter_of_arrival_does_not_show() {
        let mut clock = RunClock::new(0, 1_000_000);
        for n in 0..1000 {
            let jitter = if n % 2 == 0 { 0 } else { 40 };
            let wall = clock.wall_ms(n * 66, 1_000_000 + n * 66 + jitter);
            assert!((wall - (1_000_000 + n * 66)).abs() <= 41, "{n}: {wall}");
        }
    }

    #[test]
    fn drift_is_followed() {
        let mut clock = RunClock::new(0, 0);
        let mut wall = 0;
        for n in 0..100_000 {
            // The camera's second lasts 1.001 s.
            wall = clock.wall_ms(n * 1000 / 15, n * 1001 / 15);
        }
        assert!((wall - 99_999 * 1001 / 15).abs() < 100, "{wall}");
    }

    #[test]
    fn a_step_of_the_wall_clock_moves_nothing_within_a_run() {
        let mut clock = RunClock::new(0, 1_000_000);
        assert_eq!(clock.wall_ms(0, 1_000_000), 1_000_000);
        assert_eq!(clock.wall_ms(1000, 1_001_000 - 3_600_000), 1_001_000);
        assert_eq!(clock.wall_ms(2000, 1_002_000 + 3_600_000), 1_002_000);
    }
}
