//! What recorder and keeper tell each other of an update: files in RAM that the keeper writes, and the present upload.
//!
//! In here: `DIR/device` (board and key), `DIR/status`. The recorder reads them; it runs as a user that can't write them.
//! Not in here: the bundle's own file, which goes the other way.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use super::bundle_core::{Device, Version, parse_hex};
use super::update_core::{Note, Slot};

/// Below the directory that both know.
pub const DEVICE_FILE: &str = "device";
pub const STATUS_FILE: &str = "status";
/// Where the recorder leaves a bundle, below its data directory.
pub const BUNDLE_DIR: &str = "update";
/// A whole bundle, and one that is on its way.
pub const BUNDLE_FILE: &str = "bundle";
pub const BUNDLE_PART: &str = "bundle.part";
/// Says to the keeper that a bundle is there.
pub const READY_WORD: &str = "X_UPDATE=1";
/// Before it in the same message: a stream that is to be recorded was, within `RECORDED_BEFORE`. The keeper remembers no
/// more than this run of the device.
pub const RECORDED_WORD: &str = "X_RECORDED=1";
const FILE_BYTES_MAX: u64 = 4 << 10;

/// What the keeper does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    Idle,
    Checking,
    Writing,
    Restarting,
    /// The version that runs is on trial.
    Trial,
}

const PHASES: [(Phase, &str); 5] = [
    (Phase::Idle, "idle"),
    (Phase::Checking, "checking"),
    (Phase::Writing, "writing"),
    (Phase::Restarting, "restarting"),
    (Phase::Trial, "trial"),
];

impl Phase {
    /// The word in the API.
    pub fn name(self) -> &'static str {
        PHASES.iter().find(|(phase, _)| *phase == self).map_or("idle", |(_, name)| name)
    }
}

/// What the keeper says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Status {
    pub slot: Slot,
    pub phase: Phase,
    /// Of the phase, 0 to 100.
    pub percent: u8,
    pub last: Option<Note>,
}

impl Status {
    pub fn encode(&self) -> String {
        let last = self.last.as_ref().map_or_else(String::new, Note::encode);
        format!(
            "slot={}\nphase={}\npercent={}\n{last}",
            self.slot.name(),
            self.phase.name(),
            self.percent
        )
    }

    /// Reverses `encode`; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let mut rest = text;
        let mut value = |name: &str| {
            let (line, after) = rest.split_once('\n')?;
            rest = after;
            line.strip_prefix(name)?.strip_prefix('=')
        };
        let slot = Slot::parse(value("slot")?)?;
        let phase = value("phase")?;
        let phase = PHASES.iter().find(|(_, name)| *name == phase)?.0;
        let percent = value("percent")?.parse().ok()?;
        Some(Self { slot, phase, percent, last: Note::parse(rest) })
    }
}

/// What `DEVICE_FILE` says.
pub fn encode_device(board: &str, key: Option<&str>) -> String {
    format!("board={board}\nkey={}\n", key.unwrap_or_default().trim())
}

fn parse_device(text: &str, version: Version, store_schema: u64) -> Option<Device> {
    let mut lines = text.lines();
    let board = lines.next()?.strip_prefix("board=")?.to_owned();
    let key = parse_hex(lines.next()?.strip_prefix("key=")?);
    Some(Device { key, board, version, store_schema })
}

/// An upload that is under way, or the last one that was refused.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Upload {
    None,
    /// Bytes that came, and bytes in all.
    Under {
        received: u64,
        total: u64,
    },
    /// The whole bundle is there, and the keeper was told.
    Given,
    /// Why, and when (Unix milliseconds).
    Refused {
        version: String,
        reason: String,
        at_ms: i64,
    },
}

/// The recorder's side.
#[derive(Debug)]
pub struct Desk {
    dir: Option<PathBuf>,
    upload: Mutex<Arc<Upload>>,
}

impl Desk {
    /// `dir` is where the keeper writes; none where there is no keeper.
    pub fn new(dir: Option<PathBuf>) -> Self {
        Self { dir, upload: Mutex::new(Arc::new(Upload::None)) }
    }

    /// Whether this is a device that can be updated.
    pub fn is_device(&self) -> bool {
        self.dir.is_some()
    }

    /// What the keeper says; `None` while it says nothing.
    pub fn status(&self) -> Option<Status> {
        Status::parse(&read(&self.dir.as_ref()?.join(STATUS_FILE))?)
    }

    /// The device, of which `version` runs and writes stores of `store_schema`.
    pub fn device(&self, version: Version, store_schema: u64) -> Option<Device> {
        parse_device(&read(&self.dir.as_ref()?.join(DEVICE_FILE))?, version, store_schema)
    }

    pub fn upload(&self) -> Arc<Upload> {
        Arc::clone(&self.upload.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub fn set_upload(&self, upload: Upload) {
        *self.upload.lock().unwrap_or_else(PoisonError::into_inner) = Arc::new(upload);
    }
}

/// A file in RAM, of a few lines.
fn read(path: &Path) -> Option<String> {
    let mut text = String::new();
    File::open(path).ok()?.take(FILE_BYTES_MAX).read_to_string(&mut text).ok()?;
    Some(text)
}

#[cfg(test)]
mod tests {
    use super::super::update_core::Outcome;
    use super::*;

    #[test]
    fn what_the_keeper_says_comes_back() {
        let note = Note {
            version: "0.6.0".into(),
            slot: Slot::B,
            was_recording: false,
            outcome: Outcome::RolledBack("its recorder ended 3 times".into()),
            at_ms: 1_741_514_400_000,
        };
        for (phase, _) in PHASES {
            for last in [None, Some(note.clone())] {
                let status = Status { slot: Slot::A, phase, percent: 42, last };
                assert_eq!(Status::parse(&status.encode()), Some(status));
            }
        }
        assert_eq!(Status::parse("slot=a\nphase=sleeping\npercent=1\n"), None);
    }

    #[test]
    fn a_device_without_a_key_is_known_as_one() {
        let version = Version::parse("0.5.0").expect("a version");
        let key = "ab".repeat(32);
        let device = parse_device(&encode_device("rpi-arm64", Some(&key)), version, 1);
        assert_eq!(device.expect("it is one").key, Some([0xab; 32]));
        let device = parse_device(&encode_device("rpi-arm64", None), version, 1);
        let device = device.expect("it is one");
        assert_eq!((device.key, device.board.as_str()), (None, "rpi-arm64"));
    }
}
