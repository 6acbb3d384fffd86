//! Hosts the simulated gateways and the simulated invoicing API.

use axum::Router;
use tokio::sync::watch;

use crate::http::Web;

/// All of `/sandbox`.
pub fn router(_: &Web) -> Router<Web> {
    Router::new()
}

/// Carries the twins' deliveries out until `stop` says true.
pub async fn deliver(web: Web, mut stop: watch::Receiver<bool>) {
    drop(web);
    let _ = stop.wait_for(|stopped| *stopped).await;
}
