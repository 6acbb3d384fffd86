//! Two engines behind one type. SQL is written once with `$1` and portable types; what differs is here.
//!
//! SQLite: one writing connection (`BEGIN IMMEDIATE`, WAL, `synchronous=FULL`) and some that read (see `sqlite.rs`).
//! PostgreSQL: two pools (see `link.rs`), READ COMMITTED with row locks.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sqlx::Row as _;
use sqlx::postgres::{PgDatabaseError, PgSeverity};

use super::book::Book;
use super::connections::{Connections, Held};
use super::link::Link;
use super::rows::Row;
use super::sqlite::{File, Handle, Handles, on_disk, refuse_foreign_log};
use super::wal;

/// The pools of one database.
#[derive(Clone)]
pub struct Store {
    pub(super) engine: Engine,
    asked: Arc<AtomicU64>,
}

#[derive(Clone)]
pub(super) enum Engine {
    Sqlite { writer: Arc<Handles>, readers: Arc<Handles> },
    Postgres(Arc<Link>),
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
    /// Rows were needed that only a transaction with locks may read or change; see [`Store::begin_optimistic_in`].
    #[error("this has to be done with locks")]
    NeedsLocks,
    /// No connection within the waiting time, no database, no space: come back later.
    #[error("the database cannot be used at the moment: {}", what_is_missing(.0))]
    Unavailable(#[source] Cause),
    /// The connection was lost, or fell silent, when all was to become durable.
    #[error("it cannot be known whether this was committed: {}", what_is_missing(.0))]
    Unknown(#[source] Cause),
    /// Anything else.
    #[error("the database refused")]
    Other(#[source] Cause),
    /// A stored value that we never wrote.
    #[error("unreadable row: {0}")]
    Unreadable(String),
    /// A database newer or older than this program.
    #[error("{0}")]
    Schema(String),
}

impl StoreError {
    /// True when PostgreSQL does not know who asks, or the database that is asked for: at a start most likely a setting.
    pub fn is_of_address(&self) -> bool {
        let StoreError::Unavailable(Cause::Server(e)) = self else { return false };
        ["28", "3D"].iter().any(|class| sql_state(e).starts_with(class))
    }

    /// True when the same call can succeed a moment later.
    pub fn is_passing(&self) -> bool {
        matches!(self, StoreError::Conflict | StoreError::Unavailable(_) | StoreError::Unknown(_))
    }

    /// The same, of a commit: a server that refused did nothing, unless it was on its way down; silence says nothing.
    fn of_commit(self) -> StoreError {
        match self {
            StoreError::Unavailable(Cause::Server(e)) if matches!(sql_state(&e).get(..3), None | Some("57P")) => {
                StoreError::Unknown(e.into())
            }
            other => other,
        }
    }

    /// True when what was tried without locks has to be done again with them; see [`Store::begin_optimistic_in`].
    pub fn wants_locks(&self) -> bool {
        matches!(self, StoreError::NeedsLocks | StoreError::Conflict | StoreError::Taken)
    }
}

/// What an engine or the way to it said.
#[derive(Debug, thiserror::Error)]
pub enum Cause {
    /// PostgreSQL, or waiting for a connection of either engine.
    #[error("{}", words_of(.0))]
    Server(sqlx::Error),
    /// SQLite.
    #[error("{0}")]
    File(rusqlite::Error),
    /// The last look at PostgreSQL's hosts found none that can be used; why, in words.
    #[error("{0}")]
    Away(String),
    /// Another program keeps SQLite's file locked.
    #[error("it is locked by another program")]
    Locked,
    /// SQLite's file is not where it was opened.
    #[error("its file was moved or deleted")]
    Gone,
    /// Somebody else asked the same and was not answered.
    #[error("the same question was not answered a moment ago")]
    AskedInVain,
}

impl From<sqlx::Error> for Cause {
    fn from(e: sqlx::Error) -> Self {
        Cause::Server(e)
    }
}

impl From<rusqlite::Error> for Cause {
    fn from(e: rusqlite::Error) -> Self {
        Cause::File(e)
    }
}

/// An error without what the driver says around it.
fn words_of(error: &sqlx::Error) -> String {
    match error {
        sqlx::Error::Database(said) => said.message().to_owned(),
        sqlx::Error::Io(cause) => cause.to_string(),
        other => other.to_string(),
    }
}

/// True of what ends a connection, or keeps one from being made (`FATAL`): it says nothing about a statement.
fn is_fatal(error: &sqlx::Error) -> bool {
    let said = error.as_database_error().and_then(|said| said.try_downcast_ref::<PgDatabaseError>());
    said.is_some_and(|said| matches!(said.severity(), PgSeverity::Fatal | PgSeverity::Panic))
}

impl From<sqlx::Error> for StoreError {
    fn from(e: sqlx::Error) -> Self {
        // SQLSTATE; 22012, a division by zero: a set found fewer rows than it had to (`set.rs`).
        match sql_state(&e).as_str() {
            "23505" => StoreError::Taken,
            "40001" | "40P01" | "22012" => StoreError::Conflict,
            "25006" | "55P03" => StoreError::Unavailable(e.into()),
            // It does not let us in, or has put us out: a password that was changed, a database that was renamed, a limit.
            _ if is_fatal(&e) => StoreError::Unavailable(e.into()),
            code if ["08", "53", "57", "58"].iter().any(|class| code.starts_with(class)) => {
                StoreError::Unavailable(e.into())
            }
            _ => match e {
                sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::PoolClosed | sqlx::Error::Tls(_) => {
                    StoreError::Unavailable(e.into())
                }
                sqlx::Error::WorkerCrashed | sqlx::Error::Protocol(_) => StoreError::Unavailable(e.into()),
                other => StoreError::Other(other.into()),
            },
        }
    }
}

impl From<rusqlite::Error> for StoreError {
    fn from(e: rusqlite::Error) -> Self {
        use rusqlite::ErrorCode as Code;
        use rusqlite::ffi::{SQLITE_CONSTRAINT_PRIMARYKEY, SQLITE_CONSTRAINT_UNIQUE};
        let extended = e.sqlite_error().map(|e| e.extended_code);
        match e.sqlite_error_code() {
            _ if matches!(extended, Some(SQLITE_CONSTRAINT_PRIMARYKEY | SQLITE_CONSTRAINT_UNIQUE)) => StoreError::Taken,
            Some(Code::DatabaseBusy | Code::DatabaseLocked) => StoreError::Conflict,
            Some(Code::OutOfMemory | Code::ReadOnly | Code::SystemIoFailure | Code::DiskFull | Code::CannotOpen) => {
                StoreError::Unavailable(e.into())
            }
            _ => StoreError::Other(e.into()),
        }
    }
}

/// PostgreSQL's code, five characters; empty for an error that is not the server's.
fn sql_state(error: &sqlx::Error) -> String {
    error.as_database_error().and_then(|d| d.code()).unwrap_or_default().into_owned()
}

/// The cause in words that an operator acts on.
pub(super) fn what_is_missing(cause: &Cause) -> Cow<'static, str> {
    use rusqlite::ErrorCode as Code;
    Cow::Borrowed(match cause {
        Cause::File(error) => match error.sqlite_error_code() {
            Some(Code::ReadOnly) => "it is read-only",
            Some(Code::DiskFull) => "its disk is full",
            Some(Code::SystemIoFailure | Code::CannotOpen) => "its file cannot be read or written",
            _ => "it does not answer",
        },
        Cause::AskedInVain => "it does not answer",
        Cause::Away(_) | Cause::Locked | Cause::Gone => return Cow::Owned(cause.to_string()),
        Cause::Server(sqlx::Error::PoolTimedOut) => "no connection was free in time",
        Cause::Server(sqlx::Error::PoolClosed) => "the hub is stopping",
        Cause::Server(error) => match sql_state(error).as_str() {
            "25006" => "it is read-only",
            "53100" => "its disk is full",
            "53300" => return Cow::Owned(format!("it has no connection left: {}", words_of(error))),
            "57P01" | "57P02" | "57P03" => "it is starting or stopping",
            _ if is_fatal(error) => return Cow::Owned(format!("it refuses the hub: {}", words_of(error))),
            _ => "it does not answer",
        },
    })
}

/// How the database is reached.
#[derive(Debug, Clone)]
pub struct StoreSettings {
    /// Connections to PostgreSQL, or readers of SQLite.
    pub connections: u32,
    /// Committers, each of which has connections to PostgreSQL of its own.
    pub committers: usize,
    /// Longest wait for a connection, in seconds.
    pub wait_s: u64,
    /// Longest wait for an answer of PostgreSQL, in seconds.
    pub answer_s: u64,
    /// A pooler in transaction mode stands before PostgreSQL.
    pub pooler: bool,
    /// PostgreSQL's own address, to be called when there is work; empty for the address of the store.
    pub listen_url: String,
}

impl Default for StoreSettings {
    fn default() -> Self {
        StoreSettings {
            connections: 10,
            committers: 0,
            wait_s: 5,
            answer_s: 10,
            pooler: false,
            listen_url: String::new(),
        }
    }
}

/// Whose connections to PostgreSQL are taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pool {
    /// Everybody's.
    Shared,
    /// Those of the committer of that number, from 0: nobody else uses them. What the server keeps ready for one serves the
    /// next slice, and a crowd elsewhere cannot keep webhooks waiting.
    Committer(usize),
}

impl Store {
    /// Opens `sqlite:path`, `sqlite::memory:` is refused (it would lose a 200), or `postgres://…`.
    ///
    /// # Errors
    /// The address is of neither kind, or the database cannot be reached.
    pub async fn open(url: &str, settings: &StoreSettings) -> Result<Store, StoreError> {
        if url.starts_with("postgres://") || url.starts_with("postgresql://") {
            return Ok(Store { engine: Engine::Postgres(Link::open(url, settings).await?), asked: Arc::default() });
        }
        let wait = Duration::from_secs(settings.wait_s);
        let path = url.strip_prefix("sqlite:").map(|path| path.trim_start_matches("//"));
        let Some(path) = path.filter(|p| !p.contains(":memory:") && !p.is_empty()) else {
            return Err(StoreError::Schema("database_url must be sqlite:<file> or postgres://…".into()));
        };
        let path = PathBuf::from(path);
        refuse_foreign_log(&path)?;
        let mut file = File { on_disk: on_disk(&path), path, wait, writes: true };
        if file.on_disk.is_none() {
            drop(file.open()?);
            file.on_disk = on_disk(&file.path);
        }
        let writer = Handles::open(file.clone(), 1)?;
        let readers = Handles::open(File { writes: false, ..file.clone() }, settings.connections.max(2))?;
        tokio::spawn(wal::keep(file, Arc::downgrade(&writer)));
        Ok(Store { engine: Engine::Sqlite { writer, readers }, asked: Arc::default() })
    }

    /// Begins a transaction that may write.
    ///
    /// # Errors
    /// No connection within the waiting time.
    pub async fn begin(&self) -> Result<Tx, StoreError> {
        self.begin_in(Pool::Shared).await
    }

    /// Like [`Store::begin`], on a connection of that pool.
    ///
    /// # Errors
    /// No connection within the waiting time.
    pub async fn begin_in(&self, pool: Pool) -> Result<Tx, StoreError> {
        match &self.engine {
            Engine::Sqlite { writer, .. } => {
                let mut connection = writer.take().await?;
                connection.begin().await?;
                Ok(Tx::on(Conn::Sqlite(connection)))
            }
            Engine::Postgres(link) => begin_at(link, link.pool_of(pool)).await,
        }
        .map(|tx| tx.counted_by(self))
    }

    /// Like [`Store::begin_in`], where the engine gains by it without a transaction and without locks: the book is read
    /// ahead, and written behind as one statement that changes nothing unless every row is as it was read. What goes
    /// past the book is refused as [`StoreError::NeedsLocks`], before anything is changed.
    ///
    /// # Errors
    /// No connection within the waiting time.
    pub async fn begin_optimistic_in(&self, pool: Pool) -> Result<Tx, StoreError> {
        match &self.engine {
            // A pooler may give each trip another connection; there two trips are two transactions anyway.
            Engine::Postgres(link) if link.keeps_statements => {
                read_at(link, link.pool_of(pool)).await.map(Tx::optimistic)
            }
            Engine::Postgres(_) | Engine::Sqlite { .. } => return self.begin_in(pool).await,
        }
        .map(|tx| tx.counted_by(self))
    }

    /// For one statement that changes rows: it is a transaction by itself, which spares two trips. [`Tx::commit`] is due
    /// all the same, for those that need one.
    ///
    /// # Errors
    /// No connection within the waiting time.
    pub async fn once(&self) -> Result<Tx, StoreError> {
        match &self.engine {
            // A pooler may give each trip another connection.
            Engine::Postgres(link) if link.keeps_statements => self.read().await,
            Engine::Postgres(_) | Engine::Sqlite { .. } => self.begin().await,
        }
    }

    /// A connection for reading: each statement sees what was committed before it.
    ///
    /// # Errors
    /// No connection within the waiting time.
    pub async fn read(&self) -> Result<Tx, StoreError> {
        match &self.engine {
            Engine::Sqlite { readers, .. } => Ok(Tx::on(Conn::Sqlite(readers.take().await?))),
            Engine::Postgres(link) => read_at(link, &link.shared).await,
        }
        .map(|tx| tx.counted_by(self))
    }

    /// Like [`Store::read`], on a connection kept for the accounts that webhooks name.
    ///
    /// # Errors
    /// No connection within the waiting time.
    pub async fn read_reserved(&self) -> Result<Tx, StoreError> {
        match &self.engine {
            Engine::Sqlite { .. } => self.read().await,
            Engine::Postgres(link) => read_at(link, &link.reserved).await.map(|tx| tx.counted_by(self)),
        }
    }

    /// How many statements this process has asked the database since it opened it, commits left out.
    pub fn statements(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    /// Has the workers of other processes look for jobs, soon. Costs the caller nothing.
    pub fn call_workers(&self) {
        if let Engine::Postgres(link) = &self.engine {
            link.call_workers();
        }
    }

    /// Sends the calls of [`Store::call_workers`], for as long as it is polled.
    pub async fn send_calls(&self) {
        match &self.engine {
            Engine::Sqlite { .. } => std::future::pending().await,
            Engine::Postgres(link) => link.send_calls().await,
        }
    }

    /// Rings when another process called, and when a call may have been missed, for as long as it is polled.
    pub async fn hear_calls(&self, ring: impl Fn()) {
        match &self.engine {
            Engine::Sqlite { .. } => std::future::pending().await,
            Engine::Postgres(link) => link.hear_calls(ring).await,
        }
    }

    /// The clock that all processes on this database share, and how long it took from the question to the answer, in
    /// microseconds; `None` where there is one process only.
    ///
    /// # Errors
    /// The database does not answer.
    pub async fn clock(&self) -> Result<Option<(i64, i64)>, StoreError> {
        match &self.engine {
            Engine::Sqlite { .. } => Ok(None),
            Engine::Postgres(link) => link.clock().await.map(Some),
        }
    }

    /// Says whether ids are made by that clock: only then can the database tell how old one is.
    pub fn goes_by_its_clock(&self, is_so: bool) {
        if let Engine::Postgres(link) = &self.engine {
            link.keeps_time.store(is_so, Ordering::Relaxed);
        }
    }

    /// Answers whether the database can be written to.
    ///
    /// # Errors
    /// What stands in the way.
    pub async fn probe(&self) -> Result<(), StoreError> {
        if let Engine::Postgres(link) = &self.engine
            && let Some(why) = link.away()
        {
            // Whoever asks wants to know at once.
            return Err(StoreError::Unavailable(Cause::Away(why)));
        }
        let mut tx = self.begin().await?;
        // A row is really written: only that shows a full disk.
        let newest =
            "UPDATE schema_versions SET version = version WHERE version = (SELECT MAX(version) FROM schema_versions)";
        tx.run(newest, &[]).await?;
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
        let Engine::Postgres(link) = &self.engine else { return Ok(vec![]) };
        let mut warnings = vec![];
        for (setting, text) in [
            ("fsync", "SELECT current_setting('fsync')"),
            ("synchronous_commit", "SELECT current_setting('synchronous_commit')"),
            ("full_page_writes", "SELECT current_setting('full_page_writes')"),
        ] {
            let mut connection = link.connection(&link.shared).await?;
            let row = link.answer(sqlx::raw_sql(text).fetch_one(&mut *connection)).await?;
            let value: String = row.try_get(0)?;
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
            Engine::Postgres(link) => {
                for connections in link.all() {
                    connections.close().await;
                }
            }
        }
    }
}

async fn begin_at(link: &Arc<Link>, pool: &Arc<Connections>) -> Result<Tx, StoreError> {
    let connection = link.begin(pool, "BEGIN").await?;
    Ok(Tx::on(Conn::Postgres(connection, Arc::clone(link))))
}

/// Behind a pooler a statement is parsed and run in one transaction, or the two would meet different connections.
async fn read_at(link: &Arc<Link>, pool: &Arc<Connections>) -> Result<Tx, StoreError> {
    let connection = match link.keeps_statements {
        true => link.connection(pool).await?,
        false => link.begin(pool, "BEGIN READ ONLY").await?,
    };
    Ok(Tx::on(Conn::Postgres(connection, Arc::clone(link))))
}

/// After so many slices in which no payment had a case or a buyer, the next is not expected to have any: asking about them
/// is half of the question.
const LONG_ALONE: u32 = 64;

/// One transaction, or one reading connection. Dropping it without [`Tx::commit`] takes everything back.
pub struct Tx {
    pub(super) conn: Conn,
    /// What is read ahead and written behind; see `book.rs`.
    pub(super) book: Option<Box<Book>>,
    /// Without locks, each statement by itself.
    is_optimistic: bool,
    /// A statement of it changed rows.
    has_written: bool,
    /// Something went past the book of an optimistic one: nothing of it may be written, whatever the caller made of the
    /// error.
    is_refused: bool,
    /// When the first of the jobs that it enqueued is due, microseconds.
    pub(super) first_due: Option<i64>,
    /// Payments, by merchant and id, that were changed past the book; see `glance.rs`.
    pub(super) outdated: Vec<(String, String)>,
    asked: Arc<AtomicU64>,
}

/// With a transaction on it, or each statement by itself.
pub(super) enum Conn {
    Sqlite(Handle),
    Postgres(Held, Arc<Link>),
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

/// PostgreSQL has no texts with the character U+0000, and fails as a whole where it meets one. Nothing of ours holds it, so
/// what a stranger names with it is not found, and what a gateway says with it is kept with U+FFFD in its place.
pub(super) fn without_nul(text: &str) -> Cow<'_, str> {
    match memchr::memchr(0, text.as_bytes()) {
        None => Cow::Borrowed(text),
        Some(_) => Cow::Owned(text.replace('\0', "\u{fffd}")),
    }
}

macro_rules! bind {
    ($sql:expr, $args:expr) => {{
        let mut query = sqlx::query($sql);
        for arg in $args {
            query = match *arg {
                Arg::Text(v) => query.bind(without_nul(v)),
                Arg::MaybeText(v) => query.bind(v.map(without_nul)),
                Arg::Int(v) => query.bind(v),
                Arg::MaybeInt(v) => query.bind(v),
                Arg::Blob(v) => query.bind(v),
            };
        }
        query
    }};
}

/// Has PostgreSQL answer a query, within the limit, as a named statement only where one may be kept.
macro_rules! ask {
    ($link:expr, $query:expr, $how:ident, $connection:expr) => {
        $link.answer($query.persistent($link.keeps_statements).$how(&mut **$connection)).await?
    };
}

impl Tx {
    fn on(conn: Conn) -> Tx {
        Tx {
            conn,
            book: None,
            is_optimistic: false,
            has_written: false,
            is_refused: false,
            first_due: None,
            outdated: vec![],
            asked: Arc::default(),
        }
    }

    fn optimistic(mut self) -> Tx {
        self.is_optimistic = true;
        self
    }

    /// Before rows are read or changed past the book.
    pub(super) fn beside_the_book(&mut self) -> Result<(), StoreError> {
        self.is_refused |= self.is_optimistic;
        if self.is_refused { Err(StoreError::NeedsLocks) } else { Ok(()) }
    }

    fn counted_by(mut self, store: &Store) -> Tx {
        self.asked = Arc::clone(&store.asked);
        self
    }

    pub(super) fn count(&self, statements: usize) {
        self.asked.fetch_add(statements as u64, Ordering::Relaxed);
    }

    /// After statements that were answered whole.
    pub(super) fn has_answers(&mut self) {
        match &mut self.conn {
            Conn::Sqlite(_) => {}
            Conn::Postgres(c, _) => c.has_answered(),
        }
    }

    /// A statement failed in a transaction, or was left halfway.
    fn has_failed(&self) -> bool {
        match &self.conn {
            Conn::Sqlite(c) => c.has_failed(),
            Conn::Postgres(c, _) => c.has_failed(),
        }
    }

    /// When the first of the jobs that this transaction enqueued or brought forward is due, microseconds.
    pub fn first_due(&self) -> Option<i64> {
        self.first_due
    }

    /// Makes everything durable.
    ///
    /// # Errors
    /// Nothing was written, or (a lost connection) it cannot be known.
    pub async fn commit(mut self) -> Result<(), StoreError> {
        if self.is_refused {
            return Err(StoreError::NeedsLocks);
        }
        // Without locks there is no transaction around the one statement that writes: it is the commit.
        let is_commit = self.is_optimistic && self.is_postgres();
        let has_written = self.has_written || is_commit;
        self.write_behind().await.map_err(|e| if is_commit { e.of_commit() } else { e })?;
        if self.has_failed() {
            // PostgreSQL would take the transaction back and call that a success.
            return Err(StoreError::Conflict);
        }
        self.write_glances().await?;
        match self.conn {
            Conn::Sqlite(connection) => connection.commit()?,
            Conn::Postgres(connection, link) => {
                link.answer(connection.commit()).await.map_err(StoreError::of_commit)?;
                // One that wrote nothing says nothing about the disk.
                if has_written {
                    link.trouble.is_over();
                }
            }
        }
        Ok(())
    }

    /// Takes everything back.
    ///
    /// # Errors
    /// The connection is lost; the database takes it back by itself.
    pub async fn rollback(self) -> Result<(), StoreError> {
        match self.conn {
            Conn::Sqlite(connection) => connection.rollback()?,
            Conn::Postgres(connection, link) => link.answer(connection.rollback()).await?,
        }
        Ok(())
    }

    /// `FOR UPDATE` where the engine needs it; SQLite's writer is alone anyway.
    pub(super) fn is_postgres(&self) -> bool {
        matches!(self.conn, Conn::Postgres(..))
    }

    /// Chooses between the engines' spellings of one statement.
    pub(super) fn pick(&self, sqlite: &'static str, postgres: &'static str) -> &'static str {
        if self.is_postgres() { postgres } else { sqlite }
    }

    /// Like [`Tx::pick`], for questions that lock what they find where rows can be changed by somebody else meanwhile.
    pub(super) fn pick_locking(&self, free: &'static str, locking: &'static str) -> &'static str {
        if self.locks_rows() { locking } else { free }
    }

    /// True when what is asked for with a lock stays as it is, and what hangs on it must be asked for after it.
    pub(super) fn locks_rows(&self) -> bool {
        self.is_postgres() && !self.is_optimistic
    }

    pub(super) fn is_optimistic(&self) -> bool {
        self.is_optimistic
    }

    /// True when the server is to refuse what reaches it too late; see `messages.rs`.
    pub(super) fn must_be_in_time(&self) -> bool {
        match &self.conn {
            Conn::Postgres(_, link) => self.is_optimistic && link.keeps_time.load(Ordering::Relaxed),
            Conn::Sqlite(_) => false,
        }
    }

    /// Whether the payments of the next slice are likely to have cases or buyers.
    pub(super) fn expects_surroundings(&self) -> bool {
        match &self.conn {
            Conn::Postgres(_, link) => link.slices_alone.load(Ordering::Relaxed) < LONG_ALONE,
            Conn::Sqlite(_) => true,
        }
    }

    /// Remembers whether payments of a slice had cases or buyers.
    pub(super) fn has_met_surroundings(&self, has_met: bool) {
        if let Conn::Postgres(_, link) = &self.conn {
            match has_met {
                true => link.slices_alone.store(0, Ordering::Relaxed),
                false if self.expects_surroundings() => drop(link.slices_alone.fetch_add(1, Ordering::Relaxed)),
                false => {}
            }
        }
    }

    /// Runs a statement; answers how many rows it touched.
    pub(super) async fn run(&mut self, sql: &'static str, args: &[Arg<'_>]) -> Result<u64, StoreError> {
        self.beside_the_book()?;
        self.count(1);
        let touched = match &mut self.conn {
            Conn::Sqlite(c) => c.run(sql, args).await?,
            Conn::Postgres(c, link) => ask!(link, bind!(sql, args), execute, c).rows_affected(),
        };
        self.has_answers();
        self.has_written |= touched > 0;
        Ok(touched)
    }

    /// Runs a query; answers its rows.
    pub(super) async fn rows(&mut self, sql: &'static str, args: &[Arg<'_>]) -> Result<Vec<Row>, StoreError> {
        self.beside_the_book()?;
        self.count(1);
        let rows = match &mut self.conn {
            Conn::Sqlite(c) => c.rows(sql, args, usize::MAX).await?,
            Conn::Postgres(c, link) => {
                ask!(link, bind!(sql, args), fetch_all, c).into_iter().map(Row::Postgres).collect()
            }
        };
        self.has_answers();
        Ok(rows)
    }

    /// Runs a query; answers its first row.
    pub(super) async fn row(&mut self, sql: &'static str, args: &[Arg<'_>]) -> Result<Option<Row>, StoreError> {
        self.beside_the_book()?;
        self.count(1);
        let row = match &mut self.conn {
            Conn::Sqlite(c) => c.rows(sql, args, 1).await?.pop(),
            Conn::Postgres(c, link) => ask!(link, bind!(sql, args), fetch_optional, c).map(Row::Postgres),
        };
        self.has_answers();
        Ok(row)
    }

    /// Runs a query for one number, such as a count; 0 when there is no row.
    pub(super) async fn number(&mut self, sql: &'static str, args: &[Arg<'_>]) -> Result<i64, StoreError> {
        self.row(sql, args).await?.map_or(Ok(0), |row| row.first_int())
    }
}
