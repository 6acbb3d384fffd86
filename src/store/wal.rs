//! SQLite's log of committed pages. By default the commit that makes it longer than a thousand pages copies them all into
//! the database's file and waits for the disk, which holds up everybody behind it for tens of milliseconds. Here they are
//! copied beside the commits, by a connection of its own.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Weak};
use std::time::Duration;

use futures_util::FutureExt;
use rusqlite::Connection;
use tokio::task::spawn_blocking;

use super::dialect::StoreError;
use super::sqlite::{File, Handles};

/// Pause between two rounds.
const PAUSE: Duration = Duration::from_millis(50);

/// A log of so many pages (64 MiB) begins anew: while commits follow each other without a gap it never does so by itself.
const LONGEST: i64 = 16_384;

/// Copies what was committed, for as long as there is a writer. A panic is no end of it: a log that nobody copies grows
/// until the disk is full.
pub(super) async fn keep(file: File, writer: Weak<Handles>) {
    while AssertUnwindSafe(keep_once(&file, &writer)).catch_unwind().await.is_err() {
        tracing::error!("The copying of the log met a fault of the hub; it begins again");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn keep_once(file: &File, writer: &Weak<Handles>) {
    let mut connection = None;
    let mut seen = 0;
    loop {
        tokio::time::sleep(PAUSE).await;
        let Some(writer) = writer.upgrade().filter(|w| !w.is_closed()) else { return };
        let uses = writer.uses();
        if uses == seen {
            continue;
        }
        match copy(file, connection.take(), &writer).await {
            Ok(own) => (connection, seen) = (Some(own), uses),
            // Nothing is lost, the log only grows: the next round tries again.
            Err(error) => tracing::debug!(error = %error, "The log could not be copied into the database"),
        }
    }
}

/// Gives the connection back for the next round.
async fn copy(file: &File, own: Option<Connection>, writer: &Arc<Handles>) -> Result<Connection, StoreError> {
    let beside = file.clone();
    let (own, pages) = apart(move || {
        let own = own.map_or_else(|| beside.open(), Ok)?;
        let mut pages = copy_beside(&own, &beside)?;
        if pages > LONGEST {
            // Each round has only to copy what was committed during the one before, so the last one is short.
            pages = copy_beside(&own, &beside)?;
        }
        Ok((own, pages))
    })
    .await?;
    if pages <= LONGEST {
        return Ok(own);
    }
    // Nobody writes while the rest is copied, and the next commit begins the log anew.
    let _held = writer.take().await?;
    apart(move || checkpoint(&own, "PRAGMA wal_checkpoint(RESTART)").map(|_| own)).await
}

/// Copies what was committed so far while others go on committing, and has the disk take it: SQLite itself does so only in
/// the round that begins the log anew, when nobody can write. Answers how many pages the log has.
fn copy_beside(connection: &Connection, file: &File) -> Result<i64, StoreError> {
    let pages = checkpoint(connection, "PRAGMA wal_checkpoint(PASSIVE)")?;
    if let Some(on_disk) = &file.on_disk {
        // That it is on the disk is SQLite's to know; this only spares it the wait.
        let _ = on_disk.sync_data();
    }
    Ok(pages)
}

/// Copies what was committed so far; answers how many pages the log has.
fn checkpoint(connection: &Connection, how: &str) -> Result<i64, StoreError> {
    Ok(connection.query_row(how, (), |round| round.get(1))?)
}

/// On a thread that may wait for the disk.
async fn apart<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, StoreError> + Send + 'static,
) -> Result<T, StoreError> {
    spawn_blocking(work).await.unwrap_or_else(|_| Err(StoreError::Unreadable("the log's copying was ended".into())))
}
