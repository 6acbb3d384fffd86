//! The style sheet, the script and the icon: compiled in, named by their content, kept by browsers for a year.

use std::sync::LazyLock;

use super::stop::Path;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use grosz_providers::sign;

/// One file.
pub(crate) struct Asset {
    /// Where it is served.
    pub address: String,
    media_type: &'static str,
    body: &'static str,
}

/// The style sheet.
pub(crate) static STYLE: LazyLock<Asset> =
    LazyLock::new(|| asset("pages", "css", "text/css; charset=utf-8", include_str!("assets/pages.css")));

/// The script.
pub(crate) static SCRIPT: LazyLock<Asset> =
    LazyLock::new(|| asset("pages", "js", "text/javascript; charset=utf-8", include_str!("assets/pages.js")));

fn asset(name: &str, ending: &str, media_type: &'static str, body: &'static str) -> Asset {
    let hash: String = sign::sha256_hex(body.as_bytes()).chars().take(12).collect();
    Asset { address: format!("/assets/{name}.{hash}.{ending}"), media_type, body }
}

/// `GET /assets/{name}`
pub(crate) async fn serve(Path(name): Path<String>) -> Response {
    let wanted = format!("/assets/{name}");
    let found = [&*STYLE, &*SCRIPT].into_iter().find(|a| a.address == wanted);
    let Some(asset) = found else { return StatusCode::NOT_FOUND.into_response() };
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static(asset.media_type)),
        (header::CACHE_CONTROL, HeaderValue::from_static("public, max-age=31536000, immutable")),
    ];
    (headers, asset.body).into_response()
}
