//! `POST /streams/test`: is there a camera behind this URL, and what does it send?
//!
//! In here: reading the body, and the answer as JSON. The source is opened by the recorder
//! (`nvr/trial.rs`), to which the gate hands the connection: a thread of the API does not wait for it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use miniserde::{Serialize, json};

use super::error::ApiError;
use super::json::Fields;
use super::streams::{READ_ONLY, read_fields};
use super::wire::{Order, TrialOrder};
use super::{Ctx, Reply};
use crate::config::stream::StreamConfig;

/// What a source delivers.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    pub codec: &'static str,
    pub width: u16,
    pub height: u16,
    pub fps: Option<f64>,
    /// Seconds.
    pub keyframe_interval: Option<f64>,
    /// Bits per second.
    pub bitrate: Option<f64>,
    pub audio: Option<&'static str>,
    pub advice: Vec<String>,
    /// JPEG.
    pub picture: Option<Vec<u8>>,
}

#[derive(Serialize)]
struct SeenOut<'a> {
    ok: bool,
    codec: &'static str,
    width: u16,
    height: u16,
    fps: Option<f64>,
    keyframe_interval_seconds: Option<f64>,
    bitrate_kbps: Option<u64>,
    audio: Option<&'static str>,
    advice: &'a [String],
    picture: Option<String>,
}

#[derive(Serialize)]
struct FailedOut<'a> {
    ok: bool,
    reason: &'a str,
    advice: &'a str,
}

/// `POST /streams/test`. With the `id` of a stream the body is what a change of it would be, so that a
/// password `***` stands for the stored one.
pub fn test(ctx: &Ctx, fields: &Fields) -> Result<Reply, ApiError> {
    let id = fields.whole::<u32>("id", &(0..=u64::from(u32::MAX)))?;
    let mut patch = read_fields(fields)?;
    fields.ignore(&READ_ONLY);
    fields.finish()?;
    if patch.url.is_none() {
        return Err(ApiError::field("url", "is required"));
    }
    let snapshot = ctx.snapshot.load();
    let config = match id {
        Some(id) => {
            let known = snapshot.streams.iter().find(|view| view.config.id == id);
            let known = known.ok_or_else(|| ApiError::field("id", "no stream has this id"))?;
            known.config.patched(&patch)?
        }
        None => {
            patch.name.get_or_insert_with(|| "Test".to_owned());
            StreamConfig::from_patch(0, &patch)?
        }
    };
    let StreamConfig { url, codec, width, height, fps, transport, tls_fingerprint, .. } = config;
    let order = TrialOrder { url, codec, width, height, fps, transport, tls_fingerprint };
    Ok(Reply::Order(Order::Trial(order)))
}

/// The answer when there is video.
pub fn seen_json(seen: &Seen) -> String {
    let rounded = |x: f64, steps: f64| (x * steps).round() / steps;
    json::to_string(&SeenOut {
        ok: true,
        codec: seen.codec,
        width: seen.width,
        height: seen.height,
        fps: seen.fps.map(|fps| rounded(fps, 100.0)),
        keyframe_interval_seconds: seen.keyframe_interval.map(|s| rounded(s, 100.0)),
        bitrate_kbps: seen.bitrate.map(|bits| (bits / 1000.0).round() as u64),
        audio: seen.audio,
        advice: &seen.advice,
        picture: seen.picture.as_ref().map(|jpeg| STANDARD.encode(jpeg)),
    })
}

/// The answer when there is none: why, and what to do.
pub fn failed_json(reason: &str, advice: &str) -> String {
    json::to_string(&FailedOut { ok: false, reason, advice })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_written_as_documented() {
        let seen = Seen {
            codec: "h264",
            width: 640,
            height: 480,
            fps: Some(14.98513),
            bitrate: Some(1_999_600.0),
            picture: Some(vec![0xFF, 0xD8]),
            ..Seen::default()
        };
        let want = r#"{"ok":true,"codec":"h264","width":640,"height":480,"fps":14.99,"keyframe_interval_seconds":null,"bitrate_kbps":2000,"audio":null,"advice":[],"picture":"/9g="}"#;
        assert_eq!(seen_json(&seen), want);
        let want = r#"{"ok":false,"reason":"a \"b\"","advice":"c"}"#;
        assert_eq!(failed_json("a \"b\"", "c"), want);
    }
}
