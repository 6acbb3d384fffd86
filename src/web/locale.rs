//! Languages of the payers' pages. Each language is one file of constants in `locales/`: a text that is missing does
//! not compile (R-HUB-12).

use crate::web::locales;

/// Declares the texts and a list of them for the tests.
macro_rules! texts {
    ($($name:ident),+ $(,)?) => {
        /// All texts of the pages in one language.
        pub(crate) struct Texts { $(pub $name: &'static str,)+ }

        #[cfg(test)]
        impl Texts {
            /// Name and text of each.
            fn all(&self) -> Vec<(&'static str, &'static str)> {
                vec![$((stringify!($name), self.$name),)+]
            }
        }
    };
}

texts! {
    language_name, skip, language, test_mode, secure_note, back,
    // The list
    list_title, payments, settings, invoice_data_title, case_word, date, amount, status, invoice,
    status_started, status_completed, status_error,
    cell_generating, cell_download, cell_try_again, cell_renew,
    filter, all, from, to, show, clear, no_payments, no_matches, older, newest, refunded,
    // The case
    cases_to_pay, case_analysis, case_preparation, pay, expert, service, quantity, unit_price, vat, value, total,
    vat_exempt, vat_outside, vat_reverse, method, pay_off, case_paid, attachment,
    // Invoice data
    proceed, to_pay, buyer_lead, saved_data, new_data, kind, individual, company, name_person, name_company, tax_id,
    street, postcode, city, country, email, save_future, example,
    add_data, edit, delete, delete_sure, set_default, default, no_profiles, save, profiles_lead,
    // Refused fields
    err_summary, err_required, err_long, err_card, err_invoice, err_email, err_postcode, err_tax_missing, err_tax_digit, err_tax_shape,
    err_tax_person, err_country,
    // The payment link
    going_title, going_text, going_button, quote_title, quote_text, quote_button, paid_title, paid_text,
    closed_title, closed_text, busy_title, busy_text, gateway_title, gateway_text, off_title, off_text,
    // The way back
    confirming_title, confirming_text, review_title, review_text, failed_title, why_cancelled, why_declined, why_expired, why_technical,
    neutral_title, neutral_text, back_to_shop, go_to_list, go_to_case, back_soon,
    // When something is wrong
    not_found_title, not_found_text, forbidden_title, forbidden_text, too_large_text, slow_title, slow_text, oops_title, oops_text,
    no_pdf_title, no_pdf_text,
}

/// A language of the pages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Language {
    Pl,
    Uk,
    Cs,
    Ru,
    Is,
    En,
}

impl Language {
    /// All of them, in the order of the switch at the foot of a page.
    pub const ALL: [Language; 6] = [Language::Pl, Language::Uk, Language::Cs, Language::Ru, Language::Is, Language::En];

    /// ISO 639-1.
    pub fn code(self) -> &'static str {
        match self {
            Language::Pl => "pl",
            Language::Uk => "uk",
            Language::Cs => "cs",
            Language::Ru => "ru",
            Language::Is => "is",
            Language::En => "en",
        }
    }

    /// The language of a code, with or without a region (`pl`, `pl-PL`).
    pub fn of_code(code: &str) -> Option<Language> {
        let main = code.trim().split(['-', '_']).next().unwrap_or_default().to_ascii_lowercase();
        Language::ALL.into_iter().find(|l| l.code() == main)
    }

    /// The first language of an `Accept-Language` header that we have.
    pub fn accepted(header: &str) -> Option<Language> {
        let mut wishes: Vec<(u32, &str)> = header.split(',').take(20).map(weighed).filter(|(q, _)| *q > 0).collect();
        wishes.sort_by_key(|(q, _)| std::cmp::Reverse(*q));
        wishes.into_iter().find_map(|(_, code)| Language::of_code(code))
    }

    /// Its texts.
    pub fn texts(self) -> &'static Texts {
        match self {
            Language::Pl => &locales::pl::TEXTS,
            Language::Uk => &locales::uk::TEXTS,
            Language::Cs => &locales::cs::TEXTS,
            Language::Ru => &locales::ru::TEXTS,
            Language::Is => &locales::is::TEXTS,
            Language::En => &locales::en::TEXTS,
        }
    }

    /// The time zone in which its readers read dates; English readers are anywhere.
    pub fn zone(self) -> &'static str {
        match self {
            Language::Pl => "Europe/Warsaw",
            Language::Uk => "Europe/Kyiv",
            Language::Cs => "Europe/Prague",
            Language::Ru => "Europe/Moscow",
            Language::Is => "Atlantic/Reykjavik",
            Language::En => "UTC",
        }
    }
}

/// `pl;q=0.8` as thousandths and code.
fn weighed(part: &str) -> (u32, &str) {
    let (code, weight) = part.split_once(';').unwrap_or((part, "q=1"));
    let q = weight.trim().strip_prefix("q=").unwrap_or("0");
    let (whole, rest) = q.split_once('.').unwrap_or((q, ""));
    let digits: String = rest.chars().chain("000".chars()).take(3).collect();
    let thousandths = format!("{whole}{digits}").parse().unwrap_or(0);
    (thousandths, code.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    // R-HUB-12: that no key is missing is held by the compiler; here, that none is empty or left in English.
    #[test]
    fn every_text_is_there_in_every_language() {
        for language in Language::ALL {
            for (name, text) in language.texts().all() {
                assert!(!text.trim().is_empty(), "{} lacks {name}", language.code());
                assert!(!text.contains(['<', '>', '{', '}']), "{}: {name} holds markup", language.code());
            }
        }
        let english = Language::En.texts().all();
        for language in Language::ALL.into_iter().filter(|l| *l != Language::En) {
            let texts = language.texts().all();
            let same = texts.iter().zip(&english).filter(|(a, b)| a.1 == b.1 && a.1.contains(' ')).collect::<Vec<_>>();
            assert!(same.is_empty(), "{} is not translated: {same:?}", language.code());
        }
    }

    // On a narrow page the word for VAT stands right before these.
    #[test]
    fn a_rate_in_words_does_not_repeat_the_word_for_vat() {
        for language in Language::ALL {
            let t = language.texts();
            for text in [t.vat_exempt, t.vat_outside, t.vat_reverse] {
                assert!(!text.contains(t.vat), "{}: {} {text}", language.code(), t.vat);
            }
        }
        // The mark of Polish invoices; "np." would be read as "for example".
        assert_eq!(Language::Pl.texts().vat_outside, "NP");
    }

    // R-5W-10, 14, 20…22, 30…33, 19: labels that stand literally in the requirements.
    #[test]
    fn polish_labels_are_literal() {
        let t = Language::Pl.texts();
        assert_eq!([t.pay, t.proceed, t.list_title], ["ZAPŁAĆ", "PRZEJDŹ DO PŁATNOŚCI", "LISTA PŁATNOŚCI"]);
        assert_eq!([t.status_started, t.status_completed, t.status_error], ["Realizowana", "Zrealizowana", "Błąd"]);
        assert_eq!([t.cell_generating, t.cell_download], ["Generowanie faktury", "Pobierz fakturę"]);
        assert_eq!([t.cell_try_again, t.cell_renew], ["Spróbuj ponownie", "Ponów płatność"]);
        assert_eq!([t.case_analysis, t.case_preparation], ["ANALIZA SPRAWY", "W PRZYGOTOWANIU"]);
        assert_eq!([t.settings, t.invoice_data_title], ["USTAWIENIA", "DANE DO FAKTURY"]);
    }

    #[test]
    fn a_browser_is_answered_in_a_language_it_asks_for() {
        for (header, expect) in [
            ("pl-PL,pl;q=0.9,en;q=0.8", Some(Language::Pl)),
            ("de, en;q=0.5, cs;q=0.7", Some(Language::Cs)),
            ("de", None),
            ("pl;q=0, is", Some(Language::Is)),
            ("", None),
            (";;q=,,", None),
        ] {
            assert_eq!(Language::accepted(header), expect, "{header}");
        }
    }
}
