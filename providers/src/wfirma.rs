//! wFirma, a Polish accounting service, as the issuer of invoices.
//!
//! It has no idempotency key, answers HTTP 200 for refusals, and ignores members it does not know. So our key travels
//! in `id_external` and is compared on this side; a refusal is told by `status.code`; and what was issued is compared
//! with what was asked. Wire facts and their sources: `docs/protocols/wfirma.md`.

use async_trait::async_trait;
use serde_json::{Value, json};

use crate::facts::{InvoicerFacts, Setting, SettingKind, Settings};
use crate::gateway::Cx;
use crate::invoicer::{
    Buyer, Document, FailureClass, Found, InvoiceFailure, InvoiceLine, InvoiceOrder, Invoicer, Ksef, Vat,
};
use crate::money::Money;
use crate::twin::InvoicerTwin;
use crate::wire::{HttpRequest, HttpResponse};

mod buyer;
mod compare;
mod envelope;
mod find;
mod order;
mod status;
#[cfg(test)]
mod tests;
mod twin;

use envelope::{Envelope, id_of};
use status::Call;

/// The invoicer.
pub static WFIRMA: Wfirma = Wfirma;

/// wFirma, API version 2 with API keys.
#[derive(Debug, Clone, Copy)]
pub struct Wfirma;

const METHODS: &[&str] = &["payment_card", "transfer", "cash", "compensation", "cod"];

const SETTINGS: &[Setting] = &[
    Setting::required(
        "access_key",
        SettingKind::Secret,
        "Access key; in wFirma under Ustawienia » Bezpieczeństwo » Aplikacje » Klucze API.",
    ),
    Setting::required(
        "secret_key",
        SettingKind::Secret,
        "Secret key, shown once beside the access key; any later edit of the key in the panel changes both.",
    ),
    Setting::required("app_key", SettingKind::Secret, "Application key that wFirma sends to the integrator by e-mail."),
    Setting::required("company_id", SettingKind::Number, "Number of the company in wFirma."),
    Setting::default("base_url", SettingKind::Url, "https://api2.wfirma.pl", "Address of the API."),
    Setting::optional("series_id", SettingKind::Number, "Number of the invoice series to use; best one of its own."),
    Setting::default(
        "vat_payer",
        SettingKind::Flag,
        "true",
        "Whether the seller is a VAT payer; otherwise bills (rachunki) are issued.",
    ),
    Setting::default(
        "payment_method_card",
        SettingKind::Choice(METHODS),
        "payment_card",
        "Payment method printed for payments by card.",
    ),
    Setting::default(
        "payment_method_transfer",
        SettingKind::Choice(METHODS),
        "transfer",
        "Payment method printed for transfers, BLIK and pay-by-link.",
    ),
    Setting::default(
        "payment_method_balance",
        SettingKind::Choice(METHODS),
        "transfer",
        "Payment method printed for payments from a prepaid balance.",
    ),
    Setting::default("unit", SettingKind::Text, "szt.", "Unit printed on each line."),
    Setting::optional("lumpcode", SettingKind::Text, "Lump-sum rate of each line, for sellers taxed by lump sum."),
    Setting::optional(
        "translation_language_id",
        SettingKind::Number,
        "Number of wFirma's second print language, used when the order's language is not Polish.",
    ),
    Setting::default(
        "ksef",
        SettingKind::Choice(&["auto", "off"]),
        "auto",
        "Whether to wait for the KSeF number before the printed document is fetched; auto goes by what wFirma says.",
    ),
];

static FACTS: InvoicerFacts =
    InvoicerFacts { name: "wfirma", title: "wFirma", countries: &["PL"], settings: SETTINGS, zone: "Europe/Warsaw" };

#[async_trait]
impl Invoicer for Wfirma {
    fn facts(&self) -> &'static InvoicerFacts {
        &FACTS
    }

    fn usual_vat(&self, settings: &Settings) -> Vat {
        if settings.flag("vat_payer") { Vat::Rate(2300) } else { Vat::SellerNotVatPayer }
    }

    fn check_sale(
        &self,
        settings: &Settings,
        total: Money,
        lines: &[InvoiceLine],
        buyer: Option<&Buyer>,
    ) -> Result<(), InvoiceFailure> {
        order::check_sale(settings, total, lines, buyer)
    }

    fn check_order(&self, settings: &Settings, order: &InvoiceOrder) -> Result<(), InvoiceFailure> {
        order::check(settings, order)
    }

    async fn self_test(&self, cx: &Cx<'_>) -> Result<(), InvoiceFailure> {
        find::probe(cx).await?;
        company_agrees(cx).await
    }

    async fn find(&self, cx: &Cx<'_>, order: &InvoiceOrder) -> Found {
        find::by_key(cx, order).await
    }

    async fn upsert_buyer(
        &self,
        cx: &Cx<'_>,
        order: &InvoiceOrder,
        known: Option<&str>,
    ) -> Result<String, InvoiceFailure> {
        buyer::upsert(cx, &order.buyer, known).await
    }

    async fn create(&self, cx: &Cx<'_>, buyer: &str, order: &InvoiceOrder) -> Result<Document, InvoiceFailure> {
        order::check(cx.settings, order)?;
        let body = order::body(cx.settings, buyer, order);
        let envelope = post(cx, Call::Write, "invoices/add", &body).await.map_err(parent_missing)?;
        let Some((id, record)) = with_id(&envelope) else {
            return Err(InvoiceFailure::new(FailureClass::Unknown, "OK", "wFirma said OK and named no invoice"));
        };
        // The documented answer is the whole record. A thinner one is read again, so that nothing goes uncompared.
        let whole = match compare::is_thin(record) {
            true => read(cx, &id).await.ok(),
            false => None,
        };
        let record = whole.as_ref().unwrap_or(record);
        Ok(compare::issued(cx.settings, record, &id, buyer, order))
    }

    async fn get(&self, cx: &Cx<'_>, id: &str, order: &InvoiceOrder) -> Result<Document, InvoiceFailure> {
        let record = read(cx, id).await?;
        Ok(compare::existing(cx.settings, &record, id, order))
    }

    async fn fetch_pdf(&self, cx: &Cx<'_>, document: &Document) -> Result<Option<Vec<u8>>, InvoiceFailure> {
        // Until KSeF has given the number, the download is a page without lines and without the invoice's number.
        let ksef = match &document.ksef {
            Ksef::Accepted { .. } => document.ksef.clone(),
            _ => compare::ksef(cx.settings, &read(cx, &document.id).await?),
        };
        match ksef {
            Ksef::Accepted { .. } | Ksef::NotApplicable => download(cx, &document.id).await.map(Some),
            Ksef::Pending => Ok(None),
            Ksef::Rejected => {
                let words = "KSeF rejected the invoice: it was not issued in law and must not be handed out";
                Err(InvoiceFailure::new(FailureClass::Data, "KSEF REJECTED", words))
            }
        }
    }

    fn twin(&self) -> Option<Box<dyn InvoicerTwin>> {
        Some(Box::new(twin::WfirmaTwin::default()))
    }
}

/// The whole record of an invoice.
async fn read(cx: &Cx<'_>, id: &str) -> Result<Value, InvoiceFailure> {
    let envelope = get(cx, &format!("invoices/get/{}", plain_id(id)?)).await?;
    match with_id(&envelope) {
        Some((found, record)) if found == id => Ok(record.clone()),
        _ => Err(InvoiceFailure::new(FailureClass::Retryable, "OK", "wFirma answered without the invoice asked for")),
    }
}

async fn download(cx: &Cx<'_>, id: &str) -> Result<Vec<u8>, InvoiceFailure> {
    let parameter = |name: &str, value: &str| json!({"parameter": {"name": name, "value": value}});
    let body = json!({"invoices": {"parameters": {
        "0": parameter("page", "invoice"),
        "1": parameter("address", "0"),
        "2": parameter("leaflet", "0"),
        "3": parameter("duplicate", "0"),
    }}});
    let request = HttpRequest::json(address(cx, &format!("invoices/download/{}", plain_id(id)?)), &body)
        .header("accept", "application/pdf, application/json");
    let answer = send(cx, Call::Read, request).await?;
    match pdf(&answer) {
        Some(bytes) => Ok(bytes.to_vec()),
        // An answer that says OK is no document either.
        None => Err(status::accept(Call::Read, &answer).err().unwrap_or_else(|| {
            InvoiceFailure::new(FailureClass::Retryable, "OK", "wFirma said OK and sent no document")
        })),
    }
}

/// A whole PDF: begins as one (blanks before it are dropped) and has its end within the last 1024 bytes.
fn pdf(answer: &HttpResponse) -> Option<&[u8]> {
    let body = answer.body.trim_ascii_start();
    let tail = body.get(body.len().saturating_sub(1024)..)?;
    let whole = answer.is_success() && body.starts_with(b"%PDF-") && tail.windows(5).any(|w| w == b"%%EOF");
    whole.then_some(body)
}

/// A seller who is no VAT payer may issue bills only. An account that does not tell is taken at its settings' word.
async fn company_agrees(cx: &Cx<'_>) -> Result<(), InvoiceFailure> {
    let Ok(path) = plain_id(cx.settings.text("company_id")).map(|id| format!("companies/get/{id}")) else {
        return Ok(());
    };
    let told = get(cx, &path).await.ok().and_then(|envelope| {
        envelope.records("companies", "company").first().and_then(|c| envelope::field(c, "vat_payer"))
    });
    let set = if cx.settings.flag("vat_payer") { "1" } else { "0" };
    match told.as_deref() {
        Some(told @ ("0" | "1")) if told != set => {
            let words = "the company's VAT status in wFirma is not the one in the account's settings";
            let mut failure = InvoiceFailure::new(FailureClass::Config, "VAT PAYER", words);
            failure.fields = vec![("vat_payer".into(), words.into())];
            Err(InvoiceFailure { account_wide: true, ..failure })
        }
        _ => Ok(()),
    }
}

/// Of all writes only a create has a parent that can be missing: the buyer's card or the series.
fn parent_missing(failure: InvoiceFailure) -> InvoiceFailure {
    if failure.class != FailureClass::Absent {
        return failure;
    }
    let fields = vec![("buyer".to_owned(), "wFirma does not know the buyer's card or the series".to_owned())];
    InvoiceFailure { class: FailureClass::Data, fields, ..failure }
}

fn with_id(envelope: &Envelope) -> Option<(String, &Value)> {
    envelope.records("invoices", "invoice").into_iter().find_map(|record| Some((id_of(record)?, record)))
}

/// An id that may stand in a path.
fn plain_id(id: &str) -> Result<&str, InvoiceFailure> {
    let plain = !id.is_empty() && id.len() <= 32 && id.bytes().all(|b| b.is_ascii_alphanumeric());
    plain.then_some(id).ok_or_else(|| InvoiceFailure::new(FailureClass::Bug, "id", "this is no id of wFirma's"))
}

async fn get(cx: &Cx<'_>, path: &str) -> Result<Envelope, InvoiceFailure> {
    let request = HttpRequest::get(address(cx, path)).header("accept", "application/json");
    status::accept(Call::Read, &send(cx, Call::Read, request).await?)
}

async fn post(cx: &Cx<'_>, call: Call, path: &str, body: &Value) -> Result<Envelope, InvoiceFailure> {
    let request = HttpRequest::json(address(cx, path), body).header("accept", "application/json");
    let request = if call == Call::Write { request.once() } else { request };
    status::accept(call, &send(cx, call, request).await?)
}

async fn send(cx: &Cx<'_>, call: Call, request: HttpRequest) -> Result<HttpResponse, InvoiceFailure> {
    let request = request
        .header("accessKey", cx.settings.text("access_key"))
        .header("secretKey", cx.settings.text("secret_key"))
        .header("appKey", cx.settings.text("app_key"));
    cx.http.send(request).await.map_err(|e| status::transport(call, &e))
}

/// The company is always named: without it a call can land in another company of the same user.
fn address(cx: &Cx<'_>, path: &str) -> String {
    let base = cx.settings.text("base_url").trim_end_matches('/');
    let company = cx.settings.text("company_id");
    format!("{base}/{path}?inputFormat=json&outputFormat=json&company_id={company}")
}
