//! Where the system lets it, the program's memory is locked; where not, it says so once and goes on.

mod rig;

use std::fs;
use std::process::Command;
use std::time::Duration;

use rig::nvr::{self, Nvr, PASSWORD};
use rig::temp_dir::TempDir;

const CONNECTED_WITHIN: Duration = Duration::from_secs(20);
/// `CAP_IPC_LOCK` (capabilities(7)).
const IPC_LOCK: u64 = 1 << 14;

/// The number in a line of `/proc/PID/status`.
fn status_of(process: &str, name: &str, radix: u32) -> u64 {
    let text = fs::read_to_string(format!("/proc/{process}/status")).expect("it runs");
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    let word = line.and_then(|line| line.split_whitespace().next());
    u64::from_str_radix(word.unwrap_or_else(|| panic!("no {name}")), radix).expect("a number")
}

/// Starts the program with `before` in front of it. Gives how many KiB are locked, and how often it was said that
/// they are not.
fn locked(name: &str, before: &[&str]) -> (u64, usize) {
    let home = TempDir::new(name);
    let password = home.path().join("password");
    fs::write(&password, PASSWORD).expect("the test's directory can be written");
    let program = nvr::binary();
    let mut words = before.iter().map(std::ffi::OsStr::new).chain([program.as_os_str()]);
    let mut command = Command::new(words.next().expect("one at least"));
    command.args(words).env_remove("LIGHTNVR_ADMIN_PASSWORD");
    command.arg("--data-dir").arg(home.path().join("data"));
    command.args(["--demo", "--listen", "127.0.0.1:0", "--admin-password-file"]).arg(password);
    let recorder = Nvr::run(&mut command, PASSWORD);
    recorder.wait_for_status(0, "connected", CONNECTED_WITHIN);
    let pid = recorder.process.pid().to_string();
    assert_eq!(status_of(&pid, "VmSwap", 10), 0);
    let said =
        recorder.process.stderr().iter().filter(|l| l.contains("memory is not locked")).count();
    let kib = status_of(&pid, "VmLck", 10);
    assert!(recorder.stop().success());
    (kib, said)
}

#[test]
fn memory_is_locked_or_it_is_said_once() {
    let (kib, said) = locked("memory_lock", &[]);
    if status_of("self", "CapEff", 16) & IPC_LOCK == 0 {
        assert!((kib == 0) == (said == 1), "{kib} KiB, said {said} times");
        return;
    }
    assert!(kib > 0 && said == 0, "{kib} KiB, said {said} times");
    let without = ["setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock"];
    let without = [&without[..], &["prlimit", "--memlock=8388608:8388608"]].concat();
    assert_eq!(locked("memory_lock_limited", &without), (0, 1));
}
