//! A week of a camera in some seconds: what becomes of its timestamps and of the times of its recordings.

use std::time::{Duration, Instant};

use super::wall_core::RunClock;
use crate::ingest::timeline::Timeline;

const CLOCK_RATE: i64 = 90_000;
const WEEK_S: i64 = 7 * 86_400;
/// Any moment of our own clock, in Unix milliseconds.
const BEGAN_MS: i64 = 1_790_000_000_000;
/// The promise of a recording's times.
const OFF_MS_MAX: i64 = 500;
/// The pictures before are the ones by which a camera is got to know: at 4 pictures a second the clock of the
/// run takes 4 ms a second.
const KNOWN_AFTER_S: i64 = 1200;

/// Plays a week of pictures, `fps` a second by our clock, with these timestamps (in ticks, before they wrap).
#[track_caller]
fn check_week(what: &str, fps: i64, stamp: impl Fn(i64) -> i64) {
    let t0 = Instant::now();
    let mut timeline = Timeline::new(CLOCK_RATE as u32, stamp(0) as u32, 0, t0);
    let mut clock = RunClock::new(0, BEGAN_MS);
    let (mut last_ticks, mut last_ms) = (-1, 0);
    for n in 0..WEEK_S * fps {
        // The network holds each third picture back a little.
        let arrived_ms = n * 1000 / fps + n % 3 * 7;
        let now = t0 + Duration::from_millis(arrived_ms as u64);
        let ticks = timeline.place(stamp(n) as u32, now).ticks;
        assert!(ticks > last_ticks, "{what}: picture {n} at {ticks}, after {last_ticks}");
        last_ticks = ticks;
        let wall_ms = clock.wall_ms(ticks * 1000 / CLOCK_RATE, BEGAN_MS + arrived_ms);
        assert!(wall_ms >= last_ms, "{what}: picture {n}");
        last_ms = wall_ms;
        let off_ms = wall_ms - BEGAN_MS - arrived_ms;
        let is_known = n > KNOWN_AFTER_S * fps;
        assert!(
            !is_known || off_ms.abs() <= OFF_MS_MAX,
            "{what}: picture {n} is off by {off_ms} ms"
        );
    }
}

#[test]
fn a_week_of_wraps_goes_on() {
    // 2^32 ticks are 13 h 15 min.
    check_week("wraps", 4, |n| 4_294_000_000 + n * CLOCK_RATE / 4);
}

#[test]
fn a_week_of_single_outliers_leaves_no_trace() {
    check_week("outliers", 4, |n| {
        let outlier = match n % 1000 {
            7 => 5 * 3600 * CLOCK_RATE,
            500 => -3 * 3600 * CLOCK_RATE,
            _ => 0,
        };
        n * CLOCK_RATE / 4 + outlier
    });
}

#[test]
fn a_week_of_backward_jumps_is_one_timeline() {
    // Each hour the camera sets its clock back by ten minutes.
    check_week("jumps", 4, |n| n * CLOCK_RATE / 4 - n / (4 * 3600) * 600 * CLOCK_RATE);
}

#[test]
fn a_week_of_a_clock_that_is_wrong_stays_with_ours() {
    // A crystal that is off by 100 ppm: a minute in a week.
    check_week("crystal", 4, |n| n * CLOCK_RATE / 4 * 10_001 / 10_000);
    // 25 pictures a second are declared, 21 come.
    check_week("21 of 25", 4, |n| n * CLOCK_RATE / 4 * 21 / 25);
    check_week("25 of 21", 4, |n| n * CLOCK_RATE / 4 * 25 / 21);
}

#[test]
fn a_week_of_all_of_it_stays_with_ours() {
    // Begins before a wrap; 21 pictures come for 25; each hour ten minutes back; and outliers.
    check_week("all", 4, |n| {
        let outlier = if n % 1000 == 7 { 5 * 3600 * CLOCK_RATE } else { 0 };
        let back = n / (4 * 3600) * 600 * CLOCK_RATE;
        4_294_000_000 + n * CLOCK_RATE / 4 * 21 / 25 - back + outlier
    });
}
