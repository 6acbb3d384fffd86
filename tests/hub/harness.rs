//! A hub under test: real HTTP on a loopback port, a real database, a clock that stands still until it is moved, jobs
//! that run when the test says so.
#![allow(dead_code, reason = "each story uses its own part of the harness")]

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use grosz::app::{App, SharedApp};
use grosz::clock::Clock;
use grosz::config::{Config, Hidden};
use grosz::store::{ApiKey, Glance, Members, Merchant, Page, Payment, PaymentFilter, Store, StoreSettings, Tx};
use serde_json::Value;
use tokio::sync::watch;

use crate::cluster::cluster;

/// Which database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Engine {
    /// SQLite in a file of its own.
    Sqlite,
    /// A database of its own in the throw-away cluster.
    Postgres,
}

/// Declares a test that runs on both engines: `on_both!(name, async fn(engine) { … })` makes `name::sqlite` and
/// `name::postgres`; the second says so when it is left out.
#[macro_export]
macro_rules! on_both {
    ($(#[$meta:meta])* $name:ident, $story:expr) => {
        $(#[$meta])*
        mod $name {
            #[allow(unused_imports)]
            use super::*;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                ($story)($crate::harness::Engine::Sqlite).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                if $crate::cluster::cluster().is_none() {
                    return;
                }
                ($story)($crate::harness::Engine::Postgres).await;
            }
        }
    };
}

/// When every story begins.
pub const BEGIN: &str = "2026-11-21T20:00:00Z";

/// The key that every hub under test knows for its first merchant.
pub const KEY: &str = "sk_test_harness0000000000000000000000000000";

/// A store without a schema, its address, and the directory that it may need.
pub async fn empty_store(engine: Engine) -> (Store, String, TempDir) {
    let dir = TempDir::new();
    let url = match engine {
        Engine::Sqlite => format!("sqlite:{}", dir.path().join("hub.db").display()),
        Engine::Postgres => cluster().expect("a cluster").database(),
    };
    (Store::open(&url, &StoreSettings::default()).await.expect("a store"), url, dir)
}

/// A directory that is removed with its owner.
pub struct TempDir(PathBuf);

impl TempDir {
    /// A new, empty directory.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::SeqCst);
        let path = std::env::temp_dir().join(format!("grosz-test-{}-{n}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a temporary directory");
        TempDir(path)
    }

    /// Its path.
    pub fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A list shows a payment as it is. What a program that was killed had sent to PostgreSQL may still happen meanwhile; then
/// the version is another one afterwards, and all is looked at again.
pub async fn check_list(app: &App, payment: &Payment) {
    let (merchant, payer) = (&payment.merchant_id, payment.payer_id.clone());
    let mut tx = app.store.read().await.expect("a connection");
    let filter = PaymentFilter { payer: Some(payer), ..PaymentFilter::default() };
    let page = Page { before: None, limit: 10_000 };
    let mut version = None;
    loop {
        let listing = tx.listed_payments(merchant, &filter, &page).await.expect("a list");
        let attempts = tx.attempts(merchant, &payment.id).await.expect("a look");
        let now = tx.payment(merchant, &payment.id).await.expect("a look").expect("the payment");
        if version.replace(now.version) != Some(now.version) {
            continue;
        }
        let listed = listing.payments().expect("texts");
        let listed = listed.iter().find(|p| p.id == payment.id).expect("in the list");
        let is = serde_json::to_string(&Glance::of(&now, &attempts)).expect("JSON");
        assert_eq!(text_of(&listed.members), is);
        return assert_eq!((listed.status, listed.reason, listed.token), (now.status, now.reason, now.token.as_str()));
    }
}

/// What a list says of a payment, but for its link and its invoice.
pub fn text_of(members: &Members<'_>) -> String {
    let mut text = vec![b'{'];
    members.write(&mut text);
    text.push(b'}');
    String::from_utf8(text).expect("text")
}

/// A hub under test.
pub struct Hub {
    /// Its inside.
    pub app: SharedApp,
    /// Its address.
    pub url: String,
    /// Its first merchant.
    pub merchant: Merchant,
    /// Holds its database and its mails.
    pub dir: TempDir,
    client: reqwest::Client,
    stop: watch::Sender<bool>,
}

/// An answer, read to its end.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: u16,
    /// Headers.
    pub headers: reqwest::header::HeaderMap,
    /// Body.
    pub body: Vec<u8>,
}

impl Answer {
    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|e| panic!("not JSON ({e}): {}", self.text()))
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The answer, which must have this status.
    #[track_caller]
    pub fn expect(self, status: u16) -> Answer {
        assert_eq!(self.status, status, "{}", self.text());
        self
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).and_then(|v| v.to_str().ok())
    }
}

impl Hub {
    /// A hub with the settings of the tests.
    pub async fn start(engine: Engine) -> Hub {
        Hub::start_with(engine, |_| {}).await
    }

    /// A hub whose settings the story changes.
    pub async fn start_with(engine: Engine, change: impl FnOnce(&mut Config)) -> Hub {
        Hub::build(engine, change, |_| {}).await
    }

    /// A hub whose settings and ways out the story changes.
    pub async fn build(engine: Engine, change: impl FnOnce(&mut Config), fit: impl FnOnce(&mut App)) -> Hub {
        let dir = TempDir::new();
        let database_url = match engine {
            Engine::Sqlite => format!("sqlite:{}", dir.path().join("hub.db").display()),
            Engine::Postgres => cluster().expect("on_both! looked").database(),
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("its address"));
        let mail = dir.path().join("mail");
        std::fs::create_dir_all(&mail).expect("a directory for mails");
        let mut config = Config {
            database_url: Hidden(database_url),
            public_url: url.clone(),
            // Jobs run when the story says so.
            role: "web".into(),
            allow_insecure_targets: true,
            smtp_url: Hidden(format!("file://{}", mail.display())),
            fallback_email: "operator@hub.example".into(),
            invoice_jitter_percent: 0,
            // GROSZ_TEST_POOLER=1 runs every story the way it would run behind a pooler.
            db_pooler: std::env::var_os("GROSZ_TEST_POOLER").is_some(),
            ..Config::default()
        };
        change(&mut config);
        let clock = Clock::manual(BEGIN.parse().expect("a time"));
        let mut app = App::open(config, clock).await.expect("the hub opens");
        fit(&mut app);
        let app = Arc::new(app);
        let (stop, stopped) = watch::channel(false);
        tokio::spawn(grosz::run::run(Arc::clone(&app), Some(listener), stopped));
        let merchant = add_merchant(&app, "Kancelaria", KEY).await;
        Hub { app, url, merchant, dir, client: client(), stop }
    }

    /// Adds another merchant whose key is `key`.
    pub async fn other_merchant(&self, name: &str, key: &str) -> Merchant {
        add_merchant(&self.app, name, key).await
    }

    /// Moves the clock.
    pub fn advance(&self, seconds: u64) {
        self.app.clock.advance(Duration::from_secs(seconds));
    }

    /// Runs all jobs that are due, and those that become due by them; answers how many runs there were.
    pub async fn run_jobs(&self) -> usize {
        grosz::worker::run_due(&self.app).await.expect("jobs run")
    }

    /// A transaction on the hub's database.
    pub async fn tx(&self) -> Tx {
        self.app.store.begin().await.expect("a transaction")
    }

    /// GET with the first merchant's key.
    pub async fn get(&self, path: &str) -> Answer {
        self.call("GET", path, Some(KEY), None, &[]).await
    }

    /// POST of JSON with the first merchant's key.
    pub async fn post(&self, path: &str, body: Value) -> Answer {
        self.call("POST", path, Some(KEY), Some(body), &[]).await
    }

    /// PATCH of JSON with the first merchant's key.
    pub async fn patch(&self, path: &str, body: Value) -> Answer {
        self.call("PATCH", path, Some(KEY), Some(body), &[]).await
    }

    /// Any call.
    pub async fn call(
        &self,
        method: &str,
        path: &str,
        key: Option<&str>,
        body: Option<Value>,
        headers: &[(&str, &str)],
    ) -> Answer {
        let body = body.map(|b| b.to_string().into_bytes());
        let mut all: Vec<(&str, String)> = headers.iter().map(|(n, v)| (*n, (*v).to_owned())).collect();
        if body.is_some() && !headers.iter().any(|(n, _)| n.eq_ignore_ascii_case("content-type")) {
            all.push(("content-type", "application/json".into()));
        }
        if let Some(key) = key {
            all.push(("authorization", format!("Bearer {key}")));
        }
        self.raw(method, path, &all, body.unwrap_or_default()).await
    }

    /// A call with these very bytes; `path` may be a whole address.
    pub async fn raw(&self, method: &str, path: &str, headers: &[(&str, String)], body: Vec<u8>) -> Answer {
        let url = if path.starts_with("http") { path.to_owned() } else { format!("{}{path}", self.url) };
        let method = reqwest::Method::from_bytes(method.as_bytes()).expect("a method");
        let mut request = self.client.request(method, url).body(body);
        for (name, value) in headers {
            request = request.header(*name, value);
        }
        let answer = request.send().await.expect("the hub answers");
        let (status, headers) = (answer.status().as_u16(), answer.headers().clone());
        let body = answer.bytes().await.expect("a whole answer").to_vec();
        Answer { status, headers, body }
    }

    /// The mails sent so far, as texts, oldest first.
    pub fn mails(&self) -> Vec<String> {
        let mut files: Vec<PathBuf> = std::fs::read_dir(self.dir.path().join("mail"))
            .expect("the directory of mails")
            .flatten()
            .map(|f| f.path())
            .filter(|p| p.extension().is_some_and(|e| e == "eml"))
            .collect();
        files.sort();
        files.iter().map(|f| String::from_utf8_lossy(&std::fs::read(f).expect("a mail")).into_owned()).collect()
    }
}

impl Drop for Hub {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
    }
}

/// A client that follows no redirects and trusts nobody: it calls loopback only.
pub fn client() -> reqwest::Client {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("TLS versions")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    reqwest::Client::builder()
        // A kept connection may be closed by the hub in the moment in which it is used again.
        .pool_max_idle_per_host(0)
        .tls_backend_preconfigured(tls)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .timeout(Duration::from_secs(60))
        .build()
        .expect("a client")
}

/// Adds a merchant with a key.
pub async fn add_merchant(app: &App, name: &str, key: &str) -> Merchant {
    let merchant = Merchant {
        id: app.ids.make("mer"),
        name: name.into(),
        language: "pl".into(),
        fallback_email: Some("biuro@kancelaria.example".into()),
        return_origins: vec![],
        show_attachment: false,
        created_at: app.now(),
    };
    let api_key = ApiKey {
        merchant_id: merchant.id.clone(),
        id: app.ids.make("key"),
        name: "harness".into(),
        hint: key.chars().take(12).collect(),
        hash: grosz_providers::sign::sha256_hex(key.as_bytes()),
        live: false,
        scopes: vec!["read".into(), "write".into()],
        created_at: app.now(),
        revoked_at: None,
    };
    let mut tx = app.store.begin().await.expect("a transaction");
    tx.add_merchant(&merchant).await.expect("a merchant");
    tx.add_api_key(&api_key).await.expect("a key");
    tx.commit().await.expect("a commit");
    merchant
}
