//! Times are milliseconds since the Unix epoch everywhere inside, and RFC 3339 text at the edges.

use std::time::{SystemTime, UNIX_EPOCH};

const MS_PER_DAY: i64 = 86_400_000;

/// Milliseconds since the Unix epoch.
pub fn now_ms() -> i64 {
    match SystemTime::now().duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_millis()).unwrap_or(i64::MAX),
        Err(_) => 0,
    }
}

/// `ms` as RFC 3339 text in UTC with milliseconds: `2026-11-23T15:04:05.678Z`.
pub fn rfc3339(ms: i64) -> String {
    let (days, rest) = (ms.div_euclid(MS_PER_DAY), ms.rem_euclid(MS_PER_DAY));
    let (year, month, day) = civil(days);
    let (seconds, millis) = (rest / 1000, rest % 1000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// Reads RFC 3339 text, such as `2026-11-23T15:04:05Z` or `2026-11-23 15:04:05.678+01:00`, as milliseconds since the
/// Unix epoch; what is finer than a millisecond is dropped. `None` for anything else, and for moments that no calendar
/// has. A leap second is the one after it.
pub fn parse_rfc3339(text: &str) -> Option<i64> {
    let number = |range: std::ops::Range<usize>| -> Option<i64> {
        let digits = text.get(range)?;
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok())?
    };
    let is = |at: usize, any_of: &[u8]| text.as_bytes().get(at).is_some_and(|b| any_of.contains(b));
    let separated = is(4, b"-") && is(7, b"-") && is(10, b"Tt ") && is(13, b":") && is(16, b":");
    let (year, month, day) = (number(0..4)?, number(5..7)?, number(8..10)?);
    let (hour, minute, second) = (number(11..13)?, number(14..16)?, number(17..19)?);
    if !separated || hour > 23 || minute > 59 || second > 60 || !(1..=12).contains(&month) {
        return None;
    }
    let days = days_from_civil(year, month, day);
    if civil(days) != (year, month, day) {
        return None;
    }
    let rest = text.get(19..)?;
    let (fraction, zone) = match rest.strip_prefix('.') {
        Some(rest) => rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?),
        None => ("0", rest),
    };
    if fraction.is_empty() {
        return None;
    }
    let millis: i64 = format!("{fraction:0<3}").get(..3)?.parse().ok()?;
    let offset = match zone.as_bytes() {
        b"Z" | b"z" => 0,
        [sign @ (b'+' | b'-'), h1, h2, b':', m1, m2] if [h1, h2, m1, m2].iter().all(|b| b.is_ascii_digit()) => {
            let two = |tens: u8, ones: u8| i64::from(tens - b'0') * 10 + i64::from(ones - b'0');
            let (hours, minutes) = (two(*h1, *h2), two(*m1, *m2));
            if hours > 23 || minutes > 59 {
                return None;
            }
            (hours * 60 + minutes) * if *sign == b'-' { -1 } else { 1 }
        }
        _ => return None,
    };
    let seconds = hour * 3600 + (minute - offset) * 60 + second;
    Some(days * MS_PER_DAY + seconds * 1000 + millis)
}

/// When the calendar month of UTC begins that `ms` is in, and when the next one does.
pub fn month(ms: i64) -> (i64, i64) {
    let (year, month, _) = civil(ms.div_euclid(MS_PER_DAY));
    let next = if month == 12 { (year + 1, 1) } else { (year, month + 1) };
    (days_from_civil(year, month, 1) * MS_PER_DAY, days_from_civil(next.0, next.1, 1) * MS_PER_DAY)
}

/// The inverse of [`civil`]; a day that the month does not have comes out in the next one.
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let month_from_march = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * month_from_march + 2) / 5 + day - 1;
    let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
    era * 146_097 + day_of_era - 719_468
}

/// A span of time as people write it: `90s`, `10m`, `1h30m`, `2d`.
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

/// Year, month and day of a day counted from 1970-01-01, in the proleptic Gregorian calendar. Years are counted from
/// March, so that the leap day is the last one, in eras of 400 years, which all have the same number of days.
fn civil(days: i64) -> (i64, i64, i64) {
    const DAYS_PER_ERA: i64 = 146_097;
    let from_march_of_year_0 = days + 719_468;
    let era = from_march_of_year_0.div_euclid(DAYS_PER_ERA);
    let day_of_era = from_march_of_year_0.rem_euclid(DAYS_PER_ERA);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + i64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn known_moments() {
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
    fn every_day_reads_back() {
        for day in (-800_000..2_000_000).step_by(97).filter(|d| (0..=9999).contains(&civil(*d).0)) {
            assert_eq!(parse_rfc3339(&rfc3339(day * MS_PER_DAY + 1)), Some(day * MS_PER_DAY + 1));
        }
    }

    #[test]
    fn other_spellings_and_nonsense() {
        for (text, ms) in [
            ("1970-01-01t00:00:00z", Some(0)),
            ("1970-01-01 01:00:00.5+01:00", Some(500)),
            ("1969-12-31T23:30:00.123456-00:30", Some(123)),
            ("1970-01-01T00:00:60Z", Some(60_000)),
            ("1970-01-01T00:00:00", None),
            ("1970-01-01", None),
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
    fn spans_as_people_write_them() {
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
    fn now_is_after_this_was_written() {
        assert!(now_ms() > 1_700_000_000_000);
    }
}
