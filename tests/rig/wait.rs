//! Waiting for something that can be observed, with an end.

use std::time::{Duration, Instant};

/// How long a condition may be true before it is noticed.
const POLL_EVERY: Duration = Duration::from_millis(50);

/// Polls `condition` until it gives a value, and panics with `what` after `within`.
#[track_caller]
pub fn until<T>(what: &str, within: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + within;
    loop {
        if let Some(value) = condition() {
            return value;
        }
        assert!(Instant::now() < end, "waited {within:?} in vain for: {what}");
        pause(POLL_EVERY);
    }
}

/// Lets time pass. Only for what is about time itself (a kill at a random moment, a span over which
/// something is measured or must not happen); everything else waits with `until`.
#[expect(clippy::disallowed_methods, reason = "the one place where tests let time pass")]
pub fn pause(time: Duration) {
    std::thread::sleep(time);
}
