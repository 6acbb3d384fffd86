//! Payment gateways and invoicing APIs, as protocols and nothing else.
//!
//! This crate turns bytes from strangers into a few typed words ([`Event`]) and our intentions into their bytes. It
//! has no database, clock, socket or web framework: time and HTTP arrive as arguments ([`Cx`]), so every rule here
//! can be tested with bytes alone. It knows nothing of the hub that uses it.
//!
//! One gateway is one file, one fixture file under `fixtures/` and one line in [`registry`].

pub mod autopay;
pub mod facts;
pub mod gateway;
pub mod invoicer;
pub mod ksef;
pub mod money;
mod pdf;
pub mod registry;
pub mod sign;
pub mod stripe;
pub mod tax_id;
pub mod twin;
pub mod vat;
pub mod wfirma;
pub mod wire;

pub use facts::{Settings, SettingsError};
pub use gateway::{
    AttemptRef, CallError, Checkout, Cx, Delivery, Event, EventKind, FailReason, Outcome, Provider, ReadError, Reading,
    Redirect, Reference, RefundOrder, RefundReport, RefundState, Reply, Standing, StatusReport, Verdict,
};
pub use invoicer::{InvoiceOrder, Invoicer};
pub use jiff::Timestamp;
pub use money::{Currency, Money, MoneyError};
