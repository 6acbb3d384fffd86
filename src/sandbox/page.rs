//! The page of the sandbox: the twins, their panels, their dials.

use std::sync::Arc;

use askama::Template;
use axum::extract::State;
use axum::http::{StatusCode, header};
use axum::response::{Html, IntoResponse, Response};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use grosz_providers::sign;

use super::host::{Host, Kind, Stand};

const POLICY: &str =
    "default-src 'none'; style-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";

#[derive(Template)]
#[template(
    ext = "html",
    source = r##"<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sandbox – Grosz</title>
<link rel="stylesheet" href="/sandbox/sandbox.css">
</head>
<body>
<header>
<h1>Sandbox</h1>
<p>Simulated gateways and a simulated invoicing API, in the real wire formats. No money moves here.</p>
</header>
<main>
{% for twin in twins %}
<article id="{{ twin.name }}">
<h2>{{ twin.title }} <small>{{ twin.kind }}</small>{% if twin.on > 0 %} <b class="on">{{ twin.on }} on</b>{% endif %}</h2>
<p><code>{{ twin.root }}</code>{% if let Some(panel) = twin.panel %} · <a href="{{ panel }}">open its panel</a>{% endif %}</p>
<details{% if twin.on > 0 %} open{% endif %}>
<summary>Fault dial</summary>
<form method="post" action="/sandbox/faults/{{ twin.name }}">
<ul>
{% for fault in twin.faults %}
<li{% if fault.value > 0 %} class="set"{% endif %}>
<label for="{{ twin.name }}-{{ fault.name }}"><code>{{ fault.name }}</code> <span>{{ fault.about }}</span></label>
<input id="{{ twin.name }}-{{ fault.name }}" name="{{ fault.name }}" type="number" min="0" max="1000000" value="{{ fault.value }}">
</li>
{% endfor %}
</ul>
<p class="buttons"><button class="first">Set</button></p>
</form>
<form method="post" action="/sandbox/faults/{{ twin.name }}"><p class="buttons"><button>All off</button></p></form>
</details>
</article>
{% endfor %}
</main>
</body>
</html>
"##
)]
struct Page<'a> {
    twins: Vec<Twin<'a>>,
}

struct Twin<'a> {
    name: &'a str,
    title: &'a str,
    kind: &'static str,
    root: String,
    panel: Option<String>,
    faults: Vec<Fault<'a>>,
    on: usize,
}

struct Fault<'a> {
    name: &'a str,
    about: &'a str,
    value: u32,
}

/// `GET /sandbox`.
pub(super) async fn show(State(host): State<Arc<Host>>) -> Response {
    let page = Page { twins: host.stands.iter().map(|stand| twin(&host, stand)).collect() };
    match page.render() {
        Ok(html) => ([(header::CONTENT_SECURITY_POLICY, POLICY), (header::CACHE_CONTROL, "no-store")], Html(html))
            .into_response(),
        Err(error) => {
            tracing::error!(error = %error, "The sandbox page cannot be shown");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

fn twin<'a>(host: &Host, stand: &'a Stand) -> Twin<'a> {
    let root = host.root(stand.name);
    let (kind, panel) = match &stand.kind {
        Kind::Gateway { twin, .. } => ("gateway", twin.panel()),
        Kind::Invoicer { twin } => ("invoicing API", twin.panel()),
    };
    let known = stand.dial.known().iter();
    let faults: Vec<_> = known.map(|(name, about)| Fault { name, about, value: stand.dial.value(name) }).collect();
    let on = faults.iter().filter(|f| f.value > 0).count();
    let panel = panel.map(|path| format!("{root}{path}"));
    Twin { name: stand.name, title: stand.title, kind, root, panel, faults, on }
}

/// `GET /sandbox/sandbox.css`.
pub(super) async fn style() -> impl IntoResponse {
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], include_str!("sandbox.css"))
}

/// A policy for a twin's page: its own style sheets by their hash, no scripts, nothing from elsewhere. Forms may lead
/// anywhere, because the payer goes back to the shop.
pub(super) fn policy_for(body: &[u8]) -> String {
    let html = String::from_utf8_lossy(body);
    let sheets = html.split("<style>").skip(1).filter_map(|rest| rest.split_once("</style>"));
    let mut hashes = String::new();
    for (sheet, _) in sheets.take(8) {
        hashes.push_str(&format!(" 'sha256-{}'", STANDARD.encode(sign::sha256(&[sheet.as_bytes()]))));
    }
    let styles = if hashes.is_empty() { " 'none'".to_owned() } else { hashes };
    format!("default-src 'none'; style-src{styles}; base-uri 'none'; frame-ancestors 'none'")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_may_use_its_own_style_and_nothing_else() {
        // echo -n 'p{margin:0}' | openssl dgst -sha256 -binary | base64
        let policy = policy_for(b"<style>p{margin:0}</style>");
        assert_eq!(
            policy,
            "default-src 'none'; style-src 'sha256-QRQPRLGyxt3RJiKpYNjpkgHcmHU2PywsfL2e8oI0LQA='; base-uri 'none'; frame-ancestors 'none'"
        );
        assert!(policy_for(b"<p>").contains("style-src 'none'"));
    }
}
