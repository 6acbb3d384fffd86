//! What befalls SQLite's files from outside: a backup is restored beside the log of a hub that was killed, the database is
//! moved away, another program keeps it locked.

use std::path::Path;
use std::time::{Duration, Instant};

use grosz::app::App;
use grosz::clock::Clock;
use grosz::config::{Config, Hidden};
use rusqlite::Connection;
use serde_json::json;

use crate::harness::{Engine, Hub, KEY, TempDir, add_merchant, client};
use crate::program::{Program, until};

fn path_of(hub: &Hub) -> &Path {
    Path::new(hub.app.config.database_url.0.trim_start_matches("sqlite:"))
}

fn anna() -> serde_json::Value {
    json!({"name": "Anna", "email": "anna@kancelaria.example"})
}

/// Adds so many experts through a program.
async fn add_experts(program: &Program, count: usize) {
    for _ in 0..count {
        let asked = client().post(format!("{}/v1/experts", program.url)).bearer_auth(KEY);
        let asked = asked.header("content-type", "application/json").body(anna().to_string());
        assert_eq!(asked.send().await.unwrap().status(), 201);
    }
}

// F52
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backup_beside_the_log_of_another_database_is_refused() {
    let dir = TempDir::new();
    let (path, backup) = (dir.path().join("hub.db"), dir.path().join("backup.db"));
    let (log, index) = (dir.path().join("hub.db-wal"), dir.path().join("hub.db-shm"));
    let database = format!("sqlite:{}", path.display());
    let mut first = Program::new(&database);
    first.start();
    first.answers().await;
    let config = Config { database_url: Hidden(database.clone()), ..Config::default() };
    let app = App::open(config, Clock::System).await.unwrap();
    add_merchant(&app, "Kancelaria", KEY).await;
    app.store.close().await;
    add_experts(&first, 1).await;
    let copy = format!("VACUUM INTO '{}'", backup.display());
    Connection::open(&path).unwrap().execute_batch(&copy).unwrap();
    add_experts(&first, 20).await;
    first.kill();
    assert!(std::fs::metadata(&log).unwrap().len() > 0, "the log is empty: this test shows nothing");

    // Killed, and nothing was restored: the log is its own.
    let mut again = Program::new(&database);
    again.start();
    again.answers().await;
    add_experts(&again, 1).await;
    again.kill();

    let as_it_was = std::fs::read(&backup).unwrap();
    std::fs::write(&path, &as_it_was).unwrap();
    let mut restored = Program::new(&database);
    restored.start();
    let said = async || restored.log().contains("grosz: ");
    until("it starts or refuses to", async || said().await || restored.get("/healthz").await.is_some()).await;
    let log_text = restored.log();
    assert!(log_text.contains("hub.db-wal is the log of another database"), "{log_text}");
    assert!(!restored.ended_well());
    assert_eq!(std::fs::read(&path).unwrap(), as_it_was, "nothing was done to the backup");

    std::fs::remove_file(&log).unwrap();
    std::fs::remove_file(&index).unwrap();
    let mut restored = Program::new(&database);
    restored.start();
    restored.answers().await;
    assert_eq!(restored.get("/readyz").await.unwrap().0, 200);
    let whole = Connection::open(&path).unwrap();
    let answer: String = whole.query_row("PRAGMA integrity_check", (), |row| row.get(0)).unwrap();
    let experts: i64 = whole.query_row("SELECT COUNT(*) FROM experts", (), |row| row.get(0)).unwrap();
    assert_eq!((answer.as_str(), experts), ("ok", 1));
}

// F52: what is written to a file that nobody will find again is lost with the process.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_was_moved_away_takes_no_writes() {
    let hub = Hub::start(Engine::Sqlite).await;
    hub.get("/readyz").await.expect(200);
    let (path, elsewhere) = (path_of(&hub), hub.dir.path().join("elsewhere.db"));
    std::fs::rename(path, &elsewhere).unwrap();
    let ready = hub.get("/readyz").await.expect(503);
    assert!(ready.text().contains("its file was moved or deleted"), "{}", ready.text());
    let refused = hub.post("/v1/experts", anna()).await.expect(503);
    assert!(refused.header("retry-after").is_some());
    // Another file in its place is another database.
    std::fs::copy(&elsewhere, path).unwrap();
    hub.get("/readyz").await.expect(503);
    std::fs::rename(&elsewhere, path).unwrap();
    hub.get("/readyz").await.expect(200);
    hub.post("/v1/experts", anna()).await.expect(201);
}

// F54
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_of_another_program_is_named_and_waited_for_once() {
    let hub = Hub::start_with(Engine::Sqlite, |c| c.db_wait_s = 1).await;
    let other = Connection::open(path_of(&hub)).unwrap();
    other.execute_batch("BEGIN IMMEDIATE").unwrap();
    let began = Instant::now();
    let refused = hub.post("/v1/experts", anna()).await.expect(503);
    assert!(refused.header("retry-after").is_some());
    let took = began.elapsed();
    assert!(took < Duration::from_secs(4), "{took:?}");
    let ready = hub.get("/readyz").await.expect(503);
    assert!(ready.text().contains("it is locked by another program"), "{}", ready.text());
    other.execute_batch("ROLLBACK").unwrap();
    hub.get("/readyz").await.expect(200);
    hub.post("/v1/experts", anna()).await.expect(201);
}
