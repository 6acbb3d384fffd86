//! Delivers messages to client apps' endpoints, many at a time: what a batch needs is read in two statements, and what
//! came of it is written in as few, in one transaction with the ends of the jobs.
//!
//! A crash in between repeats deliveries with the same ids. Must not know: who waits for whom (`worker/lines.rs`).

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use grosz_providers::wire::HttpRequest;

use super::FlowError;
use super::notify::{Raise, raise};
use super::tell_client::held_keys;
use crate::app::App;
use crate::clock::seconds;
use crate::jobs::{self, End};
use crate::standard_webhooks::delivery::{self, FailureRun, HealthRule, Schedule, Verdict};
use crate::standard_webhooks::{self, HeldKey};
use crate::store::{Endpoint, Job, Telling, Tx};

/// One message to one endpoint, ready to be sent.
pub struct Delivery {
    /// Its job.
    pub job: Job,
    /// To whom.
    pub to: Arc<Receiver>,
    telling: Telling,
    body: String,
}

/// An endpoint with its keys, opened once for a batch.
pub struct Receiver {
    /// The line that it stands in: its address as it is called. Endpoints with one address share it.
    pub line: String,
    url: String,
    keys: Vec<HeldKey>,
}

/// A delivery that was tried.
pub struct Told {
    job: Job,
    to: Arc<Receiver>,
    telling: Telling,
    tried: Tried,
}

impl Told {
    /// Its job.
    pub fn job(&self) -> &Job {
        &self.job
    }
}

/// What came of one try.
struct Tried {
    status: Option<u16>,
    retry_after: Option<Duration>,
    error: Option<String>,
}

/// What a batch of jobs comes to.
#[derive(Default)]
pub struct Loaded {
    /// To be sent.
    pub deliveries: Vec<Delivery>,
    /// Nothing to send: told already, or the endpoint is off or gone.
    pub moot: Vec<Job>,
    /// Their endpoints' keys do not open.
    pub stuck: Vec<(Job, FlowError)>,
}

/// The job: one try to deliver one message to one endpoint.
///
/// # Errors
/// The database; the job runs again.
pub async fn run(app: &App, job: &Job) -> Result<(), FlowError> {
    let loaded = load(app, vec![job.clone()]).await?;
    if let Some((_, error)) = loaded.stuck.into_iter().next() {
        return Err(error);
    }
    match loaded.deliveries.into_iter().next() {
        Some(delivery) => record(app, &[send(app, delivery).await]).await,
        None => jobs::finish(app, job).await,
    }
}

/// Reads what the jobs of a batch need, and opens the keys of each endpoint once.
///
/// # Errors
/// The database.
pub async fn load(app: &App, jobs: Vec<Job>) -> Result<Loaded, FlowError> {
    let ids: Vec<_> = jobs.iter().map(|j| (j.merchant_id.as_str(), j.subject.as_str())).collect();
    let mut tx = app.store.read().await?;
    let found = tx.tellings_with_texts(&ids).await?;
    let wanted: BTreeSet<_> = found.iter().map(|(t, _)| (t.merchant_id.as_str(), t.endpoint_id.as_str())).collect();
    let endpoints = tx.endpoints_by_id(&wanted.into_iter().collect::<Vec<_>>()).await?;
    drop(tx);
    let open = |e: Endpoint| (e.id.clone(), open(app, e));
    let receivers: HashMap<_, _> = endpoints.into_iter().filter(|e| e.state == "enabled").map(open).collect();
    let mut found: HashMap<_, _> = found.into_iter().map(|(t, body)| (t.id.clone(), (t, body))).collect();
    let mut loaded = Loaded::default();
    for job in jobs {
        let telling = found.remove(&job.subject).filter(|(t, _)| t.state == "pending");
        let Some((telling, body)) = telling else {
            loaded.moot.push(job);
            continue;
        };
        match receivers.get(&telling.endpoint_id) {
            None => loaded.moot.push(job),
            Some(Ok(to)) => loaded.deliveries.push(Delivery { job, to: Arc::clone(to), telling, body }),
            Some(Err(why)) => loaded.stuck.push((job, FlowError::Internal(why.clone()))),
        }
    }
    Ok(loaded)
}

fn open(app: &App, endpoint: Endpoint) -> Result<Arc<Receiver>, String> {
    let keys = held_keys(app, &endpoint).map_err(|e| e.to_string())?;
    let target = app.targets.check_text(&endpoint.url);
    let line = target.map_or_else(|_| endpoint.url.clone(), |target| target.url().to_string());
    Ok(Arc::new(Receiver { line, url: endpoint.url, keys }))
}

/// Signs and sends. What goes wrong on the way is what came of it.
pub async fn send(app: &App, delivery: Delivery) -> Told {
    let Delivery { job, to, telling, body } = delivery;
    // The ends of secrets are instants of our rows; what the receiver compares with its own clock is the world's time.
    let keys = standard_webhooks::live_keys(&to.keys, unix_seconds(app));
    let world_s = u64::try_from(app.clock.outside().as_second()).unwrap_or(0);
    let tried = match standard_webhooks::headers(&keys, &telling.message_id, world_s, body.as_bytes()) {
        Ok(headers) => {
            let mut request = HttpRequest::post(&to.url, "application/json", body.into_bytes());
            request.headers.extend(headers);
            call(app, request, world_s).await
        }
        Err(e) => Tried { status: None, retry_after: None, error: Some(e.to_string()) },
    };
    Told { job, to, telling, tried }
}

async fn call(app: &App, request: HttpRequest, world_s: u64) -> Tried {
    match app.http_clients.send(request).await {
        Ok(answer) => {
            let now = UNIX_EPOCH + Duration::from_secs(world_s);
            let retry_after = delivery::retry_after(answer.headers.first("retry-after"), now);
            Tried { status: Some(answer.status), retry_after, error: None }
        }
        Err(e) => {
            let error = Some(e.to_string().chars().take(500).collect());
            Tried { status: None, retry_after: None, error }
        }
    }
}

fn unix_seconds(app: &App) -> u64 {
    u64::try_from(app.now() / 1_000_000).unwrap_or(0)
}

/// Writes what came of tries: the tellings, the endpoints' health, and when to try again. A run that lost its lease
/// writes nothing, the others of the batch do (F42).
///
/// # Errors
/// The database; nothing was written.
pub async fn record(app: &App, told: &[Told]) -> Result<(), FlowError> {
    let mut lost = HashSet::new();
    loop {
        let mine: Vec<&Told> = told.iter().filter(|t| !lost.contains(&t.job.id)).collect();
        if mine.is_empty() {
            return Ok(());
        }
        let mut tx = app.store.begin().await?;
        let mut healths = Healths::open(app, &mut tx, &mine).await?;
        let results: Vec<_> = mine.iter().map(|t| healths.judge(app, t)).collect();
        let ends: Vec<_> = mine.iter().zip(&results).map(|(t, r)| (&t.job, &r.end)).collect();
        let owned = jobs::write_ends(app, &mut tx, &ends).await?;
        if owned.len() < mine.len() {
            tx.rollback().await?;
            let others: Vec<_> = ends.into_iter().filter(|(job, _)| !owned.contains(&job.id)).collect();
            jobs::count_all(app, &others, &owned);
            lost.extend(others.iter().map(|(job, _)| job.id.clone()));
            continue;
        }
        let tellings: Vec<_> = results.iter().filter_map(|r| r.telling.as_ref().map(|t| (t, r.done_at))).collect();
        tx.update_tellings(&tellings).await?;
        healths.close(app, &mut tx).await?;
        tx.commit().await?;
        jobs::count_all(app, &ends, &owned);
        // What failed is due again some time, and an alert has a notice.
        app.job_bell.notify_one();
        return Ok(());
    }
}

/// What one try means for its rows.
struct Judged {
    /// `None`: its endpoint is gone, and nobody is to be told.
    telling: Option<Telling>,
    done_at: Option<i64>,
    end: End,
}

/// The endpoints of a batch and their health, one try after another.
struct Healths {
    by_endpoint: BTreeMap<(String, String), Health>,
    schedule: Schedule,
    rule: HealthRule,
}

struct Health {
    /// As it is now: its owner may have changed it while we called.
    endpoint: Endpoint,
    run: Option<FailureRun>,
    gives_up: Option<&'static str>,
    /// What came of a message whose last try this was.
    exhausted: Option<String>,
}

impl Healths {
    async fn open(app: &App, tx: &mut Tx, told: &[&Told]) -> Result<Healths, FlowError> {
        let ids: BTreeSet<_> =
            told.iter().map(|t| (t.telling.merchant_id.as_str(), t.telling.endpoint_id.as_str())).collect();
        let endpoints = tx.endpoints_by_id(&ids.into_iter().collect::<Vec<_>>()).await?;
        let entry = |endpoint: Endpoint| {
            let key = (endpoint.merchant_id.clone(), endpoint.id.clone());
            (key, Health { run: run_of(&endpoint), endpoint, gives_up: None, exhausted: None })
        };
        let waits: Vec<u32> = app.config.tell_waits_s.iter().map(|s| u32::try_from(*s).unwrap_or(u32::MAX)).collect();
        Ok(Healths {
            by_endpoint: endpoints.into_iter().map(entry).collect(),
            schedule: Schedule::from_seconds(&waits),
            rule: HealthRule { after_s: u64::try_from(app.config.endpoint_disable_s).unwrap_or(0), messages: 3 },
        })
    }

    fn judge(&mut self, app: &App, told: &Told) -> Judged {
        let now = app.now();
        let mut telling = told.telling.clone();
        let key = (telling.merchant_id.clone(), telling.endpoint_id.clone());
        let Some(health) = self.by_endpoint.get_mut(&key) else {
            return Judged { telling: None, done_at: None, end: End::Done };
        };
        // What another address answered says nothing about this one, and the message goes on to this one.
        let has_moved = health.endpoint.url != told.to.url;
        let verdict = match told.tried.status.map_or(Verdict::Retry, |status| Verdict::of(Ok(status))) {
            Verdict::DisableEndpoint if has_moved => Verdict::Retry,
            verdict => verdict,
        };
        telling.attempts += 1;
        telling.last_status = told.tried.status.map(i64::from);
        telling.last_error.clone_from(&told.tried.error);
        if !has_moved {
            health.run = FailureRun::after(health.run, verdict, unix_seconds(app), telling.attempts == 1);
        }
        let gives_up = match health.run {
            _ if verdict == Verdict::DisableEndpoint => Some("answered 410 Gone"),
            _ if has_moved => None,
            Some(run) if run.is_hopeless(&self.rule) => Some("failed for too long"),
            _ => None,
        };
        health.gives_up = health.gives_up.or(gives_up);
        let made = u32::try_from(telling.attempts).unwrap_or(u32::MAX);
        let random = u32::try_from(app.ids.below(i64::from(u32::MAX))).unwrap_or(0);
        let next = self.schedule.next(made, verdict, told.tried.retry_after, random);
        match next.filter(|_| gives_up.is_none()) {
            Some(wait) => {
                let at = now + i64::try_from(wait.as_micros()).unwrap_or(i64::MAX / 2);
                let end = End::Again { at, error: telling.last_error.clone() };
                Judged { telling: Some(telling), done_at: None, end }
            }
            None => {
                let is_delivered = verdict == Verdict::Delivered;
                telling.state = if is_delivered { "delivered" } else { "failed" }.into();
                // The alert about an endpoint that is given up stands for its messages.
                let is_exhausted = !is_delivered && gives_up.is_none();
                if is_exhausted {
                    let answer = told.tried.status.map(|status| format!("HTTP {status}"));
                    health.exhausted = Some(answer.or(telling.last_error.clone()).unwrap_or_default());
                }
                let end = if is_exhausted { End::Exhausted } else { End::Done };
                Judged { telling: Some(telling), done_at: Some(now), end }
            }
        }
    }

    /// Writes the health that changed, and tells the owners of endpoints that were given up, or did not take a message
    /// with its last try.
    async fn close(self, app: &App, tx: &mut Tx) -> Result<(), FlowError> {
        for health in self.by_endpoint.into_values() {
            let Health { endpoint, run, gives_up, exhausted } = health;
            let first = run.map(|r| seconds(i64::try_from(r.first_s).unwrap_or(0)));
            let messages = run.map_or(0, |r| i64::from(r.messages));
            let has_changed = (first, messages) != (endpoint.first_failure_at, endpoint.failed_messages);
            let is_written = (gives_up.is_some() || has_changed)
                && tx.put_endpoint_health(&endpoint, gives_up, first, messages).await?;
            match (gives_up.filter(|_| is_written), exhausted) {
                (Some(why), _) => raise(app, tx, Raise::about_endpoint(&endpoint, why)).await?,
                (None, Some(answer)) => raise(app, tx, Raise::about_messages(&endpoint, &answer)).await?,
                (None, None) => {}
            }
        }
        Ok(())
    }
}

/// The endpoint's failures since its last success, as far as they are on record.
fn run_of(endpoint: &Endpoint) -> Option<FailureRun> {
    let first_s = u64::try_from(endpoint.first_failure_at? / 1_000_000).ok()?;
    let messages = u32::try_from(endpoint.failed_messages).unwrap_or(u32::MAX);
    Some(FailureRun { first_s, last_s: first_s, messages })
}
