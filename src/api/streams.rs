//! The resource `streams`: list, one, add, change, delete.

use miniserde::{Serialize, json};

use super::error::ApiError;
use super::json::Fields;
use super::{Ctx, Reply, success};
use crate::config::fingerprint::Fingerprint;
use crate::config::settings::{MAX_STORAGE_SIZE_RANGE, RETENTION_DAYS_RANGE};
use crate::config::stream::{
    FPS_RANGE, PRIORITY_RANGE, SIDE_RANGE, StreamConfig, StreamPatch, check_name, check_url,
    codec_named,
};
use crate::config::transport::Transport;
use crate::nvr::command::Command;
use crate::nvr::snapshot::{Actual, StreamView};

const NOT_FOUND: ApiError = ApiError::NotFound("Stream not found");

/// What GET answers and PUT ignores.
pub(super) const READ_ONLY: [&str; 5] = ["id", "status", "status_detail", "actual", "advice"];

/// A stream as the contract writes it: these fields, in this order.
#[derive(Serialize)]
struct StreamOut<'a> {
    id: u32,
    name: &'a str,
    url: String,
    enabled: bool,
    width: u16,
    height: u16,
    fps: u16,
    codec: &'static str,
    priority: u8,
    record: bool,
    status: &'static str,
    status_detail: &'a str,
    actual: Option<ActualOut<'a>>,
    advice: &'a [String],
}

#[derive(Serialize)]
struct ActualOut<'a> {
    codec: &'static str,
    width: u16,
    height: u16,
    fps: f64,
    bitrate: u64,
    keyframe_interval: f64,
    audio: Option<&'static str>,
    audio_note: Option<&'a str>,
}

impl<'a> StreamOut<'a> {
    fn new(view: &'a StreamView) -> Self {
        let config = &view.config;
        Self {
            id: config.id,
            name: &config.name,
            url: config.url_masked(),
            enabled: config.enabled,
            width: config.width,
            height: config.height,
            fps: config.fps,
            codec: config.codec.name(),
            priority: config.priority,
            record: config.record,
            status: view.status.name(),
            status_detail: &view.status_detail,
            actual: view.actual.as_ref().map(ActualOut::new),
            advice: &view.advice,
        }
    }
}

impl<'a> ActualOut<'a> {
    fn new(actual: &'a Actual) -> Self {
        Self {
            codec: actual.codec,
            width: actual.width,
            height: actual.height,
            fps: rounded_2(actual.fps),
            bitrate: actual.bitrate,
            keyframe_interval: rounded_2(actual.keyframe_interval),
            audio: actual.audio,
            audio_note: actual.audio_note.as_deref(),
        }
    }
}

/// To two decimals, to the nearest: these are measurements.
fn rounded_2(x: f64) -> f64 {
    (x * 100.0).round() / 100.0
}

/// `GET /streams`
pub fn list(ctx: &Ctx) -> Reply {
    let snapshot = ctx.snapshot.load();
    let streams: Vec<String> = snapshot.streams.iter().map(to_json).collect();
    Reply::Json(format!(r#"{{"streams":[{}]}}"#, streams.join(",")))
}

/// `GET /streams/{id}`
pub fn get(ctx: &Ctx, id: u32) -> Result<Reply, ApiError> {
    let snapshot = ctx.snapshot.load();
    let view = snapshot.streams.iter().find(|view| view.config.id == id).ok_or(NOT_FOUND)?;
    Ok(one(view))
}

/// `POST /streams`
pub fn create(ctx: &Ctx, fields: &Fields) -> Result<Reply, ApiError> {
    let patch = read_patch(fields)?;
    StreamConfig::from_patch(0, &patch)?; // what is wrong whatever the state comes first
    let view = ctx.commands.ask(|reply| Command::CreateStream { patch, reply })?;
    Ok(one(&view))
}

/// `PUT /streams/{id}`
pub fn update(ctx: &Ctx, id: u32, fields: &Fields) -> Result<Reply, ApiError> {
    let patch = read_patch(fields)?;
    let view = ctx.commands.ask(|reply| Command::UpdateStream { id, patch, reply })?;
    Ok(one(&view))
}

/// `DELETE /streams/{id}`
pub fn delete(ctx: &Ctx, id: u32) -> Result<Reply, ApiError> {
    ctx.commands.ask(|reply| Command::DeleteStream { id, reply })?;
    Ok(success())
}

fn one(view: &StreamView) -> Reply {
    Reply::Json(to_json(view))
}

/// The JSON of one stream; what is optional and absent is left out, which miniserde can't.
fn to_json(view: &StreamView) -> String {
    let mut out = json::to_string(&StreamOut::new(view));
    out.truncate(out.len() - 1);
    push_optional(&mut out, &view.config, view.config.sub_url_masked().as_deref());
    out.push('}');
    out
}

/// Appends what a stream need not have, each with a comma before it.
pub(super) fn push_optional(out: &mut String, config: &StreamConfig, sub_url: Option<&str>) {
    out.extend(config.retention_days.map(|days| format!(r#","retention_days":{days}"#)));
    out.extend(config.max_storage_size.map(|size| format!(r#","max_storage_size":{size}"#)));
    out.extend(sub_url.map(|url| format!(r#","sub_url":{}"#, json::to_string(url))));
    if config.transport != Transport::Auto {
        out.push_str(&format!(r#","transport":"{}""#, config.transport.name()));
    }
    out.extend(config.tls_fingerprint.map(|pin| format!(r#","tls_fingerprint":"{pin}""#)));
}

/// The fields of a stream of a body, each in its range, and no others. Errors name the field.
pub fn read_patch(fields: &Fields) -> Result<StreamPatch, ApiError> {
    let patch = read_fields(fields)?;
    fields.ignore(&READ_ONLY);
    fields.finish()?;
    Ok(patch)
}

/// The writable fields, each in its range; what else there is, is not looked at.
pub(super) fn read_fields(fields: &Fields) -> Result<StreamPatch, ApiError> {
    let name = fields.text("name")?;
    name.map(check_name).transpose()?;
    let url = fields.text("url")?;
    url.map(|url| check_url("url", url)).transpose()?;
    let sub_url = fields.text_or_null("sub_url")?;
    sub_url.flatten().map(|url| check_url("sub_url", url)).transpose()?;
    Ok(StreamPatch {
        name: name.map(str::to_owned),
        url: url.map(str::to_owned),
        enabled: fields.boolean("enabled")?,
        width: fields.whole("width", &SIDE_RANGE)?,
        height: fields.whole("height", &SIDE_RANGE)?,
        fps: fields.whole("fps", &FPS_RANGE)?,
        codec: fields.word("codec", "must be h264, h265 or mjpeg", codec_named)?,
        priority: fields.whole("priority", &PRIORITY_RANGE)?,
        record: fields.boolean("record")?,
        retention_days: fields.whole_or_null("retention_days", &RETENTION_DAYS_RANGE)?,
        max_storage_size: fields.whole_or_null("max_storage_size", &MAX_STORAGE_SIZE_RANGE)?,
        sub_url: sub_url.map(|url| url.map(str::to_owned)),
        tls_fingerprint: fields.word_or_null(
            "tls_fingerprint",
            "must be the SHA-256 of a certificate, 64 hexadecimal digits, or null",
            Fingerprint::parse,
        )?,
        transport: fields.word("transport", "must be auto, tcp or udp", Transport::named)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::error::check_bad_field;
    use crate::media::format::VideoCodec;

    #[track_caller]
    fn check_bad(body: &str, field: &str, part: &str) {
        check_bad_field(
            body,
            read_patch(&Fields::parse(body.as_bytes()).expect(body)),
            field,
            part,
        );
    }

    #[test]
    fn a_field_that_breaks_its_rule_is_named() {
        check_bad(r#"{"fps":"fast"}"#, "fps", "from 0 to 120, got \"fast\"");
        check_bad(r#"{"fps":30.0}"#, "fps", "got 30.0");
        check_bad(r#"{"name":null}"#, "name", "must be a string, got null");
        check_bad(r#"{"name":""}"#, "name", "1 to 64");
        check_bad(r#"{"url":"ftp://x"}"#, "url", "rtsp://");
        check_bad(r#"{"sub_url":"ftp://x"}"#, "sub_url", "rtsp://");
        check_bad(r#"{"sub_url":7}"#, "sub_url", "a string or null, got a number");
        check_bad(r#"{"codec":"H264"}"#, "codec", "h264, h265 or mjpeg, got \"H264\"");
        check_bad(r#"{"tls_fingerprint":"ab:cd"}"#, "tls_fingerprint", "64 hexadecimal digits");
        check_bad(r#"{"transport":"UDP"}"#, "transport", "auto, tcp or udp, got \"UDP\"");
        check_bad(r#"{"enabled":1}"#, "enabled", "true or false, got 1");
        check_bad(r#"{"priority":101}"#, "priority", "from 0 to 100");
        check_bad(r#"{"retention_days":-1}"#, "retention_days", "from 0 to 36500 or null, got -1");
        check_bad(r#"{"max_storage_size":"1 GB"}"#, "max_storage_size", "or null, got \"1 GB\"");
        check_bad(r#"{"retention":7}"#, "retention", "unknown field");
    }

    #[test]
    fn read_only_fields_are_ignored_whatever_they_hold() {
        let body = r#"{"id":"x","status":null,"status_detail":1,"actual":{"a":[]},"advice":7,
                       "codec":"h265","width":640}"#;
        let patch = read_patch(&Fields::parse(body.as_bytes()).expect("an object")).expect("fine");
        let want = StreamPatch {
            codec: Some(VideoCodec::H265),
            width: Some(640),
            ..StreamPatch::default()
        };
        assert_eq!(patch, want);
    }

    #[test]
    fn null_clears_an_override() {
        let body = r#"{"retention_days":null,"max_storage_size":5,"sub_url":null}"#;
        let patch = read_patch(&Fields::parse(body.as_bytes()).expect("an object")).expect("fine");
        assert_eq!((patch.retention_days, patch.max_storage_size), (Some(None), Some(Some(5))));
        assert_eq!(patch.sub_url, Some(None));
    }

    #[test]
    fn measurements_have_two_decimals() {
        assert_eq!(rounded_2(14.98513), 14.99);
        assert_eq!(rounded_2(0.0), 0.0);
    }
}
