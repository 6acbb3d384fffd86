//! The printed invoice of the simulated wFirma.

use serde_json::Value;

use crate::pdf::{Line, page};
use crate::wfirma::envelope::{field, items};

/// The document as a PDF; without a KSeF number only the confirmation that the real one prints then.
pub(super) fn document(record: &Value) -> Vec<u8> {
    let text = |name: &str| field(record, name).unwrap_or_default();
    let waits = field(record, "ksef_reference_number").is_some_and(|number| number.is_empty());
    page(&if waits { confirmation(record) } else { invoice(record, &text) })
}

fn confirmation(record: &Value) -> Vec<Line> {
    let money = |name: &str| field(record, name).unwrap_or_default();
    let mut lines = vec![Line::new(18, "Potwierdzenie transakcji"), Line::new(10, "")];
    lines.extend(party("Sprzedawca", record.get("company_detail")));
    lines.extend(party("Nabywca", record.get("contractor_detail")));
    lines.push(Line::new(12, format!("Kwota: {} {}", money("total"), money("currency"))));
    lines.push(Line::new(10, "Faktura oczekuje na numer KSeF."));
    lines
}

fn invoice(record: &Value, text: &dyn Fn(&str) -> String) -> Vec<Line> {
    let mut lines = vec![
        Line::new(18, format!("Faktura {}", text("fullnumber"))),
        Line::new(10, format!("Data wystawienia: {}   Data sprzedaży: {}", text("date"), text("disposaldate"))),
        Line::new(10, ""),
    ];
    lines.extend(party("Sprzedawca", record.get("company_detail")));
    lines.extend(party("Nabywca", record.get("contractor_detail")));
    lines.extend(row(["Nazwa", "Ilość", "Cena brutto", "VAT", "Wartość brutto"].map(str::to_owned)));
    for item in record.get("invoicecontents").map(|l| items(l, "invoicecontent")).unwrap_or_default() {
        lines
            .extend(row(["name", "count", "price", "vat", "brutto"].map(|name| field(item, name).unwrap_or_default())));
    }
    let currency = text("currency");
    lines.push(Line::new(10, ""));
    lines.push(Line::new(10, format!("Netto: {} {currency}   VAT: {} {currency}", text("netto"), text("tax"))));
    lines.push(Line::new(14, format!("Razem: {} {currency}", text("total"))));
    lines.push(Line::new(10, format!("Zapłacono: {} {currency} ({})", text("alreadypaid"), text("paymentmethod"))));
    lines.push(Line::new(10, format!("Uwagi: {}", text("description"))));
    if let Some(number) = field(record, "ksef_reference_number") {
        lines.push(Line::new(10, format!("Numer KSeF: {number}")));
    }
    lines.push(Line::new(10, ""));
    lines.push(Line::new(8, "Dokument symulowany – nie jest fakturą."));
    lines
}

fn party(title: &str, detail: Option<&Value>) -> Vec<Line> {
    let text = |name: &str| detail.and_then(|d| field(d, name)).unwrap_or_default();
    let mut lines = vec![Line::new(12, title), Line::new(10, text("name"))];
    lines.push(Line::new(10, format!("{}, {} {}, {}", text("street"), text("zip"), text("city"), text("country"))));
    if !text("nip").is_empty() {
        lines.push(Line::new(10, format!("NIP: {}", text("nip"))));
    }
    lines.push(Line::new(10, ""));
    lines
}

fn row([name, count, price, vat, gross]: [String; 5]) -> [Line; 5] {
    let name: String = name.chars().take(48).collect();
    [
        Line::cell(56, name),
        Line::cell(310, count),
        Line::cell(360, price),
        Line::cell(430, vat),
        Line::last_cell(470, gross),
    ]
}
