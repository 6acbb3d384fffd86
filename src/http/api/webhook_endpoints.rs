//! Webhook endpoints: where client apps are told what happened, signed as Standard Webhooks.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::Part;
use super::invoicing_accounts::Nothing;
use super::lists::{self, List, ListQuery, list_of_few, page};
use super::payments::read_time;
use crate::app::App;
use crate::clock::rfc3339;
use crate::flows::replay_messages::replay_messages;
use crate::flows::tell_client::{TYPES, held_keys, seal_keys, tell_endpoint};
use crate::http::Web;
use crate::http::auth::Caller;
use crate::http::idempotency::Answer;
use crate::http::input::{Fields, Input, Params, Post};
use crate::http::json::Json;
use crate::problem::{Problem, ProblemBody};
use crate::standard_webhooks::{HeldKey, SigningKey, rotate};
use crate::store::{Endpoint as Row, Telling, Tx};

pub(super) fn part() -> Part {
    Part::default()
        .add(__path_create, create)
        .add(__path_list, list)
        .add(__path_show, show)
        .add(__path_change, change)
        .add(__path_remove, remove)
        .add(__path_rotate_secret, rotate_secret)
        .add(__path_test, test)
        .add(__path_replay, replay)
        .add(__path_deliveries, deliveries)
}

/// Endpoints of a merchant in one mode at most, switched off ones too: each message is a row and a job for each of them,
/// within the commit that many calls share.
const MOST_ENDPOINTS: usize = 50;

/// A client app's address.
#[derive(Debug, Serialize, ToSchema)]
pub struct WebhookEndpoint {
    /// `ep_…`
    id: String,
    /// It is told of live payments, or of those of the test mode; `null`: of both (made before endpoints had a mode).
    live: Option<bool>,
    /// Where.
    url: String,
    /// Message types it wants; empty: all.
    types: Vec<String>,
    /// It is told.
    enabled: bool,
    /// Why it was disabled.
    disabled_reason: Option<String>,
    /// When the present run of failures began (RFC 3339).
    failing_since: Option<String>,
    /// The secret that verifies messages, `whsec_…`; shown when it is made and never again.
    #[serde(skip_serializing_if = "Option::is_none")]
    secret: Option<String>,
    /// RFC 3339.
    created_at: String,
}

/// A new address.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewWebhookEndpoint {
    /// An https address that is reachable from the hub.
    #[schema(example = "https://shop.example/hooks/grosz")]
    url: String,
    /// Message types it wants; all when left out or empty.
    #[serde(default)]
    #[schema(example = json!(["payment.completed"]))]
    types: Vec<String>,
}

/// Changes to an endpoint; what is left out stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WebhookEndpointChange {
    /// Another address.
    url: Option<String>,
    /// Message types it wants; empty: all.
    types: Option<Vec<String>>,
    /// Switch. What was missed meanwhile can be replayed.
    enabled: Option<bool>,
}

/// How to change the secret.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct RotateSecret {
    /// How long the old secret signs beside the new one; 0 after a leak.
    #[schema(minimum = 0, maximum = 604_800, default = 86_400)]
    overlap_seconds: Option<i64>,
}

/// What to send again.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ReplayMessages {
    /// From when: an instant (RFC 3339) or a day (UTC).
    #[schema(example = "2026-11-01T12:00:00Z")]
    since: String,
}

/// What goes out again.
#[derive(Debug, Serialize, ToSchema)]
pub struct ReplayQueued {
    /// How many messages.
    queued: i64,
    /// Call again with this as `since`: there is more than one call takes.
    next_since: Option<String>,
}

/// One message's way to an endpoint.
#[derive(Debug, Serialize, ToSchema)]
pub struct EndpointDelivery {
    /// `tel_…`
    id: String,
    /// The message.
    message: String,
    /// `pending`, `delivered` or `failed`.
    state: String,
    /// Tries so far.
    attempts: i64,
    /// HTTP status of the last answer.
    last_status: Option<i64>,
    /// What went wrong last.
    last_error: Option<String>,
    /// RFC 3339.
    created_at: String,
}

/// Adds a webhook endpoint
///
/// It is told of payments of the key's mode; a merchant has at most 50 in each mode (409, `too_many_endpoints`). Answers
/// with the secret, once. Messages are signed as Standard Webhooks (standardwebhooks.com) says.
#[utoipa::path(post, path = "/v1/webhook-endpoints", tag = "events", operation_id = "create_webhook_endpoint",
    request_body = NewWebhookEndpoint, responses((status = 201, body = WebhookEndpoint), (status = "4XX", body = ProblemBody)))]
async fn create(State(web): State<Web>, caller: Caller, post: Post<NewWebhookEndpoint>) -> Result<Response, Problem> {
    let (app, new) = (&*web.app, &post.input);
    let mut fields = Fields::default();
    check_url(app, &mut fields, &new.url);
    check_types(&mut fields, &new.types);
    fields.finish()?;
    let mut turn = post.mark.begin(&web.app).await?;
    let tx = &mut turn.tx;
    let others = tx.endpoints_for_adding(&caller.merchant).await?;
    if others.iter().filter(|e| e.live.is_none_or(|live| live == caller.live)).count() >= MOST_ENDPOINTS {
        let detail =
            format!("a merchant has at most {MOST_ENDPOINTS} webhook endpoints in each mode; delete one first");
        return Err(Problem::conflict("too_many_endpoints", detail));
    }
    let id = app.ids.make("ep");
    let key = SigningKey::generate(app.ids.secret());
    let secret = key.to_text();
    let held = [HeldKey { key, created_s: now_s(app), expires_s: None }];
    let row = Row {
        merchant_id: caller.merchant.clone(),
        sealed: seal_keys(app, &id, &held)?,
        id,
        live: Some(caller.live),
        url: new.url.clone(),
        types: new.types.clone(),
        state: "enabled".into(),
        state_reason: None,
        first_failure_at: None,
        failed_messages: 0,
        created_at: app.now(),
    };
    tx.add_endpoint(&row).await?;
    turn.end(&web.app, Answer::created(&view(row, Some(secret))).secret()).await
}

/// Lists the webhook endpoints
#[utoipa::path(get, path = "/v1/webhook-endpoints", tag = "events", operation_id = "list_webhook_endpoints",
    params(ListQuery), responses((status = 200, body = List<WebhookEndpoint>), (status = "4XX", body = ProblemBody)))]
async fn list(
    State(web): State<Web>,
    caller: Caller,
    Params(query): Params<ListQuery>,
) -> Result<Json<List<WebhookEndpoint>>, Problem> {
    let page = page("ep", query.limit, query.cursor.as_deref())?;
    let mut rows = web.app.store.read().await?.endpoints(&caller.merchant).await?;
    rows.retain(|e| is_managed_by(&web.app, e, &caller));
    Ok(Json(list_of_few(rows, &page, |e| &e.id, |e| view(e, None))))
}

/// Shows a webhook endpoint
#[utoipa::path(get, path = "/v1/webhook-endpoints/{id}", tag = "events", operation_id = "get_webhook_endpoint",
    params(("id" = String, Path)), responses((status = 200, body = WebhookEndpoint), (status = "4XX", body = ProblemBody)))]
async fn show(
    State(web): State<Web>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<WebhookEndpoint>, Problem> {
    let mut tx = web.app.store.read().await?;
    Ok(Json(view(find(&web.app, &mut tx, &caller, &id).await?, None)))
}

/// Changes a webhook endpoint
#[utoipa::path(patch, path = "/v1/webhook-endpoints/{id}", tag = "events", operation_id = "change_webhook_endpoint",
    params(("id" = String, Path)), request_body = WebhookEndpointChange,
    responses((status = 200, body = WebhookEndpoint), (status = "4XX", body = ProblemBody)))]
async fn change(
    State(web): State<Web>,
    caller: Caller,
    Path(id): Path<String>,
    Input(change): Input<WebhookEndpointChange>,
) -> Result<Json<WebhookEndpoint>, Problem> {
    let app = &*web.app;
    let mut fields = Fields::default();
    if let Some(url) = &change.url {
        check_url(app, &mut fields, url);
    }
    if let Some(types) = &change.types {
        check_types(&mut fields, types);
    }
    fields.finish()?;
    let mut tx = app.store.begin().await?;
    let mut row = find_for_update(app, &mut tx, &caller, &id).await?;
    if let Some(url) = change.url.filter(|url| *url != row.url) {
        // Another address has no failures yet.
        (row.url, row.first_failure_at, row.failed_messages) = (url, None, 0);
    }
    row.types = change.types.unwrap_or(row.types);
    match change.enabled {
        Some(true) if row.state != "enabled" => {
            row.state = "enabled".into();
            row.state_reason = None;
            row.first_failure_at = None;
            row.failed_messages = 0;
            tx.resolve_alert_by_key(&caller.merchant, &format!("endpoint.disabled:{}", row.id), app.now()).await?;
        }
        Some(false) if row.state == "enabled" => {
            row.state = "disabled".into();
            row.state_reason = Some("switched off".into());
        }
        Some(_) | None => {}
    }
    tx.update_endpoint(&row).await?;
    tx.commit().await?;
    Ok(Json(view(row, None)))
}

/// Removes a webhook endpoint
#[utoipa::path(delete, path = "/v1/webhook-endpoints/{id}", tag = "events", operation_id = "delete_webhook_endpoint",
    params(("id" = String, Path)), responses((status = 204), (status = "4XX", body = ProblemBody)))]
async fn remove(State(web): State<Web>, caller: Caller, Path(id): Path<String>) -> Result<StatusCode, Problem> {
    let mut tx = web.app.store.begin().await?;
    find_for_update(&web.app, &mut tx, &caller, &id).await?;
    tx.delete_endpoint(&caller.merchant, &id).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Changes the secret
///
/// The new secret is shown once. During the overlap messages carry a signature of each.
#[utoipa::path(post, path = "/v1/webhook-endpoints/{id}/secret/rotate", tag = "events", operation_id = "rotate_webhook_secret",
    params(("id" = String, Path)), request_body = Option<RotateSecret>,
    responses((status = 200, body = WebhookEndpoint), (status = "4XX", body = ProblemBody)))]
async fn rotate_secret(
    State(web): State<Web>,
    caller: Caller,
    Path(id): Path<String>,
    post: Post<RotateSecret>,
) -> Result<Response, Problem> {
    let app = &*web.app;
    let overlap = post.input.overlap_seconds.unwrap_or(86_400);
    let overlap = u64::try_from(overlap).ok().filter(|s| *s <= 604_800);
    let why = "must be from 0 to 604800 (seven days)";
    let overlap = overlap.ok_or_else(|| Problem::field("/overlap_seconds", why))?;
    let mut turn = post.mark.begin(&web.app).await?;
    let tx = &mut turn.tx;
    let mut row = find_for_update(app, tx, &caller, &id).await?;
    let now = now_s(app);
    let mut held = held_keys(app, &row)?;
    held.retain(|k| k.expires_s.is_none_or(|end| now < end));
    let key = SigningKey::generate(app.ids.secret());
    let secret = key.to_text();
    rotate(&mut held, key, now, overlap);
    row.sealed = seal_keys(app, &row.id, &held)?;
    tx.update_endpoint(&row).await?;
    turn.end(&web.app, Answer::ok(&view(row, Some(secret))).secret()).await
}

/// Sends a test message to an endpoint
///
/// A message of the type `endpoint.test` goes to this endpoint only, whatever types it wants.
#[utoipa::path(post, path = "/v1/webhook-endpoints/{id}/test", tag = "events", operation_id = "test_webhook_endpoint",
    params(("id" = String, Path)), request_body = Option<Nothing>,
    responses((status = 202, body = EndpointDelivery), (status = "4XX", body = ProblemBody)))]
async fn test(
    State(web): State<Web>,
    caller: Caller,
    Path(id): Path<String>,
    post: Post<Nothing>,
) -> Result<Response, Problem> {
    let app = &*web.app;
    let mut turn = post.mark.begin(&web.app).await?;
    let tx = &mut turn.tx;
    let row = find(app, tx, &caller, &id).await?;
    if row.state != "enabled" {
        return Err(Problem::conflict("endpoint_disabled", "enable the endpoint first"));
    }
    let data = json!({"endpoint": row.id, "text": "This is a test."});
    let telling = tell_endpoint(app, tx, &row, "endpoint.test", caller.live, data).await?;
    turn.end(&web.app, Answer::new(StatusCode::ACCEPTED, &show_telling(telling))).await
}

/// Sends an endpoint again what it missed
///
/// Messages since an instant that failed there or were never sent there. What was delivered is not sent again.
#[utoipa::path(post, path = "/v1/webhook-endpoints/{id}/replay", tag = "events", operation_id = "replay_messages",
    params(("id" = String, Path)), request_body = ReplayMessages,
    responses((status = 202, body = ReplayQueued), (status = "4XX", body = ProblemBody)))]
async fn replay(
    State(web): State<Web>,
    caller: Caller,
    Path(id): Path<String>,
    post: Post<ReplayMessages>,
) -> Result<Response, Problem> {
    let app = &*web.app;
    let since = read_time("/since", &post.input.since)?;
    let mut turn = post.mark.begin(&web.app).await?;
    let tx = &mut turn.tx;
    let row = find(app, tx, &caller, &id).await?;
    let queued = replay_messages(app, tx, &row, since).await?;
    let next_since = queued.more_after.map(rfc3339);
    turn.end(&web.app, Answer::new(StatusCode::ACCEPTED, &ReplayQueued { queued: queued.messages, next_since })).await
}

/// Lists what an endpoint was told
#[utoipa::path(get, path = "/v1/webhook-endpoints/{id}/deliveries", tag = "events", operation_id = "list_endpoint_deliveries",
    params(("id" = String, Path), ListQuery),
    responses((status = 200, body = List<EndpointDelivery>), (status = "4XX", body = ProblemBody)))]
async fn deliveries(
    State(web): State<Web>,
    caller: Caller,
    Path(id): Path<String>,
    Params(query): Params<ListQuery>,
) -> Result<Json<List<EndpointDelivery>>, Problem> {
    let page = page("tel", query.limit, query.cursor.as_deref())?;
    let mut tx = web.app.store.read().await?;
    find(&web.app, &mut tx, &caller, &id).await?;
    let rows = tx.tellings(&caller.merchant, &id, &page).await?;
    Ok(Json(lists::list(rows, &page, |t| &t.id, show_telling)))
}

async fn find(app: &App, tx: &mut Tx, caller: &Caller, id: &str) -> Result<Row, Problem> {
    let found = tx.endpoint(&caller.merchant, id).await?.filter(|e| is_managed_by(app, e, caller));
    found.ok_or_else(Problem::not_found)
}

/// For whoever is going to write the row: two of them must not take back what the other wrote.
async fn find_for_update(app: &App, tx: &mut Tx, caller: &Caller, id: &str) -> Result<Row, Problem> {
    let found = tx.endpoint_for_update(&caller.merchant, id).await?.filter(|e| is_managed_by(app, e, caller));
    found.ok_or_else(Problem::not_found)
}

/// Whoever manages an endpoint decides where messages go and what they are signed with. So one that may be told of real
/// money is not for the test mode: where the hub is live, that is also what was made before endpoints had a mode.
fn is_managed_by(app: &App, endpoint: &Row, caller: &Caller) -> bool {
    match endpoint.live {
        Some(live) => live == caller.live,
        None => caller.live || !app.config.live,
    }
}

fn now_s(app: &App) -> u64 {
    u64::try_from(app.now() / 1_000_000).unwrap_or(0)
}

fn check_url(app: &App, fields: &mut Fields, url: &str) {
    if let Err(refusal) = app.targets.check_text(url) {
        fields.refuse("/url", format!("is refused: {refusal}"));
    }
}

/// A misspelt type would never be delivered, and nobody would notice.
fn check_types(fields: &mut Fields, types: &[String]) {
    for (n, kind) in types.iter().enumerate().take(TYPES.len() + 1) {
        if !TYPES.contains(&kind.as_str()) {
            fields.refuse(&format!("/types/{n}"), format!("must be one of: {}", TYPES.join(", ")));
        }
    }
    if types.len() > TYPES.len() {
        fields.refuse("/types", format!("must hold at most {} types", TYPES.len()));
    }
}

fn view(e: Row, secret: Option<String>) -> WebhookEndpoint {
    WebhookEndpoint {
        id: e.id,
        live: e.live,
        url: e.url,
        types: e.types,
        enabled: e.state == "enabled",
        disabled_reason: e.state_reason,
        failing_since: e.first_failure_at.map(rfc3339),
        secret,
        created_at: rfc3339(e.created_at),
    }
}

fn show_telling(t: Telling) -> EndpointDelivery {
    EndpointDelivery {
        id: t.id,
        message: t.message_id,
        state: t.state,
        attempts: t.attempts,
        last_status: t.last_status,
        last_error: t.last_error,
        created_at: rfc3339(t.created_at),
    }
}
