//! Payments, attempts, captures, refunds, disputes, transitions.

use grosz_providers::invoicer::{Buyer, InvoiceLine};
use grosz_providers::{Money, Redirect, RefundState};

use super::Page;
use super::dialect::{Row, StoreError, Tx, args, to_json};
use crate::domain::payment::{Reason, Status};

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

/// One try of a payment at one gateway.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// Owner.
    pub merchant_id: String,
    /// `att_…`
    pub id: String,
    /// Of which payment.
    pub payment_id: String,
    /// 1 for the first.
    pub no: i64,
    /// At which account.
    pub provider_account_id: String,
    /// Our name for it at the gateway.
    pub reference: String,
    /// The gateway's name for the checkout.
    pub gateway_ref: Option<String>,
    /// `created`, `open` (the gateway gave a link), `paid`, `failed`, `closed`.
    pub state: String,
    /// Where to send the payer, once the gateway said so.
    pub redirect: Option<Redirect>,
    /// What was to be paid.
    pub amount: Money,
    /// Somebody is asking the gateway for the link until then, microseconds; 0 when asking failed.
    pub start_lease: Option<i64>,
    /// After this it was not to be payable, microseconds.
    pub expires_at: i64,
    /// Microseconds.
    pub created_at: i64,
}

impl Attempt {
    /// True when the gateway was asked for a link and gave none: nobody was ever sent there.
    pub fn start_failed(&self) -> bool {
        self.redirect.is_none() && self.start_lease == Some(0)
    }
}

/// One payment as the gateway names it under an attempt.
#[derive(Debug, Clone)]
pub struct Capture {
    /// `cap_…`
    pub id: String,
    /// Of which attempt.
    pub attempt_id: String,
    /// The gateway's name; empty when it gives none.
    pub gateway_ref: String,
    /// `pending`, `failed`, `paid`.
    pub state: String,
    /// What came.
    pub amount: Money,
    /// It came on top of what was owed.
    pub surplus: bool,
}

/// Money given back, or to be given back.
#[derive(Debug, Clone)]
pub struct Refund {
    /// Owner.
    pub merchant_id: String,
    /// `ref_…`
    pub id: String,
    /// Of which payment.
    pub payment_id: String,
    /// From which capture.
    pub capture_id: String,
    /// How much.
    pub amount: Money,
    /// The caller's words.
    pub reason: Option<String>,
    /// `proposed` (waits for a person), `requested`, `pending`, `succeeded`, `failed`.
    pub state: String,
    /// The gateway's name.
    pub gateway_ref: Option<String>,
    /// The gateway's words.
    pub detail: String,
    /// Microseconds.
    pub created_at: i64,
    /// Microseconds.
    pub updated_at: i64,
}

/// A dispute beside a payment.
#[derive(Debug, Clone)]
pub struct Dispute {
    /// Owner.
    pub merchant_id: String,
    /// `dis_…`
    pub id: String,
    /// Of which payment.
    pub payment_id: String,
    /// The gateway's name.
    pub gateway_ref: String,
    /// The gateway's word.
    pub status: String,
    /// Over.
    pub closed: bool,
    /// Disputed amount.
    pub amount: Option<i64>,
    /// Its currency.
    pub currency: Option<String>,
    /// Microseconds.
    pub due_by: Option<i64>,
    /// Microseconds.
    pub created_at: i64,
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

macro_rules! payment_columns {
    () => {
        "merchant_id, id, case_id, quote_version, payer_id, buyer, profile_id, profile_version, provider_account_id, amount, currency, lines, description, return_url, token, live, status, status_reason, late_success, double_payment, mismatch, amount_refunded, version, created_at, updated_at, completed_at"
    };
}

macro_rules! attempt_columns {
    () => {
        "merchant_id, id, payment_id, no, provider_account_id, reference, gateway_ref, state, redirect, amount, currency, start_lease, expires_at, created_at"
    };
}

macro_rules! refund_columns {
    () => {
        "merchant_id, id, payment_id, capture_id, amount, currency, reason, state, gateway_ref, detail, created_at, updated_at"
    };
}

impl Tx {
    /// Adds a payment; `Taken` when its case has an unfinished one.
    pub async fn add_payment(&mut self, p: &Payment) -> Result<(), StoreError> {
        let buyer = p.buyer.as_ref().map(to_json).transpose()?;
        let lines = p.lines.as_ref().map(to_json).transpose()?;
        self.run(
            "INSERT INTO payments (merchant_id, id, case_id, quote_version, payer_id, buyer, profile_id, profile_version, provider_account_id,
                 amount, currency, lines, description, return_url, token, live, status, late_success, double_payment, mismatch, amount_refunded,
                 version, created_at, updated_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, 0, 0, 0, 0, 1, $18, $18)",
            args![
                &p.merchant_id, &p.id, &p.case_id, p.quote_version, &p.payer_id, &buyer, &p.profile_id, p.profile_version,
                &p.provider_account_id, p.amount.minor(), p.amount.currency().code(), &lines, &p.description, &p.return_url, &p.token,
                p.live, p.status.word(), p.created_at
            ],
        )
        .await?;
        Ok(())
    }

    /// One payment.
    pub async fn payment(&mut self, merchant: &str, id: &str) -> Result<Option<Payment>, StoreError> {
        let sql = concat!("SELECT ", payment_columns!(), " FROM payments WHERE merchant_id = $1 AND id = $2");
        self.row(sql, args![merchant, id]).await?.map(|r| payment(&r)).transpose()
    }

    /// One payment, locked until the end of the transaction.
    pub async fn payment_for_update(&mut self, merchant: &str, id: &str) -> Result<Option<Payment>, StoreError> {
        let sql = self.pick(
            concat!("SELECT ", payment_columns!(), " FROM payments WHERE merchant_id = $1 AND id = $2"),
            concat!("SELECT ", payment_columns!(), " FROM payments WHERE merchant_id = $1 AND id = $2 FOR UPDATE"),
        );
        self.row(sql, args![merchant, id]).await?.map(|r| payment(&r)).transpose()
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
            (Some(_), _) => concat!(
                "SELECT ", payment_columns!(), " FROM payments WHERE merchant_id = $1 AND payer_id = $2 AND ($3 IS NULL OR case_id = $3)
                 AND ($4 IS NULL OR status = $4) AND ($5 IS NULL OR created_at >= $5) AND ($6 IS NULL OR created_at < $6)
                 AND ($7 IS NULL OR live = $7) AND ($8 IS NULL OR id < $8) ORDER BY id DESC LIMIT $9"
            ),
            (None, Some(_)) => concat!(
                "SELECT ", payment_columns!(), " FROM payments WHERE merchant_id = $1 AND $2 IS NULL AND case_id = $3
                 AND ($4 IS NULL OR status = $4) AND ($5 IS NULL OR created_at >= $5) AND ($6 IS NULL OR created_at < $6)
                 AND ($7 IS NULL OR live = $7) AND ($8 IS NULL OR id < $8) ORDER BY id DESC LIMIT $9"
            ),
            (None, None) => concat!(
                "SELECT ", payment_columns!(), " FROM payments WHERE merchant_id = $1 AND $2 IS NULL AND $3 IS NULL
                 AND ($4 IS NULL OR status = $4) AND ($5 IS NULL OR created_at >= $5) AND ($6 IS NULL OR created_at < $6)
                 AND ($7 IS NULL OR live = $7) AND ($8 IS NULL OR id < $8) ORDER BY id DESC LIMIT $9"
            ),
        };
        let rows = self
            .rows(
                sql,
                args![
                    merchant,
                    &f.payer,
                    &f.case,
                    &f.status,
                    f.from,
                    f.to,
                    f.live.map(i64::from),
                    &page.before,
                    page.limit
                ],
            )
            .await?;
        rows.iter().map(payment).collect()
    }

    /// The unfinished payment of a case.
    pub async fn started_payment_of_case(&mut self, merchant: &str, case: &str) -> Result<Option<Payment>, StoreError> {
        let sql = concat!(
            "SELECT ",
            payment_columns!(),
            " FROM payments WHERE merchant_id = $1 AND case_id = $2 AND status = 'started'"
        );
        self.row(sql, args![merchant, case]).await?.map(|r| payment(&r)).transpose()
    }

    /// How many payments of a case are completed.
    pub async fn completed_payments_of_case(&mut self, merchant: &str, case: &str) -> Result<i64, StoreError> {
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
        let touched = self
            .run(
                "UPDATE payments SET status = $4, status_reason = $5, late_success = CASE WHEN $6 = 1 THEN 1 ELSE late_success END,
                     completed_at = COALESCE(completed_at, $7), version = version + 1, updated_at = $8
                 WHERE merchant_id = $1 AND id = $2 AND status = $3",
                args![&p.merchant_id, &p.id, p.status.word(), to.word(), reason.map(Reason::word), late, completed_at, now],
            )
            .await?;
        Ok(touched == 1)
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
        self.run(
            "UPDATE payments SET double_payment = CASE WHEN $3 = 1 THEN 1 ELSE double_payment END,
                 mismatch = CASE WHEN $4 = 1 THEN 1 ELSE mismatch END, version = version + 1, updated_at = $5
             WHERE merchant_id = $1 AND id = $2",
            args![merchant, id, double_payment, mismatch, now],
        )
        .await?;
        Ok(())
    }

    /// Writes the refunded sum from the refunds on record.
    pub async fn sum_refunds(&mut self, merchant: &str, payment: &str, now: i64) -> Result<(), StoreError> {
        self.run(
            "UPDATE payments SET amount_refunded =
                 (SELECT CAST(COALESCE(SUM(r.amount), 0) AS BIGINT) FROM refunds r
                  WHERE r.merchant_id = $1 AND r.payment_id = $2 AND r.state = 'succeeded'),
                 version = version + 1, updated_at = $3
             WHERE merchant_id = $1 AND id = $2",
            args![merchant, payment, now],
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
        self.run(
            "UPDATE payments SET provider_account_id = $3, version = version + 1, updated_at = $4 WHERE merchant_id = $1 AND id = $2",
            args![merchant, id, account, now],
        )
        .await?;
        Ok(())
    }

    /// Adds an attempt.
    pub async fn add_attempt(&mut self, a: &Attempt) -> Result<(), StoreError> {
        let redirect = a.redirect.as_ref().map(to_json).transpose()?;
        self.run(
            "INSERT INTO attempts (merchant_id, id, payment_id, no, provider_account_id, reference, gateway_ref, state, redirect, amount,
                 currency, start_lease, expires_at, created_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)",
            args![
                &a.merchant_id, &a.id, &a.payment_id, a.no, &a.provider_account_id, &a.reference, &a.gateway_ref, &a.state, &redirect,
                a.amount.minor(), a.amount.currency().code(), a.start_lease, a.expires_at, a.created_at
            ],
        )
        .await?;
        Ok(())
    }

    /// Attempts of a payment, the first first.
    pub async fn attempts(&mut self, merchant: &str, payment: &str) -> Result<Vec<Attempt>, StoreError> {
        let sql = concat!(
            "SELECT ",
            attempt_columns!(),
            " FROM attempts WHERE merchant_id = $1 AND payment_id = $2 ORDER BY no LIMIT 1000"
        );
        self.rows(sql, args![merchant, payment]).await?.iter().map(attempt).collect()
    }

    /// Attempts of several payments, for a page of a list; each payment's first first.
    pub async fn attempts_of(&mut self, merchant: &str, payments: &[String]) -> Result<Vec<Attempt>, StoreError> {
        let sql = self.pick(
            concat!(
                "SELECT ",
                attempt_columns!(),
                " FROM attempts WHERE merchant_id = $1 AND payment_id IN (SELECT value FROM json_each($2)) ORDER BY payment_id, no"
            ),
            concat!(
                "SELECT ",
                attempt_columns!(),
                " FROM attempts WHERE merchant_id = $1 AND payment_id = ANY(ARRAY(SELECT jsonb_array_elements_text(CAST($2 AS jsonb))))
                 ORDER BY payment_id, no"
            ),
        );
        self.rows(sql, args![merchant, &to_json(&payments)?]).await?.iter().map(attempt).collect()
    }

    /// One attempt.
    pub async fn attempt(&mut self, merchant: &str, id: &str) -> Result<Option<Attempt>, StoreError> {
        let sql = concat!("SELECT ", attempt_columns!(), " FROM attempts WHERE merchant_id = $1 AND id = $2");
        self.row(sql, args![merchant, id]).await?.map(|r| attempt(&r)).transpose()
    }

    /// The attempt a return address names: begins a request.
    pub async fn attempt_by_id(&mut self, id: &str) -> Result<Option<Attempt>, StoreError> {
        let sql = concat!("SELECT ", attempt_columns!(), " FROM attempts WHERE id = $1");
        self.row(sql, args![id]).await?.map(|r| attempt(&r)).transpose()
    }

    /// The attempt that an event of this account names by our reference, or by the gateway's name for the checkout or
    /// for a payment under it. Never one of another account (F09).
    pub async fn attempt_by_reference(
        &mut self,
        merchant: &str,
        account: &str,
        ours: Option<&str>,
        gateways: Option<&str>,
    ) -> Result<Option<Attempt>, StoreError> {
        if let Some(reference) = ours {
            let sql = concat!(
                "SELECT ",
                attempt_columns!(),
                " FROM attempts WHERE merchant_id = $1 AND provider_account_id = $2 AND reference = $3"
            );
            return self.row(sql, args![merchant, account, reference]).await?.map(|r| attempt(&r)).transpose();
        }
        let sql = concat!(
            "SELECT ",
            attempt_columns!(),
            " FROM attempts WHERE merchant_id = $1 AND provider_account_id = $2 AND gateway_ref = $3"
        );
        if let Some(row) = self.row(sql, args![merchant, account, gateways]).await? {
            return Ok(Some(attempt(&row)?));
        }
        let sql = "SELECT a.merchant_id, a.id, a.payment_id, a.no, a.provider_account_id, a.reference, a.gateway_ref, a.state, a.redirect,
                          a.amount, a.currency, a.start_lease, a.expires_at, a.created_at
                   FROM attempts a JOIN captures c ON c.merchant_id = a.merchant_id AND c.attempt_id = a.id
                   WHERE a.merchant_id = $1 AND a.provider_account_id = $2 AND c.gateway_ref = $3";
        self.row(sql, args![merchant, account, gateways]).await?.map(|r| attempt(&r)).transpose()
    }

    /// Claims the right to ask the gateway for an attempt's link until `until`; `false` when somebody else has it or
    /// the link is there.
    pub async fn claim_start(&mut self, merchant: &str, id: &str, now: i64, until: i64) -> Result<bool, StoreError> {
        let touched = self
            .run(
                "UPDATE attempts SET start_lease = $4 WHERE merchant_id = $1 AND id = $2 AND state = 'created' AND redirect IS NULL
                 AND (start_lease IS NULL OR start_lease < $3)",
                args![merchant, id, now, until],
            )
            .await?;
        Ok(touched == 1)
    }

    /// Records where the gateway wants the payer. A link that is there already stays (F01: a late answer changes nothing).
    pub async fn open_attempt(
        &mut self,
        merchant: &str,
        id: &str,
        redirect: &Redirect,
        gateway_ref: Option<&str>,
        expires_at: Option<i64>,
    ) -> Result<(), StoreError> {
        self.run(
            "UPDATE attempts SET redirect = $3, gateway_ref = COALESCE(gateway_ref, $4), expires_at = COALESCE($5, expires_at),
                 start_lease = NULL, state = CASE WHEN state = 'created' THEN 'open' ELSE state END
             WHERE merchant_id = $1 AND id = $2 AND redirect IS NULL",
            args![merchant, id, &to_json(redirect)?, gateway_ref, expires_at],
        )
        .await?;
        Ok(())
    }

    /// Gives the claim on an attempt's link back, and keeps in mind that asking for it failed.
    pub async fn release_start(&mut self, merchant: &str, id: &str) -> Result<(), StoreError> {
        self.run("UPDATE attempts SET start_lease = 0 WHERE merchant_id = $1 AND id = $2", args![merchant, id]).await?;
        Ok(())
    }

    /// Sets an attempt's state. `paid` is final.
    pub async fn set_attempt_state(&mut self, merchant: &str, id: &str, state: &str) -> Result<(), StoreError> {
        self.run(
            "UPDATE attempts SET state = $3 WHERE merchant_id = $1 AND id = $2 AND state <> 'paid'",
            args![merchant, id, state],
        )
        .await?;
        Ok(())
    }

    /// Keeps the gateway's name for the checkout when an event brings it first.
    pub async fn set_attempt_gateway_ref(
        &mut self,
        merchant: &str,
        id: &str,
        gateway_ref: &str,
    ) -> Result<(), StoreError> {
        self.run(
            "UPDATE attempts SET gateway_ref = COALESCE(gateway_ref, $3) WHERE merchant_id = $1 AND id = $2",
            args![merchant, id, gateway_ref],
        )
        .await?;
        Ok(())
    }

    /// Captures of a payment, over all its attempts.
    pub async fn captures(&mut self, merchant: &str, payment: &str) -> Result<Vec<Capture>, StoreError> {
        let rows = self
            .rows(
                "SELECT id, attempt_id, gateway_ref, state, amount, currency, surplus FROM captures
                 WHERE merchant_id = $1 AND payment_id = $2 ORDER BY id LIMIT 1000",
                args![merchant, payment],
            )
            .await?;
        rows.iter()
            .map(|r| {
                Ok(Capture {
                    id: r.text("id")?,
                    attempt_id: r.text("attempt_id")?,
                    gateway_ref: r.text("gateway_ref")?,
                    state: r.text("state")?,
                    amount: r.money()?,
                    surplus: r.flag("surplus")?,
                })
            })
            .collect()
    }

    /// Writes a capture under its attempt and the gateway's name; a paid one stays paid.
    pub async fn put_capture(
        &mut self,
        merchant: &str,
        payment: &str,
        c: &Capture,
        now: i64,
    ) -> Result<(), StoreError> {
        self.run(
            "INSERT INTO captures (merchant_id, id, payment_id, attempt_id, gateway_ref, state, amount, currency, surplus, updated_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
             ON CONFLICT (merchant_id, attempt_id, gateway_ref) DO UPDATE SET
                 state = CASE WHEN captures.state = 'paid' THEN captures.state ELSE excluded.state END,
                 amount = CASE WHEN captures.state = 'paid' THEN captures.amount ELSE excluded.amount END,
                 surplus = CASE WHEN captures.state = 'paid' THEN captures.surplus ELSE excluded.surplus END,
                 updated_at = excluded.updated_at",
            args![
                merchant, &c.id, payment, &c.attempt_id, &c.gateway_ref, &c.state, c.amount.minor(), c.amount.currency().code(),
                c.surplus, now
            ],
        )
        .await?;
        Ok(())
    }

    /// Adds a refund.
    pub async fn add_refund(&mut self, r: &Refund) -> Result<(), StoreError> {
        self.run(
            "INSERT INTO refunds (merchant_id, id, payment_id, capture_id, amount, currency, reason, state, gateway_ref, detail, created_at, updated_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $11)",
            args![
                &r.merchant_id, &r.id, &r.payment_id, &r.capture_id, r.amount.minor(), r.amount.currency().code(), &r.reason, &r.state,
                &r.gateway_ref, &r.detail, r.created_at
            ],
        )
        .await?;
        Ok(())
    }

    /// Refunds of a payment, oldest first.
    pub async fn refunds(&mut self, merchant: &str, payment: &str) -> Result<Vec<Refund>, StoreError> {
        let sql = concat!(
            "SELECT ",
            refund_columns!(),
            " FROM refunds WHERE merchant_id = $1 AND payment_id = $2 ORDER BY id LIMIT 1000"
        );
        self.rows(sql, args![merchant, payment]).await?.iter().map(refund).collect()
    }

    /// One refund.
    pub async fn refund(&mut self, merchant: &str, id: &str) -> Result<Option<Refund>, StoreError> {
        let sql = concat!("SELECT ", refund_columns!(), " FROM refunds WHERE merchant_id = $1 AND id = $2");
        self.row(sql, args![merchant, id]).await?.map(|r| refund(&r)).transpose()
    }

    /// Moves a refund's state.
    pub async fn update_refund(
        &mut self,
        merchant: &str,
        id: &str,
        state: &str,
        gateway_ref: Option<&str>,
        detail: &str,
        now: i64,
    ) -> Result<(), StoreError> {
        self.run(
            "UPDATE refunds SET state = $3, gateway_ref = COALESCE($4, gateway_ref), detail = $5, updated_at = $6
             WHERE merchant_id = $1 AND id = $2",
            args![merchant, id, state, gateway_ref, detail, now],
        )
        .await?;
        Ok(())
    }

    /// Writes a dispute under the gateway's name.
    pub async fn put_dispute(&mut self, d: &Dispute) -> Result<(), StoreError> {
        self.run(
            "INSERT INTO disputes (merchant_id, id, payment_id, gateway_ref, status, closed, amount, currency, due_by, created_at, updated_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $10)
             ON CONFLICT (merchant_id, payment_id, gateway_ref) DO UPDATE SET
                 status = CASE WHEN disputes.closed = 1 AND excluded.closed = 0 THEN disputes.status ELSE excluded.status END,
                 closed = CASE WHEN disputes.closed = 1 THEN 1 ELSE excluded.closed END,
                 due_by = COALESCE(excluded.due_by, disputes.due_by), updated_at = excluded.updated_at",
            args![
                &d.merchant_id, &d.id, &d.payment_id, &d.gateway_ref, &d.status, d.closed, d.amount, &d.currency, d.due_by, d.created_at
            ],
        )
        .await?;
        Ok(())
    }

    /// Disputes of a payment.
    pub async fn disputes(&mut self, merchant: &str, payment: &str) -> Result<Vec<Dispute>, StoreError> {
        let rows = self
            .rows(
                "SELECT merchant_id, id, payment_id, gateway_ref, status, closed, amount, currency, due_by, created_at
                 FROM disputes WHERE merchant_id = $1 AND payment_id = $2 ORDER BY id LIMIT 1000",
                args![merchant, payment],
            )
            .await?;
        rows.iter()
            .map(|r| {
                Ok(Dispute {
                    merchant_id: r.text("merchant_id")?,
                    id: r.text("id")?,
                    payment_id: r.text("payment_id")?,
                    gateway_ref: r.text("gateway_ref")?,
                    status: r.text("status")?,
                    closed: r.flag("closed")?,
                    amount: r.maybe_int("amount")?,
                    currency: r.maybe_text("currency")?,
                    due_by: r.maybe_int("due_by")?,
                    created_at: r.int("created_at")?,
                })
            })
            .collect()
    }

    /// Records a move of a payment's status.
    pub async fn add_transition(&mut self, merchant: &str, payment: &str, t: &Transition) -> Result<(), StoreError> {
        self.run(
            "INSERT INTO transitions (merchant_id, id, payment_id, from_status, to_status, reason, cause, cause_id, at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)",
            args![merchant, &t.id, payment, &t.from, &t.to, &t.reason, &t.cause, &t.cause_id, t.at],
        )
        .await?;
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

/// The word a refund's state is kept under.
pub(crate) fn refund_word(state: RefundState) -> &'static str {
    match state {
        RefundState::Pending => "pending",
        RefundState::Succeeded => "succeeded",
        RefundState::Failed => "failed",
    }
}

fn maybe_json<T: serde::de::DeserializeOwned>(r: &Row, name: &str) -> Result<Option<T>, StoreError> {
    match r.maybe_text(name)? {
        None => Ok(None),
        Some(text) => serde_json::from_str(&text).map(Some).map_err(|e| StoreError::Unreadable(format!("{name}: {e}"))),
    }
}

fn payment(r: &Row) -> Result<Payment, StoreError> {
    let reason = r.maybe_text("status_reason")?;
    Ok(Payment {
        merchant_id: r.text("merchant_id")?,
        id: r.text("id")?,
        case_id: r.maybe_text("case_id")?,
        quote_version: r.int("quote_version")?,
        payer_id: r.text("payer_id")?,
        buyer: maybe_json(r, "buyer")?,
        profile_id: r.maybe_text("profile_id")?,
        profile_version: r.int("profile_version")?,
        provider_account_id: r.text("provider_account_id")?,
        amount: r.money()?,
        lines: maybe_json(r, "lines")?,
        description: r.text("description")?,
        return_url: r.text("return_url")?,
        token: r.text("token")?,
        live: r.flag("live")?,
        status: r.word("status")?,
        reason: reason.and_then(|text| text.parse().ok()),
        late_success: r.flag("late_success")?,
        double_payment: r.flag("double_payment")?,
        mismatch: r.flag("mismatch")?,
        amount_refunded: r.int("amount_refunded")?,
        version: r.int("version")?,
        created_at: r.int("created_at")?,
        updated_at: r.int("updated_at")?,
        completed_at: r.maybe_int("completed_at")?,
    })
}

fn attempt(r: &Row) -> Result<Attempt, StoreError> {
    Ok(Attempt {
        merchant_id: r.text("merchant_id")?,
        id: r.text("id")?,
        payment_id: r.text("payment_id")?,
        no: r.int("no")?,
        provider_account_id: r.text("provider_account_id")?,
        reference: r.text("reference")?,
        gateway_ref: r.maybe_text("gateway_ref")?,
        state: r.text("state")?,
        redirect: maybe_json(r, "redirect")?,
        amount: r.money()?,
        start_lease: r.maybe_int("start_lease")?,
        expires_at: r.int("expires_at")?,
        created_at: r.int("created_at")?,
    })
}

fn refund(r: &Row) -> Result<Refund, StoreError> {
    Ok(Refund {
        merchant_id: r.text("merchant_id")?,
        id: r.text("id")?,
        payment_id: r.text("payment_id")?,
        capture_id: r.text("capture_id")?,
        amount: r.money()?,
        reason: r.maybe_text("reason")?,
        state: r.text("state")?,
        gateway_ref: r.maybe_text("gateway_ref")?,
        detail: r.text("detail")?,
        created_at: r.int("created_at")?,
        updated_at: r.int("updated_at")?,
    })
}
