//! Webhook calls: what each says, what is answered, and what must never be believed.

use grosz_providers::facts::SettingKind;
use grosz_providers::gateway::{Delivery, Event, EventKind, Outcome, ReadError, Reading, Verdict};
use grosz_providers::{Provider, Settings};

use crate::fixture::{self, DeliveryCase, Fixture, check_events};

/// Cases that every gateway with webhooks has.
const REQUIRED: &[&str] = &[
    "valid",
    "paid",
    "pending_or_unpaid",
    "failed",
    "forgery",
    "wrong_key",
    "missing_signature",
    "wrong_amount",
    "wrong_currency",
    "repeat_of",
    "late_success",
    "unknown_status",
    "extra_fields",
    "truncated",
];

struct Bench<'f> {
    provider: &'static dyn Provider,
    fixture: &'f Fixture,
}

impl Bench<'_> {
    fn read(&self, case: &DeliveryCase, settings: &Settings, body: &[u8]) -> Result<Reading, ReadError> {
        let (headers, received_at) = (case.headers(), Some(self.fixture.now_of_delivery(case)));
        self.provider.read(settings, &Delivery { headers: &headers, query: &case.query, body, received_at })
    }

    fn settings(&self, case: &DeliveryCase) -> Settings {
        self.fixture.settings_of_delivery(self.provider, case)
    }

    fn events(&self, case: &DeliveryCase) -> Vec<Event> {
        let read = self.read(case, &self.settings(case), &case.body());
        read.unwrap_or_else(|e| panic!("{}: {e}", self.name(case))).events
    }

    fn name(&self, case: &DeliveryCase) -> String {
        format!("{}, delivery {:?}", self.provider.facts().name, case.name)
    }
}

fn each(mut check: impl FnMut(&Bench<'_>, &DeliveryCase)) {
    for (provider, fixture) in fixture::all() {
        let bench = Bench { provider, fixture: &fixture };
        for case in &fixture.deliveries {
            check(&bench, case);
        }
    }
}

#[test]
fn the_required_cases_are_there() {
    for (provider, fixture) in fixture::all() {
        for tag in REQUIRED.iter().filter(|_| provider.facts().can.push) {
            assert!(fixture.deliveries.iter().any(|c| c.is(tag)), "{} has no {tag} delivery", provider.facts().name);
        }
    }
}

// F02, F13
#[test]
fn deliveries_mean_what_the_fixture_says() {
    each(|bench, case| {
        let name = bench.name(case);
        let settings = bench.settings(case);
        let read = bench.read(case, &settings, &case.body());
        if let Some(word) = case.expect.get("error").and_then(|e| e.as_str()) {
            let refused = match &read {
                Err(ReadError::Malformed(_)) => "malformed",
                Err(ReadError::Forged { .. }) => "forged",
                Ok(reading) => panic!("{name} was believed: {reading:?}"),
            };
            assert_eq!(refused, word, "{name}");
        } else {
            check_events(&name, &bench.events(case), &case.expect["events"]);
        }
        check_tags(bench, case);
        check_reply(bench, case, &settings, &read);
    });
}

/// A tag is a promise of what the case shows.
fn check_tags(bench: &Bench<'_>, case: &DeliveryCase) {
    let name = bench.name(case);
    let refused = ["forgery", "wrong_key", "missing_signature", "truncated"].iter().any(|t| case.is(t));
    assert_eq!(refused, case.expect.get("error").is_some(), "{name}: tags and expectation disagree");
    if refused {
        return;
    }
    let events = bench.events(case);
    let any = |kind: &str| events.iter().any(|e| e.kind.word() == kind);
    for (tag, kind) in [
        ("paid", "paid"),
        ("late_success", "paid"),
        ("wrong_amount", "paid"),
        ("wrong_currency", "paid"),
        ("failed", "failed"),
        ("unknown_status", "unknown"),
    ] {
        assert!(!case.is(tag) || any(kind), "{name} is tagged {tag} and has no {kind} event");
    }
    assert!(!case.is("pending_or_unpaid") || !any("paid"), "{name}");
    assert!(!case.is("unknown_status") || !any("paid"), "{name}");
    if let Some(first) = &case.same_key_as {
        let first = bench.fixture.deliveries.iter().find(|c| c.name == *first);
        let first = bench.events(first.unwrap_or_else(|| panic!("{name}: same_key_as names no case")));
        let keys = |events: &[Event]| events.iter().map(|e| e.key.clone()).collect::<Vec<_>>();
        assert_eq!(keys(&events), keys(&first), "{name}");
    }
    assert_eq!(case.is("repeat_of"), case.same_key_as.is_some(), "{name}: repeat_of wants same_key_as");
}

fn check_reply(bench: &Bench<'_>, case: &DeliveryCase, settings: &Settings, read: &Result<Reading, ReadError>) {
    let name = bench.name(case);
    let reply = match read {
        Ok(reading) => {
            let recorded = vec![Outcome::Recorded; reading.events.len()];
            let outcomes = case.outcomes.as_ref().unwrap_or(&recorded);
            assert_eq!(outcomes.len(), reading.events.len(), "{name}: one outcome for each event");
            bench.provider.reply(settings, &Verdict::Committed { echo: &reading.echo, outcomes })
        }
        Err(e) => bench.provider.reply(settings, &Verdict::Refused(e)),
    };
    match &case.reply {
        None => assert_eq!((200..300).contains(&reply.status), read.is_ok(), "{name}: {reply:?}"),
        Some(expect) => {
            assert_eq!(reply.status, expect.status, "{name}: {reply:?}");
            assert!(expect.body.as_ref().is_none_or(|b| *b == reply.body), "{name}: {reply:?}");
            for part in &expect.contains {
                assert!(reply.body.contains(part), "{name}: {reply:?} does not hold {part}");
            }
        }
    }
    for secret in secrets(bench.provider, settings) {
        assert!(!reply.body.contains(&secret), "{name}: the reply holds a secret");
    }
}

fn secrets(provider: &dyn Provider, settings: &Settings) -> Vec<String> {
    let secret = provider.facts().settings.iter().filter(|s| s.kind == SettingKind::Secret);
    secret.filter_map(|s| settings.get(s.name)).map(str::to_owned).collect()
}

/// Runs over the cases tagged `valid`, with what each says.
fn each_valid(mut check: impl FnMut(&Bench<'_>, &DeliveryCase, &[Event])) {
    each(|bench, case| {
        if case.is("valid") {
            check(bench, case, &bench.events(case));
        }
    });
}

/// Whatever was done to a body: a payment in it is one of the original's, to the last member. (White space that is
/// not part of the message may change without harm.)
#[track_caller]
fn check_nothing_new_is_paid(name: &str, read: Result<Reading, ReadError>, original: &[Event]) {
    for event in read.into_iter().flat_map(|r| r.events) {
        assert!(event.kind != EventKind::Paid || original.contains(&event), "{name} made {event:?}");
    }
}

// F13
#[test]
fn a_flipped_byte_never_makes_a_payment() {
    each_valid(|bench, case, original| {
        let (body, settings) = (case.body(), bench.settings(case));
        for at in (0..body.len()).step_by((body.len() / 64).max(1)) {
            for bit in [0x01, 0x02, 0x20] {
                let mut flipped = body.clone();
                flipped[at] ^= bit;
                let name = format!("{}, byte {at} flipped by {bit}", bench.name(case));
                check_nothing_new_is_paid(&name, bench.read(case, &settings, &flipped), original);
            }
        }
    });
}

#[test]
fn a_cut_body_never_makes_a_payment() {
    each_valid(|bench, case, original| {
        let (body, settings) = (case.body(), bench.settings(case));
        let spread = (0..body.len()).step_by((body.len() / 32).max(1));
        for at in spread.chain(body.len().saturating_sub(4)..body.len()) {
            let name = format!("{} cut at {at}", bench.name(case));
            check_nothing_new_is_paid(&name, bench.read(case, &settings, &body[..at]), original);
        }
    });
}

// F13
#[test]
fn another_key_makes_every_delivery_forged() {
    each_valid(|bench, case, _| {
        let settings = bench.settings(case);
        let mut values = settings.expose().clone();
        for setting in bench.provider.facts().settings.iter().filter(|s| s.kind == SettingKind::Secret) {
            if let Some(value) = values.get_mut(setting.name) {
                *value = another(value);
            }
        }
        let read = bench.read(case, &Settings::from_sealed(values), &case.body());
        assert!(matches!(read, Err(ReadError::Forged { .. })), "{}: {read:?}", bench.name(case));
    });
}

/// A secret of the same form: every letter and digit of its second half is the next one.
fn another(secret: &str) -> String {
    let half = secret.chars().count() / 2;
    let next = |c: char| match c {
        'a'..='y' | 'A'..='Y' | '0'..='8' => char::from_u32(c as u32 + 1).unwrap_or(c),
        'z' => 'a',
        'Z' => 'A',
        '9' => '0',
        other => other,
    };
    let changed: String = secret.chars().enumerate().map(|(n, c)| if n < half { c } else { next(c) }).collect();
    assert_ne!(changed, secret);
    changed
}

// F45
#[test]
fn a_huge_body_is_refused() {
    each_valid(|bench, case, _| {
        let settings = bench.settings(case);
        for filler in [b' ', b'A', b'&', b'{', b'[', b'<', 0, 0xff] {
            let mut body = case.body();
            body.resize(body.len() + (1 << 20) + 1, filler);
            let read = bench.read(case, &settings, &body);
            assert!(read.is_err(), "{} with {filler} up to {} bytes", bench.name(case), body.len());
        }
    });
}
