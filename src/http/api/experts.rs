//! Experts: who handles cases and hears about failures.

use axum::extract::{Path, State};
use axum::response::Response;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Part;
use super::lists::{self, List, ListQuery, page};
use crate::clock::rfc3339;
use crate::http::Web;
use crate::http::auth::Caller;
use crate::http::idempotency::Answer;
use crate::http::input::{Fields, Input, Params, Post};
use crate::http::json::Json;
use crate::problem::{Problem, ProblemBody};
use crate::store::Expert as Row;

pub(super) fn part() -> Part {
    Part::default().add(__path_create, create).add(__path_list, list).add(__path_show, show).add(__path_change, change)
}

/// Who handles cases.
#[derive(Debug, Serialize, ToSchema)]
pub struct Expert {
    /// `exp_…`
    id: String,
    /// Name.
    name: String,
    /// Where notices go.
    email: String,
    /// Language of notices.
    language: String,
    /// RFC 3339.
    created_at: String,
}

/// A new expert.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewExpert {
    /// Name.
    #[schema(max_length = 200, example = "Anna Nowak")]
    name: String,
    /// Where notices go.
    #[schema(example = "anna@kancelaria.example")]
    email: String,
    /// Language of notices: `en`, `pl`, `uk`, `cs`, `ru` or `is`; the merchant's when left out.
    #[schema(example = "pl")]
    language: Option<String>,
}

/// Changes to an expert; what is left out stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ExpertChange {
    /// Name.
    name: Option<String>,
    /// Where notices go.
    email: Option<String>,
    /// Language of notices.
    language: Option<String>,
}

/// Adds an expert
#[utoipa::path(post, path = "/v1/experts", tag = "experts", operation_id = "create_expert",
    request_body = NewExpert, responses((status = 201, body = Expert), (status = "4XX", body = ProblemBody)))]
async fn create(State(web): State<Web>, caller: Caller, post: Post<NewExpert>) -> Result<Response, Problem> {
    let (app, new) = (&*web.app, &post.input);
    let mut fields = Fields::default();
    let name = fields.free_text("/name", &new.name, 200);
    let email = fields.email("/email", &new.email);
    let language = new.language.as_deref().map(|l| fields.language("/language", l));
    fields.finish()?;
    let mut turn = post.mark.begin(&web.app).await?;
    let tx = &mut turn.tx;
    let merchant = tx.merchant(&caller.merchant).await?.ok_or_else(Problem::not_found)?;
    let row = Row {
        merchant_id: caller.merchant.clone(),
        id: app.ids.make("exp"),
        name,
        email,
        language: language.unwrap_or(merchant.language),
        created_at: app.now(),
    };
    tx.add_expert(&row).await?;
    turn.end(&web.app, Answer::created(&view(row))).await
}

/// Lists the experts
#[utoipa::path(get, path = "/v1/experts", tag = "experts", operation_id = "list_experts",
    params(ListQuery), responses((status = 200, body = List<Expert>), (status = "4XX", body = ProblemBody)))]
async fn list(
    State(web): State<Web>,
    caller: Caller,
    Params(query): Params<ListQuery>,
) -> Result<Json<List<Expert>>, Problem> {
    let page = page("exp", query.limit, query.cursor.as_deref())?;
    let rows = web.app.store.read().await?.experts(&caller.merchant, &page).await?;
    Ok(Json(lists::list(rows, &page, |e| &e.id, view)))
}

/// Shows an expert
#[utoipa::path(get, path = "/v1/experts/{id}", tag = "experts", operation_id = "get_expert",
    params(("id" = String, Path)), responses((status = 200, body = Expert), (status = "4XX", body = ProblemBody)))]
async fn show(State(web): State<Web>, caller: Caller, Path(id): Path<String>) -> Result<Json<Expert>, Problem> {
    let found = web.app.store.read().await?.expert(&caller.merchant, &id).await?;
    Ok(Json(view(found.ok_or_else(Problem::not_found)?)))
}

/// Changes an expert
#[utoipa::path(patch, path = "/v1/experts/{id}", tag = "experts", operation_id = "change_expert",
    params(("id" = String, Path)), request_body = ExpertChange,
    responses((status = 200, body = Expert), (status = "4XX", body = ProblemBody)))]
async fn change(
    State(web): State<Web>,
    caller: Caller,
    Path(id): Path<String>,
    Input(change): Input<ExpertChange>,
) -> Result<Json<Expert>, Problem> {
    let mut fields = Fields::default();
    let name = change.name.map(|n| fields.free_text("/name", &n, 200));
    let email = change.email.map(|e| fields.email("/email", &e));
    let language = change.language.map(|l| fields.language("/language", &l));
    fields.finish()?;
    let mut tx = web.app.store.begin().await?;
    let mut row = tx.expert_for_update(&caller.merchant, &id).await?.ok_or_else(Problem::not_found)?;
    row.name = name.unwrap_or(row.name);
    row.email = email.unwrap_or(row.email);
    row.language = language.unwrap_or(row.language);
    tx.update_expert(&row).await?;
    tx.commit().await?;
    Ok(Json(view(row)))
}

fn view(row: Row) -> Expert {
    Expert { id: row.id, name: row.name, email: row.email, language: row.language, created_at: rfc3339(row.created_at) }
}
