//! Calls that share a commit: as many statements as one call needs, and nobody pays for a neighbour.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::future::join_all;
use grosz::app::{App, SharedApp};
use grosz::clock::Clock;
use grosz::domain::payment::{Reason, Status};
use grosz::http::webhooks::Webhooks;
use grosz::intake::{Intake, Refused, Sliced};
use grosz::store::{Attempt, Capture, Endpoint, Page, Payment, Pool, StoreError, Tx};
use grosz_providers::{Event, EventKind, FailReason, Outcome, Redirect};
use tokio::task::JoinSet;

use crate::clocks::{bend, make_bendable};
use crate::harness::{Engine, Hub, check_list};
use crate::matter::{Matter, event, invoicing_account, matter, price, receive_slice};
use crate::on_both;
use crate::program::until;
use crate::raw::Raw;

// F42, F54: somebody keeps one payment locked, as a process does that was stopped in the middle. The webhook about it is
// turned away, and those beside it are recorded.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payment_that_is_locked_is_in_the_way_of_one_webhook() {
    if crate::cluster::cluster().is_none() {
        return;
    }
    let hub = Hub::start_with(Engine::Postgres, |c| c.intake_committers = 1).await;
    let matter = matter(&hub).await;
    let (locked, attempt) = matter.payment(&hub, "locked/2026").await;
    let mut calls = vec![(true, matter.delivery(&hub, event(&attempt, "locked", EventKind::Paid, "r")))];
    for n in 0..15 {
        let (_, attempt) = matter.payment(&hub, &format!("{n}/2026")).await;
        calls.push((false, matter.delivery(&hub, event(&attempt, &format!("paid{n}"), EventKind::Paid, "r"))));
    }
    let raw = Raw::of(&hub.app).await;
    raw.run(format!("BEGIN; SELECT 1 FROM payments WHERE id = '{}' FOR UPDATE", locked.id)).await;
    let (intake, _committers) = Intake::<Webhooks>::start(&hub.app);
    let answers =
        join_all(calls.into_iter().map(async |(is_locked, call)| (is_locked, intake.submit(call).await))).await;
    for (is_locked, answer) in answers {
        match is_locked {
            true => assert_eq!(answer, Err(Refused::Failed)),
            false => assert_eq!(answer, Ok(vec![Outcome::Recorded])),
        }
    }
    // Whoever was turned away comes again.
    raw.run("ROLLBACK").await;
    let again = matter.delivery(&hub, event(&attempt, "locked", EventKind::Paid, "r"));
    assert_eq!(intake.submit(again).await, Ok(vec![Outcome::Recorded]));
}

// F42: a process that was stopped in the middle of a transaction does not keep its locks for ever.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_is_idle_for_long_is_ended() {
    if crate::cluster::cluster().is_none() {
        return;
    }
    let hub = Hub::start_with(Engine::Postgres, |c| c.db_answer_s = 1).await;
    let (payment, _) = matter(&hub).await.payment(&hub, "1/2026").await;
    let mut stopped = hub.tx().await;
    assert!(stopped.payment_for_update(&payment.merchant_id, &payment.id).await.unwrap().is_some());
    let raw = Raw::of(&hub.app).await;
    until("the lock is free", async || {
        let sql = format!("SELECT 1 FROM payments WHERE id = '{}' FOR UPDATE NOWAIT", payment.id);
        raw.try_run(&sql).await.is_ok()
    })
    .await;
    assert!(stopped.commit().await.is_err(), "what was idle for so long commits nothing");
}

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
        let outcomes = receive_slice(&hub.app, &slice).await.unwrap();
        costs.push(hub.app.store.statements() - before);
        assert!(outcomes.iter().all(|o| *o == [Outcome::Recorded]));
    }
    // One call reads its key, payment, attempts, captures, case, count, payer and the merchant's accounts and endpoints,
    // then writes once.
    match engine {
        Engine::Postgres => assert_eq!(costs, [2; 3], "one question and one write, without a transaction around them"),
        // On SQLite a statement takes at most 64 rows, and a payment of a case has two messages.
        Engine::Sqlite => assert!(costs[1] == costs[0] + 1 && costs[2] <= costs[0] * 3, "{costs:?}"),
    }
});

// Where no payment has a case or a buyer for long, they are no longer asked about; the first that has them is none the
// worse for it, and costs one question more.
on_both!(a_case_that_was_not_expected_is_asked_for, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    invoicing_account(&hub).await;
    let matter = matter(&hub).await;
    let cost_of = async |attempt: &Attempt, key: &str| {
        let before = hub.app.store.statements();
        assert_eq!(matter.receive(&hub, event(attempt, key, EventKind::Paid, "r")).await, Outcome::Recorded);
        hub.app.store.statements() - before
    };
    for n in 0..80 {
        let (payment, attempt) = matter.lone_payment(&hub).await;
        let cost = cost_of(&attempt, &format!("lone-{n}")).await;
        assert!(engine == Engine::Sqlite || cost == 2, "{n}: {cost}");
        let found = hub.app.store.read().await.unwrap().payment(&payment.merchant_id, &payment.id).await.unwrap();
        assert_eq!(found.unwrap().status, Status::Completed);
    }
    for (number, expected) in [("1/2026", 3), ("2/2026", 2)] {
        let (payment, attempt) = matter.payment(&hub, number).await;
        let cost = cost_of(&attempt, number).await;
        assert!(engine == Engine::Sqlite || cost == expected, "{number}: {cost}");
        let mut tx = hub.app.store.read().await.unwrap();
        let case = tx.case(&payment.merchant_id, payment.case_id.as_deref().unwrap()).await.unwrap().unwrap();
        assert_eq!(case.status, "in_preparation", "the case of {number} moved");
        let invoices = tx.invoices_of(&payment.merchant_id, std::slice::from_ref(&payment.id)).await.unwrap();
        assert_eq!(invoices.len(), 1, "the invoice of {number} is ordered");
    }
});

// Sixty-four payments of cases, two messages each, two hundred endpoints: fifty thousand rows with one slice.
on_both!(thousands_of_tellings_are_written_with_their_slice, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let matter = matter(&hub).await;
    let mut tx = hub.app.store.begin().await.unwrap();
    for n in 0..200 {
        tx.add_endpoint(&endpoint_of(&hub, &format!("ep_{n:03}"))).await.unwrap();
    }
    tx.commit().await.unwrap();
    let mut slice = vec![];
    for n in 0..64 {
        let (_, attempt) = matter.payment(&hub, &format!("{n}/2026")).await;
        slice.push(matter.delivery(&hub, event(&attempt, &format!("{n}"), EventKind::Paid, "r")));
    }
    receive_slice(&hub.app, &slice).await.unwrap();
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

/// Receives an event that reads its payment before `holder` commits, and writes after that.
async fn receive_beside(hub: &Hub, matter: &Matter, holder: Tx, event: Event) {
    let (app, slice) = (hub.app.clone(), vec![matter.delivery(hub, event)]);
    let receiving = tokio::spawn(async move { receive_slice(&app, &slice).await });
    let raw = Raw::of(&hub.app).await;
    if raw.is_postgres() {
        let waiting = "SELECT COUNT(*) FROM pg_locks WHERE NOT granted";
        until("it waits for the row", async || raw.number(waiting).await > 0).await;
    }
    holder.commit().await.unwrap();
    assert_eq!(receiving.await.unwrap().unwrap(), [[Outcome::Recorded]]);
}

async fn show(hub: &Hub, payment: &Payment) -> Payment {
    hub.app.store.read().await.unwrap().payment(&hub.merchant.id, &payment.id).await.unwrap().unwrap()
}

// I5, F57: a slice reads without locks; a payment that was tried again meanwhile is not put into error.
on_both!(an_attempt_that_came_meanwhile_is_seen, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let matter = matter(&hub).await;
    let (payment, first) = matter.payment(&hub, "1/2026").await;
    let mut holder = hub.app.store.begin().await.unwrap();
    holder.payment_for_update(&hub.merchant.id, &payment.id).await.unwrap();
    let (id, reference) = (hub.app.ids.make("att"), hub.app.ids.make("ref"));
    holder.add_attempt(&Attempt { id, reference, no: 2, ..first.clone() }).await.unwrap();
    let failed = EventKind::Failed { reason: FailReason::Declined };
    receive_beside(&hub, &matter, holder, event(&first, "failed", failed, "r")).await;
    assert_eq!(show(&hub, &payment).await.status, Status::Started, "the newer attempt can still be paid");
});

// F01, F57: money is told of while the gateway's answer to the create call is written: lists show both.
on_both!(a_link_that_came_meanwhile_is_listed, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let matter = matter(&hub).await;
    let (payment, attempt) = matter.payment(&hub, "1/2026").await;
    let mut holder = hub.app.store.begin().await.unwrap();
    let link =
        Redirect::Url { url: "https://pay.example/1".into(), gateway_ref: Some("cs_1".into()), expires_at: None };
    let merchant = &hub.merchant.id;
    holder.open_attempt(merchant, &payment.id, &attempt.id, &link, Some("cs_1"), None).await.unwrap();
    receive_beside(&hub, &matter, holder, event(&attempt, "paid", EventKind::Paid, "r")).await;
    check_list(&hub.app, &payment).await;
    let attempts = hub.app.store.read().await.unwrap().attempts(merchant, &payment.id).await.unwrap();
    assert_eq!((attempts[0].gateway_ref.as_deref(), attempts[0].state.as_str()), (Some("cs_1"), "paid"));
});

// I5, F57: an event that would change nothing is decided anew when what it was decided on has changed.
on_both!(what_was_decided_on_is_held, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let matter = matter(&hub).await;
    let (payment, attempt) = matter.payment(&hub, "1/2026").await;
    matter.receive(&hub, event(&attempt, "pending", EventKind::Pending, "first")).await;
    let mut holder = hub.app.store.begin().await.unwrap();
    holder.payment_for_update(&hub.merchant.id, &payment.id).await.unwrap();
    let capture = Capture {
        id: hub.app.ids.make("cap"),
        attempt_id: attempt.id.clone(),
        gateway_ref: "first".into(),
        state: "failed".into(),
        amount: price(),
        surplus: false,
    };
    holder.put_capture(&hub.merchant.id, &payment.id, &capture, hub.app.now()).await.unwrap();
    let failed = EventKind::Failed { reason: FailReason::Declined };
    let failed = Event { gateway_ref: None, ..event(&attempt, "failed", failed, "") };
    receive_beside(&hub, &matter, holder, failed).await;
    assert_eq!(show(&hub, &payment).await.status, Status::Error, "nothing is pending beside it any more");
});

// F08: two payments of one case are paid at the same moment: the second is told to be one too many.
on_both!(two_payments_of_a_case_see_each_other, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    invoicing_account(&hub).await;
    let matter = matter(&hub).await;
    let (first, attempt) = matter.payment(&hub, "1/2026").await;
    let failed = EventKind::Failed { reason: FailReason::Declined };
    matter.receive(&hub, event(&attempt, "failed", failed, "r1")).await;
    let case = first.case_id.clone().unwrap();
    let (second, later) = matter.payment_of(&hub, &case).await;
    let mut holder = hub.app.store.begin().await.unwrap();
    let locked = holder.payment_for_update(&hub.merchant.id, &first.id).await.unwrap().unwrap();
    assert_eq!((locked.status, locked.reason), (Status::Error, Some(Reason::Declined)));
    holder.case_for_update(&hub.merchant.id, &case).await.unwrap();
    let is_moved = holder.move_payment(&locked, Status::Completed, None, false, hub.app.now()).await.unwrap();
    assert!(is_moved);
    receive_beside(&hub, &matter, holder, event(&later, "paid", EventKind::Paid, "r2")).await;
    let second = show(&hub, &second).await;
    assert_eq!((second.status, second.double_payment), (Status::Completed, true));
    let raw = Raw::of(&hub.app).await;
    assert_eq!(
        raw.rows("SELECT COUNT(*) FROM invoices").await,
        [["0"]],
        "the holder ordered none, the second must not"
    );
});

// A slice that was refused because somebody was faster leaves nothing behind (I2).
on_both!(nothing_of_a_refused_slice_stays, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let matter = matter(&hub).await;
    let (mut slice, mut payments) = (vec![], vec![]);
    for n in 0..3 {
        let (payment, attempt) = matter.payment(&hub, &format!("{n}/2026")).await;
        slice.push(matter.delivery(&hub, event(&attempt, &format!("{n}"), EventKind::Paid, "r")));
        payments.push(payment);
    }
    let raw = Raw::of(&hub.app).await;
    // The statement that moves the payments finds one of them gone.
    raw.run(match engine {
        Engine::Sqlite => {
            "CREATE TRIGGER gone BEFORE UPDATE ON payments WHEN NEW.id = (SELECT MAX(id) FROM payments) BEGIN SELECT RAISE(IGNORE); END"
        }
        Engine::Postgres => {
            "CREATE FUNCTION gone() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
             CREATE TRIGGER gone BEFORE UPDATE ON payments FOR EACH ROW EXECUTE FUNCTION gone()"
        }
    })
    .await;
    assert!(receive_slice(&hub.app, &slice).await.is_err());
    for table in ["deliveries", "events", "captures", "transitions WHERE to_status = 'completed'"] {
        assert_eq!(raw.number(&format!("SELECT COUNT(*) FROM {table}")).await, 0, "{table}");
    }
    assert_eq!(show(&hub, &payments[0]).await.status, Status::Started);
});

// I5, F57: two processes write about one payment at the same instant, both without locks: one of them finds the other's
// change at the writing, and does all again.
on_both!(two_writes_that_meet_count_each_capture_once, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    invoicing_account(&hub).await;
    let matter = matter(&hub).await;
    let raw = Raw::of(&hub.app).await;
    let (payment, attempt) = matter.payment(&hub, "1/2026").await;
    let mut holder = hub.app.store.begin().await.unwrap();
    holder.payment_for_update(&hub.merchant.id, &payment.id).await.unwrap();
    let receiving: Vec<_> = ["r1", "r2"]
        .map(|capture| {
            let slice = vec![matter.delivery(&hub, event(&attempt, capture, EventKind::Paid, capture))];
            let app = hub.app.clone();
            tokio::spawn(async move { receive_slice(&app, &slice).await })
        })
        .into();
    if raw.is_postgres() {
        // Of those that wait for one row, all but the first stand in a queue before it.
        let waiting = "SELECT COUNT(DISTINCT pid) FROM pg_locks WHERE NOT granted";
        until("both wait for the row", async || raw.number(waiting).await == 2).await;
    }
    holder.commit().await.unwrap();
    for received in receiving {
        assert_eq!(received.await.unwrap().unwrap(), [[Outcome::Recorded]]);
    }
    let shown = show(&hub, &payment).await;
    assert_eq!((shown.status, shown.double_payment), (Status::Completed, true));
    for (what, count) in [
        ("captures WHERE state = 'paid'", 2),
        ("captures WHERE surplus = 1", 1),
        ("transitions WHERE to_status = 'completed'", 1),
        ("events", 2),
        ("deliveries", 2),
        ("invoices", 1),
        ("messages WHERE type = 'payment.completed'", 1),
    ] {
        assert_eq!(raw.number(&format!("SELECT COUNT(*) FROM {what}")).await, count, "{what}");
    }
});

/// How many wait for a lock in this database; other tests have theirs in the same cluster.
const WAITING_HERE: &str = "SELECT COUNT(*) FROM pg_locks w WHERE NOT w.granted AND EXISTS (SELECT 1 FROM pg_locks h
    WHERE h.pid = w.pid AND h.database = (SELECT oid FROM pg_database WHERE datname = current_database()))";

/// A second process on the hub's database, by the database's clock, which the test may bend.
async fn by_the_databases_clock(hub: &Hub) -> SharedApp {
    make_bendable(&hub.app.config.database_url.0).await;
    Arc::new(App::open(hub.app.config.clone(), Clock::System).await.unwrap())
}

/// Time passes for the database and for whoever goes by its clock.
async fn pass(app: &App, time: &str) {
    bend(&app.config.database_url.0, time).await;
    app.follow_clock().await;
}

/// Reads the feed on from `after`, as a client app does; answers what it is about.
async fn read_on(hub: &Hub, app: &App, after: &mut Option<String>) -> Vec<(String, String)> {
    let mut tx = app.store.read().await.unwrap();
    let settled = tx.feed_is_settled_before(app.now()).await.unwrap();
    let page = tx.feed(&hub.merchant.id, after.as_deref(), settled, 1000).await.unwrap();
    *after = page.last().map(|m| m.id.clone()).or(after.take());
    page.into_iter().map(|m| (m.kind, m.subject)).collect()
}

async fn all_messages(raw: &Raw) -> BTreeSet<(String, String)> {
    let rows = raw.rows("SELECT type, subject FROM messages").await;
    rows.into_iter().map(|row| (row[0].clone(), row[1].clone())).collect()
}

// I9: a slice waits for a row that somebody has locked; what others commit meanwhile is not shown before what the slice is
// going to tell, or its reader would be past it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_feed_waits_for_whoever_began_before() {
    if crate::cluster::cluster().is_none() {
        return;
    }
    let hub = Hub::start(Engine::Postgres).await;
    let matter = matter(&hub).await;
    let app = by_the_databases_clock(&hub).await;
    let (locked, attempt) = matter.payment_at(&app, &hub.merchant, "1/2026").await;
    let (_, other) = matter.payment_at(&app, &hub.merchant, "2/2026").await;
    let raw = Raw::of(&hub.app).await;
    raw.run(format!("BEGIN; SELECT 1 FROM payments WHERE id = '{}' FOR UPDATE", locked.id)).await;
    let slice = vec![matter.delivery(&hub, event(&attempt, "late", EventKind::Paid, "r"))];
    let late = Arc::clone(&app);
    let receiving = tokio::spawn(async move { receive_slice(&late, &slice).await });
    until("it waits for the row", async || raw.number(WAITING_HERE).await > 0).await;
    let early = [matter.delivery(&hub, event(&other, "early", EventKind::Paid, "r"))];
    assert_eq!(receive_slice(&app, &early).await.unwrap(), [[Outcome::Recorded]]);
    pass(&app, "5 seconds").await;
    let mut after = None;
    let mut read = read_on(&hub, &app, &mut after).await;
    raw.run("ROLLBACK").await;
    assert_eq!(receiving.await.unwrap().unwrap(), [[Outcome::Recorded]]);
    pass(&app, "20 seconds").await;
    read.extend(read_on(&hub, &app, &mut after).await);
    assert!(read.contains(&("payment.completed".to_owned(), locked.id.clone())), "skipped: {read:?}");
    let all = all_messages(&raw).await;
    assert_eq!((read.len(), read.into_iter().collect::<BTreeSet<_>>()), (all.len(), all), "each once");
}

// F42, I9: a process is stopped between its question and its write, where no transaction tells the database of it. Readers
// of the feed are past its ids when it goes on: it does all again, with new ones.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_that_comes_too_late_for_the_feed_is_done_again() {
    if crate::cluster::cluster().is_none() {
        return;
    }
    let hub = Hub::start_with(Engine::Postgres, |c| c.db_pooler = false).await;
    let matter = matter(&hub).await;
    let app = by_the_databases_clock(&hub).await;
    let (payment, attempt) = matter.payment_at(&app, &hub.merchant, "1/2026").await;
    let slice = vec![matter.delivery(&hub, event(&attempt, "late", EventKind::Paid, "r"))];
    let mut stopped = app.store.begin_optimistic_in(Pool::Shared).await.unwrap();
    Webhooks::act(&app, &mut stopped, &slice).await.unwrap();
    pass(&app, "5 seconds").await;
    let mut after = None;
    let mut read = read_on(&hub, &app, &mut after).await;
    assert!(matches!(stopped.commit().await, Err(StoreError::Conflict)), "the feed was read beyond its messages");
    assert_eq!(show(&hub, &payment).await.status, Status::Started);
    assert_eq!(receive_slice(&app, &slice).await.unwrap(), [[Outcome::Recorded]]);
    pass(&app, "20 seconds").await;
    read.extend(read_on(&hub, &app, &mut after).await);
    let raw = Raw::of(&hub.app).await;
    assert_eq!(read.into_iter().collect::<BTreeSet<_>>(), all_messages(&raw).await);
}

// F59: the database's clock leaps; until that is heard, and when it is not followed, webhooks are recorded all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leap_of_the_databases_clock_turns_no_webhook_away() {
    if crate::cluster::cluster().is_none() {
        return;
    }
    let hub = Hub::start_with(Engine::Postgres, |c| c.db_pooler = false).await;
    let matter = matter(&hub).await;
    let app = by_the_databases_clock(&hub).await;
    let record = async |key: &str| {
        let (_, attempt) = matter.payment_at(&app, &hub.merchant, key).await;
        let slice = [matter.delivery(&hub, event(&attempt, key, EventKind::Paid, "r"))];
        let before = app.store.statements();
        assert_eq!(receive_slice(&app, &slice).await.unwrap(), [[Outcome::Recorded]], "{key}");
        app.store.statements() - before
    };
    assert_eq!(record("1/2026").await, 2);
    bend(&app.config.database_url.0, "40 days").await;
    assert!(record("2/2026").await > 2, "taken for late, and done again with locks");
    app.follow_clock().await;
    assert_eq!(record("3/2026").await, 2, "the clocks are known to differ");
}

// F50, F54: one statement that waits for too long says nothing about connections that answer, least of all those of the
// committers; and the server does not go on with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slow_statement_costs_nobody_else_a_connection() {
    if crate::cluster::cluster().is_none() {
        return;
    }
    let hub = Hub::start_with(Engine::Postgres, |c| {
        (c.db_answer_s, c.intake_committers, c.db_pooler) = (1, 1, false);
    })
    .await;
    let matter = matter(&hub).await;
    let (intake, _committers) = Intake::<Webhooks>::start(&hub.app);
    let record = async |key: &str| {
        let (_, attempt) = matter.payment(&hub, key).await;
        intake.submit(matter.delivery(&hub, event(&attempt, key, EventKind::Paid, "r"))).await
    };
    assert_eq!(record("1/2026").await, Ok(vec![Outcome::Recorded]));
    let raw = Raw::of(&hub.app).await;
    let of_the_hub =
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'grosz'";
    let before = raw.column(of_the_hub).await;
    raw.run("BEGIN; LOCK TABLE experts IN ACCESS EXCLUSIVE MODE").await;
    hub.get("/v1/experts").await.expect(503);
    until("the server gives it up too", async || raw.number(WAITING_HERE).await == 0).await;
    raw.run("ROLLBACK").await;
    assert_eq!(record("2/2026").await, Ok(vec![Outcome::Recorded]));
    hub.get("/v1/experts").await.expect(200);
    let after = raw.column(of_the_hub).await;
    // That of the statement itself may be closed.
    assert!(before.iter().filter(|pid| !after.contains(pid)).count() <= 1, "{before:?} became {after:?}");
}

// A plan that was made while the tables were empty would read them from one end to the other for as long as the
// connection lives.
#[tokio::test(flavor = "multi_thread")]
async fn plans_are_made_anew_as_the_tables_grow() {
    if crate::cluster::cluster().is_none() {
        return;
    }
    let hub = Hub::start(Engine::Postgres).await;
    let matter = matter(&hub).await;
    let raw = Raw::of(&hub.app).await;
    for table in ["events", "captures"] {
        // Nobody but the hub does anything about it.
        raw.run(format!("ALTER TABLE {table} SET (autovacuum_enabled = off)")).await;
    }
    raw.run("VACUUM ANALYZE").await;
    let pay = async |n: i64| {
        let (_, attempt) = matter.lone_payment(&hub).await;
        let paid = event(&attempt, &format!("paid-{n}"), EventKind::Paid, "r");
        assert_eq!(matter.receive(&hub, paid).await, Outcome::Recorded);
    };
    for n in 0..10 {
        pay(n).await;
    }
    let rows = 20_000;
    for (table, varied) in
        [("events", ["id", "event_key"].as_slice()), ("captures", &["id", "payment_id", "attempt_id"])]
    {
        let columns =
            format!("SELECT attname::text FROM pg_attribute WHERE attnum > 0 AND attrelid = '{table}'::regclass");
        let columns = raw.column(&columns).await;
        let value = |c: &String| if varied.contains(&c.as_str()) { format!("{c} || n") } else { c.clone() };
        let values: Vec<String> = columns.iter().map(value).collect();
        raw.run(format!(
            "INSERT INTO {table} ({}) SELECT {} FROM (SELECT * FROM {table} LIMIT 1) AS t, generate_series(1, {rows}) AS n",
            columns.join(", "),
            values.join(", ")
        ))
        .await;
    }
    let read = "SELECT CAST(SUM(seq_tup_read + COALESCE(idx_tup_fetch, 0)) AS BIGINT) FROM pg_stat_user_tables
                WHERE relname IN ('events', 'captures')";
    let inserted = "SELECT n_tup_ins FROM pg_stat_user_tables WHERE relname = 'events'";
    // A connection tells what it read a second late, with what it inserted, and when it does something.
    let mut n = 10;
    until("what 150 webhooks read is told", async || {
        pay(n).await;
        n += 1;
        n > 150 && raw.number(inserted).await >= rows + 150
    })
    .await;
    let at_least = raw.number(read).await;
    assert!(at_least > 0, "nothing was told");
    assert!(at_least < rows * n / 4, "{n} webhooks read {at_least} rows of {rows}");
}

// A row that moves to another page is entered into every index of its table again (ADR 0036).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_changed_together_stays_in_its_pages() {
    if crate::cluster::cluster().is_none() {
        return;
    }
    let hub = Hub::start(Engine::Postgres).await;
    let (matter, raw) = (matter(&hub).await, Raw::of(&hub.app).await);
    let mut tx = hub.app.store.begin().await.unwrap();
    tx.add_endpoint(&endpoint_of(&hub, "ep_1")).await.unwrap();
    tx.commit().await.unwrap();
    let mut slice = vec![];
    for n in 0..64 {
        let (_, attempt) = matter.lone_payment(&hub).await;
        slice.push(matter.delivery(&hub, event(&attempt, &n.to_string(), EventKind::Paid, "r")));
    }
    let pages_of =
        async |table: &str| raw.rows(&format!("SELECT id, (ctid::text::point)[0] FROM {table} ORDER BY id")).await;
    // As if all had been written at once: no room left behind by earlier versions.
    raw.run("VACUUM FULL payments").await;
    let before = pages_of("payments").await;
    receive_slice(&hub.app, &slice).await.unwrap();
    assert_eq!(raw.number("SELECT COUNT(*) FROM payments WHERE status = 'completed'").await, 64);
    assert_eq!(pages_of("payments").await, before);

    raw.run("VACUUM FULL tellings").await;
    let before = pages_of("tellings").await;
    assert_eq!(before.len(), 64);
    let mut tx = hub.app.store.begin().await.unwrap();
    let page = Page { before: None, limit: 100 };
    let mut told = tx.tellings(&hub.merchant.id, "ep_1", &page).await.unwrap();
    for telling in &mut told {
        (telling.state, telling.attempts, telling.last_status) = ("delivered".into(), 1, Some(200));
    }
    let told: Vec<_> = told.iter().map(|t| (t, Some(hub.app.now()))).collect();
    tx.update_tellings(&told).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(raw.number("SELECT COUNT(*) FROM tellings WHERE state = 'delivered'").await, 64);
    assert_eq!(pages_of("tellings").await, before);
}

/// An endpoint that wants to hear of what was completed.
fn endpoint_of(hub: &Hub, id: &str) -> Endpoint {
    Endpoint {
        merchant_id: hub.merchant.id.clone(),
        id: id.into(),
        live: None,
        url: "https://client.example/hook".into(),
        types: vec!["payment.completed".into(), "case.status_changed".into()],
        sealed: String::new(),
        state: "enabled".into(),
        state_reason: None,
        first_failure_at: None,
        failed_messages: 0,
        created_at: 0,
    }
}
