//! MJPEG and snapshots of the real program, read by ffmpeg and by hand.

mod rig;

use std::collections::HashSet;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use base64::prelude::{BASE64_STANDARD, Engine};
use lightnvr::ingest::pattern_core::{Code, read_code};

use rig::clips;
use rig::gst_server::{Auth, GstServer, Mount, Sets};
use rig::json::Look;
use rig::mjpeg::{Part, Watcher};
use rig::nvr::{Nvr, PASSWORD};
use rig::process::run_silently;
use rig::temp_dir::TempDir;
use rig::wait;

const SOON: Duration = Duration::from_secs(20);
/// A picture is at most a keyframe interval of the test pattern old (2 s), and the debug build on a loaded
/// machine takes its time.
const AGE_MS_MAX: i64 = 6000;
/// Viewers that stand still, of two streams: one stream takes 16.
const STALLED: usize = 20;
/// What they may cost: a picture each, what the kernel holds is not ours, and two decoders.
const STALLED_KIB_MAX: u64 = 48 << 10;

fn login() -> String {
    format!("Basic {}", BASE64_STANDARD.encode(format!("admin:{PASSWORD}")))
}

/// Adds a test pattern of 640x360 that is not recorded, and waits for its first picture.
fn add_pattern(nvr: &Nvr, name: &str) -> u64 {
    let body = format!(
        r#"{{"name":"{name}","url":"testpattern://","record":false,"width":640,"height":360,"fps":15}}"#
    );
    let stream = nvr.json("POST", "/api/v1/streams", Some(&body));
    let id = stream.field("id").integer();
    nvr.wait_for_status(id, "connected", SOON);
    id
}

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    i64::try_from(now.as_millis()).expect("before the end of time")
}

/// The code in each of the pictures, which are gray and of this size.
#[track_caller]
fn codes(gray: &[u8], width: usize, height: usize) -> Vec<Code> {
    assert_eq!(gray.len() % (width * height), 0);
    let read = |luma| read_code(luma, width, height, width).expect("a code in each picture");
    gray.chunks_exact(width * height).map(read).collect()
}

/// Decodes one picture with ffmpeg; its size and code.
#[track_caller]
fn look_at(jpeg: &[u8], home: &Path) -> (usize, usize, Code) {
    let file = home.join("picture.jpg");
    fs::write(&file, jpeg).expect("the test's directory can be written");
    let probe = "-v error -show_entries stream=codec_name,width,height -of csv=p=0";
    let size = run_silently(Command::new("ffprobe").args(probe.split(' ')).arg(&file));
    let size = String::from_utf8(size).expect("numbers");
    let mut size = size.trim().split(',');
    assert_eq!(size.next(), Some("mjpeg"));
    let [width, height] = [0; 2].map(|_| size.next().unwrap().parse().expect("a number"));
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-v", "error", "-nostdin", "-i"]).arg(&file);
    let gray = run_silently(ffmpeg.args("-pix_fmt gray -f rawvideo -".split(' ')));
    (width, height, codes(&gray, width, height)[0])
}

#[track_caller]
fn check_recent(unix_ms: i64) {
    let age_ms = now_ms() - unix_ms;
    assert!((0..AGE_MS_MAX).contains(&age_ms), "the picture is {age_ms} ms old");
}

fn debugging(home: &TempDir) -> Nvr {
    Nvr::start_with(home.path(), &["--log-level", "debug"])
}

/// How often the log says this.
fn said(nvr: &Nvr, words: &str) -> usize {
    nvr.process.stderr().iter().filter(|line| line.contains(words)).count()
}

#[track_caller]
fn wait_for_words(nvr: &Nvr, words: &str, times: usize) {
    wait::until(words, SOON, || (said(nvr, words) >= times).then_some(()));
}

#[test]
fn ffmpeg_plays_the_mjpeg() {
    let home = TempDir::new("pictures_ffmpeg");
    let nvr = Nvr::start(home.path());
    let id = add_pattern(&nvr, "pattern");
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-v", "error", "-nostdin", "-f", "mpjpeg", "-headers"]);
    ffmpeg.arg(format!("Authorization: {}\r\n", login()));
    ffmpeg.arg("-i").arg(format!("http://{}/api/v1/streaming/{id}/mjpeg?width=320", nvr.addr));
    ffmpeg.args("-frames:v 12 -fps_mode passthrough -pix_fmt gray -f rawvideo -".split(' '));
    let gray = run_silently(&mut ffmpeg);
    let codes = codes(&gray, 320, 180);
    assert_eq!(codes.len(), 12);
    assert!(codes.is_sorted_by(|a, b| a.frame < b.frame), "{codes:?}");
    check_recent(codes[11].unix_ms);
}

#[test]
fn viewers_share_a_decoder_that_stops_after_the_last() {
    let home = TempDir::new("pictures_shared");
    let nvr = debugging(&home);
    let id = add_pattern(&nvr, "pattern");
    let mjpeg = format!("/api/v1/streaming/{id}/mjpeg");
    let mut all = Watcher::start(nvr.addr, &nvr.login(), &mjpeg);
    let mut few = Watcher::start(nvr.addr, &nvr.login(), &format!("{mjpeg}?fps=5&width=160"));
    let parts: Vec<Part> = (0..8).map(|_| few.part()).collect();
    for part in &parts {
        let (width, height, code) = look_at(&part.jpeg, home.path());
        assert_eq!((width, height), (160, 90));
        assert!((part.at_ms - code.unix_ms).abs() < 500, "{} and {code:?}", part.at_ms);
    }
    let took_ms = parts[7].at_ms - parts[1].at_ms;
    assert!(took_ms >= 5 * 200, "7 pictures at 5 per second are not {took_ms} ms apart");
    let mut last_ms = 0;
    for _ in 0..8 {
        let part = all.part();
        assert!(part.at_ms > last_ms, "pictures are in order");
        last_ms = part.at_ms;
    }
    let (width, height, _) = look_at(&all.part().jpeg, home.path());
    assert_eq!((width, height), (640, 360));
    drop(few);
    all.part();
    assert_eq!((said(&nvr, "decoder started"), said(&nvr, "decoder stopped")), (1, 0));
    drop(all);
    wait_for_words(&nvr, "decoder stopped", 1);
    // And the next one starts it again.
    Watcher::start(nvr.addr, &nvr.login(), &mjpeg).part();
    wait_for_words(&nvr, "decoder stopped", 2);
    assert_eq!(said(&nvr, "decoder started"), 2);
    assert!(nvr.stop().success());
}

#[test]
fn a_snapshot_is_recent_and_has_the_width_that_was_asked_for() {
    let home = TempDir::new("pictures_snapshot");
    let nvr = Nvr::start(home.path());
    let id = add_pattern(&nvr, "pattern");
    let route = format!("/api/v1/streaming/{id}/snapshot.jpg");
    let get = |query: &str| {
        let response = nvr.request("GET", &format!("{route}{query}"), None);
        assert_eq!(response.status, 200, "{query}: {}", String::from_utf8_lossy(&response.body));
        assert_eq!(response.header("content-type"), Some("image/jpeg"));
        assert_eq!(response.header("cache-control"), Some("no-store"));
        response.body
    };
    for (query, want) in [("", (640, 360)), ("?width=320", (320, 180)), ("?width=8192", (640, 360))]
    {
        let (width, height, code) = look_at(&get(query), home.path());
        assert_eq!((width, height), want, "{query}");
        check_recent(code.unix_ms);
    }
    let (first, second) = (get("?width=200"), get("?width=200"));
    assert!(first == second || look_at(&first, home.path()) != look_at(&second, home.path()));
    for target in [route.clone(), format!("/api/v1/streaming/{id}/mjpeg")] {
        let head = nvr.request("HEAD", &target, None);
        assert_eq!((head.status, head.body.len()), (200, 0), "{target}");
    }
    assert!(nvr.stop().success());
}

#[test]
fn what_cannot_be_shown_says_why() {
    let home = TempDir::new("pictures_refused");
    let mount = Mount { path: "h265", clip: &clips::H265, sets: Sets::Both };
    let server = GstServer::start(Auth::None, &[mount]);
    let nvr = Nvr::start(home.path());
    let h265 = nvr.add_stream("h265", &server.url("h265"));
    let absent = nvr.add_stream("absent", &server.url("nothing-here"));
    nvr.wait_for_status(h265, "connected", SOON);
    nvr.wait_for_status(absent, "error", SOON);
    for file in ["mjpeg", "snapshot.jpg"] {
        let target = |id: u64| format!("/api/v1/streaming/{id}/{file}");
        // The keyframe may come after the first packet.
        let response = wait::until("an answer about the codec", SOON, || {
            let response = nvr.request("GET", &target(h265), None);
            (response.status != 503).then_some(response)
        });
        assert_eq!(response.status, 501, "{}", response.text());
        assert!(response.text().contains("H.265") && response.text().contains("HLS"));
        assert_eq!(nvr.request("HEAD", &target(h265), None).status, 501);
        let response = nvr.request("GET", &target(absent), None);
        assert_eq!(response.status, 503, "{}", response.text());
        assert!(response.text().contains("no picture") && response.header("retry-after").is_some());
        assert_eq!(nvr.request("GET", &target(99), None).status, 404);
        assert_eq!(nvr.request("POST", &target(h265), Some("{}")).status, 405);
        for (query, words) in [
            ("width=15", ["width", "15", "8192"]),
            ("width=8193", ["16", "8193", "8192"]),
            ("width=wide", ["width", "wide", "8192"]),
            ("size=7", ["size", "unknown", "width"]),
        ] {
            let response = nvr.request("GET", &format!("{}?{query}", target(h265)), None);
            assert_eq!(response.status, 400, "{query}: {}", response.text());
            for word in words {
                assert!(response.text().contains(word), "{query}: {}", response.text());
            }
        }
        let without = rig::http::request(nvr.addr, "GET", &target(h265), &[], None);
        assert_eq!(without.expect("an answer").status, 401);
        let without = rig::http::request(nvr.addr, "HEAD", &target(absent), &[], None);
        assert_eq!(without.expect("an answer").status, 401);
    }
    let response = nvr.request("GET", &format!("/api/v1/streaming/{h265}/mjpeg?fps=31"), None);
    assert_eq!(response.status, 400);
    assert!(response.text().contains("fps") && response.text().contains("30"));
    assert!(nvr.stop().success());
}

/// The entropy-coded data of a JPEG: what RTP carries, while the tables in front are written anew.
#[track_caller]
fn scan(jpeg: &[u8]) -> Vec<u8> {
    let start = jpeg.windows(2).position(|two| two == [0xff, 0xda]).expect("a scan");
    let head = usize::from(u16::from_be_bytes([jpeg[start + 2], jpeg[start + 3]]));
    let data = &jpeg[start + 2 + head..];
    data.strip_suffix(&[0xff, 0xd9]).expect("an end").to_vec()
}

#[test]
fn a_cameras_own_jpegs_are_passed_on_as_they_are_and_made_smaller() {
    let home = TempDir::new("pictures_camera");
    let mount = Mount { path: "mjpeg", clip: &clips::MJPEG, sets: Sets::Both };
    let server = GstServer::start(Auth::None, &[mount]);
    let nvr = Nvr::start(home.path());
    let id = nvr.add_stream("mjpeg", &server.url("mjpeg"));
    nvr.wait_for_status(id, "connected", SOON);
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-v", "error", "-nostdin", "-i"]).arg(clips::MJPEG.file());
    let frames = home.path().join("%d.jpg");
    run_silently(ffmpeg.args("-c copy -f image2".split(' ')).arg(&frames));
    let sent: HashSet<Vec<u8>> = (1..=24 * 15)
        .map(|n| scan(&fs::read(home.path().join(format!("{n}.jpg"))).expect("a frame")))
        .collect();
    let mut watcher =
        Watcher::start(nvr.addr, &nvr.login(), &format!("/api/v1/streaming/{id}/mjpeg"));
    for n in 0..20 {
        assert!(sent.contains(&scan(&watcher.part().jpeg)), "picture {n}");
    }
    let snapshot = |query: &str| {
        let target = format!("/api/v1/streaming/{id}/snapshot.jpg{query}");
        let response = nvr.request("GET", &target, None);
        assert_eq!(response.status, 200, "{target}");
        response.body
    };
    assert!(sent.contains(&scan(&snapshot(""))));
    let mut small =
        Watcher::start(nvr.addr, &nvr.login(), &format!("/api/v1/streaming/{id}/mjpeg?width=100"));
    for jpeg in [snapshot("?width=100"), small.part().jpeg, small.part().jpeg] {
        let file = home.path().join("small.jpg");
        fs::write(&file, jpeg).expect("the test's directory can be written");
        let probe = "-v error -show_entries stream=width,height -of csv=p=0";
        let size = run_silently(Command::new("ffprobe").args(probe.split(' ')).arg(&file));
        assert_eq!(String::from_utf8_lossy(&size).trim(), "100,56");
    }
    assert!(nvr.stop().success());
}

#[test]
fn viewers_that_stand_still_cost_frames_and_no_memory() {
    let home = TempDir::new("pictures_stalled");
    let nvr = debugging(&home);
    let ids = [add_pattern(&nvr, "one"), add_pattern(&nvr, "two")];
    let target = |id: u64| format!("/api/v1/streaming/{id}/mjpeg");
    let mut reader = Watcher::start(nvr.addr, &nvr.login(), &target(ids[0]));
    reader.part();
    let before_kib = nvr.rss_kib();
    let stalled: Vec<Watcher> =
        (0..STALLED).map(|n| Watcher::start(nvr.addr, &nvr.login(), &target(ids[n % 2]))).collect();
    // Two keyframe intervals and more, in which each of them would have been sent 80 pictures.
    for _ in 0..40 {
        reader.part();
    }
    let cost_kib = nvr.rss_kib().saturating_sub(before_kib);
    assert!(cost_kib < STALLED_KIB_MAX, "{STALLED} viewers cost {cost_kib} KiB");
    drop(stalled);
    // Those of the other stream are noticed as gone when they are sent something.
    wait_for_words(&nvr, "decoder stopped", 1);
    reader.part();
    assert!(nvr.stop().success());
}
