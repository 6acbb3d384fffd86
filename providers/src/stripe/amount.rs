//! Amounts as Stripe counts them, which is not always ISO 4217.
//!
//! ISK has no decimals by ISO and two here, and must still be whole krónur; currencies of three decimals must end in
//! 0. A value that cannot be written so is an error before the request, never a rounding. (Stripe documentation,
//! "Supported currencies"; support page on fractional ISK charges.)

use crate::gateway::CallError;
use crate::money::{Currency, Money};

/// Currencies Stripe takes and the product knows. RUB is left out (cards there are not settled), HRK and BGN have
/// given way to the euro.
pub(super) const CURRENCIES: &[&str] = &[
    "AED", "AUD", "BHD", "BRL", "CAD", "CHF", "CLP", "CNY", "CZK", "DKK", "EUR", "GBP", "GEL", "HKD", "HUF", "IDR",
    "ILS", "INR", "ISK", "JOD", "JPY", "KRW", "KWD", "KZT", "MDL", "MXN", "NOK", "NZD", "OMR", "PLN", "RON", "RSD",
    "SEK", "SGD", "THB", "TND", "TRY", "TWD", "UAH", "USD", "ZAR",
];

/// The most that Stripe reads: twelve digits.
pub(super) const LARGEST: i64 = 999_999_999_999;

/// An amount for a request, in Stripe's smallest unit.
///
/// # Errors
/// [`CallError::Invalid`] when Stripe cannot be asked for it.
pub(super) fn to_wire(money: Money) -> Result<i64, CallError> {
    let invalid = |why: String| CallError::Invalid { field: "amount", why };
    if !CURRENCIES.contains(&money.currency().code()) {
        return Err(invalid(format!("cannot be in {}", money.currency())));
    }
    let minor = money.payable().map_err(|e| invalid(format!("is refused: {e}")))?.minor();
    let (wire, most) = match factor(money.currency()) {
        Factor::Times100 => (minor.checked_mul(100), LARGEST / 100),
        Factor::EndsIn0 if minor % 10 != 0 => {
            let why = format!("in {} must end in 0: the last of three decimals is not used", money.currency());
            return Err(invalid(why));
        }
        Factor::EndsIn0 | Factor::Iso => (Some(minor), LARGEST),
    };
    let too_large = || invalid(format!("in {} must be at most {most}", money.currency()));
    wire.filter(|wire| *wire <= LARGEST).ok_or_else(too_large)
}

/// An amount out of a message; `None` when we have no such amount: another currency, less than nothing, a fraction of
/// a króna.
pub(super) fn from_wire(amount: i64, currency: &str) -> Option<Money> {
    let currency: Currency = currency.to_ascii_uppercase().parse().ok()?;
    match factor(currency) {
        _ if amount < 0 => None,
        Factor::Times100 => (amount % 100 == 0).then(|| Money::new(amount / 100, currency)),
        Factor::EndsIn0 | Factor::Iso => Some(Money::new(amount, currency)),
    }
}

enum Factor {
    Iso,
    Times100,
    EndsIn0,
}

fn factor(currency: Currency) -> Factor {
    match (currency.code(), currency.exponent()) {
        ("ISK", _) => Factor::Times100,
        (_, 3) => Factor::EndsIn0,
        _ => Factor::Iso,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stripe::tests::vectors;

    // F11, F51
    #[test]
    fn every_vector_is_converted_or_refused() {
        let vectors = vectors();
        let ours = vectors["amounts"].as_array().unwrap().iter().filter(|c| c["provider"] == "stripe");
        let mut seen = 0;
        for case in ours {
            let currency: Currency = case["currency"].as_str().unwrap().parse().unwrap();
            let wire = Money::from_decimal(case["major"].as_str().unwrap(), currency).ok().map(to_wire);
            match case["wire"].as_i64() {
                Some(expect) => {
                    assert_eq!(wire, Some(Ok(expect)), "{case}");
                    let back = from_wire(expect, &currency.code().to_ascii_lowercase()).unwrap();
                    assert_eq!(Money::from_decimal(case["major"].as_str().unwrap(), currency), Ok(back), "{case}");
                }
                None => assert!(!matches!(wire, Some(Ok(_))), "{case}"),
            }
            seen += 1;
        }
        assert_eq!(seen, 19);
    }

    #[test]
    fn what_we_cannot_express_has_no_amount() {
        assert_eq!(from_wire(279_050, "isk"), None);
        assert_eq!(from_wire(100, "ugx"), None);
        assert_eq!(from_wire(-1, "pln"), None);
        assert!(to_wire(Money::new(100, "RUB".parse().unwrap())).is_err());
        // Of krónur Stripe reads two digits less.
        let of_krona = |whole| to_wire(Money::new(whole, "ISK".parse().unwrap()));
        assert_eq!(of_krona(9_999_999_999), Ok(999_999_999_900));
        assert!(of_krona(10_000_000_000).is_err_and(|e| e.to_string().contains("at most 9999999999")));
    }

    #[test]
    fn every_currency_is_one_the_product_knows() {
        for code in CURRENCIES {
            assert!(code.parse::<Currency>().is_ok(), "{code}");
        }
    }
}
