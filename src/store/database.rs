//! The database behind the store, opened anew after its disk failed.
//!
//! redb takes no more writes after one I/O error, a full disk included, until it is opened again. That is done before
//! the next write. Where even that is refused (the repair wants to write too), reads go on from the file as it is, with
//! the repair in memory.

use std::fs::{File, OpenOptions, Permissions};
use std::io;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::{Database, ReadTransaction, ReadableDatabase, WriteTransaction};

use super::{CACHE_BYTES, StoreError, database, overlay};

#[derive(Debug)]
struct Inner {
    /// `None` only while it is opened anew, or when that went wrong.
    db: Option<Arc<Database>>,
    is_failed: bool,
}

/// The database and where it is; without a path it is not opened again.
#[derive(Debug)]
pub struct Reopening {
    path: Option<PathBuf>,
    inner: Mutex<Inner>,
}

/// The file holds passwords of cameras: nobody else may read it.
const FILE_MODE: u32 = 0o600;

/// Opens or creates the database at `path`.
pub fn open(path: &Path) -> Result<Database, StoreError> {
    make_private(path)
        .map_err(|error| StoreError::Database(format!("{}: {error}", path.display())))?;
    let opened = Database::builder().set_cache_size(CACHE_BYTES).create(path);
    opened.map_err(|error| match error {
        redb::DatabaseError::DatabaseAlreadyOpen => StoreError::InUse,
        other => database(other),
    })
}

/// Makes the file with its mode, which redb takes for a new database, or takes rights away from an older
/// one. Where the file is somebody else's to change, recording goes on with it.
fn make_private(path: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    let file: File = options.read(true).write(true).create(true).mode(FILE_MODE).open(path)?;
    let mode = file.metadata()?.permissions().mode() & 0o777;
    if mode != FILE_MODE
        && let Err(error) = file.set_permissions(Permissions::from_mode(FILE_MODE))
    {
        log::warn!("{}: mode {mode:o} lets others read passwords: {error}", path.display());
    }
    Ok(())
}

/// Opens the database at `path` without ever writing to its file.
pub fn open_unchanged(path: &Path) -> Result<Database, StoreError> {
    let backend = overlay::Overlay::open(path)
        .map_err(|error| StoreError::Database(format!("{}: {error}", path.display())))?;
    let builder = Database::builder().set_cache_size(CACHE_BYTES).create_with_backend(backend);
    builder.map_err(database)
}

impl Reopening {
    pub fn new(db: Database, path: Option<PathBuf>) -> Self {
        Self { path, inner: Mutex::new(Inner { db: Some(Arc::new(db)), is_failed: false }) }
    }

    /// Where its file is.
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn current(&self) -> Result<Arc<Database>, StoreError> {
        let db = self.inner().db.clone();
        db.ok_or_else(|| StoreError::Database("it is being opened anew".into()))
    }

    /// A write went wrong: the next one opens the database anew.
    pub fn note_failed(&self) {
        self.inner().is_failed = true;
    }

    pub fn begin_read(&self) -> Result<ReadTransaction, StoreError> {
        self.current()?.begin_read().map_err(database)
    }

    pub fn begin_write(&self) -> Result<WriteTransaction, StoreError> {
        let is_failed = self.inner().is_failed;
        if is_failed && let Some(path) = &self.path {
            self.reopen(path)?;
        }
        self.current()?.begin_write().map_err(database)
    }

    fn reopen(&self, path: &Path) -> Result<(), StoreError> {
        // The file is locked for as long as the old one lives.
        let old = self.inner().db.take();
        drop(old);
        let (db, done) = match open(path) {
            Ok(db) => (Some(db), Ok(())),
            Err(error) => (open_unchanged(path).ok(), Err(error)),
        };
        let mut inner = self.inner();
        inner.is_failed = done.is_err();
        inner.db = db.map(Arc::new);
        drop(inner);
        if done.is_ok() {
            log::debug!("store: opened again after its disk failed");
        }
        done
    }
}
