//! Two change one thing at the same time: neither takes back what the other wrote. On SQLite writers take turns anyway.

use grosz::store::Tx;
use grosz_providers::Settings;
use serde_json::{Value, json};

use super::client::{Client, id_of};
use crate::cluster::cluster;
use crate::harness::{Answer, Engine, Hub};
use crate::program::until;
use crate::raw::Raw;
use crate::stories::stage::Stage;

/// A call that comes while another transaction has written to the same row; that one is committed when the call waits for
/// it.
async fn meanwhile(hub: &Hub, tx: Tx, call: impl Future<Output = Answer>) -> Answer {
    let raw = Raw::of(&hub.app).await;
    let waiting =
        "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let end = async {
        until("the call waits for the row", async || raw.number(waiting).await > 0).await;
        tx.commit().await.expect("a commit");
    };
    tokio::join!(call, end).0
}

// A secret that leaked does not come back with a change of something else.
#[tokio::test(flavor = "multi_thread")]
async fn a_rotated_secret_stays() {
    if cluster().is_none() {
        return;
    }
    let hub = Hub::start(Engine::Postgres).await;
    let client = Client::new(&hub);
    let made = client.post("/v1/webhook-endpoints", json!({"url": "https://shop.example/hook"})).await.expect(201);
    let id = id_of(&made);
    let path = format!("/v1/webhook-endpoints/{id}");
    let row_now = async || hub.tx().await.endpoint(&hub.merchant.id, &id).await.unwrap().unwrap();

    let mut changed = row_now().await;
    let mut tx = hub.tx().await;
    changed.url = "https://shop.example/other".into();
    tx.update_endpoint(&changed).await.unwrap();
    let rotation = format!("{path}/secret/rotate");
    meanwhile(&hub, tx, client.post(&rotation, json!({}))).await.expect(200);
    let mut rotated = row_now().await;
    assert_eq!(rotated.url, "https://shop.example/other", "a rotation keeps what was changed meanwhile");
    assert_ne!(rotated.sealed, changed.sealed);

    let mut tx = hub.tx().await;
    rotated.sealed = "another secret, sealed".into();
    tx.update_endpoint(&rotated).await.unwrap();
    let types = json!({"types": ["payment.completed"]});
    meanwhile(&hub, tx, client.patch(&path, types)).await.expect(200);
    assert_eq!(row_now().await.sealed, "another secret, sealed", "a change keeps what was rotated meanwhile");
}

// Of two changed settings none is lost, and a pause that a worker set stays.
#[tokio::test(flavor = "multi_thread")]
async fn settings_and_pauses_stay() {
    if cluster().is_none() {
        return;
    }
    let stage = Stage::set(Engine::Postgres).await;
    let (hub, merchant) = (&stage.hub, stage.hub.merchant.id.as_str());
    let client = Client::new(hub);
    let mut account = stage.account("stripe").clone();
    let mut values = hub.app.provider_settings(&account).unwrap().expose().clone();
    values.insert("webhook_secret".into(), "whsec_anew".into());
    account.sealed = hub.app.seal_settings(&account.id, &Settings::from_sealed(values)).unwrap();
    let mut tx = hub.tx().await;
    tx.update_provider_account(&account).await.unwrap();
    let change = json!({"settings": {"secret_key": "sk_test_anew"}});
    let path = format!("/v1/provider-accounts/{}", account.id);
    meanwhile(hub, tx, client.patch(&path, change)).await.expect(200);
    let now = hub.tx().await.provider_account(merchant, &account.id).await.unwrap().unwrap();
    let now = hub.app.provider_settings(&now).unwrap();
    assert_eq!((now.text("secret_key"), now.text("webhook_secret")), ("sk_test_anew", "whsec_anew"));

    let (id, until) = (&stage.invoicing.id, hub.app.now() + 1_000_000);
    let mut tx = hub.tx().await;
    tx.pause_invoicing_account(merchant, id, Some(until), Some("refused"), 3).await.unwrap();
    let path = format!("/v1/invoicing-accounts/{id}");
    let answer: Value = meanwhile(hub, tx, client.patch(&path, json!({"enabled": true}))).await.expect(200).json();
    assert_eq!(answer["pause_reason"], "refused");
    let now = hub.tx().await.invoicing_account(merchant, id).await.unwrap().unwrap();
    assert_eq!((now.paused_until, now.pause_reason.as_deref(), now.failures), (Some(until), Some("refused"), 3));
}
