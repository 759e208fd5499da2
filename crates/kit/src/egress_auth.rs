//! Authentication at egress: the token of a revision, and the preface line of a connection that the agent service opens
//! for an agent. The agent service makes both, egress reads both.

use crate::{fs, token::random};
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use hoistway_model::{Code, Error, Result, RevisionId, Secret, redact::MASK};
use ring::hmac;
use std::{fmt, path::Path};

/// The prefix of every token, for secret scanners.
const PREFIX: &str = "hwe_";
/// The number of hexadecimal digits of a revision's id.
const ID_LEN: usize = 32;
/// Separates these tags from those of other uses of the same key.
const CONTEXT: &str = "hoistway egress token 1:";

/// The beginning of a preface. No HTTP method and no TLS record begins like this.
pub const PREFACE_START: &str = "HOISTWAY-EGRESS/1 ";
/// The longest preface in bytes, its line feed included.
pub const PREFACE_MAX: usize = 160;

/// The installation's key of these tokens. Cheap to clone.
#[derive(Clone)]
pub struct EgressKey(hmac::Key);

impl EgressKey {
    /// Loads the key from the file `path`, which is created (0600) at the first start. Another key invalidates every
    /// token.
    pub fn load_or_create(path: &Path) -> Result<Self> {
        let make = || Ok(format!("{}\n", URL_SAFE_NO_PAD.encode(random::<32>()?)).into_bytes());
        let text = fs::load_or_create_private(path, make)?;
        let decoded = URL_SAFE_NO_PAD.decode(text.trim_ascii());
        match decoded {
            Ok(bytes) if bytes.len() == 32 => Ok(Self::from_bytes(&bytes)),
            _ => {
                let text = format!("{} must hold 32 bytes in base64url", path.display());
                Err(Error::new(Code::InvalidArgument, text))
            }
        }
    }

    /// Generates a key without storing it.
    pub fn generate() -> Result<Self> {
        Ok(Self::from_bytes(&random::<32>()?))
    }

    fn from_bytes(bytes: &[u8]) -> Self {
        Self(hmac::Key::new(hmac::HMAC_SHA256, bytes))
    }

    /// Returns the token of a revision. It is deterministic, so nothing needs to be stored.
    pub fn mint(&self, revision: RevisionId) -> Secret {
        let id = revision.simple();
        let tag = hmac::sign(&self.0, format!("{CONTEXT}{id}").as_bytes());
        Secret::new(format!("{PREFIX}{id}{}", URL_SAFE_NO_PAD.encode(tag.as_ref())))
    }

    /// Returns the revision that the token belongs to, in constant time. Whether that revision may call anything is
    /// checked elsewhere.
    pub fn verify(&self, token: &str) -> Option<RevisionId> {
        let (id, tag) = token.strip_prefix(PREFIX)?.split_at_checked(ID_LEN)?;
        let tag = URL_SAFE_NO_PAD.decode(tag).ok()?;
        hmac::verify(&self.0, format!("{CONTEXT}{id}").as_bytes(), &tag).ok()?;
        id.parse().ok()
    }
}

impl fmt::Debug for EgressKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(MASK)
    }
}

/// Returns the CA bundle of agents in PEM: the system's authorities, from `SSL_CERT_FILE` or the system's store, then
/// the installation's own, whose certificate is `authority`. Blocks.
pub fn ca_bundle(authority: &str) -> String {
    const LINE: usize = 64;
    let mut out = String::new();
    for certificate in rustls_native_certs::load_native_certs().certs {
        out.push_str("-----BEGIN CERTIFICATE-----\n");
        for line in STANDARD.encode(certificate).as_bytes().chunks(LINE) {
            out.push_str(&String::from_utf8_lossy(line));
            out.push('\n');
        }
        out.push_str("-----END CERTIFICATE-----\n");
    }
    out.push_str(authority);
    out
}

/// The protocol of the bytes after a preface.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flavour {
    /// A client configured with the address of egress: proxy requests and base URLs. The port is the configured one; on
    /// loopback it means egress itself.
    Proxy,
    /// A client that speaks plain HTTP as if to the host that it names, at this port.
    Http,
    /// The same with TLS.
    Tls,
}

impl Flavour {
    const fn as_str(self) -> &'static str {
        match self {
            Flavour::Proxy => "proxy",
            Flavour::Http => "http",
            Flavour::Tls => "tls",
        }
    }
}

/// The first line of a connection that a trusted service opens on behalf of an agent: `HOISTWAY-EGRESS/1 TOKEN FLAVOUR
/// PORT` and a line feed. The agent's own bytes follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Preface {
    /// The agent's token.
    pub token: Secret,
    /// The protocol of the bytes that follow.
    pub flavour: Flavour,
    /// The port that the agent connected to.
    pub port: u16,
}

impl Preface {
    /// Returns the bytes to send before those of the agent.
    pub fn line(&self) -> Secret {
        Secret::new(format!("{PREFACE_START}{} {} {}\n", self.token.expose(), self.flavour.as_str(), self.port))
    }

    /// Parses a line, with or without its line feed.
    pub fn parse(line: &[u8]) -> Option<Self> {
        if line.len() > PREFACE_MAX {
            return None;
        }
        let line = std::str::from_utf8(line).ok()?;
        let mut words = line.strip_suffix('\n').unwrap_or(line).strip_prefix(PREFACE_START)?.split(' ');
        let (token, flavour, port) = (words.next()?, words.next()?, words.next()?);
        let flavours = [Flavour::Proxy, Flavour::Http, Flavour::Tls];
        let flavour = flavours.into_iter().find(|known| known.as_str() == flavour)?;
        let port = port.parse().ok().filter(|&port: &u16| port != 0 && !line.contains('+'))?;
        words.next().is_none().then(|| Self { token: Secret::new(token), flavour, port })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_token_names_its_revision_and_no_other() {
        let (key, other) = (EgressKey::generate().unwrap(), EgressKey::generate().unwrap());
        let (a, b) = (RevisionId::mint(), RevisionId::mint());
        let token = key.mint(a);
        assert_eq!(token, key.mint(a));
        assert_eq!(key.verify(token.expose()), Some(a));
        assert_eq!(other.verify(token.expose()), None);
        let forged = token.expose().replace(&a.simple(), &b.simple());
        assert_ne!(forged, token.expose());
        let upper = token.expose().replace(&a.simple(), &a.simple().to_uppercase());
        let (text, len) = (token.expose(), token.expose().len());
        for bad in ["", "hwe_", &text[4..], &text[..len - 1], &format!("{text}A"), &forged, &upper, "hwe_é"] {
            assert_eq!(key.verify(bad), None, "{bad}");
        }
        assert_eq!(format!("{key:?} {token:?}"), format!("{MASK} {MASK}"));
    }

    #[test]
    fn the_key_is_made_once_and_a_broken_one_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("egress-key");
        let id = RevisionId::mint();
        let token = EgressKey::load_or_create(&path).unwrap().mint(id);
        assert_eq!(EgressKey::load_or_create(&path).unwrap().verify(token.expose()), Some(id));
        std::fs::write(&path, "short").unwrap();
        assert_eq!(EgressKey::load_or_create(&path).unwrap_err().code, Code::InvalidArgument);
    }

    #[test]
    fn a_preface_is_one_short_line() {
        let token = EgressKey::generate().unwrap().mint(RevisionId::mint());
        for flavour in [Flavour::Proxy, Flavour::Http, Flavour::Tls] {
            let preface = Preface { token: token.clone(), flavour, port: 65535 };
            let line = preface.line();
            assert!(line.expose().len() <= PREFACE_MAX && line.expose().ends_with('\n'));
            assert_eq!(Preface::parse(line.expose().as_bytes()), Some(preface));
        }
        for bad in [
            "HOISTWAY-EGRESS/2 t proxy 1",
            "HOISTWAY-EGRESS/1 t proxy",
            "HOISTWAY-EGRESS/1 t proxy 0",
            "HOISTWAY-EGRESS/1 t proxy +1",
            "HOISTWAY-EGRESS/1 t proxy 1 x",
            "HOISTWAY-EGRESS/1 t proxy 1\r\n",
            "HOISTWAY-EGRESS/1 t socks 1",
            "GET / HTTP/1.1",
            "",
        ] {
            assert_eq!(Preface::parse(bad.as_bytes()), None, "{bad}");
        }
    }
}
