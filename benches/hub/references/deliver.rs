//! Messages of the queue go out: a worker claims a batch, signs and sends each message over connections of its own that
//! are kept, and ends the batch.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hmac;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::queue::{BATCH, Job, Queue};
use crate::load::{exchange, request};

/// Workers: together they claim 1,024 messages at the same time, as one hub does by default.
const WORKERS: usize = 4;
/// Connections of a worker to each endpoint: of all workers 32, the calls that a hub makes to an endpoint by default.
const CONNECTIONS: usize = 8;

/// Address and secret of each endpoint.
pub type Endpoints = Vec<(SocketAddr, String)>;

/// Sends everything that is due; answers how many were taken.
pub async fn drain(queue: &Queue, endpoints: Endpoints) -> Result<u64, sqlx::Error> {
    let mut workers = JoinSet::new();
    let endpoints = Arc::new(endpoints);
    for _ in 0..WORKERS {
        workers.spawn(work(queue.clone(), Arc::clone(&endpoints)));
    }
    let mut taken = 0;
    while let Some(worker) = workers.join_next().await {
        taken += worker.expect("it ends")?;
    }
    Ok(taken)
}

async fn work(queue: Queue, endpoints: Arc<Endpoints>) -> Result<u64, sqlx::Error> {
    // Line n goes to endpoint n % endpoints.
    let mut lines: Vec<Line> =
        (0..CONNECTIONS).flat_map(|_| endpoints.iter().map(|(address, secret)| Line::new(*address, secret))).collect();
    let mut taken = 0;
    loop {
        let jobs = queue.claim(BATCH).await?;
        if jobs.is_empty() {
            return Ok(taken);
        }
        for (n, job) in jobs.into_iter().enumerate() {
            let endpoint: usize = job.subject.parse().expect("the number of an endpoint");
            let line = endpoint + (n / endpoints.len()) % CONNECTIONS * endpoints.len();
            lines[line].waiting.push(job);
        }
        let calls: Vec<_> = lines.drain(..).map(|line| tokio::spawn(line.tell())).collect();
        let mut told = Vec::with_capacity(BATCH);
        for call in calls {
            let (line, jobs) = call.await.expect("it ends");
            lines.push(line);
            told.extend(jobs);
        }
        taken += queue.finish(&told).await?;
    }
}

/// A kept connection, and who waits for it.
struct Line {
    to: SocketAddr,
    key: hmac::Key,
    stream: Option<TcpStream>,
    seen: Vec<u8>,
    waiting: Vec<Job>,
}

impl Line {
    fn new(to: SocketAddr, secret: &str) -> Line {
        let key = STANDARD.decode(secret.trim_start_matches("whsec_")).expect("a secret of the hub");
        let key = hmac::Key::new(hmac::HMAC_SHA256, &key);
        Line { to, key, stream: None, seen: vec![0; 1024], waiting: vec![] }
    }

    /// Tells whoever waits, one after another; answers with the jobs that were taken. The others' leases will lapse.
    async fn tell(mut self) -> (Line, Vec<Job>) {
        let mut taken = vec![];
        for job in std::mem::take(&mut self.waiting) {
            let bytes = signed(&self.key, &job);
            match exchange(&mut self.stream, self.to, &bytes, &mut self.seen).await {
                Ok((200..300, _)) => taken.push(job),
                Ok(_) => {}
                Err(_) => self.stream = None,
            }
        }
        (self, taken)
    }
}

/// The call of one message, as Standard Webhooks asks for it.
fn signed(key: &hmac::Key, job: &Job) -> Vec<u8> {
    let now_s = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs().to_string();
    let mut mac = hmac::Context::with_key(key);
    for part in [job.id.as_str(), ".", &now_s, ".", &job.body] {
        mac.update(part.as_bytes());
    }
    let signature = format!("v1,{}", STANDARD.encode(mac.sign()));
    let headers = [
        ("Content-Type", "application/json"),
        ("webhook-id", &job.id),
        ("webhook-timestamp", &now_s),
        ("webhook-signature", &signature),
    ];
    request("POST", "/hook", &headers, job.body.as_bytes())
}
