//! The stage of every story with real programs: a gateway that is a twin inside the test, so that every acknowledgement
//! is on record here; an invoicing API that is a twin in a server of its own and lives through all of it; our own eyes
//! on the database; and what must be true at the end.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use grosz::app::App;
use grosz::clock::Clock;
use grosz::config::{Config, Hidden};
use grosz::domain::invoice::State;
use grosz::domain::payment::Status;
use grosz::flows::add_account;
use grosz::store::{Attempt, Case, DeliveryFilter, Merchant, Page, Payment};
use grosz_providers::invoicer::Found;
use grosz_providers::twin::{Faults, GatewayTwin, TwinAnswer, TwinRequest};
use grosz_providers::wire::Headers;
use grosz_providers::{Checkout, Cx, Redirect, Settings, Timestamp, registry, sign};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::harness::{KEY, client};
use crate::matter::{Matter, invoicer, matter_for, price};

/// How long anything may take to come true.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// A merchant with everything a payment needs, and the two outside companies.
pub struct Scene {
    /// Our own eyes on the database.
    pub hub: App,
    /// Whose payments these are.
    pub merchant: Merchant,
    /// Account, expert, payer.
    pub matter: Matter,
    /// The gateway.
    pub gateway: Gateway,
    /// Settings of the invoicing account.
    pub invoicing: Settings,
    /// All payments so far.
    pub payments: Vec<Payment>,
    /// Calls hubs.
    pub http: reqwest::Client,
    began: Instant,
    _books: watch::Sender<bool>,
}

impl Scene {
    /// Sets the scene in a database for hubs at these addresses, the first of which is the public one.
    pub async fn set(database: &str, hubs: &[&str]) -> Scene {
        let books = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", books.local_addr().expect("its address"));
        Scene::set_before(database, hubs, books, &url).await
    }

    /// The same with the invoicing twins on this listener, reached at `books_url`.
    pub async fn set_before(database: &str, hubs: &[&str], books: tokio::net::TcpListener, books_url: &str) -> Scene {
        let config = Config {
            database_url: Hidden(database.to_owned()),
            public_url: hubs[0].to_owned(),
            allow_insecure_targets: true,
            ..Config::default()
        };
        let hub = App::open(config, Clock::System).await.expect("the database opens");
        let (stop, stopped) = watch::channel(false);
        let own = format!("http://{}", books.local_addr().expect("its address"));
        tokio::spawn(grosz::sandbox::serve_alone(books, own.clone(), vec![], stopped));

        let merchant = crate::harness::add_merchant(&hub, "Kancelaria", KEY).await;
        let provider = registry::providers().next().expect("a gateway");
        let twin = provider.twin().expect("with a twin");
        let root = "http://127.0.0.1:1/twin".to_owned();
        let given = twin.demo_settings(&root);
        let matter = matter_for(&hub, &merchant, Some(&given)).await;
        let settings = hub.provider_settings(&matter.account).expect("they open");
        twin.enroll(&settings, &hub.webhook_url(&matter.account));
        let invoicing = invoicing_at(&hub, &merchant.id, &own, books_url).await;
        let gateway = Gateway {
            twin,
            settings,
            root,
            roads: hubs.iter().map(|u| (*u).to_owned()).collect(),
            turn: 0,
            acknowledged: vec![],
            unanswered: 0,
            turned_away: 0,
            odd: vec![],
            slowest: Duration::ZERO,
        };
        let (payments, http, began) = (vec![], client(), Instant::now());
        Scene { hub, merchant, matter, gateway, invoicing, payments, http, began, _books: stop }
    }

    /// Starts a payment past all hubs, and pays it at the gateway.
    pub async fn pay(&mut self, number: &str) {
        let (payment, attempt) = self.matter.payment_at(&self.hub, &self.merchant, number).await;
        self.gateway.pay(&self.hub, &self.matter, &attempt.reference).await;
        self.payments.push(payment);
    }

    /// A new case, to be paid through the hubs.
    pub async fn case(&self, number: &str) -> Case {
        let case = self.matter.case_of(&self.hub, &self.merchant, number);
        let mut tx = self.hub.store.begin().await.expect("a transaction");
        tx.add_case(&case).await.expect("a case");
        tx.commit().await.expect("a commit");
        case
    }

    /// Takes over a payment that hubs made, and pays it at the gateway.
    pub async fn pay_ordered(&mut self, id: &str) {
        let mut tx = self.hub.store.read().await.expect("a reader");
        let payment = tx.payment(&self.merchant.id, id).await.expect("an answer").expect("an acknowledged payment");
        let attempt: Attempt = tx.attempts(&self.merchant.id, id).await.expect("attempts").remove(0);
        drop(tx);
        self.gateway.pay(&self.hub, &self.matter, &attempt.reference).await;
        self.payments.push(payment);
    }

    /// Sends out what the gateway has to tell.
    pub fn send_out(&mut self) -> UnderWay {
        self.gateway.send_out(&self.http, self.began)
    }

    /// Takes the answers in; answers how many calls there were.
    pub async fn hear(&mut self, under_way: UnderWay) -> usize {
        self.gateway.hear(under_way).await
    }

    /// Lets the programs work until every payment is completed and its invoice issued and printed.
    pub async fn finish(&mut self) {
        let patience = Instant::now();
        loop {
            let under_way = self.send_out();
            let carried = self.hear(under_way).await > 0;
            let open = self.open_payments().await;
            if open == Some(0) && !carried {
                return;
            }
            assert!(patience.elapsed() < PATIENCE, "{open:?} payments did not come to an end");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// `None` when the database does not answer.
    async fn open_payments(&self) -> Option<usize> {
        let mut open = 0;
        let mut tx = self.hub.store.read().await.ok()?;
        for p in &self.payments {
            let issued = tx.invoice_of_payment(&p.merchant_id, &p.id).await.ok()?;
            open += usize::from(issued.is_none_or(|i| i.state.is_open() || i.pdf_sha256.is_none()));
        }
        Some(open)
    }

    /// I2–I5, I7: nothing acknowledged is lost, nothing is doubled, nothing is left to do.
    pub async fn check(&self) {
        assert!(self.gateway.acknowledged.len() >= self.payments.len(), "{}", self.gateway.acknowledged.len());
        let kept = kept_bodies(&self.hub, &self.merchant.id).await;
        for body in &self.gateway.acknowledged {
            assert!(kept.contains_key(body), "I4: an acknowledged delivery is missing");
        }
        for payment in &self.payments {
            check_payment(&self.hub, payment, &self.invoicing).await;
        }
        let mut tx = self.hub.store.read().await.expect("a reader");
        let depth = tx.queue_depth().await.expect("a depth");
        let due: Vec<_> = depth.iter().filter(|d| d.oldest_run_at <= self.hub.now() - 2_000_000).collect();
        assert!(due.is_empty(), "I7: {due:?}");
    }
}

/// POST of a new payment of a case to one hub after another, under one key, until one answers; its id. What is neither
/// 201 nor 503 is a failure.
pub async fn order(http: reqwest::Client, hubs: Vec<String>, case: String, account: String) -> String {
    let body = json!({"case": case, "provider_account": account}).to_string();
    let patience = Instant::now();
    for hub in hubs.iter().cycle() {
        assert!(patience.elapsed() < PATIENCE, "no hub takes the order");
        let asked = http.post(format!("{hub}/v1/payments")).bearer_auth(KEY).header("idempotency-key", &case);
        let answer = asked.header("content-type", "application/json").body(body.clone()).send().await;
        if let Ok(answer) = answer {
            let status = answer.status().as_u16();
            let again = answer.headers().contains_key("retry-after");
            let Ok(text) = answer.text().await else { continue };
            if status == 201 {
                let made: serde_json::Value = serde_json::from_str(&text).expect("JSON");
                return made["id"].as_str().expect("an id").to_owned();
            }
            assert!(status == 503 && again, "{status} {text}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    unreachable!("there is a hub")
}

/// A twin that lives in the test, and what the hub acknowledged to it.
pub struct Gateway {
    twin: Box<dyn GatewayTwin>,
    settings: Settings,
    root: String,
    /// Where webhooks go, in turns: every hub's own address.
    pub roads: Vec<String>,
    turn: usize,
    /// Digests of the bodies that were acknowledged.
    pub acknowledged: Vec<String>,
    /// Calls whose answer was cut off by a kill.
    pub unanswered: usize,
    /// Calls that were told to come again.
    pub turned_away: usize,
    /// Other answers, and 503 without a word when to come again.
    pub odd: Vec<String>,
    /// The longest wait for an answer.
    pub slowest: Duration,
}

impl Gateway {
    fn request(&self, method: &str, path: &str, body: String) -> String {
        let request = TwinRequest {
            method: method.into(),
            path: path.split('?').next().unwrap_or_default().into(),
            query: path.split_once('?').map_or(String::new(), |(_, q)| q.into()),
            headers: Headers::from_pairs([("content-type", "application/x-www-form-urlencoded")]),
            body: body.into_bytes(),
            root: self.root.clone(),
            now: Timestamp::now(),
            faults: Faults::default(),
        };
        let TwinAnswer::Page { status, headers, body, .. } = self.twin.serve(&request) else { panic!("no page") };
        match Headers::from_pairs(headers).first("location").and_then(|to| to.strip_prefix(self.root.as_str())) {
            Some(to) if (300..400).contains(&status) => self.request("GET", to, String::new()),
            _ => String::from_utf8(body).expect("text"),
        }
    }

    /// Starts a checkout as a payer's browser does, and pays.
    async fn pay(&self, hub: &App, matter: &Matter, reference: &str) {
        let provider = registry::provider(&matter.account.provider).expect("a gateway");
        let checkout = Checkout {
            reference: reference.into(),
            amount: price(),
            description: "Porada".into(),
            email: matter.payer.email.clone(),
            name: None,
            language: "pl".into(),
            ip: None,
            return_url: "http://127.0.0.1/return".into(),
            cancel_url: "http://127.0.0.1/return".into(),
            webhook_url: hub.webhook_url(&matter.account),
            expires_at: Timestamp::now() + jiff::SignedDuration::from_hours(2),
        };
        let cx = Cx { settings: &self.settings, http: &*hub.http, now: Timestamp::now(), live: false };
        let Ok(Redirect::Form { action, fields }) = provider.start(&cx, &checkout).await else { panic!("no form") };
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(fields).finish();
        let page = self.request("POST", action.strip_prefix(&self.root).expect("at the twin"), body);
        let button = page.find("data-twin-action=\"pay\"").expect("a button");
        let form = &page[page[..button].rfind("<form").expect("its form")..];
        let target = form.split("action=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("its target");
        let mut pairs = form_urlencoded::Serializer::new(String::new());
        for input in form.split("</form>").next().unwrap_or_default().split("<input").skip(1) {
            let value = |name: &str| {
                let rest = input.split(&format!("{name}=\"")).nth(1)?;
                Some(rest.split('"').next().unwrap_or_default().to_owned())
            };
            pairs.append_pair(&value("name").unwrap_or_default(), &value("value").unwrap_or_default());
        }
        let target = target.strip_prefix(&self.root).unwrap_or(target);
        self.request("POST", target, pairs.finish());
    }

    /// Sends out what is due, all at the same time, in the gateway's own time, which runs a thousand times as fast as
    /// ours: its repeats come after minutes. Each call goes to the next hub; every third goes to two hubs at once.
    fn send_out(&mut self, http: &reqwest::Client, began: Instant) -> UnderWay {
        let fast = i64::try_from(began.elapsed().as_millis()).expect("a short test");
        let now = Timestamp::now() + jiff::SignedDuration::from_secs(fast);
        let mut under_way = JoinSet::new();
        for delivery in self.twin.due(now, &Faults::default()) {
            let body = sign::sha256_hex(&delivery.body);
            let copies = if self.roads.len() > 1 && self.turn.is_multiple_of(3) { 2 } else { 1 };
            for copy in 0..copies {
                let road = &self.roads[self.turn % self.roads.len()];
                self.turn += 1;
                let path = delivery.url.find("/webhooks/").map_or("", |at| &delivery.url[at..]);
                let mut request = http.post(format!("{road}{path}")).body(delivery.body.clone());
                for (name, value) in &delivery.headers {
                    request = request.header(name, value);
                }
                let (id, body) = ((copy == 0).then_some(delivery.id), body.clone());
                under_way.spawn(async move {
                    let began = Instant::now();
                    let answer = async {
                        let answer = request.send().await.ok()?;
                        let status = answer.status().as_u16();
                        let again = answer.headers().contains_key("retry-after");
                        Some((status, again, answer.bytes().await.ok()?.to_vec()))
                    };
                    Told { id, body, answer: answer.await, took: began.elapsed() }
                });
            }
        }
        (now, under_way)
    }

    /// Takes the answers in; the twin repeats what was not acknowledged. Answers how many calls there were.
    async fn hear(&mut self, (now, mut under_way): UnderWay) -> usize {
        let mut calls = 0;
        while let Some(told) = under_way.join_next().await {
            let told = told.expect("a call ends");
            calls += 1;
            self.slowest = self.slowest.max(told.took);
            match &told.answer {
                Some((200, _, reply)) if String::from_utf8_lossy(reply).contains(">CONFIRMED<") => {
                    self.acknowledged.push(told.body);
                }
                Some((503, true, _)) => self.turned_away += 1,
                Some((status, _, reply)) => self.odd.push(format!("{status} {}", String::from_utf8_lossy(reply))),
                None => self.unanswered += 1,
            }
            if let Some(id) = told.id {
                self.twin.answered(id, told.answer.map(|(status, _, reply)| (status, reply)), now);
            }
        }
        calls
    }
}

/// One call and what came of it.
pub struct Told {
    /// `None` for the copy of a call.
    id: Option<u64>,
    body: String,
    answer: Option<(u16, bool, Vec<u8>)>,
    took: Duration,
}

/// Calls under way, and when they were sent in the gateway's own time.
pub type UnderWay = (Timestamp, JoinSet<Told>);

async fn kept_bodies(hub: &App, merchant: &str) -> HashMap<String, i64> {
    let mut kept = HashMap::new();
    let mut page = Page { before: None, limit: 500 };
    loop {
        let mut tx = hub.store.read().await.expect("a reader");
        let rows = tx.deliveries(merchant, &DeliveryFilter::default(), &page).await.expect("deliveries");
        let Some(last) = rows.last() else { return kept };
        page.before = Some(last.delivery.id.clone());
        for row in rows {
            kept.insert(row.delivery.body_sha256, row.repeats);
        }
    }
}

async fn check_payment(hub: &App, payment: &Payment, invoicing: &Settings) {
    let mut tx = hub.store.read().await.expect("a reader");
    let after = tx.payment(&payment.merchant_id, &payment.id).await.expect("an answer").expect("it is there");
    assert_eq!(after.status, Status::Completed);
    assert!(!after.double_payment && !after.late_success && !after.mismatch);
    let moves = tx.transitions(&payment.merchant_id, &payment.id).await.expect("transitions");
    assert_eq!(moves.len(), 2, "I5: {moves:?}");
    let case: Case = tx
        .case(&payment.merchant_id, payment.case_id.as_deref().unwrap_or_default())
        .await
        .expect("an answer")
        .expect("its case");
    assert_eq!(case.status, "in_preparation");
    let invoice = tx.invoice_of_payment(&payment.merchant_id, &payment.id).await.expect("an answer").expect("one");
    assert_eq!(invoice.state, State::Issued, "{invoice:?}");
    assert!(invoice.attempts <= 3);
    let cx = Cx { settings: invoicing, http: &*hub.http, now: Timestamp::now(), live: false };
    let found = invoicer().find(&cx, &invoice.order).await;
    assert!(matches!(found, Found::One(_)), "I3: {found:?}");
    let alerts = tx.alerts(&payment.merchant_id, Some(&payment.id), true, &Page { before: None, limit: 10 }).await;
    assert!(alerts.expect("alerts").is_empty());
}

/// Adds an account at the invoicing twins of `books`.
async fn invoicing_at(hub: &App, merchant: &str, books: &str, reached_at: &str) -> Settings {
    let name = invoicer().facts().name;
    let given = invoicer().twin().expect("a twin").demo_settings(&format!("{reached_at}/sandbox/{name}"));
    let mut tx = hub.store.begin().await.expect("a transaction");
    let account = add_account::add_invoicing_account(hub, &mut tx, merchant, name, &given, false).await;
    let account = account.expect("an account");
    tx.commit().await.expect("a commit");
    let known = json!({"settings": given, "webhook_url": "http://127.0.0.1:1/"});
    let answer = client()
        .post(format!("{books}/sandbox/{name}/accounts"))
        .header("content-type", "application/json")
        .body(known.to_string())
        .send()
        .await
        .expect("the twins answer");
    assert!(answer.status().is_success(), "{}", answer.status());
    hub.invoicing_settings(&account).expect("they open")
}
