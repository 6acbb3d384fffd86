//! Which addresses the hub may call: the guard against being used to reach our own network.
//!
//! Clients and merchants give us addresses, and our workers stand next to a database and the cloud's metadata service.
//! [`TargetPolicy::check_text`] looks at the words of an address when it is registered; [`TargetPolicy::vet`] looks at
//! what its name means now, before every single call, because a name can point elsewhere a second later. Whoever calls
//! must then connect to the vetted addresses and to nothing else.
//!
//! Must not know: sockets, the client, the configuration file. The resolver is passed in, so that the rules are tested
//! without a network.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, ToSocketAddrs};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{Semaphore, watch};
use url::{Host, Url};

/// Longest address taken, in characters.
pub const MAX_LENGTH: usize = 2048;

/// Names that never belong to the public internet, together with everything below them.
const SPECIAL_NAMES: [&str; 11] =
    ["localhost", "local", "internal", "intranet", "lan", "home", "corp", "private", "home.arpa", "onion", "invalid"];

/// Where clouds answer with credentials to whoever asks from inside. 168.63.129.16 and 192.0.0.192 look harmless.
const METADATA: [IpAddr; 6] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 169, 254)),
    IpAddr::V4(Ipv4Addr::new(169, 254, 170, 2)),
    IpAddr::V4(Ipv4Addr::new(100, 100, 100, 200)),
    IpAddr::V4(Ipv4Addr::new(192, 0, 0, 192)),
    IpAddr::V4(Ipv4Addr::new(168, 63, 129, 16)),
    IpAddr::V6(Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254)),
];

/// The rules for targets. The default allows `https` to public addresses on ports 443 and 8443.
#[derive(Debug, Clone)]
pub struct TargetPolicy {
    /// For development and tests: permits plain HTTP, every port but 0, and names and addresses of private networks
    /// and of this machine. Metadata addresses, multicast and link-local ones stay refused.
    pub allow_insecure: bool,
    /// Ports that may be called, unless `allow_insecure`.
    pub ports: BTreeSet<u16>,
    /// Names of this hub, in small letters, without a final dot. A call to ourselves could loop.
    pub own_hosts: BTreeSet<String>,
    /// Public addresses of this hub.
    pub own_addresses: BTreeSet<IpAddr>,
    /// Further addresses that must not be called, whatever else says yes.
    pub extra_denied: Vec<Network>,
}

impl Default for TargetPolicy {
    fn default() -> Self {
        TargetPolicy {
            allow_insecure: false,
            ports: BTreeSet::from([443, 8443]),
            own_hosts: BTreeSet::new(),
            own_addresses: BTreeSet::new(),
            extra_denied: vec![],
        }
    }
}

impl TargetPolicy {
    /// Checks an address as text, without any look-up: for registration, and as the first half of every call.
    ///
    /// # Errors
    /// The first rule that it breaks, in a fixed order: length, characters, syntax, scheme, user info, fragment,
    /// port, host.
    pub fn check_text(&self, text: &str) -> Result<Target, Refusal> {
        if text.chars().count() > MAX_LENGTH {
            return Err(Refusal::TooLong);
        }
        // Parsers of the WHATWG kind drop tabs and line feeds and read a backslash as a slash: refuse them before.
        if text.chars().any(|c| c.is_control() || c.is_whitespace() || c == '\\') {
            return Err(Refusal::BadCharacters);
        }
        let url = Url::parse(text).map_err(|_| Refusal::Unparseable)?;
        let plain_http = url.scheme() == "http" && self.allow_insecure;
        if url.scheme() != "https" && !plain_http {
            return Err(Refusal::Scheme);
        }
        // An empty user name vanishes in parsing, so the raw text is looked at too.
        if !url.username().is_empty() || url.password().is_some() || raw_authority(text).contains('@') {
            return Err(Refusal::UserInfo);
        }
        if url.fragment().is_some() {
            return Err(Refusal::Fragment);
        }
        let port = url.port_or_known_default().filter(|port| self.allows_port(*port)).ok_or(Refusal::Port)?;
        self.check_host(url, port)
    }

    fn allows_port(&self, port: u16) -> bool {
        if self.allow_insecure { port != 0 } else { self.ports.contains(&port) }
    }

    /// The host is judged as the parser typed it: by then every odd spelling of an address is a plain address.
    fn check_host(&self, mut url: Url, port: u16) -> Result<Target, Refusal> {
        let host = match url.host().ok_or(Refusal::Unparseable)? {
            Host::Ipv4(address) => TargetHost::Address(self.check_address(address.into())?),
            Host::Ipv6(address) => TargetHost::Address(self.check_address(address.into())?),
            Host::Domain(name) => TargetHost::Name(self.check_name(name)?),
        };
        if let TargetHost::Name(name) = &host {
            // Without its final dot the name is the one in certificates.
            url.set_host(Some(name)).map_err(|_| Refusal::Unparseable)?;
        }
        Ok(Target { url, host, port })
    }

    fn check_name(&self, name: &str) -> Result<String, Refusal> {
        let name = name.strip_suffix('.').unwrap_or(name);
        if name.split('.').any(str::is_empty) {
            return Err(Refusal::Unparseable);
        }
        if self.allow_insecure {
            return Ok(name.to_owned());
        }
        if self.own_hosts.contains(name) {
            return Err(Refusal::OwnHost);
        }
        if SPECIAL_NAMES.iter().any(|special| is_below(name, special)) {
            return Err(Refusal::SpecialName);
        }
        if !name.contains('.') {
            return Err(Refusal::SingleLabel);
        }
        Ok(name.to_owned())
    }

    /// Looks the name up and checks every address that it has: one bad address refuses the name, because clients try
    /// addresses in turn. An address written as such is checked again, without a look-up.
    ///
    /// # Errors
    /// Why the target must not, or cannot, be called now; see [`Refusal::is_temporary`].
    pub async fn vet(&self, target: &Target, resolver: &dyn Resolve) -> Result<Vec<IpAddr>, Refusal> {
        let addresses = match &target.host {
            TargetHost::Address(address) => vec![*address],
            TargetHost::Name(name) => resolver.resolve(name).await.map_err(Refusal::from)?,
        };
        if addresses.is_empty() {
            return Err(Refusal::NoAddress);
        }
        addresses.into_iter().map(|address| self.check_address(address)).collect()
    }

    fn check_address(&self, address: IpAddr) -> Result<IpAddr, Refusal> {
        let inner = unmapped(address);
        if METADATA.contains(&inner) {
            return Err(Refusal::Metadata);
        }
        if self.extra_denied.iter().any(|network| network.contains(inner)) {
            return Err(Refusal::Denied);
        }
        let own = if self.own_addresses.contains(&inner) { Some(Refusal::OwnAddress) } else { None };
        match own.or_else(|| not_public(inner)) {
            None => Ok(address),
            Some(why) if self.allow_insecure && why.is_lifted_by_allow_insecure() => Ok(address),
            Some(why) => Err(why),
        }
    }
}

/// What stands between the scheme and the path. Any number of slashes is skipped, as the parser does.
fn raw_authority(text: &str) -> &str {
    let after_scheme = text.split_once(':').map_or("", |(_, rest)| rest).trim_start_matches('/');
    after_scheme.split(['/', '?', '#']).next().unwrap_or_default()
}

fn is_below(name: &str, parent: &str) -> bool {
    name.strip_suffix(parent).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// `::ffff:a.b.c.d` is the IPv4 address inside it.
fn unmapped(address: IpAddr) -> IpAddr {
    match address {
        IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(address, IpAddr::V4),
        IpAddr::V4(_) => address,
    }
}

/// Why an address is not one of the public internet; `None` when it is. The blocks are those of the IANA special-purpose
/// registries; the standard library has no stable answer.
fn not_public(address: IpAddr) -> Option<Refusal> {
    match address {
        IpAddr::V4(v4) => not_public_v4(v4),
        IpAddr::V6(v6) => not_public_v6(v6),
    }
}

fn not_public_v4(address: Ipv4Addr) -> Option<Refusal> {
    match address.octets() {
        [0, ..] => Some(Refusal::ThisNetwork),
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Some(Refusal::Private),
        [100, 64..=127, ..] => Some(Refusal::Shared),
        [127, ..] => Some(Refusal::Loopback),
        [169, 254, ..] => Some(Refusal::LinkLocal),
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => Some(Refusal::Documentation),
        [192, 0, 0, _] | [192, 88, 99, _] => Some(Refusal::Reserved),
        [198, 18 | 19, ..] => Some(Refusal::Benchmark),
        [224..=239, ..] => Some(Refusal::Multicast),
        [240..=255, ..] => Some(Refusal::Reserved),
        _ => None,
    }
}

fn not_public_v6(address: Ipv6Addr) -> Option<Refusal> {
    match address.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Some(Refusal::Unspecified),
        [0, 0, 0, 0, 0, 0, 0, 1] => Some(Refusal::Loopback),
        [0x64, 0xff9b, 0, 0, 0, 0, ..] | [0x64, 0xff9b, 1, ..] | [0x2002, ..] => Some(Refusal::Translated),
        [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => Some(Refusal::Documentation),
        [0x2001, 0..=0x1ff, ..] | [0x5f00, ..] => Some(Refusal::Reserved),
        [0xfc00..=0xfdff, ..] => Some(Refusal::Private),
        [0xfe80..=0xfebf, ..] => Some(Refusal::LinkLocal),
        [0xff00..=0xffff, ..] => Some(Refusal::Multicast),
        [0x2000..=0x3fff, ..] => None,
        // Among them the discard prefix, the old site-local block and the old IPv4-compatible form.
        _ => Some(Refusal::Reserved),
    }
}

/// An address whose text has passed. Says nothing about what its name points to.
#[derive(Clone, PartialEq, Eq)]
pub struct Target {
    url: Url,
    host: TargetHost,
    port: u16,
}

impl Target {
    /// The address as parsed; the only form that may be used from here on.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// Host and port as one word, for counting and for logs.
    pub fn authority(&self) -> String {
        format!("{}:{}", self.host(), self.port)
    }

    /// The host: a name in small ASCII letters without a final dot, or an address (IPv6 in brackets).
    pub fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }

    /// The name to look up; `None` when the host is an address.
    pub fn name(&self) -> Option<&str> {
        match &self.host {
            TargetHost::Name(name) => Some(name),
            TargetHost::Address(_) => None,
        }
    }

    /// The port, also when it is not written.
    pub fn port(&self) -> u16 {
        self.port
    }
}

/// Shows no path and no query: both may hold secrets.
impl fmt::Debug for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.url.scheme(), self.authority())
    }
}

#[derive(Clone, PartialEq, Eq)]
enum TargetHost {
    Name(String),
    Address(IpAddr),
}

/// Finds the addresses of a name.
#[async_trait]
pub trait Resolve: Send + Sync {
    /// All IPv4 and IPv6 addresses of the name; the name has no final dot.
    ///
    /// # Errors
    /// See [`ResolveError`].
    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError>;
}

/// Why a name has no addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum ResolveError {
    /// The name does not exist.
    #[error("the name does not exist")]
    NoSuchName,
    /// The name service did not answer, or answered with an error.
    #[error("the name service did not answer")]
    Failed,
}

/// Look-ups of one resolver under way at the same time: each holds a thread of those that the whole process has for what
/// waits, until the system gives up, long after nobody waits for it any more.
const LOOK_UPS: usize = 64;

/// Asks the system, for as long as that takes.
type LookUp = dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync;

/// What came of a look-up; nothing yet while it is under way.
type Found = Option<Result<Vec<IpAddr>, ResolveError>>;

/// The resolver of the operating system. Whoever asks for a name that is being looked up shares the answer, so a dead name
/// holds one thread, however many ask for it.
#[derive(Clone)]
pub struct SystemResolver {
    limit: Duration,
    look_up: Arc<LookUp>,
    threads: Arc<Semaphore>,
    under_way: Arc<Mutex<HashMap<String, watch::Receiver<Found>>>>,
}

impl SystemResolver {
    /// A resolver whose callers wait so long at most. Names that come from strangers deserve one of their own.
    pub fn new(limit: Duration) -> SystemResolver {
        SystemResolver::with(limit, |name| Ok((name, 0).to_socket_addrs()?.map(|a| a.ip()).collect()))
    }

    fn with(limit: Duration, look_up: impl Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync + 'static) -> Self {
        let threads = Arc::new(Semaphore::new(LOOK_UPS));
        SystemResolver { limit, look_up: Arc::new(look_up), threads, under_way: Arc::default() }
    }

    fn look_up(&self, name: &str) -> watch::Receiver<Found> {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = under_way.get(name) {
            return found.clone();
        }
        let (say, found) = watch::channel(None);
        under_way.insert(name.to_owned(), found.clone());
        let (this, name) = (self.clone(), name.to_owned());
        tokio::spawn(async move {
            let answer = this.ask(&name).await;
            this.under_way.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
            say.send_replace(Some(answer));
        });
        found
    }

    async fn ask(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let thread = Arc::clone(&self.threads).acquire_owned().await.map_err(|_| ResolveError::Failed)?;
        let (look_up, name) = (Arc::clone(&self.look_up), name.to_owned());
        let asked = tokio::task::spawn_blocking(move || {
            // Free again when the thread is.
            let _thread = thread;
            look_up(&name)
        });
        let found = asked.await.map_err(|_| ResolveError::Failed)?.map_err(|e| look_up_error(&e))?;
        Ok(found.into_iter().collect::<BTreeSet<_>>().into_iter().collect())
    }
}

#[async_trait]
impl Resolve for SystemResolver {
    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let mut found = self.look_up(name);
        match tokio::time::timeout(self.limit, found.wait_for(Option::is_some)).await {
            Ok(Ok(found)) => found.clone().unwrap_or(Err(ResolveError::Failed)),
            Ok(Err(_)) | Err(_) => Err(ResolveError::Failed),
        }
    }
}

/// The standard library gives only the system's words. Both outcomes are tried again, so a wrong guess costs nothing.
fn look_up_error(e: &io::Error) -> ResolveError {
    let text = e.to_string();
    let unknown = ["not known", "No address associated", "nodename nor servname"];
    if unknown.iter().any(|words| text.contains(words)) { ResolveError::NoSuchName } else { ResolveError::Failed }
}

/// A block of addresses, written `192.0.2.0/24`, `2001:db8::/32` or as a single address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Network {
    base: IpAddr,
    prefix: u8,
}

impl Network {
    /// True when the address lies in the block. A mapped IPv4 address must be unmapped before.
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.base, address) {
            (IpAddr::V4(base), IpAddr::V4(a)) => {
                let shift = 32 - u32::from(self.prefix);
                base.to_bits().checked_shr(shift) == a.to_bits().checked_shr(shift)
            }
            (IpAddr::V6(base), IpAddr::V6(a)) => {
                let shift = 128 - u32::from(self.prefix);
                base.to_bits().checked_shr(shift) == a.to_bits().checked_shr(shift)
            }
            (IpAddr::V4(_), IpAddr::V6(_)) | (IpAddr::V6(_), IpAddr::V4(_)) => false,
        }
    }
}

impl std::str::FromStr for Network {
    type Err = BadNetwork;

    fn from_str(text: &str) -> Result<Self, BadNetwork> {
        let (address, prefix) = text.split_once('/').map_or((text, None), |(a, p)| (a, Some(p)));
        let base: IpAddr = address.parse().map_err(|_| BadNetwork)?;
        let longest = if base.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.map_or(Ok(longest), str::parse).map_err(|_| BadNetwork)?;
        if prefix > longest { Err(BadNetwork) } else { Ok(Network { base, prefix }) }
    }
}

/// The text is not a block of addresses.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("write a block of addresses as 192.0.2.0/24 or 2001:db8::/32")]
pub struct BadNetwork;

/// Why a target may not be called. `Display` is a sentence for its owner; [`Refusal::word`] is for machines.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Longer than [`MAX_LENGTH`].
    #[error("the address is longer than {MAX_LENGTH} characters")]
    TooLong,
    /// Blanks, control characters or a backslash.
    #[error("the address contains a blank, a control character or a backslash")]
    BadCharacters,
    /// Not an absolute URL with a host.
    #[error("the address is not a complete URL such as https://example.com/hook")]
    Unparseable,
    /// Not `https`.
    #[error("the address must begin with https://")]
    Scheme,
    /// A user name or password in the address.
    #[error("the address must not contain a user name or password")]
    UserInfo,
    /// A part after `#`.
    #[error("the address must not contain a fragment (#)")]
    Fragment,
    /// A port that is not on the list.
    #[error("the port of the address is not allowed")]
    Port,
    /// A name without a dot.
    #[error("the host is a single word, not a public name")]
    SingleLabel,
    /// `localhost`, `*.internal` and their like.
    #[error("the host name is reserved for local networks")]
    SpecialName,
    /// This hub by name.
    #[error("the host is this service itself")]
    OwnHost,
    /// This hub by address.
    #[error("the host name points to this service itself")]
    OwnAddress,
    /// On the operator's own list.
    #[error("the host's address is refused by the operator")]
    Denied,
    /// A metadata service of a cloud.
    #[error("the host points to a cloud's internal metadata address")]
    Metadata,
    /// This machine.
    #[error("the host points to a loopback address")]
    Loopback,
    /// A private network (RFC 1918, unique local IPv6).
    #[error("the host points to an address of a private network; one such address among several is enough")]
    Private,
    /// The shared space of carriers (100.64.0.0/10).
    #[error("the host points to a shared address of a carrier's network")]
    Shared,
    /// 169.254.0.0/16, fe80::/10.
    #[error("the host points to a link-local address")]
    LinkLocal,
    /// 0.0.0.0/8.
    #[error("the host points to an address of the form 0.x.x.x")]
    ThisNetwork,
    /// `::`.
    #[error("the host points to the unspecified address")]
    Unspecified,
    /// NAT64 and 6to4, which hide another address.
    #[error("the host points to a translated (NAT64 or 6to4) address")]
    Translated,
    /// Addresses for examples in documents.
    #[error("the host points to an address reserved for documentation")]
    Documentation,
    /// 198.18.0.0/15.
    #[error("the host points to an address reserved for benchmarks")]
    Benchmark,
    /// Multicast.
    #[error("the host points to a multicast address")]
    Multicast,
    /// Any other block that is not public.
    #[error("the host points to a reserved address")]
    Reserved,
    /// The name exists but has no addresses.
    #[error("the host name has no address at the moment")]
    NoAddress,
    /// The name does not exist.
    #[error("the host name does not exist")]
    NoSuchName,
    /// The look-up failed.
    #[error("the host name could not be looked up")]
    LookUpFailed,
}

impl Refusal {
    /// One stable word, for the API, attempts and metrics.
    pub fn word(self) -> &'static str {
        match self {
            Refusal::TooLong => "too_long",
            Refusal::BadCharacters => "bad_characters",
            Refusal::Unparseable => "unparseable",
            Refusal::Scheme => "scheme",
            Refusal::UserInfo => "userinfo",
            Refusal::Fragment => "fragment",
            Refusal::Port => "port",
            Refusal::SingleLabel => "single_label",
            Refusal::SpecialName => "special_name",
            Refusal::OwnHost => "own_host",
            Refusal::OwnAddress => "own_address",
            Refusal::Denied => "denied",
            Refusal::Metadata => "metadata",
            Refusal::Loopback => "loopback",
            Refusal::Private => "private",
            Refusal::Shared => "shared",
            Refusal::LinkLocal => "link_local",
            Refusal::ThisNetwork => "this_network",
            Refusal::Unspecified => "unspecified",
            Refusal::Translated => "translated",
            Refusal::Documentation => "documentation",
            Refusal::Benchmark => "benchmark",
            Refusal::Multicast => "multicast",
            Refusal::Reserved => "reserved",
            Refusal::NoAddress => "no_address",
            Refusal::NoSuchName => "no_such_name",
            Refusal::LookUpFailed => "look_up_failed",
        }
    }

    /// True for look-ups without a result: an ordinary failure of the network, not a target that we refuse.
    pub fn is_temporary(self) -> bool {
        matches!(self, Refusal::NoAddress | Refusal::NoSuchName | Refusal::LookUpFailed)
    }

    /// Networks in which people develop and test. The others are never a receiver.
    fn is_lifted_by_allow_insecure(self) -> bool {
        matches!(
            self,
            Refusal::Loopback
                | Refusal::Private
                | Refusal::Shared
                | Refusal::Benchmark
                | Refusal::Documentation
                | Refusal::OwnAddress
        )
    }
}

impl From<ResolveError> for Refusal {
    fn from(e: ResolveError) -> Self {
        match e {
            ResolveError::NoSuchName => Refusal::NoSuchName,
            ResolveError::Failed => Refusal::LookUpFailed,
        }
    }
}

#[cfg(test)]
mod tests;
