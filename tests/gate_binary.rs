//! The attacks of `rig/attacks.rs` against the program itself, while it records: the right status or a
//! closed connection, bounded threads and memory, and ordinary requests answered meanwhile.

#[path = "rig/attacks.rs"]
mod attacks;
mod rig;

use std::fs;
use std::time::Duration;

use attacks::Target;
use lightnvr::http::gate::CAPS;
use rig::json::Look;
use rig::nvr::Nvr;
use rig::temp_dir::TempDir;

const RECORDED_WITHIN: Duration = Duration::from_secs(30);
/// Executor, helpers, pools: `tests/threads.rs` knows them by name.
const THREADS_MAX: usize = 32;
/// Peak of the process over all attacks, the test pattern's encoder (33 MB) and argon2 (7 MB) included.
const RSS_KIB_MAX: u64 = 96 << 10;

fn status_of(pid: u32, field: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix(field)).expect("a known field");
    let number = line.trim_start_matches(':').trim().trim_end_matches(" kB");
    number.parse().expect("a number")
}

/// Sockets the process has open: connections, listeners, and those to its REST layer.
fn sockets(pid: u32) -> usize {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("its table");
    let links = entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok());
    links.filter(|link| link.to_string_lossy().starts_with("socket:")).count()
}

#[test]
fn the_program_survives_every_attack_while_it_records() {
    let home = TempDir::new("gate_binary");
    let nvr = Nvr::start_with(home.path(), &["--demo"]);
    nvr.wait_for_status(0, "connected", RECORDED_WITHIN);
    let pid = nvr.process.pid();
    let open = || sockets(pid);
    let target = Target { addr: nvr.addr, open: &open, open_max: CAPS.all + 32, path: "/healthz" };
    let check = |attack: &str| {
        let (threads, rss) = (status_of(pid, "Threads"), status_of(pid, "VmHWM"));
        assert!(threads <= THREADS_MAX as u64, "{attack}: {threads} threads");
        assert!(rss <= RSS_KIB_MAX, "{attack}: {rss} KiB at peak");
        assert!(open() <= target.open_max, "{attack}: {} sockets", open());
        let system = nvr.json("GET", "/api/v1/system", None);
        assert_eq!(system.field("streams_active").integer(), 1, "{attack}: still connected");
    };

    let partial = b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Partial: ";
    drop(attacks::silent_connections(&target, 2, 1000, CAPS.per_peer, b""));
    check("1000 idle connections");
    drop(attacks::silent_connections(&target, 3, 1000, CAPS.per_peer, partial));
    check("1000 partial heads");
    attacks::endless_header_line(&target, 200 << 20);
    check("a header line of 200 MiB");
    attacks::broken_framing(&target);
    check("broken framing");
    attacks::resets(&target, 200);
    check("resets");
    drop(attacks::pipelining_flood(&target, 64 << 20));
    check("a flood of requests behind a stalled reader");
    attacks::twelve_keep_alive_connections(&target);
    check("12 kept connections");
    attacks::full_fd_table(&target, pid, 20);
    check("a full table of descriptors");

    assert!(nvr.stop().success());
    assert_eq!(rig::nvr::check(home.path()), (Some(0), String::new()));
}
