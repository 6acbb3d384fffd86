//! The buyer's card. An invoice prints the address that the card has when it is issued, so the card comes first.
//!
//! A second card for the same buyer is untidy; a stranger's card on an invoice is harmful. So a card is taken only when
//! number and name agree, and every write here may be repeated.

use serde_json::{Value, json};

use super::compare::{same_number, same_words};
use super::envelope::{Envelope, field, id_of};
use super::status::{Call, repeatable};
use super::{get, plain_id, post};
use crate::gateway::Cx;
use crate::invoicer::{Buyer, FailureClass, InvoiceFailure, TaxIdKind};

/// Members of a card that must agree with the order.
const COMPARED: &[&str] = &["name", "tax_id_type", "street", "zip", "city", "country", "email"];

/// Takes the known card, or one with the same number and name, or makes one; brings it up to date.
pub(super) async fn upsert(cx: &Cx<'_>, buyer: &Buyer, known: Option<&str>) -> Result<String, InvoiceFailure> {
    let found = match known {
        Some(id) => by_id(cx, id).await?,
        None => None,
    };
    let found = match found {
        Some(card) => Some(card),
        None => by_number(cx, buyer).await?,
    };
    match found {
        Some((id, card)) if agrees(&card, buyer) => Ok(id),
        Some((id, _)) => edit(cx, &id, buyer).await.map(|()| id),
        None => add(cx, buyer).await,
    }
}

async fn by_id(cx: &Cx<'_>, id: &str) -> Result<Option<(String, Value)>, InvoiceFailure> {
    match get(cx, &format!("contractors/get/{}", plain_id(id)?)).await {
        Ok(envelope) => Ok(cards(&envelope).find(|(found, _)| found == id)),
        // Deleted by hand since, or it cannot be read just now: another card is untidy, an invoice that waits is worse.
        // What is really wrong (keys, the whole API) the next call says too.
        Err(_) => Ok(None),
    }
}

/// The newest card with this number and name. The filter may have been ignored there, so both are compared here.
async fn by_number(cx: &Cx<'_>, buyer: &Buyer) -> Result<Option<(String, Value)>, InvoiceFailure> {
    let (_, number) = identity(buyer);
    if number.is_empty() {
        return Ok(None);
    }
    let condition = json!({"condition": {"field": "Contractor.nip", "operator": "eq", "value": number}});
    let parameters = json!({"limit": "20", "page": "1", "conditions": {"0": condition}});
    let body = json!({"contractors": {"parameters": parameters}});
    let envelope = post(cx, Call::Read, "contractors/find", &body).await?;
    let ours = |card: &Value| {
        let text = |name: &str| field(card, name).unwrap_or_default();
        same_number(&text("nip"), number) && same_words(&text("name"), &buyer.name)
    };
    let newest = cards(&envelope).filter(|(_, card)| ours(card)).max_by_key(|(id, _)| (id.len(), id.clone()));
    Ok(newest)
}

async fn add(cx: &Cx<'_>, buyer: &Buyer) -> Result<String, InvoiceFailure> {
    let mut card = written(buyer);
    if let Some(members) = card.as_object_mut() {
        members.insert("altname".into(), buyer.name.clone().into());
        members.insert("jst".into(), "0".into());
        members.insert("vat_group".into(), "0".into());
        // The hub's invoices are paid already.
        members.insert("remind".into(), "0".into());
    }
    let body = json!({"contractors": {"0": {"contractor": card}}});
    let envelope = post(cx, Call::Write, "contractors/add", &body).await.map_err(repeatable)?;
    cards(&envelope).next().map(|(id, _)| id).ok_or_else(|| {
        InvoiceFailure::new(FailureClass::Retryable, "OK", "wFirma said OK and named no card of the buyer")
    })
}

async fn edit(cx: &Cx<'_>, id: &str, buyer: &Buyer) -> Result<(), InvoiceFailure> {
    let body = json!({"contractors": {"0": {"contractor": written(buyer)}}});
    let path = format!("contractors/edit/{}", plain_id(id)?);
    post(cx, Call::Write, &path, &body).await.map(drop).map_err(repeatable)
}

fn written(buyer: &Buyer) -> Value {
    let (kind, number) = identity(buyer);
    json!({
        "name": buyer.name,
        "tax_id_type": kind,
        "nip": number,
        "street": buyer.street,
        "zip": buyer.postcode,
        "city": buyer.city,
        "country": buyer.country,
        "email": buyer.email,
        "buyer": "1",
    })
}

/// How the number reaches KSeF goes by its type: `nip` as a NIP, `custom` with a prefix as an EU VAT number, `custom`
/// without as a foreign one, `none` as a buyer without a number. A private person's number is not handed on.
fn identity(buyer: &Buyer) -> (&'static str, &str) {
    match buyer.tax_id_kind {
        _ if !buyer.is_company => ("none", ""),
        TaxIdKind::None => ("none", ""),
        TaxIdKind::PlNip => ("nip", &buyer.tax_id),
        TaxIdKind::EuVat
        | TaxIdKind::CzIco
        | TaxIdKind::UaEdrpou
        | TaxIdKind::UaRnokpp
        | TaxIdKind::RuInn
        | TaxIdKind::IsKennitala
        | TaxIdKind::Other => ("custom", &buyer.tax_id),
    }
}

fn agrees(card: &Value, buyer: &Buyer) -> bool {
    let wanted = written(buyer);
    let same = |name: &&str| field(card, name) == field(&wanted, name);
    let number = field(card, "nip").unwrap_or_default();
    COMPARED.iter().all(same) && same_number(&number, identity(buyer).1)
}

fn cards(envelope: &Envelope) -> impl Iterator<Item = (String, Value)> {
    envelope.records("contractors", "contractor").into_iter().filter_map(|card| Some((id_of(card)?, card.clone())))
}
