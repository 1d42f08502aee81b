//! A blocking HTTP/1.1 client of one request per connection, enough for the tests and no more.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Nothing that a test asks for takes longer.
const ANSWER_WITHIN: Duration = Duration::from_secs(30);

/// An answer.
#[derive(Clone, Debug)]
pub struct Response {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    /// The first header of that name (in lower case).
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the answer is UTF-8")
    }
}

/// Sends one request and reads its whole answer. A body gets its Content-Length here.
pub fn request(
    addr: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: Option<&[u8]>,
) -> std::io::Result<Response> {
    let stream = TcpStream::connect_timeout(&addr, ANSWER_WITHIN)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    if let Some(body) = body {
        head += &format!("Content-Length: {}\r\n", body.len());
    }
    head += "\r\n";
    // An answer may come before all of the body is sent, and is read all the same.
    let sent = (&stream).write_all(&[head.as_bytes(), body.unwrap_or_default()].concat());
    let answer = read_response(BufReader::new(stream), method == "HEAD");
    answer.map_err(|error| sent.err().unwrap_or(error))
}

fn read_response(mut from: impl BufRead, is_head: bool) -> std::io::Result<Response> {
    let status = read_line(&mut from)?;
    let status = status.split(' ').nth(1).and_then(|code| code.parse().ok());
    let mut response =
        Response { status: status.ok_or_else(bad)?, headers: Vec::new(), body: Vec::new() };
    loop {
        let line = read_line(&mut from)?;
        let Some((name, value)) = line.split_once(':') else { break };
        response.headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
    }
    if is_head {
        return Ok(response);
    }
    if response.header("transfer-encoding").is_some() {
        loop {
            let size = usize::from_str_radix(&read_line(&mut from)?, 16).map_err(|_| bad())?;
            let at = response.body.len();
            response.body.resize(at + size, 0);
            from.read_exact(&mut response.body[at..])?;
            read_line(&mut from)?;
            if size == 0 {
                return Ok(response);
            }
        }
    }
    match response.header("content-length") {
        Some(length) => {
            response.body = vec![0; length.parse().map_err(|_| bad())?];
            from.read_exact(&mut response.body)?;
        }
        None => drop(from.read_to_end(&mut response.body)?),
    }
    Ok(response)
}

fn read_line(from: &mut impl BufRead) -> std::io::Result<String> {
    let mut line = String::new();
    from.read_line(&mut line)?;
    line.ends_with("\r\n").then(|| line.trim_end().to_owned()).ok_or_else(bad)
}

fn bad() -> std::io::Error {
    std::io::Error::new(std::io::ErrorKind::InvalidData, "not an HTTP answer")
}
