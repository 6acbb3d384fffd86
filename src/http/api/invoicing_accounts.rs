//! A merchant's accounts at invoicing APIs.

use axum::extract::{Path, State};
use axum::response::Response;
use grosz_providers::registry;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use utoipa::ToSchema;

use super::Part;
use super::lists::{List, ListQuery, list_of_few, page};
use super::provider_accounts::{check_mode, check_secrets_stay, merge};
use crate::clock::rfc3339;
use crate::flows::add_account::{add_invoicing_account, check_invoicer, issuing_before, waits_behind};
use crate::flows::probe_invoicing::hear_well;
use crate::http::Web;
use crate::http::auth::Caller;
use crate::http::idempotency::Answer;
use crate::http::input::{Input, Params, Post};
use crate::http::json::Json;
use crate::problem::{Problem, ProblemBody};
use crate::store::{InvoicingAccount as Row, Tx};

pub(super) fn part() -> Part {
    Part::default()
        .add(__path_create, create)
        .add(__path_list, list)
        .add(__path_show, show)
        .add(__path_change, change)
        .add(__path_test, test)
}

/// A merchant's account at an invoicing API.
#[derive(Debug, Serialize, ToSchema)]
pub struct InvoicingAccount {
    /// `inv_…`
    id: String,
    /// Which API.
    invoicer: String,
    /// Issues real documents.
    live: bool,
    /// Off: no invoices are wanted.
    enabled: bool,
    /// Settings; secrets are shown as `"***"`.
    settings: BTreeMap<String, String>,
    /// No calls before this instant (RFC 3339): the account refused them.
    paused_until: Option<String>,
    /// Why, in plain words.
    pause_reason: Option<String>,
    /// Things to look at, said when it is added or changed; it is saved all the same.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<AccountWarning>,
    /// RFC 3339.
    created_at: String,
}

/// Something to look at.
#[derive(Debug, Serialize, ToSchema)]
pub struct AccountWarning {
    /// `issues_nothing`
    code: &'static str,
    /// For people.
    detail: String,
    /// The account that issues instead.
    invoicing_account: String,
}

/// A new account at an invoicing API.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewInvoicingAccount {
    /// Name of the API; `GET /v1/invoicers` lists them with their settings.
    invoicer: String,
    /// Settings, as `GET /v1/invoicers` describes them.
    #[serde(default)]
    #[schema(value_type = Object)]
    settings: Map<String, Value>,
    /// Must be the mode of the API key, which is what it is when left out.
    live: Option<bool>,
    /// Ready to be used at once; `true` when left out.
    enabled: Option<bool>,
}

/// Changes to an account; what is left out stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct InvoicingAccountChange {
    /// Switch.
    enabled: Option<bool>,
    /// Settings to change; others stay, and so does a secret given as `"***"`. `null` brings a default back. Where an
    /// address changes, every secret must be given anew: stored ones are not told elsewhere.
    #[schema(value_type = Option<Object>)]
    settings: Option<Map<String, Value>>,
}

/// Nothing is needed.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// Result of a probe.
#[derive(Debug, Serialize, ToSchema)]
pub struct TestResult {
    /// The account can be used.
    ok: bool,
    /// What is wrong: `config` (credentials, permissions), `retryable` (not reachable now), `unknown` …
    class: Option<String>,
    /// The API's own words.
    detail: Option<String>,
}

/// Adds an account at an invoicing API
///
/// Makes no call; `POST /v1/invoicing-accounts/{id}/test` tries the credentials. Of several that are on, the first one of a
/// mode issues; `warnings` says so to the others.
#[utoipa::path(post, path = "/v1/invoicing-accounts", tag = "invoicing accounts", operation_id = "create_invoicing_account",
    request_body = NewInvoicingAccount, responses((status = 201, body = InvoicingAccount), (status = "4XX", body = ProblemBody)))]
async fn create(State(web): State<Web>, caller: Caller, post: Post<NewInvoicingAccount>) -> Result<Response, Problem> {
    let (app, new) = (&*web.app, &post.input);
    check_mode(&caller, new.live)?;
    let mut turn = post.mark.begin(app).await?;
    let merchant = &caller.merchant;
    let mut row = add_invoicing_account(app, &mut turn.tx, merchant, &new.invoicer, &new.settings, caller.live).await?;
    if new.enabled == Some(false) {
        row.enabled = false;
        turn.tx.update_invoicing_account(&row).await?;
    }
    let warnings = warnings(&mut turn.tx, &row).await?;
    turn.end(app, Answer::created(&InvoicingAccount { warnings, ..view(row) })).await
}

/// Lists the accounts at invoicing APIs
#[utoipa::path(get, path = "/v1/invoicing-accounts", tag = "invoicing accounts", operation_id = "list_invoicing_accounts",
    params(ListQuery), responses((status = 200, body = List<InvoicingAccount>), (status = "4XX", body = ProblemBody)))]
async fn list(
    State(web): State<Web>,
    caller: Caller,
    Params(query): Params<ListQuery>,
) -> Result<Json<List<InvoicingAccount>>, Problem> {
    let page = page("inv", query.limit, query.cursor.as_deref())?;
    let mut rows = web.app.store.read().await?.invoicing_accounts(&caller.merchant).await?;
    rows.retain(|a| a.live == caller.live);
    Ok(Json(list_of_few(rows, &page, |a| &a.id, view)))
}

/// Shows an account at an invoicing API
#[utoipa::path(get, path = "/v1/invoicing-accounts/{id}", tag = "invoicing accounts", operation_id = "get_invoicing_account",
    params(("id" = String, Path)), responses((status = 200, body = InvoicingAccount), (status = "4XX", body = ProblemBody)))]
async fn show(
    State(web): State<Web>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<InvoicingAccount>, Problem> {
    Ok(Json(view(find(&web, &caller, &id).await?)))
}

/// Changes an account at an invoicing API
#[utoipa::path(patch, path = "/v1/invoicing-accounts/{id}", tag = "invoicing accounts", operation_id = "change_invoicing_account",
    params(("id" = String, Path)), request_body = InvoicingAccountChange,
    responses((status = 200, body = InvoicingAccount), (status = "4XX", body = ProblemBody)))]
async fn change(
    State(web): State<Web>,
    caller: Caller,
    Path(id): Path<String>,
    Input(change): Input<InvoicingAccountChange>,
) -> Result<Json<InvoicingAccount>, Problem> {
    let app = &*web.app;
    let mut tx = app.store.begin().await?;
    let found = tx.invoicing_account_for_update(&caller.merchant, &id).await?.filter(|a| a.live == caller.live);
    let mut row = found.ok_or_else(Problem::not_found)?;
    row.enabled = change.enabled.unwrap_or(row.enabled);
    if let Some(changes) = &change.settings {
        let present = app.invoicing_settings(&row)?;
        let settings = check_invoicer(app, &row.invoicer, &merge(&present, changes))?;
        let facts = registry::invoicer(&row.invoicer).map_or(&[][..], |i| i.facts().settings);
        check_secrets_stay(facts, &present, &settings, changes)?;
        row.sealed = app.seal_settings(&row.id, &settings)?;
        row.shown = settings.shown(facts);
        // The pause was about the old settings.
        (row.paused_until, row.pause_reason, row.failures) = (None, None, 0);
    }
    tx.update_invoicing_account(&row).await?;
    let warnings = warnings(&mut tx, &row).await?;
    tx.commit().await?;
    Ok(Json(InvoicingAccount { warnings, ..view(row) }))
}

/// Tries the credentials of an account, reading only
#[utoipa::path(post, path = "/v1/invoicing-accounts/{id}/test", tag = "invoicing accounts", operation_id = "test_invoicing_account",
    params(("id" = String, Path)), request_body = Option<Nothing>,
    responses((status = 200, body = TestResult), (status = "4XX", body = ProblemBody)))]
async fn test(
    State(web): State<Web>,
    caller: Caller,
    Path(id): Path<String>,
    post: Post<Nothing>,
) -> Result<Response, Problem> {
    let app = &*web.app;
    let row = find(&web, &caller, &id).await?;
    if app.config.hold {
        return Err(Problem::conflict("calls_held", "outside calls are held: the hub was started with hold"));
    }
    let invoicer = registry::invoicer(&row.invoicer).ok_or_else(Problem::internal)?;
    let settings = app.invoicing_settings(&row)?;
    let result = match invoicer.self_test(&app.cx(&settings, row.live)).await {
        Ok(()) => TestResult { ok: true, class: None, detail: None },
        Err(failure) => TestResult {
            ok: false,
            class: serde_json::to_value(failure.class).ok().and_then(|v| v.as_str().map(str::to_owned)),
            detail: Some(format!("{} {}", failure.code, failure.message)),
        },
    };
    let mut turn = post.mark.begin(&web.app).await?;
    let tx = &mut turn.tx;
    // Of the settings that were tried, and of the pause as it is now: either may have changed during the call.
    let now = if result.ok { tx.invoicing_account_for_update(&caller.merchant, &id).await? } else { None };
    if let Some(now) = now.filter(|now| now.pause_reason.is_some() && now.sealed == row.sealed) {
        hear_well(app, tx, &now).await?;
    }
    turn.end(&web.app, Answer::ok(&result)).await
}

async fn find(web: &Web, caller: &Caller, id: &str) -> Result<Row, Problem> {
    let mut tx = web.app.store.read().await?;
    let found = tx.invoicing_account(&caller.merchant, id).await?.filter(|a| a.live == caller.live);
    found.ok_or_else(Problem::not_found)
}

async fn warnings(tx: &mut Tx, row: &Row) -> Result<Vec<AccountWarning>, Problem> {
    let first = issuing_before(tx, row).await?;
    let warn = |first: Row| AccountWarning {
        code: "issues_nothing",
        detail: waits_behind(&first),
        invoicing_account: first.id,
    };
    Ok(first.into_iter().map(warn).collect())
}

fn view(row: Row) -> InvoicingAccount {
    InvoicingAccount {
        id: row.id,
        invoicer: row.invoicer,
        live: row.live,
        enabled: row.enabled,
        settings: row.shown,
        paused_until: row.paused_until.map(rfc3339),
        pause_reason: row.pause_reason,
        warnings: vec![],
        created_at: rfc3339(row.created_at),
    }
}
