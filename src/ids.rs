//! Ids that sort by time: a kind, an underscore and a ULID: `pay_01JD4Q2X7W8Z9A0B1C2D3E4F5G`.

use std::sync::Mutex;

use rand::RngExt;
use ulid::Ulid;

use crate::clock::Clock;

/// Makes ids and tokens. Ids of one process rise even within a millisecond.
pub struct Ids {
    clock: Clock,
    last: Mutex<Ulid>,
}

impl Ids {
    /// Ids stamped by `clock`.
    pub fn new(clock: Clock) -> Self {
        Ids { clock, last: Mutex::new(Ulid::nil()) }
    }

    /// A new id: `ids.make("pay")`.
    pub fn make(&self, kind: &str) -> String {
        format!("{kind}_{}", self.ulid())
    }

    /// The 26 characters without a kind, for references at gateways.
    pub fn bare(&self) -> String {
        self.ulid().to_string()
    }

    /// 128 random bits as 32 hex digits, for links that must not be guessed (F65).
    pub fn token(&self) -> String {
        hex::encode(rand::rng().random::<[u8; 16]>())
    }

    /// A random number from 0 up to, but not including, `end`; 0 when `end` is not above zero. For jitter.
    pub fn below(&self, end: i64) -> i64 {
        if end <= 0 { 0 } else { rand::rng().random_range(0..end) }
    }

    /// 32 random bytes, for secrets.
    pub fn secret(&self) -> [u8; 32] {
        rand::rng().random()
    }

    fn ulid(&self) -> Ulid {
        let ms = u64::try_from(self.clock.micros() / 1000).unwrap_or(0);
        let fresh = Ulid::from_parts(ms, rand::rng().random::<u128>() >> 48);
        let mut last = self.last.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let next = if fresh.timestamp_ms() > last.timestamp_ms() { fresh } else { last.increment().unwrap_or(fresh) };
        *last = next;
        next
    }
}

/// The id of another kind with the number of `id`: what always comes with something else is found by its number, without
/// an index of its own (ADR 0039).
pub fn with_number_of(id: &str, kind: &str) -> String {
    let number = id.rsplit_once('_').map_or(id, |(_, number)| number);
    format!("{kind}_{number}")
}

/// Microseconds at which an id of ours was made, to the millisecond; `None` when it is not one of ours.
pub fn made_at(id: &str) -> Option<i64> {
    let (_, bare) = id.rsplit_once('_')?;
    // Another spelling, such as small letters, is another text to the database.
    let ulid = Ulid::from_string(bare).ok().filter(|ulid| ulid.to_string() == bare)?;
    i64::try_from(ulid.timestamp_ms()).ok()?.checked_mul(1000)
}

/// The smallest id of a kind that can be made at `micros` or later: the place in an index where an instant begins.
pub fn first_of(kind: &str, micros: i64) -> String {
    let ms = u64::try_from(micros / 1000).unwrap_or(0);
    format!("{kind}_{}", Ulid::from_parts(ms, 0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_of_one_process_rise_and_name_their_time() {
        let clock = Clock::manual("2026-11-21T20:00:00Z".parse().unwrap());
        let ids = Ids::new(clock.clone());
        let made: Vec<String> = (0..1000).map(|_| ids.make("pay")).collect();
        assert!(made.windows(2).all(|w| w[0] < w[1]));
        assert_eq!(made_at(&made[0]).unwrap() / 1000, clock.micros() / 1000);
        assert_eq!(made_at("pay_zzz"), None);
        assert_eq!(with_number_of("dlv_01JD4Q2X7W8Z9A0B1C2D3E4F5G", "evt"), "evt_01JD4Q2X7W8Z9A0B1C2D3E4F5G");
    }

    #[test]
    fn an_instant_has_a_place_among_ids() {
        let clock = Clock::manual("2026-11-30T23:59:59.999999Z".parse().unwrap());
        let before = Ids::new(clock.clone()).make("dlv");
        clock.advance(std::time::Duration::from_micros(1));
        let after = Ids::new(clock.clone()).make("dlv");
        let bound = first_of("dlv", clock.micros());
        assert!(before < bound && bound <= after);
        assert_eq!(made_at(&bound), Some(clock.micros()));
    }
}
