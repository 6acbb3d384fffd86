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
use crate::http::json::{self, Json};
use crate::intake::Refused;
use crate::problem::{Problem, ProblemBody};
use crate::store::{
    Attempt as AttemptRow, Dispute as DisputeRow, Glance, InvoiceGlance, ListedPayment, Payment as Row, PaymentFilter,
    Tx,
};

pub(super) fn part() -> Part {
    Part::default().add(__path_create, create).add(__path_list, list).add(__path_show, show).add(__path_retry, retry)
}

/// One thing to be paid.
#[derive(Debug, Serialize, ToSchema)]
pub struct Payment<'a> {
    #[serde(flatten)]
    glance: Glance<'a>,
    /// Send the payer here.
    checkout_url: String,
    /// Its invoice.
    invoice: InvoiceCell<'a>,
    /// Its disputes, the first first. Left out where there are none, and in lists.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    #[schema(required = false)]
    disputes: Vec<Dispute<'a>>,
}

/// The payer disputes the payment with his bank. It stands beside the payment's status.
#[derive(Debug, Serialize, ToSchema)]
pub struct Dispute<'a> {
    /// `dis_…`
    id: &'a str,
    /// The gateway's name for it.
    gateway_ref: &'a str,
    /// The gateway's word: `needs_response`, `won`.
    status: &'a str,
    /// It is over.
    closed: bool,
    /// It ended for the payer, who keeps the disputed amount.
    lost: bool,
    /// The disputed amount in minor units.
    amount: Option<i64>,
    /// ISO 4217.
    currency: Option<&'a str>,
    /// Until when an answer is possible (RFC 3339).
    due_by: Option<String>,
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
    /// Without a case: lines of the invoice; when left out, one line with the description and the VAT that is usual for
    /// the seller (23 %, or none where the invoicing account says that the seller pays no VAT).
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
    /// Created before an instant, or until the end of a day (UTC).
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
    web.orders.submit(order).await.map_err(|refused| match refused {
        Refused::Unknown => Problem::outcome_unknown(),
        Refused::Full | Refused::Failed => Problem::later(),
    })?
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
        to: query.to.map(|t| read_end("to", &t)).transpose()?,
        live: Some(caller.live),
    };
    let mut tx = web.app.store.read().await?;
    let listing = tx.listed_payments(&caller.merchant, &filter, &page).await?;
    drop(tx);
    let page = page_of(listing.payments()?, &page, |p| p.id, |p| p);
    Ok(json::answer(write_page(&web.app, &page)))
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
/// added with the same quote and invoice data. Where the case is being paid by another payment already, that one is
/// answered: a case has one link.
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

/// Like [`read_time`], but a day is its end.
fn read_end(pointer: &str, text: &str) -> Result<i64, Problem> {
    let at = read_time(pointer, text)?;
    Ok(if text.parse::<Timestamp>().is_ok() { at } else { at.saturating_add(86_400_000_000) })
}

/// One payment with all that is shown of it.
pub(super) struct Known {
    payment: Row,
    attempts: Vec<AttemptRow>,
    invoice: Option<InvoiceGlance>,
    has_shown_attachment: bool,
    disputes: Vec<DisputeRow>,
}

/// Reads what is shown of a payment beside its row.
pub(super) async fn look_up(tx: &mut Tx, payment: Row) -> Result<Known, Problem> {
    let attempts = tx.attempts(&payment.merchant_id, &payment.id).await?;
    let (invoice, has_shown_attachment) = cell_rows(tx, &payment).await?;
    // What was not paid is not disputed.
    let disputes = match payment.status {
        Status::Completed => tx.disputes(&payment.merchant_id, &payment.id).await?,
        Status::Started | Status::Error => vec![],
    };
    Ok(Known { payment, attempts, invoice, has_shown_attachment, disputes })
}

impl Known {
    pub(super) fn show(&self, app: &App) -> Payment<'_> {
        let Known { payment: p, attempts, invoice, has_shown_attachment, disputes } = self;
        Payment {
            glance: Glance::of(p, attempts),
            checkout_url: app.checkout_url(&p.token),
            invoice: show_invoice(app, &p.id, p.status, p.reason, invoice.as_ref(), *has_shown_attachment),
            disputes: disputes.iter().map(show_dispute).collect(),
        }
    }
}

fn show_dispute(d: &DisputeRow) -> Dispute<'_> {
    Dispute {
        id: &d.id,
        gateway_ref: &d.gateway_ref,
        status: &d.status,
        closed: d.closed,
        lost: d.lost,
        amount: d.amount,
        currency: d.currency.as_deref(),
        due_by: d.due_by.map(rfc3339),
        created_at: rfc3339(d.created_at),
    }
}

/// Bytes of link and invoice, about.
const BESIDE_A_GLANCE: usize = 320;

/// Writes a page: what is kept with each payment is copied with names in between, and what [`Payment`] has beside it follows.
fn write_page(app: &App, page: &List<ListedPayment<'_>>) -> serde_json::Result<Vec<u8>> {
    let texts: usize = page.data.iter().map(|p| p.members.length()).sum();
    let mut out = Vec::with_capacity(texts + BESIDE_A_GLANCE * (page.data.len() + 1));
    // All links are one but for the token, in which nothing needs an escape.
    let links = serde_json::to_string(&app.checkout_url(""))?;
    let link = links.strip_suffix('"').unwrap_or(&links).as_bytes();
    out.extend_from_slice(b"{\"data\":[");
    for (n, p) in page.data.iter().enumerate() {
        out.extend_from_slice(if n == 0 { b"{" } else { b",{" });
        p.members.write(&mut out);
        out.extend_from_slice(b",\"checkout_url\":");
        out.extend_from_slice(link);
        out.extend_from_slice(p.token.as_bytes());
        out.extend_from_slice(b"\",\"invoice\":");
        let invoice = show_invoice(app, p.id, p.status, p.reason, p.invoice, p.has_shown_attachment);
        serde_json::to_writer(&mut out, &invoice)?;
        out.push(b'}');
    }
    out.extend_from_slice(b"],\"next_cursor\":");
    serde_json::to_writer(&mut out, &page.next_cursor)?;
    out.push(b'}');
    Ok(out)
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
