//! The invoice job against a server that answers with the vendor's own bytes: time-outs, cut and broken answers, errors
//! inside HTTP 200, look-ups that mislead. The bytes are those of the published vectors, with our key and sum put in.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use grosz::config::Config;
use grosz::domain::invoice::{Cell, CellFacts, State, cell};
use grosz::store::{InvoiceRow, Page, Payment};
use grosz_providers::EventKind;
use serde_json::{Value, json};
use wiremock::matchers::{method, path};
use wiremock::{Mock, MockServer, Request, Respond, ResponseTemplate};

use crate::harness::{Engine, Hub};
use crate::matter::{event, invoicer, matter};
use crate::on_both;
use grosz::flows::add_account::add_invoicing_account;

fn vectors() -> Value {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/providers/fixtures/vectors/invoicing.json");
    let text = std::fs::read_to_string(path).expect("the vectors");
    let all: Value = serde_json::from_str(&text).expect("JSON");
    all[invoicer().facts().name].clone()
}

/// What the server does with a create.
#[derive(Clone, Copy, PartialEq)]
enum Create {
    /// Issues, and answers after the client has given up.
    TooLate,
    /// Issues, and answers HTTP 500.
    Error500,
    /// Issues, and answers half of a JSON text.
    HalfAnAnswer,
    /// Issues, and answers `OK` with nothing in it.
    EmptyOk,
    /// Does not issue; answers `ERROR` inside HTTP 200 with the vendor's validation errors.
    Refuse,
    /// Does not issue; answers HTTP 500.
    RefuseWith500,
}

/// What the server does with a look-up.
#[derive(Clone, Copy, PartialEq)]
enum Find {
    /// Finds what was issued.
    Honest,
    /// Drops the condition and answers strangers' invoices.
    IgnoresTheFilter,
    /// Finds what was issued only from this look-up on.
    LagsUntil(usize),
}

/// The server's books.
struct Books {
    create: Create,
    find: Find,
    creates: AtomicUsize,
    looks: AtomicUsize,
    issued: Mutex<Vec<Value>>,
}

impl Books {
    fn add(&self, request: &Request) -> ResponseTemplate {
        self.creates.fetch_add(1, Ordering::SeqCst);
        let body: Value = serde_json::from_slice(&request.body).expect("our JSON");
        let sent = body["invoices"]["0"]["invoice"].clone();
        let vectors = vectors();
        match self.create {
            Create::Refuse => return json_answer(&vectors["invoice_add_validation_error"]["response"]),
            Create::RefuseWith500 => return ResponseTemplate::new(500),
            Create::TooLate | Create::Error500 | Create::HalfAnAnswer | Create::EmptyOk => {}
        }
        let mut row = vectors["invoice_find_by_external_id"]["one_result"]["response"]["invoices"]["0"].clone();
        for field in ["id_external", "date", "description"] {
            row["invoice"][field] = sent[field].clone();
        }
        row["invoice"]["total"] = json!("123.00");
        self.issued.lock().expect("books").push(row);
        match self.create {
            Create::TooLate => json_answer(&json!({})).set_delay(Duration::from_secs(4)),
            Create::Error500 => ResponseTemplate::new(500).set_body_string("<html>Internal Server Error</html>"),
            Create::HalfAnAnswer => ResponseTemplate::new(200).set_body_string("{\"invoices\":{\"0\":{\"invoi"),
            _ => json_answer(&vectors["ok_without_record_on_add"]["response"]),
        }
    }

    fn look(&self, request: &Request) -> ResponseTemplate {
        let look = self.looks.fetch_add(1, Ordering::SeqCst);
        let found = &vectors()["invoice_find_by_external_id"];
        let mut answer = found["zero_results"]["response"].clone();
        match self.find {
            // The start-up probe with a random key would see this too; nothing was sent before, so the first look is clean.
            Find::IgnoresTheFilter if look > 0 => answer = found["filter_ignored"]["response"].clone(),
            Find::LagsUntil(honest) if look < honest => {}
            _ => {
                let asked = String::from_utf8_lossy(&request.body).into_owned();
                let issued = self.issued.lock().expect("books");
                let ours = issued
                    .iter()
                    .filter(|r| r["invoice"]["id_external"].as_str().is_some_and(|key| asked.contains(key)));
                for (n, row) in ours.enumerate() {
                    answer["invoices"][n.to_string()] = row.clone();
                }
            }
        }
        json_answer(&answer)
    }
}

struct Add(Arc<Books>);
struct Look(Arc<Books>);

impl Respond for Add {
    fn respond(&self, request: &Request) -> ResponseTemplate {
        self.0.add(request)
    }
}

impl Respond for Look {
    fn respond(&self, request: &Request) -> ResponseTemplate {
        self.0.look(request)
    }
}

fn json_answer(body: &Value) -> ResponseTemplate {
    ResponseTemplate::new(200).set_body_json(body)
}

/// A hub with a paid payment whose invoice goes to a server that behaves so.
async fn paid(engine: Engine, create: Create, find: Find) -> (Hub, Arc<Books>, Payment, MockServer) {
    paid_with(engine, create, find, |_| {}).await
}

/// The same, with settings changed.
async fn paid_with(
    engine: Engine,
    create: Create,
    find: Find,
    change: impl FnOnce(&mut Config),
) -> (Hub, Arc<Books>, Payment, MockServer) {
    let hub = Hub::start_with(engine, |c| {
        (c.connect_s, c.call_s, c.once_call_s) = (1, 2, 2);
        c.mail_invoices = false;
        change(c);
    })
    .await;
    let server = MockServer::start().await;
    let (creates, looks) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let books = Arc::new(Books { create, find, creates, looks, issued: Mutex::default() });
    let vectors = vectors();
    let on = |at: &str| Mock::given(method("POST")).and(path(at.to_owned()));
    on("/contractors/find")
        .respond_with(json_answer(&vectors["contractor_find_by_nip"]["response_none"]))
        .mount(&server)
        .await;
    on("/contractors/add").respond_with(json_answer(&vectors["contractor_add_ok"]["response"])).mount(&server).await;
    on("/invoices/add").respond_with(Add(Arc::clone(&books))).mount(&server).await;
    on("/invoices/find").respond_with(Look(Arc::clone(&books))).mount(&server).await;

    let given =
        json!({"access_key": "a", "secret_key": "s", "app_key": "k", "company_id": "1", "base_url": server.uri()});
    let given = given.as_object().expect("an object");
    let mut tx = hub.tx().await;
    let name = invoicer().facts().name;
    add_invoicing_account(&hub.app, &mut tx, &hub.merchant.id, name, given, false).await.expect("an account");
    tx.commit().await.expect("a commit");
    let matter = matter(&hub).await;
    let (payment, attempt) = matter.payment(&hub, "17/2026").await;
    matter.receive(&hub, event(&attempt, "paid", EventKind::Paid, "remote1")).await;
    (hub, books, payment, server)
}

async fn invoice(hub: &Hub, payment: &Payment) -> InvoiceRow {
    let mut tx = hub.app.store.read().await.expect("a reader");
    tx.invoice_of_payment(&payment.merchant_id, &payment.id).await.expect("an answer").expect("an invoice")
}

async fn mails_about(hub: &Hub) -> Vec<String> {
    hub.run_jobs().await;
    hub.mails()
}

async fn check_adopted(engine: Engine, create: Create, find: Find) {
    let (hub, books, payment, _server) = paid(engine, create, find).await;
    hub.run_jobs().await;
    assert_eq!(invoice(&hub, &payment).await.state, State::Unknown, "R-5W-48: nobody knows yet");
    for _ in 0..8 {
        hub.advance(31);
        hub.run_jobs().await;
    }
    let after = invoice(&hub, &payment).await;
    assert_eq!(after.state, State::Issued, "{after:?}");
    assert_eq!(books.creates.load(Ordering::SeqCst), 1, "sent once");
    assert_eq!(books.issued.lock().expect("books").len(), 1);
    assert_eq!(after.attempts, 1);
}

// F27
on_both!(a_create_that_is_answered_too_late_is_found, async |engine: Engine| {
    check_adopted(engine, Create::TooLate, Find::Honest).await;
});

// F29
on_both!(a_500_after_the_work_is_found, async |engine: Engine| {
    check_adopted(engine, Create::Error500, Find::Honest).await;
});

#[tokio::test(flavor = "multi_thread")]
async fn half_an_answer_is_no_answer() {
    check_adopted(Engine::Sqlite, Create::HalfAnAnswer, Find::Honest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ok_with_nothing_in_it_is_no_answer() {
    check_adopted(Engine::Sqlite, Create::EmptyOk, Find::Honest).await;
}

// F30: the index lags; the quiet period outlasts it.
#[tokio::test(flavor = "multi_thread")]
async fn a_look_up_that_lags_leads_to_no_second_send() {
    check_adopted(Engine::Sqlite, Create::Error500, Find::LagsUntil(3)).await;
}

// F30: nothing is concluded from strangers' rows, nothing is sent, a person hears when the time is up.
#[tokio::test(flavor = "multi_thread")]
async fn a_look_up_that_ignores_its_filter_stops_everything() {
    let (hub, books, payment, _server) = paid(Engine::Sqlite, Create::Error500, Find::IgnoresTheFilter).await;
    hub.run_jobs().await;
    for _ in 0..160 {
        hub.advance(601);
        hub.run_jobs().await;
    }
    let after = invoice(&hub, &payment).await;
    assert_eq!(after.state, State::Held);
    assert_eq!(books.creates.load(Ordering::SeqCst), 1);
    let mut tx = hub.app.store.read().await.expect("a reader");
    let alerts = tx.alerts(&payment.merchant_id, Some(&payment.id), true, &Page { before: None, limit: 9 }).await;
    let codes: Vec<String> = alerts.expect("alerts").into_iter().map(|a| a.code).collect();
    assert_eq!(codes, ["invoice.unknown"]);
}

// F31, R-5W-43, R-5W-44, R-5W-45, R-5W-47, R-5W-52
on_both!(three_refusals_then_one_letter_to_the_expert, async |engine: Engine| {
    let (hub, books, payment, _server) = paid(engine, Create::Refuse, Find::Honest).await;
    let (creates, check) = (&books.creates, |n: usize| assert_eq!(books.creates.load(Ordering::SeqCst), n));
    hub.run_jobs().await;
    check(1);
    hub.advance(59);
    hub.run_jobs().await;
    check(1);
    hub.advance(2);
    hub.run_jobs().await;
    check(2);
    assert!(mails_about(&hub).await.is_empty(), "two failures are nobody's news");
    hub.advance(601);
    hub.run_jobs().await;
    check(3);
    for _ in 0..5 {
        hub.advance(86_400);
        hub.run_jobs().await;
    }
    assert_eq!(creates.load(Ordering::SeqCst), 3, "and never again");
    let after = invoice(&hub, &payment).await;
    assert_eq!(after.state, State::Exhausted);
    let facts = CellFacts {
        status: grosz::domain::payment::Status::Completed,
        reason: None,
        invoice: Some(after.state),
        has_pdf: false,
        shown_attachment: false,
    };
    assert_eq!(cell(facts), Cell::Empty);

    let mut tx = hub.app.store.read().await.expect("a reader");
    let page = Page { before: None, limit: 99 };
    let notices = tx.notices(&payment.merchant_id, Some(&payment.id), &page).await.expect("notices");
    assert_eq!(notices.len(), 1, "exactly once");
    let notice = &notices[0];
    assert_eq!(notice.recipient, "ekspert@kancelaria.example");
    let first = notice.body.lines().next();
    assert_eq!(first, Some("Wystąpił błąd podczas wystawiania faktury dla klienta do sprawy nr 17/2026"));
    assert!(notice.body.contains("lines.") || notice.body.contains("buyer."), "the field to correct: {}", notice.body);
    assert!(notice.body.contains(&payment.id), "the link: {}", notice.body);
    let to_expert = hub.mails().iter().filter(|m| m.contains("ekspert@kancelaria.example")).count();
    assert_eq!(to_expert, 1);
});

// R-5W-43: three real failures without a word of why.
#[tokio::test(flavor = "multi_thread")]
async fn three_server_errors_are_three_attempts() {
    let (hub, books, payment, _server) = paid(Engine::Sqlite, Create::RefuseWith500, Find::Honest).await;
    for _ in 0..60 {
        hub.run_jobs().await;
        hub.advance(31);
    }
    assert_eq!(books.creates.load(Ordering::SeqCst), 3);
    assert_eq!(invoice(&hub, &payment).await.state, State::Exhausted);
}

// R-5W-47: with the setting on, an error that another attempt cannot cure ends it.
#[tokio::test(flavor = "multi_thread")]
async fn stop_on_permanent_stops_at_the_first_refusal() {
    let stop = |c: &mut Config| c.invoice_stop_on_permanent = true;
    let (hub, books, payment, _server) = paid_with(Engine::Sqlite, Create::Refuse, Find::Honest, stop).await;
    hub.run_jobs().await;
    assert_eq!(books.creates.load(Ordering::SeqCst), 1);
    assert_eq!(invoice(&hub, &payment).await.state, State::Exhausted);
}

// F34: an hour in which nobody answers uses up the attempts of the invoices that had begun, not of all; a person hears
// once about the account.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_does_not_burn_every_invoice() {
    let hub = Hub::start_with(Engine::Sqlite, |c| c.mail_invoices = false).await;
    let mut tx = hub.tx().await;
    let given = json!({"access_key": "a", "secret_key": "s", "app_key": "k", "company_id": "1", "base_url": "http://127.0.0.1:1"});
    let (name, given) = (invoicer().facts().name, given.as_object().expect("an object"));
    add_invoicing_account(&hub.app, &mut tx, &hub.merchant.id, name, given, false).await.expect("an account");
    tx.commit().await.expect("a commit");
    let matter = matter(&hub).await;
    let mut payments = vec![];
    for n in 0..30 {
        let (payment, attempt) = matter.payment(&hub, &format!("{n}/2026")).await;
        matter.receive(&hub, event(&attempt, &format!("paid{n}"), EventKind::Paid, "remote1")).await;
        payments.push(payment);
    }
    for _ in 0..120 {
        hub.run_jobs().await;
        hub.advance(30);
    }
    let mut untouched = 0;
    for payment in &payments {
        let after = invoice(&hub, payment).await;
        assert!(matches!(after.state, State::Queued | State::Exhausted), "{after:?}");
        untouched += usize::from(after.attempts == 0);
    }
    assert!(untouched >= 15, "{untouched} of 30 invoices still have all their attempts");
    let mut tx = hub.app.store.read().await.expect("a reader");
    let alerts = tx.alerts(&hub.merchant.id, None, true, &Page { before: None, limit: 99 }).await.expect("alerts");
    assert_eq!(alerts.iter().filter(|a| a.code == "invoice.unreachable").count(), 1);
}
