//! Streams: one configured feed each, from its source to the recorder.
//!
//! `hub` is where a source delivers and readers take; `supervisor` keeps the source running; `backoff_core` and
//! `meter_core` and `wall_core` decide (pure).

pub mod backoff_core;
pub mod hub;
pub mod meter_core;
pub mod supervisor;
pub mod wall_core;

#[cfg(test)]
mod week_tests;
