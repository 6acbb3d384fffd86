//! On PostgreSQL every transaction is one statement: one round trip, one flush.

use std::str::FromStr;

use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions};

use super::{Listed, NewPayment, Webhook, now_us};

#[derive(Clone)]
pub struct Postgres(PgPool);

/// One webhook or many: the same statement over arrays.
const TAKE: &str = "
WITH incoming AS (
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[], $4::bigint[], $5::bytea[]) AS i(event_key, id, reference, amount, body)
), fresh AS (
    INSERT INTO events (provider, event_key, id, reference, amount, body, received_at)
    SELECT 'stripe', event_key, 'evt_' || id, reference, amount, body, $6 FROM incoming
    ON CONFLICT (provider, event_key) DO NOTHING RETURNING id, reference, amount
), moved AS (
    UPDATE payments p SET status = 'completed', version = version + 1, updated_at = $6, completed_at = $6
    FROM fresh f WHERE p.reference = f.reference AND p.amount = f.amount AND p.status = 'started'
    RETURNING p.id, f.id AS event_id
), moves AS (
    INSERT INTO transitions (id, payment_id, from_status, to_status, event_id, at)
    SELECT 'trn_' || event_id, id, 'started', 'completed', event_id, $6 FROM moved
)
INSERT INTO jobs (id, kind, subject, state, run_at) SELECT 'job_' || event_id, 'issue_invoice', id, 'ready', $6 FROM moved";

const TAKE_ONE: &str = "
WITH fresh AS (
    INSERT INTO events (provider, event_key, id, reference, amount, body, received_at)
    VALUES ('stripe', $1, 'evt_' || $2, $3, $4, $5, $6)
    ON CONFLICT (provider, event_key) DO NOTHING RETURNING id
), moved AS (
    UPDATE payments p SET status = 'completed', version = version + 1, updated_at = $6, completed_at = $6
    FROM fresh f WHERE p.reference = $3 AND p.amount = $4 AND p.status = 'started'
    RETURNING p.id, f.id AS event_id
), moves AS (
    INSERT INTO transitions (id, payment_id, from_status, to_status, event_id, at)
    SELECT 'trn_' || event_id, id, 'started', 'completed', event_id, $6 FROM moved
)
INSERT INTO jobs (id, kind, subject, state, run_at) SELECT 'job_' || event_id, 'issue_invoice', id, 'ready', $6 FROM moved";

const MAKE: &str = "
WITH caller AS (
    SELECT merchant_id FROM api_keys WHERE hash = $1 AND revoked_at IS NULL
), claimed AS (
    INSERT INTO idempotency_keys (merchant_id, idempotency_key, fingerprint, status, body, created_at)
    SELECT merchant_id, $2, $3, 201, $4, $5 FROM caller ON CONFLICT DO NOTHING RETURNING merchant_id
)
INSERT INTO payments (id, merchant_id, payer_id, reference, amount, currency, description, token, status, version, created_at, updated_at)
SELECT 'pay_' || $6, merchant_id, $7, $6, $8, $9, $10, $6, 'started', 1, $5, $5 FROM claimed";

const LIST: &str =
    "SELECT id, status, amount, currency, description, reference, token, created_at, completed_at FROM payments
WHERE payer_id = $1 ORDER BY id DESC LIMIT 20";

impl Postgres {
    pub async fn open(url: &str) -> Postgres {
        let options = PgConnectOptions::from_str(url).expect("an address").disable_statement_logging();
        let pool = PgPoolOptions::new().max_connections(16).test_before_acquire(false).connect_with(options).await;
        Postgres(pool.expect("PostgreSQL answers"))
    }

    pub async fn take_one(&self, w: Webhook) -> Result<(), sqlx::Error> {
        let query = sqlx::query(TAKE_ONE).bind(w.key).bind(w.id).bind(w.reference).bind(w.amount).bind(&w.body[..]);
        query.bind(now_us()).execute(&self.0).await.map(|_| ())
    }

    pub async fn take_many(&self, webhooks: &[Webhook]) -> Result<(), sqlx::Error> {
        let texts = |of: fn(&Webhook) -> &str| webhooks.iter().map(of).collect::<Vec<&str>>();
        let amounts: Vec<i64> = webhooks.iter().map(|w| w.amount).collect();
        let bodies: Vec<&[u8]> = webhooks.iter().map(|w| &w.body[..]).collect();
        let query = sqlx::query(TAKE).bind(texts(|w| &w.key)).bind(texts(|w| &w.id)).bind(texts(|w| &w.reference));
        query.bind(amounts).bind(bodies).bind(now_us()).execute(&self.0).await.map(|_| ())
    }

    pub async fn make(&self, new: &NewPayment) -> Result<u64, sqlx::Error> {
        let query = sqlx::query(MAKE).bind(&new.key_hash).bind(&new.idempotency_key).bind(&new.fingerprint);
        let query = query.bind(&new.answer).bind(now_us()).bind(&new.id).bind(&new.payer).bind(new.amount);
        let done = query.bind(&new.currency).bind(&new.description).execute(&self.0).await?;
        Ok(done.rows_affected())
    }

    pub async fn list(&self, payer: &str) -> Result<Vec<Listed>, sqlx::Error> {
        sqlx::query_as(LIST).bind(payer).fetch_all(&self.0).await
    }
}
