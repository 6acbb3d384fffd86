//! Payments: started here, paid at a gateway, decided by what the gateway reports.

use std::borrow::Cow;

use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use grosz_providers::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Part;
use super::lists::{List, list as page_of, page};
use super::orders::Called;
use super::views::{NewLine, PricesWord, check_lines};
use crate::app::App;
use crate::clock::rfc3339;
use crate::domain::invoice::{CellFacts, State as InvoiceState, cell};
use crate::domain::payment::{Reason, Status};
use crate::flows::retry_payment::{ask_first, retry_payment};
use crate::flows::start_checkout::NewPayment as Order;
use crate::http::Web;
use crate::http::auth::Caller;
use crate::http::idempotency::Answer;
use crate::http::input::{Fields, Params, Post, SlicedPost};
use crate::http::json::Json;
use crate::problem::{Problem, ProblemBody};
use crate::store::{
    Attempt as AttemptRow, AttemptGlance, InvoiceGlance, ListedPayment, Payment as Row, PaymentFilter, Tx,
};

pub(super) fn part() -> Part {
    Part::default().add(__path_create, create).add(__path_list, list).add(__path_show, show).add(__path_retry, retry)
}

/// One thing to be paid.
#[derive(Debug, Serialize, ToSchema)]
pub struct Payment<'a> {
    /// `pay_…`
    id: &'a str,
    /// `started`, `completed` or `error`.
    status: &'static str,
    /// Why, when in `error`: `cancelled`, `declined`, `expired`, `technical`, `quote_changed`.
    status_reason: Option<&'static str>,
    /// What is unusual about it.
    flags: Flags,
    /// In minor units.
    amount: i64,
    /// ISO 4217.
    currency: &'a str,
    /// Sum of the refunds that succeeded, in minor units.
    amount_refunded: i64,
    /// One line for the payer.
    description: &'a str,
    /// The case it pays.
    case: Option<&'a str>,
    /// Who pays.
    payer: &'a str,
    /// Where its invoice data came from.
    profile: Option<&'a str>,
    /// The account it is (last) tried at.
    provider_account: &'a str,
    /// Where the payer goes afterwards; `null` for the hub's own pages.
    return_url: Option<&'a str>,
    /// Send the payer here.
    checkout_url: String,
    /// Real money.
    live: bool,
    /// Rises with each change.
    version: i64,
    /// Its tries, the first first.
    attempts: Vec<Attempt<'a>>,
    /// Its invoice.
    invoice: InvoiceCell<'a>,
    /// RFC 3339.
    created_at: String,
    /// RFC 3339.
    completed_at: Option<String>,
}

/// What is unusual about a payment.
#[derive(Debug, Serialize, ToSchema)]
pub struct Flags {
    /// It was completed after an error.
    late_success: bool,
    /// It was paid more than once.
    double_payment: bool,
    /// Money of another amount, currency or account was reported.
    mismatch: bool,
}

/// One try of a payment at one gateway.
#[derive(Debug, Serialize, ToSchema)]
pub struct Attempt<'a> {
    /// `att_…`
    id: &'a str,
    /// 1 for the first.
    no: i64,
    /// `created`, `open`, `paid`, `failed` or `closed`.
    state: &'a str,
    /// The hub's name for it at the gateway.
    reference: &'a str,
    /// The gateway's name for it.
    gateway_ref: Option<&'a str>,
    /// At which account.
    provider_account: &'a str,
    /// After this it was not to be payable (RFC 3339).
    expires_at: String,
    /// RFC 3339.
    created_at: String,
}

/// The invoice as the payer's list shows it.
#[derive(Debug, Serialize, ToSchema)]
pub struct InvoiceCell<'a> {
    /// `generating`, `download`, `try_again`, `renew_payment` or `empty`.
    cell: &'static str,
    /// Where issuing stands, when an invoice is wanted: `queued`, `sending`, `unknown`, `issued`, `issued_differs`,
    /// `held`, `exhausted`, `by_hand`.
    #[serde(skip_serializing_if = "Option::is_none")]
    state: Option<&'static str>,
    /// The printed number.
    #[serde(skip_serializing_if = "Option::is_none")]
    number: Option<Cow<'a, str>>,
    /// Where the document can be fetched with an API key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pdf_url: Option<String>,
}

/// A new payment: of a case, or of an amount.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewPayment {
    /// Pay this case: its quote gives amount, lines and payer.
    case: Option<String>,
    /// Without a case: what is to be paid, in minor units.
    #[schema(minimum = 1, maximum = 1_000_000_000_000i64, example = 12300)]
    amount: Option<i64>,
    /// ISO 4217, with `amount`.
    #[schema(example = "PLN")]
    currency: Option<String>,
    /// One line for the payer, at most 200 characters; required without a case.
    #[schema(max_length = 200, example = "Konsultacja")]
    description: Option<String>,
    /// Without a case: lines of the invoice; one line with the description when left out.
    lines: Option<Vec<NewLine>>,
    /// Whether unit prices hold VAT. Left out: gross if that adds up to the amount, else net.
    prices: Option<PricesWord>,
    /// Who pays; with a case, its payer.
    payer: Option<String>,
    /// Invoice data; the payer's default when left out.
    profile: Option<String>,
    /// At which account; the only one that takes the currency when left out.
    provider_account: Option<String>,
    /// Where the payer goes afterwards; the hub's own pages when left out.
    #[schema(max_length = 1000, example = "https://shop.example/thanks")]
    return_url: Option<String>,
}

/// How to try again.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Retry {
    /// Another account; the same when left out.
    provider_account: Option<String>,
}

/// Which payments.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct PaymentQuery {
    /// Of this payer.
    payer: Option<String>,
    /// Of this case.
    case: Option<String>,
    /// `started`, `completed` or `error`.
    status: Option<String>,
    /// Created at or after: a day (`2026-11-01`, UTC) or an instant (RFC 3339).
    from: Option<String>,
    /// Created before: a day or an instant.
    to: Option<String>,
    /// Rows on a page.
    #[param(minimum = 1, maximum = 100, default = 20)]
    limit: Option<i64>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Starts a payment
///
/// Answers 201 with the payment and the address to send the payer to, or 200 with the unfinished payment that the case
/// has already.
#[utoipa::path(post, path = "/v1/payments", tag = "payments", operation_id = "create_payment",
    request_body = NewPayment,
    responses((status = 201, body = Payment), (status = 200, body = Payment, description = "The case's unfinished payment"),
        (status = "4XX", body = ProblemBody)))]
async fn create(State(web): State<Web>, caller: Caller, post: SlicedPost<NewPayment>) -> Result<Response, Problem> {
    let order = Called { caller, order: read_order(post.input)?, mark: post.mark };
    web.orders.submit(order).await.map_err(|_| Problem::later())?
}

/// Lists payments
#[utoipa::path(get, path = "/v1/payments", tag = "payments", operation_id = "list_payments",
    params(PaymentQuery), responses((status = 200, body = List<Payment>), (status = "4XX", body = ProblemBody)))]
async fn list(
    State(web): State<Web>,
    caller: Caller,
    Params(query): Params<PaymentQuery>,
) -> Result<Response, Problem> {
    let page = page("pay", query.limit, query.cursor.as_deref())?;
    let filter = PaymentFilter {
        payer: query.payer,
        case: query.case,
        status: query.status.map(read_status).transpose()?,
        from: query.from.map(|t| read_time("from", &t)).transpose()?,
        to: query.to.map(|t| read_time("to", &t)).transpose()?,
        live: Some(caller.live),
    };
    let mut tx = web.app.store.read().await?;
    let listing = tx.listed_payments(&caller.merchant, &filter, &page).await?;
    drop(tx);
    let rows = listing.payments()?;
    Ok(Json(page_of(rows, &page, |p| p.id, |p| show_payment(&web.app, p))).into_response())
}

/// Shows a payment
#[utoipa::path(get, path = "/v1/payments/{id}", tag = "payments", operation_id = "get_payment",
    params(("id" = String, Path)), responses((status = 200, body = Payment), (status = "4XX", body = ProblemBody)))]
async fn show(State(web): State<Web>, caller: Caller, Path(id): Path<String>) -> Result<Response, Problem> {
    let mut tx = web.app.store.read().await?;
    let row = find(&mut tx, &caller, &id).await?;
    let known = look_up(&mut tx, row).await?;
    Ok(Json(known.show(&web.app)).into_response())
}

/// Tries a payment again
///
/// The gateway is asked about the open attempt first. A link that can still be paid is used again, else an attempt is
/// added with the same quote and invoice data.
#[utoipa::path(post, path = "/v1/payments/{id}/retry", tag = "payments", operation_id = "retry_payment",
    params(("id" = String, Path)), request_body = Option<Retry>,
    responses((status = 200, body = Payment), (status = "4XX", body = ProblemBody)))]
async fn retry(
    State(web): State<Web>,
    caller: Caller,
    Path(id): Path<String>,
    post: Post<Retry>,
) -> Result<Response, Problem> {
    let app = &*web.app;
    let payment = find(&mut app.store.read().await?, &caller, &id).await?;
    let asked = ask_first(app, &payment).await?;
    let account = post.input.provider_account.as_deref();
    let mut turn = post.mark.begin(&web.app).await?;
    let tx = &mut turn.tx;
    let merchant = tx.merchant(&caller.merchant).await?.ok_or_else(Problem::not_found)?;
    let again = retry_payment(app, tx, &merchant, &payment, account, &asked).await?;
    let known = look_up(tx, again).await?;
    turn.end(app, Answer::ok(&known.show(app))).await
}

/// A payment of the caller's merchant and mode.
pub(super) async fn find(tx: &mut Tx, caller: &Caller, id: &str) -> Result<Row, Problem> {
    let found = tx.payment(&caller.merchant, id).await?.filter(|p| p.live == caller.live);
    found.ok_or_else(Problem::not_found)
}

fn read_order(new: NewPayment) -> Result<Order, Problem> {
    let mut fields = Fields::default();
    let description = new.description.map(|d| fields.free_text("/description", &d, 200));
    let amount = match (new.amount, &new.currency) {
        (Some(amount), Some(currency)) => fields.money(amount, currency),
        (None, None) => None,
        (Some(_), None) => {
            fields.refuse("/currency", "is required with amount");
            None
        }
        (None, Some(_)) => {
            fields.refuse("/amount", "is required with currency");
            None
        }
    };
    let lines = match (&new.lines, &new.case, amount) {
        (Some(_), Some(_), _) => {
            fields.refuse("/lines", "must be left out with a case: its quote has the lines");
            None
        }
        (Some(given), None, Some(total)) => Some(check_lines(&mut fields, given, total, new.prices)),
        (Some(_), None, None) => {
            fields.refuse("/amount", "is required with lines");
            None
        }
        (None, ..) => None,
    };
    fields.finish()?;
    Ok(Order {
        case: new.case,
        amount,
        description,
        lines,
        payer: new.payer,
        profile: new.profile,
        provider_account: new.provider_account,
        return_url: new.return_url,
    })
}

fn read_status(text: String) -> Result<String, Problem> {
    match text.parse::<Status>() {
        Ok(_) => Ok(text),
        Err(()) => Err(Problem::field("status", "must be one of: started, completed, error")),
    }
}

/// An instant, or the beginning of a day in UTC, as microseconds.
pub(super) fn read_time(pointer: &str, text: &str) -> Result<i64, Problem> {
    let instant = text.parse::<Timestamp>().ok().or_else(|| format!("{text}T00:00:00Z").parse().ok());
    let why = "must be an instant such as 2026-11-01T12:00:00Z or a day such as 2026-11-01";
    instant.map(Timestamp::as_microsecond).ok_or_else(|| Problem::field(pointer, why))
}

/// One payment with all that is shown of it.
pub(super) struct Known {
    payment: Row,
    attempts: Vec<AttemptRow>,
    invoice: Option<InvoiceGlance>,
    has_shown_attachment: bool,
}

/// Reads what is shown of a payment beside its row.
pub(super) async fn look_up(tx: &mut Tx, payment: Row) -> Result<Known, Problem> {
    let attempts = tx.attempts(&payment.merchant_id, &payment.id).await?;
    let (invoice, has_shown_attachment) = cell_rows(tx, &payment).await?;
    Ok(Known { payment, attempts, invoice, has_shown_attachment })
}

impl Known {
    pub(super) fn show(&self, app: &App) -> Payment<'_> {
        let attempts = self.attempts.iter().map(Into::into).collect();
        let (invoice, has_shown_attachment) = (self.invoice.as_ref(), self.has_shown_attachment);
        let of = ListedPayment::of(&self.payment);
        show_payment(app, ListedPayment { attempts, invoice, has_shown_attachment, ..of })
    }
}

fn show_payment<'a>(app: &App, p: ListedPayment<'a>) -> Payment<'a> {
    Payment {
        checkout_url: app.checkout_url(p.token),
        invoice: show_invoice(app, p.id, p.status, p.reason, p.invoice, p.has_shown_attachment),
        id: p.id,
        status: p.status.word(),
        status_reason: p.reason.map(Reason::word),
        flags: Flags { late_success: p.late_success, double_payment: p.double_payment, mismatch: p.mismatch },
        amount: p.amount,
        currency: p.currency,
        amount_refunded: p.amount_refunded,
        description: p.description,
        case: p.case_id,
        payer: p.payer_id,
        profile: p.profile_id,
        provider_account: p.provider_account_id,
        return_url: Some(p.return_url).filter(|u| !u.is_empty()),
        live: p.live,
        version: p.version,
        attempts: p.attempts.into_iter().map(show_attempt).collect(),
        created_at: rfc3339(p.created_at),
        completed_at: p.completed_at.map(rfc3339),
    }
}

fn show_attempt(a: AttemptGlance<'_>) -> Attempt<'_> {
    Attempt {
        id: a.id,
        no: a.no,
        state: a.state,
        reference: a.reference,
        gateway_ref: a.gateway_ref,
        provider_account: a.provider_account_id,
        expires_at: rfc3339(a.expires_at),
        created_at: rfc3339(a.created_at),
    }
}

/// What the cell of a payment depends on beside it; before the money came, nothing.
async fn cell_rows(tx: &mut Tx, p: &Row) -> Result<(Option<InvoiceGlance>, bool), Problem> {
    if p.status != Status::Completed {
        return Ok((None, false));
    }
    let (merchant, ids) = (&p.merchant_id, std::slice::from_ref(&p.id));
    let invoice = tx.invoices_of(merchant, ids).await?.pop();
    Ok((invoice, !tx.shown_attachments_of(merchant, ids).await?.is_empty()))
}

/// The cell, by the one rule table.
fn show_invoice<'a>(
    app: &App,
    payment: &str,
    status: Status,
    reason: Option<Reason>,
    invoice: Option<&'a InvoiceGlance>,
    shown_attachment: bool,
) -> InvoiceCell<'a> {
    let is_completed = status == Status::Completed;
    let invoice = invoice.filter(|_| is_completed);
    let facts = CellFacts {
        status,
        reason,
        invoice: invoice.map(|i| i.state),
        has_pdf: invoice.is_some_and(|i| i.has_pdf),
        shown_attachment: shown_attachment && is_completed,
    };
    let url = |document: &str| Some(format!("{}/v1/payments/{payment}/{document}", app.config.public_url));
    let pdf_url = match facts {
        CellFacts { shown_attachment: true, .. } => url("invoice/attachment"),
        CellFacts { invoice: Some(InvoiceState::Issued), has_pdf: true, .. } => url("invoice.pdf"),
        CellFacts { .. } => None,
    };
    InvoiceCell {
        cell: cell(facts).word(),
        state: facts.invoice.map(InvoiceState::word),
        number: invoice.and_then(|i| i.number.as_deref()).map(Cow::Borrowed),
        pdf_url,
    }
}

/// The cell of one payment.
pub(super) async fn show_cell(app: &App, tx: &mut Tx, p: &Row) -> Result<InvoiceCell<'static>, Problem> {
    let (invoice, has_shown_attachment) = cell_rows(tx, p).await?;
    let shown = show_invoice(app, &p.id, p.status, p.reason, invoice.as_ref(), has_shown_attachment);
    let number = shown.number.map(|number| Cow::Owned(number.into_owned()));
    Ok(InvoiceCell { number, ..shown })
}
