//! The limit that the hub is compared with: the same work with the least code around the storage, in a process of its
//! own (this executable runs itself with `--reference`). Also the tables they use and the rows they need.
//!
//! | path | what |
//! |---|---|
//! | `/bare` | an axum handler that answers |
//! | `/each` | a webhook: verified, deduplicated, payment moved, transition and job written, one commit for each |
//! | `/grouped` | the same; calls that wait share one commit |
//! | `/payments` | a payment made: key, idempotency, insert, one commit for each |
//! | `/list` | one payer's newest twenty payments |
//! | `/deliver` | the messages of a queue, signed and sent, 256 to a claim and to a commit |

mod deliver;
mod group;
mod postgres;
pub mod queue;
mod sqlite;

use std::fmt::Write;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use axum::body::Bytes;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get, post};
use axum::serve::ListenerExt;
use ring::{digest, hmac};
use serde::Deserialize;
use sqlx::{ColumnIndex, Decode, Row, Type};
use subtle::ConstantTimeEq;
use ulid::Ulid;

use crate::child::{Child, SlowFlush, Start, free_port};
use crate::cluster::Db;
use crate::load::call;
use crate::seed::Batch;
use crate::signing::{AMOUNT_MINOR, STRIPE_SECRET};
use group::Group;
use queue::Queue;

/// A webhook that was verified.
struct Webhook {
    key: String,
    reference: String,
    amount: i64,
    body: Bytes,
    /// For the rows that are written: event, transition and job.
    id: String,
}

/// A payment to be made.
struct NewPayment {
    key_hash: String,
    idempotency_key: String,
    fingerprint: String,
    payer: String,
    amount: i64,
    currency: String,
    description: String,
    id: String,
    answer: String,
}

/// A row of the list.
struct Listed {
    id: String,
    status: String,
    amount: i64,
    currency: String,
    description: String,
    reference: String,
    token: String,
    created_at: i64,
    completed_at: Option<i64>,
}

impl<'r, R: Row> sqlx::FromRow<'r, R> for Listed
where
    usize: ColumnIndex<R>,
    String: Decode<'r, R::Database> + Type<R::Database>,
    i64: Decode<'r, R::Database> + Type<R::Database>,
{
    fn from_row(row: &'r R) -> Result<Self, sqlx::Error> {
        Ok(Listed {
            id: row.try_get(0)?,
            status: row.try_get(1)?,
            amount: row.try_get(2)?,
            currency: row.try_get(3)?,
            description: row.try_get(4)?,
            reference: row.try_get(5)?,
            token: row.try_get(6)?,
            created_at: row.try_get(7)?,
            completed_at: row.try_get(8)?,
        })
    }
}

/// Either engine.
#[derive(Clone)]
enum Store {
    Sqlite(sqlite::Sqlite),
    Postgres(postgres::Postgres),
}

#[derive(Clone)]
struct Reference {
    store: Store,
    group: Group,
    queue: Queue,
}

const TABLES: &str = "
CREATE TABLE api_keys (hash TEXT PRIMARY KEY, merchant_id TEXT NOT NULL, revoked_at BIGINT);
CREATE TABLE payments (id TEXT PRIMARY KEY, merchant_id TEXT NOT NULL, payer_id TEXT NOT NULL, reference TEXT NOT NULL UNIQUE,
    amount BIGINT NOT NULL, currency TEXT NOT NULL, description TEXT NOT NULL, token TEXT NOT NULL, status TEXT NOT NULL,
    version BIGINT NOT NULL, created_at BIGINT NOT NULL, updated_at BIGINT NOT NULL, completed_at BIGINT);
CREATE INDEX payments_by_payer ON payments (payer_id, id DESC);
CREATE TABLE events (provider TEXT NOT NULL, event_key TEXT NOT NULL, id TEXT NOT NULL, reference TEXT NOT NULL,
    amount BIGINT NOT NULL, body {blob} NOT NULL, received_at BIGINT NOT NULL, UNIQUE (provider, event_key));
CREATE TABLE transitions (id TEXT PRIMARY KEY, payment_id TEXT NOT NULL, from_status TEXT NOT NULL, to_status TEXT NOT NULL,
    event_id TEXT NOT NULL, at BIGINT NOT NULL);
CREATE INDEX transitions_by_payment ON transitions (payment_id, id);
CREATE TABLE jobs (id TEXT PRIMARY KEY, kind TEXT NOT NULL, subject TEXT NOT NULL, state TEXT NOT NULL, run_at BIGINT NOT NULL);
CREATE INDEX jobs_due ON jobs (run_at, id) WHERE state = 'ready';
CREATE TABLE idempotency_keys (merchant_id TEXT NOT NULL, idempotency_key TEXT NOT NULL, fingerprint TEXT NOT NULL,
    status BIGINT NOT NULL, body TEXT NOT NULL, created_at BIGINT NOT NULL, PRIMARY KEY (merchant_id, idempotency_key));
";

/// The key of the reference's API.
pub const KEY: &str = "sk_test_reference";

/// Makes the tables.
pub async fn make_tables(db: &mut Db) {
    let tables = TABLES.replace("{blob}", db.pick("BLOB", "BYTEA"));
    let hash = hash(KEY);
    db.run(&format!("{tables} INSERT INTO api_keys (hash, merchant_id) VALUES ('{hash}', 'mer_reference');")).await;
    queue::make_table(db).await;
}

/// Adds payments that wait for their money, `for_each` of them for each payer.
pub async fn seed(db: &mut Db, batch: &Batch, for_each: u64) {
    let (series, name) = numbered(db, batch);
    let token = db.pick("lower(hex(randomblob(16)))", "replace(gen_random_uuid()::text, '-', '')");
    let sql = format!(
        "{series} INSERT INTO payments (id, merchant_id, payer_id, reference, amount, currency, description, token, status, version,
             created_at, updated_at) SELECT 'pay_' || {name}, 'mer_reference', 'pyr_' || (n / {for_each}), {name}, {AMOUNT_MINOR}, 'PLN',
             'Konsultacja prawna', {token}, 'started', 1, 1790000000000000 + n, 1790000000000000 + n FROM s"
    );
    db.run(&sql).await;
}

/// A batch in SQL: its numbers as `s(n)`, and the name of each.
fn numbered(db: &Db, batch: &Batch) -> (String, String) {
    let (from, to) = (batch.first, batch.first + batch.count - 1);
    let series = db.pick(
        "WITH RECURSIVE s(n) AS (SELECT {from} UNION ALL SELECT n + 1 FROM s WHERE n < {to})",
        "WITH s(n) AS (SELECT generate_series({from}::bigint, {to}))",
    );
    let name = db.pick("'{stamp}' || printf('%016X', n)", "'{stamp}' || upper(lpad(to_hex(n), 16, '0'))");
    let series = series.replace("{from}", &from.to_string()).replace("{to}", &to.to_string());
    (series, name.replace("{stamp}", &batch.name(0)[..10]))
}

/// Starts it in a process of its own.
pub async fn start(database: &str, committers: usize, room: &Path, slow: Option<&SlowFlush>) -> (Child, SocketAddr) {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let me = std::env::current_exe().expect("our own path").display().to_string();
    let arguments =
        ["--reference", database, "--listen", &address.to_string(), "--committers", &committers.to_string()];
    let command: Vec<String> = std::iter::once(me).chain(arguments.map(str::to_owned)).collect();
    let log = room.join("reference.log");
    let child = Child::start(Start { command: &command, env: &[], slow, log, signal: "KILL" });
    let began = Instant::now();
    while !matches!(call(address, "GET", "/bare", &[], b"").await, Ok((200, _))) {
        assert!(child.lives(), "the reference did not start:\n{}", child.last_words());
        assert!(began.elapsed() < Duration::from_secs(30), "the reference is not ready");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    (child, address)
}

/// The child's side: serves until it is killed.
pub fn serve(database: &str, listen: SocketAddr, committers: usize) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let store = if database.starts_with("postgres") {
            Store::Postgres(postgres::Postgres::open(database).await)
        } else {
            Store::Sqlite(sqlite::Sqlite::open(database).await)
        };
        let group = Group::start(&store, committers).await;
        let queue = Queue::open(database).await;
        let router = axum::Router::new()
            .route("/bare", any(|_: Bytes| async { "{\"received\":true}" }))
            .route("/each", post(each))
            .route("/grouped", post(grouped))
            .route("/payments", post(make))
            .route("/list", get(list))
            .route("/deliver", post(deliver))
            .with_state(Reference { store, group, queue });
        let listener = tokio::net::TcpListener::bind(listen).await.expect("the port");
        let listener = listener.tap_io(|stream| drop(stream.set_nodelay(true)));
        axum::serve(listener, router).await.expect("it serves");
    });
}

async fn each(State(reference): State<Reference>, headers: HeaderMap, body: Bytes) -> Response {
    let Some(webhook) = read(&headers, body) else { return StatusCode::BAD_REQUEST.into_response() };
    let done = match &reference.store {
        Store::Sqlite(store) => store.take_one(webhook).await,
        Store::Postgres(store) => store.take_one(webhook).await,
    };
    match done {
        Ok(()) => "{\"received\":true}".into_response(),
        Err(error) => failed(&error),
    }
}

async fn grouped(State(reference): State<Reference>, headers: HeaderMap, body: Bytes) -> Response {
    let Some(webhook) = read(&headers, body) else { return StatusCode::BAD_REQUEST.into_response() };
    match reference.group.take(webhook).await {
        true => "{\"received\":true}".into_response(),
        false => StatusCode::SERVICE_UNAVAILABLE.into_response(),
    }
}

#[derive(Deserialize)]
struct Event<'a> {
    id: &'a str,
    #[serde(borrow)]
    data: Data<'a>,
}

#[derive(Deserialize)]
struct Data<'a> {
    #[serde(borrow)]
    object: Object<'a>,
}

#[derive(Deserialize)]
struct Object<'a> {
    amount_received: Option<i64>,
    amount_total: Option<i64>,
    currency: &'a str,
    #[serde(borrow)]
    metadata: Metadata<'a>,
}

#[derive(Deserialize)]
struct Metadata<'a> {
    hub_payment: &'a str,
}

/// Verifies over the raw bytes, then takes out what is needed without building a tree.
fn read(headers: &HeaderMap, body: Bytes) -> Option<Webhook> {
    let signature = headers.get("stripe-signature")?.to_str().ok()?;
    let (time, given) = signature.strip_prefix("t=")?.split_once(",v1=")?;
    let mut mac = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, STRIPE_SECRET.as_bytes()));
    mac.update(time.as_bytes());
    mac.update(b".");
    mac.update(&body);
    let mut bytes = [0; 32];
    hex::decode_to_slice(given, &mut bytes).ok()?;
    if !bool::from(mac.sign().as_ref().ct_eq(&bytes)) {
        return None;
    }
    let event: Event<'_> = serde_json::from_slice(&body).ok()?;
    let object = &event.data.object;
    let amount = object.amount_received.or(object.amount_total).filter(|_| object.currency == "pln")?;
    let (key, reference) = (event.id.to_owned(), object.metadata.hub_payment.to_owned());
    Some(Webhook { key, reference, amount, body, id: fresh_id() })
}

#[derive(Deserialize)]
struct Order<'a> {
    amount: i64,
    currency: &'a str,
    description: &'a str,
    payer: &'a str,
}

async fn make(State(reference): State<Reference>, headers: HeaderMap, body: Bytes) -> Response {
    let text = |name: &str| headers.get(name).and_then(|v| v.to_str().ok());
    let (Some(key), Some(idempotency_key)) = (text("authorization"), text("idempotency-key")) else {
        return StatusCode::UNAUTHORIZED.into_response();
    };
    let Ok(order) = serde_json::from_slice::<Order<'_>>(&body) else { return StatusCode::BAD_REQUEST.into_response() };
    let id = fresh_id();
    let answer = format!(
        "{{\"id\":\"pay_{id}\",\"status\":\"started\",\"amount\":{},\"currency\":\"{}\",\"description\":\"{}\",\"payer\":\"{}\"}}",
        order.amount, order.currency, order.description, order.payer
    );
    let new = NewPayment {
        key_hash: hash(key.trim_start_matches("Bearer ")),
        idempotency_key: idempotency_key.to_owned(),
        fingerprint: hash(&body),
        payer: order.payer.to_owned(),
        amount: order.amount,
        currency: order.currency.to_owned(),
        description: order.description.to_owned(),
        id,
        answer,
    };
    let made = match &reference.store {
        Store::Sqlite(store) => store.make(&new).await,
        Store::Postgres(store) => store.make(&new).await,
    };
    match made {
        Ok(1) => (StatusCode::CREATED, [(header::CONTENT_TYPE, "application/json")], new.answer).into_response(),
        Ok(_) => StatusCode::CONFLICT.into_response(),
        Err(error) => failed(&error),
    }
}

async fn list(State(reference): State<Reference>, RawQuery(query): RawQuery) -> Response {
    let query = query.unwrap_or_default();
    let Some(payer) = query.strip_prefix("payer=") else { return StatusCode::BAD_REQUEST.into_response() };
    let rows = match &reference.store {
        Store::Sqlite(store) => store.list(payer).await,
        Store::Postgres(store) => store.list(payer).await,
    };
    match rows {
        Ok(rows) => ([(header::CONTENT_TYPE, "application/json")], written(&rows)).into_response(),
        Err(error) => failed(&error),
    }
}

async fn deliver(State(reference): State<Reference>, body: Bytes) -> Response {
    let Ok(endpoints) = serde_json::from_slice(&body) else { return StatusCode::BAD_REQUEST.into_response() };
    match deliver::drain(&reference.queue, endpoints).await {
        Ok(taken) => taken.to_string().into_response(),
        Err(error) => failed(&error),
    }
}

/// Straight into the buffer; nothing here needs escaping.
fn written(rows: &[Listed]) -> String {
    let mut json = String::with_capacity(64 + rows.len() * 400);
    json.push_str("{\"data\":[");
    for (n, r) in rows.iter().enumerate() {
        let comma = if n == 0 { "" } else { "," };
        let _ = write!(
            json,
            "{comma}{{\"id\":\"{}\",\"status\":\"{}\",\"amount\":{},\"currency\":\"{}\",\"description\":\"{}\",\"reference\":\"{}\",\
             \"checkout_url\":\"http://127.0.0.1/pay/{}\",\"created_at\":{},\"completed_at\":{}}}",
            r.id,
            r.status,
            r.amount,
            r.currency,
            r.description,
            r.reference,
            r.token,
            r.created_at,
            r.completed_at.unwrap_or(0)
        );
    }
    json.push_str("]}");
    json
}

fn failed(error: &sqlx::Error) -> Response {
    eprintln!("{error}");
    StatusCode::SERVICE_UNAVAILABLE.into_response()
}

fn hash(bytes: impl AsRef<[u8]>) -> String {
    hex::encode(digest::digest(&digest::SHA256, bytes.as_ref()))
}

fn now_us() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970");
    i64::try_from(now.as_micros()).unwrap_or(0)
}

/// A ULID that rises: the time and a counter.
fn fresh_id() -> String {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let n = COUNTER.fetch_add(1, Ordering::Relaxed);
    Ulid::from_parts(u64::try_from(now_us() / 1000).unwrap_or(0), n.into()).to_string()
}
