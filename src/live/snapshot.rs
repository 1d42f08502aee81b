//! Snapshots: a stream's newest keyframe as a picture, made when asked for and kept for who asks next.
//!
//! In here: the cache, and that nobody makes what another is making. Not in here: making it
//! (`picture_codec.rs`). A kept picture is given while it is still of the newest keyframe, and in any case for
//! a second.

use std::cell::RefCell;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use smol::future::or;
use smol::lock::Mutex;

use super::feed::FeedId;
use super::jpeg::{Body, Pictures, argument, decodable, effective, newest_key};
use super::picture_codec::{Jpeg, VideoDecoder, Width};
use super::picture_core::BROKEN;
use super::service::{Live, refuse_without_picture};
use crate::api::wire::LiveOrder;
use crate::http::viewer::{Stop, Viewer};
use crate::media::format::{VideoCodec, VideoFormat};
use crate::media::packet::Packet;
use crate::system::pool::{Pool, PoolError};

const KEPT: Duration = Duration::from_secs(1);
/// Pictures that are kept over all streams and widths, and their bytes: the oldest go.
const KEPT_MAX: usize = 32;
const KEPT_BYTES_MAX: usize = 8 << 20;
/// Streams share these, so that two requests for one picture make it once.
const TURNS: usize = 16;
const CODEC_BUSY: &str = "too many pictures are being made";

struct Kept {
    feed: FeedId,
    width: Width,
    key: Weak<Packet>,
    made: Instant,
    jpeg: Jpeg,
}

/// The pictures that were made last.
#[derive(Default)]
pub struct Snapshots {
    kept: RefCell<Vec<Kept>>,
    turns: [Mutex<()>; TURNS],
}

/// Serves `GET /streaming/{id}/snapshot.jpg`.
pub async fn serve(live: &Live, order: &LiveOrder, mut viewer: Viewer<'_>) -> Result<(), Stop> {
    let Some(shown) = live.shown(order, &viewer).await? else {
        return refuse_without_picture(viewer).await;
    };
    let Some(key) = newest_key(&shown.feed) else { return refuse_without_picture(viewer).await };
    let format = match decodable(&key) {
        Ok(format) => format,
        Err(why) => return viewer.refuse(501, why, &[]).await,
    };
    let fields = [("Content-Type", "image/jpeg"), shown.field()];
    if viewer.is_head() {
        viewer.begin_endless(&fields).await?;
        return viewer.finish();
    }
    let width = effective(argument(order, "width"), format.width);
    let id = (order.stream, shown.quality);
    let making = live.snapshots.get(&live.pictures, id, &key, &format, width);
    let made = async { Ok(making.await) };
    let left = async {
        viewer.closed().await;
        Err(Stop::Gone)
    };
    match or(made, left).await? {
        Ok(body) => viewer.reply(&fields, body.bytes()).await,
        Err(Failure::Busy) => viewer.refuse_for(CODEC_BUSY, 1).await,
        Err(Failure::Damaged) => refuse_without_picture(viewer).await,
        Err(Failure::Broken) => viewer.refuse(501, BROKEN, &[]).await,
    }
}

impl Snapshots {
    async fn get(
        &self,
        pictures: &Pictures,
        id: FeedId,
        key: &Arc<Packet>,
        format: &Arc<VideoFormat>,
        width: Width,
    ) -> Result<Body, Failure> {
        if format.codec == VideoCodec::Mjpeg && width.is_none() {
            return Ok(Body::Camera(Arc::clone(key)));
        }
        let _turn = self.turns[id.0 as usize % TURNS].lock().await;
        if let Some(jpeg) = self.find(id, width, key) {
            return Ok(Body::Made(jpeg));
        }
        let (packets, format) = ([Arc::clone(key)], Arc::clone(format));
        let job = move || VideoDecoder::open(&format)?.shoot(&packets, &[width]);
        let shot = match pictures.codec.run(job).await {
            Ok(Ok(shot)) => shot,
            Ok(Err(error)) => {
                log::debug!("stream {}: snapshot: {}", id.0, error.what);
                None
            }
            Err(PoolError::Full) => return Err(Failure::Busy),
            Err(PoolError::Panicked) => None,
        };
        let jpeg = shot.and_then(|shot| shot.jpegs.into_iter().next());
        match jpeg {
            Some((_, jpeg)) => {
                self.keep(id, width, key, &jpeg);
                Ok(Body::Made(jpeg))
            }
            // What was lost on the way is no fault of the decoder.
            None if key.is_damaged => Err(Failure::Damaged),
            None => Err(Failure::Broken),
        }
    }

    fn find(&self, feed: FeedId, width: Width, key: &Arc<Packet>) -> Option<Jpeg> {
        let kept = self.kept.borrow();
        let found = kept.iter().find(|kept| kept.feed == feed && kept.width == width)?;
        let is_newest = std::ptr::eq(found.key.as_ptr(), Arc::as_ptr(key));
        (is_newest || found.made.elapsed() < KEPT).then(|| Arc::clone(&found.jpeg))
    }

    fn keep(&self, feed: FeedId, width: Width, key: &Arc<Packet>, jpeg: &Jpeg) {
        let mut kept = self.kept.borrow_mut();
        kept.retain(|kept| {
            let is_same = kept.feed == feed && kept.width == width;
            !is_same && (kept.key.strong_count() > 0 || kept.made.elapsed() < KEPT)
        });
        let bytes = |kept: &[Kept]| kept.iter().map(|kept| kept.jpeg.len()).sum::<usize>();
        while !kept.is_empty()
            && (kept.len() >= KEPT_MAX || bytes(&kept) + jpeg.len() > KEPT_BYTES_MAX)
        {
            kept.remove(0);
        }
        let (key, jpeg) = (Arc::downgrade(key), Arc::clone(jpeg));
        kept.push(Kept { feed, width, key, made: Instant::now(), jpeg });
    }
}

/// The picture of `key`, at most `width_max` wide; `None` where it can't be decoded, or not now.
pub async fn shoot(codec: &Pool, key: &Arc<Packet>, width_max: u16) -> Option<Jpeg> {
    let format = decodable(key).ok()?;
    let width = effective(Some(width_max), format.width);
    let packets = [Arc::clone(key)];
    let job = move || VideoDecoder::open(&format)?.shoot(&packets, &[width]);
    let shot = codec.run(job).await.ok()?.ok()??;
    shot.jpegs.into_iter().next().map(|(_, jpeg)| jpeg)
}

enum Failure {
    /// The codec pool is full.
    Busy,
    /// The keyframe did not come whole.
    Damaged,
    /// The decoder makes nothing of it.
    Broken,
}
