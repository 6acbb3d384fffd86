//! What every part of the hub is given: store, clock, ids, settings, the ways out.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use backon::{ExponentialBuilder, Retryable};
use grosz_providers::wire::{Http, HttpError, HttpRequest, HttpResponse};
use grosz_providers::{CallError, Cx, Settings};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore};
use url::{Host, Url};

use crate::clock::{Carried, Clock, Reading, seconds};
use crate::config::{Config, ConfigError};
use crate::descriptors::Shares;
use crate::flows::FlowError;
use crate::ids::Ids;
use crate::intake::KINDS;
use crate::jobs::Settling;
use crate::log::in_full;
use crate::mail::Mailer;
use crate::metrics::Metrics;
use crate::outbound::{
    BadSettings, CallKind, KEPT_CLIENTS, Observe, Outbound, OutboundSettings, SystemResolver, TargetPolicy,
};
use crate::seal::Sealer;
use crate::store::{InvoicingAccount, ProviderAccount, Store, StoreError, StoreSettings};

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
    /// Calls under way at each invoicing account.
    pub invoicing_slots: Slots,
    /// Accounts at gateways that are left alone for a while.
    pub rests: Rests,
    /// Which addresses may be called.
    pub targets: TargetPolicy,
    /// Mail.
    pub mailer: Mailer,
    /// Counters and timings.
    pub metrics: Arc<Metrics>,
    /// Rung when a job was enqueued, so that the worker need not wait for its next look.
    pub job_bell: Bell,
    /// Ends of jobs that wait to be written together.
    pub settling: Settling,
}

/// Rung when a job was enqueued. Heard by the worker of this process; where it has none, by those of other processes.
pub struct Bell {
    here: Notify,
    /// How long a worker sleeps at most, microseconds.
    tick: i64,
    elsewhere: Option<Store>,
}

impl Bell {
    /// Rings; rings in quick succession are heard once.
    pub fn notify_one(&self) {
        self.here.notify_one();
        if let Some(store) = &self.elsewhere {
            store.call_workers();
        }
    }

    /// Rings for jobs of which the first is due at `first_due`, as of `now` (microseconds), unless there are none or the
    /// worker will have looked by itself until then.
    pub fn ring_for(&self, first_due: Option<i64>, now: i64) {
        if first_due.is_some_and(|at| at <= now + self.tick) {
            self.notify_one();
        }
    }

    /// Waits for the next ring.
    pub async fn notified(&self) {
        self.here.notified().await;
    }
}

/// The way out while all outside calls are held: nothing leaves, and everybody is told so.
struct Held;

#[async_trait]
impl Http for Held {
    async fn send(&self, _: HttpRequest) -> Result<HttpResponse, HttpError> {
        Err(HttpError::NotSent("the hub was started with all outside calls held".into()))
    }
}

/// How many calls are under way, by account.
#[derive(Default)]
pub struct Slots(Mutex<HashMap<String, Arc<Semaphore>>>);

impl Slots {
    /// A slot of `account`, which has `most` of them; `None` when all are taken.
    pub fn take(&self, account: &str, most: usize) -> Option<OwnedSemaphorePermit> {
        let mut slots = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        let account = slots.entry(account.to_owned()).or_insert_with(|| Arc::new(Semaphore::new(most)));
        Arc::clone(account).try_acquire_owned().ok()
    }
}

/// The longest time for which somebody outside is left alone because he asked for it, seconds: money may be under way.
pub const LONGEST_REST_S: u32 = 3600;

/// Accounts at gateways that asked to be left alone (`Retry-After`), and until when. Each process has to be told by itself.
#[derive(Default)]
pub struct Rests(Mutex<HashMap<String, i64>>);

impl Rests {
    /// Until when `account` is left alone, microseconds; `None` when it may be called.
    pub fn until(&self, account: &str, now: i64) -> Option<i64> {
        let rests = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        rests.get(account).copied().filter(|until| *until > now)
    }

    /// Leaves `account` alone if this is what its gateway said, and answers until when.
    pub fn heed(&self, account: &str, said: &CallError, now: i64) -> Option<i64> {
        let CallError::Busy { retry_after_s: Some(wanted_s) } = said else { return None };
        let until = now + seconds(i64::from(LONGEST_REST_S.min(*wanted_s)));
        let mut rests = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        rests.retain(|_, until| *until > now);
        let longest = rests.entry(account.to_owned()).or_insert(until);
        *longest = until.max(*longest);
        Some(*longest)
    }
}

/// What a hub needs besides its database: made from the settings alone.
struct Ways {
    sealer: Sealer,
    mailer: Mailer,
    metrics: Arc<Metrics>,
    targets: TargetPolicy,
    out: Outbound,
}

impl Ways {
    fn of(config: &Config) -> Result<Ways, ConfigError> {
        let sealer = sealer(config)?;
        let extra_ca_pem = match config.extra_ca_file.as_str() {
            "" => None,
            path => Some(std::fs::read(path).map_err(|e| bad("extra_ca_file", &e))?),
        };
        let mailer = Mailer::from_url(&config.smtp_url.0, extra_ca_pem.as_deref()).map_err(|e| bad("smtp_url", &e))?;
        let metrics = Arc::new(Metrics::default());
        let targets = targets(config)?;
        let mut settings = OutboundSettings { policy: targets.clone(), extra_ca_pem, ..OutboundSettings::default() };
        for limits in [&mut settings.provider, &mut settings.document, &mut settings.client_hook] {
            limits.connect = Duration::from_secs(config.connect_s);
            limits.total = Duration::from_secs(config.call_s);
            limits.total_once = Duration::from_secs(config.once_call_s);
        }
        settings.calls_per_host = settings.calls_per_host.max(config.tell_concurrency);
        let shares = Shares::of_this_process(config);
        if shares.is_short {
            settings.kept_per_host = (shares.telling / KEPT_CLIENTS).max(1);
            tracing::warn!(
                callers = shares.callers,
                telling = shares.telling,
                "The limit of open files (ulimit -n) allows fewer connections than max_connections and tell_in_flight want"
            );
        }
        settings.client_hook.total = Duration::from_secs(config.tell_timeout_s);
        settings.client_hook.total_once = Duration::from_secs(config.tell_timeout_s);
        let resolver = SystemResolver::new(settings.provider.connect);
        let out = Outbound::with(settings, Arc::new(resolver), Arc::clone(&metrics) as Arc<dyn Observe>)
            .map_err(|e| outside_calls(&e))?;
        Ok(Ways { sealer, mailer, metrics, targets, out })
    }
}

/// Which addresses may be called: not the hub's own, unless it simulates gateways there, and none that the operator denies.
fn targets(config: &Config) -> Result<TargetPolicy, ConfigError> {
    let mut policy = TargetPolicy { allow_insecure: config.allow_insecure_targets, ..TargetPolicy::default() };
    for text in config.denied_networks.split(',').map(str::trim).filter(|text| !text.is_empty()) {
        policy.extra_denied.push(text.parse().map_err(|e| bad(&format!("denied_networks: {text:?}"), &e))?);
    }
    match Url::parse(&config.public_url).ok().and_then(|url| url.host().map(|host| host.to_owned())) {
        _ if config.sandbox => {}
        Some(Host::Domain(name)) => drop(policy.own_hosts.insert(name.trim_end_matches('.').to_owned())),
        Some(Host::Ipv4(address)) => drop(policy.own_addresses.insert(address.into())),
        Some(Host::Ipv6(address)) => drop(policy.own_addresses.insert(address.into())),
        None => {}
    }
    Ok(policy)
}

/// What cannot be used, by the names of the settings.
fn outside_calls(error: &BadSettings) -> ConfigError {
    match error {
        BadSettings::ConnectNotShorter(_) => {
            ConfigError("connect_s must be shorter than call_s, once_call_s and tell_timeout_s".into())
        }
        BadSettings::ExtraCa => ConfigError(format!("extra_ca_file: {error}")),
        other => ConfigError(format!("outside calls: {other}")),
    }
}

fn bad(what: &str, e: &dyn std::fmt::Display) -> ConfigError {
    ConfigError(format!("{what}: {e}"))
}

/// A hub that is shared.
pub type SharedApp = Arc<App>;

impl App {
    /// Tries what can be tried of the settings without the database and the outside.
    ///
    /// # Errors
    /// A setting cannot be used; the text says which.
    pub fn check(config: &Config) -> Result<(), ConfigError> {
        Ways::of(config).map(drop)
    }

    /// Opens the database, brings its schema up, and builds the ways out.
    ///
    /// # Errors
    /// A setting cannot be used, or the database cannot be reached; the text says which.
    pub async fn open(config: Config, clock: Clock) -> Result<App, ConfigError> {
        let ways = Ways::of(&config)?;
        let settings = StoreSettings {
            connections: config.db_connections,
            committers: KINDS * config.intake_committers,
            wait_s: config.db_wait_s,
            answer_s: config.db_answer_s,
            pooler: config.db_pooler,
            listen_url: config.database_listen_url.0.clone(),
        };
        let store =
            open_patiently(&config.database_url.0, &settings).await.map_err(|e| bad("database_url", &in_full(&e)))?;
        let clock = shared_clock(&store, clock).await.map_err(|e| bad("the database's clock", &in_full(&e)))?;
        let now = clock.micros();
        store.migrate(now).await.map_err(|e| bad("the database schema", &in_full(&e)))?;
        // The months ahead are there before their first call comes. Failing here is no reason not to start: a call whose
        // month is missing is kept all the same.
        if let Err(error) = store.make_partitions(now).await {
            tracing::warn!(error = %error, "The partitions of the coming months could not be made");
        }
        for warning in store.durability_warnings().await.unwrap_or_default() {
            tracing::error!("{warning}");
        }
        let Ways { sealer, mailer, metrics, targets, out } = ways;
        let resolver_of_clients = SystemResolver::new(Duration::from_secs(config.connect_s));
        let out_to_clients = out.for_kind(CallKind::ClientHook).resolving_by(Arc::new(resolver_of_clients));
        let way = |out: Outbound| -> Arc<dyn Http> { if config.hold { Arc::new(Held) } else { Arc::new(out) } };
        let tick = i64::try_from(config.job_tick_ms).unwrap_or(i64::MAX / 1000).saturating_mul(1000);
        Ok(App {
            ids: Ids::new(clock.clone()),
            clock,
            sealer,
            http: way(out.clone()),
            http_clients: way(out_to_clients),
            http_documents: way(out.for_kind(CallKind::Document)),
            invoicing_slots: Slots::default(),
            rests: Rests::default(),
            targets,
            mailer,
            metrics,
            job_bell: Bell { here: Notify::new(), tick, elsewhere: (config.role == "web").then(|| store.clone()) },
            settling: Settling::default(),
            store,
            config,
        })
    }

    /// Now in microseconds.
    pub fn now(&self) -> i64 {
        self.clock.micros()
    }

    /// Compares the shared clock with the database's, where there is one, and follows it unless it leapt alone (F59).
    pub async fn follow_clock(&self) {
        let Clock::Shared(carried) = &self.clock else { return };
        let Ok(Some((database, took))) = self.store.clock().await else { return };
        let reading = carried.hear(database, took, Clock::System.micros());
        self.store.goes_by_its_clock(!matches!(reading, Reading::Refused(_)));
        match reading {
            Reading::Followed => {}
            Reading::FollowedJump(by) => {
                tracing::warn!(jump_s = by / 1_000_000, "Time leapt, by the database's clock and by the machine's");
            }
            Reading::Refused(by) => tracing::error!(
                jump_s = by / 1_000_000,
                "The database's clock leapt, and the machine's did not: set it right. Until then this process goes on \
                 by the time it had"
            ),
        }
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
        Cx { settings, http: &*self.http, now: self.clock.outside(), live }
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

/// A database that starts at the same time as the hub needs a moment: five tries in about half a minute.
async fn open_patiently(url: &str, settings: &StoreSettings) -> Result<Store, StoreError> {
    let open = || Store::open(url, settings);
    let pauses = ExponentialBuilder::default().with_min_delay(Duration::from_secs(2)).with_max_times(4);
    open.retry(pauses)
        .when(|e| e.is_passing() && !e.is_of_address())
        .notify(|e, pause| tracing::warn!(error = %e, "The database cannot be used yet; next try in {pause:?}"))
        .await
}

/// The clock that all processes on one database share; a hand-moved clock stays as it is.
async fn shared_clock(store: &Store, clock: Clock) -> Result<Clock, StoreError> {
    if !matches!(clock, Clock::System) {
        return Ok(clock);
    }
    let Some((database, took)) = store.clock().await? else { return Ok(clock) };
    let apart = database.saturating_sub(clock.micros()) / 1_000_000;
    if apart.abs() > 60 {
        tracing::error!(apart_s = apart, "The database's clock and this machine's differ: set the wrong one right");
    }
    let carried = Carried::new(database.saturating_add(took / 2));
    // The first questions are asked while everything begins; one that is answered quickly says more.
    let mut slow = took > SLOW_READING;
    for _ in 0..READINGS_AT_FIRST {
        if !slow {
            break;
        }
        let Some((database, took)) = store.clock().await? else { break };
        carried.hear(database, took, Clock::System.micros());
        slow = took > SLOW_READING;
    }
    store.goes_by_its_clock(true);
    Ok(Clock::Shared(Arc::new(carried)))
}

/// A reading of the database's clock that took longer is asked for again when the hub begins, microseconds.
const SLOW_READING: i64 = 100_000;
/// So often at most.
const READINGS_AT_FIRST: usize = 3;

/// The sealer of the settings. Without a master key (never when live) a fixed one is used, so that a demo starts.
fn sealer(config: &Config) -> Result<Sealer, ConfigError> {
    let parse = |setting: &str, text: &str| {
        crate::seal::parse_master_key(text).map_err(|e| ConfigError(format!("{setting} {e}")))
    };
    let current = match config.master_key.0.as_str() {
        "" => *b"a demo key for nobody's secrets.",
        text => parse("master_key", text)?,
    };
    let old = config.old_master_keys.0.split(',').map(str::trim).filter(|t| !t.is_empty());
    Ok(Sealer::new(current, old.map(|text| parse("old_master_keys", text)).collect::<Result<_, _>>()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    // F37: calls that were under way at the same time may be told different times.
    #[test]
    fn an_account_rests_for_the_longest_time_that_was_asked_for() {
        let rests = Rests::default();
        let busy = |retry_after_s| CallError::Busy { retry_after_s };
        assert_eq!(rests.heed("a", &busy(None), 0), None);
        assert_eq!(rests.heed("a", &busy(Some(86_400)), 0), Some(seconds(3600)));
        assert_eq!(rests.heed("a", &busy(Some(1)), 0), Some(seconds(3600)));
        assert_eq!((rests.until("a", seconds(3599)), rests.until("a", seconds(3600))), (Some(seconds(3600)), None));
        assert_eq!(rests.until("b", 0), None);
    }
}
