//! The only SQL. A [`Store`] holds the pools, a [`Tx`] is one transaction; one file per group of tables adds methods
//! to `Tx`. Every method that touches a merchant's rows takes the merchant's id: no row is found by id alone but for
//! the few look-ups that begin a request (key, webhook address, payment link), which answer with the merchant.

mod accounts;
mod cases;
mod deliveries;
mod dialect;
mod idempotency;
mod invoices;
mod jobs;
mod link;
mod messages;
mod migrate;
mod payments;
mod people;
mod records;
mod set;

pub use accounts::{ApiKey, InvoicingAccount, Merchant, ProviderAccount};
pub use cases::{Case, CaseLine};
pub use deliveries::{DeliveryFilter, EventRow, RecordedDelivery, StoredDelivery};
pub use dialect::{Store, StoreError, StoreSettings, Tx};
pub use idempotency::StoredAnswer;
pub use invoices::{Attachment, InvoiceGlance, InvoiceRow};
pub use jobs::{Job, JobKind, QueueDepth};
pub use messages::{Endpoint, Message, Telling};
pub(crate) use payments::refund_word;
pub use payments::{Attempt, Capture, Dispute, Payment, PaymentFilter, Refund, Transition};
pub use people::{Expert, Payer, Profile, ProfileBody};
pub use records::{Alert, Notice};

/// Where a page of a list begins and how long it is. Lists run from the newest to the oldest.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// Rows older than this id; `None` for the newest.
    pub before: Option<String>,
    /// At most so many rows.
    pub limit: i64,
}
