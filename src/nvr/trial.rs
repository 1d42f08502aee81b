//! Trials of cameras: one at a time, and none where a stream that runs knows the answer.
//!
//! In here: who answers, and the picture. Not in here: the look at a source (`stream/trial.rs`), words
//! (`ingest/advice.rs`), JSON (`api/trial.rs`).

use std::cell::Cell;
use std::sync::Arc;

use smol::future::or;

use super::orders::Orders;
use super::snapshot::{Actual, StreamStatus};
use crate::api::trial::{Seen, failed_json, seen_json};
use crate::api::wire::TrialOrder;
use crate::config::stream::{StreamConfig, StreamPatch};
use crate::http::viewer::{Stop, Viewer};
use crate::ingest::{Unit, advice};
use crate::live::snapshot::shoot;
use crate::media::packet::{Packet, Run};
use crate::stream::trial::{TrialError, run};
use crate::stream::trial_core::{Facts, Progress};

/// Widest picture that is answered, in pixels.
const PICTURE_WIDTH_MAX: u16 = 640;
/// How soon a client that is turned away may come back.
const RETRY_S: u32 = 5;

/// Whether a trial is under way.
#[derive(Debug, Default)]
pub struct Turn(Cell<bool>);

/// The one turn; dropping it gives it back.
pub(super) struct Taken<'a>(&'a Cell<bool>);

impl Turn {
    pub(super) fn take(&self) -> Option<Taken<'_>> {
        (!self.0.replace(true)).then_some(Taken(&self.0))
    }
}

impl Drop for Taken<'_> {
    fn drop(&mut self) {
        self.0.set(false);
    }
}

/// Serves `POST /streams/test`.
pub async fn serve(orders: &Orders, order: TrialOrder, viewer: Viewer<'_>) -> Result<(), Stop> {
    let Some(_turn) = orders.trial.take() else {
        return viewer.refuse_for("another camera is being tested; one at a time", RETRY_S).await;
    };
    let answered = async { Ok(answer(orders, &order).await) };
    let left = async {
        viewer.closed().await;
        Err(Stop::Gone)
    };
    let body = or(answered, left).await?;
    viewer.reply(&[("Content-Type", "application/json")], body.as_bytes()).await
}

async fn answer(orders: &Orders, order: &TrialOrder) -> String {
    if let Some((facts, key)) = of_running(orders, order) {
        return seen(orders, facts, key).await;
    }
    let config = match config(order) {
        Ok(config) => config,
        Err(what) => return failed_json(&what, "Correct the URL."),
    };
    match run(&config, &orders.nvr.parts.codec).await {
        Ok((facts, unit)) => seen(orders, facts, Some(packet(unit))).await,
        Err(TrialError::Ingest(error)) => {
            let (reason, what_to_do) = advice::explain(&error, config.url.contains('@'));
            failed_json(&reason, what_to_do)
        }
        Err(TrialError::Late { progress, within }) => {
            let has_answered = progress != Progress::Connecting;
            let has_pictures = progress == Progress::Pictures;
            let (reason, what_to_do) =
                advice::explain_late(has_answered, has_pictures, within.as_secs());
            failed_json(&reason, what_to_do)
        }
    }
}

fn config(order: &TrialOrder) -> Result<StreamConfig, String> {
    let patch = StreamPatch {
        name: Some("Test".into()),
        url: Some(order.url.clone()),
        codec: Some(order.codec),
        width: Some(order.width),
        height: Some(order.height),
        fps: Some(order.fps),
        transport: Some(order.transport),
        tls_fingerprint: Some(order.tls_fingerprint),
        ..StreamPatch::default()
    };
    StreamConfig::from_patch(0, &patch).map_err(|error| format!("{}: {}", error.field, error.what))
}

/// What a stream that is connected to this very URL knows: a camera may have no second session. The test
/// pattern is another one in another size.
fn of_running(orders: &Orders, order: &TrialOrder) -> Option<(Facts, Option<Arc<Packet>>)> {
    let is_camera = !order.url.starts_with("testpattern:");
    let (wish, way) =
        ((order.width, order.height, order.fps), (order.transport, order.tls_fingerprint));
    let mut found = None;
    orders.nvr.each_stream(|config, hub| {
        let is_same = config.url == order.url
            && (config.transport, config.tls_fingerprint) == way
            && (is_camera || (config.width, config.height, config.fps) == wish);
        let Some(view) = hub.filter(|_| is_same).map(|hub| hub.view()) else { return };
        let is_connected = view.status == StreamStatus::Connected;
        let actual = view.actual.filter(|actual| is_connected && actual.bitrate > 0);
        found = actual.map(|actual| (config.id, actual, view.advice)).or(found.take());
    });
    let (id, actual, advice) = found?;
    Some((facts_of(&actual, advice), orders.nvr.parts.live.newest_key(id)))
}

fn facts_of(actual: &Actual, advice: Vec<String>) -> Facts {
    Facts {
        codec: actual.codec,
        width: actual.width,
        height: actual.height,
        fps: Some(actual.fps),
        keyframe_interval_s: Some(actual.keyframe_interval).filter(|seconds| *seconds > 0.0),
        bitrate: Some(actual.bitrate as f64),
        audio: actual.audio,
        advice,
    }
}

async fn seen(orders: &Orders, facts: Facts, key: Option<Arc<Packet>>) -> String {
    let picture = match key {
        Some(key) => shoot(&orders.nvr.parts.codec, &key, PICTURE_WIDTH_MAX).await,
        None => None,
    };
    seen_json(&Seen {
        codec: facts.codec,
        width: facts.width,
        height: facts.height,
        fps: facts.fps,
        keyframe_interval: facts.keyframe_interval_s,
        bitrate: facts.bitrate,
        audio: facts.audio,
        advice: facts.advice,
        picture: picture.map(|jpeg| jpeg.to_vec()),
    })
}

/// The keyframe as the decoder wants it: alone in a run of its own.
fn packet(unit: Unit) -> Arc<Packet> {
    Arc::new(Packet {
        seq: 0,
        run: Arc::new(Run { id: 0, audio: None }),
        track: unit.track,
        pts: unit.pts,
        dts: unit.dts,
        is_key: true,
        is_damaged: unit.is_damaged,
        wall_ms: 0,
        data: unit.data,
    })
}
