//! Conditional and range requests for a file: which bytes, or none (RFC 9110 sections 13 and 14).
//!
//! In here: If-None-Match, If-Modified-Since, If-Range and Range, in their order of precedence
//! (section 13.2.2). Not in here: reading the file, writing the head (`file.rs`, `reply_core.rs`).
//! Invariant G1: a part lies within the file and is not empty.

use crate::http::head_core::Fields;
use crate::http::reply_core::parse_http_date;

/// Digits of a position; more would not fit a `u64` and are nobody's file.
const POSITION_DIGITS_MAX: usize = 19;

/// What is served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FileMeta {
    pub size: u64,
    /// With its quotes: `"1-2"`.
    pub etag: String,
    pub modified_unix_s: i64,
}

/// What to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Plan {
    /// 200 with all bytes.
    Whole,
    /// 206 with the bytes `first..=last`.
    Part { first: u64, last: u64 },
    /// 304.
    NotModified,
    /// 416.
    Unsatisfiable,
}

/// Decides for GET and HEAD; `Range` counts for GET alone (section 14.2).
pub fn plan(is_head: bool, fields: &Fields, file: &FileMeta) -> Plan {
    if is_not_modified(fields, file) {
        return Plan::NotModified;
    }
    let Some(range) = fields.range.as_deref().filter(|_| !is_head) else { return Plan::Whole };
    let unchanged = fields.if_range.as_deref().is_none_or(|value| if_range_holds(value, file));
    if unchanged { plan_range(range, file.size) } else { Plan::Whole }
}

/// Sections 13.1.2 and 13.1.3: a list of tags wins over a date; tags are compared weakly.
fn is_not_modified(fields: &Fields, file: &FileMeta) -> bool {
    if let Some(list) = &fields.if_none_match {
        return list.trim() == "*" || has_tag(list, &file.etag);
    }
    let since = fields.if_modified_since.as_deref().and_then(parse_http_date);
    since.is_some_and(|since| file.modified_unix_s <= since)
}

/// Tags may hold commas, so the list is walked from quote to quote.
fn has_tag(list: &str, etag: &str) -> bool {
    let wanted = opaque(etag);
    let mut rest = list;
    while let Some((_, after)) = rest.split_once('"') {
        let Some((tag, after)) = after.split_once('"') else { return false };
        if Some(tag) == wanted {
            return true;
        }
        rest = after;
    }
    false
}

fn opaque(etag: &str) -> Option<&str> {
    etag.trim_start_matches("W/").strip_prefix('"')?.strip_suffix('"')
}

/// Section 13.1.5: a strong tag, or exactly the date that we gave.
fn if_range_holds(value: &str, file: &FileMeta) -> bool {
    if value.contains('"') {
        return value == file.etag && !value.starts_with("W/");
    }
    parse_http_date(value) == Some(file.modified_unix_s)
}

/// Section 14.1.2. What is not understood, and several ranges, mean the whole file.
fn plan_range(range: &str, size: u64) -> Plan {
    let Some((unit, spec)) = range.split_once('=') else { return Plan::Whole };
    let Some((first, last)) = spec.trim().split_once('-') else { return Plan::Whole };
    if !unit.trim().eq_ignore_ascii_case("bytes") {
        return Plan::Whole;
    }
    let (first, last) = match (parse_position(first), parse_position(last)) {
        (Position::At(first), Position::Absent) => (first, u64::MAX),
        (Position::At(first), Position::At(last)) if first <= last => (first, last),
        (Position::Absent, Position::At(0)) => return Plan::Unsatisfiable,
        (Position::Absent, Position::At(suffix)) => (size.saturating_sub(suffix), u64::MAX),
        _ => return Plan::Whole,
    };
    match size.checked_sub(1) {
        Some(end) if first <= end => Plan::Part { first, last: last.min(end) },
        _ => Plan::Unsatisfiable,
    }
}

enum Position {
    Absent,
    At(u64),
    Malformed,
}

fn parse_position(text: &str) -> Position {
    let text = text.trim();
    if text.is_empty() {
        return Position::Absent;
    }
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return Position::Malformed;
    }
    let digits = text.trim_start_matches('0');
    match digits.len() {
        0 => Position::At(0),
        1..=POSITION_DIGITS_MAX => digits.parse().map_or(Position::Malformed, Position::At),
        _ => Position::At(u64::MAX), // past the end of any file
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn file(size: u64) -> FileMeta {
        FileMeta { size, etag: "\"7-1000\"".into(), modified_unix_s: 784_111_777 }
    }

    fn ranged(range: &str) -> Fields {
        Fields { range: Some(range.into()), ..Fields::default() }
    }

    #[track_caller]
    fn check_range(range: &str, want: Plan) {
        assert_eq!(plan(false, &ranged(range), &file(1000)), want, "{range}");
    }

    #[test]
    fn ranges() {
        check_range("bytes=0-0", Plan::Part { first: 0, last: 0 });
        check_range("bytes=0-", Plan::Part { first: 0, last: 999 });
        check_range("Bytes = 500 - 5000 ", Plan::Part { first: 500, last: 999 });
        check_range("bytes=-1", Plan::Part { first: 999, last: 999 });
        check_range("bytes=-5000", Plan::Part { first: 0, last: 999 });
        check_range("bytes=0007-8", Plan::Part { first: 7, last: 8 });
        check_range("bytes=5-99999999999999999999999", Plan::Part { first: 5, last: 999 });
        check_range("bytes=1000-", Plan::Unsatisfiable);
        check_range("bytes=99999999999999999999999-", Plan::Unsatisfiable);
        check_range("bytes=-0", Plan::Unsatisfiable);
        for whole in [
            "bytes=0-1,5-6",
            "bytes=5-2",
            "bytes=-",
            "bytes=",
            "bytes",
            "items=0-1",
            "bytes=+1-2",
            "bytes=1-2-3",
            "bytes=a-b",
            "bytes=--1",
        ] {
            check_range(whole, Plan::Whole);
        }
        assert_eq!(plan(false, &ranged("bytes=0-"), &file(0)), Plan::Unsatisfiable);
        assert_eq!(plan(false, &ranged("bytes=-1"), &file(0)), Plan::Unsatisfiable);
        assert_eq!(plan(true, &ranged("bytes=0-1"), &file(9)), Plan::Whole, "HEAD has no range");
    }

    #[test]
    fn if_range_needs_the_very_same_file() {
        let holds = |value: &str| {
            let fields = Fields { if_range: Some(value.into()), ..ranged("bytes=0-1") };
            plan(false, &fields, &file(9)) == Plan::Part { first: 0, last: 1 }
        };
        assert!(holds("\"7-1000\""));
        assert!(!holds("W/\"7-1000\""));
        assert!(!holds("\"7-1001\""));
        assert!(holds("Sun, 06 Nov 1994 08:49:37 GMT"));
        assert!(!holds("Sun, 06 Nov 1994 08:49:38 GMT"), "a later date is another file too");
        assert!(!holds("yesterday"));
    }

    #[test]
    fn not_modified() {
        let tagged =
            |tags: &str| Fields { if_none_match: Some(tags.into()), ..ranged("bytes=0-1") };
        let is_304 = |fields: &Fields| plan(false, fields, &file(9)) == Plan::NotModified;
        assert!(is_304(&tagged("\"7-1000\"")));
        assert!(is_304(&tagged("\"a,b\", W/\"7-1000\"")));
        assert!(is_304(&tagged("*")));
        assert!(!is_304(&tagged("\"7-100\", \"x")));
        let since =
            |date: &str| Fields { if_modified_since: Some(date.into()), ..Fields::default() };
        assert!(is_304(&since("Sun, 06 Nov 1994 08:49:37 GMT")));
        assert!(!is_304(&since("Sun, 06 Nov 1994 08:49:36 GMT")));
        assert!(!is_304(&since("nonsense")));
        let both = Fields {
            if_none_match: Some("\"x\"".into()),
            ..since("Sun, 06 Nov 2033 08:49:37 GMT")
        };
        assert!(!is_304(&both), "tags win over dates");
    }

    proptest! {
        #[test]
        fn a_part_lies_within_the_file(range in "(bytes=)?[0-9, -]{0,24}", size in 0_u64..50) {
            if let Plan::Part { first, last } = plan(false, &ranged(&range), &file(size)) {
                prop_assert!(first <= last && last < size);
            }
        }

        #[test]
        fn any_text_is_answered(a in "\\PC{0,20}", b in "[W/\"a,* ]{0,20}") {
            let fields = Fields {
                range: Some(a.clone()),
                if_range: Some(b.clone()),
                if_none_match: Some(b),
                if_modified_since: Some(a),
                ..Fields::default()
            };
            plan(false, &fields, &file(9));
        }
    }
}
