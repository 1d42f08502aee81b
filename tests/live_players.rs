//! Live view in people's players: VLC, Firefox and Chromium. The others are in `live_hls` and `live_pictures`.

mod rig;

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use miniserde::json::Value;
use rig::clips;
use rig::firefox::Firefox;
use rig::gst_server::{Auth, GstServer, Mount, Sets};
use rig::json::Look;
use rig::nvr::{Nvr, PASSWORD};
use rig::process::run_silently;
use rig::temp_dir::TempDir;
use rig::wait;
use rig::webdriver::Browser;

const CONNECTED_WITHIN: Duration = Duration::from_secs(20);
const PLAYED_WITHIN: Duration = Duration::from_secs(60);
/// What VLC is given to play, and what has to come of it.
const VLC_SECONDS: &str = "10";
const VLC_FRAMES_MIN: usize = 60;
/// `nobody`: VLC does not run as root.
const NOBODY: &str = "65534";

/// Watches over WebSocket and MediaSource, as the page does: fragments wait for the one before.
const WATCH: &str = r"
    const state = window.state = { error: '', codecs: '' };
    const v = window.v = document.createElement('video');
    v.muted = true;
    document.body.append(v);
    const source = new MediaSource(), queue = [];
    let buffer;
    v.src = URL.createObjectURL(source);
    v.onerror = () => { state.error = v.error.message || 'error'; };
    const feed = () => {
        if (buffer && !buffer.updating && queue.length) buffer.appendBuffer(queue.shift());
    };
    source.onsourceopen = () => {
        const base = location.origin.replace('http', 'ws');
        const socket = new WebSocket(base + '/api/v1/streaming/0/live');
        socket.binaryType = 'arraybuffer';
        socket.onmessage = ({ data }) => {
            if (typeof data !== 'string') { queue.push(data); return feed(); }
            const { codecs } = JSON.parse(data);
            if (!codecs) return;
            state.codecs = codecs;
            buffer = source.addSourceBuffer('video/mp4; codecs=' + JSON.stringify(codecs));
            buffer.onupdateend = () => {
                if (v.buffered.length && v.currentTime < v.buffered.start(0)) {
                    v.currentTime = v.buffered.start(0);
                }
                v.play().catch(() => {});
                feed();
            };
        };
        socket.onclose = () => { state.error ||= 'closed'; };
    };
";

/// Error, codecs, time of the picture, its width, frames that were shown.
const STATE: &str = r"
    return [state.error, state.codecs, v.currentTime, v.videoWidth,
            v.getVideoPlaybackQuality().totalVideoFrames];
";

fn start(home: &Path, clip: &'static clips::Clip) -> (GstServer, Nvr) {
    let server = GstServer::start(Auth::None, &[Mount { path: "cam", clip, sets: Sets::Both }]);
    let nvr = Nvr::start(home);
    let id = nvr.add_stream("cam", &server.url("cam"));
    nvr.wait_for_status(id, "connected", CONNECTED_WITHIN);
    (server, nvr)
}

/// Waits until 5 s have been played.
#[track_caller]
fn check_plays(what: &str, codec: &str, mut state: impl FnMut() -> Value) {
    let mut from = None;
    let frames = wait::until(&format!("{what} plays for 5 s"), PLAYED_WITHIN, || {
        let state = state();
        let items = state.items();
        assert_eq!(items[0].text(), "", "{what}");
        let [time, width, frames] = [2, 3, 4].map(|n| items[n].number());
        // Live does not begin at 0: what counts begins with the first picture.
        if frames > 0.0 {
            from.get_or_insert(time);
        }
        let is_played = from.is_some_and(|from| time - from > 5.0);
        is_played.then(|| assert!(items[1].text().starts_with(codec) && width == 640.0));
        is_played.then_some(frames)
    });
    println!("{what}: {frames} frames of {codec}");
    assert!(frames > 60.0, "{what}: {frames} frames");
}

#[test]
fn firefox_plays_h265_over_websocket() {
    let home = TempDir::new("live_firefox");
    let (_server, nvr) = start(home.path(), &clips::LONG_H265);
    nvr.set(r#"{"web_auth_enabled":false}"#);
    let mut firefox = Firefox::start(home.path());
    firefox.go(&format!("http://{}/api/v1/system", nvr.addr));
    firefox.run(WATCH);
    check_plays("Firefox", "hvc1.", || firefox.run(STATE));
}

#[test]
fn chromium_plays_sound_and_picture_over_websocket_and_shows_mjpeg() {
    let home = TempDir::new("live_chromium");
    let (_server, nvr) = start(home.path(), &clips::H264_PCMA);
    let browser = Browser::start(home.path());
    browser.go(&format!("http://admin:{PASSWORD}@{}/api/v1/system", nvr.addr));
    browser.run(WATCH);
    check_plays("Chromium", "avc1.", || browser.run(STATE));
    assert!(browser.run(STATE).items()[1].text().ends_with(",flac"), "G.711 is heard as FLAC");
    let stream = nvr.stream(0);
    let actual = stream.field("actual");
    assert_eq!(actual.field("audio").text(), "pcma");
    assert!(actual.field("audio_note").text().contains("FLAC"));
    // An <img> whose picture changes: each look takes the sum of what is shown.
    browser.run(
        "const i = window.i = document.createElement('img'); \
         i.src = '/api/v1/streaming/0/mjpeg?width=320'; document.body.append(i)",
    );
    let mut shown = Vec::new();
    wait::until("ten pictures of MJPEG", PLAYED_WITHIN, || {
        let state = browser.run(
            "if (!i.naturalWidth) return [0, 0]; \
             const c = document.createElement('canvas'); c.width = 320; c.height = 180; \
             const d = c.getContext('2d'); d.drawImage(i, 0, 0); let sum = 0; \
             for (const x of d.getImageData(0, 0, 320, 180).data) sum = (sum * 31 + x) % 1000003; \
             return [i.naturalWidth, sum]",
        );
        let [width, sum] = [0, 1].map(|n| state.items()[n].number());
        if width > 0.0 && shown.last() != Some(&sum) {
            assert_eq!(width, 320.0);
            shown.push(sum);
        }
        (shown.len() >= 10).then_some(())
    });
}

#[test]
fn vlc_plays_hls() {
    let home = TempDir::new("live_vlc");
    let (_server, nvr) = start(home.path(), &clips::LONG);
    // VLC does not hand a login on to what it fetches.
    nvr.set(r#"{"web_auth_enabled":false}"#);
    let mut vlc = Command::new("timeout");
    vlc.args(["-k", "1", "60"]);
    if rustix::process::geteuid().is_root() {
        vlc.args(["setpriv", "--reuid", NOBODY, "--regid", NOBODY, "--clear-groups"]);
    }
    vlc.args(["cvlc", "-I", "dummy", "--no-plugins-cache", "--play-and-exit"]);
    vlc.args(["--run-time", VLC_SECONDS]);
    vlc.arg(format!("http://{}/api/v1/streaming/0/hls/playlist.m3u8", nvr.addr));
    vlc.args(["--sout", "#std{access=file,mux=ts,dst=-}", "vlc://quit"]);
    let passed_on = vlc.env("HOME", "/nonexistent").current_dir("/").output();
    let passed_on = passed_on.expect("VLC starts");
    assert!(passed_on.status.success(), "{}", String::from_utf8_lossy(&passed_on.stderr));
    let out = home.path().join("out.ts");
    fs::write(&out, passed_on.stdout).expect("the test's directory can be written");
    let mut ffprobe = Command::new("ffprobe");
    ffprobe.args("-v error -count_packets -of csv=p=0 -show_entries".split(' '));
    let listed = run_silently(ffprobe.arg("stream=codec_name,nb_read_packets").arg(&out));
    let listed = String::from_utf8(listed).expect("text");
    println!("VLC passed on: {listed}");
    let packets = |codec: &str| -> usize {
        let line = listed.lines().find(|line| line.starts_with(codec)).expect(codec);
        line.split(',').nth(1).and_then(|count| count.parse().ok()).expect("a count")
    };
    assert!(packets("h264") > VLC_FRAMES_MIN && packets("aac") > VLC_FRAMES_MIN, "{listed}");
}
