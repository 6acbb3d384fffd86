//! Adds accounts at gateways and invoicing APIs: settings checked against the facts, addresses vetted, secrets sealed.

use grosz_providers::facts::{Setting, SettingKind};
use grosz_providers::{Settings, SettingsError, registry};
use serde_json::{Map, Value};

use super::FlowError;
use super::order_invoice::issuing_account;
use crate::app::App;
use crate::store::{InvoicingAccount, ProviderAccount, Tx};

/// Adds a merchant's account at a gateway. `currency` may be left out: then the gateway's first one is meant where an
/// account takes one only.
///
/// # Errors
/// The gateway is not known, or a setting or the currency is refused, by name.
pub async fn add_provider_account(
    app: &App,
    tx: &mut Tx,
    merchant: &str,
    provider: &str,
    given: &Map<String, Value>,
    currency: Option<&str>,
    live: bool,
) -> Result<ProviderAccount, FlowError> {
    let (settings, currency) = check_provider(app, provider, given, currency, live)?;
    needs_key(app, live)?;
    let facts = registry::provider(provider).map_or(&[][..], |p| p.facts().settings);
    let id = app.ids.make("acc");
    let account = ProviderAccount {
        merchant_id: merchant.to_owned(),
        provider: provider.to_owned(),
        currency,
        live,
        enabled: true,
        sealed: app.seal_settings(&id, &settings)?,
        shown: settings.shown(facts),
        created_at: app.now(),
        id,
    };
    tx.add_provider_account(&account).await?;
    Ok(account)
}

/// Checks settings and currency of an account at a gateway.
///
/// # Errors
/// See [`add_provider_account`].
pub fn check_provider(
    app: &App,
    provider: &str,
    given: &Map<String, Value>,
    currency: Option<&str>,
    live: bool,
) -> Result<(Settings, Option<String>), FlowError> {
    let Some(gateway) = registry::provider(provider) else {
        let known = registry::providers().map(|p| p.facts().name).collect::<Vec<_>>().join(", ");
        return Err(FlowError::invalid("provider", format!("is not known; known are: {known}")));
    };
    let facts = gateway.facts();
    let settings = Settings::check(facts.settings, given).map_err(|e| refused(&e))?;
    check_targets(app, facts.settings, &settings)?;
    let currency = match currency {
        Some(code) if facts.currencies.contains(&code) => Some(code),
        Some(_) => {
            return Err(FlowError::invalid("currency", format!("must be one of: {}", facts.currencies.join(", "))));
        }
        None if facts.one_currency => facts.currencies.first().copied(),
        None => None,
    };
    gateway.check(&settings, currency.and_then(|c| c.parse().ok()), live).map_err(|e| refused(&e))?;
    Ok((settings, currency.map(str::to_owned)))
}

/// Adds a merchant's account at an invoicing API.
///
/// # Errors
/// The API is not known, or a setting is refused, by name.
pub async fn add_invoicing_account(
    app: &App,
    tx: &mut Tx,
    merchant: &str,
    invoicer: &str,
    given: &Map<String, Value>,
    live: bool,
) -> Result<InvoicingAccount, FlowError> {
    let settings = check_invoicer(app, invoicer, given)?;
    needs_key(app, live)?;
    let facts = registry::invoicer(invoicer).map_or(&[][..], |i| i.facts().settings);
    let id = app.ids.make("inv");
    let account = InvoicingAccount {
        merchant_id: merchant.to_owned(),
        invoicer: invoicer.to_owned(),
        live,
        enabled: true,
        sealed: app.seal_settings(&id, &settings)?,
        shown: settings.shown(facts),
        paused_until: None,
        pause_reason: None,
        failures: 0,
        created_at: app.now(),
        id,
    };
    tx.add_invoicing_account(&account).await?;
    Ok(account)
}

/// The account that issues instead of this one: the first that is on, of the same mode. `None` when this one issues, or is
/// switched off.
///
/// # Errors
/// The database.
pub async fn issuing_before(tx: &mut Tx, account: &InvoicingAccount) -> Result<Option<InvoicingAccount>, FlowError> {
    let issuing = issuing_account(tx, &account.merchant_id, account.live).await?;
    Ok(issuing.filter(|first| account.enabled && first.id != account.id))
}

/// What to say about an account behind which another one issues. It is no mistake where an account is to take the place of
/// another one, without a payment between the two that nobody invoices.
pub fn waits_behind(first: &InvoicingAccount) -> String {
    format!("the account {} is on and issues; this one issues nothing until that one is switched off", first.id)
}

/// Checks settings of an account at an invoicing API.
///
/// # Errors
/// See [`add_invoicing_account`].
pub fn check_invoicer(app: &App, invoicer: &str, given: &Map<String, Value>) -> Result<Settings, FlowError> {
    let Some(api) = registry::invoicer(invoicer) else {
        let known = registry::invoicers().map(|i| i.facts().name).collect::<Vec<_>>().join(", ");
        return Err(FlowError::invalid("invoicer", format!("is not known; known are: {known}")));
    };
    let settings = Settings::check(api.facts().settings, given).map_err(|e| refused(&e))?;
    check_targets(app, api.facts().settings, &settings)?;
    api.check(&settings).map_err(|e| refused(&e))?;
    Ok(settings)
}

/// Addresses among the settings are vetted when they come in, and again at every call (F62).
fn check_targets(app: &App, facts: &[Setting], settings: &Settings) -> Result<(), FlowError> {
    for setting in facts.iter().filter(|s| s.kind == SettingKind::Url) {
        if let Some(Err(refusal)) = settings.get(setting.name).map(|text| app.targets.check_text(text)) {
            return Err(FlowError::invalid(format!("settings.{}", setting.name), format!("is refused: {refusal}")));
        }
    }
    Ok(())
}

fn refused(e: &SettingsError) -> FlowError {
    FlowError::invalid(format!("settings.{}", e.name), e.why.clone())
}

/// Secrets that move real money are not sealed with the key that everybody has.
fn needs_key(app: &App, live: bool) -> Result<(), FlowError> {
    if live && app.config.master_key.0.is_empty() {
        let detail = "live accounts need a hub that was started with a master key (GROSZ_MASTER_KEY)";
        return Err(FlowError::conflict("master_key_missing", detail));
    }
    Ok(())
}
