//! Changes a case's quote until it is paid; an unfinished checkout of the old quote is withdrawn (R-5W-08).

use grosz_providers::Money;
use grosz_providers::invoicer::InvoiceLine;

use super::FlowError;
use super::apply_event::{enqueue_cancel, move_status};
use super::tell_client::tell_payment;
use crate::app::App;
use crate::domain::payment::{self, Reason, Signal, Step};
use crate::store::{Case, Tx};

/// A case, held until the end of the transaction for its quote to be changed: after its unfinished payments, as whoever is
/// paid for it or tries again takes them.
///
/// # Errors
/// The database.
pub async fn hold_case(tx: &mut Tx, merchant: &str, case: &str) -> Result<Option<Case>, FlowError> {
    for payment in tx.unfinished_payments_of_case(merchant, case).await? {
        tx.payment_for_update(merchant, &payment.id).await?;
    }
    Ok(tx.case_for_update(merchant, case).await?)
}

/// Writes the new quote and withdraws the unfinished payment of the old one.
///
/// # Errors
/// The case is paid.
pub async fn change_quote(
    app: &App,
    tx: &mut Tx,
    case: &mut Case,
    total: Money,
    lines: Vec<InvoiceLine>,
) -> Result<(), FlowError> {
    if total == case.total && lines == case.lines {
        return Ok(());
    }
    if tx.completed_payments_of_case(&case.merchant_id, &case.id).await? > 0 {
        return Err(FlowError::conflict("case_already_paid", "a paid case keeps its quote"));
    }
    case.total = total;
    case.lines = lines;
    case.quote_version += 1;
    case.updated_at = app.now();
    tx.update_case(case).await?;
    for payment in tx.unfinished_payments_of_case(&case.merchant_id, &case.id).await? {
        withdraw(app, tx, case, &payment.id).await?;
    }
    Ok(())
}

/// Ends a payment of the old quote, also one that failed before and is tried again, and closes its links.
async fn withdraw(app: &App, tx: &mut Tx, case: &Case, payment: &str) -> Result<(), FlowError> {
    let Some(running) = tx.payment_for_update(&case.merchant_id, payment).await? else { return Ok(()) };
    if let Step::Move(to) = payment::apply(running.status, Signal::Withdrawn) {
        let reason = Some(Reason::QuoteChanged);
        let moved = move_status(app, tx, &running, to, reason, false, "quote", Some(&case.id)).await?;
        tell_payment(app, tx, &running, "payment.error", Some(running.status.word()), Some(&moved)).await?;
    }
    for attempt in tx.attempts(&case.merchant_id, &running.id).await? {
        if matches!(attempt.state.as_str(), "created" | "open") {
            enqueue_cancel(app, tx, &attempt).await?;
            tx.set_attempt_state(&attempt.merchant_id, &attempt.payment_id, &attempt.id, "failed").await?;
        }
    }
    Ok(())
}
