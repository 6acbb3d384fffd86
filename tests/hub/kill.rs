//! The real program is killed with SIGKILL again and again while a gateway reports to it and invoices are issued;
//! afterwards nothing is lost and nothing is doubled. Time is real here: a process cannot be handed a clock.

use std::time::Duration;

use crate::cluster::cluster;
use crate::harness::{Engine, TempDir};
use crate::program::Program;
use crate::scene::Scene;

const KILLS: usize = 40;
const PAYMENTS_A_KILL: usize = 3;

// F20–F28, F25, I2, I3, I4, I5, I7; R-5W-45, R-5W-49
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_again_and_again_on_sqlite() {
    story(Engine::Sqlite).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_again_and_again_on_postgres() {
    if cluster().is_some() {
        story(Engine::Postgres).await;
    }
}

async fn story(engine: Engine) {
    let dir = TempDir::new();
    let database = match engine {
        Engine::Sqlite => format!("sqlite:{}", dir.path().join("hub.db").display()),
        Engine::Postgres => cluster().expect("looked at above").database(),
    };
    let mut program = Program::new(&database);
    let mut scene = Scene::set(&database, &[&program.url]).await;
    for kill in 0..KILLS {
        for n in 0..PAYMENTS_A_KILL {
            scene.pay(&format!("{kill}-{n}/2026")).await;
        }
        program.start();
        // Every fourth life ends before it answers; the others while calls and jobs are under way.
        if kill % 4 != 3 {
            program.answers().await;
        }
        let mut under_way = Some(scene.send_out());
        if kill % 2 == 1 && kill % 4 != 3 {
            // All is acknowledged; the kill meets the jobs: look-up, send, what was to be written after it.
            scene.hear(under_way.take().expect("just sent")).await;
        }
        tokio::time::sleep(Duration::from_millis([0, 1, 2, 4, 8, 15, 30, 60, 90, 120][kill % 10])).await;
        program.kill();
        if let Some(under_way) = under_way {
            scene.hear(under_way).await;
        }
    }
    program.start();
    program.answers().await;
    scene.finish().await;
    assert!(scene.gateway.unanswered > 0, "no kill met a call under way: this test showed nothing");
    scene.check().await;
}
