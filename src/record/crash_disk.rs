//! Tests only: a disk in memory that remembers every operation and what a power cut after it leaves behind.
//!
//! Nothing is permanent that was not synced: not a file's bytes, not its size, not its name, not its directory, not its
//! removal. `after` plays a power cut behind any number of operations: with only what was synced, or with any part of
//! the rest besides, torn in the middle, in any order between files.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, IoSlice};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::disk::{Access, Disk, DiskFile, Opener};
use crate::store::memory::StoreOp;

/// One operation, or a note of the test between them.
#[derive(Clone, Debug)]
enum Op {
    /// Directory or file (then with its number) that a name stands for; `None` removes it. Several at once: a renaming.
    Names(Vec<(String, Option<usize>)>),
    Write {
        file: usize,
        at: u64,
        bytes: Vec<u8>,
    },
    SetLen(usize, u64),
    Sync(usize),
    SyncDir(String),
    Store(StoreOp),
    Note(i64),
}

/// A directory has no bytes and this number.
const DIRECTORY: usize = usize::MAX;

/// The numbers after `seed` by splitmix64 (Steele, Lea, Flood 2014).
pub struct Random(pub u64);

impl Random {
    pub fn below(&mut self, end: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

#[derive(Debug, Default)]
struct World {
    names: BTreeMap<String, usize>,
    files: Vec<Vec<u8>>,
    ops: Vec<Op>,
}

/// The disk; clones are the same one.
#[derive(Clone, Debug, Default)]
pub struct CrashDisk(Arc<Mutex<World>>);

/// What a power cut left.
pub struct Wreck {
    pub disk: CrashDisk,
    pub store: Vec<u8>,
    /// The newest note before it.
    pub note: i64,
}

#[derive(Debug)]
struct CrashFile {
    world: CrashDisk,
    number: usize,
}

fn dir_of(name: &str) -> &str {
    super::disk::dir_of(name)
}

fn apply(bytes: &mut Vec<u8>, at: u64, data: &[u8]) {
    let end = at as usize + data.len();
    bytes.resize(bytes.len().max(end), 0);
    bytes[at as usize..end].copy_from_slice(data);
}

/// Bytes with what is not permanent yet of them.
#[derive(Clone, Default)]
struct Medium {
    now: Vec<u8>,
    synced: Vec<u8>,
    since: Vec<Change>,
}

#[derive(Clone)]
enum Change {
    Write(u64, Vec<u8>),
    SetLen(u64),
}

impl Medium {
    fn change(&mut self, change: Change) {
        carry_out(&mut self.now, &change);
        self.since.push(change);
    }

    fn sync(&mut self) {
        self.synced.clone_from(&self.now);
        self.since.clear();
    }

    /// What is there after a power cut.
    fn after(&self, luck: &mut Option<Random>) -> Vec<u8> {
        let mut bytes = self.synced.clone();
        let Some(random) = luck else { return bytes };
        for change in &self.since {
            match (random.below(3), change) {
                (0, _) => {}
                (1, Change::Write(at, data)) => {
                    let torn = random.below(data.len() as u64 + 1) as usize;
                    carry_out(&mut bytes, &Change::Write(*at, data[..torn].to_vec()));
                }
                (_, change) => carry_out(&mut bytes, change),
            }
        }
        bytes
    }
}

fn carry_out(bytes: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write(at, data) => apply(bytes, *at, data),
        Change::SetLen(len) => bytes.resize(*len as usize, 0),
    }
}

impl CrashDisk {
    fn world(&self) -> MutexGuard<'_, World> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn opener(&self) -> Opener {
        let disk = self.clone();
        Arc::new(move |_| Ok(Arc::new(disk.clone())))
    }

    /// What the store does is part of the same history.
    pub fn note_store(&self, op: StoreOp) {
        self.world().ops.push(Op::Store(op));
    }

    /// Remembers a number of the test's at this moment.
    pub fn note(&self, value: i64) {
        self.world().ops.push(Op::Note(value));
    }

    pub fn op_count(&self) -> usize {
        self.world().ops.len()
    }

    /// All names of files with their bytes.
    pub fn files(&self) -> Vec<(String, Vec<u8>)> {
        let world = self.world();
        let files = world.names.iter().filter(|(_, number)| **number != DIRECTORY);
        files.map(|(name, number)| (name.clone(), world.files[*number].clone())).collect()
    }

    /// Plays a power cut after the first `count` operations: with `luck`, a part of what was not synced survives.
    pub fn after(&self, count: usize, mut luck: Option<Random>) -> Wreck {
        let world = self.world();
        let mut files = vec![Medium::default(); world.files.len()];
        let mut store = Medium::default();
        let (mut synced_names, mut since) = (BTreeMap::new(), Vec::new());
        let mut note = 0;
        for op in &world.ops[..count] {
            match op.clone() {
                Op::Names(names) => since.push(names),
                Op::Write { file, at, bytes } => files[file].change(Change::Write(at, bytes)),
                Op::SetLen(file, len) => files[file].change(Change::SetLen(len)),
                Op::Sync(file) => files[file].sync(),
                Op::SyncDir(dir) => {
                    since.retain(|names: &Vec<(String, Option<usize>)>| {
                        let is_other = names.iter().any(|(name, _)| dir_of(name) != dir);
                        if !is_other {
                            set_names(&mut synced_names, names);
                        }
                        is_other
                    });
                }
                Op::Store(StoreOp::Write(at, bytes)) => store.change(Change::Write(at, bytes)),
                Op::Store(StoreOp::SetLen(len)) => store.change(Change::SetLen(len)),
                Op::Store(StoreOp::Sync) => store.sync(),
                Op::Note(value) => note = value,
            }
        }
        if let Some(random) = &mut luck {
            for names in since.iter().filter(|_| random.below(2) == 0) {
                set_names(&mut synced_names, names);
            }
        }
        // Without its directory a file can't be found.
        let dirs = synced_names.clone();
        synced_names.retain(|name, _| dir_of(name).is_empty() || dirs.contains_key(dir_of(name)));
        let files = files.iter().map(|file| file.after(&mut luck)).collect();
        let wreck = World { names: synced_names, files, ops: Vec::new() };
        let store = store.after(&mut luck);
        Wreck { disk: Self(Arc::new(Mutex::new(wreck))), store, note }
    }
}

fn set_names(all: &mut BTreeMap<String, usize>, names: &[(String, Option<usize>)]) {
    for (name, number) in names {
        match number {
            Some(number) => drop(all.insert(name.clone(), *number)),
            None => drop(all.remove(name)),
        }
    }
}

impl Disk for CrashDisk {
    fn create_dir(&self, name: &str) -> io::Result<bool> {
        let mut world = self.world();
        if world.names.contains_key(name) {
            return Ok(false);
        }
        world.names.insert(name.to_owned(), DIRECTORY);
        world.ops.push(Op::Names(vec![(name.to_owned(), Some(DIRECTORY))]));
        Ok(true)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let mut world = self.world();
        if world.names.contains_key(name) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let number = world.files.len();
        world.files.push(Vec::new());
        world.names.insert(name.to_owned(), number);
        world.ops.push(Op::Names(vec![(name.to_owned(), Some(number))]));
        Ok(Arc::new(CrashFile { world: self.clone(), number }))
    }

    fn open(&self, name: &str, _access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let number = self.world().names.get(name).copied().ok_or(ErrorKind::NotFound)?;
        Ok(Arc::new(CrashFile { world: self.clone(), number }))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        let mut world = self.world();
        world.names.remove(name).ok_or(ErrorKind::NotFound)?;
        world.ops.push(Op::Names(vec![(name.to_owned(), None)]));
        Ok(())
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut world = self.world();
        if world.names.contains_key(to) {
            return Err(ErrorKind::AlreadyExists.into());
        }
        let number = world.names.remove(from).ok_or(ErrorKind::NotFound)?;
        world.names.insert(to.to_owned(), number);
        world.ops.push(Op::Names(vec![(from.to_owned(), None), (to.to_owned(), Some(number))]));
        Ok(())
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let world = self.world();
        let names = world.names.keys().filter(|name| dir_of(name) == dir);
        let below = |name: &String| name.rsplit('/').next().map(str::to_owned);
        Ok(names.filter_map(below).collect())
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.world().ops.push(Op::SyncDir(dir.to_owned()));
        Ok(())
    }

    fn is_at_path(&self) -> bool {
        true
    }
}

impl CrashFile {
    fn write(&self, at: u64, bytes: Vec<u8>) {
        let mut world = self.world.world();
        apply(&mut world.files[self.number], at, &bytes);
        world.ops.push(Op::Write { file: self.number, at, bytes });
    }
}

impl DiskFile for CrashFile {
    fn append(&self, end: u64, slices: &mut [IoSlice<'_>]) -> io::Result<()> {
        self.write(end, slices.iter().flat_map(|slice| slice.iter().copied()).collect());
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.write(at, bytes.to_vec());
        Ok(())
    }

    fn read_at(&self, out: &mut [u8], at: u64) -> io::Result<()> {
        let world = self.world.world();
        let range = at as usize..at as usize + out.len();
        let bytes = world.files[self.number].get(range).ok_or(ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.world.world().files[self.number].len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut world = self.world.world();
        world.files[self.number].resize(len as usize, 0);
        world.ops.push(Op::SetLen(self.number, len));
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        self.world.world().ops.push(Op::Sync(self.number));
        Ok(())
    }
}
