//! The way to PostgreSQL: which of several hosts takes writes, how long an answer may take, which connections are still
//! good, what a pooler in between forbids, and how processes wake each other.
//!
//! Writes are never forced: a transaction begins as the server's settings say, so a remnant of a fail-over that was made
//! read-only refuses by itself. A refusal or a lost connection raises a *doubt*; the keeper then looks at every host,
//! turns the pools to the one that takes writes, and has older connections closed.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgListener, PgPool, PgPoolOptions};
use sqlx::{ConnectOptions, Connection, Row as _};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;

use super::connections::{Connections, FRESH, Held};
use super::dialect::{Cause, Pool, StoreError, StoreSettings, what_is_missing};
use super::trouble::Trouble;

/// Pause between two looks at the hosts.
const LOOK_PAUSE: Duration = Duration::from_millis(500);
/// Pause between two calls to the workers of other processes; what is enqueued meanwhile goes with the next.
const CALL_PAUSE: Duration = Duration::from_millis(5);
/// A connection that has nothing else to do answers within this time, or the database is not well.
const PING: Duration = Duration::from_secs(1);
/// How long a listening connection may be silent before it is asked whether it lives.
const SILENCE: Duration = Duration::from_secs(30);
/// How statements are planned, where they are kept: once for all slices of any length, until the tables have grown
/// (`connections.rs`). Left to itself the server plans a statement over arrays anew for each short slice, which costs
/// nearly as much as the statement.
const PLANNING: [(&str, &str); 2] = [("plan_cache_mode", "force_generic_plan"), ("jit", "off")];
/// A committer waits for a row that somebody else has locked for this part of `db_answer_s`: everybody behind it waits too.
const LOCK_SHARE: u32 = 8;
/// Before that the server looks whether two wait for each other (`deadlock_timeout`, a second), which is nobody's fault and
/// is repeated.
const SHORTEST_LOCK: Duration = Duration::from_millis(1200);
/// The server ends a statement so much later than we stop waiting for it.
const GRACE: Duration = Duration::from_secs(1);
const CHANNEL: &str = "grosz_jobs";
/// Connections that are kept for the accounts that webhooks name.
const RESERVED: u32 = 2;
/// Connections that a committer may have: the second is opened only while the first has a transaction to take back.
const FOR_A_COMMITTER: u32 = 2;

/// What the database will answer. In a box: the driver's futures are large, and flows hold many of them.
pub(super) type Answer<'a, T> = Pin<Box<dyn Future<Output = Result<T, StoreError>> + Send + 'a>>;

/// Pools of connections to one database, wherever it lives at the moment.
pub(super) struct Link {
    /// For everybody.
    pub(super) shared: Arc<Connections>,
    /// For the accounts that webhooks name, so that nobody else can take the last connection (F54).
    pub(super) reserved: Arc<Connections>,
    /// For each committer.
    committers: Vec<Arc<Connections>>,
    /// False behind a pooler in transaction mode: the next transaction meets another server connection, where a named
    /// statement is not known.
    pub(super) keeps_statements: bool,
    pooler: bool,
    /// How long a committer waits for a lock.
    longest_lock: Duration,
    hosts: Vec<PgConnectOptions>,
    at: watch::Sender<usize>,
    listen: Option<PgConnectOptions>,
    wait: Duration,
    answer: Duration,
    doubt: Arc<Doubt>,
    call: Notify,
    /// The last look found no host that can be used: why.
    away: Mutex<Option<String>>,
    /// What a look at the hosts does not find.
    pub(super) trouble: Trouble,
    /// Slices since one had payments with cases or buyers.
    pub(super) slices_alone: AtomicU32,
    /// This process's ids go by the database's clock.
    pub(super) keeps_time: AtomicBool,
}

/// What is known against the connections.
struct Doubt {
    born: Instant,
    /// Connections older than this instant, in milliseconds after `born`, are not used again.
    stale_before_ms: AtomicU64,
    /// Something happened that one look at the hosts must explain.
    open: AtomicBool,
    /// …and it casts doubt on connections that are open.
    on_connections: AtomicBool,
    /// How often there was such a doubt, or one was settled.
    times: Arc<AtomicU64>,
    bell: Notify,
}

/// What a look at a host found.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Standing {
    TakesWrites,
    ReadOnly,
    /// It does not answer, or lets nobody in.
    Away(String),
}

impl Link {
    /// Connects to `postgres://user:password@host:port,host:port/database`: to the host that takes writes, else to one
    /// that can be read.
    pub(super) async fn open(url: &str, settings: &StoreSettings) -> Result<Arc<Link>, StoreError> {
        let parse = |url: &str| -> Result<PgConnectOptions, StoreError> {
            let options = PgConnectOptions::from_str(url)?.application_name("grosz").disable_statement_logging();
            // A pooler refuses start parameters that it does not know; floats are used nowhere.
            Ok(match settings.pooler {
                true => options.extra_float_digits(None).statement_cache_capacity(0),
                // No transaction of ours is idle for as long as an answer may take: its process was stopped, and its locks
                // are in everybody's way (F42).
                false => options
                    .options(PLANNING)
                    .options([("idle_in_transaction_session_timeout", settings.answer_s.saturating_mul(1000))]),
            })
        };
        let hosts = one_address_a_host(url).iter().map(|url| parse(url)).collect::<Result<Vec<_>, _>>()?;
        let listen = match settings.listen_url.as_str() {
            "" => None,
            url => Some(PgConnectOptions::from_str(url)?.application_name("grosz").disable_statement_logging()),
        };
        let wait = Duration::from_secs(settings.wait_s);
        let answer = Duration::from_secs(settings.answer_s);
        let mut first = Err(StoreError::Schema("database_url names no host".into()));
        for (n, host) in hosts.iter().enumerate() {
            match look(host, wait).await {
                Ok(Standing::TakesWrites) => {
                    first = Ok(n);
                    break;
                }
                Ok(_) if first.is_err() => first = Ok(n),
                Err(e) if first.is_err() => first = Err(e.into()),
                Ok(_) | Err(_) => {}
            }
        }
        let first = first?;
        let host = hosts.get(first).cloned().unwrap_or_default();
        let doubt = Arc::new(Doubt::new());
        let pool = |places, host: PgConnectOptions| {
            let pool = pool(places, wait, answer, host, &doubt);
            Connections::before(pool, wait, Arc::clone(&doubt.times))
        };
        let longest_lock = (answer / LOCK_SHARE).max(SHORTEST_LOCK).min(answer * 3 / 4);
        let pooler = settings.pooler;
        let link = Arc::new(Link {
            shared: pool(settings.connections, for_everybody(host.clone(), pooler, answer)),
            reserved: pool(RESERVED, for_everybody(host.clone(), pooler, answer)),
            committers: (0..settings.committers)
                .map(|_| pool(FOR_A_COMMITTER, for_a_committer(host.clone(), pooler, longest_lock)))
                .collect(),
            pooler,
            longest_lock,
            keeps_statements: !settings.pooler,
            at: watch::Sender::new(first),
            listen,
            wait,
            answer,
            doubt: Arc::clone(&doubt),
            call: Notify::new(),
            away: Mutex::default(),
            trouble: Trouble::default(),
            slices_alone: AtomicU32::new(0),
            keeps_time: AtomicBool::new(false),
            hosts,
        });
        tokio::spawn(keep(Arc::downgrade(&link), doubt));
        Ok(link)
    }

    /// Its connections.
    pub(super) fn pool_of(&self, pool: Pool) -> &Arc<Connections> {
        match pool {
            Pool::Shared => &self.shared,
            Pool::Committer(n) => self.committers.get(n).unwrap_or(&self.shared),
        }
    }

    /// All of its connections.
    pub(super) fn all(&self) -> impl Iterator<Item = &Arc<Connections>> {
        [&self.shared, &self.reserved].into_iter().chain(&self.committers)
    }

    /// Begins a transaction. A connection that turns out to be dead is no reason to give up: nothing was asked yet.
    pub(super) fn begin<'a>(&'a self, pool: &'a Arc<Connections>, statement: &'static str) -> Answer<'a, Held> {
        Box::pin(async move {
            let began = Instant::now();
            loop {
                let begun = async {
                    let mut connection = pool.take().await?;
                    connection.begin(statement).await?;
                    Ok(connection)
                };
                match timeout(self.answer, self.watched(begun)).await {
                    Ok(Ok(connection)) => return Ok(connection),
                    Ok(Err(e)) if is_lost(&e) && began.elapsed() < self.wait => {
                        self.doubt.weigh(&e);
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    Ok(Err(e)) => return Err(self.failed(e)),
                    Err(_) => return Err(self.no_answer()),
                }
            }
        })
    }

    /// A connection of a pool.
    pub(super) fn connection<'a>(&'a self, pool: &'a Arc<Connections>) -> Answer<'a, Held> {
        self.answer(self.watched(pool.take()))
    }

    /// Waits for an answer of the database, but not for ever: a host can vanish without a word.
    pub(super) fn answer<'a, T: 'a>(
        &'a self,
        work: impl Future<Output = sqlx::Result<T>> + Send + 'a,
    ) -> Answer<'a, T> {
        // In a box of its own at once: the driver's futures are large, and are moved at each step from here on.
        let work = Box::pin(work);
        Box::pin(async move {
            match timeout(self.answer, work).await {
                Ok(Ok(answer)) => Ok(answer),
                Ok(Err(e)) => Err(self.failed(e)),
                Err(_) => Err(self.no_answer()),
            }
        })
    }

    /// A connection that is long in coming raises a doubt: the pool itself would go on calling a host that is gone.
    async fn watched<T>(&self, work: impl Future<Output = T>) -> T {
        let mut work = std::pin::pin!(work);
        match timeout(LOOK_PAUSE, &mut work).await {
            Ok(done) => done,
            Err(_) => {
                self.doubt.raise(false);
                work.await
            }
        }
    }

    /// Nobody gets a connection to a host that is away; that is not for want of connections.
    fn failed(&self, error: sqlx::Error) -> StoreError {
        let is_looked_into = self.doubt.weigh(&error);
        if let (sqlx::Error::PoolTimedOut, Some(why)) = (&error, self.away()) {
            return StoreError::Unavailable(Cause::Away(why));
        }
        let error = StoreError::from(error);
        if !is_looked_into && !error.is_locked_out() {
            self.trouble.met(&error);
        }
        error
    }

    /// Why the last look found no host that can be used; `None` when it found one.
    pub(super) fn away(&self) -> Option<String> {
        self.away.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// One statement may be slow, or wait for a row, while the database is well: what is known against the other connections
    /// is what one of them says. Where none is at hand to be asked, all are doubted.
    fn no_answer(&self) -> StoreError {
        self.doubt.raise(false);
        let (others, doubt) = (self.all().map(Arc::clone).collect::<Vec<_>>(), Arc::clone(&self.doubt));
        tokio::spawn(async move {
            for connections in &others {
                match connections.one_answers(PING).await {
                    Some(true) => return,
                    Some(false) => break,
                    None => {}
                }
            }
            doubt.raise(true);
        });
        let silence = StoreError::from(silence("db_answer_s"));
        self.trouble.met(&silence);
        silence
    }

    /// Has the workers of other processes look for jobs, soon. Costs the caller nothing.
    pub(super) fn call_workers(&self) {
        self.call.notify_one();
    }

    /// Sends the calls. NOTIFY takes a lock of the whole server when it commits, so it goes apart from the business
    /// transactions, without a flush, and once for all that was enqueued in a few milliseconds.
    pub(super) async fn send_calls(&self) {
        loop {
            self.call.notified().await;
            let sent = async {
                let mut connection = self.connection(&self.reserved).await?;
                let call = sqlx::raw_sql("SET LOCAL synchronous_commit = off; NOTIFY grosz_jobs");
                self.answer(call.execute(&mut *connection)).await
            };
            if let Err(error) = sent.await {
                // Workers look by themselves, only later.
                tracing::debug!(error = %error, "Workers could not be called");
            }
            tokio::time::sleep(CALL_PAUSE).await;
        }
    }

    /// Rings whenever another process called, and whenever a call may have been missed.
    pub(super) async fn hear_calls(&self, ring: impl Fn()) {
        loop {
            let mut at = self.at.subscribe();
            let address = match &self.listen {
                Some(address) => address.clone(),
                // A pooler gives no connection that could be listened on.
                None if !self.keeps_statements => return std::future::pending().await,
                None => self.hosts.get(*at.borrow_and_update()).cloned().unwrap_or_default(),
            };
            let ended = tokio::select! {
                ended = self.listen(address, &ring) => ended,
                _ = at.changed() => Ok(()),
            };
            if let Err(error) = ended {
                tracing::debug!(error = %error, "The listening connection is lost");
            }
            ring();
            tokio::time::sleep(LOOK_PAUSE).await;
        }
    }

    async fn listen(&self, address: PgConnectOptions, ring: &impl Fn()) -> sqlx::Result<()> {
        let own = PgPoolOptions::new().max_connections(1).max_lifetime(None).idle_timeout(None);
        let own = own.acquire_timeout(self.wait).connect_lazy_with(address);
        let mut listener = PgListener::connect_with(&own).await?;
        listener.eager_reconnect(false);
        listener.listen(CHANNEL).await?;
        ring();
        loop {
            match timeout(SILENCE, listener.try_recv()).await {
                Ok(Ok(Some(_))) => ring(),
                Ok(Ok(None)) => return Ok(()),
                Ok(Err(e)) => return Err(e),
                Err(_) => {
                    let asked = sqlx::raw_sql("SELECT 1").execute(&mut listener);
                    timeout(self.answer, asked).await.map_err(|_| sqlx::Error::PoolTimedOut)??;
                }
            }
        }
    }

    /// The database's clock, and how long it took to ask for it, microseconds.
    pub(super) async fn clock(&self) -> Result<(i64, i64), StoreError> {
        let sql = "SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)::text";
        let mut connection = self.connection(&self.shared).await?;
        let asked = Instant::now();
        let row = self.answer(sqlx::raw_sql(sql).fetch_one(&mut *connection)).await?;
        let took = i64::try_from(asked.elapsed().as_micros()).unwrap_or(i64::MAX);
        connection.has_answered();
        let text: String = row.try_get(0)?;
        let at = text.parse().map_err(|_| StoreError::Unreadable(format!("clock: {text:?}")))?;
        Ok((at, took))
    }

    /// Looks at every host, the present one first; turns the pools to the first that takes writes, else to the first
    /// that can be read.
    async fn look_around(&self) -> Standing {
        let present = *self.at.borrow();
        let order = std::iter::once(present).chain((0..self.hosts.len()).filter(|n| *n != present));
        let (mut readable, mut why) = (None, None);
        for n in order {
            let Some(host) = self.hosts.get(n) else { continue };
            match look(host, self.wait).await {
                Ok(Standing::TakesWrites) => {
                    self.turn_to(n);
                    return Standing::TakesWrites;
                }
                Ok(Standing::ReadOnly) => readable = readable.or(Some(n)),
                Ok(Standing::Away(_)) => {}
                Err(e) => drop(why.get_or_insert_with(|| what_is_missing(&e.into()).into_owned())),
            }
        }
        match readable {
            Some(n) => {
                if n != present {
                    self.turn_to(n);
                }
                Standing::ReadOnly
            }
            None => Standing::Away(why.unwrap_or_default()),
        }
    }

    fn turn_to(&self, n: usize) {
        let moved = *self.at.borrow() != n;
        if let (true, Some(host)) = (moved, self.hosts.get(n)) {
            for connections in [&self.shared, &self.reserved] {
                connections.pool().set_connect_options(for_everybody(host.clone(), self.pooler, self.answer));
            }
            for connections in &self.committers {
                let host = for_a_committer(host.clone(), self.pooler, self.longest_lock);
                connections.pool().set_connect_options(host);
            }
            self.at.send_replace(n);
            tracing::warn!(host = n + 1, of = self.hosts.len(), "The database moved to another host");
        }
        if self.doubt.on_connections.swap(false, Ordering::Relaxed) || moved {
            self.doubt.forget_connections();
        }
    }
}

impl Doubt {
    fn new() -> Doubt {
        Doubt {
            born: Instant::now(),
            stale_before_ms: AtomicU64::new(0),
            open: AtomicBool::new(false),
            on_connections: AtomicBool::new(false),
            times: Arc::default(),
            bell: Notify::new(),
        }
    }

    /// Asks whether an error says something about the host or the connections; true when a look at the hosts explains it.
    fn weigh(&self, error: &sqlx::Error) -> bool {
        let code = error.as_database_error().and_then(|d| d.code()).unwrap_or_default().into_owned();
        let is_of_connections = is_lost(error)
            || code == "25006"
            || ["08", "57P", "28", "3D", "53300", "55000"].iter().any(|class| code.starts_with(class));
        if is_of_connections {
            self.raise(true);
        } else if matches!(error, sqlx::Error::PoolTimedOut) {
            self.raise(false);
        }
        is_of_connections
    }

    fn raise(&self, on_connections: bool) {
        if on_connections {
            self.on_connections.store(true, Ordering::Relaxed);
            self.times.fetch_add(1, Ordering::Release);
        }
        self.open.store(true, Ordering::Relaxed);
        self.bell.notify_one();
    }

    fn forget_connections(&self) {
        let now = u64::try_from(self.born.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.stale_before_ms.store(now, Ordering::Relaxed);
        self.times.fetch_add(1, Ordering::Release);
    }

    /// True for a connection of this age that was opened before the last doubt was settled.
    fn is_stale(&self, age: Duration) -> bool {
        let settled = Duration::from_millis(self.stale_before_ms.load(Ordering::Relaxed));
        age > self.born.elapsed().saturating_sub(settled)
    }
}

/// Settles doubts as long as the link lives.
async fn keep(link: Weak<Link>, doubt: Arc<Doubt>) {
    // Without it nobody would find the host that takes writes: a panic is no end of it.
    while AssertUnwindSafe(keep_once(&link, &doubt)).catch_unwind().await.is_err() {
        tracing::error!("The look at the database's hosts met a fault of the hub; it begins again");
        tokio::time::sleep(LOOK_PAUSE).await;
        doubt.open.store(true, Ordering::Relaxed);
    }
}

async fn keep_once(link: &Weak<Link>, doubt: &Doubt) {
    let mut known = Standing::TakesWrites;
    loop {
        if known == Standing::TakesWrites && !doubt.open.load(Ordering::Relaxed) {
            tokio::select! {
                () = doubt.bell.notified() => {}
                // The link may be gone.
                () = tokio::time::sleep(SILENCE) => {}
            }
        }
        let Some(link) = link.upgrade().filter(|l| !l.shared.is_closed()) else { return };
        // A doubt that is raised while we look is looked into next time.
        if doubt.open.swap(false, Ordering::Relaxed) || known != Standing::TakesWrites {
            let found = link.look_around().await;
            if found != known {
                say(&found);
            }
            let away = if let Standing::Away(why) = &found { Some(why.clone()) } else { None };
            *link.away.lock().unwrap_or_else(PoisonError::into_inner) = away;
            known = found;
        }
        drop(link);
        tokio::time::sleep(LOOK_PAUSE).await;
    }
}

fn say(found: &Standing) {
    match found {
        Standing::TakesWrites => tracing::info!("The database takes writes again"),
        Standing::ReadOnly => {
            tracing::error!("The database is read-only: nothing can be recorded until it takes writes")
        }
        Standing::Away(why) => {
            tracing::error!("The database cannot be used: {why}. Nothing can be recorded until it can")
        }
    }
}

/// Asks one host, on a connection of its own, whether it takes writes.
async fn look(host: &PgConnectOptions, limit: Duration) -> sqlx::Result<Standing> {
    let asked = async {
        let mut connection = PgConnection::connect_with(host).await?;
        let sql = "SELECT pg_is_in_recovery() OR current_setting('transaction_read_only') = 'on' AS read_only";
        let row = sqlx::raw_sql(sql).fetch_one(&mut connection).await?;
        let read_only: bool = row.try_get(0)?;
        let _ = connection.close().await;
        Ok(if read_only { Standing::ReadOnly } else { Standing::TakesWrites })
    };
    timeout(limit, asked).await.unwrap_or_else(|_| Err(silence("db_wait_s")))
}

/// No answer within a setting.
fn silence(limit: &str) -> sqlx::Error {
    sqlx::Error::Io(std::io::Error::new(std::io::ErrorKind::TimedOut, format!("no answer within {limit}")))
}

fn pool(connections: u32, wait: Duration, answer: Duration, host: PgConnectOptions, doubt: &Arc<Doubt>) -> PgPool {
    let (on_take, on_return) = (Arc::clone(doubt), Arc::clone(doubt));
    PgPoolOptions::new()
        .max_connections(connections)
        .acquire_timeout(wait)
        // Our own look below spares a round trip on each transaction.
        .test_before_acquire(false)
        .before_acquire(move |connection, meta| {
            let (is_stale, doubt) = (on_take.is_stale(meta.age), Arc::clone(&on_take));
            Box::pin(async move {
                if is_stale || meta.idle_for < FRESH {
                    return Ok(!is_stale);
                }
                let lives = timeout(answer, connection.ping()).await.unwrap_or(Err(sqlx::Error::PoolTimedOut));
                if lives.is_err() {
                    doubt.raise(true);
                }
                lives.map(|()| true)
            })
        })
        .after_release(move |connection, meta| {
            let (is_stale, doubtful) = (on_return.is_stale(meta.age), on_return.on_connections.load(Ordering::Relaxed));
            Box::pin(async move {
                if is_stale || !doubtful {
                    return Ok(!is_stale);
                }
                // The pool asks again, but waits for ever.
                Ok(timeout(answer, connection.ping()).await.is_ok_and(|pong| pong.is_ok()))
            })
        })
        .connect_lazy_with(host)
}

/// The way of everybody but the committers to a host: the server ends a statement soon after nobody waits for it any more. A
/// commit that waits for a standby is no part of a statement's time. Behind a pooler nothing can be said of a connection.
fn for_everybody(host: PgConnectOptions, pooler: bool, answer: Duration) -> PgConnectOptions {
    match pooler {
        true => host,
        false => host.options([("statement_timeout", (answer + GRACE).as_millis())]),
    }
}

/// The way of a committer to a host. Behind a pooler nothing can be said of a connection.
fn for_a_committer(host: PgConnectOptions, pooler: bool, longest_lock: Duration) -> PgConnectOptions {
    match pooler {
        true => host,
        false => host.options([("lock_timeout", longest_lock.as_millis())]),
    }
}

impl StoreError {
    /// True when somebody else had locked a row for too long: the database is well, and others need not wait.
    pub fn is_locked_out(&self) -> bool {
        let StoreError::Unavailable(Cause::Server(sqlx::Error::Database(error))) = self else { return false };
        error.code().is_some_and(|code| code == "55P03")
    }
}

/// True when the connection, not the statement, is to blame.
fn is_lost(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) | sqlx::Error::WorkerCrashed => true,
        sqlx::Error::Database(e) => e.code().is_some_and(|c| matches!(&*c, "57P01" | "57P02" | "08003" | "08006")),
        _ => false,
    }
}

/// `postgres://user@a:1,b:2/db` as one address for each host.
fn one_address_a_host(url: &str) -> Vec<String> {
    let (scheme, rest) = url.split_once("://").unwrap_or(("postgres", url));
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, tail) = rest.split_at(end);
    let (user, hosts) = match authority.rsplit_once('@') {
        Some((user, hosts)) => (format!("{user}@"), hosts),
        None => (String::new(), authority),
    };
    hosts.split(',').map(|host| format!("{scheme}://{user}{host}{tail}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_may_name_several_hosts() {
        assert_eq!(
            one_address_a_host("postgres://u:p,w@a:1,[::1]:2,c/db?sslmode=require"),
            [
                "postgres://u:p,w@a:1/db?sslmode=require",
                "postgres://u:p,w@[::1]:2/db?sslmode=require",
                "postgres://u:p,w@c/db?sslmode=require"
            ]
        );
        assert_eq!(one_address_a_host("postgres://a"), ["postgres://a"]);
    }

    #[test]
    fn a_doubt_makes_older_connections_stale() {
        let doubt = Doubt::new();
        assert!(!doubt.is_stale(Duration::ZERO));
        doubt.stale_before_ms.store(60_000, Ordering::Relaxed);
        assert!(doubt.is_stale(Duration::from_secs(1)), "opened before the doubt was settled");
    }
}
