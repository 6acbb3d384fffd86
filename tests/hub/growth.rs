//! What grows is let go by the month, once, whoever does it; what counts stays.

use std::sync::Arc;

use grosz::app::App;
use grosz::config::{Config, Hidden};
use grosz::flows::keep_house::{Kept, NAME, keep_house};
use grosz::ids::first_of;
use grosz::store::{Growing, Store, StoreSettings};
use grosz_providers::{EventKind, Money, Outcome};
use tokio::sync::watch;

use crate::crash::mortal;
use crate::harness::{Engine, Hub, empty_store};
use crate::matter::{event, matter, receive_slice};
use crate::on_both;
use crate::raw::Raw;

const DAY: u64 = 86_400;

async fn keep(app: &App) -> Option<Kept> {
    keep_house(app, &watch::channel(false).1).await.expect("the housekeeping runs")
}

/// Rows that are never let go.
const FOR_EVER: &[&str] = &["payments", "attempts", "captures", "transitions", "events", "notices", "cases", "alerts"];

async fn counts(raw: &Raw, tables: &[&str]) -> Vec<i64> {
    let mut found = vec![];
    for table in tables {
        found.push(raw.number(&format!("SELECT COUNT(*) FROM {table}")).await);
    }
    found
}

// R-5W-43, F03: a repeat of a very old event is still a repeat.
on_both!(an_old_event_is_recognised_after_its_details_are_gone, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let raw = Raw::of(&hub.app).await;
    let matter = matter(&hub).await;
    let (payment, attempt) = matter.payment(&hub, "1/2026").await;
    let paid = matter.delivery(&hub, event(&attempt, "evt_paid", EventKind::Paid, "r1"));
    let wrong_amount = Some(Money::new(1, attempt.amount.currency()));
    let (_, other) = matter.payment(&hub, "2/2026").await;
    let wrong = matter.delivery(
        &hub,
        grosz_providers::Event { amount: wrong_amount, ..event(&other, "evt_wrong", EventKind::Paid, "r2") },
    );
    receive_slice(&hub.app, &[paid.clone(), wrong.clone()]).await.unwrap();
    let before = counts(&raw, FOR_EVER).await;
    raw.run("UPDATE notices SET state = 'sent'").await;
    assert!(raw.column("SELECT recipient || subject FROM notices").await.iter().all(|text| text.contains('@')));
    hub.advance(430 * DAY);
    let kept = keep(&hub.app).await.expect("its turn");
    assert!(kept.rows >= 3, "{kept:?}");
    assert_eq!(counts(&raw, &["deliveries", "messages", "tellings"]).await, [0, 0, 0]);
    assert_eq!(counts(&raw, FOR_EVER).await, before);
    let left = raw.column("SELECT body FROM events WHERE event_key = 'evt_paid'").await;
    assert!(!left[0].contains("told by the story") && left[0].contains("paid"), "{left:?}");
    assert!(raw.column("SELECT recipient || subject || body FROM notices").await.iter().all(String::is_empty));

    // The same bytes, then the same event in other bytes: the first outcome is answered, and nothing moves.
    let mut deviating = matter.delivery(&hub, event(&attempt, "evt_paid", EventKind::Paid, "r9"));
    let other = Arc::make_mut(&mut deviating.delivery);
    other.body = b"other bytes".to_vec();
    other.body_sha256 = grosz_providers::sign::sha256_hex(b"other bytes");
    let again = receive_slice(&hub.app, &[paid, deviating, wrong]).await.unwrap();
    assert_eq!(again, [vec![Outcome::Recorded], vec![Outcome::Recorded], vec![Outcome::Mismatch]]);
    assert_eq!(counts(&raw, FOR_EVER).await, before);
    assert_eq!(raw.column("SELECT verdict FROM deliveries").await, ["deviating"], "evidence is kept as ever");
    let story = hub.get(&format!("/v1/payments/{}/timeline", payment.id)).await.expect(200).text();
    assert!(story.contains("paid by webhook: applied"), "{story}");
});

on_both!(rows_of_this_retention_stay, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let raw = Raw::of(&hub.app).await;
    let matter = matter(&hub).await;
    let (_, attempt) = matter.payment(&hub, "1/2026").await;
    matter.receive(&hub, event(&attempt, "evt_paid", EventKind::Paid, "r1")).await;
    let tables = ["deliveries", "messages"];
    let before = counts(&raw, &tables).await;
    assert!(before.iter().all(|n| *n > 0), "{before:?}");
    // A month is let go when all of it is older than the retention: 21 November goes on 1 March of three months later.
    hub.advance(191 * DAY);
    keep(&hub.app).await.unwrap();
    assert_eq!(counts(&raw, &tables).await, before);
    hub.advance(2 * DAY);
    keep(&hub.app).await.unwrap();
    assert_eq!(counts(&raw, &tables).await, [before[0], 0], "messages after six months");
    hub.advance(212 * DAY);
    keep(&hub.app).await.unwrap();
    assert_eq!(counts(&raw, &tables).await, [before[0], 0]);
    hub.advance(2 * DAY);
    keep(&hub.app).await.unwrap();
    assert_eq!(counts(&raw, &tables).await, [0, 0], "deliveries after thirteen");
});

// F56: a key is kept for ever. When its answer is gone a repeat is told what was made, and makes nothing anew.
on_both!(a_key_outlives_its_answer, async |engine: Engine| {
    let hub = Hub::start_with(engine, |c| c.keep_answers_months = 3).await;
    let raw = Raw::of(&hub.app).await;
    let call = async |address: &str, key: &str, body: serde_json::Value| {
        hub.call("POST", address, Some(crate::harness::KEY), Some(body), &[("idempotency-key", key)]).await
    };
    let payer = serde_json::json!({"name": "K", "email": "k@example.com"});
    let endpoint = serde_json::json!({"url": "https://client.example/hook"});
    let made = call("/v1/payers", "k1", payer.clone()).await.expect(201).json();
    call("/v1/webhook-endpoints", "k2", endpoint.clone()).await.expect(201);
    let (payers, endpoints) = ("SELECT COUNT(*) FROM payers", "SELECT COUNT(*) FROM endpoints");
    let before = [raw.number(payers).await, raw.number(endpoints).await];
    // A month is let go when all of it is older than the term: 21 November goes on 1 March of three months later.
    hub.advance(99 * DAY);
    assert_eq!(keep(&hub.app).await.unwrap().rows, 0);
    assert_eq!(call("/v1/payers", "k1", payer.clone()).await.expect(201).json(), made);
    hub.advance(2 * DAY);
    assert_eq!(keep(&hub.app).await.unwrap().rows, 2);
    hub.advance(3600);
    assert_eq!(keep(&hub.app).await.unwrap().rows, 0, "what was emptied is not looked at again");
    assert!(raw.column("SELECT body FROM idempotency_keys").await.iter().all(|left| !left.contains("example")));
    let id = made["id"].as_str().unwrap();
    for (address, key, body, named) in
        [("/v1/payers", "k1", &payer, id), ("/v1/webhook-endpoints", "k2", &endpoint, "something")]
    {
        let refused = call(address, key, body.clone()).await.expect(409).json();
        assert_eq!(refused["code"], "idempotency_answer_gone");
        assert!(refused["detail"].as_str().unwrap().contains(named), "{refused}");
    }
    let other = serde_json::json!({"name": "L", "email": "l@example.com"});
    assert_eq!(call("/v1/payers", "k1", other.clone()).await.expect(422).json()["code"], "idempotency_mismatch");
    assert_eq!([raw.number(payers).await, raw.number(endpoints).await], before, "nothing was made twice");
    call("/v1/payers", "k3", other).await.expect(201);
    hub.advance(130 * DAY);
    assert_eq!(keep(&hub.app).await.unwrap().rows, 1, "the next one goes in its turn");
});

on_both!(nothing_goes_where_everything_is_kept_for_ever, async |engine: Engine| {
    let hub = Hub::start_with(engine, |c| {
        c.keep_deliveries_months = 0;
        c.keep_events_months = 0;
        c.keep_messages_months = 0;
        c.keep_answers_months = 0;
        c.keep_notices_months = 0;
    })
    .await;
    let raw = Raw::of(&hub.app).await;
    let matter = matter(&hub).await;
    let (_, attempt) = matter.payment(&hub, "1/2026").await;
    matter.receive(&hub, event(&attempt, "evt_paid", EventKind::Paid, "r1")).await;
    hub.advance(5000 * DAY);
    assert_eq!(keep(&hub.app).await.expect("its turn").rows, 0);
    assert_eq!(counts(&raw, &["deliveries", "messages"]).await, [1, raw.number("SELECT COUNT(*) FROM messages").await]);
    assert!(raw.column("SELECT body FROM events").await[0].contains("told by the story"));
});

// F56: whenever the housekeeping dies, a key has its answer or names what was made, a repeat makes nothing, and the next turn
// does the rest.
on_both!(a_death_anywhere_while_answers_go, async |engine: Engine| {
    let hub = Hub::start_with(engine, |c| c.keep_answers_months = 3).await;
    let raw = Raw::of(&hub.app).await;
    let repeat = async |n: usize| {
        let (key, name) = (format!("k{n}"), format!("K{n}"));
        let body = serde_json::json!({"name": name, "email": "k@example.com"});
        hub.call("POST", "/v1/payers", Some(crate::harness::KEY), Some(body), &[("idempotency-key", &key)]).await
    };
    let (mut made, mut deaths, mut polls) = (vec![], 0, 0);
    loop {
        made.push(repeat(made.len()).await.expect(201).json());
        hub.advance(130 * DAY);
        let survived = mortal(polls, keep_house(&hub.app, &watch::channel(false).1)).await.is_some();
        let left = raw.column("SELECT status || ' ' || body FROM idempotency_keys ORDER BY created_at").await;
        assert_eq!(left.len(), made.len(), "no key goes");
        for (left, made) in left.iter().zip(&made) {
            let id = made["id"].as_str().unwrap();
            assert!(*left == format!("410 {id}") || (left.starts_with("201 {") && left.contains(id)), "{left}");
        }
        let newest = made.len() - 1;
        let again = repeat(newest).await;
        if left[newest].starts_with("410") {
            let refused = again.expect(409).json();
            assert!(refused["detail"].as_str().unwrap().contains(made[newest]["id"].as_str().unwrap()), "{refused}");
        } else {
            assert_eq!(again.expect(201).json(), made[newest]);
        }
        assert_eq!(raw.column("SELECT id FROM payers").await.len(), made.len(), "a repeat makes nothing");
        if survived {
            assert!(left.iter().all(|left| left.starts_with("410 ")), "the next turn does the rest: {left:?}");
        }
        deaths += usize::from(!survived);
        // A run that came to its end has shown all its places this time; the next may wait at others.
        polls = if survived { 0 } else { polls + 1 };
        if survived && deaths > 12 {
            return;
        }
    }
});

// F55: no leader; the key of the turn decides.
on_both!(a_turn_is_run_once_and_a_missed_one_is_made_good_once, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let config = Config { database_url: Hidden(hub.app.config.database_url.0.clone()), ..hub.app.config.clone() };
    let second = App::open(config, hub.app.clock.clone()).await.unwrap();
    for missed in [0, 5, 1, 48] {
        hub.advance(missed * 3600);
        let (a, b) = tokio::join!(keep(&hub.app), keep(&second));
        let once = usize::from(a.is_some()) + usize::from(b.is_some());
        assert_eq!(once, 1, "after {missed} hours without anybody");
        hub.advance(60);
        assert_eq!((keep(&second).await, keep(&hub.app).await), (None, None), "the turn is over");
    }
    let turns = hub.app.store.read().await.unwrap().turns(NAME).await.unwrap();
    assert_eq!(turns.len(), 4);
    assert!(turns.iter().all(|(_, over)| *over));
    hub.advance(40 * DAY);
    keep(&hub.app).await.unwrap();
    assert_eq!(hub.app.store.read().await.unwrap().turns(NAME).await.unwrap().len(), 1, "old turns are forgotten");
});

// A hub that stops in the middle leaves the rest to the next turn, and a batch is never large.
on_both!(batches_are_bounded_and_a_stop_is_heard_between_them, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let raw = Raw::of(&hub.app).await;
    let m = &hub.merchant.id;
    let mut rows = vec![];
    for n in 0..2500 {
        let id = format!("{}{n:04}", first_of("msg", hub.app.now()).trim_end_matches("0000"));
        rows.push(format!("('{m}', '{id}', 'payment.completed', 'pay_1', '{{}}', {})", hub.app.now()));
    }
    let values = rows.join(", ");
    raw.run(format!("INSERT INTO messages (merchant_id, id, type, subject, body, created_at) VALUES {values}")).await;
    hub.advance(300 * DAY);
    let bound = first_of("msg", hub.app.now());
    let mut tx = hub.app.store.begin().await.unwrap();
    let batch = tx.oldest(Growing::Messages, m, "", &bound, 1000).await.unwrap().unwrap();
    assert_eq!((batch.rows, tx.let_go(Growing::Messages, m, &batch).await.unwrap()), (1000, 1000));
    tx.rollback().await.unwrap();
    let stopped = keep_house(&hub.app, &watch::channel(true).1).await.unwrap().unwrap();
    assert_eq!((stopped.rows, counts(&raw, &["messages"]).await), (0, vec![2500]));
    hub.advance(3600);
    assert_eq!(keep(&hub.app).await.unwrap().rows, 2500);
});

// A message that was sent again lately stays as long as the record of it.
on_both!(a_message_stays_while_something_names_it, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let raw = Raw::of(&hub.app).await;
    let (m, old) = (&hub.merchant.id, first_of("msg", hub.app.now()));
    raw.run(format!("INSERT INTO messages (merchant_id, id, type, subject, body, created_at) VALUES ('{m}', '{old}', 'x', 's', '{{}}', 1)"))
        .await;
    hub.advance(300 * DAY);
    let young = first_of("tel", hub.app.now());
    raw.run(format!("INSERT INTO tellings (merchant_id, id, message_id, endpoint_id, state, attempts, created_at) VALUES ('{m}', '{young}', '{old}', 'ep', 'pending', 0, 1)"))
        .await;
    keep(&hub.app).await.unwrap();
    assert_eq!(counts(&raw, &["messages", "tellings"]).await, [1, 1]);
    hub.advance(230 * DAY);
    keep(&hub.app).await.unwrap();
    assert_eq!(counts(&raw, &["messages", "tellings"]).await, [0, 0]);
});

/// Partitions of `deliveries` with what is in them, by name.
async fn months(raw: &Raw) -> Vec<(String, i64)> {
    let names = "SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                 WHERE i.inhparent = 'deliveries'::regclass ORDER BY c.relname";
    let mut found = vec![];
    for name in raw.column(names).await {
        let rows = raw.number(&format!("SELECT COUNT(*) FROM {name}")).await;
        found.push((name, rows));
    }
    found
}

fn delivery(merchant: &str, id: &str) -> String {
    format!(
        "INSERT INTO deliveries (merchant_id, id, account_id, provider, verdict, headers, query, body, body_sha256, repeats, received_at, last_at)
         VALUES ('{merchant}', '{id}', 'acc', 'p', 'verified', '[]', '', 'b', 's', 0, 0, 0)"
    )
}

fn instant(text: &str) -> i64 {
    text.parse::<jiff::Timestamp>().unwrap().as_microsecond()
}

async fn empty_on_postgres() -> Option<(Store, Raw)> {
    crate::cluster::cluster()?;
    let (store, url, _) = empty_store(Engine::Postgres).await;
    Some((store, Raw::at(&url).await))
}

// F49: the table is divided under rows that are there, and an old program beside the new one goes on.
#[tokio::test(flavor = "multi_thread")]
async fn the_table_is_divided_without_losing_a_row() {
    let Some((store, raw)) = empty_on_postgres().await else { return };
    let now = instant("2026-11-21T20:00:00Z");
    store.migrate_up_to(1, now).await.unwrap();
    let id = |at: &str| first_of("dlv", instant(at));
    let (old, odd) = (id("2025-01-01T00:00:00Z"), "dlv_written_by_hand");
    let (present, future) = (id("2026-11-21T19:59:59Z"), id("2026-12-24T00:00:00Z"));
    for there in [old.as_str(), odd, &present, &future] {
        raw.run(delivery("mer_1", there)).await;
    }
    raw.run("CREATE ROLE reader; GRANT SELECT ON deliveries_readable TO reader").await;
    // What an old program has prepared on its connection.
    let Raw::Postgres(old_program) = &raw else { unreachable!() };
    let insert = delivery("mer_1", "$1").replace("'$1'", "$1");
    let update = "UPDATE deliveries SET repeats = repeats + 1, last_at = $3 WHERE merchant_id = $1 AND id = $2";
    let add = async |id: &str| {
        sqlx::query(sqlx::AssertSqlSafe(insert.clone())).bind(id.to_owned()).execute(old_program).await.unwrap();
        let counted = sqlx::query(update).bind("mer_1").bind(id.to_owned()).bind(7_i64).execute(old_program).await;
        assert_eq!(counted.unwrap().rows_affected(), 1);
    };
    add(&id("2026-11-21T20:00:00Z")).await;

    store.migrate(now).await.unwrap();
    let first = ("deliveries_first".to_owned(), 3);
    assert_eq!(months(&raw).await, [("deliveries_default".to_owned(), 2), first.clone()], "no row moved but two");
    let not_squeezed = "SELECT COUNT(*) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
        WHERE c.relname ~ '^deliveries(_(first|default|[0-9_]+))?$' AND a.attname IN ('body', 'headers') AND a.attcompression <> 'l'";
    assert_eq!(raw.number(not_squeezed).await, 0, "parts that were there before are squeezed as the others are");
    add(&id("2026-11-22T20:00:00Z")).await;
    assert_eq!(raw.number("SELECT SUM(repeats) FROM deliveries").await, 2);
    raw.run("SET ROLE reader; SELECT received FROM deliveries_readable; RESET ROLE").await;

    let made = store.make_partitions(now).await.unwrap();
    assert_eq!(made, ["deliveries_2026_12", "deliveries_2027_01", "deliveries_2027_02"]);
    assert_eq!(raw.number(not_squeezed).await, 0);
    assert!(store.make_partitions(now).await.unwrap().is_empty());
    let now_there = months(&raw).await;
    assert_eq!(now_there[0], ("deliveries_2026_12".to_owned(), 1), "the row of the future went to its month");
    assert_eq!(
        now_there[3],
        ("deliveries_default".to_owned(), 1),
        "what is no id of ours stays where nothing is dropped"
    );
    assert_eq!(now_there[4], ("deliveries_first".to_owned(), 4));
}

/// How the schema's texts are compared, each way once.
async fn ways_to_compare(raw: &Raw) -> Vec<String> {
    let ways =
        "SELECT DISTINCT attcollation::regcollation::text FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
                WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind IN ('r', 'p', 'i', 'I')
                AND a.attnum > 0 AND NOT a.attisdropped AND a.attcollation <> 0 ORDER BY 1";
    raw.column(ways).await
}

// Ids are found and ordered the same wherever the database was made, and no change of its locale can spoil an index.
#[tokio::test(flavor = "multi_thread")]
async fn texts_are_compared_by_their_bytes_whatever_the_locale() {
    let Some((store, raw)) = empty_on_postgres().await else { return };
    let now = instant("2026-11-21T20:00:00Z");
    store.migrate(now).await.unwrap();
    store.make_partitions(now).await.unwrap();
    assert_eq!(ways_to_compare(&raw).await, ["\"C\""]);
    assert_eq!(raw.number("SELECT ('a' < 'B')::int").await, 1, "this database would do otherwise unless told so");
}

// A database that has no place for a payer's name is refused before the first payer comes, in words that help.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_cannot_keep_every_name_is_refused() {
    let Some((_, raw)) = empty_on_postgres().await else { return };
    let cluster = crate::cluster::cluster().unwrap();
    for (encoding, refused) in [("LATIN2", Some("encoding is LATIN2, it has to be UTF8")), ("SQL_ASCII", None)] {
        let name = format!("in_{}", encoding.to_lowercase());
        raw.run(format!(
            "CREATE DATABASE {name} TEMPLATE template0 LOCALE_PROVIDER libc LOCALE 'C' ENCODING '{encoding}'"
        ))
        .await;
        let url = format!("postgres://postgres@127.0.0.1:{}/{name}", cluster.port());
        let store = Store::open(&url, &StoreSettings::default()).await.unwrap();
        let said = store.migrate(0).await.map_err(|e| e.to_string());
        match refused {
            Some(why) => assert!(said.as_ref().is_err_and(|said| said.contains(why)), "{encoding}: {said:?}"),
            None => said.unwrap(),
        }
    }
}

// F49: a schema that was begun with the database's own way of comparing goes on so: a join of two ways has no index.
#[tokio::test(flavor = "multi_thread")]
async fn a_schema_has_one_way_of_comparing_texts() {
    let Some((store, raw)) = empty_on_postgres().await else { return };
    store.migrate_up_to(1, 0).await.unwrap();
    raw.run(
        "DO $$ DECLARE it RECORD; BEGIN
             FOR it IN SELECT viewname FROM pg_views WHERE schemaname = current_schema() LOOP
                 EXECUTE format('DROP VIEW %I', it.viewname);
             END LOOP;
             FOR it IN SELECT attrelid::regclass AS of_table, attname FROM pg_attribute a JOIN pg_class c ON c.oid = attrelid
                 WHERE c.relnamespace = current_schema()::regnamespace AND c.relkind = 'r' AND attnum > 0 AND attcollation <> 0
             LOOP
                 EXECUTE format('ALTER TABLE %s ALTER COLUMN %I TYPE TEXT COLLATE \"default\"', it.of_table, it.attname);
             END LOOP;
         END $$",
    )
    .await;
    store.migrate(0).await.unwrap();
    store.make_partitions(0).await.unwrap();
    assert_eq!(ways_to_compare(&raw).await, ["\"default\""]);
}

// F49: captures and transitions keep their rows when their keys change, and what an older program writes goes on working.
on_both!(rows_survive_the_change_of_their_keys, async |engine: Engine| {
    let (store, url, _dir) = empty_store(engine).await;
    store.migrate_up_to(6, 0).await.unwrap();
    let raw = Raw::at(&url).await;
    let capture = |id: &str, state: &str| {
        format!(
            "INSERT INTO captures (merchant_id, id, payment_id, attempt_id, gateway_ref, state, amount, currency, surplus, updated_at)
             VALUES ('mer_1', '{id}', 'pay_1', 'att_1', 'r1', '{state}', 100, 'PLN', 0, 5)
             ON CONFLICT (merchant_id, attempt_id, gateway_ref) DO UPDATE SET state = excluded.state"
        )
    };
    let move_to = |id: &str| {
        format!(
            "INSERT INTO transitions (merchant_id, id, payment_id, from_status, to_status, reason, cause, cause_id, at)
             VALUES ('mer_1', '{id}', 'pay_1', NULL, 'started', NULL, 'api', 'req_1', 7)"
        )
    };
    raw.run(capture("cap_1", "pending")).await;
    raw.run(move_to("trn_1")).await;
    let mut deaths = 0;
    while mortal(deaths, store.migrate(0)).await.is_none() {
        deaths += 1;
        let both = "SELECT (SELECT COUNT(*) FROM captures) * 10 + (SELECT COUNT(*) FROM transitions)";
        assert_eq!(raw.number(both).await, 11, "died after {deaths} polls");
    }
    assert!(deaths > 3, "{deaths}");
    raw.run(capture("cap_2", "paid")).await;
    raw.run(move_to("trn_2")).await;
    let text =
        "SELECT id || ' ' || payment_id || ' ' || gateway_ref || ' ' || state || ' ' || updated_at FROM captures";
    assert_eq!(raw.column(text).await, ["cap_1 pay_1 r1 paid 5"]);
    let text = "SELECT id || ' ' || to_status || ' ' || cause || ' ' || at FROM transitions ORDER BY id";
    assert_eq!(raw.column(text).await, ["trn_1 started api 7", "trn_2 started api 7"]);
    assert_eq!(raw.number("SELECT COUNT(*) FROM transitions_readable").await, 2);
    assert!(raw.try_run(&move_to("trn_2")).await.is_err(), "an id is there once");
});

// The first insert of a month never meets a missing one, and one that does is kept all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_month_that_nobody_made_is_made_good() {
    let Some((store, raw)) = empty_on_postgres().await else { return };
    let now = instant("2026-11-21T20:00:00Z");
    store.migrate(now).await.unwrap();
    store.make_partitions(now).await.unwrap();
    // Half a year in which no worker ran.
    for (n, at) in ["2027-02-28T23:59:59.999Z", "2027-03-01T00:00:00Z", "2027-05-31T23:59:59Z"].iter().enumerate() {
        raw.run(delivery(&format!("mer_{n}"), &first_of("dlv", instant(at)))).await;
    }
    assert_eq!(months(&raw).await[3], ("deliveries_default".to_owned(), 2));
    let later = instant("2027-05-31T23:59:59Z");
    let (a, b) = tokio::join!(store.make_partitions(later), store.make_partitions(later));
    assert_eq!(a.unwrap().len() + b.unwrap().len(), 4, "two processes at once make each month once");
    let there = months(&raw).await;
    assert!(
        there.contains(&("deliveries_2027_02".to_owned(), 1)) && there.contains(&("deliveries_2027_05".to_owned(), 1))
    );
    assert!(
        there.contains(&("deliveries_default".to_owned(), 1)),
        "March was not asked for and keeps its row: {there:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn old_months_are_dropped() {
    let Some((store, raw)) = empty_on_postgres().await else { return };
    let now = instant("2026-11-21T20:00:00Z");
    store.migrate(now).await.unwrap();
    for at in ["2026-11-01T00:00:00Z", "2026-12-31T23:59:59.999Z", "2027-01-01T00:00:00Z"] {
        store.make_partitions(instant(at)).await.unwrap();
        raw.run(delivery("mer_1", &first_of("dlv", instant(at)))).await;
    }
    assert!(store.drop_partitions(instant("2026-11-30T23:59:59Z")).await.unwrap().is_empty());
    assert_eq!(store.drop_partitions(instant("2026-12-01T00:00:00Z")).await.unwrap(), ["deliveries_first"]);
    // As if the hub had died between letting a month go and dropping it.
    raw.run("ALTER TABLE deliveries DETACH PARTITION deliveries_2026_12").await;
    assert_eq!(raw.number("SELECT COUNT(*) FROM deliveries").await, 1);
    store.drop_partitions(instant("2026-12-01T00:00:00Z")).await.unwrap();
    assert_eq!(raw.number("SELECT COUNT(*) FROM pg_class WHERE relname LIKE 'deliveries_2026_12%'").await, 0);
    assert_eq!(raw.number("SELECT COUNT(*) FROM deliveries_2027_01").await, 1);
}

// Somebody who holds the table for long (a dump) makes the housekeeping fail, and nobody queue behind it.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_is_held_is_left_alone() {
    let Some((store, raw)) = empty_on_postgres().await else { return };
    let now = instant("2026-11-21T20:00:00Z");
    store.migrate(now).await.unwrap();
    let Raw::Postgres(pool) = &raw else { unreachable!() };
    let mut dump = pool.begin().await.unwrap();
    sqlx::query("SELECT COUNT(*) FROM deliveries").execute(&mut *dump).await.unwrap();
    assert!(store.drop_partitions(instant("2027-01-01T00:00:00Z")).await.unwrap_err().is_passing());
    dump.rollback().await.unwrap();
    assert_eq!(store.drop_partitions(instant("2027-01-01T00:00:00Z")).await.unwrap(), ["deliveries_first"]);
}

// A dump reads the table for hours. Who wants to drop a month waits behind it for moments only, so the calls that come
// meanwhile, which wait behind both, are kept at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_waits_for_the_table_holds_up_nobody() {
    let Some((store, raw)) = empty_on_postgres().await else { return };
    let now = instant("2026-11-21T20:00:00Z");
    store.migrate(now).await.unwrap();
    let Raw::Postgres(pool) = &raw else { unreachable!() };
    let options = (*pool.connect_options()).clone();
    let mut others = vec![];
    for _ in 0..2 {
        others
            .push(sqlx::postgres::PgPoolOptions::new().max_connections(1).connect_with(options.clone()).await.unwrap());
    }
    let dump = "BEGIN; LOCK TABLE deliveries, deliveries_default, deliveries_first IN ACCESS SHARE MODE";
    sqlx::raw_sql(dump).execute(&others[0]).await.unwrap();
    // Half a year later: there are months to be made and one to be dropped.
    let later = instant("2027-05-21T20:00:00Z");
    let house = async {
        let made = store.make_partitions(later).await;
        (made, store.drop_partitions(later).await)
    };
    let mut house = std::pin::pin!(house);
    let mut calls = 0;
    let (made, dropped) = loop {
        let waiting = "SELECT COUNT(*) FROM pg_locks l JOIN pg_database d ON d.oid = l.database
            WHERE d.datname = current_database() AND NOT granted AND mode = 'AccessExclusiveLock'";
        tokio::select! {
            ended = &mut house => break ended,
            waits = raw.number(waiting) => if waits > 0 {
                // A webhook's rows, which go to the months before and to the part for all the rest.
                for at in [now, later] {
                    let id = format!("{}{calls}", first_of("dlv", at).trim_end_matches('0'));
                    let call = format!("SET lock_timeout = '1s'; {}", delivery("mer_1", &id));
                    sqlx::raw_sql(sqlx::AssertSqlSafe(call)).execute(&others[1]).await.expect("kept within a second");
                }
                calls += 1;
            },
        }
    };
    assert!(calls > 1, "somebody waited, and more than once: {calls}");
    assert!(made.unwrap_err().is_passing() && dropped.unwrap_err().is_passing());
    sqlx::raw_sql("ROLLBACK").execute(&others[0]).await.unwrap();
    assert_eq!(store.make_partitions(later).await.unwrap().len(), 4);
    assert!(store.drop_partitions(later).await.unwrap().contains(&"deliveries_first".to_owned()));
}
