//! The list of recordings, a page at a time: constant memory however many there are (ALL-BOUNDED).
//!
//! The client sees one document. The handler answers a piece of at most `PAGE_ROWS_MAX` rows and the
//! target whose answer follows it without a gap; the gate asks for that and appends. Each piece merges
//! rows with what runs: a running recording overrides its row, or stands in where it has none yet. The order is that
//! of time, for ids do not rise with it where a file was adopted.

use super::error::ApiError;
use super::query::RecordingsQuery;
use super::recordings::to_json;
use super::{Ctx, Reply};
use crate::nvr::snapshot::{RunningRecording, Snapshot};
use crate::store::row::RecordingRow;
use crate::store::{Place, RecordingQuery};

/// Rows per piece: some 80 KiB of text.
pub const PAGE_ROWS_MAX: usize = 256;

/// One piece of the merged list.
#[derive(Debug, PartialEq, Eq)]
struct Page {
    rows: Vec<RecordingRow>,
    /// Place behind which the next piece begins; `None` at the end of the list.
    continue_after: Option<Place>,
}

/// Places between which the list is wanted, exclusive.
type Bounds = (Option<Place>, Option<Place>);

/// The places that `after` and `before` stand for.
fn bounds(ctx: &Ctx, snapshot: &Snapshot, query: &RecordingsQuery) -> Result<Bounds, ApiError> {
    let of = |id: Option<u64>, is_before: bool| {
        let Some(id) = id else { return Ok(None) };
        match snapshot.running.iter().find(|running| running.id == id) {
            Some(running) => Ok(Some((running.start_ms, id))),
            None => ctx.store.place(id, is_before),
        }
    };
    Ok((of(query.after, false)?, of(query.before, true)?))
}

/// `GET /recordings`
pub fn list(ctx: &Ctx, query: &RecordingsQuery) -> Result<Reply, ApiError> {
    // Before the store: a recording that ends in between then still has its row.
    let snapshot = ctx.snapshot.load();
    let rows_max = query.limit.map_or(PAGE_ROWS_MAX, |left| {
        usize::try_from(left).map_or(PAGE_ROWS_MAX, |left| left.min(PAGE_ROWS_MAX))
    });
    let whole = bounds(ctx, &snapshot, query)?;
    let mut at = query.clone();
    let page = loop {
        let rows = ctx.store.recordings(&store_query(&at, whole, rows_max))?;
        let page = merge(&at, whole, rows, &snapshot, rows_max);
        // An empty piece can't say whether the next one begins with a comma.
        match page.continue_after {
            Some(last) if page.rows.is_empty() => at.continue_from = Some(last),
            _ => break page,
        }
    };
    Ok(encode(query, &page))
}

fn store_query(query: &RecordingsQuery, whole: Bounds, rows_max: usize) -> RecordingQuery {
    let (after, before) = query.bounds(whole.0, whole.1);
    RecordingQuery {
        stream_id: query.stream_id,
        start_ms: query.start_ms,
        end_ms: query.end_ms,
        is_protected: query.is_protected,
        before,
        after,
        limit: rows_max + 1, // one more tells whether there is a next piece
        descending: query.is_descending,
    }
}

/// Merges the store's next rows (`rows_max` + 1 of them, or all that are left) with what runs.
fn merge(
    query: &RecordingsQuery,
    whole: Bounds,
    mut rows: Vec<RecordingRow>,
    snapshot: &Snapshot,
    rows_max: usize,
) -> Page {
    // Beyond its last row the store has not been read: what runs there belongs to a later piece.
    let read_to = (rows.len() > rows_max).then(|| rows.last().map(RecordingRow::place)).flatten();
    let is_read = |at: Place| match read_to {
        None => true,
        Some(last) if query.is_descending => at >= last,
        Some(last) => at <= last,
    };
    let (after, before) = query.bounds(whole.0, whole.1);
    let is_wanted = |row: &RecordingRow| {
        is_read(row.place())
            && after.is_none_or(|after| row.place() > after)
            && before.is_none_or(|before| row.place() < before)
            && query.stream_id.is_none_or(|id| row.stream_id == id)
            && query.is_protected.is_none_or(|wanted| row.is_protected == wanted)
            && query.overlaps(row.start_ms, row.end_ms)
    };
    rows.retain(|row| !snapshot.running.iter().any(|running| running.id == row.id));
    rows.iter_mut().for_each(|row| row.in_progress = false);
    rows.extend(snapshot.running.iter().map(RunningRecording::row).filter(is_wanted));
    rows.sort_unstable_by_key(RecordingRow::place);
    if query.is_descending {
        rows.reverse();
    }
    let is_cut = rows.len() > rows_max;
    rows.truncate(rows_max);
    let continue_after = if is_cut { rows.last().map(RecordingRow::place) } else { read_to };
    Page { rows, continue_after }
}

fn encode(query: &RecordingsQuery, page: &Page) -> Reply {
    let mut is_first = query.continue_from.is_none();
    let mut body = String::with_capacity(32 + page.rows.len() * 320);
    if is_first {
        body.push_str(r#"{"recordings":["#);
    }
    for row in &page.rows {
        if !is_first {
            body.push(',');
        }
        is_first = false;
        body.push_str(&to_json(row));
    }
    let remaining = query.limit.map(|limit| limit.saturating_sub(page.rows.len() as u64));
    let next = page
        .continue_after
        .filter(|_| remaining != Some(0))
        .map(|last| query.continued(last, remaining));
    if next.is_none() {
        body.push_str("]}");
    }
    Reply::Page { body, next }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::api::query::parse_recordings;
    use crate::config::settings::Settings;
    use crate::nvr::snapshot::RunningRecording;

    fn row(id: u64) -> RecordingRow {
        RecordingRow {
            id,
            stream_id: u32::try_from(id % 3).expect("small"),
            stream_name: "cam".into(),
            start_ms: i64::try_from(id).expect("small") * 1000,
            end_ms: i64::try_from(id).expect("small") * 1000 + 900,
            size: 7,
            path: "/r.mp4".into(),
            in_progress: false,
            is_protected: id.is_multiple_of(5),
            boot: 0,
        }
    }

    fn snapshot(running: &[u64]) -> Snapshot {
        let run = |id: &u64| RunningRecording {
            id: *id,
            stream_id: row(*id).stream_id,
            stream_name: "cam".into(),
            start_ms: row(*id).start_ms,
            end_ms: row(*id).end_ms,
            size: 9,
            path: "/r.mp4".into(),
            is_protected: row(*id).is_protected,
        };
        Snapshot {
            streams: vec![],
            settings: Settings::new("/data".into()),
            running: running.iter().map(run).collect(),
            ailments: vec![],
            ledger: vec![],
            forecast: vec![],
            is_initial_password: false,
            at_ms: 0,
        }
    }

    /// What a store that holds `ids` answers.
    fn stored(ids: &[u64], query: &RecordingQuery) -> Vec<RecordingRow> {
        let overlap = RecordingsQuery {
            start_ms: query.start_ms,
            end_ms: query.end_ms,
            ..RecordingsQuery::default()
        };
        let mut rows: Vec<RecordingRow> = ids
            .iter()
            .map(|&id| row(id))
            .filter(|row| query.stream_id.is_none_or(|id| row.stream_id == id))
            .filter(|row| query.after.is_none_or(|after| row.place() > after))
            .filter(|row| query.before.is_none_or(|before| row.place() < before))
            .filter(|row| overlap.overlaps(row.start_ms, row.end_ms))
            .filter(|row| query.is_protected.is_none_or(|wanted| row.is_protected == wanted))
            .collect();
        if query.descending {
            rows.reverse();
        }
        rows.truncate(query.limit);
        rows
    }

    /// Follows the pieces as the gate does and answers the whole document.
    fn whole(ids: &[u64], running: &[u64], query: &str, page_max: usize) -> String {
        let snapshot = snapshot(running);
        let mut query = parse_recordings(query, false).expect("valid");
        let at = |id: Option<u64>| id.map(|id| row(id).place());
        let bounds = (at(query.after), at(query.before));
        let mut body = String::new();
        loop {
            let rows_max = page_max.min(query.limit.unwrap_or(u64::MAX) as usize);
            let mut at = query.clone();
            let page = loop {
                let rows = stored(ids, &store_query(&at, bounds, rows_max));
                let page = merge(&at, bounds, rows, &snapshot, rows_max);
                match page.continue_after {
                    Some(last) if page.rows.is_empty() => at.continue_from = Some(last),
                    _ => break page,
                }
            };
            let Reply::Page { body: piece, next } = encode(&query, &page) else { panic!("page") };
            body.push_str(&piece);
            let Some(next) = next else { return body };
            let (_, text) = next.split_once('?').expect("a query");
            query = parse_recordings(text, true).expect("its own continuation");
        }
    }

    fn ids_of(document: &str) -> Vec<u64> {
        let list = document.strip_prefix("{\"recordings\":[").expect("the beginning");
        assert!(document.ends_with("]}") && !list.contains(",]") && !list.starts_with(','));
        let ids = list.split("{\"id\":").skip(1);
        ids.map(|part| part.split(',').next().expect("id").parse().expect("number")).collect()
    }

    #[test]
    fn an_empty_list_is_a_whole_document() {
        assert_eq!(whole(&[], &[], "", 4), r#"{"recordings":[]}"#);
    }

    #[test]
    fn pieces_make_one_document_in_both_directions() {
        let ids: Vec<u64> = (1..=9).collect();
        assert_eq!(ids_of(&whole(&ids, &[], "", 4)), ids);
        let down: Vec<u64> = (1..=9).rev().collect();
        assert_eq!(ids_of(&whole(&ids, &[], "order=desc", 4)), down);
        assert_eq!(ids_of(&whole(&ids, &[], "order=desc&limit=5", 4)), down[..5]);
        assert_eq!(ids_of(&whole(&ids, &[], "limit=8", 4)), ids[..8]);
        assert_eq!(ids_of(&whole(&ids, &[], "after=2&before=8&stream_id=0", 1)), [3, 6]);
        assert_eq!(ids_of(&whole(&ids, &[10], "protected=true", 2)), [5, 10]);
        assert_eq!(
            ids_of(&whole(&ids, &[10], "protected=false&before=6&order=desc", 2)),
            [4, 3, 2, 1]
        );
    }

    #[test]
    fn what_runs_overrides_its_row_or_stands_in_for_it() {
        let document = whole(&[1, 2, 3], &[2, 5], "", 4);
        assert_eq!(ids_of(&document), [1, 2, 3, 5]);
        assert_eq!(document.matches("\"in_progress\":true").count(), 2);
        assert_eq!(document.matches("\"size\":9").count(), 2);
    }

    proptest! {
        #[test]
        fn every_recording_is_listed_once_whatever_the_page_size(
            ids in proptest::collection::btree_set(1u64..60, 0..40),
            running in proptest::collection::btree_set(1u64..60, 0..20),
            page_max in 1usize..9,
            bounds in (0u64..60, 0u64..60),
            is_descending in any::<bool>(),
            limit in 1usize..60,
        ) {
            let ids: Vec<u64> = ids.into_iter().collect();
            let running: Vec<u64> = running.into_iter().collect();
            let order = if is_descending { "desc" } else { "asc" };
            let query = format!("after={}&before={}&order={order}&limit={limit}", bounds.0, bounds.1);
            let mut want: Vec<u64> =
                (1..60).filter(|id| ids.contains(id) || running.contains(id)).collect();
            want.retain(|&id| id > bounds.0 && id < bounds.1);
            if is_descending {
                want.reverse();
            }
            want.truncate(limit);
            prop_assert_eq!(ids_of(&whole(&ids, &running, &query, page_max)), want);
        }
    }
}
