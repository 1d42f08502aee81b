//! Who watches what, and whether one more may.
//!
//! In here: the account of viewers. A socket or an endless picture counts while it is open; of HLS, which
//! is many requests, an address counts for three target durations after its last one. Keeps PURE-CORE.

use super::window_core::WINDOW_S_MIN;
use crate::http::rate_core::PeerKey;

/// How long an address counts as a viewer after a request.
pub const HLS_VIEWER_MS: u64 = WINDOW_S_MIN as u64 * 1000;
/// So many viewers may all watch one stream; of more places the other streams are left half.
const STREAM_VIEWERS_FREE: usize = 8;

#[derive(Debug)]
struct Entry {
    id: u64,
    stream: u32,
    /// Of HLS: whose, and when it asked last.
    asked: Option<(PeerKey, u64)>,
}

/// Every viewer.
#[derive(Debug, Default)]
pub struct Viewers {
    entries: Vec<Entry>,
    next_id: u64,
    /// How often one was refused.
    pub refused: u64,
}

impl Viewers {
    /// Counts a request of HLS; false when there are `max` viewers, or too many of this stream.
    pub fn ask(&mut self, stream: u32, peer: PeerKey, now_ms: u64, max: usize) -> bool {
        let known = self.entries.iter_mut().find(|entry| {
            entry.stream == stream && entry.asked.is_some_and(|(known, _)| known == peer)
        });
        if let Some(entry) = known {
            entry.asked = Some((peer, now_ms));
            return true;
        }
        self.enter(stream, Some((peer, now_ms)), now_ms, max).is_some()
    }

    /// Counts an endless viewer until `leave` is called with what this gives.
    pub fn open(&mut self, stream: u32, now_ms: u64, max: usize) -> Option<u64> {
        self.enter(stream, None, now_ms, max)
    }

    /// The endless viewer has gone.
    pub fn leave(&mut self, id: u64) {
        self.entries.retain(|entry| entry.id != id);
    }

    /// Viewers at this time.
    pub fn count(&mut self, now_ms: u64) -> usize {
        self.forget(now_ms);
        self.entries.len()
    }

    fn enter(
        &mut self,
        stream: u32,
        asked: Option<(PeerKey, u64)>,
        now_ms: u64,
        max: usize,
    ) -> Option<u64> {
        self.forget(now_ms);
        let of_stream = self.entries.iter().filter(|entry| entry.stream == stream).count();
        if self.entries.len() >= max || of_stream >= stream_max(max) {
            self.refused += 1;
            return None;
        }
        self.next_id += 1;
        self.entries.push(Entry { id: self.next_id, stream, asked });
        Some(self.next_id)
    }

    fn forget(&mut self, now_ms: u64) {
        self.entries.retain(|entry| {
            entry.asked.is_none_or(|(_, at)| now_ms.saturating_sub(at) < HLS_VIEWER_MS)
        });
    }
}

/// Viewers of one stream where there may be `max` in all.
fn stream_max(max: usize) -> usize {
    max.div_ceil(2).max(STREAM_VIEWERS_FREE).min(max)
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    fn peer(n: u8) -> PeerKey {
        PeerKey::new(IpAddr::V4(Ipv4Addr::new(192, 168, 0, n)))
    }

    #[test]
    fn an_address_counts_once_per_stream_and_until_it_stops_asking() {
        let mut viewers = Viewers::default();
        assert!(viewers.ask(0, peer(1), 0, 2) && viewers.ask(0, peer(1), 10, 2));
        assert!(viewers.ask(1, peer(1), 10, 2));
        assert!(!viewers.ask(0, peer(2), 10 + HLS_VIEWER_MS - 1, 2));
        assert!(viewers.ask(0, peer(2), 10 + HLS_VIEWER_MS, 2));
        assert_eq!((viewers.count(10 + HLS_VIEWER_MS), viewers.refused), (1, 1));
    }

    #[test]
    fn one_stream_does_not_take_all_places() {
        let mut viewers = Viewers::default();
        let ids: Vec<_> = (0..50).filter_map(|_| viewers.open(0, 0, 32)).collect();
        assert_eq!(ids.len(), 16);
        assert!(viewers.open(1, 0, 32).is_some());
        viewers.leave(ids[3]);
        assert!(viewers.open(0, 0, 32).is_some() && viewers.open(0, 0, 32).is_none());
        assert_eq!([1, 2, 8, 9, 128].map(stream_max), [1, 2, 8, 8, 64]);
    }
}
