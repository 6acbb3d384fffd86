//! The `Stripe-Signature` header: `t=<seconds>,v1=<hex>[,v1=<hex>…]`.
//!
//! Signed is `t`, a full stop and the raw body; the key is the whole secret text with its `whsec_` prefix, not
//! decoded (the opposite of Standard Webhooks, which has the same prefix). Stricter than the vendor's libraries where
//! those disagree among themselves: one `t` of plain digits, a window in both directions, no empty body.
//! (Stripe documentation, "Verify webhook signatures manually".)

use jiff::Timestamp;

use crate::sign;

/// How far `t` may be from our clock, in seconds, either way.
pub(super) const TOLERANCE_S: u64 = 300;

/// Longest header read: room for some sixty signatures, where two are usual.
const HEADER_LIMIT: usize = 4096;

/// Why a signature was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refusal {
    /// No header, or an empty one.
    Missing,
    /// The account has no secret: nothing can be verified, so nothing is accepted.
    NoSecret,
    /// An empty body.
    NoBody,
    /// Not exactly one `t` of plain digits.
    Malformed,
    /// No `v1` part.
    NoSignature,
    /// No `v1` fits any secret.
    Mismatch,
    /// Rightly signed, too long ago.
    TooOld,
    /// Rightly signed, for a time still to come.
    TooNew,
}

impl Refusal {
    /// One word for counters.
    pub(super) fn word(self) -> &'static str {
        match self {
            Refusal::Missing => "missing",
            Refusal::NoSecret => "no_secret",
            Refusal::NoBody => "no_body",
            Refusal::Malformed => "malformed",
            Refusal::NoSignature => "no_signature",
            Refusal::Mismatch => "mismatch",
            Refusal::TooOld => "too_old",
            Refusal::TooNew => "too_new",
        }
    }
}

/// Checks a header against the raw body and every secret of the account. `tolerance_s` of `None` leaves the time out,
/// for deliveries verified again long after they came.
pub(super) fn check(
    header: Option<&str>,
    body: &[u8],
    secrets: &[&str],
    now: Timestamp,
    tolerance_s: Option<u64>,
) -> Result<(), Refusal> {
    let header = header.filter(|h| !h.is_empty()).ok_or(Refusal::Missing)?;
    if secrets.iter().all(|s| s.is_empty()) {
        return Err(Refusal::NoSecret);
    }
    if body.is_empty() {
        return Err(Refusal::NoBody);
    }
    let parts = Parts::read(header)?;
    let mut fits = false;
    for secret in secrets.iter().filter(|s| !s.is_empty()) {
        let wanted = digest(parts.t, secret, body);
        for given in &parts.v1 {
            fits |= sign::same(wanted.as_bytes(), given.as_bytes());
        }
    }
    if !fits {
        return Err(Refusal::Mismatch);
    }
    let (now_s, limit) = (now.as_second(), tolerance_s.unwrap_or(u64::MAX));
    match now_s.abs_diff(parts.seconds) <= limit {
        true => Ok(()),
        false if parts.seconds < now_s => Err(Refusal::TooOld),
        false => Err(Refusal::TooNew),
    }
}

/// The header for a body, signed with each secret: the twin's half.
pub(super) fn header(now: Timestamp, body: &[u8], secrets: &[&str]) -> String {
    let t = now.as_second().to_string();
    let signed: Vec<_> = secrets.iter().map(|secret| format!("v1={}", digest(&t, secret, body))).collect();
    format!("t={t},{}", signed.join(","))
}

fn digest(t: &str, secret: &str, body: &[u8]) -> String {
    hex::encode(sign::hmac_sha256(secret.as_bytes(), &[t.as_bytes(), b".", body]))
}

struct Parts<'a> {
    t: &'a str,
    seconds: i64,
    v1: Vec<&'a str>,
}

impl<'a> Parts<'a> {
    /// Unknown names and the obsolete `v0` are passed over.
    fn read(header: &'a str) -> Result<Self, Refusal> {
        if header.len() > HEADER_LIMIT {
            return Err(Refusal::Malformed);
        }
        let (mut times, mut v1) = (vec![], vec![]);
        for part in header.split(',') {
            match part.split_once('=').ok_or(Refusal::Malformed)? {
                ("t", t) => times.push(t),
                ("v1", digest) => v1.push(digest),
                _ => {}
            }
        }
        let [t] = times[..] else { return Err(Refusal::Malformed) };
        let plain = !t.starts_with('0') && t.bytes().all(|b| b.is_ascii_digit());
        let seconds = t.parse().ok().filter(|_| plain).ok_or(Refusal::Malformed)?;
        if v1.is_empty() { Err(Refusal::NoSignature) } else { Ok(Parts { t, seconds, v1 }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stripe::tests::vectors;

    // F13, F14: every published oddity, with the two-sided window of ours.
    #[test]
    fn every_vector_is_judged_as_the_rule_says() {
        let vectors = vectors();
        let cases = vectors["stripe_signature"]["cases"].as_array().unwrap();
        assert_eq!(cases.len(), 43);
        for case in cases {
            let secrets: Vec<_> = case["secrets"].as_array().unwrap().iter().map(|s| s.as_str().unwrap()).collect();
            let tolerance = case["tolerance"].as_u64().filter(|t| *t > 0);
            let now = Timestamp::from_second(case["now"].as_i64().unwrap()).unwrap();
            let body = case["body"].as_str().unwrap().as_bytes();
            let got = check(case["header"].as_str(), body, &secrets, now, tolerance).map_err(Refusal::word);
            match (case["accept"].as_bool(), case["reason"].as_str()) {
                (Some(true), _) => assert_eq!(got, Ok(()), "{}", case["id"]),
                (Some(false), Some("no_header")) => assert_eq!(got, Err("missing"), "{}", case["id"]),
                (Some(false), Some(reason)) => assert_eq!(got, Err(reason), "{}", case["id"]),
                (Some(false), None) => assert!(got.is_err(), "{}", case["id"]),
                (None, _) => {} // Digests in capitals: either answer is safe.
            }
        }
    }

    #[test]
    fn the_twin_signs_as_the_vectors_do() {
        let vectors = vectors();
        let case = &vectors["stripe_signature"]["cases"][0];
        let now = Timestamp::from_second(1_795_289_990).unwrap();
        let body = case["body"].as_str().unwrap().as_bytes();
        assert_eq!(header(now, body, &[case["secrets"][0].as_str().unwrap()]), case["header"].as_str().unwrap());
    }

    #[test]
    fn a_header_of_endless_signatures_is_refused() {
        let header = format!("t=1795289990{}", ",v1=00".repeat(1000));
        let now = Timestamp::from_second(1_795_289_990).unwrap();
        assert_eq!(check(Some(&header), b"{}", &["whsec_x"], now, None), Err(Refusal::Malformed));
    }
}
