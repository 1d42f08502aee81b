//! The machine: thread pools, log, signals, what `/proc` tells.

pub mod pool;
