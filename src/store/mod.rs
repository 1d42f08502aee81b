//! The embedded store (redb): streams, settings, recordings, the password's hash.
//!
//! In here: tables, one durable transaction per batch of changes, reads from a snapshot.
//! Not in here: when to write (FILE-BEFORE-ROW is kept by `record/`), what a row means.
//! ONE-DOOR: redb is named in this folder alone. `Store` writes and belongs to a disk thread's job;
//! `StoreReader` reads on any thread and never waits for a writer.

mod bytes;
mod database;
pub mod index;
#[cfg(test)]
pub(crate) mod memory;
mod overlay;
pub mod row;
mod settings;
pub mod spans;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Database, ReadTransaction, ReadableTable, ReadableTableMetadata, TableDefinition};

use crate::config::settings::Settings;
use crate::config::stream::StreamConfig;
use crate::ledger::span_core::{Layer, Span};
use database::Reopening;
use index::{Index, Indexed, Totals};
use row::{RecordingRow, StorageRow};
use spans::{Life, Spans};

/// Page cache. 1 MiB reads and writes 300,000 rows a second on the reference machine; redb's default is 1 GiB.
const CACHE_BYTES: usize = 1 << 20;
/// Layout of the tables below. A store with a higher number was made by a newer program.
const SCHEMA: u64 = 1;
/// File name in the data directory.
pub const FILE_NAME: &str = "store.redb";

const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
const SETTINGS: TableDefinition<&str, &[u8]> = TableDefinition::new("settings");
const STREAMS: TableDefinition<u32, &[u8]> = TableDefinition::new("streams");
const RECORDINGS: TableDefinition<u64, &[u8]> = TableDefinition::new("recordings");
/// Recordings whose row is gone and whose file is about to be: id and path.
const GARBAGE: TableDefinition<u64, &[u8]> = TableDefinition::new("garbage");

const META_SCHEMA: &str = "schema";
const META_PASSWORD: &str = "password_phc";
const META_NEXT_STREAM: &str = "next_stream_id";
const META_NEXT_RECORDING: &str = "next_recording_id";
/// Version of the tables in `index`: another one has them made anew.
const META_INDEX: &str = "index_version";
/// Length of the longest recording that ever was, in milliseconds.
const META_LONGEST: &str = "longest_ms";
/// When the program last wrote here, Unix milliseconds.
const META_ALIVE: &str = "alive_ms";
/// `boot_id` of the kernel that it ran under.
const META_BOOT: &str = "boot_id";

const INDEX_VERSION: u64 = 1;
/// Before the path of a storage.
const META_STORAGE: &str = "storage:";

/// Why the store did not answer. The text names the cause for the log; it never goes to a client.
#[derive(Clone, Debug)]
pub enum StoreError {
    /// Another process has it open.
    InUse,
    /// It was written by a newer version of the program.
    Newer { schema: u64 },
    /// A record that is not what this program writes.
    Corrupt { what: String },
    /// The database or the disk below it.
    Database(String),
}

impl std::fmt::Display for StoreError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::InUse => write!(f, "the store is open in another process"),
            Self::Newer { schema } => {
                write!(f, "the store has schema {schema}, this program knows up to {SCHEMA}")
            }
            Self::Corrupt { what } => write!(f, "the store holds a broken record: {what}"),
            Self::Database(what) => write!(f, "store: {what}"),
        }
    }
}

impl std::error::Error for StoreError {}

fn database(error: impl std::fmt::Display) -> StoreError {
    StoreError::Database(error.to_string())
}

/// One change; a batch of them is one durable transaction.
#[derive(Clone, Debug)]
pub enum Change {
    PutStream(StreamConfig),
    RemoveStream(u32),
    PutSettings(Settings),
    /// The password's hash as a PHC string.
    PutPassword(String),
    PutRecording(RecordingRow),
    /// The row of a file that is not there any more.
    RemoveRecording(u64),
    /// The row becomes a garbage row: its file is to be removed. The first step of every deletion.
    TrashRecording(u64),
    /// The file of this garbage row is removed. The last step.
    ForgetGarbage(u64),
    /// A span of the ledger: new, or with another end than before.
    PutSpan(u32, Layer, Span),
    PutLife(Life),
    /// Forgets spans that are older than so many milliseconds; first the present time.
    PruneSpans(i64, i64),
    /// The program is alive at this Unix millisecond. Goes with other changes.
    Alive(i64),
    /// A start: under this boot id. Spans that an earlier life left open end at this Unix millisecond.
    Boot(String, i64),
    /// The storage at this path.
    PutStorage {
        path: String,
        row: StorageRow,
    },
}

/// What the program keeps in memory of the store.
#[derive(Debug)]
pub struct Loaded {
    pub settings: Settings,
    pub streams: Vec<StreamConfig>,
    pub password_phc: Option<String>,
    pub next_stream_id: u32,
    pub next_recording_id: u64,
}

/// Which recordings to list, in which order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordingQuery {
    pub stream_id: Option<u32>,
    /// Only those that overlap `[start_ms, end_ms)`, Unix milliseconds.
    pub start_ms: Option<i64>,
    pub end_ms: Option<i64>,
    pub is_protected: Option<bool>,
    /// Ids, exclusive.
    pub before: Option<u64>,
    pub after: Option<u64>,
    pub limit: usize,
    pub descending: bool,
}

impl RecordingQuery {
    /// Whether a recording with these facts is asked for; the id bounds included, `is_protected` not.
    pub fn matches(&self, id: u64, stream_id: u32, start_ms: i64, end_ms: i64) -> bool {
        self.after.is_none_or(|after| id > after)
            && self.before.is_none_or(|before| id < before)
            && self.stream_id.is_none_or(|wanted| wanted == stream_id)
            && self.start_ms.is_none_or(|start| end_ms > start)
            && self.end_ms.is_none_or(|end| start_ms < end)
    }
}

/// The writing side. Every method may block on the disk: call it in a disk thread's job.
#[derive(Clone, Debug)]
pub struct Store {
    db: Arc<Reopening>,
}

/// The reading side, for any thread.
#[derive(Clone, Debug)]
pub struct StoreReader {
    db: Arc<Reopening>,
}

impl Store {
    /// Opens or creates the store in `data_dir`.
    pub fn open(data_dir: &Path) -> Result<Self, StoreError> {
        let path = data_dir.join(FILE_NAME);
        Self::prepare(database::open(&path)?, Some(path))
    }

    /// Opens the store in `data_dir` without ever writing to its file: a repair after a crash happens
    /// in memory.
    pub fn open_unchanged(data_dir: &Path) -> Result<Self, StoreError> {
        Self::prepare(database::open_unchanged(&data_dir.join(FILE_NAME))?, None)
    }

    fn prepare(db: Database, path: Option<PathBuf>) -> Result<Self, StoreError> {
        let store = Self { db: Arc::new(Reopening::new(db, path)) };
        let tx = store.db.begin_write().map_err(database)?;
        {
            let mut meta = tx.open_table(META).map_err(database)?;
            tx.open_table(SETTINGS).map_err(database)?;
            tx.open_table(STREAMS).map_err(database)?;
            tx.open_table(RECORDINGS).map_err(database)?;
            tx.open_table(GARBAGE).map_err(database)?;
            Spans::open(&tx)?;
            let found =
                meta.get(META_SCHEMA).map_err(database)?.map(|v| bytes::read_u64(v.value()));
            match found {
                None => {
                    let schema = SCHEMA.to_le_bytes();
                    meta.insert(META_SCHEMA, schema.as_slice()).map_err(database)?;
                }
                Some(Some(schema)) if schema <= SCHEMA => {}
                Some(Some(schema)) => return Err(StoreError::Newer { schema }),
                Some(None) => return Err(StoreError::Corrupt { what: META_SCHEMA.into() }),
            }
        }
        build_index(&tx)?;
        tx.commit().map_err(database)?;
        Ok(store)
    }

    /// A reading side of the same store.
    pub fn reader(&self) -> StoreReader {
        StoreReader { db: Arc::clone(&self.db) }
    }

    /// Carries out `changes` in one durable transaction: all or none, on the medium on return.
    pub fn commit(&self, changes: &[Change]) -> Result<(), StoreError> {
        let done = self.try_commit(changes);
        if let Err(StoreError::Database(_)) = &done {
            self.db.note_failed();
        }
        done
    }

    fn try_commit(&self, changes: &[Change]) -> Result<(), StoreError> {
        let tx = self.db.begin_write().map_err(database)?;
        {
            let mut tables = Tables::open(&tx)?;
            for change in changes {
                tables.apply(change)?;
            }
        }
        tx.commit().map_err(database)
    }

    /// Reads everything but the recordings; `storage_path` is the default where none is stored.
    pub fn load(&self, storage_path: String) -> Result<Loaded, StoreError> {
        let tx = self.db.begin_read().map_err(database)?;
        let meta = tx.open_table(META).map_err(database)?;
        let counter = |name: &str, first: u64| -> Result<u64, StoreError> {
            match meta.get(name).map_err(database)? {
                None => Ok(first),
                Some(value) => bytes::read_u64(value.value())
                    .ok_or_else(|| StoreError::Corrupt { what: name.to_owned() }),
            }
        };
        let password_phc = meta
            .get(META_PASSWORD)
            .map_err(database)?
            .map(|value| String::from_utf8_lossy(value.value()).into_owned());
        let mut streams = Vec::new();
        for entry in tx.open_table(STREAMS).map_err(database)?.iter().map_err(database)? {
            let (id, record) = entry.map_err(database)?;
            let config = bytes::decode_stream(id.value(), record.value())
                .ok_or_else(|| StoreError::Corrupt { what: format!("stream {}", id.value()) })?;
            streams.push(config);
        }
        let mut values = Settings::new(storage_path);
        for entry in tx.open_table(SETTINGS).map_err(database)?.iter().map_err(database)? {
            let (name, record) = entry.map_err(database)?;
            if !settings::decode_into(&mut values, name.value(), record.value()) {
                // A setting of a later version: kept in the store, not used.
                log::warn!("setting {} is not known to this version", name.value());
            }
        }
        Ok(Loaded {
            settings: values,
            streams,
            password_phc,
            next_stream_id: u32::try_from(counter(META_NEXT_STREAM, 0)?).unwrap_or(u32::MAX),
            next_recording_id: counter(META_NEXT_RECORDING, 1)?,
        })
    }
}

/// Every table, open for writing.
struct Tables<'tx> {
    meta: redb::Table<'tx, &'static str, &'static [u8]>,
    settings: redb::Table<'tx, &'static str, &'static [u8]>,
    streams: redb::Table<'tx, u32, &'static [u8]>,
    recordings: redb::Table<'tx, u64, &'static [u8]>,
    garbage: redb::Table<'tx, u64, &'static [u8]>,
    index: Index<'tx>,
    spans: Spans<'tx>,
}

impl<'tx> Tables<'tx> {
    fn open(tx: &'tx redb::WriteTransaction) -> Result<Self, StoreError> {
        Ok(Self {
            meta: tx.open_table(META).map_err(database)?,
            settings: tx.open_table(SETTINGS).map_err(database)?,
            streams: tx.open_table(STREAMS).map_err(database)?,
            recordings: tx.open_table(RECORDINGS).map_err(database)?,
            garbage: tx.open_table(GARBAGE).map_err(database)?,
            index: Index::open(tx)?,
            spans: Spans::open(tx)?,
        })
    }

    fn apply(&mut self, change: &Change) -> Result<(), StoreError> {
        match change {
            Change::PutStream(config) => {
                self.raise(META_NEXT_STREAM, u64::from(config.id) + 1)?;
                let record = bytes::encode_stream(config);
                self.streams.insert(config.id, record.as_slice()).map_err(database)?;
            }
            Change::RemoveStream(id) => {
                self.streams.remove(id).map_err(database)?;
            }
            Change::PutSettings(values) => {
                for (name, record) in settings::encode(values) {
                    self.settings.insert(name, record.as_slice()).map_err(database)?;
                }
            }
            Change::PutPassword(phc) => {
                self.meta.insert(META_PASSWORD, phc.as_bytes()).map_err(database)?;
            }
            Change::PutRecording(row) => self.put_recording(row)?,
            Change::RemoveRecording(id) => drop(self.remove_recording(*id)?),
            Change::TrashRecording(id) => {
                if let Some(row) = self.remove_recording(*id)? {
                    let record = bytes::encode_garbage(&row.path);
                    self.garbage.insert(id, record.as_slice()).map_err(database)?;
                }
            }
            Change::ForgetGarbage(id) => {
                self.garbage.remove(id).map_err(database)?;
            }
            Change::PutStorage { path, row } => {
                let (name, record) = (format!("{META_STORAGE}{path}"), bytes::encode_storage(row));
                self.meta.insert(name.as_str(), record.as_slice()).map_err(database)?;
            }
            Change::PutSpan(stream_id, layer, span) => self.spans.put(*stream_id, *layer, *span)?,
            Change::PutLife(life) => self.spans.put_life(life)?,
            Change::PruneSpans(now_ms, keep_ms) => self.spans.prune(*now_ms, *keep_ms)?,
            Change::Alive(at_ms) => {
                let record = at_ms.to_le_bytes();
                self.meta.insert(META_ALIVE, record.as_slice()).map_err(database)?;
            }
            Change::Boot(id, at_ms) => {
                self.meta.insert(META_BOOT, id.as_bytes()).map_err(database)?;
                self.spans.close_open(*at_ms)?;
            }
        }
        Ok(())
    }

    fn put_recording(&mut self, row: &RecordingRow) -> Result<(), StoreError> {
        self.raise(META_NEXT_RECORDING, row.id + 1)?;
        let length_ms = row.end_ms.saturating_sub(row.start_ms);
        self.raise(META_LONGEST, u64::try_from(length_ms).unwrap_or(0))?;
        let record = bytes::encode_recording(row);
        let old = self.recordings.insert(row.id, record.as_slice()).map_err(database)?;
        let old = old.map(|old| decode_row(row.id, old.value())).transpose()?;
        self.index.note(old.as_ref(), Some(row))
    }

    /// What was recorded is from now on `deleted` in the ledger.
    fn remove_recording(&mut self, id: u64) -> Result<Option<RecordingRow>, StoreError> {
        let old = self.recordings.remove(id).map_err(database)?;
        let Some(row) = old.map(|old| decode_row(id, old.value())).transpose()? else {
            return Ok(None);
        };
        self.index.note(Some(&row), None)?;
        self.spans.put_deleted(row.stream_id, row.start_ms, row.end_ms)?;
        Ok(Some(row))
    }

    fn raise(&mut self, name: &'static str, at_least: u64) -> Result<(), StoreError> {
        let stored = self.meta.get(name).map_err(database)?;
        let stored = stored.and_then(|value| bytes::read_u64(value.value()));
        if stored.is_none_or(|stored| stored < at_least) {
            self.meta.insert(name, at_least.to_le_bytes().as_slice()).map_err(database)?;
        }
        Ok(())
    }
}

/// Makes the index of a store that has none, or one of another version, from its rows.
fn build_index(tx: &redb::WriteTransaction) -> Result<(), StoreError> {
    let version = tx.open_table(META).map_err(database)?;
    let stored = version.get(META_INDEX).map_err(database)?;
    let is_there = stored.and_then(|value| bytes::read_u64(value.value())) == Some(INDEX_VERSION);
    drop(version);
    if is_there {
        return Ok(());
    }
    tx.delete_table(index::BY_START).map_err(database)?;
    tx.delete_table(index::BLOCKS).map_err(database)?;
    tx.delete_table(index::TOTALS).map_err(database)?;
    let mut tables = Tables::open(tx)?;
    let mut longest_ms = 0;
    for entry in tables.recordings.iter().map_err(database)? {
        let (id, record) = entry.map_err(database)?;
        let row = decode_row(id.value(), record.value())?;
        longest_ms = longest_ms.max(row.end_ms.saturating_sub(row.start_ms));
        tables.index.note(None, Some(&row))?;
    }
    tables.raise(META_LONGEST, u64::try_from(longest_ms).unwrap_or(0))?;
    let version = INDEX_VERSION.to_le_bytes();
    tables.meta.insert(META_INDEX, version.as_slice()).map(drop).map_err(database)
}

impl StoreReader {
    fn read(&self) -> Result<ReadTransaction, StoreError> {
        self.db.begin_read().map_err(database)
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

    /// Rows that match, in the order of ids, at most `query.limit`.
    pub fn recordings(&self, query: &RecordingQuery) -> Result<Vec<RecordingRow>, StoreError> {
        let mut rows = Vec::with_capacity(query.limit.min(256));
        self.visit(query, |row| {
            rows.push(row);
            rows.len() < query.limit
        })?;
        Ok(rows)
    }

    /// Calls `visit` for each row that matches, in order, until it answers false. `limit` is not looked at.
    pub fn visit(
        &self,
        query: &RecordingQuery,
        mut visit: impl FnMut(RecordingRow) -> bool,
    ) -> Result<(), StoreError> {
        let first = query.after.map_or(0, |after| after.saturating_add(1));
        let end = query.before.unwrap_or(u64::MAX);
        if first >= end {
            return Ok(());
        }
        let tx = self.read()?;
        let rows = tx.open_table(RECORDINGS).map_err(database)?;
        // Ids of one block, or all of them: whether to go on.
        let mut walk = |ids: std::ops::Range<u64>| -> Result<bool, StoreError> {
            let mut range = rows.range(ids).map_err(database)?;
            loop {
                let entry = if query.descending { range.next_back() } else { range.next() };
                let Some(entry) = entry else { return Ok(true) };
                let (id, record) = entry.map_err(database)?;
                let row = decode_row(id.value(), record.value())?;
                let is_wanted = query.is_protected.is_none_or(|wanted| wanted == row.is_protected)
                    && query.matches(row.id, row.stream_id, row.start_ms, row.end_ms);
                if is_wanted && !visit(row) {
                    return Ok(false);
                }
            }
        };
        if query.start_ms.is_none() && query.end_ms.is_none() && query.stream_id.is_none() {
            return walk(first..end).map(drop);
        }
        let blocks = tx.open_table(index::BLOCKS).map_err(database)?;
        let keys = first / index::BLOCK_IDS..=(end - 1) / index::BLOCK_IDS;
        let mut range = blocks.range(keys).map_err(database)?;
        loop {
            let entry = if query.descending { range.next_back() } else { range.next() };
            let Some(entry) = entry else { return Ok(()) };
            let (key, record) = entry.map_err(database)?;
            let block = index::decode_block(record.value());
            let from = key.value() * index::BLOCK_IDS;
            if block.is_none_or(|block| block.can_match(query))
                && !walk(from.max(first)..from.saturating_add(index::BLOCK_IDS).min(end))?
            {
                return Ok(());
            }
        }
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
        let longest_ms = self.meta_u64(META_LONGEST)?.unwrap_or(0);
        let longest_ms = i64::try_from(longest_ms).unwrap_or(i64::MAX);
        let first_ms = from_ms.saturating_sub(longest_ms);
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

fn decode_row(id: u64, record: &[u8]) -> Result<RecordingRow, StoreError> {
    bytes::decode_recording(id, record)
        .ok_or_else(|| StoreError::Corrupt { what: format!("recording {id}") })
}

#[cfg(test)]
mod tests;
