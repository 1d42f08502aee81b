//! SIGKILL at random moments while four streams are recorded: nothing that was on disk is lost, every
//! file plays, and the store agrees with the files.

mod rig;

use std::collections::HashMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rig::clips;
use rig::gst_server::{Auth, GstServer, Mount, Sets};
use rig::mp4;
use rig::nvr::{Nvr, Recording};
use rig::random::Random;
use rig::temp_dir::{TempDir, files_below};
use rig::wait;

const KILLS: u32 = 25;
const KILLS_IN_SOAK: u32 = 100;
/// Counted from the ready line: long enough to connect, record and rotate in some of the rounds.
const LIFE_MS_MAX: u64 = 5000;
/// The API's times are whole seconds, each rounded down.
const DURATION_S_OFF_MAX: f64 = 1.0;
const FINISHED_WITHIN: Duration = Duration::from_secs(20);

/// What was already found good, by path, and its duration in seconds: a file with the same size and time
/// is not decoded again.
#[derive(Default)]
struct Checked(HashMap<PathBuf, ((u64, i64, i64), f64)>);

impl Checked {
    /// Panics unless the file plays; gives its duration.
    fn check_plays(&mut self, file: &Path) -> f64 {
        let meta = fs::metadata(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
        let version = (meta.size(), meta.mtime(), meta.mtime_nsec());
        match self.0.get(file) {
            Some((known, duration_s)) if *known == version => *duration_s,
            _ => {
                mp4::check_plays(file);
                let duration_s = mp4::duration_s(file);
                self.0.insert(file.to_owned(), (version, duration_s));
                duration_s
            }
        }
    }
}

/// After a start: what an earlier life left is listed, finished, whole and of the length that is said.
fn check_after_start(nvr: &Nvr, left: &[PathBuf], checked: &mut Checked) -> Vec<Recording> {
    let recordings = nvr.recordings("");
    for file in left.iter().filter(|file| file.extension().is_some_and(|e| e == "mp4")) {
        // Recovery removes a file that has not one whole fragment.
        let row = recordings.iter().find(|r| r.path == **file);
        assert_eq!(file.exists(), row.is_some(), "{} is listed if it is there", file.display());
    }
    for recording in recordings.iter().filter(|r| left.contains(&r.path)) {
        let what = recording.path.display();
        assert!(!recording.in_progress, "{what} is of an earlier life");
        let duration_s = checked.check_plays(&recording.path);
        let size = fs::metadata(&recording.path).expect("it was just played").size();
        assert_eq!(recording.size, size, "{what}: listed size");
        let off = recording.duration - duration_s;
        assert!(off.abs() < DURATION_S_OFF_MAX, "{what}: listed duration is {off} s off");
    }
    recordings
}

#[test]
fn a_kill_at_any_moment_leaves_files_that_play_and_a_store_that_agrees() {
    let mut random = Random::seeded();
    let home = TempDir::new("record_kill");
    let storage = home.path().join("data/recordings");
    let mounts = [
        Mount { path: "sdp", clip: &clips::LONG, sets: Sets::Sdp },
        Mount { path: "band", clip: &clips::LONG, sets: Sets::Band },
        Mount { path: "b", clip: &clips::H264_B, sets: Sets::Both },
    ];
    let server = GstServer::start(Auth::None, &mounts);
    let mut checked = Checked::default();
    let mut before: Vec<Recording> = Vec::new();
    let kills = if std::env::var_os("SOAK").is_some() { KILLS_IN_SOAK } else { KILLS };
    for round in 0..kills {
        let left = files_below(&storage);
        let mut nvr = Nvr::start(home.path());
        if round == 0 {
            nvr.set(r#"{"segment_seconds":10}"#);
            nvr.add_stream("pattern", "testpattern://");
            for mount in &mounts {
                nvr.add_stream(mount.path, &server.url(mount.path));
            }
        }
        let life_ms = random.below(LIFE_MS_MAX);
        println!("round {round}: {} files left, killed after {life_ms} ms", left.len());
        let now = check_after_start(&nvr, &left, &mut checked);
        for old in &before {
            // A row that was promised as finished stays; one that was running may have had no media.
            let is_there = now.iter().any(|r| r.id == old.id && r.size >= old.size);
            assert!(is_there || old.size == 0, "recording {} was lost: {old:?}", old.id);
        }
        wait::pause(Duration::from_millis(life_ms));
        before = nvr.recordings("");
        nvr.process.kill();
    }
    let left = files_below(&storage);
    let nvr = Nvr::start(home.path());
    check_after_start(&nvr, &left, &mut checked);
    for id in 0..4 {
        let path = format!("/api/v1/streams/{id}");
        nvr.json("PUT", &path, Some(r#"{"enabled":false}"#));
        nvr.wait_for_finished(id, FINISHED_WITHIN);
    }
    let recordings = nvr.recordings("");
    assert!(nvr.stop().success());
    for recording in &recordings {
        checked.check_plays(&recording.path);
    }
    assert!(recordings.len() >= kills as usize / 2, "too little was recorded to prove anything");
    assert_eq!(
        files_below(&storage).iter().filter(|f| f.extension().is_some_and(|e| e == "mp4")).count(),
        recordings.len()
    );
    assert_eq!(rig::nvr::check(home.path()), (Some(0), String::new()));
}
