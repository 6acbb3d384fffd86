//! Stripe: cards and local methods on the hosted Checkout page.
//!
//! The payer types card data at Stripe only; we send them to a Checkout Session and learn the rest from signed
//! snapshot events and from asking. The session's name is our first handle, the PaymentIntent's (known once the payer
//! confirmed) names the money. Wire facts and their sources: `docs/protocols/stripe.md`.

mod amount;
mod api;
mod events;
mod form;
mod picked;
mod signature;
mod twin;

use async_trait::async_trait;
use jiff::SignedDuration;
use serde_json::{Value, json};

use crate::facts::{Capabilities, ProviderFacts, Setting, SettingKind, Settings, SettingsError};
use crate::gateway::{
    AttemptRef, CallError, Checkout, Cx, Delivery, Event, Provider, ReadError, Reading, Redirect, Reference,
    RefundOrder, RefundReport, RefundState, Reply, Standing, StatusReport, Verdict,
};
use crate::money::{Currency, Money};
use crate::twin::GatewayTwin;
use crate::{Timestamp, wire::RepeatedHeader};

/// The gateway. Holds nothing.
pub struct Stripe;

static FACTS: ProviderFacts = ProviderFacts {
    name: "stripe",
    title: "Stripe",
    countries: &[],
    currencies: amount::CURRENCIES,
    // Stripe's own limits differ per currency and are its to say; twelve digits are the most it reads.
    limits: (1, amount::LARGEST),
    one_currency: false,
    account_setting: Some("account"),
    settings: &[
        Setting::required(
            "secret_key",
            SettingKind::Secret,
            "Secret or restricted API key (sk_…, rk_…), from Developers → API keys; a restricted key needs write access \
             to Checkout Sessions and Refunds and read access to PaymentIntents and Charges",
        ),
        Setting::required(
            "webhook_secret",
            SettingKind::Secret,
            "Signing secret (whsec_…) of the webhook endpoint, which must report checkout.session.completed, \
             checkout.session.async_payment_succeeded, checkout.session.async_payment_failed, \
             checkout.session.expired, payment_intent.succeeded, payment_intent.processing, \
             payment_intent.payment_failed, refund.created, refund.updated, refund.failed and charge.dispute.*",
        ),
        Setting::optional(
            "webhook_secret_previous",
            SettingKind::Secret,
            "The signing secret before a rotation, while Stripe still signs with it (at most a day)",
        ),
        Setting::optional(
            "payment_methods",
            SettingKind::Text,
            "Only these of the methods enabled in the Dashboard, with commas between: card,blik,p24. Empty: all",
        ),
        Setting::optional(
            "account",
            SettingKind::Text,
            "For platforms only: the connected account (acct_…) in whose name the calls are made",
        ),
        Setting::default("base_url", SettingKind::Url, "https://api.stripe.com", "Address of the API"),
        Setting::default(
            "api_version",
            SettingKind::Text,
            "2026-10-28.endive",
            "API version of the calls; create the webhook endpoint with the same",
        ),
    ],
    can: Capabilities {
        push: true,
        poll: true,
        refund: true,
        cancel: true,
        saved_instrument: false,
        names_refunds: true,
        refunds_recover: false,
        pays_again: false,
    },
    method: crate::invoicer::PaymentMethod::Card,
    lifetime_s: 23 * 3600,
};

/// Largest event read. Real ones stay far below.
const BODY_LIMIT: usize = 1 << 20;

/// Languages of the Checkout page; any other is left to the payer's browser. Neither Ukrainian nor Icelandic is there.
const LOCALES: &[&str] = &[
    "bg", "cs", "da", "de", "el", "en", "es", "et", "fi", "fr", "hr", "hu", "id", "it", "ja", "ko", "lt", "lv", "ms",
    "mt", "nb", "nl", "pl", "pt", "ro", "ru", "sk", "sl", "sv", "th", "tr", "vi", "zh",
];

#[async_trait]
impl Provider for Stripe {
    fn facts(&self) -> &'static ProviderFacts {
        &FACTS
    }

    fn check(&self, settings: &Settings, _: Option<Currency>, live: bool) -> Result<(), SettingsError> {
        let bad = |name: &str, why: &str| Err(SettingsError::new(name, why.to_owned()));
        let visible = |name: &str| settings.text(name).bytes().all(|b| b.is_ascii_graphic());
        for name in ["secret_key", "webhook_secret", "webhook_secret_previous", "account", "api_version"] {
            if !visible(name) {
                return bad(name, "must hold letters, digits and signs only, without blanks");
            }
        }
        if settings.text("secret_key").starts_with("pk_") {
            return bad("secret_key", "is a publishable key; the secret one begins with sk_ or rk_");
        }
        if let Err(why) = api::mode_fits(settings.text("secret_key"), live) {
            return bad("secret_key", why);
        }
        if settings.text("webhook_secret").starts_with("we_") {
            return bad("webhook_secret", "is the endpoint's name; its signing secret begins with whsec_");
        }
        let word = |m: &str| m.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_');
        match methods(settings).all(|m| !m.is_empty() && word(m)) {
            true => Ok(()),
            false => bad("payment_methods", "must be names such as card,blik with commas between"),
        }
    }

    fn check_amount(&self, amount: Money) -> Result<(), CallError> {
        amount::to_wire(amount).map(|_| ())
    }

    /// Within a day a repeat gets the first session again; with other parameters it ends in [`CallError::Unknown`].
    /// Once Stripe has forgotten the key, the first session has expired too: none lives longer than a day.
    async fn start(&self, cx: &Cx<'_>, checkout: &Checkout) -> Result<Redirect, CallError> {
        let params = session_params(cx, checkout)?;
        let key = format!("grosz:checkout:{}", checkout.reference);
        let session = api::post(cx, "/v1/checkout/sessions", &params, Some(&key)).await?;
        let unreadable = || CallError::Unknown("a session without name or address".into());
        let id = session["id"].as_str().and_then(|id| api::id(id).ok()).ok_or_else(unreadable)?;
        let url = session["url"].as_str().filter(|u| is_address(u)).ok_or_else(unreadable)?;
        Ok(Redirect::Url {
            url: url.to_owned(),
            gateway_ref: Some(id.to_owned()),
            expires_at: session["expires_at"].as_i64().and_then(|s| Timestamp::from_second(s).ok()),
        })
    }

    fn read(&self, settings: &Settings, delivery: &Delivery) -> Result<Reading, ReadError> {
        if delivery.body.len() > BODY_LIMIT {
            return Err(ReadError::Malformed("the body is over 1 MiB"));
        }
        let header = delivery.headers.single("stripe-signature");
        let header = header.map_err(|RepeatedHeader| ReadError::Malformed("two Stripe-Signature headers"))?;
        let secrets = [settings.text("webhook_secret"), settings.text("webhook_secret_previous")];
        let (now, tolerance_s) = match delivery.received_at {
            Some(at) => (at, Some(signature::TOLERANCE_S)),
            None => (Timestamp::UNIX_EPOCH, None),
        };
        signature::check(header, delivery.body, &secrets, now, tolerance_s)
            .map_err(|refusal| ReadError::Forged { why: refusal.word(), echo: String::new() })?;
        Ok(Reading { events: events::read(delivery.body), echo: String::new() })
    }

    /// Any 2xx is success. A refusal is a 400, so that a wrong secret shows as failing in the merchant's Dashboard.
    fn reply(&self, _: &Settings, verdict: &Verdict<'_>) -> Reply {
        let json = |status, body: Value| Reply { status, content_type: "application/json", body: body.to_string() };
        match verdict {
            Verdict::Committed { .. } => json(200, json!({"received": true})),
            Verdict::Refused(ReadError::Malformed(_)) => json(400, json!({"error": "malformed"})),
            Verdict::Refused(ReadError::Forged { .. }) => json(400, json!({"error": "signature"})),
        }
    }

    async fn status(&self, cx: &Cx<'_>, attempt: &AttemptRef) -> Result<StatusReport, CallError> {
        let Some(session) = session_name(cx, attempt).await? else {
            return Ok(StatusReport { events: vec![], standing: Standing::Idle });
        };
        let expand = json!({"expand": ["payment_intent.latest_charge"]});
        let session = api::get(cx, &format!("/v1/checkout/sessions/{}", api::id(&session)?), &expand).await?;
        if session["object"] != "checkout.session" {
            return Err(CallError::Unknown("the answer is not a session".into()));
        }
        let (events, standing) = events::standing(&(&session).into());
        Ok(StatusReport { events, standing })
    }

    /// A session that is closed already counts as closed, unless it was paid.
    async fn cancel(&self, cx: &Cx<'_>, attempt: &AttemptRef) -> Result<(), CallError> {
        let Some(session) = session_name(cx, attempt).await? else { return Ok(()) };
        let path = format!("/v1/checkout/sessions/{}", api::id(&session)?);
        let answer = match api::post_again(cx, &format!("{path}/expire")).await {
            Err(refused @ CallError::Refused { .. }) => {
                let now = api::get(cx, &path, &json!({})).await?;
                return if now["status"] == "expired" { Ok(()) } else { Err(refused) };
            }
            other => other?,
        };
        match answer["status"] == "expired" {
            true => Ok(()),
            false => Err(CallError::Unknown("the session is not expired".into())),
        }
    }

    /// Stripe forgets the key after a day: before a repeat that late, ask [`Provider::refund_status`].
    async fn refund(&self, cx: &Cx<'_>, order: &RefundOrder) -> Result<RefundReport, CallError> {
        let params = json!({
            "payment_intent": api::id(&order.gateway_ref)?,
            "amount": amount::to_wire(order.amount)?,
            "metadata": {(events::OUR_REFUND): order.id, (events::OURS): order.reference},
        });
        let key = format!("grosz:refund:{}", order.id);
        refund_report(&api::post(cx, "/v1/refunds", &params, Some(&key)).await.map_err(gone)?)
    }

    /// By name, else by our id among the refunds of the payment; [`CallError::Refused`] with `resource_missing` when
    /// Stripe has none.
    async fn refund_status(&self, cx: &Cx<'_>, order: &RefundOrder) -> Result<RefundReport, CallError> {
        if let Some(name) = &order.refund_ref {
            return refund_report(&api::get(cx, &format!("/v1/refunds/{}", api::id(name)?), &json!({})).await?);
        }
        let filter = json!({"payment_intent": api::id(&order.gateway_ref)?});
        let ours = |refund: &Value| refund["metadata"][events::OUR_REFUND] == *order.id;
        match api::search(cx, "/v1/refunds", &filter, ours).await? {
            Some(refund) => refund_report(&refund),
            None => Err(CallError::Refused {
                code: "resource_missing".into(),
                message: "no refund of this payment carries our id".into(),
            }),
        }
    }

    async fn refunds(&self, cx: &Cx<'_>, order: &RefundOrder) -> Result<Vec<Event>, CallError> {
        let filter = json!({"payment_intent": api::id(&order.gateway_ref)?});
        let mut events = vec![];
        let each = |refund: &Value| {
            // One made in the Dashboard does not carry our name for the payment, and is of this one all the same.
            let reference = Reference::Ours(order.reference.clone());
            events.push(Event { reference, ..events::listed(&refund.into()) });
            false
        };
        api::search(cx, "/v1/refunds", &filter, each).await?;
        Ok(events)
    }

    fn twin(&self) -> Option<Box<dyn GatewayTwin>> {
        Some(Box::new(twin::StripeTwin::default()))
    }
}

/// Our reference travels three ways: metadata of a session does not reach its PaymentIntent.
fn session_params(cx: &Cx<'_>, checkout: &Checkout) -> Result<Value, CallError> {
    let ours = json!({(events::OURS): checkout.reference});
    let description = match checkout.description.trim() {
        "" => &checkout.reference,
        text => text,
    };
    let email = Some(&*checkout.email).filter(|e| e.contains('@'));
    let methods: Vec<_> = methods(cx.settings).collect();
    Ok(json!({
        "mode": "payment",
        "client_reference_id": checkout.reference,
        "metadata": ours,
        "payment_intent_data": {"metadata": ours, "description": description},
        "line_items": [{
            "quantity": 1,
            "price_data": {
                "currency": checkout.amount.currency().code().to_ascii_lowercase(),
                "unit_amount": amount::to_wire(checkout.amount)?,
                "product_data": {"name": description},
            },
        }],
        "success_url": checkout.return_url,
        "cancel_url": checkout.cancel_url,
        "customer_email": email,
        "locale": LOCALES.iter().find(|l| **l == checkout.language).unwrap_or(&"auto"),
        "adaptive_pricing": {"enabled": false},
        "allowed_payment_method_types": methods,
        "expires_at": expires_at(cx.now, checkout.expires_at)?,
    }))
}

/// Stripe takes 30 minutes to 24 hours from its own clock. An earlier end is rounded up to full five minutes and a
/// later one left out (24 hours is what Stripe does unasked), so that a call repeated soon is the same to the byte.
fn expires_at(now: Timestamp, wanted: Timestamp) -> Result<Option<i64>, CallError> {
    let invalid = || CallError::Invalid { field: "expires_at", why: "has passed".into() };
    if wanted <= now {
        return Err(invalid());
    }
    let (skew, grid) = (SignedDuration::from_mins(1), 300);
    let earliest = now.checked_add(SignedDuration::from_mins(30) + skew).map_err(|_| invalid())?.as_second();
    let latest = now.checked_add(SignedDuration::from_hours(24) - skew).map_err(|_| invalid())?.as_second();
    Ok(match wanted.as_second() {
        s if s < earliest => Some(earliest.div_euclid(grid) * grid + grid),
        s if s > latest => None,
        s => Some(s),
    })
}

/// The session of an attempt. When the answer to its creation was lost, it is looked for among those of that hour.
async fn session_name(cx: &Cx<'_>, attempt: &AttemptRef) -> Result<Option<String>, CallError> {
    if attempt.gateway_ref.is_some() {
        return Ok(attempt.gateway_ref.clone());
    }
    let begun = attempt.created_at.as_second();
    let filter = json!({"created": {"gte": begun - 600, "lte": begun + 3600}});
    let ours = |session: &Value| session["client_reference_id"] == *attempt.reference;
    let found = api::search(cx, "/v1/checkout/sessions", &filter, ours).await?;
    Ok(found.and_then(|session| session["id"].as_str().map(str::to_owned)))
}

/// Refusals of a refund that say that the money is not there any more. (Stripe API reference, "Error codes".)
fn gone(e: CallError) -> CallError {
    match e {
        CallError::Refused { code, message }
            if matches!(&*code, "charge_already_refunded" | "charge_disputed" | "refund_disputed_payment") =>
        {
            CallError::Gone { code, message }
        }
        other => other,
    }
}

fn refund_report(refund: &Value) -> Result<RefundReport, CallError> {
    let name = refund["id"].as_str().and_then(|id| api::id(id).ok());
    let name = name.ok_or_else(|| CallError::Unknown("a refund without a name".into()))?;
    let status = refund["status"].as_str().unwrap_or_default();
    let failed_by = refund["failure_reason"].as_str().unwrap_or_default();
    let why = ["failure_reason", "pending_reason"].iter().find_map(|n| refund[*n].as_str());
    Ok(RefundReport {
        // A word nobody told us about: it was accepted, and what became of it is asked again.
        state: events::refund_state(status, failed_by).unwrap_or(RefundState::Pending),
        gateway_ref: Some(name.to_owned()),
        detail: why.map_or_else(|| status.to_owned(), |why| format!("{status}/{why}")),
    })
}

fn methods(settings: &Settings) -> impl Iterator<Item = &str> {
    settings.get("payment_methods").into_iter().flat_map(|list| list.split(',')).map(str::trim)
}

fn is_address(text: &str) -> bool {
    url::Url::parse(text).is_ok_and(|url| matches!(url.scheme(), "https" | "http") && url.host().is_some())
}

#[cfg(test)]
mod tests;
