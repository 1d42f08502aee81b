//! The device around the recorder: what `lightnvr init` and `lightnvr keep` do on the SD card's image.
//!
//! In here: growing the data partition, the owner's setup file, the recorder as a child with back-off, the hardware
//! watchdog, the password's file, the clock. These run as root and take from the LAN nothing but names and times; the
//! recorder itself runs as a user of its own. Not in here: recording.

pub mod boot_files;
pub mod grow;
pub mod init;
pub mod keep;
mod kept_log;
pub mod mbr_core;
pub mod mdns;
pub mod setup_core;
pub mod sntp;
pub mod sntp_core;
pub mod time_server;
pub mod time_server_core;
pub mod update;
pub mod watch_core;

/// The recorder's user and group in `rootfs-overlay/etc/passwd`.
pub const RECORDER_ID: u32 = 900;
/// Where the boot partition is mounted, read-only but for moments.
pub const BOOT_DIR: &str = "/boot";
/// What the running system keeps in RAM.
pub const RUN_DIR: &str = "/run/lightnvr";
/// Below it: what the recorder reads of updates.
pub const UPDATE_DIR: &str = "/run/lightnvr/update";
/// Where the data partition is mounted.
pub const DATA_MOUNT: &str = "/data";
/// Below `DATA_MOUNT`: what the device itself keeps (Wi-Fi, time, log), for root alone.
pub const DEVICE_DIR: &str = "/data/device";
/// Below `RUN_DIR`: the set-up file wants cameras to be told the time.
const TIME_SERVER_MARK: &str = "time-server";
