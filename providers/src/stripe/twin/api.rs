//! The simulated API: who asks, under which key, and what for.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use super::objects::{self, Params};
use super::{ASYNC_S, KEY_LIFE_S, LATE_S, State, Stored, Timer, distort, later, text};
use crate::sign;
use crate::stripe::amount;
use crate::twin::{TwinAnswer, TwinRequest};

/// Status and body.
type Answer = (u16, Value);

/// Serves a request to `/v1/{path}`.
pub(super) fn serve(state: &mut State, request: &TwinRequest, path: &str) -> TwinAnswer {
    let faults = &request.faults;
    if faults.on("hang") {
        return TwinAnswer::Hang;
    }
    if faults.on("http_500") {
        return page(request, error(500, "api_error", "", "Something went wrong on our end."), false);
    }
    if faults.on("rate_limited") {
        return page(request, error(429, "invalid_request_error", "rate_limit", "Too many requests."), false);
    }
    if faults.on("error_in_200") {
        let (_, body) = error(400, "invalid_request_error", "parameter_invalid_empty", "Something was empty.");
        return page(request, (200, body), false);
    }
    let Some(account) = account_of(state, request) else {
        return page(request, error(401, "invalid_request_error", "", "Invalid API Key provided."), false);
    };
    let (answer, replayed) = match request.method.as_str() {
        "GET" => (read(state, request, &account, path), false),
        "POST" => keyed(state, request, &account, path),
        _ => (missing(path), false),
    };
    match faults.on("cut_after_work") {
        true => TwinAnswer::Cut,
        false => page(request, answer, replayed),
    }
}

/// Runs a POST under its `Idempotency-Key`, or answers as the first time.
fn keyed(state: &mut State, request: &TwinRequest, account: &str, path: &str) -> (Answer, bool) {
    let run = |state: &mut State| {
        let answer = write(state, request, account, path);
        // The endpoint has run and its answer is lost on the way out.
        let lost = request.faults.on("http_500_after_work") && answer.0 < 300;
        if lost { error(500, "api_error", "", "Something went wrong on our end.") } else { answer }
    };
    let Some(key) = request.headers.first("idempotency-key") else { return (run(state), false) };
    let now = request.now;
    state.keys.retain(|_, stored| later(stored.at, KEY_LIFE_S) > now);
    let mut pairs: Vec<_> = form_urlencoded::parse(&request.body).collect();
    pairs.sort();
    let fingerprint = sign::sha256_hex(format!("{path}\n{pairs:?}").as_bytes());
    let key = (account.to_owned(), key.to_owned());
    match state.keys.get(&key) {
        Some(first) if first.fingerprint == fingerprint => ((first.status, first.body.clone()), true),
        Some(_) => {
            let told = "Keys for idempotent requests can only be used with the same parameters they were first used \
                        with. Try using a key other than this one if you meant to execute a different request.";
            (error(400, "idempotency_error", "", told), false)
        }
        None => {
            let (status, body) = run(state);
            // What was refused before it ran is not kept: a corrected request may use the key.
            if !(400..500).contains(&status) || status == 402 {
                state.keys.insert(key, Stored { fingerprint, status, body: body.clone(), at: now });
            }
            ((status, body), false)
        }
    }
}

fn write(state: &mut State, request: &TwinRequest, account: &str, path: &str) -> Answer {
    let params = params(&request.body);
    match path.split('/').collect::<Vec<_>>()[..] {
        ["checkout", "sessions"] => create_session(state, request, account, &params),
        ["checkout", "sessions", id, "expire"] => expire_session(state, request, account, id),
        ["refunds"] => create_refund(state, request, account, &params),
        _ => missing(path),
    }
}

fn read(state: &State, request: &TwinRequest, account: &str, path: &str) -> Answer {
    let params = params(request.query.as_bytes());
    match path.split('/').collect::<Vec<_>>()[..] {
        ["checkout", "sessions"] => list(state, account, "checkout.session", path, &params),
        ["payment_intents"] => list(state, account, "payment_intent", path, &params),
        ["charges"] => list(state, account, "charge", path, &params),
        ["refunds"] => list(state, account, "refund", path, &params),
        ["disputes"] => list(state, account, "dispute", path, &params),
        ["checkout", "sessions", id] => one(state, request, account, "checkout.session", id, &params),
        ["payment_intents", id] => one(state, request, account, "payment_intent", id, &params),
        ["charges", id] => one(state, request, account, "charge", id, &params),
        ["refunds", id] => one(state, request, account, "refund", id, &params),
        ["disputes", id] => one(state, request, account, "dispute", id, &params),
        _ => missing(path),
    }
}

fn create_session(state: &mut State, request: &TwinRequest, account: &str, params: &Params) -> Answer {
    let (total, expires_at) = match (total(params), lifetime(params, request)) {
        (Ok(total), Ok(expires_at)) => (total, expires_at),
        (Err(refused), _) | (_, Err(refused)) => return refused,
    };
    if let Some(old) = params.keys().find(|k| k.starts_with("payment_method_types")) {
        return param_error("parameter_unknown", old, &format!("Received unknown parameter: {old}"));
    }
    if params.get("mode").is_none_or(|mode| mode != "payment") {
        return param_error("parameter_missing", "mode", "This simulator knows the mode payment only.");
    }
    if params.get("success_url").is_none_or(|url| url::Url::parse(url).is_err()) {
        return param_error("url_invalid", "success_url", "Not a valid URL");
    }
    let mode = if objects::is_live(account) { "cs_live" } else { "cs_test" };
    let id = state.name(mode, request.now);
    let url = format!("{}/c/pay/{id}", request.root);
    state.intent_data.insert(id.clone(), objects::intent_data(params));
    state.insert(account, objects::session(&id, &url, total, expires_at, params, request.now));
    let at = jiff::Timestamp::from_second(expires_at).unwrap_or(request.now);
    state.set_timer(at, Timer::Expire { session: id.clone() });
    (200, state.body(&id))
}

/// The sum of the lines, all in one currency that can be charged so.
fn total(params: &Params) -> Result<i64, Answer> {
    let currency = params.get("line_items[0][price_data][currency]").map(|c| c.to_ascii_lowercase());
    let currency = currency
        .ok_or_else(|| param_error("parameter_missing", "line_items", "You must provide line items with a price."))?;
    let mut total: i64 = 0;
    for n in 0..100 {
        let of = |member: &str| params.get(&format!("line_items[{n}]{member}"));
        let Some(quantity) = of("[quantity]") else { break };
        let unit = of("[price_data][unit_amount]").and_then(|u| u.parse::<i64>().ok()).filter(|u| *u >= 0);
        let line = unit.zip(quantity.parse::<i64>().ok().filter(|q| *q > 0)).and_then(|(u, q)| u.checked_mul(q));
        let sum = line.and_then(|line| total.checked_add(line)).filter(|sum| *sum <= 999_999_999_999);
        total = sum.ok_or_else(|| param_error("parameter_invalid_integer", "line_items", "Invalid integer"))?;
        if of("[price_data][product_data][name]").is_none_or(|name| name.is_empty()) {
            return Err(param_error("parameter_missing", "line_items", "A product needs a name."));
        }
    }
    match amount::from_wire(total, &currency) {
        _ if total == 0 => Err(param_error("amount_too_small", "line_items", "The amount is too small.")),
        Some(money) if amount::to_wire(money).is_ok_and(|wire| wire == total) => Ok(total),
        _ => {
            let code = "invalid_charge_amount_no_decimal_compatible";
            Err(param_error(code, "line_items", "This amount cannot be charged in this currency."))
        }
    }
}

/// Unix seconds of the session's end: 30 minutes to 24 hours from now.
fn lifetime(params: &Params, request: &TwinRequest) -> Result<i64, Answer> {
    let now = request.now.as_second();
    match params.get("expires_at").map(|e| e.parse::<i64>()) {
        None => Ok(now + 86_400),
        Some(Ok(at)) if (now + 1800..=now + 86_400).contains(&at) => Ok(at),
        Some(_) => {
            let told =
                "The `expires_at` timestamp must be between 30 minutes and 24 hours from Checkout Session creation.";
            Err(param_error("", "expires_at", told))
        }
    }
}

fn expire_session(state: &mut State, request: &TwinRequest, account: &str, id: &str) -> Answer {
    let (status, session) = one(state, request, account, "checkout.session", id, &Params::new());
    if status != 200 {
        return (status, session);
    }
    if !state.expire(id, request.now) {
        let told = format!(
            "Only Checkout Sessions with a status in [\"open\"] can be expired. This Checkout Session has a status of {}.",
            session["status"]
        );
        return error(400, "invalid_request_error", "", &told);
    }
    (200, state.body(id))
}

fn create_refund(state: &mut State, request: &TwinRequest, account: &str, params: &Params) -> Answer {
    let charge = match (params.get("charge"), params.get("payment_intent")) {
        (Some(charge), _) => charge.clone(),
        (None, Some(intent)) => match one(state, request, account, "payment_intent", intent, &Params::new()) {
            (200, intent) => text(&intent, "latest_charge"),
            refused => return refused,
        },
        (None, None) => {
            return param_error("parameter_missing", "charge", "One of charge or payment_intent is required.");
        }
    };
    let (status, charged) = one(state, request, account, "charge", &charge, &Params::new());
    if status != 200 {
        return (status, charged);
    }
    if charged["disputed"] == true {
        return error(400, "invalid_request_error", "charge_disputed", "This charge has been charged back.");
    }
    let left = charged["amount"].as_i64().unwrap_or(0).saturating_sub(state.refunded(&charge));
    if left <= 0 {
        return error(
            400,
            "invalid_request_error",
            "charge_already_refunded",
            "This charge has already been refunded.",
        );
    }
    let wanted = params.get("amount").map_or(Ok(left), |a| a.parse::<i64>());
    let Some(wanted) = wanted.ok().filter(|w| (1..=left).contains(w)) else {
        let told = format!("Refund amount is greater than unrefunded amount on charge ({left})");
        return param_error("amount_too_large", "amount", &told);
    };
    let status = if request.faults.on("refund_pending") { "pending" } else { "succeeded" };
    let id = state.name("re", request.now);
    state.insert(account, objects::refund(&id, &charged, wanted, status, params, request.now));
    state.count_refunds(&charge);
    state.emit("refund.created", &id, request.now);
    state.emit("charge.refunded", &charge, request.now);
    if status == "pending" {
        let done = Timer::Refund { refund: id.clone(), status: "succeeded" };
        state.set_timer(later(request.now, ASYNC_S), done);
    }
    if request.faults.on("refund_fails_late") {
        let fails = Timer::Refund { refund: id.clone(), status: "failed" };
        state.set_timer(later(request.now, LATE_S), fails);
    }
    (200, state.body(&id))
}

/// One object, if it is of that kind and the asker's.
fn one(state: &State, request: &TwinRequest, account: &str, kind: &str, id: &str, params: &Params) -> Answer {
    let Some(entity) = state.get(id).filter(|e| e.account == account && e.body["object"] == kind) else {
        let told = format!("No such {}: '{id}'", kind.replace('.', "_"));
        return error(404, "invalid_request_error", "resource_missing", &told);
    };
    let mut body = entity.body.clone();
    for path in params.iter().filter(|(k, _)| k.starts_with("expand[")).map(|(_, v)| v) {
        expand(state, &mut body, path);
    }
    if kind == "checkout.session" && body["status"] == "complete" {
        distort(&mut body, &request.faults);
    }
    (200, body)
}

/// Puts objects in the place of their names, along `payment_intent.latest_charge`.
fn expand(state: &State, body: &mut Value, path: &str) {
    let (first, rest) = path.split_once('.').unwrap_or((path, ""));
    let Some(place) = body.get_mut(first) else { return };
    if let Some(entity) = place.as_str().and_then(|id| state.get(id)) {
        *place = entity.body.clone();
    }
    if !rest.is_empty() {
        expand(state, place, rest);
    }
}

/// A page of a list, newest first. Filters on members by equality, on `created` by `gte`, `gt`, `lte` and `lt`.
fn list(state: &State, account: &str, kind: &str, path: &str, params: &Params) -> Answer {
    let limit = params.get("limit").map_or(Some(10), |l| l.parse().ok()).filter(|l| (1..=100).contains(l));
    let Some(limit) = limit else {
        return param_error("parameter_invalid_integer", "limit", "Invalid integer: limit");
    };
    let after = params.get("starting_after").and_then(|id| state.get(id)).map_or(u64::MAX, |e| e.seq);
    let mut found: Vec<_> = state
        .entities
        .values()
        .filter(|e| e.account == account && e.body["object"] == kind && e.seq < after && passes(&e.body, params))
        .collect();
    found.sort_by_key(|e| std::cmp::Reverse(e.seq));
    let has_more = found.len() > limit;
    let data: Vec<_> = found.into_iter().take(limit).map(|e| e.body.clone()).collect();
    (200, json!({"object": "list", "url": format!("/v1/{path}"), "has_more": has_more, "data": data}))
}

fn passes(body: &Value, params: &Params) -> bool {
    let created = body["created"].as_i64().unwrap_or(0);
    params.iter().all(|(name, value)| {
        let bound = value.parse::<i64>().ok();
        match name.as_str() {
            "payment_intent" | "charge" | "status" => body[name] == value.as_str(),
            "created" => bound == Some(created),
            "created[gte]" => bound.is_some_and(|b| created >= b),
            "created[gt]" => bound.is_some_and(|b| created > b),
            "created[lte]" => bound.is_some_and(|b| created <= b),
            "created[lt]" => bound.is_some_and(|b| created < b),
            _ => true,
        }
    })
}

/// Bearer, or the key as the user's name of Basic.
fn account_of(state: &State, request: &TwinRequest) -> Option<String> {
    let header = request.headers.first("authorization")?;
    let key = match header.split_once(' ')? {
        ("Bearer", key) => key.to_owned(),
        ("Basic", coded) => String::from_utf8(STANDARD.decode(coded).ok()?).ok()?.trim_end_matches(':').to_owned(),
        _ => return None,
    };
    let known = |a: &&super::Account| sign::same(a.secret_key.as_bytes(), key.as_bytes());
    state.accounts.iter().find(known).map(|a| a.secret_key.clone())
}

/// Pairs by name; the empty indexes of `list[]` are counted.
fn params(bytes: &[u8]) -> Params {
    let mut params = BTreeMap::new();
    for (n, (name, value)) in form_urlencoded::parse(bytes).into_owned().enumerate() {
        params.insert(name.replacen("[]", &format!("[{n}]"), 1), value);
    }
    params
}

fn missing(path: &str) -> Answer {
    error(404, "invalid_request_error", "", &format!("Unrecognized request URL (/v1/{path})."))
}

fn param_error(code: &str, param: &str, message: &str) -> Answer {
    let (status, mut body) = error(400, "invalid_request_error", code, message);
    body["error"]["param"] = param.into();
    (status, body)
}

fn error(status: u16, kind: &str, code: &str, message: &str) -> Answer {
    let mut body = json!({"error": {"type": kind, "message": message}});
    if !code.is_empty() {
        body["error"]["code"] = code.into();
    }
    (status, body)
}

fn page(request: &TwinRequest, (status, body): Answer, replayed: bool) -> TwinAnswer {
    let stamp = sign::sha256_hex(format!("{}{}", request.now, request.path).as_bytes());
    let mut headers = vec![("request-id".to_owned(), format!("req_{}", stamp.get(..14).unwrap_or_default()))];
    if let Some(version) = request.headers.first("stripe-version") {
        headers.push(("stripe-version".to_owned(), version.to_owned()));
    }
    if let Some(key) = request.headers.first("idempotency-key") {
        headers.push(("idempotency-key".to_owned(), key.to_owned()));
    }
    if replayed {
        headers.push(("idempotent-replayed".to_owned(), "true".to_owned()));
    }
    if status == 429 {
        headers.push(("retry-after".to_owned(), "2".to_owned()));
    }
    let body = serde_json::to_vec_pretty(&body).unwrap_or_default();
    TwinAnswer::Page { status, content_type: "application/json".into(), headers, body }
}
