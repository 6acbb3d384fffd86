//! wFirma against its vectors: what is sent, and what each answer means.

mod documents;
mod issuing;
mod look_ups;
mod of_twin;
mod orders;
mod statuses;

use std::collections::VecDeque;
use std::sync::Mutex;

use async_trait::async_trait;
use serde_json::{Value, json};

use super::*;
use crate::invoicer::{Buyer, InvoiceLine, PaymentMethod, TaxIdKind, Vat};
use crate::twin::{Faults, TwinAnswer, TwinRequest};
use crate::wire::{Headers, Http, HttpError, HttpResponse};
use crate::{Currency, Money};

fn vectors() -> Value {
    serde_json::from_str::<Value>(include_str!("../../fixtures/vectors/invoicing.json")).unwrap()["wfirma"].take()
}

fn settings(more: Value) -> Settings {
    let mut given = json!({"access_key": "canary-access", "secret_key": "canary-secret", "app_key": "canary-app",
        "company_id": 885001, "series_id": "3310"});
    given.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    Settings::check(SETTINGS, given.as_object().unwrap()).unwrap()
}

/// The order behind `invoice_add_ok`.
fn order() -> InvoiceOrder {
    let line = |name: &str, quantity, unit_gross_minor| InvoiceLine {
        name: name.into(),
        quantity,
        unit_gross_minor,
        vat: Vat::Rate(2300),
    };
    InvoiceOrder {
        external_key: "phub-inv-01JD9K7M3Q-v1".into(),
        order_ref: "Zamówienie ORD-2026-000417; płatność pay_7H2".into(),
        issue_date: "2026-11-21".parse().unwrap(),
        paid_on: "2026-11-21".parse().unwrap(),
        total: Money::new(9999, Currency::PLN),
        method: PaymentMethod::Card,
        language: "pl".into(),
        buyer: Buyer {
            is_company: true,
            name: "Przykładowa Spółka Testowa sp. z o.o.".into(),
            tax_id_kind: TaxIdKind::PlNip,
            tax_id: "1234563218".into(),
            street: "Zmyślona 7/3".into(),
            postcode: "00-950".into(),
            city: "Warszawa".into(),
            country: "PL".into(),
            email: "faktury@example.test".into(),
        },
        lines: vec![line("Pakiet startowy 30 dni", 1, 7999), line("Dopłata za miejsce", 2, 1000)],
        first_sent_on: None,
    }
}

/// Answers in turn, and what was asked.
struct Script {
    answers: Mutex<VecDeque<Result<HttpResponse, HttpError>>>,
    asked: Mutex<Vec<HttpRequest>>,
}

impl Script {
    fn new(answers: impl IntoIterator<Item = Result<HttpResponse, HttpError>>) -> Self {
        Script { answers: Mutex::new(answers.into_iter().collect()), asked: Mutex::default() }
    }

    fn json(answers: impl IntoIterator<Item = Value>) -> Self {
        Script::new(answers.into_iter().map(|v| Ok(http(200, v.to_string()))))
    }

    fn asked(&self, at: usize) -> HttpRequest {
        self.asked.lock().unwrap()[at].clone()
    }

    fn paths(&self) -> Vec<String> {
        let path = |r: &HttpRequest| url::Url::parse(&r.url).unwrap().path().to_owned();
        self.asked.lock().unwrap().iter().map(path).collect()
    }
}

#[async_trait]
impl Http for Script {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        self.asked.lock().unwrap().push(request);
        self.answers.lock().unwrap().pop_front().expect("no more calls are expected")
    }
}

fn http(status: u16, body: impl Into<Vec<u8>>) -> HttpResponse {
    HttpResponse { status, headers: Headers::default(), body: body.into() }
}

fn cx<'a>(settings: &'a Settings, http: &'a Script) -> Cx<'a> {
    Cx { settings, http, now: "2026-11-21T20:00:00Z".parse().unwrap(), live: false }
}

fn class(name: &str) -> FailureClass {
    match name {
        "absent" => FailureClass::Absent,
        "retryable" => FailureClass::Retryable,
        "permanent_data" => FailureClass::Data,
        "permanent_config" => FailureClass::Config,
        "permanent_bug" => FailureClass::Bug,
        "unknown_outcome" => FailureClass::Unknown,
        other => panic!("{other} is no class of wFirma's"),
    }
}

/// The vector's request, at the documented host.
#[track_caller]
fn check_request(asked: &HttpRequest, vector: &Value) {
    assert_eq!(asked.method, vector["method"]);
    assert_eq!(asked.url, format!("https://api2.wfirma.pl{}", vector["path"].as_str().unwrap()));
    let header = |name: &str| asked.headers.iter().find(|(n, _)| *n == name).map(|(_, v)| v.as_str());
    assert_eq!(header("accessKey"), Some("canary-access"));
    assert_eq!(header("secretKey"), Some("canary-secret"));
    assert_eq!(header("appKey"), Some("canary-app"));
    assert_eq!(header("content-type"), Some("application/json"));
    assert_eq!(serde_json::from_slice::<Value>(&asked.body).unwrap(), vector["body"]);
}

async fn create(answer: Result<HttpResponse, HttpError>) -> Result<Document, InvoiceFailure> {
    let (settings, http) = (settings(json!({})), Script::new([answer]));
    WFIRMA.create(&cx(&settings, &http), "48120077", &order()).await
}
