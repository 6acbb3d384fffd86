//! Values that must not come in, and values that must.

use grosz_providers::invoicer::Vat;
use serde_json::{Value, json};

use super::client::{Client, case_body, id_of, payment_body, refused};
use crate::harness::{Engine, Hub, KEY};
use crate::raw::Raw;
use crate::stories::stage::Stage;

// F51
#[tokio::test]
async fn amounts_are_whole_minor_units_of_a_known_currency() {
    let stage = Stage::set(Engine::Sqlite).await;
    let headers = [("content-type", "application/json".to_owned()), ("authorization", format!("Bearer {KEY}"))];
    let body = |amount: &str, currency: &str| {
        format!(
            r#"{{"amount": {amount}, "currency": "{currency}", "description": "x", "payer": "{}", "provider_account": "{}"}}"#,
            stage.payer.id,
            stage.account("autopay").id
        )
    };
    for amount in [
        "0",
        "-1",
        "9223372036854775807",
        "1e19",
        "10000000000000000000",
        "0.1",
        "12300.0",
        "\"12300\"",
        "null",
        "true",
    ] {
        let answer = stage.hub.raw("POST", "/v1/payments", &headers, body(amount, "PLN").into_bytes()).await;
        assert_eq!(refused(&answer), ["/amount"], "{amount}");
    }
    for currency in ["XXX", "pln", "", "PLNN", "zł"] {
        let answer = stage.hub.raw("POST", "/v1/payments", &headers, body("100", currency).into_bytes()).await;
        assert_eq!(refused(&answer), ["/currency"], "{currency}");
    }
    // Known, and not taken by this account; the gateway's limits hold too.
    let answer = stage.hub.raw("POST", "/v1/payments", &headers, body("100", "JPY").into_bytes()).await;
    assert_eq!(refused(&answer), ["/currency"]);
    let answer = stage.hub.raw("POST", "/v1/payments", &headers, body("1000000000000", "PLN").into_bytes()).await;
    assert_eq!(refused(&answer), ["/amount"]);
}

// F63
#[tokio::test]
async fn only_honest_return_addresses_are_taken() {
    let stage = Stage::set_with(Engine::Sqlite, |_| {}).await;
    let client = Client::new(&stage.hub);
    let with = |url: &str| {
        let mut body = payment_body(&stage);
        body["return_url"] = json!(url);
        body
    };
    client
        .patch("/v1/merchant", json!({"return_origins": ["https://good.example", "https://shop.example:8443"]}))
        .await
        .expect(200);
    for url in [
        "//evil.example",
        "https://good.example@evil.example/",
        "https:evil.example",
        "\\\\evil.example",
        "https://good.example\\@evil.example",
        "javascript:alert(1)",
        "data:text/html,x",
        "https://good.example:444/",
        "http://good.example/",
        "https://good.example.evil.example/",
        "https://g\u{f6}\u{f6}d.example/",
        "https://xn--gd-jkaa.example/",
        "https://good.example/\r\nSet-Cookie: a=b",
        "https://good.example/a b",
        "https://shop.example/",
        "/thanks",
        "",
        &format!("https://good.example/{}", "x".repeat(1000)),
    ] {
        assert_eq!(refused(&client.post("/v1/payments", with(url)).await), ["/return_url"], "{url}");
    }
    for url in ["https://good.example/thanks?a=b#c", "https://shop.example:8443/x", "https://GOOD.example"] {
        client.post("/v1/payments", with(url)).await.expect(201);
    }
    for origin in
        ["good.example", "https://good.example/", "https://GOOD.example", "javascript:x", "https://a@b.example"]
    {
        let answer = client.patch("/v1/merchant", json!({"return_origins": [origin]})).await;
        assert_eq!(refused(&answer), ["/return_origins/0"], "{origin}");
    }
}

// F75
#[tokio::test]
async fn card_numbers_are_refused_in_free_text() {
    let stage = Stage::set(Engine::Sqlite).await;
    let client = Client::new(&stage.hub);
    let card = "karta 4242 4242 4242 4242";
    let mut case = case_body(&stage, "1/2026");
    case["title"] = json!(card);
    case["lines"][0]["name"] = json!(card);
    assert_eq!(refused(&client.post("/v1/cases", case).await), ["/lines/0/name", "/title"]);
    let mut payment = payment_body(&stage);
    payment["description"] = json!(card);
    let answer = client.post("/v1/payments", payment).await;
    assert_eq!(refused(&answer), ["/description"]);
    assert!(!answer.text().contains("4242"));
    let paid = stage.pay("2/2026", "stripe", "pay").await;
    let answer = client.post(&format!("/v1/payments/{}/refunds", paid.id), json!({"reason": card})).await;
    assert_eq!(refused(&answer), ["/reason"]);
}

// R-5W-13, R-OKI-03, R-OKI-11, R-OKI-12
#[tokio::test]
async fn invoice_data_are_checked_before_they_make_an_invoice_fail() {
    let stage = Stage::set(Engine::Sqlite).await;
    let client = Client::new(&stage.hub);
    let path = format!("/v1/payers/{}/profiles", stage.payer.id);
    let company = json!({
        "kind": "company", "name": "Firma", "tax_id": "526-000-12-46", "street": "Prosta 1", "postcode": "00-950",
        "city": "Warszawa", "country": "PL", "email": "f@firma.example",
    });
    let with = |name: &str, value: Value| {
        let mut body = company.clone();
        body[name] = value;
        body
    };
    for (body, field) in [
        (with("tax_id", json!("5260001247")), "/tax_id"),
        (with("tax_id", json!("")), "/tax_id"),
        (with("tax_id", json!(null)), "/tax_id"),
        (with("kind", json!("robot")), "/kind"),
        (with("kind", json!("individual")), "/tax_id"),
        (with("postcode", json!("00950")), "/postcode"),
        (with("country", json!("Poland")), "/country"),
        (with("name", json!(" ")), "/name"),
        (with("email", json!("nobody")), "/email"),
        (with("email", json!("jan@firma")), "/email"),
        (with("default", json!("yes")), "/default"),
    ] {
        assert_eq!(refused(&client.post(&path, body.clone()).await), [field], "{body}");
    }
    let first = client.post(&path, company.clone()).await.expect(201).json();
    assert_eq!((&first["tax_id"], &first["tax_id_kind"]), (&json!("5260001246"), &json!("pl_nip")));
    assert!(first.get("warnings").is_none());
    let second = client.post(&path, company.clone()).await.expect(201).json();
    assert_eq!(
        (&second["warnings"][0]["code"], &second["warnings"][0]["profile"]),
        (&json!("duplicate_tax_id"), &first["id"])
    );
    // An edit makes a version, and without a number the company is refused.
    let one = format!("{path}/{}", first["id"].as_str().unwrap());
    let changed = client.patch(&one, json!({"city": "Kraków", "default": true})).await.expect(200).json();
    assert_eq!(
        (&changed["version"], &changed["city"], &changed["default"]),
        (&json!(2), &json!("Kraków"), &json!(true))
    );
    assert_eq!(refused(&client.patch(&one, json!({"tax_id": null})).await), ["/tax_id"]);
    let payer = format!("/v1/payers/{}", stage.payer.id);
    assert_eq!(refused(&client.patch(&payer, json!({"email": "jan@localhost"})).await), ["/email"]);
    let mut person = json!({"kind": "individual", "name": "Jan", "street": "Prosta 1", "postcode": "00-950", "city": "Warszawa", "country": "PL"});
    assert_eq!(refused(&client.post(&path, person.clone()).await.expect(422)), ["/email"]);
    person["email"] = json!("jan@example.com");
    let person = client.post(&path, person).await.expect(201).json();
    assert_eq!((&person["email"], &person["tax_id"]), (&json!("jan@example.com"), &json!(null)));
    let named = with("email", json!(null));
    assert_eq!(client.post(&path, named).await.expect(201).json()["email"], json!(stage.payer.email));
    client.delete(&one).await.expect(204);
    client.get(&one).await.expect(404);
}

// R-5W-02, R-5W-08
#[tokio::test]
async fn a_quote_needs_a_gateway_an_expert_and_lines_that_add_up() {
    let stage = Stage::set(Engine::Sqlite).await;
    let client = Client::new(&stage.hub);
    let with = |name: &str, value: Value| {
        let mut body = case_body(&stage, "1/2026");
        body[name] = value;
        body
    };
    for (body, field) in [
        (with("lines", json!([])), "/lines"),
        (with("lines", json!([{"name": "a", "unit_price": 1, "vat": 23}])), "/lines"),
        (with("lines", json!([{"name": "a", "unit_price": 12300, "vat": 2300}])), "/lines/0/vat"),
        (with("lines", json!([{"name": "a", "unit_price": 12300, "vat": [23]}])), "/lines/0/vat"),
        (with("lines", json!([{"name": "a", "unit_price": 12300, "vat": 23, "quantity": 0}])), "/lines/0/quantity"),
        (with("lines", json!([{"name": "a", "unit_price": 12300}])), "/lines/0/vat"),
        (with("prices", json!("net")), "/lines"),
        (with("prices", json!("both")), "/prices"),
        (with("payer", json!("pyr_nobody")), "/payer"),
        (with("expert", json!("exp_nobody")), "/expert"),
        (with("number", json!("")), "/number"),
        (with("amount", json!(0)), "/amount"),
    ] {
        assert_eq!(refused(&client.post("/v1/cases", body.clone()).await), [field], "{body}");
    }
    let net = with("lines", json!([{"name": "a", "unit_price": 10000, "vat": "23"}]));
    let case = client.post("/v1/cases", net).await.expect(201).json();
    assert_eq!(case["lines"][0], json!({"name": "a", "quantity": 1, "unit_price": 12300, "vat": "23"}));
    assert_eq!(case["totals"], json!({"net": 10000, "vat": 2300, "gross": 12300}));
    let taken = client.post("/v1/cases", case_body(&stage, "1/2026")).await.expect(409);
    assert_eq!(taken.json()["code"], "case_number_taken");

    let id = case["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/cases/{id}");
    let payment = client
        .post("/v1/payments", json!({"case": id, "provider_account": stage.account("autopay").id}))
        .await
        .expect(201);
    assert_eq!(refused(&client.patch(&path, json!({"amount": 100})).await), ["/lines"]);
    assert_eq!(refused(&client.patch(&path, json!({"currency": "EUR"})).await), ["/amount"]);
    let quote = json!({"amount": 24600, "lines": [{"name": "a", "unit_price": 24600, "vat": 23}]});
    let changed = client.patch(&path, quote.clone()).await.expect(200).json();
    assert_eq!((&changed["amount"], &changed["quote_version"]), (&json!(24600), &json!(2)));
    let old = client.get(&format!("/v1/payments/{}", id_of(&payment))).await.expect(200).json();
    assert_eq!((&old["status"], &old["status_reason"]), (&json!("error"), &json!("quote_changed")));
    let retry = client.post(&format!("/v1/payments/{}/retry", id_of(&payment)), json!({})).await.expect(409);
    assert_eq!(retry.json()["code"], "quote_changed");

    for provider in ["autopay", "stripe"] {
        client
            .patch(&format!("/v1/provider-accounts/{}", stage.account(provider).id), json!({"enabled": false}))
            .await
            .expect(200);
    }
    for answer in [
        client.post("/v1/cases", case_body(&stage, "2/2026")).await,
        client.patch(&path, json!({"amount": 100, "lines": [{"name": "a", "unit_price": 100, "vat": 23}]})).await,
        client.post("/v1/payments", json!({"case": id})).await,
    ] {
        assert_eq!(answer.expect(409).json()["code"], "provider_not_configured");
    }
}

#[tokio::test]
async fn somebody_must_hear_of_failures() {
    let stage = Stage::set_with(Engine::Sqlite, |config| config.fallback_email = String::new()).await;
    let client = Client::new(&stage.hub);
    client.patch("/v1/merchant", json!({"fallback_email": null})).await.expect(200);
    let mut body = case_body(&stage, "1/2026");
    body["expert"] = json!(null);
    assert_eq!(refused(&client.post("/v1/cases", body.clone()).await), ["/expert"]);
    client.patch("/v1/merchant", json!({"fallback_email": "biuro@kancelaria.example"})).await.expect(200);
    let raw = Raw::of(&stage.hub.app).await;
    raw.try_run(&format!("DELETE FROM experts WHERE id = '{}'", stage.experts[1].id)).await.unwrap();
    client.post("/v1/cases", body).await.expect(201);
}

// R-5W-06: a case of a team is quoted when somebody took it over or was given it.
#[tokio::test]
async fn a_team_quotes_no_case_that_nobody_took_over() {
    let stage = Stage::set(Engine::Sqlite).await;
    let client = Client::new(&stage.hub);
    client.patch("/v1/merchant", json!({"fallback_email": "biuro@kancelaria.example"})).await.expect(200);
    let mut body = case_body(&stage, "1/2026");
    let quote = json!({"amount": body["amount"], "lines": body["lines"]});
    body["expert"] = json!(null);
    let answer = client.post("/v1/cases", body.clone()).await.expect(409);
    assert_eq!(answer.json()["code"], "case_unassigned");
    body["expert"] = json!(stage.experts[0].id);
    let path = format!("/v1/cases/{}", id_of(&client.post("/v1/cases", body).await.expect(201)));
    assert_eq!(client.patch(&path, json!({"expert": null})).await.expect(200).json()["expert"], json!(null));
    assert_eq!(client.patch(&path, quote.clone()).await.expect(409).json()["code"], "case_unassigned");
    let mut taken_over = quote;
    taken_over["expert"] = json!(stage.experts[1].id);
    assert_eq!(client.patch(&path, taken_over).await.expect(200).json()["expert"], stage.experts[1].id);
}

// R-5W-03, F62
#[tokio::test]
async fn accounts_take_only_settings_that_are_right() {
    let hub = Hub::start_with(Engine::Sqlite, |config| config.allow_insecure_targets = false).await;
    let client = Client::new(&hub);
    let new = |settings: Value| json!({"provider": "autopay", "settings": settings, "currency": "PLN"});
    for (body, field) in [
        (json!({"provider": "nobody"}), "/provider"),
        (json!({"settings": {}}), "/provider"),
        (new(json!({"service_id": "123456"})), "/settings/shared_key"),
        (new(json!({"service_id": "123456", "shared_key": "canary", "colour": "red"})), "/settings/colour"),
        (new(json!({"service_id": "123456", "shared_key": "canary", "hash": "md5"})), "/settings/hash"),
        (
            new(json!({"service_id": "123456", "shared_key": "canary", "gateway_url": "https://10.0.0.1"})),
            "/settings/gateway_url",
        ),
        (
            new(json!({"service_id": "123456", "shared_key": "canary", "gateway_url": "http://pay.example"})),
            "/settings/gateway_url",
        ),
        (
            json!({"provider": "autopay", "settings": {"service_id": "123456", "shared_key": "canary"}, "currency": "JPY"}),
            "/currency",
        ),
        (
            json!({"provider": "autopay", "settings": {"service_id": "123456", "shared_key": "canary"}, "live": true}),
            "/live",
        ),
        (
            json!({"provider": "stripe", "settings": {"secret_key": "sk_live_canary", "webhook_secret": "whsec_canary"}}),
            "/settings/secret_key",
        ),
    ] {
        let answer = client.post("/v1/provider-accounts", body).await;
        assert_eq!(refused(&answer), [field]);
        assert!(!answer.text().contains("canary"));
    }
    let made = client
        .post("/v1/provider-accounts", new(json!({"service_id": "123456", "shared_key": "canary"})))
        .await
        .expect(201);
    assert!(!made.text().contains("canary"));
    let id = id_of(&made);
    assert_eq!(made.json()["settings"]["shared_key"], "***");
    assert_eq!(made.json()["webhook_url"], format!("{}/webhooks/autopay/{id}", hub.url));
    // What is shown can be sent back: the secret stays, the rest changes.
    let path = format!("/v1/provider-accounts/{id}");
    let change = json!({"settings": {"service_id": "654321", "shared_key": "***"}});
    assert_eq!(client.patch(&path, change).await.expect(200).json()["settings"]["service_id"], "654321");
    let mut tx = hub.app.store.read().await.unwrap();
    let row = tx.provider_account(&hub.merchant.id, &id).await.unwrap().unwrap();
    assert_eq!(hub.app.provider_settings(&row).unwrap().text("shared_key"), "canary");
    assert!(!row.sealed.contains("canary"));
}

// R-5W-05, R-5W-13: what the invoicing service would refuse after the money came is refused before it is asked for.
#[tokio::test]
async fn what_cannot_be_invoiced_is_not_sold() {
    let stage = Stage::set(Engine::Sqlite).await;
    let client = Client::new(&stage.hub);
    let account = format!("/v1/invoicing-accounts/{}", stage.invoicing.id);
    let with_vat = |vat: Value| {
        let mut body = case_body(&stage, "9/2026");
        body["lines"][0]["vat"] = vat;
        body
    };
    // wFirma has no such rate, and a seller who pays VAT has one.
    for vat in [json!("8.5"), json!("none")] {
        assert_eq!(refused(&client.post("/v1/cases", with_vat(vat.clone())).await), ["/lines/0/vat"], "{vat}");
    }
    let case = client.post("/v1/cases", with_vat(json!("8"))).await.expect(201);
    let path = format!("/v1/cases/{}", id_of(&case));
    let quote = json!({"amount": 12300, "lines": with_vat(json!("8.5"))["lines"]});
    assert_eq!(refused(&client.patch(&path, quote).await), ["/lines/0/vat"]);

    // A company that KSeF does not know by its number: by name, and as the payer's habit.
    let czech = json!({"kind": "company", "name": "Firma s.r.o.", "tax_id": "45274649", "street": "Dlouhá 1",
        "postcode": "110 00", "city": "Praha", "country": "CZ", "email": "a@b.example"});
    let profile = client.post(&format!("/v1/payers/{}/profiles", stage.payer.id), czech).await.expect(201);
    let mut order = payment_body(&stage);
    order["profile"] = json!(id_of(&profile));
    let answer = client.post("/v1/payments", order).await;
    assert_eq!(refused(&answer), ["/profile"]);
    assert!(answer.text().contains("DIČ"), "{}", answer.text());

    // Who does not pay VAT sells without it, also where nobody says so.
    let settings = json!({"settings": {"vat_payer": false}});
    client.patch(&account, settings).await.expect(200);
    let sold = client.post("/v1/payments", payment_body(&stage)).await.expect(201);
    let payment = stage.hub.tx().await.payment(&stage.payer.merchant_id, &id_of(&sold)).await.unwrap().unwrap();
    assert_eq!(payment.lines.unwrap()[0].vat, Vat::SellerNotVatPayer);
    let order = json!({"case": id_of(&case), "provider_account": stage.account("autopay").id});
    assert_eq!(refused(&client.post("/v1/payments", order).await), ["/case"], "quoted with VAT");
}

// R-5W-41: one account of a mode issues. A second one may stand beside it, to take its place; whoever adds it hears so.
#[tokio::test]
async fn a_second_invoicing_account_says_that_it_issues_nothing() {
    let stage = Stage::set(Engine::Sqlite).await;
    let client = Client::new(&stage.hub);
    let path = "/v1/invoicing-accounts";
    let new = json!({"invoicer": "wfirma", "settings": {
        "access_key": "1", "secret_key": "2", "app_key": "3", "company_id": "100002"}});
    let made = client.post(path, new.clone()).await.expect(201).json();
    let warning = &made["warnings"][0];
    assert_eq!(
        (&warning["code"], &warning["invoicing_account"]),
        (&json!("issues_nothing"), &json!(stage.invoicing.id))
    );
    let mut off = new;
    off["enabled"] = json!(false);
    assert_eq!(client.post(path, off).await.expect(201).json().get("warnings"), None);
    let (first, second) =
        (format!("{path}/{}", stage.invoicing.id), format!("{path}/{}", made["id"].as_str().unwrap()));
    assert_eq!(client.patch(&first, json!({"enabled": false})).await.expect(200).json().get("warnings"), None);
    assert_eq!(client.patch(&second, json!({"enabled": true})).await.expect(200).json().get("warnings"), None);
    client.patch(&first, json!({"enabled": true})).await.expect(200);
    assert_eq!(client.patch(&second, json!({})).await.expect(200).json()["warnings"][0], *warning);
}

// R-5W-03, F62
#[tokio::test]
async fn secrets_do_not_follow_an_account_to_another_address() {
    let hub = Hub::start_with(Engine::Sqlite, |config| config.allow_insecure_targets = false).await;
    let client = Client::new(&hub);
    let autopay = json!({"provider": "autopay", "currency": "PLN",
        "settings": {"service_id": "123456", "shared_key": "canary"}});
    let stripe = json!({"provider": "stripe", "settings": {
        "secret_key": "sk_test_canary", "webhook_secret": "whsec_canary", "webhook_secret_previous": "whsec_before"}});
    let wfirma = json!({"invoicer": "wfirma", "settings": {
        "access_key": "canary1", "secret_key": "canary2", "app_key": "canary3", "company_id": "1"}});
    for (path, new, name, secrets) in [
        ("/v1/provider-accounts", autopay, "gateway_url", json!({"shared_key": "anew"})),
        (
            "/v1/provider-accounts",
            stripe,
            "base_url",
            json!({"secret_key": "sk_test_anew", "webhook_secret": "whsec_anew", "webhook_secret_previous": null}),
        ),
        (
            "/v1/invoicing-accounts",
            wfirma,
            "base_url",
            json!({"access_key": "anew", "secret_key": "anew", "app_key": "anew"}),
        ),
    ] {
        let made = client.post(path, new).await.expect(201);
        let mine = format!("{path}/{}", id_of(&made));
        let at_first = made.json()["settings"][name].clone();
        let moved = |secrets: &Value, to: Value| {
            let mut settings = secrets.clone();
            settings[name] = to;
            json!({"settings": settings})
        };
        let names = secrets.as_object().unwrap().keys();
        let all: Vec<String> = names.map(|name| format!("/settings/{name}")).collect();
        // Left out, or what is shown instead of them, is not giving them.
        let elsewhere = json!("https://elsewhere.example");
        let mut hidden = secrets.clone();
        hidden.as_object_mut().unwrap().values_mut().for_each(|v| *v = json!("***"));
        for without in [json!({}), hidden] {
            assert_eq!(refused(&client.patch(&mine, moved(&without, elsewhere.clone())).await), all);
        }
        assert_eq!(client.get(&mine).await.expect(200).json()["settings"][name], at_first);
        // Where it is stays; so the secrets may stay.
        client.patch(&mine, moved(&json!({}), at_first.clone())).await.expect(200);
        let answer = client.patch(&mine, moved(&secrets, elsewhere.clone())).await.expect(200);
        assert_eq!(answer.json()["settings"][name], elsewhere);
        client.patch(&mine, moved(&json!({}), elsewhere)).await.expect(200);
        // The way back to the default is a way to another address too.
        let last = refused(&client.patch(&mine, moved(&json!({}), json!(null))).await);
        assert!(last.iter().all(|field| all.contains(field)), "{last:?}");
    }
}

// F09: an account at which payments were begun stays that account: else nobody would hear of their money.
#[tokio::test]
async fn an_account_in_use_stays_itself() {
    let stage = Stage::set(Engine::Sqlite).await;
    let client = Client::new(&stage.hub);
    let path = format!("/v1/provider-accounts/{}", stage.account("autopay").id);
    let renamed = json!({"settings": {"service_id": "654321"}});
    client.patch(&path, renamed.clone()).await.expect(200);
    let back = client.get(&path).await.expect(200).json()["settings"]["service_id"].clone();
    assert_eq!(back, "654321", "nothing was begun at it");
    stage.start(&stage.case("1/2026").await, "autopay").await;
    let refused = client.patch(&path, json!({"settings": {"service_id": "111111"}})).await.expect(409);
    assert_eq!(refused.json()["code"], "account_in_use");
    client.patch(&path, renamed).await.expect(200);
    client.patch(&path, json!({"settings": {"shared_key": "another"}, "enabled": false})).await.expect(200);
}

// F84: a dispute stands beside the payment: one payment shows it, lists leave it out.
#[tokio::test]
async fn a_payment_shows_its_disputes() {
    let stage = Stage::set(Engine::Sqlite).await;
    let client = Client::new(&stage.hub);
    let payment = stage.pay("1/2026", "stripe", "pay").await;
    let path = format!("/v1/payments/{}", payment.id);
    assert!(client.get(&path).await.expect(200).json().get("disputes").is_none());
    stage.bank("ch", "dispute").await;
    stage.bank("dp", "lost").await;
    let shown = client.get(&path).await.expect(200).json();
    let dispute = &shown["disputes"][0];
    assert_eq!(
        (&dispute["status"], &dispute["closed"], &dispute["lost"]),
        (&json!("lost"), &json!(true), &json!(true))
    );
    assert_eq!((&dispute["amount"], &dispute["currency"]), (&json!(12300), &json!("PLN")));
    assert!(dispute["due_by"].is_string(), "{dispute}");
    let listed = client.get("/v1/payments").await.expect(200).json();
    assert!(listed["data"][0].get("disputes").is_none(), "{listed}");
    let refused = client.post(&format!("{path}/refunds"), json!({"amount": 12300})).await.expect(409).json();
    assert_eq!(refused["code"], "nothing_to_refund");
}

// F08: who compares what was given back with the amount takes no goods back for money that came on top.
#[tokio::test]
async fn a_refund_of_a_surplus_says_so() {
    let stage = Stage::set(Engine::Sqlite).await;
    let client = Client::new(&stage.hub);
    let payment = stage.pay("1/2026", "autopay", "pay_twice").await;
    let path = format!("/v1/payments/{}", payment.id);
    let refunds = format!("{path}/refunds");
    assert_eq!(client.post(&refunds, json!({})).await.expect(201).json()["surplus"], true);
    assert_eq!(client.post(&refunds, json!({"amount": 100})).await.expect(201).json()["surplus"], false);
    stage.let_pass(200, 20).await;
    let listed = client.get(&refunds).await.expect(200).json();
    let told: Vec<_> = listed["data"].as_array().unwrap().iter().map(|r| (&r["surplus"], &r["amount"])).collect();
    assert!(told.contains(&(&json!(true), &json!(12300))) && told.contains(&(&json!(false), &json!(100))), "{told:?}");
    assert_eq!(client.get(&path).await.expect(200).json()["amount_refunded"], 100);
}
