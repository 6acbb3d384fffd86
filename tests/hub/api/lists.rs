//! Lists are paged by keys.

use std::collections::BTreeSet;

use serde_json::json;

use super::client::{Client, id_of, payment_body};
use crate::harness::{Engine, Hub};
use crate::on_both;
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
        ("from=2026-11-21&to=2026-11-22&status=completed".into(), vec![&paid.id]),
        ("payer=pyr_nobody".into(), vec![]),
    ] {
        let answer = client.get(&format!("/v1/payments?{query}")).await.expect(200).json();
        let ids: Vec<&str> = answer["data"].as_array().unwrap().iter().map(|p| p["id"].as_str().unwrap()).collect();
        assert_eq!(ids, expected, "{query}");
    }
});
