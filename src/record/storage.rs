//! Which storage is ours: a marker file with a UUID names it, and the store remembers the UUID for each storage path.
//!
//! In here: the marker, and the decision whether a directory may be written to. Not in here: when that is asked
//! (`open`), system calls (`disk`). A path alone says nothing: an unplugged disk leaves an empty directory of the
//! system's own disk behind. Rule: without the right marker nothing is written, ever; who wants otherwise, adopts.

use std::io::ErrorKind;
use std::path::Path;
use std::sync::Arc;

use super::RecordError;
use super::disk::{Access, Disk, Opener};
use super::real_disk;
use crate::store::row::StorageRow;
use crate::store::{Change, Store};

/// Name of the marker in the storage.
pub const MARKER: &str = ".lightnvr-storage";
/// First line of the marker; the second is the UUID.
const MARKER_VERSION: &str = "lightnvr-storage 1";
/// A longer marker is not ours.
const MARKER_BYTES_MAX: u64 = 256;

/// Why a storage must not be written to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StorageFault {
    /// The storage is known, and what is at its path has no marker: its disk is not there.
    Missing,
    /// The marker of another storage, or one that can't be read.
    Foreign,
    /// The disk has not said yet what it holds.
    Silent,
}

impl StorageFault {
    /// What an owner may read.
    pub fn for_owner(self) -> &'static str {
        match self {
            Self::Missing => "not recording: disk missing, it is not mounted at the storage path",
            Self::Foreign => {
                "not recording: foreign storage, the disk at the storage path belongs to another recorder; \
                 POST /api/v1/storage/adopt takes it on"
            }
            Self::Silent => "not recording: the disk has not answered yet",
        }
    }

    /// For the report of `lightnvr check`.
    pub fn for_check(self) -> &'static str {
        match self {
            Self::Missing => "disk missing, it is not mounted here",
            Self::Foreign => "foreign storage",
            Self::Silent => "the disk does not answer",
        }
    }
}

/// Whether the owner said that what is at the path now is the storage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Consent {
    No,
    Adopt,
}

/// What is in the place of the marker.
#[derive(Debug, PartialEq, Eq)]
enum Marker {
    None,
    Uuid(String),
    /// Something that this version does not read.
    Unreadable,
}

/// Opens the storage at `root` if it is ours, or new. A new one gets its marker: first the store remembers the UUID as
/// not yet written, then comes the marker, then the store's word that it is there, so that a power cut in between
/// leaves neither a storage that nobody knows nor one that seems to be missing.
pub fn attach(
    open: &Opener,
    store: &Store,
    root: &Path,
    consent: Consent,
) -> Result<Arc<dyn Disk>, RecordError> {
    let path = root.to_string_lossy();
    let known = store.reader().storage(&path).map_err(RecordError::Store)?;
    let is_new = match &known {
        Some(known) => !known.is_marked,
        None => consent == Consent::Adopt || !has_rows(store, root)? || has_recordings(open, root),
    };
    let may_claim = is_new || consent == Consent::Adopt;
    let failed = |error: &std::io::Error| RecordError::disk(root, error);
    let disk = match open(root) {
        Err(error) if error.kind() == ErrorKind::NotFound && may_claim => {
            real_disk::make(root).map_err(|error| failed(&error))?;
            open(root).map_err(|error| failed(&error))?
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Err(RecordError::Storage(StorageFault::Missing));
        }
        opened => opened.map_err(|error| failed(&error))?,
    };
    let uuid = match (read_marker(disk.as_ref()).map_err(|error| failed(&error))?, &known) {
        (Marker::Uuid(found), Some(known)) if found == known.uuid => found,
        (Marker::Uuid(found), _) if consent == Consent::Adopt => found,
        (Marker::Uuid(_), _) => return Err(RecordError::Storage(StorageFault::Foreign)),
        (Marker::Unreadable, _) if !may_claim => {
            return Err(RecordError::Storage(StorageFault::Foreign));
        }
        (Marker::None, _) if !may_claim => {
            return Err(RecordError::Storage(StorageFault::Missing));
        }
        (marker, _) => {
            // A storage that was lost keeps its UUID to itself: it may come back.
            let unwritten = known.as_ref().filter(|known| !known.is_marked);
            let uuid = unwritten.map_or_else(new_uuid, |known| Ok(known.uuid.clone()))?;
            note(store, &path, &uuid, false)?;
            let written = write_marker(disk.as_ref(), &uuid, marker == Marker::Unreadable);
            written.map_err(|error| failed(&error))?;
            uuid
        }
    };
    if known.is_none_or(|known| known.uuid != uuid || !known.is_marked) {
        note(store, &path, &uuid, true)?;
    }
    Ok(disk)
}

/// Opens the storage at `root` without changing anything; `None` where there is nothing yet.
pub fn look(
    open: &Opener,
    store: &Store,
    root: &Path,
) -> Result<Result<Option<Arc<dyn Disk>>, StorageFault>, RecordError> {
    let known = store.reader().storage(&root.to_string_lossy()).map_err(RecordError::Store)?;
    let must_be = known.filter(|known| known.is_marked);
    let failed = |error: &std::io::Error| RecordError::disk(root, error);
    let disk = match open(root) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            return Ok(must_be.map_or(Ok(None), |_| Err(StorageFault::Missing)));
        }
        opened => opened.map_err(|error| failed(&error))?,
    };
    let marker = read_marker(disk.as_ref()).map_err(|error| failed(&error))?;
    Ok(match (marker, must_be) {
        (_, None) => Ok(Some(disk)),
        (Marker::Uuid(found), Some(known)) if found == known.uuid => Ok(Some(disk)),
        (Marker::None, Some(_)) => Err(StorageFault::Missing),
        (_, Some(_)) => Err(StorageFault::Foreign),
    })
}

fn note(store: &Store, path: &str, uuid: &str, is_marked: bool) -> Result<(), RecordError> {
    let row = StorageRow { uuid: uuid.to_owned(), is_marked };
    let change = Change::PutStorage { path: path.to_owned(), row };
    store.commit(&[change]).map_err(RecordError::Store)
}

/// Whether the store has recordings below `root`: a store from before there were markers knows its storage by them.
fn has_rows(store: &Store, root: &Path) -> Result<bool, RecordError> {
    let mut is_found = false;
    let visited = store.reader().visit_behind(0, |row| {
        is_found = Path::new(&row.path).starts_with(root);
        !is_found
    });
    visited.map_err(RecordError::Store)?;
    Ok(is_found)
}

/// Whether there is a stream's directory below `root`.
fn has_recordings(open: &Opener, root: &Path) -> bool {
    let names = open(root).and_then(|disk| disk.list(""));
    names.is_ok_and(|names| names.iter().any(|name| name.parse::<u32>().is_ok()))
}

fn read_marker(disk: &dyn Disk) -> std::io::Result<Marker> {
    let file = match disk.open(MARKER, Access::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Marker::None),
        Err(error) => return Err(error),
    };
    let len = file.size()?;
    if len > MARKER_BYTES_MAX {
        return Ok(Marker::Unreadable);
    }
    let mut bytes = vec![0; len as usize]; // <= MARKER_BYTES_MAX
    file.read_at(&mut bytes, 0)?;
    Ok(parse_marker(&bytes).map_or(Marker::Unreadable, Marker::Uuid))
}

fn parse_marker(bytes: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(bytes).ok()?;
    let uuid = text.strip_prefix(MARKER_VERSION)?.strip_prefix('\n')?.strip_suffix('\n')?;
    let is_uuid = uuid.len() == 36 && uuid.bytes().all(|b| b.is_ascii_hexdigit() || b == b'-');
    is_uuid.then(|| uuid.to_owned())
}

fn write_marker(disk: &dyn Disk, uuid: &str, is_in_the_way: bool) -> std::io::Result<()> {
    if is_in_the_way {
        disk.remove(MARKER)?;
    }
    let file = disk.create(MARKER)?;
    file.write_at(format!("{MARKER_VERSION}\n{uuid}\n").as_bytes(), 0)?;
    file.sync()?;
    disk.sync_dir("")
}

/// A random UUID (RFC 9562 section 5.4, version 4).
fn new_uuid() -> Result<String, RecordError> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| RecordError::Disk {
        what: format!("random numbers: {error}"),
        kind: ErrorKind::Other,
    })?;
    bytes[6] = bytes[6] & 0x0f | 0x40;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let parts = [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]];
    Ok(parts.join("-"))
}

#[cfg(test)]
mod tests;
