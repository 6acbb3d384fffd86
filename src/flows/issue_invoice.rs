//! Issues the invoice for a completed payment.
//!
//! The invoicing APIs have no idempotency key, so the care is ours: look before every send, a durable `sending` mark
//! before the first byte leaves, and after an unknown outcome only look-ups until it is settled. Three attempts; the
//! third failure opens an alert and tells the case's expert. A look-up is not an attempt.
//! Must not know: which gateway took the money, which API issues.

use grosz_providers::invoicer::{Document, FailureClass, Found, InvoiceFailure, Ksef, day_in};
use grosz_providers::{Cx, Invoicer, Settings, registry, sign};
use serde_json::json;

use super::FlowError;
use super::notify::{OwnLetter, Raise, invoice_failed_line, raise, raise_with};
use super::order_invoice::alert_key;
use super::tell_client::{jitter, tell};
use crate::app::App;
use crate::clock::{at, seconds};
use crate::config::wait_s;
use crate::domain::invoice::{AfterFailure, State, after_failure};
use crate::jobs::{self, End};
use crate::store::{InvoiceRow, InvoicingAccount, Job, JobKind, Payment, Tx};

/// So many failures of an account in a row, whosever invoices they are, and it is paused for new work.
const BREAKS_AT: i64 = 6;

/// Everything one run works with.
struct Run<'a> {
    app: &'a App,
    job: &'a Job,
    invoice: InvoiceRow,
    payment: Payment,
    account: InvoicingAccount,
    invoicer: &'static dyn Invoicer,
    settings: Settings,
    /// State and generation as this run left them in the row. When they are others there, somebody decided meanwhile.
    left: (State, i64),
}

/// The job.
///
/// # Errors
/// The database; the job runs again and finds its `sending` mark, if it got that far.
pub async fn run(app: &App, job: &Job) -> Result<(), FlowError> {
    let mut tx = app.store.begin().await?;
    if !tx.still_owns(job).await? {
        return Ok(tx.rollback().await?);
    }
    let Some(mut invoice) = tx.invoice_for_update(&job.merchant_id, &job.subject).await? else {
        return jobs::settle(app, tx, job, End::Done).await;
    };
    if !invoice.state.is_open() {
        return jobs::settle(app, tx, job, End::Done).await;
    }
    let account = tx.invoicing_account(&job.merchant_id, &invoice.invoicing_account_id).await?;
    let payment = tx.payment(&job.merchant_id, &invoice.payment_id).await?;
    let (Some(account), Some(payment)) = (account, payment) else {
        return jobs::settle(app, tx, job, End::Failed { error: "account or payment is gone".into() }).await;
    };
    // An invoice that began its attempts goes on with them; others wait until the account works again.
    let pause = account.paused_until.filter(|until| *until > app.now() && invoice.attempts == 0);
    if let Some(until) = pause {
        return jobs::settle(app, tx, job, End::Again { at: until, error: account.pause_reason }).await;
    }
    // Numbering is serial at the other side: one call at a time for an account, the next one a moment later.
    let Some(_slot) = app.invoicing_slots.take(&account.id, app.config.invoicing_concurrency) else {
        return jobs::settle(app, tx, job, End::Again { at: app.now() + seconds(1) / 4, error: None }).await;
    };
    if invoice.state == State::Sending {
        // The mark of a run that died: the send may have arrived.
        become_unknown(app, &mut invoice);
        tx.update_invoice(&invoice, app.now()).await?;
    }
    tx.commit().await?;

    let invoicer = registry::invoicer(&account.invoicer)
        .ok_or_else(|| FlowError::Internal(format!("{} is not known to this program", account.invoicer)))?;
    let settings = app.invoicing_settings(&account)?;
    let left = (invoice.state, invoice.generation);
    let run = Run { app, job, invoice, payment, account, invoicer, settings, left };
    match run.invoice.state {
        State::Unknown => run.reconcile().await,
        _ => run.issue().await,
    }
}

fn become_unknown(app: &App, invoice: &mut InvoiceRow) {
    invoice.state = State::Unknown;
    invoice.unknown_since = Some(app.now());
    invoice.sending_since = None;
    invoice.clean_looks = 0;
}

impl Run<'_> {
    /// Looks, makes sure the buyer is there, marks, sends.
    async fn issue(mut self) -> Result<(), FlowError> {
        let zone = self.invoicer.facts().zone;
        self.invoice.order.issue_date = day_in(zone, at(self.app.now()));
        self.invoice.order.first_sent_on = self.invoice.first_sent_at.map(|t| day_in(zone, at(t)));
        if let Err(failure) = self.invoicer.check_order(&self.settings, &self.invoice.order) {
            // Sending what is known to be refused three times helps nobody: the expert hears at once.
            return self.failed_before_sending(failure, true).await;
        }
        match self.look().await {
            Found::None => {}
            Found::Failed(failure) if self.invoice.first_sent_at.is_none() => {
                return self.failed_before_sending(failure, false).await;
            }
            other => return self.conclude(other).await,
        }
        let buyer_key =
            sign::sha256_hex(serde_json::to_string(&self.invoice.order.buyer).unwrap_or_default().as_bytes());
        let buyer = match self.invoice.buyer_ref.clone() {
            // An earlier attempt made sure of it.
            Some(buyer) => Ok(buyer),
            None => {
                let known = self.known_buyer(&buyer_key).await?;
                self.invoicer.upsert_buyer(&self.cx(), &self.invoice.order, known.as_deref()).await
            }
        };
        let buyer = match buyer {
            Ok(buyer) => buyer,
            Err(failure) => return self.failed_before_sending(failure, false).await,
        };
        if !self.mark_sending(&buyer_key, &buyer).await? {
            return Ok(());
        }
        // A process that was stopped between the mark and this line may have lost its lease (F42).
        let marked_at = self.invoice.sending_since.unwrap_or_default();
        if self.app.now() - marked_at > seconds(10) {
            return jobs::again(self.app, self.job, self.app.now(), Some("stalled before sending".into())).await;
        }
        let created = self.invoicer.create(&self.cx(), &buyer, &self.invoice.order).await;
        match created {
            Ok(document) => self.issued(document).await,
            Err(failure) if failure.class == FailureClass::Unknown => self.unknown(failure).await,
            Err(failure) => self.refused(failure).await,
        }
    }

    fn cx(&self) -> Cx<'_> {
        self.app.cx(&self.settings, self.account.live)
    }

    async fn look(&self) -> Found {
        self.invoicer.find(&self.cx(), &self.invoice.order).await
    }

    async fn known_buyer(&self, key: &str) -> Result<Option<String>, FlowError> {
        let mut tx = self.app.store.read().await?;
        Ok(tx.buyer_ref(&self.invoice.merchant_id, &self.account.id, key).await?)
    }

    /// Begins a transaction that writes this run's invoice, with the row locked. Nothing when somebody decided otherwise
    /// while this run waited for an answer (a document was attached, it is to be issued anew): then this run ends without
    /// a word, and a call that it has not made is not made.
    async fn write(&self) -> Result<Option<Tx>, FlowError> {
        let mut tx = self.app.store.begin().await?;
        let row = tx.invoice_for_update(&self.invoice.merchant_id, &self.invoice.id).await?;
        if row.as_ref().is_some_and(|row| (row.state, row.generation) == self.left) {
            return Ok(Some(tx));
        }
        let end = match row {
            Some(row) if row.state.is_open() => {
                End::Again { at: self.app.now(), error: Some("the invoice was changed during a run".into()) }
            }
            _ => End::Done,
        };
        jobs::settle(self.app, tx, self.job, end).await?;
        Ok(None)
    }

    /// Commits the mark before the first byte leaves. `false`: this run is no longer the owner, or it was overtaken.
    async fn mark_sending(&mut self, buyer_key: &str, buyer: &str) -> Result<bool, FlowError> {
        let now = self.app.now();
        let Some(mut tx) = self.write().await? else { return Ok(false) };
        if !tx.extend_lease(self.job, now + seconds(self.app.config.job_lease_s)).await? {
            tx.rollback().await?;
            return Ok(false);
        }
        self.invoice.state = State::Sending;
        self.invoice.attempts += 1;
        self.invoice.sending_since = Some(now);
        self.invoice.first_sent_at.get_or_insert(now);
        self.invoice.buyer_ref = Some(buyer.to_owned());
        tx.put_buyer_ref(&self.invoice.merchant_id, &self.account.id, buyer_key, buyer).await?;
        tx.update_invoice(&self.invoice, now).await?;
        tx.commit().await?;
        self.left = (self.invoice.state, self.invoice.generation);
        Ok(true)
    }

    /// A look-up after an unknown outcome, or before a repeated send.
    async fn reconcile(self) -> Result<(), FlowError> {
        let found = self.look().await;
        self.conclude(found).await
    }

    /// Draws the conclusion from a look-up. Only a clean "none" may ever lead to another send, and not before the quiet
    /// period is over.
    async fn conclude(mut self, found: Found) -> Result<(), FlowError> {
        let now = self.app.now();
        match found {
            // A look-up tells too little to compare by; what cannot be read is not concluded upon.
            Found::One(row) => match self.invoicer.get(&self.cx(), &row.id, &self.invoice.order).await {
                Ok(document) => self.issued(document).await,
                Err(failure) => self.no_answer(failure).await,
            },
            Found::Many(documents) => {
                let numbers = documents.iter().map(|d| d.number.as_str()).collect::<Vec<_>>().join(", ");
                let why = format!("the invoicing system holds more than one document with this key: {numbers}");
                if let Some(oldest) = documents.into_iter().next() {
                    self.keep(&oldest);
                }
                self.hold("invoice.duplicate", why).await
            }
            Found::Conflict(document) => {
                let why =
                    format!("the invoicing system holds {} with this key over {}", document.number, document.total);
                self.keep(&document);
                self.hold("invoice.conflict", why).await
            }
            Found::Failed(failure) => self.no_answer(failure).await,
            Found::None => {
                self.invoice.clean_looks += 1;
                let since = self.invoice.unknown_since.unwrap_or(now);
                let quiet = now - since >= seconds(self.app.config.invoice_quiet_s);
                if quiet && self.invoice.clean_looks >= 2 {
                    // Settled: that attempt did not issue anything.
                    self.invoice.state = State::Queued;
                    self.invoice.unknown_since = None;
                    return self.after(FailureClass::Retryable, since).await;
                }
                self.look_again(None).await
            }
        }
    }

    /// A look-up that failed: nothing is concluded from it.
    async fn no_answer(mut self, failure: InvoiceFailure) -> Result<(), FlowError> {
        self.invoice.clean_looks = 0;
        self.remember(&failure);
        self.look_again(Some(format!("the look-up gave no answer: {failure}"))).await
    }

    async fn look_again(mut self, error: Option<String>) -> Result<(), FlowError> {
        let now = self.app.now();
        if self.invoice.state != State::Unknown {
            become_unknown(self.app, &mut self.invoice);
        }
        let since = self.invoice.unknown_since.unwrap_or(now);
        if now - since > seconds(self.app.config.invoice_unknown_limit_s) {
            return self.hold("invoice.unknown", "whether the invoice was issued cannot be found out".into()).await;
        }
        let looks = &self.app.config.invoice_looks_s;
        let passed = (now - since) / 1_000_000;
        // Pauses widen with the time that passed; the last one repeats.
        let mut sum = 0;
        let n = looks.iter().position(|wait| {
            sum += wait;
            sum > passed
        });
        let wait = n.and_then(|n| looks.get(n)).or(looks.last()).copied().unwrap_or(60).max(1);
        let Some(mut tx) = self.write().await? else { return Ok(()) };
        tx.update_invoice(&self.invoice, now).await?;
        jobs::settle(self.app, tx, self.job, End::Again { at: now + seconds(wait), error }).await
    }

    /// The document exists: what was asked, or something else.
    async fn issued(mut self, document: Document) -> Result<(), FlowError> {
        let app = self.app;
        let now = app.now();
        let differs = !document.differences.is_empty();
        self.keep(&document);
        self.invoice.state = if differs { State::IssuedDiffers } else { State::Issued };
        self.invoice.issued_at = Some(now);
        self.invoice.unknown_since = None;
        self.invoice.sending_since = None;
        let Some(mut tx) = self.write().await? else { return Ok(()) };
        tx.update_invoice(&self.invoice, now).await?;
        if self.account.failures > 0 || self.account.paused_until.is_some() {
            let merchant = &self.invoice.merchant_id;
            tx.pause_invoicing_account(merchant, &self.account.id, None, None, 0).await?;
            tx.resolve_alert_by_key(merchant, &format!("invoice.unreachable:{}", self.account.id), now).await?;
        }
        tx.resolve_alert_by_key(&self.invoice.merchant_id, &alert_key(&self.invoice), now).await?;
        if differs {
            tell_differences(app, &mut tx, &self.invoice.id, &self.payment, &document).await?;
        } else {
            let job = app.ids.make("job");
            tx.enqueue(&self.invoice.merchant_id, &job, JobKind::FetchPdf, &self.invoice.id, now, now).await?;
        }
        self.tell(&mut tx, "invoice.issued").await?;
        jobs::settle(app, tx, self.job, End::Done).await
    }

    fn keep(&mut self, document: &Document) {
        self.invoice.provider_id = Some(document.id.clone());
        self.invoice.number = Some(document.number.clone()).filter(|n| !n.is_empty());
        self.invoice.document = Some(document.clone());
    }

    async fn tell(&self, tx: &mut Tx, kind: &str) -> Result<(), FlowError> {
        let ksef = match self.invoice.document.as_ref().map(|d| &d.ksef) {
            Some(Ksef::Accepted { number }) => Some(number.clone()),
            _ => None,
        };
        let data = json!({
            "id": self.invoice.id, "payment": self.payment.id, "case": self.payment.case_id, "state": self.invoice.state.word(),
            "number": self.invoice.number, "ksef_number": ksef, "amount": self.invoice.order.total.minor(),
            "currency": self.invoice.order.total.currency().code(), "version": self.invoice.generation,
        });
        tell(self.app, tx, &self.invoice.merchant_id, kind, &self.payment.id, self.payment.live, data).await
    }

    /// After the send nobody knows: look-ups begin.
    async fn unknown(mut self, failure: InvoiceFailure) -> Result<(), FlowError> {
        become_unknown(self.app, &mut self.invoice);
        self.remember(&failure);
        let now = self.app.now();
        let wait = wait_s(&self.app.config.invoice_looks_s, 0);
        let Some(mut tx) = self.write().await? else { return Ok(()) };
        tx.update_invoice(&self.invoice, now).await?;
        let end = End::Again { at: now + seconds(wait), error: Some(failure.to_string()) };
        jobs::settle(self.app, tx, self.job, end).await
    }

    /// The send was refused: surely not issued.
    async fn refused(mut self, failure: InvoiceFailure) -> Result<(), FlowError> {
        self.invoice.state = State::Queued;
        self.invoice.sending_since = None;
        if matches!(failure.class, FailureClass::Data | FailureClass::Absent) {
            // The buyer's card may be what is wrong, or gone.
            self.invoice.buyer_ref = None;
        }
        self.remember(&failure);
        self.mind_account(&failure).await?;
        let now = self.app.now();
        self.after(failure.class, now).await
    }

    /// An attempt that failed before its send. `hopeless`: our own check refused the data, no attempt can help.
    async fn failed_before_sending(mut self, failure: InvoiceFailure, hopeless: bool) -> Result<(), FlowError> {
        self.invoice.attempts += 1;
        self.remember(&failure);
        if hopeless {
            return self.exhaust().await;
        }
        self.mind_account(&failure).await?;
        // A look-up or a buyer's card that failed without an answer issued nothing.
        let class = if failure.class == FailureClass::Unknown { FailureClass::Retryable } else { failure.class };
        let now = self.app.now();
        self.after(class, now).await
    }

    /// Another attempt, or the end. `failed_at` is when the attempt that just ended failed.
    async fn after(self, class: FailureClass, failed_at: i64) -> Result<(), FlowError> {
        let config = &self.app.config;
        let next =
            after_failure(class, self.invoice.attempts, &config.invoice_waits_s, config.invoice_stop_on_permanent);
        let AfterFailure::TryAgainIn(wait) = next else { return self.exhaust().await };
        let now = self.app.now();
        let due = (failed_at + jitter(self.app, seconds(wait), config.invoice_jitter_percent)).max(now);
        let Some(mut tx) = self.write().await? else { return Ok(()) };
        tx.update_invoice(&self.invoice, now).await?;
        let error = self.invoice.last_code.as_ref().map(|code| {
            format!("attempt {}: {code} {}", self.invoice.attempts, self.invoice.last_message.as_deref().unwrap_or(""))
        });
        jobs::settle(self.app, tx, self.job, End::Again { at: due, error }).await
    }

    /// Every attempt failed: in one transaction the work ends, the alert opens, the notice is written (R-5W-44, R-5W-45).
    async fn exhaust(mut self) -> Result<(), FlowError> {
        self.invoice.state = State::Exhausted;
        let now = self.app.now();
        let Some(mut tx) = self.write().await? else { return Ok(()) };
        tx.update_invoice(&self.invoice, now).await?;
        let matter = Raise::about_payment(
            "invoice.exhausted",
            alert_key(&self.invoice),
            &self.payment,
            plain_reason(&self.invoice, "en"),
        )
        .with_fields(&self.invoice.last_fields);
        let key = format!("invoice.exhausted:{}:{}", self.invoice.id, self.invoice.generation);
        let told = self.invoice.clone();
        let reason = Box::new(move |language: &str| plain_reason(&told, language));
        let letter = OwnLetter { first_line: invoice_failed_line, reason, key };
        raise_with(self.app, &mut tx, matter, Some(letter)).await?;
        self.tell(&mut tx, "invoice.issue_failed").await?;
        jobs::settle(self.app, tx, self.job, End::Done).await
    }

    /// A person has to look; nothing is sent any more.
    async fn hold(mut self, code: &'static str, why: String) -> Result<(), FlowError> {
        self.invoice.state = State::Held;
        let now = self.app.now();
        let Some(mut tx) = self.write().await? else { return Ok(()) };
        tx.update_invoice(&self.invoice, now).await?;
        let matter = Raise::about_payment(code, alert_key(&self.invoice), &self.payment, why);
        raise(self.app, &mut tx, matter).await?;
        self.tell(&mut tx, "invoice.issue_failed").await?;
        jobs::settle(self.app, tx, self.job, End::Done).await
    }

    fn remember(&mut self, failure: &InvoiceFailure) {
        let class = serde_json::to_value(failure.class).ok().and_then(|v| v.as_str().map(str::to_owned));
        self.invoice.last_class = class;
        self.invoice.last_code = Some(failure.code.clone());
        self.invoice.last_message = Some(failure.message.clone());
        self.invoice.last_fields = failure.fields.clone();
    }

    /// A failure that concerns the whole account pauses it for other work; wrong credentials, and an account that fails
    /// again and again, are told at once, once. Invoices that have begun their attempts go on with them (F34).
    async fn mind_account(&self, failure: &InvoiceFailure) -> Result<(), FlowError> {
        let app = self.app;
        let stops = failure.class == FailureClass::Config;
        let fails = failure.class == FailureClass::Retryable;
        if !stops && !fails && !failure.account_wide {
            return Ok(());
        }
        let now = app.now();
        let failures = self.account.failures + 1;
        let broken = fails && failures >= BREAKS_AT;
        let asked = if failure.account_wide { i64::from(failure.pause_s.unwrap_or(30)) } else { 0 };
        let asked = if broken { asked.max(30) } else { asked };
        let doublings = if broken { failures - BREAKS_AT } else { failures - 1 };
        let grown = asked.saturating_mul(1 << doublings.clamp(0, 5));
        let pause = if stops { app.config.invoicing_probe_s } else { grown.clamp(0, 900.max(asked)) };
        let why = format!("{} {}", failure.code, failure.message);
        let merchant = &self.invoice.merchant_id;
        let mut tx = app.store.begin().await?;
        // A pause that another failure asked for is not cut short.
        let until = (pause > 0).then(|| now + seconds(pause)).max(self.account.paused_until.filter(|at| *at > now));
        let said = if pause > 0 { Some(why.as_str()) } else { self.account.pause_reason.as_deref() };
        tx.pause_invoicing_account(merchant, &self.account.id, until, said, failures).await?;
        if broken {
            let key = format!("invoice.unreachable:{}", self.account.id);
            let text =
                format!("the invoicing system fails again and again: {why}; new invoices wait and are tried in turn");
            raise(app, &mut tx, Raise::about_account("invoice.unreachable", key, merchant, text)).await?;
        }
        if stops {
            let key = format!("invoice.account:{}", self.account.id);
            let text =
                format!("the invoicing account refuses us: {why}; its other invoices wait until this is corrected");
            raise(app, &mut tx, Raise::about_account("invoice.account", key, merchant, text)).await?;
            let job = app.ids.make("job");
            tx.enqueue(merchant, &job, JobKind::ProbeInvoicing, &self.account.id, now + seconds(pause), now).await?;
        }
        tx.commit().await?;
        Ok(())
    }
}

/// Tells a person that a document exists that is not the one that was ordered.
///
/// # Errors
/// The database.
pub(super) async fn tell_differences(
    app: &App,
    tx: &mut Tx,
    invoice: &str,
    payment: &Payment,
    document: &Document,
) -> Result<(), FlowError> {
    let why = format!("the invoice was issued, but not as ordered: {}", document.differences.join("; "));
    let key = format!("invoice.issued_differs:{invoice}");
    raise(app, tx, Raise::about_payment("invoice.issued_differs", key, payment, why)).await
}

/// Why every attempt failed, in words that an expert can act on.
fn plain_reason(invoice: &InvoiceRow, language: &str) -> String {
    let code = invoice.last_code.as_deref().unwrap_or("");
    let message = invoice.last_message.as_deref().unwrap_or("");
    let class = invoice.last_class.as_deref();
    let (what, attempts) = match language {
        "pl" => (reason_pl(class), "liczba prób"),
        _ => (reason_en(class), "attempts made"),
    };
    format!("{what} ({code} {message}); {attempts}: {}", invoice.attempts).replace(" )", ")")
}

fn reason_en(class: Option<&str>) -> &'static str {
    match class {
        Some("data") => "the invoicing system refuses the data of the buyer or of a line",
        Some("config") => "the invoicing system refuses the account's credentials or settings",
        Some("bug") => "the invoicing system did not understand the request (tell the hub's makers)",
        Some("absent") => "something the invoice refers to is not there in the invoicing system",
        _ => "the invoicing system could not be reached or gave no usable answer",
    }
}

fn reason_pl(class: Option<&str>) -> &'static str {
    match class {
        Some("data") => "system do faktur odrzuca dane nabywcy albo pozycji",
        Some("config") => "system do faktur odrzuca dane dostępu albo ustawienia konta",
        Some("bug") => "system do faktur nie zrozumiał żądania (zgłoś to twórcom huba)",
        Some("absent") => "w systemie do faktur brakuje czegoś, do czego faktura się odwołuje",
        _ => "system do faktur był nieosiągalny albo nie dał zrozumiałej odpowiedzi",
    }
}
