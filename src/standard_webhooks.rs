//! Standard Webhooks: how the hub signs what it tells its clients, and when it tells them again.
//!
//! The specification is standard-webhooks/standard-webhooks, 1.0.0. The symmetric signature `v1` is the one that all
//! published receiver libraries check. Signing and secrets are here, [`delivery`] holds the rules for repeating.
//!
//! Must not know: the network, the store, the clock. Time and randomness are arguments.

pub mod delivery;

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use grosz_providers::sign::{hmac_sha256, same};
use grosz_providers::wire::Headers;

/// How far a message's time may lie from ours, both ways, in seconds.
pub const TOLERANCE_S: u64 = 300;

/// More secrets than this never sign at the same time.
pub const MAX_LIVE_SECRETS: usize = 5;

const PREFIX: &str = "whsec_";

/// The three headers of one attempt. The time is that of this attempt, so that a late repeat lies within the
/// receiver's window; the id is that of the message and stays.
///
/// # Errors
/// The id is empty or holds a character other than ASCII letters, digits, `_` and `-`: with a full stop in it,
/// the signed text could be read in two ways.
pub fn headers(
    keys: &[&SigningKey],
    id: &str,
    now_s: u64,
    body: &[u8],
) -> Result<[(&'static str, String); 3], BadMessageId> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
    if id.is_empty() || !id.bytes().all(plain) {
        return Err(BadMessageId);
    }
    let timestamp = now_s.to_string();
    let signatures: Vec<String> =
        keys.iter().map(|key| format!("v1,{}", signature(key, id, &timestamp, body))).collect();
    Ok([("webhook-id", id.to_owned()), ("webhook-timestamp", timestamp), ("webhook-signature", signatures.join(" "))])
}

/// Checks a message as a receiver does, with any of several secrets.
///
/// # Errors
/// See [`VerifyError`].
pub fn verify(keys: &[&SigningKey], headers: &Headers, body: &[u8], now_s: u64) -> Result<(), VerifyError> {
    let id = single(headers, "webhook-id")?;
    let timestamp = single(headers, "webhook-timestamp")?;
    let given = single(headers, "webhook-signature")?;
    let sent_s = plain_number(timestamp).ok_or(VerifyError::Malformed)?;
    if now_s.saturating_sub(sent_s) > TOLERANCE_S {
        return Err(VerifyError::TooOld);
    }
    if sent_s.saturating_sub(now_s) > TOLERANCE_S {
        return Err(VerifyError::TooNew);
    }
    let given: Vec<&str> = given.split(' ').filter_map(|part| part.strip_prefix("v1,")).collect();
    if given.is_empty() {
        return Err(VerifyError::NoSignature);
    }
    let expected: Vec<String> = keys.iter().map(|key| signature(key, id, timestamp, body)).collect();
    let fits = |given: &&str| expected.iter().any(|e| same(e.as_bytes(), given.as_bytes()));
    if given.iter().any(fits) { Ok(()) } else { Err(VerifyError::Mismatch) }
}

fn signature(key: &SigningKey, id: &str, timestamp: &str, body: &[u8]) -> String {
    STANDARD.encode(hmac_sha256(&key.0, &[id.as_bytes(), b".", timestamp.as_bytes(), b".", body]))
}

fn single<'a>(headers: &'a Headers, name: &str) -> Result<&'a str, VerifyError> {
    match headers.single(name) {
        Ok(Some(value)) if !value.is_empty() => Ok(value),
        Ok(_) => Err(VerifyError::MissingHeader),
        Err(_) => Err(VerifyError::Malformed),
    }
}

/// Plain decimal digits without a leading zero: where libraries read more, they read differently.
fn plain_number(text: &str) -> Option<u64> {
    let plain = text.bytes().all(|b| b.is_ascii_digit()) && !text.starts_with('0') && text.len() <= 19;
    if plain { text.parse().ok() } else { None }
}

/// A message id that cannot be signed safely.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a webhook id is made of ASCII letters, digits, _ and -")]
pub struct BadMessageId;

/// Why a message is not believed. `Display` is one stable word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum VerifyError {
    /// One of the three headers is missing or empty.
    #[error("missing_header")]
    MissingHeader,
    /// The time is not a plain number, or a header came twice.
    #[error("malformed")]
    Malformed,
    /// Sent more than [`TOLERANCE_S`] ago.
    #[error("too_old")]
    TooOld,
    /// Sent more than [`TOLERANCE_S`] ahead.
    #[error("too_new")]
    TooNew,
    /// No signature of version `v1`.
    #[error("no_signature")]
    NoSignature,
    /// No signature fits.
    #[error("mismatch")]
    Mismatch,
}

/// The key of one endpoint: 24 to 64 bytes, as the specification asks.
#[derive(Clone, PartialEq, Eq)]
pub struct SigningKey(Vec<u8>);

impl SigningKey {
    /// A new key from 32 bytes of a cryptographic random source.
    pub fn generate(random: [u8; 32]) -> Self {
        SigningKey(random.to_vec())
    }

    /// Reads `whsec_` and base64. The prefix may be missing, as in the published libraries.
    ///
    /// # Errors
    /// Not padded standard base64, or not 24 to 64 bytes.
    pub fn parse(text: &str) -> Result<Self, BadSigningKey> {
        let encoded = text.strip_prefix(PREFIX).unwrap_or(text);
        if encoded.len() > 88 {
            return Err(BadSigningKey);
        }
        let bytes = STANDARD.decode(encoded).map_err(|_| BadSigningKey)?;
        if (24..=64).contains(&bytes.len()) { Ok(SigningKey(bytes)) } else { Err(BadSigningKey) }
    }

    /// The text that the client is shown once.
    pub fn to_text(&self) -> String {
        format!("{PREFIX}{}", STANDARD.encode(&self.0))
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// The text is no signing key. Does not repeat it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a webhook secret is whsec_ followed by the base64 of 24 to 64 bytes")]
pub struct BadSigningKey;

/// A key and the time in which it signs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HeldKey {
    /// The key.
    pub key: SigningKey,
    /// When it was made, in Unix seconds.
    pub created_s: u64,
    /// When it stops signing, in Unix seconds; `None` for the current one.
    pub expires_s: Option<u64>,
}

/// The keys that sign now, the current one first, then the newest, so that receivers in the middle of a rotation find
/// theirs. Keys of one second, or of a clock that went back, follow the order in which they were made.
pub fn live_keys(held: &[HeldKey], now_s: u64) -> Vec<&SigningKey> {
    let mut live: Vec<&HeldKey> = held.iter().rev().filter(|h| h.expires_s.is_none_or(|end| now_s < end)).collect();
    live.sort_by_key(|h| (h.expires_s.is_some(), std::cmp::Reverse(h.created_s)));
    live.into_iter().take(MAX_LIVE_SECRETS).map(|h| &h.key).collect()
}

/// Makes `new` the current key. The earlier ones sign for `overlap_s` more seconds, but never longer than they would
/// have; after a leak the overlap is 0. Those that would sign no more are let go.
pub fn rotate(held: &mut Vec<HeldKey>, new: SigningKey, now_s: u64, overlap_s: u64) {
    let end = now_s.saturating_add(overlap_s);
    for earlier in held.iter_mut() {
        earlier.expires_s = Some(earlier.expires_s.map_or(end, |already| already.min(end)));
    }
    held.push(HeldKey { key: new, created_s: now_s, expires_s: None });
    held.drain(..held.len().saturating_sub(MAX_LIVE_SECRETS));
}

#[cfg(test)]
mod tests;
