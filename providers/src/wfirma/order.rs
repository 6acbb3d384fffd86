//! The neutral order: what must hold before any call, and how wFirma writes it.

use serde_json::{Map, Value, json};

use crate::facts::Settings;
use crate::invoicer::{Buyer, FailureClass, InvoiceFailure, InvoiceLine, InvoiceOrder, PaymentMethod, TaxIdKind, Vat};
use crate::money::Money;
use crate::tax_id::{TaxId, check_postcode, is_member_state};

/// Most lines of one document. wFirma names no limit; one integrator splits above 200.
const MAX_LINES: usize = 50;

/// Checks what wFirma or KSeF would refuse, and what would issue another document than the one meant.
///
/// # Errors
/// [`FailureClass::Data`] with every field at fault.
pub(super) fn check(settings: &Settings, order: &InvoiceOrder) -> Result<(), InvoiceFailure> {
    let mut faults = Faults(vec![]);
    check_head(order, &mut faults);
    check_buyer(&order.buyer, &mut faults);
    check_lines(settings, order.total, &order.lines, Some(&order.buyer), &mut faults);
    faults.end()
}

/// Checks what of an order is known before it is paid.
///
/// # Errors
/// As [`check`].
pub(super) fn check_sale(
    settings: &Settings,
    total: Money,
    lines: &[InvoiceLine],
    buyer: Option<&Buyer>,
) -> Result<(), InvoiceFailure> {
    let mut faults = Faults(vec![]);
    if let Some(buyer) = buyer {
        check_buyer(buyer, &mut faults);
    }
    check_lines(settings, total, lines, buyer, &mut faults);
    faults.end()
}

/// Paths with what is wrong, as the end of a sentence.
struct Faults(Vec<(String, String)>);

impl Faults {
    fn end(self) -> Result<(), InvoiceFailure> {
        if self.0.is_empty() {
            return Ok(());
        }
        let words = self.0.iter().map(|(path, why)| format!("{path} {why}")).collect::<Vec<_>>().join("; ");
        Err(InvoiceFailure { fields: self.0, ..InvoiceFailure::new(FailureClass::Data, "CHECK", &words) })
    }

    fn unless(&mut self, fine: bool, path: &str, why: &str) {
        if !fine {
            self.0.push((path.to_owned(), why.to_owned()));
        }
    }

    fn text(&mut self, text: &str, most: usize, path: &str) {
        let length = text.trim().chars().count();
        self.unless((1..=most).contains(&length), path, &format!("must have 1 to {most} characters"));
        self.unless(!text.chars().any(is_forbidden), path, "holds a control character or one that KSeF refuses");
    }
}

/// Control characters and those that KSeF's check of XML refuses.
fn is_forbidden(c: char) -> bool {
    let code = u32::from(c);
    c.is_control() || (0xFDD0..=0xFDEF).contains(&code) || code & 0xFFFE == 0xFFFE
}

fn check_head(order: &InvoiceOrder, faults: &mut Faults) {
    let key = &order.external_key;
    let plain = key.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
    faults.unless(plain && (8..=36).contains(&key.len()), "external_key", "must be 8 to 36 of A-Z, a-z, 0-9 and -");
    faults.text(&order.order_ref, 256, "order_ref");
    faults.unless(order.issue_date >= order.paid_on, "issue_date", "must not be before the day of payment");
    faults.unless(order.total.payable().is_ok(), "total", "must be above zero and at most 10^12 minor units");
    let exponent = order.total.currency().exponent();
    faults.unless(exponent <= 2, "total", "is in a currency of three decimals; wFirma writes two");
}

fn check_buyer(buyer: &Buyer, faults: &mut Faults) {
    faults.text(&buyer.name, 255, "buyer.name");
    faults.text(&buyer.street, 255, "buyer.street");
    faults.text(&buyer.city, 100, "buyer.city");
    if let Err(why) = check_postcode(&buyer.country, &buyer.postcode) {
        faults.unless(false, "buyer.postcode", &format!("is refused: {why}"));
    }
    let mail = buyer.email.len() <= 255 && buyer.email.contains('@') && !buyer.email.contains(char::is_whitespace);
    faults.unless(mail, "buyer.email", "must be an e-mail address of at most 255 characters");
    match TaxId::parse(&buyer.country, buyer.is_company, &buyer.tax_id) {
        Err(why) => faults.unless(false, "buyer.tax_id", &format!("is refused: {why}")),
        Ok((kind, number)) => {
            faults.unless(
                kind == buyer.tax_id_kind,
                "buyer.tax_id_kind",
                "does not fit the buyer's country and number",
            );
            faults.unless(number == buyer.tax_id, "buyer.tax_id", "is not in its normal form");
            faults.unless(
                kind != TaxIdKind::CzIco,
                "buyer.tax_id",
                "is an IČO, by which KSeF does not know a company: give its VAT number (DIČ), which begins with CZ",
            );
        }
    }
}

/// Without a buyer, what is refused whoever buys.
fn check_lines(settings: &Settings, total: Money, lines: &[InvoiceLine], buyer: Option<&Buyer>, faults: &mut Faults) {
    faults.unless((1..=MAX_LINES).contains(&lines.len()), "lines", "must be 1 to 50");
    for (at, line) in lines.iter().enumerate().take(MAX_LINES) {
        let path = |field: &str| format!("lines.{at}.{field}");
        faults.text(&line.name, 256, &path("name"));
        faults.unless((1..=1_000_000).contains(&line.quantity), &path("quantity"), "must be 1 to 1000000");
        faults.unless(line.unit_gross_minor > 0, &path("unit_gross_minor"), "must be above zero");
        let seller_pays = line.vat != Vat::SellerNotVatPayer;
        let agrees = seller_pays == settings.flag("vat_payer");
        faults.unless(agrees, &path("vat"), "contradicts the account's setting vat_payer");
        let known = !seller_pays || vat_code(line.vat).is_some();
        faults.unless(known, &path("vat"), "must be 23, 8, 5 or 0 %, exempt, or outside the scope");
        let abroad = buyer.is_none_or(|b| b.tax_id_kind == TaxIdKind::EuVat && is_member_state(&b.country));
        let reverse = line.vat != Vat::ReverseChargeEu || abroad;
        faults.unless(reverse, &path("vat"), "needs a company with a VAT number of another member state");
    }
    let sum = lines.iter().try_fold(0_i64, |sum, line| {
        line.quantity.checked_mul(line.unit_gross_minor).and_then(|gross| sum.checked_add(gross))
    });
    faults.unless(sum == Some(total.minor()), "total", "must be the sum of the lines");
}

/// The rate as wFirma names it.
pub(super) fn vat_code(vat: Vat) -> Option<&'static str> {
    match vat {
        Vat::Rate(2300) => Some("23"),
        Vat::Rate(800) => Some("8"),
        Vat::Rate(500) => Some("5"),
        Vat::Rate(0) => Some("0"),
        Vat::Exempt => Some("ZW"),
        Vat::OutsideScope => Some("NP"),
        Vat::ReverseChargeEu => Some("NPUE"),
        Vat::Rate(_) | Vat::SellerNotVatPayer => None,
    }
}

/// The document's type: only a VAT payer issues invoices with VAT.
pub(super) fn document_type(settings: &Settings) -> &'static str {
    if settings.flag("vat_payer") { "normal" } else { "bill" }
}

/// The body of `invoices/add`.
pub(super) fn body(settings: &Settings, buyer: &str, order: &InvoiceOrder) -> Value {
    let date = order.issue_date.to_string();
    let mut invoice = json!({
        "type": document_type(settings),
        "contractor": {"id": buyer},
        "price_type": "brutto",
        "date": date,
        "disposaldate": order.paid_on.to_string(),
        "paymentdate": date,
        "paymentmethod": method(settings, order.method),
        // Marks it paid in the same call; a payment of its own could not be repeated safely.
        "alreadypaid_initial": order.total.to_decimal(),
        "currency": order.total.currency().code(),
        "id_external": order.external_key,
        "description": order.order_ref,
        // The hub has its own mail, and wFirma's would carry a document that KSeF has not numbered yet.
        "auto_send": "0",
    });
    let mut set = |name: &str, value: Value| {
        invoice.as_object_mut().map(|members| members.insert(name.to_owned(), value));
    };
    if let Some(series) = settings.get("series_id") {
        set("series", json!({"id": series}));
    }
    if let Some(language) = settings.get("translation_language_id").filter(|_| order.language != "pl") {
        set("translation_language", json!({"id": language}));
    }
    if order.total.currency().code() != "PLN" {
        set("payment", json!({"date": order.paid_on.to_string(), "account": "currency"}));
    }
    let lines = order.lines.iter().map(|l| json!({"invoicecontent": line(settings, order, l)}));
    set("invoicecontents", numbered(lines));
    json!({"invoices": {"0": {"invoice": invoice}}})
}

fn line(settings: &Settings, order: &InvoiceOrder, line: &InvoiceLine) -> Value {
    let mut content = json!({
        "name": line.name,
        "unit": settings.text("unit"),
        "count": format!("{}.0000", line.quantity),
        "price": Money::new(line.unit_gross_minor, order.total.currency()).to_decimal(),
    });
    let optional = [("vat", vat_code(line.vat)), ("lumpcode", settings.get("lumpcode"))];
    for (name, value) in optional.into_iter().filter_map(|(n, v)| Some((n, v?))) {
        content.as_object_mut().map(|members| members.insert(name.to_owned(), value.into()));
    }
    content
}

fn method(settings: &Settings, method: PaymentMethod) -> &str {
    match method {
        PaymentMethod::Card => settings.text("payment_method_card"),
        PaymentMethod::Transfer => settings.text("payment_method_transfer"),
        PaymentMethod::Balance => settings.text("payment_method_balance"),
        PaymentMethod::Cash => "cash",
    }
}

/// A list as wFirma writes it: an object with the keys 0, 1, 2 …
pub(super) fn numbered(items: impl IntoIterator<Item = Value>) -> Value {
    Value::Object(items.into_iter().enumerate().map(|(at, item)| (at.to_string(), item)).collect::<Map<_, _>>())
}
