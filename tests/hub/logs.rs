//! The log's reader is slow, stopped or gone, or its disk is full (F60): requests go on, lines are dropped and counted.

use std::fs::File;
use std::io::Read;
use std::process::Stdio;

use tokio::task::JoinSet;

use crate::harness::{KEY, TempDir, client};
use crate::program::Program;
use crate::scene::Scene;

const DROPPED: &str = "grosz_log_dropped_total ";

fn loud(dir: &TempDir) -> Program {
    Program::new(&format!("sqlite:{}", dir.path().join("hub.db").display())).with("log", "trace")
}

/// Calls the hub so often that its log is some times as long as what waits for a reader; all are answered.
async fn call_often(program: &Program) {
    let http = client();
    for _ in 0..125 {
        let mut calls = JoinSet::new();
        for _ in 0..40 {
            let call = http.get(format!("{}/v1/payments", program.url)).bearer_auth(KEY).send();
            calls.spawn(call);
        }
        while let Some(answer) = calls.join_next().await {
            assert_eq!(answer.unwrap().expect("an answer").status(), 200);
        }
    }
}

// F60
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_nobody_reads_holds_nobody_up() {
    let dir = TempDir::new();
    let mut program = loud(&dir);
    program.start_with(Stdio::piped());
    program.answers().await;
    let mut scene = Scene::set(&format!("sqlite:{}", dir.path().join("hub.db").display()), &[&program.url]).await;
    scene.pay("1/2026").await;
    call_often(&program).await;
    scene.finish().await;
    scene.check().await;
    assert!(program.counter(DROPPED).await > 0);
    // Whoever comes to read after all is told, and the last lines are there.
    let mut log = program.piped_log().expect("a pipe");
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        log.read_to_string(&mut text).map(|_| text)
    });
    program.signal("TERM");
    assert!(program.ended_well());
    let text = reader.join().unwrap().unwrap();
    assert!(text.contains("log lines were dropped"));
    assert!(text.contains("Grosz stopped"), "{}", &text[text.len().saturating_sub(2000)..]);
}

// F60
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_on_a_full_disk_stops_nothing() {
    let dir = TempDir::new();
    let mut program = loud(&dir);
    program.start_with(File::options().write(true).open("/dev/full").expect("/dev/full").into());
    program.answers().await;
    let mut scene = Scene::set(&format!("sqlite:{}", dir.path().join("hub.db").display()), &[&program.url]).await;
    for n in 0..5 {
        scene.pay(&format!("{n}/2026")).await;
    }
    call_often(&program).await;
    scene.finish().await;
    scene.check().await;
    assert!(program.counter(DROPPED).await > 0);
    program.signal("TERM");
    assert!(program.ended_well());
}

// F60: the last words of a program that cannot start are for a person.
#[test]
fn why_it_did_not_start_is_said_before_the_end() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let dir = TempDir::new();
    let mut program = loud(&dir).with("listen", &taken.local_addr().expect("its address").to_string());
    program.start_with(Stdio::piped());
    let mut text = String::new();
    program.piped_log().expect("a pipe").read_to_string(&mut text).expect("text");
    assert!(!program.ended_well());
    let last = text.lines().last().unwrap_or_default();
    assert!(last.starts_with("grosz: listen: "), "{text}");
}
