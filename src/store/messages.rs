//! What client apps are told: messages, endpoints, and who was told what.

use super::Page;
use super::book::booked;
use super::dialect::{Arg, StoreError, Tx, args};
use super::rows::{Row, to_json};
use super::set::{Question, Set, row};
use crate::clock::seconds;
use crate::ids::{first_of, made_at};

/// Messages younger than this are held back from the feed, microseconds. What is on its way to the database
/// ([`ON_ITS_WAY`]) and what processes may differ by in the time have room in it.
const SETTLES: i64 = seconds(1);
/// A slice that is written as one statement must reach PostgreSQL before its first message is so old, microseconds: until
/// then nobody can see that it is coming.
const ON_ITS_WAY: i64 = 700_000;

/// One message of the feed.
#[derive(Debug, Clone)]
pub struct Message {
    /// Owner.
    pub merchant_id: String,
    /// `msg_…`; the `webhook-id` on every repeat.
    pub id: String,
    /// `payment.completed` and so on.
    pub kind: String,
    /// The object it is about.
    pub subject: String,
    /// It tells of a move of the subject's status, and its id bears the number of that transition: it is found by it.
    pub of_transition: bool,
    /// The bytes that are signed and sent.
    pub body: String,
    /// Microseconds.
    pub created_at: i64,
}

/// A client app's address.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// Owner.
    pub merchant_id: String,
    /// `ep_…`
    pub id: String,
    /// Whether it is told of live payments or of those of the test mode; `None`, of one that was made before endpoints had a
    /// mode: of both.
    pub live: Option<bool>,
    /// Where.
    pub url: String,
    /// Message types it wants; empty: all.
    pub types: Vec<String>,
    /// Its signing secrets with their ends, encrypted.
    pub sealed: String,
    /// `enabled`, `disabled`.
    pub state: String,
    /// Why it is disabled.
    pub state_reason: Option<String>,
    /// When the present run of failures began, microseconds.
    pub first_failure_at: Option<i64>,
    /// Distinct messages that failed in the present run.
    pub failed_messages: i64,
    /// Microseconds.
    pub created_at: i64,
}

/// One message for one endpoint.
#[derive(Debug, Clone)]
pub struct Telling {
    /// Owner.
    pub merchant_id: String,
    /// `tel_…`
    pub id: String,
    /// Which message.
    pub message_id: String,
    /// To whom.
    pub endpoint_id: String,
    /// `pending`, `delivered`, `failed`.
    pub state: String,
    /// Tries so far.
    pub attempts: i64,
    /// HTTP status of the last answer.
    pub last_status: Option<i64>,
    /// What went wrong last.
    pub last_error: Option<String>,
    /// Microseconds.
    pub created_at: i64,
}

macro_rules! message_columns {
    () => {
        "merchant_id, id, type, subject, of_transition, body, created_at"
    };
}

macro_rules! endpoint_columns {
    () => {
        "merchant_id, id, live, url, types, sealed, state, state_reason, first_failure_at, failed_messages, created_at"
    };
}

impl Tx {
    /// Writes a message to the feed.
    pub async fn add_message(&mut self, m: Message) -> Result<(), StoreError> {
        match &mut self.book {
            Some(book) => book.new.messages.push(m),
            None => {
                let new = [m];
                let set = self.new_messages(&new);
                self.run_sets(&[set]).await?;
            }
        }
        Ok(())
    }

    /// Messages to be added. Where they are written without a transaction, a statement that reaches the server too late
    /// divides by zero, as for rows that are not what was read: readers of the feed may be past these ids. In a transaction
    /// ids are made after its beginning, which the server knows ([`Tx::feed_is_settled_before`]).
    pub(super) fn new_messages<'m>(&self, new: &'m [Message]) -> Set<'m> {
        if !self.must_be_in_time() {
            return new_set(new);
        }
        Set::new(
            &["merchant_id", "id", "type", "subject", "of_transition", "body", "created_at", "in_time_until"],
            new.iter().map(|m| {
                let of_transition = m.of_transition.then_some(1);
                let until = made_at(&m.id).map(|at| at.saturating_add(ON_ITS_WAY));
                row![&m.merchant_id, &m.id, &m.kind, &m.subject, of_transition, &m.body, m.created_at, until]
            }),
            "INSERT INTO messages (merchant_id, id, type, subject, of_transition, body, created_at)
             SELECT merchant_id, id, type, subject, of_transition, body,
                 created_at / CASE WHEN in_time_until < CAST(EXTRACT(EPOCH FROM now()) * 1000000 AS BIGINT) THEN 0 ELSE 1 END FROM r",
        )
    }

    /// One message.
    pub async fn message(&mut self, merchant: &str, id: &str) -> Result<Option<Message>, StoreError> {
        let sql = concat!("SELECT ", message_columns!(), " FROM messages WHERE merchant_id = $1 AND id = $2");
        self.row(sql, args![merchant, id]).await?.map(|r| message(&r)).transpose()
    }

    /// Messages about an object, oldest first.
    pub async fn messages_about(&mut self, merchant: &str, subject: &str) -> Result<Vec<Message>, StoreError> {
        let sql = concat!(
            "SELECT ",
            message_columns!(),
            " FROM messages WHERE merchant_id = $1 AND subject = $2 AND of_transition IS NULL
             UNION ALL SELECT ",
            message_columns!(),
            " FROM messages WHERE merchant_id = $1 AND of_transition = 1 AND id IN (
                 SELECT 'msg_' || substr(id, 5) FROM transitions WHERE merchant_id = $1 AND payment_id = $2)
             ORDER BY id LIMIT 1000"
        );
        self.rows(sql, args![merchant, subject]).await?.iter().map(message).collect()
    }

    /// Before which instant the feed can be read to the end: no message with an older id will be committed any more. That
    /// is a second ago, or a second before the beginning of the oldest transaction of a hub that is under way. To be asked
    /// before the feed is read, `now` (microseconds) being taken before that; SQLite's one writer makes its ids when it has
    /// the file for itself, so none is committed before another's.
    ///
    /// # Errors
    /// The database.
    pub async fn feed_is_settled_before(&mut self, now: i64) -> Result<i64, StoreError> {
        let oldest = match self.is_postgres() {
            // Ages, not instants: what the server's clock is in the hub's ids is not asked here.
            true => {
                self.number(
                    "SELECT CAST(COALESCE(MAX(EXTRACT(EPOCH FROM clock_timestamp() - xact_start)), 0) * 1000000 AS BIGINT)
                     FROM pg_stat_activity WHERE datname = current_database() AND application_name LIKE 'grosz%' AND pid <> pg_backend_pid()",
                    &[],
                )
                .await?
            }
            false => 0,
        };
        Ok(now.saturating_sub(oldest.max(0)).saturating_sub(SETTLES))
    }

    /// Messages after a cursor, oldest first: the pull feed. Those whose ids are younger than `settled_before` (to the
    /// millisecond) are held back, so that a message whose transaction commits late is not skipped; see
    /// [`Tx::feed_is_settled_before`].
    pub async fn feed(
        &mut self,
        merchant: &str,
        after: Option<&str>,
        settled_before: i64,
        limit: i64,
    ) -> Result<Vec<Message>, StoreError> {
        let sql = concat!(
            "SELECT ",
            message_columns!(),
            " FROM messages WHERE merchant_id = $1 AND id > $2 AND id < $3 ORDER BY id LIMIT $4"
        );
        let end = first_of("msg", settled_before.saturating_add(1000));
        self.rows(sql, args![merchant, after.unwrap_or_default(), &end, limit]).await?.iter().map(message).collect()
    }

    /// All endpoints of a merchant, where nobody else adds one until the end of the transaction.
    pub async fn endpoints_for_adding(&mut self, merchant: &str) -> Result<Vec<Endpoint>, StoreError> {
        let sql = "SELECT id FROM merchants WHERE id = $1";
        let sql = self.pick(sql, "SELECT id FROM merchants WHERE id = $1 FOR UPDATE");
        self.row(sql, args![merchant]).await?;
        self.endpoints(merchant).await
    }

    /// Adds an endpoint.
    pub async fn add_endpoint(&mut self, e: &Endpoint) -> Result<(), StoreError> {
        self.run(
            "INSERT INTO endpoints (merchant_id, id, live, url, types, sealed, state, failed_messages, created_at)
             VALUES ($1, $2, $3, $4, $5, $6, $7, 0, $8)",
            args![
                &e.merchant_id,
                &e.id,
                e.live.map(i64::from),
                &e.url,
                &to_json(&e.types)?,
                &e.sealed,
                &e.state,
                e.created_at
            ],
        )
        .await?;
        Ok(())
    }

    /// Writes everything about an endpoint but its identity and mode: what was read with
    /// [`Tx::endpoint_for_update`] in the same transaction.
    pub async fn update_endpoint(&mut self, e: &Endpoint) -> Result<(), StoreError> {
        self.run(
            "UPDATE endpoints SET url = $3, types = $4, sealed = $5, state = $6, state_reason = $7, first_failure_at = $8, failed_messages = $9
             WHERE merchant_id = $1 AND id = $2",
            args![
                &e.merchant_id, &e.id, &e.url, &to_json(&e.types)?, &e.sealed, &e.state, &e.state_reason, e.first_failure_at,
                e.failed_messages
            ],
        )
        .await?;
        Ok(())
    }

    /// Writes an endpoint's health: when its present run of failures began, how many messages failed in it, and, when
    /// it is given up, why. Touches nothing that its owner may be changing at the same time, and answers `false` when its
    /// address is another one by now, whose health this is not.
    pub async fn put_endpoint_health(
        &mut self,
        e: &Endpoint,
        gives_up: Option<&str>,
        first_failure_at: Option<i64>,
        failed_messages: i64,
    ) -> Result<bool, StoreError> {
        let written = self
            .run(
                "UPDATE endpoints SET first_failure_at = $3, failed_messages = $4,
                     state = CASE WHEN $5 IS NULL THEN state ELSE 'disabled' END, state_reason = COALESCE($5, state_reason)
                 WHERE merchant_id = $1 AND id = $2 AND url = $6",
                args![&e.merchant_id, &e.id, first_failure_at, failed_messages, gives_up, &e.url],
            )
            .await?;
        Ok(written == 1)
    }

    /// Removes an endpoint; `false` when there is none.
    pub async fn delete_endpoint(&mut self, merchant: &str, id: &str) -> Result<bool, StoreError> {
        Ok(self.run("DELETE FROM endpoints WHERE merchant_id = $1 AND id = $2", args![merchant, id]).await? == 1)
    }

    /// One endpoint.
    pub async fn endpoint(&mut self, merchant: &str, id: &str) -> Result<Option<Endpoint>, StoreError> {
        let sql = concat!("SELECT ", endpoint_columns!(), " FROM endpoints WHERE merchant_id = $1 AND id = $2");
        self.row(sql, args![merchant, id]).await?.map(|r| endpoint(&r)).transpose()
    }

    /// One endpoint, locked until the end of the transaction: for whoever writes all that there is about it.
    pub async fn endpoint_for_update(&mut self, merchant: &str, id: &str) -> Result<Option<Endpoint>, StoreError> {
        let sql = self.pick(
            concat!("SELECT ", endpoint_columns!(), " FROM endpoints WHERE merchant_id = $1 AND id = $2"),
            concat!("SELECT ", endpoint_columns!(), " FROM endpoints WHERE merchant_id = $1 AND id = $2 FOR UPDATE"),
        );
        self.row(sql, args![merchant, id]).await?.map(|r| endpoint(&r)).transpose()
    }

    /// All endpoints of a merchant.
    pub async fn endpoints(&mut self, merchant: &str) -> Result<Vec<Endpoint>, StoreError> {
        let sql =
            concat!("SELECT ", endpoint_columns!(), " FROM endpoints WHERE merchant_id = $1 ORDER BY id LIMIT 1000");
        booked!(self.endpoints[merchant.to_owned()], {
            self.rows(sql, args![merchant]).await?.iter().map(endpoint).collect::<Result<Vec<_>, _>>()?
        })
    }

    /// Adds a message's way to one endpoint.
    pub async fn add_telling(&mut self, t: &Telling) -> Result<bool, StoreError> {
        if let Some(book) = &mut self.book {
            // Its message is new too, so nobody has told it.
            book.new.tellings.push(t.clone());
            return Ok(true);
        }
        Ok(self.run_sets(&[tellings_set(std::slice::from_ref(t))]).await? == [1])
    }

    /// One message's way to one endpoint.
    pub async fn telling(&mut self, merchant: &str, id: &str) -> Result<Option<Telling>, StoreError> {
        self.row(
            "SELECT merchant_id, id, message_id, endpoint_id, state, attempts, last_status, last_error, created_at
             FROM tellings WHERE merchant_id = $1 AND id = $2",
            args![merchant, id],
        )
        .await?
        .map(|r| telling(&r))
        .transpose()
    }

    /// A message's ways to all endpoints.
    pub async fn tellings_of(&mut self, merchant: &str, message: &str) -> Result<Vec<Telling>, StoreError> {
        let rows = self
            .rows(
                "SELECT merchant_id, id, message_id, endpoint_id, state, attempts, last_status, last_error, created_at FROM tellings
                 WHERE merchant_id = $1 AND message_id = $2 ORDER BY created_at, id LIMIT 1000",
                args![merchant, message],
            )
            .await?;
        rows.iter().map(telling).collect()
    }

    /// Lets a message that an endpoint did not get begin anew; answers its telling, or `None` when it was delivered or is on
    /// its way. A way that is pending without a live job was given up halfway: the endpoint was switched off while the
    /// message waited, or the job was set aside.
    pub async fn revive_telling(
        &mut self,
        merchant: &str,
        message: &str,
        endpoint: &str,
    ) -> Result<Option<String>, StoreError> {
        let row = self
            .row(
                "UPDATE tellings SET state = 'pending', attempts = 0, done_at = NULL
                 WHERE merchant_id = $1 AND message_id = $2 AND endpoint_id = $3 AND (state = 'failed' OR (state = 'pending' AND NOT EXISTS (
                     SELECT 1 FROM jobs AS j WHERE j.merchant_id = $1 AND j.subject = tellings.id AND j.kind = 'tell_client' AND j.set_aside = '')))
                 RETURNING id",
                args![merchant, message, endpoint],
            )
            .await?;
        row.map(|r| r.text("id")).transpose()
    }

    /// Tellings of one endpoint, newest first.
    pub async fn tellings(&mut self, merchant: &str, endpoint: &str, page: &Page) -> Result<Vec<Telling>, StoreError> {
        let rows = self
            .rows(
                "SELECT merchant_id, id, message_id, endpoint_id, state, attempts, last_status, last_error, created_at FROM tellings
                 WHERE merchant_id = $1 AND endpoint_id = $2 AND id < $3 ORDER BY id DESC LIMIT $4",
                args![merchant, endpoint, page.bound(), page.limit],
            )
            .await?;
        rows.iter().map(telling).collect()
    }

    /// Tellings of many merchants, each with its message's text; in no promised order. One whose message is gone is left
    /// out.
    pub async fn tellings_with_texts(&mut self, ids: &[(&str, &str)]) -> Result<Vec<(Telling, String)>, StoreError> {
        let rows: Vec<_> = ids.iter().map(|(merchant, id)| row![*merchant, *id]).collect();
        let found = self
            .rows_of_set(
                &["owner", "way"],
                &rows,
                "SELECT t.merchant_id, t.id, t.message_id, t.endpoint_id, t.state, t.attempts, t.last_status, t.last_error, t.created_at, m.body
                 FROM r CROSS JOIN tellings AS t CROSS JOIN messages AS m
                 WHERE t.merchant_id = r.owner AND t.id = r.way AND m.merchant_id = t.merchant_id AND m.id = t.message_id",
            )
            .await?;
        found.iter().map(|r| Ok((telling(r)?, r.text("body")?))).collect()
    }

    /// Endpoints of many merchants; in no promised order.
    pub async fn endpoints_by_id(&mut self, ids: &[(&str, &str)]) -> Result<Vec<Endpoint>, StoreError> {
        let rows: Vec<_> = ids.iter().map(|(merchant, id)| row![*merchant, *id]).collect();
        let sql = concat!(
            "SELECT ",
            endpoint_columns!(),
            " FROM r CROSS JOIN endpoints WHERE merchant_id = owner AND id = way"
        );
        self.rows_of_set(&["owner", "way"], &rows, sql).await?.iter().map(endpoint).collect()
    }

    /// Writes the results of tries: the tellings as they are now, and when they came to their end, if they did.
    pub async fn update_tellings(&mut self, tellings: &[(&Telling, Option<i64>)]) -> Result<(), StoreError> {
        let rows: Vec<_> = tellings
            .iter()
            .map(|(t, done_at)| {
                row![&t.merchant_id, &t.id, &t.state, t.attempts, t.last_status, &t.last_error, *done_at]
            })
            .collect();
        self.run_set(
            &["owner", "way", "new_state", "tries", "answer", "error", "ended_at"],
            &rows,
            "UPDATE tellings SET state = new_state, attempts = tries, last_status = answer, last_error = error, done_at = ended_at
             FROM r WHERE merchant_id = owner AND id = way",
        )
        .await?;
        Ok(())
    }
}

/// Messages to be added, however late.
fn new_set(new: &[Message]) -> Set<'_> {
    Set::new(
        &["merchant_id", "id", "type", "subject", "of_transition", "body", "created_at"],
        new.iter().map(|m| {
            let of_transition = m.of_transition.then_some(1);
            row![&m.merchant_id, &m.id, &m.kind, &m.subject, of_transition, &m.body, m.created_at]
        }),
        "INSERT INTO messages (merchant_id, id, type, subject, of_transition, body, created_at)
         SELECT merchant_id, id, type, subject, of_transition, body, created_at FROM r",
    )
}

/// Ways of messages to endpoints to be added; those that are there are left out.
pub(super) fn tellings_set(new: &[Telling]) -> Set<'_> {
    Set::new(
        &["merchant_id", "id", "message_id", "endpoint_id", "state", "created_at"],
        new.iter().map(|t| row![&t.merchant_id, &t.id, &t.message_id, &t.endpoint_id, &t.state, t.created_at]),
        "INSERT INTO tellings (merchant_id, id, message_id, endpoint_id, state, attempts, created_at)
         SELECT merchant_id, id, message_id, endpoint_id, state, 0, created_at FROM r WHERE true
         ON CONFLICT (merchant_id, message_id, endpoint_id) DO NOTHING",
    )
}

/// All endpoints of these merchants.
pub(super) fn endpoints_of<'a>(merchants: impl IntoIterator<Item = [Arg<'a>; 1]>) -> Question<'a> {
    let sql = concat!("SELECT ", endpoint_columns!(), " FROM r CROSS JOIN endpoints WHERE merchant_id = of_merchant");
    Set::new(&["of_merchant"], merchants, sql).asking(endpoint_columns!())
}

fn message(r: &Row) -> Result<Message, StoreError> {
    Ok(Message {
        merchant_id: r.text("merchant_id")?,
        id: r.text("id")?,
        kind: r.text("type")?,
        subject: r.text("subject")?,
        of_transition: r.maybe_int("of_transition")?.is_some(),
        body: r.text("body")?,
        created_at: r.int("created_at")?,
    })
}

pub(super) fn endpoint(r: &Row) -> Result<Endpoint, StoreError> {
    Ok(Endpoint {
        merchant_id: r.text("merchant_id")?,
        id: r.text("id")?,
        live: r.maybe_int("live")?.map(|flag| flag != 0),
        url: r.text("url")?,
        types: r.json("types")?,
        sealed: r.text("sealed")?,
        state: r.text("state")?,
        state_reason: r.maybe_text("state_reason")?,
        first_failure_at: r.maybe_int("first_failure_at")?,
        failed_messages: r.int("failed_messages")?,
        created_at: r.int("created_at")?,
    })
}

fn telling(r: &Row) -> Result<Telling, StoreError> {
    Ok(Telling {
        merchant_id: r.text("merchant_id")?,
        id: r.text("id")?,
        message_id: r.text("message_id")?,
        endpoint_id: r.text("endpoint_id")?,
        state: r.text("state")?,
        attempts: r.int("attempts")?,
        last_status: r.maybe_int("last_status")?,
        last_error: r.maybe_text("last_error")?,
        created_at: r.int("created_at")?,
    })
}
