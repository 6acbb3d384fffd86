//! Crowds at the door: half-open connections and slow bodies (F44), a flood of forged webhooks (F48).

use std::time::{Duration, Instant};

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use crate::harness::{KEY, TempDir};
use crate::program::{Program, until};
use crate::scene::Scene;

/// The hub may have this many descriptors, so that far fewer connections than guests fit in.
const DESCRIPTORS: u32 = 700;
const GUESTS: usize = 2000;

/// Forged calls; all hundred thousand where the program is fast.
const FORGED: usize = if cfg!(debug_assertions) { 10_000 } else { 100_000 };

/// How much memory a flood may cost, in KiB.
const GROWTH_KIB: u64 = 24 * 1024;

async fn check_healthy(program: &Program) {
    for _ in 0..5 {
        let began = Instant::now();
        let answer = program.get("/healthz").await;
        assert_eq!(answer.expect("an answer").0, 200);
        assert!(began.elapsed() < Duration::from_secs(1), "{:?}", began.elapsed());
    }
}

// A crowd that comes at once waits at the door: nobody's first packet is dropped, which would cost a second.
#[tokio::test]
async fn a_crowd_that_comes_at_once_finds_the_door_open() {
    let longest =
        std::fs::read_to_string("/proc/sys/net/core/somaxconn").ok().and_then(|text| text.trim().parse().ok());
    let listener = grosz::http::server::listen("127.0.0.1:0").await.unwrap();
    let mut guests = vec![];
    // Nobody accepts them: they all wait.
    for n in 0..longest.unwrap_or(GUESTS).min(GUESTS) {
        let knock = TcpStream::connect(listener.local_addr().unwrap());
        let guest = tokio::time::timeout(Duration::from_secs(20), knock).await;
        guests.push(guest.unwrap_or_else(|_| panic!("guest {n} is not let in")).unwrap());
    }
}

// F44: 2,000 half-open heads and bodies, three times what the hub has places for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn half_open_connections_keep_nobody_out() {
    let dir = TempDir::new();
    let database = format!("sqlite:{}", dir.path().join("hub.db").display());
    let mut program = Program::new(&database).after(&format!("ulimit -n {DESCRIPTORS}"));
    let mut scene = Scene::set(&database, &[&program.url]).await;
    program.start();
    program.answers().await;
    assert!(program.log().contains("limit of open files"), "too few descriptors are said aloud");
    let address = program.url.strip_prefix("http://").unwrap().to_owned();
    // Leaves some of our own descriptors to the other stories.
    let own = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let own = own.lines().find_map(|l| l.strip_prefix("Max open files")?.split_whitespace().next()?.parse().ok());
    let guests = GUESTS.min(own.unwrap_or(GUESTS * 2) / 2);
    let path = scene.hub.webhook_url(&scene.matter.account);
    let path = path.strip_prefix(&program.url).unwrap();
    let mut open = vec![];
    for n in 0..guests {
        let mut guest = TcpStream::connect(&address).await.unwrap();
        let sent = match n % 2 {
            0 => "GET /healthz HTTP/1.1\r\nHost: hub\r\nX-Slow: ".to_owned(),
            _ => format!("POST {path} HTTP/1.1\r\nHost: hub\r\nContent-Length: 1000\r\n\r\nslow"),
        };
        // The hub may have shown this one the door already.
        let _ = guest.write_all(sent.as_bytes()).await;
        open.push(guest);
        if n % 500 == 499 {
            check_healthy(&program).await;
        }
    }
    check_healthy(&program).await;
    scene.pay("1/2026").await;
    let under_way = scene.send_out();
    scene.hear(under_way).await;
    assert_eq!(scene.gateway.acknowledged.len(), 1, "payers are not kept out either");
    drop(open);
}

// F35, F43: many endpoints that take messages in and never answer get a share of the connections, not all of them: others
// are told, invoices are issued, and the hub answers.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn endpoints_that_hang_do_not_take_all_connections() {
    let dir = TempDir::new();
    let database = format!("sqlite:{}", dir.path().join("hub.db").display());
    let mut program =
        Program::new(&database).after("ulimit -n 256").with("tell_timeout_s", "60").with("job_lease_s", "120");
    let mut scene = Scene::set(&database, &[&program.url]).await;
    let hanging = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = hanging.local_addr().unwrap();
    let (count, open) = tokio::sync::watch::channel(0);
    tokio::spawn(async move {
        let mut taken = vec![];
        while let Ok((stream, _)) = hanging.accept().await {
            taken.push(stream);
            count.send_replace(taken.len());
        }
    });
    program.start();
    program.answers().await;
    for n in 0..20 {
        let body = serde_json::json!({"url": format!("http://{address}/{n}"), "types": []}).to_string();
        let add = scene.http.post(format!("{}/v1/webhook-endpoints", program.url)).bearer_auth(KEY);
        assert_eq!(add.header("content-type", "application/json").body(body).send().await.unwrap().status(), 201);
    }
    for n in 0..10 {
        scene.pay(&format!("{n}/2026")).await;
    }
    let under_way = scene.send_out();
    scene.hear(under_way).await;
    until("as many endpoints hang as may", async || *open.borrow() >= 64).await;
    check_healthy(&program).await;
    assert_eq!(program.get("/readyz").await.unwrap().0, 200);
    let files = std::fs::read_dir(format!("/proc/{}/fd", program.pid())).unwrap().count();
    assert!(files < 200, "{files} of 256 are open");
    scene.finish().await;
    let alerts = scene.http.get(format!("{}/v1/alerts", program.url)).bearer_auth(KEY).send().await.unwrap();
    let alerts: serde_json::Value = serde_json::from_str(&alerts.text().await.unwrap()).unwrap();
    assert_eq!(alerts["data"], serde_json::json!([]), "nobody else suffered");
}

// F44: as many connections as one address may have, and no more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_address_has_so_many_connections() {
    let dir = TempDir::new();
    let database = format!("sqlite:{}", dir.path().join("hub.db").display());
    let mut program = Program::new(&database).with("max_connections_per_address", "3");
    program.start();
    program.answers().await;
    let address = program.url.strip_prefix("http://").unwrap().to_owned();
    let mut answered = 0;
    let mut open = vec![];
    for _ in 0..10 {
        let mut guest = TcpStream::connect(&address).await.unwrap();
        let _ = guest.write_all(b"GET /healthz HTTP/1.1\r\nHost: hub\r\n\r\n").await;
        let mut first = [0; 15];
        let read = tokio::io::AsyncReadExt::read_exact(&mut guest, &mut first).await;
        answered += usize::from(read.is_ok() && &first == b"HTTP/1.1 200 OK");
        open.push(guest);
    }
    // The program's own first visitor may still be here.
    assert!((2..=3).contains(&answered), "{answered}");
}

// F48: forged calls, each with another body and signature, cost neither memory nor rows nor log; a payer's call is
// served among them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forged_calls_leave_nothing_behind() {
    let dir = TempDir::new();
    let file = dir.path().join("hub.db");
    let database = format!("sqlite:{}", file.display());
    let mut program = Program::new(&database);
    let mut scene = Scene::set(&database, &[&program.url]).await;
    program.start();
    program.answers().await;
    let address = scene.hub.webhook_url(&scene.matter.account);
    scene.pay("1/2026").await;
    // A real call of the gateway as the pattern: everything is right but the signature.
    forge(&scene.http, &address, 0..1000).await;
    let before = resident_kib(program.pid());
    let half = FORGED / 2;
    forge(&scene.http, &address, 1000..half).await;
    let valid = async {
        let began = Instant::now();
        // A busy machine may turn a call away.
        while scene.gateway.acknowledged.is_empty() {
            let under_way = scene.send_out();
            scene.hear(under_way).await;
        }
        began.elapsed()
    };
    let http = crate::harness::client();
    let ((), took) = tokio::join!(forge(&http, &address, half..FORGED), valid);
    assert_eq!(scene.gateway.acknowledged.len(), 1);
    assert!(took < Duration::from_secs(3), "{took:?}");
    let grown = resident_kib(program.pid()).saturating_sub(before);
    assert!(grown < GROWTH_KIB, "memory grew by {grown} KiB");
    let log = program.log();
    assert!(log.lines().count() < 100, "{} lines of log", log.lines().count());
    let mut tx = scene.hub.store.read().await.unwrap();
    let kept = tx.refusals(&scene.merchant.id, &scene.matter.account.id).await.unwrap();
    assert!((1..=20).contains(&kept.len()), "{} refusals kept", kept.len());
    drop(tx);
    let forged = "grosz_security_events_total{";
    let counted: u64 =
        program.get("/metrics").await.unwrap().1.lines().filter(|l| l.starts_with(forged)).map(last).sum();
    assert_eq!(counted, u64::try_from(FORGED).unwrap(), "each is counted");
    assert!(std::fs::metadata(&file).unwrap().len() < 2 * 1024 * 1024);
    scene.finish().await;
    scene.check().await;
}

/// Sends forged calls, 32 at a time.
async fn forge(http: &reqwest::Client, address: &str, numbers: std::ops::Range<usize>) {
    let mut under_way = JoinSet::new();
    for n in numbers {
        let xml = format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?><transactionList><n>{n}</n></transactionList>");
        let body = format!("transactions={}", base64(xml.as_bytes()));
        let asked = http.post(address).header("content-type", "application/x-www-form-urlencoded").body(body);
        under_way.spawn(async move { asked.send().await.map(|a| a.status().as_u16()) });
        if under_way.len() >= 32 {
            check_refused(under_way.join_next().await);
        }
    }
    while let Some(answer) = under_way.join_next().await {
        check_refused(Some(answer));
    }
}

fn check_refused(answer: Option<Result<reqwest::Result<u16>, tokio::task::JoinError>>) {
    let status = answer.unwrap().unwrap().unwrap();
    assert!((400..500).contains(&status), "{status}");
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    form_urlencoded::byte_serialize(base64::engine::general_purpose::STANDARD.encode(bytes).as_bytes()).collect()
}

fn last(line: &str) -> u64 {
    line.rsplit(' ').next().and_then(|n| n.parse().ok()).unwrap_or(0)
}

fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("a process");
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:")).expect("its memory");
    line.split_whitespace().next().and_then(|n| n.parse().ok()).expect("a number")
}
