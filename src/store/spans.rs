//! The ledger's part of the store: spans of time with their reasons, since when and until when a stream was
//! configured, and the recorder's own last sign of life.

use redb::{
    ReadTransaction, ReadableTable, ReadableTableMetadata, Table, TableDefinition, WriteTransaction,
};

use super::bytes::{Reader, Writer};
use super::{StoreError, database};
use crate::ledger::clock_core::{self, Redate};
use crate::ledger::span_core::{Layer, Span, State};

/// Stream, layer, start.
pub(super) const SPANS: TableDefinition<(u32, u8, i64), &[u8]> = TableDefinition::new("spans");
/// Stream.
pub(super) const LIVES: TableDefinition<u32, &[u8]> = TableDefinition::new("lives");

/// Spans that start before a range and may reach into it. Those of one layer follow on each other but for steps
/// of the clock, so that the last few are enough.
const LOOK_BACK: usize = 16;
/// Deleted recordings that follow on each other within this are one span.
const DELETED_GAP_MS_MAX: i64 = 2000;
/// Rows in all: some 10 MB. Beyond it the oldest go before their time.
const SPANS_MAX: u64 = 200_000;
const VERSION: u8 = 1;

/// Since when a stream is configured, and until when it was; Unix milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Life {
    pub stream_id: u32,
    pub created_ms: i64,
    pub removed_ms: Option<i64>,
}

fn encode_span(span: &Span) -> Vec<u8> {
    Writer::new(VERSION).i64(span.end_ms).u8(span.state.code()).done()
}

fn decode_span(start_ms: i64, record: &[u8]) -> Option<Span> {
    let mut fields = Reader::new(record)?;
    let end_ms = fields.i64()?;
    Some(Span { start_ms, end_ms, state: State::from_code(fields.u8()?)? })
}

/// Both tables, open for writing.
pub(super) struct Spans<'tx> {
    spans: Table<'tx, (u32, u8, i64), &'static [u8]>,
    lives: Table<'tx, u32, &'static [u8]>,
}

impl<'tx> Spans<'tx> {
    pub(super) fn open(tx: &'tx WriteTransaction) -> Result<Self, StoreError> {
        Ok(Self {
            spans: tx.open_table(SPANS).map_err(database)?,
            lives: tx.open_table(LIVES).map_err(database)?,
        })
    }

    /// Adds a span, or gives one that began at the same moment another end.
    pub(super) fn put(
        &mut self,
        stream_id: u32,
        layer: Layer,
        span: Span,
    ) -> Result<(), StoreError> {
        if span.end_ms <= span.start_ms {
            return Ok(());
        }
        let record = encode_span(&span);
        let key = (stream_id, layer.code(), span.start_ms);
        self.spans.insert(key, record.as_slice()).map(drop).map_err(database)
    }

    pub(super) fn remove(
        &mut self,
        stream_id: u32,
        layer: Layer,
        start_ms: i64,
    ) -> Result<(), StoreError> {
        self.spans.remove((stream_id, layer.code(), start_ms)).map(drop).map_err(database)
    }

    /// Notes that a recording was deleted; what follows on an earlier deletion extends that.
    pub(super) fn put_deleted(
        &mut self,
        stream_id: u32,
        start_ms: i64,
        end_ms: i64,
    ) -> Result<(), StoreError> {
        let layer = Layer::Deleted.code();
        let before = (stream_id, layer, i64::MIN)..=(stream_id, layer, start_ms);
        let last = self.spans.range(before).map_err(database)?.next_back();
        let last = last.transpose().map_err(database)?;
        let last = last.and_then(|(key, record)| decode_span(key.value().2, record.value()));
        let mut span = Span { start_ms, end_ms, state: State::Deleted };
        if let Some(last) = last
            && last.end_ms.saturating_add(DELETED_GAP_MS_MAX) >= start_ms
        {
            span = Span { start_ms: last.start_ms, end_ms: last.end_ms.max(end_ms), ..span };
        }
        self.put(stream_id, Layer::Deleted, span)
    }

    pub(super) fn put_life(&mut self, life: &Life) -> Result<(), StoreError> {
        let record = Writer::new(VERSION).i64(life.created_ms);
        let record = record.i64(life.removed_ms.unwrap_or(i64::MAX)).done();
        self.lives.insert(life.stream_id, record.as_slice()).map(drop).map_err(database)
    }

    /// Streams that were made while the time was not known. One of an earlier run that never learnt it is dated as early
    /// as this one's: nobody knows better, and 1970 would leave half a century without a reason.
    pub(super) fn redate_lives(&mut self, redate: &Redate) -> Result<(), StoreError> {
        let mut changed = Vec::new();
        for entry in self.lives.iter().map_err(database)? {
            let (id, record) = entry.map_err(database)?;
            let life = decode_life(id.value(), record.value())?;
            let dated = |at_ms: i64| match redate.dated(at_ms) {
                at_ms if clock_core::is_set(at_ms) => at_ms,
                unknown => unknown.saturating_add(redate.by_ms),
            };
            let created_ms = dated(life.created_ms);
            let removed_ms = life.removed_ms.map(dated);
            changed.push(Life { created_ms, removed_ms, ..life });
        }
        changed.iter().try_for_each(|life| self.put_life(life))
    }

    /// Removes what ended before `before_ms`, and more where there are too many rows: then the time that is kept
    /// is halved until they fit.
    pub(super) fn prune(&mut self, now_ms: i64, keep_ms: i64) -> Result<(), StoreError> {
        let mut keep_ms = keep_ms;
        loop {
            let before_ms = now_ms.saturating_sub(keep_ms);
            let is_kept =
                |record: &[u8]| decode_span(0, record).is_some_and(|span| span.end_ms >= before_ms);
            self.spans.retain(|_, record| is_kept(record)).map_err(database)?;
            if self.spans.len().map_err(database)? <= SPANS_MAX || keep_ms == 0 {
                return Ok(());
            }
            keep_ms /= 2;
        }
    }

    /// Every span that was still open, closed at `at_ms`: the program ended then.
    pub(super) fn close_open(&mut self, at_ms: i64) -> Result<(), StoreError> {
        let mut open = Vec::new();
        for entry in self.spans.iter().map_err(database)? {
            let (key, record) = entry.map_err(database)?;
            let key = key.value();
            open.extend(decode_span(key.2, record.value()).filter(Span::is_open).map(|s| (key, s)));
        }
        for (key, span) in open {
            self.spans.remove(key).map_err(database)?;
            // What began before the time was known and ended after it had no end that could be dated.
            let is_dated = clock_core::is_set(span.start_ms) == clock_core::is_set(at_ms);
            if span.start_ms < at_ms && is_dated {
                let record = encode_span(&Span { end_ms: at_ms, ..span });
                self.spans.insert(key, record.as_slice()).map_err(database)?;
            }
        }
        Ok(())
    }
}

/// Spans of one layer of a stream that overlap `[from_ms, to_ms)`, by their start, at most `max`.
pub(super) fn spans(
    tx: &ReadTransaction,
    stream_id: u32,
    layer: Layer,
    (from_ms, to_ms): (i64, i64),
    max: usize,
) -> Result<Vec<Span>, StoreError> {
    let table = tx.open_table(SPANS).map_err(database)?;
    let layer = layer.code();
    let mut found = Vec::new();
    let before = (stream_id, layer, i64::MIN)..(stream_id, layer, from_ms);
    for entry in table.range(before).map_err(database)?.rev().take(LOOK_BACK) {
        let (key, record) = entry.map_err(database)?;
        let span = decode_span(key.value().2, record.value());
        found.extend(span.filter(|span| span.end_ms > from_ms));
    }
    found.reverse();
    let within = (stream_id, layer, from_ms)..(stream_id, layer, to_ms.max(from_ms));
    for entry in table.range(within).map_err(database)?.take(max.saturating_sub(found.len())) {
        let (key, record) = entry.map_err(database)?;
        // A state of a later version: nothing is known of that time.
        found.extend(decode_span(key.value().2, record.value()));
    }
    Ok(found)
}

/// When a stream was configured, if that was noted.
pub(super) fn life(tx: &ReadTransaction, stream_id: u32) -> Result<Option<Life>, StoreError> {
    let table = tx.open_table(LIVES).map_err(database)?;
    let Some(record) = table.get(stream_id).map_err(database)? else { return Ok(None) };
    decode_life(stream_id, record.value()).map(Some)
}

fn decode_life(stream_id: u32, record: &[u8]) -> Result<Life, StoreError> {
    let fields = Reader::new(record).and_then(|mut f| Some((f.i64()?, f.i64()?)));
    let (created_ms, removed_ms) =
        fields.ok_or_else(|| StoreError::Corrupt { what: format!("life of {stream_id}") })?;
    let removed_ms = (removed_ms != i64::MAX).then_some(removed_ms);
    Ok(Life { stream_id, created_ms, removed_ms })
}
