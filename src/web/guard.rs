//! Who may press a button, and how often.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

use axum::http::HeaderMap;
use grosz_providers::sign;
use subtle::ConstantTimeEq;

use super::look::header_text;
use super::stop::Stop;
use crate::clock::seconds;
use crate::http::Web;
use crate::http::input::is_unprintable;

/// Counters of the pages; in memory, each process for itself.
#[derive(Default)]
pub struct Guards {
    /// Downloads of each payer.
    downloads: Rate,
    /// Questions to gateways about each attempt.
    questions: Rate,
}

impl Guards {
    /// Counts a download: 30 a minute (F86).
    pub(crate) fn may_download(&self, payer: &str, now: i64) -> Result<(), Stop> {
        if self.downloads.allow(payer, now, seconds(60), 30) { Ok(()) } else { Err(Stop::Slow) }
    }

    /// True when the gateway may be asked about this attempt again: once in four seconds, however many pages look.
    pub(crate) fn may_ask(&self, attempt: &str, now: i64) -> bool {
        self.questions.allow(attempt, now, seconds(4), 1)
    }
}

/// So many in a window, each key for itself.
#[derive(Default)]
struct Rate(Mutex<HashMap<String, (i64, u32)>>);

impl Rate {
    fn allow(&self, key: &str, now: i64, window: i64, most: u32) -> bool {
        let mut map = self.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        if map.len() > 10_000 {
            map.retain(|_, (since, _)| now - *since < window);
        }
        let (since, count) = map.entry(key.to_owned()).or_insert((now, 0));
        if now - *since >= window {
            (*since, *count) = (now, 0);
        }
        *count += 1;
        *count <= most
    }
}

/// The fields of a posted form, the first of each name.
#[derive(Debug, Default)]
pub(crate) struct Fields(BTreeMap<String, String>);

impl Fields {
    /// Reads a body or a query.
    pub fn read(bytes: &[u8]) -> Fields {
        let mut fields = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(bytes).take(200) {
            fields.entry(name.into_owned()).or_insert_with(|| value.into_owned());
        }
        Fields(fields)
    }

    /// A field's text, trimmed, on one line; empty when it is missing.
    pub fn text(&self, name: &str) -> String {
        let raw = self.0.get(name).map(String::as_str).unwrap_or_default();
        let one_line: String = raw.chars().map(|c| if is_unprintable(c) { ' ' } else { c }).collect();
        one_line.trim().to_owned()
    }

    /// A ticked box.
    pub fn ticked(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}

/// What a page's forms carry, derived from the unguessable part of the page's address: whoever cannot read the page
/// cannot make it.
pub(crate) fn form_token(link: &str) -> String {
    sign::sha256_hex(format!("grosz form\n{link}").as_bytes()).chars().take(32).collect()
}

/// Refuses a form that another site sent (F68): the browser's own word where it gives one, and the token always.
pub(crate) fn check_form(web: &Web, headers: &HeaderMap, fields: &Fields, link: &str) -> Result<(), Stop> {
    let same_site = match (header_text(headers, "sec-fetch-site"), header_text(headers, "origin")) {
        (Some(site), _) if site != "same-origin" => false,
        (_, Some(origin)) => is_ours(web, headers, origin),
        (_, None) => true,
    };
    let right = bool::from(fields.text("csrf").as_bytes().ct_eq(form_token(link).as_bytes()));
    if same_site && right { Ok(()) } else { Err(Stop::Forbidden) }
}

/// Our public origin, or the very host that was called (a hub that is reached by more than one name).
fn is_ours(web: &Web, headers: &HeaderMap, origin: &str) -> bool {
    let public = url::Url::parse(&web.app.config.public_url).map(|u| u.origin().ascii_serialization());
    if public.is_ok_and(|p| p == origin) {
        return true;
    }
    let host = header_text(headers, "host");
    let called = origin.strip_prefix("https://").or_else(|| origin.strip_prefix("http://"));
    host.is_some() && host == called
}

/// 32 hex digits: the only shape of a link's token. Anything else is not looked up.
pub(crate) fn is_token(text: &str) -> bool {
    text.len() == 32 && text.bytes().all(|b| b.is_ascii_hexdigit())
}

/// Shows that a browser came through the payment link, when it comes back to an address that names only an attempt.
pub(crate) fn payer_mark(payment_token: &str) -> String {
    sign::sha256_hex(format!("grosz payer\n{payment_token}").as_bytes()).chars().take(32).collect()
}

/// The cookie that carries the mark, for one attempt's return address alone.
pub(crate) fn payer_cookie(web: &Web, attempt: &str, payment_token: &str) -> String {
    let secure = if web.app.config.public_url.starts_with("https://") { "; Secure" } else { "" };
    let mark = payer_mark(payment_token);
    format!("payer={mark}; Path=/return/{attempt}; Max-Age=604800; HttpOnly; SameSite=Lax{secure}")
}

/// True when the browser carries the mark of this payment.
pub(crate) fn is_payer(headers: &HeaderMap, payment_token: &str) -> bool {
    let wanted = payer_mark(payment_token);
    let all = headers.get_all("cookie").iter().filter_map(|v| v.to_str().ok());
    all.flat_map(|line| line.split(';')).any(|pair| {
        let mark = pair.trim().strip_prefix("payer=").unwrap_or_default();
        bool::from(mark.as_bytes().ct_eq(wanted.as_bytes()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    // F86
    #[test]
    fn each_payer_has_his_own_thirty_a_minute() {
        let guards = Guards::default();
        for _ in 0..30 {
            assert!(guards.may_download("a", 0).is_ok());
        }
        assert!(guards.may_download("a", 1).is_err());
        assert!(guards.may_download("b", 1).is_ok());
        assert!(guards.may_download("a", seconds(60)).is_ok());
    }

    #[test]
    fn a_field_is_one_trimmed_line() {
        let fields = Fields::read(b"name=+Jan%0D%0AX+&name=second&save=on");
        assert_eq!(fields.text("name"), "Jan  X");
        assert!(fields.ticked("save") && !fields.ticked("other"));
    }
}
