//! API keys created through the API: generated once, shown once, and stored only as a hash.
//!
//! A key is 256 random bits. A hash of that cannot be brute-forced, so one plain SHA-256 is as good as the slow, salted
//! hash that a password needs, and does not cost every request a tenth of a second. The hash is not keyed: a database
//! restored beside another master key must not lock out all users.

use crate::token::{API_KEY_PREFIX, ApiKey, Bearer};
use hoistway_model::{Digest, Result, Secret};
use std::{fmt, hint::black_box};

/// The number of characters of a key that are stored and shown to recognise it: 48 of its bits, which leaves more than
/// 200.
const SHOWN: usize = API_KEY_PREFIX.len() + 8;
/// The length of a generated key: the prefix and 32 bytes in base64url.
const LEN: usize = API_KEY_PREFIX.len() + 43;

impl ApiKey {
    /// Returns the first characters, by which users recognise the key.
    pub fn shown(&self) -> &str {
        shown(self.secret().expose())
    }
}

/// Generates a key without storing it.
pub fn mint() -> Result<Secret> {
    Bearer::generate(API_KEY_PREFIX).map(Secret::new)
}

/// Returns the characters of a key by which users recognise it.
pub fn shown(key: &str) -> &str {
    key.get(..SHOWN).unwrap_or_default()
}

/// Whether a text has the form of a generated key. Other texts are refused without a lookup.
pub fn is_well_formed(text: &str) -> bool {
    let base64url = |b: u8| b.is_ascii_alphanumeric() || b == b'-' || b == b'_';
    text.len() == LEN && text.starts_with(API_KEY_PREFIX) && text.bytes().all(base64url)
}

/// The hash of a key.
#[derive(Clone, PartialEq, Eq)]
pub struct KeyHash(String);

impl KeyHash {
    /// Returns the hash of `key`.
    pub fn of(key: &str) -> Self {
        Self(Digest::of(key.as_bytes()).hex())
    }

    /// Wraps a stored hash.
    pub fn from_stored(hex: String) -> Self {
        Self(hex)
    }

    /// Returns the text to store.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it is the hash of `key`, in constant time.
    pub fn matches(&self, key: &str) -> bool {
        let other = Self::of(key);
        let (a, b) = (self.0.as_bytes(), other.0.as_bytes());
        let different = a.iter().zip(b).fold(0, |seen, (x, y)| black_box(seen | (x ^ y)));
        a.len() == b.len() && different == 0
    }
}

impl fmt::Debug for KeyHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(hoistway_model::redact::MASK)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;
    use crate::token::ApiKey;

    #[test]
    fn a_key_is_known_by_its_hash_alone() {
        let (key, other) = (mint().unwrap(), mint().unwrap());
        let (key, other) = (key.expose(), other.expose());
        let hash = KeyHash::of(key);
        assert!(KeyHash::from_stored(hash.as_str().to_owned()).matches(key));
        assert!(!hash.matches(other) && !hash.matches("") && !hash.matches(&key[..key.len() - 1]));
        assert!(!KeyHash::from_stored(String::new()).matches(key));
        assert!(!KeyHash::from_stored(hash.as_str()[..63].to_owned()).matches(key));
        assert!(!hash.as_str().contains(&key[3..]) && !format!("{hash:?}").contains(hash.as_str()));
    }

    #[test]
    fn what_can_be_a_key() {
        let key = mint().unwrap();
        let key = key.expose();
        assert!(is_well_formed(key) && is_well_formed(ApiKey::generate().unwrap().secret().expose()));
        assert_eq!((shown(key).len(), shown("hw_")), (11, ""));
        for bad in
            ["", "hw_", &key[..45], &format!("{key}a"), &key.replacen("hw_", "sk_", 1), &format!("{}é", &key[..44])]
        {
            assert!(!is_well_formed(bad), "{bad}");
        }
    }
}
