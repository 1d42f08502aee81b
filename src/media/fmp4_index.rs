//! The index of a finished recording: a `sidx` box (ISO/IEC 14496-12 section 8.16.3).
//!
//! In here: the bytes that take the place of the `free` box in the head of the file. Not in here:
//! when that happens (record/), and what the fragments are (`fmp4_fragment.rs`).

use super::fmp4::VIDEO_TRACK_ID;
use super::format::VIDEO_TIMESCALE;
use super::mp4_box::{Cursor, push_u16, push_u32, push_u64, write_box, write_full_box};

/// `sidx` version 1 without entries: head 8, version 4, ids 8, times 16, counts 4.
const SIDX_BYTES: usize = 40;
const ENTRY_BYTES: usize = 12;
/// The `free` box behind it, which takes what is left of the room.
const FREE_BYTES: usize = 8;
/// `reference_count` has 16 bits.
pub const INDEX_SLOTS_MAX: usize = u16::MAX as usize;
/// `referenced_size` has 31 bits.
const REFERENCED_BYTES_MAX: u32 = (1 << 31) - 1;
/// `starts_with_SAP`, SAP type 1: decoding starts at the first sample, and nothing in front of it
/// shows.
const SAP_KEY: u32 = 0x9000_0000;

/// One fragment, or several merged, as the index lists it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct IndexEntry {
    /// Of `moof` and `mdat` together.
    pub bytes: u32,
    /// In video ticks, up to the start of the next one.
    pub duration: u32,
    pub starts_with_key: bool,
}

impl IndexEntry {
    /// This entry and the one behind it as one. Sizes that don't fit stay at the maximum, and
    /// `encode_index` refuses them.
    pub fn merge(self, next: IndexEntry) -> IndexEntry {
        IndexEntry {
            bytes: self.bytes.saturating_add(next.bytes),
            duration: self.duration.saturating_add(next.duration),
            starts_with_key: self.starts_with_key,
        }
    }
}

/// How many bytes the head of a file keeps free for an index of `slots` entries.
pub const fn index_bytes(slots: usize) -> usize {
    let slots = if slots < INDEX_SLOTS_MAX { slots } else { INDEX_SLOTS_MAX };
    SIDX_BYTES + ENTRY_BYTES * slots + FREE_BYTES
}

/// Exactly `index_bytes(slots)` bytes: a `sidx` and a `free` box with what is left.
///
/// The fragments must follow without a gap, up to the end of the file. A fragment that starts
/// without a key is merged with the one in front of it: ffmpeg seeks to the entry in which a time
/// lies, finds no key there, and plays from the very beginning. Then neighbours are merged evenly
/// until all fit. `earliest_pts` is the presentation time of the first picture, in video ticks.
/// Without entries, or when a merged one is over 2 GiB, all of it is `free`: no index is better
/// than a wrong one.
pub fn encode_index(entries: &[IndexEntry], slots: usize, earliest_pts: u64) -> Vec<u8> {
    let slots = slots.min(INDEX_SLOTS_MAX);
    let room = index_bytes(slots);
    let entries = &merge_to_keys(entries);
    let count = entries.len().min(slots);
    let mut out = Vec::with_capacity(room);
    if count > 0 {
        let free_bytes = FREE_BYTES + ENTRY_BYTES * (slots - count);
        write_full_box(&mut out, b"sidx", 1, 0, |out| {
            push_u32(out, VIDEO_TRACK_ID);
            push_u32(out, VIDEO_TIMESCALE);
            push_u64(out, earliest_pts);
            push_u64(out, free_bytes as u64); // first_offset
            push_u16(out, 0);
            push_u16(out, count as u16); // <= INDEX_SLOTS_MAX
            for slot in 0..count {
                let merged = merge_range(entries, slot, count);
                if merged.bytes > REFERENCED_BYTES_MAX {
                    return;
                }
                push_u32(out, merged.bytes);
                push_u32(out, merged.duration);
                push_u32(out, if merged.starts_with_key { SAP_KEY } else { 0 });
            }
        });
        if out.len() + free_bytes != room {
            out.clear(); // an entry did not fit into its field
        }
    }
    let free_bytes = room - out.len();
    write_box(&mut out, b"free", |out| out.resize(out.len() + free_bytes - FREE_BYTES, 0));
    out
}

/// One entry per key, the first one whatever it starts with.
fn merge_to_keys(entries: &[IndexEntry]) -> Vec<IndexEntry> {
    let mut merged: Vec<IndexEntry> = Vec::with_capacity(entries.len());
    for &entry in entries {
        match merged.last_mut().filter(|_| !entry.starts_with_key) {
            Some(last) => *last = last.merge(entry),
            None => merged.push(entry),
        }
    }
    merged
}

/// All entries that share the slot `slot` of `count`.
fn merge_range(entries: &[IndexEntry], slot: usize, count: usize) -> IndexEntry {
    let bound = |slot: usize| slot * entries.len() / count; // both under 2^17 or so
    let own = &entries[bound(slot)..bound(slot + 1)];
    own[1..].iter().fold(own[0], |merged, &next| merged.merge(next))
}

/// Halves the number of entries: what a reader does whose list is full.
pub(super) fn merge_pairs(entries: &mut Vec<IndexEntry>) {
    let half = entries.len().div_ceil(2);
    for at in 0..half {
        let first = entries[2 * at];
        entries[at] = entries.get(2 * at + 1).map_or(first, |&next| first.merge(next));
    }
    entries.truncate(half);
}

/// A `sidx` as `encode_index` writes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Index {
    pub earliest_pts: u64,
    /// Bytes between the end of the `sidx` and the first fragment.
    pub first_offset: u64,
    pub entries: Vec<IndexEntry>,
}

impl Index {
    /// Parses the body of a `sidx` box. `None`: cut off, or not of the kind that is written here.
    pub fn parse(body: &[u8]) -> Option<Index> {
        let mut cursor = Cursor::new(body);
        let is_ours = cursor.u32()? == 1 << 24
            && cursor.u32()? == VIDEO_TRACK_ID
            && cursor.u32()? == VIDEO_TIMESCALE;
        if !is_ours {
            return None;
        }
        let earliest_pts = cursor.u64()?;
        let first_offset = cursor.u64()?;
        cursor.u16()?;
        let count = usize::from(cursor.u16()?);
        if count == 0 || cursor.rest().len() != count * ENTRY_BYTES {
            return None;
        }
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            let bytes = cursor.u32().filter(|bytes| (1..=REFERENCED_BYTES_MAX).contains(bytes))?;
            let duration = cursor.u32()?;
            entries.push(IndexEntry { bytes, duration, starts_with_key: cursor.u32()? == SAP_KEY });
        }
        Some(Index { earliest_pts, first_offset, entries })
    }
}

#[cfg(test)]
mod tests;
