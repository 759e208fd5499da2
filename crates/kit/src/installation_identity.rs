//! How a server shows that it is a certain installation, without showing the key that makes it so.
//!
//! A client sends a number of its own and the server answers with an HMAC of it and of the address at which it was
//! dialled, under a key that only the holder of the installation's API key has. The address is the one of the server's
//! own socket: whoever listens elsewhere and passes the question on gets an answer for another address than its client
//! has dialled.

use crate::token::random;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hoistway_model::{Result, redact::MASK};
use ring::hmac;
use std::{fmt, net::SocketAddr, ops::RangeInclusive};

/// The path of the question, outside `/api`.
pub const PATH: &str = "/identity";
/// How many characters a client's number may have.
pub const NONCE: RangeInclusive<usize> = 16..=64;

const LABEL: &[u8] = b"hoistway installation identity 1";

/// The key of an installation's answers. Cheap to clone.
#[derive(Clone)]
pub struct InstallationKey(hmac::Key);

impl InstallationKey {
    /// That of the installation whose API key this is.
    pub fn of(api_key: &str) -> Self {
        let key = hmac::Key::new(hmac::HMAC_SHA256, api_key.trim().as_bytes());
        Self(hmac::Key::new(hmac::HMAC_SHA256, hmac::sign(&key, LABEL).as_ref()))
    }

    /// The answer to `nonce` of a server that was dialled at `at`.
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

/// A number that nobody has asked with before.
pub fn nonce() -> Result<String> {
    Ok(URL_SAFE_NO_PAD.encode(random::<24>()?))
}

/// Whether a text can be a client's number.
pub fn is_nonce(text: &str) -> bool {
    NONCE.contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

/// No number has a space in it, so no two questions are the same text.
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
