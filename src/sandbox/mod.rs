//! Hosts the simulated gateways and the simulated invoicing API over HTTP, like the real ones, with a fault dial.
//!
//! Generic: whatever the registries list and has a twin is served below `/sandbox/{name}`. Runs inside a hub
//! (`sandbox = true`) or in a process of its own ([`serve_alone`]), so that the twins outlive a hub that is killed.
//! For people: `docs/sandbox.md`.

mod carry;
mod dial;
pub mod host;
mod page;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::{Form, Json, Path, RawQuery, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::{any, get, post};
use grosz_providers::twin::{Faults, TwinAnswer, TwinRequest};
use grosz_providers::wire::Headers;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::config::Config;
use crate::http::server::{self, NoAnswer};
use host::{EnrollError, Host};

/// A call that is never answered is held open for so long, unless the caller hangs up before.
const HANG: Duration = Duration::from_secs(600);
/// How often deliveries are looked for when nothing rang.
const TICK: Duration = Duration::from_millis(200);

/// All of `/sandbox`. The handlers carry their own state, so that it fits any router.
pub fn router<S: Clone + Send + Sync + 'static>(host: &Arc<Host>) -> Router<S> {
    Router::new()
        .route("/sandbox", get(page::show))
        .route("/sandbox/sandbox.css", get(page::style))
        .route("/sandbox/faults", get(faults).put(set_faults).delete(clear_faults))
        .route("/sandbox/faults/{name}", post(set_by_form))
        .route("/sandbox/{name}/accounts", post(enroll))
        .route("/sandbox/{name}", any(serve))
        .route("/sandbox/{name}/", any(serve))
        .route("/sandbox/{name}/{*path}", any(serve))
        .with_state(Arc::clone(host))
}

/// Carries the twins' deliveries out until `stop` says true.
pub async fn deliver(host: Arc<Host>, mut stop: watch::Receiver<bool>) {
    while !*stop.borrow() {
        host.carry().await;
        tokio::select! {
            () = host.bell.notified() => {}
            () = tokio::time::sleep(TICK) => {}
            // A closed channel stops too.
            _ = stop.wait_for(|stopped| *stopped) => break,
        }
    }
}

/// Serves the twins alone until `stop` says true. They report to hubs on this machine and at the origins in `hubs`;
/// accounts are made known by `POST /sandbox/{name}/accounts`.
pub async fn serve_alone(listener: TcpListener, public_url: String, hubs: Vec<String>, stop: watch::Receiver<bool>) {
    let host = Arc::new(Host::alone(public_url, hubs));
    let router = Router::new().route("/healthz", get(|| async { "ok\n" })).merge(router(&host));
    let deliveries = tokio::spawn(deliver(host, stop.clone()));
    server::serve(listener, router, &Config::default(), stop).await;
    if let Err(error) = deliveries.await {
        tracing::error!(error = %error, "Deliveries ended abnormally");
    }
}

/// Any request to a twin.
async fn serve(
    State(host): State<Arc<Host>>,
    Path(path): Path<BTreeMap<String, String>>,
    uri: Uri,
    RawQuery(query): RawQuery,
    method: Method,
    headers: HeaderMap,
    body: Bytes,
) -> Response {
    let name = path.get("name").map_or("", String::as_str);
    let Some(stand) = host.stand(name) else { return (StatusCode::NOT_FOUND, "no such twin\n").into_response() };
    host.look_for_accounts().await;
    let below = uri.path().strip_prefix("/sandbox/").and_then(|rest| rest.strip_prefix(name)).unwrap_or("/");
    let pairs = headers.iter().filter_map(|(n, v)| Some((n.as_str(), v.to_str().ok()?)));
    let request = TwinRequest {
        method: method.as_str().to_owned(),
        path: if below.is_empty() { "/".into() } else { below.to_owned() },
        query: query.unwrap_or_default(),
        headers: Headers::from_pairs(pairs),
        body: body.to_vec(),
        root: String::new(),
        now: host.clock.now(),
        faults: Faults::default(),
    };
    let from_a_browser =
        headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).is_some_and(|v| v.contains("text/html"));
    match host.serve(stand, request, from_a_browser) {
        TwinAnswer::Page { status, content_type, headers, body } => written(status, &content_type, &headers, body),
        TwinAnswer::Cut => NoAnswer { after: Duration::ZERO }.into_response(),
        TwinAnswer::Hang => NoAnswer { after: HANG }.into_response(),
    }
}

/// A twin's answer, with a content security policy that fits the pages it makes.
fn written(status: u16, content_type: &str, pairs: &[(String, String)], body: Vec<u8>) -> Response {
    let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let policy = content_type.starts_with("text/html").then(|| page::policy_for(&body));
    let mut answer = (status, body).into_response();
    let own = [("content-type", content_type), ("cache-control", "no-store")];
    let policy = policy.as_deref().map(|p| ("content-security-policy", p));
    let given = pairs.iter().map(|(n, v)| (n.as_str(), v.as_str()));
    for (name, value) in own.into_iter().chain(policy).chain(given) {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            answer.headers_mut().insert(name, value);
        }
    }
    answer
}

/// `GET /sandbox/faults`: every fault of every twin with its value.
async fn faults(State(host): State<Arc<Host>>) -> Json<Value> {
    Json(
        host.stands
            .iter()
            .map(|s| (s.name.to_owned(), json!(s.dial.values())))
            .collect::<serde_json::Map<_, _>>()
            .into(),
    )
}

/// `PUT /sandbox/faults`: the dials of the twins that are named are replaced; the others stay.
async fn set_faults(
    State(host): State<Arc<Host>>,
    Json(wanted): Json<BTreeMap<String, BTreeMap<String, u32>>>,
) -> Response {
    for (name, values) in &wanted {
        let Some(stand) = host.stand(name) else { return refused(&format!("{name} is not a twin here")) };
        if let Some(unknown) = stand.dial.unknown(values.keys()) {
            return refused(&format!("{name}.{unknown} is not a fault here"));
        }
    }
    for (name, values) in wanted {
        if let Some(stand) = host.stand(&name) {
            stand.dial.set(values);
        }
    }
    faults(State(host)).await.into_response()
}

/// `DELETE /sandbox/faults`: everything off.
async fn clear_faults(State(host): State<Arc<Host>>) -> StatusCode {
    host.stands.iter().for_each(|s| s.dial.set(BTreeMap::new()));
    StatusCode::NO_CONTENT
}

/// The form of the page: one twin's dial.
async fn set_by_form(
    State(host): State<Arc<Host>>,
    Path(name): Path<String>,
    headers: HeaderMap,
    Form(fields): Form<BTreeMap<String, String>>,
) -> Response {
    if headers.get("sec-fetch-site").is_some_and(|site| site != "same-origin" && site != "none") {
        return StatusCode::FORBIDDEN.into_response();
    }
    let Some(stand) = host.stand(&name) else { return StatusCode::NOT_FOUND.into_response() };
    let values: BTreeMap<String, u32> =
        fields.into_iter().filter_map(|(name, value)| Some((name, value.trim().parse().ok()?))).collect();
    if let Some(unknown) = stand.dial.unknown(values.keys()) {
        return refused(&format!("{name}.{unknown} is not a fault here"));
    }
    stand.dial.set(values);
    Redirect::to(&format!("/sandbox#{name}")).into_response()
}

/// A merchant's account, as a hub would be given it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Account {
    settings: serde_json::Map<String, Value>,
    #[serde(default)]
    webhook_url: String,
}

/// `POST /sandbox/{name}/accounts`.
async fn enroll(State(host): State<Arc<Host>>, Path(name): Path<String>, Json(account): Json<Account>) -> Response {
    match host.enroll(&name, &account.settings, &account.webhook_url) {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(e @ EnrollError::NoSuchTwin(_)) => (StatusCode::NOT_FOUND, format!("{e}\n")).into_response(),
        Err(e) => refused(&e.to_string()),
    }
}

fn refused(why: &str) -> Response {
    (StatusCode::UNPROCESSABLE_ENTITY, format!("{why}\n")).into_response()
}
