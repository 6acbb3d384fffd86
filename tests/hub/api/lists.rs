//! Lists are paged by keys.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::client::{Client, id_of, payment_body};
use crate::harness::{Engine, Hub};
use crate::on_both;
use crate::raw::Raw;
use crate::stories::stage::Stage;

on_both!(pages_neither_skip_nor_repeat_while_rows_are_added, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let client = Client::new(&hub);
    let add = async |n: usize| {
        let body = json!({"name": format!("Ekspert {n}"), "email": "e@kancelaria.example"});
        id_of(&client.post("/v1/experts", body).await.expect(201))
    };
    let mut made = BTreeSet::new();
    for n in 0..25 {
        made.insert(add(n).await);
    }
    let (mut seen, mut cursor, mut pages) = (vec![], String::new(), 0);
    loop {
        let page = client.get(&format!("/v1/experts?limit=10{cursor}")).await.expect(200).json();
        seen.extend(page["data"].as_array().unwrap().iter().map(|e| e["id"].as_str().unwrap().to_owned()));
        pages += 1;
        // Newer rows belong to the pages before.
        add(100 + pages).await;
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!((pages, seen.len()), (3, 25));
    assert!(seen.windows(2).all(|w| w[0] > w[1]), "newest first");
    assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), made);
});

on_both!(payments_are_found_by_payer_case_status_and_time, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    let client = Client::new(&stage.hub);
    let first = id_of(&client.post("/v1/payments", payment_body(&stage)).await.expect(201));
    let paid = stage.pay("1/2026", "autopay", "pay").await;
    stage.hub.advance(86_400);
    let last = id_of(&client.post("/v1/payments", payment_body(&stage)).await.expect(201));
    let payer = &stage.payer.id;
    let case = paid.case_id.clone().unwrap();
    for (query, expected) in [
        (String::new(), vec![&last, &paid.id, &first]),
        (format!("payer={payer}"), vec![&last, &paid.id, &first]),
        (format!("case={case}"), vec![&paid.id]),
        (format!("payer={payer}&case={case}&status=completed"), vec![&paid.id]),
        ("status=started".into(), vec![&last, &first]),
        ("status=error".into(), vec![]),
        ("from=2026-11-22".into(), vec![&last]),
        ("to=2026-11-22T00:00:00Z".into(), vec![&paid.id, &first]),
        ("from=2026-11-21&to=2026-11-21&status=completed".into(), vec![&paid.id]),
        ("to=2026-11-20".into(), vec![]),
        ("to=2026-11-21T00:00:00Z".into(), vec![]),
        ("payer=pyr_nobody".into(), vec![]),
    ] {
        let answer = client.get(&format!("/v1/payments?{query}")).await.expect(200).json();
        let ids: Vec<&str> = answer["data"].as_array().unwrap().iter().map(|p| p["id"].as_str().unwrap()).collect();
        assert_eq!(ids, expected, "{query}");
    }
});

/// A list of the payer's payments shows each as it shows it alone.
async fn check_payments(client: &Client<'_>, stage: &Stage) -> Vec<Value> {
    let payer = &stage.payer.id;
    let listed = client.get(&format!("/v1/payments?payer={payer}")).await.expect(200).json();
    let listed = listed["data"].as_array().unwrap().clone();
    for payment in &listed {
        let path = format!("/v1/payments/{}", payment["id"].as_str().unwrap());
        assert_eq!(client.get(&path).await.expect(200).json(), *payment);
    }
    listed
}

/// What is in the database of payments whose text is of their version.
const KEPT: &str = "SELECT COUNT(*) FROM payments WHERE glance_version = version AND glance <> ''";

// Made alone, opened, paid, paid too late, given up, tried again, given back: the text kept with a payment follows.
on_both!(a_list_shows_payments_as_they_are_from_what_is_kept, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    let (client, raw) = (Client::new(&stage.hub), Raw::of(&stage.hub.app).await);
    let check = async |count: usize| {
        let listed = check_payments(&client, &stage).await;
        assert_eq!(listed.len(), count);
        assert_eq!(raw.number(KEPT).await, i64::try_from(count).unwrap(), "each is kept: {listed:#?}");
        listed
    };
    client.post("/v1/payments", payment_body(&stage)).await.expect(201);
    assert_eq!(check(1).await[0]["attempts"][0]["state"], "created");
    let payment = stage.start(&stage.case("1/2026").await, "autopay").await;
    check(2).await;
    let page = stage.open(&payment).await;
    assert_eq!(check(2).await[0]["attempts"][0]["state"], "open");
    stage.press(&page, "cancel").await.expect(303);
    stage.carry().await;
    assert_eq!(check(2).await[0]["status_reason"], "cancelled");
    let again = stage.retry(&payment).await;
    assert_eq!(check(2).await[0]["attempts"][1]["state"], "created");
    let page = stage.open(&again).await;
    check(2).await;
    stage.press(&page, "pay").await.expect(303);
    stage.carry().await;
    let paid = check(2).await.remove(0);
    assert_eq!((&paid["status"], &paid["invoice"]["cell"]), (&json!("completed"), &json!("generating")));
    stage.let_pass(600, 60).await;
    let invoiced = check(2).await.remove(0);
    assert_eq!(invoiced["invoice"]["cell"], "download", "{invoiced:#}");
    let body = json!({"amount": 100, "reason": "sorry"});
    client.post(&format!("/v1/payments/{}/refunds", payment.id), body).await.expect(201);
    stage.let_pass(600, 60).await;
    assert_eq!(check(2).await[0]["amount_refunded"], 100);
});

// F49: an older program changes a payment and knows nothing of the text; a newer one writes it in another form.
on_both!(a_text_of_another_version_or_form_is_not_shown, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    let (client, raw) = (Client::new(&stage.hub), Raw::of(&stage.hub.app).await);
    let paid = stage.pay("1/2026", "autopay", "pay").await;
    client.post("/v1/payments", payment_body(&stage)).await.expect(201);
    stage.let_pass(600, 60).await;
    let before = check_payments(&client, &stage).await;
    assert_eq!(before[1]["id"], paid.id);
    for (change, kept) in [
        ("UPDATE payments SET glance = NULL, glance_version = NULL", 0),
        ("UPDATE payments SET glance = '0not of this program', glance_version = version", 2),
        ("UPDATE payments SET description = 'Konsultacje', version = version + 1", 0),
    ] {
        raw.run(change).await;
        assert_eq!(raw.number(KEPT).await, kept);
        let listed = check_payments(&client, &stage).await;
        assert_eq!((listed.len(), &listed[1]["invoice"]), (2, &before[1]["invoice"]), "{change}");
    }
    assert_eq!(check_payments(&client, &stage).await[1]["description"], "Konsultacje");
});
