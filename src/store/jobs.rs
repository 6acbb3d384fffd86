//! The job table: transactional enqueue, lease and fence, bounded crashes.
//!
//! A job is claimed in a short transaction that writes a lease and raises the fence; it runs with no transaction open;
//! its business rows and its outcome are written together, guarded by the fence. A worker that slept through its lease
//! holds an old fence and can write nothing (F42).

use super::Page;
use super::dialect::{Row, StoreError, Tx, args};
use super::set::{Set, row};
use crate::domain::words;

words! {
    /// Kinds of jobs; the word is in the table and in metrics.
    JobKind {
        /// Ask the gateway about an attempt.
        PollStatus = "poll_status",
        /// Try a parked event again.
        RetryEvent = "retry_event",
        /// Issue the invoice of a payment.
        IssueInvoice = "issue_invoice",
        /// Fetch the printed document of an issued invoice.
        FetchPdf = "fetch_pdf",
        /// Send a notice by mail.
        SendNotice = "send_notice",
        /// Deliver a message to a client app's endpoint.
        TellClient = "tell_client",
        /// Order a refund at the gateway, then ask until it is done.
        Refund = "refund",
        /// Close an attempt at the gateway.
        CancelAttempt = "cancel_attempt",
        /// Probe an invoicing account that is stopped.
        ProbeInvoicing = "probe_invoicing",
    }
}

/// A piece of durable work.
#[derive(Debug, Clone)]
pub struct Job {
    /// Owner.
    pub merchant_id: String,
    /// `job_…`
    pub id: String,
    /// What is to be done.
    pub kind: JobKind,
    /// To which row: its id.
    pub subject: String,
    /// `ready`, `running`, `done`, `failed`.
    pub state: String,
    /// Not before, microseconds.
    pub run_at: i64,
    /// Runs begun so far, this one included.
    pub attempts: i64,
    /// Runs that ended without a word (lease ran out).
    pub crashes: i64,
    /// Rises with each claim.
    pub fence: i64,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// Microseconds.
    pub created_at: i64,
}

/// Work to be enqueued.
#[derive(Debug, Clone)]
pub struct NewJob {
    /// Owner.
    pub merchant_id: String,
    /// `job_…`
    pub id: String,
    /// What is to be done.
    pub kind: JobKind,
    /// To which row: its id.
    pub subject: String,
    /// Not before, microseconds.
    pub run_at: i64,
    /// Microseconds.
    pub created_at: i64,
}

/// Work to be enqueued; where a live job of a kind is there for a subject already, nothing is.
pub(super) fn new_set(new: &[NewJob]) -> Set<'_> {
    Set::new(
        &["merchant_id", "id", "kind", "subject", "run_at", "created_at"],
        new.iter().map(|j| row![&j.merchant_id, &j.id, j.kind.word(), &j.subject, j.run_at, j.created_at]),
        "INSERT INTO jobs (merchant_id, id, kind, subject, state, run_at, attempts, crashes, fence, created_at)
         SELECT merchant_id, id, kind, subject, 'ready', run_at, 0, 0, 0, created_at FROM r WHERE true
         ON CONFLICT (merchant_id, kind, subject) WHERE state <> 'done' AND state <> 'failed' DO NOTHING",
    )
}

/// One line of the queue's depth.
#[derive(Debug, Clone)]
pub struct QueueDepth {
    /// Kind of jobs.
    pub kind: String,
    /// State.
    pub state: String,
    /// How many.
    pub count: i64,
    /// The oldest due instant, microseconds.
    pub oldest_run_at: i64,
}

macro_rules! job_columns {
    () => {
        "merchant_id, id, kind, subject, state, run_at, attempts, crashes, fence, last_error, created_at"
    };
}

impl Tx {
    /// Enqueues work for a subject; nothing when a live job of that kind is there already.
    pub async fn enqueue(
        &mut self,
        merchant: &str,
        id: &str,
        kind: JobKind,
        subject: &str,
        run_at: i64,
        now: i64,
    ) -> Result<(), StoreError> {
        let new = NewJob {
            merchant_id: merchant.to_owned(),
            id: id.to_owned(),
            kind,
            subject: subject.to_owned(),
            run_at,
            created_at: now,
        };
        match &mut self.book {
            Some(book) => book.new.jobs.push(new),
            None => drop(self.run_sets(&[new_set(&[new])]).await?),
        }
        Ok(())
    }

    /// Brings a waiting job forward to `run_at`; nothing when it runs or is due earlier.
    pub async fn hasten(
        &mut self,
        merchant: &str,
        kind: JobKind,
        subject: &str,
        run_at: i64,
    ) -> Result<(), StoreError> {
        self.run(
            "UPDATE jobs SET run_at = $4 WHERE merchant_id = $1 AND kind = $2 AND subject = $3 AND state = 'ready' AND run_at > $4",
            args![merchant, kind.word(), subject, run_at],
        )
        .await?;
        Ok(())
    }

    /// Claims up to `limit` due jobs until `lease_until`, oldest first.
    pub async fn claim_jobs(&mut self, now: i64, lease_until: i64, limit: i64) -> Result<Vec<Job>, StoreError> {
        let sql = self.pick(
            concat!(
                "UPDATE jobs SET state = 'running', lease_until = $2, attempts = attempts + 1, fence = fence + 1
                 WHERE (merchant_id, id) IN (SELECT merchant_id, id FROM jobs WHERE state = 'ready' AND run_at <= $1 ORDER BY run_at, id LIMIT $3)
                 RETURNING ", job_columns!()
            ),
            concat!(
                "UPDATE jobs SET state = 'running', lease_until = $2, attempts = attempts + 1, fence = fence + 1
                 WHERE (merchant_id, id) IN (SELECT merchant_id, id FROM jobs WHERE state = 'ready' AND run_at <= $1 ORDER BY run_at, id LIMIT $3
                     FOR UPDATE SKIP LOCKED)
                 RETURNING ", job_columns!()
            ),
        );
        let rows = self.rows(sql, args![now, lease_until, limit]).await?;
        let mut jobs = rows.iter().map(job).collect::<Result<Vec<_>, _>>()?;
        jobs.sort_by(|a, b| (a.run_at, &a.id).cmp(&(b.run_at, &b.id)));
        Ok(jobs)
    }

    /// Frees jobs whose lease ran out: their worker died or sleeps. Answers those that crashed `max_crashes` times,
    /// now `failed` (F41).
    pub async fn free_lapsed_jobs(&mut self, now: i64, max_crashes: i64) -> Result<Vec<Job>, StoreError> {
        let failed = self
            .rows(
                concat!(
                    "UPDATE jobs SET state = 'failed', crashes = crashes + 1, lease_until = NULL, finished_at = $1, fence = fence + 1,
                         last_error = 'the worker died or stalled too often on this job'
                     WHERE state = 'running' AND lease_until < $1 AND crashes + 1 >= $2 RETURNING ", job_columns!()
                ),
                args![now, max_crashes],
            )
            .await?;
        self.run(
            "UPDATE jobs SET state = 'ready', crashes = crashes + 1, lease_until = NULL, run_at = $1 WHERE state = 'running' AND lease_until < $1",
            args![now],
        )
        .await?;
        failed.iter().map(job).collect()
    }

    /// Checks, and locks until the end of the transaction, that this run still owns its job.
    pub async fn still_owns(&mut self, j: &Job) -> Result<bool, StoreError> {
        let sql = self.pick(
            "SELECT id FROM jobs WHERE merchant_id = $1 AND id = $2 AND fence = $3 AND state = 'running'",
            "SELECT id FROM jobs WHERE merchant_id = $1 AND id = $2 AND fence = $3 AND state = 'running' FOR UPDATE",
        );
        Ok(self.row(sql, args![&j.merchant_id, &j.id, j.fence]).await?.is_some())
    }

    /// Lengthens the lease of a run; `false` when it is no longer its owner.
    pub async fn extend_lease(&mut self, j: &Job, until: i64) -> Result<bool, StoreError> {
        let touched = self
            .run(
                "UPDATE jobs SET lease_until = $4 WHERE merchant_id = $1 AND id = $2 AND fence = $3 AND state = 'running'",
                args![&j.merchant_id, &j.id, j.fence, until],
            )
            .await?;
        Ok(touched == 1)
    }

    /// Ends a job; `false` when this run no longer owns it, and then nothing of the transaction may be committed.
    pub async fn finish_job(
        &mut self,
        j: &Job,
        failed: bool,
        error: Option<&str>,
        now: i64,
    ) -> Result<bool, StoreError> {
        let touched = self
            .run(
                "UPDATE jobs SET state = $4, lease_until = NULL, last_error = $5, finished_at = $6
                 WHERE merchant_id = $1 AND id = $2 AND fence = $3 AND state = 'running'",
                args![&j.merchant_id, &j.id, j.fence, if failed { "failed" } else { "done" }, error, now],
            )
            .await?;
        Ok(touched == 1)
    }

    /// Puts a job back for later; `false` when this run no longer owns it.
    pub async fn put_back_job(&mut self, j: &Job, run_at: i64, error: Option<&str>) -> Result<bool, StoreError> {
        let touched = self
            .run(
                "UPDATE jobs SET state = 'ready', lease_until = NULL, run_at = $4, crashes = 0, last_error = COALESCE($5, last_error)
                 WHERE merchant_id = $1 AND id = $2 AND fence = $3 AND state = 'running'",
                args![&j.merchant_id, &j.id, j.fence, run_at, error],
            )
            .await?;
        Ok(touched == 1)
    }

    /// Gives a claimed job back untouched (stopping): the attempt does not count.
    pub async fn return_job(&mut self, j: &Job) -> Result<(), StoreError> {
        self.run(
            "UPDATE jobs SET state = 'ready', lease_until = NULL, attempts = attempts - 1
             WHERE merchant_id = $1 AND id = $2 AND fence = $3 AND state = 'running'",
            args![&j.merchant_id, &j.id, j.fence],
        )
        .await?;
        Ok(())
    }

    /// Jobs about a row, oldest first.
    pub async fn jobs_about(&mut self, merchant: &str, subject: &str) -> Result<Vec<Job>, StoreError> {
        let sql = concat!(
            "SELECT ",
            job_columns!(),
            " FROM jobs WHERE merchant_id = $1 AND subject = $2 ORDER BY id LIMIT 200"
        );
        self.rows(sql, args![merchant, subject]).await?.iter().map(job).collect()
    }

    /// A page of a merchant's jobs.
    pub async fn jobs(&mut self, merchant: &str, state: Option<&str>, page: &Page) -> Result<Vec<Job>, StoreError> {
        let sql = concat!(
            "SELECT ",
            job_columns!(),
            " FROM jobs WHERE merchant_id = $1 AND ($2 IS NULL OR state = $2) AND ($3 IS NULL OR id < $3)
             ORDER BY id DESC LIMIT $4"
        );
        self.rows(sql, args![merchant, state, &page.before, page.limit]).await?.iter().map(job).collect()
    }

    /// Depth of the queue by kind and state, live jobs only.
    pub async fn queue_depth(&mut self) -> Result<Vec<QueueDepth>, StoreError> {
        let rows = self
            .rows(
                "SELECT kind, state, COUNT(*) AS jobs, MIN(run_at) AS oldest FROM jobs WHERE state = 'ready' OR state = 'running'
                 GROUP BY kind, state ORDER BY kind, state",
                &[],
            )
            .await?;
        rows.iter()
            .map(|r| {
                Ok(QueueDepth {
                    kind: r.text("kind")?,
                    state: r.text("state")?,
                    count: r.int("jobs")?,
                    oldest_run_at: r.int("oldest")?,
                })
            })
            .collect()
    }

    /// When the next waiting job is due, microseconds.
    pub async fn next_job_at(&mut self) -> Result<Option<i64>, StoreError> {
        match self.row("SELECT MIN(run_at) AS next FROM jobs WHERE state = 'ready'", &[]).await? {
            Some(r) => r.maybe_int("next"),
            None => Ok(None),
        }
    }
}

fn job(r: &Row) -> Result<Job, StoreError> {
    Ok(Job {
        merchant_id: r.text("merchant_id")?,
        id: r.text("id")?,
        kind: r.word("kind")?,
        subject: r.text("subject")?,
        state: r.text("state")?,
        run_at: r.int("run_at")?,
        attempts: r.int("attempts")?,
        crashes: r.int("crashes")?,
        fence: r.int("fence")?,
        last_error: r.maybe_text("last_error")?,
        created_at: r.int("created_at")?,
    })
}
