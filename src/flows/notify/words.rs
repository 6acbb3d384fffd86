//! What letters about alerts say, in the six languages: for each code a title for the subject, a sentence that says what is
//! the matter, and what to do next. Each language is one file of constants: a text that is missing does not compile
//! (R-HUB-12). The technical detail of an alert is not translated; it stands below, as the API shows it.

mod cs;
mod en;
mod is;
mod pl;
mod ru;
mod uk;

/// Why an invoice could not be issued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotIssued {
    /// Fields of the order are refused, and named.
    Fields,
    /// The buyer's data or a line are refused; which, only the invoicing system's words tell.
    Data,
    /// The account's credentials or settings are refused.
    Account,
    /// The account was switched off, and no other one is on.
    AccountOff,
    /// The request was not understood.
    Bug,
    /// Something the invoice refers to is missing.
    Absent,
    /// No answer, or none that can be used.
    Unreachable,
}

/// What is the matter, and what to do.
pub(super) struct Cause {
    /// A sentence.
    pub meaning: &'static str,
    /// Stands behind a colon.
    pub next: &'static str,
}

/// A matter with a code of its own.
pub(super) struct Matter {
    /// Stands behind a colon in the subject.
    pub title: &'static str,
    /// The rest.
    pub cause: Cause,
}

/// Declares the texts of one language, by code.
macro_rules! words {
    ($($name:ident $code:literal),+ $(,)?) => {
        /// All texts of one language.
        pub(super) struct Words {
            /// Begins a subject.
            pub attention: &'static str,
            /// Before the fields that are named.
            pub to_correct: &'static str,
            /// Before what to do.
            pub next: &'static str,
            /// Before the technical detail.
            pub details: &'static str,
            /// Before the link.
            pub see: &'static str,
            not_issued: &'static str,
            not_issued_fields: Cause,
            not_issued_data: Cause,
            not_issued_account: Cause,
            not_issued_account_off: Cause,
            not_issued_bug: Cause,
            not_issued_absent: Cause,
            not_issued_unreachable: Cause,
            $($name: Matter,)+
            other: Matter,
        }

        impl Words {
            fn matter(&self, code: &str) -> &Matter {
                match code {
                    $($code => &self.$name,)+
                    _ => &self.other,
                }
            }
        }
    };
}

words! {
    invoice_unknown "invoice.unknown",
    invoice_duplicate "invoice.duplicate",
    invoice_conflict "invoice.conflict",
    invoice_issued_differs "invoice.issued_differs",
    invoice_account "invoice.account",
    invoice_unreachable "invoice.unreachable",
    invoice_ksef "invoice.ksef",
    invoice_pdf_missing "invoice.pdf_missing",
    invoice_to_correct "invoice.to_correct",
    payment_amount_mismatch "payment.amount_mismatch",
    payment_account_mismatch "payment.account_mismatch",
    payment_double "payment.double",
    payment_late_success "payment.late_success",
    payment_disputed "payment.disputed",
    payment_dispute_lost "payment.dispute_lost",
    payment_stuck "payment.stuck",
    payment_failure_after_success "payment.failure_after_success",
    payment_unknown_status "payment.unknown_status",
    refund_failed "refund.failed",
    refund_conflict "refund.conflict",
    refund_amount_mismatch "refund.amount_mismatch",
    refund_unknown "refund.unknown",
    event_unknown_attempt "event.unknown_attempt",
    event_unreadable "event.unreadable",
    provider_config "provider.config",
    provider_refused "provider.refused",
    endpoint_disabled "endpoint.disabled",
    message_exhausted "message.exhausted",
    notice_undeliverable "notice.undeliverable",
    job_poison "job.poison",
}

impl Words {
    /// The texts of a language; English ones for a language that is none of the six.
    pub fn of(language: &str) -> &'static Words {
        match language {
            "pl" => &pl::WORDS,
            "uk" => &uk::WORDS,
            "cs" => &cs::WORDS,
            "ru" => &ru::WORDS,
            "is" => &is::WORDS,
            _ => &en::WORDS,
        }
    }

    /// A matter's title.
    pub fn title(&self, code: &str) -> &'static str {
        if code == "invoice.exhausted" { self.not_issued } else { self.matter(code).title }
    }

    /// What is the matter, and what to do.
    pub fn cause(&self, code: &str, not_issued: Option<NotIssued>) -> &Cause {
        match not_issued {
            None if code == "invoice.exhausted" => &self.not_issued_data,
            None => &self.matter(code).cause,
            Some(NotIssued::Fields) => &self.not_issued_fields,
            Some(NotIssued::Data) => &self.not_issued_data,
            Some(NotIssued::Account) => &self.not_issued_account,
            Some(NotIssued::AccountOff) => &self.not_issued_account_off,
            Some(NotIssued::Bug) => &self.not_issued_bug,
            Some(NotIssued::Absent) => &self.not_issued_absent,
            Some(NotIssued::Unreachable) => &self.not_issued_unreachable,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CAUSES: [NotIssued; 7] = [
        NotIssued::Fields,
        NotIssued::Data,
        NotIssued::Account,
        NotIssued::AccountOff,
        NotIssued::Bug,
        NotIssued::Absent,
        NotIssued::Unreachable,
    ];

    /// The codes that operators are told of.
    fn codes() -> Vec<&'static str> {
        let section = include_str!("../../../docs/operate.md").split("\n## Alerts\n").nth(1).unwrap();
        let rows = section.split("\n## ").next().unwrap().lines().filter_map(|line| line.strip_prefix("| `"));
        rows.map(|row| row.split('`').next().unwrap()).collect()
    }

    // R-HUB-12: that no key is missing is held by the compiler; here, that every code has one, translated.
    #[test]
    fn every_alert_has_its_words_in_every_language() {
        let codes = codes();
        assert!(codes.contains(&"invoice.exhausted") && codes.len() > 25, "{codes:?}");
        let texts = |words: &'static Words| {
            let causes = CAUSES.map(|cause| words.cause("invoice.exhausted", Some(cause)));
            let known = codes.iter().map(|code| words.cause(code, None)).chain(causes);
            let titles = codes.iter().map(|code| words.title(code));
            titles.chain(known.flat_map(|cause| [cause.meaning, cause.next])).collect::<Vec<_>>()
        };
        let english = texts(Words::of("en"));
        for code in &codes {
            assert_ne!(Words::of("en").title(code), Words::of("en").other.title, "{code} has no words");
        }
        for language in ["pl", "uk", "cs", "ru", "is", "en"] {
            for (text, in_english) in texts(Words::of(language)).into_iter().zip(&english) {
                assert!(!text.trim().is_empty(), "{language}: {in_english}");
                assert!(language == "en" || text != *in_english, "{language} is not translated: {text}");
                assert_eq!(text.contains("/v1/"), in_english.contains("/v1/"), "{language}: {text}");
            }
        }
    }
}
