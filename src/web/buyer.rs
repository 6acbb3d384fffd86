//! The invoice data form: at the payment link and in the payer's settings (R-5W-10, R-5W-13).
//!
//! What is wrong is said before the payment, beside its field, and what was typed stays: wrong data would make the
//! invoice fail after the money came.

use std::collections::BTreeMap;

use grosz_providers::invoicer::{Buyer, TaxIdKind};
use grosz_providers::tax_id::{TaxId, TaxIdError, check_postcode};

use super::guard::Fields;
use super::locale::{Language, Texts};
use crate::http::input::holds_card_number;
use crate::mail::check_public_address;

/// Countries in the order of the list, each in its own language: first our markets, then the rest by name.
const COUNTRIES: &[(&str, &str)] = &[
    ("PL", "Polska"),
    ("UA", "Україна"),
    ("CZ", "Česko"),
    ("RU", "Россия"),
    ("IS", "Ísland"),
    ("BE", "België / Belgique"),
    ("BG", "България"),
    ("CH", "Schweiz / Suisse"),
    ("DK", "Danmark"),
    ("DE", "Deutschland"),
    ("EE", "Eesti"),
    ("IE", "Ireland"),
    ("GR", "Ελλάδα"),
    ("ES", "España"),
    ("FR", "France"),
    ("HR", "Hrvatska"),
    ("IT", "Italia"),
    ("CY", "Κύπρος"),
    ("LV", "Latvija"),
    ("LT", "Lietuva"),
    ("LU", "Luxembourg"),
    ("HU", "Magyarország"),
    ("MT", "Malta"),
    ("NL", "Nederland"),
    ("NO", "Norge"),
    ("AT", "Österreich"),
    ("PT", "Portugal"),
    ("RO", "România"),
    ("SI", "Slovenija"),
    ("SK", "Slovensko"),
    ("FI", "Suomi"),
    ("SE", "Sverige"),
    ("GB", "United Kingdom"),
    ("US", "United States"),
    ("CA", "Canada"),
    ("KZ", "Қазақстан"),
];

/// Where persons have a number that may stand on an invoice.
const PERSONS_WITH_NUMBER: &[&str] = &["IS", "UA", "RU"];

/// What was typed.
#[derive(Debug, Clone, Default)]
pub(crate) struct BuyerForm {
    pub is_company: bool,
    /// A kind was posted that is neither a person nor a company.
    is_of_no_kind: bool,
    pub name: String,
    pub tax_id: String,
    pub street: String,
    pub postcode: String,
    pub city: String,
    pub country: String,
    pub email: String,
    /// What is wrong, by field.
    pub errors: BTreeMap<&'static str, String>,
}

/// One text field as the template shows it.
pub(crate) struct Input {
    pub name: &'static str,
    pub label: String,
    pub value: String,
    pub error: String,
    pub hint: &'static str,
    pub kind: &'static str,
    pub autocomplete: &'static str,
    pub inputmode: &'static str,
}

/// One country as the template shows it.
pub(crate) struct Country {
    pub code: &'static str,
    pub name: &'static str,
    pub chosen: bool,
}

impl BuyerForm {
    /// An empty form for a payer: his name, address and the country of his language are filled in.
    pub fn blank(name: &str, email: &str, language: Language) -> BuyerForm {
        let country = match language {
            Language::Pl | Language::En => "PL",
            Language::Uk => "UA",
            Language::Cs => "CZ",
            Language::Ru => "RU",
            Language::Is => "IS",
        };
        BuyerForm { name: name.into(), email: email.into(), country: country.into(), ..BuyerForm::default() }
    }

    /// The form of saved data.
    pub fn of(b: &Buyer) -> BuyerForm {
        BuyerForm {
            is_company: b.is_company,
            is_of_no_kind: false,
            name: b.name.clone(),
            tax_id: b.tax_id.clone(),
            street: b.street.clone(),
            postcode: b.postcode.clone(),
            city: b.city.clone(),
            country: b.country.clone(),
            email: b.email.clone(),
            errors: BTreeMap::new(),
        }
    }

    /// What was posted.
    pub fn posted(fields: &Fields) -> BuyerForm {
        let kind = fields.text("kind");
        BuyerForm {
            is_company: kind == "company",
            is_of_no_kind: kind != "company" && kind != "individual",
            name: fields.text("name"),
            tax_id: fields.text("tax_id"),
            street: fields.text("street"),
            postcode: fields.text("postcode"),
            city: fields.text("city"),
            country: fields.text("country"),
            email: fields.text("email"),
            errors: BTreeMap::new(),
        }
    }

    /// The buyer, or `None` with the errors noted beside their fields.
    pub fn check(&mut self, t: &Texts) -> Option<Buyer> {
        self.check_lengths(t);
        self.check_cards(t);
        if self.is_of_no_kind {
            self.refuse("kind", t.err_required);
        }
        if !COUNTRIES.iter().any(|(code, _)| *code == self.country) {
            self.refuse("country", t.err_country);
        }
        if check_public_address(&self.email).is_err() {
            self.refuse("email", t.err_email);
        }
        let postcode = check_postcode(&self.country, &self.postcode);
        if postcode.is_err() {
            let hint = example(t, postcode_example(&self.country));
            self.refuse("postcode", &sentence(t.err_postcode, &hint));
        }
        let number = self.number();
        let tax_id = TaxId::parse(&self.country, self.is_company, &number);
        if let Err(e) = &tax_id {
            self.refuse_tax_id(t, e);
        }
        let (Ok(postcode), Ok((tax_id_kind, tax_id)), true) = (postcode, tax_id, self.errors.is_empty()) else {
            return None;
        };
        Some(Buyer {
            is_company: self.is_company,
            name: self.name.clone(),
            tax_id_kind,
            tax_id: if tax_id_kind == TaxIdKind::None { String::new() } else { tax_id },
            street: self.street.clone(),
            postcode,
            city: self.city.clone(),
            country: self.country.clone(),
            email: self.email.clone(),
        })
    }

    /// The number to be checked. A person's field is hidden where persons have none: what was left in it is dropped.
    fn number(&self) -> String {
        let asked = self.is_company || PERSONS_WITH_NUMBER.contains(&self.country.as_str());
        if asked { self.tax_id.clone() } else { String::new() }
    }

    fn check_lengths(&mut self, t: &Texts) {
        let limits = [
            ("name", &self.name, 200),
            ("street", &self.street, 120),
            ("postcode", &self.postcode, 16),
            ("city", &self.city, 80),
            ("email", &self.email, 254),
        ];
        let wrong: Vec<_> = limits
            .into_iter()
            .filter_map(|(name, text, most)| match text.chars().count() {
                0 => Some((name, t.err_required)),
                n if n > most => Some((name, t.err_long)),
                _ => None,
            })
            .collect();
        for (name, why) in wrong {
            self.refuse(name, why);
        }
    }

    /// Whoever fills in a form on the way to a payment may think of a card; its number has no place here (F75).
    fn check_cards(&mut self, t: &Texts) {
        let texts = [("name", &self.name), ("street", &self.street), ("city", &self.city)];
        let wrong: Vec<_> =
            texts.into_iter().filter(|(_, text)| holds_card_number(text)).map(|(name, _)| name).collect();
        for name in wrong {
            self.refuse(name, t.err_card);
        }
    }

    fn refuse_tax_id(&mut self, t: &Texts, e: &TaxIdError) {
        let shaped = |like: &str| sentence(t.err_tax_shape, &example(t, like));
        match e {
            // Said at the country already.
            TaxIdError::Country => {}
            TaxIdError::Missing => self.refuse("tax_id", t.err_tax_missing),
            TaxIdError::PersonWithNumber => self.refuse("tax_id", t.err_tax_person),
            TaxIdError::CheckDigit(_) => self.refuse("tax_id", t.err_tax_digit),
            TaxIdError::EuVat { example, .. } => self.refuse("tax_id", &shaped(example)),
            TaxIdError::Shape(_) => self.refuse("tax_id", &shaped(tax_id_example(&self.country))),
        }
    }

    /// Notes that the seller's invoicing service would refuse a field of the buyer, named as in an invoice's order.
    pub fn refuse_for_invoice(&mut self, t: &Texts, path: &str) {
        let like = if self.country == "CZ" { "CZ45274649" } else { tax_id_example(&self.country) };
        match path {
            "buyer.tax_id" | "buyer.tax_id_kind" => self.refuse("tax_id", &sentence(t.err_invoice, &example(t, like))),
            "buyer.street" => self.refuse("street", t.err_invoice),
            "buyer.postcode" => self.refuse("postcode", t.err_invoice),
            "buyer.city" => self.refuse("city", t.err_invoice),
            "buyer.email" => self.refuse("email", t.err_invoice),
            // What the lines need of a buyer is his number, too.
            path if path.starts_with("lines") => self.refuse("tax_id", t.err_invoice),
            _ => self.refuse("name", t.err_invoice),
        }
    }

    /// Notes an error; the first one of a field stays.
    fn refuse(&mut self, field: &'static str, why: &str) {
        self.errors.entry(field).or_insert_with(|| why.to_owned());
    }

    fn error(&self, field: &str) -> String {
        self.errors.get(field).cloned().unwrap_or_default()
    }

    /// The text fields in order.
    pub fn inputs(&self, t: &Texts) -> Vec<Input> {
        let input = |name, label: &str, value: &str, autocomplete| Input {
            name,
            label: label.to_owned(),
            value: value.to_owned(),
            error: self.error(name),
            hint: "",
            kind: "text",
            autocomplete,
            inputmode: "text",
        };
        vec![
            // The style sheet shows the hint beside Poland alone.
            Input { hint: "NIP", ..input("tax_id", t.tax_id, &self.tax_id, "off") },
            // The template writes both labels, the style sheet shows the one that fits.
            input("name", t.name_person, &self.name, "name"),
            input("street", t.street, &self.street, "street-address"),
            input("postcode", t.postcode, &self.postcode, "postal-code"),
            input("city", t.city, &self.city, "address-level2"),
            Input { kind: "email", inputmode: "email", ..input("email", t.email, &self.email, "email") },
        ]
    }

    /// The list of countries.
    pub fn countries(&self) -> Vec<Country> {
        COUNTRIES.iter().map(|&(code, name)| Country { code, name, chosen: code == self.country }).collect()
    }

    /// What is wrong with the kind.
    pub fn kind_error(&self) -> String {
        self.error("kind")
    }

    /// What is wrong with the country.
    pub fn country_error(&self) -> String {
        self.error("country")
    }
}

/// One line that tells saved data apart.
pub(crate) fn summary(b: &Buyer) -> String {
    let number = if b.tax_id.is_empty() { String::new() } else { format!("{} · ", b.tax_id) };
    format!("{number}{}, {} {}, {}", b.street, b.postcode, b.city, b.country)
}

fn sentence(text: &str, example: &str) -> String {
    if example.is_empty() { text.to_owned() } else { format!("{} ({example}).", text.trim_end_matches('.')) }
}

fn example(t: &Texts, like: &str) -> String {
    if like.is_empty() { String::new() } else { format!("{}\u{a0}{like}", t.example) }
}

fn postcode_example(country: &str) -> &'static str {
    match country {
        "PL" => "00-950",
        "CZ" => "110 00",
        "UA" => "01001",
        "RU" => "101000",
        "IS" => "101",
        _ => "",
    }
}

fn tax_id_example(country: &str) -> &'static str {
    match country {
        "PL" => "123-456-32-18",
        "CZ" => "45274649",
        "UA" => "14360570",
        "RU" => "7707083893",
        "IS" => "550500-3530",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "kind=company&name=Firma&tax_id=123-456-32-18&street=Prosta+1&postcode=00-950&city=Warszawa&country=PL&email=a@b.pl";

    #[track_caller]
    fn check(change: (&str, &str), expect: &[&str]) {
        let text = GOOD.replace(change.0, change.1);
        assert!(change.0.is_empty() || text != GOOD, "{change:?} changes nothing");
        let mut form = BuyerForm::posted(&Fields::read(text.as_bytes()));
        let buyer = form.check(Language::Pl.texts());
        assert_eq!(form.errors.keys().copied().collect::<Vec<_>>(), expect, "{change:?}: {:?}", form.errors);
        assert_eq!(buyer.is_some(), expect.is_empty());
    }

    // F75
    #[test]
    fn a_card_number_is_kept_nowhere() {
        check(("name=Firma", "name=4242+4242+4242+4242"), &["name"]);
        check(("Prosta+1", "Jan+5555555555554444"), &["street"]);
        check(("Warszawa", "4111-1111-1111-1111"), &["city"]);
        check(("name=Firma", "name=4242+4242+4242+4243"), &[]);
    }

    // F74
    #[test]
    fn a_field_is_one_line_in_one_direction() {
        let form = BuyerForm::posted(&Fields::read("name=A%0AB&street=C%E2%80%AED".as_bytes()));
        assert_eq!((form.name.as_str(), form.street.as_str()), ("A B", "C D"));
    }

    // R-5W-10, R-5W-13, R-OKI-02
    #[test]
    fn each_refusal_stands_beside_its_field() {
        check(("", ""), &[]);
        check(("123-456-32-18", "123-456-32-19"), &["tax_id"]);
        check(("123-456-32-18", ""), &["tax_id"]);
        check(("00-950", "950"), &["postcode"]);
        check(("00-950", ""), &["postcode"]);
        check(("name=Firma", "name=++"), &["name"]);
        check(("Prosta+1", &"x".repeat(121)), &["street"]);
        check(("a@b.pl", "a@"), &["email"]);
        check(("a@b.pl", "jan@firma"), &["email"]);
        check(("country=PL", "country=XX"), &["country"]);
        check(("kind=company", "kind=alien"), &["kind"]);
        check(("kind=company&", ""), &["kind"]);
        check(("country=PL", "country=CZ"), &["postcode", "tax_id"]);
        // A person in Poland gives no number; what is left in the hidden field is no mistake.
        check(("kind=company", "kind=individual"), &[]);
        check(("kind=company&name=Firma&tax_id=123-456-32-18", "kind=individual&name=Jan"), &[]);
    }
}
