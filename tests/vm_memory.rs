//! Memory pressure: on a machine of 256 MB, with something beside the recorder that wants more memory than there
//! is, four streams lose nothing, and what the recorder holds is never swapped.

#![cfg(target_arch = "x86_64")]

mod rig;

use std::time::Duration;

use rig::clips::{self, Clip, Video};
use rig::gst_server::{Auth, GstServer, Mount, Sets};
use rig::guest::{self, Guest, Parts, blank_image, ext4_image};
use rig::json::Look;
use rig::mp4;
use rig::temp_dir::TempDir;
use rig::wait;

const MEMORY_MIB: u32 = 256;
/// More than there is.
const HOG_MIB: u64 = 320;
const SWAP_BYTES: u64 = 768 << 20;
const DATA_BYTES: u64 = 2 << 30;
/// The hog is at work once so much of it was swapped, and then so much more while streams are recorded.
const SWAPPED_KIB_MIN: u64 = 96 << 10;
const SWAPPED_MEANWHILE_KIB_MIN: u64 = 32 << 10;
const STREAMS: [&str; 4] = ["a", "b", "c", "d"];
const HOG_WITHIN: Duration = Duration::from_secs(120);
/// How much longer than the clip it may take, in software on a loaded machine.
const RECORDED_WITHIN: Duration = Duration::from_secs(180);

/// 24 s at 4 Mbit/s; in soak four minutes of it.
fn clip() -> &'static Clip {
    if std::env::var_os("SOAK").is_some() { &clips::LONG_FAST } else { &clips::H264_FAST }
}

/// The number after `name` in a file of the guest.
fn number(guest: &Guest, file: &str, name: &str) -> u64 {
    let text = guest.run(&format!("cat {file}"));
    let line = text.lines().find(|line| line.split([':', ' ']).next() == Some(name));
    let word = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    word.unwrap_or_else(|| panic!("no {name} in {file}: {text}"))
}

/// Something that goes through more memory than there is, again and again.
fn start_hog(guest: &Guest) {
    guest.run("mkswap /dev/vdb >/dev/null && swapon /dev/vdb && mkdir /hog");
    guest.run(&format!("mount -t tmpfs -o size={HOG_MIB}m hog /hog"));
    // Fills it, whatever it is filled with, and then reads it for ever.
    let work = "while cat /bin/busybox; do :; done >/hog/memory; while cat /hog/memory; do :; done";
    guest.run(&format!("({work}) >/dev/null 2>&1 &"));
    wait::until("the hog has taken all memory", HOG_WITHIN, || {
        let [total, free] = ["SwapTotal", "SwapFree"].map(|n| number(guest, "/proc/meminfo", n));
        (total - free > SWAPPED_KIB_MIN).then_some(())
    });
}

/// What the recorder has in swap and what is locked, in KiB, by its map of memory.
fn swapped_and_locked(guest: &Guest) -> (u64, u64) {
    let text = guest.run("cat /proc/$(cat /run/nvr.pid)/smaps");
    let sum = |name: &str| -> u64 {
        let values = text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        values.map(|v| v.trim_end_matches("kB").trim().parse::<u64>().expect("KiB")).sum()
    };
    (sum("Swap"), sum("Locked"))
}

#[test]
fn beside_a_memory_hog_nothing_is_lost_and_nothing_is_swapped() {
    let home = TempDir::new("vm_memory");
    let data = ext4_image(&home.path().join("data.img"), DATA_BYTES);
    let swap = blank_image(&home.path().join("swap.img"), SWAP_BYTES);
    let mounts = STREAMS.map(|path| Mount { path, clip: clip(), sets: Sets::Sdp });
    let server = GstServer::start_once(Auth::None, &mounts);
    let guest = Guest::boot(home.path(), Parts { memory_mib: MEMORY_MIB, disks: &[&data, &swap] });
    guest.mount("/dev/vda", "/data");
    let nvr = guest.start_nvr("/data/nvr");
    nvr.set(r#"{"segment_seconds":10}"#);
    start_hog(&guest);
    let swapped_before = number(&guest, "/proc/vmstat", "pswpout");
    let ids = STREAMS.map(|path| nvr.add_stream(path, &guest::url(&server, path)));
    let mut protections = Vec::new();
    let mut rss_anon_kib_max = 0;
    // A path is gone after one session, so a stream that ended can't be connected again.
    wait::until("all streams are over", RECORDED_WITHIN + clip().length(), || {
        let (swapped, locked) = swapped_and_locked(&guest);
        assert_eq!(swapped, 0, "KiB of the recorder are swapped");
        assert!(locked > 0, "the recorder's memory is locked");
        rss_anon_kib_max = rss_anon_kib_max.max(guest.nvr_number("status", "RssAnon"));
        let system = nvr.json("GET", "/api/v1/system", None);
        for buffer in system.field("buffers").items() {
            assert_eq!(buffer.field("packets_dropped").integer(), 0);
            let protection = buffer.field("protection").text().to_owned();
            if !protections.contains(&protection) {
                protections.push(protection);
            }
        }
        let is_over = |id: u64, path| {
            server.plays(path) == 1
                && nvr.stream(id).field("status").text() != "connected"
                && !nvr.recordings(&format!("?stream_id={id}")).is_empty()
        };
        STREAMS.iter().zip(ids).all(|(path, id)| is_over(id, path)).then_some(())
    });
    let swapped_kib = 4 * (number(&guest, "/proc/vmstat", "pswpout") - swapped_before);
    println!(
        "RssAnon at most {rss_anon_kib_max} KiB; the kernel swapped {swapped_kib} KiB meanwhile, none of them ours; \
         protections: {protections:?}"
    );
    let is_short = swapped_kib > SWAPPED_MEANWHILE_KIB_MIN;
    assert!(is_short, "memory was short all the while: {swapped_kib} KiB");
    let sent = mp4::media_units(&clip().file(), Video::H264);
    for id in ids {
        let recordings = nvr.wait_for_finished(id, RECORDED_WITHIN);
        let mut got = Vec::new();
        for recording in recordings {
            let file = home.path().join(format!("{}.mp4", recording.id));
            guest.download(recording.id, &file);
            got.extend(mp4::media_units(&file, Video::H264));
        }
        assert_eq!(got.len(), sent.len(), "stream {id}: number of NAL units");
        let first_wrong = got.iter().zip(&sent).position(|(got, sent)| got != sent);
        assert_eq!(first_wrong, None, "stream {id}: first NAL unit that differs");
    }
    guest.stop_nvr();
}
