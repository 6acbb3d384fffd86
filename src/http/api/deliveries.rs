//! Deliveries: what gateways sent, byte for byte, what it meant, and taking it in again.

use axum::extract::{Path, State};
use axum::response::Response;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Part;
use super::invoicing_accounts::Nothing;
use super::lists::{self, List, page};
use crate::clock::rfc3339;
use crate::flows::replay_delivery::replay_delivery;
use crate::http::Web;
use crate::http::auth::Caller;
use crate::http::idempotency::Answer;
use crate::http::input::{Params, Post};
use crate::http::json::Json;
use crate::problem::{Problem, ProblemBody};
use crate::store::{DeliveryFilter, EventRow, StoredDelivery, Tx};

pub(super) fn part() -> Part {
    Part::default().add(__path_list, list).add(__path_show, show).add(__path_replay, replay)
}

/// One inbound webhook call.
#[derive(Debug, Serialize, ToSchema)]
pub struct Delivery {
    /// `dlv_…`
    id: String,
    /// The account its address named.
    provider_account: String,
    /// Which gateway.
    provider: String,
    /// `verified`, `repeat` or `deviating` (an event seen before, with another body).
    verdict: String,
    /// SHA-256 of the body, hex.
    body_sha256: String,
    /// How many times the same bytes came again.
    repeats: i64,
    /// RFC 3339.
    received_at: String,
    /// When the same bytes came last (RFC 3339).
    last_at: String,
}

/// One inbound webhook call with all that came.
#[derive(Debug, Serialize, ToSchema)]
pub struct WholeDelivery {
    /// The call.
    #[serde(flatten)]
    delivery: Delivery,
    /// Headers that were kept: name and value.
    headers: Vec<(String, String)>,
    /// The query, without `?`.
    query: String,
    /// The raw body in base64.
    body: String,
    /// What it meant.
    events: Vec<Event>,
}

/// The verified meaning of a delivery.
#[derive(Debug, Serialize, ToSchema)]
pub struct Event {
    /// `evt_…`
    id: String,
    /// `paid`, `pending`, `failed`, `refund`, `dispute`, `instrument`, `note` or `unknown`.
    kind: String,
    /// `webhook`, `poll` or `replay`.
    origin: String,
    /// `applied`, `parked` (unknown attempt), `mismatch`, `unknown` (unknown status) or `expired` (parked to the end).
    state: String,
    /// The payment it is about.
    payment: Option<String>,
    /// The gateway's own words.
    detail: String,
    /// In minor units, where the event names one.
    amount: Option<i64>,
    /// ISO 4217.
    currency: Option<String>,
    /// RFC 3339.
    created_at: String,
}

/// What replaying did.
#[derive(Debug, Serialize, ToSchema)]
pub struct ReplayResult {
    /// The delivery.
    delivery: String,
    /// Its events.
    events: Vec<ReplayedEvent>,
}

/// What replaying did to one event.
#[derive(Debug, Serialize, ToSchema)]
pub struct ReplayedEvent {
    /// The event as it is now.
    #[serde(flatten)]
    event: Event,
    /// It was applied now; `false` when it was before, or still cannot be.
    applied_now: bool,
}

/// Which deliveries.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct DeliveryQuery {
    /// For this account.
    provider_account: Option<String>,
    /// With an event about this payment.
    payment: Option<String>,
    /// Rows on a page.
    #[param(minimum = 1, maximum = 100, default = 20)]
    limit: Option<i64>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Lists what gateways sent
#[utoipa::path(get, path = "/v1/deliveries", tag = "deliveries", operation_id = "list_deliveries",
    params(DeliveryQuery), responses((status = 200, body = List<Delivery>), (status = "4XX", body = ProblemBody)))]
async fn list(
    State(web): State<Web>,
    caller: Caller,
    Params(query): Params<DeliveryQuery>,
) -> Result<Json<List<Delivery>>, Problem> {
    let page = page("dlv", query.limit, query.cursor.as_deref())?;
    let filter = DeliveryFilter { account: query.provider_account, payment: query.payment, live: Some(caller.live) };
    let rows = web.app.store.read().await?.deliveries(&caller.merchant, &filter, &page).await?;
    Ok(Json(lists::list(rows, &page, |d| &d.delivery.id, view)))
}

/// Shows one delivery with headers, body and events
#[utoipa::path(get, path = "/v1/deliveries/{id}", tag = "deliveries", operation_id = "get_delivery",
    params(("id" = String, Path)), responses((status = 200, body = WholeDelivery), (status = "4XX", body = ProblemBody)))]
async fn show(State(web): State<Web>, caller: Caller, Path(id): Path<String>) -> Result<Json<WholeDelivery>, Problem> {
    let mut tx = web.app.store.read().await?;
    let stored = find(&mut tx, &caller, &id).await?;
    let events = tx.events_of_delivery(&caller.merchant, &id).await?;
    Ok(Json(WholeDelivery {
        headers: serde_json::from_str(&stored.delivery.headers).unwrap_or_default(),
        query: stored.delivery.query.clone(),
        body: STANDARD.encode(&stored.delivery.body),
        events: events.into_iter().map(show_event).collect(),
        delivery: view(stored),
    }))
}

/// Takes a delivery in again
///
/// It is verified again as of the time it came. What was applied stays; what was not (an unknown attempt, a status
/// that was not known) is tried again.
#[utoipa::path(post, path = "/v1/deliveries/{id}/replay", tag = "deliveries", operation_id = "replay_delivery",
    params(("id" = String, Path)), request_body = Option<Nothing>,
    responses((status = 200, body = ReplayResult), (status = "4XX", body = ProblemBody)))]
async fn replay(
    State(web): State<Web>,
    caller: Caller,
    Path(id): Path<String>,
    post: Post<Nothing>,
) -> Result<Response, Problem> {
    let app = &*web.app;
    let mut turn = post.mark.begin(&web.app).await?;
    let tx = &mut turn.tx;
    find(tx, &caller, &id).await?;
    let replayed = replay_delivery(app, tx, &caller.merchant, &id).await?;
    let events = replayed.into_iter().map(|r| ReplayedEvent { event: show_event(r.event), applied_now: r.applied });
    turn.end(&web.app, Answer::ok(&ReplayResult { delivery: id.clone(), events: events.collect() })).await
}

/// A delivery of the caller's merchant and mode.
async fn find(tx: &mut Tx, caller: &Caller, id: &str) -> Result<StoredDelivery, Problem> {
    let stored = tx.delivery(&caller.merchant, id).await?.ok_or_else(Problem::not_found)?;
    let account = tx.provider_account(&caller.merchant, &stored.delivery.account_id).await?;
    account.filter(|a| a.live == caller.live).ok_or_else(Problem::not_found)?;
    Ok(stored)
}

fn view(stored: StoredDelivery) -> Delivery {
    let d = stored.delivery;
    Delivery {
        id: d.id,
        provider_account: d.account_id,
        provider: d.provider,
        verdict: d.verdict,
        body_sha256: d.body_sha256,
        repeats: stored.repeats,
        received_at: rfc3339(d.received_at),
        last_at: rfc3339(stored.last_at),
    }
}

fn show_event(e: EventRow) -> Event {
    Event {
        id: e.id,
        kind: e.event.kind.word().to_owned(),
        origin: e.origin,
        state: e.state,
        payment: e.payment_id,
        detail: e.event.detail.clone(),
        amount: e.event.amount.map(grosz_providers::Money::minor),
        currency: e.event.amount.map(|m| m.currency().code().to_owned()),
        created_at: rfc3339(e.created_at),
    }
}
