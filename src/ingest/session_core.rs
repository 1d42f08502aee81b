//! One RTSP session as a state machine (RFC 2326): bytes and `now` in; bytes, events, deadlines out.
//!
//! In here: OPTIONS, DESCRIBE, SETUP, PLAY, keep-alive, watchdogs, what answers mean, which frame is
//! whose. Not in here: the socket and the timer (`rtsp.rs`), text of headers (`session_setup.rs`).
//! Invariant S1: no input makes it panic, send without bound, or show a password.

use std::time::{Duration, Instant};

use super::auth::Auth;
use super::rtp::{self, parse_rtp};
use super::rtsp_message::{self as wire, BadMessage, Item, Message, Parser, Signature, Start};
use super::session_setup::{self as setup, TIMEOUT_DEFAULT};
use super::timeline::Origin;
use super::track::{AudioTrack, VideoTrack};
use super::url::RtspUrl;
use super::{IngestError, SourceEvent, sdp};

/// A request without an answer for this long ends the session.
pub const ANSWER_WAIT: Duration = Duration::from_secs(10);
/// From PLAY to the first video packet.
pub const FIRST_VIDEO_WAIT: Duration = Duration::from_secs(10);
/// No video packet for this long, or three times the longest pause so far, ends the session: a
/// camera that only sends sound any more is dead (quirk 32).
pub const VIDEO_WAIT_MIN: Duration = Duration::from_secs(5);
pub const VIDEO_WAIT_MAX: Duration = Duration::from_secs(30);
/// From PLAY to parameter sets that can be used: long, because some come only each 20 s.
pub const FORMAT_WAIT: Duration = Duration::from_secs(60);
/// Bytes that wait to be sent: a camera that asks more than it reads is cut off.
pub const OUTPUT_BYTES_MAX: usize = 64 << 10;
/// Advice given in one session.
pub const ADVICE_MAX: u32 = 8;
/// RFC 2326 has no rule; cameras answer 401 or nothing at all without one (quirk 14).
const USER_AGENT: &str = concat!("LightNVR/", env!("CARGO_PKG_VERSION"));

/// Why a connection ends.
#[derive(Debug, PartialEq, Eq)]
pub enum End {
    Failed(IngestError),
    /// Connect there instead.
    Redirect(RtspUrl),
    /// Connect again at once: the camera hung up where another start will get further.
    Again,
}

impl From<BadMessage> for End {
    fn from(bad: BadMessage) -> Self {
        Self::Failed(IngestError::Protocol { what: bad.what, at: bad.at })
    }
}

fn lost(what: impl Into<String>) -> End {
    End::Failed(IngestError::Connection { what: what.into() })
}

/// What one connection teaches the next one of the same run.
#[derive(Debug)]
pub struct Memory {
    pub auth: Auth,
    /// The camera hung up on the SETUP of the audio.
    pub skips_audio: bool,
}

/// What was dropped, for the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// `$` frames on channels or with payload types that were not set up (quirk 24).
    pub frames_unknown: u64,
    /// RTP packets that could not be parsed.
    pub packets_bad: u64,
    /// Bytes passed over to find the framing again.
    pub junk_bytes: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Options,
    Describe,
    SetupVideo,
    SetupAudio,
    Play,
    Playing,
    Teardown,
    Over,
}

/// The request that waits for its answer; there is never more than one.
struct Pending {
    method: &'static str,
    uri: String,
    cseq: u32,
    sent_at: Instant,
    is_signed: bool,
}

/// A track with its place on the connection.
struct Placed<T> {
    track: T,
    url: String,
    channel: u8,
    /// Bytes were lost since its last packet.
    is_broken: bool,
}

impl<T> Placed<T> {
    fn new((track, url): (T, String), channel: u8) -> Self {
        Self { track, url, channel, is_broken: false }
    }
}

/// The session of one connection.
pub struct SessionCore {
    url: RtspUrl,
    memory: Memory,
    parser: Parser,
    output: Vec<u8>,
    step: Step,
    cseq: u32,
    pending: Option<Pending>,
    asked_at: Instant,
    /// What requests for the whole session name.
    base: String,
    session: Option<String>,
    timeout: Duration,
    has_get_parameter: bool,
    has_range: bool,
    video: Option<Placed<VideoTrack>>,
    audio: Option<Placed<AudioTrack>>,
    signatures: heapless::Vec<Signature, 4>,
    origin: Origin,
    played_at: Option<Instant>,
    video_at: Option<Instant>,
    video_pause_max: Duration,
    format_error: Option<String>,
    advice_given: u32,
    pub counters: Counters,
}

type Out<'a> = &'a mut dyn FnMut(SourceEvent);

impl SessionCore {
    /// Begins with OPTIONS, which is in `output` from then on.
    pub fn new(url: RtspUrl, memory: Memory, now: Instant) -> Self {
        let mut core = Self {
            base: url.request.clone(),
            url,
            memory,
            parser: Parser::default(),
            output: Vec::new(),
            step: Step::Options,
            cseq: 0,
            pending: None,
            asked_at: now,
            session: None,
            timeout: TIMEOUT_DEFAULT,
            has_get_parameter: false,
            has_range: true,
            video: None,
            audio: None,
            signatures: heapless::Vec::new(),
            origin: Origin::default(),
            played_at: None,
            video_at: None,
            video_pause_max: Duration::ZERO,
            format_error: None,
            advice_given: 0,
            counters: Counters::default(),
        };
        core.ask("OPTIONS", core.url.request.clone(), now);
        core
    }

    /// Bytes to be sent; the shell takes from the front what it sent.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// The connection ended; what the next one may know.
    pub fn into_memory(self) -> Memory {
        self.memory
    }

    /// Whether the answer to TEARDOWN came, or none is needed.
    pub fn is_over(&self) -> bool {
        self.step == Step::Over
    }

    /// Says good-bye, so that the camera frees the session (quirk 9).
    pub fn teardown(&mut self, now: Instant) {
        self.step = match self.session {
            Some(_) => Step::Teardown,
            None => Step::Over,
        };
        if self.step == Step::Teardown {
            self.ask("TEARDOWN", self.base.clone(), now);
        }
    }

    /// Takes what the camera sent. Returns how many bytes were used; the rest comes again in front of
    /// what follows.
    pub fn receive(&mut self, bytes: &[u8], now: Instant, out: Out<'_>) -> Result<usize, End> {
        let mut used = 0;
        while let Some((item, size)) = self.parser.parse(&bytes[used..], &self.signatures)? {
            used += size;
            match item {
                _ if matches!(self.step, Step::Over) => {}
                Item::Frame { channel, payload } => self.frame(channel, payload, now, out)?,
                Item::Message(message) => self.message(&message, now, out)?,
                Item::Blank => {}
                Item::Junk => self.junk(size, out),
            }
        }
        Ok(used)
    }

    /// To be called after every input and at the time that it returned last: sends what is due.
    pub fn poll(&mut self, now: Instant) -> Result<Instant, End> {
        if matches!(self.step, Step::Teardown | Step::Over) {
            return Ok(now + ANSWER_WAIT);
        }
        let mut wait_until = now + ANSWER_WAIT;
        let is_playing = matches!(self.step, Step::Playing);
        if let Some(pending) = &self.pending
            && !is_playing
        {
            if now >= pending.sent_at + ANSWER_WAIT && self.played_at.is_some() {
                // The answer to PLAY got lost, but here is the video.
                self.step = Step::Playing;
            } else if now >= pending.sent_at + ANSWER_WAIT {
                return Err(End::Failed(IngestError::Silent { timeout: ANSWER_WAIT }));
            }
            wait_until = wait_until.min(pending.sent_at + ANSWER_WAIT);
        }
        if is_playing {
            // RFC 2326 section 12.37: at half of the timeout, so that one lost request does not end
            // the session. A keep-alive without an answer is no reason to give up.
            let due_at = self.asked_at + self.timeout / 2;
            if now >= due_at {
                let method = if self.has_get_parameter { "GET_PARAMETER" } else { "OPTIONS" };
                self.ask(method, self.base.clone(), now);
            }
            wait_until = wait_until.min(self.asked_at + self.timeout / 2);
        }
        Ok(wait_until.min(self.check_video(now)?))
    }

    /// The camera closed the connection, or it broke.
    pub fn closed(&mut self, what: &str) -> End {
        if let Some(pending) = &self.pending
            && pending.is_signed
            && matches!(self.step, Step::Options | Step::Describe)
        {
            // Some cameras hang up after a 401; the challenge is known now.
            return if self.memory.auth.is_fresh() { End::Again } else { lost(what) };
        }
        if self.step == Step::SetupAudio && !self.memory.skips_audio {
            self.memory.skips_audio = true;
            return End::Again;
        }
        lost(what)
    }

    /// When the session is dead unless video comes.
    fn check_video(&self, now: Instant) -> Result<Instant, End> {
        let (Some(played_at), Some(video)) = (self.played_at, &self.video) else {
            return Ok(now + ANSWER_WAIT);
        };
        let (since, timeout) = match self.video_at {
            None => (played_at, FIRST_VIDEO_WAIT),
            Some(at) => {
                let wait = self.video_pause_max * 3;
                (at, wait.clamp(VIDEO_WAIT_MIN, VIDEO_WAIT_MAX))
            }
        };
        if now >= since + timeout {
            return Err(End::Failed(IngestError::Silent { timeout }));
        }
        if video.track.emitted > 0 {
            return Ok(since + timeout);
        }
        if now >= played_at + FORMAT_WAIT {
            let why = self.format_error.as_deref().unwrap_or("none came");
            let what = format!("no usable parameter sets from the camera: {why}");
            return Err(End::Failed(IngestError::Refused { what }));
        }
        Ok((since + timeout).min(played_at + FORMAT_WAIT))
    }

    /// Sends a request with the headers that its method needs.
    fn ask(&mut self, method: &'static str, uri: String, now: Instant) {
        self.cseq = self.cseq.wrapping_add(1);
        let authorization = self.memory.auth.sign(method, &uri);
        let transport = self.transport_asked();
        let mut fields: Vec<(&str, &str)> = Vec::new();
        let mut add = |name, value| fields.push((name, value));
        if let Some(authorization) = &authorization {
            add("Authorization", authorization.as_str());
        }
        add("User-Agent", USER_AGENT);
        match method {
            "DESCRIBE" => add("Accept", "application/sdp"),
            "SETUP" => add("Transport", &transport),
            "PLAY" if self.has_range => add("Range", "npt=0.000-"),
            _ => {}
        }
        if let Some(session) = &self.session {
            add("Session", session);
        }
        wire::encode_request(&mut self.output, method, &uri, self.cseq, &fields);
        let is_signed = authorization.is_some();
        self.asked_at = now;
        self.pending = Some(Pending { method, uri, cseq: self.cseq, sent_at: now, is_signed });
    }

    fn transport_asked(&self) -> String {
        let channel = self.channel_asked();
        format!("RTP/AVP/TCP;unicast;interleaved={channel}-{}", u16::from(channel) + 1)
    }

    /// 0 for the video; for the audio the next even number that is free.
    fn channel_asked(&self) -> u8 {
        match (self.step, &self.video) {
            (Step::SetupAudio, Some(video)) if video.channel < 252 => (video.channel | 1) + 1,
            _ => 0,
        }
    }

    fn message(&mut self, message: &Message, now: Instant, out: Out<'_>) -> Result<(), End> {
        match &message.start {
            Start::Request { method } => self.answer_camera(method, message),
            Start::Answer { status } => match self.take_pending(message, *status) {
                Some(pending) => self.answered(pending, *status, message, now, out),
                None => Ok(()),
            },
        }
    }

    /// The request that this answers. A number that was used before is a late answer; any other, or
    /// none, belongs to the request that waits (quirk 7).
    fn take_pending(&mut self, message: &Message, status: u16) -> Option<Pending> {
        let cseq = self.pending.as_ref()?.cseq;
        let named = message.field("CSeq").and_then(|text| text.parse::<u32>().ok());
        let is_late = named.is_some_and(|named| named != 0 && named < cseq);
        if is_late || status < 200 {
            return None;
        }
        self.pending.take()
    }

    /// A request of the camera itself (quirk 6).
    fn answer_camera(&mut self, method: &str, message: &Message) -> Result<(), End> {
        let status = match method {
            "OPTIONS" | "GET_PARAMETER" | "SET_PARAMETER" | "ANNOUNCE" | "TEARDOWN"
            | "REDIRECT" => "200 OK",
            _ => "501 Not Implemented",
        };
        let mut fields: Vec<(&str, &str)> = Vec::new();
        let mut add = |name, value| fields.push((name, value));
        if let Some(cseq) = message.field("CSeq") {
            add("CSeq", cseq);
        }
        if let Some(session) = &self.session {
            add("Session", session);
        }
        if method == "OPTIONS" {
            add("Public", "OPTIONS, ANNOUNCE, GET_PARAMETER, SET_PARAMETER, REDIRECT, TEARDOWN");
        }
        wire::encode_answer(&mut self.output, status, &fields);
        if self.output.len() > OUTPUT_BYTES_MAX {
            let what = "camera asks more than it reads answers".to_owned();
            return Err(End::Failed(IngestError::Protocol { what, at: self.parser.at() }));
        }
        match method {
            "TEARDOWN" => Err(lost("camera ended the session")),
            "REDIRECT" => Err(self.redirect(message)),
            _ => Ok(()),
        }
    }

    fn redirect(&self, message: &Message) -> End {
        let target = message.field("Location").ok_or("redirect without a target".to_owned());
        match target.and_then(|location| self.url.redirected(location)) {
            // The next run begins at the old place, and is sent on from there.
            Ok(_) if self.played_at.is_some() => lost("camera wants the connection elsewhere"),
            Ok(url) => End::Redirect(url),
            Err(why) => {
                let what = format!("camera redirects to what cannot be used: {why}");
                End::Failed(IngestError::Refused { what })
            }
        }
    }

    fn answered(
        &mut self,
        pending: Pending,
        status: u16,
        message: &Message,
        now: Instant,
        out: Out<'_>,
    ) -> Result<(), End> {
        if self.step == Step::Teardown {
            self.step = Step::Over;
            return Ok(());
        }
        if status == 401 {
            if !self.memory.auth.refused(message.fields("WWW-Authenticate")) {
                return Err(End::Failed(IngestError::Unauthorized));
            }
            self.ask(pending.method, pending.uri, now);
            return Ok(());
        }
        self.memory.auth.accepted();
        if matches!(status, 301 | 302 | 303 | 305 | 307) {
            return Err(self.redirect(message));
        }
        if let Some((id, timeout)) = message.field("Session").and_then(setup::parse_session) {
            (self.session, self.timeout) = (Some(id), timeout);
        }
        let is_ok = (200..300).contains(&status);
        match self.step {
            Step::Options => self.options_answered(message, now),
            Step::Describe if is_ok => self.described(message, now, out)?,
            Step::SetupVideo if is_ok => self.video_set_up(message, now)?,
            Step::SetupAudio => self.audio_set_up(message, is_ok, now, out),
            Step::Play if is_ok => self.played(message, now, out),
            // Quirk: cameras that know no ranges; then there is nothing to be said about it.
            Step::Play if matches!(status, 400 | 457 | 501) && self.has_range => {
                self.has_range = false;
                self.ask("PLAY", self.base.clone(), now);
            }
            Step::Playing => self.kept_alive(&pending, status)?,
            _ => return Err(End::Failed(setup::refusal(pending.method, status))),
        }
        Ok(())
    }

    fn options_answered(&mut self, message: &Message, now: Instant) {
        self.note_methods(message);
        // Whatever it says to OPTIONS, DESCRIBE tells whether the camera can be used.
        self.step = Step::Describe;
        self.ask("DESCRIBE", self.url.request.clone(), now);
    }

    fn note_methods(&mut self, message: &Message) {
        let mut methods = message.fields("Public").flat_map(|list| list.split(','));
        if methods.any(|method| method.trim().eq_ignore_ascii_case("GET_PARAMETER")) {
            self.has_get_parameter = true;
        }
    }

    fn described(&mut self, message: &Message, now: Instant, out: Out<'_>) -> Result<(), End> {
        let content = message.field("Content-Base").or_else(|| message.field("Content-Location"));
        let base = sdp::base_url(content, &self.url.request);
        let description = sdp::parse(&message.body);
        let chosen = setup::choose(&description, &base).map_err(End::Failed)?;
        let session = sdp::join_control(&base, description.control.as_deref());
        self.base = RtspUrl::parse(&session).map_or(session, |url| url.request);
        if let Some(advice) = chosen.advice {
            self.advise(advice, out);
        }
        let audio = chosen.audio.filter(|_| !self.memory.skips_audio);
        if self.memory.skips_audio {
            self.advise("camera hangs up when asked for sound: recording without".to_owned(), out);
        }
        let video_url = chosen.video.1.clone();
        self.video = Some(Placed::new(chosen.video, 0));
        self.audio = audio.map(|audio| Placed::new(audio, 0));
        self.step = Step::SetupVideo;
        self.ask("SETUP", video_url, now);
        Ok(())
    }

    fn video_set_up(&mut self, message: &Message, now: Instant) -> Result<(), End> {
        let transport = message.field("Transport");
        if setup::is_udp(transport) {
            return Err(End::Failed(setup::refusal("SETUP", 461)));
        }
        let channel = setup::parse_channel(transport, self.channel_asked());
        if let Some(video) = &mut self.video {
            video.channel = channel;
        }
        match &self.audio {
            Some(audio) => {
                let url = audio.url.clone();
                self.step = Step::SetupAudio;
                self.ask("SETUP", url, now);
            }
            None => self.play(now),
        }
        Ok(())
    }

    fn audio_set_up(&mut self, message: &Message, is_ok: bool, now: Instant, out: Out<'_>) {
        let transport = message.field("Transport");
        if is_ok && !setup::is_udp(transport) {
            let channel = setup::parse_channel(transport, self.channel_asked());
            if let Some(audio) = &mut self.audio {
                audio.channel = channel;
            }
        } else {
            self.audio = None;
            self.advise("camera refuses its sound: recording without".to_owned(), out);
        }
        self.play(now);
    }

    fn play(&mut self, now: Instant) {
        self.step = Step::Play;
        self.note_signatures();
        self.ask("PLAY", self.base.clone(), now);
    }

    /// What frames look like, for finding them again after framing was lost.
    fn note_signatures(&mut self) {
        self.signatures.clear();
        let video = self.video.as_ref().map(|p| (p.channel, &p.track.stream));
        let audio = self.audio.as_ref().map(|p| (p.channel, &p.track.stream));
        for (channel, stream) in [video, audio].into_iter().flatten() {
            let (payload_type, ssrc) = (Some(stream.payload_type), stream.ssrc);
            let rtp = Signature { channel, payload_type, ssrc };
            let channel = channel.wrapping_add(1);
            let rtcp = Signature { channel, payload_type: None, ssrc };
            // Four fit: two tracks with two channels each.
            let _ = self.signatures.push(rtp);
            let _ = self.signatures.push(rtcp);
        }
    }

    fn played(&mut self, message: &Message, now: Instant, out: Out<'_>) {
        let info = message.field("RTP-Info").unwrap_or("");
        if let Some(video) = &mut self.video {
            video.track.stream.rtptime = setup::parse_rtptime(info, &video.url, 0);
        }
        if let Some(audio) = &mut self.audio {
            audio.track.stream.rtptime = setup::parse_rtptime(info, &audio.url, 1);
        }
        self.start(now, out);
        self.step = Step::Playing;
    }

    /// Once per session: the tracks are known. Some cameras send before they answer PLAY.
    fn start(&mut self, now: Instant, out: Out<'_>) {
        if self.played_at.is_none() {
            self.played_at = Some(now);
            let video = self.video.as_mut().and_then(|video| video.track.format());
            let audio = self.audio.as_ref().and_then(|audio| audio.track.format().cloned());
            out(SourceEvent::Started { video, audio });
        }
    }

    fn kept_alive(&mut self, pending: &Pending, status: u16) -> Result<(), End> {
        match status {
            454 => Err(lost("camera forgot the session (454)")),
            400..=599 if pending.method == "GET_PARAMETER" => {
                self.has_get_parameter = false;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn frame(&mut self, channel: u8, bytes: &[u8], now: Instant, out: Out<'_>) -> Result<(), End> {
        if !matches!(self.step, Step::Play | Step::Playing) {
            return Ok(());
        }
        // RFC 5761 section 4: these are no RTP payload types, on whatever channel they come.
        if bytes.get(1).is_some_and(|kind| (200..=207).contains(kind)) {
            return self.control(channel, bytes, out);
        }
        let Ok(packet) = parse_rtp(bytes) else {
            self.counters.packets_bad += 1;
            return Ok(());
        };
        let Some(is_video) = self.whose(channel, packet.payload_type) else {
            self.counters.frames_unknown += 1;
            return Ok(());
        };
        self.start(now, out);
        if is_video && let Some(video) = &mut self.video {
            let is_broken = std::mem::take(&mut video.is_broken);
            let is_first = video.track.stream.ssrc != Some(packet.ssrc);
            video.track.push(&packet, is_broken, now, &mut self.origin, out);
            let error = video.track.take_error();
            if let Some(before) = self.video_at.replace(now) {
                self.video_pause_max = self.video_pause_max.max(now - before);
            }
            if is_first {
                self.note_signatures();
            }
            if let Some(why) = error {
                self.advise(format!("parameter sets not understood: {why}"), out);
                self.format_error = Some(why);
            }
        } else if let Some(audio) = &mut self.audio {
            let is_broken = std::mem::take(&mut audio.is_broken);
            audio.track.push(&packet, is_broken, now, &mut self.origin, out);
        }
        Ok(())
    }

    /// Whether a packet is video (true) or audio. The payload type decides where a camera gives both
    /// the same channel; and where it sends on a channel it never named, as long as the track that it
    /// fits is silent (quirk 22).
    fn whose(&mut self, channel: u8, payload_type: u8) -> Option<bool> {
        let fits = |at: u8, kind: u8| at == channel && kind == payload_type;
        let video = self.video.as_ref().map(|p| (p.channel, &p.track.stream));
        let audio = self.audio.as_ref().map(|p| (p.channel, &p.track.stream));
        if video.is_some_and(|(at, stream)| fits(at, stream.payload_type)) {
            return Some(true);
        }
        if audio.is_some_and(|(at, stream)| fits(at, stream.payload_type)) {
            return Some(false);
        }
        let is_known = |p: Option<(u8, _)>| p.is_some_and(|(at, _)| at == channel);
        if is_known(video) || is_known(audio) {
            return None;
        }
        let adopts = |stream: &super::track::Stream| {
            stream.ssrc.is_none() && stream.payload_type == payload_type
        };
        let by_video = video.is_some_and(|(_, stream)| adopts(stream));
        let by_audio = audio.is_some_and(|(_, stream)| adopts(stream));
        match (by_video, by_audio) {
            (true, false) => self.video.as_mut()?.channel = channel,
            (false, true) => self.audio.as_mut()?.channel = channel,
            _ => return None,
        }
        self.note_signatures();
        Some(by_video)
    }

    /// RTCP: only the good-bye of the video matters (quirk 31). Its clock is not used: cameras step it
    /// by hours (quirk 29).
    fn control(&mut self, channel: u8, bytes: &[u8], out: Out<'_>) -> Result<(), End> {
        let Some(video) = &mut self.video else { return Ok(()) };
        let ssrc = video.track.stream.ssrc;
        let is_meant = ssrc.is_some() || channel == video.channel.wrapping_add(1);
        if !is_meant || !rtp::has_bye(bytes, ssrc) {
            return Ok(());
        }
        video.track.finish(&mut self.origin, out);
        Err(lost("camera ended the stream (RTCP BYE)"))
    }

    fn junk(&mut self, bytes: usize, out: Out<'_>) {
        self.counters.junk_bytes += bytes as u64;
        let is_first = self.counters.junk_bytes == bytes as u64;
        if is_first && self.played_at.is_some() {
            self.advise(
                "camera loses the framing of RTSP: pictures may be damaged".to_owned(),
                out,
            );
        }
        if let Some(video) = &mut self.video {
            video.is_broken = true;
        }
        if let Some(audio) = &mut self.audio {
            audio.is_broken = true;
        }
    }

    fn advise(&mut self, text: String, out: Out<'_>) {
        self.advice_given += 1;
        if self.advice_given <= ADVICE_MAX {
            out(SourceEvent::Advice(text));
        }
    }
}
