//! One merchant never sees or touches another's rows: a foreign id answers like an id that never was (F66).

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::client::{Client, case_body, id_of, operations};
use crate::harness::{Answer, Engine, Hub};
use crate::on_both;
use crate::raw::Raw;
use crate::stories::stage::Stage;

const OTHER: &str = "sk_test_other000000000000000000000000000000";

// F66
on_both!(a_foreign_id_is_an_unknown_id_everywhere, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    stage.hub.other_merchant("Druga", OTHER).await;
    let mine = ids_of(&stage).await;
    for (method, path, operation) in operations().into_iter().filter(|(_, path, _)| path.contains('{')) {
        let name = operation["operationId"].as_str().unwrap();
        let foreign = fill(&path, |kind| mine[kind].clone());
        let unknown = fill(&path, |kind| stage.hub.app.ids.make(kind));
        let body = body_of(name);
        let theirs = call(&stage.hub, &method, &foreign, &body).await;
        let nobodys = call(&stage.hub, &method, &unknown, &body).await;
        assert_eq!(theirs.status, 404, "{name}: {}", theirs.text());
        assert_eq!(without_request(&theirs), without_request(&nobodys), "{name}");
    }
});

async fn call(hub: &Hub, method: &str, path: &str, body: &Value) -> Answer {
    if method == "PUT" {
        let headers = [("content-type", "application/pdf".to_owned()), ("authorization", format!("Bearer {OTHER}"))];
        return hub.raw(method, path, &headers, b"%PDF-1.7".to_vec()).await;
    }
    hub.call(method, path, Some(OTHER), (method != "GET").then(|| body.clone()), &[]).await
}

/// A body that would be fine, so that nothing but the id stands in the way.
fn body_of(operation: &str) -> Value {
    match operation {
        "create_profile" => json!({"kind": "individual", "name": "Jan", "street": "Prosta 1", "postcode": "00-950",
            "city": "Warszawa", "country": "PL", "email": "jan@example.com"}),
        "replay_messages" => json!({"since": "2026-11-01"}),
        _ => json!({}),
    }
}

/// Everything but what names the request itself: status, headers of content, body.
fn without_request(answer: &Answer) -> (u16, Vec<String>, Value) {
    let mut body = answer.json();
    body["request_id"] = Value::Null;
    let mut headers: Vec<String> = answer
        .headers
        .iter()
        .filter(|(name, _)| !matches!(name.as_str(), "x-request-id" | "date"))
        .map(|(name, value)| format!("{name}: {value:?}"))
        .collect();
    headers.sort();
    (answer.status, headers, body)
}

fn fill(path: &str, id: impl Fn(&str) -> String) -> String {
    let kind = match path.split('/').nth(2).unwrap() {
        "provider-accounts" => "acc",
        "invoicing-accounts" => "inv",
        "experts" => "exp",
        "payers" => "pyr",
        "cases" => "case",
        "payments" => "pay",
        "alerts" => "alr",
        "notices" => "ntc",
        "jobs" => "job",
        "deliveries" => "dlv",
        "webhook-endpoints" => "ep",
        other => panic!("no id for {other}"),
    };
    path.replace("{id}", &id(kind)).replace("{profile}", &id("prf"))
}

/// One id of each kind of the first merchant's.
async fn ids_of(stage: &Stage) -> BTreeMap<&'static str, String> {
    let client = Client::new(&stage.hub);
    let paid = stage.pay("1/2026", "stripe", "pay").await;
    stage.hub.run_jobs().await;
    let file = format!("/v1/payments/{}/invoice/attachment", paid.id);
    client.put(&file, "application/pdf", b"%PDF-1.7").await.expect(200);
    // The twice paid case opens an alert.
    stage.dial(json!({"autopay": {"wrong_amount": 1}})).await;
    stage.pay("2/2026", "autopay", "pay").await;
    let newest = async |path: &str| {
        let list = client.get(path).await.expect(200).json();
        list["data"][0]["id"].as_str().unwrap_or_else(|| panic!("nothing at {path}")).to_owned()
    };
    let job = stage.hub.app.ids.make("job");
    let set_aside = format!(
        "INSERT INTO jobs (merchant_id, id, kind, subject, state, set_aside, run_at, attempts, crashes, fence, created_at)
         VALUES ('{}', '{job}', 'poll_status', 'att_1', 'failed', '{job}', 1, 1, 5, 1, 1)",
        stage.hub.merchant.id
    );
    Raw::of(&stage.hub.app).await.run(set_aside).await;
    let endpoint = client.post("/v1/webhook-endpoints", json!({"url": "https://shop.example/hook"})).await.expect(201);
    BTreeMap::from([
        ("acc", stage.account("stripe").id.clone()),
        ("inv", stage.invoicing.id.clone()),
        ("exp", stage.experts[0].id.clone()),
        ("pyr", stage.payer.id.clone()),
        ("prf", newest(&format!("/v1/payers/{}/profiles", stage.payer.id)).await),
        ("case", paid.case_id.clone().unwrap()),
        ("pay", paid.id.clone()),
        ("alr", newest("/v1/alerts").await),
        ("ntc", newest("/v1/notices").await),
        ("job", job),
        ("dlv", newest("/v1/deliveries").await),
        ("ep", id_of(&endpoint)),
    ])
}

// The ids do work in the hands of their owner: else the sweep above would prove nothing.
#[tokio::test]
async fn the_same_ids_answer_their_owner() {
    let stage = Stage::set(Engine::Sqlite).await;
    let mine = ids_of(&stage).await;
    let client = Client::new(&stage.hub);
    for (_, path, _) in operations().into_iter().filter(|(m, path, _)| m == "GET" && path.contains('{')) {
        client.get(&fill(&path, |kind| mine[kind].clone())).await.expect(200);
    }
}

#[tokio::test]
async fn filters_and_references_do_not_reach_across() {
    let stage = Stage::set(Engine::Sqlite).await;
    stage.hub.other_merchant("Druga", OTHER).await;
    let mine = ids_of(&stage).await;
    let other = Client::with(&stage.hub, OTHER);
    for path in [
        format!("/v1/payments?payer={}", mine["pyr"]),
        format!("/v1/payments?case={}", mine["case"]),
        format!("/v1/cases?payer={}", mine["pyr"]),
        format!("/v1/alerts?state=all&payment={}", mine["pay"]),
        format!("/v1/notices?payment={}", mine["pay"]),
        format!("/v1/deliveries?payment={}", mine["pay"]),
        format!("/v1/deliveries?provider_account={}", mine["acc"]),
        "/v1/jobs".into(),
        "/v1/events".into(),
        "/v1/webhook-endpoints".into(),
        "/v1/experts".into(),
    ] {
        assert_eq!(other.get(&path).await.expect(200).json()["data"], json!([]), "{path}");
    }
    // A reference to somebody else's thing reads like one to nothing.
    let account = json!({"provider": "autopay", "settings": {"service_id": "123456", "shared_key": "key"}});
    other.post("/v1/provider-accounts", account).await.expect(201);
    let payer = id_of(&other.post("/v1/payers", json!({"name": "Ewa", "email": "e@b.example"})).await.expect(201));
    let good = json!({"amount": 100, "currency": "PLN", "description": "x", "payer": payer});
    for (name, kind) in [("case", "case"), ("payer", "pyr"), ("profile", "prf"), ("provider_account", "acc")] {
        let with = |id: &str| {
            let mut body = if name == "case" { json!({"payer": payer}) } else { good.clone() };
            body[name] = json!(id);
            body
        };
        let theirs = other.post("/v1/payments", with(&mine[kind])).await.expect(422);
        let nobodys = other.post("/v1/payments", with(&stage.hub.app.ids.make(kind))).await.expect(422);
        assert_eq!(without_request(&theirs), without_request(&nobodys), "{name}");
    }
    let mut case = case_body(&stage, "9/2026");
    assert_eq!(super::client::refused(&other.post("/v1/cases", case.clone()).await), ["/payer"]);
    case["payer"] = json!(payer);
    assert_eq!(super::client::refused(&other.post("/v1/cases", case).await), ["/expert"]);
}
