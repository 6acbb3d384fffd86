//! A merchant's accounts at gateways.

use axum::extract::{Path, State};
use grosz_providers::facts::{Setting, SettingKind};
use grosz_providers::{Settings, registry};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;
use utoipa::ToSchema;

use super::Part;
use super::lists::{List, ListQuery, list_of_few, page};
use super::views::given;
use crate::app::App;
use crate::flows::add_account::{add_provider_account, check_provider};
use crate::http::Web;
use crate::http::auth::Caller;
use crate::http::idempotency::Answer;
use crate::http::input::{Fields, Input, Params, Post};
use crate::http::json::Json;
use crate::problem::{Problem, ProblemBody};
use crate::store::{ProviderAccount as Row, Tx};

pub(super) fn part() -> Part {
    Part::default().add(__path_create, create).add(__path_list, list).add(__path_show, show).add(__path_change, change)
}

/// A merchant's account at a gateway.
#[derive(Debug, Serialize, ToSchema)]
pub struct ProviderAccount {
    /// `acc_…`
    id: String,
    /// Which gateway.
    provider: String,
    /// Moves real money.
    live: bool,
    /// Off: no new checkouts; running ones finish, their notifications are accepted.
    enabled: bool,
    /// The one currency, where the account takes only one.
    currency: Option<String>,
    /// Settings; secrets are shown as `"***"`.
    settings: BTreeMap<String, String>,
    /// Where the gateway reports: enter it in the gateway's panel.
    webhook_url: String,
    /// Where the gateway sends payers back: it is told at each checkout; enter it where the panel asks for one, with
    /// the part in braces left out.
    return_url: String,
    /// RFC 3339.
    created_at: String,
}

/// A new account at a gateway.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewProviderAccount {
    /// Name of the gateway; `GET /v1/providers` lists them with their settings.
    provider: String,
    /// Settings, as `GET /v1/providers` describes them.
    #[serde(default)]
    #[schema(value_type = Object, example = json!({"service_id": "123456", "shared_key": "…", "gateway_url": "https://pay.example"}))]
    settings: Map<String, Value>,
    /// The one currency, where an account of this gateway takes only one; the gateway's first when left out.
    #[schema(example = "PLN")]
    currency: Option<String>,
    /// Must be the mode of the API key, which is what it is when left out.
    live: Option<bool>,
    /// Ready to be used at once; `true` when left out.
    enabled: Option<bool>,
}

/// Changes to an account; what is left out stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProviderAccountChange {
    /// Switch.
    enabled: Option<bool>,
    /// Settings to change; others stay, and so does a secret given as `"***"`. `null` brings a default back. Where an
    /// address changes, every secret must be given anew: stored ones are not told elsewhere.
    #[schema(value_type = Option<Object>)]
    settings: Option<Map<String, Value>>,
    /// The one currency.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    currency: Option<Option<String>>,
}

/// Adds an account at a gateway
#[utoipa::path(post, path = "/v1/provider-accounts", tag = "provider accounts", operation_id = "create_provider_account",
    request_body = NewProviderAccount, responses((status = 201, body = ProviderAccount), (status = "4XX", body = ProblemBody)))]
async fn create(
    State(web): State<Web>,
    caller: Caller,
    post: Post<NewProviderAccount>,
) -> Result<axum::response::Response, Problem> {
    let (app, new) = (&*web.app, &post.input);
    check_mode(&caller, new.live)?;
    let mut turn = post.mark.begin(app).await?;
    let currency = new.currency.as_deref();
    let merchant = &caller.merchant;
    let mut row =
        add_provider_account(app, &mut turn.tx, merchant, &new.provider, &new.settings, currency, caller.live).await?;
    if new.enabled == Some(false) {
        row.enabled = false;
        turn.tx.update_provider_account(&row).await?;
    }
    turn.end(app, Answer::created(&view(app, row))).await
}

/// Lists the accounts at gateways
#[utoipa::path(get, path = "/v1/provider-accounts", tag = "provider accounts", operation_id = "list_provider_accounts",
    params(ListQuery), responses((status = 200, body = List<ProviderAccount>), (status = "4XX", body = ProblemBody)))]
async fn list(
    State(web): State<Web>,
    caller: Caller,
    Params(query): Params<ListQuery>,
) -> Result<Json<List<ProviderAccount>>, Problem> {
    let page = page("acc", query.limit, query.cursor.as_deref())?;
    let mut rows = web.app.store.read().await?.provider_accounts(&caller.merchant).await?;
    rows.retain(|a| a.live == caller.live);
    Ok(Json(list_of_few(rows, &page, |a| &a.id, |a| view(&web.app, a))))
}

/// Shows an account at a gateway
#[utoipa::path(get, path = "/v1/provider-accounts/{id}", tag = "provider accounts", operation_id = "get_provider_account",
    params(("id" = String, Path)), responses((status = 200, body = ProviderAccount), (status = "4XX", body = ProblemBody)))]
async fn show(
    State(web): State<Web>,
    caller: Caller,
    Path(id): Path<String>,
) -> Result<Json<ProviderAccount>, Problem> {
    let mut tx = web.app.store.read().await?;
    let found = tx.provider_account(&caller.merchant, &id).await?.filter(|a| a.live == caller.live);
    Ok(Json(view(&web.app, found.ok_or_else(Problem::not_found)?)))
}

/// Changes an account at a gateway
///
/// Switching it off leaves running payments to finish and their notifications accepted.
#[utoipa::path(patch, path = "/v1/provider-accounts/{id}", tag = "provider accounts", operation_id = "change_provider_account",
    params(("id" = String, Path)), request_body = ProviderAccountChange,
    responses((status = 200, body = ProviderAccount), (status = "4XX", body = ProblemBody)))]
async fn change(
    State(web): State<Web>,
    caller: Caller,
    Path(id): Path<String>,
    Input(change): Input<ProviderAccountChange>,
) -> Result<Json<ProviderAccount>, Problem> {
    let app = &*web.app;
    let mut tx = app.store.begin().await?;
    let found = tx.provider_account_for_update(&caller.merchant, &id).await?.filter(|a| a.live == caller.live);
    let mut row = found.ok_or_else(Problem::not_found)?;
    row.enabled = change.enabled.unwrap_or(row.enabled);
    if change.settings.is_some() || change.currency.is_some() {
        let wanted = change.currency.unwrap_or_else(|| row.currency.clone());
        let (present, changes) = (app.provider_settings(&row)?, change.settings.unwrap_or_default());
        let merged = merge(&present, &changes);
        let (settings, currency) = check_provider(app, &row.provider, &merged, wanted.as_deref(), row.live)?;
        let facts = registry::provider(&row.provider).map_or(&[][..], |p| p.facts().settings);
        check_secrets_stay(facts, &present, &settings, &changes)?;
        check_stays_itself(&mut tx, &row, &present, &settings).await?;
        row.currency = currency;
        row.sealed = app.seal_settings(&row.id, &settings)?;
        row.shown = settings.shown(facts);
    }
    tx.update_provider_account(&row).await?;
    tx.commit().await?;
    web.accounts.forget(&row.id);
    Ok(Json(view(app, row)))
}

/// The mode of a new account is the mode of the key.
pub(super) fn check_mode(caller: &Caller, wanted: Option<bool>) -> Result<(), Problem> {
    match wanted {
        Some(live) if live != caller.live => {
            let why = format!("must be {}, the mode of the API key (sk_test_…, sk_live_…)", caller.live);
            Err(Problem::field("/live", why))
        }
        Some(_) | None => Ok(()),
    }
}

/// What stands for a secret where settings are shown.
const HIDDEN: &str = "***";

/// The settings as they are, with the changes laid over them.
pub(super) fn merge(present: &Settings, changes: &Map<String, Value>) -> Map<String, Value> {
    let kept = present.expose().iter().map(|(name, value)| (name.clone(), Value::String(value.clone())));
    let mut merged: Map<String, Value> = kept.collect();
    for (name, value) in changes {
        let unchanged = value == HIDDEN && merged.contains_key(name);
        if !unchanged {
            merged.insert(name.clone(), value.clone());
        }
    }
    merged
}

/// Secrets can be written and never read. So an account that is to call another address than before needs its secrets
/// anew: whoever may change settings would otherwise have the stored ones sent to an address of his own.
///
/// # Errors
/// An address changes, and a secret that would be told there is not among the changes; each is named.
pub(super) fn check_secrets_stay(
    facts: &[Setting],
    present: &Settings,
    settings: &Settings,
    changes: &Map<String, Value>,
) -> Result<(), Problem> {
    let mut fields = Fields::default();
    let moves = |s: &&Setting| s.kind == SettingKind::Url && present.get(s.name) != settings.get(s.name);
    if let Some(moved) = facts.iter().find(moves) {
        let is_given = |s: &Setting| changes.get(s.name).is_some_and(|value| value != HIDDEN);
        for secret in facts.iter().filter(|s| s.kind == SettingKind::Secret) {
            if settings.get(secret.name).is_some() && !is_given(secret) {
                let why = format!("must be given anew, because {} changes", moved.name);
                fields.refuse(&format!("/settings/{}", secret.name), why);
            }
        }
    }
    fields.finish()
}

/// An account at which something was to be paid stays that one: with another name at the gateway, news of its payments
/// would be taken for a stranger's, and the gateway would know nothing of them when it is asked.
async fn check_stays_itself(tx: &mut Tx, row: &Row, present: &Settings, settings: &Settings) -> Result<(), Problem> {
    let Some(name) = registry::provider(&row.provider).and_then(|p| p.facts().account_setting) else { return Ok(()) };
    if present.get(name) == settings.get(name) || !tx.has_attempts(&row.merchant_id, &row.id).await? {
        return Ok(());
    }
    let detail = format!(
        "{name} says which account this is, and payments were begun at it; add the other one as an account of its own \
         and switch this one off"
    );
    Err(Problem::conflict("account_in_use", detail))
}

fn view(app: &App, row: Row) -> ProviderAccount {
    ProviderAccount {
        webhook_url: app.webhook_url(&row),
        return_url: format!("{}/return/{{attempt}}", app.config.public_url),
        id: row.id,
        provider: row.provider,
        live: row.live,
        enabled: row.enabled,
        currency: row.currency,
        settings: row.shown,
        created_at: crate::clock::rfc3339(row.created_at),
    }
}
