//! A POST that is sent again has one effect and one answer (F56).

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::client::{Client, case_body, id_of, payment_body};
use crate::harness::{Engine, Hub};
use crate::on_both;
use crate::raw::Raw;
use crate::stories::stage::Stage;

const OTHER: &str = "sk_test_other000000000000000000000000000000";

async fn count(client: &Client<'_>, path: &str) -> usize {
    client.get(&format!("{path}?limit=100")).await.expect(200).json()["data"].as_array().unwrap().len()
}

// F56
on_both!(fifty_at_once_make_one_payment_and_get_one_answer, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    let client = Client::new(&stage.hub);
    let body = payment_body(&stage);
    let calls = (0..50).map(|_| client.post_once("one key", "/v1/payments", body.clone()));
    let answers = join_all(calls).await;
    assert!(answers.iter().all(|a| a.status == 201), "{:?}", answers.iter().map(|a| a.status).collect::<Vec<_>>());
    assert_eq!(answers.iter().map(|a| a.body.clone()).collect::<BTreeSet<_>>().len(), 1);
    let first_hand = answers.iter().filter(|a| a.header("idempotent-replayed").is_none()).count();
    assert_eq!((first_hand, count(&client, "/v1/payments").await), (1, 1));
});

// R-5W-16: one live payment per case, also without a key.
on_both!(fifty_clicks_on_one_case_find_one_payment, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    let client = Client::new(&stage.hub);
    let case = id_of(&client.post("/v1/cases", case_body(&stage, "1/2026")).await.expect(201));
    let body = json!({"case": case, "provider_account": stage.account("autopay").id});
    let answers = join_all((0..50).map(|_| client.post("/v1/payments", body.clone()))).await;
    assert_eq!(answers.iter().filter(|a| a.status == 201).count(), 1);
    assert_eq!(answers.iter().filter(|a| a.status == 200).count(), 49);
    assert_eq!(answers.iter().map(id_of).collect::<BTreeSet<_>>().len(), 1);
});

/// All at once.
async fn join_all<T>(calls: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut waiting: Vec<_> = calls.map(|c| (Box::pin(c), None)).collect();
    std::future::poll_fn(|cx| {
        let mut done = true;
        for (call, answer) in &mut waiting {
            if answer.is_none() {
                match call.as_mut().poll(cx) {
                    std::task::Poll::Ready(value) => *answer = Some(value),
                    std::task::Poll::Pending => done = false,
                }
            }
        }
        if done { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    waiting.into_iter().map(|(_, answer)| answer.expect("waited for")).collect()
}

on_both!(a_key_belongs_to_its_request, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    let client = Client::new(&stage.hub);
    let body = payment_body(&stage);
    let first = client.post_once("k-1", "/v1/payments", body.clone()).await.expect(201);
    // Quotes, blanks and the order of fields do not count.
    let again = client.post_once("\"k-1\"", "/v1/payments", body.clone()).await.expect(201);
    assert_eq!((again.body.as_slice(), again.header("idempotent-replayed")), (first.body.as_slice(), Some("true")));
    let mut other = body.clone();
    other["amount"] = json!(12301);
    for (path, body) in [("/v1/payments", other), ("/v1/experts", json!({"name": "A", "email": "a@b.example"}))] {
        let answer = client.post_once("k-1", path, body).await.expect(422);
        assert_eq!(answer.json()["code"], "idempotency_mismatch");
    }
    assert_eq!(count(&client, "/v1/experts").await, 2);
    // The answer stays the one of the first time, whatever became of the payment since.
    let page = stage.open(&first_payment(&stage).await).await;
    stage.press(&page, "pay").await.expect(303);
    stage.carry().await;
    stage.hub.advance(40 * 86_400);
    assert_eq!(client.post_once("k-1", "/v1/payments", body).await.expect(201).json()["status"], "started");
});

async fn first_payment(stage: &Stage) -> grosz::store::Payment {
    let page = grosz::store::Page { before: None, limit: 1 };
    let mut tx = stage.hub.app.store.read().await.unwrap();
    tx.payments(&stage.hub.merchant.id, &Default::default(), &page).await.unwrap().remove(0)
}

#[tokio::test]
async fn keys_of_merchants_do_not_meet() {
    let hub = Hub::start(Engine::Sqlite).await;
    hub.other_merchant("Druga", OTHER).await;
    let body = json!({"name": "Anna", "email": "a@b.example"});
    let one = Client::new(&hub).post_once("same", "/v1/experts", body.clone()).await.expect(201);
    let two = Client::with(&hub, OTHER).post_once("same", "/v1/experts", body).await.expect(201);
    assert_ne!(id_of(&one), id_of(&two));
    assert!(two.header("idempotent-replayed").is_none());
}

#[tokio::test]
async fn a_refused_request_leaves_its_key_free() {
    let hub = Hub::start(Engine::Sqlite).await;
    let client = Client::new(&hub);
    client.post_once("k", "/v1/experts", json!({"name": "Anna", "email": "a"})).await.expect(422);
    client.post_once("k", "/v1/experts", json!({"name": "Anna", "email": "a@b.example"})).await.expect(201);
    assert_eq!(count(&client, "/v1/experts").await, 1);
}

#[tokio::test]
async fn strange_keys_are_refused() {
    let hub = Hub::start(Engine::Sqlite).await;
    let client = Client::new(&hub);
    let body = json!({"name": "Anna", "email": "a@b.example"});
    let long = "x".repeat(10_000);
    for key in ["\"", "\"a\" b", "", long.as_str(), &"y".repeat(256)] {
        let answer = client.post_once(key, "/v1/experts", body.clone()).await.expect(400);
        assert_eq!(answer.json()["code"], "bad_idempotency_key");
    }
    let twice = [("idempotency-key", "a"), ("idempotency-key", "b")];
    client.call("POST", "/v1/experts", Some(body.clone()), &twice).await.expect(400);
    client.post_once(&"z".repeat(255), "/v1/experts", body).await.expect(201);
    assert_eq!(count(&client, "/v1/experts").await, 1);
}

// A secret that is shown once is shown again to the same request, and is not readable in the database meanwhile.
#[tokio::test]
async fn secrets_in_kept_answers_are_sealed() {
    let hub = Hub::start(Engine::Sqlite).await;
    let client = Client::new(&hub);
    let body = json!({"url": "https://shop.example/hook"});
    let first = client.post_once("k", "/v1/webhook-endpoints", body.clone()).await.expect(201);
    let secret = first.json()["secret"].as_str().unwrap().to_owned();
    assert!(secret.starts_with("whsec_"));
    assert_eq!(client.post_once("k", "/v1/webhook-endpoints", body).await.expect(201).body, first.body);
    let mut tx = hub.app.store.read().await.unwrap();
    let kept = tx.stored_answer(&hub.merchant.id, "k").await.unwrap().unwrap();
    assert!(!kept.body.contains(&secret[6..]) && kept.body.starts_with("s1."), "{}", kept.body);
    let shown: Value = client.get(&format!("/v1/webhook-endpoints/{}", id_of(&first))).await.expect(200).json();
    assert!(shown.get("secret").is_none());
}

// F56: an answer that nobody can open any more is as good as gone.
#[tokio::test]
async fn an_answer_under_a_master_key_that_is_gone_is_said_to_be_gone() {
    let hub = Hub::start(Engine::Sqlite).await;
    let client = Client::new(&hub);
    let (path, new) = ("/v1/webhook-endpoints", json!({"url": "https://shop.example/"}));
    let made = client.post_once("k", path, new.clone()).await.expect(201);
    assert_eq!(client.post_once("k", path, new.clone()).await.expect(201).text(), made.text());
    // As if another key had sealed it.
    let raw = Raw::of(&hub.app).await;
    raw.run("UPDATE idempotency_keys SET body = 's1.00000000' || substr(body, 12) WHERE body LIKE 's1.%'").await;
    let refused = client.post_once("k", path, new).await.expect(409);
    assert_eq!(refused.json()["code"], "idempotency_answer_gone");
    assert_eq!(count(&client, path).await, 1);
}
