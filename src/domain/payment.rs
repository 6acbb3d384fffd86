//! The payment's status machine: one table, no wildcard.
//!
//! Three statuses. `completed` never goes back: refunds and disputes stand beside it. A verified success after
//! `error` completes the payment, however late, because the money is real; a second one is surplus with a refund
//! offered. Nothing here knows where a signal came from (webhook, poll, replay): that is the point.

use super::words;

words! {
    /// Status of a payment.
    Status {
        /// The process has begun and is not finished.
        Started = "started",
        /// The money is the merchant's.
        Completed = "completed",
        /// It came to nothing so far.
        Error = "error",
    }
}

words! {
    /// Why a payment is in `error`.
    Reason {
        /// The payer gave up.
        Cancelled = "cancelled",
        /// The bank or the gateway said no.
        Declined = "declined",
        /// Time ran out, and the gateway says that it was not paid.
        Expired = "expired",
        /// Anything else.
        Technical = "technical",
        /// The quote was changed after the checkout had begun.
        QuoteChanged = "quote_changed",
    }
}

impl From<grosz_providers::FailReason> for Reason {
    fn from(reason: grosz_providers::FailReason) -> Self {
        match reason {
            grosz_providers::FailReason::Cancelled => Reason::Cancelled,
            grosz_providers::FailReason::Declined => Reason::Declined,
            grosz_providers::FailReason::Expired => Reason::Expired,
            grosz_providers::FailReason::Technical => Reason::Technical,
        }
    }
}

words! {
    /// What a verified event, or a rule of ours, tells a payment.
    Signal {
        /// Money came that was not told of before.
        Paid = "paid",
        /// Money that was told of before is told of again.
        PaidAgain = "paid again",
        /// Money is or may be under way.
        Pending = "pending",
        /// A try came to nothing, and no other try of the attempt is under way.
        Failed = "failed",
        /// A try came to nothing while another one of the same attempt is under way.
        FailedBeside = "failed beside",
        /// The attempt's time is over, and the gateway said that it was not paid.
        Expired = "expired",
        /// We closed the attempt ourselves (the quote changed).
        Withdrawn = "withdrawn",
    }
}

/// What a signal does to a payment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing moves; the signal is in the history.
    Stay,
    /// The status moves.
    Move(Status),
    /// The status moves, and the payment is flagged as a late success.
    MoveLate(Status),
    /// The status stays, the payment is flagged as paid twice, a refund is offered.
    Surplus,
}

/// The table.
pub fn apply(status: Status, signal: Signal) -> Step {
    use Signal::{Expired, Failed, FailedBeside, Paid, PaidAgain, Pending, Withdrawn};
    use Status::{Completed, Error, Started};
    match (status, signal) {
        (Started, Paid) => Step::Move(Completed),
        (Started, Failed | Expired | Withdrawn) => Step::Move(Error),
        (Started, Pending | FailedBeside) => Step::Stay,
        // A repeat finds its capture on record only after the payment completed or the capture was of another try.
        (Started, PaidAgain) => Step::Stay,

        (Completed, Paid) => Step::Surplus,
        (Completed, PaidAgain | Pending) => Step::Stay,
        // Of another try, or (documented as impossible) of the very try that was paid: kept in the history.
        (Completed, Failed | FailedBeside | Expired | Withdrawn) => Step::Stay,

        (Error, Paid) => Step::MoveLate(Completed),
        (Error, PaidAgain | Pending) => Step::Stay,
        (Error, Failed | FailedBeside | Expired | Withdrawn) => Step::Stay,
    }
}

/// The table as a Mermaid state diagram, for ARCHITECTURE.md.
pub fn diagram() -> String {
    let mut lines = vec!["stateDiagram-v2".to_owned(), "    [*] --> started: checkout created".to_owned()];
    for &from in Status::ALL {
        for &signal in Signal::ALL {
            let line = match apply(from, signal) {
                Step::Stay => continue,
                Step::Move(to) => format!("    {from} --> {to}: {signal}"),
                Step::MoveLate(to) => format!("    {from} --> {to}: {signal} (flag late_success)"),
                Step::Surplus => format!("    {from} --> {from}: {signal} (flag double_payment, offer a refund)"),
            };
            lines.push(line);
        }
    }
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    // I5: started → completed, started → error, error → completed; completed never leaves.
    #[test]
    fn the_only_moves_are_the_allowed_ones() {
        let mut moves = vec![];
        for &from in Status::ALL {
            for &signal in Signal::ALL {
                if let Step::Move(to) | Step::MoveLate(to) = apply(from, signal) {
                    moves.push((from, to));
                    assert_ne!(from, Status::Completed, "completed is final");
                    assert_eq!(to == Status::Completed, signal == Signal::Paid, "only money completes (R-HUB-02)");
                }
            }
        }
        moves.dedup();
        use Status::{Completed, Error, Started};
        assert_eq!(moves, [(Started, Completed), (Started, Error), (Error, Completed)]);
    }

    // F04, F05, F08
    #[test]
    fn late_and_double_money_is_kept_in_sight() {
        assert_eq!(apply(Status::Error, Signal::Paid), Step::MoveLate(Status::Completed));
        assert_eq!(apply(Status::Completed, Signal::Paid), Step::Surplus);
        assert_eq!(apply(Status::Completed, Signal::Failed), Step::Stay);
    }

    // R-HUB-02: the picture in ARCHITECTURE.md is printed from the table.
    #[test]
    fn architecture_shows_this_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/ARCHITECTURE.md");
        let text = std::fs::read_to_string(path).unwrap();
        let (open, close) = ("<!-- status machine -->\n```mermaid\n", "\n```\n<!-- end -->");
        let (head, rest) = text.split_once(open).expect("the diagram's opening mark");
        let (shown, tail) = rest.split_once(close).expect("the diagram's closing mark");
        if shown != diagram() && std::env::var_os("GROSZ_BLESS").is_some() {
            std::fs::write(path, format!("{head}{open}{}{close}{tail}", diagram())).unwrap();
            return;
        }
        assert_eq!(shown, diagram(), "run with GROSZ_BLESS=1 to print the table anew");
    }
}
