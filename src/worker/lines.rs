//! One line before each address of an endpoint: so many calls at the same time, the others wait a moment, and whoever would
//! wait too long is given back to the queue. So a slow endpoint holds its own places and nobody else's (F43). Those that
//! have not shown that they are quick hold half of all places at most, and one place each: however many hang together, the
//! others are told.
//!
//! Ends are written by one task that takes whatever came while it wrote the batch before; there is no timer.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;

use crate::app::{App, SharedApp};
use crate::clock::seconds;
use crate::flows::FlowError;
use crate::flows::deliver::{self, Delivery, Told};
use crate::jobs::{self, End};
use crate::store::{Job, StoreError};

/// Nobody waits longer than this in a line; well below the lease.
const LONGEST_WAIT: Duration = Duration::from_secs(1);

/// A line is filled up to what its endpoint takes in this time, as far as is known.
const AHEAD: Duration = Duration::from_millis(500);

/// How many may wait before an endpoint of which nothing is known yet.
const UNTRIED: usize = 256;

/// Lines that are remembered, with how quick their endpoints are.
const REMEMBERED: usize = 1000;

/// Ends written together at most.
const TOGETHER: usize = 256;

/// The lines of one worker.
pub(super) struct Lines {
    desk: Arc<Desk>,
    ended: mpsc::UnboundedSender<Ended>,
    writer: JoinHandle<()>,
}

/// What the callers of all lines share.
struct Desk {
    app: SharedApp,
    lines: Mutex<HashMap<String, Line>>,
    /// What all lines together may hold whose endpoints are not known to be quick.
    doubtful: Arc<Semaphore>,
}

/// The deliveries before one address.
#[derive(Default)]
struct Line {
    waiting: VecDeque<Waiting>,
    calling: usize,
    /// How long its calls take, weighted towards the latest; zero before the first.
    usual: Duration,
    /// When the last one that was given back has its turn, microseconds.
    last_turn: i64,
}

struct Waiting {
    delivery: Delivery,
    place: OwnedSemaphorePermit,
    /// One of the doubtful; held until the call ended.
    doubt: Option<OwnedSemaphorePermit>,
    since: Instant,
}

/// A delivery whose job is to be ended; its place is free when that is written.
struct Ended {
    came: Came,
    place: OwnedSemaphorePermit,
}

enum Came {
    Told(Told),
    Ended(Job, End),
}

impl Lines {
    /// Empty lines of a worker with so many places, and the task that writes ends.
    pub(super) fn open(app: SharedApp, places: usize) -> Lines {
        let (ended, ends) = mpsc::unbounded_channel();
        let writer = tokio::spawn(write_ends(Arc::clone(&app), ends));
        let doubtful = Arc::new(Semaphore::new((places / 2).max(1)));
        Lines { desk: Arc::new(Desk { app, lines: Mutex::default(), doubtful }), ended, writer }
    }

    /// Takes claimed jobs, one place each.
    pub(super) async fn take(&self, jobs: Vec<Job>, mut places: OwnedSemaphorePermit) {
        let app = &self.desk.app;
        let mut place = || places.split(1);
        let loaded = match deliver::load(app, jobs.clone()).await {
            Ok(loaded) => loaded,
            Err(error) => {
                for job in jobs {
                    let end = jobs::after_error(app, &job, &error);
                    self.end(job, end, place());
                }
                return;
            }
        };
        for job in loaded.moot {
            self.end(job, End::Done, place());
        }
        for (job, error) in loaded.stuck {
            let end = jobs::after_error(app, &job, &error);
            self.end(job, end, place());
        }
        for delivery in loaded.deliveries {
            if let Some(place) = place() {
                self.line_up(delivery, place);
            }
        }
    }

    fn line_up(&self, delivery: Delivery, place: OwnedSemaphorePermit) {
        let most = self.desk.app.config.tell_concurrency;
        let mut lines = self.desk.lock();
        if lines.len() >= REMEMBERED {
            lines.retain(|_, line| line.calling > 0 || !line.waiting.is_empty());
        }
        let line = lines.entry(delivery.to.line.clone()).or_default();
        let is_quick = line.is_quick();
        let doubt = if is_quick { None } else { Arc::clone(&self.desk.doubtful).try_acquire_owned().ok() };
        let has_room = is_quick || doubt.is_some();
        let next = Waiting { delivery, place, doubt, since: Instant::now() };
        // The first call to an endpoint finds out how quick it is.
        if line.calling < most && (has_room || line.calling == 0) {
            line.calling += 1;
            tokio::spawn(call(Arc::clone(&self.desk), self.ended.clone(), next));
        } else if line.waiting.len() < line.may_wait(most) && (has_room || line.usual.is_zero()) {
            line.waiting.push_back(next);
        } else {
            let at = line.turn(self.desk.app.now(), most);
            self.end(next.delivery.job, End::Returned { at }, Some(next.place));
        }
    }

    /// Gives back who waited too long: the endpoint is slower than it seemed.
    pub(super) fn give_back_stale(&self) {
        let (now, most) = (self.desk.app.now(), self.desk.app.config.tell_concurrency);
        for line in self.desk.lock().values_mut() {
            while line.waiting.front().is_some_and(|w| w.since.elapsed() > LONGEST_WAIT) {
                line.usual = line.usual.max(LONGEST_WAIT);
                let Some(stale) = line.waiting.pop_front() else { break };
                let at = line.turn(now, most);
                self.end(stale.delivery.job, End::Returned { at }, Some(stale.place));
            }
        }
    }

    /// Comes back when the task that writes ends is gone: what is delivered would be delivered again and again.
    pub(super) async fn lost(&self) {
        self.ended.closed().await;
    }

    /// Gives back who waits, lets the calls under way end, and writes their ends.
    pub(super) async fn close(self) {
        let now = self.desk.app.now();
        for line in self.desk.lock().values_mut() {
            for waiting in line.waiting.drain(..) {
                self.end(waiting.delivery.job, End::Returned { at: now }, Some(waiting.place));
            }
        }
        drop(self.ended);
        if let Err(error) = self.writer.await {
            tracing::error!(error = %error, "The ends of deliveries could not be written");
        }
    }

    fn end(&self, job: Job, end: End, place: Option<OwnedSemaphorePermit>) {
        if let Some(place) = place {
            let _ = self.ended.send(Ended { came: Came::Ended(job, end), place });
        }
    }
}

impl Desk {
    fn lock(&self) -> MutexGuard<'_, HashMap<String, Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Line {
    /// Its calls are known to take less than a moment.
    fn is_quick(&self) -> bool {
        !self.usual.is_zero() && self.usual < LONGEST_WAIT
    }

    /// How many may wait: what `most` callers take in a moment.
    fn may_wait(&self, most: usize) -> usize {
        if self.usual.is_zero() {
            return UNTRIED;
        }
        let rounds = AHEAD.as_micros() / self.usual.as_micros().max(1);
        usize::try_from(rounds).unwrap_or(usize::MAX).saturating_mul(most).max(most)
    }

    /// When somebody who finds the line full should come again: each gets a turn of his own, so that a long queue
    /// before a slow endpoint is not claimed over and over again.
    fn turn(&mut self, now: i64, most: usize) -> i64 {
        let share = self.usual.as_micros() / u128::try_from(most.max(1)).unwrap_or(1);
        let next = self.last_turn.max(now + seconds(1)) + i64::try_from(share).unwrap_or(0);
        self.last_turn = next.min(now + seconds(60));
        self.last_turn
    }

    /// A caller fewer.
    fn leave(&mut self) {
        self.calling = self.calling.saturating_sub(1);
    }

    fn learn(&mut self, took: Duration) {
        self.usual = if self.usual.is_zero() { took } else { (self.usual * 7 + took) / 8 };
    }
}

/// Calls for one delivery after another until nobody waits before this address.
fn call(
    desk: Arc<Desk>,
    ended: mpsc::UnboundedSender<Ended>,
    first: Waiting,
) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    // Boxed, because a caller may send for another one.
    Box::pin(async move {
        let line = first.delivery.to.line.clone();
        let mut caller = Caller { desk: &desk, line, left: false };
        let mut next = Some(first);
        while let Some(Waiting { delivery, place, doubt, .. }) = next {
            let began = Instant::now();
            let told = deliver::send(&desk.app, delivery).await;
            drop(doubt);
            let others;
            (next, others) = caller.next(began.elapsed());
            let _ = ended.send(Ended { came: Came::Told(told), place });
            if let Some(others) = others {
                tokio::spawn(call(Arc::clone(&desk), ended.clone(), others));
            }
        }
    })
}

/// One of the callers of a line; its place in the line is free again whatever happens to it.
struct Caller<'a> {
    desk: &'a Desk,
    line: String,
    left: bool,
}

impl Caller<'_> {
    /// The next one of the line, without which this caller leaves; and one for a further caller, where the line has shown
    /// that it is quick and has too few.
    fn next(&mut self, took: Duration) -> (Option<Waiting>, Option<Waiting>) {
        let most = self.desk.app.config.tell_concurrency;
        let mut lines = self.desk.lock();
        let Some(line) = lines.get_mut(&self.line) else { return (None, None) };
        line.learn(took);
        let next = line.waiting.pop_front();
        if next.is_none() {
            self.left = true;
            line.leave();
            return (None, None);
        }
        let wants_another = line.is_quick() && line.calling < most;
        let others = if wants_another { line.waiting.pop_front() } else { None };
        line.calling += usize::from(others.is_some());
        (next, others)
    }
}

impl Drop for Caller<'_> {
    fn drop(&mut self) {
        if !self.left
            && let Some(line) = self.desk.lock().get_mut(&self.line)
        {
            line.leave();
        }
    }
}

/// Writes ends, as many together as came meanwhile.
async fn write_ends(app: SharedApp, mut ends: mpsc::UnboundedReceiver<Ended>) {
    let mut together = vec![];
    while ends.recv_many(&mut together, TOGETHER).await > 0 {
        let (mut told, mut others, mut places) = (vec![], vec![], vec![]);
        for Ended { came, place } in together.drain(..) {
            match came {
                Came::Told(t) => told.push(t),
                Came::Ended(job, end) => others.push((job, end)),
            }
            places.push(place);
        }
        record(&app, &told).await;
        let others: Vec<_> = others.iter().map(|(job, end)| (job, end)).collect();
        if let Err(error) = jobs::settle_all(&app, &others).await {
            tracing::warn!(error = %error, jobs = others.len(), "Jobs could not be ended; their leases will lapse");
        }
    }
}

/// Records what came of deliveries; on failure in halves, down to single ones, so that one cannot fail its neighbours.
async fn record(app: &App, told: &[Told]) {
    let mut stack = vec![told];
    while let Some(some) = stack.pop() {
        let Err(error) = record_patiently(app, some).await else { continue };
        match some {
            [] => {}
            [one] => {
                let end = jobs::after_error(app, one.job(), &error);
                if let Err(e) = jobs::settle_all(app, &[(one.job(), &end)]).await {
                    // The lease will lapse, and the message is told again.
                    tracing::warn!(error = %e, "A delivery could not be recorded");
                }
            }
            many => {
                let (first, second) = many.split_at(many.len() / 2);
                stack.extend([second, first]);
            }
        }
    }
}

/// Conflicts with other processes are repeated.
async fn record_patiently(app: &App, told: &[Told]) -> Result<(), FlowError> {
    let mut tries = 0;
    loop {
        match deliver::record(app, told).await {
            Err(FlowError::Store(StoreError::Conflict)) if tries < 5 => {
                tries += 1;
                app.metrics.count(&app.metrics.conflicts, "deliveries", "repeated");
            }
            other => return other,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_as_long_as_its_endpoint_is_quick() {
        let mut line = Line::default();
        assert_eq!(line.may_wait(32), UNTRIED);
        line.learn(Duration::from_millis(5));
        assert_eq!(line.may_wait(32), 3200);
        for _ in 0..100 {
            line.learn(Duration::from_secs(15));
        }
        assert_eq!(line.may_wait(32), 32, "never fewer than call at once");
        assert!(line.usual > Duration::from_secs(14));
    }

    #[test]
    fn each_that_is_given_back_has_a_turn_of_its_own() {
        let mut line = Line::default();
        line.learn(Duration::from_secs(16));
        let turns: Vec<i64> = (0..4).map(|_| line.turn(0, 32)).collect();
        assert_eq!(turns, [1_500_000, 2_000_000, 2_500_000, 3_000_000]);
        assert_eq!(
            (0..1000).map(|_| line.turn(0, 32)).max(),
            Some(60_000_000),
            "nobody waits for longer than a minute"
        );
        assert_eq!(line.turn(100_000_000, 32), 101_500_000, "what is past is forgotten");
    }
}
