//! One call to the Stripe API: who we are, which version we speak, and what an answer that is no success means.
//!
//! (Stripe API reference: "Authentication", "Versioning", "Idempotent requests", "Errors".)

use serde_json::Value;

use super::form;
use crate::gateway::{CallError, Cx};
use crate::wire::{HttpRequest, HttpResponse};

/// Pages of a list that are read before giving up, of [`PAGE`] objects each.
const PAGES: usize = 10;
/// Objects asked for at once; the most Stripe gives.
const PAGE: usize = 100;
/// What bodies are.
const FORM: &str = "application/x-www-form-urlencoded";

/// Whether a call changes anything: a broken answer to a write leaves its outcome unknown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Intent {
    /// Nothing.
    Read,
    /// What does no harm when it is changed twice.
    Again,
    /// Anything else.
    Write,
}

/// Reads one object.
pub(super) async fn get(cx: &Cx<'_>, path: &str, query: &Value) -> Result<Value, CallError> {
    let query = encode(query);
    let mark = if query.is_empty() { "" } else { "?" };
    send(cx, HttpRequest::get(format!("{}{path}{mark}{query}", root(cx))), Intent::Read).await
}

/// Sends a form. `key` is the `Idempotency-Key`: within a day a repeat with the same parameters gets the first answer.
pub(super) async fn post(cx: &Cx<'_>, path: &str, params: &Value, key: Option<&str>) -> Result<Value, CallError> {
    let mut request = HttpRequest::post(format!("{}{path}", root(cx)), FORM, encode(params).into_bytes());
    if let Some(key) = key {
        request = request.header("idempotency-key", key);
    }
    send(cx, request, Intent::Write).await
}

/// Posts what does no harm when it is done twice, and need not be asked about before it is.
pub(super) async fn post_again(cx: &Cx<'_>, path: &str) -> Result<Value, CallError> {
    send(cx, HttpRequest::post(format!("{}{path}", root(cx)), FORM, vec![]), Intent::Again).await
}

/// The first object of a list that fits, newest first.
///
/// # Errors
/// As for any call; [`CallError::Unknown`] when the list is longer than we read.
pub(super) async fn search(
    cx: &Cx<'_>,
    path: &str,
    filter: &Value,
    mut fits: impl FnMut(&Value) -> bool,
) -> Result<Option<Value>, CallError> {
    let mut query = filter.clone();
    query["limit"] = PAGE.into();
    for _ in 0..PAGES {
        let mut page = get(cx, path, &query).await?;
        let more = page["has_more"] == true;
        let Some(Value::Array(found)) = page.get_mut("data").map(Value::take) else {
            return Err(CallError::Unknown("a list without data".into()));
        };
        let last = found.last().and_then(|o| o["id"].as_str()).map(str::to_owned);
        if let Some(hit) = found.into_iter().find(|o| fits(o)) {
            return Ok(Some(hit));
        }
        match last {
            Some(id) if more => query["starting_after"] = id.into(),
            _ => return Ok(None),
        }
    }
    Err(CallError::Unknown(format!("more than {} objects to look through", PAGES * PAGE)))
}

/// A name that Stripe gave, fit to stand in a path.
///
/// # Errors
/// [`CallError::Invalid`] when it holds anything else: it came from outside once.
pub(super) fn id(text: &str) -> Result<&str, CallError> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    match !text.is_empty() && text.len() <= 255 && text.bytes().all(plain) {
        true => Ok(text),
        false => Err(CallError::Invalid { field: "gateway_ref", why: "is not a name that Stripe gives".into() }),
    }
}

fn root<'a>(cx: &'a Cx<'_>) -> &'a str {
    cx.settings.text("base_url").trim_end_matches('/')
}

fn encode(params: &Value) -> String {
    form_urlencoded::Serializer::new(String::new()).extend_pairs(form::flatten(params)).finish()
}

async fn send(cx: &Cx<'_>, request: HttpRequest, intent: Intent) -> Result<Value, CallError> {
    let secret = cx.settings.text("secret_key");
    mode_fits(secret, cx.live).map_err(|why| CallError::Config(format!("secret_key {why}")))?;
    let mut request = request
        .header("authorization", format!("Bearer {secret}"))
        .header("stripe-version", cx.settings.text("api_version"));
    if let Some(account) = cx.settings.get("account") {
        request = request.header("stripe-account", account);
    }
    let answer = cx.http.send(request).await?;
    outcome(&answer, intent, secret)
}

/// The key decides whether money is real, so it must say the same as the account.
///
/// # Errors
/// What it says instead, to be put behind the setting's name.
pub(super) fn mode_fits(secret: &str, live: bool) -> Result<(), &'static str> {
    let of = |mode: &str| ["sk", "rk"].iter().any(|kind| secret.starts_with(&format!("{kind}_{mode}_")));
    match live {
        true if of("test") => Err("is a test key; this account takes real money"),
        false if of("live") => Err("is a live key; this account is for tests"),
        _ => Ok(()),
    }
}

/// By status first, then `type`, then `code`, as the vendor's libraries do; `stripe-should-retry` outranks the status
/// where it only decides between now and never.
fn outcome(answer: &HttpResponse, intent: Intent, secret: &str) -> Result<Value, CallError> {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
    let error = body.get("error");
    if answer.is_success() {
        return match body.is_object() && error.is_none() {
            true => Ok(body),
            false => Err(CallError::Unknown(format!("HTTP {} without an object{}", answer.status, request_id(answer)))),
        };
    }
    let word = |name: &str| error.and_then(|e| e[name].as_str()).unwrap_or_default();
    let busy = CallError::Busy { retry_after_s: answer.retry_after_s() };
    let unknown = || CallError::Unknown(format!("HTTP {}{}", answer.status, request_id(answer)));
    let told = answer.headers.first("stripe-should-retry");
    // Whoever stands before the API, such as a firewall, speaks neither of our credentials nor of our call.
    let is_theirs = !word("type").is_empty();
    match answer.status {
        409 | 429 if told == Some("false") => Err(refused(answer, &word, secret)),
        409 | 429 => Err(busy),
        400..=499 if !is_theirs && intent == Intent::Read => Err(busy),
        400..=499 if !is_theirs => Err(unknown()),
        // The key was used with other parameters: the first call may have been carried out.
        400 if word("type") == "idempotency_error" => Err(unknown()),
        400 if matches!(word("code"), "rate_limit" | "lock_timeout") => Err(busy),
        // The message is left out: it repeats a part of the key.
        401 | 403 => Err(CallError::Config(format!("HTTP {} {}{}", answer.status, word("type"), request_id(answer)))),
        400..=499 => Err(refused(answer, &word, secret)),
        500..=599 if intent == Intent::Read => Err(busy),
        503 if intent == Intent::Again => Err(busy),
        _ => Err(unknown()),
    }
}

fn refused<'a>(answer: &HttpResponse, word: &impl Fn(&str) -> &'a str, secret: &str) -> CallError {
    let code = ["decline_code", "code", "type"].iter().map(|n| word(n)).find(|w| !w.is_empty());
    let message = word("message").replace(secret, "***");
    CallError::Refused {
        code: code.map_or_else(|| format!("http_{}", answer.status), |c| plain(c, 64)),
        message: plain(&message, 300) + &request_id(answer),
    }
}

/// Their name for the call, for their support.
fn request_id(answer: &HttpResponse) -> String {
    answer.headers.first("request-id").map_or_else(String::new, |id| format!(" (request {})", plain(id, 64)))
}

fn plain(text: &str, limit: usize) -> String {
    text.chars().filter(|c| !c.is_control()).take(limit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stripe::tests::vectors;
    use crate::wire::Headers;

    const SECRET: &str = "sk_test_canary";

    fn answer(status: u64, headers: &Value, body: &Value) -> HttpResponse {
        let pairs = headers.as_object().unwrap().iter().map(|(k, v)| (k.clone(), v.as_str().unwrap()));
        HttpResponse {
            status: u16::try_from(status).unwrap(),
            headers: Headers::from_pairs(pairs),
            body: body.to_string().into_bytes(),
        }
    }

    fn none() -> Value {
        serde_json::json!({})
    }

    // Every published error lands in the class that says what to do next.
    #[test]
    fn every_error_vector_has_its_class() {
        let vectors = vectors();
        let cases = vectors["stripe_errors"].as_array().unwrap();
        assert_eq!(cases.len(), 16);
        for case in cases {
            let body = serde_json::json!({"error": case["error"]});
            let answer = answer(case["status"].as_u64().unwrap(), &none(), &body);
            let got = outcome(&answer, Intent::Write, SECRET).unwrap_err();
            let fits = match case["hub_action"].as_str().unwrap() {
                "merchant" => matches!(got, CallError::Refused { .. } | CallError::Config(_)),
                "decline" => matches!(got, CallError::Refused { .. }),
                "retry_same_key" => matches!(got, CallError::Busy { .. } | CallError::Unknown(_)),
                "bug_new_key_needed" => matches!(got, CallError::Unknown(_)),
                other => panic!("{other}"),
            };
            assert!(fits, "{case}: {got:?}");
        }
    }

    // "Retry" is the hub's to do; the class says whether it may. How many tries are left is not known here.
    #[test]
    fn every_retry_vector_may_or_may_not_be_repeated() {
        let vectors = vectors();
        let cases = vectors["stripe_retry"]["cases"].as_array().unwrap();
        assert_eq!(cases.len(), 17);
        for case in cases.iter().filter(|c| c["status"].is_number() && c["id"] != "503 out of tries") {
            let status = case["status"].as_u64().unwrap();
            // Stripe's own errors have a type; what has none is of somebody who stands before it.
            let body = if status < 400 { none() } else { serde_json::json!({"error": {"type": "api_error"}}) };
            let got = outcome(&answer(status, &case["headers"], &body), Intent::Write, SECRET);
            let fits = match (&got, case["hub_retry"] == true) {
                (Ok(_), retry) => !retry,
                (Err(CallError::Busy { .. }), retry) => retry,
                (Err(CallError::Refused { .. } | CallError::Config(_)), retry) => !retry,
                // Whether told to repeat or not: after a 5xx the outcome is not known, and we ask first.
                (Err(CallError::Unknown(_)), _) => status >= 500,
                _ => false,
            };
            assert!(fits, "{case}: {got:?}");
        }
    }

    #[track_caller]
    fn check(status: u64, headers: Value, body: &str, intent: Intent, expect: &str) {
        let mut answer = answer(status, &headers, &none());
        answer.body = body.as_bytes().to_vec();
        assert_eq!(format!("{:?}", outcome(&answer, intent, SECRET).unwrap_err()), expect);
    }

    // F29, F37, F72
    #[test]
    fn what_is_not_an_answer_is_not_a_success() {
        check(200, none(), "<html>", Intent::Write, r#"Unknown("HTTP 200 without an object")"#);
        check(200, none(), r#"{"error":{}}"#, Intent::Read, r#"Unknown("HTTP 200 without an object")"#);
        // A firewall's page says nothing about credentials, and nothing about what the API would have said.
        check(403, none(), "<html>Access denied</html>", Intent::Read, "Busy { retry_after_s: None }");
        check(403, none(), "<html>Access denied</html>", Intent::Write, r#"Unknown("HTTP 403")"#);
        check(401, none(), r#"{"message":"Forbidden"}"#, Intent::Write, r#"Unknown("HTTP 401")"#);
        check(404, none(), "no such host", Intent::Write, r#"Unknown("HTTP 404")"#);
        let request = serde_json::json!({"request-id": "req_1\r\n"});
        check(302, request, "", Intent::Write, r#"Unknown("HTTP 302 (request req_1)")"#);
        let wait = serde_json::json!({"retry-after": "120"});
        check(503, wait.clone(), "", Intent::Write, r#"Unknown("HTTP 503")"#);
        check(503, wait.clone(), "", Intent::Read, "Busy { retry_after_s: Some(120) }");
        check(503, wait.clone(), "", Intent::Again, "Busy { retry_after_s: Some(120) }");
        check(500, wait.clone(), "", Intent::Again, r#"Unknown("HTTP 500")"#);
        check(429, wait, "", Intent::Write, "Busy { retry_after_s: Some(120) }");
        let told = r#"{"error":{"type":"invalid_request_error","message":"Invalid key sk_test_canary"}}"#;
        check(401, none(), told, Intent::Read, r#"Config("HTTP 401 invalid_request_error")"#);
        let refused = r#"Refused { code: "invalid_request_error", message: "Invalid key ***" }"#;
        check(404, none(), told, Intent::Read, refused);
    }

    #[test]
    fn the_key_must_say_what_the_account_says() {
        assert!(mode_fits("sk_test_1", false).is_ok() && mode_fits("rk_live_1", true).is_ok());
        assert!(mode_fits("sk_test_1", true).is_err() && mode_fits("rk_live_1", false).is_err());
    }

    #[test]
    fn only_plain_names_go_into_a_path() {
        assert!(id("cs_test_a1B2").is_ok());
        for bad in ["", "../refunds", "a/b", "a?b", "ż", "a b"] {
            assert!(id(bad).is_err(), "{bad}");
        }
    }
}
