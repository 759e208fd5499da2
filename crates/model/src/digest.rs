//! Content digests in the form of the OCI image specification: `sha256:` and 64 lower-case hexadecimal digits.

use crate::{Code, Error};
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicU64, Ordering};
use std::{fmt, str::FromStr};

/// The bytes of this process's finished digests.
static HASHED: AtomicU64 = AtomicU64::new(0);

/// Returns the number of bytes that this process has hashed: the cost that grows with what is stored and moved.
pub fn hashed_bytes() -> u64 {
    HASHED.load(Ordering::Relaxed)
}

/// A SHA-256 digest.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    /// Computes the digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let mut h = Hasher::new();
        h.update(bytes);
        h.finish()
    }

    /// Returns the 64 hexadecimal digits, without the algorithm.
    pub fn hex(&self) -> String {
        hex::encode(self.0)
    }
}

/// An incremental SHA-256.
pub struct Hasher(ring::digest::Context, u64);

impl Hasher {
    /// Creates an empty hash.
    pub fn new() -> Self {
        Self(ring::digest::Context::new(&ring::digest::SHA256), 0)
    }

    /// Adds bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.1 += bytes.len() as u64;
        self.0.update(bytes);
    }

    /// Adds one member of a structure: its length and its bytes, so that the boundaries of members are unambiguous.
    pub fn member(&mut self, bytes: &[u8]) {
        self.update(&(bytes.len() as u64).to_le_bytes());
        self.update(bytes);
    }

    /// Returns the digest of all added bytes.
    pub fn finish(self) -> Digest {
        HASHED.fetch_add(self.1, Ordering::Relaxed);
        let mut out = [0; 32];
        out.copy_from_slice(self.0.finish().as_ref());
        Digest(out)
    }
}

impl Default for Hasher {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self, Error> {
        let wrong = || Error::new(Code::InvalidArgument, format!("\"{}\" is not a sha256 digest", text.escape_debug()));
        let digits = text.strip_prefix("sha256:").ok_or_else(wrong)?;
        if digits.len() != 64 || digits.bytes().any(|b| b.is_ascii_uppercase()) {
            return Err(wrong());
        }
        let mut out = [0; 32];
        hex::decode_to_slice(digits, &mut out).map_err(|_| wrong())?;
        Ok(Self(out))
    }
}

impl TryFrom<String> for Digest {
    type Error = Error;

    fn try_from(text: String) -> Result<Self, Error> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_the_canonical_form_is_read() {
        let d = Digest::of(b"");
        assert_eq!(d.to_string(), "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert_eq!(d.to_string().parse::<Digest>().unwrap(), d);
        for bad in ["", "sha256:", "sha512:00", &d.to_string().to_uppercase(), &format!("{d}0"), &d.hex()] {
            assert!(bad.parse::<Digest>().is_err(), "{bad}");
        }
    }
}
