//! Everything the hub says to the outside over HTTP goes through here.
//!
//! [`target`] decides which addresses may be called at all; [`client`] calls them and says, for every call without an
//! answer, whether the request certainly never left or may have arrived. Neither knows what is being said, or why.

pub mod client;
pub mod target;

pub use client::{BadSettings, CallError, CallKind, KEPT_CLIENTS, Limits, Observe, Outbound, OutboundSettings};
pub use target::{Refusal, SystemResolver, TargetPolicy};
