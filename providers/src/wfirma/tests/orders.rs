//! What is refused before any call, and what an order becomes on the wire.

use super::*;

#[track_caller]
fn check_refused(path: &str, change: impl Fn(&mut InvoiceOrder)) {
    let mut order = order();
    change(&mut order);
    let failure = WFIRMA.check_order(&settings(json!({})), &order).unwrap_err();
    assert_eq!(failure.class, FailureClass::Data);
    assert!(failure.fields.iter().any(|(p, _)| p == path), "{path} is not in {:?}", failure.fields);
}

// R-5W-13, F51
#[test]
fn what_would_be_refused_is_refused_before_any_call() {
    WFIRMA.check_order(&settings(json!({})), &order()).unwrap();
    check_refused("external_key", |o| o.external_key = "zażółć-01".into());
    check_refused("external_key", |o| o.external_key = "short".into());
    check_refused("order_ref", |o| o.order_ref = "a\u{7}".into());
    check_refused("issue_date", |o| o.issue_date = "2026-11-20".parse().unwrap());
    check_refused("total", |o| o.total = Money::new(9998, Currency::PLN));
    check_refused("total", |o| o.lines.iter_mut().for_each(|l| l.unit_gross_minor = i64::MAX));
    check_refused("total", |o| o.total = Money::new(9999, "KWD".parse().unwrap()));
    check_refused("buyer.name", |o| o.buyer.name = " ".into());
    check_refused("buyer.name", |o| o.buyer.name = "ą".repeat(256));
    check_refused("buyer.city", |o| o.buyer.city = "\u{fdd0}".into());
    check_refused("buyer.postcode", |o| o.buyer.postcode = "00950".into());
    check_refused("buyer.email", |o| o.buyer.email = "nobody".into());
    check_refused("buyer.tax_id", |o| o.buyer.tax_id = "1234563219".into());
    check_refused("buyer.tax_id", |o| o.buyer.tax_id = "123-456-32-18".into());
    check_refused("buyer.tax_id_kind", |o| o.buyer.tax_id_kind = TaxIdKind::Other);
    check_refused("lines", |o| o.lines.clear());
    check_refused("lines.1.name", |o| o.lines[1].name = "x".repeat(257));
    check_refused("lines.0.quantity", |o| o.lines[0].quantity = 0);
    check_refused("lines.0.unit_gross_minor", |o| o.lines[0].unit_gross_minor = 0);
    check_refused("lines.0.vat", |o| o.lines[0].vat = Vat::Rate(2100));
    check_refused("lines.0.vat", |o| o.lines[0].vat = Vat::ReverseChargeEu);
    check_refused("lines.0.vat", |o| o.lines[0].vat = Vat::SellerNotVatPayer);
}

// KSeF knows a company of another member state by its VAT number alone: an IČO would be refused there.
#[test]
fn a_czech_company_is_invoiced_by_its_vat_number() {
    let czech = |tax_id_kind, tax_id: &str| {
        let mut order = order();
        order.buyer = Buyer {
            tax_id_kind,
            tax_id: tax_id.into(),
            country: "CZ".into(),
            postcode: "110 00".into(),
            ..order.buyer
        };
        WFIRMA.check_order(&settings(json!({})), &order)
    };
    czech(TaxIdKind::EuVat, "CZ25123891").unwrap();
    let failure = czech(TaxIdKind::CzIco, "25123891").unwrap_err();
    let (path, words) = &failure.fields[0];
    assert_eq!((path.as_str(), failure.fields.len()), ("buyer.tax_id", 1));
    assert!(words.contains("DIČ"), "{words}");
}

#[tokio::test]
async fn an_order_that_fails_the_check_makes_no_call() {
    let (settings, http) = (settings(json!({})), Script::new([]));
    let mut order = order();
    order.buyer.tax_id = "1234563219".into();
    let failure = WFIRMA.create(&cx(&settings, &http), "48120077", &order).await.unwrap_err();
    assert_eq!(failure.message, "buyer.tax_id is refused: the NIP fails its check digit: at least one digit is wrong");
}

#[test]
fn a_seller_without_vat_issues_bills() {
    let settings = settings(json!({"vat_payer": false, "lumpcode": "8.5"}));
    let mut order = order();
    order.lines.iter_mut().for_each(|l| l.vat = Vat::SellerNotVatPayer);
    WFIRMA.check_order(&settings, &order).unwrap();
    let body = order::body(&settings, "48120077", &order);
    let invoice = &body["invoices"]["0"]["invoice"];
    assert_eq!(invoice["type"], "bill");
    let line = &invoice["invoicecontents"]["0"]["invoicecontent"];
    assert_eq!((line.get("vat"), &line["lumpcode"]), (None, &json!("8.5")));
}

#[test]
fn a_foreign_currency_says_in_what_it_was_paid() {
    let mut order = InvoiceOrder { total: Money::new(9999, Currency::EUR), language: "en".into(), ..order() };
    order.paid_on = "2026-11-19".parse().unwrap();
    let body = order::body(&settings(json!({"translation_language_id": 1})), "48120077", &order);
    let invoice = &body["invoices"]["0"]["invoice"];
    assert_eq!(invoice["payment"], json!({"date": "2026-11-19", "account": "currency"}));
    assert_eq!((&invoice["date"], &invoice["disposaldate"]), (&json!("2026-11-21"), &json!("2026-11-19")));
    assert_eq!(invoice["translation_language"], json!({"id": "1"}));
}
