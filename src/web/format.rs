//! Sums and dates as people of a language write them. Integer arithmetic only.

use grosz_providers::Money;
use jiff::civil::Date;
use jiff::tz::TimeZone;

use super::locale::Language;
use crate::clock;

/// Keeps a sum on one line.
const NO_BREAK: char = '\u{a0}';

/// `1 234,50 PLN`, `1,234.50 PLN`, `1.234 ISK`.
pub(crate) fn money(language: Language, amount: Money) -> String {
    format!("{}{NO_BREAK}{}", number(language, amount), amount.currency().code())
}

/// The same without the currency.
pub(crate) fn number(language: Language, amount: Money) -> String {
    let (group, point) = match language {
        Language::Pl | Language::Uk | Language::Cs | Language::Ru => (NO_BREAK, ','),
        Language::Is => ('.', ','),
        Language::En => (',', '.'),
    };
    let text = amount.to_decimal();
    let (sign, text) = text.strip_prefix('-').map_or(("", text.as_str()), |rest| ("-", rest));
    let (whole, part) = text.split_once('.').unwrap_or((text, ""));
    let mut out = sign.to_owned();
    for (n, digit) in whole.chars().enumerate() {
        if n > 0 && (whole.len() - n) % 3 == 0 {
            out.push(group);
        }
        out.push(digit);
    }
    if !part.is_empty() {
        out.push(point);
        out.push_str(part);
    }
    out
}

/// The day in the language's zone: `21.11.2026`, `21. 11. 2026`, `21 Nov 2026`.
pub(crate) fn date(language: Language, micros: i64) -> String {
    let pattern = match language {
        Language::Pl | Language::Uk | Language::Ru | Language::Is => "%d.%m.%Y",
        Language::Cs => "%-d. %-m. %Y",
        Language::En => "%-d %b %Y",
    };
    clock::at(micros).to_zoned(zone(language)).strftime(pattern).to_string()
}

/// The hour in the language's zone: `22:14`.
pub(crate) fn hour(language: Language, micros: i64) -> String {
    clock::at(micros).to_zoned(zone(language)).strftime("%H:%M").to_string()
}

/// Midnight at the start of a day in the language's zone, in microseconds; `None` for what is no date.
pub(crate) fn start_of_day(language: Language, text: &str, days_later: i64) -> Option<i64> {
    let day: Date = text.parse().ok()?;
    let day = day.checked_add(jiff::Span::new().try_days(days_later).ok()?).ok()?;
    let start = day.to_zoned(zone(language)).ok()?;
    Some(start.timestamp().as_microsecond())
}

fn zone(language: Language) -> TimeZone {
    TimeZone::get(language.zone()).unwrap_or(TimeZone::UTC)
}

#[cfg(test)]
mod tests {
    use grosz_providers::Currency;

    use super::*;

    // R-5W-55
    #[test]
    fn sums_are_written_as_the_language_writes_them() {
        let pln = |minor| Money::new(minor, Currency::PLN);
        let isk = |minor| Money::new(minor, "ISK".parse().unwrap());
        for (language, amount, expect) in [
            (Language::Pl, pln(12300), "123,00 PLN"),
            (Language::Pl, pln(123_456_789), "1 234 567,89 PLN"),
            (Language::En, pln(123_450), "1,234.50 PLN"),
            (Language::Is, isk(1_234_567), "1.234.567 ISK"),
            (Language::Cs, pln(5), "0,05 PLN"),
            (Language::Ru, pln(-100_000), "-1 000,00 PLN"),
        ] {
            assert_eq!(money(language, amount).replace(NO_BREAK, " "), expect);
        }
    }

    #[test]
    fn days_begin_at_midnight_where_the_reader_is() {
        let start = start_of_day(Language::Pl, "2026-11-21", 0).unwrap();
        assert_eq!(clock::rfc3339(start), "2026-11-20T23:00:00.000Z");
        assert_eq!(clock::rfc3339(start_of_day(Language::En, "2026-02-28", 1).unwrap()), "2026-03-01T00:00:00.000Z");
        assert_eq!(date(Language::Pl, start), "21.11.2026");
        assert_eq!(date(Language::En, start), "20 Nov 2026");
        assert_eq!(start_of_day(Language::Pl, "yesterday", 0), None);
        assert_eq!(start_of_day(Language::Pl, "9999-12-31", 1), None);
    }
}
