//! W4: the job table through the store's own functions, and how soon an idle hub begins a job.

use std::sync::Arc;
use std::time::{Duration, Instant};

use grosz::store::{Job, JobKind, Lane, NewJob, Store, StoreError, StoreSettings};
use serde_json::json;

use crate::cluster::Engine;
use crate::report::{Figure, Floor};
use crate::sink::Sink;
use crate::stage::Stage;

const MERCHANT: &str = "mer_bench";
/// Jobs in one claim and in one commit of their ends.
const BATCH: usize = 256;
/// Workers where jobs are taken singly.
const SINGLE_WORKERS: usize = 8;
/// A lease that does not run out while we measure, microseconds.
const LEASE_US: i64 = 600_000_000;

/// Throughput of the table, then the time from commit to start.
pub async fn run(stage: &mut Stage<'_>) {
    let (many, few) = if stage.options.quick { (20_000, 2_000) } else { (100_000, 10_000) };
    let url = stage.site.database();
    // A runtime with threads, as the hub has; nothing else is measured meanwhile.
    let measured = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
        runtime.block_on(table(&url, many, few)).expect("the store answers")
    });
    let [enqueued, batched, singly] = measured.join().expect("it ends");
    stage.figure("W4", "jobs enqueued, 256 a commit", Figure::rate(enqueued));
    stage.figure("W4", "jobs claimed and finished, 256 at a time", Figure::rate(batched));
    stage.figure("W4", "jobs claimed and finished singly", Figure::rate(singly));
    let (batched_floor, single_floor) = match stage.engine {
        Engine::Sqlite => (60_000.0, 5_000.0),
        Engine::Postgres => (60_000.0, 4_000.0),
    };
    stage.judge("W4 jobs batched, per second", batched, Floor::Least(batched_floor));
    stage.judge("W4 jobs singly, per second", singly, Floor::Least(single_floor));
    waking(stage, false).await;
    if stage.engine == Engine::Postgres {
        waking(stage, true).await;
    }
}

async fn table(url: &str, many: usize, few: usize) -> Result<[f64; 3], StoreError> {
    let store = Store::open(url, &StoreSettings::default()).await?;
    store.migrate(now_us()).await?;
    let began = Instant::now();
    let mut n = 0;
    while n < many {
        let count = BATCH.min(many - n);
        enqueue(&store, n, count).await?;
        n += count;
    }
    let enqueued = many as f64 / began.elapsed().as_secs_f64();

    let began = Instant::now();
    let done = together(&store, 2, BATCH).await?;
    assert_eq!(done, many, "every job once");
    let batched = many as f64 / began.elapsed().as_secs_f64();

    for start in (0..few).step_by(BATCH) {
        enqueue(&store, many + start, BATCH.min(few - start)).await?;
    }
    let began = Instant::now();
    let done = together(&store, SINGLE_WORKERS, 1).await?;
    assert_eq!(done, few, "every job once");
    let singly = few as f64 / began.elapsed().as_secs_f64();
    store.close().await;
    Ok([enqueued, batched, singly])
}

/// Several workers until the table is empty; answers how many jobs they finished.
async fn together(store: &Store, workers: usize, batch: usize) -> Result<usize, StoreError> {
    let mut tasks = tokio::task::JoinSet::new();
    let store = Arc::new(store.clone());
    for _ in 0..workers {
        let store = Arc::clone(&store);
        tasks.spawn(async move {
            let mut done = 0;
            loop {
                let jobs = claim(&store, batch).await?;
                if jobs.is_empty() {
                    return Ok::<usize, StoreError>(done);
                }
                finish(&store, &jobs).await?;
                done += jobs.len();
            }
        });
    }
    let mut done = 0;
    while let Some(worker) = tasks.join_next().await {
        done += worker.expect("it ends")?;
    }
    Ok(done)
}

fn now_us() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    i64::try_from(now.as_micros()).unwrap_or(0)
}

// The seam: what the hub's own worker does, by the same functions.

async fn enqueue(store: &Store, from: usize, count: usize) -> Result<(), StoreError> {
    let now = now_us();
    let job = |n| NewJob {
        merchant_id: MERCHANT.to_owned(),
        id: format!("job_{n:026}"),
        kind: JobKind::TellClient,
        subject: format!("tel_{n:026}"),
        run_at: now,
        created_at: now,
    };
    let jobs: Vec<NewJob> = (from..from + count).map(job).collect();
    let mut tx = store.begin().await?;
    tx.enqueue_jobs(&jobs).await?;
    tx.commit().await
}

async fn claim(store: &Store, limit: usize) -> Result<Vec<Job>, StoreError> {
    let now = now_us();
    let mut tx = store.begin().await?;
    let jobs = tx.claim_jobs(Lane::Telling, now, now + LEASE_US, i64::try_from(limit).unwrap_or(1)).await?;
    tx.commit().await?;
    Ok(jobs)
}

async fn finish(store: &Store, jobs: &[Job]) -> Result<(), StoreError> {
    let mut tx = store.begin().await?;
    let owned = tx.finish_jobs(&jobs.iter().collect::<Vec<_>>()).await?;
    assert_eq!(owned.len(), jobs.len(), "they are ours");
    tx.commit().await
}

/// From the answer of the call that commits a job to the first byte of what the job does, on a hub with nothing else
/// to do; with `apart`, the call and the job are in two processes.
async fn waking(stage: &mut Stage<'_>, apart: bool) {
    let sink = Sink::open(1, 0).await;
    let web = stage.hub.start(if apart { &[("ROLE", "web")] } else { &[] }).await;
    let _worker = if apart { Some(stage.hub.start(&[("ROLE", "worker")]).await) } else { None };
    let endpoint =
        stage.hub.post(&web, "/v1/webhook-endpoints", &json!({"url": sink.urls[0], "types": ["endpoint.test"]})).await;
    let id = endpoint["id"].as_str().expect("an id").to_owned();
    let mut waits = vec![];
    for _ in 0..if stage.options.quick { 20 } else { 100 } {
        // Long enough that the hub is idle again.
        tokio::time::sleep(Duration::from_millis(30)).await;
        let arrived = async {
            sink.state.bell.notified().await;
            Instant::now()
        };
        let path = format!("/v1/webhook-endpoints/{id}/test");
        let asked = async {
            stage.hub.post(&web, &path, &json!({})).await;
            Instant::now()
        };
        let both = tokio::time::timeout(Duration::from_secs(10), async { tokio::join!(asked, arrived) });
        let (committed, arrived) = both.await.expect("the job begins within ten seconds");
        waits.push(u32::try_from(arrived.saturating_duration_since(committed).as_micros()).unwrap_or(u32::MAX));
    }
    stage.db.run(&format!("UPDATE endpoints SET state = 'disabled' WHERE id = '{id}'")).await;
    waits.sort_unstable();
    let outcome = crate::load::Outcome { latencies: waits, ..crate::load::Outcome::default() };
    let where_to = if apart { "another process" } else { "the same process" };
    let (p50_ms, p99_ms) = (outcome.quantile_ms(0.5), outcome.quantile_ms(0.99));
    stage.figure("W4", &format!("commit to start, {where_to}"), Figure { p50_ms, p99_ms, ..Figure::default() });
    stage.judge(&format!("W4 commit to start p99, ms, {where_to}"), p99_ms, Floor::Most(10.0));
}
