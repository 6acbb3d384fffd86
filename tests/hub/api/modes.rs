//! Live and test do not meet.

use serde_json::json;

use super::client::{Client, id_of, payment_body};
use crate::harness::Engine;
use crate::stories::stage::Stage;

#[tokio::test]
async fn a_key_sees_payments_and_accounts_of_its_own_mode() {
    let stage = Stage::set_with(Engine::Sqlite, |config| {
        config.master_key = grosz::config::Hidden("00112233445566778899aabbccddeeff".repeat(2));
    })
    .await;
    let mut tx = stage.hub.tx().await;
    let merchant = &stage.hub.merchant.id;
    let scopes = ["read", "write"];
    let made = grosz::flows::add_key::make_key(&stage.hub.app, &mut tx, merchant, "live", true, &scopes).await;
    let live_key = made.unwrap().1;
    tx.commit().await.unwrap();
    let (test, live) = (Client::new(&stage.hub), Client::with(&stage.hub, &live_key));
    assert_eq!(live.get("/v1/merchant").await.expect(200).json()["live"], true);

    let paid = stage.pay("1/2026", "stripe", "pay").await;
    stage.hub.run_jobs().await;
    let payment = format!("/v1/payments/{}", paid.id);
    let account = format!("/v1/provider-accounts/{}", stage.account("stripe").id);
    let invoicing = format!("/v1/invoicing-accounts/{}", stage.invoicing.id);
    let deliveries = test.get("/v1/deliveries").await.expect(200).json();
    let delivery = format!("/v1/deliveries/{}", deliveries["data"][0]["id"].as_str().unwrap());
    for path in
        [&payment, &format!("{payment}/invoice.pdf"), &format!("{payment}/timeline"), &account, &invoicing, &delivery]
    {
        test.get(path).await.expect(200);
        live.get(path).await.expect(404);
    }
    live.post(&format!("{payment}/refunds"), json!({})).await.expect(404);
    live.post(&format!("{delivery}/replay"), json!({})).await.expect(404);
    live.patch(&account, json!({"enabled": false})).await.expect(404);
    for path in ["/v1/payments", "/v1/provider-accounts", "/v1/invoicing-accounts", "/v1/deliveries"] {
        assert_eq!(live.get(path).await.expect(200).json()["data"], json!([]), "{path}");
    }
    // No live payment at a test account, and a live account only by a live key.
    live.post("/v1/payments", payment_body(&stage)).await.expect(422);
    let settings = json!({"service_id": "123456", "shared_key": "key"});
    let real = json!({"service_id": "123456", "shared_key": "key", "gateway_url": "https://pay.autopay.eu"});
    let new =
        |live: bool| json!({"provider": "autopay", "settings": if live { &real } else { &settings }, "live": live});
    test.post("/v1/provider-accounts", new(true)).await.expect(422);
    live.post("/v1/provider-accounts", new(false)).await.expect(422);
    let made = live.post("/v1/provider-accounts", new(true)).await.expect(201);
    test.get(&format!("/v1/provider-accounts/{}", id_of(&made))).await.expect(404);
    // One key of the client's own choice does not lead from one mode into the other.
    let body = json!({"name": "Anna", "email": "a@b.example"});
    test.post_once("k", "/v1/experts", body.clone()).await.expect(201);
    live.post_once("k", "/v1/experts", body).await.expect(422);
}

#[tokio::test]
async fn live_accounts_need_a_master_key() {
    let stage = Stage::set(Engine::Sqlite).await;
    let mut tx = stage.hub.tx().await;
    let merchant = &stage.hub.merchant.id;
    let made = grosz::flows::add_key::make_key(&stage.hub.app, &mut tx, merchant, "live", true, &["write"]).await;
    let live_key = made.unwrap().1;
    tx.commit().await.unwrap();
    let settings = json!({"service_id": "123456", "shared_key": "key", "gateway_url": "https://pay.autopay.eu"});
    let live = Client::with(&stage.hub, &live_key);
    let answer =
        live.post("/v1/provider-accounts", json!({"provider": "autopay", "settings": settings})).await.expect(409);
    assert_eq!(answer.json()["code"], "master_key_missing");
}
