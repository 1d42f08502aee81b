//! A recorder with very many recordings, as rows of its store alone.

use std::path::Path;

use lightnvr::store::row::RecordingRow;
use lightnvr::store::{Change, Store};

use super::ledger::now_ms;
use super::nvr::Nvr;

/// So many streams have recorded in turn,
pub const STREAMS: u64 = 16;
/// a quarter of an hour each time.
pub const LENGTH_MS: i64 = 900_000;

/// Makes a recorder in `home` with the usual password and so many rows, and ends it; the beginning of the first one in
/// Unix milliseconds. Its disk is not there: nothing goes for its age, and no file is looked for.
pub fn fill(home: &Path, rows: u64) -> i64 {
    let gone = home.join("gone");
    let nvr = Nvr::start(home);
    let path = gone.display();
    nvr.set(&format!(r#"{{"retention_days":0,"storage_path":"{path}"}}"#));
    assert!(nvr.stop().success());
    std::fs::remove_dir_all(&gone).expect("it is the test's");
    let store = Store::open(&home.join("data")).expect("the recorder has ended");
    let first_ms = now_ms() - LENGTH_MS * (rows / STREAMS) as i64 - LENGTH_MS;
    let ids: Vec<u64> = (1..=rows).collect();
    for batch in ids.chunks(20_000) {
        let changes = batch.iter().map(|&id| {
            let (stream_id, n) = ((id % STREAMS) as u32, (id / STREAMS) as i64);
            let start_ms = first_ms + n * LENGTH_MS + i64::from(stream_id) * 1000;
            Change::PutRecording(RecordingRow {
                id,
                stream_id,
                stream_name: format!("Camera {stream_id}"),
                start_ms,
                end_ms: start_ms + LENGTH_MS,
                size: 450_000_000,
                path: format!("/media/disk/recordings/{stream_id}/{id}.mp4"),
                in_progress: false,
                is_protected: false,
                boot: 1,
            })
        });
        store.commit(&changes.collect::<Vec<_>>()).expect("the store can be written");
    }
    first_ms
}
