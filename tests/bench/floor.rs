//! The floor: receives what a recorder receives and writes it to files, nothing else.
//!
//! What a recorder of this design can't go below: one thread reads all sockets at common moments 200 ms apart, each
//! stream's bytes go to its file once a second, and a second thread syncs all files every second. The bytes are
//! written as they came, with their RTP framing.
//! Usage: `floor RTSP_URL STREAMS DIRECTORY`; runs until it is killed, a stream is `RTSP_URL/N`.

use std::error::Error;
use std::fs::File;
use std::io::{self, ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The recorder's `GATHER`.
const GATHER: Duration = Duration::from_millis(200);
const SECOND: Duration = Duration::from_secs(1);
/// Two seconds of 4 Mbit/s.
const PENDING_BYTES: usize = 1 << 20;

struct Stream {
    socket: TcpStream,
    file: Arc<File>,
    pending: Vec<u8>,
    /// Bytes of `pending` that wait.
    filled: usize,
    write_at: Instant,
}

/// Asks and waits for the end of the answer. What follows it is media and stays in the socket.
fn ask(socket: &mut TcpStream, method: &str, url: &str, more: &str) -> io::Result<()> {
    write!(socket, "{method} {url} RTSP/1.0\r\nCSeq: 1\r\nSession: 1\r\n{more}\r\n")?;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        socket.read_exact(&mut byte)?;
        head.extend(byte);
    }
    let head = String::from_utf8_lossy(&head);
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "));
    let mut body = vec![0; length.and_then(|length| length.parse().ok()).unwrap_or(0)];
    socket.read_exact(&mut body)
}

fn connect(url: &str, directory: &str, n: u32) -> Result<Stream, Box<dyn Error>> {
    let address = url.strip_prefix("rtsp://").and_then(|rest| rest.split('/').next());
    let mut socket = TcpStream::connect(address.ok_or("not an RTSP URL")?)?;
    let url = format!("{url}/{n}");
    ask(&mut socket, "DESCRIBE", &url, "")?;
    let transport = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n";
    ask(&mut socket, "SETUP", &format!("{url}/video"), transport)?;
    ask(&mut socket, "PLAY", &url, "")?;
    socket.set_nonblocking(true)?;
    let file = Arc::new(File::create_new(format!("{directory}/{n}.rtp"))?);
    // Spread over the second.
    let write_at = Instant::now() + SECOND.mul_f64(f64::from(n) * 0.618_034 % 1.0);
    Ok(Stream { socket, file, pending: vec![0; PENDING_BYTES], filled: 0, write_at })
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, url, streams, directory] = &arguments[..] else {
        return Err("usage: floor RTSP_URL STREAMS DIRECTORY".into());
    };
    let connected = (0..streams.parse()?).map(|n| connect(url, directory, n));
    let mut streams = connected.collect::<Result<Vec<_>, _>>()?;
    let files: Vec<Arc<File>> = streams.iter().map(|stream| Arc::clone(&stream.file)).collect();
    std::thread::Builder::new().name("sync".to_owned()).spawn(move || {
        loop {
            let due = Instant::now() + SECOND;
            if let Some(error) = files.iter().find_map(|file| file.sync_data().err()) {
                panic!("sync: {error}");
            }
            std::thread::park_timeout(due.saturating_duration_since(Instant::now()));
        }
    })?;
    let mut moment = Instant::now();
    loop {
        moment += GATHER;
        std::thread::park_timeout(moment.saturating_duration_since(Instant::now()));
        let now = Instant::now();
        for stream in &mut streams {
            match stream.socket.read(&mut stream.pending[stream.filled..]) {
                Ok(0) => return Ok(()),
                Ok(read) => stream.filled += read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
            if now >= stream.write_at || stream.filled == PENDING_BYTES {
                stream.write_at += SECOND;
                (&*stream.file).write_all(&stream.pending[..stream.filled])?;
                stream.filled = 0;
            }
        }
    }
}
