//! The number that Poland's national invoicing system (KSeF) gives an invoice.
//!
//! Source: CIRFMF/ksef-docs, `faktury/numer-ksef.md`.

/// True for a whole KSeF number with a right checksum: `NIP-YYYYMMDD-12 hex-2 hex`, 35 characters, where the last two
/// are the CRC-8 (polynomial 0x07) of the first 32 with both hyphens. A number that fails is kept as given, but must
/// not be called verified.
pub fn is_number(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    let [nip, day, unique, check] = parts.as_slice() else { return false };
    let digits = |s: &str, n: usize| s.len() == n && s.bytes().all(|b| b.is_ascii_digit());
    let hex = |s: &str, n: usize| s.len() == n && s.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'));
    let shaped = digits(nip, 10) && digits(day, 8) && hex(unique, 12) && hex(check, 2);
    shaped && text.get(..32).is_some_and(|body| with_check(body) == text)
}

/// A number with its checksum, for simulated invoices. `body` is the first 32 characters.
pub(crate) fn with_check(body: &str) -> String {
    format!("{body}-{:02X}", crc8(body.as_bytes()))
}

fn crc8(bytes: &[u8]) -> u8 {
    bytes.iter().fold(0, |crc, byte| {
        (0..8).fold(crc ^ byte, |crc: u8, _| if crc & 0x80 == 0 { crc << 1 } else { (crc << 1) ^ 0x07 })
    })
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn only_whole_numbers_with_the_right_checksum_pass() {
        let vectors: Value = serde_json::from_str(include_str!("../fixtures/vectors/invoicing.json")).unwrap();
        for good in vectors["ksef"]["number_good"].as_array().unwrap() {
            assert!(is_number(good.as_str().unwrap()), "{good}");
        }
        for bad in vectors["ksef"]["number_bad"].as_array().unwrap() {
            assert!(!is_number(bad["input"].as_str().unwrap()), "{bad}");
        }
        for bad in ["", "----", "ąąąąąąąąąą-20250826-0100001AF629-AF", "5265877635-20250826-0100001AF629-71"]
        {
            assert!(!is_number(bad), "{bad}");
        }
    }
}
