//! The twin's API, in the gateway's format: XML, and JSON for the newer calls.

use std::collections::BTreeMap;

use jiff::SignedDuration;
use serde_json::{Value, json};

use super::{Payment, Refund, State, calls, not_found, time};
use crate::autopay::message::{Key, Writer};
use crate::money::Money;
use crate::sign;
use crate::twin::{Faults, TwinAnswer, TwinRequest};

/// How long a refund is under way.
const REFUND_TAKES: SignedDuration = SignedDuration::from_secs(60);

/// The fields of a posted form. A name that comes twice counts once; the hash then tells.
pub(super) fn form(request: &TwinRequest) -> BTreeMap<String, String> {
    form_urlencoded::parse(&request.body).into_owned().take(128).collect()
}

/// Fields of a form or of a JSON body, as text.
fn fields(request: &TwinRequest) -> BTreeMap<String, String> {
    let Ok(Value::Object(members)) = serde_json::from_slice(&request.body) else { return form(request) };
    members.iter().filter_map(|(n, v)| Some((n.clone(), calls::json_text(v)?))).collect()
}

fn xml(status: u16, body: String) -> TwinAnswer {
    TwinAnswer::page(status, "application/xml; charset=UTF-8", body)
}

/// An error document is not signed.
fn error(status: u16, code: i32, name: &str) -> TwinAnswer {
    let text = name.to_lowercase().replace('_', " ");
    let code = code.to_string();
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<error><statusCode>{code}</statusCode><name>{name}</name>\
         <description>{text}</description></error>"
    );
    xml(status, body)
}

fn json_error(name: &str) -> TwinAnswer {
    let body = json!({"result": "ERROR", "errorStatus": name, "description": name.to_lowercase().replace('_', " ")});
    TwinAnswer::page(200, "application/json", body.to_string())
}

pub(super) fn refusal_in_200(request: &TwinRequest) -> TwinAnswer {
    let json = request.headers.first("content-type").is_some_and(|t| t.starts_with("application/json"));
    if json { json_error("OTHER_ERROR") } else { error(200, 200, "OTHER_ERROR") }
}

/// A pre-transaction that is refused: an error for what was sent wrongly, NOTCONFIRMED for the rest.
pub(super) fn refused_start(reason: &str) -> TwinAnswer {
    if ["INVALID_HASH", "INVALID_FORMAT", "SERVICE_NOT_FOUND"].contains(&reason) {
        return error(406, 2, reason);
    }
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<transaction><confirmation>NOTCONFIRMED</confirmation>\
         <reason>{reason}</reason></transaction>"
    );
    xml(200, body)
}

impl State {
    /// The answer to a pre-transaction: where to send the payer.
    pub(super) fn link_answer(&self, request: &TwinRequest, a: &str, b: &str) -> TwinAnswer {
        let Some(link) = self.links.get(&(a.to_owned(), b.to_owned())) else { return not_found() };
        let Some(account) = self.accounts.get(&link.service) else { return not_found() };
        let document = Writer::new("transaction")
            .leaf("status", "PENDING")
            .leaf("redirecturl", &format!("{}/payment/continue/{a}/{b}", request.root))
            .leaf("orderID", &link.order)
            .leaf("remoteID", &link.remote);
        xml(200, document.sign(&Key::of(&account.settings)))
    }

    /// The service that a request names, when these fields in this order fit the hash.
    fn caller(&self, fields: &BTreeMap<String, String>, order: &[&str]) -> Result<Key<'_>, &'static str> {
        let field = |name: &str| fields.get(name).map_or("", String::as_str);
        let service = order.first().map_or("", |name| field(name));
        let key = Key::of(&self.accounts.get(service).ok_or("SERVICE_NOT_FOUND")?.settings);
        let hash = if field("Hash").is_empty() { field("hash") } else { field("Hash") };
        let fits = !hash.is_empty() && key.fits(hash, order.iter().map(|name| field(name)));
        if fits { Ok(key) } else { Err("INVALID_HASH") }
    }

    pub(super) fn api_status(&self, request: &TwinRequest) -> TwinAnswer {
        let fields = form(request);
        let key = match self.caller(&fields, &["ServiceID", "OrderID"]) {
            Ok(_) if request.headers.first("bmheader") != Some("pay-bm") => return error(400, 2, "INVALID_FORMAT"),
            Ok(key) => key,
            Err(name) => return error(200, 7, name),
        };
        let field = |name: &str| fields.get(name).map_or("", String::as_str);
        let (service, order) = (field("ServiceID"), field("OrderID"));
        if self.payments_of(service, order).count() > 50 {
            let reason = "LIMIT_REQUESTED_TRANSACTIONS_WITH_THE_SAME_ORDER_ID_AND_SERVICE_ID_EXCEEDED";
            return xml(403, format!("<transaction><reason>{reason}</reason><description/></transaction>"));
        }
        let list = Writer::new("transactionList").leaf("serviceID", service).open("transactions");
        let list = self.payments_of(service, order).fold(list, |list, p| transaction(list, p, &request.faults));
        xml(200, list.sign(&key))
    }

    pub(super) fn api_cancel(&mut self, request: &TwinRequest) -> TwinAnswer {
        let fields = form(request);
        let (order, remote) = (fields.get("OrderID"), fields.get("RemoteID"));
        if order.is_some() == remote.is_some() || request.headers.first("bmheader") != Some("pay-bm") {
            return error(400, 2, "INVALID_FORMAT");
        }
        if let Err(name) = self.caller(&fields, &["ServiceID", "MessageID", "RemoteID", "OrderID"]) {
            return error(200, 7, name);
        }
        let service = fields.get("ServiceID").cloned().unwrap_or_default();
        let all: Vec<usize> = match (order, remote) {
            (Some(order), _) => self.places_of(&service, order).to_vec(),
            (None, Some(remote)) => {
                self.by_remote.get(&(service.clone(), remote.clone())).copied().into_iter().collect()
            }
            (None, None) => vec![],
        };
        let is_waiting = |n: &usize| self.payments.get(*n).is_some_and(|p| p.status.0 == "PENDING");
        let waiting: Vec<usize> = all.iter().copied().filter(is_waiting).collect();
        let opened = order.is_some_and(|o| self.links.values().any(|l| l.service == service && l.order == *o));
        // A link that was opened without a choice counts as something to cancel, so that it can no longer be used.
        let (word, reason) = match (waiting.len(), all.len()) {
            (0, 0) if opened => ("CONFIRMED", "CANCELED_FULLY"),
            (0, 0) => ("NOTCONFIRMED", "TRANSACTION_NOT_FOUND"),
            (0, _) => ("NOTCONFIRMED", "INCORRECT_PAYMENT_STATUS"),
            (some, every) if some == every => ("CONFIRMED", "CANCELED_FULLY"),
            _ => ("CONFIRMED", "CANCELED_PARTIALLY"),
        };
        for n in waiting {
            self.become_status(n, ("FAILURE", "CANCELLED"), request.now);
        }
        if let (Some(order), "CONFIRMED") = (order, word) {
            self.cancelled.insert((service.clone(), order.clone()));
        }
        let answer = Writer::new("transaction")
            .leaf("serviceID", &service)
            .leaf("messageID", fields.get("MessageID").map_or("", String::as_str))
            .leaf("confirmation", word)
            .leaf("reason", reason);
        match self.accounts.get(&service) {
            Some(account) => xml(200, answer.sign(&Key::of(&account.settings))),
            None => not_found(),
        }
    }

    pub(super) fn api_refund(&mut self, request: &TwinRequest) -> TwinAnswer {
        let fields = form(request);
        let order = ["ServiceID", "MessageID", "RemoteID", "Amount", "Currency"];
        if let Err(name) = self.caller(&fields, &order) {
            return error(200, 7, name);
        }
        let field = |name: &str| fields.get(name).map_or("", String::as_str);
        let id = (field("ServiceID").to_owned(), field("MessageID").to_owned());
        if id.1.len() != 32 || !id.1.bytes().all(|b| b.is_ascii_alphanumeric()) {
            return error(200, 2, "INVALID_FORMAT");
        }
        // The same message again is acknowledged and not done twice.
        if !self.refunds.contains_key(&id) {
            match self.new_refund(request, &id, field("RemoteID"), field("Amount"), field("Currency")) {
                Ok(refund) => self.refunds.insert(id.clone(), refund),
                Err((code, name)) => return error(200, code, name),
            };
        }
        let answer = Writer::new("transactionRefund").leaf("serviceID", &id.0).leaf("messageID", &id.1);
        match self.accounts.get(&id.0) {
            Some(account) => xml(200, answer.sign(&Key::of(&account.settings))),
            None => not_found(),
        }
    }

    fn new_refund(
        &self,
        request: &TwinRequest,
        id: &(String, String),
        remote: &str,
        amount: &str,
        currency: &str,
    ) -> Result<Refund, (i32, &'static str)> {
        let place = self.by_remote.get(&(id.0.clone(), remote.to_owned()));
        let payment = place.and_then(|n| self.payments.get(*n)).ok_or((-10, "TRANSACTION_NOT_FOUND"))?;
        if payment.status.0 != "SUCCESS" {
            return Err((54, "TRANSACTION_NOT_IN_REFUNDABLE_STATUS"));
        }
        let paid = payment.amount;
        let amount = if amount.is_empty() { Ok(paid) } else { Money::from_decimal(amount, paid.currency()) };
        let amount = amount.ok().filter(|a| a.payable().is_ok()).ok_or((49, "VALIDATION_FAILED"))?;
        if !currency.is_empty() && currency != paid.currency().code() {
            return Err((49, "VALIDATION_FAILED"));
        }
        let earlier = self.refunds.values().filter(|r| r.remote == remote && r.outcome == "DONE");
        let sum = earlier.fold(amount.minor(), |sum, r| sum.saturating_add(r.amount.minor()));
        let outcome = if sum > paid.minor() {
            "CANCELED_AMOUNT_EXCEEDS_TRANSACTION"
        } else if request.faults.on("no_funds") {
            "CANCELED_NO_FUNDS_ON_BALANCE"
        } else {
            "DONE"
        };
        let mut out = sign::sha256_hex(format!("{} {}", id.0, id.1).as_bytes()).to_uppercase();
        out.truncate(10);
        Ok(Refund { remote: remote.to_owned(), amount, ordered_at: request.now, out: format!("ZWTR_{out}"), outcome })
    }

    pub(super) fn api_out_details(&self, request: &TwinRequest) -> TwinAnswer {
        let fields = fields(request);
        let key = match self.caller(&fields, &["serviceId", "messageId", "method"]) {
            Ok(key) => key,
            Err(name) => return json_error(name),
        };
        let field = |name: &str| fields.get(name).cloned().unwrap_or_default();
        let (service, message) = (field("serviceId"), field("messageId"));
        let Some(refund) = self.refunds.get(&(service.clone(), message.clone())) else {
            return json_error("TRANSACTION_NOT_FOUND");
        };
        let over = request.now >= refund.ordered_at + REFUND_TAKES;
        let status = if over { refund.outcome } else { "PROCESSING" };
        let out = if status == "DONE" { refund.out.as_str() } else { "" };
        let signed = [("serviceId", service.as_str()), ("messageId", &message), ("status", status), ("out", out)];
        let Ok(hash) = key.sign(signed) else { return json_error("INVALID_FORMAT") };
        let mut answer = json!({"serviceId": service, "messageId": message, "status": status, "hash": hash});
        if !out.is_empty() {
            answer["remoteOutId"] = json!(out);
        }
        TwinAnswer::page(200, "application/json", answer.to_string())
    }

    pub(super) fn api_channels(&self, request: &TwinRequest) -> TwinAnswer {
        let fields = fields(request);
        if let Err(name) = self.caller(&fields, &["ServiceID", "MessageID", "Currencies", "Language"]) {
            return json_error(name);
        }
        let currencies: Vec<&str> = fields.get("Currencies").map_or("", String::as_str).split(',').collect();
        let channel = |id: u32, name: &str, group: &str, max: u32| {
            let limits: Vec<_> = currencies
                .iter()
                .map(|c| json!({"currency": c, "minAmount": "0.01", "maxAmount": format!("{max}.00")}))
                .collect();
            json!({
                "gatewayID": id, "name": name, "groupType": group, "bankName": name, "iconUrl": null, "state": "OK",
                "stateDate": time::request_form(request.now), "availableFor": "BOTH", "currencies": limits,
            })
        };
        let answer = json!({
            "result": "OK", "errorStatus": null, "description": null,
            "gatewayGroups": [
                {"type": "BLIK", "title": "BLIK", "order": 1},
                {"type": "PBL", "title": "Przelew internetowy", "order": 2},
                {"type": "CARD", "title": "Karta płatnicza", "order": 3},
            ],
            "serviceID": fields.get("ServiceID"), "messageID": fields.get("MessageID"),
            "gatewayList": [
                channel(509, "BLIK", "BLIK", 50_000),
                channel(106, "Przelew testowy", "PBL", 100_000),
                channel(1500, "Karta płatnicza", "CARD", 100_000),
            ],
        });
        TwinAnswer::page(200, "application/json", answer.to_string())
    }
}

fn transaction(list: Writer, payment: &Payment, faults: &Faults) -> Writer {
    let said = payment.said(faults);
    list.open("transaction")
        .leaf("orderID", &payment.order)
        .leaf("remoteID", &payment.remote)
        .leaf("amount", &said.amount)
        .leaf("currency", said.currency)
        .leaf("gatewayID", &payment.channel)
        .leaf("paymentDate", &time::notification_form(payment.at))
        .leaf("paymentStatus", &said.status)
        .leaf("paymentStatusDetails", said.detail)
        .close()
}
