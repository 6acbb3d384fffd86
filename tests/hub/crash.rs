//! The process dies at every await of the intake and of the invoice job, one after another: nothing is lost, nothing is
//! doubled.
//!
//! A run is polled so many times and then dropped, which is what the database and the outside see of a dead process:
//! an open transaction goes back, a request that was sent stays sent.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::http::{Request, StatusCode};
use grosz::domain::invoice::State;
use grosz::domain::payment::Status;
use grosz::flows::start_checkout::NewPayment;
use grosz::http::api::{Called, Orders};
use grosz::http::auth::Caller;
use grosz::http::idempotency::Mark;
use grosz::intake::commit_slice;
use grosz::store::{Page, PaymentFilter, Pool};
use grosz_providers::invoicer::Found;
use grosz_providers::{Event, EventKind, Money, Reference, RefundState};
use serde_json::json;
use tokio::task::coop;

use crate::harness::{Engine, Hub, text_of};
use crate::matter::{Matter, TwinWay, event, invoicer, invoicing_account, matter, price, receive_slice, settings};
use crate::on_both;

/// So many runs are enough to stop one at more than a dozen places. How often a run waits depends on the machine.
const ENOUGH: usize = 400;

/// Lets a future live for so many polls; `None` when it died before its end. It is polled with next to nothing left of
/// what the runtime grants a task for one turn, so that it also waits where it otherwise would not: SQLite answers at once.
pub struct Mortal<F> {
    inner: Pin<Box<F>>,
    polls_left: usize,
    /// What the runtime grants.
    granted: Option<usize>,
    is_begun: bool,
}

/// Uses up so much of what the runtime grants; answers how much there was.
fn use_up(most: usize, cx: &mut Context<'_>) -> usize {
    let is_there = |_: &usize| coop::has_budget_remaining();
    let used = (0..most).take_while(is_there).map(|_| std::pin::pin!(coop::consume_budget()).poll(cx));
    used.filter(Poll::is_ready).count()
}

impl<F: Future> Future for Mortal<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.polls_left == 0 {
            return Poll::Ready(None);
        }
        let Some(granted) = self.granted else {
            // This turn may be half over; the next is measured.
            self.granted = self.is_begun.then(|| use_up(usize::MAX, cx));
            self.is_begun = true;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        };
        use_up(granted - 1, cx);
        self.polls_left -= 1;
        self.inner.as_mut().poll(cx).map(Some)
    }
}

/// A run that dies after so many polls.
pub fn mortal<F: Future>(polls: usize, inner: F) -> Mortal<F> {
    Mortal { inner: Box::pin(inner), polls_left: polls, granted: None, is_begun: false }
}

// F20, F21, F22, F23, I2, I4: the gateway repeats what was not acknowledged.
on_both!(a_death_anywhere_in_the_intake, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let matter = matter(&hub).await;
    let (mut deaths, mut polls) = (0, 0);
    for n in 0..ENOUGH {
        let (payment, attempt) = matter.payment(&hub, &format!("{n}/2026")).await;
        let told = event(&attempt, &format!("{}:paid", attempt.reference), EventKind::Paid, "remote1");
        let inbound = matter.delivery(&hub, told.clone());
        let slice = [inbound];
        let survived = mortal(polls, receive_slice(&hub.app, &slice)).await.is_some();
        deaths += usize::from(!survived);
        matter.receive(&hub, told).await;
        let mut tx = hub.app.store.read().await.unwrap();
        let after = tx.payment(&payment.merchant_id, &payment.id).await.unwrap().unwrap();
        assert_eq!(after.status, Status::Completed, "died after {polls} polls");
        assert!(!after.double_payment);
        assert_eq!(tx.transitions(&payment.merchant_id, &payment.id).await.unwrap().len(), 2);
        assert_eq!(tx.events_of_payment(&payment.merchant_id, &payment.id).await.unwrap().len(), 1);
        // A run that came to its end has shown all its places this time; the next may wait at others.
        polls = if survived { 0 } else { polls + 1 };
        if survived && deaths > 12 {
            return;
        }
    }
    panic!("the run was stopped at {deaths} places only");
});

// F12, F20–F22, I2, I6: what cannot be read and a refund of more than was paid; the gateway repeats both. A person is told
// of each once, the client app of the second, and nothing is booked.
on_both!(a_death_anywhere_in_what_cannot_be_right, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let matter = matter(&hub).await;
    let m = &hub.merchant.id;
    let (mut deaths, mut polls) = (0, 0);
    for n in 0..ENOUGH {
        let (payment, attempt) = matter.payment(&hub, &format!("{n}/2026")).await;
        matter.receive(&hub, event(&attempt, &format!("{n}:paid"), EventKind::Paid, "remote1")).await;
        let odd = Event {
            reference: Reference::Gateway(String::new()),
            ..event(&attempt, &format!("{n}:odd"), EventKind::Unknown, "remote1")
        };
        let refund = EventKind::Refund { order: None, gateway_ref: "back".into(), state: RefundState::Succeeded };
        let more = Money::new(attempt.amount.minor() + 1, attempt.amount.currency());
        let refund = Event { amount: Some(more), ..event(&attempt, &format!("{n}:back"), refund, "remote1") };
        let slice = || [&odd, &refund].map(|e| matter.delivery(&hub, e.clone()));
        let survived = mortal(polls, receive_slice(&hub.app, &slice())).await.is_some();
        deaths += usize::from(!survived);
        receive_slice(&hub.app, &slice()).await.unwrap();
        let mut tx = hub.app.store.read().await.unwrap();
        let after = tx.payment(m, &payment.id).await.unwrap().unwrap();
        assert!(after.mismatch && after.status == Status::Completed, "died after {polls} polls");
        assert!(tx.refunds(m, &payment.id).await.unwrap().is_empty());
        let told = tx.messages_about(m, &payment.id).await.unwrap();
        assert_eq!(told.iter().filter(|t| t.kind == "payment.mismatch").count(), 1, "died after {polls} polls");
        let newest = Page { before: None, limit: 3 };
        let of_payment = tx.alerts(m, Some(&payment.id), true, &newest).await.unwrap();
        assert_eq!(of_payment.iter().map(|a| a.code.as_str()).collect::<Vec<_>>(), ["refund.amount_mismatch"]);
        // All say that the account's messages cannot be read: one open alert.
        let all = Page { before: None, limit: 2 * i64::try_from(ENOUGH).unwrap() };
        let all = tx.alerts(m, None, true, &all).await.unwrap();
        assert_eq!(all.iter().filter(|a| a.code == "event.unreadable").count(), 1, "died after {polls} polls");
        polls = if survived { 0 } else { polls + 1 };
        if survived && deaths > 12 {
            return;
        }
    }
    panic!("the run was stopped at {deaths} places only");
});

// F07, F20–F22, I2, I4, I6: a slice in which the road is rare: a refund told before and after the money came, a second
// payment, a repeat. The book is written half-way, in the same transaction; the gateway repeats all of them.
on_both!(a_death_anywhere_in_a_mixed_slice, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let matter = matter(&hub).await;
    let (mut deaths, mut polls) = (0, 0);
    for n in 0..ENOUGH {
        let (payment, attempt) = matter.payment(&hub, &format!("{n}/2026")).await;
        let (other, beside) = matter.payment(&hub, &format!("{n}/2026/b")).await;
        let refund = EventKind::Refund { order: None, gateway_ref: "back".into(), state: RefundState::Succeeded };
        let told = [
            event(&attempt, &format!("{n}:early"), refund.clone(), "remote1"),
            event(&attempt, &format!("{n}:paid"), EventKind::Paid, "remote1"),
            event(&attempt, &format!("{n}:back"), refund, "remote1"),
            event(&beside, &format!("{n}:beside"), EventKind::Paid, "remote1"),
            event(&attempt, &format!("{n}:again"), EventKind::Paid, "remote2"),
            event(&attempt, &format!("{n}:paid"), EventKind::Paid, "remote1"),
        ];
        let slice = || told.iter().map(|e| matter.delivery(&hub, e.clone())).collect::<Vec<_>>();
        let survived = mortal(polls, receive_slice(&hub.app, &slice())).await.is_some();
        deaths += usize::from(!survived);
        receive_slice(&hub.app, &slice()).await.unwrap();
        let mut tx = hub.app.store.read().await.unwrap();
        let m = &hub.merchant.id;
        for (id, events) in [(&payment.id, 3), (&other.id, 1)] {
            let after = tx.payment(m, id).await.unwrap().unwrap();
            assert_eq!(after.status, Status::Completed, "died after {polls} polls");
            assert_eq!(tx.transitions(m, id).await.unwrap().len(), 2);
            let applied =
                tx.events_of_payment(m, id).await.unwrap().into_iter().filter(|e| e.state == "applied").count();
            assert_eq!(applied, events, "died after {polls} polls");
        }
        let after = tx.payment(m, &payment.id).await.unwrap().unwrap();
        assert!(after.double_payment);
        assert_eq!(after.amount_refunded, after.amount.minor(), "given back once");
        let refunds = tx.refunds(m, &payment.id).await.unwrap();
        assert_eq!(refunds.iter().filter(|r| r.state == "succeeded").count(), 1, "{refunds:?}");
        assert_eq!(refunds.iter().filter(|r| r.state == "proposed").count(), 1, "{refunds:?}");
        let captures = tx.captures(m, &payment.id).await.unwrap();
        assert_eq!(captures.iter().filter(|c| c.state == "paid").count(), 2);
        polls = if survived { 0 } else { polls + 1 };
        if survived && deaths > 12 {
            return;
        }
    }
    panic!("the run was stopped at {deaths} places only");
});

// F56: a slice of orders, one key twice in it. Whoever got no answer asks again with the same key: one payment for a
// key, one answer for a key.
on_both!(a_death_anywhere_in_a_slice_of_orders, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let matter = matter(&hub).await;
    let (mut deaths, mut polls) = (0, 0);
    for n in 0..ENOUGH {
        let slice: Vec<Called> =
            ["a", "b", "a"].iter().map(|key| order(&hub, &matter, &format!("{n}-{key}"))).collect();
        let survived = mortal(polls, commit_slice::<Orders>(&hub.app, Pool::Shared, &slice)).await.is_some();
        deaths += usize::from(!survived);
        let mut answers = vec![];
        for _ in 0..2 {
            for answer in commit_slice::<Orders>(&hub.app, Pool::Shared, &slice).await.unwrap() {
                let answer = answer.unwrap();
                assert_eq!(answer.status(), StatusCode::CREATED);
                answers.push(axum::body::to_bytes(answer.into_body(), 100_000).await.unwrap());
            }
        }
        assert!(answers[0] == answers[2] && answers[..3] == answers[3..] && answers[0] != answers[1]);
        let mut tx = hub.app.store.read().await.unwrap();
        let filter = PaymentFilter { payer: Some(matter.payer.id.clone()), ..PaymentFilter::default() };
        let page = Page { before: None, limit: 2 * i64::try_from(n).unwrap() + 10 };
        let listing = tx.listed_payments(&hub.merchant.id, &filter, &page).await.unwrap();
        let payments = listing.payments().unwrap();
        assert_eq!(payments.len(), 2 * (n + 1), "died after {polls} polls: one payment for a key");
        for payment in payments {
            let shown: serde_json::Value = serde_json::from_str(&text_of(&payment.members)).unwrap();
            assert_eq!(shown["attempts"].as_array().unwrap().len(), 1, "each with its attempt");
        }
        polls = if survived { 0 } else { polls + 1 };
        if survived && deaths > 12 {
            return;
        }
    }
    panic!("the run was stopped at {deaths} places only");
});

fn order(hub: &Hub, matter: &Matter, key: &str) -> Called {
    let caller = Caller { merchant: hub.merchant.id.clone(), live: false };
    let request = Request::post("/v1/payments").header("idempotency-key", key).body(()).unwrap();
    let mark = Mark::of(&caller, &request.into_parts().0, b"{}").unwrap();
    let order = NewPayment {
        amount: Some(price()),
        description: Some("Porada".into()),
        payer: Some(matter.payer.id.clone()),
        provider_account: Some(matter.account.id.clone()),
        ..NewPayment::default()
    };
    Called { caller, order, mark }
}

// F22–F24, F42, I7, I9: a message is told again with the same id until its delivery is on record, and then no more.
on_both!(a_death_anywhere_in_telling, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let server = wiremock::MockServer::start().await;
    let taken = wiremock::Mock::given(wiremock::matchers::method("POST"));
    taken.respond_with(wiremock::ResponseTemplate::new(200)).mount(&server).await;
    let wanted = json!({"url": server.uri(), "types": ["payment.started"]});
    let endpoint = hub.post("/v1/webhook-endpoints", wanted).await.expect(201).json();
    let endpoint = endpoint["id"].as_str().unwrap();
    let matter = matter(&hub).await;
    let lease = u64::try_from(hub.app.config.job_lease_s).unwrap() + 1;
    let (mut deaths, mut polls) = (0, 0);
    for n in 0..ENOUGH {
        let (payment, _) = matter.payment(&hub, &format!("{n}/2026")).await;
        let survived = mortal(polls, grosz::worker::run_due(&hub.app)).await.is_some();
        deaths += usize::from(!survived);
        // The lease of the dead worker runs out.
        hub.advance(lease);
        hub.run_jobs().await;
        let before = server.received_requests().await.unwrap();
        hub.advance(lease);
        hub.run_jobs().await;
        let requests = server.received_requests().await.unwrap();
        assert_eq!(requests.len(), before.len(), "what is on record is not told again");
        let about = |r: &&wiremock::Request| String::from_utf8_lossy(&r.body).contains(&payment.id);
        let ids: Vec<_> = requests.iter().filter(about).map(|r| r.headers["webhook-id"].clone()).collect();
        assert!(!ids.is_empty() && ids.iter().all(|id| *id == ids[0]), "died after {polls} polls: {ids:?}");
        let mut tx = hub.app.store.read().await.unwrap();
        let page = Page { before: None, limit: 1 };
        let last = tx.tellings(&hub.merchant.id, endpoint, &page).await.unwrap().remove(0);
        assert_eq!(last.state, "delivered", "died after {polls} polls");
        let left = tx.jobs_about(&hub.merchant.id, &last.id).await.unwrap();
        assert!(left.is_empty(), "died after {polls} polls: {left:?}");
        polls = if survived { 0 } else { polls + 1 };
        if survived && deaths > 12 {
            return;
        }
    }
    panic!("the run was stopped at {deaths} places only");
});

// F24, F27, F28, F42, I3, R-5W-48, R-5W-49; with the API behaving well and ill.
on_both!(a_death_anywhere_in_the_invoice_job, async |engine: Engine| {
    for fault in [None, Some("cut_after_work"), Some("http_500_after_work"), Some("http_500"), Some("find_lags")] {
        let clock = std::sync::OnceLock::new();
        let hub = Hub::build(
            engine,
            |_| {},
            |app| {
                let way = TwinWay::new(app.clock.clone());
                app.http = way.clone();
                app.http_documents = Arc::clone(&way) as Arc<_>;
                let _ = clock.set(way);
            },
        )
        .await;
        let way = clock.get().unwrap();
        invoicing_account(&hub).await;
        let matter = matter(&hub).await;
        let (mut deaths, mut polls) = (0, 0);
        for n in 0..ENOUGH {
            let (payment, attempt) = matter.payment(&hub, &format!("{n}/2026")).await;
            let told = event(&attempt, &format!("{}:paid", attempt.reference), EventKind::Paid, "remote1");
            matter.receive(&hub, told).await;
            if let Some(fault) = fault {
                way.fault(fault, 1);
            }
            let survived = mortal(polls, grosz::worker::run_due(&hub.app)).await.is_some();
            deaths += usize::from(!survived);
            settle(&hub, &payment.id).await;
            let mut tx = hub.app.store.read().await.unwrap();
            let invoice = tx.invoice_of_payment(&payment.merchant_id, &payment.id).await.unwrap().unwrap();
            assert_eq!(invoice.state, State::Issued, "{fault:?}, died after {polls} polls: {invoice:?}");
            let cx = grosz_providers::Cx { settings: &settings(), http: &**way, now: hub.app.clock.now(), live: false };
            let found = invoicer().find(&cx, &invoice.order).await;
            assert!(matches!(found, Found::One(_)), "{fault:?}, died after {polls} polls: {found:?}");
            let step = if fault.is_none() { 1 } else { 3 };
            polls = if survived { 0 } else { polls + step };
            if survived && deaths > 12 {
                break;
            }
        }
        assert!(deaths > 12, "{fault:?}: the run was stopped at {deaths} places only");
    }
});

/// Lets time pass, and work be done, until the invoice's job has nothing left to do.
async fn settle(hub: &Hub, payment: &str) {
    for _ in 0..60 {
        hub.run_jobs().await;
        let mut tx = hub.app.store.read().await.unwrap();
        let invoice = tx.invoice_of_payment(&hub.merchant.id, payment).await.unwrap().unwrap();
        drop(tx);
        if !invoice.state.is_open() {
            hub.run_jobs().await;
            return;
        }
        hub.advance(31);
    }
    panic!("the invoice did not come to an end");
}
