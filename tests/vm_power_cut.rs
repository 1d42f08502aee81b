//! Power cuts: from one moment on nothing reaches the disk any more, though it says so; then the machine is gone.
//! After the next boot everything plays, `lightnvr check` is silent, and the ledger says what happened.

#![cfg(target_arch = "x86_64")]

mod rig;

use std::time::Duration;

use rig::clips;
use rig::gst_server::{Auth, GstServer, Mount, Sets};
use rig::guest::{self, Guest, Parts, ext4_image};
use rig::ledger::{self, Span};
use rig::mp4;
use rig::nvr::Recording;
use rig::random::Random;
use rig::temp_dir::TempDir;
use rig::wait;

const CUTS_IN_SOAK: u64 = 12;
const DATA_BYTES: u64 = 4 << 30;
/// Files are long enough for several rounds and short enough for rotations near the cut.
const SEGMENT_S: u64 = 10;
/// Counted from the first row of all streams.
const LIFE_MS_MAX: u64 = 12_000;
/// How long the program goes on without its disk knowing: some rounds, a rotation now and then.
const BLIND_MS_MAX: u64 = 6_000;
const RECORDED_WITHIN: Duration = Duration::from_secs(90);
/// 2 s and the round that is running, which takes its time in software on a loaded machine.
const LOST_MS_MAX: i64 = 2_000 + 3_000;
const STREAMS: [&str; 4] = ["a", "b", "c", "d"];

/// Waits until each stream has something that is synced of after `since_ms`.
fn wait_for_recording(guest: &Guest, since_ms: i64) {
    for id in 0..STREAMS.len() as u64 {
        wait::until(&format!("stream {id} is recorded"), RECORDED_WITHIN, || {
            let spans = ledger::since(guest.nvr(), id, since_ms);
            spans.iter().any(|span| span.state == "recorded").then_some(())
        });
    }
}

/// Everything that is listed plays, from its first to its last byte.
fn check_all_play(guest: &Guest, home: &TempDir, played: &mut Vec<u64>) {
    let finished = guest.nvr().recordings("").into_iter().filter(|r| !r.in_progress);
    for recording in finished {
        if played.contains(&recording.id) {
            continue;
        }
        let file = home.path().join("recording.mp4");
        guest.download(recording.id, &file);
        mp4::check_plays(&file);
        played.push(recording.id);
    }
}

/// Nothing was lost of before `cut_ms` but the last moments, and the gap has its name.
#[track_caller]
fn check_ledger(spans: &[Span], id: u64, cut_ms: i64, boot_ms: i64) -> i64 {
    let before = spans.iter().rfind(|s| s.state == "recorded" && s.start_ms < cut_ms);
    let recorded_to = before.unwrap_or_else(|| panic!("stream {id}: {spans:#?}")).end_ms;
    // The guest's clock shows whole seconds.
    let lost_ms = cut_ms + 1000 - recorded_to;
    assert!(
        lost_ms < LOST_MS_MAX,
        "stream {id}: {lost_ms} ms were lost before {cut_ms}: {spans:#?}"
    );
    let gap = spans.iter().find(|s| s.state == "power_off" && s.end_ms > cut_ms);
    let gap = gap.unwrap_or_else(|| panic!("stream {id}: no power_off: {spans:#?}"));
    assert!(gap.start_ms <= cut_ms + 1000 && gap.end_ms > boot_ms, "stream {id}: {spans:#?}");
    lost_ms
}

#[test]
fn after_a_power_cut_everything_plays_and_the_ledger_names_it() {
    let mut random = Random::seeded();
    let cuts = if std::env::var_os("SOAK").is_some() { CUTS_IN_SOAK } else { 1 };
    let home = TempDir::new("vm_power_cut");
    let data = ext4_image(&home.path().join("data.img"), DATA_BYTES);
    let mounts = STREAMS.map(|path| Mount { path, clip: &clips::LONG_FAST, sets: Sets::Sdp });
    let server = GstServer::start(Auth::None, &mounts);
    let boot = || {
        let guest = Guest::boot(home.path(), Parts { memory_mib: 512, disks: &[&data] });
        let disk = guest.map_disk("vda");
        guest.mount(&disk, "/data");
        guest
    };
    let mut played = Vec::new();
    let mut guest = boot();
    guest.start_nvr("/data/nvr");
    guest.nvr().set(&format!(r#"{{"segment_seconds":{SEGMENT_S}}}"#));
    for path in STREAMS {
        guest.nvr().add_stream(path, &guest::url(&server, path));
    }
    let mut alive_ms = guest.now_ms();
    for cut in 0..cuts {
        wait_for_recording(&guest, alive_ms);
        wait::pause(Duration::from_millis(random.below(LIFE_MS_MAX)));
        let finished = guest.nvr().recordings("").into_iter().filter(|r| !r.in_progress);
        let finished: Vec<Recording> = finished.collect();
        let before_ms = guest.now_ms();
        guest.cut_power("vda");
        let cut_ms = guest.now_ms();
        wait::pause(Duration::from_millis(random.below(BLIND_MS_MAX)));
        guest.kill();

        guest = boot();
        let boot_ms = guest.now_ms();
        guest.start_nvr("/data/nvr");
        wait_for_recording(&guest, boot_ms);
        let now = guest.nvr().recordings("");
        for old in finished {
            let is_there = now.iter().any(|r| r.id == old.id && r.size == old.size);
            assert!(is_there, "recording {} was lost: {old:?}", old.id);
        }
        let since_ms = before_ms - 5 * 1000;
        let lost = [0, 1, 2, 3].map(|id| {
            let spans = ledger::since(guest.nvr(), id, since_ms);
            check_ledger(&spans, id, cut_ms, boot_ms)
        });
        println!("cut {cut}: lost at most {lost:?} ms before it");
        check_all_play(&guest, &home, &mut played);
        guest.stop_nvr();
        assert_eq!(guest.run("lightnvr check --data-dir /data/nvr"), "", "after cut {cut}");
        guest.start_nvr("/data/nvr");
        alive_ms = guest.now_ms();
    }
    check_all_play(&guest, &home, &mut played);
    guest.stop_nvr();
    println!("{} recordings played", played.len());
}
