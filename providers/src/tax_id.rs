//! Tax numbers and postcodes, checked before a payment.
//!
//! A number that fails here would make the invoice fail after the money came, so the payer hears of it while he can
//! still correct it. Format and check digits only: whether a number exists is known to its register alone.
//!
//! Sources: FA(3) schema of the Polish ministry of finance (NIP); VIES formats of the European Commission (EU VAT);
//! python-stdnum (EDRPOU, RNOKPP, INN, IČO); Registers Iceland (kennitala).

use crate::invoicer::TaxIdKind;

/// Longest text looked at.
const MAX_TEXT: usize = 64;

/// Reader of tax numbers.
#[derive(Debug)]
pub enum TaxId {}

impl TaxId {
    /// Reads the tax number of a buyer in `country` (ISO 3166-1 alpha-2) and answers its kind and normal form: without
    /// blanks and hyphens; EU VAT numbers with their prefix.
    ///
    /// A private person may leave it out. A company may leave it out only where we know no rule for its country.
    ///
    /// # Errors
    /// What is wrong, in words for the person who typed it.
    pub fn parse(country: &str, is_company: bool, text: &str) -> Result<(TaxIdKind, String), TaxIdError> {
        if country.len() != 2 || !country.bytes().all(|b| b.is_ascii_uppercase()) {
            return Err(TaxIdError::Country);
        }
        if text.chars().count() > MAX_TEXT {
            return Err(TaxIdError::Shape("a tax number has at most 32 characters"));
        }
        let compact = compact(text);
        match (compact.is_empty(), is_company) {
            (true, false) => Ok((TaxIdKind::None, String::new())),
            (true, true) => without_number(country),
            (false, true) => of_company(country, compact),
            (false, false) => of_person(country, compact),
        }
    }
}

fn without_number(country: &str) -> Result<(TaxIdKind, String), TaxIdError> {
    let known = matches!(country, "UA" | "RU" | "IS") || vat_format(country).is_some();
    if known { Err(TaxIdError::Missing) } else { Ok((TaxIdKind::None, String::new())) }
}

fn of_company(country: &str, number: String) -> Result<(TaxIdKind, String), TaxIdError> {
    match country {
        "PL" => nip(number),
        "CZ" if number.bytes().all(|b| b.is_ascii_digit()) => ico(number),
        "UA" if number.len() == 10 => rnokpp(number),
        "UA" => edrpou(number),
        "RU" => inn(number),
        "IS" => kennitala(number),
        // Northern Ireland is in the union's VAT area for goods; its numbers say XI, its country stays GB.
        "GB" if number.starts_with("XI") => eu_vat("XI", number),
        _ if vat_format(country).is_some() => eu_vat(country, number),
        _ => other(number),
    }
}

fn of_person(country: &str, number: String) -> Result<(TaxIdKind, String), TaxIdError> {
    match country {
        "IS" => kennitala(number),
        "UA" => rnokpp(number),
        "RU" if number.len() == 12 => inn(number),
        _ => Err(TaxIdError::PersonWithNumber),
    }
}

/// Without blanks and hyphens, in capitals.
fn compact(text: &str) -> String {
    let dropped = |c: char| c.is_whitespace() || matches!(c, '-' | '\u{2010}'..='\u{2014}' | '\u{2212}');
    text.chars().filter(|c| !dropped(*c)).flat_map(char::to_uppercase).collect()
}

fn nip(number: String) -> Result<(TaxIdKind, String), TaxIdError> {
    let number = number.strip_prefix("PL").map(str::to_owned).unwrap_or(number);
    let digits = digits(&number, &[10], "a NIP has ten digits")?;
    let wanted = weighted(&digits, &[6, 5, 7, 2, 3, 4, 5, 6, 7]) % 11;
    if digits.last() != Some(&wanted) {
        return Err(TaxIdError::CheckDigit("the NIP"));
    }
    // The pattern of FA(3): KSeF refuses the others although their check digit holds.
    match digits.as_slice() {
        [0, ..] | [_, 0, 0, ..] => Err(TaxIdError::Shape("a NIP begins with a tax office's code, which this is not")),
        _ => Ok((TaxIdKind::PlNip, number)),
    }
}

fn ico(number: String) -> Result<(TaxIdKind, String), TaxIdError> {
    let digits = digits(&number, &[8], "an IČO has eight digits")?;
    let wanted = (11 - weighted(&digits, &[8, 7, 6, 5, 4, 3, 2]) % 11) % 10;
    checked(TaxIdKind::CzIco, number, digits.last() == Some(&wanted), "the IČO")
}

fn edrpou(number: String) -> Result<(TaxIdKind, String), TaxIdError> {
    let digits = digits(&number, &[8], "a Ukrainian EDRPOU has eight digits, an RNOKPP ten")?;
    let middle = matches!(number.parse::<u32>(), Ok(30_000_000..=60_000_000));
    let first: [i64; 7] = if middle { [7, 1, 2, 3, 4, 5, 6] } else { [1, 2, 3, 4, 5, 6, 7] };
    let wanted = match weighted(&digits, &first) % 11 {
        10 => weighted(&digits, &first.map(|w| w + 2)) % 11 % 10,
        check => check,
    };
    checked(TaxIdKind::UaEdrpou, number, digits.last() == Some(&wanted), "the EDRPOU")
}

fn rnokpp(number: String) -> Result<(TaxIdKind, String), TaxIdError> {
    let digits = digits(&number, &[10], "an RNOKPP has ten digits")?;
    let wanted = weighted(&digits, &[-1, 5, 7, 9, 4, 6, 10, 5, 7]).rem_euclid(11) % 10;
    checked(TaxIdKind::UaRnokpp, number, digits.last() == Some(&wanted), "the RNOKPP")
}

fn inn(number: String) -> Result<(TaxIdKind, String), TaxIdError> {
    let digits = digits(&number, &[10, 12], "an INN has ten digits for a company, twelve for a person")?;
    let check = |weights: &[i64]| weighted(&digits, weights) % 11 % 10;
    let holds = match digits.as_slice() {
        [.., last] if digits.len() == 10 => *last == check(&[2, 4, 10, 3, 5, 9, 4, 6, 8]),
        [.., eleventh, twelfth] => {
            *eleventh == check(&[7, 2, 4, 10, 3, 5, 9, 4, 6, 8])
                && *twelfth == check(&[3, 7, 2, 4, 10, 3, 5, 9, 4, 6, 8])
        }
        _ => false,
    };
    checked(TaxIdKind::RuInn, number, holds, "the INN")
}

/// A wrong check digit is no refusal here: system numbers and newly issued ones have none. See
/// [`kennitala_check_holds`].
fn kennitala(number: String) -> Result<(TaxIdKind, String), TaxIdError> {
    let digits = digits(&number, &[10], "a kennitala has ten digits")?;
    let dated = match digits.as_slice() {
        [8 | 9, ..] => true,
        [d1, d2, m1, m2, .., century] => {
            let (day, month) = (d1 * 10 + d2, m1 * 10 + m2);
            matches!(day, 1..=31 | 41..=71) && matches!(month, 1..=12) && matches!(century, 0 | 8 | 9)
        }
        _ => false,
    };
    if dated {
        Ok((TaxIdKind::IsKennitala, number))
    } else {
        Err(TaxIdError::Shape("a kennitala begins with a date (DDMMYY) and ends with 8, 9 or 0 for the century"))
    }
}

/// Whether the check digit of a normalised kennitala holds. A warning at most, never a reason to refuse.
pub fn kennitala_check_holds(number: &str) -> bool {
    let Ok(digits) = digits(number, &[10], "") else { return false };
    let wanted = match weighted(&digits, &[3, 2, 7, 6, 5, 4, 3, 2]) % 11 {
        0 => 0,
        rest => 11 - rest,
    };
    digits.get(8) == Some(&wanted)
}

fn other(number: String) -> Result<(TaxIdKind, String), TaxIdError> {
    let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '/');
    if number.len() <= 32 && number.chars().all(plain) && number.chars().any(|c| c.is_ascii_digit()) {
        Ok((TaxIdKind::Other, number))
    } else {
        Err(TaxIdError::Shape("a tax number has at most 32 letters and digits, at least one of them a digit"))
    }
}

fn eu_vat(country: &str, number: String) -> Result<(TaxIdKind, String), TaxIdError> {
    let Some(format) = vat_format(country) else { return Err(TaxIdError::Country) };
    // Two leading letters are somebody's prefix: only a number without them gets ours.
    let number = match number.as_bytes() {
        [a, b, ..] if a.is_ascii_alphabetic() && b.is_ascii_alphabetic() => number,
        _ => format!("{}{number}", format.prefix),
    };
    let body = number.strip_prefix(format.prefix).unwrap_or_default();
    if format.masks.iter().any(|mask| fits(mask, body)) {
        Ok((TaxIdKind::EuVat, number))
    } else {
        Err(TaxIdError::EuVat { country: format.country, example: format.example })
    }
}

/// `d` digit, `l` letter, `x` either, `f` either but I and O, `w` A to W, `i` A to I, `p` letter, plus or star,
/// `b` 0 or 1; a capital stands for itself.
fn fits(mask: &str, text: &str) -> bool {
    let one = |mask: u8, b: u8| match mask {
        b'd' => b.is_ascii_digit(),
        b'l' => b.is_ascii_uppercase(),
        b'x' => b.is_ascii_digit() || b.is_ascii_uppercase(),
        b'f' => b.is_ascii_digit() || (b.is_ascii_uppercase() && !matches!(b, b'I' | b'O')),
        b'w' => b.is_ascii_uppercase() && b <= b'W',
        b'i' => b.is_ascii_uppercase() && b <= b'I',
        b'p' => b.is_ascii_uppercase() || matches!(b, b'+' | b'*'),
        b'b' => matches!(b, b'0' | b'1'),
        literal => b == literal,
    };
    mask.len() == text.len() && mask.bytes().zip(text.bytes()).all(|(m, b)| one(m, b))
}

struct VatFormat {
    country: &'static str,
    prefix: &'static str,
    masks: &'static [&'static str],
    example: &'static str,
}

fn vat_format(country: &str) -> Option<&'static VatFormat> {
    EU_VAT.iter().find(|f| f.country == country)
}

/// True for a member state of the European Union. Northern Ireland is none, although its numbers begin with `XI`.
pub fn is_member_state(country: &str) -> bool {
    country != "XI" && vat_format(country).is_some()
}

const fn vat(country: &'static str, masks: &'static [&'static str], example: &'static str) -> VatFormat {
    VatFormat { country, prefix: country, masks, example }
}

const EU_VAT: &[VatFormat] = &[
    vat("AT", &["Udddddddd"], "ATU12345678"),
    vat("BE", &["bddddddddd"], "BE0123456789"),
    vat("BG", &["ddddddddd", "dddddddddd"], "BG123456789"),
    vat("CY", &["ddddddddl"], "CY12345678X"),
    vat("CZ", &["dddddddd", "ddddddddd", "dddddddddd"], "CZ12345679"),
    vat("DE", &["ddddddddd"], "DE123456789"),
    vat("DK", &["dddddddd"], "DK12345678"),
    vat("EE", &["ddddddddd"], "EE123456789"),
    vat("ES", &["xdddddddx"], "ESB12345678"),
    vat("FI", &["dddddddd"], "FI12345678"),
    vat("FR", &["ffddddddddd"], "FR12345678901"),
    VatFormat { country: "GR", prefix: "EL", masks: &["ddddddddd"], example: "EL123456789" },
    vat("HR", &["ddddddddddd"], "HR12345678901"),
    vat("HU", &["dddddddd"], "HU12345678"),
    vat("IE", &["dddddddw", "dddddddwi", "dpdddddw"], "IE1234567A"),
    vat("IT", &["ddddddddddd"], "IT12345678901"),
    vat("LT", &["ddddddddd", "dddddddddddd"], "LT123456789"),
    vat("LU", &["dddddddd"], "LU12345678"),
    vat("LV", &["ddddddddddd"], "LV12345678901"),
    vat("MT", &["dddddddd"], "MT12345678"),
    vat("NL", &["dddddddddBdd"], "NL123456789B01"),
    vat("PL", &["dddddddddd"], "PL1234563218"),
    vat("PT", &["ddddddddd"], "PT123456789"),
    vat(
        "RO",
        &["dd", "ddd", "dddd", "ddddd", "dddddd", "ddddddd", "dddddddd", "ddddddddd", "dddddddddd"],
        "RO12345678",
    ),
    vat("SE", &["dddddddddddd"], "SE123456789001"),
    vat("SI", &["dddddddd"], "SI12345678"),
    vat("SK", &["dddddddddd"], "SK2012345678"),
    vat("XI", &["ddddddddd", "dddddddddddd", "GDddd", "HAddd"], "XI123456789"),
];

/// The digits of a number that has only digits, one of these lengths, and not zeros alone.
fn digits(number: &str, lengths: &[usize], limit: &'static str) -> Result<Vec<i64>, TaxIdError> {
    let digits: Option<Vec<i64>> = number.chars().map(|c| c.to_digit(10).map(i64::from)).collect();
    match digits {
        Some(digits) if lengths.contains(&digits.len()) && digits.iter().any(|d| *d != 0) => Ok(digits),
        _ => Err(TaxIdError::Shape(limit)),
    }
}

fn weighted(digits: &[i64], weights: &[i64]) -> i64 {
    digits.iter().zip(weights).map(|(d, w)| d * w).sum()
}

fn checked(
    kind: TaxIdKind,
    number: String,
    holds: bool,
    name: &'static str,
) -> Result<(TaxIdKind, String), TaxIdError> {
    if holds { Ok((kind, number)) } else { Err(TaxIdError::CheckDigit(name)) }
}

/// Why a tax number was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TaxIdError {
    /// Not a country code.
    #[error("the country must be two capital letters of ISO 3166-1")]
    Country,
    /// A company left it out.
    #[error("a company gives its tax number")]
    Missing,
    /// A private person gave one.
    #[error("a private person gives no tax number here; a sole trader is entered as a company")]
    PersonWithNumber,
    /// Wrong length or characters.
    #[error("{0}")]
    Shape(&'static str),
    /// The check digit does not hold.
    #[error("{0} fails its check digit: at least one digit is wrong")]
    CheckDigit(&'static str),
    /// Not a VAT number of that state.
    #[error("a VAT number of {country} is written like {example}")]
    EuVat {
        /// The state.
        country: &'static str,
        /// A number of the right form.
        example: &'static str,
    },
}

/// Checks a postcode by its country's format and answers its normal form (`110 00` for Czech `11000`).
///
/// # Errors
/// The format, in plain words.
pub fn check_postcode(country: &str, text: &str) -> Result<String, PostcodeError> {
    let text = text.trim();
    let fits_one = |masks: &[&str]| masks.iter().any(|mask| fits(mask, text));
    let (fine, limit) = match country {
        "PL" => (fits_one(&["dd-ddd"]), "a Polish postcode is written like 00-950"),
        "CZ" => (fits_one(&["ddd dd", "ddddd"]), "a Czech postcode is written like 110 00"),
        "UA" => (fits_one(&["ddddd"]), "a Ukrainian postcode has five digits"),
        "RU" => (fits_one(&["dddddd"]), "a Russian postcode has six digits"),
        "IS" => (fits_one(&["ddd"]), "an Icelandic postcode has three digits"),
        _ => {
            let length = text.chars().count();
            let plain = !text.chars().any(char::is_control);
            ((1..=16).contains(&length) && plain, "a postcode has 1 to 16 characters")
        }
    };
    match (fine, country, text.split_at_checked(3)) {
        (false, ..) => Err(PostcodeError(limit)),
        (true, "CZ", Some((city, office))) => Ok(format!("{city} {}", office.trim_start())),
        (true, ..) => Ok(text.to_owned()),
    }
}

/// Why a postcode was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PostcodeError(&'static str);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn vectors(group: &str) -> Value {
        serde_json::from_str::<Value>(include_str!("../fixtures/vectors/invoicing.json")).unwrap()[group].take()
    }

    #[track_caller]
    fn check(country: &str, is_company: bool, text: &str, expect: Result<(TaxIdKind, &str), &str>) {
        let got = TaxId::parse(country, is_company, text).map_err(|e| e.to_string());
        assert_eq!(got, expect.map(|(k, n)| (k, n.to_owned())).map_err(str::to_owned), "{country} {text}");
    }

    // R-OKI-11, R-5W-13
    #[test]
    fn nip_follows_its_vectors() {
        let nip = vectors("nip");
        for case in nip["good"].as_array().unwrap() {
            let wanted = (TaxIdKind::PlNip, case["normalised"].as_str().unwrap());
            check("PL", true, case["input"].as_str().unwrap(), Ok(wanted));
        }
        for case in nip["bad"].as_array().unwrap() {
            assert!(TaxId::parse("PL", true, case["input"].as_str().unwrap()).is_err(), "{case}");
        }
    }

    #[test]
    fn eu_vat_follows_its_vectors() {
        for case in vectors("eu_vat").as_array().unwrap() {
            let (good, bad) = (case["good"].as_str().unwrap(), case["bad"].as_str().unwrap());
            let country = case["country"].as_str().unwrap().get(..2).unwrap();
            if country == "PL" {
                check("PL", true, good, Ok((TaxIdKind::PlNip, "1234563218")));
            } else {
                check(country, true, good, Ok((TaxIdKind::EuVat, good)));
                let spaced = format!(" {} {}", good.get(..4).unwrap().to_lowercase(), good.get(4..).unwrap());
                check(country, true, &spaced, Ok((TaxIdKind::EuVat, good)));
            }
            assert!(TaxId::parse(country, true, bad).is_err(), "{bad}");
        }
        check("DE", true, "123456789", Ok((TaxIdKind::EuVat, "DE123456789")));
        check("GR", true, "123456789", Ok((TaxIdKind::EuVat, "EL123456789")));
        check("GB", true, "XI123456789", Ok((TaxIdKind::EuVat, "XI123456789")));
        check("FR", true, "DE123456789", Err("a VAT number of FR is written like FR12345678901"));
    }

    #[test]
    fn czech_and_icelandic_numbers_follow_their_vectors() {
        let others = vectors("other_tax_ids");
        let texts = |group: &str, list: &str| -> Vec<String> {
            others[group][list].as_array().unwrap().iter().map(|v| v.as_str().unwrap().to_owned()).collect()
        };
        for good in texts("cz_ico", "good") {
            check("CZ", true, &good, Ok((TaxIdKind::CzIco, &good)));
        }
        for bad in texts("cz_ico", "bad") {
            assert!(TaxId::parse("CZ", true, &bad).is_err(), "{bad}");
        }
        for good in texts("is_kennitala", "good") {
            check("IS", false, &good, Ok((TaxIdKind::IsKennitala, &good)));
            assert!(kennitala_check_holds(&good), "{good}");
        }
        for bad in texts("is_kennitala", "bad") {
            // Their check digit is a warning; their shape is not.
            assert!(TaxId::parse("IS", false, &bad).is_err() || !kennitala_check_holds(&bad), "{bad}");
        }
    }

    // Numbers that the registers and python-stdnum publish.
    #[test]
    fn published_numbers_pass_and_their_neighbours_fail() {
        for (country, kind, good) in [
            ("UA", TaxIdKind::UaEdrpou, "14360570"),
            ("UA", TaxIdKind::UaEdrpou, "32855961"),
            ("UA", TaxIdKind::UaEdrpou, "00032129"),
            ("UA", TaxIdKind::UaEdrpou, "21133352"),
            ("UA", TaxIdKind::UaRnokpp, "1759013776"),
            ("RU", TaxIdKind::RuInn, "7707083893"),
            ("RU", TaxIdKind::RuInn, "7736050003"),
            ("RU", TaxIdKind::RuInn, "500100732259"),
            ("CZ", TaxIdKind::CzIco, "45274649"),
            ("CZ", TaxIdKind::CzIco, "00177041"),
        ] {
            check(country, true, good, Ok((kind, good)));
            let (body, last) = good.split_at(good.len() - 1);
            let wrong = format!("{body}{}", (last.parse::<u8>().unwrap() + 1) % 10);
            assert!(matches!(TaxId::parse(country, true, &wrong), Err(TaxIdError::CheckDigit(_))), "{wrong}");
        }
        for good in ["5711160300", "5512982489", "7105101130", "1201743399"] {
            check("IS", true, good, Ok((TaxIdKind::IsKennitala, good)));
            assert!(kennitala_check_holds(good), "{good}");
        }
        check("IS", true, "550500-3530", Ok((TaxIdKind::IsKennitala, "5505003530")));
        check("IS", false, "8506194230", Ok((TaxIdKind::IsKennitala, "8506194230")));
    }

    #[test]
    fn refusals_say_the_limit() {
        check("PL", true, "123456321", Err("a NIP has ten digits"));
        check("PL", true, "1234563219", Err("the NIP fails its check digit: at least one digit is wrong"));
        check("PL", true, " ", Err("a company gives its tax number"));
        let person = "a private person gives no tax number here; a sole trader is entered as a company";
        check("PL", false, "1234563218", Err(person));
        check("PL", false, "", Ok((TaxIdKind::None, "")));
        check("pl", true, "1234563218", Err("the country must be two capital letters of ISO 3166-1"));
        check("UA", true, "1436057", Err("a Ukrainian EDRPOU has eight digits, an RNOKPP ten"));
        check("RU", true, "0000000000", Err("an INN has ten digits for a company, twelve for a person"));
        check("US", true, "12-3456789", Ok((TaxIdKind::Other, "123456789")));
        check("US", true, "", Ok((TaxIdKind::None, "")));
        check(
            "US",
            true,
            "<b>1</b>",
            Err("a tax number has at most 32 letters and digits, at least one of them a digit"),
        );
    }

    #[track_caller]
    fn check_code(country: &str, text: &str, expect: Option<&str>) {
        assert_eq!(check_postcode(country, text).ok().as_deref(), expect, "{country} {text}");
    }

    // R-5W-13
    #[test]
    fn postcodes_follow_their_country() {
        check_code("PL", "00-950", Some("00-950"));
        for bad in ["00950", "0-950", "00-95", "00-9500", "", "00 950", "٠٠-٩٥٠"] {
            check_code("PL", bad, None);
        }
        check_code("CZ", "110 00", Some("110 00"));
        check_code("CZ", "11000", Some("110 00"));
        check_code("CZ", "1100", None);
        check_code("UA", "01001", Some("01001"));
        check_code("UA", "0100", None);
        check_code("RU", "101000", Some("101000"));
        check_code("IS", "101", Some("101"));
        check_code("GB", "SW1A 1AA", Some("SW1A 1AA"));
        check_code("GB", "", None);
        check_code("GB", "12345678901234567", None);
    }

    proptest! {
        #[test]
        fn any_text_is_answered_without_a_panic(country in "[A-Z]{2}", company: bool, text in ".{0,20}") {
            if let Ok((kind, number)) = TaxId::parse(&country, company, &text) {
                // A normal form is its own normal form.
                prop_assert_eq!(TaxId::parse(&country, company, &number), Ok((kind, number)));
            }
            let _ = check_postcode(&country, &text);
        }
    }
}
