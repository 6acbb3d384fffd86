//! Applies one verified event to the payment it is about. Every road ends here: webhook, poll, replay.
//!
//! What no provider can skip is compared here: account, mode, amount, currency. What an event does to a status is said
//! by `domain::payment`; this file finds the payment, asks the table, and writes.

use std::sync::Arc;

use grosz_providers::facts::Capabilities;
use grosz_providers::{Event, EventKind, Money, Reference, RefundReport, RefundState, registry};
use serde_json::json;

use super::FlowError;
use super::notify::{Raise, raise};
use super::order_invoice::order_invoice;
use super::refund::{holds_money, left_of, own_capture, refundable_of};
use super::settle_mismatch::{AMOUNT_MISMATCH, given_back, is_mispaid, matter, was_told};
use super::tell_client::{tell, tell_payment};
use crate::app::App;
use crate::clock::{rfc3339, seconds};
use crate::config::wait_s;
use crate::domain::payment::{self, Reason, Signal, Status, Step};
use crate::store::{
    Attempt, Capture, Dispute, EventRow, JobKind, Payment, ProviderAccount, Refund, Transition, Tx, refund_word,
};

/// Applies an event that is on record as `row`, and writes what became of it into `row`.
///
/// # Errors
/// The database; nothing of the transaction may be committed then.
pub async fn apply_event(
    app: &App,
    tx: &mut Tx,
    account: &ProviderAccount,
    row: &mut EventRow,
) -> Result<(), FlowError> {
    let event = Arc::clone(&row.event);
    row.state = "applied".into();
    if matches!(event.kind, EventKind::Note | EventKind::Instrument { .. }) {
        return Ok(tx.settle_event(row).await?);
    }
    let (ours, gateways) = match &event.reference {
        Reference::Ours(reference) => (Some(reference.as_str()), None),
        Reference::Gateway(reference) => (None, Some(reference.as_str())),
    };
    if gateways.is_some_and(str::is_empty) {
        // It names nothing that could come later: waiting does not help, a person does.
        row.state = "unknown".into();
        let why = format!("a genuine message of {} cannot be read: {}", account.provider, event.detail);
        let key = format!("event.unreadable:{}", account.id);
        raise(app, tx, Raise::about_account("event.unreadable", key, &row.merchant_id, why)).await?;
        return Ok(tx.settle_event(row).await?);
    }
    let Some(attempt) = tx.attempt_by_reference(&row.merchant_id, &row.account_id, ours, gateways).await? else {
        return park(app, tx, row).await;
    };
    let payment = tx.payment_for_update(&row.merchant_id, &attempt.payment_id).await?;
    let payment = payment.ok_or(FlowError::Internal("an attempt without its payment".into()))?;
    // Somebody may have given it up between our look and the lock.
    let attempt = tx.attempt_as_locked(attempt).await?;
    row.attempt_id = Some(attempt.id.clone());
    row.payment_id = Some(payment.id.clone());
    let about = About { app, account, event: &event, attempt: &attempt, payment: &payment, origin: row.origin.clone() };
    if let Some(why) = about.wrong_account() {
        row.state = "mismatch".into();
        about.mismatch(tx, "payment.account_mismatch", None, why).await?;
        return Ok(tx.settle_event(row).await?);
    }
    match &event.kind {
        EventKind::Paid => match event.amount {
            Some(amount) if amount == attempt.amount => about.paid(tx, amount, &row.id).await?,
            other => {
                row.state = "mismatch".into();
                let came = other.map_or("no amount".to_owned(), |m| m.to_string());
                let why = format!("the gateway reports {came}, {} was to be paid", attempt.amount);
                about.mismatch(tx, AMOUNT_MISMATCH, other, why).await?;
            }
        },
        EventKind::Pending => about.pending(tx).await?,
        EventKind::Failed { reason } => about.failed(tx, Reason::from(*reason), &row.id).await?,
        EventKind::Refund { order, gateway_ref, state } => {
            if payment.status != Status::Completed {
                if *state == RefundState::Succeeded && is_mispaid(tx, &attempt).await? {
                    given_back(app, tx, &payment, &attempt, event.amount).await?;
                    return Ok(tx.settle_event(row).await?);
                }
                // F07: a refund told of before the success waits for it.
                return park(app, tx, row).await;
            }
            if let Some(why) = about.refunded(tx, order.as_deref(), gateway_ref, *state).await? {
                row.state = "mismatch".into();
                // Two events may tell of one refund.
                let key = mismatch_key("refund.amount_mismatch", &payment, gateway_ref);
                about.mismatch_as(tx, "refund.amount_mismatch", key, why).await?;
            }
        }
        EventKind::Dispute { gateway_ref, status, closed, due_by, reopens, refundable, lost } => {
            let known = tx.disputes(&payment.merchant_id, &payment.id).await?;
            let before = known.into_iter().find(|d| d.gateway_ref == *gateway_ref);
            // News that are older than its end tell nobody anything.
            if before.as_ref().is_none_or(|d| !d.closed) || *closed || *reopens {
                let now = Dispute {
                    merchant_id: payment.merchant_id.clone(),
                    id: app.ids.make("dis"),
                    payment_id: payment.id.clone(),
                    gateway_ref: gateway_ref.clone(),
                    status: status.clone(),
                    closed: *closed,
                    refundable: *refundable,
                    lost: *lost,
                    capture_ref: event.gateway_ref.clone(),
                    amount: event.amount.map(Money::minor),
                    currency: event.amount.map(|m| m.currency().code().to_owned()),
                    due_by: due_by.map(grosz_providers::Timestamp::as_microsecond),
                    created_at: app.now(),
                };
                about.disputed(tx, before.as_ref(), &now).await?;
            }
        }
        EventKind::Unknown => {
            row.state = "unknown".into();
            let why = format!("the gateway reports a status that is not known here: {}", event.detail);
            let key = format!("payment.unknown_status:{}", row.id);
            raise(app, tx, Raise::about_payment("payment.unknown_status", key, &payment, why)).await?;
        }
        EventKind::Note | EventKind::Instrument { .. } => {}
    }
    Ok(tx.settle_event(row).await?)
}

/// Keeps an event whose attempt (or whose payment's success) is not there yet, and tries again later (R-HUB-10).
async fn park(app: &App, tx: &mut Tx, row: &mut EventRow) -> Result<(), FlowError> {
    row.state = "parked".into();
    tx.settle_event(row).await?;
    let now = app.now();
    let at = now + seconds(wait_s(&app.config.parked_waits_s, row.tries));
    let job = app.ids.make("job");
    tx.enqueue(&row.merchant_id, &job, JobKind::RetryEvent, &row.id, at, now).await?;
    Ok(())
}

/// One event and what it is about.
struct About<'a> {
    app: &'a App,
    account: &'a ProviderAccount,
    event: &'a Event,
    attempt: &'a Attempt,
    payment: &'a Payment,
    origin: String,
}

impl About<'_> {
    /// Compares the merchant's account and the mode, where the message names them.
    fn wrong_account(&self) -> Option<String> {
        let setting = registry::provider(&self.account.provider).and_then(|p| p.facts().account_setting);
        // A setting that was left out is the account without a name: no named one may speak for it.
        let ours = setting.map(|name| self.account.shown.get(name).map_or("", String::as_str));
        if let (Some(theirs), Some(ours)) = (&self.event.account, ours)
            && theirs != ours
        {
            return Some(match ours {
                "" => format!("the message is for account {theirs}, this account names none"),
                _ => format!("the message is for account {theirs}, this is account {ours}"),
            });
        }
        match self.event.live {
            Some(live) if live != self.account.live => {
                let word = |live| if live { "live" } else { "test" };
                Some(format!("the message is {}, this account is {}", word(live), word(self.account.live)))
            }
            _ => None,
        }
    }

    /// Flags the payment and tells people and client app, once for money of one sum on one attempt.
    async fn mismatch(
        &self,
        tx: &mut Tx,
        code: &'static str,
        came: Option<Money>,
        why: String,
    ) -> Result<(), FlowError> {
        let key = matter(code, self.attempt, came);
        if was_told(tx, self.payment, &key).await? {
            return Ok(());
        }
        self.mismatch_as(tx, code, key, why).await
    }

    async fn mismatch_as(&self, tx: &mut Tx, code: &'static str, key: String, why: String) -> Result<(), FlowError> {
        let p = self.payment;
        tx.flag_payment(&p.merchant_id, &p.id, false, true, self.app.now()).await?;
        raise(self.app, tx, Raise::about_payment(code, key, p, why)).await?;
        tell_payment(self.app, tx, p, "payment.mismatch", Some(p.status.word()), None).await
    }

    async fn paid(&self, tx: &mut Tx, amount: Money, event_id: &str) -> Result<(), FlowError> {
        let (app, p) = (self.app, self.payment);
        let gateway_ref = self.event.gateway_ref.clone().unwrap_or_default();
        let known = tx.captures(&p.merchant_id, &p.id).await?;
        let told_before = known.iter().any(|c| {
            let same = c.gateway_ref == gateway_ref || gateway_ref.is_empty() || c.gateway_ref.is_empty();
            c.attempt_id == self.attempt.id && c.state == "paid" && same
        });
        let signal = if told_before { Signal::PaidAgain } else { Signal::Paid };
        let step = payment::apply(p.status, signal);
        // Another payment of the same case may have been paid meanwhile (R-5W state table: duplicate payment).
        let case_paid = match (&p.case_id, step) {
            (Some(case), Step::Move(_) | Step::MoveLate(_)) => {
                tx.case_for_update(&p.merchant_id, case).await?;
                tx.completed_payments_of_case(&p.merchant_id, case).await? > 0
            }
            _ => false,
        };
        if !told_before {
            let surplus = step == Step::Surplus || case_paid;
            self.put_capture(tx, "paid", amount, surplus).await?;
            tx.set_attempt_state(&p.merchant_id, &p.id, &self.attempt.id, "paid").await?;
        }
        match step {
            Step::Stay => Ok(()),
            Step::Move(to) => self.complete(tx, to, false, case_paid, event_id).await,
            Step::MoveLate(to) => {
                // A new attempt after an error is not late; money on one that failed or was given up is.
                let has_failed = known.iter().any(|c| c.attempt_id == self.attempt.id && c.state == "failed");
                let late = has_failed || !matches!(self.attempt.state.as_str(), "created" | "open");
                self.complete(tx, to, late, case_paid, event_id).await?;
                if late && !self.is_next_try(tx, &known).await? {
                    let why =
                        "a success came after the payment was in error; the money is there, the payment is completed";
                    let key = format!("payment.late_success:{}", p.id);
                    raise(app, tx, Raise::about_payment("payment.late_success", key, p, why.into())).await?;
                }
                Ok(())
            }
            Step::Surplus => self.double(tx, amount).await,
        }?;
        if step == Step::Stay {
            return Ok(());
        }
        // An older link that is still open could be paid too: close what can be closed.
        for other in tx.open_attempts_beside(&p.merchant_id, &p.id, &self.attempt.id).await? {
            enqueue_cancel(app, tx, &other).await?;
        }
        Ok(())
    }

    /// The payer tried once more on the same link, in its time: nobody need be told of what is everyday (a wrong code, then
    /// the right one).
    async fn is_next_try(&self, tx: &mut Tx, known: &[Capture]) -> Result<bool, FlowError> {
        let (p, own) = (self.payment, self.event.gateway_ref.as_deref().unwrap_or_default());
        let has_failed = |c: &&Capture| c.attempt_id == self.attempt.id && c.state == "failed";
        let (mut itself, mut another) = (false, false);
        known.iter().filter(has_failed).for_each(|c| if c.gateway_ref == own { itself = true } else { another = true });
        let attempts = tx.attempts(&p.merchant_id, &p.id).await?;
        let is_last = attempts.iter().all(|a| a.no <= self.attempt.no);
        let is_given_up = self.attempt.state == "closed" || p.reason == Some(Reason::QuoteChanged);
        let in_time = self.app.now() <= self.attempt.expires_at;
        Ok(another && !itself && !own.is_empty() && is_last && in_time && !is_given_up)
    }

    async fn complete(
        &self,
        tx: &mut Tx,
        to: Status,
        late: bool,
        case_paid: bool,
        event_id: &str,
    ) -> Result<(), FlowError> {
        let (app, p) = (self.app, self.payment);
        let moved = self.move_to(tx, to, None, late, event_id).await?;
        if let Some(case) = &p.case_id
            && tx.has_other_payments(&p.merchant_id, case).await?
        {
            // With the case paid, the links of the others are closed (F08).
            enqueue_cancel(app, tx, self.attempt).await?;
        }
        if case_paid {
            self.double(tx, self.attempt.amount).await?;
        } else {
            order_invoice(app, tx, p).await?;
            self.case_prepares(tx).await?;
        }
        tell_payment(app, tx, p, "payment.completed", Some(p.status.word()), Some(&moved)).await
    }

    /// The case's status as the client sees it, exactly once (R-5W-19).
    async fn case_prepares(&self, tx: &mut Tx) -> Result<(), FlowError> {
        let (app, p) = (self.app, self.payment);
        let Some(case_id) = &p.case_id else { return Ok(()) };
        let Some(mut case) = tx.case_for_update(&p.merchant_id, case_id).await? else { return Ok(()) };
        if case.status == "in_preparation" {
            return Ok(());
        }
        let previous = std::mem::replace(&mut case.status, "in_preparation".into());
        case.updated_at = app.now();
        tx.update_case(&case).await?;
        let data = json!({"id": case.id, "number": case.number, "status": case.status, "previous_status": previous});
        tell(app, tx, &p.merchant_id, "case.status_changed", &case.id, p.live, data).await
    }

    /// Money that came on top: flagged, with a refund prepared for a person to confirm; never a second invoice (F08).
    async fn double(&self, tx: &mut Tx, amount: Money) -> Result<(), FlowError> {
        let (app, p) = (self.app, self.payment);
        let now = app.now();
        tx.flag_payment(&p.merchant_id, &p.id, true, false, now).await?;
        let gateway_ref = self.event.gateway_ref.clone().unwrap_or_default();
        let captures = tx.captures(&p.merchant_id, &p.id).await?;
        let capture = captures.iter().find(|c| c.attempt_id == self.attempt.id && c.gateway_ref == gateway_ref);
        if let Some(capture) = capture {
            let proposal = Refund {
                merchant_id: p.merchant_id.clone(),
                id: app.ids.make("ref"),
                payment_id: p.id.clone(),
                capture_id: capture.id.clone(),
                amount,
                reason: Some("double payment".into()),
                state: "proposed".into(),
                gateway_ref: None,
                detail: String::new(),
                created_at: now,
                updated_at: now,
            };
            tx.add_refund(&proposal).await?;
        }
        let why =
            format!("the payer paid twice: {amount} came on top; a refund is prepared and waits for confirmation");
        let key = double_key(p, &gateway_ref);
        raise(app, tx, Raise::about_payment("payment.double", key, p, why)).await?;
        tell_payment(app, tx, p, "payment.double_payment", Some(p.status.word()), None).await
    }

    async fn pending(&self, tx: &mut Tx) -> Result<(), FlowError> {
        let Some(gateway_ref) = &self.event.gateway_ref else { return Ok(()) };
        let (app, p, attempt) = (self.app, self.payment, self.attempt);
        let known = tx.captures(&p.merchant_id, &p.id).await?;
        let told = known.iter().find(|c| c.attempt_id == attempt.id && c.gateway_ref == *gateway_ref);
        match told.map(|c| c.state.as_str()) {
            // The payer began another try on the same link: money is under way.
            None => {
                let amount = self.event.amount.unwrap_or(attempt.amount);
                self.put_capture(tx, "pending", amount, false).await?;
                if p.status != Status::Completed && matches!(attempt.state.as_str(), "failed" | "closed") {
                    tx.set_attempt_state(&p.merchant_id, &p.id, &attempt.id, "open").await?;
                }
            }
            // Of the very try that failed it is old news, or the gateway's own second thoughts: asking tells.
            Some("failed") => {}
            Some(_) => return Ok(()),
        }
        if matches!(attempt.state.as_str(), "created" | "open") {
            // It is asked about already.
            return Ok(());
        }
        // Whatever the link has come to, what becomes of this money is asked about.
        let (job, now) = (app.ids.make("job"), app.now());
        let at = now + seconds(wait_s(&app.config.poll_waits_s, 0));
        tx.enqueue(&p.merchant_id, &job, JobKind::PollStatus, &attempt.id, at, now).await?;
        // There may be one already that looks once more when the link's time is over.
        tx.hasten(&p.merchant_id, JobKind::PollStatus, &attempt.id, at).await?;
        Ok(())
    }

    async fn failed(&self, tx: &mut Tx, reason: Reason, event_id: &str) -> Result<(), FlowError> {
        let (app, p) = (self.app, self.payment);
        let gateway_ref = self.event.gateway_ref.clone().unwrap_or_default();
        let known = tx.captures(&p.merchant_id, &p.id).await?;
        let mine = |c: &&Capture| c.attempt_id == self.attempt.id;
        if known.iter().filter(mine).any(|c| c.gateway_ref == gateway_ref && c.state == "paid") {
            // Documented as impossible: the very payment that was paid is now told to have failed. It stays paid.
            let why = "the gateway reports as failed what it had reported as paid; the payment stays completed";
            let key = format!("payment.failure_after_success:{}", p.id);
            return raise(app, tx, Raise::about_payment("payment.failure_after_success", key, p, why.into())).await;
        }
        if self.event.gateway_ref.is_some() {
            let amount = self.event.amount.unwrap_or(self.attempt.amount);
            self.put_capture(tx, "failed", amount, false).await?;
        }
        let open_beside = known.iter().filter(mine).any(|c| c.gateway_ref != gateway_ref && c.state == "pending");
        let others = tx.attempts(&p.merchant_id, &p.id).await?;
        let is_pending = |a: &Attempt| known.iter().any(|c| c.attempt_id == a.id && c.state == "pending");
        let is_tried = |a: &&Attempt| a.id != self.attempt.id && matches!(a.state.as_str(), "created" | "open");
        let elsewhere = others.iter().filter(is_tried).any(|a| a.no > self.attempt.no || is_pending(a));
        let signal = if open_beside || elsewhere { Signal::FailedBeside } else { Signal::Failed };
        if !open_beside {
            tx.set_attempt_state(&p.merchant_id, &p.id, &self.attempt.id, "failed").await?;
        }
        let was_open = matches!(self.attempt.state.as_str(), "created" | "open");
        let previous = Some(p.status.word());
        match payment::apply(p.status, signal) {
            Step::Stay if was_open && signal == Signal::Failed => fail_anew(app, tx, p, reason).await,
            Step::Stay | Step::Surplus => Ok(()),
            Step::Move(to) | Step::MoveLate(to) => {
                let moved = self.move_to(tx, to, Some(reason), false, event_id).await?;
                tell_payment(app, tx, p, "payment.error", previous, Some(&moved)).await
            }
        }
    }

    async fn move_to(
        &self,
        tx: &mut Tx,
        to: Status,
        reason: Option<Reason>,
        late: bool,
        event_id: &str,
    ) -> Result<String, FlowError> {
        let cause = self.origin.as_str();
        move_status(self.app, tx, self.payment, to, reason, late, cause, Some(event_id)).await
    }

    async fn put_capture(&self, tx: &mut Tx, state: &str, amount: Money, surplus: bool) -> Result<(), FlowError> {
        let capture = Capture {
            id: self.app.ids.make("cap"),
            attempt_id: self.attempt.id.clone(),
            gateway_ref: self.event.gateway_ref.clone().unwrap_or_default(),
            state: state.into(),
            amount,
            surplus,
        };
        let p = self.payment;
        Ok(tx.put_capture(&p.merchant_id, &p.id, &capture, self.app.now()).await?)
    }

    /// A refund that the gateway reports; answers why it cannot be the one that is on record, or why its sum cannot be
    /// right: then nothing is booked.
    async fn refunded(
        &self,
        tx: &mut Tx,
        order: Option<&str>,
        gateway_ref: &str,
        state: RefundState,
    ) -> Result<Option<String>, FlowError> {
        let (app, p) = (self.app, self.payment);
        let now = app.now();
        let known = tx.refunds(&p.merchant_id, &p.id).await?;
        let captures = tx.captures(&p.merchant_id, &p.id).await?;
        let its_own = |c: &&Capture| self.event.gateway_ref.as_ref() == Some(&c.gateway_ref);
        let paid = || captures.iter().filter(|c| c.state == "paid");
        let candidates: Vec<&Capture> = match paid().find(its_own) {
            Some(capture) => vec![capture],
            None => paid().collect(),
        };
        let can = registry::provider(&self.account.provider).map(|p| p.facts().can).unwrap_or_default();
        let found = known
            .iter()
            .find(|r| Some(r.id.as_str()) == order || r.gateway_ref.as_deref() == Some(gateway_ref))
            .or_else(|| self.meant(can, &known, &candidates, state));
        let mut recovers = false;
        let refund = match (found, self.event.amount) {
            (Some(refund), Some(reported)) if reported != refund.amount => {
                let why = format!("the gateway reports a refund of {reported}, on record is one of {}", refund.amount);
                return Ok(Some(why));
            }
            (Some(refund), _) if refund.state == "failed" && state == RefundState::Succeeded && can.refunds_recover => {
                let capture = captures.iter().find(|c| c.id == refund.capture_id);
                if capture.is_none_or(|c| refund.amount.minor() > left_of(c, &known)) {
                    let why = format!(
                        "a refund of {} that had failed was made all the same, beside another one: too much is given \
                         back",
                        refund.amount
                    );
                    return Ok(Some(why));
                }
                recovers = true;
                refund.clone()
            }
            (Some(refund), _) => refund.clone(),
            (None, None) => return Ok(Some("the gateway reports a refund without saying how much".into())),
            (None, Some(amount)) => {
                // Made at the gateway's own panel, not by us.
                // What did not happen holds nothing, and may be told of beside the one that did.
                let fits = |c: &&Capture| {
                    let has_room = state.has_failed() || amount.minor() <= left_of(c, &known);
                    amount.currency() == c.amount.currency() && amount.minor() > 0 && has_room
                };
                let Some(capture) = candidates.into_iter().find(fits) else {
                    let given_back: i64 = known.iter().filter(|r| holds_money(r)).map(|r| r.amount.minor()).sum();
                    let before = Money::new(given_back, p.amount.currency());
                    let why = format!(
                        "the gateway reports a refund of {amount}; {} was paid, {before} of it is given back or being \
                         given back",
                        self.attempt.amount
                    );
                    return Ok(Some(why));
                };
                let refund = Refund {
                    merchant_id: p.merchant_id.clone(),
                    id: app.ids.make("ref"),
                    payment_id: p.id.clone(),
                    capture_id: capture.id.clone(),
                    amount,
                    reason: Some("made at the gateway".into()),
                    state: "pending".into(),
                    gateway_ref: Some(gateway_ref.to_owned()),
                    detail: self.event.detail.clone(),
                    created_at: now,
                    updated_at: now,
                };
                tx.add_refund(&refund).await?;
                // It may have been told of when there was no room for it.
                let key = mismatch_key("refund.amount_mismatch", p, gateway_ref);
                tx.resolve_alert_by_key(&p.merchant_id, &key, now).await?;
                refund
            }
        };
        let news = RefundReport { state, gateway_ref: Some(gateway_ref.to_owned()), detail: self.event.detail.clone() };
        move_refund(app, tx, p, &refund, &news, recovers).await?;
        Ok(None)
    }

    /// The refund on record that news without a name we know are about: one of the same sum that we ordered, where the
    /// gateway never repeats our name; or the prepared one that somebody made at the gateway instead of confirming it.
    fn meant<'r>(
        &self,
        can: Capabilities,
        known: &'r [Refund],
        of: &[&Capture],
        state: RefundState,
    ) -> Option<&'r Refund> {
        let fits = |r: &&Refund| {
            r.gateway_ref.is_none()
                && Some(r.amount) == self.event.amount
                && of.iter().any(|capture| capture.id == r.capture_id)
        };
        let ordered = |r: &&Refund| !can.names_refunds && matches!(r.state.as_str(), "requested" | "pending");
        let prepared = |r: &&Refund| r.state == "proposed" && !state.has_failed();
        let of_state = |wanted: &dyn Fn(&&Refund) -> bool| known.iter().find(|r| fits(r) && wanted(r));
        of_state(&ordered).or_else(|| of_state(&prepared))
    }

    async fn disputed(&self, tx: &mut Tx, before: Option<&Dispute>, now: &Dispute) -> Result<(), FlowError> {
        let (app, p) = (self.app, self.payment);
        tx.put_dispute(now).await?;
        let due_by = now.due_by.or(before.and_then(|d| d.due_by));
        let is_new = before
            .is_none_or(|d| (&d.status, d.closed, d.lost, d.due_by) != (&now.status, now.closed, now.lost, due_by));
        if is_new {
            // One alert per stand of the dispute, and one open alert for it: F84.
            if let Some(before) = before {
                tx.resolve_alert_by_key(&p.merchant_id, &dispute_key(before), app.now()).await?;
            }
            match (now.lost, now.closed) {
                (true, _) => self.lost(tx, now).await?,
                // It was won, or came to nothing: nobody has to do anything.
                (false, true) => {}
                (false, false) => {
                    let status = &now.status;
                    let until = due_by.map_or(String::new(), |at| format!("; answer by {}", rfc3339(at)));
                    let until_pl = due_by.map_or(String::new(), |at| format!("; odpowiedz do {}", rfc3339(at)));
                    let why = format!("the payer disputes this payment ({status}){until}");
                    let matter = Raise::about_payment("payment.disputed", dispute_key(now), p, why)
                        .in_polish(format!("klient reklamuje tę płatność u operatora ({status}){until_pl}"));
                    raise(app, tx, matter).await?;
                }
            }
        }
        let kind = if now.closed { "dispute.closed" } else { "dispute.updated" };
        let data = json!({"payment": p.id, "dispute": now.gateway_ref, "status": now.status, "closed": now.closed,
            "lost": now.lost, "amount": now.amount, "currency": now.currency, "due_by": due_by.map(rfc3339)});
        tell(app, tx, &p.merchant_id, kind, &p.id, p.live, data).await
    }

    /// The payer keeps the disputed money. Whether the invoice is corrected is a person's decision (F84).
    async fn lost(&self, tx: &mut Tx, dispute: &Dispute) -> Result<(), FlowError> {
        let (app, p) = (self.app, self.payment);
        let sum = self.event.amount.unwrap_or(p.amount);
        let status = &dispute.status;
        let why = format!("a dispute was lost ({status}): the payer has {sum} of this payment back");
        let matter = Raise::about_payment("payment.dispute_lost", dispute_key(dispute), p, why)
            .in_polish(format!("reklamacja została przegrana ({status}): klient ma z powrotem {sum} z tej płatności"));
        raise(app, tx, matter).await?;
        let captures = tx.captures(&p.merchant_id, &p.id).await?;
        let surplus = captures.iter().find(|c| c.surplus && dispute.capture_ref.as_ref() == Some(&c.gateway_ref));
        if let Some(capture) = surplus {
            let refunds = tx.refunds(&p.merchant_id, &p.id).await?;
            if refundable_of(capture, &captures, &refunds, std::slice::from_ref(dispute)) == 0 {
                // What came on top is gone: there is no refund of it to be confirmed.
                tx.resolve_alert_by_key(&p.merchant_id, &double_key(p, &capture.gateway_ref), app.now()).await?;
            }
        }
        Ok(())
    }
}

/// Moves a payment's status by compare-and-set and records the move with its cause; answers the transition's id.
///
/// # Errors
/// The database, or somebody moved the status although the row was locked (never seen).
#[allow(clippy::too_many_arguments, reason = "a move has exactly these parts, all of different meaning")]
pub async fn move_status(
    app: &App,
    tx: &mut Tx,
    p: &Payment,
    to: Status,
    reason: Option<Reason>,
    late: bool,
    cause: &str,
    cause_id: Option<&str>,
) -> Result<String, FlowError> {
    let now = app.now();
    if !tx.move_payment(p, to, reason, late, now).await? {
        return Err(crate::store::StoreError::Conflict.into());
    }
    let transition = Transition {
        id: app.ids.make("trn"),
        from: Some(p.status.word().into()),
        to: to.word().into(),
        reason: reason.map(|r| r.word().into()),
        cause: cause.into(),
        cause_id: cause_id.map(str::to_owned),
        at: now,
    };
    let id = transition.id.clone();
    tx.add_transition(&p.merchant_id, &p.id, transition).await?;
    app.metrics.count(&app.metrics.transitions, to.word(), cause);
    tracing::info!(payment.id = %p.id, from = %p.status, to = %to, cause, "Moved payment {} to {to}", p.id);
    Ok(id)
}

/// Another try of a payment in error came to nothing: its status is the same, its reason is the last try's (R-5W-32,
/// R-5W-33). One whose quote changed keeps that.
///
/// # Errors
/// The database.
pub async fn fail_anew(app: &App, tx: &mut Tx, p: &Payment, reason: Reason) -> Result<(), FlowError> {
    if p.status != Status::Error || p.reason == Some(Reason::QuoteChanged) {
        return Ok(());
    }
    if !tx.move_payment(p, p.status, Some(reason), false, app.now()).await? {
        return Err(crate::store::StoreError::Conflict.into());
    }
    tell_payment(app, tx, p, "payment.error", Some(p.status.word()), None).await
}

/// Moves a refund's state, whoever told of it, and sums up what was given back.
///
/// A refund that succeeded can still fail later: the sum is open again and a person is told (F77). Failed is final, unless
/// the gateway `recovers` what had failed.
///
/// # Errors
/// The database.
pub async fn move_refund(
    app: &App,
    tx: &mut Tx,
    p: &Payment,
    refund: &Refund,
    news: &RefundReport,
    recovers: bool,
) -> Result<(), FlowError> {
    let (state, gateway_ref, detail) = (news.state, news.gateway_ref.as_deref(), news.detail.as_str());
    let word = refund_word(state);
    let is_over = matches!(refund.state.as_str(), "succeeded" | "failed");
    // News that is older than what we know changes nothing.
    if refund.state == "failed" && !recovers || state == RefundState::Pending && is_over {
        return Ok(());
    }
    let unchanged = refund.state == word;
    tx.update_refund(&p.merchant_id, &refund.id, word, gateway_ref, detail, app.now()).await?;
    if unchanged {
        return Ok(());
    }
    let captures = tx.captures(&p.merchant_id, &p.id).await?;
    let own = own_capture(&captures).map(|c| &c.id);
    let refunds = tx.refunds(&p.merchant_id, &p.id).await?;
    // What came on top was never the payment's: its refund is no refund of the payment.
    let given_back = refunds.iter().filter(|r| r.state == "succeeded" && own == Some(&r.capture_id));
    let sum = given_back.map(|r| r.amount.minor()).fold(0, i64::saturating_add);
    tx.set_amount_refunded(&p.merchant_id, &p.id, sum, app.now()).await?;
    if is_final(state) {
        // What became of it is known now.
        tx.resolve_alert_by_key(&p.merchant_id, &unknown_key(refund), app.now()).await?;
    }
    if state.has_failed() {
        let sum = refund.amount;
        let (code, why, in_polish) = match state {
            RefundState::Gone => (
                "refund.conflict",
                format!(
                    "a refund of {sum} did not happen: the gateway says that the money is given back already, or \
                     disputed: {detail}"
                ),
                format!(
                    "zwrot {sum} nie doszedł do skutku: operator płatności mówi, że te pieniądze już zwrócono albo są \
                     reklamowane: {detail}"
                ),
            ),
            RefundState::Failed | RefundState::Pending | RefundState::Succeeded => (
                "refund.failed",
                format!("a refund of {sum} did not happen: {detail}"),
                format!("zwrot {sum} nie doszedł do skutku: {detail}"),
            ),
        };
        raise(app, tx, Raise::about_payment(code, failure_key(refund), p, why).in_polish(in_polish)).await?;
        // There is nothing to correct any more.
        tx.resolve_alert_by_key(&p.merchant_id, &correction_key(refund), app.now()).await?;
        look_again(app, tx, p).await?;
    }
    if state == RefundState::Succeeded {
        tx.resolve_alert_by_key(&p.merchant_id, &failure_key(refund), app.now()).await?;
        after_giving_back(app, tx, p, refund).await?;
    }
    let data = json!({
        "id": refund.id, "payment": p.id, "amount": refund.amount.minor(), "currency": refund.amount.currency().code(),
        "surplus": own != Some(&refund.capture_id), "status": word, "previous_status": refund.state,
    });
    tell(app, tx, &p.merchant_id, &format!("refund.{word}"), &refund.id, p.live, data).await
}

/// A refund that came to nothing leaves room for one that was told of meanwhile and did not fit beside it.
async fn look_again(app: &App, tx: &mut Tx, p: &Payment) -> Result<(), FlowError> {
    for mut row in tx.events_of_payment(&p.merchant_id, &p.id).await? {
        if row.state == "mismatch" && matches!(row.event.kind, EventKind::Refund { .. }) {
            row.state = "parked".into();
            tx.settle_event(&row).await?;
            let (job, now) = (app.ids.make("job"), app.now());
            tx.enqueue(&row.merchant_id, &job, JobKind::RetryEvent, &row.id, now, now).await?;
        }
    }
    Ok(())
}

/// Money of an invoiced sale went back: no invoicing API is asked for a correcting invoice, so it is a person's task
/// (R-5W-54). What came on top was never invoiced: with it gone, its own task is done.
async fn after_giving_back(app: &App, tx: &mut Tx, p: &Payment, refund: &Refund) -> Result<(), FlowError> {
    let captures = tx.captures(&p.merchant_id, &p.id).await?;
    if let Some(capture) = captures.iter().find(|c| c.id == refund.capture_id && c.surplus) {
        let refunds = tx.refunds(&p.merchant_id, &p.id).await?;
        if left_of(capture, &refunds) <= 0 {
            tx.resolve_alert_by_key(&p.merchant_id, &double_key(p, &capture.gateway_ref), app.now()).await?;
        }
        return Ok(());
    }
    let Some(invoice) = tx.invoice_of_payment(&p.merchant_id, &p.id).await? else { return Ok(()) };
    let named = invoice.number.as_deref().unwrap_or("that is being issued");
    let why = format!("{} of the payment was given back: the invoice {named} has to be corrected", refund.amount);
    raise(app, tx, Raise::about_payment("invoice.to_correct", correction_key(refund), p, why)).await
}

fn is_final(state: RefundState) -> bool {
    state != RefundState::Pending
}

/// The key of the alert that nobody can find out what became of a refund.
pub(super) fn unknown_key(refund: &Refund) -> String {
    format!("refund.unknown:{}", refund.id)
}

fn double_key(p: &Payment, gateway_ref: &str) -> String {
    format!("payment.double:{}:{gateway_ref}", p.id)
}

fn failure_key(refund: &Refund) -> String {
    format!("refund.failed:{}", refund.id)
}

fn mismatch_key(code: &str, p: &Payment, of: &str) -> String {
    format!("{code}:{}:{of}", p.id)
}

/// The key of the alert about a dispute as it stands.
fn dispute_key(d: &Dispute) -> String {
    match d.lost {
        true => format!("payment.dispute_lost:{}:{}", d.payment_id, d.gateway_ref),
        false => format!("payment.disputed:{}:{}:{}", d.payment_id, d.gateway_ref, d.status),
    }
}

fn correction_key(refund: &Refund) -> String {
    format!("invoice.to_correct:{}", refund.id)
}

/// Has an attempt closed at the gateway, so that an old link can no longer be paid; of one that was paid, what is left of
/// its case's other payments.
///
/// # Errors
/// The database.
pub async fn enqueue_cancel(app: &App, tx: &mut Tx, attempt: &Attempt) -> Result<(), FlowError> {
    let (job, now) = (app.ids.make("job"), app.now());
    tx.enqueue(&attempt.merchant_id, &job, JobKind::CancelAttempt, &attempt.id, now, now).await?;
    Ok(())
}
