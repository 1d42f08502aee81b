//! The gate: takes connections from the listener, owns their tasks, and decides who may ask.
//!
//! In here: accepting under every kind of trouble, and the checks between a whole head and the REST
//! layer, in the order that the API promises. Not in here: reading (`conn.rs`), answering
//! (`respond.rs`). Every connection's task is in the table; dropping it closes the connection.

use std::cell::{Cell, RefCell};
use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_io::Async;
use smol::channel::Receiver;
use smol::future::{or, pending, poll_once, yield_now};
use smol::{LocalExecutor, Task};

use crate::http::access_core;
use crate::http::auth::{Auth, USER, Verdict};
use crate::http::conn::{self, Door};
use crate::http::conn_table::{Admission, Caps, ConnTable};
use crate::http::counters::{Count, Counters};
use crate::http::file::{FILES_MAX, FILES_PER_PEER_MAX};
use crate::http::head_core::{BODY_BYTES_MAX, Request};
use crate::http::listener::Listener;
use crate::http::quota::{Quota, Shares};
use crate::http::rate_core::{PeerKey, Rate, RateTable};
use crate::http::upstream::Upstream;
use crate::http::viewer::{LiveService, OrderService};
use crate::nvr::snapshot::SnapshotCell;
use crate::system::drive::Timer;

/// Open connections: 256 descriptors of the usual 1024, and about 4 KiB each while they wait. Four
/// addresses can fill it with work, none of them alone.
pub const CAPS: Caps = Caps { all: 256, per_peer: 64 };
/// 50/s with a burst of 200, over everything but media.
const ORDINARY_RATE: Rate = Rate { per_minute: 50 * 60, burst: 200 };
/// 400/s for media of a client whose password was verified.
const MEDIA_RATE: Rate = Rate { per_minute: 400 * 60, burst: 400 };
/// Addresses whose rate is remembered.
const PEERS_MAX: usize = 256;
/// Bytes of all bodies that are kept for the REST layer: 32 of the largest, and thousands of usual ones.
const BODIES_BYTES_MAX: usize = 32 * BODY_BYTES_MAX;
/// Bytes of a login's body: a name and a password with every character escaped.
pub(super) const LOGIN_BYTES_MAX: usize = 4 << 10;
/// Bytes of the bodies of all logins, which anybody may send.
const LOGINS_BYTES_MAX: usize = 32 * LOGIN_BYTES_MAX;
/// An error of the listener that lasts is logged this often.
const ACCEPT_LOG_EVERY_MS: u64 = 60_000;
/// Connections closed when the system has no descriptor for a new one.
const CLOSED_FOR_FD: usize = 8;

/// How long what may take.
#[derive(Clone, Copy, Debug)]
pub struct Deadlines {
    /// The whole head, from its first byte or, on a new connection, from the start.
    pub head: Duration,
    /// The whole body.
    pub body: Duration,
    /// Between a reply and the next request.
    pub idle: Duration,
    /// A reader that takes nothing for so long is gone.
    pub stall: Duration,
    /// A reader that takes nothing for so long gives way to a new connection when there is no room.
    pub give_way: Duration,
    /// One exchange with the REST layer, waiting for a connection included.
    pub exchange: Duration,
    /// After a reply that ends a connection, for the client to close first; else the kernel may
    /// throw the reply away (RFC 9112 section 9.6).
    pub linger: Duration,
    /// After an error of the listener.
    pub accept_pause: Duration,
}

impl Default for Deadlines {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(10),
            body: Duration::from_secs(15),
            idle: Duration::from_secs(60),
            stall: Duration::from_secs(20),
            give_way: Duration::from_secs(1),
            exchange: Duration::from_secs(30),
            linger: Duration::from_secs(2),
            accept_pause: Duration::from_millis(50),
        }
    }
}

/// What a gate needs.
pub struct GateConfig {
    /// The REST layer's Unix socket.
    pub upstream: PathBuf,
    /// `web_auth_enabled` and `allowed_hosts` are read from it for every request.
    pub snapshot: SnapshotCell,
    pub auth: Rc<Auth>,
    /// The machine's own name, with or without `.local`.
    pub hostname: String,
    pub caps: Caps,
    pub deadlines: Deadlines,
    /// Serves what a `lightnvr-live` orders.
    pub live: Option<Rc<dyn LiveService>>,
    /// Serves what a `lightnvr-order` asks for.
    pub orders: Option<Rc<dyn OrderService>>,
}

impl GateConfig {
    /// With the caps and deadlines of every day; tests shorten them.
    pub fn new(
        upstream: PathBuf,
        snapshot: SnapshotCell,
        auth: Rc<Auth>,
        hostname: String,
    ) -> Self {
        let (caps, deadlines) = (CAPS, Deadlines::default());
        Self { upstream, snapshot, auth, hostname, caps, deadlines, live: None, orders: None }
    }
}

/// Why a request is not passed on.
#[derive(Debug)]
pub(super) struct Refusal {
    pub status: u16,
    pub what: &'static str,
    pub fields: Vec<(String, String)>,
}

impl Refusal {
    pub fn new(status: u16, what: &'static str) -> Self {
        Self { status, what, fields: Vec::new() }
    }

    pub fn retry_after(status: u16, what: &'static str, seconds: u32) -> Self {
        Self { status, what, fields: vec![("Retry-After".into(), seconds.to_string())] }
    }

    pub fn too_many_wrong(seconds: u32) -> Self {
        Self::retry_after(429, "too many wrong passwords from this address", seconds)
    }
}

/// Who may pass, and as whom.
#[derive(Clone, Copy, Debug)]
pub(super) struct Admitted {
    /// The session of the request's cookie.
    pub session: Option<u64>,
}

/// The gate. Lives on the executor.
pub struct Gate {
    pub(super) config: GateConfig,
    pub(super) upstream: Upstream,
    pub(super) files: Rc<Shares>,
    pub(super) bodies: Rc<Quota>,
    pub(super) logins: Rc<Quota>,
    table: RefCell<ConnTable<Task<()>>>,
    ordinary: RefCell<RateTable<PEERS_MAX>>,
    media: RefCell<RateTable<PEERS_MAX>>,
    counters: Arc<Counters>,
    started: Instant,
    /// Tells requests of two runs apart in the log.
    id_prefix: u32,
    requests: Cell<u32>,
    /// When an error of the listener was logged last.
    accept_logged_ms: Cell<Option<u64>>,
}

impl Gate {
    pub fn new(config: GateConfig) -> Rc<Self> {
        Rc::new(Self {
            upstream: Upstream::new(config.upstream.clone(), config.deadlines.exchange),
            files: Shares::new(FILES_MAX, FILES_PER_PEER_MAX),
            bodies: Quota::new(BODIES_BYTES_MAX),
            logins: Quota::new(LOGINS_BYTES_MAX),
            table: RefCell::new(ConnTable::new(config.caps)),
            ordinary: RefCell::new(RateTable::new(ORDINARY_RATE)),
            media: RefCell::new(RateTable::new(MEDIA_RATE)),
            counters: Arc::default(),
            started: Instant::now(),
            id_prefix: std::process::id(),
            requests: Cell::new(0),
            accept_logged_ms: Cell::default(),
            config,
        })
    }

    /// The numbers so far; they go on counting.
    pub fn counters(&self) -> Arc<Counters> {
        Arc::clone(&self.counters)
    }

    /// Serves until the future is dropped, which closes every connection, or until `listeners` is
    /// closed before the first one came. Who comes to `redirect` is told where the page is. A further listener takes the place of the one before it;
    /// connections that are open, or wait in the old one's queue, live on.
    pub async fn serve(
        self: Rc<Self>,
        executor: &Rc<LocalExecutor<'static>>,
        listeners: Receiver<Listener>,
        redirect: Option<Listener>,
    ) {
        let _close_all = CloseAll(&self);
        let mut current: Option<Listener> = None;
        loop {
            let swap = async {
                match listeners.recv().await {
                    Ok(listener) => Event::Swap(listener),
                    Err(_) if current.is_none() => Event::End,
                    Err(_) => pending().await,
                }
            };
            let accept = async {
                match &current {
                    Some(listener) => Event::Accepted(listener.io.accept().await),
                    None => pending().await,
                }
            };
            let accept_redirect = async {
                match &redirect {
                    Some(listener) => Event::ToRedirect(listener.io.accept().await),
                    None => pending().await,
                }
            };
            match or(swap, or(accept, accept_redirect)).await {
                Event::Accepted(outcome) => self.accepted(executor, outcome, Door::Page).await,
                Event::ToRedirect(outcome) => {
                    self.accepted(executor, outcome, Door::Redirect).await;
                }
                Event::Swap(listener) => {
                    if let Some(old) = current.replace(listener) {
                        self.empty(executor, &old).await;
                    }
                }
                Event::End => return,
            }
            // A flood of connections must not keep those that are open from their turn.
            yield_now().await;
        }
    }

    /// Takes what the kernel has completed on a listener that is about to be closed.
    async fn empty(self: &Rc<Self>, executor: &Rc<LocalExecutor<'static>>, old: &Listener) {
        while let Some(Ok((io, addr))) = poll_once(old.io.accept()).await {
            self.welcome(executor, io, addr, Door::Page);
        }
    }

    async fn accepted(
        self: &Rc<Self>,
        executor: &Rc<LocalExecutor<'static>>,
        outcome: io::Result<(Async<TcpStream>, SocketAddr)>,
        door: Door,
    ) {
        match outcome {
            Ok((io, addr)) => self.welcome(executor, io, addr, door),
            // One client's trouble (accept(2) hands on the errors of the connection itself).
            Err(err) if is_clients_own(err.kind()) => self.counters.accept_errors.add(),
            Err(err) => {
                self.counters.accept_errors.add();
                // Not once per outage: at the edge of a full table errors and successes alternate.
                if is_due(&self.accept_logged_ms, self.now_ms(), ACCEPT_LOG_EVERY_MS) {
                    log::error!("accepting connections: {err}; closing the longest idle ones");
                }
                let closed = self.table.borrow_mut().remove_longest_waiting(CLOSED_FOR_FD);
                closed.iter().for_each(|_| self.counters.closed_for_room.add());
                drop(closed);
                Timer::after(self.config.deadlines.accept_pause).await;
            }
        }
    }

    fn welcome(
        self: &Rc<Self>,
        executor: &Rc<LocalExecutor<'static>>,
        io: Async<TcpStream>,
        addr: SocketAddr,
        door: Door,
    ) {
        self.counters.accepted.add();
        let peer = PeerKey::new(addr.ip());
        let stalled_before_ms = self.now_ms().checked_sub(as_ms(self.config.deadlines.give_way));
        let admission = self.table.borrow_mut().admit(peer, stalled_before_ms);
        match admission {
            Admission::Room => {}
            Admission::Replaces(task) => {
                self.counters.closed_for_room.add();
                drop(task);
            }
            Admission::Refused => return self.counters.refused_busy.add(),
        }
        let id = self.table.borrow_mut().enter(peer, self.now_ms());
        let slot = Slot { gate: Rc::clone(self), id };
        let task = executor.spawn(conn::run(Rc::clone(self), slot, io, addr.ip(), door));
        let homeless = self.table.borrow_mut().own(id, task);
        drop(homeless);
        self.show_open();
    }

    /// The checks that need no more than a head: rate, host, password, origin.
    pub(super) async fn admit(
        &self,
        request: &Request,
        peer: std::net::IpAddr,
    ) -> Result<Admitted, Refusal> {
        let settings = &self.config.snapshot.load().settings;
        let auth = &self.config.auth;
        let authorization = request.authorization.as_ref().map(|secret| secret.0.as_slice());
        let cookie = request.cookie.as_ref().map(|secret| secret.0.as_slice());
        let is_api = access_core::needs_password(request.path());
        let needs_password = is_api
            && settings.web_auth_enabled
            && !access_core::is_login(&request.method, request.path());
        let session = auth.find_session(cookie.filter(|_| is_api));
        let is_trusted = !needs_password || session.is_some() || auth.is_verified(authorization);
        self.check_rate(request, peer, is_trusted)?;
        let allowed = &settings.allowed_hosts;
        let host_ok = |h: &String| access_core::host_allowed(h, &self.config.hostname, allowed);
        if !request.host.as_ref().is_none_or(host_ok) {
            return Err(self.forbid("this host name is not in the setting allowed_hosts"));
        }
        if needs_password && session.is_none() {
            let verdict = auth.verify_header(authorization, peer).await;
            self.check_verdict(verdict, request, peer)?;
        }
        self.check_origin(request, needs_password && session.is_some())?;
        Ok(Admitted { session })
    }

    /// A page of another site may not change anything: not with the password that the browser sends by
    /// itself, and still less with the cookie, where a request has to prove where it comes from.
    fn check_origin(&self, request: &Request, goes_by_cookie: bool) -> Result<(), Refusal> {
        if !access_core::is_changing(&request.method) {
            return Ok(());
        }
        let is_ours = |o: &Vec<u8>| access_core::origin_is_host(o, request.host.as_deref());
        match request.origin.as_ref().map(is_ours) {
            Some(true) => Ok(()),
            Some(false) => {
                Err(self.forbid("a page of another origin may not change anything here"))
            }
            None if goes_by_cookie && !request.is_from_page => Err(self.forbid(
                "a change that goes by the session's cookie needs the header \
                 X-Requested-With: lightnvr, or an Origin that is this host",
            )),
            None => Ok(()),
        }
    }

    /// The answer of the second door: where the page is. Rate and host are judged as everywhere, so that it sends
    /// nobody to a name that is not ours.
    pub(super) fn elsewhere(&self, request: &Request, peer: std::net::IpAddr) -> Refusal {
        if let Err(refusal) = self.check_rate(request, peer, false) {
            return refusal;
        }
        let settings = &self.config.snapshot.load().settings;
        let own = &self.config.hostname;
        let host = request.host.as_deref().unwrap_or(own);
        if !access_core::host_allowed(host, own, &settings.allowed_hosts) {
            return self.forbid("this host name is not in the setting allowed_hosts");
        }
        let host = access_core::without_port(host);
        let to = format!("http://{host}:{}{}", settings.web_port, request.target);
        let fields = vec![("Location".into(), to)];
        Refusal { status: 308, what: "the page is on another port", fields }
    }

    fn forbid(&self, what: &'static str) -> Refusal {
        self.counters.forbidden.add();
        Refusal::new(403, what)
    }

    fn check_rate(
        &self,
        request: &Request,
        peer: std::net::IpAddr,
        is_trusted: bool,
    ) -> Result<(), Refusal> {
        let is_media = is_trusted && access_core::is_media(request.path());
        let table = if is_media { &self.media } else { &self.ordinary };
        table.borrow_mut().take(PeerKey::new(peer), self.now_ms()).map_err(|seconds| {
            self.counters.rate_limited.add();
            Refusal::retry_after(429, "too many requests from this address", seconds)
        })
    }

    pub(super) fn check_verdict(
        &self,
        verdict: Verdict,
        request: &Request,
        peer: std::net::IpAddr,
    ) -> Result<(), Refusal> {
        let unauthorized = |count: &Count, what| {
            count.add();
            let challenge = "Basic realm=\"LightNVR\", charset=\"UTF-8\"";
            // Over the page the browser must not open its own window: the page has a form.
            let is_said = !request.is_from_page;
            let said = is_said.then(|| ("WWW-Authenticate".into(), challenge.into()));
            let fields = said.into_iter().collect();
            Err(Refusal { status: 401, what, fields })
        };
        match verdict {
            Verdict::Granted => Ok(()),
            Verdict::Missing => {
                unauthorized(&self.counters.auth_missing, "a user name and password are needed")
            }
            Verdict::Wrong => {
                log::warn!("{peer}: wrong user name or password, the user is {USER:?}");
                unauthorized(&self.counters.auth_wrong, "wrong user name or password")
            }
            Verdict::TooMany { retry_after_s } => {
                self.counters.auth_limited.add();
                Err(Refusal::too_many_wrong(retry_after_s))
            }
            Verdict::Busy => {
                self.counters.auth_busy.add();
                Err(Refusal::retry_after(503, "too many passwords are being checked", 1))
            }
        }
    }

    pub(super) fn deadlines(&self) -> &Deadlines {
        &self.config.deadlines
    }

    pub(super) fn orders(&self) -> Option<Rc<dyn OrderService>> {
        self.config.orders.clone()
    }

    pub(super) fn live(&self) -> Option<Rc<dyn LiveService>> {
        self.config.live.clone()
    }

    pub(super) fn count(&self) -> &Counters {
        &self.counters
    }

    /// A name for one request, in the log here and in the REST layer.
    pub(super) fn next_request_id(&self) -> String {
        let n = self.requests.get().wrapping_add(1);
        self.requests.set(n);
        format!("{:x}-{n:x}", self.id_prefix)
    }

    /// Closes who reads longest at a reply in memory; false when nobody does.
    pub(super) fn close_slowest_reader(&self) -> bool {
        let slowest = self.table.borrow_mut().remove_slowest_reader();
        let is_closed = slowest.is_some();
        if is_closed {
            self.counters.closed_for_memory.add();
        }
        drop(slowest);
        self.show_open();
        is_closed
    }

    fn show_open(&self) {
        self.counters.open.set(self.table.borrow().len() as u64);
    }

    fn now_ms(&self) -> u64 {
        as_ms(self.started.elapsed())
    }
}

fn as_ms(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Whether `every_ms` have passed since this last said so.
fn is_due(last_ms: &Cell<Option<u64>>, now_ms: u64, every_ms: u64) -> bool {
    let is_due = last_ms.get().is_none_or(|last_ms| now_ms.saturating_sub(last_ms) >= every_ms);
    if is_due {
        last_ms.set(Some(now_ms));
    }
    is_due
}

enum Event {
    Swap(Listener),
    Accepted(io::Result<(Async<TcpStream>, SocketAddr)>),
    ToRedirect(io::Result<(Async<TcpStream>, SocketAddr)>),
    End,
}

fn is_clients_own(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::ConnectionAborted | ErrorKind::ConnectionReset | ErrorKind::Interrupted
    )
}

/// A connection's place in the table, held by its task.
pub(super) struct Slot {
    gate: Rc<Gate>,
    id: u64,
}

impl Slot {
    /// We owe the client an answer.
    pub fn mark_busy(&self) {
        self.gate.table.borrow_mut().mark_busy(self.id);
    }

    /// The client is being sent what is held in memory for it.
    pub fn mark_reading(&self) {
        self.gate.table.borrow_mut().mark_reading(self.id, self.gate.now_ms());
    }

    /// The client takes nothing at the moment.
    pub fn mark_stalled(&self) {
        self.gate.table.borrow_mut().mark_stalled(self.id, Some(self.gate.now_ms()));
    }

    /// The client has taken all.
    pub fn mark_moving(&self) {
        self.gate.table.borrow_mut().mark_stalled(self.id, None);
    }

    /// The client owes us something.
    pub fn mark_waiting(&self) {
        self.gate.table.borrow_mut().mark_waiting(self.id, self.gate.now_ms());
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        // The task is dropped after the table was let go: its own drop may come here again.
        let task = self.gate.table.borrow_mut().remove(self.id);
        self.gate.show_open();
        drop(task);
    }
}

/// Breaks the circle of gate, tasks and their gate when serving ends.
struct CloseAll<'a>(&'a Gate);

impl Drop for CloseAll<'_> {
    fn drop(&mut self) {
        let tasks = self.0.table.borrow_mut().drain();
        drop(tasks);
        self.0.show_open();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_that_comes_and_goes_is_logged_once_a_minute() {
        let last_ms = Cell::default();
        let logged: Vec<u64> =
            (0..2400).map(|n| n * 50).filter(|&at| is_due(&last_ms, at, 60_000)).collect();
        assert_eq!(logged, [0, 60_000]);
    }
}
