//! Time as an argument. The system clock in production, a hand-moved one in tests; where several processes share a
//! database, the database's clock (F59).

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::fmt::temporal::DateTimePrinter;

/// Where the hub reads the time.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The machine's clock.
    System,
    /// Stands still until it is moved; for tests.
    Manual(Arc<AtomicI64>),
    /// The database's clock, carried on between two readings of it.
    Shared(Arc<Carried>),
}

impl Clock {
    /// A clock that stands at `at`.
    pub fn manual(at: Timestamp) -> Self {
        Clock::Manual(Arc::new(AtomicI64::new(at.as_microsecond())))
    }

    /// Now, to the microsecond.
    pub fn now(&self) -> Timestamp {
        at(self.micros())
    }

    /// Now in microseconds since 1970.
    pub fn micros(&self) -> i64 {
        match self {
            Clock::System => Timestamp::now().as_microsecond(),
            Clock::Manual(micros) => micros.load(Ordering::SeqCst),
            Clock::Shared(carried) => carried.micros(),
        }
    }

    /// Now for the outside: signatures and documents are dated by the world's time, which is the machine's.
    pub fn outside(&self) -> Timestamp {
        match self {
            Clock::Shared(_) => Timestamp::now(),
            other => other.now(),
        }
    }

    /// Moves a manual clock forward; the system clock does not listen.
    pub fn advance(&self, by: Duration) {
        if let Clock::Manual(micros) = self {
            micros.fetch_add(i64::try_from(by.as_micros()).unwrap_or(i64::MAX), Ordering::SeqCst);
        }
    }

    /// Sets a manual clock back; the others do not listen.
    pub fn set_back(&self, by: Duration) {
        if let Clock::Manual(micros) = self {
            micros.fetch_sub(i64::try_from(by.as_micros()).unwrap_or(i64::MAX), Ordering::SeqCst);
        }
    }
}

/// How far the database's clock may be from where it was carried to, microseconds; more is a jump.
const DRIFT: i64 = seconds(60);

/// The database's clock, carried on by this process's own, which neither jumps nor is set.
#[derive(Debug)]
pub struct Carried {
    born: Instant,
    at_birth: AtomicI64,
}

/// What a reading of the database's clock led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reading {
    /// As expected.
    Followed,
    /// It jumped, and the machine's clock says the same: time passed while this process stood still, or both were set.
    FollowedJump(i64),
    /// It jumped by so many microseconds, and the machine's clock does not agree: a leap that nobody else saw would end
    /// every wait at once, or make it last for days.
    Refused(i64),
}

impl Carried {
    /// A clock that shows `database` now.
    pub fn new(database: i64) -> Self {
        Carried { born: Instant::now(), at_birth: AtomicI64::new(database) }
    }

    /// Takes in a reading of the database's clock, which `took` so long from the question to the answer, and one of the
    /// machine's; all in microseconds. The reading is between nothing and `took` old: what is known already is corrected as
    /// far as it cannot be right, and no further, so an answer that was long in coming does not set the clock back.
    pub fn hear(&self, database: i64, took: i64, machine: i64) -> Reading {
        let carried = self.micros();
        let now = carried.clamp(database, database.saturating_add(took.max(0)));
        let reading = weigh(carried, now, machine);
        if !matches!(reading, Reading::Refused(_)) {
            self.at_birth.fetch_add(now.saturating_sub(carried), Ordering::Relaxed);
        }
        reading
    }

    fn micros(&self) -> i64 {
        let passed = i64::try_from(self.born.elapsed().as_micros()).unwrap_or(i64::MAX);
        self.at_birth.load(Ordering::Relaxed).saturating_add(passed)
    }
}

/// Two of three clocks decide.
fn weigh(carried: i64, database: i64, machine: i64) -> Reading {
    let jump = database.saturating_sub(carried);
    if jump.saturating_abs() <= DRIFT {
        Reading::Followed
    } else if database.saturating_sub(machine).saturating_abs() <= DRIFT {
        Reading::FollowedJump(jump)
    } else {
        Reading::Refused(jump)
    }
}

/// An instant from stored microseconds; values out of range (never written by us) become 1970.
pub fn at(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(micros).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// RFC 3339 in UTC with milliseconds, as the API writes times.
pub fn rfc3339(micros: i64) -> String {
    const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(3));
    PRINTER.timestamp_to_string(&at(micros - micros.rem_euclid(1000)))
}

/// Seconds as microseconds.
pub const fn seconds(s: i64) -> i64 {
    s.saturating_mul(1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_weigh(database_s: i64, machine_s: i64, expect: Reading) {
        assert_eq!(weigh(0, seconds(database_s), seconds(machine_s)), expect);
    }

    #[test]
    fn times_are_written_with_milliseconds() {
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(1_790_000_000_123_999), "2026-09-21T14:13:20.123Z");
        assert_eq!(rfc3339(-1), "1969-12-31T23:59:59.999Z");
    }

    // F59
    #[test]
    fn two_of_three_clocks_decide() {
        const DAY: i64 = 86_400;
        check_weigh(1, 0, Reading::Followed);
        check_weigh(-1, 0, Reading::Followed);
        // The machine's own clock is wrong: it has no say while the database's goes on.
        check_weigh(1, 3600, Reading::Followed);
        check_weigh(0, -3 * DAY, Reading::Followed);
        // The database's clock jumps alone.
        check_weigh(40 * DAY, 0, Reading::Refused(seconds(40 * DAY)));
        check_weigh(-3 * DAY, 0, Reading::Refused(seconds(-3 * DAY)));
        check_weigh(-3 * DAY, 40 * DAY, Reading::Refused(seconds(-3 * DAY)));
        // The process stood still for an hour.
        check_weigh(3600, 3601, Reading::FollowedJump(seconds(3600)));
    }

    #[test]
    fn a_refused_jump_changes_nothing() {
        let carried = Carried::new(seconds(1_000_000));
        assert!(matches!(carried.hear(seconds(9_000_000), 0, seconds(1_000_000)), Reading::Refused(_)));
        assert!((carried.micros() - seconds(1_000_000)).abs() < seconds(60));
        carried.hear(seconds(1_000_030), 0, 0);
        assert!((carried.micros() - seconds(1_000_030)).abs() < seconds(10), "drift is followed");
    }

    // F59
    #[test]
    fn a_reading_that_was_long_in_coming_sets_nothing_back() {
        let carried = Carried::new(seconds(1_000_000));
        let apart = |from: i64| carried.micros() - seconds(from);
        // Read 20 seconds ago, and on its way since.
        assert_eq!(carried.hear(seconds(999_980), seconds(21), 0), Reading::Followed);
        assert!((0..seconds(10)).contains(&apart(1_000_000)), "{}", apart(1_000_000));
        // However long it took, the time is not before what was read, nor later than if it was read at once.
        carried.hear(seconds(1_000_030), seconds(5), 0);
        assert!((0..seconds(10)).contains(&apart(1_000_030)), "{}", apart(1_000_030));
        carried.hear(seconds(999_990), seconds(5), 0);
        assert!((seconds(-5)..seconds(5)).contains(&apart(1_000_000)), "{}", apart(1_000_000));
        // No wait is so long that a leap would pass for it.
        assert!(matches!(carried.hear(seconds(1_000_100), seconds(5), 0), Reading::Refused(_)));
    }
}
