//! Keeps the program's memory out of the kernel's swap and its pictures on the heap, and gives back what is free of it.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

#[cfg(target_env = "gnu")]
use rustix::mm::munlockall;
use rustix::mm::{Advice, MlockAllFlags, madvise, mlockall};
use rustix::process::{Resource, getrlimit};

use super::stats;

/// `CAP_IPC_LOCK` (capabilities(7)): the limit on locked memory does not hold.
const CAP_IPC_LOCK: u32 = 14;

/// Larger than nearly every picture.
const HEAP_BYTES_MAX: usize = 1 << 20;

/// Teaches glibc to take blocks up to this size from the heap: it maps every larger one than the largest that was
/// given back, by system calls and with fresh pages, and keyframes come and go all the time. From then on it keeps
/// twice as much that is free: not for a program without cameras.
pub fn keep_pictures_on_heap() {
    drop(std::hint::black_box(Vec::<u8>::with_capacity(HEAP_BYTES_MAX)));
}

/// Memory is locked.
static IS_LOCKED: AtomicBool = AtomicBool::new(false);

/// Gives memory that is free back to the system: the C library keeps it for the next time, which on a small board may
/// be never. Takes some milliseconds, in which memory is not locked, for what is locked can't be given back
/// (madvise(2)).
pub fn trim() {
    #[cfg(target_env = "gnu")]
    {
        let is_locked = IS_LOCKED.load(Ordering::Relaxed);
        if is_locked && munlockall().is_err() {
            return;
        }
        unsafe extern "C" {
            /// malloc_trim(3)
            fn malloc_trim(pad: usize) -> i32;
        }
        // SAFETY: it takes the allocator's own locks and may be called at any time, from any thread.
        let _ = unsafe { malloc_trim(0) };
        if is_locked {
            lock_all();
        }
    }
}

/// Where machine code of files is mapped, as `/proc/self/maps` says (proc(5)): first and last address. Not what the
/// kernel brought itself (`[vdso]`).
fn code(maps: &str) -> impl Iterator<Item = (usize, usize)> {
    maps.lines().filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let (range, mode, path) = (words.next()?, words.next()?, words.nth(3)?);
        let (from, to) = range.split_once('-')?;
        let hex = |text| usize::from_str_radix(text, 16).ok();
        (mode == "r-xp" && path.starts_with('/')).then_some((hex(from)?, hex(to)?))
    })
}

/// Takes code out of this program's memory that only the start needed: password hash, damaged stores, argument lines.
/// What is still needed comes back page by page, most of it from the page cache.
fn let_go_of_start() {
    for (from, to) in code(&fs::read_to_string("/proc/self/maps").unwrap_or_default()) {
        let address = std::ptr::without_provenance_mut(from);
        // SAFETY: the pages are mapped for execution alone and were never written, so that the kernel reads them from
        // their files again (madvise(2), MADV_DONTNEED). No mapping of code ever goes away in this program.
        let _ = unsafe { madvise(address, to - from, Advice::LinuxDontNeed) };
    }
}

/// To be called when all is ready, before the first stream. Locks what is in memory and whatever comes, once it is used: rings, and all that works on them. A ring that is
/// read back from a card is no buffer. Where only some memory may be locked nothing is: with a limit, memory
/// beyond it would be refused, and the program would end instead of slowing down.
pub fn lock() {
    let_go_of_start();
    let limit = getrlimit(Resource::Memlock).current;
    if limit.is_some() && !stats::has_capability(CAP_IPC_LOCK) {
        let kib = limit.unwrap_or(0) / 1024;
        log::info!(
            "memory is not locked, the kernel may swap it: the limit is {kib} KiB; \
             it takes no limit (LimitMEMLOCK=infinity) or CAP_IPC_LOCK"
        );
        return;
    }
    lock_all();
}

fn lock_all() {
    // Only what is touched: stacks and arenas reserve much more than they use.
    let flags = MlockAllFlags::CURRENT | MlockAllFlags::FUTURE | MlockAllFlags::ONFAULT;
    let locked = mlockall(flags);
    IS_LOCKED.store(locked.is_ok(), Ordering::Relaxed);
    if let Err(error) = locked {
        log::info!("memory is not locked, the kernel may swap it: {error}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn code_of_files_alone_is_let_go_of_and_comes_back() {
        let maps = "5580-5590 r--p 00000000 fe:00 55 /usr/bin/lightnvr\n\
                    5590-55a0 r-xp 00010000 fe:00 55 /usr/bin/lightnvr\n\
                    55a0-55b0 rw-p 00020000 fe:00 55 /usr/bin/lightnvr\n\
                    7fa4-7fa5 r-xp 00000000 00:00 0\n\
                    7fff-8000 r-xp 00000000 00:00 0 [vdso]\n\
                    nonsense\n";
        assert_eq!(code(maps).collect::<Vec<_>>(), [(0x5590, 0x55a0)]);
        let_go_of_start();
        assert!(code(&fs::read_to_string("/proc/self/maps").unwrap()).count() > 0);
    }
}
