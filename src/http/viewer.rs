//! A connection in the hands of the live service.
//!
//! In here: what the service may do with a connection once the REST layer has authorised the request:
//! answer it at once, stream to it, or take it over as a WebSocket. Not in here: what is sent
//! (`live/`). Every write is under the gate's stall deadline; what waits for media should also wait for
//! `Viewer::closed`, so that a client that left costs nothing.

use std::future::{Future, pending};
use std::io::{self, IoSlice};
use std::pin::Pin;
use std::time::{Duration, Instant};

use crate::api::wire::{LiveOrder, Order};
use crate::http::access_core;
use crate::http::chunked_core::{self, CHUNK_END, LAST_CHUNK};
pub use crate::http::conn::Stop;
use crate::http::conn::{CONTINUE, Conn};
pub use crate::http::file::in_blocking_pool as blocking;
use crate::http::gate::Refusal;
use crate::http::head_core::Request;
use crate::http::rate_core::PeerKey;
use crate::http::reply_core::{self, Frame, Framing, Persist};
use crate::http::respond::ended;
use crate::http::wire;

/// A future on the executor that borrows.
pub type Serving<'a> = Pin<Box<dyn Future<Output = Result<(), Stop>> + 'a>>;

/// Whoever serves what a `lightnvr-live` orders.
pub trait LiveService {
    /// Serves one request to its end, on the connection's own task; dropped when that is closed.
    fn serve<'a>(&'a self, order: &'a LiveOrder, viewer: Viewer<'a>) -> Serving<'a>;
}

/// Whoever does what a `lightnvr-order` asks for.
pub trait OrderService {
    /// Serves one request to its end, on the connection's own task; dropped when that is closed.
    fn serve<'a>(&'a self, order: Order, viewer: Viewer<'a>) -> Serving<'a>;
}

/// One request of a client, to be answered.
pub struct Viewer<'a> {
    conn: &'a mut Conn,
    request: &'a Request,
    frame: Frame,
}

impl<'a> Viewer<'a> {
    pub(super) fn new(conn: &'a mut Conn, request: &'a Request, frame: Frame) -> Self {
        Self { conn, request, frame }
    }

    /// The client's address, as limits count it.
    pub fn peer(&self) -> PeerKey {
        PeerKey::new(self.conn.peer)
    }

    /// The reply has no body.
    pub fn is_head(&self) -> bool {
        self.request.is_head()
    }

    /// The key of a request to become a WebSocket.
    pub fn websocket_key(&self) -> Option<&str> {
        self.request.websocket_key.as_deref()
    }

    /// A page of another origin asks.
    pub fn has_foreign_origin(&self) -> bool {
        let host = self.request.host.as_deref();
        let origin = self.request.origin.as_ref();
        origin.is_some_and(|origin| !access_core::origin_is_host(origin, host))
    }

    /// Answers with an error; `fields` such as `Retry-After`.
    pub async fn refuse(
        self,
        status: u16,
        what: &'static str,
        fields: &[(&str, &str)],
    ) -> Result<(), Stop> {
        let refusal = Refusal { status, what, fields: owned(fields) };
        self.conn.refuse(self.request, &self.frame, &refusal).await
    }

    /// Answers 503 with `Retry-After`.
    pub async fn refuse_for(self, what: &'static str, seconds: u32) -> Result<(), Stop> {
        self.refuse(503, what, &[("Retry-After", &seconds.to_string())]).await
    }

    /// Answers 200 with a whole body in memory.
    pub async fn reply(self, fields: &[(&str, &str)], body: &[u8]) -> Result<(), Stop> {
        let head = self.head(200, fields, Framing::Length(body.len() as u64));
        let body = if self.is_head() { &[] } else { body };
        self.conn.write_vectored(&mut [IoSlice::new(&head), IoSlice::new(body)]).await?;
        self.finish()
    }

    /// Starts an answer of `status` whose `length` bytes are written next; then comes `finish`.
    pub async fn begin(
        &self,
        status: u16,
        fields: &[(&str, &str)],
        length: u64,
    ) -> Result<(), Stop> {
        Ok(self.conn.write(&self.head(status, fields, Framing::Length(length))).await?)
    }

    /// Answers with an error whose text was made for it.
    pub async fn refuse_saying(self, status: u16, what: &str) -> Result<(), Stop> {
        let head = self.is_head();
        let reply = reply_core::encode_error(&self.frame, status, what, &[], head);
        self.conn.write(&reply).await?;
        self.finish()
    }

    /// Starts an answer of unknown length: then come `write_chunk` and `finish_chunks`. HTTP/1.0 has no chunks:
    /// there the answer ends with the connection.
    pub async fn begin_chunks(&mut self, fields: &[(&str, &str)]) -> Result<(), Stop> {
        let framing = if self.request.is_http10 { Framing::Close } else { Framing::Chunked };
        if framing == Framing::Close {
            self.frame.persist = Persist::Close;
        }
        Ok(self.conn.write(&self.head(200, fields, framing)).await?)
    }

    /// Writes a piece of such an answer.
    pub async fn write_chunk(&self, piece: &[u8]) -> Result<(), Stop> {
        if self.request.is_http10 {
            return Ok(self.conn.write(piece).await?);
        }
        let start = chunked_core::encode_chunk_start(piece.len());
        let mut parts = [start.as_bytes(), piece, CHUNK_END].map(IoSlice::new);
        Ok(self.conn.write_vectored(&mut parts).await?)
    }

    /// Ends such an answer.
    pub async fn finish_chunks(self) -> Result<(), Stop> {
        if !self.request.is_http10 && !self.is_head() {
            self.conn.write(LAST_CHUNK).await?;
        }
        self.finish()
    }

    /// Starts an answer that goes on until the connection is closed.
    pub async fn begin_endless(&mut self, fields: &[(&str, &str)]) -> Result<(), Stop> {
        self.frame.persist = Persist::Close;
        Ok(self.conn.write(&self.head(200, fields, Framing::Close)).await?)
    }

    /// Answers 101: from now on the connection is a WebSocket's.
    pub async fn switch(&mut self, fields: &[(&str, &str)]) -> Result<(), Stop> {
        self.frame.persist = Persist::Stay;
        let head = self.head(101, fields, Framing::Absent);
        self.frame.persist = Persist::Close;
        Ok(self.conn.write(&head).await?)
    }

    /// What the client sent behind its request.
    pub fn take_buffered(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.conn.buf)
    }

    /// Reads what there is; 0 is the end.
    pub async fn read(&self, buf: &mut [u8], deadline: Instant) -> io::Result<usize> {
        wire::read_some(&self.conn.io, buf, deadline).await
    }

    /// Tells a client that waits for it to send its body.
    pub async fn ask_for_body(&self) -> Result<(), Stop> {
        let waits = self.request.expects_continue && self.conn.buf.is_empty();
        if waits { Ok(self.conn.write(CONTINUE).await?) } else { Ok(()) }
    }

    /// Reads what there is of the body: at most `buf.len()` bytes; 0 is the end of the connection.
    pub async fn read_body(&mut self, buf: &mut [u8], stall: Duration) -> Result<usize, Stop> {
        let kept = self.conn.buf.len().min(buf.len());
        if kept > 0 {
            buf[..kept].copy_from_slice(&self.conn.buf[..kept]);
            self.conn.buf.drain(..kept);
            return Ok(kept);
        }
        Ok(wire::read_some(&self.conn.io, buf, Instant::now() + stall).await?)
    }

    /// Writes all of `bytes`.
    pub async fn write(&self, bytes: &[u8]) -> io::Result<()> {
        self.conn.write(bytes).await
    }

    /// Writes all of `parts`, without copying them together.
    pub async fn write_vectored(&self, parts: &mut [IoSlice<'_>]) -> io::Result<()> {
        self.conn.write_vectored(parts).await
    }

    /// Resolves when the client has closed. Never, when it has sent a further request.
    pub async fn closed(&self) {
        if self.conn.buf.is_empty() && self.conn.io.readable().await.is_ok() {
            match self.conn.io.get_ref().peek(&mut [0]) {
                Ok(0) => return,
                Err(err) if err.kind() != io::ErrorKind::WouldBlock => return,
                _ => {}
            }
        }
        pending().await
    }

    /// The answer is out: the connection goes on, or ends.
    pub fn finish(self) -> Result<(), Stop> {
        ended(self.frame.persist)
    }

    fn head(&self, status: u16, fields: &[(&str, &str)], framing: Framing) -> Vec<u8> {
        reply_core::encode_head(&self.frame, status, &owned(fields), framing)
    }
}

fn owned(fields: &[(&str, &str)]) -> Vec<(String, String)> {
    fields.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())).collect()
}
