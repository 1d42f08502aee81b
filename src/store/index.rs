//! What is kept beside the recordings so that nobody has to walk all of them: two indexes by time, totals per stream.
//! All in the transaction that changes the row, and made anew from the rows when a store has none yet.
//!
//! `by_time` is the order of the list, for ids rise with time only as long as no file is adopted or dated anew.
//! `by_start` answers the same for one stream: what of it lies here, and what is oldest.

use std::collections::BTreeMap;

use redb::{ReadTransaction, ReadableTable, Table, TableDefinition, WriteTransaction};

use super::bytes::{Reader, Writer};
use super::row::RecordingRow;
use super::{RecordingQuery, StoreError, database};

/// Stream, start, id.
pub(super) const BY_START: TableDefinition<(u32, i64, u64), &[u8]> =
    TableDefinition::new("by_start");
/// Start, id; then stream and end.
pub(super) const BY_TIME: TableDefinition<(i64, u64), (u32, i64)> = TableDefinition::new("by_time");
/// Stream.
pub(super) const TOTALS: TableDefinition<u32, &[u8]> = TableDefinition::new("totals");

const VERSION: u8 = 1;
const FLAG_IN_PROGRESS: u8 = 1;
const FLAG_PROTECTED: u8 = 2;

/// A recording as the index by time has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Indexed {
    pub id: u64,
    pub stream_id: u32,
    /// Unix milliseconds.
    pub start_ms: i64,
    pub end_ms: i64,
    pub size: u64,
    pub in_progress: bool,
    pub is_protected: bool,
}

/// Finished recordings of one stream.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub count: u64,
    pub bytes: u64,
    /// Of these, bytes that the program must not delete.
    pub protected_bytes: u64,
}

fn encode_entry(row: &RecordingRow) -> Vec<u8> {
    let progress = if row.in_progress { FLAG_IN_PROGRESS } else { 0 };
    let protection = if row.is_protected { FLAG_PROTECTED } else { 0 };
    Writer::new(VERSION).i64(row.end_ms).u64(row.size).u8(progress | protection).done()
}

fn decode_entry(key: (u32, i64, u64), record: &[u8]) -> Option<Indexed> {
    let mut fields = Reader::new(record)?;
    let (end_ms, size, flags) = (fields.i64()?, fields.u64()?, fields.u8()?);
    Some(Indexed {
        id: key.2,
        stream_id: key.0,
        start_ms: key.1,
        end_ms,
        size,
        in_progress: flags & FLAG_IN_PROGRESS != 0,
        is_protected: flags & FLAG_PROTECTED != 0,
    })
}

fn encode_totals(totals: &Totals) -> Vec<u8> {
    Writer::new(VERSION).u64(totals.count).u64(totals.bytes).u64(totals.protected_bytes).done()
}

fn decode_totals(record: &[u8]) -> Option<Totals> {
    let mut fields = Reader::new(record)?;
    let (count, bytes) = (fields.u64()?, fields.u64()?);
    Some(Totals { count, bytes, protected_bytes: fields.u64()? })
}

fn corrupt(what: &str) -> StoreError {
    StoreError::Corrupt { what: what.into() }
}

/// The three tables, open for writing.
pub(super) struct Index<'tx> {
    by_start: Table<'tx, (u32, i64, u64), &'static [u8]>,
    by_time: Table<'tx, (i64, u64), (u32, i64)>,
    totals: Table<'tx, u32, &'static [u8]>,
}

impl<'tx> Index<'tx> {
    pub(super) fn open(tx: &'tx WriteTransaction) -> Result<Self, StoreError> {
        Ok(Self {
            by_start: tx.open_table(BY_START).map_err(database)?,
            by_time: tx.open_table(BY_TIME).map_err(database)?,
            totals: tx.open_table(TOTALS).map_err(database)?,
        })
    }

    /// A row is new or takes the place of `old`, or (`new` is `None`) goes.
    pub(super) fn note(
        &mut self,
        old: Option<&RecordingRow>,
        new: Option<&RecordingRow>,
    ) -> Result<(), StoreError> {
        if let Some(old) = old {
            let key = (old.stream_id, old.start_ms, old.id);
            self.by_start.remove(key).map_err(database)?;
            self.by_time.remove((old.start_ms, old.id)).map_err(database)?;
            self.count(old, false)?;
        }
        if let Some(new) = new {
            let key = (new.stream_id, new.start_ms, new.id);
            let record = encode_entry(new);
            self.by_start.insert(key, record.as_slice()).map_err(database)?;
            let (key, value) = ((new.start_ms, new.id), (new.stream_id, new.end_ms));
            self.by_time.insert(key, value).map_err(database)?;
            self.count(new, true)?;
        }
        Ok(())
    }

    fn count(&mut self, row: &RecordingRow, is_more: bool) -> Result<(), StoreError> {
        if row.in_progress {
            return Ok(());
        }
        let stored = self.totals.get(row.stream_id).map_err(database)?;
        let mut totals =
            stored.and_then(|record| decode_totals(record.value())).unwrap_or_default();
        let add = |n: &mut u64, by: u64| {
            *n = if is_more { n.saturating_add(by) } else { n.saturating_sub(by) };
        };
        add(&mut totals.count, 1);
        add(&mut totals.bytes, row.size);
        add(&mut totals.protected_bytes, if row.is_protected { row.size } else { 0 });
        if totals.count == 0 {
            self.totals.remove(row.stream_id).map_err(database)?;
        } else {
            let record = encode_totals(&totals);
            self.totals.insert(row.stream_id, record.as_slice()).map_err(database)?;
        }
        Ok(())
    }
}

/// Totals of every stream that has finished recordings.
pub(super) fn totals(tx: &ReadTransaction) -> Result<BTreeMap<u32, Totals>, StoreError> {
    let table = tx.open_table(TOTALS).map_err(database)?;
    let mut all = BTreeMap::new();
    for entry in table.iter().map_err(database)? {
        let (id, record) = entry.map_err(database)?;
        let totals = decode_totals(record.value()).ok_or_else(|| corrupt("totals"))?;
        all.insert(id.value(), totals);
    }
    Ok(all)
}

/// Calls `visit` with the ids of all recordings that `query` asks for, in its order, until it answers false.
/// `longest_ms` is the length of the longest recording.
pub(super) fn walk(
    tx: &ReadTransaction,
    query: &RecordingQuery,
    longest_ms: i64,
    mut visit: impl FnMut(u64) -> Result<bool, StoreError>,
) -> Result<(), StoreError> {
    let first = query.start_ms.map_or(i64::MIN, |start| start.saturating_sub(longest_ms));
    let first =
        query.after.map_or((first, 0), |(at, id)| (at, id.saturating_add(1)).max((first, 0)));
    let end = query.end_ms.map_or((i64::MAX, u64::MAX), |end| (end, 0));
    let end = query.before.map_or(end, |before| before.min(end));
    if first >= end {
        return Ok(());
    }
    // One of no length counts as the moment that it began.
    let is_wanted = |start_ms: i64, end_ms: i64| {
        query.start_ms.is_none_or(|from| end_ms > from || start_ms >= from)
    };
    let descending = query.descending;
    if let Some(stream_id) = query.stream_id {
        let table = tx.open_table(BY_START).map_err(database)?;
        let keys = (stream_id, first.0, first.1)..(stream_id, end.0, end.1);
        let mut range = table.range(keys).map_err(database)?;
        while let Some(entry) = if descending { range.next_back() } else { range.next() } {
            let (key, record) = entry.map_err(database)?;
            let entry = decode_entry(key.value(), record.value());
            let entry = entry.ok_or_else(|| corrupt("index by time"))?;
            if is_wanted(entry.start_ms, entry.end_ms) && !visit(entry.id)? {
                return Ok(());
            }
        }
        return Ok(());
    }
    let table = tx.open_table(BY_TIME).map_err(database)?;
    let mut range = table.range(first..end).map_err(database)?;
    while let Some(entry) = if descending { range.next_back() } else { range.next() } {
        let (key, value) = entry.map_err(database)?;
        if is_wanted(key.value().0, value.value().1) && !visit(key.value().1)? {
            return Ok(());
        }
    }
    Ok(())
}

/// Calls `visit` for each recording of a stream that starts in `[from_ms, to_ms)`, oldest first, until it
/// answers false.
pub(super) fn visit(
    tx: &ReadTransaction,
    stream_id: u32,
    from_ms: i64,
    to_ms: i64,
    mut visit: impl FnMut(Indexed) -> bool,
) -> Result<(), StoreError> {
    if from_ms >= to_ms {
        return Ok(());
    }
    let table = tx.open_table(BY_START).map_err(database)?;
    let keys = (stream_id, from_ms, 0)..(stream_id, to_ms, 0);
    for entry in table.range(keys).map_err(database)? {
        let (key, record) = entry.map_err(database)?;
        let entry = decode_entry(key.value(), record.value());
        if !visit(entry.ok_or_else(|| corrupt("index by time"))?) {
            return Ok(());
        }
    }
    Ok(())
}

/// The oldest recording of a stream that may be deleted by the program, behind the one with this start and id.
pub(super) fn next_deletable(
    tx: &ReadTransaction,
    stream_id: u32,
    behind: Option<(i64, u64)>,
) -> Result<Option<Indexed>, StoreError> {
    let table = tx.open_table(BY_START).map_err(database)?;
    let (start_ms, id) = behind.map_or((i64::MIN, 0), |(start_ms, id)| (start_ms, id + 1));
    let keys = (stream_id, start_ms, id)..=(stream_id, i64::MAX, u64::MAX);
    for entry in table.range(keys).map_err(database)? {
        let (key, record) = entry.map_err(database)?;
        let entry = decode_entry(key.value(), record.value());
        let entry = entry.ok_or_else(|| corrupt("index by time"))?;
        if !entry.in_progress && !entry.is_protected {
            return Ok(Some(entry));
        }
    }
    Ok(None)
}

/// The recording of a stream that started last.
pub(super) fn newest(tx: &ReadTransaction, stream_id: u32) -> Result<Option<Indexed>, StoreError> {
    let table = tx.open_table(BY_START).map_err(database)?;
    let keys = (stream_id, i64::MIN, 0)..=(stream_id, i64::MAX, u64::MAX);
    let last = table.range(keys).map_err(database)?.next_back();
    let Some(entry) = last else { return Ok(None) };
    let (key, record) = entry.map_err(database)?;
    decode_entry(key.value(), record.value()).map(Some).ok_or_else(|| corrupt("index by time"))
}
