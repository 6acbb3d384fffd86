//! Payments and the moves of their status.

use std::collections::HashMap;

use grosz_providers::Money;
use grosz_providers::invoicer::{Buyer, InvoiceLine};

use super::Page;
use super::attempts::Attempt;
use super::dialect::{Arg, StoreError, Tx, args};
use super::glance::Glance;
use super::rows::{Row, to_json};
use super::set::{Question, Set, row};
use crate::clock::seconds;
use crate::domain::payment::{Reason, Status};
use crate::ids::first_of;

/// One thing to be paid.
#[derive(Debug, Clone)]
pub struct Payment {
    /// Owner.
    pub merchant_id: String,
    /// `pay_…`
    pub id: String,
    /// The case it pays, if any.
    pub case_id: Option<String>,
    /// The case's quote it was started with.
    pub quote_version: i64,
    /// Who pays.
    pub payer_id: String,
    /// Snapshot of the invoice data; `None` while the payer has not given any.
    pub buyer: Option<Buyer>,
    /// Where the snapshot came from.
    pub profile_id: Option<String>,
    /// And its version.
    pub profile_version: i64,
    /// The account it is (last) tried at.
    pub provider_account_id: String,
    /// What is to be paid.
    pub amount: Money,
    /// Snapshot of the lines of its invoice, in gross prices; `None`: no invoice can be made of it.
    pub lines: Option<Vec<InvoiceLine>>,
    /// One line for the payer.
    pub description: String,
    /// Where the client app wants the payer back; empty for our own pages.
    pub return_url: String,
    /// Unguessable part of the payment link.
    pub token: String,
    /// Real money.
    pub live: bool,
    /// Status.
    pub status: Status,
    /// Why, when in `error`.
    pub reason: Option<Reason>,
    /// Completed after an error.
    pub late_success: bool,
    /// Paid more than once.
    pub double_payment: bool,
    /// Money of another amount, currency or account was reported.
    pub mismatch: bool,
    /// Sum of refunds that succeeded, minor units.
    pub amount_refunded: i64,
    /// Rises with each change; clients drop older news.
    pub version: i64,
    /// Microseconds.
    pub created_at: i64,
    /// Microseconds.
    pub updated_at: i64,
    /// Microseconds.
    pub completed_at: Option<i64>,
}

/// One move of a payment's status.
#[derive(Debug, Clone)]
pub struct Transition {
    /// `trn_…`
    pub id: String,
    /// From; `None` for the beginning.
    pub from: Option<String>,
    /// To.
    pub to: String,
    /// Why, when to `error`.
    pub reason: Option<String>,
    /// `api`, `payer`, `webhook`, `poll`, `replay`, `quote`.
    pub cause: String,
    /// Id of the event, delivery or request that caused it.
    pub cause_id: Option<String>,
    /// Microseconds.
    pub at: i64,
}

/// Which payments a list shows.
#[derive(Debug, Clone, Default)]
pub struct PaymentFilter {
    /// Of this payer.
    pub payer: Option<String>,
    /// Of this case.
    pub case: Option<String>,
    /// In this status.
    pub status: Option<String>,
    /// Created at or after, microseconds.
    pub from: Option<i64>,
    /// Created before, microseconds.
    pub to: Option<i64>,
    /// Of this mode: live or test.
    pub live: Option<bool>,
}

/// How far the instant in a payment's id may be from `created_at`, microseconds: they are taken one after the other, but the
/// ids of a process whose clock was set back go on from where they were.
const ID_APART: i64 = seconds(24 * 3600);

impl PaymentFilter {
    /// Where the page can have rows: from one id up to, but not including, another. Ids hold their time, so a stretch of
    /// time is found in the index; to the microsecond it is `created_at` that counts.
    pub(super) fn ids(&self, page: &Page) -> (String, String) {
        let least = self.from.map(|from| first_of("pay", from.saturating_sub(ID_APART)));
        let end = self.to.map(|to| first_of("pay", to.saturating_add(ID_APART)));
        let below = end.into_iter().chain([page.bound().to_owned()]).min();
        (least.unwrap_or_default(), below.unwrap_or_default())
    }
}

macro_rules! payment_columns {
    () => {
        "merchant_id, id, case_id, quote_version, payer_id, buyer, profile_id, profile_version, provider_account_id, amount, currency, lines, description, return_url, token, live, status, status_reason, late_success, double_payment, mismatch, amount_refunded, version, created_at, updated_at, completed_at"
    };
}

/// A page of payments: by payer, by case, or any of the merchant.
macro_rules! from_payments {
    (payer) => {
        from_payments!("payer_id = $2 AND ($3 IS NULL OR case_id = $3)")
    };
    (case) => {
        from_payments!("$2 IS NULL AND case_id = $3")
    };
    (any) => {
        from_payments!("$2 IS NULL AND $3 IS NULL")
    };
    ($of:literal) => {
        concat!(
            " FROM payments WHERE merchant_id = $1 AND ",
            $of,
            " AND ($4 IS NULL OR status = $4) AND ($5 IS NULL OR created_at >= $5) AND ($6 IS NULL OR created_at < $6)
             AND ($7 IS NULL OR live = $7) AND id < $8 AND id >= $9 ORDER BY id DESC LIMIT $10"
        )
    };
}
pub(super) use from_payments;

/// A condition on payments: started, or failed and tried again.
macro_rules! is_under_way {
    () => {
        " AND (status = 'started' OR (status = 'error' AND EXISTS (SELECT 1 FROM attempts a
          WHERE a.merchant_id = payments.merchant_id AND a.payment_id = payments.id AND a.state IN ('created', 'open'))))"
    };
}

impl Tx {
    /// Adds a payment; `Taken` when its case has an unfinished one.
    pub async fn add_payment(&mut self, p: &Payment) -> Result<(), StoreError> {
        if let Some(book) = &mut self.book {
            book.new.payments.push(p.clone());
            return Ok(());
        }
        self.outdates_glance(&p.merchant_id, &p.id);
        let new = NewPayments::of(std::slice::from_ref(p), &[])?;
        self.run_sets(&[new.set()]).await?;
        Ok(())
    }

    /// One payment.
    pub async fn payment(&mut self, merchant: &str, id: &str) -> Result<Option<Payment>, StoreError> {
        if let Some(known) = self.booked_payment(merchant, id) {
            return Ok(Some(known));
        }
        let sql = concat!("SELECT ", payment_columns!(), " FROM payments WHERE merchant_id = $1 AND id = $2");
        self.row(sql, args![merchant, id]).await?.map(|r| payment(&r)).transpose()
    }

    /// One payment, locked until the end of the transaction.
    pub async fn payment_for_update(&mut self, merchant: &str, id: &str) -> Result<Option<Payment>, StoreError> {
        if let Some(known) = self.booked_payment(merchant, id) {
            return Ok(Some(known));
        }
        let sql = self.pick(
            concat!("SELECT ", payment_columns!(), " FROM payments WHERE merchant_id = $1 AND id = $2"),
            concat!("SELECT ", payment_columns!(), " FROM payments WHERE merchant_id = $1 AND id = $2 FOR UPDATE"),
        );
        self.row(sql, args![merchant, id]).await?.map(|r| payment(&r)).transpose()
    }

    fn booked_payment(&self, merchant: &str, id: &str) -> Option<Payment> {
        self.payment_in_book(merchant, id).cloned()
    }

    /// A payment as the transaction will write it, where it was read ahead or is new.
    pub fn payment_in_book(&self, merchant: &str, id: &str) -> Option<&Payment> {
        let book = self.book.as_ref()?;
        let its_own = |p: &&Payment| p.merchant_id == merchant && p.id == id;
        let known = book.payments.get(id).map(|folder| &folder.payment).filter(its_own);
        known.or_else(|| book.new.payments.iter().rev().find(its_own))
    }

    /// The payments that our references name at accounts, where rows are locked in one order until the end of the
    /// transaction: merchant, account, reference.
    pub(super) fn payments_of_references<'a>(&self, of: impl IntoIterator<Item = [Arg<'a>; 3]>) -> Question<'a> {
        let sql = self.pick_locking(
            concat!(
                "SELECT ", payment_columns!(), " FROM payments WHERE (merchant_id, id) IN (
                     SELECT a.merchant_id, a.payment_id FROM r CROSS JOIN attempts a
                     WHERE a.merchant_id = r.of_merchant AND a.provider_account_id = r.of_account AND a.reference = r.of_reference)"
            ),
            concat!(
                "SELECT ", payment_columns!(), " FROM payments WHERE (merchant_id, id) IN (
                     SELECT a.merchant_id, a.payment_id FROM r CROSS JOIN attempts a
                     WHERE a.merchant_id = r.of_merchant AND a.provider_account_id = r.of_account AND a.reference = r.of_reference)
                 ORDER BY merchant_id, id FOR UPDATE"
            ),
        );
        Set::new(&["of_merchant", "of_account", "of_reference"], of, sql).asking(payment_columns!())
    }

    /// The payment a link names: begins a request, so the merchant is not known yet.
    pub async fn payment_by_token(&mut self, token: &str) -> Result<Option<Payment>, StoreError> {
        let sql = concat!("SELECT ", payment_columns!(), " FROM payments WHERE token = $1");
        self.row(sql, args![token]).await?.map(|r| payment(&r)).transpose()
    }

    /// A page of payments.
    pub async fn payments(
        &mut self,
        merchant: &str,
        f: &PaymentFilter,
        page: &Page,
    ) -> Result<Vec<Payment>, StoreError> {
        // Three spellings, so that the engine can use the index that fits.
        let sql = match (&f.payer, &f.case) {
            (Some(_), _) => concat!("SELECT ", payment_columns!(), from_payments!(payer)),
            (None, Some(_)) => concat!("SELECT ", payment_columns!(), from_payments!(case)),
            (None, None) => concat!("SELECT ", payment_columns!(), from_payments!(any)),
        };
        let rows = self.page_rows(sql, merchant, f, page).await?;
        rows.iter().map(payment).collect()
    }

    async fn page_rows(
        &mut self,
        sql: &'static str,
        merchant: &str,
        f: &PaymentFilter,
        page: &Page,
    ) -> Result<Vec<Row>, StoreError> {
        let live = f.live.map(i64::from);
        let (least, below) = f.ids(page);
        let args = args![merchant, &f.payer, &f.case, &f.status, f.from, f.to, live, &below, &least, page.limit];
        self.rows(sql, args).await
    }

    /// The payment of a case that is under way: the one that is started, else the youngest that failed and has an attempt
    /// that is open again (whose time may be over).
    pub async fn started_payment_of_case(&mut self, merchant: &str, case: &str) -> Result<Option<Payment>, StoreError> {
        let mut new = self.book.iter().flat_map(|book| &book.new.payments);
        if let Some(new) = new.find(|p| p.merchant_id == merchant && p.case_id.as_deref() == Some(case)) {
            return Ok(Some(new.clone()));
        }
        if let Some(known) = self.case_folder(merchant, case).and_then(|folder| folder.started.as_ref()) {
            return Ok(known.clone());
        }
        let sql = concat!(
            "SELECT ",
            payment_columns!(),
            " FROM payments WHERE merchant_id = $1 AND case_id = $2",
            is_under_way!(),
            " ORDER BY CASE status WHEN 'started' THEN 0 ELSE 1 END, id DESC LIMIT 1"
        );
        self.row(sql, args![merchant, case]).await?.map(|r| payment(&r)).transpose()
    }

    /// All payments of a case that are not completed.
    pub async fn unfinished_payments_of_case(
        &mut self,
        merchant: &str,
        case: &str,
    ) -> Result<Vec<Payment>, StoreError> {
        let sql = concat!(
            "SELECT ",
            payment_columns!(),
            " FROM payments WHERE merchant_id = $1 AND case_id = $2 AND status <> 'completed' ORDER BY id LIMIT 1000"
        );
        self.rows(sql, args![merchant, case]).await?.iter().map(payment).collect()
    }

    /// Whether a case has more than one payment.
    pub async fn has_other_payments(&mut self, merchant: &str, case: &str) -> Result<bool, StoreError> {
        if let Some(folder) = self.case_folder(merchant, case) {
            return Ok(folder.payments > 1);
        }
        let sql = "SELECT COUNT(*) FROM payments WHERE merchant_id = $1 AND case_id = $2";
        Ok(self.number(sql, args![merchant, case]).await? > 1)
    }

    /// How many payments of a case are completed.
    pub async fn completed_payments_of_case(&mut self, merchant: &str, case: &str) -> Result<i64, StoreError> {
        if let Some(folder) = self.case_folder(merchant, case) {
            return Ok(folder.completed);
        }
        self.number(
            "SELECT COUNT(*) FROM payments WHERE merchant_id = $1 AND case_id = $2 AND status = 'completed'",
            args![merchant, case],
        )
        .await
    }

    /// Moves the status if it still is `from`; `false` when somebody else was faster.
    pub async fn move_payment(
        &mut self,
        p: &Payment,
        to: Status,
        reason: Option<Reason>,
        late: bool,
        now: i64,
    ) -> Result<bool, StoreError> {
        let completed_at = (to == Status::Completed).then_some(now);
        if let Some(folder) = self.folder(&p.merchant_id, &p.id) {
            if folder.payment.status != p.status {
                return Ok(false);
            }
            let changed = folder.change(now);
            changed.status = to;
            changed.reason = reason;
            changed.late_success |= late;
            changed.completed_at = changed.completed_at.or(completed_at);
            if let (Status::Completed, Some(case)) = (to, &p.case_id)
                && let Some(folder) = self.case_folder(&p.merchant_id, case)
            {
                folder.completed += 1;
                folder.is_changed = true;
            }
            return Ok(true);
        }
        self.outdates_glance(&p.merchant_id, &p.id);
        let touched = self
            .run(
                "UPDATE payments SET status = $4, status_reason = $5, late_success = CASE WHEN $6 = 1 THEN 1 ELSE late_success END,
                     completed_at = COALESCE(completed_at, $7), version = version + 1, updated_at = $8
                 WHERE merchant_id = $1 AND id = $2 AND status = $3",
                args![&p.merchant_id, &p.id, p.status.word(), to.word(), reason.map(Reason::word), late, completed_at, now],
            )
            .await?;
        if let (1, Status::Completed, Some(case)) = (touched, to, &p.case_id) {
            let sql = "UPDATE cases SET version = version + 1 WHERE merchant_id = $1 AND id = $2";
            self.run(sql, args![&p.merchant_id, case]).await?;
        }
        Ok(touched == 1)
    }

    /// Raises a payment's version, because something that hangs on it changes: who read it without a lock finds out.
    pub(super) async fn raise_version(&mut self, merchant: &str, payment: &str) -> Result<(), StoreError> {
        self.outdates_glance(merchant, payment);
        let sql = "UPDATE payments SET version = version + 1 WHERE merchant_id = $1 AND id = $2";
        self.run(sql, args![merchant, payment]).await.map(drop)
    }

    /// Sets flags and the refunded sum.
    pub async fn flag_payment(
        &mut self,
        merchant: &str,
        id: &str,
        double_payment: bool,
        mismatch: bool,
        now: i64,
    ) -> Result<(), StoreError> {
        if let Some(folder) = self.folder(merchant, id) {
            let changed = folder.change(now);
            changed.double_payment |= double_payment;
            changed.mismatch |= mismatch;
            return Ok(());
        }
        self.outdates_glance(merchant, id);
        self.run(
            "UPDATE payments SET double_payment = CASE WHEN $3 = 1 THEN 1 ELSE double_payment END,
                 mismatch = CASE WHEN $4 = 1 THEN 1 ELSE mismatch END, version = version + 1, updated_at = $5
             WHERE merchant_id = $1 AND id = $2",
            args![merchant, id, double_payment, mismatch, now],
        )
        .await?;
        Ok(())
    }

    /// Writes the buyer's snapshot into an unfinished payment.
    pub async fn set_buyer(
        &mut self,
        merchant: &str,
        id: &str,
        buyer: &Buyer,
        profile: Option<&str>,
        version: i64,
        now: i64,
    ) -> Result<(), StoreError> {
        self.outdates_glance(merchant, id);
        self.run(
            "UPDATE payments SET buyer = $3, profile_id = $4, profile_version = $5, version = version + 1, updated_at = $6
             WHERE merchant_id = $1 AND id = $2 AND status <> 'completed'",
            args![merchant, id, &to_json(buyer)?, profile, version, now],
        )
        .await?;
        Ok(())
    }

    /// Names the account at which a payment is tried next.
    pub async fn set_payment_account(
        &mut self,
        merchant: &str,
        id: &str,
        account: &str,
        now: i64,
    ) -> Result<(), StoreError> {
        self.outdates_glance(merchant, id);
        self.run(
            "UPDATE payments SET provider_account_id = $3, version = version + 1, updated_at = $4 WHERE merchant_id = $1 AND id = $2",
            args![merchant, id, account, now],
        )
        .await?;
        Ok(())
    }

    /// Records a move of a payment's status.
    pub async fn add_transition(&mut self, merchant: &str, payment: &str, t: Transition) -> Result<(), StoreError> {
        let new = (merchant.to_owned(), payment.to_owned(), t);
        match &mut self.book {
            Some(book) => book.new.transitions.push(new),
            None => drop(self.run_sets(&[transitions_set(&[new])]).await?),
        }
        Ok(())
    }

    /// The moves of a payment's status, oldest first.
    pub async fn transitions(&mut self, merchant: &str, payment: &str) -> Result<Vec<Transition>, StoreError> {
        let rows = self
            .rows(
                "SELECT id, from_status, to_status, reason, cause, cause_id, at FROM transitions
                 WHERE merchant_id = $1 AND payment_id = $2 ORDER BY id LIMIT 1000",
                args![merchant, payment],
            )
            .await?;
        rows.iter()
            .map(|r| {
                Ok(Transition {
                    id: r.text("id")?,
                    from: r.maybe_text("from_status")?,
                    to: r.text("to_status")?,
                    reason: r.maybe_text("reason")?,
                    cause: r.text("cause")?,
                    cause_id: r.maybe_text("cause_id")?,
                    at: r.int("at")?,
                })
            })
            .collect()
    }
}

/// Payments by their ids: merchant, payment.
pub(super) fn of_ids<'a>(of: impl IntoIterator<Item = [Arg<'a>; 2]>) -> Question<'a> {
    let sql = concat!(
        "SELECT ",
        payment_columns!(),
        " FROM r CROSS JOIN payments WHERE merchant_id = of_merchant AND id = of_payment"
    );
    Set::new(&["of_merchant", "of_payment"], of, sql).asking(payment_columns!())
}

/// How many payments each of these cases has, and how many of them are completed: merchant, case.
pub(super) fn completed_of_cases<'a>(of: impl IntoIterator<Item = [Arg<'a>; 2]>) -> Question<'a> {
    let sql =
        "SELECT p.case_id, COUNT(*) AS payments, SUM(CASE p.status WHEN 'completed' THEN 1 ELSE 0 END) AS completed
               FROM r CROSS JOIN payments p WHERE p.merchant_id = r.of_merchant AND p.case_id = r.of_case
               GROUP BY p.merchant_id, p.case_id";
    Set::new(&["of_merchant", "of_case"], of, sql).asking("case_id, payments, completed")
}

/// The payments of these cases that are under way, see [`Tx::started_payment_of_case`]: merchant, case.
pub(super) fn started_of_cases<'a>(of: impl IntoIterator<Item = [Arg<'a>; 2]>) -> Question<'a> {
    let sql = concat!(
        "SELECT ",
        payment_columns!(),
        " FROM r CROSS JOIN payments WHERE merchant_id = of_merchant AND case_id = of_case",
        is_under_way!()
    );
    Set::new(&["of_merchant", "of_case"], of, sql).asking(payment_columns!())
}

/// A payment to be added, and what is kept of it as text: buyer, lines, and what lists show.
type NewPayment<'a> = (&'a Payment, [Option<String>; 3]);

/// Payments to be added.
pub(super) struct NewPayments<'a>(Vec<NewPayment<'a>>);

impl<'a> NewPayments<'a> {
    /// Of payments, and of the attempts that are added with them. A payment without any gets no text for lists.
    pub(super) fn of(payments: &'a [Payment], attempts: &[Attempt]) -> Result<Self, StoreError> {
        let mut tried: HashMap<&str, Vec<&Attempt>> = HashMap::new();
        for attempt in attempts {
            tried.entry(&attempt.payment_id).or_default().push(attempt);
        }
        let with_texts = |p: &'a Payment| {
            let buyer = p.buyer.as_ref().map(to_json).transpose()?;
            let lines = p.lines.as_ref().map(to_json).transpose()?;
            let glance = tried.remove(p.id.as_str()).map(|its| Glance::of(p, its).text()).transpose()?;
            Ok((p, [buyer, lines, glance]))
        };
        payments.iter().map(with_texts).collect::<Result<_, StoreError>>().map(NewPayments)
    }

    pub(super) fn set(&self) -> Set<'_> {
        let rows = self.0.iter().map(|(p, [buyer, lines, glance])| {
            row![
                &p.merchant_id,
                &p.id,
                &p.case_id,
                p.quote_version,
                &p.payer_id,
                buyer,
                &p.profile_id,
                p.profile_version,
                &p.provider_account_id,
                p.amount.minor(),
                p.amount.currency().code(),
                lines,
                &p.description,
                &p.return_url,
                &p.token,
                p.live,
                p.status.word(),
                p.created_at,
                glance
            ]
        });
        Set::new(
            &[
                "merchant_id", "id", "case_id", "quote_version", "payer_id", "buyer", "profile_id", "profile_version",
                "provider_account_id", "amount", "currency", "lines", "description", "return_url", "token", "live", "status", "created_at",
                "glance",
            ],
            rows,
            "INSERT INTO payments (merchant_id, id, case_id, quote_version, payer_id, buyer, profile_id, profile_version, provider_account_id,
                 amount, currency, lines, description, return_url, token, live, status, late_success, double_payment, mismatch, amount_refunded,
                 version, created_at, updated_at, glance_version, glance)
             SELECT merchant_id, id, case_id, quote_version, payer_id, buyer, profile_id, profile_version, provider_account_id,
                 amount, currency, lines, description, return_url, token, live, status, 0, 0, 0, 0, 1, created_at, created_at, 1, glance FROM r",
        )
    }
}

/// Payments whose status or flags changed, with the version they were read at and what lists show of them now.
pub(super) fn moved_set<'a>(changed: &'a [(&'a Payment, i64, String)]) -> Set<'a> {
    let rows = changed.iter().map(|(p, version_read, glance)| {
        row![
            &p.merchant_id,
            &p.id,
            *version_read,
            p.status.word(),
            p.reason.map(Reason::word),
            p.late_success,
            p.double_payment,
            p.mismatch,
            p.completed_at,
            p.version,
            p.updated_at,
            glance
        ]
    });
    Set::new(
        &[
            "of_merchant", "of_payment", "version_read", "new_status", "new_reason", "late", "doubled", "mismatched", "completed", "new_version",
            "updated", "new_glance",
        ],
        rows,
        "UPDATE payments SET status = r.new_status, status_reason = r.new_reason, late_success = r.late, double_payment = r.doubled,
             mismatch = r.mismatched, completed_at = r.completed, version = r.new_version, updated_at = r.updated,
             glance = r.new_glance, glance_version = r.new_version
         FROM r WHERE merchant_id = r.of_merchant AND id = r.of_payment AND version = r.version_read",
    )
    .exact()
}

/// Payments that nothing changed, but on whose state something was decided, with the version they were read at: held as
/// they are until the end of the transaction.
pub(super) fn held_set<'a>(held: &[&'a Payment]) -> Set<'a> {
    Set::new(
        &["of_merchant", "of_payment", "version_read"],
        held.iter().map(|p| row![&p.merchant_id, &p.id, p.version]),
        "SELECT 1 FROM r JOIN payments p ON p.merchant_id = r.of_merchant AND p.id = r.of_payment AND p.version = r.version_read
         FOR SHARE OF p",
    )
    .exact()
    .holding()
}

/// Moves of payments' statuses to be added: merchant, payment, move.
pub(super) fn transitions_set(new: &[(String, String, Transition)]) -> Set<'_> {
    let rows = new.iter().map(|(merchant, payment, t)| {
        row![merchant, &t.id, payment, &t.from, &t.to, &t.reason, &t.cause, &t.cause_id, t.at]
    });
    Set::new(
        &["merchant_id", "id", "payment_id", "from_status", "to_status", "reason", "cause", "cause_id", "at"],
        rows,
        "INSERT INTO transitions (merchant_id, id, payment_id, from_status, to_status, reason, cause, cause_id, at)
         SELECT merchant_id, id, payment_id, from_status, to_status, reason, cause, cause_id, at FROM r",
    )
}

pub(super) fn payment(r: &Row) -> Result<Payment, StoreError> {
    // In the order of `payment_columns`.
    let mut c = r.cells();
    Ok(Payment {
        merchant_id: c.own_text()?,
        id: c.own_text()?,
        case_id: c.maybe_own_text()?,
        quote_version: c.int()?,
        payer_id: c.own_text()?,
        buyer: c.maybe_json()?,
        profile_id: c.maybe_own_text()?,
        profile_version: c.int()?,
        provider_account_id: c.own_text()?,
        amount: c.money()?,
        lines: c.maybe_json()?,
        description: c.own_text()?,
        return_url: c.own_text()?,
        token: c.own_text()?,
        live: c.flag()?,
        status: c.word()?,
        reason: c.maybe_text()?.and_then(|text| text.parse().ok()),
        late_success: c.flag()?,
        double_payment: c.flag()?,
        mismatch: c.flag()?,
        amount_refunded: c.int()?,
        version: c.int()?,
        created_at: c.int()?,
        updated_at: c.int()?,
        completed_at: c.maybe_int()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stretch_of_time_is_a_stretch_of_ids() {
        let page = |before: Option<&str>| Page { before: before.map(str::to_owned), limit: 20 };
        let (from, to) = (seconds(1_800_000_000), seconds(1_800_086_400));
        let stretch = PaymentFilter { from: Some(from), to: Some(to), ..PaymentFilter::default() };
        let (least, below) = stretch.ids(&page(None));
        let is_within = |id: &str| least.as_str() <= id && id < below.as_str();
        // An id and its `created_at` may be hours apart.
        for at in [from, from - seconds(7200), to - 1000, to + seconds(7200)] {
            assert!(is_within(&first_of("pay", at)), "{at}");
        }
        assert!(!is_within(&first_of("pay", from - 2 * ID_APART)) && !is_within(&first_of("pay", to + 2 * ID_APART)));
        let cursor = first_of("pay", from);
        assert_eq!(stretch.ids(&page(Some(&cursor))), (least, cursor), "the earlier end counts");
        let all = PaymentFilter::default().ids(&page(None));
        assert!(all.0.is_empty() && first_of("pay", to) < all.1);
        let far = PaymentFilter { from: Some(i64::MIN), to: Some(0), ..PaymentFilter::default() };
        assert!(far.ids(&page(None)).0 < first_of("pay", to), "no panic before 1970");
    }
}
