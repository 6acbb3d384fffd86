//! Autopay writes the local time of Warsaw, without a zone.

use jiff::Timestamp;
use jiff::civil::DateTime;
use jiff::tz::TimeZone;

/// `YYYY-MM-DD hh:mm:ss`, as requests write it. Parts of a second are cut, so that nothing becomes valid for longer.
pub(super) fn request_form(at: Timestamp) -> String {
    at.to_zoned(warsaw()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// `YYYYMMDDhhmmss`, as notifications write it.
pub(super) fn notification_form(at: Timestamp) -> String {
    at.to_zoned(warsaw()).strftime("%Y%m%d%H%M%S").to_string()
}

/// Reads what [`notification_form`] writes. In the hour that comes twice in October the first is taken.
pub(super) fn read_notification_form(text: &str) -> Option<Timestamp> {
    read(text, "%Y%m%d%H%M%S", 14)
}

/// Reads what [`request_form`] writes.
pub(super) fn read_request_form(text: &str) -> Option<Timestamp> {
    read(text, "%Y-%m-%d %H:%M:%S", 19)
}

fn read(text: &str, format: &str, length: usize) -> Option<Timestamp> {
    if text.len() != length || !text.bytes().all(|b| b.is_ascii_digit() || b"-: ".contains(&b)) {
        return None;
    }
    warsaw().to_timestamp(DateTime::strptime(format, text).ok()?).ok()
}

/// The zone is compiled into the program; fixed winter time would be wrong by an hour for half a year, so this has
/// a test.
fn warsaw() -> TimeZone {
    TimeZone::get("Europe/Warsaw").unwrap_or(TimeZone::UTC)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(utc: &str, local: &str) {
        let at: Timestamp = utc.parse().unwrap();
        assert_eq!(request_form(at), local);
        assert_eq!(read_request_form(local), Some(at));
        assert_eq!(read_notification_form(&notification_form(at)), Some(at));
    }

    // F17
    #[test]
    fn local_time_is_warsaw_with_summer_time() {
        check("2026-11-21T09:17:33Z", "2026-11-21 10:17:33");
        check("2026-07-01T21:59:59Z", "2026-07-01 23:59:59");
        check("2026-10-25T00:30:00Z", "2026-10-25 02:30:00");
        assert_eq!(request_form("2026-10-25T01:30:00Z".parse().unwrap()), "2026-10-25 02:30:00");
        for bad in ["", "20261321000000", "2026112110173", "2026112110173x", "99999999999999"] {
            assert_eq!(read_notification_form(bad), None, "{bad}");
        }
    }
}
