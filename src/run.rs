//! Starts the parts of a hub by its role and stops them in order: no new calls, calls in flight finish, what waits in
//! the intake commits, jobs that run end, leases return.

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::app::SharedApp;
use crate::http::{Web, router, server};
use crate::intake::Intake;
use crate::worker;

/// How often the clock is compared with the database's.
const CLOCK_EVERY: std::time::Duration = std::time::Duration::from_secs(10);

/// Runs the hub until `stop` says true. `listener` is used by the roles `all` and `web`.
pub async fn run(app: SharedApp, listener: Option<TcpListener>, stop: watch::Receiver<bool>) {
    let (intake, committers) = Intake::start(&app);
    let (orders, more_committers) = Intake::start(&app);
    let web = Web::new(app.clone(), intake, orders);
    let works = app.config.role != "web";
    let workers = works.then(|| tokio::spawn(worker::work(app.clone(), stop.clone())));
    // One clock for all processes, one bell across them: these live as long as the hub.
    let mut beside = JoinSet::new();
    let at = app.clone();
    beside.spawn(async move { at.store.send_calls().await });
    let at = app.clone();
    beside.spawn(async move {
        loop {
            tokio::time::sleep(CLOCK_EVERY).await;
            at.follow_clock().await;
        }
    });
    if works {
        let at = app.clone();
        beside.spawn(async move { at.store.hear_calls(|| at.job_bell.notify_one()).await });
    }
    let sandbox = web.sandbox.clone().map(|host| tokio::spawn(crate::sandbox::deliver(host, stop.clone())));
    match listener {
        Some(listener) => server::serve(listener, router(web), &app.config, stop.clone()).await,
        None => {
            drop(web);
            let mut stop = stop;
            // A closed channel stops too.
            let _ = stop.wait_for(|stopped| *stopped).await;
        }
    }
    for task in [sandbox, workers].into_iter().flatten() {
        if let Err(error) = task.await {
            tracing::error!(error = %error, "A part of the hub ended abnormally");
        }
    }
    // All handles of the intake are gone by now: what waits is committed, then the committers end.
    let limit = std::time::Duration::from_secs(app.config.stop_s);
    let ended = async { tokio::join!(committers.join_all(), more_committers.join_all()) };
    if tokio::time::timeout(limit, ended).await.is_err() {
        tracing::warn!("The intake did not finish in {limit:?}");
    }
    beside.shutdown().await;
    app.store.close().await;
}

/// Becomes true on SIGTERM or SIGINT.
///
/// # Errors
/// The signals cannot be listened to.
pub fn stop_on_signals() -> std::io::Result<watch::Receiver<bool>> {
    use tokio::signal::unix::{SignalKind, signal};
    let (sender, receiver) = watch::channel(false);
    let mut term = signal(SignalKind::terminate())?;
    let mut int = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        tokio::select! {
            _ = term.recv() => {}
            _ = int.recv() => {}
        }
        let _ = sender.send(true);
    });
    Ok(receiver)
}
