//! Probes an invoicing account that refused us; when it works again, waiting invoices go on. A probe only reads: where
//! the refusal was of a write, it lets one invoice go ahead (ADR 0041).

use grosz_providers::registry;

use super::FlowError;
use super::issue_invoice::wake_next;
use crate::app::{App, LONGEST_REST_S};
use crate::clock::seconds;
use crate::domain::invoice::{REFUSES_US, Rest, rest};
use crate::jobs::{self, End};
use crate::store::{InvoicingAccount, Job, Tx};

/// The job.
///
/// # Errors
/// The database; the job runs again.
pub async fn run(app: &App, job: &Job) -> Result<(), FlowError> {
    let mut tx = app.store.read().await?;
    let Some(account) = tx.invoicing_account(&job.merchant_id, &job.subject).await? else {
        return jobs::finish(app, job).await;
    };
    drop(tx);
    let Some(invoicer) = registry::invoicer(&account.invoicer) else { return jobs::finish(app, job).await };
    if !account.enabled {
        jobs::finish(app, job).await?;
        // What waits there has to go elsewhere.
        return wake_next(app, &job.merchant_id, &account.id).await;
    }
    let now = app.now();
    let rests = |account: &InvoicingAccount| rest(account.paused_until, account.pause_reason.as_deref(), now);
    if rests(&account) == Rest::Issue {
        // An invoice has just been refused, or is on its way to find out.
        if let Some(until) = account.paused_until.filter(|until| *until > now) {
            return jobs::again(app, job, until + seconds(1), account.pause_reason).await;
        }
    }
    let settings = app.invoicing_settings(&account)?;
    let healthy = invoicer.self_test(&app.cx(&settings, account.live)).await;
    let now = app.now();
    let next = now + seconds(app.config.invoicing_probe_s);
    let mut tx = app.store.begin().await?;
    // Somebody may have decided otherwise during the call.
    let Some(account) = tx.invoicing_account_for_update(&job.merchant_id, &account.id).await? else {
        return jobs::settle(app, tx, job, End::Done).await;
    };
    match healthy {
        Ok(()) => {
            let is_healed = hear_well(app, &mut tx, &account).await?;
            let error = account.pause_reason.clone();
            let end = if is_healed { End::Done } else { End::Again { at: next + seconds(1), error } };
            jobs::settle(app, tx, job, end).await?;
            wake_next(app, &job.merchant_id, &account.id).await
        }
        Err(failure) => {
            let why = format!("{} {}", failure.code, failure.message);
            let said = match rests(&account) {
                // It works since: what fails now is another matter, and the next invoice meets it.
                Rest::None => return jobs::settle(app, tx, job, End::Done).await,
                Rest::Issue | Rest::Trial => account.pause_reason.clone(),
                Rest::Until(_) | Rest::Probe => Some(format!("{REFUSES_US}{why}")),
            };
            let rest_s = failure.pause_s.map_or(0, |pause_s| LONGEST_REST_S.min(pause_s));
            let next = next.max(now + seconds(i64::from(rest_s)));
            let (id, failures) = (&account.id, account.failures);
            tx.pause_invoicing_account(&job.merchant_id, id, Some(next), said.as_deref(), failures).await?;
            jobs::settle(app, tx, job, End::Again { at: next + seconds(1), error: Some(why) }).await
        }
    }
}

/// An account answered a question as it should. If its credentials were refused, it works again. If it refuses to issue,
/// only issuing shows that: one invoice may go ahead, and the matter stays open. Answers whether the rest is over.
///
/// # Errors
/// The database.
pub async fn hear_well(app: &App, tx: &mut Tx, account: &InvoicingAccount) -> Result<bool, FlowError> {
    let (merchant, now) = (&account.merchant_id, app.now());
    match rest(account.paused_until, account.pause_reason.as_deref(), now) {
        Rest::Issue => {
            let reason = account.pause_reason.as_deref();
            tx.pause_invoicing_account(merchant, &account.id, None, reason, account.failures).await?;
            Ok(false)
        }
        Rest::Trial if account.paused_until.is_none() => Ok(false),
        Rest::None | Rest::Until(_) | Rest::Probe | Rest::Trial => {
            tx.pause_invoicing_account(merchant, &account.id, None, None, 0).await?;
            tx.resolve_alert_by_key(merchant, &format!("invoice.account:{}", account.id), now).await?;
            Ok(true)
        }
    }
}
