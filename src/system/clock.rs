//! Wall clock: Unix milliseconds, and how they are written and read as text in UTC.
//!
//! In here: the one place that reads the system's wall clock, RFC 3339 and the names of recordings.
//! Not in here: media time (90 kHz ticks in `ingest/` and `media/`), waiting (`smol::Timer`).
//! All but `wall_ms` is pure, and total: no millisecond count panics.

use std::time::SystemTime;

use jiff::SignedDuration;
use jiff::civil::DateTime;

/// `0000-01-01T00:00:00Z`: earlier times are written as this one (RFC 3339 has four digits of year).
pub const WALL_MS_MIN: i64 = -62_167_219_200_000;
/// `9999-12-31T23:59:59.999Z`: later times are written as this one.
pub const WALL_MS_MAX: i64 = 253_402_300_799_999;

const EPOCH: DateTime = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);
/// `2025-03-09T10:00:00` without fraction and zone.
const CIVIL_BYTES: usize = 19;
/// Longest text that `parse_rfc3339_ms` takes: 19 bytes, point and 9 digits, `+00:00`.
const RFC3339_BYTES_MAX: usize = CIVIL_BYTES + 10 + 6;

/// Now by the recorder's clock, in Unix milliseconds, rounded down. A board without a battery clock
/// starts in 1970 and steps when NTP answers: never use differences of this as durations.
pub fn wall_ms() -> i64 {
    let clamp = |ms: u128| i64::try_from(ms).unwrap_or(WALL_MS_MAX).min(WALL_MS_MAX);
    match SystemTime::now().duration_since(SystemTime::UNIX_EPOCH) {
        Ok(since) => clamp(since.as_millis()),
        Err(before) => -clamp(before.duration().as_nanos().div_ceil(1_000_000)),
    }
}

/// Sets the recorder's clock, which takes root. Only `appliance/` does, on a device of our own.
pub fn set_wall_ms(ms: i64) -> std::io::Result<()> {
    use rustix::time::{ClockId, Timespec, clock_settime};
    let nanoseconds = ms.rem_euclid(1000) * 1_000_000;
    let time = Timespec { tv_sec: ms.div_euclid(1000), tv_nsec: nanoseconds as _ };
    Ok(clock_settime(ClockId::Realtime, time)?)
}

/// Moves the recorder's clock by microseconds, forward or back.
pub fn move_wall_us(us: i64) -> std::io::Result<()> {
    use rustix::time::{ClockId, Timespec, clock_gettime, clock_settime};
    let now = clock_gettime(ClockId::Realtime);
    let us = now.tv_nsec / 1000 + us;
    let time = Timespec {
        tv_sec: now.tv_sec + us.div_euclid(1_000_000),
        tv_nsec: (us.rem_euclid(1_000_000) * 1000) as _,
    };
    Ok(clock_settime(ClockId::Realtime, time)?)
}

/// `2025-03-09T10:00:00Z`, rounded down to the second, clamped to the years 0 to 9999.
pub fn iso_seconds(ms: i64) -> String {
    let at = civil(ms);
    let (year, month, day) = (at.year(), at.month(), at.day());
    let (hour, minute, second) = (at.hour(), at.minute(), at.second());
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// `20250309_100000` in UTC: the name of a recording without its suffix. Rounded and clamped as
/// `iso_seconds`.
pub fn file_stem(ms: i64) -> String {
    let at = civil(ms);
    let (year, month, day) = (at.year(), at.month(), at.day());
    let (hour, minute, second) = (at.hour(), at.minute(), at.second());
    format!("{year:04}{month:02}{day:02}_{hour:02}{minute:02}{second:02}")
}

/// `2025-03-09T10:00:00.250Z`, for what must come back to the millisecond.
pub fn iso_milliseconds(ms: i64) -> String {
    let seconds = iso_seconds(ms);
    format!("{}.{:03}Z", seconds.trim_end_matches('Z'), ms.rem_euclid(1000))
}

/// `2025-03-09 10-00-00` in UTC: a time in the characters that every file system takes.
pub fn file_name_time(ms: i64) -> String {
    iso_seconds(ms).trim_end_matches('Z').replace('T', " ").replace(':', "-")
}

/// Reads an RFC 3339 section 5.6 date-time as Unix milliseconds, rounded down. `T` and `Z` may be small,
/// the zone must be there, a leap second (`:60`) counts as second 59 as in Unix time. At most 9 digits of
/// fraction, which is more than any clock here has.
pub fn parse_rfc3339_ms(text: &str) -> Option<i64> {
    let bytes = text.as_bytes();
    if bytes.len() > RFC3339_BYTES_MAX || !bytes.is_ascii() {
        return None;
    }
    let (civil, rest) = text.split_at_checked(CIVIL_BYTES)?;
    let shape = b"0000-00-00T00:00:00";
    let fits = civil.bytes().zip(shape).all(|(got, want)| match want {
        b'0' => got.is_ascii_digit(),
        _ => got.eq_ignore_ascii_case(want),
    });
    if !fits {
        return None;
    }
    // Every byte is known by now; jiff checks the ranges (days of the month, leap years, hours).
    let at: DateTime = civil.parse().ok()?;
    let (fraction_ms, zone) = split_fraction(rest)?;
    let local_ms = i64::try_from(at.duration_since(EPOCH).as_millis()).ok()? + fraction_ms;
    Some(local_ms - zone_offset_ms(zone)?)
}

/// Splits `.123456Z` into 123 and `Z`; no fraction counts as 0.
fn split_fraction(rest: &str) -> Option<(i64, &str)> {
    let Some(tail) = rest.strip_prefix('.') else { return Some((0, rest)) };
    let digits = tail.bytes().take_while(u8::is_ascii_digit).count();
    let (fraction, zone) = tail.split_at_checked(digits)?;
    if !(1..=9).contains(&digits) {
        return None;
    }
    let ms = fraction.bytes().chain(*b"000").take(3).fold(0, |ms, d| ms * 10 + i64::from(d - b'0'));
    Some((ms, zone))
}

/// `Z` or `+05:30`: what local time is ahead of UTC, in milliseconds.
fn zone_offset_ms(zone: &str) -> Option<i64> {
    if zone.eq_ignore_ascii_case("z") {
        return Some(0);
    }
    let &[sign, h1, h0, b':', m1, m0] = zone.as_bytes() else { return None };
    let two = |a: u8, b: u8| {
        let both = a.is_ascii_digit() && b.is_ascii_digit();
        both.then(|| i64::from(a - b'0') * 10 + i64::from(b - b'0'))
    };
    let (hours, minutes) = (two(h1, h0)?, two(m1, m0)?);
    if hours > 23 || minutes > 59 {
        return None;
    }
    let ms = (hours * 60 + minutes) * 60_000;
    match sign {
        b'+' => Some(ms),
        b'-' => Some(-ms),
        _ => None,
    }
}

fn civil(ms: i64) -> DateTime {
    // Inside the clamp the sum cannot leave jiff's years (-9999 to 9999); fields of a time before 1970
    // count up within their second, so that leaving out the fraction rounds down.
    EPOCH.saturating_add(SignedDuration::from_millis(ms.clamp(WALL_MS_MIN, WALL_MS_MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check_text(ms: i64, iso: &str, stem: &str) {
        assert_eq!(iso_seconds(ms), iso, "{ms}");
        assert_eq!(file_stem(ms), stem, "{ms}");
    }

    #[test]
    fn times_are_written_rounded_down() {
        check_text(0, "1970-01-01T00:00:00Z", "19700101_000000");
        check_text(999, "1970-01-01T00:00:00Z", "19700101_000000");
        check_text(-1, "1969-12-31T23:59:59Z", "19691231_235959");
        check_text(-1000, "1969-12-31T23:59:59Z", "19691231_235959");
        check_text(-1001, "1969-12-31T23:59:58Z", "19691231_235958");
        check_text(1_741_514_400_000, "2025-03-09T10:00:00Z", "20250309_100000");
        check_text(951_782_400_000, "2000-02-29T00:00:00Z", "20000229_000000");
        check_text(1_709_251_199_999, "2024-02-29T23:59:59Z", "20240229_235959");
        check_text(4_107_542_400_000, "2100-03-01T00:00:00Z", "21000301_000000"); // no leap year
        check_text(2_147_483_648_000, "2038-01-19T03:14:08Z", "20380119_031408"); // past 32 bits
    }

    #[test]
    fn extremes_are_clamped_to_four_digits_of_year() {
        check_text(i64::MIN, "0000-01-01T00:00:00Z", "00000101_000000");
        check_text(WALL_MS_MIN, "0000-01-01T00:00:00Z", "00000101_000000");
        check_text(WALL_MS_MAX, "9999-12-31T23:59:59Z", "99991231_235959");
        check_text(i64::MAX, "9999-12-31T23:59:59Z", "99991231_235959");
    }

    #[track_caller]
    fn check_parse(text: &str, want: Option<i64>) {
        assert_eq!(parse_rfc3339_ms(text), want, "{text:?}");
    }

    #[test]
    fn rfc3339_is_read() {
        check_parse("1970-01-01T00:00:00Z", Some(0));
        check_parse("2025-03-09T10:00:00Z", Some(1_741_514_400_000));
        check_parse("2025-03-09t10:00:00z", Some(1_741_514_400_000));
        check_parse("2025-03-09T10:00:00.5Z", Some(1_741_514_400_500));
        check_parse("2025-03-09T10:00:00.123999999Z", Some(1_741_514_400_123));
        check_parse("2025-03-09T15:30:00+05:30", Some(1_741_514_400_000));
        check_parse("2025-03-09T00:00:00-10:00", Some(1_741_514_400_000));
        check_parse("2025-03-09T10:00:00-00:00", Some(1_741_514_400_000));
        check_parse("1969-12-31T23:59:59.999Z", Some(-1));
        check_parse("2024-02-29T12:00:00Z", Some(1_709_208_000_000));
        check_parse("2016-12-31T23:59:60Z", Some(1_483_228_799_000)); // leap second
        check_parse("0000-01-01T00:00:00Z", Some(WALL_MS_MIN));
        check_parse("9999-12-31T23:59:59.999Z", Some(WALL_MS_MAX));
    }

    #[test]
    fn what_is_not_rfc3339_is_refused() {
        for text in [
            "",
            "Z",
            "2025-03-09",
            "2025-03-09T10:00:00",
            "2025-03-09 10:00:00Z",
            "2025-03-09T10:00Z",
            "2025-03-09T10:00:00.Z",
            "2025-03-09T10:00:00.1234567890Z",
            "2025-03-09T10:00:00+0530",
            "2025-03-09T10:00:00+5:30",
            "2025-03-09T10:00:00+24:00",
            "2025-03-09T10:00:00*01:00",
            "2025-03-09T10:00:00Z ",
            " 2025-03-09T10:00:00Z",
            "2025-03-09T10:00:00Z[UTC]",
            "2025-02-29T00:00:00Z",
            "2100-02-29T00:00:00Z",
            "2025-13-01T00:00:00Z",
            "2025-00-01T00:00:00Z",
            "2025-04-31T00:00:00Z",
            "2025-03-09T24:00:00Z",
            "2025-03-09T10:60:00Z",
            "2025-03-09T10:00:61Z",
            "+002025-03-09T10:00:00Z",
            "2025-03-09T10:00:0éZ",
            "2025-03-09T10:00:00−01:00",
            "1741514400",
        ] {
            check_parse(text, None);
        }
    }

    #[test]
    fn the_wall_clock_is_after_this_was_written() {
        let now = wall_ms();
        assert!(now > 1_700_000_000_000 && now < WALL_MS_MAX, "{now}");
    }

    proptest! {
        #[test]
        fn writing_never_panics_and_keeps_its_length(ms in any::<i64>()) {
            prop_assert_eq!(iso_seconds(ms).len(), 20);
            prop_assert_eq!(file_stem(ms).len(), 15);
        }

        #[test]
        fn what_is_written_is_read_back(ms in WALL_MS_MIN..=WALL_MS_MAX) {
            prop_assert_eq!(parse_rfc3339_ms(&iso_seconds(ms)), Some(ms.div_euclid(1000) * 1000));
        }

        #[test]
        fn reading_never_panics(text in any::<String>()) {
            let _ = parse_rfc3339_ms(&text);
        }

        #[test]
        fn reading_near_misses_never_panics(text in "[0-9TZtz:.+\\-]{15,40}") {
            let _ = parse_rfc3339_ms(&text);
        }
    }
}
