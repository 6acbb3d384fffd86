//! Sends a notice again whose address was corrected, or whose reader lost it. It is a letter of its own, with the same words:
//! the one before keeps what became of it.

use super::FlowError;
use super::notify::{message_id, queue_notice, reader_of};
use super::send_notice::undeliverable_key;
use crate::app::App;
use crate::mail::check_address;
use crate::store::{Notice, Payment, Tx};

/// Queues it once more, to `recipient`, else to the present address of whoever it is for. The matter that it could not be
/// delivered is settled.
///
/// # Errors
/// It is still on its way, its text was let go of, the address is none, or none is known.
pub async fn resend_notice(
    app: &App,
    tx: &mut Tx,
    notice: &Notice,
    recipient: Option<&str>,
) -> Result<Notice, FlowError> {
    if notice.state == "queued" {
        return Err(FlowError::conflict("notice_queued", "it is still on its way"));
    }
    if notice.body.is_empty() {
        return Err(FlowError::conflict("notice_gone", "its address and text are not kept any more"));
    }
    let recipient = match recipient {
        Some(given) => Some(given.trim().to_owned()),
        None => present_address(app, tx, notice).await?,
    };
    let recipient =
        recipient.ok_or_else(|| FlowError::invalid("recipient", "is required: no present address is known"))?;
    let refused = |_| FlowError::invalid("recipient", "must be an e-mail address such as name@example.com");
    check_address(&recipient).map_err(refused)?;
    let id = app.ids.make("ntc");
    let again = Notice {
        dedupe_key: format!("resent:{id}"),
        id,
        recipient,
        message_id: message_id(app),
        state: "queued".into(),
        detail: None,
        created_at: app.now(),
        sent_at: None,
        ..notice.clone()
    };
    queue_notice(app, tx, &again).await?;
    tx.resolve_alert_by_key(&notice.merchant_id, &undeliverable_key(&notice.id), app.now()).await?;
    Ok(again)
}

/// An alert's letter goes to whoever hears of it now; the payer's to where his invoice data send it now.
async fn present_address(app: &App, tx: &mut Tx, notice: &Notice) -> Result<Option<String>, FlowError> {
    let payment = match &notice.payment_id {
        Some(id) => tx.payment(&notice.merchant_id, id).await?,
        None => None,
    };
    match (&notice.alert_id, payment) {
        (Some(_), payment) => reader_of(app, tx, &notice.merchant_id, payment.as_ref()).await,
        (None, Some(payment)) => payers_address(tx, &payment).await,
        (None, None) => Ok(None),
    }
}

async fn payers_address(tx: &mut Tx, payment: &Payment) -> Result<Option<String>, FlowError> {
    let merchant = &payment.merchant_id;
    let profile = match &payment.profile_id {
        Some(id) => tx.profile(merchant, id).await?,
        None => None,
    };
    let buyer = profile.map(|p| p.body).or_else(|| payment.buyer.clone());
    if let Some(email) = buyer.map(|b| b.email).filter(|e| !e.is_empty()) {
        return Ok(Some(email));
    }
    Ok(tx.payer(merchant, &payment.payer_id).await?.map(|p| p.email))
}
