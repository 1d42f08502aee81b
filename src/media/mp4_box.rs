//! Boxes of ISO/IEC 14496-12 section 4.2: writing them around a body, walking over them.
//!
//! In here: size and type. Not in here: what a box means. Walking is bounded by the bytes at hand
//! and ends at the first box that does not fit, whatever a hostile file claims.

/// Writes a box around what `body` writes.
pub fn write_box(out: &mut Vec<u8>, kind: &[u8; 4], body: impl FnOnce(&mut Vec<u8>)) {
    let at = out.len();
    out.extend_from_slice(&[0; 4]);
    out.extend_from_slice(kind);
    body(out);
    let size = u32::try_from(out.len() - at).expect("heads of files and fragments are under 4 GiB");
    out[at..at + 4].copy_from_slice(&size.to_be_bytes());
}

/// The same for a box with version and flags.
pub fn write_full_box(
    out: &mut Vec<u8>,
    kind: &[u8; 4],
    version: u8,
    flags: u32,
    body: impl FnOnce(&mut Vec<u8>),
) {
    write_box(out, kind, |out| {
        push_u32(out, u32::from(version) << 24 | flags);
        body(out);
    });
}

/// Appends big-endian numbers.
pub fn push_u16(out: &mut Vec<u8>, value: u16) {
    out.extend_from_slice(&value.to_be_bytes());
}

/// See `push_u16`.
pub fn push_u32(out: &mut Vec<u8>, value: u32) {
    out.extend_from_slice(&value.to_be_bytes());
}

/// See `push_u16`.
pub fn push_u64(out: &mut Vec<u8>, value: u64) {
    out.extend_from_slice(&value.to_be_bytes());
}

/// Head of a box as it stands in a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BoxHead {
    pub kind: [u8; 4],
    /// 8, or 16 with a 64-bit size.
    pub head_len: u64,
    /// With the head, at least `head_len`.
    pub size: u64,
}

impl BoxHead {
    /// Parses the head of a box. `None`: cut off, a size below the head, or the size 0 (up to the
    /// end of the file), which a writer that appends fragments never uses.
    pub fn parse(data: &[u8]) -> Option<BoxHead> {
        let mut cursor = Cursor::new(data);
        let short = cursor.u32()?;
        let kind = *cursor.take(4)?.first_chunk()?;
        let (head_len, size) = if short == 1 { (16, cursor.u64()?) } else { (8, u64::from(short)) };
        (size >= head_len).then_some(BoxHead { kind, head_len, size })
    }
}

/// The boxes in `data`: type, offset of the body in `data`, body.
pub fn boxes(data: &[u8]) -> impl Iterator<Item = ([u8; 4], usize, &[u8])> {
    let mut at = 0;
    std::iter::from_fn(move || {
        let rest = data.get(at..)?;
        let head = BoxHead::parse(rest)?;
        let size = usize::try_from(head.size).ok()?;
        let body = rest.get(head.head_len as usize..size)?;
        let body_at = at + head.head_len as usize;
        at += size;
        Some((head.kind, body_at, body))
    })
}

/// Reads big-endian numbers; `None` past the end.
pub struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    /// Starts at the first byte.
    pub fn new(data: &'a [u8]) -> Self {
        Self { rest: data }
    }

    /// What is not read yet.
    pub fn rest(&self) -> &'a [u8] {
        self.rest
    }

    /// The next `count` bytes.
    pub fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count)?;
        self.rest = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.first_chunk().copied()
    }

    pub fn u8(&mut self) -> Option<u8> {
        self.array().map(u8::from_be_bytes)
    }

    pub fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    pub fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }
}
