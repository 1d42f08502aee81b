//! The ledger of one stream: every second of a time is recorded or has a reason.
//!
//! In here: which sources speak in which order. Not in here: the algebra (`ledger/span_core`). Recordings come from
//! the index by time and are joined as they are read, so that memory is bounded by what is answered.

use miniserde::{Serialize, json};

use super::error::ApiError;
use super::query::LedgerQuery;
use super::{Ctx, Reply};
use crate::ledger::span_core::{Cover, Joiner, Layer, Span, State, recorded_share};
use crate::nvr::snapshot::{Snapshot, StreamStatus};
use crate::store::spans::Life;
use crate::system::clock;

/// Spans of one source, and of one answer.
const SPANS_MAX: usize = 5000;
/// Recordings that are looked at: a month of files of ten seconds.
const RECORDINGS_MAX: usize = 300_000;
/// What a recorder that does well has not written yet: the fragment that is being built, and a sync round.
const TAIL_MS_MAX: i64 = 5000;
/// Neighbours beyond the range that say what its ends are.
const MARGIN_MS: i64 = 120_000;

#[derive(Serialize)]
struct LedgerOut {
    stream_id: u32,
    start: String,
    end: String,
    recorded_share: f64,
    spans: Vec<SpanOut>,
}

#[derive(Serialize)]
struct SpanOut {
    start: String,
    end: String,
    state: &'static str,
}

/// `GET /streams/{id}/ledger`
pub fn get(ctx: &Ctx, stream_id: u32, query: &LedgerQuery) -> Result<Reply, ApiError> {
    // Before the store: what is committed in between is then seen twice, not never.
    let snapshot = ctx.snapshot.load();
    let now_ms = clock::wall_ms();
    let (start_ms, end_ms) = query.range(now_ms);
    let spans = whole(ctx, &snapshot, stream_id, (start_ms, end_ms), now_ms)?;
    Ok(Reply::Json(json::to_string(&LedgerOut {
        stream_id,
        start: clock::iso_milliseconds(start_ms),
        end: clock::iso_milliseconds(end_ms),
        recorded_share: (recorded_share(&spans) * 1e6).round() / 1e6,
        spans: spans.iter().map(SpanOut::new).collect(),
    })))
}

impl SpanOut {
    fn new(span: &Span) -> Self {
        Self {
            start: clock::iso_milliseconds(span.start_ms),
            end: clock::iso_milliseconds(span.end_ms),
            state: span.state.name(),
        }
    }
}

fn whole(
    ctx: &Ctx,
    snapshot: &Snapshot,
    stream_id: u32,
    (start_ms, end_ms): (i64, i64),
    now_ms: i64,
) -> Result<Vec<Span>, ApiError> {
    let wide = (start_ms.saturating_sub(MARGIN_MS), end_ms.saturating_add(MARGIN_MS).min(now_ms));
    let recorded = recorded(ctx, snapshot, stream_id, wide)?;
    let mut layers = Vec::new();
    for layer in [Layer::Exact, Layer::Deleted, Layer::Reason] {
        let mut spans = ctx.store.spans(stream_id, layer, wide, SPANS_MAX + 1)?;
        let live = snapshot
            .ledger
            .iter()
            .filter(|entry| entry.stream_id == stream_id && entry.layer == layer);
        for entry in live {
            // The newer one knows the end.
            spans.retain(|span| span.start_ms != entry.span.start_ms);
            spans.push(entry.span);
        }
        layers.push(bounded(spans)?);
    }
    let [exact, deleted, reasons] = layers.try_into().unwrap_or_default();
    let life = ctx.store.life(stream_id)?;
    let view = snapshot.streams.iter().find(|view| view.config.id == stream_id);
    let is_known = view.is_some() || life.is_some() || !recorded.is_empty() || !deleted.is_empty();
    if !is_known && !is_known_elsewhere(ctx, stream_id)? {
        return Err(ApiError::NotFound("Stream not found"));
    }
    let mut cover = Cover::new(wide.0, wide.1);
    cover.paint(exact);
    cover.paint(recorded.iter().copied());
    cover.paint(deleted);
    cover.paint(reasons);
    cover.paint(outside(life.as_ref()));
    let is_connected = view.is_some_and(|view| view.status == StreamStatus::Connected);
    let is_written = snapshot.running.iter().any(|running| running.stream_id == stream_id);
    if is_connected && is_written && wide.1 == now_ms {
        cover.paint(tail(&cover, now_ms));
    }
    let spans = cover.finish();
    let clipped = spans.into_iter().filter_map(|span| span.clipped(start_ms, end_ms));
    bounded(clipped.collect())
}

/// A stream that was deleted long ago is known by its recordings.
fn is_known_elsewhere(ctx: &Ctx, stream_id: u32) -> Result<bool, ApiError> {
    Ok(ctx.store.newest(stream_id)?.is_some())
}

fn bounded(spans: Vec<Span>) -> Result<Vec<Span>, ApiError> {
    if spans.len() > SPANS_MAX { Err(too_many()) } else { Ok(spans) }
}

fn too_many() -> ApiError {
    let what = format!("the time holds more than {SPANS_MAX} spans; ask for a shorter one");
    ApiError::field("start", what)
}

fn recorded(
    ctx: &Ctx,
    snapshot: &Snapshot,
    stream_id: u32,
    wide: (i64, i64),
) -> Result<Vec<Span>, ApiError> {
    let span = |start_ms, end_ms| Span { start_ms, end_ms, state: State::Recorded };
    let running: Vec<_> =
        snapshot.running.iter().filter(|running| running.stream_id == stream_id).collect();
    let (mut joiner, mut count, mut is_over) = (Joiner::default(), 0, false);
    ctx.store.visit_time(stream_id, wide, |row| {
        count += 1;
        let is_running = running.iter().any(|running| running.id == row.id);
        let spans = if is_running { 0 } else { joiner.push(span(row.start_ms, row.end_ms)) };
        is_over = count > RECORDINGS_MAX || spans > SPANS_MAX;
        !is_over
    })?;
    if is_over {
        return Err(too_many());
    }
    let mut spans = joiner.done();
    spans.extend(running.iter().map(|running| span(running.start_ms, running.end_ms)));
    spans.sort_by_key(|span| span.start_ms);
    let mut joiner = Joiner::default();
    for span in spans {
        joiner.push(span);
    }
    Ok(joiner.done())
}

/// Before a stream was added, and after it was deleted.
fn outside(life: Option<&Life>) -> Vec<Span> {
    let Some(life) = life else { return Vec::new() };
    let span = |start_ms, end_ms| Span { start_ms, end_ms, state: State::NotConfigured };
    let after = life.removed_ms.map(|removed_ms| span(removed_ms, i64::MAX));
    [span(i64::MIN, life.created_ms)].into_iter().chain(after).collect()
}

/// The last seconds of a stream that sends: they are on their way to the disk. If that takes too long, the disk
/// is behind; what it writes later is `recorded` then.
fn tail(cover: &Cover, now_ms: i64) -> Option<Span> {
    let (start_ms, end_ms) = cover.holes().pop().filter(|hole| hole.1 == now_ms)?;
    let is_short = end_ms - start_ms <= TAIL_MS_MAX;
    let state = if is_short { State::Recorded } else { State::DiskStalled };
    Some(Span { start_ms, end_ms, state })
}
