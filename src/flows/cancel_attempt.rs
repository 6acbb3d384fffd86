//! Closes an attempt at its gateway, so that an old link cannot be paid beside a new one. Done as well as the gateway
//! can: money that comes all the same is dealt with when it is told of.

use grosz_providers::CallError;

use super::FlowError;
use super::apply_event::enqueue_cancel;
use super::start_checkout::{attempt_ref, provider_of};
use crate::app::App;
use crate::clock::seconds;
use crate::domain::payment::Status;
use crate::jobs::{self, End};
use crate::store::{Attempt, Job};

/// Longest pause between two tries, in seconds: the link stays payable meanwhile.
const LONGEST_WAIT_S: i64 = 600;

/// The job.
///
/// # Errors
/// The database; the job runs again.
pub async fn run(app: &App, job: &Job) -> Result<(), FlowError> {
    let mut tx = app.store.read().await?;
    let Some(attempt) = tx.attempt(&job.merchant_id, &job.subject).await? else { return jobs::finish(app, job).await };
    let account = tx.provider_account(&job.merchant_id, &attempt.provider_account_id).await?;
    drop(tx);
    let Some(account) = account else { return jobs::finish(app, job).await };
    if attempt.state == "paid" {
        return close_rest_of_case(app, job, &attempt).await;
    }
    if attempt.redirect.is_none() {
        return jobs::finish(app, job).await;
    }
    if let Some(until) = app.rests.until(&account.id, app.now()) {
        return jobs::put_back(app, job, until).await;
    }
    let settings = app.provider_settings(&account)?;
    let provider = provider_of(&account)?;
    let closed = provider.cancel(&app.cx(&settings, account.live), &attempt_ref(&attempt)).await;
    let mut tx = app.store.begin().await?;
    match closed {
        Ok(()) => {
            tx.set_attempt_state(&attempt.merchant_id, &attempt.payment_id, &attempt.id, "closed").await?;
            jobs::settle(app, tx, job, End::Done).await
        }
        // Paid already, gone, or never possible: the webhooks and polls tell the rest.
        Err(CallError::Refused { .. } | CallError::Unsupported | CallError::Invalid { .. }) => {
            jobs::settle(app, tx, job, End::Done).await
        }
        // Its time is over: it cannot be paid any more.
        Err(_) if app.now() > attempt.expires_at => jobs::settle(app, tx, job, End::Done).await,
        Err(e) => {
            let at = app.now() + seconds((1 << job.attempts.clamp(1, 10)).min(LONGEST_WAIT_S));
            let rest = app.rests.heed(&account.id, &e, app.now());
            jobs::settle(app, tx, job, End::Again { at, error: Some(e.to_string()) }.not_before(rest)).await
        }
    }
}

/// With this attempt the case is paid: what could be paid for it by its other payments is closed (F08).
async fn close_rest_of_case(app: &App, job: &Job, paid: &Attempt) -> Result<(), FlowError> {
    let mut tx = app.store.begin().await?;
    let payment = tx.payment(&paid.merchant_id, &paid.payment_id).await?;
    let Some(case) = payment.filter(|p| p.status == Status::Completed).and_then(|p| p.case_id) else {
        return jobs::settle(app, tx, job, End::Done).await;
    };
    for other in tx.unfinished_payments_of_case(&paid.merchant_id, &case).await? {
        for attempt in tx.attempts(&paid.merchant_id, &other.id).await? {
            let can_be_paid = matches!(attempt.state.as_str(), "created" | "open" | "failed");
            if can_be_paid && attempt.expires_at > app.now() {
                enqueue_cancel(app, &mut tx, &attempt).await?;
            }
        }
    }
    jobs::settle(app, tx, job, End::Done).await
}
