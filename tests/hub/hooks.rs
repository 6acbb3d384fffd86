//! What comes to the webhook addresses and is no news: refused in the right form, counted, without a trace in any state.

use std::time::Duration;

use grosz_providers::{Event, EventKind, Reference};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::task::JoinSet;

use crate::harness::{Engine, Hub, KEY, client};
use crate::matter::{event, matter};
use crate::on_both;

fn form() -> [(&'static str, String); 1] {
    [("content-type", "application/x-www-form-urlencoded".into())]
}

// F13, F45, F48: refused, counted, nothing recorded, and the table of refusals stays small.
on_both!(what_is_refused_leaves_no_trace, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let matter = matter(&hub).await;
    let (payment, _) = matter.payment(&hub, "1/2026").await;
    let to = format!("/webhooks/{}/{}", matter.account.provider, matter.account.id);
    for n in 0..60 {
        let answer = hub.raw("POST", &to, &form(), format!("transactions=forged{n}").into_bytes()).await;
        assert!((400..500).contains(&answer.status), "{}", answer.status);
        hub.advance(20);
    }
    for (method, path, expect) in [
        ("GET", to.as_str(), 405),
        ("POST", "/webhooks/nobody/acc_1", 404),
        ("POST", &format!("/webhooks/{}/acc_01JD4Q2X7W8Z9A0B1C2D3E4F5G", matter.account.provider), 404),
        ("POST", &format!("/webhooks/elsewhere/{}", matter.account.id), 404),
    ] {
        let answer = hub.raw(method, path, &form(), b"x".to_vec()).await;
        assert_eq!(answer.status, expect, "{method} {path}");
        assert!(answer.body.is_empty() || answer.status == 405, "no detail: {}", answer.text());
    }
    let huge = vec![b'x'; hub.app.config.body_limit_bytes + 1];
    assert_eq!(hub.raw("POST", &to, &form(), huge).await.status, 413);
    let zipped = [form()[0].clone(), ("content-encoding", "gzip".into())];
    assert_eq!(hub.raw("POST", &to, &zipped, b"x".to_vec()).await.status, 415);

    let mut tx = hub.app.store.read().await.expect("a reader");
    let page = grosz::store::Page { before: None, limit: 100 };
    let filter = grosz::store::DeliveryFilter::default();
    assert!(tx.deliveries(&hub.merchant.id, &filter, &page).await.expect("deliveries").is_empty());
    assert_eq!(tx.transitions(&hub.merchant.id, &payment.id).await.expect("moves").len(), 1);
    let refusals = tx.refusals(&hub.merchant.id, &matter.account.id).await.expect("refusals").len();
    assert!((1..=20).contains(&refusals), "{refusals} kept");
    let metrics = hub.raw("GET", "/metrics", &[], vec![]).await.text();
    let counted = metrics.lines().filter(|l| l.starts_with("grosz_deliveries_total")).count();
    assert!(counted > 0, "{metrics}");
});

// F48: a crowd at one address asks for its account once, and again, once, when it is believed no longer.
on_both!(a_crowd_asks_for_its_account_once, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let matter = matter(&hub).await;
    // Another gateway's address: nothing but the account is looked for.
    let to = format!("{}/webhooks/elsewhere/{}", hub.url, matter.account.id);
    let client = client();
    for crowd in [1, 2] {
        let before = hub.app.store.statements();
        let mut calls = JoinSet::new();
        for _ in 0..64 {
            calls.spawn(client.post(&to).body("x").send());
        }
        while let Some(answer) = calls.join_next().await {
            assert_eq!(answer.unwrap().expect("the hub answers").status(), 404);
        }
        assert_eq!(hub.app.store.statements() - before, 1, "crowd {crowd}");
        hub.advance(2);
    }
});

// Signed and unreadable: no repeat and no waiting helps, so a person is told at once, once for an account.
on_both!(a_genuine_message_that_cannot_be_read_is_told_at_once, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let matter = matter(&hub).await;
    let (payment, attempt) = matter.payment(&hub, "1/2026").await;
    for key in ["undecodable:1", "undecodable:2", "undecodable:1"] {
        let reference = Reference::Gateway(String::new());
        let unreadable = Event { reference, ..event(&attempt, key, EventKind::Unknown, "") };
        matter.receive(&hub, Event { amount: None, gateway_ref: None, ..unreadable }).await;
    }
    let mut tx = hub.app.store.read().await.expect("a reader");
    let page = grosz::store::Page { before: None, limit: 100 };
    let alerts = tx.alerts(&hub.merchant.id, None, true, &page).await.expect("alerts");
    let codes: Vec<&str> = alerts.iter().map(|a| a.code.as_str()).collect();
    assert_eq!(codes, ["event.unreadable"]);
    let filter = grosz::store::DeliveryFilter::default();
    assert_eq!(tx.deliveries(&hub.merchant.id, &filter, &page).await.expect("deliveries").len(), 2, "kept");
    assert_eq!(tx.transitions(&hub.merchant.id, &payment.id).await.expect("moves").len(), 1);
    let planned = tx.jobs(&hub.merchant.id, None, &page).await.expect("jobs");
    assert!(planned.iter().all(|j| j.kind.word() != "retry_event"), "{planned:?}");
});

// F44, F45: a head that never ends and a body that lies about its length cost one connection and a time limit.
#[tokio::test(flavor = "multi_thread")]
async fn slow_and_lying_callers_do_not_hold_the_others() {
    let hub = Hub::start_with(Engine::Sqlite, |c| (c.header_read_s, c.request_s) = (1, 1)).await;
    let address = hub.url.trim_start_matches("http://").to_owned();
    let mut slow = vec![];
    for n in 0..200 {
        let mut stream = tokio::net::TcpStream::connect(&address).await.expect("a connection");
        let begun: &[u8] = if n % 2 == 0 {
            b"POST /webhooks/a/b HTTP/1.1\r\nHost: h\r\nX-"
        } else {
            b"POST /webhooks/a/b HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000\r\n\r\nx"
        };
        stream.write_all(begun).await.expect("sent");
        slow.push(stream);
    }
    let healthy = tokio::time::timeout(Duration::from_secs(5), hub.raw("GET", "/healthz", &[], vec![])).await;
    assert_eq!(healthy.expect("at once").status, 200);
    for mut stream in slow {
        // Each is closed by us, with or without an answer.
        let mut rest = vec![];
        let closed = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut rest)).await;
        assert!(closed.is_ok(), "a slow caller is still connected");
    }
}

// F44: a webhook whose body does not come is given up long before other requests are.
#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_does_not_come_is_waited_for_as_long_as_gateways_wait() {
    let hub = Hub::start_with(Engine::Sqlite, |c| (c.webhook_read_s, c.request_s) = (1, 3600)).await;
    let address = hub.url.trim_start_matches("http://").to_owned();
    let mut stream = tokio::net::TcpStream::connect(&address).await.expect("a connection");
    let begun = b"POST /webhooks/a/b HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nslow";
    stream.write_all(begun).await.expect("sent");
    let mut answer = String::new();
    let closed = tokio::time::timeout(Duration::from_secs(60), stream.read_to_string(&mut answer)).await;
    closed.expect("it is given up").expect("an answer");
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}

// F48: while the database is away nobody knows which addresses are ours; made-up names of gateways are no labels.
#[tokio::test(flavor = "multi_thread")]
async fn names_of_nobody_are_counted_as_one() {
    let hub = Hub::start(Engine::Sqlite).await;
    hub.app.store.close().await;
    for n in 0..1000 {
        hub.raw("POST", &format!("/webhooks/nobody{n}/acc"), &[], b"x".to_vec()).await.expect(503);
    }
    hub.raw("POST", "/webhooks/autopay/acc", &[], b"x".to_vec()).await.expect(503);
    let text = hub.raw("GET", "/metrics", &[], vec![]).await.expect(200).text();
    let lines: Vec<&str> = text.lines().filter(|l| l.starts_with("grosz_deliveries_total{")).collect();
    assert!(
        lines.len() == 2 && lines.iter().all(|l| l.contains("\"unread\"") || l.contains("\"autopay\"")),
        "{lines:?}"
    );
}

/// The status and the problem with which these bytes are answered.
async fn problem_of(hub: &Hub, request: &str) -> (String, serde_json::Value) {
    let mut stream = tokio::net::TcpStream::connect(hub.url.trim_start_matches("http://")).await.expect("a connection");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = vec![];
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
    read.expect("closed").expect("read");
    let answer = String::from_utf8(answer).expect("text");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    let problem: serde_json::Value = serde_json::from_str(body).unwrap_or_else(|e| panic!("{e}: {answer}"));
    assert!(head.contains("content-type: application/problem+json"), "{head}");
    let id = problem["request_id"].as_str().expect("a name");
    assert!(head.contains(&format!("x-request-id: {id}")), "{head}");
    (head[9..12].to_owned(), problem)
}

// F44, F45: what is refused before anybody looks at it is told like everything else, with the limit.
#[tokio::test(flavor = "multi_thread")]
async fn what_no_handler_answered_is_a_problem_too() {
    let hub = Hub::start_with(Engine::Sqlite, |c| c.request_s = 1).await;
    let post = "POST /v1/experts HTTP/1.1\r\nHost: h\r\n";
    let key = format!("Authorization: Bearer {KEY}\r\nContent-Type: application/json\r\n");
    let large = "x".repeat(16 * 1024);
    for (request, status, code, detail) in [
        (format!("{post}X-Large: {large}\r\n\r\n"), "431", "head_too_large", "16384 bytes"),
        (
            format!("{post}Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
            "400",
            "bad_request",
            "in two ways",
        ),
        (format!("{post}Content-Length: 1000000000000\r\n\r\nx"), "413", "too_large", "10485760 bytes"),
        (format!("{post}{key}Connection: close\r\nContent-Length: 10\r\n\r\n{{"), "408", "timeout", "within 1 seconds"),
        (format!("GET /nowhere HTTP/1.1\r\nHost: h\r\nX-Large: {large}\r\n\r\n"), "431", "head_too_large", "16384"),
    ] {
        let (told, problem) = problem_of(&hub, &request).await;
        assert_eq!((told.as_str(), problem["code"].as_str()), (status, Some(code)), "{problem}");
        assert!(problem["detail"].as_str().is_some_and(|d| d.contains(detail)), "{problem}");
    }
}

// F44: requests that can be read in two ways are read in none.
#[tokio::test(flavor = "multi_thread")]
async fn what_can_be_read_in_two_ways_is_refused() {
    let hub = Hub::start(Engine::Sqlite).await;
    let address = hub.url.trim_start_matches("http://").to_owned();
    for head in [
        "POST /webhooks/a/b HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\nContent-Length: 5\r\n\r\nabcde",
        "POST /webhooks/a/b HTTP/1.1\r\nHost: h\r\nContent-Length: -1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost : h\r\n\r\n",
        "POST /healthz HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST /healthz HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
        "POST /healthz HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n",
        "POST /healthz HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        let mut stream = tokio::net::TcpStream::connect(&address).await.expect("a connection");
        stream.write_all(head.as_bytes()).await.expect("sent");
        let mut answer = vec![];
        let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut answer)).await;
        read.expect("closed").expect("read");
        assert!(answer.starts_with(b"HTTP/1.1 400"), "{}", String::from_utf8_lossy(&answer));
    }
}

// F45: a length that nobody takes is refused before a byte of the body came; so is a head that is too large. A body of
// unknown length is fine, also after another request on its connection.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_is_refused_at_once() {
    let hub = Hub::start_with(Engine::Sqlite, |c| c.request_s = 600).await;
    let address = hub.url.trim_start_matches("http://").to_owned();
    let large = format!("GET /healthz HTTP/1.1\r\nHost: h\r\nX-Large: {}\r\n\r\n", "x".repeat(16 * 1024));
    let chunked = "POST /healthz HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nabcde\r\n0\r\n\r\n";
    let sized = "POST /healthz HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\n\r\nabcde";
    let last = "GET /healthz HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n";
    for (requests, expect) in [
        (vec!["POST /webhooks/a/b HTTP/1.1\r\nHost: h\r\nContent-Length: 1000000000000\r\n\r\nx"], vec!["413"]),
        (vec![&large], vec!["431"]),
        (vec![sized, chunked, sized, chunked, last], vec!["405", "405", "405", "405", "200"]),
    ] {
        let mut stream = tokio::net::TcpStream::connect(&address).await.expect("a connection");
        let mut statuses = vec![];
        for request in &requests {
            stream.write_all(request.as_bytes()).await.expect("sent");
            let mut answer = vec![0; 4096];
            let read = tokio::time::timeout(Duration::from_secs(20), stream.read(&mut answer)).await;
            let read = read.expect("an answer").expect("read");
            statuses.push(String::from_utf8_lossy(&answer[9..read.max(9)]).chars().take(3).collect::<String>());
        }
        assert_eq!(statuses, expect, "{requests:?}");
    }
}

// F02, F19: a thousand copies at the same time through the intake: one move, every copy acknowledged.
on_both!(a_thousand_copies_are_one_event, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let matter = matter(&hub).await;
    let (payment, attempt) = matter.payment(&hub, "1/2026").await;
    let (intake, _committers) = grosz::intake::Intake::<grosz::http::webhooks::Webhooks>::start(&hub.app);
    let told = event(&attempt, "paid", EventKind::Paid, "r1");
    let mut copies = tokio::task::JoinSet::new();
    for _ in 0..1000 {
        let (intake, inbound) = (intake.clone(), matter.delivery(&hub, told.clone()));
        copies.spawn(async move { intake.submit(inbound).await });
    }
    let mut acknowledged = 0;
    while let Some(answer) = copies.join_next().await {
        assert_eq!(answer.expect("a copy").expect("recorded"), [grosz_providers::Outcome::Recorded]);
        acknowledged += 1;
    }
    assert_eq!(acknowledged, 1000);
    let mut tx = hub.app.store.read().await.expect("a reader");
    assert_eq!(tx.transitions(&hub.merchant.id, &payment.id).await.expect("moves").len(), 2);
    assert_eq!(tx.events_of_payment(&hub.merchant.id, &payment.id).await.expect("events").len(), 1);
    let timeline = hub.get(&format!("/v1/payments/{}", payment.id)).await.expect(200).json();
    assert_eq!(timeline["status"], json!("completed"));
});
