//! Sends an endpoint again what it missed: messages that failed there, those that wait for their next try or waited for
//! it when the endpoint was switched off, those whose job was set aside, and those that were never meant to go there because
//! the endpoint was not yet made or was off.

use ulid::Ulid;

use super::FlowError;
use super::tell_client::{mode_of, queue_telling, wants};
use crate::app::App;
use crate::ids::made_at;
use crate::store::{Endpoint, JobKind, Tx};

/// Messages looked at in one call.
const MOST: i64 = 1000;

/// What was queued.
#[derive(Debug, Clone)]
pub struct Queued {
    /// How many messages go out again.
    pub messages: i64,
    /// The last message looked at, when there are more: go on from its time.
    pub more_after: Option<i64>,
}

/// Queues what an endpoint did not get since `since` (microseconds), at most a thousand messages a call.
///
/// # Errors
/// The endpoint is disabled, or the database.
pub async fn replay_messages(app: &App, tx: &mut Tx, endpoint: &Endpoint, since: i64) -> Result<Queued, FlowError> {
    if endpoint.state != "enabled" {
        return Err(FlowError::conflict("endpoint_disabled", "enable the endpoint first"));
    }
    // Message ids begin with their time, so the instant is a place in the feed.
    let ms = u64::try_from(since / 1000).unwrap_or(0);
    let after = format!("msg_{}", Ulid::from_parts(ms, 0));
    let messages = tx.feed(&endpoint.merchant_id, Some(&after), app.now(), MOST).await?;
    let is_full = i64::try_from(messages.len()).unwrap_or(MOST) == MOST;
    let more_after = messages.last().filter(|_| is_full).and_then(|m| made_at(&m.id));
    let mut queued = 0;
    for message in messages {
        let wanted = wants(endpoint, &message.kind, mode_of(&message.body));
        // A test message is its endpoint's own.
        let of_another = message.kind == "endpoint.test" && message.subject != endpoint.id;
        if wanted && !of_another {
            queued += i64::from(send_again(app, tx, endpoint, &message.id).await?);
        }
    }
    Ok(Queued { messages: queued, more_after })
}

/// `false` when the message is on its way or was delivered.
async fn send_again(app: &App, tx: &mut Tx, endpoint: &Endpoint, message: &str) -> Result<bool, FlowError> {
    let (merchant, now) = (&endpoint.merchant_id, app.now());
    if let Some(telling) = tx.revive_telling(merchant, message, &endpoint.id).await? {
        let job = app.ids.make("job");
        tx.enqueue(merchant, &job, JobKind::TellClient, &telling, now, now).await?;
        return Ok(true);
    }
    if queue_telling(app, tx, (merchant, message), &endpoint.id, 0).await? {
        return Ok(true);
    }
    match tx.tellings_of(merchant, message).await?.into_iter().find(|t| t.endpoint_id == endpoint.id) {
        Some(waiting) => Ok(tx.hasten(merchant, JobKind::TellClient, &waiting.id, now).await?),
        None => Ok(false),
    }
}
