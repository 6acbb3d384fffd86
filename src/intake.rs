//! Group intake: calls that wait at the same time share one commit.
//!
//! A committer takes whatever queued while it committed the previous slice; there is no timer, so a lone call never waits.
//! A full queue answers at once, and a call that waited too long is turned away before any work is done for it. A slice
//! that fails is halved down to single calls, so a poisonous one cannot fail its neighbours. Calls about the same thing
//! go through the same committer, in their order.

use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use crate::app::{App, SharedApp};
use crate::flows::FlowError;
use crate::store::StoreError;

/// Work that is done in slices.
pub trait Sliced: 'static {
    /// One call.
    type Call: Send + Sync + 'static;
    /// What its caller is told after the commit.
    type Answer: Send + 'static;
    /// The word in metrics and logs.
    const NAME: &'static str;

    /// What the call is about; calls about the same keep their order.
    fn about(call: &Self::Call) -> &str;

    /// Does all calls of a slice in one transaction and answers each.
    ///
    /// # Errors
    /// The database; nothing of the slice is done.
    fn commit(app: &App, slice: &[Self::Call]) -> impl Future<Output = Result<Vec<Self::Answer>, FlowError>> + Send;
}

/// A call's caller.
struct Waiting<S: Sliced> {
    call: S::Call,
    since: Instant,
    answer: oneshot::Sender<Result<S::Answer, Refused>>,
}

/// Why a call was not done. Its caller is answered 503 and comes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Too many are waiting.
    #[error("too many calls are waiting")]
    Full,
    /// The database cannot record it now.
    #[error("the database cannot record it now")]
    Failed,
}

/// The way in. Clones share the committers.
pub struct Intake<S: Sliced> {
    queues: Arc<[mpsc::Sender<Waiting<S>>]>,
    hasher: RandomState,
}

impl<S: Sliced> Clone for Intake<S> {
    fn clone(&self) -> Self {
        Intake { queues: Arc::clone(&self.queues), hasher: self.hasher.clone() }
    }
}

impl<S: Sliced> Intake<S> {
    /// Starts the committers. Their tasks end when all handles are gone and the queues are empty.
    pub fn start(app: &SharedApp) -> (Intake<S>, JoinSet<()>) {
        // One writer is all that SQLite has.
        let count = if app.store.engine_name() == "sqlite" { 1 } else { app.config.intake_committers };
        let mut tasks = JoinSet::new();
        let queues = (0..count).map(|_| {
            let (sender, receiver) = mpsc::channel(app.config.intake_queue.div_ceil(count));
            tasks.spawn(commit_slices(Arc::clone(app), receiver));
            sender
        });
        let queues = queues.collect();
        (Intake { queues, hasher: RandomState::new() }, tasks)
    }

    /// Hands a call in and waits until it is committed.
    ///
    /// # Errors
    /// It is not done; the caller must come again.
    pub async fn submit(&self, call: S::Call) -> Result<S::Answer, Refused> {
        let hash = usize::try_from(self.hasher.hash_one(S::about(&call)) >> 1).unwrap_or(0);
        let queue = self.queues.get(hash % self.queues.len().max(1)).ok_or(Refused::Failed)?;
        let (answer, outcome) = oneshot::channel();
        queue.try_send(Waiting { call, since: Instant::now(), answer }).map_err(|_| Refused::Full)?;
        outcome.await.unwrap_or(Err(Refused::Failed))
    }
}

async fn commit_slices<S: Sliced>(app: SharedApp, mut queue: mpsc::Receiver<Waiting<S>>) {
    let longest = Duration::from_millis(app.config.intake_wait_ms);
    let mut slice = vec![];
    while queue.recv_many(&mut slice, app.config.intake_batch).await > 0 {
        let (mut calls, mut answers) = (Vec::with_capacity(slice.len()), Vec::with_capacity(slice.len()));
        for waiting in slice.drain(..) {
            if waiting.since.elapsed() > longest {
                let _ = waiting.answer.send(Err(Refused::Full));
                continue;
            }
            calls.push(waiting.call);
            answers.push(waiting.answer);
        }
        commit::<S>(&app, calls, answers).await;
        app.job_bell.notify_one();
    }
}

type Answers<S> = Vec<oneshot::Sender<Result<<S as Sliced>::Answer, Refused>>>;

/// Commits a slice; on failure its halves, down to single calls.
async fn commit<S: Sliced>(app: &App, calls: Vec<S::Call>, answers: Answers<S>) {
    let mut stack = vec![(calls, answers)];
    while let Some((mut calls, mut answers)) = stack.pop() {
        if calls.is_empty() {
            continue;
        }
        match commit_patiently::<S>(app, &calls).await {
            Ok(outcomes) => {
                for (answer, outcome) in answers.into_iter().zip(outcomes) {
                    // A caller that hung up changes nothing: the call is recorded, its repeat is a repeat.
                    let _ = answer.send(Ok(outcome));
                }
            }
            Err(error) if calls.len() > 1 && !is_unavailable(&error) => {
                let half = calls.len() / 2;
                stack.push((calls.split_off(half), answers.split_off(half)));
                stack.push((calls, answers));
            }
            Err(error) => {
                tracing::error!(error = %error, calls = calls.len(), what = S::NAME, "Calls could not be recorded");
                for answer in answers {
                    let _ = answer.send(Err(Refused::Failed));
                }
            }
        }
    }
}

fn is_unavailable(error: &FlowError) -> bool {
    matches!(error, FlowError::Store(StoreError::Unavailable(_)))
}

/// Conflicts (two processes on one payment, a deadlock) are repeated here, where nothing was answered yet (F57).
async fn commit_patiently<S: Sliced>(app: &App, calls: &[S::Call]) -> Result<Vec<S::Answer>, FlowError> {
    let mut tries = 0;
    loop {
        match S::commit(app, calls).await {
            Err(FlowError::Store(StoreError::Conflict | StoreError::Taken)) if tries < 5 => {
                tries += 1;
                app.metrics.count(&app.metrics.conflicts, S::NAME, "repeated");
            }
            other => return other,
        }
    }
}
