//! Schema changes: numbered, additive, all in one transaction, one text for both engines.
//!
//! What only one engine understands stands after a line `--- postgres` or `--- sqlite`, up to a line `--- both`.
//! `{blob}` is the engine's type for bytes, `{generated}` how it keeps a column that is made from others, `{time:column}` an instant for people, `{next_month:kind}` the first id of
//! that kind in the month after the one in which the change is made.

use sqlx::AssertSqlSafe;

use super::dialect::{Engine, Store, StoreError, args};
use super::rows::Row;
use crate::ids::first_of;
use crate::months::month_start;

/// All migrations in order. Add, move, later drop: an older program must go on working beside a newer one (F49).
const MIGRATIONS: &[(i64, &str)] = &[
    (1, include_str!("migrations/0001_main_path.sql")),
    (2, include_str!("migrations/0002_growth.sql")),
    (3, include_str!("migrations/0003_jobs.sql")),
    (4, include_str!("migrations/0004_hot_rows.sql")),
    (5, include_str!("migrations/0005_bodies.sql")),
    (6, include_str!("migrations/0006_case_versions.sql")),
    (7, include_str!("migrations/0007_fewer_keys.sql")),
    (8, include_str!("migrations/0008_glances.sql")),
    (9, include_str!("migrations/0009_room.sql")),
];

impl Store {
    /// Brings the schema up to this program's version, as of `now` (microseconds). Safe to run from several processes
    /// at once.
    ///
    /// # Errors
    /// A migration failed; nothing of it stays.
    pub async fn migrate(&self, now: i64) -> Result<(), StoreError> {
        self.migrate_up_to(i64::MAX, now).await
    }

    /// Like [`Store::migrate`], but not beyond `last`: the schema of an older program, for tests of upgrades.
    #[doc(hidden)]
    pub async fn migrate_up_to(&self, last: i64, now: i64) -> Result<(), StoreError> {
        match &self.engine {
            Engine::Sqlite { writer, .. } => {
                let mut tx = writer.take().await?;
                tx.begin().await?;
                tx.run("CREATE TABLE IF NOT EXISTS schema_versions (version BIGINT PRIMARY KEY)", &[]).await?;
                let done = tx.rows("SELECT MAX(version) FROM schema_versions", &[], 1).await?;
                let done = done.first().map_or(Ok(0), Row::first_int)?;
                warn_of_newer(done);
                for (version, text) in MIGRATIONS.iter().filter(|(v, _)| *v > done && *v <= last) {
                    tx.run_text(&for_sqlite(text, now))?;
                    tx.run("INSERT INTO schema_versions (version) VALUES ($1)", args![*version]).await?;
                }
                tx.commit()?;
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
                warn_of_newer(done);
                for (version, text) in MIGRATIONS.iter().filter(|(v, _)| *v > done && *v <= last) {
                    sqlx::raw_sql(AssertSqlSafe(for_postgres(text, now))).execute(&mut *tx).await?;
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

/// A newer program was here, and this one may run beside it for the time of an upgrade (F49).
fn warn_of_newer(done: i64) {
    let known = MIGRATIONS.last().map_or(0, |(version, _)| *version);
    if done > known {
        tracing::warn!(schema = done, known, "The schema is of a newer program than this one");
    }
}

fn for_sqlite(text: &str, now: i64) -> String {
    let text = section(text, "sqlite").replace("{blob}", "BLOB").replace("{generated}", "VIRTUAL");
    fill(
        &fill(&text, "time", |c| format!("strftime('%Y-%m-%dT%H:%M:%SZ', {c} / 1000000, 'unixepoch')")),
        "next_month",
        |k| first_of(k, month_start(now, 1)),
    )
}

fn for_postgres(text: &str, now: i64) -> String {
    let text = section(text, "postgres").replace("{blob}", "BYTEA").replace("{generated}", "STORED");
    fill(&fill(&text, "time", |c| format!("to_timestamp({c} / 1000000.0)")), "next_month", |k| {
        first_of(k, month_start(now, 1))
    })
}

/// The lines for both engines and those for `engine`.
fn section(text: &str, engine: &str) -> String {
    let mut wanted = true;
    let mut out = String::with_capacity(text.len());
    for line in text.lines() {
        match line.strip_prefix("--- ") {
            Some(name) => wanted = name == engine || name == "both",
            None if wanted => out.extend([line, "\n"]),
            None => {}
        }
    }
    out
}

/// Replaces `{name:argument}`.
fn fill(text: &str, name: &str, spell: impl Fn(&str) -> String) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(&format!("{{{name}:")) {
        let (argument, after) = after.split_once('}').unwrap_or((after, ""));
        out.push_str(before);
        out.push_str(&spell(argument));
        rest = after;
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_engine_is_given_its_own_lines() {
        let text = "a {blob}\n--- postgres\nb\n--- sqlite\nc {time:at}\n--- both\nd '{next_month:dlv}'\n";
        assert_eq!(for_postgres(text, 0), "a BYTEA\nb\nd 'dlv_0002FTA9000000000000000000'\n");
        assert!(for_sqlite(text, 0).contains("c strftime(") && !for_sqlite(text, 0).contains('b'));
    }
}
