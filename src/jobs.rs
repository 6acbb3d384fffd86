//! How a job ends, and who runs which.
//!
//! A run reads what it needs, calls the outside with no transaction open, then writes its business rows and its own
//! end in one transaction guarded by the fence. A run that fails halfway runs again.
//!
//! Runs with nothing to write but their end share a commit: whoever's turn it is writes what came together while the
//! one before committed. There is no timer, so a lone end never waits.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use tokio::sync::oneshot;

use crate::app::App;
use crate::clock::seconds;
use crate::flows::{self, FlowError};
use crate::store::{Job, JobEnd, JobKind, Tx};

/// How a run ends.
#[derive(Debug, Clone)]
pub enum End {
    /// Nothing more to do.
    Done,
    /// Not before `at` (microseconds), with what went wrong, if anything did.
    Again {
        /// Microseconds.
        at: i64,
        /// For people.
        error: Option<String>,
    },
    /// All its tries came to nothing, and it is done all the same; an alert says so to people.
    Exhausted,
    /// Set aside; an alert or a state elsewhere says so to people.
    Failed {
        /// For people.
        error: String,
    },
    /// It did not begin: not before `at` (microseconds), and it does not count.
    Returned {
        /// Microseconds.
        at: i64,
    },
}

impl End {
    /// Not before this instant either, microseconds.
    #[must_use]
    pub fn not_before(self, instant: Option<i64>) -> End {
        match self {
            End::Again { at, error } => End::Again { at: at.max(instant.unwrap_or(at)), error },
            other => other,
        }
    }

    fn row(&self) -> JobEnd<'_> {
        match self {
            End::Done | End::Exhausted => JobEnd::Done,
            End::Again { at, error } => JobEnd::Again(*at, error.as_deref()),
            End::Failed { error } => JobEnd::SetAside(error),
            End::Returned { at } => JobEnd::Returned(*at),
        }
    }

    /// For metrics.
    fn word(&self) -> &'static str {
        match self {
            End::Done => "done",
            End::Again { .. } => "again",
            End::Exhausted => "exhausted",
            End::Failed { .. } => "failed",
            End::Returned { .. } => "returned",
        }
    }
}

/// Writes the end of a run into the transaction that holds its business rows, and commits. A run that lost its lease
/// commits nothing (F42).
///
/// # Errors
/// The database; then nothing was written, or (a connection lost in the commit) it cannot be known, and the job's state
/// tells.
pub async fn settle(app: &App, mut tx: Tx, job: &Job, end: End) -> Result<(), FlowError> {
    if !tx.end_job(job, end.row(), app.now()).await? {
        tx.rollback().await?;
        count_lost(app, job);
        return Ok(());
    }
    tx.commit().await?;
    count(app, job, &end);
    // Work that this run enqueued, or its own next run, may be due at once.
    app.job_bell.notify_one();
    Ok(())
}

/// Writes the ends of many runs into the transaction that holds their business rows; answers the ids of the jobs that
/// their runs still own. Of the others nothing may be committed.
///
/// # Errors
/// The database.
pub async fn write_ends(app: &App, tx: &mut Tx, ends: &[(&Job, &End)]) -> Result<HashSet<String>, FlowError> {
    let rows: Vec<_> = ends.iter().map(|(job, end)| (*job, end.row())).collect();
    Ok(tx.end_jobs(&rows, app.now()).await?)
}

/// Ends runs that have nothing else to write, in one transaction.
///
/// # Errors
/// The database.
pub async fn settle_all(app: &App, ends: &[(&Job, &End)]) -> Result<(), FlowError> {
    if ends.is_empty() {
        return Ok(());
    }
    // One kind of end is one statement.
    let one_kind = ends.windows(2).all(|two| matches!(two, [(_, a), (_, b)] if a.word() == b.word()));
    let mut tx = if one_kind { app.store.once().await? } else { app.store.begin().await? };
    let owned = write_ends(app, &mut tx, ends).await?;
    tx.commit().await?;
    count_all(app, ends, &owned);
    app.job_bell.notify_one();
    Ok(())
}

/// Counts the ends of runs; those whose jobs are not among `owned` lost their leases.
pub fn count_all(app: &App, ends: &[(&Job, &End)], owned: &HashSet<String>) {
    for (job, end) in ends {
        if owned.contains(&job.id) { count(app, job, end) } else { count_lost(app, job) }
    }
}

fn count(app: &App, job: &Job, end: &End) {
    app.metrics.count(&app.metrics.job_runs, job.kind.word(), end.word());
}

fn count_lost(app: &App, job: &Job) {
    app.metrics.count(&app.metrics.job_runs, job.kind.word(), "lost_lease");
}

/// Ends a run that has nothing to write.
///
/// # Errors
/// The database.
pub async fn finish(app: &App, job: &Job) -> Result<(), FlowError> {
    app.settling.settle(app, job, End::Done).await
}

/// Puts a run off that has nothing to write.
///
/// # Errors
/// The database.
pub async fn again(app: &App, job: &Job, at: i64, error: Option<String>) -> Result<(), FlowError> {
    app.settling.settle(app, job, End::Again { at, error }).await
}

/// Puts a run off that did not begin.
///
/// # Errors
/// The database.
pub async fn put_back(app: &App, job: &Job, at: i64) -> Result<(), FlowError> {
    app.settling.settle(app, job, End::Returned { at }).await
}

/// Ends of runs that wait to be written together.
#[derive(Default)]
pub struct Settling {
    waiting: Mutex<Vec<Waiting>>,
    turn: tokio::sync::Mutex<()>,
}

/// An end, and the run that waits for it to be written.
struct Waiting {
    job: Job,
    end: End,
    written: oneshot::Sender<()>,
}

impl Settling {
    async fn settle(&self, app: &App, job: &Job, end: End) -> Result<(), FlowError> {
        let (written, heard) = oneshot::channel();
        self.lock().push(Waiting { job: job.clone(), end: end.clone(), written });
        {
            let _turn = self.turn.lock().await;
            // Empty when somebody before took this one along.
            let together = std::mem::take(&mut *self.lock());
            self.write(app, together).await;
        }
        match heard.await {
            Ok(()) => Ok(()),
            // Written alone, it fails alone.
            Err(_) => settle(app, app.store.begin().await?, job, end).await,
        }
    }

    async fn write(&self, app: &App, together: Vec<Waiting>) {
        let ends: Vec<_> = together.iter().map(|w| (&w.job, &w.end)).collect();
        match settle_all(app, &ends).await {
            Ok(()) => {
                for waiting in together {
                    let _ = waiting.written.send(());
                }
            }
            Err(error) => tracing::debug!(error = %error, "Ends of jobs could not be written together"),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Waiting>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Runs one claimed job to its end. An error puts it back with a growing pause.
pub async fn run(app: &App, job: &Job) {
    let result = match job.kind {
        JobKind::PollStatus => flows::poll_status::run(app, job).await,
        JobKind::RetryEvent => flows::retry_event::run(app, job).await,
        JobKind::IssueInvoice => flows::issue_invoice::run(app, job).await,
        JobKind::FetchPdf => flows::fetch_pdf::run(app, job).await,
        JobKind::SendNotice => flows::send_notice::run(app, job).await,
        JobKind::TellClient => flows::deliver::run(app, job).await,
        JobKind::Refund => flows::refund::run(app, job).await,
        JobKind::CancelAttempt => flows::cancel_attempt::run(app, job).await,
        JobKind::ProbeInvoicing => flows::probe_invoicing::run(app, job).await,
    };
    let Err(error) = result else { return };
    let end = after_error(app, job, &error);
    if let Err(e) = app.settling.settle(app, job, end).await {
        // The lease will lapse and the job will be found again.
        tracing::warn!(job.id = %job.id, error = %e, "Job {} could not be put back", job.id);
    }
}

/// The end of a run that met an error: it runs again after a growing pause.
pub fn after_error(app: &App, job: &Job, error: &FlowError) -> End {
    app.metrics.count(&app.metrics.job_runs, job.kind.word(), "error");
    tracing::warn!(job.id = %job.id, job.kind = %job.kind, error = %error, "Job {} ended in an error", job.id);
    let pause = seconds(1 << job.attempts.clamp(0, 9));
    End::Again { at: app.now() + pause, error: Some(error.to_string()) }
}
