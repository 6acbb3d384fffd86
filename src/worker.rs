//! Runs jobs: claims what is due, runs it beside others, gives back what it holds when it stops.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::app::{App, SharedApp};
use crate::clock::seconds;
use crate::flows::FlowError;
use crate::flows::keep_house::{self, Kept};
use crate::flows::notify::{Raise, raise};
use crate::jobs;
use crate::store::Job;

/// Runs jobs until `stop` says true; then waits for those that run.
pub async fn work(app: SharedApp, mut stop: watch::Receiver<bool>) {
    let slots = Arc::new(Semaphore::new(app.config.job_concurrency));
    let mut running = JoinSet::new();
    let swept_at = AtomicI64::new(0);
    let house = tokio::spawn(keep_house_by_the_hour(Arc::clone(&app), stop.clone()));
    while !*stop.borrow() {
        while running.try_join_next().is_some() {}
        let claimed = match claim(&app, &slots, &swept_at).await {
            Ok(claimed) => claimed,
            Err(error) => {
                tracing::warn!(error = %error, "Jobs cannot be claimed");
                vec![]
            }
        };
        let busy = !claimed.is_empty();
        for job in claimed {
            let (app, slots) = (Arc::clone(&app), Arc::clone(&slots));
            running.spawn(async move {
                let _slot = slots.acquire_owned().await;
                jobs::run(&app, &job).await;
            });
        }
        if busy {
            // Yields to the runs that were just spawned; more may be due at once.
            tokio::task::yield_now().await;
            if slots.available_permits() > 0 {
                continue;
            }
        }
        tokio::select! {
            () = app.job_bell.notified() => {}
            () = tokio::time::sleep(Duration::from_millis(app.config.job_tick_ms)) => {}
            _ = stop.changed() => {}
        }
    }
    while running.join_next().await.is_some() {}
    if let Err(error) = house.await {
        tracing::error!(error = %error, "The housekeeping ended abnormally");
    }
}

/// Looks every minute whether a new turn of the housekeeping has begun. A held hub keeps its hands off the data.
async fn keep_house_by_the_hour(app: SharedApp, mut stop: watch::Receiver<bool>) {
    let mut seen = None;
    while !*stop.borrow() {
        let turn = Some(app.now() / keep_house::TURN);
        if seen != turn && !app.config.hold {
            match keep_house::keep_house(&app, &stop).await {
                Ok(kept) => {
                    seen = turn;
                    if let Some(k) = kept.filter(|k| *k != Kept::default()) {
                        tracing::info!(made = ?k.made, dropped = ?k.dropped, rows = k.rows, "Kept house");
                    }
                }
                Err(error) => tracing::error!(error = %error, "The housekeeping came to nothing"),
            }
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(60)) => {}
            _ = stop.changed() => {}
        }
    }
}

/// Claims as many due jobs as there are free slots; once a lease frees what dead workers held.
async fn claim(app: &App, slots: &Semaphore, swept_at: &AtomicI64) -> Result<Vec<Job>, FlowError> {
    if app.config.hold {
        return Ok(vec![]);
    }
    let now = app.now();
    if now - swept_at.load(Ordering::Relaxed) > seconds(1) {
        swept_at.store(now, Ordering::Relaxed);
        free_lapsed(app).await?;
    }
    let free = i64::try_from(slots.available_permits()).unwrap_or(1);
    if free == 0 {
        return Ok(vec![]);
    }
    // A look without a lock first: an idle worker must not write.
    let due = app.store.read().await?.next_job_at().await?;
    if due.is_none_or(|at| at > now) {
        return Ok(vec![]);
    }
    let mut tx = app.store.begin().await?;
    let claimed = tx.claim_jobs(now, now + seconds(app.config.job_lease_s), free).await?;
    tx.commit().await?;
    Ok(claimed)
}

/// Frees jobs whose worker died; one that killed its workers again and again is set aside with an alert (F41).
///
/// # Errors
/// The database.
pub async fn free_lapsed(app: &App) -> Result<(), FlowError> {
    let mut tx = app.store.begin().await?;
    for job in tx.free_lapsed_jobs(app.now(), app.config.job_max_crashes).await? {
        let why = format!("the worker died or stalled {} times on job {} ({})", job.crashes, job.id, job.kind);
        let key = format!("job.poison:{}", job.id);
        raise(app, &mut tx, Raise::about_account("job.poison", key, &job.merchant_id, why)).await?;
    }
    Ok(tx.commit().await?)
}

/// Runs, one after another, every job that is due, and those that become due by them; answers how many runs there were.
/// For tests and for tools: time stands still meanwhile.
///
/// # Errors
/// The database.
pub async fn run_due(app: &App) -> Result<usize, FlowError> {
    let mut runs = 0;
    loop {
        free_lapsed(app).await?;
        let now = app.now();
        let mut tx = app.store.begin().await?;
        let claimed = tx.claim_jobs(now, now + seconds(app.config.job_lease_s), 1).await?;
        tx.commit().await?;
        let Some(job) = claimed.first() else { return Ok(runs) };
        jobs::run(app, job).await;
        runs += 1;
    }
}
