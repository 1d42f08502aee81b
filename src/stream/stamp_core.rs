//! Turns what a source delivers into packets: numbers its runs and dates what is in them by the recorder's clock.
//!
//! Keeps PURE-CORE: the wall clock comes in.

use std::sync::Arc;

use super::wall_core::RunClock;
use crate::ingest::Unit;
use crate::media::format::AudioFormat;
use crate::media::packet::{Packet, Run};

/// The runs of one source.
#[derive(Debug, Default)]
pub struct Stamp {
    run: Option<Arc<Run>>,
    runs: u32,
    clock: Option<RunClock>,
    is_stale: bool,
}

impl Stamp {
    /// A run begins.
    pub fn start(&mut self, audio: Option<Arc<AudioFormat>>) {
        self.runs = self.runs.wrapping_add(1);
        self.run = Some(Arc::new(Run { id: self.runs, audio }));
        self.clock = None;
    }

    /// The sound's format became known, or is another from now on.
    pub fn set_audio(&mut self, audio: Arc<AudioFormat>) {
        if let Some(run) = &self.run {
            self.run = Some(Arc::new(Run { id: run.id, audio: Some(audio) }));
        }
    }

    /// Something of the run is left out for the recorder: what follows is another run, by the same clock.
    pub fn interrupt(&mut self) {
        if let Some(run) = &self.run {
            self.runs = self.runs.wrapping_add(1);
            self.run = Some(Arc::new(Run { id: self.runs, audio: run.audio.clone() }));
        }
    }

    /// The run is over.
    pub fn end(&mut self) {
        self.run = None;
    }

    /// The run that goes on.
    pub fn run(&self) -> Option<&Arc<Run>> {
        self.run.as_ref()
    }

    /// The wall clock stepped: from the next keyframe on packets are dated anew.
    pub fn note_clock_step(&mut self) {
        self.is_stale = true;
    }

    /// The packet of a unit that arrived at `arrived_ms` (Unix), without its sequence number, and whether dates begin
    /// anew with it; `None` outside of a run.
    pub fn packet(&mut self, unit: Unit, arrived_ms: i64) -> Option<(Packet, bool)> {
        let mut packet = Packet {
            seq: 0,
            run: Arc::clone(self.run.as_ref()?),
            track: unit.track,
            pts: unit.pts,
            dts: unit.dts,
            is_key: unit.is_key,
            is_damaged: unit.is_damaged,
            wall_ms: 0,
            data: unit.data,
        };
        let timescale = i64::from(packet.timescale().max(1));
        let media_ms = (i128::from(packet.pts) * 1000).div_euclid(i128::from(timescale)) as i64;
        let is_anew = self.is_stale && packet.is_video_key();
        if is_anew {
            self.is_stale = false;
            self.clock = None;
        }
        let clock = self.clock.get_or_insert_with(|| RunClock::new(media_ms, arrived_ms));
        packet.wall_ms = clock.wall_ms(media_ms, arrived_ms);
        Some((packet, is_anew))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::format::{VideoCodec, VideoFormat};
    use crate::media::packet::Track;

    fn unit(pts: i64, is_key: bool) -> Unit {
        let format = VideoFormat::sample(VideoCodec::H264, 64, 64);
        let track = Track::Video(Arc::new(format));
        Unit { track, pts, dts: pts, is_key, is_damaged: false, data: Vec::new() }
    }

    #[test]
    fn packets_are_dated_by_their_run_and_anew_after_a_step_of_the_clock() {
        let mut stamp = Stamp::default();
        assert!(stamp.packet(unit(0, true), 5000).is_none(), "there is no run");
        stamp.start(None);
        let dates = |stamp: &mut Stamp, pts, is_key, arrived_ms| {
            let (packet, is_anew) = stamp.packet(unit(pts, is_key), arrived_ms).expect("a run");
            (packet.run.id, packet.wall_ms, is_anew)
        };
        assert_eq!(dates(&mut stamp, 0, true, 5000), (1, 5000, false));
        assert_eq!(dates(&mut stamp, 90_000, false, 6000), (1, 6000, false));
        stamp.note_clock_step();
        assert_eq!(dates(&mut stamp, 180_000, false, 99_000), (1, 7000, false));
        assert_eq!(dates(&mut stamp, 270_000, true, 100_000), (1, 100_000, true));
        stamp.end();
        stamp.start(None);
        assert_eq!(dates(&mut stamp, 0, true, 200_000), (2, 200_000, false));
    }
}
