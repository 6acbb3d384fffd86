//! Two engines behind one type. SQL is written once with `$1` and portable types; what differs is here.
//!
//! SQLite: one writing connection (`BEGIN IMMEDIATE`, WAL, `synchronous=FULL`) and a pool of readers.
//! PostgreSQL: one pool, READ COMMITTED with row locks.

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use sqlx::pool::PoolConnection;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions, PgRow};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteRow, SqliteSynchronous,
};
use sqlx::{ConnectOptions, Postgres, Row as _, Sqlite, Transaction};

use super::book::Book;

/// The pools of one database.
#[derive(Clone)]
pub struct Store {
    pub(super) engine: Engine,
}

#[derive(Clone)]
pub(super) enum Engine {
    Sqlite { writer: SqlitePool, readers: SqlitePool },
    Postgres(PgPool),
}

/// Why the store gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// A unique key is taken.
    #[error("a row with this key exists already")]
    Taken,
    /// Two transactions stood in each other's way; doing the same again is right.
    #[error("the transaction has to be repeated")]
    Conflict,
    /// No connection within the waiting time, no database, no space: come back later.
    #[error("the database cannot be used at the moment")]
    Unavailable(#[source] sqlx::Error),
    /// Anything else.
    #[error("the database refused")]
    Other(#[source] sqlx::Error),
    /// A stored value that we never wrote.
    #[error("unreadable row: {0}")]
    Unreadable(String),
    /// A database newer or older than this program.
    #[error("{0}")]
    Schema(String),
}

impl StoreError {
    /// True when the same call can succeed a moment later.
    pub fn is_passing(&self) -> bool {
        matches!(self, StoreError::Conflict | StoreError::Unavailable(_))
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(e: sqlx::Error) -> Self {
        let code = e.as_database_error().and_then(|d| d.code()).unwrap_or_default().into_owned();
        // PostgreSQL SQLSTATE classes; SQLite's extended result codes in decimal.
        match code.as_str() {
            "23505" | "2067" | "1555" => StoreError::Taken,
            "40001" | "40P01" | "5" | "517" | "6" | "262" => StoreError::Conflict,
            "13" | "10" | "8" | "14" | "25006" | "55P03" => StoreError::Unavailable(e),
            c if c.starts_with("08") || c.starts_with("53") || c.starts_with("57") || c.starts_with("58") => {
                StoreError::Unavailable(e)
            }
            _ => match e {
                sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::Tls(_) => {
                    StoreError::Unavailable(e)
                }
                sqlx::Error::WorkerCrashed | sqlx::Error::Protocol(_) => StoreError::Unavailable(e),
                other => StoreError::Other(other),
            },
        }
    }
}

/// Sizes of the pools.
#[derive(Debug, Clone, Copy)]
pub struct PoolSizes {
    /// Connections to PostgreSQL, or readers of SQLite.
    pub connections: u32,
    /// Longest wait for a connection, in seconds.
    pub wait_s: u64,
}

impl Default for PoolSizes {
    fn default() -> Self {
        PoolSizes { connections: 10, wait_s: 5 }
    }
}

impl Store {
    /// Opens `sqlite:path`, `sqlite::memory:` is refused (it would lose a 200), or `postgres://…`.
    ///
    /// # Errors
    /// The address is of neither kind, or the database cannot be reached.
    pub async fn open(url: &str, sizes: PoolSizes) -> Result<Store, StoreError> {
        let wait = Duration::from_secs(sizes.wait_s);
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            let options = PgConnectOptions::from_str(url)?.application_name("grosz").disable_statement_logging();
            let pool = PgPoolOptions::new()
                .max_connections(sizes.connections)
                .acquire_timeout(wait)
                .connect_with(options)
                .await?;
            return Ok(Store { engine: Engine::Postgres(pool) });
        }
        let Some(path) = url.strip_prefix("sqlite:").filter(|p| !p.contains(":memory:") && !p.is_empty()) else {
            return Err(StoreError::Schema("database_url must be sqlite:<file> or postgres://…".into()));
        };
        let path = Path::new(path.trim_start_matches("//"));
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .journal_mode(SqliteJournalMode::Wal)
            .synchronous(SqliteSynchronous::Full)
            .busy_timeout(wait)
            .foreign_keys(false)
            .statement_cache_capacity(256)
            .disable_statement_logging();
        let writer =
            SqlitePoolOptions::new().max_connections(1).acquire_timeout(wait).connect_with(options.clone()).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(sizes.connections.max(2))
            .acquire_timeout(wait)
            .connect_with(options.read_only(true).create_if_missing(false))
            .await?;
        Ok(Store { engine: Engine::Sqlite { writer, readers } })
    }

    /// Begins a transaction that may write.
    ///
    /// # Errors
    /// No connection within the waiting time.
    pub async fn begin(&self) -> Result<Tx, StoreError> {
        Ok(match &self.engine {
            Engine::Sqlite { writer, .. } => Tx::on(Conn::Sqlite(writer.begin_with("BEGIN IMMEDIATE").await?)),
            Engine::Postgres(pool) => Tx::on(Conn::Postgres(pool.begin().await?)),
        })
    }

    /// A connection for reading: each statement sees what was committed before it.
    ///
    /// # Errors
    /// No connection within the waiting time.
    pub async fn read(&self) -> Result<Tx, StoreError> {
        Ok(match &self.engine {
            Engine::Sqlite { readers, .. } => Tx::on(Conn::SqliteRead(readers.acquire().await?)),
            Engine::Postgres(pool) => Tx::on(Conn::PostgresRead(pool.acquire().await?)),
        })
    }

    /// Answers whether the database can be written to.
    ///
    /// # Errors
    /// What stands in the way.
    pub async fn probe(&self) -> Result<(), StoreError> {
        let mut tx = self.begin().await?;
        tx.run("UPDATE schema_versions SET version = version WHERE version = $1", &[Arg::Int(-1)]).await?;
        tx.commit().await
    }

    /// `sqlite` or `postgres`.
    pub fn engine_name(&self) -> &'static str {
        match self.engine {
            Engine::Sqlite { .. } => "sqlite",
            Engine::Postgres(_) => "postgres",
        }
    }

    /// Settings of the database that would make an acknowledged write less than durable, in plain words.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn durability_warnings(&self) -> Result<Vec<String>, StoreError> {
        let Engine::Postgres(pool) = &self.engine else { return Ok(vec![]) };
        let mut warnings = vec![];
        for (setting, text) in [
            ("fsync", "SELECT current_setting('fsync')"),
            ("synchronous_commit", "SELECT current_setting('synchronous_commit')"),
            ("full_page_writes", "SELECT current_setting('full_page_writes')"),
        ] {
            let value: String = sqlx::query(text).fetch_one(pool).await?.try_get(0)?;
            if value == "off" {
                warnings.push(format!("{setting} is off: an acknowledged webhook can be lost in a crash"));
            }
        }
        Ok(warnings)
    }

    /// Closes all connections after the work in flight.
    pub async fn close(&self) {
        match &self.engine {
            Engine::Sqlite { writer, readers } => {
                readers.close().await;
                writer.close().await;
            }
            Engine::Postgres(pool) => pool.close().await,
        }
    }
}

/// One transaction, or one reading connection. Dropping it without [`Tx::commit`] takes everything back.
pub struct Tx {
    pub(super) conn: Conn,
    /// What is read ahead and written behind; see `book.rs`.
    pub(super) book: Option<Box<Book>>,
}

pub(super) enum Conn {
    Sqlite(Transaction<'static, Sqlite>),
    Postgres(Transaction<'static, Postgres>),
    SqliteRead(PoolConnection<Sqlite>),
    PostgresRead(PoolConnection<Postgres>),
}

/// A value for a `$n`.
#[derive(Clone, Copy)]
pub(super) enum Arg<'a> {
    Text(&'a str),
    MaybeText(Option<&'a str>),
    Int(i64),
    MaybeInt(Option<i64>),
    Blob(&'a [u8]),
}

impl<'a> From<&'a str> for Arg<'a> {
    fn from(v: &'a str) -> Self {
        Arg::Text(v)
    }
}

impl<'a> From<&'a String> for Arg<'a> {
    fn from(v: &'a String) -> Self {
        Arg::Text(v)
    }
}

impl<'a> From<Option<&'a str>> for Arg<'a> {
    fn from(v: Option<&'a str>) -> Self {
        Arg::MaybeText(v)
    }
}

impl<'a> From<&'a Option<String>> for Arg<'a> {
    fn from(v: &'a Option<String>) -> Self {
        Arg::MaybeText(v.as_deref())
    }
}

impl From<i64> for Arg<'_> {
    fn from(v: i64) -> Self {
        Arg::Int(v)
    }
}

impl From<bool> for Arg<'_> {
    fn from(v: bool) -> Self {
        Arg::Int(i64::from(v))
    }
}

impl From<Option<i64>> for Arg<'_> {
    fn from(v: Option<i64>) -> Self {
        Arg::MaybeInt(v)
    }
}

impl<'a> From<&'a [u8]> for Arg<'a> {
    fn from(v: &'a [u8]) -> Self {
        Arg::Blob(v)
    }
}

/// `args![a, b]`: values for `$1`, `$2` …
macro_rules! args {
    ($($value:expr),* $(,)?) => { &[$($crate::store::dialect::Arg::from($value)),*] };
}
pub(super) use args;

macro_rules! bind {
    ($sql:expr, $args:expr) => {{
        let mut query = sqlx::query($sql);
        for arg in $args {
            query = match *arg {
                Arg::Text(v) => query.bind(v),
                Arg::MaybeText(v) => query.bind(v),
                Arg::Int(v) => query.bind(v),
                Arg::MaybeInt(v) => query.bind(v),
                Arg::Blob(v) => query.bind(v),
            };
        }
        query
    }};
}
pub(super) use bind;

impl Tx {
    fn on(conn: Conn) -> Tx {
        Tx { conn, book: None }
    }

    /// Makes everything durable.
    ///
    /// # Errors
    /// Nothing was written, or (a lost connection) it cannot be known.
    pub async fn commit(mut self) -> Result<(), StoreError> {
        self.write_behind().await?;
        match self.conn {
            Conn::Sqlite(tx) => tx.commit().await?,
            Conn::Postgres(tx) => tx.commit().await?,
            Conn::SqliteRead(_) | Conn::PostgresRead(_) => {}
        }
        Ok(())
    }

    /// Takes everything back.
    ///
    /// # Errors
    /// The connection is lost; the database takes it back by itself.
    pub async fn rollback(self) -> Result<(), StoreError> {
        match self.conn {
            Conn::Sqlite(tx) => tx.rollback().await?,
            Conn::Postgres(tx) => tx.rollback().await?,
            Conn::SqliteRead(_) | Conn::PostgresRead(_) => {}
        }
        Ok(())
    }

    /// `FOR UPDATE` where the engine needs it; SQLite's writer is alone anyway.
    pub(super) fn is_postgres(&self) -> bool {
        matches!(self.conn, Conn::Postgres(_) | Conn::PostgresRead(_))
    }

    /// Chooses between the engines' spellings of one statement.
    pub(super) fn pick(&self, sqlite: &'static str, postgres: &'static str) -> &'static str {
        if self.is_postgres() { postgres } else { sqlite }
    }

    /// Runs a statement; answers how many rows it touched.
    pub(super) async fn run(&mut self, sql: &'static str, args: &[Arg<'_>]) -> Result<u64, StoreError> {
        Ok(match &mut self.conn {
            Conn::Sqlite(c) => bind!(sql, args).execute(&mut **c).await?.rows_affected(),
            Conn::Postgres(c) => bind!(sql, args).execute(&mut **c).await?.rows_affected(),
            Conn::SqliteRead(c) => bind!(sql, args).execute(&mut **c).await?.rows_affected(),
            Conn::PostgresRead(c) => bind!(sql, args).execute(&mut **c).await?.rows_affected(),
        })
    }

    /// Runs a query; answers its rows.
    pub(super) async fn rows(&mut self, sql: &'static str, args: &[Arg<'_>]) -> Result<Vec<Row>, StoreError> {
        Ok(match &mut self.conn {
            Conn::Sqlite(c) => bind!(sql, args).fetch_all(&mut **c).await?.into_iter().map(Row::Sqlite).collect(),
            Conn::Postgres(c) => bind!(sql, args).fetch_all(&mut **c).await?.into_iter().map(Row::Postgres).collect(),
            Conn::SqliteRead(c) => bind!(sql, args).fetch_all(&mut **c).await?.into_iter().map(Row::Sqlite).collect(),
            Conn::PostgresRead(c) => {
                bind!(sql, args).fetch_all(&mut **c).await?.into_iter().map(Row::Postgres).collect()
            }
        })
    }

    /// Runs a query; answers its first row.
    pub(super) async fn row(&mut self, sql: &'static str, args: &[Arg<'_>]) -> Result<Option<Row>, StoreError> {
        Ok(match &mut self.conn {
            Conn::Sqlite(c) => bind!(sql, args).fetch_optional(&mut **c).await?.map(Row::Sqlite),
            Conn::Postgres(c) => bind!(sql, args).fetch_optional(&mut **c).await?.map(Row::Postgres),
            Conn::SqliteRead(c) => bind!(sql, args).fetch_optional(&mut **c).await?.map(Row::Sqlite),
            Conn::PostgresRead(c) => bind!(sql, args).fetch_optional(&mut **c).await?.map(Row::Postgres),
        })
    }

    /// Runs a query for one number, such as a count; 0 when there is no row.
    pub(super) async fn number(&mut self, sql: &'static str, args: &[Arg<'_>]) -> Result<i64, StoreError> {
        match self.row(sql, args).await? {
            Some(Row::Sqlite(row)) => Ok(row.try_get::<Option<i64>, _>(0)?.unwrap_or(0)),
            Some(Row::Postgres(row)) => Ok(row.try_get::<Option<i64>, _>(0)?.unwrap_or(0)),
            None => Ok(0),
        }
    }
}

/// One row; columns are read by name.
pub(super) enum Row {
    Sqlite(SqliteRow),
    Postgres(PgRow),
}

macro_rules! column {
    ($row:expr, $name:expr) => {
        Ok(match $row {
            Row::Sqlite(row) => row.try_get($name)?,
            Row::Postgres(row) => row.try_get($name)?,
        })
    };
}

impl Row {
    pub(super) fn text(&self, name: &str) -> Result<String, StoreError> {
        column!(self, name)
    }

    pub(super) fn maybe_text(&self, name: &str) -> Result<Option<String>, StoreError> {
        column!(self, name)
    }

    pub(super) fn int(&self, name: &str) -> Result<i64, StoreError> {
        column!(self, name)
    }

    pub(super) fn maybe_int(&self, name: &str) -> Result<Option<i64>, StoreError> {
        column!(self, name)
    }

    pub(super) fn flag(&self, name: &str) -> Result<bool, StoreError> {
        Ok(self.int(name)? != 0)
    }

    pub(super) fn blob(&self, name: &str) -> Result<Vec<u8>, StoreError> {
        column!(self, name)
    }

    pub(super) fn maybe_blob(&self, name: &str) -> Result<Option<Vec<u8>>, StoreError> {
        column!(self, name)
    }

    /// A column that holds JSON of ours.
    pub(super) fn json<T: serde::de::DeserializeOwned>(&self, name: &str) -> Result<T, StoreError> {
        serde_json::from_str(&self.text(name)?).map_err(|e| StoreError::Unreadable(format!("{name}: {e}")))
    }

    /// A column that holds one of our words.
    pub(super) fn word<T: std::str::FromStr>(&self, name: &str) -> Result<T, StoreError> {
        let text = self.text(name)?;
        text.parse().map_err(|_| StoreError::Unreadable(format!("{name}: unknown word {text:?}")))
    }

    /// An amount with its currency, from the columns `amount` and `currency`.
    pub(super) fn money(&self) -> Result<grosz_providers::Money, StoreError> {
        let currency = self.text("currency")?;
        let currency = currency.parse().map_err(|_| StoreError::Unreadable("currency".into()))?;
        Ok(grosz_providers::Money::new(self.int("amount")?, currency))
    }
}

/// JSON text of a value of ours.
pub(super) fn to_json<T: serde::Serialize>(value: &T) -> Result<String, StoreError> {
    serde_json::to_string(value).map_err(|e| StoreError::Unreadable(e.to_string()))
}

/// A column that holds JSON of ours, or nothing.
pub(super) fn maybe_json<T: serde::de::DeserializeOwned>(r: &Row, name: &str) -> Result<Option<T>, StoreError> {
    match r.maybe_text(name)? {
        None => Ok(None),
        Some(text) => serde_json::from_str(&text).map(Some).map_err(|e| StoreError::Unreadable(format!("{name}: {e}"))),
    }
}
