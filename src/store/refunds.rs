//! Money given back, and disputes about it.

use grosz_providers::{Money, RefundState};

use super::dialect::{StoreError, Tx, args};
use super::rows::Row;

/// Money given back, or to be given back.
#[derive(Debug, Clone)]
pub struct Refund {
    /// Owner.
    pub merchant_id: String,
    /// `ref_…`
    pub id: String,
    /// Of which payment.
    pub payment_id: String,
    /// From which capture.
    pub capture_id: String,
    /// How much.
    pub amount: Money,
    /// The caller's words.
    pub reason: Option<String>,
    /// `proposed` (waits for a person), `requested`, `pending`, `succeeded`, `failed`.
    pub state: String,
    /// The gateway's name.
    pub gateway_ref: Option<String>,
    /// The gateway's words.
    pub detail: String,
    /// Microseconds.
    pub created_at: i64,
    /// Microseconds.
    pub updated_at: i64,
}

/// A dispute beside a payment.
#[derive(Debug, Clone)]
pub struct Dispute {
    /// Owner.
    pub merchant_id: String,
    /// `dis_…`
    pub id: String,
    /// Of which payment.
    pub payment_id: String,
    /// The gateway's name.
    pub gateway_ref: String,
    /// The gateway's word.
    pub status: String,
    /// Over.
    pub closed: bool,
    /// Does not stand in the way of a refund.
    pub refundable: bool,
    /// It ended for the payer, who keeps the disputed amount.
    pub lost: bool,
    /// The gateway's name of the money that is disputed.
    pub capture_ref: Option<String>,
    /// Disputed amount.
    pub amount: Option<i64>,
    /// Its currency.
    pub currency: Option<String>,
    /// Microseconds.
    pub due_by: Option<i64>,
    /// Microseconds.
    pub created_at: i64,
}

macro_rules! refund_columns {
    () => {
        "merchant_id, id, payment_id, capture_id, amount, currency, reason, state, gateway_ref, detail, created_at, updated_at"
    };
}

impl Tx {
    /// Adds a refund.
    pub async fn add_refund(&mut self, r: &Refund) -> Result<(), StoreError> {
        self.run(
            "INSERT INTO refunds (merchant_id, id, payment_id, capture_id, amount, currency, reason, state, gateway_ref, detail, created_at, updated_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $11)",
            args![
                &r.merchant_id, &r.id, &r.payment_id, &r.capture_id, r.amount.minor(), r.amount.currency().code(), &r.reason, &r.state,
                &r.gateway_ref, &r.detail, r.created_at
            ],
        )
        .await?;
        Ok(())
    }

    /// Refunds of a payment, oldest first.
    pub async fn refunds(&mut self, merchant: &str, payment: &str) -> Result<Vec<Refund>, StoreError> {
        let sql = concat!(
            "SELECT ",
            refund_columns!(),
            " FROM refunds WHERE merchant_id = $1 AND payment_id = $2 ORDER BY id LIMIT 1000"
        );
        self.rows(sql, args![merchant, payment]).await?.iter().map(refund).collect()
    }

    /// One refund.
    pub async fn refund(&mut self, merchant: &str, id: &str) -> Result<Option<Refund>, StoreError> {
        let sql = concat!("SELECT ", refund_columns!(), " FROM refunds WHERE merchant_id = $1 AND id = $2");
        self.row(sql, args![merchant, id]).await?.map(|r| refund(&r)).transpose()
    }

    /// Moves a refund's state.
    pub async fn update_refund(
        &mut self,
        merchant: &str,
        id: &str,
        state: &str,
        gateway_ref: Option<&str>,
        detail: &str,
        now: i64,
    ) -> Result<(), StoreError> {
        self.run(
            "UPDATE refunds SET state = $3, gateway_ref = COALESCE($4, gateway_ref), detail = $5, updated_at = $6
             WHERE merchant_id = $1 AND id = $2",
            args![merchant, id, state, gateway_ref, detail, now],
        )
        .await?;
        Ok(())
    }

    /// Writes a dispute under the gateway's name.
    pub async fn put_dispute(&mut self, d: &Dispute) -> Result<(), StoreError> {
        self.run(
            "INSERT INTO disputes (merchant_id, id, payment_id, gateway_ref, status, closed, refundable, lost, capture_ref, amount, currency,
                 due_by, created_at, updated_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $13)
             ON CONFLICT (merchant_id, payment_id, gateway_ref) DO UPDATE SET
                 status = excluded.status, closed = excluded.closed, refundable = excluded.refundable, lost = excluded.lost,
                 capture_ref = COALESCE(excluded.capture_ref, disputes.capture_ref),
                 amount = COALESCE(excluded.amount, disputes.amount), currency = COALESCE(excluded.currency, disputes.currency),
                 due_by = COALESCE(excluded.due_by, disputes.due_by), updated_at = excluded.updated_at",
            args![
                &d.merchant_id, &d.id, &d.payment_id, &d.gateway_ref, &d.status, d.closed, d.refundable, d.lost, &d.capture_ref, d.amount,
                &d.currency, d.due_by, d.created_at
            ],
        )
        .await?;
        Ok(())
    }

    /// Disputes of a payment.
    pub async fn disputes(&mut self, merchant: &str, payment: &str) -> Result<Vec<Dispute>, StoreError> {
        let rows = self
            .rows(
                "SELECT merchant_id, id, payment_id, gateway_ref, status, closed, refundable, lost, capture_ref, amount, currency, due_by,
                     created_at FROM disputes WHERE merchant_id = $1 AND payment_id = $2 ORDER BY created_at, id LIMIT 1000",
                args![merchant, payment],
            )
            .await?;
        rows.iter()
            .map(|r| {
                Ok(Dispute {
                    merchant_id: r.text("merchant_id")?,
                    id: r.text("id")?,
                    payment_id: r.text("payment_id")?,
                    gateway_ref: r.text("gateway_ref")?,
                    status: r.text("status")?,
                    closed: r.flag("closed")?,
                    refundable: r.flag("refundable")?,
                    lost: r.flag("lost")?,
                    capture_ref: r.maybe_text("capture_ref")?,
                    amount: r.maybe_int("amount")?,
                    currency: r.maybe_text("currency")?,
                    due_by: r.maybe_int("due_by")?,
                    created_at: r.int("created_at")?,
                })
            })
            .collect()
    }

    /// Writes how much of a payment was given back, in minor units.
    pub async fn set_amount_refunded(
        &mut self,
        merchant: &str,
        payment: &str,
        minor: i64,
        now: i64,
    ) -> Result<(), StoreError> {
        self.set_down(payment).await?;
        self.outdates_glance(merchant, payment);
        self.run(
            "UPDATE payments SET amount_refunded = $3, version = version + 1, updated_at = $4 WHERE merchant_id = $1 AND id = $2",
            args![merchant, payment, minor, now],
        )
        .await?;
        Ok(())
    }
}

/// The word a refund's state is kept under.
pub(crate) fn refund_word(state: RefundState) -> &'static str {
    match state {
        RefundState::Pending => "pending",
        RefundState::Succeeded => "succeeded",
        RefundState::Failed | RefundState::Gone => "failed",
    }
}

fn refund(r: &Row) -> Result<Refund, StoreError> {
    Ok(Refund {
        merchant_id: r.text("merchant_id")?,
        id: r.text("id")?,
        payment_id: r.text("payment_id")?,
        capture_id: r.text("capture_id")?,
        amount: r.money()?,
        reason: r.maybe_text("reason")?,
        state: r.text("state")?,
        gateway_ref: r.maybe_text("gateway_ref")?,
        detail: r.text("detail")?,
        created_at: r.int("created_at")?,
        updated_at: r.int("updated_at")?,
    })
}
