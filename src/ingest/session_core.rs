//! One RTSP session as a state machine (RFC 2326): bytes and `now` in; bytes, events, deadlines out.
//!
//! In here: OPTIONS, DESCRIBE, SETUP, PLAY, keep-alive, watchdogs, what answers mean, which frame is
//! whose. Not in here: the socket and the timer (`rtsp.rs`), text of headers (`session_setup.rs`).
//! Over 600 lines because one state machine is read at one go.
//! Invariant S1: no input makes it panic, send without bound, or show a password.

use std::time::{Duration, Instant};

use super::auth::Auth;
use super::quota_core::Quota;
use super::rtsp_message::{self as wire, BadMessage, Item, Message, Parser, Start};
use super::session_setup::{self as setup, TIMEOUT_DEFAULT};
use super::session_tracks::{Counters, Frame, Placed, Tracks};
use super::udp_core::{TRACKS, UdpCore};
use super::url::{self, RtspUrl};
use super::{IngestError, SourceEvent, sdp};
use crate::config::transport::Transport;

/// How long the sound may go on after the video's good-bye.
const BYE_WAIT: Duration = Duration::from_millis(500);
const BYE: &str = "camera ended the stream (RTCP BYE)";
/// A request without an answer for this long ends the session.
pub const ANSWER_WAIT: Duration = Duration::from_secs(10);
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

fn flood(what: String) -> End {
    End::Failed(IngestError::Refused { what })
}

/// What one connection teaches the next one of the same run.
#[derive(Debug)]
pub struct Memory {
    pub auth: Auth,
    /// The camera hung up on the SETUP of the audio.
    pub skips_audio: bool,
    /// It let the session die though OPTIONS came in time: GET_PARAMETER must keep it, listed or not.
    pub needs_get_parameter: bool,
    /// As configured.
    pub transport: Transport,
    /// It answered 461 to RTP over TCP.
    pub refuses_tcp: bool,
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

/// The session of one connection.
pub struct SessionCore {
    /// When the video said good-bye while there is sound.
    bye_at: Option<Instant>,
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
    tracks: Tracks,
    quota: Quota,
    /// Once there are ports.
    udp: Option<UdpCore>,
    played_at: Option<Instant>,
    advice_given: u32,
    /// Advice from before `Started`, which begins a new list.
    early_advice: heapless::Vec<String, 4>,
    /// When bytes or a timer came last.
    seen_at: Instant,
    /// The recorder's clock at a moment, in Unix milliseconds.
    wall: Option<(Instant, i64)>,
}

type Out<'a> = &'a mut dyn FnMut(SourceEvent);

impl SessionCore {
    /// Begins with OPTIONS, which is in `output` from then on.
    pub fn new(url: RtspUrl, memory: Memory, now: Instant) -> Self {
        let mut core = Self {
            base: url.request.clone(),
            url,
            has_get_parameter: memory.needs_get_parameter,
            memory,
            parser: Parser::default(),
            output: Vec::new(),
            step: Step::Options,
            cseq: 0,
            pending: None,
            asked_at: now,
            session: None,
            timeout: TIMEOUT_DEFAULT,
            has_range: true,
            tracks: Tracks::default(),
            quota: Quota::new(now),
            udp: None,
            bye_at: None,
            played_at: None,
            advice_given: 0,
            early_advice: heapless::Vec::new(),
            seen_at: now,
            wall: None,
        };
        core.ask("OPTIONS", core.url.request.clone(), now);
        core
    }

    /// Tells the recorder's own clock, in Unix milliseconds, to judge the camera's by.
    pub fn set_wall(&mut self, now: Instant, wall_ms: i64) {
        self.wall = Some((now, wall_ms));
    }

    /// Bytes to be sent; the shell takes from the front what it sent.
    pub fn output(&mut self) -> &mut Vec<u8> {
        &mut self.output
    }

    /// How long pictures may have flowed.
    pub fn playing_for(&self, now: Instant) -> Duration {
        self.played_at.map_or(Duration::ZERO, |at| now.saturating_duration_since(at))
    }

    /// What was dropped so far.
    pub fn counters(&self) -> Counters {
        let (late, overflows) = self.udp.as_ref().map_or((0, 0), UdpCore::late);
        Counters { packets_late: late, waits_cut: overflows, ..self.tracks.counters() }
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

    /// Whether the session cannot go on without ports for UDP.
    pub fn wants_ports(&self) -> bool {
        self.step == Step::SetupVideo && self.pending.is_none() && self.udp.is_none()
    }

    /// Tells our ports for RTP, each with one for RTCP behind it, and our name in reports.
    pub fn set_ports(&mut self, ports: [u16; TRACKS], ssrc: u32, now: Instant) {
        self.udp = Some(UdpCore::new(ports, ssrc, now));
        self.set_up_video(now);
    }

    /// Takes a packet of UDP: of track 0, the video, or 1; RTP, or RTCP if `is_control`.
    pub fn datagram(
        &mut self,
        track: usize,
        is_control: bool,
        bytes: &[u8],
        now: Instant,
        out: Out<'_>,
    ) -> Result<(), End> {
        self.quota.note(bytes.len(), now).map_err(flood)?;
        let Some(udp) = &mut self.udp else { return Ok(()) };
        let channel = udp_channel(track);
        if is_control {
            udp.note_control(track, bytes, now);
            return self.frame(channel + 1, bytes, now, out);
        }
        if udp.is_next(track, bytes, now) {
            self.frame(channel, bytes, now, out)?;
        }
        self.drain(track, now, out)
    }

    /// Packets that waited for one that came, or will not come.
    fn drain(&mut self, track: usize, now: Instant, out: Out<'_>) -> Result<(), End> {
        while let Some(bytes) = self.udp.as_mut().and_then(|udp| udp.pop(track, now)) {
            self.frame(udp_channel(track), &bytes, now, out)?;
        }
        Ok(())
    }

    /// Receiver reports that are due: track, the camera's port, bytes.
    pub fn reports(&mut self, now: Instant) -> heapless::Vec<(usize, u16, Vec<u8>), TRACKS> {
        self.udp.as_mut().map(|udp| udp.reports(now)).unwrap_or_default()
    }

    /// Takes what the camera sent. Returns how many bytes were used; the rest comes again in front of
    /// what follows.
    pub fn receive(&mut self, bytes: &[u8], now: Instant, out: Out<'_>) -> Result<usize, End> {
        self.seen_at = now;
        let mut used = 0;
        while let Some((item, size)) =
            self.parser.parse(&bytes[used..], self.tracks.signatures())?
        {
            used += size;
            self.quota.note(size, now).map_err(flood)?;
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

    /// The session ends, for whatever reason: the last picture may still wait for what follows it.
    pub fn finish(&mut self, out: Out<'_>) {
        self.tracks.finish(out);
    }

    /// To be called after every input and at the time that it returned last: sends what is due.
    pub fn poll(&mut self, now: Instant, out: Out<'_>) -> Result<Instant, End> {
        if matches!(self.step, Step::Teardown | Step::Over) {
            return Ok(now + ANSWER_WAIT);
        }
        self.seen_at = now;
        while let Some(advice) = self.tracks.advice(now) {
            self.advise(advice, out);
        }
        let mut wait_until = now + ANSWER_WAIT;
        if self.udp.is_some() {
            (0..TRACKS).try_for_each(|track| self.drain(track, now, out))?;
            wait_until = self.udp.as_ref().map_or(wait_until, |udp| wait_until.min(udp.due_at()));
        }
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
        if let Some(bye_at) = self.bye_at {
            if now >= bye_at + BYE_WAIT {
                return Err(lost(BYE));
            }
            wait_until = wait_until.min(bye_at + BYE_WAIT);
        }
        if let Some(due_at) = self.tracks.flush(now, out) {
            wait_until = wait_until.min(due_at);
        }
        match self.played_at {
            Some(at) => Ok(wait_until.min(self.tracks.check_video(at, now).map_err(End::Failed)?)),
            None => Ok(wait_until),
        }
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
        if self.is_dropped_in_spite_of_options() {
            self.memory.needs_get_parameter = true;
            return End::Again;
        }
        lost(what)
    }

    /// Whether the session died at its timeout though it was kept by OPTIONS (quirk 2: EvoStream answers
    /// them and does not count them).
    fn is_dropped_in_spite_of_options(&self) -> bool {
        let Some(played_at) = self.played_at else { return false };
        let lived = self.seen_at.saturating_duration_since(played_at);
        let is_at_timeout = lived >= self.timeout * 3 / 4 && lived <= self.timeout * 3 / 2;
        is_at_timeout && self.step == Step::Playing && !self.has_get_parameter
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
        if let Some(udp) = &self.udp {
            return udp.transport(usize::from(self.step == Step::SetupAudio));
        }
        let channel = self.channel_asked();
        format!("RTP/AVP/TCP;unicast;interleaved={channel}-{}", u16::from(channel) + 1)
    }

    /// 0 for the video; for the audio the next even number that is free.
    fn channel_asked(&self) -> u8 {
        match (self.step, &self.tracks.video) {
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
            // Many say the timeout once, in the answer to SETUP.
            (self.session, self.timeout) = (Some(id), timeout.unwrap_or(self.timeout));
        }
        let is_ok = (200..300).contains(&status);
        match self.step {
            Step::Options => self.options_answered(message, now),
            Step::Describe if is_ok => self.described(message, now, out)?,
            Step::SetupVideo if is_ok => self.video_set_up(message, now)?,
            Step::SetupVideo if status == 461 => self.change_transport(now)?,
            Step::SetupAudio => self.audio_set_up(message, is_ok, now, out),
            Step::Play if is_ok => self.played(message, now, out),
            // Quirk: cameras that know no ranges; then there is nothing to be said about it.
            Step::Play if matches!(status, 400 | 457 | 501) && self.has_range => {
                self.has_range = false;
                self.ask("PLAY", self.base.clone(), now);
            }
            Step::Playing => self.kept_alive(&pending, status)?,
            _ => {
                if let Some(advice) = setup::advice_of(pending.method, status) {
                    out(SourceEvent::Advice(advice));
                }
                return Err(End::Failed(setup::refusal(pending.method, status)));
            }
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
        self.base = url::request_of(&session);
        if let Some(why) = chosen.no_sound {
            out(SourceEvent::NoSound(why));
        }
        let audio = chosen.audio.filter(|_| !self.memory.skips_audio);
        if self.memory.skips_audio {
            let why = "camera hangs up when asked for sound: recording without";
            out(SourceEvent::NoSound(why.to_owned()));
        }
        let mut video = Placed::new(chosen.video);
        if let Some((at, wall_ms)) = self.wall {
            video.track.habits.set_wall(at, wall_ms);
        }
        self.tracks.video = Some(video);
        self.tracks.audio = audio.map(Placed::new);
        self.step = Step::SetupVideo;
        self.set_up_video(now);
        Ok(())
    }

    /// Asks, if ports are there where they are needed.
    fn set_up_video(&mut self, now: Instant) {
        let is_udp = self.memory.transport == Transport::Udp || self.memory.refuses_tcp;
        let url = self.tracks.video.as_ref().map(|video| video.url.clone());
        if let Some(url) = url.filter(|_| !is_udp || self.udp.is_some()) {
            self.ask("SETUP", url, now);
        }
    }

    /// The camera refuses this transport (quirk 23): the other one, on the same connection, if it may be.
    fn change_transport(&mut self, now: Instant) -> Result<(), End> {
        if self.memory.transport != Transport::Auto || self.memory.refuses_tcp {
            return Err(End::Failed(setup::no_transport(self.memory.transport)));
        }
        self.memory.refuses_tcp = true;
        self.set_up_video(now);
        Ok(())
    }

    fn video_set_up(&mut self, message: &Message, now: Instant) -> Result<(), End> {
        let transport = message.field("Transport");
        if !setup::is_granted(transport, self.udp.is_some()) {
            return self.change_transport(now);
        }
        let channel = match self.udp {
            Some(_) => udp_channel(0),
            None => setup::parse_channel(transport, self.channel_asked()),
        };
        if let Some(video) = &mut self.tracks.video {
            video.channel = channel;
            if let Some(udp) = &mut self.udp {
                let port = setup::parse_control_port(transport);
                udp.set_up(0, video.track.stream.clock_rate, port);
            }
        }
        match &self.tracks.audio {
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
        if is_ok && setup::is_granted(transport, self.udp.is_some()) {
            let channel = match self.udp {
                Some(_) => udp_channel(1),
                None => setup::parse_channel(transport, self.channel_asked()),
            };
            if let Some(audio) = &mut self.tracks.audio {
                audio.channel = channel;
                if let Some(udp) = &mut self.udp {
                    let port = setup::parse_control_port(transport);
                    udp.set_up(1, audio.track.stream.clock_rate, port);
                }
            }
        } else {
            self.tracks.audio = None;
            out(SourceEvent::NoSound("camera refuses its sound: recording without".to_owned()));
        }
        self.play(now);
    }

    fn play(&mut self, now: Instant) {
        self.step = Step::Play;
        self.tracks.note_signatures();
        self.ask("PLAY", self.base.clone(), now);
    }

    fn played(&mut self, message: &Message, now: Instant, out: Out<'_>) {
        let info = message.field("RTP-Info").unwrap_or("");
        if let Some(video) = &mut self.tracks.video {
            video.track.stream.rtptime = setup::parse_rtptime(info, &video.url, 0);
        }
        if let Some(audio) = &mut self.tracks.audio {
            audio.track.stream.rtptime = setup::parse_rtptime(info, &audio.url, 1);
        }
        self.start(now, out);
        self.step = Step::Playing;
    }

    /// Once per session: the tracks are known. Some cameras send before they answer PLAY.
    fn start(&mut self, now: Instant, out: Out<'_>) {
        if self.played_at.is_none() {
            self.played_at = Some(now);
            let video = self.tracks.video.as_mut().and_then(|video| video.track.format());
            let audio = self.tracks.audio.as_ref().and_then(|audio| audio.track.format().cloned());
            out(SourceEvent::Started { video, audio });
            for text in std::mem::take(&mut self.early_advice) {
                out(SourceEvent::Advice(text));
            }
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
        match self.tracks.sort(channel, bytes, now) {
            Frame::Video(packet) => {
                self.start(now, out);
                if let Some(advice) = self.tracks.push_video(&packet, now, out) {
                    self.advise(advice, out);
                }
            }
            Frame::Audio(packet) => {
                self.start(now, out);
                self.tracks.push_audio(&packet, now, out);
            }
            Frame::Bye => {
                self.tracks.finish(out);
                if self.tracks.audio.is_none() {
                    return Err(lost(BYE));
                }
                // The sound's last packets may still be on their way.
                self.bye_at.get_or_insert(now);
            }
            Frame::Other => {}
        }
        Ok(())
    }

    fn junk(&mut self, bytes: usize, out: Out<'_>) {
        if self.tracks.lose(bytes) && self.played_at.is_some() {
            self.advise(
                "camera loses the framing of RTSP: pictures may be damaged".to_owned(),
                out,
            );
        }
    }

    fn advise(&mut self, text: String, out: Out<'_>) {
        self.advice_given += 1;
        if self.played_at.is_none() {
            // Four fit: one each for sound that is unknown, refused, or hung up on.
            let _ = self.early_advice.push(text);
        } else if self.advice_given <= ADVICE_MAX {
            out(SourceEvent::Advice(text));
        }
    }
}

/// The channel that stands for a track over UDP.
fn udp_channel(track: usize) -> u8 {
    if track == 0 { 0 } else { 2 }
}

#[cfg(test)]
#[path = "session_core_tests.rs"]
mod tests;
