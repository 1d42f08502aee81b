//! Media time of one track: RTP timestamps of 32 bits become ticks of 64 bits that go on.
//!
//! In here: wraps, wrong timestamps, new timelines, drift against arrival. Not in here: decoding order
//! (`media/reorder.rs`), wall time (the recorder's clock gives it).
//!
//! Timestamps are believed as long as they agree with arrival, which is judged by the lead of media
//! time over it. Packets come late, never early, so the largest lead of the last seconds counts:
//! - A single timestamp that is far ahead, far back or a repetition is replaced (quirk 28); three in a
//!   row that rise are a new timeline.
//! - A lead beyond `DRIFT_OK` is taken back in proportion, so that a clock that is wrong by some per
//!   cent (quirk 30: stamps of 25 fps, pictures of 21) is followed without a jump: pictures stretch by
//!   the 19 % that are true, and media stays within some 1 s of arrival.
//! - Beyond `JUMP_MAX` for `DRIFT_WAIT`, or with timestamps that stand still or run back, the camera
//!   says nothing about time. Arrival does then, evened out to the usual interval, until timestamps
//!   have gone with arrival for `DRIFT_WAIT` again.

use std::time::{Duration, Instant};

use crate::media::reorder::REORDER_FRAMES_MAX;

/// Media time may be off from arrival by so much for a while.
pub const JUMP_MAX: Duration = Duration::from_secs(5);
/// For so long.
pub const DRIFT_WAIT: Duration = Duration::from_secs(10);
/// So many wrong timestamps in a row are a new timeline.
pub const STRIKES_MAX: u8 = 3;
/// A lead that is left alone: coarse clocks of cameras, gathered reads.
const DRIFT_OK: Duration = Duration::from_millis(250);
/// A drift beyond that would be made up for in this time. Longer than two `LEAD_WINDOW`, else the
/// correction swings.
const SLEW_TIME: Duration = Duration::from_secs(5);
/// The largest lead of this window and of the one before is the one that counts.
const LEAD_WINDOW: Duration = Duration::from_secs(2);
/// Begin of a run: cameras send the group of pictures that they kept all at once, and its end is what
/// is live.
pub const SETTLE_WAIT: Duration = Duration::from_secs(3);
/// A step that is no jump, however it lies to arrival.
const STEP_OK: Duration = Duration::from_millis(250);
/// The same while a run settles.
const STEP_OK_SETTLING: Duration = Duration::from_secs(1);
/// B-frames step back by less (`media/reorder.rs`).
const STEP_BACK_MAX: Duration = Duration::from_secs(2);
/// A second new timeline within this is one too many.
const NEW_TIMELINE_GAP: Duration = Duration::from_secs(1);
/// Units that the usual interval is taken over.
const INTERVAL_UNITS: i64 = 16;

/// Where a timestamp lies on the axis of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// In units of the RTP clock; zero is the start of the run.
    pub ticks: i64,
    /// The camera began another timeline here; it was joined to the old one by arrival.
    pub is_new_timeline: bool,
}

/// How far media time is ahead of arrival.
#[derive(Debug)]
struct Lead {
    clock_rate: u32,
    began_at: Instant,
    /// A place and when it should arrive.
    anchor: (i64, Instant),
    /// The largest lead of this window and of the one before.
    largest: [i64; 2],
    window_at: Instant,
    /// Since when it is beyond `JUMP_MAX`.
    beyond_since: Option<Instant>,
}

impl Lead {
    fn new(clock_rate: u32, place: i64, now: Instant) -> Self {
        Self {
            clock_rate,
            began_at: now,
            anchor: (place, now),
            largest: [0; 2],
            window_at: now,
            beyond_since: None,
        }
    }

    fn ticks(&self, duration: Duration) -> i64 {
        ticks_of(duration, self.clock_rate)
    }

    /// The place of what arrives now.
    fn expected(&self, now: Instant) -> i64 {
        self.anchor.0 + self.ticks(now.saturating_duration_since(self.anchor.1))
    }

    fn is_settling(&self, now: Instant) -> bool {
        now < self.began_at + SETTLE_WAIT
    }

    fn usual(&self) -> i64 {
        self.largest[0].max(self.largest[1])
    }

    /// Takes a place that is believed.
    fn note(&mut self, place: i64, now: Instant) {
        let mut lead = place - self.expected(now);
        if self.is_settling(now) && lead > 0 {
            self.anchor = (place, now);
            lead = 0;
        }
        if now >= self.window_at + LEAD_WINDOW {
            self.largest = [lead, self.largest[0]];
            self.window_at = now;
        }
        self.largest[0] = self.largest[0].max(lead);
        self.beyond_since = match self.usual().abs() > self.ticks(JUMP_MAX) {
            true => self.beyond_since.or(Some(now)),
            false => None,
        };
    }

    fn is_off(&self, now: Instant) -> bool {
        self.beyond_since.is_some_and(|since| now >= since + DRIFT_WAIT)
    }

    /// What to add to a step forward.
    fn correction(&self, step: i64) -> i64 {
        let (lead, ok) = (self.usual(), self.ticks(DRIFT_OK));
        if step <= 0 || lead.abs() <= ok || self.beyond_since.is_some() {
            return 0;
        }
        let over = (lead.abs() - ok) * lead.signum();
        let step = step.min(self.ticks(STEP_OK_SETTLING));
        (-over * step / self.ticks(SLEW_TIME).max(1)).clamp(-step / 2, step / 2)
    }
}

/// The usual interval between units, by what was given out and by arrival.
#[derive(Debug)]
struct Pace {
    given: i64,
    units: i64,
    arrived: Option<i64>,
    /// Begin of the window of arrival, and units in it.
    window: (Instant, i64),
}

impl Pace {
    fn new(now: Instant) -> Self {
        Self { given: 0, units: 0, arrived: None, window: (now, 0) }
    }

    /// Takes how far media time went on with one unit.
    fn note(&mut self, step: i64, now: Instant, clock_rate: u32) {
        let most = if self.units >= 4 { 8 * self.given } else { i64::MAX };
        let weight = self.units.min(INTERVAL_UNITS - 1);
        // A gap is no interval; a picture that is early by some is made up for by the next ones.
        let step = step.min(most.max(1));
        self.given = (self.given * weight + step) / (weight + 1);
        self.units += 1;
        self.window.1 += 1;
        let elapsed = now.saturating_duration_since(self.window.0);
        // The first estimate comes early: it is all that there is if timestamps stand still.
        let enough = Duration::from_millis(if self.arrived.is_some() { 1000 } else { 100 });
        if elapsed >= enough {
            self.arrived = Some(ticks_of(elapsed, clock_rate) / self.window.1);
            self.window = (now, 0);
        }
    }

    /// `default` before there is anything to go by.
    fn interval(&self, default: i64) -> i64 {
        if self.units > 0 { self.given.max(1) } else { default }
    }
}

/// Timestamps that are being watched because arrival goes before them.
#[derive(Clone, Copy, Debug)]
struct Probation {
    first: (u32, Instant),
    last: u32,
}

/// Maps RTP timestamps of one track, in the order of their packets.
#[derive(Debug)]
pub struct Timeline {
    clock_rate: u32,
    /// Packets of sound may share a timestamp, pictures do not.
    may_repeat: bool,
    /// The last timestamp that was believed, and its place.
    last: (u32, i64),
    /// The last timestamp that was not, and whether these rise.
    odd: Option<(u32, bool)>,
    strikes: u8,
    /// The last place given out, and the largest.
    given: i64,
    top: i64,
    lead: Lead,
    pace: Pace,
    new_timeline_at: Option<Instant>,
    /// Arrival gives the times.
    probation: Option<Probation>,
    has_begun: bool,
}

impl Timeline {
    /// The track's first timestamp lies at `ticks`.
    pub fn new(clock_rate: u32, timestamp: u32, ticks: i64, now: Instant) -> Self {
        Self {
            clock_rate,
            may_repeat: false,
            last: (timestamp, ticks),
            odd: None,
            strikes: 0,
            given: ticks,
            top: ticks,
            lead: Lead::new(clock_rate, ticks, now),
            pace: Pace::new(now),
            new_timeline_at: None,
            probation: None,
            has_begun: false,
        }
    }

    /// For sound.
    pub fn with_repeats(mut self) -> Self {
        self.may_repeat = true;
        self
    }

    /// The usual interval between units, in ticks.
    pub fn interval(&self) -> i64 {
        // 30 per second, until something is known.
        self.pace.interval(i64::from(self.clock_rate / 30).max(1))
    }

    /// Where a timestamp near the last one lies, in seconds; nothing while arrival gives the times.
    pub fn seconds_of(&self, timestamp: u32) -> Option<f64> {
        let step = step_of(self.last.0, timestamp);
        let is_near = step.abs() <= ticks_of(START_MAX, self.clock_rate);
        let is_known = is_near && self.probation.is_none() && self.has_begun;
        is_known.then(|| (self.last.1 + step) as f64 / f64::from(self.clock_rate.max(1)))
    }

    /// Moves all that follows to later.
    pub fn delay(&mut self, by: Duration) {
        let ticks = ticks_of(by, self.clock_rate);
        self.last.1 += ticks;
        self.given += ticks;
        self.top += ticks;
        self.lead.anchor.0 += ticks;
    }

    /// The place of a timestamp that arrived at `now`.
    pub fn place(&mut self, timestamp: u32, now: Instant) -> Moment {
        if !std::mem::replace(&mut self.has_begun, true) && timestamp == self.last.0 {
            return Moment { ticks: self.given, is_new_timeline: false };
        }
        if self.probation.is_some() {
            return self.place_by_arrival(timestamp, now);
        }
        let delta = step_of(self.last.0, timestamp);
        let ticks = self.last.1 + delta + self.lead.correction(delta);
        if self.is_odd(delta, ticks, now) {
            return self.strike(timestamp, now);
        }
        (self.strikes, self.odd) = (0, None);
        self.believe(timestamp, ticks, now);
        if self.lead.is_off(now) {
            return self.leave(timestamp, now);
        }
        Moment { ticks, is_new_timeline: false }
    }

    /// Whether a timestamp contradicts what came before, and arrival.
    fn is_odd(&self, delta: i64, ticks: i64, now: Instant) -> bool {
        if delta == 0 {
            return !self.may_repeat;
        }
        let rate = |duration| ticks_of(duration, self.clock_rate);
        let interval = self.interval();
        let is_settling = self.lead.is_settling(now);
        let step_ok = if is_settling { STEP_OK_SETTLING } else { STEP_OK };
        let step_ok = rate(step_ok).max(4 * interval * i64::from(is_settling));
        if delta > 0 {
            let ahead = ticks - self.lead.expected(now) - self.lead.usual();
            return delta > step_ok && ahead > rate(STEP_OK);
        }
        let back = (REORDER_FRAMES_MAX as i64 * interval).max(rate(STEP_OK));
        self.top - ticks > back.min(rate(STEP_BACK_MAX))
    }

    fn strike(&mut self, timestamp: u32, now: Instant) -> Moment {
        let rises = self.odd.is_none_or(|(odd, rises)| {
            let step = step_of(odd, timestamp);
            rises && step > 0 && step < ticks_of(JUMP_MAX, self.clock_rate)
        });
        self.odd = Some((timestamp, rises));
        self.strikes += 1;
        let next = self.top + self.interval();
        if self.strikes < STRIKES_MAX {
            self.give(next, now);
            return Moment { ticks: next, is_new_timeline: false };
        }
        let is_again = self.new_timeline_at.is_some_and(|at| now < at + NEW_TIMELINE_GAP);
        if !rises || is_again {
            return self.leave(timestamp, now);
        }
        (self.strikes, self.odd, self.new_timeline_at) = (0, None, Some(now));
        let ticks = next.max(self.lead.expected(now) + self.lead.usual());
        self.believe(timestamp, ticks, now);
        Moment { ticks, is_new_timeline: true }
    }

    fn believe(&mut self, timestamp: u32, ticks: i64, now: Instant) {
        self.last = (timestamp, ticks);
        self.lead.note(ticks, now);
        self.give(ticks, now);
    }

    fn give(&mut self, ticks: i64, now: Instant) {
        self.pace.note((ticks - self.top).max(0), now, self.clock_rate);
        self.given = ticks;
        self.top = self.top.max(ticks);
    }

    /// Arrival gives the times from here on.
    fn leave(&mut self, timestamp: u32, now: Instant) -> Moment {
        if let Some(interval) = self.pace.arrived {
            self.pace.given = interval;
        }
        let ticks = self.lead.expected(now).max(self.top + self.interval());
        self.lead = Lead::new(self.clock_rate, ticks, now);
        self.give(ticks, now);
        self.probation = Some(Probation { first: (timestamp, now), last: timestamp });
        Moment { ticks, is_new_timeline: true }
    }

    /// The usual interval further on, and by up to half of it nearer to arrival. A pause is a pause.
    fn place_by_arrival(&mut self, timestamp: u32, now: Instant) -> Moment {
        if let Some(interval) = self.pace.arrived {
            self.pace.given = interval.max(1);
        }
        let interval = self.interval();
        let off = self.lead.expected(now) - (self.top + interval);
        let step = match off > ticks_of(STEP_OK_SETTLING, self.clock_rate).max(2 * interval) {
            true => interval + off,
            false => interval + (off / 8).clamp(-interval / 2, interval / 2),
        };
        let ticks = self.top + step.max(1);
        self.give(ticks, now);
        if self.has_proved_itself(timestamp, now) {
            (self.probation, self.strikes, self.odd) = (None, 0, None);
            self.last = (timestamp, ticks);
            self.lead = Lead::new(self.clock_rate, ticks, now);
        }
        Moment { ticks, is_new_timeline: false }
    }

    /// Whether timestamps have gone with arrival for long enough.
    fn has_proved_itself(&mut self, timestamp: u32, now: Instant) -> bool {
        let interval = self.interval();
        let Some(watched) = &mut self.probation else { return false };
        let step = step_of(watched.last, timestamp);
        let elapsed = now.saturating_duration_since(watched.first.1);
        let off = step_of(watched.first.0, timestamp) - ticks_of(elapsed, self.clock_rate);
        let back_max = REORDER_FRAMES_MAX as i64 * interval;
        let is_odd = step == 0 && !self.may_repeat || -step > back_max;
        watched.last = timestamp;
        if is_odd || off.abs() > 2 * ticks_of(DRIFT_OK, self.clock_rate) {
            watched.first = (timestamp, now);
            return false;
        }
        elapsed >= DRIFT_WAIT
    }
}

/// The way from one timestamp to another, over the wrap.
fn step_of(from: u32, to: u32) -> i64 {
    i64::from(to.wrapping_sub(from) as i32)
}

/// A duration in ticks of a clock, rounded down.
pub fn ticks_of(duration: Duration, clock_rate: u32) -> i64 {
    let ticks = duration.as_micros() * u128::from(clock_rate) / 1_000_000;
    i64::try_from(ticks).unwrap_or(i64::MAX / 2)
}

/// The zero that the tracks of a run share.
#[derive(Debug, Default)]
pub struct Origin {
    /// When media time was zero, by arrival.
    zero_at: Option<Instant>,
}

/// A start time of the PLAY answer is believed if the first packet lies within this of it.
pub const START_MAX: Duration = Duration::from_secs(10);

impl Origin {
    /// Begins a track at its first packet. `rtptime` is what the `RTP-Info` of the PLAY answer says
    /// is zero (RFC 2326 section 12.33); cameras that send none or nonsense are mapped by arrival.
    pub fn begin(
        &mut self,
        clock_rate: u32,
        timestamp: u32,
        rtptime: Option<u32>,
        now: Instant,
    ) -> Timeline {
        let start_max = ticks_of(START_MAX, clock_rate);
        let by_arrival = match self.zero_at {
            Some(zero_at) => ticks_of(now.saturating_duration_since(zero_at), clock_rate),
            None => 0,
        };
        let by_info = rtptime.map(|zero| i64::from(timestamp.wrapping_sub(zero) as i32));
        let is_plausible =
            |ticks: &i64| ticks.abs() <= start_max && (ticks - by_arrival).abs() <= start_max;
        let ticks = by_info.filter(is_plausible).unwrap_or(by_arrival);
        let since_zero = Duration::from_micros(
            (ticks.max(0) as u64).saturating_mul(1_000_000) / u64::from(clock_rate.max(1)),
        );
        self.zero_at = self.zero_at.or(now.checked_sub(since_zero)).or(Some(now));
        Timeline::new(clock_rate, timestamp, ticks, now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const FRAME: u32 = 3600;

    /// Places frames that arrive 40 ms apart.
    fn places(first: u32, timestamps: &[u32]) -> Vec<i64> {
        let t0 = Instant::now();
        let mut timeline = Timeline::new(90_000, first, 0, t0);
        let at = |n| t0 + Duration::from_millis(40) * (n as u32 + 1);
        timestamps.iter().enumerate().map(|(n, &ts)| timeline.place(ts, at(n)).ticks).collect()
    }

    #[test]
    fn wraps_and_b_frames_are_no_jumps() {
        let first = u32::MAX - 3599;
        assert_eq!(places(first, &[0, 3600, 1800]), [3600, 7200, 5400]);
    }

    #[test]
    fn a_single_wrong_timestamp_is_placed_after_the_one_before() {
        let hours: u32 = 90_000 * 3600 * 5;
        let wrong = [hours, 0u32.wrapping_sub(hours)];
        let got = places(0, &[FRAME, wrong[0], FRAME * 3, wrong[1], FRAME * 5]);
        assert_eq!(got, [3600, 7200, 10_800, 14_400, 18_000]);
    }

    #[test]
    fn three_wrong_ones_in_a_row_are_a_new_timeline() {
        let new = 1 << 30;
        let got = places(0, &[FRAME, new, new + FRAME, new + 2 * FRAME, new + 3 * FRAME]);
        assert_eq!(got, [3600, 7200, 10_800, 14_400, 18_000]);
    }

    #[test]
    fn a_stall_is_no_new_timeline() {
        let t0 = Instant::now();
        let mut timeline = Timeline::new(90_000, 0, 0, t0);
        // The camera dropped 20 s: timestamps and arrival jump alike.
        let later = t0 + Duration::from_secs(20);
        assert_eq!(timeline.place(20 * 90_000, later).ticks, 20 * 90_000);
        // The network held back 20 s: only the arrival jumps.
        let later = later + Duration::from_secs(20);
        assert_eq!(timeline.place(20 * 90_000 + FRAME, later).ticks, 20 * 90_000 + 3600);
    }

    #[test]
    fn both_tracks_share_the_zero() {
        let t0 = Instant::now();
        let later = t0 + Duration::from_millis(500);
        let mut origin = Origin::default();
        // Video one second after the zero of the PLAY answer; audio without one, 500 ms later.
        assert_eq!(origin.begin(90_000, 100_000, Some(10_000), t0).given, 90_000);
        assert_eq!(origin.begin(8000, 77, None, later).given, 12_000);
        // An `rtptime` that cannot be: by arrival.
        assert_eq!(origin.begin(8000, 1 << 30, Some(1), later).given, 12_000);
        assert_eq!(Origin::default().begin(90_000, 5, None, t0).given, 0);
    }

    /// Places of `count` pictures each 40 ms with these timestamps.
    fn live(count: i64, stamp: impl Fn(i64) -> i64) -> Vec<i64> {
        let stamps: Vec<u32> = (1..=count).map(|n| stamp(n) as u32).collect();
        places(stamp(0) as u32, &stamps)
    }

    /// The spacing is at least half of the usual one, and the length true to `off_ms`.
    #[track_caller]
    fn check_true_length(what: &str, places: &[i64], off_ms: i64) {
        let least = places.windows(2).map(|pair| pair[1] - pair[0]).min();
        assert!(least >= Some(1800), "{what}: {least:?}");
        let off = places[places.len() - 1] - places.len() as i64 * 3600;
        assert!(off.abs() <= off_ms * 90, "{what}: off by {} ms", off / 90);
    }

    #[test]
    fn timestamps_that_say_nothing_are_replaced_by_arrival() {
        check_true_length("constant", &live(1500, |_| 77), 200);
        let slow = live(1500, |n| n * 360);
        check_true_length(
            "too slow, in the end",
            &slow[1000..].iter().map(|p| p - slow[999]).collect::<Vec<_>>(),
            200,
        );
        assert!((slow[1499] - 1500 * 3600).abs() < 90_000, "{}", slow[1499]);
        check_true_length(
            "backward",
            &live(1500, |n| 1_000_000_000 - n * 3600)[20..]
                .iter()
                .map(|p| p - 20 * 3600)
                .collect::<Vec<_>>(),
            2500,
        );
        check_true_length(
            "too fast",
            &live(1500, |n| n * 36_000)[100..].iter().map(|p| p - 100 * 3600).collect::<Vec<_>>(),
            30_000,
        );
    }

    #[test]
    fn a_slightly_wrong_rate_is_followed_without_a_jump() {
        // 21 pictures per second that say 25.
        let t0 = Instant::now();
        let mut timeline = Timeline::new(90_000, 0, 0, t0);
        let mut last = 0;
        for n in 1..=21 * 120 {
            let moment = timeline.place(n * 3600, t0 + Duration::from_secs(1) * n / 21);
            assert!(!moment.is_new_timeline);
            assert!((2700..=5400).contains(&(moment.ticks - last)), "picture {n}");
            last = moment.ticks;
        }
        assert!((last - 120 * 90_000).abs() < 2 * 90_000, "{} s", last / 90_000);
    }

    #[test]
    fn a_burst_at_the_begin_and_a_network_stall_change_no_time() {
        let t0 = Instant::now();
        let mut timeline = Timeline::new(90_000, 0, 0, t0);
        for n in 1..1500u32 {
            let live = n.max(50) - 50;
            let held = if (500..650).contains(&n) { 650 - 50 } else { live };
            let moment = timeline.place(n * 3600, t0 + Duration::from_millis(40) * held);
            assert_eq!(moment.ticks, i64::from(n) * 3600);
        }
    }

    #[test]
    fn outliers_do_not_press_the_following_ones_together() {
        let second = 90_000;
        for ahead in [1, 2, 4] {
            let got = live(500, |n| n * 3600 + i64::from(n % 40 == 37) * ahead * second);
            check_true_length("ahead", &got, 200);
        }
        check_true_length("saw-tooth", &live(500, |n| n * 3600 - n / 50 * second), 500);
        check_true_length("two sources", &live(500, |n| n * 3600 + n % 2 * 1_234_567_890), 200);
    }

    proptest! {
        #[test]
        fn any_timestamps_stay_within_the_arrival(timestamps in proptest::collection::vec(any::<u32>(), 1..200)) {
            let got = places(7, &timestamps);
            let last = got[got.len() - 1];
            // However wild, media time never runs off: at most a jump a frame.
            prop_assert!(last.abs() <= 450_000 * (timestamps.len() as i64 + 1));
        }
    }
}
