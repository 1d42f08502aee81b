//! Updates of a device: what the recorder, which takes a bundle in, and `lightnvr keep`, which installs it, both know.
//!
//! In here: the bundle (`bundle_core`), the order of steps by which a slot is written, tried and confirmed, whatever
//! step the power goes in (`update_core`), and what both tell each other in files below `/run` (`desk`). Not in here:
//! the upload (`nvr/update`), writing slots (`appliance/update`).

pub mod bundle_core;
pub mod desk;
pub mod update_core;
