//! Letters that nobody takes, and letters in the languages of their readers.

use grosz::store::JobKind;
use serde_json::json;

use super::stage::Stage;
use crate::api::client::{Client, refused};
use crate::harness::Engine;
use crate::on_both;
use crate::raw::Raw;

// F40: the payer's invoice letter is refused for good. The case's expert hears which letter, and to whom; with the address
// corrected it is sent again, and the matter is closed.
on_both!(a_letter_to_the_payer_that_is_refused_reaches_the_expert, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    let client = Client::new(&stage.hub);
    let payment = stage.pay("1/2026", "stripe", "pay").await;
    stage.hub.run_jobs().await;
    let letter = stage.notices("invoice_ready").await.remove(0);
    let raw = Raw::of(&stage.hub.app).await;
    raw.run("UPDATE notices SET state = 'queued', recipient = 'nobody' WHERE kind = 'invoice_ready'").await;
    let again = format!("/v1/notices/{}/resend", letter.id);
    assert_eq!(client.post(&again, json!({})).await.expect(409).json()["code"], "notice_queued");
    let (mut tx, now) = (stage.hub.tx().await, stage.hub.app.now());
    tx.enqueue(&letter.merchant_id, "job_letter", JobKind::SendNotice, &letter.id, now, now).await.unwrap();
    tx.commit().await.unwrap();
    stage.hub.run_jobs().await;

    let alert = stage.open_alerts().await.remove(0);
    assert_eq!(alert.code, "notice.undeliverable");
    assert_eq!((alert.payment_id.as_ref(), alert.expert_id.as_ref()), (Some(&payment.id), Some(&stage.experts[0].id)));
    assert!(alert.reason.contains(&letter.subject) && alert.reason.contains("nobody"), "{}", alert.reason);
    assert_eq!(stage.notices("notice.undeliverable").await[0].recipient, stage.experts[0].email);

    assert_eq!(refused(&client.post(&again, json!({"recipient": "nobody"})).await), ["/recipient"]);
    let sent = client.post(&again, json!({})).await.expect(201).json();
    assert_eq!(sent["recipient"], letter.recipient, "the present address of the invoice data");
    stage.hub.run_jobs().await;
    let states = stage.notices("invoice_ready").await.into_iter().map(|n| n.state).collect::<Vec<_>>();
    assert_eq!((states.contains(&"sent".to_owned()), states.len()), (true, 2), "{states:?}");
    assert!(stage.open_alerts().await.is_empty());
});

// R-HUB-12: an expert reads in his own language what is the matter and what to do.
on_both!(an_alert_speaks_the_language_of_its_reader, async |engine: Engine| {
    for (language, title, sentence) in [
        ("pl", "wpłacono inną kwotę", "Operator płatności podaje inną kwotę"),
        ("en", "another amount was paid", "The gateway reports another amount"),
        ("cs", "byla zaplacena jiná částka", "Platební brána hlásí jinou částku"),
        ("uk", "сплачено іншу суму", "Платіжний оператор повідомляє про іншу суму"),
        ("ru", "оплачена другая сумма", "Платёжный оператор сообщает другую сумму"),
        ("is", "önnur upphæð var greidd", "Greiðslumiðlunin tilkynnir aðra upphæð"),
    ] {
        let stage = Stage::set(engine).await;
        let expert = format!("/v1/experts/{}", stage.experts[0].id);
        Client::new(&stage.hub).patch(&expert, json!({"language": language})).await.expect(200);
        stage.dial(json!({"stripe": {"wrong_amount": 1}})).await;
        stage.pay("1/2026", "stripe", "pay").await;
        let letter = stage.notices("payment.amount_mismatch").await.remove(0);
        assert!(letter.subject.contains(title) && letter.subject.contains("1/2026"), "{language}: {}", letter.subject);
        assert!(letter.body.contains(sentence) && letter.body.contains("123.01"), "{language}: {}", letter.body);
    }
});
