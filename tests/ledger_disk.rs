//! The ledger during disk faults: with next to no memory to wait in, it shows exactly the seconds that are in no file,
//! with the reason, and none that is in one. What is in the files is read by ffprobe.

mod rig;

use std::time::Duration;

use rig::bench::{self, Bench, TIGHT};
use rig::fault_disk::{Faults, Op, WRITES};
use rig::ledger::{OFF_MS_MAX, Span, now_ms};
use rig::temp_dir::TempDir;
use rustix::io::Errno;

const WITHIN: Duration = Duration::from_secs(30);
/// The pattern has ten pictures a second, on a loaded machine some less; a group of them lasts 2 s, and so little memory
/// may keep the first picture of each.
const HOLE_MS_MIN: i64 = 1500;
/// A shorter gap than `HOLE_MS_MIN` may be said or not; one that is shorter than this is none.
const GAP_MS_MIN: i64 = 350;
/// Two pictures.
const PICTURES_MS: i64 = 250;
const FAULT: Duration = Duration::from_secs(7);

/// Where no picture is for longer than `ms_min`.
fn holes(pictures: &[i64], from_ms: i64, to_ms: i64, ms_min: i64) -> Vec<(i64, i64)> {
    let pairs = pictures.windows(2).map(|pair| (pair[0].max(from_ms), pair[1].min(to_ms)));
    pairs.filter(|(from, to)| to - from > ms_min).collect()
}

/// Where the ledger says for as long that nothing is recorded. Of a lost group of pictures the last one counts
/// until it was taken, not until it was to be replaced.
fn missing(spans: &[Span]) -> Vec<(i64, i64)> {
    let mut joined: Vec<(i64, i64)> = Vec::new();
    for span in spans.iter().filter(|span| span.state != "recorded") {
        match joined.last_mut() {
            Some(last) if span.start_ms - last.1 <= PICTURES_MS => last.1 = span.end_ms,
            _ => joined.push((span.start_ms, span.end_ms)),
        }
    }
    joined.retain(|(from, to)| to - from > HOLE_MS_MIN);
    joined
}

fn check_same(bench: &Bench, from_ms: i64, to_ms: i64, state: &str) {
    let pictures = bench.pictures();
    let gaps = holes(&pictures, from_ms, to_ms, GAP_MS_MIN);
    let holes = holes(&pictures, from_ms, to_ms, HOLE_MS_MIN);
    let spans = bench.ledger(from_ms, to_ms);
    let missing = missing(&spans);
    let what = format!("files lack {gaps:?}, the ledger says {spans:#?}");
    assert!(!holes.is_empty(), "the fault cost something: {what}");
    // Neighbours may run together where one picture or two lie between them.
    let is_in = |at: i64, ranges: &[(i64, i64)]| {
        ranges.iter().any(|(from, to)| from - OFF_MS_MAX <= at && at <= to + OFF_MS_MAX)
    };
    for &(from, to) in &holes {
        let is_said =
            (from + OFF_MS_MAX..to - OFF_MS_MAX).step_by(100).all(|at| is_in(at, &missing));
        assert!(is_said && is_in(from, &missing) && is_in(to, &missing), "{from}..{to}: {what}");
    }
    for &(from, to) in &missing {
        let is_true = (from..to).step_by(100).all(|at| is_in(at, &gaps));
        assert!(is_true, "{from}..{to} is in a file: {what}");
    }
    let wrong = spans.iter().filter(|span| span.state != "recorded" && span.state != state);
    let wrong_ms: i64 = wrong.map(|span| span.end_ms - span.start_ms).sum();
    assert!(wrong_ms <= OFF_MS_MAX, "{what}");
}

fn check_fault(name: &str, state: &'static str, begin: impl FnOnce(&Faults)) {
    let home = TempDir::new(name);
    bench::run_with(home.path(), TIGHT, |bench| async move {
        let recorded_beyond = async |at_ms: i64| {
            bench
                .until("it is recorded", WITHIN, |snapshot| {
                    snapshot.running.iter().any(|running| running.end_ms > at_ms).then_some(())
                })
                .await;
        };
        let started = now_ms();
        recorded_beyond(started + 3000).await;
        let from_ms = now_ms() - 1000;
        begin(&bench.faults);
        bench.pass(FAULT).await;
        bench.faults.clear();
        let to_ms = now_ms() + 3000;
        recorded_beyond(to_ms + 1000).await;
        // What was lost is told every second.
        bench.pass(Duration::from_secs(3)).await;
        check_same(&bench, from_ms, to_ms, state);
    });
}

#[test]
fn a_full_disk() {
    check_fault("ledger_full", "disk_full", |faults| {
        faults.fail(&[Op::Create, Op::Append], Errno::NOSPC.raw_os_error());
    });
}

#[test]
fn a_read_only_disk() {
    check_fault("ledger_readonly", "disk_readonly", |faults| {
        faults.fail(&WRITES, Errno::ROFS.raw_os_error());
    });
}

#[test]
fn a_disk_with_errors() {
    check_fault("ledger_error", "disk_error", |faults| {
        faults.fail(&WRITES, Errno::IO.raw_os_error());
    });
}

#[test]
fn an_unplugged_disk() {
    check_fault("ledger_missing", "disk_missing", Faults::unplug);
}

#[test]
fn a_disk_that_stands_still() {
    check_fault("ledger_stalled", "disk_stalled", Faults::stall);
}

#[test]
fn a_disk_that_is_too_slow() {
    check_fault("ledger_overload", "overload", |faults| faults.slow(Duration::from_millis(1500)));
}
