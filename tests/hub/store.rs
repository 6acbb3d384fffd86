//! The store's conformance suite: each case runs on SQLite and on PostgreSQL.

use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use grosz::domain::payment::{Reason, Status};
use grosz::store::{
    Attempt, Capture, Job, JobEnd, JobKind, Lane, Page, Payer, Payment, PaymentFilter, Pool, StoreError, Transition, Tx,
};
use grosz_providers::{Currency, EventKind, Money};

use crate::harness::{Engine, Hub};
use crate::matter::{event, matter};
use crate::on_both;
use crate::program::{signal, until};
use crate::raw::Raw;

fn payment(hub: &Hub, case: Option<&str>) -> Payment {
    Payment {
        merchant_id: hub.merchant.id.clone(),
        id: hub.app.ids.make("pay"),
        case_id: case.map(str::to_owned),
        quote_version: 1,
        payer_id: "pyr_1".into(),
        buyer: None,
        profile_id: None,
        profile_version: 0,
        provider_account_id: "acc_1".into(),
        amount: Money::new(12_300, Currency::PLN),
        lines: None,
        description: "Zażółć 🦊 \u{200f}".into(),
        return_url: String::new(),
        token: hub.app.ids.token(),
        live: false,
        status: Status::Started,
        reason: None,
        late_success: false,
        double_payment: false,
        mismatch: false,
        amount_refunded: 0,
        version: 1,
        created_at: hub.app.now(),
        updated_at: hub.app.now(),
        completed_at: None,
    }
}

fn attempt(hub: &Hub, payment: &Payment, no: i64, reference: &str) -> Attempt {
    Attempt {
        merchant_id: payment.merchant_id.clone(),
        id: hub.app.ids.make("att"),
        payment_id: payment.id.clone(),
        no,
        provider_account_id: "acc_1".into(),
        reference: reference.into(),
        gateway_ref: None,
        state: "created".into(),
        redirect: None,
        amount: payment.amount,
        start_lease: None,
        expires_at: hub.app.now() + 1_000_000,
        created_at: hub.app.now(),
    }
}

async fn add(hub: &Hub, payment: &Payment) -> Result<(), StoreError> {
    let mut tx = hub.tx().await;
    tx.add_payment(payment).await?;
    tx.commit().await
}

on_both!(what_is_written_is_read_back, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let p = payment(&hub, None);
    add(&hub, &p).await.unwrap();
    let mut tx = hub.app.store.read().await.unwrap();
    let read = tx.payment(&p.merchant_id, &p.id).await.unwrap().unwrap();
    assert_eq!((read.amount, read.description.as_str(), read.status), (p.amount, p.description.as_str(), p.status));
    assert_eq!(tx.payment_by_token(&p.token).await.unwrap().unwrap().id, p.id);
    assert!(tx.payment("mer_other", &p.id).await.unwrap().is_none(), "F66: another merchant finds nothing");
});

on_both!(a_dropped_transaction_leaves_nothing, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let p = payment(&hub, None);
    let mut tx = hub.tx().await;
    tx.add_payment(&p).await.unwrap();
    drop(tx);
    let mut tx = hub.app.store.read().await.unwrap();
    assert!(tx.payment(&p.merchant_id, &p.id).await.unwrap().is_none());
});

// F54: connections whose users left in the middle of a statement, of a beginning or of a transaction come back clean, and
// none is lost: all that there are can be held afterwards.
on_both!(connections_that_are_left_halfway_come_back, async |engine: Engine| {
    let hub = Hub::start_with(engine, |c| (c.db_connections, c.db_wait_s) = (2, 5)).await;
    let p = payment(&hub, None);
    for polls in 0..40 {
        let work = async {
            let mut reader = hub.app.store.read().await.unwrap();
            reader.payment(&p.merchant_id, &p.id).await.unwrap();
            let mut tx = hub.tx().await;
            tx.add_payment(&p).await.unwrap();
            assert!(tx.payment(&p.merchant_id, &p.id).await.unwrap().is_some());
            // Nobody commits.
        };
        let mut work = std::pin::pin!(work);
        for _ in 0..polls {
            let is_done = std::future::poll_fn(|cx| Poll::Ready(work.as_mut().poll(cx).is_ready())).await;
            if is_done {
                break;
            }
            tokio::task::yield_now().await;
        }
    }
    let mut held = vec![hub.app.store.read().await.unwrap()];
    held.push(if engine == Engine::Postgres { hub.app.store.read().await.unwrap() } else { hub.tx().await });
    for mut tx in held {
        assert!(tx.payment(&p.merchant_id, &p.id).await.unwrap().is_none(), "nothing was committed, nothing is seen");
        tx.rollback().await.unwrap();
    }
    add(&hub, &p).await.unwrap();
});

// F54: while another process writes to SQLite's file a transaction waits, its thread does not; who waits too long is
// told to come back later, not to try again at once.
#[tokio::test]
async fn another_process_that_writes_is_waited_for() {
    let hub = Hub::start_with(Engine::Sqlite, |c| c.db_wait_s = 1).await;
    let p = payment(&hub, None);
    let other = rusqlite::Connection::open(hub.app.config.database_url.0.trim_start_matches("sqlite:")).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let waiting = add(&hub, &p);
    let leaving = async {
        // Both run on this one thread.
        tokio::task::yield_now().await;
        other.execute_batch("COMMIT").unwrap();
    };
    let (added, ()) = tokio::join!(waiting, leaving);
    added.unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let refused = hub.app.store.begin().await.err().unwrap();
    assert!(matches!(refused, StoreError::Unavailable(_)) && refused.is_passing());
    other.execute_batch("COMMIT").unwrap();
    add(&hub, &payment(&hub, None)).await.unwrap();
}

// F54: a committer has a connection of its own, also when a crowd took all others before it came, and keeps it: the next
// slice meets the same server process.
#[tokio::test(flavor = "multi_thread")]
async fn a_committer_keeps_its_connection() {
    if crate::cluster::cluster().is_none() {
        return;
    }
    let hub = Hub::start_with(Engine::Postgres, |c| (c.db_connections, c.db_wait_s) = (2, 1)).await;
    let store = &hub.app.store;
    let raw = Raw::of(&hub.app).await;
    let open = "SELECT pid::text FROM pg_stat_activity
                WHERE application_name = 'grosz' AND datname = current_database() ORDER BY 1";
    let look = async |mut tx: Tx| {
        assert!(tx.payment("mer_1", "pay_1").await.unwrap().is_none());
        tx
    };
    let crowd = async || {
        let shared = [look(store.read().await.unwrap()).await, look(store.read().await.unwrap()).await];
        let reserved = store.read_reserved();
        [shared, [look(reserved.await.unwrap()).await, look(store.read_reserved().await.unwrap()).await]]
    };
    let held = crowd().await;
    assert!(store.read().await.is_err(), "nothing is left for anybody else");
    let before = raw.column(open).await;
    look(store.begin_in(Pool::Committer(0)).await.unwrap()).await.commit().await.unwrap();
    look(store.begin_in(Pool::Committer(1)).await.unwrap()).await.commit().await.unwrap();
    let with_committers = raw.column(open).await;
    assert_eq!(with_committers.len(), before.len() + 2, "each has its own");
    drop(held);
    for _ in 0..3 {
        drop(crowd().await);
        look(store.begin_in(Pool::Committer(0)).await.unwrap()).await.commit().await.unwrap();
        look(store.begin_in(Pool::Committer(1)).await.unwrap()).await.commit().await.unwrap();
    }
    assert_eq!(raw.column(open).await, with_committers, "nobody opened another");
}

// F50: a host that vanished without a word leaves connections that never answer. They keep nobody out for longer than an
// answer may take.
#[tokio::test(flavor = "multi_thread")]
async fn connections_that_fell_silent_keep_nobody_out() {
    if crate::cluster::cluster().is_none() {
        return;
    }
    let hub = Hub::start_with(Engine::Postgres, |c| (c.db_connections, c.db_wait_s, c.db_answer_s) = (2, 1, 1)).await;
    let both = [hub.app.store.read().await.unwrap(), hub.app.store.read().await.unwrap()];
    drop(both);
    let raw = Raw::of(&hub.app).await;
    let ours =
        "SELECT pid::text FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'grosz'";
    let silent: Vec<u32> = raw.rows(ours).await.iter().map(|row| row[0].parse().unwrap()).collect();
    assert!(silent.len() >= 2, "{silent:?}");
    // Until they are no longer believed without a question.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    let _silent = Silenced::all(silent);
    until("others take their place", async || {
        let Ok(mut tx) = hub.app.store.read().await else { return false };
        tx.payment("mer_1", "pay_1").await.is_ok()
    })
    .await;
}

/// Processes that do nothing until this is dropped.
struct Silenced(Vec<u32>);

impl Silenced {
    fn all(processes: Vec<u32>) -> Silenced {
        processes.iter().for_each(|pid| signal(*pid, "STOP"));
        Silenced(processes)
    }
}

impl Drop for Silenced {
    fn drop(&mut self) {
        self.0.iter().for_each(|pid| signal(*pid, "CONT"));
    }
}

// A statement fails, its error is overlooked: PostgreSQL takes the transaction back and calls that a commit.
on_both!(what_failed_is_not_called_committed, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let (p, second) = (payment(&hub, None), payment(&hub, None));
    add(&hub, &p).await.unwrap();
    let mut tx = hub.tx().await;
    tx.add_payment(&second).await.unwrap();
    assert!(matches!(tx.add_payment(&p).await, Err(StoreError::Taken)));
    assert!(matches!(tx.commit().await, Err(StoreError::Conflict)));
    let mut tx = hub.app.store.read().await.unwrap();
    assert!(tx.payment(&second.merchant_id, &second.id).await.unwrap().is_none());
});

// What is committed reaches the database's file beside the commits, and the log does not grow for ever while one commit
// follows the other without a gap.
#[tokio::test(flavor = "multi_thread")]
async fn the_log_of_sqlite_is_copied_beside_the_commits() {
    let hub = Hub::start(Engine::Sqlite).await;
    let matter = matter(&hub).await;
    let (_, attempt) = matter.payment(&hub, "1/2026").await;
    let file = hub.app.config.database_url.0.strip_prefix("sqlite:").unwrap().to_owned();
    let length = |name: &str| std::fs::metadata(name).map_or(0, |m| m.len());
    let mut longest = 0;
    for n in 0..160 {
        let mut inbound = matter.delivery(&hub, event(&attempt, &n.to_string(), EventKind::Note, "r"));
        Arc::make_mut(&mut inbound.delivery).body = vec![b'x'; 1 << 20];
        let mut tx = hub.tx().await;
        tx.add_delivery(&inbound.delivery).await.unwrap();
        tx.commit().await.unwrap();
        longest = length(&format!("{file}-wal")).max(longest);
    }
    assert!(longest < 140 << 20, "{longest}");
    until("all is in the file", async || length(&file) > 160 << 20).await;
}

// R-5W-16
on_both!(a_case_has_one_unfinished_payment, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let (first, second) = (payment(&hub, Some("case_1")), payment(&hub, Some("case_1")));
    add(&hub, &first).await.unwrap();
    assert!(matches!(add(&hub, &second).await, Err(StoreError::Taken)));
    let mut tx = hub.tx().await;
    assert!(tx.move_payment(&first, Status::Error, Some(Reason::Declined), false, 7).await.unwrap());
    tx.commit().await.unwrap();
    add(&hub, &second).await.unwrap();
});

on_both!(a_status_moves_by_compare_and_set, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let p = payment(&hub, None);
    add(&hub, &p).await.unwrap();
    let mut tx = hub.tx().await;
    assert!(tx.move_payment(&p, Status::Completed, None, false, 42).await.unwrap());
    assert!(!tx.move_payment(&p, Status::Error, Some(Reason::Declined), false, 43).await.unwrap());
    let t = Transition {
        id: hub.app.ids.make("trn"),
        from: Some("started".into()),
        to: "completed".into(),
        reason: None,
        cause: "webhook".into(),
        cause_id: None,
        at: 42,
    };
    tx.add_transition(&p.merchant_id, &p.id, t).await.unwrap();
    tx.commit().await.unwrap();
    let mut tx = hub.app.store.read().await.unwrap();
    let read = tx.payment(&p.merchant_id, &p.id).await.unwrap().unwrap();
    assert_eq!((read.status, read.completed_at, read.version), (Status::Completed, Some(42), 2));
    assert_eq!(tx.transitions(&p.merchant_id, &p.id).await.unwrap().len(), 1);
});

// F09
on_both!(an_attempt_is_found_only_at_its_account, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let p = payment(&hub, None);
    let a = attempt(&hub, &p, 1, "REF1");
    let mut tx = hub.tx().await;
    tx.add_payment(&p).await.unwrap();
    tx.add_attempt(&a).await.unwrap();
    let m = &p.merchant_id;
    assert!(tx.attempt_by_reference(m, "acc_1", Some("REF1"), None).await.unwrap().is_some());
    assert!(tx.attempt_by_reference(m, "acc_2", Some("REF1"), None).await.unwrap().is_none());
    assert!(tx.attempt_by_reference("mer_x", "acc_1", Some("REF1"), None).await.unwrap().is_none());
    let capture = Capture {
        id: hub.app.ids.make("cap"),
        attempt_id: a.id.clone(),
        gateway_ref: "pi_1".into(),
        state: "paid".into(),
        amount: p.amount,
        surplus: false,
    };
    tx.put_capture(m, &p.id, &capture, 1).await.unwrap();
    let failed = Capture { state: "failed".into(), id: hub.app.ids.make("cap"), ..capture.clone() };
    tx.put_capture(m, &p.id, &failed, 2).await.unwrap();
    let found = tx.attempt_by_reference(m, "acc_1", None, Some("pi_1")).await.unwrap().unwrap();
    assert_eq!(found.id, a.id);
    let captures = tx.captures(m, &p.id).await.unwrap();
    assert_eq!((captures.len(), captures[0].state.as_str()), (1, "paid"), "paid stays paid");
});

// R-5W-16: many clicks, one caller asks the gateway.
on_both!(one_caller_starts_an_attempt, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let p = payment(&hub, None);
    let a = attempt(&hub, &p, 1, "REF1");
    let mut tx = hub.tx().await;
    tx.add_payment(&p).await.unwrap();
    tx.add_attempt(&a).await.unwrap();
    assert!(tx.claim_start(&a.merchant_id, &a.id, 10, 20).await.unwrap());
    assert!(!tx.claim_start(&a.merchant_id, &a.id, 15, 25).await.unwrap());
    assert!(tx.claim_start(&a.merchant_id, &a.id, 21, 31).await.unwrap(), "a claim that lapsed is free");
});

fn job_of(claimed: &[Job]) -> &Job {
    assert_eq!(claimed.len(), 1);
    &claimed[0]
}

// F24, F42, F55
on_both!(a_job_has_one_owner_at_a_time, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let m = &hub.merchant.id;
    let mut tx = hub.tx().await;
    let live =
        async |tx: &mut Tx| tx.jobs_about(m, "att_1").await.unwrap().iter().filter(|j| j.state == "ready").count();
    tx.enqueue(m, "job_1", JobKind::PollStatus, "att_1", 100, 1).await.unwrap();
    tx.enqueue(m, "job_2", JobKind::PollStatus, "att_1", 100, 1).await.unwrap();
    assert_eq!(live(&mut tx).await, 1, "one live job a subject");
    assert!(tx.claim_jobs(Lane::Rest, 99, 500, 10).await.unwrap().is_empty(), "not due");
    assert!(tx.claim_jobs(Lane::Telling, 100, 500, 10).await.unwrap().is_empty(), "the other lane");
    let first = job_of(&tx.claim_jobs(Lane::Rest, 100, 500, 10).await.unwrap()).clone();
    assert_eq!((first.due_at, first.run_at), (Some(100), 500));
    assert!(tx.claim_jobs(Lane::Rest, 499, 900, 10).await.unwrap().is_empty(), "owned");
    let second = job_of(&tx.claim_jobs(Lane::Rest, 501, 900, 10).await.unwrap()).clone();
    assert_eq!((second.attempts, second.crashes), (2, 1));
    assert!(!tx.end_job(&first, JobEnd::Done, 502).await.unwrap(), "the first owner woke up too late");
    assert!(!tx.end_job(&first, JobEnd::Again(1, None), 502).await.unwrap());
    assert!(!tx.end_job(&first, JobEnd::Returned(1), 502).await.unwrap());
    assert!(!tx.end_job(&first, JobEnd::SetAside("no"), 502).await.unwrap());
    assert!(!tx.extend_lease(&first, 9999).await.unwrap());
    assert!(!tx.still_owns(&first).await.unwrap());
    assert!(tx.still_owns(&second).await.unwrap());
    assert!(tx.end_job(&second, JobEnd::Done, 502).await.unwrap());
    assert!(tx.jobs_about(m, "att_1").await.unwrap().is_empty(), "what is done is gone");
    tx.enqueue(m, "job_3", JobKind::PollStatus, "att_1", 100, 1).await.unwrap();
    assert_eq!(live(&mut tx).await, 1, "done jobs are out of the way");
    let third = job_of(&tx.claim_jobs(Lane::Rest, 600, 900, 10).await.unwrap()).clone();
    assert_eq!(third.fence, first.fence, "a new job about the same subject begins its own count");
    assert!(!tx.end_job(&first, JobEnd::Done, 601).await.unwrap(), "and is not taken for the old one");
});

// F41
on_both!(a_job_that_kills_its_workers_is_set_aside, async |engine: Engine| {
    let hub = Hub::start_with(engine, |c| c.job_max_crashes = 3).await;
    let m = &hub.merchant.id;
    let mut tx = hub.tx().await;
    let now = hub.app.now();
    tx.enqueue(m, "job_1", JobKind::FetchPdf, "ivc_1", now, now).await.unwrap();
    tx.enqueue(m, "job_2", JobKind::FetchPdf, "ivc_2", now, now).await.unwrap();
    for crash in 0..3 {
        let claimed = tx.claim_jobs(Lane::Rest, now + crash * 10, now + crash * 10 + 5, 10).await.unwrap();
        let poison = claimed.iter().find(|j| j.subject == "ivc_1").unwrap();
        assert_eq!(poison.crashes, crash);
        if let Some(other) = claimed.iter().find(|j| j.subject == "ivc_2") {
            assert!(tx.end_job(other, JobEnd::Done, now).await.unwrap());
        }
    }
    tx.commit().await.unwrap();
    hub.advance(1);
    assert_eq!(hub.run_jobs().await, 1, "the notice about it");
    let mut tx = hub.app.store.read().await.unwrap();
    let set_aside = tx.jobs_about(m, "ivc_1").await.unwrap();
    assert_eq!((set_aside[0].state.as_str(), set_aside[0].crashes), ("failed", 3));
    let listed = hub.get("/v1/jobs?state=failed").await.expect(200).json();
    assert_eq!(listed["data"][0]["id"], "job_1", "{listed}");
    let alerts = hub.get("/v1/alerts").await.expect(200).json();
    assert_eq!(alerts["data"][0]["code"], "job.poison", "{alerts}");
    drop(tx);
    let mut tx = hub.tx().await;
    tx.enqueue(m, "job_3", JobKind::FetchPdf, "ivc_1", 0, 0).await.unwrap();
    assert_eq!(tx.jobs_about(m, "ivc_1").await.unwrap().len(), 2, "what was set aside is not in the way of new work");
});

// F56
on_both!(an_idempotency_key_is_claimed_once, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let m = &hub.merchant.id;
    let mut tx = hub.tx().await;
    assert!(tx.claim_idempotency_key(m, "k", "f", 1).await.unwrap());
    assert!(!tx.claim_idempotency_key(m, "k", "g", 2).await.unwrap());
    assert!(tx.claim_idempotency_key("mer_other", "k", "f", 1).await.unwrap(), "keys are the merchant's own");
    tx.store_answer(m, "k", 201, "{}").await.unwrap();
    tx.commit().await.unwrap();
    let stored = hub.app.store.read().await.unwrap().stored_answer(m, "k").await.unwrap().unwrap();
    assert_eq!((stored.fingerprint.as_str(), stored.status, stored.body.as_str()), ("f", 201, "{}"));
});

on_both!(lists_are_paged_by_key, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    for n in 0..25 {
        let p = Payment { payer_id: format!("pyr_{}", n % 2), ..payment(&hub, None) };
        add(&hub, &p).await.unwrap();
    }
    let mut tx = hub.app.store.read().await.unwrap();
    let filter = PaymentFilter { payer: Some("pyr_1".into()), ..PaymentFilter::default() };
    let mut page = Page { before: None, limit: 5 };
    let mut seen = vec![];
    loop {
        let rows = tx.payments(&hub.merchant.id, &filter, &page).await.unwrap();
        let Some(last) = rows.last() else { break };
        page.before = Some(last.id.clone());
        seen.extend(rows.iter().map(|p| p.id.clone()));
    }
    assert_eq!(seen.len(), 12);
    assert!(seen.windows(2).all(|w| w[0] > w[1]), "newest first, none twice");
    for filter in [
        PaymentFilter { case: Some("case_x".into()), ..PaymentFilter::default() },
        PaymentFilter { status: Some("completed".into()), ..PaymentFilter::default() },
        PaymentFilter { from: Some(hub.app.now() + 1), ..PaymentFilter::default() },
        PaymentFilter { to: Some(hub.app.now()), ..PaymentFilter::default() },
    ] {
        let page = Page { before: None, limit: 5 };
        assert!(tx.payments(&hub.merchant.id, &filter, &page).await.unwrap().is_empty(), "{filter:?}");
    }
});

on_both!(a_payer_is_found_by_the_address_of_his_list, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let payer = Payer {
        merchant_id: hub.merchant.id.clone(),
        id: hub.app.ids.make("pyr"),
        name: "Klient".into(),
        email: "klient@example.com".into(),
        language: "pl".into(),
        portal_token: hub.app.ids.token(),
        created_at: 1,
    };
    let mut tx = hub.tx().await;
    tx.add_payer(&payer).await.unwrap();
    assert_eq!(tx.payer_by_portal_token(&payer.portal_token).await.unwrap().unwrap().id, payer.id);
    assert!(tx.payer_by_portal_token("").await.unwrap().is_none());
});

// F49: migrating again, and from two processes at once, changes nothing.
on_both!(migrations_run_once, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let now = hub.app.now();
    let (a, b) = tokio::join!(hub.app.store.migrate(now), hub.app.store.migrate(now));
    a.and(b).unwrap();
});
