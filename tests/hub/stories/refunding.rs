//! Money that goes back, and money that is disputed.

use grosz::domain::payment::Status;
use grosz::flows::FlowError;
use grosz::flows::refund::request_refund;
use grosz::store::{Attempt, Page, Payment, Refund};
use grosz_providers::{Currency, Event, EventKind, FailReason, Money, RefundState};
use serde_json::json;

use super::stage::Stage;
use crate::api::client::{Client, id_of, refused};
use crate::crash::mortal;
use crate::harness::{Engine, Hub};
use crate::matter::{event, matter};
use crate::on_both;

impl Stage {
    pub(super) async fn refund(&self, payment: &Payment, amount: Option<i64>) -> Result<Refund, FlowError> {
        let mut tx = self.hub.tx().await;
        let refund = request_refund(&self.hub.app, &mut tx, payment, amount, Some("goodwill".into())).await?;
        tx.commit().await.expect("a commit");
        Ok(refund)
    }

    async fn refund_states(&self, payment: &Payment) -> Vec<String> {
        self.refunds(payment).await.into_iter().map(|r| r.state).collect()
    }

    /// Presses a button in the card gateway's panel, about the newest object of a kind.
    pub async fn bank(&self, kind: &str, action: &str) {
        let panel = self.twin_page("GET", "stripe/panel").await.expect(200).text();
        let from = panel.find(&format!("/panel/{kind}_")).expect("a button");
        let id = panel[from..].trim_start_matches("/panel/").split('/').next().expect("an id");
        self.twin_page("POST", &format!("stripe/panel/{id}/{action}")).await.expect(303);
        self.carry().await;
    }

    /// Somebody gives money of the newest charge back in the card gateway's own interface.
    async fn give_back_there(&self, minor: i64) {
        let key = [("authorization", "Bearer sk_test_demo".to_owned())];
        let root = format!("{}/sandbox/stripe/v1", self.twins);
        let charges = self.hub.raw("GET", &format!("{root}/charges"), &key, vec![]).await.expect(200).json();
        let charge = charges["data"][0]["id"].as_str().expect("a charge").to_owned();
        let form = [key[0].clone(), ("content-type", "application/x-www-form-urlencoded".to_owned())];
        let body = format!("charge={charge}&amount={minor}").into_bytes();
        self.hub.raw("POST", &format!("{root}/refunds"), &form, body).await.expect(200);
    }

    /// The codes of the open alerts in the order of the alphabet.
    async fn open_codes(&self) -> Vec<String> {
        let mut codes = self.alerts().await;
        codes.sort();
        codes
    }
}

// I6: never more than came; a refund stands beside the completed payment.
on_both!(refunds_are_ordered_at_the_gateway_and_never_exceed_what_came, async |engine: Engine| {
    for gateway in ["autopay", "stripe"] {
        let stage = Stage::set(engine).await;
        let payment = stage.pay("1/2026", gateway, "pay").await;
        stage.refund(&payment, Some(2_300)).await.unwrap();
        let too_much = stage.refund(&payment, Some(10_001)).await;
        assert!(matches!(too_much, Err(FlowError::Invalid { ref field, .. }) if field == "amount"), "{too_much:?}");
        stage.let_pass(200, 20).await;
        stage.carry().await;
        assert_eq!(stage.refund_states(&payment).await, ["succeeded"], "{gateway}");
        stage.refund(&payment, None).await.unwrap();
        stage.let_pass(200, 20).await;
        stage.carry().await;
        let now = stage.payment(&payment).await;
        assert_eq!((now.status, now.amount_refunded), (Status::Completed, 12_300));
        let nothing_left = stage.refund(&payment, None).await;
        assert!(matches!(nothing_left, Err(FlowError::Conflict { code: "nothing_to_refund", .. })), "{nothing_left:?}");
        assert_eq!(stage.alerts().await, ["invoice.to_correct"; 2]);
    }
});

// F08: the prepared refund of a double payment is the one that a person confirms.
on_both!(the_prepared_refund_of_a_double_payment_is_confirmed, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    let payment = stage.pay("1/2026", "autopay", "pay_twice").await;
    let confirmed = stage.refund(&payment, None).await.unwrap();
    assert_eq!(stage.refunds(&payment).await.len(), 1);
    assert_eq!(confirmed.id, stage.refunds(&payment).await[0].id);
    stage.let_pass(200, 20).await;
    assert_eq!(stage.refund_states(&payment).await, ["succeeded"]);
    assert_eq!(stage.payment(&payment).await.amount_refunded, 0, "the payment itself was not given back");
    assert!(stage.alerts().await.is_empty(), "what came on top was never invoiced, and is gone");
});

// R-5W-54: nobody asks the invoicing API for a correcting invoice, so the case's expert is told, once for each refund.
on_both!(a_refund_of_an_invoiced_payment_is_a_task_for_the_expert, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    let payment = stage.pay("1/2026", "stripe", "pay").await;
    stage.hub.run_jobs().await;
    stage.expect_paid_and_invoiced(&payment).await;
    stage.refund(&payment, Some(2_300)).await.unwrap();
    stage.hub.run_jobs().await;
    stage.carry().await;
    stage.hub.run_jobs().await;
    let alerts = stage.open_alerts().await;
    assert_eq!(alerts.iter().map(|a| a.code.as_str()).collect::<Vec<_>>(), ["invoice.to_correct"]);
    let number = stage.invoice(&payment).await.and_then(|i| i.number).expect("a number");
    assert!(alerts[0].reason.contains("23.00 PLN") && alerts[0].reason.contains(&number), "{}", alerts[0].reason);
    assert_eq!(stage.notices("invoice.to_correct").await.len(), 1);
    // Without an invoice there is nothing to correct.
    let hub = Hub::start(engine).await;
    let matter = matter(&hub).await;
    let (payment, attempt) = matter.lone_payment(&hub).await;
    matter.receive(&hub, event(&attempt, "paid", EventKind::Paid, "r1")).await;
    matter.receive(&hub, back(&attempt, "back", Some(attempt.amount))).await;
    assert_eq!(standing(&hub, &payment).await, (attempt.amount.minor(), false, vec![]));
});

/// A refund that was made at the gateway's own panel and is done.
fn back(attempt: &Attempt, name: &str, amount: Option<Money>) -> Event {
    let kind = EventKind::Refund { order: None, gateway_ref: name.into(), state: RefundState::Succeeded };
    Event { amount, ..event(attempt, &format!("told of {name} {amount:?}"), kind, "r1") }
}

/// What of a payment is given back, whether it is flagged, and the codes of the open alerts.
async fn standing(hub: &Hub, payment: &Payment) -> (i64, bool, Vec<String>) {
    let mut tx = hub.tx().await;
    let now = tx.payment(&payment.merchant_id, &payment.id).await.unwrap().unwrap();
    let page = Page { before: None, limit: 100 };
    let alerts = tx.alerts(&payment.merchant_id, Some(&payment.id), true, &page).await.unwrap();
    (now.amount_refunded, now.mismatch, alerts.into_iter().map(|a| a.code).collect())
}

// I6, F12: what a gateway reports as given back is booked only where it can be right; else a person is told, once.
on_both!(a_refund_whose_sum_cannot_be_right_is_not_booked, async |engine: Engine| {
    let in_pln = |minor| Some(Money::new(minor, Currency::PLN));
    for (reported, booked) in [
        (vec![in_pln(12_301)], 0),
        (vec![in_pln(12_000), in_pln(301)], 12_000),
        (vec![in_pln(12_000), in_pln(300), in_pln(1)], 12_300),
        (vec![Some(Money::new(100, Currency::EUR))], 0),
        (vec![in_pln(-5)], 0),
        (vec![in_pln(0)], 0),
        (vec![None], 0),
    ] {
        let hub = Hub::start(engine).await;
        let matter = matter(&hub).await;
        let (payment, attempt) = matter.lone_payment(&hub).await;
        matter.receive(&hub, event(&attempt, "paid", EventKind::Paid, "r1")).await;
        for (n, amount) in reported.iter().enumerate() {
            matter.receive(&hub, back(&attempt, &format!("back{n}"), *amount)).await;
        }
        let told = vec!["refund.amount_mismatch".to_owned()];
        assert_eq!(standing(&hub, &payment).await, (booked, true, told), "{reported:?}");
    }
    // Another sum than the one on record.
    let hub = Hub::start(engine).await;
    let matter = matter(&hub).await;
    let (payment, attempt) = matter.lone_payment(&hub).await;
    matter.receive(&hub, event(&attempt, "paid", EventKind::Paid, "r1")).await;
    matter.receive(&hub, back(&attempt, "back", in_pln(2_300))).await;
    assert_eq!(standing(&hub, &payment).await, (2_300, false, vec![]));
    matter.receive(&hub, back(&attempt, "back", in_pln(2_400))).await;
    assert_eq!(standing(&hub, &payment).await, (2_300, true, vec!["refund.amount_mismatch".to_owned()]));
});

// F77: it was done and fails a minute later: the sum is open again and a person is told.
on_both!(a_refund_that_fails_late_reopens_the_sum, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    let payment = stage.pay("1/2026", "stripe", "pay").await;
    stage.dial(json!({"stripe": {"refund_fails_late": 1}})).await;
    stage.refund(&payment, None).await.unwrap();
    stage.hub.run_jobs().await;
    stage.carry().await;
    assert_eq!(stage.payment(&payment).await.amount_refunded, 12_300);
    stage.hub.advance(61);
    stage.carry().await;
    assert_eq!(stage.refund_states(&payment).await, ["failed"]);
    assert_eq!(stage.payment(&payment).await.amount_refunded, 0);
    assert_eq!(stage.alerts().await, ["refund.failed"]);
    assert!(stage.refund(&payment, None).await.is_ok(), "it can be ordered anew");
});

// F77: the answer to the order is lost; asking under the same id finds one refund.
on_both!(a_refund_whose_answer_is_lost_is_made_once, async |engine: Engine| {
    for gateway in ["autopay", "stripe"] {
        for fault in ["cut_after_work", "http_500_after_work"] {
            let stage = Stage::set(engine).await;
            let payment = stage.pay("1/2026", gateway, "pay").await;
            stage.dial(json!({ gateway: { fault: 1 } })).await;
            stage.refund(&payment, None).await.unwrap();
            stage.hub.run_jobs().await;
            assert_eq!(stage.refund_states(&payment).await, ["requested"], "{gateway} {fault}");
            stage.let_pass(900, 60).await;
            stage.carry().await;
            let now = stage.payment(&payment).await;
            assert_eq!(stage.refund_states(&payment).await, ["succeeded"], "{gateway} {fault}");
            assert_eq!(now.amount_refunded, 12_300);
        }
    }
});

// A refund made in the gateway's own panel, told of by webhook only, and refused by the gateway when it has no money.
on_both!(a_gateway_that_cannot_pay_back_is_told_to_a_person, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    let payment = stage.pay("1/2026", "autopay", "pay").await;
    stage.dial(json!({"autopay": {"no_funds": 1}})).await;
    stage.refund(&payment, None).await.unwrap();
    stage.let_pass(900, 60).await;
    assert_eq!(stage.refund_states(&payment).await, ["failed"]);
    assert_eq!(stage.payment(&payment).await.amount_refunded, 0);
    assert_eq!(stage.alerts().await, ["refund.failed"]);
});

// F84: a dispute stands beside the payment; the invoice is untouched; a person is told; no refund meanwhile.
on_both!(a_dispute_is_told_and_leaves_payment_and_invoice_alone, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    let payment = stage.pay("1/2026", "stripe", "pay").await;
    stage.hub.run_jobs().await;
    stage.bank("ch", "dispute").await;
    stage.expect_paid_and_invoiced(&payment).await;
    assert_eq!(stage.alerts().await, ["payment.disputed"]);
    let refused = stage.refund(&payment, None).await;
    assert!(matches!(refused, Err(FlowError::Conflict { code: "payment_disputed", .. })), "{refused:?}");
    stage.bank("dp", "won").await;
    let mut tx = stage.hub.tx().await;
    let disputes = tx.disputes(&payment.merchant_id, &payment.id).await.unwrap();
    drop(tx);
    assert_eq!((disputes.len(), disputes[0].status.as_str(), disputes[0].closed), (1, "won", true));
    assert_eq!(stage.payment(&payment).await.status, Status::Completed);
    assert!(stage.refund(&payment, None).await.is_ok());
});

// F07: a refund is told of before the payment's success: it waits for it, and the balance never goes below zero.
on_both!(a_refund_told_before_the_success_waits_for_it, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    stage.dial(json!({"stripe": {"drop": 1}})).await;
    let payment = stage.pay("1/2026", "stripe", "pay").await;
    assert_eq!(payment.status, Status::Started, "its notification was lost");
    stage.give_back_there(2_300).await;
    stage.carry().await;
    let now = stage.payment(&payment).await;
    assert_eq!((now.status, now.amount_refunded), (Status::Started, 0));
    assert!(stage.refunds(&payment).await.is_empty(), "kept aside");
    stage.hub.advance(6);
    stage.carry().await;
    stage.let_pass(60, 10).await;
    let now = stage.payment(&payment).await;
    assert_eq!((now.status, now.amount_refunded), (Status::Completed, 2_300));
    assert_eq!(stage.refund_states(&payment).await, ["succeeded"]);
    assert_eq!(stage.alerts().await, ["invoice.to_correct"]);
});

// F77, I6: the process dies at any await of the refund's job: the money goes back once, and it does go back. A second
// refund at the card gateway would be told of by its webhook and stand here as a second row.
on_both!(a_death_anywhere_in_a_refund_gives_back_once, async |engine: Engine| {
    for gateway in ["autopay", "stripe"] {
        let stage = Stage::set(engine).await;
        let (mut deaths, mut polls) = (0, 0);
        for n in 0..200 {
            let payment = stage.pay(&format!("{n}/2026"), gateway, "pay").await;
            stage.let_pass(40, 20).await;
            stage.refund(&payment, Some(2_300)).await.unwrap();
            let survived = mortal(polls, grosz::worker::run_due(&stage.hub.app)).await.is_some();
            deaths += usize::from(!survived);
            stage.let_pass(600, 60).await;
            stage.carry().await;
            stage.let_pass(600, 60).await;
            assert_eq!(stage.refund_states(&payment).await, ["succeeded"], "{gateway}, died after {polls} polls");
            assert_eq!(stage.payment(&payment).await.amount_refunded, 2_300);
            polls = if survived { 0 } else { polls + 2 };
            if survived && deaths > 8 {
                break;
            }
        }
        assert!(deaths > 8, "{gateway}: the run was stopped at {deaths} places only");
    }
});

/// What a gateway tells of a refund that left, without naming our order.
fn told_of(attempt: &Attempt, key: &str, name: &str, state: RefundState, minor: i64, of: &str) -> Event {
    let kind = EventKind::Refund { order: None, gateway_ref: name.into(), state };
    Event { amount: Some(Money::new(minor, Currency::PLN)), ..event(attempt, key, kind, of) }
}

/// A hub, its matter, and a payment that was paid once.
async fn paid(engine: Engine) -> (Hub, crate::matter::Matter, Payment, Attempt) {
    let hub = Hub::start(engine).await;
    let matter = matter(&hub).await;
    let (payment, attempt) = matter.lone_payment(&hub).await;
    matter.receive(&hub, event(&attempt, "paid", EventKind::Paid, "r1")).await;
    (hub, matter, payment, attempt)
}

async fn refund_of(hub: &Hub, payment: &Payment, amount: Option<i64>) -> Result<Refund, FlowError> {
    let mut tx = hub.tx().await;
    let refund = request_refund(&hub.app, &mut tx, payment, amount, None).await;
    match refund.is_ok() {
        true => tx.commit().await.expect("a commit"),
        false => tx.rollback().await.expect("a rollback"),
    }
    refund
}

async fn refund_rows(hub: &Hub, payment: &Payment) -> Vec<(String, i64, Option<String>)> {
    let rows = hub.tx().await.refunds(&payment.merchant_id, &payment.id).await.expect("refunds");
    rows.into_iter().map(|r| (r.state, r.amount.minor(), r.gateway_ref)).collect()
}

// F77, I6: a gateway whose news name no order of ours tells of the refund that we ordered, before the answer to our
// question gives it a name: it is one refund.
on_both!(news_of_our_own_refund_without_our_name_is_not_a_second_one, async |engine: Engine| {
    let (hub, matter, payment, attempt) = paid(engine).await;
    refund_of(&hub, &payment, Some(2_300)).await.unwrap();
    matter.receive(&hub, told_of(&attempt, "t1", "out1", RefundState::Succeeded, 2_300, "r1")).await;
    assert_eq!(refund_rows(&hub, &payment).await, [("succeeded".into(), 2_300, Some("out1".into()))]);
    // One of another sum is another refund.
    matter.receive(&hub, told_of(&attempt, "t2", "out2", RefundState::Succeeded, 1_000, "r1")).await;
    assert_eq!(standing(&hub, &payment).await, (3_300, false, vec![]));
    // What is left goes back by us, and is told of in the same way.
    refund_of(&hub, &payment, Some(9_000)).await.unwrap();
    matter.receive(&hub, told_of(&attempt, "t3", "out3", RefundState::Succeeded, 9_000, "r1")).await;
    assert_eq!(standing(&hub, &payment).await, (12_300, false, vec![]));
    assert_eq!(refund_rows(&hub, &payment).await.len(), 3);
});

// F08, F77: what came on top is given back in the gateway's own panel: the prepared refund is that one, the task is done,
// and whoever confirms it all the same does not give back the payment itself.
on_both!(a_surplus_given_back_at_the_gateway_leaves_nothing_to_confirm, async |engine: Engine| {
    let (hub, matter, payment, attempt) = paid(engine).await;
    matter.receive(&hub, event(&attempt, "paid again", EventKind::Paid, "r2")).await;
    assert_eq!(standing(&hub, &payment).await.2, ["payment.double"]);
    assert_eq!(refund_rows(&hub, &payment).await, [("proposed".into(), 12_300, None)]);
    matter.receive(&hub, told_of(&attempt, "t1", "out1", RefundState::Succeeded, 12_300, "r2")).await;
    assert_eq!(refund_rows(&hub, &payment).await, [("succeeded".into(), 12_300, Some("out1".into()))]);
    assert_eq!(standing(&hub, &payment).await, (0, false, vec![]));
    let late = refund_of(&hub, &payment, None).await;
    assert!(matches!(late, Err(FlowError::Conflict { code: "surplus_refunded", .. })), "{late:?}");
    // Named by its sum, the payment itself can be given back.
    refund_of(&hub, &payment, Some(12_300)).await.unwrap();
    matter.receive(&hub, told_of(&attempt, "t2", "out2", RefundState::Succeeded, 12_300, "r1")).await;
    assert_eq!(standing(&hub, &payment).await, (12_300, false, vec![]));
});

// F08: a case was paid by two payments: what is given back of the second is that payment itself.
on_both!(a_payment_that_is_surplus_as_a_whole_is_refunded_itself, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let matter = matter(&hub).await;
    let (first, attempt) = matter.payment(&hub, "1/2026").await;
    matter.receive(&hub, event(&attempt, "no", EventKind::Failed { reason: FailReason::Declined }, "r0")).await;
    let (second, attempt_of_second) = matter.payment_of(&hub, first.case_id.as_deref().unwrap()).await;
    matter.receive(&hub, event(&attempt, "paid", EventKind::Paid, "r1")).await;
    matter.receive(&hub, event(&attempt_of_second, "paid too", EventKind::Paid, "r2")).await;
    matter.receive(&hub, told_of(&attempt_of_second, "t1", "out1", RefundState::Succeeded, 12_300, "r2")).await;
    assert_eq!(standing(&hub, &second).await.0, 12_300);
    assert_eq!(standing(&hub, &first).await.0, 0);
});

// F77: two experts confirm the prepared refund, one after the other.
on_both!(the_prepared_refund_is_confirmed_once, async |engine: Engine| {
    let (hub, matter, payment, attempt) = paid(engine).await;
    matter.receive(&hub, event(&attempt, "paid again", EventKind::Paid, "r2")).await;
    refund_of(&hub, &payment, None).await.unwrap();
    let second = refund_of(&hub, &payment, None).await;
    assert!(matches!(second, Err(FlowError::Conflict { code: "surplus_refunded", .. })), "{second:?}");
    assert_eq!(refund_rows(&hub, &payment).await.len(), 1);
});

// A transfer that failed is sent all the same (documented for settlements): the money did go back, and whoever ordered
// another one meanwhile must know.
on_both!(a_refund_that_succeeds_after_its_failure_is_booked, async |engine: Engine| {
    for ordered_anew in [false, true] {
        let (hub, matter, payment, attempt) = paid(engine).await;
        refund_of(&hub, &payment, Some(12_300)).await.unwrap();
        matter.receive(&hub, told_of(&attempt, "t1", "out1", RefundState::Failed, 12_300, "r1")).await;
        assert_eq!(standing(&hub, &payment).await, (0, false, vec!["refund.failed".to_owned()]));
        if ordered_anew {
            refund_of(&hub, &payment, Some(12_300)).await.unwrap();
        }
        matter.receive(&hub, told_of(&attempt, "t2", "out1", RefundState::Succeeded, 12_300, "r1")).await;
        let now = standing(&hub, &payment).await;
        match ordered_anew {
            false => assert_eq!(now, (12_300, false, vec![])),
            true => assert!(now.1 && now.2.contains(&"refund.amount_mismatch".to_owned()), "{now:?}"),
        }
    }
});

/// What a gateway tells of the dispute `dp_1` of some of a payment's money, in the card gateway's words.
fn disputed(attempt: &Attempt, key: &str, status: &str, amount: Money, of: &str) -> Event {
    let closed = matches!(status, "won" | "lost" | "warning_closed");
    let kind = EventKind::Dispute {
        gateway_ref: "dp_1".into(),
        status: status.into(),
        closed,
        due_by: None,
        reopens: status.starts_with("appeal"),
        refundable: status.starts_with("warning_"),
        lost: status == "lost",
    };
    Event { amount: Some(amount), ..event(attempt, key, kind, of) }
}

// F84: an inquiry is answered by giving the money back; once it is a dispute, no more.
on_both!(an_inquiry_leaves_the_way_to_a_refund_open, async |engine: Engine| {
    let (hub, matter, payment, attempt) = paid(engine).await;
    matter.receive(&hub, disputed(&attempt, "k1", "warning_needs_response", attempt.amount, "r1")).await;
    refund_of(&hub, &payment, Some(300)).await.unwrap();
    matter.receive(&hub, disputed(&attempt, "k2", "needs_response", attempt.amount, "r1")).await;
    let refused = refund_of(&hub, &payment, Some(300)).await;
    assert!(matches!(refused, Err(FlowError::Conflict { code: "payment_disputed", .. })), "{refused:?}");
});

// F51: what the gateway cannot write is refused when it is ordered, not when it is sent.
on_both!(a_refund_that_cannot_be_written_is_refused_at_once, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    let client = Client::new(&stage.hub);
    let order = json!({"amount": 12_340, "currency": "KWD", "description": "Konsultacja", "payer": stage.payer.id,
        "provider_account": stage.account("stripe").id});
    let id = id_of(&client.post("/v1/payments", order).await.expect(201));
    let payment = stage.hub.tx().await.payment(&stage.hub.merchant.id, &id).await.unwrap().unwrap();
    let page = stage.open(&payment).await;
    stage.press(&page, "pay").await.expect(303);
    stage.carry().await;
    let refunds = format!("/v1/payments/{id}/refunds");
    assert_eq!(refused(&client.post(&refunds, json!({"amount": 5})).await), ["/amount"]);
    client.post(&refunds, json!({"amount": 10})).await.expect(201);
    assert!(stage.alerts().await.is_empty());
});

// F84: news of a dispute in any order; an appeal opens it again, older news do not. There is one open alert for it, and
// none when nobody has to do anything.
on_both!(a_dispute_ends_once_and_an_appeal_goes_on, async |engine: Engine| {
    let (hub, matter, payment, attempt) = paid(engine).await;
    let news = async |key: &str, status: &str| {
        matter.receive(&hub, disputed(&attempt, key, status, attempt.amount, "r1")).await;
        let mut tx = hub.tx().await;
        let disputes = tx.disputes(&payment.merchant_id, &payment.id).await.unwrap();
        drop(tx);
        (disputes[0].status.clone(), disputes[0].closed, standing(&hub, &payment).await.2)
    };
    let disputed = vec!["payment.disputed".to_owned()];
    let lost = vec!["payment.dispute_lost".to_owned()];
    assert_eq!(news("k1", "needs_response").await, ("needs_response".into(), false, disputed.clone()));
    assert_eq!(news("k2", "under_review").await, ("under_review".into(), false, disputed.clone()));
    assert_eq!(news("k3", "lost").await, ("lost".into(), true, lost.clone()));
    assert_eq!(news("k4", "needs_response").await, ("lost".into(), true, lost.clone()), "it came late");
    assert_eq!(news("k5", "appeal_needs_response").await, ("appeal_needs_response".into(), false, disputed));
    let refused = refund_of(&hub, &payment, None).await;
    assert!(matches!(refused, Err(FlowError::Conflict { code: "payment_disputed", .. })), "{refused:?}");
    assert_eq!(news("k6", "won").await, ("won".into(), true, vec![]));
    assert_eq!(refund_of(&hub, &payment, None).await.unwrap().amount, payment.amount);
});

// F84: an inquiry that came to nothing asks for nobody.
on_both!(an_inquiry_that_is_closed_leaves_no_alert, async |engine: Engine| {
    let (hub, matter, payment, attempt) = paid(engine).await;
    matter.receive(&hub, disputed(&attempt, "k1", "warning_needs_response", attempt.amount, "r1")).await;
    assert_eq!(standing(&hub, &payment).await.2, ["payment.disputed"]);
    matter.receive(&hub, disputed(&attempt, "k2", "warning_closed", attempt.amount, "r1")).await;
    assert!(standing(&hub, &payment).await.2.is_empty());
});

// F84: who has seen to a stand of a dispute is not told of the same stand again.
on_both!(a_stand_of_a_dispute_is_told_of_once, async |engine: Engine| {
    let (hub, matter, payment, attempt) = paid(engine).await;
    matter.receive(&hub, disputed(&attempt, "k1", "needs_response", attempt.amount, "r1")).await;
    let mut tx = hub.tx().await;
    let page = Page { before: None, limit: 100 };
    let open = tx.alerts(&payment.merchant_id, Some(&payment.id), true, &page).await.unwrap();
    assert!(tx.resolve_alert(&payment.merchant_id, &open[0].id, hub.app.now()).await.unwrap());
    tx.commit().await.unwrap();
    // The money was taken, evidence was handed in.
    matter.receive(&hub, disputed(&attempt, "k2", "needs_response", attempt.amount, "r1")).await;
    assert!(standing(&hub, &payment).await.2.is_empty());
});

// F84: the payer has the money of a lost dispute already; the rest can be given back.
on_both!(what_a_lost_dispute_took_is_not_given_back_again, async |engine: Engine| {
    let pln = |minor| Money::new(minor, Currency::PLN);
    for (taken, of, left) in [
        (pln(12_300), "r1", 0),
        (pln(5_000), "r1", 7_300),
        // A sum that cannot be compared, and money that is not on record: all of it, for all that is known.
        (Money::new(100, Currency::EUR), "r1", 0),
        (pln(12_300), "unheard of", 0),
    ] {
        let (hub, matter, payment, attempt) = paid(engine).await;
        matter.receive(&hub, disputed(&attempt, "k1", "needs_response", taken, of)).await;
        matter.receive(&hub, disputed(&attempt, "k2", "lost", taken, of)).await;
        let all = refund_of(&hub, &payment, Some(12_300)).await;
        if left == 0 {
            assert!(matches!(all, Err(FlowError::Conflict { code: "nothing_to_refund", .. })), "{taken} {all:?}");
        } else {
            assert!(matches!(all, Err(FlowError::Invalid { ref field, .. }) if field == "amount"), "{taken} {all:?}");
            assert_eq!(refund_of(&hub, &payment, None).await.unwrap().amount.minor(), left);
        }
    }
    // What came on top was disputed: the payment itself can be given back, and its task is done.
    let (hub, matter, payment, attempt) = paid(engine).await;
    matter.receive(&hub, event(&attempt, "paid again", EventKind::Paid, "r2")).await;
    matter.receive(&hub, disputed(&attempt, "k1", "lost", pln(12_300), "r2")).await;
    assert_eq!(standing(&hub, &payment).await.2, ["payment.dispute_lost"]);
    let confirmed = refund_of(&hub, &payment, None).await;
    assert!(matches!(confirmed, Err(FlowError::Conflict { code: "surplus_refunded", .. })), "{confirmed:?}");
    assert_eq!(refund_of(&hub, &payment, Some(12_300)).await.unwrap().amount, payment.amount);
});

// I6, F12: one refund too many that is told of by two events is one matter.
on_both!(a_refund_too_many_is_one_alert, async |engine: Engine| {
    let (hub, matter, payment, attempt) = paid(engine).await;
    for key in ["refund.created", "charge.refunded"] {
        matter.receive(&hub, told_of(&attempt, key, "re_1", RefundState::Succeeded, 12_301, "r1")).await;
    }
    assert_eq!(standing(&hub, &payment).await.2, ["refund.amount_mismatch"]);
});

// F77, I6: a refund made at the gateway is told of while ours of all the money is under way: there is no room for both.
// When ours comes to nothing, the other one is booked.
on_both!(a_refund_told_of_beside_ours_is_booked_when_ours_fails, async |engine: Engine| {
    let (hub, matter, payment, attempt) = paid(engine).await;
    refund_of(&hub, &payment, Some(12_300)).await.unwrap();
    for key in ["t1", "t2"] {
        matter.receive(&hub, told_of(&attempt, key, "out1", RefundState::Succeeded, 2_300, "r1")).await;
    }
    assert_eq!(standing(&hub, &payment).await, (0, true, vec!["refund.amount_mismatch".to_owned()]));
    matter.receive(&hub, told_of(&attempt, "t3", "out2", RefundState::Failed, 12_300, "r1")).await;
    hub.run_jobs().await;
    assert_eq!(standing(&hub, &payment).await, (2_300, true, vec!["refund.failed".to_owned()]));
    assert_eq!(refund_rows(&hub, &payment).await.len(), 2);
});

// F77, I6: the money was given back in the gateway's own interface, and nobody was told: the gateway refuses ours, and what
// it did give back is booked. Nobody is told that the money is still here.
on_both!(a_refund_that_is_refused_for_another_one_books_that_one, async |engine: Engine| {
    for there in [12_300, 5_000] {
        let stage = Stage::set(engine).await;
        let payment = stage.pay("1/2026", "stripe", "pay").await;
        stage.hub.run_jobs().await;
        stage.dial(json!({"stripe": {"drop": 2}})).await;
        stage.give_back_there(there).await;
        stage.carry().await;
        assert_eq!(stage.payment(&payment).await.amount_refunded, 0, "its notifications were lost");
        stage.refund(&payment, Some(12_300)).await.unwrap();
        stage.hub.run_jobs().await;
        assert_eq!(stage.payment(&payment).await.amount_refunded, there);
        assert_eq!(stage.refund_states(&payment).await, ["failed", "succeeded"]);
        assert_eq!(stage.open_codes().await, ["invoice.to_correct", "refund.conflict"]);
        let letters = stage.notices("refund.conflict").await;
        assert!(letters.len() == 1 && !letters[0].body.contains("nadal tutaj"), "{letters:?}");
        if there == 5_000 {
            stage.refund(&payment, None).await.unwrap();
            stage.hub.run_jobs().await;
            stage.carry().await;
            assert_eq!(stage.payment(&payment).await.amount_refunded, 12_300);
        }
    }
});

// F77, I6: the same, told of while our order is in doubt.
on_both!(a_refund_made_at_the_gateway_meanwhile_is_booked_when_ours_is_refused, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    let payment = stage.pay("1/2026", "stripe", "pay").await;
    stage.hub.run_jobs().await;
    stage.dial(json!({"stripe": {"http_500": 1}})).await;
    stage.refund(&payment, Some(12_300)).await.unwrap();
    stage.hub.run_jobs().await;
    assert_eq!(stage.refund_states(&payment).await, ["requested"]);
    stage.give_back_there(12_300).await;
    stage.carry().await;
    assert_eq!(stage.open_codes().await, ["refund.amount_mismatch"]);
    stage.let_pass(900, 60).await;
    assert_eq!(stage.refund_states(&payment).await, ["failed", "succeeded"]);
    assert_eq!(stage.payment(&payment).await.amount_refunded, 12_300);
    assert_eq!(stage.open_codes().await, ["invoice.to_correct", "refund.conflict"]);
});

// F84: the gateway refuses a refund because of a dispute that nobody has told us of.
on_both!(a_refund_that_is_refused_for_a_dispute_says_so, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    let payment = stage.pay("1/2026", "stripe", "pay").await;
    stage.dial(json!({"stripe": {"drop": 2}})).await;
    stage.bank("ch", "dispute").await;
    stage.refund(&payment, Some(12_300)).await.unwrap();
    stage.hub.run_jobs().await;
    assert_eq!(stage.refund_states(&payment).await, ["failed"]);
    let alerts = stage.open_alerts().await;
    assert_eq!(alerts.iter().map(|a| a.code.as_str()).collect::<Vec<_>>(), ["refund.conflict"]);
    assert!(alerts[0].reason.contains("charge_disputed"), "{}", alerts[0].reason);
});
