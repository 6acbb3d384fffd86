//! Cases: a client's matter with a number, quoted by an expert, paid by a payer.

use axum::extract::{Path, State};
use axum::response::Response;
use grosz_providers::Money;
use grosz_providers::invoicer::InvoiceLine;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Part;
use super::lists::{self, List, page};
use super::views::{Line, NewLine, PricesWord, Totals, check_lines, given, show_lines, totals};
use crate::app::App;
use crate::clock::rfc3339;
use crate::flows::change_quote::{change_quote, hold_case};
use crate::flows::check_sale::seller_of;
use crate::http::Web;
use crate::http::auth::Caller;
use crate::http::idempotency::Answer;
use crate::http::input::{Fields, Input, Params, Post};
use crate::http::json::Json;
use crate::problem::{Problem, ProblemBody};
use crate::store::{Case as Row, StoreError, Tx};

pub(super) fn part() -> Part {
    Part::default().add(__path_create, create).add(__path_list, list).add(__path_show, show).add(__path_change, change)
}

/// A client's matter.
#[derive(Debug, Serialize, ToSchema)]
pub struct Case {
    /// `case_…`
    id: String,
    /// The number people use.
    number: String,
    /// What it is about.
    title: String,
    /// Who handles it and hears of failures.
    expert: Option<String>,
    /// Who pays.
    payer: String,
    /// The quote's total with VAT, in minor units.
    amount: i64,
    /// ISO 4217.
    currency: String,
    /// The quote's lines, in gross prices.
    lines: Vec<Line>,
    /// Sums of the quote.
    totals: Totals,
    /// Rises when the quote changes; a checkout of an older quote is withdrawn.
    quote_version: i64,
    /// `analysis` until it is paid, then `in_preparation`.
    status: String,
    /// RFC 3339.
    created_at: String,
    /// RFC 3339.
    updated_at: String,
}

/// A new case with its quote.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewCase {
    /// The number people use, unique for the merchant; at most 64 characters.
    #[schema(max_length = 64, example = "1/TR/2026")]
    number: String,
    /// What it is about, at most 200 characters.
    #[schema(max_length = 200, example = "Analiza umowy najmu")]
    title: String,
    /// Who handles it. Needed where the merchant has several experts, and where it has no fallback address.
    expert: Option<String>,
    /// Who pays.
    payer: String,
    /// The quote's total with VAT, in minor units.
    #[schema(minimum = 1, maximum = 1_000_000_000_000i64, example = 12300)]
    amount: i64,
    /// ISO 4217.
    #[schema(example = "PLN")]
    currency: String,
    /// The quote's lines; they add up to the amount.
    #[schema(min_items = 1, max_items = 50)]
    lines: Vec<NewLine>,
    /// Whether unit prices hold VAT. Left out: gross if that adds up to the amount, else net.
    prices: Option<PricesWord>,
}

/// Changes to a case; what is left out stays. A quote is changed by `amount` and `lines` together.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct CaseChange {
    /// What it is about.
    title: Option<String>,
    /// Who handles it; `null` for nobody.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    expert: Option<Option<String>>,
    /// The new total, in minor units.
    amount: Option<i64>,
    /// ISO 4217; must be the case's when only the amount changes.
    currency: Option<String>,
    /// The new lines.
    lines: Option<Vec<NewLine>>,
    /// Whether unit prices hold VAT.
    prices: Option<PricesWord>,
}

/// Which cases.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct CaseQuery {
    /// Of this payer.
    payer: Option<String>,
    /// Rows on a page.
    #[param(minimum = 1, maximum = 100, default = 20)]
    limit: Option<i64>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Opens a case with its quote
#[utoipa::path(post, path = "/v1/cases", tag = "cases", operation_id = "create_case",
    request_body = NewCase, responses((status = 201, body = Case), (status = "4XX", body = ProblemBody)))]
async fn create(State(web): State<Web>, caller: Caller, post: Post<NewCase>) -> Result<Response, Problem> {
    let (app, new) = (&*web.app, &post.input);
    let mut fields = Fields::default();
    let number = fields.line("/number", &new.number, 64);
    let title = fields.free_text("/title", &new.title, 200);
    let total = fields.money(new.amount, &new.currency);
    let lines = total.map(|total| check_lines(&mut fields, &new.lines, total, new.prices)).unwrap_or_default();
    fields.finish()?;
    let total = total.ok_or_else(Problem::internal)?;
    let mut turn = post.mark.begin(&web.app).await?;
    let tx = &mut turn.tx;
    check_quotable(app, tx, &caller, total, &lines).await?;
    if tx.payer(&caller.merchant, &new.payer).await?.is_none() {
        return Err(Problem::field("/payer", "does not exist"));
    }
    check_expert(app, tx, &caller, new.expert.as_deref()).await?;
    check_taken_over(tx, &caller, new.expert.as_deref()).await?;
    if tx.case_by_number(&caller.merchant, &number).await?.is_some() {
        return Err(number_taken(&number));
    }
    let now = app.now();
    let row = Row {
        merchant_id: caller.merchant.clone(),
        id: app.ids.make("case"),
        number: number.clone(),
        title: title.clone(),
        expert_id: new.expert.clone(),
        payer_id: new.payer.clone(),
        total,
        lines: lines.clone(),
        quote_version: 1,
        status: "analysis".into(),
        created_at: now,
        updated_at: now,
    };
    match tx.add_case(&row).await {
        // Between our look and our row somebody opened a case of that number.
        Err(StoreError::Taken) => return Err(number_taken(&number)),
        other => other?,
    }
    turn.end(&web.app, Answer::created(&view(row))).await
}

fn number_taken(number: &str) -> Problem {
    Problem::conflict("case_number_taken", format!("there is a case with the number {number} already"))
}

/// Lists the cases
#[utoipa::path(get, path = "/v1/cases", tag = "cases", operation_id = "list_cases",
    params(CaseQuery), responses((status = 200, body = List<Case>), (status = "4XX", body = ProblemBody)))]
async fn list(
    State(web): State<Web>,
    caller: Caller,
    Params(query): Params<CaseQuery>,
) -> Result<Json<List<Case>>, Problem> {
    let page = page("case", query.limit, query.cursor.as_deref())?;
    let rows = web.app.store.read().await?.cases(&caller.merchant, query.payer.as_deref(), &page).await?;
    Ok(Json(lists::list(rows, &page, |c| &c.id, view)))
}

/// Shows a case
#[utoipa::path(get, path = "/v1/cases/{id}", tag = "cases", operation_id = "get_case",
    params(("id" = String, Path)), responses((status = 200, body = Case), (status = "4XX", body = ProblemBody)))]
async fn show(State(web): State<Web>, caller: Caller, Path(id): Path<String>) -> Result<Json<Case>, Problem> {
    let found = web.app.store.read().await?.case(&caller.merchant, &id).await?;
    Ok(Json(view(found.ok_or_else(Problem::not_found)?)))
}

/// Changes a case or its quote
///
/// A new quote withdraws the unfinished checkout of the old one; a paid case keeps its quote.
#[utoipa::path(patch, path = "/v1/cases/{id}", tag = "cases", operation_id = "change_case",
    params(("id" = String, Path)), request_body = CaseChange,
    responses((status = 200, body = Case), (status = "4XX", body = ProblemBody)))]
async fn change(
    State(web): State<Web>,
    caller: Caller,
    Path(id): Path<String>,
    Input(change): Input<CaseChange>,
) -> Result<Json<Case>, Problem> {
    let app = &*web.app;
    let mut tx = app.store.begin().await?;
    let mut row = hold_case(&mut tx, &caller.merchant, &id).await?.ok_or_else(Problem::not_found)?;
    let mut fields = Fields::default();
    let title = change.title.as_deref().map(|t| fields.free_text("/title", t, 200));
    let quote = match (change.amount, &change.lines) {
        (Some(amount), Some(given)) => {
            let code = change.currency.as_deref().unwrap_or(row.total.currency().code());
            let total = fields.money(amount, code);
            total.map(|total| (total, check_lines(&mut fields, given, total, change.prices)))
        }
        (None, None) if change.currency.is_none() && change.prices.is_none() => None,
        (Some(_), None) => {
            fields.refuse("/lines", "is required with amount: a quote is changed as a whole");
            None
        }
        (None, _) => {
            fields.refuse("/amount", "is required with lines: a quote is changed as a whole");
            None
        }
    };
    fields.finish()?;
    if let Some(expert) = change.expert {
        check_expert(app, &mut tx, &caller, expert.as_deref()).await?;
        row.expert_id = expert;
    }
    row.title = title.unwrap_or(row.title);
    row.updated_at = app.now();
    tx.update_case(&row).await?;
    if let Some((total, lines)) = quote {
        check_quotable(app, &mut tx, &caller, total, &lines).await?;
        check_taken_over(&mut tx, &caller, row.expert_id.as_deref()).await?;
        change_quote(app, &mut tx, &mut row, total, lines).await?;
    }
    tx.commit().await?;
    app.job_bell.notify_one();
    Ok(Json(view(row)))
}

/// Quoting is possible only while some provider account is on (R-5W-02), and with lines that can be invoiced (R-5W-05).
async fn check_quotable(
    app: &App,
    tx: &mut Tx,
    caller: &Caller,
    total: Money,
    lines: &[InvoiceLine],
) -> Result<(), Problem> {
    let accounts = tx.provider_accounts(&caller.merchant).await?;
    if !accounts.iter().any(|a| a.enabled && a.live == caller.live) {
        let detail = "quoting needs a provider account that is on; add one with POST /v1/provider-accounts";
        return Err(Problem::conflict("provider_not_configured", detail));
    }
    if let Some(seller) = seller_of(app, tx, &caller.merchant, caller.live).await? {
        seller.check(total, lines, None)?;
    }
    Ok(())
}

/// In a team a case is quoted when somebody took it over or was given it (R-5W-06).
async fn check_taken_over(tx: &mut Tx, caller: &Caller, expert: Option<&str>) -> Result<(), Problem> {
    if expert.is_some() || !tx.is_team(&caller.merchant).await? {
        return Ok(());
    }
    let detail = "nobody has taken the case over: name one of the merchant's experts in expert, then quote it";
    Err(Problem::conflict("case_unassigned", detail))
}

/// Somebody must hear of failures: the case's expert, or the fallback address.
async fn check_expert(app: &App, tx: &mut Tx, caller: &Caller, expert: Option<&str>) -> Result<(), Problem> {
    match expert {
        Some(id) if tx.expert(&caller.merchant, id).await?.is_some() => Ok(()),
        Some(_) => Err(Problem::field("/expert", "does not exist")),
        None => {
            let merchant = tx.merchant(&caller.merchant).await?.ok_or_else(Problem::not_found)?;
            if merchant.fallback_email.is_some() || !app.config.fallback_email.is_empty() {
                return Ok(());
            }
            let why = "is required: the merchant has no fallback_email that could hear of failures";
            Err(Problem::field("/expert", why))
        }
    }
}

fn view(row: Row) -> Case {
    Case {
        id: row.id,
        number: row.number,
        title: row.title,
        expert: row.expert_id,
        payer: row.payer_id,
        amount: row.total.minor(),
        currency: row.total.currency().code().to_owned(),
        lines: show_lines(&row.lines),
        totals: totals(&row.lines),
        quote_version: row.quote_version,
        status: row.status,
        created_at: rfc3339(row.created_at),
        updated_at: rfc3339(row.updated_at),
    }
}
