//! W4: the job table through the store's own functions, beside the least one in the same process, and how soon an idle
//! hub begins a job.

use std::time::{Duration, Instant};

use grosz::store::{Job, JobKind, Lane, NewJob, Store, StoreError, StoreSettings};
use serde_json::json;

use crate::cluster::{Db, Engine};
use crate::references::queue::{self, Queue};
use crate::report::{Figure, Floor};
use crate::seed::Batch;
use crate::sink::Sink;
use crate::stage::Stage;

const MERCHANT: &str = "mer_bench";
/// Jobs in one claim and in one commit of their ends.
const BATCH: usize = 256;
/// Workers where jobs are taken in batches.
const BATCH_WORKERS: usize = 2;
/// Workers where jobs are taken singly.
const SINGLE_WORKERS: usize = 8;
/// A lease that does not run out while we measure, microseconds.
const LEASE_US: i64 = 600_000_000;

/// Throughput of the table, then the time from commit to start.
pub async fn run(stage: &mut Stage<'_>) {
    let (many, few) = if stage.options.quick { (20_000, 2_000) } else { (100_000, 10_000) };
    let (url, reference_url) = (stage.site.database(), stage.site.database());
    let jobs = [stage.seeder.reserve(many as u64), stage.seeder.reserve(few as u64)];
    // A runtime with threads, as the hub has; nothing else is measured meanwhile.
    let measured = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
        let hub = runtime.block_on(table(&url, many, few)).expect("the store answers");
        (hub, runtime.block_on(reference(&reference_url, &jobs)).expect("the reference answers"))
    });
    let ([enqueued, batched, singly], [reference_batched, reference_singly]) = measured.join().expect("it ends");
    stage.figure("W4", "jobs enqueued, 256 a commit", Figure::rate(enqueued));
    stage.figure("W4", "jobs claimed and finished, 256 at a time", Figure::rate(batched));
    stage.figure("W4", "reference: claimed and deleted, 256 at a time", Figure::rate(reference_batched));
    stage.figure("W4", "jobs claimed and finished singly", Figure::rate(singly));
    stage.figure("W4", "reference: claimed and deleted singly", Figure::rate(reference_singly));
    // Jobs a second that were asked for, where a reference of this kind gave so many.
    let (batched_floor, single_floor) = match stage.engine {
        Engine::Sqlite => (60_000.0 / 128_000.0, 5_000.0 / 6_600.0),
        Engine::Postgres => (60_000.0 / 120_000.0, 4_000.0 / 4_770.0),
    };
    stage.judge("W4 jobs batched, hub / reference", batched / reference_batched, Floor::Least(batched_floor));
    stage.judge("W4 jobs singly, hub / reference", singly / reference_singly, Floor::Least(single_floor));
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

    let turns = |batch| {
        let store = store.clone();
        move || turn(store.clone(), batch)
    };
    let batched = drained(many, BATCH_WORKERS, turns(BATCH)).await?;
    for start in (0..few).step_by(BATCH) {
        enqueue(&store, many + start, BATCH.min(few - start)).await?;
    }
    let singly = drained(few, SINGLE_WORKERS, turns(1)).await?;
    store.close().await;
    Ok([enqueued, batched, singly])
}

/// The same with the least code.
async fn reference(url: &str, jobs: &[Batch; 2]) -> Result<[f64; 2], sqlx::Error> {
    let mut db = Db::open(url).await;
    queue::make_table(&mut db).await;
    let queue = Queue::open(url).await;
    let mut rates = [0.0; 2];
    for (n, (workers, batch)) in [(BATCH_WORKERS, BATCH), (SINGLE_WORKERS, 1)].into_iter().enumerate() {
        queue::seed(&mut db, &jobs[n], 1, "").await;
        let queue = queue.clone();
        rates[n] = drained(jobs[n].count as usize, workers, move || reference_turn(queue.clone(), batch)).await?;
    }
    Ok(rates)
}

/// Jobs a second of several workers, until there are none. A turn claims and ends some, and answers how many.
async fn drained<T, E>(jobs: usize, workers: usize, turn: impl Fn() -> T + Clone + Send + 'static) -> Result<f64, E>
where
    T: Future<Output = Result<usize, E>> + Send,
    E: std::fmt::Debug + Send + 'static,
{
    let began = Instant::now();
    let mut tasks = tokio::task::JoinSet::new();
    for _ in 0..workers {
        let turn = turn.clone();
        tasks.spawn(async move {
            let mut done = 0;
            loop {
                match turn().await? {
                    0 => return Ok::<usize, E>(done),
                    some => done += some,
                }
            }
        });
    }
    let mut done = 0;
    while let Some(worker) = tasks.join_next().await {
        done += worker.expect("it ends")?;
    }
    assert_eq!(done, jobs, "every job once");
    Ok(jobs as f64 / began.elapsed().as_secs_f64())
}

async fn turn(store: Store, batch: usize) -> Result<usize, StoreError> {
    let jobs = claim(&store, batch).await?;
    if !jobs.is_empty() {
        finish(&store, &jobs).await?;
    }
    Ok(jobs.len())
}

async fn reference_turn(queue: Queue, batch: usize) -> Result<usize, sqlx::Error> {
    let jobs = queue.claim(batch).await?;
    if !jobs.is_empty() {
        assert_eq!(queue.finish(&jobs).await?, jobs.len() as u64, "they are ours");
    }
    Ok(jobs.len())
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
    let mut tx = store.once().await?;
    let jobs = tx.claim_jobs(Lane::Telling, now, now + LEASE_US, i64::try_from(limit).unwrap_or(1)).await?;
    tx.commit().await?;
    Ok(jobs)
}

async fn finish(store: &Store, jobs: &[Job]) -> Result<(), StoreError> {
    let mut tx = store.once().await?;
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
