//! The job table: transactional enqueue, lease and fence, bounded crashes.
//!
//! A job is claimed in a short transaction that writes a lease and raises the fence; it runs with no transaction open;
//! its business rows and its outcome are written together, guarded by the fence. A worker that slept through its lease
//! holds an old fence and can write nothing (F42).
//!
//! The table holds work that is to be done, and what was set aside for people: a job that is done is deleted, what it
//! did is in the rows that it wrote. While a job runs, `run_at` is the end of its lease, so the job of a run that died
//! is due again without anybody looking for it; the claim counts the crash.

use std::collections::HashSet;

use super::Page;
use super::dialect::{StoreError, Tx, args};
use super::rows::Row;
use super::set::{Set, row};
use crate::domain::words;

/// So long a job of an unknown kind is left to programs that know it, microseconds.
const LEFT_TO_OTHERS: i64 = 30_000_000;

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
    /// `ready`, `running`, `failed`.
    pub state: String,
    /// Not before, microseconds; of a running job: until when its run owns it.
    pub run_at: i64,
    /// When the present or the last run was due, microseconds.
    pub due_at: Option<i64>,
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

/// The two queues, each with an index of its own: neither can stand in the other's way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// Deliveries to client apps: very many, each a short call.
    Telling,
    /// Everything else.
    Rest,
}

/// When a lane has work, microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NextDue {
    /// In the lane of deliveries.
    pub telling: Option<i64>,
    /// In the other.
    pub rest: Option<i64>,
}

/// How a run ends, as far as its job's row goes.
#[derive(Debug, Clone)]
pub enum JobEnd<'a> {
    /// The row goes.
    Done,
    /// It waits until this instant; crashes are forgiven.
    Again(i64, Option<&'a str>),
    /// It waits until this instant as if it had not been claimed.
    Returned(i64),
    /// It is kept for people, with the reason.
    SetAside(&'a str),
}

/// Work to be enqueued; where a live job of a kind is there for a subject already, nothing is.
pub(super) fn new_set(new: &[NewJob]) -> Set<'_> {
    Set::new(
        &["merchant_id", "id", "kind", "subject", "run_at", "created_at"],
        new.iter().map(|j| row![&j.merchant_id, &j.id, j.kind.word(), &j.subject, j.run_at, j.created_at]),
        "INSERT INTO jobs (merchant_id, id, kind, subject, state, run_at, attempts, crashes, fence, created_at)
         SELECT merchant_id, id, kind, subject, 'ready', run_at, 0, 0, 0, created_at FROM r WHERE true
         ON CONFLICT (merchant_id, subject, kind, set_aside) DO NOTHING",
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
    /// How many have met something: they failed, or wait for their turn.
    pub put_off: i64,
    /// When the oldest of those was made, microseconds.
    pub put_off_since: Option<i64>,
}

macro_rules! job_columns {
    () => {
        "merchant_id, id, kind, subject, state, run_at, due_at, attempts, crashes, fence, last_error, created_at"
    };
}

/// The condition of a lane, in the very words of its index.
macro_rules! in_lane {
    (telling) => {
        "kind = 'tell_client' AND set_aside = ''"
    };
    (rest) => {
        "kind <> 'tell_client' AND set_aside = ''"
    };
}

/// The claim. A job that is claimed while it runs has outlived its lease: its worker died or sleeps.
macro_rules! claim {
    ($lane:ident, sqlite) => {
        claim!(concat!(
            "rowid IN (SELECT rowid FROM jobs WHERE ", in_lane!($lane), " AND run_at <= $1 ORDER BY run_at LIMIT $3)"
        ))
    };
    // By their places: the rows are locked, and no plan can go astray however full or empty the table was yesterday.
    ($lane:ident, postgres) => {
        claim!(concat!(
            "ctid = ANY (ARRAY(SELECT ctid FROM jobs WHERE ", in_lane!($lane), " AND run_at <= $1 ORDER BY run_at LIMIT $3 FOR UPDATE SKIP LOCKED))"
        ))
    };
    ($which:expr) => {
        concat!(
            "UPDATE jobs SET crashes = crashes + CASE WHEN state = 'running' THEN 1 ELSE 0 END, state = 'running', due_at = run_at,
                 run_at = $2, attempts = attempts + 1, fence = fence + 1
             WHERE ", $which, " RETURNING ", job_columns!()
        )
    };
}

/// True of the row that a run owns.
macro_rules! owned {
    () => {
        "merchant_id = $1 AND subject = $2 AND kind = $3 AND set_aside = '' AND id = $4 AND fence = $5 AND state = 'running'"
    };
}

/// Joins the table to a set of runs (merchant, about, task, job, token): true of the rows that they still own.
macro_rules! owned_by_runs {
    () => {
        "merchant_id = merchant AND subject = about AND kind = task AND set_aside = '' AND id = job AND fence = token AND state = 'running'"
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
            Some(book) => {
                book.new.jobs.push(new);
                self.will_be_due(run_at);
            }
            None => self.enqueue_jobs(&[new]).await?,
        }
        Ok(())
    }

    /// Like [`Tx::enqueue`], for many.
    pub async fn enqueue_jobs(&mut self, new: &[NewJob]) -> Result<(), StoreError> {
        self.run_sets(&[new_set(new)]).await?;
        for job in new {
            self.will_be_due(job.run_at);
        }
        Ok(())
    }

    fn will_be_due(&mut self, at: i64) {
        self.first_due = Some(self.first_due.map_or(at, |first| first.min(at)));
    }

    /// Brings a waiting job forward to `run_at`; `false` when there is none, or it runs or is due earlier.
    pub async fn hasten(
        &mut self,
        merchant: &str,
        kind: JobKind,
        subject: &str,
        run_at: i64,
    ) -> Result<bool, StoreError> {
        self.will_be_due(run_at);
        let hastened = self
            .run(
                "UPDATE jobs SET run_at = $4
                 WHERE merchant_id = $1 AND subject = $3 AND kind = $2 AND set_aside = '' AND state = 'ready' AND run_at > $4",
                args![merchant, kind.word(), subject, run_at],
            )
            .await?;
        Ok(hastened == 1)
    }

    /// Claims up to `limit` due jobs of a lane until `lease_until`, oldest first. A job whose last run died comes again,
    /// with one more crash; the caller sets aside what crashed too often (F41).
    pub async fn claim_jobs(
        &mut self,
        lane: Lane,
        now: i64,
        lease_until: i64,
        limit: i64,
    ) -> Result<Vec<Job>, StoreError> {
        let sql = match lane {
            Lane::Telling => self.pick(claim!(telling, sqlite), claim!(telling, postgres)),
            Lane::Rest => self.pick(claim!(rest, sqlite), claim!(rest, postgres)),
        };
        let rows = self.rows(sql, args![now, lease_until, limit]).await?;
        let (ours, others) = rows.iter().partition::<Vec<_>, _>(|row| is_known(row));
        if !others.is_empty() {
            self.leave_to_others(&others, now + LEFT_TO_OTHERS).await?;
        }
        let mut jobs = ours.into_iter().map(job).collect::<Result<Vec<_>, _>>()?;
        jobs.sort_by(|a, b| (a.due_at, &a.id).cmp(&(b.due_at, &b.id)));
        Ok(jobs)
    }

    /// Gives back, until `at`, claimed jobs of kinds that only a newer program knows; the claim does not count.
    async fn leave_to_others(&mut self, jobs: &[&Row], at: i64) -> Result<(), StoreError> {
        tracing::warn!(jobs = jobs.len(), "Jobs of unknown kinds are left to a newer program");
        for row in jobs {
            self.run(
                concat!("UPDATE jobs SET state = 'ready', run_at = $6, attempts = attempts - 1 WHERE ", owned!()),
                args![
                    &row.text("merchant_id")?,
                    &row.text("subject")?,
                    &row.text("kind")?,
                    &row.text("id")?,
                    row.int("fence")?,
                    at
                ],
            )
            .await?;
        }
        Ok(())
    }

    /// Checks, and locks until the end of the transaction, that this run still owns its job.
    pub async fn still_owns(&mut self, j: &Job) -> Result<bool, StoreError> {
        let sql = self.pick(
            concat!("SELECT id FROM jobs WHERE ", owned!()),
            concat!("SELECT id FROM jobs WHERE ", owned!(), " FOR UPDATE"),
        );
        Ok(self.row(sql, args![&j.merchant_id, &j.subject, j.kind.word(), &j.id, j.fence]).await?.is_some())
    }

    /// Lengthens the lease of a run; `false` when it is no longer its owner.
    pub async fn extend_lease(&mut self, j: &Job, until: i64) -> Result<bool, StoreError> {
        let touched = self
            .run(
                concat!("UPDATE jobs SET run_at = $6 WHERE ", owned!()),
                args![&j.merchant_id, &j.subject, j.kind.word(), &j.id, j.fence, until],
            )
            .await?;
        Ok(touched == 1)
    }

    /// Writes the end of a run; `false` when it no longer owns its job, and then nothing of the transaction may be
    /// committed.
    pub async fn end_job(&mut self, j: &Job, end: JobEnd<'_>, now: i64) -> Result<bool, StoreError> {
        Ok(!self.end_jobs(&[(j, end)], now).await?.is_empty())
    }

    /// Writes the ends of many runs, in one statement for each kind of end; answers the ids of the jobs that their runs
    /// still owned. The others' rows were not touched.
    pub async fn end_jobs(&mut self, ends: &[(&Job, JobEnd<'_>)], now: i64) -> Result<HashSet<String>, StoreError> {
        let (mut done, mut again, mut returned, mut failed) = (vec![], vec![], vec![], vec![]);
        for (job, end) in ends {
            match end {
                JobEnd::Done => done.push(*job),
                JobEnd::Again(at, error) => again.push((*job, *at, *error)),
                JobEnd::Returned(at) => returned.push((*job, *at)),
                JobEnd::SetAside(why) => failed.push((*job, *why)),
            }
        }
        let mut owned = self.finish_jobs(&done).await?;
        owned.extend(self.put_back_jobs(&again).await?);
        owned.extend(self.return_jobs(&returned).await?);
        owned.extend(self.set_aside_jobs(&failed, now).await?);
        Ok(owned)
    }

    /// Deletes jobs that are done; answers the ids of those that their runs still owned.
    pub async fn finish_jobs(&mut self, jobs: &[&Job]) -> Result<HashSet<String>, StoreError> {
        let rows: Vec<_> =
            jobs.iter().map(|j| row![&j.merchant_id, &j.subject, j.kind.word(), &j.id, j.fence]).collect();
        let sql = self.pick(
            concat!(
                "DELETE FROM jobs WHERE rowid IN (SELECT jobs.rowid FROM r CROSS JOIN jobs WHERE ",
                owned_by_runs!(),
                ") RETURNING id"
            ),
            concat!("DELETE FROM jobs USING r WHERE ", owned_by_runs!(), " RETURNING id"),
        );
        ids(self.rows_of_set(&["merchant", "about", "task", "job", "token"], &rows, sql).await?)
    }

    /// Puts jobs back until an instant each, with what went wrong; answers the ids of those that their runs still owned.
    pub async fn put_back_jobs(&mut self, jobs: &[(&Job, i64, Option<&str>)]) -> Result<HashSet<String>, StoreError> {
        let rows: Vec<_> = jobs
            .iter()
            .map(|(j, at, error)| row![&j.merchant_id, &j.subject, j.kind.word(), &j.id, j.fence, *at, *error])
            .collect();
        let found = self
            .rows_of_set(
                &["merchant", "about", "task", "job", "token", "at", "error"],
                &rows,
                concat!(
                    "UPDATE jobs SET state = 'ready', run_at = r.at, crashes = 0, last_error = COALESCE(r.error, last_error)
                     FROM r WHERE ",
                    owned_by_runs!(),
                    " RETURNING id"
                ),
            )
            .await?;
        ids(found)
    }

    /// Gives claimed jobs back until an instant each: the attempt does not count, and no crash is forgiven. Answers the
    /// ids of those that their runs still owned.
    pub async fn return_jobs(&mut self, jobs: &[(&Job, i64)]) -> Result<HashSet<String>, StoreError> {
        let rows: Vec<_> =
            jobs.iter().map(|(j, at)| row![&j.merchant_id, &j.subject, j.kind.word(), &j.id, j.fence, *at]).collect();
        let found = self
            .rows_of_set(
                &["merchant", "about", "task", "job", "token", "at"],
                &rows,
                concat!(
                    "UPDATE jobs SET state = 'ready', run_at = r.at, attempts = attempts - 1 FROM r WHERE ",
                    owned_by_runs!(),
                    " RETURNING id"
                ),
            )
            .await?;
        ids(found)
    }

    /// Sets jobs aside for people, each with its reason; answers the ids of those that their runs still owned.
    pub async fn set_aside_jobs(&mut self, jobs: &[(&Job, &str)], now: i64) -> Result<HashSet<String>, StoreError> {
        let rows: Vec<_> = jobs
            .iter()
            .map(|(j, why)| row![&j.merchant_id, &j.subject, j.kind.word(), &j.id, j.fence, *why, now])
            .collect();
        let found = self
            .rows_of_set(
                &["merchant", "about", "task", "job", "token", "error", "at"],
                &rows,
                concat!(
                    "UPDATE jobs SET state = 'failed', set_aside = id, run_at = COALESCE(due_at, run_at), last_error = r.error,
                         finished_at = r.at, fence = fence + 1
                     FROM r WHERE ",
                    owned_by_runs!(),
                    " RETURNING id"
                ),
            )
            .await?;
        ids(found)
    }

    /// Jobs about a row that are to be done or were set aside, oldest first.
    pub async fn jobs_about(&mut self, merchant: &str, subject: &str) -> Result<Vec<Job>, StoreError> {
        let sql = concat!(
            "SELECT ",
            job_columns!(),
            " FROM jobs WHERE merchant_id = $1 AND subject = $2 ORDER BY id LIMIT 200"
        );
        self.rows(sql, args![merchant, subject]).await?.iter().filter(|r| is_known(r)).map(job).collect()
    }

    /// A job that was set aside.
    pub async fn job_set_aside(&mut self, merchant: &str, id: &str) -> Result<Option<Job>, StoreError> {
        let sql =
            concat!("SELECT ", job_columns!(), " FROM jobs WHERE merchant_id = $1 AND set_aside <> '' AND id = $2");
        self.row(sql, args![merchant, id]).await?.filter(is_known).map(|r| job(&r)).transpose()
    }

    /// Has a job that was set aside run again, with its crashes forgiven; its attempts still count, because what they did
    /// outside may have happened. `None` where it is not set aside, or where live work of its kind is there for its subject.
    pub async fn revive_job(&mut self, merchant: &str, id: &str, now: i64) -> Result<Option<Job>, StoreError> {
        let row = self
            .row(
                concat!(
                    "UPDATE jobs SET state = 'ready', set_aside = '', run_at = $3, crashes = 0, finished_at = NULL
                     WHERE merchant_id = $1 AND set_aside <> '' AND id = $2 AND NOT EXISTS (
                         SELECT 1 FROM jobs AS l WHERE l.merchant_id = $1 AND l.subject = jobs.subject AND l.kind = jobs.kind AND l.set_aside = '')
                     RETURNING ",
                    job_columns!()
                ),
                args![merchant, id, now],
            )
            .await?;
        if row.is_some() {
            self.will_be_due(now);
        }
        row.map(|r| job(&r)).transpose()
    }

    /// A page of a merchant's jobs. No index has this order but that of the jobs set aside: the table is small, and an
    /// index more would be written by every job for the sake of a page that a person asks for.
    pub async fn jobs(&mut self, merchant: &str, state: Option<&str>, page: &Page) -> Result<Vec<Job>, StoreError> {
        let sql = match state {
            Some("failed") => concat!(
                "SELECT ",
                job_columns!(),
                " FROM jobs WHERE merchant_id = $1 AND set_aside <> '' AND state = $2 AND id < $3
                 ORDER BY id DESC LIMIT $4"
            ),
            _ => concat!(
                "SELECT ",
                job_columns!(),
                " FROM jobs WHERE merchant_id = $1 AND ($2 IS NULL OR state = $2) AND id < $3
                 ORDER BY id DESC LIMIT $4"
            ),
        };
        let rows = self.rows(sql, args![merchant, state, page.bound(), page.limit]).await?;
        rows.iter().filter(|r| is_known(r)).map(job).collect()
    }

    /// Depth of the queue by kind and state, live jobs only.
    pub async fn queue_depth(&mut self) -> Result<Vec<QueueDepth>, StoreError> {
        let rows = self
            .rows(
                "SELECT kind, state, COUNT(*) AS jobs, MIN(run_at) AS oldest, COUNT(last_error) AS put_off,
                     MIN(CASE WHEN last_error IS NOT NULL THEN created_at END) AS put_off_since
                 FROM jobs WHERE set_aside = '' GROUP BY kind, state ORDER BY kind, state",
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
                    put_off: r.int("put_off")?,
                    put_off_since: r.maybe_int("put_off_since")?,
                })
            })
            .collect()
    }

    /// When each lane has work next: a waiting job is due, or the lease of a running one ends.
    pub async fn next_due(&mut self) -> Result<NextDue, StoreError> {
        let sql = concat!(
            "SELECT (SELECT run_at FROM jobs WHERE ",
            in_lane!(telling),
            " ORDER BY run_at LIMIT 1) AS telling, (SELECT run_at FROM jobs WHERE ",
            in_lane!(rest),
            " ORDER BY run_at LIMIT 1) AS rest"
        );
        Ok(match self.row(sql, &[]).await? {
            Some(r) => NextDue { telling: r.maybe_int("telling")?, rest: r.maybe_int("rest")? },
            None => NextDue::default(),
        })
    }
}

impl NextDue {
    /// The lane with the earlier work, and when.
    pub fn earlier(self) -> Option<(Lane, i64)> {
        let telling = self.telling.map(|at| (Lane::Telling, at));
        let rest = self.rest.map(|at| (Lane::Rest, at));
        [rest, telling].into_iter().flatten().min_by_key(|(_, at)| *at)
    }
}

fn ids(rows: Vec<Row>) -> Result<HashSet<String>, StoreError> {
    rows.iter().map(|r| r.text("id")).collect()
}

/// False of the job of a kind that came with a newer program (F49).
fn is_known(r: &Row) -> bool {
    r.text("kind").is_ok_and(|kind| kind.parse::<JobKind>().is_ok())
}

fn job(r: &Row) -> Result<Job, StoreError> {
    Ok(Job {
        merchant_id: r.text("merchant_id")?,
        id: r.text("id")?,
        kind: r.word("kind")?,
        subject: r.text("subject")?,
        state: r.text("state")?,
        run_at: r.int("run_at")?,
        due_at: r.maybe_int("due_at")?,
        attempts: r.int("attempts")?,
        crashes: r.int("crashes")?,
        fence: r.int("fence")?,
        last_error: r.maybe_text("last_error")?,
        created_at: r.int("created_at")?,
    })
}
