//! A camera farm: one thread that serves any number of RTSP sessions of one looped clip over TCP.
//!
//! The clip (H.264, Annex B) is cut into interleaved RTP frames once. A session only rewrites sequence number,
//! time stamp and SSRC in them and sends a picture with one `write`, so that a stream costs little more than the
//! kernel's copy. Each mount (any path) has a phase of its own by the number at the end of its path, so that
//! pictures and keyframes of many cameras are spread. A client that does not read loses whole pictures up to the
//! next keyframe, as with a real camera, and they are counted: `OPTIONS` answers with the counts.
//! Usage: `camera_farm CLIP.h264 FPS`; prints `port N`.

use std::cell::RefCell;
use std::error::Error;
use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::rc::Rc;
use std::time::{Duration, Instant};

use async_io::{Async, Timer};
use base64::Engine;
use lightnvr::ingest::rtsp_message::encode_answer;
use lightnvr::media::{h264, nal};
use smol::LocalExecutor;
use smol::channel::{Receiver, Sender, bounded};
use smol::future::FutureExt;

/// Payload of an RTP packet: what fits into an Ethernet frame.
const PAYLOAD_BYTES_MAX: usize = 1400;
const REQUEST_BYTES_MAX: usize = 16 << 10;
/// A session that is so far behind leaves pictures out.
const BEHIND_MAX: Duration = Duration::from_secs(1);
/// Sessions that are due within this of each other are served together.
const TICK: Duration = Duration::from_millis(2);
/// `$`, channel, length; RTP header.
const FRAMING_BYTES: usize = 4;
const RTP_BYTES: usize = 12;
const CLOCK_RATE: u32 = 90_000;
const FU_A: u8 = 28;

struct Picture {
    bytes: Range<usize>,
    packets: u16,
    is_key: bool,
}

/// The clip as it goes over the wire.
struct Clip {
    bytes: Vec<u8>,
    pictures: Vec<Picture>,
    /// Longest distance of two keyframes.
    group: usize,
    interval: Duration,
    ticks: u32,
    sdp: String,
}

impl Clip {
    fn load(path: &str, fps: u32) -> Result<Self, Box<dyn Error>> {
        let file = std::fs::read(path)?;
        let mut clip = Self {
            bytes: Vec::new(),
            pictures: Vec::new(),
            group: 1,
            interval: Duration::from_secs(1) / fps,
            ticks: CLOCK_RATE / fps,
            sdp: String::new(),
        };
        let mut sets = [Vec::new(), Vec::new()];
        let mut unit: Vec<&[u8]> = Vec::new();
        for nal in nal::split_annex_b(&file) {
            match h264::nal_type(nal) {
                7 => sets[0] = nal.to_vec(),
                8 => sets[1] = nal.to_vec(),
                _ => {}
            }
            let begins = !h264::is_vcl(nal) || h264::first_mb_in_slice(nal) == Some(0);
            if begins && unit.iter().any(|nal| h264::is_vcl(nal)) {
                clip.push_picture(&unit);
                unit.clear();
            }
            unit.push(nal);
        }
        clip.push_picture(&unit);
        if !clip.pictures.first().is_some_and(|picture| picture.is_key) {
            return Err("the clip does not begin with a keyframe".into());
        }
        let groups = clip.pictures.chunk_by(|_, next| !next.is_key).map(<[Picture]>::len);
        clip.group = groups.max().unwrap_or(1);
        let text = |set: &Vec<u8>| base64::engine::general_purpose::STANDARD.encode(set);
        clip.sdp = format!(
            "v=0\r\no=- 1 1 IN IP4 127.0.0.1\r\ns=farm\r\nt=0 0\r\na=control:*\r\n\
             m=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/{CLOCK_RATE}\r\na=control:video\r\n\
             a=fmtp:96 packetization-mode=1;sprop-parameter-sets={},{}\r\n",
            text(&sets[0]),
            text(&sets[1])
        );
        Ok(clip)
    }

    fn push_picture(&mut self, nals: &[&[u8]]) {
        let (start, mut packets) = (self.bytes.len(), 0);
        for (n, nal) in nals.iter().enumerate() {
            let is_last = n + 1 == nals.len();
            if nal.len() <= PAYLOAD_BYTES_MAX {
                self.push_packet(is_last, &[], nal);
                packets += 1;
                continue;
            }
            // RFC 6184 section 5.8.
            let bodies = nal[1..].chunks(PAYLOAD_BYTES_MAX - 2);
            let last = bodies.len() - 1;
            for (n, body) in bodies.enumerate() {
                let flags = u8::from(n == 0) << 7 | u8::from(n == last) << 6;
                let head = [nal[0] & 0xe0 | FU_A, flags | nal[0] & 0x1f];
                self.push_packet(is_last && n == last, &head, body);
                packets += 1;
            }
        }
        let is_key = nals.iter().any(|nal| h264::is_idr(nal));
        self.pictures.push(Picture { bytes: start..self.bytes.len(), packets, is_key });
    }

    fn push_packet(&mut self, has_marker: bool, head: &[u8], body: &[u8]) {
        let length = (RTP_BYTES + head.len() + body.len()) as u16;
        self.bytes.extend([b'$', 0]);
        self.bytes.extend(length.to_be_bytes());
        self.bytes.extend([0x80, u8::from(has_marker) << 7 | 96]);
        self.bytes.extend([0; RTP_BYTES - 2]);
        self.bytes.extend(head);
        self.bytes.extend(body);
    }

    /// One picture with this session's numbers in it.
    fn stamped(&mut self, at: usize, mut sequence: u16, timestamp: u32, ssrc: u32) -> &[u8] {
        let picture = &mut self.bytes[self.pictures[at].bytes.clone()];
        let mut rest = &mut *picture;
        while let Some((head, after)) = rest.split_at_mut_checked(FRAMING_BYTES + RTP_BYTES) {
            head[6..8].copy_from_slice(&sequence.to_be_bytes());
            head[8..12].copy_from_slice(&timestamp.to_be_bytes());
            head[12..16].copy_from_slice(&ssrc.to_be_bytes());
            let length = usize::from(u16::from_be_bytes([head[2], head[3]])) - RTP_BYTES;
            rest = &mut after[length..];
            sequence = sequence.wrapping_add(1);
        }
        picture
    }
}

struct Session {
    id: u32,
    stream: Rc<Async<TcpStream>>,
    /// The next picture, and how much of it is sent.
    at: usize,
    sent: usize,
    sequence: u16,
    timestamp: u32,
    due: Instant,
    is_skipping: bool,
    /// Answers that wait for the end of a picture.
    answers: Vec<u8>,
    is_closed: bool,
}

#[derive(Default)]
struct Counts {
    pictures: u64,
    skipped: u64,
    bytes: u64,
}

struct Farm {
    clip: Clip,
    sessions: Vec<Session>,
    next_id: u32,
    counts: Counts,
    started: Instant,
}

fn is_later(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}

impl Farm {
    /// A session of the camera with this number joins where its camera is just now.
    fn play(&mut self, stream: Rc<Async<TcpStream>>, camera: u32, answer: Vec<u8>) -> u32 {
        self.next_id += 1;
        let group = self.clip.interval * self.clip.group as u32;
        // The golden ratio spreads any number of cameras.
        let phase = group.mul_f64(f64::from(camera) * 0.618_034 % 1.0);
        let passed = self.started.elapsed() + phase;
        let pictures = passed.div_duration_f64(self.clip.interval).ceil();
        let due = self.started + self.clip.interval.mul_f64(pictures) - phase;
        self.sessions.push(Session {
            id: self.next_id,
            stream,
            at: pictures as usize % self.clip.pictures.len(),
            sent: 0,
            sequence: self.next_id as u16,
            timestamp: self.next_id.wrapping_mul(0x9e37_79b9),
            due,
            is_skipping: false,
            answers: answer,
            is_closed: false,
        });
        self.next_id
    }

    /// Sends what is due. Answers when there is more to do.
    fn pump(&mut self, now: Instant) -> Option<Instant> {
        let Self { clip, sessions, counts, .. } = self;
        for session in sessions.iter_mut() {
            while session.due <= now || !session.answers.is_empty() {
                match session.send(clip, counts, now) {
                    Ok(true) => {}
                    Ok(false) => break,
                    Err(error) => {
                        session.is_closed = !is_later(&error);
                        break;
                    }
                }
            }
        }
        sessions.retain(|session| !session.is_closed);
        sessions.iter().map(|session| session.due).min()
    }
}

impl Session {
    /// One step; false when nothing is due any more.
    fn send(&mut self, clip: &mut Clip, counts: &mut Counts, now: Instant) -> io::Result<bool> {
        if self.sent == 0 && !self.answers.is_empty() {
            let sent = self.stream.get_ref().write(&self.answers)?;
            self.answers.drain(..sent);
            return Ok(true);
        }
        if self.due > now {
            return Ok(false);
        }
        let picture = &clip.pictures[self.at];
        let is_behind = now.saturating_duration_since(self.due) > BEHIND_MAX;
        self.is_skipping = (self.is_skipping && !picture.is_key) || is_behind;
        let packets = picture.packets;
        if self.sent == 0 && self.is_skipping {
            counts.skipped += 1;
        } else {
            let bytes = clip.stamped(self.at, self.sequence, self.timestamp, self.id);
            let sent = self.stream.get_ref().write(&bytes[self.sent..])?;
            counts.bytes += sent as u64;
            self.sent += sent;
            if self.sent < bytes.len() {
                return Ok(true);
            }
            counts.pictures += 1;
            self.sequence = self.sequence.wrapping_add(packets);
        }
        self.sent = 0;
        self.at = (self.at + 1) % clip.pictures.len();
        self.timestamp = self.timestamp.wrapping_add(clip.ticks);
        self.due += clip.interval;
        Ok(true)
    }
}

/// Serves for ever.
async fn pump(farm: Rc<RefCell<Farm>>, joined: Receiver<()>) {
    loop {
        let now = Instant::now();
        let due = farm.borrow_mut().pump(now);
        let woken = async { _ = joined.recv().await };
        match due {
            None => woken.await,
            // What a full socket left over is tried again with the next tick.
            Some(due) => {
                let at = due.max(now) + TICK;
                let rung = async { _ = Timer::at(at).await };
                rung.or(woken).await;
            }
        }
    }
}

struct Request {
    method: String,
    url: String,
    cseq: String,
}

/// The first request in `bytes`; `$` frames of the client (RTCP) are passed over.
fn take_request(bytes: &mut Vec<u8>) -> Option<Request> {
    while let [b'$', _, l0, l1, ..] = bytes[..] {
        let length = FRAMING_BYTES + usize::from(u16::from_be_bytes([l0, l1]));
        if bytes.len() < length {
            return None;
        }
        bytes.drain(..length);
    }
    let end = bytes.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let head: Vec<u8> = bytes.drain(..end).collect();
    let head = String::from_utf8_lossy(&head);
    let mut words = head.split_whitespace();
    let method = words.next()?.to_owned();
    let url = words.next()?.to_owned();
    let mut fields = head.lines().filter_map(|line| line.split_once(':'));
    let cseq = fields.find(|(name, _)| name.eq_ignore_ascii_case("CSeq"));
    Some(Request { method, url, cseq: cseq.map_or("0", |(_, value)| value.trim()).to_owned() })
}

fn answer(farm: &Farm, request: &Request) -> Vec<u8> {
    let Counts { pictures, skipped, bytes } = &farm.counts;
    let sessions = farm.sessions.len();
    let counts = format!("sessions={sessions} pictures={pictures} skipped={skipped} bytes={bytes}");
    let length = farm.clip.sdp.len().to_string();
    let base = format!("{}/", request.url.trim_end_matches('/'));
    let mut fields = vec![("CSeq", request.cseq.as_str())];
    match request.method.as_str() {
        "OPTIONS" => {
            fields.push(("Public", "OPTIONS, DESCRIBE, SETUP, PLAY, GET_PARAMETER, TEARDOWN"));
            fields.push(("Farm", &counts));
        }
        "DESCRIBE" => {
            fields.push(("Content-Type", "application/sdp"));
            fields.push(("Content-Base", &base));
            fields.push(("Content-Length", &length));
        }
        "SETUP" => fields.push(("Transport", "RTP/AVP/TCP;unicast;interleaved=0-1")),
        _ => {}
    }
    fields.push(("Session", "1;timeout=60"));
    let mut out = Vec::new();
    encode_answer(&mut out, "200 OK", &fields);
    if request.method == "DESCRIBE" {
        out.extend(farm.clip.sdp.as_bytes());
    }
    out
}

/// The number at the end of a path.
fn camera_of(url: &str) -> u32 {
    let digits = url.trim_end_matches('/').rsplit('/').next().unwrap_or_default();
    digits.trim_start_matches(|c: char| !c.is_ascii_digit()).parse().unwrap_or(0)
}

/// One connection, until the client ends it.
async fn serve(
    farm: &RefCell<Farm>,
    stream: &Rc<Async<TcpStream>>,
    joined: &Sender<()>,
    playing: &mut Option<u32>,
) -> io::Result<()> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let read = stream.read_with(|mut stream| stream.read(&mut buffer)).await?;
        bytes.extend(&buffer[..read]);
        if read == 0 || bytes.len() > REQUEST_BYTES_MAX {
            return Ok(());
        }
        while let Some(request) = take_request(&mut bytes) {
            let answer = answer(&farm.borrow(), &request);
            match (request.method.as_str(), *playing) {
                ("TEARDOWN", _) => return Ok(()),
                ("PLAY", None) => {
                    let camera = camera_of(&request.url);
                    let id = farm.borrow_mut().play(Rc::clone(stream), camera, answer);
                    *playing = Some(id);
                    let _ = joined.try_send(());
                }
                (_, Some(id)) => {
                    let mut farm = farm.borrow_mut();
                    if let Some(session) = farm.sessions.iter_mut().find(|s| s.id == id) {
                        session.answers.extend(answer);
                    }
                }
                (_, None) => _ = stream.write_with(|mut stream| stream.write(&answer)).await?,
            }
        }
    }
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, clip, fps] = &arguments[..] else {
        return Err("usage: camera_farm CLIP.h264 FPS".into());
    };
    let farm = Rc::new(RefCell::new(Farm {
        clip: Clip::load(clip, fps.parse()?)?,
        sessions: Vec::new(),
        next_id: 0,
        counts: Counts::default(),
        started: Instant::now(),
    }));
    let listener = Async::<TcpListener>::bind(([127, 0, 0, 1], 0))?;
    println!("port {}", listener.get_ref().local_addr()?.port());
    let (joined, joins) = bounded(1);
    let executor = Rc::new(LocalExecutor::new());
    executor.spawn(pump(Rc::clone(&farm), joins)).detach();
    let connections = Rc::clone(&executor);
    smol::block_on(executor.run(async move {
        loop {
            let (stream, _) = listener.accept().await?;
            stream.get_ref().set_nodelay(true)?;
            let (farm, joined, stream) = (Rc::clone(&farm), joined.clone(), Rc::new(stream));
            let connection = async move {
                let mut playing = None;
                let _ = serve(&farm, &stream, &joined, &mut playing).await;
                farm.borrow_mut().sessions.retain(|session| Some(session.id) != playing);
            };
            connections.spawn(connection).detach();
        }
    }))
}
