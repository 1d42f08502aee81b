//! The store as a whole: what goes in comes out, also after a reopen.

use super::*;
use crate::media::format::VideoCodec;

struct Dir(std::path::PathBuf);

impl Dir {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("lightnvr-{name}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn row(id: u64, stream_id: u32, start_s: i64) -> RecordingRow {
    RecordingRow {
        id,
        stream_id,
        stream_name: format!("cam {stream_id}"),
        start_ms: start_s * 1000,
        end_ms: (start_s + 10) * 1000,
        size: 1000 + id,
        path: format!("/r/{stream_id}/{id}.mp4"),
        in_progress: false,
        is_protected: false,
    }
}

fn stream(id: u32) -> StreamConfig {
    StreamConfig {
        id,
        name: format!("cam {id}"),
        url: "rtsp://u:p@host/1".into(),
        enabled: true,
        width: 1,
        height: 2,
        fps: 3,
        codec: VideoCodec::H265,
        priority: 4,
        record: false,
        retention_days: None,
        max_storage_size: Some(3),
        transport: crate::config::transport::Transport::Tcp,
        tls_fingerprint: None,
    }
}

#[test]
fn what_was_committed_is_there_after_a_reopen() {
    let dir = Dir::new("store-reopen");
    let mut settings = Settings::new("/r".into());
    settings.retention_days = 3;
    let store = Store::open(&dir.0).unwrap();
    store
        .commit(&[
            Change::PutStream(stream(0)),
            Change::PutStream(stream(1)),
            Change::PutSettings(settings.clone()),
            Change::PutPassword("$argon2id$x".into()),
            Change::PutRecording(row(1, 0, 100)),
        ])
        .unwrap();
    drop(store);
    let store = Store::open(&dir.0).unwrap();
    let loaded = store.load("/default".into()).unwrap();
    assert_eq!(loaded.streams, [stream(0), stream(1)]);
    assert_eq!(loaded.settings, settings);
    assert_eq!(loaded.password_phc.as_deref(), Some("$argon2id$x"));
    assert_eq!(store.reader().recording(1).unwrap(), Some(row(1, 0, 100)));
}

#[test]
fn an_id_is_never_used_again() {
    let dir = Dir::new("store-ids");
    let store = Store::open(&dir.0).unwrap();
    store.commit(&[Change::PutStream(stream(4)), Change::PutRecording(row(9, 4, 1))]).unwrap();
    store.commit(&[Change::RemoveStream(4), Change::RemoveRecording(9)]).unwrap();
    let loaded = store.load("/r".into()).unwrap();
    assert_eq!((loaded.next_stream_id, loaded.next_recording_id), (5, 10));
    assert!(loaded.streams.is_empty());
    assert_eq!(store.reader().recording_count().unwrap(), 0);
}

#[test]
fn a_query_selects_by_stream_time_and_id_in_both_directions() {
    let dir = Dir::new("store-query");
    let store = Store::open(&dir.0).unwrap();
    let rows: Vec<_> = (1..=20).map(|id| row(id, (id % 2) as u32, id as i64 * 10)).collect();
    let changes: Vec<_> = rows.iter().cloned().map(Change::PutRecording).collect();
    store.commit(&changes).unwrap();
    let ids = |query: RecordingQuery| -> Vec<u64> {
        store.reader().recordings(&query).unwrap().iter().map(|row| row.id).collect()
    };
    let all = RecordingQuery { limit: 100, ..Default::default() };
    assert_eq!(ids(all.clone()), (1..=20).collect::<Vec<_>>());
    assert_eq!(ids(RecordingQuery { limit: 2, descending: true, ..all.clone() }), [20, 19]);
    assert_eq!(ids(RecordingQuery { after: Some(3), before: Some(6), ..all.clone() }), [4, 5]);
    assert_eq!(ids(RecordingQuery { after: Some(6), before: Some(3), ..all.clone() }), [0; 0]);
    assert_eq!(
        ids(RecordingQuery { stream_id: Some(1), after: Some(16), ..all.clone() }),
        [17, 19]
    );
    // Recording 5 covers [50 s, 60 s): half-open at both ends.
    let span =
        |a: i64, b: i64| RecordingQuery { start_ms: Some(a), end_ms: Some(b), ..all.clone() };
    assert_eq!(ids(span(50_000, 60_000)), [5]);
    assert_eq!(ids(span(59_999, 60_001)), [5, 6]);
}

#[test]
fn a_second_process_is_told_that_the_store_is_in_use() {
    let dir = Dir::new("store-inuse");
    let _first = Store::open(&dir.0).unwrap();
    assert!(matches!(Store::open(&dir.0), Err(StoreError::InUse)));
}

#[test]
fn reading_through_the_overlay_changes_no_byte() {
    let dir = Dir::new("store-overlay");
    let store = Store::open(&dir.0).unwrap();
    store.commit(&[Change::PutRecording(row(1, 0, 100))]).unwrap();
    // A copy taken while the store is open is what a crash leaves behind.
    let crashed = Dir::new("store-overlay-crashed");
    std::fs::copy(dir.0.join(FILE_NAME), crashed.0.join(FILE_NAME)).unwrap();
    let before = std::fs::read(crashed.0.join(FILE_NAME)).unwrap();
    let seen = Store::open_unchanged(&crashed.0).unwrap();
    assert_eq!(seen.reader().recording(1).unwrap(), Some(row(1, 0, 100)));
    seen.commit(&[Change::PutRecording(row(2, 0, 200))]).unwrap();
    drop(seen);
    assert_eq!(std::fs::read(crashed.0.join(FILE_NAME)).unwrap(), before);
}

/// Every way to find recordings says the same as looking at all of them.
fn check_index(store: &Store, rows: &[RecordingRow]) {
    let reader = store.reader();
    for stream_id in 0..4_u32 {
        let mut of_stream: Vec<_> = rows.iter().filter(|row| row.stream_id == stream_id).collect();
        of_stream.sort_by_key(|row| (row.start_ms, row.id));
        let finished = || of_stream.iter().filter(|row| !row.in_progress);
        let want = Totals {
            count: finished().count() as u64,
            bytes: finished().map(|row| row.size).sum(),
            protected_bytes: finished().filter(|row| row.is_protected).map(|row| row.size).sum(),
        };
        let got = reader.totals().unwrap().get(&stream_id).copied().unwrap_or_default();
        assert_eq!(got, want, "stream {stream_id}");
        let newest = reader.newest(stream_id).unwrap().map(|found| found.id);
        assert_eq!(newest, of_stream.last().map(|row| row.id));
        let deletable = finished().find(|row| !row.is_protected).map(|row| row.id);
        assert_eq!(
            reader.next_deletable(stream_id, None).unwrap().map(|found| found.id),
            deletable
        );
        for (from, to) in [(i64::MIN, i64::MAX), (50_000, 90_000), (0, 1)] {
            let mut ids = Vec::new();
            let visit = |found: Indexed| {
                ids.push(found.id);
                true
            };
            reader.visit_time(stream_id, (from, to), visit).unwrap();
            let here =
                |row: &&&RecordingRow| row.start_ms < to && (row.end_ms > from || row.in_progress);
            let mut want: Vec<_> = of_stream.iter().filter(here).map(|row| row.id).collect();
            // One in progress is found as far back as a recording was ever long.
            want.retain(|id| {
                ids.contains(id) || !rows.iter().any(|r| r.id == *id && r.in_progress)
            });
            assert_eq!(ids, want, "stream {stream_id} {from}..{to}");
        }
    }
    for query in [
        RecordingQuery { stream_id: Some(1), ..Default::default() },
        RecordingQuery { start_ms: Some(60_000), end_ms: Some(80_000), ..Default::default() },
        RecordingQuery {
            stream_id: Some(2),
            end_ms: Some(90_000),
            descending: true,
            ..Default::default()
        },
        RecordingQuery {
            start_ms: Some(30_000),
            after: Some(300),
            before: Some(700),
            ..Default::default()
        },
    ] {
        let query = RecordingQuery { limit: 1000, ..query };
        let matches =
            |row: &&RecordingRow| query.matches(row.id, row.stream_id, row.start_ms, row.end_ms);
        let mut want: Vec<u64> = rows.iter().filter(matches).map(|row| row.id).collect();
        want.sort_unstable();
        if query.descending {
            want.reverse();
        }
        let got = reader.recordings(&query).unwrap();
        assert_eq!(got.iter().map(|row| row.id).collect::<Vec<_>>(), want, "{query:?}");
    }
}

proptest::proptest! {
    #![proptest_config(proptest::prelude::ProptestConfig::with_cases(24))]
    #[test]
    fn the_index_follows_every_change(
        steps in proptest::collection::vec((0_u8..6, 1_u64..1000, 0_u32..4, 0_i64..100, 0_u8..4), 1..60),
    ) {
        let dir = Dir::new("store-index");
        let store = Store::open(&dir.0).unwrap();
        let mut rows: BTreeMap<u64, RecordingRow> = BTreeMap::new();
        for (kind, id, stream_id, start_s, flags) in steps {
            let nearest = rows.range(id..).next().map(|(id, _)| *id);
            match (kind, nearest) {
                (0, Some(id)) => {
                    store.commit(&[Change::TrashRecording(id), Change::ForgetGarbage(id)]).unwrap();
                    rows.remove(&id);
                }
                (1, Some(id)) => {
                    store.commit(&[Change::RemoveRecording(id)]).unwrap();
                    rows.remove(&id);
                }
                _ => {
                    let row = RecordingRow {
                        in_progress: flags & 1 != 0,
                        is_protected: flags & 2 != 0,
                        ..row(id, stream_id, start_s)
                    };
                    store.commit(&[Change::PutRecording(row.clone())]).unwrap();
                    rows.insert(id, row);
                }
            }
        }
        let rows: Vec<RecordingRow> = rows.into_values().collect();
        check_index(&store, &rows);
    }
}

#[test]
fn a_store_without_index_gets_one() {
    let dir = Dir::new("store-no-index");
    let store = Store::open(&dir.0).unwrap();
    let rows: Vec<_> = (1..=600).map(|id| row(id, (id % 3) as u32, id as i64)).collect();
    let changes: Vec<_> = rows.iter().cloned().map(Change::PutRecording).collect();
    store.commit(&changes).unwrap();
    let tx = store.db.begin_write().unwrap();
    tx.delete_table(index::BLOCKS).unwrap();
    tx.delete_table(index::BY_START).unwrap();
    tx.delete_table(index::TOTALS).unwrap();
    tx.open_table(META).unwrap().remove(META_INDEX).unwrap();
    tx.commit().unwrap();
    drop(store);
    check_index(&Store::open(&dir.0).unwrap(), &rows);
}

#[test]
fn a_deletion_leaves_garbage_until_it_is_done_and_a_span_for_good() {
    let dir = Dir::new("store-garbage");
    let store = Store::open(&dir.0).unwrap();
    let changes: Vec<_> =
        (1..=3).map(|id| Change::PutRecording(row(id, 0, id as i64 * 10))).collect();
    store.commit(&changes).unwrap();
    store.commit(&[Change::TrashRecording(1), Change::TrashRecording(2)]).unwrap();
    let reader = store.reader();
    assert_eq!(reader.recording(1).unwrap(), None);
    let paths: Vec<_> = reader.garbage(9).unwrap().into_iter().map(|(_, path)| path).collect();
    assert_eq!(paths, ["/r/0/1.mp4", "/r/0/2.mp4"]);
    let deleted = || reader.spans(0, Layer::Deleted, (0, 100_000), 9).unwrap();
    // Recordings that follow on each other are one span.
    assert_eq!(
        deleted().iter().map(|s| (s.start_ms, s.end_ms)).collect::<Vec<_>>(),
        [(10_000, 30_000)]
    );
    store.commit(&[Change::ForgetGarbage(1), Change::ForgetGarbage(2)]).unwrap();
    assert_eq!(reader.garbage(9).unwrap(), []);
    assert_eq!(deleted().len(), 1);
}

#[test]
fn spans_that_were_open_end_where_the_program_did() {
    use crate::ledger::span_core::{OPEN_MS, State};
    let dir = Dir::new("store-spans");
    let store = Store::open(&dir.0).unwrap();
    let put = |start_ms: i64, end_ms: i64| {
        Change::PutSpan(1, Layer::Reason, Span { start_ms, end_ms, state: State::SourceDown })
    };
    let boot = Change::Boot("b".into(), 5000);
    store.commit(&[put(1000, 2000), put(3000, OPEN_MS), put(6000, OPEN_MS), boot]).unwrap();
    let reader = store.reader();
    let found = |from_ms: i64| -> Vec<(i64, i64)> {
        let spans = reader.spans(1, Layer::Reason, (from_ms, 10_000), 9).unwrap();
        spans.iter().map(|s| (s.start_ms, s.end_ms)).collect()
    };
    assert_eq!(found(0), [(1000, 2000), (3000, 5000)]);
    assert_eq!(found(4000), [(3000, 5000)]);
    assert_eq!(reader.last_alive().unwrap().1.as_deref(), Some("b"));
    store.commit(&[Change::PruneSpans(10_000, 6000), Change::Alive(7)]).unwrap();
    assert_eq!(found(0), [(3000, 5000)]);
    assert_eq!(reader.last_alive().unwrap().0, Some(7));
    let life = Life { stream_id: 1, created_ms: 5, removed_ms: Some(9) };
    store.commit(&[Change::PutLife(life)]).unwrap();
    assert_eq!(reader.life(1).unwrap(), Some(life));
    assert_eq!(reader.life(2).unwrap(), None);
}

#[test]
fn nobody_else_reads_the_store_also_one_of_before() {
    use std::os::unix::fs::PermissionsExt;
    let dir = Dir::new("store-mode");
    let path = dir.0.join(FILE_NAME);
    let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o777;
    drop(Store::open(&dir.0).unwrap());
    assert_eq!(mode(), 0o600);
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    drop(Store::open(&dir.0).unwrap());
    assert_eq!(mode(), 0o600);
}
