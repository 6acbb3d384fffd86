//! What every part of the hub is given: store, clock, ids, settings, the ways out.

use std::collections::BTreeMap;
use std::sync::Arc;

use grosz_providers::wire::Http;
use grosz_providers::{Cx, Settings};
use tokio::sync::Notify;

use crate::clock::Clock;
use crate::config::Config;
use crate::flows::FlowError;
use crate::ids::Ids;
use crate::mail::Mailer;
use crate::metrics::Metrics;
use crate::outbound::TargetPolicy;
use crate::seal::Sealer;
use crate::store::{InvoicingAccount, ProviderAccount, Store};

/// One running hub. Cheap to share behind an `Arc`.
pub struct App {
    /// Settings.
    pub config: Config,
    /// The database.
    pub store: Store,
    /// Time.
    pub clock: Clock,
    /// Ids and tokens.
    pub ids: Ids,
    /// Encrypts settings at rest.
    pub sealer: Sealer,
    /// Calls to gateways and invoicing APIs.
    pub http: Arc<dyn Http>,
    /// Calls to client apps.
    pub http_clients: Arc<dyn Http>,
    /// Calls that answer with documents.
    pub http_documents: Arc<dyn Http>,
    /// Which addresses may be called.
    pub targets: TargetPolicy,
    /// Mail.
    pub mailer: Mailer,
    /// Counters and timings.
    pub metrics: Metrics,
    /// Rung when a job was enqueued, so that the worker need not wait for its next look.
    pub job_bell: Notify,
}

/// A hub that is shared.
pub type SharedApp = Arc<App>;

impl App {
    /// Now in microseconds.
    pub fn now(&self) -> i64 {
        self.clock.micros()
    }

    /// Encrypts an account's settings; bound to the account, so that a row copied to another account does not open.
    ///
    /// # Errors
    /// Encryption failed (never seen with a right key).
    pub fn seal_settings(&self, account: &str, settings: &Settings) -> Result<String, FlowError> {
        let plain = serde_json::to_string(settings.expose()).map_err(|e| FlowError::Internal(e.to_string()))?;
        self.sealer.seal(&plain, account).map_err(|e| FlowError::Internal(e.to_string()))
    }

    /// Opens an account's settings.
    ///
    /// # Errors
    /// The master key is not the one that sealed them.
    pub fn open_settings(&self, account: &str, sealed: &str) -> Result<Settings, FlowError> {
        let plain = self
            .sealer
            .open(sealed, account)
            .map_err(|_| FlowError::Internal(format!("settings of {account} do not open: is the master key right?")))?;
        let values: BTreeMap<String, String> = serde_json::from_str(plain.expose())
            .map_err(|_| FlowError::Internal(format!("settings of {account} are unreadable")))?;
        Ok(Settings::from_sealed(values))
    }

    /// The settings of a provider account.
    ///
    /// # Errors
    /// See [`App::open_settings`].
    pub fn provider_settings(&self, account: &ProviderAccount) -> Result<Settings, FlowError> {
        self.open_settings(&account.id, &account.sealed)
    }

    /// The settings of an invoicing account.
    ///
    /// # Errors
    /// See [`App::open_settings`].
    pub fn invoicing_settings(&self, account: &InvoicingAccount) -> Result<Settings, FlowError> {
        self.open_settings(&account.id, &account.sealed)
    }

    /// What a provider or an invoicer is given for a call.
    pub fn cx<'a>(&'a self, settings: &'a Settings, live: bool) -> Cx<'a> {
        Cx { settings, http: &*self.http, now: self.clock.now(), live }
    }

    /// The address at which a gateway reports to an account.
    pub fn webhook_url(&self, account: &ProviderAccount) -> String {
        format!("{}/webhooks/{}/{}", self.config.public_url, account.provider, account.id)
    }

    /// The payment link.
    pub fn checkout_url(&self, token: &str) -> String {
        format!("{}/pay/{token}", self.config.public_url)
    }

    /// The address of a payer's list.
    pub fn portal_url(&self, token: &str) -> String {
        format!("{}/portal/{token}", self.config.public_url)
    }
}
