//! Cameras of a device with 256 MB, its image under QEMU: four in the network, and one that is plugged in. Long, therefore in
//! the soak.

mod rig;

use std::path::Path;
use std::time::Duration;

use rig::board::{Board, Card, RECORDED_WITHIN, Watchdog};
use rig::clips::{self, Video};
use rig::gst_server::{Auth, GstServer, Mount, Sets};
use rig::json::Look;
use rig::mp4;
use rig::nvr::Api;
use rig::temp_dir::TempDir;
use rig::wait;

const CARD_BYTES: u64 = 1 << 30;
/// What is recorded of each camera.
const RECORDED_S: f64 = 60.0;
const FRAMES_MIN: usize = 10;
const WITHIN: Duration = Duration::from_secs(240);

fn is_soak() -> bool {
    std::env::var_os("SOAK").is_some()
}

fn first_boot(home: &Path) -> (Board, Api) {
    let card = Card::flash(&home.join("card.img"), CARD_BYTES);
    let mut device = Board::plug_in(home, &card, Watchdog::Absent);
    device.wait_for_http(device.started);
    let password = device.shown_password();
    let api = device.api(&password);
    (device, api)
}

#[track_caller]
fn download(api: &Api, recording: u64, file: &Path) {
    let got = api.request("GET", &format!("/api/v1/recordings/{recording}/download"), None);
    assert_eq!(got.status, 200, "recording {recording}");
    std::fs::write(file, &got.body).expect("the test's directory can be written");
}

#[test]
fn four_cameras_lose_nothing_on_256_mb() {
    if !is_soak() {
        return;
    }
    let home = TempDir::new("board_cameras_four");
    let mounts = ["one", "two", "three", "four"].map(|path| Mount {
        path,
        clip: &clips::LONG,
        sets: Sets::Both,
    });
    let source = mp4::media_units(&clips::LONG.file(), Video::H264);
    let server = GstServer::start(Auth::None, &mounts);
    let (device, api) = first_boot(home.path());
    api.keep_files_long();
    // The host, as QEMU shows it to the guest.
    let url = |path: &str| server.url(path).replace("127.0.0.1", "10.0.2.2");
    let ids = mounts.map(|mount| api.add_stream(mount.path, &url(mount.path)));
    for id in ids {
        wait::until("a minute is recorded", WITHIN, || {
            let recordings = api.recordings(&format!("?stream_id={id}"));
            recordings.iter().any(|recording| recording.duration >= RECORDED_S).then_some(())
        });
    }
    let system = api.json("GET", "/api/v1/system", None);
    for buffer in system.field("buffers").items() {
        assert_eq!(buffer.field("packets_dropped").integer(), 0);
    }
    let status = format!("grep -E '^(VmHWM|RssAnon|VmSwap)' /proc/{}/status", device.recorder());
    println!("{}", device.run(&status));
    let file = home.path().join("recording.mp4");
    for (id, mount) in ids.into_iter().zip(mounts) {
        api.json("PUT", &format!("/api/v1/streams/{id}"), Some(r#"{"record":false}"#));
        let recordings = api.wait_for_finished(id, WITHIN);
        assert_eq!((recordings.len(), server.plays(mount.path)), (1, 1), "{recordings:?}");
        download(&api, recordings[0].id, &file);
        mp4::check_plays(&file);
        let units = mp4::media_units(&file, Video::H264);
        println!("{}: {} units", mount.path, units.len());
        // From the first picture on, without a hole.
        assert!(units.len() > 15 * RECORDED_S as usize && source.starts_with(&units));
    }
}

#[test]
fn a_camera_that_is_plugged_in_is_recorded() {
    if !is_soak() {
        return;
    }
    let home = TempDir::new("board_cameras_vivid");
    let (device, api) = first_boot(home.path());
    device.run("modprobe vivid n_devs=1 node_types=0x1");
    wait::until("the camera is listed", RECORDED_WITHIN, || {
        let list = api.json("GET", "/api/v1/devices", None);
        let devices = list.field("devices").items();
        devices.iter().any(|device| device.field("driver").text() == "vivid").then_some(())
    });
    let body = r#"{"name":"Workshop","url":"v4l2:///dev/video0","width":320,"height":180,"fps":5,"codec":"h264"}"#;
    let id = api.json("POST", "/api/v1/streams", Some(body)).field("id").integer();
    let file = home.path().join("recording.mp4");
    let frames = wait::until("some of it is recorded", WITHIN, || {
        let recordings = api.recordings(&format!("?stream_id={id}"));
        let recording = recordings.iter().find(|recording| recording.duration > 0.0)?;
        download(&api, recording.id, &file);
        let frames = mp4::packets(&file, "v").len();
        (frames >= FRAMES_MIN).then_some(frames)
    });
    println!("{frames} frames of vivid");
    mp4::check_plays_unevenly(&file);
    assert_eq!(mp4::codec(&file, "v"), "h264");
}
