//! Times are milliseconds since the Unix epoch internally, and RFC 3339 text at the interfaces.

use std::time::{SystemTime, UNIX_EPOCH};
use time::{
    Date, OffsetDateTime, PlainDateTime, UtcDateTime,
    format_description::{StaticFormatDescription, well_known::Rfc3339},
    macros::{format_description, utc_datetime},
};

const MS_PER_DAY: i64 = 86_400_000;
const NANOS_PER_MS: i128 = 1_000_000;

/// RFC 3339 in UTC with three digits of the second, so that all times have the same length and sort as text.
const MILLISECONDS: StaticFormatDescription =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// The first and the last moment that RFC 3339 can express.
const FIRST: UtcDateTime = utc_datetime!(0000-01-01 0:00);
const LAST: UtcDateTime = utc_datetime!(9999-12-31 23:59:59.999);

/// Returns the milliseconds since the Unix epoch.
pub fn now_ms() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        Err(_) => 0,
    }
}

/// Formats `ms` as RFC 3339 text in UTC with milliseconds: `2026-11-23T15:04:05.678Z`. A moment before the year 0 or
/// after 9999 becomes the nearest one of those years.
pub fn rfc3339(ms: i64) -> String {
    // Formatting fails only for moments without such a text.
    utc(ms).format(MILLISECONDS).unwrap_or_default()
}

/// Parses RFC 3339 text, such as `2026-11-23T15:04:05Z` or `2026-11-23 15:04:05.678+01:00`, to milliseconds since the
/// Unix epoch; smaller fractions are dropped. `None` for anything else, and for moments that no calendar has. A leap
/// second is the last moment before it.
pub fn parse_rfc3339(text: &str) -> Option<i64> {
    // The library takes any character there.
    if !matches!(text.as_bytes().get(10), Some(b'T' | b't' | b' ')) {
        return None;
    }
    let time = OffsetDateTime::parse(text, &Rfc3339).ok()?;
    i64::try_from(time.unix_timestamp_nanos().div_euclid(NANOS_PER_MS)).ok()
}

/// Returns the beginning of the UTC calendar month that contains `ms`, and of the next one.
pub fn month(ms: i64) -> (i64, i64) {
    let first = utc(ms).date().replace_day(1).unwrap_or(Date::MIN);
    let next = first.saturating_add(time::Duration::days(i64::from(first.month().length(first.year()))));
    let ms = |date: Date| PlainDateTime::new(date, time::Time::MIDNIGHT).assume_utc().unix_timestamp() * 1_000;
    (ms(first), ms(next))
}

fn utc(ms: i64) -> UtcDateTime {
    UtcDateTime::from_unix_timestamp_nanos(i128::from(ms) * NANOS_PER_MS)
        .unwrap_or(if ms < 0 { FIRST } else { LAST })
        .clamp(FIRST, LAST)
}

/// Parses a duration such as `90s`, `10m`, `1h30m`, `2d`.
pub fn parse_duration_ms(text: &str) -> Option<i64> {
    let (mut total, mut rest) = (0_i64, text);
    while !rest.is_empty() {
        let (digits, tail) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
        let (unit, tail) = tail.split_at(tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len()));
        let scale = match unit {
            "ms" => 1,
            "s" => 1_000,
            "m" => 60_000,
            "h" => 3_600_000,
            "d" => MS_PER_DAY,
            _ => return None,
        };
        total = total.checked_add(digits.parse::<i64>().ok()?.checked_mul(scale)?)?;
        rest = tail;
    }
    (!text.is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn moments_are_written_in_utc_with_milliseconds() {
        for (ms, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (-1, "1969-12-31T23:59:59.999Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (951_868_800_000, "2000-03-01T00:00:00.000Z"),
            (1_000_000_000_000, "2001-09-09T01:46:40.000Z"),
            (4_107_542_400_001, "2100-03-01T00:00:00.001Z"),
            (253_402_300_799_999, "9999-12-31T23:59:59.999Z"),
        ] {
            assert_eq!(rfc3339(ms), text);
            if !text.starts_with("1969") {
                assert_eq!(parse_rfc3339(text), Some(ms), "{text}");
            }
        }
    }

    #[test]
    fn months_are_those_of_the_calendar() {
        for (at, start, end) in [
            ("2024-02-29T23:59:59Z", "2024-02-01T00:00:00.000Z", "2024-03-01T00:00:00.000Z"),
            ("2026-12-01T00:00:00Z", "2026-12-01T00:00:00.000Z", "2027-01-01T00:00:00.000Z"),
        ] {
            let (first, next) = month(parse_rfc3339(at).unwrap());
            assert_eq!((rfc3339(first).as_str(), rfc3339(next).as_str()), (start, end));
        }
    }

    #[test]
    fn moments_without_a_text_become_the_nearest_that_has_one() {
        assert_eq!(rfc3339(i64::MIN), "0000-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(i64::MAX), "9999-12-31T23:59:59.999Z");
        assert_eq!(rfc3339(253_402_300_800_000), "9999-12-31T23:59:59.999Z");
        let (first, next) = month(i64::MAX);
        assert!(first < next);
    }

    #[test]
    fn every_day_reads_back() {
        for day in (-700_000..2_900_000).step_by(97) {
            assert_eq!(parse_rfc3339(&rfc3339(day * MS_PER_DAY + 1)), Some(day * MS_PER_DAY + 1));
        }
    }

    #[test]
    fn only_rfc_3339_is_read() {
        for (text, ms) in [
            ("1970-01-01t00:00:00z", Some(0)),
            ("1970-01-01 01:00:00.5+01:00", Some(500)),
            ("1969-12-31T23:30:00.123456-00:30", Some(123)),
            ("2016-12-31T23:59:60Z", Some(1_483_228_799_999)),
            ("1970-01-01T00:00:60Z", None),
            ("1970-01-01T00:00:00", None),
            ("1970-01-01", None),
            ("1970-01-01x00:00:00Z", None),
            ("1970-01-01_00:00:00Z", None),
            ("1970-02-29T00:00:00Z", None),
            ("1970-13-01T00:00:00Z", None),
            ("1970-00-01T00:00:00Z", None),
            ("1970-01-00T00:00:00Z", None),
            ("1970-01-01T24:00:00Z", None),
            ("1970-01-01T00:00:00.Z", None),
            ("1970-01-01T00:00:00+24:00", None),
            ("1970-01-01T00:00:00+1:00", None),
            ("+970-01-01T00:00:00Z", None),
            ("1970-01-01T00:00:00ZZ", None),
            ("1970-01-01T00:0é:00Z", None),
            ("", None),
        ] {
            assert_eq!(parse_rfc3339(text), ms, "{text}");
        }
    }

    #[test]
    fn durations_are_read_with_their_units() {
        for (text, ms) in [
            ("90s", Some(90_000)),
            ("10m", Some(600_000)),
            ("1h30m", Some(5_400_000)),
            ("2d", Some(172_800_000)),
            ("5ms", Some(5)),
            ("10", None),
            ("m", None),
            ("1y", None),
            ("", None),
            ("99999999999999999999s", None),
            ("9999999999999999h", None),
        ] {
            assert_eq!(parse_duration_ms(text), ms, "{text}");
        }
    }

    #[test]
    fn the_clock_is_in_milliseconds() {
        assert!(now_ms() > 1_700_000_000_000);
    }
}
