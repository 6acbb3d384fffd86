//! On SQLite one connection writes. A transaction travels to its thread as one string of statements, because each
//! crossing of threads costs as much as a statement.

use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use sqlx::{AssertSqlSafe, ConnectOptions, Row};
use tokio::sync::Mutex;

use super::group::BATCH;
use super::{Listed, NewPayment, Webhook, now_us};

#[derive(Clone)]
pub struct Sqlite {
    writer: Arc<Mutex<Writer>>,
    readers: SqlitePool,
}

struct Writer {
    connection: SqliteConnection,
    /// The last row of `events`: what is above it is fresh, because nobody else writes.
    last_event: i64,
    /// The statement for each number of webhooks in a batch.
    statements: Vec<Arc<str>>,
}

const MAKE: &str = "BEGIN IMMEDIATE;
INSERT INTO idempotency_keys (merchant_id, idempotency_key, fingerprint, status, body, created_at)
    SELECT merchant_id, ?2, ?3, 201, ?4, ?5 FROM api_keys WHERE hash = ?1 AND revoked_at IS NULL ON CONFLICT DO NOTHING;
INSERT INTO payments (id, merchant_id, payer_id, reference, amount, currency, description, token, status, version, created_at, updated_at)
    SELECT 'pay_' || ?6, merchant_id, ?7, ?6, ?8, ?9, ?10, ?6, 'started', 1, ?5, ?5 FROM api_keys WHERE hash = ?1 AND changes() = 1;
COMMIT";

const LIST: &str =
    "SELECT id, status, amount, currency, description, reference, token, created_at, completed_at FROM payments
WHERE payer_id = ? ORDER BY id DESC LIMIT 20";

/// Parameters: 1 the last event, 2 the time, then five for each webhook.
fn take(webhooks: usize) -> String {
    let row = |n: usize| {
        let p = 3 + 5 * n;
        format!("('stripe', ?{p}, 'evt_' || ?{}, ?{}, ?{}, ?{}, ?2)", p + 1, p + 2, p + 3, p + 4)
    };
    let rows: Vec<String> = (0..webhooks).map(row).collect();
    let moving = "FROM events e CROSS JOIN payments p ON p.reference = e.reference AND p.amount = e.amount
        WHERE e.rowid > ?1 AND p.status = 'started'";
    format!(
        "BEGIN IMMEDIATE;
         INSERT INTO events (provider, event_key, id, reference, amount, body, received_at) VALUES {}
             ON CONFLICT (provider, event_key) DO NOTHING;
         INSERT INTO transitions (id, payment_id, from_status, to_status, event_id, at)
             SELECT 'trn_' || e.id, p.id, 'started', 'completed', e.id, ?2 {moving};
         INSERT INTO jobs (id, kind, subject, state, run_at) SELECT 'job_' || e.id, 'issue_invoice', p.id, 'ready', ?2 {moving};
         UPDATE payments SET status = 'completed', version = version + 1, updated_at = ?2, completed_at = ?2
             WHERE status = 'started' AND (reference, amount) IN (SELECT reference, amount FROM events WHERE rowid > ?1);
         COMMIT;
         SELECT COALESCE(MAX(rowid), 0) FROM events",
        rows.join(", ")
    )
}

impl Sqlite {
    pub async fn open(url: &str) -> Sqlite {
        let options = SqliteConnectOptions::from_str(url).expect("an address").disable_statement_logging();
        let options = options.journal_mode(SqliteJournalMode::Wal).synchronous(SqliteSynchronous::Full);
        let options = options.busy_timeout(Duration::from_secs(10)).statement_cache_capacity(2 * BATCH);
        let mut connection = options.connect().await.expect("SQLite opens");
        let last = sqlx::query("SELECT COALESCE(MAX(rowid), 0) FROM events").fetch_one(&mut connection).await;
        let last_event = last.and_then(|row| row.try_get(0)).expect("a number");
        let readers = SqlitePoolOptions::new().max_connections(16).test_before_acquire(false);
        let readers = readers.connect_with(options.read_only(true)).await.expect("readers");
        let statements = (0..=BATCH).map(|n| take(n).into()).collect();
        Sqlite { writer: Arc::new(Mutex::new(Writer { connection, last_event, statements })), readers }
    }

    pub async fn take_one(&self, webhook: Webhook) -> Result<(), sqlx::Error> {
        self.take_many(vec![webhook]).await
    }

    pub async fn take_many(&self, webhooks: Vec<Webhook>) -> Result<(), sqlx::Error> {
        let mut writer = self.writer.lock().await;
        let Writer { connection, last_event, statements } = &mut *writer;
        let sql = AssertSqlSafe(Arc::clone(&statements[webhooks.len()]));
        let mut query: sqlx::query::Query<'_, sqlx::Sqlite, SqliteArguments> =
            sqlx::query(sql).bind(*last_event).bind(now_us());
        for w in webhooks {
            query = query.bind(w.key).bind(w.id).bind(w.reference).bind(w.amount).bind(w.body.to_vec());
        }
        match query.fetch_one(&mut *connection).await {
            Ok(row) => {
                *last_event = row.try_get(0)?;
                Ok(())
            }
            Err(error) => {
                let _ = sqlx::query("ROLLBACK").execute(&mut *connection).await;
                Err(error)
            }
        }
    }

    pub async fn make(&self, new: &NewPayment) -> Result<u64, sqlx::Error> {
        let mut writer = self.writer.lock().await;
        let query = sqlx::query(MAKE).bind(&new.key_hash).bind(&new.idempotency_key).bind(&new.fingerprint);
        let query = query.bind(&new.answer).bind(now_us()).bind(&new.id).bind(&new.payer).bind(new.amount);
        let done = query.bind(&new.currency).bind(&new.description).execute(&mut writer.connection).await;
        match done {
            // Two rows: the key and the payment.
            Ok(done) => Ok(done.rows_affected().min(2) / 2),
            Err(error) => {
                let _ = sqlx::query("ROLLBACK").execute(&mut writer.connection).await;
                Err(error)
            }
        }
    }

    pub async fn list(&self, payer: &str) -> Result<Vec<Listed>, sqlx::Error> {
        sqlx::query_as(LIST).bind(payer).fetch_all(&self.readers).await
    }
}
