//! Client apps are told: signed, at least once, on the schedule, and never at an address inside.

use std::collections::HashSet;
use std::sync::Arc;

use async_trait::async_trait;
use grosz::standard_webhooks::{SigningKey, verify};
use grosz::store::Lane;
use grosz::worker;
use grosz_providers::wire::{Headers, Http, HttpError, HttpRequest, HttpResponse};
use grosz_providers::{EventKind, FailReason};
use serde_json::{Value, json};
use tokio::sync::Notify;
use wiremock::matchers::method;
use wiremock::{Mock, MockServer, Request, ResponseTemplate};

use crate::harness::{Engine, Hub};
use crate::matter::{event, matter};
use crate::on_both;

/// Registers an endpoint at `url`; answers its id and key.
async fn endpoint(hub: &Hub, url: &str, types: Value) -> (String, SigningKey) {
    let made = hub.post("/v1/webhook-endpoints", json!({"url": url, "types": types})).await.expect(201).json();
    let secret = made["secret"].as_str().expect("shown once");
    (made["id"].as_str().expect("an id").to_owned(), SigningKey::parse(secret).expect("a key"))
}

async fn server(answer: ResponseTemplate) -> MockServer {
    let server = MockServer::start().await;
    Mock::given(method("POST")).respond_with(answer).mount(&server).await;
    server
}

/// Checks the signature as an unrelated receiver does, at the hub's present time.
fn check(hub: &Hub, key: &SigningKey, request: &Request) -> Value {
    let pairs = request.headers.iter().map(|(n, v)| (n.as_str(), v.to_str().expect("text")));
    let now_s = u64::try_from(hub.app.now() / 1_000_000).expect("after 1970");
    verify(&[key], &Headers::from_pairs(pairs), &request.body, now_s).expect("a right signature");
    serde_json::from_slice(&request.body).expect("JSON")
}

fn id_of(request: &Request) -> String {
    request.headers["webhook-id"].to_str().expect("text").to_owned()
}

// I9: each event reaches the endpoint, signed, and the feed holds the same.
on_both!(every_move_is_told_and_verifies, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let server = server(ResponseTemplate::new(200)).await;
    let (_, key) = endpoint(&hub, &server.uri(), json!([])).await;
    let matter = matter(&hub).await;
    let (payment, attempt) = matter.payment(&hub, "1/2026").await;
    matter.receive(&hub, event(&attempt, "failed", EventKind::Failed { reason: FailReason::Declined }, "r1")).await;
    matter.receive(&hub, event(&attempt, "paid", EventKind::Paid, "r2")).await;
    matter.receive(&hub, event(&attempt, "paid", EventKind::Paid, "r2")).await;
    hub.run_jobs().await;
    let requests = server.received_requests().await.expect("kept");
    let bodies: Vec<Value> = requests.iter().map(|r| check(&hub, &key, r)).collect();
    let told = |kind: &str| bodies.iter().filter(|b| b["type"] == kind).count();
    for kind in ["payment.started", "payment.error", "payment.completed", "case.status_changed"] {
        assert_eq!(told(kind), 1, "{kind}: {bodies:?}");
    }
    let completed = bodies.iter().find(|b| b["type"] == "payment.completed").expect("told");
    assert_eq!(completed["data"]["id"], payment.id.as_str());
    assert_eq!(completed["data"]["previous_status"], "error");
    assert_eq!(completed["mode"], "test");

    hub.advance(5);
    let feed = hub.get("/v1/events").await.expect(200).json();
    let in_feed: HashSet<String> =
        feed["data"].as_array().expect("a list").iter().map(|m| m["id"].as_str().expect("an id").to_owned()).collect();
    let sent: HashSet<String> = requests.iter().map(id_of).collect();
    assert_eq!(in_feed, sent, "the feed holds what was sent");
});

// F43: an endpoint that fails is told again with the same id, ten times in a bit over three days.
#[tokio::test(flavor = "multi_thread")]
async fn a_failing_endpoint_is_told_again_with_the_same_id() {
    let hub = Hub::start(Engine::Sqlite).await;
    let server = server(ResponseTemplate::new(500)).await;
    let (_, key) = endpoint(&hub, &server.uri(), json!(["payment.started"])).await;
    let matter = matter(&hub).await;
    matter.payment(&hub, "1/2026").await;
    let began = hub.app.now();
    let mut last = began;
    for _ in 0..90 * 12 {
        let before = server.received_requests().await.expect("kept").len();
        hub.run_jobs().await;
        let requests = server.received_requests().await.expect("kept");
        for request in &requests[before..] {
            check(&hub, &key, request);
            last = hub.app.now();
        }
        hub.advance(300);
    }
    let requests = server.received_requests().await.expect("kept");
    assert_eq!(requests.len(), 10);
    assert_eq!(requests.iter().map(id_of).collect::<HashSet<_>>().len(), 1, "one id");
    assert!(requests.windows(2).all(|w| w[0].body == w[1].body), "the same bytes");
    let hours = (last - began) / 3_600_000_000;
    assert!((60..92).contains(&hours), "the last try came after {hours} hours");
}

// F43
#[tokio::test(flavor = "multi_thread")]
async fn gone_disables_and_a_redirect_is_not_followed() {
    let hub = Hub::start(Engine::Sqlite).await;
    let elsewhere = server(ResponseTemplate::new(200)).await;
    let moved = server(ResponseTemplate::new(302).insert_header("location", elsewhere.uri().as_str())).await;
    let gone = server(ResponseTemplate::new(410)).await;
    endpoint(&hub, &moved.uri(), json!([])).await;
    let (gone_id, _) = endpoint(&hub, &gone.uri(), json!([])).await;
    let matter = matter(&hub).await;
    matter.payment(&hub, "1/2026").await;
    hub.run_jobs().await;
    assert!(elsewhere.received_requests().await.expect("kept").is_empty());
    let state = hub.get(&format!("/v1/webhook-endpoints/{gone_id}")).await.expect(200).json();
    assert_eq!(state["enabled"], false, "{state}");
    let alerts = hub.get("/v1/alerts").await.expect(200).json();
    assert!(alerts["data"].as_array().expect("a list").iter().any(|a| a["code"] == "endpoint.disabled"), "{alerts}");
    hub.advance(700);
    hub.run_jobs().await;
    assert_eq!(gone.received_requests().await.expect("kept").len(), 1, "a disabled endpoint is left alone");
}

/// How many alerts of a code are open.
async fn open_alerts(hub: &Hub, code: &str) -> usize {
    let alerts = hub.get("/v1/alerts").await.expect(200).json();
    alerts["data"].as_array().expect("a list").iter().filter(|a| a["code"] == code).count()
}

// F43, I9: a message whose tries are used up is a matter for a person, one for an endpoint, and counted.
on_both!(the_last_try_opens_an_alert, async |engine: Engine| {
    let hub = Hub::start_with(engine, |c| c.tell_waits_s = vec![0, 60]).await;
    let server = server(ResponseTemplate::new(500)).await;
    let (id, _) = endpoint(&hub, &server.uri(), json!(["payment.started"])).await;
    let matter = matter(&hub).await;
    matter.payment(&hub, "1/2026").await;
    hub.run_jobs().await;
    assert_eq!(open_alerts(&hub, "message.exhausted").await, 0, "there is another try");
    hub.advance(90);
    hub.run_jobs().await;
    assert_eq!(open_alerts(&hub, "message.exhausted").await, 1);
    matter.payment(&hub, "2/2026").await;
    hub.run_jobs().await;
    hub.advance(90);
    hub.run_jobs().await;
    assert_eq!(server.received_requests().await.expect("kept").len(), 4);
    assert_eq!(open_alerts(&hub, "message.exhausted").await, 1, "one for an endpoint");
    assert_eq!(open_alerts(&hub, "endpoint.disabled").await, 0);
    let metrics = hub.raw("GET", "/metrics", &[], vec![]).await.text();
    let counted = "grosz_job_runs_total{subject=\"tell_client\",outcome=\"exhausted\"} 2";
    assert!(metrics.contains(counted), "{metrics}");
    server.reset().await;
    Mock::given(method("POST")).respond_with(ResponseTemplate::new(200)).mount(&server).await;
    assert_eq!(replay(&hub, &id).await, 2);
});

/// Receivers by the ends of their addresses: one that fails, one that says after a while that it is gone, and others.
#[derive(Default)]
struct Receivers {
    called: Notify,
    may_answer: Notify,
}

#[async_trait]
impl Http for Receivers {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let status = match request.url.rsplit('/').next() {
            Some("failing") => 500,
            Some("gone") => {
                self.called.notify_one();
                self.may_answer.notified().await;
                410
            }
            _ => 200,
        };
        Ok(HttpResponse { status, headers: Headers::default(), body: vec![] })
    }
}

// F43: what an old address answers says nothing about the new one, and the message goes there.
on_both!(an_answer_of_the_old_address_does_not_disable_the_new_one, async |engine: Engine| {
    let receivers = Arc::new(Receivers::default());
    let way = Arc::clone(&receivers);
    let hub = Hub::build(engine, |_| {}, |app| app.http_clients = way).await;
    let (id, _) = endpoint(&hub, "http://shop.example/failing", json!(["payment.started"])).await;
    let path = format!("/v1/webhook-endpoints/{id}");
    let matter = matter(&hub).await;
    matter.payment(&hub, "1/2026").await;
    hub.run_jobs().await;
    assert!(hub.get(&path).await.expect(200).json()["failing_since"].is_string());
    let moved = hub.patch(&path, json!({"url": "http://shop.example/gone"})).await.expect(200).json();
    assert!(moved["failing_since"].is_null(), "another address has no failures yet: {moved}");
    matter.payment(&hub, "2/2026").await;
    let app = Arc::clone(&hub.app);
    let run = tokio::spawn(async move { worker::run_due(&app).await.expect("jobs run") });
    receivers.called.notified().await;
    hub.patch(&path, json!({"url": "http://shop.example/new"})).await.expect(200);
    receivers.may_answer.notify_one();
    run.await.expect("a run");
    let state = hub.get(&path).await.expect(200).json();
    assert_eq!((&state["enabled"], &state["failing_since"]), (&json!(true), &Value::Null), "{state}");
    assert_eq!(open_alerts(&hub, "endpoint.disabled").await, 0);
    hub.advance(60);
    hub.run_jobs().await;
    let told = hub.get(&format!("{path}/deliveries")).await.expect(200).json();
    let states: Vec<&Value> = told["data"].as_array().expect("a list").iter().map(|t| &t["state"]).collect();
    assert_eq!(states, ["delivered", "delivered"]);
});

// I9: what waits for a distant try goes out at once when it is replayed.
on_both!(what_waits_for_a_distant_try_is_hastened_by_a_replay, async |engine: Engine| {
    let hub = Hub::start_with(engine, |c| c.tell_waits_s = vec![0, 86_400, 86_400]).await;
    let server = server(ResponseTemplate::new(500)).await;
    let (id, _) = endpoint(&hub, &server.uri(), json!(["payment.started"])).await;
    matter(&hub).await.payment(&hub, "1/2026").await;
    hub.run_jobs().await;
    let path = format!("/v1/webhook-endpoints/{id}");
    hub.patch(&path, json!({"enabled": false})).await.expect(200);
    hub.advance(600);
    hub.run_jobs().await;
    hub.patch(&path, json!({"enabled": true})).await.expect(200);
    server.reset().await;
    Mock::given(method("POST")).respond_with(ResponseTemplate::new(200)).mount(&server).await;
    assert_eq!(replay(&hub, &id).await, 1);
    assert_eq!(replay(&hub, &id).await, 0, "it is on its way");
    hub.run_jobs().await;
    assert_eq!(server.received_requests().await.expect("kept").len(), 1);
    assert_eq!(replay(&hub, &id).await, 0, "it was delivered");
});

// I9: a test message is one endpoint's own.
on_both!(a_test_message_is_replayed_to_its_endpoint_only, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let (failing, other) = (server(ResponseTemplate::new(500)).await, server(ResponseTemplate::new(200)).await);
    let (tested, _) = endpoint(&hub, &failing.uri(), json!([])).await;
    let (bystander, _) = endpoint(&hub, &other.uri(), json!([])).await;
    hub.post(&format!("/v1/webhook-endpoints/{tested}/test"), json!({})).await.expect(202);
    hub.run_jobs().await;
    assert_eq!(replay(&hub, &bystander).await, 0);
    assert_eq!(replay(&hub, &tested).await, 1);
    hub.run_jobs().await;
    assert_eq!(failing.received_requests().await.expect("kept").len(), 2);
    assert!(other.received_requests().await.expect("kept").is_empty());
});

/// Replays everything; answers how many messages go out again.
async fn replay(hub: &Hub, id: &str) -> i64 {
    let path = format!("/v1/webhook-endpoints/{id}/replay");
    let queued = hub.post(&path, json!({"since": "2026-11-01"})).await.expect(202).json();
    queued["queued"].as_i64().expect("a number")
}

// F43, I9: what waited for its next try when the endpoint was switched off is replayed with the rest.
on_both!(what_waited_when_an_endpoint_was_switched_off_is_replayed, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let server = server(ResponseTemplate::new(500)).await;
    let (id, _) = endpoint(&hub, &server.uri(), json!(["payment.started"])).await;
    let matter = matter(&hub).await;
    let endpoint = format!("/v1/webhook-endpoints/{id}");
    matter.payment(&hub, "1/2026").await;
    hub.run_jobs().await;
    assert_eq!(server.received_requests().await.expect("kept").len(), 1);
    // By its owner; then by the endpoint itself, while the message waits again.
    hub.patch(&endpoint, json!({"enabled": false})).await.expect(200);
    hub.advance(86_400);
    hub.run_jobs().await;
    hub.patch(&endpoint, json!({"enabled": true})).await.expect(200);
    assert_eq!(replay(&hub, &id).await, 1);
    assert_eq!(replay(&hub, &id).await, 0, "it is on its way");
    hub.run_jobs().await;
    assert_eq!(server.received_requests().await.expect("kept").len(), 2);
    server.reset().await;
    Mock::given(method("POST")).respond_with(ResponseTemplate::new(410)).mount(&server).await;
    matter.payment(&hub, "2/2026").await;
    hub.run_jobs().await;
    assert_eq!(server.received_requests().await.expect("kept").len(), 1);
    hub.advance(86_400);
    hub.run_jobs().await;
    hub.patch(&endpoint, json!({"enabled": true})).await.expect(200);
    server.reset().await;
    Mock::given(method("POST")).respond_with(ResponseTemplate::new(200)).mount(&server).await;
    assert_eq!(replay(&hub, &id).await, 2);
    hub.run_jobs().await;
    let told: HashSet<String> = server.received_requests().await.expect("kept").iter().map(id_of).collect();
    assert_eq!(told.len(), 2);
    assert_eq!(replay(&hub, &id).await, 0, "all were delivered");
});

// F41, I9: a delivery that was set aside is replayed too.
on_both!(a_delivery_that_was_set_aside_is_replayed, async |engine: Engine| {
    let hub = Hub::start_with(engine, |c| c.job_max_crashes = 1).await;
    let server = server(ResponseTemplate::new(200)).await;
    let (id, _) = endpoint(&hub, &server.uri(), json!(["payment.started"])).await;
    matter(&hub).await.payment(&hub, "1/2026").await;
    // A worker that dies with the job in its hands.
    let mut tx = hub.app.store.once().await.expect("a transaction");
    let now = hub.app.now();
    assert_eq!(tx.claim_jobs(Lane::Telling, now, now + 1, 1).await.expect("an answer").len(), 1);
    tx.commit().await.expect("a commit");
    hub.advance(1);
    hub.run_jobs().await;
    assert!(server.received_requests().await.expect("kept").is_empty());
    assert_eq!(replay(&hub, &id).await, 1);
    hub.run_jobs().await;
    assert_eq!(server.received_requests().await.expect("kept").len(), 1);
});

// F62: a call to the hub itself could go round for ever; and the operator may know of other places.
#[tokio::test(flavor = "multi_thread")]
async fn the_hub_itself_and_denied_networks_are_never_called() {
    for (is_simulated, at_home) in [(false, 422), (true, 201)] {
        let hub = Hub::start_with(Engine::Sqlite, |c| {
            c.allow_insecure_targets = false;
            c.public_url = "https://hub.example".into();
            c.denied_networks = "2600:1406::/32, 93.184.215.0/24".into();
            c.sandbox = is_simulated;
        })
        .await;
        for (url, status) in [
            ("https://HUB.example./x", at_home),
            ("https://hub.example:8443/sandbox", at_home),
            ("https://shop.hub.example/", 201),
            ("https://93.184.215.14/", 422),
            ("https://[2600:1406::1]/", 422),
            ("https://93.184.216.34/", 201),
        ] {
            hub.post("/v1/webhook-endpoints", json!({"url": url})).await.expect(status);
        }
    }
}

// F62: refused when it is registered, and again at each attempt.
#[tokio::test(flavor = "multi_thread")]
async fn an_address_inside_is_never_called() {
    let hub = Hub::start_with(Engine::Sqlite, |c| c.allow_insecure_targets = false).await;
    for url in ["https://127.0.0.1/", "https://localhost/", "https://169.254.169.254/latest", "http://shop.example/"] {
        let refused = hub.post("/v1/webhook-endpoints", json!({"url": url})).await.expect(422).json();
        assert_eq!(refused["errors"][0]["pointer"], "/url", "{refused}");
    }
    let inside = server(ResponseTemplate::new(200)).await;
    let made =
        hub.post("/v1/webhook-endpoints", json!({"url": "https://hooks.shop.example/"})).await.expect(201).json();
    // As if the name had been let through: the address is checked again when it is called.
    let mut tx = hub.tx().await;
    let id = made["id"].as_str().expect("an id");
    let mut row = tx.endpoint(&hub.merchant.id, id).await.expect("an answer").expect("it is there");
    row.url = inside.uri();
    tx.update_endpoint(&row).await.expect("written");
    tx.commit().await.expect("a commit");
    let matter = matter(&hub).await;
    matter.payment(&hub, "1/2026").await;
    hub.run_jobs().await;
    assert!(inside.received_requests().await.expect("kept").is_empty());
}
