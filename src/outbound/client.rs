//! The one HTTP client of the hub.
//!
//! Every call is vetted by [`TargetPolicy`] at the moment it is made and goes to the vetted addresses only. It follows no
//! redirect, uses no proxy, keeps no cookies, reads no more than its limit and repeats nothing. Its errors say whether
//! the request certainly never left, because that decides whether money may be moved again.
//!
//! Must not know: what is being said, to whom it belongs, or what happens after a failure.

mod connection;
mod error;

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use grosz_providers::wire::{Headers, Http, HttpError, HttpRequest, HttpResponse};
use tokio::time::timeout;

pub use self::connection::KEPT_CLIENTS;
use self::connection::{Connections, Slots};
pub use self::error::{CallError, TlsFault};
use super::target::{Resolve, SystemResolver, Target, TargetPolicy};

/// A call may be late by so much before it counts as held up.
const HELD_UP: Duration = Duration::from_secs(2);

/// What a call is for; it decides the limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum CallKind {
    /// A gateway or an invoicing API.
    Provider,
    /// A webhook to a client's own address: only the head of the answer is of interest.
    ClientHook,
    /// A document to be fetched, such as an invoice's PDF.
    Document,
}

impl CallKind {
    /// One word for metrics and logs.
    pub fn word(self) -> &'static str {
        match self {
            CallKind::Provider => "provider",
            CallKind::ClientHook => "client_hook",
            CallKind::Document => "document",
        }
    }
}

/// The limits of one kind of call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// For opening a connection with TLS; also for the look-up of the name, and for waiting for a free slot.
    pub connect: Duration,
    /// From the first byte sent to the last byte read, with the connecting in between.
    pub total: Duration,
    /// The same for calls marked `once`, whose outcome is dear: waiting is cheaper than not knowing.
    pub total_once: Duration,
    /// Longest body of an answer, in bytes.
    pub answer_bytes: usize,
}

impl Limits {
    const fn new(total_s: u64, total_once_s: u64, answer_bytes: usize) -> Self {
        Limits {
            connect: Duration::from_secs(5),
            total: Duration::from_secs(total_s),
            total_once: Duration::from_secs(total_once_s),
            answer_bytes,
        }
    }
}

/// How the hub calls outside.
#[derive(Debug, Clone)]
pub struct OutboundSettings {
    /// Which targets are allowed.
    pub policy: TargetPolicy,
    /// Limits towards gateways and invoicing APIs: 30 s, 60 s for `once`, 1 MiB.
    pub provider: Limits,
    /// Limits towards clients' addresses: 15 s, 20 kB.
    pub client_hook: Limits,
    /// Limits for documents: 30 s, 20 MiB.
    pub document: Limits,
    /// Calls to one host at the same time, for each kind of call; to one address, where it is a client's. More wait,
    /// and are turned away after the connect limit, so that a gateway that hangs holds neither all sockets nor all
    /// memory.
    pub calls_per_host: usize,
    /// Connections to one host that are kept for the next calls.
    pub kept_per_host: usize,
    /// Further certificate authorities to trust, as PEM text. The public ones are built in.
    pub extra_ca_pem: Option<Vec<u8>>,
}

impl Default for OutboundSettings {
    fn default() -> Self {
        OutboundSettings {
            policy: TargetPolicy::default(),
            provider: Limits::new(30, 60, 1024 * 1024),
            client_hook: Limits::new(15, 15, 20_000),
            document: Limits::new(30, 60, 20 * 1024 * 1024),
            calls_per_host: 32,
            kept_per_host: usize::MAX,
            extra_ca_pem: None,
        }
    }
}

/// The settings make no client.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadSettings {
    /// The extra certificates could not be read.
    #[error("the extra CA file holds no readable PEM certificate")]
    ExtraCa,
    /// Without time left after connecting, a time-out would say nothing about what was sent.
    #[error("the limit to connect must be shorter than the whole limit of a {0} call")]
    ConnectNotShorter(&'static str),
    /// No call could ever be made.
    #[error("the number of calls per host must be at least 1")]
    NoCalls,
    /// The TLS library refused its own defaults.
    #[error("TLS could not be set up: {0}")]
    Tls(String),
}

/// Hears of every call, for metrics. Must return at once.
pub trait Observe: Send + Sync {
    /// A call ended: with an HTTP status or an error, after this time.
    fn on_call(&self, kind: CallKind, outcome: Result<u16, &CallError>, took: Duration);
}

struct Nobody;

impl Observe for Nobody {
    fn on_call(&self, _: CallKind, _: Result<u16, &CallError>, _: Duration) {}
}

/// The client, set to one kind of call. Clones share connections and slots.
#[derive(Clone)]
pub struct Outbound {
    shared: Arc<Shared>,
    kind: CallKind,
    resolver: Arc<dyn Resolve>,
}

struct Shared {
    settings: OutboundSettings,
    observer: Arc<dyn Observe>,
    connections: Connections,
    slots: Slots,
}

impl Outbound {
    /// A client for calls to providers, with the system's resolver.
    ///
    /// # Errors
    /// See [`BadSettings`].
    pub fn new(settings: OutboundSettings) -> Result<Self, BadSettings> {
        let resolver = SystemResolver::new(settings.provider.connect);
        Outbound::with(settings, Arc::new(resolver), Arc::new(Nobody))
    }

    /// A client with a resolver and an observer of the caller's choice.
    ///
    /// # Errors
    /// See [`BadSettings`].
    pub fn with(
        settings: OutboundSettings,
        resolver: Arc<dyn Resolve>,
        observer: Arc<dyn Observe>,
    ) -> Result<Self, BadSettings> {
        for kind in [CallKind::Provider, CallKind::ClientHook, CallKind::Document] {
            let limits = settings.limits(kind);
            if limits.connect >= limits.total.min(limits.total_once) {
                return Err(BadSettings::ConnectNotShorter(kind.word()));
            }
        }
        if settings.calls_per_host == 0 {
            return Err(BadSettings::NoCalls);
        }
        let connections = Connections::new(
            settings.extra_ca_pem.as_deref(),
            !settings.policy.allow_insecure,
            settings.kept_per_host,
        )?;
        let slots = Slots::new(settings.calls_per_host);
        let shared = Shared { settings, observer, connections, slots };
        Ok(Outbound { shared: Arc::new(shared), kind: CallKind::Provider, resolver })
    }

    /// The same client for another kind of call.
    #[must_use]
    pub fn for_kind(&self, kind: CallKind) -> Self {
        Outbound { shared: Arc::clone(&self.shared), kind, resolver: Arc::clone(&self.resolver) }
    }

    /// The same client with a resolver of its own: names that do not answer hold up each other, and nobody else's.
    #[must_use]
    pub fn resolving_by(self, resolver: Arc<dyn Resolve>) -> Self {
        Outbound { resolver, ..self }
    }

    /// The rules for targets, to check an address at its registration.
    pub fn policy(&self) -> &TargetPolicy {
        &self.shared.settings.policy
    }

    /// Sends one request and reads its answer. A redirect is an answer like any other.
    ///
    /// # Errors
    /// See [`CallError`]; [`CallError::is_certainly_not_sent`] is what a caller with money in hand must ask.
    pub async fn call(&self, request: HttpRequest) -> Result<HttpResponse, CallError> {
        let started = Instant::now();
        let method = request.method;
        let target = self.policy().check_text(&request.url);
        let result = match &target {
            Ok(target) => self.exchange(target, request, started).await,
            Err(refusal) => Err(CallError::Refused(*refusal)),
        };
        let took = started.elapsed();
        self.shared.observer.on_call(self.kind, result.as_ref().map(|answer| answer.status), took);
        self.log(method, target.as_ref().ok(), &result, took);
        result
    }

    async fn exchange(
        &self,
        target: &Target,
        request: HttpRequest,
        started: Instant,
    ) -> Result<HttpResponse, CallError> {
        let Shared { settings, connections, slots, .. } = &*self.shared;
        let limits = settings.limits(self.kind);
        // Many receivers live at one host, each behind a path of its own.
        let key = match self.kind {
            CallKind::ClientHook => (self.kind, target.url().as_str().to_owned()),
            CallKind::Provider | CallKind::Document => (self.kind, target.authority()),
        };
        let _slot = timeout(limits.connect, slots.take(key)).await.map_err(|_| CallError::Busy)?;
        let addresses = match timeout(limits.connect, settings.policy.vet(target, &*self.resolver)).await {
            Ok(vetted) => vetted.map_err(CallError::Refused)?,
            Err(_) => return Err(CallError::Refused(super::Refusal::LookUpFailed)),
        };
        let total = if request.once { limits.total_once } else { limits.total };
        let client = connections.client(target, addresses, limits.connect, request.once)?;
        // Waiting for a slot and for the name has its limits. A call that took longer until here was held up with its whole
        // process: its caller may have lost the right to make it, so one that must not be made twice is not made.
        if request.once && started.elapsed() > 2 * limits.connect + HELD_UP {
            return Err(CallError::ConnectTimeOut);
        }
        let exchange = async {
            let answer = client.execute(prepare(target, request)?).await.map_err(CallError::from_sending)?;
            self.read(answer, limits.answer_bytes).await
        };
        timeout(total, exchange).await.unwrap_or(Err(CallError::TimeOut))
    }

    async fn read(&self, mut answer: reqwest::Response, limit: usize) -> Result<HttpResponse, CallError> {
        let status = answer.status().as_u16();
        let lossy = |value: &reqwest::header::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
        let headers = Headers::from_pairs(answer.headers().iter().map(|(name, value)| (name, lossy(value))));
        let mut body = Vec::new();
        while let Some(chunk) = answer.chunk().await.map_err(CallError::from_reading)? {
            let room = limit - body.len();
            if chunk.len() > room {
                // Of a client's answer only the head is of interest; half a gateway's answer is none.
                if self.kind != CallKind::ClientHook {
                    return Err(CallError::TooLarge { limit });
                }
                body.extend_from_slice(chunk.get(..room).unwrap_or_default());
                break;
            }
            body.extend_from_slice(&chunk);
        }
        Ok(HttpResponse { status, headers, body })
    }

    /// One line for each call: never the query, the headers or the body. The request id comes from the enclosing span.
    /// The path of a client's address is left out too, because with many receivers it is the password.
    fn log(&self, method: &str, target: Option<&Target>, result: &Result<HttpResponse, CallError>, took: Duration) {
        let host = target.map(Target::authority).unwrap_or_default();
        let path = match self.kind {
            CallKind::ClientHook => "",
            CallKind::Provider | CallKind::Document => target.map_or("", |t| t.url().path()),
        };
        let duration_ms = u64::try_from(took.as_millis()).unwrap_or(u64::MAX);
        let kind = self.kind.word();
        match result {
            Ok(answer) => {
                let status = answer.status;
                tracing::info!(kind, method, host, path, status, duration_ms, "Called {method} {host}{path}: {status}");
            }
            Err(e) => {
                let error = e.word();
                tracing::warn!(kind, method, host, path, error, duration_ms, "Called {method} {host}{path}: {e}");
            }
        }
    }
}

/// The request is built from the vetted target, never from the text again.
fn prepare(target: &Target, request: HttpRequest) -> Result<reqwest::Request, CallError> {
    let method = reqwest::Method::from_bytes(request.method.as_bytes())
        .map_err(|_| CallError::BadRequest("the method is not an HTTP method"))?;
    let mut prepared = reqwest::Request::new(method, target.url().clone());
    for (name, value) in &request.headers {
        let name = reqwest::header::HeaderName::from_bytes(name.as_bytes())
            .map_err(|_| CallError::BadRequest("the name of a header has a forbidden character"))?;
        let value = reqwest::header::HeaderValue::from_str(value)
            .map_err(|_| CallError::BadRequest("the value of a header has a forbidden character"))?;
        prepared.headers_mut().append(name, value);
    }
    if !request.body.is_empty() || !matches!(request.method, "GET" | "HEAD") {
        *prepared.body_mut() = Some(request.body.into());
    }
    Ok(prepared)
}

impl OutboundSettings {
    fn limits(&self, kind: CallKind) -> Limits {
        match kind {
            CallKind::Provider => self.provider,
            CallKind::ClientHook => self.client_hook,
            CallKind::Document => self.document,
        }
    }
}

#[async_trait]
impl Http for Outbound {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        self.call(request).await.map_err(HttpError::from)
    }
}

impl fmt::Debug for Outbound {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Outbound({})", self.kind.word())
    }
}

#[cfg(test)]
mod tests;
