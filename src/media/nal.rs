//! NAL units: Annex B start codes, 4-byte length prefixes, emulation prevention.
//!
//! In here: the framing that H.264 and H.265 share. Not in here: what a NAL unit says (`h264.rs`,
//! `h265.rs`). Inside the program a picture is always length-prefixed (ISO/IEC 14496-15).

/// Splits a buffer that may hold start codes (00 00 01 or 00 00 00 01) into NAL units.
///
/// Without a start code the whole buffer is one unit, as an RTP payload should be. Cameras that put
/// SPS, PPS and IDR into one payload are why this exists (V380 and relatives: camera-quirks row
/// 37). Zeros before a start code are `trailing_zero_8bits` (H.264 annex B.1.1) and dropped; zeros
/// at the very end are kept, because an H.264 slice without a start code behind it may end in
/// `cabac_zero_words`.
pub fn split_annex_b(payload: &[u8]) -> impl Iterator<Item = &[u8]> {
    AnnexB { rest: payload }
}

struct AnnexB<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for AnnexB<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        while !self.rest.is_empty() {
            let (nal, rest) = match find_start_code(self.rest) {
                Some(at) => (trim_zeros(&self.rest[..at]), &self.rest[at + 3..]),
                None => (self.rest, &[][..]),
            };
            self.rest = rest;
            if !nal.is_empty() {
                return Some(nal);
            }
        }
        None
    }
}

/// Where the first 00 00 01 begins. Looks at every third byte while they are above 1, because all
/// video passes through here.
fn find_start_code(data: &[u8]) -> Option<usize> {
    let mut at = 2;
    while let Some(&byte) = data.get(at) {
        if byte > 1 {
            at += 3;
        } else if byte == 0 {
            at += 1;
        } else if data[at - 1] == 0 && data[at - 2] == 0 {
            return Some(at - 2);
        } else {
            at += 3;
        }
    }
    None
}

/// `data` without the zeros at its end. A parameter set ends in its stop bit, so what follows is
/// padding.
pub fn trim_zeros(data: &[u8]) -> &[u8] {
    let len = data.iter().rposition(|&byte| byte != 0).map_or(0, |last| last + 1);
    &data[..len]
}

/// Appends one NAL unit behind its 4-byte big-endian length. `nal` is shorter than 4 GiB, because
/// `PACKET_BYTES_MAX` bounds every access unit.
pub fn push_length_prefixed(out: &mut Vec<u8>, nal: &[u8]) {
    debug_assert!(
        u32::try_from(nal.len()).is_ok(),
        "an access unit is bounded by PACKET_BYTES_MAX"
    );
    out.extend_from_slice(&(nal.len() as u32).to_be_bytes());
    out.extend_from_slice(nal);
}

/// The NAL units of a length-prefixed access unit. Empty units are left out; a length that reaches
/// past the end yields what is there and ends the iteration.
pub fn length_prefixed_nals(data: &[u8]) -> impl Iterator<Item = &[u8]> {
    LengthPrefixed { rest: data }
}

struct LengthPrefixed<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for LengthPrefixed<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        while let Some((prefix, body)) = self.rest.split_first_chunk::<4>() {
            let len = (u32::from_be_bytes(*prefix) as usize).min(body.len());
            let (nal, rest) = body.split_at(len);
            self.rest = rest;
            if !nal.is_empty() {
                return Some(nal);
            }
        }
        None
    }
}

/// A NAL unit without its emulation prevention bytes (H.264 section 7.4.1, H.265 section 7.4.2).
pub fn unescape(nal: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(nal.len());
    let mut zeros = 0;
    for &byte in nal {
        if zeros >= 2 && byte == 3 {
            zeros = 0;
            continue;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        out.push(byte);
    }
    out
}

/// The first bytes of a NAL unit without emulation prevention, and how many there are: enough for
/// the head of a slice, and without touching the heap for each picture.
pub fn unescape_head<const N: usize>(nal: &[u8]) -> ([u8; N], usize) {
    let mut out = [0; N];
    let mut len = 0;
    let mut zeros = 0;
    for &byte in nal {
        if zeros >= 2 && byte == 3 {
            zeros = 0;
            continue;
        }
        if len == N {
            break;
        }
        zeros = if byte == 0 { zeros + 1 } else { 0 };
        out[len] = byte;
        len += 1;
    }
    (out, len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check_split(payload: &[u8], want: &[&[u8]]) {
        assert_eq!(split_annex_b(payload).collect::<Vec<_>>(), want, "{payload:02x?}");
    }

    #[test]
    fn start_codes_split_a_payload() {
        check_split(&[], &[]);
        check_split(&[0x65, 1, 2, 0, 0], &[&[0x65, 1, 2, 0, 0]]);
        check_split(&[0, 0, 0, 1, 0x67, 9], &[&[0x67, 9]]);
        check_split(&[0, 0, 1, 0x67, 9, 0, 0, 1, 0x68, 8], &[&[0x67, 9], &[0x68, 8]]);
        check_split(&[0x67, 9, 0, 0, 0, 1, 0x68, 8], &[&[0x67, 9], &[0x68, 8]]);
        check_split(&[0x67, 9, 0, 0, 0, 0, 0, 1, 0x68, 0], &[&[0x67, 9], &[0x68, 0]]);
        check_split(&[0, 0, 1, 0, 0, 1, 0, 0, 0, 1], &[]);
        check_split(&[0, 0, 3, 1, 0, 1], &[&[0, 0, 3, 1, 0, 1]]);
        check_split(&[1, 1, 0, 0, 1, 5, 1, 0, 0, 1], &[&[1, 1], &[5, 1]]);
    }

    #[test]
    fn lengths_are_tolerated_when_wrong() {
        let mut data = Vec::new();
        push_length_prefixed(&mut data, &[0x67, 1]);
        push_length_prefixed(&mut data, &[]);
        push_length_prefixed(&mut data, &[0x65]);
        let all: Vec<_> = length_prefixed_nals(&data).collect();
        assert_eq!(all, [&[0x67, 1][..], &[0x65]]);
        let torn: Vec<_> = length_prefixed_nals(&[0, 0, 0, 9, 0x65, 2]).collect();
        assert_eq!(torn, [&[0x65, 2][..]]);
        assert_eq!(length_prefixed_nals(&[0, 0, 1]).count(), 0);
    }

    #[test]
    fn emulation_prevention_is_removed() {
        assert_eq!(unescape(&[1, 0, 0, 3, 0, 0, 3, 1, 0, 3]), [1, 0, 0, 0, 0, 1, 0, 3]);
        assert_eq!(unescape_head::<4>(&[1, 0, 0, 3, 0, 0, 3, 1]), ([1, 0, 0, 0], 4));
        assert_eq!(unescape_head::<4>(&[7]), ([7, 0, 0, 0], 1));
    }

    /// The definition, byte by byte, against which the fast search is held.
    fn find_slowly(data: &[u8]) -> Option<usize> {
        data.windows(3).position(|w| w == [0, 0, 1])
    }

    proptest! {
        #[test]
        fn search_agrees_with_the_definition(data in prop::collection::vec(0u8..3, 0..40)) {
            prop_assert_eq!(find_start_code(&data), find_slowly(&data));
        }

        #[test]
        fn what_is_joined_is_split_again(
            nals in prop::collection::vec(prop::collection::vec(1u8.., 1..20), 0..6),
            long in prop::collection::vec(any::<bool>(), 6),
        ) {
            let (mut annex_b, mut prefixed) = (Vec::new(), Vec::new());
            for (nal, long) in nals.iter().zip(long) {
                annex_b.extend_from_slice(if long { &[0, 0, 0, 1] } else { &[0, 0, 1] });
                annex_b.extend_from_slice(nal);
                push_length_prefixed(&mut prefixed, nal);
            }
            prop_assert!(split_annex_b(&annex_b).eq(nals.iter().map(Vec::as_slice)));
            prop_assert!(length_prefixed_nals(&prefixed).eq(nals.iter().map(Vec::as_slice)));
        }

        #[test]
        fn arbitrary_bytes_never_panic(data: Vec<u8>) {
            let bytes: usize = split_annex_b(&data).map(<[u8]>::len).sum();
            prop_assert!(bytes <= data.len());
            let bytes: usize = length_prefixed_nals(&data).map(<[u8]>::len).sum();
            prop_assert!(bytes <= data.len());
            let plain = unescape(&data);
            let (head, len) = unescape_head::<16>(&data);
            prop_assert_eq!(&head[..len], &plain[..plain.len().min(16)]);
        }
    }
}
