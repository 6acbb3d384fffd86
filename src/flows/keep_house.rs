//! Lets go of what is older than its retention, once an hour, by whichever worker comes first.
//!
//! There is no leader: the unique key of a turn (one an hour) decides who runs it. A worker that dies in the middle is
//! made good by the next turn, and turns that nobody took are not made up one by one: each run does all there is to do.
//! Batches are small, so that nobody waits for them long. Money is never let go: payments, attempts, captures, refunds,
//! disputes, transitions, invoices.

use tokio::sync::watch;

use super::FlowError;
use crate::app::App;
use crate::clock::seconds;
use crate::ids::first_of;
use crate::months::month_start;
use crate::store::Growing;

/// How often there is a turn, in microseconds.
pub const TURN: i64 = seconds(3600);

/// Rows of one transaction.
const BATCH: i64 = 1000;

/// Turns that stay on record: about a month.
const TURNS_KEPT: i64 = 720;

/// The name under which turns are taken.
pub const NAME: &str = "keep_house";

/// What one run did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Kept {
    /// Months of webhook calls that were made ahead.
    pub made: Vec<String>,
    /// Months that were dropped.
    pub dropped: Vec<String>,
    /// Rows that were deleted or emptied.
    pub rows: u64,
}

/// Takes the present turn and runs it, unless somebody has it; ends early, between two batches, when `stop` says true.
///
/// # Errors
/// The database; the next turn does what is left.
pub async fn keep_house(app: &App, stop: &watch::Receiver<bool>) -> Result<Option<Kept>, FlowError> {
    let slot = app.now() / TURN;
    let mut tx = app.store.begin().await?;
    if !tx.take_turn(NAME, slot, app.now()).await? {
        return Ok(None);
    }
    tx.commit().await?;
    let mut kept = Kept { made: app.store.make_partitions(app.now()).await?, ..Kept::default() };
    if let Some(before) = cutoff(app, app.config.keep_deliveries_months) {
        kept.dropped = app.store.drop_partitions(before).await?;
    }
    for (table, months) in tables(app) {
        let Some(before) = cutoff(app, months) else { continue };
        kept.rows += let_go(app, table, before, stop).await?;
    }
    if *stop.borrow() {
        return Ok(Some(kept));
    }
    let mut tx = app.store.begin().await?;
    tx.end_turn(NAME, slot, app.now(), slot - TURNS_KEPT).await?;
    tx.commit().await?;
    Ok(Some(kept))
}

/// Tellings before messages: a message goes when nothing names it.
fn tables(app: &App) -> [(Growing, i32); 6] {
    let c = &app.config;
    [
        (Growing::Deliveries, c.keep_deliveries_months),
        (Growing::Events, c.keep_events_months),
        (Growing::Tellings, c.keep_messages_months),
        (Growing::Messages, c.keep_messages_months),
        (Growing::IdempotencyKeys, c.keep_answers_months),
        (Growing::Notices, c.keep_notices_months),
    ]
}

/// What is older is let go: whole months only, so that rows and partitions go together. `None`: kept for ever.
fn cutoff(app: &App, months: i32) -> Option<i64> {
    (months > 0).then(|| month_start(app.now(), -months))
}

/// Lets go of all merchants' rows of a table that are older than `before`; answers how many.
async fn let_go(app: &App, table: Growing, before: i64, stop: &watch::Receiver<bool>) -> Result<u64, FlowError> {
    let (mut rows, mut last) = (0, String::new());
    loop {
        let merchants = app.store.read().await?.merchant_ids(&last, BATCH).await?;
        let Some(end) = merchants.last() else { return Ok(rows) };
        last.clone_from(end);
        for merchant in &merchants {
            rows += match table {
                Growing::IdempotencyKeys => forget_answers(app, merchant, before, stop).await?,
                _ => let_go_of_one(app, table, merchant, before, stop).await?,
            };
        }
    }
}

async fn let_go_of_one(
    app: &App,
    table: Growing,
    merchant: &str,
    before: i64,
    stop: &watch::Receiver<bool>,
) -> Result<u64, FlowError> {
    let bound = first_of(table.id_kind(), before);
    let mut rows = 0;
    let mut after = match table {
        Growing::Events | Growing::Notices => app.store.read().await?.house_mark(merchant, table).await?,
        _ => String::new(),
    };
    while !*stop.borrow() {
        let Some(batch) = app.store.read().await?.oldest(table, merchant, &after, &bound, BATCH).await? else { break };
        let mut tx = app.store.begin().await?;
        rows += tx.let_go(table, merchant, &batch).await?;
        tx.commit().await?;
        after = batch.last;
    }
    Ok(rows)
}

async fn forget_answers(
    app: &App,
    merchant: &str,
    before: i64,
    stop: &watch::Receiver<bool>,
) -> Result<u64, FlowError> {
    let mark = app.store.read().await?.house_mark(merchant, Growing::IdempotencyKeys).await?;
    let (mut rows, mut after) = (0, mark.parse().unwrap_or(0));
    while !*stop.borrow() {
        let oldest = app.store.read().await?.oldest_answers(merchant, after, before, BATCH).await?;
        let Some((first, last)) = oldest else { break };
        let mut tx = app.store.begin().await?;
        rows += tx.forget_answers(merchant, first, last).await?;
        tx.commit().await?;
        after = last;
    }
    Ok(rows)
}
