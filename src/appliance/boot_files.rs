//! Files on the boot partition, which every computer can read: the set-up file, the first password.
//!
//! In here: the moment in which the partition is writable. It is FAT, so a file is written beside the old one, synced,
//! and put in its place. Not in here: what is in the files.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, mount_remount};

use super::BOOT_DIR;

/// Reads a file of at most `max` bytes and one more; `None` when it is not there.
pub fn read(name: &str, max: usize) -> io::Result<Option<Vec<u8>>> {
    let file = match File::open(Path::new(BOOT_DIR).join(name)) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let mut bytes = Vec::new();
    file.take(max as u64 + 1).read_to_end(&mut bytes)?;
    Ok(Some(bytes))
}

/// Makes the file hold these bytes, or removes it.
pub fn write(name: &str, bytes: Option<&[u8]>) -> io::Result<()> {
    let path = Path::new(BOOT_DIR).join(name);
    if bytes.is_none() && !path.exists() {
        return Ok(());
    }
    writable(|| match bytes {
        Some(bytes) => {
            let beside = PathBuf::from(format!("{}.new", path.display()));
            let mut file = File::create(&beside)?;
            file.write_all(bytes)?;
            file.sync_all()?;
            std::fs::rename(&beside, &path)
        }
        None => std::fs::remove_file(&path),
    })
}

/// Writes a file of one sector over itself: a power cut leaves the old sector or the new one, and touches no other.
/// It must be short, and always of one length.
pub fn overwrite(name: &str, text: &str) -> io::Result<()> {
    writable(|| {
        let path = Path::new(BOOT_DIR).join(name);
        let file = OpenOptions::new().write(true).create(true).truncate(false).open(path)?;
        file.write_all_at(text.as_bytes(), 0)?;
        // What U-Boot wrote is a byte longer.
        file.set_len(text.len() as u64)?;
        file.sync_all()
    })
}

/// Does `work` while the boot partition is writable, and sees to it that the card has what was done.
pub fn writable<T>(work: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
    let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    mount_remount(BOOT_DIR, flags, "")?;
    let done = work();
    let synced = File::open(BOOT_DIR).and_then(|dir| Ok(rustix::fs::syncfs(&dir)?));
    let closed = mount_remount(BOOT_DIR, flags | MountFlags::RDONLY, "");
    let done = done?;
    synced?;
    closed?;
    Ok(done)
}
