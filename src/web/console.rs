//! Where letters about alerts link to. These pages know nothing and ask for nothing: they say which call of the API
//! tells the rest, to whoever has a key.

use askama::Template;
use axum::extract::State;
use axum::http::{StatusCode, Uri};
use axum::response::Response;

use super::look::{Forms, Look, page};
use super::stop::{Path, Stop};
use crate::http::Web;

#[derive(Template)]
#[template(path = "console.html")]
struct ConsolePage<'a> {
    look: &'a Look,
    title: String,
    text: &'a str,
    /// What a call answers, and the call.
    calls: Vec<(&'a str, String)>,
}

/// `GET /console`
pub(crate) async fn home(State(web): State<Web>, uri: Uri) -> Result<Response, Stop> {
    let calls = vec![
        ("Open alerts", call(&web, "GET", "/v1/alerts")),
        ("Payments, newest first", call(&web, "GET", "/v1/payments?limit=20")),
        ("What gateways sent", call(&web, "GET", "/v1/deliveries")),
    ];
    show(&web, &uri, "Console".into(), "The hub is looked into and steered through its API.", calls)
}

/// `GET /console/alerts`
pub(crate) async fn alerts(State(web): State<Web>, uri: Uri) -> Result<Response, Stop> {
    let calls = vec![
        ("Open alerts, each with its reason and next step", call(&web, "GET", "/v1/alerts")),
        ("Close one when it is dealt with", call(&web, "POST", "/v1/alerts/ALERT/resolve")),
    ];
    show(&web, &uri, "Alerts".into(), "An alert is a matter that a person must look at.", calls)
}

/// `GET /console/payments/{id}`: the same page for every id, known or not.
pub(crate) async fn payment(State(web): State<Web>, Path(id): Path<String>, uri: Uri) -> Result<Response, Stop> {
    let plain = id.len() <= 64 && id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if !plain {
        return Err(Stop::NotFound);
    }
    let calls = vec![
        ("The payment", call(&web, "GET", &format!("/v1/payments/{id}"))),
        ("How it came to be so, step by step", call(&web, "GET", &format!("/v1/payments/{id}/timeline"))),
        ("Its invoice, with the last error", call(&web, "GET", &format!("/v1/payments/{id}/invoice"))),
        ("Issue the invoice again", call(&web, "POST", &format!("/v1/payments/{id}/invoice/reissue"))),
    ];
    show(&web, &uri, format!("Payment {id}"), "These calls show what is known and set right what can be.", calls)
}

fn call(web: &Web, method: &str, path: &str) -> String {
    let base = &web.app.config.public_url;
    let method = if method == "POST" { "-X POST -H \"Idempotency-Key: $(uuidgen)\" " } else { "" };
    format!("curl {method}-H \"Authorization: Bearer $GROSZ_KEY\" {base}{path}")
}

fn show(web: &Web, uri: &Uri, title: String, text: &str, calls: Vec<(&str, String)>) -> Result<Response, Stop> {
    let look = developer_look(web, uri);
    page(web, StatusCode::OK, Forms::Here, &ConsolePage { look: &look, title, text, calls })
}

/// Developers' pages are in English.
pub(crate) fn developer_look(web: &Web, uri: &Uri) -> Look {
    let mut look = Look::for_payer(web, uri, "en", "Grosz");
    look.language = super::locale::Language::En;
    look.t = look.language.texts();
    look.test_mode = false;
    look
}
