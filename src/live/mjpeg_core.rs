//! MJPEG without sockets and decoders: the text between pictures, who wants one when, what is decoded next.
//!
//! In here: parts of `multipart/x-mixed-replace`, a viewer's pace, the way through the packets since the last
//! keyframe. Not in here: decoding (`picture_codec.rs`), waiting (`jpeg.rs`). Keeps PURE-CORE.

use std::sync::Arc;

use crate::media::packet::Packet;

/// `Content-Type` of the whole answer.
pub const CONTENT_TYPE: &str = "multipart/x-mixed-replace; boundary=frame";
/// In front of the first part.
pub const FIRST_BOUNDARY: &[u8] = b"--frame\r\n";
/// Behind each part, sent with it: some viewers show a picture only when they have seen what ends it.
pub const NEXT_BOUNDARY: &[u8] = b"\r\n--frame\r\n";

/// Packets that are decoded in one go, so that one stream does not keep a codec thread from the others, and from
/// logins, while it makes up for what was missed: half a second for 1080p on a small board.
pub const BATCH_MAX: usize = 15;

/// The fields of one part, their empty line included. The time is the picture's capture, Unix seconds.
pub fn encode_part_head(length: usize, wall_ms: i64) -> String {
    let (seconds, ms) = (wall_ms.div_euclid(1000), wall_ms.rem_euclid(1000));
    format!(
        "Content-Type: image/jpeg\r\nContent-Length: {length}\r\nX-Timestamp: {seconds}.{ms:03}\r\n\r\n"
    )
}

/// When a viewer wants its next picture, by the pictures' own times.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pace {
    /// Microseconds, so that 15 a second stay 15; 0: every picture.
    interval_us: i64,
    last_ms: Option<i64>,
    due_us: i64,
}

impl Pace {
    /// At most `fps` pictures per second on average; every picture without it.
    pub fn new(fps: Option<u16>) -> Self {
        let interval_us = fps.map_or(0, |fps| 1_000_000 / i64::from(fps.max(1)));
        Self { interval_us, last_ms: None, due_us: 0 }
    }

    /// Whether the picture of `wall_ms` is wanted. Half an interval early is not too early: pictures come with
    /// jitter, and a stream of 15 fps that is asked for 15 must not lose every second one.
    pub fn wants(&self, wall_ms: i64) -> bool {
        match self.last_ms {
            None => true,
            // A clock that was set back begins anew.
            Some(last_ms) if wall_ms < last_ms => wall_ms < last_ms - 1000,
            Some(last_ms) => {
                wall_ms > last_ms && wall_ms * 1000 >= self.due_us - self.interval_us / 2
            }
        }
    }

    /// The picture of `wall_ms` was sent.
    pub fn taken(&mut self, wall_ms: i64) {
        let wall_us = wall_ms * 1000;
        let is_onward = self.last_ms.is_some_and(|last_ms| wall_ms >= last_ms);
        // After a gap in the stream nothing is made up for.
        let is_regular = is_onward && wall_us <= self.due_us + self.interval_us;
        self.due_us = if is_regular { self.due_us } else { wall_us } + self.interval_us;
        self.last_ms = Some(wall_ms);
    }
}

/// A packet's place in its stream.
type Place = (u32, i64);

fn place(packet: &Packet) -> Place {
    (packet.run.id, packet.dts)
}

/// Where a decoder is in its stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The last packet that was decoded; `None` before the first and when the decoder has lost its way.
    at: Option<Place>,
    /// A GOP of which nothing more is to be had.
    spoiled: Option<Place>,
}

impl Progress {
    /// What to decode next of `gop`, which begins with the newest keyframe: what follows on the last time, or
    /// else from the keyframe on. Nothing when there is nothing new, or when it is damaged.
    pub fn take(&mut self, gop: &[Arc<Packet>]) -> Vec<Arc<Packet>> {
        let Some(key) = gop.first().map(|packet| place(packet)) else { return Vec::new() };
        if self.spoiled == Some(key) {
            return Vec::new();
        }
        let done = self.at.and_then(|at| gop.iter().position(|packet| place(packet) == at));
        let rest = match done {
            Some(last) => &gop[last + 1..],
            // The first picture of all is to come at once: the keyframe alone. Later everything up to now, so
            // that no picture is older than the one before it.
            None if self.at.is_none() => &gop[..1],
            None => gop,
        };
        let whole = rest.iter().take(BATCH_MAX).take_while(|packet| !packet.is_damaged);
        let batch: Vec<_> = whole.cloned().collect();
        match batch.last() {
            Some(last) => self.at = Some(place(last)),
            None if !rest.is_empty() => self.spoiled = Some(key),
            None => {}
        }
        batch
    }

    /// The decoder could do nothing with what was taken of `gop`: on with the next keyframe.
    pub fn spoil(&mut self, gop: &[Arc<Packet>]) {
        *self = Self { at: None, spoiled: gop.first().map(|packet| place(packet)) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::format::{VideoCodec, VideoFormat};
    use crate::media::packet::{Run, Track};

    #[test]
    fn a_part_says_how_long_it_is_and_when_it_was() {
        let want =
            "Content-Type: image/jpeg\r\nContent-Length: 7\r\nX-Timestamp: 1741514400.007\r\n\r\n";
        assert_eq!(encode_part_head(7, 1_741_514_400_007), want);
    }

    /// How many of `seconds` of pictures at `source` per second are sent.
    #[track_caller]
    fn check_pace(
        source: i64,
        fps: Option<u16>,
        seconds: i64,
        want: std::ops::RangeInclusive<i64>,
    ) {
        let mut pace = Pace::new(fps);
        let mut sent = 0;
        for n in 0..source * seconds {
            // 10 ms of jitter, to and fro.
            let wall_ms = 1_741_514_400_000 + n * 1000 / source + (n * 7 % 3 - 1) * 10;
            if pace.wants(wall_ms) {
                pace.taken(wall_ms);
                sent += 1;
            }
        }
        assert!(want.contains(&sent), "{sent} of {source}/s at {fps:?}, want {want:?}");
    }

    #[test]
    fn a_viewer_gets_what_was_asked_for_and_never_more() {
        check_pace(15, None, 10, 150..=150);
        check_pace(15, Some(30), 10, 150..=150);
        check_pace(15, Some(15), 10, 145..=150);
        check_pace(15, Some(10), 10, 95..=101);
        check_pace(30, Some(10), 10, 98..=101);
        check_pace(25, Some(1), 10, 10..=11);
        check_pace(30, Some(29), 10, 280..=291);
    }

    #[test]
    fn a_clock_that_is_set_back_stops_nobody() {
        let mut pace = Pace::new(Some(5));
        pace.taken(10_000_000);
        assert!(!pace.wants(9_999_990) && !pace.wants(10_000_000));
        assert!(pace.wants(5_000_000));
        pace.taken(5_000_000);
        assert!(!pace.wants(5_000_050) && pace.wants(5_000_200));
        // And one that is set ahead owes nothing.
        pace.taken(90_000_000);
        assert!(!pace.wants(90_000_050) && pace.wants(90_000_400));
    }

    fn packet(run: u32, dts: i64, is_key: bool) -> Arc<Packet> {
        let format = VideoFormat::sample(VideoCodec::H264, 64, 64);
        Arc::new(Packet {
            seq: 0,
            run: Arc::new(Run { id: run, audio: None }),
            track: Track::Video(Arc::new(format)),
            pts: dts,
            dts,
            is_key,
            is_damaged: false,
            wall_ms: dts,
            data: Vec::new(),
        })
    }

    fn gop(run: u32, first: i64, count: i64) -> Vec<Arc<Packet>> {
        (0..count).map(|n| packet(run, first + n, n == 0)).collect()
    }

    /// The decoding times of what is taken.
    fn take(progress: &mut Progress, gop: &[Arc<Packet>]) -> Vec<i64> {
        progress.take(gop).iter().map(|packet| packet.dts).collect()
    }

    #[test]
    fn the_first_picture_is_the_keyframe_and_then_nothing_is_left_out() {
        let mut progress = Progress::default();
        assert!(take(&mut progress, &[]).is_empty());
        let first = gop(1, 100, 20);
        assert_eq!(take(&mut progress, &first), [100]);
        assert_eq!(take(&mut progress, &first), (101..116).collect::<Vec<_>>());
        assert_eq!(take(&mut progress, &first), (116..120).collect::<Vec<_>>());
        assert!(take(&mut progress, &first).is_empty());
        // Another keyframe, also one of another run with the same times, begins anew.
        assert_eq!(take(&mut progress, &gop(1, 200, 3)), [200, 201, 202]);
        assert_eq!(take(&mut progress, &gop(2, 200, 3)), [200, 201, 202]);
    }

    #[test]
    fn damage_ends_a_gop() {
        let mut progress = Progress::default();
        let mut torn = gop(1, 0, 5);
        let third = Packet { is_damaged: true, ..Packet::clone(&torn[2]) };
        torn[2] = Arc::new(third);
        assert_eq!(take(&mut progress, &torn), [0]);
        assert_eq!(take(&mut progress, &torn), [1]);
        assert!(take(&mut progress, &torn).is_empty());
        torn.push(packet(1, 5, false));
        assert!(take(&mut progress, &torn).is_empty());
        let next = gop(1, 10, 2);
        assert_eq!(take(&mut progress, &next), [10, 11]);
        progress.spoil(&next);
        assert!(take(&mut progress, &gop(1, 10, 4)).is_empty());
        assert_eq!(take(&mut progress, &gop(1, 20, 4)), [20]);
    }
}
