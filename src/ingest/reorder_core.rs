//! Packets of one track that came over UDP, put back in order (RFC 3550 section 5.1).
//!
//! In here: what waits for a missing one, and how long. Not in here: sockets (`udp.rs`), what a loss does to a
//! picture (`access_unit.rs`: the number that is missing in the end marks it). Keeps PURE-CORE.
//! Invariant U1: numbers that are given out rise, but for a new beginning; each packet comes out once at most.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// Most packets that wait: a packet that is overtaken by more is lost (quirk 34 has eight).
pub const PACKETS_MAX: usize = 128;
/// Most bytes of them.
pub const BYTES_MAX: usize = 512 << 10;
/// A missing packet is waited for so long. Wi-Fi repeats within some 20 ms.
pub const WAIT: Duration = Duration::from_millis(150);
/// A number that is further away than this begins anew: the camera restarted its numbers.
const JUMP: i16 = 2000;

/// What became of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It is the next one: to be used at once; then `pop` has more, perhaps.
    Next,
    /// It waits for others, and comes out of `pop`.
    Waits,
    /// It came twice, or too late.
    Dropped,
}

struct Held {
    sequence: u16,
    arrived: Instant,
    bytes: Vec<u8>,
}

/// The packets of one track.
#[derive(Default)]
pub struct Reorder {
    next: Option<u16>,
    ssrc: u32,
    /// By number, from `next` on.
    held: VecDeque<Held>,
    held_bytes: usize,
    /// Packets that came twice, or after the wait for them was over.
    pub late: u64,
    /// How often a bound ended the wait.
    pub overflows: u64,
}

impl Reorder {
    /// Takes a packet with its number.
    pub fn push(&mut self, ssrc: u32, sequence: u16, bytes: &[u8], now: Instant) -> Fate {
        let ahead = self.next.map(|next| sequence.wrapping_sub(next) as i16);
        let ahead = ahead.filter(|ahead| self.ssrc == ssrc && (-JUMP..JUMP).contains(ahead));
        match ahead {
            None => {
                self.late += self.held.len() as u64;
                self.held.clear();
                self.held_bytes = 0;
                self.ssrc = ssrc;
                self.next = Some(sequence.wrapping_add(1));
                Fate::Next
            }
            Some(0) => {
                self.next = Some(sequence.wrapping_add(1));
                Fate::Next
            }
            Some(1..) => self.hold(sequence, bytes, now),
            Some(_) => {
                self.late += 1;
                Fate::Dropped
            }
        }
    }

    fn hold(&mut self, sequence: u16, bytes: &[u8], now: Instant) -> Fate {
        let is_behind = |held: &Held| (held.sequence.wrapping_sub(sequence) as i16) < 0;
        let at = self.held.partition_point(is_behind);
        if self.held.get(at).is_some_and(|held| held.sequence == sequence) {
            self.late += 1;
            return Fate::Dropped;
        }
        self.held_bytes += bytes.len();
        self.held.insert(at, Held { sequence, arrived: now, bytes: bytes.to_vec() });
        if self.held.len() > PACKETS_MAX || self.held_bytes > BYTES_MAX {
            self.overflows += 1;
            self.next = self.held.front().map(|held| held.sequence);
        }
        Fate::Waits
    }

    /// The next packet that waited long enough, or for long enough.
    pub fn pop(&mut self, now: Instant) -> Option<Vec<u8>> {
        let first = self.held.front()?;
        let is_next = self.next == Some(first.sequence);
        if !is_next && self.due_at().is_some_and(|due_at| now < due_at) {
            return None;
        }
        let first = self.held.pop_front()?;
        self.held_bytes -= first.bytes.len();
        self.next = Some(first.sequence.wrapping_add(1));
        Some(first.bytes)
    }

    /// When the wait for a missing packet is over.
    pub fn due_at(&self) -> Option<Instant> {
        // Not always the first one's: what came late may have been put in front.
        self.held.iter().map(|held| held.arrived).min().map(|arrived| arrived + WAIT)
    }

    /// Panics where an invariant is broken.
    pub fn check(&self) {
        let Some(next) = self.next else {
            assert!(self.held.is_empty());
            return;
        };
        let ahead = self.held.iter().map(|held| held.sequence.wrapping_sub(next) as i16);
        assert!(ahead.clone().all(|ahead| ahead >= 0), "U1: what waits is not behind");
        assert!(ahead.is_sorted_by(|a, b| a < b), "U1: in order");
        let bytes: usize = self.held.iter().map(|held| held.bytes.len()).sum();
        assert_eq!(bytes, self.held_bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The numbers that come out, each pushed one millisecond after the other.
    fn order(numbers: &[u16]) -> Vec<u16> {
        let t0 = Instant::now();
        let (mut reorder, mut out) = (Reorder::default(), Vec::new());
        for (ms, number) in (0..).zip(numbers) {
            let now = t0 + Duration::from_millis(ms);
            if reorder.push(1, *number, &number.to_be_bytes(), now) == Fate::Next {
                out.push(*number);
            }
            let popped = std::iter::from_fn(|| reorder.pop(now));
            out.extend(popped.map(|bytes| u16::from_be_bytes([bytes[0], bytes[1]])));
            reorder.check();
        }
        out
    }

    #[test]
    fn packets_within_the_window_come_out_in_order_and_once() {
        assert_eq!(order(&[65534, 0, 65535, 1, 1, 65535, 2]), [65534, 65535, 0, 1, 2]);
        assert_eq!(order(&[5, 13, 12, 11, 10, 9, 8, 7, 6]), (5..=13).collect::<Vec<u16>>());
        assert_eq!(order(&[5, 40_000, 40_001]), [5, 40_000, 40_001]);
    }

    #[test]
    fn a_lost_packet_is_waited_for_and_then_passed_over() {
        let t0 = Instant::now();
        let mut reorder = Reorder::default();
        assert_eq!(reorder.push(1, 1, b"1", t0), Fate::Next);
        assert_eq!(reorder.push(1, 3, b"3", t0), Fate::Waits);
        assert_eq!(reorder.due_at(), Some(t0 + WAIT));
        assert_eq!(reorder.pop(t0 + WAIT / 2), None);
        assert_eq!(reorder.pop(t0 + WAIT), Some(b"3".to_vec()));
        assert_eq!(reorder.push(1, 2, b"2", t0 + WAIT), Fate::Dropped);
        assert_eq!(reorder.push(1, 4, b"4", t0 + WAIT), Fate::Next);
    }

    #[test]
    fn what_waits_is_bounded() {
        let numbers: Vec<u16> = [0].into_iter().chain(2..2 + PACKETS_MAX as u16 + 5).collect();
        let out = order(&numbers);
        assert_eq!(out, numbers, "the bound ends the wait for 1");
        let mut reorder = Reorder::default();
        let t0 = Instant::now();
        for number in [1, 10, 20, 30, 40, 50, 60, 70, 80, 90] {
            reorder.push(1, number, &[0; 65_000], t0);
            while reorder.pop(t0).is_some() {}
            assert!(reorder.held_bytes <= BYTES_MAX + 65_000);
        }
        assert!(reorder.overflows > 0);
    }

    proptest! {
        #[test]
        fn any_numbers_come_out_at_most_once_between_two_beginnings(
            numbers in proptest::collection::vec(0u16..64, 0..200),
        ) {
            let out = order(&numbers);
            prop_assert!(out.is_sorted_by(|a, b| a < b), "{:?}", out);
        }
    }
}
