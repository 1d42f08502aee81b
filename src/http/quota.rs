//! A number of things that may be held at once, given back by dropping.
//!
//! In here: counting, also by address. Not in here: waiting for a free one, or what to answer when there is none.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use crate::http::rate_core::PeerKey;

/// At most `max` units may be held at a time.
#[derive(Debug)]
pub struct Quota {
    used: Cell<usize>,
    max: usize,
}

/// Units taken from a [`Quota`]; dropping gives them back.
#[derive(Debug)]
pub struct Held {
    quota: Rc<Quota>,
    units: usize,
}

impl Quota {
    pub fn new(max: usize) -> Rc<Self> {
        Rc::new(Self { used: Cell::new(0), max })
    }

    /// Takes `units`, or none at all when fewer are left.
    pub fn take(self: &Rc<Self>, units: usize) -> Option<Held> {
        let used = self.used.get().checked_add(units).filter(|used| *used <= self.max)?;
        self.used.set(used);
        Some(Held { quota: Rc::clone(self), units })
    }
}

impl Held {
    /// How many units these are.
    pub fn units(&self) -> usize {
        self.units
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.quota.used.set(self.quota.used.get() - self.units);
    }
}

/// At most `max` things at a time, and `per_peer` of one address.
#[derive(Debug)]
pub struct Shares {
    /// One entry for each thing.
    holders: RefCell<Vec<PeerKey>>,
    max: usize,
    per_peer: usize,
}

/// One thing of [`Shares`]; dropping gives it back.
#[derive(Debug)]
pub struct Share {
    shares: Rc<Shares>,
    peer: PeerKey,
}

impl Shares {
    pub fn new(max: usize, per_peer: usize) -> Rc<Self> {
        Rc::new(Self { holders: RefCell::default(), max, per_peer })
    }

    /// Takes one for `peer`, unless all are taken or it has its share.
    pub fn take(self: &Rc<Self>, peer: PeerKey) -> Option<Share> {
        let mut holders = self.holders.borrow_mut();
        let own = holders.iter().filter(|holder| **holder == peer).count();
        if holders.len() >= self.max || own >= self.per_peer {
            return None;
        }
        holders.push(peer);
        Some(Share { shares: Rc::clone(self), peer })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut holders = self.shares.holders.borrow_mut();
        if let Some(at) = holders.iter().position(|holder| *holder == self.peer) {
            holders.swap_remove(at);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    #[test]
    fn one_address_has_its_share_and_all_together_theirs() {
        let peer = |n| PeerKey::new(IpAddr::V4(Ipv4Addr::new(10, 0, 0, n)));
        let shares = Shares::new(3, 2);
        let mut held: Vec<Share> =
            [1, 1].iter().map(|n| shares.take(peer(*n)).expect("its share")).collect();
        assert!(shares.take(peer(1)).is_none(), "its share is two");
        held.push(shares.take(peer(2)).expect("another's"));
        assert!(shares.take(peer(3)).is_none(), "three of all");
        drop(held.remove(0));
        assert!(shares.take(peer(1)).is_some());
        drop(held);
        assert!(shares.holders.borrow().is_empty());
    }

    #[test]
    fn what_is_dropped_can_be_taken_again() {
        let quota = Quota::new(3);
        let two = quota.take(2).expect("room for two");
        assert!(quota.take(2).is_none());
        assert!(quota.take(usize::MAX).is_none());
        let one = quota.take(1).expect("room for one");
        drop(two);
        assert!(quota.take(2).is_some());
        drop(one);
        assert_eq!(quota.used.get(), 0);
    }
}
