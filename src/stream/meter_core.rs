//! What a stream really delivers: frames and bits per second, distance of keyframes.
//!
//! Keeps PURE-CORE: `now_ms` is the monotonic clock.

use std::collections::VecDeque;

/// Length of the window in seconds.
const WINDOW_S: usize = 5;

#[derive(Clone, Copy, Debug, Default)]
struct Second {
    number: u64,
    frames: u32,
    bytes: u64,
}

/// Counts over the last whole seconds.
#[derive(Clone, Debug, Default)]
pub struct Meter {
    seconds: VecDeque<Second>,
    key_pts: Option<i64>,
    key_distance_ticks: i64,
    last_video_ms: Option<u64>,
}

impl Meter {
    /// Notes a packet of `bytes`; `video_key_pts` is its presentation time (90 kHz) if it is a video keyframe.
    pub fn note(&mut self, now_ms: u64, bytes: usize, is_video: bool, video_key_pts: Option<i64>) {
        let number = now_ms / 1000;
        if self.seconds.back().is_none_or(|second| second.number != number) {
            self.seconds.push_back(Second { number, ..Second::default() });
            while self.seconds.len() > WINDOW_S + 1 {
                self.seconds.pop_front();
            }
        }
        if let Some(second) = self.seconds.back_mut() {
            second.frames += u32::from(is_video);
            second.bytes += bytes as u64;
        }
        if is_video {
            self.last_video_ms = Some(now_ms);
        }
        if let Some(pts) = video_key_pts {
            if let Some(last) = self.key_pts {
                self.key_distance_ticks = (pts - last).max(0);
            }
            self.key_pts = Some(pts);
        }
    }

    /// Frames and bits per second over the whole seconds of the window that are over.
    pub fn rates(&self, now_ms: u64) -> (f64, u64) {
        let now_s = now_ms / 1000;
        let whole =
            |second: &&Second| second.number < now_s && second.number + WINDOW_S as u64 >= now_s;
        let Some(first) = self.seconds.iter().find(whole) else { return (0.0, 0) };
        let span = (now_s - first.number) as f64;
        let (frames, bytes) = self
            .seconds
            .iter()
            .filter(whole)
            .fold((0, 0), |(frames, bytes), s| (frames + s.frames, bytes + s.bytes));
        (f64::from(frames) / span, (bytes as f64 * 8.0 / span) as u64)
    }

    /// Seconds between the last two keyframes, 0 before the second one.
    pub fn keyframe_interval_s(&self) -> f64 {
        self.key_distance_ticks as f64 / 90_000.0
    }

    /// Milliseconds since the last video packet.
    pub fn video_age_ms(&self, now_ms: u64) -> Option<u64> {
        self.last_video_ms.map(|last| now_ms.saturating_sub(last))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_those_of_the_last_whole_seconds() {
        let mut meter = Meter::default();
        assert_eq!(meter.rates(10_000), (0.0, 0));
        for n in 0..150_u64 {
            let key = (n % 30 == 0).then_some(n as i64 * 6000);
            meter.note(1000 + n * 1000 / 15, 1000, true, key);
        }
        let (fps, bitrate) = meter.rates(11_000);
        assert!((fps - 15.0).abs() < 0.5, "{fps}");
        assert!((bitrate as i64 - 120_000).abs() < 5000, "{bitrate}");
        assert_eq!(meter.keyframe_interval_s(), 2.0);
        assert_eq!(meter.rates(30_000), (0.0, 0));
        assert_eq!(meter.video_age_ms(11_000), Some(67));
    }
}
