//! W1: one signed webhook in: verified, deduplicated, payment moved, committed, answered.

use std::collections::HashSet;
use std::time::Duration;

use crate::load::{Load, Outcome, Pace, Requests, Written, request};
use crate::program::{Process, Usage};
use crate::references;
use crate::report::{Figure, Floor, Rounds};
use crate::seed::{Batch, Template};
use crate::signing::{AutopayCalls, StripeCalls, with_repeats};
use crate::sink::Sink;
use crate::stage::{Stage, Target, WARM_UP};
use crate::{w1_forged, w1_killed};

/// Webhooks a second for which the first, unmeasured load is prepared: too many cost a moment, too few would be used up
/// before the measured time begins.
const FIRST_GUESS: f64 = 12_000.0;

/// What is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Stripe events.
    Stripe,
    /// Stripe events, one in ten a repeat.
    Repeats,
    /// Stripe events that somebody else signed.
    Forged,
    /// Autopay notifications.
    Autopay,
}

/// Payments in the table before the first webhook.
const SMALL: u64 = 10_000;

/// Payments made for one load at most; it ends early when they are used up.
pub const MOST: u64 = 250_000;

/// The measured loads. What is compared is measured in turns, because the speed of a shared machine changes within minutes.
pub async fn run(stage: &mut Stage<'_>) {
    let process = stage.hub.start(&[]).await;
    let templates = Templates::make(stage, &process).await;
    let _sink = endpoint(stage, &process).await;
    seed_background(stage, &templates, SMALL).await;
    let rate = in_turns(stage, &process, &templates).await;
    let (figure, half) = intake(stage, &process, &templates, Kind::Stripe, Pace::Rate(rate / 2.0), rate / 2.0).await;
    stage.figure("W1", "hub, half of that rate (open loop)", figure);
    stage.judge("W1 p50 at half the rate, ms", half.quantile_ms(0.5), Floor::Most(2.0));
    stage.judge("W1 p99 at half the rate, ms", half.quantile_ms(0.99), Floor::Most(10.0));
    if stage.engine == crate::cluster::Engine::Sqlite && rate > 6000.0 {
        let (figure, steady) = intake(stage, &process, &templates, Kind::Stripe, Pace::Rate(6000.0), 6000.0).await;
        stage.figure("W1", "hub, 6,000 a second (open loop)", figure);
        stage.judge("W1 p99 at 6,000/s, ms", steady.quantile_ms(0.99), Floor::Most(30.0));
    }
    w1_forged::run(stage, &process, &templates, rate).await;
    overload(stage, &process, &templates, rate).await;
    let process = w1_killed::run(stage, process, &templates, rate).await;
    growth(stage, &process, &templates, rate).await;
}

/// The hub and the same with the least code, one after the other, some rounds; answers the hub's saturated rate. Ratios are
/// between neighbours, and of all rounds the median counts.
async fn in_turns(stage: &mut Stage<'_>, process: &Process, templates: &Templates) -> f64 {
    let (_child, target) = stage.start_references().await;
    let bare = request("POST", "/bare", &[("Content-Type", "application/json")], &[b'x'; 1700]);
    let requests = Box::new(Written(move |_, into: &mut Vec<u8>| into.extend_from_slice(&bare)));
    let (figure, _) = stage.measure(target, requests, Pace::Saturate).await;
    stage.figure("W1", "reference: a handler that answers", figure);
    let [mut stripe, mut autopay, mut repeats, mut grouped, mut each] = [const { Rounds::new() }; 5];
    let mut expected = [FIRST_GUESS; 3];
    // The first round warms caches and tells how much the others will need.
    for round in 0..=stage.options.rounds() {
        let (figure, hub) = intake(stage, process, templates, Kind::Stripe, Pace::Saturate, expected[0]).await;
        stripe.add(figure, hub.rate());
        let (figure, least) = reference(stage, target, "/grouped", Pace::Saturate, expected[1]).await;
        grouped.add(figure, least.rate());
        let (figure, least) = reference(stage, target, "/each", Pace::Saturate, expected[2]).await;
        each.add(figure, least.rate());
        expected = [stripe.last(), grouped.last(), each.last()];
        if round == 0 {
            for rounds in [&mut stripe, &mut grouped, &mut each] {
                rounds.clear();
            }
            continue;
        }
        let (figure, hub) = intake(stage, process, templates, Kind::Autopay, Pace::Saturate, expected[0]).await;
        autopay.add(figure, hub.rate());
        let (figure, hub) = intake(stage, process, templates, Kind::Repeats, Pace::Saturate, expected[0]).await;
        repeats.add(figure, hub.rate());
    }
    assert!(each.last() > 0.0 && grouped.last() > 0.0, "a reference answered nothing in the measured time");
    let rate = stripe.median();
    let (figure, _) =
        reference(stage, target, "/grouped", Pace::Rate(grouped.median() / 2.0), grouped.median() / 2.0).await;
    stage.figure("W1", "reference: grouped, half of that rate", figure);
    let factor = if stage.options.flush_ms > 0 { 4.0 } else { 2.0 };
    stage.small_ratio = Some(stripe.over(&grouped));
    stage.judge("W1 hub / grouped reference", stripe.over(&grouped), Floor::Least(0.7));
    stage.judge("W1 hub / reference with one commit each", stripe.over(&each), Floor::Least(factor));
    stage.judge("W1 Autopay body / Stripe body", autopay.over(&stripe), Floor::Least(0.8));
    stage.judge("W1 one in ten repeated / without", repeats.over(&stripe), Floor::Least(0.85));
    stage.figure("W1", "hub, Stripe body", stripe.figure());
    stage.figure("W1", "hub, Autopay body", autopay.figure());
    stage.figure("W1", "hub, one in ten repeated", repeats.figure());
    stage.figure("W1", "reference: grouped", grouped.figure());
    stage.figure("W1", "reference: one commit each", each.figure());
    rate
}

/// With a large table, again beside the reference, whose table is as small as before: how the ratio changed.
pub async fn large(stage: &mut Stage<'_>, process: &Process, templates: &Templates, count: u64, small_ratio: f64) {
    let (_child, target) = stage.start_references().await;
    let [mut hub, mut grouped] = [const { Rounds::new() }; 2];
    let mut expected = [FIRST_GUESS; 2];
    for round in 0..=stage.options.rounds() {
        let (figure, outcome) = intake(stage, process, templates, Kind::Stripe, Pace::Saturate, expected[0]).await;
        hub.add(figure, outcome.rate());
        let (figure, outcome) = reference(stage, target, "/grouped", Pace::Saturate, expected[1]).await;
        grouped.add(figure, outcome.rate());
        expected = [hub.last(), grouped.last()];
        if round == 0 {
            hub.clear();
            grouped.clear();
        }
    }
    let value = hub.over(&grouped) / small_ratio;
    stage.figure("W1", &format!("hub, Stripe body, {count} payments"), hub.figure());
    stage.judge(&format!("W1 with {count} payments / with a small table"), value, Floor::Least(0.8));
}

/// The saturated load alone, or one at a rate, for a profiler or to compare two settings at the same rate.
pub async fn hold(stage: &mut Stage<'_>, seconds: u64) {
    let process = stage.hub.start(&[]).await;
    let templates = Templates::make(stage, &process).await;
    seed_background(stage, &templates, SMALL).await;
    let (_, first) = intake(stage, &process, &templates, Kind::Stripe, Pace::Saturate, FIRST_GUESS).await;
    let pace = stage.options.rate.map_or(Pace::Saturate, Pace::Rate);
    let rate = stage.options.rate.unwrap_or(first.rate());
    let count = ((rate * (seconds + 1) as f64 * 1.3) as u64).min(4 * MOST);
    let batch = templates.payments(stage, Kind::Stripe, count).await;
    let requests = templates.calls(stage, Kind::Stripe, &batch);
    let pid = process.child.pid;
    println!("\nUnder load for {seconds} s. The hub is process {pid}.");
    if let Some(server) = stage.site.server() {
        println!("PostgreSQL is process {server}; `ps --ppid {server}` names its backends.");
    }
    println!("  perf record -g -p {pid} -- sleep {}\n  perf report --no-children\n", seconds.saturating_sub(2).max(1));
    let target = stage.target(&process);
    let load = load(target, pace, stage.options.connections, seconds);
    let (mut figure, outcome) = stage.measure_load(target, requests, load).await;
    figure.note = format!("{}; {}", outcome.tail(), figure.note);
    stage.figure("W1", "hub, Stripe body, held", figure);
}

/// One payment of each gateway, made by the hub itself; all others are copies.
pub struct Templates {
    payments: [String; 2],
}

impl Templates {
    /// Makes them.
    pub async fn make(stage: &Stage<'_>, process: &Process) -> Templates {
        let [stripe, autopay] = &stage.hub.accounts;
        Templates { payments: [stage.hub.payment(process, stripe).await, stage.hub.payment(process, autopay).await] }
    }

    fn of(&self, kind: Kind) -> &str {
        &self.payments[usize::from(kind == Kind::Autopay)]
    }

    /// Payments that wait for their money.
    pub async fn payments(&self, stage: &mut Stage<'_>, kind: Kind, count: u64) -> Batch {
        let template = Template { merchant: &stage.hub.merchant, payment: self.of(kind) };
        let batch = stage.seeder.payments(&mut stage.db, &template, count, None).await;
        stage.db.settle().await;
        batch
    }

    /// A call for each of them.
    pub fn calls(&self, stage: &Stage<'_>, kind: Kind, batch: &Batch) -> Box<dyn Requests> {
        let [stripe, autopay] = &stage.hub.accounts;
        let count = u32::try_from(batch.count).expect("fewer than 2^32");
        let (path, event) = (format!("/webhooks/stripe/{stripe}"), &stage.options.event);
        match kind {
            Kind::Stripe => Box::new(StripeCalls::new(&path, event, batch.names(), (0..count).collect())),
            Kind::Repeats => Box::new(StripeCalls::new(&path, event, batch.names(), with_repeats(count))),
            Kind::Forged => Box::new(StripeCalls::forged(&path, event, batch.names())),
            Kind::Autopay => Box::new(AutopayCalls::new(&format!("/webhooks/autopay/{autopay}"), &batch.names())),
        }
    }
}

/// Seeds what the load will need at the expected rate, runs it, and checks that every acknowledged webhook moved its
/// payment, once.
pub async fn intake(
    stage: &mut Stage<'_>,
    process: &Process,
    templates: &Templates,
    kind: Kind,
    pace: Pace,
    expected: f64,
) -> (Figure, Outcome) {
    let count = needed(stage, expected);
    let batch = templates.payments(stage, kind, count).await;
    let requests = templates.calls(stage, kind, &batch);
    let (mut figure, outcome) = stage.measure(stage.target(process), requests, pace).await;
    let sent: Vec<u32> =
        if kind == Kind::Repeats { with_repeats(batch.count as u32) } else { (0..batch.count as u32).collect() };
    let paid: HashSet<u32> = outcome.accepted.iter().map(|n| sent[*n as usize]).collect();
    check_effects(stage, &batch, paid.len()).await;
    if outcome.accepted.is_empty() {
        figure.note.push_str(&process.child.last_words());
    }
    (figure, outcome)
}

/// Payments for a load of the usual time at the expected rate, and some more.
pub fn needed(stage: &Stage<'_>, expected: f64) -> u64 {
    let seconds = WARM_UP.as_secs_f64() + stage.options.seconds() as f64;
    ((expected * seconds * 1.4) as u64).clamp(1000, MOST)
}

/// Exactly one transition for each payment of the batch that was paid, and no other was touched.
pub async fn check_effects(stage: &mut Stage<'_>, batch: &Batch, paid: usize) {
    let counts = moved(stage, batch).await;
    let paid = i64::try_from(paid).unwrap_or(i64::MAX);
    // A call whose answer was lost may have been recorded: at least is what was promised.
    assert!(counts[0] >= paid && counts[0] == counts[1], "{paid} acknowledged, {counts:?} completed and moved");
    if stage.options.with_invoices {
        let ordered = format!(
            "SELECT COUNT(*) FROM invoices i JOIN jobs j ON j.merchant_id = i.merchant_id AND j.subject = i.id
             WHERE i.{} AND j.kind = 'issue_invoice'",
            within(stage, "payment_id", batch)
        );
        assert_eq!(stage.db.number(&ordered).await, counts[0], "one invoice and one job for each payment");
    }
}

/// Payments of the batch that are completed, and transitions that completed one.
pub async fn moved(stage: &mut Stage<'_>, batch: &Batch) -> [i64; 2] {
    let payments = within(stage, "id", batch);
    let completed = format!("SELECT COUNT(*) FROM payments WHERE {payments} AND status = 'completed'");
    let payments = within(stage, "payment_id", batch);
    let moves = format!("SELECT COUNT(*) FROM transitions WHERE {payments} AND to_status = 'completed'");
    [stage.db.number(&completed).await, stage.db.number(&moves).await]
}

/// The ids of payments of the batch that are completed.
pub async fn completed(stage: &mut Stage<'_>, batch: &Batch) -> Vec<String> {
    let payments = within(stage, "id", batch);
    stage.db.texts(&format!("SELECT id FROM payments WHERE {payments} AND status = 'completed'")).await
}

/// True of the rows whose column names a payment of the batch.
fn within(stage: &Stage<'_>, column: &str, batch: &Batch) -> String {
    let (merchant, from, to) = (&stage.hub.merchant, batch.name(0), batch.name(batch.count - 1));
    format!("merchant_id = '{merchant}' AND {column} BETWEEN 'pay_{from}' AND 'pay_{to}'")
}

/// A load of so many seconds, after the usual warm-up.
pub fn load(target: Target, pace: Pace, connections: usize, seconds: u64) -> Load {
    Load { to: target.address, connections, pace, warm_up: WARM_UP, time: Duration::from_secs(seconds) }
}

async fn seed_background(stage: &mut Stage<'_>, templates: &Templates, count: u64) {
    templates.payments(stage, Kind::Stripe, count).await;
}

/// With `--with-endpoint`: a client app that is told of each payment.
async fn endpoint(stage: &Stage<'_>, process: &Process) -> Option<Sink> {
    if !stage.options.with_endpoint {
        return None;
    }
    let sink = Sink::open(1, 0).await;
    let endpoint = serde_json::json!({"url": sink.urls[0]});
    stage.hub.post(process, "/v1/webhook-endpoints", &endpoint).await;
    Some(sink)
}

/// Twice the saturated rate: every answer is 200 or 503, and comes within a second.
async fn overload(stage: &mut Stage<'_>, process: &Process, templates: &Templates, rate: f64) {
    let seconds = stage.options.overload_seconds();
    if seconds == 0 {
        return;
    }
    // Sent is what is answered and what waits; refused calls use payments up too.
    let count = ((rate * 2.2 * (seconds + 1) as f64) as u64).clamp(1000, 4 * MOST);
    let batch = templates.payments(stage, Kind::Stripe, count).await;
    let requests = templates.calls(stage, Kind::Stripe, &batch);
    let target = stage.target(process);
    let load = load(target, Pace::Rate(rate * 2.0), stage.options.overload_connections, seconds);
    let (mut figure, outcome) = stage.measure_load(target, requests, load).await;
    check_effects(stage, &batch, outcome.accepted.len()).await;
    let strange = outcome.statuses.iter().filter(|(s, _)| !matches!(s, 200 | 503)).map(|(_, n)| n).sum::<u64>();
    let slowest_ms = f64::from(outcome.slowest) / 1000.0;
    figure.note = format!("{}; {}", outcome.tail(), figure.note);
    stage.figure("W1", "hub, twice the saturated rate", figure);
    stage.judge("W1 overload: answers other than 200 and 503", (strange + outcome.broken) as f64, Floor::Most(0.0));
    stage.judge("W1 overload: slowest answer, ms", slowest_ms, Floor::Most(1000.0));
}

/// Memory after many webhooks, against memory after the first tenth of them.
async fn growth(stage: &mut Stage<'_>, process: &Process, templates: &Templates, rate: f64) {
    let webhooks = stage.options.webhooks.unwrap_or(if stage.options.quick { 0 } else { 100_000 });
    let target = stage.target(process);
    let (mut done, mut early, mut late) = (0, 0, 0);
    // Half a minute at most, unless a number was asked for.
    let most = if stage.options.webhooks.is_some() { webhooks } else { webhooks.min((rate * 30.0) as u64) };
    while done < most {
        let count = (most / 10).clamp(1, MOST);
        let batch = templates.payments(stage, Kind::Stripe, count).await;
        let requests = templates.calls(stage, Kind::Stripe, &batch);
        let load = load(target, Pace::Saturate, stage.options.connections, 600);
        let outcome = load.run(requests, || {}).await;
        assert!(!outcome.accepted.is_empty(), "nothing was accepted");
        done += count;
        late = Usage::of(target.pid, None).resident_kib;
        early = if early == 0 { late } else { early };
    }
    if early > 0 {
        let what = format!("W1 memory after {done} webhooks / after a tenth of them");
        stage.judge(&what, late as f64 / early as f64, Floor::Most(1.1));
    }
}

async fn reference(stage: &mut Stage<'_>, target: Target, path: &str, pace: Pace, expected: f64) -> (Figure, Outcome) {
    let count = needed(stage, expected);
    let batch = stage.seeder.reserve(count);
    references::seed(&mut stage.reference_db, &batch, crate::seed::PAYMENTS_A_PAYER).await;
    stage.reference_db.settle().await;
    let order = (0..u32::try_from(count).expect("fewer than 2^32")).collect();
    let calls = StripeCalls::new(path, &stage.options.event, batch.names(), order);
    let (figure, outcome) = stage.measure(target, Box::new(calls), pace).await;
    let (from, to) = (batch.name(0), batch.name(count - 1));
    let moved =
        format!("SELECT COUNT(*) FROM payments WHERE reference BETWEEN '{from}' AND '{to}' AND status = 'completed'");
    let moved = stage.reference_db.number(&moved).await;
    let accepted = i64::try_from(outcome.accepted.len()).unwrap_or(i64::MAX);
    assert!(moved >= accepted, "the reference lost some: {accepted} acknowledged, {moved} moved");
    (figure, outcome)
}
