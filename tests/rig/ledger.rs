//! Reading the ledger of a stream; whatever is not as promised fails the test.

use super::json::Look;
use super::nvr::Api;

/// A span as the API answers it, in Unix milliseconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    pub start_ms: i64,
    pub end_ms: i64,
    pub state: String,
}

/// A time as the API writes it, in Unix milliseconds.
#[track_caller]
pub fn parse_ms(time: &str) -> i64 {
    lightnvr::system::clock::parse_rfc3339_ms(time).unwrap_or_else(|| panic!("no time: {time}"))
}

/// The spans of a stream since `start_ms`, whole and without overlap.
#[track_caller]
pub fn ledger(nvr: &Api, stream_id: u64, start_ms: i64) -> Vec<Span> {
    let start = lightnvr::system::clock::iso_milliseconds(start_ms);
    let ledger =
        nvr.json("GET", &format!("/api/v1/streams/{stream_id}/ledger?start={start}"), None);
    assert_eq!(ledger.field("stream_id").integer(), stream_id);
    let spans: Vec<Span> = ledger
        .field("spans")
        .items()
        .iter()
        .map(|span| Span {
            start_ms: parse_ms(span.field("start").text()),
            end_ms: parse_ms(span.field("end").text()),
            state: span.field("state").text().to_owned(),
        })
        .collect();
    let mut at = start_ms;
    let (mut all, mut recorded) = (0, 0);
    for span in &spans {
        assert_eq!(span.start_ms, at, "no hole and no overlap: {spans:#?}");
        assert!(span.end_ms > at, "no empty span: {spans:#?}");
        at = span.end_ms;
        all += span.end_ms - span.start_ms;
        recorded += if span.state == "recorded" { span.end_ms - span.start_ms } else { 0 };
    }
    assert_eq!(at, parse_ms(ledger.field("end").text()), "to the end: {spans:#?}");
    let share = recorded as f64 / all as f64;
    assert!((ledger.field("recorded_share").number() - share).abs() < 1e-5, "{spans:#?}");
    spans
}
