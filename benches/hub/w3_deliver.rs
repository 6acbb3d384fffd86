//! W3: signed messages go out to client apps' endpoints, which live in the bench.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use serde_json::json;
use sha2::Sha256;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::program::Usage;
use crate::report::{Figure, Floor};
use crate::seed::copy;
use crate::stage::Stage;

const ENDPOINTS: usize = 8;
/// A drain that takes longer is cut off, and what is left counts as lost.
const PATIENCE: Duration = Duration::from_secs(60);

/// Drains a full queue, first into endpoints that always take it, then into some that refuse one in twenty.
pub async fn run(stage: &mut Stage<'_>) {
    let count = stage.options.messages.unwrap_or(if stage.options.quick { 4_000 } else { 40_000 });
    for (fail_percent, what) in [(0, "hub, deliveries"), (5, "hub, deliveries, 5 % answered 500")] {
        let sink = Sink::open(ENDPOINTS, fail_percent).await;
        let (figure, lost) = drain(stage, &sink, count).await;
        let rate = figure.rate;
        stage.figure("W3", what, figure);
        match fail_percent {
            0 => stage.judge("W3 deliveries drained, per second", rate, Floor::Least(14_000.0)),
            _ => stage.judge("W3 lost with 5 % answered 500", lost as f64, Floor::Most(0.0)),
        }
    }
}

/// Queues messages while outside calls are held, then lets the hub go.
async fn drain(stage: &mut Stage<'_>, sink: &Sink, count: u64) -> (Figure, u64) {
    let held = stage.hub.start(&[("HOLD", "true")]).await;
    let mut endpoints = vec![];
    for url in &sink.urls {
        let made =
            stage.hub.post(&held, "/v1/webhook-endpoints", &json!({"url": url, "types": ["payment.started"]})).await;
        endpoints.push(made["id"].as_str().expect("an id").to_owned());
        sink.state.secrets.borrow_mut().push(made["secret"].as_str().expect("a secret").to_owned());
    }
    let payment = stage.hub.payment(&held, &stage.hub.accounts[0]).await;
    drop(held);
    let merchant = stage.hub.merchant.clone();
    let batch = stage.seeder.reserve(count / ENDPOINTS as u64);
    let of_merchant = format!("t.merchant_id = '{merchant}'");
    let message = format!("(SELECT id FROM messages WHERE merchant_id = '{merchant}' AND subject = '{payment}')");
    let itself = format!("{of_merchant} AND t.subject = '{payment}'");
    // Each endpoint's rows get numbers of their own.
    let mut total = ENDPOINTS as u64;
    let messages = batch.clone();
    for endpoint in &endpoints {
        let batch = stage.seeder.reserve(messages.count);
        let to = messages.clone();
        let number = format!("({} + s.n - {})", to.first, batch.first);
        let digits = stage.db.pick("printf('%016X', {n})", "upper(lpad(to_hex({n}), 16, '0'))").replace("{n}", &number);
        let message_id = format!("'msg_{}' || {digits}", &to.name(0)[..10]);
        let telling = format!("{of_merchant} AND t.endpoint_id = '{endpoint}' AND t.message_id = {message}");
        let job = format!("{of_merchant} AND t.subject = (SELECT t.id FROM tellings t WHERE {telling})");
        copy(&mut stage.db, &batch, "tellings", &telling, &[("id", "{tel}"), ("message_id", &message_id)]).await;
        copy(&mut stage.db, &batch, "jobs", &job, &[("id", "{job}"), ("subject", "{tel}")]).await;
        total += batch.count;
    }
    copy(&mut stage.db, &messages, "messages", &itself, &[("id", "{msg}")]).await;
    stage.db.settle().await;

    let process = stage.hub.start(&[]).await;
    let target = stage.target(&process);
    let before = Usage::of(target.pid, target.database);
    let began = Instant::now();
    while (sink.state.taken.borrow().len() as u64) < total && began.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let after = Usage::of(target.pid, target.database);
    let taken = sink.state.taken.borrow().len() as u64;
    let pending = format!("SELECT COUNT(*) FROM tellings t WHERE {of_merchant} AND t.state <> 'delivered'");
    while taken == total && stage.db.number(&pending).await > 0 && began.elapsed() < PATIENCE {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let seconds = sink.seconds();
    let unrecorded = stage.db.number(&pending).await;
    for endpoint in &endpoints {
        stage.db.run(&format!("UPDATE endpoints SET state = 'disabled' WHERE id = '{endpoint}'")).await;
        stage
            .db
            .run(&format!(
                "UPDATE tellings SET state = 'failed' WHERE endpoint_id = '{endpoint}' AND state = 'pending'"
            ))
            .await;
    }
    let each = |a: u64, b: u64| a.saturating_sub(b) as f64 / taken.max(1) as f64;
    let figure = Figure {
        program_us: each(after.program_us, before.program_us),
        database_us: each(after.database_us, before.database_us),
        resident_mib: after.resident_kib as f64 / 1024.0,
        note: format!("{taken} of {total} taken, {} refused, {unrecorded} not recorded", sink.state.refused.get()),
        ..Figure::rate(taken as f64 / seconds)
    };
    assert_eq!(sink.state.forged.get(), 0, "a message was not signed rightly");
    (figure, total - taken)
}

/// Endpoints of client apps.
pub struct Sink {
    /// Their addresses.
    pub urls: Vec<String>,
    /// What they saw.
    pub state: Rc<State>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

/// What the endpoints saw.
#[derive(Default)]
pub struct State {
    /// Endpoint and id of each message that was answered 200.
    pub taken: RefCell<HashSet<(usize, String)>>,
    /// Answered 500.
    pub refused: Cell<u64>,
    /// With a wrong signature, among those that were looked at.
    pub forged: Cell<u64>,
    /// The endpoints' secrets.
    pub secrets: RefCell<Vec<String>>,
    /// Rung at each message.
    pub bell: Notify,
    calls: Cell<u64>,
    first: Cell<Option<Instant>>,
    last: Cell<Option<Instant>>,
    fail_percent: u64,
}

/// One signature in so many is checked: the bench must not eat the processor.
const CHECKED: u64 = 50;

impl Sink {
    /// Opens `count` endpoints.
    pub async fn open(count: usize, fail_percent: u64) -> Sink {
        let state = Rc::new(State { fail_percent, ..State::default() });
        let (mut urls, mut tasks) = (vec![], vec![]);
        for n in 0..count {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
            urls.push(format!("http://{}/hook", listener.local_addr().expect("its address")));
            let state = Rc::clone(&state);
            tasks.push(tokio::task::spawn_local(async move {
                while let Ok((stream, _)) = listener.accept().await {
                    tokio::task::spawn_local(receive(stream, n, Rc::clone(&state)));
                }
            }));
        }
        Sink { urls, state, tasks }
    }

    /// From the first message that was taken to the last.
    fn seconds(&self) -> f64 {
        match (self.state.first.get(), self.state.last.get()) {
            (Some(first), Some(last)) => (last - first).as_secs_f64().max(1e-3),
            _ => f64::INFINITY,
        }
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
    }
}

async fn receive(mut stream: TcpStream, endpoint: usize, state: Rc<State>) {
    let mut seen = Vec::with_capacity(16 * 1024);
    let _ = stream.set_nodelay(true);
    while stream.read_buf(&mut seen).await.is_ok_and(|got| got > 0) {
        while let Some((head, end)) = whole(&seen) {
            let answer = state.take(endpoint, &seen[..head], &seen[head..end]);
            if stream.write_all(answer.as_bytes()).await.is_err() {
                return;
            }
            seen.drain(..end);
        }
    }
}

/// Where head and body of the first request end, once it is whole.
fn whole(seen: &[u8]) -> Option<(usize, usize)> {
    let head = seen.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let length: usize = header(&seen[..head], "content-length").and_then(|v| v.parse().ok()).unwrap_or(0);
    (seen.len() >= head + length).then_some((head, head + length))
}

fn header<'a>(head: &'a [u8], name: &str) -> Option<&'a str> {
    std::str::from_utf8(head).ok()?.lines().find_map(|line| {
        let (n, value) = line.split_once(':')?;
        n.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

impl State {
    fn take(&self, endpoint: usize, head: &[u8], body: &[u8]) -> &'static str {
        let calls = self.calls.get() + 1;
        self.calls.set(calls);
        let id = header(head, "webhook-id").unwrap_or_default();
        if calls % CHECKED == 1 && self.secrets.borrow().get(endpoint).is_some_and(|s| !is_signed(s, id, head, body)) {
            self.forged.set(self.forged.get() + 1);
        }
        if calls * self.fail_percent % 100 < self.fail_percent {
            self.refused.set(self.refused.get() + 1);
            return "HTTP/1.1 500 Internal Server Error\r\nContent-Length: 0\r\n\r\n";
        }
        self.taken.borrow_mut().insert((endpoint, id.to_owned()));
        self.first.set(self.first.get().or(Some(Instant::now())));
        self.last.set(Some(Instant::now()));
        self.bell.notify_one();
        "HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
    }
}

/// Standard Webhooks: base64 of HMAC-SHA256 over id, time and body, with the decoded secret.
fn is_signed(secret: &str, id: &str, head: &[u8], body: &[u8]) -> bool {
    let Ok(key) = STANDARD.decode(secret.trim_start_matches("whsec_")) else { return false };
    let time = header(head, "webhook-timestamp").unwrap_or_default();
    let given = header(head, "webhook-signature").unwrap_or_default();
    let mut mac = Hmac::<Sha256>::new_from_slice(&key).expect("any length");
    mac.update(format!("{id}.{time}.").as_bytes());
    mac.update(body);
    let wanted = format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()));
    given.split(' ').any(|one| one == wanted)
}
