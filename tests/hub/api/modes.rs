//! Live and test do not meet.

use grosz::flows::notify::{Raise, raise};
use serde_json::{Value, json};

use super::client::{Client, id_of, payment_body};
use crate::harness::{Engine, KEY};
use crate::on_both;
use crate::raw::Raw;
use crate::stories::stage::Stage;

/// A hub whose merchant has a key for each mode; answers the live one.
async fn stage_with_both(engine: Engine) -> (Stage, String) {
    let stage = Stage::set_with(engine, |config| {
        config.master_key = grosz::config::Hidden("00112233445566778899aabbccddeeff".repeat(2));
    })
    .await;
    let mut tx = stage.hub.tx().await;
    let merchant = &stage.hub.merchant.id;
    let scopes = ["read", "write"];
    let made = grosz::flows::add_key::make_key(&stage.hub.app, &mut tx, merchant, "live", true, &scopes).await;
    tx.commit().await.unwrap();
    (stage, made.unwrap().1)
}

/// A payment at a live account, which is made for it.
async fn live_payment(stage: &Stage, live: &Client<'_>) -> String {
    let settings = json!({"service_id": "123456", "shared_key": "key", "gateway_url": "https://pay.autopay.eu"});
    let new = json!({"provider": "autopay", "currency": "PLN", "settings": settings});
    let mut order = payment_body(stage);
    order["provider_account"] = json!(id_of(&live.post("/v1/provider-accounts", new).await.expect(201)));
    id_of(&live.post("/v1/payments", order).await.expect(201))
}

/// Lists and what they hold of a kind of thing, page by page.
async fn listed(client: &Client<'_>, path: &str, field: &str) -> Vec<String> {
    let (mut all, mut cursor) = (vec![], String::new());
    loop {
        let page = client.get(&format!("{path}{cursor}")).await.expect(200).json();
        let rows = page["data"].as_array().expect("a list");
        all.extend(rows.iter().map(|row| row.pointer(field).and_then(Value::as_str).unwrap_or_default().to_owned()));
        let sign = if path.contains('?') { '&' } else { '?' };
        match page["next_cursor"].as_str() {
            Some(next) if page.get("has_more").is_none_or(|more| *more == true) => {
                cursor = format!("{sign}cursor={next}");
            }
            _ => return all,
        }
    }
}

#[tokio::test]
async fn a_key_sees_payments_and_accounts_of_its_own_mode() {
    let (stage, live_key) = stage_with_both(Engine::Sqlite).await;
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

// F49, F66: who has a key for tests decides nothing about messages of real money, and reads none.
on_both!(endpoints_and_messages_keep_to_their_mode, async |engine: Engine| {
    let (stage, live_key) = stage_with_both(engine).await;
    let (test, live) = (Client::new(&stage.hub), Client::with(&stage.hub, &live_key));
    let new = |name: &str| json!({"url": format!("https://shop.example/{name}")});
    let path = "/v1/webhook-endpoints";
    let of_test = id_of(&test.post(path, new("test")).await.expect(201));
    let made = live.post(path, new("live")).await.expect(201);
    let of_live = id_of(&made);
    assert_eq!(made.json()["live"], true);
    // As a program before this one makes them.
    let of_both = id_of(&test.post(path, new("both")).await.expect(201));
    let raw = Raw::of(&stage.hub.app).await;
    raw.run(format!("UPDATE endpoints SET live = NULL WHERE id = '{of_both}'")).await;

    for (mine, other, owner) in [(&of_test, &of_live, &test), (&of_live, &of_test, &live)] {
        let (list, of_other) = (owner.get(path).await.expect(200).text(), format!("{path}/{other}"));
        assert!(list.contains(mine.as_str()) && list.contains(&of_both) && !list.contains(other.as_str()), "{list}");
        owner.get(&format!("{path}/{mine}")).await.expect(200);
        owner.get(&of_other).await.expect(404);
        owner.get(&format!("{of_other}/deliveries")).await.expect(404);
        owner.patch(&of_other, json!({"url": "https://thief.example/"})).await.expect(404);
        owner.delete(&of_other).await.expect(404);
        owner.post(&format!("{of_other}/secret/rotate"), json!({"overlap_seconds": 0})).await.expect(404);
        owner.post(&format!("{of_other}/test"), json!({})).await.expect(404);
        owner.post(&format!("{of_other}/replay"), json!({"since": "2026-11-01"})).await.expect(404);
    }
    for (client, id, name) in [(&test, &of_test, "test"), (&live, &of_live, "live")] {
        let url = client.get(&format!("{path}/{id}")).await.expect(200).json()["url"].clone();
        assert_eq!(url, format!("https://shop.example/{name}"));
    }

    let told = async |client: &Client<'_>, id: &str| {
        listed(client, &format!("{path}/{id}/deliveries?limit=1"), "/message").await.len()
    };
    let live_payment = live_payment(&stage, &live).await;
    assert_eq!([told(&test, &of_test).await, told(&live, &of_live).await, told(&test, &of_both).await], [0, 1, 1]);
    let test_payment = id_of(&test.post("/v1/payments", payment_body(&stage)).await.expect(201));
    assert_eq!([told(&test, &of_test).await, told(&live, &of_live).await, told(&test, &of_both).await], [1, 1, 2]);
    // And so are those from a slice of gateways' calls, and from jobs.
    stage.pay("1/2026", "stripe", "pay").await;
    assert_eq!(told(&live, &of_live).await, 1);
    assert!(told(&test, &of_test).await > 2);

    // The feed, in small parts.
    stage.hub.advance(5);
    for (client, mode, own, others) in
        [(&test, "test", &test_payment, &live_payment), (&live, "live", &live_payment, &test_payment)]
    {
        let about = listed(client, "/v1/events?limit=1", "/data/id").await;
        assert!(about.contains(own) && !about.contains(others), "{about:?}");
        let modes = listed(client, "/v1/events?limit=1", "/mode").await;
        assert!(modes.iter().all(|m| m == mode), "{modes:?}");
    }
    // Nothing of the other mode is made up for.
    for (client, most) in [(&test, 100), (&live, 1)] {
        let late = id_of(&client.post(path, new("late")).await.expect(201));
        let again = client.post(&format!("{path}/{late}/replay"), json!({"since": "2026-11-01"})).await.expect(202);
        let queued = again.json()["queued"].as_i64().unwrap();
        assert!((1..=most).contains(&queued), "{queued}");
        let modes = listed(client, "/v1/events", "/mode").await.len();
        assert_eq!(i64::try_from(modes).unwrap(), queued);
    }
});

#[tokio::test]
async fn a_merchant_has_fifty_endpoints_in_each_mode() {
    let (stage, live_key) = stage_with_both(Engine::Sqlite).await;
    let (test, live) = (Client::new(&stage.hub), Client::with(&stage.hub, &live_key));
    let path = "/v1/webhook-endpoints";
    let new = json!({"url": "https://shop.example/"});
    let mut last = String::new();
    for _ in 0..50 {
        last = format!("{path}/{}", id_of(&test.post(path, new.clone()).await.expect(201)));
    }
    // One that is switched off is one all the same.
    test.patch(&last, json!({"enabled": false})).await.expect(200);
    let refused = test.post(path, new.clone()).await.expect(409).json();
    assert_eq!(refused["code"], "too_many_endpoints");
    assert!(refused["detail"].as_str().unwrap().contains("at most 50"), "{refused}");
    live.post(path, new.clone()).await.expect(201);
    test.delete(&last).await.expect(204);
    test.post(path, new).await.expect(201);
}

#[tokio::test]
async fn on_a_live_hub_endpoints_without_a_mode_are_managed_by_live_keys() {
    let stage = Stage::set_with(Engine::Sqlite, |config| config.live = true).await;
    let hub = &stage.hub;
    let made = hub.post("/v1/webhook-endpoints", json!({"url": "https://shop.example/"})).await.expect(201);
    let path = format!("/v1/webhook-endpoints/{}", id_of(&made));
    let raw = Raw::of(&hub.app).await;
    raw.run("UPDATE endpoints SET live = NULL").await;
    hub.get(&path).await.expect(404);
    raw.run("UPDATE api_keys SET live = 1").await;
    // A key is believed for two seconds.
    hub.advance(3);
    assert_eq!(hub.call("GET", &path, Some(KEY), None, &[]).await.expect(200).json()["live"], json!(null));
}

// F66
on_both!(alerts_notices_and_jobs_keep_to_their_mode, async |engine: Engine| {
    let (stage, live_key) = stage_with_both(engine).await;
    let (test, live) = (Client::new(&stage.hub), Client::with(&stage.hub, &live_key));
    let (app, merchant) = (&stage.hub.app, stage.hub.merchant.id.as_str());
    let of_live = live_payment(&stage, &live).await;
    let of_test = id_of(&test.post("/v1/payments", payment_body(&stage)).await.expect(201));
    let mut tx = stage.hub.tx().await;
    for id in [&of_live, &of_test] {
        let payment = tx.payment(merchant, id).await.unwrap().unwrap();
        let matter = Raise::about_payment("payment.stuck", format!("payment.stuck:{id}"), &payment, "why".into());
        raise(app, &mut tx, matter).await.unwrap();
    }
    // About accounts: of the test mode, and of a kind that nobody knows.
    for key in [format!("invoice.account:{}", stage.invoicing.id), "provider.config:acc_gone".to_owned()] {
        raise(app, &mut tx, Raise::about_account("invoice.account", key, merchant, "why".into())).await.unwrap();
    }
    tx.commit().await.unwrap();

    for (client, alerts, own) in [(&test, 3, &of_test), (&live, 2, &of_live)] {
        for path in ["/v1/alerts?limit=1", "/v1/notices?limit=1"] {
            let about = listed(client, path, "/payment").await;
            assert_eq!(about.len(), alerts, "{path}: {about:?}");
            assert!(about.iter().all(|payment| payment.is_empty() || payment == own), "{path}: {about:?}");
        }
        // One letter is to be sent for each.
        let jobs = listed(client, "/v1/jobs?limit=1", "/kind").await;
        assert_eq!(jobs.iter().filter(|kind| *kind == "send_notice").count(), alerts);
    }
    for (own, client, stranger) in [(&of_test, &test, &live), (&of_live, &live, &test)] {
        let alert = listed(client, &format!("/v1/alerts?payment={own}"), "/id").await.remove(0);
        assert_eq!(listed(stranger, &format!("/v1/alerts?payment={own}"), "/id").await, Vec::<String>::new());
        let alert = format!("/v1/alerts/{alert}");
        stranger.get(&alert).await.expect(404);
        stranger.post(&format!("{alert}/resolve"), json!({})).await.expect(404);
        assert_eq!(client.get(&alert).await.expect(200).json()["state"], "open");
        client.post(&format!("{alert}/resolve"), json!({})).await.expect(200);
    }
    // Work that was set aside.
    let raw = Raw::of(app).await;
    raw.run("UPDATE jobs SET state = 'failed', set_aside = id WHERE kind = 'send_notice'").await;
    let aside = "/v1/jobs?state=failed&limit=1";
    let (of_test, of_live) = (listed(&test, aside, "/id").await, listed(&live, aside, "/id").await);
    assert_eq!((of_test.len(), of_live.len()), (3, 2));
    for (own, client, stranger) in [(&of_test, &test, &live), (&of_live, &live, &test)] {
        let own = own.iter().find(|id| !(of_test.contains(*id) && of_live.contains(*id))).unwrap();
        let retry = format!("/v1/jobs/{own}/retry");
        stranger.post(&retry, json!({})).await.expect(404);
        client.post(&retry, json!({})).await.expect(200);
    }
});
