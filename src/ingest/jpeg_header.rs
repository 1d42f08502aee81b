//! The JPEG headers that RTP leaves out (RFC 2435 appendices A and B).
//!
//! In here: SOI up to SOS from what the payload header says. Not in here: packets
//! (`depacketize_mjpeg.rs`).

/// Base quantization tables in zigzag order (ITU-T T.81 tables K.1 and K.2).
#[rustfmt::skip]
const LUMA_QUANTIZERS: [u8; 64] = [
    16, 11, 12, 14, 12, 10, 16, 14, 13, 14, 18, 17, 16, 19, 24, 40,
    26, 24, 22, 22, 24, 49, 35, 37, 29, 40, 58, 51, 61, 60, 57, 51,
    56, 55, 64, 72, 92, 78, 64, 68, 87, 69, 55, 56, 80, 109, 81, 87,
    95, 98, 103, 104, 103, 62, 77, 113, 121, 112, 100, 120, 92, 101, 103, 99,
];
#[rustfmt::skip]
const CHROMA_QUANTIZERS: [u8; 64] = [
    17, 18, 18, 24, 21, 24, 47, 26, 26, 47, 99, 66, 56, 66, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
    99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99, 99,
];
/// Bodies of the Huffman tables (T.81 tables K.3 to K.6): class and number, 16 counts, symbols.
#[rustfmt::skip]
const LUMA_DC: [u8; 29] = [
    0, 0, 1, 5, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0, 0, 0,
    0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0x0a, 0x0b,
];
#[rustfmt::skip]
const LUMA_AC: [u8; 179] = [
    0x10, 0, 2, 1, 3, 3, 2, 4, 3, 5, 5, 4, 4, 0, 0, 1,
    0x7d, 1, 2, 3, 0, 4, 0x11, 5, 0x12, 0x21, 0x31, 0x41, 6, 0x13, 0x51, 0x61,
    7, 0x22, 0x71, 0x14, 0x32, 0x81, 0x91, 0xa1, 8, 0x23, 0x42, 0xb1, 0xc1, 0x15, 0x52, 0xd1,
    0xf0, 0x24, 0x33, 0x62, 0x72, 0x82, 9, 0x0a, 0x16, 0x17, 0x18, 0x19, 0x1a, 0x25, 0x26, 0x27,
    0x28, 0x29, 0x2a, 0x34, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3a, 0x43, 0x44, 0x45, 0x46, 0x47, 0x48,
    0x49, 0x4a, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59, 0x5a, 0x63, 0x64, 0x65, 0x66, 0x67, 0x68,
    0x69, 0x6a, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7a, 0x83, 0x84, 0x85, 0x86, 0x87, 0x88,
    0x89, 0x8a, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9a, 0xa2, 0xa3, 0xa4, 0xa5, 0xa6,
    0xa7, 0xa8, 0xa9, 0xaa, 0xb2, 0xb3, 0xb4, 0xb5, 0xb6, 0xb7, 0xb8, 0xb9, 0xba, 0xc2, 0xc3, 0xc4,
    0xc5, 0xc6, 0xc7, 0xc8, 0xc9, 0xca, 0xd2, 0xd3, 0xd4, 0xd5, 0xd6, 0xd7, 0xd8, 0xd9, 0xda, 0xe1,
    0xe2, 0xe3, 0xe4, 0xe5, 0xe6, 0xe7, 0xe8, 0xe9, 0xea, 0xf1, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7,
    0xf8, 0xf9, 0xfa,
];
#[rustfmt::skip]
const CHROMA_DC: [u8; 29] = [
    1, 0, 3, 1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0, 0,
    0, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0x0a, 0x0b,
];
#[rustfmt::skip]
const CHROMA_AC: [u8; 179] = [
    0x11, 0, 2, 1, 2, 4, 4, 3, 4, 7, 5, 4, 4, 0, 1, 2,
    0x77, 0, 1, 2, 3, 0x11, 4, 5, 0x21, 0x31, 6, 0x12, 0x41, 0x51, 7, 0x61,
    0x71, 0x13, 0x22, 0x32, 0x81, 8, 0x14, 0x42, 0x91, 0xa1, 0xb1, 0xc1, 9, 0x23, 0x33, 0x52,
    0xf0, 0x15, 0x62, 0x72, 0xd1, 0x0a, 0x16, 0x24, 0x34, 0xe1, 0x25, 0xf1, 0x17, 0x18, 0x19, 0x1a,
    0x26, 0x27, 0x28, 0x29, 0x2a, 0x35, 0x36, 0x37, 0x38, 0x39, 0x3a, 0x43, 0x44, 0x45, 0x46, 0x47,
    0x48, 0x49, 0x4a, 0x53, 0x54, 0x55, 0x56, 0x57, 0x58, 0x59, 0x5a, 0x63, 0x64, 0x65, 0x66, 0x67,
    0x68, 0x69, 0x6a, 0x73, 0x74, 0x75, 0x76, 0x77, 0x78, 0x79, 0x7a, 0x82, 0x83, 0x84, 0x85, 0x86,
    0x87, 0x88, 0x89, 0x8a, 0x92, 0x93, 0x94, 0x95, 0x96, 0x97, 0x98, 0x99, 0x9a, 0xa2, 0xa3, 0xa4,
    0xa5, 0xa6, 0xa7, 0xa8, 0xa9, 0xaa, 0xb2, 0xb3, 0xb4, 0xb5, 0xb6, 0xb7, 0xb8, 0xb9, 0xba, 0xc2,
    0xc3, 0xc4, 0xc5, 0xc6, 0xc7, 0xc8, 0xc9, 0xca, 0xd2, 0xd3, 0xd4, 0xd5, 0xd6, 0xd7, 0xd8, 0xd9,
    0xda, 0xe2, 0xe3, 0xe4, 0xe5, 0xe6, 0xe7, 0xe8, 0xe9, 0xea, 0xf2, 0xf3, 0xf4, 0xf5, 0xf6, 0xf7,
    0xf8, 0xf9, 0xfa,
];

/// What the headers are made from.
#[derive(Clone, Copy, Debug)]
pub struct Picture<'a> {
    pub width: u16,
    pub height: u16,
    /// RFC 2435 type 1: chroma halved in both directions; else (type 0) only horizontally.
    pub is_420: bool,
    /// MCUs between restart markers, 0 for none.
    pub restart_interval: u16,
    /// Tables of 64 bytes, or of 128 for 16 bits; of luma and chroma, or one for both.
    pub quantizers: &'a [u8],
    /// Bit n: table n has 16 bits.
    pub precision: u8,
}

/// Quantization tables of a quality from 1 to 99 (RFC 2435 appendix A).
pub fn quantizers(quality: u8) -> [u8; 128] {
    let quality = u32::from(quality.clamp(1, 99));
    let factor = if quality < 50 { 5000 / quality } else { 200 - quality * 2 };
    let mut tables = [0; 128];
    let bases = LUMA_QUANTIZERS.iter().chain(&CHROMA_QUANTIZERS);
    for (out, &base) in tables.iter_mut().zip(bases) {
        *out = ((u32::from(base) * factor + 50) / 100).clamp(1, 255) as u8;
    }
    tables
}

/// Appends everything in front of the entropy-coded data.
pub fn push_headers(out: &mut Vec<u8>, picture: &Picture<'_>) {
    out.extend_from_slice(&[0xff, 0xd8]);
    segment(out, 0xe0, b"JFIF\0\x01\x01\0\0\x01\0\x01\0\0");
    let mut rest = picture.quantizers;
    let mut tables = 0;
    while tables < 2 {
        let is_wide = picture.precision >> tables & 1 != 0;
        let Some((table, after)) = rest.split_at_checked(if is_wide { 128 } else { 64 }) else {
            break;
        };
        let mut body = vec![u8::from(is_wide) << 4 | tables];
        body.extend_from_slice(table);
        segment(out, 0xdb, &body);
        (rest, tables) = (after, tables + 1);
    }
    if picture.restart_interval != 0 {
        segment(out, 0xdd, &picture.restart_interval.to_be_bytes());
    }
    let [h0, h1] = picture.height.to_be_bytes();
    let [w0, w1] = picture.width.to_be_bytes();
    let luma = if picture.is_420 { 0x22 } else { 0x21 };
    let chroma = tables.saturating_sub(1);
    let frame = [8, h0, h1, w0, w1, 3, 1, luma, 0, 2, 0x11, chroma, 3, 0x11, chroma];
    segment(out, 0xc0, &frame);
    push_huffman_tables(out);
    segment(out, 0xda, &[3, 1, 0, 2, 0x11, 3, 0x11, 0, 63, 0]);
}

fn push_huffman_tables(out: &mut Vec<u8>) {
    for table in [&LUMA_DC[..], &LUMA_AC, &CHROMA_DC, &CHROMA_AC] {
        segment(out, 0xc4, table);
    }
}

fn segment(out: &mut Vec<u8>, marker: u8, body: &[u8]) {
    out.extend_from_slice(&[0xff, marker]);
    out.extend_from_slice(&(body.len() as u16 + 2).to_be_bytes());
    out.extend_from_slice(body);
}

/// A JPEG as a camera's chip makes it, made whole.
#[derive(Debug, PartialEq, Eq)]
pub struct Whole {
    pub data: Vec<u8>,
    pub width: u16,
    pub height: u16,
    /// Its end was missing.
    pub is_cut: bool,
}

/// Puts the Huffman tables in that most USB cameras leave out (USB Video Class, Motion-JPEG payload, section 2.1: they
/// are the typical ones), and an end where there is none. What lies behind the end goes: zeros, or the rest of an older
/// picture in a buffer whose driver says that all of it is used. `None` for what is no picture.
pub fn whole(mut data: Vec<u8>) -> Option<Whole> {
    if !data.starts_with(&[0xff, 0xd8]) {
        return None;
    }
    let (width, height) = frame_size(&data).filter(|&(width, height)| width > 0 && height > 0)?;
    let (scan_at, has_tables) = find_scan(&data)?;
    // In coded data 0xff comes with another byte behind it (T.81, B.1.1.5).
    let end = data[scan_at..].windows(2).position(|two| two == [0xff, 0xd9]);
    let is_cut = end.is_none();
    if let Some(end) = end {
        data.truncate(scan_at + end + 2);
    } else {
        let end = data.iter().rposition(|&byte| byte != 0)? + 1;
        data.truncate(end.max(scan_at));
        data.extend_from_slice(&[0xff, 0xd9]);
    }
    if !has_tables {
        let mut tables = Vec::new();
        push_huffman_tables(&mut tables);
        data.splice(scan_at..scan_at, tables);
    }
    Some(Whole { data, width, height, is_cut })
}

/// Where the first scan's header begins, and whether Huffman tables come before it.
fn find_scan(data: &[u8]) -> Option<(usize, bool)> {
    let mut at = 2;
    let mut has_tables = false;
    loop {
        match *data.get(at..)? {
            [0xff, 0xff, ..] => at += 1,
            [0xff, 0xda, ..] => return Some((at, has_tables)),
            [0xff, marker, l0, l1, ..] => {
                has_tables |= marker == 0xc4;
                at += 2 + usize::from(u16::from_be_bytes([l0, l1])).max(2);
            }
            _ => return None,
        }
    }
}

/// Width and height in a frame header among JPEG marker segments.
pub fn frame_size(mut segments: &[u8]) -> Option<(u16, u16)> {
    loop {
        match *segments {
            [0xff, 0xff, ..] => segments = &segments[1..],
            [0xff, 0xd8, ..] => segments = &segments[2..],
            [0xff, marker, l0, l1, ref body @ ..] => {
                if (0xc0..=0xc2).contains(&marker)
                    && let [_, h0, h1, w0, w1, ..] = *body
                {
                    return Some((u16::from_be_bytes([w0, w1]), u16::from_be_bytes([h0, h1])));
                }
                let length = usize::from(u16::from_be_bytes([l0, l1]));
                segments = segments.get(2 + length.max(2)..)?;
            }
            _ => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Headers with a scan of three bytes, as RTP's are made.
    fn picture() -> Vec<u8> {
        let quantizers = quantizers(75);
        let mut data = Vec::new();
        let picture = Picture {
            width: 64,
            height: 48,
            is_420: true,
            restart_interval: 0,
            quantizers: &quantizers,
            precision: 0,
        };
        push_headers(&mut data, &picture);
        data.extend_from_slice(&[1, 2, 3, 0xff, 0xd9]);
        data
    }

    /// Without the segments of this marker.
    fn without(data: &[u8], marker: u8) -> Vec<u8> {
        let mut out = data[..2].to_vec();
        let mut at = 2;
        while data[at + 1] != 0xda {
            let end = at + 2 + usize::from(u16::from_be_bytes([data[at + 2], data[at + 3]]));
            if data[at + 1] != marker {
                out.extend_from_slice(&data[at..end]);
            }
            at = end;
        }
        out.extend_from_slice(&data[at..]);
        out
    }

    #[test]
    fn a_whole_picture_stays_as_it_is() {
        let got = whole(picture()).expect("a picture");
        assert_eq!((got.width, got.height, got.is_cut), (64, 48, false));
        assert_eq!(got.data, picture());
    }

    #[test]
    fn tables_that_a_usb_camera_leaves_out_are_put_in() {
        let bare = without(&picture(), 0xc4);
        assert!(bare.len() + 400 < picture().len());
        assert_eq!(whole(bare).expect("a picture").data, picture());
    }

    #[test]
    fn what_is_behind_the_end_goes_and_a_missing_end_is_said() {
        for behind in [vec![0; 50], vec![5, 6, 0xff, 0xd9], picture()] {
            let got = whole([picture(), behind].concat()).expect("a picture");
            assert_eq!((got.data, got.is_cut), (picture(), false));
        }
        let mut cut = picture();
        cut.truncate(cut.len() - 3);
        let got = whole(cut).expect("half a picture");
        assert!(got.is_cut && got.data.ends_with(&[1, 2, 0xff, 0xd9]));
        for nothing in [&[][..], &[0xff, 0xd8], &[0; 100], &picture()[..100]] {
            assert_eq!(whole(nothing.to_vec()), None);
        }
        assert_eq!(whole(without(&picture(), 0xc0)), None, "no size");
    }

    proptest! {
        #[test]
        fn any_bytes_are_survived(
            at in 0usize..700, bytes in proptest::collection::vec(any::<u8>(), 0..20), cut in 0usize..700,
        ) {
            let mut data = picture();
            for (n, byte) in bytes.into_iter().enumerate() {
                if let Some(place) = data.get_mut(at + n) {
                    *place = byte;
                }
            }
            data.truncate(cut);
            if let Some(whole) = whole(data) {
                prop_assert!(whole.data.starts_with(&[0xff, 0xd8]) && whole.data.ends_with(&[0xff, 0xd9]));
            }
        }
    }
}
