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
