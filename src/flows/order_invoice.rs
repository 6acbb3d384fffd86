//! Orders the invoice of a completed payment, in the same transaction as the completion; and what an expert can do when
//! issuing failed: correct the data and issue again, or attach a document made by hand.

use grosz_providers::invoicer::{Buyer, InvoiceOrder, Ksef, PaymentMethod, day_in};
use grosz_providers::registry;

use super::FlowError;
use super::fetch_pdf::{is_overdue, pdf_missing_key};
use crate::app::App;
use crate::clock::at;
use crate::domain::invoice::State;
use crate::store::{Attachment, InvoiceRow, InvoicingAccount, JobKind, Payment, Tx};

/// Orders the sales invoice of a payment, if one is wanted: the merchant has an invoicing integration that is on, and
/// the payment has invoice data and lines.
///
/// # Errors
/// The database.
pub async fn order_invoice(app: &App, tx: &mut Tx, payment: &Payment) -> Result<(), FlowError> {
    let (Some(buyer), Some(_)) = (&payment.buyer, &payment.lines) else { return Ok(()) };
    let Some(account) = invoicing_account(tx, payment).await? else { return Ok(()) };
    let now = app.now();
    let id = app.ids.make("ivc");
    let bare = id.rsplit('_').next().unwrap_or(&id).to_owned();
    let external_key = format!("grosz-{bare}");
    let order = order_of(app, tx, payment, buyer, &account, external_key.clone()).await?;
    let invoice = InvoiceRow {
        merchant_id: payment.merchant_id.clone(),
        id: id.clone(),
        payment_id: payment.id.clone(),
        kind: "sales".into(),
        generation: 1,
        invoicing_account_id: account.id,
        external_key,
        order,
        state: State::Queued,
        attempts: 0,
        sending_since: None,
        first_sent_at: None,
        unknown_since: None,
        clean_looks: 0,
        last_class: None,
        last_code: None,
        last_message: None,
        last_fields: vec![],
        buyer_ref: None,
        provider_id: None,
        document: None,
        number: None,
        issued_at: None,
        pdf_sha256: None,
        created_at: now,
        updated_at: now,
    };
    if tx.add_invoice(&invoice).await? {
        let first = now + crate::clock::seconds(crate::config::wait_s(&app.config.invoice_waits_s, 0));
        tx.enqueue(&payment.merchant_id, &app.ids.make("job"), JobKind::IssueInvoice, &id, first, now).await?;
    }
    Ok(())
}

/// The merchant's invoicing account for a payment.
///
/// # Errors
/// The database.
pub(super) async fn invoicing_account(tx: &mut Tx, payment: &Payment) -> Result<Option<InvoicingAccount>, FlowError> {
    issuing_account(tx, &payment.merchant_id, payment.live).await
}

/// A merchant's invoicing account for a mode: the first that is on.
///
/// # Errors
/// The database.
pub(super) async fn issuing_account(
    tx: &mut Tx,
    merchant: &str,
    live: bool,
) -> Result<Option<InvoicingAccount>, FlowError> {
    let accounts = tx.invoicing_accounts(merchant).await?;
    Ok(accounts.into_iter().find(|a| a.enabled && a.live == live))
}

async fn order_of(
    app: &App,
    tx: &mut Tx,
    payment: &Payment,
    buyer: &Buyer,
    account: &InvoicingAccount,
    external_key: String,
) -> Result<InvoiceOrder, FlowError> {
    let number = match &payment.case_id {
        Some(case) => tx.case(&payment.merchant_id, case).await?.map(|c| c.number),
        None => None,
    };
    let language = tx.payer(&payment.merchant_id, &payment.payer_id).await?.map_or("en".into(), |p| p.language);
    let zone = registry::invoicer(&account.invoicer).map_or("UTC", |i| i.facts().zone);
    let outside = app.clock.outside().as_microsecond();
    // Kept by the database's clock; documents are dated by the world's.
    let paid = payment.completed_at.map_or(outside, |paid| paid + outside - app.now());
    let paid_at = account_that_was_paid(tx, payment).await?;
    let method = match tx.provider_account(&payment.merchant_id, &paid_at).await? {
        Some(a) => registry::provider(&a.provider).map_or(PaymentMethod::Transfer, |p| p.facts().method),
        None => PaymentMethod::Transfer,
    };
    Ok(InvoiceOrder {
        external_key,
        order_ref: number.unwrap_or_else(|| payment.id.clone()).chars().take(64).collect(),
        issue_date: day_in(zone, at(outside)),
        // The day the money came, in the seller's zone (F17).
        paid_on: day_in(zone, at(paid.min(outside))),
        total: payment.amount,
        method,
        language,
        buyer: buyer.clone(),
        lines: payment.lines.clone().unwrap_or_default(),
        first_sent_on: None,
    })
}

/// Where the money came: an older link may have been paid after another gateway was chosen.
async fn account_that_was_paid(tx: &mut Tx, payment: &Payment) -> Result<String, FlowError> {
    let attempts = tx.attempts(&payment.merchant_id, &payment.id).await?;
    let paid = attempts.into_iter().find(|a| a.state == "paid");
    Ok(paid.map_or_else(|| payment.provider_account_id.clone(), |a| a.provider_account_id))
}

/// Issues again after every attempt failed: a new generation with three attempts and the same key. The buyer is the one
/// given, else the profile as it is now, else the snapshot.
///
/// # Errors
/// Nothing failed, or it is under way (then pressing twice changes nothing: F32).
pub async fn reissue(app: &App, tx: &mut Tx, payment: &Payment, buyer: Option<Buyer>) -> Result<(), FlowError> {
    if payment.status != crate::domain::payment::Status::Completed {
        return Err(FlowError::conflict("payment_not_completed", "only a completed payment has an invoice"));
    }
    let Some(found) = tx.invoice_of_payment(&payment.merchant_id, &payment.id).await? else {
        if tx.has_attachment(&payment.merchant_id, &payment.id).await? {
            return Err(FlowError::conflict("invoice_issued", "the payment has the document that was attached to it"));
        }
        let mut wanted = payment.clone();
        if let Some(buyer) = buyer {
            wanted.buyer = Some(buyer);
        }
        if wanted.buyer.is_none() || invoicing_account(tx, payment).await?.is_none() {
            let detail = "no invoicing account is on, or the payment has no invoice data: attach the document instead";
            return Err(FlowError::conflict("invoicing_not_configured", detail));
        }
        return order_invoice(app, tx, &wanted).await;
    };
    let Some(mut invoice) = tx.invoice_for_update(&payment.merchant_id, &found.id).await? else {
        return Err(FlowError::NotFound("invoice"));
    };
    if invoice.document.as_ref().is_some_and(|d| d.ksef == Ksef::Rejected) {
        let detail = "the national system rejected this invoice; correct it in the invoicing system and attach it here";
        return Err(FlowError::conflict("invoice_rejected", detail));
    }
    match invoice.state {
        State::Exhausted | State::Held => {}
        State::Queued | State::Sending | State::Unknown => {
            return Err(FlowError::conflict("invoice_in_progress", "the invoice is being issued"));
        }
        State::Issued | State::IssuedDiffers | State::ByHand => {
            return Err(FlowError::conflict("invoice_issued", "the payment has its invoice"));
        }
    }
    let fresh = match (&buyer, &payment.profile_id) {
        (Some(_), _) | (None, None) => None,
        (None, Some(profile)) => tx.profile(&payment.merchant_id, profile).await?.map(|p| p.body),
    };
    if let Some(buyer) = buyer.or(fresh) {
        invoice.order.buyer = buyer;
    }
    invoice.generation += 1;
    invoice.attempts = 0;
    invoice.clean_looks = 0;
    invoice.sending_since = None;
    invoice.buyer_ref = None;
    // Whatever was sent before is looked for before anything is sent again.
    let in_doubt = invoice.unknown_since.is_some() && invoice.first_sent_at.is_some();
    let now = app.now();
    // What failed for sure is nowhere: where its account was switched off, that is not asked any more.
    let is_nowhere = invoice.state == State::Exhausted && !in_doubt;
    invoice.state = if in_doubt { State::Unknown } else { State::Queued };
    invoice.unknown_since = in_doubt.then_some(now);
    tx.update_invoice(&invoice, now).await?;
    if is_nowhere {
        let its_own = tx.invoicing_account(&payment.merchant_id, &invoice.invoicing_account_id).await?;
        if its_own.is_none_or(|account| !account.enabled)
            && let Some(other) = invoicing_account(tx, payment).await?
        {
            tx.move_invoice(&invoice, &other.id, now).await?;
        }
    }
    tx.enqueue(&payment.merchant_id, &app.ids.make("job"), JobKind::IssueInvoice, &invoice.id, now, now).await?;
    tx.hasten(&payment.merchant_id, JobKind::IssueInvoice, &invoice.id, now).await?;
    tx.resolve_alert_by_key(&payment.merchant_id, &alert_key(&invoice), now).await?;
    Ok(())
}

/// The key of the one open alert about an invoice.
pub fn alert_key(invoice: &InvoiceRow) -> String {
    format!("invoice:{}", invoice.id)
}

/// Keeps an expert's own document with the payment; issuing by the integration ends, or never begins (F33, R-5W-42).
///
/// # Errors
/// A send is under way: its outcome has to be known first.
pub async fn attach(app: &App, tx: &mut Tx, payment: &Payment, file: &Attachment) -> Result<(), FlowError> {
    let now = app.now();
    // Whoever completes it at this moment comes before, with an invoice to be seen here, or after, and sees the document.
    tx.payment_for_update(&payment.merchant_id, &payment.id).await?;
    if let Some(found) = tx.invoice_of_payment(&payment.merchant_id, &payment.id).await? {
        let invoice = tx.invoice_for_update(&payment.merchant_id, &found.id).await?;
        if let Some(mut invoice) = invoice {
            match invoice.state {
                State::Sending | State::Unknown => {
                    let detail = "the outcome of a send is not known yet; attach when it is settled";
                    return Err(FlowError::conflict("invoice_in_progress", detail));
                }
                State::Queued | State::Exhausted | State::Held => {
                    invoice.state = State::ByHand;
                    invoice.number = file.number.clone().or(invoice.number);
                    tx.update_invoice(&invoice, now).await?;
                    tx.resolve_alert_by_key(&payment.merchant_id, &alert_key(&invoice), now).await?;
                }
                // The expert's document takes the place of one that cannot be had; nobody fetches that any more.
                State::Issued if invoice.pdf_sha256.is_none() && is_overdue(app, &invoice) => {
                    invoice.state = State::ByHand;
                    invoice.number = file.number.clone().or(invoice.number);
                    tx.update_invoice(&invoice, now).await?;
                    tx.resolve_alert_by_key(&payment.merchant_id, &pdf_missing_key(&invoice), now).await?;
                }
                State::Issued | State::IssuedDiffers | State::ByHand => {}
            }
        }
    }
    tx.put_attachment(&payment.merchant_id, &payment.id, file, now).await?;
    Ok(())
}
