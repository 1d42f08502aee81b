//! The embedded store (redb): streams, settings, recordings, the password's hash.
//!
//! In here: tables, one durable transaction per batch of changes, reads from a snapshot.
//! Not in here: when to write (FILE-BEFORE-ROW is kept by `record/`), what a row means.
//! ONE-DOOR: redb is named in this folder alone. `Store` writes and belongs to a disk thread's job;
//! `StoreReader` reads on any thread and never waits for a writer.

mod bytes;
mod database;
#[cfg(test)]
pub(crate) mod memory;
mod overlay;
pub mod row;
mod settings;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Database, ReadTransaction, ReadableTable, ReadableTableMetadata, TableDefinition};

use crate::config::settings::Settings;
use crate::config::stream::StreamConfig;
use database::Reopening;
use row::{RecordingRow, StorageRow};

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

const META_SCHEMA: &str = "schema";
const META_PASSWORD: &str = "password_phc";
const META_NEXT_STREAM: &str = "next_stream_id";
const META_NEXT_RECORDING: &str = "next_recording_id";
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
    RemoveRecording(u64),
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
    /// Ids, exclusive.
    pub before: Option<u64>,
    pub after: Option<u64>,
    pub limit: usize,
    pub descending: bool,
}

impl RecordingQuery {
    /// Whether a recording with these facts is asked for; the id bounds included.
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
            let mut meta = tx.open_table(META).map_err(database)?;
            let mut settings = tx.open_table(SETTINGS).map_err(database)?;
            let mut streams = tx.open_table(STREAMS).map_err(database)?;
            let mut recordings = tx.open_table(RECORDINGS).map_err(database)?;
            for change in changes {
                match change {
                    Change::PutStream(config) => {
                        raise(&mut meta, META_NEXT_STREAM, u64::from(config.id) + 1)?;
                        let record = bytes::encode_stream(config);
                        streams.insert(config.id, record.as_slice()).map_err(database)?;
                    }
                    Change::RemoveStream(id) => {
                        streams.remove(id).map_err(database)?;
                    }
                    Change::PutSettings(values) => {
                        for (name, record) in settings::encode(values) {
                            settings.insert(name, record.as_slice()).map_err(database)?;
                        }
                    }
                    Change::PutPassword(phc) => {
                        meta.insert(META_PASSWORD, phc.as_bytes()).map_err(database)?;
                    }
                    Change::PutRecording(row) => {
                        raise(&mut meta, META_NEXT_RECORDING, row.id + 1)?;
                        let record = bytes::encode_recording(row);
                        recordings.insert(row.id, record.as_slice()).map_err(database)?;
                    }
                    Change::RemoveRecording(id) => {
                        recordings.remove(id).map_err(database)?;
                    }
                    Change::PutStorage { path, row } => {
                        let (name, record) =
                            (format!("{META_STORAGE}{path}"), bytes::encode_storage(row));
                        meta.insert(name.as_str(), record.as_slice()).map_err(database)?;
                    }
                }
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

fn raise(
    meta: &mut redb::Table<'_, &str, &[u8]>,
    name: &str,
    at_least: u64,
) -> Result<(), StoreError> {
    let stored = meta.get(name).map_err(database)?.and_then(|value| bytes::read_u64(value.value()));
    if stored.is_none_or(|stored| stored < at_least) {
        meta.insert(name, at_least.to_le_bytes().as_slice()).map_err(database)?;
    }
    Ok(())
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
        let table = self.read()?.open_table(RECORDINGS).map_err(database)?;
        let mut range = table.range(first..end).map_err(database)?;
        loop {
            let entry = if query.descending { range.next_back() } else { range.next() };
            let Some(entry) = entry else { return Ok(()) };
            let (id, record) = entry.map_err(database)?;
            let row = decode_row(id.value(), record.value())?;
            if query.matches(row.id, row.stream_id, row.start_ms, row.end_ms) && !visit(row) {
                return Ok(());
            }
        }
    }
}

fn decode_row(id: u64, record: &[u8]) -> Result<RecordingRow, StoreError> {
    bytes::decode_recording(id, record)
        .ok_or_else(|| StoreError::Corrupt { what: format!("recording {id}") })
}

#[cfg(test)]
mod tests;
