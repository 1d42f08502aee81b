//! Grows the data partition and its file system to the whole card, while the system runs.
//!
//! In here: the MBR's sector on the disk, and two requests to the kernel. Not in here: the table itself (`mbr_core`).
//! Neither resize2fs nor a restart is needed. A power cut leaves either table whole (one sector is written), and ext4
//! goes on growing at the next start.

use std::ffi::c_void;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::ioctl::{Ioctl, IoctlOutput, Opcode, Setter, ioctl, opcode};

use super::mbr_core::{self, DATA_PARTITION, Extent, SECTOR_BYTES};

/// `_IO(0x12, 105)` of linux/blkpg.h.
const BLKPG: Opcode = opcode::none(0x12, 105);
const BLKPG_RESIZE_PARTITION: i32 = 3;
/// `_IOW('f', 16, __u64)` of fs/ext4: the new length of a mounted file system in its blocks.
const EXT4_IOC_RESIZE_FS: Opcode = opcode::write::<u64>(b'f', 16);

/// `struct blkpg_partition` of linux/blkpg.h.
#[repr(C)]
struct BlkpgPartition {
    start: i64,
    length: i64,
    number: i32,
    names: [u8; 128],
}

/// `struct blkpg_ioctl_arg` of linux/blkpg.h.
#[repr(C)]
struct BlkpgArg {
    op: i32,
    flags: i32,
    bytes: i32,
    data: *mut BlkpgPartition,
}

struct ResizePartition {
    arg: BlkpgArg,
}

// SAFETY: the argument is what linux/blkpg.h describes, and the kernel writes nothing to it.
unsafe impl Ioctl for ResizePartition {
    type Output = ();
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        BLKPG
    }

    fn as_ptr(&mut self) -> *mut c_void {
        (&raw mut self.arg).cast()
    }

    unsafe fn output_from_ptr(_: IoctlOutput, _: *mut c_void) -> rustix::io::Result<()> {
        Ok(())
    }
}

/// Makes the disk's data partition as long as the disk. Answers its length in bytes when it grew.
pub fn grow_partition(disk: &Path) -> io::Result<Option<u64>> {
    let file = OpenOptions::new().read(true).write(true).open(disk)?;
    let mut sector = [0; SECTOR_BYTES];
    file.read_exact_at(&mut sector, 0)?;
    let Some(grown) = mbr_core::grow(&mut sector, disk_sectors(disk)?) else { return Ok(None) };
    // The kernel first: a table that says more than the kernel knows is settled at the next start anyway.
    resize_partition(&file, grown)?;
    file.write_all_at(&sector, 0)?;
    file.sync_all()?;
    Ok(Some(u64::from(grown.length) * SECTOR_BYTES as u64))
}

fn disk_sectors(disk: &Path) -> io::Result<u64> {
    let name = disk.file_name().unwrap_or_default().to_string_lossy();
    let text = std::fs::read_to_string(format!("/sys/class/block/{name}/size"))?;
    text.trim().parse().map_err(|_| io::Error::other(format!("size of {name}: {}", text.trim())))
}

fn resize_partition(disk: &File, to: Extent) -> io::Result<()> {
    let bytes = |sectors: u32| i64::from(sectors) * SECTOR_BYTES as i64;
    let mut partition = BlkpgPartition {
        start: bytes(to.start),
        length: bytes(to.length),
        number: DATA_PARTITION as i32,
        names: [0; 128],
    };
    let arg = BlkpgArg {
        op: BLKPG_RESIZE_PARTITION,
        flags: 0,
        bytes: size_of::<BlkpgPartition>() as i32,
        data: &raw mut partition,
    };
    // SAFETY: `partition` outlives the call, which is all that the pointer is for.
    unsafe { ioctl(disk.as_fd(), ResizePartition { arg }) }?;
    Ok(())
}

/// Grows the mounted ext4 at `mount` to the whole of its partition. Answers its length in bytes when it grew.
pub fn grow_file_system(mount: &Path, partition: &Path) -> io::Result<Option<u64>> {
    let dir = File::open(mount)?;
    let block = u64::try_from(rustix::fs::fstatfs(&dir)?.f_bsize)
        .ok()
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| io::Error::other("block size"))?;
    let want = disk_sectors(partition)? * SECTOR_BYTES as u64 / block;
    let before = rustix::fs::fstatvfs(&dir)?.f_blocks;
    // SAFETY: the opcode takes a u64 by pointer, which is what `Setter` passes.
    unsafe { ioctl(&dir, Setter::<EXT4_IOC_RESIZE_FS, u64>::new(want)) }?;
    let after = rustix::fs::fstatvfs(&dir)?.f_blocks;
    Ok((after > before).then_some(after * block))
}

/// Sets the watchdog's time to restart, in seconds; the hardware may round it.
pub fn set_watchdog_timeout(watchdog: &File, seconds: i32) -> io::Result<i32> {
    /// `_IOWR('W', 6, int)` of linux/watchdog.h.
    const WDIOC_SETTIMEOUT: Opcode = opcode::read_write::<i32>(b'W', 6);
    let mut value = seconds;
    // SAFETY: the opcode reads and writes one int by pointer, which is what `Updater` passes.
    unsafe { ioctl(watchdog, rustix::ioctl::Updater::<WDIOC_SETTIMEOUT, i32>::new(&mut value)) }?;
    Ok(value)
}
