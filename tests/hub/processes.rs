//! Several processes on one database, holding, and stopping.

use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use grosz::app::App;
use grosz::config::{Config, Hidden};
use grosz::domain::invoice::State;
use grosz::store::{JobKind, Lane};
use grosz_providers::EventKind;
use grosz_providers::invoicer::TaxIdKind;
use grosz_providers::wire::{Http, HttpError, HttpRequest, HttpResponse};

use crate::cluster::cluster;
use crate::harness::{Engine, Hub, TempDir, client};
use crate::matter::{TwinWay, event, invoicing_account, matter};
use crate::on_both;
use crate::program::Program;
use crate::raw::Raw;

/// A worker's way to the twin. All of them keep one list of what was called, by whom.
struct Named {
    worker: char,
    way: Arc<TwinWay>,
    called: Arc<Mutex<Vec<(char, String)>>>,
}

#[async_trait::async_trait]
impl Http for Named {
    async fn send(&self, request: HttpRequest) -> Result<HttpResponse, HttpError> {
        self.called.lock().unwrap().push((self.worker, request.url.clone()));
        self.way.send(request).await
    }
}

// F55: two workers on one database, started with the same settings by mistake: each job has one owner, each invoice is
// sent once.
on_both!(two_workers_share_the_work, async |engine: Engine| {
    let ways = std::sync::OnceLock::new();
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
    let way = ways.get().unwrap();
    let config = Config { database_url: Hidden(hub.app.config.database_url.0.clone()), ..hub.app.config.clone() };
    let mut second = App::open(config, hub.app.clock.clone()).await.unwrap();
    second.http = Arc::clone(way) as Arc<_>;
    second.http_documents = Arc::clone(way) as Arc<_>;
    invoicing_account(&hub).await;
    let matter = matter(&hub).await;
    let mut payments = vec![];
    for n in 0..20 {
        let (payment, attempt) = matter.payment(&hub, &format!("{n}/2026")).await;
        matter.receive(&hub, event(&attempt, &format!("paid{n}"), EventKind::Paid, "r1")).await;
        payments.push(payment);
    }
    for _ in 0..40 {
        let (a, b) = tokio::join!(grosz::worker::run_due(&hub.app), grosz::worker::run_due(&second));
        a.and(b).unwrap();
        hub.advance(1);
    }
    let mut tx = hub.app.store.read().await.unwrap();
    for payment in &payments {
        let invoice = tx.invoice_of_payment(&payment.merchant_id, &payment.id).await.unwrap().unwrap();
        assert_eq!((invoice.state, invoice.attempts), (State::Issued, 1), "{invoice:?}");
    }
    let sent = way.once.lock().unwrap().iter().filter(|url| url.contains("/invoices/add")).count();
    assert_eq!(sent, payments.len(), "each invoice was sent once");
});

// F55, F85: the buyer's card at the invoicing API is one for all addresses of a company, and is printed as it is then. Two
// workers that issue for one company at a time would print each other's address.
on_both!(two_workers_call_an_invoicing_account_one_at_a_time, async |engine: Engine| {
    let called = Arc::default();
    let named =
        |worker, way: &Arc<TwinWay>| Arc::new(Named { worker, way: Arc::clone(way), called: Arc::clone(&called) });
    let ways = std::sync::OnceLock::new();
    let hub = Hub::build(
        engine,
        |_| {},
        |app| {
            let way = TwinWay::new(app.clock.clone());
            app.http = named('a', &way);
            app.http_documents = Arc::clone(&way) as Arc<_>;
            let _ = ways.set(way);
        },
    )
    .await;
    let way = ways.get().unwrap();
    let config = Config { database_url: Hidden(hub.app.config.database_url.0.clone()), ..hub.app.config.clone() };
    let mut second = App::open(config, hub.app.clock.clone()).await.unwrap();
    second.http = named('b', way);
    second.http_documents = Arc::clone(way) as Arc<_>;
    invoicing_account(&hub).await;
    let matter = matter(&hub).await;
    let mut payments = vec![];
    for round in 0..6 {
        for n in 0..3 {
            let (payment, attempt) = matter.payment(&hub, &format!("{round}-{n}/2026")).await;
            matter.receive(&hub, event(&attempt, &format!("paid{round}-{n}"), EventKind::Paid, "r1")).await;
            let mut tx = hub.tx().await;
            let mut invoice = tx.invoice_of_payment(&payment.merchant_id, &payment.id).await.unwrap().unwrap();
            let buyer = &mut invoice.order.buyer;
            (buyer.is_company, buyer.tax_id_kind, buyer.tax_id) = (true, TaxIdKind::PlNip, "1234563218".into());
            buyer.street = format!("ul. Nowa {n}");
            tx.update_invoice(&invoice, hub.app.now()).await.unwrap();
            tx.commit().await.unwrap();
            payments.push(payment);
        }
        // Now the one, now the other is the first.
        let (one, other) = if round % 2 == 0 { (&*hub.app, &second) } else { (&second, &*hub.app) };
        for _ in 0..5 {
            let (a, b) = tokio::join!(grosz::worker::run_due(one), grosz::worker::run_due(other));
            a.and(b).unwrap();
            hub.advance(1);
        }
    }
    let mut tx = hub.app.store.read().await.unwrap();
    for payment in &payments {
        let invoice = tx.invoice_of_payment(&payment.merchant_id, &payment.id).await.unwrap().unwrap();
        assert_eq!((invoice.state, invoice.attempts), (State::Issued, 1), "{invoice:?}");
    }
    let called = called.lock().unwrap();
    let mut at_work: Option<char> = None;
    for (worker, url) in called.iter() {
        assert!(at_work.is_none_or(|other| other == *worker), "{worker} calls {url} in the middle of another's run");
        at_work = (!url.contains("/invoices/add")).then_some(*worker);
    }
    assert!(['a', 'b'].iter().all(|w| called.iter().any(|(worker, _)| worker == w)), "both worked");
});

// F49: a newer program left a job of a kind that this one does not know. It is not this one's business, and in nobody's way.
on_both!(a_job_of_an_unknown_kind_is_left_to_others, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let raw = Raw::of(&hub.app).await;
    let (m, now) = (&hub.merchant.id, hub.app.now());
    let mut tx = hub.tx().await;
    for n in 0..3 {
        tx.enqueue(m, &format!("job_{n}"), JobKind::SendNotice, &format!("ntc_{n}"), now, now).await.unwrap();
    }
    tx.commit().await.unwrap();
    raw.run(format!(
        "INSERT INTO jobs (merchant_id, id, kind, subject, state, run_at, attempts, crashes, fence, created_at)
         VALUES ('{m}', 'job_new', 'new_kind', 'x_1', 'ready', {}, 4, 0, 7, {now})",
        now - 1_000_000
    ))
    .await;
    let mut tx = hub.tx().await;
    let claimed = tx.claim_jobs(Lane::Rest, now, now + 60_000_000, 10).await.unwrap();
    tx.rollback().await.unwrap();
    assert_eq!(claimed.len(), 3, "{claimed:?}");
    // As a worker has them: one at a time, the oldest first.
    assert_eq!(grosz::worker::run_due(&hub.app).await.unwrap(), 3);
    let left = raw.rows("SELECT id, state, attempts, crashes FROM jobs").await;
    assert_eq!(left, [["job_new", "ready", "4", "0"]]);
    assert!(raw.number("SELECT run_at FROM jobs").await > now, "it is looked at again later");
    let shown = hub.get("/v1/jobs").await.expect(200).json();
    assert_eq!(shown["data"].as_array().map(Vec::len), Some(0), "{shown}");
});

// F58: a hub that was started with outside calls held calls nobody.
#[tokio::test(flavor = "multi_thread")]
async fn a_hub_on_hold_calls_nobody() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let hub = Hub::start_with(Engine::Sqlite, |c| c.hold = true).await;
    for way in [&hub.app.http, &hub.app.http_clients, &hub.app.http_documents] {
        let answer = way.send(HttpRequest::get(url.clone())).await;
        assert!(matches!(answer, Err(HttpError::NotSent(why)) if why.contains("held")));
    }
}

/// What the program says when it refuses to start.
fn refused(change: impl FnOnce(&mut Command)) -> String {
    let dir = TempDir::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_grosz"));
    command.current_dir(dir.path()).env_clear().env("GROSZ_LOG", "error").stdin(Stdio::null());
    change(&mut command);
    let ended = command.output().unwrap();
    assert!(!ended.status.success(), "{ended:?}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "it left nothing behind");
    String::from_utf8(ended.stderr).unwrap()
}

// Whoever forgot the word `serve` gets no demonstration in a hub's own database.
#[test]
fn a_settings_file_without_serve_is_refused() {
    let serve = "grosz serve --config grosz.toml";
    assert!(refused(|c| _ = c.args(["--config", "grosz.toml"])).contains(serve));
    assert!(refused(|c| _ = c.args(["demo", "--config", "grosz.toml"])).contains(serve));
    assert!(refused(|c| _ = c.env("GROSZ_CONFIG", "grosz.toml")).contains(serve));
}

#[test]
fn variables_that_are_no_text_are_named_where_they_are_ours() {
    use std::os::unix::ffi::OsStrExt;
    let odd = std::ffi::OsStr::from_bytes(b"\xff");
    let said = refused(|c| _ = c.arg("serve").env("GROSZ_LISTEN", odd));
    assert!(said.contains("GROSZ_LISTEN is not text in UTF-8"), "{said}");
    let said = refused(|c| _ = c.arg("serve").env("OTHER", odd).env(odd, "x").env("GROSZ_LISTEN", "foo"));
    assert!(said.contains("listen must be"), "{said}");
}

#[test]
fn a_name_of_an_expert_is_checked_as_the_api_does() {
    let dir = TempDir::new();
    let grosz = |args: &[&str]| {
        let database = format!("sqlite:{}", dir.path().join("hub.db").display());
        let mut command = Command::new(env!("CARGO_BIN_EXE_grosz"));
        command.args(args).env_clear().env("GROSZ_LOG", "error").env("GROSZ_DATABASE_URL", database);
        command.output().unwrap()
    };
    let made = grosz(&["merchant", "add", "--name", "Kancelaria"]);
    let merchant = String::from_utf8(made.stdout).unwrap();
    let add =
        |name: &str| grosz(&["expert", "add", "--merchant", merchant.trim(), "--name", name, "--email", "a@b.example"]);
    let long = "x".repeat(201);
    for (name, expect) in
        [("", "--name must have 1"), (" ", "--name must have 1"), (&long, "--name must have 1 to 200")]
    {
        let said = String::from_utf8(add(name).stderr).unwrap();
        assert!(said.contains(expect), "{said}");
    }
    assert!(add(" Anna ").status.success());
}

#[test]
fn what_an_invoicing_account_does_not_take_is_refused_and_what_it_does_not_do_is_said() {
    let dir = TempDir::new();
    let grosz = |args: &[&str]| {
        let database = format!("sqlite:{}", dir.path().join("hub.db").display());
        let mut command = Command::new(env!("CARGO_BIN_EXE_grosz"));
        command.args(args).env_clear().env("GROSZ_LOG", "error").env("GROSZ_DATABASE_URL", database);
        let done = command.output().unwrap();
        let text = |bytes| String::from_utf8(bytes).unwrap().trim().to_owned();
        (done.status.success(), text(done.stdout), text(done.stderr))
    };
    let (_, merchant, _) = grosz(&["merchant", "add", "--name", "Kancelaria"]);
    let add = |more: &[&str]| {
        let settings =
            ["--set", "access_key=1", "--set", "secret_key=2", "--set", "app_key=3", "--set", "company_id=4"];
        grosz(&[&["invoicing", "add", "--merchant", &merchant][..], &settings[..], more, &["wfirma"]].concat())
    };
    let (done, _, said) = add(&["--currency", "XYZ"]);
    assert!(!done && said.contains("--currency"), "{said}");
    let (done, first, said) = add(&[]);
    assert!(done && said.is_empty(), "{said}");
    let (done, second, said) = add(&[]);
    assert!(done && second.starts_with("inv_") && said.contains(&first), "{said}");
}

// Graceful stop: SIGTERM ends the program well, and at once when nothing is under way.
#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_is_asked_to_stop_stops_well() {
    let dir = TempDir::new();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let mut program = Command::new(env!("CARGO_BIN_EXE_grosz"))
        .arg("serve")
        .env_clear()
        .env("GROSZ_DATABASE_URL", format!("sqlite:{}", dir.path().join("hub.db").display()))
        .env("GROSZ_LISTEN", format!("127.0.0.1:{port}"))
        .env("GROSZ_LOG", "error")
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    let http = client();
    let ready = format!("http://127.0.0.1:{port}/readyz");
    let patience = std::time::Instant::now();
    while http.get(&ready).send().await.is_err() {
        assert!(patience.elapsed().as_secs() < 30, "it does not come up");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let asked = Command::new("sh").arg("-c").arg(format!("kill -TERM {}", program.id())).status().unwrap();
    assert!(asked.success());
    let ended = tokio::task::spawn_blocking(move || program.wait()).await.unwrap().unwrap();
    assert!(ended.success(), "{ended}");
}

// A mail server that is away is nobody's refusal: the letters wait, and it is seen that they do.
on_both!(work_that_was_put_off_is_seen, async |engine: Engine| {
    let hub = Hub::start_with(engine, |c| c.smtp_url = Hidden("smtp://127.0.0.1:1?tls=none".into())).await;
    let matter = matter(&hub).await;
    let (_, attempt) = matter.payment(&hub, "1/2026").await;
    let mut wrong = event(&attempt, "paid", EventKind::Paid, "r1");
    wrong.amount = wrong.amount.map(|m| m.checked_add(m).unwrap());
    matter.receive(&hub, wrong).await;
    assert!(hub.run_jobs().await > 0);
    // Long before the letter is due again.
    hub.advance(5);
    let text = hub.raw("GET", "/metrics", &[], vec![]).await.expect(200).text();
    for line in [
        "grosz_jobs_put_off{kind=\"send_notice\"} 1\n",
        "grosz_job_put_off_age_seconds{kind=\"send_notice\"} 5\n",
        "grosz_job_age_seconds{kind=\"send_notice\"} 0\n",
        "grosz_calls_total{subject=\"mail\",outcome=\"not_sent\"} 1\n",
        "grosz_database_up 1\n",
    ] {
        assert!(text.contains(line), "{line}{text}");
    }
});

// A worker is watched like the others, where it is told to.
#[tokio::test(flavor = "multi_thread")]
async fn a_worker_serves_those_who_watch_it_and_nobody_else() {
    let dir = TempDir::new();
    let program = Program::new(&format!("sqlite:{}", dir.path().join("hub.db").display())).with("role", "worker");
    let at = program.url.trim_start_matches("http://").to_owned();
    let mut program = program.with("worker_listen", &at);
    program.start();
    program.answers().await;
    for (path, status) in
        [("/readyz", 200), ("/metrics", 200), ("/v1/payments", 404), ("/webhooks/a/b", 404), ("/", 404)]
    {
        assert_eq!(program.get(path).await.unwrap().0, status, "{path}");
    }
    program.signal("TERM");
    assert!(program.ended_well());
}

// A wrong address is said at once, and once.
#[test]
fn a_database_that_is_not_there_is_named_in_a_sentence() {
    let Some(cluster) = cluster() else { return };
    let url = format!("postgres://postgres@127.0.0.1:{}/nowhere", cluster.port());
    let began = std::time::Instant::now();
    let said = refused(|c| _ = c.arg("serve").env("GROSZ_DATABASE_URL", url));
    assert!(began.elapsed().as_secs() < 20, "{:?}", began.elapsed());
    let why = "the database cannot be used at the moment: it refuses the hub: database \"nowhere\" does not exist";
    assert_eq!(said.lines().last(), Some(&*format!("grosz: database_url: {why}")), "{said}");
}
