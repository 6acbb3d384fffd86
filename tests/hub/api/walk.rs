//! Every operation of the interface, used as a client app would, each answer held against the document.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use insta::assert_json_snapshot;
use serde_json::{Value, json};

use super::client::{Client, case_body, id_of, operations};
use crate::harness::Engine;
use crate::on_both;
use crate::raw::Raw;
use crate::stories::stage::Stage;

on_both!(every_operation_answers_as_the_document_says, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    let client = Client::new(&stage.hub);
    set_up(&stage, &client).await;
    people(&client).await;
    let payment = pay_a_case(&stage, &client).await;
    invoice(&stage, &client, &payment).await;
    give_back(&stage, &client, &payment).await;
    look_on(&stage, &client, &payment).await;
    tell(&stage, &client).await;
    let missed: Vec<String> = operations()
        .into_iter()
        .filter_map(|(_, _, o)| o["operationId"].as_str().map(str::to_owned))
        .filter(|name| !client.seen().contains(name))
        .collect();
    assert!(missed.is_empty(), "never answered with success here: {missed:?}");
});

async fn set_up(stage: &Stage, client: &Client<'_>) {
    let merchant = client.get("/v1/merchant").await.expect(200).json();
    assert_json_snapshot!("merchant", merchant, {".id" => "[id]"});
    client.patch("/v1/merchant", json!({"language": "en", "show_attachment": true})).await.expect(200);

    // The facts are enough to fill in a form.
    for (path, post, name) in [
        ("/v1/providers", "/v1/provider-accounts", "provider"),
        ("/v1/invoicers", "/v1/invoicing-accounts", "invoicer"),
    ] {
        let known = client.get(path).await.expect(200).json();
        for facts in known["data"].as_array().unwrap() {
            let required = facts["settings"].as_array().unwrap().iter().filter(|s| s["required"] == true);
            let settings: serde_json::Map<String, Value> =
                required.map(|s| (s["name"].as_str().unwrap().to_owned(), json!("12345"))).collect();
            let answer = client.post(post, json!({name: facts["name"], "settings": settings, "enabled": false})).await;
            assert!(matches!(answer.status, 201 | 422), "{}", answer.text());
            if answer.status == 422 {
                // What one setting asks of another only its gateway knows; the field is named all the same.
                assert!(answer.json()["errors"][0]["pointer"].as_str().unwrap().starts_with("/settings/"));
            }
        }
    }
    let path = "/v1/provider-accounts";
    let settings = json!({"service_id": "123456", "shared_key": "key"});
    let made =
        client.post(path, json!({"provider": "autopay", "settings": settings, "currency": "EUR"})).await.expect(201);
    let one = format!("{path}/{}", id_of(&made));
    assert_json_snapshot!("provider_account", made.json(), {
        ".id" => "[id]", ".webhook_url" => "[url]", ".return_url" => "[url]",
    });
    assert_eq!(client.get(&one).await.expect(200).json()["enabled"], true);
    assert_eq!(client.patch(&one, json!({"enabled": false})).await.expect(200).json()["enabled"], false);
    assert!(client.get(path).await.expect(200).json()["data"].as_array().unwrap().len() >= 3);

    let path = "/v1/invoicing-accounts";
    let mine = format!("{path}/{}", stage.invoicing.id);
    assert_eq!(client.post(&format!("{mine}/test"), json!({})).await.expect(200).json()["ok"], true);
    let kept = client.get(&mine).await.expect(200).json()["settings"]["secret_key"].clone();
    assert_eq!(kept, "***");
    client.patch(&mine, json!({"settings": {"secret_key": "wrong"}})).await.expect(200);
    let failed = client.post(&format!("{mine}/test"), json!({})).await.expect(200).json();
    assert_eq!((&failed["ok"], &failed["class"]), (&json!(false), &json!("config")));
    let right = stage.hub.app.invoicing_settings(&stage.invoicing).unwrap().text("secret_key").to_owned();
    client.patch(&mine, json!({"settings": {"secret_key": right}})).await.expect(200);
    client.get(path).await.expect(200);
    client
        .post(
            path,
            json!({"invoicer": "wfirma", "enabled": false, "settings": {
            "access_key": "a", "secret_key": "b", "app_key": "c", "company_id": "1"}}),
        )
        .await
        .expect(201);
}

async fn people(client: &Client<'_>) {
    for path in ["/v1/experts", "/v1/payers"] {
        let made =
            client.post(path, json!({"name": " Anna Nowak ", "email": "anna@kancelaria.example"})).await.expect(201);
        assert_eq!((&made.json()["name"], &made.json()["language"]), (&json!("Anna Nowak"), &json!("en")));
        let one = format!("{path}/{}", id_of(&made));
        let changed = client.patch(&one, json!({"language": "pl"})).await.expect(200).json();
        assert_eq!(client.get(&one).await.expect(200).json(), changed);
        assert_eq!(client.get(path).await.expect(200).json()["data"][0], changed);
        if path == "/v1/payers" {
            let profiles = format!("{one}/profiles");
            let person = json!({"kind": "individual", "name": "Anna Nowak", "street": "Prosta 1",
                "postcode": "00-950", "city": "Warszawa", "country": "PL", "email": "anna@kancelaria.example"});
            let made = client.post(&profiles, person).await.expect(201);
            assert_json_snapshot!("profile", made.json(), {".id" => "[id]", ".payer" => "[id]"});
            let profile = format!("{profiles}/{}", id_of(&made));
            client.patch(&profile, json!({"city": "Łódź"})).await.expect(200);
            client.get(&profile).await.expect(200);
            assert_eq!(client.get(&profiles).await.expect(200).json()["data"][0]["city"], "Łódź");
            client.delete(&profile).await.expect(204);
        }
    }
}

/// A case, quoted, paid at the second try; answers the payment's address.
async fn pay_a_case(stage: &Stage, client: &Client<'_>) -> String {
    let case = client.post("/v1/cases", case_body(stage, "7/2026")).await.expect(201);
    assert_json_snapshot!("case", case.json(), {".id" => "[id]", ".expert" => "[id]", ".payer" => "[id]"});
    let one = format!("/v1/cases/{}", id_of(&case));
    client.patch(&one, json!({"title": "Analiza umowy najmu"})).await.expect(200);
    client.get(&format!("/v1/cases?payer={}", stage.payer.id)).await.expect(200);

    let order = json!({"case": id_of(&case), "provider_account": stage.account("stripe").id,
        "return_url": "https://shop.example/thanks"});
    let made = client.post("/v1/payments", order.clone()).await.expect(201);
    assert_json_snapshot!("payment", made.json(), {
        ".id" => "[id]", ".case" => "[id]", ".payer" => "[id]", ".profile" => "[id]", ".provider_account" => "[id]",
        ".checkout_url" => "[url]", ".attempts[].id" => "[id]", ".attempts[].reference" => "[reference]",
        ".attempts[].provider_account" => "[id]",
    });
    // R-5W-16
    assert_eq!(client.post("/v1/payments", order).await.expect(200).json()["id"], made.json()["id"]);
    let path = format!("/v1/payments/{}", id_of(&made));

    // The payer gives up; the client app tries again.
    press(stage, &made.json(), "cancel").await;
    stage.carry().await;
    let again = client.post(&format!("{path}/retry"), json!({})).await.expect(200).json();
    press(stage, &again, "pay").await;
    stage.carry().await;
    let paid = client.get(&path).await.expect(200).json();
    assert_eq!((&paid["status"], &paid["invoice"]["cell"]), (&json!("completed"), &json!("generating")));
    // R-5W-19
    assert_eq!(client.get(&one).await.expect(200).json()["status"], "in_preparation");
    assert_eq!(client.get("/v1/payments?status=completed").await.expect(200).json()["data"][0], paid);
    path
}

/// A button of the gateway's page that the payment link leads to.
async fn press(stage: &Stage, payment: &Value, button: &str) {
    let link = payment["checkout_url"].as_str().expect("a link");
    let page = stage.hub.raw("GET", link, &[], vec![]).await.expect(303);
    let page = page.header("location").expect("the gateway's page").to_owned();
    stage.press(&page, button).await.expect(303);
}

async fn invoice(stage: &Stage, client: &Client<'_>, payment: &str) {
    client.get(&format!("{payment}/invoice.pdf")).await.expect(404);
    stage.hub.run_jobs().await;
    let shown = client.get(&format!("{payment}/invoice")).await.expect(200).json();
    assert_json_snapshot!("invoice", shown, {
        ".id" => "[id]", ".payment" => "[id]", ".invoicing_account" => "[id]", ".external_key" => "[key]",
        ".pdf_url" => "[url]", ".document.id" => "[id]", ".document.ksef_number" => "[ksef]",
    });
    let pdf = client.get(&format!("{payment}/invoice.pdf")).await.expect(200);
    assert!(pdf.body.starts_with(b"%PDF-"));
    assert!(pdf.header("content-disposition").unwrap().starts_with("attachment; filename=\"FV-"));
    let twice = client.post(&format!("{payment}/invoice/reissue"), json!({})).await.expect(409);
    assert_eq!(twice.json()["code"], "invoice_issued");

    let file = format!("{payment}/invoice/attachment");
    client.get(&file).await.expect(404);
    let put = client.put(&format!("{file}?name=faktura%20ż.pdf&number=A/1"), "application/pdf", b"%PDF-1.7 own").await;
    assert_eq!((&put.expect(200).json()["size"], 1), (&json!(12), 1));
    let got = client.get(&file).await.expect(200);
    assert_eq!(
        (got.body.as_slice(), got.header("content-type")),
        (b"%PDF-1.7 own".as_slice(), Some("application/pdf"))
    );
    assert_eq!(
        got.header("content-disposition"),
        Some("attachment; filename=\"faktura--.pdf\"; filename*=UTF-8''faktura%20%C5%BC.pdf")
    );
    assert!(
        client.get(payment).await.expect(200).json()["invoice"]["pdf_url"].as_str().unwrap().ends_with("/attachment")
    );
    for (media_type, body, name, status) in [
        ("application/pdf", b"<html>".as_slice(), "a.pdf", 422),
        ("text/html", b"<html>", "a.html", 415),
        ("image/png", b"%PDF-", "a.png", 422),
        ("text/plain", b"a\0b", "a.txt", 422),
        ("text/plain", b"", "a.txt", 422),
        ("application/pdf", b"%PDF-1", "..%2Fa.pdf", 422),
        ("application/pdf", b"%PDF-1", ".pdf", 422),
        ("application/pdf", b"%PDF-1", "a%0Ab.pdf", 422),
    ] {
        client.put(&format!("{file}?name={name}"), media_type, body).await.expect(status);
    }
    // Larger than a JSON body may be, within its own limit.
    let mut large = b"%PDF-".to_vec();
    large.resize(2_000_000, b'x');
    client.put(&file, "application/pdf", &large).await.expect(200);
    large.resize(11_000_000, b'x');
    client.put(&file, "application/pdf", &large).await.expect(413);
    exhausted(stage, client).await;
}

// R-5W-51: after three failures the expert corrects and issues again.
async fn exhausted(stage: &Stage, client: &Client<'_>) {
    let made = client.post("/v1/cases", case_body(stage, "8/2026")).await.expect(201);
    let order = json!({"case": id_of(&made), "provider_account": stage.account("stripe").id});
    let payment = client.post("/v1/payments", order).await.expect(201).json();
    press(stage, &payment, "pay").await;
    stage.carry().await;
    stage.dial(json!({"wfirma": {"error_in_200": 100}})).await;
    stage.let_pass(900, 60).await;
    stage.dial(json!({"wfirma": {}})).await;
    let path = format!("/v1/payments/{}/invoice", payment["id"].as_str().unwrap());
    let shown = client.get(&path).await.expect(200).json();
    assert_eq!(
        (&shown["state"], &shown["cell"], &shown["attempts"]),
        (&json!("exhausted"), &json!("empty"), &json!(3))
    );
    let alert = client.get("/v1/alerts").await.expect(200).json()["data"][0].clone();
    assert_eq!((&alert["code"], &alert["state"]), (&json!("invoice.exhausted"), &json!("open")));
    assert_json_snapshot!("alert", alert, {
        ".id" => "[id]", ".payment" => "[id]", ".case" => "[id]", ".expert" => "[id]", ".opened_at" => "[time]",
    });
    let notices = client.get(&format!("/v1/notices?payment={}", payment["id"].as_str().unwrap())).await.expect(200);
    assert!(notices.text().contains("Wystąpił błąd podczas wystawiania faktury dla klienta do sprawy nr 8/2026"));
    let buyer = json!({"kind": "company", "name": "Firma", "tax_id": "5260001247", "street": "Prosta 1",
        "postcode": "00-950", "city": "Warszawa", "country": "PL", "email": "f@firma.example"});
    let reissue = format!("{path}/reissue");
    let wrong = client.post(&reissue, json!({"buyer": buyer})).await;
    assert_eq!(super::client::refused(&wrong), ["/buyer/tax_id"]);
    let again = client.post(&reissue, json!({})).await.expect(200).json();
    assert_eq!((&again["state"], &again["generation"]), (&json!("queued"), &json!(2)));
    assert_eq!(client.post(&reissue, json!({})).await.expect(409).json()["code"], "invoice_in_progress");
    stage.hub.run_jobs().await;
    assert_eq!(client.get(&path).await.expect(200).json()["cell"], "download");
}

// I6
async fn give_back(stage: &Stage, client: &Client<'_>, payment: &str) {
    let refunds = format!("{payment}/refunds");
    for (body, field) in [
        (json!({"amount": 0}), "/amount"),
        (json!({"amount": -5}), "/amount"),
        (json!({"amount": 12301}), "/amount"),
        (json!({"amount": 100, "currency": "EUR"}), "/currency"),
    ] {
        assert_eq!(super::client::refused(&client.post(&refunds, body).await), [field]);
    }
    let made = client.post(&refunds, json!({"amount": 300, "reason": "rabat"})).await.expect(201).json();
    assert_eq!((&made["status"], &made["amount"]), (&json!("requested"), &json!(300)));
    stage.hub.run_jobs().await;
    stage.carry().await;
    assert_eq!(client.get(&refunds).await.expect(200).json()["data"][0]["status"], "succeeded");
    assert_eq!(client.get(payment).await.expect(200).json()["amount_refunded"], 300);
    let rest = client.post(&refunds, json!({})).await.expect(201).json();
    assert_eq!(rest["amount"], 12000);
    assert_eq!(client.post(&refunds, json!({})).await.expect(409).json()["code"], "nothing_to_refund");
}

async fn look_on(stage: &Stage, client: &Client<'_>, payment: &str) {
    let timeline = client.get(&format!("{payment}/timeline")).await.expect(200).json();
    let entries = timeline["data"].as_array().unwrap();
    let kinds: std::collections::BTreeSet<&str> = entries.iter().map(|e| e["kind"].as_str().unwrap()).collect();
    for kind in ["transition", "attempt", "event", "invoice", "job", "message", "refund", "notice"] {
        assert!(kinds.contains(kind), "{kind} is missing in {kinds:?}");
    }
    let times: Vec<&str> = entries.iter().map(|e| e["at"].as_str().unwrap()).collect();
    assert!(times.is_sorted());
    // Each move of the status names its cause, and the cause is there.
    for moved in entries.iter().filter(|e| e["kind"] == "transition" && e["details"]["cause"] == "webhook") {
        assert!(entries.iter().any(|e| e["kind"] == "event" && e["id"] == moved["details"]["cause_id"]), "{moved}");
    }

    let id = payment.rsplit('/').next().unwrap();
    let found = client.get(&format!("/v1/deliveries?payment={id}")).await.expect(200).json();
    let delivery = format!("/v1/deliveries/{}", found["data"][0]["id"].as_str().unwrap());
    let whole = client.get(&delivery).await.expect(200).json();
    let body = STANDARD.decode(whole["body"].as_str().unwrap()).unwrap();
    assert_eq!(whole["body_sha256"], grosz_providers::sign::sha256_hex(&body));
    assert_eq!(whole["events"][0]["payment"], id);
    // F10: what was applied stays, a year later too.
    stage.hub.advance(365 * 86_400);
    let replayed = client.post(&format!("{delivery}/replay"), json!({})).await.expect(200).json();
    assert!(replayed["events"].as_array().unwrap().iter().all(|e| e["applied_now"] == false), "{replayed}");

    let notices = client.get("/v1/notices").await.expect(200).json();
    let sent = notices["data"].as_array().unwrap().iter().find(|n| n["state"] == "sent").expect("a letter that left");
    client.post(&format!("/v1/notices/{}/resend", sent["id"].as_str().unwrap()), json!({})).await.expect(201);

    // The invoice was issued, and what is done is gone from the table of what is to be done.
    let jobs = client.get("/v1/jobs?limit=100").await.expect(200).json();
    assert!(jobs["data"].as_array().unwrap().iter().all(|j| j["kind"] != "issue_invoice"), "{jobs}");
    for state in ["lost", "done"] {
        assert_eq!(super::client::refused(&client.get(&format!("/v1/jobs?state={state}")).await), ["state"]);
    }

    let set_aside = format!(
        "INSERT INTO jobs (merchant_id, id, kind, subject, state, set_aside, run_at, attempts, crashes, fence, created_at)
         VALUES ('{}', 'job_1', 'poll_status', 'att_1', 'failed', 'job_1', 1, 1, 5, 1, 1)",
        stage.hub.merchant.id
    );
    Raw::of(&stage.hub.app).await.run(set_aside).await;
    let retried = client.post("/v1/jobs/job_1/retry", json!({})).await.expect(200).json();
    assert_eq!((retried["state"].as_str(), retried["crashes"].as_i64()), (Some("ready"), Some(0)));

    let all = client.get("/v1/alerts?state=all").await.expect(200).json();
    let alert = format!("/v1/alerts/{}", all["data"][0]["id"].as_str().unwrap());
    client.get(&alert).await.expect(200);
    for _ in 0..2 {
        assert_eq!(client.post(&format!("{alert}/resolve"), json!({})).await.expect(200).json()["state"], "resolved");
    }
}

async fn tell(stage: &Stage, client: &Client<'_>) {
    let feed = client.get("/v1/events?limit=1").await.expect(200).json();
    assert_eq!((&feed["data"][0]["type"], &feed["has_more"]), (&json!("payment.started"), &json!(true)));
    let (mut after, mut read) = (feed["next_cursor"].as_str().unwrap().to_owned(), 1);
    loop {
        let part = client.get(&format!("/v1/events?after={after}&limit=7")).await.expect(200).json();
        read += part["data"].as_array().unwrap().len();
        after = part["next_cursor"].as_str().unwrap().to_owned();
        if part["has_more"] == false {
            break;
        }
    }
    assert!(read > 8, "{read}");
    let first = feed["data"][0]["id"].as_str().expect("an id");
    let small = first.to_lowercase();
    for never_given in ["msg_x", &small, "msg_7ZZZZZZZZZZZZZZZZZZZZZZZZZ"] {
        let answer = client.get(&format!("/v1/events?after={never_given}")).await;
        assert_eq!(super::client::refused(&answer), ["after"], "a client that lost a place hears of it");
    }
    // In the words of the other lists.
    let on = client.get(&format!("/v1/events?cursor={first}&limit=7")).await.expect(200).json();
    assert_eq!(on, client.get(&format!("/v1/events?after={first}&limit=7")).await.expect(200).json());
    assert_eq!(
        super::client::refused(&client.get(&format!("/v1/events?cursor={first}&after={first}")).await),
        ["cursor"]
    );

    let path = "/v1/webhook-endpoints";
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/hook", listener.local_addr().unwrap());
    drop(listener);
    assert_eq!(
        super::client::refused(&client.post(path, json!({"url": "ftp://x", "types": ["payment.paid"]})).await),
        ["/types/0", "/url"]
    );
    let made = client.post(path, json!({"url": url, "types": ["payment.completed"]})).await.expect(201);
    let one = format!("{path}/{}", id_of(&made));
    client.get(&one).await.expect(200);
    client.get(path).await.expect(200);
    let rotated = client.post(&format!("{one}/secret/rotate"), json!({"overlap_seconds": 60})).await.expect(200).json();
    assert_ne!(rotated["secret"], made.json()["secret"]);
    client.post(&format!("{one}/secret/rotate"), json!({"overlap_seconds": 604_801})).await.expect(422);

    // Everything since the beginning was never meant for this endpoint: two payments were completed.
    let replay = json!({"since": "2026-11-01"});
    let queued = client.post(&format!("{one}/replay"), replay.clone()).await.expect(202).json();
    assert_eq!(queued, json!({"queued": 2, "next_since": null}));
    assert_eq!(client.post(&format!("{one}/replay"), replay.clone()).await.expect(202).json()["queued"], 0);
    // Nobody listens there: all tries fail, and what failed can be replayed.
    stage.let_pass(10 * 86_400, 43_200).await;
    let ways = client.get(&format!("{one}/deliveries")).await.expect(200).json();
    assert!(ways["data"].as_array().unwrap().iter().all(|t| t["state"] == "failed"), "{ways}");
    assert_eq!(client.post(&format!("{one}/replay"), replay.clone()).await.expect(202).json()["queued"], 2);
    let test = client.post(&format!("{one}/test"), json!({})).await.expect(202).json();
    assert_eq!(test["state"], "pending");

    client.patch(&one, json!({"enabled": false})).await.expect(200);
    for (path, body) in [("replay", replay), ("test", json!({}))] {
        assert_eq!(client.post(&format!("{one}/{path}"), body).await.expect(409).json()["code"], "endpoint_disabled");
    }
    client.delete(&one).await.expect(204);
    client.get(&one).await.expect(404);
}
