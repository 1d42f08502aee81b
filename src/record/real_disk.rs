//! A storage in the file system, below one directory that stays open.
//!
//! In here: system calls. Every name is looked up from the open directory, never from the path again.

use std::ffi::OsStr;
use std::fs::{DirBuilder, File};
use std::io::{self, ErrorKind, IoSlice};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, FileExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags, RenameFlags};
use rustix::io::Errno;

use super::disk::{Access, Disk, DiskFile, Opener, not_a_file};

/// Slices in one `writev` (Linux takes at most 1024, `IOV_MAX`).
const SLICES_MAX: usize = 1024;

/// The directory.
#[derive(Debug)]
pub struct RealDisk {
    path: PathBuf,
    root: OwnedFd,
    /// Device and inode, which no other directory has while this one is open.
    identity: (u64, u64),
}

/// Opens storages of the file system.
pub fn opener() -> Opener {
    Arc::new(|root| Ok(Arc::new(RealDisk::open(root)?)))
}

/// Makes the directory of a new storage and its parents.
pub fn make(root: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o750).create(root)
}

impl RealDisk {
    /// Opens the storage at `path`.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::DIRECTORY | OFlags::RDONLY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&root)?;
        Ok(Self { path: path.to_owned(), root, identity: (stat.st_dev, stat.st_ino) })
    }

    fn open_at(&self, name: &str, flags: OFlags) -> io::Result<OwnedFd> {
        let name = if name.is_empty() { "." } else { name };
        let mode = Mode::from_raw_mode(0o640);
        Ok(rustix::fs::openat(&self.root, name, flags | OFlags::CLOEXEC, mode)?)
    }
}

impl Disk for RealDisk {
    fn create_dir(&self, name: &str) -> io::Result<bool> {
        match rustix::fs::mkdirat(&self.root, name, Mode::from_raw_mode(0o750)) {
            Ok(()) => Ok(true),
            Err(Errno::EXIST) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    fn create(&self, name: &str) -> io::Result<Arc<dyn DiskFile>> {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::RDWR;
        Ok(Arc::new(File::from(self.open_at(name, flags)?)))
    }

    fn open(&self, name: &str, access: Access) -> io::Result<Arc<dyn DiskFile>> {
        let flags = match access {
            Access::Read => OFlags::RDONLY,
            Access::Mend => OFlags::RDWR,
        };
        // Looked at first: to open a device may already do something, and a pipe would wait for its other end.
        let stat = rustix::fs::statat(&self.root, name, AtFlags::SYMLINK_NOFOLLOW)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(not_a_file());
        }
        match self.open_at(name, flags | OFlags::NOFOLLOW | OFlags::NONBLOCK) {
            Ok(file) => Ok(Arc::new(File::from(file))),
            // A link that has just come there.
            Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
                Err(not_a_file())
            }
            Err(error) => Err(error),
        }
    }

    fn remove(&self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.root, name, AtFlags::empty())?)
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let flags = RenameFlags::NOREPLACE;
        match rustix::fs::renameat_with(&self.root, from, &self.root, to, flags) {
            // NFS and some others can't: only this disk's one thread makes names here, so that looking first is as good.
            Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => {
                match rustix::fs::statat(&self.root, to, AtFlags::SYMLINK_NOFOLLOW) {
                    Err(Errno::NOENT) => {
                        Ok(rustix::fs::renameat(&self.root, from, &self.root, to)?)
                    }
                    Err(error) => Err(error.into()),
                    Ok(_) => Err(ErrorKind::AlreadyExists.into()),
                }
            }
            done => Ok(done?),
        }
    }

    fn list(&self, dir: &str) -> io::Result<Vec<String>> {
        let opened = self.open_at(dir, OFlags::DIRECTORY | OFlags::RDONLY)?;
        let mut names = Vec::new();
        for entry in Dir::new(opened)? {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            // A name that is not UTF-8 is none of ours.
            names.extend(
                name.to_str().filter(|name| ![".", ".."].contains(name)).map(str::to_owned),
            );
        }
        Ok(names)
    }

    fn sync_dir(&self, dir: &str) -> io::Result<()> {
        Ok(rustix::fs::fsync(self.open_at(dir, OFlags::DIRECTORY | OFlags::RDONLY)?)?)
    }

    fn is_at_path(&self) -> bool {
        let stat = rustix::fs::stat(&self.path);
        stat.is_ok_and(|stat| (stat.st_dev, stat.st_ino) == self.identity)
    }
}

impl DiskFile for File {
    fn append(&self, mut end: u64, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
        while !slices.is_empty() {
            let count = slices.len().min(SLICES_MAX);
            match rustix::io::pwritev(self, &slices[..count], end) {
                Ok(0) => return Err(ErrorKind::WriteZero.into()),
                Ok(written) => {
                    end += written as u64;
                    IoSlice::advance_slices(&mut slices, written);
                }
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn write_at(&self, bytes: &[u8], at: u64) -> io::Result<()> {
        self.write_all_at(bytes, at)
    }

    fn read_at(&self, out: &mut [u8], at: u64) -> io::Result<()> {
        self.read_exact_at(out, at)
    }

    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        Self::set_len(self, len)
    }

    fn sync(&self) -> io::Result<()> {
        self.sync_data()
    }
}
