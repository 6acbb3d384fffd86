//! Pieces that several resources show or read.

use grosz_providers::invoicer::{InvoiceLine, Vat};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;
use utoipa::ToSchema;

use crate::domain::quote::{Prices, QuotedLine, lines, vat_from_word};
use crate::http::input::Fields;

/// Reads a field of a PATCH that can be taken away: left out, `null`, or a value.
pub fn given<'de, T: Deserialize<'de>, D: Deserializer<'de>>(d: D) -> Result<Option<Option<T>>, D::Error> {
    Option::<T>::deserialize(d).map(Some)
}

/// One line of a quote.
#[derive(Debug, Clone, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct NewLine {
    /// What it is, 1 to 256 characters.
    #[schema(min_length = 1, max_length = 256, example = "Analiza umowy")]
    pub name: String,
    /// How many.
    #[serde(default = "one")]
    #[schema(minimum = 1, maximum = 10_000, default = 1)]
    pub quantity: i64,
    /// Price of one in minor units of the quote's currency.
    #[schema(minimum = 1, example = 12300)]
    pub unit_price: i64,
    /// Rate in percent (`23`, `"8.5"`), or `"zw"` (exempt), `"np"` (outside the scope), `"eu"` (reverse charge in the
    /// EU), `"none"` (the seller pays no VAT). Where invoices are issued, one that the invoicing service takes.
    #[schema(value_type = VatWord)]
    pub vat: Value,
}

/// VAT of a line.
#[derive(ToSchema)]
#[schema(as = Vat)]
#[allow(dead_code, reason = "describes the shape of a field for the document")]
#[serde(untagged)]
pub enum VatWord {
    /// Rate in percent.
    Rate(u32),
    /// A rate or a reason for none.
    Word(String),
}

fn one() -> i64 {
    1
}

/// Whether unit prices hold VAT.
#[derive(Debug, Clone, Copy, Deserialize, Serialize, ToSchema, PartialEq, Eq)]
#[serde(rename_all = "lowercase")]
#[schema(as = Prices)]
pub enum PricesWord {
    /// They do.
    Gross,
    /// They do not.
    Net,
}

/// Checks quoted lines against the amount.
pub fn check_lines(
    fields: &mut Fields,
    given: &[NewLine],
    total: grosz_providers::Money,
    prices: Option<PricesWord>,
) -> Vec<InvoiceLine> {
    let mut quoted = vec![];
    let mut vats_hold = true;
    // The rule about the number of lines stands in `quote`; here only as many are read as it takes.
    for (n, line) in given.iter().take(100).enumerate() {
        let name = fields.free_text(&format!("/lines/{n}/name"), &line.name, 256);
        let vat = match &line.vat {
            Value::Number(rate) => vat_from_word(&rate.to_string()),
            Value::String(word) => vat_from_word(word),
            _ => None,
        };
        if vat.is_none() {
            vats_hold = false;
            let why = "must be a rate in percent such as 23, or one of \"zw\", \"np\", \"eu\", \"none\"";
            fields.refuse(&format!("/lines/{n}/vat"), why);
        }
        let vat = vat.unwrap_or(Vat::Exempt);
        quoted.push(QuotedLine { name, quantity: line.quantity, unit_price: line.unit_price, vat });
    }
    let prices = prices.map(|p| if p == PricesWord::Gross { Prices::Gross } else { Prices::Net });
    match lines(&quoted, total, prices) {
        Ok(lines) => lines,
        Err(e) => {
            // A sum over rates that were refused says nothing; a name was refused above already.
            if vats_hold && !e.field.ends_with(".name") {
                fields.refuse(&format!("/{}", e.field.replace('.', "/")), e.why);
            }
            vec![]
        }
    }
}

/// One line of a quote as it will stand on the invoice.
#[derive(Debug, Serialize, ToSchema)]
pub struct Line {
    /// What it is.
    pub name: String,
    /// How many.
    pub quantity: i64,
    /// Price of one with VAT, in minor units.
    pub unit_price: i64,
    /// Rate in percent, or a word; see the line of a new case.
    #[schema(example = "23")]
    pub vat: String,
}

/// Sums of a quote.
#[derive(Debug, Serialize, ToSchema)]
pub struct Totals {
    /// Without VAT, in minor units.
    pub net: i64,
    /// VAT, in minor units.
    pub vat: i64,
    /// With VAT, in minor units.
    pub gross: i64,
}

/// Shows lines.
pub fn show_lines(lines: &[InvoiceLine]) -> Vec<Line> {
    let show = |l: &InvoiceLine| Line {
        name: l.name.clone(),
        quantity: l.quantity,
        unit_price: l.unit_gross_minor,
        vat: vat_word(l.vat),
    };
    lines.iter().map(show).collect()
}

/// Sums of lines, VAT taken once per rate.
pub fn totals(lines: &[InvoiceLine]) -> Totals {
    let of_line = |l: &InvoiceLine| (l.quantity.saturating_mul(l.unit_gross_minor), l.vat);
    let rates = grosz_providers::vat::by_rate(lines.iter().map(of_line)).unwrap_or_default();
    rates.iter().fold(Totals { net: 0, vat: 0, gross: 0 }, |all, (_, split)| Totals {
        net: all.net.saturating_add(split.net),
        vat: all.vat.saturating_add(split.vat),
        gross: all.gross.saturating_add(split.gross),
    })
}

fn vat_word(vat: Vat) -> String {
    match vat {
        Vat::Rate(bp) if bp % 100 == 0 => (bp / 100).to_string(),
        Vat::Rate(bp) => format!("{}.{:02}", bp / 100, bp % 100).trim_end_matches('0').to_owned(),
        Vat::Exempt => "zw".into(),
        Vat::OutsideScope => "np".into(),
        Vat::ReverseChargeEu => "eu".into(),
        Vat::SellerNotVatPayer => "none".into(),
    }
}
