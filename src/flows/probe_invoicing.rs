//! Probes an invoicing account that refused our credentials; when it works again, waiting invoices go on.

use grosz_providers::registry;

use super::FlowError;
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
    let Some(account) = tx.invoicing_account(&job.merchant_id, &job.subject).await? else {
        return jobs::finish(app, job).await;
    };
    drop(tx);
    let Some(invoicer) = registry::invoicer(&account.invoicer) else { return jobs::finish(app, job).await };
    if !account.enabled {
        return jobs::finish(app, job).await;
    }
    let settings = app.invoicing_settings(&account)?;
    let healthy = invoicer.self_test(&app.cx(&settings, account.live)).await;
    let now = app.now();
    let mut tx = app.store.begin().await?;
    match healthy {
        Ok(()) => {
            tx.pause_invoicing_account(&job.merchant_id, &account.id, None, None, 0).await?;
            tx.resolve_alert_by_key(&job.merchant_id, &format!("invoice.account:{}", account.id), now).await?;
            jobs::settle(app, tx, job, End::Done).await
        }
        Err(failure) => {
            let at = now + seconds(app.config.invoicing_probe_s);
            let why = format!("{} {}", failure.code, failure.message);
            let failures = account.failures;
            tx.pause_invoicing_account(&job.merchant_id, &account.id, Some(at), Some(&why), failures).await?;
            jobs::settle(app, tx, job, End::Again { at, error: Some(why) }).await
        }
    }
}
