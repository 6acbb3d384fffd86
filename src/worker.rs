//! Runs jobs: claims what is due, runs it beside others, gives back what it holds when it stops.
//!
//! There are two lanes. Deliveries to client apps go in large claims through `lines`, everything else in small ones
//! that wait on other people's interfaces, each of which has its part of the `places`; neither lane takes the other's. One loop serves both: it sleeps until the
//! bell rings, a place gets free, or the next job is due, and writes nothing while there is nothing to do.
//!
//! A run that panics is contained: its lease lapses, and the claim counts a crash (F41). When what is not a run ends by
//! itself, the worker ends too and says so, because nobody would do its work (F26).

mod lines;
mod places;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use self::lines::Lines;
use self::places::Places;
use crate::app::{App, SharedApp};
use crate::clock::seconds;
use crate::descriptors::Shares;
use crate::flows::FlowError;
use crate::flows::issue_invoice;
use crate::flows::keep_house::{self, Kept};
use crate::flows::notify::{Raise, raise};
use crate::jobs;
use crate::log::in_full;
use crate::store::{Job, JobEnd, JobKind, Lane, Tx};

/// Deliveries of one claim at most.
const CLAIM: usize = 256;

/// Fewer free places for deliveries are not worth a claim.
const WORTH: usize = 64;

/// How long a job that is due may be held by somebody else's claim before we look again.
const CONTENDED: Duration = Duration::from_millis(10);

/// Pause between two looks for invoices that nobody woke.
const FORGOTTEN: Duration = Duration::from_secs(10);

/// Runs jobs until `stop` says true, or until a part of the worker is lost; then waits for those that run. Answers whether
/// it was told to stop.
pub async fn work(app: SharedApp, mut stop: watch::Receiver<bool>) -> bool {
    let mut house = JoinSet::new();
    house.spawn(keep_house_by_the_hour(Arc::clone(&app), stop.clone()));
    house.spawn(wake_the_forgotten(Arc::clone(&app), stop.clone()));
    let mut worker = Worker::new(Arc::clone(&app));
    while !*stop.borrow() {
        let seen = match worker.look().await {
            Ok(seen) => seen,
            Err(error) => {
                match is_passing(&error) {
                    // Whoever looks after the database says once that it is away, not each look.
                    true => tracing::debug!(error = in_full(&error), "Jobs cannot be claimed"),
                    false => tracing::error!(error = in_full(&error), "Jobs cannot be claimed"),
                }
                Seen::default()
            }
        };
        if seen.more {
            // Yields to the runs that were just begun; more may be due at once.
            tokio::task::yield_now().await;
            continue;
        }
        let tick = Duration::from_millis(app.config.job_tick_ms);
        tokio::select! {
            () = app.job_bell.notified() => {}
            () = tokio::time::sleep(seen.next.map_or(tick, |next| next.min(tick))) => {}
            _ = worker.slots.acquire(), if seen.rest_is_full => {}
            _ = worker.places.acquire_many(worker.worth()), if seen.telling_is_full => {}
            changed = stop.changed() => if changed.is_err() { break },
            Some(_) = house.join_next() => break,
            () = worker.lines.lost() => break,
        }
    }
    let was_told = *stop.borrow();
    worker.end().await;
    if !was_told {
        house.abort_all();
    }
    while house.join_next().await.is_some() {}
    was_told
}

fn is_passing(error: &FlowError) -> bool {
    matches!(error, FlowError::Store(error) if error.is_passing())
}

/// One worker's places.
struct Worker {
    app: SharedApp,
    /// For everything but deliveries.
    slots: Arc<Semaphore>,
    parts: Places,
    running: JoinSet<()>,
    /// For deliveries, from the claim until their ends are written.
    places: Arc<Semaphore>,
    /// How many they are at most.
    most_places: usize,
    lines: Lines,
}

/// What a look at the queue says about the next one.
#[derive(Debug, Default)]
struct Seen {
    /// Something was claimed; there may be more.
    more: bool,
    /// Until the next job is due.
    next: Option<Duration>,
    /// Work is due, and all places for it are taken.
    rest_is_full: bool,
    telling_is_full: bool,
}

impl Worker {
    fn new(app: SharedApp) -> Worker {
        let most_places = Shares::of_this_process(&app.config).telling;
        Worker {
            slots: Arc::new(Semaphore::new(app.config.job_concurrency)),
            parts: Places::of(app.config.job_concurrency),
            running: JoinSet::new(),
            places: Arc::new(Semaphore::new(most_places)),
            most_places,
            lines: Lines::open(Arc::clone(&app), most_places),
            app,
        }
    }

    /// So many free places for deliveries are worth a claim.
    fn worth(&self) -> u32 {
        u32::try_from(WORTH.min(self.most_places / 4).max(1)).unwrap_or(1)
    }

    /// Claims and begins what is due in each lane, as far as there are places. Looks without a lock first: an idle
    /// worker must not write.
    async fn look(&mut self) -> Result<Seen, FlowError> {
        while self.running.try_join_next().is_some() {}
        self.lines.give_back_stale();
        let mut seen = Seen::default();
        if self.app.config.hold {
            return Ok(seen);
        }
        let now = self.app.now();
        let due = self.app.store.read().await?.next_due().await?;
        let until = |at: i64| Duration::from_micros(u64::try_from(at - now).unwrap_or(0));
        seen.next = [due.rest, due.telling].into_iter().flatten().filter(|at| *at > now).min().map(until);
        if due.rest.is_some_and(|at| at <= now) {
            match self.slots.available_permits() {
                0 => seen.rest_is_full = true,
                free => self.begin(Lane::Rest, free, &mut seen).await?,
            }
        }
        if due.telling.is_some_and(|at| at <= now) {
            match self.places.available_permits() {
                free if free < self.worth() as usize => seen.telling_is_full = true,
                free => self.begin(Lane::Telling, free.min(CLAIM), &mut seen).await?,
            }
        }
        Ok(seen)
    }

    async fn begin(&mut self, lane: Lane, most: usize, seen: &mut Seen) -> Result<(), FlowError> {
        let claimed = claim(&self.app, lane, most).await?;
        if claimed.jobs.is_empty() && !claimed.set_some_aside {
            seen.next = Some(CONTENDED);
            return Ok(());
        }
        seen.more = true;
        match lane {
            Lane::Rest => {
                let running = self.app.config.job_concurrency - self.slots.available_permits();
                let admitted = self.parts.admit(&self.app, claimed.jobs, running).await;
                for (job, seat) in admitted.run {
                    let (app, slots) = (Arc::clone(&self.app), Arc::clone(&self.slots));
                    let slot = slots.try_acquire_owned().ok();
                    self.running.spawn(async move {
                        let _places = (slot, seat);
                        jobs::run(&app, &job).await;
                    });
                }
                let returned: Vec<_> = admitted.returned.iter().map(|(job, end)| (job, end)).collect();
                jobs::settle_all(&self.app, &returned).await?;
            }
            Lane::Telling => {
                let count = u32::try_from(claimed.jobs.len()).unwrap_or(0);
                if let Ok(places) = Arc::clone(&self.places).try_acquire_many_owned(count) {
                    self.lines.take(claimed.jobs, places).await;
                }
            }
        }
        Ok(())
    }

    /// Waits for what runs; what waits for its turn is given back.
    async fn end(mut self) {
        while self.running.join_next().await.is_some() {}
        self.lines.close().await;
    }
}

/// Looks every minute whether a new turn of the housekeeping has begun. A held hub keeps its hands off the data.
async fn keep_house_by_the_hour(app: SharedApp, mut stop: watch::Receiver<bool>) {
    let mut seen = None;
    while !*stop.borrow() {
        let turn = Some(app.now() / keep_house::TURN);
        if seen != turn && !app.config.hold {
            let kept = AssertUnwindSafe(keep_house::keep_house(&app, &stop)).catch_unwind().await;
            match kept.unwrap_or_else(|_| Err(FlowError::Internal("a fault of the hub: it panicked".into()))) {
                Ok(kept) => {
                    seen = turn;
                    if let Some(k) = kept.filter(|k| *k != Kept::default()) {
                        tracing::info!(made = ?k.made, dropped = ?k.dropped, rows = k.rows, "Kept house");
                    }
                }
                // Whoever looks after the database says once that it is away.
                Err(error) if is_passing(&error) => tracing::debug!(error = in_full(&error), "The house waits"),
                Err(error) => tracing::error!(error = in_full(&error), "The housekeeping came to nothing"),
            }
        }
        tokio::select! {
            () = tokio::time::sleep(Duration::from_secs(60)) => {}
            _ = stop.changed() => {}
        }
    }
}

/// Looks every few seconds whether an invoice waits although its account is free.
async fn wake_the_forgotten(app: SharedApp, mut stop: watch::Receiver<bool>) {
    while !*stop.borrow() {
        if !app.config.hold {
            let woken = AssertUnwindSafe(issue_invoice::wake_forgotten(&app)).catch_unwind().await;
            match woken.unwrap_or_else(|_| Err(FlowError::Internal("a fault of the hub: it panicked".into()))) {
                Ok(()) => {}
                Err(error) if is_passing(&error) => {}
                Err(error) => tracing::error!(error = in_full(&error), "Invoices that wait could not be woken"),
            }
        }
        tokio::select! {
            () = tokio::time::sleep(FORGOTTEN) => {}
            _ = stop.changed() => {}
        }
    }
}

/// What a claim brought.
struct Claimed {
    jobs: Vec<Job>,
    set_some_aside: bool,
}

/// Claims due jobs. One that killed its workers again and again is set aside with an alert (F41).
async fn claim(app: &App, lane: Lane, most: usize) -> Result<Claimed, FlowError> {
    let now = app.now();
    let most = i64::try_from(most).unwrap_or(1);
    let mut tx = app.store.once().await?;
    let claimed = tx.claim_jobs(lane, now, now + seconds(app.config.job_lease_s), most).await?;
    tx.commit().await?;
    let (poison, jobs): (Vec<_>, Vec<_>) = claimed.into_iter().partition(|j| j.crashes >= app.config.job_max_crashes);
    // The others are claimed already and run all the same; the poison is found again when its lease lapses.
    if let Err(error) = set_aside(app, &poison, now).await {
        tracing::error!(error = %error, jobs = poison.len(), "Jobs that kill their workers could not be set aside");
    }
    Ok(Claimed { jobs, set_some_aside: !poison.is_empty() })
}

async fn set_aside(app: &App, poison: &[Job], now: i64) -> Result<(), FlowError> {
    if poison.is_empty() {
        return Ok(());
    }
    let mut tx = app.store.begin().await?;
    for job in poison {
        let is_about_itself = is_about_poison(&mut tx, job).await?;
        let why = JobEnd::SetAside("the worker died or stalled too often on this job");
        tx.end_job(job, why, now).await?;
        let (crashes, id, kind, subject) = (job.crashes, &job.id, job.kind, &job.subject);
        let why = format!(
            "the worker died or stalled {crashes} times on job {id} ({kind} of {subject}); when the cause is gone, \
             POST /v1/jobs/{id}/retry has it go on"
        );
        if is_about_itself {
            tracing::error!(job.id = %job.id, "The mail about a job that was set aside is set aside too: {why}");
            continue;
        }
        let key = format!("job.poison:{}", job.id);
        raise(app, &mut tx, Raise::about_account("job.poison", key, &job.merchant_id, why)).await?;
    }
    Ok(tx.commit().await?)
}

/// The job mails an alert about a job that was set aside: another such alert would have another such mail, for ever.
async fn is_about_poison(tx: &mut Tx, job: &Job) -> Result<bool, FlowError> {
    if job.kind != JobKind::SendNotice {
        return Ok(false);
    }
    let notice = tx.notice(&job.merchant_id, &job.subject).await?;
    Ok(notice.is_some_and(|n| n.kind == "job.poison"))
}

/// Runs, one after another, every job that is due, and those that become due by them; answers how many runs there were.
/// For tests and for tools: time stands still meanwhile.
///
/// # Errors
/// The database.
pub async fn run_due(app: &App) -> Result<usize, FlowError> {
    let mut runs = 0;
    loop {
        let next = app.store.read().await?.next_due().await?.earlier();
        let Some((lane, _)) = next.filter(|(_, at)| *at <= app.now()) else { return Ok(runs) };
        for job in claim(app, lane, 1).await?.jobs {
            jobs::run(app, &job).await;
            runs += 1;
        }
    }
}
