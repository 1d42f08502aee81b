//! Full, read-only, broken, unplugged, foreign, silent: each disk fault has its own words and reaction, live view and
//! API go on, recording resumes by itself within 10 s, and every file plays.
//!
//! The program itself meets tmpfs and bind mounts; where mounting is not permitted, and for what no mount can do, the
//! same runs in this process on a storage that fails on demand.

mod rig;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rig::bench;
use rig::fault_disk::{Faults, Op, WRITES};
use rig::json::{self, Look};
use rig::ledger;
use rig::loop_disk::LoopDisk;
use rig::mp4;
use rig::nvr::Nvr;
use rig::temp_dir::TempDir;
use rig::wait;
use rustix::io::Errno;

/// The promise: recording resumes by itself after the cause is gone.
const RESUMES_WITHIN: Duration = Duration::from_secs(10);
/// Until a fault is met and said.
const SAID_WITHIN: Duration = Duration::from_secs(10);
/// From the start to the first synced fragment, on a loaded machine.
const RECORDS_WITHIN: Duration = Duration::from_secs(20);
/// What nobody waits for longer, two rounds of three threads.
const COMMAND_WITHIN: Duration = Duration::from_secs(12);
const READ_WITHIN: Duration = Duration::from_secs(2);
const STREAM: &str = r#"{"name":"Tor","url":"testpattern://","width":320,"height":240,"fps":10}"#;

/// Something mounted for a test; dropping it unmounts.
struct Mounted(PathBuf);

impl Mounted {
    /// `None` where mounting is not permitted; that is said.
    fn new(at: &Path, arguments: &[&str]) -> Option<Self> {
        fs::create_dir_all(at).expect("the test's directory can be written");
        let out = Command::new("mount").args(arguments).arg(at).output().expect("mount(8)");
        if out.status.success() {
            return Some(Self(at.to_owned()));
        }
        let why = String::from_utf8_lossy(&out.stderr).into_owned();
        println!("no mounts here ({}): the fault layer runs this case instead", why.trim());
        None
    }

    fn remount(&self, options: &str) {
        let options = format!("remount,{options}");
        // Busy for as long as the last file is being closed.
        wait::until(&options, SAID_WITHIN, || {
            let status = Command::new("mount").args(["-o", &options]).arg(&self.0).status();
            status.expect("mount(8)").success().then_some(())
        });
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        drop(Command::new("umount").arg("-l").arg(&self.0).status());
    }
}

/// A recorder whose recordings go to `storage`, with one stream.
fn start(home: &Path, storage: &Path) -> Nvr {
    let nvr = Nvr::start(home);
    let path = storage.display();
    // No swap file: it would be larger than the file systems of these tests, and that is a word in /healthz, too.
    nvr.set(&format!(r#"{{"storage_path":"{path}","segment_seconds":10,"use_swap":false}}"#));
    nvr.json("POST", "/api/v1/streams", Some(STREAM));
    records(&nvr, RECORDS_WITHIN);
    nvr
}

fn bytes(nvr: &Nvr) -> u64 {
    nvr.recordings("").iter().map(|recording| recording.size).sum()
}

#[track_caller]
fn records(nvr: &Nvr, within: Duration) {
    let before = bytes(nvr);
    wait::until("more is recorded", within, || (bytes(nvr) > before).then_some(()));
}

/// Waits until the stream and `/healthz` say so.
#[track_caller]
fn says(nvr: &Nvr, words: &str) {
    wait::until(words, SAID_WITHIN, || {
        let health = nvr.request("GET", "/healthz", None);
        let stream = nvr.stream(0);
        let detail = stream.field("status_detail").text();
        let is_said = health.status == 503 && health.text().contains(words);
        (is_said && detail.contains(words)).then_some(())
    });
    assert_eq!(nvr.stream(0).field("status").text(), "connected", "live goes on");
}

#[track_caller]
fn is_well_again(nvr: &Nvr) {
    wait::until("all is well again", RESUMES_WITHIN, || {
        let is_silent = nvr.stream(0).field("status_detail").text().is_empty();
        (nvr.request("GET", "/healthz", None).status == 200 && is_silent).then_some(())
    });
    records(nvr, RESUMES_WITHIN);
}

/// Stops the recorder: every file plays, and store and files agree.
#[track_caller]
fn check_all(nvr: Nvr, home: &Path) {
    nvr.json("PUT", "/api/v1/streams/0", Some(r#"{"enabled":false}"#));
    let recordings = nvr.wait_for_finished(0, RECORDS_WITHIN);
    for recording in &recordings {
        mp4::check_plays(&recording.path);
    }
    assert!(nvr.stop().success());
    assert_eq!(rig::nvr::check(home), (Some(0), String::new()));
}

fn files_below(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).expect("the directory can be read");
    entries
        .map(|entry| entry.expect("an entry").path())
        .map(|path| if path.is_dir() { files_below(&path) } else { 1 })
        .sum()
}

#[test]
fn a_full_disk_is_said_and_recording_resumes_when_there_is_room() {
    let home = TempDir::new("disk_full");
    let storage = home.path().join("storage");
    let Some(_mounted) = Mounted::new(&storage, &["-t", "tmpfs", "-o", "size=4m", "tmpfs"]) else {
        return check_fault("disk_full_layer", "the disk is full", |faults| {
            faults.fail(&[Op::Create, Op::Append], Errno::NOSPC.raw_os_error());
        });
    };
    let nvr = start(home.path(), &storage);
    let ballast = storage.join("ballast");
    drop(fs::write(&ballast, vec![1; 8 << 20]));
    // Or almost: retention, which keeps some room free, may be the first to notice.
    says(&nvr, "full");
    fs::remove_file(&ballast).expect("the ballast is ours");
    is_well_again(&nvr);
    check_all(nvr, home.path());
}

#[test]
fn a_full_disk_that_holds_the_store_too_is_survived() {
    let home = TempDir::new("disk_full_store");
    let data = home.path().join("data");
    let Some(_mounted) = Mounted::new(&data, &["-t", "tmpfs", "-o", "size=12m", "tmpfs"]) else {
        return check_fault("disk_full_store_layer", "the disk is full", |faults| {
            faults.fail(&[Op::Append], Errno::NOSPC.raw_os_error());
        });
    };
    let nvr = start(home.path(), &data.join("recordings"));
    let ballast = data.join("ballast");
    drop(fs::write(&ballast, vec![1; 16 << 20]));
    says(&nvr, "not recording");
    assert_eq!(nvr.request("GET", "/api/v1/recordings", None).status, 200);
    // Long enough that a new file was due.
    wait::pause(Duration::from_secs(12));
    assert_eq!(nvr.request("GET", "/api/v1/recordings", None).status, 200);
    fs::remove_file(&ballast).expect("the ballast is ours");
    is_well_again(&nvr);
    check_all(nvr, home.path());
}

#[test]
fn a_read_only_disk_is_said_and_recording_resumes_when_it_can_be_written() {
    let home = TempDir::new("disk_readonly");
    let storage = home.path().join("storage");
    let Some(mounted) = Mounted::new(&storage, &["-t", "tmpfs", "-o", "size=64m", "tmpfs"]) else {
        return check_fault("disk_readonly_layer", "the disk is read-only", |faults| {
            faults.fail(&WRITES, Errno::ROFS.raw_os_error());
        });
    };
    let nvr = start(home.path(), &storage);
    // A file system with a file open for writing can't be remounted: the kernel does that only on errors.
    nvr.json("PUT", "/api/v1/streams/0", Some(r#"{"record":false}"#));
    nvr.wait_for_finished(0, RECORDS_WITHIN);
    mounted.remount("ro");
    nvr.json("PUT", "/api/v1/streams/0", Some(r#"{"record":true}"#));
    says(&nvr, "the disk is read-only");
    mounted.remount("rw");
    is_well_again(&nvr);
    check_all(nvr, home.path());
}

#[test]
fn an_unplugged_disk_is_missed_and_nothing_is_written_in_its_place() {
    let home = TempDir::new("disk_unplugged");
    let (disk, storage) = (home.path().join("disk"), home.path().join("storage"));
    fs::create_dir(&disk).expect("the test's directory can be written");
    let source = disk.to_str().expect("UTF-8");
    let Some(mounted) = Mounted::new(&storage, &["--bind", source]) else {
        return check_fault("disk_unplugged_layer", "disk missing", Faults::unplug);
    };
    let nvr = start(home.path(), &storage);
    drop(mounted);
    says(&nvr, "disk missing");
    let before = nvr.recordings("").len();
    // A recording that is not there is not taken for deleted.
    wait::until("the deletion is refused", SAID_WITHIN, || {
        let answer = nvr.request("DELETE", "/api/v1/recordings/1", None);
        assert!([400, 503].contains(&answer.status), "400 while it is being written");
        (answer.status == 503).then_some(())
    });
    assert!(nvr.stop().success());
    // A start without the disk takes no recording out of the list.
    let nvr = Nvr::start(home.path());
    says(&nvr, "disk missing");
    assert_eq!(nvr.recordings("").len(), before);
    assert_eq!(files_below(&storage), 0, "nothing is written where the disk should be");
    assert_eq!(rig::nvr::check(home.path()).0, Some(1));
    let _mounted = Mounted::new(&storage, &["--bind", source]).expect("it was possible before");
    is_well_again(&nvr);
    assert!(nvr.recordings("").len() > before);
    check_all(nvr, home.path());
}

#[test]
fn a_foreign_storage_is_left_alone_until_it_is_adopted() {
    let home = TempDir::new("disk_foreign");
    let storage = home.path().join("storage");
    let nvr = start(home.path(), &storage);
    assert!(nvr.stop().success());
    let marker = storage.join(".lightnvr-storage");
    let theirs = "lightnvr-storage 1\n00000000-0000-4000-8000-000000000000\n";
    fs::write(&marker, theirs).expect("the storage is ours");
    let before = files_below(&storage);
    let nvr = Nvr::start(home.path());
    says(&nvr, "foreign storage");
    assert_eq!(files_below(&storage), before);
    let address = nvr.addr;
    let refused = rig::http::request(address, "POST", "/api/v1/storage/adopt", &[], Some(b""));
    assert_eq!(refused.expect("an answer").status, 401);
    let adopted = nvr.request("POST", "/api/v1/storage/adopt", None);
    assert_eq!((adopted.status, adopted.text()), (200, r#"{"success":true}"#));
    is_well_again(&nvr);
    assert_eq!(fs::read_to_string(&marker).expect("a marker"), theirs);
    check_all(nvr, home.path());
}

#[test]
fn a_replaced_disk_is_adopted_with_what_is_on_it() {
    let home = TempDir::new("disk_replaced");
    let storage = home.path().join("storage");
    let nvr = start(home.path(), &storage);
    fs::rename(&storage, home.path().join("old")).expect("the storage is ours");
    fs::create_dir(&storage).expect("the test's directory can be written");
    says(&nvr, "disk missing");
    let old = nvr.recordings("");
    let body = Some("{}");
    let adopted = json::parse(nvr.request("POST", "/api/v1/storage/adopt", body).text());
    assert!(adopted.field("success").truth());
    is_well_again(&nvr);
    wait::until("recordings of the old disk are listed no longer", RESUMES_WITHIN, || {
        let now = nvr.recordings("");
        old.iter().all(|old| now.iter().all(|now| now.id != old.id)).then_some(())
    });
    check_all(nvr, home.path());
}

#[test]
fn commands_that_a_silent_disk_holds_up_are_answered_and_reads_go_on() {
    let home = TempDir::new("disk_commands");
    let Some(disk) = LoopDisk::mount(home.path(), 64 << 20) else {
        println!("no loop mounts here: a unit test of CommandSender has this case");
        return;
    };
    let nvr = start(home.path(), &disk.path().join("recordings"));
    // Thawed before the recorder is killed: until then not even that ends a process that waits for a disk.
    let mut disk = disk;
    nvr.json("PUT", "/api/v1/streams/0", Some(r#"{"record":false}"#));
    let id = nvr.wait_for_finished(0, RECORDS_WITHIN)[0].id;
    let path = format!("/api/v1/recordings/{id}");
    disk.freeze();
    let began = Instant::now();
    let delete = || {
        let answer = nvr.request("DELETE", &path, None);
        (answer.status, began.elapsed())
    };
    let file = nvr.recordings("").remove(0).path;
    std::thread::scope(|scope| {
        // Where this fails, the threads below are answered all the same.
        let _thawed = disk.thaw_on_panic();
        let deletes: Vec<_> = (0..6).map(|_| scope.spawn(delete)).collect();
        while deletes.iter().any(|delete| !delete.is_finished()) {
            let asked = Instant::now();
            nvr.json("GET", "/api/v1/streams", None);
            nvr.json("GET", "/api/v1/recordings", None);
            assert!(asked.elapsed() < READ_WITHIN, "reads took {:?}", asked.elapsed());
            wait::pause(Duration::from_millis(50));
        }
        for delete in deletes {
            let (status, took) = delete.join().expect("an answer");
            // Deleted, or too late for that, or: look before you try again.
            assert!(matches!(status, 200 | 404 | 503), "{status}");
            assert!(took < COMMAND_WITHIN, "{took:?}");
        }
    });
    assert_eq!(nvr.request("GET", &path, None).status, 404, "it is out of the list");
    nvr.json("PUT", "/api/v1/streams/0", Some(r#"{"priority":2}"#));
    assert!(file.exists(), "the disk is still frozen");
    disk.thaw();
    wait::until("its file is gone", RESUMES_WITHIN, || (!file.exists()).then_some(()));
    nvr.json("PUT", "/api/v1/streams/0", Some(r#"{"record":true}"#));
    is_well_again(&nvr);
    check_all(nvr, home.path());
}

/// A fault that begins in the middle of a recording and goes away: said, survived, and nothing torn is left.
fn check_fault(name: &str, words: &'static str, begin: impl FnOnce(&Faults)) {
    let home = TempDir::new(name);
    bench::run(home.path(), |bench| async move {
        bench.records(RECORDS_WITHIN).await;
        begin(&bench.faults);
        bench.says(words, SAID_WITHIN).await;
        bench.faults.clear();
        bench.is_well(RESUMES_WITHIN).await;
        bench.records(RESUMES_WITHIN).await;
    });
    check_files(home.path());
}

fn check_files(home: &Path) {
    let storage = home.join("storage/0");
    let mut count = 0;
    for entry in fs::read_dir(&storage).expect("recordings") {
        mp4::check_plays(&entry.expect("an entry").path());
        count += 1;
    }
    assert!(count >= 2, "the fault ended a file, and another began");
}

#[test]
fn every_error_of_every_operation_is_said_and_survived() {
    let cases: [(&str, &[Op], Errno, &str); 6] = [
        ("eio_append", &[Op::Append], Errno::IO, "the disk reports errors"),
        ("eio_sync", &[Op::Sync], Errno::IO, "the disk reports errors"),
        ("eio_all", &WRITES, Errno::IO, "the disk reports errors"),
        ("erofs", &WRITES, Errno::ROFS, "the disk is read-only"),
        ("enospc", &[Op::Create, Op::Append], Errno::NOSPC, "the disk is full"),
        ("enxio", &WRITES, Errno::NXIO, "the disk reports errors"),
    ];
    for (name, ops, errno, words) in cases {
        println!("{name}");
        let fail = |faults: &Faults| faults.fail(ops, errno.raw_os_error());
        check_fault(&format!("disk_{name}"), words, fail);
    }
}

#[test]
fn a_disk_that_goes_while_a_file_is_written_is_missed() {
    check_fault("disk_gone", "disk missing", Faults::unplug);
}

#[test]
fn a_sync_that_failed_once_ends_the_file_at_the_last_good_round() {
    let home = TempDir::new("disk_sync_once");
    bench::run(home.path(), |bench| async move {
        bench.records(RECORDS_WITHIN).await;
        let first = bench.snapshot().running[0].clone();
        bench.faults.fail_once(Op::Sync, Errno::IO.raw_os_error());
        let ended = bench.until("the file is finished", RESUMES_WITHIN, |_| {
            bench.rows().into_iter().find(|row| row.id == first.id && !row.in_progress)
        });
        let ended = ended.await;
        bench
            .until("another begins", RESUMES_WITHIN, |snapshot| {
                snapshot.running.iter().find(|running| running.id > first.id).map(|_| ())
            })
            .await;
        bench.records(RESUMES_WITHIN).await;
        assert!(ended.size >= first.size);
    });
    check_files(home.path());
}

#[test]
fn a_silent_disk_is_said_and_loses_nothing_that_the_ring_holds() {
    let home = TempDir::new("disk_silent");
    bench::run(home.path(), |bench| async move {
        bench.records(RECORDS_WITHIN).await;
        bench.faults.stall();
        // Which it is depends on whether a sync or an append met the silence.
        let words = ["has not answered", "not keeping up"];
        let is_said = |snapshot: &lightnvr::nvr::snapshot::Snapshot| {
            let mut said = snapshot.ailments.iter();
            said.any(|said| words.iter().any(|words| said.contains(words))).then_some(())
        };
        bench.until("the silence is said", Duration::from_secs(20), is_said).await;
        bench.faults.clear();
        bench.is_well(RESUMES_WITHIN).await;
        bench.records(RESUMES_WITHIN).await;
    });
}

#[test]
fn what_a_disk_refused_is_written_when_it_takes_it_again() {
    let home = TempDir::new("disk_refused");
    bench::run(home.path(), |bench| async move {
        bench.records(RECORDS_WITHIN).await;
        let began = ledger::now_ms();
        bench.faults.fail(&[Op::Create, Op::Append], Errno::IO.raw_os_error());
        bench.says("the disk reports errors", SAID_WITHIN).await;
        // Several tries, each of which used to cost what it had taken out of the ring.
        bench.pass(Duration::from_secs(8)).await;
        bench.faults.clear();
        let over = ledger::now_ms();
        bench.is_well(RESUMES_WITHIN).await;
        bench
            .until("all that waited is written", RESUMES_WITHIN, |snapshot| {
                snapshot.running.iter().any(|running| running.end_ms > over + 2000).then_some(())
            })
            .await;
        let pictures: Vec<i64> = bench
            .pictures()
            .into_iter()
            .filter(|at| (began - 2000..over + 2000).contains(at))
            .collect();
        let lost: i64 = pictures.windows(2).map(|pair| (pair[1] - pair[0] - 100).max(0)).sum();
        // The rest of the group of pictures that the first error met; the test picture has one in two seconds.
        assert!(lost <= 2500, "{lost} ms of {} ms are missing", over - began);
        let dropped = bench.snapshot().streams[0].buffer.as_ref().expect("it runs").dropped;
        assert!(dropped <= 25, "{dropped} packets");
    });
}

#[test]
fn a_disk_that_stands_still_holds_up_no_other() {
    let other = Path::new("/dev/shm").join(format!("lightnvr-test-{}", std::process::id()));
    if fs::create_dir_all(&other).is_err() {
        println!("no second file system here");
        return;
    }
    let home = TempDir::new("disk_other");
    let to = other.clone();
    bench::run(home.path(), |bench| async move {
        bench.records(RECORDS_WITHIN).await;
        bench.faults.stall_alone(&bench.root);
        // The old disk has something to sync that it will not.
        bench
            .until("a round waits", SAID_WITHIN, |snapshot| {
                snapshot.ailments.iter().any(|ailment| ailment.contains("not")).then_some(())
            })
            .await;
        bench.nvr.parts.recordings.move_to(to).await.expect("the other disk is there");
        bench.nvr.add_stream(bench::stream(1));
        bench
            .until("the other disk is synced", RECORDS_WITHIN, |snapshot| {
                let running = snapshot.running.iter().find(|running| running.stream_id == 1)?;
                (running.end_ms - running.start_ms > 3000).then_some(())
            })
            .await;
        let rows = bench.rows();
        assert!(rows.iter().any(|row| row.stream_id == 1), "and its row is in the store: {rows:?}");
        bench.faults.clear();
        // Recordings of both disks are checked at the end.
        bench
            .until("the old disk goes on", RESUMES_WITHIN, |snapshot| {
                (!snapshot.ailments.iter().any(|ailment| ailment.contains("has not answered")))
                    .then_some(())
            })
            .await;
    });
    fs::remove_dir_all(&other).expect("it is the test's");
}
