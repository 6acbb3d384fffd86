//! The disk is full (F52): what cannot be recorded is not acknowledged, what is there can be read, and all goes on by
//! itself when there is room again.

use std::cell::Cell;
use std::path::Path;
use std::process::Command;

use crate::harness::{KEY, TempDir, client};
use crate::program::{Program, until};
use crate::scene::Scene;

/// A small disk: a file system of its own where we may mount one, else a limit on the size of files.
enum Disk {
    Mounted(TempDir),
    Limited(TempDir),
}

const SIZE: &str = "4m";
const BLOCKS: u32 = 4 * 1024 * 2;

impl Disk {
    fn new() -> Disk {
        let dir = TempDir::new();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={SIZE}"), "tmpfs"])
            .arg(dir.path())
            .output()
            .is_ok_and(|done| done.status.success());
        if mounted { Disk::Mounted(dir) } else { Disk::Limited(dir) }
    }

    fn path(&self) -> &Path {
        let (Disk::Mounted(dir) | Disk::Limited(dir)) = self;
        dir.path()
    }

    fn program(&self) -> Program {
        let program = Program::new(&format!("sqlite:{}", self.path().join("hub.db").display()));
        let program = program.with("log", "warn,grosz::store=info");
        match self {
            Disk::Mounted(_) => program,
            Disk::Limited(_) => program.after(&format!("trap '' XFSZ; ulimit -S -f {BLOCKS}")),
        }
    }

    /// Leaves no room.
    fn fill(&self, program: &Program) {
        match self {
            Disk::Mounted(dir) => {
                let filler = vec![0; 64 * 1024];
                let mut n = 0;
                // Whole blocks first, then what is left of the last.
                while std::fs::write(dir.path().join(format!("filler{n}")), &filler).is_ok() {
                    n += 1;
                }
            }
            Disk::Limited(_) => limit(program.pid(), "1024"),
        }
    }

    fn make_room(&self, program: &Program) {
        match self {
            Disk::Mounted(dir) => {
                for file in std::fs::read_dir(dir.path()).expect("a directory").flatten() {
                    if file.file_name().to_string_lossy().starts_with("filler") {
                        std::fs::remove_file(file.path()).expect("room");
                    }
                }
            }
            Disk::Limited(_) => limit(program.pid(), "unlimited"),
        }
    }
}

fn limit(pid: u32, bytes: &str) {
    let set = Command::new("prlimit").args(["--pid", &pid.to_string(), &format!("--fsize={bytes}:")]).status();
    assert!(set.is_ok_and(|s| s.success()), "prlimit");
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Disk::Mounted(dir) = self {
            let _ = Command::new("umount").arg("--lazy").arg(dir.path()).status();
        }
    }
}

// F52
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_acknowledges_nothing() {
    let disk = Disk::new();
    let mut program = disk.program();
    let url = program.url.clone();
    // The program makes its database, so that its limits hold for it.
    program.start();
    program.answers().await;
    let database = format!("sqlite:{}", disk.path().join("hub.db").display());
    let mut scene = Scene::set(&database, &[&url]).await;
    for n in 0..5 {
        scene.pay(&format!("{n}/2026")).await;
    }
    disk.fill(&program);
    let ready = async |status: u16| program.get("/readyz").await.is_some_and(|(s, _)| s == status);
    let http = client();
    // What fits into the last pages of the log may still be written, and once more when they were copied; then nothing.
    let refused = Cell::new(0);
    until("nothing can be written", async || {
        let write = http.post(format!("{url}/v1/experts")).bearer_auth(KEY).header("content-type", "application/json");
        let body = format!(r#"{{"name": "{}", "email": "anna@kancelaria.example"}}"#, "Anna".repeat(40));
        let answer = write.body(body).send().await.unwrap();
        assert!(matches!(answer.status().as_u16(), 201 | 503), "{}", answer.status());
        let is_refused = answer.status() == 503 && ready(503).await;
        refused.set(if is_refused { refused.get() + 1 } else { 0 });
        refused.get() == 20
    })
    .await;
    let under_way = scene.send_out();
    assert!(scene.hear(under_way).await > 0);
    assert_eq!((scene.gateway.acknowledged.len(), scene.gateway.odd.len()), (0, 0));
    let read = http.get(format!("{url}/v1/payments")).bearer_auth(KEY).send().await.unwrap();
    assert_eq!(read.status(), 200, "reads live");
    assert_eq!(program.get("/healthz").await.unwrap().0, 200);
    // A page that has to write says that it is a matter of a moment.
    let page = http.get(format!("{url}/pay/{}", scene.payments[0].token)).send().await.unwrap();
    let again = page.headers().get("retry-after").and_then(|at| at.to_str().ok());
    assert_eq!((page.status().as_u16(), again), (503, Some("5")));
    disk.make_room(&program);
    until("it takes writes again", async || ready(200).await).await;
    scene.finish().await;
    assert!(scene.gateway.odd.is_empty(), "{:?}", scene.gateway.odd);
    scene.check().await;
    // The cause is said once; what is turned away meanwhile is summed up from time to time.
    let log = program.log();
    let lines = |text: &str| log.lines().filter(|line| line.contains(text)).count();
    assert!((1..10).contains(&lines("its disk is full")), "{log}");
    assert_eq!(lines("The database takes writes again"), 1, "{log}");
}
