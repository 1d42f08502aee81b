//! Fragmented MP4 over WebSocket: the first picture, the distance from live, the rules.

mod rig;

use std::fs;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lightnvr::ingest::pattern_core::read_code;
use rig::clips;
use rig::gst_server::{Auth, GstServer, Mount, Sets};
use rig::json::{self, Look};
use rig::mp4;
use rig::nvr::Nvr;
use rig::process::run_silently;
use rig::temp_dir::TempDir;
use rig::wait;
use rig::ws::{self, Message, Socket};

const CONNECTED_WITHIN: Duration = Duration::from_secs(20);
/// The size that the test pattern has unless another is asked for.
const WIDTH: usize = 1280;
const HEIGHT: usize = 720;
/// Two groups of pictures of the test pattern: what is sent at once is over by then.
const FRAMES_AT_ONCE: usize = 31;
const FRAMES: usize = 90;
/// A viewer's bound on a loaded machine and in a build without optimization; the printed figures tell
/// more.
const LATENCY_MS_MAX: i64 = 500;
/// More than the kernel holds of a connection, and longer than a viewer may be behind.
const UNREAD_BYTES: usize = 2 << 20;
const UNREAD_FOR: Duration = Duration::from_secs(2);
/// A second of it, sound apart.
const SKIPPED_MIN: u64 = 15;
const FIRST_PICTURE_MAX: Duration = Duration::from_millis(1500);

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(since.as_millis()).expect("before the year 292277026")
}

#[track_caller]
fn watch(nvr: &Nvr, stream: u64) -> Socket {
    let path = format!("/api/v1/streaming/{stream}/live");
    let opened = ws::open(nvr.addr, &path, &[("Authorization", &nvr.login())]);
    opened.unwrap_or_else(|status| panic!("{path}: {status}"))
}

/// What a stream begins with: its description and the initialization section.
#[track_caller]
fn read_start(socket: &mut Socket) -> (miniserde::json::Value, Vec<u8>) {
    loop {
        match socket.next() {
            Message::Text(text) if text.contains("skipped") => {}
            Message::Text(text) => {
                let Message::Binary(init) = socket.next() else { panic!("no section") };
                assert_eq!(&init[4..8], b"ftyp");
                return (json::parse(&text), init);
            }
            Message::Binary(_) => {} // the rest of the format before
            other => panic!("{other:?} in place of a description"),
        }
    }
}

#[track_caller]
fn next_fragment(socket: &mut Socket) -> Vec<u8> {
    loop {
        match socket.next() {
            Message::Binary(fragment) => {
                assert_eq!(&fragment[4..8], b"moof");
                return fragment;
            }
            Message::Ping(_) => {}
            other => panic!("{other:?} in place of a fragment"),
        }
    }
}

fn percentile(sorted: &[i64], percent: usize) -> i64 {
    sorted[(sorted.len() - 1) * percent / 100]
}

#[test]
fn the_first_picture_comes_at_once_and_the_others_when_they_are_new() {
    let home = TempDir::new("live_ws_latency");
    let nvr = Nvr::start_with(home.path(), &["--demo"]);
    nvr.wait_for_status(0, "connected", CONNECTED_WITHIN);
    wait::pause(Duration::from_secs(3)); // a group of pictures is there
    let asked = Instant::now();
    let mut socket = watch(&nvr, 0);
    let (said, mut file) = read_start(&mut socket);
    assert!(said.field("codecs").text().starts_with("avc1."), "{}", said.field("codecs").text());
    assert_eq!([said.field("width").integer(), said.field("height").integer()], [1280, 720]);
    let mut arrivals = Vec::new();
    let mut first_picture = None;
    while arrivals.len() < FRAMES {
        file.extend(next_fragment(&mut socket));
        first_picture.get_or_insert(asked.elapsed());
        arrivals.push(now_ms());
    }
    let path = home.path().join("live.mp4");
    fs::write(&path, file).expect("the test's directory can be written");
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-v", "error", "-nostdin", "-i"]).arg(&path);
    ffmpeg.args(["-fps_mode", "passthrough", "-f", "rawvideo", "-pix_fmt", "gray", "-"]);
    let luma = run_silently(&mut ffmpeg);
    let pictures: Vec<&[u8]> = luma.chunks_exact(WIDTH * HEIGHT).collect();
    assert_eq!(pictures.len(), FRAMES, "every fragment is a picture");
    let mut frames = Vec::new();
    let mut latencies = Vec::new();
    for (picture, arrived) in pictures.iter().zip(&arrivals) {
        let code = read_code(picture, WIDTH, HEIGHT, WIDTH).expect("the picture has its code");
        frames.push(code.frame);
        latencies.push(arrived - code.unix_ms);
    }
    assert!(frames.windows(2).all(|pair| pair[0] < pair[1]), "in order: {frames:?}");
    let mut sorted = latencies.split_off(FRAMES_AT_ONCE);
    sorted.sort_unstable();
    let first_picture = first_picture.expect("there was one");
    let (p50, p95) = (percentile(&sorted, 50), percentile(&sorted, 95));
    println!(
        "WebSocket: first picture after {first_picture:?}, behind live p50 {p50} ms, p95 {p95} ms"
    );
    assert!(first_picture < FIRST_PICTURE_MAX && p50 < LATENCY_MS_MAX);
}

#[test]
fn another_format_is_told_and_a_deleted_stream_closes() {
    let home = TempDir::new("live_ws_format");
    let nvr = Nvr::start_with(home.path(), &["--demo"]);
    nvr.wait_for_status(0, "connected", CONNECTED_WITHIN);
    let mut socket = watch(&nvr, 0);
    let (_, first) = read_start(&mut socket);
    next_fragment(&mut socket);
    nvr.json("PUT", "/api/v1/streams/0", Some(r#"{"width":640,"height":360}"#));
    // A hole in the pattern, such as a loaded machine makes, begins anew in the old size.
    let (said, second) = std::iter::repeat_with(|| read_start(&mut socket))
        .take(8)
        .find(|(said, _)| said.field("width").integer() != 1280)
        .expect("the new size is told");
    assert_eq!([said.field("width").integer(), said.field("height").integer()], [640, 360]);
    assert_ne!(first, second);
    let path = home.path().join("live.mp4");
    let fragments: Vec<Vec<u8>> = (0..20).map(|_| next_fragment(&mut socket)).collect();
    fs::write(&path, [second, fragments.concat()].concat()).expect("can be written");
    mp4::check_plays(&path);
    nvr.json("DELETE", "/api/v1/streams/0", None);
    let ended = std::iter::repeat_with(|| socket.next());
    let close = ended.into_iter().find(|message| !matches!(message, Message::Binary(_)));
    assert_eq!(close, Some(Message::Close(1001)));
    assert_eq!(socket.next(), Message::End);
}

#[test]
fn who_falls_behind_goes_on_at_a_keyframe_and_is_told() {
    let home = TempDir::new("live_ws_behind");
    // 4 Mbit/s: what the kernel holds for a socket is soon full.
    let mounts = [Mount { path: "fast", clip: &clips::LONG_FAST, sets: Sets::Both }];
    let server = GstServer::start(Auth::None, &mounts);
    let nvr = Nvr::start(home.path());
    let id = nvr.add_stream("fast", &server.url("fast"));
    nvr.wait_for_status(id, "connected", CONNECTED_WITHIN);
    let mut slow = watch(&nvr, id);
    read_start(&mut slow);
    next_fragment(&mut slow);
    // One who reads sees how much the other one leaves lying, and that it is more than a second later then.
    let mut quick = watch(&nvr, id);
    read_start(&mut quick);
    let (mut bytes, began) = (0, Instant::now());
    while bytes < UNREAD_BYTES || began.elapsed() < UNREAD_FOR {
        match quick.next() {
            Message::Binary(fragment) => bytes += fragment.len(),
            Message::Ping(_) => {}
            other => panic!("{other:?}: who reads is not behind"),
        }
    }
    // It reads again: what was under way, then how much is left out, which may happen once more while it catches up.
    let (mut skipped, mut in_order) = (0, 0);
    while skipped == 0 || in_order < FRAMES_AT_ONCE {
        match slow.next() {
            Message::Text(text) => {
                skipped += json::parse(&text).field("skipped").integer();
                assert!(is_key(&next_fragment(&mut slow)), "it goes on at a keyframe");
                in_order = 0;
            }
            Message::Binary(_) => in_order += 1,
            Message::Ping(_) => {}
            other => panic!("{other:?} in place of a fragment"),
        }
    }
    println!("{skipped} packets skipped while {bytes} bytes were sent to the other one");
    assert!(skipped > SKIPPED_MIN);
}

/// Whether the first sample of a fragment is a sync sample: the flags of its run (ISO/IEC 14496-12 section 8.8.8), where
/// sample_is_non_sync_sample is bit 16.
fn is_key(fragment: &[u8]) -> bool {
    let at = |name: &[u8]| fragment.windows(4).position(|four| four == name).expect("a box") + 4;
    let word = |at: usize| u32::from_be_bytes(fragment[at..at + 4].try_into().expect("four bytes"));
    let run = at(b"trun");
    let flags = word(run);
    // Count, data offset, first-sample flags or the sample's duration, size and flags.
    let mut field = run + 8 + if flags & 1 != 0 { 4 } else { 0 };
    if flags & 4 != 0 {
        return word(field) & (1 << 16) == 0;
    }
    field += [0x100, 0x200].iter().filter(|bit| flags & **bit != 0).count() * 4;
    if flags & 0x400 != 0 {
        return word(field) & (1 << 16) == 0;
    }
    // The default of the track fragment: the last field of its header.
    assert!(word(at(b"tfhd")) & 0x20 != 0, "a sample has flags");
    let header = at(b"tfhd") - 8;
    word(header + word(header) as usize - 4) & (1 << 16) == 0
}

#[test]
fn who_may_watch_and_what_a_client_may_send() {
    let home = TempDir::new("live_ws_rules");
    let nvr = Nvr::start_with(home.path(), &["--demo"]);
    nvr.wait_for_status(0, "connected", CONNECTED_WITHIN);
    let (login, own) = (nvr.login(), format!("http://{}", nvr.addr));
    let path = "/api/v1/streaming/0/live";
    let refused = |path: &str, headers: &[(&str, &str)]| ws::open(nvr.addr, path, headers).err();
    let authorization = ("Authorization", login.as_str());
    assert_eq!(refused(path, &[]), Some(401));
    assert_eq!(refused(path, &[authorization, ("Origin", "http://evil.example")]), Some(403));
    assert_eq!(refused(path, &[authorization, ("Origin", "null")]), Some(403));
    assert_eq!(refused("/api/v1/streaming/7/live", &[authorization]), Some(404));
    assert_eq!(refused(path, &[authorization, ("Origin", &own)]), None);
    assert_eq!(nvr.request("GET", path, None).status, 426);
    assert_eq!(nvr.request("POST", path, None).status, 405);

    let reply_to = |send: &dyn Fn(&mut Socket)| {
        let mut socket = watch(&nvr, 0);
        read_start(&mut socket);
        send(&mut socket);
        loop {
            match socket.next() {
                Message::Binary(_) | Message::Text(_) => {}
                other => return other,
            }
        }
    };
    assert_eq!(reply_to(&|s| s.send(0x89, b"there?")), Message::Pong(b"there?".to_vec()));
    assert_eq!(reply_to(&|s| s.send(0x88, &1000_u16.to_be_bytes())), Message::Close(1000));
    assert_eq!(reply_to(&|s| s.send(0x82, &[0; 126])), Message::Close(1009));
    assert_eq!(reply_to(&|s| (0..20).for_each(|_| s.send(0x81, b"x"))), Message::Close(1008));

    nvr.set(r#"{"max_viewers":2}"#);
    let places = wait::until("the viewers before have gone", CONNECTED_WITHIN, || {
        let open = || ws::open(nvr.addr, path, &[authorization]).ok();
        Some([open()?, open()?])
    });
    assert_eq!(refused(path, &[authorization]), Some(503));
    for file in ["hls/playlist.m3u8", "mjpeg"] {
        let answer = nvr.request("GET", &format!("/api/v1/streaming/0/{file}"), None);
        assert_eq!((answer.status, answer.header("retry-after")), (503, Some("5")), "{file}");
    }
    // A snapshot is over as soon as it is there: it takes no place.
    let wanted = nvr.request("GET", "/api/v1/streaming/0/snapshot.jpg", None);
    assert_eq!(wanted.status, 200);
    drop(places);
}
