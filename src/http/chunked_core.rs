//! The chunked transfer coding, decoded piece by piece under a bound (RFC 9112 section 7.1).
//!
//! In here: the state machine and the encoder's framing. Not in here: sockets, and what is done with
//! the data. Invariant K1: never more than `max` bytes of data come out. Extensions and trailers are
//! read and thrown away, a little of them.

/// Hex digits of a chunk's size.
const SIZE_DIGITS_MAX: u32 = 8;
/// Bytes of all extensions and trailers together.
const EXTRA_BYTES_MAX: usize = 1 << 10;

/// Why a body was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChunkError {
    /// It breaks the grammar.
    Malformed,
    /// It holds more than the caller's bound.
    TooLarge,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Size { size: usize, digits: u32 },
    Extension { size: usize },
    SizeLf { size: usize },
    Data { left: usize },
    DataCr,
    DataLf,
    TrailerStart,
    Trailer,
    TrailerLf,
    EndLf,
    Done,
}

/// Decodes one body.
#[derive(Debug)]
pub struct Decoder {
    state: State,
    data_left: usize,
    extra_left: usize,
}

impl Decoder {
    /// A decoder of a body of at most `max` bytes of data.
    pub fn new(max: usize) -> Self {
        let state = State::Size { size: 0, digits: 0 };
        Self { state, data_left: max, extra_left: EXTRA_BYTES_MAX }
    }

    /// The last byte of the body was read.
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }

    /// Reads from `input`, hands data to `sink`, and says how many bytes it used; it uses all of
    /// them unless the body ends before.
    pub fn feed(&mut self, input: &[u8], mut sink: impl FnMut(&[u8])) -> Result<usize, ChunkError> {
        let mut at = 0;
        while at < input.len() && !self.is_done() {
            if let State::Data { left } = self.state {
                let n = left.min(input.len() - at);
                sink(&input[at..at + n]);
                at += n;
                self.state = if n == left { State::DataCr } else { State::Data { left: left - n } };
            } else {
                self.state = self.step(input[at])?;
                at += 1;
            }
        }
        Ok(at)
    }

    fn step(&mut self, byte: u8) -> Result<State, ChunkError> {
        Ok(match (self.state, byte) {
            (State::Size { size, digits }, b'0'..=b'9' | b'a'..=b'f' | b'A'..=b'F') => {
                if digits == SIZE_DIGITS_MAX {
                    return Err(ChunkError::TooLarge);
                }
                let digit = char::from(byte).to_digit(16).unwrap_or(0) as usize;
                State::Size { size: (size << 4) | digit, digits: digits + 1 }
            }
            (State::Size { size, digits: 1.. }, b'\r') => State::SizeLf { size },
            (State::Size { size, digits: 1.. }, b';' | b' ' | b'\t') => State::Extension { size },
            (State::Extension { size }, b'\r') => State::SizeLf { size },
            (State::Extension { size }, byte) if is_text(byte) => {
                self.take_extra()?;
                State::Extension { size }
            }
            (State::SizeLf { size: 0 }, b'\n') => State::TrailerStart,
            (State::SizeLf { size }, b'\n') => {
                self.data_left = self.data_left.checked_sub(size).ok_or(ChunkError::TooLarge)?;
                State::Data { left: size }
            }
            (State::DataCr, b'\r') => State::DataLf,
            (State::DataLf, b'\n') => State::Size { size: 0, digits: 0 },
            (State::TrailerStart, b'\r') => State::EndLf,
            (State::TrailerStart | State::Trailer, byte) if is_text(byte) => {
                self.take_extra()?;
                State::Trailer
            }
            (State::Trailer, b'\r') => State::TrailerLf,
            (State::TrailerLf, b'\n') => State::TrailerStart,
            (State::EndLf, b'\n') => State::Done,
            _ => return Err(ChunkError::Malformed),
        })
    }

    fn take_extra(&mut self) -> Result<(), ChunkError> {
        self.extra_left = self.extra_left.checked_sub(1).ok_or(ChunkError::TooLarge)?;
        Ok(())
    }
}

fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

/// What stands before a chunk of `len` bytes, which is not 0: that would end the body.
pub fn encode_chunk_start(len: usize) -> String {
    format!("{len:x}\r\n")
}

/// What stands after a chunk.
pub const CHUNK_END: &[u8] = b"\r\n";

/// Ends a body of chunks.
pub const LAST_CHUNK: &[u8] = b"0\r\n\r\n";

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn decode(
        input: &[u8],
        max: usize,
        piece: usize,
    ) -> Result<(Vec<u8>, bool, usize), ChunkError> {
        let (mut decoder, mut out, mut used) = (Decoder::new(max), Vec::new(), 0);
        for part in input.chunks(piece) {
            used += decoder.feed(part, |data| out.extend_from_slice(data))?;
            if decoder.is_done() {
                break;
            }
        }
        Ok((out, decoder.is_done(), used))
    }

    #[test]
    fn a_body_with_extensions_and_trailers() {
        let body = b"4;a=\"b\"\r\nWiki\r\n5 \r\npedia\r\n0\r\nX: y\r\n\r\nGET /";
        assert_eq!(decode(body, 9, 64), Ok((b"Wikipedia".to_vec(), true, body.len() - 5)));
        assert_eq!(decode(body, 8, 64), Err(ChunkError::TooLarge));
    }

    #[test]
    fn what_breaks_the_grammar_is_refused() {
        for bad in [
            "\r\n", "+4\r\n", "0x4\r\n", "4\nWiki", "1\r\nab", "1\r\na\n", ";\r\n", "-1\r\n",
            " 4\r\n", "0\r\n\n", "0\r\n\rX",
        ] {
            assert_eq!(decode(bad.as_bytes(), 99, 64), Err(ChunkError::Malformed), "{bad:?}");
        }
        assert_eq!(decode(b"ffffffff1\r\n", 99, 64), Err(ChunkError::TooLarge));
        assert_eq!(decode(b"ffffffff\r\n", 99, 64), Err(ChunkError::TooLarge));
        let long = format!("1;{}", "x".repeat(EXTRA_BYTES_MAX + 1));
        assert_eq!(decode(long.as_bytes(), 99, 64), Err(ChunkError::TooLarge));
    }

    proptest! {
        #[test]
        fn what_was_encoded_comes_back_however_it_is_cut(
            chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..40), 0..8),
            piece in 1_usize..50,
        ) {
            let mut wire = Vec::new();
            for chunk in &chunks {
                wire.extend_from_slice(encode_chunk_start(chunk.len()).as_bytes());
                wire.extend_from_slice(chunk);
                wire.extend_from_slice(CHUNK_END);
            }
            wire.extend_from_slice(LAST_CHUNK);
            let whole = chunks.concat();
            let len = wire.len();
            wire.extend_from_slice(b"next");
            prop_assert_eq!(decode(&wire, whole.len(), piece), Ok((whole, true, len)));
        }

        #[test]
        fn any_bytes_never_give_more_than_the_bound(
            input in prop::collection::vec(prop::sample::select(&b"0159afF\r\n; x\xff"[..]), 0..200),
            piece in 1_usize..20,
        ) {
            if let Ok((out, _, used)) = decode(&input, 30, piece) {
                prop_assert!(out.len() <= 30 && used <= input.len());
            }
        }
    }
}
