//! The keys that an issuer publishes (RFC 7517), as far as they are supported.

use jsonwebtoken::{
    Algorithm, DecodingKey,
    jwk::{AlgorithmParameters, EllipticCurve, Jwk, KeyAlgorithm, KeyOperations, PublicKeyUse},
};
use serde::Deserialize;
use serde_json::Value;
use std::fmt;

/// The most keys that are read of one set.
const MAX_KEYS: usize = 100;
/// The most keys that one token is verified with.
const MAX_TRIED: usize = 4;
/// The smallest RSA key in bytes: 2048 bits.
const MIN_RSA: usize = 256;

/// The permitted signature algorithms of tokens. Never `none`, and never a symmetric one, whose key both sides must
/// keep secret.
pub const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::PS256,
    Algorithm::PS384,
    Algorithm::PS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

/// The usable keys of a published set.
#[derive(Default)]
pub struct KeySet(Vec<Key>);

struct Key {
    id: Option<String>,
    /// The algorithms that a token signed by it may specify.
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.iter().map(|key| &key.id)).finish()
    }
}

impl KeySet {
    /// Reads a set. Keys of other kinds and for other uses are skipped; a set without usable keys is an error.
    pub fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Value>,
        }

        let set: Set = serde_json::from_slice(bytes).map_err(|_| "what is there is not a set of keys (JWKS)")?;
        let keys: Vec<Key> = set.keys.into_iter().take(MAX_KEYS).filter_map(usable).collect();
        if keys.is_empty() { Err("none of the keys there can be used to check signatures") } else { Ok(Self(keys)) }
    }

    /// Returns the number of keys.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns the keys that may have signed a token with this header; without an id, all keys that fit.
    pub fn candidates(&self, id: Option<&str>, algorithm: Algorithm) -> Vec<&DecodingKey> {
        let named = |key: &&Key| id.is_none() || key.id.as_deref() == id;
        let fits = |key: &&Key| key.algorithms.contains(&algorithm);
        self.0.iter().filter(named).filter(fits).map(|key| &key.key).take(MAX_TRIED).collect()
    }
}

fn usable(value: Value) -> Option<Key> {
    let jwk: Jwk = serde_json::from_value(value).ok()?;
    let common = &jwk.common;
    let signs = common.public_key_use.as_ref().is_none_or(|used| *used == PublicKeyUse::Signature);
    let verifies = common.key_operations.as_ref().is_none_or(|all| all.contains(&KeyOperations::Verify));
    if !signs || !verifies {
        return None;
    }
    let of_kind: &[Algorithm] = match &jwk.algorithm {
        AlgorithmParameters::RSA(_) => &ALGORITHMS[..6],
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => &[Algorithm::ES256],
        AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P384 => &[Algorithm::ES384],
        AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => &[Algorithm::EdDSA],
        _ => return None,
    };
    let declared = common.key_algorithm;
    let algorithms: Vec<_> =
        of_kind.iter().copied().filter(|own| declared.is_none_or(|declared| same(declared, *own))).collect();
    let key = DecodingKey::from_jwk(&jwk).ok()?;
    if let jsonwebtoken::DecodingKeyKind::RsaModulusExponent { n, .. } = key.kind()
        && n.iter().skip_while(|byte| **byte == 0).count() < MIN_RSA
    {
        return None;
    }
    (!algorithms.is_empty()).then(|| Key { id: common.key_id.clone(), algorithms, key })
}

fn same(declared: KeyAlgorithm, own: Algorithm) -> bool {
    let declared = match declared {
        KeyAlgorithm::RS256 => Algorithm::RS256,
        KeyAlgorithm::RS384 => Algorithm::RS384,
        KeyAlgorithm::RS512 => Algorithm::RS512,
        KeyAlgorithm::PS256 => Algorithm::PS256,
        KeyAlgorithm::PS384 => Algorithm::PS384,
        KeyAlgorithm::PS512 => Algorithm::PS512,
        KeyAlgorithm::ES256 => Algorithm::ES256,
        KeyAlgorithm::ES384 => Algorithm::ES384,
        KeyAlgorithm::EdDSA => Algorithm::EdDSA,
        _ => return false,
    };
    declared == own
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use serde_json::json;

    #[test]
    fn only_keys_that_check_signatures_are_taken() {
        let rsa = |n: usize| "A".repeat(4) + &"_".repeat(n * 4 / 3);
        let ed = json!({"kty": "OKP", "crv": "Ed25519", "kid": "ed", "x": "_".repeat(42) + "8"});
        let set = json!({"keys": [
            ed,
            {"kty": "RSA", "kid": "rsa", "n": rsa(258), "e": "AQAB"},
            {"kty": "RSA", "kid": "one", "alg": "PS256", "use": "sig", "n": rsa(258), "e": "AQAB"},
            {"kty": "RSA", "kid": "short", "n": rsa(128), "e": "AQAB"},
            {"kty": "RSA", "kid": "secret", "use": "enc", "n": rsa(258), "e": "AQAB"},
            {"kty": "RSA", "kid": "oaep", "alg": "RSA-OAEP", "n": rsa(258), "e": "AQAB"},
            {"kty": "RSA", "kid": "ops", "key_ops": ["encrypt"], "n": rsa(258), "e": "AQAB"},
            {"kty": "oct", "kid": "shared", "k": "AAAA"},
            {"kty": "EC", "crv": "P-521", "kid": "p521", "x": "AA", "y": "AA"},
            {"kty": "new", "kid": "new"},
            7,
        ]});
        let set = KeySet::parse(set.to_string().as_bytes()).unwrap();
        assert_eq!(format!("{set:?}"), r#"[Some("ed"), Some("rsa"), Some("one")]"#);
        assert_eq!(set.candidates(Some("rsa"), Algorithm::RS256).len(), 1);
        assert_eq!(set.candidates(Some("one"), Algorithm::RS256).len(), 0);
        assert_eq!(set.candidates(Some("ed"), Algorithm::RS256).len(), 0);
        assert_eq!(set.candidates(None, Algorithm::PS256).len(), 2);
        for bad in ["", "[]", "{}", r#"{"keys": {}}"#, r#"{"keys": []}"#, r#"{"keys": [{"kty": "oct", "k": "AAAA"}]}"#]
        {
            assert!(KeySet::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
