//! Our calls: what is sent, and what each answer and each silence mean.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use grosz_providers::gateway::{CallError, Cx, Redirect, RefundState, Standing};
use grosz_providers::wire::{Headers, Http, HttpError, HttpRequest, HttpResponse};
use grosz_providers::{Provider, Settings, Timestamp};
use jiff::ToSpan;
use serde_json::{Map, Value, json};

use crate::fixture::{self, Answer, Case, ExpectedRequest, Fixture, check_events, expected};

/// The calls a gateway can have.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Call {
    Start,
    Status,
    Refund,
    RefundStatus,
    Cancel,
}

impl Call {
    const ALL: [Call; 5] = [Call::Start, Call::Status, Call::Refund, Call::RefundStatus, Call::Cancel];

    fn cases(self, fixture: &Fixture) -> &[Case] {
        match self {
            Call::Start => &fixture.start,
            Call::Status => &fixture.status,
            Call::Refund => &fixture.refund,
            Call::RefundStatus => &fixture.refund_status,
            Call::Cancel => &fixture.cancel,
        }
    }

    /// True for calls that change something at the gateway.
    fn writes(self) -> bool {
        matches!(self, Call::Start | Call::Refund | Call::Cancel)
    }

    /// The cases from which the bad answers are made.
    fn golden(self, fixture: &Fixture) -> impl Iterator<Item = &Case> {
        self.cases(fixture).iter().filter(|c| c.is("golden") && !c.http.is_empty())
    }
}

/// Answers by the script and compares each request with it.
struct Script<'c> {
    case: &'c Case,
    next: AtomicUsize,
    /// Instead of the script's answer at this place.
    fault: Option<(usize, Fault)>,
    requests: Mutex<Vec<HttpRequest>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    NotSent,
    NoAnswer,
    Http500,
    Garbage,
}

#[async_trait]
impl Http for Script<'_> {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        let place = self.next.fetch_add(1, Ordering::SeqCst);
        let name = &self.case.name;
        let exchange = self.case.http.get(place).unwrap_or_else(|| panic!("{name}: call {place} was not expected"));
        check_request(name, &request, &exchange.expect);
        self.requests.lock().unwrap().push(request);
        match self.fault {
            Some((at, fault)) if at == place => faulty(fault),
            _ => answer(&exchange.answer),
        }
    }
}

fn answer(answer: &Answer) -> Result<HttpResponse, HttpError> {
    match answer {
        Answer::Error { error } if error == "not_sent" => Err(HttpError::NotSent("scripted".into())),
        Answer::Error { error } if error == "no_answer" => Err(HttpError::NoAnswer("scripted".into())),
        Answer::Error { error } => panic!("{error} is neither not_sent nor no_answer"),
        Answer::Page { status, headers, body } => {
            let headers = Headers::from_pairs(headers.iter().map(|(n, v)| (n, v.as_str().unwrap())));
            Ok(HttpResponse { status: *status, headers, body: body.clone().into_bytes() })
        }
    }
}

fn faulty(fault: Fault) -> Result<HttpResponse, HttpError> {
    let page = |status, body: &[u8]| Ok(HttpResponse { status, headers: Headers::default(), body: body.to_vec() });
    match fault {
        Fault::NotSent => Err(HttpError::NotSent("no such host".into())),
        Fault::NoAnswer => Err(HttpError::NoAnswer("time-out".into())),
        Fault::Http500 => page(500, b"internal error"),
        Fault::Garbage => page(200, b"<html><body>\xff We are sorry {\"ok\":"),
    }
}

#[track_caller]
fn check_request(name: &str, request: &HttpRequest, expect: &ExpectedRequest) {
    assert!(expect.method.as_ref().is_none_or(|m| m == request.method), "{name}: {}", request.method);
    assert!(expect.url.as_ref().is_none_or(|u| *u == request.url), "{name}: {}", request.url);
    for (header, value) in &expect.headers {
        let mut found = request.headers.iter().filter(|(n, _)| n.eq_ignore_ascii_case(header)).map(|(_, v)| v.as_str());
        assert_eq!(found.next(), value.as_str(), "{name}: {header}");
        assert_eq!(found.next(), None, "{name}: {header} came twice");
    }
    if let Some(form) = &expect.form {
        let sent: Vec<_> = form_urlencoded::parse(&request.body).into_owned().collect();
        assert_eq!(sent, *form, "{name}");
    }
    if let Some(json) = &expect.json {
        assert_eq!(serde_json::from_slice::<Value>(&request.body).unwrap(), *json, "{name}");
    }
    if let Some(body) = &expect.body {
        assert_eq!(String::from_utf8_lossy(&request.body), *body, "{name}");
    }
}

/// Runs one case; answers in the words of the fixture, with the requests that were made.
async fn run(
    provider: &dyn Provider,
    settings: &Settings,
    now: Timestamp,
    call: Call,
    case: &Case,
    fault: Option<(usize, Fault)>,
) -> (Result<Value, CallError>, Vec<HttpRequest>) {
    let http = Script { case, next: AtomicUsize::new(0), fault, requests: Mutex::default() };
    let cx = Cx { settings, http: &http, now, live: false };
    let missing = |what: &str| -> ! { panic!("{} has no {what}", case.name) };
    let attempt = || case.attempt.as_ref().unwrap_or_else(|| missing("attempt"));
    let order = || case.order.as_ref().unwrap_or_else(|| missing("order"));
    let result = match call {
        Call::Start => {
            let checkout = case.checkout.as_ref().unwrap_or_else(|| missing("checkout"));
            provider.start(&cx, checkout).await.map(|redirect| json!({"redirect": redirect}))
        }
        Call::Status => provider.status(&cx, attempt()).await.map(|report| json!(report)),
        Call::Refund => provider.refund(&cx, order()).await.map(|report| json!(report)),
        Call::RefundStatus => provider.refund_status(&cx, order()).await.map(|report| json!(report)),
        Call::Cancel => provider.cancel(&cx, attempt()).await.map(|()| json!({"ok": true})),
    };
    if fault.is_none() {
        assert_eq!(http.next.load(Ordering::SeqCst), case.http.len(), "{}: calls made", case.name);
    }
    (result, http.requests.into_inner().unwrap())
}

fn word(error: &CallError) -> &'static str {
    match error {
        CallError::NotSent(_) => "not_sent",
        CallError::Unknown(_) => "unknown",
        CallError::Refused { .. } => "refused",
        CallError::Gone { .. } => "gone",
        CallError::Busy { .. } => "busy",
        CallError::Config(_) => "config",
        CallError::Invalid { .. } => "invalid",
        CallError::Unsupported => "unsupported",
    }
}

#[test]
fn the_required_cases_are_there() {
    for (provider, fixture) in fixture::all() {
        let (name, can) = (provider.facts().name, provider.facts().can);
        assert!(fixture.start.iter().any(|c| c.is("golden")), "{name} has no golden start");
        for (call, there) in [
            (Call::Start, fixture.start.iter().any(|c| !c.http.is_empty())),
            (Call::Status, can.poll),
            (Call::Refund, can.refund),
            (Call::Cancel, can.cancel),
        ] {
            if there {
                let refused = |c: &&Case| c.expect.get("error").is_some_and(|e| e == "refused" || e == "gone");
                assert!(call.golden(&fixture).count() > 0, "{name} has no golden {call:?}");
                assert!(call.cases(&fixture).iter().find(refused).is_some(), "{name}: {call:?} is never refused");
            }
        }
    }
}

#[tokio::test]
async fn calls_send_and_understand_what_the_fixture_says() {
    for (provider, fixture) in fixture::all() {
        for (call, case) in Call::ALL.into_iter().flat_map(|call| call.cases(&fixture).iter().map(move |c| (call, c))) {
            let name = format!("{}, {call:?} {:?}", provider.facts().name, case.name);
            let settings = fixture.settings_of(provider, case);
            let (result, _) = run(provider, &settings, fixture.now_of(case), call, case, None).await;
            match (result, case.expect.get("error").and_then(Value::as_str)) {
                (Err(error), Some(expect)) => assert_eq!(word(&error), expect, "{name}: {error:?}"),
                (Ok(found), None) => check_result(&name, call, &found, &case.expect),
                (found, _) => panic!("{name}: {found:?}"),
            }
        }
    }
}

#[track_caller]
fn check_result(name: &str, call: Call, found: &Value, expect: &Value) {
    match call {
        Call::Start => {
            let redirect: Redirect = expected(name, expect, "redirect");
            assert_eq!(found["redirect"], json!(redirect), "{name}");
        }
        Call::Status => {
            let standing: Standing = expected(name, expect, "standing");
            assert_eq!(found["standing"], json!(standing), "{name}");
            let events: Vec<_> = serde_json::from_value(found["events"].clone()).unwrap();
            check_events(name, &events, &expect["events"]);
        }
        Call::Refund | Call::RefundStatus => {
            let _: RefundState = expected(name, expect, "state");
            check_members(name, found, expect.as_object().unwrap());
        }
        Call::Cancel => assert_eq!(found, expect, "{name}"),
    }
}

#[track_caller]
fn check_members(name: &str, found: &Value, expect: &Map<String, Value>) {
    for (member, value) in expect {
        assert_eq!(found.get(member), Some(value), "{name}: {member}");
    }
}

// F27, F29, F36
#[tokio::test]
async fn silence_and_nonsense_are_never_taken_for_an_answer() {
    for (provider, fixture) in fixture::all() {
        for (call, case) in Call::ALL.into_iter().flat_map(|call| call.golden(&fixture).map(move |c| (call, c))) {
            for (place, fault) in (0..case.http.len())
                .flat_map(|p| [Fault::NotSent, Fault::NoAnswer, Fault::Http500, Fault::Garbage].map(|fault| (p, fault)))
            {
                let name = format!("{}, {call:?} {:?}, {fault:?} at call {place}", provider.facts().name, case.name);
                let (settings, now) = (fixture.settings_of(provider, case), fixture.now_of(case));
                let (result, _) = run(provider, &settings, now, call, case, Some((place, fault))).await;
                let found = word(&result.expect_err(&name));
                match fault {
                    Fault::NotSent if place == 0 => assert_eq!(found, "not_sent", "{name}"),
                    Fault::NotSent => assert!(["not_sent", "unknown"].contains(&found), "{name}: {found}"),
                    Fault::Http500 if !call.writes() => {
                        assert!(["unknown", "busy"].contains(&found), "{name}: {found}");
                    }
                    _ => assert_eq!(found, "unknown", "{name}"),
                }
            }
        }
    }
}

/// The gateway does one message once, so the second must be the first to the byte, whenever it is sent.
#[tokio::test]
async fn a_refund_ordered_twice_is_one_message() {
    for (provider, fixture) in fixture::all() {
        for case in Call::Refund.golden(&fixture) {
            let settings = fixture.settings_of(provider, case);
            let now = fixture.now_of(case);
            let (_, first) = run(provider, &settings, now, Call::Refund, case, None).await;
            let later = now + 26.hours();
            let (_, second) = run(provider, &settings, later, Call::Refund, case, None).await;
            let bytes = |requests: &[HttpRequest]| {
                requests
                    .iter()
                    .map(|r| (r.method, r.url.clone(), r.headers.clone(), r.body.clone()))
                    .collect::<Vec<_>>()
            };
            let name = format!("{}, {:?}", provider.facts().name, case.name);
            assert!(bytes(&first) == bytes(&second), "{name}: the second order differs from the first");
            let mut other = case.clone();
            let order = other.order.as_mut().unwrap();
            order.id.push('x');
            for exchange in &mut other.http {
                exchange.expect = ExpectedRequest::default();
            }
            let (_, third) = run(provider, &settings, now, Call::Refund, &other, None).await;
            assert!(bytes(&first) != bytes(&third), "{name}: two refunds would be taken for one");
        }
    }
}

// F72
#[tokio::test]
async fn no_error_tells_a_secret() {
    use grosz_providers::facts::SettingKind;
    for (provider, fixture) in fixture::all() {
        for (call, case) in Call::ALL.into_iter().flat_map(|call| call.cases(&fixture).iter().map(move |c| (call, c))) {
            let settings = fixture.settings_of(provider, case);
            let (result, requests) = run(provider, &settings, fixture.now_of(case), call, case, None).await;
            let told = match &result {
                Ok(_) => format!("{requests:?}"),
                Err(e) => format!("{e} {e:?} {requests:?}"),
            };
            for secret in provider.facts().settings.iter().filter(|s| s.kind == SettingKind::Secret) {
                if let Some(value) = settings.get(secret.name) {
                    assert!(!told.contains(value), "{}, {:?}: {}", provider.facts().name, case.name, secret.name);
                }
            }
        }
    }
}
