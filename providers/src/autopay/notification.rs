//! What Autopay posts: ITN and IPN (a transaction moved), ISTN (money moved between accounts), RPAN and RPDN (a
//! recurring payment was switched on or off), and how each is confirmed.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::message::{self, Key, Node, Seal, Writer};
use super::{start, time};
use crate::facts::Settings;
use crate::gateway::{Delivery, Event, EventKind, FailReason, ReadError, Reading, Reference, RefundState};
use crate::money::{Currency, Money};
use crate::sign;

/// Reads one call: form, base64, XML, account, hash, shape, meaning, in this order.
pub(super) fn read(settings: &Settings, delivery: &Delivery<'_>) -> Result<Reading, ReadError> {
    let (parameter, bytes) = parameter(delivery.body).map_err(ReadError::Malformed)?;
    let root = message::parse(&bytes).map_err(ReadError::Malformed)?;
    let message = Message::find(parameter, &root).map_err(ReadError::Malformed)?;
    let forged = |why| ReadError::Forged { why, echo: message.echo() };
    // One account, one key: the key is never chosen by trying.
    if root.text("serviceID") != settings.text("service_id") {
        return Err(forged("account"));
    }
    match Key::of(settings).check(&root) {
        Seal::Right => {}
        Seal::Wrong => return Err(forged("mismatch")),
        Seal::Missing => return Err(forged("missing")),
    }
    // The hash joins values without their names, so a right hash does not prove that the values stand under the
    // right names: a start form's hash, which the payer sees, can be moved onto a notification.
    let event = message.event(settings, &root).ok_or_else(|| forged("shape"))?;
    Ok(Reading { events: vec![event], echo: message.echo() })
}

/// The one parameter that carries the message, decoded. Plus signs arrive unescaped at times, and an encoder for mails
/// breaks its lines.
fn parameter(body: &[u8]) -> Result<(Parameter, Vec<u8>), &'static str> {
    if body.len() > 2 * message::MAX_BYTES {
        return Err("the body is too long");
    }
    let mut found = None;
    for (name, value) in form_urlencoded::parse(body).take(64) {
        let parameter = match &*name {
            "transactions" => Parameter::Transactions,
            "recurring" => Parameter::Recurring,
            _ => continue,
        };
        let value = value.replace(['\r', '\n', '\t'], "").replace(' ', "+");
        if found.replace((parameter, value)).is_some() {
            return Err("the body holds more than one message");
        }
    }
    let (parameter, text) = found.ok_or("the body holds no message")?;
    let bytes = STANDARD.decode(text).map_err(|_| "the message is not base64")?;
    Ok((parameter, bytes))
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Parameter {
    Transactions,
    Recurring,
}

/// A message by its outer form, before anything in it is believed.
enum Message<'n> {
    Transaction(&'n Node),
    Transfer(&'n Node),
    Recurring { data: &'n Node, active: bool },
}

impl<'n> Message<'n> {
    fn find(parameter: Parameter, root: &'n Node) -> Result<Self, &'static str> {
        match (parameter, root.name.as_str()) {
            (Parameter::Transactions, "transactionList") => {
                let list = root.once("transactions").ok().flatten().ok_or("not one list of transactions")?;
                let [one] = list.children.as_slice() else { return Err("not one transaction") };
                if one.name != "transaction" {
                    return Err("not one transaction");
                }
                let transfer = !one.text("transferStatus").is_empty() && one.text("paymentStatus").is_empty();
                Ok(if transfer { Message::Transfer(one) } else { Message::Transaction(one) })
            }
            (Parameter::Recurring, name @ ("recurringActivation" | "recurringDeactivation")) => {
                let data = root.once("recurringData").ok().flatten().ok_or("not one recurringData")?;
                Ok(Message::Recurring { data, active: name == "recurringActivation" })
            }
            _ => Err("not a root element that is sent here"),
        }
    }

    /// What the confirmation needs, for [`confirm`]: the form and the id. Empty when the id cannot be repeated.
    fn echo(&self) -> String {
        let (form, id, fits) = match self {
            Message::Transaction(node) => ("transaction", node.text("orderID"), start::order_id as fn(&str) -> bool),
            Message::Transfer(node) if is_refund(node) => ("refund", node.text("remoteOutID"), handle as _),
            Message::Transfer(node) => ("settlement", node.text("remoteOutID"), handle as _),
            Message::Recurring { data, .. } => ("recurring", data.text("clientHash"), handle as _),
        };
        if fits(id) { format!("{form} {id}") } else { String::new() }
    }

    /// The meaning; `None` when the values have not the shape they always have.
    fn event(&self, settings: &Settings, root: &Node) -> Option<Event> {
        let first = root.children.first()?;
        if first.name != "serviceID" || root.once("serviceID").is_err() {
            return None;
        }
        match self {
            Message::Transaction(node) if framed(root) => transaction_event(settings, node, None),
            Message::Transfer(node) if framed(root) => transfer_event(settings, node),
            Message::Transaction(_) | Message::Transfer(_) => None,
            Message::Recurring { data, active } => recurring_event(settings, root, data, *active),
        }
    }
}

/// An event out of a `transaction` node of an ITN, an IPN or a status answer; `asked` is what the attempt was started
/// with, for who knows it.
pub(super) fn transaction_event(settings: &Settings, node: &Node, asked: Option<Money>) -> Option<Event> {
    let (order, remote, status) = (node.text("orderID"), node.text("remoteID"), node.text("paymentStatus"));
    if !begins_with_ids(node) || !in_order(TRANSACTION, node) || status.is_empty() || status.len() > 64 {
        return None;
    }
    let said = Said::of(settings, node, asked);
    let details = node.text("paymentStatusDetails");
    let kind = match status {
        // Money is there, and the answer to the status question will say whether it is what was started.
        "SUCCESS" if said == Said::Open => EventKind::Pending,
        "SUCCESS" => EventKind::Paid,
        "PENDING" | "ON_HOLD" => EventKind::Pending,
        "FAILURE" => EventKind::Failed { reason: reason(details) },
        // CONFIRMED belongs to a model that is not switched on here; the documentation contradicts itself on it.
        _ => EventKind::Unknown,
    };
    Some(Event {
        key: transaction_key(settings, node, said),
        kind,
        reference: Reference::Ours(order.to_owned()),
        account: Some(settings.text("service_id").to_owned()),
        live: None,
        amount: said.amount(),
        gateway_ref: Some(remote.to_owned()),
        detail: detail(status, details),
        at: time::read_notification_form(node.text("paymentDate")),
    })
}

/// What a transaction says of the amount that was started.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Said {
    /// This; `None` when it cannot be read.
    Amount(Option<Money>),
    /// The payer's commission is in the amount, and how much of it cannot be told.
    Open,
}

impl Said {
    /// Where the payer pays the commission, `startAmount` is what counts. It comes on request only; without it an
    /// amount not below `asked` is taken for `asked` and a commission on top.
    fn of(settings: &Settings, node: &Node, asked: Option<Money>) -> Said {
        let (started, currency) = (node.text("startAmount"), node.text("currency"));
        let amount = money(node.text("amount"), currency);
        if !settings.flag("payer_commission") {
            return Said::Amount(amount);
        }
        if !started.is_empty() {
            return Said::Amount(money(started, currency));
        }
        let Some(asked) = asked else { return Said::Open };
        let is_enough = |a: &Money| a.currency() == asked.currency() && a.minor() >= asked.minor();
        Said::Amount(if amount.as_ref().is_some_and(is_enough) { Some(asked) } else { amount })
    }

    fn amount(self) -> Option<Money> {
        match self {
            Said::Amount(amount) => amount,
            Said::Open => None,
        }
    }

    fn word(self) -> String {
        match self {
            Said::Amount(Some(amount)) => amount.to_decimal(),
            Said::Amount(None) => "unreadable".into(),
            Said::Open => "open".into(),
        }
    }
}

/// Names what a transaction became; equal for a notification and a status answer that say the same. A notification
/// may have a `startAmount` and a status answer has none, so it is left out. Where the payer pays the commission, the
/// amount as it was understood is part of the key: what was left open is another event than the answer that settles it.
fn transaction_key(settings: &Settings, node: &Node, said: Said) -> String {
    let values = [settings.text("service_id")].into_iter().chain(node.values_without("startAmount"));
    let ids = [node.text("orderID"), node.text("remoteID"), node.text("paymentStatus")].join("|");
    let key = format!("{ids}|{}", identity_of(values));
    if settings.flag("payer_commission") { format!("{key}|{}", said.word()) } else { key }
}

/// An event out of an ISTN: a refund that left, or a settlement that means nothing for a payment.
///
/// It need not name an order or a payment, so its shape is all that tells it from another message with the same
/// values: money that can be read, a status that is documented, and no unknown node among the documented ones.
fn transfer_event(settings: &Settings, node: &Node) -> Option<Event> {
    if !in_order(TRANSFER, node) || !new_nodes_last(TRANSFER, node) {
        return None;
    }
    let amount = money(node.text("amount"), node.text("currency"))?;
    let (status, out) = (node.text("transferStatus"), node.text("remoteOutID"));
    let (order, remote) = (node.text("orderID"), node.text("remoteID"));
    let state = match status {
        "SUCCESS" => RefundState::Succeeded,
        "PENDING" => RefundState::Pending,
        "FAILURE" => RefundState::Failed,
        _ => return None,
    };
    let kind = if is_refund(node) && handle(out) {
        EventKind::Refund { order: None, gateway_ref: out.to_owned(), state }
    } else {
        EventKind::Note
    };
    let key = format!("transfer-{}", identity(settings, node));
    let reference = if start::order_id(order) {
        Reference::Ours(order.to_owned())
    } else {
        let name = [remote, out, &key].into_iter().find(|name| handle(name));
        Reference::Gateway(name.unwrap_or_default().to_owned())
    };
    Some(Event {
        key,
        kind,
        reference,
        account: Some(settings.text("service_id").to_owned()),
        live: None,
        amount: Some(amount),
        gateway_ref: Some(remote.to_owned()).filter(|r| remote_id(r)),
        detail: detail(status, node.text("transferStatusDetails")),
        at: time::read_notification_form(node.text("transferDate")),
    })
}

/// An event out of an RPAN or an RPDN. The client hash charges a card, so it stands in no key and no reference.
fn recurring_event(settings: &Settings, root: &Node, data: &Node, active: bool) -> Option<Event> {
    let (client, action) = (data.text("clientHash"), data.text("recurringAction"));
    // An answer of ours ends with such a word; a forger can make us sign one about an order named DEACTIVATE.
    let is_answer = client.ends_with("CONFIRMED");
    if !handle(client) || is_answer || data.once("clientHash").is_err() || data.once("recurringAction").is_err() {
        return None;
    }
    let transaction = root.once("transaction").ok()?;
    // A message with two values and no more would fit the hash of a return, which the payer sees.
    let whole = if active { transaction.is_some() } else { action == "DEACTIVATE" };
    if !whole {
        return None;
    }
    let (mut remote, mut at) = (None, data.text("deactivationDate"));
    let mut reference = Reference::Gateway(format!("recurring-{}", identity_of([client])));
    if let Some(node) = transaction {
        if !begins_with_ids(node) || !in_order(TRANSACTION, node) {
            return None;
        }
        reference = Reference::Ours(node.text("orderID").to_owned());
        remote = Some(node.text("remoteID").to_owned());
        at = node.text("paymentDate");
    }
    Some(Event {
        key: format!("recurring|{}", identity(settings, root)),
        kind: EventKind::Instrument { handle: client.to_owned(), active },
        reference,
        account: Some(settings.text("service_id").to_owned()),
        live: None,
        amount: None,
        gateway_ref: remote,
        detail: detail(action, data.text("deactivationSource")),
        at: time::read_notification_form(at),
    })
}

/// The signed confirmation, and whether it agrees.
///
/// A settlement and a recurring payment are confirmed although the hub may not know the order: they are authentic,
/// recorded, and would come again for eight days.
pub(super) fn confirm(settings: &Settings, echo: &str, agreed: bool) -> Option<String> {
    let (form, id) = echo.split_once(' ')?;
    let word = if agreed { "CONFIRMED" } else { "NOTCONFIRMED" };
    let (list, item, name) = match form {
        "transaction" => ("transactionsConfirmations", "transactionConfirmed", "orderID"),
        "refund" | "settlement" => ("transactionsConfirmations", "transactionConfirmed", "remoteOutID"),
        "recurring" => ("recurringConfirmations", "recurringConfirmed", "clientHash"),
        _ => return None,
    };
    let document = Writer::new("confirmationList").leaf("serviceID", settings.text("service_id"));
    let document = document.open(list).open(item).leaf(name, id).leaf("confirmation", word);
    Some(document.sign(&Key::of(settings)))
}

/// Whether a message that was refused is answered with a signature.
///
/// Who forges a message chooses what we sign. An order's id is of a narrow form, and a settlement, whose ids are not,
/// goes without.
pub(super) fn refusal_is_signed(echo: &str) -> bool {
    match echo.split_once(' ') {
        Some(("transaction", order)) => start::order_id(order),
        Some(("recurring", client)) => client.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_".contains(&b)),
        _ => false,
    }
}

/// True for messages that are confirmed whatever the hub knows of them.
pub(super) fn always_confirmed(echo: &str) -> bool {
    echo.starts_with("settlement ") || echo.starts_with("recurring ")
}

/// How a documented node stands in its message.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Need {
    /// It is there, and read.
    Required,
    /// It is read where it is there.
    Optional,
    /// Nobody reads it.
    Unread,
}

/// The nodes of a transaction that are read, in the order of their numbers.
const TRANSACTION: &[(&str, Need)] = &[
    ("orderID", Need::Required),
    ("remoteID", Need::Required),
    ("amount", Need::Required),
    ("currency", Need::Required),
    ("gatewayID", Need::Optional),
    ("paymentDate", Need::Optional),
    ("paymentStatus", Need::Optional),
    ("paymentStatusDetails", Need::Optional),
    ("startAmount", Need::Optional),
];

/// All documented nodes of a transfer, in the order of their numbers.
const TRANSFER: &[(&str, Need)] = &[
    ("isRefund", Need::Optional),
    ("productID", Need::Optional),
    ("orderID", Need::Optional),
    ("orderOutID", Need::Optional),
    ("remoteID", Need::Optional),
    ("remoteOutID", Need::Optional),
    ("amount", Need::Required),
    ("currency", Need::Required),
    ("transferDate", Need::Optional),
    ("transferStatus", Need::Required),
    ("transferStatusDetails", Need::Optional),
    ("title", Need::Unread),
    ("receiverBank", Need::Unread),
    ("receiverNRB", Need::Unread),
    ("receiverName", Need::Unread),
    ("receiverAddress", Need::Unread),
    ("senderBank", Need::Unread),
    ("senderNRB", Need::Unread),
];

/// Checks that the known nodes are leaves, in their order, none twice, that none that is read holds the separator, and
/// that the required ones are there. Other nodes may stand anywhere: new ones come without notice, and the numbering
/// has gaps.
fn in_order(known: &[(&str, Need)], node: &Node) -> bool {
    let mut next = 0;
    for child in &node.children {
        let Some(place) = known.iter().position(|(name, _)| child.name == *name) else { continue };
        let is_read = known.get(place).is_some_and(|(_, need)| *need != Need::Unread);
        if place < next || !child.children.is_empty() || (is_read && child.value.contains('|')) {
            return false;
        }
        next = place + 1;
    }
    let mut required = known.iter().filter(|(_, need)| *need == Need::Required);
    required.all(|(name, _)| node.children.iter().any(|c| c.name == *name))
}

/// Nodes that nobody documents stand behind those that are documented, where new ones would be added.
fn new_nodes_last(known: &[(&str, Need)], node: &Node) -> bool {
    node.children.iter().is_sorted_by_key(|child| !known.iter().any(|(name, _)| child.name == *name))
}

/// A list of one transaction has nothing beside it under the root but the service before and the hash behind.
fn framed(root: &Node) -> bool {
    root.children.iter().map(|child| child.name.as_str()).eq(["serviceID", "transactions", "hash"])
}

/// The order's id and then the gateway's id come first. A start form, whose hash the payer sees, has the amount in
/// the second place, and an amount is no id.
fn begins_with_ids(node: &Node) -> bool {
    match node.children.as_slice() {
        [order, remote, ..] => {
            order.name == "orderID"
                && start::order_id(&order.value)
                && remote.name == "remoteID"
                && remote_id(&remote.value)
        }
        _ => false,
    }
}

fn is_refund(node: &Node) -> bool {
    node.text("isRefund") == "true"
}

/// 1 to 20 letters and digits, perhaps with `-` and `_`. A start form has an amount in this place, with a dot.
pub(super) fn remote_id(text: &str) -> bool {
    text.len() <= 20 && start::order_id(text)
}

/// 1 to 64 visible ASCII characters without the separator.
fn handle(text: &str) -> bool {
    (1..=64).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic() && b != b'|')
}

fn money(amount: &str, currency: &str) -> Option<Money> {
    let currency: Currency = currency.parse().ok()?;
    Money::from_decimal(amount, currency).ok()
}

/// Identity of a message: equal for repeats however they are written.
fn identity(settings: &Settings, node: &Node) -> String {
    identity_of([settings.text("service_id")].into_iter().chain(node.signed_values()))
}

fn identity_of<'v>(values: impl IntoIterator<Item = &'v str>) -> String {
    let mut text = String::new();
    for value in values {
        text.push_str(&format!("{} {value}\n", value.len()));
    }
    let mut hex = sign::sha256_hex(text.as_bytes());
    hex.truncate(24);
    hex
}

fn detail(status: &str, details: &str) -> String {
    let text = if details.is_empty() { status.to_owned() } else { format!("{status}/{details}") };
    text.chars().filter(|c| !c.is_control()).take(128).collect()
}

/// Why a transaction failed (Autopay documentation, transaction statuses). The list is open, and some words may
/// carry the card scheme's code behind them.
fn reason(details: &str) -> FailReason {
    let end = details.find(|c: char| !c.is_ascii_uppercase() && c != '_').unwrap_or(details.len());
    match details.get(..end).unwrap_or_default().trim_end_matches('_') {
        "REJECTED_BY_USER" | "CANCELLED" | "USER_DECLINED" => FailReason::Cancelled,
        "EXPIRED" => FailReason::Expired,
        "REJECTED"
        | "CARD_LIMIT_EXCEEDED"
        | "SECURITY_ERROR"
        | "DO_NOT_HONOR"
        | "THREEDS_NEGATIVE"
        | "CARD_EXPIRED"
        | "INCORRECT_CARD_NUMBER"
        | "FRAUD_SUSPECT"
        | "STOP_RECURRING"
        | "RECURSION_INACTIVE"
        | "INSUFFICIENT_FUNDS"
        | "LIMIT_EXCEEDED"
        | "BAD_PIN"
        | "ISSUER_DECLINED"
        | "SEC_DECLINED" => FailReason::Declined,
        _ => FailReason::Technical,
    }
}
