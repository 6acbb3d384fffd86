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

// Of a merchant, its people and their invoice data too; and a payer has one default, whoever adds another meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn people_and_their_data_stay() {
    if cluster().is_none() {
        return;
    }
    let stage = Stage::set(Engine::Postgres).await;
    let (hub, id) = (&stage.hub, stage.hub.merchant.id.as_str());
    let client = Client::new(hub);

    let mut tx = hub.tx().await;
    let mut merchant = tx.merchant(id).await.unwrap().unwrap();
    merchant.return_origins = vec!["https://shop.example".into()];
    tx.update_merchant(&merchant).await.unwrap();
    let now = meanwhile(hub, tx, client.patch("/v1/merchant", json!({"language": "en"}))).await.expect(200).json();
    assert_eq!(now["return_origins"], json!(["https://shop.example"]));

    let (mut expert, mut payer) = (stage.experts[0].clone(), stage.payer.clone());
    let (of_expert, of_payer) = (format!("/v1/experts/{}", expert.id), format!("/v1/payers/{}", payer.id));
    let mut tx = hub.tx().await;
    expert.email = "anew@kancelaria.example".into();
    tx.update_expert(&expert).await.unwrap();
    let now = meanwhile(hub, tx, client.patch(&of_expert, json!({"name": "Ewa"}))).await.expect(200).json();
    assert_eq!((&now["email"], &now["name"]), (&json!("anew@kancelaria.example"), &json!("Ewa")));

    let mut tx = hub.tx().await;
    payer.email = "anew@payer.example".into();
    tx.update_payer(&payer).await.unwrap();
    let now = meanwhile(hub, tx, client.patch(&of_payer, json!({"language": "en"}))).await.expect(200).json();
    assert_eq!((&now["email"], &now["language"]), (&json!("anew@payer.example"), &json!("en")));

    let profiles = format!("{of_payer}/profiles");
    let data = json!({"kind": "individual", "name": "Jan", "street": "Prosta 1", "postcode": "00-950",
        "city": "Warszawa", "country": "PL", "email": "jan@payer.example", "default": true});
    let made = client.post(&profiles, data.clone()).await.expect(201);
    let path = format!("{profiles}/{}", id_of(&made));
    let mut tx = hub.tx().await;
    tx.payer_for_update(id, &payer.id).await.unwrap();
    let mut profile = tx.profile(id, &id_of(&made)).await.unwrap().unwrap();
    profile.body.street = "Krzywa 2".into();
    tx.update_profile(&profile).await.unwrap();
    let now = meanwhile(hub, tx, client.patch(&path, json!({"city": "Kraków"}))).await.expect(200).json();
    assert_eq!((&now["street"], &now["city"]), (&json!("Krzywa 2"), &json!("Kraków")));

    let mut tx = hub.tx().await;
    tx.payer_for_update(id, &payer.id).await.unwrap();
    (profile.id, profile.is_default) = (hub.app.ids.make("prf"), true);
    tx.add_profile(&profile).await.unwrap();
    meanwhile(hub, tx, client.post(&profiles, data)).await.expect(201);
    let all = hub.tx().await.profiles(id, &payer.id).await.unwrap();
    assert_eq!(all.iter().filter(|p| p.is_default).count(), 1, "{all:?}");
}

// The default that is deleted has a successor, as on the payer's page.
#[tokio::test]
async fn one_set_of_invoice_data_is_always_preselected() {
    let stage = Stage::set(Engine::Sqlite).await;
    let client = Client::new(&stage.hub);
    let profiles = format!("/v1/payers/{}/profiles", stage.payer.id);
    let add = async |city: &str, default: bool| {
        let data = json!({"kind": "individual", "name": "Jan", "street": "Prosta 1", "postcode": "00-950",
            "city": city, "country": "PL", "email": "jan@payer.example", "default": default});
        client.post(&profiles, data).await
    };
    for left in client.get(&profiles).await.expect(200).json()["data"].as_array().unwrap() {
        client.delete(&format!("{profiles}/{}", left["id"].as_str().unwrap())).await.expect(204);
    }
    let first = id_of(&add("Warszawa", false).await.expect(201));
    let second = id_of(&add("Kraków", true).await.expect(201));
    client.delete(&format!("{profiles}/{second}")).await.expect(204);
    let now = client.get(&format!("{profiles}/{first}")).await.expect(200).json();
    assert_eq!((&now["default"], &now["version"]), (&json!(true), &json!(1)));
    for n in 1..grosz::store::MOST_PROFILES {
        add(&format!("Miasto {n}"), false).await.expect(201);
    }
    assert_eq!(add("Łódź", false).await.expect(409).json()["code"], "too_many_profiles");
}
