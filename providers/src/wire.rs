//! HTTP as the providers see it: plain requests and answers, sent by whoever implements [`Http`].

use std::fmt;

use async_trait::async_trait;

/// Headers with lower-case names, in the order in which they came; repeats are kept.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    /// Headers from pairs; names are lowered.
    pub fn from_pairs<N: AsRef<str>, V: Into<String>>(pairs: impl IntoIterator<Item = (N, V)>) -> Self {
        Headers(pairs.into_iter().map(|(n, v)| (n.as_ref().to_ascii_lowercase(), v.into())).collect())
    }

    /// The value of a header that may come only once.
    ///
    /// # Errors
    /// The header came more than once: which of them is meant cannot be known.
    pub fn single(&self, name: &str) -> Result<Option<&str>, RepeatedHeader> {
        let mut found = self.0.iter().filter(|(n, _)| n == name).map(|(_, v)| v.as_str());
        match (found.next(), found.next()) {
            (first, None) => Ok(first),
            (_, Some(_)) => Err(RepeatedHeader),
        }
    }

    /// The first value of a header.
    pub fn first(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    /// All pairs.
    pub fn pairs(&self) -> &[(String, String)] {
        &self.0
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.iter().map(|(n, _)| n)).finish()
    }
}

/// A header that may come only once came twice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a header that may come only once was repeated")]
pub struct RepeatedHeader;

/// One request to the outside. `Debug` shows neither headers' values nor the body: both may hold secrets.
#[derive(Clone)]
pub struct HttpRequest {
    /// `GET`, `POST` …
    pub method: &'static str,
    /// Absolute address.
    pub url: String,
    /// Header pairs; the content type is one of them.
    pub headers: Vec<(&'static str, String)>,
    /// The body, empty for none.
    pub body: Vec<u8>,
    /// True for calls that must not happen twice: sent over a fresh connection, never repeated by the client.
    pub once: bool,
}

impl HttpRequest {
    /// A GET.
    pub fn get(url: impl Into<String>) -> Self {
        HttpRequest { method: "GET", url: url.into(), headers: vec![], body: vec![], once: false }
    }

    /// A POST of a form; pairs are encoded as `application/x-www-form-urlencoded`.
    pub fn form<'a>(url: impl Into<String>, pairs: impl IntoIterator<Item = (&'a str, &'a str)>) -> Self {
        let body = form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish();
        HttpRequest::post(url, "application/x-www-form-urlencoded", body.into_bytes())
    }

    /// A POST of JSON.
    pub fn json(url: impl Into<String>, value: &serde_json::Value) -> Self {
        HttpRequest::post(url, "application/json", value.to_string().into_bytes())
    }

    /// A POST of bytes.
    pub fn post(url: impl Into<String>, content_type: &str, body: Vec<u8>) -> Self {
        let headers = vec![("content-type", content_type.to_owned())];
        HttpRequest { method: "POST", url: url.into(), headers, body, once: false }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// Marks the call as one that must not happen twice.
    #[must_use]
    pub fn once(mut self) -> Self {
        self.once = true;
        self
    }
}

impl fmt::Debug for HttpRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.url.split(['?', '#']).next().unwrap_or_default();
        write!(f, "{} {address}", self.method)
    }
}

/// An answer from the outside, read up to the client's limit.
#[derive(Clone)]
pub struct HttpResponse {
    /// HTTP status.
    pub status: u16,
    /// Headers.
    pub headers: Headers,
    /// The whole body.
    pub body: Vec<u8>,
}

impl HttpResponse {
    /// True for 200 to 299.
    pub fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }

    /// Seconds of `Retry-After`, at most a day (F37): a plain number, or a date, which is counted from the answer's own
    /// `Date`, so that clocks that differ do not matter. Nonsense gives `None`.
    pub fn retry_after_s(&self) -> Option<u32> {
        let text = self.headers.first("retry-after")?;
        let digits = !text.is_empty() && text.len() <= 6 && text.bytes().all(|b| b.is_ascii_digit());
        let wanted_s = match digits {
            true => text.parse().ok()?,
            false => date(text)?.as_second() - date(self.headers.first("date")?)?.as_second(),
        };
        u32::try_from(wanted_s.clamp(0, 86_400)).ok()
    }
}

/// A date of HTTP, in the form that is in use since 1994 (RFC 9110, 5.6.7).
fn date(text: &str) -> Option<jiff::Timestamp> {
    let is_short = text.len() <= 40 && text.ends_with(" GMT");
    is_short.then(|| jiff::fmt::rfc2822::DateTimeParser::new().parse_timestamp(text).ok()).flatten()
}

impl fmt::Debug for HttpResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} with {} bytes", self.status, self.body.len())
    }
}

/// Why there is no answer. The difference decides whether a call may be made again.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HttpError {
    /// Certain: not one byte of the request left this machine (name look-up, refused connection, TLS, forbidden
    /// target). The call may be repeated.
    #[error("nothing was sent: {0}")]
    NotSent(String),
    /// The request, or a part of it, may have arrived (time-out, cut connection, answer over the limit).
    #[error("no answer: {0}")]
    NoAnswer(String),
}

/// Sends requests. Implementations set time limits, cap answers, follow no redirects and repeat nothing.
#[async_trait]
pub trait Http: Send + Sync {
    /// Sends one request and reads its answer.
    ///
    /// # Errors
    /// See [`HttpError`].
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError>;
}

#[cfg(test)]
mod tests {
    use super::*;

    // F37
    #[test]
    fn a_time_to_wait_is_read_and_bounded() {
        let check = |retry_after: &str, date: &str, expect: Option<u32>| {
            let headers = Headers::from_pairs([("Retry-After", retry_after), ("Date", date)]);
            let answer = HttpResponse { status: 429, headers, body: vec![] };
            assert_eq!(answer.retry_after_s(), expect, "{retry_after} {date}");
        };
        let now = "Wed, 21 Oct 2026 07:28:00 GMT";
        check("120", now, Some(120));
        check("0", "", Some(0));
        check("999999", now, Some(86_400));
        check("Wed, 21 Oct 2026 07:30:00 GMT", now, Some(120));
        check("Wed, 21 Oct 2026 07:00:00 GMT", now, Some(0));
        check("Fri, 21 Oct 2039 07:28:00 GMT", now, Some(86_400));
        for nonsense in ["", "-1", "1e3", "soon", "9999999", "Wed, 99 Oct 2026 07:28:00 GMT", "٣", " GMT"] {
            check(nonsense, now, None);
        }
        check("Wed, 21 Oct 2026 07:30:00 GMT", "", None);
    }
}
