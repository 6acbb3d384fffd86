//! Rules of a case's quote: its lines add up to its amount, in gross prices.

use grosz_providers::Money;
use grosz_providers::invoicer::{InvoiceLine, Vat};

/// One line as quoted by the expert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QuotedLine {
    /// What it is, 1 to 256 characters.
    pub name: String,
    /// How many, 1 to 10 000.
    pub quantity: i64,
    /// Price of one in minor units, gross or net.
    pub unit_price: i64,
    /// VAT.
    pub vat: Vat,
}

/// Whether unit prices hold VAT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Prices {
    /// They do.
    Gross,
    /// They do not.
    Net,
}

/// A quote that was refused: the field and the end of a sentence that begins with it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} {why}")]
pub struct QuoteError {
    /// `lines`, `lines.2.quantity`.
    pub field: String,
    /// What is wrong, with the limit.
    pub why: String,
}

/// Turns quoted lines into invoice lines whose gross sum is exactly `total`. With `prices` left out, gross is tried
/// first, then net: whichever adds up to the amount is meant.
///
/// # Errors
/// Limits per line, or neither reading adds up to the amount.
pub fn lines(quoted: &[QuotedLine], total: Money, prices: Option<Prices>) -> Result<Vec<InvoiceLine>, QuoteError> {
    check_limits(quoted)?;
    let readings = match prices {
        Some(one) => vec![one],
        None => vec![Prices::Gross, Prices::Net],
    };
    let mut sums = vec![];
    for prices in readings {
        let lines: Vec<InvoiceLine> = quoted.iter().map(|line| invoice_line(line, prices)).collect();
        let sum: i128 = lines.iter().map(|l| i128::from(l.quantity) * i128::from(l.unit_gross_minor)).sum();
        if sum == i128::from(total.minor()) {
            return Ok(lines);
        }
        sums.push(format!("{sum} as {}", if prices == Prices::Gross { "gross" } else { "net" }));
    }
    let why = format!("add up to {} minor units, the amount is {}", sums.join(" or "), total.minor());
    Err(QuoteError { field: "lines".into(), why })
}

fn check_limits(quoted: &[QuotedLine]) -> Result<(), QuoteError> {
    let bad = |field: String, why: &str| Err(QuoteError { field, why: why.to_owned() });
    if quoted.is_empty() || quoted.len() > 50 {
        return bad("lines".into(), "must hold 1 to 50 lines");
    }
    for (n, line) in quoted.iter().enumerate() {
        if line.name.trim().is_empty() || line.name.chars().count() > 256 {
            return bad(format!("lines.{n}.name"), "must have 1 to 256 characters");
        }
        if !(1..=10_000).contains(&line.quantity) {
            return bad(format!("lines.{n}.quantity"), "must be a whole number from 1 to 10000");
        }
        if !(1..=grosz_providers::money::MAX_MINOR).contains(&line.unit_price) {
            return bad(format!("lines.{n}.unit_price"), "must be above zero and at most 10^12 minor units");
        }
        if matches!(line.vat, Vat::Rate(bp) if bp > 10_000) {
            return bad(format!("lines.{n}.vat"), "must be a rate from 0 to 100 percent");
        }
    }
    let exempt_sellers = quoted.iter().filter(|l| l.vat == Vat::SellerNotVatPayer).count();
    if exempt_sellers != 0 && exempt_sellers != quoted.len() {
        return bad("lines".into(), "must all be \"none\" (seller without VAT) or none of them");
    }
    Ok(())
}

fn invoice_line(line: &QuotedLine, prices: Prices) -> InvoiceLine {
    let (name, vat) = (line.name.trim().to_owned(), line.vat);
    let bp = match (prices, line.vat) {
        (Prices::Net, Vat::Rate(bp)) => i128::from(bp),
        (Prices::Net, Vat::Exempt | Vat::OutsideScope | Vat::ReverseChargeEu | Vat::SellerNotVatPayer) => 0,
        (Prices::Gross, _) => 0,
    };
    // VAT once on the line, half away from zero; amounts are positive here.
    let net = i128::from(line.quantity) * i128::from(line.unit_price);
    let gross = net + (2 * net * bp + 10_000) / 20_000;
    let gross = i64::try_from(gross).unwrap_or(i64::MAX);
    if gross % line.quantity == 0 {
        InvoiceLine { name, quantity: line.quantity, unit_gross_minor: gross / line.quantity, vat }
    } else {
        // The gross total cannot be split into equal units: the quantity moves into the name.
        let name = format!("{} × {name}", line.quantity).chars().take(256).collect();
        InvoiceLine { name, quantity: 1, unit_gross_minor: gross, vat }
    }
}

/// The rate, exemption and so on from the words of the API: `23`, `"23"`, `"8.5"`, `"zw"`, `"np"`, `"eu"`, `"none"`.
pub fn vat_from_word(word: &str) -> Option<Vat> {
    match word.trim().trim_end_matches('%').trim().to_ascii_lowercase().as_str() {
        "zw" | "exempt" => Some(Vat::Exempt),
        "np" | "outside_scope" => Some(Vat::OutsideScope),
        "npue" | "eu" | "reverse_charge" => Some(Vat::ReverseChargeEu),
        "none" => Some(Vat::SellerNotVatPayer),
        rate => {
            let (whole, part) = rate.split_once('.').unwrap_or((rate, ""));
            if whole.is_empty()
                || whole.len() > 3
                || part.len() > 2
                || !rate.bytes().all(|b| b.is_ascii_digit() || b == b'.')
            {
                return None;
            }
            let bp: u32 = format!("{whole}{part:0<2}").parse().ok()?;
            (bp <= 10_000).then_some(Vat::Rate(bp))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use grosz_providers::Currency;

    fn line(quantity: i64, unit_price: i64, vat: Vat) -> QuotedLine {
        QuotedLine { name: "Analiza umowy".into(), quantity, unit_price, vat }
    }

    #[track_caller]
    fn check(quoted: &[QuotedLine], total: i64, expect: Result<&[(i64, i64)], &str>) {
        match (lines(quoted, Money::new(total, Currency::PLN), None), expect) {
            (Ok(got), Ok(want)) => {
                let got: Vec<_> = got.iter().map(|l| (l.quantity, l.unit_gross_minor)).collect();
                assert_eq!(got, want);
            }
            (Err(e), Err(text)) => assert_eq!(e.to_string(), text),
            (got, want) => panic!("{got:?} instead of {want:?}"),
        }
    }

    #[test]
    fn lines_add_up_gross_or_net() {
        check(&[line(1, 12300, Vat::Rate(2300))], 12300, Ok(&[(1, 12300)]));
        check(&[line(1, 10000, Vat::Rate(2300))], 12300, Ok(&[(1, 12300)]));
        check(&[line(3, 1000, Vat::Rate(2300)), line(2, 50, Vat::Exempt)], 3790, Ok(&[(3, 1230), (2, 50)]));
        check(&[line(3, 33, Vat::Rate(2300))], 122, Ok(&[(1, 122)]));
        check(
            &[line(1, 12300, Vat::Rate(2300))],
            12301,
            Err("lines add up to 12300 as gross or 15129 as net minor units, the amount is 12301"),
        );
        check(&[], 1, Err("lines must hold 1 to 50 lines"));
        check(&[line(0, 1, Vat::Exempt)], 1, Err("lines.0.quantity must be a whole number from 1 to 10000"));
    }

    #[test]
    fn vat_words() {
        for (word, vat) in [
            ("23", Some(Vat::Rate(2300))),
            ("23%", Some(Vat::Rate(2300))),
            ("25.5", Some(Vat::Rate(2550))),
            ("0", Some(Vat::Rate(0))),
            ("ZW", Some(Vat::Exempt)),
            ("101", None),
            ("-5", None),
            ("", None),
            ("1.234", None),
        ] {
            assert_eq!(vat_from_word(word), vat, "{word}");
        }
    }
}
