//! A store whose file is damaged: set aside, and what no recording can tell brought back from a copy beside it.
//!
//! In here: the copy of streams, settings, password and storages, written whenever one of them changes, and the order of
//! steps in which a damaged store makes room: each may be the last before a power cut. Not in here: rows of recordings,
//! which `record/recovery` makes from the files.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use redb::{ReadTransaction, ReadableTable};

use super::spans::LIVES;
use super::{
    Change, FILE_NAME, Loaded, META, META_NEXT_STREAM, META_PASSWORD, META_STORAGE, SETTINGS,
    STREAMS, Store, StoreError, database,
};

/// Name of the copy in the data directory; of one that is being written; of one that is to be brought back.
const COPY: &str = "store.copy";
const COPY_PART: &str = "store.copy.part";
const COPY_RETURNING: &str = "store.copy.returning";
/// Damaged stores that are kept, the newest under the first name.
pub const BROKEN: [&str; 3] = ["store.redb.broken", "store.redb.broken-2", "store.redb.broken-3"];
/// First line of a copy; then comes the checksum of the rest.
const HEADER: &[u8] = b"lightnvr-store-copy 1\n";
/// 512 streams with the longest addresses are under 1 MiB.
const COPY_BYTES_MAX: u64 = 8 << 20;
const FILE_MODE: u32 = 0o600;

/// What became of a store that could not be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    pub why: String,
    /// Streams, settings and password are there again.
    pub has_copy: bool,
}

/// Opens the store in `data_dir`. One that is damaged is set aside and another begins in its place; one of a newer
/// program, or one that the disk does not give, is left as it is and is an error.
pub fn open_or_begin_anew(
    data_dir: &Path,
    default_storage: &str,
) -> Result<(Store, Loaded, Option<Lost>), StoreError> {
    let open = || {
        let store = Store::open(data_dir)?;
        let loaded = store.load(default_storage.to_owned())?;
        Ok::<_, StoreError>((store, loaded))
    };
    let mut why = match open() {
        Err(error) if error.is_damage() => {
            set_aside(data_dir).map_err(|error| in_data_dir(data_dir, &error))?;
            Some(error.to_string())
        }
        Err(error) => return Err(error),
        Ok((store, loaded)) if !data_dir.join(COPY_RETURNING).exists() => {
            return Ok((store, loaded, None));
        }
        // The power went while it was brought back.
        Ok(_) => None,
    };
    let store = Store::open(data_dir)?;
    let has_copy = bring_back(&store, data_dir)?;
    let why = why.get_or_insert_with(|| "it was being mended when the power went".into()).clone();
    let loaded = store.load(default_storage.to_owned())?;
    Ok((store, loaded, Some(Lost { why, has_copy })))
}

fn in_data_dir(data_dir: &Path, error: &io::Error) -> StoreError {
    StoreError::Database(format!("{}: {error}", data_dir.display()))
}

/// Calls what opens a database: of a damaged one redb may panic.
pub(super) fn guarded<T>(open: impl FnOnce() -> Result<T, StoreError>) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(open))
        .unwrap_or_else(|_| Err(StoreError::Damaged("the database can't make sense of it".into())))
}

/// Renames the store and the copy that belongs to it: the copy first, for a store without one is the rule.
fn set_aside(data_dir: &Path) -> io::Result<()> {
    let at = |name: &str| data_dir.join(name);
    let rename = |from: PathBuf, to: PathBuf| match std::fs::rename(from, to) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(()),
        renamed => renamed,
    };
    if !at(COPY_RETURNING).exists() {
        rename(at(COPY), at(COPY_RETURNING))?;
    }
    for pair in BROKEN.windows(2).rev() {
        rename(at(pair[0]), at(pair[1]))?;
    }
    rename(at(FILE_NAME), at(BROKEN[0]))?;
    File::open(data_dir)?.sync_all()
}

/// Fills a new store from the copy; false where there is none that is whole.
fn bring_back(store: &Store, data_dir: &Path) -> Result<bool, StoreError> {
    let path = data_dir.join(COPY_RETURNING);
    let copy = match read(&path) {
        Ok(bytes) => parse(&bytes),
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(in_data_dir(data_dir, &error)),
    };
    if let Some(entries) = &copy {
        store.put_entries(entries)?;
    }
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(in_data_dir(data_dir, &error)),
        _ => Ok(copy.is_some()),
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(COPY_BYTES_MAX).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Whether the copy must be written anew with this change.
pub(super) fn is_in_copy(change: &Change) -> bool {
    matches!(
        change,
        Change::PutStream(_)
            | Change::RemoveStream(_)
            | Change::PutSettings(_)
            | Change::PutPassword(_)
            | Change::PutLife(_)
            | Change::PutStorage { .. }
    )
}

/// A table of the store that is in the copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Table {
    Meta = 0,
    Settings = 1,
    Streams = 2,
    Lives = 3,
}

/// One record: table, key, value. Keys of streams are four bytes, little-endian.
type Entry = (Table, Vec<u8>, Vec<u8>);

impl Store {
    /// Writes the copy, where it says something else than the store.
    pub fn keep_copy(&self) {
        let Some(data_dir) = self.db.path().and_then(Path::parent) else { return };
        let kept = self.entries().and_then(|entries| {
            let (is, path) = (encode(&entries), data_dir.join(COPY));
            if read(&path).is_ok_and(|was| was == is) {
                return Ok(());
            }
            write(data_dir, &is).map_err(|error| in_data_dir(data_dir, &error))
        });
        if let Err(error) = kept {
            log::warn!("the copy of streams and settings could not be written: {error}");
        }
    }

    fn entries(&self) -> Result<Vec<Entry>, StoreError> {
        let tx: ReadTransaction = self.db.begin_read()?;
        let mut entries = Vec::new();
        for entry in tx.open_table(META).map_err(database)?.iter().map_err(database)? {
            let (key, value) = entry.map_err(database)?;
            let key = key.value();
            if [META_NEXT_STREAM, META_PASSWORD].contains(&key) || key.starts_with(META_STORAGE) {
                entries.push((Table::Meta, key.as_bytes().to_vec(), value.value().to_vec()));
            }
        }
        for entry in tx.open_table(SETTINGS).map_err(database)?.iter().map_err(database)? {
            let (key, value) = entry.map_err(database)?;
            entries.push((Table::Settings, key.value().into(), value.value().to_vec()));
        }
        for (table, of) in [(Table::Streams, STREAMS), (Table::Lives, LIVES)] {
            for entry in tx.open_table(of).map_err(database)?.iter().map_err(database)? {
                let (key, value) = entry.map_err(database)?;
                entries.push((table, key.value().to_le_bytes().to_vec(), value.value().to_vec()));
            }
        }
        Ok(entries)
    }

    fn put_entries(&self, entries: &[Entry]) -> Result<(), StoreError> {
        let tx = self.db.begin_write()?;
        {
            let mut meta = tx.open_table(META).map_err(database)?;
            let mut settings = tx.open_table(SETTINGS).map_err(database)?;
            let mut streams = tx.open_table(STREAMS).map_err(database)?;
            let mut lives = tx.open_table(LIVES).map_err(database)?;
            for (table, key, value) in entries {
                let (text, value) = (std::str::from_utf8(key).ok(), value.as_slice());
                let id = key.as_slice().try_into().ok().map(u32::from_le_bytes);
                match (table, text, id) {
                    (Table::Meta, Some(key), _) => drop(meta.insert(key, value).map_err(database)?),
                    (Table::Settings, Some(key), _) => {
                        drop(settings.insert(key, value).map_err(database)?);
                    }
                    (Table::Streams, _, Some(id)) => {
                        drop(streams.insert(id, value).map_err(database)?);
                    }
                    (Table::Lives, _, Some(id)) => {
                        drop(lives.insert(id, value).map_err(database)?);
                    }
                    _ => {}
                }
            }
        }
        tx.commit().map_err(database)
    }
}

fn write(data_dir: &Path, bytes: &[u8]) -> io::Result<()> {
    let part = data_dir.join(COPY_PART);
    let mut options = OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(FILE_MODE).open(&part)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&part, data_dir.join(COPY))?;
    File::open(data_dir)?.sync_all()
}

/// FNV-1a, 64 bits: against a card that forgets, not against an enemy.
fn checksum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn encode(entries: &[Entry]) -> Vec<u8> {
    let mut body = Vec::new();
    for (table, key, value) in entries {
        body.push(*table as u8);
        for part in [key, value] {
            body.extend_from_slice(&(part.len() as u32).to_le_bytes()); // <= COPY_BYTES_MAX
            body.extend_from_slice(part);
        }
    }
    [HEADER, &checksum(&body).to_le_bytes(), &body].concat()
}

/// `None`: torn, rotten, or of another version.
fn parse(bytes: &[u8]) -> Option<Vec<Entry>> {
    let (sum, mut rest) = bytes.strip_prefix(HEADER)?.split_first_chunk()?;
    if checksum(rest) != u64::from_le_bytes(*sum) {
        return None;
    }
    let part = |rest: &mut &[u8]| {
        let (len, behind) = rest.split_first_chunk()?;
        let (part, behind) = behind.split_at_checked(u32::from_le_bytes(*len) as usize)?;
        *rest = behind;
        Some(part.to_vec())
    };
    let mut entries = Vec::new();
    while let Some((&table, behind)) = rest.split_first() {
        rest = behind;
        let table = [Table::Meta, Table::Settings, Table::Streams, Table::Lives]
            .into_iter()
            .find(|known| *known as u8 == table)?;
        entries.push((table, part(&mut rest)?, part(&mut rest)?));
    }
    Some(entries)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_copy_comes_back_whole_or_not_at_all(
            records in proptest::collection::vec((0_usize..4, ".{0,9}", proptest::collection::vec(any::<u8>(), 0..9)), 0..6),
            at in any::<prop::sample::Index>(), bit in 0_u8..8, cut in any::<prop::sample::Index>(),
        ) {
            let tables = [Table::Meta, Table::Settings, Table::Streams, Table::Lives];
            let entries: Vec<Entry> =
                records.into_iter().map(|(n, key, value)| (tables[n], key.into_bytes(), value)).collect();
            let bytes = encode(&entries);
            prop_assert_eq!(parse(&bytes), Some(entries));
            let mut rotten = bytes.clone();
            rotten[at.index(bytes.len())] ^= 1 << bit;
            prop_assert_eq!(parse(&rotten), None);
            prop_assert_eq!(parse(&bytes[..cut.index(bytes.len())]), None);
        }
    }
}
