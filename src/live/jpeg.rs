//! Pictures of a stream for whoever looks: one decoder per stream for all its MJPEG viewers, started by the
//! first and stopped after the last.
//!
//! In here: viewers' seats, the task that decodes for them, jobs on the codec pool. Not in here: which packets
//! and when (`mjpeg_core.rs`), the codecs (`picture_codec.rs`), snapshots (`snapshot.rs`). A viewer asks for a
//! picture when it has written the last one, so whoever stands still holds one picture and costs nothing. While
//! nobody asks, nothing is decoded. Late pictures are skipped: what is decoded is what came since, and the
//! newest of that is encoded; one job per stream is in the pool at most.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::io::IoSlice;
use std::rc::{Rc, Weak};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use smol::channel::{Receiver, Sender, bounded};
use smol::future::or;
use smol::{LocalExecutor, Task};

use super::feed::{Feed, FeedId};
use super::mjpeg_core::{
    CONTENT_TYPE, FIRST_BOUNDARY, NEXT_BOUNDARY, Pace, Progress, encode_part_head,
};
use super::picture_codec::{DecodeError, Jpeg, Shot, VideoDecoder, Width};
use super::picture_core::{BROKEN, decoder_bytes, why_undecodable};
use super::service::{Live, NO_ROOM_RETRY_S, Shown, refuse_without_picture, refuse_without_room};
use crate::api::wire::LiveOrder;
use crate::http::viewer::{Stop, Viewer};
use crate::media::format::{VideoCodec, VideoFormat};
use crate::media::packet::{Packet, Track};
use crate::system::pool::{Pool, PoolError};
use crate::system::wait;

/// Different widths of one stream's viewers: each is scaled and encoded for itself.
const WIDTHS_MAX: usize = 4;
/// Memory of all decoders of MJPEG: six of 1080p with four reference pictures. Snapshots come on top, one for
/// each codec thread.
const DECODERS_BYTES_MAX: usize = 128 << 20;
/// How long a viewer waits for the first picture before it is told that there is none.
const FIRST_PICTURE_MAX: Duration = Duration::from_secs(10);
/// And for the next one: a camera that is gone for longer ends the answer, and viewers ask again.
const NEXT_PICTURE_MAX: Duration = Duration::from_secs(30);
/// Keyframes in a row that the decoder must refuse before it is the stream's fault.
const REFUSED_KEYS_MAX: u32 = 2;

const TOO_MANY_WIDTHS: &str = "this stream is being watched in too many different widths";
const TOO_MANY_DECODERS: &str = "too many streams are being decoded at once; HLS needs no decoder";

/// A picture on its way to viewers.
#[derive(Clone)]
pub enum Body {
    /// As the camera sent it.
    Camera(Arc<Packet>),
    Made(Jpeg),
}

impl Body {
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Camera(packet) => &packet.data,
            Self::Made(jpeg) => jpeg,
        }
    }
}

/// What a seat is given.
#[derive(Clone)]
enum Given {
    Picture {
        wall_ms: i64,
        body: Body,
    },
    /// There will be none, because the decoder can't.
    Undecodable,
    /// There will be none, because the stream is gone.
    Over,
}

/// All that makes pictures. Lives on the executor.
pub struct Pictures {
    executor: Rc<LocalExecutor<'static>>,
    pub(super) codec: Pool,
    stages: RefCell<BTreeMap<FeedId, Weak<Stage>>>,
    decoder_bytes: Rc<Cell<usize>>,
}

impl Pictures {
    pub fn new(executor: Rc<LocalExecutor<'static>>, codec: Pool) -> Self {
        Self { executor, codec, stages: RefCell::default(), decoder_bytes: Rc::default() }
    }

    /// The feed's stage, which others may be at already.
    fn stage(
        &self,
        stream: u32,
        shown: &Shown,
        format: &VideoFormat,
    ) -> Result<Rc<Stage>, &'static str> {
        let (id, feed) = ((stream, shown.quality), &shown.feed);
        let mut stages = self.stages.borrow_mut();
        stages.retain(|_, stage| stage.strong_count() > 0);
        // A stream that was switched off and on again has another feed.
        let present = stages.get(&id).and_then(Weak::upgrade);
        if let Some(stage) = present.filter(|stage| Rc::ptr_eq(&stage.board.feed, feed)) {
            return Ok(stage);
        }
        let bytes = decoder_bytes(format);
        if self.decoder_bytes.get() + bytes > DECODERS_BYTES_MAX {
            return Err(TOO_MANY_DECODERS);
        }
        self.decoder_bytes.set(self.decoder_bytes.get() + bytes);
        let (wake, woken) = bounded(1);
        let board = Rc::new(Board {
            id,
            feed: Rc::clone(feed),
            seats: RefCell::default(),
            wake,
            made: Cell::new(0),
            crowded_out: Cell::new(0),
        });
        let work = decode(Rc::clone(&board), woken, self.codec.clone());
        let stage = Rc::new(Stage {
            board,
            bytes,
            decoder_bytes: Rc::clone(&self.decoder_bytes),
            _work: self.executor.spawn(work),
        });
        log::debug!("stream {stream}: decoder started");
        stages.insert(id, Rc::downgrade(&stage));
        Ok(stage)
    }
}

/// Serves `GET /streaming/{id}/mjpeg`.
pub async fn serve(live: &Live, order: &LiveOrder, mut viewer: Viewer<'_>) -> Result<(), Stop> {
    let Some(shown) = live.shown(order, &viewer).await? else {
        return refuse_without_picture(viewer).await;
    };
    let Some(key) = newest_key(&shown.feed) else { return refuse_without_picture(viewer).await };
    let format = match decodable(&key) {
        Ok(format) => format,
        Err(why) => return viewer.refuse(501, why, &[]).await,
    };
    let fields = [("Content-Type", CONTENT_TYPE), shown.field()];
    if viewer.is_head() {
        viewer.begin_endless(&fields).await?;
        return viewer.finish();
    }
    let Some(_place) = live.open(order.stream, &shown) else {
        return refuse_without_room(viewer).await;
    };
    let stage = match live.pictures.stage(order.stream, &shown, &format) {
        Ok(stage) => stage,
        Err(what) => return viewer.refuse_for(what, NO_ROOM_RETRY_S).await,
    };
    let pace = Pace::new(argument(order, "fps"));
    let Some(seat) = Seat::take(stage, argument(order, "width"), pace) else {
        return viewer.refuse_for(TOO_MANY_WIDTHS, NO_ROOM_RETRY_S).await;
    };
    let (mut wall_ms, mut body) = match seat.next(&viewer, FIRST_PICTURE_MAX).await? {
        Some(Given::Picture { wall_ms, body }) => (wall_ms, body),
        Some(Given::Undecodable) => return viewer.refuse(501, BROKEN, &[]).await,
        Some(Given::Over) | None => return refuse_without_picture(viewer).await,
    };
    viewer.begin_endless(&fields).await?;
    viewer.write(FIRST_BOUNDARY).await?;
    loop {
        let head = encode_part_head(body.bytes().len(), wall_ms);
        let mut parts = [head.as_bytes(), body.bytes(), NEXT_BOUNDARY].map(IoSlice::new);
        viewer.write_vectored(&mut parts).await?;
        match seat.next(&viewer, NEXT_PICTURE_MAX).await? {
            Some(Given::Picture { wall_ms: at, body: next }) => (wall_ms, body) = (at, next),
            Some(Given::Undecodable | Given::Over) | None => return viewer.finish(),
        }
    }
}

/// An argument whose range the REST layer has checked.
pub fn argument(order: &LiveOrder, name: &str) -> Option<u16> {
    order.argument(name).and_then(|number| u16::try_from(number).ok())
}

/// The stream's pictures from its newest keyframe on.
fn gop(feed: &Feed) -> Vec<Arc<Packet>> {
    let window = feed.window();
    let Some(key) = window.newest_key() else { return Vec::new() };
    let packets = (key..window.end()).filter_map(|index| window.packet(index));
    packets.filter(|packet| packet.is_video()).cloned().collect()
}

/// The newest keyframe.
pub fn newest_key(feed: &Feed) -> Option<Arc<Packet>> {
    let window = feed.window();
    window.packet(window.newest_key()?).cloned()
}

/// A keyframe's format, or why no picture can be made of it.
pub fn decodable(key: &Packet) -> Result<Arc<VideoFormat>, &'static str> {
    let Track::Video(format) = &key.track else { return Err(BROKEN) };
    why_undecodable(format).map_or_else(|| Ok(Arc::clone(format)), Err)
}

/// A stream's decoder at work; dropped with its last viewer.
struct Stage {
    board: Rc<Board>,
    bytes: usize,
    decoder_bytes: Rc<Cell<usize>>,
    _work: Task<()>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        self.decoder_bytes.set(self.decoder_bytes.get() - self.bytes);
        let Board { id: (id, _), made, crowded_out, .. } = &*self.board;
        let (made, crowded_out) = (made.get(), crowded_out.get());
        log::debug!(
            "stream {id}: decoder stopped: {made} pictures, {crowded_out} times no codec thread free"
        );
    }
}

/// Who wants what.
struct Board {
    id: FeedId,
    feed: Rc<Feed>,
    seats: RefCell<Vec<Rc<Wish>>>,
    wake: Sender<()>,
    /// Pictures decoded, and how often the codec pool was full.
    made: Cell<u64>,
    crowded_out: Cell<u64>,
}

/// What one viewer wants.
struct Wish {
    width: Width,
    pace: RefCell<Pace>,
    is_waiting: Cell<bool>,
    give: Sender<Given>,
}

impl Wish {
    fn wants(&self, wall_ms: i64) -> bool {
        self.is_waiting.get() && self.pace.borrow().wants(wall_ms)
    }

    fn give(&self, given: Given) {
        if let Given::Picture { wall_ms, .. } = &given {
            self.pace.borrow_mut().taken(*wall_ms);
        }
        self.is_waiting.set(false);
        let _ = self.give.try_send(given); // empty, because it waited
    }
}

impl Board {
    /// The widths in which a picture of `wall_ms` is wanted, of a stream of this width.
    fn widths(&self, wall_ms: i64, own: u16) -> Vec<Width> {
        let mut widths = Vec::new();
        for wish in self.seats.borrow().iter().filter(|wish| wish.wants(wall_ms)) {
            let width = effective(wish.width, own);
            if !widths.contains(&width) {
                widths.push(width);
            }
        }
        widths
    }

    /// Waits for a packet of index `seen` or later; `None` when the stream is gone.
    async fn packet_after(&self, seen: u64) -> Option<()> {
        self.feed.wait_for(|window| (window.end() != seen).then_some(())).await
    }

    fn is_wanted(&self, wall_ms: i64) -> bool {
        self.seats.borrow().iter().any(|wish| wish.wants(wall_ms))
    }

    fn give(&self, wall_ms: i64, own: u16, width: Width, body: &Body) {
        for wish in self.seats.borrow().iter() {
            if effective(wish.width, own) == width && wish.wants(wall_ms) {
                wish.give(Given::Picture { wall_ms, body: body.clone() });
            }
        }
    }

    /// Says to all who wait that there will be none.
    fn give_up(&self, given: &Given) {
        for wish in self.seats.borrow().iter().filter(|wish| wish.is_waiting.get()) {
            wish.give(given.clone());
        }
    }
}

/// Nothing is enlarged: a width that the stream has not got is the stream's own.
pub fn effective(width: Width, own: u16) -> Width {
    width.filter(|width| *width < own)
}

/// A viewer's place at a stage, and what keeps the stage alive.
struct Seat {
    stage: Rc<Stage>,
    wish: Rc<Wish>,
    given: Receiver<Given>,
}

impl Seat {
    /// `None`: there are as many widths as may be.
    fn take(stage: Rc<Stage>, width: Width, pace: Pace) -> Option<Self> {
        let mut seats = stage.board.seats.borrow_mut();
        let mut widths: Vec<Width> = seats.iter().map(|wish| wish.width).collect();
        widths.push(width);
        widths.sort_unstable();
        widths.dedup();
        if widths.len() > WIDTHS_MAX {
            return None;
        }
        let (give, given) = bounded(1);
        let pace = RefCell::new(pace);
        let wish = Rc::new(Wish { width, pace, is_waiting: Cell::new(false), give });
        seats.push(Rc::clone(&wish));
        drop(seats);
        Some(Self { stage, wish, given })
    }

    /// The next picture; `None` when none comes for so long.
    async fn next(&self, viewer: &Viewer<'_>, within: Duration) -> Result<Option<Given>, Stop> {
        self.wish.is_waiting.set(true);
        let _ = self.stage.board.wake.try_send(());
        let given = async { Ok(self.given.recv().await.ok()) };
        let late = async {
            wait::pause(within).await;
            Ok(None)
        };
        let left = async {
            viewer.closed().await;
            Err(Stop::Gone)
        };
        or(given, or(left, late)).await
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.stage.board.seats.borrow_mut().retain(|wish| !Rc::ptr_eq(wish, &self.wish));
    }
}

/// Where a decoder is between two jobs: a job that finds the pool full is dropped with all that it owns, so the
/// decoder is only taken by a job that runs. Locked to take and to put back.
type Shelf = Arc<Mutex<Option<Box<VideoDecoder>>>>;

/// Decodes for a board for ever.
async fn decode(board: Rc<Board>, woken: Receiver<()>, codec: Pool) {
    let (shelf, mut progress) = (Shelf::default(), Progress::default());
    let mut refused_keys = 0;
    // Run and presentation time of the last picture: B-frames that belong before it are not shown.
    let mut last = (0, i64::MIN);
    loop {
        let seen = board.feed.window().end();
        let Some(step) = next_step(&board, &mut progress, last) else {
            let asked = async {
                let _ = woken.recv().await;
                Some(())
            };
            if or(board.packet_after(seen), asked).await.is_none() {
                // Who comes later finds the feed closed.
                return board.give_up(&Given::Over);
            }
            continue;
        };
        let Step { gop, batch, widths, wall_ms, place, format, before } = step;
        if format.codec == VideoCodec::Mjpeg && widths == [None] {
            if let Some(packet) = batch.last() {
                board.give(wall_ms, format.width, None, &Body::Camera(Arc::clone(packet)));
            }
            continue;
        }
        let outcome = run_job(&codec, &shelf, batch, widths, &format).await;
        match outcome {
            Ok(Ok(Some(shot))) => {
                refused_keys = 0;
                board.made.set(board.made.get() + 1);
                last = place;
                for (width, jpeg) in shot.jpegs {
                    board.give(shot.wall_ms, format.width, width, &Body::Made(jpeg));
                }
            }
            Ok(Ok(None)) => {}
            Ok(Err(error)) => {
                log::debug!("stream {}: {}", board.id.0, error.what);
                progress.spoil(&gop);
                refused_keys += u32::from(error.is_key);
                if refused_keys >= REFUSED_KEYS_MAX {
                    board.give_up(&Given::Undecodable);
                }
            }
            Err(PoolError::Full) => {
                progress = before;
                board.crowded_out.set(board.crowded_out.get() + 1);
                let _ = board.packet_after(seen).await;
            }
            Err(PoolError::Panicked) => progress.spoil(&gop),
        }
    }
}

/// One job.
struct Step {
    gop: Vec<Arc<Packet>>,
    batch: Vec<Arc<Packet>>,
    widths: Vec<Width>,
    wall_ms: i64,
    place: (u32, i64),
    format: Arc<VideoFormat>,
    /// The progress before, for a job that does not run.
    before: Progress,
}

/// What to decode now; `None` when nobody waits for what is there.
fn next_step(board: &Board, progress: &mut Progress, last: (u32, i64)) -> Option<Step> {
    let gop = gop(&board.feed);
    if !board.is_wanted(gop.last()?.wall_ms) {
        return None;
    }
    let before = progress.clone();
    let batch = progress.take(&gop);
    let shown = batch.iter().max_by_key(|packet| packet.pts)?;
    let Track::Video(format) = &shown.track else { return None };
    let (place, format) = ((shown.run.id, shown.pts), Arc::clone(format));
    let is_past = place.0 == last.0 && place.1 <= last.1;
    let widths = if is_past { Vec::new() } else { board.widths(shown.wall_ms, format.width) };
    let wall_ms = shown.wall_ms;
    Some(Step { gop, batch, widths, wall_ms, place, format, before })
}

async fn run_job(
    codec: &Pool,
    shelf: &Shelf,
    batch: Vec<Arc<Packet>>,
    widths: Vec<Width>,
    format: &Arc<VideoFormat>,
) -> Result<Result<Option<Shot>, DecodeError>, PoolError> {
    let (shelf, format) = (Arc::clone(shelf), Arc::clone(format));
    let job = move || {
        let kept = shelf.lock().unwrap_or_else(PoisonError::into_inner).take();
        let mut decoder = match kept.filter(|decoder| decoder.is_for(&format)) {
            Some(decoder) => decoder,
            None => Box::new(VideoDecoder::open(&format)?),
        };
        let shot = decoder.shoot(&batch, &widths);
        *shelf.lock().unwrap_or_else(PoisonError::into_inner) = Some(decoder);
        shot
    };
    codec.run(job).await
}
