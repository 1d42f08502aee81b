//! RTSP/1.0 on the wire (RFC 2326): answers and requests of the camera, `$` frames, our requests.
//!
//! In here: an incremental parser over one contiguous buffer; `$` frames are handed out without a
//! copy. Framing that a camera loses is found again (quirk 26). Not in here: what a message means
//! (`session_core.rs`).
//! Invariant M1: how the bytes are split over calls never changes what is parsed. Verified by the
//! property tests below.

/// Largest head (start line and fields) in bytes.
pub const HEAD_BYTES_MAX: usize = 16 << 10;
/// Most fields of one head.
pub const FIELDS_MAX: usize = 64;
/// Largest body in bytes: an SDP with many tracks has 4 KiB.
pub const BODY_BYTES_MAX: usize = 64 << 10;
/// A buffer of this size always holds the longest item as a whole.
pub const ITEM_BYTES_MAX: usize = HEAD_BYTES_MAX + BODY_BYTES_MAX;
/// Bytes searched for the next frame or message before the connection is given up: four times the
/// largest `$` frame.
pub const RESYNC_BYTES_MAX: usize = 256 << 10;
/// `$`, channel, length (RFC 2326 section 10.12), and as much of RTP as `Signature` looks at.
const CANDIDATE_BYTES: usize = 4 + 12;
/// Requests that a camera may send.
const METHODS: [&str; 8] = [
    "OPTIONS ",
    "ANNOUNCE ",
    "GET_PARAMETER ",
    "SET_PARAMETER ",
    "REDIRECT ",
    "TEARDOWN ",
    "PAUSE ",
    "DESCRIBE ",
];

/// First line of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Start {
    Answer { status: u16 },
    Request { method: String },
}

/// A whole message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    pub start: Start,
    fields: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Message {
    /// Value of the first field with this name, in any case, trimmed (quirk 7).
    pub fn field(&self, name: &str) -> Option<&str> {
        let field = self.fields.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        field.map(|(_, value)| value.as_str())
    }

    /// Values of all fields with this name.
    pub fn fields(&self, name: &'static str) -> impl Iterator<Item = &str> {
        let fields = self.fields.iter().filter(move |(n, _)| n.eq_ignore_ascii_case(name));
        fields.map(|(_, value)| value.as_str())
    }
}

/// What the parser found at the start of the buffer.
#[derive(Debug, PartialEq, Eq)]
pub enum Item<'a> {
    Frame {
        channel: u8,
        payload: &'a [u8],
    },
    Message(Message),
    /// Stray line ends between messages; some cameras end a body with one more.
    Blank,
    /// Framing was lost; what was consumed with this belongs to nothing.
    Junk,
}

/// What frames of a track look like: enough to tell one from the middle of a picture.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signature {
    pub channel: u8,
    /// RTP payload type, `None` for a channel with RTCP.
    pub payload_type: Option<u8>,
    /// Known after the first packet.
    pub ssrc: Option<u32>,
}

impl Signature {
    /// Whether these bytes may begin a `$` frame of this kind.
    fn matches(&self, bytes: &[u8; CANDIDATE_BYTES]) -> bool {
        let [_, channel, l0, l1, flags, kind, _, _, rtcp @ .., _, _, _, _] = *bytes;
        let length = u16::from_be_bytes([l0, l1]);
        let (is_kind, ssrc, length_min) = match self.payload_type {
            Some(payload_type) => {
                let rtp = [bytes[12], bytes[13], bytes[14], bytes[15]];
                (kind & 0x7f == payload_type, rtp, 12)
            }
            None => ((200..=204).contains(&kind), rtcp, 8),
        };
        channel == self.channel
            && length >= length_min
            && flags >> 6 == 2
            && is_kind
            && self.ssrc.is_none_or(|want| want == u32::from_be_bytes(ssrc))
    }
}

/// A camera's bytes that break the protocol, and where on this connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadMessage {
    pub what: String,
    pub at: u64,
}

/// Incremental parser of one direction of a connection.
#[derive(Debug, Default)]
pub struct Parser {
    /// Bytes consumed since the connection began.
    at: u64,
    /// Bytes of the unfinished head that were searched for its end already.
    searched: usize,
    /// Bytes of junk in a row; over zero while framing is lost.
    junk: usize,
}

impl Parser {
    /// Bytes consumed since the connection began.
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Looks for one item at the start of `buf`. `None`: more bytes are needed; the same bytes come
    /// again in front of them. Else the item and how many bytes to drop from the front.
    pub fn parse<'a>(
        &mut self,
        buf: &'a [u8],
        known: &[Signature],
    ) -> Result<Option<(Item<'a>, usize)>, BadMessage> {
        let found = self.item(buf, known)?;
        if let Some((item, consumed)) = &found {
            self.at += *consumed as u64;
            self.searched = 0;
            match item {
                Item::Junk => self.junk += consumed,
                _ => self.junk = 0,
            }
            if self.junk > RESYNC_BYTES_MAX {
                let what = format!("no RTSP or RTP in {RESYNC_BYTES_MAX} bytes");
                return Err(BadMessage { what, at: self.at });
            }
        }
        Ok(found)
    }

    fn item<'a>(
        &mut self,
        buf: &'a [u8],
        known: &[Signature],
    ) -> Result<Option<(Item<'a>, usize)>, BadMessage> {
        if self.junk > 0 {
            return self.resync(buf, known);
        }
        match buf {
            [] => Ok(None),
            [b'$', channel, l0, l1, rest @ ..] => {
                let length = usize::from(u16::from_be_bytes([*l0, *l1]));
                let payload = rest.get(..length);
                Ok(payload.map(|payload| (Item::Frame { channel: *channel, payload }, 4 + length)))
            }
            [b'$', ..] => Ok(None),
            [b'\r' | b'\n', ..] => Ok(Some((Item::Blank, 1))),
            _ => match message_begins(buf) {
                Begins::Yes => self.message(buf),
                Begins::NotYet => Ok(None),
                Begins::Http => Err(self.bad("the port answers with HTTP, not RTSP")),
                Begins::No => self.resync(buf, known),
            },
        }
    }

    /// Searches the next frame or message. Every place is judged by the same number of bytes, so
    /// that the result does not depend on how they arrive.
    fn resync<'a>(
        &mut self,
        buf: &'a [u8],
        known: &[Signature],
    ) -> Result<Option<(Item<'a>, usize)>, BadMessage> {
        let first = usize::from(self.junk == 0);
        for at in first..buf.len() {
            let rest = &buf[at..];
            let is_found = match rest.first_chunk::<CANDIDATE_BYTES>() {
                Some(bytes) if bytes[0] == b'$' => known.iter().any(|k| k.matches(bytes)),
                None if rest[0] == b'$' => return Ok(junk(at)),
                _ => match message_begins(rest) {
                    Begins::Yes => true,
                    Begins::NotYet => return Ok(junk(at)),
                    _ => false,
                },
            };
            if is_found && at > 0 {
                return Ok(junk(at));
            }
            if is_found {
                self.junk = 0;
                return self.item(buf, known);
            }
        }
        Ok(junk(buf.len()))
    }

    fn message<'a>(&mut self, buf: &'a [u8]) -> Result<Option<(Item<'a>, usize)>, BadMessage> {
        let Some(head_end) = head_end(buf, self.searched) else {
            self.searched = buf.len();
            if buf.len() > HEAD_BYTES_MAX {
                return Err(self.bad(&format!("RTSP head of more than {HEAD_BYTES_MAX} bytes")));
            }
            return Ok(None);
        };
        if head_end > HEAD_BYTES_MAX {
            return Err(self.bad(&format!("RTSP head of more than {HEAD_BYTES_MAX} bytes")));
        }
        // The end was found once; the next call, with more of the body, finds it again at once.
        self.searched = head_end.saturating_sub(4);
        let head = String::from_utf8_lossy(&buf[..head_end]);
        let (start, fields) = parse_head(&head).map_err(|what| self.bad(&what))?;
        let mut message = Message { start, fields, body: Vec::new() };
        let length = match message.field("Content-Length") {
            None => 0,
            Some(text) => text.parse::<u64>().unwrap_or(u64::MAX),
        };
        if length > BODY_BYTES_MAX as u64 {
            return Err(self.bad(&format!("RTSP body of more than {BODY_BYTES_MAX} bytes")));
        }
        let end = head_end + length as usize;
        let Some(body) = buf.get(head_end..end) else { return Ok(None) };
        message.body = body.to_vec();
        Ok(Some((Item::Message(message), end)))
    }

    fn bad(&self, what: &str) -> BadMessage {
        BadMessage { what: what.to_owned(), at: self.at }
    }
}

fn junk(consumed: usize) -> Option<(Item<'static>, usize)> {
    (consumed > 0).then_some((Item::Junk, consumed))
}

enum Begins {
    Yes,
    No,
    NotYet,
    Http,
}

fn message_begins(buf: &[u8]) -> Begins {
    let mut words = METHODS.iter().map(|m| m.as_bytes()).chain([&b"RTSP/1."[..]]);
    if buf.starts_with(b"HTTP/1.") {
        return Begins::Http;
    }
    if words.clone().any(|word| buf.starts_with(word)) {
        return Begins::Yes;
    }
    if words.any(|word| word.starts_with(buf)) || b"HTTP/1.".starts_with(buf) {
        return Begins::NotYet;
    }
    Begins::No
}

/// Length of the head with the empty line that ends it; lines may end with LF alone.
fn head_end(buf: &[u8], searched: usize) -> Option<usize> {
    let from = searched.saturating_sub(3);
    (from..buf.len()).find_map(|at| match &buf[at..] {
        [b'\n', b'\n', ..] => Some(at + 2),
        [b'\n', b'\r', b'\n', ..] => Some(at + 3),
        _ => None,
    })
}

type Fields = Vec<(String, String)>;

fn parse_head(head: &str) -> Result<(Start, Fields), String> {
    let mut lines = head.lines();
    let mut words = lines.next().unwrap_or("").split_ascii_whitespace();
    let first = words.next().unwrap_or("");
    let start = if first.starts_with("RTSP/") {
        let status = words.next().and_then(|s| s.parse().ok());
        let status = status.filter(|s| (100..=999).contains(s));
        Start::Answer { status: status.ok_or("RTSP answer without a status")? }
    } else {
        Start::Request { method: first.to_owned() }
    };
    let mut fields = Vec::new();
    // A line without a colon is left out: cameras break lines where no line break belongs.
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        if fields.len() >= FIELDS_MAX {
            return Err(format!("RTSP head of more than {FIELDS_MAX} fields"));
        }
        fields.push((name.trim().to_owned(), value.trim().to_owned()));
    }
    Ok((start, fields))
}

/// Appends a request. Fields with a line break or control character in them are left out: they come
/// from the camera (session, realm) and could break the message.
pub fn encode_request(
    out: &mut Vec<u8>,
    method: &str,
    uri: &str,
    cseq: u32,
    fields: &[(&str, &str)],
) {
    push_line(out, &[method, " ", uri, " RTSP/1.0"]);
    push_line(out, &["CSeq: ", &cseq.to_string()]);
    push_fields(out, fields);
}

/// Appends an answer to a request of the camera.
pub fn encode_answer(out: &mut Vec<u8>, status: &str, fields: &[(&str, &str)]) {
    push_line(out, &["RTSP/1.0 ", status]);
    push_fields(out, fields);
}

fn push_fields(out: &mut Vec<u8>, fields: &[(&str, &str)]) {
    for (name, value) in fields {
        if !value.chars().any(char::is_control) {
            push_line(out, &[name, ": ", value]);
        }
    }
    push_line(out, &[]);
}

fn push_line(out: &mut Vec<u8>, parts: &[&str]) {
    parts.iter().for_each(|part| out.extend_from_slice(part.as_bytes()));
    out.extend_from_slice(b"\r\n");
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What a byte stream gave: junk in a row is one, because its cuts follow the reads.
    #[derive(Clone, Debug, PartialEq)]
    enum Seen {
        Frame(u8, Vec<u8>),
        Message(Message),
        Junk(usize),
        Bad(String),
    }

    const KNOWN: [Signature; 2] = [
        Signature { channel: 0, payload_type: Some(96), ssrc: Some(0x0102_0304) },
        Signature { channel: 1, payload_type: None, ssrc: None },
    ];

    /// Feeds `stream` in pieces of these sizes, as a socket would.
    fn parse_all(stream: &[u8], sizes: &[usize]) -> (Vec<Seen>, usize) {
        let (mut parser, mut seen) = (Parser::default(), Vec::new());
        let (mut start, mut end) = (0, 0);
        for turn in 0.. {
            if end == stream.len() {
                break;
            }
            end = (end + sizes[turn % sizes.len()].max(1)).min(stream.len());
            loop {
                match parser.parse(&stream[start..end], &KNOWN) {
                    Ok(None) => break,
                    Ok(Some((item, consumed))) => {
                        assert!(consumed > 0, "no progress");
                        start += consumed;
                        match (item, seen.last_mut()) {
                            (Item::Junk, Some(Seen::Junk(n))) => *n += consumed,
                            (Item::Junk, _) => seen.push(Seen::Junk(consumed)),
                            (Item::Blank, _) => {}
                            (Item::Message(m), _) => seen.push(Seen::Message(m)),
                            (Item::Frame { channel, payload }, _) => {
                                seen.push(Seen::Frame(channel, payload.to_vec()));
                            }
                        }
                    }
                    Err(bad) => {
                        seen.push(Seen::Bad(bad.what));
                        return (seen, start);
                    }
                }
            }
        }
        assert_eq!(parser.at(), start as u64);
        (seen, start)
    }

    fn parse_one(stream: &[u8]) -> Message {
        match parse_all(stream, &[usize::MAX >> 1]).0.as_slice() {
            [Seen::Message(message)] => message.clone(),
            other => panic!("{other:?}"),
        }
    }

    fn rtp(channel: u8, body: &[u8]) -> Vec<u8> {
        let mut frame = vec![b'$', channel, 0, 12 + body.len() as u8];
        frame.extend([0x80, 96, 0, 1, 0, 0, 0, 9, 1, 2, 3, 4]);
        frame.extend(body);
        frame
    }

    #[test]
    fn names_are_found_in_any_case_and_values_trimmed() {
        let m = parse_one(b"RTSP/1.0 200 OK\r\nCseq: 7 \r\nRtp-Info:x\r\nno colon\r\n\r\n");
        assert_eq!(m.start, Start::Answer { status: 200 });
        assert_eq!((m.field("CSeq"), m.field("RTP-Info")), (Some("7"), Some("x")));
        assert_eq!(m.field("Session"), None);
    }

    #[test]
    fn lines_may_end_with_lf_and_bodies_follow() {
        let m = parse_one(b"RTSP/1.0 200\nContent-length: 3\n\nv=0");
        assert_eq!((m.start, m.body.as_slice()), (Start::Answer { status: 200 }, &b"v=0"[..]));
    }

    #[test]
    fn requests_of_the_camera_and_blank_lines_are_taken() {
        let m = parse_one(b"\r\n\r\nGET_PARAMETER rtsp://x/ RTSP/1.0\r\nCSeq: 1\r\n\r\n");
        assert_eq!(m.start, Start::Request { method: "GET_PARAMETER".to_owned() });
    }

    #[track_caller]
    fn check_bad(stream: &[u8], want: &str) {
        let (seen, _) = parse_all(stream, &[1000]);
        let Some(Seen::Bad(what)) = seen.last() else { panic!("{seen:?}") };
        assert!(what.contains(want), "{what}");
    }

    #[test]
    fn what_is_too_large_is_an_error() {
        check_bad(b"RTSP/1.0 200 OK\r\nContent-Length: 4294967296\r\n\r\n", "body of more than");
        check_bad(b"RTSP/1.0 200 OK\r\nContent-Length: -1\r\n\r\n", "body of more than");
        check_bad(b"RTSP/1.0 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n", "body of");
        let endless = [&b"RTSP/1.0 200 OK\r\nX: "[..], &[b'a'; HEAD_BYTES_MAX]].concat();
        check_bad(&endless, "head of more than 16384 bytes");
        let many = [&b"RTSP/1.0 200 OK\r\n"[..], &b"a:b\n".repeat(FIELDS_MAX + 1), b"\n"].concat();
        check_bad(&many, "more than 64 fields");
        check_bad(&vec![0; RESYNC_BYTES_MAX + 1], "no RTSP or RTP in");
        check_bad(b"HTTP/1.1 400 Bad Request\r\n\r\n", "HTTP, not RTSP");
        check_bad(b"RTSP/1.0 OK\r\n\r\n", "without a status");
    }

    #[test]
    fn lost_framing_is_found_again_at_a_known_frame() {
        let stream = [
            rtp(0, b"a"),
            b"garbage $\x00\x00\x09 and $\x00\x00\x20\x80\x60\x00\x01\x00\x00\x00\x09wrong"
                .to_vec(),
            rtp(0, b"b"),
            b"\xff\xff".to_vec(),
            b"RTSP/1.0 200 OK\r\n\r\n".to_vec(),
            b"$\x07\x00\x01z".to_vec(),
        ]
        .concat();
        for sizes in [&[1][..], &[3], &[100_000]] {
            let (seen, consumed) = parse_all(&stream, sizes);
            assert_eq!(consumed, stream.len());
            let want = [rtp(0, b"a"), rtp(0, b"b")].map(|f| Seen::Frame(0, f[4..].to_vec()));
            assert_eq!(seen.len(), 6, "{seen:?}");
            assert_eq!((&seen[0], &seen[2]), (&want[0], &want[1]));
            assert!(matches!(seen[1], Seen::Junk(34)), "{seen:?}");
            assert!(matches!((&seen[3], &seen[4]), (Seen::Junk(2), Seen::Message(_))));
            assert_eq!(seen[5], Seen::Frame(7, b"z".to_vec()));
        }
    }

    #[test]
    fn requests_are_written_in_the_usual_order_and_cannot_be_broken() {
        let mut out = Vec::new();
        encode_request(&mut out, "PLAY", "rtsp://x/", 3, &[("Session", "1"), ("X", "a\r\nY: b")]);
        encode_answer(&mut out, "200 OK", &[("CSeq", "9")]);
        let want = "PLAY rtsp://x/ RTSP/1.0\r\nCSeq: 3\r\nSession: 1\r\n\r\n\
                    RTSP/1.0 200 OK\r\nCSeq: 9\r\n\r\n";
        assert_eq!(String::from_utf8(out).unwrap(), want);
    }

    /// Pieces that a stream is made of, good and bad.
    fn piece() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            proptest::collection::vec(any::<u8>(), 0..30).prop_map(|body| rtp(0, &body)),
            proptest::collection::vec(any::<u8>(), 0..40),
            "[$R\r\n]{0,4}".prop_map(String::into_bytes),
            Just(b"RTSP/1.0 200 OK\r\nCSeq: 1\r\nContent-Length: 5\r\n\r\nv=0\r\n".to_vec()),
            Just(b"RTSP/1.0 401\nCSeq: 2\n\n".to_vec()),
            Just(b"OPTIONS * RTSP/1.0\r\n\r\n".to_vec()),
            Just(b"RTSP/1.".to_vec()),
            Just(b"$\x01\x00\x08\x80\xc8\x00\x01\x00\x00\x00\x01".to_vec()),
        ]
    }

    proptest! {
        #[test]
        fn splits_do_not_matter(
            pieces in proptest::collection::vec(piece(), 0..12),
            sizes in proptest::collection::vec(1usize..50, 1..8),
        ) {
            let stream = pieces.concat();
            let whole = parse_all(&stream, &[1]);
            prop_assert_eq!(&parse_all(&stream, &sizes), &whole);
            prop_assert_eq!(&parse_all(&stream, &[usize::MAX >> 1]), &whole);
        }
    }
}
