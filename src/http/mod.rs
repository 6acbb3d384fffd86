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

use axum::Router;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

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
        .route("/healthz", get(healthz))
        .route("/readyz", get(readyz))
        .route("/metrics", get(metrics));
    if let Some(host) = &web.sandbox {
        router = router.merge(crate::sandbox::router(host));
    }
    router.fallback(crate::web::unknown).with_state(web)
}

/// The process lives. Touches nothing else, so it answers when all else is busy.
async fn healthz() -> &'static str {
    "ok\n"
}

/// The database can be written to.
async fn readyz(State(web): State<Web>) -> Response {
    match web.app.store.probe().await {
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

/// Counters in Prometheus' text form, with the depth of the queue as it is now.
async fn metrics(State(web): State<Web>) -> Response {
    let mut text = web.app.metrics.text();
    let now = web.app.now();
    let depth = match web.app.store.read().await {
        Ok(mut tx) => tx.queue_depth().await.unwrap_or_default(),
        Err(_) => vec![],
    };
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
        let age = (now - line.oldest_run_at).max(0) / 1_000_000;
        text.push_str(&format!("grosz_job_age_seconds{{kind=\"{}\"}} {age}\n", line.kind));
    }
    text.push_str("# HELP grosz_db_statements Statements asked of the database.\n# TYPE grosz_db_statements counter\n");
    text.push_str(&format!("grosz_db_statements_total {}\n", web.app.store.statements()));
    text.push_str("# EOF\n");
    ([(header::CONTENT_TYPE, "application/openmetrics-text; version=1.0.0; charset=utf-8")], text).into_response()
}
