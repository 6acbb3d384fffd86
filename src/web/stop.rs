//! Why a page was not shown. Handlers answer with a reason; one place turns it into a page (F73): no path, no cause, an
//! id that the log knows too.

use std::sync::{Arc, Mutex};

use askama::Template;
use axum::extract::FromRequestParts;
use axum::http::StatusCode;
use axum::http::request::Parts;
use axum::response::{IntoResponse, Response};
use serde::de::DeserializeOwned;

use super::look::{Forms, Look, page as render};
use crate::flows::FlowError;
use crate::http::Web;
use crate::store::StoreError;

/// Why a page was not shown.
#[derive(Debug)]
pub(crate) enum Stop {
    /// No such thing, or not for this reader: nobody can tell which.
    NotFound,
    /// The form did not come from our page.
    Forbidden,
    /// A form that is larger than any of ours.
    TooLarge,
    /// Too often.
    Slow,
    /// It is not payable now, whatever the reason.
    Off,
    /// The invoice is not there yet.
    NoPdf,
    /// The database cannot be used at the moment; a moment later it works, perhaps.
    Away(String),
    /// Ours.
    Fault(String),
}

impl Stop {
    /// A fault with its cause, for the log.
    pub fn fault(what: &str, cause: &dyn std::fmt::Display) -> Stop {
        Stop::Fault(format!("{what}: {cause}"))
    }
}

impl From<FlowError> for Stop {
    fn from(e: FlowError) -> Stop {
        match e {
            FlowError::NotFound(_) => Stop::NotFound,
            FlowError::Conflict { .. } | FlowError::Invalid { .. } => Stop::Off,
            FlowError::Store(e) => e.into(),
            FlowError::Gateway(_) | FlowError::Internal(_) => Stop::Fault(e.to_string()),
        }
    }
}

impl From<StoreError> for Stop {
    fn from(e: StoreError) -> Stop {
        if e.is_passing() { Stop::Away(e.to_string()) } else { Stop::Fault(e.to_string()) }
    }
}

/// A path's parameters. An address that is no text leads nowhere.
pub(crate) struct Path<T>(pub T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Path<T> {
    type Rejection = Stop;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Stop> {
        let read = axum::extract::Path::from_request_parts(parts, state).await;
        read.map(|axum::extract::Path(names)| Path(names)).map_err(|_| Stop::NotFound)
    }
}

/// Carries the reason to where the reader's language is known.
#[derive(Clone)]
pub(crate) struct Stopped(Arc<Mutex<Option<Stop>>>);

impl Stopped {
    /// The reason.
    pub fn into_inner(self) -> Stop {
        let mut held = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        held.take().unwrap_or(Stop::NotFound)
    }
}

impl IntoResponse for Stop {
    fn into_response(self) -> Response {
        let mut answer = StatusCode::INTERNAL_SERVER_ERROR.into_response();
        answer.extensions_mut().insert(Stopped(Arc::new(Mutex::new(Some(self)))));
        answer
    }
}

#[derive(Template)]
#[template(path = "message.html")]
struct Message<'a> {
    look: &'a Look,
    title: &'a str,
    text: &'a str,
    mark: &'a str,
    request: String,
}

/// The page that says so.
pub(crate) fn page(web: &Web, look: &Look, stop: Stop) -> Response {
    let t = look.t;
    let (status, title, text, mark) = match &stop {
        Stop::NotFound => (StatusCode::NOT_FOUND, t.not_found_title, t.not_found_text, "none"),
        Stop::Forbidden => (StatusCode::FORBIDDEN, t.forbidden_title, t.forbidden_text, "stop"),
        Stop::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, t.forbidden_title, t.too_large_text, "stop"),
        Stop::Slow => (StatusCode::TOO_MANY_REQUESTS, t.slow_title, t.slow_text, "wait"),
        Stop::Off => (StatusCode::CONFLICT, t.off_title, t.off_text, "stop"),
        Stop::NoPdf => (StatusCode::NOT_FOUND, t.no_pdf_title, t.no_pdf_text, "wait"),
        Stop::Away(_) => (StatusCode::SERVICE_UNAVAILABLE, t.oops_title, t.oops_text, "wait"),
        Stop::Fault(_) => (StatusCode::INTERNAL_SERVER_ERROR, t.oops_title, t.oops_text, "stop"),
    };
    let mut request = String::new();
    match &stop {
        Stop::Fault(cause) => {
            request = web.app.ids.make("req");
            tracing::error!(request.id = %request, error = %cause, "A page failed");
        }
        // Said once by whoever looks after the database.
        Stop::Away(cause) => tracing::debug!(error = %cause, "A page has to wait"),
        _ => {}
    }
    let message = Message { look, title, text, mark, request };
    let mut answer =
        render(web, status, Forms::Here, &message).unwrap_or_else(|_| (status, title.to_owned()).into_response());
    super::look::harden(&mut answer);
    let retry_after = match status {
        StatusCode::TOO_MANY_REQUESTS => Some("60"),
        StatusCode::SERVICE_UNAVAILABLE => Some("5"),
        _ => None,
    };
    if let Some(seconds) = retry_after {
        answer.headers_mut().insert("retry-after", axum::http::HeaderValue::from_static(seconds));
    }
    answer
}
