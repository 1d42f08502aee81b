//! Reply heads: those of the REST layer parsed, those for clients written.
//!
//! In here: status lines, which fields pass, the internal `lightnvr-` fields, dates, error bodies.
//! Not in here: sockets and files. Invariant P1: no hop-by-hop or internal field of the REST layer
//! reaches a client, and every field we write is one line.

use httparse::{EMPTY_HEADER, Status};
use jiff::Timestamp;
use jiff::fmt::rfc2822::{DateTimeParser, DateTimePrinter};

use crate::api::wire;
use crate::http::head_core::Secret;
use crate::http::range_core::FileMeta;

/// Bytes of a reply's head from the REST layer.
pub const REPLY_HEAD_BYTES_MAX: usize = 16 << 10;
/// Fields of a reply's head from the REST layer.
const REPLY_FIELDS_MAX: usize = 48;

/// How the body of a reply from the REST layer ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReplyBody {
    Length(usize),
    Chunked,
    /// No length was given: a HEAD reply or a status without body may do that, others not.
    Unsaid,
}

/// A file that the gate is to send in place of the reply's body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileOrder {
    /// Absolute.
    pub path: String,
    pub meta: FileMeta,
}

/// The head of a reply from the REST layer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReplyHead {
    pub status: u16,
    /// Fields for the client, P1 applied.
    pub fields: Vec<(String, String)>,
    pub body: ReplyBody,
    /// The REST layer will close the connection.
    pub closes: bool,
    /// `lightnvr-next`: where the rest of the body is.
    pub next: Option<String>,
    pub file: Option<FileOrder>,
    /// `lightnvr-live`: the live service serves this connection.
    pub live: Option<wire::LiveOrder>,
    /// The body that was sent held a wrong password.
    pub is_wrong_password: bool,
    /// `lightnvr-order`: what the recorder itself is to do. It may hold a camera's password.
    pub order: Option<Secret>,
    /// Credentials to be checked for a session.
    pub login: Option<Secret>,
    /// The session of the request is to end.
    pub is_logout: bool,
}

/// Parses a reply's head; `None` while it is not whole. The text of an error says what is wrong.
pub fn parse_reply(buf: &[u8]) -> Result<Option<(ReplyHead, usize)>, &'static str> {
    let mut headers = [EMPTY_HEADER; REPLY_FIELDS_MAX];
    let mut parsed = httparse::Response::new(&mut headers);
    let head_len = match parsed.parse(buf) {
        Ok(Status::Complete(len)) => len,
        Ok(Status::Partial) if buf.len() >= REPLY_HEAD_BYTES_MAX => return Err("head too large"),
        Ok(Status::Partial) => return Ok(None),
        Err(_) => return Err("malformed head"),
    };
    let mut head = ReplyHead {
        status: parsed.code.unwrap_or_default(),
        fields: Vec::new(),
        body: ReplyBody::Unsaid,
        closes: parsed.version == Some(0),
        next: None,
        file: None,
        live: None,
        is_wrong_password: false,
        order: None,
        login: None,
        is_logout: false,
    };
    let mut order = OrderParts::default();
    for header in parsed.headers.iter() {
        let value = std::str::from_utf8(header.value).map_err(|_| "field is not UTF-8")?;
        take_field(&mut head, &mut order, header.name, value)?;
    }
    head.file = order.finish()?;
    if !(200..600).contains(&head.status) {
        return Err("status outside 200 to 599");
    }
    Ok(Some((head, head_len)))
}

fn take_field(
    head: &mut ReplyHead,
    order: &mut OrderParts,
    name: &str,
    value: &str,
) -> Result<(), &'static str> {
    let lower = name.to_ascii_lowercase();
    match lower.as_str() {
        "content-length" => {
            let length = value.parse().map_err(|_| "content-length is no number")?;
            if head.body == ReplyBody::Unsaid {
                head.body = ReplyBody::Length(length);
            }
        }
        "transfer-encoding" => head.body = ReplyBody::Chunked,
        "connection" => head.closes |= value.to_ascii_lowercase().contains("close"),
        // Ours to write, or meant for this hop (RFC 9110 section 7.6.1).
        "date" | "server" | "keep-alive" | "te" | "trailer" | "upgrade" | "proxy-connection" => {}
        wire::NEXT => head.next = Some(value.to_owned()),
        wire::FILE => {
            order.path = Some(wire::decode_percent(value).ok_or("path of a file is not encoded")?);
        }
        wire::FILE_SIZE => order.size = value.parse().ok(),
        wire::FILE_ETAG => order.etag = Some(value.to_owned()),
        wire::FILE_MODIFIED => order.modified_unix_s = value.parse().ok(),
        wire::LIVE => {
            head.live = Some(wire::LiveOrder::parse(value).ok_or("a live order is malformed")?);
        }
        wire::WRONG_PASSWORD => head.is_wrong_password = true,
        wire::LOG_IN => {
            let credentials = wire::decode_percent(value).ok_or("credentials are not encoded")?;
            head.login = Some(Secret(credentials.into_bytes()));
        }
        wire::ORDER => head.order = Some(Secret(value.as_bytes().to_vec())),
        wire::LOG_OUT => head.is_logout = true,
        other if other.starts_with("lightnvr-") => {}
        _ => head.fields.push((name.to_owned(), value.to_owned())),
    }
    Ok(())
}

#[derive(Default)]
struct OrderParts {
    path: Option<String>,
    size: Option<u64>,
    etag: Option<String>,
    modified_unix_s: Option<i64>,
}

impl OrderParts {
    fn finish(self) -> Result<Option<FileOrder>, &'static str> {
        let Some(path) = self.path else { return Ok(None) };
        match (self.size, self.etag, self.modified_unix_s) {
            (Some(size), Some(etag), Some(modified_unix_s)) if path.starts_with('/') => {
                let meta = FileMeta { size, etag, modified_unix_s };
                Ok(Some(FileOrder { path, meta }))
            }
            _ => Err("an order for a file lacks path, size, etag or time"),
        }
    }
}

/// How the body of a reply to a client ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    Length(u64),
    Chunked,
    /// By closing: for HTTP/1.0 and an unknown length.
    Close,
    /// A status without body and without length (204, 304).
    Absent,
}

/// What happens to the connection after a reply, and how the client has to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Persist {
    /// HTTP/1.1 keeps it without a word.
    Stay,
    /// HTTP/1.0 has to be told that it stays.
    StaySaid,
    Close,
}

/// What all replies to one request have in common.
#[derive(Clone, Debug)]
pub struct Frame {
    pub persist: Persist,
    /// The path is under `/api/`: nothing may be stored unless the handler says otherwise.
    pub is_api: bool,
    pub request_id: Option<String>,
    pub now_unix_s: i64,
}

/// Writes a reply's head, the empty line included.
pub fn encode_head(
    frame: &Frame,
    status: u16,
    fields: &[(String, String)],
    framing: Framing,
) -> Vec<u8> {
    let mut out = format!("HTTP/1.1 {status} {}\r\n", reason(status));
    let mut put = |name: &str, value: &str| {
        // P1: a value of two lines would be a field of somebody else's choosing.
        if !value.bytes().any(|b| matches!(b, b'\r' | b'\n' | 0)) {
            for part in [name, ": ", value, "\r\n"] {
                out.push_str(part);
            }
        }
    };
    put("Date", &encode_http_date(frame.now_unix_s));
    fields.iter().for_each(|(name, value)| put(name, value));
    put("X-Content-Type-Options", "nosniff");
    let says_caching = fields.iter().any(|(name, _)| name.eq_ignore_ascii_case("cache-control"));
    if frame.is_api && !says_caching {
        put("Cache-Control", "no-store");
    }
    if let Some(id) = &frame.request_id {
        put("X-Request-Id", id);
    }
    match framing {
        Framing::Length(length) => put("Content-Length", &length.to_string()),
        Framing::Chunked => put("Transfer-Encoding", "chunked"),
        Framing::Close | Framing::Absent => {}
    }
    match (frame.persist, framing) {
        (Persist::Close, _) | (_, Framing::Close) => put("Connection", "close"),
        (Persist::StaySaid, _) => put("Connection", "keep-alive"),
        (Persist::Stay, _) => {}
    }
    out.push_str("\r\n");
    out.into_bytes()
}

/// A whole reply that says what was wrong, as the API does for every status.
pub fn encode_error(
    frame: &Frame,
    status: u16,
    what: &str,
    extra: &[(String, String)],
    is_head: bool,
) -> Vec<u8> {
    let body = error_body(what);
    let mut fields = vec![("Content-Type".to_owned(), "application/json".to_owned())];
    fields.extend_from_slice(extra);
    let mut out = encode_head(frame, status, &fields, Framing::Length(body.len() as u64));
    if !is_head {
        out.extend_from_slice(body.as_bytes());
    }
    out
}

fn error_body(what: &str) -> String {
    format!("{{\"error\":{}}}", miniserde::json::to_string(what))
}

/// An IMF-fixdate (RFC 9110 section 5.6.7); the epoch for what no calendar has.
pub fn encode_http_date(unix_s: i64) -> String {
    let at = Timestamp::from_second(unix_s).unwrap_or(Timestamp::UNIX_EPOCH);
    let printer = DateTimePrinter::new();
    printer.timestamp_to_rfc9110_string(&at).unwrap_or_else(|_| EPOCH_DATE.to_owned())
}

const EPOCH_DATE: &str = "Thu, 01 Jan 1970 00:00:00 GMT";

/// Seconds since the epoch of an IMF-fixdate, the one form that is written since 1999.
pub fn parse_http_date(text: &str) -> Option<i64> {
    let text = text.trim();
    if !text.ends_with("GMT") {
        return None;
    }
    DateTimeParser::new().parse_timestamp(text).ok().map(Timestamp::as_second)
}

/// The reply to `status` has neither body nor length (RFC 9112 section 6.3).
pub fn is_bodiless(status: u16) -> bool {
    matches!(status, 204 | 304)
}

fn reason(status: u16) -> &'static str {
    match status {
        101 => "Switching Protocols",
        200 => "OK",
        201 => "Created",
        204 => "No Content",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        304 => "Not Modified",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        409 => "Conflict",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        416 => "Range Not Satisfiable",
        417 => "Expectation Failed",
        422 => "Unprocessable Content",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        505 => "HTTP Version Not Supported",
        _ => "Unknown",
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FRAME: Frame =
        Frame { persist: Persist::Stay, is_api: true, request_id: None, now_unix_s: 784_111_777 };

    #[test]
    fn internal_and_hop_fields_are_taken_out() {
        let wire =
            b"HTTP/1.1 200 OK\r\nServer: tiny-http (Rust)\r\nDate: x\r\nConnection: close\r\n\
            Upgrade: y\r\nlightnvr-task: t\r\nLightNVR-Next: /a?b\r\nContent-Type: text/plain\r\n\
            Content-Length: 3\r\n\r\nabc";
        let (head, len) = parse_reply(wire).unwrap().unwrap();
        assert_eq!(len, wire.len() - 3);
        assert_eq!(head.fields, [("Content-Type".to_owned(), "text/plain".to_owned())]);
        assert_eq!((head.next.as_deref(), head.closes), (Some("/a?b"), true));
        assert_eq!(head.body, ReplyBody::Length(3));
        assert_eq!(parse_reply(&wire[..40]), Ok(None));
    }

    #[test]
    fn an_order_for_a_file_is_whole_or_an_error() {
        let order = "HTTP/1.1 200 OK\r\nlightnvr-file: /a/b%20c.mp4\r\nlightnvr-file-size: 9\r\n\
                     lightnvr-etag: \"x\"\r\nlightnvr-modified: 5\r\n\r\n";
        let (head, _) = parse_reply(order.as_bytes()).unwrap().unwrap();
        let meta = FileMeta { size: 9, etag: "\"x\"".into(), modified_unix_s: 5 };
        assert_eq!(head.file, Some(FileOrder { path: "/a/b c.mp4".into(), meta }));
        assert!(parse_reply(order.replace("/a/b", "b").as_bytes()).is_err());
        assert!(parse_reply(order.replace("file-size: 9", "x: 9").as_bytes()).is_err());
        assert!(parse_reply(b"HTTP/1.1 100 Continue\r\n\r\n").is_err());
        assert!(parse_reply(&[b'a'; REPLY_HEAD_BYTES_MAX]).is_err());
    }

    #[test]
    fn an_error_is_json_and_says_how_it_is_framed() {
        let fields = [("Retry-After".to_owned(), "1".to_owned())];
        let text =
            String::from_utf8(encode_error(&FRAME, 429, "too \"many\"", &fields, false)).unwrap();
        assert_eq!(
            text,
            "HTTP/1.1 429 Too Many Requests\r\nDate: Sun, 06 Nov 1994 08:49:37 GMT\r\n\
             Content-Type: application/json\r\nRetry-After: 1\r\nX-Content-Type-Options: nosniff\r\n\
             Cache-Control: no-store\r\nContent-Length: 24\r\n\r\n{\"error\":\"too \\\"many\\\"\"}"
        );
        let head = encode_error(&FRAME, 429, "too \"many\"", &fields, true);
        assert!(text.as_bytes().starts_with(&head) && head.ends_with(b"24\r\n\r\n"));
    }

    #[test]
    fn a_handler_may_allow_caching_and_cannot_split_a_field() {
        let fields = [
            ("Cache-Control".to_owned(), "max-age=5".to_owned()),
            ("X".to_owned(), "a\r\nEvil: b".to_owned()),
        ];
        let frame = Frame { persist: Persist::Close, request_id: Some("7".into()), ..FRAME };
        let text = String::from_utf8(encode_head(&frame, 200, &fields, Framing::Chunked)).unwrap();
        assert!(text.contains("max-age=5") && !text.contains("no-store") && !text.contains("Evil"));
        assert!(text.contains("Connection: close\r\n") && text.contains("X-Request-Id: 7\r\n"));
    }

    #[test]
    fn dates() {
        assert_eq!(encode_http_date(i64::MAX), EPOCH_DATE);
        assert_eq!(encode_http_date(0), EPOCH_DATE);
        assert_eq!(parse_http_date("Sun, 06 Nov 1994 08:49:37 GMT"), Some(784_111_777));
        assert_eq!(parse_http_date("Sunday, 06-Nov-94 08:49:37 GMT"), None);
        assert_eq!(parse_http_date("GMT"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_give_a_head_or_an_error(buf in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(parse_reply(&buf));
        }

        #[test]
        fn dates_come_back(unix_s in 0_i64..4_000_000_000) {
            prop_assert_eq!(parse_http_date(&encode_http_date(unix_s)), Some(unix_s));
        }
    }
}
