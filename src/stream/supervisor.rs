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
use crate::config::device;
use crate::config::fingerprint::Fingerprint;
use crate::config::stream::StreamConfig;
use crate::config::transport::Transport;
use crate::ingest::v4l2_core::Wish;
use crate::ingest::{IngestError, SourceEvent, rtsp, testpattern, v4l2};
use crate::media::format::VideoCodec;
use crate::media::packet::Track;
use crate::nvr::snapshot::StreamStatus;
use crate::system::pool::Pool;
use crate::system::wait::{self, Stopping};

/// What is fetched.
pub struct Source {
    /// With the camera's password in it.
    pub url: String,
    /// Shown in a test pattern.
    pub label: String,
    /// What a local camera is asked for.
    pub codec: VideoCodec,
    /// Of a test pattern or a local camera; 0 for its own.
    pub width: u16,
    pub height: u16,
    pub fps: u16,
    pub transport: Transport,
    pub tls_fingerprint: Option<Fingerprint>,
}

impl Source {
    /// The feed that is recorded.
    pub fn main(config: &StreamConfig) -> Self {
        Self {
            url: config.url.clone(),
            label: config.name.clone(),
            codec: config.codec,
            width: config.width,
            height: config.height,
            fps: config.fps,
            transport: config.transport,
            tls_fingerprint: config.tls_fingerprint,
        }
    }
}

/// Runs until `stop` asks. Takes at most a second longer: the camera is told goodbye.
pub async fn run(config: StreamConfig, hub: Rc<Hub>, codec: Pool, stop: Stopping) {
    let mut backoff = Backoff::default();
    let mut last_why = String::new();
    let source = Source::main(&config);
    while !stop.is_asked() {
        let mut is_good = false;
        let mut sink = |event: SourceEvent| {
            is_good |= is_keyframe(&event);
            hub.deliver(event);
        };
        let is_watched = || hub.is_watched();
        let session =
            AssertUnwindSafe(session(&source, &codec, &mut sink, &is_watched, stop.asked()));
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
                let cause = cause(&error);
                let is_passing = matches!(cause, Cause::Passing | Cause::Unplugged);
                let status =
                    if is_passing { StreamStatus::Reconnecting } else { StreamStatus::Error };
                (status, cause, error.to_string())
            }
            Ok(()) => (StreamStatus::Reconnecting, Cause::Passing, "the source ended".to_owned()),
        };
        let pause = backoff.next(is_good, cause, random());
        // What is looked for every 2 s is said once.
        let is_known = cause == Cause::Unplugged && why == last_why;
        let level = if is_known { log::Level::Debug } else { log::Level::Warn };
        log::log!(level, "stream {}: {why}; next try in {} s", config.id, pause.as_secs().max(1));
        last_why.clone_from(&why);
        hub.set_status(status, why);
        wait::pause(pause).or(stop.asked()).await;
    }
}

/// What the pause after this error depends on.
pub(super) fn cause(error: &IngestError) -> Cause {
    match error {
        IngestError::Unauthorized => Cause::Unauthorized,
        IngestError::Refused { .. } => Cause::Refused,
        IngestError::Unplugged { .. } => Cause::Unplugged,
        _ => Cause::Passing,
    }
}

/// Whether a recording can begin here. Frames of sound are all keys, and say nothing about the video.
pub(super) fn is_keyframe(event: &SourceEvent) -> bool {
    matches!(event, SourceEvent::Unit(unit) if unit.is_key && matches!(unit.track, Track::Video(_)))
}

pub(super) fn random() -> u32 {
    // Without randomness there is no jitter, which only matters after a power cut of the whole house.
    getrandom::u32().unwrap_or(256)
}

/// One session of a source, until it ends or `stop` does.
pub(super) async fn session(
    source: &Source,
    codec: &Pool,
    sink: &mut dyn FnMut(SourceEvent),
    is_watched: &dyn Fn() -> bool,
    stop: impl Future<Output = ()>,
) -> Result<(), IngestError> {
    if source.url.starts_with("testpattern:") {
        let request = testpattern::PatternRequest {
            label: source.label.clone(),
            width: source.width,
            height: source.height,
            fps: source.fps,
        };
        return testpattern::run(request, codec, sink, stop).await;
    }
    if let Some(path) = device::path_of(&source.url) {
        let Source { codec: wanted, width, height, fps, .. } = *source;
        let wish = Wish { codec: wanted, width, height, fps };
        let request = v4l2::Request { path: path.to_owned(), wish };
        return v4l2::run(request, codec, sink, stop).await;
    }
    let target = rtsp::Target {
        url: &source.url,
        transport: source.transport,
        tls_fingerprint: source.tls_fingerprint,
    };
    rtsp::run(target, sink, is_watched, stop).await
}

/// How long a stream may take to end before it is cut off.
pub const STOP_MAX: Duration = Duration::from_millis(1000);
