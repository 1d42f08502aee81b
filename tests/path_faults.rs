//! Paths of the settings that lead nowhere: one that never answers holds up who asked for it and nobody else, and a swap
//! file is made on no other disk than the one it was meant for.

mod rig;

use std::fs::{self, File};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rig::json::quote;
use rig::nvr::Nvr;
use rig::temp_dir::TempDir;
use rig::wait;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

const RECORDS_WITHIN: Duration = Duration::from_secs(20);
const SAID_WITHIN: Duration = Duration::from_secs(10);
/// Disk threads that may wait for an answer at once.
const ASKING_MAX: usize = 4;
const STREAM: &str = r#"{"name":"Tor","url":"testpattern://","width":320,"height":240,"fps":10}"#;

/// A file system whose server takes no request, so that whoever touches it waits until this is dropped.
struct Silent {
    at: PathBuf,
    server: Option<File>,
}

impl Silent {
    /// Says why where mounting is not permitted.
    fn mount(at: &Path) -> Result<Self, String> {
        fs::create_dir_all(at).expect("the test's directory can be written");
        let server = File::options().read(true).write(true).open("/dev/fuse");
        let server = server.map_err(|error| format!("/dev/fuse: {error}"))?;
        let data = format!("fd={},rootmode=40000,user_id=0,group_id=0\0", server.as_raw_fd());
        let data = std::ffi::CStr::from_bytes_with_nul(data.as_bytes()).expect("one NUL");
        mount("silent", at, "fuse", MountFlags::NOSUID | MountFlags::NODEV, data)
            .map_err(|error| format!("mount: {error}"))?;
        Ok(Self { at: at.to_owned(), server: Some(server) })
    }

    /// From now on every request fails at once.
    fn break_down(&mut self) {
        self.server = None;
    }
}

impl Drop for Silent {
    fn drop(&mut self) {
        self.server = None;
        let _ = unmount(&self.at, UnmountFlags::DETACH);
    }
}

/// An ext4 file system in a file, which can be taken away and come back.
struct Disk {
    image: PathBuf,
    at: PathBuf,
}

impl Disk {
    fn make(dir: &Path) -> Self {
        let disk = Self { image: dir.join("disk.img"), at: dir.join("disk") };
        File::create(&disk.image).and_then(|file| file.set_len(64 << 20)).expect("a sparse file");
        fs::create_dir_all(&disk.at).expect("a directory");
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&disk.image));
        disk
    }

    fn plug(&self) -> Result<(), String> {
        let out =
            Command::new("mount").args(["-o", "loop"]).arg(&self.image).arg(&self.at).output();
        let out = out.expect("mount(8)");
        let why = String::from_utf8_lossy(&out.stderr).into_owned();
        out.status.success().then_some(()).ok_or(why)
    }

    fn unplug(&self) {
        run(Command::new("umount").arg(&self.at));
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        let _ = unmount(&self.at, UnmountFlags::DETACH);
    }
}

/// Mounts are for root alone: said on a laptop, an error in CI.
fn not_here(why: &str) {
    assert!(std::env::var_os("CI").is_none(), "no mounts here: {why}");
    println!("not run, for lack of mounts: {why}");
}

#[track_caller]
fn run(command: &mut Command) {
    assert!(command.status().expect("a tool of Debian's").success(), "{command:?}");
}

#[track_caller]
fn records(nvr: &Nvr) {
    let bytes = || nvr.recordings("").iter().map(|recording| recording.size).sum::<u64>();
    let before = bytes();
    wait::until("more is recorded", RECORDS_WITHIN, || (bytes() > before).then_some(()));
}

/// Status and words of an answer to a change of settings.
fn set(nvr: &Nvr, field: &str, path: &Path) -> (u16, String) {
    let body = format!(r#"{{"{field}":{}}}"#, quote(&path.display().to_string()));
    let answer = nvr.request("PUT", "/api/v1/settings", Some(&body));
    (answer.status, answer.text().to_owned())
}

#[test]
fn a_path_that_never_answers_holds_up_nobody() {
    let home = TempDir::new("path_silent");
    let mut silent = match Silent::mount(&home.path().join("silent")) {
        Ok(silent) => silent,
        Err(why) => return not_here(&why),
    };
    let nvr = Nvr::start(home.path());
    nvr.keep_files_long();
    nvr.json("POST", "/api/v1/streams", Some(STREAM));
    records(&nvr);
    let disk_threads = || {
        let names = fs::read_dir(format!("/proc/{}/task", nvr.process.pid())).expect("it runs");
        let name = |entry: fs::DirEntry| fs::read_to_string(entry.path().join("comm"));
        let names = names.flatten().flat_map(name);
        names.filter(|name| name.starts_with("disk-")).count()
    };
    let before = disk_threads();
    for n in 0..=ASKING_MAX {
        let (status, words) = match n {
            1 => set(&nvr, "swap_path", &silent.at.join("lightnvr.swap")),
            _ => set(&nvr, "storage_path", &silent.at.join(n.to_string())),
        };
        assert_eq!(status, 503, "{n}: {words}");
        let field = if n == 1 { "swap_path" } else { "storage_path" };
        assert!(words.contains(field) && words.contains("does not answer"), "{n}: {words}");
        // Whoever came behind it is served, and nothing has changed.
        nvr.json("PUT", "/api/v1/streams/0", Some(&format!(r#"{{"priority":{}}}"#, n + 1)));
        records(&nvr);
    }
    assert!(disk_threads() <= before + ASKING_MAX, "{} threads, {before} before", disk_threads());
    silent.break_down();
    wait::until("the threads that waited have gone", SAID_WITHIN, || {
        (disk_threads() == before).then_some(())
    });
    let (status, words) = set(&nvr, "storage_path", &home.path().join("other"));
    assert_eq!(status, 200, "{words}");
    records(&nvr);
    nvr.json("PUT", "/api/v1/streams/0", Some(r#"{"enabled":false}"#));
    let recordings = nvr.wait_for_finished(0, RECORDS_WITHIN);
    assert_eq!(
        recordings.len(),
        1,
        "one file without a break; the next one would be at the new place"
    );
    for recording in recordings {
        rig::mp4::check_plays(&recording.path);
    }
    assert!(nvr.stop().success());
}

#[test]
fn a_swap_file_is_made_on_no_other_disk() {
    let home = TempDir::new("path_swap");
    let disk = Disk::make(home.path());
    if let Err(why) = disk.plug() {
        return not_here(&why);
    }
    let file = disk.at.join("lightnvr.swap");
    let nvr = Nvr::start(home.path());
    nvr.keep_files_long();
    nvr.set(&format!(
        r#"{{"use_swap":true,"swap_size":8388608,"swap_path":{}}}"#,
        quote(&file.display().to_string())
    ));
    assert_eq!(fs::metadata(&file).expect("it was made").len(), 8 << 20);
    assert!(nvr.stop().success());
    let names = fs::read_dir(&disk.at).expect("mounted").flatten().map(|entry| entry.file_name());
    let names: Vec<_> = names.filter(|name| name != "lost+found").collect();
    assert_eq!(names.len(), 2, "the file and the marker: {names:?}");

    disk.unplug();
    let nvr = Nvr::start(home.path());
    nvr.json("POST", "/api/v1/streams", Some(STREAM));
    wait::until("it is said", SAID_WITHIN, || {
        let health = nvr.request("GET", "/healthz", None);
        health.text().contains("swap file: ").then_some(())
    });
    records(&nvr);
    let bigger = r#"{"swap_size":16777216}"#;
    let answer = nvr.request("PUT", "/api/v1/settings", Some(bigger));
    assert!(answer.status == 400 && answer.text().contains("swap_path"), "{}", answer.text());
    let left = fs::read_dir(&disk.at).expect("the empty directory").count();
    assert_eq!(left, 0, "nothing lands on the disk behind the mount point");

    disk.plug().expect("as before");
    nvr.json("PUT", "/api/v1/settings", Some(bigger));
    assert_eq!(fs::metadata(&file).expect("it was made").len(), 16 << 20);
    wait::until("all is well", SAID_WITHIN, || {
        (nvr.request("GET", "/healthz", None).status == 200).then_some(())
    });
    assert!(nvr.stop().success());
}
