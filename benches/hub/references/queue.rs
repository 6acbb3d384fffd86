//! The least job table that survives a crash: a claim is one statement and one commit, the end of a batch another. A job
//! that runs is due again when its lease is over, so there is no state to keep.
//!
//! It takes what the hub's table takes too: room in the pages, an early vacuum, and on PostgreSQL rows by their places.

use std::str::FromStr;
use std::time::Duration;

use serde_json::json;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};
use sqlx::sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous};
use sqlx::{ColumnIndex, ConnectOptions, Decode, Row, Type};

use super::{now_us, numbered};
use crate::cluster::Db;
use crate::seed::Batch;

/// Most jobs in one claim and in one commit of their ends.
pub const BATCH: usize = 256;
/// A lease that does not run out while we measure, microseconds.
const LEASE_US: i64 = 600_000_000;

/// The table, for either engine.
#[derive(Clone)]
pub enum Queue {
    /// One connection writes.
    Sqlite(SqlitePool),
    /// One for each worker.
    Postgres(PgPool),
}

/// A job that was claimed.
pub struct Job {
    /// Its name.
    pub id: String,
    /// What it is about; of a message, the number of its endpoint.
    pub subject: String,
    /// What is sent, where something is.
    pub body: String,
}

impl<'r, R: Row> sqlx::FromRow<'r, R> for Job
where
    usize: ColumnIndex<R>,
    String: Decode<'r, R::Database> + Type<R::Database>,
{
    fn from_row(row: &'r R) -> Result<Self, sqlx::Error> {
        Ok(Job { id: row.try_get(0)?, subject: row.try_get(1)?, body: row.try_get(2)? })
    }
}

const TABLE: &str = "
CREATE TABLE queue (id TEXT PRIMARY KEY, kind TEXT NOT NULL, subject TEXT NOT NULL, body TEXT NOT NULL, run_at BIGINT NOT NULL,
    attempts BIGINT NOT NULL){with};
CREATE INDEX queue_due ON queue (run_at);
";
const WITH: &str = " WITH (fillfactor = 70, autovacuum_vacuum_scale_factor = 0.01, autovacuum_vacuum_cost_delay = 0)";

const CLAIM_SQLITE: &str = "UPDATE queue SET run_at = ?2, attempts = attempts + 1
WHERE rowid IN (SELECT rowid FROM queue WHERE run_at <= ?1 ORDER BY run_at LIMIT ?3)
RETURNING id, subject, body, kind, attempts";

const CLAIM_POSTGRES: &str = "UPDATE queue SET run_at = $2, attempts = attempts + 1
WHERE ctid = ANY (ARRAY(SELECT ctid FROM queue WHERE run_at <= $1 ORDER BY run_at LIMIT $3 FOR UPDATE SKIP LOCKED))
RETURNING id, subject, body, kind, attempts";

/// Makes the table.
pub async fn make_table(db: &mut Db) {
    db.run(&TABLE.replace("{with}", db.pick("", WITH))).await;
}

/// Fills it: a job for each number of the batch, about so many subjects in turn.
pub async fn seed(db: &mut Db, batch: &Batch, subjects: usize, body: &str) {
    let (series, name) = numbered(db, batch);
    let body = body.replace('\'', "''");
    let sql = format!(
        "{series} INSERT INTO queue (id, kind, subject, body, run_at, attempts)
         SELECT 'job_' || {name}, 'tell_client', CAST(n % {subjects} AS TEXT), '{body}', n, 0 FROM s"
    );
    db.run(&sql).await;
}

impl Queue {
    /// Opens it.
    pub async fn open(url: &str) -> Queue {
        if url.starts_with("postgres") {
            let options = PgConnectOptions::from_str(url).expect("an address").disable_statement_logging();
            let pool = PgPoolOptions::new().max_connections(16).test_before_acquire(false).connect_with(options).await;
            return Queue::Postgres(pool.expect("PostgreSQL answers"));
        }
        let options = SqliteConnectOptions::from_str(url).expect("an address").disable_statement_logging();
        let options = options.journal_mode(SqliteJournalMode::Wal).synchronous(SqliteSynchronous::Full);
        let options = options.busy_timeout(Duration::from_secs(10)).row_buffer_size(BATCH);
        let pool = SqlitePoolOptions::new().max_connections(1).test_before_acquire(false).connect_with(options).await;
        Queue::Sqlite(pool.expect("SQLite opens"))
    }

    /// Claims so many jobs that are due.
    pub async fn claim(&self, limit: usize) -> Result<Vec<Job>, sqlx::Error> {
        let (now, limit) = (now_us(), i64::try_from(limit).unwrap_or(1));
        match self {
            Queue::Sqlite(pool) => {
                sqlx::query_as(CLAIM_SQLITE).bind(now).bind(now + LEASE_US).bind(limit).fetch_all(pool).await
            }
            Queue::Postgres(pool) => {
                sqlx::query_as(CLAIM_POSTGRES).bind(now).bind(now + LEASE_US).bind(limit).fetch_all(pool).await
            }
        }
    }

    /// Ends jobs that are done.
    pub async fn finish(&self, jobs: &[Job]) -> Result<u64, sqlx::Error> {
        let ids: Vec<&str> = jobs.iter().map(|j| j.id.as_str()).collect();
        match self {
            Queue::Sqlite(pool) => {
                let query = sqlx::query("DELETE FROM queue WHERE id IN (SELECT value FROM json_each(?))");
                Ok(query.bind(json!(ids).to_string()).execute(pool).await?.rows_affected())
            }
            Queue::Postgres(pool) => {
                let query = sqlx::query("DELETE FROM queue WHERE id = ANY ($1)");
                Ok(query.bind(ids).execute(pool).await?.rows_affected())
            }
        }
    }
}
