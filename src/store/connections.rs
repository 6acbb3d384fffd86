//! Connections to PostgreSQL that are at hand. The driver's pool asks every connection that comes back whether it lives,
//! which wakes another process and costs more than many a statement. What came back whole a moment ago is kept here, before
//! the pool, and taken again without a question, after a pause with one; everything else goes to the pool.
//!
//! A connection's answers wake the thread that waits for the sockets of the runtime it was opened in. A committer, whose
//! thread has a runtime of its own, therefore has connections of its own: one wake-up for an answer, not two, and a server
//! process that has all it needs at hand.

use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use sqlx::pool::{Pool, PoolConnection};
use sqlx::{Connection as _, PgConnection, Postgres};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// A connection that was used so short a time ago is not asked whether it lives.
pub(super) const FRESH: Duration = Duration::from_secs(1);

/// Runs a statement without parameters. In a box: the driver's futures are large.
fn run<'c>(connection: &'c mut PgConnection, sql: &'static str) -> BoxFuture<'c, sqlx::Result<()>> {
    Box::pin(async move { sqlx::raw_sql(sql).execute(connection).await.map(drop) })
}

/// All connections of a kind; as many can be held at the same time as there are places.
pub(super) struct Connections {
    pool: Pool<Postgres>,
    places: Arc<Semaphore>,
    idle: Mutex<Vec<Idle>>,
    wait: Duration,
    /// Rises when something becomes known against connections that are open.
    doubts: Arc<AtomicU64>,
}

struct Idle {
    connection: PoolConnection<Postgres>,
    since: Instant,
    doubts: u64,
    plans: Plans,
}

/// The server's plans for a connection's statements are as good as what it knew when it made them. A plan that was made
/// while the tables were all but empty reads them from one end to the other, so it must not live while they grow: plans
/// are made anew whenever the connection was used twice as often, and after a while.
#[derive(Clone, Copy)]
struct Plans {
    uses: u32,
    made: Instant,
}

/// After so long plans are made anew, because somebody else may have filled the tables.
const PLANS_LAST: Duration = Duration::from_secs(10);

impl Plans {
    fn new() -> Plans {
        Plans { uses: 0, made: Instant::now() }
    }

    /// Counts a use; true when the plans have to go before it.
    fn are_old(&mut self) -> bool {
        self.uses = self.uses.saturating_add(1);
        let are_old = self.uses.is_power_of_two() || self.made.elapsed() > PLANS_LAST;
        if are_old {
            self.made = Instant::now();
        }
        are_old
    }
}

impl Connections {
    /// In front of a pool, which nobody else uses: as many places as it has connections. Nobody waits for a place for
    /// longer than `wait`.
    pub(super) fn before(pool: Pool<Postgres>, wait: Duration, doubts: Arc<AtomicU64>) -> Arc<Self> {
        let places = usize::try_from(pool.options().get_max_connections()).unwrap_or(1);
        let (places, idle) = (Arc::new(Semaphore::new(places)), Mutex::default());
        Arc::new(Connections { pool, places, idle, wait, doubts })
    }

    /// A connection.
    pub(super) async fn take(self: &Arc<Self>) -> sqlx::Result<Held> {
        let place = timeout(self.wait, Arc::clone(&self.places).acquire_owned()).await;
        let place = place.map_err(|_| sqlx::Error::PoolTimedOut)?.map_err(|_| sqlx::Error::PoolClosed)?;
        let doubts = self.doubts.load(Ordering::Acquire);
        let (connection, plans) = match self.at_hand(doubts).await {
            Some(Idle { connection, plans, .. }) => (connection, plans),
            None => (self.pool.acquire().await?, Plans::new()),
        };
        let (connection, place, home) = (Some(connection), Some(place), Arc::clone(self));
        Ok(Held { connection, place, home, plans, doubts, is_open: false, is_busy: false })
    }

    /// One that lives. Those that do not are closed here: the pool would ask them, and wait for an answer for as long as
    /// the system does, with their places taken.
    async fn at_hand(&self, doubts: u64) -> Option<Idle> {
        loop {
            // The one that was used last.
            let mut next = self.idle().pop()?;
            let has_old_plans = next.plans.are_old();
            let is_sure = next.since.elapsed() < FRESH;
            if next.doubts != doubts {
                drop(next.connection.detach());
            } else if is_sure && !has_old_plans {
                return Some(next);
            } else if let Some(connection) = asked(next.connection, self.wait, has_old_plans).await {
                return Some(Idle { connection, ..next });
            }
        }
    }

    /// Asks the connection that was idle for the longest time whether it lives; `None` when none is at hand.
    pub(super) async fn one_answers(&self, limit: Duration) -> Option<bool> {
        let _place = self.places.try_acquire().ok()?;
        let oldest = {
            let mut idle = self.idle();
            if idle.is_empty() { None } else { Some(idle.remove(0)) }
        }?;
        let Idle { connection, doubts, plans, .. } = oldest;
        let Some(connection) = asked(connection, limit, false).await else { return Some(false) };
        self.put(Idle { connection, since: Instant::now(), doubts, plans });
        Some(true)
    }

    fn put(&self, idle: Idle) {
        let mut all = self.idle();
        if !self.places.is_closed() && self.doubts.load(Ordering::Acquire) == idle.doubts {
            all.push(idle);
        }
    }

    fn idle(&self) -> MutexGuard<'_, Vec<Idle>> {
        self.idle.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The pool, to change where it connects to.
    pub(super) fn pool(&self) -> &Pool<Postgres> {
        &self.pool
    }

    /// True when [`Connections::close`] was called.
    pub(super) fn is_closed(&self) -> bool {
        self.places.is_closed()
    }

    /// Closes all after the work in flight.
    pub(super) async fn close(&self) {
        self.places.close();
        self.idle().clear();
        self.pool.close().await;
    }
}

/// A connection that answers within the limit, and has forgotten its plans where that is asked for. In a task, so that a
/// caller who leaves meanwhile leaves no question open.
async fn asked(
    mut connection: PoolConnection<Postgres>,
    limit: Duration,
    forget_plans: bool,
) -> Option<PoolConnection<Postgres>> {
    let question = tokio::spawn(async move {
        let answer = match forget_plans {
            true => timeout(limit, run(&mut connection, "DISCARD PLANS")).await,
            false => timeout(limit, connection.ping()).await,
        };
        match answer {
            Ok(Ok(())) => Some(connection),
            _ => {
                drop(connection.detach());
                None
            }
        }
    });
    question.await.ok().flatten()
}

/// A connection, and the transaction that was begun on it. Dropping it takes the transaction back.
pub(super) struct Held {
    connection: Option<PoolConnection<Postgres>>,
    place: Option<OwnedSemaphorePermit>,
    home: Arc<Connections>,
    plans: Plans,
    /// What was known when it was taken.
    doubts: u64,
    /// A transaction was begun, or may have been.
    is_open: bool,
    /// It was used since it last answered whole: a statement is under way, was left halfway, or failed.
    is_busy: bool,
}

impl Held {
    /// Begins a transaction.
    pub(super) async fn begin(&mut self, statement: &'static str) -> sqlx::Result<()> {
        // Before the statement is sent: a caller that leaves halfway leaves a transaction behind.
        self.is_open = true;
        self.run(statement).await
    }

    /// Commits the transaction, if one was begun.
    pub(super) async fn commit(mut self) -> sqlx::Result<()> {
        if self.is_open {
            self.run("COMMIT").await?;
            self.is_open = false;
        }
        Ok(())
    }

    /// Takes the transaction back, if one was begun.
    pub(super) async fn rollback(mut self) -> sqlx::Result<()> {
        if self.is_open {
            self.run("ROLLBACK").await?;
            self.is_open = false;
        }
        Ok(())
    }

    async fn run(&mut self, statement: &'static str) -> sqlx::Result<()> {
        run(self, statement).await?;
        self.has_answered();
        Ok(())
    }

    /// A statement failed within the transaction, or was left halfway.
    pub(super) fn has_failed(&self) -> bool {
        self.is_open && self.is_busy
    }

    /// What it was used for was answered whole. Who never says so has the pool ask it.
    pub(super) fn has_answered(&mut self) {
        self.is_busy = false;
    }
}

/// How long an abandoned transaction may take to be taken back.
const TAKING_BACK: Duration = Duration::from_secs(10);

impl Drop for Held {
    fn drop(&mut self) {
        let Some(mut connection) = self.connection.take() else { return };
        if !self.is_open {
            if !self.is_busy {
                let Held { doubts, plans, .. } = *self;
                self.home.put(Idle { connection, since: Instant::now(), doubts, plans });
            }
            return;
        }
        let place = self.place.take();
        tokio::spawn(async move {
            let taking_back = async {
                match run(&mut connection, "ROLLBACK").await {
                    // What failed may be the statement that was under way, whose answer comes first: nothing was taken back.
                    Err(_) => run(&mut connection, "ROLLBACK").await,
                    done => done,
                }
            };
            if !matches!(timeout(TAKING_BACK, taking_back).await, Ok(Ok(()))) {
                let _ = timeout(TAKING_BACK, connection.detach().close_hard()).await;
            }
            drop(place);
        });
    }
}

impl Deref for Held {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        self.connection.as_ref().expect("it is held until it is dropped")
    }
}

impl DerefMut for Held {
    fn deref_mut(&mut self) -> &mut PgConnection {
        self.is_busy = true;
        self.connection.as_mut().expect("it is held until it is dropped")
    }
}
