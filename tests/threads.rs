//! The threads of the running program: their names, their number, and that nobody outside adds to them.

mod rig;

use std::collections::BTreeMap;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use rig::clips;
use rig::gst_server::{Auth, GstServer, Mount, Sets};
use rig::nvr::Nvr;
use rig::temp_dir::TempDir;

/// Connections at once; under the gate's caps.
const CONNECTIONS: usize = 50;
/// tiny_http's own, its supervisor and the handlers.
const HTTP_THREADS_MAX: usize = 16;
/// The cap on smol's pool for blocking calls.
const BLOCKING_THREADS_MAX: usize = 2;
const RECORDED_WITHIN: Duration = Duration::from_secs(20);

/// How many threads there are of each name, numbers at the end left out.
fn threads(nvr: &Nvr) -> BTreeMap<String, usize> {
    let tasks = format!("/proc/{}/task", nvr.process.pid());
    let mut count = BTreeMap::new();
    for task in fs::read_dir(tasks).expect("it runs") {
        // A thread may end between the two calls.
        let comm = task.map(|task| fs::read_to_string(task.path().join("comm")));
        let Ok(Ok(comm)) = comm else { continue };
        let name = comm.trim_end().trim_end_matches(|c: char| c.is_ascii_digit());
        *count.entry(name.trim_end_matches('-').to_owned()).or_insert(0) += 1;
    }
    count
}

#[track_caller]
fn check_threads(nvr: &Nvr) -> usize {
    let threads = threads(nvr);
    let cores = std::thread::available_parallelism().expect("Linux says").get();
    for (name, count) in &threads {
        let allowed = match name.as_str() {
            "lightnvr" | "async-io" | "log" => 1..=1,
            "disk" => 1..=1, // store and recordings are on one device here
            "codec" => (cores - 1).clamp(1, 3)..=(cores - 1).clamp(1, 3),
            "http" => 1..=HTTP_THREADS_MAX,
            "blocking" => 1..=BLOCKING_THREADS_MAX,
            other => panic!("a thread named {other:?}, of {threads:?}"),
        };
        assert!(allowed.contains(count), "{count} threads named {name:?}, allowed are {allowed:?}");
    }
    for name in ["lightnvr", "async-io", "log", "disk", "codec", "http"] {
        assert!(threads.contains_key(name), "no thread named {name:?}, only {threads:?}");
    }
    threads.values().sum()
}

#[test]
fn threads_have_names_and_neither_streams_nor_connections_add_to_them() {
    let home = TempDir::new("threads");
    let mounts = [
        Mount { path: "a", clip: &clips::LONG, sets: Sets::Sdp },
        Mount { path: "b", clip: &clips::H264_B, sets: Sets::Band },
    ];
    let server = GstServer::start(Auth::None, &mounts);
    let nvr = Nvr::start_with(home.path(), &["--demo"]);
    nvr.wait_for_status(0, "connected", RECORDED_WITHIN);
    let with_one = check_threads(&nvr);
    for (id, mount) in (1..).zip(&mounts) {
        nvr.add_stream(mount.path, &server.url(mount.path));
        nvr.wait_for_status(id, "connected", RECORDED_WITHIN);
    }
    // The pool for blocking calls fills and empties as it likes, up to its cap.
    assert!(check_threads(&nvr) <= with_one + BLOCKING_THREADS_MAX);

    // Each has been answered once and is kept open.
    let mut open: Vec<TcpStream> = Vec::new();
    for n in 0..CONNECTIONS {
        let mut stream = TcpStream::connect(nvr.addr).expect("a place for one more");
        stream.set_read_timeout(Some(RECORDED_WITHIN)).expect("not zero");
        let request = format!("GET /healthz HTTP/1.1\r\nHost: {}\r\n\r\n", nvr.addr);
        stream.write_all(request.as_bytes()).expect("it listens");
        let mut status = [0; 12];
        stream.read_exact(&mut status).unwrap_or_else(|e| panic!("connection {n}: {e}"));
        assert_eq!(&status, b"HTTP/1.1 200", "connection {n}");
        open.push(stream);
    }
    assert!(check_threads(&nvr) <= with_one + BLOCKING_THREADS_MAX + HTTP_THREADS_MAX / 2);
    drop(open);
    nvr.recordings("");
    check_threads(&nvr);
}
