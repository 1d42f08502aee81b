//! Buffers between ingest and the recorder.
//!
//! `ring` holds one stream's packets, `board_core` all rings, `spill_core` the swap file's blocks and bytes,
//! `pressure_core` says when memory is short (all pure); `spill` is the shell around them.

pub mod board_core;
#[cfg(test)]
pub(crate) mod buffer_tests;
pub mod pressure_core;
pub mod ring;
pub mod spill;
pub mod spill_core;
