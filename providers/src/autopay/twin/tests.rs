//! The twin by itself: what the round trip of the conformance suite does not reach.

use serde_json::json;

use super::*;
use crate::autopay::message;
use crate::wire::Headers;

const ROOT: &str = "http://127.0.0.1:8080/sandbox/autopay";

struct Bench {
    twin: AutopayTwin,
    settings: Settings,
    now: Timestamp,
    faults: Faults,
}

impl Bench {
    fn new() -> Self {
        let given = json!({"service_id": "903117", "shared_key": "a key", "gateway_url": ROOT});
        let settings = Settings::check(super::super::FACTS.settings, given.as_object().unwrap()).unwrap();
        let twin = AutopayTwin::default();
        twin.enroll(&settings, "http://127.0.0.1:8080/webhooks/autopay/1");
        let now = "2026-11-21T09:00:00Z".parse().unwrap();
        Bench { twin, settings, now, faults: Faults::default() }
    }

    fn with(mut self, fault: &str) -> Self {
        self.faults.0.insert(fault.to_owned(), 1);
        self
    }

    fn send(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> TwinAnswer {
        self.twin.serve(&TwinRequest {
            method: method.into(),
            path: path.into(),
            query: String::new(),
            headers: Headers::from_pairs(headers.iter().copied()),
            body: body.as_bytes().to_vec(),
            root: ROOT.into(),
            now: self.now,
            faults: self.faults.clone(),
        })
    }

    fn signed(&self, fields: &[(&'static str, &str)]) -> String {
        let hash = Key::of(&self.settings).sign(fields.iter().copied()).unwrap();
        let all = fields.iter().copied().chain([("Hash", hash.as_str())]);
        form_urlencoded::Serializer::new(String::new()).extend_pairs(all).finish()
    }

    fn start_body(&self, order: &str) -> String {
        self.signed(&[
            ("ServiceID", "903117"),
            ("OrderID", order),
            ("Amount", "129.90"),
            ("Description", "Sprawa 7"),
            ("Currency", "PLN"),
            ("CustomerEmail", "payer@example.test"),
            ("Language", "EN"),
            ("ValidityTime", "2026-11-22 10:00:00"),
            ("ReturnURL", "https://hub.example.test/return?a=1"),
        ])
    }

    /// Path of the payer's page.
    fn open(&self, order: &str) -> String {
        let (status, to, _) = page(self.send("POST", "/payment", &[], &self.start_body(order)));
        assert_eq!(status, 303);
        to.unwrap().strip_prefix(ROOT).unwrap().to_owned()
    }

    fn api(&self, path: &str, fields: &[(&'static str, &str)]) -> message::Node {
        let (_, _, body) = page(self.send("POST", path, &[("BmHeader", "pay-bm")], &self.signed(fields)));
        message::parse(body.as_bytes()).unwrap()
    }

    fn status(&self, order: &str) -> Vec<String> {
        let answer = self.api("/webapi/transactionStatus", &[("ServiceID", "903117"), ("OrderID", order)]);
        let list = answer.once("transactions").unwrap().unwrap();
        list.children.iter().map(|t| t.text("paymentStatus").to_owned()).collect()
    }

    fn wait(&mut self, seconds: i64) {
        self.now += SignedDuration::from_secs(seconds);
    }

    /// Statuses and amounts of what is due.
    fn due(&self) -> Vec<(u64, String)> {
        let told = |body: &[u8]| {
            use base64::Engine;
            let (_, text) = form_urlencoded::parse(body).next().unwrap();
            let xml = base64::engine::general_purpose::STANDARD.decode(&*text).unwrap();
            let root = message::parse(&xml).unwrap();
            assert_eq!(Key::of(&self.settings).check(&root), message::Seal::Right);
            let t = &root.once("transactions").unwrap().unwrap().children[0];
            ["paymentStatus", "amount", "currency"].map(|n| t.text(n).to_owned()).join(" ")
        };
        self.twin.due(self.now, &Faults::default()).iter().map(|d| (d.id, told(&d.body))).collect()
    }

    fn told(&self) -> Vec<String> {
        self.due().into_iter().map(|(_, text)| text).collect()
    }
}

fn page(answer: TwinAnswer) -> (u16, Option<String>, String) {
    let TwinAnswer::Page { status, headers, body, .. } = answer else { panic!("{answer:?}") };
    let to = headers.into_iter().find(|(n, _)| n == "location").map(|(_, v)| v);
    (status, to, String::from_utf8(body).unwrap())
}

#[test]
fn a_wrong_start_ends_on_an_error_page() {
    let bench = Bench::new();
    for (from, to) in
        [("129.90", "129.91"), ("Hash=", "Hash=0"), ("ServiceID=903117", "ServiceID=1"), ("Amount", "Sum")]
    {
        let body = bench.start_body("HUB-1").replace(from, to);
        let (status, to, _) = page(bench.send("POST", "/payment", &[], &body));
        assert_eq!((status, to), (400, None), "{from}");
    }
    assert_eq!(page(bench.send("POST", "/elsewhere", &[], &bench.start_body("HUB-1"))).0, 400);
}

#[test]
fn the_page_says_what_is_paid_and_escapes_it() {
    let bench = Bench::new();
    let body = bench.signed(&[
        ("ServiceID", "903117"),
        ("OrderID", "HUB-1"),
        ("Amount", "129.90"),
        ("Description", "<script>"),
        ("CustomerEmail", "payer@example.test"),
    ]);
    let (_, to, _) = page(bench.send("POST", "/payment", &[], &body));
    let (status, _, html) = page(bench.send("GET", to.unwrap().strip_prefix(ROOT).unwrap(), &[], ""));
    assert_eq!(status, 200);
    assert!(html.contains("129.90 PLN") && html.contains("&lt;script&gt;") && !html.contains("<script>"), "{html}");
    assert!(html.contains("Zapłać"));
    let (_, _, english) = page(bench.send("GET", &bench.open("HUB-2"), &[], ""));
    for action in ["pay", "pay_later", "decline", "cancel", "pay_twice"] {
        assert!(english.contains(&format!("data-twin-action=\"{action}\"")), "{action}");
    }
    assert!(english.contains("lang=\"en\"") && english.contains(">Pay<"));
}

#[test]
fn the_payer_comes_back_with_a_signed_return() {
    let bench = Bench::new();
    let (status, to, _) = page(bench.send("POST", &format!("{}/pay", bench.open("HUB-1")), &[], ""));
    let hash = Key::of(&bench.settings).sign([("ServiceID", "903117"), ("OrderID", "HUB-1")]).unwrap();
    let expect = format!("https://hub.example.test/return?a=1&ServiceID=903117&OrderID=HUB-1&Hash={hash}");
    assert_eq!((status, to), (303, Some(expect)));
}

#[test]
fn paying_later_is_pending_first() {
    let mut bench = Bench::new();
    bench.send("POST", &format!("{}/pay_later", bench.open("HUB-1")), &[], "");
    assert_eq!(bench.told(), ["PENDING 129.90 PLN"]);
    assert_eq!(bench.status("HUB-1"), ["PENDING"]);
    bench.wait(30);
    assert_eq!(bench.told(), ["SUCCESS 129.90 PLN"]);
    assert_eq!(bench.status("HUB-1"), ["SUCCESS"]);
}

#[test]
fn faults_of_meaning_are_rightly_signed() {
    for (fault, expect) in [
        ("wrong_amount", "SUCCESS 129.91 PLN"),
        ("wrong_currency", "SUCCESS 129.90 EUR"),
        ("unknown_status", "PARTLY_PAID 129.90 PLN"),
        ("late_success", "FAILURE 129.90 PLN"),
    ] {
        let mut bench = Bench::new().with(fault);
        bench.send("POST", &format!("{}/pay", bench.open("HUB-1")), &[], "");
        assert_eq!(bench.told(), [expect], "{fault}");
        bench.wait(30);
        let after: &[&str] = if fault == "late_success" { &["SUCCESS 129.90 PLN"] } else { &[] };
        assert_eq!(bench.told(), after, "{fault}");
    }
}

#[test]
fn faults_of_the_way_differ_in_what_was_done() {
    let done = |fault: &str| {
        let mut bench = Bench::new();
        let path = format!("{}/pay", bench.open("HUB-1"));
        bench = bench.with(fault);
        let answer = bench.send("POST", &path, &[], "");
        bench.faults = Faults::default();
        (answer, bench.status("HUB-1").len())
    };
    assert_eq!(done("hang"), (TwinAnswer::Hang, 0));
    assert_eq!(done("cut_after_work"), (TwinAnswer::Cut, 1));
    assert_eq!(done("http_500").1, 0);
    assert_eq!(done("http_500_after_work").1, 1);
    assert_eq!((page(done("http_500").0).0, page(done("http_500_after_work").0).0), (500, 500));
    let (refused, work) = done("error_in_200");
    assert_eq!((page(refused).0, work), (200, 0));
}

#[test]
fn only_a_right_confirmation_ends_the_repeats() {
    let mut bench = Bench::new();
    bench.send("POST", &format!("{}/pay", bench.open("HUB-1")), &[], "");
    let right = |word: &str, order: &str| {
        let fields = [("serviceID", "903117"), ("orderID", order), ("confirmation", word)];
        let hash = Key::of(&bench.settings).sign(fields).unwrap();
        format!(
            "<confirmationList><serviceID>903117</serviceID><transactionsConfirmations><transactionConfirmed><orderID>\
             {order}</orderID><confirmation>{word}</confirmation></transactionConfirmed></transactionsConfirmations>\
             <hash>{hash}</hash></confirmationList>"
        )
    };
    let good = right("CONFIRMED", "HUB-1");
    let bad = [
        Some((200, right("NOTCONFIRMED", "HUB-1"))),
        Some((200, right("CONFIRMED", "HUB-2"))),
        Some((200, good.replace("<hash>", "<hash>0"))),
        Some((500, good.clone())),
        Some((200, "OK".into())),
        None,
    ];
    for answer in bad {
        let due = bench.due();
        assert_eq!(due.len(), 1, "before {answer:?}");
        bench.twin.answered(due[0].0, answer.map(|(s, b)| (s, b.into_bytes())), bench.now);
        bench.wait(179);
        assert!(bench.due().is_empty(), "three minutes are not over");
        bench.wait(1);
    }
    let due = bench.due();
    bench.twin.answered(due[0].0, Some((200, good.into_bytes())), bench.now);
    bench.wait(30 * 24 * 3600);
    assert!(bench.due().is_empty());
}

#[test]
fn a_cancelled_order_is_closed() {
    let bench = Bench::new();
    let cancel = |order: &'static str| {
        let id = "00000000000000000000000000000003";
        let fields = [("ServiceID", "903117"), ("MessageID", id), ("OrderID", order)];
        let answer = bench.api("/webapi/transactionCancel", &fields);
        [answer.text("confirmation"), answer.text("reason")].join(" ")
    };
    assert_eq!(cancel("HUB-9"), "NOTCONFIRMED TRANSACTION_NOT_FOUND");
    let path = bench.open("HUB-1");
    bench.send("POST", &format!("{path}/pay_later"), &[], "");
    assert_eq!(cancel("HUB-1"), "CONFIRMED CANCELED_FULLY");
    assert_eq!(bench.status("HUB-1"), ["FAILURE"]);
    bench.send("POST", &format!("{path}/pay"), &[], "");
    assert_eq!(bench.status("HUB-1"), ["FAILURE"], "nothing can be paid any more");
    assert_eq!(page(bench.send("POST", "/payment", &[], &bench.start_body("HUB-1"))).0, 400);

    bench.send("POST", &format!("{}/pay", bench.open("HUB-2")), &[], "");
    assert_eq!(cancel("HUB-2"), "NOTCONFIRMED INCORRECT_PAYMENT_STATUS");
}

#[test]
fn money_does_not_come_after_the_end() {
    let mut bench = Bench::new();
    let path = bench.open("HUB-1");
    bench.wait(24 * 3600);
    let (status, to, _) = page(bench.send("POST", &format!("{path}/pay"), &[], ""));
    assert_eq!((status, to), (200, None));
    assert!(bench.status("HUB-1").is_empty());
}

#[test]
fn refunds_are_done_once_and_not_beyond_what_was_paid() {
    let mut bench = Bench::new();
    let path = bench.open("HUB-1");
    bench.send("POST", &format!("{path}/pay"), &[], "");
    let remote = path.split('/').nth(3).unwrap().to_owned();
    let refund = |bench: &Bench, id: char, amount: &str| {
        let id = id.to_string().repeat(32);
        let fields = [("ServiceID", "903117"), ("MessageID", &id), ("RemoteID", &remote), ("Amount", amount)];
        bench.api("/settlementapi/transactionRefund", &fields.map(|(n, v)| (n, v)))
    };
    let outcome = |bench: &Bench, id: char| {
        let id = id.to_string().repeat(32);
        let fields = [("serviceId", "903117"), ("messageId", id.as_str()), ("method", "TRANSACTION_REFUND")];
        let hash = Key::of(&bench.settings).sign(fields).unwrap();
        let body = json!({"serviceId": 903117, "messageId": id, "method": "TRANSACTION_REFUND", "hash": hash});
        let json_type = [("content-type", "application/json")];
        let answer = bench.send("POST", "/settlementapi/outDetails/v2", &json_type, &body.to_string());
        let answer: serde_json::Value = serde_json::from_str(&page(answer).2).unwrap();
        answer["status"].as_str().unwrap_or("none").to_owned()
    };
    for _ in 0..2 {
        assert_eq!(refund(&bench, 'a', "100.00").name, "transactionRefund");
    }
    assert_eq!(refund(&bench, 'b', "29.90").name, "transactionRefund");
    assert_eq!(refund(&bench, 'c', "0.01").name, "transactionRefund", "accepted, and given up later");
    assert_eq!(refund(&bench, 'd', "1.5").name, "error");
    assert_eq!(outcome(&bench, 'a'), "PROCESSING");
    bench.wait(60);
    let outcomes = ['a', 'b', 'c', 'd'].map(|id| outcome(&bench, id));
    assert_eq!(outcomes, ["DONE", "DONE", "CANCELED_AMOUNT_EXCEEDS_TRANSACTION", "none"]);
}

#[test]
fn a_pretransaction_is_answered_with_a_link_that_the_provider_takes() {
    use crate::gateway::{CallError, Redirect};
    let bench = Bench::new();
    let header = [("BmHeader", "pay-bm-continue-transaction-url")];
    let ask = |body: &str| {
        let (status, _, body) = page(bench.send("POST", "/payment", &header, body));
        (status, message::parse(body.as_bytes()).unwrap())
    };
    let (_, answer) = ask(&bench.start_body("HUB-1"));
    let taken = start::read_answer(&bench.settings, &Key::of(&bench.settings), &answer, "HUB-1").unwrap();
    let Redirect::Url { url, gateway_ref, .. } = taken else { panic!("a link was asked for") };
    bench.send("POST", &format!("{}/pay", url.strip_prefix(ROOT).unwrap()), &[], "");
    assert_eq!(bench.status("HUB-1"), ["SUCCESS"]);
    assert!(url.contains(&gateway_ref.unwrap()));

    let (status, answer) = ask(&bench.start_body("HUB-1").replace("129.90", "129.91"));
    assert_eq!((status, answer.text("name")), (406, "INVALID_HASH"));
    let late = bench.start_body("HUB-2");
    let bench = Bench { now: "2026-11-22T09:00:00Z".parse().unwrap(), ..bench };
    let (_, _, body) = page(bench.send("POST", "/payment", &header, &late));
    let answer = message::parse(body.as_bytes()).unwrap();
    let refused = start::read_answer(&bench.settings, &Key::of(&bench.settings), &answer, "HUB-2");
    assert!(matches!(refused, Err(CallError::Refused { code, .. }) if code == "LINK_VALIDITY_TIME_OUTDATED"));
}
