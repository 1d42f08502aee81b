//! RTP over UDP from other people's servers: GStreamer and VLC, which refuse TCP.

mod rig;

use std::process::Command;
use std::time::Duration;

use rig::clips;
use rig::gst_server::{Auth, GstServer, Mount, Sets};
use rig::json::{Look, quote};
use rig::mp4;
use rig::nvr::Nvr;
use rig::process::Process;
use rig::temp_dir::TempDir;
use rig::wait;

const WITHIN: Duration = Duration::from_secs(40);

/// Adds a stream with this transport.
fn add(nvr: &Nvr, name: &str, url: &str, transport: &str) -> u64 {
    let body =
        format!(r#"{{"name":{},"url":{},"transport":"{transport}"}}"#, quote(name), quote(url));
    nvr.json("POST", "/api/v1/streams", Some(&body)).field("id").integer()
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
    setpriv.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    setpriv.arg(command.get_program()).args(command.get_args());
    setpriv.env("HOME", "/tmp");
    setpriv
}
