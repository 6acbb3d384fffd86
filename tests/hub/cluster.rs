//! A throw-away PostgreSQL cluster: made on first use, one for the test process, gone with it.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// A running cluster.
pub struct Cluster {
    port: u16,
    bin: PathBuf,
    next: AtomicU32,
    // Its standard input ends with this process; the shell then stops the server and removes its directory.
    _keeper: Child,
}

/// The cluster, or `None` where PostgreSQL is not installed; said aloud, and a failure when it is required.
pub fn cluster() -> Option<&'static Cluster> {
    static CLUSTER: OnceLock<Option<Cluster>> = OnceLock::new();
    CLUSTER.get_or_init(start).as_ref()
}

/// True when `GROSZ_TEST_REQUIRE` names `what`.
pub fn required(what: &str) -> bool {
    std::env::var("GROSZ_TEST_REQUIRE").is_ok_and(|list| list.split(',').any(|w| w.trim() == what))
}

impl Cluster {
    /// The address of a new, empty database.
    pub fn database(&self) -> String {
        let name = format!("hub_{}", self.next.fetch_add(1, Ordering::SeqCst));
        let port = self.port.to_string();
        let made = Command::new(self.bin.join("createdb"))
            .args(["-h", "127.0.0.1", "-p", &port, "-U", "postgres", &name])
            .status()
            .expect("createdb runs");
        assert!(made.success(), "createdb {name}");
        format!("postgres://postgres@127.0.0.1:{}/{name}", self.port)
    }

    /// Where PostgreSQL's programs are.
    pub fn bin(&self) -> &Path {
        &self.bin
    }

    /// The server's port on the loopback address.
    pub fn port(&self) -> u16 {
        self.port
    }
}

fn start() -> Option<Cluster> {
    let Some(bin) = binaries() else {
        assert!(!required("postgres"), "GROSZ_TEST_REQUIRE names postgres, and PostgreSQL's server is not installed");
        eprintln!(
            "LEFT OUT: tests on PostgreSQL (no server of version 15 or newer found; install Debian's package postgresql)"
        );
        return None;
    };
    let port = free_port();
    let dir = std::env::temp_dir().join(format!("grosz-pg-{}-{port}", std::process::id()));
    let mut keeper = Command::new("sh")
        .arg("-c")
        .arg(KEEPER)
        .env("BIN", &bin)
        .env("DIR", &dir)
        .env("PORT", port.to_string())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("sh runs");
    let mut line = [0; 6];
    let heard = keeper.stdout.as_mut().map(|out| out.read_exact(&mut line));
    assert!(matches!(heard, Some(Ok(()))) && &line == b"ready\n", "the cluster did not start, see above");
    wait_until_it_answers(&bin, port);
    Some(Cluster { port, bin, next: AtomicU32::new(1), _keeper: keeper })
}

/// initdb refuses root, so root becomes the user that the package made. Durability stays as in production. The
/// server compares texts as a language does unless told otherwise, as many an operator's does.
const KEEPER: &str = r#"
set -e
mkdir -p "$DIR"; chmod 700 "$DIR"; cd "$DIR"
as=""
if [ "$(id -u)" = 0 ]; then
    owner=postgres; id -u postgres >/dev/null 2>&1 || owner=nobody
    as="setpriv --reuid=$owner --regid=$(id -g "$owner") --clear-groups"
    chown "$owner" "$DIR"
fi
language="--locale=C --locale-provider=icu --icu-locale=en-US"
$as "$BIN/initdb" -D "$DIR/data" -U postgres -A trust -E UTF8 $language >"$DIR.log" 2>&1 || { cat "$DIR.log" >&2; exit 1; }
exec 3>&1
(exec $as "$BIN/postgres" -D "$DIR/data" -h 127.0.0.1 -p "$PORT" -k "$DIR" -c max_connections=400 >>"$DIR.log" 2>&1 3>&-) &
server=$!
echo ready
cat >/dev/null || true
kill -QUIT "$server" 2>/dev/null || true
wait "$server" 2>/dev/null || true
rm -rf "$DIR" "$DIR.log"
"#;

fn binaries() -> Option<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|dirs| dirs.flatten().map(|d| d.path().join("bin")).collect())
        .unwrap_or_default();
    found.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    found.extend(std::env::split_paths(&path));
    found.into_iter().rev().find(|bin| has_server(bin))
}

/// From version 15 on, which knows `--icu-locale`.
fn has_server(bin: &Path) -> bool {
    let is_there = ["initdb", "postgres", "createdb"].iter().all(|tool| bin.join(tool).is_file());
    let help = || Command::new(bin.join("initdb")).arg("--help").output().map(|out| out.stdout).unwrap_or_default();
    is_there && String::from_utf8_lossy(&help()).contains("--icu-locale")
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

/// The server has no way to say that it is ready but to answer; this waits for an answer, not for a time.
fn wait_until_it_answers(bin: &Path, port: u16) {
    let began = Instant::now();
    loop {
        let asked = Command::new(bin.join("createdb"))
            .args(["-h", "127.0.0.1", "-p", &port.to_string(), "-U", "postgres", "hub_probe"])
            .stderr(Stdio::null())
            .status();
        if asked.is_ok_and(|s| s.success()) {
            return;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "PostgreSQL did not answer within a minute");
        std::thread::yield_now();
    }
}
