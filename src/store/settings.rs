//! Settings as records: one key a setting, so that a new one needs no migration.

use crate::config::settings::Settings;

use super::bytes::{Reader, Writer};

const VERSION: u8 = 1;

fn number(value: u64) -> Vec<u8> {
    Writer::new(VERSION).u64(value).done()
}

/// Every setting with its key.
pub fn encode(values: &Settings) -> Vec<(&'static str, Vec<u8>)> {
    let mut hosts = Writer::new(VERSION).u64(values.allowed_hosts.len() as u64);
    for host in &values.allowed_hosts {
        hosts = hosts.text(host);
    }
    vec![
        ("storage_path", Writer::new(VERSION).text(&values.storage_path).done()),
        ("max_storage_size", number(values.max_storage_size)),
        ("retention_days", number(values.retention_days.into())),
        ("auto_delete_oldest", number(values.auto_delete_oldest.into())),
        ("web_port", number(values.web_port.into())),
        ("web_auth_enabled", number(values.web_auth_enabled.into())),
        ("max_streams", number(values.max_streams.into())),
        ("buffer_size", number(values.buffer_size.into())),
        ("use_swap", number(values.use_swap.into())),
        ("swap_size", number(values.swap_size)),
        ("hw_accel_enabled", number(values.hw_accel_enabled.into())),
        ("segment_seconds", number(values.segment_seconds.into())),
        ("hls_window_seconds", number(values.hls_window_seconds.into())),
        ("max_viewers", number(values.max_viewers.into())),
        ("allowed_hosts", hosts.done()),
        ("swap_path", Writer::new(VERSION).text(&values.swap_path).done()),
    ]
}

/// Sets one field from its record; false when the key is unknown or the record does not fit.
pub fn decode_into(values: &mut Settings, name: &str, record: &[u8]) -> bool {
    try_decode(values, name, record).is_some()
}

fn try_decode(values: &mut Settings, name: &str, record: &[u8]) -> Option<()> {
    let mut fields = Reader::new(record)?;
    match name {
        "storage_path" => values.storage_path = fields.text()?,
        "max_storage_size" => values.max_storage_size = fields.u64()?,
        "retention_days" => values.retention_days = fields.u64()?.try_into().ok()?,
        "auto_delete_oldest" => values.auto_delete_oldest = fields.u64()? != 0,
        "web_port" => values.web_port = fields.u64()?.try_into().ok()?,
        "web_auth_enabled" => values.web_auth_enabled = fields.u64()? != 0,
        "max_streams" => values.max_streams = fields.u64()?.try_into().ok()?,
        "buffer_size" => values.buffer_size = fields.u64()?.try_into().ok()?,
        "use_swap" => values.use_swap = fields.u64()? != 0,
        "swap_size" => values.swap_size = fields.u64()?,
        "hw_accel_enabled" => values.hw_accel_enabled = fields.u64()? != 0,
        "segment_seconds" => values.segment_seconds = fields.u64()?.try_into().ok()?,
        "swap_path" => values.swap_path = fields.text()?,
        "hls_window_seconds" => values.hls_window_seconds = fields.u64()?.try_into().ok()?,
        "max_viewers" => values.max_viewers = fields.u64()?.try_into().ok()?,
        "allowed_hosts" => {
            let count = fields.u64()?.min(64);
            values.allowed_hosts = (0..count).map(|_| fields.text()).collect::<Option<_>>()?;
        }
        _ => return None,
    }
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_setting_comes_back_as_it_went_in() {
        let stored = Settings {
            storage_path: "/mnt/disk".into(),
            max_storage_size: 1 << 40,
            retention_days: 7,
            auto_delete_oldest: false,
            web_port: 80,
            web_auth_enabled: false,
            max_streams: 4,
            buffer_size: 256,
            use_swap: false,
            swap_size: 3,
            hw_accel_enabled: true,
            segment_seconds: 60,
            hls_window_seconds: 30,
            max_viewers: 5,
            allowed_hosts: vec!["nvr.example".into(), "cam".into()],
            swap_path: "/mnt/other/swap".into(),
        };
        let mut loaded = Settings::new("/elsewhere".into());
        for (name, record) in encode(&stored) {
            assert!(decode_into(&mut loaded, name, &record), "{name}");
        }
        assert_eq!(loaded, stored);
        assert!(!decode_into(&mut loaded, "no_such_setting", &number(1)));
        assert!(!decode_into(&mut loaded, "web_port", &number(65_536)));
    }
}
