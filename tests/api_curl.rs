//! The API as people use it: with curl. The lines of README.md work as they are printed, and downloads
//! resume.

mod rig;

use std::fs;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use rig::json::{self, Look};
use rig::mp4;
use rig::nvr::{Nvr, PASSWORD, Recording};
use rig::temp_dir::TempDir;
use rig::wait;

const RECORDED_WITHIN: Duration = Duration::from_secs(30);

/// Runs a line of shell in `dir`; curl shows errors and fails on 4xx and 5xx.
fn shell(dir: &Path, line: &str) -> Output {
    let line = format!("curl() {{ command curl -sS --fail-with-body \"$@\"; }}\n{line}");
    Command::new("sh").args(["-euc", &line]).current_dir(dir).output().expect("there is a shell")
}

/// Runs curl with the login and these arguments; gives its standard output.
#[track_caller]
fn curl(dir: &Path, arguments: &[&str]) -> String {
    let login = format!("admin:{PASSWORD}");
    let mut command = Command::new("curl");
    command.args(["-sS", "-u", &login]).args(arguments).current_dir(dir);
    let out = command.output().expect("curl is installed");
    let said = String::from_utf8_lossy(&out.stderr).into_owned();
    assert!(out.status.success(), "curl {arguments:?}: {said}");
    String::from_utf8_lossy(&out.stdout).into_owned()
}

/// The value of a header in what `curl -i` printed.
fn header<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    let lines = answer.lines().take_while(|line| !line.trim_end().is_empty()).skip(1);
    let mut fields = lines.filter_map(|line| line.split_once(':'));
    fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim())
}

#[track_caller]
fn check_status(answer: &str, want: u16) {
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    assert_eq!(status, Some(want), "{answer}");
}

fn demo(home: &Path) -> (Nvr, Recording) {
    let nvr = Nvr::start_with(home, &["--demo"]);
    nvr.keep_files_long();
    let recording = wait::until("three seconds are listed", RECORDED_WITHIN, || {
        nvr.recordings("").first().filter(|r| r.duration >= 3.0).cloned()
    });
    (nvr, recording)
}

/// Switches the demo off and gives its finished recording.
fn finish(nvr: &Nvr) -> Recording {
    nvr.json("PUT", "/api/v1/streams/0", Some(r#"{"enabled":false}"#));
    nvr.wait_for_finished(0, RECORDED_WITHIN).remove(0)
}

#[test]
fn the_curl_lines_of_the_readme_work_as_printed() {
    let home = TempDir::new("curl_readme");
    let (nvr, _) = demo(home.path());
    let readme = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md"));
    let readme = readme.expect("there is a README.md");
    let lines: Vec<&str> = readme.lines().filter(|line| line.starts_with("curl ")).collect();
    assert!(lines.len() >= 8, "only {} lines of README.md begin with curl", lines.len());
    for line in lines {
        // The password and the address are the reader's own; the camera is on this machine, where
        // nobody listens on port 9.
        let line = line.replace("PASSWORD", PASSWORD);
        let line = line.replace("127.0.0.1:8080", &nvr.addr.to_string());
        let line = ["192.168.1.100:554", "192.168.1.103:554"]
            .iter()
            .fold(line, |line, camera| line.replace(camera, "127.0.0.1:9"));
        assert!(!line.contains("192.168."), "{line}");
        let out = shell(home.path(), &line);
        let said = String::from_utf8_lossy(&out.stdout).into_owned();
        let wrong = String::from_utf8_lossy(&out.stderr).into_owned();
        assert!(out.status.success(), "{line}\n{said}\n{wrong}");
        if !said.is_empty() && !said.starts_with("#EXTM3U") {
            assert!(json::parse(&said).field_if_any("error").is_none(), "{line}\n{said}");
        }
    }
    let saved = home.path().join("recording.mp4");
    mp4::check_plays(&saved);
}

#[test]
fn answers_have_the_headers_that_clients_rely_on() {
    let home = TempDir::new("curl_headers");
    let (nvr, _) = demo(home.path());
    let at = |path: &str| format!("http://{}{path}", nvr.addr);
    let dir = home.path();

    let answer = curl(dir, &["-i", &at("/api/v1/streams")]);
    check_status(&answer, 200);
    assert!(header(&answer, "content-type").is_some_and(|t| t.starts_with("application/json")));
    assert_eq!(header(&answer, "access-control-allow-origin"), None);
    let head = curl(dir, &["-I", &at("/api/v1/streams")]);
    check_status(&head, 200);
    assert_eq!(head.trim_end().lines().next_back().map(|line| line.contains(':')), Some(true));

    let answer = curl(dir, &["-i", "-u", "admin:wrong", &at("/api/v1/streams")]);
    check_status(&answer, 401);
    assert!(header(&answer, "www-authenticate").is_some_and(|w| w.starts_with("Basic ")));
    let answer = curl(dir, &["-i", &at("/api/v1/nothing")]);
    check_status(&answer, 404);
    assert!(answer.contains(r#"{"error""#));
    let answer = curl(dir, &["-i", "-X", "DELETE", &at("/api/v1/system")]);
    check_status(&answer, 405);
    assert!(header(&answer, "allow").is_some_and(|allow| allow.contains("GET")));
    let answer = curl(dir, &["-i", "-d", "{}", &at("/api/v1/streams")]);
    check_status(&answer, 415);
    assert!(answer.contains("application/json"), "says what to send: {answer}");
    let answer = curl(dir, &["-i", "-H", "Host: rebound.example", &at("/api/v1/streams")]);
    check_status(&answer, 403);
    let json = "Content-Type: application/json";
    let body = r#"{"name":"x","url":"testpattern://"}"#;
    let foreign = "Origin: http://elsewhere.example";
    let answer = curl(dir, &["-i", "-H", json, "-H", foreign, "-d", body, &at("/api/v1/streams")]);
    check_status(&answer, 403);
}

#[test]
fn a_download_answers_ranges_and_conditions() {
    let home = TempDir::new("curl_ranges");
    let (nvr, _) = demo(home.path());
    let recording = finish(&nvr);
    let file = fs::read(&recording.path).expect("the recording is there");
    let url = format!("http://{}/api/v1/recordings/{}/download", nvr.addr, recording.id);
    let dir = home.path();

    let head = curl(dir, &["-I", &url]);
    check_status(&head, 200);
    assert_eq!(header(&head, "accept-ranges"), Some("bytes"));
    assert_eq!(header(&head, "content-type"), Some("video/mp4"));
    assert_eq!(header(&head, "content-length"), Some(file.len().to_string().as_str()));
    assert!(header(&head, "content-disposition").is_some_and(|d| d.contains(".mp4")));
    assert!(header(&head, "last-modified").is_some_and(|date| date.ends_with("GMT")));
    let etag = header(&head, "etag").expect("an ETag").to_owned();

    let ranged = |range: &str, more: &[&str]| {
        let arguments = [&["-D", "head", "-o", "body", "-H", range, &url][..], more].concat();
        curl(dir, &arguments);
        let head = fs::read_to_string(dir.join("head")).expect("curl wrote it");
        (head, fs::read(dir.join("body")).unwrap_or_default())
    };
    let size = file.len();
    let cases = [
        ("Range: bytes=0-0", 0..1),
        ("Range: bytes=100-299", 100..300),
        ("Range: bytes=1000-", 1000..size),
        ("Range: bytes=-500", size - 500..size),
        ("Range: bytes=5-99999999999", 5..size),
    ];
    for (range, want) in cases {
        let (head, body) = ranged(range, &[]);
        check_status(&head, 206);
        let content = format!("bytes {}-{}/{size}", want.start, want.end - 1);
        assert_eq!(header(&head, "content-range"), Some(content.as_str()), "{range}");
        assert!(body == file[want], "{range}");
    }
    let (head, _) = ranged(&format!("Range: bytes={size}-"), &[]);
    check_status(&head, 416);
    assert_eq!(header(&head, "content-range"), Some(format!("bytes */{size}").as_str()));
    for range in ["Range: bytes=0-9,20-29", "Range: apples=0-9"] {
        let (head, body) = ranged(range, &[]);
        check_status(&head, 200);
        assert!(body == file, "{range}");
    }
    let (head, _) = ranged("Range: bytes=0-9", &["-H", &format!("If-Range: {etag}")]);
    check_status(&head, 206);
    let (head, body) = ranged("Range: bytes=0-9", &["-H", "If-Range: \"another\""]);
    check_status(&head, 200);
    assert!(body == file, "the file has changed, so it comes whole");
}

#[test]
fn a_broken_download_resumes_byte_identical() {
    let home = TempDir::new("curl_resume");
    let (nvr, running) = demo(home.path());
    let url = format!("http://{}/api/v1/recordings/{}/download", nvr.addr, running.id);
    let part = home.path().join("part.mp4");
    let dir = home.path();

    // While it is being recorded: what is there so far plays, and what comes later follows on it.
    assert!(running.in_progress);
    curl(dir, &["-o", "part.mp4", &url]);
    mp4::check_plays(&part);
    let so_far = fs::metadata(&part).expect("curl wrote it").len();
    wait::until("it has grown", RECORDED_WITHIN, || {
        nvr.recordings("").first().filter(|r| r.size > so_far).cloned()
    });
    curl(dir, &["-C", "-", "-o", "part.mp4", &url]);
    mp4::check_plays(&part);

    let finished = finish(&nvr);
    let file = fs::read(&finished.path).expect("the recording is there");
    assert_eq!(finished.size, file.len() as u64);
    let before = fs::metadata(&part).expect("curl wrote it").len();
    if before < finished.size {
        curl(dir, &["-C", "-", "-o", "part.mp4", &url]);
    }
    // The head's duration and index are filled in when a recording is finished; media never changes.
    let media = file.windows(4).position(|word| word == b"moof").expect("it has a fragment");
    let resumed = fs::read(&part).expect("curl wrote it");
    assert!(resumed[media..] == file[media..], "resumed twice while it grew");
    mp4::check_plays(&part);

    // Cut at an odd place in the middle.
    fs::write(&part, &file[..file.len() / 2 + 1]).expect("the test's directory can be written");
    curl(dir, &["-C", "-", "-o", "part.mp4", &url]);
    assert!(fs::read(&part).expect("curl wrote it") == file, "resumed in the middle");
}
