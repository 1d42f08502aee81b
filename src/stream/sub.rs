//! Fetches the sub-stream, the small feed of the same camera, while somebody needs it.
//!
//! In here: opening, closing, back-off. Not in here: who needs it and what is shown in its place
//! (`live/sub_feed.rs`). What happens here never touches the main stream, nor what is recorded.

use std::cell::Cell;
use std::panic::AssertUnwindSafe;
use std::rc::Rc;

use smol::future::FutureExt;

use super::backoff_core::Backoff;
use super::stamp_core::Stamp;
use super::supervisor::{Source, cause, is_keyframe, random, session};
use crate::config::stream::StreamConfig;
use crate::ingest::{IngestError, SourceEvent};
use crate::live::sub_feed::SubFeed;
use crate::system::clock;
use crate::system::pool::Pool;
use crate::system::wait::{self, Stopping};

/// Size of the test pattern where it plays a sub-stream.
const PATTERN_SIZE: (u16, u16) = (640, 360);

/// Where the sub-stream of this stream comes from, if it has one.
pub fn source(config: &StreamConfig) -> Option<Source> {
    let (width, height) = PATTERN_SIZE;
    let url = config.sub_url.clone()?;
    Some(Source { url, width, height, ..Source::main(config) })
}

/// Runs until `stop` asks. `id` is the stream's.
pub async fn run(id: u32, source: Source, sub: Rc<SubFeed>, codec: Pool, stop: Stopping) {
    let (mut backoff, mut stamp) = (Backoff::default(), Stamp::default());
    while !stop.is_asked() {
        if !sub.is_needed() {
            sub.needed().or(stop.asked()).await;
            // It is not known any more.
            sub.set_failing(false);
            continue;
        }
        let is_good = Cell::new(false);
        let mut sink = |event: SourceEvent| {
            if is_keyframe(&event) && !is_good.replace(true) {
                sub.set_note(None);
                sub.set_failing(false);
            }
            deliver(&sub, &mut stamp, event);
        };
        // Who comes from now on waits for the next session: its pictures are not of this one, which may take a while to
        // say goodbye.
        let enough = async {
            sub.unneeded().or(stop.asked()).await;
            sub.feed().forget();
        };
        let session = AssertUnwindSafe(session(&source, &codec, &mut sink, &|| true, enough));
        let ended = session.catch_unwind().await.unwrap_or_else(|_| {
            Err(IngestError::Connection { what: "internal error in this stream".into() })
        });
        sub.feed().end_run();
        stamp.end();
        let Err(error) = ended else {
            sub.feed().forget();
            backoff = Backoff::default();
            continue;
        };
        let pause = backoff.next(is_good.get(), cause(&error), random());
        log::warn!("stream {id}: sub-stream: {error}; next try in {} s", pause.as_secs().max(1));
        sub.set_note(Some(format!("sub-stream: {error}; the main stream is shown in its place")));
        sub.set_failing(true);
        wait::pause(pause).or(stop.asked()).await;
    }
}

fn deliver(sub: &SubFeed, stamp: &mut Stamp, event: SourceEvent) {
    match event {
        SourceEvent::Started { audio, .. } => stamp.start(audio),
        SourceEvent::AudioChanged(audio) => stamp.set_audio(audio),
        SourceEvent::Unit(unit) => {
            if let Some((packet, _)) = stamp.packet(unit, clock::wall_ms()) {
                sub.feed().push(packet.into());
            }
        }
        // Advice is for the stream that is recorded.
        SourceEvent::Advice(_) | SourceEvent::NoSound(_) => {}
    }
}
