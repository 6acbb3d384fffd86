//! The HTTP interface: one router, one server.

pub mod api;
pub mod auth;
mod believed;
mod docs;
mod framing;
mod guests;
pub mod idempotency;
pub mod input;
pub mod json;
pub mod openapi;
pub mod server;
pub mod webhooks;

use std::ops::Deref;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use tokio::time::timeout;

use crate::app::SharedApp;
use crate::intake::Intake;
use crate::log::in_full;
use crate::sandbox::host::Host;

/// What handlers are given. Each request takes a few clones of it, on several threads at once, so it is one thing.
#[derive(Clone)]
pub struct Web(Arc<Given>);

/// What is in it.
pub struct Given {
    /// The hub.
    pub app: SharedApp,
    /// The way in for webhooks.
    pub intake: Intake<webhooks::Webhooks>,
    /// The way in for orders of payments.
    pub orders: Intake<api::Orders>,
    /// Accounts that webhook addresses named a moment ago.
    pub accounts: webhooks::Accounts,
    /// Samples refused webhook calls.
    pub refusals: webhooks::Refusals,
    /// API keys seen a moment ago.
    pub keys: believed::Believed<crate::store::ApiKey>,
    /// Counts what pages may be asked for too often.
    pub guards: crate::web::Guards,
    /// The simulated gateways and invoicing APIs, when the settings ask for them.
    pub sandbox: Option<Arc<Host>>,
}

impl Deref for Web {
    type Target = Given;

    fn deref(&self) -> &Given {
        &self.0
    }
}

impl Web {
    /// The handlers' side of a hub.
    pub fn new(app: SharedApp, intake: Intake<webhooks::Webhooks>, orders: Intake<api::Orders>) -> Self {
        let sandbox = app.config.sandbox.then(|| Arc::new(Host::of_hub(app.clone())));
        let (accounts, refusals) = Default::default();
        let (keys, guards) = Default::default();
        Web(Arc::new(Given { app, intake, orders, accounts, refusals, keys, guards, sandbox }))
    }
}

/// Everything that is served.
pub fn router(web: Web) -> Router {
    let mut router = Router::new()
        .merge(api::router(&web))
        .merge(openapi::router())
        .merge(webhooks::router(&web))
        .merge(crate::web::router(&web))
        .merge(watching(web.app.clone()));
    if let Some(host) = &web.sandbox {
        router = router.merge(crate::sandbox::router(host));
    }
    router.fallback(crate::web::unknown).with_state(web)
}

/// What is served to those who watch a process: whether it lives, whether it can write, its counters.
pub fn watching<S: Clone + Send + Sync + 'static>(app: SharedApp) -> Router<S> {
    Router::new()
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics))
        .with_state(app)
}

/// The process lives. Touches nothing else, so it answers when all else is busy.
async fn healthz() -> &'static str {
    "ok\n"
}

/// The database can be written to.
async fn readyz(State(app): State<SharedApp>) -> Response {
    match app.store.probe().await {
        Ok(()) => "ready\n".into_response(),
        Err(error) => {
            match error.is_passing() {
                // Whoever looks after the database says once that it is away, not each look.
                true => tracing::debug!(error = in_full(&error), "Not ready"),
                false => tracing::error!(error = in_full(&error), "Not ready"),
            }
            (StatusCode::SERVICE_UNAVAILABLE, [(header::RETRY_AFTER, "2")], format!("{error}\n")).into_response()
        }
    }
}

/// The depth of the queue is told when the database says it within this time: who collects counters waits for ten seconds
/// as a rule, and during an outage wants all the others.
const DEPTH: Duration = Duration::from_secs(1);

/// Counters in Prometheus' text form, with the depth of the queue as it is now.
async fn metrics(State(app): State<SharedApp>) -> Response {
    let mut text = app.metrics.text();
    let now = app.now();
    let asked = async { app.store.read().await?.queue_depth().await };
    let depth = timeout(DEPTH, asked).await.ok().and_then(Result::ok);
    let is_up = i32::from(depth.is_some());
    let depth = depth.unwrap_or_default();
    let seconds_since = |at: i64| (now - at).max(0) / 1_000_000;
    let tail = text.strip_suffix("# EOF\n").map(str::len);
    if let Some(len) = tail {
        text.truncate(len);
    }
    text.push_str("# HELP grosz_jobs Live jobs by kind and state.\n# TYPE grosz_jobs gauge\n");
    for line in &depth {
        text.push_str(&format!("grosz_jobs{{kind=\"{}\",state=\"{}\"}} {}\n", line.kind, line.state, line.count));
    }
    text.push_str(
        "# HELP grosz_job_age_seconds How long the oldest due job waits.\n# TYPE grosz_job_age_seconds gauge\n",
    );
    for line in depth.iter().filter(|l| l.state == "ready") {
        let age = seconds_since(line.oldest_run_at);
        text.push_str(&format!("grosz_job_age_seconds{{kind=\"{}\"}} {age}\n", line.kind));
    }
    let put_off: Vec<_> = depth.iter().filter(|l| l.state == "ready").collect();
    text.push_str(
        "# HELP grosz_jobs_put_off Jobs that failed, or wait for their turn, and come again.\n\
         # TYPE grosz_jobs_put_off gauge\n",
    );
    for line in &put_off {
        text.push_str(&format!("grosz_jobs_put_off{{kind=\"{}\"}} {}\n", line.kind, line.put_off));
    }
    text.push_str(
        "# HELP grosz_job_put_off_age_seconds How long ago the oldest of them was made.\n\
         # TYPE grosz_job_put_off_age_seconds gauge\n",
    );
    for line in &put_off {
        let age = line.put_off_since.map_or(0, seconds_since);
        text.push_str(&format!("grosz_job_put_off_age_seconds{{kind=\"{}\"}} {age}\n", line.kind));
    }
    text.push_str("# HELP grosz_database_up The database answers in time.\n# TYPE grosz_database_up gauge\n");
    text.push_str(&format!("grosz_database_up {is_up}\n"));
    text.push_str("# HELP grosz_db_statements Statements asked of the database.\n# TYPE grosz_db_statements counter\n");
    text.push_str(&format!("grosz_db_statements_total {}\n", app.store.statements()));
    text.push_str("# EOF\n");
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response()
}
