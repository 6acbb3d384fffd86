//! A simulated Autopay: the start form and the pre-transaction, the payer's page, signed notifications with the
//! gateway's repeats, status, cancelling, refunds and the channel list.
//!
//! State and rules only; whoever hosts it brings requests and time. What is not documented about the real gateway is
//! simple here, and `docs/protocols/autopay.md` says what that is.

mod api;
mod pages;
mod reports;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jiff::{SignedDuration, Timestamp};
use serde_json::{Map, Value};
use url::Url;

use super::message::Key;
use super::{calls, start, time};
use crate::facts::Settings;
use crate::money::Money;
use crate::sign;
use crate::twin::{Faults, GatewayTwin, TwinAnswer, TwinDelivery, TwinRequest};
use reports::Report;

/// How long a payment that the payer completes later stays PENDING.
const LATER: SignedDuration = SignedDuration::from_secs(30);

/// The simulated gateway.
#[derive(Default)]
pub(super) struct AutopayTwin {
    state: Mutex<State>,
}

/// Everything the gateway remembers.
#[derive(Default)]
struct State {
    accounts: BTreeMap<String, Account>,
    links: BTreeMap<(String, String), Link>,
    payments: Vec<Payment>,
    /// Places in `payments` of each service's order.
    by_order: BTreeMap<(String, String), Vec<usize>>,
    /// Places in `payments` of each service's `remoteID`.
    by_remote: BTreeMap<(String, String), usize>,
    /// Payments that will change by themselves, and when.
    schedule: BTreeSet<(Timestamp, usize)>,
    cancelled: BTreeSet<(String, String)>,
    refunds: BTreeMap<(String, String), Refund>,
    reports: BTreeMap<u64, Report>,
    last_report: u64,
    ids: u64,
}

/// A merchant's service.
struct Account {
    settings: Settings,
    webhook_url: String,
}

/// A started order that a payer can open.
#[derive(Clone)]
struct Link {
    service: String,
    order: String,
    amount: Money,
    description: String,
    language: String,
    channel: String,
    return_url: String,
    /// The link is dead after this.
    link_until: Option<Timestamp>,
    /// Money that comes after this is sent back.
    valid_until: Option<Timestamp>,
    /// Name for the first try on this link; later tries get names of their own.
    remote: String,
}

/// One try of a payer, with a name of its own (`remoteID`).
struct Payment {
    service: String,
    order: String,
    remote: String,
    amount: Money,
    channel: String,
    status: Status,
    /// The status that it will get by itself, and when.
    next: Option<(Timestamp, Status)>,
    at: Timestamp,
    /// The newest report that was not confirmed.
    report: Option<u64>,
    /// Faults that were on when the payer acted.
    faults: Faults,
}

/// `paymentStatus` and `paymentStatusDetails`.
type Status = (&'static str, &'static str);

/// Faults of what is told about a payment.
const TOLD: &[&str] = &["wrong_amount", "wrong_currency", "unknown_status", "late_success"];
/// Faults of the merchant's calls.
const OF_CALLS: &[&str] = &["cut_after_work", "hang", "http_500", "http_500_after_work", "error_in_200"];

const PAID: Status = ("SUCCESS", "AUTHORIZED");
const ACCEPTED: Status = ("SUCCESS", "ACCEPTED");
const WAITING: Status = ("PENDING", "");

/// An accepted refund.
struct Refund {
    remote: String,
    amount: Money,
    ordered_at: Timestamp,
    out: String,
    outcome: &'static str,
}

impl GatewayTwin for AutopayTwin {
    fn faults(&self) -> &'static [(&'static str, &'static str)] {
        &[
            ("wrong_amount", "Reports one minor unit more than was started, rightly signed."),
            ("wrong_currency", "Reports another currency than was started, rightly signed."),
            ("unknown_status", "Reports a payment status that nobody documents."),
            ("late_success", "Reports a paid payment as FAILURE first and as SUCCESS half a minute later."),
            ("cut_after_work", "Does what was asked and cuts the connection."),
            ("hang", "Never answers."),
            ("http_500", "Answers HTTP 500 and does nothing."),
            ("http_500_after_work", "Does what was asked and answers HTTP 500."),
            ("error_in_200", "Refuses inside an HTTP 200 answer."),
            ("no_funds", "Accepts refunds and gives them up because the balance is empty."),
        ]
    }

    fn enroll(&self, settings: &Settings, webhook_url: &str) {
        let account = Account { settings: settings.clone(), webhook_url: webhook_url.to_owned() };
        self.state().accounts.insert(settings.text("service_id").to_owned(), account);
    }

    fn serve(&self, request: &TwinRequest) -> TwinAnswer {
        let on = |fault| request.faults.on(fault);
        if on("hang") {
            return TwinAnswer::Hang;
        }
        if on("http_500") {
            return internal_error();
        }
        if on("error_in_200") {
            return api::refusal_in_200(request);
        }
        let mut state = self.state();
        state.pass_time(request.now);
        let answer = state.route(request);
        if on("cut_after_work") {
            return TwinAnswer::Cut;
        }
        if on("http_500_after_work") { internal_error() } else { answer }
    }

    fn due(&self, now: Timestamp, faults: &Faults) -> Vec<TwinDelivery> {
        let mut state = self.state();
        state.pass_time(now);
        state.due(now, faults)
    }

    fn answered(&self, id: u64, answer: Option<(u16, Vec<u8>)>, now: Timestamp) {
        self.state().answered(id, answer, now);
    }

    /// What will be told of a payment is decided when the payer presses; the rest concerns the calls.
    fn spends(&self, path: &str) -> Vec<&'static str> {
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        match parts.as_slice() {
            ["payment", "continue", _, _] => vec![],
            ["payment", "continue", ..] => TOLD.to_vec(),
            ["settlementapi", "transactionRefund"] => [OF_CALLS, &["no_funds"]].concat(),
            _ => OF_CALLS.to_vec(),
        }
    }

    fn spends_by_delivery(&self) -> &'static [&'static str] {
        &[]
    }

    fn demo_settings(&self, root: &str) -> Map<String, Value> {
        [("service_id", "100001"), ("shared_key", "a key that everybody may know"), ("gateway_url", root)]
            .map(|(name, value)| (name.to_owned(), value.into()))
            .into_iter()
            .collect()
    }
}

impl AutopayTwin {
    /// A panic elsewhere leaves a state that is still good enough for a simulator.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn internal_error() -> TwinAnswer {
    TwinAnswer::page(500, "text/plain", "internal error")
}

fn not_found() -> TwinAnswer {
    TwinAnswer::page(404, "text/plain", "not found")
}

impl State {
    fn route(&mut self, request: &TwinRequest) -> TwinAnswer {
        let path: Vec<&str> = request.path.trim_matches('/').split('/').collect();
        match (request.method.as_str(), path.as_slice()) {
            ("GET", ["payment", "continue", a, b]) => self.page(request, a, b),
            ("POST", ["payment", "continue", a, b, action]) => self.act(request, a, b, action),
            ("POST", ["webapi", "transactionStatus"]) => self.api_status(request),
            ("POST", ["webapi", "transactionCancel"]) => self.api_cancel(request),
            ("POST", ["settlementapi", "transactionRefund"]) => self.api_refund(request),
            ("POST", ["settlementapi", "outDetails", "v2"]) => self.api_out_details(request),
            ("POST", ["gatewayList", "v3"]) => self.api_channels(request),
            ("POST", _) => self.start(request),
            _ => not_found(),
        }
    }

    /// A start by the payer's browser, or by the merchant's server when the header says so.
    fn start(&mut self, request: &TwinRequest) -> TwinAnswer {
        let by_server = request.headers.first("bmheader") == Some("pay-bm-continue-transaction-url");
        let fields = api::form(request);
        match self.open_link(request, &fields) {
            Ok((a, b)) if by_server => self.link_answer(request, &a, &b),
            Ok((a, b)) => TwinAnswer::see_other(&format!("{}/payment/continue/{a}/{b}", request.root)),
            Err(refusal) if by_server => api::refused_start(refusal),
            Err(refusal) => pages::wrong_start(refusal),
        }
    }

    /// Checks the start message like the gateway, by number and hash, and remembers it.
    fn open_link(
        &mut self,
        request: &TwinRequest,
        fields: &BTreeMap<String, String>,
    ) -> Result<(String, String), &'static str> {
        let field = |name: &str| fields.get(name).map_or("", String::as_str);
        let account = self.accounts.get(field("ServiceID")).ok_or("SERVICE_NOT_FOUND")?;
        if account.settings.text("start_path") != request.path {
            return Err("SERVICE_NOT_FOUND");
        }
        let unsigned: Vec<_> =
            fields.iter().filter(|(n, _)| *n != "Hash").map(|(n, v)| (n.as_str(), v.clone())).collect();
        let signed = start::sign(&Key::of(&account.settings), &unsigned).map_err(|_| "INVALID_FORMAT")?;
        let hash = signed.last().map_or("", |(_, hash)| hash.as_str());
        if !sign::same(hash.as_bytes(), field("Hash").as_bytes()) {
            return Err("INVALID_HASH");
        }
        let currency = if field("Currency").is_empty() { "PLN" } else { field("Currency") };
        let amount = currency.parse().ok().and_then(|c| Money::from_decimal(field("Amount"), c).ok());
        let amount = amount.and_then(|a| a.payable().ok()).ok_or("START_AMOUNT_OUT_OF_RANGE")?;
        if !start::order_id(field("OrderID")) {
            return Err("INVALID_FORMAT");
        }
        if !field("CustomerEmail").contains('@') {
            return Err("INVALID_EMAIL");
        }
        let (service, order) = (field("ServiceID").to_owned(), field("OrderID").to_owned());
        if self.cancelled.contains(&(service.clone(), order.clone())) {
            return Err("TRANSACTION_CANCELED");
        }
        let until = |name| time::read_request_form(field(name));
        let link = Link {
            amount,
            description: field("Description").to_owned(),
            language: field("Language").to_owned(),
            channel: Some(field("GatewayID")).filter(|c| !["", "0"].contains(c)).unwrap_or("509").to_owned(),
            return_url: field("ReturnURL").to_owned(),
            link_until: until("LinkValidityTime").or(until("ValidityTime")),
            valid_until: until("ValidityTime"),
            remote: self.id(&service, &order, request.now),
            service,
            order,
        };
        if link.link_until.is_some_and(|end| end <= request.now) {
            return Err("LINK_VALIDITY_TIME_OUTDATED");
        }
        let names = (link.remote.clone(), self.id(&link.service, "link", request.now));
        self.links.insert(names.clone(), link);
        Ok(names)
    }

    fn page(&self, request: &TwinRequest, a: &str, b: &str) -> TwinAnswer {
        let Some(link) = self.links.get(&(a.to_owned(), b.to_owned())) else { return not_found() };
        if let Some(why) = self.closed(link, request.now) {
            return pages::closed(link, why);
        }
        let paid = self.payments_of(&link.service, &link.order).any(|p| p.status.0 == "SUCCESS");
        pages::pay(link, &format!("{}/payment/continue/{a}/{b}", request.root), paid)
    }

    fn closed(&self, link: &Link, now: Timestamp) -> Option<&'static str> {
        if self.cancelled.contains(&(link.service.clone(), link.order.clone())) {
            return Some("cancelled");
        }
        link.link_until.filter(|end| *end <= now).map(|_| "expired")
    }

    /// The payer pressed a button; afterwards he goes back to the shop.
    fn act(&mut self, request: &TwinRequest, a: &str, b: &str, action: &str) -> TwinAnswer {
        let Some(link) = self.links.get(&(a.to_owned(), b.to_owned())).cloned() else { return not_found() };
        if let Some(why) = self.closed(&link, request.now) {
            return pages::closed(&link, why);
        }
        let late = request.faults.on("late_success");
        let later = |status| Some((request.now + LATER, status));
        match action {
            "pay" if late => self.pay(request, &link, ("FAILURE", "INCORRECT_AMOUNT"), later(ACCEPTED)),
            "pay" => self.pay(request, &link, PAID, None),
            "pay_later" => self.pay(request, &link, WAITING, later(PAID)),
            "decline" => self.pay(request, &link, ("FAILURE", "REJECTED"), None),
            "cancel" => self.pay(request, &link, ("FAILURE", "REJECTED_BY_USER"), None),
            "pay_twice" => {
                self.pay(request, &link, PAID, None);
                self.pay(request, &link, PAID, None);
            }
            _ => return not_found(),
        }
        self.back(&link)
    }

    fn pay(&mut self, request: &TwinRequest, link: &Link, status: Status, next: Option<(Timestamp, Status)>) {
        let used = self.by_remote.contains_key(&(link.service.clone(), link.remote.clone()));
        let remote = if used { self.id(&link.service, &link.order, request.now) } else { link.remote.clone() };
        let end = link.valid_until.map(|end| (end, ("FAILURE", "EXPIRED")));
        let next = if status == WAITING { earlier(next, end) } else { next };
        let place = self.payments.len();
        self.by_order.entry((link.service.clone(), link.order.clone())).or_default().push(place);
        self.by_remote.insert((link.service.clone(), remote.clone()), place);
        self.schedule.extend(next.map(|(at, _)| (at, place)));
        self.payments.push(Payment {
            service: link.service.clone(),
            order: link.order.clone(),
            remote,
            amount: link.amount,
            channel: link.channel.clone(),
            status,
            next,
            at: request.now,
            report: None,
            faults: request.faults.clone(),
        });
        self.report(place, request.now);
    }

    /// 303 to the shop with the return's three parameters.
    fn back(&self, link: &Link) -> TwinAnswer {
        let (Ok(mut url), Some(account)) = (Url::parse(&link.return_url), self.accounts.get(&link.service)) else {
            return pages::closed(link, "done");
        };
        let signed = Key::of(&account.settings).sign([("ServiceID", link.service.as_str()), ("OrderID", &link.order)]);
        let Ok(hash) = signed else { return pages::closed(link, "done") };
        url.query_pairs_mut()
            .append_pair("ServiceID", &link.service)
            .append_pair("OrderID", &link.order)
            .append_pair("Hash", &hash);
        TwinAnswer::see_other(url.as_str())
    }

    /// Lets come what was to come by now, in the order of its time.
    fn pass_time(&mut self, now: Timestamp) {
        while let Some(&(at, place)) = self.schedule.first().filter(|(at, _)| *at <= now) {
            self.schedule.remove(&(at, place));
            if let Some((_, status)) = self.payments.get(place).and_then(|p| p.next).filter(|(due, _)| *due == at) {
                self.become_status(place, status, at);
            }
        }
    }

    fn become_status(&mut self, place: usize, status: Status, at: Timestamp) {
        if let Some(payment) = self.payments.get_mut(place) {
            (payment.status, payment.next, payment.at) = (status, None, at);
            self.report(place, at);
        }
    }

    fn places_of(&self, service: &str, order: &str) -> &[usize] {
        self.by_order.get(&(service.to_owned(), order.to_owned())).map_or(&[], Vec::as_slice)
    }

    fn payments_of(&self, service: &str, order: &str) -> impl Iterator<Item = &Payment> {
        self.places_of(service, order).iter().filter_map(|place| self.payments.get(*place))
    }

    /// Ten letters and digits, another at each call and in each run of the program.
    fn id(&mut self, service: &str, order: &str, now: Timestamp) -> String {
        self.ids += 1;
        let text = format!("{service} {order} {} {}", self.ids, now.as_nanosecond());
        let mut id = sign::sha256_hex(text.as_bytes()).to_uppercase();
        id.truncate(10);
        id
    }
}

fn earlier(a: Option<(Timestamp, Status)>, b: Option<(Timestamp, Status)>) -> Option<(Timestamp, Status)> {
    [a, b].into_iter().flatten().min_by_key(|(at, _)| *at)
}

/// What the gateway says of a payment, with the faults that were on.
struct Said {
    amount: String,
    currency: &'static str,
    status: String,
    detail: &'static str,
}

impl Payment {
    fn said(&self, faults: &Faults) -> Said {
        let on = |name| faults.on(name) || self.faults.on(name);
        let more = Money::new(self.amount.minor().saturating_add(1), self.amount.currency());
        let code = self.amount.currency().code();
        let (status, detail) = self.status;
        Said {
            amount: if on("wrong_amount") { more } else { self.amount }.to_decimal(),
            currency: if !on("wrong_currency") {
                code
            } else if code == "PLN" {
                "EUR"
            } else {
                "PLN"
            },
            status: if on("unknown_status") { "PARTLY_PAID".into() } else { status.into() },
            detail,
        }
    }
}
