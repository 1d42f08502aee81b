//! `/healthz`: 200 while the executor and every needed disk make progress, else 503 with the reasons.

use super::error::ApiError;
use super::{Ctx, Reply};

/// A snapshot older than this means that the executor stands still; it publishes every second.
pub const SNAPSHOT_AGE_MS_MAX: u64 = 5000;

/// `GET /healthz`
pub fn get(ctx: &Ctx) -> Result<Reply, ApiError> {
    let snapshot = ctx.snapshot.load();
    let now_ms = u64::try_from(ctx.started.elapsed().as_millis()).unwrap_or(u64::MAX);
    let reasons = reasons(&snapshot.ailments, snapshot.at_ms, now_ms);
    if reasons.is_empty() {
        return Ok(Reply::Json(r#"{"status":"ok"}"#.to_owned()));
    }
    Err(ApiError::Unhealthy { reasons })
}

fn reasons(ailments: &[String], at_ms: u64, now_ms: u64) -> Vec<String> {
    let mut reasons = ailments.to_vec();
    let age_ms = now_ms.saturating_sub(at_ms);
    if age_ms > SNAPSHOT_AGE_MS_MAX {
        reasons.push(format!("the recorder has made no progress for {} s", age_ms / 1000));
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fresh_snapshot_without_ailments_is_healthy() {
        assert_eq!(reasons(&[], 1000, 6000), Vec::<String>::new());
        assert_eq!(reasons(&[], 6000, 1000), Vec::<String>::new());
    }

    #[test]
    fn an_old_snapshot_and_every_ailment_are_reasons() {
        let want = ["disk 0 stalls", "the recorder has made no progress for 6 s"];
        assert_eq!(reasons(&["disk 0 stalls".into()], 1000, 7999), want);
    }
}
