//! The sub-stream: fetched only while somebody looks, on every way of watching, and of no harm to what is recorded.

mod rig;

use std::process::Command;
use std::time::Duration;

use rig::clips;
use rig::gst_server::{self, Auth, GstServer, Mount, Sets};
use rig::http::Response;
use rig::json::{self, Look, quote};
use rig::mjpeg::Watcher;
use rig::nvr::Nvr;
use rig::process::run_silently;
use rig::temp_dir::TempDir;
use rig::wait;
use rig::ws::{self, Message};

const CONNECTED_WITHIN: Duration = Duration::from_secs(20);
/// It is left open for 10 s.
const CLOSED_WITHIN: Duration = Duration::from_secs(25);

/// The big feed is one that no picture can be made of, so that each way shows which it is.
fn server() -> GstServer {
    let mounts = [
        Mount { path: "main", clip: &clips::LONG_H265, sets: Sets::Both },
        Mount { path: "sub", clip: &clips::LONG, sets: Sets::Both },
    ];
    GstServer::start(Auth::Digest, &mounts)
}

#[track_caller]
fn add(nvr: &Nvr, url: &str, sub_url: &str) {
    let (url, sub_url) = (quote(url), quote(sub_url));
    let body = format!(r#"{{"name":"Tor","url":{url},"sub_url":{sub_url}}}"#);
    nvr.keep_files_long();
    nvr.json("POST", "/api/v1/streams", Some(&body));
    nvr.wait_for_status(0, "connected", CONNECTED_WITHIN);
}

#[track_caller]
fn get(nvr: &Nvr, file: &str) -> Response {
    let answer = nvr.request("GET", &format!("/api/v1/streaming/0/{file}"), None);
    assert_eq!(answer.status, 200, "{file}: {}", String::from_utf8_lossy(&answer.body));
    answer
}

/// What a socket says first.
#[track_caller]
fn described(nvr: &Nvr, query: &str) -> miniserde::json::Value {
    let path = format!("/api/v1/streaming/0/live{query}");
    let mut socket = ws::open(nvr.addr, &path, &[("Authorization", &nvr.login())])
        .unwrap_or_else(|status| panic!("{path}: {status}"));
    let Message::Text(text) = socket.next() else { panic!("no description") };
    json::parse(&text)
}

/// No answer about the stream holds the camera's password, and the log neither.
#[track_caller]
fn check_secret(nvr: &Nvr) {
    let answer = nvr.request("GET", "/api/v1/streams/0", None);
    let mut said = nvr.process.stderr();
    said.push(answer.text().to_owned());
    for text in said {
        for secret in [gst_server::PASSWORD, gst_server::PASSWORD_IN_URL] {
            assert!(!text.contains(secret), "{text}");
        }
    }
}

#[test]
fn a_sub_stream_is_fetched_while_somebody_looks_and_then_closed() {
    let home = TempDir::new("live_sub");
    let server = server();
    let nvr = Nvr::start_with(home.path(), &["--log-level", "debug"]);
    add(&nvr, &server.url_with_login("main"), &server.url_with_login("sub"));
    let stream = nvr.stream(0);
    let masked = server.url_with_login("sub").replace(gst_server::PASSWORD_IN_URL, "***");
    assert_eq!(stream.field("sub_url").text(), masked);
    // Both are seen, but the main stream by HLS and WebSocket.
    assert_eq!(described(&nvr, "").field("quality").text(), "main");
    assert_eq!([server.plays("main"), server.plays("sub")], [1, 0], "nobody has asked for it yet");

    let snapshot = get(&nvr, "snapshot.jpg");
    assert_eq!(snapshot.header("x-quality"), Some("sub"));
    assert_eq!(get(&nvr, "snapshot.jpg?width=100").header("x-quality"), Some("sub"));
    let not_decoded = "/api/v1/streaming/0/snapshot.jpg?quality=main";
    assert_eq!(nvr.request("GET", not_decoded, None).status, 501, "that is H.265");
    let mut watcher = Watcher::start(nvr.addr, &nvr.login(), "/api/v1/streaming/0/mjpeg?width=160");
    assert!(watcher.fields.iter().any(|field| field == "X-Quality: sub"), "{:?}", watcher.fields);
    let last = (0..10).map(|_| watcher.part().at_ms).max();
    assert!(last.is_some_and(|last| last > 0));
    let (main, sub) = (described(&nvr, "?quality=main"), described(&nvr, "?quality=sub"));
    assert!(main.field("codecs").text().starts_with("hvc1."), "{}", main.field("codecs").text());
    assert!(sub.field("codecs").text().starts_with("avc1."), "{}", sub.field("codecs").text());
    assert_eq!(sub.field("quality").text(), "sub");
    assert_eq!([server.plays("main"), server.plays("sub")], [1, 1], "one session serves all");
    assert_eq!(server.teardowns("sub"), 0);

    drop(watcher);
    wait::until("the sub-stream is closed", CLOSED_WITHIN, || {
        (server.teardowns("sub") == 1).then_some(())
    });
    assert_eq!([server.plays("main"), server.plays("sub")], [1, 1]);
    // And opened again for the next one.
    assert_eq!(get(&nvr, "snapshot.jpg").header("x-quality"), Some("sub"));
    assert_eq!([server.plays("main"), server.plays("sub")], [1, 2]);
    check_secret(&nvr);
    nvr.json("PUT", "/api/v1/streams/0", Some(r#"{"enabled":false}"#));
    let recordings = nvr.wait_for_finished(0, CONNECTED_WITHIN);
    assert_eq!(recordings.len(), 1, "recording did not notice any of it");
    assert!(nvr.stop().success());
}

#[test]
fn hls_of_a_sub_stream_is_its_own_playlist() {
    let home = TempDir::new("live_sub_hls");
    let server = server();
    let nvr = Nvr::start(home.path());
    add(&nvr, &server.url_with_login("main"), &server.url_with_login("sub"));
    let answer = get(&nvr, "hls/playlist.m3u8?quality=sub");
    assert_eq!(answer.header("x-quality"), Some("sub"));
    let names: Vec<&str> = answer
        .text()
        .lines()
        .filter_map(|line| match line.split_once("URI=\"") {
            Some((_, rest)) => rest.split('"').next(),
            None => Some(line).filter(|line| !line.starts_with('#')),
        })
        .collect();
    assert!(names.len() >= 3, "{}", answer.text());
    assert!(names.iter().all(|name| name.ends_with("?quality=sub")), "{}", answer.text());
    for name in names {
        assert_eq!(get(&nvr, &format!("hls/{name}")).header("x-quality"), Some("sub"), "{name}");
    }
    let master = get(&nvr, "hls/master.m3u8?quality=sub");
    assert!(master.text().contains("avc1.") && master.text().contains("playlist.m3u8?quality=sub"));
    assert!(get(&nvr, "hls/master.m3u8").text().contains("hvc1."));
    let url = format!("http://{}/api/v1/streaming/0/hls/master.m3u8?quality=sub", nvr.addr);
    let mut ffprobe = Command::new("timeout");
    ffprobe.args(["60", "ffprobe", "-v", "error", "-headers"]);
    ffprobe.arg(format!("Authorization: {}\r\n", nvr.login()));
    ffprobe.args("-select_streams v -show_entries stream=codec_name -of csv=p=0".split(' '));
    let codec = String::from_utf8(run_silently(ffprobe.arg(&url))).expect("text");
    assert!(codec.starts_with("h264"), "{codec}");
    assert_eq!([server.plays("main"), server.plays("sub")], [1, 1]);
    for (query, words) in [("quality=low", "main or sub"), ("quality=sub&quality=sub", "twice")] {
        for file in ["hls/playlist.m3u8", "live", "mjpeg", "snapshot.jpg"] {
            let target = format!("/api/v1/streaming/0/{file}?{query}");
            let answer = nvr.request("GET", &target, None);
            assert_eq!(answer.status, 400, "{target}");
            assert!(answer.text().contains(words), "{target}: {}", answer.text());
        }
    }
}

#[test]
fn without_its_sub_stream_the_main_one_is_shown_and_recorded() {
    let home = TempDir::new("live_sub_fails");
    let mounts = [
        Mount { path: "main", clip: &clips::LONG, sets: Sets::Both },
        Mount { path: "sub", clip: &clips::LONG, sets: Sets::Both },
    ];
    let server = GstServer::start(Auth::Digest, &mounts);
    let nvr = Nvr::start_with(home.path(), &["--log-level", "debug"]);
    add(&nvr, &server.url_with_login("main"), &server.url_with_login("not-there"));
    assert!(nvr.stream(0).field("advice").items().is_empty(), "nobody has asked for it yet");
    for file in ["snapshot.jpg", "hls/playlist.m3u8?quality=sub", "hls/master.m3u8?quality=sub"] {
        assert_eq!(get(&nvr, file).header("x-quality"), Some("main"), "{file}");
    }
    let list = get(&nvr, "hls/playlist.m3u8?quality=sub");
    assert!(!list.text().contains("quality"), "pieces are the main stream's: {}", list.text());
    assert_eq!(described(&nvr, "?quality=sub").field("quality").text(), "main");
    let mut watcher = Watcher::start(nvr.addr, &nvr.login(), "/api/v1/streaming/0/mjpeg");
    watcher.part();
    let advice = wait::until("the owner is told", CONNECTED_WITHIN, || {
        let stream = nvr.stream(0);
        assert_eq!(stream.field("status").text(), "connected");
        assert_eq!(stream.field("status_detail").text(), "");
        stream.field("advice").items().first().map(|words| words.text().to_owned())
    });
    assert!(advice.starts_with("sub-stream: ") && advice.contains("main stream"), "{advice}");
    check_secret(&nvr);

    // Mended, with the password that is known already.
    let masked = server.url_with_login("sub").replace(gst_server::PASSWORD_IN_URL, "***");
    nvr.json("PUT", "/api/v1/streams/0", Some(&format!(r#"{{"sub_url":{}}}"#, quote(&masked))));
    assert_eq!(get(&nvr, "snapshot.jpg").header("x-quality"), Some("sub"));
    wait::until("the advice is gone", CONNECTED_WITHIN, || {
        nvr.stream(0).field("advice").items().is_empty().then_some(())
    });
    watcher.part();
    nvr.json("PUT", "/api/v1/streams/0", Some(r#"{"sub_url":null}"#));
    assert!(nvr.stream(0).field_if_any("sub_url").is_none());
    assert_eq!(get(&nvr, "snapshot.jpg").header("x-quality"), Some("main"));
    assert_eq!([server.plays("main"), server.plays("sub")], [1, 1]);
    nvr.json("PUT", "/api/v1/streams/0", Some(r#"{"enabled":false}"#));
    assert_eq!(nvr.wait_for_finished(0, CONNECTED_WITHIN).len(), 1, "one file without a break");
    assert!(nvr.stop().success());
}
