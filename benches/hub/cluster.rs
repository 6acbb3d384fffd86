//! The databases: a SQLite file, or a throw-away PostgreSQL cluster with everything durable.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::str::FromStr;
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions, Row};

use crate::child::{Child, SlowFlush, Start, free_port};

/// SQLite or PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Engine {
    /// A file beside the hub.
    Sqlite,
    /// A cluster of its own.
    Postgres,
}

impl Engine {
    /// For tables.
    pub fn name(self) -> &'static str {
        match self {
            Engine::Sqlite => "sqlite",
            Engine::Postgres => "postgres",
        }
    }
}

/// Where databases are made.
pub struct Site {
    room: PathBuf,
    cluster: Option<Cluster>,
    made: u32,
}

struct Cluster {
    child: Child,
    command: Vec<String>,
    slow: Option<SlowFlush>,
    bin: PathBuf,
    port: u16,
}

impl Site {
    /// Starts the cluster, if it takes one; `None` where PostgreSQL is not installed, said aloud.
    pub fn open(engine: Engine, room: &Path, slow: Option<&SlowFlush>, locale: &str) -> Option<Site> {
        let cluster = match engine {
            Engine::Sqlite => None,
            Engine::Postgres => Some(Cluster::start(room, slow, locale)?),
        };
        Some(Site { room: room.to_owned(), cluster, made: 0 })
    }

    /// The address of a new, empty database.
    pub fn database(&mut self) -> String {
        self.made += 1;
        match &self.cluster {
            None => format!("sqlite:{}", self.room.join(format!("db{}.sqlite", self.made)).display()),
            Some(cluster) => {
                let name = format!("bench_{}", self.made);
                assert!(cluster.createdb(&name), "createdb {name}");
                format!("postgres://postgres@127.0.0.1:{}/{name}", cluster.port)
            }
        }
    }

    /// PostgreSQL's first process.
    pub fn server(&self) -> Option<u32> {
        self.cluster.as_ref().map(|c| c.child.pid)
    }

    /// Starts PostgreSQL again after it was killed.
    pub fn start_again(&mut self) {
        if let Some(cluster) = &mut self.cluster {
            let log = cluster.child.log.clone();
            cluster.child = Cluster::start_server(&cluster.command, cluster.slow.as_ref(), log);
            cluster.wait();
        }
    }
}

const INITDB: &str = r#"
set -e
mkdir -p "$DIR"; chmod 700 "$DIR"; cd "$DIR"
as=""
if [ "$(id -u)" = 0 ]; then
    owner=postgres; id -u postgres >/dev/null 2>&1 || owner=nobody
    as="setpriv --reuid=$owner --regid=$(id -g "$owner") --clear-groups"
    chown "$owner" "$DIR"
fi
$as "$BIN/initdb" -D "$DIR/data" -U postgres -A trust -E UTF8 --locale="$LOCALE" >&2
echo "$as"
"#;

/// As an operator sets up a small server. Durability stays as it is by default: on.
const SETTINGS: &[&str] =
    &["max_connections=200", "shared_buffers=512MB", "max_wal_size=4GB", "checkpoint_timeout=15min"];

impl Cluster {
    fn start(room: &Path, slow: Option<&SlowFlush>, locale: &str) -> Option<Cluster> {
        let Some(bin) = binaries() else {
            println!("LEFT OUT: PostgreSQL (no server found; install Debian's package postgresql)");
            return None;
        };
        let (dir, port) = (room.join("pg"), free_port());
        let mut initdb = Command::new("sh");
        initdb.args(["-c", INITDB]).env("BIN", &bin).env("DIR", &dir).env("LOCALE", locale);
        let made = initdb.output().expect("sh runs");
        assert!(made.status.success(), "initdb: {}", String::from_utf8_lossy(&made.stderr));
        // The user that initdb ran as, if root had to become another one.
        let other = String::from_utf8_lossy(&made.stdout);
        let mut command: Vec<String> = other.split_whitespace().map(str::to_owned).collect();
        let text = |path: PathBuf| path.display().to_string();
        command.extend([text(bin.join("postgres")), "-D".into(), text(dir.join("data")), "-h".into()]);
        command.extend(["127.0.0.1".into(), "-p".into(), port.to_string(), "-k".into(), text(dir)]);
        command.extend(SETTINGS.iter().flat_map(|s| ["-c".into(), (*s).into()]));
        let child = Cluster::start_server(&command, slow, room.join("postgres.log"));
        let cluster = Cluster { child, command, slow: slow.cloned(), bin, port };
        cluster.wait();
        Some(cluster)
    }

    fn start_server(command: &[String], slow: Option<&SlowFlush>, log: PathBuf) -> Child {
        Child::start(Start { command, env: &[], slow, log, signal: "QUIT" })
    }

    /// Until it takes connections.
    fn wait(&self) {
        let began = Instant::now();
        while !self.is_ready() {
            assert!(self.child.lives(), "PostgreSQL did not start:\n{}", self.child.last_words());
            assert!(began.elapsed() < Duration::from_secs(60), "PostgreSQL did not answer within a minute");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn is_ready(&self) -> bool {
        let mut command = Command::new(self.bin.join("pg_isready"));
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string()]);
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().is_ok_and(|s| s.success())
    }

    fn createdb(&self, name: &str) -> bool {
        let mut command = Command::new(self.bin.join("createdb"));
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-U", "postgres", name]);
        command.stderr(Stdio::null()).status().is_ok_and(|s| s.success())
    }
}

fn binaries() -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|dirs| dirs.flatten().map(|d| d.path().join("bin")).collect())
        .unwrap_or_default();
    found.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    found.extend(std::env::split_paths(&path));
    let has_server =
        |bin: &PathBuf| ["initdb", "postgres", "createdb", "pg_isready"].iter().all(|tool| bin.join(tool).is_file());
    found.into_iter().rev().find(has_server)
}

/// Our own eyes on a database: to seed it before a measurement and to count afterwards.
pub enum Db {
    /// A file.
    Sqlite(SqliteConnection),
    /// A database of the cluster.
    Postgres(PgConnection),
}

impl Db {
    /// Opens one.
    pub async fn open(url: &str) -> Db {
        if url.starts_with("postgres") {
            let options = PgConnectOptions::from_str(url).expect("an address").disable_statement_logging();
            return Db::Postgres(options.connect().await.expect("PostgreSQL answers"));
        }
        let options = SqliteConnectOptions::from_str(url).expect("an address").create_if_missing(true);
        let options = options.journal_mode(SqliteJournalMode::Wal).synchronous(SqliteSynchronous::Full);
        let options = options.busy_timeout(Duration::from_secs(30)).disable_statement_logging();
        Db::Sqlite(options.connect().await.expect("SQLite opens"))
    }

    /// Runs statements without arguments.
    pub async fn run(&mut self, sql: &str) {
        let text = AssertSqlSafe(sql.to_owned());
        let done = match self {
            Db::Sqlite(c) => sqlx::raw_sql(text).execute(c).await.map(|_| ()),
            Db::Postgres(c) => sqlx::raw_sql(text).execute(c).await.map(|_| ()),
        };
        done.unwrap_or_else(|e| panic!("{e}: {sql}"));
    }

    /// One number.
    pub async fn number(&mut self, sql: &str) -> i64 {
        let text = AssertSqlSafe(sql.to_owned());
        let number = match self {
            Db::Sqlite(c) => sqlx::raw_sql(text).fetch_one(c).await.and_then(|r| r.try_get(0)),
            Db::Postgres(c) => sqlx::raw_sql(text).fetch_one(c).await.and_then(|r| r.try_get(0)),
        };
        number.unwrap_or_else(|e| panic!("{e}: {sql}"))
    }

    /// One text.
    pub async fn text(&mut self, sql: &str) -> String {
        let text = AssertSqlSafe(sql.to_owned());
        let text = match self {
            Db::Sqlite(c) => sqlx::raw_sql(text).fetch_one(c).await.and_then(|r| r.try_get(0)),
            Db::Postgres(c) => sqlx::raw_sql(text).fetch_one(c).await.and_then(|r| r.try_get(0)),
        };
        text.unwrap_or_else(|e| panic!("{e}: {sql}"))
    }

    /// The first column of all rows.
    pub async fn texts(&mut self, sql: &str) -> Vec<String> {
        let text = AssertSqlSafe(sql.to_owned());
        let texts = match self {
            Db::Sqlite(c) => {
                let rows = sqlx::raw_sql(text).fetch_all(c).await;
                rows.and_then(|rows| rows.iter().map(|r| r.try_get(0)).collect())
            }
            Db::Postgres(c) => {
                let rows = sqlx::raw_sql(text).fetch_all(c).await;
                rows.and_then(|rows| rows.iter().map(|r| r.try_get(0)).collect())
            }
        };
        texts.unwrap_or_else(|e| panic!("{e}: {sql}"))
    }

    /// The columns of a table, in order.
    pub async fn columns(&mut self, table: &str) -> Vec<String> {
        let text = |sql: String| AssertSqlSafe(sql);
        let names = match self {
            Db::Sqlite(c) => {
                let sql = format!("SELECT name FROM pragma_table_info('{table}') ORDER BY cid");
                let rows = sqlx::raw_sql(text(sql)).fetch_all(c).await;
                rows.and_then(|rows| rows.iter().map(|r| r.try_get(0)).collect::<Result<Vec<String>, _>>())
            }
            Db::Postgres(c) => {
                let sql = format!(
                    "SELECT attname::text FROM pg_attribute WHERE attrelid = '{table}'::regclass AND attnum > 0
                     AND NOT attisdropped AND attgenerated = '' ORDER BY attnum"
                );
                let rows = sqlx::raw_sql(text(sql)).fetch_all(c).await;
                rows.and_then(|rows| rows.iter().map(|r| r.try_get(0)).collect::<Result<Vec<String>, _>>())
            }
        };
        names.unwrap_or_else(|e| panic!("columns of {table}: {e}"))
    }

    /// Leaves the database as after a quiet hour: nothing waits for a checkpoint, PostgreSQL has fresh statistics.
    pub async fn settle(&mut self) {
        match self {
            // Nobody analyses a SQLite file in production, and the plans would be others.
            Db::Sqlite(_) => self.run("PRAGMA wal_checkpoint(TRUNCATE)").await,
            Db::Postgres(_) => {
                self.run("VACUUM (ANALYZE)").await;
                self.run("CHECKPOINT").await;
            }
        }
    }

    /// Each engine's spelling.
    pub fn pick<'a>(&self, sqlite: &'a str, postgres: &'a str) -> &'a str {
        match self {
            Db::Sqlite(_) => sqlite,
            Db::Postgres(_) => postgres,
        }
    }
}
