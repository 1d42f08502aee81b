//! What a start finds of an earlier life: a hundred thousand recordings, or no store at all.

mod rig;

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::process::Command;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use lightnvr::store::row::RecordingRow;
use lightnvr::store::{Change, Store};
use rig::json::Look;
use rig::nvr::{Nvr, binary};
use rig::temp_dir::TempDir;
use rig::{mp4, wait};

const RECORDINGS: u64 = 100_000;
/// Rows whose files are gone.
const LOST: u64 = 10;
/// The promise, from the start of the process.
const FIRST_REQUEST_WITHIN: Duration = Duration::from_millis(500);
const COMPARED_WITHIN: Duration = Duration::from_secs(60);
const RECORDS_WITHIN: Duration = Duration::from_secs(20);

#[test]
fn with_100_000_recordings_the_first_camera_is_asked_at_once() {
    let home = TempDir::new("recovery_large");
    let camera = TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("rtsp://{}/1", camera.local_addr().expect("bound"));
    let nvr = Nvr::start(home.path());
    nvr.add_stream("Tor", &url);
    assert!(nvr.stop().success());
    // The session of the first life.
    drop(camera.accept().expect("the recorder connected"));
    let (data, dir) = (home.path().join("data"), home.path().join("data/recordings/0"));
    fs::create_dir_all(&dir).expect("the test's directory can be written");
    // Of the last day: nothing is old enough to be deleted.
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_millis() as i64;
    let first_ms = now - RECORDINGS as i64 * 1000;
    let store = Store::open(&data).expect("the recorder has ended");
    let ids: Vec<u64> = (1..=RECORDINGS).collect();
    for batch in ids.chunks(5000) {
        let rows = batch.iter().map(|id| {
            let path = dir.join(format!("{id:06}.mp4"));
            if *id > LOST {
                fs::write(&path, b"").expect("the test's directory can be written");
            }
            Change::PutRecording(RecordingRow {
                id: *id,
                stream_id: 0,
                stream_name: "Tor".into(),
                start_ms: first_ms + *id as i64 * 1000,
                end_ms: first_ms + *id as i64 * 1000 + 900,
                size: 1,
                path: path.to_string_lossy().into_owned(),
                in_progress: false,
                is_protected: false,
                boot: 0,
            })
        });
        store.commit(&rows.collect::<Vec<_>>()).expect("the store can be written");
    }
    // What a power cut leaves: the store as it is while it is open.
    let (file, crashed) = (data.join("store.redb"), data.join("crashed.redb"));
    fs::copy(&file, &crashed).expect("the test's directory can be written");
    drop(store);
    fs::rename(&crashed, &file).expect("the test's directory can be written");
    let began = Instant::now();
    let asked = std::thread::scope(|scope| {
        let asked = scope.spawn(|| {
            let (mut socket, _) = camera.accept().expect("the recorder connects");
            let mut request = [0; 8];
            socket.read_exact(&mut request).expect("a request");
            (began.elapsed(), request)
        });
        let nvr = Nvr::start(home.path());
        wait::until("rows without a file are gone", COMPARED_WITHIN, || {
            let system = nvr.json("GET", "/api/v1/system", None);
            let left = system.field("recordings_total").integer();
            (left == RECORDINGS - LOST).then_some(())
        });
        println!("all compared after {:?}", began.elapsed());
        asked.join().expect("the camera was asked")
    });
    println!("first RTSP request after {:?}", asked.0);
    assert_eq!(&asked.1, b"OPTIONS ");
    assert!(asked.0 < FIRST_REQUEST_WITHIN, "first RTSP request after {:?}", asked.0);
}

#[test]
fn a_lost_store_is_rebuilt_from_the_files_alone() {
    let home = TempDir::new("recovery_rebuild");
    let storage = home.path().join("storage");
    let nvr = Nvr::start(home.path());
    nvr.set(&format!(r#"{{"storage_path":"{}","segment_seconds":10}}"#, storage.display()));
    let stream = r#"{"name":"Tor","url":"testpattern://","width":320,"height":240,"fps":10}"#;
    nvr.json("POST", "/api/v1/streams", Some(stream));
    wait::until("two files", RECORDS_WITHIN, || (nvr.recordings("").len() >= 2).then_some(()));
    nvr.json("PUT", "/api/v1/streams/0", Some(r#"{"enabled":false}"#));
    let before = nvr.wait_for_finished(0, RECORDS_WITHIN);
    assert!(nvr.stop().success());
    fs::write(home.path().join("data/store.redb"), b"no store").expect("the store is ours");
    assert_eq!(rig::nvr::check(home.path()).0, Some(1));
    let mut rebuild = Command::new(binary());
    rebuild.args(["check", "--rebuild", "--storage"]).arg(&storage);
    let out = rebuild.arg("--data-dir").arg(home.path().join("data")).output();
    let out = out.expect("the binary starts");
    let said = String::from_utf8_lossy(&out.stdout).into_owned();
    assert!(out.status.success(), "{said} {}", String::from_utf8_lossy(&out.stderr));
    assert!(said.contains(&format!("{} recordings; 0 rows", before.len())), "{said}");
    assert!(home.path().join("data/store.redb.broken").exists());
    assert_eq!(rig::nvr::check(home.path()), (Some(0), String::new()));
    let nvr = Nvr::start(home.path());
    let after = nvr.recordings("");
    let facts = |recordings: &[rig::nvr::Recording]| -> Vec<_> {
        let fact = |r: &rig::nvr::Recording| (r.path.clone(), r.size, r.stream_id);
        recordings.iter().map(fact).collect()
    };
    assert_eq!(facts(&after), facts(&before));
    after.iter().for_each(|recording| mp4::check_plays(&recording.path));
    assert!(nvr.stop().success());
}

#[test]
fn a_damaged_store_is_set_aside_at_the_start_and_everything_comes_back() {
    let home = TempDir::new("recovery_damaged");
    let data = home.path().join("data");
    let nvr = Nvr::start(home.path());
    nvr.set(r#"{"segment_seconds":10,"retention_days":77}"#);
    let stream = r#"{"name":"Tor","url":"testpattern://","width":320,"height":240,"fps":10}"#;
    nvr.json("POST", "/api/v1/streams", Some(stream));
    wait::until("two files", RECORDS_WITHIN, || (nvr.recordings("").len() >= 2).then_some(()));
    assert!(nvr.stop().success());
    let nvr = Nvr::start(home.path());
    let before = nvr.recordings("").into_iter().filter(|r| !r.in_progress).collect::<Vec<_>>();
    assert!(nvr.stop().success());
    fs::write(data.join("store.redb"), b"no store").expect("the store is ours");
    let nvr = Nvr::start(home.path());
    assert!(nvr.process.stderr().iter().any(|line| line.contains("damaged")), "it is in the log");
    assert!(data.join("store.redb.broken").exists());
    assert_eq!(nvr.json("GET", "/api/v1/settings", None).field("retention_days").integer(), 77);
    assert_eq!(nvr.stream(0).field("name").text(), "Tor");
    wait::until("all recordings are listed again, in their order", RECORDS_WITHIN, || {
        let now = nvr.recordings("");
        let paths: Vec<_> = now.iter().map(|r| &r.path).collect();
        let is_whole =
            before.iter().all(|old| now.iter().any(|r| r.path == old.path && r.size == old.size));
        (is_whole && paths.is_sorted() && now.len() > before.len()).then_some(())
    });
    wait::until("all is well", RECORDS_WITHIN, || {
        (nvr.request("GET", "/healthz", None).status == 200).then_some(())
    });
    let next = nvr.add_stream("another", "testpattern://");
    assert_eq!(next, 1);
    assert!(nvr.stop().success());
    assert_eq!(rig::nvr::check(home.path()), (Some(0), String::new()));
}

#[test]
fn without_a_copy_the_ids_of_lost_streams_are_not_used_again() {
    let home = TempDir::new("recovery_ids");
    let data = home.path().join("data");
    let nvr = Nvr::start(home.path());
    nvr.add_stream("first", "testpattern://");
    let second = nvr.add_stream("second", "testpattern://");
    wait::until("both record", RECORDS_WITHIN, || {
        let recordings = nvr.recordings("");
        (0..=second)
            .all(|id| recordings.iter().any(|r| r.stream_id == id && r.size > 0))
            .then_some(())
    });
    assert!(nvr.stop().success());
    let before = {
        let nvr = Nvr::start(home.path());
        let list = nvr.recordings("");
        nvr.stop();
        list
    };
    fs::write(data.join("store.redb"), b"no store").expect("the store is ours");
    fs::remove_file(data.join("store.copy")).expect("the copy is ours");
    let nvr = Nvr::start(home.path());
    let health = nvr.request("GET", "/healthz", None);
    assert!(health.status == 503 && health.text().contains("add them again"), "{}", health.text());
    // At once, before the files were looked at or after: never 0 or 1.
    assert_eq!(nvr.add_stream("third", "testpattern://"), 2);
    wait::until("the old recordings are listed again", RECORDS_WITHIN, || {
        let now = nvr.recordings("");
        before
            .iter()
            .all(|old| now.iter().any(|r| r.path == old.path && r.stream_id == old.stream_id))
            .then_some(())
    });
    wait::until("all is well", RECORDS_WITHIN, || {
        (nvr.request("GET", "/healthz", None).status == 200).then_some(())
    });
    assert!(nvr.stop().success());
    assert_eq!(rig::nvr::check(home.path()), (Some(0), String::new()));
}

#[test]
fn files_of_others_are_left_alone_and_named() {
    let home = TempDir::new("recovery_foreign");
    let nvr = Nvr::start(home.path());
    nvr.add_stream("Tor", "testpattern://");
    wait::until("it records", RECORDS_WITHIN, || {
        nvr.recordings("").iter().any(|r| r.size > 0).then_some(())
    });
    assert!(nvr.stop().success());
    let dir = home.path().join("data/recordings/0");
    let ours =
        fs::read_dir(&dir).expect("recordings").next().expect("one").expect("an entry").path();
    let head = fs::read(&ours).expect("it can be read")[..200].to_vec();
    // As a download ends that was broken off: the movie header says more than there is.
    let foreign =
        [&b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2avc1mp41"[..], b"\0\x01\0\0moov", &[7; 99]]
            .concat();
    let elsewhere = home.path().join("letter");
    fs::write(&elsewhere, &head).expect("the test's directory can be written");
    let left = ["20200101_000000.mp4", "holiday.mp4", "20200101_000002.mp4", "20200101_000003.mp4"];
    fs::write(dir.join(left[0]), &foreign).expect("written");
    fs::write(dir.join(left[1]), &head).expect("written");
    std::os::unix::fs::symlink(&elsewhere, dir.join(left[2])).expect("linked");
    let status = Command::new("mkfifo").arg(dir.join(left[3])).status();
    assert!(status.expect("mkfifo(1)").success());
    let torn = ["20200101_000004.mp4", "20200101_000005.mp4"];
    fs::write(dir.join(torn[0]), &head).expect("written");
    fs::write(dir.join(torn[1]), b"").expect("written");
    let nvr = Nvr::start(home.path());
    wait::until("what a power cut left of ours is gone", RECORDS_WITHIN, || {
        torn.iter().all(|name| !dir.join(name).exists()).then_some(())
    });
    wait::until("all files were looked at", RECORDS_WITHIN, || {
        let said = nvr.process.stderr();
        left.iter()
            .all(|name| said.iter().any(|line| line.contains(name) && line.contains("left alone")))
            .then_some(())
    });
    assert!(nvr.stop().success());
    assert_eq!(fs::read(dir.join(left[0])).expect("still there"), foreign);
    assert_eq!(fs::read(dir.join(left[1])).expect("still there"), head);
    assert_eq!(fs::read(&elsewhere).expect("still there"), head);
    let (code, said) = rig::nvr::check(home.path());
    assert_eq!(code, Some(1));
    let lines: Vec<&str> = said.lines().collect();
    assert_eq!(lines.len(), left.len(), "{said}");
    for name in left {
        assert!(
            lines.iter().any(|line| line.contains(name) && line.contains("left alone")),
            "{said}"
        );
    }
}
