//! Payment hub.

pub mod idempotency_key;
pub mod mail;
pub mod outbound;
pub mod seal;
pub mod standard_webhooks;
