//! The resource `backup`: settings and streams as one document, to be put back on this card or a new one.
//!
//! In here: writing it and reading it, every field by the rules of its own resource. Not in here: putting it
//! into force, all or nothing (`nvr/restore.rs`). Recordings and the recorder's own password are not in it.

use miniserde::json;

use super::error::ApiError;
use super::json::Fields;
use super::query::parse_backup;
use super::settings::{read_patch as read_settings, to_json as settings_json};
use super::streams::{READ_ONLY, push_optional, read_fields};
use super::{Ctx, Reply, success};
use crate::VERSION;
use crate::config::stream::{StreamConfig, StreamPatch};
use crate::config::transport::Transport;
use crate::nvr::command::{Backup, Command};

/// Version of the document; a later one may not be understood.
const DOCUMENT_VERSION: u64 = 1;

/// `GET /backup`; cameras' passwords only with `?passwords=true`.
pub fn get(ctx: &Ctx, query: &str) -> Result<Reply, ApiError> {
    let with_passwords = parse_backup(query)?;
    let snapshot = ctx.snapshot.load();
    let streams: Vec<String> =
        snapshot.streams.iter().map(|view| stream_json(&view.config, with_passwords)).collect();
    Ok(Reply::Json(format!(
        r#"{{"version":{DOCUMENT_VERSION},"program":{},"settings":{},"streams":[{}]}}"#,
        json::to_string(VERSION),
        settings_json(&snapshot.settings),
        streams.join(",")
    )))
}

fn stream_json(config: &StreamConfig, with_passwords: bool) -> String {
    let (url, sub_url) = if with_passwords {
        (config.url.clone(), config.sub_url.clone())
    } else {
        (config.url_masked(), config.sub_url_masked())
    };
    let text = |text: &str| json::to_string(text);
    let mut out = format!(
        r#"{{"name":{},"url":{},"enabled":{},"width":{},"height":{},"fps":{},"codec":{},"priority":{},"record":{}"#,
        text(&config.name),
        text(&url),
        config.enabled,
        config.width,
        config.height,
        config.fps,
        text(config.codec.name()),
        config.priority,
        config.record
    );
    push_optional(&mut out, config, sub_url.as_deref());
    out.push('}');
    out
}

/// `PUT /backup`
pub fn put(ctx: &Ctx, fields: &Fields) -> Result<Reply, ApiError> {
    let backup = read(fields)?;
    ctx.commands.ask(|reply| Command::Restore { backup, reply })?;
    Ok(success())
}

fn read(fields: &Fields) -> Result<Backup, ApiError> {
    fields
        .whole::<u64>("version", &(DOCUMENT_VERSION..=DOCUMENT_VERSION))?
        .ok_or_else(|| ApiError::field("version", "is required"))?;
    fields.text("program")?;
    let settings = fields.object("settings")?;
    let streams = fields.objects("streams")?.unwrap_or_default();
    fields.finish()?;
    let settings = settings.as_ref().map(read_settings).transpose();
    let settings = settings.map_err(|error| error.within("settings"))?.unwrap_or_default();
    let mut patches = Vec::with_capacity(streams.len());
    for (n, stream) in streams.iter().enumerate() {
        let patch = read_stream(stream).map_err(|error| error.within(&format!("streams[{n}]")))?;
        patches.push(patch);
    }
    Ok(Backup { settings, streams: patches })
}

/// What is absent is as if it never had been set, also where a stream of this name has it now.
fn read_stream(fields: &Fields) -> Result<StreamPatch, ApiError> {
    let patch = read_fields(fields)?;
    fields.ignore(&READ_ONLY);
    fields.finish()?;
    for (name, is_there) in [("name", patch.name.is_some()), ("url", patch.url.is_some())] {
        if !is_there {
            return Err(ApiError::field(name, "is required"));
        }
    }
    Ok(StreamPatch {
        retention_days: patch.retention_days.or(Some(None)),
        max_storage_size: patch.max_storage_size.or(Some(None)),
        sub_url: patch.sub_url.or(Some(None)),
        transport: patch.transport.or(Some(Transport::Auto)),
        tls_fingerprint: patch.tls_fingerprint.or(Some(None)),
        ..patch
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::error::check_bad_field;
    use crate::config::fingerprint::Fingerprint;

    #[track_caller]
    fn check_bad(body: &str, field: &str, part: &str) {
        check_bad_field(body, read(&Fields::parse(body.as_bytes()).expect(body)), field, part);
    }

    #[test]
    fn an_error_names_its_place() {
        check_bad("{}", "version", "is required");
        check_bad(r#"{"version":2}"#, "version", "got 2");
        check_bad(r#"{"version":1,"x":0}"#, "x", "unknown field");
        check_bad(r#"{"version":1,"settings":[]}"#, "settings", "an object");
        check_bad(r#"{"version":1,"streams":[7]}"#, "streams", "objects");
        check_bad(r#"{"version":1,"settings":{"web_port":0}}"#, "settings.web_port", "from 1");
        let good = r#"{"name":"a","url":"testpattern://"}"#;
        let streams = |second: &str| format!(r#"{{"version":1,"streams":[{good},{second}]}}"#);
        check_bad(&streams(r#"{"name":"b"}"#), "streams[1].url", "is required");
        check_bad(&streams(r#"{"name":"b","url":"x","z":1}"#), "streams[1].url", "rtsp://");
        check_bad(&streams(r#"{"z":1}"#), "streams[1].z", "unknown field");
    }

    #[test]
    fn a_stream_comes_back_as_it_was_written() {
        let patch = StreamPatch {
            name: Some("Hof \"1\"".into()),
            url: Some("rtsps://u:secret@cam/1".into()),
            sub_url: Some(Some("rtsp://u:secret@cam/2".into())),
            retention_days: Some(Some(7)),
            max_storage_size: Some(Some(8)),
            transport: Some(Transport::Tcp),
            tls_fingerprint: Some(Some(Fingerprint([9; 32]))),
            priority: Some(9),
            ..StreamPatch::default()
        };
        let config = StreamConfig::from_patch(3, &patch).expect("valid");
        let open = format!(r#"{{"version":1,"streams":[{}]}}"#, stream_json(&config, true));
        let backup = read(&Fields::parse(open.as_bytes()).expect("JSON")).expect("valid");
        assert_eq!(StreamConfig::from_patch(3, &backup.streams[0]), Ok(config.clone()));
        let hidden = stream_json(&config, false);
        assert!(!hidden.contains("secret") && hidden.contains("***"), "{hidden}");
    }

    #[test]
    fn what_a_stream_did_not_have_is_taken_from_one_that_has_it_now() {
        let body = r#"{"version":1,"streams":[{"name":"a","url":"rtsp://cam/1"}]}"#;
        let patch =
            &read(&Fields::parse(body.as_bytes()).expect("JSON")).expect("valid").streams[0];
        assert_eq!((patch.retention_days, patch.max_storage_size), (Some(None), Some(None)));
        assert_eq!((&patch.sub_url, patch.tls_fingerprint), (&Some(None), Some(None)));
        assert_eq!(patch.transport, Some(Transport::Auto));
    }
}
