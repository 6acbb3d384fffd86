//! Money of another sum than was to be paid: it completes nothing, and nobody is sent to pay a second time, until a person
//! says what becomes of it.

use grosz::domain::payment::{Reason, Status};
use grosz::flows::poll_status::apply_answer;
use grosz::store::Payment;
use grosz_providers::{Currency, Event, EventKind, Money, RefundState};
use serde_json::json;

use super::stage::Stage;
use crate::api::client::Client;
use crate::harness::{Engine, Hub};
use crate::matter::{event, matter};
use crate::on_both;

async fn now(hub: &Hub, payment: &Payment) -> Payment {
    hub.tx().await.payment(&payment.merchant_id, &payment.id).await.unwrap().unwrap()
}

fn of(minor: i64, event: Event) -> Event {
    Event { amount: Some(Money::new(minor, Currency::PLN)), ..event }
}

// R-5W-22, F11: the alert's own next step works.
on_both!(a_case_can_be_paid_when_a_person_dealt_with_the_other_sum, async |engine: Engine| {
    for gateway in ["autopay", "stripe"] {
        let stage = Stage::set(engine).await;
        let client = Client::new(&stage.hub);
        stage.dial(json!({ gateway: {"wrong_amount": 100} })).await;
        let payment = stage.pay("1/2026", gateway, "pay").await;
        let attempt = stage.attempts(&payment).await.remove(0);
        let (retry, link) = (format!("/v1/payments/{}/retry", payment.id), format!("/pay/{}", payment.token));
        // By whichever road it is told of, it is one matter; and nobody pays a second time meanwhile.
        stage.hub.advance(61);
        stage.hub.run_jobs().await;
        assert_eq!(stage.alerts().await, ["payment.amount_mismatch"], "{gateway}");
        let told = stage.told(&payment.id).await;
        assert_eq!(told.iter().filter(|kind| *kind == "payment.mismatch").count(), 1, "{told:?}");
        assert_eq!(client.post(&retry, json!({})).await.expect(409).json()["code"], "payment_pending");
        for page in [link.clone(), format!("/return/{}", attempt.id)] {
            let page = stage.hub.raw("GET", &page, &[], vec![]).await.expect(200).text();
            assert!(page.contains("Sprawdzamy Twoją wpłatę") && page.contains("Nie płać drugi raz"), "{page}");
            assert!(!page.contains("/retry"), "no button that leads to a second payment");
        }
        stage.hub.advance(2 * 86_400);
        stage.hub.run_jobs().await;
        assert_eq!(stage.payment(&payment).await.status, Status::Started, "also when the link's time is over");

        let alert = stage.open_alerts().await.remove(0);
        client.post(&format!("/v1/alerts/{}/resolve", alert.id), json!({})).await.expect(200);
        let over = stage.payment(&payment).await;
        assert_eq!((over.status, over.reason, over.mismatch), (Status::Error, Some(Reason::Technical), true));
        assert!(stage.told(&payment.id).await.contains(&"payment.error".to_owned()));
        let again = client.post(&retry, json!({})).await.expect(200).json();
        assert_eq!(again["attempts"].as_array().unwrap().len(), 2, "{again}");
        let page = stage.hub.raw("GET", &link, &[], vec![]).await.text();
        assert!(!page.contains("Sprawdzamy"), "{page}");
        stage.open(&stage.payment(&payment).await).await;
        stage.hub.advance(61);
        stage.hub.run_jobs().await;
        assert!(stage.open_alerts().await.is_empty(), "what was dealt with is not told of again");
        let second = stage.attempts(&payment).await.remove(1);
        let account = stage.account(gateway).clone();
        let mut tx = stage.hub.tx().await;
        apply_answer(&stage.hub.app, &mut tx, &account, &[event(&second, "second", EventKind::Paid, "r2")], "poll")
            .await
            .unwrap();
        tx.commit().await.unwrap();
        stage.hub.run_jobs().await;
        stage.expect_paid_and_invoiced(&payment).await;
    }
});

// The gateway's panel is where the money is given back; the hub hears of it.
on_both!(another_sum_that_is_given_back_is_settled, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let matter = matter(&hub).await;
    let (payment, attempt) = matter.payment(&hub, "1/2026").await;
    let back = |key: &str, minor: i64, state| {
        let kind = EventKind::Refund { order: None, gateway_ref: key.into(), state };
        of(minor, event(&attempt, key, kind, "r1"))
    };
    let alerts = async || {
        let page = grosz::store::Page { before: None, limit: 100 };
        let found = hub.tx().await.alerts(&payment.merchant_id, Some(&payment.id), true, &page).await.unwrap();
        found.into_iter().map(|alert| alert.code).collect::<Vec<_>>()
    };
    for key in ["e1", "e2"] {
        matter.receive(&hub, of(13_000, event(&attempt, key, EventKind::Paid, "r1"))).await;
    }
    assert_eq!(alerts().await, ["payment.amount_mismatch"]);
    matter.receive(&hub, back("b1", 13_000, RefundState::Pending)).await;
    matter.receive(&hub, back("b2", 700, RefundState::Succeeded)).await;
    assert_eq!((now(&hub, &payment).await.status, alerts().await.len()), (Status::Started, 1), "not all of it is back");
    matter.receive(&hub, back("b1 done", 13_000, RefundState::Succeeded)).await;
    assert_eq!((now(&hub, &payment).await.status, alerts().await.len()), (Status::Error, 0));
    // The right sum can still come, and completes.
    matter.receive(&hub, event(&attempt, "paid", EventKind::Paid, "r2")).await;
    assert_eq!(now(&hub, &payment).await.status, Status::Completed);
});
