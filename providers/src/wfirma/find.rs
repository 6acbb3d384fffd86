//! Looking an invoice up by our key, and concluding no more than the answer bears.
//!
//! wFirma drops conditions it does not understand: a look-up with an ignored filter answers with the company's latest
//! invoices. Adopting the first would print a stranger's invoice; concluding "none" would issue a second one.

use serde_json::{Value, json};

use super::compare::existing;
use super::envelope::{amount, field, id_of};
use super::order::{document_type, numbered};
use super::post;
use super::status::Call;
use crate::gateway::Cx;
use crate::invoicer::{Document, FailureClass, Found, InvoiceFailure, InvoiceOrder, Ksef};

/// Members asked for.
const FIELDS: &[&str] =
    &["id", "fullnumber", "type", "total", "currency", "date", "id_external", "description", "created"];

/// Looks up by key, and once an earlier send is known of, also by date and remark.
pub(super) async fn by_key(cx: &Cx<'_>, order: &InvoiceOrder) -> Found {
    let records = match rows(cx, &key_condition(&order.external_key), "20").await {
        Ok(records) => records,
        Err(failure) => return Found::Failed(failure),
    };
    match conclude(cx, order, &records) {
        Found::None => by_remark(cx, order).await.map_or(Found::None, Found::One),
        found => found,
    }
}

/// A look-up of a key that nobody has must be empty; otherwise nothing may be concluded from any look-up.
pub(super) async fn probe(cx: &Cx<'_>) -> Result<(), InvoiceFailure> {
    let key = format!("probe-{}", cx.now.as_microsecond());
    match rows(cx, &key_condition(&key), "20").await?.as_slice() {
        [] => Ok(()),
        _ => Err(InvoiceFailure { account_wide: true, ..filter_ignored(FailureClass::Config) }),
    }
}

fn conclude(cx: &Cx<'_>, order: &InvoiceOrder, records: &[Value]) -> Found {
    let ours: Vec<&Value> = records.iter().filter(|r| is(r, "id_external", &order.external_key)).collect();
    if ours.is_empty() {
        return if records.is_empty() { Found::None } else { Found::Failed(filter_ignored(FailureClass::Retryable)) };
    }
    // A pro forma with our key is none of ours; keys are not shared between kinds.
    let wanted: Vec<&Value> = ours.into_iter().filter(|r| is(r, "type", document_type(cx.settings))).collect();
    let mut documents = vec![];
    for record in wanted {
        match document(cx, order, record) {
            Some(document) => documents.push(document),
            None => {
                return Found::Failed(InvoiceFailure::new(
                    FailureClass::Retryable,
                    "OK",
                    "a found invoice lacks its id or total",
                ));
            }
        }
    }
    // The oldest has the lowest id.
    documents.sort_by_key(|d| (d.id.len(), d.id.clone()));
    match documents.len() {
        0 => Found::None,
        1 => documents.pop().map_or(Found::None, |d| one(order, d, records)),
        _ => Found::Many(documents),
    }
}

fn one(order: &InvoiceOrder, document: Document, records: &[Value]) -> Found {
    let record = records.iter().find(|r| id_of(r).as_ref() == Some(&document.id));
    let same_currency = record.is_some_and(|r| is(r, "currency", order.total.currency().code()));
    if document.total == order.total && same_currency { Found::One(document) } else { Found::Conflict(document) }
}

/// A row as a document. The look-up does not tell about KSeF, so that is still to be asked.
fn document(cx: &Cx<'_>, order: &InvoiceOrder, record: &Value) -> Option<Document> {
    let id = id_of(record)?;
    let currency = field(record, "currency")?.parse().unwrap_or(order.total.currency());
    let total = amount(&field(record, "total")?, currency)?;
    let ksef = if cx.settings.text("ksef") == "off" { Ksef::NotApplicable } else { Ksef::Pending };
    Some(Document { total, ksef, ..existing(cx.settings, record, &id, order) })
}

/// A document of ours that lost its key: same remark, kind, total and currency, no key at all, issued since the first
/// send. Its absence proves nothing, so this look-up may fail without harm.
async fn by_remark(cx: &Cx<'_>, order: &InvoiceOrder) -> Option<Document> {
    let since = order.first_sent_on?.to_string();
    let condition = json!({"condition": {"field": "Invoice.date", "operator": "ge", "value": since}});
    let records = rows(cx, &condition, "100").await.ok()?;
    let lost = |r: &&Value| {
        is(r, "id_external", "")
            && is(r, "description", &order.order_ref)
            && is(r, "type", document_type(cx.settings))
            && is(r, "currency", order.total.currency().code())
            // Dates of this form sort as text.
            && field(r, "date").is_some_and(|date| date >= since)
    };
    let mut found = records.iter().filter(lost).filter_map(|r| document(cx, order, r));
    found.find(|d| d.total == order.total)
}

async fn rows(cx: &Cx<'_>, condition: &Value, limit: &str) -> Result<Vec<Value>, InvoiceFailure> {
    let fields = numbered(FIELDS.iter().map(|name| json!({"field": format!("Invoice.{name}")})));
    let parameters = json!({"limit": limit, "page": "1", "fields": fields, "conditions": {"0": condition}});
    let body = json!({"invoices": {"parameters": parameters}});
    let envelope = post(cx, Call::Read, "invoices/find", &body).await?;
    Ok(envelope.records("invoices", "invoice").into_iter().cloned().collect())
}

fn key_condition(key: &str) -> Value {
    json!({"condition": {"field": "Invoice.id_external", "operator": "eq", "value": key}})
}

fn is(record: &Value, name: &str, wanted: &str) -> bool {
    field(record, name).is_some_and(|told| told == wanted)
}

fn filter_ignored(class: FailureClass) -> InvoiceFailure {
    InvoiceFailure::new(class, "FILTER IGNORED", "wFirma answered a look-up by key with other invoices")
}
