//! Headless Chromium through chromedriver's WebDriver protocol: JSON over HTTP on loopback.

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use miniserde::json::Value;

use super::http;
use super::json::{self, Look, quote};
use super::process::Process;

/// Chromium's first start on a cold disk.
const START_WITHIN: Duration = Duration::from_secs(60);

/// A browser with one window. Dropping it kills it.
pub struct Browser {
    _driver: Process,
    addr: SocketAddr,
    session: String,
}

impl Browser {
    /// Starts chromedriver and a browser whose profile is in `home`.
    #[track_caller]
    pub fn start(home: &Path) -> Self {
        let mut command = Command::new("chromedriver");
        // A home of its own: nothing of the user's profile is read or written.
        command.arg("--port=0").env("HOME", home);
        let mut driver = Process::start("chromedriver", &mut command);
        let port: u16 = driver.wait_for_line("port of chromedriver", START_WITHIN, |line| {
            line.split_once("successfully on port ")?.1.trim_end_matches('.').parse().ok()
        });
        let mut browser = Self {
            _driver: driver,
            addr: SocketAddr::from(([127, 0, 0, 1], port)),
            session: String::new(),
        };
        let profile = format!("--user-data-dir={}", home.join("profile").display());
        // Root needs no-sandbox; the rest keeps the browser from asking anything of the internet.
        let flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--disable-quic",
            "--mute-audio",
            "--autoplay-policy=no-user-gesture-required",
            &profile,
        ];
        let flags: Vec<String> = flags.iter().map(|flag| quote(flag)).collect();
        let wanted = format!(
            r#"{{"capabilities":{{"alwaysMatch":{{"goog:chromeOptions":{{"args":[{}]}}}}}}}}"#,
            flags.join(",")
        );
        let session = browser.call("POST", "/session", &wanted);
        browser.session = session.field("sessionId").text().to_owned();
        browser
    }

    /// Opens `url` and waits until it is loaded.
    #[track_caller]
    pub fn go(&self, url: &str) {
        let path = format!("/session/{}/url", self.session);
        self.call("POST", &path, &format!(r#"{{"url":{}}}"#, quote(url)));
    }

    /// Runs `script` as the body of a function in the page and gives what it returns.
    #[track_caller]
    pub fn run(&self, script: &str) -> Value {
        let path = format!("/session/{}/execute/sync", self.session);
        self.call("POST", &path, &format!(r#"{{"script":{},"args":[]}}"#, quote(script)))
    }

    #[track_caller]
    fn call(&self, method: &str, path: &str, body: &str) -> Value {
        let headers = [("Content-Type", "application/json")];
        let answer = http::request(self.addr, method, path, &headers, Some(body.as_bytes()));
        let answer = answer.unwrap_or_else(|e| panic!("chromedriver {method} {path}: {e}"));
        assert_eq!(answer.status, 200, "chromedriver {method} {path}: {}", answer.text());
        let Value::Object(mut object) = json::parse(answer.text()) else {
            panic!("chromedriver answers an object");
        };
        object.remove("value").expect("WebDriver answers are wrapped in value")
    }
}
