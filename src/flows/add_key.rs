//! Makes API keys. The key itself is shown once and kept nowhere: the database holds its SHA-256.

use grosz_providers::sign::sha256_hex;

use super::FlowError;
use crate::app::App;
use crate::store::{ApiKey, Tx};

/// What a key may do.
pub const SCOPES: [&str; 2] = ["read", "write"];

/// Makes a key of a merchant; answers its row and the key, which cannot be shown again.
///
/// # Errors
/// The name is empty or too long, a scope is unknown or there is none, or the database.
pub async fn make_key(
    app: &App,
    tx: &mut Tx,
    merchant: &str,
    name: &str,
    live: bool,
    scopes: &[&str],
) -> Result<(ApiKey, String), FlowError> {
    let name = name.trim();
    if name.is_empty() || name.chars().count() > 100 || name.chars().any(char::is_control) {
        return Err(FlowError::invalid("name", "must have 1 to 100 characters"));
    }
    if scopes.is_empty() || scopes.iter().any(|s| !SCOPES.contains(s)) {
        return Err(FlowError::invalid("scopes", "must be read, write or both"));
    }
    let shown = format!("{}{}", prefix(live), hex::encode(app.ids.secret()));
    let key = ApiKey {
        merchant_id: merchant.to_owned(),
        id: app.ids.make("key"),
        name: name.to_owned(),
        hint: shown.chars().take(12).collect(),
        hash: key_hash(&shown),
        live,
        scopes: scopes.iter().map(|s| (*s).to_owned()).collect(),
        created_at: app.now(),
        revoked_at: None,
    };
    tx.add_api_key(&key).await?;
    Ok((key, shown))
}

/// How keys of a mode begin.
fn prefix(live: bool) -> &'static str {
    if live { "sk_live_" } else { "sk_test_" }
}

/// What is stored of a key: 32 random bytes need no slow hash.
pub fn key_hash(key: &str) -> String {
    sha256_hex(key.as_bytes())
}

/// True for a text of the form of a key: a prefix and letters and digits. Anything else is not worth a look into the
/// database.
pub fn has_key_form(text: &str) -> bool {
    let random = text.strip_prefix(prefix(false)).or_else(|| text.strip_prefix(prefix(true)));
    random.is_some_and(|r| (16..=128).contains(&r.len()) && r.bytes().all(|b| b.is_ascii_alphanumeric()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_texts_of_the_form_are_looked_up() {
        let random = "0123456789abcdef".repeat(4);
        assert!(has_key_form(&format!("sk_test_{random}")) && has_key_form(&format!("sk_live_{random}")));
        let long = format!("sk_test_{}", "a".repeat(129));
        for bad in ["", "sk_test_", &random, &format!("pk_test_{random}"), "sk_test_abc def ghi jkl mno", &long] {
            assert!(!has_key_form(bad), "{bad}");
        }
    }
}
