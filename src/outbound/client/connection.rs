//! Connections to vetted addresses, and how many calls one host may hold.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::error::CallError;
use super::{BadSettings, CallKind};
use crate::outbound::target::Target;

/// How many pinned clients are kept with their open connections. When there are more, all start anew.
pub const KEPT_CLIENTS: usize = 128;

/// Shorter than the keep-alive of common servers, so that few kept connections are dead ones.
const IDLE: Duration = Duration::from_secs(15);

/// Names the product and its version.
const USER_AGENT: &str = concat!("grosz/", env!("CARGO_PKG_VERSION"));

/// Makes clients that can reach the vetted addresses of one host and nothing else.
///
/// A kept connection is used again only for the same host with the same vetted addresses: a name that has moved since
/// finds no open door.
pub(super) struct Connections {
    tls: rustls::ClientConfig,
    https_only: bool,
    kept: Mutex<HashMap<Pin, reqwest::Client>>,
    kept_per_host: usize,
}

#[derive(Clone, PartialEq, Eq, Hash)]
struct Pin {
    scheme: String,
    authority: String,
    addresses: Vec<SocketAddr>,
    connect: Duration,
}

impl Connections {
    pub(super) fn new(
        extra_ca_pem: Option<&[u8]>,
        https_only: bool,
        kept_per_host: usize,
    ) -> Result<Self, BadSettings> {
        let tls = tls(extra_ca_pem)?;
        Ok(Connections { tls, https_only, kept: Mutex::new(HashMap::new()), kept_per_host })
    }

    /// A client for the target; a fresh one holds no connection and keeps none.
    pub(super) fn client(
        &self,
        target: &Target,
        addresses: Vec<IpAddr>,
        connect: Duration,
        fresh: bool,
    ) -> Result<reqwest::Client, CallError> {
        let mut addresses: Vec<_> = addresses.into_iter().map(|a| SocketAddr::new(a, target.port())).collect();
        if fresh {
            return self.build(target, &addresses, connect, 0);
        }
        // Name servers rotate their answers; the order is no difference.
        addresses.sort_unstable();
        let scheme = target.url().scheme().to_owned();
        let pin = Pin { scheme, authority: target.authority(), addresses, connect };
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(client) = kept.get(&pin) {
            return Ok(client.clone());
        }
        if kept.len() >= KEPT_CLIENTS {
            kept.clear();
        }
        let client = self.build(target, &pin.addresses, connect, self.kept_per_host)?;
        kept.insert(pin, client.clone());
        Ok(client)
    }

    fn build(
        &self,
        target: &Target,
        addresses: &[SocketAddr],
        connect: Duration,
        idle: usize,
    ) -> Result<reqwest::Client, CallError> {
        let mut builder = reqwest::Client::builder()
            .tls_backend_preconfigured(self.tls.clone())
            .user_agent(USER_AGENT)
            .https_only(self.https_only)
            .http1_only()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .referer(false)
            .connect_timeout(connect)
            .pool_idle_timeout(IDLE)
            .pool_max_idle_per_host(idle);
        // A host that is an address is never looked up; the connection goes to the address that was vetted.
        if let Some(name) = target.name() {
            builder = builder.resolve_to_addrs(name, addresses);
        }
        builder.build().map_err(|_| CallError::BadRequest("no client could be made"))
    }
}

/// The roots are built in, so that a machine without CA certificates starts, and calls, all the same.
fn tls(extra_ca_pem: Option<&[u8]>) -> Result<rustls::ClientConfig, BadSettings> {
    let mut roots = rustls::RootCertStore::from_iter(webpki_roots::TLS_SERVER_ROOTS.iter().cloned());
    if let Some(pem) = extra_ca_pem {
        let certificates: Vec<_> =
            CertificateDer::pem_slice_iter(pem).collect::<Result<_, _>>().map_err(|_| BadSettings::ExtraCa)?;
        if certificates.is_empty() {
            return Err(BadSettings::ExtraCa);
        }
        for certificate in certificates {
            roots.add(certificate).map_err(|_| BadSettings::ExtraCa)?;
        }
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| BadSettings::Tls(e.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

/// Counts the calls that are under way to each host (F35).
pub(super) struct Slots {
    per_host: usize,
    hosts: Mutex<HashMap<Key, Arc<Semaphore>>>,
}

type Key = (CallKind, String);

/// The right to one call; given back when dropped.
pub(super) struct Slot<'a> {
    slots: &'a Slots,
    key: Key,
    permit: Option<OwnedSemaphorePermit>,
}

impl Slots {
    pub(super) fn new(per_host: usize) -> Self {
        Slots { per_host: per_host.min(Semaphore::MAX_PERMITS), hosts: Mutex::new(HashMap::new()) }
    }

    /// Waits for a slot, first come, first served.
    pub(super) async fn take(&self, key: Key) -> Slot<'_> {
        let semaphore = {
            let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(hosts.entry(key.clone()).or_insert_with(|| Arc::new(Semaphore::new(self.per_host))))
        };
        // The slot exists before its permit, so that a wait that is given up tidies up as well.
        let mut slot = Slot { slots: self, key, permit: None };
        slot.permit = semaphore.acquire_owned().await.ok();
        slot
    }

    #[cfg(test)]
    pub(super) fn hosts(&self) -> usize {
        self.hosts.lock().unwrap_or_else(PoisonError::into_inner).len()
    }
}

impl Drop for Slot<'_> {
    /// Forgets a host that nobody calls any more; otherwise the map would grow with every name ever called.
    fn drop(&mut self) {
        let mut hosts = self.slots.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        drop(self.permit.take());
        if hosts.get(&self.key).is_some_and(|semaphore| Arc::strong_count(semaphore) == 1) {
            hosts.remove(&self.key);
        }
    }
}
