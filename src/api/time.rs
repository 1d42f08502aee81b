//! Times as the API writes and reads them: RFC 3339, whole seconds, `Z`. Keeps PURE-CORE.

use jiff::Timestamp;
use jiff::civil::Date;

/// Unix milliseconds to whole seconds, down: an answer must not claim media that is not there.
pub fn seconds_floor(ms: i64) -> i64 {
    ms.div_euclid(1000)
}

/// `2025-03-09T10:00:00Z`. What no calendar holds is shown as the nearest time that one does.
pub fn format_rfc3339(unix_s: i64) -> String {
    timestamp(unix_s).strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// `2025-03-09 10-00-00`: UTC, in the characters that every file system takes.
pub fn format_for_file_name(unix_s: i64) -> String {
    timestamp(unix_s).strftime("%Y-%m-%d %H-%M-%S").to_string()
}

/// `2025-03-09T10:00:00.250Z`, for the program's own continuation of a list.
pub fn format_rfc3339_ms(unix_ms: i64) -> String {
    let seconds = format_rfc3339(seconds_floor(unix_ms));
    format!("{}.{:03}Z", seconds.trim_end_matches('Z'), unix_ms.rem_euclid(1000))
}

fn timestamp(unix_s: i64) -> Timestamp {
    Timestamp::from_second(unix_s).unwrap_or(if unix_s < 0 {
        Timestamp::MIN
    } else {
        Timestamp::MAX
    })
}

/// Parses RFC 3339 section 5.6 `date-time` to Unix milliseconds, rounded down; a leap second counts as
/// the second before it. Stricter than jiff's own parser, which takes much of ISO 8601 besides.
pub fn parse_rfc3339_ms(text: &str) -> Option<i64> {
    let (date, rest) = text.split_at_checked(10)?;
    let date = parse_date(date)?;
    let (separator, rest) = rest.split_at_checked(1)?;
    if !separator.eq_ignore_ascii_case("t") {
        return None;
    }
    let (clock, rest) = rest.split_at_checked(8)?;
    let seconds = parse_clock(clock)?;
    let (millis, offset) = parse_fraction(rest)?;
    let epoch = Date::constant(1970, 1, 1);
    let days = i64::from(date.since(epoch).ok()?.get_days());
    Some(((days * 86_400 + seconds) - parse_offset(offset)?) * 1000 + millis)
}

fn parse_date(text: &str) -> Option<Date> {
    let [year, month, day] = fields(text, '-')?;
    if year.len() != 4 {
        return None;
    }
    Date::new(number(year)?, number(month)?, number(day)?).ok()
}

/// Seconds of the day.
fn parse_clock(text: &str) -> Option<i64> {
    let [hour, minute, second] = fields(text, ':')?;
    let (hour, minute, second): (i64, i64, i64) = (number(hour)?, number(minute)?, number(second)?);
    let is_valid = hour < 24 && minute < 60 && second <= 60;
    is_valid.then_some(hour * 3600 + minute * 60 + second.min(59))
}

/// Milliseconds of an optional fraction, and what follows it.
fn parse_fraction(text: &str) -> Option<(i64, &str)> {
    let Some(after) = text.strip_prefix('.') else { return Some((0, text)) };
    let end = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
    let (digits, rest) = after.split_at(end);
    let millis = format!("{digits:0<3}")[..3].parse().ok()?;
    (!digits.is_empty()).then_some((millis, rest))
}

/// Seconds east of UTC.
fn parse_offset(text: &str) -> Option<i64> {
    if text.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let (sign, clock) = match text.strip_prefix('-') {
        Some(clock) => (-1, clock),
        None => (1, text.strip_prefix('+')?),
    };
    let (hour, minute) = clock.split_once(':')?;
    let is_shaped = hour.len() == 2 && minute.len() == 2;
    let (hour, minute): (i64, i64) = (number(hour)?, number(minute)?);
    (is_shaped && hour < 24 && minute < 60).then_some(sign * (hour * 3600 + minute * 60))
}

/// Three fields; the last two have two digits each, so with the length of the text known, the first
/// one's is too.
fn fields(text: &str, separator: char) -> Option<[&str; 3]> {
    let mut parts = text.split(separator);
    let three = [parts.next()?, parts.next()?, parts.next()?];
    let is_shaped = parts.next().is_none() && three[1].len() == 2 && three[2].len() == 2;
    is_shaped.then_some(three)
}

/// Digits alone: `parse` would also take a sign.
fn number<T: std::str::FromStr>(text: &str) -> Option<T> {
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check_parse(text: &str, want: Option<i64>) {
        assert_eq!(parse_rfc3339_ms(text), want, "{text}");
    }

    #[test]
    fn times_are_written_as_in_the_contract() {
        assert_eq!(format_rfc3339(1_741_514_400), "2025-03-09T10:00:00Z");
        assert_eq!(format_for_file_name(1_741_514_400), "2025-03-09 10-00-00");
        assert_eq!(format_rfc3339_ms(1_741_514_400_007), "2025-03-09T10:00:00.007Z");
        assert_eq!(format_rfc3339_ms(-1), "1969-12-31T23:59:59.999Z");
        assert_eq!(seconds_floor(-1), -1);
        assert_eq!(format_rfc3339(i64::MAX).len(), 20);
    }

    #[test]
    fn rfc_3339_is_read_and_nothing_else() {
        check_parse("2025-03-09T10:00:00Z", Some(1_741_514_400_000));
        check_parse("2025-03-09t10:00:00.2509z", Some(1_741_514_400_250));
        check_parse("2025-03-09T11:30:00+01:30", Some(1_741_514_400_000));
        check_parse("2025-03-09T09:00:00-01:00", Some(1_741_514_400_000));
        check_parse("2016-12-31T23:59:60Z", Some(1_483_228_799_000));
        check_parse("9999-12-31T23:59:59-23:59", Some(253_402_387_139_000));
        check_parse("0000-01-01T00:00:00Z", Some(-62_167_219_200_000));
        for bad in [
            "",
            "2025-03-09",
            "2025-03-09T10:00Z",
            "2025-03-09T10:00:00",
            "2025-03-09 10:00:00Z",
            "2025-02-29T10:00:00Z",
            "2025-03-09T24:00:00Z",
            "2025-03-09T10:00:00.Z",
            "2025-03-09T10:00:00+0100",
            "2025-03-09T10:00:00+24:00",
            "+025-03-09T10:00:00Z",
            "12025-03-09T10:00:00Z",
            "2025-3-09T10:00:000Z",
            "1741514400",
            "2025-03-09T10:00:00Z[UTC]",
        ] {
            check_parse(bad, None);
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read_back(ms in -62_167_219_200_000_i64..253_402_207_200_000) {
            prop_assert_eq!(parse_rfc3339_ms(&format_rfc3339_ms(ms)), Some(ms));
        }

        #[test]
        fn any_text_has_an_answer(text in "\\PC{0,30}", near in "[0-9T:.Z+-]{0,32}") {
            let _ = (parse_rfc3339_ms(&text), parse_rfc3339_ms(&near));
        }
    }
}
