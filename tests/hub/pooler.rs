//! The hub behind PgBouncer in transaction mode: three connections for two programs, SIGKILL of the pooler included.

use std::time::Duration;

use grosz::store::{Store, StoreSettings};
use tokio::task::JoinSet;

use crate::cluster::cluster;
use crate::crash::mortal;
use crate::harness::client;
use crate::program::{Program, until};
use crate::scene::{Scene, order};
use crate::servers::{Pooler, rows};

// No named statement, no session state: any transaction may meet any connection of the pooler.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn behind_a_pooler_in_transaction_mode() {
    let Some(cluster) = cluster() else { return };
    let Some(mut pooler) = Pooler::start(cluster.port(), 3).await else { return };
    let direct = cluster.database();
    let name = direct.rsplit('/').next().unwrap();
    let pooled = pooler.url(name);
    let through = |program: Program| program.with("db_pooler", "true").with("db_answer_s", "5");
    let mut web = through(Program::new(&pooled)).with("role", "web");
    let mut worker = through(Program::new(&pooled))
        .with("public_url", &web.url.clone())
        .with("role", "worker")
        .with("database_listen_url", &direct);
    // The programs make the schema themselves, through the pooler.
    web.start();
    web.answers().await;
    worker.start();
    let mut scene = Scene::set(&direct, &[&web.url]).await;
    for round in 0..6 {
        let mut orders = JoinSet::new();
        for n in 0..10 {
            let case = scene.case(&format!("{round}-{n}/2026")).await;
            orders.spawn(order(client(), vec![web.url.clone()], case.id, scene.matter.account.id.clone()));
        }
        let under_way = scene.send_out();
        if round == 3 {
            pooler.kill();
            tokio::time::sleep(Duration::from_millis(300)).await;
            pooler.up().await;
        }
        scene.hear(under_way).await;
        while let Some(id) = orders.join_next().await {
            scene.pay_ordered(&id.unwrap()).await;
        }
    }
    scene.finish().await;
    assert!(scene.gateway.odd.is_empty(), "{:?}", scene.gateway.odd);
    scene.check().await;
    assert_eq!(web.get("/readyz").await.unwrap().0, 200);
    let listening = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'LISTEN%'";
    assert_eq!(rows(&direct, listening).await.unwrap(), ["1"], "past the pooler");
    for log in [web.log(), worker.log()] {
        assert!(!log.contains("prepared statement"), "{log}");
    }
}

// A caller that hangs up while its transaction begins leaves none open: the next one would go on in it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_nobody_waits_for_is_taken_back() {
    let Some(cluster) = cluster() else { return };
    let url = cluster.database();
    let settings = StoreSettings { connections: 1, pooler: true, ..StoreSettings::default() };
    let store = Store::open(&url, &settings).await.unwrap();
    store.migrate(0).await.unwrap();
    let mut deaths = 0;
    for polls in 0..20 {
        // Each death meets the same connection; a look-up that survives is let go unused.
        deaths += usize::from(mortal(polls, store.read()).await.is_none());
        let mut tx = store.begin().await.unwrap();
        assert!(tx.claim_idempotency_key("mer_1", &format!("key {polls}"), "f", 1).await.unwrap());
        tx.commit().await.unwrap();
    }
    assert!(deaths > 0, "nothing was cut off: this test showed nothing");
    let open = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state LIKE 'idle in%'";
    until("nothing is open", async || rows(&url, open).await.unwrap() == ["0"]).await;
}
