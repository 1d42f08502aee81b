//! The machine: thread pools, log, signals, clock, what `/proc` tells.

pub mod clock;
pub mod log;
pub mod log_recent;
pub mod memory;
pub mod pool;
pub mod signal;
pub mod stats;
pub mod wait;
