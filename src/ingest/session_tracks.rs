//! The tracks of a session and which `$` frame is whose.
//!
//! In here: channels, payload types, marks of lost bytes, the watchdog over the video. Not in here:
//! requests and answers (`session_core.rs`), what a track makes of a packet (`track.rs`).

use std::time::{Duration, Instant};

use super::offset::{OffsetCore, Report};
use super::rtp::{self, RtpPacket, parse_rtp};
use super::rtsp_message::Signature;
use super::timeline::Origin;
use super::track::{AudioTrack, Stream, VideoTrack};
use super::{IngestError, SourceEvent};

/// For video until a second picture shows how long the pauses are: some cameras send a picture each
/// 20 s only.
pub const FIRST_VIDEO_WAIT: Duration = Duration::from_secs(30);
/// From then on no video packet for this long, or three times the longest pause so far, ends the
/// session: a camera that only sends sound any more is dead (quirk 32).
pub const VIDEO_WAIT_MIN: Duration = Duration::from_secs(5);
pub const VIDEO_WAIT_MAX: Duration = Duration::from_secs(60);
/// A picture that looks whole is handed out after this long without another packet.
pub const LAST_PICTURE_WAIT: Duration = Duration::from_secs(1);
/// From PLAY to parameter sets that can be used: long, because some come only each 20 s.
pub const FORMAT_WAIT: Duration = Duration::from_secs(60);

/// What was dropped, for the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// `$` frames on channels or with payload types that were not set up (quirk 24).
    pub frames_unknown: u64,
    /// RTP packets that could not be parsed.
    pub packets_bad: u64,
    /// Bytes passed over to find the framing again.
    pub junk_bytes: u64,
    /// Audio frames that could not be used, or were too many for one packet.
    pub audio_dropped: u64,
    /// Packets over UDP that came twice, or after the wait for them.
    pub packets_late: u64,
    /// How often a bound ended the wait for a packet.
    pub waits_cut: u64,
}

/// A track with its place on the connection.
pub struct Placed<T> {
    pub track: T,
    pub url: String,
    pub channel: u8,
    /// Bytes were lost since its last packet.
    is_broken: bool,
}

impl<T> Placed<T> {
    /// Channels are known after SETUP.
    pub fn new((track, url): (T, String)) -> Self {
        Self { track, url, channel: 0, is_broken: false }
    }
}

/// What a `$` frame is.
#[derive(Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    Video(RtpPacket<'a>),
    Audio(RtpPacket<'a>),
    /// RTCP says that the video ends.
    Bye,
    Other,
}

/// The tracks of one session.
#[derive(Default)]
pub struct Tracks {
    pub video: Option<Placed<VideoTrack>>,
    pub audio: Option<Placed<AudioTrack>>,
    signatures: heapless::Vec<Signature, 4>,
    origin: Origin,
    offset: OffsetCore,
    video_at: Option<Instant>,
    video_pause_max: Duration,
    format_error: Option<String>,
    counters: Counters,
}

impl Tracks {
    /// What was dropped so far, with what the tracks themselves know of.
    pub fn counters(&self) -> Counters {
        let audio_dropped = self.audio.as_ref().map_or(0, |placed| placed.track.dropped());
        Counters { audio_dropped, ..self.counters }
    }

    /// What frames look like, for finding them again after framing was lost.
    pub fn signatures(&self) -> &[Signature] {
        &self.signatures
    }

    fn streams(&self) -> [Option<(u8, &Stream)>; 2] {
        let video = self.video.as_ref().map(|p| (p.channel, &p.track.stream));
        let audio = self.audio.as_ref().map(|p| (p.channel, &p.track.stream));
        [video, audio]
    }

    /// To be called when a channel or an SSRC became known.
    pub fn note_signatures(&mut self) {
        let mut signatures = heapless::Vec::new();
        for (channel, stream) in self.streams().into_iter().flatten() {
            let (payload_type, ssrc) = (Some(stream.payload_type), stream.ssrc);
            // Four fit: two tracks with two channels each.
            let _ = signatures.push(Signature { channel, payload_type, ssrc });
            let channel = channel.wrapping_add(1);
            let _ = signatures.push(Signature { channel, payload_type: None, ssrc });
        }
        self.signatures = signatures;
    }

    /// Finds out whose frame this is. Of RTCP the good-bye of the video matters (quirk 31), and the
    /// first sender reports for how the tracks lie to each other (`offset.rs`).
    pub fn sort<'a>(&mut self, channel: u8, bytes: &'a [u8], now: Instant) -> Frame<'a> {
        // RFC 5761 section 4: these are no RTP payload types, on whatever channel they come.
        if bytes.get(1).is_some_and(|kind| (200..=207).contains(kind)) {
            self.note_report(channel, bytes, now);
            let Some(video) = &self.video else { return Frame::Other };
            let ssrc = video.track.stream.ssrc;
            let is_meant = ssrc.is_some() || channel == video.channel.wrapping_add(1);
            return if is_meant && rtp::has_bye(bytes, ssrc) { Frame::Bye } else { Frame::Other };
        }
        let Ok(packet) = parse_rtp(bytes) else {
            self.counters.packets_bad += 1;
            return Frame::Other;
        };
        match self.whose(channel, packet.payload_type) {
            Some(true) => Frame::Video(packet),
            Some(false) => Frame::Audio(packet),
            None => {
                self.counters.frames_unknown += 1;
                Frame::Other
            }
        }
    }

    fn note_report(&mut self, channel: u8, bytes: &[u8], now: Instant) {
        let Some(report) = rtp::parse_sender_report(bytes) else { return };
        let is_of = |placed: Option<(u8, &Stream)>| {
            placed.is_some_and(|(at, stream)| match stream.ssrc {
                Some(ssrc) => ssrc == report.ssrc,
                None => at.wrapping_add(1) == channel,
            })
        };
        let [video, audio] = self.streams().map(is_of);
        if let Some(placed) = &mut self.video {
            placed.track.habits.note_clock(report.ntp, now);
        }
        let report = Report { ntp: report.ntp, timestamp: report.timestamp, at: now };
        match (video, audio) {
            (true, false) => self.offset.note(0, report),
            (false, true) => self.offset.note(1, report),
            _ => {}
        }
    }

    /// Moves one track to later, once, if the sender reports say so.
    fn align(&mut self, now: Instant) {
        let (Some(video), Some(audio)) = (&mut self.video, &mut self.audio) else { return };
        let [video, audio] = [&mut video.track.stream, &mut audio.track.stream];
        // Where PLAY was answered with both begins, these are as good, and were believed already.
        if video.rtptime.is_some() && audio.rtptime.is_some() {
            return;
        }
        let (Some(video), Some(audio)) = (&mut video.timeline, &mut audio.timeline) else { return };
        let later = self.offset.poll(now, |t| video.seconds_of(t), |t| audio.seconds_of(t));
        match later {
            Some((0, by)) => video.delay(by),
            Some((_, by)) => audio.delay(by),
            None => {}
        }
    }

    /// Whether a packet is video (true) or audio. The payload type decides where a camera gives both
    /// the same channel; and where it sends on a channel it never named, as long as the track that it
    /// fits is silent (quirk 22).
    fn whose(&mut self, channel: u8, payload_type: u8) -> Option<bool> {
        let [video, audio] = self.streams();
        let is_at = |placed: Option<(u8, _)>| placed.is_some_and(|(at, _)| at == channel);
        let is_of = |placed: Option<(u8, &Stream)>| {
            placed.is_some_and(|(_, stream)| stream.payload_type == payload_type)
        };
        if is_at(video) && is_of(video) {
            return Some(true);
        }
        if is_at(audio) && is_of(audio) {
            return Some(false);
        }
        if is_at(video) || is_at(audio) {
            return None;
        }
        let is_silent = |placed: Option<(u8, &Stream)>| {
            is_of(placed) && placed.is_some_and(|(_, stream)| stream.ssrc.is_none())
        };
        let is_video = match (is_silent(video), is_silent(audio)) {
            (true, false) => true,
            (false, true) => false,
            _ => return None,
        };
        if is_video {
            self.video.as_mut()?.channel = channel;
        } else {
            self.audio.as_mut()?.channel = channel;
        }
        self.note_signatures();
        Some(is_video)
    }

    /// Hands a video packet to its track. Returns advice, if parameter sets cannot be understood.
    pub fn push_video(
        &mut self,
        packet: &RtpPacket<'_>,
        now: Instant,
        out: &mut dyn FnMut(SourceEvent),
    ) -> Option<String> {
        let video = self.video.as_mut()?;
        let is_broken = std::mem::take(&mut video.is_broken);
        let is_first = video.track.stream.ssrc != Some(packet.ssrc);
        video.track.push(packet, is_broken, now, &mut self.origin, out);
        let error = video.track.take_error();
        if let Some(before) = self.video_at.replace(now) {
            let pause = now.saturating_duration_since(before);
            self.video_pause_max = self.video_pause_max.max(pause);
        }
        if is_first {
            self.note_signatures();
        }
        let why = error?;
        let advice = format!("parameter sets not understood: {why}");
        self.format_error = Some(why);
        Some(advice)
    }

    /// Hands an audio packet to its track.
    pub fn push_audio(
        &mut self,
        packet: &RtpPacket<'_>,
        now: Instant,
        out: &mut dyn FnMut(SourceEvent),
    ) {
        if let Some(audio) = &mut self.audio {
            let is_broken = std::mem::take(&mut audio.is_broken);
            audio.track.push(packet, is_broken, now, &mut self.origin, out);
            self.align(now);
        }
    }

    /// Hands out a picture that nothing followed for a while. Returns when one will have to be.
    pub fn flush(&mut self, now: Instant, out: &mut dyn FnMut(SourceEvent)) -> Option<Instant> {
        let due_at = self.video_at? + LAST_PICTURE_WAIT;
        if !self.video.as_ref()?.track.is_waiting() {
            return None;
        }
        if now < due_at {
            return Some(due_at);
        }
        self.finish(out);
        None
    }

    /// The session ends: what is whole is handed out.
    pub fn finish(&mut self, out: &mut dyn FnMut(SourceEvent)) {
        if let Some(video) = &mut self.video {
            video.track.finish(&mut self.origin, out);
        }
    }

    /// What the owner can mend, one by one, each once.
    pub fn advice(&mut self, now: Instant) -> Option<String> {
        self.video.as_mut()?.track.habits.advice(now)
    }

    /// Bytes were lost. True for the first time.
    pub fn lose(&mut self, bytes: usize) -> bool {
        let is_first = self.counters.junk_bytes == 0;
        self.counters.junk_bytes += bytes as u64;
        if let Some(video) = &mut self.video {
            video.is_broken = true;
        }
        if let Some(audio) = &mut self.audio {
            audio.is_broken = true;
        }
        is_first
    }

    /// Between the packets of two pictures lies the pause between them.
    fn has_measured_pause(&self) -> bool {
        self.video.as_ref().is_some_and(|video| video.track.emitted + video.track.waiting >= 2)
    }

    /// When the session is dead unless video comes that can be used.
    pub fn check_video(&self, played_at: Instant, now: Instant) -> Result<Instant, IngestError> {
        let (since, timeout) = match self.video_at {
            None => (played_at, FIRST_VIDEO_WAIT),
            Some(at) if !self.has_measured_pause() => (at, FIRST_VIDEO_WAIT),
            Some(at) => {
                let wait = self.video_pause_max.saturating_mul(3);
                (at, wait.clamp(VIDEO_WAIT_MIN, VIDEO_WAIT_MAX))
            }
        };
        if now >= since + timeout {
            return Err(IngestError::Silent { timeout });
        }
        if self.video.as_ref().is_some_and(|video| video.track.emitted > 0) {
            return Ok(since + timeout);
        }
        if now >= played_at + FORMAT_WAIT {
            let why = self.format_error.as_deref().unwrap_or("none came");
            let what = format!("no usable parameter sets from the camera: {why}");
            return Err(IngestError::Refused { what });
        }
        Ok((since + timeout).min(played_at + FORMAT_WAIT))
    }
}
