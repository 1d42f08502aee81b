//! The live service: takes the orders that the REST layer gives, each on its connection's task.
//!
//! In here: which feed an order is for, and whether one more viewer fits. Not in here: what is sent
//! (`hls.rs`, `ws.rs`, `jpeg.rs`, `snapshot.rs`).

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::feed::{Budget, Feed, Watching};
use super::jpeg::Pictures;
use super::snapshot::Snapshots;
use super::viewers_core::Viewers;
use super::{hls, jpeg, snapshot, ws};
use crate::api::wire::{LiveKind, LiveOrder};
use crate::http::viewer::{LiveService, Serving, Stop, Viewer};
use crate::media::packet::Packet;
use crate::system::clock;

/// No packet for so long: there is no picture for somebody new.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// What somebody who is turned away is asked to wait, in seconds.
const NO_PICTURE_RETRY_S: u32 = 2;
pub(super) const NO_ROOM_RETRY_S: u32 = 5;

/// What the settings say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LiveConfig {
    pub hls_window_seconds: u32,
    pub max_viewers: usize,
}

/// Everything that can be watched. Lives on the executor.
pub struct Live {
    feeds: RefCell<BTreeMap<u32, Rc<Feed>>>,
    viewers: RefCell<Viewers>,
    budget: Rc<Budget>,
    config: Cell<LiveConfig>,
    pub(super) pictures: Pictures,
    pub(super) snapshots: Snapshots,
    started: Instant,
}

/// A place among the viewers; dropping it gives it back.
pub struct Place<'a> {
    live: &'a Live,
    id: u64,
    _watching: Watching,
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.live.viewers.borrow_mut().leave(self.id);
    }
}

impl Live {
    pub fn new(config: LiveConfig, pictures: Pictures) -> Self {
        Self {
            feeds: RefCell::default(),
            viewers: RefCell::default(),
            budget: Rc::default(),
            config: Cell::new(config),
            pictures,
            snapshots: Snapshots::default(),
            started: Instant::now(),
        }
    }

    /// Puts changed settings into force.
    pub fn set_config(&self, config: LiveConfig) {
        self.config.set(config);
        for feed in self.feeds.borrow().values() {
            feed.set_window_s(config.hls_window_seconds);
        }
    }

    /// The feed of a stream; the same one until `remove`, so that a player survives a pause.
    pub fn feed(&self, stream: u32) -> Rc<Feed> {
        let mut feeds = self.feeds.borrow_mut();
        let feed = feeds.entry(stream).or_insert_with(|| {
            // Counting from the time on, numbers go on rising over a restart of the program, as a player
            // that saw it before expects: no segment is shorter than a second.
            let first = u64::try_from(clock::wall_ms() / 1000).unwrap_or(0);
            Feed::new(Rc::clone(&self.budget), first, self.config.get().hls_window_seconds)
        });
        Rc::clone(feed)
    }

    /// The stream was deleted.
    pub fn remove(&self, stream: u32) {
        if let Some(feed) = self.feeds.borrow_mut().remove(&stream) {
            feed.close();
        }
    }

    /// The feed of a stream that shows something now, or what to answer.
    pub(super) fn showing(&self, stream: u32) -> Option<Rc<Feed>> {
        let feed = self.feeds.borrow().get(&stream).map(Rc::clone)?;
        let is_silent = feed.silence().is_none_or(|silence| silence > SILENCE_MAX);
        let has_picture = feed.window().newest_key().is_some();
        (has_picture && (!is_silent || feed.is_watched())).then_some(feed)
    }

    /// The newest keyframe of a stream that runs.
    pub fn newest_key(&self, stream: u32) -> Option<Arc<Packet>> {
        jpeg::newest_key(&*self.showing(stream)?)
    }

    /// A place for an endless viewer.
    pub(super) fn open(&self, stream: u32, feed: &Rc<Feed>) -> Option<Place<'_>> {
        let max = self.config.get().max_viewers;
        let id = self.viewers.borrow_mut().open(stream, self.now_ms(), max)?;
        Some(Place { live: self, id, _watching: feed.open() })
    }

    /// Counts a request of HLS; false when there are too many viewers.
    pub(super) fn ask(&self, stream: u32, viewer: &Viewer<'_>) -> bool {
        let max = self.config.get().max_viewers;
        self.viewers.borrow_mut().ask(stream, viewer.peer(), self.now_ms(), max)
    }

    pub(super) fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// Answers somebody for whom there is no picture yet.
pub(super) async fn refuse_without_picture(viewer: Viewer<'_>) -> Result<(), Stop> {
    viewer.refuse_for("there is no picture of this stream now", NO_PICTURE_RETRY_S).await
}

/// Answers somebody who is one too many.
pub(super) async fn refuse_without_room(viewer: Viewer<'_>) -> Result<(), Stop> {
    viewer.refuse_for("too many viewers; see the setting max_viewers", NO_ROOM_RETRY_S).await
}

impl LiveService for Live {
    fn serve<'a>(&'a self, order: &'a LiveOrder, viewer: Viewer<'a>) -> Serving<'a> {
        Box::pin(async move {
            match order.kind {
                LiveKind::Mjpeg => jpeg::serve(self, order, viewer).await,
                LiveKind::Snapshot => snapshot::serve(self, order, viewer).await,
                LiveKind::Socket => ws::serve(self, order, viewer).await,
                LiveKind::Playlist
                | LiveKind::Master
                | LiveKind::Init
                | LiveKind::Segment
                | LiveKind::Part => hls::serve(self, order, viewer).await,
            }
        })
    }
}
