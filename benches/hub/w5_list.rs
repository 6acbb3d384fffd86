//! W5: the list of one payer's payments, and W1 again, with a large table.

use crate::load::{Pace, Requests, Written, request};
use crate::references;
use crate::report::{Floor, Rounds};
use crate::seed::{Batch, PAYMENTS_A_PAYER, Template};
use crate::stage::Stage;
use crate::w1_intake::{self, Templates};

/// The hub and the reference in turns.
pub async fn run(stage: &mut Stage<'_>) {
    let count = stage.options.payments.unwrap_or(if stage.options.quick { 50_000 } else { 1_000_000 });
    let process = stage.hub.start(&[]).await;
    let templates = Templates::make(stage, &process).await;
    let template = stage.hub.payment(&process, &stage.hub.accounts[0]).await;
    drop(process);
    println!("  {count} payments are seeded");
    let (merchant, payer) = (stage.hub.merchant.clone(), stage.hub.payer.clone());
    let payers = stage.seeder.payers(&mut stage.db, &merchant, &payer, count.div_ceil(PAYMENTS_A_PAYER)).await;
    let template = Template { merchant: &merchant, payment: &template };
    stage.seeder.payments(&mut stage.db, &template, count, Some(&payers)).await;
    stage.db.settle().await;

    let process = stage.hub.start(&[]).await;
    if let (true, Some(ratio)) = (stage.options.wants("W1"), stage.small_ratio) {
        w1_intake::large(stage, &process, &templates, count, ratio).await;
    }
    if !stage.options.wants("W5") {
        return;
    }
    let key = stage.hub.key.clone();
    let lists = |path: &str, payers: &Batch| {
        asked(path, &key, (0..payers.count).map(|n| format!("pyr_{}", payers.name(n))).collect())
    };
    let ours = || lists("/v1/payments?limit=20&payer=", &payers);
    let batch = stage.seeder.reserve(count);
    references::seed(&mut stage.reference_db, &batch, PAYMENTS_A_PAYER).await;
    stage.reference_db.settle().await;
    let (_child, target) = stage.start_references().await;
    let first = batch.first / PAYMENTS_A_PAYER + 1;
    let named: Vec<String> = (first..first + count / PAYMENTS_A_PAYER - 1).map(|n| format!("pyr_{n}")).collect();
    let theirs = |path: &str| asked(path, &key, named.clone());
    check_length(process.address, ours()).await;
    check_length(target.address, theirs("/list?payer=")).await;
    let (figure, _) = stage.measure(target, theirs("/bare?payer="), Pace::Saturate).await;
    stage.figure("W5", "reference: a handler that answers", figure);
    let [mut hub, mut least] = [const { Rounds::new() }; 2];
    for _ in 0..stage.options.rounds() {
        let (figure, outcome) = stage.measure(stage.target(&process), ours(), Pace::Saturate).await;
        hub.add(figure, outcome.rate());
        let (figure, outcome) = stage.measure(target, theirs("/list?payer="), Pace::Saturate).await;
        least.add(figure, outcome.rate());
    }
    let pace = Pace::Rate(hub.median() / 2.0);
    let (figure, _) = stage.measure(stage.target(&process), ours(), pace).await;
    stage.figure("W5", "hub, half of that rate (open loop)", figure);
    // 8,000 a second where the same code as this reference gave 9,260.
    stage.judge("W5 hub / reference", hub.over(&least), Floor::Least(8000.0 / 9260.0));
    stage.figure("W5", &format!("hub, list of 20 of {count}"), hub.figure());
    stage.figure("W5", "reference: one query, rows written", least.figure());
}

/// A list is as long as it is said to be.
async fn check_length(to: std::net::SocketAddr, requests: Box<dyn Requests>) {
    let mut bytes = vec![];
    requests.write(0, &mut bytes);
    let (status, body) = crate::load::send(to, &bytes).await.expect("it answers");
    let body: serde_json::Value = serde_json::from_slice(&body).expect("JSON");
    let rows = body["data"].as_array().map_or(0, Vec::len);
    assert_eq!((status, rows as u64), (200, PAYMENTS_A_PAYER), "{body}");
}

/// One payer after another, in an order that jumps about.
fn asked(path: &str, key: &str, payers: Vec<String>) -> Box<dyn Requests> {
    let bearer = format!("Bearer {key}");
    let text = request("GET", &format!("{path}<payer>"), &[("Authorization", &bearer)], b"");
    let text = String::from_utf8(text).expect("text");
    let (head, rest) = text.split_once("<payer>").expect("the mark");
    let (head, rest) = (head.to_owned(), rest.to_owned());
    Box::new(Written(move |n, into: &mut Vec<u8>| {
        // A prime number of steps, so that neighbours in time are not neighbours in the index.
        let payer = &payers[(n as usize * 7919) % payers.len()];
        into.extend_from_slice(head.as_bytes());
        into.extend_from_slice(payer.as_bytes());
        into.extend_from_slice(rest.as_bytes());
    }))
}
