//! Packets of one stream that wait for its recorder: some in RAM, older ones perhaps in the swap file.
//!
//! In here: order, what is where, what is lost and when that was. Not in here: how much a ring may hold and who
//! has to give way (`board_core`), blocks and bytes of the file (`spill_core`). Nothing blocks. Live view does
//! not read this ring.
//!
//! From old to new: `front` (read back from the file), `spilled` (in the file), `writing` (on the way there,
//! still in RAM), `tail` (what arrives).
//! Invariants, verified by `Ring::check`: R1 sequence numbers rise without repeats; R2 the byte count
//! matches the packets in RAM; R3 after a loss the ring goes on with a video keyframe; R4 what is
//! missing between two packets is counted as lost. Keeps PURE-CORE.

use std::collections::VecDeque;
use std::sync::Arc;

use super::spill_core::{self, Table};
use crate::media::packet::Packet;

/// A chunk ends at a keyframe from this size on, and anywhere at the second one. Large enough that a card
/// writes it at full speed, small enough that reading one back takes no memory to speak of.
const CHUNK_BYTES_GOOD: usize = 128 << 10;
const CHUNK_BYTES_MAX: usize = 512 << 10;
/// Losses of one stream that are kept until somebody takes them; beyond that the last one grows.
pub const LOSSES_MAX: usize = 64;

/// Packets that were lost in a row.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    pub stream_id: u32,
    /// Recorder's clock, Unix milliseconds: from the first lost packet to the first one that follows.
    pub from_ms: i64,
    pub to_ms: i64,
    pub packets: u64,
    /// Sequence numbers, both lost.
    pub first_seq: u64,
    pub last_seq: u64,
}

/// Packets of one stream in the swap file.
#[derive(Clone, Debug)]
pub struct Chunk {
    /// Which swap file: there are two while the setting changes.
    pub file: u32,
    pub first_block: u16,
    pub bytes: usize,
    pub crc: u32,
    pub table: Table,
    pub packets: u64,
    pub first_seq: u64,
    pub from_ms: i64,
    pub to_ms: i64,
    pub starts_with_key: bool,
}

/// What the recorder gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Take {
    Packet(Arc<Packet>),
    /// The next packet is in the swap file; it is being fetched.
    Loading,
    Empty,
}

#[derive(Debug)]
struct Writing {
    packets: VecDeque<Arc<Packet>>,
}

/// The packets, and the account of what was lost.
#[derive(Debug)]
pub struct Ring {
    pub stream_id: u32,
    /// Higher matters more.
    pub priority: u8,
    front: VecDeque<Arc<Packet>>,
    spilled: VecDeque<Chunk>,
    writing: Option<Writing>,
    tail: VecDeque<Arc<Packet>>,
    /// In RAM, bookkeeping included.
    bytes: usize,
    bytes_max: usize,
    /// The size before it became smaller, until what is held fits into the new one.
    bytes_grace: usize,
    next_seq: u64,
    dropped: u64,
    /// What arrives is not kept until the next video keyframe, because what it refers to is gone.
    is_skipping: bool,
    /// The same at the old end: a chunk could not be read back.
    is_broken: bool,
    wants_load: bool,
    losses: Vec<Loss>,
}

impl Ring {
    /// An empty ring that may hold `bytes_max` bytes of RAM as its own.
    pub fn new(stream_id: u32, priority: u8, bytes_max: usize) -> Self {
        Self {
            stream_id,
            priority,
            front: VecDeque::new(),
            spilled: VecDeque::new(),
            writing: None,
            tail: VecDeque::new(),
            bytes: 0,
            bytes_max,
            bytes_grace: 0,
            next_seq: 1,
            dropped: 0,
            is_skipping: false,
            is_broken: false,
            wants_load: false,
            losses: Vec::new(),
        }
    }

    /// Changes the size. What is held stays, even if it is more than that.
    pub fn set_bytes_max(&mut self, bytes_max: usize) {
        self.bytes_grace =
            if self.bytes > bytes_max { self.bytes_own().max(self.bytes) } else { 0 };
        self.bytes_max = bytes_max;
    }

    /// Bytes of RAM that this ring may hold without borrowing.
    pub fn bytes_own(&self) -> usize {
        self.bytes_max.max(self.bytes_grace)
    }

    /// Bytes of RAM held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Bytes of RAM that `more` would make beyond what is its own.
    pub fn borrowed_with(&self, more: usize) -> usize {
        (self.bytes + more).saturating_sub(self.bytes_own())
    }

    /// Bytes in the swap file.
    pub fn spilled_bytes(&self) -> u64 {
        self.spilled.iter().map(|chunk| chunk.bytes as u64).sum()
    }

    /// Packets lost since the ring was made.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Whether what arrives is lost until the next keyframe.
    pub fn is_skipping(&self) -> bool {
        self.is_skipping
    }

    /// Whether packets are being lost, at either end.
    pub fn is_losing(&self) -> bool {
        self.is_skipping || self.is_broken
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.front.is_empty()
            && self.spilled.is_empty()
            && self.writing.is_none()
            && self.tail.is_empty()
    }

    /// Recorder's clock at the oldest and the newest packet.
    pub fn span_ms(&self) -> Option<(i64, i64)> {
        let writing = || self.writing.as_ref().map(|writing| &writing.packets);
        let first = self.front.front().map(|packet| packet.wall_ms);
        let first = first
            .or_else(|| self.spilled.front().map(|chunk| chunk.from_ms))
            .or_else(|| writing().and_then(|packets| packets.front()).map(|p| p.wall_ms))
            .or_else(|| self.tail.front().map(|packet| packet.wall_ms))?;
        let last = self.tail.back().map(|packet| packet.wall_ms);
        let last = last
            .or_else(|| writing().and_then(|packets| packets.back()).map(|p| p.wall_ms))
            .or_else(|| self.spilled.back().map(|chunk| chunk.to_ms))
            .or_else(|| self.front.back().map(|packet| packet.wall_ms))?;
        Some((first, last))
    }

    /// Numbers `packet`; answers false when it is lost, because what it refers to is.
    pub fn admit(&mut self, packet: &mut Packet) -> bool {
        packet.seq = self.next_seq;
        self.next_seq += 1;
        if self.is_skipping && packet.is_video_key() {
            self.is_skipping = false;
            self.end_loss(packet.seq, packet.wall_ms);
        }
        if self.is_skipping {
            self.lose(packet);
        }
        !self.is_skipping
    }

    /// Appends an admitted packet.
    pub fn append(&mut self, packet: Arc<Packet>) {
        if self.is_skipping {
            // Only a keyframe comes here then: it made room for itself by losing all before it.
            self.is_skipping = false;
            self.end_loss(packet.seq, packet.wall_ms);
        }
        self.bytes += packet.cost_bytes();
        self.tail.push_back(packet);
    }

    /// Counts an admitted packet as lost, and with it what follows until the next keyframe.
    pub fn refuse(&mut self, packet: &Packet) {
        self.is_skipping = true;
        self.lose(packet);
    }

    /// Takes the oldest packet.
    pub fn take(&mut self) -> Take {
        loop {
            if self.front.is_empty() {
                if !self.spilled.is_empty() {
                    self.wants_load = true;
                    return Take::Loading;
                }
                // Not in the file yet: then it need not go there.
                if let Some(writing) = self.writing.take() {
                    self.front = writing.packets;
                }
            }
            let from = if self.front.is_empty() { &mut self.tail } else { &mut self.front };
            let Some(packet) = from.pop_front() else { return Take::Empty };
            self.forget(packet.cost_bytes());
            if !self.is_broken {
                return Take::Packet(packet);
            }
            if packet.is_video_key() {
                self.is_broken = false;
                self.end_loss(packet.seq, packet.wall_ms);
                return Take::Packet(packet);
            }
            self.lose(&packet);
        }
    }

    /// Takes packets back that were taken last and could not be written, by rising numbers. They must begin as a file
    /// can, and nothing may have been lost behind them.
    pub fn put_back(&mut self, packets: Vec<Arc<Packet>>) {
        if self.is_broken {
            packets.iter().for_each(|packet| self.lose(packet));
            return;
        }
        for packet in packets.into_iter().rev() {
            self.bytes += packet.cost_bytes();
            self.front.push_front(packet);
        }
    }

    /// Counts packets as lost that were taken and could not be written, up to the one with this number and time.
    pub fn lose_taken(&mut self, packets: &[Arc<Packet>], next: Option<(u64, i64)>) {
        packets.iter().for_each(|packet| self.lose(packet));
        if let Some((seq, at_ms)) = next {
            self.end_loss(seq, at_ms);
        }
    }

    /// Whether `drop_group` in RAM would free anything.
    pub fn can_drop(&self) -> bool {
        !self.tail.is_empty()
    }

    /// Loses one group of pictures that is in RAM: the oldest whole one, or where there is none, what is there.
    /// Answers false when there is nothing that could go.
    pub fn drop_group(&mut self) -> bool {
        let key_after = |from: usize| {
            let mut later = self.tail.iter().enumerate().skip(from);
            later.find(|(_, packet)| packet.is_video_key()).map(|(at, _)| at)
        };
        let start = key_after(0).unwrap_or(0);
        let end = key_after(start + 1);
        let count = end.unwrap_or(self.tail.len()) - start;
        if count == 0 {
            return false;
        }
        let kept = self.tail.split_off(start);
        for (n, packet) in kept.into_iter().enumerate() {
            if n < count {
                self.forget(packet.cost_bytes());
                self.lose(&packet);
            } else {
                if n == count {
                    self.end_loss(packet.seq, packet.wall_ms);
                }
                self.tail.push_back(packet);
            }
        }
        // A write that failed may have brought older groups back while the newest one is gone.
        self.is_skipping |= end.is_none();
        true
    }

    /// Loses the oldest groups of pictures that are whole chunks in the file, to free blocks; gives these chunks.
    pub fn drop_spilled(&mut self) -> Vec<Chunk> {
        // The first one may be on its way back.
        let begin = usize::from(self.wants_load);
        let key_chunk = |from: usize| {
            let mut later = self.spilled.iter().enumerate().skip(from);
            later.find(|(_, chunk)| chunk.starts_with_key).map(|(at, _)| at)
        };
        let Some(start) = key_chunk(begin) else { return Vec::new() };
        // Only up to a chunk that starts anew: what follows must not refer to what is gone.
        let Some(end) = key_chunk(start + 1) else { return Vec::new() };
        let (next_seq, next_ms) = (self.spilled[end].first_seq, self.spilled[end].from_ms);
        let gone: Vec<Chunk> = self.spilled.drain(start..end).collect();
        gone.iter().for_each(|chunk| self.lose_chunk(chunk));
        self.end_loss(next_seq, next_ms);
        gone
    }

    /// Takes the oldest packets of `tail` for the file, as many as make a chunk. They still count as RAM.
    pub fn begin_write(&mut self) -> Option<(Vec<Arc<Packet>>, Table)> {
        if self.writing.is_some() {
            return None;
        }
        let mut table = Table::default();
        let (mut count, mut bytes, mut last) = (0, 0, None);
        // A chunk that begins within a group of pictures ends with it, so that groups can go as whole chunks.
        let starts_within = self.tail.front().is_some_and(|packet| !packet.is_video_key());
        for packet in &self.tail {
            let is_good = (bytes >= CHUNK_BYTES_GOOD || starts_within) && packet.is_video_key();
            let more = spill_core::encoded_bytes(packet);
            let is_full = bytes + more > CHUNK_BYTES_MAX;
            // The numbers of a chunk have no gap: its first one and its count say which packets are lost with it.
            let is_gap = last.is_some_and(|last| packet.seq != last + 1);
            if (count > 0 && (is_good || is_full || is_gap)) || !table.note(packet) {
                break;
            }
            last = Some(packet.seq);
            bytes += more;
            count += 1;
        }
        let packets: VecDeque<Arc<Packet>> = self.tail.drain(..count).collect();
        if packets.is_empty() {
            return None;
        }
        let given = packets.iter().cloned().collect();
        self.writing = Some(Writing { packets });
        Some((given, table))
    }

    /// The write ended. `chunk` is what is in the file now; `None` if it failed, then the packets stay in RAM.
    /// Gives the chunk back where it is not needed any more.
    pub fn end_write(&mut self, chunk: Option<Chunk>) -> Option<Chunk> {
        let Some(writing) = self.writing.take() else { return chunk };
        match chunk {
            Some(chunk) => {
                let bytes = writing.packets.iter().map(|packet| packet.cost_bytes()).sum();
                self.forget(bytes);
                self.spilled.push_back(chunk);
            }
            None => {
                for packet in writing.packets.into_iter().rev() {
                    self.tail.push_front(packet);
                }
            }
        }
        None
    }

    /// The chunk that the recorder waits for.
    pub fn wanted(&self) -> Option<&Chunk> {
        self.spilled.front().filter(|_| self.wants_load)
    }

    /// The wanted chunk was read; `None` where it is not what was written. Gives the chunk, whose blocks are free.
    pub fn end_load(&mut self, packets: Option<Vec<Packet>>) -> Option<Chunk> {
        let chunk = self.spilled.pop_front()?;
        self.wants_load = false;
        match packets {
            Some(packets) => {
                for packet in packets {
                    self.bytes += packet.cost_bytes();
                    self.front.push_back(Arc::new(packet));
                }
            }
            None => {
                self.lose_chunk(&chunk);
                self.is_broken = true;
            }
        }
        Some(chunk)
    }

    /// Losses since the last call, oldest first.
    pub fn take_losses(&mut self) -> Vec<Loss> {
        std::mem::take(&mut self.losses)
    }

    /// Counts everything that waits as lost; gives the chunks. For a ring that nobody will read any more.
    pub fn lose_all(&mut self) -> Vec<Chunk> {
        let front = std::mem::take(&mut self.front);
        let chunks: Vec<Chunk> = std::mem::take(&mut self.spilled).into();
        let writing = self.writing.take().map(|writing| writing.packets).unwrap_or_default();
        let tail = std::mem::take(&mut self.tail);
        front.iter().for_each(|packet| self.lose(packet));
        chunks.iter().for_each(|chunk| self.lose_chunk(chunk));
        writing.iter().chain(&tail).for_each(|packet| self.lose(packet));
        self.bytes = 0;
        chunks
    }

    fn forget(&mut self, bytes: usize) {
        self.bytes -= bytes;
        if self.bytes <= self.bytes_max {
            self.bytes_grace = 0;
        }
    }

    fn lose(&mut self, packet: &Packet) {
        let (at, seq) = (packet.wall_ms, packet.seq);
        self.note_loss(Loss {
            stream_id: self.stream_id,
            from_ms: at,
            to_ms: at,
            packets: 1,
            first_seq: seq,
            last_seq: seq,
        });
    }

    fn lose_chunk(&mut self, chunk: &Chunk) {
        self.note_loss(Loss {
            stream_id: self.stream_id,
            from_ms: chunk.from_ms,
            to_ms: chunk.to_ms,
            packets: chunk.packets,
            first_seq: chunk.first_seq,
            last_seq: chunk.first_seq + chunk.packets - 1,
        });
    }

    fn note_loss(&mut self, loss: Loss) {
        self.dropped += loss.packets;
        let is_full = self.losses.len() >= LOSSES_MAX;
        let mut latest = self.losses.iter_mut().rev();
        let grown = match latest.find(|old| old.last_seq + 1 == loss.first_seq) {
            None if is_full => self.losses.last_mut(),
            found => found,
        };
        match grown {
            Some(old) => {
                old.packets += loss.packets;
                old.from_ms = old.from_ms.min(loss.from_ms);
                old.to_ms = old.to_ms.max(loss.to_ms);
                old.first_seq = old.first_seq.min(loss.first_seq);
                old.last_seq = old.last_seq.max(loss.last_seq);
            }
            None => self.losses.push(loss),
        }
    }

    /// The packet that follows on a loss says until when that lasted.
    fn end_loss(&mut self, next_seq: u64, next_ms: i64) {
        let mut latest = self.losses.iter_mut().rev();
        if let Some(loss) = latest.find(|loss| loss.last_seq + 1 == next_seq) {
            loss.to_ms = loss.to_ms.max(next_ms);
        }
    }
}

impl Ring {
    /// Panics when an invariant is broken.
    pub fn check(&self) {
        let writing = self.writing.iter().flat_map(|writing| &writing.packets);
        let in_ram = || self.front.iter().chain(writing.clone()).chain(&self.tail);
        let bytes: usize = in_ram().map(|packet| packet.cost_bytes()).sum();
        assert_eq!(bytes, self.bytes, "R2: byte count matches packets");
        // First and last number of each piece, and whether it starts anew.
        let of_packet = |packet: &Arc<Packet>| (packet.seq, packet.seq, packet.is_video_key());
        let mut pieces: Vec<(u64, u64, bool)> = self.front.iter().map(of_packet).collect();
        pieces.extend(self.spilled.iter().map(|chunk| {
            (chunk.first_seq, chunk.first_seq + chunk.packets - 1, chunk.starts_with_key)
        }));
        pieces.extend(writing.chain(&self.tail).map(of_packet));
        for pair in pieces.windows(2) {
            let ((_, last, _), (first, _, is_key)) = (pair[0], pair[1]);
            assert!(first > last, "R1: sequence numbers rise");
            assert!(first == last + 1 || is_key || self.is_broken, "R3: a keyframe follows a loss");
        }
        for loss in &self.losses {
            assert!(loss.from_ms <= loss.to_ms && loss.first_seq <= loss.last_seq);
        }
    }
}
