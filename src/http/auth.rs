//! Who calls: bearer keys, looked up by their hash.
//!
//! A key is believed for two seconds (`believed.rs`), so one that was revoked is dead within seconds in every process.

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{Method, StatusCode, header};

use super::Web;
use crate::flows::add_key::{has_key_form, key_hash};
use crate::problem::Problem;
use crate::store::ApiKey;

/// The owner of a valid key that may make this request.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Whose data it may touch.
    pub merchant: String,
    /// Whether these are live accounts and payments or those of the test mode.
    pub live: bool,
}

impl Caller {
    /// Whether something is shown to this caller: it belongs to the caller's mode, or to both.
    pub fn sees(&self, mode: Option<&bool>) -> bool {
        mode.is_none_or(|live| *live == self.live)
    }
}

impl FromRequestParts<Web> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, web: &Web) -> Result<Self, Problem> {
        let key = find_key(parts, web).await?;
        // Reading and writing are the two scopes, and the method tells them apart.
        let scope = if matches!(parts.method, Method::GET | Method::HEAD) { "read" } else { "write" };
        if !key.scopes.iter().any(|s| s == scope) {
            let detail = format!("this request needs an API key with the scope \"{scope}\"");
            return Err(Problem::new(StatusCode::FORBIDDEN, "scope_missing").detail(detail));
        }
        Ok(Caller { merchant: key.merchant_id, live: key.live })
    }
}

async fn find_key(parts: &Parts, web: &Web) -> Result<ApiKey, Problem> {
    let mut values = parts.headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), None) = (values.next(), values.next()) else { return Err(Problem::unauthorized()) };
    let text = bearer(value.to_str().unwrap_or_default()).ok_or_else(Problem::unauthorized)?;
    if !has_key_form(text) {
        return Err(Problem::unauthorized());
    }
    let hash = key_hash(text);
    let ask = async { Ok::<_, Problem>(web.app.store.read().await?.api_key_by_hash(&hash).await?) };
    web.keys.find(&web.app.clock, &hash, ask).await?.ok_or_else(Problem::unauthorized)
}

/// The credentials after the scheme, whose spelling is free (RFC 9110).
fn bearer(value: &str) -> Option<&str> {
    let (scheme, rest) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| rest.trim())
}
