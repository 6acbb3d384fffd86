//! Invoices to be issued and issued, buyers' cards, attachments.

use grosz_providers::invoicer::{Document, InvoiceOrder};

use super::dialect::{StoreError, Tx, args};
use super::jobs::Job;
use super::rows::{Row, to_json};
use super::set::{Set, row};
use crate::domain::invoice::State;

/// One document to be issued for a payment.
#[derive(Debug, Clone)]
pub struct InvoiceRow {
    /// Owner.
    pub merchant_id: String,
    /// `ivc_…`
    pub id: String,
    /// For which payment.
    pub payment_id: String,
    /// `sales`.
    pub kind: String,
    /// Rises when an expert presses "issue again": attempts begin anew, the key stays.
    pub generation: i64,
    /// At which account.
    pub invoicing_account_id: String,
    /// Our key at the invoicing API, made once.
    pub external_key: String,
    /// What is ordered; the dates are computed anew at each send.
    pub order: InvoiceOrder,
    /// Where it stands.
    pub state: State,
    /// Attempts of this generation.
    pub attempts: i64,
    /// When the send in flight began, microseconds.
    pub sending_since: Option<i64>,
    /// When the first send ever began, microseconds.
    pub first_sent_at: Option<i64>,
    /// When the outcome became unknown, microseconds; before a send: since when the account could not be asked.
    pub unknown_since: Option<i64>,
    /// Clean "none" answers in a row since then.
    pub clean_looks: i64,
    /// Class of the last failure.
    pub last_class: Option<String>,
    /// The API's code of the last failure.
    pub last_code: Option<String>,
    /// The API's words, for staff.
    pub last_message: Option<String>,
    /// Fields at fault: path and words.
    pub last_fields: Vec<(String, String)>,
    /// The buyer's id at the invoicing API.
    pub buyer_ref: Option<String>,
    /// The document's id at the invoicing API.
    pub provider_id: Option<String>,
    /// The document as issued.
    pub document: Option<Document>,
    /// The printed number.
    pub number: Option<String>,
    /// Microseconds.
    pub issued_at: Option<i64>,
    /// SHA-256 of the stored PDF, hex; `None` while there is none.
    pub pdf_sha256: Option<String>,
    /// Microseconds.
    pub created_at: i64,
    /// Microseconds.
    pub updated_at: i64,
}

/// Which of the waiting documents of an account is sought.
#[derive(Debug, Clone, Copy)]
pub struct IssueQueue<'a> {
    /// Owner.
    pub merchant_id: &'a str,
    /// At which account.
    pub account_id: &'a str,
    /// Only documents younger than this one.
    pub beyond: Option<&'a str>,
    /// Only documents older than this one.
    pub before: Option<&'a str>,
    /// What the jobs of those that wait for their turn bear as their last word.
    pub mark: &'a str,
    /// Of these only jobs that are due after this instant, microseconds.
    pub after: i64,
    /// Any job that was due by this instant, microseconds.
    pub due: i64,
}

/// What a list shows of an invoice.
#[derive(Debug, Clone)]
pub struct InvoiceGlance {
    /// Of which payment.
    pub payment_id: String,
    /// Where it stands.
    pub state: State,
    /// The printed number.
    pub number: Option<String>,
    /// The PDF is stored here.
    pub has_pdf: bool,
}

/// A file that an expert attached to a payment.
#[derive(Debug, Clone)]
pub struct Attachment {
    /// File name.
    pub name: String,
    /// Media type.
    pub media_type: String,
    /// The number of the invoice it holds, when the expert gave one.
    pub number: Option<String>,
    /// The bytes.
    pub body: Vec<u8>,
}

macro_rules! invoice_columns {
    () => {
        "merchant_id, id, payment_id, kind, generation, invoicing_account_id, external_key, order_body, state, attempts, sending_since, first_sent_at, unknown_since, clean_looks, last_class, last_code, last_message, last_fields, buyer_ref, provider_id, document, number, issued_at, pdf_sha256, created_at, updated_at"
    };
}

impl Tx {
    /// Adds a document to be issued; `false` when the payment has one of that kind. Where an expert's own is attached to the
    /// payment, it is added as one that was made by hand.
    pub async fn add_invoice(&mut self, i: &InvoiceRow) -> Result<bool, StoreError> {
        if let Some(book) = &mut self.book {
            // A payment is completed once, under its lock: it cannot have one yet.
            book.new.invoices.push(i.clone());
            return Ok(true);
        }
        let new = NewInvoices::of(std::slice::from_ref(i))?;
        Ok(self.run_sets(&[new.set()]).await? == [1])
    }

    /// The sales invoice of a payment.
    pub async fn invoice_of_payment(
        &mut self,
        merchant: &str,
        payment: &str,
    ) -> Result<Option<InvoiceRow>, StoreError> {
        let sql = concat!(
            "SELECT ",
            invoice_columns!(),
            " FROM invoices WHERE merchant_id = $1 AND payment_id = $2 AND kind = 'sales'"
        );
        self.row(sql, args![merchant, payment]).await?.map(|r| invoice(&r)).transpose()
    }

    /// What a list shows of the sales invoices of several payments.
    pub async fn invoices_of(&mut self, merchant: &str, payments: &[String]) -> Result<Vec<InvoiceGlance>, StoreError> {
        let sql = self.pick(
            "SELECT payment_id, state, number, pdf_sha256 FROM invoices
             WHERE merchant_id = $1 AND payment_id IN (SELECT value FROM json_each($2)) AND kind = 'sales'",
            "SELECT payment_id, state, number, pdf_sha256 FROM invoices
             WHERE merchant_id = $1 AND payment_id = ANY(ARRAY(SELECT jsonb_array_elements_text(CAST($2 AS jsonb)))) AND kind = 'sales'",
        );
        let rows = self.rows(sql, args![merchant, &to_json(&payments)?]).await?;
        rows.iter()
            .map(|r| {
                Ok(InvoiceGlance {
                    payment_id: r.text("payment_id")?,
                    state: r.word("state")?,
                    number: r.maybe_text("number")?,
                    has_pdf: r.maybe_text("pdf_sha256")?.is_some(),
                })
            })
            .collect()
    }

    /// Those of several payments that have a file attached, if the merchant shows those to payers.
    pub async fn shown_attachments_of(
        &mut self,
        merchant: &str,
        payments: &[String],
    ) -> Result<Vec<String>, StoreError> {
        let sql = self.pick(
            "SELECT f.payment_id FROM merchants m JOIN attachments f ON f.merchant_id = m.id
             WHERE m.id = $1 AND m.show_attachment = 1 AND f.merchant_id = $1 AND f.payment_id IN (SELECT value FROM json_each($2))",
            "SELECT f.payment_id FROM merchants m JOIN attachments f ON f.merchant_id = m.id
             WHERE m.id = $1 AND m.show_attachment = 1 AND f.merchant_id = $1
                 AND f.payment_id = ANY(ARRAY(SELECT jsonb_array_elements_text(CAST($2 AS jsonb))))",
        );
        self.rows(sql, args![merchant, &to_json(&payments)?]).await?.iter().map(|r| r.text("payment_id")).collect()
    }

    /// One document.
    pub async fn invoice_for_read(&mut self, merchant: &str, id: &str) -> Result<Option<InvoiceRow>, StoreError> {
        let sql = concat!("SELECT ", invoice_columns!(), " FROM invoices WHERE merchant_id = $1 AND id = $2");
        self.row(sql, args![merchant, id]).await?.map(|r| invoice(&r)).transpose()
    }

    /// One document, locked until the end of the transaction.
    pub async fn invoice_for_update(&mut self, merchant: &str, id: &str) -> Result<Option<InvoiceRow>, StoreError> {
        let sql = self.pick(
            concat!("SELECT ", invoice_columns!(), " FROM invoices WHERE merchant_id = $1 AND id = $2"),
            concat!("SELECT ", invoice_columns!(), " FROM invoices WHERE merchant_id = $1 AND id = $2 FOR UPDATE"),
        );
        self.row(sql, args![merchant, id]).await?.map(|r| invoice(&r)).transpose()
    }

    /// The oldest document of an account whose issuing waits for its turn: its job bears `mark` and is due after `after`,
    /// or is due by `due` whatever it bears. Only documents younger than `beyond` and older than `before` count, if these
    /// are given.
    pub async fn next_to_issue(&mut self, queue: &IssueQueue<'_>) -> Result<Option<String>, StoreError> {
        // Ids sort by age, and all begin alike: the key of the jobs finds the oldest one. Few jobs are in its way.
        let row = self
            .row(
                "SELECT j.subject AS id FROM jobs j JOIN invoices i ON i.merchant_id = j.merchant_id AND i.id = j.subject
                 WHERE j.merchant_id = $1 AND j.subject > $7 AND j.subject < $3 AND j.kind = 'issue_invoice'
                     AND j.set_aside = '' AND j.state = 'ready' AND ((j.last_error = $4 AND j.run_at > $5) OR j.run_at <= $6)
                     AND i.invoicing_account_id = $2
                 ORDER BY j.subject LIMIT 1",
                args![
                    queue.merchant_id,
                    queue.account_id,
                    queue.before.unwrap_or("ivc`"),
                    queue.mark,
                    queue.after,
                    queue.due,
                    queue.beyond.unwrap_or("ivc_")
                ],
            )
            .await?;
        row.map(|r| r.text("id")).transpose()
    }

    /// The document that was the last to go ahead while the account rested.
    pub async fn last_trial(&mut self, merchant: &str, account: &str) -> Result<Option<String>, StoreError> {
        let sql = "SELECT last_trial FROM invoicing_accounts WHERE merchant_id = $1 AND id = $2";
        self.row(sql, args![merchant, account]).await?.map_or(Ok(None), |r| r.maybe_text("last_trial"))
    }

    /// Takes one of an account's `most` slots for a run, until `until` at the latest; `false` when other runs, in whichever
    /// process, have them all.
    pub async fn take_slot(
        &mut self,
        account: &str,
        most: usize,
        run: &Job,
        now: i64,
        until: i64,
    ) -> Result<bool, StoreError> {
        for no in 0..i64::try_from(most).unwrap_or(i64::MAX) {
            let touched = self
                .run(
                    "INSERT INTO invoicing_slots (merchant_id, invoicing_account_id, no, job_id, fence, held_until)
                     VALUES ($1, $2, $3, $4, $5, $6)
                     ON CONFLICT (merchant_id, invoicing_account_id, no) DO UPDATE
                     SET job_id = excluded.job_id, fence = excluded.fence, held_until = excluded.held_until
                     WHERE invoicing_slots.held_until <= $7 OR invoicing_slots.job_id = excluded.job_id",
                    args![&run.merchant_id, account, no, &run.id, run.fence, until, now],
                )
                .await?;
            if touched == 1 {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Lengthens a run's hold on its slot; `false` when another run has it by now.
    pub async fn keep_slot(&mut self, account: &str, run: &Job, until: i64) -> Result<bool, StoreError> {
        let touched = self
            .run(
                "UPDATE invoicing_slots SET held_until = $5
                 WHERE merchant_id = $1 AND invoicing_account_id = $2 AND job_id = $3 AND fence = $4",
                args![&run.merchant_id, account, &run.id, run.fence, until],
            )
            .await?;
        Ok(touched == 1)
    }

    /// Gives a run's slot back, if it still has it.
    pub async fn free_slot(&mut self, account: &str, run: &Job) -> Result<(), StoreError> {
        self.keep_slot(account, run, 0).await.map(drop)
    }

    /// True when not all of an account's `most` slots are taken.
    pub async fn has_free_slot(
        &mut self,
        merchant: &str,
        account: &str,
        most: usize,
        now: i64,
    ) -> Result<bool, StoreError> {
        let most = i64::try_from(most).unwrap_or(i64::MAX);
        let taken = self
            .number(
                "SELECT COUNT(*) FROM invoicing_slots
                 WHERE merchant_id = $1 AND invoicing_account_id = $2 AND no < $3 AND held_until > $4",
                args![merchant, account, most, now],
            )
            .await?;
        Ok(taken < most)
    }

    /// Writes at which account a document is to be issued, which nothing is known of there.
    pub async fn move_invoice(&mut self, i: &InvoiceRow, account: &str, now: i64) -> Result<(), StoreError> {
        self.run(
            "UPDATE invoices SET invoicing_account_id = $3, first_sent_at = NULL, buyer_ref = NULL, updated_at = $4
             WHERE merchant_id = $1 AND id = $2",
            args![&i.merchant_id, &i.id, account, now],
        )
        .await?;
        Ok(())
    }

    /// Writes everything about a document but its identity and its PDF.
    pub async fn update_invoice(&mut self, i: &InvoiceRow, now: i64) -> Result<(), StoreError> {
        let document = i.document.as_ref().map(to_json).transpose()?;
        self.run(
            "UPDATE invoices SET generation = $3, order_body = $4, state = $5, attempts = $6, sending_since = $7, first_sent_at = $8,
                 unknown_since = $9, clean_looks = $10, last_class = $11, last_code = $12, last_message = $13, last_fields = $14,
                 buyer_ref = $15, provider_id = $16, document = $17, number = $18, issued_at = $19, updated_at = $20
             WHERE merchant_id = $1 AND id = $2",
            args![
                &i.merchant_id, &i.id, i.generation, &to_json(&i.order)?, i.state.word(), i.attempts, i.sending_since, i.first_sent_at,
                i.unknown_since, i.clean_looks, &i.last_class, &i.last_code, &i.last_message, &to_json(&i.last_fields)?, &i.buyer_ref,
                &i.provider_id, &document, &i.number, i.issued_at, now
            ],
        )
        .await?;
        Ok(())
    }

    /// Stores the printed document.
    pub async fn store_pdf(
        &mut self,
        merchant: &str,
        id: &str,
        pdf: &[u8],
        sha256: &str,
        now: i64,
    ) -> Result<(), StoreError> {
        self.run(
            "UPDATE invoices SET pdf = $3, pdf_sha256 = $4, updated_at = $5 WHERE merchant_id = $1 AND id = $2",
            args![merchant, id, pdf, sha256, now],
        )
        .await?;
        Ok(())
    }

    /// The stored PDF of a document.
    pub async fn pdf(&mut self, merchant: &str, id: &str) -> Result<Option<Vec<u8>>, StoreError> {
        match self.row("SELECT pdf FROM invoices WHERE merchant_id = $1 AND id = $2", args![merchant, id]).await? {
            Some(r) => r.maybe_blob("pdf"),
            None => Ok(None),
        }
    }

    /// The id of a buyer's card at an invoicing API, from an earlier invoice with the same data.
    pub async fn buyer_ref(
        &mut self,
        merchant: &str,
        account: &str,
        buyer_sha256: &str,
    ) -> Result<Option<String>, StoreError> {
        let row = self
            .row(
                "SELECT buyer_ref FROM invoice_buyers WHERE merchant_id = $1 AND invoicing_account_id = $2 AND buyer_sha256 = $3",
                args![merchant, account, buyer_sha256],
            )
            .await?;
        row.map(|r| r.text("buyer_ref")).transpose()
    }

    /// Keeps the id of a buyer's card.
    pub async fn put_buyer_ref(
        &mut self,
        merchant: &str,
        account: &str,
        buyer_sha256: &str,
        buyer_ref: &str,
    ) -> Result<(), StoreError> {
        self.run(
            "INSERT INTO invoice_buyers (merchant_id, invoicing_account_id, buyer_sha256, buyer_ref) VALUES ($1, $2, $3, $4)
             ON CONFLICT (merchant_id, invoicing_account_id, buyer_sha256) DO UPDATE SET buyer_ref = excluded.buyer_ref",
            args![merchant, account, buyer_sha256, buyer_ref],
        )
        .await?;
        Ok(())
    }

    /// Attaches a file to a payment, in place of an earlier one. Whoever is about to complete the payment without a lock
    /// finds out, and sees it.
    pub async fn put_attachment(
        &mut self,
        merchant: &str,
        payment: &str,
        a: &Attachment,
        now: i64,
    ) -> Result<(), StoreError> {
        self.raise_version(merchant, payment).await?;
        self.run(
            "INSERT INTO attachments (merchant_id, payment_id, name, media_type, number, body, created_at) VALUES ($1, $2, $3, $4, $5, $6, $7)
             ON CONFLICT (merchant_id, payment_id) DO UPDATE SET name = excluded.name, media_type = excluded.media_type,
                 number = excluded.number, body = excluded.body, created_at = excluded.created_at",
            args![merchant, payment, &a.name, &a.media_type, &a.number, a.body.as_slice(), now],
        )
        .await?;
        Ok(())
    }

    /// True when a file is attached to the payment.
    pub async fn has_attachment(&mut self, merchant: &str, payment: &str) -> Result<bool, StoreError> {
        let count = self
            .number(
                "SELECT COUNT(*) FROM attachments WHERE merchant_id = $1 AND payment_id = $2",
                args![merchant, payment],
            )
            .await?;
        Ok(count > 0)
    }

    /// The file attached to a payment.
    pub async fn attachment(&mut self, merchant: &str, payment: &str) -> Result<Option<Attachment>, StoreError> {
        let row = self
            .row(
                "SELECT name, media_type, number, body FROM attachments WHERE merchant_id = $1 AND payment_id = $2",
                args![merchant, payment],
            )
            .await?;
        row.map(|r| {
            Ok(Attachment {
                name: r.text("name")?,
                media_type: r.text("media_type")?,
                number: r.maybe_text("number")?,
                body: r.blob("body")?,
            })
        })
        .transpose()
    }
}

/// Documents to be issued, with their orders as JSON.
pub(super) struct NewInvoices<'a>(Vec<(&'a InvoiceRow, String)>);

impl<'a> NewInvoices<'a> {
    pub(super) fn of(new: &'a [InvoiceRow]) -> Result<Self, StoreError> {
        new.iter().map(|i| Ok((i, to_json(&i.order)?))).collect::<Result<_, StoreError>>().map(NewInvoices)
    }

    pub(super) fn set(&self) -> Set<'_> {
        let rows = self.0.iter().map(|(i, order)| {
            row![
                &i.merchant_id,
                &i.id,
                &i.payment_id,
                &i.kind,
                i.generation,
                &i.invoicing_account_id,
                &i.external_key,
                order,
                i.state.word(),
                i.created_at
            ]
        });
        Set::new(
            &[
                "merchant_id", "id", "payment_id", "kind", "generation", "invoicing_account_id", "external_key", "order_body", "state",
                "created_at",
            ],
            rows,
            // An index is asked whether the payment has an expert's document; no statement more for all those without.
            "INSERT INTO invoices (merchant_id, id, payment_id, kind, generation, invoicing_account_id, external_key, order_body, state,
                 attempts, clean_looks, last_fields, number, created_at, updated_at)
             SELECT merchant_id, id, payment_id, kind, generation, invoicing_account_id, external_key, order_body,
                 COALESCE((SELECT 'by_hand' FROM attachments a WHERE a.merchant_id = r.merchant_id AND a.payment_id = r.payment_id), state),
                 0, 0, '[]',
                 (SELECT a.number FROM attachments a WHERE a.merchant_id = r.merchant_id AND a.payment_id = r.payment_id),
                 created_at, created_at FROM r WHERE true
             ON CONFLICT (merchant_id, payment_id, kind) DO NOTHING",
        )
    }
}

fn invoice(r: &Row) -> Result<InvoiceRow, StoreError> {
    let document = match r.maybe_text("document")? {
        None => None,
        Some(text) => Some(serde_json::from_str(&text).map_err(|e| StoreError::Unreadable(format!("document: {e}")))?),
    };
    Ok(InvoiceRow {
        merchant_id: r.text("merchant_id")?,
        id: r.text("id")?,
        payment_id: r.text("payment_id")?,
        kind: r.text("kind")?,
        generation: r.int("generation")?,
        invoicing_account_id: r.text("invoicing_account_id")?,
        external_key: r.text("external_key")?,
        order: r.json("order_body")?,
        state: r.word("state")?,
        attempts: r.int("attempts")?,
        sending_since: r.maybe_int("sending_since")?,
        first_sent_at: r.maybe_int("first_sent_at")?,
        unknown_since: r.maybe_int("unknown_since")?,
        clean_looks: r.int("clean_looks")?,
        last_class: r.maybe_text("last_class")?,
        last_code: r.maybe_text("last_code")?,
        last_message: r.maybe_text("last_message")?,
        last_fields: r.json("last_fields")?,
        buyer_ref: r.maybe_text("buyer_ref")?,
        provider_id: r.maybe_text("provider_id")?,
        document,
        number: r.maybe_text("number")?,
        issued_at: r.maybe_int("issued_at")?,
        pdf_sha256: r.maybe_text("pdf_sha256")?,
        created_at: r.int("created_at")?,
        updated_at: r.int("updated_at")?,
    })
}
