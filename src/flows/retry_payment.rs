//! Tries a payment again: asks the gateway about the open attempt first, reuses a link that can still be paid, else adds
//! an attempt with the same quote and invoice data (R-5W-32, R-5W-33, F08).

use grosz_providers::{CallError, Standing};

use super::FlowError;
use super::apply_event::enqueue_cancel;
use super::poll_status::apply_answer;
use super::start_checkout::{add_attempt, attempt_ref, choose_account, has_old_quote, provider_of};
use crate::app::App;
use crate::domain::payment::Status;
use crate::store::{Attempt, Merchant, Payment, Tx};

/// What the gateway said about the open attempt, asked before the transaction that retries.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// The attempt that was asked about.
    attempt: Option<Attempt>,
    /// Its standing, when the gateway answered.
    standing: Option<Standing>,
}

/// Asks the gateway about the last attempt and applies its answer. No answer is no reason to refuse a retry: the old
/// link is then used as long as it can be.
///
/// # Errors
/// The database.
pub async fn ask_first(app: &App, payment: &Payment) -> Result<Asked, FlowError> {
    let mut tx = app.store.read().await?;
    let attempts = tx.attempts(&payment.merchant_id, &payment.id).await?;
    let Some(attempt) = attempts.into_iter().next_back() else { return Ok(Asked::default()) };
    let account = tx.provider_account(&payment.merchant_id, &attempt.provider_account_id).await?;
    drop(tx);
    let (Some(account), true) = (account, attempt.redirect.is_some() && attempt.state != "closed") else {
        return Ok(Asked { attempt: Some(attempt), standing: None });
    };
    let settings = app.provider_settings(&account)?;
    let provider = provider_of(&account)?;
    match provider.status(&app.cx(&settings, account.live), &attempt_ref(&attempt)).await {
        Ok(report) => {
            let mut tx = app.store.begin().await?;
            apply_answer(app, &mut tx, &account, &report.events, "poll").await?;
            tx.commit().await?;
            Ok(Asked { attempt: Some(attempt), standing: Some(report.standing) })
        }
        Err(CallError::Unsupported | CallError::NotSent(_) | CallError::Unknown(_) | CallError::Busy { .. }) => {
            Ok(Asked { attempt: Some(attempt), standing: None })
        }
        Err(_) => Ok(Asked { attempt: Some(attempt), standing: None }),
    }
}

/// Another payment of the case by which it is being paid already: one case, one link (R-5W-16).
async fn other_of_case(app: &App, tx: &mut Tx, current: &Payment) -> Result<Option<Payment>, FlowError> {
    let Some(case) = &current.case_id else { return Ok(None) };
    let m = &current.merchant_id;
    if tx.completed_payments_of_case(m, case).await? > 0 {
        return Err(FlowError::conflict("case_already_paid", "the case is paid by another payment"));
    }
    let Some(running) = tx.started_payment_of_case(m, case).await?.filter(|p| p.id != current.id) else {
        return Ok(None);
    };
    let attempts = tx.attempts(m, &running.id).await?;
    let is_open = attempts.last().is_some_and(|a| a.expires_at > app.now());
    Ok(Some(running).filter(|p| p.status == Status::Started || is_open))
}

/// Tries again, within the caller's transaction; answers the payment to go on with, which is another one where the case is
/// being paid by that.
///
/// # Errors
/// The payment or its case is completed, its quote changed, money for it is under way, or no account takes it.
pub async fn retry_payment(
    app: &App,
    tx: &mut Tx,
    merchant: &Merchant,
    payment: &Payment,
    account: Option<&str>,
    asked: &Asked,
) -> Result<Payment, FlowError> {
    let current = tx.payment_for_update(&payment.merchant_id, &payment.id).await?;
    let current = current.ok_or(FlowError::NotFound("payment"))?;
    if let Some(case) = &current.case_id {
        // Two payments of a case are not tried at the same time, and not while its quote is changed.
        tx.case_for_update(&current.merchant_id, case).await?;
    }
    if current.status == Status::Completed {
        return Err(FlowError::conflict("payment_completed", "the payment is completed"));
    }
    if has_old_quote(tx, &current).await? {
        let detail = "the quote was changed after this payment was started; start a new payment for the case";
        return Err(FlowError::conflict("quote_changed", detail));
    }
    if let Some(other) = other_of_case(app, tx, &current).await? {
        return Ok(other);
    }
    let attempts = tx.attempts(&current.merchant_id, &current.id).await?;
    let last = attempts.last();
    if let Some(last) = last {
        let fresh = matches!(last.state.as_str(), "created" | "open") && last.expires_at > app.now();
        let same_account = account.is_none_or(|id| id == last.provider_account_id);
        let closed =
            asked.attempt.as_ref().is_some_and(|a| a.id == last.id) && asked.standing == Some(Standing::Closed);
        // A gateway may keep its first answer, a failure, under the attempt's key: only a new attempt gets past it.
        if fresh && same_account && !closed && !last.start_failed() {
            return Ok(current);
        }
        let captures = tx.captures(&current.merchant_id, &current.id).await?;
        let is_pending = captures.iter().any(|c| c.attempt_id == last.id && c.state == "pending");
        let still = asked.attempt.as_ref().is_some_and(|a| a.id == last.id) && asked.standing == Some(Standing::Open);
        if is_pending && still {
            let detail = "money for this payment is under way; it can be tried again when the gateway says that it \
                          did not come";
            return Err(FlowError::conflict("payment_pending", detail));
        }
    }
    let wanted = account.unwrap_or(&current.provider_account_id);
    let account = choose_account(tx, merchant, current.live, Some(wanted), current.amount).await?;
    for old in attempts.iter().filter(|a| matches!(a.state.as_str(), "created" | "open" | "failed")) {
        enqueue_cancel(app, tx, old).await?;
        if old.state != "failed" {
            tx.set_attempt_state(&old.merchant_id, &old.payment_id, &old.id, "failed").await?;
        }
    }
    let no = last.map_or(1, |a| a.no + 1);
    tx.set_payment_account(&current.merchant_id, &current.id, &account.id, app.now()).await?;
    add_attempt(app, tx, &current, &account, no).await?;
    let again = tx.payment(&current.merchant_id, &current.id).await?;
    again.ok_or(FlowError::NotFound("payment"))
}
