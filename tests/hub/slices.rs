//! Calls that share a commit: as many statements as one call needs, and nobody pays for a neighbour.

use grosz::flows::receive_webhook::receive;
use grosz::http::webhooks::Webhooks;
use grosz::intake::{Intake, Refused};
use grosz::store::Endpoint;
use grosz_providers::{EventKind, Outcome};
use tokio::task::JoinSet;

use crate::harness::{Engine, Hub};
use crate::matter::{event, invoicing_account, matter};
use crate::on_both;
use crate::raw::Raw;

// The number of statements does not depend on how many webhooks share a commit.
on_both!(a_slice_costs_the_same_statements_whatever_its_length, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    invoicing_account(&hub).await;
    let matter = matter(&hub).await;
    let mut costs = vec![];
    for length in [1, 64, 192] {
        let mut slice = vec![];
        for n in 0..length {
            let (_, attempt) = matter.payment(&hub, &format!("{length}-{n}/2026")).await;
            slice.push(matter.delivery(&hub, event(&attempt, &format!("{length}-{n}"), EventKind::Paid, "r")));
        }
        let before = hub.app.store.statements();
        let outcomes = receive(&hub.app, &slice).await.unwrap();
        costs.push(hub.app.store.statements() - before);
        assert!(outcomes.iter().all(|o| *o == [Outcome::Recorded]));
    }
    // One call reads its key, payment, attempts, captures, case, count, payer and the merchant's accounts and endpoints,
    // then writes once.
    match engine {
        Engine::Postgres => assert!(costs[0] <= 14 && costs == [costs[0]; 3], "{costs:?}"),
        // On SQLite a statement takes at most 64 rows, and a payment of a case has two messages.
        Engine::Sqlite => assert!(costs[1] == costs[0] + 1 && costs[2] <= costs[0] * 3, "{costs:?}"),
    }
});

// Sixty-four payments of cases, two messages each, two hundred endpoints: fifty thousand rows with one slice.
on_both!(thousands_of_tellings_are_written_with_their_slice, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let matter = matter(&hub).await;
    let mut tx = hub.app.store.begin().await.unwrap();
    for n in 0..200 {
        let endpoint = Endpoint {
            merchant_id: hub.merchant.id.clone(),
            id: format!("ep_{n:03}"),
            url: "https://client.example/hook".into(),
            types: vec!["payment.completed".into(), "case.status_changed".into()],
            sealed: String::new(),
            state: "enabled".into(),
            state_reason: None,
            first_failure_at: None,
            failed_messages: 0,
            created_at: 0,
        };
        tx.add_endpoint(&endpoint).await.unwrap();
    }
    tx.commit().await.unwrap();
    let mut slice = vec![];
    for n in 0..64 {
        let (_, attempt) = matter.payment(&hub, &format!("{n}/2026")).await;
        slice.push(matter.delivery(&hub, event(&attempt, &format!("{n}"), EventKind::Paid, "r")));
    }
    receive(&hub.app, &slice).await.unwrap();
    let raw = Raw::of(&hub.app).await;
    assert_eq!(raw.rows("SELECT COUNT(*) FROM tellings").await, [["25600"]]);
    assert_eq!(raw.rows("SELECT COUNT(*) FROM jobs WHERE kind = 'tell_client'").await, [["25600"]]);
});

// A call that the database refuses is answered 503; its neighbours in the slice are recorded.
on_both!(a_poisoned_call_does_not_fail_its_neighbours, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let matter = matter(&hub).await;
    let raw = Raw::of(&hub.app).await;
    raw.run(match engine {
        Engine::Sqlite => {
            "CREATE TRIGGER poison BEFORE INSERT ON events WHEN NEW.event_key = 'poison' BEGIN SELECT RAISE(ABORT, 'poison'); END"
        }
        Engine::Postgres => {
            "CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'poison'; END $$;
             CREATE TRIGGER poison BEFORE INSERT ON events FOR EACH ROW WHEN (NEW.event_key = 'poison') EXECUTE FUNCTION poison()"
        }
    })
    .await;
    let (intake, _committers) = Intake::<Webhooks>::start(&hub.app);
    let mut calls = JoinSet::new();
    for n in 0..40 {
        let (_, attempt) = matter.payment(&hub, &format!("{n}/2026")).await;
        let key = if n == 17 { "poison".to_owned() } else { format!("good{n}") };
        let call = matter.delivery(&hub, event(&attempt, &key, EventKind::Paid, "r"));
        let intake = intake.clone();
        calls.spawn(async move { (n, intake.submit(call).await) });
    }
    while let Some(call) = calls.join_next().await {
        let (n, answer) = call.unwrap();
        match n {
            17 => assert_eq!(answer, Err(Refused::Failed)),
            _ => assert_eq!(answer, Ok(vec![Outcome::Recorded]), "{n}"),
        }
    }
    let kept = raw.rows("SELECT COUNT(*) FROM transitions WHERE to_status = 'completed'").await;
    assert_eq!(kept, [["39"]]);
});

// Back-pressure: when the queue is full the answer comes at once, before memory grows; what was taken is recorded.
on_both!(a_full_queue_answers_at_once, async |engine: Engine| {
    let hub =
        Hub::start_with(engine, |c| (c.intake_queue, c.intake_committers, c.intake_wait_ms) = (4, 1, 60_000)).await;
    let matter = matter(&hub).await;
    let (payment, attempt) = matter.payment(&hub, "1/2026").await;
    // Somebody holds the payment, so nothing can be committed meanwhile.
    let mut holder = hub.app.store.begin().await.unwrap();
    holder.payment_for_update(&hub.merchant.id, &payment.id).await.unwrap();
    let (intake, _committers) = Intake::<Webhooks>::start(&hub.app);
    let mut calls = JoinSet::new();
    for n in 0..20 {
        let call = matter.delivery(&hub, event(&attempt, &format!("k{n}"), EventKind::Pending, &format!("r{n}")));
        let intake = intake.clone();
        calls.spawn(async move { intake.submit(call).await });
    }
    let first = calls.join_next().await.unwrap().unwrap();
    assert_eq!(first, Err(Refused::Full));
    holder.rollback().await.unwrap();
    let mut taken = 0;
    while let Some(call) = calls.join_next().await {
        taken += usize::from(call.unwrap().is_ok());
    }
    assert!(taken >= 4, "{taken}");
    let kept = hub.app.store.read().await.unwrap().events_of_payment(&hub.merchant.id, &payment.id).await.unwrap();
    assert_eq!(kept.len(), taken, "what was taken is recorded, nothing else");
});
