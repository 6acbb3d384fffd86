//! SQLite's connections. SQLite is a library: a statement is a call that is answered before it returns, mostly from
//! memory and in microseconds. It is therefore made by whoever asks, not handed to a thread of the connection's own,
//! which would wake two threads for each statement and cost more than the statement. What may wait for long, a commit
//! on a slow disk, lets the runtime's other tasks go on elsewhere; what waits for another process waits without a thread.

use std::borrow::{BorrowMut, Cow};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, Weak};
use std::time::{Duration, Instant};

use rusqlite::types::{ToSql, ToSqlOutput, ValueRef};
use rusqlite::{CachedStatement, Connection, OpenFlags};
use tokio::runtime::{Handle as Runtime, RuntimeFlavor};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::{block_in_place, coop::consume_budget};
use tokio::time::{sleep, timeout};

use super::dialect::{Arg, Cause, StoreError};
use super::rows::{Answer, Names, Row};
use super::trouble::Trouble;

/// Statements that each connection keeps prepared.
const KEPT_STATEMENTS: usize = 256;

/// Pause before a transaction tries again to begin while another process writes.
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// Where a database's file says by which versions of the format it is written and read: 1 without a log, 2 with one
/// (<https://www.sqlite.org/fileformat2.html>).
const VERSIONS_AT: u64 = 18;

/// A commit that took longer was waiting for the disk; the next is not expected to be faster.
const LONG_COMMIT: Duration = Duration::from_micros(500);

/// Which file is opened, and for what.
#[derive(Clone)]
pub(super) struct File {
    pub(super) path: PathBuf,
    /// Longest wait for a connection, and for another process that writes.
    pub(super) wait: Duration,
    /// It may change the file, and makes it where there is none.
    pub(super) writes: bool,
    pub(super) on_disk: OnDisk,
}

/// The file as it lies on the disk, to be flushed beside the commits (`wal.rs`). Closing it takes the locks of all SQLite's
/// connections in this process away (`fcntl(2)`), so it is opened once however often the database is, kept by everybody who
/// has a connection, and let go after the last of them. `None` while there is no file.
pub(super) type OnDisk = Option<Arc<fs::File>>;

/// What is open, by device and number.
static ON_DISK: Mutex<BTreeMap<(u64, u64), Weak<fs::File>>> = Mutex::new(BTreeMap::new());

/// Opens a file, unless it is open already.
pub(super) fn on_disk(path: &Path) -> OnDisk {
    let mut all = ON_DISK.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let found = fs::metadata(path).ok()?;
    let at = (found.dev(), found.ino());
    if let Some(open) = all.get(&at).and_then(Weak::upgrade) {
        return Some(open);
    }
    all.retain(|_, open| open.strong_count() > 0);
    let opened = Arc::new(fs::File::open(path).ok()?);
    all.insert(at, Arc::downgrade(&opened));
    Some(opened)
}

/// Refuses a database beside which the log of another one lies: a backup that was restored over the file of a hub that was
/// killed, or a log whose database is gone. SQLite would take such a log for the database's own, copy its pages over the
/// others, or throw it away.
///
/// It is told by the database's first page. A copy that `VACUUM INTO` made is not in the mode that has a log, and a file is
/// brought into that mode before its log is begun.
pub(super) fn refuse_foreign_log(path: &Path) -> Result<(), StoreError> {
    let mut log = path.as_os_str().to_owned();
    log.push("-wal");
    // The log before the database: somebody may be making both.
    if !fs::metadata(&log).is_ok_and(|log| log.len() > 0) {
        return Ok(());
    }
    let mut versions = [0; 2];
    let is_in_log_mode = match on_disk(path) {
        Some(file) => file.read_exact_at(&mut versions, VERSIONS_AT).is_ok() && versions == [2, 2],
        None => false,
    };
    if is_in_log_mode {
        return Ok(());
    }
    let (log, path) = (log.display(), path.display());
    Err(StoreError::Schema(format!(
        "{log} is the log of another database than {path}, such as the one that was here before a backup was restored; \
         nothing was changed. Stop every hub, move {path}-wal and {path}-shm elsewhere, and start again"
    )))
}

impl File {
    /// A new connection.
    pub(super) fn open(&self) -> Result<Connection, StoreError> {
        let kind = match self.writes {
            true => OpenFlags::SQLITE_OPEN_READ_WRITE | OpenFlags::SQLITE_OPEN_CREATE,
            false => OpenFlags::SQLITE_OPEN_READ_ONLY,
        };
        // Another file in its place would share the log with it, and be given what belongs to the first.
        if !self.is_in_place() {
            return Err(StoreError::Unavailable(Cause::Gone));
        }
        let connection = Connection::open_with_flags(&self.path, kind | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
        if !self.is_in_place() {
            return Err(StoreError::Unavailable(Cause::Gone));
        }
        connection.busy_timeout(self.wait)?;
        connection.set_prepared_statement_cache_capacity(KEPT_STATEMENTS);
        // The log is copied beside the commits, not in one of them (`wal.rs`).
        connection.execute_batch("PRAGMA foreign_keys = OFF; PRAGMA wal_autocheckpoint = 0")?;
        if self.writes {
            connection.execute_batch("PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL")?;
        }
        Ok(connection)
    }
}

impl File {
    /// Whoever opens the database by its name finds this very file. What is written to one that was moved or deleted is lost
    /// with the process.
    fn is_in_place(&self) -> bool {
        let Some(open) = &self.on_disk else { return true };
        let (Ok(open), Ok(there)) = (open.metadata(), fs::metadata(&self.path)) else { return false };
        (open.dev(), open.ino()) == (there.dev(), there.ino())
    }
}

/// All connections of a kind; as many can be held at the same time as there are places.
pub(super) struct Handles {
    places: Arc<Semaphore>,
    most: u32,
    idle: Mutex<Vec<Connection>>,
    /// After the connections, which are closed first.
    file: File,
    /// How often one was taken.
    uses: AtomicU64,
    /// The last commit took long.
    is_slow: AtomicBool,
    /// Whoever was to write last has not got the lock, which another program has.
    is_locked: AtomicBool,
    trouble: Trouble,
}

impl Handles {
    /// Opens the first of at most so many connections.
    pub(super) fn open(file: File, most: u32) -> Result<Arc<Handles>, StoreError> {
        let first = file.open()?;
        let places = Arc::new(Semaphore::new(usize::try_from(most).unwrap_or(Semaphore::MAX_PERMITS)));
        let (idle, uses) = (Mutex::new(vec![first]), AtomicU64::new(0));
        let (is_slow, is_locked, trouble) = Default::default();
        Ok(Arc::new(Handles { file, places, most, idle, uses, is_slow, is_locked, trouble }))
    }

    /// A connection.
    pub(super) async fn take(self: &Arc<Self>) -> Result<Handle, StoreError> {
        let place = timeout(self.file.wait, Arc::clone(&self.places).acquire_owned()).await;
        let place = place.map_err(|_| self.none_free())?.map_err(|_| sqlx::Error::PoolClosed)?;
        self.uses.fetch_add(1, Ordering::Relaxed);
        let idle = self.idle().pop();
        let connection = match idle {
            Some(connection) => connection,
            None => in_place(|| self.file.open())?,
        };
        let home = Arc::clone(self);
        Ok(Handle { connection: Some(connection), _place: place, home, changes: 0, is_open: false, has_failed: false })
    }

    /// Why no connection was free in time.
    fn none_free(&self) -> StoreError {
        let error = match self.is_locked.load(Ordering::Relaxed) {
            true => StoreError::Unavailable(Cause::Locked),
            false => sqlx::Error::PoolTimedOut.into(),
        };
        self.trouble.met(&error);
        error
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Connection>> {
        self.idle.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// How often a connection was taken.
    pub(super) fn uses(&self) -> u64 {
        self.uses.load(Ordering::Relaxed)
    }

    /// True when [`Handles::close`] was called.
    pub(super) fn is_closed(&self) -> bool {
        self.places.is_closed()
    }

    /// Closes all after the work in flight.
    pub(super) async fn close(&self) {
        // Places are given in the order of asking, so nobody who asks from here on gets one.
        let _ = timeout(self.file.wait, self.places.acquire_many(self.most)).await;
        self.places.close();
        // The last one to be closed copies the log.
        in_place(|| self.idle().clear());
    }
}

/// Does what may take long where the runtime's other tasks need not wait for it.
fn in_place<T>(work: impl FnOnce() -> T) -> T {
    match Runtime::try_current().map(|runtime| runtime.runtime_flavor()) {
        Ok(RuntimeFlavor::MultiThread) => block_in_place(work),
        _ => work(),
    }
}

/// A connection, and the transaction that was begun on it. Dropping it takes the transaction back.
pub(super) struct Handle {
    connection: Option<Connection>,
    _place: OwnedSemaphorePermit,
    home: Arc<Handles>,
    /// How many rows the connection had changed when the transaction began.
    changes: u64,
    is_open: bool,
    has_failed: bool,
}

impl Handle {
    /// Begins a transaction that may write, as soon as no other process does.
    pub(super) async fn begin(&mut self) -> Result<(), StoreError> {
        let since = Instant::now();
        if !self.home.file.is_in_place() {
            return Err(self.said(StoreError::Unavailable(Cause::Gone)));
        }
        self.connection()?.busy_timeout(Duration::ZERO)?;
        let begun = loop {
            match self.execute("BEGIN IMMEDIATE") {
                Err(StoreError::Conflict) => {
                    self.home.is_locked.store(true, Ordering::Relaxed);
                    if since.elapsed() >= self.home.file.wait {
                        break Err(self.said(StoreError::Unavailable(Cause::Locked)));
                    }
                    sleep(BUSY_PAUSE).await;
                }
                other => break other,
            }
        };
        self.connection()?.busy_timeout(self.home.file.wait)?;
        begun?;
        self.home.is_locked.store(false, Ordering::Relaxed);
        self.changes = self.connection()?.total_changes();
        self.is_open = true;
        Ok(())
    }

    /// Commits the transaction, if one was begun.
    pub(super) fn commit(mut self) -> Result<(), StoreError> {
        if self.is_open {
            let began = Instant::now();
            match self.home.is_slow.load(Ordering::Relaxed) {
                true => in_place(|| self.execute("COMMIT"))?,
                false => self.execute("COMMIT")?,
            }
            self.home.is_slow.store(began.elapsed() > LONG_COMMIT, Ordering::Relaxed);
            self.is_open = false;
            // One that wrote nothing says nothing about the disk.
            if self.connection()?.total_changes() > self.changes {
                self.home.trouble.is_over();
            }
        }
        Ok(())
    }

    /// An error on its way to whoever asked.
    fn said(&self, error: StoreError) -> StoreError {
        self.home.trouble.met(&error);
        error
    }

    /// Takes the transaction back, if one was begun.
    pub(super) fn rollback(mut self) -> Result<(), StoreError> {
        if self.is_open {
            self.execute("ROLLBACK")?;
            self.is_open = false;
        }
        Ok(())
    }

    /// A statement failed within the transaction.
    pub(super) fn has_failed(&self) -> bool {
        self.is_open && self.has_failed
    }

    /// Runs statements without parameters. What they take is not left to others: a schema is changed before anybody is
    /// served.
    pub(super) fn run_text(&mut self, text: &str) -> Result<(), StoreError> {
        Ok(self.connection()?.execute_batch(text)?)
    }

    /// Runs a statement to its end; answers how many rows it touched.
    pub(super) async fn run(&mut self, sql: &str, args: &[Arg<'_>]) -> Result<u64, StoreError> {
        consume_budget().await;
        let done = self.step(sql, args);
        self.has_failed |= done.is_err();
        done
    }

    /// Adds what a query finds to an answer.
    pub(super) async fn ask(&mut self, sql: &str, args: &[Arg<'_>], answer: &mut Answer) -> Result<(), StoreError> {
        consume_budget().await;
        let copied = self.copy(sql, args, usize::MAX, |_| answer);
        self.has_failed |= copied.is_err();
        copied.map(drop)
    }

    /// The rows that a query finds, at most so many.
    pub(super) async fn rows(&mut self, sql: &str, args: &[Arg<'_>], most: usize) -> Result<Vec<Row>, StoreError> {
        consume_budget().await;
        let copied = self.copy(sql, args, most, |statement| Answer::new(names_in(statement)));
        self.has_failed |= copied.is_err();
        Ok(copied?.rows())
    }

    fn step(&mut self, sql: &str, args: &[Arg<'_>]) -> Result<u64, StoreError> {
        let connection = self.connection()?;
        let stepped = || -> Result<(), StoreError> {
            let mut statement = bound(connection, sql, args)?;
            let mut rows = statement.raw_query();
            while rows.next()?.is_some() {}
            Ok(())
        };
        stepped().map_err(|error| self.said(error))?;
        Ok(connection.changes())
    }

    /// Copies rows to where `to` says.
    fn copy<A: BorrowMut<Answer>>(
        &mut self,
        sql: &str,
        args: &[Arg<'_>],
        most: usize,
        to: impl FnOnce(&CachedStatement<'_>) -> A,
    ) -> Result<A, StoreError> {
        let mut statement = bound(self.connection()?, sql, args)?;
        let mut answer = to(&statement);
        let width = statement.column_count();
        let mut rows = statement.raw_query();
        let mut found = 0;
        while found < most
            && let Some(row) = rows.next()?
        {
            for n in 0..width {
                answer.borrow_mut().push(row.get_ref(n)?)?;
            }
            found += 1;
        }
        Ok(answer)
    }

    fn execute(&mut self, sql: &'static str) -> Result<(), StoreError> {
        self.step(sql, &[]).map(drop)
    }

    fn connection(&self) -> Result<&Connection, StoreError> {
        self.connection.as_ref().ok_or_else(|| sqlx::Error::PoolClosed.into())
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let Some(connection) = self.connection.take() else { return };
        // A failure may have taken the transaction back already (no space left).
        if self.is_open && !connection.is_autocommit() {
            let _ = connection.execute_batch("ROLLBACK");
        }
        if connection.is_autocommit() && !self.home.is_closed() {
            self.home.idle().push(connection);
        }
    }
}

/// A prepared statement with its parameters: `$2` is the second of them, a bare `?` the one after the last.
fn bound<'c>(connection: &'c Connection, sql: &str, args: &[Arg<'_>]) -> Result<CachedStatement<'c>, StoreError> {
    let mut statement = connection.prepare_cached(sql)?;
    for n in 1..=statement.parameter_count() {
        let number = statement.parameter_name(n).and_then(|name| name.get(1..)?.parse().ok()).unwrap_or(n);
        // What is not given stays NULL.
        if let Some(arg) = args.get(number - 1) {
            statement.raw_bind_parameter(n, arg)?;
        }
    }
    Ok(statement)
}

fn names_in(statement: &CachedStatement<'_>) -> Names {
    statement.column_names().into_iter().map(|name| Cow::Owned(name.to_owned())).collect()
}

impl ToSql for Arg<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match *self {
            Arg::Text(text) | Arg::MaybeText(Some(text)) => ValueRef::Text(text.as_bytes()),
            Arg::Int(int) | Arg::MaybeInt(Some(int)) => ValueRef::Integer(int),
            Arg::Blob(blob) => ValueRef::Blob(blob),
            Arg::MaybeText(None) | Arg::MaybeInt(None) => ValueRef::Null,
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::dialect::args;

    #[test]
    fn a_file_is_opened_once_while_anybody_has_it() {
        let dir = std::env::temp_dir().join(format!("grosz-on-disk-{}", std::process::id()));
        fs::create_dir_all(&dir).unwrap();
        let path = dir.join("hub.db");
        assert!(on_disk(&path).is_none(), "there is no file yet");
        fs::write(&path, "").unwrap();
        let first = on_disk(&path).unwrap();
        fs::hard_link(&path, dir.join("same")).unwrap();
        let second = on_disk(&dir.join("same")).unwrap();
        assert!(Arc::ptr_eq(&first, &second), "one file under two names");
        let past = Arc::downgrade(&first);
        drop((first, second));
        assert!(past.upgrade().is_none());
        assert!(on_disk(&path).is_some());
        fs::remove_dir_all(&dir).unwrap();
    }

    #[tokio::test]
    async fn parameters_are_bound_by_their_numbers() {
        let path = std::env::temp_dir().join(format!("grosz-bound-{}.db", std::process::id()));
        let file = File { path: path.clone(), wait: Duration::from_secs(1), writes: true, on_disk: None };
        let handles = Handles::open(file, 1).unwrap();
        let mut handle = handles.take().await.unwrap();
        let sql = "SELECT $2 AS second, $1 AS first, $2 AS again, $3 AS missing UNION ALL SELECT 1, 2, 3, 4";
        let rows = handle.rows(sql, args!["a", 7], 1).await.unwrap();
        let [row] = &rows[..] else { panic!("no more than was asked for") };
        assert_eq!((row.int("second").unwrap(), row.text("first").unwrap().as_str()), (7, "a"));
        assert_eq!((row.int("again").unwrap(), row.maybe_int("missing").unwrap()), (7, None));
        let rows = handle.rows("SELECT ? AS a, ? AS b", args!["a", 7], 9).await.unwrap();
        assert_eq!((rows[0].text("a").unwrap().as_str(), rows[0].int("b").unwrap()), ("a", 7));
        drop(handle);
        handles.close().await;
        assert!(matches!(handles.take().await, Err(StoreError::Unavailable(_))), "nobody is let in any more");
        fs::remove_file(&path).unwrap();
    }
}
