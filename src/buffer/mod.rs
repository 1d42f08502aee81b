//! Buffers between ingest and the recorder.

pub mod ring;
