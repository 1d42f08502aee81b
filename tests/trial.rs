//! `POST /api/v1/streams/test`: what a camera sends, or why nothing comes, before a stream is made of it.

mod rig;

use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::process::Command;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine};
use miniserde::json::Value;
use rig::clips;
use rig::fake_camera::{self, FakeCamera, Manner};
use rig::gst_server::{Auth, GstServer, Mount, Sets};
use rig::json::{Look, quote};
use rig::nvr::{Nvr, PASSWORD};
use rig::process::run_silently;
use rig::temp_dir::TempDir;
use rig::wait;

const PATH: &str = "/api/v1/streams/test";
const SOON: Duration = Duration::from_secs(20);

#[track_caller]
fn look_at(nvr: &Nvr, url: &str, more: &str) -> Value {
    let body = format!(r#"{{"url":{}{more}}}"#, quote(url));
    nvr.json("POST", PATH, Some(&body))
}

/// The test failed: reason and advice.
#[track_caller]
fn check_fails(nvr: &Nvr, url: &str, reason: &str, advice: &str) {
    let answer = look_at(nvr, url, "");
    assert!(!answer.field("ok").truth(), "{url}");
    let said = (answer.field("reason").text(), answer.field("advice").text());
    assert!(said.0.contains(reason) && said.1.contains(advice), "{url}: {said:?}");
    assert!(!said.0.contains("secret") && !said.1.contains("secret"), "{said:?}");
}

/// Width and height of the picture, as ffprobe sees them.
#[track_caller]
fn picture_size(answer: &Value, home: &TempDir) -> String {
    let jpeg = BASE64_STANDARD.decode(answer.field("picture").text()).expect("base64");
    let file = home.path().join("picture.jpg");
    std::fs::write(&file, jpeg).expect("the test's directory can be written");
    let probe = "-v error -show_entries stream=codec_name,width,height -of csv=p=0";
    let said = run_silently(Command::new("ffprobe").args(probe.split(' ')).arg(&file));
    String::from_utf8(said).expect("text").trim().to_owned()
}

#[test]
fn the_test_pattern_is_described_with_a_small_picture() {
    let home = TempDir::new("trial_pattern");
    let nvr = Nvr::start(home.path());
    let answer = look_at(&nvr, "testpattern://", r#","width":960,"height":544,"fps":12"#);
    assert!(answer.field("ok").truth());
    assert_eq!(answer.field("codec").text(), "h264");
    assert_eq!((answer.field("width").integer(), answer.field("height").integer()), (960, 544));
    assert!((answer.field("fps").number() - 12.0).abs() < 1.0, "{:?}", answer.field("fps"));
    assert!(answer.field("keyframe_interval_seconds").number() > 0.0);
    assert!(answer.field("bitrate_kbps").integer() > 0);
    assert!(matches!(answer.field("audio"), Value::Null));
    assert_eq!(picture_size(&answer, &home), "mjpeg,640,363");
    let streams = nvr.json("GET", "/api/v1/streams", None);
    assert!(streams.field("streams").items().is_empty(), "a test is no stream");
}

#[test]
fn a_local_camera_that_is_not_there_is_said_and_no_other_file_is_opened() {
    const NONE: &str = "no camera is plugged in as /dev/video255";
    let home = TempDir::new("trial_local");
    let nvr = Nvr::start(home.path());
    let devices = nvr.json("GET", "/api/v1/devices", None);
    let has_any = std::path::Path::new("/dev/video0").exists();
    assert_eq!(devices.field("devices").items().is_empty(), !has_any);
    check_fails(&nvr, "v4l2:///dev/video255", NONE, "GET /api/v1/devices");
    let id = nvr.add_stream("local", "v4l2:///dev/video255");
    let stream = nvr.wait_for_status(id, "reconnecting", SOON);
    assert_eq!(stream.field("status_detail").text(), NONE);
    for (body, words) in [
        (r#"{"url":"v4l2:///dev/null"}"#, "url: must name a camera"),
        (r#"{"url":"v4l2:///dev/video0/../null"}"#, "url: must name a camera"),
        (r#"{"url":"v4l2:///dev/video0","codec":"h265"}"#, "codec: must be h264 or mjpeg"),
        (r#"{"url":"testpattern://","sub_url":"v4l2:///dev/video0"}"#, "sub_url: must begin with"),
    ] {
        let refused = nvr.request("POST", PATH, Some(body));
        assert_eq!(refused.status, 400, "{body}");
        assert!(refused.text().contains(words), "{}", refused.text());
    }
}

#[test]
fn a_camera_with_a_password_and_a_stream_that_runs() {
    let mount = Mount { path: "cam", clip: &clips::LONG, sets: Sets::Both };
    let h265 = Mount { path: "h265", clip: &clips::H265, sets: Sets::Both };
    let vp8 = Mount { path: "vp8", clip: &clips::VP8, sets: Sets::Both };
    let server = GstServer::start(Auth::Digest, &[mount, h265, vp8]);
    let home = TempDir::new("trial_camera");
    let nvr = Nvr::start(home.path());
    let url = server.url_with_login("cam");
    let answer = look_at(&nvr, &url, "");
    assert!(answer.field("ok").truth());
    assert_eq!(answer.field("audio").text(), "aac");
    assert!((answer.field("fps").number() - 15.0).abs() < 0.5);
    let interval = answer.field("keyframe_interval_seconds").number();
    assert!((interval - 20.0 / 15.0).abs() < 0.1, "{interval}");
    assert_eq!(picture_size(&answer, &home), "mjpeg,640,360");

    check_fails(&nvr, &server.url("cam"), "asks for a user name", "rtsp://user:password@");
    let wrong = server.url("cam").replace("rtsp://", "rtsp://viewer:secret@");
    check_fails(&nvr, &wrong, "refused the user name or password", "%40");
    check_fails(&nvr, &server.url_with_login("nothing"), "no such path", "path");
    check_fails(&nvr, &server.url_with_login("vp8"), "video codec VP8", "H.264");
    let answer = look_at(&nvr, &server.url_with_login("h265"), "");
    assert_eq!(answer.field("codec").text(), "h265");
    assert!(matches!(answer.field("picture"), Value::Null), "H.265 is not decoded here");

    let id = nvr.add_stream("cam", &url);
    wait::until("the stream knows its rates", SOON, || {
        let stream = nvr.stream(id);
        let actual = stream.field("actual");
        let is_known = matches!(actual, Value::Object(_)) && actual.field("bitrate").integer() > 0;
        is_known.then_some(())
    });
    let plays = server.plays("cam");
    // As the page's form of this stream has it: with the password hidden.
    let shown = nvr.stream(id).field("url").text().to_owned();
    assert!(shown.contains("***"));
    let answer = look_at(&nvr, &shown, &format!(r#","id":{id}"#));
    assert!(answer.field("ok").truth());
    assert_eq!(answer.field("codec").text(), "h264");
    assert_eq!(picture_size(&answer, &home), "mjpeg,640,360");
    assert_eq!(server.plays("cam"), plays, "the camera saw no second session");
}

#[test]
fn what_goes_wrong_is_said_in_words() {
    let home = TempDir::new("trial_wrong");
    let nvr = Nvr::start(home.path());
    check_fails(&nvr, "rtsp://127.0.0.1:9/x", "connection refused", "554");
    check_fails(&nvr, "rtsp://admin:secret@no-such-host.invalid/x", "name not found", "spelling");
    let web = TcpListener::bind("127.0.0.1:0").expect("a port");
    let web_url = format!("rtsp://{}/", web.local_addr().expect("bound"));
    let serve = std::thread::Builder::new().spawn(move || {
        let (mut stream, _) = web.accept().expect("the test connects");
        let _ = stream.write_all(b"HTTP/1.0 400 Bad Request\r\nServer: web\r\n\r\n<html>");
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    });
    check_fails(&nvr, &web_url, "not RTSP", "web page");
    serve.expect("a thread").join().expect("it served");
    let busy = FakeCamera::start(|_, peer| {
        while let Some(request) = peer.request() {
            let status = if request.method == "SETUP" { 453 } else { 200 };
            let (fields, body) = match request.method.as_str() {
                "DESCRIBE" => ("Content-Type: application/sdp\r\n", fake_camera::SDP),
                _ => ("", ""),
            };
            peer.answer(&request, status, fields, body);
        }
    });
    check_fails(&nvr, &busy.url(), "for now (453)", "one or two viewers");

    for (body, part) in [
        (r#"{"name":"x"}"#, "url: is required"),
        (r#"{"url":"http://x"}"#, "url: "),
        (r#"{"url":"rtsp://a:***@b/"}"#, "***"),
        (r#"{"url":"testpattern://","id":7}"#, "id: no stream has this id"),
        (r#"{"url":"testpattern://","colour":"red"}"#, "colour: unknown field"),
        (r#"{"url":"testpattern://","fps":1000}"#, "fps: must be"),
    ] {
        let answer = nvr.request("POST", PATH, Some(body));
        assert_eq!(answer.status, 400, "{body}: {}", answer.text());
        assert!(answer.text().contains(part), "{body}: {}", answer.text());
    }
}

#[test]
fn one_test_at_a_time_and_who_leaves_ends_it() {
    let home = TempDir::new("trial_turn");
    let nvr = Nvr::start(home.path());
    let (asked, is_asked) = std::sync::mpsc::channel();
    let (gone, is_gone) = std::sync::mpsc::channel();
    let silent = FakeCamera::playing(Manner::default(), move |peer| {
        asked.send(()).expect("the test waits");
        while peer.request().is_some() {}
        gone.send(()).expect("the test waits");
    });
    let login = BASE64_STANDARD.encode(format!("admin:{PASSWORD}"));
    let body = format!(r#"{{"url":"{}"}}"#, silent.url());
    let mut first = TcpStream::connect(nvr.addr).expect("it listens");
    let head = format!(
        "POST {PATH} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Basic {login}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    first.write_all(head.as_bytes()).expect("sent");
    is_asked.recv_timeout(SOON).expect("the camera is asked");
    let second = nvr.request("POST", PATH, Some(r#"{"url":"testpattern://"}"#));
    assert_eq!((second.status, second.header("retry-after")), (503, Some("5")));
    drop(first);
    is_gone.recv_timeout(SOON).expect("the camera is left alone");
    wait::until("the turn is free", SOON, || {
        let answer = nvr.request("POST", PATH, Some(r#"{"url":"rtsp://127.0.0.1:9/"}"#));
        (answer.status == 200).then_some(())
    });
}
