//! Refusals: right status, right field, plain words.

use grosz::domain::payment::Status;
use grosz_providers::{Event, EventKind};
use insta::assert_json_snapshot;
use serde_json::json;

use super::client::{Client, check_problem, refused};
use crate::harness::{Engine, Hub, KEY};
use crate::matter::{event, matter};
use crate::on_both;
use crate::stories::stage::Stage;

#[tokio::test]
async fn without_a_valid_key_nothing_is_said() {
    let hub = Hub::start(Engine::Sqlite).await;
    let bad = format!("sk_test_{}", "0".repeat(64));
    let strange = ["", "Bearer", "Bearer ", "Bearer x", "Basic abc", &format!("Bearer {bad}"), &format!("Basic {KEY}")];
    for value in strange {
        let headers = [("authorization", value.to_owned())];
        let answer = hub.raw("GET", "/v1/merchant", &headers, vec![]).await.expect(401);
        check_problem(&answer);
        assert_eq!(answer.header("www-authenticate"), Some("Bearer"));
        assert!(answer.json().get("detail").is_none());
    }
    check_problem(&hub.raw("GET", "/v1/merchant", &[], vec![]).await.expect(401));
    // The scheme's spelling is free.
    hub.raw("GET", "/v1/merchant", &[("authorization", format!("bEARER {KEY}"))], vec![]).await.expect(200);
}

#[tokio::test]
async fn a_key_does_what_its_scopes_say() {
    let hub = Hub::start(Engine::Sqlite).await;
    let mut tx = hub.tx().await;
    let make = grosz::flows::add_key::make_key(&hub.app, &mut tx, &hub.merchant.id, "reader", false, &["read"]).await;
    let (row, reader) = make.unwrap();
    tx.commit().await.unwrap();
    assert!(!row.hash.contains(&reader[8..]) && reader.starts_with(&row.hint));
    let client = Client::with(&hub, &reader);
    client.get("/v1/experts").await.expect(200);
    let answer = client.post("/v1/experts", json!({"name": "A", "email": "a@b.example"})).await.expect(403);
    assert_eq!(answer.json()["code"], "scope_missing");
}

// F61: a revoked key dies within seconds although it was used a moment ago.
#[tokio::test]
async fn a_revoked_key_is_dead_within_seconds() {
    let hub = Hub::start(Engine::Sqlite).await;
    let mut tx = hub.tx().await;
    let make = grosz::flows::add_key::make_key(&hub.app, &mut tx, &hub.merchant.id, "old", false, &["read"]).await;
    let (row, key) = make.unwrap();
    tx.commit().await.unwrap();
    let client = Client::with(&hub, &key);
    client.get("/v1/merchant").await.expect(200);
    let mut tx = hub.tx().await;
    assert!(tx.revoke_api_key(&hub.merchant.id, &row.id, hub.app.now()).await.unwrap());
    tx.commit().await.unwrap();
    hub.advance(2);
    client.get("/v1/merchant").await.expect(401);
}

#[tokio::test]
async fn addresses_methods_and_types_that_do_not_fit() {
    let hub = Hub::start(Engine::Sqlite).await;
    let client = Client::new(&hub);
    for path in ["/v1", "/v1/", "/v1/nothing", "/v1/experts/x/y/z"] {
        assert_eq!(client.get(path).await.expect(404).json()["code"], "not_found");
    }
    let answer = client.call("PUT", "/v1/experts", None, &[]).await.expect(405);
    assert!(answer.header("allow").is_some_and(|a| a.contains("GET") && a.contains("POST")));
    let answer = client.call("POST", "/v1/experts", Some(json!({})), &[("content-type", "text/plain")]).await;
    assert_eq!(answer.expect(415).json()["code"], "unsupported_media_type");
    client.call("POST", "/v1/experts", Some(json!({})), &[("content-encoding", "gzip")]).await.expect(415);
}

#[tokio::test]
async fn what_is_not_json_is_400_and_what_is_too_large_413() {
    let hub = Hub::start(Engine::Sqlite).await;
    let headers = [("content-type", "application/json".to_owned()), ("authorization", format!("Bearer {KEY}"))];
    // F47
    let deep = "[".repeat(100_000);
    for body in ["{", "{\"name\"", "nonsense", "{} {}", "{\"name\": NaN}", "{\"name\": \"\\ud800\"}", &deep] {
        let answer = hub.raw("POST", "/v1/experts", &headers, body.as_bytes().to_vec()).await;
        check_problem(&answer);
        assert!(matches!(answer.status, 400 | 422), "{}", answer.text());
    }
    let answer = hub.raw("POST", "/v1/experts", &headers, b"{\"name\": \"\xff\"}".to_vec()).await.expect(400);
    check_problem(&answer);
    let large = format!("{{\"name\": \"{}\"}}", "x".repeat(1_100_000));
    let answer = hub.raw("POST", "/v1/experts", &headers, large.into_bytes()).await.expect(413);
    check_problem(&answer);
    assert!(answer.text().contains("1048576 bytes"), "{}", answer.text());
    let deep = format!("{}1{}", "{\"a\":".repeat(200), "}".repeat(200));
    let answer = hub.raw("POST", "/v1/experts", &headers, deep.into_bytes()).await.expect(400);
    check_problem(&answer);
    assert_eq!(answer.json()["code"], "bad_request");
    assert!(answer.text().contains("128 levels"), "{}", answer.text());
    let digits = format!("{{\"amount\": {}}}", "9".repeat(100_000));
    check_problem(&hub.raw("POST", "/v1/payments", &headers, digits.into_bytes()).await.expect(400));
}

#[tokio::test]
async fn refusals_name_the_field() {
    let hub = Hub::start(Engine::Sqlite).await;
    let client = Client::new(&hub);
    let good = json!({"name": "Anna", "email": "anna@kancelaria.example"});
    let with = |name: &str, value: serde_json::Value| {
        let mut body = good.clone();
        body[name] = value;
        body
    };
    for (body, field) in [
        (json!({}), "/name"),
        (json!([]), ""),
        (with("colour", json!(1)), "/colour"),
        (with("name", json!(7)), "/name"),
        (with("name", json!(null)), "/name"),
        (with("name", json!("")), "/name"),
        (with("name", json!("x".repeat(201))), "/name"),
        (with("name", json!("Anna\nNowak")), "/name"),
        (with("name", json!("Anna\u{202e}")), "/name"),
        (with("email", json!("anna")), "/email"),
        (with("email", json!("anna@kancelaria.example\r\nBcc: x@y.example")), "/email"),
        (with("language", json!("de")), "/language"),
    ] {
        assert_eq!(refused(&client.post("/v1/experts", body).await), [field]);
    }
    let twice = br#"{"name": "A", "name": "B", "email": "a@b.example"}"#.to_vec();
    let headers = [("content-type", "application/json".to_owned()), ("authorization", format!("Bearer {KEY}"))];
    assert_eq!(refused(&hub.raw("POST", "/v1/experts", &headers, twice).await), ["/name"]);
    for (query, field) in [
        ("limit=0", "limit"),
        ("limit=101", "limit"),
        ("limit=ten", "limit"),
        ("limit=1&limit=2", "limit"),
        ("cursor=abc", "cursor"),
        ("colour=red", "colour"),
    ] {
        assert_eq!(refused(&client.get(&format!("/v1/experts?{query}")).await), [field]);
    }
    let answer = client.post("/v1/experts", json!({"name": "", "email": "x", "language": "de"})).await;
    assert_json_snapshot!(answer.json(), {".request_id" => "[request]"});
}

// serde takes the fields of an object from a list in their order, the last of two values under one name, and all of
// nothing: a refund of everything for `[null,null,null]`.
#[tokio::test]
async fn a_list_is_no_object_and_a_name_is_given_once() {
    let stage = Stage::set(Engine::Sqlite).await;
    let headers = [("content-type", "application/json".to_owned()), ("authorization", format!("Bearer {KEY}"))];
    let paid = stage.pay("1/2026", "stripe", "pay").await;
    let refunds = format!("/v1/payments/{}/refunds", paid.id);
    let reissue = format!("/v1/payments/{}/invoice/reissue", paid.id);
    let account = format!("/v1/provider-accounts/{}", stage.account("autopay").id);
    for (method, path, body, field) in [
        ("POST", "/v1/experts", r#"["Anna","a@b.example",null]"#, ""),
        ("POST", refunds.as_str(), "[null,null,null]", ""),
        ("POST", refunds.as_str(), "[]", ""),
        ("POST", refunds.as_str(), "7", ""),
        ("POST", "/v1/payments", r#"{"lines": [["a", 1, 100, 23]]}"#, "/lines/0"),
        ("POST", "/v1/experts", r#"{"name": "A", "name": "B", "email": "a@b.example"}"#, "/name"),
        ("POST", reissue.as_str(), r#"{"buyer": ["individual", "Jan", null]}"#, "/buyer"),
        ("POST", reissue.as_str(), r#"{"buyer": {"kind": "individual", "name": 7}}"#, "/buyer/name"),
        ("PATCH", account.as_str(), r#"{"settings": {"hash": "sha256", "hash": "sha512"}}"#, "/settings/hash"),
        ("PATCH", account.as_str(), r#"{"settings": {"hash": "sha256"}, "settings": {}}"#, "/settings"),
    ] {
        let answer = stage.hub.raw(method, path, &headers, body.as_bytes().to_vec()).await;
        assert_eq!(refused(&answer), [field], "{body}");
    }
    assert!(stage.refunds(&paid).await.is_empty());
    // A body that may be left out may be null, as the document says.
    let again = format!("/v1/payments/{}/retry", stage.start(&stage.case("2/2026").await, "stripe").await.id);
    for body in ["null", " null\n", ""] {
        stage.hub.raw("POST", &again, &headers, body.as_bytes().to_vec()).await.expect(200);
    }
    assert_eq!(refused(&stage.hub.raw("POST", "/v1/experts", &headers, b"null".to_vec()).await), ["/name"]);
}

// F66: a name that no text of ours can be leads nowhere, on either engine, and what a gateway says with it is kept.
on_both!(the_character_nul_names_nothing_and_breaks_nothing, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let client = Client::new(&hub);
    check_problem(&client.get("/v1/payments/%00").await.expect(404));
    assert_eq!(client.get("/v1/payments?payer=%00").await.expect(200).json()["data"], json!([]));
    let order = json!({"payer": "\u{0}", "amount": 100, "currency": "PLN", "description": "a"});
    assert_eq!(refused(&client.post("/v1/payments", order).await.expect(422)), ["/payer"]);
    for path in ["/return/%00", "/pay/%00", "/portal/%00"] {
        hub.raw("GET", path, &[], vec![]).await.expect(404);
    }
    hub.raw("POST", "/webhooks/autopay/%00", &[], b"transactions=eA".to_vec()).await.expect(404);

    let matter = matter(&hub).await;
    let (payment, attempt) = matter.lone_payment(&hub).await;
    let told = Event { detail: "a\0b".into(), ..event(&attempt, "k\0", EventKind::Paid, "r\x001") };
    matter.receive(&hub, told).await;
    let now = hub.tx().await.payment(&payment.merchant_id, &payment.id).await.unwrap().unwrap();
    assert_eq!(now.status, Status::Completed);
});
