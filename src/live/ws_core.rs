//! The WebSocket protocol (RFC 6455), as far as a server needs that sends media and listens to nothing.
//!
//! In here: the answer to the handshake, heads of our frames, the client's frames. Nothing of the client
//! is trusted: frames are small, masked and whole, and a handful of messages is all it may send.
//! Keeps PURE-CORE.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// Payload of a control frame at most (section 5.5); no other frame of a client may be longer here.
pub const CLIENT_PAYLOAD_MAX: usize = 125;
/// Messages that a client may send in all; they mean nothing.
const MESSAGES_MAX: u32 = 16;
/// Bytes of a client's frame: head, mask, payload.
const CLIENT_FRAME_MAX: usize = 2 + 4 + CLIENT_PAYLOAD_MAX;

/// Close codes (section 7.4.1).
pub const CLOSE_GOING_AWAY: u16 = 1001;
const CLOSE_PROTOCOL: u16 = 1002;
pub const CLOSE_UNSUPPORTED: u16 = 1003;
const CLOSE_POLICY: u16 = 1008;
const CLOSE_TOO_LARGE: u16 = 1009;

/// What a frame of ours is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    Text = 1,
    Binary = 2,
    Close = 8,
    Ping = 9,
    Pong = 10,
}

/// Value of `Sec-WebSocket-Accept` (section 4.2.2).
pub fn accept_key(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    STANDARD.encode(sha1(text.as_bytes()))
}

/// The head of an unmasked frame that is a whole message.
pub fn encode_head(kind: Kind, len: usize) -> Vec<u8> {
    let mut out = vec![0x80 | kind as u8];
    match len {
        0..=125 => out.push(len as u8),
        126..=0xFFFF => {
            out.push(126);
            out.extend_from_slice(&(len as u16).to_be_bytes());
        }
        _ => {
            out.push(127);
            out.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    out
}

/// A whole frame; for small ones.
pub fn encode_frame(kind: Kind, payload: &[u8]) -> Vec<u8> {
    let mut out = encode_head(kind, payload.len());
    out.extend_from_slice(payload);
    out
}

/// A close frame with a code.
pub fn encode_close(code: u16) -> Vec<u8> {
    encode_frame(Kind::Close, &code.to_be_bytes())
}

/// What the client wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// To be answered with a pong of the same payload.
    Ping(Vec<u8>),
    /// A sign of life.
    Pong,
    /// It closes; to be answered with the same code, then the connection ends.
    Close(u16),
    /// It broke a rule: close with this code.
    Broken(u16),
}

/// Reads a client's frames.
#[derive(Debug, Default)]
pub struct Decoder {
    buf: Vec<u8>,
    messages: u32,
    is_over: bool,
}

impl Decoder {
    /// Takes bytes as they come. After `Close` or `Broken` nothing more is read. Of several pings the last
    /// one is told (section 5.5.3).
    pub fn feed(&mut self, bytes: &[u8]) -> Vec<Event> {
        let mut events = Vec::new();
        // A frame at a time, so that never more than one is held.
        for piece in bytes.chunks(CLIENT_FRAME_MAX) {
            if self.is_over {
                break;
            }
            self.buf.extend_from_slice(piece);
            loop {
                match self.take_frame() {
                    Ok(Some(Event::Ping(payload))) => {
                        events.retain(|event| !matches!(event, Event::Ping(_)));
                        events.push(Event::Ping(payload));
                    }
                    Ok(Some(Event::Pong)) if events.contains(&Event::Pong) => {}
                    Ok(Some(event)) => {
                        self.is_over = matches!(event, Event::Close(_));
                        events.push(event);
                        if self.is_over {
                            return events;
                        }
                    }
                    Ok(None) => break,
                    Err(code) => {
                        self.is_over = true;
                        events.push(Event::Broken(code));
                        return events;
                    }
                }
            }
        }
        events
    }

    /// The next event, or `None` while no frame is whole; messages are counted and passed over.
    fn take_frame(&mut self) -> Result<Option<Event>, u16> {
        loop {
            let [first, second, ..] = self.buf[..] else { return Ok(None) };
            let (opcode, len) = (first & 0x0F, usize::from(second & 0x7F));
            let is_control = opcode >= 8;
            let is_whole = first & 0x80 != 0;
            // No extension was agreed on, a client masks, a control frame is not split.
            if first & 0x70 != 0 || second & 0x80 == 0 || (is_control && !is_whole) {
                return Err(CLOSE_PROTOCOL);
            }
            if len > CLIENT_PAYLOAD_MAX {
                return Err(if is_control { CLOSE_PROTOCOL } else { CLOSE_TOO_LARGE });
            }
            let Some(frame) = self.buf.get(2..6 + len) else { return Ok(None) };
            let (mask, payload) = frame.split_at(4);
            let payload: Vec<u8> =
                payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
            self.buf.drain(..6 + len);
            match opcode {
                0..=2 => {
                    self.messages += 1;
                    if self.messages > MESSAGES_MAX {
                        return Err(CLOSE_POLICY);
                    }
                }
                8 => return close_code(&payload).map(Event::Close).map(Some),
                9 => return Ok(Some(Event::Ping(payload))),
                10 => return Ok(Some(Event::Pong)),
                _ => return Err(CLOSE_PROTOCOL),
            }
        }
    }
}

/// The code to answer a close with.
fn close_code(payload: &[u8]) -> Result<u16, u16> {
    match payload {
        [] => Ok(1000),
        [high, low, ..] => match u16::from_be_bytes([*high, *low]) {
            code @ (1000..=1003 | 1007..=1014 | 3000..=4999) => Ok(code),
            _ => Err(CLOSE_PROTOCOL),
        },
        _ => Err(CLOSE_PROTOCOL),
    }
}

/// SHA-1 (RFC 3174). Only the handshake wants it, where it protects nothing: not worth a dependency.
fn sha1(bytes: &[u8]) -> [u8; 20] {
    let mut message = bytes.to_vec();
    message.push(0x80);
    message.resize(message.len().next_multiple_of(64), 0);
    if message.len() - bytes.len() < 9 {
        message.resize(message.len() + 64, 0);
    }
    let bits = bytes.len() as u64 * 8;
    let at = message.len() - 8;
    message[at..].copy_from_slice(&bits.to_be_bytes());
    let mut state = [0x6745_2301_u32, 0xEFCD_AB89, 0x98BA_DCFE, 0x1032_5476, 0xC3D2_E1F0];
    for block in message.chunks_exact(64) {
        let mut words = [0_u32; 80];
        for (word, bytes) in words.iter_mut().zip(block.chunks_exact(4)) {
            *word = u32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]);
        }
        for n in 16..80 {
            words[n] = (words[n - 3] ^ words[n - 8] ^ words[n - 14] ^ words[n - 16]).rotate_left(1);
        }
        let [mut a, mut b, mut c, mut d, mut e] = state;
        for (n, word) in words.iter().enumerate() {
            let (f, k) = match n {
                0..20 => ((b & c) | (!b & d), 0x5A82_7999),
                20..40 => (b ^ c ^ d, 0x6ED9_EBA1),
                40..60 => ((b & c) | (b & d) | (c & d), 0x8F1B_BCDC),
                _ => (b ^ c ^ d, 0xCA62_C1D6_u32),
            };
            let sum = a.rotate_left(5).wrapping_add(f).wrapping_add(e);
            let sum = sum.wrapping_add(k).wrapping_add(*word);
            (e, d, c, b, a) = (d, c, b.rotate_left(30), a, sum);
        }
        for (old, new) in state.iter_mut().zip([a, b, c, d, e]) {
            *old = old.wrapping_add(new);
        }
    }
    let mut out = [0; 20];
    for (place, word) in out.chunks_exact_mut(4).zip(state) {
        place.copy_from_slice(&word.to_be_bytes());
    }
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A frame as a client sends it.
    fn masked(first: u8, payload: &[u8]) -> Vec<u8> {
        let mask = [0x37, 0xFA, 0x21, 0x3D];
        let mut out = vec![first, 0x80 | payload.len() as u8];
        out.extend_from_slice(&mask);
        out.extend(payload.iter().zip(mask.iter().cycle()).map(|(byte, key)| byte ^ key));
        out
    }

    #[test]
    fn the_handshake_of_the_standard() {
        assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        let hex = |text: &str| -> String {
            sha1(text.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect()
        };
        assert_eq!(hex("abc"), "a9993e364706816aba3e25717850c26c9cd0d89d");
        assert_eq!(hex(&"a".repeat(64)), "0098ba824b5c16427bd7a1122a5a442a25ec644d");
    }

    #[test]
    fn what_a_client_may_send() {
        let mut decoder = Decoder::default();
        assert_eq!(decoder.feed(&masked(0x89, b"hi")), [Event::Ping(b"hi".to_vec())]);
        let two = [masked(0x89, b"a"), masked(0x8A, b""), masked(0x89, b"b")].concat();
        assert_eq!(decoder.feed(&two), [Event::Pong, Event::Ping(b"b".to_vec())]);
        assert_eq!(decoder.feed(&masked(0x81, b"hello")), []);
        assert_eq!(decoder.feed(&masked(0x88, &[3, 0xE8, b'x'])), [Event::Close(1000)]);
        assert_eq!(Decoder::default().feed(&masked(0x88, b"")), [Event::Close(1000)]);
    }

    #[test]
    fn what_it_may_not() {
        for (bytes, code) in [
            (vec![0x82, 0xFE, 0, 126], CLOSE_TOO_LARGE),
            (vec![0x82, 0xFF], CLOSE_TOO_LARGE),
            (vec![0x89, 0xFE], CLOSE_PROTOCOL),
            (vec![0x81, 0x01, b'x'], CLOSE_PROTOCOL), // not masked
            (masked(0x09, b""), CLOSE_PROTOCOL),      // a control frame in pieces
            (masked(0xC1, b""), CLOSE_PROTOCOL),      // an extension
            (masked(0x83, b""), CLOSE_PROTOCOL),      // an unknown kind
            (masked(0x88, &[3]), CLOSE_PROTOCOL),
            (masked(0x88, &[3, 0xED]), CLOSE_PROTOCOL), // 1005 is never sent
            (masked(0x81, b"x").repeat(17), CLOSE_POLICY),
        ] {
            assert_eq!(Decoder::default().feed(&bytes), [Event::Broken(code)], "{bytes:?}");
        }
    }

    #[test]
    fn heads_of_all_lengths() {
        assert_eq!(encode_head(Kind::Binary, 125), [0x82, 125]);
        assert_eq!(encode_head(Kind::Text, 126), [0x81, 126, 0, 126]);
        assert_eq!(encode_head(Kind::Binary, 0x1_0000), [0x82, 127, 0, 0, 0, 0, 0, 1, 0, 0]);
        assert_eq!(encode_close(1001), [0x88, 2, 3, 0xE9]);
    }

    proptest! {
        #[test]
        fn any_bytes_are_taken_and_little_is_held(
            pieces in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..20),
        ) {
            let mut decoder = Decoder::default();
            for piece in pieces {
                decoder.feed(&piece);
                prop_assert!(decoder.buf.len() <= 2 * CLIENT_FRAME_MAX);
            }
        }

        #[test]
        fn how_frames_are_split_does_not_matter(
            pings in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..126), 1..6),
            cut in 1_usize..40,
        ) {
            let bytes: Vec<u8> = pings.iter().flat_map(|ping| masked(0x89, ping)).collect();
            let mut decoder = Decoder::default();
            let mut last = None;
            for piece in bytes.chunks(cut) {
                last = decoder.feed(piece).pop().or(last);
            }
            prop_assert_eq!(last, pings.last().cloned().map(Event::Ping));
        }
    }
}
