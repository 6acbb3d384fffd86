//! The JSON interface for client apps.

use axum::Router;

use super::Web;

/// All of `/v1`.
pub fn router(_: &Web) -> Router<Web> {
    Router::new()
}
