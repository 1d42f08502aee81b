//! Decoding times from presentation times: RTP carries only the latter (RFC 6184 section 5.1).
//!
//! In here: one number per access unit, in decoding order. Not in here: clocks, gaps, wrap-around
//! (ingest hands in 64-bit times of one run). Invariant D1: `dts` rises strictly and is never above
//! `pts`.
//!
//! With B-frames a decoder holds back `depth` frames. The n-th smallest of the times seen so far is
//! then the n-th time to show, so the decoding times are the same numbers, `depth` places later:
//! the smallest of the last `depth + 1` presentation times. In front of the first frame there are
//! none, so they are made up backwards, one frame interval apart.

use super::format::VIDEO_TIMESCALE;

/// H.264 and H.265 allow 16 frames of reordering (`max_num_reorder_frames`).
pub const REORDER_FRAMES_MAX: usize = 16;
/// A step back by less is B-frames, by more another timeline. At 3 frames per second and three
/// B-frames in a row the step is 1 s.
const STEP_BACK_TICKS_MAX: i64 = 2 * VIDEO_TIMESCALE as i64;
/// Before a second frame is there to measure: 30 frames per second.
const INTERVAL_TICKS: i64 = 3000;
/// Times beyond are clamped: 400 000 years at 90 kHz, and no sum in here can overflow.
const PTS_MAX: i64 = 1 << 60;

/// The two times of one access unit, in ticks of the caller's timescale.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// As handed in, or raised to `dts` where nothing else keeps D1.
    pub pts: i64,
    pub dts: i64,
}

/// Makes decoding times for the video of one run.
///
/// A run that starts at an open group of pictures has some in front of its first one (leading
/// pictures): these are shown a tick late at most each, which nobody sees, because they cannot be
/// decoded.
#[derive(Clone, Debug)]
pub struct DtsMaker {
    depth: usize,
    interval: i64,
    /// The largest presentation times so far, rising; the first ones made up. Empty before the
    /// start.
    recent: heapless::Vec<i64, { REORDER_FRAMES_MAX + 1 }>,
    last_dts: i64,
}

impl DtsMaker {
    /// `depth` is what the parameter sets say (`VideoFormat::reorder_frames`). Where they are
    /// silent it starts at 0, which is right for nearly every camera, and rises when a time goes
    /// back.
    pub fn new(depth: Option<u8>) -> Self {
        let depth = usize::from(depth.unwrap_or(0)).min(REORDER_FRAMES_MAX);
        let recent = heapless::Vec::new();
        Self { depth, interval: INTERVAL_TICKS, recent, last_dts: -PTS_MAX - 1 }
    }

    /// The same with a known frame interval, so that the first frames are spaced like the others.
    pub fn with_interval(mut self, ticks: i64) -> Self {
        self.interval = ticks.clamp(1, i64::from(VIDEO_TIMESCALE));
        self
    }

    /// How many frames are held back by now.
    pub fn depth(&self) -> usize {
        self.depth
    }

    /// Takes the presentation time of the next access unit in decoding order.
    ///
    /// When a time goes back further than the depth allows, the depth rises for what follows, and
    /// this unit is shown late (`pts` raised): the decoding times already given cannot be taken
    /// back.
    pub fn push(&mut self, pts: i64) -> Stamp {
        let pts = pts.clamp(-PTS_MAX, PTS_MAX);
        self.recent.retain(|&seen| seen - pts <= STEP_BACK_TICKS_MAX);
        if self.recent.is_empty() {
            self.restart(pts);
        }
        let later = self.recent.iter().filter(|&&seen| seen > pts).count();
        if pts <= self.last_dts {
            self.depth = self.depth.max(later);
        }
        self.insert(pts);
        let held = (self.recent.len() - 1).min(self.depth);
        let oldest = self.recent[self.recent.len() - 1 - held];
        let dts = oldest.min(pts).max(self.last_dts + 1);
        self.last_dts = dts;
        Stamp { pts: pts.max(dts), dts }
    }

    /// Makes up the times in front of the first one.
    fn restart(&mut self, pts: i64) {
        self.recent.clear();
        let made_up = (1..=REORDER_FRAMES_MAX as i64).rev().map(|n| pts - n * self.interval);
        self.recent.extend(made_up);
    }

    /// Keeps `recent` sorted and lets the smallest go when it is full.
    fn insert(&mut self, pts: i64) {
        if self.recent.is_full() {
            if pts < self.recent[0] {
                return;
            }
            self.recent.remove(0);
        }
        let at = self.recent.partition_point(|&seen| seen <= pts);
        let done = self.recent.insert(at, pts);
        debug_assert!(done.is_ok(), "there is room, and the place is inside");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stamps(mut maker: DtsMaker, times: &[i64]) -> Vec<(i64, i64)> {
        times.iter().map(|&pts| maker.push(pts)).map(|stamp| (stamp.pts, stamp.dts)).collect()
    }

    #[test]
    fn without_b_frames_both_times_are_one() {
        let times: Vec<i64> = (0..50).map(|n| 1000 + n * 3600).collect();
        let want: Vec<_> = times.iter().map(|&pts| (pts, pts)).collect();
        assert_eq!(stamps(DtsMaker::new(Some(0)), &times), want);
        assert_eq!(stamps(DtsMaker::new(None), &times), want);
    }

    #[test]
    fn declared_depth_spaces_frames_evenly() {
        // I0 P4 B2 b1 b3 P8 B6 b5 b7 at 25 fps: x264's pyramid, two frames held back.
        let times = [0, 4, 2, 1, 3, 8, 6, 5, 7].map(|n| n * 3600);
        let got = stamps(DtsMaker::new(Some(2)).with_interval(3600), &times);
        let want: Vec<_> = times.iter().zip(-2..).map(|(&pts, n)| (pts, n * 3600)).collect();
        assert_eq!(got, want);
    }

    #[test]
    fn unknown_depth_is_learned_from_the_first_step_back() {
        let groups = (0..10).flat_map(|group| [4, 2, 1, 3].map(|n| (group * 4 + n) * 3600));
        let times: Vec<i64> = std::iter::once(0).chain(groups).collect();
        let got = stamps(DtsMaker::new(None), &times);
        let late = got.iter().zip(&times).filter(|((pts, _), want)| pts != *want).count();
        assert!(late <= 3, "only the first group is shown late: {late}");
        let dts: Vec<_> = got[8..].windows(2).map(|pair| pair[1].1 - pair[0].1).collect();
        assert!(dts.iter().all(|&step| step == 3600), "even from then on: {dts:?}");
    }

    #[test]
    fn another_timeline_does_not_change_the_depth() {
        let mut maker = DtsMaker::new(None);
        maker.push(1_000_000);
        assert_eq!(maker.push(0), Stamp { pts: 1_000_001, dts: 1_000_001 });
        assert_eq!(maker.depth(), 0);
        assert_eq!(maker.push(2_000_000), Stamp { pts: 2_000_000, dts: 2_000_000 });
    }

    #[test]
    fn a_repeated_time_moves_by_one_tick() {
        let got = stamps(DtsMaker::new(Some(0)), &[5, 5, 5, 3600]);
        assert_eq!(got, [(5, 5), (6, 6), (7, 7), (3600, 3600)]);
    }

    fn check_contract(depth: Option<u8>, times: &[i64]) {
        let got = stamps(DtsMaker::new(depth), times);
        for (pair, now) in got.iter().zip(&got[1.min(got.len())..]) {
            assert!(pair.1 < now.1, "dts rises strictly: {pair:?} {now:?}");
        }
        for ((pts, dts), asked) in got.iter().zip(times) {
            assert!(dts <= pts, "dts {dts} above pts {pts}");
            let asked = (*asked).clamp(-PTS_MAX, PTS_MAX);
            assert!(*pts == asked || (*pts > asked && pts == dts), "pts only moves up to dts");
        }
    }

    proptest! {
        #[test]
        fn contract_holds_for_any_times(depth: Option<u8>, times: Vec<i64>) {
            check_contract(depth, &times);
        }

        #[test]
        fn contract_holds_for_likely_times(
            depth in prop::option::of(0u8..20),
            steps in prop::collection::vec(-200_000i64..200_000, 0..200),
            is_jittery: bool,
        ) {
            let mut now = 0;
            let scale = if is_jittery { 100 } else { 1 };
            let times: Vec<_> = steps.iter().map(|step| { now += step / scale; now }).collect();
            check_contract(depth, &times);
        }

        #[test]
        fn reordering_within_the_depth_changes_no_time(
            depth in 0u8..=16, keys in prop::collection::vec(0u8..=16, 1..100),
        ) {
            // Delays each frame's place by up to `depth` places: no frame overtakes more than that.
            let mut order: Vec<(usize, i64)> = (0i64..).zip(&keys)
                .map(|(n, key)| (n as usize + usize::from(*key % (depth + 1)), n * 3000)).collect();
            order.sort();
            let times: Vec<_> = order.iter().map(|(_, pts)| *pts).collect();
            let later = |at: usize| times[..at].iter().filter(|&&pts| pts > times[at]).count();
            prop_assume!((0..times.len()).all(|at| later(at) <= usize::from(depth)));
            prop_assume!(times.iter().all(|&pts| pts >= times[0]));
            for (&(pts, _), want) in stamps(DtsMaker::new(Some(depth)), &times).iter().zip(&times) {
                prop_assert_eq!(pts, *want);
            }
        }
    }
}
