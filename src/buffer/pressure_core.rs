//! When memory is short: decided from what the kernel says, before it starts to swap.
//!
//! Three signs, each enough: little is available, programs wait for memory (PSI), or the kernel has begun to
//! swap. It is over when none has shown for a while. Keeps PURE-CORE: samples and `now_ms` come in.

/// Available memory in percent of all under which it is short. 8 % of 512 MB are 40 MB: a few seconds of a
/// machine that fills up at the speed of its card.
const AVAILABLE_PERCENT_MIN: u64 = 8;
/// Percent of time in which some task waited for memory, over the last 10 s (PSI `some avg10`). A machine
/// with room is at 0; Meta's oomd acts from 20 to 60.
const WAITING_PERCENT_MAX: f64 = 10.0;
/// Swap that was used since the last sample, in KiB.
const SWAPPED_KIB_MAX: u64 = 1024;
/// How long all signs must be gone.
const CALM_MS: u64 = 10_000;

/// What the kernel says at one moment. What it does not say is `None`: old kernels have no PSI.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    pub total_kib: u64,
    pub available_kib: u64,
    pub swap_free_kib: Option<u64>,
    /// PSI `some avg10` of memory in percent.
    pub waiting_percent: Option<f64>,
}

/// The judgement, with what it must remember.
#[derive(Clone, Debug, Default)]
pub struct Pressure {
    swap_free_kib: Option<u64>,
    last_sign_ms: Option<u64>,
}

impl Pressure {
    /// Takes a sample; answers whether memory is short now.
    pub fn note(&mut self, sample: &Sample, now_ms: u64) -> bool {
        let is_scarce = sample.total_kib > 0
            && sample.available_kib * 100 < sample.total_kib * AVAILABLE_PERCENT_MIN;
        let is_waiting = sample.waiting_percent.is_some_and(|p| p >= WAITING_PERCENT_MAX);
        let swapped_kib = match (self.swap_free_kib, sample.swap_free_kib) {
            (Some(was), Some(is)) => was.saturating_sub(is),
            _ => 0,
        };
        self.swap_free_kib = sample.swap_free_kib;
        if is_scarce || is_waiting || swapped_kib > SWAPPED_KIB_MAX {
            self.last_sign_ms = Some(now_ms);
        }
        self.last_sign_ms.is_some_and(|last| now_ms.saturating_sub(last) < CALM_MS)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CALM: Sample = Sample {
        total_kib: 500_000,
        available_kib: 200_000,
        swap_free_kib: Some(100_000),
        waiting_percent: Some(0.0),
    };

    #[track_caller]
    fn check(samples: &[Sample], want: bool) {
        let mut pressure = Pressure::default();
        let mut got = false;
        for (n, sample) in samples.iter().enumerate() {
            got = pressure.note(sample, n as u64 * 1000);
        }
        assert_eq!(got, want, "{samples:?}");
    }

    #[test]
    fn each_sign_is_enough() {
        check(&[CALM, CALM], false);
        check(&[Sample { available_kib: 39_000, ..CALM }], true);
        check(&[Sample { waiting_percent: Some(12.0), ..CALM }], true);
        check(&[CALM, Sample { swap_free_kib: Some(98_000), ..CALM }], true);
        // Swap that was in use long before, and a kernel that says little.
        check(&[CALM, Sample { swap_free_kib: Some(99_900), ..CALM }], false);
        check(&[Sample { swap_free_kib: None, waiting_percent: None, ..CALM }], false);
        check(&[Sample::default()], false);
    }

    #[test]
    fn it_is_over_when_no_sign_has_shown_for_a_while() {
        let mut pressure = Pressure::default();
        assert!(pressure.note(&Sample { available_kib: 0, ..CALM }, 0));
        assert!(pressure.note(&CALM, CALM_MS - 1));
        assert!(!pressure.note(&CALM, CALM_MS));
    }
}
