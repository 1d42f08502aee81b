//! One stream's live packets: where its hub delivers and its viewers wait.
//!
//! In here: the window, waiting for what it will hold, and memory over all streams. Nothing blocks the
//! hub: it pushes, and whoever waits is woken. Memory (`LIVE_BYTES_MAX`) is shared by all streams: from
//! half of it on, what left the playlists goes; from three quarters, what a viewer does not start with; at
//! the end a stream forgets everything and goes on at its next keyframe, which is counted.

use std::cell::{Cell, Ref, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Poll, Waker};
use std::time::{Duration, Instant};

use super::viewers_core::HLS_VIEWER_MS;
use super::window_core::{Keep, Window};
use crate::media::packet::Packet;

/// Packets of all streams, for live view: an eighth of a 512 MiB board. Sixteen groups of pictures of
/// 2 s at 4 Mbit/s are 16 MiB, a watched window of 36 s is 18 MiB.
pub const LIVE_BYTES_MAX: usize = 64 << 20;
/// One stream's share: a camera that sends no keyframe must not take the others' pictures.
const STREAM_BYTES_MAX: usize = LIVE_BYTES_MAX / 2;

/// Which of a camera's feeds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Quality {
    /// The one that is recorded.
    Main,
    /// The small one, which is fetched only while somebody looks.
    Sub,
}

impl Quality {
    /// The word in the API.
    pub fn name(self) -> &'static str {
        match self {
            Self::Main => "main",
            Self::Sub => "sub",
        }
    }
}

/// A feed: a stream's id, and which of its feeds.
pub type FeedId = (u32, Quality);

/// Bytes that all feeds hold.
#[derive(Debug, Default)]
pub struct Budget {
    used: Cell<usize>,
    /// How often a stream forgot everything for want of room.
    overflows: Cell<u64>,
}

impl Budget {
    /// Bytes held now, and how often there was no room.
    pub fn account(&self) -> (usize, u64) {
        (self.used.get(), self.overflows.get())
    }
}

/// The live side of one stream.
#[derive(Debug)]
pub struct Feed {
    window: RefCell<Window>,
    budget: Rc<Budget>,
    /// What of `budget` is this stream's.
    held: Cell<usize>,
    waiting: RefCell<Vec<Waker>>,
    /// Until then somebody counts as a viewer of HLS.
    hls_until: Cell<Option<Instant>>,
    /// Viewers that are open.
    open: Cell<usize>,
    last_packet: Cell<Option<Instant>>,
    /// Bytes and seconds since the run began, for BANDWIDTH.
    rate: Cell<Option<(Instant, u64)>>,
    is_closed: Cell<bool>,
}

impl Feed {
    pub fn new(budget: Rc<Budget>, first_number: u64, window_s: u32) -> Rc<Self> {
        Rc::new(Self {
            window: RefCell::new(Window::new(first_number, i64::from(window_s))),
            budget,
            held: Cell::new(0),
            waiting: RefCell::default(),
            hls_until: Cell::new(None),
            open: Cell::new(0),
            last_packet: Cell::new(None),
            rate: Cell::new(None),
            is_closed: Cell::new(false),
        })
    }

    /// Takes the next packet of the stream.
    pub fn push(&self, packet: Arc<Packet>) {
        let now = Instant::now();
        self.last_packet.set(Some(now));
        let (since, bytes) = self.rate.get().unwrap_or((now, 0));
        self.rate.set(Some((since, bytes + packet.data.len() as u64)));
        let used = self.budget.used.get();
        let keep = match self.hls_until.get().is_some_and(|until| now < until) {
            true if used < LIVE_BYTES_MAX / 2 => Keep::All,
            true if used < LIVE_BYTES_MAX / 4 * 3 => Keep::Listed,
            false if self.open.get() == 0 => Keep::Idle,
            _ => Keep::Start,
        };
        {
            let mut window = self.window.borrow_mut();
            window.push(packet, keep);
            let others = used - self.held.get();
            let bytes = window.bytes();
            if bytes > STREAM_BYTES_MAX || others + bytes > LIVE_BYTES_MAX {
                window.clear();
                self.budget.overflows.set(self.budget.overflows.get() + 1);
            }
            self.hold(window.bytes());
        }
        self.wake();
    }

    fn hold(&self, bytes: usize) {
        self.budget.used.set(self.budget.used.get() - self.held.replace(bytes) + bytes);
    }

    /// The source's run is over.
    pub fn end_run(&self) {
        self.window.borrow_mut().end_run();
        self.rate.set(None);
        self.wake();
    }

    /// What it holds is not new any more: forgets it, as a stream that is not fetched for a while.
    pub fn forget(&self) {
        self.window.borrow_mut().clear();
        self.hold(0);
    }

    /// The stream is gone: nobody waits for it any more.
    pub fn close(&self) {
        self.is_closed.set(true);
        self.forget();
        self.wake();
    }

    pub fn is_closed(&self) -> bool {
        self.is_closed.get()
    }

    /// Changes how many seconds playlists list.
    pub fn set_window_s(&self, window_s: u32) {
        self.window.borrow_mut().set_window_s(i64::from(window_s));
    }

    /// Whether somebody watches, so that packets should not wait anywhere.
    pub fn is_watched(&self) -> bool {
        self.open.get() > 0 || self.hls_until.get().is_some_and(|until| Instant::now() < until)
    }

    /// The packets; let go of it before any `.await`.
    pub fn window(&self) -> Ref<'_, Window> {
        self.window.borrow()
    }

    /// How long no packet has come; `None` before the first one.
    pub fn silence(&self) -> Option<Duration> {
        self.last_packet.get().map(|at| at.elapsed())
    }

    /// Bits per second of the run; 0 before its first second.
    pub fn bits_per_second(&self) -> u64 {
        let Some((since, bytes)) = self.rate.get() else { return 0 };
        let ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        (bytes * 8000).checked_div(ms).filter(|_| ms >= 1000).unwrap_or(0)
    }

    /// Somebody fetched something of HLS: from now on a window is kept.
    pub fn note_hls(&self) {
        self.hls_until.set(Some(Instant::now() + Duration::from_millis(HLS_VIEWER_MS)));
    }

    /// Asks for a complete segment soon.
    pub fn request_cut(&self) {
        self.window.borrow_mut().request_cut();
    }

    /// Counts a viewer until what this gives is dropped.
    pub fn open(self: &Rc<Self>) -> Watching {
        self.open.set(self.open.get() + 1);
        Watching(Rc::clone(self))
    }

    /// Waits until `find` finds something in the window; `None` when the stream is gone.
    pub async fn wait_for<T>(&self, mut find: impl FnMut(&Window) -> Option<T>) -> Option<T> {
        poll_fn(|cx| {
            if self.is_closed.get() {
                return Poll::Ready(None);
            }
            if let Some(found) = find(&self.window.borrow()) {
                return Poll::Ready(Some(found));
            }
            let mut waiting = self.waiting.borrow_mut();
            if !waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
                waiting.push(cx.waker().clone());
            }
            Poll::Pending
        })
        .await
    }

    /// Who waits looks again.
    pub(super) fn wake(&self) {
        // Taken out first: a waker may come back here.
        let waiting = std::mem::take(&mut *self.waiting.borrow_mut());
        waiting.into_iter().for_each(Waker::wake);
    }
}

/// Someone who watches.
#[derive(Debug)]
pub struct Watching(Rc<Feed>);

impl Drop for Watching {
    fn drop(&mut self) {
        self.0.open.set(self.0.open.get() - 1);
    }
}
