//! Endpoints of client apps, which live in the bench: they answer, check signatures and remember what they took.

use std::cell::{Cell, RefCell};
use std::collections::HashSet;
use std::rc::Rc;
use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

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

    /// Forgets what it saw, for another sender; it keeps its addresses and secrets.
    pub fn forget(&self) {
        let state = &self.state;
        state.taken.borrow_mut().clear();
        state.refused.set(0);
        state.first.set(None);
        state.last.set(None);
    }

    /// From the first message that was taken to the last.
    pub fn seconds(&self) -> f64 {
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
