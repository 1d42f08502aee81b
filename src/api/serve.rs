//! tiny_http on a private Unix socket: the only file that names it (ONE-DOOR).
//!
//! In here: sockets, threads, reading a body to its end, one reply per request. Not in here: what is
//! answered (`answer`), and everything that the gate keeps away from tiny_http, which trusts its client:
//! `Content-Length` is bounded, `TE`, `Expect`, `Upgrade` and what is not ASCII never get here.
//!
//! tiny_http stops accepting for good after one failed `accept` (a full descriptor table is enough).
//! Then a new listener takes over the path, and the old one's connections are served until they have
//! been idle for a while. Thread names: `http` (this supervisor, and tiny_http's own threads, which
//! inherit the name) and `http-0` to `http-3`.

use std::fs;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::os::unix::net::{UnixListener, UnixStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::Duration;

use rustix::fs::{Mode, OFlags};

use super::error::ApiError;
use super::json::BODY_BYTES_MAX;
use super::render::render;
use super::route::Method;
use super::{Ctx, Request, answer, wire};
use crate::nvr::command::PATIENT_MAX;
use crate::system::pool;

/// Threads that answer: as many requests may wait for the executor or the store at once.
pub const HANDLERS: usize = 4;
const _: () = assert!(PATIENT_MAX < HANDLERS);
/// How long a handler waits for a request before it looks whether it is still needed.
const HANDLER_WAKE: Duration = Duration::from_secs(60);
/// tiny_http's accepting thread can also panic without a word (`dup` with a full descriptor table), so
/// the supervisor connects from time to time.
const PROBE_EVERY: Duration = Duration::from_secs(5);
/// Between two attempts to listen again.
const RENEW_PAUSE: Duration = Duration::from_millis(200);
/// How long `drop` waits for requests that are being answered.
const STOP_WAIT: Duration = Duration::from_secs(1);

/// The running server; dropping it ends its threads and removes the socket.
#[derive(Debug)]
pub struct Server {
    events: Sender<Event>,
    done: Receiver<()>,
    socket: PathBuf,
    /// What `socket` goes through.
    _dir: Arc<OwnedFd>,
}

impl Server {
    /// Where to connect, in this process and while this lives. It is the directory that was opened and
    /// checked, whatever becomes of its name, and short enough for an address (108 bytes, unix(7)).
    pub fn socket(&self) -> &Path {
        &self.socket
    }
}

enum Event {
    /// tiny_http has stopped accepting, with this error.
    Deaf(io::Error),
    Stop,
}

/// Serves the API on `socket`. The directory of the socket is made with mode 0700 if it is missing;
/// one that others may enter, or that is not ours, is an error: they could answer in our place.
pub fn start(socket: &Path, ctx: Arc<Ctx>) -> io::Result<Server> {
    let (Some(dir), Some(name)) = (socket.parent(), socket.file_name()) else {
        return Err(io::Error::other("the socket needs a directory"));
    };
    let dir = Arc::new(open_dir(dir)?);
    let socket = PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd())).join(name);
    let (events, inbox) = channel();
    let (ready, is_ready) = channel();
    let (finished, done) = channel();
    let (to_self, at, dir_of_thread) = (events.clone(), socket.clone(), Arc::clone(&dir));
    drop(pool::spawn("http", move || {
        let _dir = dir_of_thread; // `at` goes through it to the end
        let open = || Generation::start(bind(&at)?, at.clone(), &ctx, &to_self);
        match open() {
            Ok(first) => {
                drop(ready.send(Ok(())));
                supervise(first, &open, &inbox);
            }
            Err(e) => drop(ready.send(Err(e))),
        }
        let _ = finished.send(());
    })?);
    is_ready.recv().unwrap_or_else(|_| Err(io::Error::other("the http thread ended")))?;
    Ok(Server { events, done, socket, _dir: dir })
}

impl Drop for Server {
    fn drop(&mut self) {
        drop(self.events.send(Event::Stop));
        if self.done.recv_timeout(STOP_WAIT).is_err() {
            log::warn!("http: a request is still being answered at the end of the program");
        }
    }
}

/// The directory, made if it is missing.
fn open_dir(dir: &Path) -> io::Result<OwnedFd> {
    match fs::DirBuilder::new().mode(0o700).create(dir) {
        Err(e) if e.kind() != io::ErrorKind::AlreadyExists => return Err(e),
        _ => {}
    }
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let opened = rustix::fs::open(dir, flags, Mode::empty())?;
    let stat = rustix::fs::fstat(&opened)?;
    check_private(stat.st_uid, stat.st_mode, rustix::process::geteuid().as_raw()).map_err(
        |what| {
            let what = format!("{} {what}: it holds a private socket", dir.display());
            io::Error::new(io::ErrorKind::PermissionDenied, what)
        },
    )?;
    Ok(opened)
}

/// Says what is wrong with a directory of user `uid` and of `mode`, when we are user `own`.
fn check_private(uid: u32, mode: u32, own: u32) -> Result<(), String> {
    if uid != own {
        return Err(format!("belongs to user {uid}, must belong to user {own}"));
    }
    if mode & 0o077 != 0 {
        return Err(format!("has mode {:o}, must have mode 700", mode & 0o777));
    }
    Ok(())
}

/// Binds a socket of mode 0600 at `socket`, replacing what is there in one step: no client ever finds
/// the path empty, or the socket with wider permissions.
fn bind(socket: &Path) -> io::Result<UnixListener> {
    let fresh = socket.with_extension("new");
    match fs::remove_file(&fresh) {
        Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
        _ => {}
    }
    let listener = UnixListener::bind(&fresh)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o600))?;
    fs::rename(&fresh, socket)?;
    Ok(listener)
}

fn supervise(
    first: Generation,
    open: &impl Fn() -> io::Result<Generation>,
    inbox: &Receiver<Event>,
) {
    let mut current = first;
    let mut retired: Option<Generation> = None;
    loop {
        let error = match inbox.recv_timeout(PROBE_EVERY) {
            Ok(Event::Deaf(error)) => error,
            Ok(Event::Stop) | Err(RecvTimeoutError::Disconnected) => break,
            Err(RecvTimeoutError::Timeout) => match UnixStream::connect(&current.socket) {
                Err(e) if is_gone(&e) => e,
                _ => continue,
            },
        };
        log::error!("http: the private listener failed, listening anew: {error}");
        let Some(next) = renew(open, inbox) else { break };
        current.is_retired.store(true, Ordering::Relaxed);
        if let Some(older) = retired.replace(std::mem::replace(&mut current, next)) {
            older.stop(); // one old generation at most: threads stay bounded
        }
    }
    if let Some(older) = retired {
        older.stop();
    }
    let socket = current.socket.clone();
    current.stop();
    // Wakes the thread in `accept`: tiny_http tries it by the path that was bound first.
    drop(UnixStream::connect(&socket));
    drop(fs::remove_file(&socket));
}

/// Whether nobody listens. Other errors of `connect`, such as a full descriptor table, are our own.
fn is_gone(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound)
}

/// Tries until it works; `None` when the server is to stop.
fn renew(
    open: &impl Fn() -> io::Result<Generation>,
    inbox: &Receiver<Event>,
) -> Option<Generation> {
    loop {
        match open() {
            Ok(generation) => return Some(generation),
            Err(e) => log::debug!("http: can't listen yet: {e}"),
        }
        match inbox.recv_timeout(RENEW_PAUSE) {
            Err(RecvTimeoutError::Timeout) | Ok(Event::Deaf(_)) => {}
            Ok(Event::Stop) | Err(RecvTimeoutError::Disconnected) => return None,
        }
    }
}

/// One listener with the handlers of its connections.
struct Generation {
    server: Arc<tiny_http::Server>,
    socket: PathBuf,
    handlers: Vec<std::thread::JoinHandle<()>>,
    /// A newer one listens: handlers end when nothing has come for a while.
    is_retired: Arc<AtomicBool>,
    is_stopping: Arc<AtomicBool>,
}

impl Generation {
    fn start(
        listener: UnixListener,
        socket: PathBuf,
        ctx: &Arc<Ctx>,
        events: &Sender<Event>,
    ) -> io::Result<Self> {
        let server = tiny_http::Server::from_listener(listener, None).map_err(io::Error::other)?;
        let mut generation = Self {
            server: Arc::new(server),
            socket,
            handlers: Vec::with_capacity(HANDLERS),
            is_retired: Arc::default(),
            is_stopping: Arc::default(),
        };
        for n in 0..HANDLERS {
            let server = Arc::clone(&generation.server);
            let is_retired = Arc::clone(&generation.is_retired);
            let is_stopping = Arc::clone(&generation.is_stopping);
            let (ctx, events) = (Arc::clone(ctx), events.clone());
            let handler = pool::spawn(&format!("http-{n}"), move || {
                let is_over = |waited: bool| {
                    is_stopping.load(Ordering::Relaxed)
                        || (waited && is_retired.load(Ordering::Relaxed))
                };
                handle(&server, &ctx, &events, is_over);
            })?;
            generation.handlers.push(handler);
        }
        Ok(generation)
    }

    /// Ends the handlers after the requests that they are answering.
    fn stop(mut self) {
        self.is_stopping.store(true, Ordering::Relaxed);
        (0..HANDLERS).for_each(|_| self.server.unblock());
        for handler in self.handlers.drain(..) {
            drop(handler.join());
        }
    }
}

/// Answers requests until `is_over`; its argument says whether nothing has come for `HANDLER_WAKE`.
fn handle(
    server: &tiny_http::Server,
    ctx: &Ctx,
    events: &Sender<Event>,
    is_over: impl Fn(bool) -> bool,
) {
    loop {
        let waited = match server.recv_timeout(HANDLER_WAKE) {
            Ok(Some(request)) => {
                reply_to(ctx, request);
                false
            }
            Ok(None) => true,
            Err(e) => {
                drop(events.send(Event::Deaf(e)));
                false
            }
        };
        if is_over(waited) {
            return;
        }
    }
}

fn reply_to(ctx: &Ctx, mut request: tiny_http::Request) {
    let body = read_body(&mut request);
    let result = body.and_then(|body| {
        let input = Request {
            method: Method::parse(request.method().as_str()),
            target: request.url(),
            content_type: header(&request, "Content-Type"),
            accept_encoding: header(&request, "Accept-Encoding"),
            body: &body,
            length: header(&request, wire::LENGTH).and_then(|bytes| bytes.parse().ok()),
            session: header(&request, wire::SESSION).and_then(|id| id.parse().ok()),
            is_follow_up: header(&request, wire::INTERNAL) == Some("1"),
        };
        catch_unwind(AssertUnwindSafe(|| answer(ctx, &input)))
            .unwrap_or_else(|_| Err(ApiError::Internal { cause: "the handler panicked".into() }))
    });
    if let Err(error) = &result {
        log_server_error(&request, error);
    }
    let rendered = render(result);
    let mut response = tiny_http::Response::from_data(rendered.body)
        .with_status_code(rendered.status)
        .with_chunked_threshold(usize::MAX);
    for (name, value) in &rendered.headers {
        match tiny_http::Header::from_bytes(name.as_bytes(), value.as_bytes()) {
            Ok(header) => response.add_header(header),
            Err(()) => log::error!("http: the value of {name} is no header text"),
        }
    }
    if let Err(e) = request.respond(response) {
        log::debug!("http: the gate has gone: {e}");
    }
}

/// Reads the body to its end, so that the connection stays in step. What is larger than the contract
/// allows is refused; the gate has done so before, this only bounds memory.
fn read_body(request: &mut tiny_http::Request) -> Result<Vec<u8>, ApiError> {
    let mut body = Vec::new();
    let read = request.as_reader().take(BODY_BYTES_MAX as u64 + 1).read_to_end(&mut body);
    match read {
        Ok(n) if n > BODY_BYTES_MAX => Err(ApiError::BodyTooLarge),
        Ok(_) => Ok(body),
        Err(_) => Err(ApiError::BadRequest("body ended early".into())),
    }
}

fn header<'a>(request: &'a tiny_http::Request, name: &'static str) -> Option<&'a str> {
    request.headers().iter().find(|h| h.field.equiv(name)).map(|h| h.value.as_str())
}

/// The query may hold anything, so the path alone is logged.
fn log_server_error(request: &tiny_http::Request, error: &ApiError) {
    let id = header(request, wire::REQUEST_ID).unwrap_or("-");
    let (method, url) = (request.method(), request.url());
    let path = url.split('?').next().unwrap_or(url);
    match error {
        ApiError::Internal { cause } => log::error!("request {id}: {method} {path}: 500: {cause}"),
        ApiError::Busy { what, .. } => log::warn!("request {id}: {method} {path}: 503: {what}"),
        ApiError::Unhealthy { reasons } => log::debug!("request {id}: 503: {}", reasons.join("; ")),
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_of_somebody_else_is_not_private() {
        assert_eq!(check_private(1000, 0o40700, 1000), Ok(()));
        assert!(check_private(1001, 0o40700, 1000).is_err(), "its owner could swap the socket");
        assert!(check_private(1001, 0o40700, 0).is_err(), "also when we are root");
        assert!(check_private(1000, 0o40710, 1000).is_err());
    }
}
