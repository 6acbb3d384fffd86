//! Where gateways report: raw bytes in, verified, committed, acknowledged in the gateway's own words.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequest, Path, Request, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use grosz_providers::wire::Headers;
use grosz_providers::{Delivery, Outcome, Provider, ReadError, Reference, Reply, Settings, Verdict, registry, sign};
use tokio::time::timeout;

use super::Web;
use super::believed::Believed;
use crate::app::App;
use crate::flows::FlowError;
use crate::flows::receive_webhook::{self, Inbound};
use crate::intake::Sliced;
use crate::store::{ProviderAccount, RecordedDelivery, Tx};

/// Headers that are kept with a delivery; others may hold what is none of our business.
const KEPT: &[&str] = &["content-type", "user-agent", "date"];

/// How many refused deliveries of an account are remembered.
const REFUSALS_KEPT: i64 = 20;

/// `POST /webhooks/{provider}/{account}`. Only POST; axum answers 405 to the rest.
pub fn router(_: &Web) -> Router<Web> {
    Router::new().route("/webhooks/{provider}/{account}", post(receive))
}

async fn receive(
    State(web): State<Web>,
    path: Result<Path<(String, String)>, PathRejection>,
    mut request: Request,
) -> Response {
    let Ok(Path((provider, account))) = path else { return StatusCode::NOT_FOUND.into_response() };
    // Taken, not copied: reading the body needs neither.
    let headers = std::mem::take(request.headers_mut());
    let query = request.uri().query().unwrap_or_default().to_owned();
    let limit = Duration::from_secs(web.app.config.webhook_read_s);
    let body = match timeout(limit, Bytes::from_request(request, &())).await {
        Ok(Ok(body)) => body,
        // Too large, or broken off.
        Ok(Err(refusal)) => return refusal.status().into_response(),
        Err(_) => return StatusCode::REQUEST_TIMEOUT.into_response(),
    };
    if web.intake.is_behind() {
        // The address is not checked yet, so its provider is no label.
        web.app.metrics.count(&web.app.metrics.deliveries, "unread", "turned_away");
        return later();
    }
    if headers.get(header::CONTENT_ENCODING).is_some_and(|e| e != "identity") {
        return StatusCode::UNSUPPORTED_MEDIA_TYPE.into_response();
    }
    match read_and_record(&web, &provider, &account, query, &headers, body).await {
        Ok(response) => response,
        // Whoever looks after the database says once that it is away, not each call.
        Err(FlowError::Store(error)) if error.is_passing() => {
            // The account was not looked up: anybody may have written anything there.
            let label = registry::provider(&provider).map_or("unread", |known| known.facts().name);
            web.app.metrics.count(&web.app.metrics.deliveries, label, "turned_away");
            tracing::debug!(error = %error, provider, "A webhook call could not be recorded");
            later()
        }
        Err(error) => {
            tracing::error!(error = %error, provider, "A webhook call could not be recorded");
            later()
        }
    }
}

/// Nothing was recorded: the gateway must come again.
fn later() -> Response {
    (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "5")]).into_response()
}

async fn read_and_record(
    web: &Web,
    provider: &str,
    account: &str,
    query: String,
    headers: &HeaderMap,
    body: Bytes,
) -> Result<Response, FlowError> {
    let app = &web.app;
    let known = web.accounts.find(app, account).await?.filter(|known| known.account.provider == provider);
    let Some(known) = known else { return Ok(StatusCode::NOT_FOUND.into_response()) };
    let Known { account, gateway, settings } = &*known;

    let pairs = headers.iter().filter_map(|(n, v)| Some((n.as_str(), v.to_str().ok()?)));
    let wire_headers = Headers::from_pairs(pairs);
    let received_at = Some(app.clock.outside());
    let delivery = Delivery { headers: &wire_headers, query: &query, body: &body, received_at };
    let reading = match gateway.read(settings, &delivery) {
        Ok(reading) => reading,
        Err(refusal) => {
            note_refusal(web, account, &refusal, body.len()).await;
            return Ok(respond(gateway.reply(settings, &Verdict::Refused(&refusal))));
        }
    };
    let echo = reading.echo.clone();
    let recorded = RecordedDelivery {
        merchant_id: account.merchant_id.clone(),
        id: app.ids.make("dlv"),
        account_id: account.id.clone(),
        provider: account.provider.clone(),
        verdict: "verified".into(),
        headers: kept_headers(&wire_headers),
        query,
        body_sha256: sign::sha256_hex(&body),
        body: body.to_vec(),
        received_at: app.now(),
    };
    let inbound = Inbound { account: Arc::clone(account), delivery: Arc::new(recorded), reading };
    match web.intake.submit(inbound).await {
        Ok(outcomes) => {
            app.metrics.count(&app.metrics.deliveries, provider, "verified");
            Ok(respond(gateway.reply(settings, &Verdict::Committed { echo: &echo, outcomes: &outcomes })))
        }
        Err(_) => {
            app.metrics.count(&app.metrics.deliveries, provider, "turned_away");
            Ok(later())
        }
    }
}

/// Webhook calls are recorded in slices.
pub struct Webhooks;

impl Sliced for Webhooks {
    type Call = Inbound;
    type Answer = Vec<Outcome>;
    const NAME: &'static str = "intake";
    const KIND: usize = 0;

    fn about(call: &Inbound) -> &str {
        call.reading.events.first().map_or(&call.delivery.id, |event| match &event.reference {
            Reference::Ours(name) | Reference::Gateway(name) => name,
        })
    }

    fn weight(call: &Inbound) -> usize {
        // The body as it came, and once more in the events that were read from it.
        1024 + 2 * call.delivery.body.len()
    }

    fn can_do_without_locks(call: &Inbound) -> bool {
        receive_webhook::can_do_without_locks(call)
    }

    async fn act(app: &App, tx: &mut Tx, slice: &[Inbound]) -> Result<Vec<Vec<Outcome>>, FlowError> {
        receive_webhook::receive(app, tx, slice).await
    }
}

/// An account with its settings opened.
struct Known {
    account: Arc<ProviderAccount>,
    gateway: &'static dyn Provider,
    settings: Settings,
}

/// Accounts that webhook addresses named a moment ago.
#[derive(Default)]
pub struct Accounts(Believed<Arc<Known>>);

impl Accounts {
    /// The account of an address; `None` when there is none, or its provider is not one of ours.
    async fn find(&self, app: &App, id: &str) -> Result<Option<Arc<Known>>, FlowError> {
        let ask = async {
            let account = app.store.read_reserved().await?.provider_account_by_id(id).await?;
            let Some(account) = account else { return Ok(None) };
            let Some(gateway) = registry::provider(&account.provider) else { return Ok(None) };
            let settings = app.provider_settings(&account)?;
            Ok(Some(Arc::new(Known { account: Arc::new(account), gateway, settings })))
        };
        self.0.find(&app.clock, id, ask).await
    }

    /// After a change in this process, which is seen at once.
    pub fn forget(&self, id: &str) {
        self.0.forget(id);
    }
}

/// Signature headers are kept too, as evidence; they are no secrets, a signature does not give its key away.
fn kept_headers(headers: &Headers) -> String {
    let kept: Vec<(&String, &String)> = headers
        .pairs()
        .iter()
        .filter(|(n, _)| KEPT.contains(&n.as_str()) || n.contains("signature"))
        .map(|(n, v)| (n, v))
        .collect();
    serde_json::to_string(&kept).unwrap_or_else(|_| "[]".into())
}

/// Counts a refused call and keeps the last few. Never logs one line a call: a flood must not fill the disk (F48).
async fn note_refusal(web: &Web, account: &ProviderAccount, refusal: &ReadError, bytes: usize) {
    let app = &web.app;
    let (verdict, why) = match refusal {
        ReadError::Malformed(why) => ("malformed", *why),
        ReadError::Forged { why, .. } => ("forged", *why),
    };
    app.metrics.count(&app.metrics.deliveries, &account.provider, verdict);
    app.metrics.count(&app.metrics.security, &account.provider, why);
    let seen = web.refusals.count(&account.id, app.now());
    let Some(slot) = seen else { return };
    let bytes = i64::try_from(bytes).unwrap_or(i64::MAX);
    let kept = async {
        let mut tx = app.store.begin().await?;
        tx.put_refusal(&account.merchant_id, &account.id, slot % REFUSALS_KEPT, why, bytes, app.now()).await?;
        tx.commit().await
    };
    if let Err(error) = kept.await {
        tracing::debug!(error = %error, "A refusal was not kept");
    }
    tracing::warn!(provider = account.provider, account.id = %account.id, why, "Refused a webhook call");
}

fn respond(reply: Reply) -> Response {
    let status = StatusCode::from_u16(reply.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    if reply.content_type.is_empty() {
        return (status, reply.body).into_response();
    }
    (status, [(header::CONTENT_TYPE, reply.content_type)], reply.body).into_response()
}

/// Samples refused calls: at most ten a minute of each account are kept and logged, the rest only counted.
#[derive(Default)]
pub struct Refusals(std::sync::Mutex<std::collections::HashMap<String, (i64, i64, i64)>>);

impl Refusals {
    /// The slot for this refusal, or `None` when this minute had enough.
    fn count(&self, account: &str, now: i64) -> Option<i64> {
        let minute = now / 60_000_000;
        let mut map = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // Accounts are ours, so the map has at most as many rows as there are accounts.
        let (at, in_minute, total) = map.entry(account.to_owned()).or_insert((minute, 0, 0));
        if *at != minute {
            (*at, *in_minute) = (minute, 0);
        }
        *in_minute += 1;
        if *in_minute > 10 {
            return None;
        }
        *total += 1;
        Some(*total)
    }
}
