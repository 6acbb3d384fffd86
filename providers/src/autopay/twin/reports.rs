//! Notifications: what is to be told, how often it is repeated, and when an answer ends it.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};

use super::{Account, Payment, State, time};
use crate::autopay::message::{self, Key, Seal, Writer};
use crate::twin::{Faults, TwinDelivery};

/// The newest status of one payment, on its way to the merchant.
pub(super) struct Report {
    payment: usize,
    /// How many times it was handed out.
    sent: u32,
    /// When it is to go out; `None` while it is out.
    due: Option<Timestamp>,
}

impl State {
    /// Tells a payment's status, in place of an older one that was not confirmed yet.
    pub(super) fn report(&mut self, payment: usize, at: Timestamp) {
        self.last_report += 1;
        let id = self.last_report;
        if let Some(older) = self.payments.get_mut(payment).and_then(|p| p.report.replace(id)) {
            self.reports.remove(&older);
        }
        self.reports.insert(id, Report { payment, sent: 0, due: Some(at) });
    }

    pub(super) fn due(&mut self, now: Timestamp, faults: &Faults) -> Vec<TwinDelivery> {
        let mut deliveries = Vec::new();
        for (id, report) in &mut self.reports {
            let Some(payment) = self.payments.get(report.payment) else { continue };
            let Some(account) = self.accounts.get(&payment.service) else { continue };
            if report.due.is_none_or(|at| at > now) {
                continue;
            }
            report.due = None;
            report.sent += 1;
            deliveries.push(TwinDelivery {
                id: *id,
                url: account.webhook_url.clone(),
                headers: vec![("content-type".into(), "application/x-www-form-urlencoded".into())],
                body: body(account, payment, faults),
            });
        }
        deliveries
    }

    pub(super) fn answered(&mut self, id: u64, answer: Option<(u16, Vec<u8>)>, now: Timestamp) {
        let Some(report) = self.reports.get_mut(&id) else { return };
        let confirmed = self.payments.get(report.payment).is_none_or(|payment| {
            let account = self.accounts.get(&payment.service);
            account.is_none_or(|a| answer.is_some_and(|(status, body)| confirms(a, payment, status, &body)))
        });
        match pause(report.sent) {
            Some(pause) if !confirmed => report.due = Some(now + pause),
            _ => {
                self.reports.remove(&id);
            }
        }
    }
}

/// The pause after the n-th try (Autopay documentation, retry policy): about eight days in all.
fn pause(sent: u32) -> Option<SignedDuration> {
    let minutes = match sent {
        0..=12 => 3,
        13..=156 => 10,
        157..=204 => 60,
        205..=209 => 24 * 60,
        _ => return None,
    };
    Some(SignedDuration::from_mins(minutes))
}

fn body(account: &Account, payment: &Payment, faults: &Faults) -> Vec<u8> {
    let said = payment.said(faults);
    let xml = Writer::new("transactionList")
        .leaf("serviceID", &payment.service)
        .open("transactions")
        .open("transaction")
        .leaf("orderID", &payment.order)
        .leaf("remoteID", &payment.remote)
        .leaf("amount", &said.amount)
        .leaf("currency", said.currency)
        .leaf("gatewayID", &payment.channel)
        .leaf("paymentDate", &time::notification_form(payment.at))
        .leaf("paymentStatus", &said.status)
        .leaf("paymentStatusDetails", said.detail)
        .sign(&Key::of(&account.settings));
    let form =
        form_urlencoded::Serializer::new(String::new()).append_pair("transactions", &STANDARD.encode(xml)).finish();
    form.into_bytes()
}

/// HTTP 200 with a rightly signed CONFIRMED for this order and service.
fn confirms(account: &Account, payment: &Payment, status: u16, body: &[u8]) -> bool {
    let Ok(document) = message::parse(body) else { return false };
    let values = [payment.service.as_str(), payment.order.as_str(), "CONFIRMED"];
    status == 200
        && document.name == "confirmationList"
        && document.signed_values() == values
        && Key::of(&account.settings).check(&document) == Seal::Right
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repeats_go_on_for_about_eight_days() {
        let pauses: Vec<_> = (1..).map_while(pause).collect();
        assert_eq!(pauses.len(), 209);
        let hours = pauses.iter().sum::<SignedDuration>().as_hours();
        assert_eq!(hours, 192, "12 times 3 min, 144 times 10 min, 48 h, 5 days");
    }
}
