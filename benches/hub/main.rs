//! Measures a whole hub: the release program as a child process with its own database, a load generator, and beside it
//! the same work with the least code around the storage, in the same run. `docs/performance.md` tells what is measured
//! and why so.
//!
//! ```sh
//! cargo bench --bench hub                        # everything, about a quarter of an hour
//! cargo bench --bench hub -- --quick W1          # one workload, short
//! cargo bench --bench hub -- --engine sqlite --flush-ms 2
//! ```

mod child;
mod cluster;
mod load;
mod program;
mod references;
mod report;
mod seed;
mod signing;
mod sink;
mod stage;
mod w1_forged;
mod w1_intake;
mod w1_killed;
mod w2_create;
mod w3_deliver;
mod w4_jobs;
mod w5_list;
mod w6_start;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use clap::Parser;
use serde_json::{Value, json};

use child::{Room, SlowFlush};
use cluster::Engine;
use report::Report;
use stage::Stage;

/// As in the program itself, for the references too.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Measures the hub and the same work with the least code around the storage.
#[derive(Debug, Clone, Parser)]
pub struct Options {
    /// W1 … W6; all when left out.
    #[arg(value_parser = ["W1", "W2", "W3", "W4", "W5", "W6"])]
    pub workloads: Vec<String>,
    /// Only this engine.
    #[arg(long)]
    pub engine: Option<Engine>,
    /// Short loads and small tables: shows that it works, not how fast it is.
    #[arg(long)]
    pub quick: bool,
    /// Every flush to disk takes so many milliseconds longer.
    #[arg(long, default_value_t = 0)]
    pub flush_ms: u64,
    /// Seconds that each load is measured, after one second of warm-up.
    #[arg(long)]
    pub seconds: Option<u64>,
    /// Connections of the load generator.
    #[arg(long, default_value_t = 128)]
    pub connections: usize,
    /// Seconds of twice the saturated rate; 0 leaves it out.
    #[arg(long)]
    pub overload_s: Option<u64>,
    /// Connections while overloaded.
    #[arg(long, default_value_t = 2048)]
    pub overload_connections: usize,
    /// Webhooks after which the growth of memory is looked at; 0 leaves it out.
    #[arg(long)]
    pub webhooks: Option<u64>,
    /// Payments in the large table.
    #[arg(long)]
    pub payments: Option<u64>,
    /// Messages of W3.
    #[arg(long)]
    pub messages: Option<u64>,
    /// The Stripe event that is sent, by its name among the fixtures.
    #[arg(long, default_value = "intent_succeeded")]
    pub event: String,
    /// Committers of the grouped reference on PostgreSQL.
    #[arg(long, default_value_t = 1)]
    pub committers: usize,
    /// W1 with an invoice ordered for each payment (jobs are held).
    #[arg(long)]
    pub with_invoices: bool,
    /// W1 with an endpoint of a client app that is told of each payment.
    #[arg(long)]
    pub with_endpoint: bool,
    /// Only W1's saturated load, for so many seconds, for a profiler: prints the processes and what to run.
    #[arg(long)]
    pub hold: Option<u64>,
    /// With `--hold`: so many webhooks a second (an open loop) instead of as many as are answered.
    #[arg(long, requires = "hold")]
    pub rate: Option<f64>,
    /// More settings of the hub: NAME=VALUE, such as INTAKE_BATCH=64.
    #[arg(long = "set", value_name = "NAME=VALUE")]
    pub settings: Vec<String>,
    /// The program to measure, such as one of another commit; this commit's, as the bench was built, when left out.
    #[arg(long, default_value = program::PROGRAM, hide_default_value = true)]
    pub program: String,
    /// The locale of PostgreSQL's cluster, such as en_US.UTF-8: how it compares texts unless told otherwise.
    #[arg(long, default_value = "C")]
    pub locale: String,
    /// Where the databases lie; below the build directory when left out.
    #[arg(long)]
    pub dir: Option<PathBuf>,
    /// Given by `cargo bench`.
    #[arg(long, hide = true)]
    bench: bool,
    /// Serve as the reference: the bench runs itself so.
    #[arg(long, hide = true)]
    reference: Option<String>,
    /// With `--reference`.
    #[arg(long, hide = true, requires = "reference")]
    listen: Option<SocketAddr>,
}

impl Options {
    /// Measured seconds of each load.
    pub fn seconds(&self) -> u64 {
        self.seconds.unwrap_or(if self.quick { 2 } else { 5 })
    }

    /// Seconds of twice the saturated rate.
    pub fn overload_seconds(&self) -> u64 {
        self.overload_s.unwrap_or(if self.quick { 3 } else { 15 })
    }

    /// How often loads that are compared are measured in turns.
    pub fn rounds(&self) -> usize {
        if self.quick { 1 } else { 3 }
    }

    /// True when a workload is to be run.
    pub fn wants(&self, workload: &str) -> bool {
        // The extras are W1's; other workloads would meet the jobs that they leave behind.
        let only_intake = self.with_invoices || self.with_endpoint;
        let wanted = self.workloads.is_empty() || self.workloads.iter().any(|w| w == workload);
        wanted && (!only_intake || workload == "W1")
    }
}

fn main() {
    let options = Options::parse();
    if let (Some(database), Some(listen)) = (&options.reference, options.listen) {
        return references::serve(database, listen, options.committers);
    }
    if !options.bench {
        // `cargo test --all-targets` runs every target, in a profile that nobody wants figures of.
        println!("Run it by: cargo bench --bench hub");
        return;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let local = tokio::task::LocalSet::new();
    local.block_on(&runtime, run(options));
}

async fn run(options: Options) {
    let parent = options.dir.clone().unwrap_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")));
    let room = Room::new(&parent);
    let slow = slow_flush(&options, &room);
    let mut report = Report::default();
    for engine in [Engine::Sqlite, Engine::Postgres] {
        if options.engine.is_some_and(|only| only != engine) {
            continue;
        }
        println!("\n{}", engine.name());
        let Some(mut stage) = Stage::set(&options, engine, &room.path, slow.as_ref(), &mut report).await else {
            continue;
        };
        if let Some(seconds) = options.hold {
            w1_intake::hold(&mut stage, seconds).await;
            continue;
        }
        if options.wants("W6") {
            w6_start::run(&mut stage).await;
        }
        if options.wants("W1") {
            w1_intake::run(&mut stage).await;
        }
        if options.wants("W2") {
            w2_create::run(&mut stage).await;
        }
        if options.wants("W3") {
            w3_deliver::run(&mut stage).await;
        }
        if options.wants("W4") {
            w4_jobs::run(&mut stage).await;
        }
        if options.wants("W1") || options.wants("W5") {
            w5_list::run(&mut stage).await;
        }
    }
    report.print(&about(&options, &parent));
}

/// Compiles the library that makes every flush longer.
fn slow_flush(options: &Options, room: &Room) -> Option<SlowFlush> {
    if options.flush_ms == 0 {
        return None;
    }
    let (source, library) = (room.path.join("slow_flush.c"), room.path.join("slow_flush.so"));
    std::fs::write(&source, include_str!("slow_flush.c")).expect("the source can be written");
    let cc = std::env::var_os("CC").unwrap_or("cc".into());
    let built = Command::new(cc).args(["-shared", "-fPIC", "-O2", "-o"]).args([&library, &source]).arg("-ldl").status();
    if !built.is_ok_and(|status| status.success()) {
        println!("LEFT OUT: slower flushes (no C compiler; install Debian's packages gcc and libc6-dev)");
        std::process::exit(1);
    }
    Some(SlowFlush { library, us: options.flush_ms * 1000 })
}

/// The machine and the run, for whoever reads the figures later.
fn about(options: &Options, dir: &std::path::Path) -> Value {
    let said = |program: &str, arguments: &[&str]| {
        let done = Command::new(program).args(arguments).output();
        done.map(|d| String::from_utf8_lossy(&d.stdout).trim().to_owned()).unwrap_or_default()
    };
    let cpuinfo = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpuinfo.lines().find_map(|l| l.strip_prefix("model name")).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, std::num::NonZero::get);
    let dir = dir.display().to_string();
    json!({
        "commit": said("git", &["-C", env!("CARGO_MANIFEST_DIR"), "describe", "--always", "--dirty"]),
        "date": said("date", &["-u", "+%Y-%m-%d"]),
        "processor": model.trim_start_matches([' ', '\t', ':']),
        "cores": cores,
        "kernel": said("uname", &["-r"]),
        "filesystem": said("stat", &["-f", "-c", "%T", &dir]),
        "quick": options.quick, "seconds": options.seconds(), "connections": options.connections,
        "flush_ms": options.flush_ms, "event": options.event, "committers": options.committers, "settings": options.settings, "program": options.program,
    })
}
