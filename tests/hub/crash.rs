//! The process dies at every await of the intake and of the invoice job, one after another: nothing is lost, nothing is
//! doubled.
//!
//! A run is polled so many times and then dropped, which is what the database and the outside see of a dead process:
//! an open transaction goes back, a request that was sent stays sent.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use grosz::domain::invoice::State;
use grosz::domain::payment::Status;
use grosz::flows::receive_webhook;
use grosz_providers::EventKind;
use grosz_providers::invoicer::Found;

use crate::harness::{Engine, Hub};
use crate::matter::{TwinWay, event, invoicer, invoicing_account, matter, settings};
use crate::on_both;

/// So many runs are enough to stop one at more than a dozen places. How often a run waits depends on the machine.
const ENOUGH: usize = 400;

/// Lets a future live for so many polls; `None` when it died before its end.
pub struct Mortal<F> {
    inner: Pin<Box<F>>,
    polls_left: usize,
}

impl<F: Future> Future for Mortal<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        if self.polls_left == 0 {
            return Poll::Ready(None);
        }
        self.polls_left -= 1;
        self.inner.as_mut().poll(cx).map(Some)
    }
}

/// A run that dies after so many polls.
pub fn mortal<F: Future>(polls: usize, inner: F) -> Mortal<F> {
    Mortal { inner: Box::pin(inner), polls_left: polls }
}

// F20, F21, F22, F23, I2, I4: the gateway repeats what was not acknowledged.
on_both!(a_death_anywhere_in_the_intake, async |engine: Engine| {
    let hub = Hub::start(engine).await;
    let matter = matter(&hub).await;
    let (mut deaths, mut polls) = (0, 0);
    for n in 0..ENOUGH {
        let (payment, attempt) = matter.payment(&hub, &format!("{n}/2026")).await;
        let told = event(&attempt, &format!("{}:paid", attempt.reference), EventKind::Paid, "remote1");
        let inbound = matter.delivery(&hub, told.clone());
        let slice = [inbound];
        let survived = mortal(polls, receive_webhook::receive(&hub.app, &slice)).await.is_some();
        deaths += usize::from(!survived);
        matter.receive(&hub, told).await;
        let mut tx = hub.app.store.read().await.unwrap();
        let after = tx.payment(&payment.merchant_id, &payment.id).await.unwrap().unwrap();
        assert_eq!(after.status, Status::Completed, "died after {polls} polls");
        assert!(!after.double_payment);
        assert_eq!(tx.transitions(&payment.merchant_id, &payment.id).await.unwrap().len(), 2);
        assert_eq!(tx.events_of_payment(&payment.merchant_id, &payment.id).await.unwrap().len(), 1);
        // A run that came to its end has shown all its places this time; the next may wait at others.
        polls = if survived { 0 } else { polls + 1 };
        if survived && deaths > 12 {
            return;
        }
    }
    panic!("the run was stopped at {deaths} places only");
});

// F24, F27, F28, F42, I3, R-5W-48, R-5W-49; with the API behaving well and ill.
on_both!(a_death_anywhere_in_the_invoice_job, async |engine: Engine| {
    for fault in [None, Some("cut_after_work"), Some("http_500_after_work"), Some("http_500"), Some("find_lags")] {
        let clock = std::sync::OnceLock::new();
        let hub = Hub::build(
            engine,
            |_| {},
            |app| {
                let way = TwinWay::new(app.clock.clone());
                app.http = way.clone();
                app.http_documents = Arc::clone(&way) as Arc<_>;
                let _ = clock.set(way);
            },
        )
        .await;
        let way = clock.get().unwrap();
        invoicing_account(&hub).await;
        let matter = matter(&hub).await;
        let (mut deaths, mut polls) = (0, 0);
        for n in 0..ENOUGH {
            let (payment, attempt) = matter.payment(&hub, &format!("{n}/2026")).await;
            let told = event(&attempt, &format!("{}:paid", attempt.reference), EventKind::Paid, "remote1");
            matter.receive(&hub, told).await;
            if let Some(fault) = fault {
                way.fault(fault, 1);
            }
            let survived = mortal(polls, grosz::worker::run_due(&hub.app)).await.is_some();
            deaths += usize::from(!survived);
            settle(&hub, &payment.id).await;
            let mut tx = hub.app.store.read().await.unwrap();
            let invoice = tx.invoice_of_payment(&payment.merchant_id, &payment.id).await.unwrap().unwrap();
            assert_eq!(invoice.state, State::Issued, "{fault:?}, died after {polls} polls: {invoice:?}");
            let cx = grosz_providers::Cx { settings: &settings(), http: &**way, now: hub.app.clock.now(), live: false };
            let found = invoicer().find(&cx, &invoice.order).await;
            assert!(matches!(found, Found::One(_)), "{fault:?}, died after {polls} polls: {found:?}");
            let step = if fault.is_none() { 1 } else { 3 };
            polls = if survived { 0 } else { polls + step };
            if survived && deaths > 12 {
                break;
            }
        }
        assert!(deaths > 12, "{fault:?}: the run was stopped at {deaths} places only");
    }
});

/// Lets time pass, and work be done, until the invoice's job has nothing left to do.
async fn settle(hub: &Hub, payment: &str) {
    for _ in 0..60 {
        hub.run_jobs().await;
        let mut tx = hub.app.store.read().await.unwrap();
        let invoice = tx.invoice_of_payment(&hub.merchant.id, payment).await.unwrap().unwrap();
        drop(tx);
        if !invoice.state.is_open() {
            hub.run_jobs().await;
            return;
        }
        hub.advance(31);
    }
    panic!("the invoice did not come to an end");
}
