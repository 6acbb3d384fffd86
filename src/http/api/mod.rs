//! The JSON interface for client apps: one file per resource, each with its handlers, its bodies and their rules.
//!
//! A handler reads and checks its input, calls a flow inside one transaction, and shows the result. What it needs of
//! the caller (key, scope, mode) is in [`Caller`](super::auth::Caller), what makes a POST safe to repeat in
//! [`Turn`](super::idempotency::Turn).

mod alerts;
mod cases;
mod deliveries;
mod events;
mod experts;
mod invoices;
mod invoicing_accounts;
mod jobs;
mod lists;
mod merchant;
mod notices;
mod orders;
mod payers;
mod payments;
mod profiles;
mod provider_accounts;
mod providers;
mod refunds;
mod timeline;
mod views;
mod webhook_endpoints;

use std::panic::AssertUnwindSafe;
use std::time::{Duration, Instant};

use axum::Router;
use axum::extract::{MatchedPath, Request, State};
use axum::handler::Handler;
use axum::http::HeaderValue;
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodFilter, MethodRouter, any};
use futures_util::FutureExt;
use utoipa::__dev::{SchemaReferences, Tags};
use utoipa::Path;
use utoipa::openapi::path::{HttpMethod, Operation};
use utoipa::openapi::{RefOr, Schema};

pub use merchant::check_origin;
pub use orders::{Called, Orders};

use super::Web;
use super::input::Stash;
use crate::problem::Problem;

/// All of `/v1`, each answer under a request id, each error as a problem.
pub fn router(web: &Web) -> Router<Web> {
    let mut router = Router::new();
    for (path, method_router) in parts(web.app.config.attachment_limit_bytes).routes {
        router = router.route(&path, method_router);
    }
    router
        .route("/v1", any(nothing_here))
        .route("/v1/", any(nothing_here))
        .route("/v1/{*rest}", any(nothing_here))
        .layer(axum::middleware::from_fn_with_state(web.clone(), finish))
}

/// Every operation with its handler and its description, in the order of the document.
pub(super) fn parts(attachment_limit: usize) -> Part {
    Part::default()
        .join(merchant::part())
        .join(providers::part())
        .join(provider_accounts::part())
        .join(invoicing_accounts::part())
        .join(experts::part())
        .join(payers::part())
        .join(profiles::part())
        .join(cases::part())
        .join(payments::part())
        .join(refunds::part())
        .join(timeline::part())
        .join(invoices::part(attachment_limit))
        .join(alerts::part())
        .join(notices::part())
        .join(deliveries::part())
        .join(jobs::part())
        .join(events::part())
        .join(webhook_endpoints::part())
}

/// Routes and their descriptions, added together so that neither can be without the other (R-HUB-07).
#[derive(Default)]
pub(super) struct Part {
    routes: Vec<(String, MethodRouter<Web>)>,
    /// Made only when the document is asked for: they take more memory than all that a hub needs to stand ready.
    descriptions: Vec<fn(&mut Described)>,
}

/// What the document says of some routes.
#[derive(Default)]
pub(super) struct Described {
    /// Path, methods and operation of each.
    pub operations: Vec<(String, Vec<HttpMethod>, Operation)>,
    /// Schemas that they use.
    pub schemas: Vec<(String, RefOr<Schema>)>,
}

impl Part {
    /// Adds a handler; `doc` is the description that `utoipa::path` wrote beside it.
    fn add<P: Path + SchemaReferences + for<'t> Tags<'t>, T: 'static>(
        mut self,
        doc: P,
        handler: impl Handler<T, Web>,
    ) -> Self {
        let _ = doc;
        let methods = P::methods();
        let filter = methods.iter().map(filter_of).reduce(MethodFilter::or).unwrap_or(MethodFilter::GET);
        self.routes.push((P::path(), MethodRouter::new().on(filter, handler)));
        self.descriptions.push(describe::<P>);
        self
    }

    /// Describes all routes, in their order.
    pub(super) fn described(self) -> Described {
        let mut described = Described::default();
        self.descriptions.into_iter().for_each(|describe| describe(&mut described));
        described
    }

    fn join(mut self, other: Part) -> Self {
        self.routes.extend(other.routes);
        self.descriptions.extend(other.descriptions);
        self
    }

    /// Applies a change to every route.
    fn map(mut self, change: impl Fn(MethodRouter<Web>) -> MethodRouter<Web>) -> Self {
        self.routes = self.routes.into_iter().map(|(path, route)| (path, change(route))).collect();
        self
    }
}

fn describe<P: Path + SchemaReferences + for<'t> Tags<'t>>(into: &mut Described) {
    let mut operation = P::operation();
    operation.tags = Some(P::tags().into_iter().map(str::to_owned).collect());
    into.operations.push((P::path(), P::methods(), operation));
    P::schemas(&mut into.schemas);
}

fn filter_of(method: &HttpMethod) -> MethodFilter {
    match method {
        HttpMethod::Get => MethodFilter::GET,
        HttpMethod::Post => MethodFilter::POST,
        HttpMethod::Put => MethodFilter::PUT,
        HttpMethod::Delete => MethodFilter::DELETE,
        HttpMethod::Options => MethodFilter::OPTIONS,
        HttpMethod::Head => MethodFilter::HEAD,
        HttpMethod::Patch => MethodFilter::PATCH,
        HttpMethod::Trace => MethodFilter::TRACE,
    }
}

async fn nothing_here() -> Problem {
    Problem::not_found().detail("there is nothing at this address; /docs lists what there is")
}

/// How often a request whose transaction met another one is run before its caller hears of it (F57).
const TRIES: u32 = 8;

/// Runs a request, and again when its transaction met another one: nothing of it was committed then.
async fn run_patiently(web: &Web, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let stash = Stash::default();
    parts.extensions.insert(stash.clone());
    let mut answer = next.clone().run(Request::from_parts(parts.clone(), body)).await;
    for tries in 1..TRIES {
        if !answer.extensions().get::<Problem>().is_some_and(Problem::is_conflict_of_rows) {
            break;
        }
        web.app.metrics.count(&web.app.metrics.conflicts, "api", "repeated");
        tokio::time::sleep(Duration::from_millis(u64::from(tries * tries))).await;
        let body = stash.0.get().cloned().unwrap_or_default();
        answer = next.clone().run(Request::from_parts(parts.clone(), body.into())).await;
    }
    answer
}

/// Names the request, renders problems, counts and logs. One line a request, without any value of it.
async fn finish(State(web): State<Web>, route: Option<MatchedPath>, request: Request, next: Next) -> Response {
    let id = web.app.ids.make("req");
    let method = request.method().clone();
    let route = route.map_or_else(|| "none".to_owned(), |r| r.as_str().to_owned());
    let began = Instant::now();
    // What a panic leaves behind is dropped with its transaction, which is taken back (F26).
    let answered = AssertUnwindSafe(run_patiently(&web, request, next)).catch_unwind().await;
    let mut answer = answered.unwrap_or_else(|_| {
        tracing::error!(request.id = %id, "A request met a fault of the hub: its handler panicked");
        Problem::internal().into_response()
    });
    let mut code = "";
    if let Some(problem) = answer.extensions_mut().remove::<Problem>() {
        code = problem.code();
        answer = problem.render(&id);
    } else if answer.status().is_client_error() || answer.status().is_server_error() {
        let problem = Problem::of_status(answer.status());
        code = problem.code();
        answer = problem.render(&id);
    }
    if let Ok(value) = HeaderValue::from_str(&id) {
        answer.headers_mut().insert("x-request-id", value);
    }
    let status = answer.status().as_u16();
    let duration_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    web.app.metrics.count(&web.app.metrics.answers, &route, &format!("{}xx", status / 100));
    tracing::info!(request.id = %id, %method, route, status, code, duration_ms, "Answered {method} {route} with {status}");
    answer
}
