//! RTSP over TCP: socket, timer and names around `session_core.rs`. No protocol decisions in here.
//!
//! All sessions run on the executor thread and share one read buffer: it is only borrowed between two
//! awaits, and what stays unparsed (at most one item) is kept by its session. The sink never blocks.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::pin::{Pin, pin};
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use async_io::Async;
use smol::future::{FutureExt, pending};

use super::auth::Auth;
use super::gather::Gathering;
use super::rtsp_message::ITEM_BYTES_MAX;
use super::session_core::{End, Memory, SessionCore};
use super::timeline::SETTLE_WAIT;
use super::tls::Tls;
use super::udp::Sockets;
use super::url::RtspUrl;
use super::{IngestError, SourceEvent};
use crate::config::fingerprint::Fingerprint;
use crate::config::transport::Transport;
use crate::system::drive::{self, Timer};
use crate::system::{clock, memory};

/// From the name to the open connection.
pub const CONNECT_WAIT: Duration = Duration::from_secs(10);
/// For the answer to TEARDOWN: many cameras send none (quirk 8).
pub const TEARDOWN_WAIT: Duration = Duration::from_millis(500);
/// One read; with 16 cameras some 2 ms of work between two awaits at the very most.
pub const READ_BYTES: usize = 256 << 10;
/// How long packets gather after a read that may have filled the receive window, instead of `GATHER`: the camera must
/// not wait for it.
const GATHER_BUSY: Duration = Duration::from_millis(5);
/// A read of fewer bytes has not, for the window starts at 64 KiB; a larger one may have if it took this share of the
/// receive buffer, of which the window is half.
const BUSY_BYTES: usize = 48 << 10;
const BUSY_SHARE: (usize, usize) = (3, 8);
/// A read of so many bytes may have left some, whatever the window.
const FULL_BYTES: usize = READ_BYTES - ITEM_BYTES_MAX;
/// Redirects followed in one run.
pub const REDIRECTS_MAX: u32 = 3;
/// Connections that hung up where another start gets further.
const AGAIN_MAX: u32 = 2;
/// Addresses of a name that are tried.
const ADDRESSES_MAX: usize = 4;

const _: () = assert!(READ_BYTES >= 2 * ITEM_BYTES_MAX, "an unparsed item leaves room to read");

thread_local! {
    static READ_BUFFER: RefCell<Vec<u8>> = {
        memory::keep_pictures_on_heap();
        RefCell::new(vec![0; READ_BYTES])
    };
}

type Sink<'a> = &'a mut dyn FnMut(SourceEvent);

/// What to connect to.
#[derive(Clone, Copy, Debug)]
pub struct Target<'a> {
    pub url: &'a str,
    pub transport: Transport,
    pub tls_fingerprint: Option<Fingerprint>,
}

impl<'a> From<&'a str> for Target<'a> {
    fn from(url: &'a str) -> Self {
        Self { url, transport: Transport::Auto, tls_fingerprint: None }
    }
}

/// Runs one session from connecting to its end. While `is_watched`, packets are read as they come, for
/// live view must not wait for a common moment. Reconnecting is up to the caller, by what the error
/// says; `Ok` comes only after `stop`, which lets the camera know. Dropping the future is fine, too;
/// then the camera learns it from the closed connection.
pub async fn run(
    target: impl Into<Target<'_>>,
    sink: Sink<'_>,
    is_watched: &dyn Fn() -> bool,
    stop: impl Future<Output = ()>,
) -> Result<(), IngestError> {
    let Target { url, transport, tls_fingerprint } = target.into();
    let mut target = RtspUrl::parse(url).map_err(|what| IngestError::Refused { what })?;
    let mut memory = new_memory(&target, transport);
    let mut stop = pin!(stop);
    let (mut redirects, mut again) = (0, 0);
    loop {
        let Some(stream) = connect(&target, stop.as_mut()).await? else { return Ok(()) };
        let mut core = SessionCore::new(target.clone(), memory, Instant::now());
        core.set_wall(Instant::now(), clock::wall_ms());
        let stream = Rc::new(stream);
        let gathering = Gathering::new(Rc::clone(&stream));
        let tls = match target.is_tls {
            true => Some(Box::new(Tls::new(&target.host, tls_fingerprint).await?)),
            false => None,
        };
        let unparsed = Vec::new();
        let mut session = Session { stream, gathering, core, unparsed, udp: None, tls };
        let ended = session.run(sink, is_watched, stop.as_mut()).await;
        session.core.finish(sink);
        let Err(end) = ended else {
            session.say_goodbye().await;
            return Ok(());
        };
        let strangers = session.udp.as_ref().map_or(0, |udp| udp.strangers);
        let counters = session.core.counters();
        log::debug!("RTSP session over, dropped: {counters:?}, {strangers} from others");
        match end {
            End::Failed(error) => {
                session.part();
                return Err(error);
            }
            End::Redirect(url) => {
                redirects += 1;
                if redirects > REDIRECTS_MAX {
                    let what = format!("camera redirects more than {REDIRECTS_MAX} times");
                    return Err(IngestError::Refused { what });
                }
                memory = new_memory(&url, transport);
                target = url;
            }
            End::Again => {
                again += 1;
                if again > AGAIN_MAX {
                    let what = "camera closed the connection again and again".to_owned();
                    return Err(IngestError::Connection { what });
                }
                memory = session.core.into_memory();
            }
        }
    }
}

fn new_memory(url: &RtspUrl, transport: Transport) -> Memory {
    // What came in an encrypted connection stays there.
    let transport = if url.is_tls { Transport::Tcp } else { transport };
    // A client nonce that can be guessed is no worse than Digest without one.
    let seed = getrandom::u64().unwrap_or(0);
    Memory {
        auth: Auth::new(url.credentials.clone(), seed),
        skips_audio: false,
        needs_get_parameter: false,
        transport,
        refuses_tcp: false,
    }
}

/// `None`: stopped before there was a connection.
async fn connect(
    url: &RtspUrl,
    stop: Pin<&mut impl Future<Output = ()>>,
) -> Result<Option<Async<TcpStream>>, IngestError> {
    let connected = async {
        let mut last = io::Error::new(ErrorKind::NotFound, "no address");
        for address in addresses(url).await?.into_iter().take(ADDRESSES_MAX) {
            match Async::<TcpStream>::connect(address).await {
                Ok(stream) => return Ok(Some(stream)),
                Err(error) => last = error,
            }
        }
        Err(connection_error("camera not reachable", &last))
    };
    let too_long = async {
        Timer::after(CONNECT_WAIT).await;
        let what = format!("camera not reachable: no answer for {} s", CONNECT_WAIT.as_secs());
        Err(IngestError::Connection { what })
    };
    let stopped = async {
        stop.await;
        Ok(None)
    };
    let stream = stopped.or(connected.or(too_long)).await?;
    if let Some(stream) = &stream {
        // Requests are small and are waited for. An error is found out with the first of them.
        let _ = stream.get_ref().set_nodelay(true);
    }
    Ok(stream)
}

/// Names go through the blocking pool, addresses do not.
async fn addresses(url: &RtspUrl) -> Result<Vec<SocketAddr>, IngestError> {
    if let Ok(address) = url.host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(address, url.port)]);
    }
    let found = smol::net::resolve((url.host.as_str(), url.port)).await;
    found.map_err(|error| connection_error("camera name not found", &error))
}

fn connection_error(what: &str, error: &io::Error) -> IngestError {
    IngestError::Connection { what: format!("{what}: {}", words(error)) }
}

/// Without the number of the operating system, which tells an owner nothing.
fn words(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        ErrorKind::ConnectionReset => "connection reset".to_owned(),
        ErrorKind::HostUnreachable | ErrorKind::NetworkUnreachable => "no route".to_owned(),
        _ => error.to_string(),
    }
}

/// What ended a wait.
enum Wake {
    Stop,
    Ready,
}

/// What a session waits for before it reads again.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// The socket says that there is something.
    Readable,
    /// There is something at one of the common moments.
    Gathered,
    /// The next moment of `GATHER_BUSY`.
    Busy,
}

/// One connection.
struct Session {
    stream: Rc<Async<TcpStream>>,
    gathering: Gathering,
    core: SessionCore,
    /// The begin of an item whose rest is still to come.
    unparsed: Vec<u8>,
    /// Where the session goes over UDP.
    udp: Option<Sockets>,
    /// Where it is encrypted.
    tls: Option<Box<Tls>>,
}

impl Session {
    /// `Ok` after `stop`, else why the connection ended.
    async fn run(
        &mut self,
        sink: Sink<'_>,
        is_watched: &dyn Fn() -> bool,
        mut stop: Pin<&mut impl Future<Output = ()>>,
    ) -> Result<(), End> {
        let mut armed_for = self.core.poll(Instant::now(), sink)?;
        let mut timer = Timer::at(armed_for);
        let mut wait = Wait::Readable;
        loop {
            let now = Instant::now();
            let mut wait_until = self.core.poll(now, sink)?;
            self.send()?;
            match wait {
                Wait::Readable => {}
                Wait::Gathered => self.gathering.begin(),
                Wait::Busy => wait_until = wait_until.min(drive::next_moment(now, GATHER_BUSY)),
            }
            // Every packet moves the deadline; a timer that rings early only means another look.
            if wait_until < armed_for || now >= armed_for {
                armed_for = wait_until;
                timer.set_at(wait_until);
            }
            let wake = self.wait(wait, &mut timer, stop.as_mut()).await;
            self.gathering.end();
            if let Wake::Stop = wake {
                return Ok(());
            }
            let read = self.receive(sink)? + self.receive_udp(sink)?;
            wait = match read {
                // While a run settles it is the moment of arrival that places it in time.
                _ if self.core.playing_for(now) < SETTLE_WAIT => Wait::Readable,
                _ if is_watched() || self.udp.is_some() => Wait::Readable,
                0 if wait != Wait::Busy => Wait::Readable,
                FULL_BYTES.. => Wait::Busy,
                BUSY_BYTES.. if self.may_have_filled_window(read) => Wait::Busy,
                _ => Wait::Gathered,
            };
        }
    }

    /// Linux lets the buffer grow with what comes, so that a keyframe soon fits into it.
    fn may_have_filled_window(&self, read: usize) -> bool {
        let (part, of) = BUSY_SHARE;
        let buffer = rustix::net::sockopt::socket_recv_buffer_size(&*self.stream);
        buffer.map_or(true, |bytes| read >= bytes / of * part)
    }

    async fn wait(
        &mut self,
        wait: Wait,
        timer: &mut Timer,
        mut stop: Pin<&mut impl Future<Output = ()>>,
    ) -> Wake {
        let wants_send = !self.core.output().is_empty()
            || self.tls.as_ref().is_some_and(|tls| tls.wants_write());
        let gathering = &self.gathering;
        // Not `poll_readable`: with async-io's helper on another thread that takes the same event for an old one again
        // and again. These remember since when they wait; nothing is registered before they are polled.
        let (mut readable, mut writable) =
            (pin!(self.stream.readable()), pin!(self.stream.writable()));
        let udp = &self.udp;
        let mut datagram = pin!(async {
            match udp {
                Some(udp) => udp.readable().await,
                None => pending().await,
            }
        });
        poll_fn(|cx| {
            if stop.as_mut().poll(cx).is_ready() {
                return Poll::Ready(Wake::Stop);
            }
            let is_ready = match wait {
                Wait::Readable => {
                    readable.as_mut().poll(cx).is_ready()
                        || datagram.as_mut().poll(cx).is_ready()
                        || wants_send && writable.as_mut().poll(cx).is_ready()
                }
                Wait::Gathered => gathering.poll(cx).is_ready(),
                Wait::Busy => false,
            };
            if is_ready || Pin::new(&mut *timer).poll(cx).is_ready() {
                return Poll::Ready(Wake::Ready);
            }
            Poll::Pending
        })
        .await
    }

    /// Sends TEARDOWN and waits a little for the answer, so that the camera frees its session.
    async fn say_goodbye(&mut self) {
        self.core.teardown(Instant::now());
        let answered = async {
            while !self.core.is_over() && self.send().is_ok() {
                if !self.core.output().is_empty() {
                    let _ = self.stream.writable().await;
                } else if self.stream.readable().await.is_err()
                    || self.receive(&mut |_| {}).is_err()
                {
                    break;
                }
            }
        };
        let too_long = async { _ = Timer::after(TEARDOWN_WAIT).await };
        answered.or(too_long).await;
    }

    /// The same without waiting, where something went wrong.
    fn part(&mut self) {
        self.core.teardown(Instant::now());
        let _ = self.send();
    }

    /// Sends as much as the socket takes.
    fn send(&mut self) -> Result<(), End> {
        let output = self.core.output();
        if let Some(tls) = &mut self.tls {
            return match tls.write(self.stream.get_ref(), output) {
                Err(error) if !is_temporary(&error) => Err(self.closed(&error)),
                _ => Ok(()),
            };
        }
        if output.is_empty() {
            return Ok(());
        }
        match self.stream.get_ref().write(output) {
            Ok(sent) => drop(output.drain(..sent)),
            Err(error) if is_temporary(&error) => {}
            Err(error) => return Err(self.closed(&error)),
        }
        Ok(())
    }

    /// Reads and parses once. Returns how many bytes there were.
    fn receive(&mut self, sink: Sink<'_>) -> Result<usize, End> {
        READ_BUFFER.with_borrow_mut(|buffer| {
            let kept = self.unparsed.len();
            buffer[..kept].copy_from_slice(&self.unparsed);
            let (mut socket, room) = (self.stream.get_ref(), &mut buffer[kept..]);
            let read = match &mut self.tls {
                Some(tls) => tls.read(socket, room),
                None => socket.read(room),
            };
            let read = match read {
                Ok(0) => return Err(self.core.closed("camera closed the connection")),
                Ok(read) => read,
                Err(error) if is_temporary(&error) => return Ok(0),
                Err(error) => return Err(self.closed(&error)),
            };
            let bytes = &buffer[..kept + read];
            let used = self.core.receive(bytes, Instant::now(), sink)?;
            self.unparsed.clear();
            self.unparsed.extend_from_slice(&bytes[used..]);
            Ok(read)
        })
    }

    /// The same for UDP, where the session goes that way. Returns how many packets there were.
    fn receive_udp(&mut self, sink: Sink<'_>) -> Result<usize, End> {
        if self.core.wants_ports() {
            self.bind().map_err(|error| {
                End::Failed(connection_error("no port for UDP is free", &error))
            })?;
        }
        let Some(udp) = &mut self.udp else { return Ok(0) };
        let core = &mut self.core;
        let packets = READ_BUFFER.with_borrow_mut(|buffer| {
            udp.receive(buffer, |track, is_control, bytes| {
                core.datagram(track, is_control, bytes, Instant::now(), sink)
            })
        })?;
        for (track, port, report) in core.reports(Instant::now()) {
            udp.send_control(track, port, &report);
        }
        Ok(packets)
    }

    fn bind(&mut self) -> io::Result<()> {
        let camera = self.stream.get_ref().peer_addr()?.ip();
        let sockets = Sockets::bind(camera, getrandom::u32().unwrap_or(0))?;
        let ssrc = getrandom::u32().unwrap_or(1);
        self.core.set_ports(sockets.ports(), ssrc, Instant::now());
        self.udp = Some(sockets);
        Ok(())
    }

    fn closed(&mut self, error: &io::Error) -> End {
        if error.kind() == ErrorKind::InvalidData {
            return End::Failed(IngestError::Refused { what: error.to_string() });
        }
        self.core.closed(&format!("connection to the camera broke: {}", words(error)))
    }
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted)
}
