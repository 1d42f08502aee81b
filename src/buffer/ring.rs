//! Ring of packets of one stream that wait for the recorder: the only buffer between ingest and disk.
//!
//! In here: append, take in order, and what is lost when the recorder falls too far behind: whole groups
//! of pictures, oldest first, counted. Nothing blocks. Live view does not read this ring.
//! Invariants, verified by `Ring::check`: R1 sequence numbers rise without repeats; R2 the byte count
//! matches the packets; R3 after a loss the ring goes on with a video keyframe.
//! Keeps PURE-CORE.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::media::packet::Packet;

/// How many packets a ring holds at most, whatever their size: 64 s of 30 fps video with audio. A camera
/// that sends a flood of tiny packets must not fill the memory with their bookkeeping.
pub const RING_PACKETS_MAX: usize = 8192;

/// Packets that wait, and the account of what did not fit.
#[derive(Debug)]
pub struct Ring {
    packets: VecDeque<Arc<Packet>>,
    bytes: usize,
    bytes_max: usize,
    next_seq: u64,
    dropped: u64,
    /// What arrives is not kept until the next video keyframe, because what it refers to is gone.
    is_skipping: bool,
}

impl Ring {
    /// An empty ring of at most `bytes_max` bytes; one packet is always accepted, however large.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            packets: VecDeque::new(),
            bytes: 0,
            bytes_max,
            next_seq: 1,
            dropped: 0,
            is_skipping: false,
        }
    }

    /// Changes the size; what is held stays until the next `push`.
    pub fn set_bytes_max(&mut self, bytes_max: usize) {
        self.bytes_max = bytes_max;
    }

    /// Numbers `packet` and appends it, making room at the old end where there is none. Gives it back
    /// shared, whether there was room or not.
    pub fn push(&mut self, mut packet: Packet) -> Arc<Packet> {
        packet.seq = self.next_seq;
        self.next_seq += 1;
        if packet.is_video_key() {
            self.is_skipping = false;
        }
        while self.is_full_with(packet.cost_bytes()) && !self.packets.is_empty() {
            self.drop_oldest_group();
            // Emptied: what this packet refers to went with the rest, unless it starts anew.
            self.is_skipping = self.packets.is_empty() && !packet.is_video_key();
        }
        let packet = Arc::new(packet);
        if self.is_skipping {
            self.dropped += 1;
        } else {
            self.bytes += packet.cost_bytes();
            self.packets.push_back(Arc::clone(&packet));
        }
        packet
    }

    /// Takes the oldest packet.
    pub fn take(&mut self) -> Option<Arc<Packet>> {
        let packet = self.packets.pop_front()?;
        self.bytes -= packet.cost_bytes();
        Some(packet)
    }

    /// Forgets everything that waits, without counting it as lost: nobody wants it.
    pub fn clear(&mut self) {
        self.packets.clear();
        self.bytes = 0;
        self.is_skipping = false;
    }

    /// Bytes held, bookkeeping included.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Packets lost since the ring was made.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    fn is_full_with(&self, more: usize) -> bool {
        self.bytes + more > self.bytes_max || self.packets.len() >= RING_PACKETS_MAX
    }

    fn drop_oldest_group(&mut self) {
        let mut is_first = true;
        while let Some(front) = self.packets.front() {
            if !is_first && front.is_video_key() {
                return;
            }
            is_first = false;
            self.bytes -= front.cost_bytes();
            self.packets.pop_front();
            self.dropped += 1;
        }
    }
}

#[cfg(test)]
impl Ring {
    /// Panics when an invariant is broken.
    pub fn check(&self) {
        let seqs = self.packets.iter().map(|packet| packet.seq);
        assert!(seqs.is_sorted_by(|a, b| a < b), "R1: sequence numbers rise");
        let bytes: usize = self.packets.iter().map(|packet| packet.cost_bytes()).sum();
        assert_eq!(bytes, self.bytes, "R2: byte count matches packets");
        for pair in self.packets.iter().zip(self.packets.iter().skip(1)) {
            let is_gap = pair.1.seq != pair.0.seq + 1;
            assert!(!is_gap || pair.1.is_video_key(), "R3: a keyframe follows a loss");
        }
        assert!(self.packets.len() <= RING_PACKETS_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::media::format::{VideoCodec, VideoFormat};
    use crate::media::packet::{Run, Track};
    use proptest::prelude::*;

    fn packet(is_key: bool, len: usize) -> Packet {
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
            is_key,
            is_damaged: false,
            wall_ms: 0,
            data: vec![0; len],
        }
    }

    #[test]
    fn a_full_ring_loses_whole_groups_from_the_old_end() {
        let size = packet(true, 100).cost_bytes();
        let mut ring = Ring::new(size * 6);
        for n in 0..6 {
            ring.push(packet(n % 3 == 0, 100));
        }
        ring.push(packet(true, 100));
        ring.check();
        assert_eq!(ring.dropped(), 3);
        assert_eq!(ring.take().map(|p| (p.seq, p.is_key)), Some((4, true)));
    }

    #[test]
    fn after_everything_was_lost_it_goes_on_with_a_keyframe() {
        let size = packet(true, 100).cost_bytes();
        let mut ring = Ring::new(size * 3);
        ring.push(packet(true, 100));
        for _ in 0..5 {
            ring.push(packet(false, 100));
        }
        assert_eq!((ring.dropped(), ring.bytes()), (6, 0));
        ring.push(packet(true, 100));
        ring.push(packet(false, 100));
        ring.check();
        assert_eq!(ring.take().map(|p| p.seq), Some(7));
        assert_eq!(ring.dropped(), 6);
    }

    #[test]
    fn one_packet_larger_than_the_ring_is_still_taken() {
        let mut ring = Ring::new(10);
        ring.push(packet(true, 1000));
        assert_eq!(ring.take().map(|p| p.seq), Some(1));
    }

    proptest! {
        #[test]
        fn the_invariants_hold_and_every_packet_is_taken_or_counted(
            steps in proptest::collection::vec((any::<bool>(), 0_usize..500, any::<bool>()), 1..300),
        ) {
            let mut ring = Ring::new(4000);
            let (mut pushed, mut taken, mut last_seq) = (0_u64, 0_u64, 0);
            for (is_key, len, is_take) in steps {
                ring.push(packet(is_key, len));
                pushed += 1;
                ring.check();
                if is_take && let Some(packet) = ring.take() {
                    prop_assert!(packet.seq > last_seq);
                    prop_assert!(packet.seq == last_seq + 1 || packet.is_key || last_seq == 0);
                    last_seq = packet.seq;
                    taken += 1;
                }
            }
            while ring.take().is_some() {
                taken += 1;
            }
            prop_assert_eq!(pushed, taken + ring.dropped());
            prop_assert_eq!(ring.bytes(), 0);
        }
    }
}
