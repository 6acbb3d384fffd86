//! wFirma from the other side: cards of buyers, invoices with sequential numbers, look-ups, printed documents.
//!
//! Keeps the real one's manners: it answers HTTP 200 for refusals, ignores members and conditions it does not know,
//! turns an unknown VAT rate into 23 %, and issues a second invoice for a second call with the same `id_external`.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use serde_json::{Map, Value, json};

use super::envelope::items;
use super::order::numbered;
use crate::facts::Settings;
use crate::sign::same;
use crate::twin::{InvoicerTwin, TwinAnswer, TwinRequest};

mod books;
mod panel;
mod print;

use books::Company;

/// The simulated API. All in memory.
#[derive(Default)]
pub(super) struct WfirmaTwin {
    /// By company number.
    companies: Mutex<BTreeMap<String, Company>>,
}

/// Faults on every call that answer a status code and do nothing.
const REFUSALS: &[(&str, &str)] = &[
    ("auth", "AUTH"),
    ("out_of_service", "OUT OF SERVICE"),
    ("snapshot_lock", "SNAPSHOT LOCK"),
    ("requests_limit", "TOTAL REQUESTS LIMIT EXCEEDED"),
];

const FAULTS: &[(&str, &str)] = &[
    ("cut_after_work", "invoices/add issues the invoice and cuts the connection"),
    ("hang", "invoices/add never answers and does nothing"),
    ("http_500", "invoices/add answers HTTP 500 and does nothing"),
    ("http_500_after_work", "invoices/add issues the invoice and answers HTTP 500"),
    ("html_answer", "invoices/add issues the invoice and answers HTTP 200 with a web page"),
    ("ok_without_record", "invoices/add issues the invoice and answers OK without naming it"),
    ("wrong_total", "invoices/add issues an invoice whose total is 0.01 too low"),
    ("key_lost", "invoices/add issues the invoice without its id_external"),
    ("wrong_rate", "invoices/add issues the invoice with 8 % VAT on every line"),
    ("wrong_buyer", "invoices/add issues the invoice to another buyer"),
    ("error_in_200", "invoices/add refuses the buyer's data inside HTTP 200"),
    ("ksef_authorisation", "invoices/add refuses because the user has no authorisation in KSeF"),
    ("find_lags", "invoices/find does not show invoices of the last hour"),
    ("find_fails", "invoices/find answers FATAL"),
    ("filter_ignored", "invoices/find ignores its conditions"),
    ("get_fails", "invoices/get answers FATAL"),
    ("vanished", "invoices/get answers NOT FOUND"),
    ("changed_later", "invoices/get shows another buyer than the one it was issued to"),
    ("ksef_pending", "invoices/get shows no KSeF number yet, and the printed document is a confirmation"),
    ("pdf_cut", "invoices/download sends half a document"),
    ("auth", "every call answers AUTH"),
    ("out_of_service", "every call answers OUT OF SERVICE"),
    ("snapshot_lock", "every call answers SNAPSHOT LOCK"),
    ("requests_limit", "every call answers TOTAL REQUESTS LIMIT EXCEEDED"),
];

impl InvoicerTwin for WfirmaTwin {
    fn faults(&self) -> &'static [(&'static str, &'static str)] {
        FAULTS
    }

    fn spends(&self, path: &str) -> Vec<&'static str> {
        let concerns = |words: &str| {
            let (of, _) = words.split_once(' ').unwrap_or_default();
            (of == "every" && !path.starts_with("/panel")) || path.trim_start_matches('/').starts_with(of)
        };
        FAULTS.iter().filter(|(_, words)| concerns(words)).map(|(name, _)| *name).collect()
    }

    fn panel(&self) -> Option<&'static str> {
        Some("/panel")
    }

    fn demo_settings(&self, root: &str) -> Map<String, Value> {
        let keys = ["access_key", "secret_key", "app_key"].map(|name| (name, "demo"));
        let pairs = keys.into_iter().chain([("company_id", "100001"), ("base_url", root)]);
        pairs.map(|(name, value)| (name.to_owned(), value.into())).collect()
    }

    fn enroll(&self, settings: &Settings) {
        let id = settings.text("company_id").to_owned();
        let mut companies = self.companies.lock().unwrap_or_else(PoisonError::into_inner);
        companies.entry(id).or_insert_with(|| Company::new(settings)).keys = books::keys(settings);
    }

    fn serve(&self, request: &TwinRequest) -> TwinAnswer {
        let mut companies = self.companies.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(page) = request.path.strip_prefix("/panel") {
            return panel::serve(&companies, page, request);
        }
        if let Some((_, code)) = REFUSALS.iter().find(|(fault, _)| request.faults.on(fault)) {
            return status(code);
        }
        match company(&mut companies, request) {
            Ok(company) => route(company, request),
            Err(code) => status(code),
        }
    }
}

/// The company that the keys and the query name.
fn company<'a>(
    companies: &'a mut BTreeMap<String, Company>,
    request: &TwinRequest,
) -> Result<&'a mut Company, &'static str> {
    let given = ["accesskey", "secretkey", "appkey"].map(|name| request.headers.first(name).unwrap_or_default());
    let fits = |c: &Company| c.keys.iter().zip(given).all(|(key, given)| same(key.as_bytes(), given.as_bytes()));
    if !companies.values().any(fits) {
        return Err("AUTH");
    }
    let mut query = form_urlencoded::parse(request.query.as_bytes());
    let id = query.find(|(name, _)| name == "company_id").map(|(_, id)| id.into_owned());
    let id = id.ok_or("COMPANY ID REQUIRED")?;
    companies.get_mut(&id).filter(|c| fits(c)).ok_or("ACCESS DENIED")
}

fn route(company: &mut Company, request: &TwinRequest) -> TwinAnswer {
    let parts: Vec<&str> = request.path.trim_matches('/').split('/').collect();
    let Some(body) = read_body(&request.body) else { return status("INPUT ERROR") };
    match parts.as_slice() {
        ["invoices", "add"] => add_invoice(company, &body, request),
        ["invoices", "find"] => find_invoices(company, &body, request),
        ["invoices", "get", id] => get_invoice(company, id, request),
        ["invoices", "download", id] => download(company, id, request),
        ["contractors", "add"] => match company.add_card(&record(&body, "contractors", "contractor"), request.now) {
            Ok(card) => listed("contractors", "contractor", [card]),
            Err(refused) => refusal("contractors", "contractor", refused),
        },
        ["contractors", "edit", id] => {
            match company.edit_card(id, &record(&body, "contractors", "contractor"), request.now) {
                Some(card) => listed("contractors", "contractor", [card]),
                None => status("NOT FOUND"),
            }
        }
        ["contractors", "get", id] => match company.card(id) {
            Some(card) => listed("contractors", "contractor", [card.clone()]),
            None => status("NOT FOUND"),
        },
        ["contractors", "find"] => found("contractors", "contractor", &body, company.cards().cloned().collect()),
        ["companies", "get", ..] => listed("companies", "company", [company.shown()]),
        ["series", "find"] => found("series", "series", &body, vec![json!({"id": company.series, "name": "Faktury"})]),
        ["vat_codes", "find"] => found("vat_codes", "vat_code", &body, books::vat_codes()),
        ["invoices" | "contractors" | "companies" | "series" | "vat_codes", ..] => status("ACTION NOT FOUND"),
        // In XML, whatever was asked for.
        _ => TwinAnswer::page(200, "application/xml", "<api><status><code>CONTROLLER NOT FOUND</code></status></api>"),
    }
}

fn add_invoice(company: &mut Company, body: &Value, request: &TwinRequest) -> TwinAnswer {
    let on = |fault: &str| request.faults.on(fault);
    if on("hang") {
        return TwinAnswer::Hang;
    }
    if on("http_500") {
        return broken();
    }
    let mut wanted = record(body, "invoices", "invoice");
    if on("ksef_authorisation") {
        let words = "Brak autoryzacji w KSeF 2.0. Zautoryzuj się w zakładce PRZYCHODY » KSEF I INTEGRACJE";
        return answer(json!({"invoices": {"0": {"invoice": wanted}}, "status": {"code": "ERROR", "message": words}}));
    }
    if on("error_in_200") {
        books::hang_error(&mut wanted, "contractor", "zip", "Pole nie może być puste");
        return refusal("invoices", "invoice", wanted);
    }
    if on("wrong_rate") {
        books::charge(&mut wanted, "8");
    }
    if on("wrong_buyer") {
        let other = json!({"name": "Ktoś Inny", "nip": "5252525252", "zip": "00-002", "city": "Warszawa"});
        if let (Ok(card), Some(members)) = (company.add_card(&other, request.now), wanted.as_object_mut()) {
            members.insert("contractor".into(), json!({"id": card.get("id")}));
        }
    }
    let issued = match company.issue(wanted, request.now, on("wrong_total"), on("key_lost")) {
        Ok(invoice) => invoice,
        Err(refused) => return refusal("invoices", "invoice", refused),
    };
    match () {
        () if on("cut_after_work") => TwinAnswer::Cut,
        () if on("http_500_after_work") => broken(),
        () if on("html_answer") => TwinAnswer::page(200, "text/html", "<html><body>Przerwa techniczna</body></html>"),
        () if on("ok_without_record") => status("OK"),
        () => listed("invoices", "invoice", [issued]),
    }
}

fn get_invoice(company: &Company, id: &str, request: &TwinRequest) -> TwinAnswer {
    let on = |fault: &str| request.faults.on(fault);
    if on("get_fails") {
        return status("FATAL");
    }
    let Some(invoice) = company.invoice(id).filter(|_| !on("vanished")) else { return status("NOT FOUND") };
    let mut shown = invoice.shown(on("ksef_pending"));
    if let Some(name) = shown.pointer_mut("/contractor_detail/name").filter(|_| on("changed_later")) {
        *name = "Ktoś Inny".into();
    }
    listed("invoices", "invoice", [shown])
}

fn find_invoices(company: &Company, body: &Value, request: &TwinRequest) -> TwinAnswer {
    if request.faults.on("find_fails") {
        return status("FATAL");
    }
    let fresh = |at: jiff::Timestamp| request.now.as_second() - at.as_second() < 3600;
    let lags = request.faults.on("find_lags");
    let rows = company.invoices().filter(|i| !(lags && fresh(i.created))).map(|i| i.shown(false)).collect();
    let mut body = body.clone();
    let parameters = body.pointer_mut("/invoices/parameters").and_then(Value::as_object_mut);
    if let Some(parameters) = parameters.filter(|_| request.faults.on("filter_ignored")) {
        parameters.remove("conditions");
    }
    found("invoices", "invoice", &body, rows)
}

fn download(company: &Company, id: &str, request: &TwinRequest) -> TwinAnswer {
    let Some(invoice) = company.invoice(id) else { return status("NOT FOUND") };
    let mut pdf = print::document(&invoice.shown(request.faults.on("ksef_pending")));
    if request.faults.on("pdf_cut") {
        pdf.truncate(pdf.len() / 2);
    }
    TwinAnswer::page(200, "application/pdf", pdf)
}

/// A body in any of the shapes that wFirma takes; empty bodies are fine for calls that need none.
fn read_body(body: &[u8]) -> Option<Value> {
    if body.trim_ascii().is_empty() {
        return Some(json!({}));
    }
    let value: Value = serde_json::from_slice(body).ok()?;
    let root = value.get("api").cloned().unwrap_or(value);
    root.is_object().then_some(root)
}

fn record(body: &Value, branch: &str, name: &str) -> Value {
    let list = body.get(branch).map(|list| items(list, name)).unwrap_or_default();
    list.first().map_or_else(|| json!({}), |record| (*record).clone())
}

/// The answer to a look-up: the rows that fit the conditions, one page of them, with the members asked for.
fn found(branch: &str, name: &str, body: &Value, rows: Vec<Value>) -> TwinAnswer {
    let parameters = body.get(branch).and_then(|b| b.get("parameters")).cloned().unwrap_or_default();
    let number = |name: &str, default: usize| {
        parameters.get(name).map(super::envelope::text_of).and_then(|t| t.parse().ok()).unwrap_or(default)
    };
    let (limit, page) = (number("limit", 20).clamp(1, 100), number("page", 1).max(1));
    let fitting: Vec<Value> = rows.into_iter().filter(|row| books::fits(row, &parameters)).collect();
    let total = fitting.len();
    let shown = fitting.into_iter().skip(limit.saturating_mul(page - 1)).take(limit);
    let mut list = numbered(shown.map(|row| json!({name: books::with_fields(row, &parameters)})));
    let counts = json!({"limit": limit.to_string(), "page": page.to_string(), "total": total.to_string()});
    list.as_object_mut().map(|members| members.insert("parameters".into(), counts));
    answer(json!({branch: list, "status": {"code": "OK"}}))
}

fn listed(branch: &str, name: &str, records: impl IntoIterator<Item = Value>) -> TwinAnswer {
    let list = numbered(records.into_iter().map(|record| json!({name: record})));
    answer(json!({branch: list, "status": {"code": "OK"}}))
}

fn refusal(branch: &str, name: &str, record: Value) -> TwinAnswer {
    let status = json!({"code": "ERROR", "message": "Wystąpiły błędy walidacji."});
    answer(json!({branch: {"0": {name: record}}, "status": status}))
}

fn status(code: &str) -> TwinAnswer {
    answer(json!({"status": {"code": code}}))
}

fn answer(value: Value) -> TwinAnswer {
    TwinAnswer::page(200, "application/json", value.to_string())
}

fn broken() -> TwinAnswer {
    TwinAnswer::page(500, "text/html", "<html><body>Internal Server Error</body></html>")
}
