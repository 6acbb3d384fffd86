//! English: also what the API says to do next.

use super::{Cause, Matter, Words};

pub(super) const WORDS: Words = Words {
    attention: "Needs attention",
    to_correct: "To be corrected",
    next: "What next",
    details: "Details",
    see: "See",
    not_issued: "an invoice could not be issued",
    not_issued_fields: Cause {
        meaning: "The invoicing system refuses the data of the buyer or of a line.",
        next: "correct the named fields, then reissue the invoice",
    },
    not_issued_data: Cause {
        meaning: "The invoicing system refuses the data of the buyer or of a line.",
        next: "see what the invoicing system says, correct the buyer's data or the lines, then reissue the invoice",
    },
    not_issued_account: Cause {
        meaning: "The invoicing system refuses the account's credentials or settings.",
        next: "correct the invoicing account's credentials or settings, then reissue the invoice",
    },
    not_issued_account_off: Cause {
        meaning: "The invoicing account is switched off, and no other one is on.",
        next: "switch an invoicing account on, then reissue the invoice",
    },
    not_issued_bug: Cause {
        meaning: "The invoicing system did not understand the request.",
        next: "tell the hub's makers what the invoicing system says; meanwhile attach an invoice made by hand",
    },
    not_issued_absent: Cause {
        meaning: "Something that the invoice refers to is not there in the invoicing system.",
        next: "set right in the invoicing system what is missing there, then reissue the invoice",
    },
    not_issued_unreachable: Cause {
        meaning: "The invoicing system could not be reached, or gave no usable answer.",
        next: "see whether the invoicing system is up, then reissue the invoice",
    },
    invoice_unknown: Matter {
        title: "it is not known whether an invoice exists",
        cause: Cause {
            meaning: "It could not be found out whether the invoice exists in the invoicing system; nothing more is sent there.",
            next: "look into the invoicing system for the invoice; attach it or reissue",
        },
    },
    invoice_duplicate: Matter {
        title: "an invoice exists twice",
        cause: Cause {
            meaning: "The invoicing system holds more than one document for this payment.",
            next: "cancel the superfluous document in the invoicing system",
        },
    },
    invoice_conflict: Matter {
        title: "a document over another amount",
        cause: Cause {
            meaning: "The invoicing system holds a document for this payment over another amount or currency.",
            next: "compare the document with the payment, correct it there",
        },
    },
    invoice_issued_differs: Matter {
        title: "an invoice is not as ordered",
        cause: Cause {
            meaning: "The invoice was issued, but not as it was ordered; the client is not given it.",
            next: "compare the document with the payment, correct it there",
        },
    },
    invoice_account: Matter {
        title: "the invoicing system refuses access",
        cause: Cause {
            meaning: "The invoicing system refuses the account's credentials or settings; its invoices wait.",
            next: "correct the invoicing account's credentials; waiting invoices go on by themselves",
        },
    },
    invoice_unreachable: Matter {
        title: "the invoicing system fails",
        cause: Cause {
            meaning: "The invoicing system fails again and again; new invoices wait.",
            next: "see whether the invoicing system is up; waiting invoices go on by themselves",
        },
    },
    invoice_ksef: Matter {
        title: "an invoice was rejected by KSeF",
        cause: Cause {
            meaning: "The national system (KSeF) rejected the invoice; the client is not given it.",
            next: "see the invoicing system for what the national system says about this invoice",
        },
    },
    invoice_pdf_missing: Matter {
        title: "an invoice cannot be downloaded",
        cause: Cause {
            meaning: "The invoice is issued, but its PDF cannot be had from the invoicing system.",
            next: "fetch the document from the invoicing system and attach it",
        },
    },
    invoice_to_correct: Matter {
        title: "an invoice has to be corrected",
        cause: Cause {
            meaning: "Money of an invoiced payment was given back, so the invoice has to be corrected.",
            next: "issue a correcting invoice in the invoicing system, then resolve the alert",
        },
    },
    payment_amount_mismatch: Matter {
        title: "another amount was paid",
        cause: Cause {
            meaning: "The gateway reports another amount or currency than was to be paid; the payment's status did not change.",
            next: "give the money back at the gateway, or agree with the payer; then resolve this alert: the payment can be tried again",
        },
    },
    payment_account_mismatch: Matter {
        title: "news for another account",
        cause: Cause {
            meaning: "The gateway's message about this payment names another account or another mode; the payment's status did not change.",
            next: "look at the delivery; ask the gateway what was really paid, and refund it or start a new payment",
        },
    },
    payment_double: Matter {
        title: "the client paid twice",
        cause: Cause {
            meaning: "Money came on top of what was already paid; a refund is prepared and waits for confirmation.",
            next: "confirm the prepared refund, or agree with the payer to keep the money",
        },
    },
    payment_late_success: Matter {
        title: "a payment arrived late",
        cause: Cause {
            meaning: "Money came for a payment that had been given up; the payment is now completed.",
            next: "nothing is lost; tell the payer that the payment arrived after all",
        },
    },
    payment_disputed: Matter {
        title: "the client disputes a payment",
        cause: Cause {
            meaning: "The client disputes this payment at the gateway or the bank.",
            next: "answer the dispute at the gateway before its date",
        },
    },
    payment_dispute_lost: Matter {
        title: "a dispute was lost",
        cause: Cause {
            meaning: "A dispute was lost: the client has the disputed money back.",
            next: "do not refund this money once more; decide whether the invoice is to be corrected, then resolve the alert",
        },
    },
    payment_stuck: Matter {
        title: "a payment without an end",
        cause: Cause {
            meaning: "The gateway gave no final answer about this payment in all its time.",
            next: "ask the gateway about this payment",
        },
    },
    payment_failure_after_success: Matter {
        title: "contradicting news of a payment",
        cause: Cause {
            meaning: "The gateway reports as failed what it had reported as paid; the payment stays completed.",
            next: "look at the delivery and ask the gateway",
        },
    },
    payment_unknown_status: Matter {
        title: "a payment's status is not known here",
        cause: Cause {
            meaning: "The gateway reports a status of this payment that is not known here; nothing changed.",
            next: "look at the delivery and ask the gateway",
        },
    },
    refund_failed: Matter {
        title: "a refund did not happen",
        cause: Cause {
            meaning: "A refund did not happen; the money is still here.",
            next: "the money is still here; order the refund anew or pay it by transfer",
        },
    },
    refund_conflict: Matter {
        title: "a refund was refused",
        cause: Cause {
            meaning: "The gateway refused a refund: the money was given back already, or a dispute holds it.",
            next: "look at the gateway first: what was given back there, or taken by a dispute, must not be paid once more",
        },
    },
    refund_amount_mismatch: Matter {
        title: "a refund of another amount",
        cause: Cause {
            meaning: "The gateway reports a refund that does not fit what is on record; it was not booked.",
            next: "look at the delivery; ask the gateway what was really given back",
        },
    },
    refund_unknown: Matter {
        title: "it is not known what became of a refund",
        cause: Cause {
            meaning: "It could not be found out whether a refund was made.",
            next: "ask the gateway whether this refund was made before ordering it again",
        },
    },
    event_unknown_attempt: Matter {
        title: "news of an unknown payment",
        cause: Cause {
            meaning: "The gateway sent a genuine message about a payment that is not known here.",
            next: "look at the delivery: was it started elsewhere with the same account?",
        },
    },
    event_unreadable: Matter {
        title: "a gateway's message cannot be read",
        cause: Cause {
            meaning: "The gateway sent a genuine message that cannot be read; it is kept.",
            next: "look at the delivery; ask the gateway what it says, and look after the payment by hand",
        },
    },
    provider_config: Matter {
        title: "the gateway refuses access",
        cause: Cause {
            meaning: "The gateway refuses the account's credentials; nobody can pay through it.",
            next: "correct the provider account's settings",
        },
    },
    provider_refused: Matter {
        title: "the gateway refuses checkouts",
        cause: Cause {
            meaning: "The gateway refuses to begin a payment; perhaps nobody can pay through this account.",
            next: "see what the gateway objects to: mend the account there or here, or start the payment anew",
        },
    },
    endpoint_disabled: Matter {
        title: "a client app is told no more",
        cause: Cause {
            meaning: "A client app's endpoint was disabled because it failed for too long; it is told of nothing more.",
            next: "correct the endpoint and enable it; missed messages can be replayed",
        },
    },
    message_exhausted: Matter {
        title: "a client app missed a message",
        cause: Cause {
            meaning: "A client app's endpoint did not take a message, and it is not sent again by itself.",
            next: "see why the endpoint refuses messages, replay what it missed with POST /v1/webhook-endpoints/{id}/replay, then resolve the alert",
        },
    },
    notice_undeliverable: Matter {
        title: "a letter cannot be delivered",
        cause: Cause {
            meaning: "The mail server refuses a letter's address for good.",
            next: "correct the address, then send the letter again with POST /v1/notices/{id}/resend",
        },
    },
    job_poison: Matter {
        title: "a task was set aside",
        cause: Cause {
            meaning: "A task of the hub was begun again and again and never ended; it is set aside.",
            next: "see the log for what the worker died of; then POST /v1/jobs/{id}/retry has the work go on",
        },
    },
    other: Matter {
        title: "something to look at",
        cause: Cause { meaning: "The hub met something that a person should look at.", next: "look at the details" },
    },
};
