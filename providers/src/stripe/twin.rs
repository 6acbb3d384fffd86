//! A simulated Stripe: enough of the API for one payment's whole life, its pages, and signed deliveries.
//!
//! Kept: what the real one refuses (wrong keys, foreign objects, old parameters, uneven krónur, a key used for other
//! parameters), that a first answer is stored under its key even when it was a 500, and that events repeat with a
//! fresh signature until they are taken. Left out: customers, saved cards, partial captures, API versions.

mod api;
mod objects;
mod pages;

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value, json};

use super::signature;
use crate::facts::Settings;
use crate::sign;
use crate::twin::{Faults, GatewayTwin, TwinAnswer, TwinDelivery, TwinRequest};

/// Seconds between a refused delivery and the next: about three days in all.
const PAUSES_S: &[i64] = &[5, 30, 120, 600, 1800, 3600, 7200, 14_400, 28_800, 43_200, 43_200, 43_200, 43_200];
/// How long a first answer is kept under its `Idempotency-Key`, in seconds.
const KEY_LIFE_S: i64 = 86_400;
/// After this a method that takes time has come to its end, in seconds.
const ASYNC_S: i64 = 20;
/// After this a refund that was thought done comes back, and a payment thought lost arrives, in seconds.
const LATE_S: i64 = 60;

/// Faults of the API.
const OF_CALLS: &[&str] =
    &["rate_limited", "http_500", "http_500_after_work", "cut_after_work", "error_in_200", "hang"];
/// Faults of what is told about a payment.
const OF_MONEY: &[&str] = &["wrong_amount", "wrong_currency", "unknown_status"];

/// The simulated gateway.
#[derive(Default)]
pub(super) struct StripeTwin(Mutex<State>);

impl StripeTwin {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl GatewayTwin for StripeTwin {
    fn faults(&self) -> &'static [(&'static str, &'static str)] {
        &[
            ("wrong_amount", "A paid event, or the answer to a status query, tells one unit more"),
            ("wrong_currency", "A paid event, or the answer to a status query, tells another currency"),
            ("unknown_status", "A paid event, or the answer to a status query, tells a status that does not exist"),
            ("told_twice", "A payment is told by payment_intent.succeeded too, as for endpoints that report it"),
            ("late_success", "A payment is reported failed and a minute later paid"),
            ("pay_later_fails", "A payment by a slow method fails in the end"),
            ("refund_pending", "A refund is accepted and done twenty seconds later"),
            ("refund_fails_late", "A refund is done and fails a minute later"),
            ("rate_limited", "The API answers 429 with Retry-After and does nothing"),
            ("http_500", "The API answers 500 and does nothing"),
            ("http_500_after_work", "The API does the work and answers 500; a repeat with the key gets the same 500"),
            ("cut_after_work", "The API does the work and the connection is cut"),
            ("error_in_200", "The API answers a refusal with status 200"),
            ("hang", "The API never answers"),
        ]
    }

    fn enroll(&self, settings: &Settings, webhook_url: &str) {
        let account = Account {
            secret_key: settings.text("secret_key").to_owned(),
            secrets: ["webhook_secret", "webhook_secret_previous"]
                .iter()
                .filter_map(|name| settings.get(name).map(str::to_owned))
                .collect(),
            api_version: settings.text("api_version").to_owned(),
            webhook_url: webhook_url.to_owned(),
        };
        let mut state = self.state();
        match state.accounts.iter_mut().find(|a| a.secret_key == account.secret_key) {
            Some(known) => *known = account,
            None => state.accounts.push(account),
        }
    }

    fn serve(&self, request: &TwinRequest) -> TwinAnswer {
        let mut state = self.state();
        state.tick(request.now);
        match request.path.strip_prefix("/v1/") {
            Some(path) => api::serve(&mut state, request, path),
            None => pages::serve(&mut state, request),
        }
    }

    fn due(&self, now: Timestamp, faults: &Faults) -> Vec<TwinDelivery> {
        let mut state = self.state();
        state.tick(now);
        let State { queue, accounts, .. } = &mut *state;
        if !faults.on("told_twice") {
            queue.retain(|_, q| q.sent.is_some() || q.event["type"] != "payment_intent.succeeded");
        }
        let due = queue.iter_mut().filter(|(_, q)| !q.handed_out && q.next_at <= now);
        let hand_out = |(id, queued): (&u64, &mut Queued)| {
            let account = accounts.iter().find(|a| a.secret_key == queued.account)?;
            queued.handed_out = true;
            let body = queued.body(faults).to_owned();
            let secrets: Vec<_> = account.secrets.iter().map(String::as_str).collect();
            let signature = signature::header(now, body.as_bytes(), &secrets);
            let headers = [
                ("content-type", "application/json; charset=utf-8".to_owned()),
                ("user-agent", "Stripe/1.0 (+https://stripe.com/docs/webhooks)".to_owned()),
                ("stripe-signature", signature),
            ];
            let headers = headers.into_iter().map(|(n, v)| (n.to_owned(), v)).collect();
            Some(TwinDelivery { id: *id, url: account.webhook_url.clone(), headers, body: body.into_bytes() })
        };
        due.filter_map(hand_out).collect()
    }

    fn answered(&self, id: u64, answer: Option<(u16, Vec<u8>)>, now: Timestamp) {
        let mut state = self.state();
        let taken = matches!(answer, Some((200..=299, _)));
        let pause = state.queue.get(&id).and_then(|q| PAUSES_S.get(q.tries).copied());
        match (state.queue.get_mut(&id), pause) {
            (Some(queued), Some(pause_s)) if !taken => {
                queued.tries += 1;
                queued.handed_out = false;
                queued.next_at = later(now, pause_s);
            }
            _ => {
                state.queue.remove(&id);
            }
        }
    }

    fn spends(&self, path: &str) -> Vec<&'static str> {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match parts.as_slice() {
            ["v1", "refunds"] => [OF_CALLS, &["refund_pending", "refund_fails_late"]].concat(),
            // Reading one object: a status query.
            ["v1", "checkout", "sessions", _] | ["v1", "payment_intents", _] => [OF_CALLS, OF_MONEY].concat(),
            ["v1", ..] => OF_CALLS.to_vec(),
            ["c", "pay", _, _] => vec!["late_success", "pay_later_fails"],
            _ => vec![],
        }
    }

    fn spends_by_delivery(&self) -> &'static [&'static str] {
        &["wrong_amount", "wrong_currency", "unknown_status", "told_twice"]
    }

    fn panel(&self) -> Option<&'static str> {
        Some("/panel")
    }

    fn demo_settings(&self, root: &str) -> Map<String, Value> {
        [("secret_key", "sk_test_demo"), ("webhook_secret", "whsec_demo"), ("base_url", root)]
            .map(|(name, value)| (name.to_owned(), value.into()))
            .into_iter()
            .collect()
    }
}

/// A merchant.
struct Account {
    secret_key: String,
    secrets: Vec<String>,
    api_version: String,
    webhook_url: String,
}

/// An object of the API and whose it is.
struct Entity {
    account: String,
    seq: u64,
    body: Value,
}

/// An event on its way.
struct Queued {
    account: String,
    event: Value,
    /// The bytes of the first hand-out: repeats send the same.
    sent: Option<String>,
    next_at: Timestamp,
    handed_out: bool,
    tries: usize,
}

impl Queued {
    fn body(&mut self, faults: &Faults) -> &str {
        let Queued { sent, event, .. } = self;
        sent.get_or_insert_with(|| {
            if tells_of_money(event["type"].as_str().unwrap_or_default()) {
                distort(&mut event["data"]["object"], faults);
            }
            serde_json::to_string_pretty(event).unwrap_or_default()
        })
    }
}

/// The first answer under an `Idempotency-Key`.
struct Stored {
    fingerprint: String,
    status: u16,
    body: Value,
    at: Timestamp,
}

/// What happens by itself when its time comes.
enum Timer {
    Expire { session: String },
    Settle { session: String, paid: bool },
    Refund { refund: String, status: &'static str },
}

#[derive(Default)]
struct State {
    accounts: Vec<Account>,
    entities: BTreeMap<String, Entity>,
    /// What a session's PaymentIntent will carry, by session.
    intent_data: BTreeMap<String, Value>,
    keys: BTreeMap<(String, String), Stored>,
    timers: BTreeMap<(Timestamp, u64), Timer>,
    queue: BTreeMap<u64, Queued>,
    seq: u64,
}

impl State {
    /// Lets pass what is past.
    fn tick(&mut self, now: Timestamp) {
        while let Some(entry) = self.timers.first_entry().filter(|e| e.key().0 <= now) {
            match entry.remove() {
                Timer::Expire { session } => drop(self.expire(&session, now)),
                Timer::Settle { session, paid } => self.settle(&session, paid, now),
                Timer::Refund { refund, status } => self.move_refund(&refund, status, now),
            }
        }
    }

    fn set_timer(&mut self, at: Timestamp, timer: Timer) {
        self.seq += 1;
        self.timers.insert((at, self.seq), timer);
    }

    /// A name no other object has, also not one of a twin that ran before on the same database.
    fn name(&mut self, prefix: &str, now: Timestamp) -> String {
        self.seq += 1;
        let seed = format!("{prefix}:{}:{}", self.seq, now.as_microsecond());
        format!("{prefix}_{}", sign::sha256_hex(seed.as_bytes()).get(..24).unwrap_or_default())
    }

    fn insert(&mut self, account: &str, body: Value) {
        self.seq += 1;
        let id = text(&body, "id");
        self.entities.insert(id, Entity { account: account.to_owned(), seq: self.seq, body });
    }

    fn get(&self, id: &str) -> Option<&Entity> {
        self.entities.get(id)
    }

    fn body(&self, id: &str) -> Value {
        self.get(id).map_or(Value::Null, |e| e.body.clone())
    }

    /// Writes members of an object.
    fn set(&mut self, id: &str, members: Value) {
        if let (Some(entity), Value::Object(members)) = (self.entities.get_mut(id), members) {
            members.into_iter().for_each(|(name, value)| entity.body[&name] = value);
        }
    }

    /// Puts an event about an object, as it is now, on its way.
    fn emit(&mut self, kind: &str, id: &str, now: Timestamp) {
        let Some(Entity { account, body, .. }) = self.get(id) else { return };
        let (account, object) = (account.clone(), body.clone());
        let version = self.accounts.iter().find(|a| a.secret_key == account).map(|a| a.api_version.clone());
        let event = json!({
            "id": self.name("evt", now),
            "object": "event",
            "api_version": version,
            "created": now.as_second(),
            "data": {"object": object},
            "livemode": objects::is_live(&account),
            "pending_webhooks": 1,
            "request": {"id": null, "idempotency_key": null},
            "type": kind,
        });
        self.seq += 1;
        let queued = Queued { account, event, sent: None, next_at: now, handed_out: false, tries: 0 };
        self.queue.insert(self.seq, queued);
    }

    /// Closes an open session; `false` when it was not open.
    fn expire(&mut self, session: &str, now: Timestamp) -> bool {
        let open = self.body(session)["status"] == "open";
        if open {
            self.set(session, json!({"status": "expired", "url": null}));
            let intent = text(&self.body(session), "payment_intent");
            self.set(&intent, json!({"status": "canceled", "cancellation_reason": "automatic"}));
            self.emit("checkout.session.expired", session, now);
        }
        open
    }

    /// The payer pays at once.
    fn pay(&mut self, session: &str, now: Timestamp) {
        let intent = self.intent_of(session, now);
        self.capture(&intent, now);
        self.set(session, json!({"status": "complete", "payment_status": "paid", "url": null}));
        self.emit("payment_intent.succeeded", &intent, now);
        self.emit("checkout.session.completed", session, now);
    }

    /// The payer chose a method that takes its time; `ends` says how and when.
    fn pay_later(&mut self, session: &str, ends: &[(i64, bool)], now: Timestamp) {
        let intent = self.intent_of(session, now);
        self.set(&intent, json!({"status": "processing"}));
        self.set(session, json!({"status": "complete", "payment_status": "unpaid", "url": null}));
        self.emit("payment_intent.processing", &intent, now);
        self.emit("checkout.session.completed", session, now);
        for (after_s, paid) in ends {
            let session = session.to_owned();
            self.set_timer(later(now, *after_s), Timer::Settle { session, paid: *paid });
        }
    }

    fn settle(&mut self, session: &str, paid: bool, now: Timestamp) {
        let intent = self.intent_of(session, now);
        if paid {
            self.capture(&intent, now);
            self.set(session, json!({"payment_status": "paid"}));
            self.emit("payment_intent.succeeded", &intent, now);
            self.emit("checkout.session.async_payment_succeeded", session, now);
        } else {
            self.set(&intent, objects::declined());
            self.emit("payment_intent.payment_failed", &intent, now);
            self.emit("checkout.session.async_payment_failed", session, now);
        }
    }

    /// A refused card; the page stays open.
    fn decline(&mut self, session: &str, now: Timestamp) {
        let intent = self.intent_of(session, now);
        self.set(&intent, objects::declined());
        self.emit("payment_intent.payment_failed", &intent, now);
    }

    /// The session's PaymentIntent, made when the payer first confirms.
    fn intent_of(&mut self, session: &str, now: Timestamp) -> String {
        let known = text(&self.body(session), "payment_intent");
        if !known.is_empty() {
            return known;
        }
        let account = self.get(session).map(|e| e.account.clone()).unwrap_or_default();
        let id = self.name("pi", now);
        let data = self.intent_data.get(session).cloned().unwrap_or_default();
        self.insert(&account, objects::intent(&id, &self.body(session), &data, now));
        self.set(session, json!({"payment_intent": id}));
        id
    }

    fn capture(&mut self, intent: &str, now: Timestamp) {
        let account = self.get(intent).map(|e| e.account.clone()).unwrap_or_default();
        let (charge, body) = (self.name("ch", now), self.body(intent));
        self.insert(&account, objects::charge(&charge, &body, now));
        let taken = json!({
            "status": "succeeded",
            "amount_received": body["amount"],
            "latest_charge": charge,
            "last_payment_error": null,
        });
        self.set(intent, taken);
    }

    /// A refund came to `status`; the charge's sum follows it.
    fn move_refund(&mut self, refund: &str, status: &str, now: Timestamp) {
        let before = self.body(refund);
        if before["status"] == status || before["status"] == "failed" {
            return;
        }
        let failed = status == "failed";
        self.set(refund, json!({"status": status, "failure_reason": failed.then_some("lost_or_stolen_card")}));
        self.count_refunds(&text(&before, "charge"));
        self.emit(if failed { "refund.failed" } else { "refund.updated" }, refund, now);
    }

    fn count_refunds(&mut self, charge: &str) {
        let given = self.refunded(charge);
        let all = self.body(charge)["amount"].as_i64() == Some(given);
        self.set(charge, json!({"amount_refunded": given, "refunded": all}));
    }

    /// What has been given back of a charge, and what is on its way.
    fn refunded(&self, charge: &str) -> i64 {
        let refunds = self.entities.values().map(|e| &e.body).filter(|b| b["object"] == "refund");
        let counted = refunds.filter(|r| r["charge"] == charge && r["status"] != "failed");
        counted.filter_map(|r| r["amount"].as_i64()).fold(0, i64::saturating_add)
    }
}

/// Says something wrong about the money, as the dial demands.
fn distort(object: &mut Value, faults: &Faults) {
    if faults.on("wrong_amount") {
        for member in ["amount_total", "amount_subtotal", "amount", "amount_received"] {
            if let Some(amount) = object[member].as_i64() {
                object[member] = amount.saturating_add(1).into();
            }
        }
    }
    if faults.on("wrong_currency") {
        let other = if object["currency"] == "eur" { "usd" } else { "eur" };
        object["currency"] = other.into();
    }
    if faults.on("unknown_status") {
        let member = if object["object"] == "checkout.session" { "payment_status" } else { "status" };
        object[member] = "on_hold".into();
    }
}

fn tells_of_money(kind: &str) -> bool {
    matches!(
        kind,
        "payment_intent.succeeded" | "checkout.session.completed" | "checkout.session.async_payment_succeeded"
    )
}

fn text(object: &Value, member: &str) -> String {
    object[member].as_str().unwrap_or_default().to_owned()
}

fn later(now: Timestamp, seconds: i64) -> Timestamp {
    now.checked_add(SignedDuration::from_secs(seconds)).unwrap_or(Timestamp::MAX)
}

#[cfg(test)]
mod tests;
