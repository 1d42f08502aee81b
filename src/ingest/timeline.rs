//! Media time of one track: RTP timestamps of 32 bits become ticks of 64 bits that go on.
//!
//! In here: wraps, single wrong timestamps, new timelines. Not in here: decoding order
//! (`media/reorder.rs`), wall time (the recorder's clock gives it).

use std::time::{Duration, Instant};

/// A timestamp further than this from where it should be is not believed (quirk 28: Intelbras
/// cameras jump by hours for one frame each few seconds).
pub const JUMP_MAX: Duration = Duration::from_secs(5);
/// So many wrong timestamps in a row are a new timeline.
pub const STRIKES_MAX: u8 = 3;

/// Where a timestamp lies on the axis of the run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moment {
    /// In units of the RTP clock; zero is the start of the run.
    pub ticks: i64,
    /// The camera began another timeline here; it was joined to the old one by arrival.
    pub is_new_timeline: bool,
}

/// Maps RTP timestamps of one track, in the order of their packets.
#[derive(Debug)]
pub struct Timeline {
    clock_rate: u32,
    /// The last timestamp that was believed, its place, and when it came.
    last: (u32, i64, Instant),
    /// The last place given out, believed or not.
    given: i64,
    /// The last step forward.
    step: i64,
    strikes: u8,
}

impl Timeline {
    /// The track's first timestamp lies at `ticks`.
    pub fn new(clock_rate: u32, timestamp: u32, ticks: i64, now: Instant) -> Self {
        Self { clock_rate, last: (timestamp, ticks, now), given: ticks, step: 1, strikes: 0 }
    }

    /// The place of a timestamp that arrived at `now`.
    pub fn place(&mut self, timestamp: u32, now: Instant) -> Moment {
        let (last, last_ticks, last_at) = self.last;
        let delta = i64::from(timestamp.wrapping_sub(last) as i32);
        let elapsed = ticks_of(now.saturating_duration_since(last_at), self.clock_rate);
        let jump_max = ticks_of(JUMP_MAX, self.clock_rate);
        // After a stall both the timestamps and the arrival may jump, or only the arrival.
        let is_jump = delta.abs() > jump_max && (delta - elapsed).abs() > jump_max;
        if !is_jump {
            let ticks = last_ticks + delta;
            if ticks > self.given {
                self.step = (ticks - self.given).min(jump_max);
            }
            return self.believe(timestamp, ticks, now, false);
        }
        self.strikes += 1;
        if self.strikes < STRIKES_MAX {
            self.given += self.step;
            return Moment { ticks: self.given, is_new_timeline: false };
        }
        let ticks = (last_ticks + elapsed).max(self.given + self.step);
        self.believe(timestamp, ticks, now, true)
    }

    fn believe(
        &mut self,
        timestamp: u32,
        ticks: i64,
        now: Instant,
        is_new_timeline: bool,
    ) -> Moment {
        self.last = (timestamp, ticks, now);
        self.given = ticks;
        self.strikes = 0;
        Moment { ticks, is_new_timeline }
    }
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
