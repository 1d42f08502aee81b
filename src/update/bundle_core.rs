//! The bundle of an update: who signed it, for which board it is, and whether each byte is what was signed.
//!
//! In here: bytes in, a header or a refusal in words out. Pure. Nothing of a bundle is believed before its signature
//! (Ed25519, RFC 8032) is verified; it covers the header, and the header has the length and SHA-256 of each part. So no
//! bundle has to be in memory. Not in here: where the bytes come from and go to.
//!
//! Layout: `LNVRUPD1`, length of the header (u32, little-endian), header, 64 bytes of signature over all that, parts.
//! Made by `board/common/bundle.sh`.

use std::ops::Range;

use ring::digest::{Context, SHA256};
use ring::signature::{ED25519, UnparsedPublicKey};

/// A bundle begins so.
pub const MAGIC: &[u8; 8] = b"LNVRUPD1";
/// Bytes of a whole bundle.
pub const BUNDLE_BYTES_MAX: u64 = 256 << 20;
/// Bytes of the header's text: seven lines.
const HEADER_BYTES_MAX: usize = 2048;
const SIGNATURE_BYTES: usize = 64;
const LENGTH_BYTES: usize = 4;
/// After so many bytes a bundle has said who signed it and what it is.
pub const HEAD_BYTES_MAX: usize = MAGIC.len() + LENGTH_BYTES + HEADER_BYTES_MAX + SIGNATURE_BYTES;
/// First line of the header.
const FIRST_LINE: &str = "lightnvr-update 1";
/// Bytes of a slot's partition, as in `board/*/genimage.cfg`.
const ROOT_BYTES_MAX: u64 = 64 << 20;
/// Kernel and initramfs of two slots share the boot partition of 256 MiB with the firmware.
const BOOT_PART_BYTES_MAX: u64 = 48 << 20;

/// Public key of Ed25519.
pub type Key = [u8; 32];

/// Why a bundle is not taken, in words for the owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal(pub String);

fn refuse<T>(what: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal(what.into()))
}

/// A release: three numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version([u32; 3]);

impl Version {
    /// `0.5.1`; `None` for anything else.
    pub fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split('.');
        let mut number = || {
            let part = parts.next()?;
            let number: u32 = part.parse().ok()?;
            (number.to_string() == part).then_some(number)
        };
        let version = Self([number()?, number()?, number()?]);
        parts.next().is_none().then_some(version)
    }
}

impl std::fmt::Display for Version {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [major, minor, patch] = self.0;
        write!(f, "{major}.{minor}.{patch}")
    }
}

/// What a bundle brings, in the order in which it has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PartKind {
    Kernel,
    Initrd,
    Root,
}

/// All parts, in order.
pub const PART_KINDS: [PartKind; 3] = [PartKind::Kernel, PartKind::Initrd, PartKind::Root];

impl PartKind {
    /// Its name in the header and in messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kernel => "kernel",
            Self::Initrd => "initrd",
            Self::Root => "root",
        }
    }

    fn bytes_max(self) -> u64 {
        match self {
            Self::Kernel | Self::Initrd => BOOT_PART_BYTES_MAX,
            Self::Root => ROOT_BYTES_MAX,
        }
    }
}

/// One part: its length in bytes, and what it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    pub kind: PartKind,
    pub size: u64,
    pub sha256: [u8; 32],
}

/// What was signed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Header {
    pub board: String,
    pub version: Version,
    /// The oldest schema whose program still opens a store that this version has written.
    pub store_back: u64,
    pub parts: [Part; 3],
    /// Where the first part begins.
    pub length: u64,
}

/// The device that a bundle is for, or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    /// `None`: its image was built without a key, and takes no update.
    pub key: Option<Key>,
    pub board: String,
    pub version: Version,
    /// Schema of the store that its present version writes.
    pub store_schema: u64,
}

/// Says of a bundle of `total` bytes whether this device may take it. `None` while `bytes`, its start, is too short to
/// say; [`HEAD_BYTES_MAX`] bytes are enough.
pub fn read_head(bytes: &[u8], total: u64, device: &Device) -> Result<Option<Header>, Refusal> {
    let Some(key) = &device.key else {
        return refuse(
            "this image was built without a key, so it takes no updates: flash a new one",
        );
    };
    let known = bytes.len().min(MAGIC.len());
    if bytes[..known] != MAGIC[..known] {
        return refuse(
            "this is no LightNVR update (it is a file *.update, not the image for a card)",
        );
    }
    let Some(length) = bytes.get(MAGIC.len()..MAGIC.len() + LENGTH_BYTES) else { return Ok(None) };
    let length = length.iter().rev().fold(0_usize, |sum, byte| (sum << 8) | usize::from(*byte));
    if length > HEADER_BYTES_MAX {
        return refuse("the update is damaged: its header has no sensible length");
    }
    let signed = MAGIC.len() + LENGTH_BYTES + length;
    let Some(signature) = bytes.get(signed..signed + SIGNATURE_BYTES) else { return Ok(None) };
    if UnparsedPublicKey::new(&ED25519, key).verify(&bytes[..signed], signature).is_err() {
        return refuse(
            "the update is damaged, or not signed with the key that this device knows: its signature does not fit",
        );
    }
    // From here on it is what the holder of the key wrote.
    let text = std::str::from_utf8(&bytes[MAGIC.len() + LENGTH_BYTES..signed]).ok();
    let length = (signed + SIGNATURE_BYTES) as u64;
    let Some(header) = text.and_then(|text| parse(text, length)) else {
        return refuse("the update has a header that this version does not understand");
    };
    check_fits(&header, total, device)?;
    Ok(Some(header))
}

fn check_fits(header: &Header, total: u64, device: &Device) -> Result<(), Refusal> {
    if header.board != device.board {
        return refuse(format!(
            "the update is for the board {}, this device is {}",
            header.board, device.board
        ));
    }
    if header.version < device.version {
        return refuse(format!(
            "the update is version {}, older than the present {}: an older version may lack repairs, so it is not installed",
            header.version, device.version
        ));
    }
    if header.store_back > device.store_schema {
        return refuse(format!(
            "version {} would leave settings and recordings in a form that {} could not read if it had to come back: \
             install a version in between first",
            header.version, device.version
        ));
    }
    for part in header.parts {
        let max = part.kind.bytes_max();
        if part.size == 0 || part.size > max {
            let name = part.kind.name();
            return refuse(format!(
                "the update's {name} has {} bytes, at most {max} fit",
                part.size
            ));
        }
    }
    let want = header.length + header.parts.iter().map(|part| part.size).sum::<u64>();
    if want != total {
        return refuse(format!(
            "the update has {total} bytes, {want} were signed: it is not whole"
        ));
    }
    Ok(())
}

/// Lines that follow the known ones are of a later version and say nothing that this one must know.
fn parse(text: &str, length: u64) -> Option<Header> {
    let mut lines = text.lines();
    if lines.next()? != FIRST_LINE {
        return None;
    }
    let mut value = |name: &str| lines.next()?.strip_prefix(name)?.strip_prefix('=');
    let board = value("board")?.to_owned();
    let version = Version::parse(value("version")?)?;
    let store_back = value("store")?.parse().ok()?;
    let mut part = |kind: PartKind| {
        let (size, sha256) = value(kind.name())?.split_once(' ')?;
        Some(Part { kind, size: size.parse().ok()?, sha256: parse_hex(sha256)? })
    };
    let parts = [part(PartKind::Kernel)?, part(PartKind::Initrd)?, part(PartKind::Root)?];
    Some(Header { board, version, store_back, parts, length })
}

/// 32 bytes as 64 hexadecimal digits.
pub fn parse_hex(text: &str) -> Option<[u8; 32]> {
    let text = text.trim_ascii();
    if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return None;
    }
    let mut out = [0; 32];
    for (n, byte) in out.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * n..2 * n + 2)?, 16).ok()?;
    }
    Some(out)
}

impl Header {
    /// Where a part is in the bundle.
    pub fn range(&self, kind: PartKind) -> Range<u64> {
        let mut at = self.length;
        for part in self.parts {
            if part.kind == kind {
                return at..at + part.size;
            }
            at += part.size;
        }
        at..at
    }

    /// The part of this kind.
    pub fn part(&self, kind: PartKind) -> Part {
        self.parts[kind as usize]
    }
}

/// Holds the bytes of one part against its digest, as they come.
pub struct PartCheck {
    part: Part,
    seen: u64,
    sum: Context,
}

impl PartCheck {
    pub fn new(part: Part) -> Self {
        Self { part, seen: 0, sum: Context::new(&SHA256) }
    }

    /// Takes the part's next bytes; answers how many of them are still its own.
    pub fn feed(&mut self, bytes: &[u8]) -> usize {
        let left = self.part.size - self.seen;
        let own = bytes.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        self.sum.update(&bytes[..own]);
        self.seen += own as u64;
        own
    }

    /// The part has all its bytes.
    pub fn is_whole(&self) -> bool {
        self.seen == self.part.size
    }

    /// Whether all bytes came and are what was signed.
    pub fn finish(self) -> Result<(), Refusal> {
        let name = self.part.kind.name();
        if !self.is_whole() {
            return refuse(format!("the update is not whole: its {name} ends early"));
        }
        if self.sum.finish().as_ref() != self.part.sha256 {
            return refuse(format!("the update is damaged: its {name} is not what was signed"));
        }
        Ok(())
    }
}

/// Holds all parts of a bundle against its header, as the bytes behind the head come.
pub struct PayloadCheck {
    left: Vec<Part>,
    now: Option<PartCheck>,
}

impl PayloadCheck {
    pub fn new(header: &Header) -> Self {
        Self { left: header.parts.iter().rev().copied().collect(), now: None }
    }

    /// Takes the next bytes. A part that is not what was signed is said at its end.
    pub fn feed(&mut self, mut bytes: &[u8]) -> Result<(), Refusal> {
        while !bytes.is_empty() {
            let Some(mut now) = self.now.take().or_else(|| self.left.pop().map(PartCheck::new))
            else {
                return refuse("the update has bytes behind its end");
            };
            let own = now.feed(bytes);
            bytes = &bytes[own..];
            if now.is_whole() {
                now.finish()?;
            } else {
                self.now = Some(now);
            }
        }
        Ok(())
    }

    /// Whether every part was whole.
    pub fn finish(self) -> Result<(), Refusal> {
        match (self.now, self.left.last()) {
            (Some(now), _) => now.finish(),
            (None, Some(part)) => PartCheck::new(*part).finish(),
            (None, None) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use ring::digest::digest;
    use ring::signature::{Ed25519KeyPair, KeyPair};

    use super::*;

    const BOARD: &str = "virt-arm64";

    fn pair(seed: u8) -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&[seed; 32]).expect("any seed is a key")
    }

    fn device() -> Device {
        let key = pair(7).public_key().as_ref().try_into().expect("32 bytes");
        let version = Version::parse("0.5.1").expect("a version");
        Device { key: Some(key), board: BOARD.to_owned(), version, store_schema: 1 }
    }

    fn hex(bytes: &[u8]) -> String {
        bytes.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    fn header_text(board: &str, version: &str, store: u64, parts: &[(&str, &[u8])]) -> String {
        let mut text = format!("{FIRST_LINE}\nboard={board}\nversion={version}\nstore={store}\n");
        for (name, data) in parts {
            text += &format!("{name}={} {}\n", data.len(), hex(digest(&SHA256, data).as_ref()));
        }
        text
    }

    fn sign(text: &str, parts: &[(&str, &[u8])], seed: u8) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend_from_slice(&(text.len() as u32).to_le_bytes());
        out.extend_from_slice(text.as_bytes());
        let signature = pair(seed).sign(&out);
        out.extend_from_slice(signature.as_ref());
        parts.iter().for_each(|(_, data)| out.extend_from_slice(data));
        out
    }

    const PARTS: [(&str, &[u8]); 3] =
        [("kernel", b"kernel"), ("initrd", b"first"), ("root", b"the root file system")];

    fn bundle(board: &str, version: &str, store: u64) -> Vec<u8> {
        sign(&header_text(board, version, store, &PARTS), &PARTS, 7)
    }

    /// The whole way of a bundle, in pieces of so many bytes.
    fn take(bundle: &[u8], device: &Device, piece: usize) -> Result<Header, Refusal> {
        let total = bundle.len() as u64;
        let Some(header) = read_head(&bundle[..bundle.len().min(HEAD_BYTES_MAX)], total, device)?
        else {
            return refuse("short");
        };
        let mut check = PayloadCheck::new(&header);
        for piece in bundle[header.length as usize..].chunks(piece) {
            check.feed(piece)?;
        }
        check.finish().map(|()| header)
    }

    #[track_caller]
    fn check_refused(bundle: &[u8], part: &str) {
        let Refusal(said) = take(bundle, &device(), 7).expect_err("it is refused");
        assert!(said.contains(part), "{said}");
    }

    #[test]
    fn a_good_bundle_is_taken_and_its_parts_are_found() {
        for version in ["0.5.1", "0.5.2", "1.0.0"] {
            let whole = bundle(BOARD, version, 1);
            let header = take(&whole, &device(), 5).expect("it is good");
            assert_eq!(header.version.to_string(), version);
            for (kind, (_, data)) in PART_KINDS.into_iter().zip(PARTS) {
                let range = header.range(kind);
                assert_eq!(&whole[range.start as usize..range.end as usize], data);
                assert_eq!(header.part(kind).kind, kind);
            }
        }
    }

    #[test]
    fn each_reason_is_said() {
        check_refused(
            &bundle("rpi-arm64", "0.6.0", 1),
            "for the board rpi-arm64, this device is virt-arm64",
        );
        check_refused(&bundle(BOARD, "0.5.0", 1), "version 0.5.0, older than the present 0.5.1");
        check_refused(&bundle(BOARD, "0.6.0", 2), "install a version in between first");
        check_refused(b"\xfd7zXZ\x00\x00\x04 an image", "no LightNVR update");
        let whole = bundle(BOARD, "0.6.0", 1);
        check_refused(&whole[..whole.len() - 1], "it is not whole");
        check_refused(&[&whole[..], b"x"].concat(), "it is not whole");
        check_refused(
            &sign(&header_text(BOARD, "0.6.0", 1, &PARTS), &PARTS, 8),
            "not signed with the key",
        );
        check_refused(&sign("lightnvr-update 2\n", &[], 7), "does not understand");
        let empty = [PARTS[0], PARTS[1], ("root", &b""[..])];
        check_refused(
            &sign(&header_text(BOARD, "0.6.0", 1, &empty), &empty, 7),
            "root has 0 bytes",
        );
        let no_key = Device { key: None, ..device() };
        let Refusal(said) = take(&whole, &no_key, 64).expect_err("there is no key");
        assert!(said.contains("without a key"), "{said}");
    }

    #[test]
    fn any_flipped_bit_is_found() {
        let whole = bundle(BOARD, "0.6.0", 1);
        for at in 0..whole.len() {
            for bit in 0..8 {
                let mut flipped = whole.clone();
                flipped[at] ^= 1 << bit;
                assert!(take(&flipped, &device(), 16).is_err(), "byte {at}, bit {bit}");
            }
        }
    }

    #[test]
    fn versions_are_three_plain_numbers_in_their_order() {
        let version = |text| Version::parse(text);
        assert!(version("0.10.0") > version("0.9.9") && version("1.0.0") > version("0.99.99"));
        for text in ["", "1", "1.2", "1.2.3.4", "1.2.3-rc1", "01.2.3", "+1.2.3", "1.2.4294967296"] {
            assert_eq!(version(text), None, "{text}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..200), total: u64) {
            let magic = [&MAGIC[..], &bytes].concat();
            let _ = read_head(&bytes, total, &device());
            prop_assert!(!matches!(read_head(&magic, total, &device()), Ok(Some(_))));
            let text = String::from_utf8_lossy(&bytes);
            let _ = parse(&format!("{FIRST_LINE}\n{text}"), 0);
        }
    }
}
