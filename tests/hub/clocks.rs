//! Clocks that differ and jump (F59). The database's clock is bent by a function of its own that stands before
//! PostgreSQL's in the search path.

use grosz::app::App;
use grosz::clock::Clock;
use grosz::config::{Config, Hidden};
use grosz::domain::payment::Status;
use grosz_providers::EventKind;

use crate::cluster::cluster;
use crate::harness::{Engine, Hub};
use crate::matter::{event, matter};
use crate::on_both;
use crate::servers::rows;

const HOUR: i64 = 3_600_000_000;

async fn bend(database: &str, by: &str) {
    let made = format!(
        "CREATE OR REPLACE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS
         $$ SELECT pg_catalog.clock_timestamp() + interval '{by}' $$"
    );
    rows(database, &made).await.unwrap();
}

// The database's clock is an hour ahead of ours: all processes go by it. It leaps alone, by days, forth and back: none
// follows, so no lease ends early, no wait becomes due, and none lasts for days.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_processes_go_by_one_clock() {
    let Some(cluster) = cluster() else { return };
    let database = cluster.database();
    let name = database.rsplit('/').next().unwrap();
    rows(&database, &format!("ALTER DATABASE {name} SET search_path = public, pg_catalog")).await.unwrap();
    bend(&database, "1 hour").await;
    let config = Config { database_url: Hidden(database.clone()), ..Config::default() };
    let one = App::open(config.clone(), Clock::System).await.unwrap();
    let two = App::open(config, Clock::System).await.unwrap();
    let ahead = |app: &App| app.now() - Clock::System.micros();
    assert!((ahead(&one) - HOUR).abs() < HOUR / 60, "{}", ahead(&one));
    assert!((one.now() - two.now()).abs() < HOUR / 60);
    // What is shown to the outside is dated by the machine: the gateways' clocks agree with it.
    assert!((one.clock.outside().as_microsecond() - Clock::System.micros()).abs() < HOUR / 60);
    for leap in ["40 days", "-3 days"] {
        bend(&database, leap).await;
        one.follow_clock().await;
        assert!((ahead(&one) - HOUR).abs() < HOUR / 60, "{leap}: {}", ahead(&one));
    }
    bend(&database, "1 hour 20 seconds").await;
    one.follow_clock().await;
    assert!((ahead(&one) - HOUR - 20_000_000).abs() < 15_000_000, "drift is followed: {}", ahead(&one));
    bend(&database, "0 seconds").await;
    one.follow_clock().await;
    assert!(ahead(&one).abs() < HOUR / 60, "set right: followed, as the machine says the same");
}

// The one clock itself is set back by three days, then forth by forty: no panic, no negative wait, payments go on, and
// those that were open are asked about, not written off.
on_both!(a_leaping_clock_writes_nothing_off, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let matter = matter(&hub).await;
    let (waits, attempt) = matter.payment(&hub, "1/2026").await;
    hub.run_jobs().await;
    hub.app.clock.set_back(std::time::Duration::from_secs(3 * 86_400));
    let (paid, other) = matter.payment(&hub, "2/2026").await;
    matter.receive(&hub, event(&other, "paid", EventKind::Paid, "r1")).await;
    hub.run_jobs().await;
    hub.get("/metrics").await.expect(200);
    hub.advance(43 * 86_400);
    for _ in 0..3 {
        hub.run_jobs().await;
        hub.advance(60);
    }
    let status = async |id: &str| {
        let mut tx = hub.app.store.read().await.unwrap();
        tx.payment(&hub.merchant.id, id).await.unwrap().unwrap().status
    };
    assert_eq!(status(&paid.id).await, Status::Completed);
    assert_eq!(status(&waits.id).await, Status::Started, "nobody said that it was not paid");
    matter.receive(&hub, event(&attempt, "paid late", EventKind::Paid, "r2")).await;
    assert_eq!(status(&waits.id).await, Status::Completed);
});
