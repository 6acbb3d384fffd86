//! Tries a payment again: asks the gateways first, reuses a link that can still be paid, else adds
//! an attempt with the same quote and invoice data (R-5W-32, R-5W-33, F08).

use grosz_providers::Standing;

use super::FlowError;
use super::apply_event::enqueue_cancel;
use super::poll_status::apply_answer;
use super::settle_mismatch::{awaits_person, is_mispaid};
use super::start_checkout::{add_attempt, attempt_ref, choose_account, has_old_quote, provider_of};
use crate::app::App;
use crate::domain::payment::Status;
use crate::store::{Attempt, Capture, Merchant, Payment, Tx};

/// What gateways said about a payment's attempts, asked before the transaction that retries.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// Attempts by id, with how they stand; those whose gateway gave no answer are missing.
    standings: Vec<(String, Standing)>,
}

impl Asked {
    fn of(&self, attempt: &str) -> Option<Standing> {
        self.standings.iter().find(|(id, _)| id == attempt).map(|(_, standing)| *standing)
    }

    /// The attempt's gateway, and only that can know, says that no money is under way (promise 5).
    fn is_idle(&self, attempt: &str) -> bool {
        matches!(self.of(attempt), Some(Standing::Idle | Standing::Closed))
    }
}

/// Asks the gateways about the last attempt and about those with money under way, and applies their answers. No answer is
/// no reason to refuse a retry: the old link is then used as long as it can be.
///
/// # Errors
/// The database.
pub async fn ask_first(app: &App, payment: &Payment) -> Result<Asked, FlowError> {
    let mut tx = app.store.read().await?;
    let attempts = tx.attempts(&payment.merchant_id, &payment.id).await?;
    let captures = tx.captures(&payment.merchant_id, &payment.id).await?;
    let accounts = tx.provider_accounts(&payment.merchant_id).await?;
    drop(tx);
    let last = attempts.len().saturating_sub(1);
    let mut asked = Asked::default();
    for (n, attempt) in attempts.iter().enumerate() {
        let is_wanted = is_pending(&captures, attempt) || n == last && attempt.state != "closed";
        let account = accounts.iter().find(|a| a.id == attempt.provider_account_id);
        let Some(account) = account.filter(|_| is_wanted && attempt.redirect.is_some()) else { continue };
        let settings = app.provider_settings(account)?;
        let provider = provider_of(account)?;
        if let Ok(report) = provider.status(&app.cx(&settings, account.live), &attempt_ref(attempt)).await {
            let mut tx = app.store.begin().await?;
            apply_answer(app, &mut tx, account, &report.events, "poll").await?;
            tx.commit().await?;
            asked.standings.push((attempt.id.clone(), report.standing));
        }
    }
    Ok(asked)
}

fn is_pending(captures: &[Capture], attempt: &Attempt) -> bool {
    captures.iter().any(|c| c.attempt_id == attempt.id && c.state == "pending")
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
    let captures = tx.captures(m, &running.id).await?;
    let is_open = attempts.last().is_some_and(|a| a.expires_at > app.now());
    let is_pending = captures.iter().any(|c| c.state == "pending");
    Ok(Some(running).filter(|p| p.status == Status::Started || is_open || is_pending))
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
    let captures = tx.captures(&current.merchant_id, &current.id).await?;
    let last = attempts.last();
    if awaits_person(tx, &current).await? {
        let detail = "money of another sum came for this payment; it can be tried again when a person resolved the alert about it";
        return Err(FlowError::conflict("payment_pending", detail));
    }
    if let Some(last) = last {
        // Of money that a person dealt with the gateway goes on saying that it was paid.
        let is_settled = is_mispaid(tx, last).await?;
        if asked.of(&last.id) == Some(Standing::Paid) && !is_settled {
            let detail = "the gateway says that this payment is paid, but not as it was to be: a person looks into it";
            return Err(FlowError::conflict("payment_pending", detail));
        }
        let fresh = matches!(last.state.as_str(), "created" | "open") && last.expires_at > app.now();
        let same_account = account.is_none_or(|id| id == last.provider_account_id);
        let closed = is_settled || asked.of(&last.id) == Some(Standing::Closed);
        // A gateway may keep its first answer, a failure, under the attempt's key: only a new attempt gets past it.
        if fresh && same_account && !closed && !last.start_failed() {
            return Ok(current);
        }
    }
    if attempts.iter().any(|attempt| is_pending(&captures, attempt) && !asked.is_idle(&attempt.id)) {
        let detail =
            "money for this payment is under way; it can be tried again when the gateway says that it did not come";
        return Err(FlowError::conflict("payment_pending", detail));
    }
    let accounts = tx.provider_accounts(&merchant.id).await?;
    let is_on = |id: &str| accounts.iter().any(|a| a.id == id && a.enabled);
    // Where its own account was switched off, the payment goes on at the one that took its place.
    let wanted = account.or(Some(current.provider_account_id.as_str()).filter(|own| is_on(own)));
    let account = choose_account(tx, merchant, current.live, wanted, current.amount).await?;
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
