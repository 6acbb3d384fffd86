//! What a signed Stripe event says, in our words.
//!
//! Two events may tell of the same money (`checkout.session.completed` and `payment_intent.succeeded`); both name the
//! PaymentIntent, so the hub sees one payment. Events come in any order and tell of the moment they were made. An
//! enumeration that grew is never a success: it is parked. (Stripe API reference, "Types of events"; "Fulfill orders
//! with Checkout".)

use jiff::Timestamp;

use super::amount;
use super::picked::Tree;
use crate::gateway::{Event, EventKind, FailReason, Reference, RefundState, Standing};
use crate::sign;

/// Metadata key that carries [`crate::Checkout::reference`] on sessions, payments and refunds.
pub(super) const OURS: &str = "hub_payment";
/// Metadata key that carries [`crate::RefundOrder::id`] on refunds.
pub(super) const OUR_REFUND: &str = "hub_refund";

/// Longest name of theirs that we keep.
const NAME_LIMIT: usize = 255;

/// The events of a verified body. What is signed and yet not understood is kept for a person, for a repeat would not
/// be any clearer. Of members that come twice the last counts, as in the vendor's own libraries.
pub(super) fn read(body: &[u8]) -> Vec<Event> {
    read_tree(&Tree::of(body), body)
}

/// The events of a tree, which has at least the members that are looked for here.
pub(super) fn read_tree(event: &Tree<'_>, body: &[u8]) -> Vec<Event> {
    let Some(frame) = Frame::read(event) else { return vec![undecodable(body)] };
    if event["object"].as_str().is_some_and(|o| o.starts_with("v2.")) {
        // A thin event tells that something happened, not what it was; the status query brings that.
        return vec![frame.event(EventKind::Note, Reference::Gateway(name(&event["related_object"]["id"])))];
    }
    let object = &event["data"]["object"];
    match object.is_object() {
        true => snapshot(&frame, object),
        false => vec![undecodable(body)],
    }
}

fn snapshot(frame: &Frame, object: &Tree<'_>) -> Vec<Event> {
    match frame.kind {
        "checkout.session.completed"
        | "checkout.session.async_payment_succeeded"
        | "checkout.session.async_payment_failed"
        | "checkout.session.expired" => vec![session(frame, object)],
        "payment_intent.succeeded" | "payment_intent.processing" => vec![intent(frame, object)],
        "refund.created" | "refund.updated" | "refund.failed" | "charge.refund.updated" => vec![refund(frame, object)],
        "charge.refunded" => refunded(frame, object),
        "charge.dispute.created"
        | "charge.dispute.updated"
        | "charge.dispute.funds_withdrawn"
        | "charge.dispute.funds_reinstated"
        | "charge.dispute.closed" => vec![dispute(frame, object)],
        // A refusal on a page that is still open among them: the payer may take another card.
        _ => vec![Event { detail: refusal(frame.kind, object), ..frame.event(EventKind::Note, reference(object)) }],
    }
}

fn session(frame: &Frame, session: &Tree<'_>) -> Event {
    let paid = session["payment_status"].as_str().unwrap_or_default();
    let kind = match (frame.kind, paid) {
        // A page that saves a card or begins a subscription takes no payment of ours.
        _ if !matches!(session["mode"].as_str(), None | Some("payment")) => EventKind::Note,
        ("checkout.session.expired", "unpaid" | "no_payment_required" | "") => failed(FailReason::Expired),
        ("checkout.session.async_payment_failed", "unpaid" | "") => failed(FailReason::Declined),
        ("checkout.session.completed", "unpaid") => EventKind::Pending,
        ("checkout.session.completed" | "checkout.session.async_payment_succeeded", "paid" | "no_payment_required") => {
            EventKind::Paid
        }
        _ => EventKind::Unknown,
    };
    Event {
        amount: money(session, "amount_total"),
        gateway_ref: payment_of(session).or_else(|| some_name(&session["id"])),
        detail: detail(&[frame.kind, paid]),
        ..frame.event(kind, reference(session))
    }
}

fn intent(frame: &Frame, intent: &Tree<'_>) -> Event {
    let status = intent["status"].as_str().unwrap_or_default();
    let kind = match (frame.kind, status) {
        ("payment_intent.succeeded", "succeeded") => EventKind::Paid,
        ("payment_intent.processing", "processing") => EventKind::Pending,
        _ => EventKind::Unknown,
    };
    // What was taken, which is less than what was asked for after a capture in part.
    let taken =
        if kind == EventKind::Paid && !intent["amount_received"].is_null() { "amount_received" } else { "amount" };
    Event {
        amount: money(intent, taken),
        gateway_ref: some_name(&intent["id"]),
        detail: detail(&[frame.kind, status]),
        ..frame.event(kind, reference(intent))
    }
}

fn refund(frame: &Frame, refund: &Tree<'_>) -> Event {
    let status = refund["status"].as_str().unwrap_or_default();
    let why = refund["failure_reason"].as_str().unwrap_or_default();
    let kind = match (refund_state(status, why), some_name(&refund["id"])) {
        (Some(state), Some(gateway_ref)) => {
            EventKind::Refund { order: some_name(&refund["metadata"][OUR_REFUND]), gateway_ref, state }
        }
        _ => EventKind::Unknown,
    };
    Event {
        amount: money(refund, "amount"),
        gateway_ref: payment_of(refund),
        detail: detail(&[frame.kind, status, why]),
        ..frame.event(kind, reference(refund))
    }
}

/// `charge.refunded` tells a sum over all refunds of a charge. Older API versions list them; newer ones do not, and
/// the sum alone would count a refund twice beside its own `refund.*` events.
fn refunded(frame: &Frame, charge: &Tree<'_>) -> Vec<Event> {
    let list = charge["refunds"]["data"].as_list();
    if list.is_empty() {
        let note = frame.event(EventKind::Note, reference(charge));
        return vec![Event { amount: money(charge, "amount_refunded"), gateway_ref: payment_of(charge), ..note }];
    }
    let one = |each: &Tree<'_>| {
        let event = refund(frame, each);
        let reference = if some_name(&each["metadata"][OURS]).is_some() { event.reference } else { reference(charge) };
        Event { key: format!("{}:{}", frame.id, name(&each["id"])), reference, ..event }
    };
    list.iter().map(one).collect()
}

/// A refund as lists show it, in the words of its webhook.
pub(super) fn listed(refund_now: &Tree<'_>) -> Event {
    let (id, status) = (name(&refund_now["id"]), name(&refund_now["status"]));
    let frame = Frame { id: format!("status:{id}:{status}"), kind: "refund", live: None, account: None, at: None };
    refund(&frame, refund_now)
}

/// Where a refund stands, and why it failed; `None` for a word nobody told us about.
pub(super) fn refund_state(status: &str, why: &str) -> Option<RefundState> {
    match status {
        "failed" | "canceled" if why == "charge_for_pending_refund_disputed" => Some(RefundState::Gone),
        "pending" | "requires_action" => Some(RefundState::Pending),
        "succeeded" => Some(RefundState::Succeeded),
        "failed" | "canceled" => Some(RefundState::Failed),
        _ => None,
    }
}

fn dispute(frame: &Frame, dispute: &Tree<'_>) -> Event {
    let status = name(&dispute["status"]);
    let over = matches!(&*status, "won" | "lost" | "warning_closed" | "prevented");
    let closed = over || frame.kind == "charge.dispute.closed";
    let due_by = dispute["evidence_details"]["due_by"].as_i64().filter(|s| *s > 0);
    let kind = match some_name(&dispute["id"]) {
        Some(gateway_ref) => EventKind::Dispute {
            gateway_ref,
            closed,
            due_by: due_by.and_then(|s| Timestamp::from_second(s).ok()),
            reopens: matches!(&*status, "appeal_needs_response" | "appeal_under_review"),
            status: status.clone(),
            // docs.stripe.com/disputes/how-disputes-work: an inquiry is best answered by a refund; after that it cannot become
            // a dispute.
            // The end of a word nobody told us about is taken for the worse one.
            lost: closed
                && !matches!(&*status, "won" | "warning_closed")
                && (status != "prevented" || was_taken(dispute)),
            refundable: dispute["is_charge_refundable"].as_bool().unwrap_or_else(|| status.starts_with("warning_")),
        },
        None => EventKind::Unknown,
    };
    Event {
        amount: money(dispute, "amount"),
        gateway_ref: payment_of(dispute),
        detail: detail(&[frame.kind, &status, dispute["reason"].as_str().unwrap_or_default()]),
        ..frame.event(kind, reference(dispute))
    }
}

/// More was withdrawn from the merchant's balance for a dispute than came back to it.
fn was_taken(dispute: &Tree<'_>) -> bool {
    let moved = dispute["balance_transactions"].as_list().iter().filter_map(|moved| moved["amount"].as_i64());
    moved.fold(0, i64::saturating_add) < 0
}

/// What a session says when asked: its events, in the words of the webhook, and whether it can still be paid.
/// `payment_intent.latest_charge` is to be expanded.
pub(super) fn standing(session_now: &Tree<'_>) -> (Vec<Event>, Standing) {
    let (status, paid) = (session_now["status"].as_str(), session_now["payment_status"].as_str());
    let under_way = session_now["payment_intent"]["status"].as_str().unwrap_or_default();
    let (kind, standing) = match (status, paid) {
        (Some("complete"), Some("paid" | "no_payment_required")) => ("checkout.session.completed", Standing::Paid),
        (Some("complete"), Some("unpaid")) => match under_way {
            "requires_payment_method" | "canceled" => ("checkout.session.async_payment_failed", Standing::Closed),
            _ => ("checkout.session.completed", Standing::Open),
        },
        (Some("expired"), Some("unpaid" | "no_payment_required")) => ("checkout.session.expired", Standing::Closed),
        (Some("open"), Some("unpaid" | "no_payment_required")) => return (vec![], Standing::Open),
        // A word nobody told us about.
        _ => ("", Standing::Open),
    };
    let id = name(&session_now["id"]);
    let (status, paid) = (status.unwrap_or_default(), paid.unwrap_or_default());
    let frame = Frame {
        id: format!("status:{id}:{status}:{paid}:{under_way}"),
        kind,
        live: session_now["livemode"].as_bool(),
        account: None,
        at: None,
    };
    let event = session(&frame, session_now);
    (vec![Event { detail: detail(&[status, paid, under_way]), ..event }], standing)
}

/// What all events of a delivery share.
struct Frame<'a> {
    id: String,
    kind: &'a str,
    live: Option<bool>,
    account: Option<String>,
    at: Option<Timestamp>,
}

impl<'a> Frame<'a> {
    fn read(event: &'a Tree<'_>) -> Option<Self> {
        Some(Frame {
            id: some_name(&event["id"])?,
            kind: event["type"].as_str().filter(|t| t.len() <= NAME_LIMIT)?,
            live: event["livemode"].as_bool(),
            account: some_name(&event["account"]),
            at: event["created"].as_i64().and_then(|s| Timestamp::from_second(s).ok()),
        })
    }

    fn event(&self, kind: EventKind, reference: Reference) -> Event {
        Event {
            key: self.id.clone(),
            kind,
            reference,
            account: self.account.clone(),
            live: self.live,
            amount: None,
            gateway_ref: None,
            detail: detail(&[self.kind]),
            at: self.at,
        }
    }
}

fn undecodable(body: &[u8]) -> Event {
    Event {
        key: format!("undecodable:{}", sign::sha256_hex(body)),
        kind: EventKind::Unknown,
        reference: Reference::Gateway(String::new()),
        account: None,
        live: None,
        amount: None,
        gateway_ref: None,
        detail: "signed, and not an event".into(),
        at: None,
    }
}

/// By our mark alone, which every session and payment of ours has. `client_reference_id` says nothing: other shops on the
/// same account write their own orders there, and on a Payment Link the payer writes what he likes.
fn reference(object: &Tree<'_>) -> Reference {
    match some_name(&object["metadata"][OURS]) {
        Some(ours) => Reference::Ours(ours),
        None => Reference::Gateway(payment_of(object).unwrap_or_else(|| name(&object["id"]))),
    }
}

/// The PaymentIntent an object belongs to, by name or expanded; the charge for what has none.
fn payment_of(object: &Tree<'_>) -> Option<String> {
    let by = |member: &str| some_name(&object[member]).or_else(|| some_name(&object[member]["id"]));
    by("payment_intent").or_else(|| by("charge"))
}

fn money(object: &Tree<'_>, member: &str) -> Option<crate::Money> {
    amount::from_wire(object[member].as_i64()?, object["currency"].as_str()?)
}

fn failed(reason: FailReason) -> EventKind {
    EventKind::Failed { reason }
}

fn refusal(kind: &str, object: &Tree<'_>) -> String {
    let error = &object["last_payment_error"];
    let word = |name: &str| error[name].as_str().or(object[&format!("failure_{name}")].as_str()).unwrap_or_default();
    detail(&[kind, word("code"), word("decline_code")])
}

fn detail(words: &[&str]) -> String {
    let mut all = String::new();
    for (n, word) in words.iter().filter(|w| !w.is_empty()).enumerate() {
        all.extend((n > 0).then_some('/'));
        all.extend(word.chars().filter(|c| !c.is_control()).take(80));
    }
    all
}

fn name(value: &Tree<'_>) -> String {
    some_name(value).unwrap_or_default()
}

/// Text that can serve as a name: not empty, not endless.
fn some_name(value: &Tree<'_>) -> Option<String> {
    value.as_str().filter(|t| !t.is_empty() && t.len() <= NAME_LIMIT).map(str::to_owned)
}
