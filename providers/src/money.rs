//! Money as integer minor units with a currency. No floats anywhere near it.
//!
//! One currency table for the whole product: the ISO 4217 exponents. A gateway that differs from ISO (Stripe's
//! krónur, Adyen's pesos) converts at its own edge, in its own file.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Largest amount accepted anywhere, in minor units (10^12: ten thousand million of a two-decimal currency).
/// Leaves room for sums in an `i64` without any check ever failing in practice; checked all the same.
pub const MAX_MINOR: i64 = 1_000_000_000_000;

/// Codes we can be paid in, with the number of decimals ISO 4217 gives them.
const CURRENCIES: &[(&str, u8)] = &[
    ("AED", 2),
    ("AUD", 2),
    ("BGN", 2),
    ("BHD", 3),
    ("BRL", 2),
    ("CAD", 2),
    ("CHF", 2),
    ("CLP", 0),
    ("CNY", 2),
    ("CZK", 2),
    ("DKK", 2),
    ("EUR", 2),
    ("GBP", 2),
    ("GEL", 2),
    ("HKD", 2),
    ("HRK", 2),
    ("HUF", 2),
    ("IDR", 2),
    ("ILS", 2),
    ("INR", 2),
    ("ISK", 0),
    ("JOD", 3),
    ("JPY", 0),
    ("KRW", 0),
    ("KWD", 3),
    ("KZT", 2),
    ("MDL", 2),
    ("MXN", 2),
    ("NOK", 2),
    ("NZD", 2),
    ("OMR", 3),
    ("PLN", 2),
    ("RON", 2),
    ("RSD", 2),
    ("RUB", 2),
    ("SEK", 2),
    ("SGD", 2),
    ("THB", 2),
    ("TND", 3),
    ("TRY", 2),
    ("TWD", 2),
    ("UAH", 2),
    ("USD", 2),
    ("ZAR", 2),
];

/// An ISO 4217 currency that the product knows; prints as its code.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Currency(&'static str, u8);

impl Currency {
    /// The Polish złoty, the currency of the examples.
    pub const PLN: Currency = Currency("PLN", 2);
    /// The euro.
    pub const EUR: Currency = Currency("EUR", 2);

    /// The three capital letters of ISO 4217.
    pub fn code(self) -> &'static str {
        self.0
    }

    /// Decimals of the major unit by ISO 4217: PLN 2, ISK 0, KWD 3.
    pub fn exponent(self) -> u8 {
        self.1
    }

    /// Minor units in one major unit.
    pub fn scale(self) -> i64 {
        10_i64.pow(u32::from(self.1))
    }

    /// Every currency the product knows.
    pub fn all() -> impl Iterator<Item = Currency> {
        CURRENCIES.iter().map(|&(code, exponent)| Currency(code, exponent))
    }
}

impl FromStr for Currency {
    type Err = MoneyError;

    fn from_str(code: &str) -> Result<Self, MoneyError> {
        Currency::all().find(|c| c.0 == code).ok_or_else(|| MoneyError::UnknownCurrency(code.chars().take(8).collect()))
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Serialize for Currency {
    fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(self.0)
    }
}

impl<'de> Deserialize<'de> for Currency {
    fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        String::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// An amount in minor units of one currency. `Display` is the decimal text with the code: `123.00 PLN`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Money {
    /// Minor units: 12300 is 123.00 PLN, 1050 is 1050 ISK.
    #[serde(rename = "amount")]
    minor: i64,
    currency: Currency,
}

impl Money {
    /// An amount from minor units.
    pub fn new(minor: i64, currency: Currency) -> Self {
        Money { minor, currency }
    }

    /// Nothing, in this currency.
    pub fn zero(currency: Currency) -> Self {
        Money { minor: 0, currency }
    }

    /// The amount in minor units.
    pub fn minor(self) -> i64 {
        self.minor
    }

    /// The currency.
    pub fn currency(self) -> Currency {
        self.currency
    }

    /// Sum of two amounts of one currency.
    ///
    /// # Errors
    /// Currencies differ, or the sum leaves `i64`.
    pub fn checked_add(self, other: Money) -> Result<Money, MoneyError> {
        self.same_currency(other)?;
        let minor = self.minor.checked_add(other.minor).ok_or(MoneyError::TooLarge)?;
        Ok(Money { minor, ..self })
    }

    /// Difference of two amounts of one currency; may be negative.
    ///
    /// # Errors
    /// Currencies differ, or the difference leaves `i64`.
    pub fn checked_sub(self, other: Money) -> Result<Money, MoneyError> {
        self.same_currency(other)?;
        let minor = self.minor.checked_sub(other.minor).ok_or(MoneyError::TooLarge)?;
        Ok(Money { minor, ..self })
    }

    /// Checks that this can be asked of a payer: above zero and at most [`MAX_MINOR`].
    ///
    /// # Errors
    /// Zero, negative or above the limit.
    pub fn payable(self) -> Result<Money, MoneyError> {
        match self.minor {
            ..=0 => Err(MoneyError::NotPositive),
            1..=MAX_MINOR => Ok(self),
            _ => Err(MoneyError::TooLarge),
        }
    }

    /// Decimal text with exactly the currency's decimals and a dot: `129.90`, `1050` for ISK, `-0.05`.
    pub fn to_decimal(self) -> String {
        let sign = if self.minor < 0 { "-" } else { "" };
        let (scale, digits) = (self.currency.scale().unsigned_abs(), usize::from(self.currency.exponent()));
        let (whole, part) = (self.minor.unsigned_abs() / scale, self.minor.unsigned_abs() % scale);
        if digits == 0 { format!("{sign}{whole}") } else { format!("{sign}{whole}.{part:0digits$}") }
    }

    /// Reads decimal text written by a gateway: digits, optionally a dot and **exactly** the currency's decimals.
    /// `12.340`, `1e3`, `12,34`, `+1`, ` 1` and `.5` are refused (F11): a gateway that writes so is not understood.
    ///
    /// # Errors
    /// Any other spelling, or an amount over [`MAX_MINOR`].
    pub fn from_decimal(text: &str, currency: Currency) -> Result<Money, MoneyError> {
        let bad = || MoneyError::NotDecimal(text.chars().take(24).collect());
        let (whole, part) = match text.split_once('.') {
            Some((whole, part)) if part.len() == usize::from(currency.exponent()) && !part.is_empty() => (whole, part),
            None if currency.exponent() == 0 => (text, ""),
            _ => return Err(bad()),
        };
        let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
        if whole.is_empty() || !digits(whole) || !digits(part) {
            return Err(bad());
        }
        let minor: i64 = format!("{whole}{part}").parse().map_err(|_| MoneyError::TooLarge)?;
        if minor > MAX_MINOR { Err(MoneyError::TooLarge) } else { Ok(Money { minor, currency }) }
    }

    fn same_currency(self, other: Money) -> Result<(), MoneyError> {
        if self.currency == other.currency {
            Ok(())
        } else {
            Err(MoneyError::MixedCurrencies(self.currency, other.currency))
        }
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.to_decimal(), self.currency)
    }
}

/// Why an amount or a currency was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// Not in our table.
    #[error("currency {0:?} is not one of the ISO 4217 codes supported here (three capital letters)")]
    UnknownCurrency(String),
    /// Zero or less where something must be paid.
    #[error("the amount must be above zero")]
    NotPositive,
    /// Above [`MAX_MINOR`] or outside `i64`.
    #[error("the amount must be at most {MAX_MINOR} minor units")]
    TooLarge,
    /// Not decimal text of the expected form.
    #[error("{0:?} is not an amount in this currency's decimals")]
    NotDecimal(String),
    /// Two currencies in one sum.
    #[error("{0} and {1} cannot be added")]
    MixedCurrencies(Currency, Currency),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check_decimal(text: &str, currency: &str, minor: Option<i64>) {
        let currency: Currency = currency.parse().unwrap();
        let read = Money::from_decimal(text, currency).ok();
        assert_eq!(read.map(Money::minor), minor, "{text}");
        if let Some(money) = read {
            assert_eq!(Money::from_decimal(&money.to_decimal(), currency), Ok(money));
        }
    }

    // F11, F51
    #[test]
    fn reads_only_exact_decimals() {
        check_decimal("129.90", "PLN", Some(12990));
        check_decimal("0.01", "PLN", Some(1));
        check_decimal("1050", "ISK", Some(1050));
        check_decimal("1.250", "KWD", Some(1250));
        for bad in
            ["12.340", "1e3", "12,34", "12.3", "12", "", ".50", "-1.00", "+1.00", " 1.00", "1.00 ", "١.٠٠", "NaN"]
        {
            check_decimal(bad, "PLN", None);
        }
        check_decimal("1050.00", "ISK", None);
        check_decimal("10000000000.01", "PLN", None);
        check_decimal("99999999999999999999.00", "PLN", None);
    }

    // F51
    #[test]
    fn only_known_capital_codes_are_currencies() {
        for bad in ["pln", "XXX", "", "PLNN", "zł"] {
            assert!(bad.parse::<Currency>().is_err(), "{bad}");
        }
        assert_eq!("PLN".parse::<Currency>().unwrap(), Currency::PLN);
        assert_eq!("EUR".parse::<Currency>().unwrap(), Currency::EUR);
    }

    #[test]
    fn sums_are_checked() {
        let one = Money::new(i64::MAX, Currency::PLN);
        assert_eq!(one.checked_add(Money::new(1, Currency::PLN)), Err(MoneyError::TooLarge));
        assert!(one.checked_add(Money::new(1, Currency::EUR)).is_err());
        assert_eq!(Money::new(0, Currency::PLN).payable(), Err(MoneyError::NotPositive));
        assert_eq!(Money::new(-5, Currency::PLN).to_decimal(), "-0.05");
    }
}
