//! SQLite's log of committed pages. By default the commit that makes it longer than a thousand pages copies them all into
//! the database's file and waits for the disk, which holds up everybody behind it for tens of milliseconds. Here they are
//! copied beside the commits, by a connection of its own.

use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use futures_util::FutureExt;
use rusqlite::Connection;
use tokio::task::spawn_blocking;

use super::dialect::StoreError;
use super::sqlite::{File, Handles};

/// Pause between two rounds.
const PAUSE: Duration = Duration::from_millis(50);

/// A log of so many pages (64 MiB) begins anew: while commits follow each other without a gap it never does so by itself.
const LONGEST: i64 = 16_384;

/// While somebody reads from the log it cannot begin anew. For so long those who write wait for him to be done,
const BRIEFLY: Duration = Duration::from_millis(100);

/// and for so long they are then left alone.
const LEAVE: Duration = Duration::from_secs(60);

/// Copies what was committed, for as long as there is a writer. A panic is no end of it: a log that nobody copies grows
/// until the disk is full.
pub(super) async fn keep(file: File, writer: Weak<Handles>) {
    while AssertUnwindSafe(keep_once(&file, &writer)).catch_unwind().await.is_err() {
        tracing::error!("The copying of the log met a fault of the hub; it begins again");
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

async fn keep_once(file: &File, writer: &Weak<Handles>) {
    let mut keeper = Keeper::new(file.clone(), LONGEST);
    let mut seen = 0;
    loop {
        tokio::time::sleep(PAUSE).await;
        let Some(writer) = writer.upgrade().filter(|w| !w.is_closed()) else { return };
        let uses = writer.uses();
        if uses == seen {
            continue;
        }
        match keeper.copy(&writer, Instant::now()).await {
            Ok(()) => seen = uses,
            // Nothing is lost, the log only grows: the next round tries again.
            Err(error) => tracing::debug!(error = %error, "The log could not be copied into the database"),
        }
    }
}

/// Copies in rounds.
struct Keeper {
    file: File,
    /// Its own, from one round to the next.
    own: Option<Connection>,
    /// A log of more pages begins anew.
    longest: i64,
    /// Somebody read from the log; until then it is left to grow.
    left_until: Option<Instant>,
    /// How often the log was to begin anew.
    tries: u64,
}

impl Keeper {
    fn new(file: File, longest: i64) -> Keeper {
        Keeper { file, own: None, longest, left_until: None, tries: 0 }
    }

    /// One round.
    async fn copy(&mut self, writer: &Arc<Handles>, now: Instant) -> Result<(), StoreError> {
        let (beside, own, longest) = (self.file.clone(), self.own.take(), self.longest);
        let (own, pages) = apart(move || {
            let own = own.map_or_else(|| open(&beside), Ok)?;
            let mut pages = copy_beside(&own, &beside)?;
            if pages > longest {
                // Each round has only to copy what was committed during the one before, so the last one is short.
                pages = copy_beside(&own, &beside)?;
            }
            Ok((own, pages))
        })
        .await?;
        if pages <= longest || self.left_until.is_some_and(|until| now < until) {
            self.own = Some(own);
            return Ok(());
        }
        self.tries += 1;
        // Nobody writes while the rest is copied, and the next commit begins the log anew.
        let held = writer.take().await?;
        let (own, is_read) = apart(move || {
            let is_read = own.query_row("PRAGMA wal_checkpoint(RESTART)", (), |round| round.get::<_, i64>(0))? != 0;
            Ok((own, is_read))
        })
        .await?;
        drop(held);
        self.own = Some(own);
        if is_read && self.left_until.is_none() {
            let mib = pages.saturating_mul(4096) >> 20;
            tracing::warn!(
                pages,
                "Somebody reads the database for long: its log has {mib} MiB and grows until that ends"
            );
        }
        self.left_until = is_read.then(|| now + LEAVE);
        Ok(())
    }
}

fn open(file: &File) -> Result<Connection, StoreError> {
    let own = file.open()?;
    // How long the writer is held while somebody reads; the readers of the hub itself are done long before.
    own.busy_timeout(BRIEFLY)?;
    Ok(own)
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

#[cfg(test)]
mod tests {
    use super::*;

    fn write(connection: &Connection) {
        connection.execute_batch("INSERT INTO t VALUES (zeroblob(100000))").unwrap();
    }

    /// Pages in the log.
    fn pages(connection: &Connection) -> i64 {
        checkpoint(connection, "PRAGMA wal_checkpoint(NOOP)").unwrap()
    }

    // A backup reads for an hour.
    #[tokio::test]
    async fn whoever_reads_for_long_does_not_hold_the_writer_up_again_and_again() {
        let dir = std::env::temp_dir().join(format!("grosz-wal-{}", std::process::id()));
        std::fs::create_dir_all(&dir).unwrap();
        let path = dir.join("hub.db");
        let file = File { path, wait: Duration::from_secs(5), writes: true, on_disk: None };
        let writer = Handles::open(file.clone(), 1).unwrap();
        let (other, reader) = (file.open().unwrap(), file.open().unwrap());
        other.execute_batch("CREATE TABLE t (x)").unwrap();
        write(&other);
        reader.execute_batch("BEGIN").unwrap();
        let rows: i64 = reader.query_row("SELECT COUNT(*) FROM t", (), |row| row.get(0)).unwrap();
        assert_eq!(rows, 1);
        let mut keeper = Keeper::new(file, 50);
        let began = Instant::now();
        for round in 0..50 {
            write(&other);
            keeper.copy(&writer, began + PAUSE * round).await.unwrap();
        }
        assert_eq!(keeper.tries, 1, "then it is left alone");
        keeper.copy(&writer, began + 2 * LEAVE).await.unwrap();
        assert_eq!(keeper.tries, 2);
        let longest = pages(&other);
        assert!(longest > 1000, "{longest}");
        reader.execute_batch("COMMIT").unwrap();
        keeper.copy(&writer, began + 4 * LEAVE).await.unwrap();
        write(&other);
        assert!(pages(&other) < 50, "it began anew");
        for round in 0..10 {
            write(&other);
            keeper.copy(&writer, began + 4 * LEAVE + PAUSE * round).await.unwrap();
        }
        assert!(keeper.tries > 3, "nobody reads, so it begins anew whenever it is too long");
        drop((keeper, other, reader));
        writer.close().await;
        std::fs::remove_dir_all(&dir).unwrap();
    }
}
