//! Tells client apps what happened: a message in the same transaction as the change, then one telling for each
//! endpoint, delivered by jobs (`deliver.rs`) as Standard Webhooks. At least once, in no promised order; `data.version`
//! orders them.

use serde::{Deserialize, Serialize};

use super::FlowError;
use crate::app::App;
use crate::clock::{rfc3339, seconds};
use crate::config::wait_s;
use crate::domain::payment::Reason;
use crate::ids::with_number_of;
use crate::standard_webhooks::{HeldKey, SigningKey};
use crate::store::{Endpoint, JobKind, Message, Payment, Telling, Tx};

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
/// row is read again, so the message shows what the transaction will commit. A message that tells of a `transition` (its
/// id) bears the number of that.
///
/// # Errors
/// The database.
pub async fn tell_payment(
    app: &App,
    tx: &mut Tx,
    payment: &Payment,
    kind: &str,
    previous: Option<&str>,
    transition: Option<&str>,
) -> Result<(), FlowError> {
    let text = |now: &Payment| text_of(app, kind, now.live, PaymentNow::of(now, previous));
    let body = match tx.payment_in_book(&payment.merchant_id, &payment.id) {
        Some(now) => text(now)?,
        None => text(tx.payment(&payment.merchant_id, &payment.id).await?.as_ref().unwrap_or(payment))?,
    };
    let subject = Subject { merchant: &payment.merchant_id, id: &payment.id, live: payment.live, transition };
    tell_about(app, tx, subject, kind, body).await
}

/// A payment as messages show it.
#[derive(Serialize)]
struct PaymentNow<'a> {
    id: &'a str,
    version: i64,
    status: &'static str,
    previous_status: Option<&'a str>,
    status_reason: Option<&'static str>,
    case: Option<&'a str>,
    payer: &'a str,
    amount: i64,
    currency: &'static str,
    amount_refunded: i64,
    flags: Flags,
}

impl<'a> PaymentNow<'a> {
    fn of(now: &'a Payment, previous_status: Option<&'a str>) -> Self {
        PaymentNow {
            id: &now.id,
            version: now.version,
            status: now.status.word(),
            previous_status,
            status_reason: now.reason.map(Reason::word),
            case: now.case_id.as_deref(),
            payer: &now.payer_id,
            amount: now.amount.minor(),
            currency: now.amount.currency().code(),
            amount_refunded: now.amount_refunded,
            flags: Flags { late_success: now.late_success, double_payment: now.double_payment, mismatch: now.mismatch },
        }
    }
}

#[derive(Serialize)]
struct Flags {
    late_success: bool,
    double_payment: bool,
    mismatch: bool,
}

/// What client apps are sent.
#[derive(Serialize)]
struct Body<'a, D> {
    r#type: &'a str,
    timestamp: String,
    data: D,
    mode: &'static str,
    api_version: &'static str,
}

/// The text of a message.
fn text_of(app: &App, kind: &str, live: bool, data: impl Serialize) -> Result<String, FlowError> {
    let mode = if live { "live" } else { "test" };
    let body = Body { r#type: kind, timestamp: rfc3339(app.now()), data, mode, api_version: API_VERSION };
    serde_json::to_string(&body).map_err(|e| FlowError::Internal(e.to_string()))
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
    data: impl Serialize + Send,
) -> Result<(), FlowError> {
    let body = text_of(app, kind, live, data)?;
    tell_about(app, tx, Subject { merchant, id: subject, live, transition: None }, kind, body).await
}

/// What a message is about.
#[derive(Clone, Copy)]
struct Subject<'a> {
    merchant: &'a str,
    id: &'a str,
    /// Its mode.
    live: bool,
    /// The move of its status that the message tells of.
    transition: Option<&'a str>,
}

async fn tell_about(app: &App, tx: &mut Tx, subject: Subject<'_>, kind: &str, body: String) -> Result<(), FlowError> {
    let message = add_message(app, tx, subject, kind, body).await?;
    for endpoint in tx.endpoints(subject.merchant).await? {
        if endpoint.state == "enabled" && wants(&endpoint, kind, Some(subject.live)) {
            let after = seconds(wait_s(&app.config.tell_waits_s, 0));
            queue_telling(app, tx, (subject.merchant, &message), &endpoint.id, after).await?;
        }
    }
    Ok(())
}

/// Whether a message of this type and mode is for an endpoint. One without a mode hears of both.
pub fn wants(endpoint: &Endpoint, kind: &str, live: Option<bool>) -> bool {
    let is_its_mode = endpoint.live.is_none_or(|own| live.is_none_or(|live| own == live));
    is_its_mode && (endpoint.types.is_empty() || endpoint.types.iter().any(|t| t == kind))
}

/// The mode that a message's text names.
pub fn mode_of(body: &str) -> Option<bool> {
    match serde_json::from_str::<Mode<'_>>(body).ok()?.mode {
        "live" => Some(true),
        "test" => Some(false),
        _ => None,
    }
}

#[derive(Deserialize)]
struct Mode<'a> {
    mode: &'a str,
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
    data: impl Serialize + Send,
) -> Result<Telling, FlowError> {
    let subject = Subject { merchant: &endpoint.merchant_id, id: &endpoint.id, live, transition: None };
    let message = add_message(app, tx, subject, kind, text_of(app, kind, live, data)?).await?;
    queue_telling(app, tx, (subject.merchant, &message), &endpoint.id, 0).await?;
    let telling = tx.tellings_of(subject.merchant, &message).await?.into_iter().next();
    telling.ok_or_else(|| FlowError::Internal("a message without its way".into()))
}

/// Answers the message's id.
async fn add_message(
    app: &App,
    tx: &mut Tx,
    subject: Subject<'_>,
    kind: &str,
    body: String,
) -> Result<String, FlowError> {
    debug_assert!(TYPES.contains(&kind), "{kind} is missing from the list of types");
    let id = subject.transition.map_or_else(|| app.ids.make("msg"), |id| with_number_of(id, "msg"));
    let message = Message {
        merchant_id: subject.merchant.to_owned(),
        id: id.clone(),
        kind: kind.to_owned(),
        subject: subject.id.to_owned(),
        of_transition: subject.transition.is_some(),
        body,
        created_at: app.now(),
    };
    tx.add_message(message).await?;
    Ok(id)
}

/// Queues one message (merchant, id) for one endpoint; `false` when it is on its way, was delivered, or failed for good.
///
/// # Errors
/// The database.
pub async fn queue_telling(
    app: &App,
    tx: &mut Tx,
    (merchant, message): (&str, &str),
    endpoint: &str,
    after: i64,
) -> Result<bool, FlowError> {
    let now = app.now();
    let telling = Telling {
        merchant_id: merchant.to_owned(),
        id: app.ids.make("tel"),
        message_id: message.to_owned(),
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
        tx.enqueue(merchant, &job, JobKind::TellClient, &telling.id, now + after, now).await?;
    }
    Ok(is_new)
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
