//! Every vector of `fixtures/vectors/autopay.json`. Its hashes were made with the vendor's own SDK and recomputed by a
//! second program; where the SDK and the documented rule differ, the rule counts.

mod calls;
mod hostile;
mod moved;

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde_json::{Value, json};

use super::message::{self, Key, Seal};
use super::*;
use crate::gateway::{Event, EventKind, Reference, RefundState};
use crate::money::Money;
use crate::wire::Headers;

static VECTORS: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("../../fixtures/vectors/autopay.json")).unwrap());

pub(super) fn vectors() -> &'static Value {
    &VECTORS
}

/// The cases of a group. None may be lost, so the caller says how many there are.
#[track_caller]
fn group(name: &str, count: usize) -> Vec<Value> {
    let cases = vectors()[name].as_array().unwrap().clone();
    assert_eq!(cases.len(), count, "{name}");
    cases
}

pub(super) fn settings_with(service: &str, more: Value) -> Settings {
    let service = vectors()["services"][service].clone();
    let mut given = json!({
        "service_id": service["service_id"], "shared_key": service["shared_key"], "hash": service["hash_algorithm"],
    });
    given.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let settings = Settings::check(FACTS.settings, given.as_object().unwrap()).unwrap();
    Autopay.check(&settings, None, false).unwrap();
    settings
}

pub(super) fn settings(service: &str) -> Settings {
    settings_with(service, json!({}))
}

pub(super) fn text<'v>(value: &'v Value, name: &str) -> &'v str {
    value[name].as_str().unwrap_or_else(|| panic!("{name} of {}", value["id"]))
}

fn pairs(value: &Value) -> Vec<(String, String)> {
    let text = |v: &Value| v.as_str().unwrap().to_owned();
    value.as_array().unwrap().iter().map(|p| (text(&p[0]), text(&p[1]))).collect()
}

fn values(value: &Value) -> Vec<String> {
    value.as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect()
}

pub(super) fn form_body(parameter: &str, value: &str) -> Vec<u8> {
    form_urlencoded::Serializer::new(String::new()).append_pair(parameter, value).finish().into_bytes()
}

pub(super) fn read_body(settings: &Settings, body: &[u8]) -> Result<Reading, ReadError> {
    let headers = Headers::from_pairs([("content-type", "application/x-www-form-urlencoded")]);
    let received_at = Some("2026-11-21T20:00:00Z".parse().unwrap());
    Autopay.read(settings, &Delivery { headers: &headers, query: "", body, received_at })
}

fn read(settings: &Settings, case: &Value) -> Result<Reading, ReadError> {
    read_body(settings, &form_body("transactions", text(case, "posted_transactions")))
}

fn reply(settings: &Settings, read: &Result<Reading, ReadError>, outcome: Outcome) -> Reply {
    match read {
        Ok(reading) => {
            let outcomes = vec![outcome; reading.events.len()];
            Autopay.reply(settings, &Verdict::Committed { echo: &reading.echo, outcomes: &outcomes })
        }
        Err(e) => Autopay.reply(settings, &Verdict::Refused(e)),
    }
}

/// What the hub would say: amount and currency against what was started.
fn outcome(event: &Event, order: &Value) -> Outcome {
    if order.is_null() {
        return Outcome::UnknownAttempt;
    }
    assert_eq!(event.reference, Reference::Ours(text(order, "order_id").to_owned()));
    let started = Money::from_decimal(text(order, "amount"), text(order, "currency").parse().unwrap()).unwrap();
    if event.amount == Some(started) { Outcome::Recorded } else { Outcome::Mismatch }
}

/// Our confirmation: well-formed, right hash, these values.
#[track_caller]
fn check_confirmation(settings: &Settings, reply: &Reply, expect: &[String], hash: Option<&str>) {
    assert_eq!(reply.content_type, "text/xml");
    let document = message::parse(reply.body.as_bytes()).unwrap();
    assert_eq!(document.name, "confirmationList");
    assert_eq!(document.signed_values(), expect);
    assert_eq!(Key::of(settings).check(&document), Seal::Right);
    if let Some(hash) = hash {
        assert_eq!(document.text("hash"), hash);
    }
}

#[track_caller]
fn check_gateway(url: Option<&str>, live: bool, good: bool) {
    let mut given = json!({"service_id": "903117", "shared_key": "k"});
    if let Some(url) = url {
        given["gateway_url"] = url.into();
    }
    let settings = Settings::check(FACTS.settings, given.as_object().unwrap()).unwrap();
    match Autopay.check(&settings, None, live) {
        Ok(()) => assert!(good, "{url:?} live {live}"),
        Err(e) => assert!(!good && e.name == "gateway_url", "{url:?} live {live}: {e}"),
    }
}

#[test]
fn real_money_does_not_go_to_a_gateway_for_tests() {
    check_gateway(None, false, true);
    check_gateway(None, true, false);
    for test in
        ["testpay.autopay.eu", "testcards.autopay.eu", "pay-accept.bm.pl", "TestPay.Autopay.eu", "testpay.autopay.eu."]
    {
        check_gateway(Some(&format!("https://{test}")), true, false);
        check_gateway(Some(&format!("https://{test}:443/")), true, false);
        check_gateway(Some(&format!("https://{test}")), false, true);
    }
    for real in ["pay.autopay.eu", "cards.autopay.eu", "pay.bm.pl", "PAY.autopay.eu", "pay.autopay.eu."] {
        check_gateway(Some(&format!("https://{real}")), true, true);
        check_gateway(Some(&format!("https://{real}")), false, false);
    }
    for other in
        ["http://127.0.0.1:4000/sandbox/autopay", "http://localhost:1", "https://hub.example.test", "http://[::1]:9"]
    {
        check_gateway(Some(other), true, true);
        check_gateway(Some(other), false, true);
    }
}

#[test]
fn start_hashes_agree() {
    for case in group("start_transaction", 25) {
        let (id, settings) = (text(&case, "id"), settings(text(&case, "service")));
        let mut given = pairs(&case["params_in_hash_order"]);
        for empty in case["given_but_empty_left_out"].as_array().unwrap_or(&vec![]) {
            given.push((empty.as_str().unwrap().to_owned(), String::new()));
        }
        given.reverse(); // the order is ours to make
        let given: Vec<_> = given.iter().map(|(n, v)| (n.as_str(), v.clone())).collect();
        let signed = start::sign(&Key::of(&settings), &given);
        if case["must_not_be_sent"] == true {
            assert!(matches!(signed, Err(CallError::Invalid { .. })), "{id}");
            continue;
        }
        let mut expect = pairs(&case["params_in_hash_order"]);
        expect.push(("Hash".into(), text(&case, "hash").into()));
        assert_eq!(signed.unwrap(), expect, "{id}");
    }
}

#[test]
fn an_empty_value_leaves_no_separator() {
    let case = &vectors()["empty_value_trap"];
    let given = pairs(&case["params"]);
    let given: Vec<_> = given.iter().map(|(n, v)| (n.as_str(), v.clone())).collect();
    let signed = start::sign(&Key::of(&settings(text(case, "service"))), &given).unwrap();
    assert_eq!(signed.last().unwrap().1, text(case, "hash_by_the_rule"));
    assert!(!signed.iter().any(|(n, _)| n == "Description"));
}

#[test]
fn documented_examples_agree() {
    for case in group("documentation_examples", 6) {
        let given = json!({"service_id": "1", "shared_key": case["key"]});
        let settings = Settings::check(FACTS.settings, given.as_object().unwrap()).unwrap();
        let values = values(&case["values_in_hash_order"]);
        let fields = values.iter().map(|v| ("Value", v.as_str()));
        assert_eq!(Key::of(&settings).sign(fields).unwrap(), text(&case, "hash"), "{}", case["what"]);
    }
}

// F13, F14, F46
#[test]
fn notifications_get_the_documented_verdict() {
    for case in group("itn", 51) {
        let id = text(&case, "id");
        let commission = id == "I15";
        let settings = settings_with(text(&case, "service"), json!({"payer_commission": commission}));
        let read = read(&settings, &case);
        let accepted = case["hash_valid"] == true && case["reject_because"].is_null();
        assert_eq!(read.is_ok(), accepted, "{id} {read:?}");
        if let Ok(reading) = &read {
            check_event(id, &case, reading, commission);
        }
        let said = read.as_ref().map_or(Outcome::Recorded, |r| outcome(&r.events[0], &case["order"]));
        let reply = reply(&settings, &read, said);
        assert_eq!(reply.status, if accepted { 200 } else { 400 }, "{id}");
        if let Some(word) = case["reply"].as_str() {
            let order = case["parsed"]["transaction"]["orderID"].as_str().or(case["order"]["order_id"].as_str());
            let service = settings.text("service_id").to_owned();
            check_confirmation(&settings, &reply, &[service, order.unwrap().into(), word.into()], None);
        } else if !accepted {
            assert!(matches!(read, Err(ReadError::Malformed(_))), "{id}");
            assert_eq!(reply.body, "", "{id}: no signed answer");
        }
    }
}

#[track_caller]
fn check_event(id: &str, case: &Value, reading: &Reading, commission: bool) {
    let sent = &case["parsed"]["transaction"];
    let [event] = reading.events.as_slice() else { panic!("{id}") };
    let kind = match text(sent, "paymentStatus") {
        "SUCCESS" => "paid",
        "PENDING" | "ON_HOLD" => "pending",
        "FAILURE" => "failed",
        other => panic!("{id} {other}"),
    };
    assert_eq!(event.kind.word(), kind, "{id}");
    assert_eq!(event.gateway_ref.as_deref(), sent["remoteID"].as_str(), "{id}");
    assert_eq!(event.account.as_deref(), case["parsed"]["serviceID"].as_str(), "{id}");
    let amount = if commission { "1500.00" } else { text(sent, "amount") };
    assert_eq!(event.amount.unwrap().to_decimal(), amount, "{id}");
    assert_eq!(event.amount.unwrap().currency().code(), text(sent, "currency"), "{id}");
    assert!(event.at.is_some(), "{id}");
}

#[test]
fn the_payers_commission_counts_only_where_it_is_set() {
    let case = group("itn", 51).into_iter().find(|c| c["id"] == "I15").unwrap();
    let reading = read(&settings("A"), &case).unwrap();
    assert_eq!(reading.events[0].amount.unwrap().to_decimal(), "1515.00");
    assert_eq!(outcome(&reading.events[0], &case["order"]), Outcome::Mismatch);
}

#[test]
fn a_start_hash_cannot_become_a_notification() {
    let case = &vectors()["cross_message_confusion"];
    let settings = settings(text(case, "service"));
    let body = form_body("transactions", text(case, "forged_posted_transactions"));
    let refused = read_body(&settings, &body).unwrap_err();
    assert!(matches!(refused, ReadError::Forged { why: "shape", .. }), "{refused:?}");
}

/// A shortest possible hub: first success completes, further payments are flagged, nothing goes back.
#[derive(Default)]
struct Order {
    state: &'static str,
    actions: u64,
    payments: Vec<String>,
    seen: Vec<String>,
}

impl Order {
    fn take(&mut self, event: &Event) {
        if self.seen.contains(&event.key) {
            return;
        }
        self.seen.push(event.key.clone());
        let attempt = event.gateway_ref.clone().unwrap();
        match &event.kind {
            EventKind::Paid if self.payments.contains(&attempt) => {}
            EventKind::Paid => {
                self.payments.push(attempt);
                if self.state != "completed" {
                    self.state = "completed";
                    self.actions += 1;
                }
            }
            EventKind::Failed { .. } if self.state == "started" => self.state = "error",
            _ => {}
        }
    }
}

// F02, F04, F05, F08, F11
#[test]
fn scenarios_end_where_they_should() {
    let itn: BTreeMap<String, Value> = group("itn", 51).into_iter().map(|c| (text(&c, "id").to_owned(), c)).collect();
    for scenario in group("itn_scenarios", 10) {
        let id = text(&scenario, "id");
        let mut order = Order { state: "started", ..Order::default() };
        for (n, delivery) in values(&scenario["deliveries"]).iter().enumerate() {
            let case = &itn[delivery];
            let settings = settings(text(case, "service"));
            let read = read(&settings, case);
            let said = read.as_ref().map_or(Outcome::Recorded, |r| outcome(&r.events[0], &case["order"]));
            if let (Ok(reading), Outcome::Recorded) = (&read, said) {
                order.take(&reading.events[0]);
            }
            let word = scenario["replies"][n].as_str().unwrap();
            assert!(reply(&settings, &read, said).body.contains(&format!(">{word}<")), "{id} {delivery}");
            let state = scenario["states"][n].as_str().unwrap();
            assert!(state.contains(order.state), "{id} {delivery}: {} is not {state}", order.state);
            assert_eq!(order.payments.len() > 1, state.contains("second payment"), "{id}");
        }
        assert_eq!(order.actions, scenario["business_actions"].as_u64().unwrap(), "{id}");
    }
}

// F02
#[test]
fn repeats_have_one_key_and_more_payer_data_is_the_same_payment() {
    let itn = group("itn", 51);
    let event = |id: &str| {
        let case = itn.iter().find(|c| c["id"] == id).unwrap();
        read(&settings(text(case, "service")), case).unwrap().events.remove(0)
    };
    assert_eq!(event("I02").key, event("I04").key, "white space is no news");
    assert_ne!(event("I02").key, event("I49").key);
    assert_eq!(event("I02").gateway_ref, event("I49").gateway_ref);
    assert_ne!(event("I02").key, event("I48").key);
}

#[test]
fn confirmations_agree() {
    let itn = group("itn", 51);
    for case in group("itn_confirmations", 8) {
        let settings = settings(text(&case, "service"));
        let about = itn.iter().find(|c| c["id"] == case["for_itn"]).unwrap();
        let read = read(&settings, about);
        let said = read.as_ref().map_or(Outcome::Recorded, |r| outcome(&r.events[0], &about["order"]));
        let reply = reply(&settings, &read, said);
        let values = values(&case["values_in_hash_order"]);
        check_confirmation(&settings, &reply, &values, case["hash"].as_str());
        // The vendor's SDK wraps the values in CDATA; the same document otherwise.
        let theirs = message::parse(text(&case, "sdk_body").as_bytes()).unwrap();
        assert_eq!(message::parse(reply.body.as_bytes()).unwrap(), theirs, "{}", case["id"]);
    }
}

#[test]
fn one_event_that_disagrees_is_enough() {
    let outcomes = [Outcome::Recorded, Outcome::Mismatch];
    let verdict = Verdict::Committed { echo: "transaction HUB-1", outcomes: &outcomes };
    assert!(Autopay.reply(&settings("A"), &verdict).body.contains(">NOTCONFIRMED<"));
}

// F64
#[test]
fn returns_are_checked() {
    for case in group("return_url", 6) {
        let settings = settings(text(&case, "service"));
        let query: Vec<_> = form_urlencoded::parse(text(&case, "query_string").as_bytes()).into_owned().collect();
        assert_eq!(Autopay.check_return(&settings, &query), case["hash_valid"].as_bool(), "{}", case["id"]);
        assert_eq!(Autopay.check_return(&settings, &[]), Some(false));
        let twice: Vec<_> = query.iter().chain(&query).cloned().collect();
        assert_eq!(Autopay.check_return(&settings, &twice), Some(false));
    }
}

#[test]
fn recurring_notifications_are_read_and_confirmed() {
    for case in group("recurring_notifications", 4) {
        let (id, settings) = (text(&case, "id"), settings(text(&case, "service")));
        let read = read_body(&settings, &form_body(text(&case, "form_parameter"), text(&case, "posted")));
        assert_eq!(read.is_ok(), case["hash_valid"] == true, "{id} {read:?}");
        let confirmed = values(&case["confirmation_values_in_hash_order"]);
        // Unknown client hashes are confirmed as well, or the gateway comes again for eight days.
        let reply = reply(&settings, &read, Outcome::UnknownAttempt);
        check_confirmation(&settings, &reply, &confirmed, case["confirmation_hash"].as_str());
        if let Ok(reading) = &read {
            let active = text(&case, "xml").contains("recurringActivation");
            let kind = EventKind::Instrument { handle: confirmed[1].clone(), active };
            assert_eq!(reading.events[0].kind, kind, "{id}");
            assert!(!reading.events[0].key.contains(&confirmed[1]), "{id}: the handle stays out of keys");
        }
    }
}

#[test]
fn settlement_notifications_are_read_and_confirmed() {
    for case in group("settlement_notifications", 3) {
        let (id, settings) = (text(&case, "id"), settings(text(&case, "service")));
        let read = read_body(&settings, &form_body(text(&case, "form_parameter"), text(&case, "posted")));
        let confirmed = values(&case["confirmation_values_in_hash_order"]);
        let reply = reply(&settings, &read, Outcome::Recorded);
        check_confirmation(&settings, &reply, &confirmed, case["confirmation_hash"].as_str());
        let event = &read.unwrap().events[0];
        let refund =
            EventKind::Refund { order: None, gateway_ref: "ZWTR_6063048773".into(), state: RefundState::Succeeded };
        assert_eq!(event.kind, if id == "T02" { refund } else { EventKind::Note }, "{id}");
        assert_eq!(event.gateway_ref.as_deref(), if id == "T03" { None } else { Some("9A1BX7R9") }, "{id}");
    }
}

#[test]
fn a_status_nobody_told_us_about_is_parked() {
    let settings = settings("A");
    for status in ["PAID", "CONFIRMED", "success", "SUCCESS "] {
        let body = itn(&settings, &[("paymentStatus", status)]);
        assert_eq!(read_body(&settings, &body).unwrap().events[0].kind, EventKind::Unknown, "{status}");
    }
}

// F11, F51
#[test]
fn an_amount_that_cannot_be_read_is_no_amount() {
    let settings = settings("A");
    for amount in ["12.340", "1e3", "12,34", "-5.00", "129.9", "99999999999999.00"] {
        let reading = read_body(&settings, &itn(&settings, &[("amount", amount)])).unwrap();
        assert_eq!(reading.events[0].amount, None, "{amount}");
    }
    let reading = read_body(&settings, &itn(&settings, &[("currency", "XXX")])).unwrap();
    assert_eq!(reading.events[0].amount, None);
}

/// What the hub compares with the start, whatever became of the payment.
#[test]
fn every_status_has_its_amount() {
    let settings = settings("A");
    let amount = |status: &str, amount: &str| {
        let body = itn(&settings, &[("paymentStatus", status), ("amount", amount)]);
        read_body(&settings, &body).unwrap().events.remove(0).amount.map(Money::to_decimal)
    };
    for status in ["SUCCESS", "PENDING", "ON_HOLD", "FAILURE", "CONFIRMED", "SOMETHING_NEW"] {
        assert_eq!(amount(status, "128.90").as_deref(), Some("128.90"), "{status}");
        assert_eq!(amount(status, "128,90"), None, "{status}");
    }
}

#[test]
fn failures_say_why() {
    let settings = settings("A");
    for (details, reason) in [
        ("REJECTED_BY_USER", "cancelled"),
        ("USER_DECLINED", "cancelled"),
        ("CANCELLED", "cancelled"),
        ("EXPIRED", "expired"),
        ("INSUFFICIENT_FUNDS", "declined"),
        ("DO_NOT_HONOR 05", "declined"),
        ("DO_NOT_HONOR_51", "declined"),
        ("CONNECTION_ERROR", "technical"),
        ("SOME_FUTURE_DETAIL", "technical"),
    ] {
        let body = itn(&settings, &[("paymentStatus", "FAILURE"), ("paymentStatusDetails", details)]);
        let event = read_body(&settings, &body).unwrap().events.remove(0);
        let EventKind::Failed { reason: found } = event.kind else { panic!("{details}") };
        assert_eq!(found.word(), reason, "{details}");
        assert_eq!(event.detail, format!("FAILURE/{details}"));
    }
}

#[test]
fn base64_may_be_broken_into_lines() {
    use base64::Engine;
    let settings = settings("A");
    let case = group("itn", 51).into_iter().find(|c| c["id"] == "I05").unwrap();
    let whole = base64::engine::general_purpose::STANDARD.encode(text(&case, "xml"));
    let broken = |with: &str| {
        let lines: Vec<_> = whole.as_bytes().chunks(76).map(|line| std::str::from_utf8(line).unwrap()).collect();
        lines.join(with) + with
    };
    let event = |value: &str| read_body(&settings, &form_body("transactions", value)).map(|reading| reading.events);
    for with in ["\r\n", "\n", "\r", "\t"] {
        assert_eq!(event(&broken(with)), event(&whole), "{with:?}");
    }
    // The same, not percent-encoded, with bare plus signs.
    let raw = format!("transactions={}", broken("\r\n"));
    assert_eq!(read_body(&settings, raw.as_bytes()).map(|reading| reading.events), event(&whole));
    for with in ["\u{b}", "\u{c}", "\0", "-", "_", "=", "\u{a0}"] {
        assert!(matches!(event(&broken(with)), Err(ReadError::Malformed(_))), "{with:?}");
    }
}

/// A rightly signed notification of a shape that no vector has. The hash is over the documented string.
pub(super) fn itn(settings: &Settings, changes: &[(&str, &str)]) -> Vec<u8> {
    let mut fields = [
        ("orderID", "HUB-1"),
        ("remoteID", "9A1BX7R9"),
        ("amount", "129.90"),
        ("currency", "PLN"),
        ("gatewayID", "509"),
        ("paymentDate", "20261121101733"),
        ("paymentStatus", "SUCCESS"),
        ("paymentStatusDetails", "AUTHORIZED"),
    ];
    for (name, value) in changes {
        let field = fields.iter_mut().find(|(n, _)| n == name).unwrap();
        field.1 = value;
    }
    let nodes: String = fields.iter().map(|(n, v)| format!("<{n}>{v}</{n}>")).collect();
    let values: Vec<&str> = fields.iter().map(|(_, v)| *v).collect();
    let service = settings.text("service_id");
    let text = format!("{service}|{}|{}", values.join("|"), settings.text("shared_key"));
    let hash = crate::sign::sha256_hex(text.as_bytes());
    let xml = format!(
        "<transactionList><serviceID>{service}</serviceID><transactions><transaction>{nodes}</transaction>\
         </transactions><hash>{hash}</hash></transactionList>"
    );
    post(&xml)
}

pub(super) fn post(xml: &str) -> Vec<u8> {
    use base64::Engine;
    form_body("transactions", &base64::engine::general_purpose::STANDARD.encode(xml))
}
