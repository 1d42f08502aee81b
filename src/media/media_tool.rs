//! Tests only: runs ffmpeg and ffprobe, which judge what this module writes and make what it reads.
//!
//! A missing tool fails the test: a check that silently does not run is none.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory of this test alone, removed when dropped.
pub struct TempDir(PathBuf);

impl TempDir {
    pub fn new() -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!(
            "lightnvr-media-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }

    /// The full path of `name` in here.
    pub fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_owned()
    }

    /// Writes a file and returns its path.
    pub fn write(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.path(name);
        fs::write(&path, bytes).unwrap();
        path
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs `tool`, which must succeed without a word of complaint, and returns what it printed.
#[track_caller]
pub fn run(tool: &str, args: &[&str]) -> Vec<u8> {
    let (stdout, complaint) = run_tolerant(tool, args);
    assert_eq!(complaint, "", "{tool} {args:?}");
    stdout
}

/// Runs `tool` and returns what it printed and what it complained about.
#[track_caller]
pub fn run_tolerant(tool: &str, args: &[&str]) -> (Vec<u8>, String) {
    let output = match Command::new(tool).args(args).output() {
        Ok(output) => output,
        Err(error) => {
            panic!("{tool} is needed for this test (Debian: apt install ffmpeg): {error}")
        }
    };
    let mut complaint = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        complaint.push_str(&format!("{}", output.status));
    }
    (output.stdout, complaint)
}
/// The same, as text.
#[track_caller]
pub fn run_text(tool: &str, args: &[&str]) -> String {
    String::from_utf8(run(tool, args)).unwrap()
}
