//! The vectors of requests and answers, and what a call does with each.

use std::sync::Mutex;

use async_trait::async_trait;

use super::*;
use crate::gateway::Standing;
use crate::wire::{Http, HttpError, HttpRequest, HttpResponse};

/// Answers each request with the next answer and keeps the requests.
#[derive(Default)]
struct Script {
    answers: Mutex<Vec<Result<(u16, String), HttpError>>>,
    requests: Mutex<Vec<HttpRequest>>,
}

#[async_trait]
impl Http for Script {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        self.requests.lock().unwrap().push(request);
        let (status, body) = self.answers.lock().unwrap().remove(0)?;
        Ok(HttpResponse { status, headers: Headers::default(), body: body.into_bytes() })
    }
}

impl Script {
    fn answering(status: u16, body: &str) -> Self {
        Script { answers: Mutex::new(vec![Ok((status, body.to_owned()))]), ..Script::default() }
    }
}

fn cx<'a>(settings: &'a Settings, http: &'a Script) -> Cx<'a> {
    Cx { settings, http, now: "2026-11-21T09:00:00Z".parse().unwrap(), live: false }
}

fn answer(id: &str) -> Value {
    group("answers", 15).into_iter().find(|a| a["id"] == id).unwrap()
}

#[test]
fn request_hashes_agree() {
    for case in group("requests", 21) {
        let settings = settings(text(&case, "service"));
        let fields = pairs(&case["values_in_hash_order"]);
        let values = fields.iter().map(|(_, v)| ("Value", v.as_str()));
        assert_eq!(Key::of(&settings).sign(values).unwrap(), text(&case, "hash"), "{}", case["id"]);
    }
}

#[test]
fn answer_hashes_agree() {
    for case in group("answers", 15) {
        let (id, settings) = (text(&case, "id"), settings(text(&case, "service")));
        let document = message::parse(text(&case, "body").as_bytes()).unwrap();
        let seal = Key::of(&settings).check(&document);
        assert_eq!(seal == Seal::Right, case["hash_valid"] == true, "{id}");
        if let Some(expect) = case["values_in_hash_order"].as_array() {
            assert_eq!(
                document.signed_values(),
                expect.iter().map(|v| v.as_str().unwrap()).collect::<Vec<_>>(),
                "{id}"
            );
        }
    }
}

fn checkout(reference: &str) -> Checkout {
    Checkout {
        reference: reference.into(),
        amount: "129.90".parse_pln(),
        description: "Sprawa 7".into(),
        email: "payer@example.test".into(),
        name: None,
        language: "pl".into(),
        ip: Some("203.0.113.7".into()),
        return_url: "https://hub.example.test/return".into(),
        cancel_url: "https://hub.example.test/return".into(),
        webhook_url: "https://hub.example.test/webhooks/autopay/1".into(),
        expires_at: "2026-11-22T09:00:00Z".parse().unwrap(),
    }
}

trait Pln {
    fn parse_pln(&self) -> Money;
}

impl Pln for str {
    fn parse_pln(&self) -> Money {
        Money::from_decimal(self, Currency::PLN).unwrap()
    }
}

async fn pretransaction(reference: &str, answer: &str) -> Result<Redirect, CallError> {
    let settings = settings_with("A", json!({"start": "pretransaction"}));
    let http = Script::answering(200, answer);
    let result = Autopay.start(&cx(&settings, &http), &checkout(reference)).await;
    let requests = http.requests.lock().unwrap();
    assert_eq!(requests[0].url, "https://testpay.autopay.eu/payment");
    assert!(requests[0].once);
    assert!(requests[0].headers.contains(&("bmheader", "pay-bm-continue-transaction-url".into())));
    result
}

/// Where a service takes each order once, a repeat says that the first start arrived, whose answer was lost: its
/// transaction may be there.
#[tokio::test]
async fn an_order_that_was_begun_before_is_in_doubt() {
    for reason in
        ["MULTIPLY_TRANSACTION", "MULTIPLY_PAID_TRANSACTION", "BLOCK_MULTIPLE_TRANSACTIONS", "BLOCK_PAID_TRANSACTIONS"]
    {
        let answer =
            format!("<transaction><confirmation>NOTCONFIRMED</confirmation><reason>{reason}</reason></transaction>");
        let result = pretransaction("HUB-2026-000123", &answer).await;
        assert!(matches!(result, Err(CallError::Unknown(_))), "{reason}: {result:?}");
    }
}

#[tokio::test]
async fn each_answer_to_a_pretransaction_has_its_outcome() {
    let link = Redirect::Url {
        url: "https://testpay.autopay.eu/payment/continue/9A1BX7R9/L6CGP5BH".into(),
        gateway_ref: Some("9A1BX7R9".into()),
        expires_at: None,
    };
    for (id, reference, expect) in [
        ("A01", "HUB-2026-000123", "link"),
        ("A02", "HUB-2026-000123", "link"),
        ("A01", "HUB-2026-000124", "unknown"), // about another order
        ("A03", "HUB-2026-000123", "unknown"), // wrong key, foreign host
        ("A04", "blik-1", "unknown"),          // taken, outcome open
        ("A05", "rec-auto-1", "unknown"),      // taken; the notification decides
        ("A06", "blik-1", "WRONG_TICKET"),
        ("A07", "HUB-2026-000123", "INVALID_EMAIL"),
        ("A08", "blik-2", "ALIAS_NONUNIQUE"),
        ("A09", "qt-1", "unknown"), // an answer to another question
        ("A10", "HUB-2026-000123", "unknown"),
        ("A15", "HUB-2026-000123", "BALANCE_ERROR"),
    ] {
        match (pretransaction(reference, text(&answer(id), "body")).await, expect) {
            (Ok(redirect), "link") => assert_eq!(redirect, link, "{id}"),
            (Err(CallError::Unknown(_)), "unknown") => {}
            (Err(CallError::Refused { code, .. }), expect) => assert_eq!(code, expect, "{id}"),
            (other, expect) => panic!("{id}: {other:?} is not {expect}"),
        }
    }
}

#[tokio::test]
async fn a_right_hash_does_not_make_a_foreign_host_ours() {
    let settings = settings("A");
    for (url, good) in [
        ("https://testpay.autopay.eu/payment/continue/1/2", true),
        ("http://testpay.autopay.eu/payment/continue/1/2", false),
        ("https://testpay.autopay.eu.evil.test/payment/continue/1/2", false),
        ("https://testpay.autopay.eu@evil.test/1/2", false),
        ("https://evil@testpay.autopay.eu/1/2", false),
        ("https://testpay.autopay.eu:8443/1/2", false),
        ("javascript:alert(1)", false),
        ("", false),
    ] {
        let string = ["PENDING", url, "HUB-1", "9A1"].into_iter().filter(|v| !v.is_empty()).collect::<Vec<_>>();
        let hash = crate::sign::sha256_hex(format!("{}|{}", string.join("|"), settings.text("shared_key")).as_bytes());
        let body = format!(
            "<transaction><status>PENDING</status><redirecturl>{url}</redirecturl><orderID>HUB-1</orderID>\
             <remoteID>9A1</remoteID><hash>{hash}</hash></transaction>"
        );
        assert_eq!(pretransaction("HUB-1", &body).await.is_ok(), good, "{url}");
    }
}

#[tokio::test]
async fn the_form_holds_what_was_signed() {
    let (settings, http) = (settings("A"), Script::default());
    let mut given = checkout("HUB-2026-000123");
    given.description = "Opłata | sprawa 7".into();
    let Redirect::Form { action, fields } = Autopay.start(&cx(&settings, &http), &given).await.unwrap() else {
        panic!("a form was asked for")
    };
    assert_eq!(action, "https://testpay.autopay.eu/payment");
    let expect = [
        ("ServiceID", "903117"),
        ("OrderID", "HUB-2026-000123"),
        ("Amount", "129.90"),
        ("Description", "Oplata - sprawa 7"),
        ("Currency", "PLN"),
        ("CustomerEmail", "payer@example.test"),
        ("Language", "PL"),
        ("CustomerIP", "203.0.113.7"),
        ("ValidityTime", "2026-11-22 10:00:00"),
        ("LinkValidityTime", "2026-11-22 10:00:00"),
        ("ReturnURL", "https://hub.example.test/return"),
    ];
    let (hash, rest) = fields.split_last().unwrap();
    assert_eq!(rest.iter().map(|(n, v)| (n.as_str(), v.as_str())).collect::<Vec<_>>(), expect);
    let string = expect.map(|(_, v)| v).join("|") + "|" + settings.text("shared_key");
    assert_eq!(*hash, ("Hash".into(), crate::sign::sha256_hex(string.as_bytes())));
    assert!(http.requests.lock().unwrap().is_empty());
}

#[tokio::test]
async fn what_must_not_be_signed_is_refused() {
    let (settings, http) = (settings("A"), Script::default());
    type Change = fn(&mut Checkout);
    let changes: [(&str, Change); 7] = [
        ("OrderID", |c| c.reference = "a b".into()),
        ("OrderID", |c| c.reference = "x".repeat(33)),
        ("CustomerEmail", |c| c.email = "a|b@example.test".into()),
        ("CustomerEmail", |c| c.email = "a\nb@example.test".into()),
        ("ReturnURL", |c| c.return_url = "https://hub.example.test/?a=|".into()),
        ("Amount", |c| c.amount = Money::new(0, Currency::PLN)),
        ("ValidityTime", |c| c.expires_at = "2026-11-21T09:00:00Z".parse().unwrap()),
    ];
    for (name, change) in changes {
        let mut given = checkout("HUB-1");
        change(&mut given);
        let refused = Autopay.start(&cx(&settings, &http), &given).await.unwrap_err();
        assert!(matches!(refused, CallError::Invalid { field, .. } if field == name), "{name}: {refused:?}");
    }
}

fn attempt(reference: &str, amount: &str) -> AttemptRef {
    AttemptRef {
        reference: reference.into(),
        gateway_ref: None,
        amount: amount.parse_pln(),
        created_at: "2026-11-21T09:00:00Z".parse().unwrap(),
        expires_at: "2026-11-22T09:00:00Z".parse().unwrap(),
    }
}

#[tokio::test]
async fn a_status_answer_gives_every_try() {
    let (settings, body) = (settings("A"), answer("A11"));
    let http = Script::answering(200, text(&body, "body"));
    let report = Autopay.status(&cx(&settings, &http), &attempt("ZAM_2026_11_0043", "80.00")).await.unwrap();
    assert_eq!(report.standing, Standing::Paid);
    assert_eq!(report.events.iter().map(|e| e.kind.word()).collect::<Vec<_>>(), ["failed", "paid", "paid"]);
    // The same words by notification and by poll are one event.
    let itn = group("itn", 51).into_iter().find(|c| c["id"] == "I44").unwrap();
    assert_eq!(report.events[1].key, read(&settings, &itn).unwrap().events[0].key);
    let request = http.requests.lock().unwrap().remove(0);
    assert_eq!(request.url, "https://testpay.autopay.eu/webapi/transactionStatus");
    assert!(request.headers.contains(&("bmheader", "pay-bm".into())));

    let http = Script::answering(200, text(&body, "body"));
    let other = Autopay.status(&cx(&settings, &http), &attempt("ZAM_2026_11_0044", "80.00")).await;
    assert!(matches!(other, Err(CallError::Unknown(_))), "an answer about another order proves nothing");
}

#[tokio::test]
async fn a_status_answer_without_the_commission_still_fits() {
    let settings = settings_with("A", json!({"payer_commission": true}));
    for (started, seen) in [("79.00", "79.00"), ("81.00", "80.00")] {
        let http = Script::answering(200, text(&answer("A11"), "body"));
        let report = Autopay.status(&cx(&settings, &http), &attempt("ZAM_2026_11_0043", started)).await.unwrap();
        assert_eq!(report.events[1].amount, Some(seen.parse_pln()), "{started}");
    }
    let (settings, http) = (super::settings("A"), Script::answering(200, text(&answer("A11"), "body")));
    let report = Autopay.status(&cx(&settings, &http), &attempt("ZAM_2026_11_0043", "79.00")).await.unwrap();
    assert_eq!(report.events[1].amount, Some("80.00".parse_pln()), "without the setting the amount is the amount");
}

/// One transaction as the gateway tells of it, rightly signed; a status answer and a notification have one form.
fn told(settings: &Settings, amount: &str, more: &str) -> String {
    let fields = ["HUB-1", "9A1BX7R9", amount, "PLN", "509", "20261121101733", "SUCCESS", "AUTHORIZED"];
    let names = ["orderID", "remoteID", "amount", "currency", "gatewayID", "paymentDate", "paymentStatus"];
    let names = names.into_iter().chain(["paymentStatusDetails"]);
    let leaves: String = names.zip(fields).map(|(n, v)| format!("<{n}>{v}</{n}>")).collect();
    let xml = format!(
        "<transactionList><serviceID>903117</serviceID><transactions><transaction>{leaves}{more}</transaction>\
         </transactions><hash>HASH</hash></transactionList>"
    );
    let values = message::parse(xml.as_bytes()).unwrap().signed_values().join("|");
    xml.replace("HASH", &crate::sign::sha256_hex(format!("{values}|{}", settings.text("shared_key")).as_bytes()))
}

async fn polled(settings: &Settings, answer: &str, started: &str) -> Event {
    let http = Script::answering(200, answer);
    Autopay.status(&cx(settings, &http), &attempt("HUB-1", started)).await.unwrap().events.remove(0)
}

/// The notification cannot say whether the amount is what was started and a commission; the status answer is read
/// with what was started at hand, and completes the payment.
#[tokio::test]
async fn a_notification_without_the_started_amount_waits_for_the_status_answer() {
    let settings = settings_with("A", json!({"payer_commission": true}));
    let xml = told(&settings, "131.50", "");
    let notified = read_body(&settings, &post(&xml)).unwrap().events.remove(0);
    assert_eq!((notified.kind, notified.amount), (EventKind::Pending, None));
    assert_eq!(notified.detail, "SUCCESS/AUTHORIZED");
    let answered = polled(&settings, &xml, "129.90").await;
    assert_eq!((answered.kind, answered.amount), (EventKind::Paid, Some("129.90".parse_pln())));
    assert_ne!(notified.key, answered.key, "one of them would be taken for a repeat");
    let less = polled(&settings, &told(&settings, "129.89", ""), "129.90").await;
    assert_eq!((less.kind, less.amount), (EventKind::Paid, Some("129.89".parse_pln())));
}

#[tokio::test]
async fn a_notification_with_the_started_amount_is_the_status_answers_event() {
    let settings = settings_with("A", json!({"payer_commission": true}));
    let notified = |more: &str| read_body(&settings, &post(&told(&settings, "131.50", more))).unwrap().events.remove(0);
    let answered = polled(&settings, &told(&settings, "131.50", ""), "129.90").await;
    assert_eq!(notified("<startAmount>129.90</startAmount>"), answered);
    let other = notified("<startAmount>128.90</startAmount>");
    assert_eq!((other.kind, other.amount), (EventKind::Paid, Some("128.90".parse_pln())));
    assert_ne!(other.key, answered.key, "another amount is another event");
    assert_eq!(notified("<startAmount/>").kind, EventKind::Pending, "an empty one says nothing");
}

#[tokio::test]
async fn refusals_of_a_status_query() {
    let settings = settings("A");
    let limit = "LIMIT_REQUESTED_TRANSACTIONS_WITH_THE_SAME_ORDER_ID_AND_SERVICE_ID_EXCEEDED";
    for (status, body, expect) in [
        (403, format!("<transaction><reason>{limit}</reason><description/></transaction>"), "refused"),
        (200, "<error><name>TRANSACTION_NOT_FOUND</name></error>".into(), "idle"),
        (200, "<error><statusCode>-10</statusCode></error>".into(), "idle"),
        (404, "<error><statusCode>-10</statusCode><name/></error>".into(), "idle"),
        (200, "<transaction><reason>TRANSACTION_NOT_FOUND</reason></transaction>".into(), "idle"),
        (404, "<transaction><reason>TRANSACTION_NOT_FOUND</reason><description/></transaction>".into(), "idle"),
        (200, "<error><statusCode>55</statusCode></error>".into(), "refused"),
        (200, "<error><name>INVALID_HASH</name></error>".into(), "config"),
        (200, "<transactionList/>".into(), "unknown"),
        (200, "ERROR".into(), "unknown"),
        (503, String::new(), "busy"),
        (502, String::new(), "unknown"),
        (401, "<error><name>INVALID_HASH</name></error>".into(), "config"),
        // A firewall's page says nothing about credentials.
        (403, "<html><body>Access denied<br></body></html>".into(), "unknown"),
        (401, "no".into(), "unknown"),
        (400, "<html>".into(), "unknown"),
    ] {
        let http = Script::answering(status, &body);
        let result = Autopay.status(&cx(&settings, &http), &attempt("HUB-1", "1.00")).await;
        let word = match result {
            Ok(report) => {
                assert!(report.events.is_empty() && report.standing == Standing::Idle);
                "idle"
            }
            Err(CallError::Refused { .. }) => "refused",
            Err(CallError::Config(_)) => "config",
            Err(CallError::Busy { .. }) => "busy",
            Err(CallError::Unknown(_)) => "unknown",
            Err(other) => panic!("{other:?}"),
        };
        assert_eq!(word, expect, "{status} {body}");
    }
}

/// White space in an element that holds elements is how the document is written; in a value it is the value.
#[tokio::test]
async fn an_empty_list_may_be_written_over_several_lines() {
    let settings = settings("A");
    let hash = |values: &str| crate::sign::sha256_hex(format!("{values}|{}", settings.text("shared_key")).as_bytes());
    let answer = |list: &str, hash: &str| {
        format!(
            "<transactionList>\n  <serviceID>903117</serviceID>\n  {list}\n  <hash>{hash}</hash>\n</transactionList>"
        )
    };
    for list in ["<transactions>\n  </transactions>", "<transactions> </transactions>", "<transactions/>", ""] {
        let http = Script::answering(200, &answer(list, &hash("903117")));
        let report = Autopay.status(&cx(&settings, &http), &attempt("HUB-1", "1.00")).await.unwrap();
        assert!(report.events.is_empty() && report.standing == Standing::Idle, "{list}");
    }
    let http = Script::answering(200, &answer("<title> </title>", &hash("903117")));
    let result = Autopay.status(&cx(&settings, &http), &attempt("HUB-1", "1.00")).await;
    assert!(matches!(result, Err(CallError::Unknown(_))), "a value of white space is a value: {result:?}");
}

#[test]
fn an_empty_group_of_nodes_may_be_written_over_several_lines() {
    let settings = settings("A");
    let plain = told(&settings, "129.90", "");
    let event = |xml: &str| read_body(&settings, &post(xml)).map(|reading| reading.events);
    for group in ["customerData", "recurringData", "cardData", "blikData", "verificationStatusReasons", "product"] {
        let written = plain.replace("</transaction>", &format!("<{group}>\n\t\r\n </{group}></transaction>"));
        assert_eq!(event(&written), event(&plain), "{group}");
    }
    assert!(event(&plain.replace("</transaction>", "<title>\n</title></transaction>")).is_err());
}

fn refund_order() -> RefundOrder {
    RefundOrder {
        id: "ref_01J".into(),
        reference: "HUB-1".into(),
        gateway_ref: "9A1BX7R9".into(),
        amount: "29.90".parse_pln(),
        paid: "129.90".parse_pln(),
        refund_ref: None,
    }
}

/// The answer to the first order was lost: the gateway knows the message's id, so it took the order.
#[tokio::test]
async fn a_refund_whose_id_is_known_to_the_gateway_was_accepted() {
    let settings = settings("A");
    for (status, error, accepted) in [
        (200, "<name>MESSAGE_ID_NOT_UNIQUE</name>", true),
        (200, "<statusCode>76</statusCode><name>MESSAGE_ID_NOT_UNIQUE</name>", true),
        (400, "<statusCode>76</statusCode><name/>", true),
        (200, "<statusCode>76</statusCode>", true),
        (200, "<statusCode>156</statusCode><name>TRANSACTION_TOO_OLD_TO_REFUND</name>", false),
        (200, "<statusCode>7</statusCode>", false),
    ] {
        let http = Script::answering(status, &format!("<error>{error}</error>"));
        let result = Autopay.refund(&cx(&settings, &http), &refund_order()).await;
        match result {
            Ok(report) => {
                assert!(accepted, "{error}");
                assert_eq!((report.state, report.gateway_ref), (RefundState::Pending, None));
                assert_eq!(report.detail, "MESSAGE_ID_NOT_UNIQUE: accepted before");
            }
            Err(CallError::Refused { .. }) => assert!(!accepted, "{error}"),
            Err(other) => panic!("{error}: {other:?}"),
        }
    }
    let http = Script::answering(500, "<error><name>MESSAGE_ID_NOT_UNIQUE</name></error>");
    let result = Autopay.refund(&cx(&settings, &http), &refund_order()).await;
    assert!(matches!(result, Err(CallError::Unknown(_))), "{result:?}");
}

#[test]
fn message_ids_are_32_letters_and_digits_and_follow_from_the_refund() {
    let order = refund_order();
    let id = super::super::calls::refund_message_id(&settings("A"), &order);
    assert!(id.len() == 32 && id.bytes().all(|b| b.is_ascii_alphanumeric()), "{id}");
    assert_eq!(id, super::super::calls::refund_message_id(&settings("A"), &order));
    let other = RefundOrder { id: "ref_01K".into(), ..order };
    assert_ne!(id, super::super::calls::refund_message_id(&settings("A"), &other));
}

#[tokio::test]
async fn the_channel_list_is_read() {
    let settings = settings("A");
    // Both spellings that the documentation's samples show; limits as numbers and as text.
    let body = json!({
        "result": "OK", "errorStatus": null, "description": null, "serviceID": "903117",
        "gatewayList": [
            {"gatewayID": 509, "name": "BLIK", "groupType": "BLIK", "state": "OK",
             "currencies": [{"currency": "PLN", "minAmount": 0.01, "maxAmount": 50000.00}]},
            {"id": "1500", "name": "Karta", "groupType": "CARD", "state": "TEMPORARY_DISABLED",
             "currencies": [{"currency": "EUR"}, {"currency": "PLN", "minAmount": "0.10"}]},
            {"gatewayID": 7, "name": "only euro", "currencies": [{"currency": "EUR"}]},
        ],
    });
    let http = Script::answering(200, &body.to_string());
    let channels = Autopay.channels(&cx(&settings, &http), Currency::PLN, "pl").await.unwrap();
    assert_eq!(channels.iter().map(|c| (c.id, c.is_open)).collect::<Vec<_>>(), [(509, true), (1500, false)]);
    assert_eq!(channels[0].max, Some("50000.00".parse_pln()));
    assert_eq!((channels[1].min, channels[1].max), (Some("0.10".parse_pln()), None));
    let sent: Value = serde_json::from_slice(&http.requests.lock().unwrap()[0].body).unwrap();
    let id = text(&sent, "MessageID");
    let string = format!("903117|{id}|PLN|PL|{}", settings.text("shared_key"));
    assert_eq!(text(&sent, "Hash"), crate::sign::sha256_hex(string.as_bytes()));
    assert_eq!(sent["ServiceID"], 903117, "a JSON number, as documented");

    for (body, word) in [(json!({"result": "ERROR", "errorStatus": "INVALID_HASH"}), "config"), (json!({}), "unknown")]
    {
        let http = Script::answering(200, &body.to_string());
        let refused = Autopay.channels(&cx(&settings, &http), Currency::PLN, "pl").await.unwrap_err();
        assert_eq!(matches!(refused, CallError::Config(_)), word == "config", "{refused:?}");
    }
}
