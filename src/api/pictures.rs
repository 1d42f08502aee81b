//! The routes `mjpeg` and `snapshot.jpg` of a stream: their parameters. The live service makes the pictures.

use std::ops::RangeInclusive;

use super::error::{ApiError, echo};
use super::route::parse_id;
use super::streaming::{find, parse_quality};
use super::wire::{LiveKind, QUALITY};
use super::{Ctx, Reply};
use crate::config::range_rule;

/// `width`, in pixels: what is smaller shows nothing, what is larger no camera sends.
pub const WIDTH_RANGE: RangeInclusive<u64> = 16..=8192;
/// `fps`, pictures per second.
pub const FPS_RANGE: RangeInclusive<u64> = 1..=30;

/// `GET /streaming/{id}/mjpeg`
pub fn mjpeg(ctx: &Ctx, id: u32, query: &str) -> Result<Reply, ApiError> {
    let [width, fps] = parse(query, [("width", WIDTH_RANGE), ("fps", FPS_RANGE)])?;
    let quality = parse_quality(query)?;
    let order = find(ctx, LiveKind::Mjpeg, id)?.with(QUALITY, quality);
    Ok(Reply::Live(order.with("width", width).with("fps", fps)))
}

/// `GET /streaming/{id}/snapshot.jpg`
pub fn snapshot(ctx: &Ctx, id: u32, query: &str) -> Result<Reply, ApiError> {
    let [width] = parse(query, [("width", WIDTH_RANGE)])?;
    let quality = parse_quality(query)?;
    let order = find(ctx, LiveKind::Snapshot, id)?.with(QUALITY, quality);
    Ok(Reply::Live(order.with("width", width)))
}

/// The values of the `known` parameters, besides `quality`. Any other is an error: a typing error would else be a
/// large picture.
fn parse<const N: usize>(
    query: &str,
    known: [(&str, RangeInclusive<u64>); N],
) -> Result<[Option<u64>; N], ApiError> {
    let mut found = [None; N];
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        if name == QUALITY {
            continue;
        }
        let Some(at) = known.iter().position(|(known, _)| *known == name) else {
            let names = known.each_ref().map(|(name, _)| *name).join(", ");
            let what = format!("unknown parameter; known are {names}, {QUALITY}");
            return Err(ApiError::field(&echo(name), what));
        };
        if found[at].is_some() {
            return Err(ApiError::field(name, "is given twice"));
        }
        let range = &known[at].1;
        let number = parse_id(value).filter(|number| range.contains(number));
        let bad =
            || ApiError::field(name, format!("{}, got \"{}\"", range_rule(range), echo(value)));
        found[at] = Some(number.ok_or_else(bad)?);
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn mjpeg(query: &str) -> Result<[Option<u64>; 2], ApiError> {
        parse(query, [("width", WIDTH_RANGE), ("fps", FPS_RANGE)])
    }

    #[test]
    fn parameters_in_their_ranges() {
        assert_eq!(mjpeg(""), Ok([None, None]));
        assert_eq!(mjpeg("fps=30&width=16"), Ok([Some(16), Some(30)]));
        assert_eq!(mjpeg("width=8192&"), Ok([Some(8192), None]));
    }

    #[test]
    fn bad_parameters_are_named_with_value_and_range() {
        for bad in ["fps=0", "fps=31", "fps", "fps=", "fps=+5", "fps=05", "fps=5.0", "fps=-1"] {
            let body = mjpeg(bad).unwrap_err().body();
            assert!(body.contains("fps") && body.contains("30"), "{bad}: {body}");
        }
        let body = mjpeg("width=15").unwrap_err().body();
        assert!(body.contains("15") && body.contains("16") && body.contains("8192"), "{body}");
        let body = mjpeg("with=640").unwrap_err().body();
        assert!(body.contains("with") && body.contains("width, fps"), "{body}");
        assert!(mjpeg("fps=5&fps=5").is_err());
    }

    proptest! {
        #[test]
        fn any_query_has_an_answer(query in "\\PC{0,60}") {
            let _ = mjpeg(&query);
        }
    }
}
