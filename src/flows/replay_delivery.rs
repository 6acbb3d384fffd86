//! Takes a kept delivery in again: its signature is verified again, and what was not applied is applied. What was applied
//! stays as it is, so replaying is always safe.

use std::collections::BTreeSet;
use std::sync::Arc;

use grosz_providers::wire::Headers;
use grosz_providers::{Delivery, Event};

use super::FlowError;
use super::apply_event::apply_event;
use super::start_checkout::provider_of;
use crate::app::App;
use crate::store::{EventRow, ProviderAccount, StoredDelivery, Tx};

/// What replaying did to one event.
#[derive(Debug, Clone)]
pub struct Replayed {
    /// The event on record.
    pub event: EventRow,
    /// True when it was applied now.
    pub applied: bool,
}

/// Replays a delivery within the caller's transaction; one result per event.
///
/// # Errors
/// There is no such delivery, it does not verify with the account's settings as they are now, or the database.
pub async fn replay_delivery(app: &App, tx: &mut Tx, merchant: &str, id: &str) -> Result<Vec<Replayed>, FlowError> {
    let stored = tx.delivery(merchant, id).await?.ok_or(FlowError::NotFound("delivery"))?;
    let account = tx.provider_account(merchant, &stored.delivery.account_id).await?;
    let account = account.ok_or(FlowError::NotFound("provider account"))?;
    let mut results = vec![];
    for event in read_again(app, &account, &stored)? {
        results.push(replay_event(app, tx, &account, &stored, event).await?);
    }
    Ok(results)
}

fn read_again(app: &App, account: &ProviderAccount, stored: &StoredDelivery) -> Result<Vec<Event>, FlowError> {
    let kept = &stored.delivery;
    let pairs: Vec<(String, String)> = serde_json::from_str(&kept.headers)
        .map_err(|_| FlowError::Internal(format!("headers of {} are unreadable", kept.id)))?;
    let headers = Headers::from_pairs(pairs);
    // Only what was fresh is kept, by the clock of the machine that took it in; our rows have another one.
    let delivery = Delivery { headers: &headers, query: &kept.query, body: &kept.body, received_at: None };
    let settings = app.provider_settings(account)?;
    let reading = provider_of(account)?.read(&settings, &delivery).map_err(|refusal| {
        let detail = format!("the delivery does not verify with the account's settings as they are now ({refusal})");
        FlowError::conflict("delivery_not_verified", detail)
    })?;
    let mut seen = BTreeSet::new();
    Ok(reading.events.into_iter().filter(|e| seen.insert(e.key.clone())).collect())
}

async fn replay_event(
    app: &App,
    tx: &mut Tx,
    account: &ProviderAccount,
    stored: &StoredDelivery,
    event: Event,
) -> Result<Replayed, FlowError> {
    let merchant = &account.merchant_id;
    let mut row = match tx.event_by_key(merchant, &account.id, &event.key).await? {
        Some(known) => tx.event_for_update(merchant, &known.id).await?.ok_or(FlowError::NotFound("event"))?,
        None => {
            let row = EventRow {
                merchant_id: merchant.clone(),
                id: app.ids.make("evt"),
                account_id: account.id.clone(),
                origin: "replay".into(),
                delivery_id: Some(stored.delivery.id.clone()),
                body_sha256: stored.delivery.body_sha256.clone(),
                event: Arc::new(event),
                // Not applied yet; `apply_event` writes what becomes of it.
                state: "parked".into(),
                attempt_id: None,
                payment_id: None,
                tries: 0,
                created_at: app.now(),
            };
            if !tx.add_event(&row).await? {
                return Err(crate::store::StoreError::Conflict.into());
            }
            row
        }
    };
    if row.state == "applied" {
        return Ok(Replayed { event: row, applied: false });
    }
    // The cause of what moves now is the replay, not the webhook that came then.
    row.origin = "replay".into();
    apply_event(app, tx, account, &mut row).await?;
    let applied = row.state == "applied";
    Ok(Replayed { event: row, applied })
}
