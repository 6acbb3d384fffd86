//! Any order and any repetition of events: one final state, at most one invoice, at most one notice.

use grosz::domain::payment::Status;
use grosz::store::Page;
use grosz_providers::{Event, EventKind, FailReason, Money};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

use crate::harness::{Engine, Hub, check_list};
use crate::matter::{TwinWay, event, invoicing_account, matter, price, receive_slice};

/// What a gateway may tell, in any order and as often as it likes.
#[derive(Debug, Clone, Copy)]
enum Told {
    Pending(u8),
    Paid(u8),
    PaidTooLittle(u8),
    PaidInEuro(u8),
    Failed(u8),
    Unknown(u8),
}

fn told() -> impl Strategy<Value = Told> {
    prop_oneof![
        (0..3_u8).prop_map(Told::Pending),
        (0..3_u8).prop_map(Told::Paid),
        (0..3_u8).prop_map(Told::PaidTooLittle),
        (0..3_u8).prop_map(Told::PaidInEuro),
        (0..3_u8).prop_map(Told::Failed),
        (0..3_u8).prop_map(Told::Unknown),
    ]
}

fn as_event(attempt: &grosz::store::Attempt, told: Told) -> Event {
    let key = format!("{}:{told:?}", attempt.reference);
    let make = |kind, n: u8| event(attempt, &key, kind, &format!("remote{n}"));
    match told {
        Told::Pending(n) => make(EventKind::Pending, n),
        Told::Paid(n) => make(EventKind::Paid, n),
        Told::PaidTooLittle(n) => {
            Event { amount: Some(Money::new(12_299, price().currency())), ..make(EventKind::Paid, n) }
        }
        Told::PaidInEuro(n) => {
            Event { amount: Some(Money::new(12_300, "EUR".parse().unwrap())), ..make(EventKind::Paid, n) }
        }
        Told::Failed(n) => make(EventKind::Failed { reason: FailReason::Declined }, n),
        Told::Unknown(n) => make(EventKind::Unknown, n),
    }
}

// F02, F03, F04, F05, F08, F11, F12, I2, I5; R-HUB-08
#[test]
fn any_order_and_repetition_ends_in_one_state_on_sqlite() {
    any_order_and_repetition_ends_in_one_state(Engine::Sqlite, 96);
}

#[test]
fn any_order_and_repetition_ends_in_one_state_on_postgres() {
    if crate::cluster::cluster().is_some() {
        any_order_and_repetition_ends_in_one_state(Engine::Postgres, 48);
    }
}

fn any_order_and_repetition_ends_in_one_state(engine: Engine, cases: u32) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (hub, matter) = runtime.block_on(async {
        let hub = Hub::build(
            engine,
            |_| {},
            |app| {
                let way = TwinWay::new(app.clock.clone());
                app.http = way.clone();
                app.http_documents = way;
            },
        )
        .await;
        invoicing_account(&hub).await;
        let matter = matter(&hub).await;
        (hub, matter)
    });
    let mut runner = TestRunner::new(Config { cases, failure_persistence: None, ..Config::default() });
    let n = std::cell::Cell::new(0);
    // What is told, and whether a commit comes after it: the rest shares one with what follows.
    let stories = proptest::collection::vec((told(), proptest::bool::weighted(0.4)), 1..14);
    runner
        .run(&stories, |story| {
            n.set(n.get() + 1);
            runtime.block_on(check_story(&hub, &matter, &format!("{}/2026", n.get()), &story))
        })
        .unwrap();
}

async fn check_story(
    hub: &Hub,
    matter: &crate::matter::Matter,
    number: &str,
    story: &[(Told, bool)],
) -> Result<(), TestCaseError> {
    let (payment, attempt) = matter.payment(hub, number).await;
    let mut slice = vec![];
    for (n, (told, commits)) in story.iter().enumerate() {
        slice.push(matter.delivery(hub, as_event(&attempt, *told)));
        if *commits || n + 1 == story.len() {
            receive_slice(&hub.app, &std::mem::take(&mut slice)).await.unwrap();
        }
    }
    let story: Vec<Told> = story.iter().map(|(told, _)| *told).collect();
    hub.run_jobs().await;
    let m = &hub.merchant.id;
    let mut tx = hub.app.store.read().await.unwrap();
    let after = tx.payment(m, &payment.id).await.unwrap().unwrap();
    let mut paid: Vec<u8> = story.iter().filter_map(|t| if let Told::Paid(n) = t { Some(*n) } else { None }).collect();
    paid.sort_unstable();
    paid.dedup();
    let mismatched = story.iter().any(|t| matches!(t, Told::PaidTooLittle(_) | Told::PaidInEuro(_)));

    prop_assert_eq!(after.status == Status::Completed, !paid.is_empty(), "only right money completes");
    prop_assert_eq!(after.double_payment, paid.len() > 1);
    prop_assert_eq!(after.mismatch, mismatched);
    let transitions = tx.transitions(m, &payment.id).await.unwrap();
    let path: Vec<&str> = transitions.iter().map(|t| t.to.as_str()).collect();
    let allowed: [&[&str]; 4] =
        [&["started"], &["started", "completed"], &["started", "error"], &["started", "error", "completed"]];
    prop_assert!(allowed.contains(&path.as_slice()), "{:?}", path);
    check_list(&hub.app, &payment).await;
    let captures = tx.captures(m, &payment.id).await.unwrap();
    prop_assert_eq!(captures.iter().filter(|c| c.state == "paid").count(), paid.len());
    prop_assert_eq!(captures.iter().filter(|c| c.surplus).count(), paid.len().saturating_sub(1));
    let refunds = tx.refunds(m, &payment.id).await.unwrap();
    prop_assert!(refunds.iter().all(|r| r.state == "proposed"), "nothing is given back without a person");
    prop_assert_eq!(refunds.len(), paid.len().saturating_sub(1));
    let invoice = tx.invoice_of_payment(m, &payment.id).await.unwrap();
    prop_assert_eq!(invoice.is_some(), !paid.is_empty());
    let notices = tx.notices(m, Some(&payment.id), &Page { before: None, limit: 100 }).await.unwrap();
    let mut keys: Vec<_> = notices.iter().map(|n| &n.dedupe_key).collect();
    keys.sort();
    keys.dedup();
    prop_assert_eq!(keys.len(), notices.len(), "nobody is told twice");
    Ok(())
}
