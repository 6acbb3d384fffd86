//! SQLite's log of committed pages. By default the commit that makes it longer than a thousand pages copies them all into
//! the database's file and waits for the disk, which holds up everybody behind it for tens of milliseconds. Here they are
//! copied beside the commits, by a connection of its own.

use std::sync::{Arc, Weak};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{Connection as _, Row as _, Sqlite};

use super::connections::Connections;
use super::dialect::StoreError;

/// Pause between two rounds.
const PAUSE: Duration = Duration::from_millis(200);

/// A log of so many pages (64 MiB) begins anew: while commits follow each other without a gap it never does so by itself.
const LONGEST: i64 = 16_384;

/// Copies what was committed, for as long as there is a writer.
pub(super) async fn keep(options: SqliteConnectOptions, writer: Weak<Connections<Sqlite>>) {
    let mut connection = None;
    let mut seen = 0;
    loop {
        tokio::time::sleep(PAUSE).await;
        let Some(writer) = writer.upgrade().filter(|w| !w.is_closed()) else { return };
        let uses = writer.uses();
        if uses == seen {
            continue;
        }
        match copy(&options, &mut connection, &writer).await {
            Ok(()) => seen = uses,
            Err(error) => {
                // Nothing is lost, the log only grows: the next round tries again.
                tracing::debug!(error = %error, "The log could not be copied into the database");
                connection = None;
            }
        }
    }
}

async fn copy(
    options: &SqliteConnectOptions,
    connection: &mut Option<SqliteConnection>,
    writer: &Arc<Connections<Sqlite>>,
) -> Result<(), StoreError> {
    if connection.is_none() {
        *connection = Some(SqliteConnection::connect_with(options).await?);
    }
    let Some(own) = connection else { return Ok(()) };
    let pages = copy_beside(own).await?;
    if pages > LONGEST {
        // Each round has only to copy what was committed during the one before, so the last ones are short.
        for _ in 0..3 {
            copy_beside(own).await?;
        }
        // Nobody writes while the rest is copied, and the next commit begins the log anew.
        let _held = writer.take().await?;
        sqlx::query("PRAGMA wal_checkpoint(RESTART)").execute(own).await?;
    }
    Ok(())
}

/// Copies what was committed so far while others go on committing; answers how many pages the log has.
async fn copy_beside(connection: &mut SqliteConnection) -> Result<i64, StoreError> {
    let round = sqlx::query("PRAGMA wal_checkpoint(PASSIVE)").fetch_one(connection).await?;
    Ok(round.try_get(1)?)
}
