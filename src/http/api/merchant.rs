//! The merchant that the key belongs to.

use axum::extract::State;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Part;
use super::views::given;
use crate::http::Web;
use crate::http::auth::Caller;
use crate::http::input::{Fields, Input};
use crate::http::json::Json;
use crate::problem::{Problem, ProblemBody};

pub(super) fn part() -> Part {
    Part::default().add(__path_show, show).add(__path_change, change)
}

/// A merchant.
#[derive(Debug, Serialize, ToSchema)]
pub struct Merchant {
    /// `mer_…`
    id: String,
    /// Name on pages and mails.
    name: String,
    /// Language of notices without a better one.
    language: String,
    /// Where notices go when a case has no expert.
    fallback_email: Option<String>,
    /// Origins that return addresses may have, such as `https://shop.example`; empty: any.
    return_origins: Vec<String>,
    /// An expert's attachment is shown as a download in the payer's list.
    show_attachment: bool,
    /// The mode of the key that asks: live or test.
    live: bool,
    /// RFC 3339.
    created_at: String,
}

/// Changes to a merchant; what is left out stays.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct MerchantChange {
    /// Language of notices without a better one.
    #[schema(example = "pl")]
    language: Option<String>,
    /// Where notices go when a case has no expert; `null` for nowhere.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    fallback_email: Option<Option<String>>,
    /// Origins that return addresses may have; empty: any.
    #[schema(max_items = 50)]
    return_origins: Option<Vec<String>>,
    /// Show an expert's attachment as a download in the payer's list.
    show_attachment: Option<bool>,
}

/// Shows the merchant that the key belongs to
#[utoipa::path(get, path = "/v1/merchant", tag = "merchant", operation_id = "get_merchant",
    responses((status = 200, body = Merchant), (status = "4XX", body = ProblemBody)))]
async fn show(State(web): State<Web>, caller: Caller) -> Result<Json<Merchant>, Problem> {
    let found = web.app.store.read().await?.merchant(&caller.merchant).await?.ok_or_else(Problem::not_found)?;
    Ok(Json(view(found, &caller)))
}

/// Changes the merchant that the key belongs to
#[utoipa::path(patch, path = "/v1/merchant", tag = "merchant", operation_id = "change_merchant",
    request_body = MerchantChange, responses((status = 200, body = Merchant), (status = "4XX", body = ProblemBody)))]
async fn change(
    State(web): State<Web>,
    caller: Caller,
    Input(change): Input<MerchantChange>,
) -> Result<Json<Merchant>, Problem> {
    let mut fields = Fields::default();
    let language = change.language.as_deref().map(|l| fields.language("/language", l));
    let email = change.fallback_email.map(|e| e.map(|e| fields.email("/fallback_email", &e)));
    let origins = change.return_origins.map(|all| check_origins(&mut fields, &all));
    fields.finish()?;
    let mut tx = web.app.store.begin().await?;
    let mut m = tx.merchant_for_update(&caller.merchant).await?.ok_or_else(Problem::not_found)?;
    m.language = language.unwrap_or(m.language);
    m.fallback_email = email.unwrap_or(m.fallback_email);
    m.return_origins = origins.unwrap_or(m.return_origins);
    m.show_attachment = change.show_attachment.unwrap_or(m.show_attachment);
    tx.update_merchant(&m).await?;
    tx.commit().await?;
    Ok(Json(view(m, &caller)))
}

/// Origins are compared whole, so each is written as a browser writes it.
fn check_origins(fields: &mut Fields, all: &[String]) -> Vec<String> {
    if all.len() > 50 {
        fields.refuse("/return_origins", "must hold at most 50 origins");
    }
    let mut checked = vec![];
    for (n, text) in all.iter().take(50).enumerate() {
        match check_origin(text) {
            Ok(()) => checked.push(text.clone()),
            Err(why) => fields.refuse(&format!("/return_origins/{n}"), why),
        }
    }
    checked
}

/// Checks one origin.
///
/// # Errors
/// The end of a sentence that begins with its name.
pub fn check_origin(text: &str) -> Result<(), String> {
    let origin = url::Url::parse(text).ok().filter(|u| matches!(u.scheme(), "https" | "http")).map(|u| u.origin());
    match origin.map(|o| o.ascii_serialization()) {
        Some(origin) if origin == *text => Ok(()),
        Some(origin) => Err(format!("must be written {origin}")),
        None => Err("must be an origin such as https://shop.example".into()),
    }
}

fn view(m: crate::store::Merchant, caller: &Caller) -> Merchant {
    Merchant {
        id: m.id,
        name: m.name,
        language: m.language,
        fallback_email: m.fallback_email,
        return_origins: m.return_origins,
        show_attachment: m.show_attachment,
        live: caller.live,
        created_at: crate::clock::rfc3339(m.created_at),
    }
}
