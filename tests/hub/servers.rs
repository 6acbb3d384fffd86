//! PostgreSQL servers of a story's own, to be stopped and promoted; PgBouncer; a gate on the way to a server.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection, Row as _};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;

use crate::cluster::{self, required};
use crate::harness::TempDir;
use crate::program::{free_port, signal, until};

/// A server with a data directory of its own.
pub struct Server {
    /// Its port on the loopback address.
    pub port: u16,
    bin: PathBuf,
    dir: TempDir,
    options: Vec<String>,
    child: Option<Child>,
}

impl Server {
    /// A new server, running; `None` where PostgreSQL is not installed (said aloud by [`cluster::cluster`]).
    pub async fn start(options: &[&str]) -> Option<Server> {
        let bin = cluster::cluster()?.bin().to_owned();
        let dir = Server::directory();
        let mut server = Server { port: free_port(), bin, dir, options: owned(options), child: None };
        let data = server.data();
        server.tool("initdb", &["-D", &data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale"]);
        server.up().await;
        Some(server)
    }

    /// A copy that follows this server, caught up and in step.
    pub async fn standby(&self, options: &[&str]) -> Server {
        let standby = Server {
            port: free_port(),
            bin: self.bin.clone(),
            dir: Server::directory(),
            options: owned(options),
            child: None,
        };
        let (from, to) = (self.port.to_string(), standby.data());
        let args = ["-h", "127.0.0.1", "-p", &from, "-U", "postgres", "-D", &to, "-R", "-c", "fast", "-X", "stream"];
        standby.tool("pg_basebackup", &args);
        let mut standby = standby;
        standby.up().await;
        until("the standby is in step", async || {
            let rows = rows(&self.url("postgres"), "SELECT sync_state FROM pg_stat_replication").await;
            rows.is_ok_and(|r| r == ["sync"])
        })
        .await;
        standby
    }

    /// Starts it and waits until it answers.
    pub async fn up(&mut self) {
        let log = File::options().create(true).append(true).open(self.dir.path().join("log")).expect("a log");
        let mut command = self.as_its_owner("postgres");
        let sockets = self.dir.path().display().to_string();
        command.args(["-D", &self.data(), "-h", "127.0.0.1", "-p", &self.port.to_string(), "-k", &sockets]);
        command.args(["-c", "max_connections=200"]);
        for option in &self.options {
            command.args(["-c", option]);
        }
        self.child = Some(command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("it starts"));
        let url = self.url("postgres");
        until("the server answers", async || rows(&url, "SELECT 1").await.is_ok()).await;
    }

    /// Stops it: `INT` is the fast way, `QUIT` the immediate one, which is a crash.
    pub fn stop(&mut self, how: &str) {
        if let Some(mut child) = self.child.take() {
            signal(child.id(), how);
            child.wait().expect("it is gone");
        }
    }

    /// Sets the options of the next start.
    pub fn set_options(&mut self, options: &[&str]) {
        self.options = owned(options);
    }

    /// The address of one of its databases.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }

    fn data(&self) -> String {
        self.dir.path().join("data").display().to_string()
    }

    fn directory() -> TempDir {
        let dir = TempDir::new();
        give_to_owner(dir.path());
        dir
    }

    fn tool(&self, name: &str, args: &[&str]) {
        let done = self.as_its_owner(name).args(args).output().expect("it runs");
        assert!(done.status.success(), "{name}: {}", String::from_utf8_lossy(&done.stderr));
    }

    fn as_its_owner(&self, name: &str) -> Command {
        as_owner(&self.bin.join(name), self.dir.path())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop("QUIT");
    }
}

/// PgBouncer in transaction mode before a server.
pub struct Pooler {
    /// Its port on the loopback address.
    pub port: u16,
    dir: TempDir,
    child: Option<Child>,
}

impl Pooler {
    /// A pooler before the server on `port`, running; `None` where it is not installed, said aloud.
    pub async fn start(server: u16, connections: u32) -> Option<Pooler> {
        if !Path::new(PGBOUNCER).is_file() {
            assert!(!required("pgbouncer"), "GROSZ_TEST_REQUIRE names pgbouncer, and it is not installed");
            eprintln!("LEFT OUT: tests behind PgBouncer (not found; install Debian's package pgbouncer)");
            return None;
        }
        let (port, dir) = (free_port(), TempDir::new());
        let at = dir.path().display();
        let settings = format!(
            "[databases]\n* = host=127.0.0.1 port={server} user=postgres\n[pgbouncer]\nlisten_addr=127.0.0.1\n\
             listen_port={port}\nunix_socket_dir=\nauth_type=trust\nauth_file={at}/users\npool_mode=transaction\n\
             default_pool_size={connections}\nmax_client_conn=500\nserver_login_retry=1\nlogfile={at}/log\n"
        );
        std::fs::write(dir.path().join("pgbouncer.ini"), settings).expect("its settings");
        std::fs::write(dir.path().join("users"), "\"postgres\" \"\"\n").expect("its users");
        give_to_owner(dir.path());
        let mut pooler = Pooler { port, dir, child: None };
        pooler.up().await;
        Some(pooler)
    }

    /// Starts it and waits until it answers.
    pub async fn up(&mut self) {
        let mut command = as_owner(Path::new(PGBOUNCER), self.dir.path());
        command.arg("-q").arg(self.dir.path().join("pgbouncer.ini"));
        self.child = Some(command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts"));
        let url = self.url("postgres");
        until("PgBouncer answers", async || rows(&url, "SELECT 1").await.is_ok()).await;
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("it can be killed");
            child.wait().expect("it is gone");
        }
    }

    /// The address of a database behind it.
    pub fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        self.kill();
    }
}

const PGBOUNCER: &str = "/usr/sbin/pgbouncer";

/// A gate on the way to a server: whatever says `word` waits before it until the gate is opened, or its answer waits
/// behind it.
pub struct Gate {
    /// Its address.
    pub url: String,
    held: Arc<AtomicUsize>,
    open: watch::Sender<bool>,
}

impl Gate {
    /// A gate before `upstream`, closed.
    pub async fn before(upstream: std::net::SocketAddr, word: &'static str) -> Gate {
        Gate::at(upstream, word, false).await
    }

    /// A gate behind `upstream`, closed: what says the word goes through, and nothing comes back.
    pub async fn behind(upstream: std::net::SocketAddr, word: &'static str) -> Gate {
        Gate::at(upstream, word, true).await
    }

    async fn at(upstream: std::net::SocketAddr, word: &'static str, is_behind: bool) -> Gate {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let url = format!("http://{}", listener.local_addr().expect("its address"));
        let (open, opened) = watch::channel(false);
        let held = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&held);
        tokio::spawn(async move {
            while let Ok((from, _)) = listener.accept().await {
                tokio::spawn(pass(from, upstream, word, is_behind, opened.clone(), Arc::clone(&count)));
            }
        });
        Gate { url, held, open }
    }

    /// How many have waited here so far.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::SeqCst)
    }

    /// Holds whatever says the word, from now on.
    pub fn close(&self) {
        self.open.send_replace(false);
    }

    /// Lets all through, from now on.
    pub fn open(&self) {
        self.open.send_replace(true);
    }
}

async fn pass(
    mut from: TcpStream,
    upstream: std::net::SocketAddr,
    word: &str,
    is_behind: bool,
    mut opened: watch::Receiver<bool>,
    held: Arc<AtomicUsize>,
) {
    let Ok(mut to) = TcpStream::connect(upstream).await else { return };
    let ((mut from, mut back), (mut answers, mut onward)) = (from.split(), to.split());
    let (is_silent, mut heard) = (AtomicBool::new(false), opened.clone());
    let forth = async {
        let mut part = vec![0; 64 * 1024];
        while let Ok(n @ 1..) = from.read(&mut part).await {
            if !*opened.borrow() && String::from_utf8_lossy(&part[..n]).contains(word) {
                held.fetch_add(1, Ordering::SeqCst);
                is_silent.store(true, Ordering::SeqCst);
                if !is_behind {
                    let _ = opened.wait_for(|open| *open).await;
                }
            }
            if onward.write_all(&part[..n]).await.is_err() {
                return;
            }
        }
        let _ = onward.shutdown().await;
    };
    let return_way = async {
        let mut part = vec![0; 64 * 1024];
        while let Ok(n @ 1..) = answers.read(&mut part).await {
            if is_silent.load(Ordering::SeqCst) {
                let _ = heard.wait_for(|open| *open).await;
            }
            if back.write_all(&part[..n]).await.is_err() {
                return;
            }
        }
    };
    tokio::join!(forth, return_way);
}

/// The first column of what a statement answers.
pub async fn rows(url: &str, sql: &str) -> sqlx::Result<Vec<String>> {
    let mut connection = PgConnection::connect_with(&PgConnectOptions::from_str(url)?.extra_float_digits(None)).await?;
    let found = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).fetch_all(&mut connection).await?;
    connection.close().await?;
    found.iter().map(|row| Ok(row.try_get_unchecked::<Option<String>, _>(0)?.unwrap_or_default())).collect()
}

/// PostgreSQL and PgBouncer refuse root, so root becomes the user that the package made.
fn as_owner(program: &Path, dir: &Path) -> Command {
    let Some(owner) = owner() else {
        let mut command = Command::new(program);
        command.current_dir(dir);
        return command;
    };
    let mut command = Command::new("setpriv");
    command.args([&format!("--reuid={owner}"), &format!("--regid={owner}"), "--clear-groups"]);
    command.arg(program).current_dir(dir);
    command
}

fn give_to_owner(dir: &Path) {
    if let Some(owner) = owner() {
        let given = Command::new("chown").arg("-R").arg(format!("{owner}:{owner}")).arg(dir).status();
        assert!(given.is_ok_and(|s| s.success()), "chown {owner}");
    }
}

fn owner() -> Option<&'static str> {
    let id = Command::new("id").arg("-u").output().expect("id runs");
    (String::from_utf8_lossy(&id.stdout).trim() == "0").then_some("postgres")
}

fn owned(options: &[&str]) -> Vec<String> {
    options.iter().map(|o| (*o).to_owned()).collect()
}
