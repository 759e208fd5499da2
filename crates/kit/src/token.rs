//! Bearer tokens in private files: the token between services, and the API key of the gateway.

use crate::fs;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hoistway_model::{Code, Error, Result, Secret, redact::MASK};
use ring::{
    hmac,
    rand::{SecureRandom, SystemRandom},
};
use std::{fmt, path::Path, sync::Arc};

/// The fewest characters of a token in an operator's file.
const MIN_LEN: usize = 32;

/// The prefix of every API key, for secret scanners.
pub(crate) const API_KEY_PREFIX: &str = "hw_";

/// Returns `N` cryptographically random bytes.
pub(crate) fn random<const N: usize>() -> Result<[u8; N]> {
    let mut bytes = [0; N];
    SystemRandom::new()
        .fill(&mut bytes)
        .map_err(|_| Error::internal("reading random bytes", "the system's random number generator failed"))?;
    Ok(bytes)
}

/// A token and a tag of it, for a comparison in constant time.
pub(crate) struct Bearer {
    text: Secret,
    key: hmac::Key,
    tag: hmac::Tag,
}

impl Bearer {
    fn new(text: String) -> Result<Self> {
        let key = hmac::Key::new(hmac::HMAC_SHA256, &random::<32>()?);
        let tag = hmac::sign(&key, text.as_bytes());
        Ok(Self { text: Secret::new(text), key, tag })
    }

    pub(crate) fn generate(prefix: &str) -> Result<String> {
        Ok(format!("{prefix}{}", URL_SAFE_NO_PAD.encode(random::<32>()?)))
    }

    fn load_or_create(path: &Path, prefix: &str) -> Result<Self> {
        let bytes = fs::load_or_create_private(path, || Ok(format!("{}\n", Self::generate(prefix)?).into_bytes()))?;
        let unusable = |why: &str| Error::new(Code::InvalidArgument, format!("{} {why}", path.display()));
        let text = String::from_utf8(bytes).map_err(|_| unusable("is not text"))?;
        let text = text.trim();
        if !text.starts_with(prefix) {
            return Err(unusable(&format!("must hold a key that begins with \"{prefix}\"")));
        }
        if text.len() < MIN_LEN || !text.bytes().all(|b| b.is_ascii_graphic()) {
            return Err(unusable(&format!("must hold at least {MIN_LEN} visible ASCII characters without spaces")));
        }
        Self::new(text.to_owned())
    }

    fn verify(&self, presented: &str) -> bool {
        hmac::verify(&self.key, presented.as_bytes(), self.tag.as_ref()).is_ok()
    }
}

macro_rules! bearer {
    ($(#[$doc:meta])* $name:ident, $prefix:expr) => {
        $(#[$doc])*
        #[derive(Clone)]
        pub struct $name(Arc<Bearer>);

        impl $name {
            /// Generates one without storing it.
            pub fn generate() -> Result<Self> {
                Ok(Self(Arc::new(Bearer::new(Bearer::generate($prefix)?)?)))
            }

            /// Loads the one in the file `path`, which is created (0600) at the first start.
            pub fn load_or_create(path: &Path) -> Result<Self> {
                Ok(Self(Arc::new(Bearer::load_or_create(path, $prefix)?)))
            }

            /// Whether `presented` is it, in a time that depends only on the length of `presented`.
            pub fn verify(&self, presented: &str) -> bool {
                self.0.verify(presented)
            }

            /// Returns the text.
            pub fn secret(&self) -> &Secret {
                &self.0.text
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(MASK)
            }
        }
    };
}

bearer!(
    /// The token that services send with every internal call.
    ServiceToken,
    ""
);
bearer!(
    /// The key that users send to the gateway; it begins with `hw_`, for secret scanners.
    ApiKey,
    API_KEY_PREFIX
);

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    #[test]
    fn a_token_is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("service-token");
        let first = ServiceToken::load_or_create(&path).unwrap();
        let second = ServiceToken::load_or_create(&path).unwrap();
        assert_eq!(first.secret().expose().len(), 43);
        assert!(first.verify(second.secret().expose()));
        assert!(!first.verify("") && !first.verify(&second.secret().expose()[1..]));
        assert_eq!(format!("{first:?}"), MASK);
    }

    #[test]
    fn an_api_key_is_known_by_its_beginning() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api-key");
        let key = ApiKey::load_or_create(&path).unwrap();
        assert!(key.secret().expose().starts_with("hw_"));
        std::fs::write(&path, "sk_0123456789012345678901234567890123456789").unwrap();
        assert_eq!(ApiKey::load_or_create(&path).unwrap_err().code, Code::InvalidArgument);
    }

    #[test]
    fn a_weak_or_broken_file_is_refused_without_showing_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("service-token");
        for bad in ["", "short-secret", "0123456789012345 6789012345678901234"] {
            std::fs::write(&path, bad).unwrap();
            let e = ServiceToken::load_or_create(&path).unwrap_err();
            assert!(bad.is_empty() || !e.message.contains(bad), "{e}");
        }
    }
}
