//! Money beside money: what is under way, or came already, is not asked for a second time.

use grosz::domain::payment::Status;
use grosz::flows::FlowError;
use grosz::flows::poll_status::apply_answer;
use grosz::flows::retry_payment::{Asked, ask_first, retry_payment};
use grosz::flows::start_checkout::{NewPayment, Opened, create_payment, open_checkout};
use grosz::store::{Attempt, Payment};
use grosz_providers::{EventKind, FailReason};
use serde_json::json;

use super::stage::Stage;
use crate::harness::{Engine, Hub};
use crate::matter::{Matter, event, matter};
use crate::on_both;
use crate::program::until;
use crate::raw::Raw;

const FAILED: EventKind = EventKind::Failed { reason: FailReason::Declined };

async fn attempts(hub: &Hub, payment: &Payment) -> Vec<Attempt> {
    hub.tx().await.attempts(&payment.merchant_id, &payment.id).await.unwrap()
}

async fn now(hub: &Hub, payment: &Payment) -> Payment {
    hub.tx().await.payment(&payment.merchant_id, &payment.id).await.unwrap().unwrap()
}

/// Tries again without a gateway's answer; rolled back when it is refused.
async fn retry(hub: &Hub, payment: &Payment) -> Result<Payment, FlowError> {
    let mut tx = hub.tx().await;
    let again = retry_payment(&hub.app, &mut tx, &hub.merchant, payment, None, &Asked::default()).await;
    match again.is_ok() {
        true => tx.commit().await.unwrap(),
        false => tx.rollback().await.unwrap(),
    }
    again
}

fn is_pending<T: std::fmt::Debug>(answer: &Result<T, FlowError>) -> bool {
    matches!(answer, Err(FlowError::Conflict { code: "payment_pending", .. }))
}

/// A case whose first try failed and whose second one has money under way.
async fn tried_twice(hub: &Hub, matter: &Matter) -> Payment {
    let (payment, first) = matter.payment(hub, "1/2026").await;
    matter.receive(hub, event(&first, "r1 failed", FAILED, "r1")).await;
    retry(hub, &payment).await.unwrap();
    let second = attempts(hub, &payment).await.remove(1);
    matter.receive(hub, event(&second, "r2 pending", EventKind::Pending, "r2")).await;
    payment
}

// F08: with a case paid by one payment, the links of its others lead nowhere, and are closed at their gateways.
on_both!(a_case_that_is_paid_leads_nobody_to_a_gateway, async |engine: Engine| {
    for is_open in [false, true] {
        let stage = Stage::set(engine).await;
        let case = stage.case("1/2026").await;
        let first = stage.start(&case, "autopay").await;
        let old_page = stage.open(&first).await;
        stage.press(&old_page, "decline").await.expect(303);
        stage.carry().await;
        let second = stage.start(&case, "stripe").await;
        let page = if is_open { Some(stage.open(&second).await) } else { None };
        stage.press(&old_page, "pay").await.expect(303);
        stage.carry().await;
        assert_eq!(stage.payment(&first).await.status, Status::Completed);
        let opened = open_checkout(&stage.hub.app, &stage.payment(&second).await, None).await.unwrap();
        assert!(matches!(opened, Opened::Closed), "{opened:?}");
        stage.hub.run_jobs().await;
        if let Some(page) = page {
            assert_ne!(stage.press(&page, "pay").await.status, 303, "closed at the gateway too");
            assert_eq!(stage.attempts(&second).await[0].state, "closed");
        }
        stage.expect_paid_and_invoiced(&first).await;
    }
});

// F08: the link's time is over, and nobody says that the money on it did not come: no other link is made beside it, not by
// trying again and not by ordering anew.
on_both!(nothing_is_ordered_beside_money_under_way, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let matter = matter(&hub).await;
    let payment = tried_twice(&hub, &matter).await;
    assert_eq!(now(&hub, &payment).await.status, Status::Error);
    hub.advance(25 * 3600);
    let again = retry(&hub, &payment).await;
    assert!(is_pending(&again), "{again:?}");
    let order = NewPayment { case: payment.case_id.clone(), ..NewPayment::default() };
    let mut tx = hub.tx().await;
    let ordered = create_payment(&hub.app, &mut tx, &hub.merchant, false, order).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(ordered.id, payment.id, "the one that is under way");
    let opened = open_checkout(&hub.app, &now(&hub, &payment).await, None).await.unwrap();
    assert!(matches!(opened, Opened::Pending(_)), "{opened:?}");
});

// F08: money on an older link counts as under way too: a newer try that fails does not end the payment, and trying again
// waits.
on_both!(money_on_an_older_link_is_seen, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let matter = matter(&hub).await;
    let (payment, first) = matter.lone_payment(&hub).await;
    hub.advance(25 * 3600);
    retry(&hub, &payment).await.unwrap();
    let second = attempts(&hub, &payment).await.remove(1);
    matter.receive(&hub, event(&first, "r1 pending", EventKind::Pending, "r1")).await;
    matter.receive(&hub, event(&second, "r2 failed", FAILED, "r2")).await;
    assert_eq!(now(&hub, &payment).await.status, Status::Started);
    let again = retry(&hub, &payment).await;
    assert!(is_pending(&again), "{again:?}");
    matter.receive(&hub, event(&first, "r1 paid", EventKind::Paid, "r1")).await;
    let paid = now(&hub, &payment).await;
    assert_eq!((paid.status, paid.late_success), (Status::Completed, false));
});

// F04, F08: a gateway that says "paid" of what was recorded as another sum is not asked for a second payment.
on_both!(what_was_paid_otherwise_is_not_paid_again, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    let payment = stage.start(&stage.case("1/2026").await, "autopay").await;
    let page = stage.open(&payment).await;
    // The hub takes it for another sum than the gateway was asked for.
    let raw = Raw::of(&stage.hub.app).await;
    raw.run("UPDATE attempts SET amount = amount - 1").await;
    stage.press(&page, "pay").await.expect(303);
    stage.carry().await;
    assert_eq!(stage.payment(&payment).await.status, Status::Started);
    let asked = ask_first(&stage.hub.app, &payment).await.unwrap();
    let mut tx = stage.hub.tx().await;
    let again = retry_payment(&stage.hub.app, &mut tx, &stage.hub.merchant, &payment, None, &asked).await;
    assert!(is_pending(&again), "{again:?}");
});

// F04: money is told of while the gateway is asked, whose answer knows nothing of it: the link is not given up.
on_both!(money_told_of_meanwhile_keeps_the_link, async |engine: Engine| {
    let (stage, gate) = Stage::gated(engine).await;
    let payment = stage.start(&stage.case("1/2026").await, "stripe").await;
    stage.open(&payment).await;
    let attempt = stage.attempts(&payment).await.remove(0);
    stage.hub.advance(24 * 3600);
    gate.hold("/v1/checkout/sessions/");
    let asking = async { stage.hub.run_jobs().await };
    let telling = async {
        gate.reached().await;
        let news = event(&attempt, "r1 pending", EventKind::Pending, "pi_1");
        let mut tx = stage.hub.tx().await;
        apply_answer(&stage.hub.app, &mut tx, stage.account("stripe"), &[news], "webhook").await.unwrap();
        tx.commit().await.unwrap();
        gate.open();
    };
    futures_util::future::join(asking, telling).await;
    let state = stage.attempts(&payment).await[0].state.clone();
    assert_eq!((state.as_str(), stage.payment(&payment).await.status), ("open", Status::Started));
});

// F08: the payer uses a paid link once more: what becomes of that money is asked about, whoever loses the news of it.
on_both!(money_on_a_paid_link_is_asked_about, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    let payment = stage.start(&stage.case("1/2026").await, "autopay").await;
    let page = stage.open(&payment).await;
    stage.press(&page, "pay").await.expect(303);
    stage.carry().await;
    stage.hub.run_jobs().await;
    let attempt = stage.attempts(&payment).await.remove(0);
    assert_eq!(attempt.state, "paid");
    stage.let_pass(120, 30).await;
    stage.dial(json!({"autopay": {"drop_percent": 100}})).await;
    stage.press(&page, "pay").await.expect(303);
    stage.carry().await;
    // All that comes through is that something began.
    let news = event(&attempt, "second try", EventKind::Pending, "R2");
    let mut tx = stage.hub.tx().await;
    apply_answer(&stage.hub.app, &mut tx, stage.account("autopay"), &[news], "webhook").await.unwrap();
    tx.commit().await.unwrap();
    stage.let_pass(600, 30).await;
    assert!(stage.payment(&payment).await.double_payment);
    assert_eq!(stage.refunds(&payment).await.len(), 1);
});

// R-5W-08: the quote changes while the gateway is asked for its page: nobody is sent there, and the page is closed.
on_both!(a_link_given_up_meanwhile_leads_nowhere, async |engine: Engine| {
    let (stage, gate) = Stage::gated(engine).await;
    let mut case = stage.case("1/2026").await;
    let payment = stage.start(&case, "stripe").await;
    gate.hold("/v1/checkout/sessions");
    let opening = open_checkout(&stage.hub.app, &payment, None);
    let changing = async {
        gate.reached().await;
        stage.quote(&mut case, 24_600).await;
        assert_eq!(stage.attempts(&payment).await[0].state, "failed");
        stage.hub.run_jobs().await;
        gate.open();
    };
    let (opened, ()) = futures_util::future::join(opening, changing).await;
    assert!(matches!(opened, Ok(Opened::QuoteChanged)), "{opened:?}");
    stage.hub.run_jobs().await;
    assert_eq!(stage.attempts(&payment).await[0].state, "closed");
});

// R-5W-08, F08: a gateway that is away for longer than a few tries still has the old link closed.
on_both!(an_old_link_is_closed_when_its_gateway_is_back, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    let mut case = stage.case("1/2026").await;
    let payment = stage.start(&case, "stripe").await;
    let page = stage.open(&payment).await;
    stage.dial(json!({"stripe": {"http_500": 12}})).await;
    stage.quote(&mut case, 24_600).await;
    stage.let_pass(2 * 3600, 60).await;
    assert_eq!(stage.attempts(&payment).await[0].state, "closed");
    assert_ne!(stage.press(&page, "pay").await.status, 303);
    assert!(stage.alerts().await.is_empty());
});

// I7: asking about money that is under way ends with a person, also where the payment failed before.
on_both!(money_that_nobody_can_tell_of_becomes_an_alert, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let matter = matter(&hub).await;
    let payment = tried_twice(&hub, &matter).await;
    assert_eq!(now(&hub, &payment).await.status, Status::Error);
    for _ in 0..30 {
        hub.advance(8 * 3600);
        hub.run_jobs().await;
    }
    let page = grosz::store::Page { before: None, limit: 100 };
    let alerts = hub.tx().await.alerts(&payment.merchant_id, Some(&payment.id), true, &page).await.unwrap();
    assert_eq!(alerts.iter().map(|a| a.code.as_str()).collect::<Vec<_>>(), ["payment.stuck"]);
});

// R-5W-32: the account was replaced by another one: who tries again is sent there.
on_both!(a_retry_goes_to_the_account_that_is_on, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    let payment = stage.pay("1/2026", "autopay", "decline").await;
    assert_eq!(payment.status, Status::Error);
    let mut tx = stage.hub.tx().await;
    let mut off = stage.account("autopay").clone();
    off.enabled = false;
    tx.update_provider_account(&off).await.unwrap();
    tx.commit().await.unwrap();
    let again = stage.retry(&payment).await;
    assert_eq!(again.provider_account_id, stage.account("stripe").id);
});

// F04, F57: an attempt that was given up between the look at it and the lock on its payment is late when it is paid.
on_both!(an_attempt_given_up_meanwhile_is_late, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let matter = matter(&hub).await;
    let (payment, attempt) = matter.lone_payment(&hub).await;
    matter.receive(&hub, event(&attempt, "r1 failed", FAILED, "r1")).await;
    retry(&hub, &payment).await.unwrap();
    let second = attempts(&hub, &payment).await.remove(1);
    let raw = Raw::of(&hub.app).await;
    let mut holder = hub.app.store.begin().await.unwrap();
    holder.payment_for_update(&payment.merchant_id, &payment.id).await.unwrap();
    holder.set_attempt_state(&payment.merchant_id, &payment.id, &second.id, "failed").await.unwrap();
    let (app, account) = (hub.app.clone(), matter.account.clone());
    let paid = event(&second, "r2 paid", EventKind::Paid, "r2");
    let telling = tokio::spawn(async move {
        let mut tx = app.store.begin().await.unwrap();
        apply_answer(&app, &mut tx, &account, &[paid], "poll").await.unwrap();
        tx.commit().await.unwrap();
    });
    if raw.is_postgres() {
        let waiting = "SELECT COUNT(*) FROM pg_locks WHERE NOT granted";
        until("it waits for the row", async || raw.number(waiting).await > 0).await;
    }
    holder.commit().await.unwrap();
    telling.await.unwrap();
    assert!(now(&hub, &payment).await.late_success);
});

// R-5W-54: a refund that was prepared days ago and is confirmed now is no matter of days; what is told of one that nobody
// could find out about is over when it is known.
on_both!(the_time_of_a_refund_begins_with_its_order, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    let payment = stage.pay("1/2026", "autopay", "pay_twice").await;
    stage.hub.run_jobs().await;
    stage.hub.advance(3 * 86_400);
    stage.refund(&payment, None).await.unwrap();
    stage.hub.run_jobs().await;
    assert_eq!(stage.alerts().await, ["payment.double"]);
    stage.dial(json!({"autopay": {"http_500": 1000}})).await;
    stage.let_pass(3 * 86_400, 3600).await;
    assert!(stage.alerts().await.contains(&"refund.unknown".to_owned()), "{:?}", stage.alerts().await);
    stage.dial(json!({"autopay": {}})).await;
    stage.let_pass(2 * 86_400, 3600).await;
    assert_eq!(stage.refunds(&payment).await[0].state, "succeeded");
    assert!(!stage.alerts().await.contains(&"refund.unknown".to_owned()), "{:?}", stage.alerts().await);
});

// What is paid for a trial does not pay a matter of the hub's own mode.
on_both!(a_case_is_paid_in_the_hubs_mode, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    let case = stage.case("1/2026").await;
    let order = NewPayment { case: Some(case.id.clone()), ..NewPayment::default() };
    let mut tx = stage.hub.tx().await;
    let refused = create_payment(&stage.hub.app, &mut tx, &stage.hub.merchant, true, order).await;
    assert!(matches!(refused, Err(FlowError::Conflict { code: "payment_of_other_mode", .. })), "{refused:?}");
});
