//! The payment link: to the gateway by the shortest way, over the invoice data where they are missing (R-5W-10…16).

use std::net::SocketAddr;

use askama::Template;
use axum::Extension;
use axum::body::Bytes;
use axum::extract::{ConnectInfo, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use grosz_providers::{CallError, Redirect};

use super::buyer::{BuyerForm, summary};
use super::format;
use super::guard::{Fields, check_form, form_token, is_token, payer_cookie};
use super::look::{Forms, Look, page, see_other};
use super::stop::{Path, Stop};
use crate::domain::payment::{Reason, Status};
use crate::flows::FlowError;
use crate::flows::retry_payment::{ask_first, retry_payment};
use crate::flows::settle_mismatch::awaits_person;
use crate::flows::start_checkout::{Opened, check_return_url, choose_buyer, is_case_paid, open_checkout};
use crate::http::Web;
use crate::store::{MOST_PROFILES, Merchant, Payer, Payment, Profile, Tx};

/// A payment with the people around it.
pub(crate) struct Bill {
    pub payment: Payment,
    pub payer: Payer,
    pub merchant: Merchant,
    /// A person looks into money of another sum.
    pub is_in_review: bool,
}

impl Bill {
    /// The look of its pages.
    pub fn look(&self, web: &Web, uri: &Uri) -> Look {
        let mut look = Look::for_payer(web, uri, &self.payer.language, &self.merchant.name);
        look.test_mode = !self.payment.live;
        look
    }

    /// The client app's return address with the payment's id, checked again where it is used (F63); `None` when the
    /// payer goes to our own pages.
    pub fn return_url(&self, web: &Web) -> Option<String> {
        if self.payment.return_url.is_empty() {
            return None;
        }
        let checked = check_return_url(&web.app, &self.merchant, &self.payment.return_url).ok()?;
        let mut url = url::Url::parse(&checked).ok()?;
        url.query_pairs_mut().append_pair("payment", &self.payment.id);
        Some(url.into())
    }

    /// A link to where the payer stands on our own pages: the case, or the list (R-5W-17).
    pub fn own_page(&self, look: &Look) -> (String, &'static str) {
        let label = if self.payment.case_id.is_some() { look.t.go_to_case } else { look.t.go_to_list };
        (look.at(&self.case_address()), label)
    }

    /// The case, where a changed quote can be seen too, or the list.
    fn case_address(&self) -> String {
        let portal = &self.payer.portal_token;
        match &self.payment.case_id {
            Some(case) => format!("/portal/{portal}/cases/{case}"),
            None => format!("/portal/{portal}"),
        }
    }
}

/// Loads what belongs to a payment.
pub(crate) async fn bill_of(tx: &mut Tx, payment: Payment) -> Result<Bill, Stop> {
    let payer = tx.payer(&payment.merchant_id, &payment.payer_id).await?.ok_or(Stop::NotFound)?;
    let merchant = tx.merchant(&payment.merchant_id).await?.ok_or(Stop::NotFound)?;
    let is_in_review = awaits_person(tx, &payment).await?;
    Ok(Bill { payment, payer, merchant, is_in_review })
}

async fn bill(web: &Web, token: &str) -> Result<Bill, Stop> {
    if !is_token(token) {
        return Err(Stop::NotFound);
    }
    let mut tx = web.app.store.read().await?;
    let payment = tx.payment_by_token(token).await?.ok_or(Stop::NotFound)?;
    bill_of(&mut tx, payment).await
}

type Peer = Option<Extension<ConnectInfo<SocketAddr>>>;

/// The payer's own address, when the hub is not behind a proxy.
fn public_ip(peer: Peer) -> Option<String> {
    let Extension(ConnectInfo(peer)) = peer?;
    match peer.ip() {
        std::net::IpAddr::V4(ip) if !ip.is_private() && !ip.is_loopback() && !ip.is_link_local() => {
            Some(ip.to_string())
        }
        _ => None,
    }
}

/// `GET /pay/{token}`
pub(crate) async fn open(
    State(web): State<Web>,
    Path(token): Path<String>,
    method: Method,
    uri: Uri,
    peer: Peer,
) -> Result<Response, Stop> {
    let bill = bill(&web, &token).await?;
    if method == Method::HEAD {
        // Whoever only looks whether the link leads somewhere, as programs that read mails do, begins nothing.
        return Ok(StatusCode::OK.into_response());
    }
    let look = bill.look(&web, &uri);
    go(&web, &look, &bill, public_ip(peer)).await
}

/// Asks for the gateway's page and sends the payer there, or says why not.
async fn go(web: &Web, look: &Look, bill: &Bill, ip: Option<String>) -> Result<Response, Stop> {
    let opened = match open_checkout(&web.app, &bill.payment, ip.as_deref()).await {
        Ok(opened) => opened,
        Err(FlowError::Gateway(cause)) => {
            not_started(bill, &cause);
            // A gateway may keep its first answer, a failure, under the attempt's key: only a new attempt gets past it.
            // Where nothing was sent, or it was too busy, the same link does.
            let stands = match cause {
                CallError::NotSent(_) | CallError::Busy { .. } => Standing::GatewayError { anew: false },
                CallError::Unknown(_) => Standing::GatewayError { anew: true },
                // A person was told, and has something to mend first.
                CallError::Refused { .. }
                | CallError::Gone { .. }
                | CallError::Config(_)
                | CallError::Invalid { .. }
                | CallError::Unsupported => Standing::Refused,
            };
            return standing(web, look, bill, stands);
        }
        Err(e) => return Err(e.into()),
    };
    match opened {
        Opened::Gateway(redirect) => to_gateway(web, look, bill, redirect).await,
        Opened::NeedsBuyer => buyer_page(web, look, bill, None).await,
        Opened::QuoteChanged => standing(web, look, bill, Standing::QuoteChanged),
        Opened::Busy => standing(web, look, bill, Standing::Busy),
        Opened::Review => standing(web, look, bill, Standing::Review),
        Opened::Closed if bill.payment.status == Status::Completed => standing(web, look, bill, Standing::Paid),
        Opened::Closed if is_case_paid(&mut web.app.store.read().await?, &bill.payment).await? => {
            standing(web, look, bill, Standing::Paid)
        }
        Opened::Closed => standing(web, look, bill, Standing::Closed),
        Opened::Pending(attempt) => see_other(&look.at(&format!("/return/{attempt}"))),
    }
}

#[derive(Template)]
#[template(path = "going.html")]
struct Going<'a> {
    look: &'a Look,
    action: &'a str,
    fields: &'a [(String, String)],
}

/// Sends whoever asks to the gateway, or back to `here`, an address that tells a stranger nothing. He is not known to be
/// the payer, so he is given no mark of one, and no page with the payment's or the payer's link.
pub(crate) async fn go_unknown(web: &Web, look: &Look, bill: &Bill, here: &str) -> Result<Response, Stop> {
    match open_checkout(&web.app, &bill.payment, None).await {
        Ok(Opened::Gateway(redirect)) => way_to(web, look, &redirect),
        Ok(_) => see_other(here),
        Err(FlowError::Gateway(cause)) => {
            not_started(bill, &cause);
            see_other(here)
        }
        Err(e) => Err(e.into()),
    }
}

fn not_started(bill: &Bill, cause: &CallError) {
    tracing::warn!(payment.id = %bill.payment.id, error = %cause, "A checkout could not be started");
}

/// The way to the gateway's page.
fn way_to(web: &Web, look: &Look, redirect: &Redirect) -> Result<Response, Stop> {
    match redirect {
        Redirect::Url { url, .. } => {
            origin_of(url)?;
            see_other(url)
        }
        Redirect::Form { action, fields } => {
            let forms = Forms::To(origin_of(action)?);
            page(web, StatusCode::OK, forms, &Going { look, action, fields })
        }
    }
}

async fn to_gateway(web: &Web, look: &Look, bill: &Bill, redirect: Redirect) -> Result<Response, Stop> {
    let mut answer = way_to(web, look, &redirect)?;
    let mut tx = web.app.store.read().await?;
    let attempts = tx.attempts(&bill.payment.merchant_id, &bill.payment.id).await?;
    if let Some(attempt) = attempts.last() {
        let cookie = payer_cookie(web, &attempt.id, &bill.payment.token);
        if let Ok(cookie) = HeaderValue::from_str(&cookie) {
            answer.headers_mut().insert(header::SET_COOKIE, cookie);
        }
    }
    Ok(answer)
}

/// The origin of a gateway's page; anything but http(s) is never followed.
fn origin_of(address: &str) -> Result<String, Stop> {
    let url = url::Url::parse(address).map_err(|e| Stop::fault("a gateway's address is none", &e))?;
    if !matches!(url.scheme(), "http" | "https") {
        return Err(Stop::Fault("a gateway's address is not http".into()));
    }
    Ok(url.origin().ascii_serialization())
}

/// Where a payment stands when its link leads nowhere.
enum Standing {
    Paid,
    Closed,
    QuoteChanged,
    Busy,
    /// A person looks into money of another sum.
    Review,
    /// The gateway gave no page; `anew` when it will not for this attempt.
    GatewayError {
        anew: bool,
    },
    /// The gateway said no: another try helps once somebody has mended what it objects to.
    Refused,
}

#[derive(Template)]
#[template(path = "standing.html")]
struct StandingPage<'a> {
    look: &'a Look,
    title: &'a str,
    text: &'a str,
    why: &'a str,
    mark: &'a str,
    amount: String,
    description: &'a str,
    /// Goes on by itself after a moment.
    reload: bool,
    /// A link: address and label.
    link: Option<(String, &'a str)>,
    /// A button that posts: address and label.
    button: Option<(String, &'a str)>,
    csrf: String,
}

fn standing(web: &Web, look: &Look, bill: &Bill, standing: Standing) -> Result<Response, Stop> {
    let (t, payment) = (look.t, &bill.payment);
    let here = look.at(&format!("/pay/{}", payment.token));
    let (status, title, text, mark) = match standing {
        Standing::Paid => (StatusCode::OK, t.paid_title, t.paid_text, "paid"),
        Standing::Closed => (StatusCode::OK, t.closed_title, t.closed_text, "stop"),
        Standing::QuoteChanged => (StatusCode::OK, t.quote_title, t.quote_text, "stop"),
        Standing::Busy => (StatusCode::ACCEPTED, t.busy_title, t.busy_text, "wait"),
        Standing::Review => (StatusCode::OK, t.review_title, t.review_text, "wait"),
        Standing::GatewayError { .. } => (StatusCode::SERVICE_UNAVAILABLE, t.gateway_title, t.gateway_text, "stop"),
        Standing::Refused => (StatusCode::CONFLICT, t.off_title, t.off_text, "stop"),
    };
    let link = match standing {
        Standing::Paid => Some(bill.return_url(web).map_or_else(|| bill.own_page(look), |url| (url, t.back_to_shop))),
        Standing::QuoteChanged => Some((look.at(&bill.case_address()), t.quote_button)),
        Standing::GatewayError { anew: false } => Some((here, t.cell_try_again)),
        Standing::Review => Some(bill.own_page(look)),
        Standing::GatewayError { anew: true } | Standing::Refused | Standing::Closed | Standing::Busy => None,
    };
    let button = matches!(standing, Standing::Closed | Standing::GatewayError { anew: true } | Standing::Refused)
        .then(|| (look.at(&format!("/pay/{}/retry", payment.token)), again_label(look, payment)));
    let why = if matches!(standing, Standing::Closed) { why(look, payment) } else { "" };
    let template = StandingPage {
        look,
        title,
        text,
        why,
        mark,
        amount: format::money(look.language, payment.amount),
        description: &payment.description,
        reload: matches!(standing, Standing::Busy),
        link,
        button,
        csrf: form_token(&payment.token),
    };
    page(web, status, Forms::Gateways, &template)
}

/// The reason of an error in plain words.
pub(crate) fn why<'a>(look: &'a Look, payment: &Payment) -> &'a str {
    match payment.reason {
        Some(Reason::Cancelled) => look.t.why_cancelled,
        Some(Reason::Declined) => look.t.why_declined,
        Some(Reason::Expired) => look.t.why_expired,
        Some(Reason::Technical) => look.t.why_technical,
        Some(Reason::QuoteChanged) => look.t.quote_text,
        None => "",
    }
}

/// "Ponów płatność" after a cancellation, "Spróbuj ponownie" after anything else (R-5W-32, R-5W-33).
pub(crate) fn again_label<'a>(look: &'a Look, payment: &Payment) -> &'a str {
    if payment.reason == Some(Reason::Cancelled) { look.t.cell_renew } else { look.t.cell_try_again }
}

#[derive(Template)]
#[template(path = "buyer.html")]
struct BuyerPage<'a> {
    look: &'a Look,
    amount: String,
    description: &'a str,
    action: String,
    csrf: String,
    /// Saved data: id, name, summary, chosen.
    saved: Vec<(String, String, String, bool)>,
    /// The fields for new data are chosen.
    is_new: bool,
    form: &'a BuyerForm,
    keep: bool,
}

/// `GET /pay/{token}/buyer`: the invoice data, also when some were chosen already.
pub(crate) async fn ask_buyer(State(web): State<Web>, Path(token): Path<String>, uri: Uri) -> Result<Response, Stop> {
    let bill = bill(&web, &token).await?;
    let look = bill.look(&web, &uri);
    if bill.payment.status != Status::Started {
        return see_other(&look.at(&format!("/pay/{token}")));
    }
    buyer_page(&web, &look, &bill, None).await
}

/// What was posted, to be shown again.
struct Typed {
    form: BuyerForm,
    profile: String,
    keep: bool,
}

async fn buyer_page(web: &Web, look: &Look, bill: &Bill, typed: Option<Typed>) -> Result<Response, Stop> {
    let mut tx = web.app.store.read().await?;
    let profiles = tx.profiles(&bill.payment.merchant_id, &bill.payer.id).await?;
    let chosen = match &typed {
        Some(typed) => profiles.iter().find(|p| p.id == typed.profile),
        None => bill
            .payment
            .profile_id
            .as_ref()
            .and_then(|id| profiles.iter().find(|p| p.id == *id))
            .or_else(|| profiles.first().filter(|_| bill.payment.buyer.is_none())),
    }
    .map(|p| p.id.clone());
    let status = if typed.is_some() { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
    let (form, keep) = match typed {
        Some(typed) => (typed.form, typed.keep),
        None => match &bill.payment.buyer {
            Some(buyer) if chosen.is_none() => (BuyerForm::of(buyer), false),
            _ => (BuyerForm::blank(&bill.payer.name, &bill.payer.email, look.language), true),
        },
    };
    let entry = |p: &Profile| {
        (p.id.clone(), p.body.name.clone(), summary(&p.body), chosen.as_deref().is_some_and(|id| id == p.id))
    };
    let template = BuyerPage {
        look,
        amount: format::money(look.language, bill.payment.amount),
        description: &bill.payment.description,
        action: look.at(&format!("/pay/{}/buyer", bill.payment.token)),
        csrf: form_token(&bill.payment.token),
        saved: profiles.iter().map(entry).collect(),
        is_new: chosen.is_none(),
        form: &form,
        keep,
    };
    page(web, status, Forms::Gateways, &template)
}

/// `POST /pay/{token}/buyer`: PRZEJDŹ DO PŁATNOŚCI.
pub(crate) async fn take_buyer(
    State(web): State<Web>,
    Path(token): Path<String>,
    uri: Uri,
    peer: Peer,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Stop> {
    let mut bill = bill(&web, &token).await?;
    let look = bill.look(&web, &uri);
    let fields = Fields::read(&body);
    check_form(&web, &headers, &fields, &token)?;
    let here = look.at(&format!("/pay/{token}"));
    if bill.payment.status == Status::Completed {
        return see_other(&here);
    }
    let merchant = bill.payment.merchant_id.clone();
    let wanted = fields.text("profile");
    let mut tx = web.app.store.begin().await?;
    let saved = match wanted.as_str() {
        "" | "new" => None,
        id => tx.profile(&merchant, id).await?.filter(|p| p.payer_id == bill.payer.id),
    };
    let (buyer, profile) = match saved {
        Some(profile) => (profile.body, Some((profile.id, profile.version))),
        None => {
            let mut form = BuyerForm::posted(&fields);
            let keep = fields.ticked("save");
            let Some(buyer) = form.check(look.t) else {
                tx.rollback().await?;
                return buyer_page(&web, &look, &bill, Some(Typed { form, profile: "new".into(), keep })).await;
            };
            let kept = if keep { keep_profile(&web, &mut tx, &bill.payer, &buyer).await? } else { None };
            (buyer, kept.map(|p| (p.id, p.version)))
        }
    };
    let payment = tx.payment_for_update(&merchant, &bill.payment.id).await?.ok_or(Stop::NotFound)?;
    if payment.status == Status::Completed {
        tx.rollback().await?;
        return see_other(&here);
    }
    let named = profile.as_ref().map(|(id, version)| (id.as_str(), *version));
    match choose_buyer(&web.app, &mut tx, &payment, &buyer, named).await {
        Err(FlowError::Invalid { field, .. }) => {
            tx.rollback().await?;
            let mut form = BuyerForm::of(&buyer);
            form.refuse_for_invoice(look.t, &field);
            return buyer_page(&web, &look, &bill, Some(Typed { form, profile: "new".into(), keep: true })).await;
        }
        chosen => chosen?,
    }
    tx.commit().await?;
    bill.payment = Payment { buyer: Some(buyer), ..payment };
    let answer = go(&web, &look, &bill, public_ip(peer)).await?;
    // A page that came to be by a POST asks about sending the form again when it is reloaded: show it by a GET.
    if answer.status() == StatusCode::OK { see_other(&here) } else { Ok(answer) }
}

/// Saves invoice data for the future (R-5W-11); the same data are not saved twice, and no more than a payer may have.
async fn keep_profile(
    web: &Web,
    tx: &mut Tx,
    payer: &Payer,
    buyer: &grosz_providers::invoicer::Buyer,
) -> Result<Option<Profile>, Stop> {
    tx.payer_for_update(&payer.merchant_id, &payer.id).await?;
    let all = tx.profiles(&payer.merchant_id, &payer.id).await?;
    let (is_default, is_full) = (all.is_empty(), all.len() >= MOST_PROFILES);
    if let Some(same) = all.into_iter().find(|p| p.body == *buyer) {
        return Ok(Some(same));
    }
    if is_full {
        return Ok(None);
    }
    let profile = Profile {
        merchant_id: payer.merchant_id.clone(),
        id: web.app.ids.make("prf"),
        payer_id: payer.id.clone(),
        version: 1,
        body: buyer.clone(),
        is_default,
        created_at: web.app.now(),
    };
    tx.add_profile(&profile).await?;
    Ok(Some(profile))
}

/// `POST /pay/{token}/retry`
pub(crate) async fn retry(
    State(web): State<Web>,
    Path(token): Path<String>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Stop> {
    let bill = bill(&web, &token).await?;
    check_form(&web, &headers, &Fields::read(&body), &token)?;
    let token = try_again(&web, &bill, None).await?;
    see_other(&bill.look(&web, &uri).at(&format!("/pay/{token}")))
}

/// Asks the gateway, then reuses the link that can still be paid or adds an attempt, at another account if one is
/// named; answers the token of the link to go on with. A payment that was completed meanwhile, or whose quote changed,
/// stays: its link says so.
pub(crate) async fn try_again(web: &Web, bill: &Bill, account: Option<&str>) -> Result<String, Stop> {
    let app = &web.app;
    let asked = ask_first(app, &bill.payment).await?;
    let mut tx = app.store.begin().await?;
    match retry_payment(app, &mut tx, &bill.merchant, &bill.payment, account, &asked).await {
        Ok(again) => {
            tx.commit().await?;
            app.job_bell.notify_one();
            Ok(again.token)
        }
        Err(FlowError::Conflict {
            code: "payment_completed" | "quote_changed" | "payment_pending" | "case_already_paid",
            ..
        }) => {
            tx.rollback().await?;
            Ok(bill.payment.token.clone())
        }
        Err(e) => {
            tx.rollback().await?;
            Err(e.into())
        }
    }
}
