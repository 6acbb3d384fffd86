//! The HTTP interface for client apps, as they see it. Every answer is held against the OpenAPI document.

pub mod client;
mod document;
mod errors;
mod lists;
mod meanwhile;
mod modes;
mod once;
mod tenants;
mod values;
mod walk;
