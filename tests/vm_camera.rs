//! A camera on the recorder's own machine (`v4l2://`): Linux's virtual one, in the guest. Recorded through the encoder,
//! busy, pulled out and put in again. Nothing is said about rates: the guest is slow.

#![cfg(target_arch = "x86_64")]

mod rig;

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use miniserde::json::Value;
use rig::guest::{Guest, Parts, ext4_image};
use rig::json::Look;
use rig::mp4;
use rig::nvr::Api;
use rig::process::run_silently;
use rig::temp_dir::TempDir;
use rig::wait;

const MEMORY_MIB: u32 = 256;
const DATA_BYTES: u64 = 256 << 20;
const SOON: Duration = Duration::from_secs(60);
const WIDTH: usize = 640;
const HEIGHT: usize = 360;
/// Pictures that are waited for, in each of two recordings.
const FRAMES_MIN: usize = 6;

/// Red, green and blue of vivid's colour bars: white, yellow, cyan, green, magenta, red, blue, black.
const BARS: [[bool; 3]; 8] = [
    [true, true, true],
    [true, true, false],
    [false, true, true],
    [false, true, false],
    [true, false, true],
    [true, false, false],
    [false, false, true],
    [false, false, false],
];

const URL: &str = "v4l2:///dev/video0";
/// The driver's directory, where a device is taken from it and given back.
const DRIVER: &str = "/sys/bus/platform/drivers/vivid";

#[track_caller]
fn add(nvr: &Api, name: &str) -> u64 {
    let body = format!(
        r#"{{"name":"{name}","url":"{URL}","width":{WIDTH},"height":{HEIGHT},"fps":5,"codec":"h264"}}"#
    );
    nvr.json("POST", "/api/v1/streams", Some(&body)).field("id").integer()
}

#[track_caller]
fn wait_for_detail(nvr: &Api, id: u64, words: &str) {
    wait::until(&format!("stream {id} says {words:?}"), SOON, || {
        let stream = nvr.stream(id);
        let is_it = stream.field("status_detail").text() == words
            && stream.field("status").text() == "reconnecting";
        is_it.then_some(())
    });
}

/// Fetches the stream's recording of this number, counted from 1, until it has enough pictures; it may be running.
#[track_caller]
fn wait_for_recording(guest: &Guest, id: u64, count: usize, file: &Path) {
    wait::until(&format!("recording {count} with {FRAMES_MIN} pictures"), SOON, || {
        let recordings = guest.nvr().recordings(&format!("?stream_id={id}"));
        let recording = recordings.get(count - 1).filter(|recording| recording.duration > 0.0)?;
        guest.download(recording.id, file);
        (mp4::packets(file, "v").len() >= FRAMES_MIN).then_some(())
    });
}

/// The pictures of a file, three bytes a pixel: red, green, blue.
#[track_caller]
fn pictures(file: &Path) -> Vec<Vec<u8>> {
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-v", "error", "-nostdin", "-i"]).arg(file);
    ffmpeg.args(["-fps_mode", "passthrough", "-pix_fmt", "rgb24", "-f", "rawvideo", "-"]);
    run_silently(&mut ffmpeg).chunks_exact(WIDTH * HEIGHT * 3).map(<[u8]>::to_vec).collect()
}

/// The file holds pictures of vivid's, each another one, in order.
#[track_caller]
fn check_recording(file: &Path) {
    mp4::check_plays_unevenly(file);
    assert_eq!(mp4::codec(file, "v"), "h264");
    let packets = mp4::packets(file, "v");
    assert!(packets[0].is_key);
    let pictures = pictures(file);
    assert_eq!(pictures.len(), packets.len(), "of {WIDTH}x{HEIGHT}");
    for picture in &pictures {
        // Below the lines of text.
        let row = &picture[WIDTH * (HEIGHT - 20) * 3..][..WIDTH * 3];
        let bars: Vec<&[u8]> =
            (0..8).map(|n| &row[(WIDTH / 16 + n * WIDTH / 8) * 3..][..3]).collect();
        let is_right = |(bar, colour): (&&[u8], &[bool; 3])| {
            bar.iter().zip(colour).all(|(&got, &want)| if want { got > 150 } else { got < 70 })
        };
        assert!(bars.iter().zip(&BARS).all(is_right), "red, green, blue of the bars: {bars:?}");
    }
    // The text counts frames.
    assert!(pictures.windows(2).all(|two| two[0] != two[1]), "each picture is another one");
}

#[track_caller]
fn check_devices(nvr: &Api) {
    let list = nvr.json("GET", "/api/v1/devices", None);
    let [device] = list.field("devices").items() else { panic!("one camera") };
    assert_eq!(device.field("path").text(), "/dev/video0");
    assert_eq!(device.field("url").text(), URL);
    assert_eq!((device.field("driver").text(), device.field("name").text()), ("vivid", "vivid"));
    assert!(matches!(device.field("problem"), Value::Null));
    let formats = device.field("formats").items();
    let named = |name| formats.iter().find(|format| format.field("format").text() == name);
    let yuyv = named("YUYV").expect("a format that vivid has");
    assert_eq!(yuyv.field("codecs").items()[0].text(), "h264");
    let has_size = |size: &Value| {
        size.field("width").integer() == WIDTH as u64
            && size.field("height").integer() == HEIGHT as u64
            && size.field("fps").integer() > 0
    };
    assert!(yuyv.field("sizes").items().iter().any(has_size), "{WIDTH}x{HEIGHT}");
    let unusable = named("RGB3").expect("a format that vivid has");
    assert!(unusable.field("codecs").items().is_empty());
}

/// `POST /streams/test` of the camera; what it answers.
#[track_caller]
fn look_at(nvr: &Api, codec: &str) -> Value {
    let body = format!(r#"{{"url":"{URL}","codec":"{codec}"}}"#);
    nvr.json("POST", "/api/v1/streams/test", Some(&body))
}

/// How many threads of cameras the recorder has.
#[track_caller]
fn threads(guest: &Guest) -> usize {
    // One may end while its name is read.
    let names = guest.run("cat /proc/$(cat /run/nvr.pid)/task/*/comm 2>/dev/null || true");
    names.lines().filter(|name| name.starts_with("v4l-")).count()
}

#[test]
fn a_local_camera_is_recorded_and_comes_back() {
    let home = TempDir::new("vm_camera");
    let disk = ext4_image(&home.path().join("disk.img"), DATA_BYTES);
    let guest = Guest::boot(home.path(), Parts { memory_mib: MEMORY_MIB, disks: &[&disk] });
    guest.mount("/dev/vda", "/data");
    let camera = guest.add_camera();
    let nvr = guest.start_nvr("/data/nvr");
    nvr.keep_files_long();
    check_devices(nvr);

    let refused = look_at(nvr, "mjpeg");
    let reason = refused.field("reason").text();
    assert!(
        reason.starts_with("camera offers no video format for codec mjpeg: it has "),
        "{reason}"
    );
    assert!(reason.contains("YUYV") && reason.ends_with("and mjpeg needs MJPG"), "{reason}");

    guest.run(&format!("cat {camera} >/dev/null 2>&1 & echo $! >/run/other.pid"));
    let id = add(nvr, "first");
    wait_for_detail(nvr, id, "camera /dev/video0 is busy: another program uses it");
    guest.run("kill $(cat /run/other.pid)");
    let stream = nvr.wait_for_status(id, "connected", SOON);
    assert_eq!(stream.field("advice").items().len(), 0);
    let second = add(nvr, "second");
    wait_for_detail(nvr, second, "camera /dev/video0 is busy: another stream uses it");
    nvr.json("DELETE", &format!("/api/v1/streams/{second}"), None);

    let file = home.path().join("first.mp4");
    wait_for_recording(&guest, id, 1, &file);
    check_recording(&file);
    // Others may ask what it can do meanwhile.
    check_devices(nvr);
    let seen = look_at(nvr, "h264");
    assert!(seen.field("ok").truth(), "the stream that runs answers");
    assert_eq!(seen.field("width").integer(), WIDTH as u64);

    guest.run(&format!("echo vivid.0 >{DRIVER}/unbind"));
    wait_for_detail(nvr, id, "no camera is plugged in as /dev/video0");
    assert!(nvr.json("GET", "/api/v1/devices", None).field("devices").items().is_empty());
    guest.run(&format!("echo vivid.0 >{DRIVER}/bind"));
    nvr.wait_for_status(id, "connected", SOON);
    wait_for_recording(&guest, id, 2, &file);
    check_recording(&file);

    assert_eq!(threads(&guest), 1, "of one camera");
    nvr.json("DELETE", &format!("/api/v1/streams/{id}"), None);
    wait::until("the camera's thread has ended", SOON, || (threads(&guest) == 0).then_some(()));
    guest.stop_nvr();
}
