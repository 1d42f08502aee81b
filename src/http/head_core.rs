//! Request heads: bytes to a [`Request`], or to the status that refuses them.
//!
//! In here: where a head ends, HTTP/1 framing with nothing left to interpretation (RFC 9112), and
//! the few fields that anyone behind the gate reads. Not in here: sockets, bodies
//! (`chunked_core.rs`), who may do what (`access_core.rs`). Whatever two programs could read in two
//! ways is refused, because that is how requests are smuggled past the one that checks them.

use std::fmt;

use httparse::{EMPTY_HEADER, Error, Status};

/// Bytes of a head, its empty line included; more is 431.
pub const HEAD_BYTES_MAX: usize = 8 << 10;
/// Fields of a head; more is 431.
pub const FIELDS_MAX: usize = 48;
/// Bytes of a request target; more is 414.
pub const TARGET_BYTES_MAX: usize = 4 << 10;
/// Bytes of a body, decoded; more is 413. The API's own limit for JSON.
pub const BODY_BYTES_MAX: usize = 64 << 10;
/// The one resource whose body is not for memory: whoever the REST layer hands the connection to reads it.
pub const UPLOAD_PATH: &str = "/api/v1/system/update";
/// Bytes of that body; more is 413.
pub const UPLOAD_BYTES_MAX: usize = 256 << 20;
/// Bytes of a method's name; the longest that is registered has 17 (`UPDATEREDIRECTREF`).
const METHOD_BYTES_MAX: usize = 20;
/// Empty lines allowed before a request line (RFC 9112 section 2.2 asks for one).
const LEADING_LINES_MAX: usize = 2;

/// Why a request is not taken: the status, and what to say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reject {
    pub status: u16,
    pub what: &'static str,
}

const fn bad(what: &'static str) -> Reject {
    Reject { status: 400, what }
}

const HEAD_TOO_LARGE: Reject =
    Reject { status: 431, what: "the request's head is over 8 KiB or 48 fields" };
/// The body is over [`BODY_BYTES_MAX`].
pub const BODY_TOO_LARGE: Reject = Reject { status: 413, what: "the body is over 64 KiB" };
const UPLOAD_TOO_LARGE: Reject = Reject { status: 413, what: "the update is over 256 MiB" };

/// How the body of a request ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Body {
    None,
    /// At most [`BODY_BYTES_MAX`] (of an upload [`UPLOAD_BYTES_MAX`]), at least 1.
    Length(usize),
    Chunked,
}

/// Bytes that never show up in a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(pub Vec<u8>);

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Fields that are handed on to the REST layer, as text of visible ASCII; absent is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Fields {
    pub content_type: Option<String>,
    pub accept: Option<String>,
    pub accept_encoding: Option<String>,
    pub range: Option<String>,
    pub if_range: Option<String>,
    pub if_none_match: Option<String>,
    pub if_modified_since: Option<String>,
}

/// A request whose framing is beyond doubt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    pub method: String,
    /// Path and query, beginning with `/`, visible ASCII without `#`.
    pub target: String,
    /// Host and perhaps port, as sent (or from an absolute target); only HTTP/1.0 may lack it.
    pub host: Option<String>,
    pub is_http10: bool,
    /// The client wants the connection to stay.
    pub keep_alive: bool,
    pub body: Body,
    /// `Expect: 100-continue`: the client waits before it sends the body.
    pub expects_continue: bool,
    pub authorization: Option<Secret>,
    pub cookie: Option<Secret>,
    /// `X-Requested-With: lightnvr`: our own page asks. Another site's can't say so without our leave (CORS).
    pub is_from_page: bool,
    pub origin: Option<Vec<u8>>,
    /// The key of a request to become a WebSocket of version 13 (RFC 6455 section 4.2.1).
    pub websocket_key: Option<String>,
    pub fields: Fields,
}

impl Request {
    /// The target without its query.
    pub fn path(&self) -> &str {
        self.target.split_once('?').map_or(&self.target, |(path, _)| path)
    }

    /// Its body is an upload: not to be kept in memory.
    pub fn is_upload(&self) -> bool {
        is_upload(&self.method, self.path())
    }

    /// The reply has no body.
    pub fn is_head(&self) -> bool {
        self.method == "HEAD"
    }
}

fn is_upload(method: &str, path: &str) -> bool {
    method == "POST" && path == UPLOAD_PATH
}

/// How many bytes of empty lines stand before the request line; they can be dropped.
pub fn leading_empty_lines(buf: &[u8]) -> usize {
    let lines = buf.chunks_exact(2).take(LEADING_LINES_MAX).take_while(|c| *c == b"\r\n").count();
    lines * 2
}

/// Length of the head at the start of `buf` with its empty line, or `None` while it is not whole.
/// `seen` bytes were searched before without success. More than [`HEAD_BYTES_MAX`] is an error, so a
/// caller never has to hold more.
pub fn find_end(buf: &[u8], seen: usize) -> Result<Option<usize>, Reject> {
    let searched = &buf[..buf.len().min(HEAD_BYTES_MAX)];
    // A bare LF ends lines too here, so that such a head is refused at once and not by the deadline.
    let mut at = seen.saturating_sub(2);
    while let Some(lf) = searched[at..].iter().position(|b| *b == b'\n') {
        at += lf + 1;
        match &searched[at..] {
            [b'\n', ..] => return Ok(Some(at + 1)),
            [b'\r', b'\n', ..] => return Ok(Some(at + 2)),
            _ => {}
        }
    }
    if buf.len() >= HEAD_BYTES_MAX { Err(HEAD_TOO_LARGE) } else { Ok(None) }
}

/// Parses a whole head, as [`find_end`] found it.
pub fn parse(head: &[u8]) -> Result<Request, Reject> {
    if head.len() > HEAD_BYTES_MAX {
        return Err(HEAD_TOO_LARGE);
    }
    let bare = head.iter().enumerate().any(|(n, b)| match b {
        b'\n' => n == 0 || head[n - 1] != b'\r',
        b'\r' => head.get(n + 1) != Some(&b'\n'),
        _ => false,
    });
    if bare {
        return Err(bad("a line does not end in CR LF"));
    }
    let line = head.split(|b| *b == b'\r').next().unwrap_or_default();
    check_version(line)?;
    let mut headers = [EMPTY_HEADER; FIELDS_MAX];
    let mut parsed = httparse::Request::new(&mut headers);
    match parsed.parse(head) {
        Ok(Status::Complete(len)) if len == head.len() => {}
        Ok(_) => return Err(bad("the request's head does not end where it should")),
        Err(Error::TooManyHeaders) => return Err(HEAD_TOO_LARGE),
        Err(Error::HeaderName) => return Err(bad("a field's name is not a token")),
        Err(Error::HeaderValue) => return Err(bad("a field's value has a control character")),
        Err(_) => return Err(bad("the request line is malformed")),
    }
    let method = parsed.method.unwrap_or_default();
    if method.len() > METHOD_BYTES_MAX {
        return Err(bad("the method is unknown"));
    }
    let is_http10 = parsed.version == Some(0);
    let raw = collect(parsed.headers)?;
    let (target, target_host) = reduce_target(parsed.path.unwrap_or_default())?;
    let host = host_of(&raw, target_host, is_http10)?;
    let is_upload = is_upload(method, target.split('?').next().unwrap_or_default());
    let body = body_of(&raw, is_http10, is_upload)?;
    Ok(Request {
        method: method.to_owned(),
        target,
        host,
        is_http10,
        keep_alive: keep_alive(&raw, is_http10),
        body,
        expects_continue: expects_continue(&raw, is_http10, body)?,
        authorization: raw.authorization.map(|v| Secret(v.to_vec())),
        cookie: raw.cookie.map(|v| Secret(v.to_vec())),
        is_from_page: raw.requested_with.is_some_and(|v| v.eq_ignore_ascii_case(b"lightnvr")),
        origin: raw.origin.map(<[u8]>::to_vec),
        websocket_key: websocket_key(&raw, is_http10, method),
        fields: fields_of(&raw),
    })
}

/// 505 for a well-formed version that is not 1.0 or 1.1 (RFC 9110 section 15.6.6), such as that of
/// the HTTP/2 preface `PRI * HTTP/2.0` (RFC 9113 section 3.4); anything else wrong is 400.
fn check_version(line: &[u8]) -> Result<(), Reject> {
    let version = line.rsplit(|b| *b == b' ').next().unwrap_or_default();
    match version {
        b"HTTP/1.0" | b"HTTP/1.1" => Ok(()),
        [b'H', b'T', b'T', b'P', b'/', major, b'.', minor]
            if major.is_ascii_digit() && minor.is_ascii_digit() =>
        {
            Err(Reject { status: 505, what: "only HTTP/1.0 and HTTP/1.1 are spoken here" })
        }
        _ => Err(bad("the request line is malformed")),
    }
}

/// The fields that matter, each as often as the rules allow.
#[derive(Default)]
struct Raw<'a> {
    host: Option<&'a [u8]>,
    content_length: Option<&'a [u8]>,
    transfer_encoding: Option<&'a [u8]>,
    expect: Option<&'a [u8]>,
    authorization: Option<&'a [u8]>,
    cookie: Option<&'a [u8]>,
    requested_with: Option<&'a [u8]>,
    origin: Option<&'a [u8]>,
    websocket_key: Option<&'a [u8]>,
    websocket_version: Option<&'a [u8]>,
    content_type: Option<&'a [u8]>,
    range: Option<&'a [u8]>,
    if_range: Option<&'a [u8]>,
    if_modified_since: Option<&'a [u8]>,
    connection: Vec<&'a [u8]>,
    upgrade: Vec<&'a [u8]>,
    accept: Vec<&'a [u8]>,
    accept_encoding: Vec<&'a [u8]>,
    if_none_match: Vec<&'a [u8]>,
}

fn collect<'a>(headers: &[httparse::Header<'a>]) -> Result<Raw<'a>, Reject> {
    let mut raw = Raw::default();
    for header in headers {
        let value = header.value.trim_ascii();
        let single = match header.name.to_ascii_lowercase().as_str() {
            "host" => &mut raw.host,
            "content-length" => &mut raw.content_length,
            "transfer-encoding" => &mut raw.transfer_encoding,
            "expect" => &mut raw.expect,
            "authorization" => &mut raw.authorization,
            "cookie" => &mut raw.cookie,
            "x-requested-with" => &mut raw.requested_with,
            "origin" => &mut raw.origin,
            "sec-websocket-key" => &mut raw.websocket_key,
            "sec-websocket-version" => &mut raw.websocket_version,
            "content-type" => &mut raw.content_type,
            "range" => &mut raw.range,
            "if-range" => &mut raw.if_range,
            "if-modified-since" => &mut raw.if_modified_since,
            "connection" => {
                raw.connection.push(value);
                continue;
            }
            "upgrade" => {
                raw.upgrade.push(value);
                continue;
            }
            "accept" => {
                raw.accept.push(value);
                continue;
            }
            "accept-encoding" => {
                raw.accept_encoding.push(value);
                continue;
            }
            "if-none-match" => {
                raw.if_none_match.push(value);
                continue;
            }
            _ => continue,
        };
        if single.replace(value).is_some() {
            return Err(bad("a field that may occur once occurs twice"));
        }
    }
    Ok(raw)
}

/// Path and query of a target, and the host of an absolute one (RFC 9112 section 3.2.2). The forms
/// for proxies (`host:port`) and for `OPTIONS *` are refused: no resource here has them.
fn reduce_target(target: &str) -> Result<(String, Option<String>), Reject> {
    if target.len() > TARGET_BYTES_MAX {
        return Err(Reject { status: 414, what: "the request's target is over 4 KiB" });
    }
    if !target.bytes().all(|b| b.is_ascii_graphic() && b != b'#') {
        return Err(bad("the request's target has a character that must be percent-encoded"));
    }
    if target.starts_with('/') {
        return Ok((target.to_owned(), None));
    }
    let Some((scheme, rest)) = target.split_once("://") else {
        return Err(bad("the request's target is neither a path nor a URL"));
    };
    if !scheme.eq_ignore_ascii_case("http") && !scheme.eq_ignore_ascii_case("https") {
        return Err(bad("the request's target is neither a path nor a URL"));
    }
    let host_len = rest.find(['/', '?']).unwrap_or(rest.len());
    let (host, path) = rest.split_at(host_len);
    let slash = if path.starts_with('/') { "" } else { "/" };
    Ok((format!("{slash}{path}"), Some(host.to_owned())))
}

/// RFC 9112 section 3.2: exactly one `Host` in 1.1; an absolute target's own host wins over it.
fn host_of(
    raw: &Raw<'_>,
    target_host: Option<String>,
    is_http10: bool,
) -> Result<Option<String>, Reject> {
    let Some(value) = raw.host else {
        return if is_http10 { Ok(target_host) } else { Err(bad("the field Host is missing")) };
    };
    let host = visible(value).ok_or(bad("the field Host is malformed"))?;
    let host = target_host.unwrap_or(host);
    if host.is_empty() || host.bytes().any(|b| b"/?@, \t".contains(&b)) {
        return Err(bad("the field Host is malformed"));
    }
    Ok(Some(host))
}

/// RFC 9112 section 6: one length or `chunked` or nothing, never two of them.
fn body_of(raw: &Raw<'_>, is_http10: bool, is_upload: bool) -> Result<Body, Reject> {
    match (raw.content_length, raw.transfer_encoding) {
        (None, None) => Ok(Body::None),
        (Some(_), Some(_)) => Err(bad("both Content-Length and Transfer-Encoding")),
        (None, Some(coding)) if !is_http10 && coding.eq_ignore_ascii_case(b"chunked") => {
            Ok(Body::Chunked)
        }
        (None, Some(_)) => Err(bad("Transfer-Encoding must be chunked, in HTTP/1.1")),
        (Some(digits), None) => match parse_length(digits, is_upload)? {
            0 => Ok(Body::None),
            length => Ok(Body::Length(length)),
        },
    }
}

fn parse_length(digits: &[u8], is_upload: bool) -> Result<usize, Reject> {
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(bad("Content-Length is not a plain number"));
    }
    // Saturates: a number with a hundred digits is too large, not malformed.
    let length = digits.iter().fold(0_usize, |length, digit| {
        length.saturating_mul(10).saturating_add(usize::from(digit - b'0'))
    });
    match (length, is_upload) {
        (..=BODY_BYTES_MAX, _) | (..=UPLOAD_BYTES_MAX, true) => Ok(length),
        (_, true) => Err(UPLOAD_TOO_LARGE),
        (_, false) => Err(BODY_TOO_LARGE),
    }
}

/// RFC 9112 section 9.3.
fn keep_alive(raw: &Raw<'_>, is_http10: bool) -> bool {
    let has = |option| has_token(&raw.connection, option);
    !has(b"close") && (!is_http10 || has(b"keep-alive"))
}

/// A list of tokens, in one field or several, holds this one.
fn has_token(values: &[&[u8]], token: &[u8]) -> bool {
    let mut tokens = values.iter().flat_map(|value| value.split(|b| *b == b','));
    tokens.any(|found| found.trim_ascii().eq_ignore_ascii_case(token))
}

/// Whoever asks for another protocol, or another version of this one, gets an ordinary answer (RFC
/// 9110 section 7.8), and so does a key that is not 16 bytes in base64.
fn websocket_key(raw: &Raw<'_>, is_http10: bool, method: &str) -> Option<String> {
    let is_wanted = method == "GET"
        && !is_http10
        && has_token(&raw.connection, b"upgrade")
        && has_token(&raw.upgrade, b"websocket")
        && raw.websocket_version == Some(b"13");
    let key = raw.websocket_key.filter(|_| is_wanted)?;
    let (text, end) = key.split_at_checked(22)?;
    let is_base64 = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/');
    (text.iter().all(is_base64) && end == b"==").then(|| visible(key))?
}

/// RFC 9110 section 10.1.1: 1.0 clients do not mean it; an unknown expectation is 417.
fn expects_continue(raw: &Raw<'_>, is_http10: bool, body: Body) -> Result<bool, Reject> {
    match raw.expect {
        Some(value) if value.eq_ignore_ascii_case(b"100-continue") => {
            Ok(!is_http10 && body != Body::None)
        }
        Some(_) => Err(Reject { status: 417, what: "only 100-continue can be expected" }),
        None => Ok(false),
    }
}

fn fields_of(raw: &Raw<'_>) -> Fields {
    let join = |values: &[&[u8]]| {
        if values.is_empty() { None } else { visible(&values.join(&b", "[..])) }
    };
    Fields {
        content_type: raw.content_type.and_then(visible),
        accept: join(&raw.accept),
        accept_encoding: join(&raw.accept_encoding),
        range: raw.range.and_then(visible),
        if_range: raw.if_range.and_then(visible),
        if_none_match: join(&raw.if_none_match),
        if_modified_since: raw.if_modified_since.and_then(visible),
    }
}

/// Text of visible ASCII, spaces and tabs; what has other bytes is left out, because the REST layer's
/// server drops a connection over them.
fn visible(value: &[u8]) -> Option<String> {
    let plain = value.iter().all(|b| b.is_ascii_graphic() || *b == b' ' || *b == b'\t');
    if plain { String::from_utf8(value.to_vec()).ok() } else { None }
}

#[cfg(test)]
#[path = "head_core_tests.rs"]
mod tests;
