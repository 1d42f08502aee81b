//! A camera on the recorder's own machine (`v4l2://`): Linux's virtual one, in the guest. Recorded through the encoder,
//! busy, pulled out and put in again; and cameras that encode themselves (v4l2loopback, fed in the guest), and one whose
//! driver has buffers with planes. Nothing is said about rates: the guest is slow.

#![cfg(target_arch = "x86_64")]

mod rig;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use miniserde::json::Value;
use rig::clips::Video;
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

/// Size of the cameras that encode themselves, and how many pictures they repeat.
const FED_SIZE: (usize, usize) = (320, 240);
const FED: usize = 50;

/// A picture of the test source in one buffer each, encoded by these options of ffmpeg's.
#[track_caller]
fn encode(options: &[&str]) -> Vec<u8> {
    let (width, height) = FED_SIZE;
    let source = format!("testsrc2=size={width}x{height}:rate=5");
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-v", "error", "-nostdin", "-f", "lavfi", "-i", &source]);
    ffmpeg.args(["-frames:v", &FED.to_string(), "-pix_fmt", "yuv420p", "-threads", "1"]);
    run_silently(ffmpeg.args(options).arg("-"))
}

/// Where these bytes begin, each of them.
fn starts(bytes: &[u8], mark: &[u8]) -> Vec<usize> {
    (0..bytes.len()).filter(|&at| bytes[at..].starts_with(mark)).collect()
}

/// A stream cut before each mark.
#[track_caller]
fn cut(bytes: &[u8], mark: &[u8]) -> Vec<Vec<u8>> {
    let mut at = starts(bytes, mark);
    assert_eq!((at.len(), at[0]), (FED, 0), "a mark at each picture");
    at.push(bytes.len());
    at.windows(2).map(|two| bytes[two[0]..two[1]].to_vec()).collect()
}

/// A disk for `feed`: lengths and frames.
#[track_caller]
fn frames_image(path: PathBuf, frames: &[Vec<u8>]) -> PathBuf {
    let mut image = Vec::new();
    for frame in frames {
        image.extend_from_slice(&(frame.len() as u32).to_be_bytes()); // some kilobytes
        image.extend_from_slice(frame);
    }
    image.resize((image.len() + 4).next_multiple_of(4096), 0);
    fs::write(&path, image).expect("the test's directory can be written");
    path
}

/// All that was recorded was fed, in this order, over and over; the driver may have left out some.
#[track_caller]
fn check_as_fed(recorded: &[Vec<u8>], fed: &[Vec<u8>]) {
    let place = |bytes| fed.iter().position(|known| known == bytes).expect("as it was fed");
    let places: Vec<usize> = recorded.iter().map(place).collect();
    assert!(places.len() >= FRAMES_MIN, "{places:?}");
    let goes_on =
        |two: &[usize]| (1..fed.len() / 2).contains(&((two[1] + fed.len() - two[0]) % fed.len()));
    assert!(places.windows(2).all(goes_on), "{places:?}");
}

/// What of H.264 is a picture (table 7-1).
fn slices(units: Vec<Vec<u8>>) -> Vec<Vec<u8>> {
    units.into_iter().filter(|unit| matches!(unit[0] & 0x1f, 1 | 5)).collect()
}

#[track_caller]
fn add_local(nvr: &Api, device: &str, more: &str) -> u64 {
    let body = format!(r#"{{"name":"{device}","url":"v4l2:///dev/{device}",{more}}}"#);
    nvr.json("POST", "/api/v1/streams", Some(&body)).field("id").integer()
}

/// Path, driver and formats of each camera.
#[track_caller]
fn devices(nvr: &Api) -> Vec<(String, String, Vec<String>)> {
    let list = nvr.json("GET", "/api/v1/devices", None);
    let text = |value: &Value, name| value.field(name).text().to_owned();
    let formats = |device: &Value| {
        let formats = device.field("formats").items();
        formats.iter().map(|format| text(format, "format")).collect()
    };
    let devices = list.field("devices").items();
    devices.iter().map(|one| (text(one, "path"), text(one, "driver"), formats(one))).collect()
}

#[test]
fn cameras_that_encode_are_recorded_as_they_are_and_planes_are_read() {
    let home = TempDir::new("vm_camera_as_is");
    let jpegs = encode(&["-c:v", "mjpeg", "-q:v", "5", "-f", "image2pipe"]);
    let jpegs = cut(&jpegs, &[0xff, 0xd8, 0xff]);
    let h264 = ["-c:v", "libx264", "-preset", "veryfast", "-g", "5", "-bf", "0"];
    let h264 =
        encode(&[&h264[..], &["-x264-params", "aud=1:repeat-headers=1", "-f", "h264"]].concat());
    let h264 = cut(&h264, &[0, 0, 0, 1, 9]);
    let disk = ext4_image(&home.path().join("disk.img"), DATA_BYTES);
    let of_jpeg = frames_image(home.path().join("jpeg.img"), &jpegs);
    let of_h264 = frames_image(home.path().join("h264.img"), &h264);
    let disks: [&Path; 3] = [&disk, &of_jpeg, &of_h264];
    let guest = Guest::boot(home.path(), Parts { memory_mib: MEMORY_MIB, disks: &disks });
    guest.mount("/dev/vda", "/data");
    guest.run("load vivid n_devs=1 node_types=0x1 multiplanar=2");
    guest.run("load v4l2loopback devices=2 video_nr=4,5 exclusive_caps=1,1 max_buffers=8");
    let (width, height) = FED_SIZE;
    for (device, code, frames) in [("video4", "MJPG", "vdb"), ("video5", "H264", "vdc")] {
        let feed = format!("feed /dev/{device} {code} {width} {height} /dev/{frames}");
        guest.run(&format!("setsid {feed} </dev/null >/dev/ttyS0 2>&1 &"));
    }
    let nvr = guest.start_nvr("/data/nvr");
    nvr.keep_files_long();
    let listed = wait::until("three cameras", SOON, || {
        let listed = devices(nvr);
        (listed.len() == 3).then_some(listed)
    });
    let is_there = |path: &str, driver: &str, format: &str| {
        let formats = listed.iter().find(|one| (&*one.0, &*one.1) == (path, driver));
        formats.is_some_and(|one| one.2.iter().any(|known| known == format))
    };
    assert!(is_there("/dev/video0", "vivid", "YUYV"), "{listed:?}");
    assert!(is_there("/dev/video4", "v4l2 loopback", "MJPG"), "{listed:?}");
    assert!(is_there("/dev/video5", "v4l2 loopback", "H264"), "{listed:?}");

    let mjpeg = add_local(nvr, "video4", r#""codec":"mjpeg""#);
    let h264_id = add_local(nvr, "video5", r#""codec":"h264""#);
    let planes = format!(r#""width":{WIDTH},"height":{HEIGHT},"fps":5,"codec":"h264""#);
    let planes = add_local(nvr, "video0", &planes);
    let file = home.path().join("recording.mp4");
    wait_for_recording(&guest, mjpeg, 1, &file);
    assert_eq!(mp4::codec(&file, "v"), "mjpeg");
    check_as_fed(&mp4::jpegs(&file, home.path()), &jpegs);

    wait_for_recording(&guest, h264_id, 1, &file);
    assert_eq!(mp4::codec(&file, "v"), "h264");
    let fed = h264.iter().flat_map(|frame| slices(mp4::split_annex_b(frame))).collect::<Vec<_>>();
    assert_eq!(fed.len(), FED, "one slice a picture");
    check_as_fed(&slices(mp4::media_units(&file, Video::H264)), &fed);

    wait_for_recording(&guest, planes, 1, &file);
    check_recording(&file);
    guest.stop_nvr();
}
