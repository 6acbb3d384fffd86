//! PostgreSQL goes away under load and comes back: restarted, read-only, moved to its standby, crowded, dead-locked.
//! Requests are told to come again in time, nothing acknowledged is lost, and no hub has to be restarted.

use std::time::{Duration, Instant};

use serde_json::json;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Connection};
use tokio::task::JoinSet;

use crate::api::client::Client;
use crate::cluster::cluster;
use crate::harness::{Engine, Hub, KEY, client};
use crate::program::{Program, until};
use crate::scene::{Scene, order};
use crate::servers::{Gate, Server, rows};

/// Longest wait for an answer while the database is away: for a connection, then for its answer, and the machine's own.
const WITHIN: Duration = Duration::from_secs(1 + 3 + 3);

fn quick(program: Program) -> Program {
    program.with("db_wait_s", "1").with("db_answer_s", "3")
}

async fn run(url: &str, sql: &str) {
    rows(url, sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
}

/// Pays some, and has the gateway tell of them while `happens` goes on.
async fn meanwhile(scene: &mut Scene, name: &str, happens: impl Future<Output = ()>) {
    let mut orders = JoinSet::new();
    let roads = scene.gateway.roads.clone();
    for n in 0..4 {
        scene.pay(&format!("{name}-{n}/2026")).await;
        let case = scene.case(&format!("{name}-o{n}/2026")).await;
        orders.spawn(order(client(), roads.clone(), case.id, scene.matter.account.id.clone()));
    }
    let carry = async {
        // The gateway calls again and again; some calls fall into the gap.
        for _ in 0..20 {
            let under_way = scene.send_out();
            scene.hear(under_way).await;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::join!(carry, happens);
    while let Some(id) = orders.join_next().await {
        scene.pay_ordered(&id.unwrap()).await;
    }
}

fn check_answers(scene: &Scene) {
    assert!(scene.gateway.odd.is_empty(), "{:?}", scene.gateway.odd);
    assert_eq!(scene.gateway.unanswered, 0);
    assert!(scene.gateway.slowest < WITHIN, "{:?}", scene.gateway.slowest);
}

// F50, F53, F54, F57
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_database_is_restarted_and_made_read_only() {
    let Some(mut server) = Server::start(&[]).await else { return };
    run(&server.url("postgres"), "CREATE DATABASE hub").await;
    let database = server.url("hub");
    let mut program = quick(Program::new(&database)).with("db_connections", "4");
    let mut scene = Scene::set(&database, &[&program.url]).await;
    program.start();
    program.answers().await;

    for how in ["INT", "QUIT"] {
        meanwhile(&mut scene, how, async {
            server.stop(how);
            tokio::time::sleep(Duration::from_millis(1500)).await;
            server.up().await;
        })
        .await;
        check_answers(&scene);
    }
    assert!(scene.gateway.turned_away > 0, "no call fell into a gap: this test showed nothing");
    until("it is ready again", async || program.get("/readyz").await.is_some_and(|(s, _)| s == 200)).await;

    // F53: what is left of a fail-over. New sessions are read-only, and those that were open are ended.
    let postgres = server.url("postgres");
    let end_all = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'hub'";
    run(&postgres, "ALTER DATABASE hub SET default_transaction_read_only = on").await;
    run(&postgres, end_all).await;
    scene.gateway.turned_away = 0;
    let sees = |text: &'static str| {
        let program = &program;
        async move { program.get("/readyz").await.is_some_and(|(s, t)| s == 503 && t.contains(text)) }
    };
    until("the cause is named", async || sees("read-only").await).await;
    until("and logged", async || program.log().contains("The database is read-only")).await;
    let http = client();
    let read = http.get(format!("{}/v1/payments", program.url)).bearer_auth(KEY).send().await.unwrap();
    assert_eq!(read.status(), 200, "reads live");
    let write = http.post(format!("{}/v1/experts", program.url)).bearer_auth(KEY);
    let body = r#"{"name": "Anna", "email": "anna@kancelaria.example"}"#;
    let write = write.header("content-type", "application/json").body(body).send().await.unwrap();
    assert_eq!((write.status().as_u16(), write.headers().contains_key("retry-after")), (503, true));
    run(&postgres, "ALTER DATABASE hub RESET default_transaction_read_only").await;
    until("it takes writes again", async || program.get("/readyz").await.is_some_and(|(s, _)| s == 200)).await;

    crowded(&mut scene, &program, &database).await;
    dead_locked(&mut scene, &program, &database).await;
    scene.finish().await;
    check_answers(&scene);
    scene.check().await;
}

// F54: a crowd that waits for a lock takes every connection. It is told to come again in time, webhooks have connections
// of their own, and the health check needs none.
async fn crowded(scene: &mut Scene, program: &Program, database: &str) {
    let mut holder = PgConnection::connect(database).await.unwrap();
    sqlx::raw_sql("BEGIN; LOCK TABLE experts IN ACCESS EXCLUSIVE MODE").execute(&mut holder).await.unwrap();
    scene.pay("crowd/2026").await;
    let http = client();
    let mut crowd = JoinSet::new();
    for n in 0..1000 {
        let asked = http.post(format!("{}/v1/experts", program.url)).bearer_auth(KEY);
        let body = format!(r#"{{"name": "Anna", "email": "anna{n}@kancelaria.example"}}"#);
        let asked = asked.header("content-type", "application/json").body(body);
        crowd.spawn(async move {
            let began = Instant::now();
            let answer = asked.send().await.unwrap();
            (answer.status().as_u16(), answer.headers().contains_key("retry-after"), began.elapsed())
        });
    }
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = 'hub'";
    until("every connection waits", async || rows(database, waiting).await.unwrap() == ["4"]).await;
    let began = Instant::now();
    assert_eq!(program.get("/healthz").await.unwrap().0, 200);
    assert!(began.elapsed() < WITHIN, "{:?}", began.elapsed());
    let acknowledged = scene.gateway.acknowledged.len();
    // A busy machine may turn a call away; the lock is held all the time.
    while scene.gateway.acknowledged.len() == acknowledged {
        let under_way = scene.send_out();
        scene.hear(under_way).await;
        assert!(began.elapsed() < WITHIN, "webhooks have connections of their own");
    }
    while let Some(answer) = crowd.join_next().await {
        let (status, again, took) = answer.unwrap();
        assert_eq!((status, again), (503, true));
        assert!(took < WITHIN + Duration::from_secs(5), "{took:?}");
    }
    sqlx::raw_sql("ROLLBACK").execute(&mut holder).await.unwrap();
}

// F57: the intake and somebody else stand in each other's way; the intake is the one that is taken back. It does all
// again, and the gateway hears nothing of it.
async fn dead_locked(scene: &mut Scene, program: &Program, database: &str) {
    // It had begun without locks, and does all again with them.
    let repeated = "grosz_store_conflicts_total{subject=\"intake\",outcome=\"locked\"}";
    let before = program.counter(repeated).await;
    scene.pay("dead-lock/2026").await;
    let payment = scene.payments.last().unwrap().clone();
    let (id, case) = (&payment.id, payment.case_id.as_deref().unwrap());
    let mut other = PgConnection::connect(database).await.unwrap();
    let lock = format!("SET deadlock_timeout = '60s'; BEGIN; SELECT 1 FROM cases WHERE id = '{case}' FOR UPDATE");
    sqlx::raw_sql(AssertSqlSafe(lock)).execute(&mut other).await.unwrap();
    let under_way = scene.send_out();
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND datname = 'hub'";
    until("the intake waits for us", async || rows(database, waiting).await.unwrap() == ["1"]).await;
    let lock = format!("SELECT 1 FROM payments WHERE id = '{id}' FOR UPDATE; ROLLBACK");
    sqlx::raw_sql(AssertSqlSafe(lock)).execute(&mut other).await.unwrap();
    let turned_away = scene.gateway.turned_away;
    assert!(scene.hear(under_way).await > 0);
    assert_eq!(scene.gateway.turned_away, turned_away);
    assert!(program.counter(repeated).await > before, "there was no dead-lock: this test showed nothing");
}

// F50: PostgreSQL answers, and does not let the hub in. That passes like any other outage, and is called by its name.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_lets_nobody_in_is_an_outage_with_a_name() {
    let Some(server) = Server::start(&["superuser_reserved_connections=3"]).await else { return };
    let postgres = server.url("postgres");
    run(&postgres, "CREATE ROLE gr LOGIN").await;
    run(&postgres, "CREATE DATABASE hub OWNER gr").await;
    let database = server.url("hub").replacen("postgres@", "gr@", 1);
    let program = &mut quick(Program::new(&database)).with("db_connections", "4");
    let scene = Scene::set(&database, &[&program.url]).await;
    scene.hub.store.close().await;
    program.start();
    program.answers().await;
    let program = &*program;
    let ready = async |status: u16, text: &str| {
        program.get("/readyz").await.is_some_and(|(s, t)| s == status && t.contains(text))
    };
    let end_all = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'gr'";
    for (what, back, said) in [
        ("ALTER ROLE gr NOLOGIN", "ALTER ROLE gr LOGIN", "role \"gr\" is not permitted to log in"),
        (
            "ALTER DATABASE hub ALLOW_CONNECTIONS false",
            "ALTER DATABASE hub ALLOW_CONNECTIONS true",
            "database \"hub\" is not currently accepting connections",
        ),
        (
            "ALTER ROLE gr CONNECTION LIMIT 0",
            "ALTER ROLE gr CONNECTION LIMIT -1",
            "too many connections for role \"gr\"",
        ),
        ("ALTER DATABASE hub RENAME TO other", "ALTER DATABASE other RENAME TO hub", "database \"hub\" does not exist"),
    ] {
        until("it was done while nobody was connected", async || {
            run(&postgres, end_all).await;
            rows(&postgres, what).await.is_ok()
        })
        .await;
        run(&postgres, end_all).await;
        until(said, async || ready(503, said).await).await;
        let write = client().post(format!("{}/v1/experts", program.url)).bearer_auth(KEY);
        let body = r#"{"name": "Anna", "email": "anna@kancelaria.example"}"#;
        let write = write.header("content-type", "application/json").body(body).send().await.unwrap();
        assert_eq!((write.status().as_u16(), write.headers().contains_key("retry-after")), (503, true), "{said}");
        until("it is logged", async || program.log().contains(said)).await;
        run(&postgres, back).await;
        until("it takes writes again", async || ready(200, "").await).await;
        let named = program.log().lines().filter(|l| l.contains("ERROR") && l.contains(said)).count();
        assert_eq!(named, 1, "{}", program.log());
    }
    let log = program.log();
    assert!(!log.contains("onnection refused"), "{log}");
    let claims = log.lines().filter(|l| l.contains("Jobs cannot be claimed")).count();
    assert!(claims <= 4, "once for each outage at most: {log}");
}

// F50: the counters are what one looks at while the database is away.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn counters_are_told_without_the_database() {
    let Some(cluster) = cluster() else { return };
    let database = cluster.database();
    let (server, _) = database.rsplit_once('@').unwrap().1.split_once('/').unwrap();
    let gate = Gate::behind(server.parse().unwrap(), "FROM jobs WHERE set_aside").await;
    gate.open();
    let through = gate.url.trim_start_matches("http://").to_owned();
    let hub = Hub::start_with(Engine::Postgres, |c| {
        c.database_url.0 = c.database_url.0.replacen(server, &through, 1);
        c.db_answer_s = 10;
    })
    .await;
    let metrics = async || hub.raw("GET", "/metrics", &[], vec![]).await.expect(200).text();
    gate.close();
    let began = Instant::now();
    let text = metrics().await;
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(text.contains("\ngrosz_database_up 0\n") && text.contains("grosz_db_statements_total"), "{text}");
    assert!(text.ends_with("# EOF\n"));
    gate.open();
    until("the database is up", async || metrics().await.contains("\ngrosz_database_up 1\n")).await;
}

// F50: the database falls silent at the commit. Whoever asked is told that nobody knows, not that nothing was done; and it
// was done.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_without_an_answer_is_not_called_undone() {
    let Some(cluster) = cluster() else { return };
    let database = cluster.database();
    let (server, _) = database.rsplit_once('@').unwrap().1.split_once('/').unwrap();
    let gate = Gate::behind(server.parse().unwrap(), "COMMIT").await;
    gate.open();
    let through = gate.url.trim_start_matches("http://").to_owned();
    let hub = Hub::start_with(Engine::Postgres, |c| {
        c.database_url.0 = c.database_url.0.replacen(server, &through, 1);
        c.db_answer_s = 1;
    })
    .await;
    let client = Client::new(&hub);
    gate.close();
    let body = json!({"name": "Anna", "email": "anna@kancelaria.example"});
    let answer = client.post("/v1/experts", body).await.expect(503);
    let problem = answer.json();
    assert_eq!(problem["code"], "outcome_unknown", "{problem}");
    assert!(
        problem["detail"].as_str().unwrap().contains("Idempotency-Key") && !problem.to_string().contains("nothing was")
    );
    assert!(answer.header("retry-after").is_some());
    gate.open();
    until("it was done", async || {
        let list = hub.get("/v1/experts").await;
        list.status == 200 && list.json()["data"].as_array().is_some_and(|all| all.len() == 1)
    })
    .await;
}

// F50, F53: the primary crashes under load and its standby is promoted; then the old one comes back, read-only, before
// the new one in the list. Nothing acknowledged is lost, and nothing is written to what is left of the old one.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_standby_takes_over() {
    let options = ["synchronous_commit=on", "synchronous_standby_names=*"];
    let Some(mut primary) = Server::start(&["synchronous_standby_names="]).await else { return };
    run(&primary.url("postgres"), "CREATE DATABASE hub").await;
    run(&primary.url("postgres"), "ALTER SYSTEM SET synchronous_commit = on").await;
    let standby = {
        primary.set_options(&options);
        primary.stop("INT");
        primary.up().await;
        primary.standby(&["synchronous_standby_names="]).await
    };
    let database = format!("postgres://postgres@127.0.0.1:{},127.0.0.1:{}/hub", primary.port, standby.port);
    let mut program = quick(Program::new(&database));
    let mut scene = Scene::set(&database, &[&program.url]).await;
    program.start();
    program.answers().await;
    meanwhile(&mut scene, "before", async {}).await;
    meanwhile(&mut scene, "crash", async {
        primary.stop("QUIT");
        tokio::time::sleep(Duration::from_secs(1)).await;
        run(&standby.url("postgres"), "SELECT pg_promote()").await;
    })
    .await;
    check_answers(&scene);
    assert!(scene.gateway.turned_away > 0, "no call fell into the gap: this test showed nothing");
    primary.set_options(&["synchronous_standby_names=", "default_transaction_read_only=on"]);
    primary.up().await;
    let kept = "SELECT count(*) FROM deliveries";
    let before = rows(&primary.url("hub"), kept).await.unwrap();
    // A hub that starts now finds the right one too.
    program.kill();
    program.start();
    program.answers().await;
    meanwhile(&mut scene, "after", async {}).await;
    scene.gateway.unanswered = 0;
    scene.finish().await;
    check_answers(&scene);
    scene.check().await;
    assert_eq!(rows(&primary.url("hub"), kept).await.unwrap(), before);
    assert_ne!(rows(&standby.url("hub"), kept).await.unwrap(), before);
}
