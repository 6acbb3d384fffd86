//! Every registered gateway against its fixture file and its twin.
//!
//! Nothing here knows a gateway: the suite walks the registry, reads `fixtures/<name>.json`, and makes from each good
//! case the bad ones that are the same everywhere (a flipped byte, a cut body, a lost answer). A gateway without a
//! fixture file, or without the cases that every gateway needs, fails. `fixtures/README.md` describes the file.

#[path = "conformance/calls.rs"]
mod calls;
#[path = "conformance/deliveries.rs"]
mod deliveries;
#[path = "conformance/fixture.rs"]
mod fixture;
#[path = "conformance/round_trip.rs"]
mod round_trip;

use grosz_providers::{Currency, registry};

#[test]
fn facts_make_sense() {
    for provider in registry::providers() {
        let facts = provider.facts();
        let name = facts.name;
        assert!(!name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit()), "{name}");
        assert_eq!(registry::providers().filter(|p| p.facts().name == name).count(), 1, "{name} is there twice");
        for code in facts.currencies {
            assert!(code.parse::<Currency>().is_ok(), "{name}: {code}");
        }
        for country in facts.countries {
            assert!(country.len() == 2 && country.bytes().all(|b| b.is_ascii_uppercase()), "{name}: {country}");
        }
        assert!(0 < facts.limits.0 && facts.limits.0 <= facts.limits.1, "{name}: limits");
        assert!(facts.lifetime_s > 0, "{name}: lifetime");
        for (n, setting) in facts.settings.iter().enumerate() {
            assert!(!setting.help.is_empty(), "{name}: {} has no help", setting.name);
            assert!(!facts.settings[..n].iter().any(|s| s.name == setting.name), "{name}: {} twice", setting.name);
        }
        if let Some(account) = facts.account_setting {
            assert!(facts.settings.iter().any(|s| s.name == account), "{name}: no setting {account}");
        }
    }
}
