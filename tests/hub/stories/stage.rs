//! A hub with the simulated gateways and the simulated invoicing API beside it, each reached over HTTP. Deliveries are
//! carried when the story says so.

use std::sync::{Arc, Mutex};

use grosz::app::App;
use grosz::clock::at;
use grosz::config::Config;
use grosz::domain::invoice::{Cell, CellFacts, State, cell};
use grosz::domain::payment::Status;
use grosz::flows::FlowError;
use grosz::flows::add_account::{add_invoicing_account, add_provider_account};
use grosz::flows::retry_payment::{ask_first, retry_payment};
use grosz::flows::start_checkout::{NewPayment, Opened, create_payment, open_checkout};
use grosz::sandbox::host::Host;
use grosz::store::{
    Alert, Attempt, Case, DeliveryFilter, Expert, InvoiceRow, InvoicingAccount, Notice, Page, Payer, Payment, Profile,
    ProviderAccount, Refund, StoredDelivery,
};
use grosz_providers::invoicer::{Buyer, InvoiceLine, TaxIdKind, Vat};
use grosz_providers::wire::{Http, HttpError, HttpRequest, HttpResponse};
use grosz_providers::{Checkout, Currency, Money, Redirect, Settings, registry};
use serde_json::Value;
use tokio::sync::{Notify, watch};

use crate::harness::{Answer, Engine, Hub, check_list};

/// Everything of a merchant's: which database row is which.
pub struct Stage {
    pub hub: Hub,
    pub host: Arc<Host>,
    /// Where the twins are reached.
    pub twins: String,
    pub experts: Vec<Expert>,
    pub payer: Payer,
    pub invoicing: InvoicingAccount,
    accounts: Vec<ProviderAccount>,
    stop: watch::Sender<bool>,
}

impl Drop for Stage {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
    }
}

/// Holds the next call to a path, before it goes out, until it is let through.
#[derive(Default)]
pub struct Gate {
    path: Mutex<Option<String>>,
    reached: Notify,
    opened: Notify,
}

impl Gate {
    /// Holds the next call whose address holds this text.
    pub fn hold(&self, path: &str) {
        *self.path.lock().expect("no panic before") = Some(path.to_owned());
    }

    /// Waits until the call is there.
    pub async fn reached(&self) {
        self.reached.notified().await;
    }

    /// Lets it through.
    pub fn open(&self) {
        self.opened.notify_one();
    }

    async fn pass(&self, url: &str) {
        let is_held = {
            let mut path = self.path.lock().expect("no panic before");
            path.as_ref().is_some_and(|held| url.contains(held)) && path.take().is_some()
        };
        if is_held {
            self.reached.notify_one();
            self.opened.notified().await;
        }
    }
}

struct Gated {
    inner: Arc<dyn Http>,
    gate: Arc<Gate>,
}

#[async_trait::async_trait]
impl Http for Gated {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        self.gate.pass(&request.url).await;
        self.inner.send(request).await
    }
}

/// No way out.
struct Closed;

#[async_trait::async_trait]
impl Http for Closed {
    async fn send(&self, _: HttpRequest) -> Result<HttpResponse, HttpError> {
        Err(HttpError::NotSent("closed".into()))
    }
}

/// One page of everything there is in a story.
fn all() -> Page {
    Page { before: None, limit: 1000 }
}

impl Stage {
    pub async fn set(engine: Engine) -> Stage {
        Stage::set_with(engine, |_| {}).await
    }

    pub async fn set_with(engine: Engine, change: impl FnOnce(&mut Config)) -> Stage {
        Stage::on(Hub::start_with(engine, change).await).await
    }

    /// With a gate in the hub's way to gateways and invoicing APIs.
    pub async fn gated(engine: Engine) -> (Stage, Arc<Gate>) {
        let gate = Arc::new(Gate::default());
        let mine = Arc::clone(&gate);
        let fit = move |app: &mut App| {
            let inner = std::mem::replace(&mut app.http, Arc::new(Closed));
            app.http = Arc::new(Gated { inner, gate: mine });
        };
        (Stage::fitted(engine, fit).await, gate)
    }

    /// With parts of the hub that the story changes.
    pub async fn fitted(engine: Engine, fit: impl FnOnce(&mut App)) -> Stage {
        Stage::on(Hub::build(engine, |_| {}, fit).await).await
    }

    async fn on(hub: Hub) -> Stage {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let twins = format!("http://{}", listener.local_addr().expect("its address"));
        let host = Arc::new(Host::beside(Arc::clone(&hub.app), twins.clone()));
        let (stop, stopped) = watch::channel(false);
        let router = grosz::sandbox::router(&host);
        tokio::spawn(async move {
            grosz::http::server::serve(listener, router, &Config::default(), stopped).await;
        });
        let (experts, payer) = people(&hub).await;
        let accounts = provider_accounts(&hub, &host).await;
        let invoicing = invoicing_account(&hub, &host).await;
        Stage { hub, host, twins, experts, payer, invoicing, accounts, stop }
    }

    pub fn account(&self, provider: &str) -> &ProviderAccount {
        self.accounts.iter().find(|a| a.provider == provider).expect("an account at that gateway")
    }

    /// Changes one setting of the account at a gateway.
    pub async fn set_up_again(&mut self, provider: &str, setting: &str, value: &str) {
        let account = self.accounts.iter_mut().find(|a| a.provider == provider).expect("an account");
        let mut values = self.hub.app.provider_settings(account).expect("settings").expose().clone();
        values.insert(setting.into(), value.into());
        let settings = Settings::from_sealed(values);
        account.sealed = self.hub.app.seal_settings(&account.id, &settings).expect("sealed");
        let mut tx = self.hub.app.store.begin().await.expect("a transaction");
        tx.update_provider_account(account).await.expect("an account");
        tx.commit().await.expect("a commit");
    }

    /// A case of 123.00 PLN in one line, handled by the first expert.
    pub async fn case(&self, number: &str) -> Case {
        let total = Money::new(12_300, Currency::PLN);
        let case = Case {
            merchant_id: self.hub.merchant.id.clone(),
            id: self.hub.app.ids.make("case"),
            number: number.into(),
            title: "Analiza umowy".into(),
            expert_id: Some(self.experts[0].id.clone()),
            payer_id: self.payer.id.clone(),
            total,
            lines: line(total),
            quote_version: 1,
            status: "analysis".into(),
            created_at: self.hub.app.now(),
            updated_at: self.hub.app.now(),
        };
        let mut tx = self.hub.tx().await;
        tx.add_case(&case).await.expect("a case");
        tx.commit().await.expect("a commit");
        case
    }

    pub async fn case_now(&self, case: &Case) -> Case {
        let mut tx = self.hub.app.store.read().await.expect("a connection");
        tx.case(&case.merchant_id, &case.id).await.expect("a look").expect("the case")
    }

    pub async fn try_start(&self, case: &Case, provider: &str) -> Result<Payment, FlowError> {
        let order = NewPayment {
            case: Some(case.id.clone()),
            provider_account: Some(self.account(provider).id.clone()),
            ..NewPayment::default()
        };
        let mut tx = self.hub.tx().await;
        let payment = create_payment(&self.hub.app, &mut tx, &self.hub.merchant, false, order).await?;
        tx.commit().await.expect("a commit");
        Ok(payment)
    }

    pub async fn start(&self, case: &Case, provider: &str) -> Payment {
        self.try_start(case, provider).await.expect("a payment")
    }

    /// What a payer's browser does with a payment link; answers the address of the gateway's page.
    pub async fn open(&self, payment: &Payment) -> String {
        match open_checkout(&self.hub.app, &self.payment(payment).await, None).await.expect("a checkout") {
            Opened::Gateway(redirect) => self.follow(redirect).await,
            other => panic!("{other:?} instead of the gateway's page"),
        }
    }

    pub async fn follow(&self, redirect: Redirect) -> String {
        let page = match redirect {
            Redirect::Url { url, .. } => url,
            Redirect::Form { action, fields } => {
                let form = form_of(fields.iter().map(|(n, v)| (n.as_str(), v.as_str())));
                let answer = self.browser("POST", &action, form).await.expect(303);
                answer.header("location").expect("where to").to_owned()
            }
        };
        let shown = self.browser("GET", &page, vec![]).await.expect(200).text();
        assert!(shown.contains("data-twin-action=\"pay\""), "{shown}");
        page
    }

    /// What the hub would ask of the gateway for an attempt, asked past it.
    pub async fn ask_for_checkout(&self, provider: &str, reference: &str, amount: Money) -> Redirect {
        let (app, account) = (&self.hub.app, self.account(provider));
        let settings = app.provider_settings(account).expect("settings");
        let checkout = Checkout {
            reference: reference.into(),
            amount,
            description: "1/2026".into(),
            email: "klient1@client.example".into(),
            name: None,
            language: "pl".into(),
            ip: None,
            return_url: format!("{}/return/att_1", self.hub.url),
            cancel_url: format!("{}/return/att_1", self.hub.url),
            webhook_url: app.webhook_url(account),
            expires_at: at(app.now() + 86_000_000_000),
        };
        let provider = registry::provider(provider).expect("the gateway");
        provider.start(&app.cx(&settings, false), &checkout).await.expect("a checkout")
    }

    /// A button of the gateway's page.
    pub async fn press(&self, page: &str, action: &str) -> Answer {
        self.browser("POST", &format!("{page}/{action}"), vec![]).await
    }

    async fn browser(&self, method: &str, url: &str, body: Vec<u8>) -> Answer {
        let headers =
            [("accept", "text/html".to_owned()), ("content-type", "application/x-www-form-urlencoded".to_owned())];
        self.hub.raw(method, url, &headers, body).await
    }

    /// A page of a twin, below its root.
    pub async fn twin_page(&self, method: &str, path: &str) -> Answer {
        self.browser(method, &format!("{}/sandbox/{path}", self.twins), vec![]).await
    }

    /// Carries what is due from the gateways to the hub; answers how many calls were made.
    pub async fn carry(&self) -> usize {
        self.host.carry().await
    }

    /// A case and its payment, opened, one button pressed, the news carried.
    pub async fn pay(&self, number: &str, provider: &str, action: &str) -> Payment {
        let case = self.case(number).await;
        let payment = self.start(&case, provider).await;
        let page = self.open(&payment).await;
        self.press(&page, action).await.expect(303);
        self.carry().await;
        self.payment(&payment).await
    }

    /// What the payer's list does for "try again" and "renew": asks the gateway, then retries.
    pub async fn retry(&self, payment: &Payment) -> Payment {
        self.retry_with(payment, None).await
    }

    /// The same at a gateway of the payer's choice.
    pub async fn retry_at(&self, payment: &Payment, provider: &str) -> Payment {
        self.retry_with(payment, Some(&self.account(provider).id)).await
    }

    async fn retry_with(&self, payment: &Payment, account: Option<&str>) -> Payment {
        let asked = ask_first(&self.hub.app, payment).await.expect("asked");
        let mut tx = self.hub.tx().await;
        let again = retry_payment(&self.hub.app, &mut tx, &self.hub.merchant, payment, account, &asked).await;
        let again = again.expect("a retry");
        tx.commit().await.expect("a commit");
        again
    }

    /// Turns the dials of the twins that are named.
    pub async fn dial(&self, faults: Value) {
        let headers = [("content-type", "application/json".to_owned())];
        let url = format!("{}/sandbox/faults", self.twins);
        self.hub.raw("PUT", &url, &headers, faults.to_string().into_bytes()).await.expect(200);
    }

    /// What is left on a twin's dial.
    pub async fn dialled(&self, twin: &str, fault: &str) -> u64 {
        let values = self.twin_page("GET", "faults").await.expect(200).json();
        values[twin][fault].as_u64().expect("a fault")
    }

    /// Invoices in the simulated company's books.
    pub async fn invoices(&self) -> usize {
        let page = self.twin_page("GET", "wfirma/panel").await.expect(200).text();
        let counted = page.split("Wystawione faktury: ").nth(1).and_then(|rest| rest.split('.').next());
        counted.and_then(|n| n.parse().ok()).expect("a count of invoices")
    }

    pub async fn payment(&self, payment: &Payment) -> Payment {
        check_list(&self.hub.app, payment).await;
        let mut tx = self.hub.app.store.read().await.expect("a connection");
        tx.payment(&payment.merchant_id, &payment.id).await.expect("a look").expect("the payment")
    }

    pub async fn attempts(&self, payment: &Payment) -> Vec<Attempt> {
        let mut tx = self.hub.app.store.read().await.expect("a connection");
        tx.attempts(&payment.merchant_id, &payment.id).await.expect("a look")
    }

    pub async fn invoice(&self, payment: &Payment) -> Option<InvoiceRow> {
        let mut tx = self.hub.app.store.read().await.expect("a connection");
        tx.invoice_of_payment(&payment.merchant_id, &payment.id).await.expect("a look")
    }

    pub async fn refunds(&self, payment: &Payment) -> Vec<Refund> {
        let mut tx = self.hub.app.store.read().await.expect("a connection");
        tx.refunds(&payment.merchant_id, &payment.id).await.expect("a look")
    }

    /// Codes of the open alerts, sorted.
    pub async fn alerts(&self) -> Vec<String> {
        let mut codes: Vec<String> = self.open_alerts().await.into_iter().map(|a| a.code).collect();
        codes.sort();
        codes
    }

    pub async fn open_alerts(&self) -> Vec<Alert> {
        let mut tx = self.hub.app.store.read().await.expect("a connection");
        tx.alerts(&self.hub.merchant.id, None, true, &all()).await.expect("a look")
    }

    /// Notices of one kind, the newest first.
    pub async fn notices(&self, kind: &str) -> Vec<Notice> {
        let mut tx = self.hub.app.store.read().await.expect("a connection");
        let notices = tx.notices(&self.hub.merchant.id, None, &all()).await.expect("a look");
        notices.into_iter().filter(|n| n.kind == kind).collect()
    }

    pub async fn deliveries(&self, payment: &Payment) -> Vec<StoredDelivery> {
        let filter = DeliveryFilter { payment: Some(payment.id.clone()), ..DeliveryFilter::default() };
        let mut tx = self.hub.app.store.read().await.expect("a connection");
        tx.deliveries(&payment.merchant_id, &filter, &all()).await.expect("a look")
    }

    /// How often each status was entered, in order.
    pub async fn history(&self, payment: &Payment) -> Vec<String> {
        let mut tx = self.hub.app.store.read().await.expect("a connection");
        let moves = tx.transitions(&payment.merchant_id, &payment.id).await.expect("a look");
        moves.into_iter().map(|t| t.reason.map_or(t.to.clone(), |r| format!("{}({r})", t.to))).collect()
    }

    /// Types of the messages to client apps about a subject, in order.
    pub async fn told(&self, subject: &str) -> Vec<String> {
        let mut tx = self.hub.app.store.read().await.expect("a connection");
        let feed = tx.feed(&self.hub.merchant.id, None, self.hub.app.now(), 1000).await.expect("a feed");
        feed.into_iter().filter(|m| m.subject == subject).map(|m| m.kind).collect()
    }

    /// The payer's invoice cell.
    pub async fn cell(&self, payment: &Payment) -> Cell {
        let payment = self.payment(payment).await;
        let invoice = self.invoice(&payment).await;
        cell(CellFacts {
            status: payment.status,
            reason: payment.reason,
            invoice: invoice.as_ref().map(|i| i.state),
            has_pdf: invoice.is_some_and(|i| i.pdf_sha256.is_some()),
            shown_attachment: false,
        })
    }

    /// The payment is completed, its one invoice issued and downloadable.
    pub async fn expect_paid_and_invoiced(&self, payment: &Payment) {
        let now = self.payment(payment).await;
        assert_eq!(now.status, Status::Completed);
        let invoice = self.invoice(payment).await.expect("an invoice");
        assert_eq!((invoice.state, self.cell(payment).await), (State::Issued, Cell::Download), "{invoice:?}");
    }

    /// Moves the clock in steps and runs what becomes due.
    pub async fn let_pass(&self, seconds: u64, step: u64) {
        for _ in 0..seconds.div_ceil(step) {
            self.hub.advance(step);
            self.hub.run_jobs().await;
        }
    }
}

pub fn form_of<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> Vec<u8> {
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish().into_bytes()
}

pub fn line(total: Money) -> Vec<InvoiceLine> {
    let unit_gross_minor = total.minor();
    vec![InvoiceLine { name: "Analiza umowy".into(), quantity: 1, unit_gross_minor, vat: Vat::Rate(2300) }]
}

async fn people(hub: &Hub) -> (Vec<Expert>, Payer) {
    let app = &hub.app;
    let expert = |n: u8| Expert {
        merchant_id: hub.merchant.id.clone(),
        id: app.ids.make("exp"),
        name: format!("Ekspert {n}"),
        email: format!("ekspert{n}@kancelaria.example"),
        language: "pl".into(),
        created_at: app.now(),
    };
    let experts = vec![expert(1), expert(2)];
    let payer = Payer {
        merchant_id: hub.merchant.id.clone(),
        id: app.ids.make("pyr"),
        name: "Klient 1".into(),
        email: "klient1@client.example".into(),
        language: "pl".into(),
        portal_token: app.ids.token(),
        created_at: app.now(),
    };
    let profile = Profile {
        merchant_id: hub.merchant.id.clone(),
        id: app.ids.make("prf"),
        payer_id: payer.id.clone(),
        version: 1,
        body: Buyer {
            is_company: true,
            name: "Firma Klienta".into(),
            tax_id_kind: TaxIdKind::PlNip,
            tax_id: "1234563218".into(),
            street: "ul. Przykładowa 1".into(),
            postcode: "00-001".into(),
            city: "Warszawa".into(),
            country: "PL".into(),
            email: "faktury@client.example".into(),
        },
        is_default: true,
        created_at: app.now(),
    };
    let mut tx = hub.tx().await;
    for expert in &experts {
        tx.add_expert(expert).await.expect("an expert");
    }
    tx.add_payer(&payer).await.expect("a payer");
    tx.add_profile(&profile).await.expect("a profile");
    tx.commit().await.expect("a commit");
    (experts, payer)
}

async fn provider_accounts(hub: &Hub, host: &Host) -> Vec<ProviderAccount> {
    let mut tx = hub.tx().await;
    let mut accounts = vec![];
    for provider in registry::providers() {
        let facts = provider.facts();
        let Some(twin) = provider.twin() else { continue };
        let given = twin.demo_settings(&host.root(facts.name));
        let currency = facts.one_currency.then_some("PLN");
        let (app, merchant) = (&hub.app, &hub.merchant.id);
        let added = add_provider_account(app, &mut tx, merchant, facts.name, &given, currency, false).await;
        accounts.push(added.expect("an account"));
    }
    tx.commit().await.expect("a commit");
    accounts
}

async fn invoicing_account(hub: &Hub, host: &Host) -> InvoicingAccount {
    let invoicer = registry::invoicer("wfirma").expect("the invoicer");
    let given = invoicer.twin().expect("its twin").demo_settings(&host.root("wfirma"));
    let mut tx = hub.tx().await;
    let added = add_invoicing_account(&hub.app, &mut tx, &hub.merchant.id, "wfirma", &given, false).await;
    tx.commit().await.expect("a commit");
    added.expect("an account")
}
