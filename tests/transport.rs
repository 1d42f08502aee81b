//! Other transports than RTP over TCP, from other people's servers: UDP from GStreamer and VLC, which refuse
//! TCP; RTSPS from GStreamer.

mod rig;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rig::clips;
use rig::gst_server::{Auth, GstServer, Mount, Sets};
use rig::json::{Look, quote};
use rig::mp4;
use rig::nvr::Nvr;
use rig::process::{Process, run_silently};
use rig::temp_dir::TempDir;
use rig::wait;

const WITHIN: Duration = Duration::from_secs(40);

/// Adds a stream with this transport.
fn add(nvr: &Nvr, name: &str, url: &str, transport: &str) -> u64 {
    let body =
        format!(r#"{{"name":{},"url":{},"transport":"{transport}"}}"#, quote(name), quote(url));
    nvr.json("POST", "/api/v1/streams", Some(&body)).field("id").integer()
}

/// A fresh certificate with its key for 127.0.0.1; gives its SHA-256, too.
fn certificate(pem: &Path) -> String {
    let mut openssl = Command::new("openssl");
    openssl.args("req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2".split(' '));
    openssl.args(["-subj", "/CN=camera", "-addext", "subjectAltName=IP:127.0.0.1"]);
    let out = openssl.arg("-keyout").arg(pem).output().expect("openssl starts");
    assert!(out.status.success(), "{}", String::from_utf8_lossy(&out.stderr));
    let mut whole = fs::read(pem).expect("the key was written");
    whole.extend(out.stdout);
    fs::write(pem, whole).expect("the test's directory can be written");
    let mut openssl = Command::new("openssl");
    openssl.args(["x509", "-noout", "-fingerprint", "-sha256", "-in"]).arg(pem);
    let said = String::from_utf8(run_silently(&mut openssl)).expect("text");
    said.trim().rsplit('=').next().expect("a value").to_owned()
}

#[test]
fn rtsps_is_recorded_where_the_certificate_is_known() {
    let home = TempDir::new("transport_tls");
    let pem = home.path().join("camera.pem");
    let sha256 = certificate(&pem);
    let mount = Mount { path: "cam", clip: &clips::H264_AAC, sets: Sets::Sdp };
    let server = GstServer::start_with_tls(Auth::Digest, &[mount], &pem);
    let url = server.url_with_login("cam").replace("rtsp://", "rtsps://");
    let nvr = Nvr::start(home.path());
    nvr.keep_files_long();
    let add = |name: &str, pin: &str| {
        let body = format!(r#"{{"name":"{name}","url":"{url}","tls_fingerprint":{pin}}}"#);
        nvr.json("POST", "/api/v1/streams", Some(&body)).field("id").integer()
    };
    let right = add("right", &quote(&sha256));
    let wrong = add("wrong", &quote(&"00".repeat(32)));
    let unknown = add("unknown", "null");
    check_recorded(&nvr, right);
    let plain = sha256.replace(':', "").to_lowercase();
    assert_eq!(nvr.stream(right).field("tls_fingerprint").text(), plain);
    // A test takes the certificate as a stream does, and says which the camera has.
    let tested = |pin: &str| {
        let body = format!(r#"{{"url":"{url}","tls_fingerprint":{pin}}}"#);
        nvr.json("POST", "/api/v1/streams/test", Some(&body))
    };
    assert!(tested(&quote(&sha256)).field("ok").truth());
    for pin in [quote(&"00".repeat(32)), "null".to_owned()] {
        let answer = tested(&pin);
        assert!(!answer.field("ok").truth());
        assert!(
            answer.field("reason").text().contains(&plain),
            "{}",
            answer.field("reason").text()
        );
    }
    for id in [wrong, unknown] {
        let stream = nvr.wait_for_status(id, "error", WITHIN);
        let detail = stream.field("status_detail").text();
        assert!(detail.contains(&plain), "says which certificate it is: {detail}");
        assert!(nvr.recordings(&format!("?stream_id={id}")).is_empty());
    }
    // Nobody without TLS gets an answer from there, and nobody waits for ever.
    let body = format!(r#"{{"url":{},"tls_fingerprint":null}}"#, quote(&server.url("cam")));
    nvr.json("PUT", &format!("/api/v1/streams/{unknown}"), Some(&body));
    nvr.wait_for_status(unknown, "reconnecting", WITHIN);
    assert!(nvr.stop().success());
}

/// Waits for some seconds of recording, which must play.
#[track_caller]
fn check_recorded(nvr: &Nvr, id: u64) {
    nvr.wait_for_status(id, "connected", WITHIN);
    wait::until("some seconds are recorded", WITHIN, || {
        let recordings = nvr.recordings(&format!("?stream_id={id}"));
        recordings.first().filter(|r| r.duration >= 3.0).cloned()
    });
    let path = format!("/api/v1/streams/{id}");
    nvr.json("PUT", &path, Some(r#"{"enabled":false}"#));
    let recordings = nvr.wait_for_finished(id, WITHIN);
    assert_eq!(recordings.len(), 1);
    mp4::check_plays(&recordings[0].path);
    assert!(mp4::packets(&recordings[0].path, "v").len() > 30);
}

#[test]
fn gstreamer_without_tcp_is_recorded_over_udp() {
    let home = TempDir::new("transport_gst");
    let mount = Mount { path: "cam", clip: &clips::H264_AAC, sets: Sets::Sdp };
    let server = GstServer::start_over_udp(&[mount]);
    let nvr = Nvr::start(home.path());
    nvr.keep_files_long();
    let auto = add(&nvr, "auto", &server.url("cam"), "auto");
    let udp = add(&nvr, "udp", &server.url("cam"), "udp");
    let tcp = add(&nvr, "tcp", &server.url("cam"), "tcp");
    check_recorded(&nvr, auto);
    check_recorded(&nvr, udp);
    let refused = nvr.wait_for_status(tcp, "error", WITHIN);
    let detail = refused.field("status_detail").text();
    assert!(detail.contains("461") && detail.contains("udp"), "{detail}");
    for (transport, is_ok) in [("tcp", false), ("udp", true)] {
        let body = format!(r#"{{"url":"{}","transport":"{transport}"}}"#, server.url("cam"));
        let answer = nvr.json("POST", "/api/v1/streams/test", Some(&body));
        assert_eq!(answer.field("ok").truth(), is_ok, "a test over {transport}");
    }
    assert_eq!(nvr.stream(udp).field("transport").text(), "udp");
    assert!(nvr.stream(auto).field_if_any("transport").is_none());
    assert!(nvr.stop().success());
    let mount = Mount { path: "cam", clip: &clips::H264, sets: Sets::Sdp };
    // And one that has both, asked for UDP.
    let server = GstServer::start(Auth::Digest, &[mount]);
    let nvr = Nvr::start(home.path());
    let both = add(&nvr, "both", &server.url_with_login("cam"), "udp");
    check_recorded(&nvr, both);
    assert!(nvr.stop().success());
}

#[test]
fn vlc_which_answers_461_to_tcp_is_recorded() {
    let home = TempDir::new("transport_vlc");
    // VLC takes no port 0, and tells nobody which it took: ours is free a moment before.
    let port = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        listener.local_addr().expect("bound").port()
    };
    let mut vlc = Command::new("cvlc");
    vlc.args(["-I", "dummy", "--loop", "-q"]);
    vlc.arg(clips::H264.file()).arg(format!("--sout=#rtp{{sdp=rtsp://127.0.0.1:{port}/cam}}"));
    vlc.args(["--sout-keep"]);
    if rustix::process::geteuid().is_root() {
        vlc = as_nobody(&vlc);
    }
    let mut vlc = Process::start("vlc", &mut vlc);
    wait::until("VLC listens", WITHIN, || {
        assert!(vlc.is_running(), "VLC ended: {}", vlc.stderr().join("\n"));
        std::net::TcpStream::connect(("127.0.0.1", port)).ok()
    });
    let nvr = Nvr::start(home.path());
    nvr.keep_files_long();
    let id = nvr.add_stream("vlc", &format!("rtsp://127.0.0.1:{port}/cam"));
    check_recorded(&nvr, id);
    assert!(nvr.stop().success());
}

/// The same command by a user without rights: VLC refuses to run as root.
fn as_nobody(command: &Command) -> Command {
    let mut setpriv = Command::new("setpriv");
    setpriv.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--pdeathsig=KILL"]);
    setpriv.arg(command.get_program()).args(command.get_args());
    setpriv.env("HOME", "/tmp");
    setpriv
}
