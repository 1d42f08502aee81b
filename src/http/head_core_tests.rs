//! Tests of `head_core`: each rule with the head that breaks it.

use proptest::prelude::*;

use super::*;

fn get(fields: &str) -> Result<Request, Reject> {
    parse(format!("GET / HTTP/1.1\r\nHost: a\r\n{fields}\r\n").as_bytes())
}

#[track_caller]
fn check_status(head: &str, want: u16) {
    let got = parse(head.as_bytes()).map_or_else(|reject| reject.status, |_| 200);
    assert_eq!(got, want, "{head:?}");
}

#[test]
fn an_ordinary_request_is_taken_apart() {
    let head = "PUT /api/v1/settings?x=1 HTTP/1.1\r\nHost: nvr.local:8080\r\nContent-Length: 12\r\n\
                Content-Type: application/json\r\nAuthorization: Basic eA==\r\nAccept: a/b\r\n\
                ACCEPT: c/d\r\nOrigin: http://nvr.local:8080\r\nX-Request-Id: forged\r\n\r\n";
    let request = parse(head.as_bytes()).unwrap();
    assert_eq!((request.method.as_str(), request.path()), ("PUT", "/api/v1/settings"));
    assert_eq!(request.target, "/api/v1/settings?x=1");
    assert_eq!(request.host.as_deref(), Some("nvr.local:8080"));
    assert_eq!(request.body, Body::Length(12));
    assert!(request.keep_alive && !request.is_http10 && !request.expects_continue);
    assert_eq!(request.fields.accept.as_deref(), Some("a/b, c/d"));
    assert_eq!(request.fields.content_type.as_deref(), Some("application/json"));
    assert!(!format!("{request:?}").contains("eA=="), "no secret in Debug");
}

#[test]
fn versions() {
    check_status("PRI * HTTP/2.0\r\n\r\n", 505);
    check_status("GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505);
    check_status("GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505);
    check_status("GET / HTTP/0.9\r\n\r\n", 505);
    check_status("GET / HTTP/11\r\n\r\n", 400);
    check_status("GET / http/1.1\r\nHost: a\r\n\r\n", 400);
    check_status("GET /\r\n\r\n", 400);
    check_status("\r\n", 400);
    check_status("GET / HTTP/1.0\r\n\r\n", 200);
    check_status("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 200);
}

#[test]
fn lengths() {
    check_status("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 64000000000\r\n\r\n", 413);
    check_status(&format!("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: {:0<99}\r\n\r\n", 9), 413);
    check_status("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 65537\r\n\r\n", 413);
    for odd in ["+5", "-5", "5, 5", "0x5", "5 5", "", "５"] {
        check_status(&format!("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: {odd}\r\n\r\n"), 400);
    }
    let twice = "Content-Length: 5\r\nContent-Length: 5\r\n";
    assert_eq!(get(twice).unwrap_err().status, 400);
    assert_eq!(get("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n").unwrap_err().status, 400);
    assert_eq!(get("Transfer-Encoding: gzip, chunked\r\n").unwrap_err().status, 400);
    assert_eq!(
        get("Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n").unwrap_err().status,
        400
    );
    check_status("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400);
    assert_eq!(get("Transfer-Encoding: Chunked\r\n").unwrap().body, Body::Chunked);
    assert_eq!(get("Content-Length: 0\r\n").unwrap().body, Body::None);
    assert_eq!(get("Content-Length: 65536\r\n").unwrap().body, Body::Length(65536));
}

#[test]
fn lines() {
    check_status("GET / HTTP/1.1\r\nHost: a\r\nX: b\r\n c\r\n\r\n", 400); // obs-fold
    check_status("GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400);
    check_status("GET / HTTP/1.1\r\nHost : a\r\n\r\n", 400);
    check_status("GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", 400);
    check_status("GET / HTTP/1.1\nHost: a\n\n", 400);
    check_status("GET / HTTP/1.1\r\nHost: a\rX: b\r\n\r\n", 400);
    check_status("GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n", 400);
    check_status("GET  / HTTP/1.1\r\nHost: a\r\n\r\n", 400);
    check_status("G(T / HTTP/1.1\r\nHost: a\r\n\r\n", 400);
    let fields = |n| "X: y\r\n".repeat(n);
    check_status(&format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", fields(47)), 200);
    check_status(&format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", fields(48)), 431);
}

#[test]
fn hosts_and_targets() {
    check_status("GET / HTTP/1.1\r\n\r\n", 400);
    check_status("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400);
    check_status("GET / HTTP/1.1\r\nHost:\r\n\r\n", 400);
    check_status("GET / HTTP/1.1\r\nHost: a/b\r\n\r\n", 400);
    check_status("GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400);
    check_status("CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 400);
    check_status("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", 400);
    check_status("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", 400);
    check_status("GET http://u@b/ HTTP/1.1\r\nHost: a\r\n\r\n", 400);
    check_status(&format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "a".repeat(4096)), 414);
    let absolute = parse(b"GET HTTP://b:1/c?d HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!((absolute.target.as_str(), absolute.host.as_deref()), ("/c?d", Some("b:1")));
    let bare = parse(b"GET http://b?d HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    assert_eq!(bare.target, "/?d");
}

#[test]
fn connection_and_expectation() {
    assert!(!get("Connection: Close\r\n").unwrap().keep_alive);
    assert!(!get("Connection: x\r\nConnection: keep-alive, close\r\n").unwrap().keep_alive);
    assert!(!parse(b"GET / HTTP/1.0\r\n\r\n").unwrap().keep_alive);
    assert!(parse(b"GET / HTTP/1.0\r\nConnection: Keep-Alive\r\n\r\n").unwrap().keep_alive);
    assert!(get("Expect: 100-Continue\r\nContent-Length: 1\r\n").unwrap().expects_continue);
    assert!(!get("Expect: 100-continue\r\n").unwrap().expects_continue);
    assert_eq!(get("Expect: 200-ok\r\n").unwrap_err().status, 417);
}

#[test]
fn ends_of_heads() {
    assert_eq!(find_end(b"GET / HTTP/1.1\r\n\r", 0), Ok(None));
    assert_eq!(find_end(b"GET / HTTP/1.1\r\n\r\nrest", 0), Ok(Some(18)));
    assert_eq!(find_end(b"GET / HTTP/1.1\r\n\r\n", 17), Ok(Some(18)));
    assert_eq!(find_end(b"GET / HTTP/1.1\n\nrest", 0), Ok(Some(16)));
    assert_eq!(find_end(&[b'a'; HEAD_BYTES_MAX], 0), Err(HEAD_TOO_LARGE));
    assert_eq!(find_end(&[b'a'; HEAD_BYTES_MAX - 1], 0), Ok(None));
    assert_eq!(leading_empty_lines(b"\r\nGET"), 2);
    assert_eq!(leading_empty_lines(b"\r\n\r\n\r\n"), 4);
    assert_eq!(leading_empty_lines(b"GET"), 0);
}

#[test]
fn a_websocket_is_asked_for_in_one_way() {
    let head = "GET /x HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\n\
                Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    let key = |head: &str| parse(head.as_bytes()).unwrap().websocket_key;
    assert_eq!(key(head).as_deref(), Some("dGhlIHNhbXBsZSBub25jZQ=="));
    for (part, other) in [
        ("GET", "POST"),
        ("Connection: keep-alive, Upgrade", "Connection: keep-alive"),
        ("Upgrade: WebSocket", "Upgrade: h2c"),
        ("Version: 13", "Version: 12"),
        ("ZQ==", "ZQ="),
        ("ZQ==", "ZQQQ"),
        ("HTTP/1.1", "HTTP/1.0"),
    ] {
        assert_eq!(key(&head.replace(part, other)), None, "{other}");
    }
}

proptest! {
    #[test]
    fn any_bytes_give_a_request_or_a_status(head in prop::collection::vec(any::<u8>(), 0..300)) {
        if let Err(reject) = parse(&head) {
            prop_assert!((400..=505).contains(&reject.status));
        }
    }

    #[test]
    fn nearly_right_heads_never_panic_and_keep_their_promises(
        head in "(GET|PUT|PRI) [ -~]{0,12} HTTP/[01]\\.[01]\r\n\
                 ((Host|Content-Length|Transfer-Encoding|Expect|X):[ \t]?[ -~]{0,9}\r\n){0,5}\r\n",
    ) {
        if let Ok(request) = parse(head.as_bytes()) {
            prop_assert!(request.target.starts_with('/'));
            prop_assert!(request.is_http10 || request.host.is_some());
            if let Body::Length(n) = request.body {
                prop_assert!((1..=BODY_BYTES_MAX).contains(&n));
            }
        }
    }

    #[test]
    fn the_end_is_found_however_the_head_arrives(
        head in "[a-z\r\n]{0,60}",
        cuts in prop::collection::vec(1_usize..8, 1..60),
    ) {
        let whole = find_end(head.as_bytes(), 0);
        let (mut seen, mut found) = (0, Ok(None));
        for cut in cuts.into_iter().chain([head.len()]) {
            let len = (seen + cut).min(head.len());
            found = find_end(&head.as_bytes()[..len], seen);
            seen = len;
            if found != Ok(None) || len == head.len() {
                break;
            }
        }
        // What comes late may only move the end to the same place, never past it.
        if seen == head.len() || found != Ok(None) {
            prop_assert_eq!(found, whole);
        }
    }
}
