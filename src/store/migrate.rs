//! Schema changes: numbered, additive, all in one transaction, one text for both engines.
//!
//! What only one engine understands stands after a line `--- postgres` or `--- sqlite`, up to a line `--- both`.
//! `{text}` is the engine's type for texts that are compared by their bytes, `{blob}` its type for bytes, `{generated}` how
//! it keeps a column that is made from others, `{time:column}` an instant for people, `{next_month:kind}` the first id of
//! that kind in the month after the one in which the change is made.

use sqlx::{AssertSqlSafe, PgConnection, Row as _};

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
    (10, include_str!("migrations/0010_numbers.sql")),
    (11, include_str!("migrations/0011_modes.sql")),
    (12, include_str!("migrations/0012_invoicing_turns.sql")),
    (13, include_str!("migrations/0013_disputes.sql")),
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
                // A large table takes its time.
                sqlx::raw_sql("SET LOCAL statement_timeout = 0").execute(&mut *tx).await?;
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
                check_encoding(&mut tx).await?;
                let kind = text_type(&mut tx).await?;
                for (version, text) in MIGRATIONS.iter().filter(|(v, _)| *v > done && *v <= last) {
                    sqlx::raw_sql(AssertSqlSafe(for_postgres(text, kind, now))).execute(&mut *tx).await?;
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

/// A payer's name must have a place. `SQL_ASCII` keeps any bytes, so also ours.
///
/// # Errors
/// The database, or its encoding knows a part of the letters only.
async fn check_encoding(c: &mut PgConnection) -> Result<(), StoreError> {
    let encoding: String = sqlx::raw_sql("SHOW server_encoding").fetch_one(c).await?.try_get(0)?;
    if matches!(encoding.as_str(), "UTF8" | "SQL_ASCII") {
        return Ok(());
    }
    let why = format!("the database's encoding is {encoding}, it has to be UTF8: CREATE DATABASE … ENCODING 'UTF8'");
    Err(StoreError::Schema(why))
}

/// PostgreSQL compares texts by the database's locale unless told otherwise, which costs more than all else that an index
/// does, and differs from one version of the system's library to the next. Ids and words are no language (ADR 0037).
const BY_BYTES: &str = "TEXT COLLATE \"C\"";

/// How PostgreSQL compares the texts of this schema: one way for all of them, or no index would serve a join of two.
///
/// # Errors
/// The database.
async fn text_type(c: &mut PgConnection) -> Result<&'static str, StoreError> {
    let first = "SELECT attcollation::regcollation::text FROM pg_attribute
                 WHERE attrelid = to_regclass('merchants') AND attname = 'id'";
    let first: Option<String> = sqlx::raw_sql(first).fetch_optional(c).await?.map(|row| row.try_get(0)).transpose()?;
    // A schema that was begun otherwise goes on so.
    Ok(if first.as_deref() == Some("\"default\"") { "TEXT" } else { BY_BYTES })
}

/// A newer program was here, and this one may run beside it for the time of an upgrade (F49).
fn warn_of_newer(done: i64) {
    let known = MIGRATIONS.last().map_or(0, |(version, _)| *version);
    if done > known {
        tracing::warn!(schema = done, known, "The schema is of a newer program than this one");
    }
}

fn for_sqlite(text: &str, now: i64) -> String {
    let text = section(text, "sqlite").replace("{text}", "TEXT").replace("{blob}", "BLOB");
    let text = text.replace("{generated}", "VIRTUAL");
    fill(
        &fill(&text, "time", |c| format!("strftime('%Y-%m-%dT%H:%M:%SZ', {c} / 1000000, 'unixepoch')")),
        "next_month",
        |k| first_of(k, month_start(now, 1)),
    )
}

fn for_postgres(text: &str, text_type: &str, now: i64) -> String {
    let text = section(text, "postgres").replace("{text}", text_type).replace("{blob}", "BYTEA");
    let text = text.replace("{generated}", "STORED");
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
        let text = "a {blob}\n--- postgres\nb {text}\n--- sqlite\nc {time:at}\n--- both\nd '{next_month:dlv}'\n";
        let on_postgres = for_postgres(text, BY_BYTES, 0);
        assert_eq!(on_postgres, "a BYTEA\nb TEXT COLLATE \"C\"\nd 'dlv_0002FTA9000000000000000000'\n");
        assert!(for_sqlite(text, 0).contains("c strftime(") && !for_sqlite(text, 0).contains('b'));
        assert_eq!(for_sqlite("e {text}\n", 0), "e TEXT\n");
    }
}
