//! Asks the gateway about an attempt, on a widening schedule, and hands the answer through the same door as a webhook.
//!
//! This is what makes up for notifications that never came (R-HUB-11). A payment expires here, and only after the
//! gateway itself said that it was not paid. Of a link that nobody opened there is nothing to be asked: its gateway is
//! asked once, at the end, for the sake of a database that was restored from a backup (F58), and need not know.

use std::sync::Arc;

use grosz_providers::{CallError, Event, Outcome, Reference, Standing};

use super::FlowError;
use super::apply_event::{apply_event, fail_anew, move_status};
use super::notify::{Raise, raise};
use super::start_checkout::{attempt_ref, provider_of, raise_config};
use super::tell_client::tell_payment;
use crate::app::App;
use crate::clock::seconds;
use crate::config::wait_s;
use crate::domain::payment::{self, Reason, Signal, Status, Step};
use crate::jobs::{self, End};
use crate::store::{Attempt, EventRow, Job, ProviderAccount, Tx};

/// The job.
///
/// # Errors
/// The database; the job runs again.
pub async fn run(app: &App, job: &Job) -> Result<(), FlowError> {
    let mut tx = app.store.read().await?;
    let Some(attempt) = tx.attempt(&job.merchant_id, &job.subject).await? else { return jobs::finish(app, job).await };
    let account = tx.provider_account(&job.merchant_id, &attempt.provider_account_id).await?;
    let known = pending_of(&mut tx, &attempt).await?;
    drop(tx);
    let Some(account) = account else { return jobs::finish(app, job).await };
    let provider = provider_of(&account)?;
    // A link that was paid, or given up, may have more money under way.
    if is_over(&attempt) && known.is_empty() {
        // One that can be paid twice is asked about once more when its time is over: who told of the first money need not
        // have told of the second (F08, R-HUB-11).
        let last_look = attempt.expires_at + seconds(wait_s(&app.config.poll_waits_s, 0));
        if attempt.state != "paid" || !provider.facts().can.pays_again {
            return jobs::finish(app, job).await;
        }
        if app.now() < last_look {
            let tx = app.store.begin().await?;
            return jobs::settle(app, tx, job, End::Again { at: last_look, error: None }).await;
        }
    }
    let is_untouched = attempt.never_begun() && known.is_empty();
    if is_untouched && app.now() <= attempt.expires_at {
        let at = next_look(&app.config.poll_waits_s, attempt.created_at, app.now());
        return jobs::again(app, job, at, None).await;
    }
    if let Some(until) = app.rests.until(&account.id, app.now()) {
        return jobs::put_back(app, job, until).await;
    }
    let settings = app.provider_settings(&account)?;
    let asked = provider.status(&app.cx(&settings, account.live), &attempt_ref(&attempt)).await;

    let mut tx = app.store.begin().await?;
    let end = match asked {
        Ok(report) => {
            apply_answer(app, &mut tx, &account, &report.events, "poll").await?;
            // What was told of while the gateway was asked is not in its answer.
            tx.payment_for_update(&attempt.merchant_id, &attempt.payment_id).await?;
            let attempt = tx.attempt_as_locked(attempt).await?;
            let pending = pending_of(&mut tx, &attempt).await?;
            let is_news = pending.iter().any(|gateway_ref| !known.contains(gateway_ref));
            match is_over(&attempt) {
                true if pending.is_empty() => End::Done,
                true => later(app, &mut tx, job, &attempt, None).await?,
                false if is_news => later(app, &mut tx, job, &attempt, None).await?,
                false => after_answer(app, &mut tx, job, &attempt, report.standing).await?,
            }
        }
        Err(CallError::Unknown(_)) if is_untouched => {
            tx.payment_for_update(&attempt.merchant_id, &attempt.payment_id).await?;
            let attempt = tx.attempt_as_locked(attempt).await?;
            match is_over(&attempt) || !pending_of(&mut tx, &attempt).await?.is_empty() {
                true => later(app, &mut tx, job, &attempt, None).await?,
                false => {
                    expire(app, &mut tx, &attempt, job).await?;
                    End::Done
                }
            }
        }
        Err(CallError::Unsupported) if is_over(&attempt) => End::Done,
        Err(CallError::Unsupported) => after_silence(app, &mut tx, job, &attempt).await?,
        Err(e) => {
            if matches!(e, CallError::Config(_)) {
                raise_config(app, &mut tx, &account, &e).await?;
            }
            let rest = app.rests.heed(&account.id, &e, app.now());
            later(app, &mut tx, job, &attempt, Some(e.to_string())).await?.not_before(rest)
        }
    };
    jobs::settle(app, tx, job, end).await
}

/// Nothing more is expected of the attempt itself.
fn is_over(attempt: &Attempt) -> bool {
    matches!(attempt.state.as_str(), "paid" | "closed")
}

/// The gateway's names of the money that is under way on an attempt.
async fn pending_of(tx: &mut Tx, attempt: &Attempt) -> Result<Vec<String>, FlowError> {
    let mut captures = tx.captures(&attempt.merchant_id, &attempt.payment_id).await?;
    captures.retain(|c| c.attempt_id == attempt.id && c.state == "pending");
    Ok(captures.into_iter().map(|c| c.gateway_ref).collect())
}

/// Records and applies the events of a status answer. Answers what became of each.
///
/// # Errors
/// The database.
pub async fn apply_answer(
    app: &App,
    tx: &mut Tx,
    account: &ProviderAccount,
    events: &[Event],
    origin: &str,
) -> Result<Vec<Outcome>, FlowError> {
    let mut outcomes = vec![];
    for event in events {
        // As a slice of webhooks does: the payment first, then the event.
        if let Reference::Ours(reference) = &event.reference
            && let Some(attempt) =
                tx.attempt_by_reference(&account.merchant_id, &account.id, Some(reference), None).await?
        {
            tx.payment_for_update(&attempt.merchant_id, &attempt.payment_id).await?;
        }
        let mut row = EventRow {
            merchant_id: account.merchant_id.clone(),
            id: app.ids.make("evt"),
            account_id: account.id.clone(),
            origin: origin.to_owned(),
            delivery_id: None,
            body_sha256: String::new(),
            event: Arc::new(event.clone()),
            state: "applied".into(),
            attempt_id: None,
            payment_id: None,
            tries: 0,
            created_at: app.now(),
        };
        if tx.add_event(&row).await? {
            apply_event(app, tx, account, &mut row).await?;
        }
        outcomes.push(row.outcome());
    }
    Ok(outcomes)
}

async fn after_answer(
    app: &App,
    tx: &mut Tx,
    job: &Job,
    attempt: &Attempt,
    standing: Standing,
) -> Result<End, FlowError> {
    let over = app.now() > attempt.expires_at;
    match standing {
        Standing::Paid => Ok(End::Done),
        Standing::Closed => {
            expire(app, tx, attempt, job).await?;
            Ok(End::Done)
        }
        Standing::Idle if over => {
            expire(app, tx, attempt, job).await?;
            Ok(End::Done)
        }
        Standing::Idle | Standing::Open => later(app, tx, job, attempt, None).await,
    }
}

/// No status call: the attempt is given up when its time and a day of grace are over.
async fn after_silence(app: &App, tx: &mut Tx, job: &Job, attempt: &Attempt) -> Result<End, FlowError> {
    if app.now() > attempt.expires_at + seconds(86_400) {
        expire(app, tx, attempt, job).await?;
        return Ok(End::Done);
    }
    later(app, tx, job, attempt, None).await
}

/// Asks again later; after the window a person is told and asking ends.
async fn later(app: &App, tx: &mut Tx, job: &Job, attempt: &Attempt, error: Option<String>) -> Result<End, FlowError> {
    let now = app.now();
    if now > attempt.expires_at + seconds(app.config.poll_window_s) {
        let is_open = !is_over(attempt) || !pending_of(tx, attempt).await?.is_empty();
        if let Some(payment) = tx.payment(&job.merchant_id, &attempt.payment_id).await?
            && (payment.status == Status::Started || payment.status == Status::Error && is_open)
        {
            let why = "the gateway gave no final answer about this payment in all its time".to_owned();
            let key = format!("payment.stuck:{}", payment.id);
            raise(app, tx, Raise::about_payment("payment.stuck", key, &payment, why)).await?;
        }
        return Ok(End::Done);
    }
    Ok(End::Again { at: next_look(&app.config.poll_waits_s, attempt.created_at, now), error })
}

/// The next instant of the schedule, which runs from the attempt's beginning and not by the count of looks: a payer
/// who waits on the return page has the gateway asked often, and that must not thin out the looks after he left.
fn next_look(waits_s: &[i64], begun: i64, now: i64) -> i64 {
    let mut planned = begun;
    let mut n = 0;
    while planned <= now {
        planned += seconds(wait_s(waits_s, n).max(1));
        n += 1;
    }
    planned
}

/// Closes an attempt that the gateway says was not paid; the payment follows if nothing else of it is open.
async fn expire(app: &App, tx: &mut Tx, attempt: &Attempt, job: &Job) -> Result<(), FlowError> {
    let Some(payment) = tx.payment_for_update(&attempt.merchant_id, &attempt.payment_id).await? else { return Ok(()) };
    tx.set_attempt_state(&attempt.merchant_id, &attempt.payment_id, &attempt.id, "closed").await?;
    let attempts = tx.attempts(&attempt.merchant_id, &attempt.payment_id).await?;
    let newer = attempts.iter().any(|a| a.id != attempt.id && matches!(a.state.as_str(), "created" | "open"));
    let signal = if newer { Signal::FailedBeside } else { Signal::Expired };
    if let Step::Move(to) = payment::apply(payment.status, signal) {
        let reason = Some(Reason::Expired);
        let moved = move_status(app, tx, &payment, to, reason, false, "poll", Some(&job.id)).await?;
        tell_payment(app, tx, &payment, "payment.error", Some(payment.status.word()), Some(&moved)).await?;
    } else if signal == Signal::Expired && matches!(attempt.state.as_str(), "created" | "open") {
        fail_anew(app, tx, &payment, Reason::Expired).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_follow_the_schedule_whoever_asked_in_between() {
        let waits = [60, 180, 600];
        let next = |now_s| next_look(&waits, 0, seconds(now_s)) / 1_000_000;
        assert_eq!([0, 3, 59, 60, 61, 240, 840, 1439, 1440].map(next), [60, 60, 60, 240, 240, 840, 1440, 1440, 2040]);
        assert_eq!(next_look(&[0], 0, 5), 1_000_000);
    }
}
