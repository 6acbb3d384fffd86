//! A case as its payer sees it: the quote, where it stands, ZAPŁAĆ (R-5W-07, R-5W-19).

use askama::Template;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;
use grosz_providers::Money;
use grosz_providers::invoicer::{InvoiceLine, Vat};
use grosz_providers::registry;

use super::checkout::{Bill, try_again};
use super::format;
use super::guard::{Fields, check_form, form_token};
use super::look::{Forms, Look, page, see_other};
use super::portal::portal_of;
use super::stop::{Path, Stop};
use crate::flows::FlowError;
use crate::flows::start_checkout::{NewPayment, choose_account, create_payment};
use crate::http::Web;
use crate::store::{Case, Merchant, Page, Payment, PaymentFilter, ProviderAccount, Tx};

/// One line of the quote.
struct Line {
    name: String,
    quantity: i64,
    unit: String,
    vat: String,
    value: String,
}

/// One way to pay.
struct Way {
    id: String,
    name: String,
    is_chosen: bool,
}

#[derive(Template)]
#[template(path = "case.html")]
struct CasePage<'a> {
    look: &'a Look,
    case: &'a Case,
    status_label: &'a str,
    expert: String,
    lines: Vec<Line>,
    total: String,
    is_paid: bool,
    /// None when the integration is off (R-5W-02).
    ways: Vec<Way>,
    pay_address: String,
    list_address: String,
    /// Files attached to its payments.
    files: Vec<String>,
    csrf: String,
}

/// `GET /portal/{token}/cases/{id}`
pub(crate) async fn show(
    State(web): State<Web>,
    Path((token, id)): Path<(String, String)>,
    uri: Uri,
) -> Result<Response, Stop> {
    let mut tx = web.app.store.read().await?;
    let portal = portal_of(&mut tx, &token).await?;
    let look = portal.look(&web, &uri);
    let case = portal.case(&mut tx, &id).await?;
    let merchant = &portal.merchant;
    let expert = match &case.expert_id {
        Some(id) => tx.expert(&merchant.id, id).await?.map(|e| e.name).unwrap_or_default(),
        None => String::new(),
    };
    let is_paid = tx.completed_payments_of_case(&merchant.id, &case.id).await? > 0;
    let running = tx.started_payment_of_case(&merchant.id, &case.id).await?;
    let chosen = running.as_ref().map(|p| p.provider_account_id.as_str());
    let ways = if is_paid { vec![] } else { ways(&web, &mut tx, merchant, case.total, chosen).await? };
    let filter = PaymentFilter { case: Some(case.id.clone()), ..PaymentFilter::default() };
    let mut files = vec![];
    for payment in tx.payments(&merchant.id, &filter, &Page { before: None, limit: 20 }).await? {
        if tx.has_attachment(&merchant.id, &payment.id).await? {
            files.push(look.at(&format!("/portal/{token}/payments/{}/attachment", payment.id)));
        }
    }
    let template = CasePage {
        look: &look,
        status_label: if case.status == "analysis" { look.t.case_analysis } else { look.t.case_preparation },
        expert,
        lines: case.lines.iter().map(|l| line(&look, &case, l)).collect(),
        total: format::money(look.language, case.total),
        is_paid,
        ways: ways.into_iter().enumerate().map(|(n, a)| way(n, a, running.as_ref())).collect(),
        pay_address: look.at(&format!("/portal/{token}/cases/{}/pay", case.id)),
        list_address: look.at(&format!("/portal/{token}")),
        files,
        csrf: form_token(&token),
        case: &case,
    };
    page(&web, StatusCode::OK, Forms::Gateways, &template)
}

fn line(look: &Look, case: &Case, l: &InvoiceLine) -> Line {
    let sum = |minor| format::number(look.language, Money::new(minor, case.total.currency()));
    Line {
        name: l.name.clone(),
        quantity: l.quantity,
        unit: sum(l.unit_gross_minor),
        vat: vat(look, l.vat),
        value: sum(l.quantity.saturating_mul(l.unit_gross_minor)),
    }
}

fn vat(look: &Look, vat: Vat) -> String {
    match vat {
        Vat::Rate(bp) if bp % 100 == 0 => format!("{}\u{a0}%", bp / 100),
        Vat::Rate(bp) => {
            let text = format!("{}.{:02}", bp / 100, bp % 100);
            format!("{}\u{a0}%", text.trim_end_matches('0'))
        }
        Vat::Exempt => look.t.vat_exempt.into(),
        Vat::OutsideScope => look.t.vat_outside.into(),
        Vat::ReverseChargeEu => look.t.vat_reverse.into(),
        Vat::SellerNotVatPayer => "–".into(),
    }
}

/// The account of the running payment is chosen, else the first.
fn way(n: usize, account: ProviderAccount, running: Option<&Payment>) -> Way {
    let title = registry::provider(&account.provider).map(|p| p.facts().title.to_owned());
    Way {
        is_chosen: running.map_or(n == 0, |p| p.provider_account_id == account.id),
        name: title.unwrap_or(account.provider),
        id: account.id,
    }
}

/// The accounts at which this sum can be paid here; an unavailable one is absent (R-5W-02). Payers choose among gateways
/// and cannot tell a merchant's accounts at one of them apart, so each gateway is offered once: by the account that is
/// chosen already, else by the first.
async fn ways(
    web: &Web,
    tx: &mut Tx,
    merchant: &Merchant,
    total: Money,
    chosen: Option<&str>,
) -> Result<Vec<ProviderAccount>, Stop> {
    let mut ways: Vec<ProviderAccount> = vec![];
    for account in tx.provider_accounts(&merchant.id).await? {
        let account = match choose_account(tx, merchant, web.app.config.live, Some(&account.id), total).await {
            Ok(account) => account,
            Err(FlowError::Invalid { .. } | FlowError::Conflict { .. }) => continue,
            Err(e) => return Err(e.into()),
        };
        match ways.iter_mut().find(|way| way.provider == account.provider) {
            Some(way) if chosen == Some(&account.id) => *way = account,
            Some(_) => {}
            None => ways.push(account),
        }
    }
    Ok(ways)
}

/// `POST /portal/{token}/cases/{id}/pay`: ZAPŁAĆ. The payment is recorded before the browser leaves (R-5W-15); a second
/// click finds the same one (R-5W-16). The invoice data are asked for next (R-5W-10).
pub(crate) async fn pay(
    State(web): State<Web>,
    Path((token, id)): Path<(String, String)>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Stop> {
    let app = &web.app;
    let fields = Fields::read(&body);
    let mut tx = app.store.begin().await?;
    let portal = portal_of(&mut tx, &token).await?;
    let case = portal.case(&mut tx, &id).await?;
    check_form(&web, &headers, &fields, &token)?;
    let look = portal.look(&web, &uri);
    let wanted = Some(fields.text("way")).filter(|w| !w.is_empty());
    let account = match wanted {
        Some(way) => Some(way),
        None => ways(&web, &mut tx, &portal.merchant, case.total, None).await?.into_iter().next().map(|a| a.id),
    };
    let order = NewPayment { case: Some(case.id.clone()), provider_account: account.clone(), ..NewPayment::default() };
    let payment = match create_payment(app, &mut tx, &portal.merchant, app.config.live, order).await {
        Ok(payment) => payment,
        Err(FlowError::Conflict { code: "case_already_paid", .. }) => {
            tx.rollback().await?;
            return see_other(&look.at(&format!("/portal/{token}/cases/{}", case.id)));
        }
        Err(e) => {
            tx.rollback().await?;
            return Err(e.into());
        }
    };
    tx.commit().await?;
    if account.as_ref().is_some_and(|a| *a != payment.provider_account_id) {
        // The payer changed his mind about the way: the attempt at the other gateway is closed.
        let bill =
            Bill { payment: payment.clone(), payer: portal.payer, merchant: portal.merchant, is_in_review: false };
        try_again(&web, &bill, account.as_deref()).await?;
    }
    app.job_bell.notify_one();
    see_other(&look.at(&format!("/pay/{}/buyer", payment.token)))
}
