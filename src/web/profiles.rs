//! USTAWIENIA » DANE DO FAKTURY: a payer's sets of invoice data (R-5W-12). Payments and invoices keep their snapshots.

use askama::Template;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, Uri};
use axum::response::Response;

use super::buyer::{BuyerForm, summary};
use super::guard::{Fields, check_form, form_token};
use super::look::{Forms, Look, page, see_other};
use super::portal::{Portal, portal_of};
use super::stop::{Path, Stop};
use crate::http::Web;
use crate::store::{MOST_PROFILES, Profile, Tx};

struct Entry {
    name: String,
    summary: String,
    email: String,
    is_default: bool,
    address: String,
    default_address: String,
    delete_address: String,
}

#[derive(Template)]
#[template(path = "profiles.html")]
struct ProfilesPage<'a> {
    look: &'a Look,
    entries: Vec<Entry>,
    new_address: String,
    csrf: String,
}

#[derive(Template)]
#[template(path = "profile.html")]
struct ProfilePage<'a> {
    look: &'a Look,
    title: &'a str,
    form: &'a BuyerForm,
    is_default: bool,
    action: String,
    back: String,
    csrf: String,
}

/// `GET /portal/{token}/profiles`
pub(crate) async fn list(State(web): State<Web>, Path(token): Path<String>, uri: Uri) -> Result<Response, Stop> {
    let mut tx = web.app.store.read().await?;
    let portal = portal_of(&mut tx, &token).await?;
    let look = portal.look(&web, &uri);
    let entry = |p: Profile| {
        let address = format!("/portal/{token}/profiles/{}", p.id);
        Entry {
            summary: summary(&p.body),
            email: p.body.email,
            name: p.body.name,
            is_default: p.is_default,
            default_address: look.at(&format!("{address}/default")),
            delete_address: look.at(&format!("{address}/delete")),
            address: look.at(&address),
        }
    };
    let entries = tx.profiles(&portal.merchant.id, &portal.payer.id).await?.into_iter().map(entry).collect();
    let new_address = look.at(&format!("/portal/{token}/profiles/new"));
    page(
        &web,
        StatusCode::OK,
        Forms::Here,
        &ProfilesPage { look: &look, entries, new_address, csrf: form_token(&token) },
    )
}

/// `GET /portal/{token}/profiles/new`
pub(crate) async fn blank(State(web): State<Web>, Path(token): Path<String>, uri: Uri) -> Result<Response, Stop> {
    let mut tx = web.app.store.read().await?;
    let portal = portal_of(&mut tx, &token).await?;
    let look = portal.look(&web, &uri);
    let is_first = tx.profiles(&portal.merchant.id, &portal.payer.id).await?.is_empty();
    let form = BuyerForm::blank(&portal.payer.name, &portal.payer.email, look.language);
    form_page(&web, &look, &token, None, &form, is_first)
}

/// `GET /portal/{token}/profiles/{id}`
pub(crate) async fn edit(
    State(web): State<Web>,
    Path((token, id)): Path<(String, String)>,
    uri: Uri,
) -> Result<Response, Stop> {
    let mut tx = web.app.store.read().await?;
    let portal = portal_of(&mut tx, &token).await?;
    let profile = profile_of(&mut tx, &portal, &id).await?;
    let form = BuyerForm::of(&profile.body);
    form_page(&web, &portal.look(&web, &uri), &token, Some(&id), &form, profile.is_default)
}

fn form_page(
    web: &Web,
    look: &Look,
    token: &str,
    id: Option<&str>,
    form: &BuyerForm,
    is_default: bool,
) -> Result<Response, Stop> {
    let template = ProfilePage {
        look,
        title: if id.is_some() { look.t.edit } else { look.t.add_data },
        form,
        is_default,
        action: look.at(&format!("/portal/{token}/profiles/{}", id.unwrap_or("new"))),
        back: look.at(&format!("/portal/{token}/profiles")),
        csrf: form_token(token),
    };
    let status = if form.errors.is_empty() { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY };
    page(web, status, Forms::Here, &template)
}

/// A profile of this payer; another's is not found.
async fn profile_of(tx: &mut Tx, portal: &Portal, id: &str) -> Result<Profile, Stop> {
    let profile = tx.profile(&portal.merchant.id, id).await?;
    profile.filter(|p| p.payer_id == portal.payer.id).ok_or(Stop::NotFound)
}

/// A transaction in which nobody else changes the payer's invoice data.
async fn hold_portal(web: &Web, token: &str) -> Result<(Tx, Portal), Stop> {
    let mut tx = web.app.store.begin().await?;
    let portal = portal_of(&mut tx, token).await?;
    tx.payer_for_update(&portal.merchant.id, &portal.payer.id).await?;
    Ok((tx, portal))
}

/// `POST /portal/{token}/profiles/new`
pub(crate) async fn add(
    State(web): State<Web>,
    Path(token): Path<String>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Stop> {
    let fields = Fields::read(&body);
    let (mut tx, portal) = hold_portal(&web, &token).await?;
    check_form(&web, &headers, &fields, &token)?;
    let look = portal.look(&web, &uri);
    let mut form = BuyerForm::posted(&fields);
    let Some(buyer) = form.check(look.t) else {
        tx.rollback().await?;
        return form_page(&web, &look, &token, None, &form, fields.ticked("default"));
    };
    let all = tx.profiles(&portal.merchant.id, &portal.payer.id).await?;
    // The same data again are the set that is there (R-OKI-12).
    if all.len() < MOST_PROFILES && !all.iter().any(|p| p.body == buyer) {
        let profile = Profile {
            merchant_id: portal.merchant.id.clone(),
            id: web.app.ids.make("prf"),
            payer_id: portal.payer.id.clone(),
            version: 1,
            body: buyer,
            is_default: all.is_empty() || fields.ticked("default"),
            created_at: web.app.now(),
        };
        tx.add_profile(&profile).await?;
    }
    tx.commit().await?;
    see_other(&look.at(&format!("/portal/{token}/profiles")))
}

/// `POST /portal/{token}/profiles/{id}`
pub(crate) async fn save(
    State(web): State<Web>,
    Path((token, id)): Path<(String, String)>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Stop> {
    let fields = Fields::read(&body);
    let (mut tx, portal) = hold_portal(&web, &token).await?;
    let mut profile = profile_of(&mut tx, &portal, &id).await?;
    check_form(&web, &headers, &fields, &token)?;
    let look = portal.look(&web, &uri);
    let mut form = BuyerForm::posted(&fields);
    let Some(buyer) = form.check(look.t) else {
        tx.rollback().await?;
        return form_page(&web, &look, &token, Some(&id), &form, profile.is_default);
    };
    profile.is_default |= fields.ticked("default");
    profile.version += 1;
    profile.body = buyer;
    tx.update_profile(&profile).await?;
    tx.commit().await?;
    see_other(&look.at(&format!("/portal/{token}/profiles")))
}

/// `POST /portal/{token}/profiles/{id}/default`
pub(crate) async fn set_default(
    State(web): State<Web>,
    Path((token, id)): Path<(String, String)>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Stop> {
    let (mut tx, portal) = hold_portal(&web, &token).await?;
    let mut profile = profile_of(&mut tx, &portal, &id).await?;
    check_form(&web, &headers, &Fields::read(&body), &token)?;
    profile.is_default = true;
    tx.update_profile(&profile).await?;
    tx.commit().await?;
    see_other(&portal.look(&web, &uri).at(&format!("/portal/{token}/profiles")))
}

/// `POST /portal/{token}/profiles/{id}/delete`
pub(crate) async fn delete(
    State(web): State<Web>,
    Path((token, id)): Path<(String, String)>,
    uri: Uri,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Response, Stop> {
    let (mut tx, portal) = hold_portal(&web, &token).await?;
    let profile = profile_of(&mut tx, &portal, &id).await?;
    check_form(&web, &headers, &Fields::read(&body), &token)?;
    tx.delete_profile(&profile, web.app.now()).await?;
    tx.commit().await?;
    see_other(&portal.look(&web, &uri).at(&format!("/portal/{token}/profiles")))
}
