//! Media formats: packets, codecs' parameter sets, RTP-free payload conversion, fragmented MP4.
//!
//! Keeps PURE-CORE: bytes in, values out; no sockets, files, clock, threads or `async`.

pub mod format;
pub mod packet;
