//! Money came of another sum than was to be paid. It completes nothing, and nobody is sent to pay a second time, until a
//! person says what becomes of it: the alert is resolved, or all of it is given back at the gateway.

use grosz_providers::{EventKind, Money};

use super::FlowError;
use super::apply_event::{enqueue_cancel, move_status};
use super::tell_client::tell_payment;
use crate::app::App;
use crate::domain::payment::{self, Reason, Signal, Status, Step};
use crate::store::{Alert, Attempt, Page, Payment, Tx};

/// The code of the alert.
pub const AMOUNT_MISMATCH: &str = "payment.amount_mismatch";

/// The key of the alert about money of one sum on one attempt, however often and by whichever road it is told of.
pub(super) fn matter(code: &str, attempt: &Attempt, amount: Option<Money>) -> String {
    let sum = amount.map_or(String::new(), |amount| format!(":{}:{}", amount.minor(), amount.currency().code()));
    format!("{code}:{}:{}{sum}", attempt.payment_id, attempt.id)
}

async fn alerts_of(tx: &mut Tx, payment: &Payment, open_only: bool) -> Result<Vec<Alert>, FlowError> {
    let page = Page { before: None, limit: 1000 };
    Ok(tx.alerts(&payment.merchant_id, Some(&payment.id), open_only, &page).await?)
}

/// A person was told of this matter before, and may have dealt with it.
pub(super) async fn was_told(tx: &mut Tx, payment: &Payment, key: &str) -> Result<bool, FlowError> {
    Ok(alerts_of(tx, payment, false).await?.iter().any(|alert| alert.dedupe_key == key))
}

/// Money of another sum came for this payment, and nobody said yet what becomes of it.
///
/// # Errors
/// The database.
pub async fn awaits_person(tx: &mut Tx, payment: &Payment) -> Result<bool, FlowError> {
    if !payment.mismatch || payment.status == Status::Completed {
        return Ok(false);
    }
    Ok(alerts_of(tx, payment, true).await?.iter().any(|alert| alert.code == AMOUNT_MISMATCH))
}

/// Money of another sum came on this attempt.
///
/// # Errors
/// The database.
pub(super) async fn is_mispaid(tx: &mut Tx, attempt: &Attempt) -> Result<bool, FlowError> {
    Ok(!mispaid(tx, attempt).await?.is_empty())
}

/// The other sums that came on an attempt.
async fn mispaid(tx: &mut Tx, attempt: &Attempt) -> Result<Vec<Option<Money>>, FlowError> {
    let mut events = tx.events_of_payment(&attempt.merchant_id, &attempt.payment_id).await?;
    events.retain(|row| row.state == "mismatch" && row.attempt_id.as_ref() == Some(&attempt.id));
    let came = events.into_iter().filter(|row| matches!(row.event.kind, EventKind::Paid)).map(|row| row.event.amount);
    // The right sum at a wrong account is another matter.
    Ok(came.filter(|sum| *sum != Some(attempt.amount)).collect())
}

/// Money was given back at the gateway while nothing was completed. With all of what came gone, the matter is settled.
pub(super) async fn given_back(
    app: &App,
    tx: &mut Tx,
    payment: &Payment,
    attempt: &Attempt,
    amount: Option<Money>,
) -> Result<(), FlowError> {
    let key = matter(AMOUNT_MISMATCH, attempt, amount);
    let alert = alerts_of(tx, payment, true).await?.into_iter().find(|alert| alert.dedupe_key == key);
    let Some(alert) = alert else { return Ok(()) };
    tx.resolve_alert(&payment.merchant_id, &alert.id, app.now()).await?;
    settle_mismatch(app, tx, payment, &alert).await
}

/// A person dealt with the money: the try that brought it came to nothing, and the payer can try again. The payment is the
/// caller's, locked; the alert is resolved.
///
/// # Errors
/// The database.
pub async fn settle_mismatch(app: &App, tx: &mut Tx, payment: &Payment, alert: &Alert) -> Result<(), FlowError> {
    if payment.status == Status::Completed || awaits_person(tx, payment).await? {
        return Ok(());
    }
    for attempt in tx.attempts(&payment.merchant_id, &payment.id).await? {
        if matches!(attempt.state.as_str(), "created" | "open") {
            enqueue_cancel(app, tx, &attempt).await?;
            tx.set_attempt_state(&attempt.merchant_id, &attempt.payment_id, &attempt.id, "failed").await?;
        }
    }
    if let Step::Move(to) = payment::apply(payment.status, Signal::Failed) {
        let reason = Some(Reason::Technical);
        let moved = move_status(app, tx, payment, to, reason, false, "alert", Some(&alert.id)).await?;
        tell_payment(app, tx, payment, "payment.error", Some(payment.status.word()), Some(&moved)).await?;
    }
    Ok(())
}
