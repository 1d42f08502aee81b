//! The rules around the handlers, over the private socket: order of checks, methods, media types, bodies,
//! threads, and the server's own beginning and end.

mod api_rig;

use std::os::fd::BorrowedFd;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use api_rig::{Rig, ask_on, try_ask_on};

#[track_caller]
fn check(rig: &Rig, method: &str, target: &str, headers: &str, body: &str, status: u16) -> String {
    let answer = rig.ask_with(method, target, headers, body);
    assert_eq!(answer.status, status, "{method} {target}: {}", answer.body);
    answer.body
}

const JSON: &str = "Content-Type: application/json\r\n";

#[test]
fn checks_come_in_the_order_of_the_contract() {
    let rig = Rig::new();
    let not_json = "Content-Type: text/plain\r\n";
    // Each of these breaks every later rule too.
    check(&rig, "PATCH", "/api/v1/nothing?x", not_json, "{", 404);
    check(&rig, "PATCH", "/api/v1/streams/007", not_json, "{", 404);
    check(&rig, "PATCH", "/api/v1/streams", not_json, "{", 405);
    check(&rig, "PUT", "/api/v1/streams/7", not_json, "{", 415);
    check(&rig, "PUT", "/api/v1/streams/7", JSON, "{", 400);
    check(&rig, "PUT", "/api/v1/streams/7", JSON, "{}", 404);
}

#[test]
fn a_method_that_a_route_lacks_is_405_with_allow() {
    let rig = Rig::new();
    for (target, allow) in [
        ("/api/v1/streams", "GET, HEAD, POST"),
        ("/api/v1/streams/7", "GET, HEAD, PUT, DELETE"),
        ("/api/v1/recordings", "GET, HEAD"),
        ("/api/v1/recordings/7", "GET, HEAD, PUT, DELETE"),
        ("/api/v1/settings", "GET, HEAD, PUT"),
        ("/api/v1/password", "PUT"),
        ("/api/v1/storage/adopt", "POST"),
        ("/healthz", "GET, HEAD"),
        ("/", "GET, HEAD"),
    ] {
        for method in ["OPTIONS", "PATCH", "TRACE", "BREW"] {
            let answer = rig.ask(method, target, "");
            assert_eq!((answer.status, answer.header("Allow")), (405, Some(allow)), "{method}");
            assert!(answer.body.starts_with(r#"{"error":"method not allowed;"#));
        }
    }
    check(&rig, "GET", "/api/v1/password", "", "", 405);
}

#[test]
fn head_is_get_without_a_body() {
    let rig = Rig::new();
    for target in ["/api/v1/streams", "/api/v1/settings", "/api/v1/streams/7", "/"] {
        let (get, head) = (rig.ask("GET", target, ""), rig.ask("HEAD", target, ""));
        assert_eq!(get.status, head.status);
        assert_eq!(get.header("Content-Length"), head.header("Content-Length"));
        assert_eq!(get.header("Content-Type"), head.header("Content-Type"));
    }
}

#[test]
fn the_log_is_text_of_its_last_lines() {
    let rig = Rig::new();
    for n in 0..2000 {
        lightnvr::system::log_recent::push(format!("line {n} {}\n", "x".repeat(60)).as_bytes());
    }
    let answer = rig.ask("GET", "/api/v1/system/log", "");
    assert_eq!(answer.header("Content-Type"), Some("text/plain; charset=utf-8"));
    assert!(answer.body.len() <= 64 << 10 && answer.body.len() > 63 << 10, "{}", answer.body.len());
    assert!(answer.body.starts_with("line ") && answer.body.ends_with("x\n"), "whole lines");
    assert!(answer.body.lines().last().is_some_and(|line| line.starts_with("line 1999 ")));
    check(&rig, "PUT", "/api/v1/system/log", "", "", 405);
    check(&rig, "GET", "/api/v1/system/log/", "", "", 404);
}

#[test]
fn a_body_says_that_it_is_json() {
    let rig = Rig::new();
    let want = r#"{"error":"send the header Content-Type: application/json"}"#;
    assert_eq!(check(&rig, "PUT", "/api/v1/settings", "", "{}", 415), want);
    let form = "Content-Type: application/x-www-form-urlencoded\r\n";
    assert_eq!(check(&rig, "PUT", "/api/v1/settings", form, "{}", 415), want);
    let with_parameter = "content-type: Application/JSON; charset=utf-8\r\n";
    check(&rig, "PUT", "/api/v1/settings", with_parameter, "{}", 200);
    let empty = check(&rig, "PUT", "/api/v1/settings", "", "", 400);
    assert_eq!(empty, r#"{"error":"body is empty; it must be a JSON object"}"#);
}

#[test]
fn a_bad_body_changes_nothing() {
    let rig = Rig::new();
    let before = rig.ask("GET", "/api/v1/settings", "").body;
    for body in [
        r#"{"retention_days":1,"buffer_size":1}"#,
        r#"{"retention_days":1,"retention_days":2}"#,
        r#"{"retention_days":1,"unknown":2}"#,
        r#"{"retention_days":1.0}"#,
        r#"{"retention_days":null}"#,
        r#"{"retention_days":1"#,
        r#"[{"retention_days":1}]"#,
    ] {
        let error = check(&rig, "PUT", "/api/v1/settings", JSON, body, 400);
        assert!(error.starts_with(r#"{"error":""#), "{error}");
    }
    assert_eq!(rig.ask("GET", "/api/v1/settings", "").body, before);
}

#[test]
fn bodies_stop_at_64_kib() {
    let rig = Rig::new();
    let padded = |len: usize| format!("{{{}}}", " ".repeat(len - 2));
    check(&rig, "PUT", "/api/v1/settings", JSON, &padded(64 << 10), 200);
    let error = check(&rig, "PUT", "/api/v1/settings", JSON, &padded((64 << 10) + 1), 413);
    assert_eq!(error, r#"{"error":"body is larger than 64 KiB"}"#);
}

#[test]
fn a_query_is_checked_where_there_are_parameters_and_ignored_elsewhere() {
    let rig = Rig::new();
    let error = check(&rig, "GET", "/api/v1/recordings?limit=0", "", "", 400);
    assert!(error.ends_with(r#""field":"limit"}"#), "{error}");
    check(&rig, "GET", "/api/v1/recordings?color=red", "", "", 400);
    check(&rig, "GET", "/api/v1/streams?color=red", "", "", 200);
    check(&rig, "GET", "/healthz?", "", "", 200);
}

#[test]
fn health_says_what_is_wrong() {
    let rig = Rig::new();
    assert_eq!(check(&rig, "GET", "/healthz", "", "", 200), r#"{"status":"ok"}"#);
    rig.publish(|s| s.ailments.push("disk 0 has not answered for 12 s".into()));
    let answer = rig.ask("GET", "/healthz", "");
    let want = r#"{"error":"disk 0 has not answered for 12 s","reasons":["disk 0 has not answered for 12 s"]}"#;
    assert_eq!((answer.status, answer.body.as_str()), (503, want));
    assert!(answer.header("Retry-After").is_some());
}

#[test]
fn the_page_is_served_with_its_policy() {
    let rig = Rig::new();
    let page = rig.ask("GET", "/", "");
    assert_eq!(page.header("Content-Type"), Some("text/html; charset=utf-8"));
    let policy = page.header("Content-Security-Policy").expect("a policy");
    assert!(policy.contains("default-src 'self'") && policy.contains("frame-ancestors 'self'"));
    assert!(!policy.contains("unsafe-inline"));
    assert_eq!(page.header("X-Content-Type-Options"), None, "the gate says it, once");
    assert_eq!(page.header("Cache-Control"), Some("no-cache"));
    assert_eq!(rig.ask("GET", "/assets/nothing.js", "").status, 404);
}

#[test]
fn every_answer_of_the_api_is_private() {
    let rig = Rig::new();
    for target in ["/api/v1/streams", "/api/v1/nothing", "/api/v1/openapi.json", "/healthz"] {
        let answer = rig.ask("GET", target, "");
        assert_eq!(answer.header("X-Content-Type-Options"), None, "the gate says it, once");
        assert_eq!(answer.header("Cache-Control"), Some("no-store"), "{target}");
        assert_eq!(answer.header("Access-Control-Allow-Origin"), None);
    }
}

#[test]
fn the_socket_is_private_and_goes_with_the_server() {
    let mut rig = Rig::new();
    let mode = |path: &std::path::Path| std::fs::metadata(path).expect("there").mode() & 0o777;
    assert_eq!(mode(&rig.socket), 0o600);
    assert_eq!(mode(rig.socket.parent().expect("a directory")), 0o700);
    rig.stop();
    assert!(!rig.socket.exists());
}

#[test]
fn a_handler_that_panics_is_a_500_that_tells_nothing_and_the_server_goes_on() {
    let rig = Rig::on_machine(|| panic!("a secret cause, on purpose"));
    for _ in 0..8 {
        let error = check(&rig, "GET", "/api/v1/system", "", "", 500);
        let want = "internal error; the log has it under this answer's X-Request-Id";
        assert_eq!(error, format!(r#"{{"error":"{want}"}}"#));
    }
    check(&rig, "GET", "/api/v1/streams", "", "", 200);
}

/// Makes the next `accept` of the socket fail, as a full descriptor table does.
fn break_listener(rig: &Rig) {
    let bound = rig.server_socket().with_extension("new"); // the name that the listener was bound to
    let table = std::fs::read_to_string("/proc/net/unix").expect("procfs");
    // Connections that it accepted have its name too; flag 0x10000 (__SO_ACCEPTCON) marks the listener.
    let mut rows = table.lines().filter(|line| line.ends_with(bound.to_str().expect("UTF-8")));
    let row = rows.find(|line| line.contains(" 00010000 ")).expect("the listener");
    let inode = row.split_whitespace().nth(6).expect("its inode");
    let want = format!("socket:[{inode}]");
    for entry in std::fs::read_dir("/proc/self/fd").expect("procfs").flatten() {
        let link = std::fs::read_link(entry.path()).unwrap_or_default();
        if link.to_str() == Some(want.as_str()) {
            let fd = entry.file_name().to_str().and_then(|name| name.parse().ok()).expect("number");
            // SAFETY: the server holds this descriptor open, and nothing ends the server meanwhile.
            let fd = unsafe { BorrowedFd::borrow_raw(fd) };
            rustix::net::shutdown(fd, rustix::net::Shutdown::Both).expect("shut down");
            return;
        }
    }
    panic!("no descriptor of the listener");
}

#[test]
fn a_failed_accept_makes_it_deaf_for_a_moment_only() {
    let mut rig = Rig::new();
    let mut old = rig.connect().expect("the first listener");
    assert_eq!(ask_on(&mut old, "GET", "/healthz", "", "").status, 200);
    break_listener(&rig);
    let deadline = Instant::now() + Duration::from_secs(10);
    // What was queued on the broken listener is reset with it: a client tries again, as the gate does.
    let ask = || rig.connect().and_then(|mut new| try_ask_on(&mut new, "GET", "/healthz", "", ""));
    let answer = loop {
        match ask() {
            Ok(answer) => break answer,
            Err(e) => assert!(Instant::now() < deadline, "still deaf: {e}"),
        }
        std::thread::yield_now();
    };
    assert_eq!(answer.status, 200);
    assert_eq!(ask_on(&mut old, "GET", "/healthz", "", "").status, 200, "old connections go on");
    rig.stop();
    assert!(!rig.socket.exists());
}

#[test]
fn a_directory_that_others_may_enter_is_refused() {
    let rig = Rig::new();
    let dir = rig.socket.parent().expect("a directory");
    let open: std::fs::Permissions = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    std::fs::set_permissions(dir, open).expect("changed");
    let error = rig.start_again().expect_err("not private");
    assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
}

#[test]
fn a_link_in_place_of_the_directory_is_refused() {
    let rig = Rig::new();
    let dir = rig.socket.parent().expect("a directory");
    let link = rig.dir.join("link");
    std::os::unix::fs::symlink(dir, &link).expect("made");
    assert!(rig.start_at(&link.join("api.sock")).is_err());
}

#[test]
fn a_path_longer_than_a_socket_address_will_do() {
    let rig = Rig::new();
    let home = rig.dir.join("d".repeat(200));
    std::fs::create_dir(&home).expect("made");
    let server = rig.start_at(&home.join("run").join("api.sock")).expect("it listens");
    let mut stream = std::os::unix::net::UnixStream::connect(server.socket()).expect("there");
    assert_eq!(ask_on(&mut stream, "GET", "/healthz", "", "").status, 200);
    let moved = rig.dir.join("moved");
    std::fs::rename(&home, &moved).expect("renamed");
    assert!(std::os::unix::net::UnixStream::connect(server.socket()).is_ok(), "no name matters");
}

#[test]
fn a_stale_socket_is_replaced() {
    let rig = Rig::new();
    let _second = rig.start_again().expect("takes the path over");
    assert_eq!(rig.ask("GET", "/healthz", "").status, 200);
}

#[test]
fn storage_is_adopted_with_and_without_a_body() {
    let rig = Rig::new();
    for (headers, body) in [("", ""), (JSON, "{}")] {
        let said = check(&rig, "POST", "/api/v1/storage/adopt", headers, body, 200);
        assert_eq!(said, r#"{"success":true}"#);
    }
    check(&rig, "POST", "/api/v1/storage/adopt", "", "{}", 415);
    check(&rig, "GET", "/api/v1/storage/adopt", "", "", 405);
    check(&rig, "POST", "/api/v1/storage/adopt", JSON, "[]", 400);
    check(&rig, "GET", "/api/v1/storage", "", "", 404);
}
