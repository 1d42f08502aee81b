//! What the gate and the API tell each other in headers, on the private socket alone.
//!
//! The gate never forwards a header of these names from outside, and takes them off every answer.

use std::fmt::{self, Write as _};

use crate::config::fingerprint::Fingerprint;
use crate::config::stream::{VideoCodec, codec_named};
use crate::config::transport::Transport;

/// Request: the id under which the log has it.
pub const REQUEST_ID: &str = "X-Request-Id";
/// Request, `1`: the gate itself asks for the next piece of a list.
pub const INTERNAL: &str = "lightnvr-internal";
/// Answer: target of the piece that follows this body without a gap. `Content-Length` is this piece's.
pub const NEXT: &str = "lightnvr-next";
/// Answer: send this file for a body; absolute path in the form of `encode_path`.
pub const FILE: &str = "lightnvr-file";
/// Answer with `FILE`: how many bytes of it, from its start.
pub const FILE_SIZE: &str = "lightnvr-file-size";
/// Answer with `FILE`: strong validator with its quotes.
pub const FILE_ETAG: &str = "lightnvr-etag";
/// Answer with `FILE`: Unix seconds of the last change.
pub const FILE_MODIFIED: &str = "lightnvr-modified";
/// Answer, `1`: a wrong password was given in a body; counts like one in `Authorization`.
pub const WRONG_PASSWORD: &str = "lightnvr-wrong-password";

/// Request: the session that the gate found by its cookie, decimal.
pub const SESSION: &str = "lightnvr-session";
/// Request: bytes of a body that follows on the client's connection and is not sent along.
pub const LENGTH: &str = "lightnvr-length";
/// Answer: check these credentials, `user:password` in the form of `encode_path`, and open a session.
pub const LOG_IN: &str = "lightnvr-log-in";
/// Answer, `1`: end the session of the request.
pub const LOG_OUT: &str = "lightnvr-log-out";

/// The one user's name.
pub const USER: &str = "admin";
/// Answer: the live service serves this connection itself; a [`LiveOrder`] as text.
pub const LIVE: &str = "lightnvr-live";

/// Answer: the recorder serves this connection itself; an [`Order`] as text.
pub const ORDER: &str = "lightnvr-order";

/// What the recorder itself is asked for.
#[derive(Clone, PartialEq, Eq)]
pub enum Order {
    Trial(TrialOrder),
    Export(ExportOrder),
    /// The body of so many bytes is the bundle of an update.
    Update {
        length: u64,
    },
}

/// One MP4 of a stream's recordings in a span, Unix milliseconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExportOrder {
    pub stream_id: u32,
    pub start_ms: i64,
    pub end_ms: i64,
    /// Value of `Content-Disposition`.
    pub disposition: String,
}

/// A look at a source.
#[derive(Clone, PartialEq, Eq)]
pub struct TrialOrder {
    /// With the camera's password: never logged.
    pub url: String,
    /// As a stream's configuration has them.
    pub codec: VideoCodec,
    pub width: u16,
    pub height: u16,
    pub fps: u16,
    pub transport: Transport,
    pub tls_fingerprint: Option<Fingerprint>,
}

impl Order {
    /// As header text.
    pub fn encode(&self) -> String {
        match self {
            Self::Trial(order) => {
                let TrialOrder { url, codec, width, height, fps, transport, tls_fingerprint } =
                    order;
                let (codec, transport, url) = (codec.name(), transport.name(), encode_path(url));
                let pin = tls_fingerprint.map(|pin| pin.to_string()).unwrap_or_default();
                format!("trial;{codec};{width};{height};{fps};{transport};{pin};{url}")
            }
            Self::Export(ExportOrder { stream_id, start_ms, end_ms, disposition }) => {
                format!("export;{stream_id};{start_ms};{end_ms};{}", encode_path(disposition))
            }
            Self::Update { length } => format!("update;{length}"),
        }
    }

    /// Reverses `encode`; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(';')?;
        match kind {
            "trial" => {
                let mut parts = rest.splitn(7, ';');
                let codec = codec_named(parts.next()?)?;
                let mut side = || parts.next()?.parse().ok();
                let (width, height, fps) = (side()?, side()?, side()?);
                let transport = Transport::named(parts.next()?)?;
                let tls_fingerprint = match parts.next()? {
                    "" => None,
                    pin => Some(Fingerprint::parse(pin)?),
                };
                let url = decode_percent(parts.next()?)?;
                let order =
                    TrialOrder { url, codec, width, height, fps, transport, tls_fingerprint };
                Some(Self::Trial(order))
            }
            "export" => {
                let mut parts = rest.splitn(4, ';');
                let stream_id = parts.next()?.parse().ok()?;
                let mut time = || parts.next()?.parse().ok();
                let (start_ms, end_ms) = (time()?, time()?);
                let disposition = decode_percent(parts.next()?)?;
                Some(Self::Export(ExportOrder { stream_id, start_ms, end_ms, disposition }))
            }
            "update" => Some(Self::Update { length: rest.parse().ok()? }),
            _ => None,
        }
    }
}

impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Trial(_) => f.write_str("Trial(***)"),
            Self::Export(order) => order.fmt(f),
            Self::Update { length } => write!(f, "Update({length})"),
        }
    }
}

/// What the live service is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LiveKind {
    /// The media playlist; `msn` and `part` ask it to wait for what is not there yet.
    Playlist,
    /// The multivariant playlist.
    Master,
    /// An initialization section; `number`.
    Init,
    /// A segment; `number`.
    Segment,
    /// A part of a segment; `number`, `part`.
    Part,
    /// Fragmented MP4 over WebSocket.
    Socket,
    /// Pictures one after the other; `width`, `fps`.
    Mjpeg,
    /// One picture; `width`.
    Snapshot,
}

const LIVE_KINDS: [(LiveKind, &str); 8] = [
    (LiveKind::Playlist, "playlist"),
    (LiveKind::Master, "master"),
    (LiveKind::Init, "init"),
    (LiveKind::Segment, "segment"),
    (LiveKind::Part, "part"),
    (LiveKind::Socket, "socket"),
    (LiveKind::Mjpeg, "mjpeg"),
    (LiveKind::Snapshot, "snapshot"),
];

/// Argument of every kind: which feed of the camera is wished; `LiveKind` decides without it.
pub const QUALITY: &str = "quality";
/// The feed that is recorded.
pub const QUALITY_MAIN: u64 = 0;
/// The small one.
pub const QUALITY_SUB: u64 = 1;

/// Arguments that an order has at most.
const ARGUMENTS_MAX: usize = 8;

/// An order for the live service: `KIND;stream=ID`, then `;NAME=NUMBER` for each argument.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LiveOrder {
    pub kind: LiveKind,
    pub stream: u32,
    arguments: Vec<(String, u64)>,
}

impl LiveOrder {
    /// An order without arguments.
    pub fn new(kind: LiveKind, stream: u32) -> Self {
        Self { kind, stream, arguments: Vec::new() }
    }

    /// The same with an argument, if there is a value.
    pub fn with(mut self, name: &str, value: Option<u64>) -> Self {
        self.arguments.extend(value.map(|value| (name.to_owned(), value)));
        self
    }

    /// The value of an argument.
    pub fn argument(&self, name: &str) -> Option<u64> {
        self.arguments.iter().find(|(known, _)| known == name).map(|(_, value)| *value)
    }

    /// As header text.
    pub fn encode(&self) -> String {
        let name = LIVE_KINDS.iter().find(|(kind, _)| *kind == self.kind).map(|(_, name)| *name);
        let mut out = format!("{};stream={}", name.unwrap_or_default(), self.stream);
        for (name, value) in &self.arguments {
            let _ = write!(out, ";{name}={value}"); // a String takes everything
        }
        out
    }

    /// Reverses `encode`; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(';');
        let name = parts.next()?;
        let kind = LIVE_KINDS.iter().find(|(_, known)| *known == name)?.0;
        let stream = parts.next()?.strip_prefix("stream=")?.parse().ok()?;
        let mut order = Self::new(kind, stream);
        for part in parts {
            let (name, value) = part.split_once('=')?;
            if order.arguments.len() >= ARGUMENTS_MAX {
                return None;
            }
            order.arguments.push((name.to_owned(), value.parse().ok()?));
        }
        Some(order)
    }
}

/// A path as header text: `%` and everything but printable ASCII as `%XX` of its UTF-8.
pub fn encode_path(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for byte in path.bytes() {
        match byte {
            b'!'..=b'~' if byte != b'%' => out.push(char::from(byte)),
            _ => drop(write!(out, "%{byte:02X}")),
        }
    }
    out
}

/// Reverses percent-encoding; `None` for a broken escape or what is no UTF-8. `+` stays `+`.
pub fn decode_percent(text: &str) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let digit = |b: Option<u8>| char::from(b?).to_digit(16);
        let (high, low) = (digit(bytes.next())?, digit(bytes.next())?);
        out.push(u8::try_from(high * 16 + low).ok()?);
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn an_order_survives_its_header(
            stream in any::<u32>(),
            msn in any::<Option<u64>>(),
            near in "(playlist|part)?[;=a-z0-9]{0,20}",
        ) {
            for (kind, _) in LIVE_KINDS {
                let order = LiveOrder::new(kind, stream).with("msn", msn).with("part", Some(3));
                prop_assert_eq!(LiveOrder::parse(&order.encode()), Some(order.clone()));
                prop_assert_eq!(order.argument("msn"), msn);
            }
            let _ = LiveOrder::parse(&near);
        }

        #[test]
        fn an_order_to_the_recorder_survives(
            url in "\\PC{0,60}",
            side: u16,
            pin: Option<[u8; 32]>,
            near in "[a-z;0-9%]{0,20}",
        ) {
            let (transport, tls_fingerprint) = (Transport::Udp, pin.map(Fingerprint));
            let codec = VideoCodec::Mjpeg;
            let order =
                TrialOrder { url, codec, width: side, height: 1, fps: 2, transport, tls_fingerprint };
            let order = Order::Trial(order);
            let header = order.encode();
            prop_assert!(header.bytes().all(|b| b.is_ascii_graphic()));
            prop_assert_eq!(Order::parse(&header), Some(order));
            let disposition = near.clone();
            let order = Order::Export(ExportOrder { stream_id: 7, start_ms: -5, end_ms: 9, disposition });
            prop_assert_eq!(Order::parse(&order.encode()), Some(order));
            let order = Order::Update { length: u64::from(side) };
            prop_assert_eq!(Order::parse(&order.encode()), Some(order));
            let _ = Order::parse(&near);
        }

        #[test]
        fn a_path_survives_its_header(path in "\\PC{0,60}", near in "[0-9a-f%]{0,9}") {
            let header = encode_path(&path);
            prop_assert!(header.bytes().all(|b| b.is_ascii_graphic()));
            prop_assert_eq!(decode_percent(&header), Some(path));
            let _ = decode_percent(&near);
        }
    }
}
