//! The pooled connections to the REST layer on its private Unix socket.
//!
//! In here: one exchange of request and reply, whole, within a deadline; so a slow client never holds
//! one of the REST layer's threads. Not in here: who may ask (`gate.rs`), what the reply means
//! (`respond.rs`). A connection with any trouble is dropped, and so is that of a cancelled exchange.

use std::cell::RefCell;
use std::io::{self, ErrorKind, Read};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::{Duration, Instant};

use async_io::Async;
use smol::future::yield_now;
use smol::lock::Semaphore;

use crate::api::wire::{INTERNAL, LENGTH, REQUEST_ID, SESSION};
use crate::http::chunked_core::Decoder;
use crate::http::head_core::{Body, Request};
use crate::http::quota::{Held, Quota};
use crate::http::reply_core::{self, ReplyBody, ReplyHead};
use crate::http::wire;

/// Connections, and so threads of the REST layer that are at work.
pub const UPSTREAM_MAX: usize = 4;
/// Requests that wait for one of them.
const WAITERS_MAX: usize = 64;
/// Bytes of one reply's body: a page of a list, or the largest file of the web page.
const REPLY_BYTES_MAX: usize = 1 << 20;
/// Bytes of all replies that are held for their readers, but for small ones.
const HELD_BYTES_MAX: usize = 8 << 20;
/// A body up to this is small: the kernel takes it at once, and 256 of them would be 4 MiB.
pub const SMALL_BYTES: usize = 16 << 10;
const READ_BYTES: usize = 16 << 10;

/// Why there is no reply.
#[derive(Debug)]
pub enum UpstreamError {
    /// Too many wait already.
    Full,
    /// Other replies that are under way need all the memory.
    NoMemory,
    /// It took longer than an exchange may.
    Late,
    /// The connection or the reply broke; the text is for the log.
    Failed(String),
}

impl From<io::Error> for UpstreamError {
    fn from(err: io::Error) -> Self {
        if err.kind() == ErrorKind::TimedOut { Self::Late } else { Self::Failed(err.to_string()) }
    }
}

/// A whole reply.
pub struct Reply {
    pub head: ReplyHead,
    pub body: Vec<u8>,
    /// Room for a body that is not small; to be given back when the body is.
    _held: Option<Held>,
}

/// A request as it goes to the REST layer.
pub struct WireRequest<'a> {
    pub method: &'a str,
    /// See [`encode_request`] and [`encode_next`].
    pub bytes: Vec<u8>,
    /// Closes a slow reader of a reply in memory, or says that there is none.
    pub make_room: &'a dyn Fn() -> bool,
}

/// The pool.
pub struct Upstream {
    path: PathBuf,
    exchange: Duration,
    idle: RefCell<Vec<Async<UnixStream>>>,
    permits: Semaphore,
    waiters: Rc<Quota>,
    held: Rc<Quota>,
}

impl Upstream {
    /// Connections go to the socket at `path`, and only when they are needed; `exchange` is the
    /// deadline of one exchange, waiting for a connection included.
    pub fn new(path: PathBuf, exchange: Duration) -> Self {
        Self {
            path,
            exchange,
            idle: RefCell::default(),
            permits: Semaphore::new(UPSTREAM_MAX),
            waiters: Quota::new(WAITERS_MAX + UPSTREAM_MAX),
            held: Quota::new(HELD_BYTES_MAX),
        }
    }

    /// Sends the request and reads the whole reply.
    pub async fn exchange(&self, request: &WireRequest<'_>) -> Result<Reply, UpstreamError> {
        let deadline = Instant::now() + self.exchange;
        let _waiter = self.waiters.take(1).ok_or(UpstreamError::Full)?;
        let turn = async { Ok(self.permits.acquire().await) };
        let _permit = wire::before(deadline, turn).await?;
        if let Some(pooled) = self.take_idle() {
            match self.attempt(pooled, request, deadline).await {
                Err(Broken::Untouched(_)) => {} // closed while it was idle: nothing was handled
                Err(Broken::Other(err)) => return Err(err),
                Ok(reply) => return Ok(reply),
            }
        }
        let fresh = wire::before(deadline, Async::<UnixStream>::connect(&self.path)).await?;
        self.attempt(fresh, request, deadline).await.map_err(|broken| match broken {
            Broken::Untouched(err) => err.into(),
            Broken::Other(err) => err,
        })
    }

    async fn attempt(
        &self,
        io: Async<UnixStream>,
        request: &WireRequest<'_>,
        deadline: Instant,
    ) -> Result<Reply, Broken> {
        let is_repeatable = matches!(request.method, "GET" | "HEAD");
        let left = deadline.saturating_duration_since(Instant::now());
        let written = wire::write_all(&io, &request.bytes, left, Some(deadline), || ()).await;
        written.map_err(Broken::Untouched)?;
        let mut reader = Reader { io: &io, buf: Vec::new(), deadline };
        // Not a byte of a reply, and an end: the other side closed before it read the request, or it
        // died over it. What changes nothing may be asked again.
        match reader.more().await {
            Ok(()) => {}
            Err(err) if is_repeatable && err.kind() != ErrorKind::TimedOut => {
                return Err(Broken::Untouched(err));
            }
            Err(err) => return Err(Broken::Other(err.into())),
        }
        let head = reader.head().await.map_err(Broken::Other)?;
        let read = self.body(&mut reader, &head, request).await;
        let (body, held) = read.map_err(Broken::Other)?;
        let is_clean = reader.buf.is_empty();
        if is_clean && !head.closes {
            self.idle.borrow_mut().push(io);
        }
        Ok(Reply { head, body, _held: held })
    }

    async fn body(
        &self,
        reader: &mut Reader<'_>,
        head: &ReplyHead,
        request: &WireRequest<'_>,
    ) -> Result<(Vec<u8>, Option<Held>), UpstreamError> {
        if request.method == "HEAD" || reply_core::is_bodiless(head.status) {
            return Ok((Vec::new(), None));
        }
        match head.body {
            ReplyBody::Length(length) if length <= REPLY_BYTES_MAX => {
                let held = self.hold(length, request).await?;
                Ok((reader.exactly(length).await?, held))
            }
            ReplyBody::Length(length) => Err(UpstreamError::Failed(format!(
                "body of {length} bytes, at most {REPLY_BYTES_MAX}"
            ))),
            ReplyBody::Chunked => {
                let held = self.hold(REPLY_BYTES_MAX, request).await?;
                Ok((reader.chunks().await?, held))
            }
            ReplyBody::Unsaid => Err(UpstreamError::Failed("a body without a length".into())),
        }
    }

    /// Room for a body of `bytes`. Readers that take their time never keep others from theirs: the
    /// slowest are closed until there is room.
    async fn hold(
        &self,
        bytes: usize,
        request: &WireRequest<'_>,
    ) -> Result<Option<Held>, UpstreamError> {
        if bytes <= SMALL_BYTES {
            return Ok(None);
        }
        loop {
            if let Some(held) = self.held.take(bytes) {
                return Ok(Some(held));
            }
            if !(request.make_room)() {
                return Err(UpstreamError::NoMemory);
            }
            yield_now().await; // the closed one's task gives back what it holds in its turn
        }
    }

    /// A pooled connection that was not closed meanwhile; those that were are dropped.
    fn take_idle(&self) -> Option<Async<UnixStream>> {
        loop {
            let io = self.idle.borrow_mut().pop()?;
            let mut stream = io.get_ref();
            // Open and silent is the only state in which it can be used again.
            if matches!(stream.read(&mut [0]), Err(err) if err.kind() == ErrorKind::WouldBlock) {
                return Some(io);
            }
        }
    }
}

/// How an attempt on one connection went wrong.
enum Broken {
    /// The request can't have been handled, or may be repeated.
    Untouched(io::Error),
    Other(UpstreamError),
}

struct Reader<'a> {
    io: &'a Async<UnixStream>,
    buf: Vec<u8>,
    deadline: Instant,
}

impl Reader<'_> {
    /// Appends at least one byte to `buf`.
    async fn more(&mut self) -> io::Result<()> {
        let len = self.buf.len();
        self.buf.resize(len + READ_BYTES, 0);
        let outcome = wire::read_some(self.io, &mut self.buf[len..], self.deadline).await;
        self.buf.truncate(len + *outcome.as_ref().unwrap_or(&0));
        if outcome? == 0 { Err(ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    async fn head(&mut self) -> Result<ReplyHead, UpstreamError> {
        loop {
            let parsed = reply_core::parse_reply(&self.buf);
            if let Some((head, len)) = parsed.map_err(|what| UpstreamError::Failed(what.into()))? {
                self.buf.drain(..len);
                return Ok(head);
            }
            self.more().await?;
        }
    }

    async fn exactly(&mut self, length: usize) -> Result<Vec<u8>, UpstreamError> {
        let rest = self.buf.split_off(self.buf.len().min(length));
        let mut body = std::mem::replace(&mut self.buf, rest);
        body.reserve_exact(length - body.len());
        while body.len() < length {
            let at = body.len();
            body.resize(length.min(at + READ_BYTES), 0);
            let n = wire::read_some(self.io, &mut body[at..], self.deadline).await?;
            if n == 0 {
                return Err(io::Error::from(ErrorKind::UnexpectedEof).into());
            }
            body.truncate(at + n);
        }
        Ok(body)
    }

    async fn chunks(&mut self) -> Result<Vec<u8>, UpstreamError> {
        let (mut decoder, mut body) = (Decoder::new(REPLY_BYTES_MAX), Vec::new());
        loop {
            let fed = decoder.feed(&self.buf, |data| body.extend_from_slice(data));
            let used = fed.map_err(|err| UpstreamError::Failed(format!("chunks: {err:?}")))?;
            self.buf.drain(..used);
            if decoder.is_done() {
                return Ok(body);
            }
            self.more().await?;
        }
    }
}

/// The request as the REST layer gets it: method, target, the fields it may know, and the body.
pub fn encode_request(
    request: &Request,
    body: &[u8],
    request_id: &str,
    session: Option<u64>,
) -> Vec<u8> {
    let mut out = encode_start(&request.method, &request.target, request_id);
    if let Some(session) = session {
        out.push_str(&format!("{SESSION}: {session}\r\n"));
    }
    if let (true, Body::Length(length)) = (request.is_upload(), request.body) {
        out.push_str(&format!("{LENGTH}: {length}\r\n"));
    }
    let fields = &request.fields;
    for (name, value) in [
        ("Content-Type", &fields.content_type),
        ("Accept", &fields.accept),
        ("Accept-Encoding", &fields.accept_encoding),
        ("Range", &fields.range),
        ("If-Range", &fields.if_range),
        ("If-None-Match", &fields.if_none_match),
        ("If-Modified-Since", &fields.if_modified_since),
    ] {
        if let Some(value) = value {
            out.push_str(&format!("{name}: {value}\r\n"));
        }
    }
    if !body.is_empty() {
        out.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    out.push_str("\r\n");
    let mut out = out.into_bytes();
    out.extend_from_slice(body);
    out
}

/// The request for the page at `target`, which a `lightnvr-next` named.
pub fn encode_next(target: &str, request_id: &str) -> Vec<u8> {
    let mut out = encode_start("GET", target, request_id);
    out.push_str(&format!("{INTERNAL}: 1\r\n\r\n"));
    out.into_bytes()
}

fn encode_start(method: &str, target: &str, request_id: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: gate\r\n{REQUEST_ID}: {request_id}\r\n")
}
