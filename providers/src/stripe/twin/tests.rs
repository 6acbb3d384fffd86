use std::sync::Mutex as StdMutex;

use async_trait::async_trait;

use super::*;
use crate::gateway::{
    AttemptRef, CallError, Checkout, Cx, Delivery, Event, EventKind, Provider, Redirect, Reference, RefundOrder,
    RefundState, Standing,
};
use crate::money::{Currency, Money};
use crate::stripe::Stripe;
use crate::wire::{Headers, Http, HttpError, HttpRequest, HttpResponse};

/// A hub that calls the twin and takes its deliveries, with a clock and a dial.
struct World {
    twin: StripeTwin,
    settings: Settings,
    now: StdMutex<Timestamp>,
    faults: StdMutex<Faults>,
}

#[async_trait]
impl Http for World {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let headers = Headers::from_pairs(request.headers.iter().map(|(n, v)| (n, v.as_str())));
        match self.request(request.method, &request.url, headers, request.body) {
            TwinAnswer::Page { status, headers, body, .. } => {
                Ok(HttpResponse { status, headers: Headers::from_pairs(headers), body })
            }
            TwinAnswer::Cut | TwinAnswer::Hang => Err(HttpError::NoAnswer("cut".into())),
        }
    }
}

impl World {
    fn new() -> Self {
        let given = json!({"secret_key": "sk_test_a", "webhook_secret": "whsec_a"});
        let settings = Settings::check(Stripe.facts().settings, given.as_object().unwrap()).unwrap();
        let twin = StripeTwin::default();
        twin.enroll(&settings, "https://hub.example.test/webhooks/1");
        let now = StdMutex::new("2026-11-21T20:00:00Z".parse().unwrap());
        World { twin, settings, now, faults: StdMutex::default() }
    }

    fn now(&self) -> Timestamp {
        *self.now.lock().unwrap()
    }

    fn wait(&self, seconds: i64) {
        let mut now = self.now.lock().unwrap();
        *now = later(*now, seconds);
    }

    /// Turns one fault on and the others off.
    fn dial(&self, fault: &str) {
        *self.faults.lock().unwrap() = Faults([(fault.to_owned(), 1)].into());
    }

    fn cx(&self) -> Cx<'_> {
        Cx { settings: &self.settings, http: self, now: self.now(), live: false }
    }

    fn request(&self, method: &str, url: &str, headers: Headers, body: Vec<u8>) -> TwinAnswer {
        let url = url::Url::parse(url).unwrap();
        self.twin.serve(&TwinRequest {
            method: method.into(),
            path: url.path().into(),
            query: url.query().unwrap_or_default().into(),
            headers,
            body,
            root: url.origin().ascii_serialization(),
            now: self.now(),
            faults: self.faults.lock().unwrap().clone(),
        })
    }

    /// Status and JSON of a call with a key.
    fn call(&self, secret: &str, key: &str, path: &str, form: &str) -> (u16, Value) {
        let headers = [("authorization", format!("Bearer {secret}")), ("idempotency-key", key.to_owned())];
        let url = format!("https://api.stripe.com/v1/{path}");
        let method = if form.is_empty() { "GET" } else { "POST" };
        let answer = self.request(method, &url, Headers::from_pairs(headers), form.as_bytes().to_vec());
        let TwinAnswer::Page { status, body, .. } = answer else { panic!("no answer") };
        (status, serde_json::from_slice(&body).unwrap())
    }

    fn press(&self, session: &str, action: &str) -> u16 {
        let url = format!("https://api.stripe.com/c/pay/{session}/{action}");
        let TwinAnswer::Page { status, .. } = self.request("POST", &url, Headers::default(), vec![]) else { panic!() };
        status
    }

    fn checkout(&self, reference: &str) -> Checkout {
        Checkout {
            reference: reference.into(),
            amount: Money::new(1999, Currency::PLN),
            description: "<script>alert(1)</script>".into(),
            email: "a@example.test".into(),
            name: None,
            language: "uk".into(),
            ip: None,
            return_url: "https://hub.example.test/return/1".into(),
            cancel_url: "https://hub.example.test/return/1?cancel=1".into(),
            webhook_url: "https://hub.example.test/webhooks/1".into(),
            expires_at: later(self.now(), 3600),
        }
    }

    async fn start(&self, reference: &str) -> Result<String, CallError> {
        match Stripe.start(&self.cx(), &self.checkout(reference)).await? {
            Redirect::Url { gateway_ref, .. } => Ok(gateway_ref.unwrap()),
            Redirect::Form { .. } => panic!("not a form"),
        }
    }

    fn attempt(&self, session: Option<&str>) -> AttemptRef {
        AttemptRef {
            reference: "att_1".into(),
            gateway_ref: session.map(str::to_owned),
            amount: Money::new(1999, Currency::PLN),
            created_at: self.now(),
            expires_at: later(self.now(), 3600),
        }
    }

    /// What is due, read by the provider and answered.
    fn take(&self) -> Vec<Event> {
        let mut all = vec![];
        for delivery in self.twin.due(self.now(), &self.faults.lock().unwrap()) {
            let headers = Headers::from_pairs(delivery.headers.iter().map(|(n, v)| (n, v.as_str())));
            let call = Delivery { headers: &headers, query: "", body: &delivery.body, received_at: Some(self.now()) };
            all.extend(Stripe.read(&self.settings, &call).unwrap().events);
            self.twin.answered(delivery.id, Some((200, vec![])), self.now());
        }
        all
    }

    fn refund_order(id: &str, minor: i64, payment: &str) -> RefundOrder {
        RefundOrder {
            id: id.into(),
            reference: "att_1".into(),
            gateway_ref: payment.into(),
            amount: Money::new(minor, Currency::PLN),
            paid: Money::new(1999, Currency::PLN),
            refund_ref: None,
        }
    }

    async fn order(&self, id: &str, minor: i64, payment: &str) -> Result<RefundState, CallError> {
        let order = Self::refund_order(id, minor, payment);
        Stripe.refund(&self.cx(), &order).await.map(|report| report.state)
    }
}

const FORM: &str = "mode=payment&success_url=https://a.test/&line_items[0][quantity]=1&line_items[0][price_data][currency]=pln\
&line_items[0][price_data][product_data][name]=x&line_items[0][price_data][unit_amount]=1999";

// The published cases on `Idempotency-Key`, against the twin: same_key_same_params, same_key_other_params, stored_500,
// validation_error, key_pruned.
#[test]
fn a_key_is_kept_for_a_day() {
    let world = World::new();
    let create = |key: &str, form: &str| world.call("sk_test_a", key, "checkout/sessions", form);
    let (first, other) = (create("k", FORM), FORM.replace("1999", "2000"));
    assert_eq!((first.0, &create("k", FORM)), (200, &first));
    let refused = create("k", &other);
    assert_eq!((refused.0, &refused.1["error"]["type"]), (400, &json!("idempotency_error")));
    assert_eq!(create("v", "mode=payment").0, 400);
    assert_eq!(create("v", FORM).0, 200);
    world.dial("http_500_after_work");
    assert_eq!(create("f", FORM).0, 500);
    world.dial("");
    assert_eq!(create("f", FORM).0, 500);
    world.wait(KEY_LIFE_S);
    let again = create("k", FORM);
    assert!(again.0 == 200 && again.1["id"] != first.1["id"]);
}

#[test]
fn one_account_never_sees_anothers_objects() {
    let world = World::new();
    let given = json!({"secret_key": "sk_test_b", "webhook_secret": "whsec_b"});
    let other = Settings::check(Stripe.facts().settings, given.as_object().unwrap()).unwrap();
    world.twin.enroll(&other, "https://other.example.test/");
    let (_, session) = world.call("sk_test_a", "k", "checkout/sessions", FORM);
    let path = format!("checkout/sessions/{}", session["id"].as_str().unwrap());
    assert_eq!(world.call("sk_test_a", "", &path, "").0, 200);
    assert_eq!(world.call("sk_test_b", "", &path, "").0, 404);
    assert_eq!(world.call("sk_test_c", "", &path, "").0, 401);
    assert_eq!(world.call("sk_test_b", "", "checkout/sessions", "").1["data"], json!([]));
}

// A start whose answer was lost is found again, and a repeat gives the same page.
#[tokio::test]
async fn a_lost_start_is_found_by_our_reference() {
    let world = World::new();
    world.dial("cut_after_work");
    assert!(matches!(world.start("att_1").await, Err(CallError::Unknown(_))));
    world.dial("");
    let report = Stripe.status(&world.cx(), &world.attempt(None)).await.unwrap();
    assert_eq!((report.standing, report.events), (Standing::Open, vec![]));
    let session = world.start("att_1").await.unwrap();
    assert_eq!(world.call("sk_test_a", "", "checkout/sessions", "").1["data"].as_array().unwrap().len(), 1);
    Stripe.cancel(&world.cx(), &world.attempt(Some(&session))).await.unwrap();
    Stripe.cancel(&world.cx(), &world.attempt(Some(&session))).await.unwrap();
    assert_eq!(world.press(&session, "pay"), 410);
    let [expired] = &world.take()[..] else { panic!("one event expected") };
    assert_eq!(expired.kind.word(), "failed");
}

#[tokio::test]
async fn an_open_session_expires_by_itself() {
    let world = World::new();
    let session = world.start("att_1").await.unwrap();
    world.press(&session, "decline");
    world.wait(3600);
    let kinds: Vec<_> = world.take().iter().map(|e| e.kind.word()).collect();
    assert_eq!(kinds, ["note", "failed"]);
    let report = Stripe.status(&world.cx(), &world.attempt(Some(&session))).await.unwrap();
    assert_eq!(report.standing, Standing::Closed);
    assert!(world.start("att_2").await.is_ok());
}

#[track_caller]
fn check_fault(events: &[Event], words: &[&str]) {
    assert_eq!(events.iter().map(|e| e.kind.word()).collect::<Vec<_>>(), words);
}

#[tokio::test]
async fn faults_say_what_they_promise() {
    for (fault, words) in [("wrong_amount", "paid"), ("wrong_currency", "paid"), ("unknown_status", "unknown")] {
        let world = World::new();
        let session = world.start("att_1").await.unwrap();
        world.dial(fault);
        world.press(&session, "pay");
        let events = world.take();
        check_fault(&events, &[words]);
        let polled = Stripe.status(&world.cx(), &world.attempt(Some(&session))).await.unwrap();
        assert_eq!((&polled.events[0].kind, polled.events[0].amount), (&events[0].kind, events[0].amount), "{fault}");
        let asked = Some(Money::new(1999, Currency::PLN));
        assert_eq!(events[0].amount == asked, fault == "unknown_status");
    }
    let world = World::new();
    let session = world.start("att_1").await.unwrap();
    world.dial("late_success");
    world.press(&session, "pay");
    check_fault(&world.take(), &["pending", "pending", "note", "failed"]);
    world.wait(LATE_S);
    check_fault(&world.take(), &["paid"]);
}

#[tokio::test]
async fn a_payment_may_be_told_twice_and_take_its_time() {
    let world = World::new();
    let session = world.start("att_1").await.unwrap();
    world.dial("told_twice");
    world.press(&session, "pay");
    let events = world.take();
    check_fault(&events, &["paid", "paid"]);
    assert_eq!(events[0].gateway_ref, events[1].gateway_ref);
    assert_eq!(world.press(&session, "pay"), 409);

    let world = World::new();
    let session = world.start("att_1").await.unwrap();
    world.press(&session, "pay_later");
    let report = Stripe.status(&world.cx(), &world.attempt(Some(&session))).await.unwrap();
    assert_eq!((report.standing, report.events[0].kind.word()), (Standing::Open, "pending"));
    check_fault(&world.take(), &["pending", "pending"]);
    world.wait(ASYNC_S);
    check_fault(&world.take(), &["paid"]);
}

#[tokio::test]
async fn refunds_keep_within_the_charge_and_may_come_back() {
    let world = World::new();
    let session = world.start("att_1").await.unwrap();
    world.press(&session, "pay");
    let payment = world.take()[0].gateway_ref.clone().unwrap();
    world.dial("refund_fails_late");
    assert_eq!(world.order("r1", 1500, &payment).await, Ok(RefundState::Succeeded));
    assert_eq!(world.order("r1", 1500, &payment).await, Ok(RefundState::Succeeded));
    assert!(matches!(world.order("r2", 500, &payment).await, Err(CallError::Refused { .. })));
    check_fault(&world.take(), &["refund", "note"]);
    let order = World::refund_order("r2", 500, &payment);
    let listed = Stripe.refunds(&world.cx(), &order).await.unwrap();
    check_fault(&listed, &["refund"]);
    assert_eq!((listed[0].amount.map(Money::minor), &listed[0].gateway_ref), (Some(1500), &Some(payment.clone())));
    assert_eq!(listed[0].reference, Reference::Ours(order.reference));
    world.wait(LATE_S);
    let [failed] = &world.take()[..] else { panic!("one event expected") };
    assert!(
        matches!(&failed.kind, EventKind::Refund { order: Some(id), state: RefundState::Failed, .. } if id == "r1")
    );
    world.dial("refund_pending");
    assert_eq!(world.order("r3", 1999, &payment).await, Ok(RefundState::Pending));
    check_fault(&world.take(), &["refund", "note"]);
    world.wait(ASYNC_S);
    let [done] = &world.take()[..] else { panic!("one event expected") };
    assert!(matches!(&done.kind, EventKind::Refund { state: RefundState::Succeeded, .. }));
}

#[tokio::test]
async fn deliveries_are_repeated_with_growing_pauses_and_then_given_up() {
    let world = World::new();
    let session = world.start("att_1").await.unwrap();
    world.press(&session, "pay");
    let mut first = None;
    for pause_s in PAUSES_S.iter().chain(&[0]) {
        let due = world.twin.due(world.now(), &Faults::default());
        let [delivery] = &due[..] else { panic!("one delivery expected") };
        // The same event and bytes, signed for the time of this try.
        assert_eq!(first.get_or_insert(delivery.body.clone()), &delivery.body);
        let signed = format!("t={},", world.now().as_second());
        assert!(delivery.headers.iter().any(|(n, v)| n == "stripe-signature" && v.starts_with(&signed)));
        world.twin.answered(delivery.id, Some((303, vec![])), world.now());
        world.wait(pause_s - 1);
        assert!(world.twin.due(world.now(), &Faults::default()).is_empty());
        world.wait(1);
    }
    world.wait(7 * 86_400);
    assert!(world.twin.due(world.now(), &Faults::default()).is_empty());
}

// F69
#[tokio::test]
async fn pages_show_text_as_text() {
    let world = World::new();
    let session = world.start("att_1").await.unwrap();
    let page = |path: &str| match world.request("GET", &format!("https://a.test{path}"), Headers::default(), vec![]) {
        TwinAnswer::Page { body, .. } => String::from_utf8(body).unwrap(),
        _ => panic!("no page"),
    };
    let shown = page(&format!("/c/pay/{session}"));
    assert!(shown.contains("&lt;script&gt;") && !shown.contains("<script"));
    assert!(shown.contains("19.99 PLN"));
    world.press(&session, "pay");
    assert!(page("/panel").contains("data-twin-action=\"dispute\""));
}

#[tokio::test]
async fn a_dispute_runs_its_course() {
    let world = World::new();
    let session = world.start("att_1").await.unwrap();
    world.press(&session, "pay");
    world.take();
    let press = |id: &str, action: &str| {
        let url = format!("https://api.stripe.com/panel/{id}/{action}");
        assert!(matches!(
            world.request("POST", &url, Headers::default(), vec![]),
            TwinAnswer::Page { status: 303, .. }
        ));
    };
    let charge = world.call("sk_test_a", "", "charges", "").1["data"][0]["id"].as_str().unwrap().to_owned();
    press(&charge, "dispute");
    let opened = world.take();
    check_fault(&opened, &["dispute", "dispute"]);
    let EventKind::Dispute { gateway_ref, closed: false, .. } = &opened[0].kind else { panic!("not open") };
    press(gateway_ref, "lost");
    let [lost] = &world.take()[..] else { panic!("one event expected") };
    assert!(matches!(&lost.kind, EventKind::Dispute { closed: true, lost: true, status, .. } if status == "lost"));
    let payment = lost.gateway_ref.clone().unwrap();
    assert!(matches!(world.order("r1", 500, &payment).await, Err(CallError::Gone { .. })));
}
