//! A number of things that may be held at once, given back by dropping.
//!
//! In here: counting. Not in here: waiting for a free one, or what to answer when there is none.

use std::cell::Cell;
use std::rc::Rc;

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

impl Drop for Held {
    fn drop(&mut self) {
        self.quota.used.set(self.quota.used.get() - self.units);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
