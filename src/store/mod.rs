//! The embedded store (redb): streams, settings, recordings, the password's hash.
//!
//! ONE-DOOR: redb is named here alone. Writes happen on the disk thread, reads anywhere.

pub mod row;
