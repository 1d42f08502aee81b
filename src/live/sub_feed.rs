//! The live side of a sub-stream: who needs it, and whether it can be had.
//!
//! In here: the feed of a stream that is fetched only while somebody looks. Not in here: fetching it
//! (`stream/sub.rs`), when the main stream is shown in its place (`service.rs`).

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use smol::channel::{Receiver, Sender, bounded};

use super::feed::Feed;
use super::viewers_core::HLS_VIEWER_MS;
use crate::system::wait;

/// It stays open for so long after it was asked for last: a page that shows snapshots, or turns from one
/// view to another, shall not make the camera begin anew each time.
const NEEDED: Duration = Duration::from_secs(10);
/// How often is looked whether somebody still does.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// One stream's sub-stream.
#[derive(Debug)]
pub struct SubFeed {
    feed: Rc<Feed>,
    needed_until: Cell<Option<Instant>>,
    ask: Sender<()>,
    asked: Receiver<()>,
    is_failing: Cell<bool>,
    /// Why it could not be had last, in words for the owner.
    note: RefCell<Option<String>>,
    /// Players of HLS were given the main stream in its place, and stay with it until then: numbers of segments
    /// are another stream's there.
    main_until: Cell<Option<Instant>>,
}

fn is_ahead(until: &Cell<Option<Instant>>) -> bool {
    until.get().is_some_and(|until| Instant::now() < until)
}

impl SubFeed {
    pub fn new(feed: Rc<Feed>) -> Rc<Self> {
        let (ask, asked) = bounded(1);
        Rc::new(Self {
            feed,
            needed_until: Cell::default(),
            ask,
            asked,
            is_failing: Cell::default(),
            note: RefCell::default(),
            main_until: Cell::default(),
        })
    }

    pub fn feed(&self) -> &Rc<Feed> {
        &self.feed
    }

    /// Somebody wants to see it.
    pub fn need(&self) {
        self.needed_until.set(Some(Instant::now() + NEEDED));
        let _ = self.ask.try_send(());
    }

    /// Whether somebody watches, or did a moment ago.
    pub fn is_needed(&self) -> bool {
        self.feed.is_watched() || is_ahead(&self.needed_until)
    }

    /// Resolves when somebody needs it.
    pub async fn needed(&self) {
        while !self.is_needed() && self.asked.recv().await.is_ok() {}
    }

    /// Resolves when nobody has needed it for `NEEDED`.
    pub async fn unneeded(&self) {
        while self.is_needed() {
            if self.feed.is_watched() {
                self.needed_until.set(Some(Instant::now() + NEEDED));
            }
            wait::pause(LOOK_EVERY).await;
        }
    }

    /// Whether the last attempt to open it failed.
    pub fn is_failing(&self) -> bool {
        self.is_failing.get()
    }

    /// Notes whether it can be opened; who waits for it looks again.
    pub fn set_failing(&self, is_failing: bool) {
        self.is_failing.set(is_failing);
        self.feed.wake();
    }

    /// Why the main stream is shown in its place, if it is.
    pub fn note(&self) -> Option<String> {
        self.note.borrow().clone()
    }

    pub fn set_note(&self, note: Option<String>) {
        *self.note.borrow_mut() = note;
    }

    /// Whether players of HLS get the main stream in its place.
    pub fn gives_main(&self) -> bool {
        is_ahead(&self.main_until)
    }

    /// From now on they do, until none of them has asked for as long as an address counts as a viewer.
    pub fn give_main(&self) {
        let stays = Duration::from_millis(HLS_VIEWER_MS);
        self.main_until.set(Some(Instant::now() + stays));
    }
}
