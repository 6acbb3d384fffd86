//! Child processes that cannot outlive us, and what they cost.
//!
//! Each child has a keeper: a shell in a process group of its own, which holds the child until our end of its standard
//! input closes. That happens on drop, on panic, on Ctrl-C and on SIGKILL of this process alike.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// A running program.
pub struct Child {
    keeper: std::process::Child,
    /// The program's own process.
    pub pid: u32,
    /// Where it writes what it has to say.
    pub log: PathBuf,
}

/// How to start one.
pub struct Start<'a> {
    /// Program and arguments.
    pub command: &'a [String],
    /// Its whole environment beside `PATH`.
    pub env: &'a [(String, String)],
    /// Flushes to disk take longer.
    pub slow: Option<&'a SlowFlush>,
    /// Where it writes what it has to say.
    pub log: PathBuf,
    /// How it is ended.
    pub signal: &'static str,
}

/// A library, loaded before all others, that makes flushes to disk longer.
#[derive(Debug, Clone)]
pub struct SlowFlush {
    /// The library.
    pub library: PathBuf,
    /// By how much, in microseconds.
    pub us: u64,
}

const KEEPER: &str = r#"
(exec env ${PRELOAD:+LD_PRELOAD="$PRELOAD"} "$@" </dev/null >>"$LOG" 2>&1) &
child=$!
echo $child
exec >/dev/null
cat >/dev/null || true
kill -"$SIGNAL" $child 2>/dev/null
wait $child 2>/dev/null
"#;

impl Child {
    /// Starts a program and its keeper.
    pub fn start(start: Start<'_>) -> Child {
        let mut keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            .args(start.command)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .envs(start.env.iter().map(|(name, value)| (name, value)))
            .env("PRELOAD", start.slow.map_or(Path::new(""), |s| &s.library))
            .env("BENCH_FLUSH_US", start.slow.map_or(0, |s| s.us).to_string())
            .env("LOG", &start.log)
            .env("SIGNAL", start.signal)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("sh runs");
        let mut line = String::new();
        let out = keeper.stdout.take().expect("it is piped");
        BufReader::new(out).read_line(&mut line).expect("the keeper names its child");
        let pid = line.trim().parse().expect("a process id");
        Child { keeper, pid, log: start.log }
    }

    /// False when it died by itself.
    pub fn lives(&self) -> bool {
        fs::read_to_string(format!("/proc/{}/stat", self.pid)).is_ok_and(|s| !s.contains(") Z "))
    }

    /// For one that was killed.
    pub fn wait_until_dead(&self) {
        let until = Instant::now() + Duration::from_secs(10);
        while self.lives() {
            assert!(Instant::now() < until, "it was not killed");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// The end of its log, for a person who asks why.
    pub fn last_words(&self) -> String {
        let text = fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(15)..).unwrap_or_default().join("\n")
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        drop(self.keeper.stdin.take());
        let _ = self.keeper.wait();
    }
}

/// Processor time that a process used so far, in microseconds; with `family`, its children's too, the dead included.
pub fn cpu_us(pid: u32, family: bool) -> u64 {
    let Some(own) = Times::of(pid) else { return 0 };
    if !family {
        return own.used;
    }
    let children = fs::read_dir("/proc").into_iter().flatten().flatten();
    let children = children.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let living: u64 = children.filter_map(Times::of).filter(|t| t.parent == pid).map(|t| t.used).sum();
    own.used + own.of_the_dead + living
}

/// Kills processes, without a chance to say goodbye.
pub fn kill(pids: &[u32]) {
    let pids = pids.iter().map(u32::to_string);
    let _ = Command::new("kill").arg("-9").args(pids).stderr(Stdio::null()).status();
}

/// Kills a process and its children.
pub fn kill_family(pid: u32) {
    let others = fs::read_dir("/proc").into_iter().flatten().flatten();
    let others = others.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let children = others.filter(|other| Times::of(*other).is_some_and(|times| times.parent == pid));
    let family: Vec<u32> = std::iter::once(pid).chain(children).collect();
    kill(&family);
}

/// Resident memory in KiB.
pub fn resident_kib(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmRSS:"));
    line.and_then(|l| l.trim().trim_end_matches(" kB").parse().ok()).unwrap_or(0)
}

struct Times {
    parent: u32,
    used: u64,
    of_the_dead: u64,
}

impl Times {
    /// Linux reports these in hundredths of a second (proc(5): stat, utime to cstime).
    fn of(pid: u32) -> Option<Times> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let number = |n: usize| fields.get(n).and_then(|f| f.parse::<u64>().ok()).unwrap_or(0) * 10_000;
        Some(Times {
            parent: fields.get(1)?.parse().ok()?,
            used: number(11) + number(12),
            of_the_dead: number(13) + number(14),
        })
    }
}

/// A port that is free now.
pub fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("its address").port()
}

/// A directory for all children, removed by a process of its own when we are gone.
pub struct Room {
    /// Where.
    pub path: PathBuf,
    _janitor: Child,
}

impl Room {
    /// Makes it below `parent`. Others may enter, because PostgreSQL runs as another user.
    pub fn new(parent: &Path) -> Room {
        let path = parent.join(format!("grosz-bench-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        // The others end at the same moment; whatever they still write is removed a moment later.
        let script = "trap 'sleep 3; rm -rf \"$ROOM\"; exit' TERM; while :; do sleep 3600 & wait $!; done";
        let janitor = Child::start(Start {
            command: &["sh".into(), "-c".into(), script.into()],
            env: &[("ROOM".into(), path.display().to_string())],
            slow: None,
            log: "/dev/null".into(),
            signal: "TERM",
        });
        Room { path, _janitor: janitor }
    }
}
