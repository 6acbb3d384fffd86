//! LISTA PŁATNOŚCI: a payer's payments with their invoices (R-5W-20…22, 30…34, 55).

use std::collections::BTreeMap;

use askama::Template;
use axum::body::Bytes;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use grosz_providers::{Money, sign};
use serde_json::json;

use super::checkout::{Bill, bill_of, try_again};
use super::format;
use super::guard::{Fields, check_form, form_token, is_token};
use super::locale::Language;
use super::look::{Forms, Look, page, see_other};
use super::stop::{Path, Stop};
use crate::clock;
use crate::domain::invoice::{Cell, CellFacts, State as InvoiceState, cell};
use crate::domain::payment::{Reason, Status};
use crate::http::Web;
use crate::http::json::Json;
use crate::store::{Case, Merchant, Page, Payer, Payment, PaymentFilter, Tx};

/// Rows on a page.
const PAGE: i64 = 20;

/// A payer's list with its owner.
pub(crate) struct Portal {
    pub payer: Payer,
    pub merchant: Merchant,
}

impl Portal {
    /// The look of its pages.
    pub fn look(&self, web: &Web, uri: &Uri) -> Look {
        Look::for_payer(web, uri, &self.payer.language, &self.merchant.name).in_portal(&self.payer.portal_token)
    }

    /// A payment of this payer; another's is not found (F65).
    async fn payment(&self, tx: &mut Tx, id: &str) -> Result<Payment, Stop> {
        let payment = tx.payment(&self.merchant.id, id).await?;
        payment.filter(|p| p.payer_id == self.payer.id).ok_or(Stop::NotFound)
    }

    /// A case of this payer.
    pub async fn case(&self, tx: &mut Tx, id: &str) -> Result<Case, Stop> {
        let case = tx.case(&self.merchant.id, id).await?;
        case.filter(|c| c.payer_id == self.payer.id).ok_or(Stop::NotFound)
    }
}

/// Finds the payer of a list's address.
pub(crate) async fn portal_of(tx: &mut Tx, token: &str) -> Result<Portal, Stop> {
    if !is_token(token) {
        return Err(Stop::NotFound);
    }
    let payer = tx.payer_by_portal_token(token).await?.ok_or(Stop::NotFound)?;
    let merchant = tx.merchant(&payer.merchant_id).await?.ok_or(Stop::NotFound)?;
    Ok(Portal { payer, merchant })
}

/// What the list shows, as typed into the filter; nonsense shows all.
#[derive(Default)]
struct Wanted {
    status: Option<Status>,
    from: String,
    to: String,
    before: Option<String>,
}

impl Wanted {
    fn read(query: &str) -> Wanted {
        let fields = Fields::read(query.as_bytes());
        let day = |name| fields.text(name).parse::<jiff::civil::Date>().map(|d| d.to_string()).unwrap_or_default();
        let before = fields.text("before");
        let plain = before.starts_with("pay_") && before.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
        Wanted {
            status: fields.text("status").parse().ok(),
            from: day("from"),
            to: day("to"),
            before: plain.then_some(before),
        }
    }

    fn filter(&self, payer: &str, language: Language) -> PaymentFilter {
        PaymentFilter {
            payer: Some(payer.to_owned()),
            case: None,
            status: self.status.map(|s| s.word().to_owned()),
            from: format::start_of_day(language, &self.from, 0),
            to: format::start_of_day(language, &self.to, 1),
            live: None,
        }
    }

    /// The same filter from another row on.
    fn address(&self, token: &str, before: Option<&str>) -> String {
        let mut query = form_urlencoded::Serializer::new(String::new());
        let status = self.status.map_or("", Status::word);
        for (name, value) in
            [("status", status), ("from", &self.from), ("to", &self.to), ("before", before.unwrap_or_default())]
        {
            if !value.is_empty() {
                query.append_pair(name, value);
            }
        }
        let query = query.finish();
        if query.is_empty() { format!("/portal/{token}") } else { format!("/portal/{token}?{query}") }
    }

    fn is_empty(&self) -> bool {
        self.status.is_none() && self.from.is_empty() && self.to.is_empty()
    }
}

/// One row of the list.
struct Row {
    id: String,
    /// Address and number.
    case: Option<(String, String)>,
    title: String,
    date: String,
    hour: String,
    instant: String,
    amount: String,
    refunded: String,
    status: Status,
    status_label: &'static str,
    cell: Cell,
    cell_label: &'static str,
    /// Where its button posts or its link leads.
    address: String,
}

impl Row {
    fn is_download(&self) -> bool {
        self.cell == Cell::Download
    }

    fn is_retry(&self) -> bool {
        matches!(self.cell, Cell::TryAgain | Cell::RenewPayment)
    }

    fn is_generating(&self) -> bool {
        self.cell == Cell::Generating
    }
}

/// The payer's cell of a payment.
pub(crate) async fn cell_of(tx: &mut Tx, merchant: &Merchant, payment: &Payment) -> Result<Cell, Stop> {
    let mut facts = CellFacts {
        status: payment.status,
        reason: payment.reason,
        invoice: None,
        has_pdf: false,
        shown_attachment: false,
    };
    if payment.status == Status::Completed {
        if let Some(invoice) = tx.invoice_of_payment(&payment.merchant_id, &payment.id).await? {
            facts.invoice = Some(invoice.state);
            facts.has_pdf = invoice.pdf_sha256.is_some();
        }
        facts.shown_attachment =
            merchant.show_attachment && tx.has_attachment(&payment.merchant_id, &payment.id).await?;
    }
    Ok(cell(facts))
}

struct Listing {
    rows: Vec<Row>,
    older: Option<String>,
    version: String,
    /// Something will change by itself soon.
    moving: bool,
}

async fn listing(tx: &mut Tx, portal: &Portal, look: &Look, wanted: &Wanted) -> Result<Listing, Stop> {
    let page = Page { before: wanted.before.clone(), limit: PAGE + 1 };
    let filter = wanted.filter(&portal.payer.id, look.language);
    let mut payments = tx.payments(&portal.merchant.id, &filter, &page).await?;
    let more = payments.len() > usize::try_from(PAGE).unwrap_or(usize::MAX);
    payments.truncate(usize::try_from(PAGE).unwrap_or(usize::MAX));
    let older = payments.last().filter(|_| more).map(|last| wanted.address(&portal.payer.portal_token, Some(&last.id)));
    let mut numbers: BTreeMap<String, String> = BTreeMap::new();
    let mut rows = vec![];
    for payment in &payments {
        if let Some(id) = &payment.case_id
            && !numbers.contains_key(id)
        {
            let case = tx.case(&portal.merchant.id, id).await?;
            numbers.insert(id.clone(), case.map(|c| c.number).unwrap_or_default());
        }
        let cell = cell_of(tx, &portal.merchant, payment).await?;
        let token = &portal.payer.portal_token;
        let case_address = |id: &String| look.at(&format!("/portal/{token}/cases/{id}"));
        let case = payment.case_id.as_ref().and_then(|id| Some((case_address(id), numbers.get(id)?.clone())));
        rows.push(row(look, token, payment, case, cell));
    }
    // A payment in error moves too: the try after it may succeed while the payer looks.
    let moving = rows.iter().any(|r| !matches!(r.cell, Cell::Download | Cell::Empty));
    let seen: String =
        rows.iter().map(|r| format!("{} {} {} {}\n", r.id, r.status, r.cell, r.refunded)).collect::<Vec<_>>().concat();
    let version = sign::sha256_hex(seen.as_bytes()).chars().take(16).collect();
    Ok(Listing { rows, older, version, moving })
}

fn row(look: &Look, token: &str, payment: &Payment, case: Option<(String, String)>, cell: Cell) -> Row {
    let (t, language) = (look.t, look.language);
    let refunded = match payment.amount_refunded {
        0 => String::new(),
        sum => format::money(language, Money::new(sum, payment.amount.currency())),
    };
    let end = if cell == Cell::Download { "invoice.pdf" } else { "retry" };
    Row {
        address: look.at(&format!("/portal/{token}/payments/{}/{end}", payment.id)),
        id: payment.id.clone(),
        title: without_number(&payment.description, case.as_ref().map_or("", |(_, number)| number)),
        case,
        date: format::date(language, payment.created_at),
        hour: format::hour(language, payment.created_at),
        instant: clock::rfc3339(payment.created_at),
        amount: format::money(language, payment.amount),
        refunded,
        status: payment.status,
        status_label: status_label(look, payment.status),
        cell,
        cell_label: match cell {
            Cell::Generating => t.cell_generating,
            Cell::Download => t.cell_download,
            Cell::TryAgain => t.cell_try_again,
            Cell::RenewPayment => t.cell_renew,
            Cell::Empty => "",
        },
    }
}

/// A description that begins with the case's number, which stands above it already.
fn without_number(description: &str, number: &str) -> String {
    let rest = description.strip_prefix(number).filter(|r| !number.is_empty() && r.starts_with(' '));
    rest.map_or(description, str::trim_start).to_owned()
}

fn status_label(look: &Look, status: Status) -> &'static str {
    match status {
        Status::Started => look.t.status_started,
        Status::Completed => look.t.status_completed,
        Status::Error => look.t.status_error,
    }
}

#[derive(Template)]
#[template(path = "list.html")]
struct ListPage<'a> {
    look: &'a Look,
    /// The list without a filter.
    all: String,
    rows: &'a [Row],
    /// Cases that wait for their payment: address, number, title, sum.
    due: Vec<(String, String, String, String)>,
    statuses: Vec<(&'static str, &'static str, bool)>,
    wanted: &'a Wanted,
    older: Option<String>,
    newest: Option<String>,
    poll: String,
    version: &'a str,
    csrf: String,
}

/// `GET /portal/{token}`
pub(crate) async fn list(
    State(web): State<Web>,
    Path(token): Path<String>,
    RawQuery(query): RawQuery,
    uri: Uri,
) -> Result<Response, Stop> {
    let mut tx = web.app.store.read().await?;
    let portal = portal_of(&mut tx, &token).await?;
    let look = portal.look(&web, &uri);
    let wanted = Wanted::read(&query.unwrap_or_default());
    let listing = listing(&mut tx, &portal, &look, &wanted).await?;
    let fresh = wanted.is_empty() && wanted.before.is_none();
    let due = if fresh { due_cases(&mut tx, &portal, &look).await? } else { vec![] };
    let statuses =
        Status::ALL.iter().map(|&s| (s.word(), status_label(&look, s), wanted.status == Some(s))).collect::<Vec<_>>();
    let template = ListPage {
        look: &look,
        all: look.at(&format!("/portal/{token}")),
        rows: &listing.rows,
        due,
        statuses,
        older: listing.older.map(|a| look.at(&a)),
        newest: wanted.before.is_some().then(|| look.at(&wanted.address(&token, None))),
        wanted: &wanted,
        poll: if listing.moving { status_address(&token, &wanted) } else { String::new() },
        version: &listing.version,
        csrf: form_token(&token),
    };
    page(&web, StatusCode::OK, Forms::Gateways, &template)
}

fn status_address(token: &str, wanted: &Wanted) -> String {
    let address = wanted.address(token, wanted.before.as_deref());
    let query = address.split_once('?').map_or(String::new(), |(_, q)| format!("?{q}"));
    format!("/portal/{token}/status{query}")
}

/// Cases whose quote is not paid, the newest first.
async fn due_cases(tx: &mut Tx, portal: &Portal, look: &Look) -> Result<Vec<(String, String, String, String)>, Stop> {
    let page = Page { before: None, limit: PAGE };
    let cases = tx.cases(&portal.merchant.id, Some(&portal.payer.id), &page).await?;
    let line = |c: Case| {
        let address = look.at(&format!("/portal/{}/cases/{}", portal.payer.portal_token, c.id));
        (address, c.number, c.title, format::money(look.language, c.total))
    };
    Ok(cases.into_iter().filter(|c| c.status == "analysis").map(line).collect())
}

/// `GET /portal/{token}/status`: whether the list would look different now.
pub(crate) async fn status(
    State(web): State<Web>,
    Path(token): Path<String>,
    RawQuery(query): RawQuery,
    uri: Uri,
) -> Result<Response, Stop> {
    let mut tx = web.app.store.read().await?;
    let portal = portal_of(&mut tx, &token).await?;
    let wanted = Wanted::read(&query.unwrap_or_default());
    let listing = listing(&mut tx, &portal, &portal.look(&web, &uri), &wanted).await?;
    Ok(Json(json!({"version": listing.version})).into_response())
}

/// `POST /portal/{token}/payments/{id}/retry`: Spróbuj ponownie, Ponów płatność.
pub(crate) async fn retry(
    State(web): State<Web>,
    Path((token, id)): Path<(String, String)>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Stop> {
    let mut tx = web.app.store.read().await?;
    let portal = portal_of(&mut tx, &token).await?;
    let payment = portal.payment(&mut tx, &id).await?;
    check_form(&web, &headers, &Fields::read(&body), &token)?;
    let look = portal.look(&web, &uri);
    if let (Some(Reason::QuoteChanged), Some(case)) = (payment.reason, &payment.case_id) {
        return see_other(&look.at(&format!("/portal/{token}/cases/{case}")));
    }
    let bill: Bill = bill_of(&mut tx, payment).await?;
    drop(tx);
    let token = try_again(&web, &bill, None).await?;
    see_other(&look.at(&format!("/pay/{token}")))
}

/// `GET /portal/{token}/payments/{id}/invoice.pdf`: our copy, so it works while the invoicing service is down (R-5W-53).
pub(crate) async fn invoice_pdf(
    State(web): State<Web>,
    Path((token, id)): Path<(String, String)>,
) -> Result<Response, Stop> {
    let mut tx = web.app.store.read().await?;
    let portal = portal_of(&mut tx, &token).await?;
    web.guards.may_download(&portal.payer.id, web.app.now())?;
    let payment = portal.payment(&mut tx, &id).await?;
    match cell_of(&mut tx, &portal.merchant, &payment).await? {
        Cell::Download => {}
        Cell::Generating => return Err(Stop::NoPdf),
        Cell::TryAgain | Cell::RenewPayment | Cell::Empty => return Err(Stop::NotFound),
    }
    let invoice = tx.invoice_of_payment(&portal.merchant.id, &payment.id).await?;
    if let Some(invoice) = invoice.filter(|i| i.state == InvoiceState::Issued)
        && let Some(pdf) = tx.pdf(&portal.merchant.id, &invoice.id).await?
    {
        let name = format!("{}.pdf", invoice.number.as_deref().unwrap_or(&invoice.id));
        return download(&name, "application/pdf", pdf);
    }
    let file = tx.attachment(&portal.merchant.id, &payment.id).await?.ok_or(Stop::NotFound)?;
    download(&file.name, &file.media_type, file.body)
}

/// `GET /portal/{token}/payments/{id}/attachment`: what the expert attached to a paid case (R-5W-42).
pub(crate) async fn attachment(
    State(web): State<Web>,
    Path((token, id)): Path<(String, String)>,
) -> Result<Response, Stop> {
    let mut tx = web.app.store.read().await?;
    let portal = portal_of(&mut tx, &token).await?;
    web.guards.may_download(&portal.payer.id, web.app.now())?;
    let payment = portal.payment(&mut tx, &id).await?;
    let file = tx.attachment(&portal.merchant.id, &payment.id).await?.ok_or(Stop::NotFound)?;
    download(&file.name, &file.media_type, file.body)
}

/// A file to be saved, never shown in our origin; only a PDF keeps its type.
fn download(name: &str, media_type: &str, body: Vec<u8>) -> Result<Response, Stop> {
    let media_type = if media_type == "application/pdf" { "application/pdf" } else { "application/octet-stream" };
    let plain = |c: char| if c.is_ascii_alphanumeric() || ".-_".contains(c) { c } else { '-' };
    let name: String = name.chars().map(plain).take(100).collect();
    let disposition = format!("attachment; filename=\"{name}\"");
    let disposition = HeaderValue::from_str(&disposition).map_err(|e| Stop::fault("a file's name", &e))?;
    let headers =
        [(header::CONTENT_TYPE, HeaderValue::from_static(media_type)), (header::CONTENT_DISPOSITION, disposition)];
    Ok((headers, body).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_survives_paging_and_nonsense_shows_all() {
        let wanted = Wanted::read("status=error&from=2026-11-01&to=2026-11-30&before=pay_01X&lang=en");
        assert_eq!(
            wanted.address("t", wanted.before.as_deref()),
            "/portal/t?status=error&from=2026-11-01&to=2026-11-30&before=pay_01X"
        );
        assert_eq!(status_address("t", &wanted).split_once('?').unwrap().0, "/portal/t/status");
        let nonsense = Wanted::read("status=%3Cb%3E&from=1&to=2026-02-30&before=%27--");
        assert!(nonsense.is_empty() && nonsense.before.is_none());
    }
}
