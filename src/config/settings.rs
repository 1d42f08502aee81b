//! The settings: fields, defaults, ranges.
//!
//! In here: the rules for each field. Not in here: whether a directory can be written, a port bound, a
//! number of streams kept (`nvr/`). Keeps PURE-CORE.

use std::ops::RangeInclusive;

use super::{FieldError, check_range};

/// `max_storage_size` in bytes, 0 for no limit of our own.
pub const MAX_STORAGE_SIZE_RANGE: RangeInclusive<u64> = 0..=1 << 62;
/// `retention_days`, 0 for "until space is needed".
pub const RETENTION_DAYS_RANGE: RangeInclusive<u64> = 0..=36_500;
/// `web_port`.
pub const WEB_PORT_RANGE: RangeInclusive<u64> = 1..=65_535;
/// `max_streams`.
pub const MAX_STREAMS_RANGE: RangeInclusive<u64> = 1..=512;
/// `buffer_size` in KiB of RAM per stream.
pub const BUFFER_SIZE_RANGE: RangeInclusive<u64> = 256..=65_536;
/// `swap_size` in bytes.
pub const SWAP_SIZE_RANGE: RangeInclusive<u64> = 0..=1 << 40;
/// `segment_seconds`.
pub const SEGMENT_SECONDS_RANGE: RangeInclusive<u64> = 10..=3600;
/// `hls_window_seconds`: at least three times the target duration of 6 s (RFC 8216bis section 6.2.2).
pub const HLS_WINDOW_SECONDS_RANGE: RangeInclusive<u64> = 18..=300;
/// `max_viewers`, over all streams.
pub const MAX_VIEWERS_RANGE: RangeInclusive<u64> = 1..=128;
/// Longest list in `allowed_hosts`.
pub const ALLOWED_HOSTS_MAX: usize = 16;
/// Longest host name in bytes (RFC 1035 section 2.3.4, in text form).
pub const HOST_BYTES_MAX: usize = 253;
/// The swap file's name in the data directory, unless a setting says otherwise.
const SWAP_NAME: &str = "lightnvr.swap";
/// Longest `storage_path` and `swap_path` in bytes: room for the names below it within PATH_MAX (4096).
pub const STORAGE_PATH_BYTES_MAX: usize = 3072;

/// Every setting, in the order in which the API answers them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// Absolute path of the directory of recordings.
    pub storage_path: String,
    /// Bytes, 0 for no limit of our own.
    pub max_storage_size: u64,
    pub retention_days: u32,
    pub auto_delete_oldest: bool,
    pub web_port: u16,
    pub web_auth_enabled: bool,
    pub max_streams: u16,
    /// KiB of RAM per stream.
    pub buffer_size: u32,
    pub use_swap: bool,
    /// Bytes of the swap file.
    pub swap_size: u64,
    pub hw_accel_enabled: bool,
    /// Length of a recording in seconds.
    pub segment_seconds: u32,
    /// Seconds that a playlist of live view goes back.
    pub hls_window_seconds: u32,
    pub max_viewers: u16,
    /// Further host names under which the page may be reached.
    pub allowed_hosts: Vec<String>,
    /// Absolute path of the swap file.
    pub swap_path: String,
}

/// Any subset of the settings, each field already in its range.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SettingsPatch {
    pub storage_path: Option<String>,
    pub max_storage_size: Option<u64>,
    pub retention_days: Option<u32>,
    pub auto_delete_oldest: Option<bool>,
    pub web_port: Option<u16>,
    pub web_auth_enabled: Option<bool>,
    pub max_streams: Option<u16>,
    pub buffer_size: Option<u32>,
    pub use_swap: Option<bool>,
    pub swap_size: Option<u64>,
    pub hw_accel_enabled: Option<bool>,
    pub segment_seconds: Option<u32>,
    pub hls_window_seconds: Option<u32>,
    pub max_viewers: Option<u16>,
    pub allowed_hosts: Option<Vec<String>>,
    pub swap_path: Option<String>,
}

impl Settings {
    /// The defaults of a fresh data directory; `storage_path` is in it, and the swap file beside it.
    pub fn new(storage_path: String) -> Self {
        let data_dir = storage_path.rsplit_once('/').map_or("", |(parent, _)| parent);
        Self {
            swap_path: format!("{data_dir}/{SWAP_NAME}"),
            storage_path,
            max_storage_size: 0,
            retention_days: 30,
            auto_delete_oldest: true,
            web_port: 8080,
            web_auth_enabled: true,
            max_streams: 16,
            buffer_size: 1024,
            use_swap: true,
            swap_size: 134_217_728,
            hw_accel_enabled: false,
            segment_seconds: 900,
            hls_window_seconds: 18,
            max_viewers: 32,
            allowed_hosts: Vec::new(),
        }
    }

    /// An error that names the first field outside its range.
    pub fn check(&self) -> Result<(), FieldError> {
        check_path("storage_path", &self.storage_path)?;
        check_range("max_storage_size", self.max_storage_size, &MAX_STORAGE_SIZE_RANGE)?;
        check_range("retention_days", self.retention_days.into(), &RETENTION_DAYS_RANGE)?;
        check_range("web_port", self.web_port.into(), &WEB_PORT_RANGE)?;
        check_range("max_streams", self.max_streams.into(), &MAX_STREAMS_RANGE)?;
        check_range("buffer_size", self.buffer_size.into(), &BUFFER_SIZE_RANGE)?;
        check_range("swap_size", self.swap_size, &SWAP_SIZE_RANGE)?;
        check_hw_accel(self.hw_accel_enabled)?;
        check_range("segment_seconds", self.segment_seconds.into(), &SEGMENT_SECONDS_RANGE)?;
        let window = u64::from(self.hls_window_seconds);
        check_range("hls_window_seconds", window, &HLS_WINDOW_SECONDS_RANGE)?;
        check_range("max_viewers", self.max_viewers.into(), &MAX_VIEWERS_RANGE)?;
        check_allowed_hosts(&self.allowed_hosts)?;
        check_path("swap_path", &self.swap_path)
    }

    /// These settings with `patch` applied.
    pub fn patched(&self, patch: &SettingsPatch) -> Self {
        macro_rules! pick {
            ($($field:ident),*) => {
                Self { $($field: patch.$field.clone().unwrap_or_else(|| self.$field.clone())),* }
            };
        }
        pick!(
            storage_path,
            max_storage_size,
            retention_days,
            auto_delete_oldest,
            web_port,
            web_auth_enabled,
            max_streams,
            buffer_size,
            use_swap,
            swap_size,
            hw_accel_enabled,
            segment_seconds,
            hls_window_seconds,
            max_viewers,
            allowed_hosts,
            swap_path
        )
    }
}

/// An error that names `field` unless `path` is absolute and free of what makes two texts name one place.
pub fn check_path(field: &'static str, path: &str) -> Result<(), FieldError> {
    let bad = |what: String| Err(FieldError::new(field, what));
    if path.len() > STORAGE_PATH_BYTES_MAX {
        let len = path.len();
        return bad(format!("must be at most {STORAGE_PATH_BYTES_MAX} bytes, got {len}"));
    }
    if !path.starts_with('/') {
        return bad("must be an absolute path, such as /var/lib/lightnvr/recordings".into());
    }
    if let Some(c) = path.chars().find(|c| c.is_control()) {
        return bad(format!("must not hold the character U+{:04X}", u32::from(c)));
    }
    if path.split('/').any(|part| part == "." || part == "..") {
        return bad("must not hold the parts . and ..".into());
    }
    Ok(())
}

/// An error for `true`: no hardware decoder is supported yet.
pub fn check_hw_accel(enabled: bool) -> Result<(), FieldError> {
    if enabled {
        let what = "must be false: this machine has no hardware decoder that LightNVR can use";
        return Err(FieldError::new("hw_accel_enabled", what));
    }
    Ok(())
}

/// An error unless there are at most 16 host names, each of letters, digits, `-`, `.` and `_`.
pub fn check_allowed_hosts(hosts: &[String]) -> Result<(), FieldError> {
    let bad = |what: String| Err(FieldError::new("allowed_hosts", what));
    if hosts.len() > ALLOWED_HOSTS_MAX {
        return bad(format!("must be at most {ALLOWED_HOSTS_MAX} host names, got {}", hosts.len()));
    }
    let is_host_char = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    let is_host =
        |h: &String| (1..=HOST_BYTES_MAX).contains(&h.len()) && h.chars().all(is_host_char);
    match hosts.iter().position(|h| !is_host(h)) {
        Some(at) => bad(format!(
            "entry {} must be a host name of 1 to {HOST_BYTES_MAX} letters, digits, '-', '.' and '_', \
             without scheme and port",
            at + 1
        )),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check_bad(change: impl FnOnce(&mut Settings), field: &str, part: &str) {
        let mut settings = Settings::new("/data/recordings".into());
        change(&mut settings);
        let error = settings.check().expect_err(field);
        assert_eq!(error.field, field);
        assert!(error.what.contains(part), "{}", error.what);
    }

    #[test]
    fn the_defaults_are_in_range() {
        assert_eq!(Settings::new("/data/recordings".into()).check(), Ok(()));
    }

    #[test]
    fn each_rule_names_its_field() {
        check_bad(|s| s.storage_path = "data".into(), "storage_path", "absolute");
        check_bad(|s| s.storage_path = "/a/../b".into(), "storage_path", "..");
        check_bad(|s| s.storage_path = "/a\0".into(), "storage_path", "U+0000");
        check_bad(|s| s.max_storage_size = (1 << 62) + 1, "max_storage_size", "from 0 to");
        check_bad(|s| s.retention_days = 36_501, "retention_days", "from 0 to 36500, got 36501");
        check_bad(|s| s.web_port = 0, "web_port", "from 1 to 65535, got 0");
        check_bad(|s| s.max_streams = 513, "max_streams", "from 1 to 512");
        check_bad(|s| s.buffer_size = 255, "buffer_size", "from 256 to 65536");
        check_bad(|s| s.swap_size = u64::MAX, "swap_size", "from 0 to 1099511627776");
        check_bad(|s| s.hw_accel_enabled = true, "hw_accel_enabled", "must be false");
        check_bad(|s| s.segment_seconds = 9, "segment_seconds", "from 10 to 3600");
        check_bad(|s| s.swap_path = "swap".into(), "swap_path", "absolute");
        check_bad(|s| s.hls_window_seconds = 17, "hls_window_seconds", "from 18 to 300");
        check_bad(|s| s.max_viewers = 0, "max_viewers", "from 1 to 128");
        check_bad(|s| s.allowed_hosts = vec!["a".into(); 17], "allowed_hosts", "at most 16");
        check_bad(
            |s| s.allowed_hosts = vec!["a".into(), "a:80".into()],
            "allowed_hosts",
            "entry 2",
        );
    }

    proptest! {
        #[test]
        fn a_patch_changes_what_it_names_and_nothing_else(
            days in proptest::option::of(0u32..40_000),
            size in proptest::option::of(any::<u32>()),
            path in proptest::option::of("/\\PC{0,20}"),
        ) {
            let old = Settings::new("/data".into());
            let patch = SettingsPatch {
                retention_days: days,
                buffer_size: size,
                storage_path: path.clone(),
                ..SettingsPatch::default()
            };
            let new = old.patched(&patch);
            prop_assert_eq!(new.retention_days, days.unwrap_or(30));
            prop_assert_eq!(new.buffer_size, size.unwrap_or(1024));
            prop_assert_eq!(&new.storage_path, &path.unwrap_or_else(|| "/data".into()));
            prop_assert_eq!(new.web_port, old.web_port);
            prop_assert_eq!(
                new.check().is_ok(),
                check_path("storage_path", &new.storage_path).is_ok()
                    && new.retention_days <= 36_500
                    && (256..=65_536).contains(&new.buffer_size)
            );
        }
    }
}
