//! The invoice of a payment: its state, its PDF, issuing again, an expert's own document.

use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use grosz_providers::invoicer::Ksef;
use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

use super::Part;
use super::payments::{InvoiceCell, find, show_cell};
use super::profiles::{BuyerView, NewBuyer, check_buyer, show_buyer};
use crate::app::App;
use crate::clock::rfc3339;
use crate::domain::invoice::State as InvoiceState;
use crate::flows::order_invoice::{attach, reissue};
use crate::http::Web;
use crate::http::auth::Caller;
use crate::http::idempotency::Answer;
use crate::http::input::{Fields, Params, Post, Raw, object};
use crate::http::json::Json;
use crate::problem::{FieldError, Problem, ProblemBody};
use crate::store::{Attachment as File, InvoiceRow, Payment, Tx};

pub(super) fn part(attachment_limit: usize) -> Part {
    let attachments = Part::default()
        .add(__path_put_attachment, put_attachment)
        .map(|route| route.layer(DefaultBodyLimit::max(attachment_limit)));
    Part::default()
        .add(__path_show, show)
        .add(__path_pdf, pdf)
        .add(__path_issue_again, issue_again)
        .join(attachments)
        .add(__path_get_attachment, get_attachment)
}

/// The invoice of a payment.
#[derive(Debug, Serialize, ToSchema)]
pub struct Invoice {
    /// `ivc_…`
    id: String,
    /// Of which payment.
    payment: String,
    /// At which invoicing account.
    invoicing_account: String,
    /// The hub's own name for the document there.
    external_key: String,
    /// As the payer's list shows it.
    #[serde(flatten)]
    cell: InvoiceCell<'static>,
    /// Attempts made in this generation.
    attempts: i64,
    /// Attempts there are.
    max_attempts: usize,
    /// Rises when it is issued again after all attempts failed.
    generation: i64,
    /// What went wrong last.
    last_failure: Option<Failure>,
    /// Who buys.
    buyer: BuyerView,
    /// The document as issued.
    document: Option<DocumentView>,
    /// RFC 3339.
    issued_at: Option<String>,
    /// RFC 3339.
    created_at: String,
    /// RFC 3339.
    updated_at: String,
}

/// Why an attempt to issue failed.
#[derive(Debug, Serialize, ToSchema)]
pub struct Failure {
    /// `retryable`, `data`, `config`, `bug`, `unknown` or `absent`.
    class: String,
    /// The invoicing API's code.
    code: Option<String>,
    /// The invoicing API's words.
    message: Option<String>,
    /// Fields at fault.
    fields: Vec<FieldError>,
}

/// A document as the invoicing API has it.
#[derive(Debug, Serialize, ToSchema)]
pub struct DocumentView {
    /// Its id there.
    id: String,
    /// The printed number.
    number: String,
    /// Issue date, `YYYY-MM-DD`.
    issue_date: Option<String>,
    /// Total as issued, in minor units.
    amount: i64,
    /// ISO 4217.
    currency: String,
    /// Ways in which it differs from the order.
    differences: Vec<String>,
    /// The national system's word: `not_applicable`, `pending`, `accepted` or `rejected`.
    ksef_state: &'static str,
    /// The number in the national system.
    ksef_number: Option<String>,
}

/// The buyer to issue with: new data, or a profile; the payment's profile as it is now when both are left out.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Reissue {
    /// New data.
    #[serde(default, deserialize_with = "object")]
    buyer: Option<NewBuyer>,
    /// A profile of the payer.
    profile: Option<String>,
}

/// What an attachment is called.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub struct AttachmentQuery {
    /// File name, at most 120 characters; `invoice` and the type's ending when left out.
    name: Option<String>,
    /// The number of the invoice it holds, at most 64 characters.
    number: Option<String>,
}

/// An expert's own document.
#[derive(Debug, Serialize, ToSchema)]
pub struct Attachment {
    /// Of which payment.
    payment: String,
    /// File name.
    name: String,
    /// Media type.
    media_type: String,
    /// The number of the invoice it holds.
    number: Option<String>,
    /// Bytes.
    size: usize,
}

/// Shows the invoice of a payment
///
/// 404 with the code `no_invoice` when none was ordered: the payment is not completed, has no invoice data, or no
/// invoicing account is on.
#[utoipa::path(get, path = "/v1/payments/{id}/invoice", tag = "invoices", operation_id = "get_invoice",
    params(("id" = String, Path, description = "The payment")),
    responses((status = 200, body = Invoice), (status = "4XX", body = ProblemBody)))]
async fn show(State(web): State<Web>, caller: Caller, Path(id): Path<String>) -> Result<Json<Invoice>, Problem> {
    let mut tx = web.app.store.read().await?;
    let payment = find(&mut tx, &caller, &id).await?;
    Ok(Json(view(&web.app, &mut tx, &payment).await?))
}

/// Fetches the printed invoice
#[utoipa::path(get, path = "/v1/payments/{id}/invoice.pdf", tag = "invoices", operation_id = "get_invoice_pdf",
    params(("id" = String, Path, description = "The payment")),
    responses((status = 200, content_type = "application/pdf", body = Vec<u8>), (status = "4XX", body = ProblemBody)))]
async fn pdf(State(web): State<Web>, caller: Caller, Path(id): Path<String>) -> Result<Response, Problem> {
    let mut tx = web.app.store.read().await?;
    let payment = find(&mut tx, &caller, &id).await?;
    let invoice = tx.invoice_of_payment(&caller.merchant, &payment.id).await?.ok_or_else(no_invoice)?;
    // A document that differs from the payment, or is no invoice in law, is not handed out.
    let bytes = match invoice.state {
        InvoiceState::Issued => tx.pdf(&caller.merchant, &invoice.id).await?,
        _ => None,
    };
    let missing = || Problem::not_found().detail(format!("the PDF is not here (invoice state: {})", invoice.state));
    let bytes = bytes.ok_or_else(missing)?;
    let name = format!("{}.pdf", invoice.number.as_deref().unwrap_or("invoice"));
    Ok(download("application/pdf".into(), &name, bytes))
}

/// Issues the invoice again
///
/// After every attempt failed: begins anew with three attempts and the given buyer. Pressed twice it is one generation.
#[utoipa::path(post, path = "/v1/payments/{id}/invoice/reissue", tag = "invoices", operation_id = "reissue_invoice",
    params(("id" = String, Path, description = "The payment")), request_body = Option<Reissue>,
    responses((status = 200, body = Invoice), (status = "4XX", body = ProblemBody)))]
async fn issue_again(
    State(web): State<Web>,
    caller: Caller,
    Path(id): Path<String>,
    post: Post<Reissue>,
) -> Result<Response, Problem> {
    let (app, input) = (&*web.app, &post.input);
    let given = input.buyer.as_ref().map(check_buyer).transpose().map_err(|p| p.below("/buyer"))?;
    if given.is_some() && input.profile.is_some() {
        return Err(Problem::field("/profile", "must be left out when buyer is given"));
    }
    let mut turn = post.mark.begin(&web.app).await?;
    let tx = &mut turn.tx;
    let payment = find(tx, &caller, &id).await?;
    let buyer = match &input.profile {
        Some(profile) => {
            let found = tx.profile(&caller.merchant, profile).await?.filter(|p| p.payer_id == payment.payer_id);
            Some(found.ok_or_else(|| Problem::field("/profile", "does not exist for this payer"))?.body)
        }
        None => given.clone(),
    };
    // Locked, so that two people who press at once take turns (F32).
    tx.payment_for_update(&caller.merchant, &payment.id).await?;
    reissue(app, tx, &payment, buyer).await?;
    let shown = view(app, tx, &payment).await?;
    turn.end(app, Answer::ok(&shown)).await
}

/// Attaches a document made by hand
///
/// The body is the file: PDF, PNG, JPEG or plain text. It replaces an earlier one, and ends issuing by the integration.
#[utoipa::path(put, path = "/v1/payments/{id}/invoice/attachment", tag = "invoices", operation_id = "put_attachment",
    params(("id" = String, Path, description = "The payment"), AttachmentQuery),
    request_body(content((Vec<u8> = "application/pdf"), (Vec<u8> = "image/png"), (Vec<u8> = "image/jpeg"), (String = "text/plain"))),
    responses((status = 200, body = Attachment), (status = "4XX", body = ProblemBody)))]
async fn put_attachment(
    State(web): State<Web>,
    caller: Caller,
    Path(id): Path<String>,
    Params(query): Params<AttachmentQuery>,
    raw: Raw,
) -> Result<Json<Attachment>, Problem> {
    let ending = check_file(&raw)?;
    let mut fields = Fields::default();
    let name = fields.line("name", &query.name.unwrap_or_else(|| format!("invoice.{ending}")), 120);
    if name.contains(['/', '\\', '"']) || name.starts_with('.') {
        fields.refuse("name", "must be a file name without / \\ and \" that does not begin with a full stop");
    }
    let number = query.number.map(|n| fields.line("number", &n, 64));
    fields.finish()?;
    let file = File { name, media_type: raw.media_type, number, body: raw.body.to_vec() };
    let mut tx = web.app.store.begin().await?;
    let payment = find(&mut tx, &caller, &id).await?;
    attach(&web.app, &mut tx, &payment, &file).await?;
    tx.commit().await?;
    Ok(Json(Attachment {
        payment: payment.id,
        name: file.name,
        media_type: file.media_type,
        number: file.number,
        size: file.body.len(),
    }))
}

/// Fetches the attached document
#[utoipa::path(get, path = "/v1/payments/{id}/invoice/attachment", tag = "invoices", operation_id = "get_attachment",
    params(("id" = String, Path, description = "The payment")),
    responses((status = 200, content_type = "application/octet-stream", body = Vec<u8>), (status = "4XX", body = ProblemBody)))]
async fn get_attachment(State(web): State<Web>, caller: Caller, Path(id): Path<String>) -> Result<Response, Problem> {
    let mut tx = web.app.store.read().await?;
    let payment = find(&mut tx, &caller, &id).await?;
    let file = tx.attachment(&caller.merchant, &payment.id).await?.ok_or_else(|| {
        Problem::new(axum::http::StatusCode::NOT_FOUND, "no_attachment")
            .detail("no document is attached to this payment")
    })?;
    Ok(download(file.media_type, &file.name, file.body))
}

/// The type is believed only when the bytes begin like it.
fn check_file(raw: &Raw) -> Result<&'static str, Problem> {
    let bytes = &raw.body[..];
    let (ending, fits) = match raw.media_type.as_str() {
        "application/pdf" => ("pdf", bytes.starts_with(b"%PDF-")),
        "image/png" => ("png", bytes.starts_with(b"\x89PNG\r\n\x1a\n")),
        "image/jpeg" => ("jpg", bytes.starts_with(b"\xff\xd8\xff")),
        "text/plain" => ("txt", !bytes.is_empty() && std::str::from_utf8(bytes).is_ok_and(|t| !t.contains('\0'))),
        _ => {
            let detail = "send the file with the Content-Type application/pdf, image/png, image/jpeg or text/plain";
            return Err(Problem::of_status(axum::http::StatusCode::UNSUPPORTED_MEDIA_TYPE).detail(detail));
        }
    };
    if fits { Ok(ending) } else { Err(Problem::field("", format!("is not {} by its content", raw.media_type))) }
}

/// A file that browsers store and never show, under a plain name.
fn download(media_type: String, name: &str, body: Vec<u8>) -> Response {
    let plain: String =
        name.chars().map(|c| if c.is_ascii_alphanumeric() || ".-_".contains(c) { c } else { '-' }).collect();
    let encoded: String = form_urlencoded::byte_serialize(name.as_bytes()).collect::<String>().replace('+', "%20");
    let disposition = format!("attachment; filename=\"{plain}\"; filename*=UTF-8''{encoded}");
    let headers = [
        (header::CONTENT_TYPE, media_type),
        (header::CONTENT_DISPOSITION, disposition),
        (header::CACHE_CONTROL, "private, no-store".to_owned()),
    ];
    (headers, body).into_response()
}

fn no_invoice() -> Problem {
    Problem::new(axum::http::StatusCode::NOT_FOUND, "no_invoice").detail("no invoice was ordered for this payment")
}

async fn view(app: &App, tx: &mut Tx, payment: &Payment) -> Result<Invoice, Problem> {
    let i: InvoiceRow = tx.invoice_of_payment(&payment.merchant_id, &payment.id).await?.ok_or_else(no_invoice)?;
    let fields = i.last_fields.into_iter();
    let last_failure = i.last_class.map(|class| Failure {
        class,
        code: i.last_code,
        message: i.last_message,
        fields: fields
            .map(|(path, detail)| FieldError { pointer: format!("/{}", path.replace('.', "/")), detail })
            .collect(),
    });
    let document = i.document.map(|d| {
        let (ksef_state, ksef_number) = match d.ksef {
            Ksef::NotApplicable => ("not_applicable", None),
            Ksef::Pending => ("pending", None),
            Ksef::Accepted { number } => ("accepted", Some(number)),
            Ksef::Rejected => ("rejected", None),
        };
        DocumentView {
            id: d.id,
            number: d.number,
            issue_date: d.issue_date.map(|day| day.to_string()),
            amount: d.total.minor(),
            currency: d.total.currency().code().to_owned(),
            differences: d.differences,
            ksef_state,
            ksef_number,
        }
    });
    Ok(Invoice {
        cell: show_cell(app, tx, payment).await?,
        id: i.id,
        payment: i.payment_id,
        invoicing_account: i.invoicing_account_id,
        external_key: i.external_key,
        attempts: i.attempts,
        max_attempts: app.config.invoice_waits_s.len(),
        generation: i.generation,
        last_failure,
        buyer: show_buyer(i.order.buyer),
        document,
        issued_at: i.issued_at.map(rfc3339),
        created_at: rfc3339(i.created_at),
        updated_at: rfc3339(i.updated_at),
    })
}
