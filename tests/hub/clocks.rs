//! Clocks that differ and jump (F59). The database's clock is bent by a function of its own that stands before
//! PostgreSQL's in the search path.

use std::sync::Arc;

use grosz::app::App;
use grosz::clock::Clock;
use grosz::config::{Config, Hidden};
use grosz::domain::payment::Status;
use grosz::flows::add_account;
use grosz::standard_webhooks::{SigningKey, verify};
use grosz::worker;
use grosz_providers::wire::Headers;
use grosz_providers::{EventKind, sign};
use serde_json::{Value, json};
use tokio::sync::watch;
use wiremock::matchers::method;
use wiremock::{Mock, MockServer, ResponseTemplate};

use crate::cluster::cluster;
use crate::harness::{Engine, Hub, KEY, add_merchant, client};
use crate::matter::{event, matter};
use crate::on_both;
use crate::servers::rows;

const HOUR: i64 = 3_600_000_000;

/// Has the database's own functions of time found after those that [`bend`] makes, for connections from here on.
pub async fn make_bendable(database: &str) {
    let name = database.rsplit('/').next().unwrap();
    rows(database, &format!("ALTER DATABASE {name} SET search_path = public, pg_catalog")).await.unwrap();
    bend(database, "0 seconds").await;
}

/// Puts the database's clock apart from the machine's.
pub async fn bend(database: &str, by: &str) {
    for function in ["clock_timestamp", "now"] {
        let made = format!(
            "CREATE OR REPLACE FUNCTION public.{function}() RETURNS timestamptz LANGUAGE sql AS
             $$ SELECT pg_catalog.{function}() + interval '{by}' $$"
        );
        rows(database, &made).await.unwrap();
    }
}

/// A new database whose clock is bent.
async fn bent_database(by: &str) -> Option<String> {
    let database = cluster()?.database();
    make_bendable(&database).await;
    bend(&database, by).await;
    Some(database)
}

// The database's clock is an hour ahead of ours: all processes go by it. It leaps alone, by days, forth and back: none
// follows, so no lease ends early, no wait becomes due, and none lasts for days.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_processes_go_by_one_clock() {
    let Some(database) = bent_database("1 hour").await else { return };
    let config = Config { database_url: Hidden(database.clone()), ..Config::default() };
    let one = App::open(config.clone(), Clock::System).await.unwrap();
    let two = App::open(config, Clock::System).await.unwrap();
    let ahead = |app: &App| app.now() - Clock::System.micros();
    assert!((ahead(&one) - HOUR).abs() < HOUR / 60, "{}", ahead(&one));
    assert!((one.now() - two.now()).abs() < HOUR / 60);
    // What is shown to the outside is dated by the machine: the gateways' clocks agree with it.
    assert!((one.clock.outside().as_microsecond() - Clock::System.micros()).abs() < HOUR / 60);
    for leap in ["40 days", "-3 days"] {
        bend(&database, leap).await;
        one.follow_clock().await;
        assert!((ahead(&one) - HOUR).abs() < HOUR / 60, "{leap}: {}", ahead(&one));
    }
    bend(&database, "1 hour 20 seconds").await;
    one.follow_clock().await;
    assert!((ahead(&one) - HOUR - 20_000_000).abs() < 15_000_000, "drift is followed: {}", ahead(&one));
    bend(&database, "0 seconds").await;
    one.follow_clock().await;
    assert!(ahead(&one).abs() < HOUR / 60, "set right: followed, as the machine says the same");
}

// The database's clock is an hour ahead of the world's: what client apps are sent verifies all the same, and a webhook that
// was taken in is read again, as long as its bytes are those that were signed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn signatures_go_by_the_world_s_clock() {
    let Some(database) = bent_database("1 hour").await else { return };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let config = Config {
        database_url: Hidden(database.clone()),
        public_url: url.clone(),
        role: "web".into(),
        allow_insecure_targets: true,
        ..Config::default()
    };
    let app = Arc::new(App::open(config, Clock::System).await.unwrap());
    let (_stop, stopped) = watch::channel(false);
    tokio::spawn(grosz::run::run(Arc::clone(&app), Some(listener), stopped));
    let merchant = add_merchant(&app, "Kancelaria", KEY).await;
    let http = client();
    let post = async |path: &str, body: Value| {
        let asked = http.post(format!("{url}{path}")).bearer_auth(KEY).header("content-type", "application/json");
        let answer = asked.body(body.to_string()).send().await.unwrap();
        let status = answer.status().as_u16();
        (status, serde_json::from_str::<Value>(&answer.text().await.unwrap()).unwrap())
    };

    let receiver = MockServer::start().await;
    Mock::given(method("POST")).respond_with(ResponseTemplate::new(200)).mount(&receiver).await;
    let (_, made) = post("/v1/webhook-endpoints", json!({"url": receiver.uri()})).await;
    let test = format!("/v1/webhook-endpoints/{}/test", made["id"].as_str().unwrap());
    assert_eq!(post(&test, json!({})).await.0, 202);
    worker::run_due(&app).await.unwrap();
    let told = receiver.received_requests().await.unwrap().remove(0);
    let pairs = told.headers.iter().map(|(n, v)| (n.as_str(), v.to_str().unwrap()));
    let key = SigningKey::parse(made["secret"].as_str().unwrap()).unwrap();
    let world_s = u64::try_from(Clock::System.micros() / 1_000_000).unwrap();
    verify(&[&key], &Headers::from_pairs(pairs), &told.body, world_s).expect("fresh by the receiver's clock");

    let settings = json!({"secret_key": "sk_test_1", "webhook_secret": "whsec_1"});
    let mut tx = app.store.begin().await.unwrap();
    let settings = settings.as_object().unwrap();
    let account = add_account::add_provider_account(&app, &mut tx, &merchant.id, "stripe", settings, None, false);
    let account = account.await.unwrap();
    tx.commit().await.unwrap();
    let body = json!({"id": "evt_1", "object": "event", "type": "customer.created", "livemode": false,
        "data": {"object": {"id": "cus_1", "object": "customer"}}});
    let signed = hex::encode(sign::hmac_sha256(b"whsec_1", &[format!("{world_s}.{body}").as_bytes()]));
    let call = http.post(format!("{url}/webhooks/stripe/{}", account.id)).body(body.to_string());
    let call = call.header("stripe-signature", format!("t={world_s},v1={signed}"));
    assert_eq!(call.send().await.unwrap().status(), 200);
    let id = rows(&database, "SELECT id FROM deliveries").await.unwrap().remove(0);
    let replay = format!("/v1/deliveries/{id}/replay");
    let (status, said) = post(&replay, json!({})).await;
    assert_eq!(status, 200, "{said}");
    rows(&database, "UPDATE deliveries SET body = body || '\\x20'::bytea").await.unwrap();
    let (status, said) = post(&replay, json!({})).await;
    assert_eq!((status, &said["code"]), (409, &json!("delivery_not_verified")), "other bytes than were signed");
}

// The database reads its clock at once, and the answer is on its way for half a second.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_reading_sets_nothing_back() {
    let Some(cluster) = cluster() else { return };
    let database = cluster.database();
    make_bendable(&database).await;
    let config = Config { database_url: Hidden(database.clone()), ..Config::default() };
    let app = App::open(config, Clock::System).await.unwrap();
    let late = "CREATE OR REPLACE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS
                $$ DECLARE read timestamptz := pg_catalog.clock_timestamp(); BEGIN PERFORM pg_sleep(0.5); RETURN read; END $$";
    let ahead = || app.now() - Clock::System.micros();
    let before = ahead();
    rows(&database, late).await.unwrap();
    app.follow_clock().await;
    assert!(ahead() - before > -100_000, "set back by {} µs", before - ahead());
}

// The one clock itself is set back by three days, then forth by forty: no panic, no negative wait, payments go on, and
// those that were open are asked about, not written off.
on_both!(a_leaping_clock_writes_nothing_off, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let matter = matter(&hub).await;
    let (waits, attempt) = matter.payment(&hub, "1/2026").await;
    hub.run_jobs().await;
    hub.app.clock.set_back(std::time::Duration::from_secs(3 * 86_400));
    let (paid, other) = matter.payment(&hub, "2/2026").await;
    matter.receive(&hub, event(&other, "paid", EventKind::Paid, "r1")).await;
    hub.run_jobs().await;
    hub.get("/metrics").await.expect(200);
    hub.advance(43 * 86_400);
    for _ in 0..3 {
        hub.run_jobs().await;
        hub.advance(60);
    }
    let status = async |id: &str| {
        let mut tx = hub.app.store.read().await.unwrap();
        tx.payment(&hub.merchant.id, id).await.unwrap().unwrap().status
    };
    assert_eq!(status(&paid.id).await, Status::Completed);
    assert_eq!(status(&waits.id).await, Status::Started, "nobody said that it was not paid");
    matter.receive(&hub, event(&attempt, "paid late", EventKind::Paid, "r2")).await;
    assert_eq!(status(&waits.id).await, Status::Completed);
});
