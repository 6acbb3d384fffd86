//! Rows that many stories need: a payer, a case, accounts at twins, a payment; and events without a wire.
#![allow(dead_code, reason = "each story uses its own part")]

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use grosz::app::App;
use grosz::flows::receive_webhook::Inbound;
use grosz::flows::start_checkout::{NewPayment, create_payment};
use grosz::flows::{FlowError, add_account};
use grosz::http::webhooks::Webhooks;
use grosz::intake::commit_slice;
use grosz::store::{Attempt, Case, Expert, Merchant, Payer, Payment, Pool, Profile, ProviderAccount, RecordedDelivery};
use grosz_providers::invoicer::{Buyer, InvoiceLine, TaxIdKind, Vat};
use grosz_providers::twin::{Faults, InvoicerTwin, TwinAnswer, TwinRequest};
use grosz_providers::wire::{Headers, Http, HttpError, HttpRequest, HttpResponse};
use grosz_providers::{
    Currency, Event, EventKind, Invoicer, Money, Outcome, Reading, Reference, Settings, registry, sign,
};
use serde_json::{Map, Value};

use crate::harness::Hub;

/// 123.00 PLN, what everything costs here.
pub const PRICE: i64 = 12_300;

/// Where the invoicing twin is reached by [`TwinWay`].
pub const ROOT: &str = "http://127.0.0.1:1/sandbox/twin";

/// Everything a payment of a case needs.
pub struct Matter {
    /// At the first registered gateway.
    pub account: Arc<ProviderAccount>,
    /// Who handles the case.
    pub expert: Expert,
    /// Who pays.
    pub payer: Payer,
}

/// Adds an account at the first gateway, an expert and a payer with invoice data.
pub async fn matter(hub: &Hub) -> Matter {
    matter_for(&hub.app, &hub.merchant, None).await
}

/// The same for any hub; `given` are the account's settings, made up when left out.
pub async fn matter_for(app: &App, merchant: &Merchant, given: Option<&Map<String, Value>>) -> Matter {
    let gateway = registry::providers().next().expect("a gateway").facts();
    let made_up = gateway.settings.iter().filter(|s| s.default.is_none() && !s.optional);
    let made_up = made_up.map(|s| (s.name.to_owned(), "12345".into())).collect();
    let given = given.unwrap_or(&made_up);
    let m = &merchant.id;
    let mut tx = app.store.begin().await.expect("a transaction");
    let account = add_account::add_provider_account(app, &mut tx, m, gateway.name, given, Some("PLN"), false)
        .await
        .expect("an account");
    let expert = Expert {
        merchant_id: m.clone(),
        id: app.ids.make("exp"),
        name: "Ekspert".into(),
        email: "ekspert@kancelaria.example".into(),
        language: "pl".into(),
        created_at: app.now(),
    };
    let payer = Payer {
        merchant_id: m.clone(),
        id: app.ids.make("pyr"),
        name: "Klient".into(),
        email: "klient@example.com".into(),
        language: "pl".into(),
        portal_token: app.ids.token(),
        created_at: app.now(),
    };
    let profile = Profile {
        merchant_id: m.clone(),
        id: app.ids.make("prf"),
        payer_id: payer.id.clone(),
        version: 1,
        body: buyer(),
        is_default: true,
        created_at: app.now(),
    };
    tx.add_expert(&expert).await.expect("an expert");
    tx.add_payer(&payer).await.expect("a payer");
    tx.add_profile(&profile).await.expect("a profile");
    tx.commit().await.expect("a commit");
    Matter { account: Arc::new(account), expert, payer }
}

/// A private person in Poland.
pub fn buyer() -> Buyer {
    Buyer {
        is_company: false,
        name: "Klient".into(),
        tax_id_kind: TaxIdKind::None,
        tax_id: String::new(),
        street: "Prosta 1".into(),
        postcode: "00-001".into(),
        city: "Warszawa".into(),
        country: "PL".into(),
        email: "klient@example.com".into(),
    }
}

/// The price of everything here.
pub fn price() -> Money {
    Money::new(PRICE, Currency::PLN)
}

/// Takes in calls as the intake does: in one transaction, without locks where that does.
pub async fn receive_slice(app: &App, slice: &[Inbound]) -> Result<Vec<Vec<Outcome>>, FlowError> {
    commit_slice::<Webhooks>(app, Pool::Shared, slice).await
}

impl Matter {
    /// A new case with a started payment.
    pub async fn payment(&self, hub: &Hub, number: &str) -> (Payment, Attempt) {
        self.payment_at(&hub.app, &hub.merchant, number).await
    }

    /// The same at any hub.
    pub async fn payment_at(&self, app: &App, merchant: &Merchant, number: &str) -> (Payment, Attempt) {
        let case = self.case_of(app, merchant, number);
        let order = NewPayment { case: Some(case.id.clone()), ..NewPayment::default() };
        let mut tx = app.store.begin().await.expect("a transaction");
        tx.add_case(&case).await.expect("a case");
        let payment = create_payment(app, &mut tx, merchant, false, order).await.expect("a payment");
        tx.commit().await.expect("a commit");
        let attempts = app.store.read().await.expect("a reader").attempts(&payment.merchant_id, &payment.id).await;
        let attempt = attempts.expect("attempts").remove(0);
        (payment, attempt)
    }

    /// One more payment of a case that has no unfinished one.
    pub async fn payment_of(&self, hub: &Hub, case: &str) -> (Payment, Attempt) {
        let order = NewPayment { case: Some(case.to_owned()), ..NewPayment::default() };
        let mut tx = hub.app.store.begin().await.expect("a transaction");
        let payment = create_payment(&hub.app, &mut tx, &hub.merchant, false, order).await.expect("a payment");
        let attempt = tx.attempts(&payment.merchant_id, &payment.id).await.expect("attempts").remove(0);
        tx.commit().await.expect("a commit");
        (payment, attempt)
    }

    /// A started payment without a case, by somebody without invoice data.
    pub async fn lone_payment(&self, hub: &Hub) -> (Payment, Attempt) {
        let payer = Payer { id: hub.app.ids.make("pyr"), portal_token: hub.app.ids.token(), ..self.payer.clone() };
        let order = NewPayment { payer: Some(payer.id.clone()), amount: Some(price()), ..NewPayment::default() };
        let order = NewPayment { description: Some("Porada".into()), ..order };
        let mut tx = hub.app.store.begin().await.expect("a transaction");
        tx.add_payer(&payer).await.expect("a payer");
        let payment = create_payment(&hub.app, &mut tx, &hub.merchant, false, order).await.expect("a payment");
        let attempt = tx.attempts(&payment.merchant_id, &payment.id).await.expect("attempts").remove(0);
        tx.commit().await.expect("a commit");
        (payment, attempt)
    }

    /// A new case, nowhere written.
    pub fn case_of(&self, app: &App, merchant: &Merchant, number: &str) -> Case {
        let line = InvoiceLine { name: "Porada".into(), quantity: 1, unit_gross_minor: PRICE, vat: Vat::Rate(2300) };
        Case {
            merchant_id: merchant.id.clone(),
            id: app.ids.make("case"),
            number: number.into(),
            title: "Umowa".into(),
            expert_id: Some(self.expert.id.clone()),
            payer_id: self.payer.id.clone(),
            total: price(),
            lines: vec![line],
            quote_version: 1,
            status: "analysis".into(),
            created_at: app.now(),
            updated_at: app.now(),
        }
    }

    /// A delivery with one event, as a gateway that tells of this attempt would cause it.
    pub fn delivery(&self, hub: &Hub, event: Event) -> Inbound {
        let body = format!("{event:?}").into_bytes();
        Inbound {
            account: Arc::clone(&self.account),
            delivery: Arc::new(RecordedDelivery {
                merchant_id: hub.merchant.id.clone(),
                id: hub.app.ids.make("dlv"),
                account_id: self.account.id.clone(),
                provider: self.account.provider.clone(),
                verdict: "verified".into(),
                headers: "[]".into(),
                query: String::new(),
                body_sha256: sign::sha256_hex(&body),
                body,
                received_at: hub.app.now(),
            }),
            reading: Reading { events: vec![event], echo: String::new() },
        }
    }

    /// Receives one event; answers its outcome.
    pub async fn receive(&self, hub: &Hub, event: Event) -> Outcome {
        let inbound = self.delivery(hub, event);
        let outcomes = receive_slice(&hub.app, &[inbound]).await.expect("recorded");
        outcomes[0][0]
    }
}

/// An event about an attempt.
pub fn event(attempt: &Attempt, key: &str, kind: EventKind, gateway_ref: &str) -> Event {
    Event {
        key: key.into(),
        kind,
        reference: Reference::Ours(attempt.reference.clone()),
        account: None,
        live: None,
        amount: Some(attempt.amount),
        gateway_ref: Some(gateway_ref.into()),
        detail: "told by the story".into(),
        at: None,
    }
}

/// The only way out of a hub under test: to an invoicing twin in the same process. Keeps count of the creates.
pub struct TwinWay {
    twin: Box<dyn InvoicerTwin>,
    clock: grosz::clock::Clock,
    /// Faults that are on.
    pub faults: Mutex<Faults>,
    /// Addresses called with `once`, oldest first.
    pub once: Mutex<Vec<String>>,
}

impl TwinWay {
    /// A way to the first registered invoicing API's twin, which knows these settings.
    pub fn new(clock: grosz::clock::Clock) -> Arc<TwinWay> {
        let twin = invoicer().twin().expect("an invoicer has a twin");
        twin.enroll(&settings());
        Arc::new(TwinWay { twin, clock, faults: Mutex::default(), once: Mutex::default() })
    }

    /// Turns a fault on for so many requests.
    pub fn fault(&self, name: &str, times: u32) {
        assert!(self.twin.faults().iter().any(|(known, _)| *known == name), "the twin has no fault {name}");
        self.faults.lock().expect("faults").0.insert(name.into(), times);
    }
}

/// The first registered invoicing API.
pub fn invoicer() -> &'static dyn Invoicer {
    registry::invoicers().next().expect("an invoicing API")
}

/// Settings of an account at the twin.
pub fn settings() -> Settings {
    let given = invoicer().twin().expect("a twin").demo_settings(ROOT);
    Settings::check(invoicer().facts().settings, &given).expect("the twin's own settings")
}

/// Adds an invoicing account at the twin.
pub async fn invoicing_account(hub: &Hub) -> String {
    let given = invoicer().twin().expect("a twin").demo_settings(ROOT);
    let mut tx = hub.tx().await;
    let name = invoicer().facts().name;
    let account = add_account::add_invoicing_account(&hub.app, &mut tx, &hub.merchant.id, name, &given, false)
        .await
        .expect("an invoicing account");
    tx.commit().await.expect("a commit");
    account.id
}

#[async_trait]
impl Http for TwinWay {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        // A real way would have the caller wait here: the crash tests stop it at this point too.
        tokio::task::yield_now().await;
        if request.once {
            self.once.lock().expect("calls").push(request.url.clone());
        }
        let below = request.url.strip_prefix(ROOT).expect("calls go to the address of the settings");
        let (path, query) = below.split_once('?').unwrap_or((below, ""));
        let asked = TwinRequest {
            method: request.method.into(),
            path: path.into(),
            query: query.into(),
            headers: Headers::from_pairs(request.headers),
            body: request.body,
            root: ROOT.into(),
            now: self.clock.now(),
            faults: self.faults.lock().expect("faults").clone(),
        };
        for name in self.twin.spends(path) {
            if let Some(left) = self.faults.lock().expect("faults").0.get_mut(name) {
                *left = left.saturating_sub(1);
            }
        }
        let answer = self.twin.serve(&asked);
        tokio::task::yield_now().await;
        match answer {
            TwinAnswer::Page { status, headers, body, .. } => {
                Ok(HttpResponse { status, headers: Headers::from_pairs(headers), body })
            }
            TwinAnswer::Cut => Err(HttpError::NoAnswer("the connection was cut".into())),
            TwinAnswer::Hang => Err(HttpError::NoAnswer("time-out".into())),
        }
    }
}
