//! How a job ends, and who runs which.
//!
//! A run reads what it needs, calls the outside with no transaction open, then writes its business rows and its own
//! end in one transaction guarded by the fence. A run that fails halfway runs again.

use crate::app::App;
use crate::clock::seconds;
use crate::flows::{self, FlowError};
use crate::store::{Job, JobKind, Tx};

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
    /// Set aside; an alert or a state elsewhere says so to people.
    Failed {
        /// For people.
        error: String,
    },
}

/// Writes the end of a run into the transaction that holds its business rows, and commits. A run that lost its lease
/// commits nothing (F42).
///
/// # Errors
/// The database; then nothing was written, or (a connection lost in the commit) it cannot be known, and the job's state
/// tells.
pub async fn settle(app: &App, mut tx: Tx, job: &Job, end: End) -> Result<(), FlowError> {
    let (owned, outcome) = match &end {
        End::Done => (tx.finish_job(job, false, None, app.now()).await?, "done"),
        End::Again { at, error } => (tx.put_back_job(job, *at, error.as_deref()).await?, "again"),
        End::Failed { error } => (tx.finish_job(job, true, Some(error), app.now()).await?, "failed"),
    };
    if !owned {
        tx.rollback().await?;
        app.metrics.count(&app.metrics.job_runs, job.kind.word(), "lost_lease");
        return Ok(());
    }
    tx.commit().await?;
    app.metrics.count(&app.metrics.job_runs, job.kind.word(), outcome);
    // Work that this run enqueued, or its own next run, may be due at once.
    app.job_bell.notify_one();
    Ok(())
}

/// Ends a run that has nothing to write.
///
/// # Errors
/// The database.
pub async fn finish(app: &App, job: &Job) -> Result<(), FlowError> {
    let tx = app.store.begin().await?;
    settle(app, tx, job, End::Done).await
}

/// Puts a run off that has nothing to write.
///
/// # Errors
/// The database.
pub async fn again(app: &App, job: &Job, at: i64, error: Option<String>) -> Result<(), FlowError> {
    let tx = app.store.begin().await?;
    settle(app, tx, job, End::Again { at, error }).await
}

/// Runs one claimed job to its end. An error puts it back with a growing pause.
pub async fn run(app: &App, job: &Job) {
    let result = match job.kind {
        JobKind::PollStatus => flows::poll_status::run(app, job).await,
        JobKind::RetryEvent => flows::retry_event::run(app, job).await,
        JobKind::IssueInvoice => flows::issue_invoice::run(app, job).await,
        JobKind::FetchPdf => flows::fetch_pdf::run(app, job).await,
        JobKind::SendNotice => flows::send_notice::run(app, job).await,
        JobKind::TellClient => flows::tell_client::run(app, job).await,
        JobKind::Refund => flows::refund::run(app, job).await,
        JobKind::CancelAttempt => flows::cancel_attempt::run(app, job).await,
        JobKind::ProbeInvoicing => flows::probe_invoicing::run(app, job).await,
    };
    let Err(error) = result else { return };
    app.metrics.count(&app.metrics.job_runs, job.kind.word(), "error");
    tracing::warn!(job.id = %job.id, job.kind = %job.kind, error = %error, "Job {} ended in an error", job.id);
    let pause = seconds(1 << job.attempts.clamp(0, 9));
    if let Err(e) = again(app, job, app.now() + pause, Some(error.to_string())).await {
        // The lease will lapse and the job will be found again.
        tracing::warn!(job.id = %job.id, error = %e, "Job {} could not be put back", job.id);
    }
}
