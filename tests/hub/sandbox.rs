//! The sandbox as its users meet it: dials over HTTP, honest cuts, twins in a process of their own, the demonstration.

use std::time::Duration;

use grosz::demo;
use grosz::sandbox::serve_alone;
use grosz::store::Merchant;
use grosz_providers::registry;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::harness::{Engine, Hub, client};
use crate::on_both;

/// A hub that serves the twins itself. Its clock stands still, so its delivery loop brings only what is due now.
async fn sandbox_hub(engine: Engine) -> Hub {
    Hub::start_with(engine, |config| config.sandbox = true).await
}

/// The same, with a merchant that the demonstration takes for its own.
async fn demo_hub(engine: Engine) -> Hub {
    let hub = sandbox_hub(engine).await;
    let mut tx = hub.tx().await;
    tx.update_merchant(&Merchant { name: "Demo".into(), ..hub.merchant.clone() }).await.unwrap();
    tx.commit().await.unwrap();
    hub
}

async fn dial(hub: &Hub, faults: Value, status: u16) -> String {
    hub.call("PUT", "/sandbox/faults", None, Some(faults), &[]).await.expect(status).text()
}

/// Sends a request as bytes and reads until the other side closes.
async fn exchange(hub: &Hub, request: &str) -> Vec<u8> {
    let address = hub.url.trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut answer = vec![];
    let _ = stream.read_to_end(&mut answer).await;
    answer
}

const POST: &str = "POST /sandbox/autopay/payment HTTP/1.1\r\nhost: twins\r\ncontent-length: 0\r\n\r\n";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cut_connection_carries_not_one_byte() {
    let hub = sandbox_hub(Engine::Sqlite).await;
    dial(&hub, json!({"autopay": {"cut_after_work": 1}}), 200).await;
    assert_eq!(exchange(&hub, POST).await, b"", "cut without an answer");
    let closing = POST.replace("content-length", "connection: close\r\ncontent-length");
    assert!(exchange(&hub, &closing).await.starts_with(b"HTTP/1.1 400"), "the fault is used up");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_hangs_ends_when_the_caller_gives_up_and_does_not_hold_up_the_stop() {
    let hub = sandbox_hub(Engine::Sqlite).await;
    dial(&hub, json!({"autopay": {"hang": 2}}), 200).await;
    let call = client().post(format!("{}/sandbox/autopay/payment", hub.url)).timeout(Duration::from_millis(300));
    assert!(call.send().await.expect_err("no answer").is_timeout());
    // The second one is still waiting when the hub is told to stop: it is cut, not answered.
    let address = hub.url.trim_start_matches("http://").to_owned();
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.write_all(POST.as_bytes()).await.expect("sent");
    while hub.call("GET", "/sandbox/faults", None, None, &[]).await.json()["autopay"]["hang"] != 0 {
        tokio::task::yield_now().await;
    }
    drop(hub);
    let mut answer = vec![];
    let ended = tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer)).await;
    assert!(ended.is_ok(), "the stop ends it");
    assert_eq!(answer, b"");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dials_are_read_turned_and_cleared_over_http() {
    let hub = sandbox_hub(Engine::Sqlite).await;
    let get = async || hub.call("GET", "/sandbox/faults", None, None, &[]).await.expect(200).json();
    for name in registry::providers().map(|p| p.facts().name) {
        assert_eq!(get().await[name]["drop"], 0, "{name}");
    }
    dial(&hub, json!({"autopay": {"drop_percent": 20, "repeat": 3}, "wfirma": {"hang": 1}}), 200).await;
    dial(&hub, json!({"autopay": {"delay_s": 5}}), 200).await;
    let now = get().await;
    assert_eq!((&now["autopay"]["repeat"], &now["autopay"]["delay_s"]), (&json!(0), &json!(5)), "replaced as a whole");
    assert_eq!(now["wfirma"]["hang"], 1, "the others stay");
    assert_eq!(dial(&hub, json!({"autopay": {"dorp": 1}}), 422).await, "autopay.dorp is not a fault here\n");
    assert_eq!(dial(&hub, json!({"wfirma": {"drop": 1}}), 422).await, "wfirma.drop is not a fault here\n");
    assert_eq!(dial(&hub, json!({"nobody": {}}), 422).await, "nobody is not a twin here\n");
    dial(&hub, json!({"autopay": {"drop": -1}}), 422).await;
    hub.call("DELETE", "/sandbox/faults", None, None, &[]).await.expect(204);
    assert_eq!(get().await["autopay"]["delay_s"], 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_page_shows_every_twin_and_its_forms_turn_the_dial() {
    let hub = sandbox_hub(Engine::Sqlite).await;
    let page = hub.call("GET", "/sandbox", None, None, &[]).await.expect(200);
    let policy = page.header("content-security-policy").expect("a policy").to_owned();
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    let html = page.text();
    assert!(!html.contains("<style") && !html.contains("<script") && !html.contains(" style="), "nothing inline");
    for name in registry::providers().map(|p| p.facts().name).chain(registry::invoicers().map(|i| i.facts().name)) {
        assert!(html.contains(&format!("action=\"/sandbox/faults/{name}\"")), "{name}");
    }
    hub.call("GET", "/sandbox/sandbox.css", None, None, &[]).await.expect(200);
    let form = [("content-type", "application/x-www-form-urlencoded".to_owned())];
    let answer = hub.raw("POST", "/sandbox/faults/stripe", &form, b"drop=2&tamper=".to_vec()).await.expect(303);
    assert_eq!(answer.header("location"), Some("/sandbox#stripe"));
    let now = hub.call("GET", "/sandbox/faults", None, None, &[]).await.json();
    assert_eq!((&now["stripe"]["drop"], &now["stripe"]["tamper"]), (&json!(2), &json!(0)));
    // F68: a page elsewhere cannot turn it.
    let foreign = [form[0].clone(), ("sec-fetch-site", "cross-site".to_owned())];
    hub.raw("POST", "/sandbox/faults/stripe", &foreign, b"drop=9".to_vec()).await.expect(403);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_challenge_page_comes_instead_of_an_api_answer_only() {
    let hub = sandbox_hub(Engine::Sqlite).await;
    dial(&hub, json!({"stripe": {"challenge_page": 1}}), 200).await;
    let browser = [("accept", "text/html,*/*".to_owned())];
    hub.raw("GET", "/sandbox/stripe/panel", &browser, vec![]).await.expect(200);
    let answer = hub.raw("GET", "/sandbox/stripe/v1/charges", &[], vec![]).await.expect(403);
    assert!(answer.text().starts_with("<!doctype html>"));
    hub.raw("GET", "/sandbox/stripe/v1/charges", &[], vec![]).await.expect(401);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hub_without_the_setting_serves_no_twin() {
    let hub = Hub::start(Engine::Sqlite).await;
    for path in ["/sandbox", "/sandbox/faults", "/sandbox/autopay/payment"] {
        hub.call("GET", path, None, None, &[]).await.expect(404);
    }
}

// Twins in a process of their own: accounts are made known by a call, and reports go to named hubs only (F62).
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twins_alone_take_accounts_over_http() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (stop, stopped) = watch::channel(false);
    let served = tokio::spawn(serve_alone(listener, url.clone(), vec!["http://hub.example:8080".into()], stopped));
    let client = client();
    let enroll = async |name: &str, body: Value| {
        let call = client.post(format!("{url}/sandbox/{name}/accounts")).header("content-type", "application/json");
        let answer = call.body(body.to_string()).send().await.unwrap();
        (answer.status().as_u16(), answer.text().await.unwrap())
    };
    for provider in registry::providers() {
        let name = provider.facts().name;
        let settings = provider.twin().expect("a twin").demo_settings(&format!("{url}/sandbox/{name}"));
        for target in ["http://127.0.0.1:1/webhooks/x", "http://localhost:1/", "http://hub.example:8080/webhooks/x"] {
            assert_eq!(enroll(name, json!({"settings": settings, "webhook_url": target})).await.0, 204, "{target}");
        }
        for target in ["http://hub.example/", "https://hub.example:8080/", "http://10.0.0.1/", "file:///etc/passwd", ""]
        {
            assert_eq!(enroll(name, json!({"settings": settings, "webhook_url": target})).await.0, 422, "{target}");
        }
        let (status, why) = enroll(name, json!({"settings": {"nope": 1}, "webhook_url": ""})).await;
        assert_eq!(status, 422);
        assert!(why.starts_with("settings.nope is not a setting here"), "{why}");
    }
    for invoicer in registry::invoicers() {
        let name = invoicer.facts().name;
        let settings = invoicer.twin().expect("a twin").demo_settings(&format!("{url}/sandbox/{name}"));
        assert_eq!(enroll(name, json!({"settings": settings})).await.0, 204);
    }
    assert_eq!(enroll("nobody", json!({"settings": {}})).await.0, 404);
    let known = client.get(format!("{url}/sandbox/stripe/v1/charges")).header("authorization", "Bearer sk_test_demo");
    assert_eq!(known.send().await.unwrap().status().as_u16(), 200, "the account is known");
    stop.send(true).unwrap();
    served.await.unwrap();
}

on_both!(the_demonstration_is_set_up_once_and_its_key_is_fresh, async |engine: Engine| {
    let hub = demo_hub(engine).await;
    let first = demo::seed(&hub.app).await.unwrap();
    let second = demo::seed(&hub.app).await.unwrap();
    assert_eq!(first.merchant_id, second.merchant_id);
    assert_ne!(first.api_key, second.api_key);
    let mut tx = hub.app.store.read().await.unwrap();
    let hash = |key: &str| grosz_providers::sign::sha256_hex(key.as_bytes());
    assert!(tx.api_key_by_hash(&hash(&first.api_key)).await.unwrap().is_none(), "the old key has ended");
    let key = tx.api_key_by_hash(&hash(&second.api_key)).await.unwrap().expect("the new one works");
    assert!(!key.live && key.merchant_id == first.merchant_id);
    let page = grosz::store::Page { before: None, limit: 100 };
    let m = &first.merchant_id;
    assert_eq!(tx.provider_accounts(m).await.unwrap().len(), registry::providers().count());
    assert_eq!(tx.invoicing_accounts(m).await.unwrap().len(), registry::invoicers().count());
    assert_eq!(tx.experts(m, &page).await.unwrap().len(), 2);
    assert_eq!(tx.payers(m, &page).await.unwrap().len(), 2);
    let cases = tx.cases(m, None, &page).await.unwrap();
    assert_eq!(cases.len(), 3);
    for case in cases {
        let sum: i64 = case.lines.iter().map(|l| l.quantity * l.unit_gross_minor).sum();
        assert_eq!(sum, case.total.minor(), "{}", case.number);
    }
    assert!(second.text.contains(&second.api_key) && second.text.contains("/sandbox"), "{}", second.text);
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_demonstration_refuses_a_hub_without_a_sandbox() {
    let hub = Hub::start(Engine::Sqlite).await;
    assert!(demo::seed(&hub.app).await.is_err());
}

// The program without the word `serve`, at a database in use: nothing of the demonstration is added to it.
on_both!(the_demonstration_leaves_the_merchants_of_others_alone, async |engine: Engine| {
    let hub = Hub::start_with(engine, |c| c.sandbox = true).await;
    assert!(demo::seed(&hub.app).await.unwrap_err().to_string().contains("grosz serve"));
    let names: Vec<String> = hub.tx().await.merchants().await.unwrap().into_iter().map(|m| m.name).collect();
    assert_eq!(names, ["Kancelaria"]);
    let config = grosz::config::Config { listen: "127.0.0.1:0".into(), ..hub.app.config.clone() };
    let (_stop, stopped) = watch::channel(false);
    let refused = demo::run(config, stopped, |text| panic!("{text}")).await.expect_err("somebody else's");
    assert!(refused.0.contains("grosz serve"), "{refused}");
});

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_in_use_leads_to_the_next() {
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap();
    let mut config = grosz::config::Config { listen: address.to_string(), ..Default::default() };
    let bound = demo::bind(&mut config).await.unwrap();
    assert!(bound.local_addr().unwrap().port() > address.port());
    assert_eq!(config.public_url, format!("http://{}", bound.local_addr().unwrap()));
    let mut named = grosz::config::Config { listen: "localhost:0".into(), ..Default::default() };
    assert!(demo::bind(&mut named).await.unwrap().local_addr().unwrap().ip().is_loopback());
    let mut wrong = grosz::config::Config { listen: "nowhere".into(), ..Default::default() };
    assert!(demo::bind(&mut wrong).await.unwrap_err().0.starts_with("nowhere cannot be listened on"));
}

// What the hub serves itself works end to end too: accounts are known, the loop delivers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_hubs_own_twins_know_its_accounts_and_report() {
    use grosz::flows::start_checkout::{NewPayment, Opened, create_payment, open_checkout};
    let hub = demo_hub(Engine::Sqlite).await;
    let demo = demo::seed(&hub.app).await.unwrap();
    let mut tx = hub.tx().await;
    let merchant = tx.merchant(&demo.merchant_id).await.unwrap().expect("the merchant");
    let accounts = tx.provider_accounts(&merchant.id).await.unwrap();
    let account = accounts.iter().find(|a| a.provider == "stripe").expect("an account");
    let page = grosz::store::Page { before: None, limit: 1 };
    let case = tx.cases(&merchant.id, None, &page).await.unwrap().remove(0);
    let order = NewPayment { case: Some(case.id), provider_account: Some(account.id.clone()), ..NewPayment::default() };
    let payment = create_payment(&hub.app, &mut tx, &merchant, false, order).await.unwrap();
    tx.commit().await.unwrap();
    let opened = open_checkout(&hub.app, &payment, None).await.unwrap();
    let Opened::Gateway(grosz_providers::Redirect::Url { url, .. }) = opened else { panic!("{opened:?}") };
    hub.raw("POST", &format!("{url}/pay"), &[], vec![]).await.expect(303);
    let paid = async {
        loop {
            let mut tx = hub.app.store.read().await.unwrap();
            let now = tx.payment(&merchant.id, &payment.id).await.unwrap().expect("the payment");
            if now.status == grosz::domain::payment::Status::Completed {
                break;
            }
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), paid).await.expect("the loop delivers");
}
