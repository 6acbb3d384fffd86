//! The gateways and invoicing APIs there are. A new one is a file and a line here.

use crate::autopay::Autopay;
use crate::stripe::Stripe;
use crate::wfirma::WFIRMA;
use crate::{Invoicer, Provider};

/// Every gateway.
static PROVIDERS: &[&dyn Provider] = &[&Autopay, &Stripe];

/// Every invoicing API.
static INVOICERS: &[&dyn Invoicer] = &[&WFIRMA];

/// Every gateway, in the order in which they are shown.
pub fn providers() -> impl Iterator<Item = &'static dyn Provider> {
    PROVIDERS.iter().copied()
}

/// The gateway of that name.
pub fn provider(name: &str) -> Option<&'static dyn Provider> {
    providers().find(|p| p.facts().name == name)
}

/// Every invoicing API.
pub fn invoicers() -> impl Iterator<Item = &'static dyn Invoicer> {
    INVOICERS.iter().copied()
}

/// The invoicing API of that name.
pub fn invoicer(name: &str) -> Option<&'static dyn Invoicer> {
    invoicers().find(|i| i.facts().name == name)
}
