//! Errors as clients see them: RFC 9457 `application/problem+json` with a stable `code`. This file alone picks the HTTP
//! status of an error.
//!
//! No text here ever holds SQL, a path, a version or a cause from inside (F73): those go to the log, once, where the
//! problem is made.

use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use utoipa::ToSchema;

use crate::flows::FlowError;
use crate::log::in_full;
use crate::store::StoreError;

/// An error on its way to a client. Becomes a body in [`Problem::render`], when the request's id is known.
#[derive(Debug, Clone)]
pub struct Problem {
    status: StatusCode,
    code: &'static str,
    detail: Option<String>,
    errors: Vec<FieldError>,
    headers: Vec<(HeaderName, &'static str)>,
    met_another: bool,
}

/// One field that was refused.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct FieldError {
    /// JSON pointer to the field (RFC 6901), empty for the whole body; or the bare name of a query parameter.
    #[schema(example = "/lines/0/vat")]
    pub pointer: String,
    /// What is wrong, as the end of a sentence that begins with the field's name.
    #[schema(example = "must be a rate such as 23")]
    pub detail: String,
}

/// The body of every error (RFC 9457).
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Problem)]
pub struct ProblemBody {
    /// Stable address of this kind of error: `urn:grosz:problem:` and the code.
    #[serde(rename = "type")]
    #[schema(example = "urn:grosz:problem:validation_failed")]
    kind: String,
    /// The kind of error in words.
    title: &'static str,
    /// HTTP status.
    status: u16,
    /// Stable word to decide by.
    #[schema(example = "validation_failed")]
    code: &'static str,
    /// What happened this time, for people.
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<String>,
    /// Fields that were refused.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    errors: Vec<FieldError>,
    /// Name of the request, also in the header `X-Request-Id` and in the log.
    request_id: String,
}

impl Problem {
    /// An error of that status and code.
    pub fn new(status: StatusCode, code: &'static str) -> Self {
        Problem { status, code, detail: None, errors: vec![], headers: vec![], met_another: false }
    }

    /// With a sentence for people.
    #[must_use]
    pub fn detail(mut self, detail: impl Into<String>) -> Self {
        self.detail = Some(detail.into());
        self
    }

    /// With a header.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: &'static str) -> Self {
        self.headers.push((name, value));
        self
    }

    /// No valid key. Says nothing about why.
    pub fn unauthorized() -> Self {
        Problem::new(StatusCode::UNAUTHORIZED, "unauthorized").header(header::WWW_AUTHENTICATE, "Bearer")
    }

    /// There is no such thing, or it belongs to somebody else: the two look the same (F66).
    pub fn not_found() -> Self {
        Problem::new(StatusCode::NOT_FOUND, "not_found")
    }

    /// The body could not be read as JSON at all.
    pub fn not_json(detail: impl Into<String>) -> Self {
        Problem::new(StatusCode::BAD_REQUEST, "not_json").detail(detail)
    }

    /// Fields that were refused.
    pub fn invalid(errors: Vec<FieldError>) -> Self {
        let detail = match errors.as_slice() {
            [one] => format!("{} {}", name_of(&one.pointer), one.detail),
            many => format!("{} fields are wrong", many.len()),
        };
        Problem { errors, ..Problem::new(StatusCode::UNPROCESSABLE_ENTITY, "validation_failed").detail(detail) }
    }

    /// One field that was refused.
    pub fn field(pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        Problem::invalid(vec![FieldError { pointer: pointer.into(), detail: detail.into() }])
    }

    /// The same refusals of a part that lies below `pointer` in the request.
    #[must_use]
    pub fn below(self, pointer: &str) -> Self {
        let lower = |e: FieldError| FieldError { pointer: format!("{pointer}{}", e.pointer), ..e };
        if self.errors.is_empty() { self } else { Problem::invalid(self.errors.into_iter().map(lower).collect()) }
    }

    /// The state of things forbids it.
    pub fn conflict(code: &'static str, detail: impl Into<String>) -> Self {
        Problem::new(StatusCode::CONFLICT, code).detail(detail)
    }

    /// Come back in a moment.
    pub fn later() -> Self {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable")
            .detail("the hub cannot do this at the moment; nothing was changed, send the same request again")
            .header(header::RETRY_AFTER, "2")
    }

    /// Perhaps done, perhaps not: the database did not say.
    pub fn outcome_unknown() -> Self {
        Problem::new(StatusCode::SERVICE_UNAVAILABLE, "outcome_unknown")
            .detail("it is not known whether this was done; send it again with the same Idempotency-Key, or look first")
            .header(header::RETRY_AFTER, "2")
    }

    /// A fault of ours; the cause is in the log under the request's id.
    pub fn internal() -> Self {
        Problem::new(StatusCode::INTERNAL_SERVER_ERROR, "internal")
            .detail("this is a fault of the hub; its operator finds the cause in the log under the request id")
    }

    /// The kind of error that a bare HTTP status says.
    pub fn of_status(status: StatusCode) -> Self {
        let code = match status {
            StatusCode::NOT_FOUND => "not_found",
            StatusCode::METHOD_NOT_ALLOWED => "method_not_allowed",
            StatusCode::PAYLOAD_TOO_LARGE => "too_large",
            StatusCode::UNSUPPORTED_MEDIA_TYPE => "unsupported_media_type",
            StatusCode::REQUEST_TIMEOUT => "timeout",
            StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => "head_too_large",
            StatusCode::SERVICE_UNAVAILABLE => return Problem::later(),
            s if s.is_client_error() => "bad_request",
            _ => return Problem::internal(),
        };
        let problem = Problem::new(status, code);
        match status {
            StatusCode::METHOD_NOT_ALLOWED => problem.detail("the header Allow names the methods of this address"),
            _ => problem,
        }
    }

    /// HTTP status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// True when two transactions stood in each other's way, and doing the same again is right.
    pub fn is_conflict_of_rows(&self) -> bool {
        self.met_another
    }

    /// The stable code.
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// The answer, under a request's id.
    pub fn render(self, request_id: &str) -> Response {
        let body = ProblemBody {
            kind: format!("urn:grosz:problem:{}", self.code),
            title: title(self.code, self.status),
            status: self.status.as_u16(),
            code: self.code,
            detail: self.detail,
            errors: self.errors,
            request_id: request_id.to_owned(),
        };
        let text = serde_json::to_string(&body).unwrap_or_default();
        let mut answer = (self.status, text).into_response();
        let headers = answer.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Ok(id) = HeaderValue::from_str(request_id) {
            headers.insert("x-request-id", id);
        }
        for (name, value) in self.headers {
            headers.insert(name, HeaderValue::from_static(value));
        }
        answer
    }
}

/// Kinds of errors in words.
fn title(code: &str, status: StatusCode) -> &'static str {
    match code {
        "unauthorized" => "The API key is missing or not valid",
        "scope_missing" => "The API key may not do this",
        "not_found" => "There is no such thing",
        "not_json" => "The body is not JSON",
        "validation_failed" => "The request holds wrong values",
        "idempotency_mismatch" => "The idempotency key was used for another request",
        "idempotency_answer_gone" => "The answer under this idempotency key is no longer kept",
        "bad_idempotency_key" => "The idempotency key cannot be used",
        "method_not_allowed" => "This address does not take this method",
        "too_large" => "The body is too large",
        "unsupported_media_type" => "The body's type is not taken here",
        "head_too_large" => "The head of the request is too large",
        "timeout" => "The request took too long",
        "bad_request" => "The request cannot be read",
        "unavailable" => "Come back in a moment",
        "outcome_unknown" => "It is not known whether this was done",
        "gateway_failed" => "The outside service gave no usable answer",
        "internal" => "Something went wrong in the hub",
        _ if status == StatusCode::CONFLICT => "The present state forbids this",
        _ => "The request was refused",
    }
}

/// `lines.0.vat` for `/lines/0/vat`.
fn name_of(pointer: &str) -> String {
    if pointer.is_empty() { "the body".to_owned() } else { pointer.trim_start_matches('/').replace('/', ".") }
}

impl IntoResponse for Problem {
    /// A bare status that carries the problem; the layer around the API renders it.
    fn into_response(self) -> Response {
        let mut answer = self.status.into_response();
        answer.extensions_mut().insert(self);
        answer
    }
}

impl From<StoreError> for Problem {
    fn from(e: StoreError) -> Self {
        match e {
            // Taken: a row that was made a moment ago by somebody else. The same request again meets it.
            StoreError::Conflict | StoreError::Taken | StoreError::NeedsLocks => {
                Problem { met_another: true, ..Problem::later() }
            }
            StoreError::Unknown(_) => {
                tracing::warn!(error = %in_full(&e), "The database did not say whether it committed");
                Problem::outcome_unknown()
            }
            // Whoever looks after the database says once that it is away, not each call.
            StoreError::Unavailable(_) => {
                tracing::debug!(error = %in_full(&e), "The database turned a request away");
                Problem::later()
            }
            StoreError::Other(_) | StoreError::Unreadable(_) | StoreError::Schema(_) => {
                tracing::error!(error = %in_full(&e), "The database refused");
                Problem::internal()
            }
        }
    }
}

impl From<FlowError> for Problem {
    fn from(e: FlowError) -> Self {
        match e {
            FlowError::Invalid { field, why } => Problem::field(format!("/{}", field.replace('.', "/")), why),
            FlowError::NotFound(_) => Problem::not_found(),
            FlowError::Conflict { code, detail } => Problem::conflict(code, detail),
            FlowError::Gateway(call) => {
                tracing::warn!(error = %call, "An outside service gave no usable answer");
                Problem::new(StatusCode::BAD_GATEWAY, "gateway_failed").detail(call.to_string())
            }
            FlowError::Store(store) => store.into(),
            FlowError::Internal(cause) => {
                tracing::error!(error = %cause, "A request met a fault");
                Problem::internal()
            }
        }
    }
}
