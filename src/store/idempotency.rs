//! Idempotency keys: the answer is stored in the same transaction as the effect.

use super::book::name;
use super::dialect::{Arg, StoreError, Tx, args};
use super::rows::Row;
use super::set::{Question, Set, row};

/// The status of an answer that is no longer kept.
pub const ANSWER_GONE: i64 = 410;

/// An answer given before.
#[derive(Debug, Clone)]
pub struct StoredAnswer {
    /// SHA-256 over method, path and parameters of the first call.
    pub fingerprint: String,
    /// HTTP status; [`ANSWER_GONE`] when the answer is no longer kept.
    pub status: i64,
    /// JSON body; of an answer that is no longer kept the id of what was made, where that is known.
    pub body: String,
}

impl Tx {
    /// The answer stored under a merchant's key.
    pub async fn stored_answer(&mut self, merchant: &str, key: &str) -> Result<Option<StoredAnswer>, StoreError> {
        if let Some(known) = self.book.as_ref().and_then(|book| book.answers.get(&name(merchant, key))) {
            return Ok(known.clone());
        }
        let row = self
            .row(
                "SELECT fingerprint, status, body FROM idempotency_keys WHERE merchant_id = $1 AND idempotency_key = $2",
                args![merchant, key],
            )
            .await?;
        row.map(|r| answer(&r)).transpose()
    }

    /// Stores a key with its answer at once, in a transaction that has a book: when the book is written, a key that
    /// somebody else took meanwhile is a conflict.
    ///
    /// # Errors
    /// The database; `Taken` when the key is.
    pub async fn add_answer(&mut self, new: NewAnswer) -> Result<(), StoreError> {
        if let Some(book) = &mut self.book {
            book.answers.insert(name(&new.merchant_id, &new.key), Some(new.answer.clone()));
            book.new.answers.push(new);
            return Ok(());
        }
        self.run_sets(&[new_set(&[new])]).await.map(drop)
    }

    /// Claims a key for this transaction. On PostgreSQL a second caller waits here until the first one ends; on
    /// SQLite the writer is alone. `false`: another call has it.
    pub async fn claim_idempotency_key(
        &mut self,
        merchant: &str,
        key: &str,
        fingerprint: &str,
        now: i64,
    ) -> Result<bool, StoreError> {
        let touched = self
            .run(
                "INSERT INTO idempotency_keys (merchant_id, idempotency_key, fingerprint, status, body, created_at)
                 VALUES ($1, $2, $3, 0, '', $4) ON CONFLICT (merchant_id, idempotency_key) DO NOTHING",
                args![merchant, key, fingerprint, now],
            )
            .await?;
        Ok(touched == 1)
    }

    /// Stores the answer under a claimed key.
    pub async fn store_answer(&mut self, merchant: &str, key: &str, status: i64, body: &str) -> Result<(), StoreError> {
        self.run(
            "UPDATE idempotency_keys SET status = $3, body = $4 WHERE merchant_id = $1 AND idempotency_key = $2",
            args![merchant, key, status, body],
        )
        .await?;
        Ok(())
    }
}

/// A key with the answer that is stored under it.
#[derive(Debug, Clone)]
pub struct NewAnswer {
    /// Owner.
    pub merchant_id: String,
    /// The caller's key.
    pub key: String,
    /// The answer, with the fingerprint of its call.
    pub answer: StoredAnswer,
    /// Microseconds.
    pub created_at: i64,
}

/// The answers stored under these keys: merchant, key.
pub(super) fn of_keys<'a>(of: impl IntoIterator<Item = [Arg<'a>; 2]>) -> Question<'a> {
    let sql = "SELECT merchant_id, idempotency_key, fingerprint, status, body FROM r CROSS JOIN idempotency_keys
               WHERE merchant_id = of_merchant AND idempotency_key = of_key";
    let columns = "merchant_id, idempotency_key, fingerprint, status, body";
    Set::new(&["of_merchant", "of_key"], of, sql).asking(columns)
}

/// Keys with their answers to be added; one that is taken is an error.
pub(super) fn new_set(new: &[NewAnswer]) -> Set<'_> {
    let rows = new
        .iter()
        .map(|n| row![&n.merchant_id, &n.key, &n.answer.fingerprint, n.answer.status, &n.answer.body, n.created_at]);
    Set::new(
        &["merchant_id", "idempotency_key", "fingerprint", "status", "body", "created_at"],
        rows,
        "INSERT INTO idempotency_keys (merchant_id, idempotency_key, fingerprint, status, body, created_at)
         SELECT merchant_id, idempotency_key, fingerprint, status, body, created_at FROM r",
    )
}

pub(super) fn answer(r: &Row) -> Result<StoredAnswer, StoreError> {
    Ok(StoredAnswer { fingerprint: r.text("fingerprint")?, status: r.int("status")?, body: r.text("body")? })
}
