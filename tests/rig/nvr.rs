//! The program itself, as a child process on a data directory of the test's own.

use std::fs;
use std::net::SocketAddr;
use std::ops::{Deref, DerefMut};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::{Duration, SystemTime};

use base64::prelude::{BASE64_STANDARD, Engine};
use miniserde::json::Value;
use rustix::process::Signal;

use super::fake_clock::FakeClock;
use super::http::{self, Response};
use super::json::{self, Look, quote};
use super::process::Process;
use super::{target_dir, wait};

/// The password of every program that a test starts without saying otherwise.
pub const PASSWORD: &str = "correct-horse-battery";

/// From start to the ready line, with argon2 and recovery on a loaded machine.
pub const READY_WITHIN: Duration = Duration::from_secs(20);

/// The promise for SIGTERM and SIGINT.
pub const STOP_WITHIN: Duration = Duration::from_secs(3);

/// The release binary, or what `LIGHTNVR_BIN` names.
pub fn binary() -> PathBuf {
    let default = || target_dir().join("release/lightnvr");
    let binary = std::env::var_os("LIGHTNVR_BIN").map_or_else(default, PathBuf::from);
    assert!(binary.is_file(), "no {}: run ./build.sh build first", binary.display());
    binary
}

/// A running recorder. Dropping it kills it.
pub struct Nvr {
    pub process: Process,
    api: Api,
}

/// The API of a recorder, wherever it runs.
pub struct Api {
    pub addr: SocketAddr,
    /// `user:password` of the requests that it is sent.
    login: String,
}

impl Deref for Nvr {
    type Target = Api;

    fn deref(&self) -> &Api {
        &self.api
    }
}

impl DerefMut for Nvr {
    fn deref_mut(&mut self) -> &mut Api {
        &mut self.api
    }
}

/// A row of `GET /api/v1/recordings`.
#[derive(Clone, Debug)]
pub struct Recording {
    pub id: u64,
    pub stream_id: u64,
    pub duration: f64,
    pub size: u64,
    pub path: PathBuf,
    pub in_progress: bool,
}

impl Nvr {
    /// Starts on `home/data`, on any free port, with `PASSWORD`.
    #[track_caller]
    pub fn start(home: &Path) -> Self {
        Self::start_with(home, &[])
    }

    /// `start` with more arguments.
    #[track_caller]
    pub fn start_with(home: &Path, arguments: &[&str]) -> Self {
        Self::run(usual_command(home).args(arguments), PASSWORD)
    }

    /// `start` under another clock.
    #[track_caller]
    pub fn start_by(home: &Path, clock: &FakeClock) -> Self {
        let mut command = usual_command(home);
        clock.give_to(&mut command);
        Self::run(&mut command, PASSWORD)
    }

    /// Starts `command` and waits until it is ready.
    #[track_caller]
    pub fn run(command: &mut Command, password: &str) -> Self {
        let mut process = Process::start("lightnvr", command);
        let addr = process.wait_for_line("ready line", READY_WITHIN, ready_addr);
        Self { process, api: Api::new(addr, password) }
    }

    /// Resident memory in KiB.
    pub fn rss_kib(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process.pid()));
        let status = status.expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
        let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
        number.and_then(|text| text.parse().ok()).expect("VmRSS in KiB")
    }

    /// SIGTERM; waits for the end that is promised within 3 s.
    #[track_caller]
    pub fn stop(mut self) -> ExitStatus {
        self.process.signal(Signal::TERM);
        self.process.wait_for_exit(STOP_WITHIN)
    }
}

impl Api {
    pub fn new(addr: SocketAddr, password: &str) -> Self {
        Self { addr, login: format!("admin:{password}") }
    }

    /// From now on requests carry this password.
    pub fn use_password(&mut self, password: &str) {
        self.login = format!("admin:{password}");
    }

    /// Sends a request with the login, and with `body` as JSON.
    #[track_caller]
    pub fn request(&self, method: &str, path: &str, body: Option<&str>) -> Response {
        let login = self.login();
        let mut headers = vec![("Authorization", login.as_str())];
        if body.is_some() {
            headers.push(("Content-Type", "application/json"));
        }
        http::request(self.addr, method, path, &headers, body.map(str::as_bytes))
            .unwrap_or_else(|e| panic!("{method} {path}: {e}"))
    }

    /// Value of the `Authorization` that goes with every request.
    pub fn login(&self) -> String {
        format!("Basic {}", BASE64_STANDARD.encode(&self.login))
    }

    /// `request` that must be answered with 200 and JSON. Told that it asks too often, it waits as long as it should.
    #[track_caller]
    pub fn json(&self, method: &str, path: &str, body: Option<&str>) -> Value {
        let response = loop {
            let response = self.request(method, path, body);
            match response.header("Retry-After") {
                Some(seconds) if response.status == 429 => {
                    wait::pause(Duration::from_secs(seconds.parse().expect("seconds")));
                }
                _ => break response,
            }
        };
        assert_eq!(response.status, 200, "{method} {path} {body:?}: {}", response.text());
        json::parse(response.text())
    }

    /// Adds a stream and gives its id.
    #[track_caller]
    pub fn add_stream(&self, name: &str, url: &str) -> u64 {
        let body = format!(r#"{{"name":{},"url":{}}}"#, quote(name), quote(url));
        self.json("POST", "/api/v1/streams", Some(&body)).field("id").integer()
    }

    /// The stream as the API answers it.
    #[track_caller]
    pub fn stream(&self, id: u64) -> Value {
        self.json("GET", &format!("/api/v1/streams/{id}"), None)
    }

    /// Waits until the stream has this status; gives the stream.
    #[track_caller]
    pub fn wait_for_status(&self, id: u64, status: &str, within: Duration) -> Value {
        wait::until(&format!("stream {id} is {status}"), within, || {
            let stream = self.stream(id);
            (stream.field("status").text() == status).then_some(stream)
        })
    }

    /// Changes settings.
    #[track_caller]
    pub fn set(&self, settings: &str) {
        self.json("PUT", "/api/v1/settings", Some(settings));
    }

    /// Sets `segment_seconds` so that the next file begins as late as can be, whatever the time of day: at least
    /// half an hour from now, but for the last minutes before midnight UTC, when every file ends.
    #[track_caller]
    pub fn keep_files_long(&self) {
        let since_epoch = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let second_of_day = since_epoch.expect("after 1970").as_secs() % 86_400;
        let left = |length: &u64| length - second_of_day % length;
        let length = (60..=60 * 60).step_by(60).max_by_key(left).expect("some length");
        self.set(&format!(r#"{{"segment_seconds":{length}}}"#));
    }

    /// All recordings that match `query` (such as `?stream_id=0`), oldest first.
    #[track_caller]
    pub fn recordings(&self, query: &str) -> Vec<Recording> {
        let list = self.json("GET", &format!("/api/v1/recordings{query}"), None);
        list.field("recordings").items().iter().map(Recording::read).collect()
    }

    /// Waits until nothing of this stream is being recorded any more; gives its recordings.
    #[track_caller]
    pub fn wait_for_finished(&self, stream_id: u64, within: Duration) -> Vec<Recording> {
        wait::until(&format!("recordings of stream {stream_id} are finished"), within, || {
            let recordings = self.recordings(&format!("?stream_id={stream_id}"));
            let done = !recordings.is_empty() && recordings.iter().all(|r| !r.in_progress);
            done.then_some(recordings)
        })
    }
}

impl Recording {
    fn read(row: &Value) -> Self {
        Self {
            id: row.field("id").integer(),
            stream_id: row.field("stream_id").integer(),
            duration: row.field("duration").number(),
            size: row.field("size").integer(),
            path: PathBuf::from(row.field("path").text()),
            in_progress: row.field_if_any("in_progress").is_some_and(Look::truth),
        }
    }
}

/// The program on `home/data`, on any free port, with `PASSWORD`.
pub fn usual_command(home: &Path) -> Command {
    let password_file = home.join("password");
    fs::write(&password_file, PASSWORD).expect("the test's directory can be written");
    let mut command = command(&home.join("data"));
    command.args(["--listen", "127.0.0.1:0", "--admin-password-file"]).arg(password_file);
    command
}

/// The program on `data_dir`, without any inherited setting.
pub fn command(data_dir: &Path) -> Command {
    let mut command = Command::new(binary());
    command.env_remove("LIGHTNVR_ADMIN_PASSWORD").arg("--data-dir").arg(data_dir);
    command
}

/// `lightnvr check` on the data of `home`: its exit code and everything that it said.
pub fn check(home: &Path) -> (Option<i32>, String) {
    let mut command = Command::new(binary());
    let out = command.args(["check", "--data-dir"]).arg(home.join("data")).output();
    let out = out.expect("the binary starts");
    let said = [out.stdout, out.stderr].concat();
    (out.status.code(), String::from_utf8_lossy(&said).into_owned())
}

/// The address in `LightNVR VERSION ready: http://ADDR:PORT/`.
pub fn ready_addr(line: &str) -> Option<SocketAddr> {
    let (_, url) = line.strip_prefix("LightNVR ")?.split_once(" ready: http://")?;
    url.strip_suffix('/')?.parse().ok()
}
