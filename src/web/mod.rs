//! Pages for payers and operators.

use axum::Router;

use crate::http::Web;

/// `/pay`, `/return`, `/portal`, `/demo`.
pub fn router(_: &Web) -> Router<Web> {
    Router::new()
}
