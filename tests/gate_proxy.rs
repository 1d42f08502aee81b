//! What passes the gate and how: fields, HEAD, versions, pages, passwords, origins, rates, moving.

#[path = "rig/attacks.rs"]
mod attacks;
#[path = "rig/gate.rs"]
mod rig;

use std::io::{Read, Write};

use attacks::{Answer, ask_from, connect_from, read_answer};
use lightnvr::http::listener::listen;
use rig::{BASIC, Rig, start};

/// A request with `fields` (each with its line end) from an address of its own.
fn ask(rig: &Rig, line: &str, fields: &str, body: &str) -> Answer {
    let length =
        if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    let request = format!("{line} HTTP/1.1\r\nHost: localhost\r\n{fields}{length}\r\n{body}");
    ask_from(2, rig.addr, request.as_bytes()).expect("a whole reply")
}

fn open_rig() -> Rig {
    let rig = start(|_| {});
    rig.set(|settings| settings.web_auth_enabled = false);
    rig
}

#[test]
fn only_what_the_rest_layer_may_know_is_handed_on() {
    let rig = open_rig();
    let fields = "Content-Type: application/json\r\nCookie: c\r\nX-Request-Id: forged\r\nRange: r\r\n\
                  lightnvr-next: /x\r\nX-Forwarded-For: y\r\nIf-None-Match: \"t\"\r\nAccept: a/b\r\n";
    let answer = ask(&rig, "PUT /api/v1/x?y=z", fields, "{\"a\": 1}");
    let id = answer.field("x-request-id").expect("a name for the log");
    let want = format!(
        "PUT /api/v1/x?y=z HTTP/1.1\r\nHost: gate\r\nX-Request-Id: {id}\r\n\
         Content-Type: application/json\r\nAccept: a/b\r\nRange: r\r\nIf-None-Match: \"t\"\r\n\
         Content-Length: 8\r\n\r\n\r\n{{\"a\": 1}}"
    );
    assert_eq!(answer.text(), want);
}

#[test]
fn replies_get_our_fields_and_lose_those_of_the_hop() {
    let rig = open_rig();
    let answer = ask(&rig, "GET /api/v1/fields", "", "");
    assert_eq!(answer.head.matches("X-Content-Type-Options").count(), 1);
    for (name, value) in [
        ("x-content-type-options", Some("nosniff")),
        ("cache-control", Some("no-store")),
        ("x-own", Some("z")),
        ("server", None),
        ("keep-alive", None),
        ("upgrade", None),
        ("connection", None),
        ("lightnvr-task", None),
    ] {
        assert_eq!(answer.field(name), value, "{name}");
    }
    assert!(answer.field("date").is_some_and(|date| date.ends_with("GMT")));
    assert_eq!(ask(&rig, "GET /healthz", "", "").field("cache-control"), None);
}

#[test]
fn head_has_the_fields_of_get_and_no_body() {
    let rig = open_rig();
    let mut stream = connect_from(2, rig.addr);
    for path in ["/healthz", "/big"] {
        let head = format!("HEAD {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
        stream.write_all((head + &attacks::get(path)).as_bytes()).unwrap();
        let text = read_head(&mut stream);
        let whole = read_answer(&mut stream).unwrap();
        let length = format!("Content-Length: {}\r\n", whole.body.len());
        assert!(text.contains(&length), "{text}");
    }
    stream.write_all(b"HEAD /api/v1/pages HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    assert!(read_head(&mut stream).contains("Transfer-Encoding: chunked\r\n"));
    stream.write_all(attacks::get("/healthz").as_bytes()).unwrap();
    assert_eq!(read_answer(&mut stream).unwrap().text(), "ok", "the connection is in step");
}

/// A head alone, for a reply that has no body whatever its fields say.
fn read_head(stream: &mut std::net::TcpStream) -> String {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        text.push(byte[0]);
    }
    String::from_utf8(text).unwrap()
}

#[test]
fn http10_closes_unless_it_asks_not_to() {
    let rig = open_rig();
    let plain = ask_from(2, rig.addr, b"GET /healthz HTTP/1.0\r\n\r\n").unwrap();
    assert_eq!((plain.status, plain.field("connection")), (200, Some("close")));
    let mut stream = connect_from(2, rig.addr);
    for _ in 0..3 {
        stream.write_all(b"GET /healthz HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").unwrap();
        let answer = read_answer(&mut stream).unwrap();
        assert_eq!((answer.text(), answer.field("connection")), ("ok", Some("keep-alive")));
    }
    stream.write_all(b"GET /api/v1/pages HTTP/1.0\r\nConnection: keep-alive\r\n\r\n").unwrap();
    let pages = read_answer(&mut stream).unwrap();
    assert_eq!((pages.body.len(), pages.field("connection")), (500 << 10, Some("close")));
}

#[test]
fn pages_become_one_body_and_a_broken_one_has_no_end() {
    let rig = open_rig();
    let answer = ask(&rig, "GET /api/v1/pages?n=0&", "", "");
    let want: Vec<u8> = (b'0'..=b'4').flat_map(|digit| [digit].repeat(100 << 10)).collect();
    assert_eq!(answer.field("transfer-encoding"), Some("chunked"));
    assert!(answer.body == want);
    let broken = attacks::get("/api/v1/pages?n=0&break=2");
    assert!(ask_from(2, rig.addr, broken.as_bytes()).is_none(), "cut, not ended");
}

#[test]
fn pipelined_requests_are_answered_in_order_and_bodies_are_kept_apart() {
    let rig = open_rig();
    let mut stream = connect_from(2, rig.addr);
    let put = "PUT /api/a HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n\
               3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: u\r\n\r\n";
    let post = "POST /api/b HTTP/1.1\r\nHost: localhost\r\nContent-Length: 3\r\n\r\nGET";
    stream.write_all(format!("\r\n{put}{post}{}", attacks::get("/healthz")).as_bytes()).unwrap();
    let first = read_answer(&mut stream).unwrap();
    assert!(first.text().starts_with("PUT /api/a ") && first.text().ends_with("\r\n\r\nabcde"));
    let second = read_answer(&mut stream).unwrap();
    assert!(second.text().starts_with("POST /api/b ") && second.text().ends_with("\r\n\r\nGET"));
    assert_eq!(read_answer(&mut stream).unwrap().text(), "ok");
}

#[test]
fn who_expects_100_is_asked_for_the_body_unless_refused() {
    let rig = start(|_| {});
    let head =
        "PUT /api/x HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 2\r\n";
    let mut stream = connect_from(2, rig.addr);
    stream.write_all(format!("{head}Authorization: {BASIC}\r\n\r\n").as_bytes()).unwrap();
    assert_eq!(read_head(&mut stream), "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"ab").unwrap();
    assert!(read_answer(&mut stream).unwrap().text().ends_with("ab"));
    stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
    let refused = read_answer(&mut stream).unwrap();
    assert_eq!((refused.status, refused.field("connection")), (401, Some("close")));
}

#[test]
fn everything_under_api_needs_the_password() {
    let rig = start(|_| {});
    let right = format!("Authorization: {BASIC}\r\n");
    for path in
        ["/api/v1/streams", "/api/", "/api/nothing", "/%61pi/v1", "//API/v1", "/x/../api/v1"]
    {
        let answer = ask(&rig, &format!("GET {path}"), "", "");
        assert_eq!(answer.status, 401, "{path}");
        let challenge = "Basic realm=\"LightNVR\", charset=\"UTF-8\"";
        assert_eq!(answer.field("www-authenticate"), Some(challenge));
        assert_eq!(ask(&rig, &format!("GET {path}"), &right, "").status, 200, "{path}");
    }
    assert_eq!(ask(&rig, "GET /", "", "").status, 200);
    rig.set(|settings| settings.web_auth_enabled = false);
    assert_eq!(ask(&rig, "GET /api/v1/streams", "", "").status, 200);
}

#[test]
fn a_refused_request_leaves_the_connection_in_step() {
    let rig = start(|_| {});
    let mut stream = connect_from(2, rig.addr);
    for body in
        ["Content-Length: 5\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n"]
    {
        let put = format!("PUT /api/x HTTP/1.1\r\nHost: localhost\r\n{body}");
        stream.write_all((put + &attacks::get("/healthz")).as_bytes()).unwrap();
        assert_eq!(read_answer(&mut stream).unwrap().status, 401);
        assert_eq!(read_answer(&mut stream).unwrap().text(), "ok");
    }
}

#[test]
fn wrong_passwords_close_the_door_for_one_address_and_not_for_who_is_in() {
    let rig = start(|_| {});
    let from = |last, auth: &str| {
        let request =
            format!("GET /api/x HTTP/1.1\r\nHost: localhost\r\nAuthorization: {auth}\r\n\r\n");
        ask_from(last, rig.addr, request.as_bytes()).unwrap()
    };
    for _ in 0..5 {
        assert_eq!(from(3, "Basic YWRtaW46eA==").status, 401);
    }
    let closed = from(3, BASIC);
    assert_eq!(closed.status, 429);
    let seconds: u32 = closed.field("retry-after").unwrap().parse().unwrap();
    assert!((1..=12).contains(&seconds));
    assert_eq!(from(4, BASIC).status, 200, "another address is not concerned");
    assert_eq!(from(3, BASIC).status, 200, "a password that was verified passes");
}

#[test]
fn other_hosts_and_other_origins_are_refused() {
    let rig = open_rig();
    let status = |line: &str, host: &str, fields: &str| {
        let request = format!("{line} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n");
        ask_from(2, rig.addr, request.as_bytes()).unwrap().status
    };
    assert_eq!(status("GET /", "evil.example", ""), 403);
    assert_eq!(status("GET http://evil.example/", "localhost", ""), 403);
    assert_eq!(status("GET /", "cellar.local:8080", ""), 200);
    rig.set(|settings| settings.allowed_hosts = vec!["evil.example".into()]);
    assert_eq!(status("GET /", "evil.example", ""), 200);
    let foreign = "Origin: http://elsewhere.example\r\n";
    assert_eq!(status("POST /api/x", "localhost:1", foreign), 403);
    assert_eq!(status("DELETE /x", "localhost:1", "Origin: null\r\n"), 403);
    assert_eq!(status("GET /api/x", "localhost:1", foreign), 200);
    assert_eq!(status("POST /api/x", "localhost:1", "Origin: http://localhost:1\r\n"), 200);
    assert_eq!(status("POST /api/x", "localhost:1", ""), 200);
}

#[test]
fn two_hundred_at_once_then_429_but_media_have_their_own_rate() {
    let rig = open_rig();
    let mut stream = connect_from(2, rig.addr);
    let mut ask_on = |path: &str| {
        stream.write_all(attacks::get(path).as_bytes()).unwrap();
        read_answer(&mut stream).unwrap()
    };
    // The bucket fills up while it is emptied, at most as fast as this machine asks.
    let limited =
        (0..5000).map(|_| ask_on("/healthz")).find(|answer| answer.status != 200).unwrap();
    assert_eq!((limited.status, limited.field("retry-after")), (429, Some("1")));
    assert!(rig.counters.requests.get() > 200);
    assert_eq!(ask_on("/api/v1/streaming/0/x").status, 200);
    assert_eq!(ask_from(3, rig.addr, attacks::get("/healthz").as_bytes()).unwrap().status, 200);
    rig.set(|settings| settings.web_auth_enabled = true);
    let statuses: Vec<u16> = (0..100).map(|_| ask_on("/api/v1/streaming/0/x").status).collect();
    assert!(statuses.contains(&429), "media without a password are ordinary requests");
}

#[test]
fn a_rest_layer_in_trouble_is_an_error_and_no_hang() {
    let rig = start(|config| config.deadlines.exchange = std::time::Duration::from_secs(20));
    for _ in 0..10 {
        // Each leaves a pooled connection that is closed, or about to be, when it is wanted again.
        assert_eq!(ask(&rig, "GET /answer-and-close", "", "").text(), "ok");
    }
    assert_eq!(ask(&rig, "GET /healthz", "", "").text(), "ok");
    let authorization = format!("Authorization: {BASIC}\r\n");
    assert!(ask(&rig, "POST /api/x", &authorization, "abc").text().ends_with("abc"));
    for path in ["/die", "/too-big", "/panic"] {
        let answer = ask(&rig, &format!("GET {path}"), "", "");
        assert_eq!((answer.status, answer.text()), (500, "{\"error\":\"internal error\"}"));
    }
    assert_eq!(rig.counters.upstream_failed.get(), 2);
    assert_eq!(ask(&rig, "GET /healthz", "", "").text(), "ok");
}

#[test]
fn the_gate_moves_to_another_port_and_old_connections_live_on() {
    let rig = open_rig();
    let mut old = connect_from(2, rig.addr);
    let healthz = attacks::get("/healthz");
    old.write_all(healthz.as_bytes()).unwrap();
    assert_eq!(read_answer(&mut old).unwrap().text(), "ok");
    let next = listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let addr = next.local_addr();
    rig.listeners.send_blocking(next).unwrap();
    assert_eq!(ask_from(2, addr, healthz.as_bytes()).unwrap().text(), "ok");
    old.write_all(healthz.as_bytes()).unwrap();
    assert_eq!(read_answer(&mut old).unwrap().text(), "ok");
    let late = attacks::unconnected(2);
    assert!(rustix::net::connect(&late, &rig.addr).is_err(), "the old port is closed");
}
