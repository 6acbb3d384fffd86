//! Time as an argument. The system clock in production, a hand-moved one in tests.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use jiff::Timestamp;

/// Where the hub reads the time.
#[derive(Clone, Debug)]
pub enum Clock {
    /// The machine's clock.
    System,
    /// Stands still until it is moved; for tests.
    Manual(Arc<AtomicI64>),
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
        }
    }

    /// Moves a manual clock forward; the system clock does not listen.
    pub fn advance(&self, by: Duration) {
        if let Clock::Manual(micros) = self {
            micros.fetch_add(i64::try_from(by.as_micros()).unwrap_or(i64::MAX), Ordering::SeqCst);
        }
    }
}

/// An instant from stored microseconds; values out of range (never written by us) become 1970.
pub fn at(micros: i64) -> Timestamp {
    Timestamp::from_microsecond(micros).unwrap_or(Timestamp::UNIX_EPOCH)
}

/// RFC 3339 in UTC with milliseconds, as the API writes times.
pub fn rfc3339(micros: i64) -> String {
    at(micros - micros.rem_euclid(1000)).strftime("%Y-%m-%dT%H:%M:%S%.3fZ").to_string()
}

/// Seconds as microseconds.
pub const fn seconds(s: i64) -> i64 {
    s.saturating_mul(1_000_000)
}
