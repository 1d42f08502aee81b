//! A wall clock of a test's own for one recorder: libfaketime before the C library. The monotonic clock, the machine's
//! clock and the times of files stay as they are.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Says what the clock shows; a change is seen within a second.
pub struct FakeClock {
    offset: PathBuf,
}

impl FakeClock {
    /// A clock that is off by so many seconds.
    pub fn new(home: &Path, offset_s: i64) -> Self {
        let clock = Self { offset: home.join("clock") };
        clock.set(offset_s);
        clock
    }

    pub fn set(&self, offset_s: i64) {
        // In one step: half a number would be another time.
        let part = self.offset.with_extension("part");
        fs::write(&part, format!("{offset_s:+}\n")).expect("the test's directory can be written");
        fs::rename(&part, &self.offset).expect("the test's directory can be written");
    }

    /// Puts the clock into a program that is to be started.
    pub fn give_to(&self, command: &mut Command) {
        let all = fs::read_dir("/usr/lib").expect("/usr/lib").filter_map(Result::ok);
        let mut places = all.map(|entry| entry.path().join("faketime/libfaketimeMT.so.1"));
        let library = places.find(|path| path.exists());
        let library =
            library.expect("no libfaketime: apt-get install faketime, as ./build.sh does");
        command
            .env("LD_PRELOAD", library)
            .env("FAKETIME_TIMESTAMP_FILE", &self.offset)
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("DONT_FAKE_MONOTONIC", "1")
            .env("NO_FAKE_STAT", "1");
    }
}
