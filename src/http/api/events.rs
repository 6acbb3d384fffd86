//! The pull feed: the same messages that endpoints get, for clients that cannot be reached.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use utoipa::{IntoParams, ToSchema};

use super::Part;
use super::lists::{Sieve, checked_limit};
use crate::flows::tell_client::mode_of;
use crate::http::Web;
use crate::http::auth::Caller;
use crate::http::input::Params;
use crate::http::json::Json;
use crate::ids::made_at;
use crate::problem::{Problem, ProblemBody};
use crate::store::{Message as Row, Page};

pub(super) fn part() -> Part {
    Part::default().add(__path_list, list)
}

/// A part of the feed.
#[derive(Debug, Serialize, ToSchema)]
pub struct Feed {
    /// Messages, the oldest first.
    data: Vec<Message>,
    /// Give this as `after` next time, also when `data` is empty; `null` only while nothing was ever read.
    next_cursor: Option<String>,
    /// There is more at once.
    has_more: bool,
}

/// What a client app is told.
#[derive(Debug, Serialize, ToSchema)]
pub struct Message {
    /// `msg_…`; the same as `webhook-id` at endpoints.
    id: String,
    /// What happened, such as `payment.completed`.
    #[serde(rename = "type")]
    kind: String,
    /// RFC 3339.
    timestamp: Value,
    /// `live` or `test`.
    mode: Value,
    /// Version of the message's shape.
    api_version: Value,
    /// The object after the change; `data.version` orders the messages about one payment.
    #[schema(value_type = Object)]
    data: Value,
}

/// Where to read on.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct FeedQuery {
    /// Id of the last message that was read; from the beginning when left out.
    after: Option<String>,
    /// The same as `after`, for clients that page through all lists in one way.
    cursor: Option<String>,
    /// Messages at most.
    #[param(minimum = 1, maximum = 100, default = 20)]
    limit: Option<i64>,
}

/// Reads the feed of messages
///
/// The messages of the key's mode. Poll it with the last `next_cursor`; a part may be shorter than `limit`, or empty,
/// although `has_more` is true. Messages appear about a second after they happened, later only while something that began
/// before them is still being written.
#[utoipa::path(get, path = "/v1/events", tag = "events", operation_id = "list_events",
    params(FeedQuery), responses((status = 200, body = Feed), (status = "4XX", body = ProblemBody)))]
async fn list(State(web): State<Web>, caller: Caller, Params(query): Params<FeedQuery>) -> Result<Json<Feed>, Problem> {
    let limit = checked_limit(query.limit)?;
    if query.after.is_some() && query.cursor.is_some() {
        return Err(Problem::field("cursor", "means the same as after: give one of them"));
    }
    let name = if query.cursor.is_some() { "cursor" } else { "after" };
    let given = query.after.or(query.cursor);
    if given.as_deref().is_some_and(|id| !id.starts_with("msg_") || made_at(id).is_none()) {
        return Err(Problem::field(name, "must be the id of a message (msg_…)"));
    }
    // Ids are made by several processes, whose clocks differ a little.
    if given.as_deref().and_then(made_at).is_some_and(|at| at > web.app.now() + 60_000_000) {
        return Err(Problem::field(
            name,
            "must be the id of a message that there is: this one is of a later time than now",
        ));
    }
    let mut tx = web.app.store.read().await?;
    let settled = tx.feed_is_settled_before(web.app.now()).await?;
    let mut sieve = Sieve::new(Page { before: given, limit: limit + 1 });
    while let Some(part) = sieve.wanted() {
        let rows = tx.feed(&caller.merchant, part.before.as_deref(), settled, part.limit).await?;
        sieve.take(rows, |m| &m.id, |m| mode_of(&m.body).is_none_or(|live| live == caller.live));
    }
    let (rows, next_cursor, has_more) = sieve.end();
    Ok(Json(Feed { data: rows.into_iter().map(view).collect(), next_cursor, has_more }))
}

fn view(m: Row) -> Message {
    let body: Value = serde_json::from_str(&m.body).unwrap_or_default();
    let part = |name: &str| body.get(name).cloned().unwrap_or_default();
    Message {
        id: m.id,
        kind: m.kind,
        timestamp: part("timestamp"),
        mode: part("mode"),
        api_version: part("api_version"),
        data: part("data"),
    }
}
