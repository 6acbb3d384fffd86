//! Starts a payment, and finds the gateway's page for its payer.
//!
//! The payment and its attempt are recorded before any call is made, so a notification that comes before the gateway's
//! answer to us finds them (F01), and a crash leaves a usable `started` row (R-5W-15). The gateway is asked for its
//! page when the payer comes, once: two tabs and two devices get the same link (R-5W-16).

use grosz_providers::invoicer::{Buyer, InvoiceLine, Vat};
use grosz_providers::{AttemptRef, CallError, Checkout, Money, Provider, Redirect, registry};

use super::FlowError;
use super::apply_event::enqueue_cancel;
use super::check_sale::{Seller, seller_of};
use super::notify::{Raise, raise};
use super::settle_mismatch::awaits_person;
use super::tell_client::tell_payment;
use crate::app::App;
use crate::clock::{at, seconds};
use crate::domain::payment::Status;
use crate::store::{Attempt, Case, JobKind, Merchant, Payment, Profile, ProviderAccount, Transition, Tx};

/// What a client app asks for.
#[derive(Debug, Clone, Default)]
pub struct NewPayment {
    /// Pay this case; its quote gives amount, lines and payer.
    pub case: Option<String>,
    /// Without a case: what is to be paid.
    pub amount: Option<Money>,
    /// Without a case: one line for the payer; with one: the case's title unless given.
    pub description: Option<String>,
    /// Without a case: the lines of the invoice.
    pub lines: Option<Vec<InvoiceLine>>,
    /// Who pays; with a case, must be its payer.
    pub payer: Option<String>,
    /// Invoice data; the payer's default profile when left out.
    pub profile: Option<String>,
    /// At which account; the only fitting one when left out.
    pub provider_account: Option<String>,
    /// Where the payer goes afterwards; our own pages when left out.
    pub return_url: Option<String>,
}

/// Records a payment with its first attempt. Answers the unfinished payment of the case when there is one.
///
/// # Errors
/// A field is wrong, something named does not exist, no account takes this currency, or the case is paid.
pub async fn create_payment(
    app: &App,
    tx: &mut Tx,
    merchant: &Merchant,
    live: bool,
    order: NewPayment,
) -> Result<Payment, FlowError> {
    if order.case.is_some() && live != app.config.live {
        let detail = "cases are paid in the hub's own mode: what is paid for a trial would count as paid";
        return Err(FlowError::conflict("payment_of_other_mode", detail));
    }
    let case = match &order.case {
        // Locked, so that two clicks take turns.
        Some(id) => {
            Some(tx.case_for_update(&merchant.id, id).await?.ok_or(FlowError::invalid("case", "does not exist"))?)
        }
        None => None,
    };
    let payer_id = match (&order.payer, &case) {
        (Some(payer), Some(case)) if *payer != case.payer_id => {
            return Err(FlowError::invalid("payer", "is not the payer of the case"));
        }
        (Some(payer), _) => payer.clone(),
        (None, Some(case)) => case.payer_id.clone(),
        (None, None) => return Err(FlowError::invalid("payer", "is required")),
    };
    let payer = tx.payer(&merchant.id, &payer_id).await?.ok_or(FlowError::invalid("payer", "does not exist"))?;
    let seller = seller_of(app, tx, &merchant.id, live).await?;
    let (amount, lines, description) = match &case {
        Some(case) => {
            if order.amount.is_some_and(|a| a != case.total) {
                return Err(FlowError::invalid("amount", format!("differs from the case's quote of {}", case.total)));
            }
            let description = order.description.unwrap_or_else(|| format!("{} {}", case.number, case.title));
            (case.total, Some(case.lines.clone()), description)
        }
        None => {
            let amount = order.amount.ok_or(FlowError::invalid("amount", "is required without a case"))?;
            let amount = amount.payable().map_err(|e| FlowError::money("amount", &e))?;
            let description = order.description.unwrap_or_default();
            if description.trim().is_empty() {
                return Err(FlowError::invalid("description", "is required without a case"));
            }
            let vat = seller.as_ref().map_or(Vat::Rate(2300), Seller::usual_vat);
            let lines = order.lines.unwrap_or_else(|| vec![single_line(&description, amount, vat)]);
            (amount, Some(lines), description)
        }
    };
    let description: String = description.chars().take(200).collect();
    let account = choose_account(tx, merchant, live, order.provider_account.as_deref(), amount).await?;
    if let Some(case) = &case {
        if tx.completed_payments_of_case(&merchant.id, &case.id).await? > 0 {
            return Err(FlowError::conflict("case_already_paid", format!("case {} is paid", case.number)));
        }
        if let Some(running) = tx.started_payment_of_case(&merchant.id, &case.id).await?
            && is_for(app, tx, &running, case).await?
        {
            return Ok(running);
        }
    }
    let profile = match &order.profile {
        Some(id) => {
            let found = tx.profile(&merchant.id, id).await?.filter(|p| p.payer_id == payer.id);
            Some(found.ok_or(FlowError::invalid("profile", "does not exist for this payer"))?)
        }
        None => tx.profiles(&merchant.id, &payer.id).await?.into_iter().find(|p| p.is_default),
    };
    let profile =
        check_sale(seller.as_ref(), case.as_ref(), amount, lines.as_deref(), profile, order.profile.is_some())?;
    let return_url = match &order.return_url {
        Some(url) => check_return_url(app, merchant, url)?,
        None => String::new(),
    };
    let now = app.now();
    let payment = Payment {
        merchant_id: merchant.id.clone(),
        id: app.ids.make("pay"),
        case_id: case.as_ref().map(|c| c.id.clone()),
        quote_version: case.as_ref().map_or(0, |c| c.quote_version),
        payer_id: payer.id,
        buyer: profile.as_ref().map(|p| p.body.clone()),
        profile_id: profile.as_ref().map(|p| p.id.clone()),
        profile_version: profile.as_ref().map_or(0, |p| p.version),
        provider_account_id: account.id.clone(),
        amount,
        lines,
        description,
        return_url,
        token: app.ids.token(),
        live: account.live,
        status: Status::Started,
        reason: None,
        late_success: false,
        double_payment: false,
        mismatch: false,
        amount_refunded: 0,
        version: 1,
        created_at: now,
        updated_at: now,
        completed_at: None,
    };
    tx.add_payment(&payment).await?;
    let begun = Transition {
        id: app.ids.make("trn"),
        from: None,
        to: Status::Started.word().into(),
        reason: None,
        cause: "api".into(),
        cause_id: None,
        at: now,
    };
    let moved = begun.id.clone();
    tx.add_transition(&payment.merchant_id, &payment.id, begun).await?;
    add_attempt(app, tx, &payment, &account, 1).await?;
    tell_payment(app, tx, &payment, "payment.started", None, Some(&moved)).await?;
    Ok(payment)
}

/// Checks that what is ordered could be invoiced. Answers the invoice data: none where those of the payer's habit do not do
/// and he is asked for them on the way.
fn check_sale(
    seller: Option<&Seller>,
    case: Option<&Case>,
    total: Money,
    lines: Option<&[InvoiceLine]>,
    profile: Option<Profile>,
    is_named: bool,
) -> Result<Option<Profile>, FlowError> {
    let (Some(seller), Some(lines)) = (seller, lines) else { return Ok(profile) };
    seller.check(total, lines, None).map_err(|e| match e {
        FlowError::Invalid { field, why } if case.is_some() => {
            FlowError::invalid("case", format!("has a quote that cannot be invoiced: {field} {why}"))
        }
        // The client app gave a sum and no lines.
        FlowError::Invalid { field, why } if field == "total" => FlowError::invalid("amount", why),
        other => other,
    })?;
    let Some(profile) = profile else { return Ok(None) };
    match seller.check(total, lines, Some(&profile.body)) {
        Ok(()) => Ok(Some(profile)),
        Err(_) if case.is_some() && !is_named => Ok(None),
        Err(e) => Err(FlowError::invalid("profile", format!("holds data that cannot be invoiced: {e}"))),
    }
}

/// Whether the payment that is under way is the one to pay the case by: one that failed and is tried again only while its
/// quote holds, and its link can be used or money is under way (F08).
async fn is_for(app: &App, tx: &mut Tx, running: &Payment, case: &Case) -> Result<bool, FlowError> {
    if running.status == Status::Started {
        return Ok(true);
    }
    let attempts = tx.attempts(&running.merchant_id, &running.id).await?;
    let is_open = |a: &Attempt| matches!(a.state.as_str(), "created" | "open") && a.expires_at > app.now();
    if running.quote_version != case.quote_version || attempts.last().is_some_and(is_open) {
        return Ok(running.quote_version == case.quote_version);
    }
    let captures = tx.captures(&running.merchant_id, &running.id).await?;
    Ok(captures.iter().any(|c| c.state == "pending"))
}

/// Adds an attempt at an account, with the job that will ask the gateway about it.
///
/// # Errors
/// The database.
pub async fn add_attempt(
    app: &App,
    tx: &mut Tx,
    payment: &Payment,
    account: &ProviderAccount,
    no: i64,
) -> Result<Attempt, FlowError> {
    let now = app.now();
    let gateways_own = registry::provider(&account.provider).map_or(i64::MAX, |p| p.facts().lifetime_s);
    let lifetime = app.config.link_lifetime_s.min(gateways_own);
    let attempt = Attempt {
        merchant_id: payment.merchant_id.clone(),
        id: app.ids.make("att"),
        payment_id: payment.id.clone(),
        no,
        provider_account_id: account.id.clone(),
        reference: app.ids.bare(),
        gateway_ref: None,
        state: "created".into(),
        redirect: None,
        amount: payment.amount,
        start_lease: None,
        expires_at: now + seconds(lifetime),
        created_at: now,
    };
    tx.add_attempt(&attempt).await?;
    let first_poll = now + seconds(crate::config::wait_s(&app.config.poll_waits_s, 0));
    let job = app.ids.make("job");
    tx.enqueue(&payment.merchant_id, &job, JobKind::PollStatus, &attempt.id, first_poll, now).await?;
    Ok(attempt)
}

/// Finds the account for a payment: the named one, or the only enabled one that takes the currency.
///
/// # Errors
/// It does not exist, is switched off, belongs to the other mode, or does not take this amount.
pub async fn choose_account(
    tx: &mut Tx,
    merchant: &Merchant,
    live: bool,
    wanted: Option<&str>,
    amount: Money,
) -> Result<ProviderAccount, FlowError> {
    let accounts = tx.provider_accounts(&merchant.id).await?;
    let code = amount.currency().code();
    let mut fitting = match wanted {
        Some(id) => {
            let named = accounts.into_iter().find(|a| a.id == id);
            let named = named.ok_or(FlowError::invalid("provider_account", "does not exist"))?;
            if !named.enabled {
                return Err(FlowError::conflict("provider_not_configured", "this provider account is switched off"));
            }
            if named.live != live {
                return Err(FlowError::invalid(
                    "provider_account",
                    "and the API key are not of the same mode (live, test)",
                ));
            }
            if !takes(&named, code) {
                return Err(FlowError::invalid("currency", format!("{code} is not taken by this provider account")));
            }
            vec![named]
        }
        None => accounts.into_iter().filter(|a| a.enabled && a.live == live && takes(a, code)).collect(),
    };
    match (fitting.pop(), fitting.is_empty()) {
        (Some(account), true) => {
            check_limits(&account, amount)?;
            Ok(account)
        }
        (Some(last), false) => {
            fitting.push(last);
            let names: Vec<String> = fitting.iter().take(10).map(|a| format!("{} ({})", a.id, a.provider)).collect();
            let why = format!("is required: several accounts take {code}: {}", names.join(", "));
            Err(FlowError::invalid("provider_account", why))
        }
        (None, _) => Err(FlowError::conflict(
            "provider_not_configured",
            format!("no provider account of this merchant takes {code}; add one with POST /v1/provider-accounts"),
        )),
    }
}

fn takes(account: &ProviderAccount, code: &str) -> bool {
    match (&account.currency, registry::provider(&account.provider)) {
        (Some(only), _) => only == code,
        (None, Some(provider)) => provider.facts().currencies.contains(&code),
        (None, None) => false,
    }
}

fn check_limits(account: &ProviderAccount, amount: Money) -> Result<(), FlowError> {
    let Some(provider) = registry::provider(&account.provider) else { return Ok(()) };
    let (least, most) = provider.facts().limits;
    if amount.minor() < least || amount.minor() > most {
        let why = format!("must be from {least} to {most} minor units at this gateway");
        return Err(FlowError::invalid("amount", why));
    }
    match provider.check_amount(amount) {
        Ok(()) => Ok(()),
        Err(CallError::Invalid { why, .. }) => Err(FlowError::invalid("amount", why)),
        Err(e) => Err(FlowError::invalid("amount", e.to_string())),
    }
}

/// A payment without a case is one line, with the seller's usual VAT.
fn single_line(description: &str, amount: Money, vat: Vat) -> InvoiceLine {
    let name = description.chars().take(256).collect();
    InvoiceLine { name, quantity: 1, unit_gross_minor: amount.minor(), vat }
}

/// Checks a return address: absolute http(s), no tricks, and one of the merchant's origins where there are any (F63).
///
/// # Errors
/// The field with the reason.
pub fn check_return_url(app: &App, merchant: &Merchant, text: &str) -> Result<String, FlowError> {
    let bad = |why: &str| Err(FlowError::invalid("return_url", why));
    if text.len() > 1000 {
        return bad("must have at most 1000 characters");
    }
    if text.chars().any(|c| c.is_control() || c.is_whitespace() || c == '\\') {
        return bad("must not hold control characters, blanks or backslashes");
    }
    let Ok(url) = url::Url::parse(text) else { return bad("must be an absolute https address") };
    let insecure = app.config.allow_insecure_targets || !app.config.live;
    if !(url.scheme() == "https" || (url.scheme() == "http" && insecure)) || !text.contains("://") {
        return bad("must be an absolute https address");
    }
    let authority = text.split("://").nth(1).and_then(|rest| rest.split(['/', '?', '#']).next()).unwrap_or_default();
    if authority.contains('@') || url.host_str().is_none_or(str::is_empty) {
        return bad("must name a host and no user");
    }
    let origin = url.origin().ascii_serialization();
    if !merchant.return_origins.is_empty() && !merchant.return_origins.contains(&origin) {
        return bad("must have one of the merchant's registered origins");
    }
    Ok(url.into())
}

/// Where the payer's browser goes from a payment link.
#[derive(Debug)]
pub enum Opened {
    /// To the gateway.
    Gateway(Redirect),
    /// Nowhere yet: invoice data are missing.
    NeedsBuyer,
    /// Nowhere: paid, or no longer payable here.
    Closed,
    /// Nowhere: the link's time is over while money is under way on this attempt.
    Pending(String),
    /// Nowhere: money of another sum came, and a person looks into it.
    Review,
    /// The quote was changed after this link was made (R-5W-08).
    QuoteChanged,
    /// Somebody else is asking the gateway this very moment, or its answer is not known: look again soon.
    Busy,
}

/// Finds the gateway's page for a payment link, asking the gateway for it if nobody did.
///
/// # Errors
/// The gateway refused or could not be reached; the payment stays as it is and the link can be used again.
pub async fn open_checkout(app: &App, payment: &Payment, ip: Option<&str>) -> Result<Opened, FlowError> {
    let mut tx = app.store.read().await?;
    let attempts = tx.attempts(&payment.merchant_id, &payment.id).await?;
    let Some(attempt) = attempts.into_iter().next_back() else { return Ok(Opened::Closed) };
    if payment.status != Status::Completed && has_old_quote(&mut tx, payment).await? {
        return Ok(Opened::QuoteChanged);
    }
    let live_attempt = matches!(attempt.state.as_str(), "created" | "open") && attempt.expires_at > app.now();
    if payment.status == Status::Completed || is_case_paid(&mut tx, payment).await? {
        return Ok(Opened::Closed);
    }
    if awaits_person(&mut tx, payment).await? {
        return Ok(Opened::Review);
    }
    if !live_attempt {
        let captures = tx.captures(&payment.merchant_id, &payment.id).await?;
        let pending = captures.into_iter().rfind(|c| c.state == "pending");
        return Ok(pending.map_or(Opened::Closed, |c| Opened::Pending(c.attempt_id)));
    }
    if payment.case_id.is_some() && payment.buyer.is_none() {
        return Ok(Opened::NeedsBuyer);
    }
    if let Some(redirect) = attempt.redirect {
        return Ok(Opened::Gateway(redirect));
    }
    let account = tx.provider_account(&payment.merchant_id, &attempt.provider_account_id).await?;
    let account = account.ok_or(FlowError::NotFound("provider account"))?;
    let payer = tx.payer(&payment.merchant_id, &payment.payer_id).await?.ok_or(FlowError::NotFound("payer"))?;
    drop(tx);
    let provider = provider_of(&account)?;

    let now = app.now();
    let lease = now + seconds(i64::try_from(app.config.once_call_s).unwrap_or(60) + 5);
    let mut tx = app.store.begin().await?;
    let mine = tx.claim_start(&payment.merchant_id, &attempt.id, now, lease).await?;
    tx.commit().await?;
    if !mine {
        // The other one may have finished between our look and our claim.
        let mut tx = app.store.read().await?;
        let again = tx.attempt(&payment.merchant_id, &attempt.id).await?;
        return Ok(again.and_then(|a| a.redirect).map_or(Opened::Busy, Opened::Gateway));
    }

    let settings = app.provider_settings(&account)?;
    let return_url = format!("{}/return/{}", app.config.public_url, attempt.id);
    let checkout = Checkout {
        reference: attempt.reference.clone(),
        amount: attempt.amount,
        description: payment.description.clone(),
        email: payer.email,
        name: Some(payer.name),
        language: payer.language,
        ip: ip.map(str::to_owned),
        cancel_url: return_url.clone(),
        return_url,
        webhook_url: app.webhook_url(&account),
        expires_at: at(attempt.expires_at),
    };
    let started = provider.start(&app.cx(&settings, account.live), &checkout).await;
    let mut tx = app.store.begin().await?;
    match started {
        Ok(redirect) => {
            let (gateway_ref, expires_at) = match &redirect {
                Redirect::Url { gateway_ref, expires_at, .. } => {
                    (gateway_ref.clone(), expires_at.map(grosz_providers::Timestamp::as_microsecond))
                }
                Redirect::Form { .. } => (None, None),
            };
            tx.open_attempt(
                &payment.merchant_id,
                &payment.id,
                &attempt.id,
                &redirect,
                gateway_ref.as_deref(),
                expires_at,
            )
            .await?;
            let now = tx.attempt(&payment.merchant_id, &attempt.id).await?.ok_or(FlowError::NotFound("attempt"))?;
            if now.state != "open" {
                // Given up while the gateway was asked: whoever closed it saw no link that could be closed.
                enqueue_cancel(app, &mut tx, &now).await?;
                let has_old_quote = has_old_quote(&mut tx, payment).await?;
                tx.commit().await?;
                app.job_bell.notify_one();
                return Ok(if has_old_quote { Opened::QuoteChanged } else { Opened::Closed });
            }
            if matches!(redirect, Redirect::Url { .. }) {
                // Of a form the gateway knows nothing yet.
                tx.resolve_alert_by_key(&payment.merchant_id, &refused_key(&account), app.now()).await?;
            }
            tx.commit().await?;
            Ok(Opened::Gateway(redirect))
        }
        Err(e) => {
            // Starting again with the same reference is the gateway's own idempotency: the link may be tried again.
            tx.release_start(&payment.merchant_id, &attempt.id).await?;
            match &e {
                CallError::Config(_) => raise_config(app, &mut tx, &account, &e).await?,
                CallError::Refused { .. }
                | CallError::Gone { .. }
                | CallError::Invalid { .. }
                | CallError::Unsupported => {
                    raise_refused(app, &mut tx, &account, payment, &e).await?;
                }
                CallError::NotSent(_) | CallError::Unknown(_) | CallError::Busy { .. } => {}
            }
            tx.commit().await?;
            Err(e.into())
        }
    }
}

/// Tells a person, once, that a gateway takes none of this account's calls.
///
/// # Errors
/// The database.
pub async fn raise_config(app: &App, tx: &mut Tx, account: &ProviderAccount, e: &CallError) -> Result<(), FlowError> {
    let key = format!("provider.config:{}", account.id);
    let why = format!("the gateway refuses this account's credentials: {e}");
    raise(app, tx, Raise::about_account("provider.config", key, &account.merchant_id, why)).await
}

/// Tells a person that a gateway refuses checkouts, once for each account until one is taken: it may refuse one payment
/// (an amount that is too small) or all (a method that is not switched on), and its words tell which.
async fn raise_refused(
    app: &App,
    tx: &mut Tx,
    account: &ProviderAccount,
    payment: &Payment,
    e: &CallError,
) -> Result<(), FlowError> {
    let why = format!("the checkout of payment {} could not be started: {e}", payment.id);
    let matter = Raise::about_account("provider.refused", refused_key(account), &account.merchant_id, why);
    raise(app, tx, matter).await
}

fn refused_key(account: &ProviderAccount) -> String {
    format!("provider.refused:{}", account.id)
}

/// Whether the case of a payment is paid, by whichever payment.
///
/// # Errors
/// The database.
pub async fn is_case_paid(tx: &mut Tx, payment: &Payment) -> Result<bool, FlowError> {
    let Some(case) = &payment.case_id else { return Ok(false) };
    Ok(tx.completed_payments_of_case(&payment.merchant_id, case).await? > 0)
}

/// Whether the case has another quote than the one this payment was started with (R-5W-08).
///
/// # Errors
/// The database.
pub async fn has_old_quote(tx: &mut Tx, payment: &Payment) -> Result<bool, FlowError> {
    let Some(case) = &payment.case_id else { return Ok(false) };
    let case = tx.case(&payment.merchant_id, case).await?;
    Ok(case.is_some_and(|case| case.quote_version != payment.quote_version))
}

/// The gateway of an account.
///
/// # Errors
/// This program does not know it (an older program on a newer database).
pub fn provider_of(account: &ProviderAccount) -> Result<&'static dyn Provider, FlowError> {
    registry::provider(&account.provider)
        .ok_or_else(|| FlowError::Internal(format!("gateway {} is not known to this program", account.provider)))
}

/// How a provider is told of an attempt.
pub fn attempt_ref(a: &Attempt) -> AttemptRef {
    AttemptRef {
        reference: a.reference.clone(),
        gateway_ref: a.gateway_ref.clone(),
        amount: a.amount,
        created_at: at(a.created_at),
        expires_at: at(a.expires_at),
    }
}

/// Writes the buyer's snapshot into a payment, before the payer goes to the gateway.
///
/// # Errors
/// The payment is completed already, or its invoice could not be issued to this buyer: `buyer.tax_id` and the like.
pub async fn choose_buyer(
    app: &App,
    tx: &mut Tx,
    payment: &Payment,
    buyer: &Buyer,
    profile: Option<(&str, i64)>,
) -> Result<(), FlowError> {
    if payment.status == Status::Completed {
        return Err(FlowError::conflict("payment_completed", "the payment is completed"));
    }
    if let Some(seller) = seller_of(app, tx, &payment.merchant_id, payment.live).await? {
        seller.check(payment.amount, payment.lines.as_deref().unwrap_or_default(), Some(buyer))?;
    }
    let (id, version) = profile.map_or((None, 0), |(id, version)| (Some(id), version));
    tx.set_buyer(&payment.merchant_id, &payment.id, buyer, id, version, app.now()).await?;
    Ok(())
}
