//! The list of recordings when there are very many: a million in `./build.sh soak`, a tenth of it otherwise. Figures are
//! printed; what is asserted is order and completeness, and bounds that only a walk over all rows would break.

mod rig;

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use base64::prelude::{BASE64_STANDARD, Engine};
use rig::json::{self, Look};
use rig::nvr::{Nvr, PASSWORD};
use rig::rows::{self, LENGTH_MS, STREAMS};
use rig::temp_dir::TempDir;
use rig::wait;

const ROWS: u64 = 100_000;
const ROWS_IN_SOAK: u64 = 1_000_000;
const QUESTIONS: u64 = 300;
const SOON: Duration = Duration::from_secs(20);
/// The list is a thousand times faster than a walk over all rows for each page would be.
const PAGE_WITHIN: Duration = Duration::from_millis(250);
/// Above what it was before: a buffered list of so many rows would be hundreds.
const RSS_MORE_MB_MAX: f64 = 24.0;

fn rss_mb(nvr: &Nvr, what: &str) -> f64 {
    let path = format!("/proc/{}/status", nvr.process.pid());
    let status = std::fs::read_to_string(path).expect("it runs");
    let line = status.lines().find(|line| line.starts_with(what)).expect("Linux tells");
    let kib = line.split_whitespace().nth(1).and_then(|kib| kib.parse::<f64>().ok());
    kib.expect("a number") / 1024.0
}

/// Reads the whole list as it comes; answers its bytes and how many recordings it has.
fn read_all(nvr: &Nvr) -> (usize, usize) {
    let mut socket = TcpStream::connect(nvr.addr).expect("the recorder listens");
    let login = BASE64_STANDARD.encode(format!("admin:{PASSWORD}"));
    let head = format!(
        "GET /api/v1/recordings HTTP/1.1\r\nHost: {}\r\nAuthorization: Basic {login}\r\nConnection: close\r\n\r\n",
        nvr.addr
    );
    socket.write_all(head.as_bytes()).expect("sent");
    let (mut bytes, mut count) = (0, 0);
    let mut window: Vec<u8> = Vec::new();
    let mut piece = vec![0; 1 << 16];
    loop {
        let read = socket.read(&mut piece).expect("it goes on");
        if read == 0 {
            return (bytes, count);
        }
        bytes += read;
        window.extend_from_slice(&piece[..read]);
        let mark = b"\"stream_name\":";
        count += window.windows(mark.len()).filter(|part| part == mark).count();
        let keep = window.len().min(mark.len() - 1);
        window.drain(..window.len() - keep);
    }
}

#[test]
fn a_page_anywhere_is_fast_and_the_whole_list_takes_no_memory() {
    let rows = if std::env::var_os("SOAK").is_some() { ROWS_IN_SOAK } else { ROWS };
    let home = TempDir::new("million");
    let first_ms = rows::fill(home.path(), rows);
    let began = Instant::now();
    let nvr = Nvr::start(home.path());
    let started = began.elapsed();
    let mut took = Vec::new();
    let span_ms = LENGTH_MS * (rows / STREAMS) as i64;
    let rss_before = rss_mb(&nvr, "VmRSS:");
    for n in 0..QUESTIONS {
        let at_ms = first_ms + span_ms / QUESTIONS as i64 * (n as i64 * 7919 % QUESTIONS as i64);
        let at = lightnvr::system::clock::iso_seconds(at_ms);
        let stream = if n % 3 == 0 { format!("&stream_id={}", n % STREAMS) } else { String::new() };
        let order = if n % 2 == 0 { format!("start={at}") } else { format!("end={at}&order=desc") };
        let path = format!("/api/v1/recordings?limit=100&{order}{stream}");
        // One address may not ask as fast as it is answered.
        let (list, length) = wait::until("a page", SOON, || {
            let asked = Instant::now();
            let answer = nvr.request("GET", &path, None);
            (answer.status != 429).then(|| (answer, asked.elapsed()))
        });
        assert_eq!(list.status, 200, "{path}: {}", list.text());
        let list = json::parse(list.text());
        took.push(length);
        let starts = list.field("recordings").items().iter();
        let starts: Vec<&str> = starts.map(|row| row.field("start_time").text()).collect();
        let is_sorted =
            if n % 2 == 0 { starts.is_sorted() } else { starts.iter().rev().is_sorted() };
        assert!(is_sorted, "{starts:?}");
    }
    took.sort_unstable();
    let (p50, p99) = (took[took.len() / 2], took[took.len() * 99 / 100]);
    let asked = Instant::now();
    let (bytes, count) = wait::until("the whole list", SOON, || {
        let list = read_all(&nvr);
        (list.1 > 0).then_some(list)
    });
    println!(
        "{rows} rows: ready after {started:?}; a page of 100 p50 {p50:?}, p99 {p99:?}; the whole list of {} MB in \
         {:?}; RSS {rss_before:.1} MB before, {:.1} MB at most",
        bytes >> 20,
        asked.elapsed(),
        rss_mb(&nvr, "VmHWM:")
    );
    assert_eq!(count as u64, rows);
    assert!(p99 < PAGE_WITHIN, "{p99:?}");
    assert!(rss_mb(&nvr, "VmHWM:") - rss_before < RSS_MORE_MB_MAX);
    assert!(nvr.stop().success());
}
