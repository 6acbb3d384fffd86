//! The client against real sockets on loopback: servers that refuse, hang, cut, lie and speak TLS with wrong papers.

mod server;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Mutex;

use proptest::prelude::*;
use serde_json::Value;

use self::server::{Server, Step, ok};
use super::*;
use crate::outbound::target::{Refusal, ResolveError};

/// Small limits, real time: nothing here waits for more than the time limit that it tests.
fn limits() -> Limits {
    Limits {
        connect: Duration::from_secs(5),
        total: Duration::from_secs(20),
        total_once: Duration::from_secs(20),
        answer_bytes: 1000,
    }
}

fn settings() -> OutboundSettings {
    OutboundSettings {
        policy: TargetPolicy { allow_insecure: true, ..TargetPolicy::default() },
        provider: limits(),
        client_hook: limits(),
        ..OutboundSettings::default()
    }
}

fn impatient() -> OutboundSettings {
    let short = Limits {
        connect: Duration::from_millis(400),
        total: Duration::from_millis(600),
        total_once: Duration::from_millis(600),
        ..limits()
    };
    OutboundSettings { provider: short, client_hook: short, ..settings() }
}

fn client() -> Outbound {
    Outbound::new(settings()).unwrap()
}

/// Answers with each list in turn, and with the last one for ever after.
struct Names(Mutex<Vec<Vec<IpAddr>>>);

impl Names {
    fn new(mut answers: Vec<Vec<IpAddr>>) -> Arc<Self> {
        answers.reverse();
        Arc::new(Names(Mutex::new(answers)))
    }

    fn loopback() -> Arc<Self> {
        Names::new(vec![vec![Ipv4Addr::LOCALHOST.into()]])
    }
}

#[async_trait]
impl Resolve for Names {
    async fn resolve(&self, _: &str) -> Result<Vec<IpAddr>, ResolveError> {
        let mut answers = self.0.lock().unwrap();
        if answers.len() > 1 { Ok(answers.pop().unwrap()) } else { Ok(answers[0].clone()) }
    }
}

fn with_names(settings: OutboundSettings, names: Arc<Names>) -> Outbound {
    Outbound::with(settings, names, Arc::new(Nobody)).unwrap()
}

async fn outcome(steps: Vec<Step>, request: impl FnOnce(String) -> HttpRequest) -> Result<HttpResponse, CallError> {
    let server = Server::start(steps).await;
    client().call(request(server.url("/"))).await
}

#[tokio::test]
async fn an_answer_comes_back_whole() {
    let answer = "HTTP/1.1 201 Created\r\nX-One: a\r\nx-one: b\r\ncontent-length: 5\r\n\r\nza\u{17c}!";
    let server = Server::start(vec![Step::Answer(answer.into())]).await;
    let request = HttpRequest::form(server.url("/pay?order=7"), [("a", "b c")]).header("x-key", "k");
    let response = client().call(request).await.unwrap();
    assert_eq!((response.status, response.body), (201, "za\u{17c}!".into()));
    assert!(response.headers.single("x-one").is_err());
    let sent = server.requests().remove(0);
    assert!(sent.starts_with("POST /pay?order=7 HTTP/1.1\r\n"), "{sent}");
    assert!(sent.ends_with("\r\n\r\na=b+c"), "{sent}");
    for line in ["x-key: k", "content-type: application/x-www-form-urlencoded", "content-length: 5"] {
        assert!(sent.contains(&format!("\r\n{line}\r\n")), "{line} in {sent}");
    }
    let agent = format!("\r\nuser-agent: grosz/{}\r\n", env!("CARGO_PKG_VERSION"));
    assert!(sent.contains(&agent), "{sent}");
    assert!(!sent.contains("accept-encoding") && !sent.contains("referer") && !sent.contains("cookie"), "{sent}");
}

#[tokio::test]
async fn a_refused_port_means_that_nothing_was_sent() {
    let port = server::unused_port().await;
    let error = client().call(HttpRequest::get(format!("http://127.0.0.1:{port}/"))).await.unwrap_err();
    assert_eq!(error, CallError::ConnectionRefused);
    assert!(matches!(HttpError::from(error), HttpError::NotSent(_)));
}

#[tokio::test]
async fn every_cut_after_connecting_leaves_the_outcome_open() {
    let half = "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\nhalf";
    let chunk = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n";
    for step in [
        Step::CloseAtOnce,
        Step::CloseAfterRequest,
        Step::Partial("HTTP/1.1 200 OK\r\ncontent-le".into()),
        Step::Partial(half.into()),
        Step::Partial(chunk.into()),
    ] {
        let shown = format!("{step:?}");
        let error = outcome(vec![step], |url| HttpRequest::form(url, [("pay", "1")]).once()).await.unwrap_err();
        assert_eq!(error, CallError::Cut, "{shown}");
        assert!(matches!(HttpError::from(error), HttpError::NoAnswer(_)), "{shown}");
    }
}

#[tokio::test]
async fn an_answer_that_is_not_http_leaves_the_outcome_open() {
    let error = outcome(vec![Step::Partial("220 mail ready\r\n".into())], HttpRequest::get).await.unwrap_err();
    assert_eq!(error, CallError::Unreadable);
    assert!(!error.is_certainly_not_sent());
}

#[tokio::test]
async fn a_host_that_hangs_ends_at_the_time_limit() {
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n";
    for step in [Step::Hang, Step::PartialThenHang(head.into())] {
        let server = Server::start(vec![step]).await;
        let client = Outbound::new(impatient()).unwrap();
        let error = client.call(HttpRequest::get(server.url("/"))).await.unwrap_err();
        assert_eq!(error, CallError::TimeOut);
        assert!(!error.is_certainly_not_sent());
    }
}

#[tokio::test]
async fn a_tls_handshake_that_hangs_has_sent_nothing() {
    let server = Server::start(vec![Step::Hang]).await;
    let client = Outbound::new(impatient()).unwrap();
    let url = server.url("/").replace("http://", "https://");
    let error = client.call(HttpRequest::get(url)).await.unwrap_err();
    assert_eq!(error, CallError::ConnectTimeOut);
    assert!(error.is_certainly_not_sent());
}

#[tokio::test]
async fn a_long_answer_is_refused_and_that_of_a_client_is_shortened() {
    let chunked =
        format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n7d0\r\n{}\r\n0\r\n\r\n", "a".repeat(2000));
    for answer in [ok(&"a".repeat(1001)), chunked] {
        let error = outcome(vec![Step::Answer(answer.clone())], HttpRequest::get).await.unwrap_err();
        assert_eq!(error, CallError::TooLarge { limit: 1000 });
        assert!(!error.is_certainly_not_sent());

        let server = Server::start(vec![Step::Answer(answer)]).await;
        let hook = client().for_kind(CallKind::ClientHook);
        let response = hook.call(HttpRequest::get(server.url("/"))).await.unwrap();
        assert_eq!((response.status, response.body), (200, "a".repeat(1000).into()));
    }
    let exact = outcome(vec![Step::Answer(ok(&"a".repeat(1000)))], HttpRequest::get).await.unwrap();
    assert_eq!(exact.body.len(), 1000);
}

#[tokio::test]
async fn compressed_answers_are_not_unpacked() {
    let answer = "HTTP/1.1 200 OK\r\ncontent-encoding: gzip\r\ncontent-length: 3\r\n\r\nabc";
    let response = outcome(vec![Step::Answer(answer.into())], HttpRequest::get).await.unwrap();
    assert_eq!(response.body, b"abc");
}

// F37, and the published redirect cases: whatever is offered, one request is made and its answer returned.
#[tokio::test]
async fn redirects_and_their_like_are_answers_and_are_not_followed() {
    let all: Value = serde_json::from_str(include_str!("../../../tests/fixtures/webhooks.json")).unwrap();
    let cases = all["targets"]["redirects"].as_array().unwrap();
    assert_eq!(cases.len(), 7);
    for case in cases {
        let (id, given) = (case["id"].as_str().unwrap(), &case["answers"][0]);
        let mut head = format!("HTTP/1.1 {} Moved\r\ncontent-length: 0\r\n", given["status"]);
        if let Some(location) = given["location"].as_str() {
            head += &format!("location: {location}\r\n");
        }
        for (name, value) in given["headers"].as_object().into_iter().flatten() {
            head += &format!("{name}: {}\r\n", value.as_str().unwrap());
        }
        let server = Server::start(vec![Step::Answer(head + "\r\n"), Step::Answer(ok("followed"))]).await;
        let response = client().call(HttpRequest::get(server.url("/in"))).await.unwrap();
        assert_eq!(u64::from(response.status), given["status"].as_u64().unwrap(), "{id}");
        assert_eq!(server.requests().len() as u64, case["requests_made"].as_u64().unwrap(), "{id}");
    }
}

#[tokio::test]
async fn a_once_call_never_travels_over_a_kept_connection() {
    let server = Server::start(vec![Step::Keep(ok("one")), Step::CloseAfterRequest, Step::Answer(ok("again"))]).await;
    let client = client();
    client.call(HttpRequest::get(server.url("/first"))).await.unwrap();
    let error = client.call(HttpRequest::form(server.url("/pay"), [("a", "1")]).once()).await.unwrap_err();
    assert_eq!(error, CallError::Cut);
    assert_eq!(server.connections(), 2, "the call had a connection of its own");
    let paid = server.requests().iter().filter(|r| r.starts_with("POST /pay ")).count();
    assert_eq!(paid, 1);
}

// F42: the process was stopped while the call waited for its slot or for the name.
#[tokio::test]
async fn a_once_call_that_was_held_up_is_not_made() {
    let server = Server::start(vec![Step::Answer(ok("late")), Step::Answer(ok("late"))]).await;
    let client = client();
    let target = client.policy().check_text(&server.url("/pay")).unwrap();
    let long_ago = Instant::now().checked_sub(Duration::from_secs(300)).unwrap();
    let pay = || HttpRequest::form(server.url("/pay"), [("a", "1")]);
    let error = client.exchange(&target, pay().once(), long_ago).await.unwrap_err();
    assert_eq!(error, CallError::ConnectTimeOut);
    assert!(error.is_certainly_not_sent());
    assert_eq!(server.connections(), 0);
    assert_eq!(client.exchange(&target, pay(), long_ago).await.unwrap().body, b"late", "others may be late");
    assert_eq!(client.exchange(&target, pay().once(), Instant::now()).await.unwrap().body, b"late");
}

#[tokio::test]
async fn a_kept_connection_that_dies_under_a_request_is_not_a_reason_to_send_it_again() {
    let server = Server::start(vec![Step::KeepOnce(ok("one")), Step::Answer(ok("again"))]).await;
    let client = client();
    client.call(HttpRequest::get(server.url("/first"))).await.unwrap();
    let error = client.call(HttpRequest::form(server.url("/second"), [("a", "1")])).await.unwrap_err();
    assert_eq!(error, CallError::Cut);
    assert_eq!(server.connections(), 1, "the kept connection was used");
    assert_eq!(server.requests().iter().filter(|r| r.starts_with("POST /second ")).count(), 1);
}

#[tokio::test]
async fn an_open_connection_does_not_excuse_from_looking_the_name_up() {
    let server = Server::start(vec![Step::Keep(ok("one")), Step::Keep(ok("two"))]).await;
    let metadata = IpAddr::from([169, 254, 169, 254]);
    let names = Names::new(vec![vec![Ipv4Addr::LOCALHOST.into()], vec![metadata]]);
    let client = with_names(settings(), names);
    let url = format!("http://flip.attacker.example:{}/", server.port);
    client.call(HttpRequest::get(&url)).await.unwrap();
    let error = client.call(HttpRequest::get(&url)).await.unwrap_err();
    assert_eq!(error, CallError::Refused(Refusal::Metadata));
    assert!(error.is_certainly_not_sent());
    assert_eq!(server.requests().len(), 1);
}

#[tokio::test]
async fn the_connection_goes_to_the_vetted_address_with_the_original_name() {
    let server = Server::start(vec![Step::Answer(ok("one"))]).await;
    let client = with_names(settings(), Names::loopback());
    let url = format!("http://hooks.shop.example.:{}/in", server.port);
    client.call(HttpRequest::get(url)).await.unwrap();
    let host = format!("\r\nhost: hooks.shop.example:{}\r\n", server.port);
    assert!(server.requests()[0].contains(&host), "{:?}", server.requests());
}

#[tokio::test]
async fn by_default_nothing_on_this_machine_can_be_reached() {
    let server = Server::start(vec![Step::Answer(ok("secret"))]).await;
    let ports = [443, server.port].into();
    let policy = TargetPolicy { ports, ..TargetPolicy::default() };
    let strict = with_names(OutboundSettings { policy, ..settings() }, Names::loopback());
    for (url, refusal) in [
        (server.url("/"), Refusal::Scheme),
        (format!("https://127.0.0.1:{}/", server.port), Refusal::Loopback),
        (format!("https://2130706433:{}/", server.port), Refusal::Loopback),
        (format!("https://loop.attacker.example:{}/", server.port), Refusal::Loopback),
        ("https://user:pw@hooks.shop.example/".into(), Refusal::UserInfo),
    ] {
        let error = strict.call(HttpRequest::get(&url)).await.unwrap_err();
        assert_eq!(error, CallError::Refused(refusal), "{url}");
    }
    assert_eq!(server.connections(), 0);
}

// F36
#[tokio::test]
async fn names_without_addresses_are_a_failure_to_send() {
    let client = with_names(settings(), Names::new(vec![vec![]]));
    let error = client.call(HttpRequest::get("http://empty.shop.example/")).await.unwrap_err();
    assert_eq!(error, CallError::Refused(Refusal::NoAddress));
    let HttpError::NotSent(text) = HttpError::from(error) else { panic!("sent") };
    assert_eq!(text, "the host name has no address at the moment");
}

// F35
#[tokio::test]
async fn a_hanging_host_holds_its_own_slots_and_no_others() {
    let hanging = Server::start(vec![Step::Hang, Step::Hang, Step::Hang]).await;
    let healthy = Server::start(vec![Step::Answer(ok("fine")), Step::Answer(ok("fine"))]).await;
    let provider = Limits { connect: Duration::from_millis(300), ..limits() };
    let client = Outbound::new(OutboundSettings { calls_per_host: 2, provider, ..settings() }).unwrap();
    let call = |url: String| {
        let client = client.clone();
        tokio::spawn(async move { client.call(HttpRequest::get(url)).await })
    };
    let held = [call(hanging.url("/1")), call(hanging.url("/2"))];
    hanging.wait_for_requests(2).await;
    let third = call(hanging.url("/3")).await.unwrap().unwrap_err();
    assert_eq!(third, CallError::Busy);
    assert!(third.is_certainly_not_sent());
    assert_eq!(call(healthy.url("/")).await.unwrap().unwrap().body, b"fine");
    let hook = client.for_kind(CallKind::ClientHook);
    assert_eq!(hook.call(HttpRequest::get(healthy.url("/"))).await.unwrap().body, b"fine");
    assert_eq!(hanging.connections(), 2);
    for call in held {
        call.abort();
        assert!(call.await.unwrap_err().is_cancelled());
    }
    assert_eq!(client.shared.slots.hosts(), 0, "hosts that nobody calls are forgotten");
}

async fn tls_outcome(papers: &'static str, name: &str, trusted: bool) -> Result<HttpResponse, CallError> {
    let port = server::tls(papers);
    let ca = include_bytes!("../../../tests/fixtures/tls/ca.pem");
    let settings = OutboundSettings { extra_ca_pem: trusted.then(|| ca.to_vec()), ..settings() };
    with_names(settings, Names::loopback()).call(HttpRequest::get(format!("https://{name}:{port}/"))).await
}

// F36
#[tokio::test]
async fn wrong_certificates_stop_the_call_before_anything_is_sent() {
    let good = include_str!("../../../tests/fixtures/tls/good.pem");
    let expired = include_str!("../../../tests/fixtures/tls/expired.pem");
    let future = include_str!("../../../tests/fixtures/tls/future.pem");
    assert_eq!(tls_outcome(good, "right.example", true).await.unwrap().body, b"over tls");
    assert_eq!(tls_outcome(good, "right.example.", true).await.unwrap().status, 200);
    for (papers, name, trusted, fault) in [
        (good, "wrong.example", true, TlsFault::WrongName),
        (expired, "right.example", true, TlsFault::Expired),
        (future, "right.example", true, TlsFault::NotYetValid),
        (good, "right.example", false, TlsFault::UnknownIssuer),
    ] {
        let error = tls_outcome(papers, name, trusted).await.unwrap_err();
        assert_eq!(error, CallError::Tls(fault));
        assert!(matches!(HttpError::from(error), HttpError::NotSent(_)));
    }
}

#[tokio::test]
async fn a_port_without_tls_gets_no_plain_request() {
    let server = Server::start(vec![Step::Raw(ok("plain"))]).await;
    let url = server.url("/").replace("http://", "https://");
    let error = client().call(HttpRequest::get(url)).await.unwrap_err();
    assert_eq!(error, CallError::Tls(TlsFault::Handshake));
    assert!(error.is_certainly_not_sent());
}

/// Runs one test of this binary again, under an environment that points every proxy variable at a closed port.
#[tokio::test]
async fn proxy_settings_of_the_environment_are_ignored() {
    let closed = format!("http://127.0.0.1:{}", server::unused_port().await);
    let mut again = std::process::Command::new(std::env::current_exe().unwrap());
    again.args(["--exact", "outbound::client::tests::an_answer_comes_back_whole"]);
    for name in ["http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"] {
        again.env(name, &closed);
    }
    let output = again.env_remove("no_proxy").env_remove("NO_PROXY").output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[derive(Default)]
struct Heard(Mutex<Vec<(CallKind, Result<u16, &'static str>)>>);

impl Observe for Heard {
    fn on_call(&self, kind: CallKind, outcome: Result<u16, &CallError>, _: Duration) {
        self.0.lock().unwrap().push((kind, outcome.map_err(CallError::word)));
    }
}

#[tokio::test]
async fn the_observer_hears_of_every_call_once() {
    let server = Server::start(vec![Step::Answer(ok("x")), Step::CloseAfterRequest]).await;
    let heard = Arc::new(Heard::default());
    let client = Outbound::with(settings(), Names::loopback(), heard.clone()).unwrap();
    client.call(HttpRequest::get(server.url("/"))).await.unwrap();
    let hook = client.for_kind(CallKind::ClientHook);
    hook.call(HttpRequest::get(server.url("/"))).await.unwrap_err();
    hook.call(HttpRequest::get("ftp://x/")).await.unwrap_err();
    let expected = [
        (CallKind::Provider, Ok(200)),
        (CallKind::ClientHook, Err("connection_reset")),
        (CallKind::ClientHook, Err("scheme")),
    ];
    assert_eq!(*heard.0.lock().unwrap(), expected);
}

#[tokio::test]
async fn headers_that_could_split_a_request_are_not_sent() {
    let server = Server::start(vec![Step::Answer(ok("x"))]).await;
    for value in ["a\r\nx-injected: 1", "a\nb", "a\0b"] {
        let error = client().call(HttpRequest::get(server.url("/")).header("x-name", value)).await.unwrap_err();
        assert!(matches!(error, CallError::BadRequest(_)), "{value:?}");
        assert!(error.is_certainly_not_sent());
    }
    assert_eq!(server.connections(), 0);
}

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn logs_hold_no_query_header_or_body() {
    let lines = Lines::default();
    let writer = lines.clone();
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .with_ansi(false)
        .finish();
    let _guard = tracing::subscriber::set_default(subscriber);
    let server = Server::start(vec![Step::Answer(ok("s3cret-answer")), Step::CloseAfterRequest]).await;
    let client = client();
    let request = |path: &str| {
        HttpRequest::form(server.url(path), [("a", "s3cret-body")]).header("authorization", "Bearer s3cret-header")
    };
    client.call(request("/orders?key=s3cret-query")).await.unwrap();
    client.for_kind(CallKind::ClientHook).call(request("/s3cret-path?x=1")).await.unwrap_err();
    client.call(HttpRequest::get("https://u:s3cret-password@host.example/")).await.unwrap_err();
    let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    assert!(text.contains("/orders") && text.contains("status=200") && text.contains("duration_ms="), "{text}");
    assert!(text.contains("error=\"connection_reset\""), "{text}");
    assert!(!text.contains("s3cret"), "{text}");
}

#[test]
fn settings_that_make_no_client_are_refused() {
    let refuse = |settings| Outbound::new(settings).unwrap_err();
    let ca = |pem: &[u8]| OutboundSettings { extra_ca_pem: Some(pem.to_vec()), ..settings() };
    assert_eq!(refuse(ca(b"")), BadSettings::ExtraCa);
    assert_eq!(refuse(ca(b"not a certificate")), BadSettings::ExtraCa);
    assert_eq!(refuse(OutboundSettings { calls_per_host: 0, ..settings() }), BadSettings::NoCalls);
    let slow = Limits { connect: Duration::from_secs(20), ..limits() };
    let refused = refuse(OutboundSettings { client_hook: slow, ..settings() });
    assert_eq!(refused, BadSettings::ConnectNotShorter("client_hook"));
    assert!(Outbound::new(OutboundSettings::default()).is_ok());
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// Whatever bytes come back, the call ends with an answer or an error that admits that something was sent.
    #[test]
    fn no_answer_makes_the_client_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let server = Server::start(vec![Step::PartialBytes(bytes)]).await;
            if let Err(error) = client().call(HttpRequest::get(server.url("/"))).await {
                assert!(!error.is_certainly_not_sent(), "{error:?}");
            }
        });
    }
}
