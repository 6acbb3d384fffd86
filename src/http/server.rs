//! Accepts connections. HTTP/1 only (a proxy in front speaks HTTP/2 to browsers), with limits on head, body, time and
//! number; on stop, requests in flight finish.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{ConnectInfo, DefaultBodyLimit, Request};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use futures_util::FutureExt;
use hyper::body::{Body as _, Incoming};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use tokio::net::{TcpListener, TcpSocket, ToSocketAddrs};
use tokio::sync::watch;
use tower::ServiceExt;

use super::framing::{Framing, Watched};
use super::guests::{Arriving, Guests};
use crate::clock::Clock;
use crate::config::Config;
use crate::descriptors::Shares;
use crate::ids::Ids;
use crate::problem::Problem;

/// Connections that wait to be accepted. When there are more, the system drops their first packet, and the caller sends
/// it again only after a second; it takes as many as the system's own limit (`net.core.somaxconn`) allows.
const BACKLOG: u32 = 4096;

/// Listens at an address, `127.0.0.1:8080` or a name with a port, with a queue that is long enough for a crowd.
///
/// # Errors
/// The address is not one of this machine, or its port is in use.
pub async fn listen(address: impl ToSocketAddrs) -> std::io::Result<TcpListener> {
    let mut refused = std::io::Error::new(std::io::ErrorKind::AddrNotAvailable, "the name has no address");
    for address in tokio::net::lookup_host(address).await? {
        let socket = if address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
        // A program that starts again must not wait for the last connections of the one before.
        socket.set_reuseaddr(true)?;
        match socket.bind(address).and_then(|()| socket.listen(BACKLOG)) {
            Ok(listener) => return Ok(listener),
            Err(error) => refused = error,
        }
    }
    Err(refused)
}

/// Serves until `stop` says true, then lets requests in flight finish for at most `stop_s`.
pub async fn serve(listener: TcpListener, router: Router, config: &Config, mut stop: watch::Receiver<bool>) {
    let router = router.layer(DefaultBodyLimit::max(config.body_limit_bytes));
    let most = Shares::of_this_process(config).callers;
    let guests = Arc::new(Guests::new(most, config.max_connections_per_address));
    let graceful = GracefulShutdown::new();
    let mut http = hyper::server::conn::http1::Builder::new();
    http.timer(TokioTimer::new());
    http.header_read_timeout(Duration::from_secs(config.header_read_s));
    http.max_buf_size(64 * 1024);
    let limit = Duration::from_secs(config.request_s);
    // What is a little too large is refused by its address, in its form; this is far more than any address takes.
    let most_bytes = config.body_limit_bytes.max(config.attachment_limit_bytes);
    let largest = 8 * most_bytes as u64;
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = stop.changed() => break,
        };
        let Ok((stream, peer)) = accepted else {
            // No descriptors left, most likely: let some close.
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        };
        let Some(guest) = guests.admit(peer) else { continue };
        let _ = stream.set_nodelay(true);
        let seat = guests.seat(&guest);
        let (router, stop_handle, at) = (router.clone(), stop.clone(), Arc::clone(&guest));
        let framing = Framing::default();
        let stream = Watched { stream, framing: framing.clone() };
        let service = hyper::service::service_fn(move |request: hyper::Request<Incoming>| {
            let (router, stop, guest) = (router.clone(), stop_handle.clone(), Arc::clone(&at));
            let framing = framing.clone();
            async move {
                let is_too_large = request.body().size_hint().lower() > largest;
                let refused = framing.check(request.headers()).or(is_too_large.then(|| too_large(most_bytes)));
                if request.body().is_end_stream() {
                    guest.is_served();
                }
                let is_json =
                    request.uri().path().strip_prefix("/v1").is_some_and(|p| p.is_empty() || p.starts_with('/'));
                let arriving = |body| axum::body::Body::new(Arriving { body, guest: Arc::clone(&guest) });
                let mut request: Request = request.map(arriving);
                request.extensions_mut().insert(ConnectInfo(peer));
                let answer = match refused {
                    Some(problem) => close_after(told(problem, is_json)),
                    None => {
                        let answered = AssertUnwindSafe(router.oneshot(request)).catch_unwind();
                        match tokio::time::timeout(limit, answered).await {
                            Ok(Ok(Ok(answer))) => answer,
                            Ok(Ok(Err(never))) => match never {},
                            Ok(Err(_)) => broken(is_json),
                            Err(_) => told(took_too_long(limit), is_json),
                        }
                    }
                };
                guest.is_waiting();
                framing.begin();
                match answer.extensions().get::<NoAnswer>() {
                    Some(no_answer) => Err(no_answer.hold(stop).await),
                    None => Ok::<Response, NoAnswer>(harden(answer)),
                }
            }
        });
        let connection = graceful.watch(http.serve_connection(TokioIo::new(stream), service));
        tokio::spawn(async move {
            let _seat = seat;
            tokio::select! {
                // A peer that breaks off is no news.
                _ = connection => {}
                () = guest.told_to_leave() => {}
            }
        });
    }
    let grace = Duration::from_secs(config.stop_s);
    if tokio::time::timeout(grace, graceful.shutdown()).await.is_err() {
        tracing::warn!("Requests in flight did not finish in {grace:?}");
    }
}

/// The answer to a request that no handler answered, in the form of all errors. Client apps look for its name in the log;
/// a flood of other calls must not fill it (F48).
fn told(problem: Problem, is_json: bool) -> Response {
    let request = Ids::new(Clock::System).make("req");
    let (status, code) = (problem.status().as_u16(), problem.code());
    match is_json {
        true => tracing::info!(request.id = %request, status, code, "Answered before a handler did, with {status}"),
        false => tracing::debug!(request.id = %request, status, code, "Answered before a handler did, with {status}"),
    }
    problem.render(&request)
}

/// After a request that is not even read: nothing that follows on its connection can be trusted.
fn close_after(mut answer: Response) -> Response {
    answer.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    answer
}

fn too_large(most_bytes: usize) -> Problem {
    let detail = format!("no address takes a body of more than {most_bytes} bytes");
    Problem::of_status(StatusCode::PAYLOAD_TOO_LARGE).detail(detail)
}

fn took_too_long(limit: Duration) -> Problem {
    let limit_s = limit.as_secs();
    Problem::of_status(StatusCode::REQUEST_TIMEOUT).detail(format!(
        "it was not read and answered within {limit_s} seconds, and it is not known whether it was done; send it again with \
         the same Idempotency-Key, or look first"
    ))
}

/// The answer of a handler that panicked (F26). The panic itself is in the log; what it left undone in the database was
/// taken back.
fn broken(is_json: bool) -> Response {
    let request = Ids::new(Clock::System).make("req");
    tracing::error!(request.id = %request, "A request met a fault of the hub: its handler panicked");
    match is_json {
        true => Problem::internal().render(&request),
        false => (StatusCode::INTERNAL_SERVER_ERROR, "Something went wrong in the hub.\n").into_response(),
    }
}

/// As an extension of an answer: that answer is never sent, the connection is closed without a byte. For simulated
/// outside services that show how real ones fail.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("the connection is closed without an answer")]
pub struct NoAnswer {
    /// The connection stays open for so long, unless the caller hangs up before.
    pub after: Duration,
}

impl NoAnswer {
    async fn hold(self, mut stop: watch::Receiver<bool>) -> Self {
        // A hub that stops does not wait for those that wait for nothing.
        let _ = tokio::time::timeout(self.after, stop.wait_for(|stopped| *stopped)).await;
        self
    }
}

impl IntoResponse for NoAnswer {
    fn into_response(self) -> Response {
        let mut answer = Response::default();
        answer.extensions_mut().insert(self);
        answer
    }
}

/// Headers that hold for every answer.
fn harden(mut answer: Response) -> Response {
    let headers = answer.headers_mut();
    headers.entry(header::X_CONTENT_TYPE_OPTIONS).or_insert(HeaderValue::from_static("nosniff"));
    headers.entry(header::REFERRER_POLICY).or_insert(HeaderValue::from_static("no-referrer"));
    headers.entry(header::X_FRAME_OPTIONS).or_insert(HeaderValue::from_static("DENY"));
    answer
}
