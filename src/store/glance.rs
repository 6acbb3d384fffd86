//! What lists show of a payment, kept with it as the values that the API answers: a list is then one look-up, and a copy
//! with the values' names between them.
//!
//! The text is good for one version of the payment, which is kept beside it. Whatever changes what the text says raises
//! the version (programs from before that, all but once: ADR 0034), so a text that was not written anew is not wrong, only
//! useless: the list then reads the payment and its attempts. A transaction that changes payments past the book writes
//! their texts anew when it commits; the book writes them with the rows.

use std::collections::HashMap;

use memchr::memchr_iter;
use serde::Serialize;
use utoipa::ToSchema;

use super::Page;
use super::attempts::{self, Attempt};
use super::dialect::{Arg, StoreError, Tx, args};
use super::invoices::InvoiceGlance;
use super::payments::{self, Payment, PaymentFilter, from_payments};
use super::rows::Row;
use super::set::{Set, row};
use crate::clock::rfc3339;
use crate::domain::payment::{Reason, Status};

/// One thing to be paid, but for its link and its invoice.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PaymentGlance)]
pub struct Glance<'a> {
    /// `pay_…`
    id: &'a str,
    /// `started`, `completed` or `error`.
    status: &'static str,
    /// Why, when in `error`: `cancelled`, `declined`, `expired`, `technical`, `quote_changed`.
    status_reason: Option<&'static str>,
    /// Rises with each change.
    version: i64,
    /// What is unusual about it.
    flags: Flags,
    /// In minor units.
    amount: i64,
    /// ISO 4217.
    currency: &'a str,
    /// Sum of the refunds that succeeded, in minor units, without refunds of money that came on top (`surplus`).
    amount_refunded: i64,
    /// One line for the payer.
    description: &'a str,
    /// The case it pays.
    case: Option<&'a str>,
    /// Who pays.
    payer: &'a str,
    /// Where its invoice data came from.
    profile: Option<&'a str>,
    /// The account it is (last) tried at.
    provider_account: &'a str,
    /// Where the payer goes afterwards; `null` for the hub's own pages.
    return_url: Option<&'a str>,
    /// Real money.
    live: bool,
    /// RFC 3339.
    created_at: String,
    /// RFC 3339.
    completed_at: Option<String>,
    /// Its tries, the first first.
    attempts: Vec<AttemptGlance<'a>>,
}

/// What is unusual about a payment.
#[derive(Debug, Serialize, ToSchema)]
pub struct Flags {
    /// It was completed after an error.
    late_success: bool,
    /// It was paid more than once.
    double_payment: bool,
    /// Money of another amount, currency or account was reported.
    mismatch: bool,
}

/// One try of a payment at one gateway.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Attempt)]
pub struct AttemptGlance<'a> {
    /// `att_…`
    id: &'a str,
    /// 1 for the first.
    no: i64,
    /// `created`, `open`, `paid`, `failed` or `closed`.
    state: &'a str,
    /// The hub's name for it at the gateway.
    reference: &'a str,
    /// The gateway's name for it.
    gateway_ref: Option<&'a str>,
    /// At which account.
    provider_account: &'a str,
    /// After this it was not to be payable (RFC 3339).
    expires_at: String,
    /// RFC 3339.
    created_at: String,
}

impl<'a> Glance<'a> {
    /// Of a payment and its attempts, the first first.
    pub fn of(p: &'a Payment, attempts: impl IntoIterator<Item = &'a Attempt>) -> Self {
        Glance {
            id: &p.id,
            status: p.status.word(),
            status_reason: p.reason.map(Reason::word),
            version: p.version,
            flags: Flags { late_success: p.late_success, double_payment: p.double_payment, mismatch: p.mismatch },
            amount: p.amount.minor(),
            currency: p.amount.currency().code(),
            amount_refunded: p.amount_refunded,
            description: &p.description,
            case: p.case_id.as_deref(),
            payer: &p.payer_id,
            profile: p.profile_id.as_deref(),
            provider_account: &p.provider_account_id,
            return_url: Some(p.return_url.as_str()).filter(|url| !url.is_empty()),
            live: p.live,
            created_at: rfc3339(p.created_at),
            completed_at: p.completed_at.map(rfc3339),
            attempts: attempts.into_iter().map(AttemptGlance::of).collect(),
        }
    }

    /// What is kept of it: behind the mark of the present form its values as JSON, each on a line of its own, in the order
    /// of [`NAMES`] and for each attempt in that of [`NAMES_OF_ATTEMPT`]. What has a column of its own that lists read
    /// anyway is not among them, and what an attempt has in common with the payment is an empty line: the shorter the row,
    /// the more of them are in a page.
    pub(super) fn text(&self) -> Result<String, StoreError> {
        let mut lines = Lines(FORM.as_bytes().to_vec());
        lines.put(&self.flags.late_success)?.put(&self.flags.double_payment)?.put(&self.flags.mismatch)?;
        lines.put(&self.amount)?.put(&self.currency)?.put(&self.amount_refunded)?.put(&self.description)?;
        lines.put(&self.case)?.put(&self.payer)?.put(&self.profile)?.put(&self.provider_account)?;
        lines.put(&self.return_url)?.put(&self.live)?.put(&self.created_at)?.put(&self.completed_at)?;
        for a in &self.attempts {
            lines.put(&a.id)?.put(&a.no)?.put(&a.state)?.put(&a.reference)?.put(&a.gateway_ref)?;
            lines.put_unless(&a.provider_account, &self.provider_account)?;
            lines.put(&a.expires_at)?.put_unless(&a.created_at, &self.created_at)?;
        }
        String::from_utf8(lines.0).map_err(|e| StoreError::Unreadable(e.to_string()))
    }
}

/// JSON values, each on a line of its own: in JSON a line break within a text is written as `\n`.
struct Lines(Vec<u8>);

impl Lines {
    fn put(&mut self, value: &impl Serialize) -> Result<&mut Self, StoreError> {
        self.0.push(b'\n');
        serde_json::to_writer(&mut self.0, value).map_err(|e| StoreError::Unreadable(e.to_string()))?;
        Ok(self)
    }

    fn put_unless<T: Serialize + PartialEq>(&mut self, value: &T, same: &T) -> Result<&mut Self, StoreError> {
        if value != same {
            return self.put(value);
        }
        self.0.push(b'\n');
        Ok(self)
    }
}

impl<'a> AttemptGlance<'a> {
    fn of(a: &'a Attempt) -> Self {
        AttemptGlance {
            id: &a.id,
            no: a.no,
            state: &a.state,
            reference: &a.reference,
            gateway_ref: a.gateway_ref.as_deref(),
            provider_account: &a.provider_account_id,
            expires_at: rfc3339(a.expires_at),
            created_at: rfc3339(a.created_at),
        }
    }
}

/// What a kept text begins with. A program whose lists show something else writes another mark, and does not use the
/// texts of this one.
const FORM: &str = "2";

/// What stands before each value that is kept of a payment; its attempts follow.
const NAMES: [&str; 15] = [
    ",\"flags\":{\"late_success\":",
    ",\"double_payment\":",
    ",\"mismatch\":",
    "},\"amount\":",
    ",\"currency\":",
    ",\"amount_refunded\":",
    ",\"description\":",
    ",\"case\":",
    ",\"payer\":",
    ",\"profile\":",
    ",\"provider_account\":",
    ",\"return_url\":",
    ",\"live\":",
    ",\"created_at\":",
    ",\"completed_at\":",
];

/// What stands before each value of an attempt.
const NAMES_OF_ATTEMPT: [&str; 8] = [
    "{\"id\":",
    ",\"no\":",
    ",\"state\":",
    ",\"reference\":",
    ",\"gateway_ref\":",
    ",\"provider_account\":",
    ",\"expires_at\":",
    ",\"created_at\":",
];

/// The members of a payment's [`Glance`].
#[derive(Debug)]
pub struct Members<'r> {
    id: &'r str,
    status: Status,
    reason: Option<Reason>,
    version: i64,
    values: Values<'r>,
}

/// What is kept of a payment, behind the mark.
#[derive(Debug, Clone, Copy)]
struct Values<'r>(&'r str);

impl<'r> Values<'r> {
    /// `None` when the text is not of the present form.
    fn of(text: Option<&'r str>) -> Option<Self> {
        let values = text?.strip_prefix(FORM)?;
        // Each line begins with a break.
        let of_attempts = memchr_iter(b'\n', values.as_bytes()).count().checked_sub(NAMES.len())?;
        of_attempts.is_multiple_of(NAMES_OF_ATTEMPT.len()).then_some(Values(values))
    }

    fn lines(self) -> impl Iterator<Item = &'r str> {
        let text = self.0;
        let mut begin = 1;
        memchr_iter(b'\n', text.as_bytes()).skip(1).chain([text.len()]).map(move |end| {
            let line = text.get(begin..end).unwrap_or_default();
            begin = end + 1;
            line
        })
    }
}

impl Members<'_> {
    /// How many bytes they are, about.
    pub fn length(&self) -> usize {
        2 * self.values.0.len() + 256
    }

    /// Writes them as JSON, without the braces around them, so that more can follow.
    pub fn write(&self, out: &mut Vec<u8>) {
        // Our own ids and words: nothing in them needs an escape.
        let reason = self.reason.map(Reason::word);
        let quote = if reason.is_some() { "\"" } else { "" };
        let (id, status, version) = (self.id, self.status.word(), self.version.to_string());
        let reason = reason.unwrap_or("null");
        let columns = [
            "\"id\":\"",
            id,
            "\",\"status\":\"",
            status,
            "\",\"status_reason\":",
            quote,
            reason,
            quote,
            ",\"version\":",
            &version,
        ];
        columns.iter().for_each(|text| out.extend_from_slice(text.as_bytes()));
        let mut lines = self.values.lines();
        let mut of_payment = [""; NAMES.len()];
        for ((name, value), kept) in NAMES.iter().zip(&mut lines).zip(&mut of_payment) {
            out.extend_from_slice(name.as_bytes());
            out.extend_from_slice(value.as_bytes());
            *kept = value;
        }
        let same =
            |name| NAMES.iter().zip(of_payment).find(|(known, _)| *known == name).map_or("null", |(_, value)| value);
        out.extend_from_slice(b",\"attempts\":[");
        let mut end = "]";
        for (name, value) in NAMES_OF_ATTEMPT.iter().cycle().zip(lines) {
            let before = if end == "}]" && name.starts_with('{') { "}," } else { "" };
            let value = if value.is_empty() { same(name) } else { value };
            [before, name, value].iter().for_each(|text| out.extend_from_slice(text.as_bytes()));
            end = "}]";
        }
        out.extend_from_slice(end.as_bytes());
    }
}

/// A payment as a list shows it.
#[derive(Debug)]
pub struct ListedPayment<'r> {
    /// `pay_…`
    pub id: &'r str,
    /// What is shown of it.
    pub members: Members<'r>,
    /// Unguessable: names the checkout page.
    pub token: &'r str,
    /// Where it stands.
    pub status: Status,
    /// Why, in `error`.
    pub reason: Option<Reason>,
    /// Its sales invoice.
    pub invoice: Option<&'r InvoiceGlance>,
    /// An expert attached a document, and the merchant shows those to payers.
    pub has_shown_attachment: bool,
}

/// A page of payments as it was read.
pub struct Listing {
    rows: Vec<Row>,
    /// Those of its payments whose text is not of their version, as they were read after that.
    anew: HashMap<String, Anew>,
    invoices: Vec<InvoiceGlance>,
    /// Payments with a file that is shown to payers.
    shown: Vec<String>,
}

struct Anew {
    text: String,
    status: Status,
    reason: Option<Reason>,
    version: i64,
}

/// A row of a list, by the order of the columns in [`listed`].
struct Listed<'r> {
    id: &'r str,
    status: Status,
    reason: Option<Reason>,
    version: i64,
    token: &'r str,
    /// `None` when there are none of its version, or none of the present form.
    values: Option<Values<'r>>,
}

impl<'r> Listed<'r> {
    fn read(row: &'r Row) -> Result<Self, StoreError> {
        let mut cells = row.cells();
        let values = Values::of(cells.maybe_text()?);
        let (status, id, token) = (read_word(cells.text()?)?, cells.text()?, cells.text()?);
        let reason = cells.maybe_text()?.and_then(|text| text.parse().ok());
        let version = cells.maybe_int()?.unwrap_or_default();
        Ok(Listed { id, status, reason, version, token, values })
    }
}

fn read_word(text: &str) -> Result<Status, StoreError> {
    text.parse().map_err(|()| StoreError::Unreadable(format!("status: unknown word {text:?}")))
}

impl Listing {
    /// The payments, newest first.
    ///
    /// # Errors
    /// A row that we never wrote.
    pub fn payments(&self) -> Result<Vec<ListedPayment<'_>>, StoreError> {
        let show = |row| {
            let Listed { id, status, reason, version, token, values } = Listed::read(row)?;
            let members = match (values, self.anew.get(id)) {
                (Some(values), _) => Members { id, status, reason, version, values },
                (None, Some(Anew { text, status, reason, version })) => {
                    let values = Values::of(Some(text)).ok_or_else(|| broken(id, "written in another form"))?;
                    Members { id, status: *status, reason: *reason, version: *version, values }
                }
                // Payments are never deleted.
                (None, None) => return Err(broken(id, "gone between two questions")),
            };
            let (status, reason) = (members.status, members.reason);
            let invoice = self.invoices.iter().find(|invoice| invoice.payment_id == id);
            let has_shown_attachment = self.shown.iter().any(|shown| shown == id);
            Ok(ListedPayment { id, members, token, status, reason, invoice, has_shown_attachment })
        };
        self.rows.iter().map(show).collect()
    }
}

fn broken(id: &str, why: &str) -> StoreError {
    StoreError::Unreadable(format!("{id}: {why}"))
}

/// Rows of the default page, and one more that says whether there is another page.
const FIRST_PAGE: i64 = 21;

/// A list's statement.
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
        concat!("SELECT CASE WHEN glance_version = version THEN glance END AS glance, status, id, token, status_reason, version", $page)
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
            self.rows(sql, args![merchant, of, live, page.bound()]).await?
        } else {
            let sql = match (&f.payer, &f.case) {
                (Some(_), _) => listed!(payer),
                (None, Some(_)) => listed!(case),
                (None, None) => listed!(any),
            };
            let (least, below) = f.ids(page);
            let args = args![merchant, &f.payer, &f.case, &f.status, f.from, f.to, live, &below, &least, page.limit];
            self.rows(sql, args).await?
        };
        let (mut completed, mut without) = (vec![], vec![]);
        for row in &rows {
            let mut cells = row.cells();
            let has_text = Values::of(cells.maybe_text()?).is_some();
            let is_completed = cells.text()? == Status::Completed.word();
            if !has_text {
                without.push((merchant.to_owned(), cells.text()?.to_owned()));
            } else if is_completed {
                completed.push(cells.text()?.to_owned());
            }
        }
        let mut anew = HashMap::new();
        for (payment, text) in self.read_glances(&without).await? {
            if payment.status == Status::Completed {
                completed.push(payment.id.clone());
            }
            let Payment { status, reason, version, .. } = payment;
            anew.insert(payment.id, Anew { text, status, reason, version });
        }
        // Before the money came there is no invoice, and no file that would be shown.
        if completed.is_empty() {
            return Ok(Listing { rows, anew, invoices: vec![], shown: vec![] });
        }
        let invoices = self.invoices_of(merchant, &completed).await?;
        let shown = self.shown_attachments_of(merchant, &completed).await?;
        Ok(Listing { rows, anew, invoices, shown })
    }

    /// Payments, each with its text.
    async fn read_glances(&mut self, of: &[(String, String)]) -> Result<Vec<(Payment, String)>, StoreError> {
        if of.is_empty() {
            return Ok(vec![]);
        }
        let wanted = || of.iter().map(|(merchant, payment)| row![merchant, payment]);
        let [rows, of_attempts] = self.ask([payments::of_ids(wanted()), attempts::of_payments(wanted())]).await?;
        let mut tried: Vec<Attempt> = of_attempts.iter().map(attempts::attempt).collect::<Result<_, _>>()?;
        tried.sort_unstable_by_key(|a| a.no);
        let read = |row| {
            let payment = payments::payment(row)?;
            let its = |a: &&Attempt| a.payment_id == payment.id && a.merchant_id == payment.merchant_id;
            let text = Glance::of(&payment, tried.iter().filter(its)).text()?;
            Ok((payment, text))
        };
        rows.iter().map(read).collect()
    }

    /// Remembers that a payment, or an attempt of it, is changed past the book.
    pub(super) fn outdates_glance(&mut self, merchant: &str, payment: &str) {
        let of = (merchant.to_owned(), payment.to_owned());
        if !self.outdated.contains(&of) {
            self.outdated.push(of);
        }
    }

    /// Writes the texts of payments that were changed past the book.
    pub(super) async fn write_glances(&mut self) -> Result<(), StoreError> {
        let outdated = std::mem::take(&mut self.outdated);
        if outdated.is_empty() {
            return Ok(());
        }
        let anew = self.read_glances(&outdated).await?;
        self.run_sets(&[glances_set(&anew)]).await.map(drop)
    }
}

/// Texts of payments, for the version they were read at.
fn glances_set(anew: &[(Payment, String)]) -> Set<'_> {
    let rows = anew.iter().map(|(p, text)| -> [Arg<'_>; 4] { row![&p.merchant_id, &p.id, p.version, text] });
    Set::new(
        &["of_merchant", "of_payment", "version_read", "new_glance"],
        rows,
        "UPDATE payments SET glance = r.new_glance, glance_version = r.version_read
         FROM r WHERE merchant_id = r.of_merchant AND id = r.of_payment AND version = r.version_read",
    )
}
