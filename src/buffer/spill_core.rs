//! The swap file without the file: which blocks are whose, and how packets become bytes and packets again.
//!
//! The file is a header and blocks of equal size. A chunk (consecutive packets of one stream) lies in a chain of
//! blocks; the chain is one fixed-size table, as in a FAT. Blocks are taken and given back, never added. What
//! a chunk is and its checksum stay in RAM: the file means nothing to another process, or to this one after a
//! restart. Runs and formats are not written either: a chunk keeps a small table of them, and a packet its index.
//! Keeps PURE-CORE.

use std::sync::Arc;

use crate::media::packet::{Packet, Run, Track};

/// Blocks in a file. A larger file has larger blocks: 16 KiB up to 128 MiB, 128 KiB at 1 GiB.
pub const BLOCKS_MAX: usize = 8192;
const BLOCK_BYTES_MIN: u64 = 16 << 10;
const BLOCK_BYTES_STEP: u64 = 4096;
/// What stands before the first block: says whose file this is.
pub const HEADER_BYTES: u64 = 4096;
/// First bytes of every swap file. A file that begins otherwise is somebody else's and never written to.
pub const MAGIC: &[u8; 16] = b"LightNVR swap 1\n";
/// Different runs and formats in one chunk; a chunk ends where there would be one more.
const TABLE_MAX: usize = 8;
/// Bytes before each packet's data in a chunk.
pub const RECORD_BYTES: usize = 38;
const NONE: u16 = u16::MAX;
const _: () = assert!(BLOCKS_MAX < NONE as usize);

/// The block table of one file.
#[derive(Debug)]
pub struct Blocks {
    /// For each block the next one of its chain: of a chunk, or of those that are free.
    next: Box<heapless::Vec<u16, BLOCKS_MAX>>,
    free_head: u16,
    free: usize,
    block_bytes: u64,
}

/// A piece of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    pub at: u64,
    pub len: usize,
}

impl Blocks {
    /// The blocks of a file of `file_bytes`; `None` when not one fits.
    pub fn new(file_bytes: u64) -> Option<Self> {
        let room = file_bytes.checked_sub(HEADER_BYTES)?;
        let block_bytes = room
            .div_ceil(BLOCKS_MAX as u64)
            .next_multiple_of(BLOCK_BYTES_STEP)
            .max(BLOCK_BYTES_MIN);
        let count = u16::try_from(room / block_bytes).ok().filter(|count| *count > 0)?;
        let mut next = Box::new(heapless::Vec::new());
        for n in 1..=count {
            // Cannot fail: `block_bytes` was chosen so that at most BLOCKS_MAX fit.
            let _ = next.push(if n == count { NONE } else { n });
        }
        Some(Self { next, free_head: 0, free: usize::from(count), block_bytes })
    }

    /// Bytes in blocks that nobody uses.
    pub fn free_bytes(&self) -> u64 {
        self.free as u64 * self.block_bytes
    }

    /// Whether no chunk is left in the file.
    pub fn is_empty(&self) -> bool {
        self.free == self.next.len()
    }

    fn blocks_for(&self, bytes: usize) -> usize {
        (bytes as u64).div_ceil(self.block_bytes).max(1) as usize
    }

    /// Takes a chain for `bytes`; answers its first block, or `None` when too few are free.
    pub fn allocate(&mut self, bytes: usize) -> Option<u16> {
        let count = self.blocks_for(bytes);
        if count > self.free {
            return None;
        }
        let first = self.free_head;
        let mut last = first;
        for _ in 1..count {
            last = self.next[usize::from(last)];
        }
        self.free_head = std::mem::replace(&mut self.next[usize::from(last)], NONE);
        self.free -= count;
        Some(first)
    }

    /// Gives the chain back that begins with `first`.
    pub fn release(&mut self, first: u16) {
        let (mut last, mut count) = (first, 1);
        while self.next[usize::from(last)] != NONE {
            last = self.next[usize::from(last)];
            count += 1;
        }
        self.next[usize::from(last)] = self.free_head;
        self.free_head = first;
        self.free += count;
    }

    /// Where the `bytes` of the chain from `first` lie, neighbours joined.
    pub fn extents(&self, first: u16, bytes: usize) -> Vec<Extent> {
        let mut extents: Vec<Extent> = Vec::new();
        let (mut block, mut left) = (first, bytes);
        while left > 0 && block != NONE {
            let at = HEADER_BYTES + u64::from(block) * self.block_bytes;
            let len = left.min(usize::try_from(self.block_bytes).unwrap_or(usize::MAX));
            match extents.last_mut() {
                Some(last) if last.at + last.len as u64 == at => last.len += len,
                _ => extents.push(Extent { at, len }),
            }
            left -= len;
            block = self.next[usize::from(block)];
        }
        extents
    }
}

/// The runs and formats that the packets of a chunk refer to.
#[derive(Clone, Debug, Default)]
pub struct Table(heapless::Vec<(Arc<Run>, Track), TABLE_MAX>);

impl Table {
    fn find(&self, packet: &Packet) -> Option<u8> {
        let found =
            self.0.iter().position(|(run, track)| *run == packet.run && *track == packet.track);
        found.and_then(|at| u8::try_from(at).ok())
    }

    /// Makes sure that `packet` can refer to its run and format; false when the table is full.
    pub fn note(&mut self, packet: &Packet) -> bool {
        self.find(packet).is_some()
            || self.0.push((Arc::clone(&packet.run), packet.track.clone())).is_ok()
    }
}

/// Bytes that `packet` takes in a chunk.
pub fn encoded_bytes(packet: &Packet) -> usize {
    RECORD_BYTES + packet.data.len()
}

/// The packets as they stand in the file. Each must have been noted in `table`.
pub fn encode(packets: &[Arc<Packet>], table: &Table) -> Vec<u8> {
    let mut out = Vec::with_capacity(packets.iter().map(|packet| encoded_bytes(packet)).sum());
    for packet in packets {
        out.extend_from_slice(&packet.seq.to_le_bytes());
        for number in [packet.pts, packet.dts, packet.wall_ms] {
            out.extend_from_slice(&number.to_le_bytes());
        }
        let flags = u8::from(packet.is_key) | u8::from(packet.is_damaged) << 1;
        out.extend_from_slice(&[table.find(packet).unwrap_or(u8::MAX), flags]);
        // An access unit has at most PACKET_BYTES_MAX (8 MiB).
        out.extend_from_slice(&(packet.data.len() as u32).to_le_bytes());
        out.extend_from_slice(&packet.data);
    }
    out
}

/// The packets in `bytes`; `None` when anything does not fit.
pub fn decode(bytes: &[u8], table: &Table) -> Option<Vec<Packet>> {
    let mut packets = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let record;
        (record, rest) = rest.split_first_chunk::<RECORD_BYTES>()?;
        let number = |at: usize| record[at..at + 8].try_into().map(u64::from_le_bytes).ok();
        let signed = |at: usize| number(at).map(u64::cast_signed);
        let (run, track) = table.0.get(usize::from(record[32]))?;
        let len = u32::from_le_bytes(record[34..].try_into().ok()?) as usize;
        let data = rest.get(..len)?.to_vec();
        rest = &rest[len..];
        packets.push(Packet {
            seq: number(0)?,
            run: Arc::clone(run),
            track: track.clone(),
            pts: signed(8)?,
            dts: signed(16)?,
            is_key: record[33] & 1 != 0,
            is_damaged: record[33] & 2 != 0,
            wall_ms: signed(24)?,
            data,
        });
    }
    Some(packets)
}

/// CRC-32 of IEEE 802.3, reflected. Our own: a table of 256 numbers and five lines do some 300 MB/s on the
/// disk's thread, where 16 cameras bring 8 MB/s, so a package gains nothing.
pub fn crc32(bytes: &[u8]) -> u32 {
    let step =
        |crc: u32, byte: &u8| (crc >> 8) ^ CRC_TABLE[usize::from((crc ^ u32::from(*byte)) as u8)];
    !bytes.iter().fold(!0, step)
}

static CRC_TABLE: [u32; 256] = crc_table();

const fn crc_table() -> [u32; 256] {
    let mut table = [0_u32; 256];
    let mut n = 0;
    while n < 256 {
        let mut crc = n as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
            bit += 1;
        }
        table[n] = crc;
        n += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::buffer::buffer_tests::packet;

    #[test]
    fn the_checksum_is_the_one_of_the_standard() {
        // Check value of CRC-32/ISO-HDLC in the catalogue of parametrised CRC algorithms.
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
        assert_eq!(crc32(b""), 0);
    }

    #[test]
    fn a_file_of_any_size_has_blocks_that_fit() {
        assert!(Blocks::new(0).is_none() && Blocks::new(HEADER_BYTES + 100).is_none());
        for bytes in [1 << 20, 128 << 20, (1 << 30) + 5, 1 << 40] {
            let blocks = Blocks::new(bytes).expect("room");
            assert!(blocks.free_bytes() + HEADER_BYTES <= bytes);
            assert!(blocks.free_bytes() >= bytes / 100 * 97, "{bytes}: {blocks:?}");
        }
    }

    #[test]
    fn neighbours_are_one_extent() {
        let mut blocks = Blocks::new(1 << 20).expect("room");
        let first = blocks.allocate(40_000).expect("room");
        let want = Extent { at: HEADER_BYTES, len: 40_000 };
        assert_eq!(blocks.extents(first, 40_000), [want]);
    }

    proptest! {
        #[test]
        fn no_block_is_in_two_chains_and_all_come_back(
            steps in prop::collection::vec((any::<bool>(), 1_usize..200_000), 1..100),
        ) {
            let mut blocks = Blocks::new(1 << 20).expect("room");
            let all = blocks.free_bytes();
            let mut held: Vec<(u16, usize)> = Vec::new();
            for (is_release, bytes) in steps {
                if is_release && !held.is_empty() {
                    let (first, _) = held.remove(bytes % held.len());
                    blocks.release(first);
                } else if let Some(first) = blocks.allocate(bytes) {
                    held.push((first, bytes));
                } else {
                    prop_assert!(blocks.free_bytes() < bytes as u64);
                }
                let mut extents: Vec<Extent> = Vec::new();
                for (first, bytes) in &held {
                    let of_chain = blocks.extents(*first, *bytes);
                    prop_assert_eq!(of_chain.iter().map(|e| e.len).sum::<usize>(), *bytes);
                    extents.extend(of_chain);
                }
                extents.sort_by_key(|extent| extent.at);
                for pair in extents.windows(2) {
                    prop_assert!(pair[0].at + pair[0].len as u64 <= pair[1].at);
                }
            }
            for (first, _) in held {
                blocks.release(first);
            }
            prop_assert!(blocks.is_empty());
            prop_assert_eq!(blocks.free_bytes(), all);
        }

        #[test]
        fn packets_come_back_as_they_went_in(
            made in prop::collection::vec((any::<bool>(), 0_usize..300, any::<i64>()), 0..20),
        ) {
            let mut table = Table::default();
            let packets: Vec<Arc<Packet>> = made
                .into_iter()
                .map(|(is_key, len, pts)| Arc::new(Packet { pts, is_damaged: !is_key, ..packet(is_key, len) }))
                .collect();
            prop_assert!(packets.iter().all(|packet| table.note(packet)));
            let bytes = encode(&packets, &table);
            let back = decode(&bytes, &table).expect("it is whole");
            prop_assert_eq!(back.len(), packets.len());
            prop_assert!(back.iter().zip(&packets).all(|(a, b)| *a == **b));
        }

        #[test]
        fn any_bytes_decode_or_are_refused(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let mut table = Table::default();
            table.note(&packet(true, 1));
            let _ = decode(&bytes, &table);
        }
    }
}
