//! The owner of all mutable state: configuration, streams, running recordings (ONE-OWNER).
//!
//! It lives on the executor thread. Other threads read a `Snapshot` or send a `Command`.
//! `state` holds it, `apply` carries out commands, `start` puts the program together.

pub mod apply;
pub mod command;
mod export;
pub mod gauges;
pub mod ledger;
pub mod orders;
pub mod pulse;
mod restore;
pub mod retain;
pub mod snapshot;
pub mod start;
pub mod state;
pub mod swap;
mod trial;
mod update;
