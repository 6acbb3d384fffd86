//! Inbound webhook calls as received, and the events read from them or from polls.

use std::collections::BTreeMap;
use std::sync::Arc;

use grosz_providers::{Event, Outcome};

use super::Page;
use super::book::{Seen, name};
use super::dialect::{Arg, StoreError, Tx, args};
use super::rows::{Row, to_json};
use super::set::{Question, Set, row};
use crate::ids::with_number_of;

/// A webhook call to be kept.
#[derive(Debug, Clone)]
pub struct RecordedDelivery {
    /// Owner.
    pub merchant_id: String,
    /// `dlv_…`
    pub id: String,
    /// The account its address named.
    pub account_id: String,
    /// Which gateway.
    pub provider: String,
    /// `verified`, `repeat`, `deviating` (an event seen before with another body).
    pub verdict: String,
    /// Header pairs, JSON.
    pub headers: String,
    /// The query.
    pub query: String,
    /// The raw body.
    pub body: Vec<u8>,
    /// Its SHA-256, hex.
    pub body_sha256: String,
    /// Microseconds.
    pub received_at: i64,
}

/// A kept webhook call.
#[derive(Debug, Clone)]
pub struct StoredDelivery {
    /// The call.
    pub delivery: RecordedDelivery,
    /// How many times the same bytes came again.
    pub repeats: i64,
    /// When they last came, microseconds.
    pub last_at: i64,
}

/// An event on record.
#[derive(Debug, Clone)]
pub struct EventRow {
    /// Owner.
    pub merchant_id: String,
    /// `evt_…`
    pub id: String,
    /// The account it came from.
    pub account_id: String,
    /// `webhook`, `poll`, `replay`.
    pub origin: String,
    /// The delivery it was read from.
    pub delivery_id: Option<String>,
    /// SHA-256 of the body it was read from; empty for polls.
    pub body_sha256: String,
    /// The event itself.
    pub event: Arc<Event>,
    /// `applied`, `parked` (unknown attempt), `mismatch`, `unknown` (unknown status), `expired` (parked to the end).
    pub state: String,
    /// The attempt it was found to be about.
    pub attempt_id: Option<String>,
    /// Its payment.
    pub payment_id: Option<String>,
    /// How many times a parked event was tried again.
    pub tries: i64,
    /// Microseconds.
    pub created_at: i64,
}

impl EventRow {
    /// What the gateway is told about it.
    pub fn outcome(&self) -> Outcome {
        match self.state.as_str() {
            "mismatch" => Outcome::Mismatch,
            "parked" | "expired" => Outcome::UnknownAttempt,
            _ => Outcome::Recorded,
        }
    }
}

/// Which deliveries a list shows.
#[derive(Debug, Clone, Default)]
pub struct DeliveryFilter {
    /// Of this account.
    pub account: Option<String>,
    /// Those with an event about this payment.
    pub payment: Option<String>,
    /// Those of accounts of this mode: live or test.
    pub live: Option<bool>,
}

macro_rules! delivery_columns {
    () => {
        "d.merchant_id, d.id, d.account_id, d.provider, d.verdict, d.headers, d.query, d.body, d.body_sha256, d.repeats, d.received_at, d.last_at"
    };
}

/// Columns of the events about a payment: those that moved it are named by its transitions, the others are in an index.
macro_rules! events_of_payment {
    ($columns:expr, $payment:literal) => {
        concat!(
            "SELECT ",
            $columns,
            " FROM events WHERE merchant_id = $1 AND payment_id = ",
            $payment,
            " AND has_moved IS NULL
             UNION ALL
             SELECT ",
            $columns,
            " FROM events WHERE merchant_id = $1 AND payment_id = ",
            $payment,
            " AND has_moved = 1 AND id IN (
                 SELECT cause_id FROM transitions WHERE merchant_id = $1 AND payment_id = ",
            $payment,
            ")"
        )
    };
}

/// The deliveries with an event about the payment `$3`.
macro_rules! delivery_ids_of_payment {
    () => {
        events_of_payment!("delivery_id", "$3")
    };
}

/// A page of those that a filter over the account `$2` and the payment `$3` wants.
macro_rules! delivery_page {
    ($filter:expr) => {
        concat!(
            "SELECT ", delivery_columns!(), " FROM deliveries d WHERE d.merchant_id = $1 AND ", $filter, "
             AND ($4 IS NULL OR EXISTS (SELECT 1 FROM provider_accounts a WHERE a.merchant_id = $1 AND a.id = d.account_id AND a.live = $4))
             AND d.id < $5 ORDER BY d.id DESC LIMIT $6"
        )
    };
}

macro_rules! event_columns {
    () => {
        "merchant_id, id, account_id, origin, delivery_id, body_sha256, body, state, attempt_id, payment_id, tries, created_at"
    };
}

impl Tx {
    /// Keeps a webhook call.
    pub async fn add_delivery(&mut self, d: &Arc<RecordedDelivery>) -> Result<(), StoreError> {
        let new = NewDelivery { delivery: Arc::clone(d), repeats: 0, last_at: d.received_at };
        match &mut self.book {
            Some(book) => book.new.deliveries.push(new),
            None => drop(self.run_sets(&[new_set(&[new])]).await?),
        }
        Ok(())
    }

    /// Counts one more arrival of the same bytes.
    pub async fn count_repeat(&mut self, merchant: &str, delivery: &str, now: i64) -> Result<(), StoreError> {
        if let Some(book) = &mut self.book {
            let is_it = |new: &&mut NewDelivery| new.delivery.id == delivery && new.delivery.merchant_id == merchant;
            if let Some(new) = book.new.deliveries.iter_mut().find(is_it) {
                new.repeats += 1;
                new.last_at = now;
            } else {
                let of = (merchant.to_owned(), delivery.to_owned());
                let (count, last_at) = book.new.repeats.entry(of).or_default();
                *count += 1;
                *last_at = now;
            }
            return Ok(());
        }
        self.run(
            "UPDATE deliveries SET repeats = repeats + 1, last_at = $3 WHERE merchant_id = $1 AND id = $2",
            args![merchant, delivery, now],
        )
        .await?;
        Ok(())
    }

    /// One delivery.
    pub async fn delivery(&mut self, merchant: &str, id: &str) -> Result<Option<StoredDelivery>, StoreError> {
        let sql = concat!("SELECT ", delivery_columns!(), " FROM deliveries d WHERE d.merchant_id = $1 AND d.id = $2");
        self.row(sql, args![merchant, id]).await?.map(|r| delivery(&r)).transpose()
    }

    /// A page of deliveries.
    pub async fn deliveries(
        &mut self,
        merchant: &str,
        f: &DeliveryFilter,
        page: &Page,
    ) -> Result<Vec<StoredDelivery>, StoreError> {
        // One spelling for each filter, so that the engine can use the index that fits.
        let sql = match (&f.account, &f.payment) {
            (None, None) => delivery_page!("$2 IS NULL AND $3 IS NULL"),
            (Some(_), None) => delivery_page!("d.account_id = $2 AND $3 IS NULL"),
            (None, Some(_)) => delivery_page!(concat!("$2 IS NULL AND d.id IN (", delivery_ids_of_payment!(), ")")),
            (Some(_), Some(_)) => {
                delivery_page!(concat!("d.account_id = $2 AND d.id IN (", delivery_ids_of_payment!(), ")"))
            }
        };
        let rows = self
            .rows(sql, args![merchant, &f.account, &f.payment, f.live.map(i64::from), page.bound(), page.limit])
            .await?;
        rows.iter().map(delivery).collect()
    }

    /// Keeps an event under its identity; `false` when the account had it before.
    pub async fn add_event(&mut self, e: &EventRow) -> Result<bool, StoreError> {
        if let Some(book) = &mut self.book {
            let key = name(&e.account_id, &e.event.key);
            if matches!(book.events.get(&key), Some(Seen::Before(_) | Seen::Now(_))) {
                return Ok(false);
            }
            book.events.insert(key, Seen::Now(book.new.events.len()));
            book.new.events.push(e.clone());
            return Ok(true);
        }
        let new = [NewEvent::of(e, false)?];
        let touched = self.run_sets(&[events_set(&new, ADD_EVENTS_UNLESS_TAKEN)]).await?;
        Ok(touched == [1])
    }

    /// The event an account has under that identity.
    pub async fn event_by_key(
        &mut self,
        merchant: &str,
        account: &str,
        key: &str,
    ) -> Result<Option<EventRow>, StoreError> {
        if let Some(book) = &self.book {
            match book.events.get(&name(account, key)) {
                Some(Seen::Never) => return Ok(None),
                Some(Seen::Before(event)) if event.merchant_id == merchant => return Ok(Some((**event).clone())),
                Some(Seen::Now(place)) => return Ok(book.new.events.get(*place).cloned()),
                Some(Seen::Before(_)) | None => {}
            }
        }
        let sql = concat!(
            "SELECT ",
            event_columns!(),
            " FROM events WHERE merchant_id = $1 AND account_id = $2 AND event_key = $3"
        );
        self.row(sql, args![merchant, account, key]).await?.map(|r| event(&r)).transpose()
    }

    /// One event, locked until the end of the transaction.
    pub async fn event_for_update(&mut self, merchant: &str, id: &str) -> Result<Option<EventRow>, StoreError> {
        let sql = self.pick(
            concat!("SELECT ", event_columns!(), " FROM events WHERE merchant_id = $1 AND id = $2"),
            concat!("SELECT ", event_columns!(), " FROM events WHERE merchant_id = $1 AND id = $2 FOR UPDATE"),
        );
        self.row(sql, args![merchant, id]).await?.map(|r| event(&r)).transpose()
    }

    /// Events read from a delivery, oldest first.
    pub async fn events_of_delivery(&mut self, merchant: &str, delivery: &str) -> Result<Vec<EventRow>, StoreError> {
        let sql = concat!(
            "SELECT ",
            event_columns!(),
            " FROM events WHERE merchant_id = $1 AND id = $3 AND delivery_id = $2
             UNION ALL SELECT ",
            event_columns!(),
            " FROM events WHERE merchant_id = $1 AND delivery_id = $2 AND substr(id, 5) <> substr(delivery_id, 5)
             ORDER BY id LIMIT 1000"
        );
        let first = with_number_of(delivery, "evt");
        self.rows(sql, args![merchant, delivery, &first]).await?.iter().map(event).collect()
    }

    /// Events about a payment, oldest first.
    pub async fn events_of_payment(&mut self, merchant: &str, payment: &str) -> Result<Vec<EventRow>, StoreError> {
        let sql = concat!(events_of_payment!(event_columns!(), "$2"), " ORDER BY id LIMIT 1000");
        self.rows(sql, args![merchant, payment]).await?.iter().map(event).collect()
    }

    /// Writes what became of an event.
    pub async fn settle_event(&mut self, e: &EventRow) -> Result<(), StoreError> {
        if let Some(book) = &mut self.book
            && let Some(Seen::Now(place)) = book.events.get(&name(&e.account_id, &e.event.key))
            && let Some(new) = book.new.events.get_mut(*place)
        {
            // What it is stays; what became of it is written.
            new.state.clone_from(&e.state);
            new.attempt_id.clone_from(&e.attempt_id);
            new.payment_id.clone_from(&e.payment_id);
            new.tries = e.tries;
            return Ok(());
        }
        self.run(
            "UPDATE events SET state = $3, attempt_id = $4, payment_id = $5, tries = $6 WHERE merchant_id = $1 AND id = $2",
            args![&e.merchant_id, &e.id, &e.state, &e.attempt_id, &e.payment_id, e.tries],
        )
        .await?;
        Ok(())
    }

    /// Keeps one of the last refused deliveries of an account; `slot` runs in a circle, so the table stays small (F48).
    pub async fn put_refusal(
        &mut self,
        merchant: &str,
        account: &str,
        slot: i64,
        why: &str,
        bytes: i64,
        now: i64,
    ) -> Result<(), StoreError> {
        self.run(
            "INSERT INTO refusals (merchant_id, account_id, slot, why, bytes, received_at) VALUES ($1, $2, $3, $4, $5, $6)
             ON CONFLICT (merchant_id, account_id, slot) DO UPDATE SET why = excluded.why, bytes = excluded.bytes, received_at = excluded.received_at",
            args![merchant, account, slot, why, bytes, now],
        )
        .await?;
        Ok(())
    }

    /// The last refused deliveries of an account: why, size, when.
    pub async fn refusals(&mut self, merchant: &str, account: &str) -> Result<Vec<(String, i64, i64)>, StoreError> {
        let rows = self
            .rows(
                "SELECT why, bytes, received_at FROM refusals WHERE merchant_id = $1 AND account_id = $2 ORDER BY received_at DESC",
                args![merchant, account],
            )
            .await?;
        rows.iter().map(|r| Ok((r.text("why")?, r.int("bytes")?, r.int("received_at")?))).collect()
    }
}

/// The events that accounts have under these identities: merchant, account, key.
pub(super) fn of_keys<'a>(of: impl IntoIterator<Item = [Arg<'a>; 3]>) -> Question<'a> {
    let sql = concat!(
        "SELECT ",
        event_columns!(),
        " FROM r CROSS JOIN events WHERE merchant_id = of_merchant AND account_id = of_account AND event_key = of_key"
    );
    Set::new(&["of_merchant", "of_account", "of_key"], of, sql).asking(event_columns!())
}

/// A call to be kept, and how often its bytes came again within the transaction.
pub(super) struct NewDelivery {
    pub(super) delivery: Arc<RecordedDelivery>,
    pub(super) repeats: i64,
    pub(super) last_at: i64,
}

/// Calls to be kept.
pub(super) fn new_set(new: &[NewDelivery]) -> Set<'_> {
    let rows = new.iter().map(|NewDelivery { delivery: d, repeats, last_at }| {
        row![
            &d.merchant_id,
            &d.id,
            &d.account_id,
            &d.provider,
            &d.verdict,
            &d.headers,
            &d.query,
            d.body.as_slice(),
            &d.body_sha256,
            *repeats,
            d.received_at,
            *last_at
        ]
    });
    Set::new(
        &[
            "merchant_id", "id", "account_id", "provider", "verdict", "headers", "query", "body", "body_sha256", "repeats", "received_at",
            "last_at",
        ],
        rows,
        "INSERT INTO deliveries (merchant_id, id, account_id, provider, verdict, headers, query, body, body_sha256, repeats, received_at, last_at)
         SELECT merchant_id, id, account_id, provider, verdict, headers, query, body, body_sha256, repeats, received_at, last_at FROM r",
    )
}

/// How often the bytes of calls came again, and when last, by merchant and call: in their order, so that two that write
/// several do not wait for each other.
pub(super) fn repeats_set(repeats: &BTreeMap<(String, String), (i64, i64)>) -> Set<'_> {
    Set::new(
        &["of_merchant", "of_delivery", "more", "last"],
        repeats.iter().map(|((merchant, delivery), (more, last))| row![merchant, delivery, *more, *last]),
        "UPDATE deliveries SET repeats = repeats + r.more, last_at = r.last FROM r WHERE merchant_id = r.of_merchant AND id = r.of_delivery",
    )
}

macro_rules! add_events {
    ($otherwise:literal) => {
        concat!(
            "INSERT INTO events (merchant_id, id, account_id, event_key, origin, delivery_id, body_sha256, kind, body, state, attempt_id,
                 payment_id, has_moved, tries, created_at)
             SELECT merchant_id, id, account_id, event_key, origin, delivery_id, body_sha256, kind, body, state, attempt_id, payment_id,
                 has_moved, tries, created_at FROM r", $otherwise
        )
    };
}

/// Adds events; one whose identity is taken is an error. PostgreSQL does not write down first that it is going to insert,
/// and asks the index once instead of twice.
pub(super) const ADD_EVENTS: &str = add_events!("");
/// Adds events but for those whose identity is taken.
const ADD_EVENTS_UNLESS_TAKEN: &str =
    add_events!(" WHERE true ON CONFLICT (merchant_id, account_id, event_key) DO NOTHING");

/// An event to be kept.
pub(super) struct NewEvent<'a> {
    event: &'a EventRow,
    /// What it says, as JSON.
    body: String,
    /// A transition names it that is added with it.
    has_moved: bool,
}

impl<'a> NewEvent<'a> {
    pub(super) fn of(event: &'a EventRow, has_moved: bool) -> Result<Self, StoreError> {
        Ok(NewEvent { event, body: to_json(&*event.event)?, has_moved })
    }
}

/// Events to be kept.
pub(super) fn events_set<'a>(new: &'a [NewEvent<'a>], add: &'static str) -> Set<'a> {
    let rows = new.iter().map(|NewEvent { event: e, body, has_moved }| {
        row![
            &e.merchant_id,
            &e.id,
            &e.account_id,
            &e.event.key,
            &e.origin,
            &e.delivery_id,
            &e.body_sha256,
            e.event.kind.word(),
            body,
            &e.state,
            &e.attempt_id,
            &e.payment_id,
            has_moved.then_some(1),
            e.tries,
            e.created_at
        ]
    });
    Set::new(
        &[
            "merchant_id",
            "id",
            "account_id",
            "event_key",
            "origin",
            "delivery_id",
            "body_sha256",
            "kind",
            "body",
            "state",
            "attempt_id",
            "payment_id",
            "has_moved",
            "tries",
            "created_at",
        ],
        rows,
        add,
    )
}

fn delivery(r: &Row) -> Result<StoredDelivery, StoreError> {
    Ok(StoredDelivery {
        delivery: RecordedDelivery {
            merchant_id: r.text("merchant_id")?,
            id: r.text("id")?,
            account_id: r.text("account_id")?,
            provider: r.text("provider")?,
            verdict: r.text("verdict")?,
            headers: r.text("headers")?,
            query: r.text("query")?,
            body: r.blob("body")?,
            body_sha256: r.text("body_sha256")?,
            received_at: r.int("received_at")?,
        },
        repeats: r.int("repeats")?,
        last_at: r.int("last_at")?,
    })
}

pub(super) fn event(r: &Row) -> Result<EventRow, StoreError> {
    Ok(EventRow {
        merchant_id: r.text("merchant_id")?,
        id: r.text("id")?,
        account_id: r.text("account_id")?,
        origin: r.text("origin")?,
        delivery_id: r.maybe_text("delivery_id")?,
        body_sha256: r.text("body_sha256")?,
        event: Arc::new(r.json("body")?),
        state: r.text("state")?,
        attempt_id: r.maybe_text("attempt_id")?,
        payment_id: r.maybe_text("payment_id")?,
        tries: r.int("tries")?,
        created_at: r.int("created_at")?,
    })
}
