//! Old recordings make room for new ones, protected ones stay, and without room recording stops with words.

mod rig;

use std::fs;
use std::path::Path;
use std::time::Duration;

use miniserde::json::Value;
use rig::fake_clock::FakeClock;
use rig::json::Look;
use rig::nvr::{self, Nvr, Recording};
use rig::temp_dir::TempDir;
use rig::wait;

/// Several files of ten seconds on a loaded machine.
const WITHIN: Duration = Duration::from_secs(90);

/// Bytes of all recordings below `dir`.
fn bytes_below(dir: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(dir) else { return 0 };
    let bytes = entries.map(|entry| {
        let path = entry.expect("the directory can be read").path();
        let is_video = path.extension().is_some_and(|extension| extension == "mp4");
        let bytes = fs::metadata(&path).map_or(0, |m| if is_video { m.len() } else { 0 });
        if path.is_dir() { bytes_below(&path) } else { bytes }
    });
    bytes.sum()
}

fn finished(nvr: &Nvr) -> Vec<Recording> {
    nvr.recordings("").into_iter().filter(|recording| !recording.in_progress).collect()
}

/// A recorder with one stream and files of ten seconds, the first of which is finished.
fn start(home: &Path) -> (Nvr, Recording) {
    let nvr = Nvr::start(home);
    nvr.set(r#"{"segment_seconds":10}"#);
    nvr.add_stream("cam", "testpattern://");
    let first = wait::until("a file is finished", WITHIN, || finished(&nvr).into_iter().next());
    (nvr, first)
}

fn put(nvr: &Nvr, path: &str, body: &str) {
    nvr.json("PUT", path, Some(body));
}

#[test]
fn a_limit_is_kept_and_a_protected_recording_survives() {
    let home = TempDir::new("retention_limit");
    let (nvr, first) = start(home.path());
    let protected = format!("/api/v1/recordings/{}", first.id);
    let row = nvr.json("PUT", &protected, Some(r#"{"protected":true}"#));
    assert!(row.field("protected").truth());
    let second = wait::until("another file is finished", WITHIN, || {
        finished(&nvr).into_iter().find(|recording| recording.id != first.id)
    });
    // Room for the protected one and about two more.
    let limit = 4 * first.size.max(second.size);
    nvr.set(&format!(r#"{{"max_storage_size":{limit}}}"#));
    let storage = home.path().join("data/recordings");
    let mut most = 0;
    wait::until("the second one has gone", WITHIN, || {
        most = most.max(bytes_below(&storage));
        (!second.path.exists()).then_some(())
    });
    assert!(most <= limit, "{most} of {limit} bytes");
    assert!(first.path.exists(), "it is protected");
    let ids: Vec<u64> = nvr.recordings("").iter().map(|recording| recording.id).collect();
    assert!(ids.contains(&first.id) && !ids.contains(&second.id), "{ids:?}");
    let ledger = nvr.json("GET", "/api/v1/streams/0/ledger", None);
    let states = ledger.field("spans").items().iter().map(|span| span.field("state").text());
    assert!(states.into_iter().any(|state| state == "deleted"));
    // By hand it can go.
    assert_eq!(nvr.request("DELETE", &protected, None).status, 200);
    assert!(!first.path.exists());
    assert!(nvr.stop().success());
    assert_eq!(nvr::check(home.path()), (Some(0), String::new()));
}

#[test]
fn without_auto_delete_recording_stops_with_words_and_resumes_by_itself() {
    let home = TempDir::new("retention_stop");
    let (nvr, first) = start(home.path());
    let limit = first.size + first.size / 2;
    nvr.set(&format!(r#"{{"auto_delete_oldest":false,"max_storage_size":{limit}}}"#));
    wait::until("recording has stopped", WITHIN, || {
        let detail = nvr.stream(0).field("status_detail").text().to_owned();
        detail.contains("max_storage_size").then_some(())
    });
    assert_eq!(nvr.stream(0).field("status").text(), "connected", "live view goes on");
    let health = nvr.request("GET", "/healthz", None);
    assert_eq!(health.status, 503, "{}", health.text());
    let stopped = nvr.wait_for_finished(0, WITHIN);
    assert!(first.path.exists(), "nothing was deleted");
    let bytes = bytes_below(&home.path().join("data/recordings"));
    assert!(bytes <= limit.max(stopped.iter().map(|r| r.size).sum()), "{bytes} of {limit} bytes");
    wait::until("the ledger says so", WITHIN, || {
        let ledger = nvr.json("GET", "/api/v1/streams/0/ledger", None);
        let last = ledger
            .field("spans")
            .items()
            .last()
            .map(|span| span.field("state").text() == "disk_full");
        last.filter(|is_full| *is_full)
    });
    let newest = stopped.iter().map(|recording| recording.id).max().expect("there are some");
    nvr.set(r#"{"max_storage_size":0}"#);
    wait::until("recording goes on", WITHIN, || {
        nvr.recordings("").into_iter().find(|recording| recording.id > newest)
    });
    assert_eq!(nvr.request("GET", "/healthz", None).status, 200);
}

#[test]
fn a_stream_s_own_limit_holds_for_it_alone() {
    let home = TempDir::new("retention_own");
    let (nvr, first) = start(home.path());
    nvr.add_stream("other", "testpattern://");
    let other = wait::until("the other has a file", WITHIN, || {
        finished(&nvr).into_iter().find(|recording| recording.stream_id == 1)
    });
    let limit = 2 * first.size;
    put(&nvr, "/api/v1/streams/0", &format!(r#"{{"max_storage_size":{limit}}}"#));
    assert_eq!(nvr.stream(0).field("max_storage_size").integer(), limit);
    wait::until("its oldest has gone", WITHIN, || (!first.path.exists()).then_some(()));
    assert!(other.path.exists(), "the other stream is not concerned");
    // Some seconds fit, and a month is wished.
    wait::until("the forecast says so", WITHIN, || {
        let system = nvr.json("GET", "/api/v1/system", None);
        let forecast = &system.field("forecast").items()[0];
        assert_eq!(forecast.field("days_wished").integer(), 30);
        let is_short =
            matches!(forecast.field("short_from"), Value::String(at) if at.ends_with('Z'));
        (is_short && forecast.field("days_kept").number() < 1.0).then_some(())
    });
    put(&nvr, "/api/v1/streams/0", r#"{"max_storage_size":null}"#);
    assert!(nvr.stream(0).field_if_any("max_storage_size").is_none());
}

/// Records something of a few seconds; gives it finished.
fn record_one(nvr: &Nvr) -> Recording {
    let before = finished(nvr).len();
    put(nvr, "/api/v1/streams/0", r#"{"record":true}"#);
    wait::until("something is recorded", WITHIN, || {
        nvr.recordings("").iter().any(|r| r.in_progress && r.duration >= 1.0).then_some(())
    });
    put(nvr, "/api/v1/streams/0", r#"{"record":false}"#);
    wait::until("it is finished", WITHIN, || {
        let all = finished(nvr);
        (all.len() > before).then(|| all.into_iter().last()).flatten()
    })
}

#[test]
fn what_is_older_than_retention_days_goes_and_a_kill_leaves_nothing_half() {
    let home = TempDir::new("retention_age");
    let life = |days: i64, streams: &str, act: &dyn Fn(&Nvr) -> Vec<Recording>| {
        let nvr = Nvr::start_by(home.path(), &FakeClock::new(home.path(), -days * 86_400));
        if !streams.is_empty() {
            nvr.json("POST", "/api/v1/streams", Some(streams));
        }
        let made = act(&nvr);
        assert!(nvr.stop().success());
        made
    };
    let stream =
        r#"{"name":"cam","url":"testpattern://","width":320,"height":240,"fps":10,"record":false}"#;
    let old = life(40, stream, &|nvr| {
        let made: Vec<Recording> = (0..3).map(|_| record_one(nvr)).collect();
        put(nvr, &format!("/api/v1/recordings/{}", made[0].id), r#"{"protected":true}"#);
        made
    });
    let newer = life(20, "", &|nvr| vec![record_one(nvr)]);
    let mut nvr = Nvr::start(home.path());
    wait::until("what is older than 30 days has begun to go", WITHIN, || {
        old[1..].iter().any(|r| !r.path.exists()).then_some(())
    });
    nvr.process.kill();
    let nvr = Nvr::start(home.path());
    wait::until("it has gone", WITHIN, || {
        let ids: Vec<u64> = nvr.recordings("").iter().map(|r| r.id).collect();
        let is_gone = |r: &Recording| !r.path.exists() && !ids.contains(&r.id);
        old[1..].iter().all(is_gone).then_some(())
    });
    assert!(old[0].path.exists() && newer[0].path.exists(), "protected, and not old enough");
    nvr.set(r#"{"retention_days":10}"#);
    wait::until("the newer one is too old now", WITHIN, || (!newer[0].path.exists()).then_some(()));
    assert!(old[0].path.exists(), "it is protected");
    let at =
        |days: i64| lightnvr::system::clock::iso_seconds(rig::ledger::now_ms() - days * 86_400_000);
    let path = format!("/api/v1/streams/0/ledger?start={}&end={}", at(21), at(19));
    let ledger = nvr.json("GET", &path, None);
    let states = ledger.field("spans").items().iter().map(|span| span.field("state").text());
    assert!(states.into_iter().any(|state| state == "deleted"));
    assert!(nvr.stop().success());
    assert_eq!(nvr::check(home.path()), (Some(0), String::new()));
}
