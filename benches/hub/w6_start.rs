//! W6: how soon it is ready, and how much memory it takes, idle and with many connections open.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::child::resident_kib;
use crate::load::request;
use crate::report::{Figure, Floor};
use crate::stage::Stage;

const STARTS: usize = 7;
const CONNECTIONS: usize = 512;

/// The hub alone; a database that is set up, as at every start but the first.
pub async fn run(stage: &mut Stage<'_>) {
    let mut times = vec![];
    for _ in 0..STARTS {
        times.push(stage.hub.start(&[]).await.started_in);
    }
    times.sort_unstable();
    let started_ms = times[STARTS / 2].as_secs_f64() * 1000.0;
    let process = stage.hub.start(&[]).await;
    // Idle: its timers have run a few times.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mib = |pid| resident_kib(pid) as f64 / 1024.0;
    let idle = mib(process.child.pid);
    let ask = request("GET", "/healthz", &[], b"");
    let mut open = vec![];
    for _ in 0..CONNECTIONS {
        let mut stream = TcpStream::connect(process.address).await.expect("it accepts");
        stream.write_all(&ask).await.expect("it reads");
        let mut seen = [0; 1024];
        let got = stream.read(&mut seen).await.expect("it answers");
        assert!(seen[..got].starts_with(b"HTTP/1.1 200"), "{}", String::from_utf8_lossy(&seen[..got]));
        open.push(stream);
    }
    let connected = mib(process.child.pid);
    let note = format!("start {started_ms:.0} ms");
    let nothing = Figure { p50_ms: f64::NAN, p99_ms: f64::NAN, ..Figure::default() };
    stage.figure("W6", "hub, idle", Figure { resident_mib: idle, note, ..nothing.clone() });
    stage.figure("W6", &format!("hub, {CONNECTIONS} connections open"), Figure { resident_mib: connected, ..nothing });
    stage.judge("W6 start until ready, ms", started_ms, Floor::Most(100.0));
    stage.judge("W6 resident memory idle, MiB", idle, Floor::Most(20.0));
    stage.judge("W6 resident memory with 512 connections, MiB", connected, Floor::Most(60.0));
}
