//! The page and the recordings in a real browser: headless Chromium.

mod rig;

use std::time::Duration;

use miniserde::json::Value;
use rig::clips;
use rig::gst_server::{Auth, GstServer, Mount, Sets};
use rig::json::{Look, quote};
use rig::nvr::{Nvr, PASSWORD};
use rig::temp_dir::TempDir;
use rig::wait;
use rig::webdriver::Browser;

/// A browser on a loaded machine.
const SHOWN_WITHIN: Duration = Duration::from_secs(30);
/// Long enough to seek in.
const SECONDS_MIN: f64 = 6.0;

/// Opens the page's list of recordings, logged in as the page's own form does it.
fn open_page(browser: &Browser, nvr: &Nvr) {
    browser.go(&format!("http://{}/#/recordings", nvr.addr));
    let body = format!(r#"{{"username":"admin","password":"{PASSWORD}"}}"#);
    browser.run(&format!(
        "return fetch('/api/v1/session', {{method: 'POST', body: {}, headers: {{'Content-Type': \
         'application/json', 'X-Requested-With': 'lightnvr'}}}}).then(() => location.reload())",
        quote(&body)
    ));
}

/// Waits until the page's text holds all `words`.
#[track_caller]
fn wait_for_text(browser: &Browser, words: &[&str]) {
    let mut shown = String::new();
    wait::until(&format!("the page shows {words:?}"), SHOWN_WITHIN, || {
        let text = browser.run("return document.body.innerText").text().to_owned();
        if text != shown {
            println!("the page shows:\n{text}");
            shown = text;
        }
        words.iter().all(|word| shown.contains(word)).then_some(())
    });
}

/// Plays a download in a `<video>` of its own, from the start and after a seek.
#[track_caller]
fn check_plays(browser: &Browser, id: u64, what: &str) {
    // In its own document: the page may not have styles and elements of a test's.
    let make = format!(
        "window.v?.remove(); window.v = document.createElement('video'); v.muted = true; \
         v.src = '/api/v1/recordings/{id}/download'; document.body.append(v); v.play().catch(() => {{}})"
    );
    browser.run(&make);
    let state = || {
        let state = browser.run(
            "return [v.currentTime, v.error ? v.error.message || 'error' : '', v.videoWidth, \
             v.getVideoPlaybackQuality().totalVideoFrames, v.seekable.length ? v.seekable.end(0) : 0]",
        );
        let items = state.items();
        assert_eq!(items[1].text(), "", "{what}: the browser's error");
        [0, 2, 3, 4].map(|n| items[n].number())
    };
    let reach = |time: f64| {
        wait::until(&format!("{what} plays past {time} s"), SHOWN_WITHIN, || {
            let [at, width, frames, end] = state();
            (at > time && width > 0.0 && frames > 0.0).then_some(end)
        })
    };
    let end = reach(1.0);
    assert!(end > SECONDS_MIN / 2.0, "{what}: can seek to {end} s");
    let to = end - 2.0;
    browser.run(&format!("v.currentTime = {to}"));
    reach(to + 0.2);
    browser.run("v.currentTime = 0");
    let back = |state: [f64; 4]| state[0] > 0.0 && state[0] < to;
    wait::until(&format!("{what} plays from its start again"), SHOWN_WITHIN, || {
        back(state()).then_some(())
    });
    let Value::Null = browser.run("v.pause(); v.removeAttribute('src'); v.load(); v.remove()")
    else {
        panic!("a script without return answers null");
    };
}

#[test]
fn the_page_lists_and_the_browser_plays_and_seeks_also_while_recording() {
    let home = TempDir::new("browser");
    let mounts = [
        Mount { path: "sound", clip: &clips::LONG, sets: Sets::Sdp },
        Mount { path: "g711", clip: &clips::H264_PCMA, sets: Sets::Both },
        Mount { path: "bframes", clip: &clips::H264_B, sets: Sets::Band },
    ];
    let server = GstServer::start(Auth::None, &mounts);
    let nvr = Nvr::start_with(home.path(), &["--demo"]);
    nvr.keep_files_long();
    for mount in &mounts {
        nvr.add_stream(&format!("Camera {}", mount.path), &server.url(mount.path));
    }
    let running = |id: u64| {
        wait::until(&format!("{SECONDS_MIN} s of stream {id} are listed"), SHOWN_WITHIN, || {
            let recordings = nvr.recordings(&format!("?stream_id={id}"));
            recordings.into_iter().find(|r| r.duration >= SECONDS_MIN)
        })
    };
    for id in 0..4 {
        running(id);
    }
    let browser = Browser::start(home.path());
    open_page(&browser, &nvr);
    wait_for_text(&browser, &["Camera sound", "Camera g711", "Camera bframes"]);
    let links = browser.run("return document.querySelectorAll('a[href$=\"/download\"]').length");
    assert!(links.integer() >= 4, "the page links {} recordings", links.integer());

    for id in 0..4 {
        let recording = running(id);
        let name = if recording.in_progress { "a running" } else { "a finished" };
        check_plays(&browser, recording.id, &format!("{name} recording of stream {id}"));
    }
    // The demo and the long clip don't end by themselves.
    for id in [0, 1] {
        let recording = running(id);
        assert!(recording.in_progress, "stream {id} was played while it was recorded");
        let path = format!("/api/v1/streams/{id}");
        nvr.json("PUT", &path, Some(r#"{"enabled":false}"#));
        let finished = nvr.wait_for_finished(id, SHOWN_WITHIN).remove(0);
        check_plays(&browser, finished.id, &format!("the finished recording of stream {id}"));
    }
}

#[test]
fn the_page_says_nothing_without_a_password() {
    let home = TempDir::new("browser_no_password");
    let nvr = Nvr::start_with(home.path(), &["--demo"]);
    let browser = Browser::start(home.path());
    browser.go(&format!("http://{}/", nvr.addr));
    let text = browser.run("return document.body.innerText");
    assert!(!text.text().contains("Demo"), "{}", text.text());
}
