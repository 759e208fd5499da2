//! Secrets at rest: encryption under the installation's master key, and fingerprints that compare values without
//! revealing them.
//!
//! The master key is a key ring: new secrets are encrypted with the current key, and older keys still decrypt their
//! own. A rotation has three steps, and a power cut after any of them is safe: a new current key is written before the
//! old ones; every service re-encrypts the secrets of older keys ([`MasterKey::reseal`]); the old keys are dropped. The
//! fingerprints' key stays the same, so that no rotation makes an unchanged deploy look changed.

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

// The file: a line for each key, the current one first and without a prefix.
const OLD: &str = "old ";
const FINGERPRINTS: &str = "fingerprints ";
/// The most rotations that may be unfinished.
const MAX_OLD: usize = 15;

/// The keys that encrypt every stored secret. Cheap to clone.
#[derive(Clone)]
pub struct MasterKey(Arc<Keys>);

struct Keys {
    current: SealingKey,
    old: Vec<SealingKey>,
    fingerprints: hmac::Key,
}

struct SealingKey {
    header: [u8; HEADER_LEN],
    key: aead::LessSafeKey,
}

/// 32 secret bytes.
type Bytes = [u8; 32];

/// The content of the file.
#[derive(Clone, PartialEq, Eq)]
struct Ring {
    current: Bytes,
    old: Vec<Bytes>,
    /// If absent, the key is derived from the oldest key.
    fingerprints: Option<Bytes>,
}

impl MasterKey {
    /// Loads the keys from the file `path`, which is created (0600) with one key at the first start. Losing the file
    /// loses the secrets.
    pub fn load_or_create(path: &Path) -> Result<Self> {
        let ring = Ring { current: random()?, old: Vec::new(), fingerprints: None };
        let text = fs::load_or_create_private(path, || Ok(ring.write().into_bytes()))?;
        Ring::read(path, &text)?.keys()
    }

    /// Loads the keys from a file that exists already, or from a pipe. [`Code::NotFound`] if there is none.
    pub fn load(path: &Path) -> Result<Self> {
        let ring = Ring::load(path)?;
        fs::warn_if_open(path);
        ring.keys()
    }

    /// Makes a ring of one key from 32 secret bytes.
    pub fn from_bytes(bytes: &[u8; 32]) -> Result<Self> {
        Ring { current: *bytes, old: Vec::new(), fingerprints: None }.keys()
    }

    /// Gives the file `path` a new current key and keeps the others for decryption. Running programs go on with the
    /// keys that they have read; the new file decrypts their secrets too.
    pub fn rotate(path: &Path) -> Result<()> {
        let ring = Ring::load(path)?;
        if ring.old.len() >= MAX_OLD {
            let text = "too many rotations wait for their end: start Hoistway once, so that it drops the old keys";
            return Err(Error::new(Code::Conflict, text));
        }
        let fingerprints = match ring.fingerprints {
            Some(bytes) => bytes,
            None => derived(&ring.current, FINGERPRINT_LABEL),
        };
        let old = [vec![ring.current], ring.old].concat();
        Ring { current: random()?, old, fingerprints: Some(fingerprints) }.store(path)
    }

    /// Drops the old keys from the file `path`; true if there were any. Call it only when no secret of theirs is left.
    /// With `unless_changed`, a file with other keys than those is left unchanged.
    pub fn drop_old(path: &Path, unless_changed: Option<&MasterKey>) -> Result<bool> {
        let ring = Ring::load(path)?;
        let changed = unless_changed.is_some_and(|read| match ring.keys() {
            Ok(now) => now.0.current.header != read.0.current.header,
            Err(_) => true,
        });
        if changed || ring.old.is_empty() {
            return Ok(false);
        }
        Ring { old: Vec::new(), ..ring }.store(path)?;
        tracing::info!("the rotation of the master key is complete; the old key is dropped");
        Ok(true)
    }

    /// Returns the text of a key file that decrypts whatever any of several versions decrypts, and encrypts as the
    /// newest does. The versions are ordered oldest first, possibly with rotations between. Empty when there is no
    /// version.
    pub fn union(versions: &[Vec<u8>]) -> Result<Vec<u8>> {
        let read = |text: &Vec<u8>| Ring::read(Path::new("master.key"), text);
        let rings = versions.iter().rev().map(read).collect::<Result<Vec<_>>>()?;
        let Some(newest) = rings.first() else { return Ok(Vec::new()) };
        let mut old: Vec<Bytes> = Vec::new();
        for key in rings.iter().flat_map(|ring| std::iter::once(&ring.current).chain(&ring.old)) {
            if *key != newest.current && !old.contains(key) {
                old.push(*key);
            }
        }
        // Written out, because the added keys would change its derivation.
        let fingerprints = (!old.is_empty()).then(|| newest.fingerprint_key());
        let fingerprints = newest.fingerprints.or(fingerprints);
        Ok(Ring { current: newest.current, old, fingerprints }.write().into_bytes())
    }

    /// Prepares the file `path`, which is created if it does not exist, for secrets that the keys of another file,
    /// whose content is `foreign`, have encrypted: returns its keys, and the others as old ones. The file gets the
    /// other one's key of fingerprints, so nothing that it has encrypted may be compared by a fingerprint.
    pub fn adopt(path: &Path, foreign: &[u8]) -> Result<Self> {
        let foreign = Ring::read(Path::new("master.key"), foreign)?;
        Self::load_or_create(path)?;
        let mut ring = Ring::load(path)?;
        let fingerprints = foreign.fingerprint_key();
        if ring.fingerprint_key() != fingerprints {
            ring.fingerprints = Some(fingerprints);
            ring.store(path)?;
        }
        let others = std::iter::once(foreign.current).chain(foreign.old).filter(|key| *key != ring.current);
        let old = ring.old.iter().copied().chain(others).collect();
        Ring { old, fingerprints: Some(fingerprints), ..ring }.keys()
    }

    /// Whether there are old keys, so that there may be secrets to re-encrypt.
    pub fn has_old(&self) -> bool {
        !self.0.old.is_empty()
    }

    /// Encrypts `plaintext`. Decryption requires the same `context`, so that a sealed text cannot be moved to another
    /// row or column: name the place, such as `deployments/ID/request`.
    pub fn seal(&self, context: &str, plaintext: &[u8]) -> Result<Vec<u8>> {
        let SealingKey { header, key } = &self.0.current;
        let nonce = random::<NONCE_LEN>()?;
        let mut text = plaintext.to_vec();
        let tag = key
            .seal_in_place_separate_tag(
                aead::Nonce::assume_unique_for_key(nonce),
                aead::Aad::from(aad(header, context)),
                &mut text,
            )
            .map_err(|_| Error::internal("sealing a secret", "the text is too long"))?;
        let mut sealed = Vec::with_capacity(HEADER_LEN + NONCE_LEN + text.len() + TAG_LEN);
        sealed.extend_from_slice(header);
        sealed.extend_from_slice(&nonce);
        sealed.append(&mut text);
        sealed.extend_from_slice(tag.as_ref());
        Ok(sealed)
    }

    /// Decrypts a result of [`MasterKey::seal`] with the same `context` and one of the keys.
    pub fn open(&self, context: &str, sealed: &[u8]) -> Result<Vec<u8>> {
        let failed = |why: &str| Error::internal("opening a sealed secret", why);
        let (header, rest) = sealed.split_at_checked(HEADER_LEN).ok_or_else(|| failed("it is cut off"))?;
        if header[0] != VERSION {
            return Err(failed("it was made by a newer Hoistway"));
        }
        let mut keys = std::iter::once(&self.0.current).chain(&self.0.old);
        let Some(SealingKey { header, key }) = keys.find(|key| key.header == header) else {
            return Err(failed("it was made with another master key"));
        };
        let (nonce, text) = rest.split_first_chunk::<NONCE_LEN>().ok_or_else(|| failed("it is cut off"))?;
        let mut text = text.to_vec();
        let length = key
            .open_in_place(aead::Nonce::assume_unique_for_key(*nonce), aead::Aad::from(aad(header, context)), &mut text)
            .map_err(|_| failed("it was changed, or belongs to another place"))?
            .len();
        text.truncate(length);
        Ok(text)
    }

    /// Re-encrypts a secret of an old key with the current one; `None` if it is already.
    pub fn reseal(&self, context: &str, sealed: &[u8]) -> Result<Option<Vec<u8>>> {
        if sealed.starts_with(&self.0.current.header) {
            return Ok(None);
        }
        self.seal(context, &self.open(context, sealed)?).map(Some)
    }

    /// Returns a digest of `bytes` that only this installation can compute: it compares bytes for equality, and
    /// candidates cannot be tried without the key.
    pub fn fingerprint(&self, context: &str, bytes: &[u8]) -> Digest {
        let mut signer = hmac::Context::with_key(&self.0.fingerprints);
        signer.update(&(context.len() as u64).to_le_bytes());
        signer.update(context.as_bytes());
        signer.update(bytes);
        Digest::of(signer.sign().as_ref())
    }
}

/// Derives an independent key for each use.
fn derived(master: &Bytes, label: &str) -> Bytes {
    let mut key = Bytes::default();
    key.copy_from_slice(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, master), label.as_bytes()).as_ref());
    key
}

const ID_LABEL: &str = "hoistway key id";
const SEAL_LABEL: &str = "hoistway seal aes-256-gcm";
const FINGERPRINT_LABEL: &str = "hoistway fingerprint";

impl SealingKey {
    fn new(master: &Bytes) -> Result<Self> {
        let mut header = [VERSION; HEADER_LEN];
        header[1..].copy_from_slice(&derived(master, ID_LABEL)[..KEY_ID_LEN]);
        let key = aead::UnboundKey::new(&aead::AES_256_GCM, &derived(master, SEAL_LABEL))
            .map_err(|_| Error::internal("deriving a key", "wrong key length"))?;
        Ok(Self { header, key: aead::LessSafeKey::new(key) })
    }
}

fn aad(header: &[u8; HEADER_LEN], context: &str) -> Vec<u8> {
    [&header[..], context.as_bytes()].concat()
}

impl Ring {
    fn load(path: &Path) -> Result<Self> {
        let failed = |e: std::io::Error| Error::internal(&format!("reading {}", path.display()), e);
        match fs::read_if_there(path).map_err(failed)? {
            Some(text) => Self::read(path, &text),
            None => Err(Error::new(Code::NotFound, format!("there is no master key at {}", path.display()))),
        }
    }

    fn store(&self, path: &Path) -> Result<()> {
        let failed = |e: std::io::Error| fs::path_error("writing", path)(e);
        // A half-written ring of a killed process would retain the keys that are dropped here.
        fs::remove_left_over(path).map_err(failed)?;
        fs::write_atomic(path, self.write().as_bytes(), fs::PRIVATE_FILE).map_err(failed)
    }

    fn read(path: &Path, text: &[u8]) -> Result<Self> {
        let wrong = || {
            let text = format!("{} is not a master key: 43 characters of base64url are expected", path.display());
            Error::new(Code::InvalidArgument, text)
        };
        let decode = |text: &str| {
            let mut key = Bytes::default();
            match URL_SAFE_NO_PAD.decode_slice(text.trim(), &mut key) {
                Ok(32) => Ok(key),
                _ => Err(wrong()),
            }
        };
        let text = std::str::from_utf8(text).map_err(|_| wrong())?;
        let mut lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
        let current = decode(lines.next().ok_or_else(wrong)?)?;
        let mut ring = Self { current, old: Vec::new(), fingerprints: None };
        for line in lines {
            if let Some(key) = line.strip_prefix(OLD) {
                ring.old.push(decode(key)?);
            } else if let Some(key) = line.strip_prefix(FINGERPRINTS).filter(|_| ring.fingerprints.is_none()) {
                ring.fingerprints = Some(decode(key)?);
            } else {
                return Err(wrong());
            }
        }
        Ok(ring)
    }

    fn write(&self) -> String {
        let line = |prefix: &str, key: &Bytes| format!("{prefix}{}\n", URL_SAFE_NO_PAD.encode(key));
        let mut text = line("", &self.current);
        text.extend(self.old.iter().map(|key| line(OLD, key)));
        text.extend(self.fingerprints.iter().map(|key| line(FINGERPRINTS, key)));
        text
    }

    /// Returns the fingerprints' key. Without one of their own, it is derived from the oldest key.
    fn fingerprint_key(&self) -> Bytes {
        let first = self.old.last().unwrap_or(&self.current);
        self.fingerprints.unwrap_or_else(|| derived(first, FINGERPRINT_LABEL))
    }

    fn keys(&self) -> Result<MasterKey> {
        let fingerprints = self.fingerprint_key();
        Ok(MasterKey(Arc::new(Keys {
            current: SealingKey::new(&self.current)?,
            old: self.old.iter().map(SealingKey::new).collect::<Result<_>>()?,
            fingerprints: hmac::Key::new(hmac::HMAC_SHA256, &fingerprints),
        })))
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
    use std::os::unix::fs::PermissionsExt;

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
    fn a_rotation_keeps_what_was_sealed_and_every_fingerprint() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("master.key");
        assert_eq!(MasterKey::rotate(&path).unwrap_err().code, Code::NotFound);
        let first = MasterKey::load_or_create(&path).unwrap();
        let (sealed, print) = (first.seal("c", b"x").unwrap(), first.fingerprint("c", b"x"));
        for _ in 0..2 {
            MasterKey::rotate(&path).unwrap();
        }
        let ring = MasterKey::load_or_create(&path).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(ring.has_old() && !first.has_old());
        assert_eq!((ring.open("c", &sealed).unwrap(), ring.fingerprint("c", b"x")), (b"x".to_vec(), print));
        let resealed = ring.reseal("c", &sealed).unwrap().unwrap();
        assert_eq!(ring.reseal("c", &resealed).unwrap(), None);
        assert!(ring.reseal("d", &sealed).is_err(), "a sealed text stays in its place");
        assert_eq!(first.open("c", &resealed).unwrap_err().chain(), "it was made with another master key");

        assert!(!MasterKey::drop_old(&path, Some(&first)).unwrap(), "somebody has rotated since");
        assert!(MasterKey::drop_old(&path, Some(&ring)).unwrap());
        assert!(!MasterKey::drop_old(&path, None).unwrap(), "there are none any more");
        let last = MasterKey::load_or_create(&path).unwrap();
        assert!(!last.has_old());
        assert_eq!((last.open("c", &resealed).unwrap(), last.fingerprint("c", b"x")), (b"x".to_vec(), print));
        assert!(last.open("c", &sealed).is_err());
    }

    #[test]
    fn versions_of_a_key_file_together_open_what_any_of_them_opens() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("master.key");
        let first = MasterKey::load_or_create(&path).unwrap();
        let mut versions = vec![std::fs::read(&path).unwrap()];
        assert_eq!(MasterKey::union(&versions).unwrap(), versions[0], "one version is that version");
        let mut sealed = vec![first.seal("c", b"x").unwrap()];
        for _ in 0..2 {
            MasterKey::rotate(&path).unwrap();
            MasterKey::drop_old(&path, None).unwrap();
            versions.push(std::fs::read(&path).unwrap());
            sealed.push(MasterKey::load_or_create(&path).unwrap().seal("c", b"x").unwrap());
        }
        std::fs::write(&path, MasterKey::union(&versions).unwrap()).unwrap();
        let all = MasterKey::load_or_create(&path).unwrap();
        for sealed in &sealed {
            assert_eq!(all.open("c", sealed).unwrap(), b"x");
        }
        assert_eq!(all.reseal("c", &sealed[2]).unwrap(), None, "the newest is the current one");
        assert_eq!(all.fingerprint("c", b"x"), first.fingerprint("c", b"x"));
        assert!(MasterKey::union(&[]).unwrap().is_empty());
        assert!(MasterKey::union(&[b"no key".to_vec()]).is_err());
    }

    #[test]
    fn secrets_of_another_file_are_adopted_with_their_fingerprints() {
        let dir = tempfile::tempdir().unwrap();
        let [theirs, ours] = ["theirs", "ours"].map(|name| dir.path().join(name));
        let first = MasterKey::load_or_create(&theirs).unwrap();
        MasterKey::rotate(&theirs).unwrap();
        let second = MasterKey::load_or_create(&theirs).unwrap();
        let sealed = [first.seal("c", b"x").unwrap(), second.seal("c", b"x").unwrap()];
        let foreign = std::fs::read(&theirs).unwrap();
        // A repeated call changes nothing.
        for _ in 0..2 {
            let adopted = MasterKey::adopt(&ours, &foreign).unwrap();
            let own = MasterKey::load_or_create(&ours).unwrap();
            for sealed in &sealed {
                let resealed = adopted.reseal("c", sealed).unwrap().unwrap();
                assert_eq!(own.open("c", &resealed).unwrap(), b"x");
                assert!(own.open("c", sealed).is_err(), "the file has no foreign key");
            }
            assert_eq!(own.fingerprint("c", b"x"), first.fingerprint("c", b"x"));
        }
        let itself = MasterKey::adopt(&theirs, &foreign).unwrap();
        assert_eq!(itself.reseal("c", &sealed[1]).unwrap(), None);
    }

    #[test]
    fn rotations_that_never_end_are_refused_and_the_file_says_only_what_is_known() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("master.key");
        MasterKey::load_or_create(&path).unwrap();
        for _ in 0..MAX_OLD {
            MasterKey::rotate(&path).unwrap();
        }
        assert_eq!(MasterKey::rotate(&path).unwrap_err().code, Code::Conflict);
        let good = std::fs::read_to_string(&path).unwrap();
        for bad in [format!("{good}new x\n"), good.replace("old ", "older "), format!("{good}{good}"), String::new()] {
            std::fs::write(&path, &bad).unwrap();
            assert_eq!(MasterKey::load_or_create(&path).unwrap_err().code, Code::InvalidArgument, "{bad:?}");
        }
        // A ring assembled by hand needs no line for fingerprints.
        let (a, b) = (URL_SAFE_NO_PAD.encode([1; 32]), URL_SAFE_NO_PAD.encode([2; 32]));
        std::fs::write(&path, format!("{b}\nold {a}\n")).unwrap();
        assert_eq!(MasterKey::load_or_create(&path).unwrap().fingerprint("c", b"x"), key(1).fingerprint("c", b"x"));
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
