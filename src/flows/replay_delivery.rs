//! Reads a delivery on record again and applies what was not applied: after a fault of ours was mended, or to see that
//! nothing is missing. Each event still has one effect.

use grosz_providers::wire::Headers;
use grosz_providers::{Delivery, Outcome};

use super::FlowError;
use super::apply_event::apply_event;
use super::start_checkout::provider_of;
use crate::app::App;
use crate::clock::at;
use crate::store::{EventRow, Tx};

/// Verifies the delivery as it was received, with the settings of today, and applies its events. Events that were
/// parked, mismatched or unknown are tried again; applied ones stay as they are. One outcome per event.
///
/// # Errors
/// There is no such delivery, or its signature does not fit the settings of today.
pub async fn replay_delivery(app: &App, tx: &mut Tx, merchant: &str, id: &str) -> Result<Vec<Outcome>, FlowError> {
    let stored = tx.delivery(merchant, id).await?.ok_or(FlowError::NotFound("delivery"))?.delivery;
    let account = tx.provider_account(merchant, &stored.account_id).await?;
    let account = account.ok_or(FlowError::NotFound("provider account"))?;
    let settings = app.provider_settings(&account)?;
    let pairs: Vec<(String, String)> = serde_json::from_str(&stored.headers).unwrap_or_default();
    let headers = Headers::from_pairs(pairs);
    let received_at = at(stored.received_at);
    let delivery = Delivery { headers: &headers, query: &stored.query, body: &stored.body, received_at };
    let reading = provider_of(&account)?.read(&settings, &delivery).map_err(|e| {
        FlowError::conflict("delivery_refused", format!("with the settings of today this delivery is {e}"))
    })?;
    let mut outcomes = vec![];
    for event in reading.events {
        let mut row = match tx.event_by_key(merchant, &account.id, &event.key).await? {
            Some(known) => known,
            None => {
                let row = EventRow {
                    merchant_id: merchant.to_owned(),
                    id: app.ids.make("evt"),
                    account_id: account.id.clone(),
                    origin: "replay".into(),
                    delivery_id: Some(stored.id.clone()),
                    body_sha256: stored.body_sha256.clone(),
                    event,
                    state: "parked".into(),
                    attempt_id: None,
                    payment_id: None,
                    tries: 0,
                    created_at: app.now(),
                };
                tx.add_event(&row).await?;
                row
            }
        };
        if row.state != "applied" {
            apply_event(app, tx, &account, &mut row).await?;
        }
        outcomes.push(row.outcome());
    }
    Ok(outcomes)
}
