//! Wear: what reaches the card is little more than the media.

#![cfg(target_arch = "x86_64")]

mod rig;

use std::process::Command;
use std::time::Duration;

use rig::clips;
use rig::gst_server::{Auth, GstServer, Mount, Sets};
use rig::guest::{self, Guest, Parts, ext4_image};
use rig::json::Look;
use rig::mp4;
use rig::temp_dir::{TempDir, files_below};
use rig::wait;

const RECORD: Duration = Duration::from_secs(180);
const RECORD_IN_SOAK: Duration = Duration::from_secs(60 * 60);
/// A sparse file: an hour of four streams of 4 Mbit/s are 7.2 GB.
const DATA_BYTES: u64 = 10 << 30;
const STREAMS: [&str; 4] = ["a", "b", "c", "d"];
const CONNECTED_WITHIN: Duration = Duration::from_secs(60);
/// What the program may have written for each byte of media, as the kernel counts it in whole pages.
const PROCESS_MAX: f64 = 1.02;
/// What may have reached the disk for it, with the file system's own.
const DEVICE_MAX: f64 = 1.10;

/// From the empty disk to the unmounted one, so the store's first pages and the file system's last ones count, too.
#[test]
fn the_card_sees_each_byte_once() {
    let length = if std::env::var_os("SOAK").is_some() { RECORD_IN_SOAK } else { RECORD };
    let home = TempDir::new("vm_wear");
    let data = ext4_image(&home.path().join("data.img"), DATA_BYTES);
    let mounts = STREAMS.map(|path| Mount { path, clip: &clips::LONG_FAST, sets: Sets::Sdp });
    let server = GstServer::start(Auth::None, &mounts);
    let guest = Guest::boot(home.path(), Parts { memory_mib: 512, disks: &[&data] });
    let before = guest.bytes_written("vda");
    guest.mount("/dev/vda", "/data");
    let nvr = guest.start_nvr("/data/nvr");
    nvr.set(r#"{"segment_seconds":60}"#);
    let ids = STREAMS.map(|path| nvr.add_stream(path, &guest::url(&server, path)));
    for id in ids {
        nvr.wait_for_status(id, "connected", CONNECTED_WITHIN);
    }
    wait::pause(length);
    for id in ids {
        nvr.json("PUT", &format!("/api/v1/streams/{id}"), Some(r#"{"enabled":false}"#));
    }
    for id in ids {
        nvr.wait_for_finished(id, CONNECTED_WITHIN);
    }
    let told = nvr.json("GET", "/api/v1/system", None).field("bytes_written").integer();
    let process = guest.nvr_number("io", "write_bytes");
    assert!(told <= process && told > process / 10 * 9, "told {told}, wrote {process}");
    guest.stop_nvr();
    guest.run("umount /data");
    let device = guest.bytes_written("vda") - before;
    guest.kill();

    let out = home.path().join("out");
    std::fs::create_dir(&out).expect("the test's directory can be written");
    let mut debugfs = Command::new("/usr/sbin/debugfs");
    debugfs.args(["-R", &format!("rdump /nvr/recordings {}", out.display())]).arg(&data);
    assert!(debugfs.output().expect("debugfs starts").status.success());
    let files =
        files_below(&out).into_iter().filter(|file| file.extension().is_some_and(|e| e == "mp4"));
    let media: u64 = files.map(|file| mp4::media_bytes(&file)).sum();
    // 4 Mbit/s each, give or take what the encoder makes of it.
    let least = length.as_secs() * 4 * 400_000;
    assert!(media > least, "{media} bytes of media in {length:?}");
    let share = |bytes: u64| bytes as f64 / media as f64;
    println!(
        "{media} bytes of media in {length:?}: the program wrote {:.4} of it, the disk got {:.4}",
        share(process),
        share(device)
    );
    assert!(share(process) <= PROCESS_MAX, "the program wrote {process} for {media}");
    assert!(share(device) <= DEVICE_MAX, "the disk got {device} for {media}");
}
