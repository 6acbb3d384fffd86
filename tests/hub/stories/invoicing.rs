//! What happens between a completed payment and an invoice in the payer's list, when the invoicing API misbehaves.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use grosz::app::App;
use grosz::clock::{Carried, Clock};
use grosz::domain::invoice::{Cell, State};
use grosz::flows::FlowError;
use grosz::flows::add_account::add_invoicing_account;
use grosz::flows::order_invoice::{attach, reissue};
use grosz::store::{Attachment, InvoicingAccount, JobKind, Payment, Tx};
use grosz_providers::invoicer::{Buyer, day_in};
use grosz_providers::wire::{Headers, Http, HttpError, HttpRequest, HttpResponse};
use grosz_providers::{Timestamp, registry};
use serde_json::json;
use tokio::task::JoinSet;

use super::stage::Stage;
use crate::harness::Engine;
use crate::on_both;
use crate::program::until;
use crate::raw::Raw;

/// The sentence of the source, word for word.
const SENTENCE: &str = "Wystąpił błąd podczas wystawiania faktury dla klienta do sprawy nr 17/2026";

impl Stage {
    /// A paid case whose invoice is ordered and not yet tried; then the dial.
    async fn paid(&self, number: &str, faults: serde_json::Value) -> Payment {
        let payment = self.pay(number, "autopay", "pay").await;
        self.dial(json!({ "wfirma": faults })).await;
        payment
    }

    async fn reissue(&self, payment: &Payment) -> Result<(), FlowError> {
        let mut tx = self.hub.tx().await;
        reissue(&self.hub.app, &mut tx, payment, None).await?;
        tx.commit().await.expect("a commit");
        Ok(())
    }

    async fn attach(&self, payment: &Payment) -> Result<(), FlowError> {
        let mut tx = self.hub.tx().await;
        self.attach_in(&mut tx, payment).await?;
        tx.commit().await.expect("a commit");
        Ok(())
    }

    async fn attach_in(&self, tx: &mut Tx, payment: &Payment) -> Result<(), FlowError> {
        let file = Attachment {
            name: "faktura.pdf".into(),
            media_type: "application/pdf".into(),
            number: Some("FV 1/2026".into()),
            body: b"%PDF-1.4 by hand".to_vec(),
        };
        attach(&self.hub.app, tx, payment, &file).await
    }

    /// A paid case whose ordered and not yet tried invoice is for somebody else.
    async fn paid_by(&self, number: &str, name: &str) -> Payment {
        let payment = self.pay(number, "autopay", "pay").await;
        self.change_buyer(&payment, |buyer| buyer.name = name.into()).await;
        payment
    }

    async fn change_buyer(&self, payment: &Payment, change: impl FnOnce(&mut Buyer)) {
        let mut invoice = self.invoice(payment).await.expect("an invoice");
        change(&mut invoice.order.buyer);
        let mut tx = self.hub.tx().await;
        tx.update_invoice(&invoice, self.hub.app.now()).await.expect("an invoice");
        tx.commit().await.expect("a commit");
    }

    /// Switches the stage's invoicing account on or off.
    async fn switch(&self, on: bool) {
        let mut tx = self.hub.tx().await;
        let found = tx.invoicing_account(&self.invoicing.merchant_id, &self.invoicing.id).await.expect("a look");
        let account = InvoicingAccount { enabled: on, ..found.expect("the account") };
        tx.update_invoicing_account(&account).await.expect("an account");
        tx.commit().await.expect("a commit");
    }

    /// A second invoicing account, of another company.
    async fn second_account(&self) -> InvoicingAccount {
        let twin = registry::invoicer("wfirma").and_then(|i| i.twin()).expect("its twin");
        let mut given = twin.demo_settings(&self.host.root("wfirma"));
        given.insert("company_id".into(), "100002".into());
        let mut tx = self.hub.tx().await;
        let (app, merchant) = (&self.hub.app, &self.hub.merchant.id);
        let added = add_invoicing_account(app, &mut tx, merchant, "wfirma", &given, false).await;
        tx.commit().await.expect("a commit");
        added.expect("an account")
    }

    /// What the simulated company has on record about a payment's invoice.
    async fn on_record(&self, payment: &Payment) -> serde_json::Value {
        let id = self.invoice(payment).await.and_then(|i| i.provider_id).expect("an invoice there");
        let url = format!("{}/sandbox/wfirma/invoices/get/{id}?company_id=100001", self.twins);
        let headers = ["accessKey", "secretKey", "appKey"].map(|name| (name, "demo".to_owned()));
        let answer = self.hub.raw("GET", &url, &headers, vec![]).await.expect(200).json();
        answer["invoices"]["0"]["invoice"].clone()
    }

    /// Runs what is due in eight places at once; answers how many runs there were.
    async fn run_jobs_at_once(&self) -> usize {
        let mut workers = JoinSet::new();
        for _ in 0..8 {
            let app = Arc::clone(&self.hub.app);
            workers.spawn(async move { grosz::worker::run_due(&app).await.expect("jobs run") });
        }
        workers.join_all().await.into_iter().sum()
    }

    /// How often a fault was shown that was dialled to a million.
    async fn shown(&self, fault: &str) -> u64 {
        1_000_000 - self.dialled("wfirma", fault).await
    }

    /// Runs the three attempts of the default schedule to their end.
    async fn all_attempts(&self) {
        self.hub.run_jobs().await;
        self.let_pass(60, 60).await;
        self.let_pass(600, 600).await;
    }
}

/// The way to the invoicing API: keeps what was called, and has some calls fail.
struct Watched {
    inner: Arc<dyn Http>,
    called: Mutex<Vec<String>>,
    /// A call with this text in its body is answered by an error of the server.
    breaks_on: &'static str,
}

impl Watched {
    /// A stage whose calls are watched.
    async fn stage(engine: Engine, breaks_on: &'static str) -> (Stage, Arc<Watched>) {
        let watched = Arc::new(Mutex::new(None));
        let mine = Arc::clone(&watched);
        let fit = move |app: &mut App| {
            let way = Watched { inner: Arc::clone(&app.http), called: Mutex::default(), breaks_on };
            let way = Arc::new(way);
            *mine.lock().expect("no panic before") = Some(Arc::clone(&way));
            app.http = way;
        };
        let stage = Stage::fitted(engine, fit).await;
        let watched = watched.lock().expect("no panic before").take();
        (stage, watched.expect("a way"))
    }

    /// How often such an address was called.
    fn count(&self, parts: [&str; 2]) -> usize {
        let called = self.called.lock().expect("no panic before");
        called.iter().filter(|url| parts.iter().all(|part| url.contains(part))).count()
    }
}

#[async_trait::async_trait]
impl Http for Watched {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        self.called.lock().expect("no panic before").push(request.url.clone());
        let is_odd = !self.breaks_on.is_empty() && String::from_utf8_lossy(&request.body).contains(self.breaks_on);
        if is_odd {
            let headers = Headers::from_pairs([("content-type", "text/html")]);
            return Ok(HttpResponse { status: 500, headers, body: b"<h1>500</h1>".to_vec() });
        }
        self.inner.send(request).await
    }
}

/// What a company is called for which the invoicing API fails each time.
const POISON: &str = "Trucizna SA";

// F27, F29, R-5W-48, R-5W-49: the invoice was made and its answer lost, or unreadable; looking finds it.
on_both!(an_invoice_whose_answer_is_lost_is_found_and_not_made_again, async |engine: Engine| {
    for fault in ["cut_after_work", "http_500_after_work", "html_answer", "ok_without_record"] {
        let stage = Stage::set(engine).await;
        let payment = stage.paid("17/2026", json!({ fault: 1 })).await;
        stage.hub.run_jobs().await;
        let invoice = stage.invoice(&payment).await.expect("an invoice");
        assert_eq!((invoice.state, invoice.attempts), (State::Unknown, 1), "{fault}: neither failed nor sent again");
        assert_eq!(stage.cell(&payment).await, Cell::Generating);
        stage.let_pass(10, 5).await;
        stage.expect_paid_and_invoiced(&payment).await;
        assert_eq!(stage.invoices().await, 1, "{fault}");
        assert_eq!(stage.invoice(&payment).await.expect("an invoice").attempts, 1, "looking is not an attempt");
        assert!(stage.alerts().await.is_empty());
    }
});

// F30: the index lags, or the look-up fails, or its filter is ignored: nothing is concluded, nothing made again.
on_both!(a_look_up_that_cannot_be_trusted_makes_no_second_invoice, async |engine: Engine| {
    for look in ["find_lags", "find_fails", "filter_ignored"] {
        let stage = Stage::set(engine).await;
        let mut looks = json!({ look: 1_000_000 });
        if look == "filter_ignored" {
            // An older invoice of somebody else's is all that the look-up shows.
            stage.pay("16/2026", "autopay", "pay").await;
            stage.hub.run_jobs().await;
            stage.hub.advance(3700);
            looks["find_lags"] = json!(1_000_000);
        }
        let before = stage.invoices().await;
        let payment = stage.paid("17/2026", json!({"cut_after_work": 1})).await;
        stage.hub.run_jobs().await;
        stage.dial(json!({ "wfirma": looks })).await;
        stage.let_pass(100, 5).await;
        assert_eq!(stage.invoice(&payment).await.expect("an invoice").state, State::Unknown, "{look}");
        stage.dial(json!({"wfirma": {}})).await;
        stage.let_pass(1200, 60).await;
        stage.expect_paid_and_invoiced(&payment).await;
        assert_eq!(stage.invoices().await, before + 1, "{look}");
    }
});

// F30: when the time is up and nothing can be known, a person is told and nothing is sent.
on_both!(an_outcome_that_stays_unknown_becomes_an_alert, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    let payment = stage.paid("17/2026", json!({"cut_after_work": 1})).await;
    stage.hub.run_jobs().await;
    stage.dial(json!({"wfirma": {"find_fails": 1_000_000}})).await;
    stage.let_pass(87_600, 1200).await;
    assert_eq!(stage.invoice(&payment).await.expect("an invoice").state, State::Held);
    assert_eq!(stage.alerts().await, ["invoice.unknown"]);
    assert_eq!((stage.invoices().await, stage.cell(&payment).await), (1, Cell::Empty));
    // An expert presses "issue again": the look-up finds what was made.
    stage.dial(json!({"wfirma": {}})).await;
    stage.reissue(&payment).await.unwrap();
    stage.let_pass(600, 60).await;
    stage.expect_paid_and_invoiced(&payment).await;
    assert_eq!(stage.invoices().await, 1);
    assert!(stage.alerts().await.is_empty());
});

// F31, R-5W-43, R-5W-44, R-5W-45, R-5W-47, R-5W-52; then F32, R-5W-51.
on_both!(three_refusals_end_in_one_notice_and_a_repair_in_one_invoice, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    let payment = stage.paid("17/2026", json!({"error_in_200": 100})).await;
    stage.hub.run_jobs().await;
    assert_eq!(stage.dialled("wfirma", "error_in_200").await, 99, "the first attempt at once");
    stage.let_pass(55, 55).await;
    assert_eq!(stage.dialled("wfirma", "error_in_200").await, 99);
    stage.let_pass(5, 5).await;
    assert_eq!(stage.dialled("wfirma", "error_in_200").await, 98, "the second after a minute");
    assert_eq!(stage.cell(&payment).await, Cell::Generating);
    stage.let_pass(600, 300).await;
    stage.let_pass(86_400, 3600).await;
    assert_eq!(stage.dialled("wfirma", "error_in_200").await, 97, "exactly three creates");

    let invoice = stage.invoice(&payment).await.expect("an invoice");
    assert_eq!((invoice.state, invoice.attempts), (State::Exhausted, 3));
    assert_eq!((stage.cell(&payment).await, stage.invoices().await), (Cell::Empty, 0));
    let alerts = stage.open_alerts().await;
    assert_eq!(alerts.len(), 1);
    assert_eq!(
        (alerts[0].code.as_str(), alerts[0].expert_id.as_ref()),
        ("invoice.exhausted", Some(&stage.experts[0].id))
    );
    assert_eq!(alerts[0].fields.first().map(|(field, _)| field.as_str()), Some("buyer.postcode"));
    let notices = stage.notices("invoice.exhausted").await;
    assert_eq!(notices.len(), 1);
    assert_eq!((notices[0].recipient.as_str(), notices[0].state.as_str()), ("ekspert1@kancelaria.example", "sent"));
    assert!(notices[0].body.starts_with(&format!("{SENTENCE}\n")), "{}", notices[0].body);
    assert!(notices[0].body.contains("/console/payments/"), "a link");
    assert_eq!(stage.hub.mails().len(), 1);

    stage.dial(json!({"wfirma": {}})).await;
    stage.reissue(&payment).await.unwrap();
    let twice = stage.reissue(&payment).await;
    assert!(matches!(twice, Err(FlowError::Conflict { code: "invoice_in_progress", .. })), "{twice:?}");
    assert!(stage.alerts().await.is_empty());
    stage.hub.run_jobs().await;
    stage.expect_paid_and_invoiced(&payment).await;
    assert_eq!(stage.invoices().await, 1);
    assert_eq!(stage.notices("invoice.exhausted").await.len(), 1);
});

// R-5W-45: a second exhaustion after "issue again" is a matter of its own.
on_both!(a_second_generation_that_fails_is_told_of_again, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    let payment = stage.paid("17/2026", json!({"error_in_200": 100})).await;
    stage.all_attempts().await;
    stage.reissue(&payment).await.unwrap();
    stage.all_attempts().await;
    assert_eq!(stage.dialled("wfirma", "error_in_200").await, 94);
    assert_eq!(stage.notices("invoice.exhausted").await.len(), 2);
    assert_eq!(stage.alerts().await, ["invoice.exhausted"]);
});

// R-5W-46: the case changed hands between the attempts; and with nobody in charge the merchant's own address hears.
on_both!(the_notice_goes_to_whoever_has_the_case_now, async |engine: Engine| {
    for (second, hears) in [(true, "ekspert2@kancelaria.example"), (false, "biuro@kancelaria.example")] {
        let stage = Stage::set(engine).await;
        let payment = stage.paid("17/2026", json!({"error_in_200": 100})).await;
        stage.hub.run_jobs().await;
        let mut tx = stage.hub.tx().await;
        let id = payment.case_id.as_deref().expect("a case");
        let mut case = tx.case(&payment.merchant_id, id).await.unwrap().expect("the case");
        case.expert_id = second.then(|| stage.experts[1].id.clone());
        tx.update_case(&case).await.unwrap();
        tx.commit().await.unwrap();
        stage.let_pass(60, 60).await;
        stage.let_pass(600, 600).await;
        let notices = stage.notices("invoice.exhausted").await;
        assert_eq!(notices.iter().map(|n| n.recipient.as_str()).collect::<Vec<_>>(), [hears]);
        assert!(notices[0].body.starts_with(SENTENCE));
    }
});

// R-5W-47: the setting ends early on what another attempt cannot cure.
on_both!(stopping_on_permanent_errors_makes_one_call, async |engine: Engine| {
    let stage = Stage::set_with(engine, |config| config.invoice_stop_on_permanent = true).await;
    let payment = stage.paid("17/2026", json!({"error_in_200": 100})).await;
    stage.hub.run_jobs().await;
    assert_eq!(stage.dialled("wfirma", "error_in_200").await, 99);
    assert_eq!(stage.cell(&payment).await, Cell::Empty);
    assert_eq!(stage.alerts().await, ["invoice.exhausted"]);
});

// A plain failure that passes: the second attempt issues, after the pause that was asked for.
on_both!(a_failure_that_passes_costs_one_attempt, async |engine: Engine| {
    for (fault, pause) in [("out_of_service", 300), ("snapshot_lock", 600)] {
        let stage = Stage::set(engine).await;
        let payment = stage.paid("17/2026", json!({ fault: 1 })).await;
        stage.hub.run_jobs().await;
        assert_eq!(stage.cell(&payment).await, Cell::Generating, "{fault}");
        stage.let_pass(pause - 60, 60).await;
        assert_eq!(stage.invoices().await, 0, "{fault}");
        stage.let_pass(61, 61).await;
        stage.expect_paid_and_invoiced(&payment).await;
        assert_eq!(stage.invoice(&payment).await.expect("an invoice").attempts, 2);
        assert_eq!(stage.invoices().await, 1);
        assert!(stage.alerts().await.is_empty(), "{fault}");
    }
});

// F34: while the whole service is out, only the first invoice burns its attempts; the others wait and are then issued.
on_both!(a_service_that_is_out_does_not_burn_the_backlog, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    let first = stage.paid("17/2026", json!({"out_of_service": 1_000_000})).await;
    stage.hub.run_jobs().await;
    let mut waiting = vec![];
    for number in ["18/2026", "19/2026", "20/2026"] {
        waiting.push(stage.pay(number, "autopay", "pay").await);
    }
    stage.hub.run_jobs().await;
    for payment in &waiting {
        let invoice = stage.invoice(payment).await.expect("an invoice");
        assert_eq!((invoice.state, invoice.attempts), (State::Queued, 0));
    }
    stage.dial(json!({"wfirma": {}})).await;
    stage.let_pass(1800, 60).await;
    stage.expect_paid_and_invoiced(&first).await;
    for payment in &waiting {
        stage.expect_paid_and_invoiced(payment).await;
    }
    assert_eq!(stage.invoices().await, 4);
});

// Wrong keys: told once, other invoices wait, a probe finds the repair, and all goes on by itself.
on_both!(refused_keys_pause_the_account_until_a_probe_succeeds, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    let first = stage.paid("17/2026", json!({"auth": 1_000_000})).await;
    stage.hub.run_jobs().await;
    assert_eq!(stage.alerts().await, ["invoice.account"]);
    let second = stage.pay("18/2026", "autopay", "pay").await;
    stage.hub.run_jobs().await;
    assert_eq!(stage.invoice(&second).await.expect("an invoice").attempts, 0, "it waits");
    // The first makes its three attempts, as the source demands (R-5W-47).
    stage.let_pass(900, 60).await;
    assert_eq!(stage.invoice(&first).await.expect("an invoice").state, State::Exhausted);
    assert_eq!(stage.alerts().await, ["invoice.account", "invoice.exhausted"]);
    assert_eq!(stage.invoice(&second).await.expect("an invoice").attempts, 0, "it still waits");
    assert_eq!(stage.notices("invoice.account").await.len(), 1, "told once");

    stage.dial(json!({"wfirma": {}})).await;
    stage.let_pass(900, 60).await;
    stage.expect_paid_and_invoiced(&second).await;
    assert_eq!(stage.alerts().await, ["invoice.exhausted"], "the account's own matter settled itself");
    stage.reissue(&first).await.unwrap();
    stage.hub.run_jobs().await;
    stage.expect_paid_and_invoiced(&first).await;
});

// F33, R-5W-42: made by hand meanwhile; the job ends without a create, and the cell stays empty as the source says.
on_both!(an_attached_document_ends_the_issuing, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    let payment = stage.paid("17/2026", json!({"error_in_200": 100})).await;
    stage.hub.run_jobs().await;
    stage.attach(&payment).await.unwrap();
    stage.let_pass(86_400, 3600).await;
    assert_eq!(stage.dialled("wfirma", "error_in_200").await, 99, "no create after it");
    let invoice = stage.invoice(&payment).await.expect("an invoice");
    assert_eq!((invoice.state, invoice.number.as_deref()), (State::ByHand, Some("FV 1/2026")));
    assert_eq!((stage.cell(&payment).await, stage.alerts().await.len()), (Cell::Empty, 0));
    let again = stage.reissue(&payment).await;
    assert!(matches!(again, Err(FlowError::Conflict { code: "invoice_issued", .. })), "{again:?}");
});

// F33: nobody may attach while it is not known whether the send made an invoice.
on_both!(nothing_is_attached_while_the_outcome_is_unknown, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    let payment = stage.paid("17/2026", json!({"cut_after_work": 1})).await;
    stage.hub.run_jobs().await;
    let refused = stage.attach(&payment).await;
    assert!(matches!(refused, Err(FlowError::Conflict { code: "invoice_in_progress", .. })), "{refused:?}");
});

// R-5W-41: no integration, no invoice, an empty cell.
on_both!(without_an_integration_there_is_nothing_to_issue, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    let mut off = stage.invoicing.clone();
    off.enabled = false;
    let mut tx = stage.hub.tx().await;
    tx.update_invoicing_account(&off).await.unwrap();
    tx.commit().await.unwrap();
    let payment = stage.pay("17/2026", "autopay", "pay").await;
    stage.hub.run_jobs().await;
    assert!(stage.invoice(&payment).await.is_none());
    assert_eq!((stage.cell(&payment).await, stage.invoices().await), (Cell::Empty, 0));
    assert!(stage.alerts().await.is_empty());
});

// R-5W-53: the PDF waits for the national number, is fetched once it is there, and half a document is not taken.
on_both!(the_pdf_waits_until_it_is_whole, async |engine: Engine| {
    for fault in ["ksef_pending", "pdf_cut"] {
        let stage = Stage::set(engine).await;
        let payment = stage.paid("17/2026", json!({ fault: 3 })).await;
        stage.hub.run_jobs().await;
        assert_eq!(stage.invoice(&payment).await.expect("an invoice").state, State::Issued, "{fault}");
        assert_eq!(stage.cell(&payment).await, Cell::Generating, "{fault}");
        assert!(stage.hub.mails().is_empty());
        stage.let_pass(600, 30).await;
        stage.expect_paid_and_invoiced(&payment).await;
        assert_eq!((stage.invoices().await, stage.hub.mails().len()), (1, 1), "{fault}");
    }
});

// An answer OK is compared with what was asked: what differs is not handed to the payer.
on_both!(an_invoice_that_differs_is_shown_to_a_person, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    let payment = stage.paid("17/2026", json!({"wrong_total": 1})).await;
    stage.hub.run_jobs().await;
    stage.let_pass(1200, 60).await;
    assert_eq!(stage.invoice(&payment).await.expect("an invoice").state, State::IssuedDiffers);
    assert_eq!(stage.alerts().await, ["invoice.issued_differs"]);
    assert_eq!((stage.cell(&payment).await, stage.invoices().await), (Cell::Empty, 1));
});

// F28: killed after the API made the invoice and before its answer was on record.
on_both!(an_invoice_made_before_a_crash_is_found_after_it, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    let payment = stage.paid("17/2026", json!({"cut_after_work": 1})).await;
    stage.hub.run_jobs().await;
    // Back to the mark that a killed process leaves behind: sending, its job claimed, its lease running out.
    let mut invoice = stage.invoice(&payment).await.expect("an invoice");
    invoice.state = State::Sending;
    invoice.sending_since = Some(stage.hub.app.now());
    invoice.unknown_since = None;
    let mut tx = stage.hub.tx().await;
    tx.update_invoice(&invoice, stage.hub.app.now()).await.unwrap();
    tx.hasten(&payment.merchant_id, JobKind::IssueInvoice, &invoice.id, stage.hub.app.now()).await.unwrap();
    let lease = stage.hub.app.now() + 1_000_000;
    assert_eq!(tx.claim_jobs(grosz::store::Lane::Rest, stage.hub.app.now(), lease, 1).await.unwrap().len(), 1);
    tx.commit().await.unwrap();
    stage.let_pass(10, 5).await;
    stage.expect_paid_and_invoiced(&payment).await;
    assert_eq!(stage.invoices().await, 1);
});

// F27: the API takes the call, does nothing and never answers: unknown until two clean look-ups and the quiet period say
// that there is none; only then the next attempt sends.
on_both!(a_call_without_an_answer_is_looked_into_before_it_is_repeated, async |engine: Engine| {
    let brief = |config: &mut grosz::config::Config| {
        (config.connect_s, config.call_s, config.once_call_s) = (1, 2, 2);
    };
    let stage = Stage::set_with(engine, brief).await;
    let payment = stage.paid("17/2026", json!({"hang": 1})).await;
    stage.hub.run_jobs().await;
    assert_eq!(stage.invoice(&payment).await.expect("an invoice").state, State::Unknown);
    stage.let_pass(115, 5).await;
    let waiting = stage.invoice(&payment).await.expect("an invoice");
    assert_eq!((waiting.state, waiting.attempts, stage.invoices().await), (State::Unknown, 1, 0), "the quiet period");
    stage.let_pass(900, 60).await;
    stage.expect_paid_and_invoiced(&payment).await;
    assert_eq!((stage.invoices().await, stage.invoice(&payment).await.expect("an invoice").attempts), (1, 2));
});

// F33, R-5W-49: attached while a run of the job waits for an answer before its send; that run sends nothing any more.
on_both!(a_document_attached_during_a_run_stops_the_run, async |engine: Engine| {
    for call in ["invoices/find", "contractors/"] {
        let (stage, gate) = Stage::gated(engine).await;
        let payment = stage.paid("17/2026", json!({})).await;
        gate.hold(call);
        let meanwhile = async {
            gate.reached().await;
            stage.attach(&payment).await.unwrap();
            gate.open();
        };
        tokio::join!(stage.hub.run_jobs(), meanwhile);
        let invoice = stage.invoice(&payment).await.expect("an invoice");
        assert_eq!((invoice.state, invoice.number.as_deref()), (State::ByHand, Some("FV 1/2026")), "{call}");
        stage.let_pass(86_400, 3600).await;
        assert_eq!((stage.invoices().await, stage.alerts().await.len()), (0, 0), "{call}");
        assert_eq!(stage.invoice(&payment).await.expect("an invoice").state, State::ByHand, "{call}");
    }
});

// The same when its answer is a failure: it would have written over what the expert did.
on_both!(a_failure_after_an_attachment_changes_nothing, async |engine: Engine| {
    let (stage, gate) = Stage::gated(engine).await;
    let payment = stage.paid("17/2026", json!({"find_fails": 1})).await;
    gate.hold("invoices/find");
    let meanwhile = async {
        gate.reached().await;
        stage.attach(&payment).await.unwrap();
        gate.open();
    };
    tokio::join!(stage.hub.run_jobs(), meanwhile);
    stage.let_pass(3600, 300).await;
    let invoice = stage.invoice(&payment).await.expect("an invoice");
    assert_eq!((invoice.state, invoice.attempts, stage.invoices().await), (State::ByHand, 0, 0));
});

// F32: issued again while a run of the generation before waits for an answer; the new generation is not written over.
on_both!(issuing_again_during_a_run_begins_anew, async |engine: Engine| {
    let (stage, gate) = Stage::gated(engine).await;
    let payment = stage.paid("17/2026", json!({})).await;
    gate.hold("invoices/find");
    let meanwhile = async {
        gate.reached().await;
        // As a person's work elsewhere leaves it.
        let mut invoice = stage.invoice(&payment).await.expect("an invoice");
        invoice.state = State::Held;
        let mut tx = stage.hub.tx().await;
        tx.update_invoice(&invoice, stage.hub.app.now()).await.unwrap();
        tx.commit().await.unwrap();
        stage.reissue(&payment).await.unwrap();
        gate.open();
    };
    tokio::join!(stage.hub.run_jobs(), meanwhile);
    stage.let_pass(60, 60).await;
    stage.expect_paid_and_invoiced(&payment).await;
    let invoice = stage.invoice(&payment).await.expect("an invoice");
    assert_eq!((invoice.generation, invoice.attempts, stage.invoices().await), (2, 1, 1));
});

// A document that a look-up finds is held against the order like one whose answer came in time.
on_both!(an_invoice_found_later_is_compared_as_a_whole, async |engine: Engine| {
    for fault in ["wrong_rate", "wrong_buyer"] {
        let stage = Stage::set(engine).await;
        let payment = stage.paid("17/2026", json!({"cut_after_work": 1, fault: 1})).await;
        stage.hub.run_jobs().await;
        stage.let_pass(600, 5).await;
        assert_eq!(stage.invoice(&payment).await.expect("an invoice").state, State::IssuedDiffers, "{fault}");
        assert_eq!(stage.alerts().await, ["invoice.issued_differs"], "{fault}");
        assert_eq!((stage.cell(&payment).await, stage.invoices().await, stage.hub.mails().len()), (Cell::Empty, 1, 1));
    }
});

// A document that is found and cannot be read exists all the same: nothing is made again, and it is compared when its
// PDF is fetched, before the payer has it.
on_both!(an_invoice_found_that_cannot_be_read_is_compared_later, async |engine: Engine| {
    for fault in ["", "wrong_buyer"] {
        let stage = Stage::set(engine).await;
        let mut faults = json!({"cut_after_work": 1, "get_fails": 1_000_000});
        if !fault.is_empty() {
            faults[fault] = json!(1);
        }
        let payment = stage.paid("17/2026", faults).await;
        stage.hub.run_jobs().await;
        stage.let_pass(3600, 30).await;
        let invoice = stage.invoice(&payment).await.expect("an invoice");
        assert_eq!((invoice.state, invoice.pdf_sha256), (State::Issued, None), "{fault}");
        assert_eq!(stage.cell(&payment).await, Cell::Generating);
        stage.dial(json!({"wfirma": {}})).await;
        stage.let_pass(3600, 60).await;
        match fault {
            "" => stage.expect_paid_and_invoiced(&payment).await,
            _ => assert_eq!(stage.invoice(&payment).await.expect("an invoice").state, State::IssuedDiffers),
        }
        assert_eq!(stage.invoices().await, 1);
    }
});

// What differs only when the printed document is fetched is shown to a person, too, and not handed out.
on_both!(a_difference_seen_with_the_pdf_is_told, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    let payment = stage.paid("17/2026", json!({"changed_later": 1_000_000})).await;
    stage.hub.run_jobs().await;
    stage.let_pass(3600, 60).await;
    let invoice = stage.invoice(&payment).await.expect("an invoice");
    assert_eq!((invoice.state, invoice.pdf_sha256), (State::IssuedDiffers, None));
    assert_eq!(stage.alerts().await, ["invoice.issued_differs"]);
    assert_eq!((stage.cell(&payment).await, stage.notices("invoice.issued_differs").await.len()), (Cell::Empty, 1));
});

// ADR 0041: a look-up that works does not show that writing works. One invoice at a time is the trial, and it costs
// nothing; the matter stays open until something was issued.
on_both!(a_refused_write_is_healed_by_a_write_alone, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    let first = stage.paid("17/2026", json!({"ksef_authorisation": 1_000_000})).await;
    stage.hub.run_jobs().await;
    assert_eq!(stage.alerts().await, ["invoice.account"]);
    let mut waiting = vec![];
    for number in ["18/2026", "19/2026", "20/2026"] {
        waiting.push(stage.pay(number, "autopay", "pay").await);
    }
    stage.let_pass(7200, 60).await;
    assert_eq!(stage.invoice(&first).await.expect("an invoice").state, State::Exhausted, "its own three attempts");
    for payment in &waiting {
        let invoice = stage.invoice(payment).await.expect("an invoice");
        assert_eq!((invoice.state, invoice.attempts), (State::Queued, 0));
    }
    assert_eq!(stage.alerts().await, ["invoice.account", "invoice.exhausted"]);
    assert_eq!(stage.notices("invoice.account").await.len(), 1, "told once");
    let sent = stage.shown("ksef_authorisation").await;
    assert!((10..=3 + 7200 / 300 + 1).contains(&sent), "one trial for each probe: {sent}");

    stage.dial(json!({"wfirma": {}})).await;
    stage.let_pass(1200, 60).await;
    for payment in &waiting {
        stage.expect_paid_and_invoiced(payment).await;
    }
    assert_eq!((stage.invoices().await, stage.alerts().await), (3, vec!["invoice.exhausted".to_owned()]));
});

// However many calls an account bears at a time: the trial is one invoice.
on_both!(one_invoice_is_the_trial_and_not_many, async |engine: Engine| {
    let stage = Stage::set_with(engine, |config| config.invoicing_concurrency = 8).await;
    stage.paid("17/2026", json!({"ksef_authorisation": 1_000_000})).await;
    stage.hub.run_jobs().await;
    for number in ["18/2026", "19/2026", "20/2026", "21/2026", "22/2026"] {
        stage.pay(number, "autopay", "pay").await;
    }
    // The first makes its three attempts.
    stage.let_pass(1500, 60).await;
    for _ in 0..5 {
        let sent = stage.shown("ksef_authorisation").await;
        for _ in 0..11 {
            stage.hub.advance(30);
            stage.run_jobs_at_once().await;
        }
        let trials = stage.shown("ksef_authorisation").await - sent;
        assert!((1..=2).contains(&trials), "{trials} in as little as one probe takes");
    }
});

// Refused keys: the invoice that met them makes its three attempts, then only the probe asks, whatever the hour.
on_both!(while_keys_are_refused_only_the_probe_asks, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    let first = stage.paid("17/2026", json!({"auth": 1_000_000})).await;
    stage.hub.run_jobs().await;
    let mut waiting = vec![];
    for number in ["18/2026", "19/2026", "20/2026"] {
        waiting.push(stage.pay(number, "autopay", "pay").await);
    }
    stage.let_pass(7200, 60).await;
    let asked = stage.shown("auth").await;
    assert!(asked <= 3 + 7200 / 300, "{asked}");
    assert_eq!(stage.invoice(&first).await.expect("an invoice").state, State::Exhausted);
    assert_eq!(stage.alerts().await, ["invoice.account", "invoice.exhausted"]);
    stage.dial(json!({"wfirma": {}})).await;
    stage.let_pass(600, 60).await;
    for payment in &waiting {
        stage.expect_paid_and_invoiced(payment).await;
        assert_eq!(stage.invoice(payment).await.expect("an invoice").attempts, 1);
    }
    assert_eq!(stage.alerts().await, ["invoice.exhausted"]);
});

// A pause that was asked for binds the invoice that heard of it as well, and look-ups, too.
on_both!(a_pause_binds_whoever_met_it, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    let payment = stage.paid("17/2026", json!({"out_of_service": 1_000_000})).await;
    stage.hub.run_jobs().await;
    stage.let_pass(295, 5).await;
    assert_eq!(stage.shown("out_of_service").await, 1, "five minutes were asked for");
    stage.let_pass(10, 5).await;
    assert_eq!(stage.shown("out_of_service").await, 2);
    stage.dial(json!({"wfirma": {}})).await;
    stage.let_pass(1200, 60).await;
    stage.expect_paid_and_invoiced(&payment).await;

    let payment = stage.paid("18/2026", json!({"cut_after_work": 1})).await;
    stage.hub.run_jobs().await;
    stage.dial(json!({"wfirma": {"auth": 1_000_000}})).await;
    stage.let_pass(10, 5).await;
    assert_eq!(stage.alerts().await, ["invoice.account"]);
    stage.let_pass(3600, 30).await;
    let asked = stage.shown("auth").await;
    assert!(asked <= 2 + 2 * 3600 / 300, "{asked}");
    stage.dial(json!({"wfirma": {}})).await;
    stage.let_pass(1200, 60).await;
    stage.expect_paid_and_invoiced(&payment).await;
    assert!(stage.alerts().await.is_empty());
});

// A look-up that is told to come later comes later, and the invoice is found all the same.
on_both!(a_look_up_that_was_put_off_waits, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    let payment = stage.paid("17/2026", json!({"cut_after_work": 1})).await;
    stage.hub.run_jobs().await;
    stage.dial(json!({"wfirma": {"find_fails": 1_000_000}})).await;
    stage.let_pass(60, 5).await;
    assert_eq!(stage.shown("find_fails").await, 1, "after such an answer a minute is asked for");
    stage.let_pass(10, 5).await;
    assert_eq!(stage.shown("find_fails").await, 2);
    stage.dial(json!({"wfirma": {}})).await;
    stage.let_pass(1200, 60).await;
    stage.expect_paid_and_invoiced(&payment).await;
    assert_eq!(stage.invoices().await, 1);
});

// F31, R-5W-47: whatever stands in the way, three tries and the expert hears, within minutes and once; where it was the
// search, nothing was sent.
on_both!(a_system_that_cannot_be_searched_is_tried_three_times, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    let payment = stage.paid("17/2026", json!({"find_fails": 1_000_000})).await;
    stage.all_attempts().await;
    let invoice = stage.invoice(&payment).await.expect("an invoice");
    assert_eq!((invoice.state, invoice.attempts, stage.invoices().await), (State::Exhausted, 3, 0));
    assert_eq!(stage.cell(&payment).await, Cell::Empty);
    assert_eq!(stage.alerts().await, ["invoice.exhausted"]);
    assert_eq!(stage.notices("invoice.exhausted").await.len(), 1);
    stage.dial(json!({"wfirma": {}})).await;
    stage.reissue(&payment).await.unwrap();
    stage.let_pass(60, 10).await;
    stage.expect_paid_and_invoiced(&payment).await;
    assert_eq!(stage.invoices().await, 1);
});

// F30: surely refused, and the search before the next attempt fails: nothing is in doubt, so the attempts go on.
on_both!(a_search_that_fails_after_a_refusal_raises_no_doubt, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    let payment = stage.paid("17/2026", json!({"error_in_200": 1})).await;
    stage.hub.run_jobs().await;
    assert_eq!(stage.invoice(&payment).await.expect("an invoice").attempts, 1);
    stage.dial(json!({"wfirma": {"find_fails": 1_000_000}})).await;
    stage.let_pass(1200, 30).await;
    let invoice = stage.invoice(&payment).await.expect("an invoice");
    assert_eq!((invoice.state, invoice.attempts, stage.invoices().await), (State::Exhausted, 3, 0));
    assert_eq!(stage.alerts().await, ["invoice.exhausted"]);
});

// F34: many invoices and one slot: the oldest first, and nobody asks again and again whether it is his turn.
on_both!(a_backlog_is_issued_in_its_order, async |engine: Engine| {
    const BACKLOG: usize = 200;
    let stage = Stage::set_with(engine, |config| config.mail_invoices = false).await;
    let mut payments = vec![];
    for n in 0..BACKLOG {
        payments.push(stage.pay(&format!("{n}/2026"), "autopay", "pay").await);
        stage.hub.app.clock.advance(Duration::from_millis(1));
    }
    let (mut runs, mut rounds) = (0, 0);
    while stage.invoices().await < BACKLOG && rounds < 300 {
        runs += stage.run_jobs_at_once().await;
        rounds += 1;
        stage.hub.advance(1);
    }
    stage.hub.run_jobs().await;
    let mut numbers = vec![];
    for payment in &payments {
        let invoice = stage.invoice(payment).await.expect("an invoice");
        let number = invoice.number.unwrap_or_else(|| panic!("{} was left behind: {rounds} rounds", invoice.id));
        let n = number.trim_start_matches("FV ").split('/').next().and_then(|n| n.parse::<usize>().ok());
        numbers.push(n.expect("a number"));
    }
    let out_of_order = numbers.iter().enumerate().filter(|(at, n)| n.abs_diff(at + 1) > 8).count();
    assert_eq!(out_of_order, 0, "{numbers:?}");
    assert!(runs <= 5 * BACKLOG, "{runs} runs for {BACKLOG} invoices and as many documents");
});

// An attempt that comes later finds the buyer's card changed by another invoice meanwhile, and puts it right first.
on_both!(a_later_attempt_looks_at_the_card_again, async |engine: Engine| {
    let brief = |config: &mut grosz::config::Config| {
        (config.connect_s, config.call_s, config.once_call_s) = (1, 2, 2);
    };
    let stage = Stage::set_with(engine, brief).await;
    let first = stage.paid("17/2026", json!({"hang": 1})).await;
    stage.hub.run_jobs().await;
    assert_eq!(stage.invoice(&first).await.expect("an invoice").state, State::Unknown);
    // The same company, moved.
    let second = stage.pay("18/2026", "autopay", "pay").await;
    let mut invoice = stage.invoice(&second).await.expect("an invoice");
    invoice.order.buyer.street = "ul. Nowa 2".into();
    let mut tx = stage.hub.tx().await;
    tx.update_invoice(&invoice, stage.hub.app.now()).await.unwrap();
    tx.commit().await.unwrap();
    stage.hub.run_jobs().await;
    stage.let_pass(1200, 60).await;
    for (payment, street) in [(&first, "ul. Przykładowa 1"), (&second, "ul. Nowa 2")] {
        stage.expect_paid_and_invoiced(payment).await;
        assert_eq!(stage.on_record(payment).await["contractor_detail"]["street"], street);
    }
});

// Documents are dated by the world's time, whatever the database's clock says.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_invoice_is_dated_by_the_worlds_time() {
    let ahead = Timestamp::now().as_microsecond() + 30 * 3_600_000_000;
    let database = Arc::new(Carried::new(ahead));
    let stage = Stage::fitted(Engine::Sqlite, move |app| app.clock = Clock::Shared(database)).await;
    let today = || day_in("Europe/Warsaw", Timestamp::now());
    let before = today();
    let payment = stage.paid("17/2026", json!({})).await;
    stage.hub.run_jobs().await;
    let date = stage.on_record(&payment).await["date"].as_str().expect("a date").to_owned();
    assert!([before, today()].map(|d| d.to_string()).contains(&date), "{date}");
}

// SNAPSHOT LOCK and its like take documents away: a person hears at once, once, and nothing is made in its place.
on_both!(a_document_that_vanished_is_told_at_once, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    let payment = stage.paid("17/2026", json!({"vanished": 1_000_000})).await;
    stage.hub.run_jobs().await;
    assert_eq!(stage.invoice(&payment).await.expect("an invoice").state, State::Held);
    assert_eq!((stage.alerts().await, stage.cell(&payment).await), (vec!["invoice.unknown".to_owned()], Cell::Empty));
    let asked = stage.shown("vanished").await;
    stage.let_pass(3 * 86_400, 3600).await;
    assert_eq!((stage.shown("vanished").await, stage.notices("invoice.unknown").await.len()), (asked, 1));
    stage.attach(&payment).await.unwrap();
    assert_eq!(stage.invoice(&payment).await.expect("an invoice").state, State::ByHand);
    assert!(stage.alerts().await.is_empty());
});

// R-5W-53: a document that cannot be had is told of once; the expert's own one ends the fetching.
on_both!(a_pdf_that_cannot_be_had_is_told_once, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    let payment = stage.paid("17/2026", json!({"pdf_cut": 1_000_000})).await;
    stage.hub.run_jobs().await;
    stage.let_pass(2 * 86_400, 1800).await;
    assert_eq!(stage.alerts().await, ["invoice.pdf_missing"]);
    let id = stage.invoice(&payment).await.expect("an invoice").id;
    let mut tx = stage.hub.tx().await;
    let now = stage.hub.app.now();
    tx.resolve_alert_by_key(&payment.merchant_id, &format!("invoice.pdf_missing:{id}"), now).await.unwrap();
    tx.commit().await.unwrap();
    stage.let_pass(86_400, 1800).await;
    assert!(stage.alerts().await.is_empty(), "what a person closed stays closed");
    stage.attach(&payment).await.unwrap();
    stage.let_pass(3600, 1800).await;
    let asked = stage.shown("pdf_cut").await;
    stage.let_pass(86_400, 1800).await;
    assert_eq!(stage.shown("pdf_cut").await, asked, "nobody fetches it any more");
    assert_eq!(stage.invoice(&payment).await.expect("an invoice").state, State::ByHand);
});

// F34, R-5W-43, R-5W-44: the API fails whenever it hears of one buyer. Two of his invoices make the account rest; the third,
// the oldest of those that wait, does not stand in the way of the others, and its expert hears as well.
on_both!(an_invoice_that_always_fails_stops_no_other, async |engine: Engine| {
    let (stage, _) = Watched::stage(engine, POISON).await;
    let mut bad = vec![stage.paid_by("17/2026", POISON).await, stage.paid_by("18/2026", POISON).await];
    stage.all_attempts().await;
    assert_eq!(stage.alerts().await, ["invoice.exhausted", "invoice.exhausted", "invoice.unreachable"]);
    bad.push(stage.paid_by("19/2026", POISON).await);
    let good = stage.pay("20/2026", "autopay", "pay").await;
    stage.let_pass(7200, 30).await;
    stage.expect_paid_and_invoiced(&good).await;
    for payment in &bad {
        assert_eq!(stage.invoice(payment).await.expect("an invoice").state, State::Exhausted);
    }
    assert_eq!((stage.notices("invoice.exhausted").await.len(), stage.invoices().await), (3, 1));
    assert_eq!(stage.alerts().await, ["invoice.exhausted"; 3]);
});

// F34: a true outage. The invoices that wait take turns as the trial and lose no attempt for most of a day; then they
// count, so that no expert waits for ever.
on_both!(an_outage_burns_nothing_for_a_day, async |engine: Engine| {
    let (stage, watched) = Watched::stage(engine, POISON).await;
    for number in ["17/2026", "18/2026"] {
        stage.paid_by(number, POISON).await;
    }
    stage.all_attempts().await;
    let mut waiting = vec![];
    for (number, name) in [("19/2026", "A, Trucizna SA"), ("20/2026", "B, Trucizna SA"), ("21/2026", "C, Trucizna SA")]
    {
        waiting.push(stage.paid_by(number, name).await);
    }
    let before = watched.count(["contractors/", ""]);
    stage.let_pass(23 * 3600, 450).await;
    for payment in &waiting {
        let invoice = stage.invoice(payment).await.expect("an invoice");
        assert_eq!((invoice.state, invoice.attempts), (State::Queued, 0));
        assert!(invoice.last_code.is_some(), "each had its turn");
    }
    let trials = watched.count(["contractors/", ""]) - before;
    assert!((80..=250).contains(&trials), "about one in a quarter of an hour: {trials}");
    stage.let_pass(5 * 3600, 450).await;
    for payment in &waiting {
        assert_eq!(stage.invoice(payment).await.expect("an invoice").state, State::Exhausted);
    }
    assert_eq!(stage.notices("invoice.exhausted").await.len(), 5);
});

// F33, R-5W-42: the expert's document is there before the money; no other is made when it comes.
on_both!(a_document_attached_before_the_money_is_the_invoice, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    let case = stage.case("17/2026").await;
    let payment = stage.start(&case, "autopay").await;
    let page = stage.open(&payment).await;
    stage.attach(&payment).await.unwrap();
    stage.press(&page, "pay").await.expect(303);
    stage.carry().await;
    stage.let_pass(3600, 60).await;
    let invoice = stage.invoice(&payment).await.expect("a row that says so");
    assert_eq!((invoice.state, invoice.number.as_deref()), (State::ByHand, Some("FV 1/2026")));
    assert_eq!((stage.invoices().await, stage.cell(&payment).await), (0, Cell::Empty));
    let again = stage.reissue(&stage.payment(&payment).await).await;
    assert!(matches!(again, Err(FlowError::Conflict { code: "invoice_issued", .. })), "{again:?}");
});

// F33: the same while the integration was off; it is switched on, and an expert asks to issue again.
on_both!(a_document_attached_without_an_integration_is_the_invoice, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    stage.switch(false).await;
    let payment = stage.pay("17/2026", "autopay", "pay").await;
    stage.attach(&payment).await.unwrap();
    stage.switch(true).await;
    let again = stage.reissue(&payment).await;
    assert!(matches!(again, Err(FlowError::Conflict { code: "invoice_issued", .. })), "{again:?}");
    stage.let_pass(600, 60).await;
    assert_eq!((stage.invoices().await, stage.alerts().await.len()), (0, 0));
});

// F33: attached in the very moment in which the webhook is recorded without locks.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_document_attached_while_the_money_comes_is_the_invoice() {
    if crate::cluster::cluster().is_none() {
        return;
    }
    let stage = Stage::set(Engine::Postgres).await;
    let raw = Raw::of(&stage.hub.app).await;
    let case = stage.case("17/2026").await;
    let payment = stage.start(&case, "autopay").await;
    let page = stage.open(&payment).await;
    stage.press(&page, "pay").await.expect(303);
    let mut tx = stage.hub.tx().await;
    stage.attach_in(&mut tx, &payment).await.unwrap();
    let commit = async {
        let waiting =
            "SELECT COUNT(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        until("the webhook waits", async || raw.number(waiting).await > 0).await;
        tx.commit().await.unwrap();
    };
    tokio::join!(stage.carry(), commit);
    stage.let_pass(600, 60).await;
    assert_eq!(stage.invoice(&payment).await.map(|i| i.state), Some(State::ByHand));
    assert_eq!(stage.invoices().await, 0);
}

// An account that was replaced while it rested: what waits there goes to the other, and nothing is issued at the first.
on_both!(what_waits_at_an_account_that_was_replaced_goes_to_the_other, async |engine: Engine| {
    let (stage, watched) = Watched::stage(engine, "").await;
    let first = stage.paid("17/2026", json!({"auth": 1_000_000})).await;
    stage.hub.run_jobs().await;
    let mut waiting = vec![];
    for number in ["18/2026", "19/2026", "20/2026"] {
        waiting.push(stage.pay(number, "autopay", "pay").await);
    }
    stage.hub.run_jobs().await;
    stage.switch(false).await;
    let second = stage.second_account().await;
    stage.dial(json!({"wfirma": {}})).await;
    stage.let_pass(1800, 60).await;
    waiting.push(first);
    for payment in &waiting {
        stage.expect_paid_and_invoiced(payment).await;
        assert_eq!(stage.invoice(payment).await.expect("an invoice").invoicing_account_id, second.id);
    }
    let sent = |company| watched.count(["invoices/add", company]);
    assert_eq!((sent("company_id=100001"), sent("company_id=100002")), (0, 4));
});

// Issued again after every attempt was refused: at the account that is on now, even if the other answers no more.
on_both!(what_failed_at_an_account_that_was_replaced_is_issued_at_the_other, async |engine: Engine| {
    let (stage, watched) = Watched::stage(engine, "").await;
    let payment = stage.paid("17/2026", json!({"error_in_200": 1_000_000})).await;
    stage.all_attempts().await;
    assert_eq!(stage.invoice(&payment).await.expect("an invoice").state, State::Exhausted);
    let before = watched.count(["", "company_id=100001"]);
    stage.switch(false).await;
    let second = stage.second_account().await;
    stage.dial(json!({"wfirma": {}})).await;
    stage.reissue(&payment).await.unwrap();
    stage.let_pass(600, 60).await;
    stage.expect_paid_and_invoiced(&payment).await;
    assert_eq!(stage.invoice(&payment).await.expect("an invoice").invoicing_account_id, second.id);
    assert_eq!(watched.count(["", "company_id=100001"]), before, "the first is not asked any more");
});

// Switched off between two attempts: the first account is only asked whether there is an invoice.
on_both!(an_attempt_at_an_account_that_was_switched_off_only_looks, async |engine: Engine| {
    let (stage, watched) = Watched::stage(engine, "").await;
    let payment = stage.paid("17/2026", json!({"error_in_200": 1})).await;
    stage.hub.run_jobs().await;
    stage.switch(false).await;
    let second = stage.second_account().await;
    stage.let_pass(1200, 60).await;
    stage.expect_paid_and_invoiced(&payment).await;
    assert_eq!(stage.invoice(&payment).await.expect("an invoice").invoicing_account_id, second.id);
    let sent = |company| watched.count(["invoices/add", company]);
    assert_eq!((sent("company_id=100001"), sent("company_id=100002")), (1, 1));
});

// A send whose outcome is unknown is looked for where it was sent, whatever is on now.
on_both!(a_doubt_stays_with_the_account_that_was_switched_off, async |engine: Engine| {
    let (stage, watched) = Watched::stage(engine, "").await;
    let payment = stage.paid("17/2026", json!({"cut_after_work": 1})).await;
    stage.hub.run_jobs().await;
    stage.switch(false).await;
    stage.second_account().await;
    stage.let_pass(1200, 60).await;
    stage.expect_paid_and_invoiced(&payment).await;
    assert_eq!(stage.invoice(&payment).await.expect("an invoice").invoicing_account_id, stage.invoicing.id);
    assert_eq!(watched.count(["invoices/add", ""]), 1);
});

// R-5W-44: switched off with none in its place: nothing is sent, and the expert hears, once.
on_both!(what_waits_at_an_account_that_was_switched_off_is_told_of, async |engine: Engine| {
    let (stage, watched) = Watched::stage(engine, "").await;
    let payment = stage.paid("17/2026", json!({})).await;
    stage.switch(false).await;
    stage.let_pass(3600, 60).await;
    assert_eq!(stage.invoice(&payment).await.expect("an invoice").state, State::Exhausted);
    assert_eq!((watched.count(["wfirma/", ""]), stage.alerts().await), (0, vec!["invoice.exhausted".to_owned()]));
    let notices = stage.notices("invoice.exhausted").await;
    assert_eq!(notices.len(), 1);
    assert!(notices[0].body.starts_with(SENTENCE) && notices[0].body.contains("wyłączone"), "{}", notices[0].body);
    // Switched on again, it is issued when the expert asks for it.
    stage.switch(true).await;
    stage.reissue(&payment).await.unwrap();
    stage.let_pass(600, 60).await;
    stage.expect_paid_and_invoiced(&payment).await;
});
