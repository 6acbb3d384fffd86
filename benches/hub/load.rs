//! The load generator: raw HTTP/1.1 over kept connections, on one thread, so that the servers keep the processor.
//!
//! Two ways to load. *Saturate*: every connection sends as soon as it was answered. *At a rate* (open loop): request n
//! is due at a fixed instant whether or not earlier ones were answered, and its latency counts from that instant, so a
//! server that stalls cannot hide it.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::{Duration, Instant};

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::net::unix::pipe::Receiver;
use tokio::sync::Semaphore;

/// Requests that become due sooner after each other are sent together.
const SHORTEST_NAP: Duration = Duration::from_micros(150);

/// What is sent: prepared before the clock runs.
pub trait Requests {
    /// How many there are.
    fn count(&self) -> u64;
    /// Writes request `n`, head and body.
    fn write(&self, n: u64, into: &mut Vec<u8>);
}

/// Requests without end that a function writes.
pub struct Written<F>(pub F);

impl<F: Fn(u64, &mut Vec<u8>)> Requests for Written<F> {
    fn count(&self) -> u64 {
        u64::MAX
    }

    fn write(&self, n: u64, into: &mut Vec<u8>) {
        (self.0)(n, into);
    }
}

/// How requests are paced.
#[derive(Debug, Clone, Copy)]
pub enum Pace {
    /// As fast as answers come.
    Saturate,
    /// So many a second, come what may.
    Rate(f64),
}

/// A run.
pub struct Load {
    /// Where to.
    pub to: SocketAddr,
    /// Kept connections.
    pub connections: usize,
    /// How requests are paced.
    pub pace: Pace,
    /// Not measured: connections open, caches fill.
    pub warm_up: Duration,
    /// Measured.
    pub time: Duration,
}

/// What came back.
#[derive(Debug, Default)]
pub struct Outcome {
    /// Measured seconds.
    pub seconds: f64,
    /// Answers within the measured time, by status.
    pub statuses: BTreeMap<u16, u64>,
    /// Requests whose connection broke or that were not answered within half a minute, in the whole run.
    pub broken: u64,
    /// Due in the measured time and not sent in it, because every connection was busy.
    pub unsent: u64,
    /// Of the answers, in microseconds from the instant they were due (saturated: sent); sorted.
    pub latencies: Vec<u32>,
    /// The slowest answer of the whole run from its sending, in microseconds.
    pub slowest: u32,
    /// When it came, since the beginning of the run, in microseconds.
    pub slowest_at: u32,
    /// Answers of the whole run that came later than a second after the sending.
    pub late: u64,
    /// Requests that were answered 2xx in the whole run, warm-up included.
    pub accepted: Vec<u64>,
}

impl Outcome {
    /// Answers of 2xx a second.
    pub fn rate(&self) -> f64 {
        let good: u64 = self.statuses.range(200..300).map(|(_, n)| n).sum();
        good as f64 / self.seconds.max(1e-9)
    }

    /// The slowest answer in words.
    pub fn tail(&self) -> String {
        let [took, at] = [self.slowest, self.slowest_at].map(|us| f64::from(us) / 1000.0);
        format!("slowest answer {took:.0} ms, {at:.0} ms after the beginning; {} took over a second", self.late)
    }

    /// All answers.
    pub fn answers(&self) -> u64 {
        self.statuses.values().sum()
    }

    /// A quantile in milliseconds.
    pub fn quantile_ms(&self, q: f64) -> f64 {
        let last = self.latencies.len().saturating_sub(1);
        let at = ((self.latencies.len() as f64 * q).ceil() as usize).saturating_sub(1).min(last);
        self.latencies.get(at).map_or(f64::NAN, |us| f64::from(*us) / 1000.0)
    }
}

struct Shared {
    load: Load,
    requests: Box<dyn Requests>,
    began: Instant,
    next: Cell<u64>,
    busy: Cell<u64>,
    turns: Semaphore,
    outcome: RefCell<Outcome>,
}

impl Load {
    /// Runs it. Call on a current-thread runtime inside a `LocalSet`. `mark` is called when the measured time begins
    /// and when it ends.
    pub async fn run(self, requests: Box<dyn Requests>, mut mark: impl FnMut()) -> Outcome {
        let (warm_up, pace) = (self.warm_up, self.pace);
        let (began, end, most) = (Instant::now(), Instant::now() + warm_up + self.time, self.connections);
        let (next, busy) = (Cell::new(0), Cell::new(0));
        let turns = Semaphore::new(0);
        let shared = Rc::new(Shared { load: self, requests, began, next, busy, turns, outcome: RefCell::default() });
        let connections: Vec<_> = (0..most).map(|_| tokio::task::spawn_local(connection(Rc::clone(&shared)))).collect();
        let pacer = match pace {
            Pace::Saturate => None,
            Pace::Rate(rate) => Some(tokio::task::spawn_local(give_turns(Rc::clone(&shared), rate))),
        };
        tokio::time::sleep_until((began + warm_up).into()).await;
        mark();
        let measured = Instant::now();
        // Ends early when there is nothing left to send.
        while Instant::now() < end && shared.next.get() < shared.requests.count() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let seconds = measured.elapsed().as_secs_f64();
        mark();
        let sent = shared.next.get();
        shared.turns.close();
        let patience = Instant::now() + Duration::from_secs(30);
        for connection in connections {
            if tokio::time::timeout_at(patience.into(), connection).await.is_err() {
                break;
            }
        }
        if let Some(pacer) = pacer {
            pacer.abort();
        }
        let mut outcome = shared.outcome.take();
        outcome.seconds = seconds;
        outcome.broken += shared.busy.get();
        if let Pace::Rate(rate) = pace {
            outcome.unsent = (measured.duration_since(began).as_secs_f64() * rate + seconds * rate) as u64;
            outcome.unsent = outcome.unsent.saturating_sub(sent);
        }
        outcome.latencies.sort_unstable();
        outcome
    }
}

/// Hands out one turn for each request that has become due.
async fn give_turns(shared: Rc<Shared>, rate: f64) {
    let mut timer = ticks(Duration::from_secs_f64(1.0 / rate).max(SHORTEST_NAP)).expect("a timer of the system");
    let mut given = 0;
    loop {
        // The first is due at once.
        let due = (shared.began.elapsed().as_secs_f64() * rate) as usize + 1;
        shared.turns.add_permits(due - given);
        given = due;
        timer.read_exact(&mut [0; 8]).await.expect("the timer can be waited for");
    }
}

/// A timer of the system, because the runtime's counts in milliseconds. On the generator's own thread: to wake another
/// one for each request takes a virtual machine as much processor time as a small server needs to answer it.
///
/// It is read as a pipe is: eight bytes, once there was a tick.
fn ticks(every: Duration) -> std::io::Result<Receiver> {
    let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
    let every = Timespec::try_from(every).map_err(std::io::Error::other)?;
    timerfd_settime(&timer, TimerfdTimerFlags::empty(), &Itimerspec { it_interval: every, it_value: every })?;
    Receiver::from_owned_fd_unchecked(timer)
}

async fn connection(shared: Rc<Shared>) {
    let (mut out, mut seen) = (Vec::with_capacity(8192), vec![0; 64 * 1024]);
    let mut stream = None;
    loop {
        if let Pace::Rate(_) = shared.load.pace {
            // Closed when the time is over.
            let Ok(turn) = shared.turns.acquire().await else { return };
            turn.forget();
        }
        let Some((n, due)) = shared.take() else { return };
        out.clear();
        shared.requests.write(n, &mut out);
        let sent = Instant::now();
        shared.busy.set(shared.busy.get() + 1);
        let answer = exchange(&mut stream, shared.load.to, &out, &mut seen).await;
        shared.busy.set(shared.busy.get() - 1);
        match answer {
            Ok((status, _)) => shared.note(n, status, due.unwrap_or(sent), sent),
            Err(_) => {
                stream = None;
                shared.outcome.borrow_mut().broken += 1;
                // A server that is gone must not make us spin.
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

impl Shared {
    /// The next request and when it was due.
    fn take(&self) -> Option<(u64, Option<Instant>)> {
        let n = self.next.get();
        let over = self.began.elapsed() >= self.load.warm_up + self.load.time;
        if over || n >= self.requests.count() {
            return None;
        }
        self.next.set(n + 1);
        let due = match self.load.pace {
            Pace::Saturate => None,
            Pace::Rate(rate) => Some(self.began + Duration::from_secs_f64(n as f64 / rate)),
        };
        Some((n, due))
    }

    fn note(&self, n: u64, status: u16, due: Instant, sent: Instant) {
        let now = Instant::now();
        let mut outcome = self.outcome.borrow_mut();
        if (200..300).contains(&status) {
            outcome.accepted.push(n);
        }
        let took = micros(now - sent);
        if took > outcome.slowest {
            (outcome.slowest, outcome.slowest_at) = (took, micros(now - self.began));
        }
        outcome.late += u64::from(took > 1_000_000);
        let since = now - self.began;
        if since >= self.load.warm_up && since <= self.load.warm_up + self.load.time {
            *outcome.statuses.entry(status).or_default() += 1;
            outcome.latencies.push(micros(now.saturating_duration_since(due)));
        }
    }
}

fn micros(time: Duration) -> u32 {
    u32::try_from(time.as_micros()).unwrap_or(u32::MAX)
}

/// One request and its answer, over a connection that is kept; answers with the status and where the body lies in `seen`.
///
/// # Errors
/// Nobody answers, or the connection broke: then it must not be used again.
pub async fn exchange(
    stream: &mut Option<TcpStream>,
    to: SocketAddr,
    out: &[u8],
    seen: &mut Vec<u8>,
) -> std::io::Result<(u16, std::ops::Range<usize>)> {
    if stream.is_none() {
        let fresh = TcpStream::connect(to).await?;
        fresh.set_nodelay(true)?;
        *stream = Some(fresh);
    }
    let Some(stream) = stream else { return Err(std::io::ErrorKind::NotConnected.into()) };
    stream.write_all(out).await?;
    let mut filled = 0;
    loop {
        if filled == seen.len() {
            seen.resize(seen.len() * 2, 0);
        }
        let got = stream.read(&mut seen[filled..]).await?;
        if got == 0 {
            return Err(std::io::ErrorKind::UnexpectedEof.into());
        }
        filled += got;
        if let Some((status, body)) = head(&seen[..filled])
            && filled >= body.end
        {
            return Ok((status, body));
        }
    }
}

/// Reads the head of an answer, once it is whole: the status, and where the body will lie.
fn head(seen: &[u8]) -> Option<(u16, std::ops::Range<usize>)> {
    let end = seen.windows(4).position(|w| w == b"\r\n\r\n")? + 4;
    let text = std::str::from_utf8(&seen[..end]).ok()?;
    let status = text.get(9..12)?.parse().ok()?;
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim().parse::<usize>().ok())?
    });
    assert!(length.is_some() || status == 204, "an answer without a length: {text}");
    Some((status, end..end + length.unwrap_or(0)))
}

/// The bytes of a request.
pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n");
    for (name, value) in headers {
        text.push_str(&format!("{name}: {value}\r\n"));
    }
    text.push_str(&format!("Content-Length: {}\r\n\r\n", body.len()));
    let mut bytes = text.into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// One call, outside of any measurement.
///
/// # Errors
/// Nobody answers.
pub async fn call(
    to: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> std::io::Result<(u16, Vec<u8>)> {
    send(to, &request(method, path, headers, body)).await
}

/// Sends the bytes of one request.
///
/// # Errors
/// Nobody answers.
pub async fn send(to: SocketAddr, request: &[u8]) -> std::io::Result<(u16, Vec<u8>)> {
    let mut seen = vec![0; 64 * 1024];
    let (status, body) = exchange(&mut None, to, request, &mut seen).await?;
    Ok((status, seen[body].to_vec()))
}
