//! The calls to Autopay's API: status, cancel, refund, what became of a refund, and the list of channels.
//!
//! Orders (start, refund) and questions (the rest, and a cancel, which does no harm twice) fail differently: after an order
//! any doubt is [`CallError::Unknown`], because it may have been carried out.

use serde_json::{Value, json};

use super::message::{self, Key, Node, Seal};
use super::notification;
use super::start;
use crate::facts::Settings;
use crate::gateway::{
    AttemptRef, CallError, Cx, EventKind, RefundOrder, RefundReport, RefundState, Standing, StatusReport,
};
use crate::sign;
use crate::wire::{HttpRequest, HttpResponse};

/// Largest answer that is read, in bytes. Channel lists carry descriptions in HTML.
const MAX_ANSWER: usize = 1024 * 1024;

/// An answer that could be read.
pub(super) enum Answer {
    /// XML whose root is not `error`.
    Document(Node),
    /// JSON without an error in it.
    Json(Value),
}

/// Asks for all transactions of an order (Autopay documentation, transactionStatus).
pub(super) async fn status(cx: &Cx<'_>, attempt: &AttemptRef) -> Result<StatusReport, CallError> {
    let key = Key::of(cx.settings);
    let fields = [("ServiceID", cx.settings.text("service_id")), ("OrderID", attempt.reference.as_str())];
    let request = signed_form(cx.settings, &key, "/webapi/transactionStatus", &fields)?;
    let answer = ask(cx, request).await.and_then(document);
    match answer.and_then(|answer| read_status(cx.settings, &key, &answer, attempt)) {
        Err(CallError::Refused { code, .. }) if not_found(&code) => {
            Ok(StatusReport { events: vec![], standing: Standing::Idle })
        }
        report => report,
    }
}

/// An error without a signature can say that there is nothing; it could never say that something was paid. An error
/// without a name has its number as its code.
fn not_found(code: &str) -> bool {
    matches!(code, "TRANSACTION_NOT_FOUND" | "ORDER_NOT_FOUND" | "-10")
}

pub(super) fn read_status(
    settings: &Settings,
    key: &Key<'_>,
    answer: &Node,
    attempt: &AttemptRef,
) -> Result<StatusReport, CallError> {
    let unknown = |why: &str| CallError::Unknown(why.into());
    if answer.name == "transaction" && !answer.text("reason").is_empty() {
        return Err(refusal(answer.text("reason"), answer.text("description")));
    }
    if key.check(answer) != Seal::Right {
        return Err(unknown("the answer's hash is missing or wrong"));
    }
    if answer.text("serviceID") != settings.text("service_id") {
        return Err(unknown("the answer is about another service"));
    }
    let list = answer.once("transactions").map_err(|_| unknown("the answer repeats a node"))?;
    let (mut events, mut cancelled) = (Vec::new(), false);
    for transaction in list.map_or(&[][..], |l| l.children.as_slice()) {
        let event = notification::transaction_event(settings, transaction, Some(attempt.amount))
            .ok_or_else(|| unknown("the answer holds a transaction of another shape"))?;
        if transaction.text("orderID") != attempt.reference {
            return Err(unknown("the answer is about another order"));
        }
        cancelled |= transaction.text("paymentStatusDetails") == "CANCELLED";
        events.push(event);
    }
    let any = |wanted: fn(&EventKind) -> bool| events.iter().any(|e| wanted(&e.kind));
    let standing = if any(|k| matches!(k, EventKind::Paid)) {
        Standing::Paid
    } else if any(|k| !matches!(k, EventKind::Failed { .. })) {
        Standing::Open
    } else if cancelled {
        Standing::Closed
    } else {
        Standing::Idle
    };
    Ok(StatusReport { events, standing })
}

/// Cancels every waiting transaction of an order, after which none can be begun (Autopay documentation,
/// transactionCancel).
pub(super) async fn cancel(cx: &Cx<'_>, attempt: &AttemptRef) -> Result<(), CallError> {
    let key = Key::of(cx.settings);
    // Cancelling twice does no harm, and a message id must not come twice: so each call has its own.
    let id = message_id(cx.settings, "cancel", &format!("{} {}", attempt.reference, cx.now.as_microsecond()));
    let fields = [
        ("ServiceID", cx.settings.text("service_id")),
        ("MessageID", id.as_str()),
        ("OrderID", attempt.reference.as_str()),
    ];
    let request = signed_form(cx.settings, &key, "/webapi/transactionCancel", &fields)?.once();
    let answer = document(ask(cx, request).await?)?;
    if answer.name != "transaction" || key.check(&answer) == Seal::Wrong {
        return Err(CallError::Unknown("the answer is of another kind or its hash is wrong".into()));
    }
    match (answer.text("confirmation"), answer.text("reason")) {
        ("NOTCONFIRMED", reason) => Err(refusal(reason, "")),
        ("CONFIRMED", "CANCELED_FULLY") => addressed(cx.settings, &key, &answer, &id),
        _ => Err(CallError::Unknown("not everything was cancelled: ask for the status".into())),
    }
}

/// Orders a refund (Autopay documentation, refunds). The answer only says that it was accepted.
pub(super) async fn refund(cx: &Cx<'_>, refund: &RefundOrder) -> Result<RefundReport, CallError> {
    let key = Key::of(cx.settings);
    let id = refund_message_id(cx.settings, refund);
    let amount = start::amount(refund.amount)?;
    if !notification::remote_id(&refund.gateway_ref) {
        return Err(CallError::Invalid { field: "RemoteID", why: "must be 1 to 20 letters and digits".into() });
    }
    let fields = [
        ("ServiceID", cx.settings.text("service_id")),
        ("MessageID", id.as_str()),
        ("RemoteID", refund.gateway_ref.as_str()),
        ("Amount", amount.as_str()),
        ("Currency", refund.amount.currency().code()),
    ];
    let request = signed_form(cx.settings, &key, "/settlementapi/transactionRefund", &fields)?.once();
    let answer = match order(cx, request).await {
        Err(CallError::Refused { code, .. }) if known_before(&code) => {
            return Ok(accepted("MESSAGE_ID_NOT_UNIQUE: accepted before"));
        }
        answer => document(answer?)?,
    };
    if answer.name != "transactionRefund" {
        return Err(CallError::Unknown("the answer is of another kind".into()));
    }
    addressed(cx.settings, &key, &answer, &id)?;
    Ok(accepted("accepted"))
}

/// The message's id follows from our refund's id: who knows it took this very order, and its answer was lost.
fn known_before(code: &str) -> bool {
    matches!(code, "MESSAGE_ID_NOT_UNIQUE" | "76")
}

fn accepted(detail: &str) -> RefundReport {
    RefundReport { state: RefundState::Pending, gateway_ref: None, detail: detail.to_owned() }
}

/// Asks what became of a refund (Autopay documentation, outDetails/v2).
pub(super) async fn refund_status(cx: &Cx<'_>, refund: &RefundOrder) -> Result<RefundReport, CallError> {
    let key = Key::of(cx.settings);
    let id = refund_message_id(cx.settings, refund);
    let service = cx.settings.text("service_id");
    let method = "TRANSACTION_REFUND";
    let hash = key.sign([("serviceId", service), ("messageId", id.as_str()), ("method", method)])?;
    let body = json!({"serviceId": service, "messageId": id, "method": method, "hash": hash});
    let request = HttpRequest::json(address(cx.settings, "/settlementapi/outDetails/v2"), &body);
    let answer = match ask(cx, request.header("bmheader", "pay-bm")).await? {
        Answer::Json(answer) => answer,
        Answer::Document(_) => return Err(CallError::Unknown("the answer is XML where JSON belongs".into())),
    };
    let text = |names: &[&str]| names.iter().find_map(|n| json_text(answer.get(*n)?)).unwrap_or_default();
    let (answered, word) = (text(&["messageId", "messageID"]), text(&["status", "Status"]));
    let out = text(&["remoteOutId", "remoteOutID"]);
    let answered_service = text(&["serviceId", "serviceID"]);
    let values = [answered_service.as_str(), answered.as_str(), word.as_str(), out.as_str()];
    if !key.fits(&text(&["hash", "Hash"]), values) || answered != id || answered_service != service {
        return Err(CallError::Unknown("the answer's hash is wrong or it is about another refund".into()));
    }
    let state = match word.as_str() {
        "DONE" => RefundState::Succeeded,
        // The sum of the refunds is above what was paid: others were made.
        "CANCELED_AMOUNT_EXCEEDS_TRANSACTION" => RefundState::Gone,
        cancelled if cancelled.starts_with("CANCELED_") => RefundState::Failed,
        _ => RefundState::Pending,
    };
    Ok(RefundReport { state, gateway_ref: Some(out).filter(|o| !o.is_empty()), detail: short(&word) })
}

/// 32 letters and digits that follow from our refund's id: the gateway does the same message once.
pub(super) fn refund_message_id(settings: &Settings, refund: &RefundOrder) -> String {
    message_id(settings, "refund", &refund.id)
}

pub(super) fn message_id(settings: &Settings, what: &str, id: &str) -> String {
    let mut hex = sign::sha256_hex(format!("grosz {what} {} {id}", settings.text("service_id")).as_bytes());
    hex.truncate(32);
    hex
}

/// The service and the message that an answer names are ours, and its hash is right.
fn addressed(settings: &Settings, key: &Key<'_>, answer: &Node, id: &str) -> Result<(), CallError> {
    let ours = answer.text("serviceID") == settings.text("service_id") && answer.text("messageID") == id;
    if ours && key.check(answer) == Seal::Right {
        return Ok(());
    }
    Err(CallError::Unknown("the answer's hash is wrong or it is about another message".into()))
}

/// A form with its hash; fields in the order of the hash.
pub(super) fn signed_form(
    settings: &Settings,
    key: &Key<'_>,
    path: &str,
    fields: &[(&'static str, &str)],
) -> Result<HttpRequest, CallError> {
    let hash = key.sign(fields.iter().copied())?;
    let pairs = fields.iter().copied().chain([("Hash", hash.as_str())]);
    Ok(HttpRequest::form(address(settings, path), pairs).header("bmheader", "pay-bm"))
}

/// An address below the configured gateway.
pub(super) fn address(settings: &Settings, path: &str) -> String {
    format!("{}{path}", settings.text("gateway_url").trim_end_matches('/'))
}

/// Sends an order. Only an answer that can be read says that it was not carried out.
pub(super) async fn order(cx: &Cx<'_>, request: HttpRequest) -> Result<Answer, CallError> {
    let response = cx.http.send(request).await?;
    match response.status {
        408 | 500.. => Err(CallError::Unknown(format!("the gateway answered HTTP {}", response.status))),
        _ => read(&response),
    }
}

/// Sends a question, or an order that does no harm when it comes twice: it may be sent again whatever happened.
pub(super) async fn ask(cx: &Cx<'_>, request: HttpRequest) -> Result<Answer, CallError> {
    let response = cx.http.send(request).await?;
    match response.status {
        503 => Err(CallError::Busy { retry_after_s: response.retry_after_s() }),
        408 | 500.. => Err(CallError::Unknown(format!("the gateway answered HTTP {}", response.status))),
        _ => read(&response),
    }
}

fn read(response: &HttpResponse) -> Result<Answer, CallError> {
    if response.status == 429 {
        return Err(CallError::Busy { retry_after_s: response.retry_after_s() });
    }
    let answer = read_body(&response.body);
    match (response.status, answer) {
        (_, Err(refused @ (CallError::Refused { .. } | CallError::Config(_) | CallError::Busy { .. }))) => Err(refused),
        (200..300, answer) => answer,
        (404 | 405, Err(_)) => Err(CallError::Config("the gateway has nothing at this address".into())),
        (400..500, Ok(Answer::Document(document))) => Ok(Answer::Document(document)),
        (400..500, Ok(Answer::Json(_))) => Err(refusal(&format!("HTTP {}", response.status), "")),
        // An unreadable one is of whoever stands before the gateway, such as a firewall.
        (status, _) => Err(CallError::Unknown(format!("the gateway answered HTTP {status}"))),
    }
}

/// XML or JSON; an error document becomes an error.
fn read_body(body: &[u8]) -> Result<Answer, CallError> {
    let unreadable = || CallError::Unknown("the answer cannot be read".into());
    if body.len() > MAX_ANSWER {
        return Err(CallError::Unknown("the answer is too long".into()));
    }
    if body.trim_ascii_start().starts_with(b"{") {
        let value: Value = serde_json::from_slice(body).map_err(|_| unreadable())?;
        let text = |name: &str| value.get(name).and_then(json_text).unwrap_or_default();
        if text("result") == "ERROR" || !text("errorStatus").is_empty() {
            return Err(refusal(&text("errorStatus"), &(text("description") + &text("errorMessages"))));
        }
        return Ok(Answer::Json(value));
    }
    let document = message::parse(body).map_err(|_| unreadable())?;
    if document.name != "error" {
        return Ok(Answer::Document(document));
    }
    let name = Some(document.text("name")).filter(|n| !n.is_empty()).unwrap_or(document.text("statusCode"));
    Err(refusal(name, document.text("description")))
}

fn document(answer: Answer) -> Result<Node, CallError> {
    match answer {
        Answer::Document(document) => Ok(document),
        Answer::Json(_) => Err(CallError::Unknown("the answer is JSON where XML belongs".into())),
    }
}

/// What a refusal asks of us: wait, mend the account, or leave it.
pub(super) fn refusal(code: &str, message: &str) -> CallError {
    match code {
        "BANK_DISABLED" | "BANK_TEMPORARY_MAINTENANCE" | "TEMPORARY_DISABLED" => {
            CallError::Busy { retry_after_s: None }
        }
        "INVALID_HASH" | "SERVICE_NOT_FOUND" | "BALANCE_DISABLED" | "PARTNER_DISABLED" => {
            CallError::Config(format!("{code} {}", short(message)).trim_end().to_owned())
        }
        _ => CallError::Refused { code: short(code), message: short(message) },
    }
}

pub(super) fn json_text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Null => None,
        other => Some(other.to_string()),
    }
}

/// At most 200 characters, without control characters: the gateway's words go to logs and pages.
pub(super) fn short(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}
