//! Closes an attempt at its gateway, so that an old link cannot be paid beside a new one. Done as well as the gateway
//! can: money that comes all the same is dealt with when it is told of.

use grosz_providers::CallError;

use super::FlowError;
use super::start_checkout::{attempt_ref, provider_of};
use crate::app::App;
use crate::clock::seconds;
use crate::jobs::{self, End};
use crate::store::Job;

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
    if attempt.state == "paid" || attempt.redirect.is_none() {
        return jobs::finish(app, job).await;
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
        Err(e) if job.attempts >= 8 => jobs::settle(app, tx, job, End::Failed { error: e.to_string() }).await,
        Err(e) => {
            let at = app.now() + seconds(1 << job.attempts.clamp(1, 10));
            jobs::settle(app, tx, job, End::Again { at, error: Some(e.to_string()) }).await
        }
    }
}
