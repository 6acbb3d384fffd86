//! The whole path over HTTP through the simulated gateways and the simulated invoicing API, on both engines.

mod beside;
mod gateways;
mod invoicing;
mod letters;
mod mispaid;
mod paying;
mod refunding;
pub mod stage;
