//! Times without a clock: RFC 3339 text to and from milliseconds, and local wall-clock parts.
//!
//! A policy has no clock: `question.request.at` is now.

use crate::types::{Question, TimestampMs};

/// Milliseconds in a minute.
pub const MINUTE_MS: u64 = 60_000;
/// Milliseconds in an hour.
pub const HOUR_MS: u64 = 60 * MINUTE_MS;
/// Milliseconds in a day.
pub const DAY_MS: u64 = 24 * HOUR_MS;

/// A date and time of day, in whatever offset it was made with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Civil {
    /// Year, proleptic Gregorian.
    pub year: i64,
    /// 1 to 12.
    pub month: u8,
    /// 1 to 31.
    pub day: u8,
    /// 0 to 23.
    pub hour: u8,
    /// 0 to 59.
    pub minute: u8,
    /// 0 to 59.
    pub second: u8,
    /// 0 to 999.
    pub millisecond: u16,
    /// 1 is Monday, 7 is Sunday (ISO 8601).
    pub weekday: u8,
}

impl Civil {
    /// Wall-clock time at `at`, this many minutes east of UTC.
    #[must_use]
    pub fn at(at: TimestampMs, utc_offset_minutes: i16) -> Self {
        let local = at as i64 + i64::from(utc_offset_minutes) * MINUTE_MS as i64;
        let days = local.div_euclid(DAY_MS as i64);
        let in_day = local.rem_euclid(DAY_MS as i64);
        // Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms", civil_from_days.
        let shifted = days + 719_468;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let month_from_march = (5 * day_of_year + 2) / 153;
        let day = (day_of_year - (153 * month_from_march + 2) / 5 + 1) as u8;
        let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 } as u8;
        Self {
            year: year_of_era + era * 400 + i64::from(month <= 2),
            month,
            day,
            hour: (in_day / HOUR_MS as i64) as u8,
            minute: (in_day / MINUTE_MS as i64 % 60) as u8,
            second: (in_day / 1000 % 60) as u8,
            millisecond: (in_day % 1000) as u16,
            weekday: ((days + 3).rem_euclid(7) + 1) as u8,
        }
    }
}

/// Wall-clock time in the organisation's offset when the request came in.
#[must_use]
pub fn local(question: &Question) -> Civil {
    Civil::at(question.request.at, question.request.utc_offset_minutes)
}

/// `at` as RFC 3339 in UTC, with a fraction only where there is one.
#[must_use]
pub fn format(at: TimestampMs) -> String {
    let civil = Civil::at(at, 0);
    let mut text = String::with_capacity(24);
    push(&mut text, civil.year as u64, 4);
    for (mark, part) in [('-', civil.month), ('-', civil.day), ('T', civil.hour), (':', civil.minute), (':', civil.second)] {
        text.push(mark);
        push(&mut text, u64::from(part), 2);
    }
    if civil.millisecond != 0 {
        text.push('.');
        push(&mut text, u64::from(civil.millisecond), 3);
        while text.ends_with('0') {
            text.pop();
        }
    }
    text.push('Z');
    text
}

// Padded decimal without core::fmt, which would be most of a small plugin's size.
fn push(text: &mut String, number: u64, width: u32) {
    for place in (0..width).rev() {
        text.push((b'0' + (number / 10_u64.pow(place) % 10) as u8) as char);
    }
}

/// Milliseconds since the epoch, or `None` where `text` is no RFC 3339 time of 1970 or later.
#[must_use]
pub fn parse(text: &str) -> Option<TimestampMs> {
    let bytes = text.as_bytes();
    let number = |from: usize, to: usize| -> Option<i64> {
        let digits = bytes.get(from..to)?;
        digits.iter().all(u8::is_ascii_digit).then(|| digits.iter().fold(0, |sum, digit| sum * 10 + i64::from(digit - b'0')))
    };
    let mark = |at: usize, wanted: &[u8]| bytes.get(at).is_some_and(|byte| wanted.contains(byte));
    if !(mark(4, b"-") && mark(7, b"-") && mark(10, b"Tt ") && mark(13, b":") && mark(16, b":")) {
        return None;
    }
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) || hour > 23 || minute > 59 || second > 59 {
        return None;
    }
    let mut rest = 19;
    let mut millis = 0;
    if mark(rest, b".") {
        let end = (rest + 1..bytes.len()).find(|&at| !bytes[at].is_ascii_digit())?;
        let digits = bytes.get(rest + 1..end).filter(|digits| !digits.is_empty())?;
        for place in 0..3 {
            millis = millis * 10 + digits.get(place).map_or(0, |digit| i64::from(digit - b'0'));
        }
        rest = end;
    }
    let offset_minutes = if mark(rest, b"Zz") && bytes.len() == rest + 1 {
        0
    } else if mark(rest, b"+-") && mark(rest + 3, b":") && bytes.len() == rest + 6 {
        let (hours, minutes) = (number(rest + 1, rest + 3)?, number(rest + 4, rest + 6)?);
        if hours > 23 || minutes > 59 {
            return None;
        }
        (hours * 60 + minutes) * if bytes[rest] == b'-' { -1 } else { 1 }
    } else {
        return None;
    };
    let minutes = days_from_civil(year, month, day) * 1440 + hour * 60 + minute - offset_minutes;
    u64::try_from((minutes * 60 + second) * 1000 + millis).ok()
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = year - i64::from(month <= 2);
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// serde form of a time: RFC 3339.
pub(crate) mod rfc3339 {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(at: &u64, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&super::format(*at))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u64, D::Error> {
        let text = String::deserialize(deserializer)?;
        super::parse(&text).ok_or_else(|| D::Error::custom("expected an RFC 3339 time"))
    }
}

/// serde form of a time that may be absent.
pub(crate) mod rfc3339_option {
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(at: &Option<u64>, serializer: S) -> Result<S::Ok, S::Error> {
        match at {
            Some(at) => serializer.serialize_some(&super::format(*at)),
            None => serializer.serialize_none(),
        }
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<u64>, D::Error> {
        Option::<String>::deserialize(deserializer)?
            .map(|text| super::parse(&text).ok_or_else(|| D::Error::custom("expected an RFC 3339 time")))
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::{Civil, DAY_MS, format, parse};

    #[test]
    fn formats_and_parses_known_times() {
        for (at, text) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_827_696_789, "2000-02-29T12:34:56.789Z"),
            (1_771_410_600_000, "2026-02-18T10:30:00Z"),
            (4_102_444_799_500, "2099-12-31T23:59:59.5Z"),
        ] {
            assert_eq!(format(at), text);
            assert_eq!(parse(text), Some(at), "{text}");
        }
        assert_eq!(parse("2026-02-18T11:30:00+01:00"), parse("2026-02-18T10:30:00Z"));
        assert_eq!(parse("2026-02-17T23:30:00-11:00"), parse("2026-02-18T10:30:00Z"));
        assert_eq!(parse("2026-02-18T10:30:00.0009Z"), parse("2026-02-18T10:30:00Z"));
    }

    #[test]
    fn refuses_what_is_no_time() {
        for text in [
            "", "2026-02-18", "2026-02-29T00:00:00Z", "2026-13-01T00:00:00Z", "2026-02-18T24:00:00Z",
            "2026-02-18T10:30:00", "2026-02-18T10:30:00.Z", "2026-02-18T10:30:00.5", "2026-02-18T10:30:00+1:00",
            "2026-02-18T10:30:00Zz", "1969-12-31T23:59:59Z", "2026-02-18T10:30:00+24:00", "２026-02-18T10:30:00Z",
        ] {
            assert_eq!(parse(text), None, "{text}");
        }
    }

    #[test]
    fn every_day_for_two_centuries_round_trips_and_weeks_run_on() {
        for day in 0..73_000 {
            let at = day * DAY_MS + 86_399_999;
            assert_eq!(parse(&format(at)), Some(at));
            assert_eq!(u64::from(Civil::at(at, 0).weekday), (day + 3) % 7 + 1);
        }
    }

    #[test]
    fn offset_moves_the_day() {
        let civil = Civil::at(parse("2026-03-01T00:30:00Z").expect("a time"), -60);
        assert_eq!((civil.month, civil.day, civil.hour, civil.minute, civil.weekday), (2, 28, 23, 30, 6));
    }
}
