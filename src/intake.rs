//! Group intake: calls that wait at the same time share one commit.
//!
//! A committer takes whatever queued while it committed the previous slice; there is no timer, so a lone call never waits.
//! A full queue answers at once, a call that waited too long is turned away before any work is done for it, and while the
//! queue is that long, new calls can be turned away before anything is read out of them ([`Intake::is_behind`]). A slice that
//! fails, be it by a panic, is halved down to single calls, so a poisonous one cannot fail its neighbours; one that met a
//! row which somebody keeps locked is taken apart at once, because each half would wait for it anew. Calls about the same
//! thing go through the same committer, in their order.

use std::hash::{BuildHasher, RandomState};
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::app::{App, SharedApp};
use crate::flows::FlowError;
use crate::log::in_full;
use crate::store::{Pool, StoreError, Tx};

/// Work that is done in slices.
pub trait Sliced: 'static {
    /// One call.
    type Call: Send + Sync + 'static;
    /// What its caller is told after the commit.
    type Answer: Send + 'static;
    /// The word in metrics and logs.
    const NAME: &'static str;
    /// Its number among the kinds of work, below [`KINDS`]: each kind has committers with connections of their own.
    const KIND: usize;

    /// What the call is about; calls about the same keep their order.
    fn about(call: &Self::Call) -> &str;

    /// How many bytes of memory and of a statement the call takes, about.
    fn weight(call: &Self::Call) -> usize;

    /// The call can be tried without locks: what it needs is known before anything is read.
    fn can_do_without_locks(call: &Self::Call) -> bool;

    /// Does all calls of a slice and answers each; the commit comes after it.
    ///
    /// # Errors
    /// The database; nothing of the slice may be committed then.
    fn act(
        app: &App,
        tx: &mut Tx,
        slice: &[Self::Call],
    ) -> impl Future<Output = Result<Vec<Self::Answer>, FlowError>> + Send;
}

/// How many kinds of work are done in slices.
pub const KINDS: usize = 2;

/// Bytes that may wait, in all queues together: as many calls as a queue takes, all of the largest size, would be
/// gigabytes.
const HEAVIEST_QUEUE: usize = 64 << 20;

/// Bytes of one slice, about; a heavier call has a slice of its own.
const HEAVIEST_SLICE: usize = 8 << 20;

/// A call's caller.
struct Waiting<S: Sliced> {
    call: S::Call,
    weight: Weight,
    since: Instant,
    answer: oneshot::Sender<Result<S::Answer, Refused>>,
}

/// Bytes that wait, as long as they do.
struct Weight(Arc<AtomicUsize>, usize);

impl Weight {
    /// `None` when too many wait already. Somebody alone is always let in.
    fn put(all: &Arc<AtomicUsize>, bytes: usize) -> Option<Weight> {
        let before = all.fetch_add(bytes, Ordering::Relaxed);
        let weight = Weight(Arc::clone(all), bytes);
        (before == 0 || before + bytes <= HEAVIEST_QUEUE).then_some(weight)
    }
}

impl Drop for Weight {
    fn drop(&mut self) {
        self.0.fetch_sub(self.1, Ordering::Relaxed);
    }
}

/// Why a call was not done, or perhaps not. Its caller is answered 503 and comes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Too many are waiting.
    #[error("too many calls are waiting")]
    Full,
    /// The database cannot record it now.
    #[error("the database cannot record it now")]
    Failed,
    /// The database did not say whether it recorded it.
    #[error("it is not known whether it was recorded")]
    Unknown,
}

/// The way in. Clones share the committers.
pub struct Intake<S: Sliced> {
    queues: Arc<[Queue<S>]>,
    /// A queue is too long when its first call has waited longer, milliseconds.
    patience_ms: u64,
    /// Bytes that wait.
    bytes: Arc<AtomicUsize>,
    hasher: RandomState,
}

/// The queue of one committer.
struct Queue<S: Sliced> {
    sender: mpsc::Sender<Waiting<S>>,
    /// How long the first call of the last slice had waited, milliseconds.
    waited_ms: Arc<AtomicU64>,
}

impl<S: Sliced> Clone for Intake<S> {
    fn clone(&self) -> Self {
        let (queues, bytes) = (Arc::clone(&self.queues), Arc::clone(&self.bytes));
        Intake { queues, patience_ms: self.patience_ms, bytes, hasher: self.hasher.clone() }
    }
}

impl<S: Sliced> Intake<S> {
    /// Starts the committers, each on a thread and with connections of its own. Their tasks end when all handles are gone and
    /// the queues are empty; one that ends by itself before says `false`.
    pub fn start(app: &SharedApp) -> (Intake<S>, JoinSet<bool>) {
        const { assert!(S::KIND < KINDS) };
        let is_sqlite = app.store.engine_name() == "sqlite";
        // One writer is all that SQLite has.
        let count = if is_sqlite { 1 } else { app.config.intake_committers };
        let mut tasks = JoinSet::new();
        let queues = (0..count).map(|n| {
            let (sender, receiver) = mpsc::channel(app.config.intake_queue.div_ceil(count));
            let waited_ms = Arc::new(AtomicU64::new(0));
            let work =
                commit_slices(Arc::clone(app), Pool::Committer(S::KIND * count + n), receiver, Arc::clone(&waited_ms));
            let ended = on_a_thread(work, !is_sqlite);
            tasks.spawn(async { ended.await.is_ok() });
            Queue { sender, waited_ms }
        });
        let queues = queues.collect();
        let patience_ms = app.config.intake_wait_ms / 2;
        (Intake { queues, patience_ms, bytes: Arc::default(), hasher: RandomState::new() }, tasks)
    }

    /// True while all committers are so far behind that a new call would wait in vain: to be turned away at the door,
    /// before its signature is checked, which would only put the others off.
    pub fn is_behind(&self) -> bool {
        let is_behind = |queue: &Queue<S>| {
            let is_empty = queue.sender.capacity() == queue.sender.max_capacity();
            !is_empty && queue.waited_ms.load(Ordering::Relaxed) > self.patience_ms
        };
        self.queues.iter().all(is_behind)
    }

    /// Hands a call in and waits until it is committed.
    ///
    /// # Errors
    /// It is not done; the caller must come again.
    pub async fn submit(&self, call: S::Call) -> Result<S::Answer, Refused> {
        let hash = usize::try_from(self.hasher.hash_one(S::about(&call)) >> 1).unwrap_or(0);
        let queue = self.queues.get(hash % self.queues.len().max(1)).ok_or(Refused::Failed)?;
        let weight = Weight::put(&self.bytes, S::weight(&call)).ok_or(Refused::Full)?;
        let (answer, outcome) = oneshot::channel();
        queue.sender.try_send(Waiting { call, weight, since: Instant::now(), answer }).map_err(|_| Refused::Full)?;
        outcome.await.unwrap_or(Err(Refused::Failed))
    }
}

/// Gives a committer a thread of its own, so that the system shares the processor out fairly between it and the many
/// calls that are read meanwhile: as one task among them it would wait for all of them at each of its steps. With
/// `has_sockets` the thread waits for its sockets itself: an answer of the database wakes it, and nobody before it.
fn on_a_thread(work: impl Future<Output = ()> + Send + 'static, has_sockets: bool) -> oneshot::Receiver<()> {
    let (end, ended) = oneshot::channel();
    let shared = tokio::runtime::Handle::current();
    let thread = std::thread::Builder::new().name("committer".into()).spawn(move || {
        // What is dropped with the thread's own runtime is put away in the shared one.
        let _shared = shared.enter();
        let own = has_sockets.then(|| tokio::runtime::Builder::new_current_thread().enable_all().build());
        match own {
            Some(Ok(own)) => own.block_on(work),
            Some(Err(_)) | None => shared.block_on(work),
        }
        let _ = end.send(());
    });
    if let Err(error) = thread {
        tracing::error!(error = %error, "No thread for a committer; nothing can be recorded");
    }
    ended
}

async fn commit_slices<S: Sliced>(
    app: SharedApp,
    pool: Pool,
    mut queue: mpsc::Receiver<Waiting<S>>,
    waited_ms: Arc<AtomicU64>,
) {
    let longest = Duration::from_millis(app.config.intake_wait_ms);
    let mut slice = vec![];
    while queue.recv_many(&mut slice, app.config.intake_batch).await > 0 {
        let first_waited = slice.first().map_or(Duration::ZERO, |first| first.since.elapsed());
        waited_ms.store(u64::try_from(first_waited.as_millis()).unwrap_or(u64::MAX), Ordering::Relaxed);
        let mut all = slice.drain(..).peekable();
        while all.peek().is_some() {
            let (mut calls, mut answers, mut weights) = (vec![], vec![], vec![]);
            let mut bytes = 0;
            while let Some(waiting) = all.next_if(|next| bytes == 0 || bytes + next.weight.1 <= HEAVIEST_SLICE) {
                if waiting.since.elapsed() > longest {
                    let _ = waiting.answer.send(Err(Refused::Full));
                    continue;
                }
                bytes += waiting.weight.1;
                calls.push(waiting.call);
                answers.push(waiting.answer);
                weights.push(waiting.weight);
            }
            commit::<S>(&app, pool, calls, answers).await;
        }
    }
}

type Answers<S> = Vec<oneshot::Sender<Result<<S as Sliced>::Answer, Refused>>>;

/// Commits a slice; on failure its halves, down to single calls.
async fn commit<S: Sliced>(app: &App, pool: Pool, calls: Vec<S::Call>, answers: Answers<S>) {
    let mut stack = vec![(calls, answers)];
    while let Some((mut calls, mut answers)) = stack.pop() {
        if calls.is_empty() {
            continue;
        }
        // What a panic leaves behind is a transaction that was not committed: dropped with it, it is taken back (F26).
        let work = AssertUnwindSafe(commit_patiently::<S>(app, pool, &calls)).catch_unwind();
        match work.await.unwrap_or_else(|_| Err(FlowError::Internal("a fault of the hub: it panicked".into()))) {
            Ok(outcomes) => {
                for (answer, outcome) in answers.into_iter().zip(outcomes) {
                    // A caller that hung up changes nothing: the call is recorded, its repeat is a repeat.
                    let _ = answer.send(Ok(outcome));
                }
            }
            Err(error) if calls.len() > 1 && is_locked_out(&error) => {
                let alone = calls.into_iter().zip(answers).map(|(call, answer)| (vec![call], vec![answer]));
                stack.extend(alone.rev());
            }
            Err(error) if calls.len() > 1 && !is_unavailable(&error) => {
                let half = calls.len() / 2;
                stack.push((calls.split_off(half), answers.split_off(half)));
                stack.push((calls, answers));
            }
            Err(error) => {
                let (calls, what, said) = (calls.len(), S::NAME, in_full(&error));
                match is_unavailable(&error) && !is_locked_out(&error) {
                    // Whoever looks after the database says once that it is away, not each call.
                    true => tracing::debug!(error = said, calls, what, "Calls could not be recorded"),
                    false => tracing::error!(error = said, calls, what, "Calls could not be recorded"),
                }
                let refused = match error {
                    FlowError::Store(StoreError::Unknown(_)) => Refused::Unknown,
                    _ => Refused::Failed,
                };
                for answer in answers {
                    let _ = answer.send(Err(refused));
                }
            }
        }
    }
}

/// Somebody has locked a row for too long: it is in the way of one call only (F42).
fn is_locked_out(error: &FlowError) -> bool {
    matches!(error, FlowError::Store(error) if error.is_locked_out())
}

fn is_unavailable(error: &FlowError) -> bool {
    matches!(error, FlowError::Store(StoreError::Unavailable(_) | StoreError::Unknown(_)))
}

/// Conflicts (two processes on one payment, a deadlock) are repeated here, where nothing was answered yet (F57).
async fn commit_patiently<S: Sliced>(app: &App, pool: Pool, calls: &[S::Call]) -> Result<Vec<S::Answer>, FlowError> {
    let mut tries = 0;
    loop {
        match commit_slice::<S>(app, pool, calls).await {
            Err(FlowError::Store(StoreError::Conflict | StoreError::Taken)) if tries < 5 => {
                tries += 1;
                app.metrics.count(&app.metrics.conflicts, S::NAME, "repeated");
            }
            other => return other,
        }
    }
}

/// Does a slice in one transaction, on a connection of that pool: without locks where all of its calls can do without them, with locks where that came
/// to nothing.
///
/// # Errors
/// The database; nothing of the slice is done.
pub async fn commit_slice<S: Sliced>(app: &App, pool: Pool, slice: &[S::Call]) -> Result<Vec<S::Answer>, FlowError> {
    if slice.iter().all(S::can_do_without_locks) {
        match commit_on::<S>(app, app.store.begin_optimistic_in(pool).await?, slice).await {
            Err(FlowError::Store(error)) if error.wants_locks() => {
                app.metrics.count(&app.metrics.conflicts, S::NAME, "locked");
            }
            done => return done,
        }
    }
    commit_on::<S>(app, app.store.begin_in(pool).await?, slice).await
}

async fn commit_on<S: Sliced>(app: &App, mut tx: Tx, slice: &[S::Call]) -> Result<Vec<S::Answer>, FlowError> {
    let answers = S::act(app, &mut tx, slice).await?;
    let first_due = tx.first_due();
    tx.commit().await?;
    app.job_bell.ring_for(first_due, app.now());
    Ok(answers)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Nothing;

    impl Sliced for Nothing {
        type Call = ();
        type Answer = ();
        const NAME: &'static str = "nothing";
        const KIND: usize = 0;
        fn about((): &()) -> &str {
            ""
        }
        fn weight((): &()) -> usize {
            1
        }
        fn can_do_without_locks((): &()) -> bool {
            true
        }
        async fn act(_: &App, _: &mut Tx, slice: &[()]) -> Result<Vec<()>, FlowError> {
            Ok(vec![(); slice.len()])
        }
    }

    #[test]
    fn only_a_queue_that_is_long_and_slow_is_behind() {
        let (sender, mut receiver) = mpsc::channel(4);
        let waited_ms = Arc::new(AtomicU64::new(300));
        let queue = Queue { sender, waited_ms: Arc::clone(&waited_ms) };
        let (queues, bytes, hasher) = (Arc::new([queue]), Arc::default(), RandomState::new());
        let intake = Intake::<Nothing> { queues, patience_ms: 250, bytes, hasher };
        assert!(!intake.is_behind(), "nobody waits: whoever comes is done at once");
        let (answer, _caller) = oneshot::channel();
        let weight = Weight::put(&intake.bytes, 1).unwrap();
        let waiting = Waiting { call: (), weight, since: Instant::now(), answer };
        assert!(intake.queues[0].sender.try_send(waiting).is_ok());
        assert!(intake.is_behind());
        waited_ms.store(250, Ordering::Relaxed);
        assert!(!intake.is_behind());
        waited_ms.store(300, Ordering::Relaxed);
        assert!(receiver.try_recv().is_ok());
        assert!(!intake.is_behind());
    }

    #[test]
    fn bytes_that_wait_are_bounded() {
        let all = Arc::default();
        let heavy = Weight::put(&all, 2 * HEAVIEST_QUEUE);
        assert!(heavy.is_some(), "somebody alone is always let in");
        assert!(Weight::put(&all, 1).is_none());
        drop(heavy);
        let first = Weight::put(&all, HEAVIEST_QUEUE - 1);
        let second = Weight::put(&all, 1);
        assert!(first.is_some() && second.is_some());
        assert!(Weight::put(&all, 1).is_none());
        drop((first, second));
        assert_eq!(all.load(Ordering::Relaxed), 0);
    }
}
