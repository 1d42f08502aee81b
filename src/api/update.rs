//! `system/update`: what becomes of updates, and taking one in.
//!
//! In here: the answer as JSON, and whether an upload may begin. The upload itself is read by the recorder
//! (`nvr/update.rs`), to which the gate hands the connection.

use miniserde::{Serialize, json};

use super::error::ApiError;
use super::wire::Order;
use super::{Ctx, Reply, Request};
use crate::VERSION;
use crate::system::clock;
use crate::update::bundle_core::BUNDLE_BYTES_MAX;
use crate::update::desk::{Desk, Phase, Upload};
use crate::update::update_core::Note;

const MEDIA_TYPE: &str = "application/octet-stream";
const NO_DEVICE: &str = "this recorder does not run from LightNVR's image for a card, so it can't replace itself: \
     build the new version and start it in place of this one (README.md, Updating)";
/// How soon a client may come back while an update is under way.
const RETRY_S: u32 = 10;

#[derive(Serialize)]
struct UpdateOut {
    supported: bool,
    version: &'static str,
    slot: Option<&'static str>,
    state: &'static str,
    percent: u8,
    last: Option<LastOut>,
}

#[derive(Serialize)]
struct LastOut {
    version: Option<String>,
    outcome: &'static str,
    reason: String,
    time: String,
}

impl LastOut {
    fn new(version: &str, outcome: &'static str, reason: &str, at_ms: i64) -> Self {
        Self {
            version: (!version.is_empty()).then(|| version.to_owned()),
            outcome,
            reason: reason.to_owned(),
            time: clock::iso_seconds(at_ms),
        }
    }
}

/// `GET /system/update`
pub fn get(ctx: &Ctx) -> Reply {
    Reply::Json(json::to_string(&out(&ctx.desk)))
}

fn out(desk: &Desk) -> UpdateOut {
    let status = desk.status();
    let upload = desk.upload();
    let noted = status.as_ref().and_then(|status| status.last.as_ref());
    let noted_ms = noted.map_or(i64::MIN, |note| note.at_ms);
    let of_note = |note: &Note| {
        LastOut::new(&note.version, note.outcome.name(), note.outcome.reason(), note.at_ms)
    };
    let mut out = UpdateOut {
        supported: desk.is_device(),
        version: VERSION,
        slot: status.as_ref().map(|status| status.slot.name()),
        state: status.as_ref().map_or(Phase::Idle, |status| status.phase).name(),
        percent: status.as_ref().map_or(0, |status| status.percent),
        last: noted.map(of_note),
    };
    match &*upload {
        Upload::Under { received, total } => {
            out.state = "receiving";
            out.percent = u8::try_from(received * 100 / (*total).max(1)).unwrap_or(100);
        }
        Upload::Refused { version, reason, at_ms } if *at_ms >= noted_ms => {
            out.last = Some(LastOut::new(version, "refused", reason, *at_ms));
        }
        _ => {}
    }
    out
}

/// `POST /system/update`. The body has not been read yet.
pub fn post(ctx: &Ctx, request: &Request<'_>) -> Result<Reply, ApiError> {
    if !ctx.desk.is_device() {
        return Err(ApiError::NotHere(NO_DEVICE));
    }
    let media_type = request.content_type.unwrap_or_default().split(';').next().unwrap_or_default();
    if !media_type.trim().eq_ignore_ascii_case(MEDIA_TYPE) {
        return Err(ApiError::MediaType(MEDIA_TYPE));
    }
    let length = request.length.ok_or(ApiError::LengthRequired)?;
    if length > BUNDLE_BYTES_MAX {
        return Err(ApiError::BadRequest("the update is over 256 MiB".into()));
    }
    let busy = |what: &str| Err(ApiError::Busy { what: what.into(), retry_after_s: RETRY_S });
    match ctx.desk.status().map(|status| status.phase) {
        Some(Phase::Idle) => Ok(Reply::Order(Order::Update { length })),
        Some(Phase::Trial) => {
            busy("the present version is on trial; another update can come when it is confirmed")
        }
        Some(_) => busy("an update is being installed"),
        None => busy("the device is not ready for an update"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_installation_that_is_no_device_says_so() {
        let text = json::to_string(&out(&Desk::new(None)));
        let want = format!(
            r#"{{"supported":false,"version":"{VERSION}","slot":null,"state":"idle","percent":0,"last":null}}"#
        );
        assert_eq!(text, want);
    }

    #[test]
    fn an_upload_and_its_refusal_are_shown() {
        let desk = Desk::new(None);
        desk.set_upload(Upload::Under { received: 50, total: 200 });
        let shown = out(&desk);
        assert_eq!((shown.state, shown.percent), ("receiving", 25));
        let reason = "for another board".to_owned();
        desk.set_upload(Upload::Refused { version: String::new(), reason, at_ms: 0 });
        let shown = out(&desk);
        assert_eq!(shown.state, "idle");
        let last = shown.last.expect("it is remembered");
        assert_eq!((last.outcome, last.reason.as_str()), ("refused", "for another board"));
        assert_eq!((last.version, last.time.as_str()), (None, "1970-01-01T00:00:00Z"));
    }
}
