//! VAT out of gross amounts, on integers.
//!
//! Prices are gross, and VAT is computed once per rate on the sum of that rate's lines: so the document's total is
//! always the money that was taken. Starting from net prices cannot do that, because some gross amounts (0.03 PLN at
//! 23 %) have no net price at all.

use crate::invoicer::Vat;

/// An amount taken apart, in minor units; `net + vat == gross`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Split {
    /// Without VAT.
    pub net: i64,
    /// The VAT.
    pub vat: i64,
    /// With VAT.
    pub gross: i64,
}

/// Takes VAT of `rate_bp` basis points out of a gross amount in minor units, half away from zero.
pub fn from_gross(gross: i64, rate_bp: u32) -> Split {
    let vat = divide(i128::from(gross) * i128::from(rate_bp), 10_000 + i128::from(rate_bp));
    Split { net: gross - vat, vat, gross }
}

/// Splits lines (gross, VAT) into one sum per rate, in the order in which the rates first appear. `None` when a sum
/// leaves `i64`.
pub fn by_rate(lines: impl IntoIterator<Item = (i64, Vat)>) -> Option<Vec<(Vat, Split)>> {
    let mut sums: Vec<(Vat, i64)> = vec![];
    for (gross, vat) in lines {
        match sums.iter_mut().find(|(known, _)| *known == vat) {
            Some((_, sum)) => *sum = sum.checked_add(gross)?,
            None => sums.push((vat, gross)),
        }
    }
    Some(sums.into_iter().map(|(vat, gross)| (vat, from_gross(gross, rate(vat)))).collect())
}

/// The quantity and unit price that give a line's total exactly. When the total cannot be divided it is one piece at
/// the whole price, and the caller says the quantity in the line's name.
pub fn unit_price(total: i64, quantity: i64) -> (i64, i64) {
    if quantity > 0 && total % quantity == 0 { (quantity, total / quantity) } else { (1, total) }
}

/// The rate in basis points; 0 for everything that carries no VAT.
fn rate(vat: Vat) -> u32 {
    match vat {
        Vat::Rate(bp) => bp,
        Vat::Exempt | Vat::OutsideScope | Vat::ReverseChargeEu | Vat::SellerNotVatPayer => 0,
    }
}

/// `n / d` for `d > 0`, half away from zero. The quotient of an `i64` and a rate fits an `i64` again.
fn divide(n: i128, d: i128) -> i64 {
    let rounded = n.signum() * ((2 * n.abs() + d) / (2 * d));
    i64::try_from(rounded).unwrap_or(if n < 0 { i64::MIN } else { i64::MAX })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn vectors() -> Value {
        serde_json::from_str::<Value>(include_str!("../fixtures/vectors/invoicing.json")).unwrap()["vat_rounding"]
            .take()
    }

    fn read_vat(rate: &Value) -> Vat {
        rate.as_u64().map_or(Vat::Exempt, |bp| Vat::Rate(bp.try_into().unwrap()))
    }

    fn read_split(v: &Value) -> Split {
        let minor = |name: &str| v[name].as_i64().unwrap();
        Split { net: minor("net"), vat: minor("vat"), gross: minor("gross") }
    }

    fn sum<'a>(parts: impl Iterator<Item = &'a Split>) -> Split {
        parts.fold(Split { net: 0, vat: 0, gross: 0 }, |a, b| Split {
            net: a.net + b.net,
            vat: a.vat + b.vat,
            gross: a.gross + b.gross,
        })
    }

    /// Net prices are not ours to issue; their vectors still hold for the same division.
    fn from_net(net: i64, vat: Vat) -> Split {
        let vat = divide(i128::from(net) * i128::from(rate(vat)), 10_000);
        Split { net, vat, gross: net + vat }
    }

    #[test]
    fn every_published_case_comes_out_to_the_unit() {
        let vectors = vectors();
        let cases = vectors["cases"].as_array().unwrap();
        assert!(cases.len() >= 19);
        for case in cases {
            let lines: Vec<_> = case["lines"].as_array().unwrap().iter().collect();
            let of_line = |l: &&Value| (l["amount_minor"].as_i64().unwrap(), read_vat(&l["rate"]));
            let gross_mode = case["price_mode"] == "gross";
            let per_line: Vec<_> = lines
                .iter()
                .map(of_line)
                .map(|(amount, vat)| if gross_mode { from_gross(amount, rate(vat)) } else { from_net(amount, vat) })
                .collect();
            let expected: Vec<_> = case["by_line"]["lines"].as_array().unwrap().iter().map(read_split).collect();
            assert_eq!(per_line, expected, "{}", case["id"]);
            assert_eq!(sum(per_line.iter()), read_split(&case["by_line"]), "{}", case["id"]);
            if gross_mode {
                let groups = by_rate(lines.iter().map(of_line)).unwrap();
                let expected: Vec<_> = case["by_rate_total"]["groups"].as_array().unwrap().iter().collect();
                assert_eq!(groups.len(), expected.len());
                for ((vat, split), wanted) in groups.iter().zip(expected) {
                    assert_eq!((*vat, *split), (read_vat(&wanted["rate"]), read_split(wanted)), "{}", case["id"]);
                }
                assert_eq!(sum(groups.iter().map(|(_, s)| s)), read_split(&case["by_rate_total"]), "{}", case["id"]);
            }
        }
    }

    #[test]
    fn gross_amounts_without_a_net_price_are_those_published() {
        for (rate, wanted) in vectors()["unreachable_gross_upto_150"].as_object().unwrap() {
            let vat = Vat::Rate(rate.parse().unwrap());
            let reached: Vec<_> = (0..=150).map(|net| from_net(net, vat).gross).collect();
            let missed: Vec<_> = (1..=150).filter(|gross| !reached.contains(gross)).collect();
            let wanted: Vec<_> = wanted.as_array().unwrap().iter().map(|g| g.as_i64().unwrap()).collect();
            assert_eq!(missed, wanted, "{rate}");
        }
    }

    #[test]
    fn a_total_that_cannot_be_divided_is_one_piece() {
        for case in vectors()["unit_price_split"].as_array().unwrap() {
            let minor = |v: &Value| v.as_i64().unwrap();
            let emit = (minor(&case["emit"]["quantity"]), minor(&case["emit"]["unit_price_minor"]));
            assert_eq!(unit_price(minor(&case["total_minor"]), minor(&case["quantity"])), emit, "{case}");
        }
        assert_eq!(unit_price(1000, 0), (1, 1000));
    }

    proptest! {
        #[test]
        fn parts_always_sum_to_the_gross(gross in any::<i64>(), bp in 0_u32..10_000) {
            let split = from_gross(gross, bp);
            prop_assert_eq!(i128::from(split.net) + i128::from(split.vat), i128::from(gross));
            let opposite = from_gross(gross.checked_neg().unwrap_or(0), bp);
            prop_assert!(gross == i64::MIN || opposite.vat == -split.vat);
        }
    }
}
