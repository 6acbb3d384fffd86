//! W1: in the middle of twice the saturated rate hub and database are killed; whatever was acknowledged is there
//! afterwards.

use std::collections::HashSet;
use std::time::Duration;

use crate::cluster::Db;
use crate::load::Pace;
use crate::program::Process;
use crate::report::Floor;
use crate::stage::{Stage, WARM_UP};
use crate::w1_intake::{self, Kind, MOST, Templates, load};

/// Ends with another process of the hub.
pub async fn run(stage: &mut Stage<'_>, process: Process, templates: &Templates, rate: f64) -> Process {
    let seconds = stage.options.overload_seconds();
    if seconds == 0 {
        return process;
    }
    let half = WARM_UP + Duration::from_secs(seconds) / 2;
    // Until the kill and a little longer; afterwards nobody takes anything in.
    let count = ((rate * 2.2 * (half.as_secs_f64() + 1.0)) as u64).clamp(1000, 4 * MOST);
    let batch = templates.payments(stage, Kind::Stripe, count).await;
    let requests = templates.calls(stage, Kind::Stripe, &batch);
    let (hub, server) = (process.child.pid, stage.site.server());
    let killer = std::thread::spawn(move || {
        std::thread::sleep(half);
        crate::child::kill(&[hub]);
        server.into_iter().for_each(crate::child::kill_family);
    });
    // What was refused or broken is sent again to nobody: the rest of the time only shows that nothing hangs.
    let load = load(stage.target(&process), Pace::Rate(rate * 2.0), stage.options.overload_connections, seconds);
    let outcome = load.run(requests, || {}).await;
    assert!(killer.is_finished(), "the load ended before the kill");
    killer.join().expect("the killer did its work");
    process.child.wait_until_dead();
    drop(process);
    stage.site.start_again();
    stage.db = Db::open(&stage.hub.database).await;
    stage.reopen_references().await;
    let process = stage.hub.start(&[]).await;
    let completed: HashSet<String> = w1_intake::completed(stage, &batch).await.into_iter().collect();
    let lost = outcome.accepted.iter().filter(|n| !completed.contains(&format!("pay_{}", batch.name(**n)))).count();
    w1_intake::check_effects(stage, &batch, outcome.accepted.len() - lost).await;
    println!("  killed under load: {} acknowledged, {} recorded, {lost} lost", outcome.accepted.len(), completed.len());
    assert!(!outcome.accepted.is_empty(), "nothing was acknowledged before the kill");
    stage.judge("W1 acknowledged and lost after kill -9 of hub and database", lost as f64, Floor::Most(0.0));
    process
}
