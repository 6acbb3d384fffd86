//! What wFirma has, held against what was asked.
//!
//! A difference does not undo a document: it is numbered and perhaps in KSeF already. So differences are reported, not
//! failed upon.

use jiff::civil::Date;
use serde_json::Value;

use super::envelope::{amount, field, id_of, items};
use super::order::{document_type, vat_code};
use crate::facts::Settings;
use crate::invoicer::{Document, InvoiceOrder, Ksef, TaxIdKind};

/// True when the answer lacks what must be compared: it was not the whole record.
pub(super) fn is_thin(record: &Value) -> bool {
    field(record, "total").is_none() || field(record, "id_external").is_none()
}

/// The document that a create has just made.
pub(super) fn issued(settings: &Settings, record: &Value, id: &str, buyer: &str, order: &InvoiceOrder) -> Document {
    let mut document = existing(settings, record, id, order);
    let mut note = |differs: bool, words: &str| {
        if differs {
            document.differences.push(words.to_owned());
        }
    };
    note(field(record, "total").is_none(), "wFirma does not name the total");
    note(field(record, "id_external").is_none(), "wFirma did not keep our key");
    note(document.issue_date.is_some_and(|date| date != order.issue_date), "the issue date is another one");
    let card = record.get("contractor").and_then(id_of);
    note(card.is_some_and(|card| card != buyer), "it was issued to another buyer's card");
    document
}

/// A document read or found later. Members that the answer lacks are not compared.
pub(super) fn existing(settings: &Settings, record: &Value, id: &str, order: &InvoiceOrder) -> Document {
    let mut differences = vec![];
    let mut expect = |name: &str, wanted: &str, words: &str| {
        if let Some(told) = field(record, name).filter(|told| told != wanted) {
            let told: String = told.chars().take(60).collect();
            differences.push(format!("{words} is {told:?} instead of {wanted:?}"));
        }
    };
    expect("type", document_type(settings), "the document's type");
    expect("currency", order.total.currency().code(), "the currency");
    expect("id_external", &order.external_key, "the external id");
    expect("paymentstate", "paid", "the payment state");
    let told_total = field(record, "total");
    let total = told_total.as_deref().and_then(|text| amount(text, order.total.currency()));
    if told_total.is_some() && total != Some(order.total) {
        let told: String = told_total.unwrap_or_default().chars().take(24).collect();
        differences.push(format!("the total is {told} instead of {}", order.total.to_decimal()));
    }
    let issue_date = field(record, "date").and_then(|text| text.parse::<Date>().ok());
    if issue_date.is_some_and(|date| date > order.issue_date || date < order.paid_on) {
        differences.push("the issue date lies outside the days from the payment to the sending".to_owned());
    }
    lines(record, order, &mut differences);
    buyer(record, order, &mut differences);
    Document {
        id: id.to_owned(),
        number: field(record, "fullnumber").unwrap_or_default().chars().take(100).collect(),
        issue_date,
        total: total.unwrap_or(order.total),
        differences,
        ksef: ksef(settings, record),
    }
}

/// The rates of the lines: an unknown rate silently becomes 23 % there.
fn lines(record: &Value, order: &InvoiceOrder, differences: &mut Vec<String>) {
    let Some(list) = record.get("invoicecontents") else { return };
    let told = items(list, "invoicecontent");
    if told.len() != order.lines.len() {
        differences.push(format!("it has {} lines instead of {}", told.len(), order.lines.len()));
        return;
    }
    for (at, (told, line)) in told.into_iter().zip(&order.lines).enumerate() {
        let vat = field(told, "vat").map(|v| v.trim().trim_end_matches('%').to_uppercase());
        if let (Some(vat), Some(wanted)) = (vat, vat_code(line.vat)) {
            let plain = vat.strip_suffix(".00").unwrap_or(&vat);
            if plain != wanted {
                let plain: String = plain.chars().take(12).collect();
                differences.push(format!("VAT of line {} is {plain:?} instead of {wanted:?}", at + 1));
            }
        }
    }
}

/// The buyer as printed: frozen on the document when it was issued.
fn buyer(record: &Value, order: &InvoiceOrder, differences: &mut Vec<String>) {
    let Some(detail) = record.get("contractor_detail").filter(|d| d.is_object()) else { return };
    if field(detail, "name").is_some_and(|name| !same_words(&name, &order.buyer.name)) {
        differences.push("the buyer's name is another one".to_owned());
    }
    let printed = order.buyer.is_company && order.buyer.tax_id_kind != TaxIdKind::None;
    if printed && field(detail, "nip").is_some_and(|nip| !same_number(&nip, &order.buyer.tax_id)) {
        differences.push("the buyer's tax number is another one".to_owned());
    }
    // What the card said in that moment, which another invoice may have changed.
    let told = |name: &str| field(detail, name);
    let moved = told("street").is_some_and(|street| !same_words(&street, &order.buyer.street))
        || told("zip").is_some_and(|zip| !same_number(&zip, &order.buyer.postcode))
        || told("city").is_some_and(|city| !same_words(&city, &order.buyer.city))
        || told("country").is_some_and(|country| !country.is_empty() && country != order.buyer.country);
    if moved {
        differences.push("the buyer's address is another one".to_owned());
    }
}

/// Equal but for blanks and the size of letters.
pub(super) fn same_words(a: &str, b: &str) -> bool {
    let words = |text: &str| text.split_whitespace().map(str::to_lowercase).collect::<Vec<_>>();
    words(a) == words(b)
}

/// Equal but for blanks and hyphens, with which numbers were typed into the panel by hand.
pub(super) fn same_number(a: &str, b: &str) -> bool {
    let compact = |text: &str| -> String { text.chars().filter(|c| !c.is_whitespace() && *c != '-').collect() };
    compact(a).eq_ignore_ascii_case(&compact(b))
}

/// KSeF by the record's members, whose names have varied: none at all means an account without KSeF, a number means
/// accepted, anything else is still on its way. Only words that say so mean a rejection; the set is not documented.
pub(super) fn ksef(settings: &Settings, record: &Value) -> Ksef {
    let Some(members) = record.as_object().filter(|_| settings.text("ksef") != "off") else {
        return Ksef::NotApplicable;
    };
    let told = |part: &str| {
        let named = members.keys().find(|k| k.contains("ksef") && k.contains(part))?;
        field(record, named).map(|text| text.trim().to_owned()).filter(|text| !text.is_empty() && text != "0")
    };
    if let Some(number) = told("reference").or_else(|| told("number")) {
        return Ksef::Accepted { number: number.chars().take(64).collect() };
    }
    let status = told("status").unwrap_or_default().to_lowercase();
    let rejected = ["reject", "odrzuc", "error", "błąd", "blad"].iter().any(|word| status.contains(word));
    match members.keys().any(|k| k.contains("ksef")) {
        _ if rejected => Ksef::Rejected,
        true => Ksef::Pending,
        false => Ksef::NotApplicable,
    }
}
