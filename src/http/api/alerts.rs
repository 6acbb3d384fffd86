//! Alerts: what a person must look at.

use axum::extract::{Path, State};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Part;
use super::invoicing_accounts::Nothing;
use super::lists::{List, Sieve, page};
use crate::clock::rfc3339;
use crate::flows::settle_mismatch::{AMOUNT_MISMATCH, settle_mismatch};
use crate::http::Web;
use crate::http::auth::Caller;
use crate::http::idempotency::Answer;
use crate::http::input::{Params, Post};
use crate::http::json::Json;
use crate::problem::{FieldError, Problem, ProblemBody};
use crate::store::{Alert as Row, Tx};

pub(super) fn part() -> Part {
    Part::default().add(__path_list, list).add(__path_show, show).add(__path_resolve, resolve)
}

/// Something a person must look at.
#[derive(Debug, Serialize, ToSchema)]
pub struct Alert {
    /// `alr_…`
    id: String,
    /// Stable code, such as `invoice.exhausted`.
    code: String,
    /// `open` or `resolved`.
    state: &'static str,
    /// About which payment.
    payment: Option<String>,
    /// About which case.
    case: Option<String>,
    /// Who should look; nobody: the merchant's fallback address.
    expert: Option<String>,
    /// Why, in plain words.
    reason: String,
    /// Fields to correct.
    fields: Vec<FieldError>,
    /// What to do.
    next_step: String,
    /// RFC 3339.
    opened_at: String,
    /// RFC 3339.
    resolved_at: Option<String>,
}

/// Which alerts.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AlertQuery {
    /// `open` (as when left out) or `all`.
    state: Option<String>,
    /// About this payment.
    payment: Option<String>,
    /// Rows on a page.
    #[param(minimum = 1, maximum = 100, default = 20)]
    limit: Option<i64>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Lists alerts
///
/// Those about the other mode than the key's are left out.
#[utoipa::path(get, path = "/v1/alerts", tag = "alerts", operation_id = "list_alerts",
    params(AlertQuery), responses((status = 200, body = List<Alert>), (status = "4XX", body = ProblemBody)))]
async fn list(
    State(web): State<Web>,
    caller: Caller,
    Params(query): Params<AlertQuery>,
) -> Result<Json<List<Alert>>, Problem> {
    let page = page("alr", query.limit, query.cursor.as_deref())?;
    let open_only = match query.state.as_deref() {
        None | Some("open") => true,
        Some("all") => false,
        Some(_) => return Err(Problem::field("state", "must be open or all")),
    };
    let mut tx = web.app.store.read().await?;
    let mut sieve = Sieve::new(page);
    while let Some(page) = sieve.wanted() {
        let rows = tx.alerts(&caller.merchant, query.payment.as_deref(), open_only, &page).await?;
        let ids: Vec<&str> = rows.iter().map(|a| a.id.as_str()).collect();
        let modes = tx.modes_of(&caller.merchant, &ids).await?;
        sieve.take(rows, |a| &a.id, |a| caller.sees(modes.get(&a.id)));
    }
    Ok(Json(sieve.list(view)))
}

/// Shows an alert
#[utoipa::path(get, path = "/v1/alerts/{id}", tag = "alerts", operation_id = "get_alert",
    params(("id" = String, Path)), responses((status = 200, body = Alert), (status = "4XX", body = ProblemBody)))]
async fn show(State(web): State<Web>, caller: Caller, Path(id): Path<String>) -> Result<Json<Alert>, Problem> {
    let mut tx = web.app.store.read().await?;
    Ok(Json(view(find(&mut tx, &caller, &id).await?)))
}

/// Marks an alert as dealt with
///
/// Resolving one that is resolved changes nothing. With `payment.amount_mismatch` resolved, the payment can be tried again.
#[utoipa::path(post, path = "/v1/alerts/{id}/resolve", tag = "alerts", operation_id = "resolve_alert",
    params(("id" = String, Path)), request_body = Option<Nothing>,
    responses((status = 200, body = Alert), (status = "4XX", body = ProblemBody)))]
async fn resolve(
    State(web): State<Web>,
    caller: Caller,
    Path(id): Path<String>,
    post: Post<Nothing>,
) -> Result<Response, Problem> {
    let mut turn = post.mark.begin(&web.app).await?;
    let tx = &mut turn.tx;
    let alert = find(tx, &caller, &id).await?;
    // The payment first, as events about it do.
    let payment = match alert.payment_id.as_deref().filter(|_| alert.code == AMOUNT_MISMATCH) {
        Some(payment) => tx.payment_for_update(&caller.merchant, payment).await?,
        None => None,
    };
    if tx.resolve_alert(&caller.merchant, &id, web.app.now()).await?
        && let Some(payment) = payment
    {
        settle_mismatch(&web.app, tx, &payment, &alert).await?;
        web.app.job_bell.notify_one();
    }
    let found = find(tx, &caller, &id).await?;
    turn.end(&web.app, Answer::ok(&view(found))).await
}

async fn find(tx: &mut Tx, caller: &Caller, id: &str) -> Result<Row, Problem> {
    let found = tx.alert(&caller.merchant, id).await?.ok_or_else(Problem::not_found)?;
    let modes = tx.modes_of(&caller.merchant, &[id]).await?;
    if caller.sees(modes.get(id)) { Ok(found) } else { Err(Problem::not_found()) }
}

fn view(a: Row) -> Alert {
    let fields = a.fields.into_iter();
    Alert {
        id: a.id,
        code: a.code,
        state: if a.resolved_at.is_some() { "resolved" } else { "open" },
        payment: a.payment_id,
        case: a.case_id,
        expert: a.expert_id,
        reason: a.reason,
        fields: fields
            .map(|(path, detail)| FieldError { pointer: format!("/{}", path.replace('.', "/")), detail })
            .collect(),
        next_step: a.next_step,
        opened_at: rfc3339(a.opened_at),
        resolved_at: a.resolved_at.map(rfc3339),
    }
}
