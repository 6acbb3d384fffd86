//! Encryption at rest for the secrets of merchants, and the type that keeps a secret out of logs.
//!
//! A sealed text is `s1.<key id>.<base64>`: XChaCha20-Poly1305 under the master key, its random 24-byte nonce first.
//! The associated data names the place where the text is stored, so that a row copied to another merchant does not
//! open there. The key id lets a master key be replaced: new texts use the new key, old ones open with the old.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use chacha20poly1305::aead::{Aead, KeyInit, Payload};
use chacha20poly1305::{XChaCha20Poly1305, XNonce};
use grosz_providers::sign;
use rand::Rng;

const VERSION: &str = "s1";
const NONCE_BYTES: usize = 24;

/// Seals with one master key and opens with it and with earlier ones.
#[derive(Clone)]
pub struct Sealer {
    current: MasterKey,
    old: Vec<MasterKey>,
}

#[derive(Clone)]
struct MasterKey {
    id: String,
    cipher: XChaCha20Poly1305,
}

impl Sealer {
    /// A sealer; `old` keys only open.
    pub fn new(master_key: [u8; 32], old: Vec<[u8; 32]>) -> Self {
        Sealer { current: MasterKey::new(&master_key), old: old.iter().map(MasterKey::new).collect() }
    }

    /// Encrypts. The same `associated_data` must be given to open it; take the table, the row and the column.
    ///
    /// # Errors
    /// Never for texts below 256 GB.
    pub fn seal(&self, plain: &str, associated_data: &str) -> Result<String, SealError> {
        // Drawn here and not passed in: a nonce that comes twice under one key gives both texts away.
        let mut nonce = [0; NONCE_BYTES];
        rand::rng().fill_bytes(&mut nonce);
        let payload = Payload { msg: plain.as_bytes(), aad: associated_data.as_bytes() };
        let sealed = self.current.cipher.encrypt(&XNonce::from(nonce), payload).map_err(|_| SealError::TooLong)?;
        let bytes = [&nonce[..], &sealed].concat();
        Ok(format!("{VERSION}.{}.{}", self.current.id, STANDARD.encode(bytes)))
    }

    /// Decrypts.
    ///
    /// # Errors
    /// See [`SealError`].
    pub fn open(&self, sealed: &str, associated_data: &str) -> Result<Secret, SealError> {
        let mut parts = sealed.splitn(3, '.');
        let (Some(VERSION), Some(id), Some(encoded)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(SealError::NotSealed);
        };
        let key = self.key(id).ok_or(SealError::UnknownKey)?;
        let bytes = STANDARD.decode(encoded).map_err(|_| SealError::NotSealed)?;
        let (nonce, sealed) = bytes.split_first_chunk::<NONCE_BYTES>().ok_or(SealError::NotSealed)?;
        let payload = Payload { msg: sealed, aad: associated_data.as_bytes() };
        let plain = key.cipher.decrypt(&XNonce::from(*nonce), payload).map_err(|_| SealError::Changed)?;
        String::from_utf8(plain).map(Secret::new).map_err(|_| SealError::Changed)
    }

    /// True when the text was sealed with an old key (or cannot be read) and is to be sealed anew.
    pub fn is_stale(&self, sealed: &str) -> bool {
        !sealed.starts_with(&format!("{VERSION}.{}.", self.current.id))
    }

    fn key(&self, id: &str) -> Option<&MasterKey> {
        std::iter::once(&self.current).chain(&self.old).find(|key| key.id == id)
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl MasterKey {
    fn new(bytes: &[u8; 32]) -> Self {
        // Enough of a digest to tell keys apart, too little to say anything about them.
        let digest = sign::sha256(&[b"grosz master key id", bytes]);
        let id = hex::encode(digest.get(..4).unwrap_or_default());
        MasterKey { id, cipher: XChaCha20Poly1305::new(&(*bytes).into()) }
    }
}

/// Why a text was not sealed or opened. Never holds any of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// Not in the form that [`Sealer::seal`] writes.
    #[error("the stored text is not a sealed secret")]
    NotSealed,
    /// Sealed under a master key that is not here.
    #[error("the secret was sealed with a master key that is not configured")]
    UnknownKey,
    /// The text was changed, or belongs to another place.
    #[error("the sealed secret was changed or belongs to another record")]
    Changed,
    /// Longer than the cipher can take.
    #[error("the secret is too long")]
    TooLong,
}

/// Reads a master key: 64 hexadecimal digits, or the base64 of 32 bytes.
///
/// # Errors
/// Neither of both. The text is not repeated.
pub fn parse_master_key(text: &str) -> Result<[u8; 32], BadMasterKey> {
    let text = text.trim();
    let bytes = match text.len() {
        64 => hex::decode(text).map_err(|_| BadMasterKey)?,
        44 => STANDARD.decode(text).map_err(|_| BadMasterKey)?,
        _ => return Err(BadMasterKey),
    };
    let key: [u8; 32] = bytes.try_into().map_err(|_| BadMasterKey)?;
    // A placeholder of zeros, or of one letter, is no key.
    if key.iter().all(|b| Some(b) == key.first()) { Err(BadMasterKey) } else { Ok(key) }
}

/// The text is no master key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("must be 32 random bytes as 64 hexadecimal digits or as base64 (openssl rand -hex 32)")]
pub struct BadMasterKey;

/// A text that must not be seen: it cannot be printed or serialised, and its `Debug` is `***`.
#[derive(Clone, Default)]
pub struct Secret(String);

impl Secret {
    /// Wraps a text.
    pub fn new(text: impl Into<String>) -> Self {
        Secret(text.into())
    }

    /// The text itself. Search for this word to see every use of a secret.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl PartialEq for Secret {
    /// In time that depends on the lengths only.
    fn eq(&self, other: &Self) -> bool {
        sign::same(self.0.as_bytes(), other.0.as_bytes())
    }
}

impl Eq for Secret {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: [u8; 32] = *b"0123456789abcdef0123456789abcdef";
    const OTHER: [u8; 32] = *b"another-key-another-key-another-";

    fn sealer() -> Sealer {
        Sealer::new(KEY, vec![])
    }

    #[test]
    fn a_sealed_text_opens_and_no_two_are_alike() {
        let (one, two) = (sealer().seal("tajne: ąę", "a/1").unwrap(), sealer().seal("tajne: ąę", "a/1").unwrap());
        assert_ne!(one, two);
        assert!(one.starts_with("s1.") && !one.contains("tajne"), "{one}");
        assert_eq!(sealer().open(&one, "a/1").unwrap().expose(), "tajne: ąę");
        assert_eq!(sealer().open(&two, "a/1").unwrap().expose(), "tajne: ąę");
    }

    // draft-irtf-cfrg-xchacha-03, appendix A.3.1: the cipher is the published one, so that other tools can open it.
    #[test]
    fn the_cipher_is_the_published_one() {
        let key: [u8; 32] = std::array::from_fn(|i| 0x80 + u8::try_from(i).unwrap());
        let nonce: [u8; 24] = std::array::from_fn(|i| 0x40 + u8::try_from(i).unwrap());
        let aad = hex::decode("50515253c0c1c2c3c4c5c6c7").unwrap();
        let plain = b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, \
            sunscreen would be it.";
        let sealed = MasterKey::new(&key).cipher.encrypt(&XNonce::from(nonce), Payload { msg: plain, aad: &aad });
        let sealed = sealed.unwrap();
        assert_eq!(hex::encode(&sealed[..16]), "bd6d179d3e83d43b9576579493c0e939");
        assert_eq!(hex::encode(&sealed[sealed.len() - 16..]), "c0875924c1c7987947deafd8780acf49");
    }

    #[test]
    fn nothing_opens_in_another_place_or_with_another_key() {
        let sealed = sealer().seal("secret", "accounts/1/key").unwrap();
        assert_eq!(sealer().open(&sealed, "accounts/2/key"), Err(SealError::Changed));
        assert_eq!(Sealer::new(OTHER, vec![]).open(&sealed, "accounts/1/key"), Err(SealError::UnknownKey));
        let own_id = sealer().current.id;
        let forged = sealed.replace(&own_id, &MasterKey::new(&OTHER).id);
        assert_eq!(Sealer::new(OTHER, vec![]).open(&forged, "accounts/1/key"), Err(SealError::Changed));
    }

    #[test]
    fn a_new_master_key_still_opens_what_the_old_one_sealed() {
        let sealed = sealer().seal("secret", "x").unwrap();
        let rotated = Sealer::new(OTHER, vec![KEY]);
        assert_eq!(rotated.open(&sealed, "x").unwrap().expose(), "secret");
        assert!(rotated.is_stale(&sealed));
        let again = rotated.seal("secret", "x").unwrap();
        assert!(!rotated.is_stale(&again));
        assert_eq!(sealer().open(&again, "x"), Err(SealError::UnknownKey));
    }

    #[test]
    fn every_changed_byte_is_noticed() {
        let sealed = sealer().seal("secret", "x").unwrap();
        let (head, encoded) = sealed.rsplit_once('.').unwrap();
        let bytes = STANDARD.decode(encoded).unwrap();
        for i in 0..bytes.len() {
            let mut changed = bytes.clone();
            changed[i] ^= 1;
            let text = format!("{head}.{}", STANDARD.encode(&changed));
            assert_eq!(sealer().open(&text, "x"), Err(SealError::Changed), "byte {i}");
        }
        for bad in ["", "s1", "s1.", "s2.00000000.AAAA", "plain text", "s1.a.b.c"] {
            assert!(sealer().open(bad, "x").is_err(), "{bad}");
        }
        assert_eq!(sealer().open(&format!("{head}.AAAA"), "x"), Err(SealError::NotSealed));
    }

    #[test]
    fn master_keys_are_read_in_both_spellings() {
        assert_eq!(parse_master_key(&hex::encode(KEY)), Ok(KEY));
        assert_eq!(parse_master_key(&format!(" {}\n", hex::encode_upper(KEY))), Ok(KEY));
        assert_eq!(parse_master_key(&STANDARD.encode(KEY)), Ok(KEY));
        let (zeros, short) = ("0".repeat(64), "ab".repeat(31));
        for bad in ["", "change me", &zeros, &short, &"z".repeat(64), &"=".repeat(44)] {
            assert_eq!(parse_master_key(bad), Err(BadMasterKey), "{bad}");
        }
    }

    #[test]
    fn debug_shows_three_stars() {
        assert_eq!(format!("{:?} {:?}", Secret::new("hidden"), sealer()), "*** ***");
        assert_eq!(format!("{:?}", Some(Secret::new("hidden"))), "Some(***)");
    }

    proptest! {
        #[test]
        fn sealing_and_opening_is_identity(plain in "\\PC{0,80}", place in "\\PC{0,20}") {
            let sealed = sealer().seal(&plain, &place).unwrap();
            let opened = sealer().open(&sealed, &place).unwrap();
            prop_assert_eq!(opened.expose(), plain);
        }

        #[test]
        fn no_text_makes_open_panic(text in "(s1\\.)?\\PC{0,60}") {
            prop_assert!(sealer().open(&text, "x").is_err());
        }
    }
}
