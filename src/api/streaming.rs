//! The resource `streaming`: who may watch what. The live service, on the executor, sends it.

use super::error::{ApiError, echo};
use super::route::{HlsFile, parse_id};
use super::wire::{LiveKind, LiveOrder, QUALITY, QUALITY_MAIN, QUALITY_SUB};
use super::{Ctx, Reply};

const NOT_FOUND: ApiError = ApiError::NotFound("Stream not found");

/// `GET /streaming/{id}/hls/…`
pub fn hls(ctx: &Ctx, id: u32, file: HlsFile, query: &str) -> Result<Reply, ApiError> {
    let quality = parse_quality(query)?;
    let order = match file {
        HlsFile::Playlist => {
            let [msn, part] = parse_delivery(query)?;
            find(ctx, LiveKind::Playlist, id)?.with("msn", msn).with("part", part)
        }
        HlsFile::Master => find(ctx, LiveKind::Master, id)?,
        HlsFile::Init(number) => find(ctx, LiveKind::Init, id)?.with("number", Some(number)),
        HlsFile::Segment(number) => find(ctx, LiveKind::Segment, id)?.with("number", Some(number)),
        HlsFile::Part(number) => find(ctx, LiveKind::Part, id)?.with("number", Some(number)),
    };
    Ok(Reply::Live(order.with(QUALITY, quality)))
}

/// `GET /streaming/{id}/live`
pub fn socket(ctx: &Ctx, id: u32, query: &str) -> Result<Reply, ApiError> {
    let quality = parse_quality(query)?;
    Ok(Reply::Live(find(ctx, LiveKind::Socket, id)?.with(QUALITY, quality)))
}

/// `quality`, as a number of the order; `None` where the way of watching decides.
pub(super) fn parse_quality(query: &str) -> Result<Option<u64>, ApiError> {
    let mut found = None;
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if name != QUALITY {
            continue;
        }
        if found.is_some() {
            return Err(ApiError::field(QUALITY, "is given twice"));
        }
        found = Some(match value {
            "main" => QUALITY_MAIN,
            "sub" => QUALITY_SUB,
            _ => {
                let what = format!("must be main or sub, got \"{}\"", echo(value));
                return Err(ApiError::field(QUALITY, what));
            }
        });
    }
    Ok(found)
}

/// An order for a stream that exists.
pub(super) fn find(ctx: &Ctx, kind: LiveKind, id: u32) -> Result<LiveOrder, ApiError> {
    let snapshot = ctx.snapshot.load();
    let exists = snapshot.streams.iter().any(|view| view.config.id == id);
    exists.then(|| LiveOrder::new(kind, id)).ok_or(NOT_FOUND)
}

/// `_HLS_msn` and `_HLS_part` (RFC 8216bis section 6.2.5.2): which segment and part the playlist has to
/// hold. Other parameters are passed over: directives that are not advertised are the client's own.
fn parse_delivery(query: &str) -> Result<[Option<u64>; 2], ApiError> {
    const NAMES: [&str; 2] = ["_HLS_msn", "_HLS_part"];
    let mut found = [None; 2];
    for pair in query.split('&') {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        let Some(at) = NAMES.iter().position(|known| *known == name) else { continue };
        let bad = || {
            let rule = "must be a whole number without sign or leading zero";
            ApiError::field(name, format!("{rule}, got \"{}\"", echo(value)))
        };
        found[at] = Some(parse_id(value).ok_or_else(bad)?);
    }
    match found {
        [None, Some(_)] => Err(ApiError::field("_HLS_part", "needs _HLS_msn beside it")),
        found => Ok(found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn qualities() {
        assert_eq!(parse_quality("_HLS_msn=1&width=7"), Ok(None));
        assert_eq!(parse_quality("width=7&quality=sub"), Ok(Some(QUALITY_SUB)));
        assert_eq!(parse_quality("quality=main"), Ok(Some(QUALITY_MAIN)));
        for bad in ["quality", "quality=", "quality=Sub", "quality=sub&quality=sub"] {
            let body = parse_quality(bad).unwrap_err().body();
            assert!(body.contains("quality"), "{bad}: {body}");
        }
    }

    #[test]
    fn delivery_directives() {
        assert_eq!(parse_delivery(""), Ok([None, None]));
        assert_eq!(parse_delivery("_HLS_msn=7"), Ok([Some(7), None]));
        assert_eq!(
            parse_delivery("a=b&_HLS_part=2&_HLS_msn=7&_HLS_skip=YES"),
            Ok([Some(7), Some(2)])
        );
        for bad in
            ["_HLS_msn", "_HLS_msn=+7", "_HLS_msn=07", "_HLS_part=1", "_HLS_msn=7&_HLS_part=x"]
        {
            assert!(parse_delivery(bad).is_err(), "{bad}");
        }
    }
}
