//! Sessions of the program itself: the first password, changing it, and what ends with it.

mod rig;

use rig::http::{self, Response};
use rig::json::{self, Look};
use rig::nvr::{self, Nvr, PASSWORD};
use rig::temp_dir::TempDir;

const PATH: &str = "/api/v1/session";
const PAGE: (&str, &str) = ("X-Requested-With", "lightnvr");
const JSON: (&str, &str) = ("Content-Type", "application/json");

fn ask(nvr: &Nvr, method: &str, path: &str, fields: &[(&str, &str)], body: &str) -> Response {
    let body = (!body.is_empty()).then_some(body.as_bytes());
    let fields = [fields, &[PAGE, JSON]].concat();
    http::request(nvr.addr, method, path, &fields, body).expect("an answer")
}

fn login(password: &str) -> String {
    format!(r#"{{"username":"admin","password":{}}}"#, json::quote(password))
}

/// Logs in; gives the cookie.
fn log_in(nvr: &Nvr, password: &str) -> String {
    let answer = ask(nvr, "POST", PATH, &[], &login(password));
    assert_eq!(answer.status, 200, "{}", answer.text());
    let set = answer.header("set-cookie").expect("a cookie");
    set.split_once(';').expect("attributes").0.to_owned()
}

fn must_change(nvr: &Nvr, cookie: &str) -> bool {
    let answer = ask(nvr, "GET", PATH, &[("Cookie", cookie)], "");
    assert_eq!(answer.status, 200, "{}", answer.text());
    let session = json::parse(answer.text());
    assert_eq!(session.field("username").text(), "admin");
    session.field("must_change_password").truth()
}

#[test]
fn the_first_password_is_to_be_changed_and_the_change_ends_other_sessions() {
    let home = TempDir::new("session_first");
    let start = || {
        let mut command = nvr::command(&home.path().join("data"));
        Nvr::run(command.args(["--listen", "127.0.0.1:0"]), "")
    };
    let nvr = start();
    let printed = home.path().join("data/initial-password");
    let first = std::fs::read_to_string(&printed).expect("kept until it is changed");
    let first = first.trim();
    let own = log_in(&nvr, first);
    let other = log_in(&nvr, first);
    assert!(must_change(&nvr, &own));
    let change = |current: &str, new: &str, cookie: &str| {
        let body = format!(r#"{{"current":"{current}","new":"{new}"}}"#);
        ask(&nvr, "PUT", "/api/v1/password", &[("Cookie", cookie)], &body).status
    };
    assert_eq!(change("wrong", "a password of mine", &own), 400);
    assert!(must_change(&nvr, &other), "nothing has changed");
    assert_eq!(change(first, "a password of mine", &own), 200);
    assert!(!must_change(&nvr, &own), "at once");
    let ended = ask(&nvr, "GET", PATH, &[("Cookie", &other)], "");
    assert_eq!((ended.status, ended.header("www-authenticate")), (401, None));
    assert_eq!(ask(&nvr, "POST", PATH, &[], &login(first)).status, 401);
    assert!(nvr.stop().success());

    let nvr = start();
    let gone = ask(&nvr, "GET", PATH, &[("Cookie", &own)], "");
    assert_eq!(gone.status, 401, "sessions end with the program");
    assert!(!must_change(&nvr, &log_in(&nvr, "a password of mine")));
}

#[test]
fn a_given_password_is_the_owner_s_own_and_a_session_does_all_that_basic_does() {
    let home = TempDir::new("session_given");
    let mut nvr = Nvr::start(home.path());
    let cookie = log_in(&nvr, PASSWORD);
    assert!(!must_change(&nvr, &cookie));
    let fields = [("Cookie", cookie.as_str())];
    let stream = r#"{"name":"Yard","url":"testpattern://","enabled":false}"#;
    assert_eq!(ask(&nvr, "POST", "/api/v1/streams", &fields, stream).status, 200);
    assert_eq!(ask(&nvr, "DELETE", "/api/v1/streams/0", &fields, "").status, 200);
    let bare = [fields[0], JSON];
    let answer = http::request(nvr.addr, "PUT", "/api/v1/settings", &bare, Some(b"{}"));
    assert_eq!(answer.expect("an answer").status, 403, "no proof of where it comes from");

    let log = ask(&nvr, "GET", "/api/v1/system/log", &fields, "");
    assert!(log.status == 200 && log.text().contains("storage attached"), "{}", log.text());
    assert!(!log.text().contains(PASSWORD) && !log.text().contains(&cookie));

    // Basic changes the password: every session ends.
    let body = format!(r#"{{"current":"{PASSWORD}","new":"another password"}}"#);
    nvr.json("PUT", "/api/v1/password", Some(&body));
    nvr.use_password("another password");
    assert_eq!(ask(&nvr, "GET", PATH, &fields, "").status, 401);

    let cookie = log_in(&nvr, "another password");
    let fields = [("Cookie", cookie.as_str())];
    let out = ask(&nvr, "DELETE", PATH, &fields, "");
    assert_eq!((out.status, out.text()), (200, r#"{"success":true}"#));
    assert_eq!(ask(&nvr, "GET", PATH, &fields, "").status, 401);
    assert_eq!(nvr.request("DELETE", PATH, None).status, 200, "with Basic there is none to end");
    let session = nvr.json("GET", PATH, None);
    assert_eq!(session.field("username").text(), "admin", "Basic may ask, too");
}

#[test]
fn a_login_is_checked_like_every_body() {
    let home = TempDir::new("session_body");
    let nvr = Nvr::start(home.path());
    for (body, status, part) in [
        ("", 400, "body is empty"),
        ("{", 400, "JSON"),
        (r#"{"username":"admin"}"#, 400, "password: is required"),
        (r#"{"username":"admin","password":"x","y":1}"#, 400, "y: unknown field"),
        (r#"{"username":"root","password":"x"}"#, 401, "wrong user name or password"),
    ] {
        let answer = ask(&nvr, "POST", PATH, &[], body);
        assert_eq!(answer.status, status, "{body}: {}", answer.text());
        assert!(answer.text().contains(part), "{body}: {}", answer.text());
    }
    let plain = http::request(nvr.addr, "POST", PATH, &[], Some(b"{}")).expect("an answer");
    assert_eq!(plain.status, 415);
    // A few wrong ones close the door for this address: how many, depends on how fast they are checked.
    let closed = (0..50).map(|_| ask(&nvr, "POST", PATH, &[], &login("x")));
    let closed = closed.into_iter().find(|answer| answer.status != 401).expect("the door closes");
    assert!(closed.status == 429 && closed.header("retry-after").is_some(), "{}", closed.text());
}
