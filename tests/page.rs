//! The web page: what a new owner does with it, for everybody (axe, Lighthouse), and how large it is.
//!
//! The scripts in `tests/page/` drive Debian's Chromium; each starts its own recorder.

mod rig;

use std::process::Command;
use std::time::Duration;

use lightnvr::api::page::{ASSETS, Asset};
use miniserde::json::Value;
use rig::firefox::Firefox;
use rig::json::quote;
use rig::nvr::{Nvr, PASSWORD};
use rig::process::Process;
use rig::temp_dir::TempDir;
use rig::{nvr, rows, target_dir, test_file, wait};

/// All of a script, on a loaded machine.
const SCRIPT_WITHIN: Duration = Duration::from_secs(240);
/// A part of a page, in a browser on a loaded machine.
const SHOWN_WITHIN: Duration = Duration::from_secs(60);
/// Rows of the list of recordings: fifty pages.
const RECORDINGS: u64 = 5000;
/// HTML, CSS and scripts that a browser loads before it shows something, as gzip.
const FIRST_LOAD_BYTES_MAX: usize = 45_000;
/// All there is, as gzip.
const ALL_BYTES_MAX: usize = 170_000;

/// Runs `tests/page/NAME` with node and shows what it says.
#[track_caller]
fn run_script(name: &str) {
    run_script_in(&TempDir::new(&name.replace('.', "_")), name);
}

/// The same, on what is in `home` already.
#[track_caller]
fn run_script_in(home: &TempDir, name: &str) {
    let modules = target_dir().join("npm/node_modules");
    assert!(modules.is_dir(), "no {}: ./build.sh test installs it", modules.display());
    let mut command = Command::new("node");
    command.arg(test_file("page").join(name)).arg(home.path());
    command.env("HOME", home.path()).env("LIGHTNVR_BIN", nvr::binary());
    command.env("LIGHTNVR_NODE_MODULES", modules);
    let mut node = Process::start("node", &mut command);
    let status = node.wait_for_exit(SCRIPT_WITHIN);
    node.stdout().iter().for_each(|line| println!("{line}"));
    assert!(status.success(), "{name}: {}", node.stderr().join("\n"));
}

fn gzip(asset: &Asset) -> &'static [u8] {
    asset.gzip.unwrap_or_else(|| panic!("{} is not compressed: run ./build.sh build", asset.path))
}

#[test]
fn the_first_hour_of_a_new_owner() {
    run_script("first_hour.mjs");
}

#[test]
fn axe_finds_nothing_and_a_narrow_window_is_enough() {
    run_script("axe.mjs");
}

#[test]
fn lighthouse_finds_little() {
    run_script("lighthouse.mjs");
}

#[test]
fn thousands_of_recordings_a_pinch_and_forced_colours() {
    let home = TempDir::new("page_many");
    rows::fill(home.path(), RECORDINGS);
    run_script_in(&home, "many.mjs");
}

/// What Debian's Firefox shows of the first pages: Playwright does not drive it.
#[test]
fn firefox_logs_in_and_shows_the_pages() {
    let home = TempDir::new("page_firefox");
    let nvr = Nvr::start_with(home.path(), &["--demo"]);
    nvr.wait_for_status(0, "connected", SHOWN_WITHIN);
    let mut firefox = Firefox::start(home.path());
    firefox.go(&format!("http://{}/", nvr.addr));
    let mut shows = |what: &str, script: &str| {
        wait::until(&format!("Firefox shows {what}"), SHOWN_WITHIN, || {
            matches!(firefox.run(script), Value::Bool(true)).then_some(())
        });
    };
    let log_in = format!(
        "const field = document.querySelector('input[type=password]'); if (!field) return false; \
         field.value = {}; field.dispatchEvent(new Event('input', {{ bubbles: true }})); \
         const button = document.querySelector('button[type=submit]'); \
         setTimeout(() => button.click(), 100); return true;",
        quote(PASSWORD)
    );
    shows("the login", &log_in);
    shows(
        "a moving picture",
        "const v = document.querySelector('.tile video'); \
         return Boolean(v) && v.currentTime > 0 && v.getVideoPlaybackQuality().totalVideoFrames > 20;",
    );
    for (page, shown) in [
        ("timeline?stream=0", ".bar canvas"),
        ("recordings", "tbody tr"),
        ("streams", ".card.stream .facts"),
        ("streams/0", "#field-url"),
        ("system", ".uplot canvas"),
    ] {
        let script = format!(
            "if (location.hash !== '#/{page}') location.hash = '#/{page}'; \
             return Boolean(document.querySelector('{shown}')) && !document.querySelector('.problem') && \
             document.documentElement.scrollWidth <= innerWidth;"
        );
        shows(page, &script);
    }
}

#[test]
fn the_page_is_light() {
    let page = ASSETS.iter().find(|asset| asset.path == "/").expect("a page");
    let text = std::str::from_utf8(page.body).expect("UTF-8");
    let is_first = |asset: &&Asset| asset.path == "/" || text.contains(asset.path);
    let first: usize = ASSETS.iter().filter(is_first).map(|asset| gzip(asset).len()).sum();
    let all: usize = ASSETS.iter().map(|asset| gzip(asset).len()).sum();
    println!("first load {first} bytes, everything {all} bytes");
    assert!(ASSETS.len() > 3, "the page is not built: run ./build.sh build");
    assert!(first <= FIRST_LOAD_BYTES_MAX, "the first load has {first} bytes");
    assert!(all <= ALL_BYTES_MAX, "everything has {all} bytes");
}

#[test]
fn the_page_loads_nothing_from_elsewhere_and_one_file_alone_calls_fetch() {
    for asset in ASSETS.iter().filter(|asset| asset.path.ends_with(".css")) {
        let text = String::from_utf8_lossy(asset.body);
        assert!(!text.contains("//") && !text.contains("@import"), "{}", asset.path);
    }
    let sources = glob_sources();
    assert!(sources.len() > 20, "the sources of the page were found");
    for (name, text) in sources {
        assert_eq!(text.contains("fetch("), name == "api.js", "{name}");
        assert!(!text.contains("innerHTML") && !text.contains("https://"), "{name}");
    }
}

/// Name and text of every script below `web/src`.
fn glob_sources() -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut dirs = vec![test_file("../web/src")];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir).expect("web/src can be read") {
            let path = entry.expect("web/src can be read").path();
            if path.is_dir() {
                dirs.push(path);
            } else if path.extension().is_some_and(|end| end == "js" || end == "jsx") {
                let name = path.file_name().expect("a name").to_string_lossy().into_owned();
                found.push((name, std::fs::read_to_string(&path).expect("UTF-8")));
            }
        }
    }
    found
}
