//! The resource `settings`: read and change.

use miniserde::{Serialize, json};

use super::error::ApiError;
use super::json::Fields;
use super::{Ctx, Reply};
use crate::config::settings::{
    BUFFER_SIZE_RANGE, HLS_WINDOW_SECONDS_RANGE, MAX_STORAGE_SIZE_RANGE, MAX_STREAMS_RANGE,
    MAX_VIEWERS_RANGE, RETENTION_DAYS_RANGE, SEGMENT_SECONDS_RANGE, SWAP_SIZE_RANGE, Settings,
    SettingsPatch, WEB_PORT_RANGE, check_allowed_hosts, check_hw_accel, check_path,
};
use crate::nvr::command::Command;

/// The settings as the contract writes them: these fields, in this order.
#[derive(Serialize)]
struct SettingsOut<'a> {
    storage_path: &'a str,
    max_storage_size: u64,
    retention_days: u32,
    auto_delete_oldest: bool,
    web_port: u16,
    web_auth_enabled: bool,
    max_streams: u16,
    buffer_size: u32,
    use_swap: bool,
    swap_size: u64,
    hw_accel_enabled: bool,
    segment_seconds: u32,
    hls_window_seconds: u32,
    max_viewers: u16,
    allowed_hosts: &'a [String],
    swap_path: &'a str,
}

/// `GET /settings`
pub fn get(ctx: &Ctx) -> Reply {
    reply(&ctx.snapshot.load().settings)
}

/// `PUT /settings`
pub fn update(ctx: &Ctx, fields: &Fields) -> Result<Reply, ApiError> {
    let patch = read_patch(fields)?;
    let settings = ctx.commands.ask(|reply| Command::UpdateSettings { patch, reply })?;
    Ok(reply(&settings))
}

fn reply(settings: &Settings) -> Reply {
    Reply::Json(to_json(settings))
}

pub(super) fn to_json(settings: &Settings) -> String {
    json::to_string(&SettingsOut {
        storage_path: &settings.storage_path,
        max_storage_size: settings.max_storage_size,
        retention_days: settings.retention_days,
        auto_delete_oldest: settings.auto_delete_oldest,
        web_port: settings.web_port,
        web_auth_enabled: settings.web_auth_enabled,
        max_streams: settings.max_streams,
        buffer_size: settings.buffer_size,
        use_swap: settings.use_swap,
        swap_size: settings.swap_size,
        hw_accel_enabled: settings.hw_accel_enabled,
        segment_seconds: settings.segment_seconds,
        hls_window_seconds: settings.hls_window_seconds,
        max_viewers: settings.max_viewers,
        allowed_hosts: &settings.allowed_hosts,
        swap_path: &settings.swap_path,
    })
}

/// The settings of a body, each in its range. Errors name the field.
pub fn read_patch(fields: &Fields) -> Result<SettingsPatch, ApiError> {
    let patch = SettingsPatch {
        storage_path: fields.text("storage_path")?.map(str::to_owned),
        max_storage_size: fields.whole("max_storage_size", &MAX_STORAGE_SIZE_RANGE)?,
        retention_days: fields.whole("retention_days", &RETENTION_DAYS_RANGE)?,
        auto_delete_oldest: fields.boolean("auto_delete_oldest")?,
        web_port: fields.whole("web_port", &WEB_PORT_RANGE)?,
        web_auth_enabled: fields.boolean("web_auth_enabled")?,
        max_streams: fields.whole("max_streams", &MAX_STREAMS_RANGE)?,
        buffer_size: fields.whole("buffer_size", &BUFFER_SIZE_RANGE)?,
        use_swap: fields.boolean("use_swap")?,
        swap_size: fields.whole("swap_size", &SWAP_SIZE_RANGE)?,
        hw_accel_enabled: fields.boolean("hw_accel_enabled")?,
        segment_seconds: fields.whole("segment_seconds", &SEGMENT_SECONDS_RANGE)?,
        hls_window_seconds: fields.whole("hls_window_seconds", &HLS_WINDOW_SECONDS_RANGE)?,
        max_viewers: fields.whole("max_viewers", &MAX_VIEWERS_RANGE)?,
        allowed_hosts: fields.texts("allowed_hosts")?,
        swap_path: fields.text("swap_path")?.map(str::to_owned),
    };
    fields.finish()?;
    patch.storage_path.as_deref().map(|path| check_path("storage_path", path)).transpose()?;
    patch.swap_path.as_deref().map(|path| check_path("swap_path", path)).transpose()?;
    patch.hw_accel_enabled.map(check_hw_accel).transpose()?;
    patch.allowed_hosts.as_deref().map(check_allowed_hosts).transpose()?;
    Ok(patch)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::api::error::check_bad_field;

    fn read(body: &str) -> Result<SettingsPatch, ApiError> {
        read_patch(&Fields::parse(body.as_bytes())?)
    }

    #[track_caller]
    fn check_bad(body: &str, field: &str, part: &str) {
        check_bad_field(body, read(body), field, part);
    }

    #[test]
    fn a_field_that_breaks_its_rule_is_named() {
        check_bad(r#"{"retention_days":-1}"#, "retention_days", "from 0 to 36500, got -1");
        check_bad(r#"{"retention_days":null}"#, "retention_days", "got null");
        check_bad(r#"{"swap_size":1099511627777}"#, "swap_size", "from 0 to 1099511627776");
        check_bad(r#"{"storage_path":"x"}"#, "storage_path", "absolute");
        check_bad(r#"{"hw_accel_enabled":true}"#, "hw_accel_enabled", "must be false");
        check_bad(r#"{"allowed_hosts":["a b"]}"#, "allowed_hosts", "entry 1");
        check_bad(r#"{"version":"1"}"#, "version", "unknown field");
    }

    #[test]
    fn an_empty_patch_is_fine() {
        assert_eq!(read("{}"), Ok(SettingsPatch::default()));
    }

    #[test]
    fn what_get_gives_can_be_put_back() {
        let settings = Settings::new("/data/recordings".into());
        let Reply::Json(body) = reply(&settings) else { panic!("JSON") };
        let patch = read(&body).expect("accepted");
        assert_eq!(Settings::new("/other".into()).patched(&patch), settings);
    }

    proptest! {
        #[test]
        fn what_is_accepted_is_in_range(
            field in "(max_storage_size|retention_days|web_port|max_streams|buffer_size|swap_size|segment_seconds|hls_window_seconds|max_viewers)",
            value in prop_oneof![any::<i64>().prop_map(|n| n.to_string()), (0u32..70_000).prop_map(|n| n.to_string())],
        ) {
            if let Ok(patch) = read(&format!("{{\"{field}\":{value}}}")) {
                prop_assert_eq!(Settings::new("/data".into()).patched(&patch).check(), Ok(()));
            }
        }
    }
}
