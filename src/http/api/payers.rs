//! Payers: who pays.

use axum::extract::{Path, State};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Part;
use super::lists::{self, List, ListQuery, page};
use crate::app::App;
use crate::clock::rfc3339;
use crate::http::Web;
use crate::http::auth::Caller;
use crate::http::idempotency::Answer;
use crate::http::input::{Fields, Input, Params, Post};
use crate::http::json::Json;
use crate::problem::{Problem, ProblemBody};
use crate::store::Payer as Row;

pub(super) fn part() -> Part {
    Part::default().add(__path_create, create).add(__path_list, list).add(__path_show, show).add(__path_change, change)
}

/// Who pays.
#[derive(Debug, Serialize, ToSchema)]
pub struct Payer {
    /// `pyr_…`
    id: String,
    /// Name.
    name: String,
    /// Address for mails.
    email: String,
    /// Language of pages and mails.
    language: String,
    /// The payer's own list of payments; whoever has this address can see it, so give it to nobody else.
    portal_url: String,
    /// RFC 3339.
    created_at: String,
}

/// A new payer.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPayer {
    /// Name.
    #[schema(max_length = 200, example = "Jan Kowalski")]
    name: String,
    /// Address for mails and for the gateway, with a dot in its domain.
    #[schema(example = "jan@firma.example")]
    email: String,
    /// Language of pages and mails: `en`, `pl`, `uk`, `cs`, `ru` or `is`; the merchant's when left out.
    #[schema(example = "pl")]
    language: Option<String>,
}

/// Changes to a payer; what is left out stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PayerChange {
    /// Name.
    name: Option<String>,
    /// Address for mails.
    email: Option<String>,
    /// Language of pages and mails.
    language: Option<String>,
}

/// Adds a payer
#[utoipa::path(post, path = "/v1/payers", tag = "payers", operation_id = "create_payer",
    request_body = NewPayer, responses((status = 201, body = Payer), (status = "4XX", body = ProblemBody)))]
async fn create(State(web): State<Web>, caller: Caller, post: Post<NewPayer>) -> Result<Response, Problem> {
    let (app, new) = (&*web.app, &post.input);
    let mut fields = Fields::default();
    let name = fields.free_text("/name", &new.name, 200);
    let email = fields.public_email("/email", &new.email);
    let language = new.language.as_deref().map(|l| fields.language("/language", l));
    fields.finish()?;
    let mut turn = post.mark.begin(&web.app).await?;
    let tx = &mut turn.tx;
    let merchant = tx.merchant(&caller.merchant).await?.ok_or_else(Problem::not_found)?;
    let row = Row {
        merchant_id: caller.merchant.clone(),
        id: app.ids.make("pyr"),
        name,
        email,
        language: language.unwrap_or(merchant.language),
        portal_token: app.ids.token(),
        created_at: app.now(),
    };
    tx.add_payer(&row).await?;
    turn.end(&web.app, Answer::created(&view(app, row))).await
}

/// Lists the payers
#[utoipa::path(get, path = "/v1/payers", tag = "payers", operation_id = "list_payers",
    params(ListQuery), responses((status = 200, body = List<Payer>), (status = "4XX", body = ProblemBody)))]
async fn list(
    State(web): State<Web>,
    caller: Caller,
    Params(query): Params<ListQuery>,
) -> Result<Json<List<Payer>>, Problem> {
    let page = page("pyr", query.limit, query.cursor.as_deref())?;
    let rows = web.app.store.read().await?.payers(&caller.merchant, &page).await?;
    Ok(Json(lists::list(rows, &page, |p| &p.id, |p| view(&web.app, p))))
}

/// Shows a payer
#[utoipa::path(get, path = "/v1/payers/{id}", tag = "payers", operation_id = "get_payer",
    params(("id" = String, Path)), responses((status = 200, body = Payer), (status = "4XX", body = ProblemBody)))]
async fn show(State(web): State<Web>, caller: Caller, Path(id): Path<String>) -> Result<Json<Payer>, Problem> {
    let found = web.app.store.read().await?.payer(&caller.merchant, &id).await?;
    Ok(Json(view(&web.app, found.ok_or_else(Problem::not_found)?)))
}

/// Changes a payer
#[utoipa::path(patch, path = "/v1/payers/{id}", tag = "payers", operation_id = "change_payer",
    params(("id" = String, Path)), request_body = PayerChange,
    responses((status = 200, body = Payer), (status = "4XX", body = ProblemBody)))]
async fn change(
    State(web): State<Web>,
    caller: Caller,
    Path(id): Path<String>,
    Input(change): Input<PayerChange>,
) -> Result<Json<Payer>, Problem> {
    let mut fields = Fields::default();
    let name = change.name.map(|n| fields.free_text("/name", &n, 200));
    let email = change.email.map(|e| fields.public_email("/email", &e));
    let language = change.language.map(|l| fields.language("/language", &l));
    fields.finish()?;
    let mut tx = web.app.store.begin().await?;
    let mut row = tx.payer_for_update(&caller.merchant, &id).await?.ok_or_else(Problem::not_found)?;
    row.name = name.unwrap_or(row.name);
    row.email = email.unwrap_or(row.email);
    row.language = language.unwrap_or(row.language);
    tx.update_payer(&row).await?;
    tx.commit().await?;
    Ok(Json(view(&web.app, row)))
}

fn view(app: &App, row: Row) -> Payer {
    Payer {
        id: row.id,
        name: row.name,
        email: row.email,
        language: row.language,
        portal_url: app.portal_url(&row.portal_token),
        created_at: rfc3339(row.created_at),
    }
}
