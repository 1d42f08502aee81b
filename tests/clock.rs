//! A board without a clock chip, and clocks that step: no file is overwritten, the order stays, the ledger says what
//! happened, and what was recorded before the time was known gets its true date.

mod rig;

use std::time::Duration;

use rig::clips;
use rig::fake_clock::FakeClock;
use rig::gst_server::{Auth, GstServer, Mount, Sets};
use rig::json::Look;
use rig::ledger::{self, OFF_MS_MAX, now_ms, parse_ms, states};
use rig::mp4;
use rig::nvr::{Nvr, Recording};
use rig::temp_dir::TempDir;
use rig::wait;

/// Anything that is waited for, on a loaded machine.
const WITHIN: Duration = Duration::from_secs(30);
const DAY_S: i64 = 86_400;
const STREAM: &str = r#"{"name":"Tor","url":"testpattern://","width":320,"height":240,"fps":10}"#;

/// Start and end of every recording, Unix milliseconds, in the order of the list.
fn times(nvr: &Nvr) -> Vec<(u64, i64, i64)> {
    let list = nvr.json("GET", "/api/v1/recordings", None);
    let rows = list.field("recordings").items().iter();
    let time = |row: &miniserde::json::Value, name: &str| parse_ms(row.field(name).text());
    rows.map(|row| (row.field("id").integer(), time(row, "start_time"), time(row, "end_time")))
        .collect()
}

/// Waits until `count` recordings have something in them.
#[track_caller]
fn wait_for_recordings(nvr: &Nvr, count: usize) {
    wait::until(&format!("{count} recordings"), WITHIN, || {
        (nvr.recordings("").iter().filter(|r| r.size > 0).count() >= count).then_some(())
    });
}

/// Stops the recorder: every file plays and is named after its start, and store and files agree.
#[track_caller]
fn check_all(nvr: Nvr, home: &std::path::Path) -> Vec<Recording> {
    nvr.json("PUT", "/api/v1/streams/0", Some(r#"{"enabled":false}"#));
    let recordings = nvr.wait_for_finished(0, WITHIN);
    for (recording, (_, start_ms, _)) in recordings.iter().zip(times(&nvr)) {
        mp4::check_plays(&recording.path);
        let stem = lightnvr::system::clock::file_stem(start_ms);
        let name = recording.path.file_name().and_then(|name| name.to_str()).expect("a name");
        assert!(name.starts_with(&stem), "{name} is from {stem}");
    }
    assert!(nvr.stop().success());
    assert_eq!(rig::nvr::check(home), (Some(0), String::new()));
    recordings
}

/// The time is learnt while the recorder runs; before, the clock was behind by so much.
fn check_first_sync(name: &str, behind_s: i64) {
    let home = TempDir::new(name);
    // A life before that knew the time.
    let mut nvr = Nvr::start(home.path());
    let begin = now_ms();
    nvr.set(r#"{"segment_seconds":10,"retention_days":1}"#);
    nvr.json("POST", "/api/v1/streams", Some(STREAM));
    ledger::wait_for_recorded_since(&nvr, 0, begin, WITHIN);
    nvr.process.kill();
    let killed_ms = now_ms();
    wait::pause(Duration::from_secs(3)); // a span of some length
    let clock = FakeClock::new(home.path(), -behind_s);
    let started_ms = now_ms();
    let nvr = Nvr::start_by(home.path(), &clock);
    // Two files with the wrong date, one of them finished.
    wait::until("two files with a wrong date", WITHIN, || {
        let wrong = times(&nvr).iter().filter(|(_, start, _)| *start < begin - 20_000).count();
        (wrong >= 2).then_some(())
    });
    let off = times(&nvr);
    clock.set(0);
    let known_ms = now_ms();
    wait::until("all have their true date", WITHIN, || {
        let now = times(&nvr);
        let is_dated = now.iter().all(|(_, start, _)| *start >= begin - 2000);
        (is_dated && now.len() > off.len()).then_some(())
    });
    ledger::wait_for_recorded_since(&nvr, 0, known_ms, WITHIN);
    let now = times(&nvr);
    assert!(off.iter().all(|(id, ..)| now.iter().any(|(kept, ..)| kept == id)), "none is deleted");
    assert!(now.is_sorted_by_key(|(_, start, _)| *start) && now.is_sorted_by_key(|(id, ..)| *id));
    assert!(
        now.windows(2).all(|pair| pair[0].2 <= pair[1].1 + 1000),
        "none lies over another: {now:?}"
    );
    let spans = ledger::since(&nvr, 0, begin);
    let restarts = spans.iter().filter(|span| span.state == "restart");
    let restart =
        restarts.max_by_key(|span| span.end_ms - span.start_ms).expect("it was restarted");
    check_near(restart.start_ms, killed_ms, 2500);
    // Until the first picture after the start, whose date was wrong at first.
    let wrong = off.iter().filter(|(_, start, _)| *start < begin - 20_000);
    let first_id = wrong.map(|(id, ..)| *id).min().expect("there are two");
    let first = now.iter().find(|(id, ..)| *id == first_id).expect("none is deleted");
    assert!((started_ms - OFF_MS_MAX..known_ms).contains(&restart.end_ms), "{spans:#?}");
    check_near(restart.end_ms, first.1, OFF_MS_MAX);
    // The first file by the true time follows on the last by the other one, from the next keyframe on.
    let last = now.iter().rfind(|(_, start, _)| *start < known_ms - 1000).expect("one from before");
    let first = now.iter().find(|(id, ..)| *id > last.0).expect("one from after");
    check_near(first.1, last.2, 5000);
    // What the clock showed instead has its name, as far as it was another time than that of the life before.
    let then = (off[0].1, off[0].1 + 1000);
    let old = ledger::between(&nvr, 0, then.0, Some(then.1));
    assert!(["clock_step", "not_configured"].contains(&states(&old)[0]), "{old:#?}");
    assert!(!states(&old).contains(&"recorded"), "{old:#?}");
    check_all(nvr, home.path());
}

#[track_caller]
fn check_near(got_ms: i64, want_ms: i64, off_ms: i64) {
    assert!((got_ms - want_ms).abs() <= off_ms, "{got_ms}, want {want_ms}");
}

#[test]
fn recordings_from_1970_get_their_true_date_once_the_time_is_known() {
    check_first_sync("clock_1970", now_ms() / 1000 - 100);
}

#[test]
fn recordings_of_a_clock_that_stood_still_for_months_get_their_true_date() {
    check_first_sync("clock_months", 100 * DAY_S);
}

#[test]
fn steps_of_an_hour_both_ways_are_named_and_overwrite_nothing() {
    let home = TempDir::new("clock_hour");
    let clock = FakeClock::new(home.path(), 0);
    // Until its next keyframe a file goes on by the old time: here that is a third of a second.
    let mounts = [Mount { path: "cam", clip: &clips::LONG_KEYS, sets: Sets::Both }];
    let server = GstServer::start(Auth::None, &mounts);
    let nvr = Nvr::start_by(home.path(), &clock);
    let begin = now_ms();
    nvr.keep_files_long();
    nvr.add_stream("cam", &server.url("cam"));
    ledger::wait_for_recorded_since(&nvr, 0, begin, WITHIN);
    clock.set(3600);
    let forward_ms = now_ms();
    wait_for_recordings(&nvr, 2);
    ledger::wait_for_recorded_since(&nvr, 0, forward_ms + 3_600_000, WITHIN);
    let spans = ledger::since(&nvr, 0, forward_ms - 1000);
    let step = spans.iter().find(|span| span.state == "clock_step").expect("the step is named");
    // Noticed with the next picture; recorded from the next keyframe on.
    check_near(step.start_ms, forward_ms, OFF_MS_MAX);
    check_near(step.end_ms, forward_ms + 3_600_000, OFF_MS_MAX);
    clock.set(0);
    let back_ms = now_ms();
    wait_for_recordings(&nvr, 3);
    ledger::wait_for_recorded_since(&nvr, 0, back_ms, WITHIN);
    let spans = ledger::since(&nvr, 0, back_ms - 1000);
    let step = spans.iter().find(|span| span.state == "clock_step").expect("the step is named");
    check_near(step.start_ms, back_ms, OFF_MS_MAX);
    let recordings = check_all(nvr, home.path());
    assert_eq!(recordings.len(), 3, "each time has its own file");
    let paths: std::collections::BTreeSet<_> = recordings.iter().map(|r| &r.path).collect();
    assert_eq!(paths.len(), 3);
}
