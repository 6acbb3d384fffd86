//! Tries a parked event again: its attempt, or its payment's success, may be there by now (R-HUB-10, F07, F16).

use grosz_providers::Reference;

use super::FlowError;
use super::apply_event::apply_event;
use super::notify::{Raise, raise};
use crate::app::App;
use crate::clock::seconds;
use crate::config::wait_s;
use crate::jobs::{self, End};
use crate::store::Job;

/// The job.
///
/// # Errors
/// The database; the job runs again.
pub async fn run(app: &App, job: &Job) -> Result<(), FlowError> {
    let mut tx = app.store.begin().await?;
    let Some(mut row) = tx.event_for_update(&job.merchant_id, &job.subject).await? else {
        return jobs::settle(app, tx, job, End::Done).await;
    };
    let account = tx.provider_account(&job.merchant_id, &row.account_id).await?;
    let (Some(account), "parked") = (account, row.state.as_str()) else {
        return jobs::settle(app, tx, job, End::Done).await;
    };
    row.tries += 1;
    apply_event(app, &mut tx, &account, &mut row).await?;
    if row.state != "parked" {
        return jobs::settle(app, tx, job, End::Done).await;
    }
    let tries = usize::try_from(row.tries).unwrap_or(usize::MAX);
    if tries < app.config.parked_waits_s.len() {
        let at = app.now() + seconds(wait_s(&app.config.parked_waits_s, row.tries));
        return jobs::settle(app, tx, job, End::Again { at, error: None }).await;
    }
    row.state = "expired".into();
    tx.settle_event(&row).await?;
    let why = format!(
        "the gateway reports \"{}\" ({}) for a checkout that is not known here",
        row.event.kind.word(),
        row.event.detail
    );
    // What does not name a checkout of ours may be other business of the same account at the gateway, which can be any
    // number of events: one alert stands for them all.
    let about = match row.event.reference {
        Reference::Ours(_) => &row.id,
        Reference::Gateway(_) => &row.account_id,
    };
    let key = format!("event.unknown_attempt:{about}");
    raise(app, &mut tx, Raise::about_account("event.unknown_attempt", key, &row.merchant_id, why)).await?;
    jobs::settle(app, tx, job, End::Done).await
}
