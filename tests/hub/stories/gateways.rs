//! Gateways that refuse, rest, or speak of somebody else's business.

use std::sync::{Arc, Mutex};

use grosz::app::App;
use grosz::domain::payment::{Reason, Status};
use grosz::flows::FlowError;
use grosz::flows::poll_status::apply_answer;
use grosz::flows::refund::request_refund;
use grosz::flows::start_checkout::open_checkout;
use grosz_providers::wire::{Headers, Http, HttpError, HttpRequest, HttpResponse};
use grosz_providers::{CallError, EventKind};

use super::stage::Stage;
use crate::harness::Engine;
use crate::matter::event;
use crate::on_both;

/// What is answered in a gateway's place.
#[derive(Clone)]
struct Said {
    /// To calls whose address holds this text.
    path: &'static str,
    status: u16,
    headers: Vec<(&'static str, &'static str)>,
    body: &'static str,
}

/// The way to the gateways: keeps what was called, and has some calls answered as the story says.
struct Way {
    inner: Arc<dyn Http>,
    called: Mutex<Vec<String>>,
    said: Mutex<Option<Said>>,
}

impl Way {
    /// A stage whose calls take this way.
    async fn stage(engine: Engine) -> (Stage, Arc<Way>) {
        let way = Arc::new(Mutex::new(None));
        let mine = Arc::clone(&way);
        let fit = move |app: &mut App| {
            let way = Arc::new(Way { inner: Arc::clone(&app.http), called: Mutex::default(), said: Mutex::default() });
            *mine.lock().expect("no panic before") = Some(Arc::clone(&way));
            app.http_documents = Arc::clone(&way) as Arc<dyn Http>;
            app.http = way;
        };
        let stage = Stage::fitted(engine, fit).await;
        let way = way.lock().expect("no panic before").take();
        (stage, way.expect("a way"))
    }

    /// From now on such calls are answered so; `None`: by the gateway itself.
    fn say(&self, said: Option<Said>) {
        *self.said.lock().expect("no panic before") = said;
    }

    /// How often such an address was called.
    fn count(&self, path: &str) -> usize {
        self.called.lock().expect("no panic before").iter().filter(|url| url.contains(path)).count()
    }
}

#[async_trait::async_trait]
impl Http for Way {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        self.called.lock().expect("no panic before").push(request.url.clone());
        let said = self.said.lock().expect("no panic before").clone();
        match said.filter(|said| request.url.contains(said.path)) {
            Some(said) => {
                let headers = Headers::from_pairs(said.headers);
                Ok(HttpResponse { status: said.status, headers, body: said.body.into() })
            }
            None => self.inner.send(request).await,
        }
    }
}

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

/// 429 with a time to wait.
fn busy(path: &'static str, retry_after: &'static str) -> Said {
    Said { path, status: 429, headers: vec![("retry-after", retry_after)], body: "" }
}

// F37: whoever asks to be left alone for a while is: by the same question, by those about other payments of the account,
// and by a payer who waits on the return page.
on_both!(a_gateway_that_asks_for_a_pause_is_given_it, async |engine: Engine| {
    let (stage, way) = Way::stage(engine).await;
    let mut payments = vec![];
    for number in ["1/2026", "2/2026"] {
        let payment = stage.start(&stage.case(number).await, "stripe").await;
        stage.open(&payment).await;
        payments.push(payment);
    }
    let questions = || way.count("/sessions/");
    way.say(Some(busy("/sessions/", "900")));
    stage.hub.advance(61);
    stage.hub.run_jobs().await;
    let asked = questions();
    assert!((1..=2).contains(&asked), "each asked once at most: {asked}");
    let attempt = stage.attempts(&payments[0]).await.remove(0);
    for _ in 0..14 {
        stage.hub.get(&format!("/return/{}", attempt.id)).await.expect(200);
        stage.let_pass(60, 30).await;
    }
    assert_eq!(questions(), asked, "nobody asked before the time");
    way.say(None);
    stage.let_pass(120, 30).await;
    assert!(questions() >= asked + 2, "then both are asked about");
});

// F37: what is asked for has a bound: money may be under way.
on_both!(a_pause_without_measure_is_not_heeded_for_ever, async |engine: Engine| {
    let (stage, way) = Way::stage(engine).await;
    let payment = stage.start(&stage.case("1/2026").await, "autopay").await;
    let page = stage.open(&payment).await;
    stage.dial(serde_json::json!({"autopay": {"drop_percent": 100}})).await;
    stage.press(&page, "pay").await.expect(303);
    way.say(Some(busy("transactionStatus", "86400")));
    stage.hub.advance(61);
    stage.hub.run_jobs().await;
    way.say(None);
    stage.let_pass(3500, 100).await;
    assert_eq!(way.count("transactionStatus"), 1);
    stage.let_pass(200, 100).await;
    assert_eq!(stage.payment(&payment).await.status, Status::Completed);
});

// F37: refunds and cancels wait as well.
on_both!(refunds_and_cancels_wait_for_a_gateway_that_asks_for_it, async |engine: Engine| {
    let (stage, way) = Way::stage(engine).await;
    let paid = stage.pay("1/2026", "stripe", "pay").await;
    way.say(Some(busy("/v1/refunds", "1800")));
    let mut tx = stage.hub.tx().await;
    request_refund(&stage.hub.app, &mut tx, &paid, Some(100), None).await.unwrap();
    tx.commit().await.unwrap();
    stage.hub.run_jobs().await;
    assert_eq!(way.count("/v1/refunds"), 1);
    way.say(None);
    stage.let_pass(1790, 10).await;
    assert_eq!(way.count("/v1/refunds"), 1, "not before its time");
    stage.let_pass(120, 10).await;
    assert_eq!(stage.refunds(&paid).await[0].state, "succeeded");

    for (gateway, path) in [("stripe", "/expire"), ("autopay", "transactionCancel")] {
        let mut case = stage.case(gateway).await;
        let withdrawn = stage.start(&case, gateway).await;
        stage.open(&withdrawn).await;
        way.say(Some(Said { status: 503, ..busy(path, "1800") }));
        stage.quote(&mut case, 24_600).await;
        stage.hub.run_jobs().await;
        way.say(None);
        stage.let_pass(1790, 10).await;
        assert_eq!(way.count(path), 1, "{gateway}: not before its time");
        stage.let_pass(120, 10).await;
        assert_eq!(stage.attempts(&withdrawn).await[0].state, "closed", "{gateway}");
    }
});

// F37: so does the fetching of a printed invoice.
on_both!(a_pdf_is_fetched_when_its_service_said_so, async |engine: Engine| {
    let (stage, way) = Way::stage(engine).await;
    let payment = stage.pay("1/2026", "autopay", "pay").await;
    way.say(Some(busy("invoices/get", "1800")));
    stage.let_pass(60, 10).await;
    let asked = way.count("invoices/get");
    assert!(asked > 0, "{:?}", way.called.lock().unwrap());
    stage.let_pass(1700, 10).await;
    assert_eq!(way.count("invoices/get"), asked, "not before its time");
    way.say(None);
    stage.let_pass(200, 10).await;
    stage.expect_paid_and_invoiced(&payment).await;
});

// F37: so does the probe of an account whose keys were refused.
on_both!(a_probe_comes_again_when_it_was_told_to, async |engine: Engine| {
    let (stage, way) = Way::stage(engine).await;
    stage.dial(serde_json::json!({"wfirma": {"auth": 1_000_000}})).await;
    stage.pay("1/2026", "autopay", "pay").await;
    stage.let_pass(900, 60).await;
    assert_eq!(stage.alerts().await, ["invoice.account", "invoice.exhausted"]);
    way.say(Some(busy("/wfirma/", "1800")));
    let before = way.count("/wfirma/");
    stage.let_pass(1790, 10).await;
    assert_eq!(way.count("/wfirma/"), before + 1);
});

/// The card gateway refuses every checkout; its answer names no payment of ours.
const REFUSED: Said = Said {
    path: "/checkout/sessions",
    status: 400,
    headers: vec![],
    body: r#"{"error": {"type": "invalid_request_error", "code": "payment_method_unactivated", "message": "The payment method type provided: blik is invalid."}}"#,
};

// A gateway that takes none of an account's checkouts is told of once, however many payers meet it, until one is taken.
on_both!(a_gateway_that_refuses_checkouts_is_told_of_once, async |engine: Engine| {
    let (stage, way) = Way::stage(engine).await;
    way.say(Some(REFUSED));
    let mut payments = vec![];
    for number in ["1/2026", "2/2026", "3/2026"] {
        let payment = stage.start(&stage.case(number).await, "stripe").await;
        let refused = open_checkout(&stage.hub.app, &payment, None).await;
        assert!(matches!(refused, Err(FlowError::Gateway(CallError::Refused { .. }))), "{refused:?}");
        payments.push(payment);
    }
    let alert = stage.open_alerts().await.remove(0);
    assert_eq!((stage.alerts().await, alert.code.as_str()), (vec!["provider.refused".into()], "provider.refused"));
    assert!(alert.reason.contains("payment_method_unactivated"), "{}", alert.reason);
    assert!(alert.reason.contains(&payments[0].id), "{}", alert.reason);
    assert_eq!(stage.notices("provider.refused").await.len(), 1);
    let page = stage.hub.get(&format!("/pay/{}", payments[0].token)).await.expect(409).text();
    assert!(page.contains("Teraz nie można zapłacić") && page.contains("Niczego nie pobrano"), "{page}");
    assert!(!page.contains("za chwilę"), "it is of no use: {page}");

    // Mended at the gateway: the payer's button leads there, and the alert closes itself.
    way.say(None);
    let again = stage.retry(&payments[0]).await;
    stage.open(&again).await;
    assert!(stage.alerts().await.is_empty());
});

// A gateway that is away is no gateway that refuses: its payers try again, and nobody is told.
on_both!(a_gateway_that_is_away_refuses_nothing, async |engine: Engine| {
    let (stage, way) = Way::stage(engine).await;
    let payment = stage.start(&stage.case("1/2026").await, "stripe").await;
    way.say(Some(Said { status: 403, body: "<html>Access denied</html>", ..REFUSED }));
    let page = stage.hub.get(&format!("/pay/{}", payment.token)).await.expect(503).text();
    assert!(page.contains("za chwilę"), "{page}");
    assert!(stage.alerts().await.is_empty());
});

/// A list of sessions that never ends, as of a shop with more of them in an hour than are read.
const ENDLESS: Said = Said {
    path: "/v1/checkout/sessions?",
    status: 200,
    headers: vec![],
    body: r#"{"object": "list", "has_more": true, "data": [{"id": "cs_test_other", "object": "checkout.session"}]}"#,
};

// A link that was never opened: there is nothing at the gateway to be found, so nobody looks before the end, and an account
// that is too busy to be looked through leaves no payment in doubt.
on_both!(a_link_that_nobody_opened_is_not_searched_for, async |engine: Engine| {
    let (stage, way) = Way::stage(engine).await;
    let payment = stage.start(&stage.case("1/2026").await, "stripe").await;
    way.say(Some(ENDLESS));
    stage.let_pass(22 * 3600, 1800).await;
    assert_eq!(way.count("/v1/checkout/sessions"), 0, "its time is not over");
    stage.let_pass(2 * 86_400, 3600).await;
    let over = stage.payment(&payment).await;
    assert_eq!((over.status, over.reason), (Status::Error, Some(Reason::Expired)));
    assert!(stage.alerts().await.is_empty());
    assert!(way.count("/v1/checkout/sessions") <= 10, "looked through once");
});

// F58: a backup does not know of links that were opened after it. What was paid there is found at the end.
on_both!(a_link_opened_after_the_backup_is_found, async |engine: Engine| {
    for gateway in ["autopay", "stripe"] {
        let stage = Stage::set(engine).await;
        let payment = stage.start(&stage.case("1/2026").await, gateway).await;
        let attempt = stage.attempts(&payment).await.remove(0);
        let lost = stage.ask_for_checkout(gateway, &attempt.reference, attempt.amount).await;
        let page = stage.follow(lost).await;
        stage.dial(serde_json::json!({ gateway: {"drop_percent": 100} })).await;
        stage.press(&page, "pay").await.expect(303);
        stage.let_pass(2 * 86_400, 3600).await;
        assert_eq!(stage.payment(&payment).await.status, Status::Completed, "{gateway}");
    }
});

// One whose start was sent, and its answer lost, is looked for as ever; where that cannot be done a person has to look.
on_both!(a_link_whose_answer_was_lost_is_searched_for, async |engine: Engine| {
    let (stage, way) = Way::stage(engine).await;
    stage.dial(serde_json::json!({"stripe": {"cut_after_work": 1}})).await;
    let payment = stage.start(&stage.case("1/2026").await, "stripe").await;
    open_checkout(&stage.hub.app, &payment, None).await.unwrap_err();
    way.say(Some(ENDLESS));
    stage.let_pass(9 * 86_400, 6 * 3600).await;
    assert_eq!(stage.alerts().await, ["payment.stuck"]);
});
