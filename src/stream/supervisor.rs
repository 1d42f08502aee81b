//! Keeps one stream's source running: connect, deliver, wait, again, for ever.
//!
//! In here: which source a URL names, back-off, what the API shows meanwhile. A panic in a source is caught
//! here and costs only this stream a reconnect.

use std::panic::AssertUnwindSafe;
use std::rc::Rc;
use std::time::Duration;

use smol::future::FutureExt;

use super::backoff_core::{Backoff, Cause};
use super::hub::Hub;
use crate::config::stream::StreamConfig;
use crate::ingest::{IngestError, SourceEvent, rtsp, testpattern};
use crate::media::packet::Track;
use crate::nvr::snapshot::StreamStatus;
use crate::system::pool::Pool;
use crate::system::wait::{self, Stopping};

/// Runs until `stop` asks. Takes at most a second longer: the camera is told goodbye.
pub async fn run(config: StreamConfig, hub: Rc<Hub>, codec: Pool, stop: Stopping) {
    let mut backoff = Backoff::default();
    while !stop.is_asked() {
        let mut is_good = false;
        let mut sink = |event: SourceEvent| {
            is_good |= is_keyframe(&event);
            hub.deliver(event);
        };
        let is_watched = || hub.is_watched();
        let session = AssertUnwindSafe(session(&config, &codec, &mut sink, &is_watched, &stop));
        let ended = session.catch_unwind().await.unwrap_or_else(|_| {
            Err(IngestError::Connection {
                what: "internal error in this stream, see the log".into(),
            })
        });
        hub.end_run();
        if stop.is_asked() {
            return;
        }
        let (status, cause, why) = match ended {
            Err(error) => {
                let (status, cause) = match error {
                    IngestError::Unauthorized => (StreamStatus::Error, Cause::Unauthorized),
                    IngestError::Refused { .. } => (StreamStatus::Error, Cause::Refused),
                    _ => (StreamStatus::Reconnecting, Cause::Passing),
                };
                (status, cause, error.to_string())
            }
            Ok(()) => (StreamStatus::Reconnecting, Cause::Passing, "the source ended".to_owned()),
        };
        let pause = backoff.next(is_good, cause, random());
        log::warn!("stream {}: {why}; next try in {} s", config.id, pause.as_secs().max(1));
        hub.set_status(status, why);
        wait::pause(pause).or(stop.asked()).await;
    }
}

/// Whether a recording can begin here. Frames of sound are all keys, and say nothing about the video.
fn is_keyframe(event: &SourceEvent) -> bool {
    matches!(event, SourceEvent::Unit(unit) if unit.is_key && matches!(unit.track, Track::Video(_)))
}

fn random() -> u32 {
    // Without randomness there is no jitter, which only matters after a power cut of the whole house.
    getrandom::u32().unwrap_or(256)
}

async fn session(
    config: &StreamConfig,
    codec: &Pool,
    sink: &mut dyn FnMut(SourceEvent),
    is_watched: &dyn Fn() -> bool,
    stop: &Stopping,
) -> Result<(), IngestError> {
    if config.url.starts_with("testpattern:") {
        let request = testpattern::PatternRequest {
            label: config.name.clone(),
            width: config.width,
            height: config.height,
            fps: config.fps,
        };
        return testpattern::run(request, codec, sink, stop.asked()).await;
    }
    let target = rtsp::Target {
        url: &config.url,
        transport: config.transport,
        tls_fingerprint: config.tls_fingerprint,
    };
    rtsp::run(target, sink, is_watched, stop.asked()).await
}

/// How long a stream may take to end before it is cut off.
pub const STOP_MAX: Duration = Duration::from_millis(1000);
