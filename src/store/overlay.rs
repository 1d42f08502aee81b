//! A store file that is only read: writes land in memory, so that `lightnvr check` changes nothing even where
//! redb has to repair after a crash.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

const BLOCK: u64 = 4096;

#[derive(Debug)]
struct Inner {
    len: u64,
    /// Blocks that were written, by number; everything else is in the file.
    blocks: HashMap<u64, Box<[u8; BLOCK as usize]>>,
}

/// The file below and what was written over it.
#[derive(Debug)]
pub struct Overlay {
    file: File,
    file_len: u64,
    inner: Mutex<Inner>,
}

impl Overlay {
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path)?;
        let file_len = file.metadata()?.len();
        let inner = Mutex::new(Inner { len: file_len, blocks: HashMap::new() });
        Ok(Self { file, file_len, inner })
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn load_block(&self, inner: &Inner, number: u64) -> Result<Box<[u8; BLOCK as usize]>> {
        if let Some(block) = inner.blocks.get(&number) {
            return Ok(block.clone());
        }
        let mut block = Box::new([0; BLOCK as usize]);
        let at = number * BLOCK;
        if at < self.file_len {
            let len = (self.file_len - at).min(BLOCK) as usize;
            self.file.read_exact_at(&mut block[..len], at)?;
        }
        Ok(block)
    }
}

/// Splits `[at, at + len)` at block borders: block number, offset in the block, range in the caller's buffer.
fn pieces(at: u64, len: usize) -> impl Iterator<Item = (u64, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let position = at + done as u64;
        let within = (position % BLOCK) as usize;
        let step = (BLOCK as usize - within).min(len - done);
        let piece = (position / BLOCK, within, done..done + step);
        done += step;
        (step > 0).then_some(piece)
    })
}

impl StorageBackend for Overlay {
    fn len(&self) -> Result<u64> {
        Ok(self.inner().len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<()> {
        let inner = self.inner();
        if offset.checked_add(out.len() as u64).is_none_or(|end| end > inner.len) {
            return Err(Error::from(ErrorKind::UnexpectedEof));
        }
        for (number, within, range) in pieces(offset, out.len()) {
            let block = self.load_block(&inner, number)?;
            let len = range.len();
            out[range].copy_from_slice(&block[within..within + len]);
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> Result<()> {
        let mut inner = self.inner();
        if len < inner.len {
            // What grows back must read as zero, the file's own bytes included.
            let end = inner.len.div_ceil(BLOCK);
            for number in len / BLOCK..end {
                let mut block = self.load_block(&inner, number)?;
                let keep = len.saturating_sub(number * BLOCK).min(BLOCK) as usize;
                block[keep..].fill(0);
                inner.blocks.insert(number, block);
            }
        }
        inner.len = len;
        Ok(())
    }

    fn sync_data(&self) -> Result<()> {
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<()> {
        let mut inner = self.inner();
        for (number, within, range) in pieces(offset, data.len()) {
            let mut block = self.load_block(&inner, number)?;
            block[within..within + range.len()].copy_from_slice(&data[range]);
            inner.blocks.insert(number, block);
        }
        Ok(())
    }
}
