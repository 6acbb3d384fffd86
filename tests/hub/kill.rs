//! The real program is killed with SIGKILL again and again while a gateway reports to it and invoices are issued;
//! afterwards nothing is lost and nothing is doubled.
//!
//! The gateway is a twin inside the test, so that every acknowledgement is on record here; the invoicing API is a twin
//! in a server of its own that lives through all of it. Time is real here: a process cannot be handed a clock.

use std::collections::HashMap;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use grosz::app::App;
use grosz::clock::Clock;
use grosz::config::{Config, Hidden};
use grosz::domain::invoice::State;
use grosz::domain::payment::Status;
use grosz::flows::add_account;
use grosz::store::{Case, DeliveryFilter, Page, Payment};
use grosz_providers::invoicer::Found;
use grosz_providers::twin::{Faults, GatewayTwin, TwinAnswer, TwinRequest};
use grosz_providers::wire::Headers;
use grosz_providers::{Checkout, Cx, Redirect, Settings, Timestamp, registry, sign};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::cluster::cluster;
use crate::harness::{Engine, TempDir, client};
use crate::matter::{Matter, invoicer, matter_for, price};

const KILLS: usize = 40;
const PAYMENTS_A_KILL: usize = 3;

/// The program under test and what it is started with.
struct Program {
    database: String,
    url: String,
    listen: String,
    child: Option<Child>,
}

impl Program {
    fn start(&mut self) {
        let child = Command::new(env!("CARGO_BIN_EXE_grosz"))
            .arg("serve")
            .env_clear()
            .env("GROSZ_DATABASE_URL", &self.database)
            .env("GROSZ_LISTEN", &self.listen)
            .env("GROSZ_PUBLIC_URL", &self.url)
            .env("GROSZ_ALLOW_INSECURE_TARGETS", "true")
            .env("GROSZ_INVOICE_WAITS_S", "0,1,1")
            .env("GROSZ_INVOICE_LOOKS_S", "1")
            .env("GROSZ_INVOICE_QUIET_S", "2")
            .env("GROSZ_CONNECT_S", "1")
            .env("GROSZ_CALL_S", "2")
            .env("GROSZ_ONCE_CALL_S", "2")
            .env("GROSZ_JOB_LEASE_S", "3")
            .env("GROSZ_JOB_TICK_MS", "50")
            .env("GROSZ_JOB_MAX_CRASHES", "1000")
            .env("GROSZ_MAIL_INVOICES", "false")
            .env("GROSZ_LOG", "error")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn();
        self.child = Some(child.expect("the program starts"));
    }

    /// SIGKILL: nothing of the process's own runs after it.
    fn kill(&mut self) {
        let mut child = self.child.take().expect("a running program");
        child.kill().expect("it can be killed");
        child.wait().expect("it is gone");
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// A twin that lives in the test, and what the hub acknowledged to it.
struct Gateway {
    twin: Box<dyn GatewayTwin>,
    settings: Settings,
    root: String,
    acknowledged: Vec<String>,
    /// Calls whose answer was cut off by a kill.
    unanswered: usize,
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
    /// ours: its repeats come after minutes.
    fn send_out(&self, http: &reqwest::Client, began: Instant) -> (Timestamp, JoinSet<Told>) {
        let fast = i64::try_from(began.elapsed().as_millis()).expect("a short test");
        let now = Timestamp::now() + jiff::SignedDuration::from_secs(fast);
        let mut under_way = JoinSet::new();
        for delivery in self.twin.due(now, &Faults::default()) {
            let mut request = http.post(&delivery.url).body(delivery.body.clone());
            for (name, value) in &delivery.headers {
                request = request.header(name, value);
            }
            under_way.spawn(async move {
                let answer = async {
                    let answer = request.send().await.ok()?;
                    let status = answer.status().as_u16();
                    Some((status, answer.bytes().await.ok()?.to_vec()))
                };
                (delivery.id, sign::sha256_hex(&delivery.body), answer.await)
            });
        }
        (now, under_way)
    }

    /// Takes the answers in; the twin repeats what was not acknowledged. Answers how many calls there were.
    async fn hear(&mut self, (now, mut under_way): (Timestamp, JoinSet<Told>)) -> usize {
        let mut calls = 0;
        while let Some(told) = under_way.join_next().await {
            let (id, body, answer) = told.expect("a call ends");
            calls += 1;
            match &answer {
                Some((200, reply)) if String::from_utf8_lossy(reply).contains(">CONFIRMED<") => {
                    self.acknowledged.push(body);
                }
                Some(_) => {}
                None => self.unanswered += 1,
            }
            self.twin.answered(id, answer, now);
        }
        calls
    }
}

/// A delivery's id, the digest of its body, and what was answered.
type Told = (u64, String, Option<(u16, Vec<u8>)>);

// F20–F28, F25, I2, I3, I4, I5, I7; R-5W-45, R-5W-49
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_again_and_again_on_sqlite() {
    story(Engine::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_again_and_again_on_postgres() {
    if cluster().is_some() {
        story(Engine::Postgres).await;
    }
}

async fn story(engine: Engine) {
    let dir = TempDir::new();
    let database = match engine {
        Engine::Sqlite => format!("sqlite:{}", dir.path().join("hub.db").display()),
        Engine::Postgres => cluster().expect("looked at above").database(),
    };
    let port = free_port();
    let url = format!("http://127.0.0.1:{port}");
    // Our own eyes on the same database: to set the scene, and to look at it afterwards.
    let config = Config {
        database_url: Hidden(database.clone()),
        public_url: url.clone(),
        allow_insecure_targets: true,
        ..Config::default()
    };
    let hub = App::open(config, Clock::System).await.expect("the database opens");

    let (_stop, stopped) = watch::channel(false);
    let books = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let books_url = format!("http://{}", books.local_addr().expect("its address"));
    tokio::spawn(grosz::sandbox::serve_alone(books, books_url.clone(), vec![], stopped));

    let merchant = crate::harness::add_merchant(&hub, "Kancelaria", crate::harness::KEY).await;
    let provider = registry::providers().next().expect("a gateway");
    let twin = provider.twin().expect("with a twin");
    let root = "http://127.0.0.1:1/twin".to_owned();
    let given = twin.demo_settings(&root);
    let matter = matter_for(&hub, &merchant, Some(&given)).await;
    let settings = hub.provider_settings(&matter.account).expect("they open");
    twin.enroll(&settings, &hub.webhook_url(&matter.account));
    let invoicing = invoicing_at(&hub, &merchant.id, &books_url).await;

    let mut gateway = Gateway { twin, settings, root, acknowledged: vec![], unanswered: 0 };
    let mut payments: Vec<Payment> = vec![];
    let mut program = Program { database, url: url.clone(), listen: format!("127.0.0.1:{port}"), child: None };
    let http = client();
    let began = Instant::now();
    for kill in 0..KILLS {
        for n in 0..PAYMENTS_A_KILL {
            let (payment, attempt) = matter.payment_at(&hub, &merchant, &format!("{kill}-{n}/2026")).await;
            gateway.pay(&hub, &matter, &attempt.reference).await;
            payments.push(payment);
        }
        program.start();
        // Every fourth life ends before it answers; the others while calls and jobs are under way.
        if kill % 4 != 3 {
            answers(&http, &url).await;
        }
        let mut under_way = Some(gateway.send_out(&http, began));
        if kill % 2 == 1 && kill % 4 != 3 {
            // All is acknowledged; the kill meets the jobs: look-up, send, what was to be written after it.
            gateway.hear(under_way.take().expect("just sent")).await;
        }
        tokio::time::sleep(Duration::from_millis([0, 1, 2, 4, 8, 15, 30, 60, 90, 120][kill % 10])).await;
        program.kill();
        if let Some(under_way) = under_way {
            gateway.hear(under_way).await;
        }
    }
    program.start();
    answers(&http, &url).await;
    finish(&hub, &mut gateway, &http, began, &payments).await;

    assert!(gateway.acknowledged.len() >= payments.len(), "{} acknowledged", gateway.acknowledged.len());
    assert!(gateway.unanswered > 0, "no kill met a call under way: this test showed nothing");
    let kept = kept_bodies(&hub, &merchant.id).await;
    for body in &gateway.acknowledged {
        assert!(kept.contains_key(body), "I4: an acknowledged delivery is missing");
    }
    for payment in &payments {
        check_payment(&hub, payment, &invoicing).await;
    }
    program.kill();
}

/// Lets the program work until every payment is completed and every invoice issued.
async fn finish(hub: &App, gateway: &mut Gateway, http: &reqwest::Client, began: Instant, payments: &[Payment]) {
    let patience = Instant::now();
    loop {
        let under_way = gateway.send_out(http, began);
        let carried = gateway.hear(under_way).await > 0;
        let mut open = 0;
        let mut tx = hub.store.read().await.expect("a reader");
        for p in payments {
            let issued = tx.invoice_of_payment(&p.merchant_id, &p.id).await.expect("an answer");
            open += usize::from(issued.is_none_or(|i| i.state.is_open() || i.pdf_sha256.is_none()));
        }
        if open == 0 && !carried {
            return;
        }
        assert!(patience.elapsed() < Duration::from_secs(150), "{open} payments did not come to an end");
        drop(tx);
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

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

async fn invoicing_at(hub: &App, merchant: &str, books: &str) -> Settings {
    let name = invoicer().facts().name;
    let given = invoicer().twin().expect("a twin").demo_settings(&format!("{books}/sandbox/{name}"));
    let mut tx = hub.store.begin().await.expect("a transaction");
    let account = add_account::add_invoicing_account(hub, &mut tx, merchant, name, &given, false).await;
    let account = account.expect("an account");
    tx.commit().await.expect("a commit");
    let known = serde_json::json!({"settings": given, "webhook_url": "http://127.0.0.1:1/"});
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

/// Waits until the program answers.
async fn answers(http: &reqwest::Client, url: &str) {
    let patience = Instant::now();
    while http.get(format!("{url}/readyz")).send().await.is_err() {
        assert!(patience.elapsed() < Duration::from_secs(30), "the program does not come up again");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}
