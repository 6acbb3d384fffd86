//! Takes in webhook calls that a provider has verified: records them and applies their events in one transaction.
//!
//! The unit is a slice: calls that wait at the same time share one commit (see `intake.rs`). Each is answered after it.
//! A repeat returns the outcome of the first time.

use std::sync::Arc;

use grosz_providers::{Outcome, Reading, Reference};

use super::FlowError;
use super::apply_event::apply_event;
use crate::app::App;
use crate::ids::with_number_of;
use crate::store::{EventRow, ProviderAccount, RecordedDelivery, Sought, StoreError, Tx};

/// A verified webhook call.
#[derive(Debug, Clone)]
pub struct Inbound {
    /// The account its address named.
    pub account: Arc<ProviderAccount>,
    /// The call as received.
    pub delivery: Arc<RecordedDelivery>,
    /// What it says.
    pub reading: Reading,
}

/// Refunds and disputes are named by the gateway's words, and go past the book.
pub fn can_do_without_locks(call: &Inbound) -> bool {
    call.reading.events.iter().all(|event| matches!(event.reference, Reference::Ours(_)))
}

/// Records and applies a slice of calls; answers each call's outcomes, one per event. What the calls need is read ahead
/// and what they write is written behind, so that the number of statements does not depend on how many calls there are.
///
/// # Errors
/// The database; nothing of the slice may be committed then.
pub async fn receive(app: &App, tx: &mut Tx, slice: &[Inbound]) -> Result<Vec<Vec<Outcome>>, FlowError> {
    let events = slice.iter().flat_map(|inbound| inbound.reading.events.iter().map(|event| (&inbound.account, event)));
    let sought: Vec<Sought<'_>> = events
        .map(|(account, event)| Sought {
            merchant: &account.merchant_id,
            account: &account.id,
            key: &event.key,
            reference: &event.reference,
        })
        .collect();
    tx.read_ahead(&sought).await?;
    let mut outcomes = Vec::with_capacity(slice.len());
    for inbound in slice {
        outcomes.push(receive_one(app, tx, inbound).await?);
    }
    Ok(outcomes)
}

async fn receive_one(app: &App, tx: &mut Tx, inbound: &Inbound) -> Result<Vec<Outcome>, FlowError> {
    let (delivery, account) = (&inbound.delivery, &inbound.account);
    let mut outcomes = vec![];
    let mut kept_as: Option<String> = None;
    let mut has_events = false;
    for event in &inbound.reading.events {
        if let Some(earlier) = tx.event_by_key(&account.merchant_id, &account.id, &event.key).await? {
            outcomes.push(earlier.outcome());
            if kept_as.is_none() {
                kept_as = keep_repeat(app, tx, delivery, &earlier).await?;
            }
            continue;
        }
        if kept_as.as_deref() != Some(&delivery.id) {
            tx.add_delivery(delivery).await?;
            kept_as = Some(delivery.id.clone());
        }
        // The first event of a call bears its number, and is found by it.
        let id = if has_events { app.ids.make("evt") } else { with_number_of(&delivery.id, "evt") };
        has_events = true;
        let mut row = EventRow {
            merchant_id: account.merchant_id.clone(),
            id,
            account_id: account.id.clone(),
            origin: "webhook".into(),
            delivery_id: Some(delivery.id.clone()),
            body_sha256: delivery.body_sha256.clone(),
            event: Arc::new(event.clone()),
            state: "applied".into(),
            attempt_id: None,
            payment_id: None,
            tries: 0,
            created_at: app.now(),
        };
        if !tx.add_event(&row).await? {
            // Another process recorded it since we looked: doing all again finds it.
            return Err(StoreError::Conflict.into());
        }
        apply_event(app, tx, account, &mut row).await?;
        outcomes.push(row.outcome());
    }
    if inbound.reading.events.is_empty() {
        // Authentic and without events: kept all the same, because it is acknowledged.
        tx.add_delivery(delivery).await?;
    }
    Ok(outcomes)
}

/// A repeat with the same bytes is counted at the first one; with other bytes it is kept as evidence, and the first
/// meaning stands (F03).
async fn keep_repeat(
    app: &App,
    tx: &mut Tx,
    delivery: &Arc<RecordedDelivery>,
    earlier: &EventRow,
) -> Result<Option<String>, FlowError> {
    match &earlier.delivery_id {
        Some(first) if earlier.body_sha256 == delivery.body_sha256 => {
            tx.count_repeat(&delivery.merchant_id, first, delivery.received_at).await?;
            Ok(Some(first.clone()))
        }
        _ => {
            let polled_before = earlier.delivery_id.is_none();
            let verdict = if polled_before { "repeat" } else { "deviating" };
            let kept = RecordedDelivery { verdict: verdict.into(), ..RecordedDelivery::clone(delivery) };
            tx.add_delivery(&Arc::new(kept)).await?;
            if !polled_before {
                app.metrics.count(&app.metrics.security, &delivery.provider, "deviating_repeat");
                tracing::warn!(
                    delivery.id = %delivery.id, event.id = %earlier.id, security = true,
                    "Delivery {} repeats an event with another body; the first meaning stands", delivery.id
                );
            }
            Ok(Some(delivery.id.clone()))
        }
    }
}
