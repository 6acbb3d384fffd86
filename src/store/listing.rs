//! A page of payments as lists show it. Twenty payments are six hundred values: their texts are borrowed from the rows in
//! which they came, up to the answer that is written from them.

use super::dialect::{StoreError, Tx, args};
use super::payments::{Payment, PaymentFilter, from_payments};
use super::rows::Row;
use super::{AttemptGlance, InvoiceGlance, Page};
use crate::domain::payment::{Reason, Status};

/// A payment as lists show it: without buyer and lines, its texts borrowed from the rows they came in.
#[derive(Debug, Clone)]
pub struct ListedPayment<'r> {
    /// `pay_…`
    pub id: &'r str,
    /// The case it pays.
    pub case_id: Option<&'r str>,
    /// Who pays.
    pub payer_id: &'r str,
    /// Where the buyer's data came from.
    pub profile_id: Option<&'r str>,
    /// Where it is (last) tried.
    pub provider_account_id: &'r str,
    /// In minor units.
    pub amount: i64,
    /// ISO 4217.
    pub currency: &'r str,
    /// One line for the payer.
    pub description: &'r str,
    /// Where the payer goes afterwards; empty for the hub's own pages.
    pub return_url: &'r str,
    /// Unguessable: names the checkout page.
    pub token: &'r str,
    /// Real money.
    pub live: bool,
    /// Where it stands.
    pub status: Status,
    /// Why, in `error`.
    pub reason: Option<Reason>,
    /// It was completed after an error.
    pub late_success: bool,
    /// It was paid more than once.
    pub double_payment: bool,
    /// Money of another amount, currency or account was reported.
    pub mismatch: bool,
    /// Sum of refunds that succeeded, in minor units.
    pub amount_refunded: i64,
    /// Rises with each change.
    pub version: i64,
    /// Microseconds.
    pub created_at: i64,
    /// Microseconds.
    pub completed_at: Option<i64>,
    /// Its attempts, the first first.
    pub attempts: Vec<AttemptGlance<'r>>,
    /// Its sales invoice.
    pub invoice: Option<&'r InvoiceGlance>,
    /// An expert attached a document, and the merchant shows those to payers.
    pub has_shown_attachment: bool,
}

impl<'r> ListedPayment<'r> {
    /// A payment that was read by itself, without what hangs on it.
    pub fn of(p: &'r Payment) -> Self {
        ListedPayment {
            id: &p.id,
            case_id: p.case_id.as_deref(),
            payer_id: &p.payer_id,
            profile_id: p.profile_id.as_deref(),
            provider_account_id: &p.provider_account_id,
            amount: p.amount.minor(),
            currency: p.amount.currency().code(),
            description: &p.description,
            return_url: &p.return_url,
            token: &p.token,
            live: p.live,
            status: p.status,
            reason: p.reason,
            late_success: p.late_success,
            double_payment: p.double_payment,
            mismatch: p.mismatch,
            amount_refunded: p.amount_refunded,
            version: p.version,
            created_at: p.created_at,
            completed_at: p.completed_at,
            attempts: vec![],
            invoice: None,
            has_shown_attachment: false,
        }
    }

    /// By the order of the columns in [`listed`].
    fn read(row: &'r Row) -> Result<Self, StoreError> {
        let mut cells = row.cells();
        let mut listed = ListedPayment {
            id: cells.text()?,
            status: read_word(cells.text()?)?,
            case_id: cells.maybe_text()?,
            payer_id: cells.text()?,
            profile_id: cells.maybe_text()?,
            provider_account_id: cells.text()?,
            amount: cells.int()?,
            currency: cells.text()?,
            description: cells.text()?,
            return_url: cells.text()?,
            token: cells.text()?,
            live: cells.flag()?,
            reason: cells.maybe_text()?.and_then(|text| text.parse().ok()),
            late_success: cells.flag()?,
            double_payment: cells.flag()?,
            mismatch: cells.flag()?,
            amount_refunded: cells.int()?,
            version: cells.int()?,
            created_at: cells.int()?,
            completed_at: cells.maybe_int()?,
            attempts: vec![],
            invoice: None,
            has_shown_attachment: false,
        };
        if let Some(id) = cells.maybe_text()? {
            listed.attempts.push(AttemptGlance {
                id,
                no: cells.int()?,
                state: cells.text()?,
                reference: cells.text()?,
                gateway_ref: cells.maybe_text()?,
                provider_account_id: cells.text()?,
                expires_at: cells.int()?,
                created_at: cells.int()?,
            });
        }
        Ok(listed)
    }
}

fn read_word(text: &str) -> Result<Status, StoreError> {
    text.parse().map_err(|()| StoreError::Unreadable(format!("status: unknown word {text:?}")))
}

/// A page of payments as it was read.
pub struct Listing {
    /// One for each attempt.
    rows: Vec<Row>,
    invoices: Vec<InvoiceGlance>,
    /// Payments with a file that is shown to payers.
    shown: Vec<String>,
}

impl Listing {
    /// The payments, newest first.
    ///
    /// # Errors
    /// A row that we never wrote.
    pub fn payments(&self) -> Result<Vec<ListedPayment<'_>>, StoreError> {
        let mut listed: Vec<ListedPayment<'_>> = Vec::with_capacity(self.rows.len());
        for row in &self.rows {
            let payment = ListedPayment::read(row)?;
            // A payment that was tried again has a row for each attempt.
            match listed.iter_mut().rfind(|of| of.id == payment.id) {
                Some(of) => of.attempts.extend(payment.attempts),
                None => listed.push(payment),
            }
        }
        listed.sort_unstable_by(|a, b| b.id.cmp(a.id));
        for payment in &mut listed {
            payment.attempts.sort_unstable_by_key(|a| a.no);
            payment.invoice = self.invoices.iter().find(|invoice| invoice.payment_id == payment.id);
            payment.has_shown_attachment = self.shown.iter().any(|id| id == payment.id);
        }
        Ok(listed)
    }
}

/// Rows of the default page, and one more that says whether there is another page.
const FIRST_PAGE: i64 = 21;

/// The first words of a list's statement, and the page it shows.
macro_rules! listed {
    ($of:ident) => {
        listed!(from from_payments!($of))
    };
    (first page of $of:literal) => {
        // PostgreSQL keeps one plan for all callers only where it knows how many rows are wanted and no filter may be
        // missing; making the plan anew would take as long as the page.
        listed!(from concat!(" FROM payments WHERE merchant_id = $1 AND ", $of, " AND live = $3 AND id < $4 ORDER BY id DESC LIMIT 21"))
    };
    (from $page:expr) => {
        concat!(
            "SELECT p.id, p.status, p.case_id, p.payer_id, p.profile_id, p.provider_account_id, p.amount, p.currency, p.description,
                 p.return_url, p.token, p.live, p.status_reason, p.late_success, p.double_payment, p.mismatch, p.amount_refunded,
                 p.version, p.created_at, p.completed_at, a.id AS attempt_id, a.no, a.state, a.reference, a.gateway_ref,
                 a.provider_account_id AS attempt_account, a.expires_at, a.created_at AS attempt_created
             FROM (SELECT merchant_id, id, status, case_id, payer_id, profile_id, provider_account_id, amount, currency, description,
                 return_url, token, live, status_reason, late_success, double_payment, mismatch, amount_refunded, version, created_at,
                 completed_at", $page, ") p
             LEFT JOIN attempts a ON a.merchant_id = p.merchant_id AND a.payment_id = p.id"
        )
    };
}

impl Tx {
    /// A page of payments with what a list shows of each.
    pub async fn listed_payments(
        &mut self,
        merchant: &str,
        f: &PaymentFilter,
        page: &Page,
    ) -> Result<Listing, StoreError> {
        let live = f.live.map(i64::from);
        let has_filter =
            f.status.is_some() || f.from.is_some() || f.to.is_some() || f.payer.is_some() && f.case.is_some();
        let rows = if page.limit == FIRST_PAGE && live.is_some() && !has_filter {
            let sql = match (&f.payer, &f.case) {
                (Some(_), _) => listed!(first page of "payer_id = $2"),
                (None, Some(_)) => listed!(first page of "case_id = $2"),
                (None, None) => listed!(first page of "$2 = ''"),
            };
            let of = f.payer.as_deref().or(f.case.as_deref()).unwrap_or_default();
            // Ids begin with a digit after the prefix; in every collation a letter comes later.
            let before = page.before.as_deref().unwrap_or("pay_zzz");
            self.rows(sql, args![merchant, of, live, before]).await?
        } else {
            let sql = match (&f.payer, &f.case) {
                (Some(_), _) => listed!(payer),
                (None, Some(_)) => listed!(case),
                (None, None) => listed!(any),
            };
            let args = args![merchant, &f.payer, &f.case, &f.status, f.from, f.to, live, &page.before, page.limit];
            self.rows(sql, args).await?
        };
        // Before the money came there is no invoice, and no file that would be shown.
        let mut completed = vec![];
        for row in &rows {
            let mut cells = row.cells();
            let (id, status) = (cells.text()?, cells.text()?);
            if status == Status::Completed.word() {
                completed.push(id.to_owned());
            }
        }
        if completed.is_empty() {
            return Ok(Listing { rows, invoices: vec![], shown: vec![] });
        }
        let invoices = self.invoices_of(merchant, &completed).await?;
        let shown = self.shown_attachments_of(merchant, &completed).await?;
        Ok(Listing { rows, invoices, shown })
    }
}
