//! The ring and its part of a swap file against a queue: what comes out is what went in, in order; where something
//! is missing it goes on with a keyframe, and each packet that is missing was counted once.

use std::collections::VecDeque;
use std::sync::Arc;

use lightnvr::buffer::ring::{Chunk, LOSSES_MAX, Ring, Take};
use lightnvr::buffer::spill_core::{self, Blocks, Table};
use lightnvr::media::format::{VideoCodec, VideoFormat};
use lightnvr::media::packet::{Packet, Run, Track};

fn video(key: bool, wall_ms: i64, data: Vec<u8>) -> Packet {
    let format = VideoFormat {
        codec: VideoCodec::H264,
        width: 16,
        height: 16,
        fps_milli: 0,
        decoder_config: Vec::new(),
        rfc6381: String::new(),
        reorder_frames: None,
    };
    Packet {
        seq: 0,
        run: Arc::new(Run { id: 1, audio: None }),
        track: Track::Video(Arc::new(format)),
        pts: 0,
        dts: 0,
        is_key: key,
        is_damaged: false,
        wall_ms,
        data,
    }
}

/// A write that is under way, with its place in the file, if there was one.
struct Writing {
    packets: Vec<Arc<Packet>>,
    table: Table,
}

/// The ring, and what it must be like.
struct Model {
    ring: Ring,
    blocks: Blocks,
    file: Vec<(u16, Vec<u8>)>,
    writing: Option<Writing>,
    /// What was admitted and not taken: number, keyframe, bytes.
    waiting: VecDeque<(u64, bool, Vec<u8>)>,
    /// Taken since the last keyframe, and what was lost by then.
    taken: Vec<Arc<Packet>>,
    dropped_then: u64,
    last_taken: u64,
    /// Packets that came, and those that were taken and not put back.
    came: u64,
    gone: u64,
    /// Packets of the losses that were fetched.
    told: u64,
}

/// Two bytes an operation: what, and how much.
pub fn ring(data: &[u8]) {
    let mut model = Model {
        ring: Ring::new(1, 5, 1 << 20),
        blocks: Blocks::new(64 << 20).expect("room for blocks"),
        file: Vec::new(),
        writing: None,
        waiting: VecDeque::new(),
        taken: Vec::new(),
        dropped_then: 0,
        last_taken: 0,
        came: 0,
        gone: 0,
        told: 0,
    };
    for pair in data.chunks_exact(2) {
        model.apply(pair[0], pair[1]);
        model.ring.check();
    }
    // An odd byte at the end: the stream is removed, and nobody reads what waits.
    for chunk in if data.len() % 2 == 1 { model.ring.lose_all() } else { Vec::new() } {
        model.free(&chunk);
    }
    model.end_write(0);
    while model.take(0) {
        model.ring.check();
    }
    assert!(model.ring.is_empty() && model.ring.bytes() == 0 && model.ring.spilled_bytes() == 0);
    assert!(model.file.is_empty() && model.blocks.is_empty(), "nothing is left in the file");
    assert_eq!(model.came, model.gone + model.ring.dropped(), "each was taken or is counted");
    model.tell();
    assert_eq!(model.told, model.ring.dropped(), "each loss was told");
}

impl Model {
    fn apply(&mut self, what: u8, size: u8) {
        match what % 8 {
            0..=2 => self.push(what.is_multiple_of(8), size),
            3 | 4 => drop(self.take(size)),
            5 if what & 64 != 0 => self.put_back(),
            5 => self.begin_write(),
            6 => self.end_write(size),
            _ => self.lose(size),
        }
    }

    fn push(&mut self, key: bool, size: u8) {
        let mut packet = video(key, self.came as i64 * 40, vec![size; usize::from(size) * 400]);
        self.came += 1;
        if !self.ring.admit(&mut packet) {
            return;
        }
        // As the board does it: what came makes room for itself.
        while size > 250 && self.ring.bytes() > self.ring.bytes_own() && self.ring.can_drop() {
            self.ring.drop_group();
        }
        if self.ring.is_skipping() && !key {
            return self.ring.refuse(&packet);
        }
        self.waiting.push_back((packet.seq, key, packet.data.clone()));
        self.ring.append(Arc::new(packet));
    }

    /// True unless the ring is empty.
    fn take(&mut self, size: u8) -> bool {
        match self.ring.take() {
            Take::Empty => return false,
            Take::Loading => {
                let chunk = self.ring.wanted().expect("what is waited for").clone();
                let at = self.file.iter().position(|(first, _)| *first == chunk.first_block);
                let (_, bytes) = self.file.remove(at.expect("it was written"));
                assert_eq!(spill_core::crc32(&bytes), chunk.crc);
                let packets = spill_core::decode(&bytes, &chunk.table).expect("what was encoded");
                self.ring.end_load(Some(packets).filter(|_| size != 255));
                self.blocks.release(chunk.first_block);
            }
            Take::Packet(packet) => {
                while self.waiting.front().is_some_and(|(seq, ..)| *seq < packet.seq) {
                    self.waiting.pop_front();
                }
                let (seq, key, sent) = self.waiting.pop_front().expect("only what went in");
                assert_eq!((seq, key, &sent), (packet.seq, packet.is_key, &packet.data));
                assert!(seq == self.last_taken + 1 || key, "R3: it goes on with a keyframe");
                (self.last_taken, self.gone) = (seq, self.gone + 1);
                if key {
                    self.taken.clear();
                }
                self.dropped_then = self.ring.dropped();
                self.taken.push(packet);
            }
        }
        true
    }

    /// What was taken since the last keyframe could not be written.
    fn put_back(&mut self) {
        let can_begin = self.taken.first().is_some_and(|packet| packet.is_key);
        if !can_begin || self.ring.dropped() != self.dropped_then || self.ring.is_losing() {
            return;
        }
        for packet in self.taken.iter().rev() {
            self.waiting.push_front((packet.seq, packet.is_key, packet.data.clone()));
        }
        self.gone -= self.taken.len() as u64;
        self.last_taken = self.taken[0].seq - 1;
        self.ring.put_back(std::mem::take(&mut self.taken));
    }

    /// There is one at a time, even if its packets were taken meanwhile.
    fn begin_write(&mut self) {
        if self.writing.is_none()
            && let Some((packets, table)) = self.ring.begin_write()
        {
            self.writing = Some(Writing { packets, table });
        }
    }

    fn end_write(&mut self, size: u8) {
        let Some(Writing { packets, table }) = self.writing.take() else { return };
        let bytes = spill_core::encode(&packets, &table);
        let block = if size > 200 { None } else { self.blocks.allocate(bytes.len()) };
        let chunk = block.map(|first_block| Chunk {
            file: 0,
            first_block,
            bytes: bytes.len(),
            crc: spill_core::crc32(&bytes),
            table,
            packets: packets.len() as u64,
            first_seq: packets[0].seq,
            from_ms: packets[0].wall_ms,
            to_ms: packets[packets.len() - 1].wall_ms,
            starts_with_key: packets[0].is_video_key(),
        });
        if let Some(chunk) = &chunk {
            self.file.push((chunk.first_block, bytes));
        }
        if let Some(chunk) = self.ring.end_write(chunk) {
            self.free(&chunk);
        }
    }

    fn free(&mut self, chunk: &Chunk) {
        self.file.retain(|(first, _)| *first != chunk.first_block);
        self.blocks.release(chunk.first_block);
    }

    fn lose(&mut self, size: u8) {
        match size {
            0..=63 => self.tell(),
            64..=95 => self.ring.set_bytes_max(usize::from(size) << 10),
            96..=127 => self.ring.set_bytes_max(usize::from(size) << 14),
            128..=191 => drop(self.ring.drop_group()),
            _ => {
                for chunk in self.ring.drop_spilled() {
                    self.free(&chunk);
                }
            }
        }
    }

    fn tell(&mut self) {
        let losses = self.ring.take_losses();
        assert!(losses.len() <= LOSSES_MAX);
        self.told += losses.iter().map(|loss| loss.packets).sum::<u64>();
    }
}
