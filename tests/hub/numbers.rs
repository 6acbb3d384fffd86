//! What always comes with something else is found by its number or by its cause, without an entry of its own in an index.

use grosz::clock::Clock;
use grosz::ids::{Ids, with_number_of};
use grosz::store::{DeliveryFilter, EventRow, Message, Page, Payment};
use grosz_providers::{EventKind, FailReason, Outcome, Reference};

use crate::harness::{Engine, Hub};
use crate::matter::{event, matter, receive_slice};
use crate::on_both;
use crate::raw::Raw;

/// The events, messages and deliveries of a payment, the first first.
struct Story {
    events: Vec<EventRow>,
    messages: Vec<Message>,
    deliveries: Vec<String>,
}

impl Story {
    async fn of(hub: &Hub, p: &Payment) -> Story {
        let mut tx = hub.app.store.read().await.unwrap();
        let filter = DeliveryFilter { payment: Some(p.id.clone()), ..DeliveryFilter::default() };
        let page = Page { before: None, limit: 100 };
        let mut deliveries: Vec<String> =
            tx.deliveries(&p.merchant_id, &filter, &page).await.unwrap().into_iter().map(|d| d.delivery.id).collect();
        deliveries.reverse();
        Story {
            events: tx.events_of_payment(&p.merchant_id, &p.id).await.unwrap(),
            messages: tx.messages_about(&p.merchant_id, &p.id).await.unwrap(),
            deliveries,
        }
    }

    fn keys(&self) -> Vec<&str> {
        self.events.iter().map(|e| e.event.key.as_str()).collect()
    }

    fn kinds(&self) -> Vec<&str> {
        self.messages.iter().map(|m| m.kind.as_str()).collect()
    }
}

async fn keys_of_delivery(hub: &Hub, delivery: &str) -> Vec<String> {
    let mut tx = hub.app.store.read().await.unwrap();
    let found = tx.events_of_delivery(&hub.merchant.id, delivery).await.unwrap();
    found.into_iter().map(|e| e.event.key.clone()).collect()
}

// R-HUB-10 among them: an event that came before its attempt and was applied later.
on_both!(what_comes_together_is_found_by_its_number, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let raw = Raw::of(&hub.app).await;
    let matter = matter(&hub).await;
    let (early, attempt) = matter.payment(&hub, "1/2026").await;
    let (other, others) = matter.payment(&hub, "2/2026").await;
    // Of two events of one call only the first bears its number; the second moves the other payment.
    let failed = EventKind::Failed { reason: FailReason::Declined };
    let mut both = matter.delivery(&hub, event(&attempt, "pending", EventKind::Pending, "r1"));
    both.reading.events.push(event(&others, "failed", failed, "r2"));
    let paid = matter.delivery(&hub, event(&attempt, "paid", EventKind::Paid, "r1"));
    let calls = [both, paid];
    receive_slice(&hub.app, &calls).await.unwrap();
    let [both, paid] = calls.each_ref().map(|call| call.delivery.id.as_str());
    // This one comes before its attempt is known.
    let (late, lates) = matter.payment(&hub, "3/2026").await;
    let hide = |from: &str, to: &str| format!("UPDATE attempts SET reference = '{to}' WHERE reference = '{from}'");
    raw.run(hide(&lates.reference, "hidden")).await;
    let parked = matter.delivery(&hub, event(&lates, "parked", EventKind::Paid, "r3"));
    assert_eq!(receive_slice(&hub.app, std::slice::from_ref(&parked)).await.unwrap(), [[Outcome::UnknownAttempt]]);
    raw.run(hide("hidden", &lates.reference)).await;
    hub.advance(60);
    hub.run_jobs().await;

    let check = async |first_of_both: &str, first_of_paid: &str| {
        let story = Story::of(&hub, &early).await;
        assert_eq!(
            (story.keys(), story.deliveries.as_slice()),
            (vec!["pending", "paid"], &[both.into(), paid.into()][..])
        );
        assert_eq!(story.kinds(), ["payment.started", "payment.completed"]);
        assert_eq!([&story.events[0].id, &story.events[1].id], [first_of_both, first_of_paid]);
        let story = Story::of(&hub, &other).await;
        assert_eq!((story.keys(), story.deliveries.as_slice()), (vec!["failed"], &[both.to_owned()][..]));
        assert_eq!(story.kinds(), ["payment.started", "payment.error"]);
        let story = Story::of(&hub, &late).await;
        assert_eq!((story.keys(), story.kinds()), (vec!["parked"], vec!["payment.started", "payment.completed"]));
        assert_eq!(keys_of_delivery(&hub, both).await, ["pending", "failed"]);
        assert_eq!(keys_of_delivery(&hub, paid).await, ["paid"]);
        assert_eq!(keys_of_delivery(&hub, &parked.delivery.id).await, ["parked"]);
    };
    check(&with_number_of(both, "evt"), &with_number_of(paid, "evt")).await;
    // Each transition's message bears its number, and what it names as its cause is on record.
    let moves = "SELECT COUNT(*) FROM transitions t JOIN messages m ON m.merchant_id = t.merchant_id
                 AND m.id = 'msg_' || substr(t.id, 5) AND m.subject = t.payment_id AND m.of_transition = 1";
    assert_eq!(raw.number(moves).await, 6);
    // What the indexes hold: an event that moved nothing, one that was applied by a job; the second of a call.
    let held = "SELECT event_key FROM events WHERE has_moved IS NULL ORDER BY id";
    assert_eq!(raw.column(held).await, ["pending", "parked"]);
    let held = "SELECT event_key FROM events WHERE substr(id, 5) <> substr(delivery_id, 5)";
    assert_eq!(raw.column(held).await, ["failed"]);

    // F49: the same as a program before this one wrote it, with numbers of their own and no marks.
    for (table, kind) in [("events", "evt"), ("messages", "msg")] {
        for id in raw.column(&format!("SELECT id FROM {table} ORDER BY id")).await {
            let anew = hub.app.ids.make(kind);
            raw.run(format!("UPDATE {table} SET id = '{anew}' WHERE id = '{id}'")).await;
            raw.run(format!("UPDATE transitions SET cause_id = '{anew}' WHERE cause_id = '{id}'")).await;
        }
    }
    raw.run("UPDATE events SET has_moved = NULL").await;
    raw.run("UPDATE messages SET of_transition = NULL").await;
    let ids = raw.column("SELECT id FROM events WHERE event_key IN ('pending', 'paid') ORDER BY id").await;
    assert_ne!(ids[0], with_number_of(both, "evt"));
    check(&ids[0], &ids[1]).await;
});

// A call that names nothing that was ever seen, then its bytes again: the number is given once.
on_both!(a_repeat_takes_no_number, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let raw = Raw::of(&hub.app).await;
    let matter = matter(&hub).await;
    let (_, attempt) = matter.payment(&hub, "1/2026").await;
    let first = matter.delivery(&hub, event(&attempt, "paid", EventKind::Paid, "r1"));
    let mut repeat = matter.delivery(&hub, event(&attempt, "paid", EventKind::Paid, "r1"));
    // The repeat brings one more event, so that it is kept: its first new event bears its number.
    let mut note = event(&attempt, "note", EventKind::Note, "r1");
    note.reference = Reference::Ours(attempt.reference.clone());
    repeat.reading.events.push(note);
    for slice in [vec![first.clone()], vec![repeat.clone(), first.clone()], vec![repeat.clone()]] {
        receive_slice(&hub.app, &slice).await.unwrap();
    }
    let ids = raw.column("SELECT id FROM events ORDER BY event_key DESC").await;
    assert_eq!(ids, [with_number_of(&first.delivery.id, "evt"), with_number_of(&repeat.delivery.id, "evt")]);
    assert_eq!(keys_of_delivery(&hub, &repeat.delivery.id).await, ["note"]);
    assert_eq!(raw.number("SELECT SUM(repeats) FROM deliveries").await, 3);
});

// A reader of the feed who comes at every instant misses nothing: what is held back is told by the ids, by which the
// feed is read on.
on_both!(the_feed_is_held_back_by_its_ids, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let clock = Clock::manual("2026-11-21T20:00:00Z".parse().unwrap());
    let ids = Ids::new(clock.clone());
    let begin = clock.micros();
    let mut made = vec![];
    for (n, written_after) in [9_000, 0, 4_000, 0].into_iter().enumerate() {
        let message = Message {
            merchant_id: hub.merchant.id.clone(),
            id: ids.make("msg"),
            kind: "payment.started".into(),
            subject: format!("pay_{n}"),
            of_transition: false,
            body: "{}".into(),
            created_at: clock.micros() + written_after,
        };
        made.push(message.id.clone());
        let mut tx = hub.tx().await;
        tx.add_message(message).await.unwrap();
        tx.commit().await.unwrap();
        clock.advance(std::time::Duration::from_millis(2));
    }
    let (mut seen, mut tx) = (vec![], hub.app.store.read().await.unwrap());
    for at in (begin - 2_000..begin + 10_000).step_by(500) {
        let after: Option<String> = seen.last().cloned();
        let page = tx.feed(&hub.merchant.id, after.as_deref(), at, 100).await.unwrap();
        assert!(page.iter().all(|m| grosz::ids::made_at(&m.id).unwrap() <= at), "too early at {at}");
        seen.extend(page.into_iter().map(|m| m.id));
    }
    assert_eq!(seen, made);
});
