//! Who calls: bearer keys, looked up by their hash.
//!
//! A small cache spares the database the same look-up at every call; its rows live for two seconds, so a revoked key
//! is dead within seconds in every process.

use std::collections::HashMap;
use std::sync::Mutex;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::http::{Method, StatusCode, header};

use super::Web;
use crate::clock::seconds;
use crate::flows::add_key::{has_key_form, key_hash};
use crate::problem::Problem;
use crate::store::ApiKey;

/// How long a key is believed without asking the database, in microseconds.
const BELIEVED: i64 = seconds(2);

/// Keys in the cache at most; beyond that it is emptied.
const MAX_CACHED: usize = 10_000;

/// The owner of a valid key that may make this request.
#[derive(Debug, Clone)]
pub struct Caller {
    /// Whose data it may touch.
    pub merchant: String,
    /// Whether these are live accounts and payments or those of the test mode.
    pub live: bool,
}

/// Keys seen a moment ago.
#[derive(Default)]
pub struct KeyCache(Mutex<HashMap<String, (ApiKey, i64)>>);

impl KeyCache {
    /// A clock that was set back ends the belief too.
    fn get(&self, hash: &str, now: i64) -> Option<ApiKey> {
        let map = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        map.get(hash).filter(|(_, at)| (0..BELIEVED).contains(&(now - at))).map(|(key, _)| key.clone())
    }

    /// Only keys that exist are kept, so a flood of bad ones cannot push the good ones out.
    fn put(&self, key: ApiKey, now: i64) {
        let mut map = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if map.len() >= MAX_CACHED {
            map.clear();
        }
        map.insert(key.hash.clone(), (key, now));
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
    if let Some(known) = web.keys.get(&hash, web.app.now()) {
        return Ok(known);
    }
    let found = web.app.store.read().await?.api_key_by_hash(&hash).await?.ok_or_else(Problem::unauthorized)?;
    web.keys.put(found.clone(), web.app.now());
    Ok(found)
}

/// The credentials after the scheme, whose spelling is free (RFC 9110).
fn bearer(value: &str) -> Option<&str> {
    let (scheme, rest) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| rest.trim())
}
