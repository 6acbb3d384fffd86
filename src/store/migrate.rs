//! Schema changes: numbered, additive, each in one transaction, the same text for both engines.

use sqlx::AssertSqlSafe;

use super::dialect::{Engine, Store, StoreError};

/// All migrations in order. Add, move, later drop: an older program must go on working beside a newer one (F49).
const MIGRATIONS: &[(i64, &str)] = &[(1, include_str!("migrations/0001_main_path.sql"))];

impl Store {
    /// Brings the schema up to this program's version. Safe to run from several processes at once.
    ///
    /// # Errors
    /// A migration failed; nothing of it stays.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        match &self.engine {
            Engine::Sqlite { writer, .. } => {
                let mut tx = writer.begin_with("BEGIN IMMEDIATE").await?;
                sqlx::raw_sql("CREATE TABLE IF NOT EXISTS schema_versions (version BIGINT PRIMARY KEY)")
                    .execute(&mut *tx)
                    .await?;
                let done: i64 = sqlx::query_scalar("SELECT COALESCE(MAX(version), 0) FROM schema_versions")
                    .fetch_one(&mut *tx)
                    .await?;
                for (version, text) in MIGRATIONS.iter().filter(|(v, _)| *v > done) {
                    sqlx::raw_sql(AssertSqlSafe(for_sqlite(text))).execute(&mut *tx).await?;
                    sqlx::query("INSERT INTO schema_versions (version) VALUES ($1)")
                        .bind(version)
                        .execute(&mut *tx)
                        .await?;
                }
                tx.commit().await?;
            }
            Engine::Postgres(link) => {
                let mut tx = link.begin(&link.shared, "BEGIN").await?;
                // Any number known to this program only: two processes that start together take turns.
                sqlx::raw_sql("SELECT pg_advisory_xact_lock(7126710701)").execute(&mut *tx).await?;
                sqlx::raw_sql("CREATE TABLE IF NOT EXISTS schema_versions (version BIGINT PRIMARY KEY)")
                    .execute(&mut *tx)
                    .await?;
                let done: i64 = sqlx::query_scalar("SELECT COALESCE(MAX(version), 0) FROM schema_versions")
                    .persistent(link.keeps_statements)
                    .fetch_one(&mut *tx)
                    .await?;
                for (version, text) in MIGRATIONS.iter().filter(|(v, _)| *v > done) {
                    sqlx::raw_sql(AssertSqlSafe(for_postgres(text))).execute(&mut *tx).await?;
                    sqlx::query("INSERT INTO schema_versions (version) VALUES ($1)")
                        .bind(version)
                        .persistent(link.keeps_statements)
                        .execute(&mut *tx)
                        .await?;
                }
                tx.commit().await?;
            }
        }
        Ok(())
    }
}

fn for_sqlite(text: &str) -> String {
    readable_times(&text.replace("{blob}", "BLOB"), |c| {
        format!("strftime('%Y-%m-%dT%H:%M:%SZ', {c} / 1000000, 'unixepoch')")
    })
}

fn for_postgres(text: &str) -> String {
    readable_times(&text.replace("{blob}", "BYTEA"), |c| format!("to_timestamp({c} / 1000000.0)"))
}

/// Replaces `{time:column}`.
fn readable_times(text: &str, spell: impl Fn(&str) -> String) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{time:") {
        let (column, after) = after.split_once('}').unwrap_or((after, ""));
        out.push_str(before);
        out.push_str(&spell(column));
        rest = after;
    }
    out.push_str(rest);
    out
}
