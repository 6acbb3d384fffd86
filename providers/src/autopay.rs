//! Autopay (formerly Blue Media), Poland: redirect checkout with signed notifications.
//!
//! Start, notifications, status, cancelling and refunds. The wire facts and their sources are in
//! `docs/protocols/autopay.md`. One service of a merchant (service id and shared key) takes one currency.

mod calls;
mod channels;
mod latin;
mod message;
mod notification;
mod start;
mod time;
mod twin;

#[cfg(test)]
mod tests;

use async_trait::async_trait;

use crate::facts::{Capabilities, ProviderFacts, Setting, SettingKind, Settings, SettingsError};
use crate::gateway::{
    AttemptRef, CallError, Checkout, Cx, Delivery, Outcome, Provider, ReadError, Reading, Redirect, RefundOrder,
    RefundReport, Reply, StatusReport, Verdict,
};
use crate::money::Currency;
use crate::twin::GatewayTwin;
use message::Key;

pub use channels::Channel;

/// The gateway.
pub struct Autopay;

impl Autopay {
    /// The channels of a service that take a currency, named in this language (ISO 639-1): for the person who fills
    /// in the setting `channel`, and as a call that shows whether service id and key are right.
    ///
    /// # Errors
    /// See [`CallError`]; an empty list is [`CallError::Unknown`].
    pub async fn channels(&self, cx: &Cx<'_>, currency: Currency, language: &str) -> Result<Vec<Channel>, CallError> {
        channels::list(cx, currency, language).await
    }
}

static FACTS: ProviderFacts = ProviderFacts {
    name: "autopay",
    title: "Autopay",
    countries: &["PL"],
    currencies: &["PLN", "EUR", "GBP", "USD"],
    // Transfers: 0.01 to 100000.00. Cards, BLIK and pay-later have narrower limits that the payment page applies.
    limits: (1, 10_000_000),
    one_currency: true,
    account_setting: Some("service_id"),
    settings: &[
        Setting::required("service_id", SettingKind::Text, "ServiceID of the service, from Autopay's onboarding mail."),
        Setting::required("shared_key", SettingKind::Secret, "Shared key of the same service, from the same mail."),
        Setting::default(
            "gateway_url",
            SettingKind::Url,
            "https://testpay.autopay.eu",
            "Host of the gateway: https://testpay.autopay.eu for tests, https://pay.autopay.eu for real money.",
        ),
        Setting::default(
            "hash",
            SettingKind::Choice(&["sha256", "sha512"]),
            "sha256",
            "Hash function that the service is set up with.",
        ),
        Setting::default(
            "start",
            SettingKind::Choice(&["form", "pretransaction"]),
            "form",
            "How a payment begins: by a form in the payer's browser, or by a call that answers with a link. The call \
             reports a wrong start to the hub instead of showing it to the payer.",
        ),
        Setting::default(
            "start_path",
            SettingKind::Text,
            "/payment",
            "Path of the start address that Autopay gave for the service.",
        ),
        Setting::default(
            "payer_commission",
            SettingKind::Flag,
            "false",
            "True when the payer pays the commission on top; then startAmount of a notification is what counts.",
        ),
        Setting::optional(
            "channel",
            SettingKind::Number,
            "Number of the one payment channel to offer (GatewayID, such as 509 for BLIK); all when left out.",
        ),
    ],
    can: Capabilities {
        push: true,
        poll: true,
        refund: true,
        cancel: true,
        saved_instrument: false,
        // A settlement names the order that was paid and a transfer of the gateway's, and a transfer that failed may be
        // made all the same (documentation, ISTN).
        names_refunds: false,
        refunds_recover: true,
        // One OrderID takes several transactions, each with a remoteID of its own.
        pays_again: true,
    },
    method: crate::invoicer::PaymentMethod::Transfer,
    lifetime_s: 24 * 60 * 60,
};

/// Hosts where no money moves, and hosts where it does (Autopay documentation, environments; the last of each is an
/// older name). Any other host is a simulator's or was given by Autopay, and says nothing.
const TEST_HOSTS: &[&str] = &["testpay.autopay.eu", "testcards.autopay.eu", "pay-accept.bm.pl"];
const LIVE_HOSTS: &[&str] = &["pay.autopay.eu", "cards.autopay.eu", "pay.bm.pl"];

/// An account with real money speaks to no host for tests, and the other way round: a payment would be taken for paid
/// that nobody paid, or money would be taken for a test.
fn mode_fits(gateway: &url::Url, live: bool) -> Result<(), &'static str> {
    let host = gateway.host_str().unwrap_or_default().trim_end_matches('.');
    match live {
        true if TEST_HOSTS.contains(&host) => Err("is for tests; real money goes to https://pay.autopay.eu"),
        false if LIVE_HOSTS.contains(&host) => Err("is for real money; tests go to https://testpay.autopay.eu"),
        _ => Ok(()),
    }
}

#[async_trait]
impl Provider for Autopay {
    fn facts(&self) -> &'static ProviderFacts {
        &FACTS
    }

    fn check(&self, settings: &Settings, _: Option<Currency>, live: bool) -> Result<(), SettingsError> {
        let refuse = |name, why: &str| Err(SettingsError::new(name, why.to_owned()));
        let service = settings.text("service_id");
        if !(1..=10).contains(&service.len()) || !service.bytes().all(|b| b.is_ascii_digit()) {
            return refuse("service_id", "must be 1 to 10 digits");
        }
        if settings.text("channel").len() > 5 {
            return refuse("channel", "must be at most 5 digits");
        }
        let path = settings.text("start_path");
        if !path.starts_with('/') || !path.bytes().all(|b| b.is_ascii_alphanumeric() || b"/-_.".contains(&b)) {
            return refuse("start_path", "must begin with / and hold letters, digits, -, _ and . only");
        }
        match url::Url::parse(settings.text("gateway_url")) {
            Ok(url) if url.query().is_none() && url.fragment().is_none() && url.username().is_empty() => {
                mode_fits(&url, live).or_else(|why| refuse("gateway_url", why))
            }
            _ => refuse("gateway_url", "must be an address without a query"),
        }
    }

    async fn start(&self, cx: &Cx<'_>, checkout: &Checkout) -> Result<Redirect, CallError> {
        start::start(cx, checkout).await
    }

    fn read(&self, settings: &Settings, delivery: &Delivery) -> Result<Reading, ReadError> {
        notification::read(settings, delivery)
    }

    /// A signed confirmation. What is refused is answered 400, with a signed NOTCONFIRMED where the order (or the
    /// recurring payment) could be read; both make the gateway come again.
    fn reply(&self, settings: &Settings, verdict: &Verdict<'_>) -> Reply {
        let (status, echo, agreed) = match verdict {
            Verdict::Committed { echo, outcomes } => {
                let recorded = outcomes.iter().all(|o| *o == Outcome::Recorded);
                (200, *echo, recorded || notification::always_confirmed(echo))
            }
            Verdict::Refused(ReadError::Forged { echo, .. }) if notification::refusal_is_signed(echo) => {
                (400, echo.as_str(), false)
            }
            Verdict::Refused(ReadError::Forged { .. } | ReadError::Malformed(_)) => return Reply::status(400),
        };
        match notification::confirm(settings, echo, agreed) {
            Some(body) => Reply { status, content_type: "text/xml", body },
            None => Reply::status(status),
        }
    }

    /// The hash over ServiceID and OrderID is the same for every return of an order: it says who came back, and
    /// nothing of the payment.
    fn check_return(&self, settings: &Settings, query: &[(String, String)]) -> Option<bool> {
        let once = |name: &str| {
            let mut values = query.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str());
            values.next().filter(|v| !v.is_empty() && values.next().is_none())
        };
        let (Some(service), Some(order), Some(hash)) = (once("ServiceID"), once("OrderID"), once("Hash")) else {
            return Some(false);
        };
        let fits = start::order_id(order) && Key::of(settings).fits(hash, [service, order]);
        Some(fits && service == settings.text("service_id"))
    }

    async fn status(&self, cx: &Cx<'_>, attempt: &AttemptRef) -> Result<StatusReport, CallError> {
        calls::status(cx, attempt).await
    }

    async fn cancel(&self, cx: &Cx<'_>, attempt: &AttemptRef) -> Result<(), CallError> {
        calls::cancel(cx, attempt).await
    }

    async fn refund(&self, cx: &Cx<'_>, order: &RefundOrder) -> Result<RefundReport, CallError> {
        calls::refund(cx, order).await
    }

    async fn refund_status(&self, cx: &Cx<'_>, order: &RefundOrder) -> Result<RefundReport, CallError> {
        calls::refund_status(cx, order).await
    }

    fn twin(&self) -> Option<Box<dyn GatewayTwin>> {
        Some(Box::new(twin::AutopayTwin::default()))
    }
}
