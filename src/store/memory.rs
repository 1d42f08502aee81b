//! Tests only: a store in memory that tells every operation, so that a power cut can be played at any of them.

use std::io::{Error, ErrorKind, Result};
use std::sync::{Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

use super::{CACHE_BYTES, Store, StoreError, database};

/// What the store does with its file.
#[derive(Clone, Debug)]
pub enum StoreOp {
    SetLen(u64),
    Write(u64, Vec<u8>),
    Sync,
}

/// Hears of each operation before it takes effect.
pub type Listener = Box<dyn Fn(StoreOp) + Send + Sync>;

struct Memory {
    bytes: Mutex<Vec<u8>>,
    tell: Listener,
}

impl std::fmt::Debug for Memory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Memory")
    }
}

impl Memory {
    fn bytes(&self) -> MutexGuard<'_, Vec<u8>> {
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl StorageBackend for Memory {
    fn len(&self) -> Result<u64> {
        Ok(self.bytes().len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let bytes = self.bytes();
        let range = offset as usize..offset as usize + out.len();
        out.copy_from_slice(bytes.get(range).ok_or(Error::from(ErrorKind::UnexpectedEof))?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<()> {
        (self.tell)(StoreOp::SetLen(len));
        self.bytes().resize(len as usize, 0);
        Ok(())
    }

    fn sync_data(&self) -> Result<()> {
        (self.tell)(StoreOp::Sync);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        (self.tell)(StoreOp::Write(offset, data.to_vec()));
        let range = offset as usize..offset as usize + data.len();
        self.bytes()[range].copy_from_slice(data);
        Ok(())
    }
}

impl Store {
    /// Opens what a file with these bytes holds.
    pub fn open_in_memory(bytes: Vec<u8>, tell: Listener) -> std::result::Result<Self, StoreError> {
        let backend = Memory { bytes: Mutex::new(bytes), tell };
        let db = redb::Database::builder()
            .set_cache_size(CACHE_BYTES)
            .create_with_backend(backend)
            .map_err(database)?;
        Self::prepare(db, None)
    }
}
