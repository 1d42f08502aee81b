//! A disk that stops for a while: four streams of 4 Mbit/s lose nothing, the API answers, and what waited is
//! written faster than it came. Beyond what memory holds, whole groups of pictures go by priority.
//!
//! The recordings are on a loop-mounted ext4 of its own, which `fsfreeze` stops. Where such mounts are not
//! allowed these tests say so and leave the cases to `disk_stall_inside`, which stops the disk's thread.

mod rig;

use std::collections::HashMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use miniserde::json::Value;

use rig::clips::{self, Clip, Video};
use rig::gst_server::{Auth, GstServer, Mount, Sets};
use rig::json::{Look, quote};
use rig::loop_disk::LoopDisk;
use rig::mp4;
use rig::nvr::{self, Nvr, PASSWORD};
use rig::temp_dir::TempDir;
use rig::wait;

/// How long the disk stands still: cards were seen to do so for 4 to 40 s.
const FREEZE: Duration = Duration::from_secs(12);
const FREEZE_IN_SOAK: Duration = Duration::from_secs(30);
const DISK_BYTES: u64 = 1 << 30;
const CLIP: &Clip = &clips::LONG_FAST;
/// What `CLIP` repeats.
const CLIP_PERIOD: &Clip = &clips::H264_FAST;
const STREAMS: [&str; 4] = ["a", "b", "c", "d"];
const RECORDED_WITHIN: Duration = Duration::from_secs(40);
/// Every answer while the disk stands still, on a loaded machine.
const ANSWER_WITHIN: Duration = Duration::from_secs(2);
/// Less than this waits when all is well: a fragment is at most a second.
const HELD_S_CALM: f64 = 1.5;

fn freeze_length() -> Duration {
    if std::env::var_os("SOAK").is_some() { FREEZE_IN_SOAK } else { FREEZE }
}

/// A recorder whose recordings are on a disk that can be stopped.
struct Rig {
    // In this order: the program ends before its disk goes.
    nvr: Nvr,
    _server: GstServer,
    disk: LoopDisk,
    home: TempDir,
}

/// What was seen while the disk stood still.
#[derive(Default)]
struct Seen {
    protections: Vec<String>,
    spilled_max: f64,
    held_s_max: f64,
    healthz: String,
}

impl Rig {
    /// `settings` may name the disk as `DISK`. `available_kib`: what the program takes for the memory that is
    /// available. `None` where the disk can't be made.
    fn start(name: &str, settings: &str, available_kib: Option<u32>) -> Option<Self> {
        let home = TempDir::new(name);
        let Some(disk) = LoopDisk::mount(home.path(), DISK_BYTES) else {
            println!("{name}: loop mounts are not allowed here; disk_stall_inside has this case");
            return None;
        };
        let mounts = STREAMS.map(|path| Mount { path, clip: CLIP, sets: Sets::Sdp });
        let server = GstServer::start(Auth::None, &mounts);
        let nvr = match available_kib {
            None => Nvr::start(home.path()),
            Some(kib) => start_with_memory(home.path(), kib),
        };
        let path = disk.path().display().to_string();
        nvr.set(&format!(
            r#"{{"storage_path":{},"buffer_size":256,"segment_seconds":10}}"#,
            quote(&format!("{path}/recordings"))
        ));
        nvr.set(&settings.replace("DISK", &path));
        for (priority, stream) in (1..).zip(STREAMS) {
            let body = format!(
                r#"{{"name":"{stream}","url":"{}","priority":{priority}}}"#,
                server.url(stream)
            );
            nvr.json("POST", "/api/v1/streams", Some(&body));
        }
        let rig = Self { nvr, _server: server, disk, home };
        for id in 0..STREAMS.len() {
            wait::until(&format!("stream {id} is recorded"), RECORDED_WITHIN, || {
                let recordings = rig.nvr.recordings(&format!("?stream_id={id}"));
                recordings.iter().any(|r| r.size > 0).then_some(())
            });
        }
        Some(rig)
    }

    #[track_caller]
    fn buffers(&self) -> Vec<Value> {
        let system = self.nvr.json("GET", "/api/v1/system", None);
        let buffers = system.field("buffers").items();
        assert_eq!(buffers.len(), STREAMS.len());
        buffers.iter().map(clone).collect()
    }

    /// Stops the disk for `length` and asks the API all the while; makes the changes one after the other.
    #[track_caller]
    fn freeze(&mut self, length: Duration, changes: &[(&str, &str)]) -> Seen {
        let mut changes = changes.iter();
        let mut seen = Seen::default();
        self.disk.freeze();
        let began = Instant::now();
        while began.elapsed() < length {
            for path in ["/api/v1/streams", "/api/v1/recordings?limit=5", "/api/v1/settings"] {
                let asked = Instant::now();
                let answer = self.nvr.json("GET", path, None);
                assert!(asked.elapsed() < ANSWER_WITHIN, "{path}: {:?}", asked.elapsed());
                for stream in answer.field_if_any("streams").map_or(&[][..], Look::items) {
                    assert_eq!(stream.field("status").text(), "connected");
                }
            }
            for buffer in self.buffers() {
                seen.protections.push(buffer.field("protection").text().to_owned());
                seen.spilled_max = seen.spilled_max.max(buffer.field("spilled_bytes").number());
                seen.held_s_max = seen.held_s_max.max(buffer.field("seconds_held").number());
            }
            if let Some((path, body)) = changes.next() {
                self.nvr.json("PUT", path, Some(&body.replace("HOME", &self.home())));
                wait::pause(Duration::from_millis(600));
            }
            let health = self.nvr.request("GET", "/healthz", None);
            if health.status == 503 {
                seen.healthz = health.text().to_owned();
            }
            wait::pause(Duration::from_millis(200));
        }
        assert!(changes.next().is_none(), "there was time for all changes");
        self.disk.thaw();
        seen
    }

    /// Waits until nothing waits any more; gives how long that took.
    #[track_caller]
    fn drain(&self, within: Duration) -> Duration {
        let began = Instant::now();
        wait::until("what waited is written", within, || {
            let held = |buffer: &Value| buffer.field("seconds_held").number();
            self.buffers().iter().all(|buffer| held(buffer) < HELD_S_CALM).then_some(())
        });
        began.elapsed()
    }

    fn home(&self) -> String {
        self.home.path().display().to_string()
    }

    fn dropped(&self) -> Vec<u64> {
        self.buffers().iter().map(|buffer| buffer.field("packets_dropped").integer()).collect()
    }

    /// Lets each stream rotate once more, ends it, and gives where in the clip each of its pictures is from.
    #[track_caller]
    fn finish(self, frames: &HashMap<Vec<u8>, usize>) -> Vec<Vec<usize>> {
        let list = |id: usize| self.nvr.recordings(&format!("?stream_id={id}"));
        let counts: Vec<usize> = (0..STREAMS.len()).map(|id| list(id).len()).collect();
        for (id, count) in counts.iter().enumerate() {
            let what = format!("stream {id} rotates");
            wait::until(&what, RECORDED_WITHIN, || (list(id).len() > *count).then_some(()));
        }
        let mut all = Vec::new();
        for id in 0..STREAMS.len() {
            let path = format!("/api/v1/streams/{id}");
            self.nvr.json("PUT", &path, Some(r#"{"enabled":false}"#));
            let recordings = self.nvr.wait_for_finished(id as u64, RECORDED_WITHIN);
            assert!(recordings.len() >= 2, "there is a rotation to look at");
            let mut positions = Vec::new();
            for recording in recordings {
                for unit in pictures(&recording.path) {
                    positions.push(*frames.get(&unit).expect("a picture of the clip"));
                }
            }
            all.push(positions);
        }
        assert!(self.nvr.stop().success());
        all
    }
}

/// `miniserde` values are not `Clone`.
fn clone(value: &Value) -> Value {
    rig::json::parse(&miniserde::json::to_string(value))
}

/// The program in a name space where `/proc/meminfo` says that so much memory is available, of twice as much.
fn start_with_memory(home: &Path, available_kib: u32) -> Nvr {
    let meminfo = home.join("meminfo");
    let total = available_kib * 2;
    fs::write(&meminfo, format!("MemTotal: {total} kB\nMemAvailable: {available_kib} kB\n"))
        .expect("the test's directory can be written");
    let password = home.join("password");
    fs::write(&password, PASSWORD).expect("the test's directory can be written");
    let mut command = Command::new("unshare");
    let script = r#"mount --bind "$0" /proc/meminfo && exec "$@""#;
    command.args(["-m", "sh", "-c", script]).arg(meminfo).arg(nvr::binary());
    command.env_remove("LIGHTNVR_ADMIN_PASSWORD").arg("--data-dir").arg(home.join("data"));
    command.args(["--listen", "127.0.0.1:0", "--admin-password-file"]).arg(password);
    Nvr::run(&mut command, PASSWORD)
}

/// Each picture of the clip (no two are alike) with its place in it.
fn frames() -> HashMap<Vec<u8>, usize> {
    pictures(&CLIP_PERIOD.file()).into_iter().enumerate().map(|(at, unit)| (unit, at)).collect()
}

/// The pictures of a file, one slice each.
fn pictures(file: &Path) -> Vec<Vec<u8>> {
    // NAL unit types of H.264 table 7-1: 1 and 5 are slices. The encoder's SEI comes once.
    let is_slice = |unit: &Vec<u8>| unit.first().is_some_and(|byte| matches!(byte & 0x1f, 1 | 5));
    mp4::nal_units(file, Video::H264).into_iter().filter(is_slice).collect()
}

/// How many pictures are missing between the first and the last.
fn missing(positions: &[usize], period: usize) -> usize {
    let steps = positions.windows(2).map(|pair| (pair[1] + period - pair[0] - 1) % period);
    steps.sum()
}

#[track_caller]
fn check_nothing_lost(name: &str, settings: &str, protection: &str) {
    let Some(mut rig) = Rig::start(name, settings, None) else { return };
    let length = freeze_length();
    let seen = rig.freeze(length, &[]);
    let drained = rig.drain(length);
    println!(
        "{name}: frozen {length:?}, at most {:.1} s held, {} bytes spilled, drained in {drained:?}; {}",
        seen.held_s_max, seen.spilled_max, seen.healthz
    );
    assert!(drained < length / 2, "written faster than it came: {drained:?} for {length:?}");
    assert!(seen.healthz.contains("disk"), "/healthz says so: {:?}", seen.healthz);
    assert!(
        seen.held_s_max > length.as_secs_f64() - 3.0,
        "it was really held: {}",
        seen.held_s_max
    );
    assert!(
        seen.protections.iter().any(|p| p == protection),
        "{protection}: {:?}",
        seen.protections
    );
    assert!(!seen.protections.iter().any(|p| p == "none"), "{:?}", seen.protections);
    assert_eq!(seen.spilled_max > 0.0, protection == "swap");
    assert_eq!(rig.dropped(), [0; STREAMS.len()]);
    wait::until("/healthz is well again", RECORDED_WITHIN, || {
        (rig.nvr.request("GET", "/healthz", None).status == 200).then_some(())
    });
    let frames = frames();
    for (id, positions) in rig.finish(&frames).iter().enumerate() {
        assert!(positions.len() as f64 > length.as_secs_f64() * 15.0, "stream {id}");
        assert_eq!(missing(positions, frames.len()), 0, "pictures missing of stream {id}");
    }
}

#[test]
fn the_swap_file_on_another_disk_carries_a_stall() {
    check_nothing_lost("stall_swap", r#"{"swap_size":134217728}"#, "swap");
}

#[test]
fn ram_carries_a_stall_when_the_swap_file_is_on_the_same_disk() {
    check_nothing_lost("stall_same_disk", r#"{"swap_path":"DISK/lightnvr.swap"}"#, "borrowed");
}

#[test]
fn ram_carries_a_stall_without_a_swap_file() {
    check_nothing_lost("stall_no_swap", r#"{"use_swap":false}"#, "borrowed");
}

#[test]
fn settings_change_while_packets_wait_and_nothing_is_lost() {
    let Some(mut rig) = Rig::start("stall_settings", "{}", None) else { return };
    let settings = "/api/v1/settings";
    let seen = rig.freeze(
        freeze_length(),
        &[
            (settings, r#"{"swap_size":67108864}"#),
            (settings, r#"{"buffer_size":2048}"#),
            (settings, r#"{"swap_path":"HOME/other.swap"}"#),
            ("/api/v1/streams/0", r#"{"priority":50}"#),
            (settings, r#"{"buffer_size":256}"#),
            (settings, r#"{"use_swap":false}"#),
        ],
    );
    assert!(seen.spilled_max > 0.0);
    rig.drain(freeze_length());
    let swap_files = ["data/lightnvr.swap", "other.swap"].map(|name| rig.home.path().join(name));
    assert_eq!(swap_files.map(|path| path.exists()), [false, false]);
    assert_eq!(rig.dropped(), [0; STREAMS.len()]);
    let frames = frames();
    for (id, positions) in rig.finish(&frames).iter().enumerate() {
        assert_eq!(missing(positions, frames.len()), 0, "pictures missing of stream {id}");
    }
}

#[test]
fn past_the_bound_whole_groups_go_lowest_priority_first() {
    // A quarter of this may be borrowed: 12 MiB, where 4 streams bring 24 MB in 12 s.
    let settings = r#"{"use_swap":false}"#;
    let Some(mut rig) = Rig::start("stall_bound", settings, Some(48 << 10)) else { return };
    let length = freeze_length();
    rig.freeze(length, &[]);
    rig.drain(length);
    let dropped = rig.dropped();
    println!("dropped by priority: {dropped:?}");
    assert!(dropped[0] > 0 && dropped[0] >= dropped[1] && dropped[1] >= dropped[2], "{dropped:?}");
    if length == FREEZE {
        assert_eq!(dropped[3], 0, "one stream alone fits: {dropped:?}");
    }
    let frames = frames();
    for (id, positions) in rig.finish(&frames).iter().enumerate() {
        // The clip repeats itself: a gap of more than its length looks shorter by that.
        let (period, missing) = (frames.len() as u64, missing(positions, frames.len()) as u64);
        assert_eq!(missing % period, dropped[id] % period, "stream {id}");
        for pair in positions.windows(2) {
            let is_gap = (pair[0] + 1) % frames.len() != pair[1];
            // A keyframe is at every multiple of 20.
            assert!(!is_gap || pair[1].is_multiple_of(20), "stream {id}: {pair:?}");
        }
    }
}
