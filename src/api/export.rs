//! `GET /streams/{id}/export.mp4`: whether there is anything to export, and its name. The file itself is put
//! together by the recorder (`nvr/export.rs`), to which the gate hands the connection.

use super::error::ApiError;
use super::query::ExportQuery;
use super::recordings::disposition;
use super::wire::{ExportOrder, Order};
use super::{Ctx, Reply};
use crate::store::RecordingQuery;
use crate::system::clock;

/// `GET /streams/{id}/export.mp4`
pub fn get(ctx: &Ctx, stream_id: u32, query: &ExportQuery) -> Result<Reply, ApiError> {
    let snapshot = ctx.snapshot.load();
    let &ExportQuery { start_ms, end_ms } = query;
    let wanted = RecordingQuery {
        stream_id: Some(stream_id),
        start_ms: Some(start_ms),
        end_ms: Some(end_ms),
        limit: 1,
        ..RecordingQuery::default()
    };
    let row = ctx.store.recordings(&wanted)?.pop();
    let running = snapshot.running.iter().find(|running| {
        running.stream_id == stream_id && running.start_ms < end_ms && running.end_ms > start_ms
    });
    let first = row.map(|row| (row.stream_name, row.start_ms));
    let first = first.or(running.map(|r| (r.stream_name.clone(), r.start_ms)));
    let Some((name, first_ms)) = first else {
        let is_known = snapshot.streams.iter().any(|view| view.config.id == stream_id)
            || ctx.store.life(stream_id)?.is_some()
            || ctx.store.newest(stream_id)?.is_some();
        return Err(ApiError::NotFound(if is_known {
            "nothing of this stream is recorded in this time"
        } else {
            "Stream not found"
        }));
    };
    let name = format!("{name} {}.mp4", clock::file_name_time(start_ms.max(first_ms)));
    let disposition = disposition(&name);
    Ok(Reply::Order(Order::Export(ExportOrder { stream_id, start_ms, end_ms, disposition })))
}
