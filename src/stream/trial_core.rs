//! What a source shows of itself in a few seconds: codec, size, rates, and a keyframe to look at.
//!
//! In here: counting over what a source delivers, and when that is enough. Not in here: running the source
//! (`trial.rs`). Rates are over media time, for a camera may send its first second all at once. Holds one
//! access unit at most. Keeps PURE-CORE.

use std::sync::Arc;

use crate::ingest::{SourceEvent, Unit};
use crate::media::format::{VIDEO_TIMESCALE, VideoFormat};
use crate::media::packet::Track;

/// Video that has to be seen, in ticks, beside two keyframes: 2 s.
const TICKS_MIN: i64 = 2 * VIDEO_TIMESCALE as i64;

/// How far a trial came.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Progress {
    /// Nobody answered, or not to the end.
    #[default]
    Connecting,
    /// The session stands; no picture yet.
    Started,
    /// Pictures, but none that a decoder can begin with.
    Pictures,
    Keyframe,
}

/// What a source delivers.
#[derive(Clone, Debug, PartialEq)]
pub struct Facts {
    pub codec: &'static str,
    pub width: u16,
    pub height: u16,
    /// Frames per second; `None` for a single frame of a source that does not say.
    pub fps: Option<f64>,
    /// Seconds; `None` when one keyframe came.
    pub keyframe_interval_s: Option<f64>,
    /// Both tracks, in bits per second; `None` for a single frame.
    pub bitrate: Option<f64>,
    /// As the API names it.
    pub audio: Option<&'static str>,
    /// What the owner could change on the camera.
    pub advice: Vec<String>,
}

/// A trial that is going on.
#[derive(Debug, Default)]
pub struct Trial {
    progress: Progress,
    video: Option<Arc<VideoFormat>>,
    audio: Option<&'static str>,
    frames: u32,
    bytes: u64,
    /// Decoding times of the first and the last frame, in ticks.
    first_dts: i64,
    last_dts: i64,
    last_key_pts: Option<i64>,
    key_distance: Option<i64>,
    key: Option<Unit>,
    advice: Vec<String>,
}

impl Trial {
    /// Takes what the source delivers next.
    pub fn take(&mut self, event: SourceEvent) {
        match event {
            SourceEvent::Started { video, audio } => {
                self.progress = self.progress_at_least(Progress::Started);
                self.video = video;
                self.audio = audio.map(|audio| audio.source_codec);
            }
            SourceEvent::AudioChanged(audio) => self.audio = Some(audio.source_codec),
            // The source bounds how much advice there is.
            SourceEvent::Advice(advice) | SourceEvent::NoSound(advice) => self.advice.push(advice),
            SourceEvent::Unit(unit) => self.take_unit(unit),
        }
    }

    fn take_unit(&mut self, unit: Unit) {
        self.bytes += unit.data.len() as u64;
        let Track::Video(format) = &unit.track else { return };
        if self.frames == 0 {
            self.first_dts = unit.dts;
            self.bytes = unit.data.len() as u64; // sound that came before has no time to be counted over
        }
        self.video = Some(Arc::clone(format));
        self.frames += 1;
        self.last_dts = unit.dts;
        self.progress = self.progress_at_least(Progress::Pictures);
        if unit.is_key {
            self.progress = Progress::Keyframe;
            let distance = self.last_key_pts.map(|last| (unit.pts - last).max(0));
            self.key_distance = distance.or(self.key_distance);
            self.last_key_pts = Some(unit.pts);
            if self.key.as_ref().is_none_or(|key| key.is_damaged) {
                self.key = Some(unit);
            }
        }
    }

    fn progress_at_least(&self, progress: Progress) -> Progress {
        if self.progress == Progress::Keyframe
            || (self.progress == Progress::Pictures && progress == Progress::Started)
        {
            return self.progress;
        }
        progress
    }

    /// How far it came.
    pub fn progress(&self) -> Progress {
        self.progress
    }

    /// Whether more would say no more.
    pub fn is_done(&self) -> bool {
        self.key_distance.is_some() && self.last_dts - self.first_dts >= TICKS_MIN
    }

    /// What was seen, and the first keyframe that came whole; `None` without any keyframe.
    pub fn finish(self) -> Option<(Facts, Unit)> {
        let (format, key) = (self.video?, self.key?);
        let ticks = self.last_dts - self.first_dts;
        let seconds = (ticks > 0).then(|| ticks as f64 / f64::from(VIDEO_TIMESCALE));
        let declared = (format.fps_milli > 0).then(|| f64::from(format.fps_milli) / 1000.0);
        let frames = f64::from(self.frames);
        // The last frame ends one frame later than it begins.
        let whole = seconds.map(|seconds| seconds * frames / (frames - 1.0));
        let facts = Facts {
            codec: format.codec.name(),
            width: format.width,
            height: format.height,
            fps: whole.map(|whole| frames / whole).or(declared),
            keyframe_interval_s: self.key_distance.map(|d| d as f64 / f64::from(VIDEO_TIMESCALE)),
            bitrate: whole.map(|whole| self.bytes as f64 * 8.0 / whole),
            audio: self.audio,
            advice: self.advice,
        };
        Some((facts, key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::format::VideoCodec;

    fn format() -> Arc<VideoFormat> {
        Arc::new(VideoFormat::sample(VideoCodec::H264, 640, 480))
    }

    fn unit(n: i64, is_key: bool, is_damaged: bool) -> SourceEvent {
        let track = Track::Video(format());
        let (pts, dts) = (n * 6000, n * 6000);
        SourceEvent::Unit(Unit { track, pts, dts, is_key, is_damaged, data: vec![0; 1000] })
    }

    #[test]
    fn rates_are_those_of_the_media() {
        let mut trial = Trial::default();
        assert_eq!(trial.progress(), Progress::Connecting);
        trial.take(SourceEvent::Started { video: None, audio: None });
        assert_eq!(trial.progress(), Progress::Started);
        // Two seconds of 15 frames with a keyframe each second: from the third keyframe on it is enough.
        for n in 0..30 {
            trial.take(unit(n, n % 15 == 0, n == 0));
            assert!(!trial.is_done(), "{n}");
        }
        trial.take(unit(30, true, false));
        assert!(trial.is_done());
        let (facts, key) = trial.finish().expect("a keyframe");
        assert!((facts.fps.unwrap() - 15.0).abs() < 0.01, "{facts:?}");
        assert!((facts.bitrate.unwrap() - 120_000.0).abs() < 100.0, "{facts:?}");
        assert_eq!(facts.keyframe_interval_s, Some(1.0));
        assert_eq!((key.dts, key.is_damaged), (15 * 6000, false), "the first whole one");
    }

    #[test]
    fn what_one_keyframe_does_not_say_is_not_said() {
        let mut trial = Trial::default();
        trial.take(unit(0, true, false));
        let (facts, _) = trial.finish().expect("a keyframe");
        assert_eq!((facts.fps, facts.bitrate, facts.keyframe_interval_s), (None, None, None));
        let mut trial = Trial::default();
        trial.take(unit(0, false, false));
        assert_eq!(trial.progress(), Progress::Pictures);
        assert!(trial.finish().is_none());
    }
}
