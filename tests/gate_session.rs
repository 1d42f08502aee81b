//! Logging in and out at the gate: the cookie, what it opens, what it does not, and who attacks it.

#[path = "rig/attacks.rs"]
mod attacks;
#[path = "rig/gate.rs"]
mod rig;

use std::io::{Read, Write};

use attacks::{Answer, ask_from, connect_from, read_answer};
use lightnvr::http::session_core::SESSIONS_MAX;
use rig::{BASIC, Rig, start};

const PAGE: &str = "X-Requested-With: lightnvr\r\n";

fn ask(last: u8, rig: &Rig, line: &str, fields: &str, body: &str) -> Answer {
    let length =
        if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let request = format!("{line} HTTP/1.1\r\nHost: localhost\r\n{fields}{length}\r\n{body}");
    ask_from(last, rig.addr, request.as_bytes()).expect("a whole reply")
}

/// Logs in from `127.0.0.last` with `fields`; gives a `Cookie` field.
fn log_in(last: u8, rig: &Rig, fields: &str) -> String {
    let answer = ask(last, rig, "POST /api/v1/session", fields, "admin:secret");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let set = answer.field("set-cookie").expect("a cookie").to_owned();
    let (pair, attributes) = set.split_once("; ").expect("attributes");
    assert_eq!(attributes, "Path=/; Max-Age=2592000; HttpOnly; SameSite=Strict");
    format!("Cookie: a=b; {pair}\r\n")
}

fn status(rig: &Rig, line: &str, fields: &str) -> u16 {
    ask(2, rig, line, fields, "").status
}

#[test]
fn a_session_opens_what_basic_opens_until_it_is_logged_out() {
    let rig = start(|_| {});
    let cookie = log_in(2, &rig, PAGE);
    let streams = ask(2, &rig, "GET /api/v1/streams", &cookie, "");
    assert_eq!(streams.status, 200);
    assert!(streams.text().contains("\r\nlightnvr-session: 0\r\n"), "{}", streams.text());
    assert!(!streams.text().to_lowercase().contains("cookie"), "the token goes no further");
    assert_eq!(status(&rig, "GET /api/v1/streaming/0/hls/playlist.m3u8", &cookie), 200);
    let out = ask(2, &rig, "DELETE /api/v1/session", &(cookie.clone() + PAGE), "");
    let cleared = "lightnvr_session=; Path=/; Max-Age=0; HttpOnly; SameSite=Strict";
    assert_eq!((out.status, out.field("set-cookie")), (200, Some(cleared)));
    assert_eq!(status(&rig, "GET /api/v1/streams", &cookie), 401);
    assert_eq!(status(&rig, "DELETE /api/v1/session", &(cookie + PAGE)), 401);
}

#[test]
fn the_page_is_not_challenged_and_everybody_else_is() {
    let rig = start(|_| {});
    for fields in ["", "Cookie: lightnvr_session=stale\r\n", "X-Requested-With: XMLHttpRequest\r\n"]
    {
        let answer = ask(2, &rig, "GET /api/v1/streams", fields, "");
        assert_eq!((answer.status, answer.field("www-authenticate").is_some()), (401, true));
        let answer = ask(2, &rig, "GET /api/v1/streams", &format!("{fields}x: y\r\n{PAGE}"), "");
        let repeated = fields.starts_with("X-R");
        assert_eq!(answer.status, if repeated { 400 } else { 401 }, "{fields}");
        assert_eq!(answer.field("www-authenticate"), None);
    }
    let wrong = ask(2, &rig, "POST /api/v1/session", PAGE, "admin:wrong");
    assert_eq!((wrong.status, wrong.field("www-authenticate")), (401, None));
    assert_eq!(wrong.field("set-cookie"), None);
    let wrong = ask(2, &rig, "POST /api/v1/session", "", "root:secret");
    assert_eq!((wrong.status, wrong.field("www-authenticate").is_some()), (401, true));
}

#[test]
fn logins_and_headers_share_the_limit_on_wrong_passwords() {
    let rig = start(|_| {});
    let cookie = log_in(3, &rig, "");
    for _ in 0..3 {
        assert_eq!(ask(4, &rig, "POST /api/v1/session", PAGE, "admin:x").status, 401);
    }
    let wrong = "Authorization: Basic YWRtaW46eA==\r\n";
    for _ in 0..2 {
        assert_eq!(ask(4, &rig, "GET /api/x", wrong, "").status, 401);
    }
    let closed = ask(4, &rig, "POST /api/v1/session", PAGE, "admin:y");
    assert_eq!(closed.status, 429);
    let seconds: u32 = closed.field("retry-after").expect("a time").parse().expect("seconds");
    assert!((1..=12).contains(&seconds));
    assert_eq!(ask(4, &rig, "GET /api/x", wrong, "").status, 429);
    assert_eq!(ask(4, &rig, "GET /api/x", &cookie, "").status, 200, "a session is no password");
    assert_eq!(
        ask(5, &rig, "POST /api/v1/session", PAGE, "admin:y").status,
        401,
        "another address"
    );
}

#[test]
fn only_post_to_the_one_path_goes_without_credentials() {
    let rig = start(|_| {});
    for line in [
        "GET /api/v1/session",
        "HEAD /api/v1/session",
        "PUT /api/v1/session",
        "DELETE /api/v1/session",
        "POST /api/v1/session/",
        "POST //api/v1/session",
        "POST /api/v1/%73ession",
        "POST /api/v1/streams",
        "post /api/v1/session",
    ] {
        let request = format!("{line} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        let mut stream = connect_from(2, rig.addr);
        stream.write_all(request.as_bytes()).expect("sent");
        let mut text = String::new();
        stream.read_to_string(&mut text).expect("read");
        assert!(text.starts_with("HTTP/1.1 401 "), "{line}: {text}");
    }
    assert_eq!(ask(2, &rig, "POST /api/v1/session?x", "", "admin:secret").status, 200);
}

#[test]
fn a_change_by_cookie_proves_where_it_comes_from() {
    let rig = start(|_| {});
    let cookie = log_in(2, &rig, "");
    let with = |fields: &str| format!("{cookie}{fields}");
    for method in ["PUT", "POST", "DELETE", "PATCH"] {
        let line = format!("{method} /api/v1/streams/0");
        let bare = ask(2, &rig, &line, &cookie, "");
        assert_eq!(bare.status, 403, "{method}");
        assert!(bare.text().contains("X-Requested-With: lightnvr"), "{}", bare.text());
        assert_eq!(status(&rig, &line, &with(PAGE)), 200);
        assert_eq!(status(&rig, &line, &with("Origin: http://localhost\r\n")), 200);
        for foreign in ["Origin: http://evil.example\r\n", "Origin: null\r\n"] {
            assert_eq!(status(&rig, &line, &with(foreign)), 403);
            assert_eq!(status(&rig, &line, &with(&format!("{foreign}{PAGE}"))), 403);
        }
        let basic = format!("Authorization: {BASIC}\r\n");
        assert_eq!(status(&rig, &line, &basic), 200, "a header is not sent by itself");
        assert_eq!(status(&rig, &line, &with(&basic)), 403, "but the cookie is");
    }
    assert_eq!(status(&rig, "GET /api/v1/streams/0", &cookie), 200);
    rig.set(|settings| settings.web_auth_enabled = false);
    assert_eq!(status(&rig, "PUT /api/v1/streams/0", &cookie), 200, "the cookie opens nothing");
}

#[test]
fn a_stale_login_of_the_browser_does_not_shut_out_who_has_a_session() {
    let rig = start(|_| {});
    let cookie = log_in(2, &rig, "");
    for _ in 0..20 {
        let fields = format!("Authorization: Basic YWRtaW46eA==\r\n{cookie}");
        assert_eq!(status(&rig, "GET /api/v1/streams", &fields), 200);
    }
    assert_eq!(rig.counters.auth_wrong.get(), 0, "it was not even tried");
}

#[test]
fn a_second_login_of_a_browser_ends_its_first_and_a_full_table_the_least_used() {
    let rig = start(|_| {});
    let first = log_in(2, &rig, "");
    let again = log_in(2, &rig, &first);
    assert_eq!(status(&rig, "GET /api/x", &first), 401);
    let others: Vec<String> = (1..SESSIONS_MAX).map(|_| log_in(2, &rig, "")).collect();
    assert_eq!(rig.counters.sessions_displaced.get(), 0);
    assert_eq!(status(&rig, "GET /api/x", &again), 200, "now it is the one used last");
    let last = log_in(2, &rig, "");
    assert_eq!(rig.counters.sessions_displaced.get(), 1);
    assert_eq!(status(&rig, "GET /api/x", &others[0]), 401);
    for cookie in [&again, &last, &others[1], &others[SESSIONS_MAX - 2]] {
        assert_eq!(status(&rig, "GET /api/x", cookie), 200);
    }
}

#[test]
fn a_flood_of_bad_cookies_is_an_ordinary_flood() {
    let rig = start(|_| {});
    let cookie = log_in(2, &rig, "");
    let mut stream = connect_from(6, rig.addr);
    let mut ask_on = |cookies: &str| {
        let request =
            format!("GET /api/x HTTP/1.1\r\nHost: localhost\r\nCookie: {cookies}\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("sent");
        read_answer(&mut stream).expect("answered").status
    };
    let many = "lightnvr_session=x; ".repeat(350);
    assert_eq!(ask_on(&many), 401);
    let right = cookie.trim().trim_start_matches("Cookie: ");
    assert_eq!(ask_on(&format!("{}{right}", "lightnvr_session=x; ".repeat(3))), 200);
    assert_eq!(
        ask_on(&format!("{}{right}", "lightnvr_session=x; ".repeat(4))),
        401,
        "not looked at"
    );
    let limited = (0..5000).map(|n| ask_on(&format!("lightnvr_session={n}"))).find(|s| *s != 401);
    assert_eq!(limited, Some(429), "by the ordinary rate, not by that of wrong passwords");
    assert_eq!(ask(6, &rig, "POST /api/v1/session", "", "admin:x").status, 429);
    assert_eq!(rig.counters.auth_wrong.get(), 0);
    assert_eq!(status(&rig, "GET /api/x", &cookie), 200, "others are not concerned");
    let twice = format!("{cookie}{cookie}");
    assert_eq!(status(&rig, "GET /api/x", &twice), 400, "one field of cookies (RFC 6265)");
}

#[test]
fn a_login_has_a_small_body() {
    let rig = start(|_| {});
    let long = "x".repeat((4 << 10) + 1);
    let answer = ask(2, &rig, "POST /api/v1/session", "", &long);
    assert_eq!((answer.status, answer.text().contains("4 KiB")), (413, true));
    assert_eq!(ask(2, &rig, "POST /api/v1/session", "", &"x".repeat(4 << 10)).status, 401);
    let chunks = format!("1000\r\n{}\r\n1\r\nx\r\n0\r\n\r\n", "x".repeat(4 << 10));
    let chunked = format!(
        "POST /api/v1/session HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"
    );
    let answer = ask_from(2, rig.addr, chunked.as_bytes()).expect("an answer");
    assert_eq!((answer.status, answer.text().contains("4 KiB")), (413, true));
    let huge = format!("Content-Length: {}\r\n", (64 << 10) + 1);
    let request = format!("POST /api/v1/session HTTP/1.1\r\nHost: localhost\r\n{huge}\r\n");
    assert_eq!(ask_from(2, rig.addr, request.as_bytes()).expect("an answer").status, 413);
}

#[test]
fn slow_logins_hold_their_own_share_of_memory_and_nothing_else() {
    let rig = start(|_| {});
    let head = "POST /api/v1/session HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4096\r\n\r\nx";
    let slow: Vec<_> = (0..32)
        .map(|n| {
            let mut stream = connect_from(10 + n, rig.addr);
            stream.write_all(head.as_bytes()).expect("sent");
            stream
        })
        .collect();
    let log_in = |n: u8| ask(50 + n % 200, &rig, "POST /api/v1/session", "", "admin:secret").status;
    // The share is full once all of them are being read.
    assert!((0..=u8::MAX).cycle().take(10_000).any(|n| log_in(n) == 503), "it is never full");
    let basic = format!("Authorization: {BASIC}\r\n");
    assert_eq!(ask(2, &rig, "PUT /api/x", &basic, "body").status, 200, "another share");
    drop(slow);
    assert!((0..=u8::MAX).cycle().take(10_000).any(|n| log_in(n) == 200), "it stays full");
}

#[test]
fn what_a_session_loads_ends_with_it() {
    let rig = start(|_| {});
    std::fs::write(rig.dir.join("a.mp4"), vec![b'x'; 64 << 20]).expect("a file");
    let cookie = log_in(2, &rig, "");
    let mut stream = connect_from(2, rig.addr);
    // The rig's REST layer sends a file for this path of media.
    let request =
        format!("GET /api/v1/recordings/1/download HTTP/1.1\r\nHost: localhost\r\n{cookie}\r\n");
    stream.write_all(request.as_bytes()).expect("sent");
    let mut first = [0; 1000];
    stream.read_exact(&mut first).expect("it begins");
    assert_eq!(status(&rig, "DELETE /api/v1/session", &(cookie + PAGE)), 200);
    let mut rest = Vec::new();
    // Not read until the gate has closed it: what the kernel holds is far less than the file.
    while rig.open() > 0 {
        std::thread::yield_now();
    }
    drop(stream.read_to_end(&mut rest));
    assert!(rest.len() < 32 << 20, "{} bytes came", rest.len());
}
