//! Grosz, a payment hub: client apps start checkouts through it, gateways report to it by signed webhooks, it decides
//! what was paid, has the invoice issued, and tells people when something needs them.
//!
//! Start with ARCHITECTURE.md; the rules are in [`domain`], the verbs in [`flows`].

pub mod app;
pub mod cli;
pub mod clock;
pub mod config;
pub mod demo;
pub mod descriptors;
pub mod domain;
pub mod flows;
pub mod http;
pub mod idempotency_key;
pub mod ids;
pub mod intake;
pub mod jobs;
pub mod log;
pub mod mail;
pub mod metrics;
pub mod months;
pub mod outbound;
pub mod problem;
pub mod run;
pub mod sandbox;
pub mod seal;
pub mod standard_webhooks;
pub mod store;
pub mod web;
pub mod worker;
