//! Gives money back: a request on record first, one order at the gateway under our id, then questions until it is done.

use grosz_providers::{CallError, Cx, Event, EventKind, Money, Provider, RefundOrder, RefundReport, RefundState};

use super::FlowError;
use super::apply_event::{move_refund, unknown_key};
use super::notify::{Raise, raise};
use super::poll_status::apply_answer;
use super::start_checkout::{provider_of, raise_config};
use crate::app::App;
use crate::clock::seconds;
use crate::config::wait_s;
use crate::jobs::{self, End};
use crate::store::{Capture, Dispute, Job, JobKind, Payment, ProviderAccount, Refund, Tx};

/// A refund is ordered without asking first only within this time of its request, in seconds.
const FRESH_S: i64 = 60;

/// Records a refund and has it ordered. The sum of all refunds that are not failed never exceeds what came (I6), at
/// every moment: the payment's row is locked. What a lost dispute took is with the payer already, and not given back again.
///
/// # Errors
/// Nothing was paid, the amount is wrong or too large, or the gateway does not refund.
pub async fn request_refund(
    app: &App,
    tx: &mut Tx,
    payment: &Payment,
    amount: Option<i64>,
    reason: Option<String>,
) -> Result<Refund, FlowError> {
    let payment =
        tx.payment_for_update(&payment.merchant_id, &payment.id).await?.ok_or(FlowError::NotFound("payment"))?;
    let captures: Vec<Capture> =
        tx.captures(&payment.merchant_id, &payment.id).await?.into_iter().filter(|c| c.state == "paid").collect();
    if captures.is_empty() {
        return Err(FlowError::conflict("nothing_to_refund", "nothing was paid, so nothing can be refunded"));
    }
    let refunds = tx.refunds(&payment.merchant_id, &payment.id).await?;
    let disputes = tx.disputes(&payment.merchant_id, &payment.id).await?;
    // What came on top goes back first.
    let mut room: Vec<(&Capture, i64)> =
        captures.iter().map(|c| (c, refundable_of(c, &captures, &refunds, &disputes))).collect();
    room.sort_by_key(|(c, _)| !c.surplus);
    let most = room.iter().map(|(_, left)| *left).max().unwrap_or(0);
    let surplus_left = room.iter().filter(|(c, _)| c.surplus).map(|(_, left)| *left).max();
    if amount.is_none() && most > 0 && surplus_left == Some(0) {
        // Who names no sum confirms the prepared refund: a second time it would be the payment itself.
        let detail = "what came on top is refunded, being refunded or taken by a dispute; to refund the payment itself, \
                      name the amount";
        return Err(FlowError::conflict("surplus_refunded", detail));
    }
    let wanted = amount.unwrap_or_else(|| room.iter().find(|(_, left)| *left > 0).map_or(0, |(_, left)| *left));
    if wanted <= 0 && amount.is_some() {
        return Err(FlowError::invalid("amount", "must be above zero"));
    }
    let Some((capture, _)) = room.iter().find(|(_, left)| *left >= wanted && *left > 0) else {
        if most == 0 {
            let detail = "all that was paid is refunded, being refunded or taken by a lost dispute";
            return Err(FlowError::conflict("nothing_to_refund", detail));
        }
        return Err(FlowError::invalid(
            "amount",
            format!("must be at most {most} minor units: that is left to refund"),
        ));
    };
    check_refundable(tx, capture, &payment, Money::new(wanted, payment.amount.currency())).await?;
    if let Some(dispute) = disputes.iter().find(|d| !d.closed && !d.refundable) {
        let detail = format!("the payment is disputed ({}): a refund could pay it back twice", dispute.status);
        return Err(FlowError::conflict("payment_disputed", detail));
    }
    let now = app.now();
    let refund = Refund {
        merchant_id: payment.merchant_id.clone(),
        id: app.ids.make("ref"),
        payment_id: payment.id.clone(),
        capture_id: capture.id.clone(),
        amount: Money::new(wanted, payment.amount.currency()),
        reason,
        state: "requested".into(),
        gateway_ref: None,
        detail: String::new(),
        created_at: now,
        updated_at: now,
    };
    // A prepared refund of the same capture is the one a person now confirms.
    let prepared =
        refunds.iter().find(|r| r.state == "proposed" && r.capture_id == capture.id && r.amount == refund.amount);
    let refund = match prepared {
        Some(prepared) => {
            tx.update_refund(&payment.merchant_id, &prepared.id, "requested", None, "", now).await?;
            Refund { state: "requested".into(), ..prepared.clone() }
        }
        None => {
            tx.add_refund(&refund).await?;
            refund
        }
    };
    tx.enqueue(&payment.merchant_id, &app.ids.make("job"), JobKind::Refund, &refund.id, now, now).await?;
    Ok(refund)
}

/// A gateway without refunds is known at once; asking it would only end in an alert.
async fn check_refundable(tx: &mut Tx, capture: &Capture, payment: &Payment, wanted: Money) -> Result<(), FlowError> {
    let Some(attempt) = tx.attempt(&payment.merchant_id, &capture.attempt_id).await? else { return Ok(()) };
    let account = tx.provider_account(&payment.merchant_id, &attempt.provider_account_id).await?;
    let Some(provider) = account.and_then(|a| grosz_providers::registry::provider(&a.provider)) else { return Ok(()) };
    let facts = provider.facts();
    if !facts.can.refund {
        let detail = format!("{} does not refund by its interface; pay it back by hand", facts.title);
        return Err(FlowError::conflict("refund_not_supported", detail));
    }
    match provider.check_amount(wanted) {
        Err(CallError::Invalid { why, .. }) => Err(FlowError::invalid("amount", why)),
        _ => Ok(()),
    }
}

/// What can still be given back of a capture. Proposals hold nothing; all else but failures does.
pub(super) fn left_of(capture: &Capture, refunds: &[Refund]) -> i64 {
    let holds = |r: &&Refund| r.capture_id == capture.id && holds_money(r);
    capture.amount.minor() - refunds.iter().filter(holds).map(|r| r.amount.minor()).sum::<i64>()
}

/// The same for whoever orders a refund: what lost disputes took is not there any more.
pub(super) fn refundable_of(capture: &Capture, captures: &[Capture], refunds: &[Refund], disputes: &[Dispute]) -> i64 {
    let is_of = |d: &&Dispute| match captures.iter().find(|c| d.capture_ref.as_deref() == Some(&c.gateway_ref)) {
        Some(disputed) => disputed.id == capture.id,
        // It names no money on record: then it is about the payment's own.
        None => own_capture(captures).is_some_and(|own| own.id == capture.id),
    };
    let sum = |d: &Dispute| {
        let is_same = d.currency.as_deref() == Some(capture.amount.currency().code());
        // Where it cannot be told how much it took, it is all.
        d.amount.filter(|_| is_same).unwrap_or(capture.amount.minor())
    };
    let taken = disputes.iter().filter(|d| d.lost).filter(is_of).map(sum).fold(0, i64::saturating_add);
    left_of(capture, refunds).saturating_sub(taken).max(0)
}

/// The payment's own money, beside which stands what came on top. Of a payment that is surplus as a whole (another one had
/// paid its case) it is what came first.
pub(crate) fn own_capture(captures: &[Capture]) -> Option<&Capture> {
    let paid = captures.iter().filter(|c| c.state == "paid");
    paid.min_by(|a, b| (a.surplus, &a.id).cmp(&(b.surplus, &b.id)))
}

/// The refund is done or may be.
pub(super) fn holds_money(refund: &Refund) -> bool {
    refund.state != "failed" && refund.state != "proposed"
}

/// The job.
///
/// # Errors
/// The database; the job runs again.
pub async fn run(app: &App, job: &Job) -> Result<(), FlowError> {
    let mut tx = app.store.read().await?;
    let Some(refund) = tx.refund(&job.merchant_id, &job.subject).await? else { return jobs::finish(app, job).await };
    let payment = tx.payment(&job.merchant_id, &refund.payment_id).await?;
    let captures = tx.captures(&job.merchant_id, &refund.payment_id).await?;
    let capture = captures.into_iter().find(|c| c.id == refund.capture_id);
    let (Some(payment), Some(capture)) = (payment, capture) else { return jobs::finish(app, job).await };
    let attempt = tx.attempt(&job.merchant_id, &capture.attempt_id).await?;
    let Some(attempt) = attempt else { return jobs::finish(app, job).await };
    let account = tx.provider_account(&job.merchant_id, &attempt.provider_account_id).await?;
    drop(tx);
    let Some(account) = account else { return jobs::finish(app, job).await };
    if !matches!(refund.state.as_str(), "requested" | "pending") {
        return jobs::finish(app, job).await;
    }
    if let Some(until) = app.rests.until(&account.id, app.now()) {
        return jobs::put_back(app, job, until).await;
    }
    let provider = provider_of(&account)?;
    let settings = app.provider_settings(&account)?;
    let cx = app.cx(&settings, account.live);
    let order = RefundOrder {
        id: refund.id.clone(),
        reference: attempt.reference.clone(),
        gateway_ref: capture.gateway_ref.clone(),
        amount: refund.amount,
        paid: capture.amount,
        refund_ref: refund.gateway_ref.clone(),
    };
    let ordered = refund.state == "pending";
    let mut result = if ordered {
        provider.refund_status(&cx, &order).await
    } else if job.attempts > 1 || app.now() - refund.created_at > seconds(FRESH_S) {
        // The first order may have arrived: ask before ordering again, and order again under the same id. So may one
        // that this database does not know of: it may have been restored from a backup (F58).
        match provider.refund_status(&cx, &order).await {
            Err(CallError::Refused { .. } | CallError::Unsupported) => provider.refund(&cx, &order).await,
            other => other,
        }
    } else {
        provider.refund(&cx, &order).await
    };
    let mut told = vec![];
    if matches!(result, Err(CallError::Refused { .. } | CallError::Gone { .. })) {
        // Money that was given back there, unheard of here, is a usual reason.
        match refunds_there(provider, &cx, &order).await {
            Ok(events) => told = events,
            Err(e) => result = Err(e),
        }
    }
    record(app, job, &payment, &account, &refund, result, &told).await
}

/// The refunds of the payment as the gateway has them; none where it cannot say.
async fn refunds_there(provider: &dyn Provider, cx: &Cx<'_>, order: &RefundOrder) -> Result<Vec<Event>, CallError> {
    match provider.refunds(cx, order).await {
        Err(e @ (CallError::NotSent(_) | CallError::Unknown(_) | CallError::Busy { .. })) => Err(e),
        answer => Ok(answer.unwrap_or_default()),
    }
}

fn failure(state: RefundState, detail: String) -> RefundReport {
    RefundReport { state, gateway_ref: None, detail }
}

async fn record(
    app: &App,
    job: &Job,
    payment: &Payment,
    account: &ProviderAccount,
    refund: &Refund,
    result: Result<RefundReport, CallError>,
    told: &[Event],
) -> Result<(), FlowError> {
    let now = app.now();
    let mut tx = app.store.begin().await?;
    // The row may have moved by a webhook while we asked.
    let payment = tx.payment_for_update(&payment.merchant_id, &payment.id).await?.unwrap_or_else(|| payment.clone());
    let refund = tx.refund(&payment.merchant_id, &refund.id).await?.unwrap_or_else(|| refund.clone());
    let says_gone = matches!(result, Err(CallError::Gone { .. }));
    let (error, rest) = match result {
        Ok(report) => {
            move_refund(app, &mut tx, &payment, &refund, &report, false).await?;
            if report.state != RefundState::Pending {
                return jobs::settle(app, tx, job, End::Done).await;
            }
            (None, None)
        }
        Err(CallError::Gone { code, message } | CallError::Refused { code, message })
            if refund.state == "requested" =>
        {
            let known = tx.refunds(&payment.merchant_id, &payment.id).await?;
            let is_gone = says_gone || told.iter().any(|event| is_unheard_of(event, &known));
            let state = if is_gone { RefundState::Gone } else { RefundState::Failed };
            move_refund(app, &mut tx, &payment, &refund, &failure(state, format!("{code} {message}")), false).await?;
            // With ours out of the way there is room for what the gateway did give back.
            apply_answer(app, &mut tx, account, told, "poll").await?;
            return jobs::settle(app, tx, job, End::Done).await;
        }
        Err(CallError::Unsupported) => {
            let why = "this gateway does not refund by its interface; pay it back by hand".into();
            move_refund(app, &mut tx, &payment, &refund, &failure(RefundState::Failed, why), false).await?;
            return jobs::settle(app, tx, job, End::Done).await;
        }
        Err(e @ CallError::Invalid { .. }) => {
            let news = failure(RefundState::Failed, e.to_string());
            move_refund(app, &mut tx, &payment, &refund, &news, false).await?;
            return jobs::settle(app, tx, job, End::Done).await;
        }
        Err(e) => {
            if matches!(e, CallError::Config(_)) {
                raise_config(app, &mut tx, account, &e).await?;
            }
            (Some(e.to_string()), app.rests.heed(&account.id, &e, now))
        }
    };
    // Since it was ordered: it may have been prepared long before.
    if now - job.created_at > seconds(app.config.refund_limit_s) {
        let why = format!("what became of a refund of {} cannot be found out", refund.amount);
        raise(app, &mut tx, Raise::about_payment("refund.unknown", unknown_key(&refund), &payment, why)).await?;
    }
    let at = now + seconds(wait_s(&app.config.refund_waits_s, job.attempts - 1));
    jobs::settle(app, tx, job, End::Again { at, error }.not_before(rest)).await
}

/// Money that went back, or may, by a refund that is not on record.
fn is_unheard_of(event: &Event, known: &[Refund]) -> bool {
    matches!(&event.kind, EventKind::Refund { gateway_ref, state, .. }
        if !state.has_failed() && !known.iter().any(|r| r.gateway_ref.as_ref() == Some(gateway_ref)))
}
