//! Group intake: webhook calls that wait at the same time share one commit.
//!
//! One committer takes whatever queued while it committed the previous slice; there is no timer, so a lone call never
//! waits. A full queue answers at once. A slice that fails is halved down to single calls, so a poisonous one cannot
//! fail its neighbours.

use grosz_providers::Outcome;
use tokio::sync::{mpsc, oneshot};

use crate::app::SharedApp;
use crate::flows::FlowError;
use crate::flows::receive_webhook::{Inbound, receive};
use crate::store::StoreError;

/// A call and the one who waits for its outcome.
struct Waiting {
    inbound: Inbound,
    answer: oneshot::Sender<Result<Vec<Outcome>, Refused>>,
}

/// Why a call was not recorded. The gateway is answered 503 and comes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Too many are waiting.
    #[error("too many calls are waiting")]
    Full,
    /// The database cannot record it now.
    #[error("the database cannot record it now")]
    Failed,
}

/// The way in. Clones share one queue.
#[derive(Clone)]
pub struct Intake(mpsc::Sender<Waiting>);

impl Intake {
    /// Starts the committer. It ends when all handles are gone and the queue is empty.
    pub fn start(app: SharedApp) -> (Intake, tokio::task::JoinHandle<()>) {
        let (sender, receiver) = mpsc::channel(app.config.intake_queue);
        let task = tokio::spawn(commit_slices(app, receiver));
        (Intake(sender), task)
    }

    /// Hands a call in and waits until it is committed.
    ///
    /// # Errors
    /// It is not recorded; the gateway must come again.
    pub async fn submit(&self, inbound: Inbound) -> Result<Vec<Outcome>, Refused> {
        let (answer, outcome) = oneshot::channel();
        self.0.try_send(Waiting { inbound, answer }).map_err(|_| Refused::Full)?;
        outcome.await.unwrap_or(Err(Refused::Failed))
    }
}

async fn commit_slices(app: SharedApp, mut queue: mpsc::Receiver<Waiting>) {
    let mut slice = vec![];
    while queue.recv_many(&mut slice, app.config.intake_batch).await > 0 {
        commit(&app, std::mem::take(&mut slice)).await;
        app.job_bell.notify_one();
    }
}

/// Commits a slice; on failure its halves, down to single calls.
async fn commit(app: &SharedApp, slice: Vec<Waiting>) {
    let mut stack = vec![slice];
    while let Some(mut slice) = stack.pop() {
        match receive_with_patience(app, &slice).await {
            Ok(outcomes) => {
                for (waiting, outcomes) in slice.into_iter().zip(outcomes) {
                    // A caller that hung up changes nothing: the call is recorded, its repeat is a repeat.
                    let _ = waiting.answer.send(Ok(outcomes));
                }
            }
            Err(error) if slice.len() > 1 && !is_unavailable(&error) => {
                let second = slice.split_off(slice.len() / 2);
                stack.push(second);
                stack.push(slice);
            }
            Err(error) => {
                tracing::error!(error = %error, calls = slice.len(), "Webhook calls could not be recorded");
                for waiting in slice {
                    let _ = waiting.answer.send(Err(Refused::Failed));
                }
            }
        }
    }
}

fn is_unavailable(error: &FlowError) -> bool {
    matches!(error, FlowError::Store(StoreError::Unavailable(_)))
}

/// Conflicts (two processes on one payment, a deadlock) are repeated here, where nothing was answered yet (F57).
async fn receive_with_patience(app: &SharedApp, slice: &[Waiting]) -> Result<Vec<Vec<Outcome>>, FlowError> {
    let calls: Vec<Inbound> = slice.iter().map(|w| w.inbound.clone()).collect();
    let mut tries = 0;
    loop {
        match receive(app, &calls).await {
            Err(FlowError::Store(StoreError::Conflict | StoreError::Taken)) if tries < 5 => {
                tries += 1;
                app.metrics.count(&app.metrics.conflicts, "intake", "repeated");
            }
            other => return other,
        }
    }
}
