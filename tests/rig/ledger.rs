//! The ledger as the API answers it, held against what was done.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use super::json::Look;
use super::nvr::Api;
use super::wait;
use miniserde::json::Value;

/// How far the ledger may be off.
pub const OFF_MS_MAX: i64 = 1000;

/// A span as the API answers it, in Unix milliseconds.
#[derive(Clone, Debug, PartialEq)]
pub struct Span {
    pub start_ms: i64,
    pub end_ms: i64,
    pub state: String,
}

pub fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(now.as_millis()).expect("before the year 292 million")
}

pub fn parse_ms(time: &str) -> i64 {
    lightnvr::system::clock::parse_rfc3339_ms(time).unwrap_or_else(|| panic!("no time: {time}"))
}

/// The spans of a ledger since `start_ms`, which are whole and without overlap.
#[track_caller]
pub fn read(ledger: &Value, start_ms: i64) -> Vec<Span> {
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

/// The spans of a stream between two times; without an end, until now.
#[track_caller]
pub fn between(nvr: &Api, stream_id: u64, start_ms: i64, end_ms: Option<i64>) -> Vec<Span> {
    let start = lightnvr::system::clock::iso_milliseconds(start_ms);
    let end = end_ms.map(|end| format!("&end={}", lightnvr::system::clock::iso_milliseconds(end)));
    let query = format!("start={start}{}", end.unwrap_or_default());
    let ledger = nvr.json("GET", &format!("/api/v1/streams/{stream_id}/ledger?{query}"), None);
    assert_eq!(ledger.field("stream_id").integer(), stream_id);
    read(&ledger, start_ms)
}

/// The spans of a stream since `start_ms`.
#[track_caller]
pub fn since(nvr: &Api, stream_id: u64, start_ms: i64) -> Vec<Span> {
    between(nvr, stream_id, start_ms, None)
}

pub fn states(spans: &[Span]) -> Vec<&str> {
    spans.iter().map(|span| span.state.as_str()).collect()
}

/// Waits until the ledger has these states; gives the spans.
#[track_caller]
pub fn wait_for_states(
    nvr: &Api,
    stream_id: u64,
    start_ms: i64,
    want: &[&str],
    within: Duration,
) -> Vec<Span> {
    let mut last = Vec::new();
    let deadline = Instant::now() + within;
    loop {
        let spans = since(nvr, stream_id, start_ms);
        if states(&spans) == want {
            return spans;
        }
        assert!(Instant::now() < deadline, "want {want:?}, got {spans:#?}\nbefore {last:#?}");
        last = spans;
        wait::pause(Duration::from_millis(100));
    }
}

/// Waits until something of the stream is safely stored from after `since_ms`.
#[track_caller]
pub fn wait_for_recorded_since(nvr: &Api, stream_id: u64, since_ms: i64, within: Duration) {
    wait::until("something is recorded", within, || {
        let list = nvr.json("GET", &format!("/api/v1/recordings?stream_id={stream_id}"), None);
        let ends = list.field("recordings").items().iter();
        ends.map(|row| parse_ms(row.field("end_time").text()))
            .any(|end| end > since_ms + 1000)
            .then_some(())
    });
}
