//! The contract of an invoicing API, and the neutral invoice.
//!
//! None of these APIs promises to create an invoice once. So `find` has five results (a flag would merge "there is
//! none" with "could not tell"), every failure of `create` says whether the invoice may exist, and an answer `OK` is
//! compared with what was asked before it counts.

use async_trait::async_trait;
use jiff::Timestamp;
use jiff::civil::Date;
use serde::{Deserialize, Serialize};

use crate::facts::{InvoicerFacts, Settings, SettingsError};
use crate::gateway::Cx;
use crate::money::Money;
use crate::twin::InvoicerTwin;
use crate::wire::HttpError;

/// An invoicing API.
#[async_trait]
pub trait Invoicer: Send + Sync {
    /// What it is.
    fn facts(&self) -> &'static InvoicerFacts;

    /// Checks what the facts cannot say.
    ///
    /// # Errors
    /// The setting that is wrong.
    fn check(&self, settings: &Settings) -> Result<(), SettingsError> {
        let _ = settings;
        Ok(())
    }

    /// The VAT of a sale for which nobody said it: by what the settings say of the seller.
    fn usual_vat(&self, settings: &Settings) -> Vat;

    /// Checks what of a sale can be known before it is paid: the lines, and the buyer where there is one. No call.
    ///
    /// # Errors
    /// [`FailureClass::Data`] with the fields.
    fn check_sale(
        &self,
        settings: &Settings,
        total: Money,
        lines: &[InvoiceLine],
        buyer: Option<&Buyer>,
    ) -> Result<(), InvoiceFailure>;

    /// Checks what must hold before any call is made for this order (lengths, tax number, sums). No call.
    ///
    /// # Errors
    /// [`FailureClass::Data`] with the fields.
    fn check_order(&self, settings: &Settings, order: &InvoiceOrder) -> Result<(), InvoiceFailure>;

    /// Read-only probe: are the credentials right, is a look-up of a random key empty?
    async fn self_test(&self, cx: &Cx<'_>) -> Result<(), InvoiceFailure>;

    /// Looks the document up by our key.
    async fn find(&self, cx: &Cx<'_>, order: &InvoiceOrder) -> Found;

    /// Makes sure the buyer exists there as the order has it; answers its id there. `known` is the id of an earlier
    /// order with the same buyer version.
    async fn upsert_buyer(
        &self,
        cx: &Cx<'_>,
        order: &InvoiceOrder,
        known: Option<&str>,
    ) -> Result<String, InvoiceFailure>;

    /// Creates the document. **Not idempotent.**
    async fn create(&self, cx: &Cx<'_>, buyer: &str, order: &InvoiceOrder) -> Result<Document, InvoiceFailure>;

    /// Reads the document by its id there.
    async fn get(&self, cx: &Cx<'_>, id: &str, order: &InvoiceOrder) -> Result<Document, InvoiceFailure>;

    /// Fetches the printed document. `Ok(None)`: not yet.
    async fn fetch_pdf(&self, cx: &Cx<'_>, document: &Document) -> Result<Option<Vec<u8>>, InvoiceFailure>;

    /// A fresh simulated API that speaks this protocol from the other side.
    fn twin(&self) -> Option<Box<dyn InvoicerTwin>> {
        None
    }
}

/// A sales invoice to be issued for a completed payment. Gross prices; the sum of the lines is what was paid.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvoiceOrder {
    /// Our key, made once, `[A-Za-z0-9-]{8,36}`; never reused for another document.
    pub external_key: String,
    /// The payment's or case's number, printed as a remark; second look-up channel.
    pub order_ref: String,
    /// Issue date: the day of sending in the seller's zone, computed at each send.
    pub issue_date: Date,
    /// Day the money came, in the seller's zone.
    pub paid_on: Date,
    /// What was paid; equals the sum of the lines.
    pub total: Money,
    /// How it was paid.
    pub method: PaymentMethod,
    /// Language of the document, ISO 639-1.
    pub language: String,
    /// Who buys: the snapshot taken at the payment.
    pub buyer: Buyer,
    /// What was bought.
    pub lines: Vec<InvoiceLine>,
    /// When an earlier send of this key began, if there was one; narrows the second look-up channel.
    #[serde(default)]
    pub first_sent_on: Option<Date>,
}

/// How the money came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PaymentMethod {
    /// By card.
    Card,
    /// By bank transfer, BLIK or pay-by-link.
    Transfer,
    /// In cash.
    Cash,
    /// From a prepaid balance.
    Balance,
}

/// The buyer on an invoice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Buyer {
    /// True for a company or sole trader, false for a private person.
    pub is_company: bool,
    /// Full name.
    pub name: String,
    /// Kind of the tax number.
    pub tax_id_kind: TaxIdKind,
    /// The number, normalised; empty for `None`.
    #[serde(default)]
    pub tax_id: String,
    /// Street with number.
    pub street: String,
    /// Postcode as the country writes it.
    pub postcode: String,
    /// City.
    pub city: String,
    /// ISO 3166-1 alpha-2; `GR` for Greece.
    pub country: String,
    /// Address for the invoice.
    pub email: String,
}

/// Kinds of tax numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaxIdKind {
    /// Private person without a number.
    None,
    /// Polish NIP, ten digits.
    PlNip,
    /// VAT number of another member state, with its prefix.
    EuVat,
    /// Czech IČO, eight digits.
    CzIco,
    /// Ukrainian EDRPOU, eight digits.
    UaEdrpou,
    /// Ukrainian RNOKPP, ten digits.
    UaRnokpp,
    /// Russian INN, ten or twelve digits.
    RuInn,
    /// Icelandic kennitala, ten digits.
    IsKennitala,
    /// Any other.
    Other,
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InvoiceLine {
    /// What it is, 1 to 256 characters.
    pub name: String,
    /// How many, a whole number above zero.
    pub quantity: i64,
    /// Gross price of one, in minor units of the order's currency.
    pub unit_gross_minor: i64,
    /// VAT.
    pub vat: Vat,
}

/// VAT of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Vat {
    /// A rate in basis points: 2300 is 23 %.
    Rate(u32),
    /// Exempt; the seller's defaults carry the legal basis.
    Exempt,
    /// Outside the scope of VAT.
    OutsideScope,
    /// Service to a company in another member state.
    ReverseChargeEu,
    /// The seller is no VAT payer.
    SellerNotVatPayer,
}

/// A document as the invoicing API has it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Document {
    /// Its id there.
    pub id: String,
    /// The printed number; empty while there is none.
    pub number: String,
    /// Issue date.
    pub issue_date: Option<Date>,
    /// Total as issued.
    pub total: Money,
    /// Ways in which it differs from the order, in plain words; empty when it is what was asked.
    pub differences: Vec<String>,
    /// The national system's word about it.
    pub ksef: Ksef,
}

/// Poland's national invoicing system, as far as it concerns the document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", tag = "state")]
pub enum Ksef {
    /// Nothing to wait for.
    NotApplicable,
    /// Sent, no number yet: the printed document is only a confirmation.
    Pending,
    /// Numbered.
    Accepted {
        /// 35 characters.
        number: String,
    },
    /// Not an invoice in law.
    Rejected,
}

/// Result of a look-up by our key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Surely none.
    None,
    /// Exactly one, equal in kind, total and currency.
    One(Document),
    /// More than one of the wanted kind; the first is the oldest.
    Many(Vec<Document>),
    /// One with our key whose total or currency differs.
    Conflict(Document),
    /// Could not tell (no answer, or an answer with strangers' rows): conclude nothing.
    Failed(InvoiceFailure),
}

/// Why a call to an invoicing API gave no result.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{class:?}: {code} {message}")]
pub struct InvoiceFailure {
    /// What may happen next.
    pub class: FailureClass,
    /// The API's code or HTTP status, for people and logs: `ERROR`, `HTTP 502`.
    pub code: String,
    /// The API's words, at most 500 characters; shown to staff only.
    pub message: String,
    /// Fields at fault, as paths of the neutral order (`buyer.tax_id`, `lines.0.name`) where they can be mapped,
    /// else as the API names them, each with the API's message.
    pub fields: Vec<(String, String)>,
    /// Not before so many seconds; for the whole account when `account_wide`.
    pub pause_s: Option<u32>,
    /// The pause holds for all work of the account.
    pub account_wide: bool,
}

/// What a failure means for the work.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FailureClass {
    /// Surely not executed, may work later.
    Retryable,
    /// The buyer's or a line's data were refused.
    Data,
    /// Credentials, scopes, the account's state: a person must look at the account.
    Config,
    /// Our request is malformed: a bug.
    Bug,
    /// It may have been executed. Look before sending again.
    Unknown,
    /// Looked for, surely not there.
    Absent,
}

impl InvoiceFailure {
    /// A failure without fields and pause.
    pub fn new(class: FailureClass, code: impl Into<String>, message: &str) -> Self {
        let message = message.chars().take(500).collect();
        InvoiceFailure { class, code: code.into(), message, fields: vec![], pause_s: None, account_wide: false }
    }

    /// A failure of a transport: certain non-execution or not.
    pub fn transport(e: &HttpError) -> Self {
        match e {
            HttpError::NotSent(why) => InvoiceFailure::new(FailureClass::Retryable, "not sent", why),
            HttpError::NoAnswer(why) => InvoiceFailure::new(FailureClass::Unknown, "no answer", why),
        }
    }
}

/// The civil day of an instant in an IANA zone; UTC when the zone is not known.
pub fn day_in(zone: &str, at: Timestamp) -> Date {
    let zone = jiff::tz::TimeZone::get(zone).unwrap_or(jiff::tz::TimeZone::UTC);
    at.to_zoned(zone).date()
}
