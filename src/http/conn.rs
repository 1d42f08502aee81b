//! One connection: requests read one after another, each under its deadlines.
//!
//! In here: the reading side, with never more buffered than one head; while a reply is pending
//! nothing is read, so a client that floods fills its own socket. Not in here: what a head or a
//! chunk means (`head_core.rs`, `chunked_core.rs`), and replies (`respond.rs`).

use std::cell::Cell;
use std::io::{self, ErrorKind, IoSlice};
use std::net::{IpAddr, Shutdown, TcpStream};
use std::rc::Rc;
use std::time::{Duration, Instant};

use async_io::Async;
use rustix::net::sockopt;
use smol::future::{or, yield_now};

use crate::http::access_core;
use crate::http::chunked_core::{ChunkError, Decoder};
use crate::http::gate::{Admitted, Gate, LOGIN_BYTES_MAX, Refusal, Slot};
use crate::http::head_core::{self, BODY_BYTES_MAX, Body, HEAD_BYTES_MAX, Reject, Request};
use crate::http::quota::Held;
use crate::http::reply_core::{Frame, Persist};
use crate::http::wire;

/// What a read asks for; a head of a browser fits.
const READ_BYTES: usize = 2 << 10;
/// Bytes thrown away after a reply that ends the connection.
const LINGER_BYTES_MAX: usize = 256 << 10;
const LOGIN_TOO_LARGE: Reject = Reject { status: 413, what: "the body of a login is over 4 KiB" };
pub(super) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// Why a connection ends.
pub enum Stop {
    /// Nothing more to say.
    Gone,
    /// A reply was sent that is the last one: let the client read it.
    Replied,
}

/// The client went away, or stood still.
impl From<io::Error> for Stop {
    fn from(_: io::Error) -> Self {
        Self::Gone
    }
}

/// A body for the REST layer, with the room that it takes; to be dropped when it was handled.
pub(super) struct KeptBody {
    pub bytes: Vec<u8>,
    _held: Option<Held>,
}

/// Which listener a connection came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Door {
    Page,
    /// Port 80 of a device: all that it says is where the page is.
    Redirect,
}

/// A connection with a client.
pub(super) struct Conn {
    pub gate: Rc<Gate>,
    pub(super) io: Async<TcpStream>,
    pub(super) peer: IpAddr,
    pub slot: Slot,
    door: Door,
    /// Read and not used yet: at most one head, and what came with it.
    pub(super) buf: Vec<u8>,
    is_fresh: bool,
    /// A write has begun and not ended well.
    is_writing: Cell<bool>,
}

/// Without this the kernel keeps what a reader that stands still was to get (up to 256 KiB for 30 s)
/// after we have closed: a connection that ends in mid-write is reset.
impl Drop for Conn {
    fn drop(&mut self) {
        if self.is_writing.get() {
            let reset = sockopt::set_socket_linger(&self.io, Some(Duration::ZERO));
            reset.unwrap_or_default(); // at worst it is as without
        }
    }
}

/// Serves a connection to its end.
pub(super) async fn run(
    gate: Rc<Gate>,
    slot: Slot,
    io: Async<TcpStream>,
    peer: IpAddr,
    door: Door,
) {
    let mut conn = Conn {
        gate,
        io,
        peer,
        slot,
        door,
        buf: Vec::new(),
        is_fresh: true,
        is_writing: Cell::new(false),
    };
    loop {
        match conn.serve_one().await {
            Ok(()) => {}
            Err(Stop::Gone) => return,
            Err(Stop::Replied) => return conn.linger().await,
        }
        conn.slot.mark_waiting();
        conn.is_fresh = false;
        if conn.buf.is_empty() {
            conn.buf = Vec::new(); // a connection that waits holds no buffer
        }
        yield_now().await;
    }
}

impl Conn {
    async fn serve_one(&mut self) -> Result<(), Stop> {
        let head_len = match self.read_head().await? {
            Ok(len) => len,
            Err(reject) => return self.reject(reject).await,
        };
        self.slot.mark_busy();
        let parsed = head_core::parse(&self.buf[..head_len]);
        self.buf.drain(..head_len);
        let request = match parsed {
            Ok(request) => request,
            Err(reject) => return self.reject(reject).await,
        };
        self.gate.count().requests.add();
        let admitted = match self.door {
            Door::Page => self.gate.admit(&request, self.peer).await,
            Door::Redirect => Err(self.gate.elsewhere(&request, self.peer)),
        };
        if request.is_upload() {
            return self.serve_upload(&request, admitted).await;
        }
        let admitted = admitted.and_then(|who| Ok((who, self.room_for_body(&request)?)));
        // Who is refused is not asked for the body; else it is read to its end, to find the next
        // request and because framing is judged first, but it is not kept.
        let waits = request.expects_continue && self.buf.is_empty();
        let room = admitted.as_ref().ok().and_then(|(_, held)| held.as_ref().map(Held::units));
        let bytes = match (&admitted, waits) {
            (Err(_), true) => Vec::new(),
            (Ok(_), true) => {
                self.write(CONTINUE).await?;
                self.read_body(&request, room).await?
            }
            (_, false) => self.read_body(&request, room).await?,
        };
        let mut frame = self.frame(Some(&request));
        match admitted {
            Ok((who, held)) => {
                self.respond_within(&request, KeptBody { bytes, _held: held }, who, frame).await
            }
            Err(refusal) => {
                if waits {
                    frame.persist = Persist::Close; // whether the body comes is anyone's guess
                }
                self.refuse(&request, &frame, &refusal).await
            }
        }
    }

    /// Has the REST layer say who reads the body. What is left of it when the answer is out is not read, so the
    /// connection ends.
    async fn serve_upload(
        &mut self,
        request: &Request,
        admitted: Result<Admitted, Refusal>,
    ) -> Result<(), Stop> {
        let mut frame = self.frame(Some(request));
        frame.persist = Persist::Close;
        let no_body = KeptBody { bytes: Vec::new(), _held: None };
        match admitted {
            Ok(who) => self.respond(request, no_body, who, frame).await,
            Err(refusal) => self.refuse(request, &frame, &refusal).await,
        }
    }

    /// Answers; where that takes long, no longer than the session lives that may ask for it.
    async fn respond_within(
        &mut self,
        request: &Request,
        body: KeptBody,
        who: Admitted,
        frame: Frame,
    ) -> Result<(), Stop> {
        let Some(session) = who.session.filter(|_| access_core::is_media(request.path())) else {
            return self.respond(request, body, who, frame).await;
        };
        let auth = Rc::clone(&self.gate.config.auth);
        let ended = async {
            auth.session_ended(session).await;
            Err(Stop::Gone)
        };
        or(self.respond(request, body, who, frame), ended).await
    }

    /// Length of the head that `buf` begins with, or why there is none.
    async fn read_head(&mut self) -> Result<Result<usize, Reject>, Stop> {
        let deadlines = *self.gate.deadlines();
        let started = Instant::now();
        let mut deadline = started + if self.is_fresh { deadlines.head } else { deadlines.idle };
        let (mut seen, mut has_begun, mut may_skip) = (0, false, true);
        loop {
            if may_skip && self.buf.len() >= 4 {
                self.buf.drain(..head_core::leading_empty_lines(&self.buf));
                (may_skip, seen) = (false, 0);
            }
            match head_core::find_end(&self.buf, seen) {
                Ok(None) => seen = self.buf.len(),
                Ok(Some(len)) => return Ok(Ok(len)),
                Err(reject) => return Ok(Err(reject)),
            }
            if !has_begun && !self.buf.is_empty() {
                has_begun = true;
                deadline = deadline.min(Instant::now() + deadlines.head);
            }
            match self.read_more(HEAD_BYTES_MAX, deadline).await {
                Ok(()) => {}
                Err(err) if err.kind() == ErrorKind::TimedOut => {
                    self.gate.count().closed_idle.add();
                    if self.buf.is_empty() {
                        return Err(Stop::Gone);
                    }
                    let what = "the request's head took too long";
                    return Ok(Err(Reject { status: 408, what }));
                }
                Err(_) => return Err(Stop::Gone),
            }
        }
    }

    /// Room for a body that a handler will look at; `None` for one that is not to be kept, for nobody
    /// without a password may fill memory, and only resources of the API take a body.
    fn room_for_body(&self, request: &Request) -> Result<Option<Held>, Refusal> {
        let is_login = access_core::is_login(&request.method, request.path());
        let bytes_max = if is_login { LOGIN_BYTES_MAX } else { BODY_BYTES_MAX };
        let bytes = match request.body {
            Body::None => return Ok(None),
            Body::Length(length) if length > bytes_max => {
                return Err(Refusal::new(LOGIN_TOO_LARGE.status, LOGIN_TOO_LARGE.what));
            }
            Body::Length(length) => length,
            Body::Chunked => bytes_max,
        };
        let is_read = matches!(request.method.as_str(), "POST" | "PUT");
        if !is_read || !request.path().starts_with("/api/") {
            return Ok(None);
        }
        let bodies = if is_login { &self.gate.logins } else { &self.gate.bodies };
        let held = bodies.take(bytes).ok_or_else(|| {
            self.gate.count().bodies_full.add();
            Refusal::retry_after(503, "too many requests with a body at once", 1)
        })?;
        Ok(Some(held))
    }

    /// The whole body, for which there is `room` in bytes; an empty one if it is not to be kept.
    async fn read_body(&mut self, request: &Request, room: Option<usize>) -> Result<Vec<u8>, Stop> {
        if request.body == Body::None {
            return Ok(Vec::new());
        }
        self.slot.mark_waiting();
        let mut body = Vec::new();
        let mut sink = |data: &[u8]| {
            if room.is_some() {
                body.extend_from_slice(data);
            }
        };
        let read = match request.body {
            Body::None => Ok(()),
            Body::Length(length) => self.read_length(length, &mut sink).await,
            Body::Chunked => self.read_chunks(room.unwrap_or(BODY_BYTES_MAX), &mut sink).await,
        };
        self.slot.mark_busy();
        match read {
            Ok(()) => Ok(body),
            Err(BodyError::Gone) => Err(Stop::Gone),
            Err(BodyError::Rejected(reject)) => {
                Err(self.reject(reject).await.err().unwrap_or(Stop::Gone))
            }
        }
    }

    async fn read_length(
        &mut self,
        mut left: usize,
        sink: &mut impl FnMut(&[u8]),
    ) -> Result<(), BodyError> {
        let deadline = Instant::now() + self.gate.deadlines().body;
        loop {
            let n = left.min(self.buf.len());
            sink(&self.buf[..n]);
            self.buf.drain(..n);
            left -= n;
            if left == 0 {
                return Ok(());
            }
            self.read_more(READ_BYTES, deadline).await?;
        }
    }

    async fn read_chunks(
        &mut self,
        bytes_max: usize,
        sink: &mut impl FnMut(&[u8]),
    ) -> Result<(), BodyError> {
        let deadline = Instant::now() + self.gate.deadlines().body;
        let mut decoder = Decoder::new(bytes_max);
        loop {
            let used = decoder.feed(&self.buf, &mut *sink).map_err(|err| match err {
                ChunkError::TooLarge if bytes_max < BODY_BYTES_MAX => LOGIN_TOO_LARGE,
                ChunkError::TooLarge => head_core::BODY_TOO_LARGE,
                ChunkError::Malformed => {
                    Reject { status: 400, what: "the body's chunks are malformed" }
                }
            })?;
            self.buf.drain(..used);
            if decoder.is_done() {
                return Ok(());
            }
            self.read_more(READ_BYTES, deadline).await?;
        }
    }

    /// Appends at least one byte to `buf`, which stays within `len_max`.
    async fn read_more(&mut self, len_max: usize, deadline: Instant) -> io::Result<()> {
        let len = self.buf.len();
        self.buf.resize((len + READ_BYTES).min(len_max), 0);
        let outcome = wire::read_some(&self.io, &mut self.buf[len..], deadline).await;
        self.buf.truncate(len + *outcome.as_ref().unwrap_or(&0));
        if outcome? == 0 { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    /// Writes all of `bytes`, to a reader that moves.
    pub async fn write(&self, bytes: &[u8]) -> io::Result<()> {
        let stall = self.gate.deadlines().stall;
        let on_wait = || self.slot.mark_stalled();
        self.watch_write(wire::write_all(&self.io, bytes, stall, None, on_wait)).await
    }

    /// The same for several pieces.
    pub async fn write_vectored(&self, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        let stall = self.gate.deadlines().stall;
        let on_wait = || self.slot.mark_stalled();
        self.watch_write(wire::write_all_vectored(&self.io, parts, stall, on_wait)).await
    }

    async fn watch_write(&self, write: impl Future<Output = io::Result<()>>) -> io::Result<()> {
        self.is_writing.set(true);
        let written = write.await;
        self.slot.mark_moving();
        if written.as_ref().is_err_and(|err| err.kind() == ErrorKind::TimedOut) {
            self.gate.count().closed_stalled.add();
        }
        self.is_writing.set(written.is_err());
        written
    }

    /// Answers what broke the rules of framing. Where the next request begins is not known then.
    async fn reject(&mut self, reject: Reject) -> Result<(), Stop> {
        self.gate.count().bad_framing.add();
        let frame = self.frame(None);
        self.send_error(&frame, &Refusal::new(reject.status, reject.what), false).await?;
        Err(Stop::Replied)
    }

    /// What replies to `request` have in common; of a broken one nothing is known.
    fn frame(&self, request: Option<&Request>) -> Frame {
        let persist = match request {
            Some(request) if request.keep_alive && request.is_http10 => Persist::StaySaid,
            Some(request) if request.keep_alive => Persist::Stay,
            _ => Persist::Close,
        };
        Frame {
            persist,
            is_api: request.is_none_or(|request| access_core::needs_password(request.path())),
            request_id: None,
            now_unix_s: jiff::Timestamp::now().as_second(),
        }
    }

    /// Lets the client read the last reply: closing with unread input would reset the connection and
    /// may take the reply with it.
    async fn linger(mut self) {
        self.slot.mark_waiting();
        let deadline = Instant::now() + self.gate.deadlines().linger;
        if self.io.get_ref().shutdown(Shutdown::Write).is_err() {
            return;
        }
        let mut left = LINGER_BYTES_MAX;
        self.buf = vec![0; READ_BYTES];
        while left > 0 {
            match wire::read_some(&self.io, &mut self.buf, deadline).await {
                Ok(0) | Err(_) => return,
                Ok(n) => left = left.saturating_sub(n),
            }
        }
    }
}

/// Why there is no body.
enum BodyError {
    Gone,
    Rejected(Reject),
}

impl From<io::Error> for BodyError {
    fn from(err: io::Error) -> Self {
        if err.kind() == ErrorKind::TimedOut {
            return Self::Rejected(Reject {
                status: 408,
                what: "the request's body took too long",
            });
        }
        Self::Gone
    }
}

impl From<Reject> for BodyError {
    fn from(reject: Reject) -> Self {
        Self::Rejected(reject)
    }
}
