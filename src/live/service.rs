//! The live service: takes the orders that the REST layer gives, each on its connection's task.
//!
//! In here: which feed an order is for (the sub-stream's, or the main one in its place), and whether one more viewer
//! fits. Not in here: what is sent (`hls.rs`, `ws.rs`, `jpeg.rs`, `snapshot.rs`).

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use smol::future::or;

use super::feed::{Budget, Feed, Quality, Watching};
use super::jpeg::Pictures;
use super::snapshot::Snapshots;
use super::sub_feed::SubFeed;
use super::viewers_core::Viewers;
use super::{hls, jpeg, snapshot, ws};
use crate::api::wire::{LiveKind, LiveOrder, QUALITY, QUALITY_SUB};
use crate::http::viewer::{LiveService, Serving, Stop, Viewer};
use crate::media::format::VideoCodec;
use crate::media::packet::{Packet, Track};
use crate::system::{clock, wait};

/// No packet for so long: there is no picture for somebody new.
const SILENCE_MAX: Duration = Duration::from_secs(10);
/// How long somebody waits for the sub-stream to open before the main one is shown.
const SUB_WAIT: Duration = Duration::from_secs(5);
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
    subs: RefCell<BTreeMap<u32, Rc<SubFeed>>>,
    viewers: RefCell<Viewers>,
    budget: Rc<Budget>,
    config: Cell<LiveConfig>,
    pub(super) pictures: Pictures,
    pub(super) snapshots: Snapshots,
    started: Instant,
}

/// What an order is served from.
pub(super) struct Shown {
    pub feed: Rc<Feed>,
    pub quality: Quality,
}

impl Shown {
    /// Header field that tells which feed it is.
    pub fn field(&self) -> (&'static str, &'static str) {
        ("X-Quality", self.quality.name())
    }
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
            subs: RefCell::default(),
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
        let (feeds, subs) = (self.feeds.borrow(), self.subs.borrow());
        for feed in feeds.values().chain(subs.values().map(|sub| sub.feed())) {
            feed.set_window_s(config.hls_window_seconds);
        }
    }

    fn new_feed(&self) -> Rc<Feed> {
        // Counting from the time on, numbers go on rising over a restart of the program, as a player
        // that saw it before expects: no segment is shorter than a second.
        let first = u64::try_from(clock::wall_ms() / 1000).unwrap_or(0);
        Feed::new(Rc::clone(&self.budget), first, self.config.get().hls_window_seconds)
    }

    /// The feed of a stream; the same one until `remove`, so that a player survives a pause.
    pub fn feed(&self, stream: u32) -> Rc<Feed> {
        let mut feeds = self.feeds.borrow_mut();
        Rc::clone(feeds.entry(stream).or_insert_with(|| self.new_feed()))
    }

    /// A feed for the sub-stream of a stream, in place of the one before.
    pub fn add_sub(&self, stream: u32) -> Rc<SubFeed> {
        self.remove_sub(stream);
        let sub = SubFeed::new(self.new_feed());
        self.subs.borrow_mut().insert(stream, Rc::clone(&sub));
        sub
    }

    /// The stream has no sub-stream any more.
    pub fn remove_sub(&self, stream: u32) {
        if let Some(sub) = self.subs.borrow_mut().remove(&stream) {
            sub.feed().close();
        }
    }

    /// The stream was deleted.
    pub fn remove(&self, stream: u32) {
        if let Some(feed) = self.feeds.borrow_mut().remove(&stream) {
            feed.close();
        }
    }

    /// What an order is served from; `None` while there is no picture. The sub-stream is opened for it and waited
    /// for; where it can't be had, or is of no use for this way of watching, the main stream takes its place.
    pub(super) async fn shown(
        &self,
        order: &LiveOrder,
        viewer: &Viewer<'_>,
    ) -> Result<Option<Shown>, Stop> {
        if let Some(sub) = self.sub_for(order) {
            sub.need();
            if is_piece(order.kind) {
                // Numbers are those of one feed.
                let feed = Rc::clone(sub.feed());
                return Ok(shows(&feed).then_some(Shown { feed, quality: Quality::Sub }));
            }
            let is_hls = matches!(order.kind, LiveKind::Playlist | LiveKind::Master);
            let is_had = !(is_hls && sub.gives_main()) && wait_for_sub(&sub, viewer).await?;
            if is_had && is_fit(order.kind, sub.feed()) {
                return Ok(Some(Shown { feed: Rc::clone(sub.feed()), quality: Quality::Sub }));
            }
            if is_hls {
                sub.give_main();
            }
        } else if is_piece(order.kind) && order.argument(QUALITY) == Some(QUALITY_SUB) {
            return Ok(None);
        }
        let feed = self.feeds.borrow().get(&order.stream).map(Rc::clone);
        let feed = feed.filter(|feed| shows(feed));
        Ok(feed.map(|feed| Shown { feed, quality: Quality::Main }))
    }

    /// The sub-stream, if it is what this order wishes and there is one.
    fn sub_for(&self, order: &LiveOrder) -> Option<Rc<SubFeed>> {
        let is_picture = matches!(order.kind, LiveKind::Mjpeg | LiveKind::Snapshot);
        let is_wished = order.argument(QUALITY).map_or(is_picture, |wish| wish == QUALITY_SUB);
        let subs = self.subs.borrow();
        subs.get(&order.stream).filter(|_| is_wished).map(Rc::clone)
    }

    /// The newest keyframe of a stream that runs.
    pub fn newest_key(&self, stream: u32) -> Option<Arc<Packet>> {
        let feed = self.feeds.borrow().get(&stream).map(Rc::clone)?;
        if shows(&feed) { jpeg::newest_key(&feed) } else { None }
    }

    /// A place for an endless viewer.
    pub(super) fn open(&self, stream: u32, Shown { feed, .. }: &Shown) -> Option<Place<'_>> {
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

/// Whether a feed shows something now.
fn shows(feed: &Feed) -> bool {
    let is_silent = feed.silence().is_none_or(|silence| silence > SILENCE_MAX);
    feed.window().newest_key().is_some() && (!is_silent || feed.is_watched())
}

/// What a playlist names by a number.
fn is_piece(kind: LiveKind) -> bool {
    matches!(kind, LiveKind::Init | LiveKind::Segment | LiveKind::Part)
}

/// Whether this way of watching can show what the feed holds.
fn is_fit(kind: LiveKind, feed: &Feed) -> bool {
    let Some(key) = jpeg::newest_key(feed) else { return false };
    match kind {
        LiveKind::Mjpeg | LiveKind::Snapshot => jpeg::decodable(&key).is_ok(),
        _ => !matches!(&key.track, Track::Video(format) if format.codec == VideoCodec::Mjpeg),
    }
}

/// Waits until the sub-stream shows something: true; or can't be opened, or not in time.
async fn wait_for_sub(sub: &SubFeed, viewer: &Viewer<'_>) -> Result<bool, Stop> {
    let feed = sub.feed();
    let opened = async {
        let settled = feed.wait_for(|window| {
            let is_there = window.newest_key().is_some();
            (is_there || sub.is_failing()).then_some(is_there && !sub.is_failing())
        });
        Ok(settled.await.unwrap_or(false))
    };
    let late = async {
        wait::pause(SUB_WAIT).await;
        Ok(false)
    };
    let left = async {
        viewer.closed().await;
        Err(Stop::Gone)
    };
    or(opened, or(late, left)).await
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
