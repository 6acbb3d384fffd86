//! Which gateways and invoicing APIs there are, as data: what a client needs to build a form for an account.

use grosz_providers::facts::{Setting, SettingKind};
use grosz_providers::registry;
use serde::Serialize;
use utoipa::ToSchema;

use super::Part;
use super::lists::List;
use crate::http::auth::Caller;
use crate::http::json::Json;
use crate::problem::ProblemBody;

pub(super) fn part() -> Part {
    Part::default().add(__path_providers, providers).add(__path_invoicers, invoicers)
}

/// A gateway.
#[derive(Debug, Serialize, ToSchema)]
pub struct Provider {
    /// Name in the API.
    name: &'static str,
    /// Name for people.
    title: &'static str,
    /// ISO 3166-1 codes of its markets; empty: everywhere.
    countries: Vec<&'static str>,
    /// ISO 4217 codes it takes.
    currencies: Vec<&'static str>,
    /// Smallest amount, in minor units.
    min_amount: i64,
    /// Largest amount, in minor units.
    max_amount: i64,
    /// An account takes one currency only, named by its `currency`.
    one_currency: bool,
    /// Settings of an account.
    settings: Vec<SettingView>,
    /// What it can do.
    can: Abilities,
    /// How long a checkout can be paid at most, in seconds.
    lifetime_s: i64,
}

/// What a gateway can do beyond starting a checkout.
#[derive(Debug, Serialize, ToSchema)]
pub struct Abilities {
    /// Reports by webhook.
    push: bool,
    /// Answers a status query.
    poll: bool,
    /// Refunds in whole and in part.
    refund: bool,
    /// Closes an open checkout.
    cancel: bool,
    /// Charges a saved instrument.
    saved_instrument: bool,
}

/// An invoicing API.
#[derive(Debug, Serialize, ToSchema)]
pub struct InvoicerView {
    /// Name in the API.
    name: &'static str,
    /// Name for people.
    title: &'static str,
    /// Countries of the sellers it serves.
    countries: Vec<&'static str>,
    /// Settings of an account.
    settings: Vec<SettingView>,
    /// Zone in which its days begin.
    zone: &'static str,
}

/// One setting of an account.
#[derive(Debug, Serialize, ToSchema)]
pub struct SettingView {
    /// Name in the `settings` object.
    name: &'static str,
    /// `text`, `secret`, `url`, `choice`, `flag` or `number`.
    #[serde(rename = "type")]
    kind: &'static str,
    /// The words of a `choice`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    values: Vec<&'static str>,
    /// It must be given.
    required: bool,
    /// Its value when left out.
    default: Option<&'static str>,
    /// What it is and where to find it.
    help: &'static str,
}

/// Lists the gateways with their settings
#[utoipa::path(get, path = "/v1/providers", tag = "provider accounts", operation_id = "list_providers",
    responses((status = 200, body = List<Provider>), (status = "4XX", body = ProblemBody)))]
async fn providers(_: Caller) -> Json<List<Provider>> {
    let data = registry::providers().map(|p| p.facts()).map(|f| Provider {
        name: f.name,
        title: f.title,
        countries: f.countries.to_vec(),
        currencies: f.currencies.to_vec(),
        min_amount: f.limits.0,
        max_amount: f.limits.1,
        one_currency: f.one_currency,
        settings: f.settings.iter().map(setting).collect(),
        can: Abilities {
            push: f.can.push,
            poll: f.can.poll,
            refund: f.can.refund,
            cancel: f.can.cancel,
            saved_instrument: f.can.saved_instrument,
        },
        lifetime_s: f.lifetime_s,
    });
    Json(List { data: data.collect(), next_cursor: None })
}

/// Lists the invoicing APIs with their settings
#[utoipa::path(get, path = "/v1/invoicers", tag = "invoicing accounts", operation_id = "list_invoicers",
    responses((status = 200, body = List<InvoicerView>), (status = "4XX", body = ProblemBody)))]
async fn invoicers(_: Caller) -> Json<List<InvoicerView>> {
    let data = registry::invoicers().map(|i| i.facts()).map(|f| InvoicerView {
        name: f.name,
        title: f.title,
        countries: f.countries.to_vec(),
        settings: f.settings.iter().map(setting).collect(),
        zone: f.zone,
    });
    Json(List { data: data.collect(), next_cursor: None })
}

fn setting(s: &Setting) -> SettingView {
    let (kind, values) = match s.kind {
        SettingKind::Text => ("text", vec![]),
        SettingKind::Secret => ("secret", vec![]),
        SettingKind::Url => ("url", vec![]),
        SettingKind::Choice(words) => ("choice", words.to_vec()),
        SettingKind::Flag => ("flag", vec![]),
        SettingKind::Number => ("number", vec![]),
    };
    SettingView {
        name: s.name,
        kind,
        values,
        required: !s.optional && s.default.is_none(),
        default: s.default,
        help: s.help,
    }
}
