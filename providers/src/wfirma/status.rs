//! What wFirma's status codes mean for the work.
//!
//! Source: error chapter of the wFirma API documentation (doc.wfirma.pl); codes it leaves out are from clients in
//! production. HTTP statuses are not documented, so the body is judged, and HTTP only where there is no envelope.

use serde_json::Value;

use super::envelope::{Envelope, numbered, text_of};
use crate::invoicer::{FailureClass, InvoiceFailure};
use crate::wire::{HttpError, HttpResponse};

/// Code of a failure that only the owner of the wFirma account can cure.
pub(super) const KSEF_AUTHORISATION: &str = "KSEF AUTHORISATION";
/// Most fields reported of one refusal.
const MAX_FIELDS: usize = 50;

/// Whether a call changes something there: then "perhaps" is not "no".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    /// Changes nothing.
    Read,
    /// Creates or changes.
    Write,
}

impl Call {
    /// What an answer that cannot be judged means.
    fn in_doubt(self) -> FailureClass {
        match self {
            Call::Read => FailureClass::Retryable,
            Call::Write => FailureClass::Unknown,
        }
    }
}

/// The envelope of an answer whose code is `OK`.
///
/// # Errors
/// Every other answer, classed.
pub(super) fn accept(call: Call, answer: &HttpResponse) -> Result<Envelope, InvoiceFailure> {
    match Envelope::read(&answer.body) {
        Some(envelope) if envelope.code == "OK" => Ok(envelope),
        Some(envelope) => Err(no_sooner_than(answer, refusal(call, &envelope))),
        None => Err(no_sooner_than(answer, no_envelope(call, answer))),
    }
}

/// `Retry-After` is not documented, but whatever stands before the API may send it.
fn no_sooner_than(answer: &HttpResponse, failure: InvoiceFailure) -> InvoiceFailure {
    InvoiceFailure { pause_s: failure.pause_s.max(answer.retry_after_s()), ..failure }
}

/// The failure of a call that got no answer.
pub(super) fn transport(call: Call, error: &HttpError) -> InvoiceFailure {
    let mut failure = InvoiceFailure::transport(error);
    if failure.class == FailureClass::Unknown {
        failure.class = call.in_doubt();
    }
    failure
}

/// A write that may be repeated at will, because doing it twice does no harm.
pub(super) fn repeatable(mut failure: InvoiceFailure) -> InvoiceFailure {
    if failure.class == FailureClass::Unknown {
        failure.class = FailureClass::Retryable;
    }
    failure
}

fn refusal(call: Call, envelope: &Envelope) -> InvoiceFailure {
    use FailureClass::{Absent, Bug, Config, Retryable};
    let of = |class| InvoiceFailure::new(class, envelope.code.clone(), &envelope.message);
    let pause = |class, seconds| InvoiceFailure { pause_s: Some(seconds), ..of(class) };
    let account = |class, seconds| InvoiceFailure { account_wide: true, ..pause(class, seconds) };
    match envelope.code.as_str() {
        "ERROR" => validation(envelope),
        "AUTH" | "ACCESS DENIED" | "DENIED SCOPE REQUESTED" | "COMPANY ID REQUIRED" => {
            InvoiceFailure { account_wide: true, ..of(Config) }
        }
        "AUTH FAILED LIMIT WAIT 5 MINUTES" => account(Retryable, 300),
        "INPUT ERROR" | "ACTION NOT FOUND" | "CONTROLLER NOT FOUND" => of(Bug),
        "OUT OF SERVICE" => account(Retryable, 300),
        "SNAPSHOT LOCK" => account(Retryable, 600),
        "TOTAL REQUESTS LIMIT EXCEEDED" => account(Retryable, 900),
        // The work had begun when the limit struck.
        "TOTAL EXECUTION TIME LIMIT EXCEEDED" => account(call.in_doubt(), 900),
        // Some answers carry the Polish sentence in place of the code.
        code if code.contains("NOT FOUND") || code.starts_with("NIE ZNALEZIONO") => of(Absent),
        // FATAL, and whatever is new.
        _ => pause(call.in_doubt(), 60),
    }
}

fn no_envelope(call: Call, answer: &HttpResponse) -> InvoiceFailure {
    let of = |class, words: &str| InvoiceFailure::new(class, format!("HTTP {}", answer.status), words);
    match answer.status {
        401 | 403 => InvoiceFailure { account_wide: true, ..of(FailureClass::Config, "the keys were refused") },
        429 => {
            let pause_s = Some(if answer.retry_after_s().is_some() { 60 } else { 900 });
            InvoiceFailure { account_wide: true, pause_s, ..of(FailureClass::Retryable, "too many calls") }
        }
        _ => InvoiceFailure { pause_s: Some(60), ..of(call.in_doubt(), "the answer is none of wFirma's") },
    }
}

/// `ERROR`: the record comes back with the faults hung on its nodes. One of them is no fault of the data: without an
/// authorisation in KSeF nothing can be issued, and only its message says so.
fn validation(envelope: &Envelope) -> InvoiceFailure {
    let mut found = vec![];
    for (branch, record) in [("invoices", "invoice"), ("contractors", "contractor")] {
        for node in envelope.records(branch, record) {
            // Paths of the card begin with its name, as they do inside an invoice.
            walk(node, if record == "contractor" { record } else { "" }, 0, &mut found);
        }
        envelope.branch(branch).into_iter().for_each(|list| faults(list, "", &mut found));
    }
    found.truncate(MAX_FIELDS);
    let about_ksef = |text: &str| {
        let text = text.to_lowercase();
        text.contains("ksef") && text.contains("autoryzac")
    };
    let ksef = [&envelope.message].into_iter().chain(found.iter().map(|(_, m)| m)).find(|m| about_ksef(m));
    if let Some(message) = ksef {
        let failure = InvoiceFailure::new(FailureClass::Config, KSEF_AUTHORISATION, message);
        return InvoiceFailure { account_wide: true, ..failure };
    }
    let fields = found.into_iter().map(|(path, message)| (neutral(&path), message)).collect();
    InvoiceFailure { fields, ..InvoiceFailure::new(FailureClass::Data, "ERROR", &envelope.message) }
}

/// Collects `errors` of a node and of all nodes below it, as (path, message).
fn walk(node: &Value, path: &str, depth: usize, found: &mut Vec<(String, String)>) {
    if depth > 16 || found.len() >= MAX_FIELDS {
        return;
    }
    faults(node, path, found);
    let join = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    match node {
        Value::Object(members) => {
            for (key, child) in numbered(members) {
                walk(unwrapped(child), &join(key), depth + 1, found);
            }
            for (key, child) in
                members.iter().filter(|(k, _)| *k != "errors" && !k.starts_with(|c: char| c.is_ascii_digit()))
            {
                // A bare `invoicecontent` in `invoicecontents` is a list of one.
                match child {
                    Value::Object(_) if path.ends_with(&format!("{key}s")) => walk(child, &join("0"), depth + 1, found),
                    Value::Array(_) if path.ends_with(&format!("{key}s")) => walk(child, path, depth + 1, found),
                    _ => walk(child, &join(key), depth + 1, found),
                }
            }
        }
        Value::Array(list) => {
            for (at, child) in list.iter().enumerate() {
                walk(unwrapped(child), &join(&at.to_string()), depth + 1, found);
            }
        }
        _ => {}
    }
}

/// The faults of one node; `errors` may be an object, a list, `false` or null.
fn faults(node: &Value, path: &str, found: &mut Vec<(String, String)>) {
    let Some(errors) = node.get("errors") else { return };
    for error in super::envelope::items(errors, "error") {
        let text = |name: &str| error.get(name).map(text_of).unwrap_or_default();
        let (field, message) = (text("field"), text("message"));
        if found.len() < MAX_FIELDS && !(field.is_empty() && message.is_empty()) {
            let path = if path.is_empty() { field } else { format!("{path}.{field}") };
            found.push((path.chars().take(100).collect(), message.chars().take(200).collect()));
        }
    }
}

/// `{"invoicecontent": {…}}` is its content.
fn unwrapped(node: &Value) -> &Value {
    let Some(members) = node.as_object().filter(|members| members.len() == 1) else { return node };
    members.iter().find(|(name, inner)| *name != "errors" && inner.is_object()).map_or(node, |(_, inner)| inner)
}

/// wFirma's path as a path of the neutral order where there is one.
fn neutral(path: &str) -> String {
    let parts: Vec<&str> = path.split('.').collect();
    let mapped = match parts.as_slice() {
        ["contractor" | "contractor_detail", field] => buyer_field(field).map(|f| format!("buyer.{f}")),
        ["invoicecontents", line, field] => line_field(field).map(|f| format!("lines.{line}.{f}")),
        [field] => order_field(field).map(str::to_owned),
        _ => None,
    };
    mapped.unwrap_or_else(|| path.to_owned())
}

fn buyer_field(field: &str) -> Option<&'static str> {
    match field {
        "name" | "altname" => Some("name"),
        "nip" | "tax_id_type" => Some("tax_id"),
        "street" => Some("street"),
        "zip" => Some("postcode"),
        "city" => Some("city"),
        "country" => Some("country"),
        "email" => Some("email"),
        _ => None,
    }
}

fn line_field(field: &str) -> Option<&'static str> {
    match field {
        "name" => Some("name"),
        "count" | "unit_count" => Some("quantity"),
        "price" => Some("unit_gross_minor"),
        "vat" | "vat_code" => Some("vat"),
        _ => None,
    }
}

fn order_field(field: &str) -> Option<&'static str> {
    match field {
        "date" => Some("issue_date"),
        "disposaldate" => Some("paid_on"),
        "id_external" => Some("external_key"),
        "description" => Some("order_ref"),
        "paymentmethod" => Some("method"),
        "currency" | "alreadypaid_initial" => Some("total"),
        "contractor" => Some("buyer"),
        _ => None,
    }
}
