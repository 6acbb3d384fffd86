//! Cases and their quotes.

use grosz_providers::Money;
use grosz_providers::invoicer::InvoiceLine;

use super::Page;
use super::dialect::{Arg, StoreError, Tx, args};
use super::rows::{Row, to_json};
use super::set::{Question, Set, row};

/// A line of a quote, in gross prices.
pub type CaseLine = InvoiceLine;

/// A client's matter: quoted by an expert, paid by a payer.
#[derive(Debug, Clone)]
pub struct Case {
    /// Owner.
    pub merchant_id: String,
    /// `case_…`
    pub id: String,
    /// The number people use, unique for the merchant.
    pub number: String,
    /// What it is about.
    pub title: String,
    /// Who handles it.
    pub expert_id: Option<String>,
    /// Who pays.
    pub payer_id: String,
    /// The quote's total.
    pub total: Money,
    /// The quote's lines; their sum is the total.
    pub lines: Vec<CaseLine>,
    /// Rises when the quote changes (R-5W-08).
    pub quote_version: i64,
    /// `analysis` until it is paid, then `in_preparation` (R-5W-19).
    pub status: String,
    /// Microseconds.
    pub created_at: i64,
    /// Microseconds.
    pub updated_at: i64,
}

macro_rules! case_columns {
    () => {
        "merchant_id, id, number, title, expert_id, payer_id, amount, currency, lines, quote_version, status, created_at, updated_at"
    };
}

const BY_ID: &str = concat!("SELECT ", case_columns!(), " FROM cases WHERE merchant_id = $1 AND id = $2");

/// A page of the cases that a filter over the payer `$2` wants.
macro_rules! case_page {
    ($filter:expr) => {
        concat!(
            "SELECT ",
            case_columns!(),
            " FROM cases WHERE merchant_id = $1 AND ",
            $filter,
            " AND id < $3 ORDER BY id DESC LIMIT $4"
        )
    };
}

impl Tx {
    /// Adds a case; `Taken` when the number is used.
    pub async fn add_case(&mut self, c: &Case) -> Result<(), StoreError> {
        self.run(
            "INSERT INTO cases (merchant_id, id, number, title, expert_id, payer_id, amount, currency, lines, quote_version, status, created_at, updated_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $12)",
            args![
                &c.merchant_id, &c.id, &c.number, &c.title, &c.expert_id, &c.payer_id, c.total.minor(),
                c.total.currency().code(), &to_json(&c.lines)?, c.quote_version, &c.status, c.created_at
            ],
        )
        .await?;
        Ok(())
    }

    /// Writes title, expert, quote and status of a case.
    pub async fn update_case(&mut self, c: &Case) -> Result<(), StoreError> {
        if let Some(folder) = self.case_folder(&c.merchant_id, &c.id) {
            folder.case = c.clone();
            folder.is_changed = true;
            return Ok(());
        }
        self.run(
            "UPDATE cases SET title = $3, expert_id = $4, amount = $5, currency = $6, lines = $7, quote_version = $8, status = $9, updated_at = $10,
                 version = version + 1
             WHERE merchant_id = $1 AND id = $2",
            args![
                &c.merchant_id, &c.id, &c.title, &c.expert_id, c.total.minor(), c.total.currency().code(),
                &to_json(&c.lines)?, c.quote_version, &c.status, c.updated_at
            ],
        )
        .await?;
        Ok(())
    }

    /// One case.
    pub async fn case(&mut self, merchant: &str, id: &str) -> Result<Option<Case>, StoreError> {
        if let Some(folder) = self.case_folder(merchant, id) {
            return Ok(Some(folder.case.clone()));
        }
        self.row(BY_ID, args![merchant, id]).await?.map(|r| case(&r)).transpose()
    }

    /// The case of that number.
    pub async fn case_by_number(&mut self, merchant: &str, number: &str) -> Result<Option<Case>, StoreError> {
        self.row(
            concat!("SELECT ", case_columns!(), " FROM cases WHERE merchant_id = $1 AND number = $2"),
            args![merchant, number],
        )
        .await?
        .map(|r| case(&r))
        .transpose()
    }

    /// One case, locked until the end of the transaction.
    pub async fn case_for_update(&mut self, merchant: &str, id: &str) -> Result<Option<Case>, StoreError> {
        if let Some(folder) = self.case_folder(merchant, id) {
            return Ok(Some(folder.case.clone()));
        }
        let sql = self.pick(
            BY_ID,
            concat!("SELECT ", case_columns!(), " FROM cases WHERE merchant_id = $1 AND id = $2 FOR UPDATE"),
        );
        self.row(sql, args![merchant, id]).await?.map(|r| case(&r)).transpose()
    }

    /// These cases with their versions, where rows are locked in one order until the end of the transaction: merchant, case.
    pub(super) fn cases_for_update<'a>(&self, of: impl IntoIterator<Item = [Arg<'a>; 2]>) -> Question<'a> {
        let sql = self.pick_locking(
            concat!(
                "SELECT ",
                case_columns!(),
                ", version FROM cases
                 WHERE (merchant_id, id) IN (SELECT of_merchant, of_case FROM r)"
            ),
            concat!(
                "SELECT ",
                case_columns!(),
                ", version FROM cases
                 WHERE (merchant_id, id) IN (SELECT of_merchant, of_case FROM r) ORDER BY merchant_id, id FOR UPDATE"
            ),
        );
        Set::new(&["of_merchant", "of_case"], of, sql).asking(concat!(case_columns!(), ", version"))
    }

    /// A page of cases.
    pub async fn cases(&mut self, merchant: &str, payer: Option<&str>, page: &Page) -> Result<Vec<Case>, StoreError> {
        let sql = match payer {
            Some(_) => case_page!("payer_id = $2"),
            None => case_page!("$2 IS NULL"),
        };
        let rows = self.rows(sql, args![merchant, payer, page.bound(), page.limit]).await?;
        rows.iter().map(case).collect()
    }
}

/// A case that changed: version and instant of its last change when it was read, and its lines as JSON.
pub(super) struct ChangedCase<'a> {
    pub(super) case: &'a Case,
    pub(super) version_read: i64,
    pub(super) updated_read: i64,
    pub(super) lines: String,
}

/// Cases that changed.
pub(super) fn changed_set<'a>(changed: &'a [ChangedCase<'a>]) -> Set<'a> {
    let rows = changed.iter().map(|ChangedCase { case: c, version_read, updated_read, lines }| {
        row![
            &c.merchant_id,
            &c.id,
            *version_read,
            *updated_read,
            &c.title,
            &c.expert_id,
            c.total.minor(),
            c.total.currency().code(),
            lines,
            c.quote_version,
            &c.status,
            c.updated_at
        ]
    });
    // A program of before the versions changes only the instant.
    Set::new(
        &[
            "of_merchant", "of_case", "version_read", "updated_read", "new_title", "expert", "total", "code", "new_lines", "quote",
            "new_status", "updated",
        ],
        rows,
        "UPDATE cases SET title = r.new_title, expert_id = r.expert, amount = r.total, currency = r.code, lines = r.new_lines,
             quote_version = r.quote, status = r.new_status, updated_at = r.updated, version = r.version_read + 1
         FROM r WHERE merchant_id = r.of_merchant AND id = r.of_case AND version = r.version_read AND updated_at = r.updated_read",
    )
    .exact()
}

pub(super) fn case(r: &Row) -> Result<Case, StoreError> {
    Ok(Case {
        merchant_id: r.text("merchant_id")?,
        id: r.text("id")?,
        number: r.text("number")?,
        title: r.text("title")?,
        expert_id: r.maybe_text("expert_id")?,
        payer_id: r.text("payer_id")?,
        total: r.money()?,
        lines: r.json("lines")?,
        quote_version: r.int("quote_version")?,
        status: r.text("status")?,
        created_at: r.int("created_at")?,
        updated_at: r.int("updated_at")?,
    })
}
