//! Every registered invoicing API against its own simulator. Nothing here names one.

use std::sync::Mutex;

use async_trait::async_trait;
use grosz_providers::facts::SettingKind;
use grosz_providers::invoicer::{
    Buyer, Document, FailureClass, Found, InvoiceFailure, InvoiceLine, Ksef, PaymentMethod, TaxIdKind, Vat,
};
use grosz_providers::twin::{Faults, InvoicerTwin, TwinAnswer, TwinRequest};
use grosz_providers::wire::{Headers, Http, HttpError, HttpRequest, HttpResponse};
use grosz_providers::{Currency, Cx, InvoiceOrder, Invoicer, Money, Settings, Timestamp, registry};
use serde_json::{Map, Value};

const ROOT: &str = "http://127.0.0.1:1/sandbox/twin";

/// An invoicer, its twin and the way between them.
struct Bench {
    invoicer: &'static dyn Invoicer,
    settings: Settings,
    way: Way,
}

struct Way {
    twin: Box<dyn InvoicerTwin>,
    now: Timestamp,
    faults: Mutex<Faults>,
    /// Answers the next request in the twin's place.
    next: Mutex<Option<Result<HttpResponse, HttpError>>>,
    /// Every address called, with `once`.
    calls: Mutex<Vec<(String, bool)>>,
}

#[async_trait]
impl Http for Way {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        self.calls.lock().unwrap().push((request.url.clone(), request.once));
        if let Some(answer) = self.next.lock().unwrap().take() {
            return answer;
        }
        let below = request.url.strip_prefix(ROOT).expect("calls go to the address of the settings");
        let (path, query) = below.split_once('?').unwrap_or((below, ""));
        let asked = TwinRequest {
            method: request.method.into(),
            path: path.into(),
            query: query.into(),
            headers: Headers::from_pairs(request.headers),
            body: request.body,
            root: ROOT.into(),
            now: self.now,
            faults: self.faults.lock().unwrap().clone(),
        };
        for name in self.twin.spends(path) {
            if let Some(left) = self.faults.lock().unwrap().0.get_mut(name) {
                *left = left.saturating_sub(1);
            }
        }
        match self.twin.serve(&asked) {
            TwinAnswer::Page { status, headers, body, .. } => {
                Ok(HttpResponse { status, headers: Headers::from_pairs(headers), body })
            }
            TwinAnswer::Cut => Err(HttpError::NoAnswer("the connection was cut".into())),
            TwinAnswer::Hang => Err(HttpError::NoAnswer("time-out".into())),
        }
    }
}

impl Bench {
    fn new(invoicer: &'static dyn Invoicer) -> Bench {
        let settings = settings(invoicer, |setting| format!("canary-{setting}"));
        let way = Way {
            twin: invoicer.twin().expect("an invoicer has a twin"),
            now: "2026-11-21T20:00:00Z".parse().unwrap(),
            faults: Mutex::default(),
            next: Mutex::default(),
            calls: Mutex::default(),
        };
        way.twin.enroll(&settings);
        Bench { invoicer, settings, way }
    }

    fn cx(&self) -> Cx<'_> {
        Cx { settings: &self.settings, http: &self.way, now: self.way.now, live: false }
    }

    fn fault(&self, name: &str, times: u32) {
        assert!(self.way.twin.faults().iter().any(|(known, _)| *known == name), "the twin does not know {name}");
        self.way.faults.lock().unwrap().0.insert(name.to_owned(), times);
    }

    fn next(&self, answer: Result<HttpResponse, HttpError>) {
        *self.way.next.lock().unwrap() = Some(answer);
    }

    async fn find(&self, order: &InvoiceOrder) -> Found {
        self.invoicer.find(&self.cx(), order).await
    }

    async fn create(&self, order: &InvoiceOrder) -> Result<Document, InvoiceFailure> {
        let buyer = self.invoicer.upsert_buyer(&self.cx(), order, None).await?;
        self.invoicer.create(&self.cx(), &buyer, order).await
    }

    async fn get(&self, id: &str, order: &InvoiceOrder) -> Result<Document, InvoiceFailure> {
        self.invoicer.get(&self.cx(), id, order).await
    }

    async fn pdf(&self, document: &Document) -> Result<Option<Vec<u8>>, InvoiceFailure> {
        self.invoicer.fetch_pdf(&self.cx(), document).await
    }

    async fn found(&self, order: &InvoiceOrder) -> Document {
        match self.find(order).await {
            Found::One(document) => document,
            found => panic!("{found:?}"),
        }
    }
}

/// Settings made up from the facts alone.
fn settings(invoicer: &dyn Invoicer, secret: impl Fn(&str) -> String) -> Settings {
    let mut given = Map::new();
    for setting in invoicer.facts().settings {
        let is_required = setting.default.is_none() && !setting.optional;
        let value = match setting.kind {
            SettingKind::Secret => secret(setting.name),
            SettingKind::Url => ROOT.to_owned(),
            SettingKind::Number if is_required => "885001".to_owned(),
            SettingKind::Text if is_required => "text".to_owned(),
            _ => continue,
        };
        given.insert(setting.name.to_owned(), Value::String(value));
    }
    let settings = Settings::check(invoicer.facts().settings, &given).unwrap();
    invoicer.check(&settings).unwrap();
    settings
}

fn order(key: &str) -> InvoiceOrder {
    let line = |name: &str, quantity, unit_gross_minor, bp| InvoiceLine {
        name: name.into(),
        quantity,
        unit_gross_minor,
        vat: Vat::Rate(bp),
    };
    InvoiceOrder {
        external_key: key.into(),
        order_ref: "Sprawa nr 2026/417".into(),
        issue_date: "2026-11-21".parse().unwrap(),
        paid_on: "2026-11-20".parse().unwrap(),
        total: Money::new(19_998, Currency::PLN),
        method: PaymentMethod::Card,
        language: "pl".into(),
        buyer: Buyer {
            is_company: true,
            name: "Żółta Łódź sp. z o.o.".into(),
            tax_id_kind: TaxIdKind::PlNip,
            tax_id: "1234563218".into(),
            street: "Zmyślona 7/3".into(),
            postcode: "00-950".into(),
            city: "Warszawa".into(),
            country: "PL".into(),
            email: "faktury@example.test".into(),
        },
        lines: vec![line("Porada prawna", 2, 9000, 2300), line("Wypis", 3, 666, 800)],
        first_sent_on: None,
    }
}

fn each() -> impl Iterator<Item = Bench> {
    let benches: Vec<_> = registry::invoicers().map(Bench::new).collect();
    assert!(!benches.is_empty());
    benches.into_iter()
}

// R-5W-40, R-5W-50
#[tokio::test]
async fn an_invoice_is_created_found_read_and_printed() {
    for bench in each() {
        bench.invoicer.self_test(&bench.cx()).await.unwrap();
        let order = order("key-create-0001");
        bench.invoicer.check_order(&bench.settings, &order).unwrap();
        assert_eq!(bench.find(&order).await, Found::None);
        let made = bench.create(&order).await.unwrap();
        assert_eq!((made.total, made.differences.as_slice()), (order.total, [].as_slice()));
        assert!(!made.number.is_empty() && made.issue_date == Some(order.issue_date));
        let found = bench.found(&order).await;
        assert_eq!((&found.id, &found.number, found.differences.len()), (&made.id, &made.number, 0));
        let read = bench.get(&made.id, &order).await.unwrap();
        assert_eq!((read.number, read.differences.len()), (made.number, 0));
        assert!(bench.pdf(&found).await.unwrap().expect("the document is ready").starts_with(b"%PDF-"));
        bench.invoicer.self_test(&bench.cx()).await.unwrap();
        assert_eq!(bench.get("999999999", &order).await.unwrap_err().class, FailureClass::Absent);
    }
}

#[tokio::test]
async fn invoices_have_numbers_of_their_own_and_one_buyer_has_one_card() {
    for bench in each() {
        let (first, second) = (order("key-first-0001"), order("key-second-002"));
        let card = bench.invoicer.upsert_buyer(&bench.cx(), &first, None).await.unwrap();
        assert_eq!(bench.invoicer.upsert_buyer(&bench.cx(), &first, None).await.unwrap(), card);
        assert_eq!(bench.invoicer.upsert_buyer(&bench.cx(), &first, Some(&card)).await.unwrap(), card);
        let mut moved = first.clone();
        moved.buyer.street = "Nowa 1".into();
        assert_eq!(bench.invoicer.upsert_buyer(&bench.cx(), &moved, None).await.unwrap(), card);
        let (one, two) = (bench.create(&first).await.unwrap(), bench.create(&second).await.unwrap());
        assert!(one.number != two.number && one.id != two.id);
    }
}

// F27, R-5W-48
#[tokio::test]
async fn a_connection_cut_after_the_work_is_unknown_and_the_look_up_finds_the_invoice() {
    for bench in each() {
        for fault in ["cut_after_work", "http_500_after_work", "html_answer", "ok_without_record"] {
            let order = order(&format!("key-{}", fault.replace('_', "-")));
            bench.fault(fault, 1);
            assert_eq!(bench.create(&order).await.unwrap_err().class, FailureClass::Unknown, "{fault}");
            let document = bench.found(&order).await;
            assert_eq!((document.total, document.differences.len()), (order.total, 0), "{fault}");
        }
    }
}

// F29
#[tokio::test]
async fn a_create_that_did_nothing_may_be_unknown_too_and_the_look_up_says_none() {
    for bench in each() {
        for fault in ["hang", "http_500"] {
            let order = order(&format!("key-{}-0001", fault.replace('_', "-")));
            bench.fault(fault, 1);
            assert_eq!(bench.create(&order).await.unwrap_err().class, FailureClass::Unknown, "{fault}");
            assert_eq!(bench.find(&order).await, Found::None, "{fault}");
            bench.create(&order).await.unwrap();
        }
    }
}

// Why every create is preceded by a look-up: the API itself does not mind a second one.
#[tokio::test]
async fn a_second_create_with_the_same_key_makes_a_second_invoice_and_the_look_up_says_so() {
    for bench in each() {
        let order = order("key-twice-0001");
        let (one, two) = (bench.create(&order).await.unwrap(), bench.create(&order).await.unwrap());
        match bench.find(&order).await {
            Found::Many(documents) => {
                assert_eq!(documents.iter().map(|d| &d.id).collect::<Vec<_>>(), [&one.id, &two.id]);
            }
            found => panic!("{found:?}"),
        }
    }
}

// R-5W-43
#[tokio::test]
async fn three_refusals_issue_nothing() {
    for bench in each() {
        bench.fault("error_in_200", 3);
        let order = order("key-three-0001");
        for _ in 0..3 {
            let failure = bench.create(&order).await.unwrap_err();
            assert_eq!(failure.class, FailureClass::Data);
            assert!(failure.fields.iter().any(|(path, _)| path.starts_with("buyer.")), "{:?}", failure.fields);
        }
        assert_eq!(bench.find(&order).await, Found::None);
        bench.create(&order).await.unwrap();
    }
}

// F30
#[tokio::test]
async fn a_look_up_that_lags_fails_or_ignores_its_filter_is_told_apart() {
    let is_retryable = |found: &Found| matches!(found, Found::Failed(f) if f.class == FailureClass::Retryable);
    for bench in each() {
        let (ours, strangers) = (order("key-look-0001"), order("key-look-0002"));
        bench.create(&strangers).await.unwrap();
        bench.fault("filter_ignored", 2);
        assert!(is_retryable(&bench.find(&ours).await));
        let refused = bench.invoicer.self_test(&bench.cx()).await.unwrap_err();
        assert_eq!((refused.class, refused.account_wide), (FailureClass::Config, true));
        let made = bench.create(&ours).await.unwrap();
        bench.fault("filter_ignored", 1);
        assert_eq!(bench.found(&ours).await.id, made.id, "ours is told from the others");
        bench.fault("find_lags", 2);
        assert_eq!((bench.find(&ours).await, bench.find(&ours).await), (Found::None, Found::None));
        assert_eq!(bench.found(&ours).await.id, made.id);
        bench.fault("find_fails", 1);
        assert!(is_retryable(&bench.find(&ours).await));
    }
}

#[tokio::test]
async fn an_invoice_that_differs_is_issued_and_says_so() {
    for bench in each() {
        let order = order("key-differs-001");
        bench.fault("wrong_total", 1);
        let document = bench.create(&order).await.unwrap();
        assert!(document.total != order.total && !document.differences.is_empty());
        assert!(matches!(bench.find(&order).await, Found::Conflict(found) if found.id == document.id));
    }
}

#[tokio::test]
async fn an_invoice_that_lost_its_key_is_found_by_its_remark() {
    for bench in each() {
        let mut order = order("key-lost-0001");
        bench.fault("key_lost", 1);
        bench.fault("cut_after_work", 1);
        assert_eq!(bench.create(&order).await.unwrap_err().class, FailureClass::Unknown);
        order.first_sent_on = Some(order.issue_date);
        assert!(!bench.found(&order).await.differences.is_empty());
    }
}

#[tokio::test]
async fn the_document_waits_for_the_national_system() {
    for bench in each() {
        let order = order("key-ksef-0001");
        let made = bench.create(&order).await.unwrap();
        bench.fault("ksef_pending", 2);
        assert_eq!(bench.pdf(&made).await.unwrap(), None);
        assert_eq!(bench.get(&made.id, &order).await.unwrap().ksef, Ksef::Pending);
        let ready = bench.get(&made.id, &order).await.unwrap();
        assert!(matches!(&ready.ksef, Ksef::Accepted { number } if grosz_providers::ksef::is_number(number)));
        bench.fault("pdf_cut", 1);
        assert_eq!(bench.pdf(&ready).await.unwrap_err().class, FailureClass::Retryable);
        assert!(bench.pdf(&ready).await.unwrap().is_some());
        bench.fault("ksef_authorisation", 1);
        let refused = bench.create(&self::order("key-ksef-0002")).await.unwrap_err();
        assert_eq!((refused.class, refused.code.as_str()), (FailureClass::Config, "KSEF AUTHORISATION"));
    }
}

#[tokio::test]
async fn what_concerns_the_account_pauses_the_account() {
    for bench in each() {
        let order = order("key-account-001");
        let buyer = bench.invoicer.upsert_buyer(&bench.cx(), &order, None).await.unwrap();
        for (fault, class) in [
            ("auth", FailureClass::Config),
            ("out_of_service", FailureClass::Retryable),
            ("snapshot_lock", FailureClass::Retryable),
            ("requests_limit", FailureClass::Retryable),
        ] {
            bench.fault(fault, 2);
            let failure = bench.invoicer.create(&bench.cx(), &buyer, &order).await.unwrap_err();
            assert_eq!((failure.class, failure.account_wide), (class, true), "{fault}");
            assert!(matches!(bench.find(&order).await, Found::Failed(f) if f.class == class), "{fault}");
            assert_eq!(bench.find(&order).await, Found::None, "{fault} is over, and nothing was done");
        }
        let wrong = settings(bench.invoicer, |_| "another".into());
        let cx = Cx { settings: &wrong, ..bench.cx() };
        assert_eq!(bench.invoicer.self_test(&cx).await.unwrap_err().class, FailureClass::Config);
    }
}

fn broken_ways() -> [(Result<HttpResponse, HttpError>, FailureClass); 4] {
    let page = |status| Ok(HttpResponse { status, headers: Headers::default(), body: b"<html>".to_vec() });
    [
        (Err(HttpError::NotSent("refused".into())), FailureClass::Retryable),
        (Err(HttpError::NoAnswer("reset".into())), FailureClass::Unknown),
        (page(200), FailureClass::Unknown),
        (page(502), FailureClass::Unknown),
    ]
}

// F36
#[tokio::test]
async fn each_failure_of_the_way_has_its_class() {
    for bench in each() {
        let order = order("key-way-00001");
        let buyer = bench.invoicer.upsert_buyer(&bench.cx(), &order, None).await.unwrap();
        let made = bench.invoicer.create(&bench.cx(), &buyer, &order).await.unwrap();
        for (answer, on_create) in broken_ways() {
            bench.next(answer.clone());
            let failure = bench.invoicer.create(&bench.cx(), &buyer, &order).await.unwrap_err();
            assert_eq!(failure.class, on_create, "{failure}");
            bench.next(answer.clone());
            assert!(matches!(bench.find(&order).await, Found::Failed(f) if f.class == FailureClass::Retryable));
            bench.next(answer.clone());
            assert_eq!(bench.get(&made.id, &order).await.unwrap_err().class, FailureClass::Retryable);
            bench.next(answer.clone());
            assert_eq!(bench.pdf(&made).await.unwrap_err().class, FailureClass::Retryable);
            bench.next(answer);
            let card = bench.invoicer.upsert_buyer(&bench.cx(), &order, None).await.unwrap_err();
            assert_eq!(card.class, FailureClass::Retryable, "a second card does no harm");
        }
    }
}

// F72
#[tokio::test]
async fn no_key_stands_in_an_address_and_a_create_is_sent_once() {
    for bench in each() {
        bench.create(&order("key-secret-001")).await.unwrap();
        let calls = bench.way.calls.lock().unwrap();
        assert!(calls.iter().all(|(url, _)| url.starts_with(ROOT) && !url.contains("canary")));
        assert!(calls.iter().any(|(_, once)| *once));
    }
}

#[test]
fn settings_have_help_and_keys_are_secret() {
    for bench in each() {
        let facts = bench.invoicer.facts();
        assert!(facts.settings.iter().all(|s| s.help.len() > 10), "{}", facts.name);
        assert!(facts.settings.iter().filter(|s| s.name.contains("key")).all(|s| s.kind == SettingKind::Secret));
        assert!(!format!("{:?}", bench.settings.shown(facts.settings)).contains("canary"));
    }
}
