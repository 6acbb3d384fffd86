//! Alerts and notices.

use super::Page;
use super::dialect::{StoreError, Tx, args};
use super::rows::{Row, to_json};

/// Something a person must look at.
#[derive(Debug, Clone)]
pub struct Alert {
    /// Owner.
    pub merchant_id: String,
    /// `alr_…`
    pub id: String,
    /// Stable code: `invoice.exhausted`.
    pub code: String,
    /// One open alert per key.
    pub dedupe_key: String,
    /// About which payment.
    pub payment_id: Option<String>,
    /// About which case.
    pub case_id: Option<String>,
    /// Who should look.
    pub expert_id: Option<String>,
    /// Why, in plain words.
    pub reason: String,
    /// Fields to correct: path and words.
    pub fields: Vec<(String, String)>,
    /// What to do.
    pub next_step: String,
    /// Microseconds.
    pub opened_at: i64,
    /// Microseconds; `None` while it is open.
    pub resolved_at: Option<i64>,
}

/// A message to a person, sent by a job.
#[derive(Debug, Clone)]
pub struct Notice {
    /// Owner.
    pub merchant_id: String,
    /// `ntc_…`
    pub id: String,
    /// What kind: `invoice_failed`, `invoice_ready`, `alert`.
    pub kind: String,
    /// One notice per key, for ever (I8).
    pub dedupe_key: String,
    /// The alert it belongs to.
    pub alert_id: Option<String>,
    /// The payment it is about.
    pub payment_id: Option<String>,
    /// Address.
    pub recipient: String,
    /// Language it is written in.
    pub language: String,
    /// Subject line.
    pub subject: String,
    /// Text.
    pub body: String,
    /// Stable Message-ID.
    pub message_id: String,
    /// `queued`, `sent`, `refused`.
    pub state: String,
    /// The mail server's words, when refused.
    pub detail: Option<String>,
    /// Microseconds.
    pub created_at: i64,
    /// Microseconds.
    pub sent_at: Option<i64>,
}

/// A page of the alerts that a filter over the payment `$2` wants.
macro_rules! alert_page {
    ($filter:expr) => {
        concat!(
            "SELECT merchant_id, id, code, dedupe_key, payment_id, case_id, expert_id, reason, fields, next_step, opened_at, resolved_at
             FROM alerts WHERE merchant_id = $1 AND ", $filter, " AND id < $3 ORDER BY id DESC LIMIT $4"
        )
    };
}

/// A page of the notices that a filter over the payment `$2` wants.
macro_rules! notice_page {
    ($filter:expr) => {
        concat!(
            "SELECT merchant_id, id, kind, dedupe_key, alert_id, payment_id, recipient, language, subject, body, message_id, state, detail, created_at, sent_at
             FROM notices WHERE merchant_id = $1 AND ", $filter, " AND id < $3 ORDER BY id DESC LIMIT $4"
        )
    };
}

impl Tx {
    /// Opens an alert; `false` when one with its key is open.
    pub async fn open_alert(&mut self, a: &Alert) -> Result<bool, StoreError> {
        let touched = self
            .run(
                "INSERT INTO alerts (merchant_id, id, code, dedupe_key, payment_id, case_id, expert_id, reason, fields, next_step, opened_at)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
                 ON CONFLICT (merchant_id, dedupe_key) WHERE resolved_at IS NULL DO NOTHING",
                args![
                    &a.merchant_id, &a.id, &a.code, &a.dedupe_key, &a.payment_id, &a.case_id, &a.expert_id, &a.reason,
                    &to_json(&a.fields)?, &a.next_step, a.opened_at
                ],
            )
            .await?;
        Ok(touched == 1)
    }

    /// One alert.
    pub async fn alert(&mut self, merchant: &str, id: &str) -> Result<Option<Alert>, StoreError> {
        self.row(
            "SELECT merchant_id, id, code, dedupe_key, payment_id, case_id, expert_id, reason, fields, next_step, opened_at, resolved_at
             FROM alerts WHERE merchant_id = $1 AND id = $2",
            args![merchant, id],
        )
        .await?
        .map(|r| alert(&r))
        .transpose()
    }

    /// A page of alerts, open ones only when asked.
    pub async fn alerts(
        &mut self,
        merchant: &str,
        payment: Option<&str>,
        open_only: bool,
        page: &Page,
    ) -> Result<Vec<Alert>, StoreError> {
        // One spelling for each filter, so that the engine can use the index that fits.
        let sql = match (payment, open_only) {
            (Some(_), true) => alert_page!("payment_id = $2 AND resolved_at IS NULL"),
            (Some(_), false) => alert_page!("payment_id = $2"),
            (None, true) => alert_page!("$2 IS NULL AND resolved_at IS NULL"),
            (None, false) => alert_page!("$2 IS NULL"),
        };
        let rows = self.rows(sql, args![merchant, payment, page.bound(), page.limit]).await?;
        rows.iter().map(alert).collect()
    }

    /// Resolves an open alert; `false` when it is not open.
    pub async fn resolve_alert(&mut self, merchant: &str, id: &str, now: i64) -> Result<bool, StoreError> {
        let touched = self
            .run(
                "UPDATE alerts SET resolved_at = $3 WHERE merchant_id = $1 AND id = $2 AND resolved_at IS NULL",
                args![merchant, id, now],
            )
            .await?;
        Ok(touched == 1)
    }

    /// Resolves the open alert with that key, when the matter settled itself.
    pub async fn resolve_alert_by_key(&mut self, merchant: &str, key: &str, now: i64) -> Result<(), StoreError> {
        self.run(
            "UPDATE alerts SET resolved_at = $3 WHERE merchant_id = $1 AND dedupe_key = $2 AND resolved_at IS NULL",
            args![merchant, key, now],
        )
        .await?;
        Ok(())
    }

    /// Writes a notice to be sent; `false` when one with its key was ever written.
    pub async fn add_notice(&mut self, n: &Notice) -> Result<bool, StoreError> {
        let touched = self
            .run(
                "INSERT INTO notices (merchant_id, id, kind, dedupe_key, alert_id, payment_id, recipient, language, subject, body, message_id, state, created_at)
                 VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, 'queued', $12)
                 ON CONFLICT (merchant_id, dedupe_key) DO NOTHING",
                args![
                    &n.merchant_id, &n.id, &n.kind, &n.dedupe_key, &n.alert_id, &n.payment_id, &n.recipient, &n.language, &n.subject,
                    &n.body, &n.message_id, n.created_at
                ],
            )
            .await?;
        Ok(touched == 1)
    }

    /// One notice.
    pub async fn notice(&mut self, merchant: &str, id: &str) -> Result<Option<Notice>, StoreError> {
        self.row(
            "SELECT merchant_id, id, kind, dedupe_key, alert_id, payment_id, recipient, language, subject, body, message_id, state, detail, created_at, sent_at
             FROM notices WHERE merchant_id = $1 AND id = $2",
            args![merchant, id],
        )
        .await?
        .map(|r| notice(&r))
        .transpose()
    }

    /// A page of notices.
    pub async fn notices(
        &mut self,
        merchant: &str,
        payment: Option<&str>,
        page: &Page,
    ) -> Result<Vec<Notice>, StoreError> {
        let sql = match payment {
            Some(_) => notice_page!("payment_id = $2"),
            None => notice_page!("$2 IS NULL"),
        };
        let rows = self.rows(sql, args![merchant, payment, page.bound(), page.limit]).await?;
        rows.iter().map(notice).collect()
    }

    /// Writes what became of a notice.
    pub async fn settle_notice(
        &mut self,
        merchant: &str,
        id: &str,
        state: &str,
        detail: Option<&str>,
        sent_at: Option<i64>,
    ) -> Result<(), StoreError> {
        self.run(
            "UPDATE notices SET state = $3, detail = $4, sent_at = $5 WHERE merchant_id = $1 AND id = $2",
            args![merchant, id, state, detail, sent_at],
        )
        .await?;
        Ok(())
    }
}

fn alert(r: &Row) -> Result<Alert, StoreError> {
    Ok(Alert {
        merchant_id: r.text("merchant_id")?,
        id: r.text("id")?,
        code: r.text("code")?,
        dedupe_key: r.text("dedupe_key")?,
        payment_id: r.maybe_text("payment_id")?,
        case_id: r.maybe_text("case_id")?,
        expert_id: r.maybe_text("expert_id")?,
        reason: r.text("reason")?,
        fields: r.json("fields")?,
        next_step: r.text("next_step")?,
        opened_at: r.int("opened_at")?,
        resolved_at: r.maybe_int("resolved_at")?,
    })
}

fn notice(r: &Row) -> Result<Notice, StoreError> {
    Ok(Notice {
        merchant_id: r.text("merchant_id")?,
        id: r.text("id")?,
        kind: r.text("kind")?,
        dedupe_key: r.text("dedupe_key")?,
        alert_id: r.maybe_text("alert_id")?,
        payment_id: r.maybe_text("payment_id")?,
        recipient: r.text("recipient")?,
        language: r.text("language")?,
        subject: r.text("subject")?,
        body: r.text("body")?,
        message_id: r.text("message_id")?,
        state: r.text("state")?,
        detail: r.maybe_text("detail")?,
        created_at: r.int("created_at")?,
        sent_at: r.maybe_int("sent_at")?,
    })
}
