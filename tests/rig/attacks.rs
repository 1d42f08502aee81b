//! The attacks on the HTTP side, against any address: the gate in process or the release binary.
//!
//! In here: what is sent, what has to come back, and that an ordinary request is answered meanwhile.
//! Not in here: starting a server. Nothing waits for a length of time: a read ends when the server
//! answers or closes; `GUARD` only turns a hang into a failure.

#![allow(dead_code, reason = "each test binary uses its part")]

use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpStream};
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

/// A hang is a failure after this.
pub const GUARD: Duration = Duration::from_secs(60);
/// The last byte of the address that the ordinary client has.
pub const ORDINARY: u8 = 99;

/// What is attacked.
pub struct Target<'a> {
    pub addr: SocketAddr,
    /// How many connections the server has open now.
    pub open: &'a dyn Fn() -> usize,
    /// More than this is a failure.
    pub open_max: usize,
    /// A path that needs no password and answers 200.
    pub path: &'a str,
}

/// A reply, read to its end.
#[derive(Debug)]
pub struct Answer {
    pub status: u16,
    pub head: String,
    pub body: Vec<u8>,
}

impl Answer {
    /// The value of a field, by its name in any case.
    pub fn field(&self, name: &str) -> Option<&str> {
        let mut lines = self.head.lines().skip(1).filter_map(|line| line.split_once(": "));
        lines.find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("a body of text")
    }
}

/// Connects from `127.0.0.last`.
pub fn connect_from(last: u8, addr: SocketAddr) -> TcpStream {
    let stream = unconnected(last);
    rustix::net::connect(&stream, &addr).expect("the server listens");
    stream
}

/// A socket that has everything but a peer.
pub fn unconnected(last: u8) -> TcpStream {
    let fd = rustix::net::socket_with(
        AddressFamily::INET,
        SocketType::STREAM,
        SocketFlags::CLOEXEC,
        None,
    );
    let stream = TcpStream::from(fd.expect("a socket"));
    let source = SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, last), 0);
    rustix::net::bind(&stream, &source).expect("all of 127/8 is ours");
    stream.set_read_timeout(Some(GUARD)).expect("an option");
    stream.set_write_timeout(Some(GUARD)).expect("an option");
    stream
}

/// An ordinary request's head with the connection kept.
pub fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

/// Sends `request` on a connection of its own and reads the reply.
pub fn ask_from(last: u8, addr: SocketAddr, request: &[u8]) -> Option<Answer> {
    let mut stream = connect_from(last, addr);
    // A server that refuses early may close while we still write; what it said is there to read.
    drop(stream.write_all(request));
    read_answer(&mut stream)
}

/// An ordinary client's request is answered.
#[track_caller]
pub fn probe(target: &Target<'_>) {
    let answer = ask_from(ORDINARY, target.addr, get(target.path).as_bytes());
    assert_eq!(answer.map(|a| a.status), Some(200), "an ordinary request is answered");
    let open = (target.open)();
    assert!(open <= target.open_max, "{open} connections open, at most {}", target.open_max);
}

/// Reads one reply; `None` when the connection ends without a whole one.
pub fn read_answer(stream: &mut TcpStream) -> Option<Answer> {
    let mut head = read_until(stream, b"\r\n\r\n", 64 << 10)?;
    if head.starts_with(b"HTTP/1.1 100 ") {
        head = read_until(stream, b"\r\n\r\n", 64 << 10)?;
    }
    let head = String::from_utf8(head).expect("a head is text");
    let status = head.split(' ').nth(1)?.parse().ok()?;
    let mut answer = Answer { status, head, body: Vec::new() };
    if let Some(length) = answer.field("content-length") {
        answer.body.resize(length.parse().ok()?, 0);
        stream.read_exact(&mut answer.body).ok()?;
    } else if answer.field("transfer-encoding").is_some() {
        answer.body = read_chunks(stream)?;
    } else if status != 304 && status != 204 {
        stream.read_to_end(&mut answer.body).ok()?;
    }
    Some(answer)
}

fn read_chunks(stream: &mut TcpStream) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let line = String::from_utf8(read_until(stream, b"\r\n", 64)?).ok()?;
        let size = usize::from_str_radix(line.trim_end(), 16).ok()?;
        let mut chunk = vec![0; size + 2];
        stream.read_exact(&mut chunk).ok()?;
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(&chunk[..size]);
    }
}

/// Byte by byte, so that what follows stays in the socket.
fn read_until(stream: &mut TcpStream, end: &[u8], len_max: usize) -> Option<Vec<u8>> {
    let mut out = Vec::new();
    let mut byte = [0];
    while !out.ends_with(end) {
        stream.read_exact(&mut byte).ok()?;
        out.push(byte[0]);
        assert!(out.len() <= len_max, "a head without an end");
    }
    Some(out)
}

/// Reads to the end, which has to come; a reset is one too.
#[track_caller]
pub fn wait_for_close(stream: &mut TcpStream) {
    let mut buf = [0; 4096];
    loop {
        match stream.read(&mut buf) {
            Ok(0) => return,
            Ok(_) => {}
            Err(err) if err.kind() == ErrorKind::WouldBlock => panic!("still open after {GUARD:?}"),
            Err(_) => return,
        }
    }
}

/// `count` connections that begin with `start` and then say nothing. Those over the cap of one
/// address are closed, the oldest first; returns the ones that stay.
pub fn silent_connections(
    target: &Target<'_>,
    last: u8,
    count: usize,
    per_peer: usize,
    start: &[u8],
) -> Vec<TcpStream> {
    let mut streams: Vec<TcpStream> = Vec::new();
    for n in 0..count {
        let mut stream = connect_from(last, target.addr);
        drop(stream.write_all(start));
        streams.push(stream);
        if n % 250 == 0 {
            probe(target);
        }
    }
    probe(target);
    let kept = streams.split_off(count.saturating_sub(per_peer));
    streams.iter_mut().for_each(wait_for_close);
    probe(target);
    kept
}

/// A header line of `bytes`, sent as long as the server takes it.
pub fn endless_header_line(target: &Target<'_>, bytes: usize) {
    let mut stream = connect_from(2, target.addr);
    stream.write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ").expect("a beginning is taken");
    let block = [b'a'; 64 << 10];
    let mut sent = 0;
    while sent < bytes && stream.write_all(&block).is_ok() {
        sent += block.len();
    }
    assert!(sent < bytes, "the server took all of it");
    // The reset may have overtaken the reply; if there is one, it is 431.
    if let Some(answer) = read_answer(&mut stream) {
        assert_eq!(answer.status, 431);
    }
    probe(target);
}

/// Requests that break the rules, each with what has to come back; then the connection is closed.
pub fn broken_framing(target: &Target<'_>) {
    let long = "a".repeat(9000);
    let many = "X: y\r\n".repeat(60);
    let rows: &[(&str, u16)] = &[
        ("GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 64000000000\r\n\r\n", 413),
        ("PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 65537\r\n\r\n", 413),
        ("PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: +5\r\n\r\nhello", 400),
        ("PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5, 5\r\n\r\nhello", 400),
        (
            "PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
            400,
        ),
        (
            "PUT / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\
             \r\n0\r\n\r\n",
            400,
        ),
        ("PUT / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: gzip\r\n\r\n", 400),
        ("PUT / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n+1\r\na\r\n", 400),
        ("PUT / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nfffff\r\n", 413),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        ("GET / HTTP/2.0\r\nHost: localhost\r\n\r\n", 505),
        ("GET / HTTP/1.1\r\nHost: localhost\r\nX: a\r\n b\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost : localhost\r\n\r\n", 400),
        ("GET / HTTP/1.1\nHost: localhost\n\n", 400),
        ("GET / HTTP/1.1\r\n\r\n", 400),
        ("GET / HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n\r\n", 400),
        ("GET /\r\n\r\n", 400),
        ("\x16\x03\x01\x02\0\x01\0\x01\u{fc}\x03\x03\r\n\r\n", 400), // TLS knocks
        ("CONNECT localhost:22 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    ];
    let large = [
        (format!("GET / HTTP/1.1\r\nHost: localhost\r\nX: {long}\r\n\r\n"), 431),
        (format!("GET / HTTP/1.1\r\nHost: localhost\r\n{many}\r\n"), 431),
        (format!("GET /{} HTTP/1.1\r\nHost: localhost\r\n\r\n", &long[..5000]), 414),
    ];
    let rows = rows.iter().map(|(text, status)| ((*text).to_owned(), *status)).chain(large);
    for (request, status) in rows {
        let mut stream = connect_from(3, target.addr);
        stream.write_all(request.as_bytes()).expect("a few KiB are taken");
        let answer = read_answer(&mut stream).unwrap_or_else(|| panic!("no answer: {request:?}"));
        assert_eq!(answer.status, status, "{request:?}");
        assert_eq!(answer.field("connection"), Some("close"), "{request:?}");
        assert!(answer.text().starts_with("{\"error\":\""), "{request:?}");
        wait_for_close(&mut stream);
    }
    probe(target);
}

/// Connections that are reset before, while and after the server accepts them.
pub fn resets(target: &Target<'_>, count: usize) {
    for n in 0..count {
        let mut stream = connect_from(4, target.addr);
        if n % 2 == 0 {
            drop(stream.write_all(&get(target.path).as_bytes()[..n % 40]));
        }
        sockopt::set_socket_linger(&stream, Some(Duration::ZERO)).expect("an option");
        drop(stream);
    }
    probe(target);
}

/// Requests without end, of which no reply is read: the server must stop reading, and hold no more
/// than its socket does. Returns the connection, stalled or closed.
pub fn pipelining_flood(target: &Target<'_>, bytes_max: usize) -> TcpStream {
    let mut stream = unconnected(5);
    sockopt::set_socket_recv_buffer_size(&stream, 4096).expect("an option");
    sockopt::set_socket_send_buffer_size(&stream, 64 << 10).expect("an option");
    rustix::net::connect(&stream, &target.addr).expect("the server listens");
    // Not a wait for something: the longer it is, the surer is it that the server has stopped.
    stream.set_write_timeout(Some(Duration::from_millis(500))).expect("an option");
    let block = get(target.path).repeat(1000);
    let mut sent = 0;
    while sent < bytes_max && stream.write_all(block.as_bytes()).is_ok() {
        sent += block.len();
    }
    assert!(sent < bytes_max, "the server read {sent} bytes of requests behind a stalled reader");
    probe(target);
    stream
}

/// A head that comes a byte at a time and would never end: the deadline is for all of it.
pub fn slow_loris(target: &Target<'_>) {
    let mut streams: Vec<TcpStream> = (0..20).map(|_| connect_from(6, target.addr)).collect();
    for stream in &streams {
        // The pace of the trickle, not a wait for anything.
        stream.set_read_timeout(Some(Duration::from_millis(2))).expect("an option");
    }
    let mut text =
        b"GET / HTTP/1.1\r\nHost: localhost\r\nX: ".iter().chain(std::iter::repeat(&b'a'));
    let mut sent = 0;
    while !streams.is_empty() {
        let byte = *text.next().expect("endless");
        streams.retain_mut(|stream| trickle(stream, byte));
        sent += 1;
        assert!(sent < 8000, "the whole head was taken a byte at a time");
    }
    probe(target);
}

/// Sends `byte`; false when the server has answered 408, or closed.
fn trickle(stream: &mut TcpStream, byte: u8) -> bool {
    if stream.write_all(&[byte]).is_err() {
        return false;
    }
    let mut start = [0; 12];
    match stream.read(&mut start) {
        Err(err) if err.kind() == ErrorKind::WouldBlock => true,
        Ok(n) => {
            assert!(n == 0 || start.starts_with(b"HTTP/1.1 408"), "{start:?}");
            false
        }
        Err(_) => false,
    }
}

/// Two browsers with six kept connections each, whose requests interleave: none gets stuck.
pub fn twelve_keep_alive_connections(target: &Target<'_>) {
    let mut streams: Vec<TcpStream> =
        (0..12).map(|n| connect_from(10 + n % 2, target.addr)).collect();
    for round in 0..10 {
        let request = get(target.path);
        let (first, second) = request.as_bytes().split_at(7 * (round % 5));
        streams.iter_mut().for_each(|stream| stream.write_all(first).expect("it is open"));
        streams.iter_mut().rev().for_each(|stream| stream.write_all(second).expect("it is open"));
        for stream in &mut streams {
            let answer = read_answer(stream).expect("a reply on a kept connection");
            assert_eq!(answer.status, 200);
        }
        probe(target);
    }
}

/// Lowers the limit of descriptors of process `pid` to `left` more than it has open, and opens
/// connections past it; the server goes on, and is whole again when the limit is.
pub fn full_fd_table(target: &Target<'_>, pid: u32, left: u64) {
    use rustix::process::{Pid, Resource, Rlimit, getrlimit, prlimit};
    let open = || std::fs::read_dir(format!("/proc/{pid}/fd")).expect("its table").count() as u64;
    let process = Pid::from_raw(i32::try_from(pid).expect("a process id"));
    probe(target); // so that the pooled connection to the REST layer is there
    let maximum = getrlimit(Resource::Nofile).maximum; // a child has its parent's
    let limit = Rlimit { current: Some(open() + left), maximum };
    let before = prlimit(process, Resource::Nofile, limit).expect("our own child");
    let mut streams: Vec<TcpStream> = Vec::new();
    for _ in 0..left * 3 {
        streams.push(connect_from(7, target.addr));
        streams.push(connect_from(8, target.addr));
    }
    probe(target);
    prlimit(process, Resource::Nofile, before).expect("our own child");
    probe(target);
    drop(streams);
    probe(target);
}
