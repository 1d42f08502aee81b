//! Streams: one configured feed each, from its source to the recorder.
//!
//! `hub` is where a source delivers and readers take; `supervisor` keeps the source running, `sub` the sub-stream;
//! `backoff_core`, `meter_core`, `stamp_core` and `wall_core` decide (pure).

pub mod backoff_core;
pub mod hub;
pub mod meter_core;
pub mod stamp_core;
pub mod sub;
pub mod supervisor;
pub mod trial;
pub mod trial_core;
pub mod wall_core;
