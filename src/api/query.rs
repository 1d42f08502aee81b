//! The queries of the list of recordings and of the ledger: text to a checked value, and the text of a continuation.
//! Keeps PURE-CORE.

use std::fmt::Write as _;
use std::ops::RangeInclusive;

use super::error::{ApiError, echo};
use super::route::parse_id;
use super::wire::decode_percent;
use crate::config::range_rule;
use crate::store::Place;
use crate::system::clock;

/// `limit`: a list without one has no end of its own.
pub const LIMIT_RANGE: RangeInclusive<u64> = 1..=1_000_000;
/// Every parameter that a client may give.
pub const KNOWN: &str = "stream_id, start, end, protected, before, after, limit, order";

/// Which recordings are wanted, and in which order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordingsQuery {
    pub stream_id: Option<u32>,
    /// Unix milliseconds: recordings that overlap `[start, end)`.
    pub start_ms: Option<i64>,
    pub end_ms: Option<i64>,
    pub is_protected: Option<bool>,
    /// Ids: what the list has before, or behind, these recordings.
    pub before: Option<u64>,
    pub after: Option<u64>,
    /// How many are still to be listed.
    pub limit: Option<u64>,
    pub is_descending: bool,
    /// The last place of the page before this one; only the program itself asks so.
    pub continue_from: Option<Place>,
}

/// Parses a query. `is_follow_up` allows `continue`, which an outside client can't use: it gets a
/// piece of a document.
pub fn parse_recordings(query: &str, is_follow_up: bool) -> Result<RecordingsQuery, ApiError> {
    let mut parsed = RecordingsQuery::default();
    each_parameter(query, |name, value| set(&mut parsed, name, value, is_follow_up))?;
    Ok(parsed)
}

/// Calls `set` for each parameter, decoded; an error if one comes twice.
fn each_parameter(
    query: &str,
    mut set: impl FnMut(&str, &str) -> Result<(), ApiError>,
) -> Result<(), ApiError> {
    let mut seen: Vec<String> = Vec::new();
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        // `+` stays `+`: no parameter has a space, and a time may have an offset.
        let (name, value) = (decode_percent(name), decode_percent(value));
        let (name, value) = match (name, value) {
            (Some(name), Some(value)) => (name, value),
            (Some(name), None) => return Err(ApiError::field(&echo(&name), "is not valid UTF-8")),
            (None, _) => return Err(ApiError::BadRequest("query is not valid UTF-8".into())),
        };
        set(&name, &value)?;
        if seen.contains(&name) {
            return Err(ApiError::field(&echo(&name), "is given twice"));
        }
        seen.push(name);
    }
    Ok(())
}

/// Every parameter of the ledger.
pub const LEDGER_KNOWN: &str = "start, end";
/// The ledger of a day, unless the query says otherwise.
const LEDGER_MS_DEFAULT: i64 = 86_400_000;

/// Parses the query of a backup: whether cameras' passwords are asked for.
pub fn parse_backup(query: &str) -> Result<bool, ApiError> {
    let mut with_passwords = false;
    each_parameter(query, |name, value| match (name, value) {
        ("passwords", "true" | "false") => {
            with_passwords = value == "true";
            Ok(())
        }
        ("passwords", _) => {
            let what = format!("must be true or false, got \"{}\"", echo(value));
            Err(ApiError::field(name, what))
        }
        _ => Err(ApiError::field(&echo(name), "unknown parameter; known is passwords")),
    })?;
    Ok(with_passwords)
}

/// The span of an export, Unix milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExportQuery {
    pub start_ms: i64,
    /// After `start_ms`.
    pub end_ms: i64,
}

/// Parses the query of an export, which needs both ends.
pub fn parse_export(query: &str) -> Result<ExportQuery, ApiError> {
    let parsed = parse_ledger(query)?;
    let required = |name| ApiError::field(name, "is required");
    let start_ms = parsed.start_ms.ok_or_else(|| required("start"))?;
    let end_ms = parsed.end_ms.ok_or_else(|| required("end"))?;
    Ok(ExportQuery { start_ms, end_ms })
}

/// The time that a ledger is asked for, Unix milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LedgerQuery {
    pub start_ms: Option<i64>,
    pub end_ms: Option<i64>,
}

/// Parses the query of a ledger.
pub fn parse_ledger(query: &str) -> Result<LedgerQuery, ApiError> {
    let mut parsed = LedgerQuery::default();
    each_parameter(query, |name, value| match name {
        "start" => parse_time(name, value).map(|at| parsed.start_ms = Some(at)),
        "end" => parse_time(name, value).map(|at| parsed.end_ms = Some(at)),
        _ => {
            let what = format!("unknown parameter; known are {LEDGER_KNOWN}");
            Err(ApiError::field(&echo(name), what))
        }
    })?;
    match (parsed.start_ms, parsed.end_ms) {
        (Some(start), Some(end)) if start >= end => {
            Err(ApiError::field("end", "must be later than start"))
        }
        _ => Ok(parsed),
    }
}

impl LedgerQuery {
    /// Beginning and end, clipped to now. Without a start: the day before the end.
    pub fn range(&self, now_ms: i64) -> (i64, i64) {
        let end_ms = self.end_ms.unwrap_or(now_ms).min(now_ms);
        let start_ms = self.start_ms.unwrap_or(end_ms.saturating_sub(LEDGER_MS_DEFAULT));
        (start_ms.min(now_ms), end_ms.max(start_ms.min(now_ms)))
    }
}

fn parse_time(name: &str, value: &str) -> Result<i64, ApiError> {
    let rule = "must be an RFC 3339 time such as 2025-03-09T10:00:00Z (a + in it as %2B)";
    let bad = || ApiError::field(name, format!("{rule}, got \"{}\"", echo(value)));
    clock::parse_rfc3339_ms(value).ok_or_else(bad)
}

/// `1741514400000_17`: a start in Unix milliseconds and an id.
fn parse_place(value: &str) -> Option<Place> {
    let (at_ms, id) = value.split_once('_')?;
    Some((at_ms.parse().ok()?, parse_id(id)?))
}

fn set(
    query: &mut RecordingsQuery,
    name: &str,
    value: &str,
    is_follow_up: bool,
) -> Result<(), ApiError> {
    let bad = |rule: &str| ApiError::field(name, format!("{rule}, got \"{}\"", echo(value)));
    let id = || parse_id(value).ok_or_else(|| bad(&range_rule(&(0..=u64::MAX))));
    let at = || parse_time(name, value);
    match name {
        "stream_id" => {
            let rule = range_rule(&(0..=u64::from(u32::MAX)));
            query.stream_id = Some(parse_id(value).ok_or_else(|| bad(&rule))?);
        }
        "start" => query.start_ms = Some(at()?),
        "end" => query.end_ms = Some(at()?),
        "protected" => {
            let flag = value.parse().map_err(|_| bad("must be true or false"))?;
            query.is_protected = Some(flag);
        }
        "before" => query.before = Some(id()?),
        "after" => query.after = Some(id()?),
        "limit" => {
            let limit = parse_id(value).filter(|limit| LIMIT_RANGE.contains(limit));
            query.limit = Some(limit.ok_or_else(|| bad(&range_rule(&LIMIT_RANGE)))?);
        }
        "order" => {
            query.is_descending = match value {
                "asc" => false,
                "desc" => true,
                _ => return Err(bad("must be asc or desc")),
            }
        }
        "continue" if is_follow_up => {
            let place = parse_place(value);
            query.continue_from = Some(place.ok_or_else(|| bad("must be a place in the list"))?);
        }
        _ => {
            let what = format!("unknown parameter; known are {KNOWN}");
            return Err(ApiError::field(&echo(name), what));
        }
    }
    Ok(())
}

impl RecordingsQuery {
    /// The target that continues this list behind a place, with `remaining` of its limit left.
    pub fn continued(&self, (at_ms, id): Place, remaining: Option<u64>) -> String {
        let mut target = String::from("/api/v1/recordings?");
        let mut put = |name: &str, value: Option<String>| {
            if let Some(value) = value {
                // A String takes everything: there is no error to have.
                let _ = write!(target, "{name}={value}&");
            }
        };
        put("stream_id", self.stream_id.map(|n| n.to_string()));
        put("start", self.start_ms.map(clock::iso_milliseconds));
        put("end", self.end_ms.map(clock::iso_milliseconds));
        put("protected", self.is_protected.map(|flag| flag.to_string()));
        put("before", self.before.map(|n| n.to_string()));
        put("after", self.after.map(|n| n.to_string()));
        put("limit", remaining.map(|n| n.to_string()));
        put("order", self.is_descending.then(|| "desc".into()));
        let _ = write!(target, "continue={at_ms}_{id}");
        target
    }

    /// Places that this page may hold: behind the first, before the second. The list's own bounds are given.
    pub fn bounds(
        &self,
        after: Option<Place>,
        before: Option<Place>,
    ) -> (Option<Place>, Option<Place>) {
        match self.continue_from {
            None => (after, before),
            Some(last) if self.is_descending => {
                (after, Some(before.map_or(last, |before| before.min(last))))
            }
            Some(last) => (Some(after.map_or(last, |after| after.max(last))), before),
        }
    }

    /// Whether media from `start_ms` to `end_ms` overlaps the wanted time. A recording of no length
    /// counts as the moment that it began.
    pub fn overlaps(&self, start_ms: i64, end_ms: i64) -> bool {
        self.end_ms.is_none_or(|end| start_ms < end)
            && self.start_ms.is_none_or(|start| end_ms > start || start_ms >= start)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::api::error::check_bad_field;

    #[track_caller]
    fn check_bad(query: &str, field: &str, part: &str) {
        check_bad_field(query, parse_recordings(query, false), field, part);
    }

    #[test]
    fn every_parameter_is_read() {
        let query = "stream_id=3&start=2025-03-09T10:00:00Z&end=2025-03-09T12%3A00%3A00%2B01:00\
                     &protected=true&before=90&after=1&limit=50&order=desc&";
        let want = RecordingsQuery {
            stream_id: Some(3),
            start_ms: Some(1_741_514_400_000),
            end_ms: Some(1_741_518_000_000),
            is_protected: Some(true),
            before: Some(90),
            after: Some(1),
            limit: Some(50),
            is_descending: true,
            continue_from: None,
        };
        assert_eq!(parse_recordings(query, false), Ok(want));
        assert_eq!(parse_recordings("", false), Ok(RecordingsQuery::default()));
    }

    #[test]
    fn bad_parameters_are_named() {
        check_bad("stream_id=x", "stream_id", "from 0 to 4294967295, got \"x\"");
        check_bad("protected=1", "protected", "true or false, got \"1\"");
        check_bad("limit=0", "limit", "from 1 to 1000000");
        check_bad("limit", "limit", "got \"\"");
        check_bad("before=-1", "before", "whole number");
        check_bad("start=yesterday", "start", "RFC 3339");
        check_bad("order=down", "order", "asc or desc");
        check_bad("color=red", "color", "known are stream_id");
        check_bad("continue=7_7", "continue", "unknown parameter");
        check_bad("limit=1&limit=2", "limit", "twice");
        check_bad("limit=%ff", "limit", "UTF-8");
        check_bad("limit=%4", "limit", "UTF-8");
    }

    #[test]
    fn the_time_of_a_ledger_is_checked_and_clipped() {
        let day = parse_ledger("start=2025-03-09T00:00:00Z&end=2025-03-10T00:00:00Z").expect("ok");
        let (start, end) = (1_741_478_400_000, 1_741_564_800_000);
        assert_eq!(day.range(i64::MAX), (start, end));
        assert_eq!(day.range(start + 5), (start, start + 5));
        assert_eq!(day.range(start - 5), (start - 5, start - 5));
        assert_eq!(parse_ledger("").expect("ok").range(end), (start, end));
        for bad in ["start=x", "limit=1", "start=2025-03-09T00:00:00Z&end=2025-03-09T00:00:00Z"] {
            assert!(matches!(parse_ledger(bad), Err(ApiError::BadField { .. })), "{bad}");
        }
    }

    #[test]
    fn bounds_narrow_from_page_to_page() {
        let (after, before) = (Some((5, 1)), Some((90, 1)));
        let up = RecordingsQuery::default();
        assert_eq!(up.bounds(after, before), (after, before));
        let next = RecordingsQuery { continue_from: Some((40, 7)), ..up };
        assert_eq!(next.bounds(after, before), (Some((40, 7)), before));
        let down = RecordingsQuery { is_descending: true, ..next };
        assert_eq!(down.bounds(after, before), (after, Some((40, 7))));
    }

    #[test]
    fn overlap_is_half_open() {
        let query =
            RecordingsQuery { start_ms: Some(100), end_ms: Some(200), ..Default::default() };
        for (start, end, want) in [
            (0, 100, false),
            (0, 101, true),
            (199, 300, true),
            (200, 300, false),
            (100, 100, true),
            (150, 150, true),
            (99, 99, false),
        ] {
            assert_eq!(query.overlaps(start, end), want, "{start}..{end}");
        }
    }

    proptest! {
        #[test]
        fn any_text_has_an_answer(query in "\\PC{0,60}", near in "(limit|start|[a-z&=%]{1,4})=[0-9%&=Tz:-]{0,30}") {
            let _ = (parse_recordings(&query, true), parse_recordings(&near, false));
        }

        #[test]
        fn a_continuation_asks_for_the_same_recordings(
            ids in (any::<Option<u32>>(), any::<Option<u64>>(), any::<Option<u64>>(), any::<(i64, u64)>()),
            times in (proptest::option::of(0i64..4_000_000_000_000), proptest::option::of(0i64..4_000_000_000_000)),
            limit in proptest::option::of(1u64..=1_000_000),
            flags in (any::<bool>(), any::<Option<bool>>()),
        ) {
            let query = RecordingsQuery {
                stream_id: ids.0,
                start_ms: times.0,
                end_ms: times.1,
                is_protected: flags.1,
                before: ids.1,
                after: ids.2,
                limit,
                is_descending: flags.0,
                continue_from: None,
            };
            let target = query.continued(ids.3, limit);
            let text = target.strip_prefix("/api/v1/recordings?").expect("its path");
            let want = RecordingsQuery { continue_from: Some(ids.3), ..query };
            prop_assert_eq!(parse_recordings(text, true), Ok(want));
            prop_assert!(parse_recordings(text, false).is_err());
        }
    }
}
