//! A file on its way to a client: read in pieces, away from the executor.
//!
//! In here: opening once and reading at a position, in the `blocking` pool, because a card can stall
//! for seconds. Not in here: ranges (`range_core.rs`), writing to the client (`respond.rs`).

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::sync::Arc;

use rustix::fs::OFlags;

/// Bytes read at once: a card reads this in one go, and [`FILES_MAX`] of them are 4 MiB.
const CHUNK_BYTES: usize = 256 << 10;
/// Files being sent at once.
pub const FILES_MAX: usize = 16;
/// Of them to one address: a browser that plays one and saves three. Four addresses can take all.
pub const FILES_PER_PEER_MAX: usize = 4;

/// The rest of what was asked for.
pub struct Transfer {
    file: Arc<File>,
    at: u64,
    left: u64,
    chunk: Vec<u8>,
}

impl Transfer {
    /// Opens the regular file at `path` for `len` bytes from `at`. It may grow meanwhile; bytes that
    /// are there stay as they are.
    pub async fn open(path: &str, at: u64, len: u64) -> io::Result<Self> {
        let path = path.to_owned();
        let open = move || -> io::Result<File> {
            // Whoever may write to the recordings must not have us read another file by a link, nor
            // wait for ever on a pipe.
            let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
            let file = OpenOptions::new().read(true).custom_flags(flags).open(path)?;
            if file.metadata()?.is_file() { Ok(file) } else { Err(ErrorKind::InvalidInput.into()) }
        };
        let file = in_blocking_pool(open).await?;
        Ok(Self { file: Arc::new(file), at, left: len, chunk: Vec::new() })
    }

    /// The next bytes; none at the end. A file that is shorter than promised is `UnexpectedEof`.
    pub async fn read(&mut self) -> io::Result<&[u8]> {
        let want = usize::try_from(self.left).unwrap_or(usize::MAX).min(CHUNK_BYTES);
        if want == 0 {
            return Ok(&[]);
        }
        let (file, at, mut chunk) =
            (Arc::clone(&self.file), self.at, std::mem::take(&mut self.chunk));
        chunk.resize(want, 0);
        let read = move || {
            let outcome = file.read_at(&mut chunk, at);
            (outcome, chunk)
        };
        let (outcome, chunk) = in_blocking_pool(read).await;
        self.chunk = chunk;
        let n = outcome?;
        if n == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.at += n as u64;
        self.left -= n as u64;
        Ok(&self.chunk[..n])
    }
}

/// Runs what reads files for a client, beside the disk threads.
#[expect(
    clippy::disallowed_methods,
    reason = "the one place: downloads must not wait for `disk-N`"
)]
pub async fn in_blocking_pool<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    smol::unblock(work).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_is_read_in_chunks_and_a_short_file_is_an_error() {
        let bytes: Vec<u8> = (0..CHUNK_BYTES + 10).map(|n| (n % 251) as u8).collect();
        let path = std::env::temp_dir().join(format!("lightnvr-file-{}", std::process::id()));
        std::fs::write(&path, &bytes).unwrap();
        let name = path.to_str().unwrap();
        smol::block_on(async {
            let mut part = Transfer::open(name, 3, CHUNK_BYTES as u64 + 5).await.unwrap();
            assert_eq!(part.read().await.unwrap(), &bytes[3..CHUNK_BYTES + 3]);
            assert_eq!(part.read().await.unwrap(), &bytes[CHUNK_BYTES + 3..CHUNK_BYTES + 8]);
            assert_eq!(part.read().await.unwrap(), b"");
            let mut short = Transfer::open(name, bytes.len() as u64 - 1, 2).await.unwrap();
            assert_eq!(short.read().await.unwrap().len(), 1);
            assert_eq!(short.read().await.unwrap_err().kind(), ErrorKind::UnexpectedEof);
            assert!(Transfer::open("/", 0, 1).await.is_err(), "a directory is no file");
        });
        std::fs::remove_file(&path).unwrap();
    }

    #[test]
    fn neither_a_link_nor_a_pipe_is_a_recording() {
        let name = |what: &str| {
            let name = format!("lightnvr-file-{what}-{}", std::process::id());
            std::env::temp_dir().join(name).to_str().unwrap().to_owned()
        };
        let (target, link, pipe) = (name("target"), name("link"), name("pipe"));
        std::fs::write(&target, b"secret").unwrap();
        std::os::unix::fs::symlink(&target, &link).unwrap();
        let mode = rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        smol::block_on(async {
            assert!(Transfer::open(&target, 0, 1).await.is_ok());
            assert!(Transfer::open(&link, 0, 1).await.is_err());
            assert!(Transfer::open(&pipe, 0, 1).await.is_err());
        });
        [target, link, pipe].iter().for_each(|path| std::fs::remove_file(path).unwrap());
    }
}
