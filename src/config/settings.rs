//! The settings: fields, defaults, ranges.

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
    /// Further host names under which the page may be reached.
    pub allowed_hosts: Vec<String>,
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
    pub allowed_hosts: Option<Vec<String>>,
}

impl Settings {
    /// The defaults of a fresh data directory; `storage_path` depends on where that is.
    pub fn new(storage_path: String) -> Self {
        Self {
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
            allowed_hosts: Vec::new(),
        }
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
            allowed_hosts
        )
    }
}
