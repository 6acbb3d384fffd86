//! The job table and the worker in batches: claimed, ended and told many at a time, as carefully as one by one.

use std::collections::{BTreeMap, HashSet};
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use grosz::clock::Clock;
use grosz::config::Hidden;
use grosz::domain::invoice::State;
use grosz::flows::notify::{Raise, raise};
use grosz::flows::tell_client::tell;
use grosz::flows::{add_account, deliver};
use grosz::store::{Job, JobEnd, JobKind, Lane, NewJob, Telling};
use grosz::worker;
use grosz_providers::wire::{Headers, Http, HttpError, HttpRequest, HttpResponse};
use grosz_providers::{EventKind, Provider, registry};
use serde_json::json;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use wiremock::matchers::{method, path};
use wiremock::{Mock, MockServer, Request, Respond, ResponseTemplate};

use crate::harness::{Engine, Hub, empty_store};
use crate::matter::{Matter, TwinWay, event, invoicing_account, matter_for};
use crate::on_both;
use crate::raw::Raw;

/// Work about `count` attempts, due now.
fn polls(hub: &Hub, count: usize) -> Vec<NewJob> {
    let now = hub.app.now();
    let new = |_| NewJob {
        merchant_id: hub.merchant.id.clone(),
        id: hub.app.ids.make("job"),
        kind: JobKind::PollStatus,
        subject: hub.app.ids.make("att"),
        run_at: now,
        created_at: now,
    };
    (0..count).map(new).collect()
}

async fn enqueue(hub: &Hub, new: &[NewJob]) {
    let mut tx = hub.tx().await;
    tx.enqueue_jobs(new).await.unwrap();
    tx.commit().await.unwrap();
}

async fn claim(hub: &Hub, lane: Lane, most: i64) -> Vec<Job> {
    let mut tx = hub.tx().await;
    let now = hub.app.now();
    let jobs = tx.claim_jobs(lane, now, now + 60_000_000, most).await.unwrap();
    tx.commit().await.unwrap();
    jobs
}

/// Messages to all endpoints of the merchant.
async fn messages(hub: &Hub, count: usize) {
    let mut tx = hub.tx().await;
    for n in 0..count {
        let data = json!({"n": n});
        tell(&hub.app, &mut tx, &hub.merchant.id, "payment.started", "pay_1", false, data).await.unwrap();
    }
    tx.commit().await.unwrap();
    hub.app.job_bell.notify_one();
}

async fn endpoint(hub: &Hub, url: &str) -> String {
    let made = hub.post("/v1/webhook-endpoints", json!({"url": url})).await.expect(201).json();
    made["id"].as_str().expect("an id").to_owned()
}

async fn told(hub: &Hub, endpoint: &str, state: &str) -> usize {
    let page = grosz::store::Page { before: None, limit: 10_000 };
    let tellings = hub.app.store.read().await.unwrap().tellings(&hub.merchant.id, endpoint, &page).await.unwrap();
    tellings.iter().filter(|t: &&Telling| t.state == state).count()
}

/// A worker beside the hub; it ends with its handle.
struct Worker(watch::Sender<bool>, Option<JoinHandle<bool>>);

impl Worker {
    fn start(hub: &Hub) -> Worker {
        let (stop, stopped) = watch::channel(false);
        Worker(stop, Some(tokio::spawn(worker::work(Arc::clone(&hub.app), stopped))))
    }

    async fn stop(mut self) {
        self.0.send(true).unwrap();
        assert!(self.1.take().unwrap().await.unwrap(), "it was told to stop");
    }
}

/// Looks until it is so; half a minute at most.
async fn until<F: Future<Output = bool>>(what: &str, is_so: impl Fn() -> F) {
    let began = Instant::now();
    while !is_so().await {
        assert!(began.elapsed() < Duration::from_secs(30), "never: {what}");
        tokio::task::yield_now().await;
    }
}

/// Lets time pass when all that is due was done, so that no lease runs out under a run.
async fn pass(hub: &Hub, raw: &Raw, seconds: u64) {
    let busy = format!(
        "SELECT COUNT(*) FROM jobs WHERE kind = 'tell_client' AND (state = 'running' OR run_at <= {})",
        hub.app.now()
    );
    if raw.number(&busy).await == 0 {
        hub.advance(seconds);
        hub.app.job_bell.notify_one();
    }
}

// F28: an invoice that waits for its turn is woken, also where whoever was to wake it died, or knows nothing of it.
on_both!(an_invoice_that_nobody_woke_is_found, async |engine: Engine| {
    let ways = OnceLock::new();
    let hub = Hub::build(
        engine,
        |_| {},
        |app| {
            let way = TwinWay::new(app.clock.clone());
            app.http = way.clone();
            app.http_documents = Arc::clone(&way) as Arc<_>;
            let _ = ways.set(way);
        },
    )
    .await;
    invoicing_account(&hub).await;
    let matter = matter_for(&hub.app, &hub.merchant, None).await;
    let (payment, attempt) = matter.payment(&hub, "1/2026").await;
    matter.receive(&hub, event(&attempt, "paid", EventKind::Paid, "r1")).await;
    let raw = Raw::of(&hub.app).await;
    raw.run(
        "UPDATE jobs SET last_error = 'waits for its turn', run_at = run_at + 120000000 WHERE kind = 'issue_invoice'",
    )
    .await;
    // Time stands still: it will never be due.
    let worker = Worker::start(&hub);
    until("it is issued", async || {
        let mut tx = hub.app.store.read().await.unwrap();
        let invoice = tx.invoice_of_payment(&payment.merchant_id, &payment.id).await.unwrap();
        invoice.is_some_and(|invoice| invoice.state == State::Issued)
    })
    .await;
    worker.stop().await;
});

// F40, F41: the mail about a job that was set aside kills its workers too; nobody mails about that mail for ever.
on_both!(a_mail_about_poison_breeds_no_mail_about_itself, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let raw = Raw::of(&hub.app).await;
    raw.run(match engine {
        Engine::Sqlite => {
            "CREATE TRIGGER poison AFTER INSERT ON jobs BEGIN UPDATE jobs SET crashes = 99 WHERE id = NEW.id; END"
        }
        Engine::Postgres => {
            "CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN NEW.crashes := 99; RETURN NEW; END $$;
             CREATE TRIGGER poison BEFORE INSERT ON jobs FOR EACH ROW EXECUTE FUNCTION poison()"
        }
    })
    .await;
    enqueue(&hub, &polls(&hub, 1)).await;
    let ran = tokio::time::timeout(Duration::from_secs(30), hub.run_jobs()).await;
    assert_eq!(ran.expect("an end"), 0, "poison is not run");
    assert_eq!(
        raw.number("SELECT COUNT(*) FROM jobs WHERE state = 'failed'").await,
        2,
        "the job, and the mail about it"
    );
    assert_eq!(raw.number("SELECT COUNT(*) FROM alerts").await, 1);
});

/// Two gateways and an invoicing API. The first gateway accepts and never answers.
struct Hanging {
    books: Arc<TwinWay>,
    held: AtomicUsize,
    asked: AtomicUsize,
}

#[async_trait]
impl Http for Hanging {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        if request.url.starts_with("http://hangs.example/") {
            self.held.fetch_add(1, Ordering::SeqCst);
            return std::future::pending().await;
        }
        if request.url.starts_with("http://answers.example/") {
            self.asked.fetch_add(1, Ordering::SeqCst);
            return Err(HttpError::NoAnswer("cut".into()));
        }
        self.books.send(request).await
    }
}

// F35: one gateway hangs, with more to ask it than the worker has places; whatever leads elsewhere runs at once.
on_both!(a_gateway_that_hangs_holds_up_its_own_jobs_only, async |engine: Engine| {
    let ways = std::sync::OnceLock::new();
    let hub = Hub::build(
        engine,
        |c| c.job_concurrency = 8,
        |app| {
            let books = TwinWay::new(app.clock.clone());
            let way = Arc::new(Hanging { books, held: AtomicUsize::new(0), asked: AtomicUsize::new(0) });
            app.http = Arc::clone(&way) as Arc<_>;
            app.http_documents = Arc::clone(&way) as Arc<_>;
            let _ = ways.set(way);
        },
    )
    .await;
    let way = ways.get().unwrap();
    let mut gateways = registry::providers();
    let settings = |gateway: Option<&'static dyn Provider>, root: &str| {
        gateway.expect("a gateway").twin().expect("with a twin").demo_settings(root)
    };
    invoicing_account(&hub).await;
    let first = settings(gateways.next(), "http://hangs.example");
    let matter = matter_for(&hub.app, &hub.merchant, Some(&first)).await;
    let (paid, attempt) = matter.payment(&hub, "paid/2026").await;
    let mut polls = vec![];
    for n in 0..60 {
        polls.push(matter.payment(&hub, &format!("{n}/2026")).await.1.id);
    }
    let raw = Raw::of(&hub.app).await;
    raw.run("UPDATE provider_accounts SET enabled = 0").await;
    let second = gateways.next();
    let mut tx = hub.tx().await;
    let (name, given) = (second.expect("a gateway").facts().name, settings(second, "http://answers.example"));
    let other =
        add_account::add_provider_account(&hub.app, &mut tx, &hub.merchant.id, name, &given, Some("PLN"), false);
    let other = other.await.unwrap();
    tx.commit().await.unwrap();
    let elsewhere = Matter { account: Arc::new(other), expert: matter.expert.clone(), payer: matter.payer.clone() };
    let (_, answered) = elsewhere.payment(&hub, "elsewhere/2026").await;
    raw.run("UPDATE provider_accounts SET enabled = 1").await;
    // Their links were asked for: of others no gateway is asked.
    raw.run("UPDATE attempts SET start_lease = 0").await;
    raw.run("DELETE FROM jobs").await;
    let now = hub.app.now();
    let job = |subject: &str| NewJob {
        merchant_id: hub.merchant.id.clone(),
        id: hub.app.ids.make("job"),
        kind: JobKind::PollStatus,
        subject: subject.to_owned(),
        run_at: now,
        created_at: now,
    };
    enqueue(&hub, &polls.iter().map(|id| job(id)).collect::<Vec<_>>()).await;
    let worker = Worker::start(&hub);
    until("the first gateway hangs", async || way.held.load(Ordering::SeqCst) >= 2).await;
    // An invoice, a mail, an answer of the other gateway.
    matter.receive(&hub, event(&attempt, "paid", EventKind::Paid, "r1")).await;
    let mut tx = hub.tx().await;
    let matter = Raise::about_account("provider.config", "k".into(), &hub.merchant.id, "a try".into());
    raise(&hub.app, &mut tx, matter).await.unwrap();
    tx.commit().await.unwrap();
    enqueue(&hub, &[job(&answered.id)]).await;
    hub.app.job_bell.notify_one();
    until("the other gateway is asked", async || way.asked.load(Ordering::SeqCst) > 0).await;
    until("the invoice is issued", async || {
        let mut tx = hub.app.store.read().await.unwrap();
        let invoice = tx.invoice_of_payment(&paid.merchant_id, &paid.id).await.unwrap();
        invoice.is_some_and(|i| i.state == State::Issued)
    })
    .await;
    until("somebody has a mail", async || !hub.mails().is_empty()).await;
    assert!(way.held.load(Ordering::SeqCst) <= 4, "half of the places at most, and a quarter when there are many");
    let due = format!("SELECT COUNT(*) FROM jobs WHERE kind = 'poll_status' AND state = 'ready' AND run_at <= {now}");
    until("the others have a turn of their own", async || raw.number(&due).await == 0).await;
    // They hang for ever: the worker is not waited for.
    drop(worker);
});

/// Workers die with every job in their hands that is not a delivery, until all are set aside.
async fn kill_workers(hub: &Hub) {
    let lease = u64::try_from(hub.app.config.job_lease_s).unwrap() + 1;
    let most = hub.app.config.job_max_crashes;
    for _ in 0..=most {
        let mut tx = hub.app.store.once().await.unwrap();
        let now = hub.app.now();
        tx.claim_jobs(Lane::Rest, now, now + 1_000_000, 100).await.unwrap();
        tx.commit().await.unwrap();
        hub.advance(lease);
    }
    hub.run_jobs().await;
}

/// A mail server that lets 25 seconds of the hub's time pass before each reply while it is slow; takes letters.
struct Tarpit {
    port: u16,
    is_slow: Arc<AtomicBool>,
    letters: Arc<AtomicUsize>,
}

impl Tarpit {
    fn before(clock: Arc<OnceLock<Clock>>) -> Tarpit {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let (is_slow, letters) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicUsize::new(0)));
        let (slow, taken) = (Arc::clone(&is_slow), Arc::clone(&letters));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let (mut stream, mut in_letter, mut reply) = (BufReader::new(stream.unwrap()), false, "220 ready\r\n");
                loop {
                    if slow.load(Ordering::SeqCst) && !reply.is_empty() {
                        std::thread::sleep(Duration::from_millis(300));
                        clock.get().unwrap().advance(Duration::from_secs(25));
                    }
                    let mut line = String::new();
                    let is_there = stream.get_mut().write_all(reply.as_bytes()).is_ok();
                    if !is_there || !stream.read_line(&mut line).is_ok_and(|n| n > 0) {
                        break;
                    }
                    reply = match (in_letter, line.as_str()) {
                        (true, ".\r\n") => {
                            in_letter = false;
                            taken.fetch_add(1, Ordering::SeqCst);
                            "250 queued\r\n"
                        }
                        (true, _) => "",
                        (false, "DATA\r\n") => {
                            in_letter = true;
                            "354 go on\r\n"
                        }
                        (false, _) => "250 ok\r\n",
                    };
                }
            }
        });
        Tarpit { port, is_slow, letters }
    }
}

// F38: a mail server that is slow at each step is left while the job is ours; the letter goes out once, when it is quick.
on_both!(a_slow_mail_server_gets_one_copy, async |engine: Engine| {
    let clock = Arc::new(OnceLock::new());
    let tarpit = Tarpit::before(Arc::clone(&clock));
    let hub = Hub::build(
        engine,
        |c| (c.mail_s, c.smtp_url) = (1, Hidden(format!("smtp://127.0.0.1:{}?tls=none", tarpit.port))),
        |app| drop(clock.set(app.clock.clone())),
    )
    .await;
    let raw = Raw::of(&hub.app).await;
    let mut tx = hub.tx().await;
    let matter = Raise::about_account("provider.config", "k".into(), &hub.merchant.id, "a try".into());
    raise(&hub.app, &mut tx, matter).await.unwrap();
    tx.commit().await.unwrap();
    assert_eq!(hub.run_jobs().await, 1);
    let jobs = raw.rows("SELECT state, CAST(attempts AS TEXT), CAST(crashes AS TEXT) FROM jobs").await;
    assert_eq!(jobs, [["ready", "1", "0"]], "put off by its owner");
    tarpit.is_slow.store(false, Ordering::SeqCst);
    hub.advance(3600);
    assert_eq!(hub.run_jobs().await, 1);
    assert_eq!(tarpit.letters.load(Ordering::SeqCst), 1);
    assert_eq!(raw.number("SELECT COUNT(*) FROM jobs").await, 0);
});

// F41: an invoice whose job was set aside goes on when the cause is gone, and is issued once.
on_both!(a_job_that_was_set_aside_is_run_again, async |engine: Engine| {
    let ways = std::sync::OnceLock::new();
    let hub = Hub::build(
        engine,
        |c| c.job_max_crashes = 3,
        |app| {
            let way = TwinWay::new(app.clock.clone());
            app.http = way.clone();
            app.http_documents = Arc::clone(&way) as Arc<_>;
            let _ = ways.set(way);
        },
    )
    .await;
    invoicing_account(&hub).await;
    let matter = matter_for(&hub.app, &hub.merchant, None).await;
    let (payment, attempt) = matter.payment(&hub, "1/2026").await;
    Raw::of(&hub.app).await.run("DELETE FROM jobs").await;
    matter.receive(&hub, event(&attempt, "paid", EventKind::Paid, "r1")).await;
    kill_workers(&hub).await;
    let state = async || {
        let mut tx = hub.app.store.read().await.unwrap();
        tx.invoice_of_payment(&payment.merchant_id, &payment.id).await.unwrap().unwrap().state
    };
    assert_eq!(state().await, State::Queued);
    let failed = hub.get("/v1/jobs?state=failed").await.expect(200).json();
    let issue = failed["data"].as_array().unwrap().iter().find(|j| j["kind"] == "issue_invoice").expect("set aside");
    let retry = format!("/v1/jobs/{}/retry", issue["id"].as_str().unwrap());
    let alerts = async || {
        let open = hub.get("/v1/alerts").await.expect(200).json();
        open["data"].as_array().unwrap().iter().filter(|a| a["reason"].as_str().unwrap().contains(&retry)).count()
    };
    assert_eq!(alerts().await, 1);
    // Somebody else is at it already.
    let live = NewJob {
        merchant_id: hub.merchant.id.clone(),
        id: hub.app.ids.make("job"),
        kind: JobKind::IssueInvoice,
        subject: issue["subject"].as_str().unwrap().to_owned(),
        run_at: hub.app.now() + 3_600_000_000,
        created_at: hub.app.now(),
    };
    enqueue(&hub, std::slice::from_ref(&live)).await;
    assert_eq!(hub.post(&retry, json!({})).await.expect(409).json()["code"], "job_is_live");
    Raw::of(&hub.app).await.run(format!("DELETE FROM jobs WHERE id = '{}'", live.id)).await;
    let revived = hub.post(&retry, json!({})).await.expect(200).json();
    assert_eq!((revived["state"].as_str(), revived["crashes"].as_i64()), (Some("ready"), Some(0)));
    assert_eq!(alerts().await, 0);
    hub.post(&retry, json!({})).await.expect(404);
    hub.run_jobs().await;
    assert_eq!(state().await, State::Issued);
    let sent = ways.get().unwrap().once.lock().unwrap().iter().filter(|url| url.contains("/invoices/add")).count();
    assert_eq!(sent, 1);
});

// F41: what was claimed together with a job that kills its workers runs, even while that one cannot be set aside.
on_both!(poison_that_cannot_be_set_aside_holds_nobody_up, async |engine: Engine| {
    let hub = Hub::start_with(engine, |c| c.job_max_crashes = 3).await;
    let raw = Raw::of(&hub.app).await;
    let new = polls(&hub, 3);
    enqueue(&hub, &new).await;
    raw.run(format!("UPDATE jobs SET crashes = 3 WHERE id = '{}'", new[0].id)).await;
    raw.run(match engine {
        Engine::Sqlite => "CREATE TRIGGER mute BEFORE INSERT ON alerts BEGIN SELECT RAISE(ABORT, 'mute'); END",
        Engine::Postgres => {
            "CREATE FUNCTION mute() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'mute'; END $$;
             CREATE TRIGGER mute BEFORE INSERT ON alerts FOR EACH ROW EXECUTE FUNCTION mute()"
        }
    })
    .await;
    let worker = Worker::start(&hub);
    until("the others run", async || raw.number("SELECT COUNT(*) FROM jobs").await == 1).await;
    worker.stop().await;
    let left = raw.rows("SELECT id, state FROM jobs").await;
    assert_eq!(left, [[new[0].id.clone(), "running".into()]], "found again when its lease lapses");
    raw.run(match engine {
        Engine::Sqlite => "DROP TRIGGER mute",
        Engine::Postgres => "DROP TRIGGER mute ON alerts",
    })
    .await;
    hub.advance(3600);
    hub.run_jobs().await;
    assert_eq!(raw.rows("SELECT state FROM jobs WHERE kind = 'poll_status'").await, [["failed"]]);
});

on_both!(a_thousand_jobs_end_in_one_statement, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let raw = Raw::of(&hub.app).await;
    let new = polls(&hub, 1000);
    enqueue(&hub, &new).await;
    enqueue(&hub, &new).await;
    assert_eq!(raw.number("SELECT COUNT(*) FROM jobs").await, 1000, "enqueueing twice is one piece of work");
    let claimed = claim(&hub, Lane::Rest, 5000).await;
    let subjects = |jobs: &[Job]| jobs.iter().map(|j| j.subject.clone()).collect::<Vec<_>>();
    assert_eq!(subjects(&claimed), new.iter().map(|j| j.subject.clone()).collect::<Vec<_>>(), "oldest first");
    let (again, done) = claimed.split_at(100);
    let (returned, again) = again.split_at(50);
    let at = hub.app.now() + 7;
    let mut ends: Vec<_> = done.iter().map(|j| (j, JobEnd::Done)).collect();
    ends.extend(again.iter().map(|j| (j, JobEnd::Again(at, Some("later")))));
    ends.extend(returned.iter().map(|j| (j, JobEnd::Returned(at))));
    let mut tx = hub.tx().await;
    assert_eq!(tx.end_jobs(&ends, hub.app.now()).await.unwrap().len(), 1000);
    assert!(tx.end_jobs(&ends, hub.app.now()).await.unwrap().is_empty(), "an end is written once");
    tx.commit().await.unwrap();
    let left = "SELECT COUNT(*) FROM jobs WHERE state = 'ready' AND";
    assert_eq!(raw.number(&format!("{left} attempts = 1 AND last_error = 'later' AND run_at = {at}")).await, 50);
    assert_eq!(raw.number(&format!("{left} attempts = 0 AND last_error IS NULL AND run_at = {at}")).await, 50);
    assert_eq!(raw.number("SELECT COUNT(*) FROM jobs").await, 100);
});

on_both!(each_job_is_claimed_by_one_of_many, async |engine: Engine| {
    let hub = Arc::new(Hub::start(engine).await);
    enqueue(&hub, &polls(&hub, 500)).await;
    let mut workers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let hub = Arc::clone(&hub);
        workers.spawn(async move {
            let mut mine = vec![];
            // On PostgreSQL a claim passes over what another one holds at this very moment.
            while hub
                .app
                .store
                .read()
                .await
                .unwrap()
                .next_due()
                .await
                .unwrap()
                .rest
                .is_some_and(|at| at <= hub.app.now())
            {
                mine.extend(claim(&hub, Lane::Rest, 16).await);
            }
            mine
        });
    }
    let all: Vec<Job> = workers.join_all().await.into_iter().flatten().collect();
    assert_eq!(all.len(), 500);
    assert_eq!(all.iter().map(|j| &j.id).collect::<HashSet<_>>().len(), 500);
});

// The table is as large as the work that waits, however much was done.
on_both!(the_table_returns_to_its_live_size, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let raw = Raw::of(&hub.app).await;
    let size = if raw.is_postgres() { "SELECT pg_total_relation_size('jobs')" } else { "PRAGMA page_count" };
    let mut first = None;
    for _ in 0..20 {
        enqueue(&hub, &polls(&hub, 1000)).await;
        let live = *first.get_or_insert(raw.number(size).await);
        let claimed = claim(&hub, Lane::Rest, 1000).await;
        let mut tx = hub.tx().await;
        assert_eq!(tx.finish_jobs(&claimed.iter().collect::<Vec<_>>()).await.unwrap().len(), 1000);
        tx.commit().await.unwrap();
        if raw.is_postgres() {
            raw.run("VACUUM jobs").await;
        }
        assert!(raw.number(size).await <= 2 * live, "{} bytes or pages, {live} live", raw.number(size).await);
    }
    assert_eq!(raw.number("SELECT COUNT(*) FROM jobs").await, 0);
});

// F49: work that waits, runs or was set aside survives the change of the table; what was done goes.
on_both!(jobs_survive_the_change_of_their_table, async |engine: Engine| {
    let (store, url, _dir) = empty_store(engine).await;
    store.migrate_up_to(2, 0).await.unwrap();
    let raw = Raw::at(&url).await;
    for (n, state, lease) in [(1, "ready", "NULL"), (2, "running", "77"), (3, "done", "NULL"), (4, "failed", "NULL")] {
        raw.run(format!(
            "INSERT INTO jobs (merchant_id, id, kind, subject, state, run_at, attempts, crashes, lease_until, fence, last_error, created_at)
             VALUES ('mer_1', 'job_{n}', 'fetch_pdf', 'ivc_{n}', '{state}', 50, 2, 1, {lease}, 3, 'why', 1)"
        ))
        .await;
    }
    raw.run("INSERT INTO jobs (merchant_id, id, kind, subject, state, run_at, attempts, crashes, fence, created_at) VALUES ('mer_1', 'job_5', 'fetch_pdf', 'ivc_4', 'ready', 60, 0, 0, 0, 1)")
        .await;
    store.migrate(0).await.unwrap();
    let there = raw.column("SELECT id || ' ' || state || ' ' || run_at FROM jobs ORDER BY id").await;
    assert_eq!(there, ["job_1 ready 50", "job_2 running 77", "job_4 failed 50", "job_5 ready 60"]);
    let mut tx = store.begin().await.unwrap();
    let claimed = tx.claim_jobs(Lane::Rest, 76, 500, 10).await.unwrap();
    assert_eq!(claimed.iter().map(|j| j.id.as_str()).collect::<Vec<_>>(), ["job_1", "job_5"], "one is still owned");
    assert_eq!((claimed[0].attempts, claimed[0].crashes, claimed[0].fence), (3, 1, 4));
    let claimed = tx.claim_jobs(Lane::Rest, 77, 500, 10).await.unwrap();
    assert_eq!((claimed[0].id.as_str(), claimed[0].crashes), ("job_2", 2), "its lease ran out");
    tx.commit().await.unwrap();
    assert_eq!(raw.number("SELECT COUNT(*) FROM jobs_readable WHERE state = 'failed'").await, 1);
});

// F42: of many deliveries recorded together one lost its lease. It writes nothing, the others do.
on_both!(a_lost_lease_in_a_batch_writes_nothing, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let server = MockServer::start().await;
    Mock::given(method("POST")).respond_with(ResponseTemplate::new(200)).mount(&server).await;
    let id = endpoint(&hub, &server.uri()).await;
    messages(&hub, 10).await;
    let jobs = claim(&hub, Lane::Telling, 100).await;
    let loaded = deliver::load(&hub.app, jobs).await.unwrap();
    let mut batch = vec![];
    for delivery in loaded.deliveries {
        batch.push(deliver::send(&hub.app, delivery).await);
    }
    let lost = batch[3].job().clone();
    let raw = Raw::of(&hub.app).await;
    raw.run(format!("UPDATE jobs SET run_at = 1 WHERE id = '{}'", lost.id)).await;
    let owner = claim(&hub, Lane::Telling, 100).await;
    assert_eq!(owner.iter().map(|j| &j.id).collect::<Vec<_>>(), [&lost.id]);
    deliver::record(&hub.app, &batch).await.unwrap();
    assert_eq!((told(&hub, &id, "delivered").await, told(&hub, &id, "pending").await), (9, 1));
    let attempts = format!("SELECT attempts FROM tellings WHERE id = '{}'", lost.subject);
    assert_eq!(raw.number(&attempts).await, 0, "as if it had not been tried");
    deliver::run(&hub.app, &owner[0]).await.unwrap();
    assert_eq!(told(&hub, &id, "delivered").await, 10);
    assert_eq!(raw.number("SELECT COUNT(*) FROM jobs").await, 0);
    let sent = server.received_requests().await.unwrap();
    assert_eq!(sent.len(), 11);
    assert_eq!(sent.iter().map(|r| r.headers["webhook-id"].clone()).collect::<HashSet<_>>().len(), 10);
});

/// Refuses every twentieth call.
#[derive(Clone, Default)]
struct Moody(Arc<AtomicUsize>, Arc<Mutex<BTreeMap<String, usize>>>);

impl Respond for Moody {
    fn respond(&self, request: &Request) -> ResponseTemplate {
        if self.0.fetch_add(1, Ordering::SeqCst) % 20 == 7 {
            return ResponseTemplate::new(500);
        }
        let id = request.headers["webhook-id"].to_str().unwrap().to_owned();
        *self.1.lock().unwrap().entry(id).or_default() += 1;
        ResponseTemplate::new(204)
    }
}

// F43: one call in twenty fails; nothing is lost, and nothing that was taken comes again.
on_both!(a_flood_is_told_without_a_loss, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let (server, moody) = (MockServer::start().await, Moody::default());
    Mock::given(method("POST")).respond_with(moody.clone()).mount(&server).await;
    let id = endpoint(&hub, &server.uri()).await;
    let worker = Worker::start(&hub);
    messages(&hub, 600).await;
    let raw = Raw::of(&hub.app).await;
    until("all are told", async || {
        // Past the pauses of those that failed.
        pass(&hub, &raw, 400).await;
        told(&hub, &id, "delivered").await == 600
    })
    .await;
    worker.stop().await;
    let taken = moody.1.lock().unwrap().clone();
    assert_eq!(taken.len(), 600);
    assert!(taken.values().all(|times| *times == 1), "{taken:?}");
    assert_eq!(raw.number("SELECT COUNT(*) FROM jobs").await, 0);
    let health = hub.app.store.read().await.unwrap().endpoint(&hub.merchant.id, &id).await.unwrap().unwrap();
    assert_eq!((health.state.as_str(), health.failed_messages), ("enabled", 0), "the last one was taken");
});

// F43: an endpoint that never answers holds its own places only; another one, other work, and the stop go on.
on_both!(a_hanging_endpoint_holds_nobody_else, async |engine: Engine| {
    let hub = Hub::start_with(engine, |c| (c.tell_concurrency, c.tell_in_flight, c.tell_timeout_s) = (4, 64, 6)).await;
    // Accepts connections, by the system's queue, and never answers.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hanging = endpoint(&hub, &format!("http://{}/", silent.local_addr().unwrap())).await;
    messages(&hub, 300).await;
    let server = MockServer::start().await;
    Mock::given(path("/hook")).respond_with(ResponseTemplate::new(200)).mount(&server).await;
    let healthy = endpoint(&hub, &format!("{}/hook", server.uri())).await;
    let mut tx = hub.tx().await;
    let mut off = tx.endpoint(&hub.merchant.id, &hanging).await.unwrap().unwrap();
    off.types = vec!["endpoint.test".into()];
    tx.update_endpoint(&off).await.unwrap();
    tx.commit().await.unwrap();
    messages(&hub, 50).await;
    let worker = Worker::start(&hub);
    until("the healthy one is told", async || told(&hub, &healthy, "delivered").await == 50).await;
    assert_eq!(told(&hub, &hanging, "pending").await, 300);
    worker.stop().await;
    let mut tx = hub.app.store.read().await.unwrap();
    assert_eq!(tx.queue_depth().await.unwrap().iter().map(|d| d.count).sum::<i64>(), 300);
    let raw = Raw::of(&hub.app).await;
    assert_eq!(raw.number("SELECT COUNT(*) FROM jobs WHERE state = 'running'").await, 0, "a stop gives back");
    let tried = raw.number("SELECT COUNT(*) FROM tellings WHERE attempts > 0").await;
    assert!((50 + 1..=50 + 12).contains(&tried), "{tried} were tried");
    assert_eq!(raw.number("SELECT COUNT(*) FROM jobs WHERE attempts > 1").await, 0, "a wait is not an attempt");
});

/// Client apps: those at `holds.example` take a message in and answer when their door is opened, others at once.
struct Doors {
    held: AtomicUsize,
    most: AtomicUsize,
    open: watch::Receiver<bool>,
}

impl Doors {
    fn new() -> (watch::Sender<bool>, Arc<Doors>) {
        let (opener, open) = watch::channel(false);
        (opener, Arc::new(Doors { held: AtomicUsize::new(0), most: AtomicUsize::new(0), open }))
    }
}

#[async_trait]
impl Http for Doors {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        if request.url.to_lowercase().contains("holds.example") {
            self.most.fetch_max(self.held.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            let _ = self.open.clone().wait_for(|open| *open).await;
            self.held.fetch_sub(1, Ordering::SeqCst);
        }
        Ok(HttpResponse { status: 200, headers: Headers::default(), body: vec![] })
    }
}

// F35, F43: two endpoints of one address stand in one line, so that neither burns the other's tries waiting for a call.
on_both!(endpoints_of_one_address_stand_in_one_line, async |engine: Engine| {
    let (opener, doors) = Doors::new();
    let way = Arc::clone(&doors);
    let hub =
        Hub::build(engine, |c| (c.tell_concurrency, c.tell_in_flight) = (4, 64), |app| app.http_clients = way).await;
    let raw = Raw::of(&hub.app).await;
    let first = endpoint(&hub, "http://holds.example/hook").await;
    let second = endpoint(&hub, "http://HOLDS.example:80/hook").await;
    let elsewhere = endpoint(&hub, "http://answers.example/hook").await;
    messages(&hub, 20).await;
    let worker = Worker::start(&hub);
    until("others are told", async || told(&hub, &elsewhere, "delivered").await == 20).await;
    opener.send(true).unwrap();
    for one in [&first, &second] {
        until("all are told", async || {
            pass(&hub, &raw, 2).await;
            told(&hub, one, "delivered").await == 20
        })
        .await;
    }
    worker.stop().await;
    assert_eq!(doors.most.load(Ordering::SeqCst), 4, "calls to one address at the same time");
    assert_eq!(raw.number("SELECT COUNT(*) FROM tellings WHERE attempts > 1").await, 0);
});

// F35, F43: a merchant whose endpoints all hang, with more to tell them than there are places, holds up nobody else.
on_both!(endpoints_that_hang_together_hold_half_of_the_places, async |engine: Engine| {
    let (_opener, doors) = Doors::new();
    let way = Arc::clone(&doors);
    let hub = Hub::build(engine, |c| c.tell_in_flight = 16, |app| app.http_clients = way).await;
    for n in 0..4 {
        endpoint(&hub, &format!("http://holds.example/{n}")).await;
    }
    messages(&hub, 20).await;
    let worker = Worker::start(&hub);
    until("half of the places are held", async || doors.held.load(Ordering::SeqCst) >= 8).await;
    let key = "sk_test_other00000000000000000000000000000";
    let other = hub.other_merchant("Sklep", key).await;
    let url = json!({"url": "http://answers.example/hook"});
    hub.call("POST", "/v1/webhook-endpoints", Some(key), Some(url), &[]).await.expect(201);
    for count in [1, 30] {
        let mut tx = hub.tx().await;
        for _ in 0..count {
            tell(&hub.app, &mut tx, &other.id, "payment.started", "pay_2", false, json!({})).await.unwrap();
        }
        tx.commit().await.unwrap();
        hub.app.job_bell.notify_one();
        until("the other merchant's are told", async || {
            let page = grosz::store::Page { before: None, limit: 100 };
            let mut tx = hub.app.store.read().await.unwrap();
            let endpoint = tx.endpoints(&other.id).await.unwrap().remove(0).id;
            tx.tellings(&other.id, &endpoint, &page).await.unwrap().iter().all(|t| t.state == "delivered")
        })
        .await;
    }
    assert!(doors.most.load(Ordering::SeqCst) <= 8 + 4, "half of the places, and a first call to each");
    // They hang for ever: the worker is not waited for.
    drop(worker);
});

// A flood in one lane does not stand before the work of the other.
on_both!(deliveries_do_not_stand_before_other_work, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let raw = Raw::of(&hub.app).await;
    let server = MockServer::start().await;
    Mock::given(method("POST")).respond_with(ResponseTemplate::new(200)).mount(&server).await;
    let id = endpoint(&hub, &server.uri()).await;
    messages(&hub, 300).await;
    hub.advance(1);
    let new = polls(&hub, 1);
    enqueue(&hub, &new).await;
    assert_eq!(claim(&hub, Lane::Rest, 1).await[0].id, new[0].id, "though 300 are due before it");
    let worker = Worker::start(&hub);
    until("all are told", async || {
        pass(&hub, &raw, 2).await;
        told(&hub, &id, "delivered").await == 300
    })
    .await;
    worker.stop().await;
    assert_eq!(raw.column("SELECT kind FROM jobs").await, ["poll_status"]);
});

// An idle worker writes nothing, however often it looks.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_worker_writes_nothing() {
    let hub = Hub::start_with(Engine::Sqlite, |c| c.job_tick_ms = 1).await;
    let worker = Worker::start(&hub);
    let raw = Raw::of(&hub.app).await;
    until("the turn of the housekeeping is over", async || {
        raw.number("SELECT COUNT(*) FROM scheduled_runs WHERE done_at IS NOT NULL").await == 1
    })
    .await;
    let mut later = polls(&hub, 1);
    later[0].run_at += 1;
    enqueue(&hub, &later).await;
    let Raw::Sqlite(pool) = &raw else { unreachable!() };
    let mut one = pool.acquire().await.unwrap();
    let mut version = async || sqlx::query_scalar::<_, i64>("PRAGMA data_version").fetch_one(&mut *one).await.unwrap();
    let before = version().await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_millis(300) {
        hub.app.job_bell.notify_one();
        assert_eq!(version().await, before);
    }
    hub.advance(1);
    hub.app.job_bell.notify_one();
    until("the job that is due now runs", async || raw.number("SELECT COUNT(*) FROM jobs").await == 0).await;
    worker.stop().await;
}

// An endpoint that is given up in the middle of a batch: one alert, and what waits for it is let go.
on_both!(gone_in_a_batch_is_told_once, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let server = MockServer::start().await;
    Mock::given(method("POST")).respond_with(ResponseTemplate::new(410)).mount(&server).await;
    let id = endpoint(&hub, &server.uri()).await;
    messages(&hub, 40).await;
    let worker = Worker::start(&hub);
    let raw = Raw::of(&hub.app).await;
    until("no delivery is left", async || {
        raw.number("SELECT COUNT(*) FROM jobs WHERE kind = 'tell_client'").await == 0
    })
    .await;
    worker.stop().await;
    let row = hub.app.store.read().await.unwrap().endpoint(&hub.merchant.id, &id).await.unwrap().unwrap();
    assert_eq!((row.state.as_str(), row.state_reason.as_deref()), ("disabled", Some("answered 410 Gone")));
    assert_eq!(raw.number("SELECT COUNT(*) FROM alerts WHERE code = 'endpoint.disabled'").await, 1);
});
