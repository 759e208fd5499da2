//! Proves that a server belongs to a certain installation, without revealing the installation's key.
//!
//! A client sends a nonce and the server answers with an HMAC of it and of the address at which it was dialled, under a
//! key that only the holder of the installation's API key has. The address is that of the server's own socket: a relay
//! at another address gets a proof for an address that its client has not dialled.

use crate::token::random;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hoistway_model::{Result, redact::MASK};
use ring::hmac;
use std::{fmt, net::SocketAddr, ops::RangeInclusive};

/// The path of the challenge, outside `/api`.
pub const PATH: &str = "/identity";
/// The allowed lengths of a client's nonce, in characters.
pub const NONCE: RangeInclusive<usize> = 16..=64;

const LABEL: &[u8] = b"hoistway installation identity 1";

/// The key of an installation's proofs. Cheap to clone.
#[derive(Clone)]
pub struct InstallationKey(hmac::Key);

impl InstallationKey {
    /// Returns the key of the installation with this API key.
    pub fn of(api_key: &str) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, api_key.trim().as_bytes());
        Self(hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&key, LABEL).as_ref()))
    }

    /// Returns the answer to `nonce` of a server that was dialled at `at`.
    pub fn proof(&self, nonce: &str, at: SocketAddr) -> String {
        URL_SAFE_NO_PAD.encode(hmac::sign(&self.0, asked(nonce, at).as_bytes()))
    }

    /// Whether `proof` is that answer.
    pub fn verify(&self, nonce: &str, at: SocketAddr, proof: &str) -> bool {
        let proof = URL_SAFE_NO_PAD.decode(proof);
        proof.is_ok_and(|proof| hmac::verify(&self.0, asked(nonce, at).as_bytes(), &proof).is_ok())
    }
}

impl fmt::Debug for InstallationKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

/// Generates a nonce.
pub fn nonce() -> Result<String> {
    Ok(URL_SAFE_NO_PAD.encode(random::<24>()?))
}

/// Whether a text is a valid nonce.
pub fn is_nonce(text: &str) -> bool {
    NONCE.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

/// Returns the text under the HMAC. A nonce contains no space, so different challenges have different texts.
fn asked(nonce: &str, at: SocketAddr) -> String {
    format!("{nonce} {} {}", at.ip().to_canonical(), at.port())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn an_answer_is_for_one_question_at_one_address_of_one_installation() {
        let at = |text: &str| text.parse::<SocketAddr>().unwrap();
        let (key, nonce) = (InstallationKey::of("hw_a"), nonce().unwrap());
        let proof = key.proof(&nonce, at("127.0.0.1:8092"));
        let verify = |key: &str, nonce: &str, from: &str| InstallationKey::of(key).verify(nonce, at(from), &proof);
        assert!(verify("hw_a\n", &nonce, "127.0.0.1:8092") && verify("hw_a", &nonce, "[::ffff:127.0.0.1]:8092"));
        assert!(!verify("hw_b", &nonce, "127.0.0.1:8092") && !verify("hw_a", "other", "127.0.0.1:8092"));
        assert!(!verify("hw_a", &nonce, "[::1]:8092") && !verify("hw_a", &nonce, "127.0.0.1:8093"));
        assert!(!key.verify(&nonce, at("127.0.0.1:8092"), ""));
        assert!(
            is_nonce(&nonce) && !is_nonce("short") && !is_nonce("0123456789abcdef 1") && !is_nonce(&"a".repeat(65))
        );
        assert_eq!(format!("{key:?}"), MASK);
    }
}
