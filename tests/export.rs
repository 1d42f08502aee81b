//! One MP4 across recordings: all that was recorded, in its order and at its time, for every player.

mod rig;

use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine};
use rig::clips;
use rig::gst_server::{Auth, GstServer, Mount, Sets};
use rig::json::Look;
use rig::mp4::{self, Packet};
use rig::nvr::{Nvr, PASSWORD, Recording};
use rig::process::run_silently;
use rig::temp_dir::TempDir;
use rig::wait;
use rig::webdriver::Browser;

const SOON: Duration = Duration::from_secs(40);
const DAY: &str = "start=2020-01-01T00:00:00Z&end=2099-01-01T00:00:00Z";

fn path(id: u64, query: &str) -> String {
    format!("/api/v1/streams/{id}/export.mp4?{query}")
}

/// Saves an export.
#[track_caller]
fn export(nvr: &Nvr, id: u64, query: &str, to: &Path) -> PathBuf {
    let answer = nvr.request("GET", &path(id, query), None);
    assert_eq!(answer.status, 200, "{}", String::from_utf8_lossy(&answer.body));
    assert_eq!(answer.header("content-type"), Some("video/mp4"));
    fs::write(to, &answer.body).expect("the test's directory can be written");
    to.to_owned()
}

/// Records until a recording of the stream has these seconds, and switches the stream off.
fn record(nvr: &Nvr, id: u64, seconds: f64, count: usize) -> Vec<Recording> {
    let stream = format!("/api/v1/streams/{id}");
    nvr.json("PUT", &stream, Some(r#"{"enabled":true}"#));
    let list = || nvr.recordings(&format!("?stream_id={id}"));
    wait::until("enough is recorded", SOON, || {
        let recordings = list();
        let last = recordings.last().is_some_and(|r| r.in_progress && r.duration >= seconds);
        (recordings.len() >= count && last).then_some(())
    });
    nvr.json("PUT", &stream, Some(r#"{"enabled":false}"#));
    nvr.wait_for_finished(id, SOON)
}

/// ffmpeg decodes it, GStreamer takes it apart.
#[track_caller]
fn check_players(file: &Path) {
    mp4::check_plays(file);
    let mut gst = Command::new("gst-launch-1.0");
    gst.args(["-q", "filesrc"]).arg(format!("location={}", file.display()));
    run_silently(gst.args("! qtdemux name=d d.video_0 ! h264parse ! fakesink".split(' ')));
}

#[track_caller]
fn check_same_media(got: &[Packet], want: &[Packet], what: &str) {
    let hashes = |packets: &[Packet]| packets.iter().map(|p| p.hash.clone()).collect::<Vec<_>>();
    assert_eq!(got.len(), want.len(), "{what}: packets");
    assert_eq!(hashes(got), hashes(want), "{what}: in order");
    assert!(got.is_sorted_by(|a, b| a.dts_s < b.dts_s), "{what}: decoding times rise");
}

/// Start of the stream's recordings in milliseconds, as their tags have it (the API has whole seconds).
fn start_ms(recording: &Recording) -> i64 {
    let head = fs::read(&recording.path).expect("the recording is there");
    let uuid = b"lightnvr\x9e\x1d\x4b\x52\xa3\x07\xc8\x51";
    let at = head.windows(16).position(|window| window == uuid).expect("a tag") + 16 + 1 + 4;
    i64::from_be_bytes(head[at..at + 8].try_into().expect("eight bytes"))
}

#[test]
fn an_export_is_all_that_was_recorded_at_its_time() {
    let home = TempDir::new("export");
    let mount = Mount { path: "cam", clip: &clips::LONG, sets: Sets::Both };
    let server = GstServer::start(Auth::None, &[mount]);
    let nvr = Nvr::start(home.path());
    nvr.set(r#"{"segment_seconds":10}"#);
    let id = nvr.add_stream("Küche", &server.url("cam"));
    let joined = record(&nvr, id, 4.0, 2);
    let all = record(&nvr, id, 4.0, joined.len() + 1);
    assert!(all.len() >= 3, "a rotation and a pause: {all:?}");

    let file = export(&nvr, id, DAY, &home.path().join("all.mp4"));
    check_players(&file);
    for track in ["v", "a"] {
        let want: Vec<Vec<Packet>> = all.iter().map(|r| mp4::packets(&r.path, track)).collect();
        let got = mp4::packets(&file, track);
        check_same_media(&got, &want.concat(), track);
        // Each recording lies where the clock says, to what the clock of the camera may differ.
        let zero_ms = start_ms(&all[0]);
        let mut at = 0;
        for (recording, packets) in all.iter().zip(&want) {
            let wanted_s = (start_ms(recording) - zero_ms) as f64 / 1000.0;
            let got_s = got[at].dts_s - packets[0].dts_s;
            assert!((got_s - wanted_s).abs() < 0.3, "{track}: {got_s} s, not {wanted_s} s");
            // Inside of it nothing moved.
            let last = packets.len() - 1;
            let length = packets[last].pts_s - packets[0].pts_s;
            let got_length = got[at + last].pts_s - got[at].pts_s;
            assert!((length - got_length).abs() < 0.002, "{track}: {got_length} s of {length} s");
            at += packets.len();
        }
    }
    // At a rotation there is no gap.
    let video = mp4::packets(&file, "v");
    let first = mp4::packets(&joined[0].path, "v").len();
    let step = video[first].dts_s - video[first - 1].dts_s;
    assert!((step - 1.0 / 15.0).abs() < 0.02, "{step} s at the rotation");
    let length = mp4::duration_s(&file);
    let want = (start_ms(all.last().expect("three")) - start_ms(&all[0])) as f64 / 1000.0
        + all.last().expect("three").duration;
    assert!((length - want).abs() < 2.5, "{length} s, not {want} s");

    check_part(&nvr, id, &all, &home);
    check_browser(&nvr, id, &home, length);
    check_deleted(&nvr, id, &all, &home);
}

/// A part begins at the keyframe before, and ends with the second of its end.
fn check_part(nvr: &Nvr, id: u64, all: &[Recording], home: &TempDir) {
    let zero_ms = start_ms(&all[0]);
    let at = |ms: i64| {
        let text = lightnvr::system::clock::iso_milliseconds(zero_ms + ms);
        text.replace('+', "%2B")
    };
    let query = format!("start={}&end={}", at(2100), at(3900));
    let part = export(nvr, id, &query, &home.path().join("part.mp4"));
    check_players(&part);
    let (whole, got) = (mp4::packets(&all[0].path, "v"), mp4::packets(&part, "v"));
    let first = whole.iter().position(|p| p.hash == got[0].hash).expect("of the recording");
    assert!(whole[first].is_key, "it begins with a keyframe");
    let next_key = whole[first + 1..].iter().find(|p| p.is_key).expect("one more");
    assert!(whole[first].pts_s <= 2.11 && next_key.pts_s > 2.1, "the last one before its start");
    let last = whole[first].dts_s + got.last().expect("some").dts_s - got[0].dts_s;
    assert!((3.8..5.1).contains(&last), "ends at {last} s");
}

/// Chromium plays it, from the start and behind the pause.
fn check_browser(nvr: &Nvr, id: u64, home: &TempDir, length_s: f64) {
    let browser = Browser::start(home.path());
    browser.go(&format!("http://admin:{PASSWORD}@{}/api/v1/system", nvr.addr));
    browser.go(&format!("http://{}/healthz", nvr.addr));
    let load = format!(
        "window.v = document.createElement('video'); v.muted = true; document.body.append(v); \
         fetch('{}').then(r => r.blob()).then(b => {{ v.src = URL.createObjectURL(b); \
         v.play().catch(() => {{}}) }})",
        path(id, DAY)
    );
    browser.run(&load);
    let reach = |time: f64| {
        wait::until(&format!("it plays past {time} s"), SOON, || {
            let state =
                browser.run("return [v.currentTime, v.error ? v.error.message : '', v.videoWidth]");
            let items = state.items();
            assert_eq!(items[1].text(), "", "the browser's error");
            (items[0].number() > time && items[2].number() > 0.0).then_some(())
        });
    };
    reach(0.5);
    browser.run(&format!("v.currentTime = {}", length_s - 2.0));
    reach(length_s - 1.8);
}

/// What was deleted is a gap.
fn check_deleted(nvr: &Nvr, id: u64, all: &[Recording], home: &TempDir) {
    nvr.json("DELETE", &format!("/api/v1/recordings/{}", all[1].id), None);
    let file = export(nvr, id, DAY, &home.path().join("gap.mp4"));
    check_players(&file);
    let rest = all.iter().filter(|r| r.id != all[1].id);
    let want: Vec<Vec<Packet>> = rest.map(|r| mp4::packets(&r.path, "v")).collect();
    check_same_media(&mp4::packets(&file, "v"), &want.concat(), "without the deleted one");
}

#[test]
fn what_can_not_be_one_file_is_said() {
    let home = TempDir::new("export_refused");
    let nvr = Nvr::start(home.path());
    let body = r#"{"name":"a","url":"testpattern://","width":320,"height":240,"fps":15}"#;
    let id = nvr.json("POST", "/api/v1/streams", Some(body)).field("id").integer();
    let get = |id: u64, query: &str| nvr.request("GET", &path(id, query), None);
    for (query, field) in [
        ("", "start"),
        ("start=2025-03-09T10:00:00Z", "end"),
        ("start=2025-03-09T10:00:00Z&end=2025-03-09T10:00:00Z", "end"),
        ("start=yesterday&end=today", "start"),
    ] {
        let answer = get(id, query);
        assert_eq!(answer.status, 400, "{query}");
        assert!(answer.text().ends_with(&format!(r#""field":"{field}"}}"#)), "{}", answer.text());
    }
    assert_eq!(get(77, DAY).text(), r#"{"error":"Stream not found"}"#);
    let nothing = get(id, "start=2020-01-01T00:00:00Z&end=2020-01-02T00:00:00Z");
    assert_eq!(nothing.status, 404);
    assert!(nothing.text().contains("recorded in this time"), "{}", nothing.text());

    record(&nvr, id, 1.0, 1);
    let stream = format!("/api/v1/streams/{id}");
    nvr.json("PUT", &stream, Some(r#"{"width":480}"#));
    let both = record(&nvr, id, 1.0, 2);
    let changed = get(id, DAY);
    assert_eq!(changed.status, 409, "{}", changed.text());
    let moment = lightnvr::system::clock::iso_milliseconds(start_ms(&both[1]));
    let want = format!("from 320x240 to 480x240 at {moment}");
    assert!(changed.text().contains(&want), "{}", changed.text());
    let up_to = export(
        &nvr,
        id,
        &format!("start=2020-01-01T00:00:00Z&end={moment}"),
        &home.path().join("a.mp4"),
    );
    check_players(&up_to);
    let from = export(
        &nvr,
        id,
        &format!("start={moment}&end=2099-01-01T00:00:00Z"),
        &home.path().join("b.mp4"),
    );
    check_players(&from);
    let head =
        nvr.request("HEAD", &path(id, &format!("start={moment}&end=2099-01-01T00:00:00Z")), None);
    let name = head.header("content-disposition").expect("a name");
    assert!(head.status == 200 && name.starts_with("attachment; filename=\"a 2"), "{name}");

    // A file that is gone while its row is there is no gap: the disk may be unplugged.
    fs::remove_file(&both[1].path).expect("removed");
    let answer = get(id, &format!("start={moment}&end=2099-01-01T00:00:00Z"));
    assert_eq!((answer.status, answer.header("retry-after")), (503, Some("10")));
    assert!(!answer.text().contains(home.path().to_str().expect("text")), "{}", answer.text());
}

#[test]
fn exports_are_few_survive_deletion_and_take_little_memory() {
    let home = TempDir::new("export_bounded");
    let mount = Mount { path: "cam", clip: &clips::LONG_FAST, sets: Sets::Both };
    let server = GstServer::start(Auth::None, &[mount]);
    let nvr = Nvr::start(home.path());
    nvr.keep_files_long();
    let id = nvr.add_stream("Yard", &server.url("cam"));
    // More than what the kernel holds for a reader that stands still.
    wait::until("9 MB are recorded", SOON, || {
        nvr.recordings("").first().filter(|r| r.size > 9 << 20).cloned()
    });
    nvr.json("PUT", &format!("/api/v1/streams/{id}"), Some(r#"{"enabled":false}"#));
    let recording = nvr.wait_for_finished(id, SOON).remove(0);
    let want = mp4::packets(&recording.path, "v");
    let before_kib = rss_kib(nvr.process.pid());
    let login = BASE64_STANDARD.encode(format!("admin:{PASSWORD}"));
    let begin = || {
        let mut stream = TcpStream::connect(nvr.addr).expect("it listens");
        let request =
            format!("GET {} HTTP/1.0\r\nAuthorization: Basic {login}\r\n\r\n", path(id, DAY));
        stream.write_all(request.as_bytes()).expect("sent");
        let mut head = [0; 12];
        stream.read_exact(&mut head).expect("it begins");
        assert_eq!(&head, b"HTTP/1.1 200");
        stream
    };
    let (mut first, second) = (begin(), begin());
    let third = nvr.request("GET", &path(id, DAY), None);
    assert_eq!((third.status, third.header("retry-after")), (503, Some("10")));
    drop(second);
    wait::until("its place is free", SOON, || {
        (nvr.request("HEAD", &path(id, DAY), None).status == 200).then_some(())
    });
    // Deleted while it is being sent: the file stays open to its end.
    nvr.json("DELETE", &format!("/api/v1/recordings/{}", recording.id), None);
    assert!(!recording.path.exists());
    let mut bytes = Vec::new();
    first.read_to_end(&mut bytes).expect("to its end");
    let after_kib = rss_kib(nvr.process.pid());
    assert!(after_kib < before_kib + (8 << 10), "{before_kib} KiB, then {after_kib} KiB");
    let media = bytes.windows(4).position(|window| window == b"\r\n\r\n").expect("a head") + 4;
    let file = home.path().join("kept.mp4");
    fs::write(&file, &bytes[media..]).expect("the test's directory can be written");
    check_same_media(&mp4::packets(&file, "v"), &want, "deleted meanwhile");
    check_players(&file);
    let gone = nvr.request("GET", &path(id, DAY), None);
    assert_eq!(gone.status, 404, "{}", gone.text());
}

/// Peak of the process.
fn rss_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("a known field");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}
