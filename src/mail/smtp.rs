//! The talk with an SMTP server, step by step, because the step at which it fails decides what a failure means.

use std::future::Future;
use std::time::Duration;

use lettre::message::Message;
use lettre::transport::smtp::authentication::{Credentials, DEFAULT_MECHANISMS};
use lettre::transport::smtp::client::{AsyncSmtpConnection, Certificate, CertificateStore, TlsParameters};
use lettre::transport::smtp::commands::{Data, Mail, Rcpt};
use lettre::transport::smtp::extension::ClientId;
use tokio::time::{Instant, timeout_at};
use url::Url;

use super::{BadMailUrl, MailError};

const LIMIT: Duration = Duration::from_secs(60);

/// An SMTP server and how to talk to it.
#[derive(Clone)]
pub struct SmtpServer {
    host: String,
    port: u16,
    encryption: Encryption,
    credentials: Option<Credentials>,
    may_log_in_unencrypted: bool,
    pub(super) limit: Duration,
}

#[derive(Clone)]
enum Encryption {
    FromTheStart(TlsParameters),
    Required(TlsParameters),
    WhenOffered(TlsParameters),
    Off,
}

impl SmtpServer {
    pub(super) fn from_url(url: &Url, extra_ca_pem: Option<&[u8]>) -> Result<Self, BadMailUrl> {
        let host = url.host_str().filter(|host| !host.is_empty()).ok_or(BadMailUrl::Unparseable)?;
        let host = host.trim_matches(['[', ']']).to_owned();
        let is_this_machine = host == "localhost" || host.parse().is_ok_and(|ip: std::net::IpAddr| ip.is_loopback());
        let asked = url.query_pairs().find(|(name, _)| name == "tls").map(|(_, value)| value.into_owned());
        let tls = || tls(&host, extra_ca_pem);
        let (default_port, encryption) = match (url.scheme(), asked.as_deref()) {
            ("smtps", None | Some("required")) => (465, Encryption::FromTheStart(tls()?)),
            ("smtp", Some("required")) => (587, Encryption::Required(tls()?)),
            ("smtp", None | Some("opportunistic")) => (25, Encryption::WhenOffered(tls()?)),
            ("smtp", Some("none")) => (25, Encryption::Off),
            _ => return Err(BadMailUrl::Tls),
        };
        let may_log_in_unencrypted = is_this_machine || matches!(encryption, Encryption::Off);
        let port = url.port().unwrap_or(default_port);
        let credentials = credentials(url)?;
        Ok(SmtpServer { host, port, encryption, credentials, may_log_in_unencrypted, limit: LIMIT })
    }

    pub(super) fn host_and_port(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    pub(super) async fn send(&self, message: &Message) -> Result<(), MailError> {
        let envelope = message.envelope();
        let sender = envelope.from().cloned();
        let hello = sender.as_ref().map_or_else(ClientId::default, |from| ClientId::Domain(from.domain().to_owned()));
        // One for all steps: a server that is slow at each would else be heard out for longer than the job is ours (F38).
        let end = Instant::now() + self.limit;
        let mut connection = self.connect(&hello, end).await?;

        step(end, connection.command(Mail::new(sender, vec![]))).await?;
        for recipient in envelope.to() {
            let answer = timeout_at(end, connection.command(Rcpt::new(recipient.clone(), vec![]))).await;
            answer
                .map_err(|_| silent())?
                .map_err(|e| if is_about_the_recipient(&e) { refused(&e) } else { later(&e) })?;
        }
        step(end, connection.command(Data)).await?;

        // From here on silence means nothing: the server may have the letter.
        match timeout_at(end, connection.message(&message.formatted())).await {
            Ok(Ok(_)) => {
                // The letter is handed over, whatever happens to the farewell.
                let _ = tokio::time::timeout(Duration::from_secs(1), connection.quit()).await;
                Ok(())
            }
            Ok(Err(e)) if e.is_permanent() => Err(refused(&e)),
            Ok(Err(e)) if e.is_transient() => Err(later(&e)),
            Ok(Err(_)) => Err(MailError::Unknown("the connection was cut".into())),
            Err(_) => Err(MailError::Unknown("no answer in time".into())),
        }
    }

    async fn connect(&self, hello: &ClientId, end: Instant) -> Result<AsyncSmtpConnection, MailError> {
        let from_the_start = match &self.encryption {
            Encryption::FromTheStart(tls) => Some(tls.clone()),
            Encryption::Required(_) | Encryption::WhenOffered(_) | Encryption::Off => None,
        };
        let address = (self.host.as_str(), self.port);
        let connecting = AsyncSmtpConnection::connect_tokio1(address, Some(self.limit), hello, from_the_start, None);
        let mut connection = step(end, connecting).await?;
        match &self.encryption {
            // Without the offer this fails: there is no way back to plain text.
            Encryption::Required(tls) => step(end, connection.starttls(tls.clone(), hello)).await?,
            Encryption::WhenOffered(tls) if connection.can_starttls() => {
                step(end, connection.starttls(tls.clone(), hello)).await?;
            }
            Encryption::WhenOffered(_) | Encryption::FromTheStart(_) | Encryption::Off => {}
        }
        if let Some(credentials) = &self.credentials {
            if !connection.is_encrypted() && !self.may_log_in_unencrypted {
                return Err(MailError::Temporary("the server offers no encryption for the password".into()));
            }
            step(end, connection.auth(DEFAULT_MECHANISMS, credentials)).await?;
        }
        Ok(connection)
    }
}

/// A step before the letter is handed over: every failure is temporary, also a refused password or sender, because that is
/// for the operator to repair and says nothing about the recipient.
async fn step<T>(
    end: Instant,
    step: impl Future<Output = Result<T, lettre::transport::smtp::Error>>,
) -> Result<T, MailError> {
    timeout_at(end, step).await.map_err(|_| silent())?.map_err(|e| later(&e))
}

/// 530 and its neighbours ask for a login and say nothing about the recipient (RFC 4954).
fn is_about_the_recipient(e: &lettre::transport::smtp::Error) -> bool {
    let code = e.status().map(u16::from);
    e.is_permanent() && !matches!(code, Some(530 | 534 | 535 | 538))
}

fn silent() -> MailError {
    MailError::Temporary("the server did not answer in time".into())
}

fn later(e: &lettre::transport::smtp::Error) -> MailError {
    MailError::Temporary(shortened(e))
}

fn refused(e: &lettre::transport::smtp::Error) -> MailError {
    MailError::Refused(shortened(e))
}

/// The server's reply in one line of bounded length.
fn shortened(e: &lettre::transport::smtp::Error) -> String {
    e.to_string().chars().map(|c| if c.is_control() { ' ' } else { c }).take(300).collect()
}

fn tls(host: &str, extra_ca_pem: Option<&[u8]>) -> Result<TlsParameters, BadMailUrl> {
    let mut builder = TlsParameters::builder(host.to_owned()).certificate_store(CertificateStore::WebpkiRoots);
    if let Some(pem) = extra_ca_pem {
        builder = builder.add_root_certificate(Certificate::from_pem(pem).map_err(|_| BadMailUrl::ExtraCa)?);
    }
    builder.build_rustls().map_err(|_| BadMailUrl::ExtraCa)
}

fn credentials(url: &Url) -> Result<Option<Credentials>, BadMailUrl> {
    if url.username().is_empty() {
        return Ok(None);
    }
    let user = percent_decoded(url.username())?;
    let password = percent_decoded(url.password().unwrap_or_default())?;
    Ok(Some(Credentials::new(user, password)))
}

fn percent_decoded(text: &str) -> Result<String, BadMailUrl> {
    let mut pieces = text.split('%');
    let mut bytes = pieces.next().unwrap_or_default().as_bytes().to_vec();
    for piece in pieces {
        let (digits, rest) = piece.split_at_checked(2).ok_or(BadMailUrl::Unparseable)?;
        bytes.extend(hex::decode(digits).map_err(|_| BadMailUrl::Unparseable)?);
        bytes.extend_from_slice(rest.as_bytes());
    }
    String::from_utf8(bytes).map_err(|_| BadMailUrl::Unparseable)
}
