//! What the housekeeping reads and writes: whose turn it is, and old rows in bounded batches.
//!
//! A batch is found by reading (the first and the last of the oldest rows), then deleted or emptied by that range: the
//! writing transaction does nothing but that, and nobody waits for it for long. No row with an old id is ever added.

use super::dialect::{StoreError, Tx, args};
use super::idempotency::ANSWER_GONE;

/// A table whose old rows are let go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Growing {
    /// Raw webhook calls: deleted (on PostgreSQL what no dropped month held).
    Deliveries,
    /// Events: what was applied is emptied; the key and the outcome stay for ever.
    Events,
    /// Messages of the feed: deleted when no telling names them.
    Messages,
    /// Tellings: deleted.
    Tellings,
    /// Stored answers: emptied; the key stays for ever, with the id of what it made.
    IdempotencyKeys,
    /// Mails: emptied of address and text; the key stays for ever.
    Notices,
}

impl Growing {
    /// The table's name.
    pub fn word(self) -> &'static str {
        match self {
            Growing::Deliveries => "deliveries",
            Growing::Events => "events",
            Growing::Messages => "messages",
            Growing::Tellings => "tellings",
            Growing::IdempotencyKeys => "idempotency_keys",
            Growing::Notices => "notices",
        }
    }

    /// The kind in its ids; empty when its rows have no id of ours.
    pub fn id_kind(self) -> &'static str {
        match self {
            Growing::Deliveries => "dlv",
            Growing::Events => "evt",
            Growing::Messages => "msg",
            Growing::Tellings => "tel",
            Growing::IdempotencyKeys => "",
            Growing::Notices => "ntc",
        }
    }
}

/// Some of the oldest rows of a merchant's table: from the first to the last id, both included.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Batch {
    /// Its first id.
    pub first: String,
    /// Its last id.
    pub last: String,
    /// How many rows it has.
    pub rows: i64,
}

/// `SELECT` of the first and the last id of the oldest rows after `$2` and before `$3`, at most `$4` of them.
macro_rules! oldest {
    ($table:literal) => {
        concat!(
            "SELECT MIN(o.id) AS first, MAX(o.id) AS last, COUNT(*) AS found FROM (SELECT id FROM ",
            $table,
            " WHERE merchant_id = $1 AND id > $2 AND id < $3 ORDER BY id LIMIT $4) AS o"
        )
    };
}

impl Tx {
    /// Takes the turn `slot` of the work `name`; `false` when somebody has it. The key decides, so there is no leader.
    pub async fn take_turn(&mut self, name: &str, slot: i64, now: i64) -> Result<bool, StoreError> {
        let touched = self
            .run(
                "INSERT INTO scheduled_runs (name, slot, started_at) VALUES ($1, $2, $3) ON CONFLICT (name, slot) DO NOTHING",
                args![name, slot, now],
            )
            .await?;
        Ok(touched == 1)
    }

    /// Writes that a turn is over, and forgets the turns before `oldest`.
    pub async fn end_turn(&mut self, name: &str, slot: i64, now: i64, oldest: i64) -> Result<(), StoreError> {
        self.run("UPDATE scheduled_runs SET done_at = $3 WHERE name = $1 AND slot = $2", args![name, slot, now])
            .await?;
        self.run("DELETE FROM scheduled_runs WHERE name = $1 AND slot < $2", args![name, oldest]).await?;
        Ok(())
    }

    /// The turns of a work that are on record, oldest first: slot and whether it is over.
    pub async fn turns(&mut self, name: &str) -> Result<Vec<(i64, bool)>, StoreError> {
        let rows = self
            .rows("SELECT slot, done_at FROM scheduled_runs WHERE name = $1 ORDER BY slot LIMIT 1000", args![name])
            .await?;
        rows.iter().map(|r| Ok((r.int("slot")?, r.maybe_int("done_at")?.is_some()))).collect()
    }

    /// Ids of merchants after `after`, at most `limit`.
    pub async fn merchant_ids(&mut self, after: &str, limit: i64) -> Result<Vec<String>, StoreError> {
        let sql = "SELECT id FROM merchants WHERE id > $1 ORDER BY id LIMIT $2";
        self.rows(sql, args![after, limit]).await?.iter().map(|r| r.text("id")).collect()
    }

    /// Up to which id a merchant's old rows of a table were emptied; empty at the beginning.
    pub async fn house_mark(&mut self, merchant: &str, table: Growing) -> Result<String, StoreError> {
        let sql = "SELECT mark FROM house_marks WHERE merchant_id = $1 AND name = $2";
        self.row(sql, args![merchant, table.word()]).await?.map_or(Ok(String::new()), |r| r.text("mark"))
    }

    /// The oldest rows of a merchant's table with ids after `after` and before `before`, at most `limit`.
    pub async fn oldest(
        &mut self,
        table: Growing,
        merchant: &str,
        after: &str,
        before: &str,
        limit: i64,
    ) -> Result<Option<Batch>, StoreError> {
        let sql = match table {
            Growing::Deliveries => oldest!("deliveries"),
            Growing::Events => oldest!("events"),
            Growing::Messages => oldest!("messages"),
            Growing::Tellings => oldest!("tellings"),
            Growing::Notices => oldest!("notices"),
            Growing::IdempotencyKeys => return Ok(None),
        };
        let Some(r) = self.row(sql, args![merchant, after, before, limit]).await? else { return Ok(None) };
        let (Some(first), Some(last)) = (r.maybe_text("first")?, r.maybe_text("last")?) else { return Ok(None) };
        Ok(Some(Batch { first, last, rows: r.int("found")? }))
    }

    /// Deletes or empties a batch; answers how many rows were touched.
    pub async fn let_go(&mut self, table: Growing, merchant: &str, batch: &Batch) -> Result<u64, StoreError> {
        let sql = match table {
            Growing::Deliveries => "DELETE FROM deliveries WHERE merchant_id = $1 AND id >= $2 AND id <= $3",
            Growing::Tellings => "DELETE FROM tellings WHERE merchant_id = $1 AND id >= $2 AND id <= $3",
            // One that was sent again lately stays as long as its telling.
            Growing::Messages => {
                "DELETE FROM messages WHERE merchant_id = $1 AND id >= $2 AND id <= $3
                 AND NOT EXISTS (SELECT 1 FROM tellings t WHERE t.merchant_id = messages.merchant_id AND t.message_id = messages.id)"
            }
            Growing::Events => return self.empty_events(merchant, batch).await,
            Growing::Notices => return self.empty_notices(merchant, batch).await,
            Growing::IdempotencyKeys => return Ok(0),
        };
        self.run(sql, args![merchant, &batch.first, &batch.last]).await
    }

    /// What is left of an applied event can still be read as an event, by an older program too; nothing applies it again.
    async fn empty_events(&mut self, merchant: &str, batch: &Batch) -> Result<u64, StoreError> {
        let sql = self.pick(
            "UPDATE events SET body = json_object('key', event_key, 'kind', json(body -> '$.kind'), 'reference', json('{\"ours\":\"\"}'), 'detail', '')
             WHERE merchant_id = $1 AND id >= $2 AND id <= $3 AND state = 'applied'",
            "UPDATE events SET body = CAST(json_build_object('key', event_key, 'kind', CAST(body AS json) -> 'kind',
                 'reference', json_build_object('ours', ''), 'detail', '') AS TEXT)
             WHERE merchant_id = $1 AND id >= $2 AND id <= $3 AND state = 'applied'",
        );
        let touched = self.run(sql, args![merchant, &batch.first, &batch.last]).await?;
        self.put_house_mark(merchant, Growing::Events, &batch.last).await?;
        Ok(touched)
    }

    async fn empty_notices(&mut self, merchant: &str, batch: &Batch) -> Result<u64, StoreError> {
        let touched = self
            .run(
                "UPDATE notices SET recipient = '', subject = '', body = ''
                 WHERE merchant_id = $1 AND id >= $2 AND id <= $3 AND state <> 'queued'",
                args![merchant, &batch.first, &batch.last],
            )
            .await?;
        self.put_house_mark(merchant, Growing::Notices, &batch.last).await?;
        Ok(touched)
    }

    async fn put_house_mark(&mut self, merchant: &str, table: Growing, mark: &str) -> Result<(), StoreError> {
        self.run(
            "INSERT INTO house_marks (merchant_id, name, mark) VALUES ($1, $2, $3)
             ON CONFLICT (merchant_id, name) DO UPDATE SET mark = excluded.mark",
            args![merchant, table.word(), mark],
        )
        .await?;
        Ok(())
    }

    /// The instants of the oldest stored answers of a merchant after `after` and before `before`, at most `limit` of them.
    pub async fn oldest_answers(
        &mut self,
        merchant: &str,
        after: i64,
        before: i64,
        limit: i64,
    ) -> Result<Option<(i64, i64)>, StoreError> {
        let sql = "SELECT MIN(o.created_at) AS first, MAX(o.created_at) AS last FROM
                   (SELECT created_at FROM idempotency_keys WHERE merchant_id = $1 AND created_at > $2 AND created_at < $3
                    ORDER BY created_at LIMIT $4) AS o";
        let Some(r) = self.row(sql, args![merchant, after, before, limit]).await? else { return Ok(None) };
        Ok(r.maybe_int("first")?.zip(r.maybe_int("last")?))
    }

    /// Empties the stored answers of a merchant between two instants, both included. What is left is the id of what was
    /// made, and a status that no answer has; an answer that was sealed leaves no id.
    pub async fn forget_answers(&mut self, merchant: &str, first: i64, last: i64) -> Result<u64, StoreError> {
        let sql = self.pick(
            "UPDATE idempotency_keys SET status = $4,
                 body = CASE WHEN json_valid(body) THEN COALESCE(json_extract(body, '$.id'), '') ELSE '' END
             WHERE merchant_id = $1 AND created_at >= $2 AND created_at <= $3 AND status <> $4",
            "UPDATE idempotency_keys SET status = $4,
                 body = CASE WHEN body LIKE '_\"%' THEN COALESCE(CAST(body AS json) ->> 'id', '') ELSE '' END
             WHERE merchant_id = $1 AND created_at >= $2 AND created_at <= $3 AND status <> $4",
        );
        let touched = self.run(sql, args![merchant, first, last, ANSWER_GONE]).await?;
        self.put_house_mark(merchant, Growing::IdempotencyKeys, &last.to_string()).await?;
        Ok(touched)
    }
}
