//! A panic is contained (F26): it fails the call that met it, takes back what that call had written, and nobody else
//! notices.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Poll;

use axum::Router;
use axum::body::Body;
use axum::routing::get;
use futures_util::future::join_all;
use futures_util::stream::poll_fn;
use grosz::app::App;
use grosz::config::Config;
use grosz::flows::FlowError;
use grosz::http::server;
use grosz::intake::{Intake, Refused, Sliced};
use grosz::store::{Expert, Page, Tx};
use grosz_providers::wire::{Http, HttpError, HttpRequest, HttpResponse};
use serde_json::json;
use tokio::sync::watch;

use crate::harness::{Engine, Hub, client};
use crate::matter::invoicing_account;
use crate::on_both;
use crate::program::until;

/// Adds experts; panics at one whose name is `poison`, after it was added.
struct Experts;

impl Sliced for Experts {
    type Call = Expert;
    type Answer = usize;
    const NAME: &'static str = "experts";
    const KIND: usize = 0;

    fn about(call: &Expert) -> &str {
        &call.merchant_id
    }

    fn weight(_: &Expert) -> usize {
        1
    }

    fn can_do_without_locks(_: &Expert) -> bool {
        false
    }

    async fn act(_: &App, tx: &mut Tx, slice: &[Expert]) -> Result<Vec<usize>, FlowError> {
        for expert in slice {
            tx.add_expert(expert).await?;
            assert_ne!(expert.name, "poison");
        }
        Ok(vec![slice.len(); slice.len()])
    }
}

// F26
on_both!(a_panic_in_a_slice_fails_one_call, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let (intake, committers) = Intake::<Experts>::start(&hub.app);
    let expert = |name: &str| Expert {
        merchant_id: hub.merchant.id.clone(),
        id: hub.app.ids.make("exp"),
        name: name.into(),
        email: "anna@kancelaria.example".into(),
        language: "pl".into(),
        created_at: hub.app.now(),
    };
    let names = ["a", "b", "poison", "c", "poison", "d", "e", "f", "g"];
    let answers = join_all(names.map(|name| intake.submit(expert(name)))).await;
    for (name, answer) in names.iter().zip(&answers) {
        match *name {
            "poison" => assert_eq!(*answer, Err(Refused::Failed)),
            name => assert!(answer.is_ok(), "{name}: {answer:?}"),
        }
    }
    // The committer lives, and nothing of the poison is there.
    assert_eq!(intake.submit(expert("last")).await, Ok(1));
    let page = Page { before: None, limit: 100 };
    let mut tx = hub.app.store.read().await.unwrap();
    let mut there: Vec<_> = tx.experts(&hub.merchant.id, &page).await.unwrap().into_iter().map(|e| e.name).collect();
    there.sort();
    assert_eq!(there, ["a", "b", "c", "d", "e", "f", "g", "last"]);
    drop((tx, intake));
    committers.join_all().await;
});

// F26
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_in_a_handler_is_answered_and_its_place_is_free_again() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let broken = Arc::new(AtomicUsize::new(0));
    let halfway = Arc::clone(&broken);
    let router = Router::new()
        .route(
            "/v1/break",
            get(async || {
                if true {
                    panic!("a value that nobody thought of")
                }
            }),
        )
        .route(
            "/break",
            get(async || {
                if true {
                    panic!("a value that nobody thought of")
                }
            }),
        )
        .route(
            "/halfway",
            get(async move || {
                Body::from_stream(poll_fn(move |_| -> Poll<Option<Result<String, std::io::Error>>> {
                    halfway.fetch_add(1, Ordering::SeqCst);
                    panic!("in the middle of an answer")
                }))
            }),
        )
        .route("/well", get(async || "well"));
    let (stop, stopped) = watch::channel(false);
    // One connection at a time: a place that is lost keeps everybody out.
    let config = Config { max_connections_per_address: 1, ..Config::default() };
    let serving = tokio::spawn(async move { server::serve(listener, router, &config, stopped).await });
    // Whoever comes before the connection of the one before is closed is sent away without a word.
    let ask = async |path: &str| {
        let mut answer = None;
        until("there is a place", async || {
            answer = client().get(format!("{url}{path}")).send().await.ok();
            answer.is_some()
        })
        .await;
        answer.unwrap()
    };
    for n in 1..=3 {
        let problem = ask("/v1/break").await;
        assert_eq!(problem.status(), 500);
        assert_eq!(problem.headers()["content-type"], "application/problem+json");
        assert_eq!(problem.headers()["x-content-type-options"], "nosniff");
        assert!(problem.headers().contains_key("x-request-id"));
        assert!(problem.text().await.unwrap().contains("\"code\":\"internal\""));
        assert_eq!(ask("/break").await.status(), 500);
        until("an answer breaks off", async || {
            let _ = client().get(format!("{url}/halfway")).send().await;
            broken.load(Ordering::SeqCst) == n
        })
        .await;
        assert_eq!(ask("/well").await.status(), 200);
    }
    stop.send(true).unwrap();
    serving.await.unwrap();
}

/// A way out that breaks.
struct Breaks;

#[async_trait::async_trait]
impl Http for Breaks {
    async fn send(&self, _: HttpRequest) -> Result<HttpResponse, HttpError> {
        panic!("a value that nobody thought of")
    }
}

// F26
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_that_panics_is_counted_under_its_address() {
    let hub = Hub::build(Engine::Sqlite, |_| {}, |app| app.http = Arc::new(Breaks)).await;
    let account = invoicing_account(&hub).await;
    let answer = hub.post(&format!("/v1/invoicing-accounts/{account}/test"), json!({})).await.expect(500);
    assert_eq!(answer.json()["code"], "internal");
    assert!(answer.header("x-request-id").is_some());
    let metrics = hub.raw("GET", "/metrics", &[], vec![]).await.text();
    let counted = "grosz_http_answers_total{subject=\"/v1/invoicing-accounts/{id}/test\",outcome=\"5xx\"} 1";
    assert!(metrics.contains(counted), "{metrics}");
}
