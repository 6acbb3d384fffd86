//! The only SQL. A [`Store`] holds the pools, a [`Tx`] is one transaction; one file per group of tables adds methods
//! to `Tx`. Every method that touches a merchant's rows takes the merchant's id: no row is found by id alone but for
//! the few look-ups that begin a request (key, webhook address, payment link), which answer with the merchant.

mod accounts;
mod attempts;
mod book;
mod cases;
mod connections;
mod deliveries;
mod dialect;
mod glance;
mod house;
mod idempotency;
mod invoices;
mod jobs;
mod link;
mod messages;
mod migrate;
mod modes;
mod partitions;
mod payments;
mod people;
mod records;
mod refunds;
mod rows;
mod set;
mod sqlite;
mod trouble;
mod wal;

pub use accounts::{ApiKey, InvoicingAccount, Merchant, ProviderAccount};
pub use attempts::{Attempt, Capture};
pub use book::{BookMark, Sought, SoughtOrder};
pub use cases::{Case, CaseLine};
pub use deliveries::{DeliveryFilter, EventRow, RecordedDelivery, StoredDelivery};
pub use dialect::{Cause, Pool, Store, StoreError, StoreSettings, Tx};
pub use glance::{AttemptGlance, Flags, Glance, ListedPayment, Listing, Members};
pub use house::{Batch, Growing};
pub use idempotency::{ANSWER_GONE, NewAnswer, StoredAnswer};
pub use invoices::{Attachment, InvoiceGlance, InvoiceRow, IssueQueue};
pub use jobs::{Job, JobEnd, JobKind, Lane, NewJob, NextDue, QueueDepth};
pub use messages::{Endpoint, Message, Telling};
pub use payments::{Payment, PaymentFilter, Transition};
pub use people::{Expert, MOST_PROFILES, Payer, Profile, ProfileBody};
pub use records::{Alert, Notice};
pub(crate) use refunds::refund_word;
pub use refunds::{Dispute, Refund};

/// Where a page of a list begins and how long it is. Lists run from the newest to the oldest.
#[derive(Debug, Clone, Default)]
pub struct Page {
    /// Rows older than this id; `None` for the newest.
    pub before: Option<String>,
    /// At most so many rows.
    pub limit: i64,
}

impl Page {
    /// The id that the page's rows are older than. There is always one: a statement is planned for any values, and a place
    /// that may be missing (`$2 IS NULL OR id < $2`) is looked up in no index, so every page would be read from the newest
    /// row on.
    fn bound(&self) -> &str {
        // Ids begin with the letters of their kind, and no kind begins with a `z`.
        self.before.as_deref().unwrap_or("zzz")
    }
}
