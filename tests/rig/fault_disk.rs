//! A storage that fails on demand: the real one with an error, or silence, in front of chosen operations.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex};

use lightnvr::record::disk::{Access, Disk, DiskFile, Opener};
use lightnvr::record::real_disk::RealDisk;

/// What may fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    Create,
    Append,
    Patch,
    Sync,
    SyncDir,
    Open,
}

/// Every operation that changes something.
pub const WRITES: [Op; 5] = [Op::Create, Op::Append, Op::Patch, Op::Sync, Op::SyncDir];

#[derive(Debug, Default)]
struct Plan {
    /// These operations end with this error number.
    fails: Vec<(Op, i32)>,
    /// How often that still happens; without a number, always.
    times: Option<u32>,
    is_stalled: bool,
    is_gone: bool,
}

/// Says what fails from now on; shared with all files of the storage.
#[derive(Clone, Debug, Default)]
pub struct Faults(Arc<(Mutex<Plan>, Condvar)>);

impl Faults {
    fn change(&self, change: impl FnOnce(&mut Plan)) {
        change(&mut self.0.0.lock().expect("no panic under the lock"));
        self.0.1.notify_all();
    }

    /// These operations fail with `errno` until `clear`.
    pub fn fail(&self, ops: &[Op], errno: i32) {
        self.change(|plan| plan.fails = ops.iter().map(|op| (*op, errno)).collect());
    }

    /// The next operation of this kind fails with `errno`, the ones after it succeed.
    pub fn fail_once(&self, op: Op, errno: i32) {
        self.change(|plan| (plan.fails, plan.times) = (vec![(op, errno)], Some(1)));
    }

    /// Nothing is answered until `clear`.
    pub fn stall(&self) {
        self.change(|plan| plan.is_stalled = true);
    }

    /// The path leads elsewhere, and there is no marker.
    pub fn unplug(&self) {
        self.change(|plan| plan.is_gone = true);
    }

    pub fn clear(&self) {
        self.change(|plan| *plan = Plan::default());
    }

    fn pass(&self, op: Op) -> io::Result<()> {
        let plan = self.0.0.lock().expect("no panic under the lock");
        let mut plan = self.0.1.wait_while(plan, |plan| plan.is_stalled).expect("no panic");
        let Some((_, errno)) = plan.fails.iter().find(|(fails, _)| *fails == op).copied() else {
            return Ok(());
        };
        match &mut plan.times {
            Some(0) => return Ok(()),
            Some(times) => *times -= 1,
            None => {}
        }
        Err(io::Error::from_raw_os_error(errno))
    }

    fn is_gone(&self) -> bool {
        self.0.0.lock().expect("no panic under the lock").is_gone
    }

    /// Opens storages with these faults.
    pub fn opener(&self) -> Opener {
        let faults = self.clone();
        Arc::new(move |root: &Path| {
            faults.pass(Op::Open)?;
            if faults.is_gone() {
                return Err(io::ErrorKind::NotFound.into());
            }
            let below = RealDisk::open(root)?;
            Ok(Arc::new(FaultDisk { below, faults: faults.clone() }))
        })
    }
}

#[derive(Debug)]
struct FaultDisk {
    below: RealDisk,
    faults: Faults,
}

#[derive(Debug)]
struct FaultFile {
    below: Arc<dyn DiskFile>,
    faults: Faults,
}

impl FaultDisk {
    fn wrap(&self, below: Arc<dyn DiskFile>) -> Arc<dyn DiskFile> {
        Arc::new(FaultFile { below, faults: self.faults.clone() })
    }
}

impl Disk for FaultDisk {
    fn create_dir(&self, name: &str) -> io::Result<bool> {
        self.faults.pass(Op::Create)?;
        self.below.create_dir(name)
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        self.faults.pass(Op::Create)?;
        Ok(self.wrap(self.below.create(name)?))
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        self.faults.pass(Op::Open)?;
        Ok(self.wrap(self.below.open(name, access)?))
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        self.faults.pass(Op::Create)?;
        self.below.remove(name)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.faults.pass(Op::Create)?;
        self.below.rename(from, to)
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        self.below.list(dir)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        self.faults.pass(Op::SyncDir)?;
        self.below.sync_dir(dir)
    }

    fn is_at_path(&self) -> bool {
        !self.faults.is_gone() && self.below.is_at_path()
    }
}

impl DiskFile for FaultFile {
    fn append(&self, end: u64, slices: &mut [IoSlice<'_>]) -> io::Result<()> {
        if let Err(error) = self.faults.pass(Op::Append) {
            // As a full disk does it: some of it is written.
            let torn = slices.first().map_or(&[][..], |first| &first[..first.len() / 2]);
            self.below.write_at(torn, end)?;
            return Err(error);
        }
        self.below.append(end, slices)
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.faults.pass(Op::Patch)?;
        self.below.write_at(bytes, at)
    }

    fn read_at(&self, out: &mut [u8], at: u64) -> io::Result<()> {
        self.below.read_at(out, at)
    }

    fn size(&self) -> io::Result<u64> {
        self.below.size()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.faults.pass(Op::Patch)?;
        self.below.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        self.faults.pass(Op::Sync)?;
        self.below.sync()
    }
}
