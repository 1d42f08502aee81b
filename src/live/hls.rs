//! HLS: playlists, initialization sections, segments and parts, out of memory.
//!
//! In here: waiting for what a player asks for before it is there, and sending. Not in here: the text
//! (`playlist_core.rs`), the bytes (`fragment_core.rs`). A segment is sent part by part, and looked up
//! anew for each, so that a slow player holds one part at most; what has left the window meanwhile ends
//! its reply early.

use std::io::IoSlice;
use std::sync::Arc;
use std::time::Duration;

use smol::future::or;

use super::feed::{Feed, Quality};
use super::fragment_core::{Fragment, encode_epoch_init, encode_part};
use super::playlist_core::{self, Delivery};
use super::service::{Live, Shown, refuse_without_picture, refuse_without_room};
use super::window_core::{TARGET_S, Window};
use crate::api::wire::{LiveKind, LiveOrder, QUALITY, QUALITY_SUB};
use crate::http::viewer::{Stop, Viewer};
use crate::media::format::VideoCodec;
use crate::media::packet::Packet;
use crate::system::drive::Timer;

/// A blocked reload ends after three target durations (RFC 8216bis section 6.2.5.2).
const BLOCK_MAX: Duration = Duration::from_secs(3 * TARGET_S as u64);
const PLAYLIST_TYPE: &str = "application/vnd.apple.mpegurl";
const MEDIA_TYPE: &str = "video/mp4";
/// What HLS has no codec for.
pub(super) const NO_CODEC: &str =
    "this stream is Motion JPEG, which players don't take in MP4; use /api/v1/streaming/{id}/mjpeg";

/// How waiting for something ended.
enum Waited<T> {
    Found(T),
    /// The stream was deleted.
    Closed,
    Late,
    /// The client went away.
    Left,
}

/// Answers one request.
pub async fn serve(live: &Live, order: &LiveOrder, viewer: Viewer<'_>) -> Result<(), Stop> {
    let Some(shown) = live.shown(order, &viewer).await? else {
        return refuse_without_picture(viewer).await;
    };
    let feed = &shown.feed;
    let codec = feed.window().epoch().map(|epoch| epoch.video.codec);
    if codec == Some(VideoCodec::Mjpeg) {
        return viewer.refuse(501, NO_CODEC, &[]).await;
    }
    if !live.ask(order.stream, &viewer) {
        return refuse_without_room(viewer).await;
    }
    feed.note_hls();
    let number = order.argument("number").unwrap_or(0);
    match order.kind {
        LiveKind::Master => {
            let bits = feed.bits_per_second();
            let query = query_of(order.argument(QUALITY) == Some(QUALITY_SUB));
            let text = feed.window().epoch().map(|e| playlist_core::encode_master(e, bits, query));
            match text {
                Some(text) => viewer.reply(&shown.fields(PLAYLIST_TYPE), text.as_bytes()).await,
                None => refuse_without_picture(viewer).await,
            }
        }
        LiveKind::Init => {
            let found = feed.window().epoch_numbered(number).map(|epoch| encode_epoch_init(epoch));
            match found {
                Some(bytes) => viewer.reply(&shown.fields(MEDIA_TYPE), &bytes).await,
                None => not_found(viewer).await,
            }
        }
        LiveKind::Segment => {
            let parts = segment_parts(&feed.window(), number);
            send(&shown, viewer, parts).await
        }
        LiveKind::Part => send_part(&shown, viewer, number).await,
        _ => send_playlist(&shown, viewer, order).await,
    }
}

impl Shown {
    fn fields(&self, media_type: &'static str) -> [(&'static str, &'static str); 2] {
        [("Content-Type", media_type), self.field()]
    }
}

/// What goes behind each name in a playlist: the names are fetched as the playlist was.
fn query_of(is_sub: bool) -> &'static str {
    if is_sub { "?quality=sub" } else { "" }
}

async fn not_found(viewer: Viewer<'_>) -> Result<(), Stop> {
    viewer.refuse(404, "Segment not found", &[]).await
}

async fn wait<T>(
    feed: &Feed,
    viewer: &Viewer<'_>,
    find: impl FnMut(&Window) -> Option<T>,
) -> Waited<T> {
    let found = async { feed.wait_for(find).await.map_or(Waited::Closed, Waited::Found) };
    let late = async {
        Timer::after(BLOCK_MAX).await;
        Waited::Late
    };
    let left = async {
        viewer.closed().await;
        Waited::Left
    };
    or(found, or(late, left)).await
}

async fn send_playlist(shown: &Shown, viewer: Viewer<'_>, order: &LiveOrder) -> Result<(), Stop> {
    let wanted = order.argument("msn").map(|msn| (msn, order.argument("part")));
    let (feed, query) = (&shown.feed, query_of(shown.quality == Quality::Sub));
    let find = |window: &Window| {
        let delivery = wanted
            .map_or(Delivery::Ready, |(msn, part)| playlist_core::poll_delivery(window, msn, part));
        match delivery {
            Delivery::Ready => playlist_core::encode_playlist(window, query).map(Ok),
            Delivery::Wait => None,
            Delivery::Ahead => Some(Err(())),
        }
    };
    match wait(feed, &viewer, find).await {
        Waited::Found(Ok(text)) => {
            viewer.reply(&shown.fields(PLAYLIST_TYPE), text.as_bytes()).await
        }
        Waited::Found(Err(())) => {
            let what = "_HLS_msn: is too far ahead of the playlist";
            viewer.refuse(400, what, &[]).await
        }
        Waited::Late => viewer.refuse_for("no new segment came in time", 1).await,
        Waited::Closed => viewer.refuse(404, "Stream not found", &[]).await,
        Waited::Left => Err(Stop::Gone),
    }
}

/// Sends a part; one that the playlist hints at is waited for.
async fn send_part(shown: &Shown, viewer: Viewer<'_>, sequence: u64) -> Result<(), Stop> {
    let feed = &shown.feed;
    let find = |window: &Window| {
        let is_hinted = sequence == window.next_sequence();
        (!is_hinted).then(|| window.part(sequence).is_some())
    };
    match wait(feed, &viewer, find).await {
        Waited::Found(true) => {
            let found = one_part(&feed.window(), sequence);
            send(shown, viewer, found).await
        }
        Waited::Found(false) | Waited::Closed => not_found(viewer).await,
        Waited::Late => viewer.refuse_for("no new part came in time", 1).await,
        Waited::Left => Err(Stop::Gone),
    }
}

fn one_part(window: &Window, sequence: u64) -> Option<Vec<Fragment>> {
    let (segment, part) = window.part(sequence)?;
    Some(vec![encode_part(window, &segment.epoch, part)?])
}

/// The parts of a complete segment.
fn segment_parts(window: &Window, number: u64) -> Option<Vec<Fragment>> {
    let segment = window.segment(number).filter(|segment| segment.ticks.is_some())?;
    segment.parts.iter().map(|part| encode_part(window, &segment.epoch, part)).collect()
}

async fn send(
    shown: &Shown,
    viewer: Viewer<'_>,
    fragments: Option<Vec<Fragment>>,
) -> Result<(), Stop> {
    let Some(fragments) = fragments else { return not_found(viewer).await };
    let length = fragments.iter().map(|fragment| fragment.len).sum();
    viewer.begin(200, &shown.fields(MEDIA_TYPE), length).await?;
    if viewer.is_head() {
        return viewer.finish();
    }
    for fragment in fragments {
        let packets = {
            let window = shown.feed.window();
            let packets = fragment.packets.iter().map(|index| window.packet(*index).cloned());
            packets.collect::<Option<Vec<Arc<Packet>>>>()
        };
        // Too slow: a body without its end is what a player takes for an error.
        let Some(packets) = packets else { return Err(Stop::Gone) };
        let mut slices = Vec::with_capacity(1 + packets.len());
        slices.push(IoSlice::new(&fragment.head));
        slices.extend(packets.iter().map(|packet| IoSlice::new(&packet.data)));
        viewer.write_vectored(&mut slices).await?;
    }
    viewer.finish()
}
