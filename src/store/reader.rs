//! The store's reading side: every question that is asked of it, each answered from one snapshot of the database.

use std::collections::BTreeMap;

use redb::{ReadTransaction, ReadableTable, ReadableTableMetadata};

use super::index::{self, Indexed, Totals};
use super::row::{RecordingRow, StorageRow};
use super::spans::{self, Life};
use super::{
    GARBAGE, META, META_ALIVE, META_BOOT, META_LONGEST, META_NEXT_STREAM, META_REDATE,
    META_STORAGE, Place, RECORDINGS, RecordingQuery, StoreError, StoreReader, bytes, database,
    decode_row,
};
use crate::ledger::clock_core::Redate;
use crate::ledger::span_core::{Layer, Span};

type RowEntry<'a> = (redb::AccessGuard<'a, u64>, redb::AccessGuard<'a, &'static [u8]>);

impl StoreReader {
    fn read(&self) -> Result<ReadTransaction, StoreError> {
        self.db.begin_read()
    }

    /// The recording with this id.
    pub fn recording(&self, id: u64) -> Result<Option<RecordingRow>, StoreError> {
        let table = self.read()?.open_table(RECORDINGS).map_err(database)?;
        match table.get(id).map_err(database)? {
            None => Ok(None),
            Some(record) => decode_row(id, record.value()).map(Some),
        }
    }

    /// The storage that is known at `path`.
    pub fn storage(&self, path: &str) -> Result<Option<StorageRow>, StoreError> {
        let meta = self.read()?.open_table(META).map_err(database)?;
        let name = format!("{META_STORAGE}{path}");
        match meta.get(name.as_str()).map_err(database)? {
            None => Ok(None),
            Some(record) => match bytes::decode_storage(record.value()) {
                None => Err(StoreError::Corrupt { what: name }),
                row => Ok(row),
            },
        }
    }

    /// How many rows there are.
    pub fn recording_count(&self) -> Result<u64, StoreError> {
        self.read()?.open_table(RECORDINGS).map_err(database)?.len().map_err(database)
    }

    /// Rows that match, in the order of the list, at most `query.limit`.
    pub fn recordings(&self, query: &RecordingQuery) -> Result<Vec<RecordingRow>, StoreError> {
        let tx = self.read()?;
        let table = tx.open_table(RECORDINGS).map_err(database)?;
        let longest_ms = self.longest_ms()?;
        let mut rows = Vec::with_capacity(query.limit.min(256));
        index::walk(&tx, query, longest_ms, |id| {
            if rows.len() < query.limit
                && let Some(record) = table.get(id).map_err(database)?
            {
                let row = decode_row(id, record.value())?;
                if query.is_protected.is_none_or(|wanted| row.is_protected == wanted) {
                    rows.push(row);
                }
            }
            Ok(rows.len() < query.limit)
        })?;
        Ok(rows)
    }

    /// Calls `visit` for each row behind this id, by rising ids, until it answers false.
    pub fn visit_behind(
        &self,
        id: u64,
        mut visit: impl FnMut(RecordingRow) -> bool,
    ) -> Result<(), StoreError> {
        let table = self.read()?.open_table(RECORDINGS).map_err(database)?;
        for entry in table.range(id.saturating_add(1)..).map_err(database)? {
            let (id, record) = entry.map_err(database)?;
            if !visit(decode_row(id.value(), record.value())?) {
                break;
            }
        }
        Ok(())
    }

    /// At most `max` rows that were made last, by falling ids.
    pub fn made_last(&self, max: usize) -> Result<Vec<RecordingRow>, StoreError> {
        let table = self.read()?.open_table(RECORDINGS).map_err(database)?;
        let mut rows = Vec::new();
        for entry in table.iter().map_err(database)?.rev().take(max) {
            let (id, record) = entry.map_err(database)?;
            rows.push(decode_row(id.value(), record.value())?);
        }
        Ok(rows)
    }

    /// Where the list goes on behind the recording with this id, or (`is_before`) where it ends before it; `None` is
    /// the whole list. Of a recording that is not there any more its neighbours by id tell: what is listed twice then
    /// is no harm, what is left out would be.
    pub fn place(&self, id: u64, is_before: bool) -> Result<Option<Place>, StoreError> {
        let table = self.read()?.open_table(RECORDINGS).map_err(database)?;
        let place = |entry: Option<Result<RowEntry<'_>, redb::StorageError>>| match entry {
            None => Ok(None),
            Some(entry) => {
                let (id, record) = entry.map_err(database)?;
                let row = decode_row(id.value(), record.value())?;
                Ok(Some((row.start_ms, row.id)))
            }
        };
        if let Some(record) = table.get(id).map_err(database)? {
            return Ok(Some((decode_row(id, record.value())?.start_ms, id)));
        }
        let lower = place(table.range(..id).map_err(database)?.next_back())?;
        let higher = place(table.range(id..).map_err(database)?.next())?;
        Ok(match (lower, higher) {
            (Some(lower), Some((at, id))) if !is_before => Some(lower.min((at, id - 1))),
            (Some((at, id)), Some(higher)) => Some(higher.max((at, id + 1))),
            (lower, higher) => {
                if is_before {
                    higher
                } else {
                    lower
                }
            }
        })
    }

    /// Runs of the machine of which something may still have a wrong date.
    pub fn redates(&self) -> Result<Vec<Redate>, StoreError> {
        let meta = self.read()?.open_table(META).map_err(database)?;
        let mut found = Vec::new();
        for entry in meta.range(META_REDATE..).map_err(database)? {
            let (name, record) = entry.map_err(database)?;
            if !name.value().starts_with(META_REDATE) {
                break;
            }
            found.extend(bytes::decode_redate(record.value()));
        }
        Ok(found)
    }

    /// At most `max` finished recordings of that run that have a wrong date.
    pub fn wrongly_dated(
        &self,
        redate: &Redate,
        max: usize,
    ) -> Result<Vec<RecordingRow>, StoreError> {
        let tx = self.read()?;
        let table = tx.open_table(RECORDINGS).map_err(database)?;
        let end = (redate.until_ms.saturating_add(1), 0);
        let query = RecordingQuery {
            after: Some((redate.from_ms.saturating_sub(1), u64::MAX)),
            before: Some(end),
            ..Default::default()
        };
        let mut rows = Vec::new();
        index::walk(&tx, &query, 0, |id| {
            if let Some(record) = table.get(id).map_err(database)? {
                let row = decode_row(id, record.value())?;
                rows.extend(Some(row).filter(|row| row.boot == redate.boot && !row.in_progress));
            }
            Ok(rows.len() < max)
        })?;
        Ok(rows)
    }

    /// The lowest id that no stream ever had, as far as the store knows.
    pub fn next_stream_id(&self) -> Result<u32, StoreError> {
        Ok(self.meta_u64(META_NEXT_STREAM)?.map_or(0, |id| u32::try_from(id).unwrap_or(u32::MAX)))
    }

    fn longest_ms(&self) -> Result<i64, StoreError> {
        let longest_ms = self.meta_u64(META_LONGEST)?.unwrap_or(0);
        Ok(i64::try_from(longest_ms).unwrap_or(i64::MAX))
    }

    /// Totals of the finished recordings, per stream that has any.
    pub fn totals(&self) -> Result<BTreeMap<u32, Totals>, StoreError> {
        index::totals(&self.read()?)
    }

    /// Calls `visit` for each recording of a stream that overlaps `[from_ms, to_ms)`, oldest first, until it
    /// answers false.
    pub fn visit_time(
        &self,
        stream_id: u32,
        (from_ms, to_ms): (i64, i64),
        mut visit: impl FnMut(Indexed) -> bool,
    ) -> Result<(), StoreError> {
        let first_ms = from_ms.saturating_sub(self.longest_ms()?);
        index::visit(&self.read()?, stream_id, first_ms, to_ms, |entry| {
            entry.end_ms <= from_ms && !entry.in_progress || visit(entry)
        })
    }

    /// The oldest recording of a stream that may be deleted by the program, behind that start and id.
    pub fn next_deletable(
        &self,
        stream_id: u32,
        behind: Option<(i64, u64)>,
    ) -> Result<Option<Indexed>, StoreError> {
        index::next_deletable(&self.read()?, stream_id, behind)
    }

    /// The recording of a stream that started last.
    pub fn newest(&self, stream_id: u32) -> Result<Option<Indexed>, StoreError> {
        index::newest(&self.read()?, stream_id)
    }

    /// Ids and paths of files that are still to be removed, at most `max`.
    pub fn garbage(&self, max: usize) -> Result<Vec<(u64, String)>, StoreError> {
        let tx = self.read()?;
        let table = tx.open_table(GARBAGE).map_err(database)?;
        let mut found = Vec::new();
        for entry in table.iter().map_err(database)?.take(max) {
            let (id, record) = entry.map_err(database)?;
            let path = bytes::decode_garbage(record.value());
            let what = || StoreError::Corrupt { what: format!("garbage {}", id.value()) };
            found.push((id.value(), path.ok_or_else(what)?));
        }
        Ok(found)
    }

    /// Spans of one layer that overlap the range, by their start, at most `max`.
    pub fn spans(
        &self,
        stream_id: u32,
        layer: Layer,
        range: (i64, i64),
        max: usize,
    ) -> Result<Vec<Span>, StoreError> {
        spans::spans(&self.read()?, stream_id, layer, range, max)
    }

    /// Since when a stream is configured, if that was noted.
    pub fn life(&self, stream_id: u32) -> Result<Option<Life>, StoreError> {
        spans::life(&self.read()?, stream_id)
    }

    /// When the program last wrote to the store, and under which boot id.
    pub fn last_alive(&self) -> Result<(Option<i64>, Option<String>), StoreError> {
        let tx = self.read()?;
        let meta = tx.open_table(META).map_err(database)?;
        let alive = meta.get(META_ALIVE).map_err(database)?;
        let alive = alive.and_then(|value| bytes::read_u64(value.value()));
        let boot = meta.get(META_BOOT).map_err(database)?;
        let boot = boot.map(|value| String::from_utf8_lossy(value.value()).into_owned());
        Ok((alive.map(u64::cast_signed), boot))
    }

    fn meta_u64(&self, name: &str) -> Result<Option<u64>, StoreError> {
        let meta = self.read()?.open_table(META).map_err(database)?;
        let value = meta.get(name).map_err(database)?;
        Ok(value.and_then(|value| bytes::read_u64(value.value())))
    }
}
