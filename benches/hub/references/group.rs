//! Grouped commits: a committer takes whatever queued while it committed the batch before.

use std::hash::{DefaultHasher, Hash, Hasher};

use tokio::sync::{mpsc, oneshot};

use super::{Store, Webhook};

/// Most webhooks in one commit.
pub const BATCH: usize = 256;
const QUEUE: usize = 8192;

/// A webhook and who waits for it.
type Waiting = (Webhook, oneshot::Sender<()>);

/// The committers' queues; a payment always has the same one, so its events keep their order.
#[derive(Clone)]
pub struct Group(Vec<mpsc::Sender<Waiting>>);

impl Group {
    /// Starts the committers, each with a connection of its own. SQLite has one writer, so one committer.
    pub async fn start(store: &Store, committers: usize) -> Group {
        let count = if matches!(store, Store::Sqlite(_)) { 1 } else { committers };
        let mut queues = vec![];
        for _ in 0..count {
            let (sender, receiver) = mpsc::channel(QUEUE);
            queues.push(sender);
            tokio::spawn(commit(store.clone(), receiver));
        }
        Group(queues)
    }

    /// False when it was not recorded.
    pub async fn take(&self, webhook: Webhook) -> bool {
        let mut hasher = DefaultHasher::new();
        webhook.reference.hash(&mut hasher);
        let (sender, committed) = oneshot::channel();
        let queue = &self.0[usize::try_from(hasher.finish() % self.0.len() as u64).unwrap_or(0)];
        queue.try_send((webhook, sender)).is_ok() && committed.await.is_ok()
    }
}

async fn commit(store: Store, mut queue: mpsc::Receiver<Waiting>) {
    let mut batch: Vec<Waiting> = Vec::with_capacity(BATCH);
    while queue.recv_many(&mut batch, BATCH).await > 0 {
        let (webhooks, waiting): (Vec<Webhook>, Vec<oneshot::Sender<()>>) = batch.drain(..).unzip();
        let done = match &store {
            Store::Sqlite(store) => store.take_many(webhooks).await,
            Store::Postgres(store) => store.take_many(&webhooks).await,
        };
        match done {
            Ok(()) => {
                for sender in waiting {
                    // A caller that hung up changes nothing.
                    let _ = sender.send(());
                }
            }
            // Dropped senders are answered 503.
            Err(error) => eprintln!("{error}"),
        }
    }
}
