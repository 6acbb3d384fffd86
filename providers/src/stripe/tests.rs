use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::gateway::{Event, EventKind, FailReason, Reference};
use crate::money::Money;
use crate::wire::Headers;

/// The published cases, as they are.
pub(super) fn vectors() -> Value {
    serde_json::from_str(include_str!("../../fixtures/vectors/cards.json")).unwrap()
}

const SECRET: &str = "whsec_9rJ2kTq7VbXw3YzLm5Nc8PdRf1GhSaUe";

fn settings(more: Value) -> Settings {
    let mut given = json!({"secret_key": "sk_test_x", "webhook_secret": SECRET});
    given.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Settings::check(FACTS.settings, given.as_object().unwrap()).unwrap()
}

fn now() -> Timestamp {
    Timestamp::from_second(1_795_290_000).unwrap()
}

fn read(body: &str) -> Vec<Event> {
    let headers = [("stripe-signature", signature::header(now(), body.as_bytes(), &[SECRET]))];
    let headers = Headers::from_pairs(headers);
    let delivery = Delivery { headers: &headers, query: "", body: body.as_bytes(), received_at: Some(now()) };
    let events = Stripe.read(&settings(json!({})), &delivery).unwrap().events;
    // What is left out of the tree changes nothing.
    let whole = serde_json::from_str(body).unwrap_or(Value::Null);
    assert_eq!(events, events::read_tree(&(&whole).into(), body.as_bytes()));
    events
}

fn event(id: &str, kind: &str, object: Value) -> Vec<Event> {
    let event = json!({"id": id, "object": "event", "type": kind, "livemode": false, "data": {"object": object}});
    read(&event.to_string())
}

fn one(kind: &str, object: Value) -> Event {
    let [event] = &event("evt_1", kind, object)[..] else { panic!("one event expected") };
    event.clone()
}

/// The object that an event of the sequences is about, with what the sequence says of it.
fn object_of(given: &Value) -> Value {
    let kind = given["type"].as_str().unwrap();
    let ours = json!({"hub_payment": "att_1"});
    let mut object = match kind.split('.').collect::<Vec<_>>()[..] {
        ["checkout", ..] => json!({
            "id": "cs_1", "object": "checkout.session", "mode": "payment", "amount_total": 1999, "currency": "pln",
            "client_reference_id": "att_1", "metadata": ours, "payment_intent": "pi_1",
        }),
        ["payment_intent", what] => json!({
            "id": "pi_1", "object": "payment_intent", "amount": 1999, "currency": "pln", "metadata": ours,
            "status": if what == "succeeded" { "succeeded" } else { "requires_payment_method" },
        }),
        ["refund", ..] => json!({
            "id": "re_1", "object": "refund", "amount": 1999, "currency": "pln", "payment_intent": "pi_1",
            "metadata": {"hub_payment": "att_1", "hub_refund": "ref_1"},
        }),
        ["charge", "dispute", ..] => json!({
            "id": "dp_1", "object": "dispute", "amount": 1999, "currency": "pln", "payment_intent": "pi_1",
            "status": "under_review",
        }),
        _ => json!({"id": "ch_1", "object": "charge", "amount": 1999, "currency": "pln", "metadata": ours}),
    };
    for (name, value) in given.as_object().unwrap() {
        if !matches!(name.as_str(), "type" | "event_id" | "expected" | "livemode" | "endpoint_mode" | "created") {
            object[name] = value.clone();
        }
    }
    object
}

/// As little of a hub as shows whether the events carry what it needs.
#[derive(Default)]
struct Walk {
    seen: BTreeSet<String>,
    status: Option<&'static str>,
    refunded: BTreeMap<String, RefundState>,
    effects: BTreeMap<String, i64>,
}

impl Walk {
    fn count(&mut self, effect: &str) {
        *self.effects.entry(effect.to_owned()).or_default() += 1;
    }

    fn take(&mut self, event: &Event) {
        if !self.seen.insert(event.key.clone()) {
            return;
        }
        let asked = Money::new(1999, Currency::PLN);
        match &event.kind {
            EventKind::Paid if event.live == Some(true) => self.count("ignored"),
            EventKind::Paid if event.detail.ends_with("no_payment_required") => self.complete(),
            EventKind::Paid if event.amount != Some(asked) => self.count("expert"),
            EventKind::Paid => self.complete(),
            EventKind::Failed { .. } if self.status.is_none() => {
                self.status = Some("error");
                self.count("error");
            }
            EventKind::Refund { gateway_ref, state, .. } => self.refund(gateway_ref, *state),
            EventKind::Dispute { status, closed, .. } => {
                let effect = match (status.as_str(), event.detail.split('/').next().unwrap(), closed) {
                    ("warning_closed", ..) => "inquiry_closed",
                    (status, _, false) if status.starts_with("warning_") => "inquiry_opened",
                    ("won", ..) => "dispute_won",
                    ("lost", ..) => "dispute_lost",
                    (_, "charge.dispute.funds_withdrawn", _) => "money_out",
                    (_, "charge.dispute.funds_reinstated", _) => "money_in",
                    _ => "dispute_opened",
                };
                self.count(effect);
            }
            _ => {}
        }
    }

    fn complete(&mut self) {
        if self.status != Some("completed") {
            self.status = Some("completed");
            self.count("completed");
        }
    }

    fn refund(&mut self, name: &str, state: RefundState) {
        let before = self.refunded.insert(name.to_owned(), state);
        match (before, state) {
            (Some(RefundState::Succeeded), RefundState::Failed) => {
                self.count("refund_reversed");
                self.count("expert");
            }
            (before, RefundState::Succeeded) if before != Some(RefundState::Succeeded) => {
                self.count("refund_succeeded");
            }
            _ => {}
        }
    }
}

// Refunds and disputes are told of payments that were completed before.
#[test]
fn every_sequence_ends_where_it_should() {
    let vectors = vectors();
    let ours = vectors["event_sequences"].as_array().unwrap().iter().filter(|s| s["provider"] == "stripe");
    let mut seen = 0;
    for sequence in ours {
        let mut walk = Walk::default();
        let is_after = |t: &Value| {
            ["refund.", "charge.refund", "charge.dispute"].iter().any(|p| t.as_str().unwrap().starts_with(p))
        };
        if is_after(&sequence["events"][0]["type"]) {
            walk.status = Some("completed");
        }
        for given in sequence["events"].as_array().unwrap() {
            let livemode = given["livemode"] == true;
            let (id, kind) = (given["event_id"].as_str().unwrap(), given["type"].as_str().unwrap());
            let body = json!({"id": id, "object": "event", "type": kind, "livemode": livemode, "data": {"object": object_of(given)}});
            read(&body.to_string()).iter().for_each(|e| walk.take(e));
        }
        assert_eq!(walk.status.unwrap_or("started"), sequence["final"], "{sequence}");
        for (effect, count) in sequence["effects"].as_object().unwrap() {
            // What a hub does of its own accord: a link for the payer, a note about what means nothing.
            if effect == "payer_link" || (effect == "ignored" && sequence["id"] == "st_unknown") {
                continue;
            }
            assert_eq!(walk.effects.get(effect).copied(), count.as_i64(), "{effect} in {sequence}");
        }
        seen += 1;
    }
    assert_eq!(seen, 20);
}

#[test]
fn both_events_of_one_payment_name_the_same_money() {
    let session = json!({"id": "cs_1", "payment_status": "paid", "amount_total": 279_000, "currency": "isk",
        "client_reference_id": "att_1", "metadata": {"hub_payment": "att_1"},
        "payment_intent": {"id": "pi_1", "object": "payment_intent"}});
    let intent = json!({"id": "pi_1", "status": "succeeded", "amount": 1, "amount_received": 279_000,
        "currency": "isk", "metadata": {"hub_payment": "att_1"}});
    let pair = [one("checkout.session.completed", session), one("payment_intent.succeeded", intent)];
    for event in pair {
        assert_eq!(event.kind, EventKind::Paid);
        assert_eq!(event.gateway_ref.as_deref(), Some("pi_1"));
        assert_eq!(event.reference, Reference::Ours("att_1".into()));
        assert_eq!(event.amount, Some(Money::new(2790, "ISK".parse().unwrap())));
    }
}

// A shop that shares the account names its own orders in `client_reference_id`, and whoever pays by a Payment Link can
// write there what he likes. The mark is the merchant's alone.
#[test]
fn a_session_without_our_mark_is_none_of_ours() {
    let foreign = json!({"id": "cs_9", "payment_status": "paid", "amount_total": 100, "currency": "pln",
        "client_reference_id": "shop-order-1", "metadata": {}, "payment_intent": "pi_9"});
    assert_eq!(one("checkout.session.completed", foreign).reference, Reference::Gateway("pi_9".into()));
    let forged = json!({"id": "cs_9", "payment_status": "paid", "amount_total": 100, "currency": "pln",
        "client_reference_id": "01KAZ3W5C4QD1N5Z6Y7T8V9W0X", "payment_intent": null});
    assert_eq!(one("checkout.session.completed", forged).reference, Reference::Gateway("cs_9".into()));
}

#[track_caller]
fn check_session(kind: &str, mode: &str, status: &str, expect: EventKind) {
    let object = json!({"id": "cs_1", "mode": mode, "payment_status": status, "amount_total": 1, "currency": "pln"});
    assert_eq!(one(kind, object).kind, expect, "{kind} {mode} {status}");
}

#[test]
fn only_a_paid_payment_page_is_paid() {
    let failed = |reason| EventKind::Failed { reason };
    check_session("checkout.session.completed", "payment", "paid", EventKind::Paid);
    check_session("checkout.session.completed", "payment", "unpaid", EventKind::Pending);
    check_session("checkout.session.completed", "payment", "on_hold", EventKind::Unknown);
    check_session("checkout.session.completed", "payment", "", EventKind::Unknown);
    check_session("checkout.session.completed", "setup", "no_payment_required", EventKind::Note);
    check_session("checkout.session.completed", "subscription", "paid", EventKind::Note);
    check_session("checkout.session.async_payment_succeeded", "payment", "unpaid", EventKind::Unknown);
    check_session("checkout.session.async_payment_failed", "payment", "unpaid", failed(FailReason::Declined));
    check_session("checkout.session.async_payment_failed", "payment", "paid", EventKind::Unknown);
    check_session("checkout.session.expired", "payment", "unpaid", failed(FailReason::Expired));
    check_session("checkout.session.expired", "payment", "paid", EventKind::Unknown);
}

// F47, F14: signed bodies that are no events are kept for a person, whatever they hold.
#[test]
fn what_is_signed_and_not_understood_is_parked() {
    let deep = format!("{{\"id\":\"evt_1\",\"type\":\"x\",\"data\":{}{}}}", "[".repeat(100_000), "]".repeat(100_000));
    let huge_number = format!("{{\"id\":\"evt_1\",\"type\":\"x\",\"created\":{}}}", "9".repeat(100_000));
    let endless = format!("{{\"id\":\"{}\",\"type\":\"x\"}}", "e".repeat(100_000));
    let plain = ["nonsense", "[]", "{}", "null", "{\"id\":\"evt_1\"}", "{\"id\":\"evt_1\",\"type\":\"x\",\"data\":{}}"];
    for body in plain.into_iter().chain([&*deep, &*huge_number, &*endless]) {
        let events = read(body);
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].kind, EventKind::Unknown, "{:.40}", body);
        assert!(events[0].key.len() < 100);
    }
}

#[test]
fn a_thin_event_means_nothing_yet() {
    let vectors = vectors();
    let thin = vectors["stripe_signature"]["cases"].as_array().unwrap().iter().find(|c| c["id"] == "ok_thin").unwrap();
    let headers = Headers::from_pairs([("Stripe-Signature", thin["header"].as_str().unwrap())]);
    let body = thin["body"].as_str().unwrap().as_bytes();
    let delivery = Delivery { headers: &headers, query: "", body, received_at: Some(now()) };
    let events = Stripe.read(&settings(json!({})), &delivery).unwrap().events;
    assert_eq!(events[0].kind, EventKind::Note);
    assert_eq!(events[0].reference, Reference::Gateway("pi_3Qx7aB2eZvKYlo2C1bbbbbbb".into()));
}

// Every signature case again, through the front door.
#[test]
fn reading_accepts_and_refuses_as_the_signature_vectors_say() {
    let vectors = vectors();
    for case in vectors["stripe_signature"]["cases"].as_array().unwrap() {
        if case["tolerance"] != 300 || case["accept"].is_null() {
            continue;
        }
        let given = &case["secrets"];
        let mut values = settings(json!({})).expose().clone();
        values.insert("webhook_secret".into(), given[0].as_str().unwrap().into());
        values.insert("webhook_secret_previous".into(), given[1].as_str().unwrap_or_default().into());
        let headers = Headers::from_pairs(case["header"].as_str().map(|h| ("stripe-signature", h)));
        let body = case["body"].as_str().unwrap().as_bytes();
        let received_at = Some(Timestamp::from_second(case["now"].as_i64().unwrap()).unwrap());
        let read =
            Stripe.read(&Settings::from_sealed(values), &Delivery { headers: &headers, query: "", body, received_at });
        match case["accept"] == true {
            true => assert!(read.is_ok(), "{}", case["id"]),
            false => assert!(matches!(read, Err(ReadError::Forged { .. })), "{}", case["id"]),
        }
    }
}

// Inbound rule: a signature header sent twice is never resolved in favour of one of them.
#[test]
fn two_signature_headers_and_bodies_over_the_limit_are_malformed() {
    let header = signature::header(now(), b"{}", &[SECRET]);
    let twice = Headers::from_pairs([("stripe-signature", &*header), ("stripe-signature", &*header)]);
    let delivery = Delivery { headers: &twice, query: "", body: b"{}", received_at: Some(now()) };
    assert!(matches!(Stripe.read(&settings(json!({})), &delivery), Err(ReadError::Malformed(_))));
    let body = vec![b' '; BODY_LIMIT + 1];
    let header = Headers::from_pairs([("stripe-signature", signature::header(now(), &body, &[SECRET]))]);
    let delivery = Delivery { headers: &header, query: "", body: &body, received_at: Some(now()) };
    let refused = Stripe.read(&settings(json!({})), &delivery).unwrap_err();
    assert!(matches!(refused, ReadError::Malformed(_)));
    assert_eq!(Stripe.reply(&settings(json!({})), &Verdict::Refused(&refused)).status, 400);
}

// What was taken in is read again at any age, and only if it is what was signed.
#[test]
fn a_call_that_is_read_again_has_no_age() {
    let body = br#"{"id":"evt_1","object":"event","type":"customer.created","data":{"object":{"id":"cus_1"}}}"#;
    let long_ago = Timestamp::from_second(now().as_second() - 400 * 86_400).unwrap();
    let header = Headers::from_pairs([("stripe-signature", signature::header(long_ago, body, &[SECRET]))]);
    let read = |body, received_at| {
        let delivery = Delivery { headers: &header, query: "", body, received_at };
        Stripe.read(&settings(json!({})), &delivery).map(|reading| reading.events.len())
    };
    let forged = |why| Err(ReadError::Forged { why, echo: String::new() });
    assert_eq!(read(body, Some(now())), forged("too_old"));
    assert_eq!(read(body, None), Ok(1));
    assert_eq!(read(b"{}", None), forged("mismatch"));
}

#[test]
fn refunds_are_told_one_by_one_and_never_twice() {
    let refund =
        json!({"id": "re_1", "amount": 500, "currency": "pln", "status": "succeeded", "payment_intent": "pi_1"});
    let told = one("refund.created", refund.clone());
    assert_eq!(told.reference, Reference::Gateway("pi_1".into()));
    let EventKind::Refund { order: None, gateway_ref, state: RefundState::Succeeded } = told.kind else { panic!() };
    assert_eq!(gateway_ref, "re_1");
    let sum = json!({"id": "ch_1", "amount_refunded": 500, "currency": "pln", "payment_intent": "pi_1"});
    assert_eq!(one("charge.refunded", sum.clone()).kind, EventKind::Note);
    let mut listed = sum;
    listed["metadata"] = json!({"hub_payment": "att_1"});
    listed["refunds"] = json!({"data": [refund, {"id": "re_2", "status": "evaporated"}]});
    let events = event("evt_9", "charge.refunded", listed);
    assert_eq!(events.iter().map(|e| &*e.key).collect::<Vec<_>>(), ["evt_9:re_1", "evt_9:re_2"]);
    assert_eq!(events[0].reference, Reference::Ours("att_1".into()));
    assert_eq!(events[1].kind, EventKind::Unknown);
}

#[test]
fn a_dispute_tells_until_when_an_answer_is_possible() {
    let dispute = |due: i64| {
        json!({"id": "dp_1", "status": "needs_response", "amount": 500, "currency": "pln",
        "charge": "ch_1", "evidence_details": {"due_by": due}})
    };
    for (due, expect) in [(1_795_999_999, Timestamp::from_second(1_795_999_999).ok()), (0, None)] {
        let told = one("charge.dispute.created", dispute(due));
        let EventKind::Dispute { due_by, closed: false, .. } = told.kind else { panic!() };
        assert_eq!(due_by, expect);
        assert_eq!(told.reference, Reference::Gateway("ch_1".into()));
    }
}

// An inquiry moves no money, and is best answered by a refund; a dispute must not be paid back twice.
#[test]
fn a_dispute_says_whether_a_refund_is_possible() {
    let told = |status: &str, said: Value| {
        let dispute = json!({"id": "dp_1", "status": status, "is_charge_refundable": said, "charge": "ch_1"});
        let kind = one("charge.dispute.created", dispute).kind;
        let EventKind::Dispute { refundable, .. } = kind else { panic!("{kind:?}") };
        refundable
    };
    assert!(told("warning_needs_response", json!(true)) && told("warning_needs_response", Value::Null));
    assert!(told("needs_response", json!(true)), "some card networks allow it");
    assert!(!told("needs_response", json!(false)) && !told("needs_response", Value::Null));
    assert!(!told("warning_under_review", json!(false)));
}

// What a lost dispute took is not there any more. A word nobody told us about is taken for the worse.
#[test]
fn a_dispute_says_whether_the_payer_keeps_the_money() {
    let told = |status: &str, moved: Value| {
        let dispute = json!({"id": "dp_1", "status": status, "charge": "ch_1", "balance_transactions": moved});
        let kind = one("charge.dispute.closed", dispute).kind;
        let EventKind::Dispute { lost, closed: true, .. } = kind else { panic!("{kind:?}") };
        lost
    };
    let withdrawn = json!({"amount": -500, "net": -2000});
    assert!(told("lost", Value::Null) && told("evaporated", Value::Null));
    assert!(!told("won", json!([withdrawn, {"amount": 500}])) && !told("warning_closed", json!([])));
    // Prevented by a refund, which has its own events; or by what was withdrawn for it.
    assert!(!told("prevented", json!([])) && told("prevented", json!([withdrawn])));
    let open = json!({"id": "dp_1", "status": "needs_response", "charge": "ch_1"});
    assert!(matches!(one("charge.dispute.funds_withdrawn", open).kind, EventKind::Dispute { lost: false, .. }));
}

#[test]
fn a_refund_that_fails_for_a_dispute_leaves_nothing_to_give_back() {
    let told = |why: &str| {
        let refund = json!({"id": "re_1", "status": "failed", "failure_reason": why, "payment_intent": "pi_1"});
        let EventKind::Refund { state, .. } = one("refund.failed", refund).kind else { panic!() };
        state
    };
    assert_eq!(told("charge_for_pending_refund_disputed"), RefundState::Gone);
    assert_eq!(told("lost_or_stolen_card"), RefundState::Failed);
}

#[track_caller]
fn check_end(wanted_s: i64, expect: Option<i64>) {
    let wanted = Timestamp::from_second(now().as_second() + wanted_s).unwrap();
    assert_eq!(expires_at(now(), wanted).ok().flatten().map(|s| s - now().as_second()), expect, "{wanted_s}");
}

#[test]
fn the_end_is_one_that_stripe_takes() {
    check_end(3600, Some(3600));
    check_end(60, Some(2100));
    check_end(1861, Some(1861));
    check_end(86_340, Some(86_340));
    check_end(86_341, None);
    check_end(8 * 86_400, None);
    assert!(expires_at(now(), now()).is_err());
    // A repeat a little later says the same.
    let soon = Timestamp::from_second(now().as_second() + 60).unwrap();
    let repeated = Timestamp::from_second(now().as_second() + 30).unwrap();
    assert_eq!(expires_at(now(), soon), expires_at(repeated, soon));
}

#[track_caller]
fn check_setting(name: &str, value: &str, fine: bool) {
    let said = Stripe.check(&settings(json!({ (name): value })), None, false).map_err(|e| e.name);
    assert_eq!(said, if fine { Ok(()) } else { Err(name.to_owned()) });
}

#[test]
fn settings_that_cannot_be_right_are_named() {
    check_setting("secret_key", "rk_test_51", true);
    check_setting("secret_key", "rk_live_51", false);
    check_setting("secret_key", "pk_test_51", false);
    check_setting("secret_key", "sk_test_ 51", false);
    check_setting("webhook_secret", "we_1Nb", false);
    check_setting("payment_methods", "card, blik,p24", true);
    check_setting("payment_methods", "card,,blik", false);
    check_setting("payment_methods", "Card", false);
}

// Of the published rules for receivers, those that a provider decides and not the door in front of it.
#[test]
fn inbound_rules_are_answered_as_published() {
    let rules: Value = serde_json::from_str(include_str!("../../fixtures/vectors/webhooks.json")).unwrap();
    let answers =
        |id: &str| rules["inbound"].as_array().unwrap().iter().find(|c| c["id"] == id).unwrap()["answers"][0].as_u64();
    let account = settings(json!({}));
    let answer = |headers: &[String], body: &[u8]| {
        let headers = Headers::from_pairs(headers.iter().map(|h| ("stripe-signature", h.as_str())));
        let read = Stripe.read(&account, &Delivery { headers: &headers, query: "", body, received_at: Some(now()) });
        let verdict = match &read {
            Ok(reading) => Verdict::Committed { echo: &reading.echo, outcomes: &[] },
            Err(refused) => Verdict::Refused(refused),
        };
        Some(u64::from(Stripe.reply(&account, &verdict).status))
    };
    let signed = |body: &[u8]| signature::header(now(), body, &[SECRET]);
    let unknown = br#"{"id":"evt_1","object":"event","type":"invoice.paid","data":{"object":{"id":"in_1"}}}"#;
    assert_eq!(answer(&[signed(b"not JSON")], b"not JSON"), answers("i_good_signature_bad_json"));
    assert_eq!(answer(&[signed(unknown)], unknown), answers("i_unknown_type"));
    assert_eq!(answer(&[signed(unknown), signed(unknown)], unknown), answers("i_header_twice"));
}
