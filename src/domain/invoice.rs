//! Rules of the invoice: the payer's cell, the job's states, what an attempt's failure means.

use grosz_providers::invoicer::FailureClass;

use super::payment::{Reason, Status};
use super::words;

words! {
    /// The invoice cell in the payer's list: five values (R-5W-30…34).
    Cell {
        /// "Generowanie faktury": it is being issued and can soon be downloaded.
        Generating = "generating",
        /// "Pobierz fakturę": the PDF is there.
        Download = "download",
        /// "Spróbuj ponownie": a try to pay was made and not completed.
        TryAgain = "try_again",
        /// "Ponów płatność": the payer cancelled while paying.
        RenewPayment = "renew_payment",
        /// Nothing to show: no integration, or every attempt failed.
        Empty = "empty",
    }
}

words! {
    /// Where the issuing of a document stands.
    State {
        /// Nothing was sent since the last certain answer.
        Queued = "queued",
        /// Marked before the first byte leaves; whoever finds this mark without its owner treats it as `Unknown`.
        Sending = "sending",
        /// It may or may not exist; only look-ups until that is settled.
        Unknown = "unknown",
        /// It exists and is what was ordered.
        Issued = "issued",
        /// It exists and differs from the order: a person must look, the PDF is not handed out.
        IssuedDiffers = "issued_differs",
        /// A person must look (duplicates, conflicts, an outcome that stayed unknown).
        Held = "held",
        /// Every attempt failed; the expert was told.
        Exhausted = "exhausted",
        /// An expert attached a document made by hand.
        ByHand = "by_hand",
    }
}

impl State {
    /// True while the job still has something to try.
    pub fn is_open(self) -> bool {
        matches!(self, State::Queued | State::Sending | State::Unknown)
    }
}

/// What the cell depends on.
#[derive(Debug, Clone, Copy)]
pub struct CellFacts {
    /// The payment's status.
    pub status: Status,
    /// Its reason, when in `error`.
    pub reason: Option<Reason>,
    /// State of the sales invoice; `None` when none is wanted (integration off, no buyer).
    pub invoice: Option<State>,
    /// The PDF is stored here.
    pub has_pdf: bool,
    /// The expert attached a file and the merchant shows attachments in the list.
    pub shown_attachment: bool,
}

/// The rule table of R-5W 1.5, the one place that decides the cell.
pub fn cell(facts: CellFacts) -> Cell {
    match (facts.status, facts.reason) {
        (Status::Started, _) => Cell::TryAgain,
        (Status::Error, Some(Reason::Cancelled)) => Cell::RenewPayment,
        (Status::Error, Some(Reason::Declined | Reason::Expired | Reason::Technical | Reason::QuoteChanged) | None) => {
            Cell::TryAgain
        }
        (Status::Completed, _) if facts.shown_attachment => Cell::Download,
        (Status::Completed, _) => match facts.invoice {
            Some(State::Queued | State::Sending | State::Unknown) => Cell::Generating,
            Some(State::Issued) if facts.has_pdf => Cell::Download,
            Some(State::Issued) => Cell::Generating,
            Some(State::IssuedDiffers | State::Held | State::Exhausted | State::ByHand) | None => Cell::Empty,
        },
    }
}

/// How the pause of an account begins whose credentials are refused already when it is asked something.
pub const REFUSES_US: &str = "refuses us: ";

/// How the pause of an account begins that answers questions and refuses to issue.
pub const REFUSES_TO_ISSUE: &str = "refuses to issue: ";

/// A verdict that is late by so much, microseconds, is not waited for: whoever was to give it is gone.
const FORGOTTEN: i64 = 3_600_000_000;

/// Whether an invoicing account rests, and what ends that (ADR 0041).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rest {
    /// It works.
    None,
    /// Until this instant, microseconds; then one invoice goes ahead.
    Until(i64),
    /// Until a probe says that its credentials are taken.
    Probe,
    /// Until a probe lets one invoice go ahead: that reading works does not show that writing does.
    Issue,
    /// One invoice may go ahead; how it fares decides for the others.
    Trial,
}

/// Reads an account's pause.
pub fn rest(paused_until: Option<i64>, reason: Option<&str>, now: i64) -> Rest {
    let begins = |words: &str| reason.is_some_and(|reason| reason.starts_with(words));
    match paused_until {
        None if begins(REFUSES_TO_ISSUE) => Rest::Trial,
        Some(until) if until < now - FORGOTTEN => Rest::Trial,
        _ if begins(REFUSES_TO_ISSUE) => Rest::Issue,
        _ if begins(REFUSES_US) => Rest::Probe,
        Some(until) if until > now => Rest::Until(until),
        Some(_) => Rest::Trial,
        None => Rest::None,
    }
}

/// What follows a failed attempt to issue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AfterFailure {
    /// It may exist: look it up, do not send.
    Reconcile,
    /// Surely not issued; another attempt after this many seconds.
    TryAgainIn(i64),
    /// Surely not issued, and there are no attempts left (or trying again is pointless and switched off).
    GiveUp,
}

/// Decides after attempt number `attempts` (1 is the first) failed. `waits_s` holds the pause before each attempt,
/// the first included: its length is the number of attempts (R-5W-43, R-5W-47).
pub fn after_failure(class: FailureClass, attempts: i64, waits_s: &[i64], stop_on_permanent: bool) -> AfterFailure {
    let permanent = match class {
        FailureClass::Unknown => return AfterFailure::Reconcile,
        FailureClass::Data | FailureClass::Config | FailureClass::Bug | FailureClass::Absent => true,
        FailureClass::Retryable => false,
    };
    let next = usize::try_from(attempts).ok().and_then(|n| waits_s.get(n));
    match next {
        Some(_) if permanent && stop_on_permanent => AfterFailure::GiveUp,
        Some(wait) => AfterFailure::TryAgainIn(*wait),
        None => AfterFailure::GiveUp,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(status: Status, reason: Option<Reason>, invoice: Option<State>, has_pdf: bool, expect: Cell) {
        let facts = CellFacts { status, reason, invoice, has_pdf, shown_attachment: false };
        assert_eq!(cell(facts), expect, "{facts:?}");
    }

    // R-5W-30…34: the full display matrix
    #[test]
    fn the_cell_follows_the_matrix() {
        use Status::{Completed, Error, Started};
        check(Started, None, None, false, Cell::TryAgain);
        check(Error, Some(Reason::Cancelled), None, false, Cell::RenewPayment);
        for reason in [Reason::Declined, Reason::Technical, Reason::Expired, Reason::QuoteChanged] {
            check(Error, Some(reason), None, false, Cell::TryAgain);
        }
        for state in [State::Queued, State::Sending, State::Unknown] {
            check(Completed, None, Some(state), false, Cell::Generating);
        }
        check(Completed, None, Some(State::Issued), true, Cell::Download);
        check(Completed, None, Some(State::Issued), false, Cell::Generating);
        for state in [State::Exhausted, State::Held, State::IssuedDiffers, State::ByHand] {
            check(Completed, None, Some(state), true, Cell::Empty);
        }
        check(Completed, None, None, false, Cell::Empty);
        let shown =
            CellFacts { status: Completed, reason: None, invoice: None, has_pdf: false, shown_attachment: true };
        assert_eq!(cell(shown), Cell::Download);
    }

    #[test]
    fn an_account_rests_until_what_stopped_it_is_over() {
        let refused = format!("{REFUSES_US}AUTH");
        let cannot_issue = format!("{REFUSES_TO_ISSUE}ERROR");
        for (until, reason, expect) in [
            (None, None, Rest::None),
            (Some(11), Some("OUT OF SERVICE"), Rest::Until(11)),
            (Some(10), Some("OUT OF SERVICE"), Rest::Trial),
            (None, Some("OUT OF SERVICE"), Rest::None),
            // A verdict is waited for, whatever the hour.
            (Some(11), Some(&*refused), Rest::Probe),
            (Some(9), Some(&*refused), Rest::Probe),
            (Some(11), Some(&*cannot_issue), Rest::Issue),
            (Some(9), Some(&*cannot_issue), Rest::Issue),
            (None, Some(&*cannot_issue), Rest::Trial),
        ] {
            assert_eq!(rest(until, reason, 10), expect, "{until:?} {reason:?}");
        }
        for reason in [&*refused, &*cannot_issue] {
            assert_eq!(rest(Some(10), Some(reason), 11 + FORGOTTEN), Rest::Trial, "nobody probes any more");
        }
    }

    // R-5W-43, R-5W-47
    #[test]
    fn three_attempts_whatever_the_error() {
        let waits = [0, 60, 600];
        for class in [FailureClass::Retryable, FailureClass::Data, FailureClass::Config, FailureClass::Bug] {
            assert_eq!(after_failure(class, 1, &waits, false), AfterFailure::TryAgainIn(60));
            assert_eq!(after_failure(class, 2, &waits, false), AfterFailure::TryAgainIn(600));
            assert_eq!(after_failure(class, 3, &waits, false), AfterFailure::GiveUp);
        }
        assert_eq!(after_failure(FailureClass::Data, 1, &waits, true), AfterFailure::GiveUp);
        assert_eq!(after_failure(FailureClass::Retryable, 1, &waits, true), AfterFailure::TryAgainIn(60));
        assert_eq!(after_failure(FailureClass::Unknown, 3, &waits, true), AfterFailure::Reconcile);
    }
}
