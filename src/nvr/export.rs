//! Exports: a stream's recordings of a span as one MP4, a few at a time.
//!
//! In here: who may, and what goes wrong in words. Not in here: what is in the file (`record/export.rs`).

use std::cell::Cell;

use smol::future::or;

use super::orders::Orders;
use crate::api::wire::ExportOrder;
use crate::http::viewer::{Stop, Viewer, blocking};
use crate::record::export::{Export, ExportError, RECORDINGS_MAX};
use crate::system::clock;

/// Exports at once: each takes a thread of the pool of downloads a piece at a time.
const EXPORTS_MAX: u32 = 2;
/// How soon a client that is turned away may come back.
const RETRY_S: u32 = 10;

/// How many exports are under way.
#[derive(Debug, Default)]
pub struct Places(Cell<u32>);

/// One of them; dropping it gives it back.
struct Place<'a>(&'a Cell<u32>);

impl Places {
    fn take(&self) -> Option<Place<'_>> {
        let taken = self.0.get();
        (taken < EXPORTS_MAX).then(|| self.0.set(taken + 1)).map(|()| Place(&self.0))
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}

/// Serves `GET /streams/{id}/export.mp4`.
pub async fn serve(
    orders: &Orders,
    order: ExportOrder,
    mut viewer: Viewer<'_>,
) -> Result<(), Stop> {
    let Some(_place) = orders.exports.take() else {
        return viewer.refuse_for("too many exports at once", RETRY_S).await;
    };
    let parts = &orders.nvr.parts;
    let span = (order.start_ms, order.end_ms);
    let store = parts.recordings.store.reader();
    let export = Export::new(store, parts.cell.clone(), order.stream_id, span);
    let planned = async { Ok(plan(export).await) };
    let left = async {
        viewer.closed().await;
        Err(Stop::Gone)
    };
    let mut export = match or(planned, left).await? {
        Ok(export) => export,
        Err(error) => return refuse(viewer, &order, error).await,
    };
    let fields =
        [("Content-Type", "video/mp4"), ("Content-Disposition", order.disposition.as_str())];
    viewer.begin_chunks(&fields).await?;
    while !viewer.is_head() {
        let read;
        (read, export) = blocking(move || (export.read(), export)).await;
        match read {
            Ok(Some(piece)) => viewer.write_chunk(&piece).await?,
            Ok(None) => break,
            Err(error) => {
                // The head is out: a body without its end is all that can be said.
                log::error!("export of stream {}: {error:?}", order.stream_id);
                return Err(Stop::Gone);
            }
        }
    }
    viewer.finish_chunks().await
}

async fn plan(mut export: Export) -> Result<Export, ExportError> {
    loop {
        let planned;
        (planned, export) = blocking(move || (export.plan(), export)).await;
        if planned? {
            return Ok(export);
        }
    }
}

async fn refuse(viewer: Viewer<'_>, order: &ExportOrder, error: ExportError) -> Result<(), Stop> {
    match error {
        ExportError::Empty => {
            viewer.refuse(404, "nothing of this stream is recorded in this time", &[]).await
        }
        ExportError::TooMany => {
            let what = format!(
                "this time holds more than {RECORDINGS_MAX} recordings; export a shorter one"
            );
            viewer.refuse_saying(422, &what).await
        }
        ExportError::Differs { at_ms, what } => {
            let at = clock::iso_milliseconds(at_ms);
            let what = format!(
                "{what} at {at}, and one MP4 can't hold both: export up to that moment, and from it on"
            );
            viewer.refuse_saying(409, &what).await
        }
        ExportError::Failed(what) => {
            log::error!("export of stream {}: {what}", order.stream_id);
            viewer.refuse_for("a recording can't be read now; the log says which", RETRY_S).await
        }
    }
}
