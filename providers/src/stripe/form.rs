//! Nested parameters as the flat form that Stripe reads: `a[b][c]=x`, `list[0][k]=v`, `true` and `false`.
//!
//! (Stripe API reference: requests are `application/x-www-form-urlencoded`, answers are JSON.)

use serde_json::Value;

/// Flattens a JSON object into form pairs. Keys are sorted, so that the same parameters are always the same bytes: a
/// repeated call with one `Idempotency-Key` must not differ by a letter. Absent and `null` values are left out; empty
/// text stays, for it unsets a value.
pub(super) fn flatten(params: &Value) -> Vec<(String, String)> {
    let mut pairs = vec![];
    walk(String::new(), params, &mut pairs);
    pairs
}

fn walk(path: String, value: &Value, pairs: &mut Vec<(String, String)>) {
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}[{key}]") };
    match value {
        Value::Null => {}
        Value::Bool(flag) => pairs.push((path, flag.to_string())),
        Value::Number(number) => pairs.push((path, number.to_string())),
        Value::String(text) => pairs.push((path, text.clone())),
        Value::Array(items) => {
            for (n, item) in items.iter().enumerate() {
                walk(below(&n.to_string()), item, pairs);
            }
        }
        Value::Object(members) => {
            let mut members: Vec<_> = members.iter().collect();
            members.sort_by_key(|(key, _)| *key);
            for (key, member) in members {
                walk(below(key), member, pairs);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stripe::tests::vectors;
    use crate::wire::HttpRequest;

    #[test]
    fn every_vector_is_written_as_the_vendor_writes_it() {
        let vectors = vectors();
        let cases = vectors["stripe_form_encoding"]["cases"].as_array().unwrap();
        assert_eq!(cases.len(), 9);
        for case in cases {
            let pairs = flatten(&case["params"]);
            let request = HttpRequest::form("https://example.test/", pairs.iter().map(|(k, v)| (&**k, &**v)));
            // Order is free and brackets may be raw or encoded, so the comparison is of decoded, sorted pairs.
            let decoded = |body: &[u8]| {
                let mut pairs: Vec<_> = form_urlencoded::parse(body).into_owned().collect();
                pairs.sort();
                pairs
            };
            assert_eq!(decoded(&request.body), decoded(case["encoded"].as_str().unwrap().as_bytes()), "{}", case["id"]);
        }
    }
}
