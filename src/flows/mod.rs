//! What the product does, one verb a file. A flow decides in pure code, then writes in one transaction, outbox included;
//! calls to the outside happen in jobs, with no transaction open, and each can run twice.

pub mod add_account;
pub mod add_key;
pub mod apply_event;
pub mod cancel_attempt;
pub mod change_quote;
pub mod check_sale;
pub mod deliver;
pub mod fetch_pdf;
pub mod issue_invoice;
pub mod keep_house;
pub mod notify;
pub mod order_invoice;
pub mod poll_status;
pub mod probe_invoicing;
pub mod receive_webhook;
pub mod refund;
pub mod replay_delivery;
pub mod replay_messages;
pub mod resend_notice;
pub mod retry_event;
pub mod retry_payment;
pub mod send_notice;
pub mod settle_mismatch;
pub mod start_checkout;
pub mod tell_client;

use grosz_providers::{CallError, MoneyError};

use crate::store::StoreError;

/// Why a flow came to nothing. `problem.rs` alone turns it into an HTTP answer.
#[derive(Debug, thiserror::Error)]
pub enum FlowError {
    /// A field of the request is wrong: its path and the end of a sentence that begins with it.
    #[error("{field} {why}")]
    Invalid {
        /// `lines.0.vat`
        field: String,
        /// `must be …`
        why: String,
    },
    /// There is no such thing for this merchant.
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// The state of things forbids it: a stable code and a sentence.
    #[error("{detail}")]
    Conflict {
        /// `provider_not_configured`
        code: &'static str,
        /// For people.
        detail: String,
    },
    /// The gateway or the invoicing API gave no usable answer.
    #[error("{0}")]
    Gateway(#[from] CallError),
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A fault of ours.
    #[error("{0}")]
    Internal(String),
}

impl FlowError {
    /// A field that was refused.
    pub fn invalid(field: impl Into<String>, why: impl Into<String>) -> Self {
        FlowError::Invalid { field: field.into(), why: why.into() }
    }

    /// A state that forbids it.
    pub fn conflict(code: &'static str, detail: impl Into<String>) -> Self {
        FlowError::Conflict { code, detail: detail.into() }
    }

    /// An amount that was refused.
    pub fn money(field: &str, e: &MoneyError) -> Self {
        FlowError::invalid(field, format!("is refused: {e}"))
    }
}
