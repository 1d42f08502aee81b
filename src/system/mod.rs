//! The machine: thread pools, log, signals, clock, what `/proc` tells.

pub mod clock;
pub mod log;
pub mod memory;
pub mod notify;
pub mod pool;
pub mod signal;
pub mod stats;
pub mod wait;
