//! The fault dial of one twin: how often the next calls and deliveries go wrong, and how.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use grosz_providers::twin::Faults;

/// A fault's name and one sentence about it.
pub type Known = (&'static str, &'static str);

/// Faults of the way between a gateway and the hub, carried out by the host.
const OF_THE_WAY: &[Known] = &[
    ("drop", "So many deliveries get lost; the gateway hears nothing"),
    ("drop_percent", "So many of a hundred deliveries get lost (does not run out)"),
    ("repeat", "Each delivery arrives so many more times, all at once (does not run out)"),
    ("delay_s", "Each delivery is so many seconds late (does not run out)"),
    ("reorder", "So many deliveries wait until the next one has passed them"),
    ("tamper", "In so many deliveries one byte is changed on the way"),
    ("lose_answer", "So many answers of the hub get lost on the way back"),
];

/// Faults that any twin's host can show.
const OF_ALL: &[Known] = &[
    ("challenge_page", "A firewall answers so many API calls with a page for browsers; nothing is done"),
    ("clock_ahead_s", "The twin's clock is so many seconds ahead (does not run out)"),
    ("clock_behind_s", "The twin's clock is so many seconds behind (does not run out)"),
];

/// Sizes, not counts: using them does not use them up.
const SIZES: &[&str] = &["drop_percent", "repeat", "delay_s", "clock_ahead_s", "clock_behind_s"];

/// One twin's dial.
pub struct Dial {
    known: Vec<Known>,
    set: Mutex<BTreeMap<String, u32>>,
}

impl Dial {
    /// A dial with everything off; `delivers` adds the faults of the way.
    pub fn new(of_the_twin: &[Known], delivers: bool) -> Self {
        let way = if delivers { OF_THE_WAY } else { &[] };
        Dial { known: [of_the_twin, way, OF_ALL].concat(), set: Mutex::default() }
    }

    /// All faults there are, in the order in which they are shown.
    pub fn known(&self) -> &[Known] {
        &self.known
    }

    /// Every fault with its value.
    pub fn values(&self) -> BTreeMap<&'static str, u32> {
        let set = self.lock();
        self.known.iter().map(|(name, _)| (*name, set.get(*name).copied().unwrap_or(0))).collect()
    }

    /// Replaces all values; what is not named is off.
    pub fn set(&self, values: BTreeMap<String, u32>) {
        *self.lock() = values;
    }

    /// The first name that is no fault here.
    pub fn unknown<'n>(&self, names: impl IntoIterator<Item = &'n String>) -> Option<&'n String> {
        names.into_iter().find(|name| !self.known.iter().any(|(known, _)| known == name))
    }

    /// The value of a fault; 0 is off.
    pub fn value(&self, name: &str) -> u32 {
        self.lock().get(name).copied().unwrap_or(0)
    }

    /// True when the fault was on; it is used once.
    pub fn take(&self, name: &str) -> bool {
        self.draw(&[name]).on(name)
    }

    /// Those of the faults that are on; each is used once.
    pub fn draw(&self, names: &[&str]) -> Faults {
        let faults = self.look(names);
        self.spend(names, 1);
        faults
    }

    /// Those of the faults that are on, without using them.
    pub fn look(&self, names: &[&str]) -> Faults {
        let set = self.lock();
        let on = set.iter().filter(|(name, n)| **n > 0 && names.contains(&name.as_str()));
        Faults(on.map(|(name, n)| (name.clone(), *n)).collect())
    }

    /// Uses the faults so many times.
    pub fn spend(&self, names: &[&str], times: u32) {
        let mut set = self.lock();
        for name in names.iter().filter(|name| !SIZES.contains(name)) {
            if let Some(n) = set.get_mut(*name) {
                *n = n.saturating_sub(times);
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, u32>> {
        self.set.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_run_out_and_sizes_do_not() {
        let dial = Dial::new(&[("wrong_amount", "")], true);
        dial.set([("wrong_amount".into(), 1), ("drop".into(), 2), ("repeat".into(), 3)].into());
        assert!(dial.draw(&["wrong_amount", "repeat"]).on("wrong_amount"));
        assert!(!dial.draw(&["wrong_amount"]).on("wrong_amount"), "used up");
        assert_eq!((dial.take("drop"), dial.take("drop"), dial.take("drop")), (true, true, false));
        assert_eq!(dial.value("repeat"), 3);
        assert_eq!(dial.unknown(&["drop".to_owned(), "dorp".to_owned()]), Some(&"dorp".to_owned()));
    }

    #[test]
    fn a_twin_that_delivers_nothing_has_no_way_to_spoil() {
        let dial = Dial::new(&[], false);
        assert_eq!(
            dial.values().keys().copied().collect::<Vec<_>>(),
            ["challenge_page", "clock_ahead_s", "clock_behind_s"]
        );
    }
}
