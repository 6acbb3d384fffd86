//! Keeps the twins: hands them requests and the time, and makes merchants' accounts known to them.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use grosz_providers::twin::{GatewayTwin, InvoicerTwin, TwinAnswer, TwinRequest};
use grosz_providers::{Settings, Timestamp, registry};
use jiff::SignedDuration;
use tokio::sync::{Mutex, Notify};
use url::Url;

use super::carry::{Carrier, Way};
use super::dial::Dial;
use crate::app::SharedApp;
use crate::clock::Clock;
use crate::flows::FlowError;
use crate::ids::Ids;

/// How often changed settings of accounts are looked for; new accounts are found at once.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// All twins there are.
pub struct Host {
    /// The twins' time.
    pub(super) clock: Clock,
    /// For what is left to chance.
    pub(super) ids: Ids,
    /// Gateways first.
    pub(super) stands: Vec<Stand>,
    /// Brings deliveries to hubs.
    pub(super) carrier: Carrier,
    /// Rung after each request: there may be something to deliver.
    pub(super) bell: Notify,
    public_url: String,
    /// Origins that may be reported to, beside this machine.
    hubs: Vec<String>,
    /// The hub whose accounts are known by themselves; `None` for twins that run alone.
    hub: Option<SharedApp>,
    seen: Mutex<Seen>,
}

/// One twin with its dial.
pub(super) struct Stand {
    pub(super) name: &'static str,
    pub(super) title: &'static str,
    pub(super) dial: Dial,
    pub(super) kind: Kind,
}

/// What it simulates.
pub(super) enum Kind {
    /// A gateway, with what is on its way to hubs.
    Gateway { twin: Box<dyn GatewayTwin>, way: Mutex<Way> },
    /// An invoicing API.
    Invoicer { twin: Box<dyn InvoicerTwin> },
}

/// Accounts that the twins know already: id → sealed settings.
#[derive(Default)]
struct Seen {
    mark: (i64, String),
    looked_at: Option<Instant>,
    accounts: HashMap<String, String>,
}

/// Why an account cannot be made known.
#[derive(Debug, thiserror::Error)]
pub enum EnrollError {
    /// There is no twin of that name.
    #[error("there is no simulated {0}")]
    NoSuchTwin(String),
    /// The settings are refused.
    #[error("settings.{0}")]
    Settings(#[from] grosz_providers::SettingsError),
    /// The twin would have to report to somewhere else than a hub.
    #[error("webhook_url must be an http address on this machine or at one of the named hubs")]
    Target,
}

impl Host {
    /// The twins of a hub, served by it; they know its test accounts.
    pub fn of_hub(app: SharedApp) -> Self {
        let public_url = app.config.public_url.clone();
        Host::beside(app, public_url)
    }

    /// The twins of a hub, served at an address of their own; they know its test accounts and live by its clock.
    pub fn beside(app: SharedApp, public_url: String) -> Self {
        Host::new(app.clock.clone(), public_url, vec![app.config.public_url.clone()], Some(app))
    }

    /// Twins without a hub, reached at `public_url`, reporting to this machine and to the origins in `hubs`.
    pub fn alone(public_url: String, hubs: Vec<String>) -> Self {
        Host::new(Clock::System, public_url, hubs, None)
    }

    fn new(clock: Clock, public_url: String, hubs: Vec<String>, hub: Option<SharedApp>) -> Self {
        let gateways = registry::providers().filter_map(|provider| {
            let (facts, twin) = (provider.facts(), provider.twin()?);
            let dial = Dial::new(twin.faults(), true);
            Some(Stand {
                name: facts.name,
                title: facts.title,
                dial,
                kind: Kind::Gateway { twin, way: Mutex::default() },
            })
        });
        let invoicers = registry::invoicers().filter_map(|invoicer| {
            let (facts, twin) = (invoicer.facts(), invoicer.twin()?);
            let dial = Dial::new(twin.faults(), false);
            Some(Stand { name: facts.name, title: facts.title, dial, kind: Kind::Invoicer { twin } })
        });
        Host {
            ids: Ids::new(clock.clone()),
            clock,
            stands: gateways.chain(invoicers).collect(),
            carrier: Carrier::default(),
            bell: Notify::new(),
            public_url,
            hubs,
            hub,
            seen: Mutex::default(),
        }
    }

    /// The twin of that name.
    pub(super) fn stand(&self, name: &str) -> Option<&Stand> {
        self.stands.iter().find(|s| s.name == name)
    }

    /// The address of a twin, without a final slash.
    pub fn root(&self, name: &str) -> String {
        format!("{}/sandbox/{name}", self.public_url)
    }

    /// Serves one request to a twin. `request` carries everything but root, time and faults.
    pub(super) fn serve(&self, stand: &Stand, mut request: TwinRequest, from_a_browser: bool) -> TwinAnswer {
        if !from_a_browser && stand.dial.take("challenge_page") {
            let page = "<!doctype html><title>Just a moment…</title><h1>Checking your browser</h1>";
            return TwinAnswer::page(403, "text/html; charset=utf-8", page);
        }
        let names = match &stand.kind {
            Kind::Gateway { twin, .. } => twin.spends(&request.path),
            Kind::Invoicer { twin } => twin.spends(&request.path),
        };
        request.root = self.root(stand.name);
        request.now = self.now(stand);
        request.faults = stand.dial.draw(&names);
        let answer = match &stand.kind {
            Kind::Gateway { twin, .. } => twin.serve(&request),
            Kind::Invoicer { twin } => twin.serve(&request),
        };
        self.bell.notify_one();
        answer
    }

    /// The time on a twin's clock.
    pub(super) fn now(&self, stand: &Stand) -> Timestamp {
        let skew = i64::from(stand.dial.value("clock_ahead_s")) - i64::from(stand.dial.value("clock_behind_s"));
        let now = self.clock.now();
        now.checked_add(SignedDuration::from_secs(skew)).unwrap_or(now)
    }

    /// Makes an account known to the twin of that name. Repeating it changes nothing.
    ///
    /// # Errors
    /// See [`EnrollError`].
    pub fn enroll(
        &self,
        name: &str,
        given: &serde_json::Map<String, serde_json::Value>,
        webhook_url: &str,
    ) -> Result<(), EnrollError> {
        let nobody = || EnrollError::NoSuchTwin(name.to_owned());
        match &self.stand(name).ok_or_else(nobody)?.kind {
            Kind::Gateway { twin, .. } => {
                let provider = registry::provider(name).ok_or_else(nobody)?;
                let settings = Settings::check(provider.facts().settings, given)?;
                if !self.may_reach(webhook_url) {
                    return Err(EnrollError::Target);
                }
                twin.enroll(&settings, webhook_url);
            }
            Kind::Invoicer { twin } => {
                let invoicer = registry::invoicer(name).ok_or_else(nobody)?;
                twin.enroll(&Settings::check(invoicer.facts().settings, given)?);
            }
        }
        Ok(())
    }

    /// A simulator must not become a way to send requests to strangers.
    fn may_reach(&self, address: &str) -> bool {
        let Ok(url) = Url::parse(address) else { return false };
        let is_here = match url.host() {
            Some(url::Host::Domain(name)) => name == "localhost",
            Some(url::Host::Ipv4(ip)) => ip.is_loopback(),
            Some(url::Host::Ipv6(ip)) => ip.is_loopback(),
            None => false,
        };
        let same = |hub: &String| Url::parse(hub).is_ok_and(|hub| hub.origin() == url.origin());
        matches!(url.scheme(), "http" | "https") && (is_here || self.hubs.iter().any(same))
    }

    /// Makes the hub's test accounts known: new ones at once, changed ones within a second.
    pub async fn look_for_accounts(&self) {
        let Some(app) = &self.hub else { return };
        if let Err(error) = self.find_accounts(app).await {
            tracing::warn!(error = %error, "The sandbox cannot read the accounts");
        }
    }

    async fn find_accounts(&self, app: &SharedApp) -> Result<(), FlowError> {
        let mut seen = self.seen.lock().await;
        let mut tx = app.store.read().await?;
        let mark = tx.accounts_mark().await?;
        if mark == seen.mark && seen.looked_at.is_some_and(|at| at.elapsed() < LOOK_AGAIN) {
            return Ok(());
        }
        let (providers, invoicings) = (tx.test_provider_accounts().await?, tx.test_invoicing_accounts().await?);
        drop(tx);
        for account in providers {
            let Some(Stand { kind: Kind::Gateway { twin, .. }, .. }) = self.stand(&account.provider) else { continue };
            if seen.accounts.get(&account.id) != Some(&account.sealed) {
                twin.enroll(&app.provider_settings(&account)?, &app.webhook_url(&account));
                seen.accounts.insert(account.id, account.sealed);
            }
        }
        for account in invoicings {
            let Some(Stand { kind: Kind::Invoicer { twin }, .. }) = self.stand(&account.invoicer) else { continue };
            if seen.accounts.get(&account.id) != Some(&account.sealed) {
                twin.enroll(&app.invoicing_settings(&account)?);
                seen.accounts.insert(account.id, account.sealed);
            }
        }
        (seen.mark, seen.looked_at) = (mark, Some(Instant::now()));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Paths of APIs, payers' pages and panels, as twins have them.
    const PATHS: &[&str] = &[
        "/",
        "/payment",
        "/payment/continue/a/b",
        "/payment/continue/a/b/pay",
        "/c/pay/a/pay",
        "/v1/refunds",
        "/panel",
    ];

    #[test]
    fn a_twin_uses_up_only_faults_that_it_lists() {
        let host = Host::alone("http://127.0.0.1:1".into(), vec![]);
        for stand in &host.stands {
            let listed: Vec<&str> = stand.dial.known().iter().map(|(name, _)| *name).collect();
            let mut used: Vec<&str> = vec![];
            for path in PATHS {
                used.extend(match &stand.kind {
                    Kind::Gateway { twin, .. } => twin.spends(path),
                    Kind::Invoicer { twin } => twin.spends(path),
                });
            }
            if let Kind::Gateway { twin, .. } = &stand.kind {
                used.extend(twin.spends_by_delivery());
            }
            assert!(used.iter().all(|name| listed.contains(name)), "{}: {used:?}", stand.name);
        }
    }

    #[test]
    fn twins_report_to_this_machine_and_named_hubs_only() {
        let host = Host::alone("http://127.0.0.1:1".into(), vec!["http://hub.example:8080".into()]);
        for near in ["http://127.0.0.1:8080/x", "http://[::1]/x", "http://localhost/", "http://hub.example:8080/x"] {
            assert!(host.may_reach(near), "{near}");
        }
        for far in
            ["http://hub.example/", "http://localhost.example/", "http://169.254.169.254/", "ftp://127.0.0.1/", "x"]
        {
            assert!(!host.may_reach(far), "{far}");
        }
    }
}
