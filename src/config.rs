//! Settings: one TOML file and `GROSZ_*` variables; the variables win. Each setting is written down once, below, with
//! its default and its explanation, so that `grosz config check` can explain it.

use std::path::Path;

use serde::Deserialize;

macro_rules! settings {
    ($($(#[doc = $doc:literal])+ $name:ident: $type:ty = $default:expr;)+) => {
        /// All settings, checked.
        #[derive(Debug, Clone, Deserialize)]
        #[serde(default, deny_unknown_fields)]
        pub struct Config {
            $($(#[doc = $doc])+ pub $name: $type,)+
        }

        impl Default for Config {
            fn default() -> Self {
                Config { $($name: $default,)+ }
            }
        }

        impl Config {
            /// Name and explanation of every setting, in order.
            pub const EXPLAINED: &'static [(&'static str, &'static str)] =
                &[$((stringify!($name), concat!($($doc),+)),)+];

            /// Name and type of every setting.
            const TYPES: &'static [(&'static str, &'static str)] = &[$((stringify!($name), stringify!($type)),)+];

            /// Name and present value of every setting; secrets are not shown.
            pub fn shown(&self) -> Vec<(&'static str, String)> {
                vec![$((stringify!($name), format!("{:?}", self.$name)),)+]
            }
        }
    };
}

settings! {
    /// Where the data are: `sqlite:<file>` or `postgres://user:password@host/database`. Several hosts are named with commas (`@one:5432,two:5432/`); the one that takes writes is used.
    database_url: Hidden = Hidden("sqlite:grosz.db".into());
    /// PostgreSQL's own address, where `database_url` is that of a pooler: on it a worker hears at once of new jobs. Without it they are found every `job_tick_ms`.
    database_listen_url: Hidden = Hidden(String::new());
    /// Address and port on which the hub listens.
    listen: String = "127.0.0.1:8080".into();
    /// Address and port on which a process with the role `worker` serves /healthz, /readyz and /metrics, and nothing else; empty for none. Each worker of a machine needs one of its own.
    worker_listen: String = String::new();
    /// The hub's address as gateways and payers reach it: scheme, host and port, without a path or a final slash.
    public_url: String = "http://127.0.0.1:8080".into();
    /// Key that encrypts settings of accounts at rest: 32 bytes as 64 hex digits or base64. Keep it apart from backups.
    master_key: Hidden = Hidden(String::new());
    /// Former master keys, comma-separated: they still open what they sealed.
    old_master_keys: Hidden = Hidden(String::new());
    /// Real money: refuses to start with a missing master key, plain HTTP as public address, or insecure targets.
    live: bool = false;
    /// `all`, `web` (HTTP only) or `worker` (jobs only).
    role: String = "all".into();
    /// Start with all outside calls held: for drills with a restored backup. Jobs that call outside wait.
    hold: bool = false;
    /// Serve the simulated gateways and the simulated invoicing API below /sandbox. Refused when live.
    sandbox: bool = false;
    /// Allow plain HTTP, any port and private networks as targets of outside calls. For tests and for gateways inside your own network.
    allow_insecure_targets: bool = false;
    /// Further networks that are never called, comma-separated: `192.0.2.0/24, 2001:db8::/32`. Networks that are not public are refused anyway.
    denied_networks: String = String::new();
    /// PEM file with further certificate authorities to trust for outside calls.
    extra_ca_file: String = String::new();
    /// Mail: `smtp://user:password@host:587?tls=required`, `smtps://…`, `smtp://host:25?tls=none`, `file:///directory`, or `none`.
    smtp_url: Hidden = Hidden("none".into());
    /// Sender of mails.
    mail_from: String = "Grosz <hub@localhost>".into();
    /// Where notices go when neither the case has an expert nor the merchant a fallback address.
    fallback_email: String = String::new();
    /// Connections to PostgreSQL, or readers of SQLite.
    db_connections: u32 = 10;
    /// Longest wait for a database connection, in seconds; then the answer is 503.
    db_wait_s: u64 = 5;
    /// Longest wait for an answer of PostgreSQL, in seconds; then the connection is given up and the answer is 503.
    db_answer_s: u64 = 10;
    /// A pooler in transaction mode (PgBouncer) stands before PostgreSQL: no prepared statement is kept, no session state used.
    db_pooler: bool = false;
    /// Largest body of a webhook or an API call, in bytes.
    body_limit_bytes: usize = 1_048_576;
    /// Largest attachment, in bytes.
    attachment_limit_bytes: usize = 10_485_760;
    /// Time to read the head of a request, in seconds.
    header_read_s: u64 = 10;
    /// Time to read the body of a webhook, in seconds. Gateways send theirs at once and wait no longer than this for the answer.
    webhook_read_s: u64 = 10;
    /// Time to answer a request, in seconds, body included; longer than the outside calls that it may wait for.
    request_s: u64 = 120;
    /// Open connections at most. When all are taken, a new one takes the place of the one that has been without a request for the longest time.
    max_connections: usize = 8192;
    /// Open connections of one address at most; 0 for no limit, which is right behind a proxy, from which all come.
    max_connections_per_address: usize = 0;
    /// Webhooks waiting for a commit at most; beyond that the answer is 503.
    intake_queue: usize = 8192;
    /// Webhooks that share one commit at most.
    intake_batch: usize = 256;
    /// Commits of webhooks under way at the same time on PostgreSQL; SQLite has one.
    intake_committers: usize = 2;
    /// Longest wait of a webhook for its turn, in milliseconds; then the answer is 503.
    intake_wait_ms: u64 = 500;
    /// Threads that read requests and answer them; 0 for as many as the machine has processors. Committers have threads of their own.
    runtime_threads: usize = 0;
    /// How long a checkout can be paid, in seconds, unless the gateway's own default is shorter.
    link_lifetime_s: i64 = 86_400;
    /// Pauses before the gateway is asked about a started attempt, in seconds; the last one repeats.
    poll_waits_s: Vec<i64> = vec![60, 180, 600, 1800, 3600, 10_800, 21_600, 43_200, 86_400];
    /// How long after its end an attempt is still asked about, in seconds.
    poll_window_s: i64 = 604_800;
    /// Pauses before an event for an unknown attempt is tried again, in seconds; after the last one it becomes an alert.
    parked_waits_s: Vec<i64> = vec![10, 20, 60, 300, 1800, 7200, 21_600, 54_000];
    /// Pause before each attempt to issue an invoice, in seconds, the first included: as many attempts as numbers.
    invoice_waits_s: Vec<i64> = vec![0, 60, 600];
    /// Jitter on these pauses, in percent either way.
    invoice_jitter_percent: i64 = 10;
    /// Stop after an error that another attempt cannot cure, instead of making all attempts.
    invoice_stop_on_permanent: bool = false;
    /// After an unknown outcome nothing is sent again before this many seconds and two clean look-ups.
    invoice_quiet_s: i64 = 120;
    /// Pauses between look-ups after an unknown outcome, in seconds; the last one repeats.
    invoice_looks_s: Vec<i64> = vec![5, 30, 120, 600];
    /// An outcome unknown for so long becomes an alert, in seconds.
    invoice_unknown_limit_s: i64 = 86_400;
    /// Pauses before the printed invoice is asked for again, in seconds; the last one repeats.
    pdf_waits_s: Vec<i64> = vec![10, 30, 60, 120, 300, 600, 1200, 1800];
    /// After so many seconds without a printed invoice an alert is opened.
    pdf_limit_s: i64 = 86_400;
    /// Calls to one invoicing account at the same time.
    invoicing_concurrency: usize = 1;
    /// Pause of an invoicing account whose credentials were refused, before it is probed, in seconds.
    invoicing_probe_s: i64 = 300;
    /// Pauses before a mail is tried again, in seconds; the last one repeats.
    notice_waits_s: Vec<i64> = vec![10, 60, 300, 900, 1800, 3600];
    /// Time to hand one mail over to the mail server, in seconds, whatever steps that takes.
    mail_s: u64 = 60;
    /// Mail the invoice to the payer when its PDF is there.
    mail_invoices: bool = true;
    /// Pauses before a client's endpoint is told again, in seconds: ten tries in a bit over three days.
    tell_waits_s: Vec<i64> = vec![0, 5, 300, 1800, 7200, 18_000, 36_000, 50_400, 72_000, 86_400];
    /// Time a client's endpoint has to answer, in seconds.
    tell_timeout_s: u64 = 15;
    /// Calls to one client's endpoint at the same time, of one worker.
    tell_concurrency: usize = 32;
    /// Messages to clients that one worker has claimed at the same time, on their way or waiting for a place.
    tell_in_flight: usize = 1024;
    /// An endpoint that failed for so long, in seconds, with at least three messages, is disabled.
    endpoint_disable_s: i64 = 432_000;
    /// Pauses before a refund is asked about again, in seconds; the last one repeats.
    refund_waits_s: Vec<i64> = vec![30, 120, 600, 1800, 3600, 21_600];
    /// A refund without a result for so long becomes an alert, in seconds.
    refund_limit_s: i64 = 172_800;
    /// How long a worker owns a job, in seconds; longer than any outside call.
    job_lease_s: i64 = 120;
    /// How often a worker looks for due jobs when nothing woke it, in milliseconds.
    job_tick_ms: u64 = 500;
    /// Jobs that run at the same time in one worker.
    job_concurrency: usize = 32;
    /// A job during which the worker died so many times is set aside.
    job_max_crashes: i64 = 5;
    /// Months for which inbound webhook calls are kept as received, whole months; 0 for ever.
    keep_deliveries_months: i32 = 13;
    /// Months for which applied events keep their details; their keys and outcomes stay for ever. 0 for ever.
    keep_events_months: i32 = 13;
    /// Months for which messages to client apps, the feed, and the record of their deliveries are kept; 0 for ever.
    keep_messages_months: i32 = 6;
    /// Months for which the answer to a POST is kept under its idempotency key; the key itself stays for ever. 0 for ever.
    keep_answers_months: i32 = 13;
    /// Months for which mails keep their address and text; 0 for ever.
    keep_notices_months: i32 = 13;
    /// Time to connect to an outside host, in seconds.
    connect_s: u64 = 5;
    /// Time for an outside call, in seconds.
    call_s: u64 = 30;
    /// Time for a call that must not happen twice, in seconds: the other side may go on after we hang up.
    once_call_s: u64 = 60;
    /// Time for work in flight when stopping, in seconds.
    stop_s: u64 = 20;
    /// What is logged: `info`, `debug`, `grosz=debug,info` …
    log: String = "info".into();
    /// `text` or `json`.
    log_format: String = "text".into();
}

/// A setting that is not shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Hidden(pub String);

impl<'de> Deserialize<'de> for Hidden {
    /// What is no text is not repeated in the refusal.
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        match toml::Value::deserialize(deserializer)? {
            toml::Value::String(text) => Ok(Hidden(text)),
            _ => Err(serde::de::Error::custom("must be text in quotes")),
        }
    }
}

impl std::fmt::Debug for Hidden {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.0.is_empty() { "\"\"" } else { "\"***\"" })
    }
}

/// A setting that is missing, unknown or wrong.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

impl Config {
    /// Reads the file, if one is named, and the variables of the environment.
    ///
    /// # Errors
    /// The file cannot be read, or a setting is unknown or wrong; the text names it.
    pub fn load(file: Option<&Path>, env: impl Iterator<Item = (String, String)>) -> Result<Config, ConfigError> {
        let mut table = match file {
            None => toml::Table::new(),
            Some(path) => {
                let text = std::fs::read_to_string(path)
                    .map_err(|e| ConfigError(format!("{} cannot be read: {e}", path.display())))?;
                // The error's own text repeats the line, which may hold a secret.
                let place = |e: toml::de::Error| {
                    let before = e.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
                    let line = before.matches('\n').count() + 1;
                    ConfigError(format!("{}: line {line} is not TOML: {}", path.display(), e.message()))
                };
                text.parse().map_err(place)?
            }
        };
        let defaults = Config::default();
        let shown: std::collections::BTreeMap<_, _> = defaults.shown().into_iter().collect();
        for (variable, value) in env {
            let Some(name) = variable.strip_prefix("GROSZ_") else { continue };
            // Variables of the test harness live beside the settings.
            if name.starts_with("TEST_") || name == "BLESS" || name == "CONFIG" {
                continue;
            }
            let name = name.to_ascii_lowercase();
            let Some(shape) = shown.get(name.as_str()) else {
                return Err(ConfigError(format!("{variable} is not a setting; see `grosz config check`")));
            };
            table.insert(name, env_value(shape, &value));
        }
        for (name, value) in &table {
            let Some((_, kind)) = Config::TYPES.iter().find(|(known, _)| known == name) else {
                return Err(ConfigError(format!("{name} is not a setting; see `grosz config check`")));
            };
            check_kind(name, kind, value)?;
        }
        let mut config: Config = table.try_into().map_err(|e| ConfigError(format!("settings: {e}")))?;
        config.mail_from = config.mail_from.trim().to_owned();
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), ConfigError> {
        let bad = |text: &str| Err(ConfigError(text.to_owned()));
        self.check_numbers()?;
        self.check_addresses()?;
        if !matches!(self.role.as_str(), "all" | "web" | "worker") {
            return bad("role must be all, web or worker");
        }
        if !matches!(self.log_format.as_str(), "text" | "json") {
            return bad("log_format must be text or json");
        }
        for (name, list) in [
            ("invoice_waits_s", &self.invoice_waits_s),
            ("invoice_looks_s", &self.invoice_looks_s),
            ("poll_waits_s", &self.poll_waits_s),
            ("parked_waits_s", &self.parked_waits_s),
            ("pdf_waits_s", &self.pdf_waits_s),
            ("notice_waits_s", &self.notice_waits_s),
            ("tell_waits_s", &self.tell_waits_s),
            ("refund_waits_s", &self.refund_waits_s),
        ] {
            // As many attempts as numbers: nobody is helped by more.
            let most = if name == "invoice_waits_s" { 20 } else { 100 };
            if !(1..=most).contains(&list.len()) || !list.iter().all(|s| (0..=31_536_000).contains(s)) {
                return bad(&format!("{name} must hold 1 to {most} numbers of seconds, each from 0 to 31536000"));
            }
        }
        let longest_s = self.once_call_s.max(self.call_s).max(self.tell_timeout_s).max(self.mail_s);
        if self.job_lease_s <= i64::try_from(longest_s).unwrap_or(i64::MAX) {
            return bad("job_lease_s must be longer than once_call_s, call_s, tell_timeout_s and mail_s");
        }
        // Whoever tries a payment again waits for two calls: the gateway is asked, then its page is.
        let calls_s = self.call_s + self.once_call_s + 2 * self.connect_s;
        if self.request_s <= calls_s {
            return bad("request_s must be longer than call_s, once_call_s and twice connect_s together");
        }
        for (name, months) in [
            ("keep_deliveries_months", self.keep_deliveries_months),
            ("keep_events_months", self.keep_events_months),
            ("keep_messages_months", self.keep_messages_months),
            ("keep_answers_months", self.keep_answers_months),
            ("keep_notices_months", self.keep_notices_months),
        ] {
            if !(0..=1200).contains(&months) {
                return bad(&format!("{name} must be from 0 (for ever) to 1200"));
            }
        }
        if self.live {
            if self.master_key.0.is_empty() {
                return bad("live needs a master_key (32 bytes as 64 hex digits)");
            }
            if !self.public_url.starts_with("https://") {
                return bad("live needs an https public_url");
            }
            if self.sandbox || self.allow_insecure_targets {
                return bad("live refuses sandbox and allow_insecure_targets");
            }
        }
        Ok(())
    }
}

impl Config {
    /// No number is so small that nothing would work, or so large that it can only be a mistake.
    fn check_numbers(&self) -> Result<(), ConfigError> {
        macro_rules! limits {
            ($($name:ident: $least:literal..=$most:literal,)+) => {
                [$((stringify!($name), self.$name as i128, $least, $most),)+]
            };
        }
        let limits = limits![
            db_connections: 1..=10_000,
            db_wait_s: 1..=600,
            db_answer_s: 1..=600,
            body_limit_bytes: 1024..=1_073_741_824,
            attachment_limit_bytes: 1024..=1_073_741_824,
            header_read_s: 1..=600,
            webhook_read_s: 1..=600,
            request_s: 1..=3600,
            max_connections: 1..=10_000_000,
            intake_queue: 1..=10_000_000,
            intake_batch: 1..=10_000,
            intake_committers: 1..=64,
            intake_wait_ms: 1..=600_000,
            runtime_threads: 0..=1024,
            link_lifetime_s: 1..=31_536_000,
            poll_window_s: 0..=315_360_000,
            invoice_jitter_percent: 0..=50,
            invoice_quiet_s: 0..=86_400,
            invoice_unknown_limit_s: 1..=31_536_000,
            pdf_limit_s: 1..=31_536_000,
            refund_limit_s: 1..=31_536_000,
            endpoint_disable_s: 1..=31_536_000,
            invoicing_concurrency: 1..=1000,
            invoicing_probe_s: 1..=86_400,
            mail_s: 1..=600,
            tell_timeout_s: 1..=600,
            tell_concurrency: 1..=100_000,
            tell_in_flight: 1..=1_000_000,
            job_lease_s: 1..=86_400,
            job_tick_ms: 1..=3_600_000,
            job_concurrency: 1..=100_000,
            job_max_crashes: 1..=1000,
            connect_s: 1..=600,
            call_s: 1..=600,
            once_call_s: 1..=600,
            stop_s: 0..=3600,
        ];
        for (name, value, least, most) in limits {
            if !(least..=most).contains(&value) {
                return Err(ConfigError(format!("{name} must be from {least} to {most}")));
            }
        }
        Ok(())
    }

    fn check_addresses(&self) -> Result<(), ConfigError> {
        let bad = |text: &str| Err(ConfigError(text.to_owned()));
        let database = &self.database_url.0;
        let is_postgres = |url: &str| url.starts_with("postgres://") || url.starts_with("postgresql://");
        let file = database.strip_prefix("sqlite:").map(|file| file.trim_start_matches('/'));
        if !is_postgres(database) && file.is_none_or(str::is_empty) {
            return bad("database_url must be sqlite:<file> or postgres://…");
        }
        let direct = &self.database_listen_url.0;
        if !direct.is_empty() && !is_postgres(direct) {
            return bad("database_listen_url must be postgres://…, or empty");
        }
        if !has_port(&self.listen) {
            return bad("listen must be an address and a port, such as 127.0.0.1:8080");
        }
        if !self.worker_listen.is_empty() && !has_port(&self.worker_listen) {
            return bad("worker_listen must be an address and a port, such as 127.0.0.1:8081, or empty");
        }
        if !is_origin(&self.public_url) {
            return bad("public_url must be an http or https address of a host, with nothing behind it but a port");
        }
        if crate::mail::Mailbox::read(&self.mail_from).check().is_err() {
            return bad("mail_from must be an e-mail address, or a name before one in < >");
        }
        if !self.fallback_email.is_empty() && crate::mail::check_address(&self.fallback_email).is_err() {
            return bad("fallback_email must be an e-mail address");
        }
        if self.log.parse::<tracing_subscriber::EnvFilter>().is_err() {
            return bad("log must be a filter such as info, debug or grosz=debug,info");
        }
        Ok(())
    }
}

/// True for `host:port`.
fn has_port(text: &str) -> bool {
    text.rsplit_once(':').is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok())
}

/// True for `https://host` and `https://host:port`, in which addresses of ours are put together.
fn is_origin(text: &str) -> bool {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    let is_bare = |c: char| !c.is_whitespace() && !c.is_control() && !matches!(c, '/' | '\\' | '?' | '#' | '@');
    host.is_some_and(|host| host.chars().all(is_bare)) && url::Url::parse(text).is_ok_and(|url| url.has_host())
}

/// A value of the wrong kind, in words that are not a programmer's. It is not repeated: it may be a secret.
fn check_kind(name: &str, kind: &str, value: &toml::Value) -> Result<(), ConfigError> {
    use toml::Value::{Array, Boolean, Integer, String};
    let (is_right, what) = match kind {
        "bool" => (matches!(value, Boolean(_)), "true or false"),
        "String" | "Hidden" => (matches!(value, String(_)), "text in quotes"),
        "Vec<i64>" => (
            matches!(value, Array(all) if all.iter().all(|one| matches!(one, Integer(_)))),
            "a list of whole numbers, such as [0, 60, 600]",
        ),
        "i64" => (matches!(value, Integer(_)), "a whole number"),
        "i32" | "u32" => {
            let is_small = |n: i64| if kind == "i32" { i32::try_from(n).is_ok() } else { u32::try_from(n).is_ok() };
            (matches!(value, Integer(n) if is_small(*n)), "a whole number from 0 to 2147483647")
        }
        _ => (matches!(value, Integer(0..)), "a whole number from 0 on"),
    };
    if is_right { Ok(()) } else { Err(ConfigError(format!("{name} must be {what}"))) }
}

/// A variable's text as the TOML value the setting wants: numbers, flags and lists by their own spelling, a plain
/// comma-separated list too, anything else as text.
fn env_value(shape: &str, value: &str) -> toml::Value {
    if shape.starts_with('"') {
        return toml::Value::String(value.to_owned());
    }
    let spelled = if shape.starts_with('[') && !value.trim_start().starts_with('[') {
        format!("[{value}]")
    } else {
        value.to_owned()
    };
    let parsed: Result<toml::Table, _> = format!("v = {spelled}").parse();
    parsed.ok().and_then(|mut t| t.remove("v")).unwrap_or_else(|| toml::Value::String(value.to_owned()))
}

/// The pause before try number `tries` (0 is the first); the last one repeats.
pub fn wait_s(waits: &[i64], tries: i64) -> i64 {
    let n = usize::try_from(tries).unwrap_or(0).min(waits.len().saturating_sub(1));
    waits.get(n).copied().unwrap_or(60)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(env: &[(&str, &str)]) -> Result<Config, ConfigError> {
        Config::load(None, env.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())))
    }

    #[test]
    fn variables_win_and_are_checked() {
        let config = load(&[
            ("GROSZ_LISTEN", "127.0.0.1:9"),
            ("GROSZ_INVOICE_WAITS_S", "0, 1, 2"),
            ("GROSZ_HOLD", "true"),
            ("GROSZ_CALL_S", "7"),
            ("PATH", "/bin"),
        ])
        .unwrap();
        assert_eq!((config.listen.as_str(), config.hold, config.call_s), ("127.0.0.1:9", true, 7));
        assert_eq!(config.invoice_waits_s, [0, 1, 2]);
        assert!(load(&[("GROSZ_LISTENN", "x")]).unwrap_err().0.contains("GROSZ_LISTENN is not a setting"));
        assert!(load(&[("GROSZ_CALL_S", "soon")]).is_err());
        assert!(load(&[("GROSZ_LIVE", "true")]).unwrap_err().0.contains("master_key"));
    }

    #[test]
    fn a_wrong_setting_is_named_with_its_limits() {
        for (variable, value, expect) in [
            ("GROSZ_CALL_S", "soon", "call_s must be a whole number from 0 on"),
            ("GROSZ_CALL_S", "-1", "call_s must be a whole number from 0 on"),
            ("GROSZ_LINK_LIFETIME_S", "1.5", "link_lifetime_s must be a whole number"),
            ("GROSZ_DB_CONNECTIONS", "-1", "db_connections must be a whole number from 0 to"),
            ("GROSZ_KEEP_EVENTS_MONTHS", "9999999999", "keep_events_months must be a whole number from 0 to"),
            ("GROSZ_HOLD", "yes", "hold must be true or false"),
            ("GROSZ_POLL_WAITS_S", "soon", "poll_waits_s must be a list of whole numbers"),
            ("GROSZ_INVOICE_WAITS_S", "", "invoice_waits_s must hold 1 to 20 numbers of seconds"),
            ("GROSZ_INVOICE_WAITS_S", "-1", "invoice_waits_s must hold 1 to 20 numbers of seconds"),
            ("GROSZ_MAX_CONNECTIONS", "0", "max_connections must be from 1 to 10000000"),
            ("GROSZ_REQUEST_S", "0", "request_s must be from 1 to 3600"),
            ("GROSZ_JOB_TICK_MS", "0", "job_tick_ms must be from 1 to 3600000"),
            ("GROSZ_INTAKE_COMMITTERS", "1000", "intake_committers must be from 1 to 64"),
            ("GROSZ_RUNTIME_THREADS", "1025", "runtime_threads must be from 0 to 1024"),
            ("GROSZ_DB_CONNECTIONS", "99999999", "db_connections must be from 1 to 10000"),
            ("GROSZ_BODY_LIMIT_BYTES", "0", "body_limit_bytes must be from 1024 to 1073741824"),
            ("GROSZ_INVOICE_JITTER_PERCENT", "51", "invoice_jitter_percent must be from 0 to 50"),
            ("GROSZ_INVOICE_UNKNOWN_LIMIT_S", "-1", "invoice_unknown_limit_s must be from 1 to 31536000"),
            ("GROSZ_PDF_LIMIT_S", "-1", "pdf_limit_s must be from 1 to 31536000"),
            ("GROSZ_REFUND_LIMIT_S", "-1", "refund_limit_s must be from 1 to 31536000"),
            ("GROSZ_ENDPOINT_DISABLE_S", "-1", "endpoint_disable_s must be from 1 to 31536000"),
            ("GROSZ_TELL_WAITS_S", "0, 9223372036854775807", "tell_waits_s must hold 1 to 100 numbers"),
            // A gateway that hangs is given up before the request that waits for it is.
            (
                "GROSZ_REQUEST_S",
                "100",
                "request_s must be longer than call_s, once_call_s and twice connect_s together",
            ),
            ("GROSZ_CALL_S", "50", "request_s must be longer than call_s, once_call_s and twice connect_s together"),
            ("GROSZ_PUBLIC_URL", "https://pay.example/", "public_url must be"),
            ("GROSZ_PUBLIC_URL", "https://pay.example/hub", "public_url must be"),
            ("GROSZ_PUBLIC_URL", "https://pay.example?a=b", "public_url must be"),
            ("GROSZ_PUBLIC_URL", "https://pay.example#a", "public_url must be"),
            ("GROSZ_PUBLIC_URL", "https://user@pay.example", "public_url must be"),
            ("GROSZ_PUBLIC_URL", " https://pay.example", "public_url must be"),
            ("GROSZ_PUBLIC_URL", "https://pay. example", "public_url must be"),
            ("GROSZ_PUBLIC_URL", "https://", "public_url must be"),
            ("GROSZ_PUBLIC_URL", "pay.example", "public_url must be"),
            ("GROSZ_LISTEN", "foo", "listen must be an address and a port"),
            ("GROSZ_LISTEN", "127.0.0.1:99999", "listen must be an address and a port"),
            ("GROSZ_WORKER_LISTEN", "8081", "worker_listen must be an address and a port"),
            ("GROSZ_DATABASE_URL", "mysql://h/d", "database_url must be"),
            ("GROSZ_DATABASE_URL", "", "database_url must be"),
            // SQLite takes an empty name for a database that is gone with its connection.
            ("GROSZ_DATABASE_URL", "sqlite:", "database_url must be"),
            ("GROSZ_DATABASE_URL", "sqlite://", "database_url must be"),
            ("GROSZ_DATABASE_LISTEN_URL", "sqlite:x", "database_listen_url must be"),
            ("GROSZ_MAIL_FROM", "abc", "mail_from must be"),
            // The letters are composed by the same rules: a sender that they refuse would lose every notice for good.
            ("GROSZ_MAIL_FROM", "Payments pay@pay.example", "mail_from must be"),
            ("GROSZ_MAIL_FROM", "Payments <pay@pay.example> x", "mail_from must be"),
            ("GROSZ_FALLBACK_EMAIL", "abc", "fallback_email must be"),
            ("GROSZ_LOG", "bogus=xyz", "log must be"),
            ("GROSZ_POLL_WAITS_S", "0, -1", "poll_waits_s must hold"),
            // F38: a mail that is handed over after the lease is sent again.
            ("GROSZ_MAIL_S", "120", "job_lease_s must be longer than once_call_s, call_s, tell_timeout_s and mail_s"),
        ] {
            let refused = load(&[(variable, value)]).expect_err(value);
            assert!(refused.0.starts_with(expect), "{refused}");
        }
    }

    #[test]
    fn what_is_right_is_taken() {
        for url in ["http://127.0.0.1:8080", "https://pay.example", "https://pay.example:8443", "http://[::1]:8080"] {
            assert_eq!(load(&[("GROSZ_PUBLIC_URL", url)]).unwrap().public_url, url);
        }
        for from in ["Payments <pay@pay.example> ", "  pay@pay.example", "<pay@pay.example>"] {
            assert_eq!(load(&[("GROSZ_MAIL_FROM", from)]).unwrap().mail_from, from.trim());
        }
        assert!(load(&[("GROSZ_REQUEST_S", "101")]).is_ok());
    }

    // F72: a secret beside the fault stays where it is.
    #[test]
    fn a_fault_in_the_file_is_named_without_its_line() {
        let file = std::env::temp_dir().join(format!("grosz-config-{}.toml", std::process::id()));
        for (text, expect) in [
            ("listen = \"h:1\"\nmaster_key = \"canary\n", "line 2 is not TOML: "),
            ("master_key = canary", "line 1 is not TOML: "),
            ("\n\nsmtp_url = \"smtp://u:canary@h\" x", "line 3 is not TOML: "),
            ("master_key = \"canary\"\nmaster_key = \"canary\"", "line 2 is not TOML: "),
            ("canary", "line 1 is not TOML: "),
            ("master_key = 12345678901234567890canary", "line 1 is not TOML: "),
            ("listenn = \"canary\"", "listenn is not a setting"),
            ("listen = 8080", "listen must be text in quotes"),
            ("master_key = 20261124", "must be text in quotes"),
            ("master_key = [\"canary\"]", "must be text in quotes"),
        ] {
            std::fs::write(&file, text).unwrap();
            let refused = Config::load(Some(&file), std::iter::empty()).expect_err(text).0;
            assert!(refused.contains(expect), "{refused}");
            assert!(!refused.contains("canary") && !refused.contains("20261124"), "{refused}");
        }
        let _ = std::fs::remove_file(&file);
    }

    #[test]
    fn what_only_a_try_tells_is_tried_before_the_start() {
        for (variable, value, expect) in [
            ("GROSZ_MASTER_KEY", "abc", "master_key must be 32 random bytes"),
            ("GROSZ_OLD_MASTER_KEYS", "zzz", "old_master_keys must be 32 random bytes"),
            ("GROSZ_SMTP_URL", "http://x", "smtp_url: "),
            ("GROSZ_EXTRA_CA_FILE", "/nope", "extra_ca_file: "),
            (
                "GROSZ_DENIED_NETWORKS",
                "192.0.2.0/24, 10.0.0.0/33",
                "denied_networks: \"10.0.0.0/33\": write a block of addresses as 192.0.2.0/24 or 2001:db8::/32",
            ),
            ("GROSZ_CALL_S", "5", "connect_s must be shorter than call_s, once_call_s and tell_timeout_s"),
        ] {
            let refused = crate::app::App::check(&load(&[(variable, value)]).unwrap()).expect_err(value);
            assert!(refused.0.starts_with(expect), "{refused}");
        }
        assert!(crate::app::App::check(&Config::default()).is_ok());
    }

    // F72
    #[test]
    fn secrets_are_not_shown() {
        let config =
            load(&[("GROSZ_DATABASE_URL", "postgres://u:canary@h/d"), ("GROSZ_MASTER_KEY", "canary")]).unwrap();
        assert!(!format!("{config:?}{:?}", config.shown()).contains("canary"));
    }

    #[test]
    fn the_last_wait_repeats() {
        assert_eq!([0, 1, 2, 9].map(|n| wait_s(&[1, 5, 25], n)), [1, 5, 25, 25]);
    }
}
