//! Secrets at rest: sealed under the installation's master key, and fingerprints that tell equal from different
//! without telling what.

use crate::{fs, token::random};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use hoistway_model::{Code, Digest, Error, Result, redact::MASK};
use ring::{aead, hmac};
use std::{fmt, path::Path, sync::Arc};

// A sealed text: VERSION, the id of its key, the nonce, the ciphertext with its tag.
const VERSION: u8 = 1;
const KEY_ID_LEN: usize = 4;
const HEADER_LEN: usize = 1 + KEY_ID_LEN;
const NONCE_LEN: usize = aead::NONCE_LEN;
const TAG_LEN: usize = 16;

/// The key that everything secret is stored under. Cheap to clone.
#[derive(Clone)]
pub struct MasterKey(Arc<Keys>);

struct Keys {
    header: [u8; HEADER_LEN],
    sealing: aead::LessSafeKey,
    fingerprints: hmac::Key,
}

impl MasterKey {
    /// The key in the file `path`, which is made (0600) at the first start. Losing the file loses the secrets.
    pub fn load_or_create(path: &Path) -> Result<Self> {
        let text = fs::load_or_create_private(path, || {
            Ok(format!("{}\n", URL_SAFE_NO_PAD.encode(random::<32>()?)).into_bytes())
        })?;
        let mut key = [0; 32];
        match URL_SAFE_NO_PAD.decode_slice(text.trim_ascii(), &mut key) {
            Ok(32) => Self::from_bytes(&key),
            _ => Err(Error::new(
                Code::InvalidArgument,
                format!("{} is not a master key: 43 characters of base64url are expected", path.display()),
            )),
        }
    }

    /// The key made of 32 secret bytes.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self> {
        // One key for each use, none of which tells anything about another.
        let master = hmac::Key::new(hmac::HMAC_SHA256, bytes);
        let derive = |label: &str| hmac::sign(&master, label.as_bytes());
        let mut header = [VERSION; HEADER_LEN];
        header[1..].copy_from_slice(&derive("hoistway key id").as_ref()[..KEY_ID_LEN]);
        let sealing = aead::UnboundKey::new(&aead::AES_256_GCM, derive("hoistway seal aes-256-gcm").as_ref())
            .map_err(|_| Error::internal("deriving a key", "wrong key length"))?;
        Ok(Self(Arc::new(Keys {
            header,
            sealing: aead::LessSafeKey::new(sealing),
            fingerprints: hmac::Key::new(hmac::HMAC_SHA256, derive("hoistway fingerprint").as_ref()),
        })))
    }

    /// Encrypts `plaintext`. It opens only with the same `context`, so that a sealed text cannot be moved to another
    /// row or column: name the place, such as `deployments/ID/request`.
    pub fn seal(&self, context: &str, plaintext: &[u8]) -> Result<Vec<u8>> {
        let nonce = random::<NONCE_LEN>()?;
        let mut text = plaintext.to_vec();
        let tag = self
            .0
            .sealing
            .seal_in_place_separate_tag(
                aead::Nonce::assume_unique_for_key(nonce),
                aead::Aad::from(self.aad(context)),
                &mut text,
            )
            .map_err(|_| Error::internal("sealing a secret", "the text is too long"))?;
        let mut sealed = Vec::with_capacity(HEADER_LEN + NONCE_LEN + text.len() + TAG_LEN);
        sealed.extend_from_slice(&self.0.header);
        sealed.extend_from_slice(&nonce);
        sealed.append(&mut text);
        sealed.extend_from_slice(tag.as_ref());
        Ok(sealed)
    }

    /// Decrypts what [`MasterKey::seal`] made with the same key and `context`.
    pub fn open(&self, context: &str, sealed: &[u8]) -> Result<Vec<u8>> {
        let failed = |why: &str| Error::internal("opening a sealed secret", why);
        let (header, rest) = sealed.split_at_checked(HEADER_LEN).ok_or_else(|| failed("it is cut off"))?;
        if header[0] != VERSION {
            return Err(failed("it was made by a newer Hoistway"));
        }
        if header != self.0.header {
            return Err(failed("it was made with another master key"));
        }
        let (nonce, text) = rest.split_first_chunk::<NONCE_LEN>().ok_or_else(|| failed("it is cut off"))?;
        let mut text = text.to_vec();
        let length = self
            .0
            .sealing
            .open_in_place(aead::Nonce::assume_unique_for_key(*nonce), aead::Aad::from(self.aad(context)), &mut text)
            .map_err(|_| failed("it was changed, or belongs to another place"))?
            .len();
        text.truncate(length);
        Ok(text)
    }

    /// A digest of `bytes` that only this installation can compute: equal bytes can be told from different ones, and
    /// nobody without the key can try candidates.
    pub fn fingerprint(&self, context: &str, bytes: &[u8]) -> Digest {
        let mut signer = hmac::Context::with_key(&self.0.fingerprints);
        signer.update(&(context.len() as u64).to_le_bytes());
        signer.update(context.as_bytes());
        signer.update(bytes);
        Digest::of(signer.sign().as_ref())
    }

    fn aad(&self, context: &str) -> Vec<u8> {
        [&self.0.header[..], context.as_bytes()].concat()
    }
}

impl fmt::Debug for MasterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use super::*;

    fn key(byte: u8) -> MasterKey {
        MasterKey::from_bytes(&[byte; 32]).unwrap()
    }

    #[test]
    fn what_was_sealed_opens_in_its_place_only() {
        let key_1 = key(1);
        for plaintext in [&b""[..], b"hunter2", &[7; 100_000]] {
            let sealed = key_1.seal("tools/stripe", plaintext).unwrap();
            assert_eq!(key_1.open("tools/stripe", &sealed).unwrap(), plaintext);
            assert!(key_1.open("tools/github", &sealed).is_err());
            let other = key(2).open("tools/stripe", &sealed).unwrap_err();
            assert_eq!(other.chain(), "it was made with another master key");
        }
        assert_ne!(key_1.seal("c", b"x").unwrap(), key_1.seal("c", b"x").unwrap());
    }

    #[test]
    fn every_changed_or_missing_byte_is_noticed() {
        let key = key(1);
        let sealed = key.seal("c", b"hunter2").unwrap();
        for i in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[i] ^= 1;
            assert!(key.open("c", &changed).is_err(), "byte {i}");
            assert!(key.open("c", &sealed[..i]).is_err(), "cut at {i}");
        }
    }

    #[test]
    fn the_key_is_made_once_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("master.key");
        let sealed = MasterKey::load_or_create(&path).unwrap().seal("c", b"x").unwrap();
        assert_eq!(MasterKey::load_or_create(&path).unwrap().open("c", &sealed).unwrap(), b"x");
        std::fs::write(&path, "too short").unwrap();
        assert_eq!(MasterKey::load_or_create(&path).unwrap_err().code, Code::InvalidArgument);
    }

    #[test]
    fn fingerprints_depend_on_key_context_and_bytes() {
        let base = key(1).fingerprint("ab", b"c");
        assert_eq!(base, key(1).fingerprint("ab", b"c"));
        for other in [key(2).fingerprint("ab", b"c"), key(1).fingerprint("a", b"bc"), key(1).fingerprint("ab", b"d")] {
            assert_ne!(base, other);
        }
    }
}
