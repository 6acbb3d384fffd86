//! What payers, banks and gateways do, and what becomes of the payment.

use grosz::domain::invoice::Cell;
use grosz::domain::payment::{Reason, Status};
use grosz::flows::FlowError;
use grosz::flows::change_quote::change_quote;
use grosz::flows::retry_payment::{Asked, ask_first, retry_payment};
use grosz::flows::start_checkout::{NewPayment, Opened, create_payment, open_checkout};
use grosz::store::{Attempt, Case, Payment};
use grosz_providers::invoicer::PaymentMethod;
use grosz_providers::{CallError, Currency, EventKind, FailReason, Money};
use serde_json::json;

use super::stage::{Stage, line};
use crate::crash::mortal;
use crate::harness::{Engine, Hub};
use crate::matter::{event, matter};
use crate::on_both;
use crate::raw::Raw;

/// Every gateway: what holds for one holds for all.
const GATEWAYS: &[&str] = &["autopay", "stripe"];

// R-5W-19, R-5W-40, R-5W-50, R-HUB-02, R-HUB-03, R-HUB-09
on_both!(a_case_is_paid_and_its_invoice_reaches_the_payer, async |engine: Engine| {
    for gateway in GATEWAYS {
        let stage = Stage::set(engine).await;
        let case = stage.case("17/2026").await;
        let payment = stage.start(&case, gateway).await;
        assert_eq!(stage.cell(&payment).await, Cell::TryAgain);
        let page = stage.open(&payment).await;
        let back = stage.press(&page, "pay").await.expect(303);
        assert!(back.header("location").is_some_and(|to| to.contains("/return/att_")), "{back:?}");
        assert_eq!(stage.payment(&payment).await.status, Status::Started, "a return proves nothing");

        assert!(stage.carry().await >= 1);
        assert_eq!(stage.payment(&payment).await.status, Status::Completed);
        assert_eq!(stage.case_now(&case).await.status, "in_preparation");
        assert_eq!(stage.cell(&payment).await, Cell::Generating);

        stage.hub.run_jobs().await;
        stage.expect_paid_and_invoiced(&payment).await;
        assert_eq!(stage.invoices().await, 1);
        let mails = stage.hub.mails();
        assert_eq!(mails.len(), 1, "{mails:?}");
        assert!(mails[0].contains("faktury@client.example") && mails[0].contains("application/pdf"), "{}", mails[0]);
        assert_eq!(stage.history(&payment).await, ["started", "completed"]);
        assert_eq!(
            stage.told(&payment.id).await,
            ["payment.started", "payment.completed", "invoice.issued", "invoice.pdf_ready"]
        );
        assert!(stage.alerts().await.is_empty());
        assert_eq!(stage.carry().await, 0, "the gateway has its confirmation");
    }
});

// R-5W-33: the payer gave up at the gateway, renews, and pays.
on_both!(a_cancelled_payment_is_renewed_and_paid, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    let payment = stage.pay("1/2026", "autopay", "cancel").await;
    assert_eq!((payment.status, payment.reason), (Status::Error, Some(Reason::Cancelled)));
    assert_eq!(stage.cell(&payment).await, Cell::RenewPayment);
    let again = stage.retry(&payment).await;
    assert_eq!(stage.attempts(&again).await.len(), 2);
    stage.hub.run_jobs().await;
    let page = stage.open(&again).await;
    stage.press(&page, "pay").await.expect(303);
    stage.carry().await;
    stage.hub.run_jobs().await;
    stage.expect_paid_and_invoiced(&payment).await;
    assert!(!stage.payment(&payment).await.late_success, "a new attempt is not late");
    assert_eq!(stage.history(&payment).await, ["started", "error(cancelled)", "completed"]);
});

// R-5W-32
on_both!(a_declined_payment_can_be_tried_again, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    let payment = stage.pay("1/2026", "autopay", "decline").await;
    assert_eq!((payment.status, payment.reason), (Status::Error, Some(Reason::Declined)));
    assert_eq!(stage.cell(&payment).await, Cell::TryAgain);
    assert!(stage.invoice(&payment).await.is_none());
    assert_eq!(stage.case_now(&stage.case("2/2026").await).await.status, "analysis");
});

// A refused card leaves the card gateway's page open: another card pays.
on_both!(another_card_pays_after_a_refused_one, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    let payment = stage.pay("1/2026", "stripe", "decline").await;
    assert_eq!(payment.status, Status::Started);
    let page = stage.open(&payment).await;
    stage.press(&page, "pay").await.expect(303);
    stage.carry().await;
    stage.hub.run_jobs().await;
    stage.expect_paid_and_invoiced(&payment).await;
    assert_eq!(stage.history(&payment).await, ["started", "completed"]);
});

on_both!(a_slow_bank_confirms_after_a_while, async |engine: Engine| {
    for gateway in GATEWAYS {
        let stage = Stage::set(engine).await;
        let payment = stage.pay("1/2026", gateway, "pay_later").await;
        assert_eq!(payment.status, Status::Started, "{gateway}");
        stage.hub.advance(31);
        stage.carry().await;
        stage.hub.run_jobs().await;
        stage.expect_paid_and_invoiced(&payment).await;
    }
});

// F08: two payments on one link; the second is surplus with a refund prepared, and there is one invoice.
on_both!(paying_twice_flags_the_second_and_prepares_its_refund, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    let payment = stage.pay("1/2026", "autopay", "pay_twice").await;
    stage.hub.run_jobs().await;
    assert!(payment.double_payment);
    stage.expect_paid_and_invoiced(&payment).await;
    assert_eq!(stage.invoices().await, 1);
    let refunds = stage.refunds(&payment).await;
    assert_eq!(refunds.len(), 1);
    assert_eq!((refunds[0].state.as_str(), refunds[0].amount), ("proposed", payment.amount));
    assert_eq!(stage.alerts().await, ["payment.double"]);
});

// F05: the failure stays in the history, the money counts.
on_both!(a_success_after_a_failure_completes_late, async |engine: Engine| {
    for gateway in GATEWAYS {
        let stage = Stage::set(engine).await;
        stage.dial(json!({ *gateway: {"late_success": 1} })).await;
        let payment = stage.pay("1/2026", gateway, "pay").await;
        assert_eq!(payment.status, Status::Error, "{gateway}");
        stage.hub.advance(61);
        stage.carry().await;
        stage.hub.run_jobs().await;
        stage.expect_paid_and_invoiced(&payment).await;
        assert!(stage.payment(&payment).await.late_success);
        assert_eq!(stage.alerts().await, ["payment.late_success"]);
        assert_eq!(stage.invoices().await, 1);
        assert_eq!(stage.history(&payment).await.len(), 3);
    }
});

// F04: another try on the same link fails after the payment was completed.
on_both!(a_failure_after_the_success_changes_nothing, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    let case = stage.case("1/2026").await;
    let payment = stage.start(&case, "autopay").await;
    let page = stage.open(&payment).await;
    stage.press(&page, "pay").await.expect(303);
    stage.carry().await;
    stage.press(&page, "decline").await.expect(303);
    stage.carry().await;
    let now = stage.payment(&payment).await;
    assert_eq!((now.status, now.reason, now.double_payment), (Status::Completed, None, false));
    assert_eq!(stage.history(&payment).await, ["started", "completed"]);
    assert!(stage.alerts().await.is_empty());
});

// F11, F12: money of another amount or currency never completes, and the gateway is told so.
on_both!(other_money_than_was_asked_for_does_not_complete, async |engine: Engine| {
    for (gateway, fault) in [
        ("autopay", "wrong_amount"),
        ("autopay", "wrong_currency"),
        ("stripe", "wrong_amount"),
        ("stripe", "wrong_currency"),
    ] {
        let stage = Stage::set(engine).await;
        stage.dial(json!({ gateway: { fault: 1 } })).await;
        let payment = stage.pay("1/2026", gateway, "pay").await;
        assert_eq!(payment.status, Status::Started, "{gateway} {fault}");
        assert!(payment.mismatch);
        assert_eq!(stage.alerts().await, ["payment.amount_mismatch"]);
        assert!(stage.invoice(&payment).await.is_none());
        if gateway == "autopay" {
            let delivery = stage.deliveries(&payment).await.pop().expect("the delivery on record");
            let url = stage.hub.app.webhook_url(stage.account(gateway));
            let headers = [("content-type", "application/x-www-form-urlencoded".to_owned())];
            let answer = stage.hub.raw("POST", &url, &headers, delivery.delivery.body).await.expect(200);
            assert!(answer.text().contains("<confirmation>NOTCONFIRMED</confirmation>"), "{}", answer.text());
            stage.hub.advance(180);
            assert_eq!(stage.carry().await, 1, "what is not confirmed comes again");
            assert_eq!(stage.payment(&payment).await.status, Status::Started);
            assert_eq!(stage.alerts().await, ["payment.amount_mismatch"], "told of once");
        }
    }
});

on_both!(a_status_nobody_knows_is_parked, async |engine: Engine| {
    for gateway in GATEWAYS {
        let stage = Stage::set(engine).await;
        stage.dial(json!({ *gateway: {"unknown_status": 1} })).await;
        let payment = stage.pay("1/2026", gateway, "pay").await;
        assert_eq!(payment.status, Status::Started, "{gateway}");
        assert_eq!(stage.alerts().await, ["payment.unknown_status"]);
    }
});

// R-HUB-11: nothing ever arrives, the hub asks.
on_both!(lost_notifications_are_made_up_for_by_asking, async |engine: Engine| {
    for gateway in GATEWAYS {
        let stage = Stage::set(engine).await;
        stage.dial(json!({ *gateway: {"drop_percent": 100} })).await;
        let payment = stage.pay("1/2026", gateway, "pay").await;
        assert_eq!(payment.status, Status::Started);
        assert!(stage.deliveries(&payment).await.is_empty());
        stage.hub.advance(61);
        stage.hub.run_jobs().await;
        stage.expect_paid_and_invoiced(&payment).await;
        // The notification comes after all, days later.
        stage.dial(json!({ *gateway: {} })).await;
        stage.hub.advance(2 * 86_400);
        assert!(stage.carry().await >= 1);
        stage.hub.run_jobs().await;
        let now = stage.payment(&payment).await;
        assert_eq!((now.status, now.double_payment), (Status::Completed, false), "{gateway}");
        assert_eq!(stage.invoices().await, 1);
    }
});

// F02, F19: ten copies at once.
on_both!(copies_of_a_notification_have_one_effect, async |engine: Engine| {
    for gateway in GATEWAYS {
        let stage = Stage::set(engine).await;
        stage.dial(json!({ *gateway: {"repeat": 9} })).await;
        let payment = stage.pay("1/2026", gateway, "pay").await;
        stage.hub.run_jobs().await;
        stage.expect_paid_and_invoiced(&payment).await;
        assert!(!payment.double_payment, "{gateway}");
        assert_eq!(stage.invoices().await, 1);
        assert_eq!(stage.history(&payment).await, ["started", "completed"]);
        assert_eq!(stage.told(&payment.id).await.iter().filter(|k| *k == "payment.completed").count(), 1);
        let repeats: i64 = stage.deliveries(&payment).await.iter().map(|d| d.repeats).sum();
        assert_eq!(repeats % 9, 0, "each copy is counted: {repeats}");
        assert!(repeats >= 9);
    }
});

// F22: the hub committed and its answer got lost; the repeat is recognised.
on_both!(a_lost_answer_brings_a_repeat_without_effect, async |engine: Engine| {
    for gateway in GATEWAYS {
        let stage = Stage::set(engine).await;
        stage.dial(json!({ *gateway: {"lose_answer": 1} })).await;
        let payment = stage.pay("1/2026", gateway, "pay").await;
        assert_eq!(payment.status, Status::Completed);
        stage.hub.advance(180);
        assert_eq!(stage.carry().await, 1);
        assert_eq!(stage.history(&payment).await, ["started", "completed"]);
        stage.hub.advance(180);
        assert_eq!(stage.carry().await, 0);
    }
});

// "Pending" and "paid" change places on the way.
on_both!(news_in_the_wrong_order_end_the_same, async |engine: Engine| {
    for gateway in GATEWAYS {
        let stage = Stage::set(engine).await;
        stage.dial(json!({ *gateway: {"reorder": 1} })).await;
        let case = stage.case("1/2026").await;
        let payment = stage.start(&case, gateway).await;
        let page = stage.open(&payment).await;
        stage.press(&page, "pay_later").await.expect(303);
        // The card gateway tells of the beginning twice; there the one news passes the other at once.
        assert_eq!(stage.carry().await, if *gateway == "autopay" { 0 } else { 2 });
        stage.hub.advance(31);
        stage.carry().await;
        stage.hub.run_jobs().await;
        stage.expect_paid_and_invoiced(&payment).await;
        assert_eq!(stage.history(&payment).await, ["started", "completed"], "{gateway}");
        assert_eq!(stage.dialled(gateway, "reorder").await, 0);
    }
});

// F13: a byte changed on the way; nothing of it touches any state, and the true one comes again.
on_both!(a_tampered_notification_is_refused, async |engine: Engine| {
    for gateway in GATEWAYS {
        let stage = Stage::set(engine).await;
        stage.dial(json!({ *gateway: {"tamper": 1} })).await;
        let payment = stage.pay("1/2026", gateway, "pay").await;
        assert_eq!(payment.status, Status::Started, "{gateway}");
        assert!(stage.deliveries(&payment).await.is_empty());
        stage.hub.advance(180);
        stage.carry().await;
        assert_eq!(stage.payment(&payment).await.status, Status::Completed);
    }
});

on_both!(a_delayed_notification_completes, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    stage.dial(json!({"autopay": {"delay_s": 20}})).await;
    let payment = stage.pay("1/2026", "autopay", "pay").await;
    assert_eq!(payment.status, Status::Started);
    stage.hub.advance(20);
    assert_eq!(stage.carry().await, 1);
    assert_eq!(stage.payment(&payment).await.status, Status::Completed);
});

// F01: the gateway's page is paid, and told of, before the gateway's answer to the create call is on record.
on_both!(a_notification_before_the_create_answer_completes, async |engine: Engine| {
    for gateway in GATEWAYS {
        let stage = Stage::set(engine).await;
        let case = stage.case("1/2026").await;
        let payment = stage.start(&case, gateway).await;
        let attempt = stage.attempts(&payment).await.remove(0);
        let answer = stage.ask_for_checkout(gateway, &attempt.reference, attempt.amount).await;
        let page = stage.follow(answer.clone()).await;
        stage.press(&page, "pay").await.expect(303);
        stage.carry().await;
        assert_eq!(stage.payment(&payment).await.status, Status::Completed, "{gateway}");
        let mut tx = stage.hub.tx().await;
        tx.open_attempt(&attempt.merchant_id, &payment.id, &attempt.id, &answer, Some("late"), None).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(stage.attempts(&payment).await[0].state, "paid", "the late answer sets nothing back");
        assert_eq!(stage.payment(&payment).await.status, Status::Completed);
    }
});

// The create call's answer is lost: the same link works when the payer comes again, and there is one thing to pay.
on_both!(a_cut_create_call_is_made_good_by_the_next_click, async |engine: Engine| {
    for gateway in GATEWAYS {
        let mut stage = Stage::set(engine).await;
        if *gateway == "autopay" {
            stage.set_up_again(gateway, "start", "pretransaction").await;
        }
        stage.dial(json!({ *gateway: {"cut_after_work": 1} })).await;
        let case = stage.case("1/2026").await;
        let payment = stage.start(&case, gateway).await;
        let first = open_checkout(&stage.hub.app, &payment, None).await;
        assert!(matches!(first, Err(FlowError::Gateway(CallError::Unknown(_)))), "{gateway}: {first:?}");
        assert_eq!(stage.payment(&payment).await.status, Status::Started, "unknown is not failed");
        let page = stage.open(&payment).await;
        assert_eq!(stage.attempts(&payment).await.len(), 1);
        stage.press(&page, "pay").await.expect(303);
        stage.carry().await;
        stage.hub.run_jobs().await;
        stage.expect_paid_and_invoiced(&payment).await;
        assert!(!stage.payment(&payment).await.double_payment);
    }
});

// The card gateway keeps its first answer, a 500, under the attempt's key for a day: "try again" must not be stuck with
// it. Nobody was ever given the first link, so a new attempt cannot lead to a second payment.
on_both!(a_create_call_that_fails_for_good_is_left_behind_by_trying_again, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    stage.dial(json!({"stripe": {"http_500_after_work": 1}})).await;
    let case = stage.case("1/2026").await;
    let payment = stage.start(&case, "stripe").await;
    assert_eq!(stage.attempts(&stage.retry(&payment).await).await.len(), 1, "never opened: nothing to leave behind");
    for _ in 0..2 {
        let failed = open_checkout(&stage.hub.app, &payment, None).await;
        assert!(matches!(failed, Err(FlowError::Gateway(_))), "{failed:?}");
    }
    let again = stage.retry(&payment).await;
    assert_eq!(stage.attempts(&again).await.len(), 2);
    let page = stage.open(&again).await;
    stage.press(&page, "pay").await.expect(303);
    stage.carry().await;
    stage.hub.run_jobs().await;
    stage.expect_paid_and_invoiced(&payment).await;
    let now = stage.payment(&payment).await;
    assert_eq!((now.double_payment, now.late_success), (false, false));
});

// R-5W-03: switched off, running payments finish and new ones cannot start.
on_both!(a_switched_off_gateway_finishes_what_runs, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    let case = stage.case("1/2026").await;
    let payment = stage.start(&case, "autopay").await;
    let page = stage.open(&payment).await;
    let mut off = stage.account("autopay").clone();
    off.enabled = false;
    let mut tx = stage.hub.tx().await;
    tx.update_provider_account(&off).await.unwrap();
    tx.commit().await.unwrap();
    let other = stage.case("2/2026").await;
    let refused = stage.try_start(&other, "autopay").await;
    assert!(matches!(refused, Err(FlowError::Conflict { code: "provider_not_configured", .. })), "{refused:?}");
    stage.press(&page, "pay").await.expect(303);
    stage.carry().await;
    stage.hub.run_jobs().await;
    stage.expect_paid_and_invoiced(&payment).await;
});

// R-5W-08: an unfinished checkout of the old quote is withdrawn, its link leads nowhere, and the new quote is paid.
on_both!(a_changed_quote_withdraws_the_running_checkout, async |engine: Engine| {
    for gateway in GATEWAYS {
        let stage = Stage::set(engine).await;
        let mut case = stage.case("1/2026").await;
        let old = stage.start(&case, gateway).await;
        let old_page = stage.open(&old).await;
        let total = Money::new(24_600, Currency::PLN);
        let mut tx = stage.hub.tx().await;
        change_quote(&stage.hub.app, &mut tx, &mut case, total, line(total)).await.unwrap();
        tx.commit().await.unwrap();
        let withdrawn = stage.payment(&old).await;
        assert_eq!((withdrawn.status, withdrawn.reason), (Status::Error, Some(Reason::QuoteChanged)));
        let opened = open_checkout(&stage.hub.app, &withdrawn, None).await.unwrap();
        assert!(matches!(opened, Opened::QuoteChanged), "{opened:?}");
        stage.hub.run_jobs().await;
        assert_ne!(stage.press(&old_page, "pay").await.status, 303, "closed at the gateway too");

        let new = stage.start(&case, gateway).await;
        assert_eq!(new.amount, total);
        let page = stage.open(&new).await;
        stage.press(&page, "pay").await.expect(303);
        stage.carry().await;
        stage.hub.run_jobs().await;
        stage.expect_paid_and_invoiced(&new).await;
        assert_eq!(stage.payment(&old).await.status, Status::Error);
        assert_eq!(stage.invoices().await, 1);
    }
});

// R-HUB-10, F16: money for a checkout that is not known yet is kept, and completes it when it appears.
on_both!(news_of_an_unknown_checkout_wait_for_it, async |engine: Engine| {
    for gateway in GATEWAYS {
        let stage = Stage::set(engine).await;
        let amount = Money::new(12_300, Currency::PLN);
        let checkout = stage.ask_for_checkout(gateway, "LATER0000000000000000001", amount).await;
        let page = stage.follow(checkout).await;
        stage.press(&page, "pay").await.expect(303);
        stage.carry().await;
        stage.hub.run_jobs().await;
        assert!(stage.alerts().await.is_empty(), "{gateway}: not yet");
        // The order appears a few seconds later, as by a client that was slow.
        stage.hub.advance(5);
        let payment = stage.start(&stage.case("1/2026").await, gateway).await;
        let first = stage.attempts(&payment).await.remove(0);
        let mut tx = stage.hub.tx().await;
        let late =
            Attempt { id: stage.hub.app.ids.make("att"), no: 2, reference: "LATER0000000000000000001".into(), ..first };
        tx.add_attempt(&late).await.unwrap();
        tx.commit().await.unwrap();
        stage.let_pass(30, 5).await;
        stage.expect_paid_and_invoiced(&payment).await;
        assert!(stage.alerts().await.is_empty());
    }
});

// F16: an order that never appears becomes a matter for a person, and is told of once.
on_both!(news_of_a_checkout_that_never_appears_become_an_alert, async |engine: Engine| {
    for gateway in GATEWAYS {
        let stage = Stage::set(engine).await;
        let amount = Money::new(12_300, Currency::PLN);
        let checkout = stage.ask_for_checkout(gateway, "NEVER0000000000000000001", amount).await;
        let page = stage.follow(checkout).await;
        stage.press(&page, "pay").await.expect(303);
        for _ in 0..24 {
            stage.carry().await;
            stage.let_pass(7200, 3600).await;
        }
        assert_eq!(stage.alerts().await, ["event.unknown_attempt"], "{gateway}");
        assert_eq!(stage.notices("event.unknown_attempt").await.len(), 1);
    }
});

// R-5W-20, R-5W-22, R-5W-32: nobody paid; the gateway says so; only then it is over, and it can be tried again.
on_both!(an_unpaid_checkout_expires_when_the_gateway_says_so, async |engine: Engine| {
    for gateway in GATEWAYS {
        let stage = Stage::set(engine).await;
        let case = stage.case("1/2026").await;
        let payment = stage.start(&case, gateway).await;
        let page = stage.open(&payment).await;
        stage.let_pass(20 * 3600, 3600).await;
        assert_eq!(stage.payment(&payment).await.status, Status::Started, "{gateway}: its time is not over");
        stage.let_pass(2 * 86_400, 3600).await;
        stage.carry().await;
        let over = stage.payment(&payment).await;
        assert_eq!((over.status, over.reason), (Status::Error, Some(Reason::Expired)), "{gateway}");
        assert_eq!(stage.cell(&payment).await, Cell::TryAgain);
        assert_ne!(stage.press(&page, "pay").await.status, 303, "the old link is dead");
        let again = stage.retry(&over).await;
        let page = stage.open(&again).await;
        stage.press(&page, "pay").await.expect(303);
        stage.carry().await;
        stage.hub.run_jobs().await;
        stage.expect_paid_and_invoiced(&payment).await;
        assert_eq!(stage.invoices().await, 1);
    }
});

// A link that nobody ever opened is over in the end too.
on_both!(a_checkout_that_nobody_opened_expires, async |engine: Engine| {
    for gateway in GATEWAYS {
        let stage = Stage::set(engine).await;
        let case = stage.case("1/2026").await;
        let payment = stage.start(&case, gateway).await;
        stage.let_pass(9 * 86_400, 6 * 3600).await;
        let over = stage.payment(&payment).await;
        assert_eq!((over.status, over.reason), (Status::Error, Some(Reason::Expired)), "{gateway}");
        assert!(stage.alerts().await.is_empty());
        assert_eq!(
            stage.hub.app.store.read().await.unwrap().next_due().await.unwrap().earlier(),
            None,
            "asking has ended"
        );
    }
});

// F08: two open tabs, at one gateway or at two, both paid: one invoice, the second money is surplus with its refund.
on_both!(two_links_of_one_payment_both_paid, async |engine: Engine| {
    for second in GATEWAYS {
        let stage = Stage::set(engine).await;
        let case = stage.case("1/2026").await;
        let payment = stage.start(&case, "autopay").await;
        let old_page = stage.open(&payment).await;
        stage.press(&old_page, "decline").await.expect(303);
        stage.carry().await;
        let again = stage.retry_at(&payment, second).await;
        let new_page = stage.open(&again).await;
        stage.press(&new_page, "pay").await.expect(303);
        stage.press(&old_page, "pay").await.expect(303);
        stage.carry().await;
        stage.hub.run_jobs().await;
        let now = stage.payment(&payment).await;
        assert!(now.double_payment, "{second}");
        stage.expect_paid_and_invoiced(&payment).await;
        assert_eq!(stage.invoices().await, 1);
        assert_eq!(stage.refunds(&payment).await.len(), 1);
        assert_eq!(stage.alerts().await.iter().filter(|code| *code == "payment.double").count(), 1);
    }
});

// F08: the old link of a failed payment is paid after a second payment of the case was: money on record, no second invoice.
on_both!(a_case_paid_by_two_payments_has_one_invoice, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    let case = stage.case("1/2026").await;
    let first = stage.start(&case, "autopay").await;
    let old_page = stage.open(&first).await;
    stage.press(&old_page, "decline").await.expect(303);
    stage.carry().await;
    let second = stage.start(&case, "stripe").await;
    assert_ne!(first.id, second.id);
    let page = stage.open(&second).await;
    stage.press(&page, "pay").await.expect(303);
    stage.carry().await;
    stage.press(&old_page, "pay").await.expect(303);
    stage.carry().await;
    stage.hub.run_jobs().await;
    stage.expect_paid_and_invoiced(&second).await;
    let late = stage.payment(&first).await;
    assert_eq!((late.status, late.double_payment), (Status::Completed, true));
    assert_eq!((stage.cell(&first).await, stage.invoices().await), (Cell::Empty, 1));
    assert_eq!(stage.refunds(&first).await.len(), 1);
    assert!(stage.alerts().await.contains(&"payment.double".to_owned()));
    let again = stage.try_start(&case, "stripe").await;
    assert!(matches!(again, Err(FlowError::Conflict { code: "case_already_paid", .. })), "{again:?}");
});

// R-5W-50: the invoice names the way in which the money came, also when another gateway was chosen meanwhile.
on_both!(the_invoice_names_the_gateway_that_was_paid, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    let case = stage.case("1/2026").await;
    let payment = stage.start(&case, "autopay").await;
    let old_page = stage.open(&payment).await;
    stage.press(&old_page, "decline").await.expect(303);
    stage.carry().await;
    stage.retry_at(&payment, "stripe").await;
    stage.press(&old_page, "pay").await.expect(303);
    stage.carry().await;
    assert_eq!(stage.payment(&payment).await.status, Status::Completed);
    let invoice = stage.invoice(&payment).await.expect("an invoice");
    assert_eq!(invoice.order.method, PaymentMethod::Transfer, "not by card");
});

// R-5W-32, F08: "try again" while the link still works leads to the same link; one that was paid meanwhile completes.
on_both!(trying_again_asks_the_gateway_first, async |engine: Engine| {
    for gateway in GATEWAYS {
        let stage = Stage::set(engine).await;
        let case = stage.case("1/2026").await;
        let payment = stage.start(&case, gateway).await;
        let page = stage.open(&payment).await;
        let same = stage.retry(&payment).await;
        assert_eq!(stage.attempts(&same).await.len(), 1, "{gateway}: the same link");
        stage.dial(json!({ *gateway: {"drop_percent": 100} })).await;
        stage.press(&page, "pay").await.expect(303);
        stage.carry().await;
        let asked = grosz::flows::retry_payment::ask_first(&stage.hub.app, &payment).await.unwrap();
        assert_eq!(stage.payment(&payment).await.status, Status::Completed, "{gateway}: {asked:?}");
        let mut tx = stage.hub.tx().await;
        let (app, merchant) = (&stage.hub.app, &stage.hub.merchant);
        let refused = grosz::flows::retry_payment::retry_payment(app, &mut tx, merchant, &payment, None, &asked).await;
        assert!(matches!(refused, Err(FlowError::Conflict { code: "payment_completed", .. })), "{refused:?}");
    }
});

// F10: an old notification, rightly signed, again days later.
on_both!(an_old_notification_played_again_has_no_effect, async |engine: Engine| {
    for gateway in GATEWAYS {
        let stage = Stage::set(engine).await;
        let payment = stage.pay("1/2026", gateway, "pay").await;
        stage.hub.run_jobs().await;
        stage.hub.advance(3 * 86_400);
        let told = stage.told(&payment.id).await;
        let url = stage.hub.app.webhook_url(stage.account(gateway));
        for stored in stage.deliveries(&payment).await {
            let kept: Vec<(String, String)> = serde_json::from_str(&stored.delivery.headers).unwrap();
            let headers: Vec<(&str, String)> = kept.iter().map(|(n, v)| (n.as_str(), v.clone())).collect();
            let answer = stage.hub.raw("POST", &url, &headers, stored.delivery.body).await;
            match *gateway {
                "autopay" => assert!(answer.expect(200).text().contains("<confirmation>CONFIRMED</confirmation>")),
                _ => assert_eq!(answer.status, 400, "its stamp is out of tolerance"),
            }
        }
        stage.hub.run_jobs().await;
        assert_eq!(stage.told(&payment.id).await, told);
        assert_eq!((stage.invoices().await, stage.alerts().await.len()), (1, 0));
    }
});

// The same money told by two kinds of event is one payment.
on_both!(money_told_twice_in_other_words_is_one_payment, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    stage.dial(json!({"stripe": {"told_twice": 5}})).await;
    let payment = stage.pay("1/2026", "stripe", "pay").await;
    assert_eq!(stage.deliveries(&payment).await.len(), 2);
    assert_eq!((payment.status, payment.double_payment), (Status::Completed, false));
    stage.hub.run_jobs().await;
    stage.expect_paid_and_invoiced(&payment).await;
    assert_eq!(stage.invoices().await, 1);
});

// R-5W-15, R-5W-16: the process dies at any await while it asks the gateway for its page: the same link works a minute
// later, it is one attempt, and it is paid once.
on_both!(a_death_anywhere_in_opening_a_link, async |engine: Engine| {
    for gateway in GATEWAYS {
        let stage = Stage::set(engine).await;
        let (mut deaths, mut polls) = (0, 0);
        for n in 0..200 {
            let case = stage.case(&format!("{n}/2026")).await;
            let payment = stage.start(&case, gateway).await;
            let opened = open_checkout(&stage.hub.app, &payment, None);
            let survived = mortal(polls, opened).await.is_some();
            deaths += usize::from(!survived);
            stage.hub.advance(70);
            let page = stage.open(&payment).await;
            stage.press(&page, "pay").await.expect(303);
            stage.carry().await;
            let now = stage.payment(&payment).await;
            assert_eq!(now.status, Status::Completed, "{gateway}, died after {polls} polls");
            assert!(!now.double_payment && stage.attempts(&payment).await.len() == 1);
            polls = if survived { 0 } else { polls + 1 };
            if survived && deaths > 4 {
                break;
            }
        }
        assert!(deaths > 4, "{gateway}: the run was stopped at {deaths} places only");
    }
});

// F04, F08: on one link a try fails and the payer begins another: whichever is told of first, money is under way, and
// trying again neither opens a second checkout beside it nor closes the first.
on_both!(money_under_way_after_a_failure_is_waited_for, async |engine: Engine| {
    for pending_first in [true, false] {
        let hub = Hub::start(engine).await;
        let matter = matter(&hub).await;
        let (payment, attempt) = matter.lone_payment(&hub).await;
        let failed = event(&attempt, "r1 failed", EventKind::Failed { reason: FailReason::Declined }, "r1");
        let pending = event(&attempt, "r2 pending", EventKind::Pending, "r2");
        let (first, second) = if pending_first { (pending, failed) } else { (failed, pending) };
        matter.receive(&hub, first).await;
        matter.receive(&hub, second).await;
        let state = async || {
            let mut tx = hub.tx().await;
            let attempts = tx.attempts(&payment.merchant_id, &payment.id).await.unwrap();
            attempts.into_iter().map(|a| a.state).collect::<Vec<_>>()
        };
        assert_eq!(state().await.len(), 1);
        assert!(matches!(state().await[0].as_str(), "created" | "open"), "{:?}", state().await);
        let mut tx = hub.tx().await;
        let merchant = tx.merchant(&payment.merchant_id).await.unwrap().unwrap();
        retry_payment(&hub.app, &mut tx, &merchant, &payment, None, &Asked::default()).await.unwrap();
        tx.commit().await.unwrap();
        assert_eq!(state().await.len(), 1, "no second checkout (pending first: {pending_first})");
        matter.receive(&hub, event(&attempt, "r2 paid", EventKind::Paid, "r2")).await;
        let now = hub.tx().await.payment(&payment.merchant_id, &payment.id).await.unwrap().unwrap();
        assert_eq!((now.status, now.late_success), (Status::Completed, !pending_first));
    }
});

// F05: a wrong code, then the right one, on the same link and in its time, is everyday and calls nobody; money that was told
// of as failed before, or comes when the link's time is over, is told.
on_both!(the_next_try_on_a_link_calls_nobody, async |engine: Engine| {
    for (again, later_s, expect) in [("r2", 60, 0), ("r1", 60, 1), ("r2", 3 * 86_400, 1)] {
        let hub = Hub::start(engine).await;
        let matter = matter(&hub).await;
        let (payment, attempt) = matter.lone_payment(&hub).await;
        let failed = EventKind::Failed { reason: FailReason::Declined };
        matter.receive(&hub, event(&attempt, "r1 failed", failed, "r1")).await;
        hub.advance(later_s);
        matter.receive(&hub, event(&attempt, "again pending", EventKind::Pending, again)).await;
        matter.receive(&hub, event(&attempt, "again paid", EventKind::Paid, again)).await;
        let mut tx = hub.tx().await;
        let now = tx.payment(&payment.merchant_id, &payment.id).await.unwrap().unwrap();
        assert_eq!((now.status, now.late_success), (Status::Completed, true));
        let page = grosz::store::Page { before: None, limit: 9 };
        let alerts = tx.alerts(&payment.merchant_id, Some(&payment.id), true, &page).await.unwrap();
        assert_eq!(alerts.len(), expect, "{again} after {later_s} s: {alerts:?}");
    }
});

// R-5W-32, R-5W-33: the list and the pages say why the last try failed, and the client app is told of it.
on_both!(the_reason_is_that_of_the_last_try, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let matter = matter(&hub).await;
    let (payment, first) = matter.lone_payment(&hub).await;
    let failed = |attempt: &Attempt, key: &str, reason| event(attempt, key, EventKind::Failed { reason }, key);
    let reason = async || hub.tx().await.payment(&payment.merchant_id, &payment.id).await.unwrap().unwrap().reason;
    let again = async || {
        let mut tx = hub.tx().await;
        let merchant = tx.merchant(&payment.merchant_id).await.unwrap().unwrap();
        retry_payment(&hub.app, &mut tx, &merchant, &payment, None, &Asked::default()).await.unwrap();
        let last = tx.attempts(&payment.merchant_id, &payment.id).await.unwrap().pop().unwrap();
        tx.commit().await.unwrap();
        last
    };
    matter.receive(&hub, failed(&first, "a1", FailReason::Cancelled)).await;
    let second = again().await;
    matter.receive(&hub, failed(&second, "b1", FailReason::Declined)).await;
    assert_eq!(reason().await, Some(Reason::Declined));
    matter.receive(&hub, failed(&first, "a2", FailReason::Technical)).await;
    assert_eq!(reason().await, Some(Reason::Declined), "news of an older try");
    let third = again().await;
    matter.receive(&hub, failed(&third, "c1", FailReason::Cancelled)).await;
    assert_eq!(reason().await, Some(Reason::Cancelled));
    let raw = Raw::of(&hub.app).await;
    let of = format!("SELECT COUNT(*) FROM messages WHERE type = 'payment.error' AND subject = '{}'", payment.id);
    assert_eq!(raw.number(&of).await, 3, "once for each try");
});

// F08, R-HUB-11: one order of the gateway takes several payments. The first was told of, the second was not: the hub asks
// once more when the link's time is over.
on_both!(a_second_payment_that_nobody_told_of_is_found, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    let case = stage.case("1/2026").await;
    let payment = stage.start(&case, "autopay").await;
    let page = stage.open(&payment).await;
    stage.press(&page, "pay").await.expect(303);
    stage.carry().await;
    stage.hub.run_jobs().await;
    stage.expect_paid_and_invoiced(&payment).await;
    stage.dial(json!({"autopay": {"drop_percent": 100}})).await;
    stage.press(&page, "pay").await.expect(303);
    stage.let_pass(3600, 60).await;
    assert!(!stage.payment(&payment).await.double_payment, "a paid payment is not asked about all the time");
    stage.let_pass(25 * 3600, 1800).await;
    assert!(stage.payment(&payment).await.double_payment);
    assert_eq!(stage.alerts().await, ["payment.double"]);
    assert_eq!(stage.refunds(&payment).await[0].state, "proposed");
});

// F08: the link's time is over and the gateway says that money is under way: nobody pays a second time beside it.
on_both!(a_retry_waits_for_money_that_is_under_way, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    let case = stage.case("1/2026").await;
    let payment = stage.start(&case, "stripe").await;
    let page = stage.open(&payment).await;
    stage.press(&page, "pay_later").await.expect(303);
    stage.carry().await;
    let asked = ask_first(&stage.hub.app, &payment).await.unwrap();
    let again = async |account: Option<&str>| {
        let mut tx = stage.hub.tx().await;
        let account = account.map(|provider| stage.account(provider).id.as_str());
        let again = retry_payment(&stage.hub.app, &mut tx, &stage.hub.merchant, &payment, account, &asked).await;
        tx.rollback().await.unwrap();
        again.map(|_| ())
    };
    let pending = |answer| matches!(answer, Err(FlowError::Conflict { code: "payment_pending", .. }));
    assert!(again(None).await.is_ok(), "the link can still be used");
    assert!(pending(again(Some("autopay")).await));
    stage.hub.advance(24 * 3600);
    assert!(pending(again(None).await));
});

// F51: what a gateway cannot be asked for is said when the payment is made, not when the payer stands at the door.
on_both!(an_amount_that_no_checkout_can_have_is_refused_at_once, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    let dinar = "KWD".parse::<Currency>().unwrap();
    for (minor, fits) in [(1_235, false), (1_230, true)] {
        let order = NewPayment {
            payer: Some(stage.payer.id.clone()),
            amount: Some(Money::new(minor, dinar)),
            description: Some("Porada".into()),
            provider_account: Some(stage.account("stripe").id.clone()),
            ..NewPayment::default()
        };
        let mut tx = stage.hub.tx().await;
        let made = create_payment(&stage.hub.app, &mut tx, &stage.hub.merchant, false, order).await;
        tx.rollback().await.unwrap();
        match made {
            Ok(_) => assert!(fits),
            Err(FlowError::Invalid { field, why }) => assert!(!fits && field == "amount" && why.contains("end in 0")),
            Err(other) => panic!("{other:?}"),
        }
    }
});

impl Stage {
    /// Tries again; rolled back when it is refused.
    async fn try_retry(&self, payment: &Payment) -> Result<Payment, FlowError> {
        let mut tx = self.hub.tx().await;
        let again = retry_payment(&self.hub.app, &mut tx, &self.hub.merchant, payment, None, &Asked::default()).await;
        match again.is_ok() {
            true => tx.commit().await.expect("a commit"),
            false => tx.rollback().await.expect("a rollback"),
        }
        again
    }

    pub(super) async fn quote(&self, case: &mut Case, minor: i64) {
        let total = Money::new(minor, Currency::PLN);
        let mut tx = self.hub.tx().await;
        change_quote(&self.hub.app, &mut tx, case, total, line(total)).await.expect("a quote");
        tx.commit().await.expect("a commit");
    }
}

// R-5W-08: a payment that failed before the quote changed is not tried again with the old sum, nor is its link paid that
// was opened anew before.
on_both!(a_failed_payment_of_an_old_quote_is_not_renewed, async |engine: Engine| {
    for renewed_before in [false, true] {
        let stage = Stage::set(engine).await;
        let mut case = stage.case("1/2026").await;
        let payment = stage.start(&case, "autopay").await;
        let page = stage.open(&payment).await;
        stage.press(&page, "cancel").await.expect(303);
        stage.carry().await;
        assert_eq!(stage.payment(&payment).await.status, Status::Error);
        if renewed_before {
            stage.try_retry(&payment).await.unwrap();
        }
        stage.quote(&mut case, 24_600).await;
        let refused = stage.try_retry(&payment).await;
        assert!(matches!(refused, Err(FlowError::Conflict { code: "quote_changed", .. })), "{refused:?}");
        let opened = open_checkout(&stage.hub.app, &stage.payment(&payment).await, None).await.unwrap();
        assert!(matches!(opened, Opened::QuoteChanged), "{opened:?}");
        for attempt in stage.attempts(&payment).await {
            assert!(!matches!(attempt.state.as_str(), "created" | "open"), "{attempt:?}");
        }
        let new = stage.start(&case, "autopay").await;
        assert_eq!(new.amount.minor(), 24_600);
    }
});

// R-5W-16: a case has one link that can be paid, whichever button it was asked for by.
on_both!(a_case_has_one_link_also_when_a_payment_is_tried_again, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    let case = stage.case("1/2026").await;
    let first = stage.start(&case, "autopay").await;
    let page = stage.open(&first).await;
    stage.press(&page, "cancel").await.expect(303);
    stage.carry().await;
    // Failed, and not tried again: a new payment is made, and the old one's button leads to it.
    let second = stage.start(&case, "autopay").await;
    assert_ne!(second.id, first.id);
    assert_eq!(stage.try_retry(&first).await.unwrap().id, second.id);
    assert_eq!(stage.attempts(&first).await.len(), 1);
    let page = stage.open(&second).await;
    stage.press(&page, "cancel").await.expect(303);
    stage.carry().await;
    // Tried again: whoever starts one finds it.
    assert_eq!(stage.try_retry(&second).await.unwrap().id, second.id);
    assert_eq!(stage.payment(&second).await.status, Status::Error);
    assert_eq!(stage.start(&case, "autopay").await.id, second.id);
    assert_eq!(stage.try_retry(&first).await.unwrap().id, second.id);
    let page = stage.open(&second).await;
    stage.press(&page, "pay").await.expect(303);
    stage.carry().await;
    assert_eq!(stage.payment(&second).await.status, Status::Completed);
    let paid = stage.try_retry(&first).await;
    assert!(matches!(paid, Err(FlowError::Conflict { code: "case_already_paid", .. })), "{paid:?}");
});
