//! The buffers at work: the rings that sources fill and recorders empty, and the swap file behind them.
//!
//! In here: the swap file (made, written, read, removed, each on the disk thread of its device) and who is
//! woken when. Not in here: any decision (`board_core`). A failed write leaves its packets in RAM and is tried
//! again after a pause; what can't be read back is a counted loss.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{Error, ErrorKind, Result, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{Advice, FallocateFlags, FlockOperation, OFlags};
use smol::channel::{Receiver, Sender, bounded};
use smol::future::poll_once;

use super::board_core::{Board, BufferView, LoadOp, Op, WriteOp};
use super::ring::{Loss, Take};
use super::spill_core::{self, MAGIC};
use crate::media::packet::Packet;
use crate::system::pool::{Pool, PoolError};
use crate::system::wait;

/// Pause after the swap file did not take bytes.
const RETRY_PAUSE: Duration = Duration::from_secs(2);
/// Pause before a full disk thread is asked again for what must be read.
const FULL_PAUSE: Duration = Duration::from_millis(100);

/// What the name of a file that is being made ends with.
const PART: &str = ".lightnvr-part";

/// A swap file that is open, and locked against other recorders.
#[derive(Debug)]
pub struct SwapFile {
    file: Arc<File>,
    path: PathBuf,
    bytes: u64,
}

impl SwapFile {
    /// Makes the file at `path` with all its blocks, or takes the one that is there if it has the size and nobody
    /// uses it. A file of another size is replaced, never written to: it may still be read. Blocks; an error says
    /// why in words without the path.
    pub fn make(path: &Path, bytes: u64) -> Result<Self> {
        match open(path, false) {
            Ok(file) => {
                let mut magic = [0; MAGIC.len()];
                let is_ours = file.metadata()?.is_file()
                    && file.read_exact_at(&mut magic, 0).is_ok()
                    && magic == *MAGIC;
                if !is_ours {
                    return Err(Error::new(ErrorKind::AlreadyExists, "another file is there"));
                }
                let is_free = lock(&file);
                if is_free && file.metadata()?.len() == bytes {
                    return Ok(Self { file: Arc::new(file), path: path.to_owned(), bytes });
                }
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
        let mut part = path.as_os_str().to_owned();
        part.push(PART);
        let part = PathBuf::from(part);
        // Left by a start that was cut off.
        let _ = std::fs::remove_file(&part);
        let made = fill(&part, bytes).and_then(|file| {
            std::fs::rename(&part, path)?;
            Ok(file)
        });
        if made.is_err() {
            let _ = std::fs::remove_file(&part);
        }
        Ok(Self { file: Arc::new(made?), path: path.to_owned(), bytes })
    }

    /// Removes the name. The blocks go when the last chunk has been read.
    pub fn remove(path: &Path) -> Result<()> {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    pub fn path(&self) -> &Path {
        &self.path
    }
}

fn open(path: &Path, is_new: bool) -> Result<File> {
    // Not through a link: this program may run as root, and the file is overwritten.
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    let mut options = OpenOptions::new();
    options.read(true).write(true).create_new(is_new).mode(0o600).custom_flags(flags).open(path)
}

fn lock(file: &File) -> bool {
    rustix::fs::flock(file, FlockOperation::NonBlockingLockExclusive).is_ok()
}

fn fill(part: &Path, bytes: u64) -> Result<File> {
    let mut file = open(part, true)?;
    match rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, bytes) {
        // exFAT and old NFS can't: then a full disk shows when a chunk is written.
        Err(rustix::io::Errno::OPNOTSUPP) => file.set_len(bytes)?,
        done => done?,
    }
    lock(&file);
    file.write_all(MAGIC)?;
    // Before it gets its name: else after a power cut the name may be there without the mark, and the file counts as
    // somebody else's.
    file.sync_all()?;
    Ok(file)
}

fn write(file: &File, op: &WriteOp) -> Result<u32> {
    let bytes = spill_core::encode(&op.packets, &op.table);
    let mut rest = &bytes[..];
    for extent in &op.extents {
        let (now, later) = rest.split_at(extent.len.min(rest.len()));
        file.write_all_at(now, extent.at)?;
        rest = later;
    }
    if op.is_pressed {
        // Else the kernel may keep it: what is read back soon never has to reach the card.
        file.sync_data()?;
        for extent in &op.extents {
            let len = std::num::NonZero::new(extent.len as u64);
            let _ = rustix::fs::fadvise(file, extent.at, len, Advice::DontNeed);
        }
    }
    Ok(spill_core::crc32(&bytes))
}

/// `None`: not what was written.
fn read(file: &File, op: &LoadOp) -> Result<Option<Vec<Packet>>> {
    let mut bytes = vec![0; op.extents.iter().map(|extent| extent.len).sum()];
    let mut rest = &mut bytes[..];
    for extent in &op.extents {
        let (now, later) = rest.split_at_mut(extent.len);
        file.read_exact_at(now, extent.at)?;
        rest = later;
    }
    if spill_core::crc32(&bytes) != op.crc {
        return Ok(None);
    }
    Ok(spill_core::decode(&bytes, &op.table))
}

/// A file in use, with the thread of its disk.
#[derive(Clone, Debug)]
struct InUse {
    file: Arc<File>,
    pool: Pool,
}

/// All buffers of the program, on the executor.
pub struct Buffers {
    board: RefCell<Board>,
    files: RefCell<BTreeMap<u32, InUse>>,
    wakes: RefCell<BTreeMap<u32, Sender<()>>>,
    work: Sender<()>,
    has_work: Receiver<()>,
    started: Instant,
}

impl Buffers {
    /// No rings, no file; rings may borrow `budget` bytes of RAM together.
    pub fn new(budget: usize, started: Instant) -> Rc<Self> {
        let (work, has_work) = bounded(1);
        Rc::new(Self {
            board: RefCell::new(Board::new(budget)),
            files: RefCell::default(),
            wakes: RefCell::default(),
            work,
            has_work,
            started,
        })
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn tell_work(&self) {
        if self.board.borrow().has_work() {
            let _ = self.work.try_send(());
        }
    }

    /// A ring of `bytes_max` for a stream; whenever its recorder should look again, `wake` is told.
    pub fn feed(
        self: &Rc<Self>,
        stream_id: u32,
        priority: u8,
        bytes_max: usize,
        wake: Sender<()>,
    ) -> Feed {
        let id = self.board.borrow_mut().add(stream_id, priority, bytes_max);
        self.wakes.borrow_mut().insert(id, wake);
        Feed { buffers: Rc::clone(self), id }
    }

    /// Whether memory is short.
    pub fn set_pressed(&self, is_pressed: bool) {
        self.board.borrow_mut().set_pressed(is_pressed);
        self.tell_work();
    }

    /// Whether the swap file shares its disk with the recordings.
    pub fn set_same_disk(&self, is_same_disk: bool) {
        self.board.borrow_mut().set_same_disk(is_same_disk);
    }

    /// Whether another file can be taken into use; there are few places for those still being read.
    pub fn can_use_file(&self) -> bool {
        self.board.borrow().can_use_file()
    }

    /// From now on packets go to `swap`, by `pool`; what is in an earlier file is still read from there.
    pub fn use_file(&self, swap: &SwapFile, pool: Pool) {
        if let Some(id) = self.board.borrow_mut().use_file(swap.bytes) {
            self.files.borrow_mut().insert(id, InUse { file: Arc::clone(&swap.file), pool });
        }
        let _ = self.work.try_send(());
    }

    /// From now on packets stay in RAM.
    pub fn use_none(&self) {
        self.board.borrow_mut().use_none();
        let _ = self.work.try_send(());
    }

    async fn close_unneeded(&self) {
        let unneeded = self.board.borrow_mut().take_unneeded_files();
        for id in unneeded {
            let closed = self.files.borrow_mut().remove(&id);
            if let Some(InUse { file, pool }) = closed {
                // The last handle of a file without name frees its blocks, which may take a while: the disk's
                // thread does it, and nobody waits for that.
                let _ = poll_once(pool.run(move || drop(file))).await;
            }
        }
    }

    /// What was lost since the last call.
    pub fn take_losses(&self) -> Vec<Loss> {
        self.board.borrow_mut().take_losses()
    }

    /// Bytes that all rings together may take beyond their own.
    pub fn shared_free(&self) -> u64 {
        self.board.borrow().shared_free(self.now_ms())
    }

    /// Writes and reads for ever.
    pub async fn run(self: Rc<Self>) {
        loop {
            self.close_unneeded().await;
            let op = self.board.borrow_mut().next_op(self.now_ms());
            match op {
                None => drop(self.has_work.recv().await),
                Some(Op::Write(op)) => self.write(op).await,
                Some(Op::Load(op)) => self.load(op).await,
            }
        }
    }

    fn in_use(&self, id: u32) -> Option<InUse> {
        self.files.borrow().get(&id).cloned()
    }

    async fn write(&self, op: WriteOp) {
        let done = match self.in_use(op.file) {
            Some(InUse { file, pool }) => pool.run(move || write(&file, &op)).await.ok(),
            None => None,
        };
        let is_failed = !matches!(done, Some(Ok(_)));
        if let Some(Err(error)) = &done {
            log::warn!("swap file: {error}; packets stay in RAM");
        }
        self.board.borrow_mut().end_write(done.and_then(Result::ok));
        if is_failed {
            // What must be read meanwhile waits with it: a disk that fails is left alone for a moment.
            wait::pause(RETRY_PAUSE).await;
        }
    }

    async fn load(&self, op: LoadOp) {
        let op = Arc::new(op);
        let why = loop {
            let Some(InUse { file, pool }) = self.in_use(op.file) else {
                break "it is gone".into();
            };
            let order = Arc::clone(&op);
            match pool.run(move || read(&file, &order)).await {
                Ok(Ok(Some(packets))) => return self.end_load(Some(packets)),
                Ok(Ok(None)) => break "what was read is not what was written".to_owned(),
                Ok(Err(error)) => break error.to_string(),
                Err(PoolError::Full) => wait::pause(FULL_PAUSE).await,
                Err(PoolError::Panicked) => break "its disk thread failed".to_owned(),
            }
        };
        log::error!("swap file: {why}; the packets there are lost");
        self.end_load(None);
    }

    fn end_load(&self, packets: Option<Vec<Packet>>) {
        let ring = self.board.borrow_mut().end_load(packets);
        if let Some(wake) = ring.and_then(|id| self.wakes.borrow().get(&id).cloned()) {
            let _ = wake.try_send(());
        }
    }
}

/// One stream's end of the buffers. Dropping it counts what still waits as lost.
pub struct Feed {
    buffers: Rc<Buffers>,
    id: u32,
}

impl Feed {
    /// Numbers `packet` and keeps it, if need be at the cost of others. Gives it back shared, kept or not.
    pub fn push(&self, packet: Packet) -> Arc<Packet> {
        let packet = self.buffers.board.borrow_mut().push(self.id, packet);
        if self.buffers.board.borrow().has_work_of(self.id) {
            let _ = self.buffers.work.try_send(());
        }
        packet
    }

    /// Takes the oldest packet.
    pub fn take(&self) -> Take {
        let take = self.buffers.board.borrow_mut().take(self.id);
        if matches!(take, Take::Loading) {
            self.buffers.tell_work();
        }
        take
    }

    /// Gives packets back that were taken last and could not be written; unless they `can_begin` a file, from the first
    /// keyframe on.
    pub fn put_back(&self, packets: Vec<Arc<Packet>>, can_begin: bool) {
        self.buffers.board.borrow_mut().put_back(self.id, packets, can_begin);
        self.buffers.tell_work();
    }

    pub fn set_bytes_max(&self, bytes: usize) {
        self.buffers.board.borrow_mut().set_bytes_max(self.id, bytes);
    }

    pub fn set_priority(&self, priority: u8) {
        self.buffers.board.borrow_mut().set_priority(self.id, priority);
    }

    /// As the API shows it.
    pub fn view(&self) -> Option<BufferView> {
        self.buffers.board.borrow().view(self.id)
    }
}

impl Drop for Feed {
    fn drop(&mut self) {
        self.buffers.board.borrow_mut().remove(self.id);
        self.buffers.wakes.borrow_mut().remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;
    use crate::buffer::board_core::Protection;
    use crate::buffer::buffer_tests::packet;

    fn temp_dir(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("lightnvr-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(&dir).expect("a directory");
        dir
    }

    #[test]
    fn the_file_is_made_once_with_all_its_blocks_and_for_nobody_else() {
        let dir = temp_dir("swap-made");
        let path = dir.join("swap");
        let swap = SwapFile::make(&path, 1 << 20).expect("made");
        let meta = std::fs::metadata(&path).expect("there");
        assert_eq!((meta.len(), meta.permissions().mode() & 0o777), (1 << 20, 0o600));
        assert!(meta.blocks() * 512 >= 1 << 20, "preallocated");
        drop(swap);
        let again = SwapFile::make(&path, 1 << 20).expect("taken");
        assert_eq!(std::fs::metadata(&path).expect("there").ino(), meta.ino());
        // Of another size, or in use: a new one in its place.
        let other = SwapFile::make(&path, 1 << 21).expect("made");
        assert_ne!(std::fs::metadata(&path).expect("there").ino(), meta.ino());
        drop((again, other));
        assert_eq!(std::fs::read_dir(&dir).expect("there").count(), 1);
        std::fs::remove_dir_all(dir).expect("removed");
    }

    #[test]
    fn a_file_of_somebody_else_is_left_alone() {
        let dir = temp_dir("swap-other");
        let path = dir.join("letter");
        std::fs::write(&path, "Dear reader, this is long enough").expect("written");
        std::os::unix::fs::symlink(&path, dir.join("link")).expect("linked");
        for name in ["letter", "link", ""] {
            assert!(SwapFile::make(&dir.join(name), 1 << 20).is_err(), "{name:?}");
        }
        let text = std::fs::read_to_string(&path).expect("there");
        assert_eq!(text, "Dear reader, this is long enough");
        std::fs::remove_dir_all(dir).expect("removed");
    }

    /// Pushes packets of 10 KiB until `done` says so, with the buffers at work.
    async fn push_until(feed: &Feed, done: impl Fn(&BufferView) -> bool) -> u64 {
        for n in 0..10_000 {
            feed.push(packet(n % 15 == 0, 10 << 10));
            wait::pause(Duration::from_micros(200)).await;
            if done(&feed.view().expect("there")) {
                return n + 1;
            }
        }
        panic!("in vain");
    }

    async fn take_all(feed: &Feed, ready: &Receiver<()>) -> Vec<u64> {
        let mut seqs = Vec::new();
        loop {
            match feed.take() {
                Take::Packet(packet) => seqs.push(packet.seq),
                Take::Loading => drop(ready.recv().await),
                Take::Empty => return seqs,
            }
        }
    }

    #[test]
    fn packets_go_through_the_file_and_a_broken_one_is_a_gap() {
        let dir = temp_dir("swap-used");
        let path = dir.join("swap");
        let swap = SwapFile::make(&path, 8 << 20).expect("made");
        let buffers = Buffers::new(64 << 20, Instant::now());
        let executor = smol::LocalExecutor::new();
        let (wake, ready) = bounded(1);
        let feed = buffers.feed(7, 5, 256 << 10, wake);
        let running = executor.spawn(Rc::clone(&buffers).run());
        smol::block_on(executor.run(async {
            buffers.use_file(&swap, Pool::start("test", 1, 8).expect("a thread"));
            let is_in_file = |view: &BufferView| view.spilled_bytes > 2 << 20;
            let pushed = push_until(&feed, is_in_file).await;
            assert_eq!(feed.view().expect("there").protection, Protection::Swap);
            assert_eq!(take_all(&feed, &ready).await, (1..=pushed).collect::<Vec<_>>());
            let more = push_until(&feed, is_in_file).await;
            // Whatever a card may do to it.
            let file = OpenOptions::new().write(true).open(&path).expect("there");
            file.write_all_at(&[0x55; 100_000], 1 << 20).expect("written");
            let taken = take_all(&feed, &ready).await;
            let lost: u64 = buffers.take_losses().iter().map(|loss| loss.packets).sum();
            assert!(lost > 0);
            assert_eq!(taken.len() as u64 + lost, more);
            assert_eq!(feed.view().expect("there").dropped, lost);
        }));
        drop(running);
        std::fs::remove_dir_all(dir).expect("removed");
    }
}
