//! A transaction with a book: rows that a slice of calls will need are read ahead, all at once; what the calls write is
//! kept in the book and written behind, all at once, by the commit. The flows above read and write as if they were
//! alone; the number of statements does not depend on how many calls share the transaction.
//!
//! What the book holds, the methods of [`Tx`] answer from it and change in it. What it does not hold they read and
//! write in the database at once, so a rare road costs statements of its own, never a wrong answer: a method that
//! changes rows of a payment past the book has the book written and forgets that payment first ([`Tx::set_down`]).
//!
//! On PostgreSQL the book can do without locks (`Store::begin_optimistic_in`): then it is all that is read and written, and the
//! one statement that writes it changes nothing unless payments and cases still have the versions at which they were
//! read. Whoever changes what hangs on them raises these versions.

use std::collections::{BTreeMap, HashMap, HashSet};

use grosz_providers::Reference;

use super::attempts::{self, Attempt, Capture, PutCapture};
use super::cases::{self, Case, ChangedCase};
use super::deliveries::{self, EventRow, NewDelivery, NewEvent};
use super::dialect::{Arg, StoreError, Tx};
use super::glance::Glance;
use super::idempotency::{self, NewAnswer};
use super::invoices::{InvoiceRow, NewInvoices};
use super::jobs::NewJob;
use super::messages::{self, Message, Telling};
use super::payments::{self, NewPayments, Payment, Transition};
use super::people::{self, Payer, Profile};
use super::rows::Row;
use super::set::{Question, row};
use super::{Endpoint, InvoicingAccount, Merchant, ProviderAccount, StoredAnswer, accounts};
use crate::domain::payment::Status;

/// What is read ahead and written behind.
#[derive(Default)]
pub(super) struct Book {
    /// Payments by id, locked, with what hangs on them.
    pub(super) payments: HashMap<String, Folder>,
    /// Our references at gateways that were looked for, with payment and attempt.
    references: HashMap<String, Option<(String, String)>>,
    /// Cases by id, locked.
    cases: HashMap<String, CaseFolder>,
    /// Event keys that were looked for.
    pub(super) events: HashMap<String, Seen>,
    /// Rows that nothing here changes, by owner or id.
    pub(super) endpoints: HashMap<String, Vec<Endpoint>>,
    pub(super) invoicing_accounts: HashMap<String, Vec<InvoicingAccount>>,
    pub(super) provider_accounts: HashMap<String, Vec<ProviderAccount>>,
    pub(super) merchants: HashMap<String, Option<Merchant>>,
    pub(super) payers: HashMap<String, Option<Payer>>,
    pub(super) profiles: HashMap<String, Vec<Profile>>,
    pub(super) answers: HashMap<String, Option<StoredAnswer>>,
    /// Rows to be added, in the order in which they came.
    pub(super) new: New,
}

/// Rows to be added.
#[derive(Default)]
pub(super) struct New {
    pub(super) payments: Vec<Payment>,
    pub(super) attempts: Vec<Attempt>,
    pub(super) deliveries: Vec<NewDelivery>,
    pub(super) repeats: BTreeMap<(String, String), (i64, i64)>,
    pub(super) events: Vec<EventRow>,
    pub(super) transitions: Vec<(String, String, Transition)>,
    pub(super) invoices: Vec<InvoiceRow>,
    pub(super) messages: Vec<Message>,
    pub(super) tellings: Vec<Telling>,
    pub(super) jobs: Vec<NewJob>,
    pub(super) answers: Vec<NewAnswer>,
}

/// A payment with its attempts and captures.
pub(super) struct Folder {
    pub(super) payment: Payment,
    /// The version in the database; another one in `payment` says that it has to be written.
    version_read: i64,
    pub(super) attempts: Vec<(Attempt, bool)>,
    pub(super) captures: Vec<KeptCapture>,
}

/// A capture of the book.
pub(super) struct KeptCapture {
    pub(super) capture: Capture,
    /// It is in the database already.
    was_read: bool,
    /// It has to be written, with this instant.
    put_at: Option<i64>,
}

/// A case, how many payments it has, and how many of them are completed.
pub(super) struct CaseFolder {
    pub(super) case: Case,
    pub(super) is_changed: bool,
    /// Its version in the database, and when it was changed last.
    version_read: i64,
    updated_read: i64,
    pub(super) payments: i64,
    pub(super) completed: i64,
    /// Its unfinished payment, where that was looked for.
    pub(super) started: Option<Option<Payment>>,
}

/// An event key that was looked for.
pub(super) enum Seen {
    Never,
    Before(Box<EventRow>),
    /// In this very transaction: its place in `new.events`.
    Now(usize),
}

/// An event that a call is going to bring, and whose rows are wanted ahead.
#[derive(Debug, Clone, Copy)]
pub struct Sought<'a> {
    /// Owner.
    pub merchant: &'a str,
    /// The account it comes from.
    pub account: &'a str,
    /// Its identity.
    pub key: &'a str,
    /// The attempt it names.
    pub reference: &'a Reference,
}

/// Answers a method from the book; else reads, and keeps what was read in the book.
macro_rules! booked {
    ($tx:ident . $shelf:ident [ $name:expr ], $read:expr) => {{
        let name = $name;
        if let Some(known) = $tx.book.as_ref().and_then(|book| book.$shelf.get(&name)) {
            return Ok(known.clone());
        }
        let found = $read;
        if let Some(book) = &mut $tx.book {
            book.$shelf.insert(name, found.clone());
        }
        Ok(found)
    }};
}
pub(super) use booked;

/// One name of two parts; the first never holds a line break.
pub(super) fn name(owner: &str, own: &str) -> String {
    [owner, "\n", own].concat()
}

/// An order of a payment that a call is going to bring, and whose rows are wanted ahead.
#[derive(Debug, Clone, Copy)]
pub struct SoughtOrder<'a> {
    /// Owner.
    pub merchant: &'a str,
    /// The caller's idempotency key.
    pub key: Option<&'a str>,
    /// Who pays, where the order says it.
    pub payer: Option<&'a str>,
    /// The case it pays.
    pub case: Option<&'a str>,
}

/// How much was in the book at some moment.
pub struct BookMark([usize; 5]);

impl Tx {
    /// Opens the book and reads ahead what these orders are going to need: one trip to the database, two where an order
    /// is for a case.
    ///
    /// # Errors
    /// The database.
    pub async fn read_orders_ahead(&mut self, sought: &[SoughtOrder<'_>]) -> Result<(), StoreError> {
        let mut book = Book::default();
        for s in sought {
            if let Some(key) = s.key {
                book.answers.insert(name(s.merchant, key), None);
            }
        }
        let merchants = distinct(sought.iter().map(|s| [s.merchant]));
        let named = distinct(sought.iter().filter_map(|s| Some([s.merchant, s.payer?])));
        let wanted_cases = distinct(sought.iter().filter_map(|s| Some([s.merchant, s.case?])));
        let keys = distinct(sought.iter().filter_map(|s| Some([s.merchant, s.key?])));
        let [answers, owners, accounts, sellers, endpoints, cases, payers, profiles] = self
            .ask([
                idempotency::of_keys(args_of(&keys)),
                accounts::merchants_of(args_of(&merchants)),
                accounts::provider_accounts_of(args_of(&merchants)),
                accounts::invoicing_accounts_of(args_of(&merchants)),
                messages::endpoints_of(args_of(&merchants)),
                self.cases_for_update(args_of(&wanted_cases)),
                people::payers_of_set(args_of(&named)),
                people::profiles_of_payers(args_of(&named)),
            ])
            .await?;
        for row in answers {
            let key = name(&row.text("merchant_id")?, &row.text("idempotency_key")?);
            book.answers.insert(key, Some(idempotency::answer(&row)?));
        }
        for [merchant] in &merchants {
            book.merchants.insert((*merchant).to_owned(), None);
        }
        for row in owners {
            let merchant = accounts::merchant(&row)?;
            book.merchants.insert(merchant.id.clone(), Some(merchant));
        }
        book.provider_accounts =
            shelves(&merchants, &accounts, accounts::provider_account, |a| (&a.merchant_id, &a.id))?;
        book.invoicing_accounts =
            shelves(&merchants, &sellers, accounts::invoicing_account, |a| (&a.merchant_id, &a.id))?;
        book.endpoints = shelves(&merchants, &endpoints, messages::endpoint, |e| (&e.merchant_id, &e.id))?;
        book.put_people(&named, &payers, &profiles)?;
        for row in cases {
            let folder = CaseFolder { started: Some(None), ..CaseFolder::of(&row)? };
            book.cases.insert(folder.case.id.clone(), folder);
        }
        self.read_rest_of_cases(&mut book).await?;
        self.book = Some(Box::new(book));
        Ok(())
    }

    /// What hangs on cases that are locked now: their payers and their payments.
    async fn read_rest_of_cases(&mut self, book: &mut Book) -> Result<(), StoreError> {
        let cases: Vec<[&str; 2]> = book.cases.values().map(CaseFolder::key).collect();
        let payers = book.cases.values().map(|f| [f.case.merchant_id.clone(), f.case.payer_id.clone()]);
        let payers: Vec<[String; 2]> =
            payers.filter(|[merchant, payer]| !book.payers.contains_key(&name(merchant, payer))).collect();
        let payers = distinct(payers.iter().map(|[merchant, payer]| [merchant.as_str(), payer]));
        let [completed, started, rows, profiles] = self
            .ask([
                payments::completed_of_cases(args_of(&cases)),
                payments::started_of_cases(args_of(&cases)),
                people::payers_of_set(args_of(&payers)),
                people::profiles_of_payers(args_of(&payers)),
            ])
            .await?;
        book.put_completed(&completed)?;
        for row in started {
            let payment = payments::payment(&row)?;
            if let Some(folder) = payment.case_id.as_ref().and_then(|case| book.cases.get_mut(case)) {
                let known = folder.started.as_ref().and_then(Option::as_ref);
                let is_first = |p: &Payment| (p.status != Status::Started, std::cmp::Reverse(p.id.clone()));
                if known.is_none_or(|known| is_first(&payment) < is_first(known)) {
                    folder.started = Some(Some(payment));
                }
            }
        }
        book.put_people(&payers, &rows, &profiles)
    }

    /// Remembers how much is in the book.
    pub fn mark(&self) -> BookMark {
        BookMark(self.book.as_ref().map_or([0; 5], |b| b.new.lengths()))
    }

    /// Takes what was added since `mark` out of the book: the call that added it is refused.
    pub fn take_back(&mut self, mark: &BookMark) {
        if let Some(book) = &mut self.book {
            book.new.truncate(mark.0);
        }
    }

    /// Opens the book and reads ahead what applying these events is going to need. An optimistic one does so in one trip to
    /// the database, or in two when payments have surroundings that were not expected; else there is a second when the
    /// payments are known, and where rows are locked and payments have cases a third when the cases are locked too.
    ///
    /// # Errors
    /// The database.
    pub async fn read_ahead(&mut self, sought: &[Sought<'_>]) -> Result<(), StoreError> {
        let mut book = Book::default();
        let keys = sought.iter().map(|s| row![s.merchant, s.account, s.key]);
        let mut ours = vec![];
        for s in sought {
            book.events.insert(name(s.account, s.key), Seen::Never);
            if let Reference::Ours(reference) = s.reference {
                ours.push(row![s.merchant, s.account, reference]);
                book.references.insert(name(s.account, reference), None);
            }
        }
        let merchants = distinct(sought.iter().map(|s| [s.merchant]));
        let asks_at_once = self.is_optimistic() && !ours.is_empty();
        let payments = self.payments_of_references(ours);
        let (events, endpoints) = (deliveries::of_keys(keys), messages::endpoints_of(args_of(&merchants)));
        let (payments, events, endpoints, rest) = if asks_at_once {
            // Without locks nothing has to wait for the first answers.
            let [attempts, captures] = details_of(&Of::default());
            let mut surroundings = self.surroundings_of(&Of::default());
            let are_expected = self.expects_surroundings();
            if are_expected {
                let [cases, completed, payers, sellers, gateways] = surroundings;
                surroundings = [
                    cases.about("SELECT DISTINCT merchant_id, case_id FROM q0 WHERE case_id IS NOT NULL"),
                    completed.about("SELECT DISTINCT merchant_id, case_id FROM q0 WHERE case_id IS NOT NULL"),
                    payers.about("SELECT DISTINCT merchant_id, payer_id FROM q0 WHERE buyer IS NOT NULL"),
                    sellers.about("SELECT DISTINCT merchant_id FROM q0 WHERE buyer IS NOT NULL"),
                    gateways.about("SELECT DISTINCT merchant_id FROM q0 WHERE buyer IS NOT NULL"),
                ];
            }
            let [cases, completed, payers, sellers, gateways] = surroundings;
            let attempts = attempts.about("SELECT merchant_id, id FROM q0");
            let captures = captures.about("SELECT merchant_id, id FROM q0");
            let [payments, events, endpoints, attempts, captures, surroundings @ ..] = self
                .ask([payments, events, endpoints, attempts, captures, cases, completed, payers, sellers, gateways])
                .await?;
            let surroundings = are_expected.then_some(surroundings);
            (payments, events, endpoints, Some(([attempts, captures], surroundings)))
        } else {
            let [payments, events, endpoints] = self.ask([payments, events, endpoints]).await?;
            (payments, events, endpoints, None)
        };
        for row in events {
            let found = deliveries::event(&row)?;
            let key = name(&found.account_id, &found.event.key);
            book.events.insert(key, Seen::Before(Box::new(found)));
        }
        for row in payments {
            let payment = payments::payment(&row)?;
            book.payments.insert(payment.id.clone(), Folder::of(payment));
        }
        book.endpoints = shelves(&merchants, &endpoints, messages::endpoint, |e| (&e.merchant_id, &e.id))?;
        self.put_rest_of_payments(&mut book, rest).await?;
        self.book = Some(Box::new(book));
        Ok(())
    }

    /// What surrounds payments that have a case or a buyer: the cases and, where these are not locked, how many payments of
    /// each are completed; for invoices the payers and the sellers' accounts, at invoicing APIs and at gateways.
    fn surroundings_of<'a>(&self, of: &Of<'a>) -> [Question<'a>; 5] {
        // A case that is locked is counted after that.
        let counted = if self.locks_rows() { &[][..] } else { &of.cases };
        [
            self.cases_for_update(args_of(&of.cases)),
            payments::completed_of_cases(args_of(counted)),
            people::payers_of_set(args_of(&of.payers)),
            accounts::invoicing_accounts_of(args_of(&of.sellers)),
            accounts::provider_accounts_of(args_of(&of.sellers)),
        ]
    }

    /// Puts what hangs on the book's payments into it, asking for what was not asked for already.
    async fn put_rest_of_payments(
        &mut self,
        book: &mut Book,
        rest: Option<(Details, Option<Surroundings>)>,
    ) -> Result<(), StoreError> {
        let of = Of::these(book.payments.values().map(|f| &f.payment));
        self.has_met_surroundings(!of.cases.is_empty() || !of.sellers.is_empty());
        let (details, surroundings) = match rest {
            Some((details, Some(surroundings))) => (details, surroundings),
            Some((details, None)) => (details, self.ask(self.surroundings_of(&of)).await?),
            None => {
                let ([attempts, captures], surroundings) = (details_of(&of), self.surroundings_of(&of));
                let [cases, completed, payers, accounts, gateways] = surroundings;
                let asked = self.ask([attempts, captures, cases, completed, payers, accounts, gateways]).await?;
                let [attempts, captures, surroundings @ ..] = asked;
                ([attempts, captures], surroundings)
            }
        };
        let ([attempts, captures], [case_rows, completed, payer_rows, accounts, gateways]) = (details, surroundings);
        let Of { sellers, .. } = &of;
        book.provider_accounts = shelves(sellers, &gateways, accounts::provider_account, |a| (&a.merchant_id, &a.id))?;
        book.invoicing_accounts =
            shelves(sellers, &accounts, accounts::invoicing_account, |a| (&a.merchant_id, &a.id))?;
        for row in attempts {
            let attempt = attempts::attempt(&row)?;
            let at = name(&attempt.provider_account_id, &attempt.reference);
            book.references.insert(at, Some((attempt.payment_id.clone(), attempt.id.clone())));
            if let Some(folder) = book.payments.get_mut(&attempt.payment_id) {
                folder.attempts.push((attempt, false));
            }
        }
        for row in captures {
            if let Some(folder) = book.payments.get_mut(&row.text("payment_id")?) {
                folder.captures.push(KeptCapture { capture: attempts::capture(&row)?, was_read: true, put_at: None });
            }
        }
        for folder in book.payments.values_mut() {
            folder.attempts.sort_by_key(|(a, _)| a.no);
            folder.captures.sort_by(|a, b| a.capture.id.cmp(&b.capture.id));
        }
        for row in case_rows {
            let folder = CaseFolder::of(&row)?;
            book.cases.insert(folder.case.id.clone(), folder);
        }
        for row in payer_rows {
            let payer = people::payer(&row)?;
            book.payers.insert(name(&payer.merchant_id, &payer.id), Some(payer));
        }
        if !self.locks_rows() {
            return book.put_completed(&completed);
        }
        let cases: Vec<[&str; 2]> = book.cases.values().map(CaseFolder::key).collect();
        let [completed] = self.ask([payments::completed_of_cases(args_of(&cases))]).await?;
        book.put_completed(&completed)
    }

    /// The book's folder of a payment.
    pub(super) fn folder(&mut self, merchant: &str, payment: &str) -> Option<&mut Folder> {
        let folder = self.book.as_mut()?.payments.get_mut(payment)?;
        (folder.payment.merchant_id == merchant).then_some(folder)
    }

    /// All folders of the book.
    pub(super) fn folders(&self) -> impl Iterator<Item = &Folder> {
        self.book.iter().flat_map(|book| book.payments.values())
    }

    /// The book's folder of a case.
    pub(super) fn case_folder(&mut self, merchant: &str, case: &str) -> Option<&mut CaseFolder> {
        let folder = self.book.as_mut()?.cases.get_mut(case)?;
        (folder.case.merchant_id == merchant).then_some(folder)
    }

    /// The attempt that our reference names at an account, as far as the book knows: `None` when it was not looked for.
    pub(super) fn booked_attempt(&mut self, merchant: &str, account: &str, reference: &str) -> Option<Option<Attempt>> {
        let book = self.book.as_ref()?;
        let Some((payment, attempt)) = book.references.get(&name(account, reference))? else { return Some(None) };
        let folder = book.payments.get(payment).filter(|f| f.payment.merchant_id == merchant)?;
        folder.attempts.iter().find(|(a, _)| a.id == *attempt).map(|(a, _)| Some(a.clone()))
    }

    /// Writes the book and forgets a payment, before rows of it are changed past the book.
    pub(super) async fn set_down(&mut self, payment: &str) -> Result<(), StoreError> {
        self.beside_the_book()?;
        let Some((mut book, new)) = self.write_behind().await? else { return Ok(()) };
        book.is_written(new);
        if let Some(folder) = book.payments.remove(payment) {
            book.references.retain(|_, at| at.as_ref().is_none_or(|(p, _)| *p != folder.payment.id));
        }
        self.book = Some(book);
        Ok(())
    }

    /// Writes what the book holds: a handful of statements, on PostgreSQL one. Answers the book, with the rows that were
    /// added, for whoever goes on with it.
    ///
    /// # Errors
    /// The database; [`StoreError::Conflict`] when a payment or a case is not what was read any more (never seen where they
    /// are locked), or when somebody was faster with an event or an idempotency key: doing all again finds it.
    pub(super) async fn write_behind(&mut self) -> Result<Option<(Box<Book>, New)>, StoreError> {
        let Some(mut book) = self.book.take() else { return Ok(None) };
        let new = std::mem::take(&mut book.new);
        book.payments.values_mut().for_each(Folder::settle);
        let payments = NewPayments::of(&new.payments, &new.attempts)?;
        let causes: HashSet<&str> = new.transitions.iter().filter_map(|(_, _, t)| t.cause_id.as_deref()).collect();
        let events = new.events.iter().map(|e| NewEvent::of(e, causes.contains(e.id.as_str())));
        let events: Vec<NewEvent<'_>> = events.collect::<Result<_, _>>()?;
        let invoices = NewInvoices::of(&new.invoices)?;
        let mut folders: Vec<&Folder> = book.payments.values().collect();
        // Whoever writes several takes them in the same order.
        folders.sort_unstable_by(|a, b| a.payment.id.cmp(&b.payment.id));
        let folders = || folders.iter().copied();
        let is_changed = |f: &&Folder| f.payment.version != f.version_read;
        let changed: Vec<(&Payment, i64, String)> =
            folders().filter(is_changed).map(Folder::written).collect::<Result<_, _>>()?;
        let decided: HashSet<&str> = match self.is_optimistic() {
            true => new.events.iter().filter_map(|e| e.payment_id.as_deref()).collect(),
            false => HashSet::new(),
        };
        let is_held = |f: &&Folder| decided.contains(f.payment.id.as_str()) && !is_changed(f);
        let held: Vec<&Payment> = folders().filter(is_held).map(|f| &f.payment).collect();
        let attempts: Vec<&Attempt> =
            folders().flat_map(|f| &f.attempts).filter(|(_, is_changed)| *is_changed).map(|(a, _)| a).collect();
        let put_captures =
            |was_read: bool| -> Vec<PutCapture<'_>> { folders().flat_map(|f| f.put_captures(was_read)).collect() };
        let (added, changed_captures) = (put_captures(false), put_captures(true));
        let mut cases: Vec<ChangedCase<'_>> =
            book.cases.values().filter(|c| c.is_changed).map(CaseFolder::changed).collect::<Result<_, _>>()?;
        cases.sort_unstable_by(|a, b| a.case.id.cmp(&b.case.id));
        let sets = [
            payments::moved_set(&changed),
            payments::held_set(&held),
            payments.set(),
            attempts::new_set(&new.attempts),
            deliveries::new_set(&new.deliveries),
            deliveries::repeats_set(&new.repeats),
            deliveries::events_set(&events, deliveries::ADD_EVENTS),
            attempts::captures_set(&added, attempts::ADD_CAPTURES),
            attempts::captures_set(&changed_captures, attempts::PUT_CAPTURES),
            attempts::states_set(&attempts),
            payments::transitions_set(&new.transitions),
            cases::changed_set(&cases),
            invoices.set(),
            self.new_messages(&new.messages),
            messages::tellings_set(&new.tellings),
            super::jobs::new_set(&new.jobs),
            idempotency::new_set(&new.answers),
        ];
        self.run_sets_of_book(&sets).await.map_err(|error| match error {
            StoreError::Taken => StoreError::Conflict,
            other => other,
        })?;
        drop(sets);
        drop((events, causes));
        Ok(Some((book, new)))
    }
}

impl CaseFolder {
    fn of(row: &Row) -> Result<CaseFolder, StoreError> {
        let case = cases::case(row)?;
        let (version_read, updated_read) = (row.int("version")?, case.updated_at);
        Ok(CaseFolder { case, is_changed: false, version_read, updated_read, payments: 0, completed: 0, started: None })
    }

    fn changed(&self) -> Result<ChangedCase<'_>, StoreError> {
        let CaseFolder { case, version_read, updated_read, .. } = self;
        let lines = super::rows::to_json(&case.lines)?;
        Ok(ChangedCase { case, version_read: *version_read, updated_read: *updated_read, lines })
    }

    /// Merchant and case.
    fn key(&self) -> [&str; 2] {
        [&self.case.merchant_id, &self.case.id]
    }
}

impl Book {
    /// Payers that were looked for, with their profiles, the default first.
    fn put_people(&mut self, wanted: &[[&str; 2]], payers: &[Row], profiles: &[Row]) -> Result<(), StoreError> {
        for [merchant, payer] in wanted {
            self.payers.insert(name(merchant, payer), None);
            self.profiles.insert(name(merchant, payer), vec![]);
        }
        for row in payers {
            let payer = people::payer(row)?;
            self.payers.insert(name(&payer.merchant_id, &payer.id), Some(payer));
        }
        for row in profiles {
            let profile = people::profile(row)?;
            self.profiles.entry(name(&profile.merchant_id, &profile.payer_id)).or_default().push(profile);
        }
        for [merchant, payer] in wanted {
            let of_payer = self.profiles.entry(name(merchant, payer)).or_default();
            of_payer.sort_by(|a, b| (!a.is_default, &a.id).cmp(&(!b.is_default, &b.id)));
        }
        Ok(())
    }

    fn put_completed(&mut self, counts: &[Row]) -> Result<(), StoreError> {
        for row in counts {
            if let Some(folder) = self.cases.get_mut(&row.text("case_id")?) {
                folder.payments = row.int("payments")?;
                folder.completed = row.int("completed")?;
            }
        }
        Ok(())
    }

    /// After writing: what is in the database now is what the book says.
    fn is_written(&mut self, new: New) {
        for folder in self.payments.values_mut() {
            folder.version_read = folder.payment.version;
            folder.attempts.iter_mut().for_each(|(_, is_changed)| *is_changed = false);
            folder.captures.iter_mut().for_each(|kept| (kept.was_read, kept.put_at) = (true, None));
        }
        for folder in self.cases.values_mut().filter(|c| c.is_changed) {
            folder.is_changed = false;
            folder.version_read += 1;
            folder.updated_read = folder.case.updated_at;
        }
        for event in new.events {
            self.events.insert(name(&event.account_id, &event.event.key), Seen::Before(Box::new(event)));
        }
    }
}

/// What owners have of a kind, in the order of the ids; an owner without any has an empty shelf.
fn shelves<T>(
    owners: &[[&str; 1]],
    rows: &[Row],
    read: fn(&Row) -> Result<T, StoreError>,
    owner_and_id: fn(&T) -> (&String, &String),
) -> Result<HashMap<String, Vec<T>>, StoreError> {
    let mut shelves: HashMap<String, Vec<T>> = owners.iter().map(|[owner]| ((*owner).to_owned(), vec![])).collect();
    for row in rows {
        let found = read(row)?;
        if let Some(shelf) = shelves.get_mut(owner_and_id(&found).0) {
            shelf.push(found);
        }
    }
    for shelf in shelves.values_mut() {
        shelf.sort_by(|a, b| owner_and_id(a).1.cmp(owner_and_id(b).1));
    }
    Ok(shelves)
}

/// The rows of payments' attempts and captures.
type Details = [Vec<Row>; 2];

/// The rows of cases, of how many payments of each are completed, of payers, of invoicing accounts and of accounts at
/// gateways.
type Surroundings = [Vec<Row>; 5];

/// The attempts and captures of payments.
fn details_of<'a>(of: &Of<'a>) -> [Question<'a>; 2] {
    [attempts::of_payments(args_of(&of.payments)), attempts::captures_of_payments(args_of(&of.payments))]
}

/// By what the rest of payments is found.
#[derive(Default)]
struct Of<'a> {
    payments: Vec<[&'a str; 2]>,
    cases: Vec<[&'a str; 2]>,
    payers: Vec<[&'a str; 2]>,
    sellers: Vec<[&'a str; 1]>,
}

impl<'a> Of<'a> {
    fn these(payments: impl Iterator<Item = &'a Payment> + Clone) -> Of<'a> {
        // Only who gave invoice data gets an invoice.
        let invoiced = payments.clone().filter(|p| p.buyer.is_some());
        Of {
            payments: payments.clone().map(|p| [p.merchant_id.as_str(), &p.id]).collect(),
            cases: distinct(payments.filter_map(|p| Some([p.merchant_id.as_str(), p.case_id.as_deref()?]))),
            payers: distinct(invoiced.clone().map(|p| [p.merchant_id.as_str(), p.payer_id.as_str()])),
            sellers: distinct(invoiced.map(|p| [p.merchant_id.as_str()])),
        }
    }
}

/// Each once: what is asked about twice would be answered twice.
fn distinct<'a, const N: usize>(rows: impl Iterator<Item = [&'a str; N]>) -> Vec<[&'a str; N]> {
    let mut rows: Vec<_> = rows.collect();
    rows.sort_unstable();
    rows.dedup();
    rows
}

fn args_of<'a, const N: usize>(rows: &[[&'a str; N]]) -> impl Iterator<Item = [Arg<'a>; N]> {
    rows.iter().map(|row| row.map(Arg::from))
}

impl New {
    /// Of what an order adds.
    fn lengths(&self) -> [usize; 5] {
        [self.payments.len(), self.attempts.len(), self.transitions.len(), self.messages.len(), self.jobs.len()]
    }

    fn truncate(&mut self, [payments, attempts, transitions, messages, jobs]: [usize; 5]) {
        self.payments.truncate(payments);
        self.attempts.truncate(attempts);
        self.transitions.truncate(transitions);
        self.messages.truncate(messages);
        self.jobs.truncate(jobs);
        let messages = &self.messages;
        self.tellings.retain(|t| messages.iter().any(|m| m.id == t.message_id));
    }
}

impl Folder {
    fn of(payment: Payment) -> Folder {
        Folder { version_read: payment.version, payment, attempts: vec![], captures: vec![] }
    }

    /// Marks the payment as changed at `now`.
    pub(super) fn change(&mut self, now: i64) -> &mut Payment {
        self.payment.version += 1;
        self.payment.updated_at = now;
        &mut self.payment
    }

    /// The payment as it is to be written: with the version it was read at, and what lists show of it.
    fn written(&self) -> Result<(&Payment, i64, String), StoreError> {
        let glance = Glance::of(&self.payment, self.attempts.iter().map(|(attempt, _)| attempt));
        Ok((&self.payment, self.version_read, glance.text()?))
    }

    /// Before writing: a change of what hangs on the payment is one of the payment.
    fn settle(&mut self) {
        let is_changed = self.attempts.iter().any(|(_, is_changed)| *is_changed)
            || self.captures.iter().any(|kept| kept.put_at.is_some());
        if is_changed && self.payment.version == self.version_read {
            self.payment.version += 1;
        }
    }

    /// As the statement does: a paid capture stays as it is.
    pub(super) fn put_capture(&mut self, c: &Capture, now: i64) {
        let same = |known: &Capture| known.attempt_id == c.attempt_id && known.gateway_ref == c.gateway_ref;
        match self.captures.iter_mut().find(|kept| same(&kept.capture)) {
            Some(kept) => {
                if kept.capture.state != "paid" {
                    kept.capture = Capture { id: kept.capture.id.clone(), ..c.clone() };
                }
                kept.put_at = Some(now);
            }
            None => self.captures.push(KeptCapture { capture: c.clone(), was_read: false, put_at: Some(now) }),
        }
    }

    /// The captures that have to be written, those that are in the database already or those that are not.
    fn put_captures(&self, was_read: bool) -> impl Iterator<Item = PutCapture<'_>> {
        let (merchant, payment) = (self.payment.merchant_id.as_str(), self.payment.id.as_str());
        let put = self.captures.iter().filter(move |kept| kept.was_read == was_read);
        put.filter_map(move |kept| Some((merchant, payment, &kept.capture, kept.put_at?)))
    }
}
