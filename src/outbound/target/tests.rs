//! The published target list, name by name, against a made-up name table: nothing here touches a network.

use std::collections::VecDeque;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use proptest::prelude::*;
use serde_json::Value;

use super::*;

fn vectors() -> Value {
    let all: Value = serde_json::from_str(include_str!("../../../tests/fixtures/webhooks.json")).unwrap();
    all["targets"].clone()
}

/// The policy of the vectors. Metadata addresses are built in; the list is compared by its own test.
fn policy() -> TargetPolicy {
    let v = &vectors()["policy"];
    let texts = |name: &str| v[name].as_array().unwrap().iter().map(|t| t.as_str().unwrap().to_owned()).collect();
    let own_addresses: Vec<String> = texts("own_addresses");
    let extra_denied: Vec<String> = texts("extra_denied");
    TargetPolicy {
        allow_insecure: false,
        ports: v["ports"].as_array().unwrap().iter().map(|p| u16::try_from(p.as_u64().unwrap()).unwrap()).collect(),
        own_hosts: texts("own_hosts").into_iter().collect(),
        own_addresses: own_addresses.iter().map(|a| a.parse().unwrap()).collect(),
        extra_denied: extra_denied.iter().map(|n| n.parse().unwrap()).collect(),
    }
}

struct Table(Value);

#[async_trait]
impl Resolve for Table {
    async fn resolve(&self, name: &str) -> Result<Vec<IpAddr>, ResolveError> {
        match &self.0[name] {
            Value::Array(addresses) => Ok(addresses.iter().map(|a| a.as_str().unwrap().parse().unwrap()).collect()),
            Value::Object(alias) => self.resolve(alias["cname"].as_str().unwrap()).await,
            _ => Err(ResolveError::NoSuchName),
        }
    }
}

/// Gives the listed answers one after another and fails the test when asked once more.
struct Script(Mutex<VecDeque<Vec<IpAddr>>>);

impl Script {
    fn new(lookups: &Value) -> Self {
        let answers = lookups.as_array().unwrap().iter();
        let parse = |a: &Value| a.as_array().unwrap().iter().map(|a| a.as_str().unwrap().parse().unwrap()).collect();
        Script(Mutex::new(answers.map(parse).collect()))
    }

    fn left(&self) -> usize {
        self.0.lock().unwrap().len()
    }
}

#[async_trait]
impl Resolve for Script {
    async fn resolve(&self, _: &str) -> Result<Vec<IpAddr>, ResolveError> {
        Ok(self.0.lock().unwrap().pop_front().expect("no further look-up is allowed"))
    }
}

async fn judge(policy: &TargetPolicy, url: &str, resolver: &dyn Resolve) -> Result<(Target, Vec<IpAddr>), Refusal> {
    let target = policy.check_text(url)?;
    let addresses = policy.vet(&target, resolver).await?;
    Ok((target, addresses))
}

fn written(case: &Value) -> String {
    match &case["url"] {
        Value::String(url) => url.clone(),
        long => {
            let times = usize::try_from(long["times"].as_u64().unwrap()).unwrap();
            format!("{}{}", long["repeat_of"].as_str().unwrap(), long["then"].as_str().unwrap().repeat(times))
        }
    }
}

#[tokio::test]
async fn every_url_of_the_target_list_is_judged_as_listed() {
    let (policy, table) = (policy(), Table(vectors()["names"].clone()));
    let cases = vectors()["urls"].as_array().unwrap().clone();
    assert_eq!(cases.len(), 141);
    for case in cases {
        let url = written(&case);
        let verdict = judge(&policy, &url, &table).await;
        if case["allowed"] == true {
            let (target, addresses) = verdict.unwrap_or_else(|why| panic!("{url}: refused: {why}"));
            assert_eq!(target.host(), case["host_after_parsing"].as_str().unwrap(), "{url}");
            let expected = case["connect_only_to"].as_array().unwrap().iter();
            let expected: Vec<IpAddr> = expected.map(|a| a.as_str().unwrap().parse().unwrap()).collect();
            assert_eq!(addresses, expected, "{url}");
        } else {
            let why = verdict.expect_err(&url);
            assert_eq!(why.word(), case["reason"].as_str().unwrap(), "{url}");
        }
    }
}

#[tokio::test]
async fn look_ups_are_made_once_for_each_attempt_and_never_remembered() {
    let cases = vectors()["look_ups"].as_array().unwrap().clone();
    assert_eq!(cases.len(), 7);
    for case in cases {
        let id = case["id"].as_str().unwrap();
        let script = Script::new(&case["lookups"]);
        let all = script.left();
        let url = format!("https://{}/in", case["name"].as_str().unwrap());
        let first = judge(&policy(), &url, &script).await;
        assert_eq!(all - script.left(), 1, "{id}: one look-up for one attempt");
        match case["result"].as_str().unwrap() {
            "connect" => assert_eq!(first.unwrap().1[0].to_string(), case["connect_to"].as_str().unwrap(), "{id}"),
            "refused" => assert_eq!(first.unwrap_err().word(), case["reason"].as_str().unwrap(), "{id}"),
            "second_attempt_refused" => {
                first.unwrap();
                let second = judge(&policy(), &url, &script).await;
                assert_eq!(second.unwrap_err().word(), case["reason"].as_str().unwrap(), "{id}");
            }
            other => panic!("{id}: unknown result {other}"),
        }
    }
}

#[test]
fn built_in_lists_are_those_of_the_policy() {
    let v = &vectors()["policy"];
    let metadata: Vec<String> = METADATA.iter().map(ToString::to_string).collect();
    assert_eq!(serde_json::json!(metadata), v["metadata_addresses"]);
    assert_eq!(serde_json::json!(SPECIAL_NAMES), v["refused_name_endings"]);
    assert_eq!(v["max_length"], MAX_LENGTH);
    let default: Vec<u16> = TargetPolicy::default().ports.into_iter().collect();
    assert_eq!(serde_json::json!(default), v["ports"]);
}

#[track_caller]
fn check_text(policy: &TargetPolicy, url: &str, expect: Result<(), &str>) {
    assert_eq!(policy.check_text(url).map(|_| ()).map_err(Refusal::word), expect, "{url}");
}

#[test]
fn allow_insecure_opens_the_networks_of_development_and_nothing_else() {
    let insecure = TargetPolicy { allow_insecure: true, ..policy() };
    for open in [
        "http://localhost:8080/in",
        "http://127.0.0.1:1/",
        "https://127.0.0.1:9443/",
        "http://[::1]:80/",
        "http://10.0.0.1/",
        "http://192.168.1.2:3000/x?y=1",
        "http://[fd12::1]/",
        "http://gateway/",
        "http://host.docker.internal:8080/",
        "http://100.64.0.1/",
        "http://203.0.113.7/",
        "http://hub.example/",
        "http://89.64.10.20/",
        "https://hooks.shop.example/in",
    ] {
        check_text(&insecure, open, Ok(()));
    }
    check_text(&insecure, "http://user@localhost/", Err("userinfo"));
    check_text(&insecure, "http://@localhost/", Err("userinfo"));
    check_text(&insecure, "http://localhost/\r\nX: 1", Err("bad_characters"));
    check_text(&insecure, "http://localhost\\@127.0.0.1/", Err("bad_characters"));
    check_text(&insecure, "http://localhost/#x", Err("fragment"));
    check_text(&insecure, "http://localhost:0/", Err("port"));
    check_text(&insecure, "ftp://localhost/", Err("scheme"));
    check_text(&insecure, "file:///etc/passwd", Err("scheme"));
    check_text(&insecure, "http://169.254.169.254/latest/", Err("metadata"));
    check_text(&insecure, "http://[::ffff:169.254.169.254]/", Err("metadata"));
    check_text(&insecure, "http://168.63.129.16/", Err("metadata"));
    check_text(&insecure, "http://224.0.0.1/", Err("multicast"));
    check_text(&insecure, "http://0.0.0.0/", Err("this_network"));
}

#[test]
fn empty_user_names_are_seen_however_many_slashes_precede_them() {
    for url in ["https:@127.0.0.1/", "https:/@127.0.0.1/", "https:///@93.184.215.14/", "https://:@93.184.215.14/"] {
        check_text(&policy(), url, Err("userinfo"));
    }
    check_text(&policy(), "https://hooks.shop.example/a@b", Ok(()));
}

#[test]
fn names_with_empty_labels_are_refused() {
    check_text(&policy(), "https://hooks.shop.example../", Err("unparseable"));
    check_text(&policy(), "https://./", Err("unparseable"));
}

#[test]
fn the_operators_list_refuses_also_what_allow_insecure_would_open() {
    let extra_denied = vec!["10.9.0.0/16".parse().unwrap(), "2606:2800::/32".parse().unwrap()];
    let policy = TargetPolicy { allow_insecure: true, extra_denied, ..TargetPolicy::default() };
    check_text(&policy, "https://10.8.255.255/", Ok(()));
    check_text(&policy, "https://10.9.0.1/", Err("denied"));
    check_text(&policy, "https://[::ffff:10.9.0.1]/", Err("denied"));
    check_text(&policy, "https://[2606:2800:21f::1]/", Err("denied"));
}

#[test]
fn networks_are_read_strictly() {
    assert!("0.0.0.0/0".parse::<Network>().unwrap().contains([8, 8, 8, 8].into()));
    assert!("::/0".parse::<Network>().unwrap().contains(Ipv6Addr::LOCALHOST.into()));
    assert!(!"192.0.2.1".parse::<Network>().unwrap().contains([192, 0, 2, 2].into()));
    for bad in ["", "10.0.0.0/33", "::/129", "10.0.0.0/", "10.0.0.0/-1", "example.com/8", "10.0.0.0/8/8"] {
        assert_eq!(bad.parse::<Network>(), Err(BadNetwork), "{bad}");
    }
}

#[test]
fn debug_of_a_target_shows_neither_path_nor_query() {
    let target = policy().check_text("https://hooks.shop.example/key-1?token=t0k3n").unwrap();
    assert_eq!(format!("{target:?}"), "https://hooks.shop.example:443");
}

static POLICY: LazyLock<TargetPolicy> = LazyLock::new(policy);

proptest! {
    #[test]
    fn no_text_makes_the_check_panic(text in "(https://)?[\\PC]{0,40}") {
        let _ = POLICY.check_text(&text);
    }

    #[test]
    fn every_spelling_of_a_private_address_is_seen(a in 0u8..=255, b in 0u8..=255, c in 0u8..=255) {
        let n = u32::from_be_bytes([10, a, b, c]);
        for host in [format!("{n}"), format!("{n:#x}"), format!("012.{a:#o}.{b}.{c}").replace("0o", "0")] {
            prop_assert_eq!(POLICY.check_text(&format!("https://{host}/")).unwrap_err(), Refusal::Private);
        }
    }
}

/// A system that never answers for names that begin with `dead`, until it is let go; and how many it is asked for.
struct DeadNames {
    asked: Arc<AtomicUsize>,
    /// Lets all go when it is dropped.
    _held: std::sync::mpsc::Sender<()>,
}

fn dead_names(limit: Duration) -> (DeadNames, SystemResolver) {
    let (held, end) = std::sync::mpsc::channel();
    let (end, asked) = (Mutex::new(end), Arc::new(AtomicUsize::new(0)));
    let count = Arc::clone(&asked);
    let resolver = SystemResolver::with(limit, move |name| {
        if name.starts_with("dead") {
            count.fetch_add(1, Ordering::SeqCst);
            let _ = end.lock().unwrap().recv();
        }
        Ok(vec![Ipv4Addr::new(192, 0, 2, 1).into(); 2])
    });
    (DeadNames { asked, _held: held }, resolver)
}

// F35: whoever asks for a name that does not answer waits within his limit; all together hold one thread.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_name_holds_one_thread() {
    let (dead, resolver) = dead_names(Duration::from_millis(20));
    for _ in 0..20 {
        assert_eq!(resolver.resolve("dead.example").await, Err(ResolveError::Failed));
    }
    assert_eq!(dead.asked.load(Ordering::SeqCst), 1);
    let patient = SystemResolver { limit: Duration::from_secs(60), ..resolver };
    let found = patient.resolve("alive.example").await;
    assert_eq!(found, Ok(vec![Ipv4Addr::new(192, 0, 2, 1).into()]), "another name is looked up at once");
    drop(dead);
    assert!(patient.resolve("dead.example").await.is_ok(), "it answers again");
}

// F35: dead names without end hold so many threads; another resolver does not know of them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_names_hold_so_many_threads() {
    let (dead, resolver) = dead_names(Duration::from_millis(500));
    let mut asked = tokio::task::JoinSet::new();
    for n in 0..4 * LOOK_UPS {
        let resolver = resolver.clone();
        asked.spawn(async move { resolver.resolve(&format!("dead{n}.example")).await });
    }
    while let Some(found) = asked.join_next().await {
        assert_eq!(found.unwrap(), Err(ResolveError::Failed));
    }
    assert!((1..=LOOK_UPS).contains(&dead.asked.load(Ordering::SeqCst)));
    let (_, other) = dead_names(Duration::from_secs(60));
    assert!(other.resolve("alive.example").await.is_ok());
}
