//! Hosts the simulated gateways and the simulated invoicing API.

use axum::Router;

use crate::http::Web;

/// All of `/sandbox`.
pub fn router(_: &Web) -> Router<Web> {
    Router::new()
}
