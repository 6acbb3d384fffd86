//! Many processes on one PostgreSQL: webs and workers are killed and come back at random, a worker sleeps through its
//! lease, a web's jobs are begun by a worker elsewhere.

use std::time::Duration;

use grosz::domain::invoice::State;
use grosz_providers::Cx;
use grosz_providers::invoicer::Found;
use tokio::task::JoinSet;

use crate::cluster::cluster;
use crate::harness::client;
use crate::matter::invoicer;
use crate::program::{Dice, Program, until};
use crate::scene::{Scene, order};
use crate::servers::{Gate, rows};

const ROUNDS: usize = 16;

// F20–F28, F42, F55, I2–I5, I7: orders and webhooks through two webs, the same webhook to both at once, while all four
// processes die and come back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_webs_and_two_workers_die_at_random() {
    let Some(cluster) = cluster() else { return };
    let database = cluster.database();
    let mut dice = Dice::new();
    let first = Program::new(&database).with("role", "web");
    let public = first.url.clone();
    let another = |role| Program::new(&database).with("public_url", &public).with("role", role);
    let mut programs = [first, another("web"), another("worker"), another("worker")];
    let webs = [programs[0].url.clone(), programs[1].url.clone()];
    let mut scene = Scene::set(&database, &[&webs[0], &webs[1]]).await;
    programs.iter_mut().for_each(Program::start);
    programs[0].answers().await;
    programs[1].answers().await;
    for round in 0..ROUNDS {
        let mut orders = JoinSet::new();
        for n in 0..3 {
            let case = scene.case(&format!("{round}-{n}/2026")).await;
            let mut hubs = webs.to_vec();
            hubs.rotate_left(n % 2);
            orders.spawn(order(client(), hubs, case.id, scene.matter.account.id.clone()));
        }
        let under_way = scene.send_out();
        tokio::time::sleep(Duration::from_millis(dice.below(80))).await;
        // Any two of the four, at times the same one twice.
        for _ in 0..2 {
            let victim = &mut programs[usize::try_from(dice.below(4)).unwrap()];
            victim.kill();
            victim.start();
        }
        scene.hear(under_way).await;
        while let Some(id) = orders.join_next().await {
            scene.pay_ordered(&id.unwrap()).await;
        }
    }
    scene.finish().await;
    assert!(scene.gateway.unanswered > 0, "no kill met a call under way: this test showed nothing");
    assert!(scene.gateway.odd.is_empty(), "{:?}", scene.gateway.odd);
    assert_eq!(scene.payments.len(), ROUNDS * 3);
    scene.check().await;
}

// F42: a worker is stopped while its request travels, sleeps through its lease, and wakes up after another has found the
// invoice and finished the job. It writes nothing any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_sleeps_through_its_lease_writes_nothing() {
    let Some(cluster) = cluster() else { return };
    let database = cluster.database();
    let mut sleeper = Program::new(&database);
    let mut other = Program::new(&database).with("public_url", &sleeper.url.clone()).with("role", "worker");
    let books = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gate = Gate::before(books.local_addr().unwrap(), "/invoices/add").await;
    let mut scene = Scene::set_before(&database, &[&sleeper.url], books, &gate.url).await;
    sleeper.start();
    sleeper.answers().await;
    scene.pay("1/2026").await;
    let under_way = scene.send_out();
    scene.hear(under_way).await;
    until("the request is on its way", async || gate.held() == 1).await;
    sleeper.signal("STOP");
    gate.open();
    other.start();
    let payment = scene.payments[0].clone();
    let invoice = async || {
        let mut tx = scene.hub.store.read().await.unwrap();
        tx.invoice_of_payment(&payment.merchant_id, &payment.id).await.unwrap().unwrap()
    };
    until("the other worker finishes", async || {
        let now = invoice().await;
        now.state == State::Issued && now.pdf_sha256.is_some()
    })
    .await;
    let before = invoice().await;
    sleeper.signal("CONT");
    let lost = "grosz_job_runs_total{subject=\"issue_invoice\",outcome=\"lost_lease\"}";
    until("the sleeper finds its lease lost", async || sleeper.counter(lost).await > 0).await;
    let after = invoice().await;
    assert_eq!((after.state, after.attempts, &after.number), (before.state, before.attempts, &before.number));
    let cx = Cx { settings: &scene.invoicing, http: &*scene.hub.http, now: scene.hub.clock.outside(), live: false };
    assert!(matches!(invoicer().find(&cx, &after.order).await, Found::One(_)), "I3");
    let live = "SELECT id FROM jobs WHERE kind = 'issue_invoice' AND state IN ('ready', 'running')";
    assert!(rows(&database, live).await.unwrap().is_empty());
}

// A job that a web enqueued is begun at once by a worker in another process, and again after the listening connection
// was lost. Looking around by itself, the worker would come after ten minutes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_web_wakes_a_worker_elsewhere() {
    const LISTENING: &str =
        "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'";
    let Some(cluster) = cluster() else { return };
    let database = cluster.database();
    let mut web = Program::new(&database).with("role", "web");
    let public = web.url.clone();
    let mut worker =
        Program::new(&database).with("public_url", &public).with("role", "worker").with("job_tick_ms", "600000");
    let mut scene = Scene::set(&database, &[&web.url]).await;
    web.start();
    web.answers().await;
    worker.start();
    let mut heard = vec![];
    for n in 0..3 {
        until("a worker listens anew", async || {
            let now = rows(&database, LISTENING).await.unwrap();
            now.len() == 1 && now != heard
        })
        .await;
        heard = rows(&database, LISTENING).await.unwrap();
        scene.pay(&format!("{n}/2026")).await;
        let under_way = scene.send_out();
        scene.hear(under_way).await;
        let payment = scene.payments[n].clone();
        until("the invoice is issued", async || {
            let mut tx = scene.hub.store.read().await.unwrap();
            let invoice = tx.invoice_of_payment(&payment.merchant_id, &payment.id).await.unwrap();
            invoice.is_some_and(|i| i.state == State::Issued)
        })
        .await;
        rows(&database, &format!("SELECT pg_terminate_backend({})", heard[0])).await.unwrap();
    }
}

// F55: programs that meet on an empty database bring up its schema one after another.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn programs_that_start_together_take_turns() {
    let Some(cluster) = cluster() else { return };
    let database = cluster.database();
    let mut programs: Vec<Program> = (0..4).map(|_| Program::new(&database)).collect();
    programs.iter_mut().for_each(Program::start);
    for program in &programs {
        program.answers().await;
        assert_eq!(program.get("/readyz").await.unwrap(), (200, "ready\n".to_owned()));
    }
}
