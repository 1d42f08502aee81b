//! The store as a whole: what goes in comes out, also after a reopen.

use std::collections::BTreeMap;

use redb::TableHandle;

use super::index::{Indexed, Totals};
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
        boot: 0,
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
        sub_url: Some("rtsp://cam/sub".into()),
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
    let place = |id| store.reader().place(id, false).unwrap();
    let all = RecordingQuery { limit: 100, ..Default::default() };
    assert_eq!(ids(all.clone()), (1..=20).collect::<Vec<_>>());
    assert_eq!(ids(RecordingQuery { limit: 2, descending: true, ..all.clone() }), [20, 19]);
    assert_eq!(ids(RecordingQuery { after: place(3), before: place(6), ..all.clone() }), [4, 5]);
    assert_eq!(ids(RecordingQuery { after: place(6), before: place(3), ..all.clone() }), [0; 0]);
    let of_stream = RecordingQuery { stream_id: Some(1), after: place(16), ..all.clone() };
    assert_eq!(ids(of_stream), [17, 19]);
    // Recording 5 covers [50 s, 60 s): half-open at both ends.
    let span =
        |a: i64, b: i64| RecordingQuery { start_ms: Some(a), end_ms: Some(b), ..all.clone() };
    assert_eq!(ids(span(50_000, 60_000)), [5]);
    assert_eq!(ids(span(59_999, 60_001)), [5, 6]);
}

#[test]
fn adopted_recordings_are_listed_where_their_time_is() {
    let dir = Dir::new("store-adopted");
    let store = Store::open(&dir.0).unwrap();
    // 7 and 8 were adopted: made before the others.
    let rows = [row(3, 0, 300), row(5, 0, 500), row(6, 0, 600), row(7, 1, 100), row(8, 0, 400)];
    store.commit(&rows.map(Change::PutRecording)).unwrap();
    let reader = store.reader();
    let ids = |query: RecordingQuery| -> Vec<u64> {
        let query = RecordingQuery { limit: 100, ..query };
        reader.recordings(&query).unwrap().iter().map(|row| row.id).collect()
    };
    let after =
        |id| ids(RecordingQuery { after: reader.place(id, false).unwrap(), ..Default::default() });
    let before =
        |id| ids(RecordingQuery { before: reader.place(id, true).unwrap(), ..Default::default() });
    assert_eq!(ids(RecordingQuery::default()), [7, 3, 8, 5, 6]);
    assert_eq!((after(7), before(8)), (vec![3, 8, 5, 6], vec![7, 3]));
    assert_eq!((after(6), before(7)), (vec![], vec![]));
    // Of what is gone the neighbours tell: nothing is left out.
    assert_eq!((after(4), before(4)), (vec![8, 5, 6], vec![7, 3, 8]));
    assert_eq!((after(9), before(9)), (vec![5, 6], vec![7, 3, 8, 5, 6]));
    assert_eq!((after(1), before(1)), (vec![7, 3, 8, 5, 6], vec![7]));
    assert_eq!(store.load(String::new()).unwrap().next_stream_id, 2, "7 knows of a stream 1");
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
        RecordingQuery { is_protected: Some(true), ..Default::default() },
        RecordingQuery { is_protected: Some(false), stream_id: Some(2), ..Default::default() },
        RecordingQuery { start_ms: Some(60_000), end_ms: Some(80_000), ..Default::default() },
        RecordingQuery {
            stream_id: Some(2),
            end_ms: Some(90_000),
            descending: true,
            ..Default::default()
        },
        RecordingQuery {
            start_ms: Some(30_000),
            after: Some((40_000, 300)),
            before: Some((80_000, 700)),
            ..Default::default()
        },
    ] {
        let query = RecordingQuery { limit: 1000, ..query };
        let matches = |row: &&RecordingRow| {
            let place = (row.start_ms, row.id);
            query.after.is_none_or(|after| place > after)
                && query.before.is_none_or(|before| place < before)
                && query.stream_id.is_none_or(|id| row.stream_id == id)
                && query.start_ms.is_none_or(|at| row.end_ms > at || row.start_ms >= at)
                && query.end_ms.is_none_or(|at| row.start_ms < at)
                && query.is_protected.is_none_or(|wanted| wanted == row.is_protected)
        };
        let mut want: Vec<&RecordingRow> = rows.iter().filter(matches).collect();
        want.sort_unstable_by_key(|row| (row.start_ms, row.id));
        let mut want: Vec<u64> = want.iter().map(|row| row.id).collect();
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
    // An index of an earlier version goes.
    tx.open_table(OLD_BLOCKS).unwrap().insert(1, b"x".as_slice()).unwrap();
    tx.delete_table(index::BY_TIME).unwrap();
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
    store
        .commit(&[
            Change::PruneSpans(10_000, 6000),
            Change::Alive(clock_core::SET_SINCE_MS),
            Change::Alive(7),
        ])
        .unwrap();
    assert_eq!(found(0), [(3000, 5000)]);
    assert_eq!(reader.last_alive().unwrap().0, Some(clock_core::SET_SINCE_MS), "not 1970");
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

#[test]
fn a_store_of_a_newer_program_is_not_damaged_and_stays() {
    let dir = Dir::new("store-newer");
    let store = Store::open(&dir.0).unwrap();
    let tx = store.db.begin_write().unwrap();
    let newer = (SCHEMA + 1).to_le_bytes();
    for name in [META_SCHEMA, META_SCHEMA_BACK] {
        tx.open_table(META).unwrap().insert(name, newer.as_slice()).unwrap();
    }
    tx.commit().unwrap();
    drop(store);
    let before = std::fs::read(dir.0.join(FILE_NAME)).unwrap();
    let error = damage::open_or_begin_anew(&dir.0, "/r").map(|_| ()).unwrap_err();
    assert!(matches!(error, StoreError::Newer { schema } if schema == SCHEMA + 1), "{error}");
    assert!(error.to_string().contains("newer version"), "{error}");
    assert_eq!(std::fs::read_dir(&dir.0).unwrap().count(), 1, "nothing is set aside");
    assert_eq!(std::fs::read(dir.0.join(FILE_NAME)).unwrap().len(), before.len());
}

/// What a program one version on leaves behind: a higher schema, a table and a record that this one does not know.
fn leave_as_newer(dir: &Dir, back: u64) {
    const NEW_TABLE: TableDefinition<u64, &[u8]> = TableDefinition::new("a_later_table");
    let store = Store::open(&dir.0).unwrap();
    let tx = store.db.begin_write().unwrap();
    let mut meta = tx.open_table(META).unwrap();
    for (name, value) in [(META_SCHEMA, SCHEMA + 1), (META_SCHEMA_BACK, back)] {
        meta.insert(name, value.to_le_bytes().as_slice()).unwrap();
    }
    drop(meta);
    tx.open_table(NEW_TABLE).unwrap().insert(7, b"later".as_slice()).unwrap();
    let mut record = bytes::encode_recording(&row(4, 0, 100));
    record[0] += 1;
    record.extend_from_slice(b"a later field");
    tx.open_table(RECORDINGS).unwrap().insert(4, record.as_slice()).unwrap();
    tx.commit().unwrap();
}

#[test]
fn a_store_goes_back_one_version() {
    let dir = Dir::new("store-back");
    let store = Store::open(&dir.0).unwrap();
    store.commit(&[Change::PutRecording(row(3, 0, 50))]).unwrap();
    drop(store);
    leave_as_newer(&dir, SCHEMA);
    let store = Store::open(&dir.0).expect("it says that this version may open it");
    store.commit(&[Change::PutRecording(row(5, 0, 200))]).unwrap();
    for id in [3, 4, 5] {
        assert!(store.reader().recording(id).unwrap().is_some(), "{id}");
    }
    // The newer version, when it comes again, sees that an older one has written.
    let tx = store.db.begin_write().unwrap();
    assert_eq!(read_number(&tx.open_table(META).unwrap(), META_SCHEMA).unwrap(), Some(SCHEMA));
    let names: Vec<String> = tx.list_tables().unwrap().map(|t| t.name().to_owned()).collect();
    assert!(names.iter().any(|name| name == "a_later_table"), "it is left alone: {names:?}");
}

#[test]
fn a_store_of_two_versions_on_is_refused() {
    let dir = Dir::new("store-back-two");
    leave_as_newer(&dir, SCHEMA + 1);
    let error = Store::open(&dir.0).map(drop).unwrap_err();
    assert!(matches!(error, StoreError::Newer { schema } if schema == SCHEMA + 1), "{error}");
}

#[test]
fn a_damaged_store_makes_room_and_streams_come_back_from_the_copy() {
    let dir = Dir::new("store-damaged");
    let path = dir.0.join(FILE_NAME);
    let store = Store::open(&dir.0).unwrap();
    let mut settings = Settings::new("/elsewhere".into());
    settings.retention_days = 3;
    let life = Life { stream_id: 6, created_ms: 5, removed_ms: None };
    store
        .commit(&[
            Change::PutStream(stream(6)),
            Change::PutLife(life),
            Change::PutSettings(settings.clone()),
            Change::PutPassword("$argon2id$x".into()),
            Change::PutRecording(row(1, 6, 100)),
        ])
        .unwrap();
    drop(store);
    let whole = std::fs::read(&path).unwrap();
    let mut torn = whole.clone();
    torn[64..].fill(0xA5);
    let cases: [&[u8]; 4] = [b"no store", &torn, &whole[..whole.len() / 2], &vec![0; 9000]];
    for (n, bytes) in cases.into_iter().enumerate() {
        std::fs::write(&path, bytes).unwrap();
        let (store, loaded, lost) = damage::open_or_begin_anew(&dir.0, "/r").unwrap();
        assert!(lost.is_some_and(|lost| lost.has_copy), "case {n}");
        assert_eq!((&loaded.settings, &loaded.streams[..]), (&settings, &[stream(6)][..]));
        assert_eq!(
            (loaded.password_phc.as_deref(), loaded.next_stream_id),
            (Some("$argon2id$x"), 7)
        );
        assert_eq!(store.reader().life(6).unwrap(), Some(life));
        assert_eq!(store.reader().recording_count().unwrap(), 0, "rows come from the files");
        store.keep_copy();
    }
    let (_, _, lost) = damage::open_or_begin_anew(&dir.0, "/r").unwrap();
    assert_eq!(lost, None);
    let names = std::fs::read_dir(&dir.0).unwrap().map(|entry| entry.unwrap().file_name());
    let mut names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
    names.sort();
    let [a, b, c] = damage::BROKEN;
    assert_eq!(names, ["store.copy", FILE_NAME, a, b, c], "the oldest of four is gone");
    assert_eq!(std::fs::read(dir.0.join(a)).unwrap()[..9], [0; 9], "the newest comes first");
}

#[test]
fn without_a_copy_a_damaged_store_makes_room_all_the_same() {
    let dir = Dir::new("store-damaged-alone");
    std::fs::write(dir.0.join(FILE_NAME), b"no store").unwrap();
    std::fs::write(dir.0.join("store.copy"), b"no copy").unwrap();
    let (_, loaded, lost) = damage::open_or_begin_anew(&dir.0, "/r").unwrap();
    assert!(lost.is_some_and(|lost| !lost.has_copy));
    assert_eq!((loaded.streams.len(), loaded.next_stream_id), (0, 0));
}

#[test]
fn a_start_that_was_cut_off_while_it_mended_goes_on() {
    let dir = Dir::new("store-damaged-cut");
    let store = Store::open(&dir.0).unwrap();
    store.commit(&[Change::PutStream(stream(2))]).unwrap();
    drop(store);
    // The copy is renamed first, then the store; then the power goes.
    std::fs::rename(dir.0.join("store.copy"), dir.0.join("store.copy.returning")).unwrap();
    std::fs::remove_file(dir.0.join(FILE_NAME)).unwrap();
    let (_, loaded, lost) = damage::open_or_begin_anew(&dir.0, "/r").unwrap();
    assert!(lost.is_some_and(|lost| lost.has_copy));
    assert_eq!(loaded.streams, [stream(2)]);
}
