//! Months in UTC, the unit in which what grows is kept and let go.

use jiff::civil::Date;
use jiff::tz::TimeZone;

use crate::clock::at;

/// The first microsecond of the month that is `later` months after the one of `micros` (before it, when negative).
pub fn month_start(micros: i64, later: i32) -> i64 {
    let date = at(micros).to_zoned(TimeZone::UTC).date();
    let months = i32::from(date.year()) * 12 + i32::from(date.month()) - 1 + later;
    let (year, month) = (i16::try_from(months.div_euclid(12)), i8::try_from(months.rem_euclid(12) + 1));
    let first = match (year, month) {
        (Ok(year), Ok(month)) => Date::new(year, month, 1).ok(),
        _ => None,
    };
    let start = first.and_then(|d| d.to_zoned(TimeZone::UTC).ok());
    start.map_or(0, |z| z.timestamp().as_microsecond())
}

/// `2026_11`, the month of `micros`.
pub fn month_name(micros: i64) -> String {
    at(micros).strftime("%Y_%m").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::rfc3339;

    #[track_caller]
    fn check(at: &str, later: i32, expect: &str) {
        let at: jiff::Timestamp = at.parse().unwrap();
        assert_eq!(rfc3339(month_start(at.as_microsecond(), later)), expect);
    }

    #[test]
    fn months_begin_at_midnight_utc() {
        check("2026-11-21T20:00:00Z", 0, "2026-11-01T00:00:00.000Z");
        check("2026-11-01T00:00:00Z", 0, "2026-11-01T00:00:00.000Z");
        check("2026-12-31T23:59:59.999999Z", 1, "2027-01-01T00:00:00.000Z");
        check("2026-01-31T12:00:00Z", -1, "2025-12-01T00:00:00.000Z");
        check("2028-02-29T12:00:00Z", -13, "2027-01-01T00:00:00.000Z");
        check("1970-01-01T00:00:00Z", -1, "1969-12-01T00:00:00.000Z");
        assert_eq!(month_name(month_start(0, 0)), "1970_01");
    }
}
