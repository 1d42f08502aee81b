//! What goes, in which order, and when recording is held.

use proptest::prelude::*;

use super::*;

const MB: u64 = 1_000_000;

/// The zero of the times below.
const ZERO_S: i64 = clock_core::SET_SINCE_MS / 1000;

/// Recordings of 10 s and 1 MB: (id, stream, start in seconds).
fn candidate(id: u64, stream_id: u32, start_s: i64) -> Candidate {
    let start_ms = (ZERO_S + start_s) * 1000;
    Candidate { id, stream_id, start_ms, end_ms: start_ms + 10_000, size: MB }
}

fn facts(now_s: i64, recordings: &[Candidate], disk: Option<(u64, u64)>, rate: u64) -> Facts {
    let mut streams: BTreeMap<u32, Use> = BTreeMap::new();
    for recording in recordings {
        let stream = streams.entry(recording.stream_id).or_default();
        stream.bytes += recording.size;
        stream.bytes_per_s = rate;
    }
    Facts { now_ms: (ZERO_S + now_s) * 1000, is_clock_trusted: true, disk, streams }
}

/// Runs a round as the shell does: ids in the order in which they go.
fn deleted(policy: &Policy, facts: Facts, recordings: &[Candidate]) -> (Vec<u64>, Facts) {
    let mut left = recordings.to_vec();
    left.sort_by_key(|c| (c.start_ms, c.id));
    let mut planner = Planner::new(policy, facts);
    let mut gone = Vec::new();
    loop {
        let mut heads = BTreeMap::new();
        for candidate in &left {
            heads.entry(candidate.stream_id).or_insert(*candidate);
        }
        let for_disk = || {
            let oldest = heads.values().min_by_key(|c| (c.start_ms, c.id)).copied();
            oldest.filter(|_| planner.is_disk_short())
        };
        let mut dated = BTreeMap::new();
        for candidate in left.iter().filter(|c| clock_core::is_set(c.start_ms)) {
            dated.entry(candidate.stream_id).or_insert(*candidate);
        }
        let Some(picked) = planner.pick(&heads, &dated).or_else(for_disk) else {
            return (gone, planner.facts);
        };
        planner.take(&picked);
        left.retain(|c| c.id != picked.id);
        gone.push(picked.id);
    }
}

fn days(n: i64) -> i64 {
    n * 86_400
}

#[test]
fn what_is_too_old_goes_oldest_first_and_per_stream() {
    let recordings = [
        candidate(1, 0, days(1)),
        candidate(2, 1, days(2)),
        candidate(3, 0, days(5)),
        candidate(4, 1, days(20)),
    ];
    let mut policy = Policy { retention_days: 10, ..Policy::default() };
    let now = facts(days(13), &recordings, None, 0);
    assert_eq!(deleted(&policy, now.clone(), &recordings).0, [1, 2]);
    let own = Override { retention_days: Some(0), max_storage_size: None };
    policy.overrides.insert(1, own);
    assert_eq!(deleted(&policy, now.clone(), &recordings).0, [1]);
    let undated = recordings.map(|c| Candidate { end_ms: c.end_ms - ZERO_S * 1000, ..c });
    assert_eq!(deleted(&policy, now.clone(), &undated).0, [0; 0]);
    let unsure = Facts { is_clock_trusted: false, ..now };
    assert_eq!(deleted(&policy, unsure, &recordings).0, [0; 0]);
}

#[test]
fn a_limit_is_kept_by_the_oldest_of_all_and_an_own_limit_by_its_stream() {
    let recordings: Vec<_> =
        (1..=20).map(|n| candidate(n, (n % 2) as u32, n as i64 * 10)).collect();
    let mut policy =
        Policy { max_storage_size: 16 * MB, auto_delete_oldest: true, ..Policy::default() };
    let now = facts(1000, &recordings, None, 0);
    // 16 MB less 2 % are 15.68 MB: five of twenty go.
    assert_eq!(deleted(&policy, now.clone(), &recordings).0, [1, 2, 3, 4, 5]);
    policy.max_storage_size = 0;
    let own = Override { retention_days: None, max_storage_size: Some(8 * MB) };
    policy.overrides.insert(1, own);
    assert_eq!(deleted(&policy, now.clone(), &recordings).0, [1, 3, 5]);
    policy.auto_delete_oldest = false;
    assert_eq!(deleted(&policy, now.clone(), &recordings).0, [0; 0]);
    let planner = Planner::new(&policy, now);
    assert_eq!(planner.hold(1, false), Some(Hold::StreamLimit));
    assert_eq!(planner.hold(0, false), None);
}

#[test]
fn the_larger_of_two_percent_and_two_minutes_is_kept_free() {
    assert_eq!(headroom(1000 * MB, 0), 20 * MB);
    assert_eq!(headroom(1000 * MB, MB), 120 * MB);
    assert_eq!(headroom(100 * MB, 10 * MB), 25 * MB);
    let recordings: Vec<_> = (1..=50).map(|n| candidate(n, 0, n as i64 * 10)).collect();
    let policy = Policy { auto_delete_oldest: true, ..Policy::default() };
    let now = facts(1000, &recordings, Some((1000 * MB, 17 * MB)), 0);
    let (gone, after) = deleted(&policy, now, &recordings);
    assert_eq!(gone, [1, 2, 3]);
    assert_eq!(after.disk, Some((1000 * MB, 20 * MB)));
}

#[test]
fn without_auto_delete_recording_stops_in_time_and_resumes_with_some_distance() {
    let policy = Policy { retention_days: 30, ..Policy::default() };
    let hold = |free: u64, was_held: bool| {
        let recordings = [candidate(1, 0, 0)];
        let now = facts(1000, &recordings, Some((1000 * MB, free)), 0);
        Planner::new(&policy, now).hold(0, was_held)
    };
    assert_eq!(hold(10 * MB, false), None);
    assert_eq!(hold(10 * MB - 1, false), Some(Hold::DiskFull));
    assert_eq!(hold(15 * MB - 1, true), Some(Hold::DiskFull));
    assert_eq!(hold(15 * MB, true), None);
    let unknown = facts(1000, &[candidate(1, 0, 0)], None, 0);
    assert_eq!(Planner::new(&policy, unknown).hold(0, true), None);
}

#[test]
fn the_forecast_says_how_long_and_from_when_it_is_too_short() {
    let recordings = [candidate(1, 0, 0), candidate(2, 1, 0)];
    // Two streams of 1 MB/s are 172.8 GB a day.
    let disk = Some((1_000_000 * MB, 884_000 * MB));
    let policy = Policy { retention_days: 30, ..Policy::default() };
    let planner = Planner::new(&policy, facts(0, &recordings, disk, MB));
    let forecast = planner.forecast();
    let kept = forecast[0].days_kept.expect("it is written");
    assert!((kept - 5.0).abs() < 0.01, "{kept}");
    assert_eq!(forecast[0].days_wished, Some(30));
    assert_eq!(forecast[0].short_from_ms, Some(ZERO_S * 1000 + 432_000_000));
    // One that wants only a day leaves its room to the other.
    let own = Override { retention_days: Some(1), max_storage_size: None };
    let policy = Policy { overrides: [(0, own)].into(), ..policy };
    let forecast = Planner::new(&policy, facts(0, &recordings, disk, MB)).forecast();
    assert_eq!((forecast[0].days_kept, forecast[0].short_from_ms), (Some(1.0), None));
    let kept = forecast[1].days_kept.expect("it is written");
    assert!((kept - 9.0).abs() < 0.01, "{kept}");
    // Without its wish it would share alike with the other.
    let fit = forecast[0].days_fit.expect("it is written");
    assert!((fit - 5.0).abs() < 0.01, "{fit}");
    // More fits than is kept, and a limit in bytes is no wish for an age.
    let own = Override { retention_days: Some(0), max_storage_size: Some(86_400 * MB) };
    let policy = Policy { overrides: [(0, own)].into(), retention_days: 2, ..policy };
    let forecast = Planner::new(&policy, facts(0, &recordings, disk, MB)).forecast();
    assert_eq!(forecast[0].days_kept, forecast[0].days_fit);
    assert!(forecast[0].days_fit.is_some_and(|days| (0.9..=1.0).contains(&days)));
    assert_eq!(forecast[1].days_kept, Some(2.0));
    assert!(forecast[1].days_fit.is_some_and(|days| days > 8.9));
    let silent = Planner::new(&policy, facts(0, &recordings, disk, 0)).forecast();
    assert_eq!((silent[0].days_kept, silent[1].short_from_ms), (None, None));
}

proptest! {
    #[test]
    fn after_a_round_every_rule_holds_or_nothing_is_left(
        starts in proptest::collection::vec((0_u32..4, 0_i64..2000), 0..40),
        retention_s in 0_u32..3,
        limits in (0_u64..40, 0_u64..20),
        free in 0_u64..60,
        auto_delete_oldest in any::<bool>(),
        rate in 0_u64..200_000,
    ) {
        let recordings: Vec<_> = starts
            .iter()
            .enumerate()
            .map(|(n, (stream, start))| candidate(n as u64 + 1, *stream, *start * 200))
            .collect();
        let policy = Policy {
            retention_days: retention_s,
            max_storage_size: limits.0 * MB,
            auto_delete_oldest,
            overrides: [(2, Override { retention_days: None, max_storage_size: Some(limits.1 * MB) })].into(),
        };
        let before = facts(400_000, &recordings, Some((1000 * MB, free * MB)), rate);
        let (gone, after) = deleted(&policy, before.clone(), &recordings);
        let left: Vec<_> = recordings.iter().filter(|c| !gone.contains(&c.id)).collect();
        let planner = Planner::new(&policy, after.clone());
        prop_assert!(!left.iter().any(|c| planner.is_expired(c)));
        if auto_delete_oldest {
            let has_own = left.iter().any(|c| c.stream_id == 2);
            prop_assert!(!has_own || !planner.stream_space(2).is_some_and(|s| s.is_short()));
            let is_short = planner.spaces().iter().any(|(space, _)| space.is_short());
            prop_assert!(left.is_empty() || !is_short);
        } else {
            let planner = Planner::new(&policy, before);
            let is_expired = |id: &u64| recordings.iter().any(|c| c.id == *id && planner.is_expired(c));
            prop_assert!(gone.iter().all(is_expired));
        }
        // Within a stream nothing goes before what is older.
        for c in &left {
            let is_younger_gone = recordings.iter().any(|g| {
                gone.contains(&g.id) && g.stream_id == c.stream_id && (g.start_ms, g.id) > (c.start_ms, c.id)
            });
            prop_assert!(!is_younger_gone);
        }
        for forecast in planner.forecast() {
            prop_assert!(forecast.days_kept.is_none_or(|days| days >= 0.0));
        }
    }
}

#[test]
fn what_is_of_unknown_age_keeps_nothing_else_from_going() {
    let of_1970 = Candidate { start_ms: 5000, end_ms: 6000, ..candidate(1, 0, 0) };
    let recordings = [of_1970, candidate(2, 0, days(1)), candidate(3, 0, days(40))];
    let policy = Policy { retention_days: 30, ..Policy::default() };
    let (gone, _) = deleted(&policy, facts(days(45), &recordings, None, 0), &recordings);
    assert_eq!(gone, [2]);
}
