//! Attempts of payments at gateways, and the captures under them.

use grosz_providers::{Money, Redirect};

use super::dialect::{Arg, StoreError, Tx, args};
use super::rows::{Row, to_json};
use super::set::{Question, Set, row};

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
    /// True when nobody asked the gateway for a link, as far as is known here: a backup does not know what came after it.
    pub fn never_begun(&self) -> bool {
        self.redirect.is_none() && self.start_lease.is_none()
    }

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

macro_rules! attempt_columns {
    () => {
        "merchant_id, id, payment_id, no, provider_account_id, reference, gateway_ref, state, redirect, amount, currency, start_lease, expires_at, created_at"
    };
}

impl Tx {
    /// Adds an attempt.
    pub async fn add_attempt(&mut self, a: &Attempt) -> Result<(), StoreError> {
        match &mut self.book {
            Some(book) => book.new.attempts.push(a.clone()),
            None => {
                self.raise_version(&a.merchant_id, &a.payment_id).await?;
                self.run_sets(&[new_set(std::slice::from_ref(a))]).await?;
            }
        }
        Ok(())
    }

    /// Attempts of a payment, the first first.
    pub async fn attempts(&mut self, merchant: &str, payment: &str) -> Result<Vec<Attempt>, StoreError> {
        if let Some(folder) = self.folder(merchant, payment) {
            return Ok(folder.attempts.iter().map(|(a, _)| a.clone()).collect());
        }
        if let Some(book) = &self.book {
            let mine = |a: &&Attempt| a.merchant_id == merchant && a.payment_id == payment;
            let new: Vec<Attempt> = book.new.attempts.iter().filter(mine).cloned().collect();
            // A payment that is not in the book's folders has all its attempts there, or none.
            if !new.is_empty() {
                return Ok(new);
            }
        }
        let sql = concat!(
            "SELECT ",
            attempt_columns!(),
            " FROM attempts WHERE merchant_id = $1 AND payment_id = $2 ORDER BY no LIMIT 1000"
        );
        self.rows(sql, args![merchant, payment]).await?.iter().map(attempt).collect()
    }

    /// The attempts of a payment, but for one, that can still be paid; the first first.
    pub async fn open_attempts_beside(
        &mut self,
        merchant: &str,
        payment: &str,
        attempt: &str,
    ) -> Result<Vec<Attempt>, StoreError> {
        let is_wanted = |a: &Attempt| a.id != attempt && matches!(a.state.as_str(), "created" | "open");
        if let Some(folder) = self.folder(merchant, payment) {
            return Ok(folder.attempts.iter().map(|(a, _)| a).filter(|a| is_wanted(a)).cloned().collect());
        }
        let mut all = self.attempts(merchant, payment).await?;
        all.retain(is_wanted);
        Ok(all)
    }

    /// Whether anything was ever to be paid at an account.
    pub async fn has_attempts(&mut self, merchant: &str, account: &str) -> Result<bool, StoreError> {
        let sql = "SELECT 1 FROM attempts WHERE merchant_id = $1 AND provider_account_id = $2 LIMIT 1";
        Ok(self.row(sql, args![merchant, account]).await?.is_some())
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
            if let Some(known) = self.booked_attempt(merchant, account, reference) {
                return Ok(known);
            }
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
            let found = attempt(&row)?;
            return Ok(Some(self.as_booked(found)));
        }
        let sql = "SELECT a.merchant_id, a.id, a.payment_id, a.no, a.provider_account_id, a.reference, a.gateway_ref, a.state, a.redirect,
                          a.amount, a.currency, a.start_lease, a.expires_at, a.created_at
                   FROM attempts a JOIN captures c ON c.merchant_id = a.merchant_id AND c.attempt_id = a.id
                   WHERE a.merchant_id = $1 AND a.provider_account_id = $2 AND c.gateway_ref = $3";
        let found = self.row(sql, args![merchant, account, gateways]).await?.map(|r| attempt(&r)).transpose()?;
        match (found, gateways) {
            (Some(found), _) => Ok(Some(self.as_booked(found))),
            // A capture may be in the book only.
            (None, Some(gateway_ref)) => Ok(self.attempt_with_new_capture(merchant, account, gateway_ref)),
            (None, None) => Ok(None),
        }
    }

    /// An attempt as it is now that its payment is locked.
    pub async fn attempt_as_locked(&mut self, found: Attempt) -> Result<Attempt, StoreError> {
        if self.folder(&found.merchant_id, &found.payment_id).is_some() {
            return Ok(self.as_booked(found));
        }
        Ok(self.attempt(&found.merchant_id, &found.id).await?.unwrap_or(found))
    }

    /// An attempt as the book has it, if it has it.
    fn as_booked(&mut self, found: Attempt) -> Attempt {
        let known = self.folder(&found.merchant_id, &found.payment_id);
        let known = known.and_then(|f| f.attempts.iter().find(|(a, _)| a.id == found.id).map(|(a, _)| a.clone()));
        known.unwrap_or(found)
    }

    fn attempt_with_new_capture(&mut self, merchant: &str, account: &str, gateway_ref: &str) -> Option<Attempt> {
        let folders = self.folders().filter(|f| f.payment.merchant_id == merchant);
        for folder in folders {
            let capture = folder.captures.iter().find(|kept| kept.capture.gateway_ref == gateway_ref);
            let attempt =
                capture.and_then(|kept| folder.attempts.iter().find(|(a, _)| a.id == kept.capture.attempt_id));
            if let Some((attempt, _)) = attempt.filter(|(a, _)| a.provider_account_id == account) {
                return Some(attempt.clone());
            }
        }
        None
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
        payment: &str,
        id: &str,
        redirect: &Redirect,
        gateway_ref: Option<&str>,
        expires_at: Option<i64>,
    ) -> Result<(), StoreError> {
        self.raise_version(merchant, payment).await?;
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
    pub async fn set_attempt_state(
        &mut self,
        merchant: &str,
        payment: &str,
        id: &str,
        state: &str,
    ) -> Result<(), StoreError> {
        if let Some(folder) = self.folder(merchant, payment) {
            for (attempt, is_changed) in folder.attempts.iter_mut().filter(|(a, _)| a.id == id && a.state != "paid") {
                attempt.state = state.to_owned();
                *is_changed = true;
            }
            return Ok(());
        }
        self.raise_version(merchant, payment).await?;
        self.run(
            "UPDATE attempts SET state = $3 WHERE merchant_id = $1 AND id = $2 AND state <> 'paid'",
            args![merchant, id, state],
        )
        .await?;
        Ok(())
    }

    /// Captures of a payment, over all its attempts.
    pub async fn captures(&mut self, merchant: &str, payment: &str) -> Result<Vec<Capture>, StoreError> {
        if let Some(folder) = self.folder(merchant, payment) {
            return Ok(folder.captures.iter().map(|kept| kept.capture.clone()).collect());
        }
        let rows = self
            .rows(
                "SELECT id, attempt_id, gateway_ref, state, amount, currency, surplus FROM captures
                 WHERE merchant_id = $1 AND payment_id = $2 ORDER BY id LIMIT 1000",
                args![merchant, payment],
            )
            .await?;
        rows.iter().map(capture).collect()
    }

    /// Writes a capture under its attempt and the gateway's name; a paid one stays paid.
    pub async fn put_capture(
        &mut self,
        merchant: &str,
        payment: &str,
        c: &Capture,
        now: i64,
    ) -> Result<(), StoreError> {
        if let Some(folder) = self.folder(merchant, payment) {
            folder.put_capture(c, now);
            return Ok(());
        }
        self.raise_version(merchant, payment).await?;
        self.run_sets(&[captures_set(&[(merchant, payment, c, now)], PUT_CAPTURES)]).await?;
        Ok(())
    }
}

/// The attempts of these payments: merchant, payment.
pub(super) fn of_payments<'a>(of: impl IntoIterator<Item = [Arg<'a>; 2]>) -> Question<'a> {
    let sql = concat!(
        "SELECT ",
        attempt_columns!(),
        " FROM r CROSS JOIN attempts WHERE merchant_id = of_merchant AND payment_id = of_payment"
    );
    Set::new(&["of_merchant", "of_payment"], of, sql).asking(attempt_columns!())
}

/// The captures of these payments: merchant, payment.
pub(super) fn captures_of_payments<'a>(of: impl IntoIterator<Item = [Arg<'a>; 2]>) -> Question<'a> {
    let sql =
        "SELECT payment_id, id, attempt_id, gateway_ref, state, amount, currency, surplus FROM r CROSS JOIN captures
               WHERE merchant_id = of_merchant AND payment_id = of_payment";
    let columns = "payment_id, id, attempt_id, gateway_ref, state, amount, currency, surplus";
    Set::new(&["of_merchant", "of_payment"], of, sql).asking(columns)
}

/// Attempts to be added.
pub(super) fn new_set(new: &[Attempt]) -> Set<'_> {
    // What has a redirect was added before: attempts begin without one.
    let rows = new.iter().map(|a| {
        row![
            &a.merchant_id,
            &a.id,
            &a.payment_id,
            a.no,
            &a.provider_account_id,
            &a.reference,
            &a.gateway_ref,
            &a.state,
            a.amount.minor(),
            a.amount.currency().code(),
            a.start_lease,
            a.expires_at,
            a.created_at
        ]
    });
    Set::new(
        &[
            "merchant_id", "id", "payment_id", "no", "provider_account_id", "reference", "gateway_ref", "state", "amount", "currency",
            "start_lease", "expires_at", "created_at",
        ],
        rows,
        "INSERT INTO attempts (merchant_id, id, payment_id, no, provider_account_id, reference, gateway_ref, state, amount, currency,
             start_lease, expires_at, created_at)
         SELECT merchant_id, id, payment_id, no, provider_account_id, reference, gateway_ref, state, amount, currency, start_lease,
             expires_at, created_at FROM r",
    )
}

/// Attempts whose state changed.
pub(super) fn states_set<'a>(changed: &[&'a Attempt]) -> Set<'a> {
    Set::new(
        &["of_merchant", "of_attempt", "new_state"],
        changed.iter().map(|a| row![&a.merchant_id, &a.id, &a.state]),
        "UPDATE attempts SET state = r.new_state FROM r WHERE merchant_id = r.of_merchant AND id = r.of_attempt AND state <> 'paid'",
    )
}

macro_rules! add_captures {
    ($otherwise:literal) => {
        concat!(
            "INSERT INTO captures (merchant_id, id, payment_id, attempt_id, gateway_ref, state, amount, currency, surplus, updated_at)
             SELECT merchant_id, id, payment_id, attempt_id, gateway_ref, state, amount, currency, surplus, updated_at FROM r", $otherwise
        )
    };
}

/// Adds captures that are known to be new; where they are not, it is an error.
pub(super) const ADD_CAPTURES: &str = add_captures!("");
/// Adds captures, or changes those that are there; a paid one stays paid.
pub(super) const PUT_CAPTURES: &str = add_captures!(
    " WHERE true ON CONFLICT (merchant_id, attempt_id, gateway_ref) DO UPDATE SET
      state = CASE WHEN captures.state = 'paid' THEN captures.state ELSE excluded.state END,
      amount = CASE WHEN captures.state = 'paid' THEN captures.amount ELSE excluded.amount END,
      surplus = CASE WHEN captures.state = 'paid' THEN captures.surplus ELSE excluded.surplus END,
      updated_at = excluded.updated_at"
);

/// A capture to be written: merchant, payment, capture, instant.
pub(super) type PutCapture<'a> = (&'a str, &'a str, &'a Capture, i64);

/// Captures to be written.
pub(super) fn captures_set<'a>(put: &[PutCapture<'a>], how: &'static str) -> Set<'a> {
    let rows = put.iter().map(|(merchant, payment, c, now)| {
        row![
            *merchant,
            &c.id,
            *payment,
            &c.attempt_id,
            &c.gateway_ref,
            &c.state,
            c.amount.minor(),
            c.amount.currency().code(),
            c.surplus,
            *now
        ]
    });
    Set::new(
        &[
            "merchant_id",
            "id",
            "payment_id",
            "attempt_id",
            "gateway_ref",
            "state",
            "amount",
            "currency",
            "surplus",
            "updated_at",
        ],
        rows,
        how,
    )
}

pub(super) fn capture(r: &Row) -> Result<Capture, StoreError> {
    Ok(Capture {
        id: r.text("id")?,
        attempt_id: r.text("attempt_id")?,
        gateway_ref: r.text("gateway_ref")?,
        state: r.text("state")?,
        amount: r.money()?,
        surplus: r.flag("surplus")?,
    })
}

pub(super) fn attempt(r: &Row) -> Result<Attempt, StoreError> {
    // In the order of `attempt_columns`.
    let mut c = r.cells();
    Ok(Attempt {
        merchant_id: c.own_text()?,
        id: c.own_text()?,
        payment_id: c.own_text()?,
        no: c.int()?,
        provider_account_id: c.own_text()?,
        reference: c.own_text()?,
        gateway_ref: c.maybe_own_text()?,
        state: c.own_text()?,
        redirect: c.maybe_json()?,
        amount: c.money()?,
        start_lease: c.maybe_int()?,
        expires_at: c.int()?,
        created_at: c.int()?,
    })
}
