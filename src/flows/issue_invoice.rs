//! Issues the invoice for a completed payment.
//!
//! The invoicing APIs have no idempotency key, so the care is ours: look before every send, a durable `sending` mark
//! before the first byte leaves, and after an unknown outcome only look-ups until it is settled. Three attempts; the
//! third failure opens an alert and tells the case's expert. A look-up is not an attempt.
//!
//! One run at a time calls an account, whichever process it is in. The others wait, and whoever ends wakes the oldest;
//! nobody asks by the clock whether it is his turn. An account that rests lets one invoice go ahead when the rest is over,
//! each time another one (ADR 0041). Nothing is sent to an account that was switched off.
//! Must not know: which gateway took the money, which API issues.

use grosz_providers::invoicer::{Document, FailureClass, Found, InvoiceFailure, Ksef, day_in};
use grosz_providers::{Cx, Invoicer, Settings, registry, sign};
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;

use super::FlowError;
use super::notify::{NotIssued, OwnLetter, Raise, invoice_failed_line, raise, raise_with};
use super::order_invoice::{alert_key, invoicing_account};
use super::tell_client::{jitter, tell};
use crate::app::App;
use crate::clock::{at, seconds};
use crate::config::wait_s;
use crate::domain::invoice::{AfterFailure, REFUSES_TO_ISSUE, REFUSES_US, Rest, State, after_failure, rest};
use crate::jobs::{self, End};
use crate::store::{InvoiceRow, InvoicingAccount, IssueQueue, Job, JobKind, Payment, Tx};

/// So many failures of an account in a row, whosever invoices they are, and it is paused for new work.
const BREAKS_AT: i64 = 6;

/// The last word of a job that waits until it is woken.
const WAITS: &str = "waits for its turn";

/// So long it waits at most, seconds, should whoever was to wake it have died.
const WAITS_AT_MOST: i64 = 900;

/// The same while an account works and another invoice has its slot.
const WAITS_FOR_A_SLOT_AT_MOST: i64 = 120;

/// The same for an invoice that was begun.
const WAITS_ON_AT_MOST: i64 = 60;

/// The code of the failure of an invoice whose account was switched off, with none in its place.
const ACCOUNT_OFF: &str = "ACCOUNT OFF";

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
    /// It went ahead of the others, to show whether the account works again.
    is_trial: bool,
    /// A pause that was asked for during this run: nothing more before this instant, microseconds.
    not_before: i64,
    /// Held until the run ends; none for a run that calls nobody.
    _slot: Option<OwnedSemaphorePermit>,
}

/// What was asked of an account that refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// A look-up.
    ToTell,
    /// An invoice or the buyer's card.
    ToIssue,
}

/// The job.
///
/// # Errors
/// The database; the job runs again and finds its `sending` mark, if it got that far.
pub async fn run(app: &App, job: &Job) -> Result<(), FlowError> {
    let Some(run) = take_turn(app, job).await? else { return Ok(()) };
    let account = run.account.id.clone();
    let done = match run.invoice.state {
        State::Unknown => run.reconcile().await,
        _ if has_no_business_at(&run.account, &run.invoice) => run.leave().await,
        _ => run.issue().await,
    };
    // Before the next one is called, who would find it taken.
    let mut tx = app.store.once().await?;
    tx.free_slot(&account, job).await?;
    tx.commit().await?;
    wake_next(app, &job.merchant_id, &account).await?;
    done
}

/// Begins a run, if it is this invoice's turn; else its job is put back or ended.
async fn take_turn<'a>(app: &'a App, job: &'a Job) -> Result<Option<Run<'a>>, FlowError> {
    let mut tx = app.store.begin().await?;
    if !tx.still_owns(job).await? {
        tx.rollback().await?;
        return Ok(None);
    }
    let Some(mut invoice) = tx.invoice_for_update(&job.merchant_id, &job.subject).await? else {
        jobs::settle(app, tx, job, End::Done).await?;
        return Ok(None);
    };
    if !invoice.state.is_open() {
        jobs::settle(app, tx, job, End::Done).await?;
        // It may have been woken: then the next one is.
        wake_next(app, &job.merchant_id, &invoice.invoicing_account_id).await?;
        return Ok(None);
    }
    let account = tx.invoicing_account(&job.merchant_id, &invoice.invoicing_account_id).await?;
    let payment = tx.payment(&job.merchant_id, &invoice.payment_id).await?;
    let (Some(account), Some(payment)) = (account, payment) else {
        jobs::settle(app, tx, job, End::Failed { error: "account or payment is gone".into() }).await?;
        return Ok(None);
    };
    let now = app.now();
    let mut slot = None;
    let mut is_trial = false;
    if !has_no_business_at(&account, &invoice) {
        let has_begun = invoice.attempts > 0 || invoice.state != State::Queued;
        let rests = rest_of(&account, now);
        // One that was begun goes on with its attempts and look-ups, after a pause that has a time; others wait until the
        // account works again.
        if has_begun && !has_waited_too_long(app, &invoice) {
            if let Rest::Until(until) = rests {
                let error = Some("the account rests".to_owned());
                jobs::settle(app, tx, job, End::Again { at: until, error }).await?;
                return Ok(None);
            }
        } else if !has_begun && matches!(rests, Rest::Until(_) | Rest::Probe | Rest::Issue) {
            jobs::settle(app, tx, job, waiting(now, WAITS_AT_MOST)).await?;
            wake_next(app, &job.merchant_id, &account.id).await?;
            return Ok(None);
        }
        // Numbering is serial at the other side, and a buyer's card is printed as it is then: one run at a time.
        let lease_until = now + seconds(app.config.job_lease_s);
        slot = take_slot(app, &mut tx, job, &account.id, lease_until).await?;
        if slot.is_none() {
            let at_most = if has_begun { WAITS_ON_AT_MOST } else { WAITS_FOR_A_SLOT_AT_MOST };
            jobs::settle(app, tx, job, waiting(now, at_most)).await?;
            // Whoever had the slot may have ended before this one was seen to wait.
            if has_free_slot(app, job, &account.id).await? {
                wake_next(app, &job.merchant_id, &account.id).await?;
            }
            return Ok(None);
        }
        if !has_begun {
            let queue = IssueQueue {
                merchant_id: &job.merchant_id,
                account_id: &account.id,
                beyond: None,
                before: Some(&invoice.id),
                mark: WAITS,
                after: i64::MIN,
                due: now,
            };
            if let Some(earlier) = next_in_turn(&mut tx, queue, rests).await? {
                // Free before the other one is called, which would find it taken.
                tx.free_slot(&account.id, job).await?;
                drop(slot);
                tx.hasten(&job.merchant_id, JobKind::IssueInvoice, &earlier, now).await?;
                jobs::settle(app, tx, job, waiting(now, WAITS_FOR_A_SLOT_AT_MOST)).await?;
                return Ok(None);
            }
        }
        is_trial = !has_begun && rests == Rest::Trial;
        if is_trial && !tx.begin_trial(&job.merchant_id, &account.id, &invoice.id, now, lease_until).await? {
            tx.free_slot(&account.id, job).await?;
            drop(slot);
            jobs::settle(app, tx, job, waiting(now, WAITS_AT_MOST)).await?;
            // The other trial may have ended before this one was seen to wait.
            wake_next(app, &job.merchant_id, &account.id).await?;
            return Ok(None);
        }
    }
    if invoice.state == State::Sending {
        // The mark of a run that died: the send may have arrived.
        become_unknown(app, &mut invoice);
        tx.update_invoice(&invoice, now).await?;
    }
    tx.commit().await?;

    let invoicer = registry::invoicer(&account.invoicer)
        .ok_or_else(|| FlowError::Internal(format!("{} is not known to this program", account.invoicer)))?;
    let settings = app.invoicing_settings(&account)?;
    let left = (invoice.state, invoice.generation);
    let (not_before, _slot) = (now, slot);
    Ok(Some(Run { app, job, invoice, payment, account, invoicer, settings, left, is_trial, not_before, _slot }))
}

/// A slot of an account: of this process, so that its own runs need not ask the database whether one is free, and of all
/// of them. `None` when all are taken.
async fn take_slot(
    app: &App,
    tx: &mut Tx,
    job: &Job,
    account: &str,
    until: i64,
) -> Result<Option<OwnedSemaphorePermit>, FlowError> {
    let most = app.config.invoicing_concurrency;
    let Some(here) = app.invoicing_slots.take(account, most) else { return Ok(None) };
    Ok(tx.take_slot(account, most, job, app.now(), until).await?.then_some(here))
}

async fn has_free_slot(app: &App, job: &Job, account: &str) -> Result<bool, FlowError> {
    let most = app.config.invoicing_concurrency;
    let is_free_here = app.invoicing_slots.take(account, most).is_some();
    Ok(is_free_here && app.store.read().await?.has_free_slot(&job.merchant_id, account, most, app.now()).await?)
}

/// Nothing of the invoice is at its account, and nothing is to come there: it was switched off.
fn has_no_business_at(account: &InvoicingAccount, invoice: &InvoiceRow) -> bool {
    !account.enabled && invoice.state == State::Queued && invoice.first_sent_at.is_none()
}

/// One that was switched off is not waited for: nobody probes it, and whoever waits there has to be told.
fn rest_of(account: &InvoicingAccount, now: i64) -> Rest {
    if account.enabled { rest(account.paused_until, account.pause_reason.as_deref(), now) } else { Rest::None }
}

/// Which of the waiting invoices comes before the one of `queue.before`, or before all others: the oldest. While the account
/// rests they go round, beginning after the last trial, so that one that always fails is not in the others' way.
async fn next_in_turn(tx: &mut Tx, queue: IssueQueue<'_>, rests: Rest) -> Result<Option<String>, FlowError> {
    let last = match rests {
        Rest::Trial | Rest::Until(_) => tx.last_trial(queue.merchant_id, queue.account_id).await?,
        Rest::None | Rest::Probe | Rest::Issue => None,
    };
    let Some(last) = last.as_deref() else { return Ok(tx.next_to_issue(&queue).await?) };
    let round_begins = IssueQueue { beyond: Some(last), ..queue };
    if queue.before.is_some_and(|own| own > last) {
        return Ok(tx.next_to_issue(&round_begins).await?);
    }
    match tx.next_to_issue(&IssueQueue { before: None, ..round_begins }).await? {
        Some(next) => Ok(Some(next)),
        None => Ok(tx.next_to_issue(&queue).await?),
    }
}

/// Puts a job back until it is woken.
fn waiting(now: i64, at_most: i64) -> End {
    End::Again { at: now + seconds(at_most), error: Some(WAITS.into()) }
}

/// The time is up in which an answer about this invoice had to be had.
fn has_waited_too_long(app: &App, invoice: &InvoiceRow) -> bool {
    let since = invoice.unknown_since.unwrap_or(app.now());
    app.now() - since > seconds(app.config.invoice_unknown_limit_s)
}

/// Brings the invoice forward whose turn it is at an account: to now, or to the end of the account's rest. While a verdict
/// is waited for nobody is woken; the probe does that.
///
/// # Errors
/// The database. Then they wait for the next one that is issued, or for their time.
pub(super) async fn wake_next(app: &App, merchant: &str, account: &str) -> Result<(), FlowError> {
    let now = app.now();
    let mut tx = app.store.read().await?;
    let Some(row) = tx.invoicing_account(merchant, account).await? else { return Ok(()) };
    let rests = rest_of(&row, now);
    let (at, after) = match rests {
        // One that was woken already is on its way.
        Rest::None => (now, now),
        Rest::Trial => (now, i64::MIN),
        Rest::Until(until) => (until, i64::MIN),
        Rest::Probe | Rest::Issue => return Ok(()),
    };
    let (beyond, before, due) = (None, None, i64::MIN);
    let queue = IssueQueue { merchant_id: merchant, account_id: account, beyond, before, mark: WAITS, after, due };
    let next = next_in_turn(&mut tx, queue, rests).await?;
    drop(tx);
    if let Some(next) = next {
        let mut tx = app.store.begin().await?;
        tx.hasten(merchant, JobKind::IssueInvoice, &next, at).await?;
        tx.commit().await?;
        app.job_bell.notify_one();
    }
    Ok(())
}

/// Wakes the next invoice of each account that works, has a free slot and is waited for. Whoever ends wakes the next one; a
/// program that died or knows nothing of waking does not, and its invoices would wait for their time.
///
/// # Errors
/// The database.
pub async fn wake_forgotten(app: &App) -> Result<(), FlowError> {
    let waited_for = app.store.read().await?.accounts_waited_for(WAITS, app.now()).await?;
    for account in waited_for {
        let (merchant, id) = (&account.merchant_id, &account.id);
        let mut tx = app.store.read().await?;
        let is_free = tx.has_free_slot(merchant, id, app.config.invoicing_concurrency, app.now()).await?;
        drop(tx);
        if is_free && rest_of(&account, app.now()) == Rest::None {
            wake_next(app, merchant, id).await?;
        }
    }
    Ok(())
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
        self.date();
        if let Err(failure) = self.invoicer.check_order(&self.settings, &self.invoice.order) {
            // Sending what is known to be refused three times helps nobody: the expert hears at once.
            self.invoice.attempts += 1;
            self.remember(&failure);
            return self.exhaust().await;
        }
        match self.look().await {
            Found::None if !self.account.enabled => return self.leave().await,
            Found::None => {}
            // No send is in doubt here, so a search that fails leaves nothing to find out.
            Found::Failed(failure) => return self.failed_before_sending(failure, Asked::ToTell).await,
            other => return self.conclude(other).await,
        }
        let buyer_key =
            sign::sha256_hex(serde_json::to_string(&self.invoice.order.buyer).unwrap_or_default().as_bytes());
        // Before each send, since the card is printed as it is then: another invoice may have changed it.
        let known = match self.invoice.buyer_ref.clone() {
            Some(known) => Some(known),
            None => self.known_buyer(&buyer_key).await?,
        };
        let buyer = match self.invoicer.upsert_buyer(&self.cx(), &self.invoice.order, known.as_deref()).await {
            Ok(buyer) => buyer,
            Err(failure) => return self.failed_before_sending(failure, Asked::ToIssue).await,
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
            Ok(document) => self.issued(document, Asked::ToIssue).await,
            Err(failure) if failure.class == FailureClass::Unknown => self.unknown(failure).await,
            Err(failure) => self.refused(failure).await,
        }
    }

    /// The account was switched off and has nothing of this invoice: the one that is on issues it. Where none is, the
    /// expert is told.
    async fn leave(mut self) -> Result<(), FlowError> {
        let now = self.app.now();
        let Some(mut tx) = self.write().await? else { return Ok(()) };
        if let Some(other) = invoicing_account(&mut tx, &self.payment).await? {
            tx.update_invoice(&self.invoice, now).await?;
            tx.move_invoice(&self.invoice, &other.id, now).await?;
            let error = Some("another invoicing account is on now".to_owned());
            return jobs::settle(self.app, tx, self.job, End::Again { at: now, error }).await;
        }
        tx.rollback().await?;
        let words = "the invoicing account was switched off, and no other is on";
        self.remember(&InvoiceFailure::new(FailureClass::Config, ACCOUNT_OFF, words));
        self.exhaust().await
    }

    /// Dates the document: by the world's time, in the seller's zone. The money came before, even if the database's clock
    /// has another opinion.
    fn date(&mut self) {
        let (clock, zone) = (&self.app.clock, self.invoicer.facts().zone);
        let ahead = clock.outside().as_microsecond() - clock.micros();
        let order = &mut self.invoice.order;
        order.issue_date = day_in(zone, clock.outside());
        order.paid_on = order.paid_on.min(order.issue_date);
        order.first_sent_on = self.invoice.first_sent_at.map(|sent| day_in(zone, at(sent + ahead)));
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
        let until = now + seconds(self.app.config.job_lease_s);
        if !tx.extend_lease(self.job, until).await? {
            tx.rollback().await?;
            return Ok(false);
        }
        if !tx.keep_slot(&self.account.id, self.job, until).await? {
            // It took so long that another run began, which may have changed the buyer's card.
            tx.rollback().await?;
            jobs::again(self.app, self.job, now, Some("its turn was over before it sent".into())).await?;
            return Ok(false);
        }
        // The look-up may have begun yesterday.
        self.date();
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
            // A look-up tells too little to compare by, so the document is read as a whole. Where that cannot be done it
            // exists all the same, and is compared when its PDF is fetched, before anybody is given it.
            Found::One(row) => match self.invoicer.get(&self.cx(), &row.id, &self.invoice.order).await {
                Ok(document) => self.issued(document, Asked::ToTell).await,
                Err(failure) if failure.class == FailureClass::Absent => self.no_answer(failure).await,
                Err(_) => self.issued(row, Asked::ToTell).await,
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
                self.look_again("not found so far".into()).await
            }
        }
    }

    /// A look-up that failed: nothing is concluded from it.
    async fn no_answer(mut self, failure: InvoiceFailure) -> Result<(), FlowError> {
        self.invoice.clean_looks = 0;
        self.remember(&failure);
        self.heed_pause(&failure);
        if failure.class == FailureClass::Config || failure.account_wide {
            self.mind_account(&failure, Asked::ToTell).await?;
        }
        self.look_again(format!("the look-up gave no answer: {failure}")).await
    }

    async fn look_again(mut self, error: String) -> Result<(), FlowError> {
        let now = self.app.now();
        if self.invoice.state != State::Unknown {
            become_unknown(self.app, &mut self.invoice);
        }
        if has_waited_too_long(self.app, &self.invoice) {
            return self.hold("invoice.unknown", "whether the invoice was issued cannot be found out".into()).await;
        }
        let due = self.next_look();
        let Some(mut tx) = self.write().await? else { return Ok(()) };
        tx.update_invoice(&self.invoice, now).await?;
        jobs::settle(self.app, tx, self.job, End::Again { at: due, error: Some(error) }).await
    }

    /// When to look next: pauses widen with the time that passed, and the last one repeats.
    fn next_look(&self) -> i64 {
        let now = self.app.now();
        let passed = (now - self.invoice.unknown_since.unwrap_or(now)) / 1_000_000;
        let looks = &self.app.config.invoice_looks_s;
        let mut sum = 0;
        let n = looks.iter().position(|wait| {
            sum += wait;
            sum > passed
        });
        let wait = n.and_then(|n| looks.get(n)).or(looks.last()).copied().unwrap_or(60).max(1);
        self.not_before.max(now + seconds(wait))
    }

    /// The document exists: what was asked, or something else.
    async fn issued(mut self, document: Document, asked: Asked) -> Result<(), FlowError> {
        let app = self.app;
        let now = app.now();
        let differs = !document.differences.is_empty();
        self.keep(&document);
        self.invoice.state = if differs { State::IssuedDiffers } else { State::Issued };
        self.invoice.issued_at = Some(now);
        self.invoice.sending_since = None;
        let Some(mut tx) = self.write().await? else { return Ok(()) };
        tx.update_invoice(&self.invoice, now).await?;
        self.works(&mut tx, asked).await?;
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
        if failure.account_wide {
            self.mind_account(&failure, Asked::ToIssue).await?;
        }
        let now = self.app.now();
        let due = self.not_before.max(now + seconds(wait_s(&self.app.config.invoice_looks_s, 0)));
        let Some(mut tx) = self.write().await? else { return Ok(()) };
        tx.update_invoice(&self.invoice, now).await?;
        let end = End::Again { at: due, error: Some(failure.to_string()) };
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
        self.came_to_nothing(failure, Asked::ToIssue).await
    }

    /// An attempt that came to nothing before its send: the search or the buyer's card failed.
    async fn failed_before_sending(mut self, failure: InvoiceFailure, asked: Asked) -> Result<(), FlowError> {
        self.invoice.attempts += 1;
        if failure.class != FailureClass::Unknown {
            return self.came_to_nothing(failure, asked).await;
        }
        // Without an answer, but nothing was sent that could have been done.
        self.came_to_nothing(InvoiceFailure { class: FailureClass::Retryable, ..failure }, asked).await
    }

    /// Surely not issued: the account's matter, another attempt, or the end.
    async fn came_to_nothing(mut self, failure: InvoiceFailure, asked: Asked) -> Result<(), FlowError> {
        self.remember(&failure);
        self.mind_account(&failure, asked).await?;
        let told_nothing_new = matches!(failure.class, FailureClass::Config | FailureClass::Retryable);
        if self.is_trial && told_nothing_new && !self.waits_since_yesterday() {
            // It was sent ahead to find out just this, and waits on like the others.
            self.invoice.attempts -= 1;
            return self.wait_for_account().await;
        }
        let now = self.app.now();
        self.after(failure.class, now).await
    }

    /// It waits for its account as long as one may wait for an answer. Then its attempts count whatever the account does, or
    /// its expert would never hear of it.
    fn waits_since_yesterday(&self) -> bool {
        self.app.now() - self.invoice.created_at > seconds(self.app.config.invoice_unknown_limit_s)
    }

    /// The account refuses: this invoice waits for the probe's verdict, like those that come after it.
    async fn wait_for_account(self) -> Result<(), FlowError> {
        let now = self.app.now();
        let Some(mut tx) = self.write().await? else { return Ok(()) };
        tx.update_invoice(&self.invoice, now).await?;
        jobs::settle(self.app, tx, self.job, waiting(now, WAITS_AT_MOST)).await
    }

    /// Another attempt, or the end. `failed_at` is when the attempt that just ended failed.
    async fn after(self, class: FailureClass, failed_at: i64) -> Result<(), FlowError> {
        let config = &self.app.config;
        let next =
            after_failure(class, self.invoice.attempts, &config.invoice_waits_s, config.invoice_stop_on_permanent);
        let AfterFailure::TryAgainIn(wait) = next else { return self.exhaust().await };
        let now = self.app.now();
        let due = failed_at + jitter(self.app, seconds(wait), config.invoice_jitter_percent);
        let due = due.max(self.not_before).max(now);
        let Some(mut tx) = self.write().await? else { return Ok(()) };
        tx.update_invoice(&self.invoice, now).await?;
        let code = self.invoice.last_code.as_deref().unwrap_or("nothing was issued");
        let message = self.invoice.last_message.as_deref().unwrap_or("");
        let error = Some(format!("attempt {}: {code} {message}", self.invoice.attempts));
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
            plain_reason(&self.invoice),
        )
        .because(why_not_issued(&self.invoice))
        .with_fields(&self.invoice.last_fields);
        let key = format!("invoice.exhausted:{}:{}", self.invoice.id, self.invoice.generation);
        let letter = OwnLetter { first_line: invoice_failed_line, key };
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

    /// Whoever is told to come later comes later. Refused credentials are no such word: the attempts of the invoice that
    /// met them keep their times (R-5W-47).
    fn heed_pause(&mut self, failure: &InvoiceFailure) {
        if failure.class == FailureClass::Config {
            return;
        }
        let pause = seconds(i64::from(failure.pause_s.unwrap_or(0)));
        self.not_before = self.not_before.max(self.app.now() + pause);
    }

    /// A failure that concerns the whole account pauses it for other work; refusals, and an account that fails again and
    /// again, are told at once, once. The pause holds for this invoice, too, as far as its time goes (F34).
    async fn mind_account(&mut self, failure: &InvoiceFailure, asked: Asked) -> Result<(), FlowError> {
        let app = self.app;
        let now = app.now();
        self.heed_pause(failure);
        let stops = failure.class == FailureClass::Config;
        let fails = failure.class == FailureClass::Retryable;
        let merchant = &self.invoice.merchant_id;
        let mut tx = app.store.begin().await?;
        let Some(account) = tx.invoicing_account_for_update(merchant, &self.account.id).await? else {
            return Ok(tx.rollback().await?);
        };
        if !stops && !fails && !failure.account_wide {
            // It answers, and about this invoice alone.
            self.works(&mut tx, Asked::ToTell).await?;
            return Ok(tx.commit().await?);
        }
        let failures = account.failures + 1;
        let broken = fails && failures >= BREAKS_AT;
        let wanted = if failure.account_wide { i64::from(failure.pause_s.unwrap_or(30)) } else { 0 };
        let wanted = if broken { wanted.max(30) } else { wanted };
        let doublings = if broken { failures - BREAKS_AT } else { failures - 1 };
        let grown = wanted.saturating_mul(1 << doublings.clamp(0, 5));
        let pause = if stops { app.config.invoicing_probe_s } else { grown.clamp(0, 900.max(wanted)) };
        let why = format!("{} {}", failure.code, failure.message);
        // A pause that another failure asked for is not cut short; the one that a trial set for the others is its own.
        let running = account.paused_until.filter(|at| *at > now && !self.is_trial);
        let until = (pause > 0).then(|| now + seconds(pause)).max(running);
        let before = account.pause_reason.as_deref();
        let is_stopped = |by: &str| before.is_some_and(|reason| reason.starts_with(by));
        let said = match asked {
            Asked::ToIssue if stops => Some(format!("{REFUSES_TO_ISSUE}{why}")),
            // What waits for a verdict waits on.
            _ if is_stopped(REFUSES_TO_ISSUE) => before.map(str::to_owned),
            Asked::ToTell if stops => Some(format!("{REFUSES_US}{why}")),
            _ if is_stopped(REFUSES_US) || pause == 0 => before.map(str::to_owned),
            _ => Some(why.clone()),
        };
        tx.pause_invoicing_account(merchant, &account.id, until, said.as_deref(), failures).await?;
        if broken {
            let key = format!("invoice.unreachable:{}", account.id);
            let text =
                format!("the invoicing system fails again and again: {why}; new invoices wait and are tried in turn");
            raise(app, &mut tx, Raise::about_account("invoice.unreachable", key, merchant, text)).await?;
        }
        if stops {
            let key = format!("invoice.account:{}", account.id);
            let text =
                format!("the invoicing account refuses us: {why}; its other invoices wait until this is corrected");
            raise(app, &mut tx, Raise::about_account("invoice.account", key, merchant, text)).await?;
            let job = app.ids.make("job");
            // A moment after the pause, so that an invoice that was begun is not put off again and again.
            let probe_at = until.unwrap_or(now) + seconds(1);
            tx.enqueue(merchant, &job, JobKind::ProbeInvoicing, &account.id, probe_at, now).await?;
        }
        tx.commit().await?;
        if !stops {
            self.not_before = self.not_before.max(until.unwrap_or(now));
        }
        Ok(())
    }

    /// The account did what it was asked to: what it rested for is over. That it tells does not show that it issues.
    async fn works(&self, tx: &mut Tx, asked: Asked) -> Result<(), FlowError> {
        let (merchant, now) = (&self.invoice.merchant_id, self.app.now());
        let Some(account) = tx.invoicing_account(merchant, &self.account.id).await? else { return Ok(()) };
        let has_failed = account.failures > 0 || account.paused_until.is_some() || account.pause_reason.is_some();
        let refuses = account.pause_reason.as_deref().is_some_and(|reason| reason.starts_with(REFUSES_TO_ISSUE));
        if !has_failed || (refuses && asked == Asked::ToTell) {
            return Ok(());
        }
        tx.pause_invoicing_account(merchant, &account.id, None, None, 0).await?;
        for matter in ["invoice.unreachable", "invoice.account"] {
            tx.resolve_alert_by_key(merchant, &format!("{matter}:{}", account.id), now).await?;
        }
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

/// Why every attempt failed, by what is known of the last one.
fn why_not_issued(invoice: &InvoiceRow) -> NotIssued {
    match invoice.last_class.as_deref() {
        _ if invoice.last_code.as_deref() == Some(ACCOUNT_OFF) => NotIssued::AccountOff,
        _ if !invoice.last_fields.is_empty() => NotIssued::Fields,
        Some("data") => NotIssued::Data,
        Some("config") => NotIssued::Account,
        Some("bug") => NotIssued::Bug,
        Some("absent") => NotIssued::Absent,
        _ => NotIssued::Unreachable,
    }
}

/// The same in words, with what the invoicing system said.
fn plain_reason(invoice: &InvoiceRow) -> String {
    let code = invoice.last_code.as_deref().unwrap_or("");
    let message = invoice.last_message.as_deref().unwrap_or("");
    let what = match why_not_issued(invoice) {
        NotIssued::AccountOff => return message.to_owned(),
        NotIssued::Fields | NotIssued::Data => "the invoicing system refuses the data of the buyer or of a line",
        NotIssued::Account => "the invoicing system refuses the account's credentials or settings",
        NotIssued::Bug => "the invoicing system did not understand the request (tell the hub's makers)",
        NotIssued::Absent => "something the invoice refers to is not there in the invoicing system",
        NotIssued::Unreachable => "the invoicing system could not be reached or gave no usable answer",
    };
    format!("{what} ({code} {message}); attempts made: {}", invoice.attempts).replace(" )", ")")
}
