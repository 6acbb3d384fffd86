//! A page for people: what the simulated wFirma has issued.

use std::collections::BTreeMap;
use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use super::books::Company;
use super::print;
use crate::sign;
use crate::twin::{TwinAnswer, TwinRequest};
use crate::wfirma::envelope::field;

const STYLE: &str = "\
body{font:16px/1.5 system-ui,sans-serif;margin:0;background:#f4f6f8;color:#1d2733}\
main{max-width:68rem;margin:2rem auto;padding:0 1rem}h1{font-size:1.5rem;margin:0}p{color:#5b6875;margin:.25rem 0 1.5rem}\
.box{background:#fff;border-radius:12px;box-shadow:0 1px 3px #0002;overflow-x:auto}\
table{border-collapse:collapse;width:100%}th,td{padding:.7rem 1rem;text-align:left;border-bottom:1px solid #e6eaee}\
th{font-size:.8rem;color:#5b6875;font-weight:600}tr:last-child td{border:0}td:nth-child(-n+2){white-space:nowrap}.n{text-align:right;white-space:nowrap;\
font-variant-numeric:tabular-nums}a{color:#0b62c4}code{font-size:.85em;color:#5b6875}.empty{padding:3rem;text-align:center}";

/// The list at the panel's root, a document at `/{id}.pdf`.
pub(super) fn serve(companies: &BTreeMap<String, Company>, path: &str, request: &TwinRequest) -> TwinAnswer {
    match path.trim_matches('/').strip_suffix(".pdf") {
        Some(id) => match companies.values().find_map(|c| c.invoice(id)) {
            Some(invoice) => TwinAnswer::page(200, "application/pdf", print::document(&invoice.shown(false))),
            None => TwinAnswer::page(404, "text/plain; charset=utf-8", "Nie znaleziono faktury."),
        },
        None => list(companies, &request.root),
    }
}

fn list(companies: &BTreeMap<String, Company>, root: &str) -> TwinAnswer {
    let mut rows = String::new();
    let mut invoices: Vec<Value> = companies.values().flat_map(Company::invoices).map(|i| i.shown(false)).collect();
    invoices.reverse();
    for invoice in &invoices {
        rows.push_str(&row(invoice, root));
    }
    let table = match invoices.is_empty() {
        true => "<div class=\"empty\">Nie wystawiono jeszcze żadnej faktury.</div>".to_owned(),
        false => format!(
            "<table><thead><tr><th>Numer<th>Data<th>Nabywca<th>Klucz<th>KSeF<th class=\"n\">Kwota</tr></thead>\
             <tbody>{rows}</tbody></table>"
        ),
    };
    let html = format!(
        "<!doctype html><html lang=\"pl\"><meta charset=\"utf-8\"><meta name=\"viewport\" \
         content=\"width=device-width\"><title>Symulator wFirma</title><style>{STYLE}</style><main>\
         <h1>Symulator wFirma</h1><p>Wystawione faktury: {}. To nie jest prawdziwa księgowość.</p>\
         <div class=\"box\">{table}</div></main></html>",
        invoices.len()
    );
    let hash = STANDARD.encode(sign::sha256(&[STYLE.as_bytes()]));
    let policy = format!("default-src 'none'; style-src 'sha256-{hash}'; frame-ancestors 'none'");
    TwinAnswer::Page {
        status: 200,
        content_type: "text/html; charset=utf-8".into(),
        headers: vec![("content-security-policy".into(), policy)],
        body: html.into_bytes(),
    }
}

fn row(invoice: &Value, root: &str) -> String {
    let text = |name: &str| escaped(&field(invoice, name).unwrap_or_default());
    let buyer = invoice.get("contractor_detail").and_then(|d| field(d, "name")).unwrap_or_default();
    format!(
        "<tr><td><a href=\"{}/panel/{}.pdf\">{}</a><td>{}<td>{}<td><code>{}</code><td><code>{}</code>\
         <td class=\"n\">{} {}</tr>",
        escaped(root),
        text("id"),
        text("fullnumber"),
        text("date"),
        escaped(&buyer),
        text("id_external"),
        text("ksef_reference_number"),
        text("total"),
        text("currency"),
    )
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' | '<' | '>' | '"' | '\'' => drop(write!(out, "&#{};", u32::from(c))),
            _ => out.push(c),
        }
    }
    out
}
