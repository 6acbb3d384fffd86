//! Reads the `Idempotency-Key` header.
//!
//! The IETF draft (draft-ietf-httpapi-idempotency-key-header-07) makes it a structured-field string, with quotes; payment
//! APIs take the bare text. Both spellings of one text are one key.

/// Longest key, in characters.
pub const MAX_LENGTH: usize = 255;

/// The header is no key. `Display` is a sentence for the caller of the API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Idempotency-Key must be 1 to {MAX_LENGTH} printable ASCII characters, bare or as a quoted string")]
pub struct BadIdempotencyKey;

/// The key in a header's value.
///
/// # Errors
/// Empty, longer than [`MAX_LENGTH`], not printable ASCII, or a quoted string that does not end or holds an escape
/// other than `\"` and `\\`.
pub fn idempotency_key(header: &str) -> Result<String, BadIdempotencyKey> {
    let text = header.trim_matches([' ', '\t']);
    let key = match text.strip_prefix('"') {
        Some(quoted) => unquote(quoted)?,
        None => text.to_owned(),
    };
    let printable = key.bytes().all(|b| (0x20..=0x7e).contains(&b));
    if key.is_empty() || key.len() > MAX_LENGTH || !printable { Err(BadIdempotencyKey) } else { Ok(key) }
}

/// The rest of a structured-field string (RFC 8941, section 3.3.3) after its opening quote.
fn unquote(rest: &str) -> Result<String, BadIdempotencyKey> {
    let mut key = String::new();
    let mut chars = rest.chars();
    loop {
        match chars.next().ok_or(BadIdempotencyKey)? {
            '"' => break,
            '\\' => match chars.next() {
                Some(escaped @ ('"' | '\\')) => key.push(escaped),
                _ => return Err(BadIdempotencyKey),
            },
            plain => key.push(plain),
        }
    }
    if chars.next().is_none() { Ok(key) } else { Err(BadIdempotencyKey) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    #[test]
    fn headers_are_read_as_published() {
        let all: Value = serde_json::from_str(include_str!("../tests/fixtures/webhooks.json")).unwrap();
        let cases = all["idempotency_key_header"].as_array().unwrap();
        assert_eq!(cases.len(), 8);
        for case in cases {
            let header = case["header"].as_str().unwrap();
            let expected = if case["accept"] == true { case["value"].as_str() } else { None };
            assert_eq!(idempotency_key(header).ok().as_deref(), expected, "{header}");
        }
    }

    #[test]
    fn strange_strings_are_refused() {
        for bad in [r#""a"b"#, r#""a";p=1"#, r#""a\b""#, r#""a\"#, "\"", "a\u{7f}", "a\nb", "\u{17c}", "  "] {
            assert_eq!(idempotency_key(bad), Err(BadIdempotencyKey), "{bad:?}");
        }
        assert_eq!(idempotency_key(" \"k 1\" ").as_deref(), Ok("k 1"));
        assert_eq!(idempotency_key(&"x".repeat(255)).map(|k| k.len()), Ok(255));
        assert!(idempotency_key(&format!("\"{}\"", "x".repeat(256))).is_err());
    }

    proptest! {
        #[test]
        fn both_spellings_are_one_key(key in "[!#-~][ -~]{0,60}[!-~]") {
            let quoted = format!("\"{}\"", key.replace('\\', "\\\\").replace('"', "\\\""));
            prop_assert_eq!(idempotency_key(&quoted), Ok(key.clone()));
            prop_assert_eq!(idempotency_key(&key), Ok(key));
        }
    }
}
