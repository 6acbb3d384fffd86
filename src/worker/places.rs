//! The places of the worker for jobs that wait on other people's interfaces. None of these companies has more than a part
//! of the places, however many jobs are due there: one that accepts and never answers holds up its own jobs and nobody
//! else's (F35). Who finds no place is given back to the queue, with a turn of its own, as before the endpoints of client
//! apps (`lines.rs`).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::app::App;
use crate::clock::seconds;
use crate::flows::FlowError;
use crate::jobs::End;
use crate::store::{Job, JobKind, Tx};

/// Of the places of a worker one company has at most one in so many, and one at least.
const SHARE: usize = 4;

/// Accounts of which is remembered at which company they are.
const REMEMBERED: usize = 10_000;

/// Who holds which places.
pub(super) struct Places {
    most_of_one: usize,
    companies: Arc<Mutex<HashMap<String, Company>>>,
    /// Companies by their accounts.
    known: HashMap<String, String>,
}

#[derive(Default)]
struct Company {
    running: usize,
    /// How long its jobs take, weighted towards the latest; zero before the first.
    usual: Duration,
    /// When the last one that was given back has its turn, microseconds.
    last_turn: i64,
}

/// What of a claim is run, and what is given back.
#[derive(Default)]
pub(super) struct Admitted {
    pub(super) run: Vec<(Job, Option<Seat>)>,
    pub(super) returned: Vec<(Job, End)>,
}

/// A place of a company's part. It is free again when this is dropped, however the run ends.
pub(super) struct Seat {
    companies: Arc<Mutex<HashMap<String, Company>>>,
    company: String,
    since: Instant,
}

impl Places {
    /// Of so many places.
    pub(super) fn of(all: usize) -> Places {
        Places { most_of_one: (all / SHARE).max(1), companies: Arc::default(), known: HashMap::new() }
    }

    /// Gives claimed jobs their places, beside so many that run. While these are few altogether nobody is asked where they
    /// lead.
    pub(super) async fn admit(&mut self, app: &App, jobs: Vec<Job>, running: usize) -> Admitted {
        let mut admitted = Admitted::default();
        if running + jobs.len() <= self.most_of_one {
            admitted.run.extend(jobs.into_iter().map(|job| (job, None)));
            return admitted;
        }
        let companies = match self.companies_of(app, &jobs).await {
            Ok(companies) => companies,
            Err(error) => {
                // They are claimed, so they run.
                tracing::debug!(error = %error, "Where jobs lead could not be found out");
                jobs.iter().map(|_| None).collect()
            }
        };
        for (job, company) in jobs.into_iter().zip(companies) {
            match company.map(|company| self.seat(company, app.now())) {
                None => admitted.run.push((job, None)),
                Some(Ok(seat)) => admitted.run.push((job, Some(seat))),
                Some(Err(at)) => admitted.returned.push((job, End::Returned { at })),
            }
        }
        admitted
    }

    /// A place of this company's part, or when to come again.
    fn seat(&self, name: String, now: i64) -> Result<Seat, i64> {
        let mut companies = lock(&self.companies);
        let company = companies.entry(name.clone()).or_default();
        if company.running >= self.most_of_one {
            return Err(company.turn(now, self.most_of_one));
        }
        company.running += 1;
        drop(companies);
        Ok(Seat { companies: Arc::clone(&self.companies), company: name, since: Instant::now() })
    }

    /// At which company each job calls, as far as it calls one.
    async fn companies_of(&mut self, app: &App, jobs: &[Job]) -> Result<Vec<Option<String>>, FlowError> {
        let mut tx = app.store.read().await?;
        let mut companies = vec![];
        for job in jobs {
            let company = match job.kind {
                JobKind::PollStatus | JobKind::CancelAttempt => self.of_attempt(&mut tx, job, &job.subject).await?,
                JobKind::Refund => match attempt_of_refund(&mut tx, job).await? {
                    Some(attempt) => self.of_attempt(&mut tx, job, &attempt).await?,
                    None => None,
                },
                JobKind::IssueInvoice | JobKind::FetchPdf => {
                    match tx.invoice_for_read(&job.merchant_id, &job.subject).await? {
                        Some(invoice) => self.of_invoicing(&mut tx, job, &invoice.invoicing_account_id).await?,
                        None => None,
                    }
                }
                JobKind::ProbeInvoicing => self.of_invoicing(&mut tx, job, &job.subject).await?,
                JobKind::SendNotice => Some("mail".to_owned()),
                JobKind::RetryEvent | JobKind::TellClient => None,
            };
            companies.push(company);
        }
        Ok(companies)
    }

    async fn of_attempt(&mut self, tx: &mut Tx, job: &Job, attempt: &str) -> Result<Option<String>, FlowError> {
        let Some(attempt) = tx.attempt(&job.merchant_id, attempt).await? else { return Ok(None) };
        if let Some(known) = self.known.get(&attempt.provider_account_id) {
            return Ok(Some(known.clone()));
        }
        let account = tx.provider_account(&job.merchant_id, &attempt.provider_account_id).await?;
        Ok(account.map(|account| self.remember(&account.id, &account.provider, account.live)))
    }

    async fn of_invoicing(&mut self, tx: &mut Tx, job: &Job, account: &str) -> Result<Option<String>, FlowError> {
        if let Some(known) = self.known.get(account) {
            return Ok(Some(known.clone()));
        }
        let account = tx.invoicing_account(&job.merchant_id, account).await?;
        Ok(account.map(|account| self.remember(&account.id, &account.invoicer, account.live)))
    }

    /// A company's test and live accounts are different machines.
    fn remember(&mut self, account: &str, company: &str, live: bool) -> String {
        if self.known.len() >= REMEMBERED {
            self.known.clear();
        }
        let company = format!("{company} {live}");
        self.known.insert(account.to_owned(), company.clone());
        company
    }
}

async fn attempt_of_refund(tx: &mut Tx, job: &Job) -> Result<Option<String>, FlowError> {
    let Some(refund) = tx.refund(&job.merchant_id, &job.subject).await? else { return Ok(None) };
    let captures = tx.captures(&job.merchant_id, &refund.payment_id).await?;
    Ok(captures.into_iter().find(|c| c.id == refund.capture_id).map(|c| c.attempt_id))
}

impl Company {
    /// When a job that finds no place should come again: each gets a turn of its own, so that a long queue before a slow
    /// company is not claimed over and over again.
    fn turn(&mut self, now: i64, most: usize) -> i64 {
        let share = self.usual.as_micros() / u128::try_from(most.max(1)).unwrap_or(1);
        let next = self.last_turn.max(now + seconds(1)) + i64::try_from(share).unwrap_or(0);
        self.last_turn = next.min(now + seconds(60));
        self.last_turn
    }

    fn learn(&mut self, took: Duration) {
        self.usual = if self.usual.is_zero() { took } else { (self.usual * 7 + took) / 8 };
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if let Some(company) = lock(&self.companies).get_mut(&self.company) {
            company.running = company.running.saturating_sub(1);
            company.learn(self.since.elapsed());
        }
    }
}

fn lock(companies: &Mutex<HashMap<String, Company>>) -> MutexGuard<'_, HashMap<String, Company>> {
    companies.lock().unwrap_or_else(PoisonError::into_inner)
}
