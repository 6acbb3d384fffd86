//! The demonstration: what `cargo run` shows on a fresh machine. A hub on SQLite with the simulated gateways and the
//! simulated invoicing API, a merchant with experts, payers and cases, and a key to call the API with.
//!
//! Names no gateway: whatever is registered with a twin takes part. Test mode only. Starting again adds nothing twice.

use std::net::SocketAddr;
use std::path::Path;

use grosz_providers::invoicer::{Buyer, TaxIdKind, Vat};
use grosz_providers::{Currency, Money, registry};
use tokio::net::TcpListener;

use crate::app::{App, SharedApp};
use crate::config::{Config, ConfigError};
use crate::domain::quote::{Prices, QuotedLine, lines};
use crate::flows::FlowError;
use crate::flows::add_account::{add_invoicing_account, add_provider_account, check_invoicer, check_provider};
use crate::flows::add_key::{SCOPES, make_key};
use crate::http::server::listen;
use crate::run::Ended;
use crate::store::{
    Case, Expert, InvoicingAccount, Merchant, Page, Payer, Profile, ProviderAccount, Store, StoreError, StoreSettings,
    Tx,
};

/// Where the demonstration keeps its data, below the current directory.
pub const DIRECTORY: &str = "grosz-data";
const MERCHANT: &str = "Demo";
/// Ports that are tried when the first one is in use.
const PORTS: u16 = 20;

/// What the demonstration prints.
#[derive(Debug, Clone)]
pub struct Demo {
    /// The merchant.
    pub merchant_id: String,
    /// The fresh API key.
    pub api_key: String,
    /// Addresses to open and the key, for people.
    pub text: String,
}

/// Settings of the demonstration: those of the environment, else SQLite, sandbox and mail files below [`DIRECTORY`].
///
/// # Errors
/// A variable is unknown or wrong, or the directory cannot be made.
pub fn demo_config(env: impl Iterator<Item = (String, String)>) -> Result<Config, ConfigError> {
    let here = std::env::current_dir().map_err(|e| ConfigError(format!("the current directory: {e}")))?;
    let data = here.join(DIRECTORY);
    let make = |path: &Path| {
        std::fs::create_dir_all(path).map_err(|e| ConfigError(format!("{} cannot be made: {e}", path.display())))
    };
    make(&data.join("mail"))?;
    let defaults = [
        ("GROSZ_DATABASE_URL", format!("sqlite:{}", data.join("grosz.db").display())),
        ("GROSZ_SMTP_URL", format!("file://{}", data.join("mail").display())),
        ("GROSZ_SANDBOX", "true".to_owned()),
        ("GROSZ_ALLOW_INSECURE_TARGETS", "true".to_owned()),
    ];
    let defaults = defaults.into_iter().map(|(name, value)| (name.to_owned(), value));
    Config::load(None, defaults.chain(env))
}

/// Binds the listener of the settings; when its port is in use, one of the next, and the public address follows.
///
/// # Errors
/// No port is free, or the address is not one of this machine.
pub async fn bind(config: &mut Config) -> Result<TcpListener, ConfigError> {
    let bad = |why: String| ConfigError(format!("{} cannot be listened on: {why}", config.listen));
    let (host, first) = match config.listen.parse::<SocketAddr>() {
        Ok(address) => (address.ip().to_string(), address.port()),
        Err(_) => {
            let named = config.listen.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse().ok()?)));
            let (host, port) = named.ok_or_else(|| bad("it is no address with a port".into()))?;
            (host.to_owned(), port)
        }
    };
    for port in first..=first.saturating_add(PORTS) {
        match listen((host.as_str(), port)).await {
            Ok(listener) => {
                let bound = listener.local_addr().map_err(|e| bad(e.to_string()))?;
                if config.public_url == Config::default().public_url {
                    let ip = if bound.ip().is_unspecified() { "127.0.0.1".into() } else { bound.ip().to_string() };
                    let ip = if ip.contains(':') { format!("[{ip}]") } else { ip };
                    config.public_url = format!("http://{ip}:{}", bound.port());
                }
                config.listen = bound.to_string();
                return Ok(listener);
            }
            Err(e) if e.kind() == std::io::ErrorKind::AddrInUse => {}
            Err(e) => return Err(bad(e.to_string())),
        }
    }
    Err(bad(format!("it and the next {PORTS} ports are in use; name another in GROSZ_LISTEN")))
}

/// Runs the demonstration until `stop` says true, and says why it ended. `print` is given the text for people once everything is there.
///
/// # Errors
/// A setting cannot be used, no port is free, or the database cannot be written to.
pub async fn run(
    mut config: Config,
    stop: tokio::sync::watch::Receiver<bool>,
    print: impl FnOnce(&str),
) -> Result<Ended, ConfigError> {
    let listener = bind(&mut config).await?;
    // Before the schema is touched. What cannot be looked at here is said when it is opened.
    if let Ok(store) = Store::open(&config.database_url.0, &StoreSettings::default()).await {
        let others = match store.read().await {
            Ok(mut tx) => tx.merchants().await.is_ok_and(|all| is_others(&all)),
            Err(_) => false,
        };
        store.close().await;
        if others {
            return Err(ConfigError(OTHERS.into()));
        }
    }
    let app = SharedApp::new(App::open(config, crate::clock::Clock::System).await?);
    let demo = seed(&app).await.map_err(|e| ConfigError(format!("the demonstration cannot be set up: {e}")))?;
    print(&demo.text);
    Ok(crate::run::run(app, Some(listener), stop).await)
}

/// Makes sure that merchant, accounts, experts, payers and cases are there, and makes a fresh API key; the keys of
/// earlier starts end.
///
/// # Errors
/// The hub is live, the database holds merchants of somebody else, or it cannot be written to.
pub async fn seed(app: &App) -> Result<Demo, FlowError> {
    if app.config.live || !app.config.sandbox {
        return Err(FlowError::conflict("not_a_sandbox", "the demonstration needs sandbox = true and live = false"));
    }
    let mut tx = app.store.begin().await?;
    if is_others(&tx.merchants().await?) {
        tx.rollback().await?;
        return Err(FlowError::conflict("not_a_demo", OTHERS));
    }
    let merchant = merchant(app, &mut tx).await?;
    let api_key = api_key(app, &mut tx, &merchant).await?;
    provider_accounts(app, &mut tx, &merchant).await?;
    invoicing_accounts(app, &mut tx, &merchant).await?;
    let experts = experts(app, &mut tx, &merchant).await?;
    let payers = payers(app, &mut tx, &merchant).await?;
    cases(app, &mut tx, &merchant, &experts, &payers).await?;
    tx.commit().await?;
    let text = text(app, &api_key, &payers);
    Ok(Demo { merchant_id: merchant, api_key, text })
}

/// Why a database is left alone.
const OTHERS: &str = "the database holds merchants of somebody else, whom the demonstration leaves alone; to serve them: \
                      grosz serve (with --config or the same variables)";

/// True when the demonstration would find itself among real merchants.
fn is_others(merchants: &[Merchant]) -> bool {
    merchants.iter().any(|m| m.name != MERCHANT)
}

async fn merchant(app: &App, tx: &mut Tx) -> Result<String, StoreError> {
    if let Some(known) = tx.merchants().await?.into_iter().find(|m| m.name == MERCHANT) {
        return Ok(known.id);
    }
    let merchant = Merchant {
        id: app.ids.make("mer"),
        name: MERCHANT.into(),
        language: "pl".into(),
        fallback_email: Some("biuro@demo.example".into()),
        return_origins: vec![],
        show_attachment: false,
        created_at: app.now(),
    };
    tx.add_merchant(&merchant).await?;
    Ok(merchant.id)
}

async fn api_key(app: &App, tx: &mut Tx, merchant: &str) -> Result<String, FlowError> {
    const NAME: &str = "demo";
    for old in tx.api_keys(merchant).await?.iter().filter(|k| k.name == NAME && k.revoked_at.is_none()) {
        tx.revoke_api_key(merchant, &old.id, app.now()).await?;
    }
    let (_, shown) = make_key(app, tx, merchant, NAME, false, &SCOPES).await?;
    Ok(shown)
}

fn root(app: &App, name: &str) -> String {
    format!("{}/sandbox/{name}", app.config.public_url)
}

/// An account at every gateway whose twin takes part; on later starts with the address of this start.
async fn provider_accounts(app: &App, tx: &mut Tx, merchant: &str) -> Result<(), FlowError> {
    let known = tx.provider_accounts(merchant).await?;
    for provider in registry::providers() {
        let facts = provider.facts();
        let given = provider.twin().map(|t| t.demo_settings(&root(app, facts.name))).unwrap_or_default();
        if given.is_empty() {
            continue;
        }
        // The cases below are in PLN.
        let currency = (facts.one_currency && facts.currencies.contains(&"PLN")).then_some("PLN");
        let Some(old) = known.iter().find(|a| a.provider == facts.name && !a.live) else {
            add_provider_account(app, tx, merchant, facts.name, &given, currency, false).await?;
            continue;
        };
        let (settings, _) = check_provider(app, facts.name, &given, currency, false)?;
        let (sealed, shown) = (app.seal_settings(&old.id, &settings)?, settings.shown(facts.settings));
        tx.update_provider_account(&ProviderAccount { sealed, shown, ..old.clone() }).await?;
    }
    Ok(())
}

/// Likewise; the first one issues, further ones stand by.
async fn invoicing_accounts(app: &App, tx: &mut Tx, merchant: &str) -> Result<(), FlowError> {
    let known = tx.invoicing_accounts(merchant).await?;
    let mut one_issues = known.iter().any(|a| a.enabled);
    for invoicer in registry::invoicers() {
        let facts = invoicer.facts();
        let given = invoicer.twin().map(|t| t.demo_settings(&root(app, facts.name))).unwrap_or_default();
        if given.is_empty() {
            continue;
        }
        let Some(old) = known.iter().find(|a| a.invoicer == facts.name && !a.live) else {
            let added = add_invoicing_account(app, tx, merchant, facts.name, &given, false).await?;
            tx.update_invoicing_account(&InvoicingAccount { enabled: !one_issues, ..added }).await?;
            one_issues = true;
            continue;
        };
        let settings = check_invoicer(app, facts.name, &given)?;
        let (sealed, shown) = (app.seal_settings(&old.id, &settings)?, settings.shown(facts.settings));
        tx.update_invoicing_account(&InvoicingAccount { sealed, shown, ..old.clone() }).await?;
    }
    Ok(())
}

async fn experts(app: &App, tx: &mut Tx, merchant: &str) -> Result<Vec<String>, StoreError> {
    let all = Page { before: None, limit: 100 };
    let known = tx.experts(merchant, &all).await?;
    let mut ids = vec![];
    for (name, email) in [("Ekspert 1", "ekspert1@demo.example"), ("Ekspert 2", "ekspert2@demo.example")] {
        if let Some(expert) = known.iter().find(|e| e.email == email) {
            ids.push(expert.id.clone());
            continue;
        }
        let expert = Expert {
            merchant_id: merchant.into(),
            id: app.ids.make("exp"),
            name: name.into(),
            email: email.into(),
            language: "pl".into(),
            created_at: app.now(),
        };
        tx.add_expert(&expert).await?;
        ids.push(expert.id);
    }
    Ok(ids)
}

async fn payers(app: &App, tx: &mut Tx, merchant: &str) -> Result<Vec<Payer>, StoreError> {
    let all = Page { before: None, limit: 100 };
    let known = tx.payers(merchant, &all).await?;
    let mut payers = vec![];
    for (name, email, language) in
        [("Klient 1", "klient1@demo.example", "pl"), ("Klient 2", "klient2@demo.example", "en")]
    {
        if let Some(payer) = known.iter().find(|p| p.email == email) {
            payers.push(payer.clone());
            continue;
        }
        let payer = Payer {
            merchant_id: merchant.into(),
            id: app.ids.make("pyr"),
            name: name.into(),
            email: email.into(),
            language: language.into(),
            portal_token: app.ids.token(),
            created_at: app.now(),
        };
        tx.add_payer(&payer).await?;
        tx.add_profile(&profile(app, &payer)).await?;
        payers.push(payer);
    }
    Ok(payers)
}

/// 123-456-32-18 is the number with a right check digit that documents about the NIP use as their example.
fn profile(app: &App, payer: &Payer) -> Profile {
    Profile {
        merchant_id: payer.merchant_id.clone(),
        id: app.ids.make("prf"),
        payer_id: payer.id.clone(),
        version: 1,
        body: Buyer {
            is_company: true,
            name: format!("Firma {}", payer.name),
            tax_id_kind: TaxIdKind::PlNip,
            tax_id: "1234563218".into(),
            street: "ul. Przykładowa 1".into(),
            postcode: "00-001".into(),
            city: "Warszawa".into(),
            country: "PL".into(),
            email: payer.email.clone(),
        },
        is_default: true,
        created_at: app.now(),
    }
}

/// Number, title, payer, expert, and lines of a name, a quantity, a gross unit price in minor units and a rate.
type Quoted = (&'static str, &'static str, usize, usize, &'static [(&'static str, i64, i64, u32)]);

const CASES: &[Quoted] = &[
    ("1/2026", "Analiza umowy najmu", 0, 0, &[("Analiza umowy", 1, 12_300, 2300)]),
    ("2/2026", "Porada i pismo", 0, 1, &[("Porada", 2, 15_000, 2300), ("Pismo z drukiem", 1, 5_400, 800)]),
    ("3/2026", "Review of a contract", 1, 0, &[("Review", 3, 24_600, 2300), ("Handbook", 1, 3_150, 500)]),
];

async fn cases(app: &App, tx: &mut Tx, merchant: &str, experts: &[String], payers: &[Payer]) -> Result<(), FlowError> {
    let all = Page { before: None, limit: 1000 };
    let known = tx.cases(merchant, None, &all).await?;
    for (number, title, payer, expert, quoted) in CASES {
        let Some(payer) = payers.get(*payer).filter(|_| !known.iter().any(|c| c.number == *number)) else { continue };
        let quoted: Vec<QuotedLine> = quoted
            .iter()
            .map(|(name, quantity, unit_price, bp)| QuotedLine {
                name: (*name).into(),
                quantity: *quantity,
                unit_price: *unit_price,
                vat: Vat::Rate(*bp),
            })
            .collect();
        let total = Money::new(quoted.iter().map(|l| l.quantity * l.unit_price).sum(), Currency::PLN);
        let lines =
            lines(&quoted, total, Some(Prices::Gross)).map_err(|e| FlowError::Internal(format!("the demo's {e}")))?;
        let case = Case {
            merchant_id: merchant.into(),
            id: app.ids.make("case"),
            number: (*number).into(),
            title: (*title).into(),
            expert_id: experts.get(*expert).cloned(),
            payer_id: payer.id.clone(),
            total,
            lines,
            quote_version: 1,
            status: "analysis".into(),
            created_at: app.now(),
            updated_at: app.now(),
        };
        tx.add_case(&case).await?;
    }
    Ok(())
}

fn text(app: &App, key: &str, payers: &[Payer]) -> String {
    let url = &app.config.public_url;
    let mut text = format!(
        "Grosz runs in test mode. Open:\n\n  \
         {url}/demo       a client app that starts checkouts\n"
    );
    for payer in payers {
        let list = app.portal_url(&payer.portal_token);
        text.push_str(&format!("  {list}   the list of {} ({})\n", payer.name, payer.language));
    }
    text.push_str(&format!(
        "  {url}/sandbox    the simulated gateways and invoicing API, with their faults\n  \
         {url}/docs       the API\n\n\
         The API's key for this start:\n\n  {key}\n\n  \
         curl -H 'Authorization: Bearer {key}' {url}/v1/payments\n"
    ));
    if let Some(directory) = app.config.smtp_url.0.strip_prefix("file://") {
        text.push_str(&format!("\nMails are written to {directory}\n"));
    }
    text
}
