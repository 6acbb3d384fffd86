//! A payer's sets of invoice data. Checked before the payment, because a wrong number would make the invoice fail
//! after the money came (R-5W-13).

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use grosz_providers::invoicer::{Buyer, TaxIdKind};
use grosz_providers::tax_id::{TaxId, TaxIdError, check_postcode};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Part;
use super::lists::{List, ListQuery, list_of_few, page};
use super::views::given;
use crate::clock::rfc3339;
use crate::http::Web;
use crate::http::auth::Caller;
use crate::http::idempotency::Answer;
use crate::http::input::{Fields, Input, Params, Post};
use crate::http::json::Json;
use crate::problem::{Problem, ProblemBody};
use crate::store::{MOST_PROFILES, Profile as Row, Tx};

pub(super) fn part() -> Part {
    Part::default()
        .add(__path_create, create)
        .add(__path_list, list)
        .add(__path_show, show)
        .add(__path_change, change)
        .add(__path_remove, remove)
}

/// One set of a payer's invoice data.
#[derive(Debug, Serialize, ToSchema)]
pub struct Profile {
    /// `prf_…`
    id: String,
    /// Whose.
    payer: String,
    /// Rises with each edit; a payment keeps a snapshot of the version it used.
    version: i64,
    /// Chosen when a payment names none.
    default: bool,
    /// The data.
    #[serde(flatten)]
    body: BuyerView,
    /// Things to look at; the profile is saved all the same.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<Warning>,
    /// RFC 3339.
    created_at: String,
}

/// Invoice data as shown.
#[derive(Debug, Serialize, ToSchema)]
pub struct BuyerView {
    /// Individual or company.
    kind: Kind,
    /// Full name.
    name: String,
    /// The tax number, normalised; `null` for none.
    tax_id: Option<String>,
    /// Kind of the tax number: `pl_nip`, `eu_vat`, `cz_ico`, `ua_edrpou`, `ua_rnokpp`, `ru_inn`, `is_kennitala`,
    /// `other`, `none`.
    tax_id_kind: String,
    /// Street with number.
    street: String,
    /// Postcode.
    postcode: String,
    /// City.
    city: String,
    /// ISO 3166-1 alpha-2.
    country: String,
    /// Address for the invoice.
    email: String,
}

/// Who buys.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
#[schema(as = BuyerKind)]
pub enum Kind {
    /// A private person.
    Individual,
    /// A company or sole trader.
    Company,
}

/// Something to look at.
#[derive(Debug, Serialize, ToSchema)]
pub struct Warning {
    /// `duplicate_tax_id`
    code: &'static str,
    /// For people.
    detail: String,
    /// The profile it is about.
    profile: String,
    /// Its payer.
    payer: String,
}

/// Invoice data.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewBuyer {
    /// Individual or company.
    pub kind: Kind,
    /// Full name, at most 256 characters.
    #[schema(max_length = 256, example = "Firma Testowa sp. z o.o.")]
    pub name: String,
    /// Tax number of a company: NIP, VAT number of a member state, IČO, EDRPOU, INN, kennitala.
    #[schema(example = "5260001246")]
    pub tax_id: Option<String>,
    /// Street with number, at most 128 characters.
    #[schema(max_length = 128, example = "ul. Prosta 1")]
    pub street: String,
    /// Postcode as the country writes it.
    #[schema(example = "00-950")]
    pub postcode: String,
    /// City, at most 64 characters.
    #[schema(max_length = 64, example = "Warszawa")]
    pub city: String,
    /// ISO 3166-1 alpha-2, in capitals.
    #[schema(example = "PL")]
    pub country: String,
    /// Address for the invoice.
    #[schema(example = "faktury@firma.example")]
    pub email: String,
}

/// A new set of invoice data.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewProfile {
    /// Individual or company.
    kind: Kind,
    /// Full name, at most 256 characters.
    #[schema(max_length = 256, example = "Firma Testowa sp. z o.o.")]
    name: String,
    /// Tax number of a company: NIP, VAT number of a member state, IČO, EDRPOU, INN, kennitala.
    #[schema(example = "5260001246")]
    tax_id: Option<String>,
    /// Street with number, at most 128 characters.
    #[schema(max_length = 128, example = "ul. Prosta 1")]
    street: String,
    /// Postcode as the country writes it.
    #[schema(example = "00-950")]
    postcode: String,
    /// City, at most 64 characters.
    #[schema(max_length = 64, example = "Warszawa")]
    city: String,
    /// ISO 3166-1 alpha-2, in capitals.
    #[schema(example = "PL")]
    country: String,
    /// Address for the invoice. An individual must have one; a company's is the payer's own when left out.
    email: Option<String>,
    /// Chosen when a payment names none. The first profile of a payer is the default unless it says no.
    default: Option<bool>,
}

/// Changes to invoice data; what is left out stays. Payments keep the snapshot they were made with.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ProfileChange {
    /// Individual or company.
    kind: Option<Kind>,
    /// Full name.
    name: Option<String>,
    /// Tax number; `null` takes it away.
    #[serde(default, deserialize_with = "given")]
    #[schema(value_type = Option<String>)]
    tax_id: Option<Option<String>>,
    /// Street with number.
    street: Option<String>,
    /// Postcode.
    postcode: Option<String>,
    /// City.
    city: Option<String>,
    /// ISO 3166-1 alpha-2.
    country: Option<String>,
    /// Address for the invoice.
    email: Option<String>,
    /// Chosen when a payment names none.
    default: Option<bool>,
}

/// Adds invoice data to a payer
#[utoipa::path(post, path = "/v1/payers/{id}/profiles", tag = "payers", operation_id = "create_profile",
    params(("id" = String, Path, description = "The payer")), request_body = NewProfile,
    responses((status = 201, body = Profile), (status = "4XX", body = ProblemBody)))]
async fn create(
    State(web): State<Web>,
    caller: Caller,
    Path(payer): Path<String>,
    post: Post<NewProfile>,
) -> Result<Response, Problem> {
    let (app, new) = (&*web.app, &post.input);
    if new.kind == Kind::Individual && new.email.is_none() {
        return Err(Problem::field("/email", "is required for an individual"));
    }
    let mut turn = post.mark.begin(&web.app).await?;
    let tx = &mut turn.tx;
    let payer = tx.payer_for_update(&caller.merchant, &payer).await?.ok_or_else(Problem::not_found)?;
    let body = check_buyer(&NewBuyer {
        kind: new.kind,
        name: new.name.clone(),
        tax_id: new.tax_id.clone(),
        street: new.street.clone(),
        postcode: new.postcode.clone(),
        city: new.city.clone(),
        country: new.country.clone(),
        email: new.email.clone().unwrap_or(payer.email),
    })?;
    let all = tx.profiles(&caller.merchant, &payer.id).await?;
    if all.len() >= MOST_PROFILES {
        let detail = format!("a payer has at most {MOST_PROFILES} sets of invoice data; delete one first");
        return Err(Problem::conflict("too_many_profiles", detail));
    }
    let row = Row {
        merchant_id: caller.merchant.clone(),
        id: app.ids.make("prf"),
        payer_id: payer.id,
        version: 1,
        body,
        is_default: new.default.unwrap_or(all.is_empty()),
        created_at: app.now(),
    };
    let warnings = warnings(tx, &row).await?;
    tx.add_profile(&row).await?;
    turn.end(&web.app, Answer::created(&view(row, warnings))).await
}

/// Lists a payer's invoice data
#[utoipa::path(get, path = "/v1/payers/{id}/profiles", tag = "payers", operation_id = "list_profiles",
    params(("id" = String, Path, description = "The payer"), ListQuery),
    responses((status = 200, body = List<Profile>), (status = "4XX", body = ProblemBody)))]
async fn list(
    State(web): State<Web>,
    caller: Caller,
    Path(payer): Path<String>,
    Params(query): Params<ListQuery>,
) -> Result<Json<List<Profile>>, Problem> {
    let page = page("prf", query.limit, query.cursor.as_deref())?;
    let mut tx = web.app.store.read().await?;
    tx.payer(&caller.merchant, &payer).await?.ok_or_else(Problem::not_found)?;
    let rows = tx.profiles(&caller.merchant, &payer).await?;
    Ok(Json(list_of_few(rows, &page, |p| &p.id, |p| view(p, vec![]))))
}

/// Shows one set of invoice data
#[utoipa::path(get, path = "/v1/payers/{id}/profiles/{profile}", tag = "payers", operation_id = "get_profile",
    params(("id" = String, Path, description = "The payer"), ("profile" = String, Path)),
    responses((status = 200, body = Profile), (status = "4XX", body = ProblemBody)))]
async fn show(
    State(web): State<Web>,
    caller: Caller,
    Path((payer, id)): Path<(String, String)>,
) -> Result<Json<Profile>, Problem> {
    let mut tx = web.app.store.read().await?;
    Ok(Json(view(find(&mut tx, &caller, &payer, &id).await?, vec![])))
}

/// Changes invoice data, under a new version
#[utoipa::path(patch, path = "/v1/payers/{id}/profiles/{profile}", tag = "payers", operation_id = "change_profile",
    params(("id" = String, Path, description = "The payer"), ("profile" = String, Path)), request_body = ProfileChange,
    responses((status = 200, body = Profile), (status = "4XX", body = ProblemBody)))]
async fn change(
    State(web): State<Web>,
    caller: Caller,
    Path((payer, id)): Path<(String, String)>,
    Input(change): Input<ProfileChange>,
) -> Result<Json<Profile>, Problem> {
    let mut tx = web.app.store.begin().await?;
    tx.payer_for_update(&caller.merchant, &payer).await?.ok_or_else(Problem::not_found)?;
    let mut row = find(&mut tx, &caller, &payer, &id).await?;
    let old = row.body.clone();
    let present = Some(old.tax_id).filter(|t| !t.is_empty());
    row.body = check_buyer(&NewBuyer {
        kind: change.kind.unwrap_or(if old.is_company { Kind::Company } else { Kind::Individual }),
        name: change.name.unwrap_or(old.name),
        tax_id: change.tax_id.unwrap_or(present),
        street: change.street.unwrap_or(old.street),
        postcode: change.postcode.unwrap_or(old.postcode),
        city: change.city.unwrap_or(old.city),
        country: change.country.unwrap_or(old.country),
        email: change.email.unwrap_or(old.email),
    })?;
    row.is_default = change.default.unwrap_or(row.is_default);
    row.version += 1;
    let warnings = warnings(&mut tx, &row).await?;
    tx.update_profile(&row).await?;
    tx.commit().await?;
    Ok(Json(view(row, warnings)))
}

/// Removes invoice data
///
/// Payments keep the snapshot they were made with.
#[utoipa::path(delete, path = "/v1/payers/{id}/profiles/{profile}", tag = "payers", operation_id = "delete_profile",
    params(("id" = String, Path, description = "The payer"), ("profile" = String, Path)),
    responses((status = 204), (status = "4XX", body = ProblemBody)))]
async fn remove(
    State(web): State<Web>,
    caller: Caller,
    Path((payer, id)): Path<(String, String)>,
) -> Result<StatusCode, Problem> {
    let mut tx = web.app.store.begin().await?;
    tx.payer_for_update(&caller.merchant, &payer).await?.ok_or_else(Problem::not_found)?;
    let row = find(&mut tx, &caller, &payer, &id).await?;
    tx.delete_profile(&row, web.app.now()).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn find(tx: &mut Tx, caller: &Caller, payer: &str, id: &str) -> Result<Row, Problem> {
    let found = tx.profile(&caller.merchant, id).await?.filter(|p| p.payer_id == payer);
    found.ok_or_else(Problem::not_found)
}

/// Checks invoice data and normalises its numbers.
///
/// # Errors
/// The fields that are wrong.
pub(super) fn check_buyer(new: &NewBuyer) -> Result<Buyer, Problem> {
    let mut fields = Fields::default();
    let name = fields.free_text("/name", &new.name, 256);
    let street = fields.free_text("/street", &new.street, 128);
    let city = fields.free_text("/city", &new.city, 64);
    let email = fields.public_email("/email", &new.email);
    let country = new.country.trim();
    let postcode = match check_postcode(country, &new.postcode) {
        Ok(postcode) => postcode,
        Err(e) => {
            fields.refuse("/postcode", format!("is refused: {e}"));
            String::new()
        }
    };
    let is_company = new.kind == Kind::Company;
    let number = new.tax_id.as_deref().unwrap_or_default();
    let (tax_id_kind, tax_id) = match TaxId::parse(country, is_company, number) {
        Ok(read) => read,
        Err(e) => {
            let pointer = if e == TaxIdError::Country { "/country" } else { "/tax_id" };
            fields.refuse(pointer, format!("is refused: {e}"));
            (TaxIdKind::None, String::new())
        }
    };
    fields.finish()?;
    Ok(Buyer { is_company, name, tax_id_kind, tax_id, street, postcode, city, country: country.to_owned(), email })
}

/// The same number under another profile is worth a look, no more (R-OKI-12).
async fn warnings(tx: &mut Tx, row: &Row) -> Result<Vec<Warning>, Problem> {
    if row.body.tax_id.is_empty() {
        return Ok(vec![]);
    }
    let same = tx.profiles_by_tax_id(&row.merchant_id, &row.body.tax_id).await?;
    let warn = |other: Row| Warning {
        code: "duplicate_tax_id",
        detail: format!("profile {} has the same tax number", other.id),
        profile: other.id,
        payer: other.payer_id,
    };
    Ok(same.into_iter().filter(|p| p.id != row.id).map(warn).collect())
}

/// Shows invoice data.
pub(super) fn show_buyer(b: Buyer) -> BuyerView {
    BuyerView {
        kind: if b.is_company { Kind::Company } else { Kind::Individual },
        name: b.name,
        tax_id: Some(b.tax_id).filter(|t| !t.is_empty()),
        tax_id_kind: serde_json::to_value(b.tax_id_kind)
            .ok()
            .and_then(|v| v.as_str().map(str::to_owned))
            .unwrap_or_default(),
        street: b.street,
        postcode: b.postcode,
        city: b.city,
        country: b.country,
        email: b.email,
    }
}

fn view(row: Row, warnings: Vec<Warning>) -> Profile {
    Profile {
        id: row.id,
        payer: row.payer_id,
        version: row.version,
        default: row.is_default,
        body: show_buyer(row.body),
        warnings,
        created_at: rfc3339(row.created_at),
    }
}
