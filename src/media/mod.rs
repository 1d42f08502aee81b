//! Media formats: packets, codecs' parameter sets, RTP-free payload conversion, fragmented MP4.
//!
//! Keeps PURE-CORE: bytes in, values out; no sockets, files, clock, threads or `async`.

pub mod aac;
pub mod bits;
pub mod flac;
pub mod fmp4;
mod fmp4_entry;
mod fmp4_fragment;
mod fmp4_index;
pub mod fmp4_join;
pub mod fmp4_moof;
pub mod fmp4_scan;
pub mod format;
pub mod g711;
pub mod h264;
pub mod h265;
mod h265_sps;
#[cfg(test)]
pub(crate) mod media_clip;
#[cfg(test)]
pub(crate) mod media_tool;
pub mod mp4_box;
pub mod nal;
pub mod packet;
pub mod reorder;
