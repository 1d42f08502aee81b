//! What the gate has seen, as numbers: how often each bound was reached (ALL-BOUNDED).
//!
//! In here: the counters, and a copy of them. Only the executor writes; relaxed atomics let the REST
//! layer's threads and the tests read without asking it.

use std::sync::atomic::{AtomicU64, Ordering};

/// One number that the gate counts up (or, for `open`, up and down).
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// One more.
    pub fn add(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    /// Replaces the number: for gauges.
    pub fn set(&self, n: u64) {
        self.0.store(n, Ordering::Relaxed);
    }

    /// The number now.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),* $(,)?) => {
        /// The gate's counters since the program began.
        #[derive(Debug, Default)]
        pub struct Counters { $($(#[$doc])* pub $name: Count),* }

        impl Counters {
            /// Every counter with its name, in order of declaration.
            pub fn list(&self) -> Vec<(&'static str, u64)> {
                vec![$((stringify!($name), self.$name.get())),*]
            }
        }
    };
}

counters! {
    /// Connections taken from the listener.
    accepted,
    /// Connections open now (a gauge).
    open,
    /// Requests whose head was in order.
    requests,
    /// `accept` gave an error, a full table of file descriptors included.
    accept_errors,
    /// Waiting or stalled connections closed to make room for a new one.
    closed_for_room,
    /// New connections closed because every one of the cap was at work.
    refused_busy,
    /// Connections closed because no head, or no whole one, came in time.
    closed_idle,
    /// Connections closed because a further reply needed the memory that theirs held.
    closed_for_memory,
    /// Connections closed because their reader stood still.
    closed_stalled,
    /// Requests with a head or body against the rules (400, 408, 413, 414, 417, 431, 505).
    bad_framing,
    /// Requests with a wrong `Host` or `Origin` (403).
    forbidden,
    /// Requests over the rate (429).
    rate_limited,
    /// Requests without a password where one is needed (401).
    auth_missing,
    /// Requests with a wrong password (401).
    auth_wrong,
    /// Requests of an address with too many wrong passwords (429).
    auth_limited,
    /// Requests that found too many passwords being checked (503).
    auth_busy,
    /// Sessions that ended because the table was full and another one logged in.
    sessions_displaced,
    /// Requests that found the queue to the REST layer full (503).
    upstream_full,
    /// Exchanges with the REST layer that failed or took too long.
    upstream_failed,
    /// Replies that did not fit into what slow readers may hold in memory (503).
    replies_full,
    /// Requests whose body found no room among those that are under way (503).
    bodies_full,
    /// Files asked for while as many as allowed were being sent, in all or to that address (503).
    files_full,
    /// Files that ended, or could not be read, before what was promised.
    files_short,
}
