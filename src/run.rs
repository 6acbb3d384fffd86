//! Starts the parts of a hub by its role and stops them in order: no new calls, calls in flight finish, what waits in
//! the intake commits, jobs that run end, leases return.

use std::pin::pin;

use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::app::SharedApp;
use crate::http::{self, Web, router, server};
use crate::intake::Intake;
use crate::worker;

/// How often the clock is compared with the database's.
const CLOCK_EVERY: std::time::Duration = std::time::Duration::from_secs(10);

/// How a hub ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It was told to stop.
    Asked,
    /// One of its parts ended by itself, and what it did is done by nobody: the hub has to be started again (F26).
    Crippled,
}

/// Runs the hub until `stop` says true, or until one of its parts is lost. Where it is a worker, the listener is for those
/// who watch it.
pub async fn run(app: SharedApp, listener: Option<TcpListener>, stop: watch::Receiver<bool>) -> Ended {
    let (intake, mut committers) = Intake::start(&app);
    let (orders, mut more_committers) = Intake::start(&app);
    let web = Web::new(app.clone(), intake, orders);
    let works = app.config.role != "web";
    let (halt, stop) = relayed(stop);
    // These end when they are told to.
    let mut parts = JoinSet::new();
    if works {
        parts.spawn(worker::work(app.clone(), stop.clone()));
    }
    if let Some(host) = web.sandbox.clone() {
        let stop = stop.clone();
        parts.spawn(async move {
            crate::sandbox::deliver(host, stop.clone()).await;
            *stop.borrow()
        });
    }
    // One clock for all processes, one bell across them: these live as long as the hub.
    let mut beside = JoinSet::new();
    let at = app.clone();
    beside.spawn(async move {
        at.store.send_calls().await;
        false
    });
    let at = app.clone();
    beside.spawn(async move {
        loop {
            tokio::time::sleep(CLOCK_EVERY).await;
            at.follow_clock().await;
        }
    });
    if works {
        let at = app.clone();
        beside.spawn(async move {
            at.store.hear_calls(|| at.job_bell.notify_one()).await;
            false
        });
    }
    let (config, at) = (&app.config, app.clone());
    let serving = async move {
        match listener {
            // The handlers' side ends before the intake does, so that what waits there is committed.
            Some(listener) if config.role == "worker" => {
                drop(web);
                server::serve(listener, http::watching(at), config, stop).await;
            }
            Some(listener) => server::serve(listener, router(web), config, stop).await,
            None => {
                drop(web);
                let mut stop = stop;
                // A closed channel stops too.
                let _ = stop.wait_for(|stopped| *stopped).await;
            }
        }
    };
    let mut serving = pin!(serving);
    let lost = tokio::select! {
        () = &mut serving => None,
        () = lost(&mut parts) => Some("a worker"),
        () = lost(&mut committers) => Some("a committer of webhooks"),
        () = lost(&mut more_committers) => Some("a committer of payments"),
        () = lost(&mut beside) => Some("what keeps processes together"),
    };
    if let Some(part) = lost {
        tracing::error!(part, "A part of the hub ended by itself: {part}. The hub stops, to be started again");
        halt.send_replace(true);
        serving.await;
    }
    while parts.join_next().await.is_some() {}
    // All handles of the intake are gone by now: what waits is committed, then the committers end.
    let limit = std::time::Duration::from_secs(app.config.stop_s);
    let ended = async {
        while committers.join_next().await.is_some() {}
        while more_committers.join_next().await.is_some() {}
    };
    if tokio::time::timeout(limit, ended).await.is_err() {
        tracing::warn!("The intake did not finish in {limit:?}");
    }
    beside.shutdown().await;
    app.store.close().await;
    if lost.is_some() { Ended::Crippled } else { Ended::Asked }
}

/// What says true when `stop` does, or when its sender is told to.
fn relayed(mut stop: watch::Receiver<bool>) -> (watch::Sender<bool>, watch::Receiver<bool>) {
    let (halt, halted) = watch::channel(false);
    let relay = halt.clone();
    tokio::spawn(async move {
        // A closed channel stops too.
        let _ = stop.wait_for(|stopped| *stopped).await;
        relay.send_replace(true);
    });
    (halt, halted)
}

/// Comes back when one of these tasks is lost: it panicked, or ended without having been told to (`false`).
async fn lost(tasks: &mut JoinSet<bool>) {
    loop {
        match tasks.join_next().await {
            Some(Ok(true)) => {}
            Some(Ok(false) | Err(_)) => return,
            None => return std::future::pending().await,
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    // F26
    #[tokio::test]
    async fn a_part_that_ends_by_itself_is_missed() {
        let mut parts = JoinSet::new();
        // One that ended as it was told to is no reason to stop.
        parts.spawn(async { true });
        parts.spawn(async { panic!("a value that nobody thought of") });
        lost(&mut parts).await;
        parts.spawn(async { false });
        lost(&mut parts).await;
    }
}
