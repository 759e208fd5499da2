//! Who may do what: writing takes a key, reading takes a key unless it comes from this very machine.
//!
//! A loopback connection is not a person's word: a reverse proxy or a web page in a browser can make one for somebody
//! else. So a request counts as local only when nothing says that it was forwarded and its `Host` is an address or
//! `localhost`, which no foreign DNS name can be made to look like.
//!
//! Docker learns how to authenticate from its first `GET /v2/` alone and never sends credentials if that was answered
//! 200. A registry that lets local readers in without a key and takes pushes from the same machine therefore has to
//! challenge there, in a way that a client without credentials can satisfy: a Bearer challenge, whose token anybody
//! local may fetch for reading and the key's owner for writing too. Everyone else gets the Basic challenge, which
//! needs no address of ours and so works behind any proxy.

use super::{
    error::{ErrorCode, Refusal},
    route::Target,
};
use axum::extract::ConnectInfo;
use base64::{
    Engine,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use hoistway_kit::time;
use hoistway_model::{Error, Result};
use http::{HeaderMap, HeaderValue, header, request::Parts};
use ring::{
    hmac,
    rand::{SecureRandom, SystemRandom},
};
use serde_json::{Value, json};
use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

/// Tells whether a text is a key; it compares in constant time.
pub type VerifyKey = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// What our own tokens begin with.
const TOKEN_PREFIX: &str = "hwr_";
const TOKEN_SECONDS: i64 = 3600;
const CHALLENGE: &str = "Basic realm=\"hoistway\"";

/// Decides who a request is from.
pub struct Authenticator {
    verify: VerifyKey,
    anonymous_loopback_reads: bool,
    /// Signs tokens; a restart forgets it, and clients fetch another token then.
    signer: hmac::Key,
}

impl Authenticator {
    /// Credentials are what `verify` says yes to: an API key or a service token.
    pub fn new(verify: VerifyKey, anonymous_loopback_reads: bool) -> Result<Self> {
        let mut key = [0; 32];
        SystemRandom::new()
            .fill(&mut key)
            .map_err(|_| Error::internal("reading random bytes", "the system's random number generator failed"))?;
        Ok(Self { verify, anonymous_loopback_reads, signer: hmac::Key::new(hmac::HMAC_SHA256, &key) })
    }

    /// Who sent this request. A credential that is presented must be good, also where none is needed.
    pub(super) fn identify(&self, request: &Parts) -> Result<Caller, Refusal> {
        if request.headers.contains_key(header::ORIGIN) {
            return Err(Refusal::new(ErrorCode::Denied, "the registry is not for web pages (Origin header)"));
        }
        let mut caller = Caller { rights: None, presented: false, local_host: self.local_host(request) };
        match credential(&request.headers) {
            Credential::None => {}
            Credential::Bearer(text) if text.starts_with(TOKEN_PREFIX) => {
                caller.presented = true;
                caller.rights = self.read_token(&text);
            }
            Credential::Bearer(text) | Credential::Key(text) if (self.verify)(&text) => {
                caller.presented = true;
                caller.rights = Some(Rights::Write);
            }
            _ => caller.presented = true,
        }
        if caller.presented && caller.rights.is_none() {
            return Err(caller.challenge("the credential is not valid", None));
        }
        // A token for reading is worth what being local is worth: nothing to a caller from elsewhere.
        if caller.rights == Some(Rights::Read) && caller.local_host.is_none() {
            caller.rights = None;
        }
        Ok(caller)
    }

    /// The answer of the token endpoint.
    pub(super) fn token(&self, caller: &Caller) -> Result<Value, Refusal> {
        let rights = match caller.rights {
            Some(rights) => rights,
            None if caller.local_host.is_some() => Rights::Read,
            None => return Err(caller.challenge("a token needs an API key", None)),
        };
        let token = self.write_token(rights);
        Ok(json!({ "token": token, "access_token": token, "expires_in": TOKEN_SECONDS,
            "issued_at": time::rfc3339(time::now_ms()) }))
    }

    /// The `Host` of a request that comes from this very machine, if it does.
    fn local_host(&self, request: &Parts) -> Option<String> {
        let ConnectInfo(peer) = request.extensions.get::<ConnectInfo<SocketAddr>>()?;
        let forwarded = ["forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via"];
        let direct = !forwarded.iter().any(|name| request.headers.contains_key(*name));
        let host = match request.headers.get(header::HOST) {
            Some(value) => value.to_str().ok()?.to_owned(),
            None => request.uri.authority()?.to_string(),
        };
        let local = self.anonymous_loopback_reads && direct && peer.ip().to_canonical().is_loopback();
        (local && is_address_or_localhost(&host)).then_some(host)
    }

    fn write_token(&self, rights: Rights) -> String {
        let mut bytes = (time::now_ms() / 1000 + TOKEN_SECONDS).to_be_bytes().to_vec();
        bytes.push(rights as u8);
        let tag = hmac::sign(&self.signer, &bytes);
        bytes.extend_from_slice(tag.as_ref());
        format!("{TOKEN_PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }

    fn read_token(&self, text: &str) -> Option<Rights> {
        let bytes = URL_SAFE_NO_PAD.decode(text.strip_prefix(TOKEN_PREFIX)?).ok()?;
        let (signed, tag) = bytes.split_at_checked(9)?;
        hmac::verify(&self.signer, signed, tag).ok()?;
        let (expires, rights) = signed.split_first_chunk::<8>()?;
        if i64::from_be_bytes(*expires) < time::now_ms() / 1000 {
            return None;
        }
        match rights {
            [r] if *r == Rights::Read as u8 => Some(Rights::Read),
            [r] if *r == Rights::Write as u8 => Some(Rights::Write),
            _ => None,
        }
    }
}

/// What a credential allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rights {
    Read = 1,
    Write = 2,
}

/// Who a request is from.
#[derive(Debug)]
pub(super) struct Caller {
    rights: Option<Rights>,
    presented: bool,
    /// The `Host` it asked for, when it is local.
    local_host: Option<String>,
}

impl Caller {
    /// Lets the caller read.
    pub(super) fn may_read(&self, target: &Target) -> Result<(), Refusal> {
        match self.rights.is_some() || self.local_host.is_some() {
            true => Ok(()),
            false => Err(self.challenge("reading from another machine needs an API key", Some((target, "pull")))),
        }
    }

    /// Lets the caller write.
    pub(super) fn may_write(&self, target: &Target) -> Result<(), Refusal> {
        match self.rights {
            Some(Rights::Write) => Ok(()),
            _ => Err(self.challenge(
                "writing needs an API key: log in with any user name and the key as password",
                Some((target, "pull,push")),
            )),
        }
    }

    /// `GET /v2/`, which clients learn the way to authenticate from; see the beginning of this file.
    pub(super) fn may_ping(&self) -> Result<(), Refusal> {
        match self.rights {
            Some(_) => Ok(()),
            None => Err(self.challenge("authentication required", None)),
        }
    }

    fn challenge(&self, message: &str, scope: Option<(&Target, &str)>) -> Refusal {
        let mut value = HeaderValue::from_static(CHALLENGE);
        if let Some(host) = &self.local_host {
            let mut text = format!("Bearer realm=\"http://{host}/v2/token\",service=\"{host}\"");
            if let Some((repo, actions)) = scope.and_then(|(target, actions)| Some((target.repo()?, actions))) {
                text.push_str(&format!(",scope=\"repository:{repo}:{actions}\""));
            }
            value = HeaderValue::try_from(text).unwrap_or(value);
        }
        Refusal::new(ErrorCode::Unauthorized, message).header(header::WWW_AUTHENTICATE, value)
    }
}

enum Credential {
    None,
    Bearer(String),
    /// The password of Basic authentication; the user name means nothing.
    Key(String),
    Unreadable,
}

fn credential(headers: &HeaderMap) -> Credential {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let (Some(value), more) = (values.next(), values.next()) else { return Credential::None };
    let (Ok(text), None) = (value.to_str(), more) else { return Credential::Unreadable };
    let (scheme, rest) = text.split_once(' ').unwrap_or((text, ""));
    let rest = rest.trim();
    if scheme.eq_ignore_ascii_case("bearer") {
        return Credential::Bearer(rest.to_owned());
    }
    let decoded = STANDARD.decode(rest).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    match decoded.as_deref().and_then(|pair| pair.split_once(':')) {
        _ if !scheme.eq_ignore_ascii_case("basic") => Credential::Unreadable,
        // What some clients send when they have no credential.
        Some(("", "")) => Credential::None,
        Some((_, key)) => Credential::Key(key.to_owned()),
        None => Credential::Unreadable,
    }
}

/// Whether a `Host` cannot have been resolved by anybody's DNS.
fn is_address_or_localhost(host: &str) -> bool {
    let without_port = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = without_port.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(without_port);
    bare.parse::<IpAddr>().is_ok() || bare.eq_ignore_ascii_case("localhost")
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn authenticator() -> Authenticator {
        Authenticator::new(Arc::new(|text| text == "key"), true).unwrap()
    }

    fn request(peer: &str, headers: &[(&str, &str)]) -> Parts {
        let mut builder = http::Request::builder().uri("/v2/");
        for (name, value) in headers {
            builder = builder.header(*name, *value);
        }
        let (mut parts, ()) = builder.body(()).unwrap().into_parts();
        parts.extensions.insert(ConnectInfo(SocketAddr::new(peer.parse().unwrap(), 1)));
        parts
    }

    #[test]
    fn only_a_direct_request_from_this_machine_is_local() {
        let a = authenticator();
        let local =
            |peer: &str, headers: &[(&str, &str)]| a.identify(&request(peer, headers)).unwrap().local_host.is_some();
        for host in ["127.0.0.1:5000", "localhost:5000", "LOCALHOST", "[::1]:5000", "[::1]", "127.0.0.1"] {
            assert!(local("127.0.0.1", &[("host", host)]), "{host}");
        }
        assert!(local("::1", &[("host", "[::1]:1")]) && local("::ffff:127.0.0.1", &[("host", "127.0.0.1:1")]));
        for host in ["evil.example:5000", "127.0.0.1.evil.example", "localhost.evil.example", "", "::1.evil:80"] {
            assert!(!local("127.0.0.1", &[("host", host)]), "{host}");
        }
        assert!(!local("127.0.0.1", &[]));
        assert!(!local("192.0.2.1", &[("host", "127.0.0.1:5000")]));
        assert!(!local("192.0.2.1", &[("host", "127.0.0.1:5000"), ("x-forwarded-for", "127.0.0.1")]));
        assert!(!local("127.0.0.1", &[("host", "127.0.0.1:5000"), ("x-forwarded-for", "127.0.0.1")]));
        let strict = Authenticator::new(Arc::new(|_| false), false).unwrap();
        assert!(strict.identify(&request("127.0.0.1", &[("host", "localhost")])).unwrap().local_host.is_none());
    }

    #[test]
    fn credentials_are_read_in_every_form_clients_send() {
        let a = authenticator();
        let rights = |header: &str| {
            a.identify(&request("192.0.2.1", &[("host", "r.example"), ("authorization", header)])).map(|c| c.rights)
        };
        let basic = |pair: &str| format!("Basic {}", STANDARD.encode(pair));
        for good in ["Bearer key".to_owned(), "bearer  key".to_owned(), basic("any:key"), basic(":key")] {
            assert_eq!(rights(&good).unwrap(), Some(Rights::Write), "{good}");
        }
        assert_eq!(rights(&basic(":")).unwrap(), None);
        for bad in
            ["Bearer ke", "Bearer", "Digest key", "key", "Basic !", &basic("any"), &basic("key:"), "Bearer hwr_x"]
        {
            assert_eq!(rights(bad).unwrap_err().status_code(), 401, "{bad}");
        }
    }

    #[test]
    fn a_token_gives_what_its_owner_had() {
        let a = authenticator();
        let token = |headers: &[(&str, &str)]| {
            let caller = a.identify(&request("127.0.0.1", headers)).unwrap();
            a.token(&caller).unwrap()["token"].as_str().unwrap().to_owned()
        };
        let host = ("host", "127.0.0.1:5000");
        let (reader, writer) = (token(&[host]), token(&[host, ("authorization", "Bearer key")]));
        let with = |peer: &str, token: &str| {
            a.identify(&request(peer, &[host, ("authorization", &format!("Bearer {token}"))])).map(|c| c.rights)
        };
        assert_eq!(with("127.0.0.1", &reader).unwrap(), Some(Rights::Read));
        assert_eq!(with("192.0.2.1", &reader).unwrap(), None);
        assert_eq!(with("192.0.2.1", &writer).unwrap(), Some(Rights::Write));
        let other = authenticator().write_token(Rights::Write);
        for forged in [other, format!("{writer}A"), writer[..20].to_owned()] {
            assert!(with("127.0.0.1", &forged).is_err(), "{forged}");
        }
    }

    #[test]
    fn web_pages_are_refused() {
        let parts = request(
            "127.0.0.1",
            &[("host", "127.0.0.1"), ("origin", "http://127.0.0.1"), ("authorization", "Bearer key")],
        );
        assert_eq!(authenticator().identify(&parts).unwrap_err().status_code(), 403);
    }
}
