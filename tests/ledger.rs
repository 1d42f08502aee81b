//! The ledger tells, to a second, what was done to the recorder.

mod rig;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use lightnvr::store::{Change, Store};

use rig::clips;
use rig::fake_camera::{FakeCamera, IDR, Manner, frame, rtp};
use rig::gst_server::{Auth, GstServer, Mount, Sets};
use rig::json::Look;
use rig::ledger::{self, OFF_MS_MAX, Span, now_ms, parse_ms, states};
use rig::mp4;
use rig::nvr::Nvr;
use rig::temp_dir::TempDir;
use rig::wait;

/// Anything that is waited for, on a loaded machine.
const WITHIN: Duration = Duration::from_secs(30);
/// What a killed recorder may lose: two seconds that were being built or gathered, and a sync round.
const LOST_MS_MAX: i64 = 3000;

#[track_caller]
fn ledger(nvr: &Nvr, stream_id: u64, start_ms: i64) -> Vec<Span> {
    ledger::since(nvr, stream_id, start_ms)
}

#[track_caller]
fn wait_for_states(nvr: &Nvr, stream_id: u64, start_ms: i64, want: &[&str]) -> Vec<Span> {
    ledger::wait_for_states(nvr, stream_id, start_ms, want, WITHIN)
}

#[track_caller]
fn wait_for_recorded_since(nvr: &Nvr, stream_id: u64, since_ms: i64) {
    ledger::wait_for_recorded_since(nvr, stream_id, since_ms, WITHIN);
}

/// When something was asked for, and when it was answered: it took effect in between.
#[derive(Clone, Copy, Debug)]
struct Moment {
    asked_ms: i64,
    done_ms: i64,
}

fn moment(act: impl FnOnce()) -> Moment {
    let asked_ms = now_ms();
    act();
    Moment { asked_ms, done_ms: now_ms() }
}

fn moment_at(ms: i64) -> Moment {
    Moment { asked_ms: ms, done_ms: ms }
}

#[track_caller]
fn check_moment(got_ms: i64, want: Moment) {
    let is_near = got_ms >= want.asked_ms - OFF_MS_MAX && got_ms <= want.done_ms + OFF_MS_MAX;
    assert!(is_near, "{got_ms}, want {want:?}");
}

/// The span is what was injected between these times.
#[track_caller]
fn check_span(span: &Span, from: Moment, to: Moment) {
    check_moment(span.start_ms, from);
    check_moment(span.end_ms, to);
}

/// From `asked_ms` on the recorder could know of the camera; when this is over, pictures come. How long that takes is
/// the camera's and the machine's affair. All cameras here have a keyframe in the first second.
#[track_caller]
fn pictures_come(nvr: &Nvr, stream_id: u64, asked_ms: i64) -> Moment {
    nvr.wait_for_status(stream_id, "connected", WITHIN);
    Moment { asked_ms, done_ms: now_ms() }
}

/// Since `begin_ms` the stream was recorded, but while the program was not running: from the last picture in the files of
/// before (not more than a killed recorder may lose before it was killed) until pictures came again.
#[track_caller]
fn check_down(
    nvr: &Nvr,
    stream_id: u64,
    begin_ms: i64,
    state: &str,
    killed_ms: i64,
    started: Moment,
) {
    let spans = ledger(nvr, stream_id, begin_ms);
    let at = spans.iter().position(|span| span.state == state).expect("it was down");
    let around: Vec<_> = spans[at - 1..=at + 1].iter().map(|span| span.state.as_str()).collect();
    assert_eq!(around, ["recorded", state, "recorded"], "{spans:#?}");
    let rows = nvr.json("GET", &format!("/api/v1/recordings?stream_id={stream_id}"), None);
    let ends = rows.field("recordings").items().iter().map(|row| {
        let path = PathBuf::from(row.field("path").text());
        let last_s = mp4::packets(&path, "v").last().expect("a picture").pts_s;
        parse_ms(row.field("start_time").text()) + (last_s * 1000.0) as i64
    });
    let last_ms = ends.filter(|end| *end < killed_ms + OFF_MS_MAX).max().expect("from before");
    assert!(last_ms >= killed_ms - LOST_MS_MAX, "{last_ms} {killed_ms}");
    check_moment(spans[at].start_ms, moment_at(last_ms));
    check_moment(spans[at].end_ms, started);
}

fn put(nvr: &Nvr, stream_id: u64, body: &str) {
    nvr.json("PUT", &format!("/api/v1/streams/{stream_id}"), Some(body));
}

#[test]
fn what_the_owner_switches_off_is_in_the_ledger() {
    let home = TempDir::new("ledger_switches");
    let mounts = [Mount { path: "cam", clip: &clips::LONG_KEYS, sets: Sets::Both }];
    let server = GstServer::start(Auth::None, &mounts);
    let nvr = Nvr::start(home.path());
    let mut id = 0;
    let created = moment(|| id = nvr.add_stream("cam", &server.url("cam")));
    wait_for_recorded_since(&nvr, id, created.done_ms);
    let begin = created.asked_ms - 10_000;
    let spans = wait_for_states(&nvr, id, begin, &["not_configured", "source_down", "recorded"]);
    check_moment(spans[0].end_ms, created);

    let off = moment(|| put(&nvr, id, r#"{"record":false}"#));
    wait::pause(Duration::from_secs(3)); // a span of some length
    let on = moment(|| put(&nvr, id, r#"{"record":true}"#));
    wait_for_recorded_since(&nvr, id, on.done_ms);
    let mut want = vec!["not_configured", "source_down", "recorded", "record_off", "recorded"];
    let spans = wait_for_states(&nvr, id, begin, &want);
    check_moment(spans[3].start_ms, off);
    // This camera has a keyframe three times a second.
    check_moment(spans[3].end_ms, on);

    let off = moment(|| put(&nvr, id, r#"{"enabled":false}"#));
    wait::pause(Duration::from_secs(3));
    let asked_ms = now_ms();
    put(&nvr, id, r#"{"enabled":true}"#);
    let on = pictures_come(&nvr, id, asked_ms);
    wait_for_recorded_since(&nvr, id, on.done_ms);
    want.extend(["disabled", "recorded"]);
    let spans = wait_for_states(&nvr, id, begin, &want);
    check_span(&spans[5], off, on);

    let path = format!("/api/v1/streams/{id}");
    let gone = moment(|| drop(nvr.json("DELETE", &path, None)));
    want.push("not_configured");
    let spans = wait_for_states(&nvr, id, begin, &want);
    check_moment(spans[7].start_ms, gone);
    assert_eq!(nvr.request("GET", "/api/v1/streams/99/ledger", None).status, 404);
}

#[test]
fn a_deleted_recording_is_deleted_in_the_ledger() {
    let home = TempDir::new("ledger_deleted");
    let nvr = Nvr::start(home.path());
    let begin = now_ms();
    let id = nvr.add_stream("cam", "testpattern://");
    wait_for_recorded_since(&nvr, id, begin);
    put(&nvr, id, r#"{"record":false}"#);
    let recording = nvr.wait_for_finished(id, WITHIN).remove(0);
    let path = format!("/api/v1/recordings/{}", recording.id);
    let row = nvr.json("GET", &path, None);
    assert_eq!(nvr.request("DELETE", &path, None).status, 200);
    assert!(!recording.path.exists(), "the file is gone");
    let spans = ledger(&nvr, id, begin);
    let deleted = spans.iter().find(|span| span.state == "deleted").expect("it was recorded");
    check_span(
        deleted,
        moment_at(parse_ms(row.field("start_time").text())),
        moment_at(parse_ms(row.field("end_time").text())),
    );
    assert!(!states(&spans).contains(&"recorded"), "{spans:#?}");
}

#[test]
fn a_killed_recorder_says_when_it_was_not_running() {
    let home = TempDir::new("ledger_killed");
    let mut nvr = Nvr::start(home.path());
    let begin = now_ms();
    let id = nvr.add_stream("cam", "testpattern://");
    let off = nvr.add_stream("off", "testpattern://");
    put(&nvr, off, r#"{"record":false}"#);
    wait_for_recorded_since(&nvr, id, begin + 3000);
    let killed_ms = now_ms();
    nvr.process.kill();
    wait::pause(Duration::from_secs(3));
    let started_ms = now_ms();
    let nvr = Nvr::start(home.path());
    let started = pictures_come(&nvr, id, started_ms);
    wait_for_recorded_since(&nvr, id, started_ms);
    check_down(&nvr, id, begin, "restart", killed_ms, started);
    // The other stream: the same time, between two of its own reason.
    let spans = ledger(&nvr, off, begin);
    let tail = &states(&spans)[spans.len() - 3..];
    assert_eq!(tail, ["record_off", "restart", "record_off"], "{spans:#?}");
}

#[test]
fn a_camera_that_goes_away_is_down_until_it_is_back() {
    let home = TempDir::new("ledger_source");
    let mounts = [Mount { path: "cam", clip: &clips::LONG_KEYS, sets: Sets::Both }];
    let mut server = GstServer::start(Auth::None, &mounts);
    let nvr = Nvr::start(home.path());
    let begin = now_ms();
    let id = nvr.add_stream("cam", &server.url("cam"));
    wait_for_recorded_since(&nvr, id, begin + 2000);
    let down = moment(|| server.kill());
    nvr.wait_for_status(id, "reconnecting", WITHIN);
    wait::pause(Duration::from_secs(2));
    let spans = ledger(&nvr, id, begin);
    let last = spans.last().expect("a span");
    assert_eq!(last.state, "source_down", "{spans:#?}");
    check_moment(last.start_ms, down);
    // Elsewhere, as a camera that was given another address.
    let server = GstServer::start(Auth::None, &mounts);
    let asked_ms = now_ms();
    put(&nvr, id, &format!(r#"{{"url":"{}"}}"#, server.url("cam")));
    let back = pictures_come(&nvr, id, asked_ms);
    wait_for_recorded_since(&nvr, id, back.done_ms);
    let since_ms = down.asked_ms - 2000;
    let spans = wait_for_states(&nvr, id, since_ms, &["recorded", "source_down", "recorded"]);
    check_span(&spans[1], down, back);
}

#[test]
fn a_bad_question_is_answered_with_400() {
    let home = TempDir::new("ledger_bad");
    let nvr = Nvr::start(home.path());
    let id = nvr.add_stream("cam", "testpattern://");
    for query in [
        "start=yesterday",
        "limit=5",
        "start=2025-03-09T10:00:00Z&end=2025-03-09T10:00:00Z",
        "start=2025-03-09T10:00:00Z&start=2025-03-09T10:00:00Z",
    ] {
        let answer = nvr.request("GET", &format!("/api/v1/streams/{id}/ledger?{query}"), None);
        assert_eq!(answer.status, 400, "{query}: {}", answer.text());
    }
    let answer =
        nvr.json("GET", &format!("/api/v1/streams/{id}/ledger?start=2125-03-09T10:00:00Z"), None);
    assert_eq!(answer.field("spans").items().len(), 0);
}

#[test]
fn a_machine_that_was_off_is_told_from_a_program_that_was() {
    let home = TempDir::new("ledger_power");
    let mut nvr = Nvr::start(home.path());
    let begin = now_ms();
    let id = nvr.add_stream("cam", "testpattern://");
    wait_for_recorded_since(&nvr, id, begin + 3000);
    let killed_ms = now_ms();
    nvr.process.kill();
    // What the store knows after a power cut: another run of the machine.
    let store = Store::open(&home.path().join("data")).expect("the recorder is gone");
    let alive_ms = store.reader().last_alive().expect("it can be read").0.expect("it was alive");
    let boot = Change::Boot("another run of the machine".into(), alive_ms);
    store.commit(&[boot]).expect("it can be written");
    drop(store);
    wait::pause(Duration::from_secs(3));
    let started_ms = now_ms();
    let nvr = Nvr::start(home.path());
    let started = pictures_come(&nvr, id, started_ms);
    wait_for_recorded_since(&nvr, id, started_ms);
    check_down(&nvr, id, begin, "power_off", killed_ms, started);
}

#[test]
fn a_camera_that_falls_silent_within_a_session_loses_that_time() {
    let home = TempDir::new("ledger_silent");
    let silence = Arc::new(Mutex::new(Vec::new()));
    let told = Arc::clone(&silence);
    let camera = FakeCamera::playing(Manner::default(), move |peer| {
        let began = Instant::now();
        let mut number = 0_u16;
        for (at_s, length_s) in [(0, 5), (9, 60)] {
            let until = Duration::from_secs(at_s + length_s);
            told.lock().expect("no panic").push(now_ms());
            while began.elapsed() < until {
                let timestamp = (began.elapsed().as_micros() * 9 / 100) as u32;
                if !peer.send(&frame(0, &rtp(number, timestamp, true, IDR))) {
                    return;
                }
                number = number.wrapping_add(1);
                wait::pause(Duration::from_millis(100));
            }
            told.lock().expect("no panic").push(now_ms());
            wait::pause(Duration::from_secs(at_s + length_s + 4).saturating_sub(began.elapsed()));
        }
    });
    let nvr = Nvr::start(home.path());
    let begin = now_ms();
    let id = nvr.add_stream("cam", &camera.url());
    wait_for_recorded_since(&nvr, id, begin + 12_000);
    let told = silence.lock().expect("no panic").clone();
    let since_ms = told[1] - 1000;
    let spans = wait_for_states(&nvr, id, since_ms, &["recorded", "source_loss", "recorded"]);
    check_moment(spans[1].start_ms, moment_at(told[1]));
    check_moment(spans[1].end_ms, moment_at(told[2]));
    drop(nvr);
}
