//! The open connections, and who has to go when there is no room.
//!
//! In here: the caps and the choice. Not in here: sockets; a connection is whatever owns it (`T`, its
//! task), and closing is dropping that. Time comes in as milliseconds.
//! Invariant C1: never more than `Caps` says. C2: ids are never used again.

use crate::http::rate_core::PeerKey;

/// How many connections may be open.
#[derive(Clone, Copy, Debug)]
pub struct Caps {
    pub all: usize,
    /// Of one address, see [`PeerKey`].
    pub per_peer: usize,
}

/// What a connection is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Since then it owes us something: a head, the rest of one, or a body. It may be closed.
    Waiting { since_ms: u64 },
    /// We owe it an answer.
    Busy,
    /// It takes its time over a reply that is held in memory for it.
    Reading { since_ms: u64 },
}

#[derive(Debug)]
struct Entry<T> {
    id: u64,
    peer: PeerKey,
    state: State,
    /// Since then it has taken nothing of what we write.
    stalled_since_ms: Option<u64>,
    /// Absent only while the task is being started.
    owner: Option<T>,
}

/// What to do with a new connection.
#[derive(Debug)]
pub enum Admission<T> {
    /// There is room.
    Room,
    /// There is room now that this one is closed.
    Replaces(Option<T>),
    /// Every connection of the cap is at work.
    Refused,
}

/// Every open connection.
#[derive(Debug)]
pub struct ConnTable<T> {
    caps: Caps,
    entries: Vec<Entry<T>>,
    next_id: u64,
}

impl<T> ConnTable<T> {
    pub fn new(caps: Caps) -> Self {
        Self { caps, entries: Vec::new(), next_id: 0 }
    }

    pub fn len(&self) -> usize {
        self.entries.len()
    }

    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Makes room for a connection of `peer`: at its cap one of its own goes, else at the cap of all
    /// anyone's. It is the one that waits longest since it was opened or last answered; how much of
    /// a head has come does not matter, or a trickle of bytes would keep a place for ever. Where nobody
    /// waits, it is the one that has taken nothing for longest, if that began before `stalled_before_ms`.
    pub fn admit(&mut self, peer: PeerKey, stalled_before_ms: Option<u64>) -> Admission<T> {
        let own = self.entries.iter().filter(|e| e.peer == peer).count();
        let of = if own >= self.caps.per_peer {
            Some(peer)
        } else if self.entries.len() >= self.caps.all {
            None
        } else {
            return Admission::Room;
        };
        match self.longest_waiting(of).or_else(|| self.longest_stalled(of, stalled_before_ms)) {
            Some(slot) => Admission::Replaces(self.entries.swap_remove(slot).owner),
            None => Admission::Refused,
        }
    }

    /// Enters a connection that was admitted; the caller hands its owner in with [`Self::own`].
    pub fn enter(&mut self, peer: PeerKey, now_ms: u64) -> u64 {
        let id = self.next_id;
        self.next_id += 1;
        let state = State::Waiting { since_ms: now_ms };
        self.entries.push(Entry { id, peer, state, stalled_since_ms: None, owner: None });
        id
    }

    /// Hands in who owns connection `id`; gives it back if that is gone already.
    pub fn own(&mut self, id: u64, owner: T) -> Option<T> {
        match self.entry(id) {
            Some(entry) => entry.owner.replace(owner),
            None => Some(owner),
        }
    }

    /// We owe the connection an answer from now on.
    pub fn mark_busy(&mut self, id: u64) {
        if let Some(entry) = self.entry(id) {
            entry.state = State::Busy;
        }
    }

    /// The connection owes us something from now on.
    pub fn mark_waiting(&mut self, id: u64, now_ms: u64) {
        if let Some(entry) = self.entry(id) {
            entry.state = State::Waiting { since_ms: now_ms };
        }
    }

    /// The connection takes nothing since then, or has taken all.
    pub fn mark_stalled(&mut self, id: u64, since_ms: Option<u64>) {
        if let Some(entry) = self.entry(id) {
            entry.stalled_since_ms = since_ms;
        }
    }

    /// The connection is being sent a reply that is held in memory.
    pub fn mark_reading(&mut self, id: u64, now_ms: u64) {
        if let Some(entry) = self.entry(id) {
            entry.state = State::Reading { since_ms: now_ms };
        }
    }

    /// Takes out who reads longest at a reply that is held in memory: what to close when there is no
    /// room for a further one.
    pub fn remove_slowest_reader(&mut self) -> Option<T> {
        let readers = self.entries.iter().enumerate().filter_map(|(slot, e)| match e.state {
            State::Reading { since_ms } => Some((since_ms, e.id, slot)),
            State::Waiting { .. } | State::Busy => None,
        });
        let (_, _, slot) = readers.min()?;
        self.entries.swap_remove(slot).owner
    }

    /// Takes connection `id` out; the caller drops what it gets after letting go of the table.
    pub fn remove(&mut self, id: u64) -> Option<T> {
        let slot = self.entries.iter().position(|e| e.id == id)?;
        self.entries.swap_remove(slot).owner
    }

    /// Takes out up to `n` that wait longest: what to close when the system has no more descriptors.
    pub fn remove_longest_waiting(&mut self, n: usize) -> Vec<T> {
        let mut closed = Vec::new();
        for _ in 0..n {
            let Some(slot) = self.longest_waiting(None) else { break };
            closed.extend(self.entries.swap_remove(slot).owner);
        }
        closed
    }

    /// Takes every connection out.
    pub fn drain(&mut self) -> Vec<T> {
        self.entries.drain(..).filter_map(|e| e.owner).collect()
    }

    fn entry(&mut self, id: u64) -> Option<&mut Entry<T>> {
        self.entries.iter_mut().find(|e| e.id == id)
    }

    fn longest_waiting(&self, peer: Option<PeerKey>) -> Option<usize> {
        let of_peer = |e: &Entry<T>| peer.is_none_or(|peer| e.peer == peer);
        let waiting = self.entries.iter().enumerate().filter(|(_, e)| of_peer(e));
        waiting
            .filter_map(|(slot, e)| match e.state {
                State::Waiting { since_ms } => Some((since_ms, e.id, slot)),
                State::Busy | State::Reading { .. } => None,
            })
            .min()
            .map(|(_, _, slot)| slot)
    }

    fn longest_stalled(&self, peer: Option<PeerKey>, before_ms: Option<u64>) -> Option<usize> {
        let of_peer = |e: &Entry<T>| peer.is_none_or(|peer| e.peer == peer);
        let stalled = self.entries.iter().enumerate().filter(|(_, e)| of_peer(e));
        stalled
            .filter_map(|(slot, e)| Some((e.stalled_since_ms?, e.id, slot)))
            .filter(|(since_ms, ..)| Some(*since_ms) <= before_ms)
            .min()
            .map(|(_, _, slot)| slot)
    }

    /// Panics when C1 or C2 is broken.
    pub fn check(&self) {
        assert!(self.entries.len() <= self.caps.all, "C1: cap of all");
        for (n, entry) in self.entries.iter().enumerate() {
            let own = self.entries.iter().filter(|e| e.peer == entry.peer).count();
            assert!(own <= self.caps.per_peer, "C1: cap of one address");
            assert!(entry.id < self.next_id, "C2: ids come from the counter");
            assert!(self.entries[..n].iter().all(|e| e.id != entry.id), "C2: ids are unique");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use proptest::prelude::*;

    use super::*;

    const CAPS: Caps = Caps { all: 6, per_peer: 3 };

    fn peer(n: u8) -> PeerKey {
        PeerKey::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, n)))
    }

    /// Enters a connection of `peer` whose owner is its own id.
    fn open(table: &mut ConnTable<u64>, n: u8, now_ms: u64) -> u64 {
        let id = table.enter(peer(n), now_ms);
        assert_eq!(table.own(id, id), None);
        id
    }

    #[test]
    fn at_its_cap_an_address_loses_its_own_longest_waiting() {
        let mut table = ConnTable::new(CAPS);
        let other = open(&mut table, 9, 1);
        let ids = [2, 3, 4].map(|now_ms| open(&mut table, 1, now_ms));
        table.mark_waiting(ids[0], 5); // answered in between: ids[1] waits longest now
        let Admission::Replaces(Some(closed)) = table.admit(peer(1), None) else {
            panic!("no room made")
        };
        assert_eq!(closed, ids[1]);
        assert_eq!(table.remove(other), Some(other), "another address is not concerned");
    }

    #[test]
    fn at_the_cap_of_all_anyone_who_waits_longest_goes_but_nobody_at_work() {
        let mut table = ConnTable::new(CAPS);
        let ids = [1, 1, 2, 2, 3, 3].map(|n| open(&mut table, n, 7));
        table.mark_busy(ids[0]);
        let Admission::Replaces(Some(closed)) = table.admit(peer(4), None) else {
            panic!("no room made")
        };
        assert_eq!(closed, ids[1], "of equal times the older connection");
        for id in ids {
            table.mark_busy(id);
        }
        open(&mut table, 4, 8);
        table.mark_busy(6);
        assert!(matches!(table.admit(peer(5), Some(99)), Admission::Refused));
        assert_eq!(table.remove_longest_waiting(3), Vec::<u64>::new());
    }

    #[test]
    fn where_all_are_at_work_the_longest_stalled_goes_if_it_is_long() {
        let mut table = ConnTable::new(CAPS);
        let ids = [1, 1, 1, 2, 2, 2].map(|n| open(&mut table, n, 7));
        ids.iter().for_each(|id| table.mark_busy(*id));
        table.mark_stalled(ids[1], Some(20));
        table.mark_stalled(ids[4], Some(10));
        assert!(matches!(table.admit(peer(3), None), Admission::Refused));
        assert!(matches!(table.admit(peer(3), Some(9)), Admission::Refused), "not long enough");
        let Admission::Replaces(Some(closed)) = table.admit(peer(1), Some(30)) else {
            panic!("no room made")
        };
        assert_eq!(closed, ids[1], "at its own cap one of its own");
        open(&mut table, 1, 30);
        table.mark_busy(6);
        table.mark_stalled(ids[4], None);
        assert!(matches!(table.admit(peer(3), Some(30)), Admission::Refused), "it moves again");
        table.mark_stalled(ids[4], Some(25));
        table.mark_stalled(ids[5], Some(24));
        let Admission::Replaces(Some(closed)) = table.admit(peer(3), Some(30)) else {
            panic!("no room made")
        };
        assert_eq!(closed, ids[5]);
    }

    #[test]
    fn the_slowest_reader_goes_when_replies_need_room() {
        let mut table = ConnTable::new(CAPS);
        let ids = [1, 2, 3].map(|n| open(&mut table, n, 7));
        assert_eq!(table.remove_slowest_reader(), None);
        table.mark_reading(ids[0], 9);
        table.mark_reading(ids[1], 8);
        table.mark_busy(ids[2]);
        assert_eq!(table.remove_slowest_reader(), Some(ids[1]));
        assert_eq!(table.remove_slowest_reader(), Some(ids[0]));
        assert_eq!(table.remove_slowest_reader(), None);
    }

    proptest! {
        #[test]
        fn caps_hold_and_waiting_ones_never_keep_a_new_one_out(
            steps in prop::collection::vec((0_u8..4, 0_u8..5, any::<prop::sample::Index>()), 1..200),
        ) {
            let mut table = ConnTable::new(CAPS);
            let mut open_ids: Vec<u64> = Vec::new();
            let mut busy = 0_usize;
            for (now_ms, (action, n, pick)) in steps.into_iter().enumerate() {
                let now_ms = now_ms as u64;
                let chosen = (!open_ids.is_empty()).then(|| *pick.get(&open_ids));
                match (action, chosen) {
                    (0, _) => {
                        match table.admit(peer(n), None) {
                            Admission::Replaces(closed) => {
                                let closed = closed.expect("every entry has an owner");
                                open_ids.retain(|id| *id != closed);
                            }
                            Admission::Room => {}
                            Admission::Refused => {
                                prop_assert!(busy >= CAPS.per_peer, "only work keeps one out");
                                continue;
                            }
                        }
                        open_ids.push(open(&mut table, n, now_ms));
                    }
                    (1, Some(id)) => table.mark_busy(id),
                    (2, Some(id)) => table.mark_waiting(id, now_ms),
                    (3, Some(id)) => {
                        prop_assert_eq!(table.remove(id), Some(id));
                        open_ids.retain(|other| *other != id);
                    }
                    _ => {}
                }
                table.check();
                prop_assert_eq!(table.len(), open_ids.len());
                busy = table.entries.iter().filter(|e| e.state == State::Busy).count();
            }
        }
    }
}
