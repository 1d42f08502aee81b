//! The program as an owner meets it: arguments, ready line, passwords, signals, restarts.

mod rig;

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use rig::http;
use rig::json::Look;
use rig::mp4;
use rig::nvr::{self, Nvr, PASSWORD, STOP_WITHIN};
use rig::process::Process;
use rig::temp_dir::TempDir;
use rig::wait;
use rustix::process::Signal;

/// Long enough for the first fragment of a test pattern on a loaded machine.
const RECORDED_WITHIN: Duration = Duration::from_secs(20);
/// A change of port, or a request on a port that nobody hears.
const MOVED_WITHIN: Duration = Duration::from_secs(10);
/// 80 random bits in base64.
const PASSWORD_CHARS_MIN: usize = 14;

fn run(arguments: &[&str]) -> Output {
    Command::new(nvr::binary()).args(arguments).output().expect("the binary starts")
}

/// The program on `home/data` without any password given.
fn without_password(home: &Path) -> Nvr {
    let mut command = nvr::command(&home.join("data"));
    Nvr::run(command.args(["--listen", "127.0.0.1:0"]), "")
}

fn status_of_system(nvr: &Nvr) -> u16 {
    nvr.request("GET", "/api/v1/system", None).status
}

/// A port that was free a moment ago, out of those that Linux gives to nobody by itself (ip(7),
/// `ip_local_port_range` begins at 32768): a connection of another test could take one of those.
fn free_port() -> u16 {
    let first = 10_000 + (std::process::id() % 20_000) as u16;
    let is_free = |port: &u16| TcpListener::bind(("0.0.0.0", *port)).is_ok();
    (first..32_768).find(is_free).expect("one of many ports is free")
}

fn is_heard_on(port: u16) -> bool {
    let addr = SocketAddr::from(([127, 0, 0, 1], port));
    http::request(addr, "GET", "/healthz", &[], None).is_ok_and(|answer| answer.status == 200)
}

#[test]
fn version_and_help_are_printed_and_nothing_is_started() {
    let version = run(&["--version"]);
    assert!(version.status.success());
    let want = format!("lightnvr {}\n", lightnvr::VERSION);
    assert_eq!(String::from_utf8_lossy(&version.stdout), want);
    let help = run(&["--help"]);
    assert!(help.status.success());
    let help = String::from_utf8_lossy(&help.stdout).into_owned();
    for option in
        ["--data-dir", "--listen", "--demo", "--admin-password-file", "--log-level", "check"]
    {
        assert!(help.contains(option), "--help names {option}");
    }
}

#[test]
fn a_bad_argument_is_one_line_and_exit_2() {
    let cases: [&[&str]; 8] = [
        &["--nonsense"],
        &["surplus"],
        &["--listen", "everywhere"],
        &["--listen"],
        &["--log-level", "loud"],
        &["--data-dir"],
        &["check", "--demo", "--data-dir", "/nonexistent"],
        &["check", "check"],
    ];
    for case in cases {
        let out = run(case);
        let said = String::from_utf8_lossy(&out.stderr).into_owned();
        assert_eq!(out.status.code(), Some(2), "{case:?}: {said}");
        assert_eq!(said.lines().count(), 1, "{case:?}: {said}");
        assert!(out.stdout.is_empty(), "{case:?}");
    }
}

#[test]
fn the_ready_line_comes_once_and_is_true() {
    let home = TempDir::new("program_ready");
    let nvr = Nvr::start(home.path());
    let answer = http::request(nvr.addr, "GET", "/healthz", &[], None).expect("it listens");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let want = format!("LightNVR {} ready: http://{}/", lightnvr::VERSION, nvr.addr);
    let lines = nvr.process.stdout();
    assert_eq!(lines.iter().filter(|line| **line == want).count(), 1, "{lines:?}");
}

#[test]
fn a_random_password_is_printed_once_and_kept_until_it_is_changed() {
    let home = TempDir::new("program_password");
    let file = home.path().join("data/initial-password");
    let mut nvr = without_password(home.path());
    let password = fs::read_to_string(&file).expect("the password is kept");
    let password = password.trim_end();
    assert!(password.len() >= PASSWORD_CHARS_MIN, "{} characters", password.len());
    let mode = fs::metadata(&file).expect("it was just read").permissions().mode();
    assert_eq!(mode & 0o777, 0o600);
    let said = [nvr.process.stdout(), nvr.process.stderr()].concat().join("\n");
    assert_eq!(said.matches(password).count(), 1, "printed once");
    assert_eq!(status_of_system(&nvr), 401);
    nvr.use_password(password);
    assert_eq!(status_of_system(&nvr), 200);
    assert!(nvr.stop().success());

    let mut nvr = without_password(home.path());
    let said = [nvr.process.stdout(), nvr.process.stderr()].concat().join("\n");
    assert!(!said.contains(password), "printed at the first start only");
    nvr.use_password(password);
    assert_eq!(status_of_system(&nvr), 200);

    let change = |current: &str, new: &str| {
        let body = format!(r#"{{"current":"{current}","new":"{new}"}}"#);
        nvr.request("PUT", "/api/v1/password", Some(&body))
    };
    assert_eq!(change(password, "too short").status, 400);
    assert_eq!(change("not the password", PASSWORD).status, 400);
    assert!(file.exists());
    let answer = change(password, PASSWORD);
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(!file.exists(), "the initial password is of no use any more");
    assert_eq!(status_of_system(&nvr), 401, "the old password is refused at once");
    nvr.use_password(PASSWORD);
    assert_eq!(status_of_system(&nvr), 200);
    assert!(nvr.stop().success());

    let mut nvr = without_password(home.path());
    assert!(!file.exists());
    nvr.use_password(PASSWORD);
    assert_eq!(status_of_system(&nvr), 200, "the change is durable");
}

#[test]
fn a_given_password_counts_only_while_none_is_stored() {
    let home = TempDir::new("program_given_password");
    let with_variable = |password: &str| {
        let mut command = nvr::command(&home.path().join("data"));
        command.args(["--listen", "127.0.0.1:0"]).env("LIGHTNVR_ADMIN_PASSWORD", password);
        Nvr::run(&mut command, password)
    };
    let nvr = with_variable("short");
    assert_eq!(status_of_system(&nvr), 200, "any password that is not empty");
    assert!(!home.path().join("data/initial-password").exists());
    wait::until("a warning about the short password", RECORDED_WITHIN, || {
        nvr.process.stderr().iter().any(|line| line.contains("10 characters")).then_some(())
    });
    let said = [nvr.process.stdout(), nvr.process.stderr()].concat();
    assert!(!said.iter().any(|line| line.contains("short")), "what was given is not printed");
    assert!(nvr.stop().success());

    let mut nvr = with_variable(PASSWORD);
    assert_eq!(status_of_system(&nvr), 401);
    nvr.use_password("short");
    assert_eq!(status_of_system(&nvr), 200);
    assert!(nvr.stop().success());

    let mut nvr = Nvr::start(home.path()); // with --admin-password-file
    assert_eq!(status_of_system(&nvr), 401);
    nvr.use_password("short");
    assert_eq!(status_of_system(&nvr), 200);
}

#[test]
fn an_empty_given_password_is_refused() {
    let home = TempDir::new("program_empty_password");
    let mut command = nvr::command(&home.path().join("data"));
    command.args(["--listen", "127.0.0.1:0"]).env("LIGHTNVR_ADMIN_PASSWORD", "");
    let mut process = Process::start("lightnvr", &mut command);
    assert!(!process.wait_for_exit(nvr::READY_WITHIN).success());
}

#[test]
fn both_signals_finish_the_recordings_within_3_s() {
    for signal in [Signal::TERM, Signal::INT] {
        let home = TempDir::new(&format!("program_signal_{}", signal.as_raw()));
        let mut nvr = Nvr::start(home.path());
        nvr.add_stream("pattern", "testpattern://");
        wait::until("a fragment is listed", RECORDED_WITHIN, || {
            nvr.recordings("").first().filter(|r| r.size > 0).cloned()
        });
        nvr.process.signal(signal);
        let status = nvr.process.wait_for_exit(STOP_WITHIN);
        assert_eq!(status.code(), Some(0), "{signal:?}");
        drop(nvr);
        assert_eq!(nvr::check(home.path()), (Some(0), String::new()), "{signal:?}");
        let nvr = Nvr::start(home.path());
        let recording = nvr.recordings("").remove(0);
        assert!(!recording.in_progress && recording.size > 0);
        mp4::check_plays(&recording.path);
    }
}

#[test]
fn a_second_instance_refuses_the_same_data_directory() {
    let home = TempDir::new("program_second");
    let nvr = Nvr::start(home.path());
    let data = home.path().join("data");
    let mut command = nvr::command(&data);
    let second = command.args(["--listen", "127.0.0.1:0"]).output().expect("the binary starts");
    assert_eq!(second.status.code(), Some(1));
    let said = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(said.contains(data.to_str().expect("UTF-8")), "names the directory: {said}");
    assert!(!String::from_utf8_lossy(&second.stdout).contains("ready"));
    assert_eq!(status_of_system(&nvr), 200, "the first one goes on");
}

#[test]
fn the_demo_records_a_stream_that_plays() {
    let home = TempDir::new("program_demo");
    let nvr = Nvr::start_with(home.path(), &["--demo"]);
    let stream = nvr.wait_for_status(0, "connected", RECORDED_WITHIN);
    assert!(stream.field("url").text().starts_with("testpattern://"));
    let actual = stream.field("actual");
    assert_eq!((actual.field("width").integer(), actual.field("height").integer()), (1280, 720));
    let recording = wait::until("two seconds are listed", RECORDED_WITHIN, || {
        nvr.recordings("").first().filter(|r| r.duration >= 2.0).cloned()
    });
    let download =
        nvr.request("GET", &format!("/api/v1/recordings/{}/download", recording.id), None);
    assert_eq!((download.status, download.header("content-type")), (200, Some("video/mp4")));
    let file = home.path().join("download.mp4");
    fs::write(&file, &download.body).expect("the test's directory can be written");
    mp4::check_plays(&file);
    let spans: Vec<f64> =
        mp4::packets(&file, "v").windows(2).map(|p| p[1].dts_s - p[0].dts_s).collect();
    let mean = spans.iter().sum::<f64>() / spans.len() as f64;
    assert!((mean - 1.0 / 15.0).abs() < 0.01, "15 frames a second, not one in {mean} s");
    assert!(nvr.stop().success());

    let nvr = Nvr::start_with(home.path(), &["--demo"]);
    let list = nvr.json("GET", "/api/v1/streams", None);
    assert_eq!(list.field("streams").items().len(), 1, "--demo adds to an empty store only");
}

#[test]
fn a_restart_keeps_streams_settings_and_recordings() {
    let home = TempDir::new("program_restart");
    let nvr = Nvr::start(home.path());
    nvr.set(r#"{"segment_seconds":600,"retention_days":7,"buffer_size":2048,"allowed_hosts":["nvr.example"]}"#);
    let id = nvr.add_stream("Vorgarten ☀", "testpattern://");
    wait::until("a fragment is listed", RECORDED_WITHIN, || {
        nvr.recordings("").first().filter(|r| r.size > 0).cloned()
    });
    let off = r#"{"enabled":false,"priority":9}"#;
    nvr.json("PUT", &format!("/api/v1/streams/{id}"), Some(off));
    nvr.wait_for_finished(id, RECORDED_WITHIN);
    nvr.add_stream("to be deleted", "testpattern://");
    nvr.json("DELETE", "/api/v1/streams/1", None);
    wait::until("nothing is being recorded", RECORDED_WITHIN, || {
        nvr.recordings("").iter().all(|r| !r.in_progress).then_some(())
    });
    let state = |nvr: &Nvr| {
        let get = |path: &str| nvr.request("GET", path, None).text().to_owned();
        ["/api/v1/streams", "/api/v1/settings", "/api/v1/recordings"].map(get)
    };
    let before = state(&nvr);
    assert!(nvr.stop().success());
    let nvr = Nvr::start(home.path());
    // What is measured, and the words about it, belong to a life.
    let cut = |text: &str| text.split("\"status_detail\"").next().unwrap_or_default().to_owned();
    let after = state(&nvr);
    assert_eq!(cut(&after[0]), cut(&before[0]));
    assert_eq!(after[1..], before[1..]);
    assert_eq!(nvr.add_stream("next", "testpattern://"), 2, "an id is never used again");
}

#[test]
fn a_change_of_web_port_moves_at_once() {
    let home = TempDir::new("program_port");
    let nvr = Nvr::start(home.path());
    let first = free_port();
    nvr.set(&format!(r#"{{"web_port":{first}}}"#));
    assert_eq!(status_of_system(&nvr), 200, "--listen holds for this run");
    assert!(nvr.stop().success());

    let mut nvr = Nvr::run(&mut nvr::command(&home.path().join("data")), PASSWORD);
    assert_eq!(nvr.addr.port(), first);
    nvr.addr = SocketAddr::from(([127, 0, 0, 1], first));
    let taken = TcpListener::bind("0.0.0.0:0").expect("a free port");
    let taken_port = taken.local_addr().expect("it is bound").port();
    let body = format!(r#"{{"web_port":{taken_port}}}"#);
    let answer = nvr.request("PUT", "/api/v1/settings", Some(&body));
    assert_eq!(answer.status, 400, "{}", answer.text());
    assert!(is_heard_on(first));

    drop(taken);
    let second = free_port();
    nvr.set(&format!(r#"{{"web_port":{second}}}"#));
    wait::until("it is heard on the new port", MOVED_WITHIN, || is_heard_on(second).then_some(()));
    wait::until("the old port is closed", MOVED_WITHIN, || (!is_heard_on(first)).then_some(()));
    nvr.addr.set_port(second);
    let settings = nvr.json("GET", "/api/v1/settings", None);
    assert_eq!(settings.field("web_port").integer(), u64::from(second));
}

#[test]
fn check_finds_a_file_that_is_gone_and_changes_nothing() {
    let home = TempDir::new("program_check");
    let nvr = Nvr::start(home.path());
    nvr.add_stream("pattern", "testpattern://");
    let recording = wait::until("a fragment is listed", RECORDED_WITHIN, || {
        nvr.recordings("").first().filter(|r| r.size > 0).cloned()
    });
    assert!(nvr.stop().success());
    let aside = home.path().join("aside.mp4");
    fs::rename(&recording.path, &aside).expect("the same file system");
    for _ in 0..2 {
        let (code, said) = nvr::check(home.path());
        assert_eq!(code, Some(1));
        let name = recording.path.file_name().expect("a file").to_str().expect("UTF-8");
        assert!(said.contains(name), "names the file: {said}");
    }
    fs::rename(&aside, &recording.path).expect("the same file system");
    assert_eq!(nvr::check(home.path()), (Some(0), String::new()));
}

#[test]
fn the_second_port_only_says_where_the_page_is() {
    let home = TempDir::new("program_redirect");
    let addr = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let _nvr = Nvr::start_with(home.path(), &["--redirect-port", &addr.port().to_string()]);
    for (method, path) in [("GET", "/live?stream=1"), ("DELETE", "/api/v1/streams/0")] {
        let answer = http::request(addr, method, path, &[], None).expect("it answers");
        assert_eq!(answer.status, 308, "{method} {path}");
        let want = format!("http://127.0.0.1:8080{path}");
        assert_eq!(answer.header("location"), Some(want.as_str()));
    }
    // A name that is not ours is sent nowhere.
    let stream = TcpStream::connect(addr).expect("it listens");
    let mut answer = String::new();
    (&stream).write_all(b"GET / HTTP/1.0\r\nHost: evil.example\r\n\r\n").expect("it takes it");
    (&stream).read_to_string(&mut answer).expect("it answers");
    assert!(answer.starts_with("HTTP/1.1 403 ") && !answer.contains("evil"), "{answer}");
}
