//! A track of a session: RTP packets in, units with both times out.
//!
//! In here: one place where sequence numbers, payload, media time and decoding order meet. Not in here:
//! which tracks there are (`session_core.rs`).
//! Invariant T1: `dts` rises strictly within a track and is never above `pts`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::media::format::{AudioFormat, VIDEO_TIMESCALE, VideoFormat};
use crate::media::g711::Law;
use crate::media::packet::Track;
use crate::media::reorder::{DtsMaker, Stamp};

use super::access_unit::{AccessUnit, Assembler};
use super::depacketize_aac::Aac;
use super::depacketize_g711::G711;
use super::depacketize_h264::{self as in_h264, H264};
use super::depacketize_h265::{self as in_h265, H265};
use super::depacketize_mjpeg::Mjpeg;
use super::depacketize_opus as in_opus;
use super::habits_core::Habits;
use super::rtp::{RtpPacket, SequenceTracker};
use super::sdp::{Format, Media};
use super::timeline::{Origin, Timeline};
use super::{SourceEvent, Unit};

/// Audio within this of where the last frame ended follows it without a gap: cameras stamp audio by a
/// coarse clock, and a decoder would click.
const AUDIO_JITTER: Duration = Duration::from_millis(40);

/// Most audio frames of one packet: real ones hold one or two. Further ones are left out and counted.
pub const AUDIO_FRAMES_MAX: usize = 64;

/// One audio frame as a depacketizer gives it out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AudioFrame {
    /// From the timestamp of the packet, in samples.
    pub offset: i64,
    pub samples: u32,
    pub data: Vec<u8>,
}

/// What both kinds of track know of their RTP stream.
pub struct Stream {
    pub payload_type: u8,
    pub clock_rate: u32,
    /// Of the last packet.
    pub ssrc: Option<u32>,
    /// `rtptime` of the PLAY answer.
    pub rtptime: Option<u32>,
    pub sequence: SequenceTracker,
    is_sound: bool,
    pub timeline: Option<Timeline>,
}

impl Stream {
    fn new(format: &Format, is_sound: bool) -> Self {
        Self {
            is_sound,
            payload_type: format.payload_type,
            clock_rate: format.clock_rate,
            ssrc: None,
            rtptime: None,
            sequence: SequenceTracker::default(),
            timeline: None,
        }
    }

    fn is_gap(&mut self, packet: &RtpPacket<'_>) -> bool {
        self.ssrc = Some(packet.ssrc);
        self.sequence.is_gap(packet.ssrc, packet.sequence)
    }

    /// The usual interval between units in ticks of video.
    fn interval(&self) -> i64 {
        let interval = self.timeline.as_ref().map_or(0, Timeline::interval);
        rescale(interval, self.clock_rate, VIDEO_TIMESCALE)
    }

    /// Ticks of the RTP clock since the run began.
    fn place(&mut self, timestamp: u32, at: Instant, origin: &mut Origin) -> (i64, bool) {
        let (clock_rate, rtptime, is_sound) = (self.clock_rate, self.rtptime, self.is_sound);
        let timeline = self.timeline.get_or_insert_with(|| {
            let timeline = origin.begin(clock_rate, timestamp, rtptime, at);
            if is_sound { timeline.with_repeats() } else { timeline }
        });
        let moment = timeline.place(timestamp, at);
        (moment.ticks, moment.is_new_timeline)
    }
}

enum VideoPayload {
    H264(Box<Assembler<H264>>),
    H265(Box<Assembler<H265>>),
    Mjpeg(Box<Mjpeg>),
}

/// The video of a session.
pub struct VideoTrack {
    pub stream: Stream,
    payload: VideoPayload,
    dts: Option<DtsMaker>,
    last_dts: Option<i64>,
    /// Frames left out because no parameter sets came yet.
    pub waiting: u64,
    /// Units given out.
    pub emitted: u64,
    pub habits: Habits,
}

impl VideoTrack {
    /// `None`: a codec that is not supported.
    pub fn new(media: &Media, format: &Format) -> Option<Self> {
        let payload = match format.encoding.as_str() {
            "H264" => VideoPayload::H264(Box::new(in_h264::from_sdp(format))),
            "H265" | "HEVC" => VideoPayload::H265(Box::new(in_h265::from_sdp(format))),
            "JPEG" => VideoPayload::Mjpeg(Box::new(Mjpeg::new(media.size))),
            _ => return None,
        };
        Some(Self {
            stream: Stream::new(format, false),
            payload,
            dts: None,
            last_dts: None,
            waiting: 0,
            emitted: 0,
            habits: Habits::default(),
        })
    }

    /// The format as far as it is known.
    pub fn format(&mut self) -> Option<Arc<VideoFormat>> {
        use super::access_unit::NalCodec;
        match &mut self.payload {
            VideoPayload::H264(units) => units.codec.format(),
            VideoPayload::H265(units) => units.codec.format(),
            VideoPayload::Mjpeg(mjpeg) => mjpeg.format(),
        }
    }

    /// Why the last parameter sets could not be used; comes once.
    pub fn take_error(&mut self) -> Option<String> {
        match &mut self.payload {
            VideoPayload::H264(units) => units.codec.sets.error.take(),
            VideoPayload::H265(units) => units.codec.sets.error.take(),
            VideoPayload::Mjpeg(_) => None,
        }
    }

    /// Takes one packet in. `is_broken`: bytes were lost in front of it, whatever its number says.
    pub fn push(
        &mut self,
        packet: &RtpPacket<'_>,
        is_broken: bool,
        now: Instant,
        origin: &mut Origin,
        out: &mut dyn FnMut(SourceEvent),
    ) {
        let is_gap = self.stream.is_gap(packet) | is_broken;
        let (payload, mut emit) = self.split(origin, out);
        match payload {
            VideoPayload::H264(units) => in_h264::push(units, packet, is_gap, now, &mut emit),
            VideoPayload::H265(units) => in_h265::push(units, packet, is_gap, now, &mut emit),
            VideoPayload::Mjpeg(mjpeg) => mjpeg.push(packet, is_gap, now, &mut emit),
        }
    }

    /// Whether a picture looks whole and only waits for what follows to prove it.
    pub fn is_waiting(&self) -> bool {
        match &self.payload {
            VideoPayload::H264(units) => units.is_waiting(),
            VideoPayload::H265(units) => units.is_waiting(),
            VideoPayload::Mjpeg(_) => false,
        }
    }

    /// Nothing follows, at least for now: what is whole is handed out.
    pub fn finish(&mut self, origin: &mut Origin, out: &mut dyn FnMut(SourceEvent)) {
        let (payload, mut emit) = self.split(origin, out);
        match payload {
            VideoPayload::H264(units) => units.finish(&mut emit),
            VideoPayload::H265(units) => units.finish(&mut emit),
            VideoPayload::Mjpeg(_) => {}
        }
    }

    /// The depacketizer, and what becomes of its access units.
    fn split<'a>(
        &'a mut self,
        origin: &'a mut Origin,
        out: &'a mut dyn FnMut(SourceEvent),
    ) -> (&'a mut VideoPayload, impl FnMut(AccessUnit) + 'a) {
        let Self { stream, payload, dts, last_dts, waiting, emitted, habits } = self;
        let emit = move |unit: AccessUnit| {
            let (ticks, is_new_timeline) = stream.place(unit.timestamp, unit.arrived, origin);
            let Some(format) = unit.format else {
                *waiting += 1;
                return;
            };
            *emitted += 1;
            let pts = rescale(ticks, stream.clock_rate, VIDEO_TIMESCALE);
            let stamp = dts.get_or_insert_with(|| dts_maker(&format)).push(pts);
            let stamp = space(stamp, *last_dts, stream.interval());
            *last_dts = Some(stamp.dts);
            habits.note_picture(unit.is_key, stamp.pts, unit.arrived);
            out(SourceEvent::Unit(Unit {
                track: Track::Video(format),
                pts: stamp.pts,
                dts: stamp.dts,
                is_key: unit.is_key,
                is_damaged: unit.is_damaged | is_new_timeline,
                data: unit.data,
            }));
        };
        (payload, emit)
    }
}

/// Pictures stay half of their usual interval apart: after one that was stamped too late the others
/// would else follow a tick apart, which players take for times that stand still.
fn space(stamp: Stamp, last_dts: Option<i64>, interval: i64) -> Stamp {
    let least = last_dts.map_or(i64::MIN, |last| last.saturating_add((interval / 2).max(1)));
    let dts = stamp.dts.max(least);
    Stamp { pts: stamp.pts.max(dts), dts }
}

fn dts_maker(format: &VideoFormat) -> DtsMaker {
    let maker = DtsMaker::new(format.reorder_frames);
    match format.fps_milli {
        0 => maker,
        fps => maker.with_interval(i64::from(VIDEO_TIMESCALE) * 1000 / i64::from(fps)),
    }
}

enum AudioPayload {
    Aac(Aac),
    G711(Box<G711>),
    Opus(Arc<AudioFormat>),
}

/// The audio of a session.
pub struct AudioTrack {
    pub stream: Stream,
    payload: AudioPayload,
    /// The format as last announced.
    announced: Option<Arc<AudioFormat>>,
    /// Where the last frame ended, in samples.
    ended_at: Option<i64>,
    last_pts: i64,
    /// Frames beyond `AUDIO_FRAMES_MAX`.
    overflows: u64,
}

impl AudioTrack {
    /// `None`: a codec that is not supported.
    pub fn new(format: &Format) -> Option<Self> {
        let payload = match format.encoding.as_str() {
            "MPEG4-GENERIC" | "MP4A-LATM" => AudioPayload::Aac(Aac::from_sdp(format)?),
            "PCMA" => AudioPayload::G711(Box::new(G711::from_sdp(Law::A, format)?)),
            "PCMU" => AudioPayload::G711(Box::new(G711::from_sdp(Law::Mu, format)?)),
            "OPUS" => AudioPayload::Opus(in_opus::audio_format(format)),
            _ => return None,
        };
        let mut track = Self {
            stream: Stream::new(format, true),
            payload,
            announced: None,
            ended_at: None,
            last_pts: i64::MIN,
            overflows: 0,
        };
        track.announced = track.current();
        Some(track)
    }

    /// The format as far as it is known.
    pub fn format(&self) -> Option<&Arc<AudioFormat>> {
        self.announced.as_ref()
    }

    /// Frames, or packets of them, that did not come out.
    pub fn dropped(&self) -> u64 {
        match &self.payload {
            AudioPayload::Aac(aac) => self.overflows + aac.dropped,
            AudioPayload::G711(_) | AudioPayload::Opus(_) => self.overflows,
        }
    }

    fn current(&self) -> Option<Arc<AudioFormat>> {
        match &self.payload {
            AudioPayload::Aac(aac) => aac.format().cloned(),
            AudioPayload::G711(g711) => Some(Arc::clone(g711.format())),
            AudioPayload::Opus(format) => Some(Arc::clone(format)),
        }
    }

    /// Takes one packet in.
    pub fn push(
        &mut self,
        packet: &RtpPacket<'_>,
        is_broken: bool,
        now: Instant,
        origin: &mut Origin,
        out: &mut dyn FnMut(SourceEvent),
    ) {
        let is_gap = self.stream.is_gap(packet) | is_broken;
        let (ticks, is_new_timeline) = self.stream.place(packet.timestamp, now, origin);
        let mut frames = heapless::Vec::<AudioFrame, AUDIO_FRAMES_MAX>::new();
        let overflows = &mut self.overflows;
        let mut keep = |frame| *overflows += u64::from(frames.push(frame).is_err());
        match &mut self.payload {
            AudioPayload::Aac(aac) => aac.push(packet, is_gap, &mut keep),
            AudioPayload::G711(g711) => g711.push(packet, is_gap, &mut keep),
            AudioPayload::Opus(_) => {
                let samples = in_opus::samples(packet.payload);
                if samples > 0 {
                    keep(AudioFrame { offset: 0, samples, data: packet.payload.to_vec() });
                }
            }
        }
        let current = self.current();
        if let Some(format) = &current
            && !self.announced.as_ref().is_some_and(|old| Arc::ptr_eq(old, format))
        {
            (self.announced, self.ended_at) = (current.clone(), None);
            out(SourceEvent::AudioChanged(Arc::clone(format)));
        }
        let Some(format) = current else { return };
        let start = rescale(ticks, self.stream.clock_rate, format.sample_rate);
        for frame in frames {
            let pts = self.follow(start + frame.offset, &frame, format.sample_rate, is_gap);
            out(SourceEvent::Unit(Unit {
                track: Track::Audio(Arc::clone(&format)),
                pts,
                dts: pts,
                is_key: true,
                is_damaged: is_gap | is_new_timeline,
                data: frame.data,
            }));
        }
    }

    /// The time of a frame that says `wanted`: where the last one ended, if that is near.
    fn follow(&mut self, wanted: i64, frame: &AudioFrame, rate: u32, is_gap: bool) -> i64 {
        let jitter = super::timeline::ticks_of(AUDIO_JITTER, rate);
        let near = |end: &i64| !is_gap && (wanted - end).abs() <= jitter;
        // Where time went back, half of the last frame is left to it.
        let half = self.ended_at.map_or(1, |end| (end - self.last_pts) / 2).max(1);
        let least = self.last_pts.saturating_add(half);
        let pts = self.ended_at.filter(near).unwrap_or(wanted).max(least);
        self.last_pts = pts;
        self.ended_at = Some(pts + i64::from(frame.samples));
        pts
    }
}

/// Ticks of one clock as ticks of another, rounded down.
fn rescale(ticks: i64, from: u32, to: u32) -> i64 {
    if from == to {
        return ticks;
    }
    let scaled = i128::from(ticks) * i128::from(to);
    i64::try_from(scaled.div_euclid(i128::from(from.max(1)))).unwrap_or(i64::MAX / 2)
}
