//! The months of `deliveries` on PostgreSQL: made ahead of time, dropped when they are old. SQLite has none of this.
//!
//! A partition holds the ids of one month; ids begin with their time. The first one holds everything before the month
//! in which the table was divided, the default one whatever has no month: its rows move when their month is made.
//!
//! A change of the table needs its lock, and while it waits for somebody who reads (a dump does so for hours) everybody
//! who comes later waits behind it. So it waits for moments only, with pauses between, and then leaves it to the next turn.

use std::sync::Arc;
use std::time::Duration;

use backon::{ConstantBuilder, Retryable};
use sqlx::{AssertSqlSafe, Row as _};

use super::connections::{Connections, Held};
use super::dialect::{Engine, Store, StoreError};
use crate::ids::first_of;
use crate::months::{month_name, month_start};

/// Months that are there before they begin: a hub whose housekeeping rests for so long still finds each one.
const MONTHS_AHEAD: i32 = 3;

const COLUMNS: &str =
    "merchant_id, id, account_id, provider, verdict, headers, query, body, body_sha256, repeats, received_at, last_at";

/// So often a change of the table is tried; between two tries whoever waited behind it goes on.
const TRIES: usize = 5;

/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(400);

/// A month of the table: rows from one id up to, but not including, another.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Part {
    name: String,
    /// `None`: everything before `to`.
    from: Option<String>,
    to: String,
}

impl Part {
    fn holds(&self, id: &str) -> bool {
        self.from.as_deref().is_none_or(|from| from <= id) && id < self.to.as_str()
    }
}

impl Store {
    /// Makes what is missing of this month and the next three; answers the names of what was made. Safe to run from
    /// several processes at once.
    ///
    /// # Errors
    /// The database, or somebody holds the table's lock.
    pub async fn make_partitions(&self, now: i64) -> Result<Vec<String>, StoreError> {
        let Engine::Postgres(link) = &self.engine else { return Ok(vec![]) };
        let pool = &link.shared;
        let mut made = vec![];
        let there = parts(&mut *pool.take().await?).await?;
        for later in 0..=MONTHS_AHEAD {
            let start = month_start(now, later);
            if !there.iter().any(|p| p.holds(&first_of("dlv", start))) {
                made.extend(patiently(|| make_month(pool, start)).await?);
            }
        }
        Ok(made)
    }

    /// Drops the partitions that hold nothing younger than `before` (microseconds); answers their names.
    ///
    /// # Errors
    /// The database, or somebody holds the table's lock.
    pub async fn drop_partitions(&self, before: i64) -> Result<Vec<String>, StoreError> {
        let Engine::Postgres(link) = &self.engine else { return Ok(vec![]) };
        let pool = &link.shared;
        let bound = first_of("dlv", before);
        let old: Vec<Part> = parts(&mut *pool.take().await?).await?.into_iter().filter(|p| p.to <= bound).collect();
        for part in &old {
            // The table's lock is held for a change of the catalogue only; the files go afterwards.
            patiently(|| change_alone(pool, format!("ALTER TABLE deliveries DETACH PARTITION {}", part.name))).await?;
        }
        for name in detached(pool).await? {
            patiently(|| change_alone(pool, format!("DROP TABLE IF EXISTS {name}"))).await?;
        }
        Ok(old.into_iter().map(|p| p.name).collect())
    }
}

/// Makes one month, with the rows of the default partition that belong to it.
async fn make_month(pool: &Arc<Connections>, start: i64) -> Result<Option<String>, StoreError> {
    let mut tx = pool.take().await?;
    tx.begin("BEGIN").await?;
    // The same number as for migrations: whoever changes the schema is alone. Nobody else waits for this.
    sqlx::raw_sql("SET LOCAL lock_timeout = '3s'; SELECT pg_advisory_xact_lock(7126710701)").execute(&mut *tx).await?;
    wait_briefly(&mut tx).await?;
    let (from, to) = (first_of("dlv", start), first_of("dlv", month_start(start, 1)));
    if parts(&mut tx).await?.iter().any(|p| p.holds(&from)) {
        return Ok(None);
    }
    let name = format!("deliveries_{}", month_name(start));
    change(&mut tx, format!("CREATE TABLE {name} (LIKE deliveries INCLUDING COMPRESSION)")).await?;
    // Locked first: a row that came between the move and the attachment would make both fail.
    change(&mut tx, "LOCK TABLE deliveries_default IN ACCESS EXCLUSIVE MODE".into()).await?;
    let move_rows = format!(
        "WITH moved AS (DELETE FROM deliveries_default WHERE id >= '{from}' AND id < '{to}' RETURNING {COLUMNS})
         INSERT INTO {name} ({COLUMNS}) SELECT {COLUMNS} FROM moved"
    );
    change(&mut tx, move_rows).await?;
    change(&mut tx, format!("ALTER TABLE deliveries ATTACH PARTITION {name} FOR VALUES FROM ('{from}') TO ('{to}')"))
        .await?;
    tx.commit().await?;
    Ok(Some(name))
}

/// Tries again what met a lock, each time in a transaction of its own.
async fn patiently<T, F: Future<Output = Result<T, StoreError>>>(try_it: impl FnMut() -> F) -> Result<T, StoreError> {
    let pauses = ConstantBuilder::default().with_delay(PAUSE).with_max_times(TRIES - 1);
    try_it.retry(pauses).when(StoreError::is_passing).await
}

/// One change in a transaction of its own.
async fn change_alone(pool: &Arc<Connections>, text: String) -> Result<(), StoreError> {
    let mut tx = pool.take().await?;
    tx.begin("BEGIN").await?;
    wait_briefly(&mut tx).await?;
    change(&mut tx, text).await?;
    Ok(tx.commit().await?)
}

/// Has the transaction give up soon instead of having everybody wait behind it.
async fn wait_briefly(tx: &mut Held) -> Result<(), StoreError> {
    sqlx::raw_sql("SET LOCAL lock_timeout = '100ms'; SET LOCAL statement_timeout = 0").execute(&mut **tx).await?;
    Ok(())
}

/// Names and bounds in these texts are made here, from the clock; nothing comes from outside.
async fn change(tx: &mut Held, text: String) -> Result<(), StoreError> {
    sqlx::raw_sql(AssertSqlSafe(text)).execute(&mut **tx).await?;
    Ok(())
}

/// The partitions with bounds; the default one has none.
async fn parts(c: &mut sqlx::PgConnection) -> Result<Vec<Part>, StoreError> {
    // Plain texts, which are not prepared: they hold behind a pooler too.
    let rows = sqlx::raw_sql(
        "SELECT c.relname::text AS name, pg_get_expr(c.relpartbound, c.oid) AS bounds
         FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid WHERE i.inhparent = to_regclass('deliveries')",
    )
    .fetch_all(c)
    .await?;
    let mut found = vec![];
    for row in rows {
        found.extend(read_bounds(row.try_get("name")?, row.try_get("bounds")?));
    }
    Ok(found)
}

/// `FOR VALUES FROM ('dlv_…') TO ('dlv_…')`, as the catalogue writes it.
fn read_bounds(name: String, bounds: &str) -> Option<Part> {
    let (from, to) = bounds.strip_prefix("FOR VALUES FROM (")?.strip_suffix(')')?.split_once(") TO (")?;
    let text = |bound: &str| bound.strip_prefix('\'')?.strip_suffix('\'').map(str::to_owned);
    Some(Part { name, from: text(from), to: text(to)? })
}

/// Months that a dropping hub detached and did not live to drop.
async fn detached(pool: &Arc<Connections>) -> Result<Vec<String>, StoreError> {
    let rows = sqlx::raw_sql(
        "SELECT c.relname::text AS name FROM pg_class c
         WHERE c.relkind = 'r' AND NOT c.relispartition AND c.relname ~ '^deliveries_([0-9]{4}_[0-9]{2}|first)$'
         AND c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = to_regclass('deliveries'))",
    )
    .fetch_all(&mut *pool.take().await?)
    .await?;
    Ok(rows.iter().map(|row| row.try_get("name")).collect::<Result<_, _>>()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_read_as_the_catalogue_writes_them() {
        let read = |bounds| read_bounds("p".into(), bounds);
        let first = read("FOR VALUES FROM (MINVALUE) TO ('dlv_01B')").unwrap();
        assert_eq!((first.from.as_deref(), first.to.as_str()), (None, "dlv_01B"));
        assert!(first.holds("dlv_01A") && !first.holds("dlv_01B"));
        let month = read("FOR VALUES FROM ('dlv_01B') TO ('dlv_01C')").unwrap();
        assert!(
            month.holds("dlv_01B") && month.holds("dlv_01BZ") && !month.holds("dlv_01A") && !month.holds("dlv_01C")
        );
        assert_eq!(read("DEFAULT"), None);
    }
}
