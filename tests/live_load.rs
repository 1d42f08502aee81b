//! What many viewers cost, on all ways of watching: those that stand still, and those that come and go. Memory stays
//! where it was, and recording loses no packet.

mod rig;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rig::clips;
use rig::gst_server::{Auth, GstServer, Mount, Sets};
use rig::json::Look;
use rig::mjpeg::Watcher;
use rig::mp4;
use rig::nvr::Nvr;
use rig::temp_dir::TempDir;
use rig::wait;
use rig::ws;

const SOON: Duration = Duration::from_secs(20);
/// Viewers that stand still, and such as come and go; a minute is what the latter may take.
const STALLED: usize = 50;
const PASSING: usize = 200;
const PASSING_WITHIN: Duration = Duration::from_secs(60);
/// Requests that a viewer of HLS or of snapshots has sent without reading an answer: more than sockets hold.
const UNREAD: usize = 64;
/// So long everybody stands still: the stream is 0.5 Mbit/s and more, so the buffers of sockets are full.
const STILL: Duration = Duration::from_secs(8);
/// What is kept while somebody watches: 36 s of the stream, a decoder, a picture or a fragment for each viewer.
const WATCHED_KIB_MAX: u64 = 32 << 10;
/// What a second round may find that the first one left: the allocator's holes.
const GROWTH_KIB_MAX: u64 = 3 << 10;

/// Sends this request, so many times, and reads nothing.
fn send(nvr: &Nvr, path: &str, times: usize) -> TcpStream {
    let stream = TcpStream::connect(nvr.addr).expect("the recorder accepts");
    stream.set_write_timeout(Some(SOON)).expect("not zero");
    let head = format!(
        "GET {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: {}\r\n\r\n",
        nvr.addr,
        nvr.login()
    );
    (&stream).write_all(head.repeat(times).as_bytes()).expect("some of it is read");
    stream
}

/// Someone who watches; dropped, the connection is closed.
enum Viewer {
    Socket { _socket: ws::Socket },
    Mjpeg { _watcher: Watcher },
    Requests(TcpStream),
}

impl Viewer {
    /// The n-th viewer: the ways take turns.
    #[track_caller]
    fn new(nvr: &Nvr, n: usize, times: usize) -> Self {
        let at = |file: &str| format!("/api/v1/streaming/0/{file}");
        match n % 4 {
            0 => {
                let login = nvr.login();
                let opened = ws::open(nvr.addr, &at("live"), &[("Authorization", &login)]);
                Self::Socket { _socket: opened.unwrap_or_else(|status| panic!("{n}: {status}")) }
            }
            1 => {
                let opened = Watcher::open(nvr.addr, &nvr.login(), &at("mjpeg"));
                Self::Mjpeg { _watcher: opened.unwrap_or_else(|status| panic!("{n}: {status}")) }
            }
            2 => {
                let list = nvr.request("GET", &at("hls/playlist.m3u8"), None);
                assert_eq!(list.status, 200, "{n}: {}", list.text());
                let segments = list.text().lines().filter(|line| line.starts_with("seg_"));
                let segment = segments.last().expect("a segment").to_owned();
                Self::Requests(send(nvr, &at(&format!("hls/{segment}")), times))
            }
            _ => Self::Requests(send(nvr, &at("snapshot.jpg"), times)),
        }
    }

    /// Reads the beginning of what is sent.
    fn read(&mut self) {
        if let Self::Requests(stream) = self {
            stream.set_read_timeout(Some(SOON)).expect("not zero");
            let mut head = [0; 12];
            stream.read_exact(&mut head).expect("an answer");
            assert_eq!(&head, b"HTTP/1.1 200");
        }
    }
}

/// A round of viewers; gives the memory while all stand still, and after they left.
fn round(nvr: &Nvr) -> [u64; 2] {
    let stalled: Vec<Viewer> = (0..STALLED).map(|n| Viewer::new(nvr, n, UNREAD)).collect();
    let began = Instant::now();
    for n in 0..PASSING {
        let mut viewer = Viewer::new(nvr, n, 1);
        // Half of them go before anything is there.
        if n % 8 < 4 {
            viewer.read();
        }
    }
    let took = began.elapsed();
    wait::pause(STILL);
    let watched = nvr.rss_kib();
    drop(stalled);
    // The last way of watching to end is HLS, 18 s after the last request: then no window is kept.
    wait::pause(Duration::from_secs(20));
    println!("{PASSING} viewers came and went in {took:?}");
    assert!(took < PASSING_WITHIN);
    [watched, nvr.rss_kib()]
}

#[test]
fn viewers_that_stand_still_or_come_and_go_cost_no_memory_and_no_packet() {
    let home = TempDir::new("live_load");
    let mounts = [Mount { path: "long", clip: &clips::LONG, sets: Sets::Sdp }];
    let server = GstServer::start(Auth::None, &mounts);
    let nvr = Nvr::start(home.path());
    nvr.keep_files_long();
    nvr.set(r#"{"max_viewers":128}"#);
    let id = nvr.add_stream("long", &server.url("long"));
    nvr.wait_for_status(id, "connected", SOON);
    // Each way once: code and decoders are in memory.
    (0..4).for_each(|n| Viewer::new(&nvr, n, 1).read());
    let before = nvr.rss_kib();
    let first = round(&nvr);
    let second = round(&nvr);
    println!("KiB: {before} before, then (watched, after) {first:?} and {second:?}");
    for [watched, after] in [first, second] {
        assert!(watched < before + WATCHED_KIB_MAX);
        assert!(after < before + WATCHED_KIB_MAX);
    }
    assert!(second[1] < first[1] + GROWTH_KIB_MAX, "a second round finds it where it was");

    let stream = nvr.stream(id);
    assert_eq!(stream.field("status_detail").text(), "");
    nvr.json("PUT", &format!("/api/v1/streams/{id}"), Some(r#"{"enabled":false}"#));
    let recordings = nvr.wait_for_finished(id, SOON);
    assert_eq!(recordings.len(), 1);
    let units = |file: &Path| {
        let mut units = mp4::nal_units(file, clips::Video::H264);
        units.retain(|unit| !mp4::is_parameter_set(unit, clips::Video::H264));
        units
    };
    let (sent, recorded) = (units(&clips::LONG.file()), units(&recordings[0].path));
    let begins = sent.iter().position(|unit| *unit == recorded[0]).expect("a frame of the clip");
    println!("{} pictures recorded", recorded.len());
    assert!(recorded.len() > 500 && sent[begins..].starts_with(&recorded), "not one is missing");
}
