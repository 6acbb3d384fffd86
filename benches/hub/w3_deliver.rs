//! W3: signed messages go out to client apps' endpoints, which live in the bench.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::load::call;
use crate::program::Usage;
use crate::references::queue;
use crate::report::{Figure, Floor};
use crate::seed::copy;
use crate::sink::Sink;
use crate::stage::Stage;

const ENDPOINTS: usize = 8;
/// A drain that takes longer is cut off, and what is left counts as lost.
const PATIENCE: Duration = Duration::from_secs(60);

/// Drains a full queue into endpoints that always take it, first the hub's, then the reference's; then the hub's into
/// some that refuse one in twenty.
pub async fn run(stage: &mut Stage<'_>) {
    let count = stage.options.messages.unwrap_or(if stage.options.quick { 4_000 } else { 40_000 });
    let sink = Sink::open(ENDPOINTS, 0).await;
    let (figure, _) = drain(stage, &sink, count).await;
    let hub = figure.rate;
    stage.figure("W3", "hub, deliveries", figure);
    sink.forget();
    let figure = reference(stage, &sink, count).await;
    // 14,000 a second where a reference of this kind gave 42,000.
    stage.judge("W3 hub / reference", hub / figure.rate, Floor::Least(14_000.0 / 42_000.0));
    stage.figure("W3", "reference: 256 to a claim and to a commit", figure);

    let sink = Sink::open(ENDPOINTS, 5).await;
    let (figure, lost) = drain(stage, &sink, count).await;
    stage.figure("W3", "hub, deliveries, 5 % answered 500", figure);
    stage.judge("W3 lost with 5 % answered 500", lost as f64, Floor::Most(0.0));
}

/// As many messages of the hub's own text go to the same endpoints, signed with the same secrets.
async fn reference(stage: &mut Stage<'_>, sink: &Sink, count: u64) -> Figure {
    let body = stage.db.text("SELECT MIN(body) FROM messages WHERE type = 'payment.started'").await;
    let batch = stage.seeder.reserve(count);
    queue::seed(&mut stage.reference_db, &batch, ENDPOINTS, &body).await;
    stage.reference_db.settle().await;
    let (child, target) = stage.start_references().await;
    let address = |url: &String| -> SocketAddr {
        url.trim_start_matches("http://").trim_end_matches("/hook").parse().expect("an address")
    };
    let endpoints: Vec<_> = sink.urls.iter().map(address).zip(sink.state.secrets.borrow().clone()).collect();
    let endpoints = json!(endpoints).to_string();
    let before = Usage::of(target.pid, target.database);
    let drained = call(target.address, "POST", "/deliver", &[], endpoints.as_bytes());
    let drained = tokio::time::timeout(PATIENCE, drained).await;
    let after = Usage::of(target.pid, target.database);
    let mut figure = figure(sink, before, after, count);
    if !matches!(drained, Ok(Ok((200, _)))) {
        figure.note.push_str(&format!(", cut off: {}", child.last_words()));
    }
    figure
}

/// Queues messages while outside calls are held, then lets the hub go.
async fn drain(stage: &mut Stage<'_>, sink: &Sink, count: u64) -> (Figure, u64) {
    let held = stage.hub.start(&[("HOLD", "true")]).await;
    let mut endpoints = vec![];
    for url in &sink.urls {
        let made =
            stage.hub.post(&held, "/v1/webhook-endpoints", &json!({"url": url, "types": ["payment.started"]})).await;
        endpoints.push(made["id"].as_str().expect("an id").to_owned());
        sink.state.secrets.borrow_mut().push(made["secret"].as_str().expect("a secret").to_owned());
    }
    let payment = stage.hub.payment(&held, &stage.hub.accounts[0]).await;
    drop(held);
    let merchant = stage.hub.merchant.clone();
    let batch = stage.seeder.reserve(count / ENDPOINTS as u64);
    let of_merchant = format!("t.merchant_id = '{merchant}'");
    // Looked up once: its subject may be in no index, and the copies would be looked through for each of them.
    let message = format!("SELECT id FROM messages WHERE merchant_id = '{merchant}' AND subject = '{payment}'");
    let message = stage.db.text(&message).await;
    let itself = format!("{of_merchant} AND t.id = '{message}'");
    // Each endpoint's rows get numbers of their own. The jobs are due message by message, to all endpoints in turn.
    let mut total = ENDPOINTS as u64;
    let messages = batch.clone();
    for endpoint in &endpoints {
        let batch = stage.seeder.reserve(messages.count);
        let to = messages.clone();
        let number = format!("({} + s.n - {})", to.first, batch.first);
        let digits = stage.db.pick("printf('%016X', {n})", "upper(lpad(to_hex({n}), 16, '0'))").replace("{n}", &number);
        let message_id = format!("'msg_{}' || {digits}", &to.name(0)[..10]);
        let telling = format!("{of_merchant} AND t.endpoint_id = '{endpoint}' AND t.message_id = '{message}'");
        let job = format!("{of_merchant} AND t.subject = (SELECT t.id FROM tellings t WHERE {telling})");
        copy(&mut stage.db, &batch, "tellings", &telling, &[("id", "{tel}"), ("message_id", &message_id)]).await;
        let due = format!("t.run_at + s.n - {}", batch.first);
        copy(&mut stage.db, &batch, "jobs", &job, &[("id", "{job}"), ("subject", "{tel}"), ("run_at", &due)]).await;
        total += batch.count;
    }
    copy(&mut stage.db, &messages, "messages", &itself, &[("id", "{msg}")]).await;
    stage.db.settle().await;

    let process = stage.hub.start(&[]).await;
    let target = stage.target(&process);
    let before = Usage::of(target.pid, target.database);
    let began = Instant::now();
    while (sink.state.taken.borrow().len() as u64) < total && began.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let after = Usage::of(target.pid, target.database);
    let mut figure = figure(sink, before, after, total);
    let lost = total - sink.state.taken.borrow().len() as u64;
    let pending = format!("SELECT COUNT(*) FROM tellings t WHERE {of_merchant} AND t.state <> 'delivered'");
    while lost == 0 && stage.db.number(&pending).await > 0 && began.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let unrecorded = stage.db.number(&pending).await;
    figure.note.push_str(&format!(", {unrecorded} not recorded"));
    for endpoint in &endpoints {
        stage.db.run(&format!("UPDATE endpoints SET state = 'disabled' WHERE id = '{endpoint}'")).await;
        stage
            .db
            .run(&format!(
                "UPDATE tellings SET state = 'failed' WHERE endpoint_id = '{endpoint}' AND state = 'pending'"
            ))
            .await;
    }
    (figure, lost)
}

/// What the endpoints took, from the first message to the last.
fn figure(sink: &Sink, before: Usage, after: Usage, total: u64) -> Figure {
    let taken = sink.state.taken.borrow().len() as u64;
    let each = |a: u64, b: u64| a.saturating_sub(b) as f64 / taken.max(1) as f64;
    assert_eq!(sink.state.forged.get(), 0, "a message was not signed rightly");
    Figure {
        program_us: each(after.program_us, before.program_us),
        database_us: each(after.database_us, before.database_us),
        resident_mib: after.resident_kib as f64 / 1024.0,
        note: format!("{taken} of {total} taken, {} refused", sink.state.refused.get()),
        ..Figure::rate(taken as f64 / sink.seconds())
    }
}
