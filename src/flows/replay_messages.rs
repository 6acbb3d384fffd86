//! Sends an endpoint again what it missed: messages that failed there, those that waited for their next try when it was
//! switched off, those whose job was set aside, and those that were never meant to go there because the endpoint was not
//! yet made or was off.

use ulid::Ulid;

use super::FlowError;
use super::tell_client::queue_telling;
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
        let wanted = endpoint.types.is_empty() || endpoint.types.contains(&message.kind);
        if !wanted {
            continue;
        }
        let now = app.now();
        match tx.revive_telling(&message.merchant_id, &message.id, &endpoint.id).await? {
            Some(telling) => {
                let job = app.ids.make("job");
                tx.enqueue(&message.merchant_id, &job, JobKind::TellClient, &telling, now, now).await?;
                queued += 1;
            }
            None => {
                queued += i64::from(queue_telling(app, tx, (&message.merchant_id, &message.id), &endpoint.id, 0).await?)
            }
        }
    }
    Ok(Queued { messages: queued, more_after })
}
