//! What the tests of the real program share: clips, servers that play them, the program itself, and
//! checks of recordings by other people's tools.
//!
//! Everything here ends when its owner is dropped, or when the test's process dies in any way.

// Each test binary uses its own part of this.
#![allow(dead_code)]

pub mod bench;
pub mod board;
pub mod bundle;
pub mod clips;
pub mod fake_camera;
pub mod fake_clock;
pub mod fault_disk;
pub mod firefox;
pub mod gst_server;
pub mod guest;
pub mod http;
pub mod json;
pub mod ledger;
pub mod loop_disk;
pub mod mjpeg;
pub mod mp4;
pub mod nvr;
pub mod process;
pub mod qemu;
pub mod random;
pub mod rows;
pub mod temp_dir;
pub mod wait;
pub mod webdriver;
pub mod ws;

use std::path::PathBuf;

/// The build directory: caches of the tests live beside the program.
pub fn target_dir() -> PathBuf {
    let tmp = PathBuf::from(env!("CARGO_TARGET_TMPDIR"));
    tmp.parent().expect("cargo puts tmp/ into target/").to_owned()
}

/// Absolute path of a file under `tests/`.
pub fn test_file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests").join(name)
}
