//! The owner of all mutable state: configuration, streams, running recordings (ONE-OWNER).
//!
//! It lives on the executor thread. Other threads read a `Snapshot` or send a `Command`.

pub mod command;
pub mod snapshot;
