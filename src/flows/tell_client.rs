//! Tells client apps what happened: a message in the same transaction as the change, then one telling for each
//! endpoint, delivered by jobs as Standard Webhooks. At least once, in no promised order; `data.version` orders them.

use std::time::{Duration, UNIX_EPOCH};

use grosz_providers::wire::HttpRequest;
use serde_json::{Value, json};

use super::FlowError;
use super::notify::{Raise, raise};
use crate::app::App;
use crate::clock::{rfc3339, seconds};
use crate::config::wait_s;
use crate::jobs::{self, End};
use crate::standard_webhooks::delivery::{self, FailureRun, HealthRule, Schedule, Verdict};
use crate::standard_webhooks::{self, HeldKey, SigningKey};
use crate::store::{Endpoint, Job, JobKind, Message, Payment, Telling, Tx};

/// Types of messages there are. An endpoint may ask for some of them.
pub const TYPES: [&str; 15] = [
    "payment.started",
    "payment.completed",
    "payment.error",
    "payment.mismatch",
    "payment.double_payment",
    "case.status_changed",
    "refund.pending",
    "refund.succeeded",
    "refund.failed",
    "dispute.updated",
    "dispute.closed",
    "invoice.issued",
    "invoice.issue_failed",
    "invoice.pdf_ready",
    "endpoint.test",
];

/// Version of the messages' shape.
const API_VERSION: &str = "2026-11-01";

/// Writes a message about a payment. `payment` is as it was before the change when `previous` names its old status; the
/// row is read again, so the message shows what the transaction will commit.
///
/// # Errors
/// The database.
pub async fn tell_payment(
    app: &App,
    tx: &mut Tx,
    payment: &Payment,
    kind: &str,
    previous: Option<&str>,
) -> Result<(), FlowError> {
    let now = tx.payment(&payment.merchant_id, &payment.id).await?.unwrap_or_else(|| payment.clone());
    let data = json!({
        "id": now.id,
        "version": now.version,
        "status": now.status.word(),
        "previous_status": previous,
        "status_reason": now.reason.map(crate::domain::payment::Reason::word),
        "case": now.case_id,
        "payer": now.payer_id,
        "amount": now.amount.minor(),
        "currency": now.amount.currency().code(),
        "amount_refunded": now.amount_refunded,
        "flags": { "late_success": now.late_success, "double_payment": now.double_payment, "mismatch": now.mismatch },
    });
    tell(app, tx, &now.merchant_id, kind, &now.id, now.live, data).await
}

/// Writes a message and its tellings.
///
/// # Errors
/// The database.
pub async fn tell(
    app: &App,
    tx: &mut Tx,
    merchant: &str,
    kind: &str,
    subject: &str,
    live: bool,
    data: Value,
) -> Result<(), FlowError> {
    let message = add_message(app, tx, merchant, kind, subject, live, data).await?;
    for endpoint in tx.endpoints(merchant).await? {
        let wanted = endpoint.types.is_empty() || endpoint.types.iter().any(|t| t == kind);
        if endpoint.state == "enabled" && wanted {
            queue_telling(app, tx, &message, &endpoint.id, seconds(wait_s(&app.config.tell_waits_s, 0))).await?;
        }
    }
    Ok(())
}

/// Writes a message for one endpoint only, whatever types it wants; answers its way there.
///
/// # Errors
/// The database.
pub async fn tell_endpoint(
    app: &App,
    tx: &mut Tx,
    endpoint: &Endpoint,
    kind: &str,
    live: bool,
    data: Value,
) -> Result<Telling, FlowError> {
    let message = add_message(app, tx, &endpoint.merchant_id, kind, &endpoint.id, live, data).await?;
    queue_telling(app, tx, &message, &endpoint.id, 0).await?;
    let telling = tx.tellings_of(&message.merchant_id, &message.id).await?.into_iter().next();
    telling.ok_or_else(|| FlowError::Internal("a message without its way".into()))
}

async fn add_message(
    app: &App,
    tx: &mut Tx,
    merchant: &str,
    kind: &str,
    subject: &str,
    live: bool,
    data: Value,
) -> Result<Message, FlowError> {
    debug_assert!(TYPES.contains(&kind), "{kind} is missing from the list of types");
    let now = app.now();
    let mode = if live { "live" } else { "test" };
    let body = json!({
        "type": kind, "timestamp": rfc3339(now), "data": data, "mode": mode, "api_version": API_VERSION,
    });
    let message = Message {
        merchant_id: merchant.to_owned(),
        id: app.ids.make("msg"),
        kind: kind.to_owned(),
        subject: subject.to_owned(),
        body: body.to_string(),
        created_at: now,
    };
    tx.add_message(&message).await?;
    Ok(message)
}

/// Queues one message for one endpoint; `false` when it is on its way, was delivered, or failed for good.
///
/// # Errors
/// The database.
pub async fn queue_telling(
    app: &App,
    tx: &mut Tx,
    message: &Message,
    endpoint: &str,
    after: i64,
) -> Result<bool, FlowError> {
    let now = app.now();
    let telling = Telling {
        merchant_id: message.merchant_id.clone(),
        id: app.ids.make("tel"),
        message_id: message.id.clone(),
        endpoint_id: endpoint.to_owned(),
        state: "pending".into(),
        attempts: 0,
        last_status: None,
        last_error: None,
        created_at: now,
    };
    let is_new = tx.add_telling(&telling).await?;
    if is_new {
        let job = app.ids.make("job");
        tx.enqueue(&message.merchant_id, &job, JobKind::TellClient, &telling.id, now + after, now).await?;
    }
    Ok(is_new)
}

/// The job: one try to deliver one message to one endpoint.
///
/// # Errors
/// The database; the job runs again.
pub async fn run(app: &App, job: &Job) -> Result<(), FlowError> {
    let mut tx = app.store.read().await?;
    let Some(telling) = tx.telling(&job.merchant_id, &job.subject).await? else {
        return jobs::finish(app, job).await;
    };
    let message = tx.message(&job.merchant_id, &telling.message_id).await?;
    let endpoint = tx.endpoint(&job.merchant_id, &telling.endpoint_id).await?;
    drop(tx);
    let (Some(message), Some(endpoint)) = (message, endpoint) else { return jobs::finish(app, job).await };
    if endpoint.state != "enabled" || telling.state != "pending" {
        return jobs::finish(app, job).await;
    }
    let tried = send(app, &endpoint, &message).await?;
    record(app, job, telling, tried).await
}

/// What came of one try.
struct Tried {
    status: Option<u16>,
    retry_after: Option<Duration>,
    error: Option<String>,
}

async fn send(app: &App, endpoint: &Endpoint, message: &Message) -> Result<Tried, FlowError> {
    let held = held_keys(app, endpoint)?;
    let now_s = unix_seconds(app);
    let keys = standard_webhooks::live_keys(&held, now_s);
    let headers = standard_webhooks::headers(&keys, &message.id, now_s, message.body.as_bytes())
        .map_err(|e| FlowError::Internal(e.to_string()))?;
    let mut request = HttpRequest::post(&endpoint.url, "application/json", message.body.clone().into_bytes());
    request.headers.extend(headers);
    Ok(match app.http_clients.send(request).await {
        Ok(answer) => {
            let now = UNIX_EPOCH + Duration::from_secs(now_s);
            let retry_after = delivery::retry_after(answer.headers.first("retry-after"), now);
            Tried { status: Some(answer.status), retry_after, error: None }
        }
        Err(e) => {
            let error = Some(e.to_string().chars().take(500).collect());
            Tried { status: None, retry_after: None, error }
        }
    })
}

fn unix_seconds(app: &App) -> u64 {
    u64::try_from(app.now() / 1_000_000).unwrap_or(0)
}

/// Writes what came of a try: the telling, the endpoint's health, and when to try again.
async fn record(app: &App, job: &Job, mut telling: Telling, tried: Tried) -> Result<(), FlowError> {
    let now = app.now();
    let verdict = tried.status.map_or(Verdict::Retry, |status| Verdict::of(Ok(status)));
    telling.attempts += 1;
    telling.last_status = tried.status.map(i64::from);
    telling.last_error = tried.error;
    let mut tx = app.store.begin().await?;
    // As it is now: its owner may have changed it while we called.
    let Some(endpoint) = tx.endpoint(&job.merchant_id, &telling.endpoint_id).await? else {
        return jobs::settle(app, tx, job, End::Done).await;
    };
    let run = FailureRun::after(run_of(&endpoint), verdict, unix_seconds(app), telling.attempts == 1);
    let rule = HealthRule { after_s: u64::try_from(app.config.endpoint_disable_s).unwrap_or(0), messages: 3 };
    let ends = match run {
        _ if verdict == Verdict::DisableEndpoint => Some("answered 410 Gone"),
        Some(run) if run.is_hopeless(&rule) => Some("failed for too long"),
        _ => None,
    };
    if run != run_of(&endpoint) || ends.is_some() {
        let first = run.map(|r| seconds(i64::try_from(r.first_s).unwrap_or(0)));
        tx.put_endpoint_health(&endpoint, ends, first, run.map_or(0, |r| i64::from(r.messages))).await?;
    }
    if let Some(why) = ends {
        raise(app, &mut tx, Raise::about_endpoint(&endpoint, why)).await?;
    }
    let made = u32::try_from(telling.attempts).unwrap_or(u32::MAX);
    let waits: Vec<u32> = app.config.tell_waits_s.iter().map(|s| u32::try_from(*s).unwrap_or(u32::MAX)).collect();
    let random = u32::try_from(app.ids.below(i64::from(u32::MAX))).unwrap_or(0);
    let next = Schedule::from_seconds(&waits).next(made, verdict, tried.retry_after, random);
    match next.filter(|_| ends.is_none()) {
        Some(wait) => {
            tx.update_telling(&telling, None).await?;
            let at = now + i64::try_from(wait.as_micros()).unwrap_or(i64::MAX / 2);
            jobs::settle(app, tx, job, End::Again { at, error: telling.last_error }).await
        }
        None => {
            telling.state = if verdict == Verdict::Delivered { "delivered" } else { "failed" }.into();
            tx.update_telling(&telling, Some(now)).await?;
            jobs::settle(app, tx, job, End::Done).await
        }
    }
}

/// The endpoint's failures since its last success, as far as they are on record.
fn run_of(endpoint: &Endpoint) -> Option<FailureRun> {
    let first_s = u64::try_from(endpoint.first_failure_at? / 1_000_000).ok()?;
    let messages = u32::try_from(endpoint.failed_messages).unwrap_or(u32::MAX);
    Some(FailureRun { first_s, last_s: first_s, messages })
}

/// An endpoint's signing keys, opened.
///
/// # Errors
/// The master key is not the one that sealed them.
pub fn held_keys(app: &App, endpoint: &Endpoint) -> Result<Vec<HeldKey>, FlowError> {
    let unreadable = || FlowError::Internal(format!("secrets of {}", endpoint.id));
    let plain = app.sealer.open(&endpoint.sealed, &endpoint.id).map_err(|_| unreadable())?;
    let stored: Vec<(String, u64, Option<u64>)> = serde_json::from_str(plain.expose()).map_err(|_| unreadable())?;
    let mut held = vec![];
    for (text, created_s, expires_s) in stored {
        held.push(HeldKey { key: SigningKey::parse(&text).map_err(|_| unreadable())?, created_s, expires_s });
    }
    Ok(held)
}

/// Seals an endpoint's signing keys.
///
/// # Errors
/// Encryption failed.
pub fn seal_keys(app: &App, endpoint: &str, held: &[HeldKey]) -> Result<String, FlowError> {
    let stored: Vec<_> = held.iter().map(|k| (k.key.to_text(), k.created_s, k.expires_s)).collect();
    let plain = serde_json::to_string(&stored).map_err(|e| FlowError::Internal(e.to_string()))?;
    app.sealer.seal(&plain, endpoint).map_err(|e| FlowError::Internal(e.to_string()))
}

/// `wait` give or take up to `percent` of it, in the same unit.
pub fn jitter(app: &App, wait: i64, percent: i64) -> i64 {
    let span = wait.saturating_mul(percent) / 100;
    if span == 0 { wait } else { wait - span + app.ids.below(2 * span + 1) }
}
