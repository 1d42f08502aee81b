//! The embedded store (redb): streams, settings, recordings, the password's hash.
//!
//! In here: tables, one durable transaction per batch of changes, reads from a snapshot.
//! Not in here: when to write (FILE-BEFORE-ROW is kept by `record/`), what a row means.
//! ONE-DOOR: redb is named in this folder alone. `Store` writes and belongs to a disk thread's job;
//! `StoreReader` reads on any thread and never waits for a writer.

mod bytes;
pub mod damage;
mod database;
pub mod index;
#[cfg(test)]
pub(crate) mod memory;
mod overlay;
mod reader;
pub mod row;
mod settings;
pub mod spans;

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use redb::{Database, ReadableTable, TableDefinition};

use crate::config::settings::Settings;
use crate::config::stream::StreamConfig;
use crate::ledger::clock_core::{self, Redate};
use crate::ledger::span_core::{Layer, Span};
use database::Reopening;
use index::Index;
use row::{RecordingRow, StorageRow};
use spans::{Life, Spans};

/// Page cache. 1 MiB reads and writes 300,000 rows a second on the reference machine; redb's default is 1 GiB.
const CACHE_BYTES: usize = 1 << 20;
/// Layout of the tables below. A change that an older program could not live with makes it one higher.
///
/// A device may have to go back to the version before, so such a change comes in two steps: version N+1 reads the new
/// form and still keeps the old one beside it, N+2 drops the old one. Records grow at their end, and what an older program does
/// not know it leaves alone, so most changes need no step at all (`bytes`).
pub const SCHEMA: u64 = 1;
/// The oldest schema whose program opens what this one writes: this one, or the one before.
/// `board/common/bundle.sh` reads it: a device refuses an update after which it could not come back.
pub const SCHEMA_BACK: u64 = 1;
const _: () = assert!(SCHEMA_BACK <= SCHEMA && SCHEMA <= SCHEMA_BACK + 1);
/// Ids of streams count from 0: a file or a directory with a higher one was not made by a recorder.
pub const STREAM_ID_BELIEVED_MAX: u32 = 1 << 24;
/// File name in the data directory.
pub const FILE_NAME: &str = "store.redb";

const META: TableDefinition<&str, &[u8]> = TableDefinition::new("meta");
const SETTINGS: TableDefinition<&str, &[u8]> = TableDefinition::new("settings");
const STREAMS: TableDefinition<u32, &[u8]> = TableDefinition::new("streams");
const RECORDINGS: TableDefinition<u64, &[u8]> = TableDefinition::new("recordings");
/// Recordings whose row is gone and whose file is about to be: id and path.
const GARBAGE: TableDefinition<u64, &[u8]> = TableDefinition::new("garbage");

/// An index of earlier versions.
const OLD_BLOCKS: TableDefinition<u64, &[u8]> = TableDefinition::new("blocks");

const META_SCHEMA: &str = "schema";
/// The oldest schema whose program may open the store; absent, it is that of `META_SCHEMA`.
const META_SCHEMA_BACK: &str = "schema_back";
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

/// Before the number of a run of the machine.
const META_REDATE: &str = "redate:";

const INDEX_VERSION: u64 = 2;
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
    /// The database's file is not what the database wrote.
    Damaged(String),
    /// The database or the disk below it.
    Database(String),
}

impl std::fmt::Display for StoreError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::InUse => write!(f, "the store is open in another process"),
            Self::Newer { schema } => write!(
                f,
                "the store has schema {schema} of a newer LightNVR, this one knows up to {SCHEMA}: \
                 install the newer version again, or use another --data-dir"
            ),
            Self::Corrupt { what } => write!(f, "the store holds a broken record: {what}"),
            Self::Damaged(what) => write!(f, "the store's file is damaged: {what}"),
            Self::Database(what) => write!(f, "store: {what}"),
        }
    }
}

impl std::error::Error for StoreError {}

impl StoreError {
    /// Whether what the file holds is no use any more, whatever the disk does.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Corrupt { .. } | Self::Damaged(_))
    }
}

fn database(error: impl Into<redb::Error>) -> StoreError {
    match error.into() {
        redb::Error::Corrupted(what) => StoreError::Damaged(what),
        redb::Error::Io(error)
            if matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) =>
        {
            StoreError::Damaged(error.to_string())
        }
        other => StoreError::Database(other.to_string()),
    }
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
    /// Takes a span away.
    RemoveSpan(u32, Layer, i64),
    PutLife(Life),
    /// One run of the machine has learnt the time; streams that were made before are dated anew with this.
    PutRedate(Redate),
    /// All of this run is dated anew.
    RemoveRedate(u64),
    /// A row takes the place of another, if that is still what is stored.
    ReplaceRecording {
        old: RecordingRow,
        new: RecordingRow,
    },
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

/// Where a recording is in the list: by its start, Unix milliseconds, and then by its id.
pub type Place = (i64, u64);

/// Which recordings to list, in which order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordingQuery {
    pub stream_id: Option<u32>,
    /// Only those that overlap `[start_ms, end_ms)`, Unix milliseconds.
    pub start_ms: Option<i64>,
    pub end_ms: Option<i64>,
    pub is_protected: Option<bool>,
    /// Places in the list, exclusive.
    pub before: Option<Place>,
    pub after: Option<Place>,
    pub limit: usize,
    pub descending: bool,
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
        damage::guarded(|| Self::prepare(database::open(&path)?, Some(path.clone())))
    }

    /// Opens the store in `data_dir` without ever writing to its file: a repair after a crash happens
    /// in memory.
    pub fn open_unchanged(data_dir: &Path) -> Result<Self, StoreError> {
        let path = data_dir.join(FILE_NAME);
        damage::guarded(|| Self::prepare(database::open_unchanged(&path)?, None))
    }

    fn prepare(db: Database, path: Option<PathBuf>) -> Result<Self, StoreError> {
        let store = Self { db: Arc::new(Reopening::new(db, path)) };
        let tx = store.db.begin_write()?;
        {
            let mut meta = tx.open_table(META).map_err(database)?;
            tx.open_table(SETTINGS).map_err(database)?;
            tx.open_table(STREAMS).map_err(database)?;
            tx.open_table(RECORDINGS).map_err(database)?;
            tx.open_table(GARBAGE).map_err(database)?;
            Spans::open(&tx)?;
            let schema = read_number(&meta, META_SCHEMA)?;
            let back = read_number(&meta, META_SCHEMA_BACK)?.or(schema);
            if let Some(schema) = schema.filter(|_| back.is_some_and(|back| back > SCHEMA)) {
                return Err(StoreError::Newer { schema });
            }
            // Also over a higher number: the newer program sees that an older one has written since.
            for (name, found, own) in
                [(META_SCHEMA, schema, SCHEMA), (META_SCHEMA_BACK, back, SCHEMA_BACK)]
            {
                if found != Some(own) {
                    meta.insert(name, own.to_le_bytes().as_slice()).map_err(database)?;
                }
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
        match &done {
            Err(StoreError::Database(_) | StoreError::Damaged(_)) => self.db.note_failed(),
            Ok(()) if changes.iter().any(damage::is_in_copy) => self.keep_copy(),
            _ => {}
        }
        done
    }

    fn try_commit(&self, changes: &[Change]) -> Result<(), StoreError> {
        let tx = self.db.begin_write()?;
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
        let tx = self.db.begin_read()?;
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

/// A number of the table `meta`.
fn read_number(
    meta: &redb::Table<'_, &'static str, &'static [u8]>,
    name: &str,
) -> Result<Option<u64>, StoreError> {
    let Some(value) = meta.get(name).map_err(database)? else { return Ok(None) };
    let number = bytes::read_u64(value.value());
    number.map(Some).ok_or_else(|| StoreError::Corrupt { what: name.to_owned() })
}

fn redate_name(boot: u64) -> String {
    format!("{META_REDATE}{boot:016x}")
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
            Change::RemoveSpan(stream_id, layer, start_ms) => {
                self.spans.remove(*stream_id, *layer, *start_ms)?;
            }
            Change::PutLife(life) => self.spans.put_life(life)?,
            Change::PutRedate(redate) => {
                let record = bytes::encode_redate(redate);
                self.meta
                    .insert(redate_name(redate.boot).as_str(), record.as_slice())
                    .map_err(database)?;
                self.spans.redate_lives(redate)?;
            }
            Change::RemoveRedate(boot) => {
                self.meta.remove(redate_name(*boot).as_str()).map_err(database)?;
            }
            Change::ReplaceRecording { old, new } => {
                let stored = self.recordings.get(old.id).map_err(database)?;
                let stored = stored.map(|record| decode_row(old.id, record.value())).transpose()?;
                if stored.as_ref() == Some(old) {
                    self.put_recording(new)?;
                }
            }
            Change::PruneSpans(now_ms, keep_ms) => self.spans.prune(*now_ms, *keep_ms)?,
            // A time that is not known yet must not hide the last one that was.
            Change::Alive(at_ms) if !clock_core::is_set(*at_ms) => {}
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
        if row.stream_id < STREAM_ID_BELIEVED_MAX {
            // A file may know of a stream that the store has lost.
            self.raise(META_NEXT_STREAM, u64::from(row.stream_id) + 1)?;
        }
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
    tx.delete_table(index::BY_TIME).map_err(database)?;
    tx.delete_table(OLD_BLOCKS).map_err(database)?;
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

fn decode_row(id: u64, record: &[u8]) -> Result<RecordingRow, StoreError> {
    bytes::decode_recording(id, record)
        .ok_or_else(|| StoreError::Corrupt { what: format!("recording {id}") })
}

#[cfg(test)]
mod tests;
