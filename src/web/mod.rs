//! Pages for payers: the payment link, the way back from the gateway, the payer's list with its settings; and small
//! pages for developers. Plain HTML from the server; scripts only save the reader a reload.
//!
//! No page sets a payment's status. What a page shows is what the store holds.

mod assets;
mod buyer;
mod case_page;
mod checkout;
mod console;
mod demo;
mod format;
mod guard;
mod locale;
mod locales;
mod look;
mod portal;
mod profiles;
mod returning;
mod stop;

pub use guard::Guards;

use std::panic::AssertUnwindSafe;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::StatusCode;
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use futures_util::FutureExt;

use crate::http::Web;

/// A page's form is never larger.
const FORM_LIMIT_BYTES: usize = 64 * 1024;

/// `/pay`, `/return`, `/portal`, `/console`, `/assets`, and `/demo` on a hub with simulated gateways.
pub fn router(web: &Web) -> Router<Web> {
    let mut router = Router::new()
        .route("/pay/{token}", get(checkout::open))
        .route("/pay/{token}/buyer", get(checkout::ask_buyer).post(checkout::take_buyer))
        .route("/pay/{token}/retry", post(checkout::retry))
        .route("/return/{attempt}", get(returning::show).post(returning::posted))
        .route("/return/{attempt}/status", get(returning::status))
        .route("/return/{attempt}/retry", post(returning::retry))
        .route("/portal/{token}", get(portal::list))
        .route("/portal/{token}/status", get(portal::status))
        .route("/portal/{token}/payments/{id}/retry", post(portal::retry))
        .route("/portal/{token}/payments/{id}/invoice.pdf", get(portal::invoice_pdf))
        .route("/portal/{token}/payments/{id}/attachment", get(portal::attachment))
        .route("/portal/{token}/cases/{id}", get(case_page::show))
        .route("/portal/{token}/cases/{id}/pay", post(case_page::pay))
        .route("/portal/{token}/profiles", get(profiles::list))
        .route("/portal/{token}/profiles/new", get(profiles::blank).post(profiles::add))
        .route("/portal/{token}/profiles/{id}", get(profiles::edit).post(profiles::save))
        .route("/portal/{token}/profiles/{id}/default", post(profiles::set_default))
        .route("/portal/{token}/profiles/{id}/delete", post(profiles::delete))
        .route("/console", get(console::home))
        .route("/console/alerts", get(console::alerts))
        .route("/console/payments/{id}", get(console::payment));
    if web.app.config.sandbox {
        router = router
            .route("/demo", get(demo::home))
            .route("/demo/mail", get(demo::mails))
            .route("/demo/mail/{name}", get(demo::mail));
    }
    router
        .layer(from_fn_with_state(web.clone(), dress))
        .layer(DefaultBodyLimit::max(FORM_LIMIT_BYTES))
        .route("/assets/{name}", get(assets::serve))
}

/// The page for an address that names nothing, the same for every reason (F65).
pub async fn unknown(State(web): State<Web>, request: Request) -> Response {
    stop::page(&web, &look::Look::for_anyone(&web, &request), stop::Stop::NotFound)
}

/// Turns a handler's refusal into a page in the reader's language, and gives every page its headers.
async fn dress(State(web): State<Web>, request: Request, next: Next) -> Response {
    let look = look::Look::for_anyone(&web, &request);
    // A panic is in the log already, and what it left undone is taken back (F26): the reader is told by a page too.
    let ran = AssertUnwindSafe(next.run(request)).catch_unwind().await;
    let mut answer = ran.unwrap_or_else(|_| stop::Stop::Fault("its handler panicked".into()).into_response());
    if let Some(stopped) = answer.extensions_mut().remove::<stop::Stopped>() {
        answer = stop::page(&web, &look, stopped.into_inner());
    } else if answer.status() == StatusCode::PAYLOAD_TOO_LARGE {
        answer = stop::page(&web, &look, stop::Stop::TooLarge);
    }
    look::harden(&mut answer);
    answer
}
