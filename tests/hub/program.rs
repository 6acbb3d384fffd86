//! Real programs: the hub, and what stands between it and its database.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, ChildStderr, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::harness::{TempDir, client};
use crate::scene::PATIENCE;

/// A hub as a process of its own.
pub struct Program {
    /// Its address.
    pub url: String,
    settings: Vec<(String, String)>,
    /// Run by `sh` before it, such as `ulimit -n 100`.
    before: String,
    child: Option<Child>,
    dir: TempDir,
    http: reqwest::Client,
}

impl Program {
    /// A hub on this database, with short waits; not started.
    pub fn new(database: &str) -> Program {
        let listen = format!("127.0.0.1:{}", free_port());
        let url = format!("http://{listen}");
        let settings = [
            ("DATABASE_URL", database),
            ("LISTEN", &listen),
            ("PUBLIC_URL", &url),
            ("ALLOW_INSECURE_TARGETS", "true"),
            ("INVOICE_WAITS_S", "0,1,1"),
            ("INVOICE_LOOKS_S", "1"),
            ("INVOICE_QUIET_S", "2"),
            ("CONNECT_S", "1"),
            ("CALL_S", "2"),
            ("ONCE_CALL_S", "2"),
            ("TELL_TIMEOUT_S", "2"),
            ("MAIL_S", "2"),
            ("JOB_LEASE_S", "3"),
            ("JOB_TICK_MS", "50"),
            ("JOB_MAX_CRASHES", "1000"),
            ("MAIL_INVOICES", "false"),
            ("LOG", "warn"),
        ];
        let settings = settings.map(|(name, value)| (format!("GROSZ_{name}"), value.to_owned())).to_vec();
        Program { url, settings, before: String::new(), child: None, dir: TempDir::new(), http: client() }
    }

    /// With a setting.
    pub fn with(mut self, name: &str, value: &str) -> Program {
        self.settings.push((format!("GROSZ_{}", name.to_ascii_uppercase()), value.to_owned()));
        self
    }

    /// With these words of `sh` before it.
    pub fn after(mut self, before: &str) -> Program {
        self.before = format!("{before}; ");
        self
    }

    /// Starts it.
    pub fn start(&mut self) {
        let log = File::options().create(true).append(true).open(self.log_file()).expect("a log");
        self.start_with(log.into());
    }

    /// Starts it with another log.
    pub fn start_with(&mut self, log: Stdio) {
        let child = Command::new("sh")
            .arg("-c")
            .arg(format!("{}exec \"$0\" serve", self.before))
            .arg(env!("CARGO_BIN_EXE_grosz"))
            .env_clear()
            .envs(self.settings.iter().cloned())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn();
        self.child = Some(child.expect("the program starts"));
    }

    /// The pipe that it logs to, when it was started with one.
    pub fn piped_log(&mut self) -> Option<ChildStderr> {
        self.child.as_mut()?.stderr.take()
    }

    /// Waits until it has ended; true when it says that all is well.
    pub fn ended_well(&mut self) -> bool {
        self.child.take().expect("a running program").wait().expect("it is gone").success()
    }

    /// SIGKILL: nothing of the process's own runs after it.
    pub fn kill(&mut self) {
        let mut child = self.child.take().expect("a running program");
        child.kill().expect("it can be killed");
        child.wait().expect("it is gone");
    }

    /// Sends a signal.
    pub fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("a running program").id()
    }

    /// Waits until it answers.
    pub async fn answers(&self) {
        until("the program answers", async || {
            assert!(!self.log().lines().any(|line| line.starts_with("grosz: ")), "it ended at once: {}", self.log());
            self.http.get(format!("{}/healthz", self.url)).send().await.is_ok()
        })
        .await;
    }

    /// Status and text of a page, `None` when there is no answer.
    pub async fn get(&self, path: &str) -> Option<(u16, String)> {
        let answer = self.http.get(format!("{}{path}", self.url)).send().await.ok()?;
        Some((answer.status().as_u16(), answer.text().await.ok()?))
    }

    /// The value of a counter of `/metrics`; 0 when it is not there.
    pub async fn counter(&self, line: &str) -> u64 {
        let text = self.get("/metrics").await.unwrap_or_default().1;
        let value = text.lines().find_map(|l| l.strip_prefix(line)).unwrap_or_default();
        value.trim().parse().unwrap_or(0)
    }

    /// Everything it logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.log_file()).unwrap_or_default()
    }

    fn log_file(&self) -> PathBuf {
        self.dir.path().join("log")
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        if let Some(child) = &mut self.child {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(40).collect();
            eprintln!("-- the last lines of {}", self.url);
            tail.iter().rev().for_each(|line| eprintln!("{line}"));
        }
    }
}

/// Sends a signal to a process.
pub fn signal(pid: u32, name: &str) {
    let sent = Command::new("sh").arg("-c").arg(format!("kill -{name} {pid}")).status();
    assert!(sent.is_ok_and(|s| s.success()), "SIG{name}");
}

/// Waits until something is so.
#[track_caller]
pub fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) -> impl Future<Output = ()> {
    let at = std::panic::Location::caller();
    let what = what.to_owned();
    async move {
        let began = Instant::now();
        while !is_so().await {
            assert!(began.elapsed() < PATIENCE, "{at}: not in {PATIENCE:?}: {what}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

/// A port that is free, and was not given to another story.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    // Below the range from which the system picks, so that no outgoing connection takes it before we do.
    let first = 10_000 + std::process::id() % 200 * 100;
    loop {
        let port = u16::try_from(first + NEXT.fetch_add(1, Ordering::SeqCst)).expect("a port");
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Numbers that look random and are the same each time, by the seed.
pub struct Dice(u64);

impl Dice {
    /// From `GROSZ_TEST_SEED`, said aloud; 1 when it is not set.
    pub fn new() -> Dice {
        let seed = std::env::var("GROSZ_TEST_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or(1);
        println!("GROSZ_TEST_SEED={seed}");
        Dice(seed)
    }

    /// From 0 up to, but not including, `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        // SplitMix64.
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}
