//! W2: a payment is made over the API, with an idempotency key each.

use crate::load::{Pace, Requests, Written, request};
use crate::references;
use crate::report::Floor;
use crate::stage::Stage;

/// The hub, then the reference.
pub async fn run(stage: &mut Stage<'_>) {
    let process = stage.hub.start(&[]).await;
    let body = stage.hub.order(&stage.hub.accounts[0]).to_string();
    let before = payments(stage).await;
    let calls = orders("/v1/payments", &stage.hub.key, &body, "a");
    let (figure, hub) = stage.measure(stage.target(&process), calls, Pace::Saturate).await;
    stage.figure("W2", "hub, payments made", figure);
    let made = payments(stage).await - before;
    assert!(
        made >= i64::try_from(hub.accepted.len()).unwrap_or(i64::MAX),
        "{made} payments for {} answers",
        hub.accepted.len()
    );
    let calls = orders("/v1/payments", &stage.hub.key, &body, "b");
    let (figure, _) = stage.measure(stage.target(&process), calls, Pace::Rate(hub.rate() / 2.0)).await;
    stage.figure("W2", "hub, half of that rate (open loop)", figure);
    drop(process);

    let (_child, target) = stage.start_references().await;
    let calls = orders("/payments", references::KEY, &body, "a");
    let (figure, each) = stage.measure(target, calls, Pace::Saturate).await;
    stage.figure("W2", "reference: one commit each", figure);
    stage.judge("W2 hub / reference with one commit each", hub.rate() / each.rate(), Floor::Least(0.9));
}

async fn payments(stage: &mut Stage<'_>) -> i64 {
    let merchant = stage.hub.merchant.clone();
    stage.db.number(&format!("SELECT COUNT(*) FROM payments WHERE merchant_id = '{merchant}'")).await
}

/// The same order again and again, each under a key of its own.
fn orders(path: &str, key: &str, body: &str, run: &str) -> Box<dyn Requests> {
    const MARK: &str = "0123456789abcdef";
    let (bearer, mark) = (format!("Bearer {key}"), format!("{run}-{MARK}"));
    let headers =
        [("Authorization", bearer.as_str()), ("Content-Type", "application/json"), ("Idempotency-Key", mark.as_str())];
    let text = request("POST", path, &headers, body.as_bytes());
    let at = text.windows(MARK.len()).position(|w| w == MARK.as_bytes()).expect("the mark");
    Box::new(Written(move |n, into: &mut Vec<u8>| {
        let start = into.len();
        into.extend_from_slice(&text);
        into[start + at..start + at + MARK.len()].copy_from_slice(format!("{n:016x}").as_bytes());
    }))
}
