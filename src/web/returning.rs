//! The payer comes back from the gateway (R-5W-17, R-5W-18). What his browser brings proves nothing and sets nothing:
//! the page shows the stored state, has the gateway asked, and changes when the answer is in.
//!
//! The address names only an attempt, and gateways know it. Who the payer is, is shown only to the browser that came
//! through the payment link, or with a return that the gateway signed.

use askama::Template;
use axum::body::Bytes;
use axum::extract::{RawQuery, State};
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use grosz_providers::registry;
use serde_json::json;

use super::checkout::{Bill, again_label, bill_of, go_unknown, try_again, why};
use super::format;
use super::guard::{Fields, check_form, form_token, is_payer};
use super::look::{Forms, Look, page, see_other};
use super::stop::{Path, Stop};
use crate::domain::payment::Status;
use crate::http::Web;
use crate::http::json::Json;
use crate::store::{Attempt, JobKind};

/// Longest query that is looked at.
const MAX_QUERY: usize = 8192;

async fn attempt_of(web: &Web, id: &str) -> Result<(Attempt, Bill), Stop> {
    if id.len() > 64 {
        return Err(Stop::NotFound);
    }
    let mut tx = web.app.store.read().await?;
    let attempt = tx.attempt_by_id(id).await?.ok_or(Stop::NotFound)?;
    let payment = tx.payment(&attempt.merchant_id, &attempt.payment_id).await?.ok_or(Stop::NotFound)?;
    let bill = bill_of(&mut tx, payment).await?;
    Ok((attempt, bill))
}

/// What a return's signature says: nothing was brought or this gateway signs none, right, or wrong.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Signature {
    None,
    Right,
    Wrong,
}

async fn signature(web: &Web, attempt: &Attempt, query: &str) -> Result<Signature, Stop> {
    if query.len() > MAX_QUERY {
        return Ok(Signature::Wrong);
    }
    let pairs: Vec<(String, String)> =
        form_urlencoded::parse(query.as_bytes()).into_owned().filter(|(name, _)| name != "lang").collect();
    if pairs.is_empty() {
        return Ok(Signature::None);
    }
    let mut tx = web.app.store.read().await?;
    let account = tx.provider_account(&attempt.merchant_id, &attempt.provider_account_id).await?;
    drop(tx);
    let Some(account) = account else { return Ok(Signature::Wrong) };
    let Some(provider) = registry::provider(&account.provider) else { return Ok(Signature::Wrong) };
    let settings = web.app.provider_settings(&account)?;
    Ok(match provider.check_return(&settings, &pairs) {
        None => Signature::None,
        Some(true) => Signature::Right,
        Some(false) => Signature::Wrong,
    })
}

#[derive(Template)]
#[template(path = "return.html")]
struct ReturnPage<'a> {
    look: &'a Look,
    title: &'a str,
    text: &'a str,
    why: &'a str,
    mark: &'a str,
    /// Sum and description, for the payer alone.
    bill: Option<(String, &'a str)>,
    /// Poll this address while it is not final; empty when it is.
    poll: String,
    version: String,
    /// Go there by itself; empty: stay.
    go: String,
    link: Option<(String, &'a str)>,
    button: Option<(String, &'a str)>,
    csrf: String,
}

/// `GET /return/{attempt}`
pub(crate) async fn show(
    State(web): State<Web>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    uri: Uri,
    headers: HeaderMap,
) -> Result<Response, Stop> {
    let (attempt, bill) = attempt_of(&web, &id).await?;
    let look = bill.look(&web, &uri);
    let signature = signature(&web, &attempt, &query.unwrap_or_default()).await?;
    if signature == Signature::Wrong {
        return neutral(&web, &look);
    }
    let known = signature == Signature::Right || is_payer(&headers, &bill.payment.token);
    ask_gateway(&web, &attempt, &bill).await?;
    let (t, payment) = (look.t, &bill.payment);
    let stage = Stage::of(&attempt, &bill);
    let (title, text, mark) = match stage {
        Stage::Confirming => (t.confirming_title, t.confirming_text, "wait"),
        Stage::Paid => (t.paid_title, t.paid_text, "paid"),
        Stage::Review => (t.review_title, t.review_text, "wait"),
        Stage::Failed => (t.failed_title, "", "stop"),
    };
    let back = bill.return_url(&web).filter(|_| stage != Stage::Confirming);
    let own_page = || known.then(|| bill.own_page(&look));
    let template = ReturnPage {
        look: &look,
        title,
        text,
        why: if stage == Stage::Failed { why(&look, payment) } else { "" },
        mark,
        bill: known.then(|| (format::money(look.language, payment.amount), payment.description.as_str())),
        poll: if stage == Stage::Confirming { format!("/return/{id}/status") } else { String::new() },
        version: version(&attempt, &bill),
        go: back.clone().filter(|_| stage == Stage::Paid).unwrap_or_default(),
        link: back.map(|url| (url, t.back_to_shop)).or_else(own_page),
        // Also while nothing is certain: whoever turned back without paying wants to go on (R-5W-32).
        button: matches!(stage, Stage::Confirming | Stage::Failed)
            .then(|| (look.at(&format!("/return/{id}/retry")), again_label(&look, payment))),
        csrf: form_token(&payment.token),
    };
    page(&web, StatusCode::OK, Forms::Gateways, &template)
}

/// `POST /return/{attempt}`: some gateways send the payer back so. Shown by a GET, which browsers can repeat.
pub(crate) async fn posted(
    State(_): State<Web>,
    Path(id): Path<String>,
    RawQuery(query): RawQuery,
    body: Bytes,
) -> Result<Response, Stop> {
    let query = query.unwrap_or_default();
    let mut all = form_urlencoded::Serializer::new(String::new());
    all.extend_pairs(form_urlencoded::parse(query.as_bytes())).extend_pairs(form_urlencoded::parse(&body));
    let all = all.finish();
    let plain = id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_');
    if !plain || id.len() > 64 || all.len() > MAX_QUERY {
        return Err(Stop::NotFound);
    }
    see_other(&if all.is_empty() { format!("/return/{id}") } else { format!("/return/{id}?{all}") })
}

/// A return whose signature is wrong: says nothing about the payment.
fn neutral(web: &Web, look: &Look) -> Result<Response, Stop> {
    let mut look = look.clone();
    look.brand = "Grosz".to_owned();
    let (title, text) = (look.t.neutral_title, look.t.neutral_text);
    let template = ReturnPage {
        look: &look,
        title,
        text,
        why: "",
        mark: "none",
        bill: None,
        poll: String::new(),
        version: String::new(),
        go: String::new(),
        link: None,
        button: None,
        csrf: String::new(),
    };
    page(web, StatusCode::OK, Forms::Here, &template)
}

/// `GET /return/{attempt}/status`: whether the page would look different now.
pub(crate) async fn status(State(web): State<Web>, Path(id): Path<String>) -> Result<Response, Stop> {
    let (attempt, bill) = attempt_of(&web, &id).await?;
    ask_gateway(&web, &attempt, &bill).await?;
    Ok(Json(json!({"version": version(&attempt, &bill), "status": bill.payment.status.word()})).into_response())
}

fn version(attempt: &Attempt, bill: &Bill) -> String {
    let payment = &bill.payment;
    let reason = payment.reason.map_or("", crate::domain::payment::Reason::word);
    format!("{}-{reason}-{:?}", payment.status.word(), Stage::of(attempt, bill))
}

/// What the page says, from what the store holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nothing is certain about this attempt. A payment that failed once stays in `error` while it is tried again.
    Confirming,
    Paid,
    /// Money of another sum came, and a person looks into it.
    Review,
    Failed,
}

impl Stage {
    fn of(attempt: &Attempt, bill: &Bill) -> Stage {
        let open = matches!(attempt.state.as_str(), "created" | "open");
        match bill.payment.status {
            Status::Completed => Stage::Paid,
            Status::Started | Status::Error if bill.is_in_review => Stage::Review,
            Status::Started => Stage::Confirming,
            Status::Error if open => Stage::Confirming,
            Status::Error => Stage::Failed,
        }
    }
}

/// Brings the next question to the gateway forward while somebody waits for its answer.
async fn ask_gateway(web: &Web, attempt: &Attempt, bill: &Bill) -> Result<(), Stop> {
    let app = &web.app;
    if Stage::of(attempt, bill) != Stage::Confirming || !web.guards.may_ask(&attempt.id, app.now()) {
        return Ok(());
    }
    let mut tx = app.store.begin().await?;
    tx.hasten(&attempt.merchant_id, JobKind::PollStatus, &attempt.id, app.now()).await?;
    tx.commit().await?;
    app.job_bell.notify_one();
    Ok(())
}

/// `POST /return/{attempt}/retry`: on to the gateway again, without telling a stranger the payment link or taking him for
/// the payer.
pub(crate) async fn retry(
    State(web): State<Web>,
    Path(id): Path<String>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Stop> {
    let (_, bill) = attempt_of(&web, &id).await?;
    let look = bill.look(&web, &uri);
    check_form(&web, &headers, &Fields::read(&body), &bill.payment.token)?;
    let here = look.at(&format!("/return/{id}"));
    if bill.payment.status == Status::Completed {
        return see_other(&here);
    }
    let again = try_again(&web, &bill, None).await?;
    if is_payer(&headers, &bill.payment.token) {
        return see_other(&look.at(&format!("/pay/{again}")));
    }
    let mut tx = web.app.store.read().await?;
    let payment = tx.payment_by_token(&again).await?.ok_or(Stop::NotFound)?;
    drop(tx);
    go_unknown(&web, &look, &Bill { payment, ..bill }, &here).await
}
