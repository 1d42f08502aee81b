//! Files through the gate: whole, in parts, unchanged, shorter than promised, and many at once.

#[path = "rig/attacks.rs"]
mod attacks;
#[path = "rig/gate.rs"]
mod rig;

use std::io::{Read, Write};

use attacks::{Answer, ask_from, connect_from};
use rig::{Rig, start};

const SIZE: usize = 700_000;

fn rig_with_file(size: usize) -> (Rig, Vec<u8>) {
    let rig = start(|_| {});
    rig.set(|settings| settings.web_auth_enabled = false);
    let bytes: Vec<u8> = (0..size).map(|n| (n % 253) as u8).collect();
    std::fs::write(rig.dir.join("a.mp4"), &bytes).unwrap();
    (rig, bytes)
}

fn ask(rig: &Rig, line: &str, fields: &str) -> Option<Answer> {
    let request = format!("{line} HTTP/1.1\r\nHost: localhost\r\n{fields}\r\n");
    ask_from(2, rig.addr, request.as_bytes())
}

#[test]
fn a_whole_file_comes_with_everything_a_player_needs() {
    let (rig, bytes) = rig_with_file(SIZE);
    let answer = ask(&rig, "GET /api/v1/file", "").unwrap();
    assert!(answer.status == 200 && answer.body == bytes);
    for (name, value) in [
        ("accept-ranges", Some("bytes")),
        ("etag", Some("\"e-1\"")),
        ("last-modified", Some("Sun, 06 Nov 1994 08:49:37 GMT")),
        ("content-type", Some("video/mp4")),
        ("content-disposition", Some("attachment; filename=\"a.mp4\"")),
        ("content-length", Some("700000")),
        ("content-range", None),
        ("lightnvr-file", None),
        ("lightnvr-etag", None),
    ] {
        assert_eq!(answer.field(name), value, "{name}");
    }
}

#[test]
fn parts_conditions_and_what_cannot_be() {
    let (rig, bytes) = rig_with_file(SIZE);
    let part = ask(&rig, "GET /api/v1/file", "Range: bytes=300000-\r\n").unwrap();
    assert!(part.status == 206 && part.body == bytes[300_000..]);
    assert_eq!(part.field("content-range"), Some("bytes 300000-699999/700000"));
    let tail = ask(&rig, "GET /api/v1/file", "Range: bytes=-5\r\nIf-Range: \"e-1\"\r\n").unwrap();
    assert!(tail.status == 206 && tail.body == bytes[SIZE - 5..]);
    let changed =
        ask(&rig, "GET /api/v1/file", "Range: bytes=-5\r\nIf-Range: \"old\"\r\n").unwrap();
    assert_eq!((changed.status, changed.body.len()), (200, SIZE));
    let several = ask(&rig, "GET /api/v1/file", "Range: bytes=0-1,5-6\r\n").unwrap();
    assert_eq!((several.status, several.body.len()), (200, SIZE));
    let beyond = ask(&rig, "GET /api/v1/file", "Range: bytes=700000-\r\n").unwrap();
    assert_eq!((beyond.status, beyond.field("content-range")), (416, Some("bytes */700000")));
    let same = ask(&rig, "GET /api/v1/file", "If-None-Match: \"e-1\"\r\n").unwrap();
    assert_eq!((same.status, same.field("etag"), same.body.len()), (304, Some("\"e-1\""), 0));
}

#[test]
fn head_of_a_file_has_its_length_and_the_connection_stays_in_step() {
    let (rig, _) = rig_with_file(SIZE);
    let mut stream = connect_from(2, rig.addr);
    let head = "HEAD /api/v1/file HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
    stream.write_all(head.as_bytes()).unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    assert!(text.contains("Content-Length: 700000\r\n") && text.ends_with("\r\n\r\n"), "{text}");
}

#[test]
fn a_growing_file_gives_what_was_promised_and_a_shorter_one_is_cut() {
    let (rig, bytes) = rig_with_file(SIZE);
    let less = ask(&rig, "GET /api/v1/file?size=1000", "").unwrap();
    assert!(less.body == bytes[..1000]);
    assert!(ask(&rig, "GET /api/v1/file?size=800000", "").is_none(), "closed before its end");
    assert_eq!(rig.counters.files_short.get(), 1);
    std::fs::remove_file(rig.dir.join("a.mp4")).unwrap();
    assert_eq!(ask(&rig, "GET /api/v1/file?size=9", "").unwrap().status, 404);
}

#[test]
fn more_than_sixteen_at_once_are_told_to_come_back() {
    let (rig, bytes) = rig_with_file(8 << 20);
    let mut streams: Vec<_> = (0..17)
        .map(|n| {
            let mut stream = attacks::unconnected(2 + n / 4);
            // Small, so that no part of the network holds a whole file and sets a place free.
            rustix::net::sockopt::set_socket_recv_buffer_size(&stream, 65536).unwrap();
            rustix::net::connect(&stream, &rig.addr).unwrap();
            stream.write_all(attacks::get("/api/v1/file").as_bytes()).unwrap();
            let mut first = [0; 12];
            stream.read_exact(&mut first).unwrap(); // one after another, so the last one is late
            (stream, first)
        })
        .collect();
    let (_, first) = streams.pop().unwrap();
    assert_eq!(&first, b"HTTP/1.1 503");
    let mut all = Vec::new();
    let (mut stream, _) = streams.remove(0);
    while all.len() < bytes.len() {
        let mut buf = [0; 65536];
        let n = stream.read(&mut buf).unwrap();
        assert!(n > 0);
        all.extend_from_slice(&buf[..n]);
    }
    drop(streams);
    assert_eq!(rig.counters.files_full.get(), 1);
}

#[test]
fn one_address_never_takes_every_place() {
    let (rig, bytes) = rig_with_file(8 << 20);
    let readers: Vec<_> = (0..5)
        .map(|_| {
            let mut stream = attacks::unconnected(2);
            rustix::net::sockopt::set_socket_recv_buffer_size(&stream, 65536).unwrap();
            rustix::net::connect(&stream, &rig.addr).unwrap();
            stream.write_all(attacks::get("/api/v1/file").as_bytes()).unwrap();
            let mut first = [0; 12];
            stream.read_exact(&mut first).unwrap();
            (stream, first)
        })
        .collect();
    let statuses: Vec<&[u8]> = readers.iter().map(|(_, first)| &first[9..]).collect();
    assert_eq!(statuses, [b"200", b"200", b"200", b"200", b"503"]);
    let other = ask_from(3, rig.addr, attacks::get("/api/v1/file").as_bytes()).unwrap();
    assert!(other.status == 200 && other.body == bytes);
}
