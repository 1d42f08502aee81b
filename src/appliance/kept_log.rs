//! The recorder's log: two files in RAM, of which the last MB is kept on the card.
//!
//! In here: bounds, the copy on the card, and its way back into RAM after a restart. Not in here: when (`keep`), what is
//! logged.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::init::write_private;

/// Of the file that is written to, and of the older one.
const PART_BYTES_MAX: u64 = 512 << 10;
const KEPT_BYTES_MAX: usize = 1 << 20;

/// Where the log is.
#[derive(Debug)]
pub struct KeptLog {
    /// In RAM: the recorder appends to it. Beside it, as `.1`, lies what was before.
    now: PathBuf,
    /// On the card.
    kept: PathBuf,
    /// The files as they were when they were kept last: length, seconds and nanoseconds of the last change.
    saved: Option<[(u64, i64, i64); 2]>,
}

impl KeptLog {
    /// After a restart of the device what was kept is in RAM again, as the older part.
    pub fn new(now: PathBuf, kept: PathBuf) -> Self {
        let log = Self { now, kept, saved: None };
        if !log.before().exists() && log.kept.exists() {
            // Without it the device is as well; what is kept stays until the next time.
            let _ = fs::copy(&log.kept, log.before());
        }
        log
    }

    /// What the recorder appends to.
    pub fn path(&self) -> &Path {
        &self.now
    }

    fn before(&self) -> PathBuf {
        self.now.with_extension("1")
    }

    /// The older half goes when there is more than a MB.
    pub fn bound(&self) {
        if fs::metadata(&self.now).is_ok_and(|meta| meta.len() > PART_BYTES_MAX) {
            // The recorder holds the file open and appends: copied and emptied, it goes on in the same one.
            let copied = fs::copy(&self.now, self.before());
            if copied.is_ok() {
                let _ = OpenOptions::new().write(true).truncate(true).open(&self.now);
            }
        }
    }

    /// Keeps the last MB on the card, in one step: a power cut leaves the old or the new. Without a new line nothing is
    /// written.
    pub fn save(&mut self) -> io::Result<()> {
        let seen = [self.before(), self.now.clone()].map(|path| {
            fs::metadata(path)
                .map_or((0, 0, 0), |meta| (meta.len(), meta.mtime(), meta.mtime_nsec()))
        });
        if self.saved == Some(seen) {
            return Ok(());
        }
        let mut text = fs::read(self.before()).unwrap_or_default();
        text.extend(fs::read(&self.now).unwrap_or_default());
        let text = &text[text.len().saturating_sub(KEPT_BYTES_MAX)..];
        write_private(&self.kept, &String::from_utf8_lossy(text))?;
        self.saved = Some(seen);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    struct Dir(PathBuf);

    impl Dir {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("lightnvr-{name}-{}", std::process::id()));
            fs::create_dir_all(&path).expect("a directory");
            Self(path)
        }

        fn log(&self, boot: &str) -> KeptLog {
            let ram = self.0.join(boot);
            fs::create_dir_all(&ram).expect("a directory");
            KeptLog::new(ram.join("log"), self.0.join("kept"))
        }
    }

    impl Drop for Dir {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    fn append(log: &KeptLog, text: &str) {
        let mut file = OpenOptions::new().append(true).create(true).open(log.path()).expect("RAM");
        file.write_all(text.as_bytes()).expect("RAM");
    }

    #[test]
    fn what_was_logged_before_a_restart_is_there_after_it_and_after_the_next() {
        let dir = Dir::new("kept-log");
        for (boot, lines) in ["first\n", "second\n", "third\n"].into_iter().enumerate() {
            let mut log = dir.log(&boot.to_string());
            append(&log, lines);
            log.save().expect("the card");
        }
        assert_eq!(fs::read_to_string(dir.0.join("kept")).expect("text"), "first\nsecond\nthird\n");
        let log = dir.log("3");
        assert_eq!(fs::read_to_string(log.before()).expect("text"), "first\nsecond\nthird\n");
        assert!(!log.path().exists(), "the recorder makes it");
    }

    #[test]
    fn a_mb_is_kept_in_all_and_the_newest_of_it() {
        let dir = Dir::new("kept-log-long");
        let mut log = dir.log("0");
        let line = |number: usize| format!("{number:0>99}\n");
        for number in 0..20_000 {
            append(&log, &line(number));
            log.bound();
        }
        log.save().expect("the card");
        let kept = fs::read_to_string(dir.0.join("kept")).expect("text");
        let (half, all) = (PART_BYTES_MAX as usize, KEPT_BYTES_MAX);
        assert!((half..=all).contains(&kept.len()), "{}", kept.len());
        assert!(kept.ends_with(&line(19_999)));
        let ram = fs::metadata(log.path()).expect("RAM").len();
        assert!(ram + fs::metadata(log.before()).expect("RAM").len() <= all as u64 + 200);
        // Restored, it is as much again, and the next save has both.
        let mut log = dir.log("1");
        append(&log, "after\n");
        log.save().expect("the card");
        let again = fs::read_to_string(dir.0.join("kept")).expect("text");
        assert!(again.len() <= all && again.ends_with(&format!("{}after\n", line(19_999))));
    }

    #[test]
    fn without_a_new_line_the_card_is_left_alone() {
        let dir = Dir::new("kept-log-idle");
        let mut log = dir.log("0");
        append(&log, "one\n");
        log.save().expect("the card");
        fs::remove_file(dir.0.join("kept")).expect("it is there");
        log.save().expect("nothing to do");
        assert!(!dir.0.join("kept").exists());
        append(&log, "two\n");
        log.save().expect("the card");
        assert_eq!(fs::read_to_string(dir.0.join("kept")).expect("text"), "one\ntwo\n");
    }
}
