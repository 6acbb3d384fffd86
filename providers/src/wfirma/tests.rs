//! wFirma against its vectors: what is sent, and what each answer means.

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

#[tokio::test]
async fn create_sends_the_documented_request_and_reads_the_documented_answer() {
    let vector = &vectors()["invoice_add_ok"];
    let (settings, http) = (settings(json!({})), Script::json([vector["response"].clone()]));
    let document = WFIRMA.create(&cx(&settings, &http), "48120077", &order()).await.unwrap();
    check_request(&http.asked(0), &vector["request"]);
    assert!(http.asked(0).once, "a create is never repeated by the client");
    assert_eq!((document.id.as_str(), document.number.as_str()), ("510277301", "FV 12/11/2026"));
    assert_eq!((document.total, document.differences), (order().total, vec![]));
    assert_eq!(document.ksef, Ksef::Pending);
}

#[tokio::test]
async fn an_answer_in_xml_is_understood() {
    let vector = &vectors()["invoice_add_ok_xml"];
    let document = create(Ok(http(200, vector["response"].as_str().unwrap()))).await.unwrap();
    assert_eq!((document.number.as_str(), document.differences), ("FV 12/11/2026", vec![]));
}

// R-5W-50
#[tokio::test]
async fn what_was_issued_is_compared_with_what_was_asked() {
    for (pointer, told, difference) in [
        ("total", "99.98", "the total is 99.98 instead of 99.99"),
        ("currency", "EUR", "the currency is \"EUR\" instead of \"PLN\""),
        ("type", "proforma", "the document's type is \"proforma\" instead of \"normal\""),
        ("id_external", "phub-inv-01jd9k7m3q-v1", "the external id is"),
        ("paymentstate", "unpaid", "the payment state is \"unpaid\" instead of \"paid\""),
        ("date", "2026-11-20", "the issue date"),
        ("contractor/id", "48120078", "another buyer's card"),
        ("contractor_detail/nip", "1111111111", "the buyer's tax number is another one"),
        ("contractor_detail/name", "Ktoś Inny", "the buyer's name is another one"),
        ("invoicecontents/1/invoicecontent/vat", "8", "VAT of line 2 is \"8\" instead of \"23\""),
    ] {
        let mut answer = vectors()["invoice_add_ok"]["response"].take();
        *answer.pointer_mut(&format!("/invoices/0/invoice/{pointer}")).unwrap() = told.into();
        let document = create(Ok(http(200, answer.to_string()))).await.unwrap();
        assert!(document.differences.iter().any(|d| d.contains(difference)), "{pointer}: {:?}", document.differences);
    }
}

#[tokio::test]
async fn an_answer_without_the_whole_record_is_read_again() {
    let (settings, whole) = (settings(json!({})), vectors()["invoice_add_ok"]["response"].take());
    let thin = json!({"invoices": {"0": {"invoice": {"id": 510277301}}}, "status": {"code": "OK"}});
    let http = Script::json([thin.clone(), whole]);
    let document = WFIRMA.create(&cx(&settings, &http), "48120077", &order()).await.unwrap();
    assert_eq!((document.number.as_str(), document.differences.len()), ("FV 12/11/2026", 0));
    assert_eq!(http.paths(), ["/invoices/add", "/invoices/get/510277301"]);

    let failed = Script::new([Ok(self::http(200, thin.to_string())), Err(HttpError::NoAnswer("time-out".into()))]);
    let document = WFIRMA.create(&cx(&settings, &failed), "48120077", &order()).await.unwrap();
    assert_eq!(document.differences, ["wFirma does not name the total", "wFirma did not keep our key"]);
}

/// Every vector is read here; a new one must be given its place.
#[tokio::test]
async fn every_status_means_what_its_vector_says_at_every_http_status() {
    for (name, vector) in vectors().as_object().unwrap() {
        let calls: &[Call] = match name.as_str() {
            "fatal_on_find" | "execution_time_limit_on_find" => &[Call::Read],
            "fatal_on_add" | "execution_time_limit_on_add" | "unknown_code_on_add" | "html_502_on_add" => {
                &[Call::Write]
            }
            "invoice_add_validation_error" | "invoice_add_input_error" | "invoice_add_input_error_with_message" => {
                &[Call::Write]
            }
            "invoice_add_ksef_authorisation" => &[Call::Write],
            "auth"
            | "auth_lock"
            | "access_denied"
            | "denied_scope"
            | "company_id_required"
            | "action_not_found"
            | "controller_not_found_xml"
            | "not_found"
            | "not_found_sentence"
            | "out_of_service"
            | "snapshot_lock"
            | "requests_limit" => &[Call::Read, Call::Write],
            // These have tests of their own.
            "note"
            | "base_url"
            | "request_headers"
            | "contractor_find_by_nip"
            | "contractor_add_ok"
            | "invoice_add_ok"
            | "invoice_add_ok_xml"
            | "invoice_add_request_shapes_seen_to_work"
            | "ok_without_record_on_add"
            | "invoice_find_by_external_id"
            | "invoice_get_ksef_pending"
            | "invoice_get_ksef_done"
            | "invoice_get_no_ksef"
            | "invoice_download" => continue,
            // Calls that are not made here; their answers are envelopes all the same.
            "invoice_send_ok" | "payment_add_ok" => {
                assert_eq!(Envelope::read(vector["response"].to_string().as_bytes()).unwrap().code, "OK");
                continue;
            }
            "invoice_correction_add" | "oss_invoice_fragment" | "webhook_add" => continue,
            other => panic!("{other} has no test"),
        };
        let body = vector["response"].as_str().map_or_else(|| vector["response"].to_string(), str::to_owned);
        let statuses: &[u16] = if name == "html_502_on_add" { &[502] } else { &[200, 400, 403, 404, 422, 500, 503] };
        for (call, status) in calls.iter().flat_map(|call| statuses.iter().map(move |status| (*call, *status))) {
            let failure = status::accept(call, &http(status, body.as_str())).unwrap_err();
            assert_eq!(failure.class, class(vector["expect"]["cls"].as_str().unwrap()), "{name} {call:?} {status}");
            if let Some(pause) = vector["expect"]["not_before_s"].as_u64() {
                assert_eq!((failure.pause_s.map(u64::from), failure.account_wide), (Some(pause), true), "{name}");
            }
        }
    }
}

#[tokio::test]
async fn a_validation_error_names_the_fields_of_the_order() {
    let vector = &vectors()["invoice_add_validation_error"];
    let failure = create(Ok(http(200, vector["response"].to_string()))).await.unwrap_err();
    let wanted: Vec<_> = vector["expect"]["field_errors"].as_array().unwrap().iter().map(|f| &f["path"]).collect();
    assert_eq!(wanted, ["date", "contractor.name", "contractor.zip", "invoicecontents.1.name"]);
    let pair = |path: &str, message: &str| (path.to_owned(), message.to_owned());
    assert_eq!(
        failure.fields,
        [
            pair("issue_date", "Data musi być w formacie RRRR-MM-DD"),
            pair("buyer.name", "Pole nie może być puste"),
            pair("buyer.postcode", "Pole nie może być puste"),
            pair("lines.1.name", "Treść nie może być pusta"),
        ]
    );
    assert_eq!(failure.message, "Wystąpiły błędy walidacji.");
}

#[test]
fn errors_may_be_false_null_a_list_or_xml() {
    let body = r#"{"invoices":{"0":{"invoice":{"errors":false,"contractor":{"errors":null},"vat_moss_details":
        {"vat_moss_detail":{"errors":[{"error":{"field":"type","message":"brak"}}]}}}}},"status":{"code":"ERROR"}}"#;
    let failure = status::accept(Call::Write, &http(200, body)).unwrap_err();
    assert_eq!(failure.fields, [("vat_moss_details.0.type".to_owned(), "brak".to_owned())]);
    let error = "<errors><error><field>name</field><message>pusta</message></error></errors>";
    let lines = format!("<invoicecontents><invoicecontent/><invoicecontent>{error}</invoicecontent></invoicecontents>");
    let body = format!("<api><invoices><invoice>{lines}</invoice></invoices><status><code>ERROR</code></status></api>");
    let failure = status::accept(Call::Write, &http(200, body)).unwrap_err();
    assert_eq!(failure.fields, [("lines.1.name".to_owned(), "pusta".to_owned())]);
}

#[tokio::test]
async fn a_missing_authorisation_in_ksef_is_for_the_owner_of_the_account() {
    let vector = vectors()["invoice_add_ksef_authorisation"]["response"].take();
    let failure = create(Ok(http(200, vector.to_string()))).await.unwrap_err();
    assert_eq!((failure.class, failure.code.as_str()), (FailureClass::Config, "KSEF AUTHORISATION"));
    assert!(failure.account_wide);
}

// F27, F29: the rows of `failure_classification` that concern wFirma and any API.
#[tokio::test]
async fn a_create_is_unknown_unless_it_surely_did_not_happen() {
    let not_sent = create(Err(HttpError::NotSent("refused".into()))).await.unwrap_err();
    assert_eq!(not_sent.class, FailureClass::Retryable);
    let cut = create(Err(HttpError::NoAnswer("reset".into()))).await.unwrap_err();
    assert_eq!(cut.class, FailureClass::Unknown);
    let ok_without = vectors()["ok_without_record_on_add"]["response"].to_string();
    let zero_id = r#"{"invoices":{"0":{"invoice":{"id":"0"}}},"status":{"code":"OK"}}"#;
    for (status, body) in
        [(200, ok_without.as_str()), (200, zero_id), (200, ""), (200, "{\"inv"), (500, ""), (302, ""), (404, "nginx")]
    {
        let failure = create(Ok(http(status, body))).await.unwrap_err();
        assert_eq!(failure.class, FailureClass::Unknown, "{status} {body}");
    }
    let missing_parent = create(Ok(http(200, r#"{"status":{"code":"NOT FOUND"}}"#))).await.unwrap_err();
    assert_eq!(missing_parent.class, FailureClass::Data);
}

// F37
#[tokio::test]
async fn a_full_queue_is_waited_for_as_long_as_it_says() {
    let answer =
        |header: &str| HttpResponse { headers: Headers::from_pairs([("Retry-After", header)]), ..http(429, "") };
    for (header, pause) in [("120", 120), ("Wed, 21 Oct 2026 07:28:00 GMT", 900), ("-1", 900), ("999999", 86_400)] {
        let failure = create(Ok(answer(header))).await.unwrap_err();
        let got = (failure.class, failure.pause_s, failure.account_wide);
        assert_eq!(got, (FailureClass::Retryable, Some(pause), true), "{header}");
    }
}

// F30
#[tokio::test]
async fn a_look_up_concludes_no_more_than_the_answer_bears() {
    let vectors = vectors();
    let vector = &vectors["invoice_find_by_external_id"];
    let settings = settings(json!({}));
    for (name, case) in vector.as_object().unwrap().iter().filter(|(name, _)| *name != "request") {
        let http = Script::json([case["response"].clone()]);
        let found = WFIRMA.find(&cx(&settings, &http), &order()).await;
        check_request(&http.asked(0), &vector["request"]);
        match (name.as_str(), found) {
            ("zero_results" | "zero_results_empty_array" | "zero_results_no_branch" | "proforma_shares_key", found) => {
                assert_eq!(found, Found::None, "{name}");
            }
            ("one_result" | "one_result_numeric_types", Found::One(document)) => {
                assert_eq!((document.id.as_str(), document.differences.len()), ("510277301", 0), "{name}");
                assert_eq!(document.number, "FV 12/11/2026");
            }
            ("filter_ignored", Found::Failed(failure)) => assert_eq!(failure.code, "FILTER IGNORED"),
            ("amount_differs", Found::Conflict(document)) => assert_eq!(document.total.minor(), 9998),
            ("two_results", Found::Many(documents)) => {
                let ids: Vec<_> = documents.iter().map(|d| d.id.as_str()).collect();
                assert_eq!(ids, ["510277301", "510277302"]);
            }
            (name, found) => panic!("{name} ended in {found:?}"),
        }
    }
}

#[tokio::test]
async fn a_look_up_that_fails_or_misses_members_concludes_nothing() {
    let settings = settings(json!({}));
    let no_total = json!({"id": "1", "type": "normal", "currency": "PLN", "id_external": order().external_key});
    let other_case = json!({"id": "1", "type": "normal", "currency": "PLN", "total": "99.99",
        "id_external": order().external_key.to_uppercase()});
    let row = |record: Value| json!({"invoices": {"0": {"invoice": record}}, "status": {"code": "OK"}}).to_string();
    for answer in [
        Ok(http(200, vectors()["fatal_on_find"]["response"].to_string())),
        Ok(http(200, "<html>")),
        Ok(http(200, row(no_total))),
        Ok(http(200, row(other_case))),
        Err(HttpError::NoAnswer("time-out".into())),
        Err(HttpError::NotSent("refused".into())),
    ] {
        let http = Script::new([answer]);
        match WFIRMA.find(&cx(&settings, &http), &order()).await {
            Found::Failed(failure) => assert_eq!(failure.class, FailureClass::Retryable, "{failure}"),
            found => panic!("{found:?}"),
        }
    }
}

#[tokio::test]
async fn after_an_earlier_send_a_document_without_key_is_found_by_date_and_remark() {
    let settings = settings(json!({}));
    let sent = InvoiceOrder { first_sent_on: Some("2026-11-21".parse().unwrap()), ..order() };
    let none = vectors()["invoice_find_by_external_id"]["zero_results"]["response"].take();
    let strangers = vectors()["invoice_find_by_external_id"]["filter_ignored"]["response"].take();
    let http = Script::json([none.clone(), strangers.clone()]);
    match WFIRMA.find(&cx(&settings, &http), &sent).await {
        Found::One(document) => {
            assert_eq!(document.id, "510277001", "the row with another key is another payment's");
            assert!(document.differences.iter().any(|d| d.contains("external id")), "{:?}", document.differences);
        }
        found => panic!("{found:?}"),
    }
    for (pointer, told) in [("total", "99.98"), ("description", "inne"), ("type", "proforma"), ("date", "2026-11-20")] {
        let mut other = strangers.clone();
        *other.pointer_mut(&format!("/invoices/0/invoice/{pointer}")).unwrap() = told.into();
        let http = Script::json([none.clone(), other]);
        assert_eq!(WFIRMA.find(&cx(&settings, &http), &sent).await, Found::None, "{pointer}");
    }
    // The key's own look-up was clean; this one may fail.
    let http = Script::new([Ok(self::http(200, none.to_string())), Err(HttpError::NoAnswer("reset".into()))]);
    assert_eq!(WFIRMA.find(&cx(&settings, &http), &sent).await, Found::None);
}

#[tokio::test]
async fn a_buyers_card_is_looked_up_by_number_and_taken_when_the_name_agrees() {
    let (settings, vectors) = (settings(json!({})), vectors());
    let find = &vectors["contractor_find_by_nip"];
    let http = Script::json([find["response_one"].clone()]);
    assert_eq!(WFIRMA.upsert_buyer(&cx(&settings, &http), &order(), None).await.unwrap(), "48120077");
    check_request(&http.asked(0), &find["request"]);

    let added = vectors["contractor_add_ok"]["response"].clone();
    let http = Script::json([find["response_none"].clone(), added.clone()]);
    assert_eq!(WFIRMA.upsert_buyer(&cx(&settings, &http), &order(), None).await.unwrap(), "48120077");
    let sent: Value = serde_json::from_slice(&http.asked(1).body).unwrap();
    let (sent, wanted) = (&sent["contractors"]["0"]["contractor"], &vectors["contractor_add_ok"]["request"]["body"]);
    for (name, value) in wanted["contractors"]["0"]["contractor"].as_object().unwrap() {
        // Only a short name that we do not have is another one.
        assert!(name == "altname" || sent[name] == *value, "{name}");
    }
    assert!(http.asked(1).once);

    // The same number under another name is another card; the same name at another address is brought up to date.
    let mut other = find["response_one"].clone();
    other["contractors"]["0"]["contractor"]["name"] = "Ktoś Inny".into();
    let http = Script::json([other, added.clone()]);
    WFIRMA.upsert_buyer(&cx(&settings, &http), &order(), None).await.unwrap();
    assert_eq!(http.paths(), ["/contractors/find", "/contractors/add"]);
    let mut moved = find["response_one"].clone();
    moved["contractors"]["0"]["contractor"]["street"] = "Dawna 1".into();
    moved["contractors"]["0"]["contractor"]["nip"] = "123-456-32-18".into();
    let http = Script::json([moved, added]);
    WFIRMA.upsert_buyer(&cx(&settings, &http), &order(), None).await.unwrap();
    assert_eq!(http.paths(), ["/contractors/find", "/contractors/edit/48120077"]);
}

#[tokio::test]
async fn a_known_card_is_read_and_a_deleted_one_replaced() {
    let (settings, vectors) = (settings(json!({})), vectors());
    let one = vectors["contractor_find_by_nip"]["response_one"].clone();
    let http = Script::json([one.clone()]);
    WFIRMA.upsert_buyer(&cx(&settings, &http), &order(), Some("48120077")).await.unwrap();
    assert_eq!(http.paths(), ["/contractors/get/48120077"]);
    let http = Script::json([vectors["not_found"]["response"].clone(), one]);
    WFIRMA.upsert_buyer(&cx(&settings, &http), &order(), Some("48120001")).await.unwrap();
    assert_eq!(http.paths(), ["/contractors/get/48120001", "/contractors/find"]);
}

#[tokio::test]
async fn a_private_person_is_added_without_a_number() {
    let settings = settings(json!({}));
    let mut order = order();
    order.buyer = Buyer { is_company: false, tax_id_kind: TaxIdKind::None, tax_id: String::new(), ..order.buyer };
    let http = Script::json([vectors()["contractor_add_ok"]["response"].take()]);
    WFIRMA.upsert_buyer(&cx(&settings, &http), &order, None).await.unwrap();
    let sent: Value = serde_json::from_slice(&http.asked(0).body).unwrap();
    let card = &sent["contractors"]["0"]["contractor"];
    assert_eq!((&card["tax_id_type"], &card["nip"]), (&json!("none"), &json!("")));
    // Adding a card twice harms nobody: no outcome of it is unknown.
    let http = Script::new([Err(HttpError::NoAnswer("reset".into()))]);
    let failure = WFIRMA.upsert_buyer(&cx(&settings, &http), &order, None).await.unwrap_err();
    assert_eq!(failure.class, FailureClass::Retryable);
}

async fn ksef_of(vector: &str, more: Value) -> Ksef {
    let (settings, http) = (settings(more), Script::json([vectors()[vector]["response"].take()]));
    let document = WFIRMA.get(&cx(&settings, &http), "510277301", &order()).await.unwrap();
    assert_eq!(document.differences, Vec::<String>::new());
    document.ksef
}

#[tokio::test]
async fn the_ksef_number_decides_whether_the_document_is_ready() {
    assert_eq!(ksef_of("invoice_get_ksef_pending", json!({})).await, Ksef::Pending);
    assert_eq!(ksef_of("invoice_get_no_ksef", json!({})).await, Ksef::NotApplicable);
    assert_eq!(ksef_of("invoice_get_ksef_pending", json!({"ksef": "off"})).await, Ksef::NotApplicable);
    match ksef_of("invoice_get_ksef_done", json!({})).await {
        Ksef::Accepted { number } => assert!(crate::ksef::is_number(&number)),
        other => panic!("{other:?}"),
    }
}

async fn fetch(state: &str, download: Option<HttpResponse>) -> Result<Option<Vec<u8>>, InvoiceFailure> {
    let settings = settings(json!({}));
    let state = Ok(http(200, vectors()[state]["response"].to_string()));
    let http = Script::new([state].into_iter().chain(download.clone().map(Ok)));
    let document = compare::existing(&settings, &json!({}), "510277301", &order());
    let fetched = WFIRMA.fetch_pdf(&cx(&settings, &http), &document).await;
    if download.is_some() {
        check_request(&http.asked(1), &vectors()["invoice_download"]["request"]);
    }
    fetched
}

#[tokio::test]
async fn only_a_whole_pdf_is_a_document() {
    let vectors = vectors();
    let vector = &vectors["invoice_download"];
    assert_eq!(fetch("invoice_get_ksef_pending", None).await.unwrap(), None);
    let first = hex::decode(vector["ok"]["body_first_bytes_hex"].as_str().unwrap()).unwrap();
    let whole = [b"\n".as_slice(), &first, b"4 ... %%EOF\n"].concat();
    let got = fetch("invoice_get_ksef_done", Some(http(200, whole.clone()))).await.unwrap().unwrap();
    assert_eq!(got, whole[1..]);
    let error = vector["error_with_200"]["response"].to_string();
    let xml = vector["error_xml"]["response"].as_str().unwrap();
    let early = [b"%PDF-1.4 %%EOF".as_slice(), &[b' '; 2000]].concat();
    for (answer, wanted) in [
        (http(200, error), FailureClass::Absent),
        (http(200, xml), FailureClass::Retryable),
        (http(200, first), FailureClass::Retryable),
        (http(200, early), FailureClass::Retryable),
        (http(500, whole), FailureClass::Retryable),
        (http(200, r#"{"status":{"code":"OK"}}"#), FailureClass::Retryable),
    ] {
        let failure = fetch("invoice_get_no_ksef", Some(answer)).await.unwrap_err();
        assert_eq!(failure.class, wanted, "{failure}");
    }
}

#[tokio::test]
async fn the_self_test_wants_an_empty_look_up_and_the_right_vat_status() {
    let (settings, vectors) = (settings(json!({})), vectors());
    let empty = vectors["invoice_find_by_external_id"]["zero_results"]["response"].clone();
    let strangers = vectors["invoice_find_by_external_id"]["filter_ignored"]["response"].clone();
    let company =
        |payer: &str| json!({"companies": {"0": {"company": {"vat_payer": payer}}}, "status": {"code": "OK"}});
    let silent = json!({"status": {"code": "ACTION NOT FOUND"}});
    for (answers, code) in [
        (vec![empty.clone(), company("1")], None),
        (vec![empty.clone(), silent], None),
        (vec![empty, company("0")], Some("VAT PAYER")),
        (vec![strangers], Some("FILTER IGNORED")),
        (vec![vectors["auth"]["response"].clone()], Some("AUTH")),
    ] {
        let http = Script::json(answers);
        let failure = WFIRMA.self_test(&cx(&settings, &http)).await.err();
        assert_eq!(failure.as_ref().map(|f| f.code.as_str()), code);
        assert!(failure.is_none_or(|f| f.class == FailureClass::Config && f.account_wide));
    }
}

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
    let order = InvoiceOrder { total: Money::new(9999, Currency::EUR), language: "en".into(), ..order() };
    let body = order::body(&settings(json!({"translation_language_id": 1})), "48120077", &order);
    let invoice = &body["invoices"]["0"]["invoice"];
    assert_eq!(invoice["payment"], json!({"date": "2026-11-21", "account": "currency"}));
    assert_eq!(invoice["translation_language"], json!({"id": "1"}));
}

// F72
#[tokio::test]
async fn no_failure_holds_a_key() {
    for answer in [
        Ok(http(200, vectors()["auth"]["response"].to_string())),
        Ok(http(500, "")),
        Err(HttpError::NoAnswer("reset".into())),
    ] {
        let failure = create(answer).await.unwrap_err();
        assert!(!format!("{failure:?} {failure}").contains("canary"));
    }
}

fn ask(twin: &dyn InvoicerTwin, path: &str, body: &str) -> (u16, String) {
    let keys = [("accesskey", "canary-access"), ("secretkey", "canary-secret"), ("appkey", "canary-app")];
    let request = TwinRequest {
        method: "POST".into(),
        path: path.into(),
        query: "inputFormat=json&outputFormat=json&company_id=885001".into(),
        headers: Headers::from_pairs(keys),
        body: body.into(),
        root: "http://127.0.0.1/sandbox/wfirma".into(),
        now: "2026-11-21T20:00:00Z".parse().unwrap(),
        faults: Faults::default(),
    };
    match twin.serve(&request) {
        TwinAnswer::Page { status, body, .. } => (status, String::from_utf8_lossy(&body).into_owned()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_twin_takes_every_shape_of_request_that_the_real_one_takes() {
    let twin = WFIRMA.twin().unwrap();
    twin.enroll(&settings(json!({})));
    let card = vectors()["contractor_add_ok"]["request"]["body"].to_string();
    assert!(ask(twin.as_ref(), "/contractors/add", &card).1.contains("\"48120077\""));
    let add = &vectors()["invoice_add_ok"]["request"]["body"];
    let invoice = &add["invoices"]["0"]["invoice"];
    for (at, shape) in vectors()["invoice_add_request_shapes_seen_to_work"].as_array().unwrap().iter().enumerate() {
        let body = shape["body"].as_str().unwrap().replace("\"invoice\":{}", &format!("\"invoice\":{invoice}"));
        let (_, answer) = ask(twin.as_ref(), "/invoices/add", &body);
        let number = format!("FV {}/11/2026", at + 1);
        assert!(answer.contains(&number) && answer.contains("\"netto\":\"81.29\""), "{answer}");
    }
    for (path, code) in [
        ("/invoices/add", "INPUT ERROR"),
        ("/invoices/fly", "ACTION NOT FOUND"),
        ("/dragons/find", "CONTROLLER NOT FOUND"),
        ("/invoices/get/1", "NOT FOUND"),
    ] {
        let body = if code == "INPUT ERROR" { "{" } else { "{}" };
        assert!(ask(twin.as_ref(), path, body).1.contains(code), "{path}");
    }
    for count in ["9223372036854775807", "-1.5", "x", "0.000000000001"] {
        let body = add.to_string().replace("2.0000", count);
        assert!(ask(twin.as_ref(), "/invoices/add", &body).1.contains("\"OK\""), "{count}");
    }
}

#[test]
fn the_twin_understands_every_shape_of_conditions_and_ignores_strange_ones() {
    let twin = WFIRMA.twin().unwrap();
    twin.enroll(&settings(json!({})));
    ask(twin.as_ref(), "/contractors/add", &vectors()["contractor_add_ok"]["request"]["body"].to_string());
    let add = vectors()["invoice_add_ok"]["request"]["body"].to_string();
    for key in ["phub-inv-01JD9K7M3Q-v1", "phub-inv-02", "phub-inv-03"] {
        ask(twin.as_ref(), "/invoices/add", &add.replace("phub-inv-01JD9K7M3Q-v1", key));
    }
    let ours = json!({"condition": {"field": "Invoice.id_external", "operator": "eq", "value": "phub-inv-02"}});
    let short = json!({"condition": {"field": "id_external", "operator": "eq", "value": "phub-inv-02"}});
    let since = json!({"condition": {"field": "Invoice.date", "operator": "ge", "value": "2026-11-22"}});
    let strange = json!({"condition": {"field": "Invoice.external", "operator": "eq", "value": "phub-inv-02"}});
    for (conditions, total) in [
        (json!({"0": ours}), "1"),
        (ours.clone(), "1"),
        (json!([ours]), "1"),
        (json!({"and": [short]}), "1"),
        (json!({"0": ours, "1": since}), "0"),
        (json!({"0": strange}), "3"),
    ] {
        let body = json!({"api": {"invoices": {"parameters": {"limit": 2, "conditions": conditions}}}});
        let answer: Value = serde_json::from_str(&ask(twin.as_ref(), "/invoices/find", &body.to_string()).1).unwrap();
        assert_eq!(answer["invoices"]["parameters"]["total"], total, "{conditions}");
        assert_eq!(answer["invoices"].get("2"), None, "no more than the limit");
    }
}

// F69
#[test]
fn the_panel_shows_names_as_text() {
    let twin = WFIRMA.twin().unwrap();
    twin.enroll(&settings(json!({})));
    let mut card = vectors()["contractor_add_ok"]["request"]["body"].clone();
    card["contractors"]["0"]["contractor"]["name"] = "<script>alert(1)</script>".into();
    ask(twin.as_ref(), "/contractors/add", &card.to_string());
    ask(twin.as_ref(), "/invoices/add", &vectors()["invoice_add_ok"]["request"]["body"].to_string());
    let (status, page) = ask(twin.as_ref(), "/panel", "");
    assert_eq!(status, 200);
    assert!(page.contains("FV 1/11/2026") && page.contains("99.99 PLN") && !page.contains("<script>"));
    let (_, pdf) = ask(twin.as_ref(), "/panel/510277301.pdf", "");
    assert!(pdf.starts_with("%PDF-") && pdf.contains("Razem: 99.99 PLN"));
    assert_eq!(ask(twin.as_ref(), "/panel/7.pdf", "").0, 404);
}
