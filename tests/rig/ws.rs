//! A WebSocket client (RFC 6455), enough to watch a stream.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Nothing that a test waits for takes longer.
const MESSAGE_WITHIN: Duration = Duration::from_secs(30);
/// The key of RFC 6455 section 1.3, and what answers it.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

/// What a server sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    Text(String),
    Binary(Vec<u8>),
    Ping(Vec<u8>),
    Pong(Vec<u8>),
    /// With its code.
    Close(u16),
    /// The connection ended.
    End,
}

/// An open socket.
pub struct Socket {
    reader: BufReader<TcpStream>,
}

/// Opens a socket; the status of the answer if that is another than 101.
pub fn open(addr: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Result<Socket, u16> {
    let stream = TcpStream::connect(addr).expect("the recorder accepts");
    stream.set_read_timeout(Some(MESSAGE_WITHIN)).expect("a timeout can be set");
    let mut head = format!(
        "GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {KEY}\r\n"
    );
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    (&stream).write_all(format!("{head}\r\n").as_bytes()).expect("the recorder reads");
    let mut reader = BufReader::new(stream);
    let mut answer = String::new();
    while !answer.ends_with("\r\n\r\n") {
        assert!(reader.read_line(&mut answer).expect("an answer") > 0, "a whole head: {answer}");
    }
    let status = answer.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status");
    if status != 101 {
        return Err(status);
    }
    assert!(answer.contains(&format!("Sec-WebSocket-Accept: {ACCEPT}\r\n")), "{answer}");
    Ok(Socket { reader })
}

impl Socket {
    /// The next message.
    pub fn next(&mut self) -> Message {
        self.try_next().unwrap_or(Message::End)
    }

    fn try_next(&mut self) -> Option<Message> {
        let mut head = [0; 2];
        self.reader.read_exact(&mut head).ok()?;
        assert_eq!(head[0] & 0x70, 0, "no extension was agreed on");
        assert_eq!(head[0] & 0x80, 0x80, "every message is one frame");
        assert_eq!(head[1] & 0x80, 0, "a server does not mask");
        let len = match head[1] {
            126 => {
                let mut len = [0; 2];
                self.reader.read_exact(&mut len).ok()?;
                u64::from(u16::from_be_bytes(len))
            }
            127 => {
                let mut len = [0; 8];
                self.reader.read_exact(&mut len).ok()?;
                u64::from_be_bytes(len)
            }
            len => u64::from(len),
        };
        let mut payload = vec![0; usize::try_from(len).ok()?];
        self.reader.read_exact(&mut payload).ok()?;
        Some(match head[0] & 0x0F {
            1 => Message::Text(String::from_utf8(payload).expect("text is UTF-8")),
            2 => Message::Binary(payload),
            8 => Message::Close(u16::from_be_bytes([payload[0], payload[1]])),
            9 => Message::Ping(payload),
            10 => Message::Pong(payload),
            kind => panic!("frame of kind {kind}"),
        })
    }

    /// Sends a masked frame with `first` as its first byte.
    pub fn send(&mut self, first: u8, payload: &[u8]) {
        let mut frame = vec![first];
        match payload.len() {
            len @ 0..=125 => frame.push(0x80 | u8::try_from(len).expect("small")),
            len => {
                frame.push(0xFE);
                let len = u16::try_from(len).expect("the tests send no more");
                frame.extend_from_slice(&len.to_be_bytes());
            }
        }
        frame.extend_from_slice(&[0; 4]); // a mask of zeros changes nothing
        frame.extend_from_slice(payload);
        self.reader.get_ref().write_all(&frame).expect("the recorder reads");
    }
}
