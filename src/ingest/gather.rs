//! Common moments at which sessions read what has gathered in their sockets.
//!
//! It is wake-ups that cost, not bytes: sessions whose pictures nobody watches wait for the next of these moments, one
//! system call finds out who has something to read, and only those are woken. A session that has had nothing for
//! some moments is woken, too, so that it can wait for its socket instead. Runs under `drive::block_on`.

use std::cell::{Cell, RefCell};
use std::net::TcpStream;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use async_io::Async;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::system::drive;

/// How far the moments lie apart: how long a packet may wait for the program. At 4 Mbit/s 100 kB gather, which Linux
/// soon makes room for.
pub const GATHER: Duration = Duration::from_millis(200);
/// Moments without a byte before a session is woken all the same: a camera of one picture in some seconds shall not
/// be looked after at each of them.
const EMPTY_MAX: u32 = 4;

const NOW: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

thread_local! {
    /// One entry per session at most.
    static WAITING: RefCell<Vec<Rc<Place>>> = const { RefCell::new(Vec::new()) };
    /// Whether a look is due at the next moment.
    static IS_ARMED: Cell<bool> = const { Cell::new(false) };
}

struct Place {
    stream: Rc<Async<TcpStream>>,
    waker: RefCell<Waker>,
    is_waiting: Cell<bool>,
    empty: Cell<u32>,
}

/// A session's place among those that wait.
pub struct Gathering(Rc<Place>);

impl Gathering {
    pub fn new(stream: Rc<Async<TcpStream>>) -> Self {
        let waker = RefCell::new(Waker::noop().clone());
        Self(Rc::new(Place { stream, waker, is_waiting: Cell::new(false), empty: Cell::new(0) }))
    }

    /// Begins to wait for the next moment.
    pub fn begin(&self) {
        self.0.empty.set(0);
        if !self.0.is_waiting.replace(true) {
            WAITING.with_borrow_mut(|waiting| waiting.push(Rc::clone(&self.0)));
            arm();
        }
    }

    /// Ready after the moment at which there was something to read, or nothing for long.
    pub fn poll(&self, context: &Context<'_>) -> Poll<()> {
        if !self.0.is_waiting.get() {
            return Poll::Ready(());
        }
        self.0.waker.borrow_mut().clone_from(context.waker());
        Poll::Pending
    }

    /// Waits no more.
    pub fn end(&self) {
        if self.0.is_waiting.replace(false) {
            WAITING.with_borrow_mut(|waiting| waiting.retain(|place| !Rc::ptr_eq(place, &self.0)));
        }
    }
}

impl Drop for Gathering {
    fn drop(&mut self) {
        self.end();
    }
}

fn arm() {
    if !IS_ARMED.replace(true) {
        drive::call_at(drive::next_moment(Instant::now(), GATHER), look);
    }
}

/// The moment is there: wakes who has something to read.
fn look() {
    IS_ARMED.set(false);
    let waiting = WAITING.take();
    let mut sockets: Vec<PollFd<'_>> =
        waiting.iter().map(|place| PollFd::new(&place.stream, PollFlags::IN)).collect();
    // Where the question fails, each session asks for itself.
    let is_known = poll(&mut sockets, Some(&NOW)).is_ok();
    let has_bytes: Vec<bool> =
        sockets.iter().map(|socket| !is_known || !socket.revents().is_empty()).collect();
    drop(sockets);
    let mut has_bytes = has_bytes.into_iter();
    let (ready, empty): (Vec<_>, Vec<_>) = waiting.into_iter().partition(|place| {
        place.empty.set(place.empty.get() + 1);
        has_bytes.next().unwrap_or(true) || place.empty.get() >= EMPTY_MAX
    });
    if !empty.is_empty() {
        WAITING.set(empty);
        arm();
    }
    for place in ready {
        place.is_waiting.set(false);
        place.waker.borrow().wake_by_ref();
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::io::Write;
    use std::net::{Ipv4Addr, TcpListener};

    use super::*;

    fn pair() -> (TcpStream, Rc<Async<TcpStream>>) {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address = listener.local_addr().expect("bound");
        let here = TcpStream::connect(address).expect("connected");
        let (there, _) = listener.accept().expect("accepted");
        (there, Rc::new(Async::new(here).expect("registered")))
    }

    #[test]
    fn who_has_bytes_is_woken_first_and_who_has_none_at_last() {
        let (mut camera, stream) = pair();
        let (_silent, other) = pair();
        let (full, empty) = (Gathering::new(stream), Gathering::new(other));
        camera.write_all(b"$").expect("sent");
        drive::block_on(async {
            full.begin();
            empty.begin();
            poll_fn(|cx| full.poll(cx)).await;
            assert!(empty.0.is_waiting.get());
            poll_fn(|cx| empty.poll(cx)).await;
            assert_eq!(empty.0.empty.get(), EMPTY_MAX);
        });
        assert!(WAITING.with_borrow(Vec::is_empty));
    }

    #[test]
    fn who_leaves_waits_no_more() {
        let (_camera, stream) = pair();
        let place = Gathering::new(stream);
        drive::block_on(async {
            place.begin();
            drop(place);
            assert!(WAITING.with_borrow(Vec::is_empty));
            drive::Timer::after(GATHER).await; // the look that was due finds nobody
        });
        assert!(!IS_ARMED.get());
    }
}
