//! Headless Firefox through Marionette, the protocol that it speaks itself: JSON with a length in front, over TCP.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use miniserde::json::{Array, Number, Value};

use super::json::{self, Look, quote};
use super::process::Process;
use super::wait;

/// Firefox's first start on a cold disk.
const START_WITHIN: Duration = Duration::from_secs(90);
/// Nothing that a test asks for takes longer.
const ANSWER_WITHIN: Duration = Duration::from_secs(60);
/// Any free port; JSON as plain text, so that its page is the recorder's; play without a click; ask nothing of the
/// internet.
const PREFERENCES: &str = r#"
user_pref("marionette.port", 0);
user_pref("devtools.jsonview.enabled", false);
user_pref("media.autoplay.default", 0);
user_pref("app.update.enabled", false);
user_pref("browser.shell.checkDefaultBrowser", false);
user_pref("datareporting.policy.dataSubmissionEnabled", false);
user_pref("media.gmp-manager.updateEnabled", false);
user_pref("network.captive-portal-service.enabled", false);
user_pref("network.connectivity-service.enabled", false);
user_pref("services.settings.server", "data:,");
"#;

/// A browser with one window. Dropping it kills it.
pub struct Firefox {
    _process: Process,
    reader: BufReader<TcpStream>,
    asked: u64,
}

impl Firefox {
    /// Starts a browser whose profile is in `home`.
    #[track_caller]
    pub fn start(home: &Path) -> Self {
        let profile = home.join("firefox");
        fs::create_dir(&profile).expect("the test's directory can be written");
        fs::write(profile.join("user.js"), PREFERENCES).expect("it is new");
        let mut command = Command::new("firefox-esr");
        command.args(["--headless", "--marionette", "--no-remote", "--profile"]).arg(&profile);
        let process = Process::start("firefox-esr", command.env("HOME", home));
        let port = wait::until("port of Firefox", START_WITHIN, || {
            fs::read_to_string(profile.join("MarionetteActivePort")).ok()?.trim().parse().ok()
        });
        let stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
        stream.set_read_timeout(Some(ANSWER_WITHIN)).expect("not zero");
        let mut firefox = Self { _process: process, reader: BufReader::new(stream), asked: 0 };
        firefox.read(); // who it is
        firefox.call("WebDriver:NewSession", "{}");
        firefox
    }

    /// Opens `url` and waits until it is loaded.
    #[track_caller]
    pub fn go(&mut self, url: &str) {
        self.call("WebDriver:Navigate", &format!(r#"{{"url":{}}}"#, quote(url)));
    }

    /// Runs `script` as the body of a function in the page and gives what it returns.
    #[track_caller]
    pub fn run(&mut self, script: &str) -> Value {
        let body = format!(r#"{{"script":{},"args":[]}}"#, quote(script));
        let Value::Object(mut object) = self.call("WebDriver:ExecuteScript", &body) else {
            panic!("Firefox answers an object");
        };
        object.remove("value").expect("answers are wrapped in value")
    }

    #[track_caller]
    fn call(&mut self, name: &str, arguments: &str) -> Value {
        self.asked += 1;
        let message = format!("[0,{},{},{arguments}]", self.asked, quote(name));
        let message = format!("{}:{message}", message.len());
        self.reader.get_ref().write_all(message.as_bytes()).expect("Firefox listens");
        let Value::Array(answer) = json::parse(&self.read()) else { panic!("{name}: no array") };
        let [kind, id, error, result] = <[Value; 4]>::try_from(Vec::from_iter(items(answer)))
            .unwrap_or_else(|_| panic!("{name}: four items"));
        assert!(matches!(kind, Value::Number(Number::U64(1))), "{name}: an answer");
        assert_eq!(id.integer(), self.asked);
        assert!(matches!(error, Value::Null), "{name}: {error:?}");
        result
    }

    fn read(&mut self) -> String {
        let mut length = Vec::new();
        self.reader.read_until(b':', &mut length).expect("Firefox answers");
        let length = std::str::from_utf8(&length).ok().and_then(|text| text.strip_suffix(':'));
        let length = length.and_then(|text| text.parse().ok()).expect("a length");
        let mut text = vec![0; length];
        self.reader.read_exact(&mut text).expect("Firefox answers");
        String::from_utf8(text).expect("UTF-8")
    }
}

fn items(mut array: Array) -> impl Iterator<Item = Value> {
    std::mem::take(&mut *array).into_iter()
}
