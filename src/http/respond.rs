//! Replies to a request that may pass: what the REST layer says, turned into what the client gets.
//!
//! In here: whole replies, lists that come in pages, files. Not in here: the text of heads
//! (`reply_core.rs`), reading a file (`file.rs`). A page is in memory only until it is written, and no
//! thread of the REST layer waits for a slow client.

use std::rc::Rc;

use crate::api::wire::Order;
use crate::http::chunked_core::{self, CHUNK_END, LAST_CHUNK};
use crate::http::conn::{Conn, KeptBody, Stop};
use crate::http::file::Transfer;
use crate::http::gate::{Admitted, Refusal};
use crate::http::head_core::Request;
use crate::http::range_core::{self, Plan};
use crate::http::rate_core::PeerKey;
use crate::http::reply_core::{self, FileOrder, Frame, Framing, Persist, ReplyBody};
use crate::http::upstream::{self, Reply, SMALL_BYTES, UpstreamError, WireRequest};
use crate::http::viewer::Viewer;

/// Pages of one reply: an end for a handler that goes round in circles.
const PAGES_MAX: usize = 100_000;
/// The one resource whose body holds a password to be checked.
const PASSWORD_PATH: &str = "/api/v1/password";

impl Conn {
    /// Asks the REST layer and answers the client.
    pub(super) async fn respond(
        &mut self,
        request: &Request,
        body: KeptBody,
        who: Admitted,
        mut frame: Frame,
    ) -> Result<(), Stop> {
        let id = self.gate.next_request_id();
        frame.request_id = Some(id.clone());
        let bytes = upstream::encode_request(request, &body.bytes, &id, who.session);
        let auth = Rc::clone(&self.gate.config.auth);
        // The password in the body is a guess like one in a header, and is limited before it is tried.
        let is_guess = request.method == "PUT" && request.path() == PASSWORD_PATH;
        if is_guess && let Err(retry_after_s) = auth.take_guess(self.peer) {
            self.gate.count().auth_limited.add();
            let refusal = Refusal::too_many_wrong(retry_after_s);
            return self.refuse(request, &frame, &refusal).await;
        }
        let outcome = self.exchange(&request.method, bytes).await;
        drop(body);
        let is_wrong = |reply: &Reply| reply.head.is_wrong_password;
        if is_guess
            && !matches!(outcome, Err(UpstreamError::Late))
            && !outcome.as_ref().is_ok_and(is_wrong)
        {
            auth.give_back_guess(self.peer);
        }
        let mut reply = match outcome {
            Ok(reply) => reply,
            Err(err) => {
                let refusal = self.explain(&id, &request.method, request.path(), err);
                return self.refuse(request, &frame, &refusal).await;
            }
        };
        if let Some(order) = reply.head.file.take_if(|_| reply.head.status == 200) {
            return self.send_file(request, &frame, reply.head.fields, &order).await;
        }
        if let Some(credentials) = reply.head.login.take() {
            return self.log_in(request, &frame, reply, credentials, who.session).await;
        }
        if reply.head.is_logout {
            return self.log_out(request, &frame, reply, who.session).await;
        }
        if let (Some(order), Some(orders)) = (reply.head.order.take(), self.gate.orders()) {
            let order = std::str::from_utf8(&order.0).ok().and_then(Order::parse);
            let Some(order) = order else {
                log::error!("request {id}: an order that is none");
                let refusal = Refusal::new(500, "internal error");
                return self.refuse(request, &frame, &refusal).await;
            };
            return orders.serve(order, Viewer::new(self, request, frame)).await;
        }
        if let (Some(order), Some(live)) = (&reply.head.live, self.gate.live()) {
            return live.serve(order, Viewer::new(self, request, frame)).await;
        }
        if reply.head.status >= 400 && reply.body.is_empty() && !request.is_head() {
            // Not one of our handlers, whose errors say what was wrong, but its server: one panicked.
            log::error!("request {id}: status {} without a text", reply.head.status);
            let refusal = Refusal::new(reply.head.status, "internal error");
            return self.refuse(request, &frame, &refusal).await;
        }
        if reply.head.next.is_some() {
            return self.send_pages(request, frame, reply, &id).await;
        }
        self.send_whole(request, &frame, reply).await
    }

    async fn exchange(&self, method: &str, bytes: Vec<u8>) -> Result<Reply, UpstreamError> {
        let make_room = || self.gate.close_slowest_reader();
        self.gate.upstream.exchange(&WireRequest { method, bytes, make_room: &make_room }).await
    }

    /// Says why a request was not handled.
    pub(super) async fn refuse(
        &mut self,
        request: &Request,
        frame: &Frame,
        refusal: &Refusal,
    ) -> Result<(), Stop> {
        self.send_error(frame, refusal, request.is_head()).await?;
        ended(frame.persist)
    }

    pub(super) async fn send_error(
        &self,
        frame: &Frame,
        refusal: &Refusal,
        is_head: bool,
    ) -> Result<(), Stop> {
        let Refusal { status, what, fields } = refusal;
        let reply = reply_core::encode_error(frame, *status, what, fields, is_head);
        Ok(self.write(&reply).await?)
    }

    pub(super) async fn send_whole(
        &mut self,
        request: &Request,
        frame: &Frame,
        reply: Reply,
    ) -> Result<(), Stop> {
        let head = &reply.head;
        let framing = match head.body {
            _ if reply_core::is_bodiless(head.status) => Framing::Absent,
            ReplyBody::Length(length) if request.is_head() => Framing::Length(length as u64),
            _ if request.is_head() => Framing::Absent,
            _ => Framing::Length(reply.body.len() as u64),
        };
        let out = reply_core::encode_head(frame, head.status, &head.fields, framing);
        self.write_body(out, reply).await?;
        ended(frame.persist)
    }

    /// Writes `out` and the body of `reply`, which is in memory no longer than that.
    async fn write_body(&self, mut out: Vec<u8>, reply: Reply) -> Result<(), Stop> {
        if reply.body.len() <= SMALL_BYTES {
            out.extend_from_slice(&reply.body); // one packet in place of two
            return Ok(self.write(&out).await?);
        }
        self.slot.mark_reading();
        self.write(&out).await?;
        self.write(&reply.body).await?;
        self.slot.mark_busy();
        Ok(())
    }

    /// A reply whose length nobody knows: page after page, each fetched when the one before is out.
    async fn send_pages(
        &mut self,
        request: &Request,
        mut frame: Frame,
        mut page: Reply,
        id: &str,
    ) -> Result<(), Stop> {
        let framing = if request.is_http10 { Framing::Close } else { Framing::Chunked };
        if framing == Framing::Close {
            frame.persist = Persist::Close;
        }
        let fields = &page.head.fields;
        let mut out = reply_core::encode_head(&frame, page.head.status, fields, framing);
        if request.is_head() {
            self.write(&out).await?;
            return ended(frame.persist);
        }
        let is_chunked = framing == Framing::Chunked;
        for _ in 0..PAGES_MAX {
            let is_chunk = is_chunked && !page.body.is_empty();
            let next = page.head.next.take();
            if is_chunk {
                out.extend_from_slice(chunked_core::encode_chunk_start(page.body.len()).as_bytes());
            }
            self.write_body(std::mem::take(&mut out), page).await?;
            if is_chunk {
                out.extend_from_slice(CHUNK_END);
            }
            let Some(next) = next else {
                if is_chunked {
                    out.extend_from_slice(LAST_CHUNK);
                }
                self.write(&out).await?;
                return ended(frame.persist);
            };
            page = self.next_page(&next, id).await?;
        }
        log::error!("request {id}: {}: over {PAGES_MAX} pages", request.path());
        Err(Stop::Gone)
    }

    /// The page at `target`. The head is out: all that can be said about trouble now is to close,
    /// which the client sees as a body without its end.
    async fn next_page(&self, target: &str, id: &str) -> Result<Reply, Stop> {
        if !target.starts_with('/') || !target.bytes().all(|b| b.is_ascii_graphic()) {
            log::error!("request {id}: the next page's path is malformed");
            return Err(Stop::Gone);
        }
        let path = target.split('?').next().unwrap_or_default();
        match self.exchange("GET", upstream::encode_next(target, id)).await {
            Ok(page) if page.head.status == 200 => Ok(page),
            Ok(page) => {
                log::error!("request {id}: {path}: next page has status {}", page.head.status);
                Err(Stop::Gone)
            }
            Err(err) => {
                self.explain(id, "GET", path, err);
                Err(Stop::Gone)
            }
        }
    }

    /// Counts and logs why the REST layer gave no reply, and what the client is told.
    fn explain(&self, id: &str, method: &str, path: &str, err: UpstreamError) -> Refusal {
        let count = self.gate.count();
        match err {
            UpstreamError::Full => {
                count.upstream_full.add();
                Refusal::retry_after(503, "too many requests are waiting", 1)
            }
            UpstreamError::NoMemory => {
                count.replies_full.add();
                Refusal::retry_after(503, "too many replies are waiting to be read", 1)
            }
            UpstreamError::Late => {
                count.upstream_failed.add();
                log::error!("request {id}: {method} {path}: no answer in time");
                Refusal::retry_after(503, "the recorder did not answer in time", 5)
            }
            UpstreamError::Failed(text) => {
                count.upstream_failed.add();
                log::error!("request {id}: {method} {path}: {text}");
                Refusal::new(500, "internal error")
            }
        }
    }

    async fn send_file(
        &mut self,
        request: &Request,
        frame: &Frame,
        mut fields: Vec<(String, String)>,
        order: &FileOrder,
    ) -> Result<(), Stop> {
        let size = order.meta.size;
        let validators = [
            ("ETag".to_owned(), order.meta.etag.clone()),
            ("Last-Modified".to_owned(), reply_core::encode_http_date(order.meta.modified_unix_s)),
        ];
        let (status, first, len) =
            match range_core::plan(request.is_head(), &request.fields, &order.meta) {
                Plan::Whole => (200, 0, size),
                Plan::Part { first, last } => (206, first, last - first + 1),
                Plan::NotModified => {
                    let head = reply_core::encode_head(frame, 304, &validators, Framing::Absent);
                    self.write(&head).await?;
                    return ended(frame.persist);
                }
                Plan::Unsatisfiable => {
                    let mut refusal = Refusal::new(416, "the file has no such range");
                    refusal.fields.push(("Content-Range".into(), format!("bytes */{size}")));
                    return self.refuse(request, frame, &refusal).await;
                }
            };
        let Some(_sending) = self.gate.files.take(PeerKey::new(self.peer)) else {
            self.gate.count().files_full.add();
            let refusal = Refusal::retry_after(503, "too many downloads at once", 5);
            return self.refuse(request, frame, &refusal).await;
        };
        let mut transfer = match Transfer::open(&order.path, first, len).await {
            Ok(transfer) => transfer,
            Err(err) => {
                log::error!("{}: {err}", order.path);
                self.gate.count().files_short.add();
                let refusal = Refusal::new(404, "the recording's file can't be read");
                return self.refuse(request, frame, &refusal).await;
            }
        };
        fields.extend(validators);
        fields.push(("Accept-Ranges".into(), "bytes".into()));
        if status == 206 {
            let last = first + len - 1;
            fields.push(("Content-Range".into(), format!("bytes {first}-{last}/{size}")));
        }
        let head = reply_core::encode_head(frame, status, &fields, Framing::Length(len));
        self.write(&head).await?;
        if !request.is_head() {
            self.send_bytes(&mut transfer, &order.path).await?;
        }
        ended(frame.persist)
    }

    async fn send_bytes(&mut self, transfer: &mut Transfer, path: &str) -> Result<(), Stop> {
        loop {
            match transfer.read().await {
                Ok([]) => return Ok(()),
                Ok(chunk) => self.write(chunk).await?,
                Err(err) => {
                    log::error!("{path}: {err}");
                    self.gate.count().files_short.add();
                    return Err(Stop::Gone);
                }
            }
        }
    }
}

/// The reply is out: what now.
pub(super) fn ended(persist: Persist) -> Result<(), Stop> {
    if persist == Persist::Close { Err(Stop::Replied) } else { Ok(()) }
}
