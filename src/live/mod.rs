//! Live view: what viewers get of a stream while they look.

pub mod picture_codec;
pub mod picture_core;
