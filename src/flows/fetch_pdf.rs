//! Fetches the printed document of an issued invoice, once the national system has numbered it, and keeps it here: the
//! payer's download works while the invoicing service is down (R-5W-53). A failure here never issues anything again.

use grosz_providers::invoicer::{FailureClass, InvoiceFailure, Ksef};
use grosz_providers::{Cx, registry, sign};
use serde_json::json;

use super::FlowError;
use super::issue_invoice::tell_differences;
use super::notify::{Raise, message_id, queue_notice, raise};
use super::order_invoice::alert_key;
use super::tell_client::tell;
use crate::app::{App, LONGEST_REST_S};
use crate::clock::seconds;
use crate::config::wait_s;
use crate::domain::invoice::State;
use crate::jobs::{self, End};
use crate::store::{InvoiceRow, Job, Notice, Payment, Tx};

/// The last word about an invoice whose missing PDF a person was told of.
const PDF_MISSING: &str = "PDF MISSING";

/// The job.
///
/// # Errors
/// The database; the job runs again.
pub async fn run(app: &App, job: &Job) -> Result<(), FlowError> {
    let mut tx = app.store.read().await?;
    let Some(invoice) = tx.invoice_for_read(&job.merchant_id, &job.subject).await? else {
        return jobs::finish(app, job).await;
    };
    let account = tx.invoicing_account(&job.merchant_id, &invoice.invoicing_account_id).await?;
    let payment = tx.payment(&job.merchant_id, &invoice.payment_id).await?;
    drop(tx);
    let (Some(account), Some(payment), Some(id)) = (account, payment, invoice.provider_id.clone()) else {
        return jobs::finish(app, job).await;
    };
    if invoice.state != State::Issued || invoice.pdf_sha256.is_some() {
        return jobs::finish(app, job).await;
    }
    let Some(invoicer) = registry::invoicer(&account.invoicer) else { return jobs::finish(app, job).await };
    let settings = app.invoicing_settings(&account)?;
    let cx = Cx { http: &*app.http_documents, ..app.cx(&settings, account.live) };
    let document = match invoicer.get(&cx, &id, &invoice.order).await {
        Ok(document) => document,
        Err(failure) if failure.class == FailureClass::Absent => return vanished(app, job, &payment).await,
        Err(failure) => return later(app, job, &payment, Some(failure)).await,
    };
    if document.ksef == Ksef::Rejected {
        let why = "the national system rejected the invoice: it was not issued in law, and the payer is not given it";
        let key = format!("invoice.ksef:{}", invoice.id);
        let Some((mut tx, mut invoice)) = still_issued(app, job).await? else { return Ok(()) };
        invoice.state = State::Held;
        invoice.document = Some(document);
        tx.update_invoice(&invoice, app.now()).await?;
        raise(app, &mut tx, Raise::about_payment("invoice.ksef", key, &payment, why.into())).await?;
        return jobs::settle(app, tx, job, End::Done).await;
    }
    if !document.differences.is_empty() {
        // Corrected there since, or not told at the issue: the payer is not given what was not ordered.
        let Some((mut tx, mut invoice)) = still_issued(app, job).await? else { return Ok(()) };
        tell_differences(app, &mut tx, &invoice.id, &payment, &document).await?;
        invoice.state = State::IssuedDiffers;
        invoice.document = Some(document);
        tx.update_invoice(&invoice, app.now()).await?;
        return jobs::settle(app, tx, job, End::Done).await;
    }
    match invoicer.fetch_pdf(&cx, &document).await {
        Ok(Some(pdf)) => {
            let Some((mut tx, mut invoice)) = still_issued(app, job).await? else { return Ok(()) };
            invoice.number = Some(document.number.clone()).filter(|n| !n.is_empty()).or(invoice.number);
            invoice.document = Some(document);
            let now = app.now();
            tx.update_invoice(&invoice, now).await?;
            tx.store_pdf(&invoice.merchant_id, &invoice.id, &pdf, &sign::sha256_hex(&pdf), now).await?;
            let data = json!({"id": invoice.id, "payment": payment.id, "number": invoice.number});
            tell(app, &mut tx, &payment.merchant_id, "invoice.pdf_ready", &payment.id, payment.live, data).await?;
            mail_payer(app, &mut tx, &invoice, &payment).await?;
            jobs::settle(app, tx, job, End::Done).await
        }
        Ok(None) => later(app, job, &payment, None).await,
        Err(failure) => later(app, job, &payment, Some(failure)).await,
    }
}

/// The invoicing system does not know the document any more: deleted by hand, or lost with a backup that was restored.
/// The national system may have it all the same, so nothing is made in its place.
async fn vanished(app: &App, job: &Job, payment: &Payment) -> Result<(), FlowError> {
    let Some((mut tx, mut invoice)) = still_issued(app, job).await? else { return Ok(()) };
    let number = invoice.number.as_deref().unwrap_or_default();
    let why = format!("the invoice {number} was issued, and the invoicing system does not know it any more");
    invoice.state = State::Held;
    tx.update_invoice(&invoice, app.now()).await?;
    raise(app, &mut tx, Raise::about_payment("invoice.unknown", alert_key(&invoice), payment, why)).await?;
    jobs::settle(app, tx, job, End::Done).await
}

/// Begins a transaction with the invoice locked, if it still waits for its document; else the job ends.
async fn still_issued(app: &App, job: &Job) -> Result<Option<(Tx, InvoiceRow)>, FlowError> {
    let mut tx = app.store.begin().await?;
    match tx.invoice_for_update(&job.merchant_id, &job.subject).await? {
        Some(invoice) if invoice.state == State::Issued => Ok(Some((tx, invoice))),
        _ => {
            jobs::settle(app, tx, job, End::Done).await?;
            Ok(None)
        }
    }
}

/// The printed document should have been there by now.
pub fn is_overdue(app: &App, invoice: &InvoiceRow) -> bool {
    let now = app.now();
    now - invoice.issued_at.unwrap_or(now) > seconds(app.config.pdf_limit_s)
}

/// The key of the alert about a printed document that cannot be had.
pub fn pdf_missing_key(invoice: &InvoiceRow) -> String {
    format!("invoice.pdf_missing:{}", invoice.id)
}

async fn later(app: &App, job: &Job, payment: &Payment, failure: Option<InvoiceFailure>) -> Result<(), FlowError> {
    let now = app.now();
    let Some((mut tx, mut invoice)) = still_issued(app, job).await? else { return Ok(()) };
    // Once for each document: what a person closed stays closed.
    let is_told = invoice.last_code.as_deref() == Some(PDF_MISSING);
    if is_overdue(app, &invoice) && !is_told {
        let why = format!("the invoice {} is issued, its PDF cannot be had", invoice.number.as_deref().unwrap_or(""));
        let key = pdf_missing_key(&invoice);
        raise(app, &mut tx, Raise::about_payment("invoice.pdf_missing", key, payment, why)).await?;
        invoice.last_code = Some(PDF_MISSING.into());
        tx.update_invoice(&invoice, now).await?;
    }
    let at = now + seconds(wait_s(&app.config.pdf_waits_s, job.attempts - 1));
    let rest_s = failure.as_ref().and_then(|f| f.pause_s).map(|pause_s| LONGEST_REST_S.min(pause_s));
    let rest = rest_s.map(|rest_s| now + seconds(i64::from(rest_s)));
    let error = failure.map(|f| f.to_string());
    jobs::settle(app, tx, job, End::Again { at, error }.not_before(rest)).await
}

/// The payer's own letter with the PDF, once.
async fn mail_payer(app: &App, tx: &mut Tx, invoice: &InvoiceRow, payment: &Payment) -> Result<(), FlowError> {
    let Some(payer) = tx.payer(&payment.merchant_id, &payment.payer_id).await? else { return Ok(()) };
    if !app.config.mail_invoices {
        return Ok(());
    }
    let number = invoice.number.clone().unwrap_or_default();
    let (subject, text) = letter(&payer.language, &number);
    let notice = Notice {
        merchant_id: payment.merchant_id.clone(),
        id: app.ids.make("ntc"),
        kind: "invoice_ready".into(),
        dedupe_key: format!("invoice_ready:{}", invoice.id),
        alert_id: None,
        payment_id: Some(payment.id.clone()),
        recipient: Some(invoice.order.buyer.email.clone()).filter(|e| !e.is_empty()).unwrap_or(payer.email),
        language: payer.language,
        subject,
        body: format!("{text}\n\n{}\n", app.portal_url(&payer.portal_token)),
        message_id: message_id(app),
        state: "queued".into(),
        detail: None,
        created_at: app.now(),
        sent_at: None,
    };
    queue_notice(app, tx, &notice).await
}

fn letter(language: &str, number: &str) -> (String, String) {
    let (subject, text) = match language {
        "pl" => ("Faktura", "Dziękujemy za płatność. W załączniku faktura; znajdziesz ją też na liście płatności:"),
        "uk" => ("Рахунок", "Дякуємо за оплату. Рахунок у вкладенні; він також є у списку платежів:"),
        "cs" => ("Faktura", "Děkujeme za platbu. Faktura je v příloze; najdete ji i v seznamu plateb:"),
        "ru" => ("Счёт", "Спасибо за оплату. Счёт во вложении; он есть и в списке платежей:"),
        "is" => {
            ("Reikningur", "Takk fyrir greiðsluna. Reikningurinn er í viðhengi; hann er einnig í greiðslulistanum:")
        }
        _ => (
            "Invoice",
            "Thank you for your payment. The invoice is attached; you also find it in your list of payments:",
        ),
    };
    (format!("{subject} {number}").trim().to_owned(), text.to_owned())
}
