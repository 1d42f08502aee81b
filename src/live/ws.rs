//! Fragmented MP4 over WebSocket: the page's way to a picture (MediaSource).
//!
//! A text message tells the codecs as JSON, a binary one is the initialization section, then every frame
//! is a fragment in a binary message of its own. Another format begins with the first two again. Who falls
//! behind is told so (`{"skipped":12}`, in packets) and goes on at a keyframe. Not in here: the protocol
//! (`ws_core.rs`), when somebody is behind (`cursor_core.rs`).

use std::io::{self, ErrorKind, IoSlice};
use std::sync::Arc;
use std::time::{Duration, Instant};

use smol::future::or;

use super::cursor_core::{Cursor, Step};
use super::fragment_core::{encode_epoch_init, encode_frame_head};
use super::hls::NO_CODEC;
use super::playlist_core::codecs;
use super::service::{Live, Shown, refuse_without_picture, refuse_without_room};
use super::window_core::Epoch;
use super::ws_core::{
    CLOSE_GOING_AWAY, CLOSE_UNSUPPORTED, Decoder, Event, Kind, accept_key, encode_close,
    encode_frame, encode_head,
};
use crate::api::wire::LiveOrder;
use crate::http::viewer::{Stop, Viewer};
use crate::media::format::VideoCodec;

/// A client that did not answer the last ping by the next one is gone.
const PING_EVERY: Duration = Duration::from_secs(20);
const READ_BYTES: usize = 512;

/// What the shell does next.
enum Next {
    Step(Step),
    /// So many bytes were read; 0 is the end.
    Read(io::Result<usize>),
    /// The stream was deleted.
    Closed,
}

/// Answers the handshake and sends until one side has enough.
pub async fn serve(live: &Live, order: &LiveOrder, mut viewer: Viewer<'_>) -> Result<(), Stop> {
    let Some(accept) = viewer.websocket_key().map(accept_key) else {
        let fields = [("Upgrade", "websocket"), ("Sec-WebSocket-Version", "13")];
        return viewer.refuse(426, "this is a WebSocket (RFC 6455, version 13)", &fields).await;
    };
    if viewer.has_foreign_origin() {
        return viewer.refuse(403, "a page of another origin may not watch", &[]).await;
    }
    let Some(shown) = live.shown(order, &viewer).await? else {
        return refuse_without_picture(viewer).await;
    };
    let codec = shown.feed.window().epoch().map(|epoch| epoch.video.codec);
    if codec == Some(VideoCodec::Mjpeg) {
        return viewer.refuse(501, NO_CODEC, &[]).await;
    }
    let Some(_place) = live.open(order.stream, &shown) else {
        return refuse_without_room(viewer).await;
    };
    let fields = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Accept", accept.as_str()),
        shown.field(),
    ];
    viewer.switch(&fields).await?;
    let early = viewer.take_buffered();
    let mut socket = Socket {
        viewer,
        shown: &shown,
        decoder: Decoder::default(),
        epoch: None,
        ping_at: Instant::now() + PING_EVERY,
        is_pinged: false,
    };
    let code = match socket.input(&early).await? {
        Some(code) => code,
        None => socket.run(live).await?,
    };
    socket.viewer.write(&encode_close(code)).await?;
    Err(Stop::Replied)
}

struct Socket<'a> {
    viewer: Viewer<'a>,
    shown: &'a Shown,
    decoder: Decoder,
    /// Number of the epoch that the client has the initialization section of.
    epoch: Option<u64>,
    ping_at: Instant,
    is_pinged: bool,
}

impl Socket<'_> {
    /// Sends until there is a reason to close: its code.
    async fn run(&mut self, live: &Live) -> Result<u16, Stop> {
        let mut cursor = Cursor::new(&self.shown.feed.window());
        let mut buf = [0; READ_BYTES];
        loop {
            let step = async {
                let poll = |window: &_| match cursor.poll(window, live.now_ms()) {
                    Step::Wait => None,
                    step => Some(step),
                };
                self.shown.feed.wait_for(poll).await.map_or(Next::Closed, Next::Step)
            };
            let read = async { Next::Read(self.viewer.read(&mut buf, self.ping_at).await) };
            // The client first: it cannot talk much, and media could leave it no turn.
            match or(read, step).await {
                Next::Closed => return Ok(CLOSE_GOING_AWAY),
                Next::Step(Step::Send(index)) => {
                    if let Some(code) = self.send_packet(index).await? {
                        return Ok(code);
                    }
                }
                Next::Step(Step::Skipped(count)) => {
                    let text = format!("{{\"skipped\":{count}}}");
                    self.viewer.write(&encode_frame(Kind::Text, text.as_bytes())).await?;
                }
                Next::Step(Step::Wait) => {}
                Next::Read(Ok(0)) => return Err(Stop::Gone),
                Next::Read(Ok(n)) => {
                    let bytes = buf;
                    if let Some(code) = self.input(&bytes[..n]).await? {
                        return Ok(code);
                    }
                }
                Next::Read(Err(error)) if error.kind() == ErrorKind::TimedOut => {
                    if self.is_pinged {
                        return Err(Stop::Gone);
                    }
                    self.is_pinged = true;
                    self.ping_at = Instant::now() + PING_EVERY;
                    self.viewer.write(&encode_frame(Kind::Ping, b"")).await?;
                }
                Next::Read(Err(error)) => return Err(error.into()),
            }
        }
    }

    /// Takes what the client sent; the code to close with, if that is what follows.
    async fn input(&mut self, bytes: &[u8]) -> Result<Option<u16>, Stop> {
        for event in self.decoder.feed(bytes) {
            match event {
                Event::Ping(payload) => {
                    self.viewer.write(&encode_frame(Kind::Pong, &payload)).await?;
                }
                Event::Pong => self.is_pinged = false,
                Event::Close(code) | Event::Broken(code) => return Ok(Some(code)),
            }
        }
        Ok(None)
    }

    async fn send_packet(&mut self, index: u64) -> Result<Option<u16>, Stop> {
        let (epoch, head, packet) = {
            let window = self.shown.feed.window();
            let Some(epoch) = window.epoch_of(index).cloned() else { return Ok(None) };
            let Some(head) = encode_frame_head(&window, &epoch, index) else { return Ok(None) };
            let Some(packet) = window.packet(index).map(Arc::clone) else { return Ok(None) };
            (epoch, head, packet)
        };
        if self.epoch != Some(epoch.number) {
            if epoch.video.codec == VideoCodec::Mjpeg {
                return Ok(Some(CLOSE_UNSUPPORTED));
            }
            self.epoch = Some(epoch.number);
            let said = describe(&epoch, self.shown);
            self.viewer.write(&encode_frame(Kind::Text, said.as_bytes())).await?;
            self.viewer.write(&encode_frame(Kind::Binary, &encode_epoch_init(&epoch))).await?;
        }
        let frame = encode_head(Kind::Binary, head.len() + packet.data.len());
        let mut slices = [&frame, &head, &packet.data].map(|bytes| IoSlice::new(bytes));
        self.viewer.write_vectored(&mut slices).await?;
        Ok(None)
    }
}

/// The first message: what MediaSource has to know, the wall clock (Unix milliseconds) of media time zero, and which
/// feed it is. Codecs hold nothing that JSON would have to escape.
fn describe(epoch: &Epoch, shown: &Shown) -> String {
    let (codecs, video) = (codecs(epoch, false), &epoch.video);
    let (width, height, origin) = (video.width, video.height, epoch.zero_wall_ms);
    let quality = shown.quality.name();
    format!(
        "{{\"codecs\":\"{codecs}\",\"width\":{width},\"height\":{height},\
         \"time_origin_ms\":{origin},\"quality\":\"{quality}\"}}"
    )
}
