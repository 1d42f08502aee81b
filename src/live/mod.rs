//! Live view: what a stream delivers now, for whoever watches.
//!
//! In here: the recent packets of a stream in a budget of their own, HLS, fragmented MP4 over WebSocket,
//! MJPEG and snapshots, and who may watch. Runs as tasks of the gate on the executor, once the REST layer has authorised a
//! request. A slow viewer loses frames, never memory; the recorder does not notice that anyone watches.

pub mod cursor_core;
pub mod feed;
pub mod fragment_core;
pub mod hls;
pub mod jpeg;
pub mod mjpeg_core;
pub mod picture_codec;
pub mod picture_core;
pub mod playlist_core;
pub mod service;
pub mod snapshot;
pub mod sub_feed;
pub mod viewers_core;
pub mod window_core;
pub mod ws;
pub mod ws_core;
