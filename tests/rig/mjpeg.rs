//! A viewer of MJPEG (`multipart/x-mixed-replace`) that reads part after part, strictly.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Nothing that a test waits for takes longer.
const PART_WITHIN: Duration = Duration::from_secs(20);

/// An open answer.
pub struct Watcher {
    reader: BufReader<TcpStream>,
    /// The fields of its head, as they came.
    pub fields: Vec<String>,
}

/// One picture.
pub struct Part {
    /// Unix milliseconds.
    pub at_ms: i64,
    pub jpeg: Vec<u8>,
}

impl Watcher {
    /// Sends the request, with `login` as its `Authorization`; the head must be 200. `Err` is any other status.
    pub fn open(addr: SocketAddr, login: &str, target: &str) -> Result<Self, u16> {
        let stream = TcpStream::connect(addr).expect("it listens");
        stream.set_read_timeout(Some(PART_WITHIN)).expect("not zero");
        let head =
            format!("GET {target} HTTP/1.1\r\nHost: {addr}\r\nAuthorization: {login}\r\n\r\n");
        (&stream).write_all(head.as_bytes()).expect("it listens");
        let mut watcher = Self { reader: BufReader::new(stream), fields: Vec::new() };
        let status = watcher.line();
        if status != "HTTP/1.1 200 OK" {
            let code = status.split(' ').nth(1).and_then(|code| code.parse().ok());
            return Err(code.expect("a status"));
        }
        loop {
            match watcher.line() {
                line if line.is_empty() => break,
                line => watcher.fields.push(line),
            }
        }
        let kind = "Content-Type: multipart/x-mixed-replace; boundary=frame";
        assert!(watcher.fields.iter().any(|field| field == kind), "{:?}", watcher.fields);
        assert_eq!(watcher.line(), "--frame");
        Ok(watcher)
    }

    /// `open` that must succeed.
    #[track_caller]
    pub fn start(addr: SocketAddr, login: &str, target: &str) -> Self {
        Self::open(addr, login, target).unwrap_or_else(|status| panic!("{target}: {status}"))
    }

    #[track_caller]
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).expect("a line in time");
        line.strip_suffix("\r\n").expect("a whole line").to_owned()
    }

    /// The next part, with the boundary that ends it.
    #[track_caller]
    pub fn part(&mut self) -> Part {
        assert_eq!(self.line(), "Content-Type: image/jpeg");
        let length = self.line().strip_prefix("Content-Length: ").and_then(|n| n.parse().ok());
        let at = self.line();
        let (seconds, ms) =
            at.strip_prefix("X-Timestamp: ").and_then(|at| at.split_once('.')).expect("a time");
        assert_eq!(ms.len(), 3);
        let at_ms = format!("{seconds}{ms}").parse().expect("a time");
        assert_eq!(self.line(), "");
        let mut jpeg = vec![0; length.expect("a length")];
        self.reader.read_exact(&mut jpeg).expect("the picture in time");
        assert_eq!((self.line(), self.line()), (String::new(), "--frame".into()));
        Part { at_ms, jpeg }
    }
}
