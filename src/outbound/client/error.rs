//! Why a call has no answer, and whether anything was sent.

use std::error::Error as StdError;
use std::io;

use grosz_providers::wire::HttpError;

use crate::outbound::target::Refusal;

/// Why a call has no answer. `Display` is plain words for a person; it never holds the address, a header or a body.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The target may not be called, or its name has no addresses.
    #[error("{0}")]
    Refused(Refusal),
    /// Too many calls to this host were under way.
    #[error("too many calls to this host are waiting for their answer")]
    Busy,
    /// The request itself is impossible: a fault in our code.
    #[error("the request could not be built: {0}")]
    BadRequest(&'static str),
    /// Nobody listens at the address.
    #[error("the host refused the connection")]
    ConnectionRefused,
    /// No connection for another reason.
    #[error("the host could not be reached")]
    Unreachable,
    /// No connection within the limit.
    #[error("the host did not accept a connection in time")]
    ConnectTimeOut,
    /// The host could not prove who it is. There is no fallback to plain text (F36).
    #[error("{0}")]
    Tls(TlsFault),
    /// Connected, but no whole answer within the limit.
    #[error("the answer did not come in time")]
    TimeOut,
    /// The connection ended before the whole answer was read.
    #[error("the connection was cut before the whole answer came")]
    Cut,
    /// What came was not HTTP.
    #[error("the answer was not readable as HTTP")]
    Unreadable,
    /// More came than we read.
    #[error("the answer is longer than {limit} bytes")]
    TooLarge {
        /// The limit, in bytes.
        limit: usize,
    },
}

/// Why a TLS connection was not opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TlsFault {
    /// Past its last day.
    #[error("the certificate of the host has expired, or the clock of this machine is wrong")]
    Expired,
    /// Before its first day.
    #[error("the certificate of the host is not valid yet, or the clock of this machine is wrong")]
    NotYetValid,
    /// For another name.
    #[error("the certificate of the host was issued for another name")]
    WrongName,
    /// From an authority that we do not know.
    #[error("the certificate of the host comes from an unknown authority")]
    UnknownIssuer,
    /// Anything else, such as a port that does not speak TLS.
    #[error("no TLS connection could be agreed with the host")]
    Handshake,
}

impl CallError {
    /// True when not one byte of the request left this machine, so that the call may be made again.
    pub fn is_certainly_not_sent(&self) -> bool {
        match self {
            CallError::Refused(_)
            | CallError::Busy
            | CallError::BadRequest(_)
            | CallError::ConnectionRefused
            | CallError::Unreachable
            | CallError::ConnectTimeOut
            | CallError::Tls(_) => true,
            CallError::TimeOut | CallError::Cut | CallError::Unreadable | CallError::TooLarge { .. } => false,
        }
    }

    /// One stable word, for attempts and metrics.
    pub fn word(&self) -> &'static str {
        match self {
            CallError::Refused(refusal) => refusal.word(),
            CallError::Busy => "busy",
            CallError::BadRequest(_) => "bad_request",
            CallError::ConnectionRefused => "connection_refused",
            CallError::Unreachable => "unreachable",
            CallError::ConnectTimeOut => "connect_timeout",
            CallError::Tls(_) => "tls_certificate",
            CallError::TimeOut => "timeout",
            CallError::Cut => "connection_reset",
            CallError::Unreadable => "unreadable",
            CallError::TooLarge { .. } => "too_large",
        }
    }

    /// An error before the head of the answer was read. Only a connection that was never opened proves that nothing was
    /// sent; whatever is not understood counts as sent.
    pub(super) fn from_sending(e: reqwest::Error) -> Self {
        if e.is_builder() {
            return CallError::BadRequest("the client refused it");
        }
        if !e.is_connect() {
            return CallError::from_reading(e);
        }
        if let Some(fault) = causes(&e).find_map(tls_fault) {
            return CallError::Tls(fault);
        }
        if e.is_timeout() {
            return CallError::ConnectTimeOut;
        }
        match causes(&e).find_map(|c| c.downcast_ref::<io::Error>()).map(io::Error::kind) {
            Some(io::ErrorKind::ConnectionRefused) => CallError::ConnectionRefused,
            _ => CallError::Unreachable,
        }
    }

    /// An error after the request was, or may have been, sent.
    pub(super) fn from_reading(e: reqwest::Error) -> Self {
        if e.is_timeout() {
            return CallError::TimeOut;
        }
        let garbled = causes(&e).filter_map(|c| c.downcast_ref::<hyper::Error>()).any(hyper::Error::is_parse);
        if garbled { CallError::Unreadable } else { CallError::Cut }
    }
}

impl From<CallError> for HttpError {
    fn from(e: CallError) -> Self {
        if e.is_certainly_not_sent() { HttpError::NotSent(e.to_string()) } else { HttpError::NoAnswer(e.to_string()) }
    }
}

/// The error and everything below it.
fn causes<'a>(e: &'a (dyn StdError + 'static)) -> impl Iterator<Item = &'a (dyn StdError + 'static)> {
    std::iter::successors(Some(e), |e| below(*e))
}

/// An I/O error gives as its source the source of what it wraps, and so hides what it wraps.
fn below<'a>(e: &'a (dyn StdError + 'static)) -> Option<&'a (dyn StdError + 'static)> {
    match e.downcast_ref::<io::Error>().and_then(io::Error::get_ref) {
        Some(wrapped) => Some(wrapped),
        None => e.source(),
    }
}

fn tls_fault(e: &(dyn StdError + 'static)) -> Option<TlsFault> {
    use rustls::CertificateError as Certificate;
    Some(match e.downcast_ref::<rustls::Error>()? {
        rustls::Error::InvalidCertificate(Certificate::Expired | Certificate::ExpiredContext { .. }) => {
            TlsFault::Expired
        }
        rustls::Error::InvalidCertificate(Certificate::NotValidYet | Certificate::NotValidYetContext { .. }) => {
            TlsFault::NotYetValid
        }
        rustls::Error::InvalidCertificate(
            Certificate::NotValidForName | Certificate::NotValidForNameContext { .. },
        ) => TlsFault::WrongName,
        rustls::Error::InvalidCertificate(Certificate::UnknownIssuer) => TlsFault::UnknownIssuer,
        _ => TlsFault::Handshake,
    })
}
