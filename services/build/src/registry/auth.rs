//! Who may do what: everything takes a key. An agent is on the same machine as the registry, or calls through something
//! that is, so where a request comes from says nothing.
//!
//! The credential is an API key or a service's token: the password of Basic authentication with any user name, or a
//! Bearer token. Clients learn how to authenticate from the challenge; Basic needs no address of the registry in it,
//! and so works behind any proxy.

use super::error::{ErrorCode, Refusal};
use base64::{Engine, engine::general_purpose::STANDARD};
use hoistway_kit::connection_limits::Connection;
use http::{HeaderMap, HeaderValue, header, request::Parts};
use std::sync::Arc;

/// Tells whose key a text is, if it is one; it compares in constant time.
pub type VerifyKey = Arc<dyn Fn(&str) -> Option<Holder> + Send + Sync>;

/// Whose credential a request has; in its extensions once it is let through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Holder {
    /// The API key's.
    Operator,
    /// Another service of Hoistway, which pulls what agents run.
    Service,
}

const CHALLENGE: HeaderValue = HeaderValue::from_static("Basic realm=\"hoistway\"");

/// Lets a request through if `verify` knows its credential.
pub(super) fn authenticate(verify: &VerifyKey, request: &mut Parts) -> Result<(), Refusal> {
    if request.headers.contains_key(header::ORIGIN) {
        return Err(Refusal::new(ErrorCode::Denied, "the registry is not for web pages (Origin header)"));
    }
    let why = match credential(&request.headers) {
        Credential::Key(key) => match verify(&key) {
            Some(holder) => {
                if let Some(connection) = request.extensions.get::<Connection>() {
                    connection.mark_authenticated(if holder == Holder::Service { "services" } else { "operator" });
                }
                request.extensions.insert(holder);
                return Ok(());
            }
            None => "the credential is not valid",
        },
        Credential::None => "the registry needs an API key: log in with any user name and the key as password",
        Credential::Unreadable => "the credential is not valid",
    };
    Err(Refusal::new(ErrorCode::Unauthorized, why).header(header::WWW_AUTHENTICATE, CHALLENGE))
}

#[derive(Debug, PartialEq, Eq)]
enum Credential {
    None,
    /// A Bearer token, or the password of Basic authentication; the user name means nothing.
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
        return Credential::Key(rest.to_owned());
    }
    let decoded = STANDARD.decode(rest).ok().and_then(|bytes| String::from_utf8(bytes).ok());
    match decoded.as_deref().and_then(|pair| pair.split_once(':')) {
        _ if !scheme.eq_ignore_ascii_case("basic") => Credential::Unreadable,
        // Some clients send this when they have no credential.
        Some(("", "")) => Credential::None,
        Some((_, key)) => Credential::Key(key.to_owned()),
        None => Credential::Unreadable,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn credentials_are_read_in_every_form_clients_send() {
        let read = |value: &str| {
            credential(&HeaderMap::from_iter([(header::AUTHORIZATION, HeaderValue::try_from(value).unwrap())]))
        };
        let basic = |pair: &str| format!("Basic {}", STANDARD.encode(pair));
        for good in ["Bearer key".to_owned(), "bearer  key".to_owned(), basic("any:key"), basic(":key")] {
            assert_eq!(read(&good), Credential::Key("key".to_owned()), "{good}");
        }
        assert_eq!(read(&basic(":")), Credential::None);
        assert_eq!(credential(&HeaderMap::new()), Credential::None);
        for bad in ["Digest key", "key", "Basic !", &basic("any")] {
            assert_eq!(read(bad), Credential::Unreadable, "{bad}");
        }
        let mut twice = HeaderMap::new();
        twice.append(header::AUTHORIZATION, HeaderValue::from_static("Bearer key"));
        twice.append(header::AUTHORIZATION, HeaderValue::from_static("Bearer key"));
        assert_eq!(credential(&twice), Credential::Unreadable);
    }
}
