//! A camera that says what a test tells it to: a real TCP server on 127.0.0.1, one thread, no timers.
//!
//! A test gives it a script: a function of each connection. `Peer::serve` plays a well-behaved camera as
//! far as PLAY, with what a test wants to be different in a `Manner`.

// Each test binary uses its own part of this.
#![allow(dead_code)]

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::{Builder, JoinHandle};
use std::time::{Duration, Instant};

/// Only so that a failing test ends: nothing waits for this in one that passes.
const STUCK: Duration = Duration::from_secs(30);
/// What a camera of little memory keeps of what is not taken.
const SEND_BYTES: usize = 32 << 10;

/// 640x360 as x264 writes it, and slices that no decoder will see.
pub const SPS: &[u8] =
    b"\x67\x64\x00\x1e\xac\xb2\x01\x40\x5f\xf2\xe0\x22\x00\x00\x03\x00\x02\x00\x00\x03\x00\x64\x1e\x2c\x5c\x90";
pub const PPS: &[u8] = b"\x68\xeb\xc3\xcb\x22\xc0";
pub const IDR: &[u8] = b"\x65\x88\x84\x27\xd9\x4d";
/// What `SPS` and `PPS` look like in an SDP.
pub const SDP: &str = "v=0\r\na=control:*\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n\
    a=fmtp:96 packetization-mode=1;sprop-parameter-sets=Z2QAHqyyAUBf8uAiAAADAAIAAAMAZB4sXJA=,aOvDyyLA\r\n\
    a=control:trackID=0\r\n";
/// `a=control` of a G.711 track to go with it.
pub const SDP_AUDIO: &str = "m=audio 0 RTP/AVP 8\r\na=control:trackID=1\r\n";

/// A camera; ends when dropped.
pub struct FakeCamera {
    address: SocketAddr,
    is_over: Arc<AtomicBool>,
    connected: Arc<Mutex<Option<TcpStream>>>,
    thread: Option<JoinHandle<()>>,
}

impl FakeCamera {
    /// Starts a camera that runs `script` for each connection, one after the other. The first
    /// argument counts them from 0.
    pub fn start(mut script: impl FnMut(usize, &mut Peer) + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port on loopback");
        let address = listener.local_addr().expect("bound");
        let is_over = Arc::new(AtomicBool::new(false));
        let connected = Arc::new(Mutex::new(None));
        let (over, current) = (Arc::clone(&is_over), Arc::clone(&connected));
        let serve = move || {
            for (n, stream) in listener.incoming().enumerate() {
                let Ok(stream) = stream else { continue };
                if over.load(Ordering::SeqCst) {
                    return;
                }
                *current.lock().expect("no panic inside") = stream.try_clone().ok();
                stream.set_read_timeout(Some(STUCK)).expect("not zero");
                stream.set_write_timeout(Some(STUCK)).expect("not zero");
                script(n, &mut Peer { stream, unread: Vec::new(), requests: Vec::new() });
                // The clone keeps the socket open, so it is closed by hand.
                if let Some(stream) = current.lock().expect("no panic inside").take() {
                    let _ = stream.shutdown(Shutdown::Both);
                }
            }
        };
        let thread = Builder::new().name("fake-camera".to_owned()).spawn(serve).expect("a thread");
        Self { address, is_over, connected, thread: Some(thread) }
    }

    /// A camera that behaves, with these ways; then `after` runs.
    pub fn playing(
        manner: Manner,
        mut after: impl FnMut(&mut Peer) + Send + 'static,
    ) -> FakeCamera {
        Self::start(move |_, peer| {
            if peer.serve(&manner) {
                after(peer);
            }
        })
    }

    pub fn url(&self) -> String {
        format!("rtsp://{}/stream", self.address)
    }

    /// The same with user name and password as they stand in a URL.
    pub fn url_with(&self, login: &str) -> String {
        format!("rtsp://{login}@{}/stream", self.address)
    }
}

impl Drop for FakeCamera {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::SeqCst);
        if let Ok(connected) = self.connected.lock()
            && let Some(stream) = connected.as_ref()
        {
            let _ = stream.shutdown(Shutdown::Both);
        }
        // Wakes the thread up, if it waits for a connection.
        drop(TcpStream::connect(self.address));
        let ended = self.thread.take().map(JoinHandle::join);
        if !std::thread::panicking() {
            ended.expect("dropped once").expect("the script did not panic");
        }
    }
}

/// A request of the recorder.
#[derive(Clone, Debug)]
pub struct Request {
    pub method: String,
    pub uri: String,
    pub head: String,
}

impl Request {
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut fields = self.head.lines().filter_map(|line| line.split_once(": "));
        fields.find(|(n, _)| n.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }
}

/// What a camera hears within a time.
pub enum Heard {
    Request(Request),
    Nothing,
    /// The recorder hung up.
    End,
}

/// What a camera does differently.
#[derive(Clone)]
pub struct Manner {
    pub public: &'static str,
    pub sdp: String,
    pub session: &'static str,
    /// `interleaved=` of the answers to SETUP, in order.
    pub interleaved: [&'static str; 2],
    /// Further fields of the answer to PLAY.
    pub play: &'static str,
}

impl Default for Manner {
    fn default() -> Self {
        Self {
            public: "OPTIONS, DESCRIBE, SETUP, PLAY, TEARDOWN",
            sdp: SDP.to_owned(),
            session: "1234",
            interleaved: ["0-1", "2-3"],
            play: "",
        }
    }
}

/// The camera's side of one connection.
pub struct Peer {
    stream: TcpStream,
    unread: Vec<u8>,
    /// All requests so far, in order.
    pub requests: Vec<Request>,
}

impl Peer {
    /// The next request; `None` when the recorder hung up.
    pub fn request(&mut self) -> Option<Request> {
        loop {
            if let Some(at) = self.unread.windows(4).position(|w| w == b"\r\n\r\n") {
                let head: Vec<u8> = self.unread.drain(..at + 4).collect();
                let head = String::from_utf8(head).expect("the recorder sends text");
                let mut words = head.split(' ');
                let mut word = || words.next().expect("a request line").to_owned();
                let request = Request { method: word(), uri: word(), head: head.clone() };
                self.requests.push(request.clone());
                return Some(request);
            }
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer) {
                Ok(0) | Err(_) => return None,
                Ok(read) => self.unread.extend_from_slice(&buffer[..read]),
            }
        }
    }

    /// Address and port that the recorder connected to.
    pub fn host(&self) -> String {
        self.stream.local_addr().map_or(String::new(), |address| address.to_string())
    }

    /// What the recorder says until `deadline`: a request, or an answer, whose method is then `RTSP/1.0`.
    pub fn hear_until(&mut self, deadline: Instant) -> Heard {
        loop {
            if self.unread.windows(4).any(|w| w == b"\r\n\r\n") {
                return self.request().map_or(Heard::End, Heard::Request);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Heard::Nothing;
            }
            self.stream.set_read_timeout(Some(left)).expect("not zero");
            let mut buffer = [0; 4096];
            match self.stream.read(&mut buffer) {
                Ok(0) => return Heard::End,
                Ok(read) => self.unread.extend_from_slice(&buffer[..read]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(_) => return Heard::End,
            }
        }
    }

    /// Answers with these fields, each ended by CR LF, and a body.
    pub fn answer(&mut self, request: &Request, status: u16, fields: &str, body: &str) {
        let cseq = request.field("CSeq").expect("a CSeq");
        let length = if body.is_empty() {
            String::new()
        } else {
            format!("Content-Length: {}\r\n", body.len())
        };
        self.send(
            format!("RTSP/1.0 {status} X\r\nCSeq: {cseq}\r\n{fields}{length}\r\n{body}").as_bytes(),
        );
    }

    /// Sends anything. That the recorder hung up is for the recorder's side to judge.
    pub fn send(&mut self, bytes: &[u8]) -> bool {
        let is_sent = self.stream.write_all(bytes).is_ok();
        if !is_sent {
            // Half a message may be on its way: nothing can follow it.
            let _ = self.stream.shutdown(Shutdown::Both);
        }
        is_sent
    }

    /// Hangs up when what is sent is not taken for so long.
    pub fn be_impatient(&self, patience: Duration) {
        self.stream.set_write_timeout(Some(patience)).expect("not zero");
        let set = rustix::net::sockopt::set_socket_send_buffer_size(&self.stream, SEND_BYTES);
        set.expect("a socket takes a size");
    }

    /// Answers requests until PLAY was answered. False: the recorder hung up before.
    pub fn serve(&mut self, manner: &Manner) -> bool {
        let mut setups = 0;
        while let Some(request) = self.request() {
            let session = format!("Session: {}\r\n", manner.session);
            match request.method.as_str() {
                "OPTIONS" => {
                    self.answer(&request, 200, &format!("Public: {}\r\n", manner.public), "")
                }
                "DESCRIBE" => {
                    self.answer(&request, 200, "Content-Type: application/sdp\r\n", &manner.sdp);
                }
                "SETUP" => {
                    let ids = manner.interleaved[setups.min(1)];
                    setups += 1;
                    let transport = format!("Transport: RTP/AVP/TCP;unicast;interleaved={ids}\r\n");
                    self.answer(&request, 200, &(session + &transport), "");
                }
                "PLAY" => {
                    self.answer(&request, 200, &(session + manner.play), "");
                    return true;
                }
                _ => self.answer(&request, 200, &session, ""),
            }
        }
        false
    }

    /// Waits for TEARDOWN without answering anything. False: the recorder hung up without it.
    pub fn wait_for_teardown(&mut self) -> bool {
        std::iter::from_fn(|| self.request()).any(|request| request.method == "TEARDOWN")
    }

    /// Sends picture `n` (25 per second) as one packet.
    pub fn send_picture(&mut self, n: u16, nal: &[u8]) {
        self.send(&frame(0, &rtp(n, u32::from(n) * 3600, true, nal)));
    }

    /// Sends a picture in fragments, the first of which has number `sequence`; returns the next number.
    pub fn send_fragments(&mut self, sequence: u16, timestamp: u32, nal: &[u8]) -> u16 {
        let bodies: Vec<&[u8]> = nal[1..].chunks(1400).collect();
        for (n, body) in bodies.iter().enumerate() {
            let (is_first, is_last) = (n == 0, n + 1 == bodies.len());
            let flags = u8::from(is_first) << 7 | u8::from(is_last) << 6 | nal[0] & 0x1f;
            let payload = [&[nal[0] & 0xe0 | 28, flags][..], body].concat();
            let number = sequence.wrapping_add(n as u16);
            self.send(&frame(0, &rtp(number, timestamp, is_last, &payload)));
        }
        sequence.wrapping_add(bodies.len() as u16)
    }
}

/// An RTP packet of payload type 96.
pub fn rtp(sequence: u16, timestamp: u32, has_marker: bool, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x80, u8::from(has_marker) << 7 | 96];
    packet.extend(sequence.to_be_bytes());
    packet.extend(timestamp.to_be_bytes());
    packet.extend(b"SSRC");
    packet.extend(payload);
    packet
}

/// A packet as an interleaved frame.
pub fn frame(channel: u8, packet: &[u8]) -> Vec<u8> {
    let length = (packet.len() as u16).to_be_bytes();
    [&[b'$', channel, length[0], length[1]][..], packet].concat()
}
