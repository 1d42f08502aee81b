//! A disk of the test's own: an ext4 file system in a file, which can be stopped as a failing card stops.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::time::Duration;

use super::wait;

const FREEZE_WITHIN: Duration = Duration::from_secs(10);

/// A mounted disk. Dropping it thaws and unmounts it.
pub struct LoopDisk {
    mount: PathBuf,
    frozen: Option<Frozen>,
}

/// Who holds the disk frozen: it thaws when its standard input ends, so also when the test dies.
struct Frozen {
    child: Child,
    hold: Option<ChildStdin>,
}

impl LoopDisk {
    /// A disk of `bytes` mounted at `dir/disk`; `None` where this is not allowed.
    pub fn mount(dir: &Path, bytes: u64) -> Option<Self> {
        let (image, mount) = (dir.join("disk.img"), dir.join("disk"));
        File::create(&image).and_then(|file| file.set_len(bytes)).expect("a sparse file");
        fs::create_dir_all(&mount).expect("a directory");
        let run = |command: &mut Command| {
            let done = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
            done.is_ok_and(|status| status.success())
        };
        let is_mounted = run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image))
            && run(Command::new("mount").args(["-o", "loop,noatime"]).arg(&image).arg(&mount));
        is_mounted.then_some(Self { mount, frozen: None })
    }

    pub fn path(&self) -> &Path {
        &self.mount
    }

    /// From now on whatever writes to the disk waits.
    #[track_caller]
    pub fn freeze(&mut self) {
        let script = r#"fsfreeze -f "$1" && touch "$2" && read -r _; fsfreeze -u "$1""#;
        let told = self.mount.with_extension("frozen");
        let mut command = Command::new("sh");
        command.args(["-c", script, "freeze"]).arg(&self.mount).arg(&told).stdin(Stdio::piped());
        let mut child = command.spawn().expect("there is a shell");
        let hold = child.stdin.take();
        self.frozen = Some(Frozen { child, hold });
        wait::until("the disk is frozen", FREEZE_WITHIN, || told.exists().then_some(()));
        fs::remove_file(told).expect("it was just made");
    }

    /// The disk goes on when this is dropped while the test fails.
    pub fn thaw_on_panic(&mut self) -> ThawOnPanic<'_> {
        ThawOnPanic(self)
    }

    /// The disk goes on.
    pub fn thaw(&mut self) {
        if let Some(Frozen { mut child, hold }) = self.frozen.take() {
            if let Some(mut hold) = hold {
                let _ = hold.write_all(b"\n");
            }
            let _ = child.wait();
        }
    }
}

impl Drop for LoopDisk {
    fn drop(&mut self) {
        self.thaw();
        // Lazily: a program that is just being killed may still use it.
        let _ = Command::new("umount").arg("-l").arg(&self.mount).status();
    }
}

/// See `LoopDisk::thaw_on_panic`.
pub struct ThawOnPanic<'a>(&'a mut LoopDisk);

impl Drop for ThawOnPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.thaw();
        }
    }
}
