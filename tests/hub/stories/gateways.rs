//! Gateways that refuse, rest, or speak of somebody else's business.

use grosz::flows::poll_status::apply_answer;
use grosz_providers::EventKind;

use super::stage::Stage;
use crate::harness::Engine;
use crate::matter::event;
use crate::on_both;

// F09: an account whose setting was left out has no name, and the alert says so.
on_both!(news_for_an_account_with_a_name_are_none_of_the_nameless, async |engine: Engine| {
    let stage = Stage::set(engine).await;
    let payment = stage.start(&stage.case("1/2026").await, "stripe").await;
    let attempt = stage.attempts(&payment).await.remove(0);
    let mut news = event(&attempt, "evt_1", EventKind::Paid, "pi_1");
    news.account = Some("acct_1".into());
    let mut tx = stage.hub.tx().await;
    apply_answer(&stage.hub.app, &mut tx, stage.account("stripe"), &[news], "poll").await.unwrap();
    tx.commit().await.unwrap();
    let alert = stage.open_alerts().await.remove(0);
    assert_eq!(alert.code, "payment.account_mismatch");
    assert_eq!(alert.reason, "the message is for account acct_1, this account names none");
});
