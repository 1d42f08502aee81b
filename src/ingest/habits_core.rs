//! What a camera does that its owner can mend: rare or wandering keyframes, B-frames, a wrong clock.
//!
//! In here: when to say it, and in which words. Each is said once in a session. Not in here: faults of a
//! single picture, which the ledger has. Keeps PURE-CORE.

use std::time::{Duration, Instant};

/// Recordings and live view begin at a keyframe: one in this time is the least.
pub const KEY_WAIT: Duration = Duration::from_secs(10);
/// Distances of keyframes that are looked at.
const KEYS: usize = 4;
/// Keyframes that are never further apart than this are no trouble, however they wander.
const KEY_OK: Duration = Duration::from_secs(4);
/// More is a wrong clock: reports are up to some seconds old, and nobody sees the difference in a picture.
const CLOCK_OFF_MS_MAX: i64 = 30_000;
/// From 1900, where NTP begins, to 1970, in seconds (RFC 3550 section 4).
const UNIX_EPOCH_NTP_S: i64 = 2_208_988_800;
/// Pictures that must have gone back in time before they are called B-frames: a single one may be an error.
const BACK_MIN: u32 = 3;

/// What was seen of a session's pictures.
#[derive(Debug, Default)]
pub struct Habits {
    key_at: Option<Instant>,
    /// The last distances, the newest first; `keys` says how many there are.
    distances: [Duration; KEYS],
    keys: usize,
    last_pts: Option<i64>,
    back: u32,
    /// The recorder's clock at a moment, in Unix milliseconds.
    wall: Option<(Instant, i64)>,
    clock_off_ms: Option<i64>,
    said: Said,
}

/// What the owner knows already.
#[derive(Debug, Default)]
struct Said {
    rare_keys: bool,
    wandering_keys: bool,
    b_frames: bool,
    clock: bool,
}

impl Habits {
    /// Tells the recorder's own clock, in Unix milliseconds.
    pub fn set_wall(&mut self, now: Instant, wall_ms: i64) {
        self.wall = Some((now, wall_ms));
    }

    /// Takes a picture in decoding order; `pts` in 90 kHz ticks.
    pub fn note_picture(&mut self, is_key: bool, pts: i64, arrived: Instant) {
        if !is_key && self.last_pts.is_some_and(|last| pts < last) {
            self.back = self.back.saturating_add(1);
        }
        self.last_pts = Some(pts);
        if self.key_at.is_none() || is_key {
            let last = self.key_at.replace(arrived);
            if let Some(last) = last {
                self.distances.rotate_right(1);
                self.distances[0] = arrived.saturating_duration_since(last);
                self.keys += 1;
            }
        }
    }

    /// Takes the camera's clock from a sender report, in 2^-32 s since 1900.
    pub fn note_clock(&mut self, ntp: u64, now: Instant) {
        let Some((at, wall_ms)) = self.wall else { return };
        let unix_s = (ntp >> 32) as i64 - UNIX_EPOCH_NTP_S;
        // Many cameras count from their start; that is no clock, and no harm.
        if unix_s < 0 {
            return;
        }
        let expected_ms = wall_ms + now.saturating_duration_since(at).as_millis() as i64;
        self.clock_off_ms = Some(unix_s * 1000 - expected_ms);
    }

    /// The next thing to be said.
    pub fn advice(&mut self, now: Instant) -> Option<String> {
        let said = &mut self.said;
        let is_rare = self.key_at.is_some_and(|at| now >= at + KEY_WAIT);
        if is_rare && !said.rare_keys {
            said.rare_keys = true;
            let seconds = KEY_WAIT.as_secs();
            return Some(format!(
                "no keyframe for {seconds} s: recordings and live view begin at one, so set the keyframe \
                 (I-frame) interval of the camera to 1 to 4 s, and switch a smart codec (H.264+, H.265+, \
                 Zipstream) off"
            ));
        }
        let [shortest, longest] = [self.distances.iter().min(), self.distances.iter().max()];
        if let (Some(&shortest), Some(&longest)) = (shortest, longest)
            && self.keys >= KEYS
            && longest > KEY_OK
            && longest > shortest * 3 / 2
            && !said.wandering_keys
        {
            said.wandering_keys = true;
            return Some(format!(
                "keyframes come {} to {} s apart: a smart codec (H.264+, H.265+, Zipstream) seems to be on; \
                 switch it off in the camera, else recordings begin late and live view starts slowly",
                shortest.as_secs(),
                longest.as_secs()
            ));
        }
        if self.back >= BACK_MIN && !said.b_frames {
            said.b_frames = true;
            return Some(
                "the camera sends B-frames, which delay live view: switch them off, or choose the \
                 baseline profile"
                    .to_owned(),
            );
        }
        let off_ms = self.clock_off_ms.filter(|off_ms| off_ms.abs() > CLOCK_OFF_MS_MAX)?;
        if std::mem::replace(&mut said.clock, true) {
            return None;
        }
        Some(format!(
            "the clock of the camera is {} {} the recorder's: let both be set by the same time server \
             (NTP); recordings go by the recorder's clock",
            rough(off_ms.unsigned_abs() / 1000),
            if off_ms > 0 { "ahead of" } else { "behind" }
        ))
    }
}

/// A duration as people say it.
fn rough(seconds: u64) -> String {
    match seconds {
        0..=119 => format!("{seconds} s"),
        120..=7199 => format!("{} min", seconds / 60),
        7200..=172_799 => format!("{} h", seconds / 3600),
        _ => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All advice for keyframes at these seconds, each second a picture.
    fn advice_for(keys: &[u64], until: u64, pts: impl Fn(u64) -> i64) -> Vec<String> {
        let t0 = Instant::now();
        let mut habits = Habits::default();
        let mut said = Vec::new();
        for second in 0..until {
            let now = t0 + Duration::from_secs(second);
            habits.note_picture(keys.contains(&second), pts(second), now);
            said.extend(habits.advice(now));
        }
        said
    }

    #[test]
    fn rare_and_wandering_keyframes_are_told_apart_from_good_ones() {
        let pts = |second| second as i64 * 90_000;
        let every = |n| (0..60).step_by(n).collect::<Vec<u64>>();
        assert_eq!(advice_for(&every(2), 60, pts), [""; 0]);
        assert_eq!(advice_for(&every(8), 60, pts), [""; 0]);
        let rare = advice_for(&every(20), 60, pts);
        assert!(rare.len() == 1 && rare[0].starts_with("no keyframe for 10 s"), "{rare:?}");
        let smart = advice_for(&[0, 2, 4, 10, 19, 25], 30, pts);
        assert!(smart.len() == 1 && smart[0].starts_with("keyframes come 2 to 9 s"), "{smart:?}");
    }

    #[test]
    fn pictures_out_of_order_are_b_frames() {
        let pts = |second: u64| [0, 3, 1, 2][second as usize % 4] + second as i64 / 4 * 4;
        let said = advice_for(&(0..60).step_by(4).collect::<Vec<u64>>(), 20, pts);
        assert!(said.len() == 1 && said[0].contains("B-frames"), "{said:?}");
    }

    #[test]
    fn only_a_clock_that_says_a_date_can_be_wrong() {
        let t0 = Instant::now();
        let wall_s = 1_790_000_000_i64;
        let later = t0 + Duration::from_secs(5);
        let check = |unix_s: i64, want: Option<&str>| {
            let mut habits = Habits::default();
            habits.set_wall(t0, wall_s * 1000);
            habits.note_clock(((unix_s + UNIX_EPOCH_NTP_S) as u64) << 32, later);
            let said = habits.advice(later);
            match (&said, want) {
                (Some(said), Some(want)) => assert!(said.contains(want), "{said}"),
                (None, None) => {}
                _ => panic!("{unix_s}: {said:?}"),
            }
            assert_eq!(habits.advice(later), None, "said once");
        };
        check(wall_s + 5, None);
        check(wall_s + 5 - 3 * 3600, Some("3 h behind"));
        check(wall_s + 5 + 40, Some("40 s ahead of"));
        check(0, Some("days behind"));
        check(100 - UNIX_EPOCH_NTP_S, None);
    }
}
