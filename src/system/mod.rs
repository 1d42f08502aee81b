//! The machine: thread pools, the main thread's loop, log, signals, clock, what `/proc` tells.

pub mod clock;
pub mod drive;
pub mod log;
pub mod log_recent;
pub mod memory;
pub mod notify;
pub mod pool;
pub mod signal;
pub mod stats;
pub mod wait;
