//! Media formats: packets, codecs' parameter sets, RTP-free payload conversion, fragmented MP4.
//!
//! Keeps PURE-CORE: bytes in, values out; no sockets, files, clock, threads or `async`.

pub mod aac;
pub mod bits;
pub mod flac;
pub mod format;
pub mod g711;
pub mod h264;
pub mod h265;
mod h265_sps;
#[cfg(test)]
mod media_tool;
pub mod nal;
pub mod packet;
pub mod reorder;
