//! All rings of the board together: who may hold how much, what goes to the swap file, who gives way.
//!
//! Each ring has RAM of its own (`buffer_size`). Beyond that, a ring that falls behind moves its oldest packets
//! to the swap file and borrows from one RAM budget of the board. When both are used up, whole groups of
//! pictures are lost, of the stream with the lowest priority first. One thing at a time is written or read; what
//! that is, `next_op` says, and the shell (`spill.rs`) does it.
//! Where the swap file lies on the disk that takes the recordings, it is no help while that disk stalls and costs
//! it work when it is slow: then rings borrow first, and spill when half of the budget is used or memory is short.
//! Keeps PURE-CORE.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::ring::{Chunk, Loss, Ring, Take};
use super::spill_core::{Blocks, Extent, Table, encoded_bytes};
use crate::media::packet::Packet;

/// Swap files at once: the one in force and those that are read to their end after a change of settings.
pub const FILES_MAX: usize = 4;
/// Losses of streams that are gone, until somebody takes them; beyond that the oldest is forgotten.
const LOSSES_MAX: usize = 256;
/// A write that takes longer means that the swap file's disk stalls.
const WRITE_LATE_MS: u64 = 1000;

/// A ring begins to spill above the first share of its own RAM and stops below the second.
const SPILL_START: (usize, usize) = (3, 4);
const SPILL_STOP: (usize, usize) = (1, 2);
/// The same while memory is short.
const SPILL_START_PRESSED: (usize, usize) = (1, 8);
const SPILL_STOP_PRESSED: (usize, usize) = (1, 16);

/// What keeps a stream's packets at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protection {
    /// All that waits is in the stream's own RAM.
    Ram,
    /// Older packets are in the swap file.
    Swap,
    /// RAM of the board beyond its own.
    Borrowed,
    /// Nothing is left: pictures are being lost.
    None,
}

impl Protection {
    /// The word that the API uses.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ram => "ram",
            Self::Swap => "swap",
            Self::Borrowed => "borrowed",
            Self::None => "none",
        }
    }
}

/// One ring as the API shows it.
#[derive(Clone, Debug, PartialEq)]
pub struct BufferView {
    pub ram_bytes: u64,
    pub spilled_bytes: u64,
    /// Milliseconds between the oldest and the newest packet.
    pub held_ms: i64,
    pub protection: Protection,
    pub dropped: u64,
    /// Bytes of its own RAM that are free.
    pub own_free: u64,
}

/// The next thing to do with a swap file.
#[derive(Debug)]
pub enum Op {
    Write(WriteOp),
    Load(LoadOp),
}

#[derive(Debug)]
pub struct WriteOp {
    pub file: u32,
    pub packets: Vec<Arc<Packet>>,
    pub table: Table,
    pub extents: Vec<Extent>,
    /// Memory is short: the page cache is to be rid of it, too.
    pub is_pressed: bool,
}

#[derive(Debug)]
pub struct LoadOp {
    pub file: u32,
    pub extents: Vec<Extent>,
    pub crc: u32,
    pub table: Table,
}

#[derive(Debug)]
struct File {
    id: u32,
    blocks: Blocks,
}

#[derive(Debug)]
enum Busy {
    /// The checksum is still missing.
    Write {
        ring: u32,
        chunk: Chunk,
        since_ms: u64,
    },
    Load {
        ring: u32,
        chunk: Chunk,
    },
}

/// Whether `ring` holds more than this share of its own RAM.
fn is_above((part, of): (usize, usize), ring: &Ring) -> bool {
    ring.bytes() > ring.bytes_own() / of * part
}

/// The rings and the files.
#[derive(Debug)]
pub struct Board {
    rings: BTreeMap<u32, Ring>,
    next_ring: u32,
    /// RAM that all rings may borrow together.
    budget: usize,
    files: Vec<File>,
    next_file: u32,
    /// The file that chunks are written to.
    current: Option<u32>,
    is_same_disk: bool,
    busy: Option<Busy>,
    was_load: bool,
    is_pressed: bool,
    /// Rings that have begun to spill and not reached the lower mark.
    spilling: Option<u32>,
    last_loaded: u32,
    losses: Vec<Loss>,
}

impl Board {
    /// No rings yet; they may borrow `budget` bytes of RAM together.
    pub fn new(budget: usize) -> Self {
        Self {
            rings: BTreeMap::new(),
            next_ring: 0,
            budget,
            files: Vec::new(),
            next_file: 0,
            current: None,
            is_same_disk: false,
            busy: None,
            was_load: false,
            is_pressed: false,
            spilling: None,
            last_loaded: 0,
            losses: Vec::new(),
        }
    }

    /// Adds a ring; answers its id, which is never used again.
    pub fn add(&mut self, stream_id: u32, priority: u8, bytes_max: usize) -> u32 {
        let id = self.next_ring;
        self.next_ring += 1;
        self.rings.insert(id, Ring::new(stream_id, priority, bytes_max));
        id
    }

    /// Removes a ring. What still waits in it is counted as lost.
    pub fn remove(&mut self, id: u32) {
        let Some(mut ring) = self.rings.remove(&id) else { return };
        for chunk in ring.lose_all() {
            // One that is being read is given back when that has ended.
            let is_busy = matches!(&self.busy, Some(Busy::Load { chunk: busy, .. })
                if (busy.file, busy.first_block) == (chunk.file, chunk.first_block));
            if !is_busy {
                self.release(&chunk);
            }
        }
        self.losses.extend(ring.take_losses());
        let over = self.losses.len().saturating_sub(LOSSES_MAX);
        self.losses.drain(..over);
    }

    pub fn set_bytes_max(&mut self, id: u32, bytes_max: usize) {
        if let Some(ring) = self.rings.get_mut(&id) {
            ring.set_bytes_max(bytes_max);
        }
    }

    pub fn set_priority(&mut self, id: u32, priority: u8) {
        if let Some(ring) = self.rings.get_mut(&id) {
            ring.priority = priority;
        }
    }

    pub fn set_pressed(&mut self, is_pressed: bool) {
        self.is_pressed = is_pressed;
    }

    /// Whether the swap file shares its disk with the recordings.
    pub fn set_same_disk(&mut self, is_same_disk: bool) {
        self.is_same_disk = is_same_disk;
    }

    /// Chunks go to a new file of `bytes` from now on; `None` when not one block fits. Chunks in the file
    /// before are still read from there.
    pub fn use_file(&mut self, bytes: u64) -> Option<u32> {
        let blocks = Blocks::new(bytes)?;
        let id = self.next_file;
        self.next_file += 1;
        self.files.push(File { id, blocks });
        self.current = Some(id);
        Some(id)
    }

    /// Nothing is written to a file any more.
    pub fn use_none(&mut self) {
        self.current = None;
    }

    /// Whether there is room for one more file.
    pub fn can_use_file(&self) -> bool {
        self.files.len() < FILES_MAX
    }

    /// Forgets the files that are neither in force nor needed, and names them.
    pub fn take_unneeded_files(&mut self) -> Vec<u32> {
        let current = self.current;
        let is_needed = |file: &File| Some(file.id) == current || !file.blocks.is_empty();
        let unneeded =
            self.files.iter().filter(|file| !is_needed(file)).map(|file| file.id).collect();
        self.files.retain(is_needed);
        unneeded
    }

    /// Numbers `packet` and appends it to ring `id`; where there is no room, a group of pictures goes.
    /// Gives the packet back shared, whether it was kept or not.
    pub fn push(&mut self, id: u32, mut packet: Packet) -> Arc<Packet> {
        let Some(ring) = self.rings.get_mut(&id) else { return Arc::new(packet) };
        if !ring.admit(&mut packet) {
            return Arc::new(packet);
        }
        let cost = packet.cost_bytes();
        while self.is_over_with(id, cost) {
            let Some(victim) = self.victim(id, cost) else { break };
            let Some(ring) = self.rings.get_mut(&victim) else { break };
            ring.drop_group();
            if victim == id && ring.is_skipping() && !packet.is_video_key() {
                // What this packet refers to has just gone.
                ring.refuse(&packet);
                return Arc::new(packet);
            }
        }
        let packet = Arc::new(packet);
        if let Some(ring) = self.rings.get_mut(&id) {
            ring.append(Arc::clone(&packet));
        }
        packet
    }

    fn borrowed(&self) -> usize {
        self.rings.values().map(|ring| ring.borrowed_with(0)).sum()
    }

    fn is_over_with(&self, id: u32, more: usize) -> bool {
        let Some(ring) = self.rings.get(&id) else { return false };
        let extra = ring.borrowed_with(more);
        extra > 0 && self.borrowed() - ring.borrowed_with(0) + extra > self.budget
    }

    /// Of the rings that borrow, or would (`id`), the one with the lowest priority that has something to lose; of
    /// several the one that borrows most.
    fn victim(&self, id: u32, more: usize) -> Option<u32> {
        let borrowed =
            |ring_id: u32, ring: &Ring| ring.borrowed_with(if ring_id == id { more } else { 0 });
        self.rings
            .iter()
            .filter(|(ring_id, ring)| borrowed(**ring_id, ring) > 0 && ring.can_drop())
            .min_by_key(|(ring_id, ring)| {
                (ring.priority, std::cmp::Reverse(borrowed(**ring_id, ring)), **ring_id)
            })
            .map(|(ring_id, _)| *ring_id)
    }

    /// Takes the oldest packet of ring `id`.
    pub fn take(&mut self, id: u32) -> Take {
        self.rings.get_mut(&id).map_or(Take::Empty, Ring::take)
    }

    /// Ring `id` gets packets back that were taken from it last and could not be written. Where they do not begin as a
    /// file can, what is before the first video keyframe is lost.
    pub fn put_back(&mut self, id: u32, mut packets: Vec<Arc<Packet>>, can_begin: bool) {
        let Some(ring) = self.rings.get_mut(&id) else { return };
        if !can_begin {
            let key = packets.iter().position(|packet| packet.is_video_key());
            let kept = packets.split_off(key.unwrap_or(packets.len()));
            ring.lose_taken(&packets, kept.first().map(|first| (first.seq, first.wall_ms)));
            packets = kept;
        }
        ring.put_back(packets);
    }

    /// Whether `next_op` may have something to do.
    pub fn has_work(&self) -> bool {
        self.busy.is_none()
            && (self.rings.values().any(|ring| ring.wanted().is_some())
                || self.to_spill().is_some())
    }

    /// The same after a packet came to ring `id`, without a look at all the others while that one is content.
    pub fn has_work_of(&self, id: u32) -> bool {
        let is_content = |ring: &Ring| {
            ring.wanted().is_none()
                && self.spilling != Some(id)
                && !is_above(if self.is_pressed { SPILL_START_PRESSED } else { SPILL_START }, ring)
        };
        !self.rings.get(&id).is_some_and(is_content) && self.has_work()
    }

    /// The next thing to write or read; its end must be told by `end_write` or `end_load`.
    pub fn next_op(&mut self, now_ms: u64) -> Option<Op> {
        if self.busy.is_some() {
            return None;
        }
        // By turns: a recorder that reads back must not keep what arrives from being saved.
        let op = if self.was_load {
            self.begin_write(now_ms).or_else(|| self.begin_load())
        } else {
            self.begin_load().or_else(|| self.begin_write(now_ms))
        };
        self.was_load = matches!(op, Some(Op::Load(_)));
        op
    }

    fn begin_load(&mut self) -> Option<Op> {
        // Round robin over the rings.
        let after = self.rings.range(self.last_loaded.wrapping_add(1)..);
        let (id, chunk) =
            after.chain(&self.rings).find_map(|(id, ring)| Some((*id, ring.wanted()?.clone())))?;
        let file = self.files.iter().find(|file| file.id == chunk.file)?;
        let op = LoadOp {
            file: chunk.file,
            extents: file.blocks.extents(chunk.first_block, chunk.bytes),
            crc: chunk.crc,
            table: chunk.table.clone(),
        };
        self.last_loaded = id;
        self.busy = Some(Busy::Load { ring: id, chunk });
        Some(Op::Load(op))
    }

    /// The ring that should spill: one that has begun, then the highest priority, then the fullest.
    fn to_spill(&self) -> Option<u32> {
        self.current?;
        let (start, stop) = if self.is_pressed {
            (SPILL_START_PRESSED, SPILL_STOP_PRESSED)
        } else {
            (SPILL_START, SPILL_STOP)
        };
        let has_ram = self.budget > 0 && self.borrowed() <= self.budget / 2;
        let must_wait = self.is_same_disk && !self.is_pressed && has_ram;
        if must_wait {
            return None;
        }
        let wants = |id: u32, ring: &Ring| {
            let mark = if self.spilling == Some(id) { stop } else { start };
            ring.can_drop() && is_above(mark, ring)
        };
        self.rings
            .iter()
            .filter(|(id, ring)| wants(**id, ring))
            .max_by_key(|(id, ring)| (self.spilling == Some(**id), ring.priority, ring.bytes()))
            .map(|(id, _)| *id)
    }

    fn begin_write(&mut self, now_ms: u64) -> Option<Op> {
        self.spilling = self.to_spill();
        let (id, file_id) = (self.spilling?, self.current?);
        let (packets, table) = self.rings.get_mut(&id)?.begin_write()?;
        let bytes = packets.iter().map(|packet| encoded_bytes(packet)).sum();
        let Some((first_block, extents)) = self.allocate(file_id, bytes, id) else {
            self.rings.get_mut(&id)?.end_write(None);
            self.spilling = None;
            return None;
        };
        let (first, last) = (packets.first()?, packets.last()?);
        let chunk = Chunk {
            file: file_id,
            first_block,
            bytes,
            crc: 0,
            table: table.clone(),
            packets: packets.len() as u64,
            first_seq: first.seq,
            from_ms: first.wall_ms,
            to_ms: last.wall_ms,
            starts_with_key: first.is_video_key(),
        };
        self.busy = Some(Busy::Write { ring: id, chunk, since_ms: now_ms });
        let is_pressed = self.is_pressed;
        Some(Op::Write(WriteOp { file: file_id, packets, table, extents, is_pressed }))
    }

    /// Blocks for a chunk of ring `id`, if need be at the cost of streams with a lower priority.
    fn allocate(&mut self, file_id: u32, bytes: usize, id: u32) -> Option<(u16, Vec<Extent>)> {
        loop {
            let file = self.files.iter_mut().find(|file| file.id == file_id)?;
            if let Some(first) = file.blocks.allocate(bytes) {
                return Some((first, file.blocks.extents(first, bytes)));
            }
            // While there is RAM to borrow, nobody has to go.
            if self.borrowed() < self.budget / 8 * 7 {
                return None;
            }
            let priority = self.rings.get(&id)?.priority;
            let lower = self.rings.values_mut().filter(|ring| ring.priority < priority);
            let mut lower: Vec<&mut Ring> = lower.collect();
            lower.sort_by_key(|ring| ring.priority);
            let gone = lower.into_iter().map(Ring::drop_spilled).find(|gone| !gone.is_empty())?;
            gone.iter().for_each(|chunk| self.release(chunk));
        }
    }

    fn release(&mut self, chunk: &Chunk) {
        if let Some(file) = self.files.iter_mut().find(|file| file.id == chunk.file) {
            file.blocks.release(chunk.first_block);
        }
    }

    /// The write ended: with the checksum of what was written, or not at all.
    pub fn end_write(&mut self, crc: Option<u32>) {
        let Some(Busy::Write { ring: id, mut chunk, .. }) = self.busy.take() else { return };
        let spare = chunk.clone();
        let written = crc.map(|crc| {
            chunk.crc = crc;
            chunk
        });
        let is_kept = written.is_some();
        let unneeded = match self.rings.get_mut(&id) {
            Some(ring) => ring.end_write(written).is_some() || !is_kept,
            None => true,
        };
        if unneeded {
            self.release(&spare);
        }
    }

    /// The read ended, with the packets or with something else than what was written. Answers the ring whose
    /// recorder can go on.
    pub fn end_load(&mut self, packets: Option<Vec<Packet>>) -> Option<u32> {
        let Some(Busy::Load { ring: id, chunk }) = self.busy.take() else { return None };
        self.release(&chunk);
        self.rings.get_mut(&id)?.end_load(packets);
        Some(id)
    }

    /// Losses since the last call, by stream in order of time.
    pub fn take_losses(&mut self) -> Vec<Loss> {
        let mut losses = std::mem::take(&mut self.losses);
        losses.extend(self.rings.values_mut().flat_map(Ring::take_losses));
        losses
    }

    /// Ring `id` as the API shows it.
    pub fn view(&self, id: u32) -> Option<BufferView> {
        let ring = self.rings.get(&id)?;
        let protection = if ring.is_losing() {
            Protection::None
        } else if ring.borrowed_with(0) > 0 {
            Protection::Borrowed
        } else if ring.spilled_bytes() > 0 {
            Protection::Swap
        } else {
            Protection::Ram
        };
        Some(BufferView {
            ram_bytes: ring.bytes() as u64,
            spilled_bytes: ring.spilled_bytes(),
            held_ms: ring.span_ms().map_or(0, |(first, last)| (last - first).max(0)),
            protection,
            dropped: ring.dropped(),
            own_free: ring.bytes_own().saturating_sub(ring.bytes()) as u64,
        })
    }

    /// Bytes that all rings together may still take beyond their own RAM, if the disk of the recordings stalls
    /// from now on.
    pub fn shared_free(&self, now_ms: u64) -> u64 {
        let is_late = matches!(&self.busy, Some(Busy::Write { since_ms, .. })
            if now_ms.saturating_sub(*since_ms) > WRITE_LATE_MS);
        let current = self.files.iter().find(|file| Some(file.id) == self.current);
        let swap = current.filter(|_| !self.is_same_disk && !is_late);
        let ram = self.budget.saturating_sub(self.borrowed()) as u64;
        ram + swap.map_or(0, |file| file.blocks.free_bytes())
    }
}

#[cfg(test)]
impl Board {
    /// Panics when an invariant is broken.
    pub fn check(&self) {
        self.rings.values().for_each(Ring::check);
        assert!(self.files.len() <= FILES_MAX);
        if self.rings.values().all(|ring| ring.spilled_bytes() == 0) && self.busy.is_none() {
            assert!(self.files.iter().all(|file| file.blocks.is_empty()), "no block is lost");
        }
    }
}

#[cfg(test)]
#[path = "board_core_tests.rs"]
mod tests;
