//! What every page has: a language, addresses of its assets, headers that let nothing else in.

use askama::Template;
use axum::extract::Request;
use axum::http::{HeaderMap, HeaderValue, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};

use super::assets::{SCRIPT, STYLE};
use super::locale::{Language, Texts};
use super::stop::Stop;
use crate::http::Web;

/// What the frame of a page needs to know.
#[derive(Clone)]
pub(crate) struct Look {
    /// Language of the page.
    pub language: Language,
    /// Its texts.
    pub t: &'static Texts,
    /// `?lang=xx` while the reader overrides the payer's language, else empty.
    lang_query: &'static str,
    /// The rest of the address' query, which the switch of languages keeps.
    kept_query: String,
    /// Whose page it is.
    pub brand: String,
    /// Say that no real money moves.
    pub test_mode: bool,
    /// Address of the list, when this page belongs to it.
    pub portal: Option<String>,
}

impl Look {
    /// The look of a page for a known payer: his language, unless the address asks for another one.
    pub fn for_payer(web: &Web, uri: &Uri, language: &str, brand: &str) -> Look {
        let asked = asked_language(uri);
        let language = asked.or_else(|| Language::of_code(language)).unwrap_or(Language::En);
        Look {
            language,
            t: language.texts(),
            lang_query: asked.map_or("", lang_query),
            kept_query: query_without_language(uri),
            brand: brand.to_owned(),
            test_mode: !web.app.config.live,
            portal: None,
        }
    }

    /// The look of a page for nobody in particular: the address' language, else the browser's.
    pub fn for_anyone(web: &Web, request: &Request) -> Look {
        let accepted = header_text(request.headers(), header::ACCEPT_LANGUAGE.as_str());
        let language = accepted.and_then(Language::accepted).unwrap_or(Language::En);
        let mut look = Look::for_payer(web, request.uri(), language.code(), "Grosz");
        look.test_mode = false;
        look
    }

    /// With the payer's list in the head of the page.
    #[must_use]
    pub fn in_portal(mut self, token: &str) -> Look {
        self.portal = Some(format!("/portal/{token}"));
        self
    }

    /// An address of ours that keeps the overridden language.
    pub fn at(&self, path: &str) -> String {
        let (start, rest) = match self.lang_query {
            "" => return path.to_owned(),
            query => (path, query),
        };
        if start.contains('?') { format!("{start}&{}", &rest[1..]) } else { format!("{start}{rest}") }
    }

    /// The overriding language for a hidden field of a filter form; empty when there is none.
    pub fn forced(&self) -> &'static str {
        if self.lang_query.is_empty() { "" } else { self.language.code() }
    }

    /// All languages for the switch: address, code, name, and whether it is the page's.
    pub fn languages(&self) -> [(String, &'static str, &'static str, bool); 6] {
        let address = |l: Language| format!("?{}lang={}", self.kept_query, l.code());
        Language::ALL.map(|l| (address(l), l.code(), l.texts().language_name, l == self.language))
    }

    /// Address of the settings, beside the list.
    pub fn settings(&self) -> String {
        self.at(&format!("{}/profiles", self.portal.as_deref().unwrap_or_default()))
    }

    /// Address of the style sheet.
    pub fn style(&self) -> &'static str {
        &STYLE.address
    }

    /// Address of the script.
    pub fn script(&self) -> &'static str {
        &SCRIPT.address
    }
}

fn lang_query(language: Language) -> &'static str {
    match language {
        Language::Pl => "?lang=pl",
        Language::Uk => "?lang=uk",
        Language::Cs => "?lang=cs",
        Language::Ru => "?lang=ru",
        Language::Is => "?lang=is",
        Language::En => "?lang=en",
    }
}

fn asked_language(uri: &Uri) -> Option<Language> {
    let pairs = form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    pairs.into_iter().find(|(name, _)| name == "lang").and_then(|(_, code)| Language::of_code(&code))
}

/// What the query holds beside the language, each part with an ampersand behind it. It may be a gateway's signed return,
/// so it stays as it was written.
fn query_without_language(uri: &Uri) -> String {
    let parts = uri.query().unwrap_or_default().split('&');
    let kept = parts.filter(|part| !part.is_empty() && *part != "lang" && !part.starts_with("lang="));
    kept.map(|part| format!("{part}&")).collect()
}

/// A header's text.
pub(crate) fn header_text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name).and_then(|v| v.to_str().ok())
}

/// Where the forms of a page may lead.
pub(crate) enum Forms {
    /// To us.
    Here,
    /// To us, and from there by a redirect to a gateway. Browsers check the whole chain of redirects, and the gateway
    /// names its page only when it is asked: so any https page is let through (plain http too where the hub is told
    /// to call such targets).
    Gateways,
    /// To us and to this origin.
    To(String),
}

/// Renders a page.
pub(crate) fn page<T: Template>(web: &Web, status: StatusCode, forms: Forms, template: &T) -> Result<Response, Stop> {
    let html = template.render().map_err(|e| Stop::fault("a page could not be rendered", &e))?;
    let targets = match forms {
        Forms::Here => String::new(),
        Forms::Gateways if web.app.config.allow_insecure_targets => " https: http:".to_owned(),
        Forms::Gateways => " https:".to_owned(),
        Forms::To(origin) => format!(" {origin}"),
    };
    let policy = format!(
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self'; img-src 'self' data:; \
         form-action 'self'{targets}; frame-ancestors 'none'; base-uri 'none'"
    );
    let policy = HeaderValue::from_str(&policy).map_err(|e| Stop::fault("a page's policy is no header", &e))?;
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8")),
        (header::CONTENT_SECURITY_POLICY, policy),
    ];
    Ok((status, headers, html).into_response())
}

/// Headers of every answer: addresses hold tokens, so nothing is cached and no address travels as a referrer.
/// `same-origin` and not `no-referrer`, because with the latter browsers hide the origin of our own forms from us.
pub(crate) fn harden(answer: &mut Response) {
    let headers = answer.headers_mut();
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("same-origin"));
    headers.insert("cross-origin-opener-policy", HeaderValue::from_static("same-origin"));
    headers.insert("x-robots-tag", HeaderValue::from_static("noindex, nofollow"));
    headers.entry(header::CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static(
        "default-src 'none'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
    ));
}

/// 303 to an address of ours or of a gateway.
pub(crate) fn see_other(address: &str) -> Result<Response, Stop> {
    let location = HeaderValue::from_str(address).map_err(|e| Stop::fault("an address is no header", &e))?;
    Ok((StatusCode::SEE_OTHER, [(header::LOCATION, location)]).into_response())
}
