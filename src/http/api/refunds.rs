//! Refunds: requested here, ordered at the gateway by a job.

use axum::extract::{Path, State};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Part;
use super::lists::{List, ListQuery, list_of_few, page};
use super::payments::find;
use crate::clock::rfc3339;
use crate::flows::refund::{own_capture, request_refund};
use crate::http::Web;
use crate::http::auth::Caller;
use crate::http::idempotency::Answer;
use crate::http::input::{Fields, Params, Post};
use crate::http::json::Json;
use crate::problem::{Problem, ProblemBody};
use crate::store::{Capture, Refund as Row};

pub(super) fn part() -> Part {
    Part::default().add(__path_create, create).add(__path_list, list)
}

/// Money given back, or to be given back.
#[derive(Debug, Serialize, ToSchema)]
pub struct Refund {
    /// `ref_…`
    id: String,
    /// Of which payment.
    payment: String,
    /// In minor units.
    amount: i64,
    /// ISO 4217.
    currency: String,
    /// Of money that came on top of what was to be paid: it does not count in the payment's `amount_refunded`.
    surplus: bool,
    /// `proposed` (waits for a person), `requested`, `pending`, `succeeded` or `failed`.
    status: String,
    /// The caller's words.
    reason: Option<String>,
    /// The gateway's name for it.
    gateway_ref: Option<String>,
    /// The gateway's words.
    detail: String,
    /// RFC 3339.
    created_at: String,
    /// RFC 3339.
    updated_at: String,
}

/// A refund to be made.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewRefund {
    /// How much, in minor units; all that is left when left out. A double payment goes back first.
    #[schema(minimum = 1)]
    amount: Option<i64>,
    /// ISO 4217; must be the payment's.
    currency: Option<String>,
    /// Why, at most 200 characters; for your records.
    #[schema(max_length = 200)]
    reason: Option<String>,
}

/// Refunds a payment, in whole or in part
///
/// The sum of all refunds never exceeds what was paid, less what a lost dispute took. A refund that was prepared for the
/// same sum is the one that is confirmed.
#[utoipa::path(post, path = "/v1/payments/{id}/refunds", tag = "payments", operation_id = "create_refund",
    params(("id" = String, Path, description = "The payment")), request_body = Option<NewRefund>,
    responses((status = 201, body = Refund), (status = "4XX", body = ProblemBody)))]
async fn create(
    State(web): State<Web>,
    caller: Caller,
    Path(id): Path<String>,
    post: Post<NewRefund>,
) -> Result<Response, Problem> {
    let (app, new) = (&*web.app, &post.input);
    let mut fields = Fields::default();
    let reason = new.reason.as_deref().map(|r| fields.free_text("/reason", r, 200));
    fields.finish()?;
    let mut turn = post.mark.begin(&web.app).await?;
    let tx = &mut turn.tx;
    let payment = find(tx, &caller, &id).await?;
    let code = payment.amount.currency().code();
    if new.currency.as_deref().is_some_and(|c| c != code) {
        return Err(Problem::field("/currency", format!("must be {code}, the payment's currency")));
    }
    let refund = request_refund(app, tx, &payment, new.amount, reason.clone()).await?;
    let captures = tx.captures(&caller.merchant, &id).await?;
    let shown = view(refund, &captures);
    turn.end(&web.app, Answer::created(&shown)).await
}

/// Lists the refunds of a payment
#[utoipa::path(get, path = "/v1/payments/{id}/refunds", tag = "payments", operation_id = "list_refunds",
    params(("id" = String, Path, description = "The payment"), ListQuery),
    responses((status = 200, body = List<Refund>), (status = "4XX", body = ProblemBody)))]
async fn list(
    State(web): State<Web>,
    caller: Caller,
    Path(id): Path<String>,
    Params(query): Params<ListQuery>,
) -> Result<Json<List<Refund>>, Problem> {
    let page = page("ref", query.limit, query.cursor.as_deref())?;
    let mut tx = web.app.store.read().await?;
    find(&mut tx, &caller, &id).await?;
    let rows = tx.refunds(&caller.merchant, &id).await?;
    let captures = tx.captures(&caller.merchant, &id).await?;
    Ok(Json(list_of_few(rows, &page, |r| &r.id, |r| view(r, &captures))))
}

fn view(r: Row, captures: &[Capture]) -> Refund {
    let surplus = own_capture(captures).is_none_or(|own| own.id != r.capture_id);
    Refund {
        id: r.id,
        payment: r.payment_id,
        amount: r.amount.minor(),
        currency: r.amount.currency().code().to_owned(),
        surplus,
        status: r.state,
        reason: r.reason,
        gateway_ref: r.gateway_ref,
        detail: r.detail,
        created_at: rfc3339(r.created_at),
        updated_at: rfc3339(r.updated_at),
    }
}
