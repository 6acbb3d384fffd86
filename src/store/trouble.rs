//! What keeps everybody from writing is said once, here, and not by each of those who met it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::dialect::{Cause, StoreError};

/// So long it is not said again.
const AGAIN: Duration = Duration::from_secs(60);

/// Whether something is in the way.
#[derive(Default)]
pub(super) struct Trouble {
    is_on: AtomicBool,
    said: Mutex<Option<Instant>>,
}

impl Trouble {
    /// Somebody met an error.
    pub(super) fn met(&self, error: &StoreError) {
        let StoreError::Unavailable(cause) = error else { return };
        if matches!(cause, Cause::Server(sqlx::Error::PoolClosed)) {
            return;
        }
        let mut said = self.said.lock().unwrap_or_else(PoisonError::into_inner);
        if said.is_none_or(|at| at.elapsed() >= AGAIN) {
            *said = Some(Instant::now());
            self.is_on.store(true, Ordering::Relaxed);
            tracing::error!("{error}. What meets this is turned away");
        }
    }

    /// Something was written.
    pub(super) fn is_over(&self) {
        if self.is_on.load(Ordering::Relaxed) && self.is_on.swap(false, Ordering::Relaxed) {
            tracing::info!("The database takes writes again");
        }
    }
}
