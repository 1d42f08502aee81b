//! How sound and pictures lie to each other, by the first sender reports of both (RFC 3550 section 6.4.1).
//!
//! In here: which pair of reports is believed, and what follows from it, once per run. Not in here: where
//! a timestamp lies (`timeline.rs`). Without reports the tracks are joined by arrival, which is wrong by
//! seconds if a camera begins with the group of pictures that it kept. Cameras also step the clock of
//! their reports by hours (quirk 29), so a pair must agree with its arrival.

use std::time::{Duration, Instant};

/// The reports of a pair arrive within this.
const PAIR_MAX: Duration = Duration::from_secs(5);
/// By so much may the two clocks, the camera's and ours, disagree on the time between them.
const DISAGREE_MAX_S: f64 = 0.5;
/// What is less is not heard, and may be from the arrival itself.
const OFFSET_MIN_S: f64 = 0.06;
/// What is more is not believed.
const OFFSET_MAX_S: f64 = 10.0;
/// From the first report on; later nothing is moved any more.
const BEGIN_MAX: Duration = Duration::from_secs(30);

/// What a track's last sender report said.
#[derive(Clone, Copy, Debug)]
pub struct Report {
    /// The camera's clock, in 2^-32 s.
    pub ntp: u64,
    pub timestamp: u32,
    pub at: Instant,
}

/// Waits for a pair of reports; track 0 is the video, 1 the audio.
#[derive(Debug, Default)]
pub struct OffsetCore {
    reports: [Option<Report>; 2],
    first_at: Option<Instant>,
    is_done: bool,
}

impl OffsetCore {
    pub fn note(&mut self, track: usize, report: Report) {
        self.first_at.get_or_insert(report.at);
        self.reports[track] = Some(report);
    }

    /// Which track is to be moved to later, and by how much. `video` and `audio` say where a timestamp
    /// lies by now, in seconds.
    pub fn poll(
        &mut self,
        now: Instant,
        video: impl Fn(u32) -> Option<f64>,
        audio: impl Fn(u32) -> Option<f64>,
    ) -> Option<(usize, Duration)> {
        let first_at = self.first_at.filter(|_| !self.is_done)?;
        if now > first_at + BEGIN_MAX {
            self.is_done = true;
            return None;
        }
        let [Some(of_video), Some(of_audio)] = self.reports else { return None };
        let ntp_s = of_audio.ntp.wrapping_sub(of_video.ntp) as i64 as f64 / (1u64 << 32) as f64;
        let arrived_s = seconds_between(of_video.at, of_audio.at);
        let is_pair = arrived_s.abs() <= PAIR_MAX.as_secs_f64();
        if !is_pair || (ntp_s - arrived_s).abs() > DISAGREE_MAX_S {
            return None;
        }
        let placed_s = audio(of_audio.timestamp)? - video(of_video.timestamp)?;
        let offset_s = ntp_s - placed_s;
        self.is_done = true;
        if !(OFFSET_MIN_S..OFFSET_MAX_S).contains(&offset_s.abs()) {
            return None;
        }
        // Always to later: what is recorded already cannot be taken back.
        Some((usize::from(offset_s > 0.0), Duration::from_secs_f64(offset_s.abs())))
    }
}

fn seconds_between(from: Instant, to: Instant) -> f64 {
    match to.checked_duration_since(from) {
        Some(after) => after.as_secs_f64(),
        None => -(from - to).as_secs_f64(),
    }
}
